"""The heart over a real database: a whole session by its verbs, everything it must refuse, and a restart at every step."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge import followers
from edge import room as module
from edge.clock import US
from edge.evidence import chain
from edge.idcheck.reader import CardUnreadable, ReaderStatus
from edge.room import Refusal, Room
from edge.sessions import events as e
from edge.sessions import machine
from edge.sessions.machine import IllegalStep, State
from edge.sessions.preflight import Result
from edge.sessions.roster import Code, Roster
from edge.sim.people import BY_NAME, PEOPLE
from edge.status import ClockReading, DiskReading
from edge.storage.staff import FREE_TRIES, TooSoon

if TYPE_CHECKING:
    from tests.conftest import Hall

SESSION, LATER = "S20261126-KD01-R01-01", "S20261126-KD01-R01-02"
STAFF = {"T001": "chief", "T002": "proctor", "T003": "proctor"}
HELD = 2000


def same(one: Room, other: Room) -> None:
    """The two know the same of everything."""
    assert one.state == other.state
    lists = {session: one.rosters[session] for session in one.state.sessions if session in one.rosters}     # of old ones: read when asked
    assert lists.keys() == {session for session in other.state.sessions if session in other.rosters} >= one.rosters.kept().keys()
    for session, roster in lists.items():
        mine, yours = ({(c.candidate_id, c.number, c.name, c.seat, c.person_category) for c in each.candidates}
                       for each in (roster, other.rosters[session]))
        assert mine == yours and roster.version == other.rosters[session].version


async def ready_to_open(hall: Hall) -> None:
    await hall.to(State.PREFLIGHT)
    for staff, role in (("T001", "chief"), ("T002", "proctor"), ("T003", "proctor")):
        await hall.fact(e.StaffPresent, staff_id=staff, role=role)
    await hall.fact(e.ExitsChecked, by="T002")


# ---- a whole session ---------------------------------------------------------------------------------------------------

async def test_a_whole_session_by_its_verbs(hall: Hall) -> None:
    room, clock = hall.room, hall.clock
    await room.plan(hall.plan(), '{"plan":1}')
    await hall.accept_roster()
    await room.begin_preflight(SESSION, "T001")
    assert set(room.preflight(SESSION).red) == {"staff", "exits"}
    for staff, pin in (("T001", "1001"), ("T002", "1002"), ("T003", "1003")):
        await room.sign_in(SESSION, staff, pin)
    await room.check_exits(SESSION, "T002")
    hall.age_ms["cam-back"] = None
    assert room.preflight(SESSION).red == ("stream:cam-back",)
    await room.waive(SESSION, "stream:cam-back", "后摄像待修", "T001", "T002", "1002")
    assert room.preflight(SESSION).result is Result.WARNINGS
    await room.open_checkin(SESSION, "T001")
    opened = room.state.sessions[SESSION].opened
    assert opened and opened.readings["stream:cam-back"] == "red" and set(opened.streams) == {"cam-front", "cam-back", "mic"}

    await clock.pass_time(10)
    verdict = await hall.show("样例甲")
    assert (verdict.code, verdict.seat, verdict.name, verdict.number) == (Code.OK, "01", "样*甲", "****0018")
    assert room.last_verdict == verdict
    for name, code in (("样例甲", Code.DUPLICATE), ("样例辛", Code.NOT_ON_ROSTER), ("样例丑", Code.CARD_EXPIRED)):
        assert (await hall.show(name)).code is code
    assert (await hall.show("样例䶮")).seat is None, "U5: in, and no seat yet"

    await room.start_exam(SESSION, "T001", HELD)
    started = room.state.sessions[SESSION].started
    assert started and started.age_ms == {"cam-front": 300, "cam-back": -1, "mic": 300} and started.reason is None
    await clock.pass_time(3600)
    await room.end_exam(SESSION, "T001", "1001", HELD)
    await clock.pass_time(30)
    await room.seal(SESSION, "T001", "1001", "T002", "1002", room_empty=True, absences_confirmed=True)
    session = room.state.sessions[SESSION]
    assert session.state is State.SEALING and session.seal_order
    assert set(session.seal_order.absent) == {p.candidate_id for p in hall.roster} - set(session.admitted)
    assert (len(session.admitted), session.refusals, session.ended and session.ended.outcome) == (2, 2, "completed")
    assert chain.verify(hall.journal.all()) is None
    assert [r.event.kind for r in room.events(SESSION)][-3:] == ["ExamStarted", "ExamEnded", "SealOrdered"]
    assert hall.catalog.plan(SESSION) == '{"plan":1}'


async def test_a_verb_said_twice_is_carried_out_once(hall: Hall) -> None:
    """A page may send again what it has sent: same state, no second fact."""
    room = hall.room
    plan = hall.plan()
    for _ in range(2):
        await room.plan(plan, "{}")
        await hall.accept_roster()
        await room.begin_preflight(SESSION, "T001")
    for staff, pin in (("T001", "1001"), ("T002", "1002"), ("T003", "1003")):
        for _ in range(2):
            await room.sign_in(SESSION, staff, pin)
    await room.check_exits(SESSION, "T002")
    for _ in range(2):
        await room.open_checkin(SESSION, "T001")
    await hall.show("样例甲")
    for _ in range(2):
        await room.start_exam(SESSION, "T001", HELD)
    for _ in range(2):
        await room.end_exam(SESSION, "T001", "1001", HELD)
    for _ in range(2):
        await room.seal(SESSION, "T001", "1001", "T002", "1002", room_empty=True, absences_confirmed=True)
    kinds = [r.event.kind for r in room.events(SESSION)]
    assert sorted(kinds) == sorted(["SessionPlanned", "RosterAccepted", "PreflightBegun", "StaffPresent", "StaffPresent", "StaffPresent",
                                    "ExitsChecked", "CheckinOpened", "CandidateAdmitted", "ExamStarted", "ExamEnded", "SealOrdered"])


async def test_a_session_called_off_after_the_doors_opened_goes_through_closing(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    await hall.room.end_exam(SESSION, "T001", "1001", HELD, reason="停电")
    session = hall.room.state.sessions[SESSION]
    assert session.state is State.CLOSING and session.ended and session.ended.outcome == "cancelled"


async def test_a_session_called_off_before_is_cancelled(hall: Hall) -> None:
    await hall.to(State.PREFLIGHT)
    await hall.room.cancel(SESSION, "T001", "1001", " 改期 ")
    assert hall.room.state.sessions[SESSION].state is State.CANCELLED
    assert hall.room.state.opened_total == 0


async def test_from_the_opened_doors_on_plan_and_list_stand_as_they_are(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    head = hall.journal.head
    await hall.room.plan(hall.plan(duration_min=10), "{}")
    await hall.accept_roster(people=[BY_NAME["样例辛"]])
    assert hall.journal.head == head and len(hall.room.rosters[SESSION].candidates) == len(hall.roster)


async def test_before_that_a_changed_plan_and_list_take_the_place_of_the_old(hall: Hall) -> None:
    await hall.to(State.PREFLIGHT)
    await hall.room.plan(hall.plan(duration_min=10), '{"changed":1}')
    await hall.accept_roster(people=[BY_NAME["样例辛"]])
    assert hall.room.state.sessions[SESSION].plan.duration_min == 10 and hall.catalog.plan(SESSION) == '{"changed":1}'
    assert [p.name for p in hall.catalog.people(SESSION)] == ["样例辛"] == [c.name for c in hall.room.rosters[SESSION].candidates]


# ---- refusals ----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class Case:
    """What is refused: the word, how the room came there, and what was asked of it."""

    word: str
    what: str
    prepare: Callable[[Hall], Awaitable[Any]]
    ask: Callable[[Room], Awaitable[Any]]


def at(state: State, *more: Callable[[Hall], Any]) -> Callable[[Hall], Awaitable[None]]:
    """Lead the session to `state`, then change the hall."""
    async def prepare(hall: Hall) -> None:
        await hall.to(state)
        for each in more:
            result = each(hall)
            if asyncio.iscoroutine(result):
                await result
    return prepare


async def opened_without_anybody(hall: Hall) -> None:
    await ready_to_open(hall)
    await hall.fact(e.CheckinOpened, by="T001", session_seq=1, streams={"cam-front": "rtsp"}, readings={}, clock_state="synced")


async def another_live(hall: Hall) -> None:
    """LATER stands in preflight, ready in all things, while SESSION is live."""
    await hall.to(State.PREFLIGHT, LATER)
    for staff, role in (("T001", "chief"), ("T002", "proctor"), ("T003", "proctor")):
        await hall.fact(e.StaffPresent, LATER, staff_id=staff, role=role)
    await hall.fact(e.ExitsChecked, LATER, by="T002")
    await hall.to(State.CHECKIN)


async def another_planned(hall: Hall) -> None:
    await hall.to(State.PLANNED, LATER)
    await hall.to(State.RUNNING)


def stale(hall: Hall) -> None:
    hall.age_ms["mic"] = 2001


def one_camera_lost(hall: Hall) -> None:
    hall.age_ms["cam-front"] = None


def cameras_lost(hall: Hall) -> None:
    hall.age_ms["cam-front"] = hall.age_ms["cam-back"] = None


def late(hall: Hall) -> Any:
    return hall.clock.pass_time(301)


def seal(room: Room, **changed: Any) -> Awaitable[None]:
    words: dict[str, Any] = {"by": "T001", "pin": "1001", "second": "T002", "second_pin": "1002", "room_empty": True,
                             "absences_confirmed": True} | changed
    return room.seal(SESSION, **words)


def import_list(room: Room, *, by: str = "T001", pin: str = "1001", second: str = "T002", second_pin: str = "1002",
                in_place_of: str = "") -> Awaitable[None]:
    roster = Roster(SESSION, f"P-{SESSION}", 1, ())
    return room.import_roster(e.RosterAccepted(
        at=room.clock.now(), session=SESSION, version=1, count=0, roster_sha256="f" * 64, source="import", by=by, second=second,
        reason="offline"), roster, in_place_of, pin, second_pin)


def in_force(room: Room) -> str:
    accepted = room.state.sessions[SESSION].roster
    return accepted.roster_sha256 if accepted else ""


def planned_only(hall: Hall) -> Awaitable[None]:
    return hall.room.plan(hall.plan(), "{}")


def with_an_observer(state: State) -> Callable[[Hall], Awaitable[None]]:
    """Lead the session to `state`; its plan names A001 in a role that may do nothing."""
    return lambda hall: hall.to(state, staff={**STAFF, "A001": "observer"})


async def nothing(hall: Hall) -> None:
    pass


async def with_demo_cards(hall: Hall) -> None:
    hall.room.rules = replace(hall.room.rules, allow_demo_ids=True)


async def in_doubt(hall: Hall) -> None:
    """样例甲 is in, and one of two has compared."""
    who = BY_NAME["样例甲"].candidate_id
    await hall.fact(e.IdentityDoubted, candidate_id=who, code="E-PHOTO-DOUBT", by="T003", reason="与照片不像")
    await hall.fact(e.DoubtSigned, candidate_id=who, staff_id="T002")


async def breach(hall: Hall) -> None:
    """An incident about somebody who is in, which nobody has signed."""
    await hall.room.report_incident(SESSION, "T002", "V1-03", "x", hall.roster[0].candidate_id)


async def given_up(hall: Hall) -> None:
    await hall.fact(e.FootageDisposed, policy="RP-SPECIAL-6Y", keep_until="2033-05-25", day="2033-05-26", segments=0, bytes=0, streams={},
                    list_sha256="0" * 64, witness="0" * 64, witness_utc_us=0)


READY = ready_to_open
YI = BY_NAME["样例乙"].candidate_id
CASES = (
    # the door (the rest of it: test_door)
    Case("exception-needed", "a check by hand for no reason", at(State.CHECKIN),
         lambda r: r.admit_by_hand(SESSION, YI, "T002", "E-LATE")),
    Case("door-says", "a check by hand when all is over", at(State.CLOSING), lambda r: r.admit_by_hand(SESSION, YI, "T002", "E-NO-CARD")),
    Case("unknown-candidate", "a check of nobody", at(State.CHECKIN), lambda r: r.admit_by_hand(SESSION, "C-0", "T002", "E-NO-CARD")),
    Case("pin-needed", "the chief sets lateness aside without a PIN", at(State.RUNNING, lambda h: h.clock.pass_time(1801)),
         lambda r: r.admit_by_hand(SESSION, YI, "T001", "E-NO-CARD", "堵车")),
    Case("not-a-number", "a keyboard reader that types something else", at(State.CHECKIN), lambda r: r.wedge(SESSION, "12345", "T002")),
    Case("no-wedge", "a keyboard reader where the site has none", at(State.CHECKIN, with_demo_cards),
         lambda r: r.wedge(SESSION, BY_NAME["样例乙"].id_no, "T002")),
    Case("not-a-class", "joining an exam", at(State.CHECKIN), lambda r: r.join_class(SESSION, 1, "T002", "x")),
    Case("seat-unfit", "a seat that is none", at(State.CHECKIN), lambda r: r.assign_seat(SESSION, YI, "", "T002", "x")),
    Case("seat-taken", "a seat for which somebody is expected", at(State.CHECKIN), lambda r: r.assign_seat(SESSION, YI, "03", "T002", "x")),
    Case("too-early-to-leave", "in the first half hour", at(State.RUNNING),
         lambda r: r.mark_left(SESSION, BY_NAME["样例甲"].candidate_id, "T002", final=True)),
    Case("not-in", "leaving without having come", at(State.RUNNING, lambda h: h.clock.pass_time(1801)),
         lambda r: r.mark_left(SESSION, YI, "T002", final=True)),
    Case("not-out", "coming back without having left", at(State.RUNNING),
         lambda r: r.mark_returned(SESSION, BY_NAME["样例甲"].candidate_id, "T002")),
    Case("already-out", "leaving twice", at(State.RUNNING, lambda h: h.fact(
        e.CandidateLeft, candidate_id=BY_NAME["样例甲"].candidate_id, by="T002", final=False), lambda h: h.clock.pass_time(1801)),
         lambda r: r.mark_left(SESSION, BY_NAME["样例甲"].candidate_id, "T002", final=True)),
    Case("check-by-hand", "correcting instead of checking", at(State.CHECKIN),
         lambda r: r.correct_attendance(SESSION, YI, "T001", "1001", "present", "x")),
    Case("already-in", "correcting what is right", at(State.CLOSING),
         lambda r: r.correct_attendance(SESSION, BY_NAME["样例甲"].candidate_id, "T001", "1001", "present", "x")),
    Case("no-doubt", "signing where nobody doubts", at(State.RUNNING),
         lambda r: r.sign_doubt(SESSION, BY_NAME["样例甲"].candidate_id, "T002", "1002")),
    Case("doubted-already", "doubting twice", at(State.RUNNING, lambda h: in_doubt(h)),
         lambda r: r.raise_doubt(SESSION, BY_NAME["样例甲"].candidate_id, "T002", "x")),
    Case("two-must-sign", "clearing on one signature", at(State.RUNNING, lambda h: in_doubt(h)),
         lambda r: r.settle_doubt(SESSION, BY_NAME["样例甲"].candidate_id, "T001", "1001", "cleared")),
    Case("signed-already", "one person signing twice", at(State.RUNNING, lambda h: in_doubt(h)),
         lambda r: r.sign_doubt(SESSION, BY_NAME["样例甲"].candidate_id, "T002", "1002")),
    Case("doubts-open", "sealing over an open doubt", at(State.CLOSING, lambda h: in_doubt(h)), lambda r: seal(r)),
    # 4.5.2 start with a red
    Case("preflight-red", "no exits walked", at(State.PREFLIGHT), lambda r: r.open_checkin(SESSION, "T001")),
    Case("not-recording", "a stream put nothing on disk for two seconds", at(State.CHECKIN, lambda h: h.show("样例甲"), stale),
         lambda r: r.start_exam(SESSION, "T001", HELD)),
    Case("not-recording", "no stream has any status", at(State.CHECKIN, lambda h: h.show("样例甲"), cameras_lost),
         lambda r: r.start_exam(SESSION, "T001", HELD)),
    # 4.5.3 start or seal by a proctor; every verb of the chief's
    Case("chief-only", "preflight by a proctor", at(State.PLANNED), lambda r: r.begin_preflight(SESSION, "T002")),
    Case("chief-only", "opening by a proctor", READY, lambda r: r.open_checkin(SESSION, "T002")),
    Case("chief-only", "start by a proctor", at(State.CHECKIN), lambda r: r.start_exam(SESSION, "T002", HELD)),
    Case("chief-only", "start by an auditor", at(State.CHECKIN), lambda r: r.start_exam(SESSION, "A001", HELD)),
    Case("chief-only", "end by a proctor", at(State.RUNNING), lambda r: r.end_exam(SESSION, "T002", "1002", HELD)),
    Case("chief-only", "seal by a proctor", at(State.CLOSING), lambda r: seal(r, by="T002", pin="1002", second="T003", second_pin="1003")),
    Case("chief-only", "cancelling by a proctor", at(State.PLANNED), lambda r: r.cancel(SESSION, "T002", "1002", "x")),
    Case("chief-only", "waiver by a proctor", at(State.PREFLIGHT, one_camera_lost),
         lambda r: r.waive(SESSION, "stream:cam-front", "x", "T002", "T003", "1003")),
    Case("a-proctor-must-sign", "the chief signs twice", at(State.CLOSING), lambda r: seal(r, second="T001", second_pin="1001")),
    Case("a-proctor-must-sign", "a stranger signs", at(State.CLOSING), lambda r: seal(r, second="A001", second_pin="2001")),
    Case("a-proctor-must-sign", "an observer of the plan signs", with_an_observer(State.CLOSING),
         lambda r: seal(r, second="A001", second_pin="2001")),
    Case("not-planned-for-this-session", "an observer walks to the exits", with_an_observer(State.PREFLIGHT),
         lambda r: r.check_exits(SESSION, "A001")),
    Case("not-planned-for-this-session", "a stranger signs in", at(State.PREFLIGHT), lambda r: r.sign_in(SESSION, "A001", "2001")),
    Case("not-planned-for-this-session", "a stranger walks to the exits", at(State.PREFLIGHT), lambda r: r.check_exits(SESSION, "A001")),
    Case("not-planned-for-this-session", "a stranger seconds a waiver", at(State.PREFLIGHT, one_camera_lost),
         lambda r: r.waive(SESSION, "stream:cam-front", "x", "T001", "A001", "2001")),
    # R5: a list from a file
    Case("signed-roster-stands", "an import over a signed list", at(State.PLANNED),
         lambda r: import_list(r, in_place_of=in_force(r))),
    Case("drill-has-its-list", "an import for a drill", lambda h: h.room.plan(h.plan(session_kind="drill"), "{}"),
         lambda r: import_list(r)),
    Case("roster-changed-meanwhile", "an import of what was shown beside another list", at(State.PLANNED), lambda r: import_list(r)),
    Case("not-now", "an import after the doors opened", at(State.CHECKIN), lambda r: import_list(r)),
    Case("second-person-and-reason", "an import by one person", planned_only,
         lambda r: import_list(r, second="T001", second_pin="1001")),
    Case("chief-only", "an import by a proctor", planned_only, lambda r: import_list(r, by="T003", pin="1003")),
    Case("not-planned-for-this-session", "a stranger seconds an import", planned_only,
         lambda r: import_list(r, second="A001", second_pin="2001")),
    Case("wrong-pin", "importing", planned_only, lambda r: import_list(r, second_pin="9999")),
    # signatures
    Case("wrong-pin", "signing in", at(State.PREFLIGHT), lambda r: r.sign_in(SESSION, "T001", "9999")),
    Case("wrong-pin", "ending", at(State.RUNNING), lambda r: r.end_exam(SESSION, "T001", "1002", HELD)),
    Case("wrong-pin", "the chief's at the seal", at(State.CLOSING), lambda r: seal(r, pin="0000")),
    Case("wrong-pin", "the proctor's at the seal", at(State.CLOSING), lambda r: seal(r, second_pin="1001")),
    Case("wrong-pin", "the second person's at a waiver", at(State.PREFLIGHT, one_camera_lost),
         lambda r: r.waive(SESSION, "stream:cam-front", "x", "T001", "T002", "1001")),
    Case("wrong-pin", "cancelling", at(State.PLANNED), lambda r: r.cancel(SESSION, "T001", "", "x")),
    # 4.5.13 two live sessions
    Case("another-session-is-live", "a second opening", another_live, lambda r: r.open_checkin(LATER, "T001")),
    Case("another-session-is-live", "a second preflight", another_planned, lambda r: r.begin_preflight(LATER, "T001")),
    # guards of the transitions
    Case("hold-two-seconds", "start, touched", at(State.CHECKIN, lambda h: h.show("样例甲")), lambda r: r.start_exam(SESSION, "T001", 300)),
    Case("hold-two-seconds", "end, touched", at(State.RUNNING), lambda r: r.end_exam(SESSION, "T001", "1001", 0)),
    Case("nobody-admitted", "start of an empty exam", opened_without_anybody, lambda r: r.start_exam(SESSION, "T001", HELD)),
    Case("reason-needed", "start five minutes late", at(State.CHECKIN, lambda h: h.show("样例甲"), late),
         lambda r: r.start_exam(SESSION, "T001", HELD, "  ")),
    Case("reason-needed", "aborting", at(State.RUNNING), lambda r: r.end_exam(SESSION, "T001", "1001", HELD, "aborted")),
    Case("reason-needed", "calling off after the doors opened", at(State.CHECKIN), lambda r: r.end_exam(SESSION, "T001", "1001", HELD)),
    Case("reason-needed", "calling off before", at(State.PLANNED), lambda r: r.cancel(SESSION, "T001", "1001", " ")),
    Case("room-not-empty", "sealing with people in the room", at(State.CLOSING), lambda r: seal(r, room_empty=False)),
    Case("absences-unconfirmed", "sealing with open absences", at(State.CLOSING), lambda r: seal(r, absences_confirmed=False)),
    # waivers
    Case("not-waivable", "the clock", at(State.PREFLIGHT, lambda h: setattr(h, "clock_reading", ClockReading("unsynced", 0))),
         lambda r: r.waive(SESSION, "clock", "x", "T001", "T002", "1002")),
    Case("not-waivable", "an item that is none", at(State.PREFLIGHT), lambda r: r.waive(SESSION, "nothing", "x", "T001", "T002", "1002")),
    Case("not-waivable", "what is green", at(State.PREFLIGHT), lambda r: r.waive(SESSION, "stream:mic", "x", "T001", "T002", "1002")),
    Case("not-waivable", "the last camera", at(State.PREFLIGHT, cameras_lost),
         lambda r: r.waive(SESSION, "stream:cam-front", "x", "T001", "T002", "1002")),
    Case("second-person-and-reason", "alone", at(State.PREFLIGHT, one_camera_lost),
         lambda r: r.waive(SESSION, "stream:cam-front", "x", "T001", "T001", "1001")),
    Case("second-person-and-reason", "without a reason", at(State.PREFLIGHT, one_camera_lost),
         lambda r: r.waive(SESSION, "stream:cam-front", " ", "T001", "T002", "1002")),
    # what is not its turn; 4.5.5 nothing reopens
    Case("not-now", "signing in before preflight", at(State.PLANNED), lambda r: r.sign_in(SESSION, "T001", "1001")),
    Case("not-now", "opening from the plan", at(State.PLANNED), lambda r: r.open_checkin(SESSION, "T001")),
    Case("not-now", "starting before the doors opened", READY, lambda r: r.start_exam(SESSION, "T001", HELD)),
    Case("not-now", "ending before the doors opened", READY, lambda r: r.end_exam(SESSION, "T001", "1001", HELD)),
    Case("not-now", "sealing a running exam", at(State.RUNNING), lambda r: seal(r)),
    Case("not-now", "cancelling a running exam", at(State.RUNNING), lambda r: r.cancel(SESSION, "T001", "1001", "x")),
    Case("not-now", "a waiver after the doors opened", at(State.CHECKIN, one_camera_lost),
         lambda r: r.waive(SESSION, "stream:cam-front", "x", "T001", "T002", "1002")),
    Case("not-now", "starting again what has ended", at(State.CLOSING), lambda r: r.start_exam(SESSION, "T001", HELD)),
    Case("not-now", "reopening a sealed session", at(State.SEALED), lambda r: r.open_checkin(SESSION, "T001")),
    Case("not-now", "preflight of a sealed session", at(State.SEALED), lambda r: r.begin_preflight(SESSION, "T001")),
    Case("not-now", "ending a sealed session", at(State.SEALED), lambda r: r.end_exam(SESSION, "T001", "1001", HELD)),
    Case("not-now", "looking at what was never recorded", at(State.PLANNED), lambda r: r.viewed(SESSION, "A001", "cam-front")),
    # keeping: an auditor's, with PIN and reason; a term only grows; what is gone is gone
    Case("auditor-only", "a hold by the chief", at(State.SEALED), lambda r: r.place_hold(SESSION, "T001", "1001", "x")),
    Case("auditor-only", "consent of nobody", at(State.SEALED), lambda r: r.approve_disposal([SESSION], 1, "X", "1001")),
    Case("wrong-pin", "a hold", at(State.SEALED), lambda r: r.place_hold(SESSION, "A001", "0000", "x")),
    Case("reason-needed", "a hold", at(State.SEALED), lambda r: r.place_hold(SESSION, "A001", "2001", " ")),
    Case("not-now", "a hold on a live session", at(State.RUNNING), lambda r: r.place_hold(SESSION, "A001", "2001", "x")),
    Case("no-such-hold", "releasing what does not stand", at(State.SEALED), lambda r: r.release_hold(SESSION, "H-0", "A001", "2001", "x")),
    Case("not-later", "a shorter term", at(State.SEALED), lambda r: r.lengthen(SESSION, "2033-05-24", "A001", "2001", "x")),
    Case("not-later", "a term that is no day", at(State.SEALED), lambda r: r.lengthen(SESSION, "", "A001", "2001", "x")),
    Case("disposed-already", "a hold on what is gone", at(State.SEALED, given_up), lambda r: r.place_hold(SESSION, "A001", "2001", "x")),
    # R36: a breach wants two signatures and a candidate who was told; nothing is recorded of another time or kind
    Case("incident-code", "a kind that is none", at(State.RUNNING), lambda r: r.report_incident(SESSION, "T002", "V9-99", "x")),
    Case("incident-time", "yesterday's", at(State.RUNNING), lambda r: r.report_incident(SESSION, "T002", "T-04", "x", happened_utc_us=1)),
    Case("reason-needed", "an incident in no words", at(State.RUNNING), lambda r: r.report_incident(SESSION, "T002", "T-04", " ")),
    Case("not-planned-for-this-session", "an auditor's incident", at(State.RUNNING),
         lambda r: r.report_incident(SESSION, "A001", "T-04", "x")),
    Case("unknown-candidate", "an incident about nobody", at(State.RUNNING),
         lambda r: r.report_incident(SESSION, "T002", "V1-03", "x", "C-none")),
    Case("not-now", "an incident before the doors opened", READY, lambda r: r.report_incident(SESSION, "T002", "T-04", "x")),
    Case("incidents-open", "sealing with a breach unsigned", at(State.CLOSING, breach), lambda r: seal(r)),
    Case("no-such-incident", "signing what was not recorded", at(State.RUNNING, breach),
         lambda r: r.confirm_incident(SESSION, 2, "T001", "1001", "T002", "1002", "signed")),
    Case("two-must-sign-incident", "one person twice", at(State.RUNNING, breach),
         lambda r: r.confirm_incident(SESSION, 1, "T002", "1002", "T002", "1002", "signed")),
    Case("candidate-not-told", "behind the candidate's back", at(State.RUNNING, breach),
         lambda r: r.confirm_incident(SESSION, 1, "T001", "1001", "T002", "1002")),
    Case("wrong-pin", "signed with another's PIN", at(State.RUNNING, breach),
         lambda r: r.confirm_incident(SESSION, 1, "T001", "1001", "T002", "1003", "signed")),
    Case("chief-only", "dismissed by a proctor", at(State.RUNNING, breach), lambda r: r.dismiss_incident(SESSION, 1, "T002", "1002", "x")),
    Case("reason-needed", "dismissed without why", at(State.RUNNING, breach),
         lambda r: r.dismiss_incident(SESSION, 1, "T001", "1001", " ")),
    Case("incident-settled", "signed twice", at(State.RUNNING, breach, lambda h: h.room.dismiss_incident(SESSION, 1, "T001", "1001", "x")),
         lambda r: r.confirm_incident(SESSION, 1, "T001", "1001", "T002", "1002", "signed")),
    # U21: no exam begins on a disk that will not hold it
    Case("disk-too-full", "a disk that filled up after the doors opened",
         at(State.CHECKIN, lambda h: h.show("样例甲"), lambda h: setattr(h, "disk", DiskReading(12 * 10**9, 10**12, True, ""))),
         lambda r: r.start_exam(SESSION, "T001", HELD)),
    # unknown
    Case("unknown-session", "preflight", nothing, lambda r: r.begin_preflight("S-none", "T001")),
    Case("unknown-session", "signing in", nothing, lambda r: r.sign_in("S-none", "T001", "1001")),
    Case("unknown-session", "exits", nothing, lambda r: r.check_exits("S-none", "T001")),
    Case("unknown-session", "waiver", nothing, lambda r: r.waive("S-none", "clock", "x", "T001", "T002", "1002")),
    Case("unknown-session", "opening", nothing, lambda r: r.open_checkin("", "T001")),
    Case("unknown-session", "start", nothing, lambda r: r.start_exam("../x", "T001", HELD)),
    Case("unknown-session", "end", nothing, lambda r: r.end_exam("S-none", "T001", "1001", HELD)),
    Case("unknown-session", "seal", nothing, lambda r: seal(r)),
    Case("unknown-session", "cancelling", nothing, lambda r: r.cancel("S-none", "T001", "1001", "x")),
    Case("unknown-session", "viewing", nothing, lambda r: r.viewed("S-none", "A001", "cam-front")),
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.word}: {c.what}")
async def test_a_refusal_says_why_and_writes_nothing(hall: Hall, case: Case) -> None:
    await case.prepare(hall)
    state, head, version = hall.room.state, hall.journal.head, hall.room.version
    with pytest.raises(Refusal) as refused:
        await case.ask(hall.room)
    assert refused.value.word == case.word
    assert hall.journal.head == head and hall.room.state is state and hall.room.version == version
    assert not any("000000" in str(fact) for fact in refused.value.facts.values())
    same(hall.room, hall.restart())


def test_every_word_of_refusal_is_reached() -> None:
    words = set(re.findall(r'Refusal\("([a-z-]+)"', Path(module.__file__).read_text(encoding="utf-8")))
    of_the_machine = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', Path(machine.__file__).read_text(encoding="utf-8")))
    assert len(words) > 14
    assert words == {case.word for case in CASES} - (of_the_machine - words)


NO_PAGE_HEARS = {
    "no-roster": "a missing list is red in preflight, and preflight-red comes first",
    "wrong-session-seq": "the Room counts the sessions itself",
    "wrong-revision": "only the notary closes books and signs",
    "no-session": "every verb looks for its session first",
    "wrong-incident": "the Room numbers the incidents itself, and refuses another kind first",
    "wrong-hw-counter": "the Room counts on from the journal itself",
    "on-hold": "only the keeper gives footage up, and it asks first", "kept-longer": "as the one before",
    "not-disposed": "only the keeper signs the record of what was given up", "held-already": "the Room makes the holds' ids itself",
}
"""Words of the machine that no verb can raise: they guard the journal against faults of ours (tests/sessions/test_machine.py has them)."""


def test_every_word_of_the_machine_is_reached_by_a_verb_or_cannot_be() -> None:
    text = Path(machine.__file__).read_text(encoding="utf-8")
    words = set(re.findall(r'(?:return |IllegalStep\()"([a-z]+(?:-[a-z]+)+)"', text))
    assert len(words) > 8
    assert words - {case.word for case in CASES} == NO_PAGE_HEARS.keys()


def test_there_is_no_verb_that_stops_a_recording() -> None:
    """4.5.1: the Room knows no recorder at all."""
    verbs = {name for name in dir(Room) if not name.startswith("_")}
    assert not [name for name in verbs if "record" in name or "stop" in name]
    assert "RecorderControl" not in Path(module.__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize(("change", "red"), [
    (lambda h: setattr(h, "reader", ReaderStatus("lost", None, "gone", 0)), "reader"),
    (lambda h: setattr(h, "disk", DiskReading(10**9, 10**12, True, "")), "storage"),
    (lambda h: setattr(h, "disk", DiskReading(0, 0, False, "not mounted")), "storage"),
    (lambda h: setattr(h, "clock_reading", ClockReading("unsynced", 0)), "clock"),
    (lambda h: setattr(h, "peak_cdb", -12000), "sound"),
    (cameras_lost, "stream:cam-front, stream:cam-back"),
    (lambda h: h.clock.step_wall(86400 * US), "roster"),           # the plan is not today's
])
async def test_no_red_lets_the_doors_open(hall: Hall, change: Callable[[Hall], Any], red: str) -> None:
    await ready_to_open(hall)
    assert hall.room.preflight(SESSION).result is Result.READY
    change(hall)
    head = hall.journal.head
    with pytest.raises(Refusal) as refused:
        await hall.room.open_checkin(SESSION, "T001")
    assert (refused.value.word, refused.value.facts["items"]) == ("preflight-red", red)
    assert hall.journal.head == head


async def test_the_platforms_silence_bars_nothing(hall: Hall) -> None:
    await ready_to_open(hall)
    await hall.fact(e.PlatformLost, None, reason="timeout")
    assert hall.room.preflight(SESSION).result is Result.WARNINGS
    await hall.room.open_checkin(SESSION, "T001")
    assert hall.room.state.live == SESSION


async def test_wrong_pins_are_slowed_down_and_the_exam_goes_on(hall: Hall) -> None:
    await hall.to(State.RUNNING)
    for _ in range(FREE_TRIES):
        with pytest.raises(Refusal, match="wrong-pin"):
            await hall.room.end_exam(SESSION, "T001", "0000", HELD)
    head = hall.journal.head
    with pytest.raises(TooSoon):
        await hall.room.end_exam(SESSION, "T001", "1001", HELD)
    assert hall.journal.head == head
    await hall.clock.pass_time(1)
    await hall.room.end_exam(SESSION, "T001", "1001", HELD)
    assert hall.room.state.sessions[SESSION].state is State.CLOSING


async def test_a_late_start_with_its_reason_and_a_drill_without_cards(hall: Hall) -> None:
    await hall.to(State.CHECKIN, session_kind="drill")
    await hall.clock.pass_time(900)
    await hall.room.start_exam(SESSION, "T001", HELD, " 等候考生 ")
    started = hall.room.state.sessions[SESSION].started
    assert started and started.reason == "等候考生" and not hall.room.state.sessions[SESSION].admitted


# ---- the door ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("state", [State.PLANNED, State.PREFLIGHT, State.SEALING, State.SEALED])
async def test_no_session_at_the_door_no_fact(hall: Hall, state: State) -> None:
    await hall.to(state)
    head = hall.journal.head
    assert (await hall.show("样例乙")).code is (Code.TOO_EARLY if state in (State.PLANNED, State.PREFLIGHT) else Code.NOT_OPEN)
    assert (await hall.room.card(CardUnreadable(hall.clock.now(), "no-answer"))).code is Code.CARD_UNREADABLE
    assert hall.journal.head == head


async def test_nobody_comes_in_twice_or_off_the_list(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    first = await hall.show("样例乙")
    await hall.clock.pass_time(60)
    again = await hall.show("样例乙")
    assert (first.code, again.code, again.seat) == (Code.OK, Code.DUPLICATE, "02")
    assert again.first_at_utc_us == first.at.utc_us
    assert (await hall.show("样例乙", number="000000198502150023")).code is Code.NOT_ON_ROSTER, "the name alone is nobody"
    admitted = [r.event for r in hall.room.events(SESSION) if isinstance(r.event, e.CandidateAdmitted)]
    assert [a.candidate_id for a in admitted] == [BY_NAME["样例乙"].candidate_id]
    assert [c.code for c in hall.catalog.checkins(SESSION)] == ["E-NOT-ON-ROSTER", "E-DUPLICATE", "OK"]


async def test_who_belongs_to_another_session_of_today_is_told_so(hall: Hall) -> None:
    await hall.room.plan(hall.plan(LATER), "{}")
    await hall.accept_roster(LATER, [BY_NAME["样例辛"]])
    await hall.to(State.CHECKIN)
    verdict = await hall.show("样例辛")
    assert (verdict.code, verdict.elsewhere) == (Code.WRONG_SESSION, LATER)
    await hall.room.report(e.SessionCancelled(at=hall.clock.now(), session=LATER, by="platform", reason="改期"))
    assert (await hall.show("样例辛")).code is Code.NOT_ON_ROSTER, "nobody is sent to a session that is over: the chief may let in"


@pytest.mark.parametrize("gone", ["tomorrow", "cancelled"])
async def test_a_session_that_is_not_todays_is_no_place_to_go(hall: Hall, gone: str) -> None:
    start = hall.clock.now().utc_us + (86400 * US if gone == "tomorrow" else 0)
    await hall.room.plan(hall.plan(LATER, scheduled_start_us=start), "{}")
    await hall.accept_roster(LATER, [BY_NAME["样例辛"]])
    if gone == "cancelled":
        await hall.fact(e.SessionCancelled, LATER, by="T001", reason="x")
    await hall.to(State.CHECKIN)
    assert (await hall.show("样例辛")).code is Code.NOT_ON_ROSTER


async def test_the_door_closes_thirty_minutes_after_the_start(hall: Hall) -> None:
    await hall.to(State.RUNNING)
    await hall.clock.pass_time(30 * 60)
    assert (await hall.show("样例乙")).code is Code.OK
    await hall.clock.pass_time(0.000_001)
    verdict = await hall.show("样例丙")
    assert (verdict.code, verdict.seat) == (Code.LATE, "03")
    hall.clock.step_wall(-3600 * US)
    assert (await hall.show("样例丙")).code is Code.LATE, "4.5.8: setting the clock back opens no door"
    await hall.fact(e.ExamEnded, by="T001", outcome="completed")
    assert (await hall.show("样例丙")).code is Code.NOT_OPEN
    assert (await hall.show("样例乙")).code is Code.NOT_OPEN, "and so is who was in already"
    assert hall.room.state.sessions[SESSION].refusals == 2, "who comes after the end is not turned away"


async def test_after_the_end_every_card_hears_that_it_is_over(hall: Hall) -> None:
    """Whoever it is, nothing else about the card matters now; and each is a fact all the same."""
    await hall.to(State.CLOSING)
    cards = (hall.roster[0].name, "样例乙", "样例辛", "样例丑")    # in already, absent, not on the list, card expired
    before, head = hall.room.state.sessions[SESSION].refusals, hall.journal.head[0]
    assert [(await hall.show(name)).code for name in cards] == [Code.NOT_OPEN] * 4
    assert hall.journal.head[0] == head + 4 and hall.room.state.sessions[SESSION].refusals == before
    assert set(hall.room.state.sessions[SESSION].admitted) == {hall.roster[0].candidate_id}


@pytest.mark.parametrize(("state", "outcome", "becomes"), [
    (State.RUNNING, "completed", "completed"), (State.RUNNING, "aborted", "aborted"), (State.RUNNING, "cancelled", "cancelled"),
    (State.RUNNING, "no such word", "aborted"), (State.CHECKIN, "completed", "cancelled")])
async def test_nobody_signs_that_an_exam_was_regular_that_was_not(hall: Hall, state: State, outcome: str, becomes: str) -> None:
    await hall.to(state)
    await hall.room.end_exam(SESSION, "T001", "1001", HELD, outcome, "停电")
    await seal(hall.room)
    session = hall.room.state.sessions[SESSION]
    assert session.ended and session.ended.outcome == becomes
    assert session.seal_order
    assert session.seal_order.statement == ("seal.statement" if becomes == "completed" else "seal.statement-aborted")


@pytest.mark.parametrize(("reason", "code"), [("demo", Code.DEMO), ("no-answer", Code.CARD_UNREADABLE)])
async def test_a_card_that_cannot_be_believed_is_a_fact_without_a_person(hall: Hall, reason: str, code: Code) -> None:
    await hall.to(State.CHECKIN)
    verdict = await hall.room.card(CardUnreadable(hall.clock.now(), reason))
    assert (verdict.code, verdict.name, verdict.number, verdict.reason) == (code, "", "", reason)
    last = hall.room.events(SESSION)[-1].event
    assert isinstance(last, e.AdmissionRefused) and (last.code, last.subject, last.candidate_id) == (code, None, None)


@pytest.mark.parametrize("person", PEOPLE, ids=lambda p: p.purpose)
async def test_what_the_door_shows_is_masked_for_everybody(hall: Hall, person: Any) -> None:
    await hall.to(State.CHECKIN)
    shown = repr(await hall.show(person.name))
    assert person.id_no not in shown and person.name not in shown and person.id_no[6:14] not in shown


async def test_a_refused_persons_name_is_kept_apart_and_can_be_forgotten(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    await hall.show("样例辛")
    assert [(c.name, c.number) for c in hall.catalog.checkins(SESSION)] == [("样例辛", BY_NAME["样例辛"].id_no)]
    await hall.database.write(lambda c: c.execute("DELETE FROM seen_card"))
    assert [(c.name, c.number) for c in hall.catalog.checkins(SESSION)] == [(None, None)]
    assert chain.verify(hall.journal.all()) is None, "the chain does not hang on the person"


async def test_the_same_person_is_the_same_subject_and_the_number_is_not_in_it(hall: Hall) -> None:
    one, other = PEOPLE[0].id_no, PEOPLE[1].id_no
    assert hall.room.subject(one) == hall.room.subject(one) != hall.room.subject(other)
    assert re.fullmatch("[0-9a-f]{64}", hall.room.subject(one))


# ---- segments ----------------------------------------------------------------------------------------------------------

async def test_a_segment_belongs_to_each_session_that_it_overlaps(hall: Hall) -> None:
    before = hall.clock.now()
    await hall.to(State.CHECKIN)
    opened = hall.clock.now()
    await hall.segment("cam-front", before.plus(-60 * US), opened.plus(-6 * US))         # over before the doors opened
    await hall.segment("cam-front", opened.plus(-6 * US), opened.plus(54 * US))
    stored = [r.event for r in hall.room.events(SESSION) if isinstance(r.event, e.SegmentStored)]
    assert [s.seq for s in stored] == [2] == [s.seq for s in hall.catalog.segments(SESSION)]
    assert hall.catalog.last_seq("cam-front") == 2, "the other is a row only"


async def test_a_segment_delivered_twice_is_stored_once(hall: Hall) -> None:
    await hall.to(State.RUNNING)
    now = hall.clock.now()
    sidecar = await hall.segment("cam-front", now, now.plus(60 * US))
    head = hall.journal.head
    await hall.deliver(sidecar)
    hall.restart()
    await hall.deliver(sidecar)
    assert hall.journal.head == head and len(hall.catalog.segments(SESSION)) == 1


async def test_a_stream_that_was_not_expected_is_a_row_only(hall: Hall) -> None:
    await opened_without_anybody(hall)                  # expects cam-front alone
    now = hall.clock.now()
    await hall.segment("mic", now, now.plus(60 * US))
    assert hall.catalog.segments(SESSION) == [] and hall.catalog.last_seq("mic") == 1


async def border(hall: Hall) -> Any:
    """A segment that covers the end of one session and the beginning of the next."""
    await hall.to(State.RUNNING)
    start = hall.clock.now()
    for _, go in list(hall.way())[-5:]:
        await go()
    await hall.to(State.CHECKIN, LATER)
    return hall.sidecar("cam-front", start, hall.clock.now().plus(10 * US))


async def test_at_a_border_a_segment_belongs_to_both(hall: Hall) -> None:
    sidecar = await border(hall)
    await hall.deliver(sidecar)
    assert [len(hall.catalog.segments(s)) for s in (SESSION, LATER)] == [1, 1]


@pytest.mark.parametrize("written", [0, 1])
async def test_a_crash_in_the_middle_of_taking_a_segment_in_loses_no_session(hall: Hall, written: int) -> None:
    """The intake brings again what has no row: so the row must not be there before every session's fact is."""
    sidecar = await border(hall)
    facts = 0

    def dying(*columns: Any) -> tuple[str, str]:
        nonlocal facts
        if columns[2] == "SegmentStored":
            facts += 1
            if facts > written:
                raise OSError("the power went")
        return chain.link(*columns)

    hall.link = dying
    with pytest.raises(OSError):
        await hall.deliver(sidecar)
    hall.link = chain.link
    hall.restart()
    assert hall.catalog.last_seq("cam-front") == -1, "the row stands alone: nobody would bring the segment again, and retention takes it"
    await hall.deliver(sidecar)
    assert [len(hall.catalog.segments(s)) for s in (SESSION, LATER)] == [1, 1]
    stored = [r.event.session for r in hall.journal.all() if isinstance(r.event, e.SegmentStored)]
    assert sorted(str(s) for s in stored) == [SESSION, LATER]


