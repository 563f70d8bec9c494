"""The composition root: a Config in, a wired program out. Two programs share one folder.

`edge/recording.py` wires the recorder: a worker per stream, no sessions, no database, no web. This file wires the room: everything
else; it knows no cameras and never loads PyAV or OpenCV. Read `build_room` from top to bottom: it is the whole wiring. Called by
`edge/__main__.py`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import socket
from collections.abc import Callable, Coroutine
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn

from edge import __version__, credentials, durable, followers, keyring, status
from edge.capture.control import RecorderControl, read_status, read_watch
from edge.capture.intake import NOTE_WAIT_S, AlarmWatch, Intake, StreamWatch
from edge.capture.still import still
from edge.capture.storage_id import StorageRefused, check_storage, pinned
from edge.checkpoints import Checkpoints
from edge.clock import SystemClock
from edge.config import Config
from edge.counting import Counting
from edge.evidence import bundle, chain
from edge.evidence.counter import HardwareCounter
from edge.evidence.manifest import RoomFacts
from edge.evidence.signers import DeviceSigner
from edge.export import Exports, examine, export, pacer
from edge.forgetting import Forgetter
from edge.idcheck.reader import CardSeen, CardUnreadable, Reader, ReaderStatus
from edge.instruments import Instruments
from edge.keeper import Keeper, Means
from edge.notary import Notary
from edge.programs import NotReady, Task, until_stopped
from edge.room import Room, Rules
from edge.sessions import events as e
from edge.storage.archived import ArchiveLedger
from edge.storage.catalog import Catalog
from edge.storage.database import Database, Fatal
from edge.storage.journal import Journal
from edge.storage.keeping import Keeping
from edge.storage.logins import Logins
from edge.storage.outbox import Outbox
from edge.storage.photos import Photos
from edge.storage.retention import IdleRetention
from edge.storage.scrub import Scrub
from edge.storage.staff import StaffBook
from edge.upload.courier import Courier
from edge.upload.heartbeat import Heartbeat
from edge.upload.link import Link
from edge.upload.platform import PlatformClient, open_http
from edge.upload.timetable import Timetable
from edge.web.app import Desk, build_web
from edge.web.local import build_local

if TYPE_CHECKING:
    from edge.archivist import Archivist
    from edge.faces import FaceAdvice

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoomProgram:
    """The wired room: its heart, the tasks in the order of their start, and what to close at the end."""

    room: Room
    database: Database
    http: httpx.AsyncClient
    tasks: tuple[Task, ...]

    async def close(self) -> None:
        await self.http.aclose()
        self.database.close()


def build_room(config: Config, demo_logins: tuple[tuple[str, str, str, str, str], ...] = ()) -> RoomProgram:
    """Wire the room: one long list, read from top to bottom. NotReady if a key or a certificate is missing; nothing was started then."""
    clock, paths = SystemClock(), config.paths
    signer, root_pem, facts, subject_key = credentials.read(config)
    durable.make_folder(paths.run)

    database = Database(paths.state / "edge.db")
    counting = Counting(HardwareCounter(config.evidence.counter)) if config.evidence.counter else None
    room = heart(config, database, subject_key, lambda: reader.state, counting)    # the reader needs the room, the room asks the reader
    catalog, outbox, logins, specs = room.catalog, room.outbox, Logins(database, room.clock), config.specs()
    signer, facts = credentials.roll(config, signer, facts, room)

    advice = _advice(config, room)

    async def report(event: e.Event) -> None:
        await room.report(event)

    async def from_reader(fact: CardSeen | CardUnreadable | e.Event) -> None:
        if isinstance(fact, CardSeen | CardUnreadable):
            if advice is not None and isinstance(fact, CardSeen) and fact.photo is not None:
                advice.chip(room.subject(fact.identity.number), fact.photo, fact.at)
            await room.card(fact)
        else:
            await room.of_the_box(fact)

    reader = Reader(config.reader.wire(), from_reader, clock, config.reader.poll_s,
                    config.room.allow_demo_ids, keep_photo=advice is not None and config.photo.decoder is not None)
    names = [s.id for s in specs]
    intake = Intake(paths.footage, names, room.segment, catalog.last_seq, clock, paths.run,
                    min(NOTE_WAIT_S, config.recording.seal_wait_s / 2))         # sealing does not wait for notes
    watch = StreamWatch(paths.run, names, room.of_the_box, clock)
    alarms = AlarmWatch(paths.footage, paths.run, names, lambda stream: room.state.impaired.get(stream, {}),
                        lambda stream: room.state.probed[stream].day if stream in room.state.probed else "", room.of_the_box, clock)

    recorder = RecorderControl(paths.run / "recorder.sock")
    notary = Notary(room, signer, root_pem, facts, recorder, config.recording.seal_wait_s, config.policies())
    keeping = Keeping(database, paths.footage)
    keeper = Keeper(room, means(config, room, keeping, signer, facts))
    forgetter = Forgetter(room, keeping, paths.state / "enrolment", keeper.trusted)

    rng = random.Random(secrets.randbits(64))  # noqa: S311 (jitter only)
    http = open_http(ca=config.platform.ca, certificate=config.platform.client_cert, key=config.platform.client_key)
    client = PlatformClient(config.platform.url, config.room.code, http)
    link = Link(report, clock, lost=room.state.platform_lost is not None)
    courier = Courier(client, outbox, link, notary.receipt, clock, rng, cap_s=config.platform.retry_cap_s,
                      spread_s=config.platform.spread_s)
    timetable = Timetable(client, link, notary.plans, notary.roster, clock, rng, every_s=config.platform.plans_s)
    heartbeat = Heartbeat(client, link, partial(followers.heartbeat, room, keeper.heartbeat), clock, rng,
                          session_s=config.platform.heartbeat_s)
    retention = IdleRetention(database, paths.footage, config.recording.idle_keep_h, clock,
                              keeper.trusted, report, lambda: not _storage_fault(config) and keeper.signed())

    upkeep = config.upkeep
    scrub = Scrub(database, paths.footage, upkeep.scrub_days, upkeep.scrub_most_mb_s * 10**6, clock, room.report,
                  lambda: room.state.live is not None, lambda: not _disk(config).fault)
    archivist = _archivist(config, room, database, root_pem)
    exports = Exports(room, paths.footage, root_pem)
    pace = pacer(paths.run, names, lambda: room.state.live is not None, config.export.live_mb_s)

    async def hand_out(session: str, to: Path, by: str) -> bundle.Report:
        return await export(exports, root_pem, pace, session, to, by)

    desk = Desk(footage=paths.footage, run=paths.run, room_name=config.room.name, room_code=config.room.code,
                stream_names={s.id: {"zh-CN": s.name_zh, "en": s.name_en} for s in specs}, logins=logins,
                verify=partial(examine, room, paths.footage, root_pem), exports=exports, pace=pace, demo_logins=demo_logins,
                allowed_hosts=(config.web.host, "localhost", *config.web.allowed_hosts), default_language=config.web.language,
                keeping=keeper)
    pages = _serve(build_web(room, desk), _tcp_socket(config.web.host, config.web.port))
    local = _serve(build_local(room, hand_out, exports, keeper), _unix_socket(paths.run / "room.sock"))

    async def begin() -> None:
        await keyring.account(credentials.files_of(config), facts, room)
        await room.report(e.DaemonStarted(at=clock.now(), version=__version__, sw_sha256=facts.sw_sha256,
                                          config_sha256=facts.config_sha256, device_id=facts.device_id, cert_sha256=facts.cert_sha256))
        await room.resumed(database)

    return RoomProgram(room, database, http, (
        ("begin", begin), ("intake", intake.run), ("notary", notary.run), ("reader", reader.run), ("streams", watch.run),
        ("alarms", alarms.run), ("wanted", partial(followers.wanted, room, recorder, config.recording.idle_keep_h)),
        ("courier", courier.run), ("nudge", partial(followers.outbox, room, courier)), ("timetable", timetable.run),
        ("heartbeat", heartbeat.run), ("clock", partial(followers.clock, room)), ("retention", retention.run),
        ("keeper", keeper.run), ("forgetter", forgetter.run),
        ("remember", partial(followers.remember, room)),
        ("local", local), ("pages", pages), ("watchdog", partial(followers.watchdog, database)),
        *((("scrub", scrub.run),) if upkeep.scrub_days else ()),
        ("certificate", partial(keyring.watch, room, signer, facts)), ("checkpoints", Checkpoints(room, signer, facts).run),
        *((("counting", partial(counting.run, room)),) if counting else ()),
        *((("faces", advice.run),) if advice is not None else ()),
        *((("archive", archivist.run),) if archivist is not None else ()),
    ))


def heart(config: Config, database: Database, subject_key: bytes, reader: Callable[[], ReaderStatus],
           counting: Counting | None = None) -> Room:
    """The room itself, with its past: what may happen in it, and what it is told of its devices. Nothing runs yet."""
    clock, paths, specs, door = SystemClock(), config.paths, config.specs(), config.checkin.door_camera
    return Room(clock, Journal(database, chain.link), Catalog(database), Outbox(database), StaffBook(paths.state / "staff.json", clock),
                Instruments(
        streams={s.id: s.kind for s in specs}, stream_status=partial(read_status, paths.run),
        watch=partial(read_watch, paths.run), reader=reader, disk=partial(_disk, config), clock=status.probe_clock,
        counter=counting.reading if counting else None,
        door_still=(lambda: still(paths.run, door, clock.now())) if door else None,
    ), Rules(room_code=config.room.code, require_sync=config.clock.require_sync, hmac_key=subject_key, wedge=config.reader.wedge,
             allow_demo_ids=config.room.allow_demo_ids), Photos(paths.state / "photos"))


def means(config: Config, room: Room, keeping: Keeping, signer: DeviceSigner | None, facts: RoomFacts | None) -> Means:
    """What the keeper works with; without a key it only reports."""
    return Means(
        keeping, signer, facts, storage_fault=partial(_storage_fault, config), synced=lambda: status.probe_clock().state == "synced",
        streams=[s.id for s in config.specs()], policies=config.policies(), hours_per_year=config.retention.exam_hours_per_year,
        reserved=lambda: room.catalog.reserved_sessions(room.clock.now().utc_us))


# ---- running ----------------------------------------------------------------------------------------------------------

async def run_room(config: Config, demo_logins: tuple[tuple[str, str, str, str, str], ...] = ()) -> int:
    """Start the room, serve until SIGTERM or SIGINT, stop in reverse. NotReady before anything runs; else the first task's fault."""
    program = build_room(config, demo_logins)
    try:
        return await until_stopped(program.tasks, f"serving http://{config.web.host}:{config.web.port}/")
    finally:
        try:
            with suppress(Fatal):                   # the next start folds, then
                await program.room.remember()
        finally:
            await program.close()


