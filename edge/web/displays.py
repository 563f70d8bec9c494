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
from edge.web import attendance, views
from edge.web.access import web_of
from edge.web.pages import family, language_of, local_time, page
from edge.web.texts import LANGUAGES

SHOWN_US = 8 * US
"""A verdict stays this long unless the next card comes (candidates want to see that they were checked in: at least 3 s, U4)."""


def gate(request: Request) -> Response:
    web, language = web_of(request), language_of(request)
    other = next(each for each in LANGUAGES if each != language)
    verdict = web.room.last_verdict
    if verdict is not None and web.room.clock.now().us_since(verdict.at) > SHOWN_US:
        verdict = None
    there = verdict.session if verdict and verdict.session else web.room.state.live
    is_class = attendance.is_class(web.room.state.sessions.get(there or ""))
    is_open = _is_open(web.room)
    broken = bool(is_open and views.reader_fault(web.room))
    if verdict is None and broken:
        beside = web.texts.say(other, "gate.reader-lost")
    elif verdict is None:
        idle, shut = ("gate.class-idle", "class.closed") if is_class else ("gate.idle", "gate.closed")
        beside = web.texts.say(other, idle if is_open else shut)
    else:
        beside = web.texts.word(other, family("code", verdict.code, is_class), verdict.code, session=verdict.elsewhere or "",
                                room=verdict.room, time=local_time(verdict.time_us, "%H:%M") if verdict.time_us else "")
        if verdict.seat and verdict.code in ("OK", "E-NO-CARD"):
            beside += " · " + web.texts.say(other, "verdict.seat", seat=verdict.seat)
    return page(request, "gate.html", verdict=verdict, open=is_open, broken=broken, beside=beside,
                is_class=is_class, **views.shown(web.room, verdict))


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
