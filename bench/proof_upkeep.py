"""A room with years behind it: looking up a session, starting, rebuilding the catalog. The store is made by SQL as the room would leave it.

`--upkeep-segments` (3.2 million: three years of four streams, some twelve exam hours a day, sessions of two and a half) is the size at
which a session is looked up and the room is started; `--upkeep-large` (10 million) the one at which a session is looked up again. The
start is that of `build_room` without its network: database, journal, the room's state, the first look at the catalog; a fresh process
each time. `start_s_3y`: after a power cut in the ordinary case, with the last snapshot as old as it gets and so many facts to fold; median
of five. `start_s_3y_anew`: where no snapshot is believed (the first start of another version), and every fact is folded.
`--upkeep-sidecars` sidecars with 120 fragments each, and a .mp4 with as many bytes (a hole) as they say, are read back from the disk.
Lookups: `…_first` with the database dropped from memory before, the others as the run leaves it.
LIMIT: the journal's rows of the made store have no true hashes; nobody looks at them at a start. Not in `start_s_3y`: Python and its
modules, the intake's first look at three years of day folders (beside the pages, in a thread), and the recorder's own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.rig import Unfit
from edge.capture.sidecar import Fragment, Sidecar, to_json
from edge.clock import US, Stamp, SystemClock
from edge.evidence import chain
from edge.followers import REMEMBER_EVERY
from edge.reindex import reindex
from edge.sessions import events as e
from edge.storage.catalog import Catalog
from edge.storage.database import Database
from edge.storage.journal import Journal

STREAMS = ("cam-back", "cam-front", "cam-side", "mic")
MINUTES = 150                       # of a session
PEOPLE = 40
BEGAN_US = 1_700_000_000 * US
LOOKUPS = 400
SESSION = "S20261126-KD01-R01-"     # and a number: as long as a true id

START = """
import asyncio, os, sys, time
from pathlib import Path
from edge import followers
from edge.clock import SystemClock
from edge.evidence import chain
from edge.instruments import Instruments
from edge.room import Room, Rules
from edge.sessions import events as e
from edge.status import ClockReading, DiskReading
from edge.storage.catalog import Catalog
from edge.storage.database import Database
from edge.storage.journal import Journal
from edge.storage.outbox import Outbox
from edge.storage.staff import StaffBook
began = time.perf_counter()
database = Database(Path(sys.argv[1]), ballast=False)
catalog, clock = Catalog(database), SystemClock()
room = Room(clock, Journal(database, chain.link), catalog, Outbox(database), StaffBook(Path(sys.argv[1] + ".staff"), clock), Instruments(
    streams={"cam-front": "rtsp"}, stream_status=lambda s: None, watch=lambda s: None, reader=lambda: None,
    disk=lambda: DiskReading(0, 0, True, ""), clock=lambda: ClockReading("synced", 0)),
    Rules(room_code="000000-KD01-R01", require_sync=False, hmac_key=b"k" * 32))
last = [catalog.last_seq(stream) for stream in ("cam-back", "cam-front", "cam-side", "mic")]
took = time.perf_counter() - began
print(took, room.unremembered, flush=True)

async def live():
    await room.remember()
    for n in range(followers.REMEMBER_EVERY - 1):
        at = clock.now()
        await room.report(e.ReaderBack(at=at, module="m") if n % 2 else e.ReaderLost(at=at, reason="gone"))
    os._exit(0)     # as a power cut: nothing is written any more

if sys.argv[2] == "live":
    asyncio.run(live())
database.close()
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--upkeep-segments", type=int, default=3_200_000, help="size of the store that is started (default 3.2 million)")
    parser.add_argument("--upkeep-large", type=int, default=10_000_000, help="size of the larger store; 0: not made (default 10 million)")
    parser.add_argument("--upkeep-sidecars", type=int, default=60_000, help="sidecars that are read back (default 60,000)")


