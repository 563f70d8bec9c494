"""The page of a session's incidents (F4): record what happened, let two sign a breach of the rules, or the chief dismiss it.

Whoever is at the desk records it in the time of one line; the signatures may wait until the candidate has been told, but not until after
the seal. Nothing is decided here: the Room may refuse. Names are masked, as everywhere in the room. Caller: `web.app`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import Response

from edge.clock import LOCAL, US, local_date
from edge.room import Refusal, Room
from edge.sessions import incidents
from edge.sessions.machine import Incident, Session, State
from edge.web import acts
from edge.web.access import web_of
from edge.web.acts import Fields, Verb
from edge.web.desk import Web
from edge.web.pages import go
from edge.web.people import everybody, someone
from edge.web.proctor import page_path, session_of, session_view
from edge.web.views import BAD, DIM, OK, WARN

OPEN = (State.CHECKIN, State.RUNNING, State.CLOSING)
SHOWN = (*OPEN, State.SEALING, State.SEALED)
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")


@dataclass(frozen=True, slots=True)
class Line:
    """One incident as the page shows it. `who`: the candidate, masked, with the seat; `by`: names of who recorded, signed, dismissed."""

    number: int
    code: str
    light: str
    state: str                      # open, noted, confirmed, dismissed
    happened_us: int
    who: str
    seat: str
    detail: str
    recorded_by: str
    by: tuple[str, ...]
    informed: str
    reason: str


def lines(room: Room, session: Session) -> list[Line]:
    """The session's incidents, those that want something first, else newest first."""
    return sorted((_line(room, session, each) for each in session.incidents), key=lambda line: (line.state != "open", -line.number))


def _line(room: Room, session: Session, incident: Incident) -> Line:
    fact, settled = incident.fact, incident.settled
    roster = room.rosters.get(session.id)
    candidate = next((c for c in roster.candidates if c.candidate_id == fact.candidate_id), None) if roster else None
    person = someone(session, candidate) if candidate else None
    state = "open" if incident.open else "noted" if settled is None else settled.outcome
    light = {"open": WARN, "noted": DIM, "confirmed": BAD if fact.code.startswith("V") else OK, "dismissed": DIM}[state]
    by = tuple(room.staff.name(each) for each in (settled.by, settled.second) if each) if settled else ()
    return Line(fact.number, fact.code, light, state, fact.happened_utc_us, person.name if person else fact.candidate_id or "",
                (person.seat or "") if person else "", fact.detail, room.staff.name(fact.by), by,
                (settled.informed or "") if settled else "", (settled.reason or "") if settled else "")


def show(request: Request, session_id: str) -> Response:
    web = web_of(request)
    session = session_of(web, session_id)
    if session.state not in SHOWN:
        return go(request, page_path(session))
    may = session.state in OPEN
    return session_view(request, "incidents.html", session, lines=lines(web.room, session), open_count=len(session.open_incidents), may=may,
                        people=[each for each in everybody(web.room, session) if each.at_us is not None] if may else [],
                        asked=request.query_params.get("candidate", ""), codes=incidents.CODES)


# ---- what people press ------------------------------------------------------------------------------------------------------

def moment(room: Room, text: str) -> int | None:
    """UTC µs of a wall clock time of the last 24 hours (HH:MM, China); None if none is given. Refusal if it is no time."""
    if not text.strip():
        return None
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise Refusal("incident-time")
    now_us = room.clock.now().utc_us
    today = datetime.combine(local_date(now_us), time(int(found[1]), int(found[2])), LOCAL)
    meant = today if today.timestamp() * US <= now_us else today - timedelta(days=1)
    return round(meant.timestamp()) * US


def number_of(form: Fields) -> int:
    text = form.get("number", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


async def report(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.report_incident(session_id, by, form.get("code", ""), form.get("detail", ""), form.get("candidate", ""),
                                   moment(web.room, form.get("at", "")))


async def confirm(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.confirm_incident(session_id, number_of(form), form.get("staff_id", ""), form.get("pin", ""), form.get("second", ""),
                                    form.get("second_pin", ""), form.get("informed", ""))


async def dismiss(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.dismiss_incident(session_id, number_of(form), by, form.get("pin", ""), form.get("reason", ""))


VERBS: Final[Mapping[str, Verb]] = {"incident": report, "confirm-incident": confirm, "dismiss-incident": dismiss}


def add_routes(app: FastAPI) -> None:
    app.get("/s/{session_id}/incidents")(show)
    for word, verb in VERBS.items():
        app.post(f"/s/{{session_id}}/{word}", name=f"act-{word}")(acts.handler(verb, "incidents"))
