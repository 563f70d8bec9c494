"""The dossier for paper: what stands in it and what never does, its pictures and its PDF, and the three keys by which it is found."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from edge.sessions import events as e
from edge.web import paper
from tests.web.test_browser import Visitor, until

if TYPE_CHECKING:
    from tests.web.conftest import Hall, MakeFilm, Served

SESSION, LATER = "S20261126-KD01-R01-01", "S20261126-KD01-R01-02"
NUMBER, NAME, EMPLOYER, CODE = "000000199001010018", "样例甲", "样例化工(虚构)有限公司", "91000000MA0000000X"
PINS = {"T001": "1001", "T002": "1002"}


async def planned(hall: Hall, session: str = SESSION, class_no: str = "样例01班") -> None:
    """A session of a class, with people whom an enterprise sent."""
    await hall.plan(session)
    fact = hall.room.state.sessions[session].plan
    body = {"session_id": session, "class_no": class_no, "training_org": "样例培训机构", "trade": ["1.2", "2.1"]}
    await hall.room.plan(replace(fact, plan_sha256=session[-2:] * 32), json.dumps(body))
    await hall.roster(session)
    roster = hall.room.rosters[session]
    sent = tuple(replace(c, employer=EMPLOYER, employer_uscc=CODE) if c.name != "样例丙" else c for c in roster.candidates)
    await hall.room.accept_roster(e.RosterAccepted(at=hall.clock.now(), session=session, version=2, count=len(sent),
                                                   roster_sha256="ac" * 32, source="platform"), replace(roster, version=2, candidates=sent))


async def test_r44_the_dossier_holds_plan_people_notes_footage_proof_and_keeping(hall: Hall) -> None:
    await planned(hall)
    await hall.to("checkin")
    await hall.room.admit_by_hand(SESSION, "C-0022", "T002", "E-NO-CARD")
    for staff in PINS:
        await hall.room.sign_doubt(SESSION, "C-0022", staff, PINS[staff])
    await hall.room.settle_doubt(SESSION, "C-0022", "T001", "1001", "cleared")
    await hall.segment("front", 0, hall.clock.now(), 10)
    await hall.to("sealed")
    await hall.receipt()
    async with hall.browser("A001") as auditor:
        page = await auditor.get(f"/archive/{SESSION}/dossier")
        text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page.text))
        for word in ("样例01班", "样例培训机构", "1.2、2.1", NAME, EMPLOYER, "样例主考", "例外入场 · 样例乙", "存疑已核实", "缺口：前摄像",
                     "2033-05-25", "cd" * 32, "ef" * 32, "本次打印未校验", "档案管理员"):
            assert word in text, word
        assert NUMBER not in page.text and "0018" in text, "of a number the last four"
        verified = await auditor.post(f"/archive/{SESSION}/dossier")
        assert "PASS WITH DECLARED GAPS" in verified.text
    viewed = [(r.event.by, r.event.stream, r.event.reason) for r in hall.room.events(SESSION) if isinstance(r.event, e.FootageViewed)]
    assert viewed == [("A001", "front", "dossier")] * 2, "once for each print; of a camera with nothing recorded there is no picture"


async def test_a_session_that_was_only_planned_has_a_dossier_too(hall: Hall) -> None:
    await hall.plan()
    async with hall.browser("A001") as auditor:
        page = await auditor.get(f"/archive/{SESSION}/dossier")
        assert page.status_code == 200 and "校验后显示" not in page.text
        assert (await auditor.get("/archive/S20261126-KD01-R01-77/dossier")).status_code == 404


async def test_a_class_has_its_own_title(hall: Hall) -> None:
    await planned(hall)
    fact = hall.room.state.sessions[SESSION].plan
    await hall.room.plan(replace(fact, session_kind="training_class", plan_sha256="dd" * 32), "{}")
    async with hall.browser("A001") as auditor:
        assert "安全生产培训档案" in (await auditor.get(f"/archive/{SESSION}/dossier")).text


async def test_r45_r46_one_session_under_three_keys(hall: Hall) -> None:
    await planned(hall)
    await planned(hall, LATER, "样例02班")
    async with hall.browser("A001") as auditor:
        async def sessions(by: str, asked: str) -> list[str]:
            answer = await auditor.post("/archive/find", data={"by": by, "asked": asked})
            assert answer.status_code == 200 and NUMBER not in answer.text
            return re.findall(r'href="/archive/(S[^"/]*)"', answer.text)

        assert await sessions("class", "样例01班") == [SESSION]
        assert set(await sessions("person", NUMBER)) == set(await sessions("person", NAME)) == {SESSION, LATER}
        both = await sessions("employer", EMPLOYER)
        assert both == await sessions("employer", CODE)
        assert both.count(SESSION) == both.count(LATER) == 4, "whom it sent, session by session"
        for by, asked in (("class", "样例"), ("employer", "样例化工"), ("person", "0018"), ("person", "样例"), ("other", "x"),
                          ("class", "")):
            assert await sessions(by, asked) == [], "whole keys only: nobody leafs through people"


async def test_a_picture_comes_from_the_recorded_file(hall: Hall, make_film: MakeFilm) -> None:
    await hall.to("checkin")
    make_film(hall.desk.footage, 6, 128)
    files = sorted(hall.desk.footage.rglob("front/**/*.mp4"))
    await hall.segment("front", 0, hall.clock.now(), 5, body=files[0].read_bytes())
    await hall.segment("front", 1, hall.clock.now().plus(5_000_000), 5)         # bytes that are no film
    async with hall.browser("A001") as auditor:
        page = await auditor.get(f"/archive/{SESSION}/dossier")
        addresses = re.findall(r'src="(/archive/[^"]*\.jpg)"', page.text)
        assert len(addresses) == 2
        good, bad = [await auditor.get(each) for each in addresses]
        assert good.headers["content-type"] == "image/jpeg" and good.content.startswith(b"\xff\xd8\xff")
        assert bad.status_code == 404
        assert (await auditor.get(f"/archive/{SESSION}/picture/front/7.jpg")).status_code == 404
        assert (await auditor.get(f"/archive/{SESSION}/picture/front/x.jpg")).status_code == 404


def inside(pdf: bytes) -> bytes:
    """The file with its packed objects unpacked."""
    packed = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    return pdf + b"".join(zlib.decompressobj().decompress(each) for each in packed if each.startswith(b"x"))


async def test_the_pdf_is_a4_and_carries_its_chinese_font_and_pictures(hall: Hall, make_film: MakeFilm) -> None:
    await planned(hall)
    await hall.to("checkin")
    make_film(hall.desk.footage, 6, 128)
    await hall.segment("front", 0, hall.clock.now(), 5, body=next(hall.desk.footage.rglob("front/**/*.mp4")).read_bytes())
    await hall.to("sealed")
    async with hall.browser("A001") as auditor:
        answer = await auditor.post(f"/archive/{SESSION}/dossier.pdf")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/pdf", answer.text[:500]
    assert f'filename="{SESSION}.pdf"' in answer.headers["content-disposition"]
    assert answer.content.startswith(b"%PDF-") and answer.content.rstrip().endswith(b"%%EOF")
    if folder := os.environ.get("EDGE_SHOTS"):
        (Path(folder) / "dossier.pdf").write_bytes(answer.content)
    pdf = inside(answer.content)
    assert re.search(rb"/FontName */[A-Z]{6}\+[^ ]*CJK", pdf) and b"/FontFile" in pdf, "a subset of the Chinese font is in it"
    assert b"/DCTDecode" in pdf, "the picture is in it"
    assert re.search(rb"/MediaBox *\[0 0 595[.\d]* 841[.\d]*\]", pdf)


def printers() -> list[int]:
    """The printing programs that this process has started, by pid."""
    mine = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    return [int(pid) for each in mine for pid in each.read_text().split() if b"edge.web.paper" in Path(f"/proc/{pid}/cmdline").read_bytes()]


async def test_a_pdf_that_fails_is_a_refusal_in_words(hall: Hall) -> None:
    """The printing program is killed, as the kernel does where memory runs out."""
    await hall.to("checkin")
    async with hall.browser("A001") as auditor:
        asked = asyncio.create_task(auditor.post(f"/archive/{SESSION}/dossier.pdf"))
        while not (found := printers()):
            assert not asked.done(), "printed before anybody could kill it"
            await asyncio.sleep(0.005)
        os.kill(found[0], signal.SIGKILL)
        answer = await asked
    assert answer.status_code == 409 and "PDF 没有生成" in answer.text and "打印本页" in answer.text


async def test_a_page_that_takes_too_long_is_given_up_and_its_program_ended() -> None:
    with pytest.raises(paper.NotPrinted, match="too-long"):
        await paper.to_pdf("<p>x</p>" * 20_000, within_s=0.5)
    assert printers() == []


async def test_a_page_for_paper_fetches_nothing(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("样例")
    pdf = await paper.to_pdf(f'<h1>x</h1><img src="file://{secret}"><link rel="attachment" href="file://{secret}"><img src="http://127.0.0.1:9/">')
    assert pdf.startswith(b"%PDF-") and b"EmbeddedFile" not in pdf
    with pytest.raises(paper.NotPrinted):
        await paper.to_pdf("x" * (paper.MOST_BYTES + 1))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


def test_the_pages_look_right(chromium: Browser, served: Served, make_film: MakeFilm) -> None:
    hall, do = served.hall, served.do
    do(planned(hall))
    do(hall.to("checkin"))
    make_film(hall.desk.footage, 6, 128)
    do(hall.segment("front", 0, hall.clock.now(), 5, body=next(hall.desk.footage.rglob("front/**/*.mp4")).read_bytes()))
    do(hall.to("sealed"))
    auditor = Visitor(chromium, served, "A001")
    page = auditor.page
    auditor.go("/archive")
    auditor.looks_right()
    page.select_option("#by", "person")
    page.fill("#asked", NUMBER)
    page.locator("form[action$='/find'] button").click()
    expect(page.locator("main")).to_contain_text(NAME)
    assert NUMBER not in page.url and NUMBER not in page.content()
    auditor.looks_right()
    page.locator("a[href$='/dossier']").first.click()
    expect(page.locator("h1")).to_contain_text("一期一档")
    until(page, "[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    seen = [r for r in hall.room.events(SESSION) if isinstance(r.event, e.FootageViewed)]
    page.wait_for_timeout(1500)
    assert [r for r in hall.room.events(SESSION) if isinstance(r.event, e.FootageViewed)] == seen, "an open page asks for itself no more"
    auditor.looks_right()
    if folder := os.environ.get("EDGE_SHOTS"):
        page.screenshot(path=f"{folder}/dossier-paper.png", full_page=True)
    page.locator("form[action$='/dossier'] button").click()
    expect(page.locator("main")).to_contain_text("PASS")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 718, "height": 1000})          # A4 less its margins
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    auditor.close()
