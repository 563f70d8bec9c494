"""The one table of verdicts: each row, which row comes first, and what a person without a card must say."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.clock import US, Stamp
from edge.sessions import events as e
from edge.sessions.door import (
    ROWS,
    Doorway,
    is_seat,
    judge_by_hand,
    judge_card,
    judge_unreadable,
    look_up,
    may_leave,
    owner_of,
    seat_of,
    valid_through,
)
from edge.sessions.identity import Identity
from edge.sessions.machine import Admission, Session, State
from edge.sessions.roster import Candidate, Code, Elsewhere, Roster
from edge.sim.people import BY_NAME

TODAY = date(2026, 11, 26)
AT = Stamp(1_795_672_800 * US, 5 * US, "boot-1")
NAMES = ("样例甲", "样例乙", "样例庚", "样例丑", "样例䶮")


def candidate(name: str, **changed: Any) -> Candidate:
    person = BY_NAME[name]
    made = Candidate(person.candidate_id, person.name, "resident_id", person.id_no, f"2611260101{person.id_no[14:17]}", person.seat,
                     person.category, person.trade, person.exam_kind, person.subject)
    return replace(made, **changed)


def card(person: str, /, **changed: Any) -> Identity:
    return replace(BY_NAME[person].identity(), **changed)


def roster(*candidates: Candidate, session: str = "S1", elsewhere: dict[str, Elsewhere] | None = None) -> Roster:
    return Roster(session, f"P-{session}", 1, candidates or tuple(candidate(name) for name in NAMES), elsewhere or {})


def session(state: State = State.CHECKIN, *admitted: Admission, kind: str = "exam_theory", **changed: Any) -> Session:
    plan = e.SessionPlanned(
        at=AT, session="S1", plan_id="P1", session_kind=kind, title="t", scheduled_start_us=AT.utc_us, duration_min=120,
        staff={"T001": "chief"}, min_proctors=2, late_cutoff_min=30, checkin_open_min=30, retention_policy="RP-GENERAL-3Y",
        plan_sha256="0", source="platform")
    return Session("S1", state, plan, admitted={a.candidate_id: a for a in admitted}, **changed)


def came(name: str, seat: str | None = None, *, out: bool = False, final: bool = False) -> Admission:
    person = BY_NAME[name]
    left = e.CandidateLeft(at=AT, session="S1", candidate_id=person.candidate_id, by="T002", final=final) if out else None
    return Admission(person.candidate_id, "s", AT, "id_card", seat or person.seat, left=left)


def doorway(here: Session | None = None, mine: Roster | None = None, **changed: Any) -> Doorway:
    others = {"S2": roster(candidate("样例辛"), session="S2")}
    return replace(Doorway(here, (mine or roster()) if here else None, others, others, TODAY), **changed)


OPEN = doorway(session())
ELSEWHERE = roster(elsewhere={BY_NAME["样例丙"].id_no: Elsewhere("000000-KD01-R02", 7)})
PRACTICAL = candidate("样例庚", theory_passed_on=date(2025, 11, 26))
STALE = candidate("样例庚", theory_passed_on=date(2025, 10, 26))
THEORY = candidate("样例甲", theory_passed_on=date(2020, 1, 1))
LATE = doorway(session(State.RUNNING), late=True)

OUT = came("样例甲", out=True)
CLASS = {state: session(state, came("样例甲"), kind="training_class") for state in (State.CHECKIN, State.RUNNING, State.CLOSING)}

TABLE: tuple[tuple[str, Identity, Doorway, Code, str | None], ...] = (
    ("on the list", card("样例甲"), OPEN, Code.OK, None),
    ("on the list, without a seat", card("样例䶮"), OPEN, Code.OK, None),
    ("the number decides, not the name", card("样例甲", name="改名"), OPEN, Code.OK, None),
    ("the list holds the card's former number", card("样例丙", former_number="000000199001010018"), OPEN, Code.OK, None),
    ("another is in already", card("样例甲"), doorway(session(State.CHECKIN, came("样例乙"))), Code.OK, None),
    ("during the exam, before the cut-off", card("样例甲"), doorway(session(State.RUNNING)), Code.OK, None),
    # the doors
    ("no session's doors are open", card("样例甲"), doorway(), Code.NOT_OPEN, None),
    ("his session's doors open later", card("样例辛"), doorway(), Code.TOO_EARLY, "S2"),
    ("his session is over", card("样例辛"), doorway(coming={}), Code.NOT_OPEN, None),
    ("the exam is over", card("样例甲"), doorway(session(State.CLOSING)), Code.NOT_OPEN, None),
    ("the exam is over, and he is on no list", card("样例丙"), doorway(session(State.CLOSING)), Code.NOT_OPEN, None),
    # the list
    ("on no list", card("样例丙"), OPEN, Code.NOT_ON_ROSTER, None),
    ("the same name and another number", card("样例甲", number="000000199001010019"), OPEN, Code.NOT_ON_ROSTER, None),
    ("somebody else's name on his card", card("样例丙", name="样例甲"), OPEN, Code.NOT_ON_ROSTER, None),
    ("on the list of a later session", card("样例辛"), OPEN, Code.WRONG_SESSION, "S2"),
    ("expected in another room", card("样例丙"), doorway(session(), ELSEWHERE), Code.WRONG_ROOM, None),
    ("on no list, and late", card("样例丙"), LATE, Code.NOT_ON_ROSTER, None),
    # the person
    ("in already", card("样例甲"), doorway(session(State.CHECKIN, came("样例甲"))), Code.DUPLICATE, None),
    ("in already, and the card has expired", card("样例丑"), doorway(session(State.CHECKIN, came("样例丑"))), Code.DUPLICATE, None),
    ("in already, and late", card("样例甲"), replace(LATE, session=session(State.RUNNING, came("样例甲"))), Code.DUPLICATE, None),
    ("went out, and is back", card("样例甲"), doorway(session(State.RUNNING, OUT)), Code.RETURNED, None),
    ("back after the cut-off", card("样例甲"), replace(LATE, session=session(State.RUNNING, OUT)), Code.RETURNED, None),
    ("left for good", card("样例甲"), doorway(session(State.RUNNING, came("样例甲", out=True, final=True))), Code.GONE, None),
    ("on hold", card("样例甲"), doorway(session(), roster(candidate("样例甲", on_hold=True))), Code.HOLD, None),
    ("on hold, and the card has expired", card("样例丑"), doorway(session(), roster(candidate("样例丑", on_hold=True))), Code.HOLD, None),
    # the papers
    ("the card ended in 2020", card("样例丑"), OPEN, Code.CARD_EXPIRED, None),
    ("the last valid day is a valid day", card("样例丑", valid_to=TODAY), OPEN, Code.OK, None),
    ("长期: no end", card("样例丑", valid_to=None), OPEN, Code.OK, None),
    ("R4: theory passed 13 months ago", card("样例庚"), doorway(session(), roster(STALE)), Code.THEORY_EXPIRED, None),
    ("R4: a year ago to the day", card("样例庚"), doorway(session(), roster(PRACTICAL)), Code.OK, None),
    ("R4: a year and a day", card("样例庚"), doorway(session(), roster(PRACTICAL), today=date(2026, 11, 27)), Code.THEORY_EXPIRED, None),
    ("R4: the list does not say when", card("样例庚"), OPEN, Code.OK, None),
    ("a theory exam asks for no theory", card("样例甲"), doorway(session(), roster(THEORY)), Code.OK, None),
    ("a practical session does", card("样例甲"), doorway(session(kind="exam_practical"), roster(THEORY)), Code.THEORY_EXPIRED, None),
    ("an old pass, and late", card("样例庚"), replace(LATE, roster=roster(STALE)), Code.THEORY_EXPIRED, None),
    ("late", card("样例甲"), LATE, Code.LATE, None),
    # a class (签到)
    ("late for a class", card("样例甲"), replace(LATE, session=session(State.RUNNING, kind="training_class")), Code.OK, None),
    ("an expired card in a class", card("样例丑"), doorway(session(kind="training_class")), Code.OK, None),
    ("twice in a class", card("样例甲"), doorway(CLASS[State.CHECKIN]), Code.DUPLICATE, None),
    ("out of a class, by the card", card("样例甲"), doorway(CLASS[State.RUNNING]), Code.LEFT, None),
    ("out after its end", card("样例甲"), doorway(CLASS[State.CLOSING]), Code.LEFT, None),
    ("back in a class", card("样例甲"), doorway(session(State.RUNNING, OUT, kind="training_class")), Code.RETURNED, None),
    ("on no list of the class", card("样例丙"), doorway(session(kind="training_class")), Code.NOT_ON_ROSTER, None),
)


@pytest.mark.parametrize(("identity", "door", "code", "elsewhere"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_r2_the_verdict_on_a_card(identity: Identity, door: Doorway, code: Code, elsewhere: str | None) -> None:
    verdict = judge_card(identity, door)
    assert (verdict.code, verdict.other_session) == (code, elsewhere)
    assert (verdict.candidate is not None) == (door.roster is not None and any(
        n in door.roster.by_number for n in (identity.number, identity.former_number)))
    if code is Code.WRONG_ROOM:
        assert (verdict.other_room, verdict.other_start_us) == ("000000-KD01-R02", 7)


def test_every_row_of_the_table_was_somebodys_verdict() -> None:
    assert {code for code, _ in ROWS} == {row[3] for row in TABLE}


@pytest.mark.parametrize(("reason", "code"), [("demo", Code.DEMO), ("number", Code.BAD_NUMBER), ("padding", Code.CARD_UNREADABLE),
                                              ("no-answer", Code.CARD_UNREADABLE), ("", Code.CARD_UNREADABLE)])
def test_a_card_without_an_identity(reason: str, code: Code) -> None:
    assert judge_unreadable(reason) is code


@pytest.mark.parametrize(("who", "door", "code"), [
    (candidate("样例甲"), OPEN, Code.OK), (candidate("样例甲"), LATE, Code.LATE), (candidate("样例甲", on_hold=True), OPEN, Code.HOLD),
    (candidate("样例丑"), OPEN, Code.OK),              # there is no card that could have expired: two compare the person instead
    (STALE, doorway(session(), roster(STALE)), Code.THEORY_EXPIRED), (candidate("样例甲"), doorway(session(State.CLOSING)), Code.NOT_OPEN),
    (candidate("样例甲"), doorway(session(State.CHECKIN, came("样例甲"))), Code.DUPLICATE)])
def test_a_check_by_hand_asks_the_same_table(who: Candidate, door: Doorway, code: Code) -> None:
    assert judge_by_hand(who, door).code is code


@given(st.text("0123456789X", min_size=1, max_size=18))
def test_r2_part_of_a_number_is_nobody_at_the_door(number: str) -> None:
    if number not in roster().by_number:
        assert judge_card(card("样例甲", number=number), replace(OPEN, others={})).code is Code.NOT_ON_ROSTER


@pytest.mark.parametrize(("passed", "last"), [
    (date(2025, 11, 26), date(2026, 11, 26)), (date(2024, 2, 29), date(2025, 3, 1)), (date(2023, 2, 28), date(2024, 2, 28)),
    (date(2025, 12, 31), date(2026, 12, 31)), (date(2023, 3, 1), date(2024, 3, 1))])
def test_a_theory_pass_is_valid_for_a_year(passed: date, last: date) -> None:
    assert valid_through(passed) == last


@given(st.dates(date(1990, 1, 1), date(2100, 1, 1)))
def test_a_theory_pass_is_never_valid_for_less_than_a_year_nor_much_longer(passed: date) -> None:
    assert 365 <= (valid_through(passed) - passed).days <= 366


# ---- without a card -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("said", "names"), [
    ("010018", ["样例甲"]), ("000000199001010018", ["样例甲"]), (" 010018 ", ["样例甲"]),
    ("01001", ["样例甲"]), ("2611260101001", ["样例甲"]), ("1010018", ["样例甲"]), ("0018", []),
    ("10018", []), ("", []), ("   ", []), ("样例甲", []),
    ("%%%%%%", []), ("010019", []), ("0100189", []), ("99999", [])])
def test_a_person_without_a_card_says_the_tail_of_a_number(said: str, names: list[str]) -> None:
    """Last six of the ID number, or last five of the admission number (样例甲's ends with 01001)."""
    assert [c.name for c in look_up(roster(), said)] == names


def test_an_x_is_found_in_either_case_and_two_with_one_tail_are_both_shown() -> None:
    both = roster(candidate("样例壬"), candidate("样例甲", number="99999919800606015X"))
    assert [c.name for c in look_up(both, "06015x")] == ["样例壬", "样例甲"]


@given(st.text(max_size=20))
def test_looking_up_never_fails_and_never_guesses(said: str) -> None:
    for found in look_up(roster(), said):
        tail = said.strip().upper()
        assert len(tail) >= 5 and (found.number.endswith(tail) or found.admission_no.endswith(tail))


# ---- seats and leaving ------------------------------------------------------------------------------------------------------

def test_a_seat_is_the_one_given_else_the_lists_and_never_one_that_is_taken() -> None:
    first, second = candidate("样例甲"), candidate("样例乙")
    assert seat_of(session(), first) == "01"
    assert seat_of(session(seats={first.candidate_id: "07"}), first) == "07"
    assert seat_of(session(State.CHECKIN, came("样例甲", "05")), first) == "05"
    assert seat_of(session(State.CHECKIN, came("样例乙", "01")), first) is None, "somebody sits there: unassigned, and visible"
    assert seat_of(session(), candidate("样例䶮")) is None
    here, mine = session(State.CHECKIN, came("样例乙", "01")), roster()
    assert owner_of(here, mine, "01", late=True) == second and owner_of(here, mine, "02", late=True) is None
    assert owner_of(session(), mine, "01", late=False) == first, "kept for who is expected"
    assert owner_of(session(), mine, "01", late=True) is None


@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["01", "02", "08", "12", "20"])),
       st.lists(st.sampled_from(NAMES), unique=True))
