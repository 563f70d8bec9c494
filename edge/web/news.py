"""Server-sent events: "something changed" with the room's version, and a heartbeat with the time. Never a person's data.

On connecting and on each change one `snapshot` whose id is the version; the page then asks for its panels anew by its own role, so
that a reconnect after any outage shows exactly what is. Every 2 s a `beat`. An open stream keeps its log-in alive; when the log-in
has ended, `bye` is sent and the stream ends. Times are real seconds, for a browser waits for them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse

from edge.web import views
from edge.web.access import find_who, web_of, who_of
from edge.web.desk import Web
from edge.web.pages import language_of, page

BEAT_S = 2.0
LOOK_S = 60.0           # how often an open stream asks whether its log-in still stands


def event(name: str, data: dict[str, int], number: int | None = None) -> bytes:
    """One event of the text/event-stream form (WHATWG HTML, 9.2)."""
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n".encode()


async def stream(web: Web, token: str | None, look_s: float = LOOK_S) -> AsyncGenerator[bytes, None]:
    """Events until the browser goes away, or the log-in of `token` ends (None: a public display); asked for every `look_s` seconds."""
    room = web.room
    waker, told, looked = room.changed(), -1, asyncio.get_running_loop().time()
    yield b"retry: 1000\n\n"
    try:
        while True:
            waker.clear()
            if (version := room.version) != told:
                told = version
                yield event("snapshot", {"version": version, "now_ms": room.clock.now().utc_us // 1000}, version)
            try:
                await asyncio.wait_for(waker.wait(), BEAT_S)
            except TimeoutError:
                yield event("beat", {"now_ms": room.clock.now().utc_us // 1000})
            now = asyncio.get_running_loop().time()
            if token is not None and now - looked >= look_s:
                looked = now
                if await find_who(web, token, "") is None:
                    yield event("bye", {})
                    return
    finally:
        room.forget(waker)


def _answer(web: Web, token: str | None) -> Response:
    return StreamingResponse(stream(web, token), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def news(request: Request, topic: str) -> Response:
    """`topic`: a session's id, or `room`. It limits nothing: an event holds no data. An unknown one is 404."""
    if topic != "room" and topic not in web_of(request).room.state.sessions:
        return Response(status_code=404)
    return _answer(web_of(request), who_of(request).token)


async def gate_live(request: Request) -> Response:
    return _answer(web_of(request), None)


def now(request: Request) -> Response:
    """The device strip, and the captions of one stream (`tiles`: its id) or all (`1`): what changes without a fact in the journal."""
    web, language, asked = web_of(request), language_of(request), request.query_params.get("tiles", "")
    if asked in web.room.instruments.streams:
        return page(request, "now.html", tiles=[views.tile(web, language, asked)])
    return page(request, "now.html", tiles=views.tiles(web, language) if asked else [])


def add_routes(app: FastAPI) -> None:
    app.get("/news/{topic}")(news)
    app.get("/gate/live")(gate_live)
    app.get("/now")(now)
