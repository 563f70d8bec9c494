"""The province's platform, simulated: the contract of docs/platform-api.yaml as an ASGI app, on loopback.

It speaks what the real platform would: plans, signed rosters, heartbeats, session-open, manifests, signed receipts; it checks each
device's signature against the root, and refuses what the contract refuses. All it holds lies in files: a restart forgets nothing.
Beside the contract (`/edge/v1`) it has a console for people and tests under `/sim`: faults, and what is held.
Called by `edge sim platform`, `edge demo` and tests; never by the room, which knows it only as an address.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path as FilePath
from typing import Annotated, Any
from urllib.parse import urljoin

import uvicorn
from fastapi import APIRouter, FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from edge.clock import Clock, SystemClock, iso_utc
from edge.evidence.disposition import DISPOSITION
from edge.evidence.envelope import DEVICE_CHECKPOINT, RECEIPT, SESSION_MANIFEST, SESSION_OPEN, EnvelopeError, read_envelope, seal
from edge.evidence.rollover import read_rollover
from edge.sim import ledger
from edge.sim.authority import Authority
from edge.sim.faults import FaultConsole, Faults, problem
from edge.sim.ledger import Document, Ledger, document_of
from edge.sim.plans import Plans, etag_of
from edge.sim.shapes import CheckpointFacts, DispositionFacts, HeartbeatShape, ManifestFacts, OpenFacts

PREFIX = "/edge/v1"
ENVELOPE_TYPE = "application/vnd.dsse+json"

_OPEN_BYTES = 1 << 20
_MANIFEST_BYTES = 32 << 20
_HEARTBEAT_BYTES = 256 << 10
_MOST_DAYS = 62
_IDLE_S, _IN_SESSION_S = 60, 30

RoomCode = Annotated[str, Path(alias="roomCode", pattern=r"^[0-9]{6}-[A-Z0-9]{4}-R[0-9]{2}$")]
PlanId = Annotated[str, Path(alias="planId", pattern=r"^[A-Za-z0-9._-]{1,64}$")]
SessionId = Annotated[str, Path(alias="sessionId", pattern=r"^S[0-9]{8}-[A-Z0-9]{4}-R[0-9]{2}-[0-9]{2}$")]
Digest = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
Revision = Annotated[int, Path(ge=1, le=9999)]


class Problem(Exception):
    """An answer of the 4xx kind."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


def build_platform(authority: Authority, folder: FilePath, room_code: str, clock: Clock, faults: Faults | None = None) -> FastAPI:
    """The app for one room's platform, its books in `folder`. `faults`: the console's first setting."""
    platform = _Platform(authority, folder, room_code, clock, faults or Faults())
    app = FastAPI(openapi_url=None)
    app.add_middleware(FaultConsole, clock=clock, under=PREFIX, setting=platform.faults)
    app.add_exception_handler(Problem, _problem_answer)
    app.add_exception_handler(RequestValidationError, _unfit_answer)
    app.include_router(platform.contract())
    app.include_router(platform.console())
    return app


