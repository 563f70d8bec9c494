"""Until when things are kept: what the next days bring, what is held, whether the disk will do; holds, longer terms, consent.

The keeper reckons (`desk.keeping`), the Room's verbs change: auditors only, by PIN, with a reason; a system administrator may look.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response

from edge.room import Refusal
from edge.storage.staff import TooSoon
from edge.web.access import web_of, who_of
from edge.web.acts import Fields, refused
from edge.web.desk import Web
from edge.web.pages import form_of, go, page
from edge.web.proctor import facts_of, session_of

AHEAD_DAYS = 30


async def keeping(request: Request) -> Response:
    """The report, and the question that a halted pass asks."""
    desk = web_of(request).desk.keeping
    if desk is None:
        raise HTTPException(404)
    report = await desk.shown(AHEAD_DAYS)
    return page(request, "keeping.html", report=report, due=[line for line in report["sessions"] if line["expired"] and not line["bars"]])


def session_keeping(request: Request, session_id: str) -> Response:
    web = web_of(request)
    session = session_of(web, session_id)
    return page(request, "keeping-session.html", **facts_of(web, session))


async def approve(web: Web, session_id: str, by: str, form: Fields) -> None:
    if web.desk.keeping is None:
        raise Refusal("nothing-due")
    await web.desk.keeping.approve(form.get("digest", ""), by, form.get("pin", ""))


async def hold(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.place_hold(session_id, by, form.get("pin", ""), form.get("reason", ""))


async def release(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.release_hold(session_id, form.get("hold_id", ""), by, form.get("pin", ""), form.get("reason", ""))


async def lengthen(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.lengthen(session_id, form.get("keep_until", ""), by, form.get("pin", ""), form.get("reason", ""))


def handler(verb: Callable[[Web, str, str, Fields], Awaitable[None]]) -> Callable[..., Awaitable[Response]]:
    """The posted form becomes one verb, once; back to the page that shows it, or the refusal in words."""
    async def handle(request: Request) -> Response:
        web, by, form = web_of(request), who_of(request).staff_id, await form_of(request)
        session_id = str(request.path_params.get("session_id", ""))
        to = f"/keeping/{session_id}" if session_id else "/keeping"

        async def once() -> str:
            if session_id:
                session_of(web, session_id)
            await verb(web, session_id, by, form)
            return to

        try:
            return go(request, await web.once.do(by, f"{request.url.path} {form['request_id']}" if form.get("request_id") else "", once))
        except Refusal as refusal:
            return refused(request, refusal.word, refusal.facts)
        except TooSoon as wait:
            return refused(request, "too-soon", {"seconds": wait.seconds})

    return handle


def add_routes(app: FastAPI) -> None:
    app.get("/keeping")(keeping)
    app.post("/keeping/approve")(handler(approve))
    app.get("/keeping/{session_id}")(session_keeping)
    for word, verb in (("hold", hold), ("release", release), ("lengthen", lengthen)):
        app.post(f"/keeping/{{session_id}}/{word}", name=f"keep-{word}")(handler(verb))
