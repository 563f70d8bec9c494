"""Footage for the auditor: playlists, byte ranges of the very files; and the wall's newest pictures for those on duty.

No path ever comes from the browser: a session, a stream and a number are looked up in the catalog, and the row names the file. That
somebody looks is a fact in the journal before the first byte leaves: with each playlist, and with a file asked for without one.
Segments are read through the catalog only; a file that is gone or does not fit its sidecar becomes a hole in the playlist, and is logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response

from edge.capture.control import picture_path
from edge.capture.sidecar import from_json
from edge.storage.catalog import Segment
from edge.web.access import Who, web_of, who_of
from edge.web.desk import Web
from edge.web.pages import language_of
from edge.web.playlist import Whole, playlist
from edge.web.proctor import session_of

log = logging.getLogger(__name__)

PLAYLIST = "application/vnd.apple.mpegurl"
OLD_PICTURE_MS = 5000       # a picture of a stream that has stopped must not look alive
MOST_REMEMBERED = 1000


class Viewings:
    """Who has been written down as looking at which stream, since the start of this process."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, str], None] = {}
        self._turn = asyncio.Lock()

    async def note(self, web: Web, who: Who, session_id: str | None, stream: str, *, anew: bool, reason: str = "") -> None:
        """Write the fact; not `anew`: only if this person's look at this stream has not been written yet. Without a session: log it."""
        key = (who.token, session_id or "", stream)
        async with self._turn:
            if key in self._known and not anew:
                return
            if session_id is None:
                log.info("viewed staff=%s stream=%s what=%s", who.staff_id, stream, reason)
            else:
                await web.room.viewed(session_id, who.staff_id, stream, reason)
            self._known[key] = None
            while len(self._known) > MOST_REMEMBERED:
                del self._known[next(iter(self._known))]


def nothing(request: Request, key: str) -> Response:
    """404 in words."""
    return PlainTextResponse(web_of(request).texts.say(language_of(request), key) + "\n", 404)


async def show_playlist(request: Request, session_id: str, stream: str) -> Response:
    web = web_of(request)
    session_of(web, session_id)
    segments = web.room.catalog.segments(session_id, stream)
    playable = await asyncio.to_thread(_readable, web.desk.footage, segments)
    if not playable:
        return nothing(request, "media.no-footage")
    await note_view(request, session_id, stream, anew=True)
    return PlainTextResponse(playlist(playable, stream), media_type=PLAYLIST)


def _readable(footage: Path, segments: list[Segment]) -> list[Whole]:
    return [whole for segment in segments if (whole := _whole(footage, segment)) is not None]


def _whole(footage: Path, segment: Segment) -> Whole | None:
    """The segment as it lies on the disk; None, and a line in the log, if it cannot be played."""
    path = footage / segment.path
    try:
        sidecar = from_json(path.with_suffix(".json").read_bytes())
        with path.open("rb") as file:
            header = file.read(sidecar.header_bytes)
        if path.stat().st_size < sidecar.bytes or (sidecar.stream, sidecar.seq) != (segment.stream, segment.seq):
            raise ValueError("the file does not fit its sidecar")
    except (OSError, ValueError) as error:
        log.warning("segment-unplayable stream=%s seq=%d error=%s", segment.stream, segment.seq, type(error).__name__)
        return None
    return Whole(sidecar, hashlib.sha256(header).hexdigest())


async def show_segment(request: Request, session_id: str, stream: str, seq: str) -> Response:
    """Bytes of one segment of a session; 206 and 416 as RFC 9110 section 14 has them."""
    web = web_of(request)
    number = int(seq) if seq.isascii() and seq.isdigit() and len(seq) <= 10 else -1
    row = web.room.catalog.segment(stream, number) if web.room.catalog.in_session(session_id, stream, number) else None
    if row is None:
        return nothing(request, "media.no-segment")
    path = web.desk.footage / row.path
    if not path.resolve().is_relative_to(web.desk.footage.resolve()) or not path.is_file():
        log.warning("segment-missing stream=%s seq=%d", stream, number)
        return nothing(request, "media.no-segment")
    await note_view(request, session_id, stream, anew=False)
    return FileResponse(path, media_type="video/mp4")


def show_still(request: Request, stream: str) -> Response:
    """The newest key frame of a stream that is recording now; 204 if there is none that is fresh."""
    web = web_of(request)
    if stream not in web.room.instruments.streams:
        return nothing(request, "media.no-stream")
    age = web.room.stream_age_ms(stream)
    try:
        picture = picture_path(web.desk.run, stream).read_bytes() if age is not None and age <= OLD_PICTURE_MS else b""
    except OSError:
        picture = b""
    return Response(picture, media_type="image/jpeg") if picture else Response(status_code=204)


async def note_view(request: Request, session_id: str | None, stream: str, *, anew: bool, reason: str = "") -> None:
    """Write down that whoever asks looks at a stream of a session (None: of no session), before anything is answered."""
    viewings: Viewings = request.app.state.viewings
    await viewings.note(web_of(request), who_of(request), session_id, stream, anew=anew, reason=reason)


def add_routes(app: FastAPI) -> None:
    app.state.viewings = Viewings()
    app.get("/media/{session_id}/{stream}.m3u8")(show_playlist)
    app.get("/media/{session_id}/{stream}/{seq}.mp4")(show_segment)
    app.get("/still/{stream}.jpg")(show_still)
