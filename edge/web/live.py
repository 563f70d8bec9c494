"""Live viewing for those on duty: a page per stream, a playlist up to a few seconds ago, byte ranges of the very files.

That somebody watches candidates live is a fact in the journal of the live session, before the first byte leaves; outside a session it
is a line in the log. Only files that the playlist names can be had, and none without its look at the folder. Caller: `web.app`.
"""

from __future__ import annotations

import asyncio
from typing import cast

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response

from edge.web import views
from edge.web.access import CHIEF, PROCTOR, SYSADMIN, Who, web_of, who_of
from edge.web.desk import Web
from edge.web.media import PLAYLIST, note_view, nothing
from edge.web.pages import is_htmx, language_of, page
from edge.web.window import Window

REASON = "live"


def _window(request: Request, stream: str) -> Window | None:
    """The stream's window; None if no such stream is configured."""
    web, windows = web_of(request), cast(dict[str, Window], request.app.state.windows)
    if stream not in web.room.instruments.streams:
        return None
    return windows.setdefault(stream, Window(web.desk.footage / stream))


async def _note(request: Request, stream: str, *, anew: bool) -> None:
    await note_view(request, web_of(request).room.state.live, stream, anew=anew, reason=REASON)


async def show_live(request: Request, stream: str) -> Response:
    """The page. What it shows is asked for by its own script."""
    web, language, who = web_of(request), language_of(request), who_of(request)
    if stream not in web.room.instruments.streams:
        return nothing(request, "media.no-stream")
    if not is_htmx(request):                    # the open page asks for news of itself: no new look (and each look is news)
        await _note(request, stream, anew=True)
    others = [each for each in views.tiles(web, language) if each.stream != stream]
    status = web.room.instruments.stream_status(stream)
    return page(request, "live.html", tile=views.tile(web, language, stream), others=others, back=_back(web, who),
                plays=status is None or "h265" not in status.codec)


def _back(web: Web, who: Who) -> str:
    """The page of the session that matters now, if this person may open it."""
    first, _ = views.todays(web.room)
    if first is None:
        return "/"
    role = web.room.state.sessions[first.id].plan.staff.get(who.staff_id)
    return f"/s/{first.id}" if role in (CHIEF, PROCTOR) or SYSADMIN in who.roles else "/"


async def show_playlist(request: Request, stream: str) -> Response:
    window = _window(request, stream)
    if window is None:
        return nothing(request, "media.no-stream")
    text = await asyncio.to_thread(window.playlist, web_of(request).room.clock.now(), stream)
    if text is None:
        return nothing(request, "live.nothing")
    await _note(request, stream, anew=False)
    return PlainTextResponse(text, media_type=PLAYLIST)


async def show_file(request: Request, stream: str, seq: str) -> Response:
    """Bytes of a file of the window, also of the one that grows; 206 and 416 as RFC 9110 section 14 has them."""
    window = _window(request, stream)
    number = int(seq) if seq.isascii() and seq.isdigit() and len(seq) <= 10 else -1
    path = await asyncio.to_thread(window.path_of, number) if window is not None else None
    if path is None or path.is_symlink() or not path.is_file():
        return nothing(request, "media.no-segment")
    await _note(request, stream, anew=False)
    return FileResponse(path, media_type="video/mp4")


def add_routes(app: FastAPI) -> None:
    app.state.windows = dict[str, Window]()
    app.get("/live/{stream}.m3u8")(show_playlist)
    app.get("/live/{stream}/{seq}.mp4")(show_file)
    app.get("/live/{stream}")(show_live)
