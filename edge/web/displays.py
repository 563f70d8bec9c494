"""What stands where the public sees it: the entrance display. And the administrator's plain list of what the room consists of.

The entrance display shows one verdict, masked, with the seat and the next instruction, for a few seconds, then the idle text; never
a list. It asks for no log-in, because it hangs on the room's own network and tells nobody more than the person who stands there.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from edge.clock import US
from edge.room import Room
from edge.sessions.machine import State
from edge.web import views
from edge.web.access import web_of
from edge.web.pages import language_of, local_time, page
from edge.web.texts import LANGUAGES

SHOWN_US = 8 * US
"""A verdict stays this long unless the next card comes (candidates want to see that they were checked in: at least 3 s, U4)."""


def gate(request: Request) -> Response:
    web, language = web_of(request), language_of(request)
    other = next(each for each in LANGUAGES if each != language)
    verdict = web.room.last_verdict
    if verdict is not None and web.room.clock.now().us_since(verdict.at) > SHOWN_US:
        verdict = None
    is_open = _is_open(web.room)
    if verdict is None:
        beside = web.texts.say(other, "gate.idle" if is_open else "gate.closed")
    else:
        beside = web.texts.word(other, "code", verdict.code, session=verdict.elsewhere or "",
                                time=local_time(verdict.first_at_utc_us, "%H:%M") if verdict.first_at_utc_us else "")
        if verdict.seat and verdict.code == "OK":
            beside += " · " + web.texts.say(other, "verdict.seat", seat=verdict.seat)
    return page(request, "gate.html", verdict=verdict, open=is_open, beside=beside,
                verdict_light=views.light_of(verdict) if verdict else "")


def _is_open(room: Room) -> bool:
    session = room.state.sessions.get(room.state.live or "")
    return session is not None and session.state in (State.CHECKIN, State.RUNNING)


def admin(request: Request) -> Response:
    """Devices, streams, staff without secrets; nothing can be changed here."""
    web, room = web_of(request), web_of(request).room
    started = room.state.started
    members = sorted(room.staff.members.values(), key=lambda member: (member.role, member.staff_id))
    return page(request, "admin.html", tiles=views.tiles(web, language_of(request)), members=members,
                module=room.instruments.reader().module, version=started.version if started else None,
                device=started.device_id if started else None, clock_steps=len(room.state.clock_steps))


def add_routes(app: FastAPI) -> None:
    app.get("/gate")(gate)
    app.get("/admin")(admin)
