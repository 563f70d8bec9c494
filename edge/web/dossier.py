"""The dossier of a session (一期一档) for paper: plan, people, attendance, what was special, pictures, footage, proof, keeping.

One template makes the page that a browser prints and the PDF. It is read by auditors, signed and filed, so whole names stand on it; of
a number never more than the last four. Three pictures of each camera come from the recorded files, and that somebody looks at them is a
fact before they are cut. The evidence is verified anew for each print, if asked for. Also the views by term, by enterprise and by person
(R44–R46): the same sessions, found by another key; a number is posted, never part of an address. Callers: `web.app`.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from edge.room import Refusal
from edge.sessions import events as e
from edge.sessions.machine import Session
from edge.sessions.number import normalise
from edge.storage.catalog import Segment
from edge.web import attendance, paper, views
from edge.web.access import web_of
from edge.web.auditor import streams_of
from edge.web.desk import Web
from edge.web.media import note_view, nothing
from edge.web.pages import form_of, language_of, page, rendered
from edge.web.proctor import facts_of, session_of

CUT_S = 30.0
AT_ONCE = 2
"""Programs that cut pictures, beside each other: a page asks for a dozen at once."""
PER_CAMERA = 3
_PLAN = ("class_no", "training_org", "person_category", "trade", "exam_kind", "subject")
"""What is told of the plan, in this order, beside what the room itself holds of it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a camera; `src`: its address, or for a PDF, which fetches nothing, the picture itself as a data: URL."""

    name: str
    at_us: int
    src: str


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that was special: when, the key of its word (`note.<key>`), who is meant, who did it, why; of an incident its code, of a
    signed one what the candidate did when told."""

    at_us: int
    key: str
    whom: str = ""
    by: tuple[str, ...] = ()
    reason: str = ""
    code: str = ""
    informed: str = ""


# ---- what stands in it ----------------------------------------------------------------------------------------------------

def notes(web: Web, session: Session) -> list[Note]:
    """Whatever was no matter of course, oldest first, as the journal has it."""
    names = {person.candidate_id: person.name for person in web.room.catalog.people(session.id)}
    return [each for row in web.room.events(session.id) for each in _note(web, row.event, names)]


def _note(web: Web, fact: e.Event, names: Mapping[str, str]) -> Iterator[Note]:
    by = tuple(web.room.staff.name(who) for who in (getattr(fact, "by", None) or getattr(fact, "staff_id", None),
                                                    getattr(fact, "second", None)) if who)
    reason, key = attendance.safe(getattr(fact, "reason", None) or getattr(fact, "detail", None) or ""), fact.kind
    whom = names.get(getattr(fact, "candidate_id", None) or "", "")
    match fact:
        case e.CandidateAdmitted(exception=None) | e.ExamStarted(reason=None) | e.RosterAccepted(source="platform" | "drill"):
            return
        case e.ExamEnded(outcome="completed") | e.SeatAssigned(before=None):
            return
        case e.SeatAssigned():
            whom = f"{whom} {fact.before} → {fact.seat}"
        case e.WaiverGranted():
            whom = fact.item
        case e.StreamImpaired() | e.StreamLost():
            whom, reason = fact.stream, getattr(fact, "rule", reason)
        case e.DoubtSettled():
            key += f"-{fact.outcome}"
        case e.AttendanceCorrected():
            key += f"-{fact.result}"
        case e.IncidentReported():
            yield Note(fact.happened_utc_us, key, f"{fact.number} {whom}".strip(), by, reason, code=fact.code)
            return
        case e.IncidentSettled():
            yield Note(fact.at.utc_us, f"{key}-{fact.outcome}", str(fact.number), by, reason, informed=fact.informed or "")
            return
        case e.StreamBack():
            whom = fact.stream
        case e.ClockStepped():
            whom = f"{fact.delta_us / 1e6:+.1f} s"
        case (e.CandidateAdmitted() | e.ExamStarted() | e.ExamEnded() | e.RosterAccepted() | e.IdentityDoubted() | e.DoubtSigned()
              | e.SessionCancelled() | e.SessionAmended() | e.ReaderLost() | e.ReaderBack()):
            pass
        case _:
            return
    yield Note(fact.at.utc_us, key, whom.strip(), by, reason)


