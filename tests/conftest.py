"""For several test folders: a room as the platform meets it (a device with its key, and what it signs), and a hall:
the Room itself over real files, its clock and instruments in the test's hand.

A test that names these types imports them under TYPE_CHECKING only; at run time they come as fixtures.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from edge.capture.control import StreamStatus, WatchStatus
from edge.capture.sidecar import Fragment, Sidecar
from edge.clock import US, SimClock, Stamp, SystemClock, iso_utc
from edge.evidence import chain
from edge.evidence.chain import canonical
from edge.evidence.envelope import KEY_ROLLOVER, SESSION_MANIFEST, SESSION_OPEN, FileSigner, seal
from edge.evidence.keys import fingerprint, init_device_key, read_certificates
from edge.idcheck.reader import CardSeen, ReaderStatus
from edge.instruments import Instruments
from edge.room import Room, Rules
from edge.sessions import events as e
from edge.sessions.machine import State
from edge.sessions.roster import Candidate, Roster
from edge.sim.authority import Authority
from edge.sim.people import BY_NAME, PEOPLE, SamplePerson
from edge.status import ClockReading, DiskReading
from edge.storage.catalog import Catalog
from edge.storage.database import Database
from edge.storage.journal import Journal
from edge.storage.outbox import Outbox
from edge.storage.photos import Photos
from edge.storage.staff import StaffBook
from tests.evidence.holders import token as token  # fixtures: a PKCS#11 token and TPMs, in software
from tests.evidence.holders import tpms as tpms

settings.register_profile("machine-speed-proves-nothing", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("machine-speed-proves-nothing")

ALONE = ("capture/hostile/test_day.py", "capture/hostile/test_reconnect.py")
"""Tests with dozens of workers that measure seconds of a real recording: `./test` lets nothing else run beside them."""
PACED = ("journeys/", "capture/test_recording.py", "capture/test_kill.py", "capture/test_disk.py", "capture/test_recorder_watch.py",
         "contracts/test_microphones.py")
"""Tests that measure seconds of a real recording and hardly compute: three at a time, and nothing else beside them."""
LONG = ("web/test_browser.py", "test_keys_command.py", "evidence/test_guide.py", "web/", "exported/", "capture/hostile/")
"""What begins first, so that no worker is left with it at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def file(item: pytest.Item) -> str:
        return str(item.path.relative_to(Path(__file__).parent))

    for item in items:
        if file(item).startswith(ALONE):
            item.add_marker(pytest.mark.alone)
        elif file(item).startswith(PACED):
            item.add_marker(pytest.mark.paced)
    items.sort(key=lambda item: next((n for n, name in enumerate(LONG) if file(item).startswith(name)), len(LONG)))


ROOM = "000000-KD01-R01"


@dataclass(frozen=True, slots=True)
class Signed:
    """An envelope and its document's digest."""

    envelope: bytes
    digest: str


