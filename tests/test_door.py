"""The door part of the heart over a real database: forty scripted cards, exceptions, seats, doubts, corrections, and what is impossible."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge import followers
from edge.clock import US, SimClock
from edge.idcheck.reader import CardSeen, CardUnreadable
from edge.room import Refusal, Room
from edge.sessions import events as e
from edge.sessions.identity import Document, Identity
from edge.sessions.machine import IllegalStep, State
from edge.sessions.roster import Candidate, Code, Elsewhere, Roster
from edge.sessions.verdict import DoorVerdict
from edge.sim.people import BY_NAME
from edge.web import attendance
from tests.conftest import Hall as MadeHall

if TYPE_CHECKING:
    from tests.conftest import Hall

SESSION, LATER = "S20261126-KD01-R01-01", "S20261126-KD01-R01-02"
TODAY = date(2026, 11, 26)


# ---- forty cards (R2) -------------------------------------------------------------------------------------------------------

def number(n: int) -> str:
    """The well-formed number of the n-th invented person of region 000000."""
    body = f"00000019900101{n:03d}"
    rest = sum(int(digit) * pow(2, 17 - place, 11) for place, digit in enumerate(body)) % 11        # GB 11643: ISO 7064, MOD 11-2
    return body + "10X98765432"[rest]


def card(n: int, **changed: Any) -> Identity:
    made = Identity(Document.RESIDENT, number(n), f"样例{n}", "1", date(1990, 1, 1), date(2020, 1, 1), date(2040, 1, 1))
    return replace(made, **changed)


def person(n: int, **changed: Any) -> Candidate:
    made = Candidate(f"C-{n:03d}", f"样例{n}", "resident_id", number(n), f"26112601{n:03d}", f"{n:02d}", "SPECIAL", "1.2", "INITIAL",
                     "THEORY")
    return replace(made, **changed)


def monthly(n: int, passed: date) -> Candidate:
    return person(n, subject="K1", theory_passed_on=passed)


LIST = (*(person(n) for n in range(1, 18)), person(18, seat=None), person(19, seat=None), monthly(20, date(2025, 10, 26)),
        monthly(21, date(2025, 11, 26)), monthly(22, date(2026, 11, 1)), person(23, on_hold=True), person(24), person(25))
"""25 candidates: 18 and 19 have no seat, 20 to 22 take a practical exam, 23 is on hold."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One card of the script: shown so many minutes after the session's planned start, and what the door must say."""

    minute: int
    what: str
    card: Identity | str            # a word: the card gave no identity
    code: Code
    seat: str | None = None
    where: str | None = None        # the session or room that has the person


SCRIPT = (
    Shown(-40, "before the doors open", card(1), Code.TOO_EARLY, where=SESSION),
    Shown(-39, "before the doors open, for the later session", card(61), Code.TOO_EARLY, where=LATER),
    Shown(-38, "before the doors open, and on no list", card(70), Code.NOT_OPEN),
    # -30: the doors open
    Shown(-30, "the first", card(1), Code.OK, "01"),
    Shown(-30, "the second", card(2), Code.OK, "02"),
    Shown(-29, "the first again", card(1), Code.DUPLICATE, "01"),
    Shown(-29, "another name on the card: the number decides", card(3, name="改姓名"), Code.OK, "03"),
    Shown(-28, "a valid day left", card(4, valid_to=TODAY), Code.OK, "04"),
    Shown(-28, "long-term", card(5, valid_to=None), Code.OK, "05"),
    Shown(-27, "expired yesterday", card(6, valid_to=date(2026, 11, 25)), Code.CARD_EXPIRED, "06"),
    Shown(-27, "expired long ago", card(7, valid_to=date(2019, 1, 1)), Code.CARD_EXPIRED, "07"),
    Shown(-26, "on no list", card(70), Code.NOT_ON_ROSTER),
    Shown(-26, "the same again", card(70), Code.NOT_ON_ROSTER),
    Shown(-25, "a candidate's name, another number", card(71, name="样例8"), Code.NOT_ON_ROSTER),
    Shown(-25, "on the later session's list", card(61), Code.WRONG_SESSION, where=LATER),
    Shown(-24, "on the later session's list too", card(62, valid_to=date(2019, 1, 1)), Code.WRONG_SESSION, where=LATER),
    Shown(-24, "expected in the room next door", card(80), Code.WRONG_ROOM, where="R02"),
    Shown(-23, "expected upstairs", card(81), Code.WRONG_ROOM, where="R03"),
    Shown(-23, "taken away too soon", "taken-away", Code.CARD_UNREADABLE),
    Shown(-22, "a dead chip", "no-answer", Code.CARD_UNREADABLE),
    Shown(-22, "padding that is none", "padding", Code.CARD_UNREADABLE),
    Shown(-21, "a wrong check character", "number", Code.BAD_NUMBER),
    Shown(-21, "an invented region", "demo", Code.DEMO),
    Shown(-20, "no seat yet", card(18), Code.OK, None),
    Shown(-20, "no seat yet either", card(19), Code.OK, None),
    Shown(-19, "no seat, and again", card(18), Code.DUPLICATE, None),
    Shown(-19, "theory passed 13 months ago", card(20), Code.THEORY_EXPIRED, "20"),
    Shown(-18, "theory passed a year ago to the day", card(21), Code.OK, "21"),
    Shown(-18, "theory passed this month", card(22), Code.OK, "22"),
    Shown(-17, "on hold", card(23), Code.HOLD, "23"),
    Shown(-17, "a renewed card: the list has the old number", card(90, former_number=number(24)), Code.OK, "24"),
    Shown(-16, "the old card of the same person", card(24), Code.DUPLICATE, "24"),
    Shown(-15, "the sixth, with a new card", card(6), Code.OK, "06"),
    # 0: the exam starts
    Shown(5, "during the exam", card(8), Code.OK, "08"),
    Shown(29, "just before the cut-off", card(9), Code.OK, "09"),
    Shown(31, "just after it", card(10), Code.LATE, "10"),
    Shown(32, "in already, after it", card(9), Code.DUPLICATE, "09"),
    Shown(33, "an old theory pass, after it", card(20), Code.THEORY_EXPIRED, "20"),
    Shown(34, "on no list, after it", card(70), Code.NOT_ON_ROSTER),
    # 60: the exam ends
    Shown(61, "when all is over", card(11), Code.NOT_OPEN, "11"),
)