# ---- the one rule of flow ----------------------------------------------------------------------------------------------

async def test_what_cannot_be_written_did_not_happen(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    state, head, verdict = hall.room.state, hall.journal.head, hall.room.last_verdict

    def full(*columns: Any) -> tuple[str, str]:
        raise OSError("no space left on device")

    hall.link = full
    with pytest.raises(OSError):
        await hall.show("样例甲")
    assert hall.room.state is state and hall.journal.head == head and hall.room.last_verdict == verdict, "no verdict before it is on disk"
    hall.link = chain.link
    assert (await hall.show("样例甲")).code is Code.OK


async def test_an_impossible_fact_is_not_written(hall: Hall) -> None:
    await hall.to(State.RUNNING)
    head = hall.journal.head
    with pytest.raises(IllegalStep):
        await hall.fact(e.CandidateAdmitted, candidate_id="other", subject=hall.room.subject(hall.roster[0].id_no), method="id_card")
    assert hall.journal.head == head


async def test_whoever_asked_may_go_away_the_fact_is_finished(hall: Hall) -> None:
    """A browser closes in the middle of a verb: memory and disk must not part, or the chain could not go on."""
    await hall.to(State.CHECKIN)
    for turns in range(12):
        asked = asyncio.create_task(hall.fact(e.StreamLost, None, stream=f"s{turns}", reason="x"))
        for _ in range(turns):
            await asyncio.sleep(0)
        asked.cancel()
        await asyncio.wait([asked])
        await hall.fact(e.ReaderLost, None, reason=f"after {turns}")
    kept = hall.room
    assert chain.verify(hall.journal.all()) is None
    same(kept, hall.restart())


@dataclass(frozen=True, slots=True)
class Slow:
    """Stands beside a fact and holds the write thread in the middle of its transaction."""

    fault: Exception | None = None
    entered: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def write(self, connection: sqlite3.Connection, seq: int, event: e.Event) -> None:
        self.entered.set()
        assert self.go_on.wait(20)
        if self.fault:
            raise self.fault


@pytest.mark.parametrize("fault", [None, OSError("no space left on device")])
async def test_a_cancelled_report_holds_the_turn_until_disk_and_memory_agree(hall: Hall, fault: Exception | None) -> None:
    await hall.to(State.CHECKIN)
    state, head, slow = hall.room.state, hall.journal.head, Slow(fault)
    lost = e.StreamLost(at=hall.clock.now(), session=None, stream="mic", reason="x")
    asked = asyncio.create_task(hall.room.report(lost, slow))
    try:
        assert await asyncio.to_thread(slow.entered.wait, 20)   # the row is written, the transaction is open
        card = asyncio.create_task(hall.show("样例乙"))
        for _ in range(5):                                      # cancelled once, and again by an impatient one
            asked.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        assert not asked.done() and not card.done(), "the turn is kept while the thread works"
        assert hall.room.state is state and hall.journal.head == head, "and nothing is so before it is on disk"
    finally:
        slow.go_on.set()
    await asyncio.wait([asked, card], timeout=20)
    assert asked.cancelled() and card.result().code is Code.OK
    assert hall.room.state.streams_lost == ({} if fault else {"mic": lost})
    assert hall.journal.head[0] == head[0] + (1 if fault else 2)
    assert chain.verify(hall.journal.all()) is None
    same(hall.room, hall.restart())


async def abandon(hall: Hall, verb: Awaitable[Any]) -> None:
    """Ask, and go away while the write thread is held; the verb must end as if nobody had gone."""
    room, go_on = hall.room, threading.Event()
    before = room.state
    held = asyncio.ensure_future(hall.database.write(lambda connection: go_on.wait(20)))
    asked = asyncio.ensure_future(verb)
    try:
        for _ in range(10):                                     # it has the turn, and its write waits in line
            await asyncio.sleep(0)
        asked.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not asked.done() and room.state is before
    finally:
        go_on.set()
    await asyncio.wait([asked, held], timeout=20)
    assert asked.cancelled() and room.state is not before, "it is on disk, so it is so"


async def test_verbs_that_are_cancelled_in_mid_write_are_so_nevertheless(hall: Hall) -> None:
    room = hall.room
    await abandon(hall, room.plan(hall.plan(), "{}"))
    await abandon(hall, hall.accept_roster())
    assert {c.number for c in room.rosters[SESSION].candidates} == {p.id_no for p in hall.roster}, "the list is kept beside the state"
    await abandon(hall, room.begin_preflight(SESSION, "T001"))
    await abandon(hall, room.check_exits(SESSION, "T001"))
    for staff, role in STAFF.items():
        await hall.fact(e.StaffPresent, staff_id=staff, role=role)
    await abandon(hall, room.open_checkin(SESSION, "T001"))
    await abandon(hall, hall.show("样例甲"))
    again = await hall.show("样例甲")
    assert (again.code, again.seat) == (Code.DUPLICATE, "01"), "whom nobody saw come in is in"
    await abandon(hall, room.start_exam(SESSION, "T001", HELD))
    assert room.state.sessions[SESSION].state is State.RUNNING
    assert chain.verify(hall.journal.all()) is None
    same(room, hall.restart())


async def test_two_cards_at_once_are_two_verdicts_one_after_the_other(hall: Hall) -> None:
    await hall.to(State.CHECKIN)
    verdicts = await asyncio.gather(*(hall.show("样例乙") for _ in range(8)), *(hall.show("样例丙") for _ in range(8)))
    codes = [v.code for v in verdicts]
    assert (codes.count(Code.OK), codes.count(Code.DUPLICATE)) == (2, 14)
    assert chain.verify(hall.journal.all()) is None


async def test_followers_are_woken_by_each_change_and_by_nothing_else(hall: Hall) -> None:
    waker = hall.room.changed()
    assert waker.is_set(), "a follower looks once before it waits"
    waker.clear()
    await hall.room.plan(hall.plan(), "{}")
    assert waker.is_set()
    waker.clear()
    with pytest.raises(Refusal):
        await hall.room.open_checkin(SESSION, "T001")
    assert not waker.is_set()
    hall.room.forget(waker)
    await hall.accept_roster()
    assert not waker.is_set()


async def test_a_step_of_the_clock_belongs_to_the_live_session(hall: Hall) -> None:
    await hall.room.clock_stepped(hall.clock.now(), 5 * US)
    await hall.to(State.RUNNING)
    await hall.room.clock_stepped(hall.clock.now(), -7 * US)
    steps = [r.event for r in hall.journal.all() if isinstance(r.event, e.ClockStepped)]
    assert [(s.session, s.delta_us) for s in steps] == [(None, 5 * US), (SESSION, -7 * US)]
    assert [s.delta_us for s in hall.room.state.clock_steps] == [5 * US, -7 * US]


async def test_what_the_watcher_finds_belongs_to_the_live_session_and_outlives_a_restart(hall: Hall) -> None:
    def covered(rule: str) -> e.StreamImpaired:
        return e.StreamImpaired(at=hall.clock.now(), stream="cam-front", rule=rule, rules="rules/1", since_utc_us=hall.clock.now().utc_us)

    await hall.room.of_the_box(covered("moved"))
    await hall.to(State.RUNNING)
    await hall.room.of_the_box(covered("covered"))
    await hall.room.of_the_box(e.StreamRestored(at=hall.clock.now(), stream="cam-front", rule="moved"))
    assert [(r.event.session, r.event.kind) for r in hall.journal.all() if isinstance(r.event, e.StreamImpaired | e.StreamRestored)] == [
        (None, "StreamImpaired"), (SESSION, "StreamImpaired"), (SESSION, "StreamRestored")]
    kept = hall.room.state
    assert hall.restart().state == kept and set(kept.impaired["cam-front"]) == {"covered"}
    assert hall.room.state.sessions[SESSION].state is State.RUNNING, "it moves no session"


async def test_a_level_is_known_only_while_somebody_measures(hall: Hall) -> None:
    """R12: what the meter shows was heard in the recorded file just now, or nothing is shown."""
    assert hall.room.peak_cdb("mic") == -3000
    hall.watch_age_ms = 5000
    assert hall.room.peak_cdb("mic") == -3000
    hall.watch_age_ms = 5001
    assert hall.room.peak_cdb("mic") is None and hall.room.watched("mic") is None
    hall.watch_age_ms = None
    assert hall.room.peak_cdb("mic") is None


async def test_a_heartbeat_says_what_is_bad_and_how_loud_it_is(hall: Hall) -> None:
    now = hall.clock.now()
    await hall.room.of_the_box(e.StreamImpaired(at=now, stream="cam-front", rule="covered", rules="r", since_utc_us=now.utc_us))
    await hall.room.of_the_box(e.StreamImpaired(at=now, stream="cam-back", rule="moved", rules="r", since_utc_us=now.utc_us))
    sources = {s["id"]: s for s in followers.heartbeat(hall.room)["sources"]}
    assert {name: s["health"] for name, s in sources.items()} == {"cam-front": "fault", "cam-back": "warn", "mic": "ok"}
    assert sources["mic"]["audio_peak_cdb"] == -3000
    hall.watch_age_ms = None
    assert "audio_peak_cdb" not in followers.heartbeat(hall.room)["sources"][0]


async def test_the_day_is_the_rooms_not_greenwichs(hall: Hall) -> None:
    assert hall.room.local_date(1_795_622_399 * US) == date(2026, 11, 25)       # 23:59:59 in Shanghai
    assert hall.room.local_date(1_795_622_400 * US) == date(2026, 11, 26)


# ---- restart -----------------------------------------------------------------------------------------------------------

async def test_a_restart_at_every_step_finds_the_same_room(hall: Hall) -> None:
    """Each fact of a session, then everything that may come after sealing; after each a new Room over the same file."""
    start = hall.clock.now()
    steps: list[Callable[[], Awaitable[object]]] = [go for _, go in hall.way()]
    late_one = hall.sidecar("cam-front", start, start.plus(60 * US), recovered=True)
    steps += [
        lambda: hall.fact(e.ManifestSigned, revision=1, digest="1" * 64),
        lambda: hall.fact(e.ReceiptVerified, answers="session-manifest", digest="1" * 64, receipt_sha256="9" * 64, verdict="accepted",
                          platform_seq=1, received_utc_us=1, revision=1),
        lambda: hall.deliver(late_one),                 # one that comes to light after the books were closed
        lambda: hall.fact(e.SessionAmended, revision=2, reason="segment-recovered", amends="1" * 64),
        lambda: hall.fact(e.ManifestSigned, revision=2, digest="2" * 64),
        lambda: hall.fact(e.ReceiptRefused, answers="session-manifest", digest="2" * 64, reason="signature"),
        lambda: hall.room.viewed(SESSION, "A001", "cam-front"),
        lambda: hall.room.plan(hall.plan(LATER), "{}"),
        lambda: hall.room.clock_stepped(hall.clock.now(), 2 * US),
        lambda: hall.fact(e.StreamLost, None, stream="mic", reason="gone"),
        lambda: hall.fact(e.StreamImpaired, None, stream="mic", rule="sound-zero", rules="rules/1", since_utc_us=1),
        lambda: hall.fact(e.PlaybackProbed, None, stream="mic", day="2026-11-25", ok=True, windows=3),
    ]
    for go in steps:
        await go()
        kept, head = hall.room, hall.journal.head
        same(kept, hall.restart())                      # and the next step is taken by the new one
        assert hall.journal.head == head
    assert hall.room.state.sessions[SESSION].state is State.SEALED


ACTIONS = ("advance", "advance", "advance", "card", "stranger", "segment", "late", "twice", "open", "plan", "other", "lost", "back", "view",
           "restart")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 10)), max_size=40))