class Device:
    """Signs what a room signs; `facts` of a call replace what the document says otherwise."""

    def __init__(self, state: Path, authority: Authority, device_id: str = "KD01-R01-edge") -> None:
        self.id = device_id
        chain = authority.issue_device(init_device_key(state, device_id))
        (state / "device.pem").write_bytes(chain)
        self.signer = FileSigner(state / "device.key", state / "device.pem")

    def sealed(self, payload_type: str, payload: dict[str, Any]) -> Signed:
        return Signed(seal(payload_type, payload, self.signer), hashlib.sha256(canonical(payload)).hexdigest())

    def open(self, session: str, seq: int = 1, *, kind: str = "exam_theory", **facts: Any) -> Signed:
        zeros, now = "0" * 64, iso_utc(SystemClock().now().utc_us)
        return self.sealed(SESSION_OPEN, {
            "type": "exam-session-open/v1", "site": "KD01", "room": ROOM, "session_seq": seq, "opened_utc": now,
            "session": {"id": session, "plan_id": "P1", "plan_sha256": zeros, "kind": kind, "scheduled_start": now, "duration_min": 120},
            "device": {"id": self.id, "cert_sha256": zeros, "boot_id": "boot", "sw_version": "0", "sw_sha256": zeros,
                       "config_sha256": zeros},
            "journal": {"seq": 1, "head_sha256": zeros}, "streams": [{"id": "front", "kind": "pattern"}],
            "roster": {"version": 1, "count": 1, "sha256": zeros, "source": "platform", "hmac_key_id": "room-1"},
            "clock": {"require_sync": False, "at_open": "unknown"}, "preflight": {}, "prev": {}, **facts,
        })

    def rollover(self, new_chain: str, from_seq: int = 1, **facts: Any) -> Signed:
        """This device's word that the leaf of `new_chain` signs after it."""
        zeros, leaf = "0" * 64, read_certificates(self.signer.chain_pem.encode())[0]
        return self.sealed(KEY_ROLLOVER, {
            "type": "exam-key-rollover/v1", "site": "KD01", "room": ROOM, "made_utc": iso_utc(SystemClock().now().utc_us),
            "device": {"id": self.id, "cert_sha256": fingerprint(leaf), "boot_id": "boot", "sw_version": "0", "sw_sha256": zeros,
                       "config_sha256": zeros},
            "new_cert_sha256": fingerprint(read_certificates(new_chain.encode())[0]), "new_cert": new_chain,
            "from_session_seq": from_seq, "journal": {"seq": 1, "head_sha256": zeros}, "prev": {}, **facts})

    def manifest(self, session: str, revision: int = 1, seq: int = 1, *, kind: str = "exam_theory", **facts: Any) -> Signed:
        """The part of a manifest that a platform looks at (its whole is for tests/evidence to judge)."""
        return self.sealed(SESSION_MANIFEST, {
            "type": "exam-session-manifest/v1", "revision": revision, "session": {"id": session, "kind": kind}, "room": ROOM,
            "device": {"id": self.id}, "counters": {"session_seq": seq}, **facts,
        })


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "authority")


@pytest.fixture
def device(tmp_path: Path, authority: Authority) -> Device:
    return Device(tmp_path / "state", authority)


@pytest.fixture
def another_device(tmp_path: Path, authority: Authority) -> Callable[[str], Device]:
    return lambda name: Device(tmp_path / name, authority, name)


# ---- a room in the test's hand ----------------------------------------------------------------------------------------

SESSION, LATER = "S20261126-KD01-R01-01", "S20261126-KD01-R01-02"
STAFF = {"T001": "chief", "T002": "proctor", "T003": "proctor"}
PINS = {"T001": "1001", "T002": "1002", "T003": "1003", "A001": "2001"}
STREAMS = {"cam-front": "rtsp", "cam-back": "rtsp", "mic": "microphone"}


def candidate(person: SamplePerson, seat: str | None = None) -> Candidate:
    """A sample person as a roster has him."""
    return Candidate(person.candidate_id, person.name, "resident_id", person.id_no, f"A{person.id_no[14:17]}", seat or person.seat,
                     person.category, person.trade, person.exam_kind, person.subject, demo=True)