async def play(hall: Hall) -> list[DoorVerdict]:
    """The script, at its times. The chief opens the doors 30 minutes before the start."""
    room, verdicts, started = hall.room, [], hall.clock.now().utc_us + 45 * 60 * US
    await room.plan(hall.plan(scheduled_start_us=started), "{}")
    await room.plan(hall.plan(LATER, scheduled_start_us=started + 3 * 3600 * US), "{}")
    elsewhere = {number(80): Elsewhere("000000-KD01-R02", started), number(81): Elsewhere("000000-KD01-R03")}
    lists = {SESSION: Roster(SESSION, "P1", 1, LIST, elsewhere), LATER: Roster(LATER, "P2", 1, (person(61), person(62)))}
    for session, roster in lists.items():
        await room.accept_roster(e.RosterAccepted(at=hall.clock.now(), session=session, version=1, count=len(roster.candidates),
                                                  roster_sha256=session, source="platform"), roster)
    marks = iter(((-30, State.CHECKIN), (0, State.RUNNING), (60, State.CLOSING), (999, State.SEALING)))
    minute, state = next(marks)
    for shown in SCRIPT:
        while shown.minute >= minute:
            if state is State.CHECKIN:
                await hall.fact(e.PreflightBegun, by="T001")
                await hall.fact(e.CheckinOpened, by="T001", session_seq=1, streams={"mic": "microphone"}, readings={}, clock_state="synced")
            elif state is State.RUNNING:
                await hall.clock.pass_time((started - hall.clock.now().utc_us) / US)
                await hall.fact(e.ExamStarted, by="T001", age_ms={})
            else:
                await hall.fact(e.ExamEnded, by="T001", outcome="completed")
            minute, state = next(marks)
        await hall.clock.pass_time(max(0, started + shown.minute * 60 * US - hall.clock.now().utc_us) / US)
        now = hall.clock.now()
        verdicts.append(await room.card(CardUnreadable(now, shown.card) if isinstance(shown.card, str) else CardSeen(now, shown.card, 700)))
    return verdicts


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory, staff_file: Path) -> Iterator[tuple[MadeHall, list[DoorVerdict]]]:
    made = MadeHall(tmp_path_factory.mktemp("script") / "room", staff_file, SimClock(utc_us=1_795_672_800 * US))
    yield made, asyncio.run(play(made))
    made.database.close()


def test_the_script_has_forty_cards() -> None:
    assert len(SCRIPT) == 40


