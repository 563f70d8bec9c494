"""A chief's browser at the page of a running room, for test_inside: signs in, shows lists from files, has them taken. Runs beside the unit.

`far_page.py SESSION`; a JSON line for each file: what the page said. Standard library, and openpyxl to make a sheet.
"""

from __future__ import annotations

import io
import json
import re
import sys
import time
import uuid
import zipfile
from http.cookiejar import CookieJar
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, HTTPRedirectHandler, Request, build_opener

from openpyxl import Workbook

ROOM = "http://127.0.0.1:8000"
LINES = ("姓名,证件号码,准考证号,座位号,人员类别", "样例甲,000000199001010018,A001,01,特种作业人员",
         "样例乙,000000198502150022,A002,02,一般从业人员",
         "样例丙,000000199206300035,A003,03,一般从业人员")
SIGNED = {"pin": "1001", "second": "T002", "second_pin": "1002", "reason": "平台断网，名单由报名系统导出"}


class Stay(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


browser = build_opener(Stay, HTTPCookieProcessor(CookieJar()))


def ask(path: str, data: bytes | None = None, kind: str = "application/x-www-form-urlencoded") -> tuple[int, str]:
    request = Request(ROOM + path, data=data, headers={"Origin": ROOM, "Content-Type": kind})
    try:
        with browser.open(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as other:
        return other.code, other.read().decode()


def sheet() -> bytes:
    book, out = Workbook(), io.BytesIO()
    for line in LINES:
        book.active.append(line.split(","))
    book.save(out)
    return out.getvalue()


def swollen(data: bytes) -> bytes:
    """The same sheet with three million cells behind it: half a megabyte that unpacks to 150."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            more = b'<row><c t="inlineStr"><is><t>x</t></is></c></row>' * 3_000_000 if name == "xl/worksheets/sheet1.xml" else b""
            new.writestr(name, old.read(name).replace(b"</sheetData>", more + b"</sheetData>"))
    return out.getvalue()


def bring(session: str, name: str, data: bytes) -> dict[str, object]:
    """Show the file; if the page offers to take it, two sign."""
    edge = uuid.uuid4().hex
    head = f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
    form = head.encode() + data + f"\r\n--{edge}--\r\n".encode()
    status, page = ask(f"/s/{session}/import", form, f"multipart/form-data; boundary={edge}")
    digest, words = re.search(r'name="digest" value="([0-9a-f]+)"', page), re.search(r"新增 \d+，移除 \d+，变更 \d+，不变 \d+", page)
    taken = ask(f"/s/{session}/import/confirm", urlencode({"digest": digest[1], **SIGNED}).encode())[0] if digest else 0
    return {"file": name, "status": status, "differences": words[0] if words else "", "taken": taken, "too_much": "展开后超过" in page}


def main(session: str) -> None:
    login = ask("/login", urlencode({"staff_id": "T001", "password": "chief-password"}).encode())[0]
    until = time.monotonic() + 60
    while (there := ask(f"/s/{session}/import")[0]) != 200 and time.monotonic() < until:       # until the platform's plan is here
        time.sleep(0.2)
    print(json.dumps({"login": login, "form": there}))
    for name, data in (("list.csv", "\n".join(LINES[:3]).encode("gb18030")), ("list.xlsx", sheet()), ("swollen.xlsx", swollen(sheet()))):
        print(json.dumps(bring(session, name, data)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