def test_u6_whoever_comes_in_next_gets_no_seat_that_is_taken(given_seats: dict[str, str], arrived: list[str]) -> None:
    here = session(seats={BY_NAME[name].candidate_id: seat for name, seat in given_seats.items()})
    for name in arrived:
        seat = seat_of(here, candidate(name))
        assert seat not in {a.seat for a in here.admitted.values()} or seat is None
        here = replace(here, admitted={**here.admitted, BY_NAME[name].candidate_id: replace(came(name), seat=seat)})
    seats = [a.seat for a in here.admitted.values() if a.seat]
    assert len(seats) == len(set(seats))


@pytest.mark.parametrize(("text", "fit"), [("1", True), ("A17", True), ("17号", True), ("12345678", True), ("", False),
                                           ("123456789", False), ("1 7", False), ("1\n", False), ("<b>", False), ("\u202e1", False),
                                           ("７", False), ("A-7", True)])
def test_what_a_seat_can_be_called(text: str, fit: bool) -> None:
    assert is_seat(text) is fit


def test_leaving_is_allowed_from_the_earliest_moment_on() -> None:
    started = e.ExamStarted(at=AT, session="S1", by="T001", age_ms={})
    running = session(State.RUNNING, started=started)
    assert [may_leave(running, AT.plus(minutes * 60 * US)) for minutes in (0, 29, 30, 90)] == [False, False, True, True]
    assert not may_leave(session(), AT)
