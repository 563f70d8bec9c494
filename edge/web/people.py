"""One candidate as the pages of exceptions show him: masked, with seat, group, method, doubt, and where he is now. Reads only.

Callers: `exceptions`, `proctor` (the close page's unresolved list).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from edge.room import Room
from edge.sessions import door
from edge.sessions import events as e
from edge.sessions.identity import mask_name, mask_number
from edge.sessions.machine import Doubt, Session
from edge.sessions.roster import Candidate
from edge.web import attendance
from edge.web.attendance import Group
from edge.web.views import BAD, DIM, OK, WARN

LIGHTS = {Group.ADMITTED: OK, Group.DOUBTFUL: WARN, Group.REFUSED: BAD, Group.MISSING: DIM}


@dataclass(frozen=True, slots=True)
class Someone:
    """A candidate as the pages of exceptions show him: masked, with where he stands. `photo`: name of the picture taken at the door.

    `full_name`: for the pages on which somebody compares the person with the list.
    """

    candidate_id: str
    name: str
    number: str
    ticket: str
    seat: str | None
    trade: str
    group: Group
    light: str
    method: str = ""
    exception: str = ""
    at_us: int | None = None
    left: e.CandidateLeft | None = None
    doubt: Doubt | None = None
    photo: str = ""
    no_photo: str = ""
    turned_away: str = ""
    added: bool = False
    full_name: str = ""
    doubt_reason: str = ""


def someone(session: Session, candidate: Candidate) -> Someone:
    """One candidate as things stand."""
    who, admission = candidate.candidate_id, session.admitted.get(candidate.candidate_id)
    group = attendance.group_of(session, who)
    told = (who, mask_name(candidate.name), mask_number(candidate.number), candidate.admission_no[-5:], door.seat_of(session, candidate),
            candidate.trade or "", group, LIGHTS[group])
    if admission is None:
        return Someone(*told, turned_away=session.turned_away.get(who, ""), full_name=candidate.name)
    fact = admission.fact if isinstance(admission.fact, e.CandidateAdmitted) else None
    return Someone(*told, admission.method, (fact.exception if fact else "") or "", admission.at.utc_us, admission.left, admission.doubt,
                   PurePosixPath(fact.photo).name if fact and fact.photo else "", (fact.no_photo if fact else "") or "",
                   added=candidate.off_roster, full_name=candidate.name)


def everybody(room: Room, session: Session) -> list[Someone]:
    """All of the list and whoever was added: to verify first, then without a seat, then by seat."""
    roster = room.rosters.get(session.id)
    people = [someone(session, c) for c in roster.candidates] if roster else []
    here = (Group.DOUBTFUL, Group.ADMITTED)
    return sorted(people, key=lambda p: (p.doubt is None or not p.doubt.open, not (p.group in here and p.seat is None), p.seat is None,
                                         p.seat or "", p.candidate_id))


def doubted(room: Room, session: Session) -> list[Someone]:
    """Everybody about whom there is or was a doubt, open ones first, with the reason that was given."""
    reasons = {row.event.candidate_id: row.event.reason for row in room.events(session.id) if isinstance(row.event, e.IdentityDoubted)}
    return [replace(person, doubt_reason=attendance.safe(reasons.get(person.candidate_id) or ""))
            for person in everybody(room, session) if person.doubt]