class _Platform:
    def __init__(self, authority: Authority, folder: FilePath, room_code: str, clock: Clock, faults: Faults) -> None:
        self._authority = authority
        self._folder = folder
        self._room_code = room_code
        self._clock = clock
        self.faults = {"now": faults}
        self._ledger = Ledger(folder, room_code, authority.platform, clock)
        self._plans = Plans(folder, room_code, authority.platform, clock,
                            opened=lambda session: self._ledger.held(session, None) is not None,
                            sealed=lambda session: self._ledger.held(session, 1) is not None)
        self._heartbeat: dict[str, Any] = {}
        self._heartbeats = 0

    def contract(self) -> APIRouter:
        """The paths of docs/platform-api.yaml that a room uses."""
        router = APIRouter(prefix=PREFIX)
        router.add_api_route("/rooms/{roomCode}/plans", self.list_plans, methods=["GET"])
        router.add_api_route("/rooms/{roomCode}/heartbeats", self.post_heartbeat, methods=["POST"])
        router.add_api_route("/plans/{planId}/roster", self.get_roster, methods=["GET"])
        router.add_api_route("/rooms/{roomCode}/rollovers/{digest}", self.put_rollover, methods=["PUT"])
        router.add_api_route("/rooms/{roomCode}/checkpoints/{digest}", self.put_checkpoint, methods=["PUT"])
        router.add_api_route("/sessions/{sessionId}/open", self.put_open, methods=["PUT"])
        router.add_api_route("/sessions/{sessionId}/disposition", self.put_disposition, methods=["PUT"])
        router.add_api_route("/sessions/{sessionId}/manifests/{revision}", self.put_manifest, methods=["PUT"])
        router.add_api_route("/sessions/{sessionId}/manifests/{revision}/receipt", self.get_receipt, methods=["GET"])
        return router

    def console(self) -> APIRouter:
        """For people and tests: no part of the contract."""
        router = APIRouter(prefix="/sim")
        router.add_api_route("/faults", self.get_faults, methods=["GET"])
        router.add_api_route("/faults", self.set_faults, methods=["POST"])
        router.add_api_route("/held", self.get_held, methods=["GET"])
        router.add_api_route("/class", self.publish_class, methods=["POST"])
        return router

    async def get_faults(self) -> Faults:
        return self.faults["now"]

    async def set_faults(self, faults: Faults) -> Faults:
        self.faults["now"] = faults
        return faults

    async def get_held(self) -> dict[str, Any]:
        """Documents with their verdicts, the number of heartbeats since the start and the last one."""
        return {"documents": self._ledger.summary(), "heartbeats": self._heartbeats, "heartbeat": self._heartbeat}

    async def publish_class(self) -> dict[str, str]:
        """A training class of today, from now on among the plans."""
        plan = self._plans.publish_class()
        if plan is None:
            raise Problem(409, "day-full", "no further session of today can be numbered")
        return {"session": plan["session_id"]}

    async def list_plans(self, room: RoomCode, request: Request, first: Annotated[date, Query(alias="from")],
                         last: Annotated[date, Query(alias="to")]) -> Response:
        self._check_room(room, 403)
        if not timedelta() <= last - first <= timedelta(days=_MOST_DAYS):
            raise Problem(400, "bad-range", f"'to' must be 0 to {_MOST_DAYS} days after 'from'")
        body = json.dumps(self._plans.listed(first, last), ensure_ascii=False).encode()
        return _tagged(request, body, "application/json")

    async def get_roster(self, plan: PlanId, request: Request) -> Response:
        envelope = self._plans.roster(plan)
        if envelope is None:
            raise Problem(404, "unknown-plan", "no such plan")
        return _tagged(request, envelope, ENVELOPE_TYPE)

    async def post_heartbeat(self, room: RoomCode, request: Request) -> dict[str, Any]:
        self._check_room(room, 403)
        try:
            beat = HeartbeatShape.model_validate_json(await _body(request, _HEARTBEAT_BYTES))
        except ValidationError as error:
            raise Problem(422, "schema", _fields(error)) from None
        if beat.room_code != room:
            raise Problem(422, "wrong-room", "the heartbeat is of another room than its path")
        self._heartbeats += 1
        if beat.at >= self._heartbeat.get("at", ""):     # the newest wins
            self._heartbeat = beat.model_dump(exclude_none=True)
        return {"server_time": iso_utc(self._clock.now().utc_us), "commands_waiting": False,
                "interval_s": _IDLE_S if beat.state == "idle" else _IN_SESSION_S}

    async def put_rollover(self, room: RoomCode, digest: Digest, request: Request) -> Response:
        self._check_room(room, 403)
        envelope = await _dsse(request, _OPEN_BYTES)
        try:
            found = read_rollover(envelope, self._authority.root_pem, self._clock.now().utc_us)
        except EnvelopeError as error:
            raise Problem(422, f"envelope-{error.word}", str(error)) from None
        self._check_room(found.room, 422)
        if found.opened.digest != digest:
            raise Problem(422, "other-digest", "the document is another one than its path names")
        receipt, new = self._ledger.give_device_receipt("key-rollover", digest, found.device, envelope)
        return Response(receipt, 201 if new else 200, media_type=ENVELOPE_TYPE)

    async def put_checkpoint(self, room: RoomCode, digest: Digest, request: Request) -> Response:
        self._check_room(room, 403)
        envelope = await _dsse(request, _OPEN_BYTES)
        try:
            opened = read_envelope(envelope, self._authority.root_pem, DEVICE_CHECKPOINT, "device", self._clock.now().utc_us)
            facts = CheckpointFacts.model_validate(opened.payload)
        except EnvelopeError as error:
            raise Problem(422, f"envelope-{error.word}", str(error)) from None
        except ValidationError as error:
            raise Problem(422, "schema", _fields(error)) from None
        self._check_room(facts.room, 422)
        if facts.device.id != opened.name:
            raise Problem(422, "wrong-device", "the document names another device than its certificate")
        if opened.digest != digest:
            raise Problem(422, "other-digest", "the document is another one than its path names")
        receipt, new = self._ledger.give_device_receipt("device-checkpoint", digest, opened.name, envelope)
        return Response(receipt, 201 if new else 200, media_type=ENVELOPE_TYPE)

    async def put_open(self, session: SessionId, request: Request) -> Response:
        return self._file(await self._verified(request, session, None))

    async def put_disposition(self, session: SessionId, request: Request) -> Response:
        document = await self._verified(request, session, ledger.DISPOSITION)
        if self._ledger.held(session, 1) is None:
            raise Problem(425, "no-manifest", "no manifest of this session is held")
        return self._file(document)

    async def put_manifest(self, session: SessionId, revision: Revision, request: Request) -> Response:
        return self._file(await self._verified(request, session, revision))

    async def get_receipt(self, session: SessionId, revision: Revision) -> Response:
        document = self._ledger.document(session, revision)
        if document is None:
            raise Problem(404, "unknown-manifest", "no such manifest is held")
        if self._ledger.receipt(session, revision) is None and self.faults["now"].mode == "pending":
            return Response(status_code=204)
        return self._answer(document, 200)

    async def _verified(self, request: Request, session: str, revision: int | None) -> Document:
        """The document in the body, signature and facts checked; Problem if anything is wrong with it."""
        envelope = await _dsse(request, _OPEN_BYTES if revision is None else _MANIFEST_BYTES)
        payload_type = SESSION_OPEN if revision is None else DISPOSITION if revision == ledger.DISPOSITION else SESSION_MANIFEST
        try:
            opened = read_envelope(envelope, self._authority.root_pem, payload_type, "device", self._clock.now().utc_us)
        except EnvelopeError as error:
            raise Problem(422, f"envelope-{error.word}", str(error)) from None
        try:
            shape = OpenFacts if revision is None else DispositionFacts if revision == ledger.DISPOSITION else ManifestFacts
            facts = shape.model_validate(opened.payload)
        except ValidationError as error:
            raise Problem(422, "schema", _fields(error)) from None
        document = document_of(opened.payload, opened.digest, opened.name, revision, envelope)
        self._check_facts(facts, opened.name, session)
        if isinstance(facts, ManifestFacts):
            self._check_revision(facts, document)
        return document

    def _check_facts(self, facts: OpenFacts | DispositionFacts | ManifestFacts, signer: str, session: str) -> None:
        if facts.device.id != signer:
            raise Problem(422, "wrong-device", "the document names another device than its certificate")
        self._check_room(facts.room, 422)
        if facts.session.id != session:
            raise Problem(422, "wrong-session", "the document is of another session than its path")
        if isinstance(facts, DispositionFacts):
            return
        if facts.session.kind != "drill" and not self._plans.knows(session):
            raise Problem(404, "unknown-session", "no plan names this session")

    def _check_revision(self, facts: ManifestFacts, document: Document) -> None:
        if facts.revision != document.revision:
            raise Problem(422, "wrong-revision", "the manifest has another revision than its path")
        if facts.revision == 1:
            return
        before = self._ledger.held(document.session, facts.revision - 1)
        if before is None:
            raise Problem(425, "revision-order", f"revision {facts.revision - 1} has not come yet")
        if facts.amends != before:
            raise Problem(422, "amends", "the manifest does not amend the revision before it")

    def _file(self, document: Document) -> Response:
        """Keep a document under its natural key, and answer: the same bytes get the same receipt, other bytes a refusal."""
        held = self._ledger.held(document.session, document.revision)
        if held is not None and held != document.digest:
            raise Problem(409, "other-digest", "another document is held under this key; nothing was overwritten")
        counted = self._ledger.session_of(document.device, document.session_seq)
        if counted is not None and counted != document.session:
            raise Problem(409, "session-seq", "the device has counted another session with this number")
        if held is None:
            self._ledger.store(document)
        if self.faults["now"].mode == "pending" and document.revision \
                and self._ledger.receipt(document.session, document.revision) is None:
            return Response(status_code=202)
        return self._answer(document, 201 if held is None else 200)

    def _answer(self, document: Document, status: int) -> Response:
        mode = self.faults["now"].mode
        if mode == "wrong-digest":
            payload = {**self._ledger.payload(document, []), "digest": "0" * 64}
            envelope = seal(RECEIPT, payload, self._authority.platform)
        elif mode == "forged-signature":
            envelope = seal(RECEIPT, self._ledger.payload(document, []), self._stranger().platform)
        else:
            reasons = [{"code": "R-CONSOLE", "detail": "rejected by the fault console"}] if mode == "reject" else []
            envelope = self._ledger.give_receipt(document, reasons)
        return Response(envelope, status, media_type=ENVELOPE_TYPE)

    def _stranger(self) -> Authority:
        folder = self._folder / "stranger"
        return Authority.load(folder) if (folder / "root.pem").exists() else Authority.create(folder)

    def _check_room(self, room: str, status: int) -> None:
        if room != self._room_code:
            raise Problem(status, "wrong-room", "this certificate's room is another one")


