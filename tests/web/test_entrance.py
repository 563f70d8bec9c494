"""The entrance and the class: groups that add up, search by hand, readers that type, sign-in of a class, sheets for paper, tones."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import re
import time
import wave
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

import edge.web
from edge.clock import US
from edge.evidence import manifest
from edge.idcheck.reader import ReaderStatus
from edge.sessions import events as e
from edge.sessions.machine import Session
from edge.sessions.roster import Candidate, Roster
from edge.storage.catalog import Person
from edge.web import attendance, search, views
from edge.web.attendance import Group

if TYPE_CHECKING:
    from tests.web.conftest import Hall

SESSION = "S20261126-KD01-R01-01"
S = f"/s/{SESSION}"
HTMX = {"HX-Request": "true"}
FIRST, STRANGER, UNSEATED = ("样例甲", "000000199001010018"), ("样例辛", "000000196603050099"), ("样例䶮", "000000198810080070")
FULL = re.compile(r"[0-9]{17}[0-9X]")
SOUNDS = Path(str(edge.web.__file__)).parent / "static" / "sounds"


def number_of(order: int) -> str:
    """An invented person's number with a right check character (region 000000, ISO 7064 MOD 11-2)."""
    body = f"00000019900101{order:03d}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return body + "10X98765432"[sum(int(d) * w for d, w in zip(body, weights, strict=True)) % 11]


async def plan_class(hall: Hall, people: int = 50, start_us: int | None = None) -> None:
    """A training class of so many, planned for now."""
    start, body = hall.clock.now().utc_us if start_us is None else start_us, json.dumps({"class": SESSION})
    staff = {"T001": "chief", "T002": "proctor", "T003": "proctor"}
    await hall.room.plan(e.SessionPlanned(
        at=hall.clock.now(), session=SESSION, plan_id="P" + SESSION[1:], session_kind="training_class", title="低压电工初训班",
        scheduled_start_us=start, duration_min=90, staff=staff, min_proctors=2, late_cutoff_min=30, checkin_open_min=30,
        retention_policy="RP-CLASS-3Y", plan_sha256=hashlib.sha256(body.encode()).hexdigest(), source="platform"), body)
    await hall.roster(people=[(f"学员{order:02d}", number_of(order), None) for order in range(1, people + 1)])


def said(hall: Hall) -> str:
    """The door's last word."""
    assert hall.room.last_verdict is not None
    return str(hall.room.last_verdict.code)


async def post(client: httpx.AsyncClient, path: str, **fields: str) -> httpx.Response:
    return await client.post(path, data={"x": "y", **fields}, headers=HTMX)


@pytest.fixture
async def chief(hall: Hall) -> AsyncIterator[httpx.AsyncClient]:
    async with hall.browser("T001") as client:
        yield client


# ---- groups ---------------------------------------------------------------------------------------------------------------

async def test_u5_the_groups_add_up_to_the_list_whatever_happens_at_the_door(hall: Hall) -> None:
    """200 random deeds at the door: cards of the listed, of strangers, expired, manual checks, doubts, corrections, off-roster."""
    await hall.to("checkin")
    room, dice = hall.room, random.Random(20261126)
    people = [*hall.room.rosters[SESSION].candidates]
    for turn in range(200):
        await hall.sim.pass_time(dice.randint(1, 40))
        session, who = room.state.sessions[SESSION], dice.choice(people)
        inside = who.candidate_id in session.admitted
        deed = dice.randrange(6)
        if deed == 0:
            await hall.card(who.name, who.number)
        elif deed == 1:
            await hall.card(*STRANGER)
        elif deed == 2 and not inside:
            await room.report(e.AdmissionRefused(at=hall.clock.now(), session=SESSION, code="E-CARD-EXPIRED",
                                                 candidate_id=who.candidate_id))
        elif deed == 3 and not inside:
            await room.report(e.CandidateAdmitted(at=hall.clock.now(), session=SESSION, candidate_id=who.candidate_id,
                                                  subject=room.subject(who.number), method="manual", exception="E-NO-CARD", by="T002"))
        elif deed == 4 and inside:
            await room.report(e.AttendanceCorrected(at=hall.clock.now(), session=SESSION, candidate_id=who.candidate_id, result="absent",
                                                    by="T001", reason="turn"))
        elif deed == 5 and inside and (doubt := session.admitted[who.candidate_id].doubt) and doubt.open:
            await room.report(e.DoubtSettled(at=hall.clock.now(), session=SESSION, candidate_id=who.candidate_id, outcome="escalated",
                                             by="T001", reason="turn"))
        found = attendance.counts(room, room.state.sessions[SESSION])
        assert found.expected == len(people) == found.admitted + found.doubtful + found.refused + found.missing, turn
        grouped = [line.group for line in attendance.lines(room, room.state.sessions[SESSION])]
        assert [grouped.count(g) for g in Group] == [found.admitted, found.doubtful, found.refused, found.missing]
    assert {line.group for line in attendance.lines(room, room.state.sessions[SESSION])} >= {Group.DOUBTFUL}
    assert attendance.counts(room, room.state.sessions[SESSION]).turned_away > 10


