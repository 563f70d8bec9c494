"""Exceptions at the door: the check by hand (F2), people to verify (存疑), a page for each candidate with seat, marks and corrections.

Reached from the check-in page by key; keyboard only is enough. What is typed (the tail of a number) is posted, never in an address; names
are masked; the picture taken at the door is shown to the session's own staff only. Nothing is decided here: the Room may refuse.
Callers: `web.app`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response

from edge.room import Refusal
from edge.sessions import door, machine
from edge.sessions import events as e
from edge.sessions.identity import mask_name
from edge.sessions.machine import Session, State
from edge.sessions.roster import Candidate, Code
from edge.web import acts, attendance
from edge.web.access import CHIEF, web_of, who_of
from edge.web.acts import Fields, Verb
from edge.web.desk import Web
from edge.web.pages import form_of, go
from edge.web.people import Someone, doubted, everybody, someone
from edge.web.proctor import page_path, session_of, session_view

DOORS_OPEN = (State.CHECKIN, State.RUNNING)
SHOWN = (*DOORS_OPEN, State.CLOSING, State.SEALING, State.SEALED)


def _candidate(web: Web, session: Session, candidate_id: str) -> Candidate | None:
    roster = web.room.rosters.get(session.id)
    return next((c for c in roster.candidates if c.candidate_id == candidate_id), None) if roster else None


# ---- F2: the check by hand ------------------------------------------------------------------------------------------------

def show_manual(request: Request, session_id: str) -> Response:
    """Three ways in without an ordinary card: the list says who it is; the chief sets a verdict aside; somebody who is on no list."""
    web, who = web_of(request), who_of(request)
    session = session_of(web, session_id)
    if session.state not in DOORS_OPEN:
        return go(request, page_path(session))
    asked, chief = request.query_params.get("candidate", ""), CHIEF in who.roles
    candidate = _candidate(web, session, asked) if asked else None
    says = web.room.would_say(session_id, asked) if candidate else Code.OK
    by_card = session.turned_away.get(asked) in door.CHIEF_MAY and says in door.CHIEF_MAY
    strangers = attendance.strangers(web.room, session)
    stranger = next((s for s in strangers if str(s.seq) == request.query_params.get("stranger", "")), None)
    return session_view(
        request, "manual.html", session, asked=asked, person=someone(session, candidate) if candidate else None, says=str(says),
        may=says is Code.OK or (says in door.CHIEF_MAY and chief), overrides=says in door.CHIEF_MAY, by_card=by_card and chief,
        reasons=sorted(door.BY_HAND), strangers=strangers if chief else [], stranger=stranger if chief else None, mask_name=mask_name,
        camera=web.room.instruments.door_still is not None, verdict_time=_first_time(session, asked))


def _first_time(session: Session, candidate_id: str) -> int | None:
    admission = session.admitted.get(candidate_id)
    return admission.at.utc_us if admission else None


async def find(request: Request, session_id: str) -> Response:
    """Who says the tail of a number is one candidate, and the page is his; nobody or several is a refusal in words."""
    web, form = web_of(request), await form_of(request)
    session_of(web, session_id)
    roster = web.room.rosters.get(session_id)
    found = door.look_up(roster, form.get("said", "")) if roster else ()
    if len(found) != 1:
        raise Refusal("several-found" if found else "nobody-found")
    return go(request, f"/s/{session_id}/manual?{urlencode({'candidate': found[0].candidate_id})}")


# ---- pictures ---------------------------------------------------------------------------------------------------------------

def show_photo(request: Request, session_id: str, name: str) -> Response:
    """A picture taken at the door."""
    web = web_of(request)
    session_of(web, session_id)
    picture = web.room.photos.find(session_id, name) if web.room.photos else None
    if picture is None:
        raise HTTPException(404)
    return Response(picture, media_type="image/jpeg")


def show_door(request: Request, session_id: str) -> Response:
    """Who stands at the door now; 204 if there is no fresh picture."""
    web = web_of(request)
    session_of(web, session_id)
    still = web.room.instruments.door_still
    picture = still() if still else None
    return Response(picture, media_type="image/jpeg") if picture else Response(status_code=204)


# ---- to verify, and everybody -----------------------------------------------------------------------------------------------

def show_doubts(request: Request, session_id: str) -> Response:
    web = web_of(request)
    session = session_of(web, session_id)
    if session.state not in SHOWN:
        return go(request, page_path(session))
    people = doubted(web.room, session)
    return session_view(request, "doubts.html", session, people=people, open_count=len(session.open_doubts), names=_names(web, people),
                        may_sign=session.state in (*DOORS_OPEN, State.CLOSING))


def _names(web: Web, people: list[Someone]) -> Mapping[str, str]:
    """staff_id -> name of whoever signed or settled."""
    ids = {each for p in people if p.doubt for each in (*p.doubt.signed, *([p.doubt.settled.by] if p.doubt.settled else []))}
    return {each: web.room.staff.name(each) for each in ids}


def show_people(request: Request, session_id: str) -> Response:
    web = web_of(request)
    session = session_of(web, session_id)
    if session.state not in SHOWN:
        return go(request, page_path(session))
    return session_view(request, "people.html", session, people=everybody(web.room, session), counts=attendance.counts(web.room, session))


def show_person(request: Request, session_id: str) -> Response:
    web, candidate_id = web_of(request), request.query_params.get("candidate", "")
    session = session_of(web, session_id)
    candidate = _candidate(web, session, candidate_id)
    if candidate is None:
        raise Refusal("unknown-candidate")
    if session.state not in SHOWN:
        return go(request, page_path(session))
    may = {kind.__name__ for kind in machine.TABLE[session.state]}
    early = session.state is State.RUNNING and not door.may_leave(session, web.room.clock.now())
    return session_view(request, "person.html", session, person=someone(session, candidate), may=may, early=early,
                        earliest_min=door.earliest_leave_min(session),
                        history=_history(web, session, candidate_id))


def _history(web: Web, session: Session, candidate_id: str) -> list[dict[str, Any]]:
    """What the journal says of the candidate, oldest first: time, words' key, who, reason."""
    told = (e.CandidateAdmitted, e.AdmissionRefused, e.SeatAssigned, e.CandidateLeft, e.CandidateReturned, e.IdentityDoubted,
            e.DoubtSigned, e.DoubtSettled, e.AttendanceCorrected)
    rows: list[dict[str, Any]] = []
    for row in web.room.events(session.id):
        fact = row.event
        if isinstance(fact, told) and fact.candidate_id == candidate_id:
            by = getattr(fact, "by", None) or getattr(fact, "staff_id", None)
            second = getattr(fact, "second", None)
            rows.append({
                "at_us": fact.at.utc_us, "kind": fact.kind, "code": getattr(fact, "code", None) or getattr(fact, "exception", None),
                "seat": getattr(fact, "seat", None) or "", "before": getattr(fact, "before", None) or "",
                "word": getattr(fact, "outcome", None) or getattr(fact, "result", None) or "", "final": getattr(fact, "final", False),
                "method": getattr(fact, "method", None) or "", "by": [web.room.staff.name(each) for each in (by, second) if each],
                "reason": getattr(fact, "reason", None) or ""})
    return rows