def two_o_clock() -> int:
    """14:00 in the room's time zone on the day after this one (UTC µs): certificates that are made now are valid then."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (int(midnight.timestamp()) + 86400 + 6 * 3600) * US


class Hall:
    """A Room, its database in `folder`, and instruments that are plain values: change them and the Room sees it.

    `facts` are reported as a device or a follower would; `to` leads a session to a state by facts alone (no PIN is asked, so it is quick).
    """

    def __init__(self, folder: Path, staff: Path, clock: SimClock) -> None:
        self.folder, self.clock, self.roster = folder, clock, [p for p in PEOPLE if p.in_session]
        (folder / "state").mkdir(parents=True)
        shutil.copy(staff, folder / "state" / "staff.json")
        self.link: Callable[..., tuple[str, str]] = chain.link
        self.age_ms: dict[str, int | None] = {"cam-front": 300, "cam-back": 300, "mic": 300}
        self.peak_cdb: int | None = -3000
        self.watch_age_ms: int | None = 300         # None: there is no watcher
        self.waiting_bytes = 0
        self.door_picture: bytes | None = b"\xff\xd8\xff\xe0 whoever stands at the door \xff\xd9"
        self.reader = ReaderStatus("ok", "05.01", None, 0)
        self.disk = DiskReading(4 * 10**12, 8 * 10**12, True, "")
        self.clock_reading = ClockReading("synced", 1000)
        self._seq = dict.fromkeys(STREAMS, 0)
        self.database = Database(folder / "state" / "edge.db", ballast=False)
        self.room = self._open(self.database)

    def _open(self, database: Database) -> Room:
        self.catalog, self.outbox = Catalog(database), Outbox(database)
        self.staff = StaffBook(self.folder / "state" / "staff.json", self.clock)
        self.journal = Journal(database, lambda *columns: self.link(*columns))
        return Room(self.clock, self.journal, self.catalog, self.outbox, self.staff, Instruments(
            streams=STREAMS, stream_status=self._status, watch=self._watch, reader=lambda: self.reader, disk=lambda: self.disk,
            clock=lambda: self.clock_reading, door_still=lambda: self.door_picture),
            Rules(room_code=ROOM, require_sync=True, hmac_key=b"k" * 32), Photos(self.folder / "state" / "photos"))

    def restart(self) -> Room:
        """What a killed room finds: the file, and nothing else."""
        self.database.close()
        self.database = Database(self.folder / "state" / "edge.db", ballast=False)
        self.room = self._open(self.database)
        return self.room

    def _status(self, stream: str) -> StreamStatus | None:
        age, now = self.age_ms.get(stream), self.clock.now()
        if age is None:
            return None
        at = now.plus(-age * 1000)
        return StreamStatus(stream, STREAMS[stream], 1, "recording", "", "0" * 32, 1, 1, at.boot_us, at.utc_us, at.boot_id, 100, 1000, 2500,
                            2000, 640, 360, "h264+aac", 1, now.boot_us, 0, at.boot_us, self.waiting_bytes)

    def _watch(self, stream: str) -> WatchStatus | None:
        if self.watch_age_ms is None:
            return None
        at = self.clock.now().plus(-self.watch_age_ms * 1000)
        return WatchStatus(stream, at.boot_id, at.boot_us, 1, "rules/1", at.boot_us, at.boot_us, self.peak_cdb, 0)

    # ---- facts ----

    def plan(self, session: str = SESSION, **changed: Any) -> e.SessionPlanned:
        facts: dict[str, Any] = {
            "plan_id": f"P-{session}", "session_kind": "exam_theory", "title": "特种作业安全技术理论考试", "duration_min": 120,
            "scheduled_start_us": self.clock.now().utc_us, "staff": dict(STAFF), "min_proctors": 2, "late_cutoff_min": 30,
            "checkin_open_min": 30, "retention_policy": "RP-SPECIAL-6Y", "source": "platform"} | changed
        sha = hashlib.sha256(canonical({k: v for k, v in facts.items()})).hexdigest()
        return e.SessionPlanned(at=self.clock.now(), session=session, plan_sha256=sha, **facts)

    async def accept_roster(self, session: str = SESSION, people: list[SamplePerson] | None = None, source: str = "platform") -> None:
        people = self.roster if people is None else people
        roster = Roster(session, f"P-{session}", 1, tuple(candidate(p) for p in people))
        sha = hashlib.sha256(canonical([p.id_no for p in people])).hexdigest()
        await self.room.accept_roster(e.RosterAccepted(at=self.clock.now(), session=session, version=1, count=len(people),
                                                       roster_sha256=sha, source=source), roster)

    async def fact(self, kind: type[e.Event], session: str | None = SESSION, **fields: Any) -> e.Recorded:
        return await self.room.report(kind(at=self.clock.now(), session=session, **fields))

    async def show(self, name: str, **changed: Any) -> Any:
        """A sample person lays the card on the reader."""
        return await self.room.card(CardSeen(self.clock.now(), replace(BY_NAME[name].identity(), **changed), 700))

    def sidecar(self, stream: str, start: Stamp, end: Stamp, **changed: Any) -> Sidecar:
        """The next segment of a stream, as its worker describes it."""
        self._seq[stream] += 1
        seq = self._seq[stream]
        facts: dict[str, Any] = {
            "stream": stream, "seq": seq, "run": "0" * 32, "start": start, "end": end, "dur_us": end.us_since(start), "frame_us": 40_000,
            "frames": 1500, "dropped": 0, "bytes": 1000, "sha256": hashlib.sha256(f"{stream} {seq}".encode()).hexdigest(),
            "header_bytes": 200, "fragments": (Fragment(200, 800, US, end.us_since(start), True),), "media_start_us": US,
            "codec": "h264+aac", "tracks": {"video": {"codec": "h264"}}, "clock_state": "synced", "end_reason": "rotated",
            "audio_peak_cdb": -2310, "silent_ms": 0} | changed
        return Sidecar(**facts)

    async def segment(self, stream: str, start: Stamp, end: Stamp, **changed: Any) -> Sidecar:
        """The next segment of a stream is whole on disk."""
        sidecar = self.sidecar(stream, start, end, **changed)
        await self.deliver(sidecar)
        return sidecar

    async def deliver(self, sidecar: Sidecar) -> None:
        """As the intake does."""
        await self.room.segment(sidecar, self.path_of(sidecar), hashlib.sha256(f"sidecar {sidecar.seq}".encode()).hexdigest())

    @staticmethod
    def path_of(sidecar: Sidecar) -> str:
        return f"{sidecar.stream}/2026/11/26/{sidecar.seq:010d}-20261126T060000Z.mp4"

    # ---- a session ----

    async def to(self, state: State, session: str = SESSION, **planned: Any) -> None:
        """Lead a session to `state` by the plainest facts."""
        for reached, go in self.way(session, **planned):
            await go()
            if reached is state:
                return
        raise AssertionError(f"no way leads to {state}")

    def way(self, session: str = SESSION, **planned: Any) -> Iterator[tuple[State | None, Callable[[], Awaitable[object]]]]:
        """The facts of a plain session in order; each with the state that it ends in, if it changes it."""
        fact, pass_time = self.fact, self.clock.pass_time
        first = self.roster[0]
        yield None, lambda: self.room.plan(self.plan(session, **planned), "{}")
        yield State.PLANNED, lambda: self.accept_roster(session)
        yield State.PREFLIGHT, lambda: fact(e.PreflightBegun, session, by="T001")
        yield None, lambda: fact(e.StaffPresent, session, staff_id="T001", role="chief")
        yield None, lambda: fact(e.StaffPresent, session, staff_id="T002", role="proctor")
        yield None, lambda: fact(e.StaffPresent, session, staff_id="T003", role="proctor")
        yield None, lambda: fact(e.ExitsChecked, session, by="T002")
        yield State.CHECKIN, lambda: fact(e.CheckinOpened, session, by="T001", session_seq=self.room.state.opened_total + 1,
                                          streams=STREAMS, readings={"roster": "green"}, clock_state="synced")
        yield None, lambda: pass_time(5)
        yield None, lambda: fact(e.CandidateAdmitted, session, candidate_id=first.candidate_id, subject=self.room.subject(first.id_no),
                                 method="id_card", seat=first.seat)
        yield State.RUNNING, lambda: fact(e.ExamStarted, session, by="T001", age_ms={"cam-front": 300})
        yield None, lambda: pass_time(60)
        yield State.CLOSING, lambda: fact(e.ExamEnded, session, by="T001", outcome="completed")
        absent = tuple(p.candidate_id for p in self.roster[1:])
        yield State.SEALING, lambda: fact(e.SealOrdered, session, by="T001", second="T002", statement="seal.statement", absent=absent)
        yield None, lambda: fact(e.OpenSigned, session, digest="0" * 64)
        yield State.SEALED, lambda: fact(
            e.Sealed, session, revision=1, opened_total=self.room.state.opened_total, closed_total=self.room.state.closed_total + 1,
            keep_until="2033-05-25", retention_policy="RP-SPECIAL-6Y", retention_basis="特种作业档案")


@pytest.fixture(scope="session")
def staff_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The staff of every hall, hashed once."""
    path = tmp_path_factory.mktemp("staff") / "staff.json"
    book = StaffBook(path, SimClock())
    for staff_id, pin in PINS.items():
        book.add(staff_id, f"样例{staff_id}", "auditor" if staff_id == "A001" else "staff", None, pin)
    return path


@pytest.fixture
def sim_clock() -> SimClock:
    return SimClock(utc_us=two_o_clock())


@pytest.fixture
def make_hall(tmp_path: Path, staff_file: Path) -> Iterator[Callable[[], Hall]]:
    """Halls; at the end of each test no fact of any of them holds a candidate's number or name."""
    halls: list[Hall] = []

    def make() -> Hall:
        halls.append(Hall(tmp_path / f"hall-{len(halls)}", staff_file, SimClock(utc_us=two_o_clock())))
        return halls[-1]

    yield make
    for hall in halls:
        with hall.database.read() as connection:
            bodies = [str(row["body"]) for row in connection.execute("SELECT body FROM event")]
        hall.database.close()
        for person in PEOPLE:
            found = [body for body in bodies if person.id_no in body or person.name in body]
            assert not found, "a fact holds a candidate's number or name"


@pytest.fixture
def hall(make_hall: Callable[[], Hall]) -> Hall:
    return make_hall()
