"""The pages of an exam day: today's sessions, preflight, check-in, running, closing, done. They read; `acts` does.

Each session page sends the browser on when the session has moved to another state, so that every open page follows the room.
Handlers are plain functions: FastAPI runs them beside the event loop, and everything they read is a snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from edge.room import Refusal
from edge.sessions import preflight
from edge.sessions.machine import Session, State
from edge.web import advice, attendance, people, views
from edge.web.access import AUDITOR, CHIEF, PROCTOR, SYSADMIN, web_of, who_of
from edge.web.desk import Web
from edge.web.pages import go, is_htmx, language_of, page

TODO = "todo"
_ORDER = {preflight.Light.RED: 0, preflight.Light.AMBER: 1, preflight.Light.GREEN: 2}


def session_of(web: Web, session_id: str) -> Session:
    """The session; Refusal `unknown-session` if the room knows none of that id."""
    session = web.room.state.sessions.get(session_id)
    if session is None:
        raise Refusal("unknown-session")
    return session


def page_path(session: Session) -> str:
    """The page that shows the session as it stands."""
    return f"/s/{session.id}/{views.PAGE_OF[session.state]}"


def facts_of(web: Web, session: Session) -> dict[str, Any]:
    """What every page of a session shows."""
    return {"session": session, "chief": web.room.staff.name(session.chief) if session.chief else "",
            "start_us": session.plan.scheduled_start_us, "staff": views.staff_of(web.room, session),
            "is_class": attendance.is_class(session)}


def session_view(request: Request, template: str, session: Session, **view: Any) -> Response:
    """A page of a session. If the browser asks for news of a page that it shows in another state, it is told to load the whole anew."""
    if is_htmx(request) and request.headers.get("X-Shown", session.state) != session.state:
        return Response(status_code=204, headers={"HX-Refresh": "true"})
    return page(request, template, **facts_of(web_of(request), session), **view)


# ---- today ----------------------------------------------------------------------------------------------------------------

def today(request: Request) -> Response:
    web, who = web_of(request), who_of(request)
    first, others = views.todays(web.room)
    oversees = {SYSADMIN, AUDITOR} & who.roles
    mine = {card.id for card in [*([first] if first else []), *others]
            if oversees or web.room.state.sessions[card.id].plan.staff.get(who.staff_id) in (CHIEF, PROCTOR)}
    return page(request, "today.html", first=first, others=others, mine=mine, backlog=web.room.outbox.backlog())


def session_page(request: Request, session_id: str) -> Response:
    """Where the session stands; an auditor goes to its file, an administrator to the list that he may read."""
    session, roles = session_of(web_of(request), session_id), who_of(request).roles
    if {CHIEF, PROCTOR} & roles:
        return go(request, page_path(session))
    return go(request, f"/archive/{session.id}" if AUDITOR in roles else f"/s/{session.id}/preflight")


# ---- before the doors open ------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class Line:
    """One item of the list, in words."""

    key: str
    light: str
    name: str
    text: str
    waived: bool
    can_waive: bool


def lines_of(web: Web, language: str, found: preflight.Preflight, chief: bool) -> list[Line]:
    """The list, worst first."""
    lights = {preflight.Light.RED: views.BAD, preflight.Light.AMBER: views.WARN, preflight.Light.GREEN: views.OK}
    return [Line(i.key, views.WARN if i.waived else TODO if i.todo else lights[i.light], item_name(web, language, i.key),
                 web.texts.word(language, "preflight.word", i.word, **item_facts(web, language, i.facts)), i.waived,
                 chief and i.waivable and not i.waived and i.light is preflight.Light.RED)
            for i in sorted(found.items, key=lambda i: (_ORDER[i.light], i.todo))]


def item_name(web: Web, language: str, key: str) -> str:
    """`stream:front` -> the camera's name; any other item -> its own word."""
    kind, _, stream = key.partition(":")
    return views.stream_name(web, language, stream) if stream else web.texts.word(language, "preflight.item", kind)


def item_facts(web: Web, language: str, facts: Mapping[str, str | int]) -> dict[str, str | int]:
    """The facts of an item with their words in the reader's language."""
    said = dict(facts)
    if "stream" in said:
        said["stream"] = views.stream_name(web, language, str(said["stream"]))
    if "reason" in said:
        said["reason"] = web.texts.word(language, "reason", str(said["reason"]) or "unknown")
    if said.get("rule"):
        said["alarm"] = web.texts.word(language, "alarm", str(said["rule"]))
    if "age_ms" in said:
        said["seconds"] = f"{int(said['age_ms']) / 1000:.1f}"
    if "state" in said:
        said["state"] = web.texts.word(language, "clock-state", str(said["state"]))
    return said


