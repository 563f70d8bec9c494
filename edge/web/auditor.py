"""The archive: find a session, read its file, check its evidence, play its footage. Reads only; each viewing is a fact (see `media`)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from edge.evidence import words
from edge.room import Refusal
from edge.sessions import events as e
from edge.sessions.machine import Session
from edge.web import attendance, views
from edge.web.access import web_of
from edge.web.desk import Web
from edge.web.pages import go, is_htmx, language_of, local_time, page
from edge.web.playlist import Cover, cover_of
from edge.web.proctor import facts_of, session_of

MOST_SHOWN = 100
_VERDICT_LIGHT = {"PASS": views.OK, "PASS WITH DECLARED GAPS": views.WARN}


def archive(request: Request) -> Response:
    """Every session, newest first; by its exact id it opens at once."""
    web, language = web_of(request), language_of(request)
    asked, day, trouble, status = request.query_params.get("q", "").strip(), request.query_params.get("day", ""), "", 200
    if asked in web.room.state.sessions:
        return go(request, f"/archive/{asked}")
    sessions = sorted(web.room.state.sessions.values(), key=lambda s: -s.plan.scheduled_start_us)
    if asked:
        trouble, status = web.texts.say(language, "archive.unknown", asked=asked[:64]), 404
    elif day:
        try:
            wanted = date.fromisoformat(day)
            sessions = [s for s in sessions if web.room.local_date(s.plan.scheduled_start_us) == wanted]
        except ValueError:
            trouble, status, day = web.texts.say(language, "archive.no-date"), 400, ""
    return page(request, "archive.html", status, asked=asked[:64], day=day, trouble=trouble,
                cards=[views.card(web.room, s) for s in sessions[:MOST_SHOWN]], scrubbed=web.room.catalog.scrubbed(),
                damaged=web.room.catalog.damages())


@dataclass(frozen=True, slots=True)
class StreamLine:
    """What the archive holds of one stream of a session."""

    id: str
    name: str
    segments: int
    from_us: int
    to_us: int
    bytes: int
    gaps: int


def streams_of(web: Web, language: str, session: Session) -> list[StreamLine]:
    """Every stream that was expected, also one of which nothing was kept."""
    gaps = views.gaps(web, language, session)
    segments = web.room.catalog.segments(session.id)
    lines = []
    for stream in session.opened.streams if session.opened else {}:
        own = [s for s in segments if s.stream == stream]
        lines.append(StreamLine(stream, views.stream_name(web, language, stream), len(own), min((s.start_utc_us for s in own), default=0),
                                max((s.end_utc_us for s in own), default=0), sum(s.bytes for s in own),
                                sum(gap.stream == stream for gap in gaps)))
    return lines


@dataclass(frozen=True, slots=True)
class Offsite:
    """What the journal says of a session's copy in the archive: the newest fact, and the mismatches that came after it."""

    archived: e.SessionArchived | None
    faults: tuple[e.ArchiveMismatch, ...]


def offsite_of(web: Web, session: Session) -> Offsite:
    archived: e.SessionArchived | None = None
    faults: list[e.ArchiveMismatch] = []
    for row in web.room.events(session.id):
        if isinstance(row.event, e.SessionArchived):
            archived, faults = row.event, []
        elif isinstance(row.event, e.ArchiveMismatch):
            faults.append(row.event)
    return Offsite(archived, tuple(faults))


def dossier(request: Request, session_id: str) -> Response:
    web, language = web_of(request), language_of(request)
    session = session_of(web, session_id)
    return page(request, "dossier.html", **facts_of(web, session), streams=streams_of(web, language, session),
                gaps=views.gaps(web, language, session), revisions=views.revisions(session), counts=attendance.counts(web.room, session),
                damaged=web.room.catalog.damages(session_id), offsite=offsite_of(web, session))


async def verify(request: Request, session_id: str) -> Response:
    """Check signatures, digests and the timeline; may take minutes for a long session."""
    web = web_of(request)
    session, language = session_of(web, session_id), words.language(language_of(request))
    report = await web.desk.verify(session_id)
    facts: dict[str, Any] = {"verdict": report.verdict, "first": report.first, "lines": list(report.lines),
                             "light": _VERDICT_LIGHT.get(report.verdict, views.BAD), "means": list(words.sentences(report, language)),
                             "limits": words.LIMITS[report.had_receipts][language]}
    if is_htmx(request):
        return page(request, "verified.html", **facts)
    return page(request, "verified-page.html", **facts_of(web, session), **facts)


def play(request: Request, session_id: str, stream: str) -> Response:
    web, language = web_of(request), language_of(request)
    session = session_of(web, session_id)
    cover = cover_of(web.room.catalog.segments(session_id, stream))
    if cover is None:
        raise Refusal("no-footage")
    facts = {**facts_of(web, session), "start_us": cover.from_utc_us}
    return page(request, "player.html", **facts, stream=stream, name=views.stream_name(web, language, stream), from_us=cover.from_utc_us,
                to_us=cover.from_utc_us + cover.dur_us, holes=_holes(web, language, cover),
                streams=streams_of(web, language, session))


def _holes(web: Web, language: str, cover: Cover) -> list[dict[str, Any]]:
    found = []
    for gap in cover.gaps:
        start, end = (local_time(cover.from_utc_us + at, "%H:%M:%S") for at in (gap.from_us, gap.to_us))
        reason = web.texts.word(language, "reason", gap.reason)
        text = web.texts.say(language, "player.hole", start=start, end=end, seconds=f"{(gap.to_us - gap.from_us) / 1e6:.1f}", reason=reason)
        x, width = gap.from_us * 1000 / cover.dur_us, (gap.to_us - gap.from_us) * 1000 / cover.dur_us       # per mille of the timeline
        found.append({"x": round(x, 3), "width": max(2, round(width, 3)), "from_ms": gap.from_us // 1000, "to_ms": gap.to_us // 1000,
                      "start": start, "end": end, "reason": reason, "text": text})
    return found


def add_routes(app: FastAPI) -> None:
    app.get("/archive")(archive)
    app.get("/archive/{session_id}")(dossier)
    app.post("/archive/{session_id}/verify")(verify)
    app.get("/archive/{session_id}/play/{stream}")(play)
