"""What an export consists of: the same session makes the same bytes, names are masked, it verifies, and who gets it is written first."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from edge.evidence import bundle
from edge.export import Exports, Laid, NotExportable, Order, as_json, from_json, lay_out
from edge.exported.copying import write_folder, write_zip
from edge.exported.tables import Listed
from edge.exported.zip64 import Archive
from edge.room import Refusal
from edge.sessions import events as e
from edge.sessions.machine import State
from edge.web.local import build_local
from tests.evidence.conftest import SESSION, authority, make_authority, make_exam

if TYPE_CHECKING:
    from tests.conftest import Hall
    from tests.evidence.conftest import Exam

__all__ = ["authority", "make_authority", "make_exam"]

HERE = "S20261126-KD01-R01-01"            # the hall's session; the exam's is another one, of the same evening
MASKED, FULL = Order(SESSION, "A001", "zip"), Order(SESSION, "A001", "zip", full=True, reason="法院调取", pin="2001")
PEOPLE = {f"C000{n}": Listed(name, number, f"准考 {number}", seat) for n, name, number, seat in (
    (1, "样例甲", "000000199001010018", "01"), (2, "阿依·样例", "000000199512250064", "02"), (3, "=样例丙", "000000199206300035", "03"),
    (4, "样例</script><b>", "000000198502150022", None))}


def nothing(*_: int) -> None:
    """No pace, no progress."""


def contents(exam: Exam) -> bundle.Contents:
    return bundle.Contents(manifests=exam.manifests, receipts=exam.receipts, session_open=exam.open, open_receipt=exam.open_receipt,
                           root_pem=exam.authority.root_pem, rows=exam.rows)


def archive_of(exam: Exam, order: Order = MASKED, people: dict[str, Listed] = PEOPLE) -> Archive:
    return lay_out(order, contents(exam), people, exam.footage).archive


def data_of(archive: Archive, name: str) -> bytes:
    return next(m.data or b"" for m in archive.members if m.name == name)


def table_of(archive: Archive, name: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data_of(archive, name).decode("utf-8-sig"))))


def test_a_zip_and_a_folder_of_a_session_pass(make_exam: Callable[..., Exam], tmp_path: Path) -> None:
    exam = make_exam(hole="declared")
    write_zip(archive_of(exam), tmp_path / "s.zip", nothing, nothing)
    with zipfile.ZipFile(tmp_path / "s.zip") as read:
        assert read.testzip() is None
        read.extractall(tmp_path / "unzipped")
    assert write_folder(archive_of(exam).members, tmp_path / "folder", nothing, nothing) == []
    for folder in (tmp_path / "unzipped", tmp_path / "folder"):
        report = bundle.verify(folder, exam.authority.root_pem)
        assert (report.verdict, report.first, report.had_receipts) == ("PASS WITH DECLARED GAPS", "", True)
        assert {"index.html", "VERIFY.md", "attendance.csv", "incidents.csv", "journal.jsonl", "cam-front.m3u", "SHA256SUMS"} \
            <= {path.name for path in folder.iterdir()}
        assert {path.name.partition("-")[0] for path in (folder / "certificates").iterdir()} == {"device", "platform"}


def test_the_same_session_makes_the_same_bytes(make_exam: Callable[..., Exam], tmp_path: Path) -> None:
    exam = make_exam()
    for name in ("a.zip", "b.zip"):
        write_zip(archive_of(exam, replace(MASKED, by=name)), tmp_path / name, nothing, nothing)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    exam.fact(e.FootageViewed, 500, by="A001", stream="cam-front")
    exam.fact(e.SessionExported, 501, by="A001", files=1, bytes=1)
    assert archive_of(exam).id == archive_of(exam, MASKED).id, "that somebody looked or took a copy changes nothing"
    first = archive_of(exam).id
    assert archive_of(exam, FULL).id != first and archive_of(exam, people={}).id != first


def test_names_and_numbers_are_masked_unless_somebody_signed(make_exam: Callable[..., Exam]) -> None:
    exam = make_exam()
    masked = archive_of(exam)
    text = b"".join(m.data or b"" for m in masked.members).decode()
    listed = "".join(data_of(masked, name).decode() for name in ("attendance.csv", "incidents.csv", "index.html"))
    for person in PEOPLE.values():
        assert person.number not in listed and person.name not in listed
    assert PEOPLE["C0002"].number not in text, "nor anywhere else"
    rows = table_of(masked, "attendance.csv")
    assert rows[1][:5] == ["01", "样*甲", "****0018", "准考 ****0018", "admitted"]
    assert [row[4] for row in rows[1:]] == ["admitted", "admitted", "refused", "absent"]
    whole = table_of(archive_of(exam, FULL), "attendance.csv")
    assert whole[1][:4] == ["01", "样例甲", "000000199001010018", "准考 000000199001010018"]
    assert whole[3][1] == "'=样例丙", "no cell is a formula"
    nobody = table_of(archive_of(exam, people={}), "attendance.csv")
    assert {row[1] for row in nobody[1:]} == {"C0001", "C0002", "C0003", "C0004"}, "names that were purged are left out, people are not"


def test_incidents_say_what_was_out_of_the_ordinary(make_exam: Callable[..., Exam]) -> None:
    rows = table_of(archive_of(make_exam(hole="declared")), "incidents.csv")[1:]
    assert [row[2] for row in rows] == [
        "WaiverGranted", "AdmissionRefused", "AdmissionRefused", "IncidentReported", "StreamLost", "StreamBack", "IncidentReported",
        "IncidentSettled", "StreamImpaired", "StreamRestored", "ExamEnded", "GapDeclared"]
    assert rows[2][3:5] == ["'=**丙", "E-CARD-EXPIRED"] and rows[10][6] == "提前交卷"
    assert rows[3][3:5] == ["样*甲", "V1-03"] and rows[3][6] == "1: 2026-11-26 14:01:01, 样*甲 交头接耳"
    assert rows[7][4:7] == ["confirmed", "T002, T001", "1: refused"]
    assert "样*甲 ****0018 说校时服务器停机" in rows[0][6], "names and numbers in what somebody wrote are masked as well"


def test_the_page_holds_its_facts_and_no_address(make_exam: Callable[..., Exam]) -> None:
    page = data_of(archive_of(make_exam(hole="declared"), FULL), "index.html").decode()
    assert "样例</script>" not in page and "\\u003c/script>" in page, "a name cannot end the script"
    assert re.findall(r"https?://[^\s\"']+", page) == ["http://www.w3.org/2000/svg"], "a name of a format, never asked for"
    facts = json.loads(re.search(r"const facts = (\{.*\});\n", page)[1])  # type: ignore[index]
    assert [s["id"] for s in facts["streams"]] == ["cam-front", "mic"] and len(facts["streams"][0]["segments"]) == 5
    assert [gap[2] for gap in facts["streams"][0]["gaps"]] == ["camera-lost"]


def test_what_is_missing_or_altered_is_said(make_exam: Callable[..., Exam], tmp_path: Path) -> None:
    exam = make_exam()
    gone, spoilt = sorted((exam.footage / "cam-front").glob("*.mp4"))[:2]
    gone.unlink()
    spoilt.write_bytes(b"shorter")
    laid = lay_out(MASKED, contents(exam), PEOPLE, exam.footage)
    assert len(laid.missing) == 1 and laid.missing[0].startswith("segments/cam-front/000001-")
    assert laid.missing[0] in data_of(laid.archive, "MISSING.txt").decode()
    altered = write_folder(laid.archive.members, tmp_path / "out", nothing, nothing)
    assert len(altered) == 1 and altered[0].startswith("segments/cam-front/000002-")
    report = bundle.verify(tmp_path / "out", exam.authority.root_pem)
    assert report.verdict == "FAIL" and report.first.startswith("missing segments/cam-front/000001-")


def test_what_is_told_over_the_socket_makes_the_same_archive(make_exam: Callable[..., Exam]) -> None:
    laid = lay_out(MASKED, contents(make_exam()), PEOPLE, Path("/nowhere"))
    told: dict[str, Any] = json.loads(json.dumps(as_json(laid)))
    assert from_json(MASKED, told).archive.id == laid.archive.id


# ---- the room's part ---------------------------------------------------------------------------------------------------

def facts(hall: Hall, session: str) -> list[e.Event]:
    return [r.event for r in hall.room.events(session) if isinstance(r.event, e.ExportBegun | e.SessionExported)]


async def test_who_gets_it_is_written_and_the_session_held_before_the_first_byte(
        hall: Hall, make_exam: Callable[..., Exam]) -> None:
    exam = make_exam()
    await hall.to(State.SEALED)
    exports = Exports(hall.room, exam.footage, exam.authority.root_pem)
    laid = replace(lay_out(MASKED, contents(exam), PEOPLE, exam.footage), order=Order(HERE, "A001", "zip"))
    begun = await exports.begin(laid)
    now = hall.clock.now().utc_us
    assert facts(hall, HERE) == [e.ExportBegun(
        at=hall.clock.now(), session=HERE, by="A001", form="zip", people="masked", export_id=laid.archive.id,
        files=len(laid.archive.members), bytes=laid.archive.size)]
    assert hall.catalog.reserved_sessions(now) == {HERE} and hall.catalog.reserved_sessions(now + 25 * 3600 * 10**6) == frozenset()
    await exports.end(HERE, "A001", begun.ticket, 3, 4)
    assert facts(hall, HERE)[1:] == [e.SessionExported(at=hall.clock.now(), session=HERE, by="A001", files=3, bytes=4)]
    assert hall.catalog.reserved_sessions(now) == frozenset()


@pytest.mark.parametrize(("changed", "word"), [
    ({"by": "T001", "pin": "1001"}, "auditor-only"), ({"by": "local"}, "auditor-only"), ({"reason": " "}, "reason-needed"),
    ({"pin": "9999"}, "wrong-pin"), ({"session": "S20261126-KD01-R01-09"}, "unknown-session")])
async def test_names_leave_for_an_auditor_who_signs_and_says_why_only(
        hall: Hall, make_exam: Callable[..., Exam], changed: dict[str, str], word: str) -> None:
    exam = make_exam()
    await hall.to(State.SEALED)
    exports = Exports(hall.room, exam.footage, exam.authority.root_pem)
    laid = lay_out(FULL, contents(exam), PEOPLE, exam.footage)
    with pytest.raises(Refusal) as refused:
        await exports.begin(replace(laid, order=replace(FULL, **{"session": HERE, **changed})))  # type: ignore[arg-type]
    assert refused.value.word == word and facts(hall, HERE) == []
    assert hall.catalog.reserved_sessions(0) == frozenset(), "nothing is held for what was refused"
    await exports.begin(replace(laid, order=replace(FULL, session=HERE)))
    begun = facts(hall, HERE)[0]
    assert isinstance(begun, e.ExportBegun) and (begun.people, begun.reason) == ("full", "法院调取")


async def test_a_command_is_told_what_leaves_and_says_when_it_has(hall: Hall, make_exam: Callable[..., Exam], tmp_path: Path) -> None:
    """Over the room's local socket: laid out and written down, let go by the other side, ended; or refused in words."""
    exam = make_exam()
    await hall.to(State.SEALED)

    class OfTheExam(Exports):
        def _lay(self, order: Order) -> Laid:
            if order.reason == "none":
                raise NotExportable("there is no manifest yet")
            return lay_out(order, contents(exam), PEOPLE, exam.footage)

    async def no_folder(session: str, to: Path, by: str) -> bundle.Report:
        raise NotImplementedError

    local = build_local(hall.room, no_folder, OfTheExam(hall.room, exam.footage, exam.authority.root_pem))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(local), base_url="http://room") as http:
        order = Order(HERE, "local", "zip")
        answer = await http.post(f"/sessions/{HERE}/files/export/begin", json=order.told())
        laid = from_json(order, answer.json())
        assert hall.catalog.reserved_sessions(0) == {HERE} and len(facts(hall, HERE)) == 1
        write_zip(laid.archive, tmp_path / "s.zip", nothing, nothing)
        write_zip(archive_of(exam), tmp_path / "same.zip", nothing, nothing)
        assert (tmp_path / "s.zip").read_bytes() == (tmp_path / "same.zip").read_bytes()
        await http.post(f"/sessions/{HERE}/files/export/end", json={"by": "local", "ticket": laid.ticket, "files": 3, "bytes": 4})
        assert hall.catalog.reserved_sessions(0) == frozenset() and len(facts(hall, HERE)) == 2
        again = from_json(order, (await http.post(f"/sessions/{HERE}/files/export/begin", json=order.told())).json())
        await http.post(f"/sessions/{HERE}/files/export/end", json={"by": "local", "ticket": again.ticket})
        assert hall.catalog.reserved_sessions(0) == frozenset() and len(facts(hall, HERE)) == 3, "it came to nothing"
        for changed, word in (({"reason": "none"}, "not-exportable"), ({"full": True}, "auditor-only")):
            refused = await http.post(f"/sessions/{HERE}/files/export/begin", json={**order.told(), **changed})
            assert refused.status_code == 409 and refused.json()["refusal"] == word