async def _dsse(request: Request, limit: int) -> bytes:
    if request.headers.get("content-type", "").partition(";")[0].strip() != ENVELOPE_TYPE:
        raise Problem(400, "media-type", f"the body must be {ENVELOPE_TYPE}")
    return await _body(request, limit)


async def _body(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise Problem(413, "too-large", f"the body is larger than {limit} bytes")
    return bytes(body)


def _tagged(request: Request, body: bytes, media_type: str) -> Response:
    """The body with its entity tag, or 304 if the caller has it already."""
    etag = etag_of(body)
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers={"etag": etag})
    return Response(body, media_type=media_type, headers={"etag": etag})


def _fields(error: ValidationError | RequestValidationError) -> str:
    """Which fields do not fit, never what stood in them."""
    return "does not fit the contract: " + ", ".join(sorted({".".join(str(part) for part in each["loc"]) for each in error.errors()}))[:300]


async def _problem_answer(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)       # noqa: S101 (registered for it alone)
    return JSONResponse(problem(error.status, error.code, error.detail), error.status, media_type="application/problem+json")


async def _unfit_answer(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)    # noqa: S101 (registered for it alone)
    return JSONResponse(problem(400, "bad-request", _fields(error)), 400, media_type="application/problem+json")


def ask_for_class(platform: str) -> str:
    """`edge sim class`: let the simulated platform at the address `platform` publish a training class; its session id. OSError if it
    does not answer, ValueError if it is no simulated platform or its day is full."""
    request = urllib.request.Request(urljoin(platform, "/sim/class"), method="POST")    # noqa: S310 (the address of the configuration)
    with urllib.request.urlopen(request, timeout=10) as answer:                         # noqa: S310
        return str(json.loads(answer.read())["session"])