def show_preflight(request: Request, session_id: str) -> Response:
    web, language, who = web_of(request), language_of(request), who_of(request)
    session = session_of(web, session_id)
    if session.state not in (State.PLANNED, State.PREFLIGHT) and {CHIEF, PROCTOR} & who.roles:
        return go(request, page_path(session))
    found = web.room.preflight(session_id)
    may_waive = CHIEF in who.roles and session.state is State.PREFLIGHT
    return session_view(request, "preflight.html", session, items=lines_of(web, language, found, may_waive),
                result=found.result.value, reds=len(found.red), tiles=views.tiles(web, language), exits=session.exits,
                exits_by=web.room.staff.name(session.exits.by) if session.exits else "")


def show_waive(request: Request, session_id: str) -> Response:
    web, language = web_of(request), language_of(request)
    session, asked = session_of(web, session_id), request.query_params.get("item", "")
    if session.state is not State.PREFLIGHT:
        return go(request, page_path(session))
    lines = lines_of(web, language, web.room.preflight(session_id), True)
    item = next((line for line in lines if line.key == asked and line.can_waive), None)
    return session_view(request, "waive.html", session, item=item)


def show_cancel(request: Request, session_id: str) -> Response:
    web = web_of(request)
    session = session_of(web, session_id)
    if session.state not in (State.PLANNED, State.PREFLIGHT):
        return go(request, page_path(session))
    return session_view(request, "calloff.html", session, family="class-cancel" if attendance.is_class(session) else "cancel", act="cancel")


# ---- the session ----------------------------------------------------------------------------------------------------------

def show_checkin(request: Request, session_id: str) -> Response:
    web = web_of(request)
    session = session_of(web, session_id)
    if session.state is not State.CHECKIN:
        return go(request, page_path(session))
    return session_view(request, "checkin.html", session, **verdict_facts(web, session),
                counts=attendance.counts(web.room, session), entries=views.entries(web.room, session),
                strangers=strangers_of(web, session), flagged=advice.to_look_at(web.room, session))


def strangers_of(web: Web, session: Session) -> list[attendance.Stranger]:
    """Who may still join a class; at an exam the pages of exceptions have them."""
    return attendance.strangers(web.room, session) if attendance.is_class(session) else []


def verdict_facts(web: Web, session: Session) -> dict[str, Any]:
    verdict = views.verdict_of(web.room, session)
    return {"reader_fault": views.reader_fault(web.room), "verdict": verdict, **views.shown(web.room, verdict),
            "advice": advice.of_verdict(web.room, session, verdict)}


def show_run(request: Request, session_id: str) -> Response:
    web, language = web_of(request), language_of(request)
    session = session_of(web, session_id)
    if session.state is not State.RUNNING or session.started is None or session.opened is None:
        return go(request, page_path(session))
    started = session.started.at.utc_us
    return session_view(request, "run.html", session, tiles=views.tiles(web, language), counts=attendance.counts(web.room, session),
                entries=views.entries(web.room, session, 20),
                strangers=strangers_of(web, session), flagged=advice.to_look_at(web.room, session), started_us=started,
                **verdict_facts(web, session), cutoff_us=started + session.plan.late_cutoff_min * 60_000_000,
                opened_us=session.opened.at.utc_us,
                end_us=started + session.plan.duration_min * 60_000_000)


def show_abort(request: Request, session_id: str) -> Response:
    """Call the exam off after the doors have opened: cancelled before its start, aborted after it; both go through closing."""
    web = web_of(request)
    session = session_of(web, session_id)
    if session.state not in (State.CHECKIN, State.RUNNING):
        return go(request, page_path(session))
    return session_view(request, "calloff.html", session, family="class-abort" if attendance.is_class(session) else "abort", act="abort")


def show_close(request: Request, session_id: str) -> Response:
    web, language = web_of(request), language_of(request)
    session = session_of(web, session_id)
    if session.state not in (State.CLOSING, State.SEALING) or session.ended is None:
        return go(request, page_path(session))
    return session_view(request, "close.html", session, ended=session.ended, absent=views.absentees(web.room, session),
                doubts=people.doubted(web.room, session),
                counts=attendance.counts(web.room, session), tiles=views.tiles(web, language))


def show_done(request: Request, session_id: str) -> Response:
    web, language = web_of(request), language_of(request)
    session = session_of(web, session_id)
    if session.state not in (State.SEALED, State.CANCELLED):
        return go(request, page_path(session))
    return session_view(request, "done.html", session, counts=attendance.counts(web.room, session),
                revisions=views.revisions(session), gaps=views.gaps(web, language, session))


def add_routes(app: FastAPI) -> None:
    app.get("/")(today)
    app.get("/s/{session_id}")(session_page)
    app.get("/s/{session_id}/preflight")(show_preflight)
    app.get("/s/{session_id}/waive")(show_waive)
    app.get("/s/{session_id}/cancel")(show_cancel)
    app.get("/s/{session_id}/checkin")(show_checkin)
    app.get("/s/{session_id}/run")(show_run)
    app.get("/s/{session_id}/abort")(show_abort)
    app.get("/s/{session_id}/close")(show_close)
    app.get("/s/{session_id}/done")(show_done)
