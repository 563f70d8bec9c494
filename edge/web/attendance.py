"""Who is expected, who is here, who is not: one group for each person of the list, and what the printed sheet says of them.

Every candidate of the roster is in exactly one group, so that the groups always add up to it (U5); who has no seat is counted beside
them, and so is who stood at the door and is on no list. Reads only. Callers: `views`, `proctor`, `sheets`, `search`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from edge.clock import US, Stamp
from edge.room import Room
from edge.sessions.identity import mask_number
from edge.sessions.machine import Session
from edge.sessions.roster import OFF_ROSTER, Candidate, Code
from edge.storage.catalog import Person

CLASS = "training_class"
_ID_SHAPED = re.compile(r"(?<![0-9])[0-9]{14}([0-9]{3}[0-9Xx])(?![0-9A-Za-z])")


class Group(StrEnum):
    """Where a person of the list stands."""

    ADMITTED = "admitted"       # 已到
    DOUBTFUL = "doubtful"       # 存疑: let in, still to be verified
    REFUSED = "refused"         # 拒绝: was at the door and was turned away
    MISSING = "missing"         # 未到


@dataclass(frozen=True, slots=True)
class Counts:
    """The groups' sizes: admitted + doubtful + refused + missing = expected, always.

    Beside them: `seatless` have no seat (of the expected, and of those let in from outside the list);
    `late` of those who are here came after the planned start; `out`: who is
    here and has left, for a while or for good; `added`: let in from outside the list; `turned_away`: how
    often a card at the door let nobody in, also of people who are on no list.
    """

    expected: int
    admitted: int
    doubtful: int
    refused: int
    missing: int
    seatless: int
    late: int
    out: int
    added: int
    turned_away: int


def is_class(session: Session | None) -> bool:
    """A training class: its people sign in, nobody is examined."""
    return session is not None and session.plan.session_kind == CLASS


def group_of(session: Session, candidate_id: str) -> Group:
    """The one group of a candidate."""
    admission = session.admitted.get(candidate_id)
    if admission is None:
        return Group.REFUSED if candidate_id in session.turned_away else Group.MISSING
    doubt = admission.doubt
    cleared = doubt is None or (doubt.settled is not None and doubt.settled.outcome == "cleared")
    return Group.ADMITTED if cleared else Group.DOUBTFUL


def late_min(session: Session, at: Stamp) -> int:
    """Whole minutes after the planned start; 0 for whoever was in time."""
    return max(0, (at.utc_us - session.plan.scheduled_start_us) // (60 * US))


def _listed(room: Room, session: Session) -> list[Candidate]:
    roster = room.rosters.get(session.id)
    return [c for c in roster.candidates if not c.off_roster] if roster else []


def expected(room: Room, session: Session) -> int:
    """How many the list holds, without those who were let in from outside it."""
    return len(_listed(room, session))


def counts(room: Room, session: Session) -> Counts:
    candidates = _listed(room, session)
    sizes = dict.fromkeys(Group, 0)
    late = seatless = 0
    for candidate in candidates:
        sizes[group_of(session, candidate.candidate_id)] += 1
        admission = session.admitted.get(candidate.candidate_id)
        late += admission is not None and late_min(session, admission.at) > 0
        seatless += (admission.seat if admission else session.seats.get(candidate.candidate_id, candidate.seat)) is None
    seatless += sum(a.seat is None for who, a in session.admitted.items() if who.startswith(OFF_ROSTER))
    return Counts(len(candidates), sizes[Group.ADMITTED], sizes[Group.DOUBTFUL], sizes[Group.REFUSED], sizes[Group.MISSING], seatless,
                  late, sum(a.left is not None for a in session.admitted.values()),
                  sum(each.startswith(OFF_ROSTER) for each in session.admitted), session.refusals)


@dataclass(frozen=True, slots=True)
class Line:
    """One person of the sheet: the full name (the sheet is signed and kept on paper), of the number the last four only.

    Moments are UTC microseconds; `late_min` whole minutes; `method`: how the person was recognised; `code`: why turned away.
    """

    candidate_id: str
    seat: str
    name: str
    number: str
    admission_no: str
    group: Group
    at_us: int | None = None
    late_min: int = 0
    method: str = ""
    left_us: int | None = None
    code: str = ""
    added: bool = False         # on no list; let in by hand


def lines(room: Room, session: Session) -> list[Line]:
    """Everybody on the list, by seat, those without one at the end; in a class in the order of the list."""
    return [line_of(session, person) for person in room.catalog.people(session.id)]


def line_of(session: Session, person: Person) -> Line:
    """One person of the list as things stand."""
    admission, group = session.admitted.get(person.candidate_id), group_of(session, person.candidate_id)
    seat = admission.seat if admission else session.seats.get(person.candidate_id, person.seat)
    told = (person.candidate_id, seat or "", person.name, mask_number(person.number), safe(person.admission_no), group)
    if admission is None:
        return Line(*told, code=session.turned_away.get(person.candidate_id, ""))
    return Line(*told, at_us=admission.at.utc_us, late_min=late_min(session, admission.at), method=admission.method,
                left_us=admission.left.at.utc_us if admission.left else None, added=person.candidate_id.startswith(OFF_ROSTER))


def safe(text: str) -> str:
    """A text of the roster, with all but the last four of anything that has the shape of an ID number withheld: never one on a page."""
    return _ID_SHAPED.sub(r"****\1", text)


@dataclass(frozen=True, slots=True)
class Stranger:
    """Somebody whose card was read and who is not on the list; `seq`: of the fact, by which the person can be added to a class."""

    seq: int
    at_us: int
    name: str
    number: str


def strangers(room: Room, session: Session, most: int = 200) -> list[Stranger]:
    """Each once, the newest time; not whoever has been added since."""
    found: dict[str, Stranger] = {}
    listed = {person.number for person in room.catalog.people(session.id)}
    for row in room.catalog.checkins(session.id, most):
        if row.code == Code.NOT_ON_ROSTER and row.number and row.name is not None and row.number not in listed:
            found.setdefault(row.number, Stranger(row.seq, row.utc_us, row.name, mask_number(row.number)))
    return list(found.values())
