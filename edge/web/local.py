"""The room's local socket: the same verbs, for `edge drill`, `edge export` and whoever sits at this machine as its administrator.

A Unix socket in the run folder (0700): whoever can open it runs as the room's own user or as root. JSON in, JSON out; a refusal is
409 with its word. Nothing here does what the pages cannot: it calls the Room's verbs with staff who sign by PIN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field

from edge.evidence.bundle import Report
from edge.evidence.chain import canonical
from edge.room import Refusal, Room
from edge.sessions import events as e
from edge.sessions.machine import Session
from edge.sessions.roster import Candidate, Roster
from edge.storage.staff import TooSoon
from edge.web import imports
from edge.web.desk import KeepingDesk

Verb = Literal["begin_preflight", "sign_in", "check_exits", "waive", "open_checkin", "start_exam", "end_exam", "seal", "cancel",
               "place_hold", "release_hold", "lengthen"]


class _Ask(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DrillStaff(_Ask):
    staff_id: str = Field(pattern=r"^DRILL-[A-Z0-9]{1,12}$")
    name: str = Field(max_length=40)
    role: Literal["chief", "proctor"]
    pin: str = Field(min_length=4, max_length=12)


class DrillCandidate(_Ask):
    candidate_id: str
    name: str
    number: str
    seat: str | None = None
    person_category: str = "GENERAL"


class DrillOrder(_Ask):
    """What a rehearsal brings with it: its own staff and list. Only sessions of kind `drill` are made this way."""

    minutes: int = Field(ge=1, le=240)
    staff: list[DrillStaff] = Field(min_length=3, max_length=8)
    candidates: list[DrillCandidate] = Field(max_length=200)


class RosterFile(_Ask):
    """A file with a list of candidates: looked at, and taken only with the digest of what was shown and two signatures."""

    file: Base64Bytes
    digest: str = ""
    by: str = ""
    pin: str = ""
    second: str = ""
    second_pin: str = ""
    reason: str = Field(default="", max_length=500)


class LocalExports(Protocol):
    """`edge.export.Exports`, as far as a command needs it."""

    Impossible: type[Exception]

    async def begin_told(self, session: str, **order: Any) -> dict[str, Any]: ...

    async def end(self, session: str, by: str, ticket: str, files: int, size: int) -> None: ...

    async def drop(self, session: str, ticket: str) -> None: ...


class ExportOrder(_Ask):
    to: Path
    by: str = Field(default="local", max_length=40)


class ExportBegin(_Ask):
    """`edge export`: whoever asks lets the bytes go itself, once the room has written it down."""

    by: str = Field(max_length=40)
    form: Literal["zip", "folder"]
    full: bool = False
    reason: str = Field(default="", max_length=500)
    pin: str = ""


class ExportEnd(_Ask):
    """The last byte has left; without `files`: it came to nothing."""

    by: str = Field(max_length=40)
    ticket: str = Field(pattern=r"^[0-9a-f]{32}$")
    files: int | None = Field(default=None, ge=0)
    bytes: int = Field(default=0, ge=0)


class Approval(_Ask):
    digest: str
    by: str
    pin: str


def build_local(room: Room, export: Callable[[str, Path, str], Awaitable[Report]], exports: LocalExports,
                keeping: KeepingDesk | None = None) -> FastAPI:
    """The application behind run/room.sock: a long list of short handlers."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> JSONResponse:
        return JSONResponse({"refusal": refusal.word, "facts": refusal.facts}, 409)

    @app.exception_handler(TooSoon)
    async def too_soon(_: Request, wait: TooSoon) -> JSONResponse:
        return JSONResponse({"refusal": "too-soon", "facts": {"seconds": wait.seconds}}, 429)

    @app.get("/state")
    async def state() -> dict[str, Any]:
        return {"room": room.rules.room_code, "live": room.state.live, "version": room.version,
                "sessions": {s.id: str(s.state) for s in room.state.sessions.values()},
                "streams": {name: room.stream_age_ms(name) for name in room.instruments.streams},
                "reader": room.instruments.reader().state, "backlog": room.outbox.backlog().waiting}

    @app.get("/sessions/{session_id}")
    async def session(session_id: str) -> JSONResponse:
        found = room.state.sessions.get(session_id)
        return JSONResponse(_facts(room, found)) if found else JSONResponse({"refusal": "unknown-session"}, 404)

    @app.get("/sessions/{session_id}/preflight")
    async def preflight(session_id: str) -> dict[str, Any]:
        found = room.preflight(session_id)
        return {"result": str(found.result), "items": [
            {"key": i.key, "light": str(i.light), "word": i.word, "facts": dict(i.facts), "waivable": i.waivable, "waived": i.waived}
            for i in found.items]}

    @app.post("/sessions/{session_id}/{verb}")
    async def verb(session_id: str, verb: Verb, request: Request) -> dict[str, bool]:
        arguments = await request.json()
        if not isinstance(arguments, dict):
            raise Refusal("bad-request")
        try:
            await getattr(room, verb)(session_id, **arguments)
        except TypeError as error:
            raise Refusal("bad-request", detail=str(error)) from error
        return {"ok": True}

    @app.get("/retention")
    async def retention(days: Annotated[int, Query(ge=0, le=3660)] = 30) -> dict[str, Any]:
        if keeping is None:
            raise Refusal("nothing-due")
        return await keeping.shown(days)

    @app.post("/retention/approve")
    async def approve(order: Approval) -> dict[str, int]:
        if keeping is None:
            raise Refusal("nothing-due")
        return {"sessions": await keeping.approve(order.digest, order.by, order.pin)}

    @app.post("/drill")
    async def drill(order: DrillOrder) -> dict[str, str]:
        return {"session": await _begin_drill(room, order)}

    @app.post("/sessions/{session_id}/files/roster")
    async def import_roster(session_id: str, order: RosterFile) -> dict[str, Any]:
        """What the file would change; with a digest it is taken. The file came again, so what was shown need not be held."""
        shown = await imports.preview(room, session_id, order.file)
        if order.digest and order.digest != shown.digest:
            raise Refusal("import-other")
        if order.digest:
            await imports.take(room, shown, order.by, order.pin, order.second, order.second_pin, order.reason)
        return {**imports.as_json(shown), "taken": bool(order.digest)}

    @app.post("/sessions/{session_id}/files/export")
    async def hand_out(session_id: str, order: ExportOrder) -> JSONResponse:
        try:
            report = await export(session_id, order.to, order.by)
        except Exception as error:  # the words belong to whoever asked; the room goes on
            return JSONResponse({"refusal": "not-exportable", "facts": {"detail": str(error)}}, 409)
        return JSONResponse({"verdict": report.verdict, "first": report.first, "lines": list(report.lines)})

    @app.post("/sessions/{session_id}/files/export/begin")
    async def begin_export(session_id: str, order: ExportBegin) -> JSONResponse:
        try:
            return JSONResponse(await exports.begin_told(session_id, **order.model_dump()))
        except exports.Impossible as error:
            return JSONResponse({"refusal": "not-exportable", "facts": {"detail": str(error)}}, 409)

    @app.post("/sessions/{session_id}/files/export/end")
    async def end_export(session_id: str, order: ExportEnd) -> dict[str, bool]:
        if order.files is None:
            await exports.drop(session_id, order.ticket)
        else:
            await exports.end(session_id, order.by, order.ticket, order.files, order.bytes)
        return {"ok": True}

    return app


