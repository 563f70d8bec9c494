"""Who may come in: the signed list, and the one table of verdicts.

A person is matched on the full ID number, never on the name. The verdict is data; the Room turns it into a fact.
Wording and sounds of each code: `web/locales`. Rules: R2, R3, U5; the order of `match` is the order in which a proctor would ask.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

from edge.sessions.identity import Identity

MAX_CANDIDATES = 200


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
        raise ValueError(f"not a roster: type {payload.get('type')!r}")
    rows = payload["candidates"]
    if len(rows) > MAX_CANDIDATES:
        raise ValueError(f"{len(rows)} candidates; at most {MAX_CANDIDATES} fit one session")
    try:
        candidates = tuple(_candidate(row) for row in rows)
        roster = Roster(str(payload["session_id"]), str(payload["plan_id"]), int(payload["version"]), candidates)
    except KeyError as error:
        raise ValueError(f"the roster lacks the field {error}") from None
    for what, values in (("ID number", [c.number for c in candidates]), ("candidate_id", [c.candidate_id for c in candidates]),
                         ("seat", [c.seat for c in candidates if c.seat is not None])):
        if len(set(values)) != len(values):
            raise ValueError(f"two candidates share one {what}")
    return roster


def _candidate(row: Mapping[str, Any]) -> Candidate:
    return Candidate(candidate_id=str(row["candidate_id"]), name=str(row["name"]), id_type=str(row["id_type"]),
                     number=str(row["id_no"]).strip().upper(), admission_no=str(row["admission_no"]), seat=row.get("seat_no"),
                     person_category=str(row["person_category"]), trade=row.get("trade"), exam_kind=str(row["exam_kind"]),
                     subject=str(row["subject"]), demo=bool(row.get("demo", False)))


def match(identity: Identity, roster: Roster, admitted: Collection[str], others: Mapping[str, Roster], today: date) -> Verdict:
    """The verdict on a card that was read. `admitted`: candidate ids already in. `others`: the room's other sessions of today."""
    candidate = roster.by_number.get(identity.number)
    if candidate is None and identity.former_number:
        candidate = roster.by_number.get(identity.former_number)
    if candidate is None:
        elsewhere = next((sid for sid, other in others.items() if identity.number in other.by_number), None)
        return Verdict(Code.WRONG_SESSION, other_session=elsewhere) if elsewhere else Verdict(Code.NOT_ON_ROSTER)
    if candidate.candidate_id in admitted:
        return Verdict(Code.DUPLICATE, candidate)
    if identity.expired(today):
        return Verdict(Code.CARD_EXPIRED, candidate)
    return Verdict(Code.OK, candidate)
