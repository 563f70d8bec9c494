"""Who may come in: the signed list, and the one table of verdicts.

A person is matched on the full ID number, never on the name. The verdict is data; the Room turns it into a fact.
Wording and sounds of each code: `web/locales`. Rules: R2, R3, U5; the order of `match` is the order in which a proctor would ask.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

from edge.sessions.identity import Identity

MAX_CANDIDATES = 200
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


@dataclass(frozen=True, slots=True)
class Roster:
    """A session's list. `by_number` finds a person by the whole, normalised number."""

    session_id: str
    plan_id: str
    version: int
    candidates: tuple[Candidate, ...]

    @property
    def by_number(self) -> Mapping[str, Candidate]:
        return {c.number: c for c in self.candidates}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the door says to one card. `other_session`: where the person is listed instead."""

    code: Code
    candidate: Candidate | None = None
    other_session: str | None = None


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
    roster = Roster(_text(payload, "session_id"), _text(payload, "plan_id"), version, tuple(_candidate(row) for row in rows))
    candidates = roster.candidates
    if any(_ID_SHAPED.fullmatch(c.candidate_id) for c in candidates):
        raise ValueError("a candidate_id looks like an ID number; it would stand in manifests")
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
        demo=row.get("demo") is True)


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"the roster's field {name} is missing or is not text")
    return value


def match(identity: Identity, roster: Roster, admitted: Collection[str], others: Mapping[str, Roster], today: date) -> Verdict:
    """The verdict on a card that was read. `admitted`: candidate ids already in. `others`: the room's other sessions of today."""
    numbers = [n for n in (identity.number, identity.former_number) if n]     # lists made before a card was renewed hold its old number
    candidate = next((roster.by_number[n] for n in numbers if n in roster.by_number), None)
    if candidate is None:
        elsewhere = next((sid for sid, other in others.items() if any(n in other.by_number for n in numbers)), None)
        return Verdict(Code.WRONG_SESSION, other_session=elsewhere) if elsewhere else Verdict(Code.NOT_ON_ROSTER)
    if candidate.candidate_id in admitted:
        return Verdict(Code.DUPLICATE, candidate)
    if identity.expired(today):
        return Verdict(Code.CARD_EXPIRED, candidate)
    return Verdict(Code.OK, candidate)
