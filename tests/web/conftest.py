"""A whole room for the pages' tests: a real database and journal, a clock that is moved by hand, instruments that are plain values.

`hall` is the room with its app; `hall.browser(staff_id)` is a client that has logged in through the log-in page. Footage is real
fragmented MP4 where a test asks for it (made by the capture package), else sidecars over bytes of any kind.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import av
import httpx
import numpy as np
import pytest
import uvicorn
from av.codec.context import Flags
from fastapi import FastAPI

from edge.capture.control import StreamStatus, WatchStatus, picture_path
from edge.capture.disk import Disk
from edge.capture.rolling import Rolling
from edge.capture.sidecar import Fragment, Sidecar, to_json
from edge.capture.streams import Piece, StreamSpec, Track
from edge.clock import US, Clock, SimClock, Stamp, SystemClock
from edge.evidence.chain import link
from edge.evidence.manifest import RoomFacts
from edge.evidence.report import Report
from edge.idcheck.reader import CardSeen, CardUnreadable, ReaderStatus
from edge.instruments import Instruments
from edge.keeper import Keeper, Means
from edge.room import Room, Rules
from edge.sessions import events as e
from edge.sessions.identity import Document, Identity
from edge.sessions.roster import Candidate, Roster
from edge.status import ClockReading, DiskReading
from edge.storage.catalog import Catalog
from edge.storage.database import Database
from edge.storage.journal import Journal
from edge.storage.keeping import Keeping
from edge.storage.logins import Logins
from edge.storage.outbox import Outbox
from edge.storage.photos import Photos
from edge.storage.staff import StaffBook
from edge.web.app import Desk, build_web

T = TypeVar("T")
MakeFilm = Callable[..., None]
FPS, SIDE = 10, 64

SESSION = "S20261126-KD01-R01-01"
LATER = "S20261126-KD01-R01-02"
PASSWORDS = {"T001": "chief-password", "T002": "proctor-one-pw", "T003": "proctor-two-pw", "A001": "auditor-password",
             "Y001": "sysadmin-password"}
PINS = {"T001": "1001", "T002": "1002", "T003": "1003"}
PEOPLE = [("样例甲", "000000199001010018", "01"), ("样例乙", "000000198502150022", "02"), ("样例丙", "000000199206300035", "03"),
          ("阿依·样例", "000000199512250064", "06"), ("样例䶮", "000000198810080070", None)]
STRANGER = ("样例辛", "000000196603050099")


@dataclass
class Surroundings:
    """What the instruments show; a test changes it as things go wrong."""

    streams: dict[str, str] = field(default_factory=lambda: {"front": "rtsp", "rear": "rtsp", "mic": "microphone"})
    lost: set[str] = field(default_factory=set)
    peak_cdb: int = -3120
    watcher: bool = True
    waiting_bytes: int = 0
    door_picture: bytes | None = None
    reader: ReaderStatus = field(default_factory=lambda: ReaderStatus("ok", "SAM-000", None, 0))
    disk: DiskReading = field(default_factory=lambda: DiskReading(900 * 10**9, 2000 * 10**9, True, ""))
    clock: ClockReading = field(default_factory=lambda: ClockReading("synced", 100))


def status_of(around: Surroundings, stream: str, now: Stamp) -> StreamStatus | None:
    """A stream that writes until the test has it lost."""
    if stream not in around.streams:
        return None
    lost = stream in around.lost
    sound = around.streams[stream] == "microphone"
    return StreamStatus(
        stream=stream, kind=around.streams[stream], pid=100, state="lost" if lost else "recording", reason="no-answer" if lost else "",
        run="0" * 32, seq=7, since_boot_us=now.boot_us - 60 * US, last_sample_boot_us=now.boot_us - (9 * US if lost else US // 4),
        last_sample_utc_us=now.utc_us, boot_id=now.boot_id, frames=1500, bytes=10**7, fps_x100=0 if sound else 2500,
        kbps=64 if sound else 4100, width=0 if sound else 1920, height=0 if sound else 1080, codec="aac" if sound else "h264",
        segments=7, updated_boot_us=now.boot_us, dropped=0, last_sound_boot_us=now.boot_us - US // 4 if sound and not lost else 0,
        buffered_bytes=around.waiting_bytes)


def watch_of(around: Surroundings, stream: str, now: Stamp) -> WatchStatus | None:
    """The watcher hears the microphone only; of a lost stream it has heard nothing for long."""
    if not around.watcher:
        return None
    heard = now.boot_us - 9 * US if stream in around.lost else now.boot_us
    sound = around.streams[stream] == "microphone"
    return WatchStatus(stream, now.boot_id, now.boot_us, 7, "rules/1", 0 if sound else heard, heard if sound else 0,
                       around.peak_cdb if sound else None, 0)


@dataclass
class Hall:
    """The room and everything around it."""

    room: Room
    app: FastAPI
    clock: Clock
    around: Surroundings
    desk: Desk
    database: Database
    reports: list[Report]

    @property
    def sim(self) -> SimClock:
        assert isinstance(self.clock, SimClock)
        return self.clock

    def client(self) -> httpx.AsyncClient:
        """A browser that nobody has logged in with; it says where its posts come from, as browsers do."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1",
                                 headers={"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"})

    @asynccontextmanager
    async def browser(self, staff_id: str, password: str = "") -> AsyncIterator[httpx.AsyncClient]:
        """A browser in which somebody has logged in through the page."""
        async with self.client() as client:
            answer = await client.post("/login", data={"staff_id": staff_id, "password": password or PASSWORDS[staff_id]})
            assert answer.status_code == 303, answer.text
            yield client

    async def plan(self, session: str = SESSION, start_us: int | None = None, source: str = "platform") -> None:
        start = self.clock.now().utc_us if start_us is None else start_us
        staff = {"T001": "chief", "T002": "proctor", "T003": "proctor"}
        body = json.dumps({"session_id": session, "start": start})
        await self.room.plan(e.SessionPlanned(
            at=self.clock.now(), session=session, plan_id="P" + session[1:], session_kind="exam_theory",
            title="特种作业安全技术理论考试 · 低压电工", scheduled_start_us=start, duration_min=120, staff=staff, min_proctors=2,
            late_cutoff_min=30, checkin_open_min=30, retention_policy="RP-SPECIAL-6Y",
            plan_sha256=hashlib.sha256(body.encode()).hexdigest(), source=source), body)

    async def roster(self, session: str = SESSION, people: list[tuple[str, str, str | None]] | None = None) -> None:
        candidates = tuple(
            Candidate(f"C-{number[-4:]}", name, "resident_id", number, f"2026{i:05d}", seat, "SPECIAL", "1.2 低压电工作业", "初训",
                      "理论", True)
            for i, (name, number, seat) in enumerate(PEOPLE if people is None else people, 217))
        roster = Roster(session, "P" + session[1:], 1, candidates)
        await self.room.accept_roster(e.RosterAccepted(at=self.clock.now(), session=session, version=1, count=len(candidates),
                                                       roster_sha256="ab" * 32, source="platform"), roster)

    async def card(self, name: str, number: str) -> None:
        identity = Identity(Document.RESIDENT, number, name, "1", date(1990, 1, 1), date(2020, 1, 1), date(2040, 1, 1))
        await self.room.card(CardSeen(self.clock.now(), identity, 300))

    async def unreadable(self) -> None:
        await self.room.card(CardUnreadable(self.clock.now(), "taken-away"))

    async def to(self, state: str, session: str = SESSION) -> None:
        """Bring a session to a state by the Room's own verbs."""
        room, order = self.room, ["planned", "preflight", "checkin", "running", "closing", "sealing", "sealed"]
        if session not in room.state.sessions:
            await self.plan(session)
            await self.roster(session)
        steps: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "preflight": lambda: room.begin_preflight(session, "T001"), "checkin": lambda: self._open(session),
            "running": lambda: self._start(session), "closing": lambda: room.end_exam(session, "T001", PINS["T001"], 2000),
            "sealing": lambda: room.seal(session, "T001", PINS["T001"], "T002", PINS["T002"], room_empty=True, absences_confirmed=True),
            "sealed": lambda: self._sealed(session)}
        for each in order[order.index(room.state.sessions[session].state) + 1:order.index(state) + 1]:
            await steps[each]()

    async def _open(self, session: str) -> None:
        for staff_id, pin in PINS.items():
            await self.room.sign_in(session, staff_id, pin)
        await self.room.check_exits(session, "T001")
        await self.room.open_checkin(session, "T001")

    async def _start(self, session: str) -> None:
        await self.card(PEOPLE[0][0], PEOPLE[0][1])
        await self.room.start_exam(session, "T001", 2000)

    async def _sealed(self, session: str) -> None:
        now, state = self.clock.now(), self.room.state
        await self.room.report(e.GapDeclared(at=now, session=session, stream="front", revision=1, from_utc_us=now.utc_us - 20 * US,
                                             to_utc_us=now.utc_us - 8 * US, dur_us=12 * US, reason="camera-lost"))
        await self.room.report(e.Sealed(
            at=now, session=session, revision=1, opened_total=state.opened_total, closed_total=state.closed_total + 1,
            keep_until="2033-05-25", retention_policy="RP-SPECIAL-6Y", retention_basis="特种作业档案不少于证件有效期(6年)"))
        await self.room.report(e.ManifestSigned(at=now, session=session, revision=1, digest="cd" * 32))

    async def receipt(self, verdict: str = "accepted", session: str = SESSION) -> None:
        now = self.clock.now()
        await self.room.report(e.ReceiptVerified(
            at=now, session=session, answers="session-manifest", digest="cd" * 32, receipt_sha256="ef" * 32, verdict=verdict,
            platform_seq=1, received_utc_us=now.utc_us, revision=1, reasons=() if verdict == "accepted" else ("E-ROSTER",)))

    async def segment(self, stream: str, seq: int, start: Stamp, seconds: float, run: str = "a" * 32, *, end_reason: str = "rotated",
                      body: bytes | None = None) -> Path:
        """A segment of a key frame a second: file, sidecar, row, and fact where it belongs to a session. Returns the file."""
        header, gop = b"ftyp+moov of run " + run.encode(), b"moof+mdat" * 40
        dur, count = round(seconds * US), max(1, round(seconds * 2))
        fragments = tuple(Fragment(len(header) + i * len(gop), len(gop), US + i * US // 2, US // 2, i % 2 == 0) for i in range(count))
        data = body if body is not None else header + gop * count
        path = f"{stream}/2026/11/26/{seq:010d}-x.mp4"
        end = start.plus(dur)
        sidecar = Sidecar(stream, seq, run, start, end, dur, 40_000, count * 12, 0, len(data), hashlib.sha256(data).hexdigest(),
                          len(header), fragments, US, "h264+aac", {"video": {"codec": "h264"}}, "synced", end_reason)
        file = self.desk.footage / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.with_suffix(".json").write_bytes(text := to_json(sidecar))
        await self.room.segment(sidecar, path, hashlib.sha256(text).hexdigest())
        return file

    def still(self, stream: str, jpeg: bytes = b"\xff\xd8\xff\xe0 a picture \xff\xd9") -> None:
        path = picture_path(self.desk.run, stream)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg)


@cache
def _staff_file() -> bytes:
    """The staff of every hall, hashed once."""
    names = {"T001": "样例主考", "T002": "样例监考一", "T003": "样例监考二", "A001": "样例审计", "Y001": "样例管理"}
    roles = {"A001": "auditor", "Y001": "sysadmin"}
    with TemporaryDirectory() as folder:
        book = StaffBook(Path(folder) / "staff.json", SimClock())
        for staff_id, name in names.items():
            book.add(staff_id, name, roles.get(staff_id, "staff"), PASSWORDS[staff_id], PINS.get(staff_id))
        return (Path(folder) / "staff.json").read_bytes()


class _NobodySigns:
    """The pages sign nothing."""

    chain_pem = ""

    def sign(self, pae: bytes) -> bytes:
        raise AssertionError("a page signed something")


def _keeper(room: Room, database: Database, folder: Path, around: Surroundings) -> Keeper:
    facts = RoomFacts("KD01", "000000-KD01-R01", "E1", "c" * 64, "0", "a" * 64, "b" * 64, "boot", "room-1", True)
    return Keeper(room, Means(Keeping(database, folder / "footage"), _NobodySigns(), facts, lambda: "",
                              lambda: around.clock.state == "synced", list(around.streams)))


def build_hall(folder: Path, clock: Clock) -> Hall:
    """A room over a new database in `folder`, or over the one that is there."""
    around, reports = Surroundings(), [Report("PASS WITH DECLARED GAPS", "front: 1 declared gap", ("manifest-1: signature holds",))]
    database = Database(folder / "state" / "edge.db", ballast=False)
    staff = StaffBook(folder / "state" / "staff.json", clock)
    if not staff.members:
        (folder / "state" / "staff.json").write_bytes(_staff_file())
    instruments = Instruments(around.streams, lambda stream: status_of(around, stream, clock.now()),
                              lambda stream: watch_of(around, stream, clock.now()), lambda: around.reader, lambda: around.disk,
                              lambda: around.clock, lambda: around.door_picture)
    room = Room(clock, Journal(database, link), Catalog(database), Outbox(database), staff, instruments,
                Rules("000000-KD01-R01", True, b"k" * 32), Photos(folder / "state" / "photos"))

    async def verify(session: str) -> Report:
        return reports[-1]

    desk = Desk(footage=folder / "footage", run=folder / "run", room_name="第 1 考场", room_code="000000-KD01-R01",
                stream_names={"front": {"zh-CN": "前摄像", "en": "Front camera"}, "rear": {"zh-CN": "后摄像", "en": "Rear camera"},
                              "mic": {"zh-CN": "拾音器", "en": "Microphone"}},
                logins=Logins(database, clock), verify=verify, keeping=_keeper(room, database, folder, around))
    desk.footage.mkdir(exist_ok=True)
    return Hall(room, build_web(room, desk), clock, around, desk, database, reports)


@pytest.fixture
async def hall(tmp_path: Path) -> AsyncIterator[Hall]:
    made = build_hall(tmp_path, SimClock(utc_us=1_795_672_800 * US))        # 2026-11-26 14:00 in China
    yield made
    made.database.close()


class Daytime(SystemClock):
    """The machine's clocks, but half an hour off near the room's midnight: what is of today when a test begins still is when it ends."""

    def __init__(self) -> None:
        minute = (super().now().utc_us // (60 * US) + 8 * 60) % 1440
        self._off_us = 30 * 60 * US * ((minute < 20) - (minute >= 1440 - 20))

    def now(self) -> Stamp:
        now = super().now()
        return replace(now, utc_us=now.utc_us + self._off_us)


class Served:
    """The hall behind uvicorn on a loopback port, in a thread with its own loop; `do` runs a coroutine there."""

    def __init__(self, folder: Path, demo: bool = False, clock: Clock | None = None) -> None:
        self._ready = threading.Event()
        self._folder, self._demo, self._clock = folder, demo, clock or Daytime()
        self.port = 0
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    async def _serve(self) -> None:
        self.hall = build_hall(self._folder, self._clock)
        if self._demo:
            rows = tuple((s, m.name, m.role, PASSWORDS[s], PINS.get(s, "")) for s, m in self.hall.room.staff.members.items())
            self.hall.app = build_web(self.hall.room, replace(self.hall.desk, demo_logins=rows))
        self.loop = asyncio.get_running_loop()
        self.server = uvicorn.Server(uvicorn.Config(self.hall.app, host="127.0.0.1", port=self.port, log_level="error", lifespan="off",
                                                    timeout_graceful_shutdown=1))
        with socket.create_server(("127.0.0.1", self.port)) as door:       # listening before the server is up: nobody has to wait for it
            self.port = door.getsockname()[1]
            self._ready.set()
            await self.server.serve([door])
        self.hall.database.close()

    def start(self, port: int = 0) -> None:
        self.port = port
        self._ready.clear()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path, demo=True)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def recorded_beside(tmp_path: Path) -> Iterator[Served]:
    """The same by the machine's own clock, which a real worker's stamps come from."""
    made = Served(tmp_path, demo=True, clock=SystemClock())
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="session")
def make_film() -> MakeFilm:
    return film