def measure(args: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    figures: dict[str, float] = {}
    figures |= measure_reindex(folder, args.upkeep_sidecars, say)
    path = folder / "store" / "edge.db"
    say(f"a store of {args.upkeep_segments:,} segments …")
    sessions = make_store(path, args.upkeep_segments, facts=True)
    figures |= lookups(path, sessions, "3m")
    say("starting …")
    figures["start_s_3y_anew"] = start_s(path, "live", None)
    figures["start_s_3y"] = statistics.median(start_s(path, "look", REMEMBER_EVERY - 1) for _ in range(5))
    if args.upkeep_large:
        path.unlink()
        say(f"a store of {args.upkeep_large:,} segments …")
        sessions = make_store(path, args.upkeep_large, facts=False)
        figures |= lookups(path, sessions, "10m")
    return {"figures": figures}


def make_store(path: Path, segments: int, *, facts: bool) -> int:
    """A database with so many segments, all of sessions, and with `facts` the journal that goes with them. Returns how many sessions."""
    database = Database(path, ballast=False)
    database.close()
    sessions = segments // (len(STREAMS) * MINUTES)
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=off", "synchronous=0", "cache_size=-400000", "temp_store=2"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("BEGIN")
    seq = 0
    for number in range(sessions):
        seq = _session(connection, number, seq, facts=facts)
    connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode=wal")
    connection.close()
    return sessions


def _session(connection: sqlite3.Connection, number: int, seq: int, *, facts: bool) -> int:
    session, began = f"{SESSION}{number:06d}", BEGAN_US + number * 3 * 3600 * US
    rows: list[tuple[object, ...]] = []

    def tell(fact: e.Event) -> None:
        body = json.dumps(e.encode(fact), separators=(",", ":"), sort_keys=True)
        rows.append((seq + len(rows) + 1, fact.session, fact.kind, fact.at.utc_us, fact.at.boot_us, "boot", body, "0" * 64, "1" * 64))

    at = Stamp(began, number * 3 * 3600 * US, "boot")
    if facts:
        for fact in _before(session, number, at):
            tell(fact)
    segments, links = [], []
    for minute in range(MINUTES):
        for stream in STREAMS:
            n, start = number * MINUTES + minute, at.plus(minute * 60 * US)
            path = f"{stream}/2026/11/26/{n:010d}-20261126T060000Z.mp4"
            values = (stream, n, path, "0" * 32, start.utc_us, start.utc_us + 60 * US, start.boot_us, start.boot_us + 60 * US, "b" * 36,
                      60 * US, 40_000, 15_000_000, f"{n:064x}", f"{n:064x}", "h264+aac", "rotated", False, "synced", -2310, 0)
            segments.append((*values, 1))
            if facts:
                tell(e.SegmentStored(at=start.plus(60 * US), session=session, **_named(values)))
            links.append((session, stream, start.utc_us, n, seq + len(rows)))
    if facts:
        for fact in _after(session, number, at.plus(MINUTES * 60 * US)):
            tell(fact)
    connection.executemany(f"INSERT INTO segment VALUES ({','.join('?' * 21)})", segments)  # noqa: S608
    connection.executemany("INSERT INTO session_segment VALUES (?,?,?,?,?)", links)
    connection.executemany("INSERT INTO event VALUES (?,?,?,?,?,?,?,?,?)", rows)
    return seq + len(rows)


def _named(values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(_FIELDS, values, strict=True))


_FIELDS = ("stream", "seq", "path", "run", "start_utc_us", "end_utc_us", "start_boot_us", "end_boot_us", "boot_id", "dur_us", "frame_us",
           "bytes", "sha256", "sidecar_sha256", "codec", "end_reason", "recovered", "clock_state", "audio_peak_cdb", "silent_ms")


def _before(session: str, number: int, at: Stamp) -> list[e.Event]:
    def fact(kind: type[e.Event], **body: Any) -> e.Event:
        return kind(at=at, session=session, **body)

    return [
        e.DaemonStarted(at=at, version="0", sw_sha256="0" * 64, config_sha256="0" * 64, device_id="d", cert_sha256="0" * 64),
        fact(e.SessionPlanned, plan_id=f"P{number}", session_kind="exam_theory", title="特种作业安全技术理论考试", duration_min=120,
             scheduled_start_us=at.utc_us, staff={"T001": "chief", "T002": "proctor"}, min_proctors=1, late_cutoff_min=30,
             checkin_open_min=30, retention_policy="RP-SPECIAL-6Y", plan_sha256=f"{number:064x}", source="platform"),
        fact(e.RosterAccepted, version=1, count=PEOPLE, roster_sha256="0" * 64, source="platform"), fact(e.PreflightBegun, by="T001"),
        fact(e.StaffPresent, staff_id="T001", role="chief"), fact(e.StaffPresent, staff_id="T002", role="proctor"),
        fact(e.CheckinOpened, by="T001", session_seq=number + 1, streams=dict.fromkeys(STREAMS, "rtsp"), readings={"roster": "green"},
             clock_state="synced"),
        fact(e.OpenSigned, digest="0" * 64),
        *(fact(e.CandidateAdmitted, candidate_id=f"C{i}", subject=f"{number * 1000 + i:064x}", method="id_card", seat=f"A{i}")
          for i in range(PEOPLE)),
        fact(e.ExamStarted, by="T001", age_ms={"mic": 1})]


def _after(session: str, number: int, at: Stamp) -> list[e.Event]:
    manifest = f"{number + 1:064x}"
    return [
        e.ExamEnded(at=at, session=session, by="T001", outcome="completed"),
        e.SealOrdered(at=at, session=session, by="T001", second="T002", statement="seal.statement", absent=()),
        e.Sealed(at=at, session=session, revision=1, opened_total=number + 1, closed_total=number + 1, keep_until="2033-05-25",
                 retention_policy="RP-SPECIAL-6Y", retention_basis="b"),
        e.ManifestSigned(at=at, session=session, revision=1, digest=manifest),
        e.ReceiptVerified(at=at, session=session, answers="session-manifest", digest=manifest, receipt_sha256=manifest, verdict="accepted",
                          platform_seq=number, received_utc_us=at.utc_us, revision=1)]


def lookups(path: Path, sessions: int, size: str) -> dict[str, float]:
    drop(path)
    return {f"lookup_ms_p99_{size}_first": lookup_ms_p99(path, sessions), f"lookup_ms_p99_{size}": lookup_ms_p99(path, sessions)}


def drop(path: Path) -> None:
    """The database's pages leave the system's memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def lookup_ms_p99(path: Path, sessions: int) -> float:
    """All segments of a session by its id, at random ones; the file's pages as the system happens to have them."""
    database, chance, took = Database(path, ballast=False), random.Random(1), []  # noqa: S311
    catalog = Catalog(database)
    for _ in range(LOOKUPS):
        session = f"{SESSION}{chance.randrange(sessions):06d}"
        began = time.perf_counter()
        found = catalog.segments(session)
        took.append((time.perf_counter() - began) * 1000)
        if len(found) != len(STREAMS) * MINUTES:
            raise Unfit(f"{session} has {len(found)} segments")
    database.close()
    return sorted(took)[round(LOOKUPS * 0.99) - 1]


def start_s(path: Path, then: str, folded: int | None) -> float:
    """A start in seconds. `then`: look (and go), or live on until the power goes. Unfit if it had to fold other than `folded` facts."""
    done = subprocess.run([sys.executable, "-c", START, str(path), then], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])})
    took, unremembered = done.stdout.split()
    if folded is not None and int(unremembered) != folded:
        raise Unfit(f"the start folded {unremembered} facts: {done.stderr[-300:]}")
    return float(took)


