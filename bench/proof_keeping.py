"""How long one pass of retention takes over ten million segments when nothing is due, and a year's sweep over sessions that are.

The real database with its schema, the real Keeper and IdleRetention over a Room whose state is what a fold of that many sessions yields
(how long that fold takes is another bench's). A group of bench/proof.py.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from edge.clock import US, SimClock
from edge.evidence import chain
from edge.evidence.manifest import RoomFacts
from edge.idcheck.reader import ReaderStatus
from edge.instruments import Instruments
from edge.keeper import Keeper, Means
from edge.room import Room, Rules
from edge.sessions import events as e
from edge.sessions.machine import Revision, RoomState, Session, State
from edge.status import ClockReading, DiskReading
from edge.storage.catalog import Catalog
from edge.storage.database import Database
from edge.storage.journal import Journal
from edge.storage.keeping import Keeping
from edge.storage.outbox import Outbox
from edge.storage.retention import IdleRetention
from edge.storage.staff import StaffBook

PER_SESSION, STREAMS, IDLE = 720, 4, 5760
"""Four cameras for three hours; a day of footage that no session covers."""
ROUNDS = 7


class _NobodySigns:
    chain_pem = ""

    def sign(self, pae: bytes) -> bytes:
        raise AssertionError("nothing is due, and something was signed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keeping-rows", type=int, default=10_000_000, metavar="N", help="segments in the database (default 10 million)")


def measure(args: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """{"figures": {"retention_pass_s_10m": worst of the rounds, …}}; the median beside it."""
    sessions = max(1, args.keeping_rows // PER_SESSION)
    database, clock = Database(folder / "state" / "edge.db", ballast=False), SimClock()
    try:
        say(f"filling a database with {sessions * PER_SESSION:,} segments of {sessions:,} sessions")
        _fill(database, sessions, clock.now().utc_us)
        times = asyncio.run(_passes(database, folder, clock, sessions))
    finally:
        database.close()
    say(f"passes: {', '.join(f'{each:.3f}' for each in times)} s")
    return {"figures": {"retention_pass_s_10m": max(times), "retention_pass_s_10m_median": statistics.median(times),
                        "retention_pass_rows": float(sessions * PER_SESSION)}}


async def _passes(database: Database, folder: Path, clock: SimClock, sessions: int) -> list[float]:
    keeper, idle = _keeper(database, folder, clock, sessions)
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        if await keeper.step() or await idle.step():
            raise RuntimeError("nothing is due, and something went")
        await keeper.look_at_space()
        times.append(time.perf_counter() - begin)
        await clock.pass_time(60)
    return times


def _keeper(database: Database, folder: Path, clock: SimClock, sessions: int) -> tuple[Keeper, IdleRetention]:
    names = [f"cam{n}" for n in range(STREAMS)]
    room = Room(clock, Journal(database, chain.link), Catalog(database), Outbox(database), StaffBook(folder / "staff.json", clock),
                Instruments(dict.fromkeys(names, "rtsp"), lambda stream: None, lambda stream: None,
                            lambda: ReaderStatus("ok", None, None, 0), lambda: DiskReading(10**13, 10**14, True, ""),
                            lambda: ClockReading("synced", 0)),
                Rules("000000-KD01-R01", True, b"k" * 32))
    room.state = RoomState(sessions={s.id: s for s in _sessions(room, sessions)}, witness=e.ReceiptVerified(
        at=clock.now(), session="S", answers="session-open", digest="0" * 64, receipt_sha256="e" * 64, verdict="accepted", platform_seq=1,
        received_utc_us=clock.now().utc_us))
    keeping = Keeping(database, folder / "footage")
    facts = RoomFacts("KD01", "000000-KD01-R01", "E1", "c" * 64, "0", "a" * 64, "b" * 64, "boot", "room-1", True)

    async def report(event: e.IdleFootageExpired) -> None:
        raise AssertionError("nothing is due, and something went")

    return (Keeper(room, Means(keeping, _NobodySigns(), facts, lambda: "", lambda: True, names)),
            IdleRetention(database, folder / "footage", 24, clock, lambda: True, report))


def _sessions(room: Room, count: int) -> list[Session]:
    """What the fold yields: sealed, accepted, kept for three years from their day on; the oldest is not over yet."""
    now, day = room.clock.now(), timedelta(days=1)
    made = []
    for number in range(count):
        at = now.plus(-(count - number) * 3 * 365 * 86400 * US // (count + 1))
        session = f"S{number:08d}-KD01-R01-01"
        plan = e.SessionPlanned(at=at, session=session, plan_id="P", session_kind="exam_theory", title="t", scheduled_start_us=at.utc_us,
                                duration_min=120, staff={}, min_proctors=2, late_cutoff_min=30, checkin_open_min=30,
                                retention_policy="RP-GENERAL-3Y", plan_sha256="0" * 64, source="platform")
        until = (room.local_date(at.utc_us) + 3 * 366 * day).isoformat()
        sealed = e.Sealed(at=at, session=session, revision=1, opened_total=1, closed_total=1, keep_until=until,
                          retention_policy="RP-GENERAL-3Y", retention_basis="3年")
        opened = e.CheckinOpened(at=at, session=session, by="T001", session_seq=number + 1, streams={}, readings={}, clock_state="synced")
        made.append(Session(session, State.SEALED, plan, opened=opened, sealed=sealed, kept_until=until,
                            revisions=(Revision(1, "0" * 64, "accepted", "0" * 64),)))
    return made


def _fill(database: Database, sessions: int, now_us: int) -> None:
    """Rows by one statement each, in the order in which they would have come."""
    per_stream = PER_SESSION // STREAMS
    row = ("'cam' || {s}, {q}, 'cam' || {s} || '/2026/11/26/' || printf('%010d', {q}) || '-20261126T060000Z.mp4', "
           "'0123456789abcdef0123456789abcdef', {t}, {t} + 60000000, {t}, {t} + 60000000, 'boot', 60000000, 40000, 15000000, "
           "hex(randomblob(32)), hex(randomblob(32)), 'h264+aac', 'rotated', 0, 'synced', -2310, 0")

    count = "WITH RECURSIVE count(n) AS (SELECT ? UNION ALL SELECT n + 1 FROM count WHERE n + 1 < ?)"

    def change(connection: Any) -> None:
        total = sessions * per_stream
        begin = now_us - 3 * 365 * 86400 * US
        for stream in range(STREAMS):
            segment = row.format(s=stream, q="n", t=f"({begin} + n * 60000000)")
            connection.execute(f"{count} INSERT INTO segment SELECT {segment}, 1 FROM count", (0, total))  # noqa: S608
            idle = row.format(s=stream, q="n", t=f"({now_us} - 3600000000)")
            connection.execute(f"{count} INSERT INTO segment SELECT {idle}, 0 FROM count", (total, total + IDLE // STREAMS))  # noqa: S608
        for stream in range(STREAMS):
            connection.execute(f"{count} INSERT INTO session_segment SELECT printf('S%08d-KD01-R01-01', n / ?), "  # noqa: S608
                               "'cam' || ?, ? + n * 60000000, n, n FROM count", (0, total, per_stream, stream, begin))
        connection.execute(f"{count} INSERT INTO footage_total SELECT printf('S%08d-KD01-R01-01', n), ?, ? * 15000000 FROM count",  # noqa: S608
                           (0, sessions, PER_SESSION, PER_SESSION))

    database.write_now(change)