def chosen(segments: Sequence[Segment], session: Session) -> list[Segment]:
    """Of one camera's segments those at the session's beginning, in its middle and at its end; fewer if there are fewer."""
    if not segments:
        return []
    start = session.started or session.opened
    first = start.at.utc_us if start else segments[0].start_utc_us
    last = session.ended.at.utc_us if session.ended else segments[-1].end_utc_us
    wanted = [first + (last - first) * part // (PER_CAMERA - 1) for part in range(PER_CAMERA)]
    found = {(s := min(segments, key=lambda s: abs(s.start_utc_us - at))).seq: s for at in wanted}
    return [found[seq] for seq in sorted(found)]


async def pictures(request: Request, session: Session, *, whole: bool) -> list[Picture]:
    """Some pictures of each camera; `whole`: with the pictures themselves. That somebody looks at them is written first."""
    web, language = web_of(request), language_of(request)
    wanted: list[Segment] = []
    for stream, kind in (session.opened.streams if session.opened else {}).items():
        own = chosen(web.room.catalog.segments(session.id, stream), session) if kind != "microphone" else []
        if own:
            await note_view(request, session.id, stream, anew=True, reason="dossier")
        wanted += own
    named = [(views.stream_name(web, language, segment.stream), segment) for segment in wanted]
    if not whole:
        return [Picture(name, s.start_utc_us, f"/archive/{session.id}/picture/{s.stream}/{s.seq}.jpg") for name, s in named]
    jpegs = await _cut(request, [web.desk.footage / segment.path for segment in wanted])
    return [Picture(name, s.start_utc_us, "data:image/jpeg;base64," + base64.b64encode(jpeg).decode())
            for (name, s), jpeg in zip(named, jpegs, strict=False) if jpeg]


async def show_picture(request: Request, session_id: str, stream: str, seq: str) -> Response:
    """The first picture of one of the session's segments."""
    web = web_of(request)
    number = int(seq) if seq.isascii() and seq.isdigit() and len(seq) <= 10 else -1
    row = web.room.catalog.segment(stream, number) if web.room.catalog.in_session(session_id, stream, number) else None
    if row is None:
        return nothing(request, "media.no-segment")
    await note_view(request, session_id, stream, anew=False, reason="dossier")
    jpegs = await _cut(request, [web.desk.footage / row.path])
    return Response(jpegs[0], media_type="image/jpeg") if jpegs and jpegs[0] else nothing(request, "media.no-segment")


async def _cut(request: Request, paths: Sequence[Path]) -> list[bytes]:
    """The first picture of each file; empty where there is none."""
    turn: asyncio.Semaphore = request.app.state.cutting
    async with turn:
        return await _cut_now(paths) if paths else []


async def _cut_now(paths: Sequence[Path]) -> list[bytes]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "edge.capture.frames", *map(str, paths), stdin=DEVNULL,
                                                   stdout=PIPE)
    data = b""
    try:
        async with asyncio.timeout(CUT_S):
            data, _ = await process.communicate()
    except TimeoutError:
        pass                            # a dossier without pictures is better than none
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    found: list[bytes] = []
    while len(data) >= 4:
        length = struct.unpack(">I", data[:4])[0]
        found.append(data[4:4 + length])
        data = data[4 + length:]
    return found


async def _facts(request: Request, session_id: str, *, verified: bool, whole: bool = False) -> dict[str, Any]:
    web, language = web_of(request), language_of(request)
    session = session_of(web, session_id)
    plan = json.loads(web.room.catalog.plan(session_id) or "{}")
    report = await web.desk.verify(session_id) if verified and any(each.digest for each in session.revisions) else None
    told = [(key, "、".join(map(str, value)) if isinstance(value, list) else str(value))
            for key in _PLAN if (value := plan.get(key))]
    return {**facts_of(web, session), "plan": told, "people": attendance.lines(web.room, session),
            "employers": {p.candidate_id: p.employer for p in web.room.catalog.people(session_id)},
            "counts": attendance.counts(web.room, session), "notes": notes(web, session),
            "pictures": await pictures(request, session, whole=whole),
            "streams": streams_of(web, language, session), "gaps": views.gaps(web, language, session),
            "revisions": views.revisions(session), "report": report}


# ---- pages ----------------------------------------------------------------------------------------------------------------

async def show(request: Request, session_id: str) -> Response:
    """The dossier as a page for printing; the evidence is not verified."""
    return page(request, "dossier-page.html", **await _facts(request, session_id, verified=False))


async def show_verified(request: Request, session_id: str) -> Response:
    """The same with the evidence verified at this moment."""
    return page(request, "dossier-page.html", **await _facts(request, session_id, verified=True))


async def show_pdf(request: Request, session_id: str) -> Response:
    """The same as a PDF (A4, fonts embedded), the evidence verified at this moment."""
    html = rendered(request, "dossier-paper.html", **await _facts(request, session_id, verified=True, whole=True))
    try:
        pdf = await paper.to_pdf(html)
    except paper.NotPrinted as error:
        raise Refusal("not-printed") from error
    return Response(pdf, media_type="application/pdf", headers={"Content-Disposition": f'attachment; filename="{session_id}.pdf"'})


@dataclass(frozen=True, slots=True)
class Found:
    """One session under a key; `line`: the person in it who was asked for."""

    card: views.Card
    line: attendance.Line | None = None


async def find(request: Request) -> Response:
    """Sessions by term, by enterprise, or by person: whole keys only, so that nobody leafs through people."""
    web, form = web_of(request), await form_of(request)
    by, asked = form.get("by", ""), form.get("asked", "").strip()[:80]
    rows = await asyncio.to_thread(_rows, web, by, asked) if asked else []
    found: list[Found] = []
    for session_id, candidate_id in rows:
        session = web.room.state.sessions.get(session_id)
        if session is None:
            continue
        line = next((x for x in attendance.lines(web.room, session) if x.candidate_id == candidate_id), None) if candidate_id else None
        found.append(Found(views.card(web.room, session), line))
    found.sort(key=lambda each: -each.card.start_us)
    return page(request, "dossier-found.html", by=by, asked="" if by == "person" else asked, found=found)


def _rows(web: Web, by: str, asked: str) -> list[tuple[str, str]]:
    catalog = web.room.catalog
    if by == "class":
        return [(session, "") for session in catalog.sessions_of_class(asked)]
    if by == "employer":
        return catalog.sessions_of_employer(asked)
    number = normalise(asked)
    return catalog.sessions_of_person(web.room.subject(number)) or catalog.sessions_of_name(asked)


def add_routes(app: FastAPI) -> None:
    app.state.cutting = asyncio.Semaphore(AT_ONCE)
    app.get("/archive/{session_id}/dossier")(show)
    app.get("/archive/{session_id}/picture/{stream}/{seq}.jpg")(show_picture)
    app.post("/archive/{session_id}/dossier")(show_verified)
    app.post("/archive/{session_id}/dossier.pdf")(show_pdf)
    app.post("/archive/find")(find)