class _NotAtTheEnd(logging.Filter):
    """A page that is still open when the program stops is no fault worth a traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def _serve(app: Any, listener: socket.socket) -> Callable[[], Coroutine[Any, Any, None]]:
    """The coroutine that serves `app` on a socket that is bound already. Signals stay the program's own."""

    class Server(uvicorn.Server):
        def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]
            return nullcontext()

    logging.getLogger("uvicorn.error").addFilter(_NotAtTheEnd())
    server = Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", server_header=False,
                                   timeout_graceful_shutdown=1, h11_max_incomplete_event_size=16384))

    async def serve() -> None:
        await server.serve(sockets=[listener])

    return serve


def _tcp_socket(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), reuse_port=False)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)      # else an answer on a kept connection waits 40 ms for an ACK
        return listener
    except OSError as error:
        raise NotReady(f"the pages cannot be served on {host}:{port} ({error.strerror}). The recording is not touched. "
                       "Is a second copy running? Otherwise set another web.port.") from error


def _unix_socket(path: Path) -> socket.socket:
    """A listening socket file only its owner may open; what a killed program left is replaced, a living one is not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe, suppress(OSError):
        probe.connect(str(path))
        raise NotReady(f"a room is running already on {path}. Nothing was started.")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.bind(str(path))
    except OSError as error:
        raise NotReady(f"the local socket {path} cannot be made ({error}); paths.run must be short and writable") from error
    path.chmod(0o600)
    listener.listen(16)
    return listener


def _advice(config: Config, room: Room) -> FaceAdvice | None:
    """Advice on faces, where it is switched on. Where not, nothing of it is loaded (R60)."""
    door, face, photo = config.checkin.door_camera, config.face, config.photo
    if not face.enabled or door is None:
        return None
    from edge import faces
    from edge.idcheck import face as program
    from edge.idcheck import photo as chip

    decoder = None
    if photo.decoder is not None and photo.decoder_sha256 is not None:
        decoder = chip.LibraryDecoder(chip.worker(photo.decoder, photo.decoder_sha256, photo.decoder_function))
    return faces.FaceAdvice(room, faces.Means(
        comparer=program.FaceProgram(program.worker(face.engine)), still=partial(still, config.paths.run, door),
        enrolment=config.paths.state / "enrolment", limits=program.Limits(face.match_x1000, face.review_x1000),
        chip_limits=program.Limits(face.chip_match_x1000, face.chip_review_x1000), decoder=decoder))


def _archivist(config: Config, room: Room, database: Database, root_pem: bytes) -> Archivist | None:
    """The archive's follower, where one is configured. Where not, nothing of it is loaded."""
    ours = config.archive
    if ours.endpoint is None or ours.credentials is None:
        return None
    from edge import archivist
    from edge.upload.archive import Archive, Place, Throttle, read_credentials
    rules = archivist.Rules(
        bucket_3y=ours.bucket_3y, bucket_6y=ours.bucket_6y, exam_kbps=ours.exam_kbps, day_kbps=ours.day_kbps, night_kbps=ours.night_kbps,
        night=ours.night_hours, reread_days=ours.reread_days, late_h=ours.late_h)
    throttle = Throttle(partial(archivist.kbps_now, room, rules))
    path = ours.credentials

    def stores() -> dict[str, Archive]:
        access_key, secret_key = read_credentials(path)
        return {bucket: Archive(Place(bucket, ours.endpoint, access_key, secret_key, ours.ca, ours.region), room.clock,
                                lambda: room.instruments.clock().state == "synced", throttle)
                for bucket in (ours.bucket_3y, ours.bucket_6y)}

    return archivist.Archivist(
        room, ArchiveLedger(database, ours.local_keep_days), stores, throttle, config.paths.footage, root_pem, rules,
        random.Random(secrets.randbits(64)),  # noqa: S311 (jitter only)
        keep_until=lambda session: session.kept_until, held=lambda session: bool(session.holds))


# ---- facts of the box --------------------------------------------------------------------------------------------------

def _disk(config: Config) -> status.DiskReading:
    """The data disk, if it is the room's own; a foreign or missing one is a fault in words."""
    try:
        check_storage(config.paths.footage, pinned(config.paths.state))
    except StorageRefused as refused:
        return status.DiskReading(0, 0, False, str(refused))
    return status.probe_disk(config.paths.footage)


def _storage_fault(config: Config) -> str:
    """Why nothing in the footage folder may be removed; '' if it is the room's own, pinned disk."""
    own = pinned(config.paths.state)
    try:
        check_storage(config.paths.footage, own)
    except StorageRefused as refused:
        return str(refused)
    return "" if own is not None else "the state folder does not say which disk is the room's own (edge storage init notes it)"