@pytest.mark.parametrize("n", range(40), ids=[f"{n + 1:02d} {shown.what}" for n, shown in enumerate(SCRIPT)])
def test_r2_each_of_forty_cards_has_exactly_its_verdict(script: tuple[MadeHall, list[DoorVerdict]], n: int) -> None:
    shown, verdict = SCRIPT[n], script[1][n]
    assert (verdict.code, verdict.seat if shown.seat else None, verdict.elsewhere or verdict.room or None) == (
        shown.code, shown.seat, shown.where)
    if not isinstance(shown.card, str):
        assert verdict.name == (shown.card.name[0] + "*" * (len(shown.card.name) - 2) + shown.card.name[-1])
        assert verdict.number == "****" + shown.card.number[-4:]


def test_the_script_leaves_its_facts_and_no_persons_data_in_them(script: tuple[MadeHall, list[DoorVerdict]]) -> None:
    hall, _ = script
    rows = [row.event for row in hall.room.events(SESSION)]
    came = [row.candidate_id for row in rows if isinstance(row, e.CandidateAdmitted)]
    assert came == [f"C-{n:03d}" for n in (1, 2, 3, 4, 5, 18, 19, 21, 22, 24, 6, 8, 9)]
    refused = [row.code for row in rows if isinstance(row, e.AdmissionRefused)]
    wanted = [shown.code for shown in SCRIPT[3:] if shown.code is not Code.OK]
    assert refused == wanted
    with sqlite3.connect(hall.folder / "state" / "edge.db") as connection:
        bodies = "".join(body for body, in connection.execute("SELECT body FROM event WHERE kind <> 'SessionPlanned'"))
    assert number(1) not in bodies and "样例" not in bodies


def test_what_a_verdict_names_is_the_time_of_the_other_session(script: tuple[MadeHall, list[DoorVerdict]]) -> None:
    hall, verdicts = script
    start = hall.room.state.sessions[SESSION].plan.scheduled_start_us
    by_what = {shown.what: verdict for shown, verdict in zip(SCRIPT, verdicts, strict=True)}
    assert by_what["before the doors open"].time_us == start - 30 * 60 * US, "when the doors should open"
    assert by_what["on the later session's list"].time_us == start + 3 * 3600 * US, "when it begins"
    assert by_what["expected in the room next door"].time_us == start and by_what["expected upstairs"].time_us is None
    assert by_what["the first again"].time_us == by_what["the first"].at.utc_us, "when he came in"


def test_after_a_restart_the_door_knows_all_that_it_knew(script: tuple[MadeHall, list[DoorVerdict]]) -> None:
    hall, _ = script
    before = hall.room.rosters[SESSION]
    after = hall.restart().rosters[SESSION]
    assert after.elsewhere == before.elsewhere and len(after.elsewhere) == 2
    for one in before.candidates:
        other = after.by_number[one.number]
        assert (other.subject, other.theory_passed_on, other.on_hold, other.seat, other.admission_no) == (
            one.subject, one.theory_passed_on, one.on_hold, one.seat, one.admission_no)


# ---- somebody without a card (F2) -------------------------------------------------------------------------------------------

JIA, YI, BING, RARE, EXPIRED = (BY_NAME[name].candidate_id for name in ("样例甲", "样例乙", "样例丙", "样例䶮", "样例丑"))


def session_of(hall: Hall) -> Any:
    return hall.room.state.sessions[SESSION]


def facts(hall: Hall, kind: type[e.Event]) -> list[Any]:
    return [row.event for row in hall.room.events(SESSION) if isinstance(row.event, kind)]