def film(footage: Path, seconds: int, side: int = SIDE) -> None:
    """One run of a real encoder in segments of 5 s, made as fast as it can be: the picture's grey is its second."""
    holder = av.open(os.devnull, "w", format="null")
    video: Any = holder.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "tune": "zerolatency"})
    context: Any = video.codec_context
    context.width, context.height, context.pix_fmt, context.gop_size = side, side, "yuv420p", FPS
    context.time_base = Fraction(1, 90000)
    context.flags |= Flags.global_header
    holder.start_encoding()
    clock = SimClock()
    disk = Disk(footage / "front", clock, 10**9)
    disk.start()
    rolling = Rolling(StreamSpec("front", "rtsp", segment_s=5), disk, clock, lambda: "synced")
    rolling.begin((Track("video", "h264", video, "h264", context.extradata, side, side),), lambda: 0)
    for number in range(seconds * FPS):
        planes = np.full((side * 3 // 2, side), 128, np.uint8)
        planes[:side] = 16 + (number // FPS) * 10
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts, frame.time_base = number * 90000 // FPS, Fraction(1, 90000)
        for packet in video.encode(frame):
            packet.time_base = Fraction(1, 90000)
            rolling.write(Piece(0, packet, clock.now().boot_us + number * US // FPS))
    rolling.end("camera-lost")
    disk.close()
    assert disk.join(30) and disk.failed is None
