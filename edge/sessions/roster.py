"""Who may come in: the signed list, and the codes of the verdicts (`sessions.door` has their table).

A person is matched on the full ID number, never on the name. Rules: R2, R3, U5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Any

from edge.clock import parse_utc

MAX_CANDIDATES = 200
MAX_ELSEWHERE = 2000
OFF_ROSTER = "OFF-"
"""A candidate_id that begins so is the room's own: somebody the chief let in who is on no list."""
_ID_SHAPED = re.compile(r"[0-9]{17}[0-9Xx]")


class Code(StrEnum):
    """Verdicts at the door."""

    OK = "OK"
    DUPLICATE = "E-DUPLICATE"
    NOT_ON_ROSTER = "E-NOT-ON-ROSTER"
    WRONG_SESSION = "E-WRONG-SESSION"
    CARD_EXPIRED = "E-CARD-EXPIRED"
    CARD_UNREADABLE = "E-CARD-UNREADABLE"
    LATE = "E-LATE"
    NOT_OPEN = "E-NOT-OPEN"
    DEMO = "E-DEMO"
    RETURNED = "RETURNED"               # in already, was out, and is back
    LEFT = "LEFT"                       # of a class only: signed out with the card
    WRONG_ROOM = "E-WRONG-ROOM"
    TOO_EARLY = "E-TOO-EARLY"
    BAD_NUMBER = "E-BAD-NUMBER"         # the number's check character is wrong
    THEORY_EXPIRED = "E-THEORY-EXPIRED"
    HOLD = "E-HOLD"
    GONE = "E-GONE"                     # has left for good
    NO_CARD = "E-NO-CARD"               # of manual admissions only
    PHOTO_DOUBT = "E-PHOTO-DOUBT"       # of doubts only


@dataclass(frozen=True, slots=True)
class Candidate:
    """One line of a roster. `number` and `name` never leave the person table."""

    candidate_id: str
    name: str
    id_type: str
    number: str
    admission_no: str
    seat: str | None
    person_category: str
    trade: str | None
    exam_kind: str
    subject: str
    demo: bool = False
    theory_passed_on: date | None = None
    on_hold: bool = False               # the platform or the registration has put a hold on this person
    employer: str = ""
    employer_uscc: str = ""             # its 18-character code (统一社会信用代码)

    @property
    def off_roster(self) -> bool:
        return self.candidate_id.startswith(OFF_ROSTER)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Where somebody is expected who is on none of this room's lists."""

    room_code: str
    start_utc_us: int | None = None


@dataclass(frozen=True, slots=True)
class Roster:
    """A session's list. `by_number` finds a person by the whole, normalised number."""

    session_id: str
    plan_id: str
    version: int
    candidates: tuple[Candidate, ...]
    elsewhere: Mapping[str, Elsewhere] = field(default_factory=dict)     # by number: people of today's sessions in other rooms of the site

    @property
    def by_number(self) -> Mapping[str, Candidate]:
        return {c.number: c for c in self.candidates}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the door says to one person. `other_session`, `other_room`: where the person is listed instead, and when that begins."""

    code: Code
    candidate: Candidate | None = None
    other_session: str | None = None
    other_room: str | None = None
    other_start_us: int | None = None


def parse_roster(payload: Mapping[str, Any]) -> Roster:
    """A verified roster payload (docs/schemas/roster.json) as a Roster.

    ValueError, with a word on what is wrong and no person's data, for a missing field, two candidates with one number,
    id or seat, or more than 200 candidates: nothing of such a list is used.
    """
    if payload.get("type") != "exam-roster/v1":
        raise ValueError(f"not a roster: type {str(payload.get('type'))[:40]!r}")
    rows, version = payload.get("candidates"), payload.get("version")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows) or type(version) is not int:
        raise ValueError("the roster lacks a version or a list of candidates")
    if len(rows) > MAX_CANDIDATES:
        raise ValueError(f"{len(rows)} candidates; at most {MAX_CANDIDATES} fit one session")
    roster = Roster(_text(payload, "session_id"), _text(payload, "plan_id"), version, tuple(_candidate(row) for row in rows),
                    _elsewhere(payload.get("elsewhere", [])))
    candidates = roster.candidates
    if any(_ID_SHAPED.fullmatch(c.candidate_id) for c in candidates):
        raise ValueError("a candidate_id looks like an ID number; it would stand in manifests")
    if any(c.off_roster for c in candidates):
        raise ValueError(f"a candidate_id begins with {OFF_ROSTER}, which is the room's own")
    for what, values in (("ID number", [c.number for c in candidates]), ("candidate_id", [c.candidate_id for c in candidates]),
                         ("seat", [c.seat for c in candidates if c.seat is not None])):
        if len(set(values)) != len(values):
            raise ValueError(f"two candidates share one {what}")
    return roster


def _candidate(row: Mapping[str, Any]) -> Candidate:
    return Candidate(
        candidate_id=_text(row, "candidate_id"), name=_text(row, "name"), id_type=_text(row, "id_type"),
        number=_text(row, "id_no").strip().upper(), admission_no=_text(row, "admission_no"),
        seat=_text(row, "seat_no") if "seat_no" in row else None, person_category=_text(row, "person_category"),
        trade=_text(row, "trade") if "trade" in row else None, exam_kind=_text(row, "exam_kind"), subject=_text(row, "subject"),
        demo=row.get("demo") is True, theory_passed_on=_day(row, "theory_passed_on"), on_hold=row.get("on_hold") is True,
        employer=_text(row, "employer") if "employer" in row else "",
        employer_uscc=_text(row, "employer_uscc").upper() if "employer_uscc" in row else "")


def _elsewhere(rows: Any) -> dict[str, Elsewhere]:
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows) or len(rows) > MAX_ELSEWHERE:
        raise ValueError("the roster's list of people in other rooms does not have its form")
    try:
        return {_text(row, "id_no").strip().upper(): Elsewhere(_text(row, "room_code"), parse_utc(row["scheduled_start"])
                                                               if "scheduled_start" in row else None) for row in rows}
    except (TypeError, AttributeError):
        raise ValueError("a time in the roster's list of people in other rooms is none") from None


def _day(row: Mapping[str, Any], name: str) -> date | None:
    if name not in row:
        return None
    try:
        return date.fromisoformat(_text(row, name))
    except ValueError:
        raise ValueError(f"the roster's field {name} is no date") from None


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"the roster's field {name} is missing or is not text")
    return value
