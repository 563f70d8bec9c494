"""A session's export from the page: what it would be, who signs for whole names, and the download, which goes on where it broke off.

The ZIP is never made: any byte of it is read as it is asked for, one request at a time, in a thread of its own behind everybody else.
That a session leaves is a fact in the journal before the first byte; parts of a download that is known by now are not written again.
Ranges as RFC 9110 section 14 (one range; several are answered with the whole), `ETag` and `If-Range` by the export's id. Caller: `web.app`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from edge.exported.copying import gentle
from edge.exported.zip64 import Archive
from edge.room import Refusal
from edge.storage.staff import TooSoon
from edge.web.access import Who, web_of, who_of
from edge.web.acts import refused
from edge.web.desk import LaidOut, PageExports, Web
from edge.web.media import nothing
from edge.web.pages import form_of, go, page
from edge.web.proctor import facts_of, session_of

log = logging.getLogger(__name__)

MOST_DOWNLOADS = 50
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Download:
    """One that has been written down: whose, and what."""

    staff_id: str
    session: str
    laid: LaidOut


class Downloads:
    """What has begun since the start of this process, and the one thread that reads for all of them."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="export", initializer=gentle)
        self._begun: dict[str, Download] = {}
        self._turn = asyncio.Lock()

    def find(self, ticket: str, who: Who, session: str) -> Download | None:
        found = self._begun.get(ticket)
        return found if found and (found.staff_id, found.session) == (who.staff_id, session) else None

    def keep(self, download: Download) -> Download:
        self._begun[download.laid.ticket] = download
        while len(self._begun) > MOST_DOWNLOADS:
            del self._begun[next(iter(self._begun))]
        return download

    async def masked(self, exports: PageExports, who: Who, session: str, laid: LaidOut, *, anew: bool) -> Download:
        """The one of this person with these very bytes; `anew`, or if there is none: written down first."""
        async with self._turn:
            for known in self._begun.values():
                if not anew and (known.staff_id, known.session, known.laid.archive.id) == (who.staff_id, session, laid.archive.id):
                    return known
            return self.keep(Download(who.staff_id, session, await exports.begin(laid)))


def _exports(web: Web, session_id: str) -> PageExports:
    """What hands out. Refusal if the session has no signed manifest."""
    session = session_of(web, session_id)
    if web.desk.exports is None or not any(revision.digest for revision in session.revisions):
        raise Refusal("no-manifest")
    return web.desk.exports


async def show(request: Request, session_id: str) -> Response:
    """What the export would be, and the ways to get it."""
    web, who = web_of(request), who_of(request)
    laid = await _exports(web, session_id).lay_told(session_id, who.staff_id)
    return page(request, "export.html", **facts_of(web, session_of(web, session_id)), files=len(laid.archive.members),
                bytes=laid.archive.size, missing=laid.missing, export_id=laid.archive.id)


async def sign(request: Request, session_id: str) -> Response:
    """An auditor signs for whole names and numbers; then the browser is sent to the download."""
    web, who, form = web_of(request), who_of(request), await form_of(request)
    exports = _exports(web, session_id)
    try:
        laid = await exports.begin(await exports.lay_told(session_id, who.staff_id, full=True, reason=form.get("reason", ""),
                                                          pin=form.get("pin", "")))
    except TooSoon as wait:
        return refused(request, "too-soon", {"seconds": wait.seconds})
    _downloads(request).keep(Download(who.staff_id, session_id, laid))
    return go(request, f"/archive/{session_id}/export/{laid.ticket}.zip")


async def send_masked(request: Request, session_id: str) -> Response:
    """The masked export. Asked for from its beginning it is a new one; a later part of what this person has begun is not."""
    web, who = web_of(request), who_of(request)
    exports = _exports(web, session_id)
    laid = await exports.lay_told(session_id, who.staff_id)
    wanted = _wanted(request, laid.archive)
    if wanted is None:
        return _no_such_part(laid.archive)
    return await _send(request, await _downloads(request).masked(exports, who, session_id, laid, anew=wanted.start == 0), exports, wanted)


