"""What the comparison of faces advised, for the staff's pages: beside the verdict, and who should be looked at. Reads the facts only.

The entrance display shows none of it, and nothing here can change a verdict. Where faces are not compared there are no such facts, and
the pages show nothing. Callers: `proctor`.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.room import Room
from edge.sessions import events as e
from edge.sessions.identity import mask_name, mask_number
from edge.sessions.machine import Session
from edge.sessions.roster import Code
from edge.sessions.verdict import DoorVerdict

LIGHTS = {"match": "ok", "review": "warn", "no-match": "warn", "not-compared": "dim"}
"""Never red: red is what turns somebody away, and advice does not."""
LOOK = frozenset({"review", "no-match"})
IN = frozenset({Code.OK, Code.DUPLICATE})


@dataclass(frozen=True, slots=True)
class Advice:
    """One comparison, in what the page shows. `score`, `limit`: as the engine has them, smaller is more alike."""

    candidate_id: str
    result: str
    light: str
    reason: str
    score: str
    limit: str
    name: str = ""
    number: str = ""
    seat: str | None = None


def of_verdict(room: Room, session: Session, verdict: DoorVerdict | None) -> Advice | None:
    """The advice on whom the door has just let in; None for anybody else, and until it comes."""
    if verdict is None or verdict.session != session.id or not verdict.subject or verdict.code not in IN:
        return None
    who = next((a.candidate_id for a in session.admitted.values() if a.subject == verdict.subject), None)
    fact = session.faces.get(who or "")
    return _advice(fact) if fact else None


def to_look_at(room: Room, session: Session) -> list[Advice]:
    """Those who are in, whose face did not match, and whom nobody has doubted yet: a doubt has its own list. Masked, by seat."""
    asked = {who: fact for who, fact in session.faces.items()
             if fact.result in LOOK and who in session.admitted and session.admitted[who].doubt is None}
    if not asked:
        return []
    people = {person.candidate_id: person for person in room.catalog.people(session.id)}
    found = []
    for who, fact in asked.items():
        person, seat = people.get(who), session.admitted[who].seat
        found.append(_advice(fact, mask_name(person.name) if person else "", mask_number(person.number) if person else "", seat))
    return sorted(found, key=lambda each: (each.seat is None, each.seat or ""))


def _advice(fact: e.FaceCompared, name: str = "", number: str = "", seat: str | None = None) -> Advice:
    return Advice(fact.candidate_id, fact.result, LIGHTS.get(fact.result, "dim"), fact.reason or "", _thousandths(fact.score_x1000),
                  _thousandths(fact.threshold_x1000), name, number, seat)


def _thousandths(value: int | None) -> str:
    return "" if value is None else f"{value / 1000:.2f}"