# ---- what people press ------------------------------------------------------------------------------------------------------

async def admit(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.admit_by_hand(session_id, form.get("candidate", ""), by, form.get("exception", ""), form.get("reason", ""),
                                 form.get("pin", ""))


async def despite(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.admit_despite(session_id, form.get("candidate", ""), by, form.get("pin", ""), form.get("reason", ""))


async def off_roster(web: Web, session_id: str, by: str, form: Fields) -> None:
    text = form.get("seq", "")
    seq = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    await web.room.admit_off_roster(session_id, seq, by, form.get("pin", ""), form.get("second", ""), form.get("second_pin", ""),
                                    form.get("reason", ""))


async def seat(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.assign_seat(session_id, form.get("candidate", ""), form.get("seat", ""), by, form.get("reason", ""))


async def left(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.mark_left(session_id, form.get("candidate", ""), by, final=form.get("final") == "yes", reason=form.get("reason", ""))


async def returned(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.mark_returned(session_id, form.get("candidate", ""), by, form.get("reason", ""))


async def doubt(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.raise_doubt(session_id, form.get("candidate", ""), by, form.get("reason", ""))


async def sign_doubt(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.sign_doubt(session_id, form.get("candidate", ""), form.get("staff_id", ""), form.get("pin", ""))


async def settle_doubt(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.settle_doubt(session_id, form.get("candidate", ""), by, form.get("pin", ""), form.get("outcome", ""),
                                form.get("reason", ""))


async def correct(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.correct_attendance(session_id, form.get("candidate", ""), by, form.get("pin", ""), form.get("result", ""),
                                      form.get("reason", ""))


VERBS: Final[Mapping[str, tuple[Verb, str]]] = {
    "admit": (admit, ""), "despite": (despite, ""), "off-roster": (off_roster, ""), "seat": (seat, "people"), "left": (left, "people"),
    "returned": (returned, "people"), "doubt": (doubt, "doubts"), "sign-doubt": (sign_doubt, "doubts"),
    "settle-doubt": (settle_doubt, "doubts"), "correct": (correct, "people")}
"""The last part of the address -> the verb, and the page on which it is seen (empty: the session's own)."""


def add_routes(app: FastAPI) -> None:
    app.get("/s/{session_id}/manual")(show_manual)
    app.post("/s/{session_id}/manual/find")(find)
    app.get("/s/{session_id}/door.jpg")(show_door)
    app.get("/s/{session_id}/photo/{name}")(show_photo)
    app.get("/s/{session_id}/doubts")(show_doubts)
    app.get("/s/{session_id}/people")(show_people)
    app.get("/s/{session_id}/person")(show_person)
    for word, (verb, to) in VERBS.items():
        app.post(f"/s/{{session_id}}/{word}", name=f"act-{word}")(acts.handler(verb, to))