def measure_reindex(folder: Path, count: int, say: Callable[[str], None]) -> dict[str, float]:
    """Segments a second, and processor time for each, from an empty catalog: with an empty journal, then with one that names them all.
    The sidecars lie in the page cache, where they were just written."""
    footage = folder / "footage"
    say(f"{count:,} sidecars …")
    lengths = [120_000 + i for i in range(120)]
    total = 1200 + sum(lengths)
    for n in range(count):
        stream, day = STREAMS[n % 4], 1 + n // 4 // 1440
        start = Stamp(BEGAN_US + n // 4 * 60 * US, n * US, "b" * 36)
        at, fragments = 1200, []
        for i, length in enumerate(lengths):
            fragments.append(Fragment(at, length, i * 500_000, 500_000, i % 4 == 0))
            at += length
        sidecar = Sidecar(stream, n // 4, "0" * 32, start, start.plus(60 * US), 60 * US, 40_000, 1500, 0, total, f"{n:064x}", 1200,
                          tuple(fragments), 0, "h264+aac", {"video": {"codec": "h264", "width": 1920}}, "synced", "rotated")
        path = footage / stream / "2026" / f"{1 + day // 28:02d}" / f"{1 + day % 28:02d}" / f"{n // 4:010d}-20261126T060000Z.mp4"
        if n // 4 % 1440 == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_bytes(to_json(sidecar))
        with path.open("wb") as file:
            file.truncate(total)
    database = Database(folder / "reindex" / "edge.db", ballast=False)
    figures = {}
    try:
        for name in ("reindex", "reindex_journal"):
            began, cpu_s = time.perf_counter(), _cpu_s()
            done = reindex(footage, database, Journal(database, chain.link), SystemClock().now().utc_us)
            figures[f"{name}_per_s"] = count / (time.perf_counter() - began)
            figures[f"{name}_cpu_us"] = (_cpu_s() - cpu_s) / count * 1e6
            if done.segments != count or done.refused:
                raise Unfit(f"{done.segments} of {count} sidecars were read; refused: {done.refused[:1]}")
            database.write_now(_name_them)
    finally:
        database.close()
    return figures


def _name_them(connection: sqlite3.Connection) -> None:
    """Every segment of the catalog becomes a fact of one session; then the catalog is lost."""
    body = ", ".join(f"'{name}', {name}" for name in _FIELDS if name != "recovered")
    connection.execute("INSERT INTO event SELECT row_number() OVER (ORDER BY stream, seq), 'S', 'SegmentStored', end_utc_us, "  # noqa: S608
                       f"end_boot_us, boot_id, json_object({body}, 'recovered', json('false')), '', '' FROM segment "
                       "WHERE NOT EXISTS (SELECT 1 FROM event)")
    connection.execute("DELETE FROM segment")


def _cpu_s() -> float:
    """Processor time of this process and of the children that have ended."""
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