async def send_signed(request: Request, session_id: str, ticket: str) -> Response:
    """An export that was signed for, as long as this process knows it; 404 in words afterwards: it must be signed for anew."""
    web, found = web_of(request), _downloads(request).find(ticket, who_of(request), session_id)
    if found is None:
        return nothing(request, "export.gone")
    wanted = _wanted(request, found.laid.archive)
    if wanted is None:
        return _no_such_part(found.laid.archive)
    return await _send(request, found, _exports(web, session_id), wanted)


def _downloads(request: Request) -> Downloads:
    known: Downloads = request.app.state.downloads
    return known


# ---- bytes ---------------------------------------------------------------------------------------------------------------

def _wanted(request: Request, archive: Archive) -> range | None:
    """The bytes that are asked for; None if there are no such bytes (RFC 9110, 14.1.2). What is not understood means the whole."""
    asked, condition = request.headers.get("range", ""), request.headers.get("if-range")
    form = _RANGE.fullmatch(asked.replace(" ", ""))
    if form is None or form[1] + form[2] == "" or (condition is not None and condition != _tag(archive)):
        return range(archive.size)
    if not form[1]:
        found = range(max(0, archive.size - int(form[2])), archive.size)
    else:
        found = range(int(form[1]), min(int(form[2]) + 1 if form[2] else archive.size, archive.size))
        if form[2] and int(form[2]) < int(form[1]):
            return range(archive.size)
    return found if len(found) else None


def _tag(archive: Archive) -> str:
    return f'"{archive.id}"'


def _no_such_part(archive: Archive) -> Response:
    return PlainTextResponse("", 416, {"Content-Range": f"bytes */{archive.size}", "Accept-Ranges": "bytes"})


async def _send(request: Request, known: Download, exports: PageExports, wanted: range) -> Response:
    archive = known.laid.archive
    await exports.hold(known.session, known.laid.ticket)
    headers = {"Content-Length": str(len(wanted)), "Accept-Ranges": "bytes", "ETag": _tag(archive),
               "Content-Disposition": f'attachment; filename="{known.session}.zip"'}
    if len(wanted) < archive.size:
        headers["Content-Range"] = f"bytes {wanted.start}-{wanted.stop - 1}/{archive.size}"
    return StreamingResponse(_bytes(web_of(request), known, exports, wanted, _downloads(request).thread),
                             206 if len(wanted) < archive.size else 200, headers, media_type="application/zip")


async def _bytes(web: Web, known: Download, exports: PageExports, wanted: range, thread: ThreadPoolExecutor) -> AsyncIterator[bytes]:
    """The pieces, each read in the export's thread. A file that changed meanwhile breaks it off: the browser sees that it is not whole."""
    loop, archive = asyncio.get_running_loop(), known.laid.archive
    pieces = archive.read(wanted.start, wanted.stop)

    def read(pieces: Generator[bytes]) -> bytes:
        piece = next(pieces, b"")
        web.desk.pace(len(piece))
        return piece

    try:
        while piece := await loop.run_in_executor(thread, read, pieces):
            yield piece
    finally:
        await asyncio.shield(loop.run_in_executor(thread, pieces.close))
    log.info("export-sent session=%s staff=%s from=%d bytes=%d altered=%d", known.session, known.staff_id, wanted.start, len(wanted),
             len(archive.altered))
    if wanted.stop == archive.size:
        await exports.end(known.session, known.staff_id, known.laid.ticket, len(archive.members), archive.size)


def add_routes(app: FastAPI) -> None:
    app.state.downloads = Downloads()
    app.get("/archive/{session_id}/export")(show)
    app.post("/archive/{session_id}/export")(sign)
    app.get("/archive/{session_id}/export.zip")(send_masked)
    app.get("/archive/{session_id}/export/{ticket}.zip")(send_signed)