async def test_a_check_by_hand_from_no_card_to_cleared(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    room = hall.room
    await room.admit_by_hand(SESSION, YI, "T002", "E-NO-CARD")
    fact = facts(hall, e.CandidateAdmitted)[-1]
    assert (fact.method, fact.exception, fact.by, fact.seat, fact.no_photo) == ("manual", "E-NO-CARD", "T002", "02", None)
    assert fact.subject == room.subject(BY_NAME["样例乙"].id_no), "stands for the same person as the card would"
    picture = (hall.folder / "state" / fact.photo).read_bytes()
    assert picture == hall.door_picture and hashlib.sha256(picture).hexdigest() == fact.photo_sha256
    assert (hall.folder / "state" / fact.photo).stat().st_mode & 0o777 == 0o600
    verdict = room.last_verdict
    assert verdict and (verdict.code, verdict.seat, verdict.name) == (Code.NO_CARD, "02", "样*乙"), "the entrance says: in, to verify"
    assert [a.candidate_id for a in session_of(hall).open_doubts] == [YI]

    for staff, pin in (("T002", "1002"), ("T003", "1003")):
        with pytest.raises(Refusal, match="two-must-sign"):
            await room.settle_doubt(SESSION, YI, "T001", "1001", "cleared")
        await room.sign_doubt(SESSION, YI, staff, pin)
    await room.settle_doubt(SESSION, YI, "T001", "1001", "cleared")
    doubt = session_of(hall).admitted[YI].doubt
    assert not session_of(hall).open_doubts and doubt.signed == ("T002", "T003") and doubt.settled.outcome == "cleared"
    assert (await hall.show("样例乙")).code is Code.DUPLICATE
    assert room.state == hall.restart().state


@pytest.mark.parametrize(("picture", "camera", "word"), [
    (None, True, "no-picture"), (b"", True, "no-picture"), (b"x", False, "no-camera")])
async def test_without_a_picture_the_fact_says_why(hall: Hall, picture: bytes | None, camera: bool, word: str) -> None:
    await hall.to(State.CHECKIN)
    hall.door_picture = picture
    if not camera:
        hall.room.instruments = replace(hall.room.instruments, door_still=None)
    await hall.room.admit_by_hand(SESSION, YI, "T002", "E-CARD-UNREADABLE")
    fact = facts(hall, e.CandidateAdmitted)[-1]
    assert (fact.no_photo, fact.photo, fact.photo_sha256, fact.exception) == (word, None, None, "E-CARD-UNREADABLE")


async def test_a_disk_that_takes_no_picture_keeps_nobody_out(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    (hall.folder / "state" / "photos").write_bytes(b"a file where the folder should be")
    await hall.room.admit_by_hand(SESSION, YI, "T002", "E-NO-CARD")
    assert facts(hall, e.CandidateAdmitted)[-1].no_photo == "not-kept" and YI in session_of(hall).admitted


async def test_an_expired_card_is_checked_by_hand(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    assert (await hall.show("样例丑")).code is Code.CARD_EXPIRED
    await hall.room.admit_by_hand(SESSION, EXPIRED, "T002", "E-CARD-EXPIRED")
    assert session_of(hall).admitted[EXPIRED].doubt.open and EXPIRED not in session_of(hall).turned_away


async def test_what_keeps_a_card_out_keeps_out_by_hand_too(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    await hall.show("样例甲")
    room = hall.room
    with pytest.raises(Refusal) as again:
        await room.admit_by_hand(SESSION, JIA, "T002", "E-NO-CARD")
    assert not (hall.folder / "state" / "photos").exists(), "no picture is kept of whoever is not let in"
    assert (again.value.word, again.value.facts) == ("door-says", {"code": "E-DUPLICATE"}), "4.5.6: nobody twice, by no way"
    roster = room.rosters[SESSION]
    room.rosters[SESSION] = replace(roster, candidates=tuple(replace(c, on_hold=c.candidate_id == YI) for c in roster.candidates))
    for who, pin in (("T002", "1002"), ("T001", "1001")):
        with pytest.raises(Refusal) as held:
            await room.admit_by_hand(SESSION, YI, who, "E-NO-CARD", "他说没问题", pin)
        assert (held.value.word, held.value.facts) == ("door-says", {"code": "E-HOLD"}), "not the chief's to lift either"


async def test_only_the_chief_sets_lateness_aside_with_pin_and_reason(hall: Hall) -> None:
    await hall.to(State.RUNNING)
    await hall.clock.pass_time(31 * 60)
    room = hall.room
    for by, pin, reason, word in (("T002", "1002", "堵车", "chief-only"), ("T001", "", "堵车", "pin-needed"),
                                  ("T001", "1001", " ", "reason-needed"), ("T001", "1002", "堵车", "wrong-pin")):
        with pytest.raises(Refusal, match=word):
            await room.admit_by_hand(SESSION, YI, by, "E-NO-CARD", reason, pin)
    await room.admit_by_hand(SESSION, YI, "T001", "E-NO-CARD", "堵车", "1001")
    fact = facts(hall, e.CandidateAdmitted)[-1]
    assert (fact.exception, fact.method, fact.reason) == ("E-LATE", "manual", "堵车")


async def test_a_late_card_is_let_in_by_the_chief_alone(hall: Hall) -> None:
    await hall.to(State.RUNNING)
    await hall.clock.pass_time(31 * 60)
    room = hall.room
    with pytest.raises(Refusal, match="door-says"):
        await room.admit_despite(SESSION, YI, "T001", "1001", "堵车")       # no card of his was read today
    assert (await hall.show("样例乙")).code is Code.LATE
    with pytest.raises(Refusal, match="chief-only"):
        await room.admit_despite(SESSION, YI, "T002", "1002", "堵车")
    await room.admit_despite(SESSION, YI, "T001", "1001", "堵车")
    fact, admission = facts(hall, e.CandidateAdmitted)[-1], session_of(hall).admitted[YI]
    assert (fact.exception, fact.method, fact.by, admission.doubt) == ("E-LATE", "id_card", "T001", None), "the chip was read: no doubt"
    assert room.last_verdict and room.last_verdict.code is Code.OK
    with pytest.raises(Refusal, match="door-says"):
        await room.admit_despite(SESSION, YI, "T001", "1001", "堵车")


async def test_r4_an_old_theory_pass_is_set_aside_by_the_chief_with_a_reason(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    roster = hall.room.rosters[SESSION]
    old = hall.room.local_date(hall.clock.now().utc_us).replace(year=2024, day=1)
    hall.room.rosters[SESSION] = replace(roster, candidates=tuple(replace(c, theory_passed_on=old) for c in roster.candidates))
    assert (await hall.show("样例乙")).code is Code.OK, "a theory exam"
    geng = BY_NAME["样例庚"].candidate_id
    assert (await hall.show("样例庚")).code is Code.THEORY_EXPIRED
    with pytest.raises(Refusal, match="reason-needed"):
        await hall.room.admit_despite(SESSION, geng, "T001", "1001", "")
    await hall.room.admit_despite(SESSION, geng, "T001", "1001", "省厅电话同意")
    assert facts(hall, e.CandidateAdmitted)[-1].exception == "E-THEORY-EXPIRED"


# ---- off the list (4.5.7) ------------------------------------------------------------------------------------------------------

async def stranger(hall: Hall) -> int:
    """样例辛, on no list, shows his card: the journal's number of the refusal."""
    await hall.to(State.CHECKIN)
    assert (await hall.show("样例辛")).code is Code.NOT_ON_ROSTER
    return hall.journal.head[0]


async def test_off_the_list_by_chief_and_a_second_person(hall: Hall) -> None:
    seq = await stranger(hall)
    await hall.room.admit_off_roster(SESSION, seq, "T001", "1001", "T002", "1002", "省厅补报")
    fact = facts(hall, e.CandidateAdmitted)[-1]
    assert (fact.candidate_id, fact.exception, fact.method) == (f"OFF-{seq}", "E-NOT-ON-ROSTER", "id_card")
    assert (fact.by, fact.second, fact.reason) == ("T001", "T002", "省厅补报")
    assert (await hall.show("样例辛")).code is Code.DUPLICATE, "4.5.6: known from now on"
    with pytest.raises(Refusal, match="door-says"):
        await hall.room.admit_off_roster(SESSION, seq, "T001", "1001", "T002", "1002", "再来一次")
    room = hall.restart()
    assert [c.name for c in room.rosters[SESSION].candidates if c.off_roster] == ["样例辛"]
    counts = followers.heartbeat(room)["counts"]
    assert counts["expected"] == len(hall.roster) and counts["admitted"] == len(session_of(hall).admitted)
    assert (await hall.show("样例辛")).code is Code.DUPLICATE
    await room.assign_seat(SESSION, f"OFF-{seq}", "25", "T002")
    assert session_of(hall).admitted[f"OFF-{seq}"].seat == "25"


@pytest.mark.parametrize(("word", "changed"), [
    ("chief-only", {"by": "T002", "pin": "1002", "second": "T003", "second_pin": "1003"}),
    ("chief-only", {"by": "T002", "pin": "1002", "second": "T001", "second_pin": "1001"}),
    ("second-person-and-reason", {"second": "T001", "second_pin": "1001"}), ("second-person-and-reason", {"reason": "  "}),
    ("not-planned-for-this-session", {"second": "A001", "second_pin": "2001"}), ("wrong-pin", {"second_pin": "1003"}),
    ("wrong-pin", {"pin": "1002"}), ("unknown-candidate", {"seq": 1}), ("unknown-candidate", {"seq": 10**9})])
async def test_4_5_7_nobody_off_the_list_by_one_persons_word(hall: Hall, word: str, changed: dict[str, Any]) -> None:
    words: dict[str, Any] = {"seq": await stranger(hall), "by": "T001", "pin": "1001", "second": "T002", "second_pin": "1002",
                             "reason": "补报"} | changed
    head = hall.journal.head
    with pytest.raises(Refusal, match=word):
        await hall.room.admit_off_roster(SESSION, **words)
    assert hall.journal.head == head


async def test_who_is_on_another_list_of_the_day_is_let_in_by_nobody(hall: Hall) -> None:
    await hall.room.plan(hall.plan(LATER), "{}")
    await hall.accept_roster(LATER, [BY_NAME["样例辛"]])
    await hall.to(State.CHECKIN)
    assert (await hall.show("样例辛")).code is Code.WRONG_SESSION
    with pytest.raises(Refusal, match="unknown-candidate"):
        await hall.room.admit_off_roster(SESSION, hall.journal.head[0], "T001", "1001", "T002", "1002", "换场")


# ---- seats (U5, U6) -----------------------------------------------------------------------------------------------------------

async def test_u6_seats_are_given_and_changed_with_a_reason(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    room = hall.room
    assert (await hall.show("样例䶮")).seat is None
    await room.assign_seat(SESSION, RARE, " 20 ", "T002")
    assert (session_of(hall).admitted[RARE].seat, (await hall.show("样例䶮")).seat) == ("20", "20")
    with pytest.raises(Refusal, match="reason-needed"):
        await room.assign_seat(SESSION, RARE, "21", "T002")
    await room.assign_seat(SESSION, RARE, "21", "T002", "20号机蓝屏")
    await room.assign_seat(SESSION, RARE, "21", "T002", "再说一次")
    assert [(f.before, f.seat) for f in facts(hall, e.SeatAssigned)] == [(None, "20"), ("20", "21")]
    await room.assign_seat(SESSION, RARE, "021", "T002", "写法更正")           # his own, written otherwise
    await room.assign_seat(SESSION, RARE, "21", "T002", "写法更正")
    await room.assign_seat(SESSION, YI, "22", "T002", "02号机蓝屏")           # not here yet: found at the door
    assert (await hall.show("样例乙")).seat == "22"
    assert room.state == hall.restart().state


@pytest.mark.parametrize(("seat", "word"), [("01", "seat-taken"), ("1", "seat-taken"), ("3号", "seat-taken"),
                                            ("03", "seat-taken"), ("", "seat-unfit"), ("123456789", "seat-unfit")])
async def test_4_5_14_never_two_on_one_seat(hall: Hall, seat: str, word: str) -> None:
    """01 is 样例甲's, who sits there; 03 is 样例丙's, who is expected."""
    await hall.to(State.CHECKIN)
    await hall.show("样例䶮")
    with pytest.raises(Refusal) as refused:
        await hall.room.assign_seat(SESSION, RARE, seat, "T002")
    assert refused.value.word == word
    if word == "seat-taken":
        assert refused.value.facts["name"] in ("样*甲", "样*丙")


async def test_a_seat_freed_by_the_cut_off_leaves_its_late_owner_without_one_and_visible(hall: Hall) -> None:
    await hall.to(State.RUNNING)
    await hall.show("样例䶮")
    await hall.clock.pass_time(31 * 60)
    await hall.room.assign_seat(SESSION, RARE, "03", "T002")
    assert (await hall.show("样例丙")).code is Code.LATE
    await hall.room.admit_despite(SESSION, BING, "T001", "1001", "堵车")
    admitted = session_of(hall).admitted
    assert (admitted[RARE].seat, admitted[BING].seat) == ("03", None)


# ---- out and in ------------------------------------------------------------------------------------------------------------

async def test_going_out_and_coming_back_by_card(hall: Hall) -> None:
    await hall.to(State.RUNNING)
    room = hall.room
    with pytest.raises(Refusal) as early:
        await room.mark_left(SESSION, JIA, "T002", final=False)
    assert (early.value.word, early.value.facts) == ("too-early-to-leave", {"minutes": 30})
    with pytest.raises(Refusal, match="too-early"):
        await room.mark_left(SESSION, JIA, "T001", final=False)                    # the chief too says why
    await room.mark_left(SESSION, JIA, "T001", final=False, reason="突发疾病")
    assert (await hall.show("样例甲")).code is Code.RETURNED and session_of(hall).admitted[JIA].left is None
    await hall.clock.pass_time(30 * 60)
    await room.mark_left(SESSION, JIA, "T002", final=False)
    with pytest.raises(Refusal, match="already-out"):
        await room.mark_left(SESSION, JIA, "T002", final=True)
    await room.mark_returned(SESSION, JIA, "T002")
    with pytest.raises(Refusal, match="not-out"):
        await room.mark_returned(SESSION, JIA, "T002")
    await room.mark_left(SESSION, JIA, "T002", final=True)
    assert (await hall.show("样例甲")).code is Code.GONE, "who left for good does not come back by card"
    with pytest.raises(Refusal, match="chief-only"):
        await room.mark_returned(SESSION, JIA, "T002", "误点")
    with pytest.raises(Refusal, match="reason-needed"):
        await room.mark_returned(SESSION, JIA, "T001")
    await room.mark_returned(SESSION, JIA, "T001", "误点")
    assert [f.method for f in facts(hall, e.CandidateReturned)] == ["id_card", "manual", "manual"]
    assert [c.code for c in hall.catalog.checkins(SESSION)][:3] == ["RETURNED", "E-GONE", "left"]
    with pytest.raises(Refusal, match="not-in"):
        await room.mark_left(SESSION, YI, "T002", final=True)


# ---- doubts -----------------------------------------------------------------------------------------------------------------

async def test_a_doubt_about_somebody_with_a_card_handed_on_by_the_chief(hall: Hall) -> None:
    await hall.to(State.RUNNING)
    room = hall.room
    with pytest.raises(Refusal, match="reason-needed"):
        await room.raise_doubt(SESSION, JIA, "T003", " ")
    await room.raise_doubt(SESSION, JIA, "T003", "与照片不像")
    for word, ask in (("doubted-already", room.raise_doubt(SESSION, JIA, "T002", "x")),
                      ("not-planned", room.sign_doubt(SESSION, JIA, "A001", "2001")),
                      ("wrong-pin", room.sign_doubt(SESSION, JIA, "T003", "1")),
                      ("chief-only", room.settle_doubt(SESSION, JIA, "T002", "1002", "escalated", "x")),
                      ("reason-needed", room.settle_doubt(SESSION, JIA, "T001", "1001", "escalated"))):
        with pytest.raises(Refusal, match=word):
            await ask
    await room.sign_doubt(SESSION, JIA, "T003", "1003")
    with pytest.raises(Refusal, match="signed-already"):
        await room.sign_doubt(SESSION, JIA, "T003", "1003")
    await room.settle_doubt(SESSION, JIA, "T001", "1001", "escalated", "交省厅核查")
    assert session_of(hall).admitted[JIA].doubt.settled.outcome == "escalated" and not session_of(hall).open_doubts
    with pytest.raises(Refusal, match="no-doubt"):
        await room.sign_doubt(SESSION, JIA, "T002", "1002")


async def test_r51_an_open_doubt_bars_the_seal(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    await hall.room.admit_by_hand(SESSION, YI, "T002", "E-NO-CARD")
    await hall.fact(e.ExamStarted, by="T001", age_ms={})
    await hall.fact(e.ExamEnded, by="T001", outcome="completed")

    async def seal() -> None:
        await hall.room.seal(SESSION, "T001", "1001", "T002", "1002", room_empty=True, absences_confirmed=True)

    with pytest.raises(Refusal) as refused:
        await seal()
    assert (refused.value.word, refused.value.facts) == ("doubts-open", {"count": 1})
    await hall.room.settle_doubt(SESSION, YI, "T001", "1001", "escalated", "本人未带证件")
    await seal()
    assert session_of(hall).state is State.SEALING


# ---- corrections (U3) ---------------------------------------------------------------------------------------------------------

async def test_a_mistaken_admission_is_taken_back_by_a_new_fact(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    await hall.show("样例甲")
    room = hall.room
    with pytest.raises(Refusal, match="chief-only"):
        await room.correct_attendance(SESSION, JIA, "T002", "1002", "absent", "刷错卡")
    with pytest.raises(Refusal, match="reason-needed"):
        await room.correct_attendance(SESSION, JIA, "T001", "1001", "absent", "")
    with pytest.raises(Refusal, match="check-by-hand"):
        await room.correct_attendance(SESSION, YI, "T001", "1001", "present", "漏刷")     # while the doors are open there is F2
    await room.correct_attendance(SESSION, JIA, "T001", "1001", "absent", "刷错卡")
    assert JIA not in session_of(hall).admitted and len(facts(hall, e.CandidateAdmitted)) == 1, "4.5.4: the fact stays"
    with pytest.raises(Refusal, match="not-in"):
        await room.correct_attendance(SESSION, JIA, "T001", "1001", "absent", "再次")
    assert (await hall.show("样例甲")).code is Code.OK, "and may come in again, on the seat that was free"
    assert [c.code for c in hall.catalog.checkins(SESSION)] == ["OK", "corrected-absent", "OK"]


async def test_somebody_the_door_did_not_see_is_present_and_to_verify(hall: Hall) -> None:
    await hall.to(State.CLOSING)
    await hall.room.correct_attendance(SESSION, YI, "T001", "1001", "present", "阅读器故障时放入")
    admission = session_of(hall).admitted[YI]
    assert (admission.method, admission.seat, admission.doubt.open) == ("corrected", "02", True)
    with pytest.raises(Refusal, match="already-in"):
        await hall.room.correct_attendance(SESSION, YI, "T001", "1001", "present", "再次")
    await hall.room.settle_doubt(SESSION, YI, "T001", "1001", "escalated", "事后确认")
    await hall.room.seal(SESSION, "T001", "1001", "T002", "1002", room_empty=True, absences_confirmed=True)
    assert YI not in session_of(hall).seal_order.absent


async def test_4_5_5_after_the_seal_a_correction_is_the_ground_of_the_next_revision(hall: Hall) -> None:
    await hall.to(State.SEALED)
    await hall.fact(e.ManifestSigned, revision=1, digest="m1")
    await hall.room.correct_attendance(SESSION, JIA, "T001", "1001", "absent", "冒名，事后查实")
    assert (session_of(hall).late_corrections, session_of(hall).state) == (1, State.SEALED)
    await hall.fact(e.SessionAmended, revision=2, reason="attendance-corrected", amends="m1")
    assert session_of(hall).late_corrections == 0
    for ask in (hall.room.admit_by_hand(SESSION, YI, "T002", "E-NO-CARD"), hall.room.assign_seat(SESSION, YI, "30", "T002", "x"),
                hall.room.mark_left(SESSION, YI, "T002", final=True), hall.room.raise_doubt(SESSION, YI, "T002", "x")):
        with pytest.raises(Refusal):
            await ask


# ---- what no fact may say, by whatever door it came (4.5.4, 4.5.6, 4.5.7, 4.5.14) ------------------------------------------------

@pytest.mark.parametrize("changed", [
    {"candidate_id": JIA, "subject": "x"}, {"candidate_id": "C-9", "subject": "same"}, {"seat": "01"},
    {"exception": "E-NOT-ON-ROSTER", "by": "T001", "reason": "一个人说了算"}, {"method": "manual"}])
async def test_the_machine_itself_refuses_what_is_impossible(hall: Hall, changed: dict[str, Any]) -> None:
    await hall.to(State.CHECKIN)
    await hall.show("样例甲")
    words = {"candidate_id": "C-9", "subject": "s9", "method": "id_card", "seat": "29"} | changed
    if words["subject"] == "same":
        words["subject"] = hall.room.subject(BY_NAME["样例甲"].id_no)
    head = hall.journal.head
    with pytest.raises(IllegalStep):
        await hall.fact(e.CandidateAdmitted, **words)
    assert hall.journal.head == head


def test_4_5_4_there_is_no_verb_that_edits_or_deletes() -> None:
    verbs = {name for name in dir(Room) if not name.startswith("_")}
    assert not [name for name in verbs if name.startswith(("edit", "delete", "remove", "undo", "update"))]


# ---- any order of things (U5, U6) -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(6))
async def test_u5_in_any_order_of_things_the_groups_add_up_and_no_seat_is_taken_twice(hall: Hall, seed: int) -> None:
    """Cards, checks by hand, seats, marks, doubts and corrections at random; whatever is refused changes nothing."""
    dice, room, done = random.Random(seed), hall.room, 0
    await hall.to(State.CHECKIN)
    seats = [f"{n:02d}" for n in range(1, 14)]
    for turn in range(120):
        if turn == 60:
            await hall.fact(e.ExamStarted, by="T001", age_ms={})
        await hall.clock.pass_time(dice.choice((1, 20, 90)))
        person = dice.choice(hall.roster)
        who, head = person.candidate_id, hall.journal.head
        moves: tuple[Callable[[], Awaitable[object]], ...] = (
            partial(hall.show, person.name), partial(room.admit_by_hand, SESSION, who, "T002", "E-NO-CARD"),
            partial(room.assign_seat, SESSION, who, dice.choice(seats), "T002", "换机"),
            partial(room.mark_left, SESSION, who, "T002", final=dice.random() < 0.2), partial(room.mark_returned, SESSION, who, "T002"),
            partial(room.raise_doubt, SESSION, who, "T003", "不像"),
            partial(hall.fact, e.AttendanceCorrected, candidate_id=who, result="absent", by="T001", reason="误放"))
        try:
            await dice.choice(moves)()
            done += 1
        except (Refusal, IllegalStep):
            assert hall.journal.head == head, "refused, and nothing was written"
        session, counts = session_of(hall), attendance.counts(room, session_of(hall))
        assert counts.admitted + counts.doubtful + counts.refused + counts.missing == counts.expected == len(hall.roster)
        taken = [a.seat for a in session.admitted.values() if a.seat]
        assert len(taken) == len(set(taken))
    assert done > 30
    assert room.state == hall.restart().state