async def _begin_drill(room: Room, order: DrillOrder) -> str:
    """Plan a session of kind drill, now, with the drill's own staff and list. Refusal while a session is live."""
    if room.state.live:
        raise Refusal("another-session-is-live", session=room.state.live)
    now = room.clock.now()
    session_id = _free_id(room)
    for member in order.staff:
        room.staff.add(member.staff_id, member.name, "drill", None, member.pin)
    plan = {"session_id": session_id, "kind": "drill", "start_us": now.utc_us, "staff": {m.staff_id: m.role for m in order.staff}}
    await room.plan(e.SessionPlanned(
        at=now, session=session_id, plan_id=f"DRILL-{session_id}", session_kind="drill", title="演练 Drill", scheduled_start_us=now.utc_us,
        duration_min=order.minutes, staff={m.staff_id: m.role for m in order.staff}, min_proctors=2, late_cutoff_min=30,
        checkin_open_min=30, retention_policy="RP-GENERAL-3Y", plan_sha256=hashlib.sha256(canonical(plan)).hexdigest(), source="drill"),
        canonical(plan).decode())
    candidates = tuple(Candidate(c.candidate_id, c.name, "resident_id", c.number, c.candidate_id, c.seat, c.person_category, None,
                                 "DRILL", "DRILL", demo=True) for c in order.candidates)
    digest = hashlib.sha256(canonical([[c.candidate_id, room.subject(c.number)] for c in candidates])).hexdigest()
    await room.accept_roster(e.RosterAccepted(at=room.clock.now(), session=session_id, version=1, count=len(candidates),
                                              roster_sha256=digest, source="drill"),
                             Roster(session_id, f"DRILL-{session_id}", 1, candidates))
    return session_id


def _free_id(room: Room) -> str:
    """Drills take their numbers from the day's end (99, 98, …), plans from its beginning."""
    _, site, number = room.rules.room_code.split("-")
    day = room.local_date(room.clock.now().utc_us)
    for batch in range(99, 49, -1):
        session_id = f"S{day:%Y%m%d}-{site}-{number}-{batch:02d}"
        if session_id not in room.state.sessions:
            return session_id
    raise Refusal("no-free-drill-number")


def _facts(room: Room, session: Session) -> dict[str, Any]:
    """What a rehearsal's report needs. No names, no numbers."""
    streams: dict[str, dict[str, int]] = {name: {"frames": 0, "gaps": 0, "bytes": 0, "ms": 0, "segments": 0}
                                          for name in (session.opened.streams if session.opened else {})}
    for segment in room.catalog.segments(session.id):
        row = streams.setdefault(segment.stream, {"frames": 0, "gaps": 0, "bytes": 0, "ms": 0, "segments": 0})
        row["bytes"] += segment.bytes
        row["ms"] += segment.dur_us // 1000
        row["segments"] += 1
        row["frames"] += round(segment.dur_us / segment.frame_us) if segment.frame_us else 0
    for recorded in room.events(session.id) if session.revisions else []:
        if isinstance(gap := recorded.event, e.GapDeclared) and gap.revision == len(session.revisions):
            streams[gap.stream]["gaps"] += 1
    return {"id": session.id, "state": str(session.state), "admitted": len(session.admitted), "refused": session.refusals,
            "streams": streams, "open_receipt": session.open_receipt, "elapsed_us": _elapsed(room, session),
            "revisions": [{"number": r.number, "digest": r.digest, "verdict": r.verdict, "reasons": list(r.reasons),
                           "receipt_refused": r.receipt_refused} for r in session.revisions]}


def _elapsed(room: Room, session: Session) -> int:
    return room.clock.now().us_since(session.started.at) if session.started else 0