async def test_whatever_happened_a_restart_finds_it(make_hall: Callable[[], Hall], actions: list[tuple[str, int]]) -> None:
    hall = make_hall()
    session, way = SESSION, hall.way()
    for action, number in actions:
        now = hall.clock.now()
        try:
            if action == "advance":
                step = next(way, None)
                if step is None:
                    session = LATER
                    way = hall.way(session)
                    continue
                await step[1]()
            elif action in ("card", "stranger"):
                await hall.show(PEOPLE[number].name if action == "card" else "样例辛")
            elif action == "segment":
                await hall.segment("cam-front", now.plus(-number * US), now)
            elif action == "late":
                await hall.segment("mic", now.plus(-70 * US), now.plus(-(60 - number) * US))
            elif action == "twice":
                await hall.deliver(hall.sidecar("cam-back", now.plus(-US), now))
            elif action == "open":
                await hall.room.open_checkin(session, "T001")
            elif action == "plan":
                await hall.room.plan(hall.plan(session, duration_min=number + 1), "{}")
            elif action == "other":
                await hall.accept_roster(session, list(PEOPLE[:number + 1]))
            elif action in ("lost", "back"):
                await hall.fact(e.StreamLost, None, stream="mic", reason="x") if action == "lost" else await hall.fact(
                    e.StreamBack, None, stream="mic")
            elif action == "view":
                await hall.room.viewed(session, "A001", "mic")
            else:
                kept = hall.room
                same(kept, hall.restart())
        except (Refusal, IllegalStep):
            continue
    kept = hall.room
    same(kept, hall.restart())
    assert chain.verify(hall.journal.all()) is None
    session_states = [s.state for s in hall.room.state.sessions.values()]
    assert sum(s in (State.CHECKIN, State.RUNNING, State.CLOSING, State.SEALING) for s in session_states) <= 1