# ---- search ---------------------------------------------------------------------------------------------------------------

def crowd(count: int = 1000) -> list[Person]:
    names = ["样例甲", "阿依·样例", "样例䶮", "欧阳样例", "样例乙"]
    return [Person(SESSION, f"C{n}", "", number_of(n % 1000), names[n % 5] + str(n // 5), f"0000002026112601{n:03d}", str(n), "SPECIAL",
                   None) for n in range(count)]


@pytest.mark.parametrize(("asked", "count", "first"), [
    ("样例甲0", 1, "样例甲0"), ("阿依样例", 200, "阿依·样例0"), ("阿依 • 样例1", 111, "阿依·样例1"), ("阿依・样例１", 111, "阿依·样例1"),
    ("欧阳", 200, "欧阳样例0"), ("䶮", 200, "样例䶮0"),
    ("样例乙7", 11, "样例乙7"), ("没有此人", 0, ""), ("  ", 0, ""), ("", 0, ""), ("99", 0, "")])
def test_u16_names_are_found_however_they_are_typed(asked: str, count: int, first: str) -> None:
    """Dots of any kind or none, half or full width; the exact name before longer ones; two digits are too few."""
    found = [person.name for person in search.find(crowd(), asked)]
    assert len(found) == count and found[:1] == ([first] if count else [])


def test_u16_tails_of_both_numbers_are_found_in_full_and_half_width() -> None:
    people = crowd(50)
    x = next(p for p in people if p.number.endswith("X"))
    wide = "".join(chr(ord(c) + 0xFEE0) for c in x.number[-4:])
    for asked in (x.number[-6:], x.number[-6:].lower(), x.number, wide, x.admission_no[-5:]):
        assert x in search.find(people, asked), asked


async def test_u16_a_thousand_rows_answer_within_a_tenth_of_a_second(hall: Hall, chief: httpx.AsyncClient) -> None:
    await hall.plan()
    people: list[tuple[str, str, str | None]] = [(p.name, number_of(n), str(n)) for n, p in enumerate(crowd())]
    await hall.roster(people=people)
    await hall.to("checkin")
    times = []
    for asked in ("欧阳", "样例甲10", people[700][1][-6:], "00900", "没有此人") * 4:
        begun = time.process_time()                     # what it costs, whatever else the machine does
        answer = await post(chief, f"{S}/find", q=asked)
        times.append(time.process_time() - begun)
        assert answer.status_code == 200 and not FULL.search(answer.text)
    assert sorted(times)[len(times) // 2] < 0.1, times


async def test_what_is_found_says_where_each_stands_and_leads_to_the_check_by_hand(hall: Hall, chief: httpx.AsyncClient) -> None:
    await hall.to("checkin")
    await hall.card(*FIRST)
    text = (await post(chief, f"{S}/find", q="样例")).text
    assert text.count("<tr>") == 5 and "✓ 已到 14:00" in text and text.count("/manual?candidate=") == 4 and "****0018" in text
    assert "没有找到" in (await post(chief, f"{S}/find", q="样例子")).text
    assert "至少输入 3 位" in (await post(chief, f"{S}/find", q="18")).text
    await hall.to("sealed")
    assert (await post(chief, f"{S}/find", q="样例")).status_code == 409


async def test_u24_a_proctor_searches_only_with_a_second_person(hall: Hall) -> None:
    await hall.to("checkin")
    async with hall.browser("T002") as proctor:
        for second, pin, status in (("", "", 422), ("T002", "1002", 422), ("A001", "1", 422), ("T003", "9999", 403), ("T003", "1003", 200)):
            answer = await post(proctor, f"{S}/find", q="0018", second=second, pin=pin)
            assert answer.status_code == status, second
            assert ("样例甲" in answer.text) is (status == 200)
    assert not any("find" in type(row.event).__name__.lower() for row in hall.room.events(SESSION))


# ---- a reader that types --------------------------------------------------------------------------------------------------

def with_rules(hall: Hall, *, wedge: bool) -> None:
    hall.room.rules = replace(hall.room.rules, wedge=wedge, allow_demo_ids=True)


async def test_a_typed_number_only_finds_the_person_unless_the_site_says_otherwise(hall: Hall, chief: httpx.AsyncClient) -> None:
    with_rules(hall, wedge=False)
    await hall.to("checkin")
    answer = await post(chief, f"{S}/wedge", number=FIRST[1], request_id="a" * 32)
    assert answer.status_code == 200 and "没有读芯片" in answer.text and "/manual?candidate=C-0018" in answer.text
    assert "没有找到" in (await post(chief, f"{S}/wedge", number=STRANGER[1], request_id="b" * 32)).text
    assert not hall.room.state.sessions[SESSION].admitted and hall.room.state.sessions[SESSION].refusals == 0
    assert FIRST[1] not in answer.text


async def test_r9_a_typed_number_that_counts_is_marked_to_the_manifest(hall: Hall, chief: httpx.AsyncClient) -> None:
    with_rules(hall, wedge=True)
    await hall.to("checkin")
    for order, (number, code) in enumerate(((FIRST[1].lower(), "OK"), (FIRST[1], "E-DUPLICATE"), (STRANGER[1], "E-NOT-ON-ROSTER"))):
        answer = await post(chief, f"{S}/wedge", number=number, request_id=f"{order:032x}")
        assert answer.status_code == 204 and said(hall) == code
        assert (await post(chief, f"{S}/wedge", number=number, request_id=f"{order:032x}")).status_code == 204, "twice the same is once"
    assert len([r for r in hall.room.events(SESSION) if isinstance(r.event, e.CandidateAdmitted | e.AdmissionRefused)]) == 3
    facts = [r.event for r in hall.room.events(SESSION) if isinstance(r.event, e.CandidateAdmitted)]
    assert [fact.method for fact in facts] == ["id_wedge"] and facts[0].seat == "01"
    assert manifest._attendance(hall.room.events(SESSION))[0]["method"] == "id_wedge"
    assert FIRST[1] not in json.dumps([e.encode(r.event) for r in hall.room.events(SESSION)])
    sheet = (await chief.get(f"{S}/sheet")).text
    assert "键盘式读卡" in sheet and not FULL.search(sheet)


@pytest.mark.parametrize("number", [
    "", "0" * 18, FIRST[1][:-1] + "7", FIRST[1][:-1], "x" * 18, "１" * 18, FIRST[1] + "0", "\x00" * 18, "A" * 4000])
async def test_what_is_no_number_is_refused_and_nothing_is_written(hall: Hall, chief: httpx.AsyncClient, number: str) -> None:
    with_rules(hall, wedge=True)
    await hall.to("checkin")
    before = len(hall.room.events(SESSION))
    answer = await post(chief, f"{S}/wedge", number=number, request_id="c" * 32)
    assert answer.status_code == 422 and "不是有效的证件号码" in answer.text
    assert len(hall.room.events(SESSION)) == before


async def test_a_demo_number_does_not_count_in_a_real_room_nor_a_typed_one_after_the_end(hall: Hall, chief: httpx.AsyncClient) -> None:
    hall.room.rules = replace(hall.room.rules, wedge=True, allow_demo_ids=False)
    await hall.to("checkin")
    assert (await post(chief, f"{S}/wedge", number=FIRST[1], request_id="d" * 32)).status_code == 422
    with_rules(hall, wedge=True)
    await hall.to("sealed")
    answer = await post(chief, f"{S}/wedge", number=FIRST[1], request_id="e" * 32)
    assert answer.status_code == 409 and "不能进行此操作" in answer.text


# ---- a class --------------------------------------------------------------------------------------------------------------

async def test_r8_a_class_of_fifty_signs_in_late_marks_sign_out_and_the_sheet_has_them_all(hall: Hall, chief: httpx.AsyncClient) -> None:
    await plan_class(hall, start_us=hall.clock.now().utc_us + 10 * 60 * US)
    await hall.to("checkin")
    people = hall.room.rosters[SESSION].candidates
    for person in people[:40]:
        await hall.sim.pass_time(7)
        await hall.card(person.name, person.number)
        assert said(hall) == "OK"
    again = people[0]
    await hall.card(again.name, again.number)
    assert said(hall) == "E-DUPLICATE", "before the class begins nobody signs out"
    await hall.sim.pass_time(6 * 60)
    await hall.room.start_exam(SESSION, "T001", 2000)
    for person in people[40:49]:
        await hall.sim.pass_time(60)
        await hall.card(person.name, person.number)
    found = attendance.counts(hall.room, hall.room.state.sessions[SESSION])
    assert (found.expected, found.admitted, found.missing, found.late, found.turned_away) == (50, 49, 1, 9, 0)
    await hall.card(people[48].name, people[48].number)
    assert said(hall) == "E-DUPLICATE", "who has just signed in does not sign out"
    run = (await chief.get(f"{S}/run")).text
    assert "上课中" in run and "▲ 迟到 9 分钟" in run and "考试中" not in run
    await hall.card(again.name, again.number)
    assert said(hall) == "LEFT"
    await hall.card(again.name, again.number)
    assert said(hall) == "E-DUPLICATE", "the card lies there still"
    await hall.sim.pass_time(90)
    await hall.card(again.name, again.number)
    assert said(hall) == "RETURNED" and hall.room.state.sessions[SESSION].admitted[again.candidate_id].left is None
    await hall.sim.pass_time(90)
    await hall.room.end_exam(SESSION, "T001", "1001", 2000)
    await hall.card(again.name, again.number)
    assert said(hall) == "LEFT", "also after the class"
    sheet = (await chief.get(f"{S}/sheet")).text
    rows = re.findall(r"<tr><td>(\d+)</td><td>(学员\d\d)</td>", sheet)
    assert [int(n) for n, _ in rows] == list(range(1, 51)) and sheet.count("✓ 已签到") == 49 and sheet.count("▲ ") == 9
    assert "应到 50 = 已签到 49 + 存疑 0 + 未签到 1；其中迟到 9" in sheet and not FULL.search(sheet) and "****" in sheet
    times = re.findall(r"<td>(\d\d:\d\d:\d\d)</td>", sheet)
    assert len(times) == 50, "each one's sign-in and one sign-out"
    close = (await chief.get(f"{S}/close")).text
    assert "我确认以上 1 名学员未到" in close and "缺考" not in close and "考生" not in close.split("<blockquote>")[0]
    absent = (await chief.get(f"{S}/absent")).text
    assert re.findall(r"<td>(学员\d\d)</td>", absent) == ["学员50"] and "未签到名单" in absent


async def test_a_class_asks_for_no_papers_and_refuses_nobody_for_being_late(hall: Hall) -> None:
    await plan_class(hall, 3)
    await hall.to("checkin")
    await hall.sim.pass_time(45 * 60)
    person = hall.room.rosters[SESSION].candidates[0]
    await hall.card(person.name, person.number)
    async with hall.browser("T001") as chief:
        text = (await chief.get(f"{S}/checkin")).text
    assert "✓ 签到成功" in text and "▲ 迟到 45 分钟" in text and "号机" not in text and "未排座" not in text
    async with hall.client() as gate:
        shown = (await gate.get("/gate")).text
        assert "签到成功" in shown and person.name not in shown and "学**1" in shown and person.number not in shown


async def test_somebody_who_is_on_no_list_is_noted_and_joins_with_a_reason(hall: Hall) -> None:
    await plan_class(hall, 3)
    await hall.to("checkin")
    await hall.card(*STRANGER)
    async with hall.browser("T002") as teacher:
        text = (await teacher.get(f"{S}/checkin")).text
        assert "▲ 不在本班名单" in text and "样例辛 ****0099" in text
        seq = re.findall(r'name="seq" value="(\d+)"', text)
        assert len(seq) == 1
        assert (await post(teacher, f"{S}/join", seq=seq[0], reason=" ")).status_code == 422
        for wrong in ("", "-1", "99999", "0x1", "9" * 30):
            assert (await post(teacher, f"{S}/join", seq=wrong, reason="补报")).status_code in (404, 409, 422), wrong
        assert not hall.room.state.sessions[SESSION].admitted
        answer = await post(teacher, f"{S}/join", seq=seq[0], reason="补报名，已缴费")
        assert answer.status_code == 204, answer.text
        found = attendance.counts(hall.room, hall.room.state.sessions[SESSION])
        assert (found.expected, found.missing, found.added) == (3, 3, 1)
        entry = manifest._attendance(hall.room.events(SESSION))[0]
        assert (entry["result"], entry["method"], entry["exception"], entry["by"]) == ("admitted", "id_card", "E-NOT-ON-ROSTER", "T002")
        assert "second" not in entry and entry["candidate_id"] == f"OFF-{seq[0]}"
        sheet = (await teacher.get(f"{S}/sheet")).text
        assert "样例辛" in sheet and "名单外" in sheet and 'name="seq"' not in (await teacher.get(f"{S}/checkin")).text
        assert (await post(teacher, f"{S}/join", seq=seq[0], reason="再来")).status_code == 409
    async with hall.browser("A001") as auditor:
        assert (await post(auditor, f"{S}/join", seq=seq[0], reason="x")).status_code == 403


async def test_nobody_joins_an_exam_that_way(hall: Hall, chief: httpx.AsyncClient) -> None:
    await hall.to("checkin")
    await hall.card(*STRANGER)
    seq = hall.room.catalog.checkins(SESSION)[0].seq
    answer = await post(chief, f"{S}/join", seq=str(seq), reason="熟人")
    assert answer.status_code == 409 and not hall.room.state.sessions[SESSION].admitted


# ---- paper ----------------------------------------------------------------------------------------------------------------

async def test_the_sheets_have_everybody_and_never_a_full_number(hall: Hall, chief: httpx.AsyncClient) -> None:
    await hall.plan()
    people = (Candidate("C-1", "样例甲", "resident_id", FIRST[1], FIRST[1], "01", "SPECIAL", None, "初训", "理论", True),
              Candidate("C-2", "样例乙", "resident_id", "000000198502150022", "2026-00217", None, "SPECIAL", None, "初训", "理论", True))
    await hall.room.accept_roster(e.RosterAccepted(at=hall.clock.now(), session=SESSION, version=1, count=2, roster_sha256="ab" * 32,
                                                   source="platform"), Roster(SESSION, "P", 1, people))
    for path in ("sheet", "absent"):
        assert (await chief.get(f"{S}/{path}")).status_code == 200, "a blank sheet is of use before the doors open"
    await hall.to("checkin")
    await hall.card(*FIRST)
    sheet, absent = (await chief.get(f"{S}/sheet")).text, (await chief.get(f"{S}/absent")).text
    assert not FULL.search(sheet + absent) and "2026-00217" in sheet and "应考 2 = 已到 1 + 存疑 0 + 拒绝 0 + 未到 1；其中未排座 1" in sheet
    assert "样例甲" in sheet and "样例甲" not in absent and "样例乙" in absent
    await hall.card(people[1].name, people[1].number)
    assert "没有缺席的人" in (await chief.get(f"{S}/absent")).text
    table = await chief.get(f"{S}/sheet.csv")
    assert table.headers["content-type"].startswith("text/csv") and table.content.startswith(b"\xef\xbb\xbf")
    assert not FULL.search(table.text)
    rows = list(csv.reader(io.StringIO(table.text.lstrip("\ufeff"))))
    assert [row[2] for row in rows] == ["姓名", "样例甲", "样例乙"] and {len(row) for row in rows} == {10}
    assert rows[1][6].startswith("2026-11-26 14:00")
    await hall.plan("S20261126-KD01-R01-02")
    assert (await chief.get("/s/S20261126-KD01-R01-02/sheet.csv")).status_code == 409
    assert (await chief.get("/s/S20261126-KD01-R01-02/sheet")).status_code == 409


# ---- tones ----------------------------------------------------------------------------------------------------------------

async def test_a_reader_that_is_pulled_out_shows_where_people_look(hall: Hall, chief: httpx.AsyncClient) -> None:
    """Not in the footer alone: the display stops asking for cards, and staff are told what to do instead."""
    await hall.to("checkin")
    assert "请刷身份证" in (await chief.get("/gate")).text
    hall.around.reader = ReaderStatus("lost", "SAM-000", "unplugged", 0)
    gate, doors = (await chief.get("/gate")).text, (await chief.get(f"/s/{SESSION}/checkin")).text
    assert "请刷身份证" not in gate and "请勿刷卡" in gate
    assert "F2 人工核验" in doors and "读卡器没有应答" in doors
    await hall.to("running")
    assert "读卡器没有应答" in (await chief.get(f"/s/{SESSION}/run")).text
    hall.around.reader = ReaderStatus("ok", "SAM-000", None, 0)
    assert "读卡器没有应答" not in (await chief.get(f"/s/{SESSION}/run")).text


async def test_the_running_page_shows_the_last_word_of_the_door(hall: Hall, chief: httpx.AsyncClient) -> None:
    await hall.to("running")
    await hall.card("样例乙", "000000198502150022")
    page = (await chief.get(f"/s/{SESSION}/run")).text
    shown = page[page.index('id="door-now"'):page.index('id="numbers"')]
    assert "核验通过" in shown and "02" in shown and "样*乙" in shown and "停止入场" in shown
    await hall.room.mark_left(SESSION, "C-0022", "T001", final=True, reason="身体不适")
    await hall.card("样例乙", "000000198502150022")
    assert "已离场" in (await chief.get(f"/s/{SESSION}/run")).text
    assert "请到 02" not in (await chief.get("/gate")).text, "nobody who has left is sent to a seat"


async def test_u23_there_is_no_tone_while_the_exam_runs_and_a_card_is_told_apart(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.card(*UNSEATED)
    session: Session = hall.room.state.sessions[SESSION]
    first = views.shown(hall.room, hall.room.last_verdict)
    assert first["verdict_sound"] == "ok" and re.fullmatch("[0-9a-f]{8}", first["verdict_card"])
    await hall.card(*UNSEATED)
    again = views.shown(hall.room, hall.room.last_verdict)
    assert again["verdict_sound"] == "warn" and again["verdict_card"] == first["verdict_card"]
    assert first["verdict_card"] not in hall.room.subject(UNSEATED[1]) and session.id == SESSION
    await hall.to("running")
    await hall.card(*STRANGER)
    assert views.shown(hall.room, hall.room.last_verdict)["verdict_sound"] == ""


@pytest.mark.parametrize(("name", "tones"), [("ok", [(880, 1175)]), ("warn", [(330, 330)] * 2), ("error", [(220, 220)] * 3)])
def test_u23_the_three_tones_sound_as_they_should(name: str, tones: list[tuple[int, int]]) -> None:
    """Measured on the files: one rising tone of 120 ms, a low one twice, a lower one three times."""
    with wave.open(str(SOUNDS / f"{name}.wav")) as file:
        rate, data = file.getframerate(), file.readframes(file.getnframes())
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
    samples = memoryview(data).cast("h")
    step = rate // 100
    loud = [max(abs(s) for s in samples[i:i + step]) > 1500 for i in range(0, len(samples) - step, step)]
    starts = [i for i, on in enumerate(loud) if on and (i == 0 or not loud[i - 1])]
    assert len(starts) == len(tones)
    for start, (first, last) in zip(starts, tones, strict=True):
        length = next((n for n, on in enumerate(loud[start:]) if not on), len(loud) - start)
        assert 10 <= length <= 20, "100 to 200 ms each"
        for at, wanted in ((start, first), (start + length - 3, last)):
            piece = samples[at * step:(at + 2) * step]
            crossings = sum((a < 0) != (b < 0) for a, b in pairwise(piece))
            assert abs(crossings * rate / 2 / len(piece) - wanted) <= wanted * 0.12 + 26