async def serve_platform(folder: FilePath, port: int, room_code: str, *, signals: bool = False,
                         ready: Callable[[int], None] | None = None) -> None:
    """Serve the platform on 127.0.0.1:`port` (0: any free port) until cancelled; its authority and books lie in `folder`.

    `ready` gets the port once connections are accepted. `signals`: SIGINT and SIGTERM end it and it returns, for a process of its
    own; otherwise the program around it has the signals and cancels. OSError if the port is taken.
    """
    keys = folder / "authority"
    authority = Authority.load(keys) if (keys / "root.pem").exists() else Authority.create(keys)
    app = build_platform(authority, folder, room_code, SystemClock())
    loop, ends = asyncio.get_running_loop(), (signal.SIGINT, signal.SIGTERM) if signals else ()
    with socket.create_server(("127.0.0.1", port)) as listener:
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=2)
        server = _Server(config, lambda: ready(listener.getsockname()[1]) if ready else None)
        for number in ends:
            loop.add_signal_handler(number, server.stop)
        serving = asyncio.ensure_future(server.serve([listener]))
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.stop()
            await serving
            raise
        finally:
            for number in ends:
                loop.remove_signal_handler(number)


class _Server(uvicorn.Server):
    """uvicorn inside another program: leaves the signals alone, and says when it is up."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Finish what is being answered (2 s at most), then end."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()
