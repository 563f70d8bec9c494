"""Who is who, and who may open what: one table from route to roles, a guard that reads it, log-in and log-out.

Roles: `public`; `any` (logged in); the account's own (`staff`, `auditor`, `sysadmin`, from the staff book); `chief` and `proctor` of
the session named in the path, from *its plan*; `duty` (chief or proctor of one of today's sessions). A route that the table does
not list is refused to everybody, and a test fails. The guard runs before each handler; nothing else decides about access, but the
Room asks again for every verb. Caller: `web.app`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response

from edge.sessions.machine import LIVE, State
from edge.storage.staff import TooSoon
from edge.web.desk import Web
from edge.web.pages import form_of, language_of, page

log = logging.getLogger(__name__)

PUBLIC, ANY, CHIEF, PROCTOR, DUTY, AUDITOR, SYSADMIN = "public", "any", "chief", "proctor", "duty", "auditor", "sysadmin"
_ROOM: Final = frozenset({CHIEF, PROCTOR})
_LOOK: Final = frozenset({CHIEF, PROCTOR, SYSADMIN})

RULES: Mapping[tuple[str, str], frozenset[str]] = {
    ("GET", "/static/{name:path}"): frozenset({PUBLIC}),
    ("GET", "/login"): frozenset({PUBLIC}),
    ("POST", "/login"): frozenset({PUBLIC}),
    ("POST", "/language"): frozenset({PUBLIC}),
    ("GET", "/gate"): frozenset({PUBLIC}),              # the entrance display: one verdict, masked, no list
    ("GET", "/gate/live"): frozenset({PUBLIC}),
    ("POST", "/logout"): frozenset({ANY}),
    ("GET", "/"): frozenset({ANY}),
    ("GET", "/now"): frozenset({ANY}),
    ("GET", "/news/{topic}"): frozenset({ANY}),         # numbers of versions and the time; what changed is asked for by role
    ("GET", "/s/{session_id}"): frozenset({*_LOOK, AUDITOR}),
    ("GET", "/s/{session_id}/preflight"): _LOOK,
    ("POST", "/s/{session_id}/begin"): frozenset({CHIEF}),
    ("POST", "/s/{session_id}/sign-in"): _ROOM,         # by PIN of whoever signs
    ("POST", "/s/{session_id}/exits"): _ROOM,
    ("GET", "/s/{session_id}/waive"): frozenset({CHIEF}),
    ("POST", "/s/{session_id}/waive"): frozenset({CHIEF}),
    ("POST", "/s/{session_id}/open"): frozenset({CHIEF}),
    ("GET", "/s/{session_id}/import"): frozenset({CHIEF}),          # with a second person's PIN (R5)
    ("POST", "/s/{session_id}/import"): frozenset({CHIEF}),         # shows, writes nothing
    ("POST", "/s/{session_id}/import/confirm"): frozenset({CHIEF}),
    ("GET", "/s/{session_id}/cancel"): frozenset({CHIEF}),
    ("POST", "/s/{session_id}/cancel"): frozenset({CHIEF}),
    ("GET", "/s/{session_id}/checkin"): _ROOM,
    ("POST", "/s/{session_id}/find"): _ROOM,            # a proctor of an exam: with a second person's PIN
    ("POST", "/s/{session_id}/wedge"): _ROOM,
    ("POST", "/s/{session_id}/join"): _ROOM,            # a class only
    ("GET", "/s/{session_id}/sheet"): frozenset({CHIEF, PROCTOR, AUDITOR}),
    ("GET", "/s/{session_id}/sheet.csv"): frozenset({CHIEF, PROCTOR, AUDITOR}),
    ("GET", "/s/{session_id}/absent"): frozenset({CHIEF, PROCTOR, AUDITOR}),
    ("POST", "/s/{session_id}/start"): frozenset({CHIEF}),
    ("GET", "/s/{session_id}/manual"): _ROOM,           # F2; what is off the list is the chief's, and asks for a second person's PIN
    ("POST", "/s/{session_id}/manual/find"): _ROOM,
    ("GET", "/s/{session_id}/door.jpg"): _ROOM,
    ("GET", "/s/{session_id}/photo/{name}"): _ROOM,
    ("POST", "/s/{session_id}/admit"): _ROOM,
    ("POST", "/s/{session_id}/despite"): frozenset({CHIEF}),
    ("POST", "/s/{session_id}/off-roster"): frozenset({CHIEF}),
    ("GET", "/s/{session_id}/doubts"): _ROOM,
    ("POST", "/s/{session_id}/doubt"): _ROOM,
    ("POST", "/s/{session_id}/sign-doubt"): _ROOM,      # by PIN of whoever signs
    ("POST", "/s/{session_id}/settle-doubt"): frozenset({CHIEF}),
    ("GET", "/s/{session_id}/people"): _ROOM,
    ("GET", "/s/{session_id}/person"): _ROOM,
    ("POST", "/s/{session_id}/seat"): _ROOM,
    ("POST", "/s/{session_id}/left"): _ROOM,
    ("POST", "/s/{session_id}/returned"): _ROOM,
    ("POST", "/s/{session_id}/correct"): frozenset({CHIEF}),
    ("GET", "/s/{session_id}/incidents"): _ROOM,
    ("POST", "/s/{session_id}/incident"): _ROOM,
    ("POST", "/s/{session_id}/confirm-incident"): _ROOM,            # by PIN of both who sign
    ("POST", "/s/{session_id}/dismiss-incident"): frozenset({CHIEF}),
    ("GET", "/s/{session_id}/run"): _ROOM,
    ("POST", "/s/{session_id}/end"): frozenset({CHIEF}),
    ("GET", "/s/{session_id}/abort"): frozenset({CHIEF}),
    ("POST", "/s/{session_id}/abort"): frozenset({CHIEF}),
    ("GET", "/s/{session_id}/close"): _ROOM,
    ("POST", "/s/{session_id}/seal"): frozenset({CHIEF}),
    ("GET", "/s/{session_id}/done"): frozenset({CHIEF, PROCTOR, AUDITOR}),
    ("GET", "/still/{stream}.jpg"): frozenset({DUTY, SYSADMIN}),
    ("GET", "/live/{stream}"): frozenset({DUTY, SYSADMIN}),
    ("GET", "/live/{stream}.m3u8"): frozenset({DUTY, SYSADMIN}),
    ("GET", "/live/{stream}/{seq}.mp4"): frozenset({DUTY, SYSADMIN}),
    ("GET", "/archive"): frozenset({AUDITOR}),
    ("GET", "/archive/{session_id}"): frozenset({AUDITOR}),
    ("POST", "/archive/{session_id}/verify"): frozenset({AUDITOR}),
    ("GET", "/archive/{session_id}/play/{stream}"): frozenset({AUDITOR}),
    ("GET", "/archive/{session_id}/export"): frozenset({AUDITOR}),
    ("POST", "/archive/{session_id}/export"): frozenset({AUDITOR}),                 # whole names: by PIN, with a reason
    ("GET", "/archive/{session_id}/export.zip"): frozenset({AUDITOR}),
    ("GET", "/archive/{session_id}/export/{ticket}.zip"): frozenset({AUDITOR}),
    ("GET", "/archive/{session_id}/dossier"): frozenset({AUDITOR}),         # whole names and pictures: for paper
    ("GET", "/archive/{session_id}/picture/{stream}/{seq}.jpg"): frozenset({AUDITOR}),
    ("POST", "/archive/{session_id}/dossier"): frozenset({AUDITOR}),
    ("POST", "/archive/{session_id}/dossier.pdf"): frozenset({AUDITOR}),
    ("POST", "/archive/find"): frozenset({AUDITOR}),                        # posted: no number in an address
    ("GET", "/media/{session_id}/{stream}.m3u8"): frozenset({AUDITOR}),
    ("GET", "/media/{session_id}/{stream}/{seq}.mp4"): frozenset({AUDITOR}),
    ("GET", "/keeping"): frozenset({AUDITOR, SYSADMIN}),
    ("POST", "/keeping/approve"): frozenset({AUDITOR}),             # by PIN
    ("GET", "/keeping/{session_id}"): frozenset({AUDITOR}),
    ("POST", "/keeping/{session_id}/hold"): frozenset({AUDITOR}),   # by PIN, with a reason; so are the next two
    ("POST", "/keeping/{session_id}/release"): frozenset({AUDITOR}),
    ("POST", "/keeping/{session_id}/lengthen"): frozenset({AUDITOR}),
    ("GET", "/admin"): frozenset({SYSADMIN}),
}


@dataclass(frozen=True, slots=True)
class Who:
    """The person behind a request. `roles` hold for this request: its path names the session that they are of."""

    staff_id: str
    name: str
    account: str
    roles: frozenset[str]
    token: str

    def may(self, method: str, path: str) -> bool:
        return bool(RULES[method, path] & self.roles)


class NotLoggedIn(Exception):
    """Nobody is logged in, and the route asks for somebody."""


class NotAllowed(Exception):
    """Somebody is logged in who may not do this."""


def web_of(request: Request) -> Web:
    return cast(Web, request.app.state.web)


def who_of(request: Request) -> Who:
    """The person; the guard has seen to it that there is one. Not for public routes."""
    return cast(Who, request.state.who)


def cookie_name(request: Request) -> str:
    """`__Host-` binds the cookie to this host and to HTTPS; plain HTTP (a desk, loopback) cannot have it."""
    return "__Host-edge" if request.url.scheme == "https" else "edge"


async def guard(request: Request) -> None:
    """Runs before every handler. NotLoggedIn or NotAllowed, or `request.state.who` is set (None on a public route if nobody is in)."""
    rule = RULES.get((request.method, str(getattr(request.scope.get("route"), "path", ""))), frozenset())
    request.state.who = who = await find_who(web_of(request), request.cookies.get(cookie_name(request), ""),
                                             str(request.path_params.get("session_id", "")))
    if PUBLIC in rule:
        return
    if who is None:
        raise NotLoggedIn
    if not rule & who.roles:
        raise NotAllowed


async def find_who(web: Web, token: str, session_id: str) -> Who | None:
    """The person with this token, and the roles the person has for one session ('' for none)."""
    staff_id = await web.desk.logins.find(token) if token else None
    member = web.room.staff.members.get(staff_id) if staff_id else None
    if staff_id is None or member is None:
        return None
    roles = {ANY, member.role}
    session = web.room.state.sessions.get(session_id)
    if session is not None and (role := session.plan.staff.get(staff_id)) in _ROOM:
        roles.add(str(role))                # only these two: a plan may not make an auditor or an administrator
    if _on_duty(web, staff_id):
        roles.add(DUTY)
    return Who(staff_id, member.name, member.role, frozenset(roles), token)


def _on_duty(web: Web, staff_id: str) -> bool:
    room = web.room
    today = room.local_date(room.clock.now().utc_us)
    return any(session.plan.staff.get(staff_id) in _ROOM and
               (session.state in LIVE or (session.state in (State.PLANNED, State.PREFLIGHT)
                                          and room.local_date(session.plan.scheduled_start_us) == today))
               for session in room.state.sessions.values())


def safe_next(text: str) -> str:
    """A path of this site to go to after the log-in; anything else becomes `/`."""
    plain = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if plain else "/"


# ---- log-in and log-out ---------------------------------------------------------------------------------------------------

async def show_login(request: Request) -> Response:
    if request.state.who is not None:
        return RedirectResponse(safe_next(request.query_params.get("next", "/")), 303)
    return _login_page(request, next_path=request.query_params.get("next", "/"))


async def log_in(request: Request) -> Response:
    """Staff id and password. A wrong pair says no more than that it is wrong; many tries are slowed, never locked."""
    web, form = web_of(request), await form_of(request)
    staff_id, next_path = form.get("staff_id", "").strip(), safe_next(form.get("next", "/"))
    try:
        good = await asyncio.to_thread(web.room.staff.check_password, staff_id, form.get("password", ""))
    except TooSoon as wait:
        log.info("login-slowed")
        return _login_page(request, 429, next_path, staff_id, "login.too-soon", seconds=wait.seconds)
    if not good:
        log.info("login-refused")
        return _login_page(request, 401, next_path, staff_id, "login.wrong")
    await web.desk.logins.drop(request.cookies.get(cookie_name(request), ""))
    token = await web.desk.logins.create(staff_id)
    log.info("login staff=%s", staff_id)
    response = RedirectResponse(next_path, 303)
    response.set_cookie(cookie_name(request), token, httponly=True, samesite="strict", path="/", secure=request.url.scheme == "https")
    return response


async def log_out(request: Request) -> Response:
    await web_of(request).desk.logins.drop(who_of(request).token)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(cookie_name(request), httponly=True, samesite="strict", path="/", secure=request.url.scheme == "https")
    return response


async def set_language(request: Request) -> Response:
    form = await form_of(request)
    response = RedirectResponse(safe_next(form.get("back", "/")), 303)
    response.set_cookie("lang", language_of(request, form.get("to", "")), httponly=True, samesite="strict", path="/", max_age=31_536_000)
    return response


def _login_page(request: Request, status: int = 200, next_path: str = "/", staff_id: str = "", trouble: str = "",
                **facts: object) -> Response:
    text = web_of(request).texts.say(language_of(request), trouble, **facts) if trouble else ""
    return page(request, "login.html", status, next_path=safe_next(next_path), staff_id=staff_id, trouble=text,
                demo_logins=web_of(request).desk.demo_logins)


def add_routes(app: FastAPI) -> None:
    app.get("/login")(show_login)
    app.post("/login")(log_in)
    app.post("/logout")(log_out)
    app.post("/language")(set_language)
