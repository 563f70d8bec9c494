"""The scrub: every segment on the disk is read and hashed again within so many days, gently, for ever. What is no longer what its
sidecar says is named by a fact (SegmentDamaged), and so is what has come right again (SegmentSound). Nothing is mended or removed.

It rests while `busy` says so (a session is being held) and catches up afterwards, at most at `most_bytes_s`. How far it is stands in the
database, so a restart goes on there. Bytes that were read for it are dropped from the page cache. If the disk is not the room's own, or
one file after the other is missing, the disk is at fault and not the files: nothing is reported, and the next look is later.
Runs as one task of the room; the row order is that of the primary key, so a file that comes while a pass runs belongs to it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from edge.clock import US, Clock
from edge.sessions.events import Event, SegmentDamaged, SegmentSound
from edge.storage.database import Database

log = logging.getLogger(__name__)

CHUNK = 1 << 20
BATCH = 32
"""So many segments at most between two notes of how far the scrub is: what a restart reads again."""
REST_S = 30.0
SAMPLE = 20
"""Where a file is missing, so many others are looked for: if half of them are gone too, that is no lost file but a lost disk."""
LEAST_BYTES_S = 1 << 20
DAY_US = 86400 * US


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the scrub is. Times are UTC µs; `last_ended_utc_us` of the last whole pass, None before the first."""

    number: int
    began_utc_us: int
    stream: str = ""
    seq: int = -1
    files: int = 0
    bytes: int = 0
    damaged: int = 0
    last_began_utc_us: int | None = None
    last_ended_utc_us: int | None = None


@dataclass(frozen=True, slots=True)
class Damage:
    """A segment that is not what its sidecar says. `what`: one of WORDS."""

    stream: str
    seq: int
    what: str
    utc_us: int


WORDS = ("missing", "unreadable", "size", "digest", "sidecar-missing", "sidecar")
"""What can be wrong with a segment: its file is gone, the disk does not give it, it has another length, other bytes; its sidecar is
gone, or is another one than was taken in."""


def progress_of(database: Database) -> Progress | None:
    """How far the scrub is; None before the first pass."""
    with database.read() as connection:
        row = connection.execute("SELECT pass, began_utc_us, stream, seq, files, bytes, damaged, last_began_utc_us, last_ended_utc_us "
                                 "FROM scrub").fetchone()
    return Progress(*row) if row else None


def damages(database: Database, session: str | None = None) -> list[Damage]:
    """What is damaged now, of a session or of all that is kept, oldest first."""
    query, values = "SELECT d.stream, d.seq, d.what, d.utc_us FROM damage d", ()
    if session is not None:
        query += " WHERE EXISTS (SELECT 1 FROM session_segment x WHERE x.session = ? AND x.stream = d.stream AND x.seq = d.seq)"
    with database.read() as connection:
        rows = connection.execute(query + " ORDER BY d.event_seq", (session,) if session is not None else values)
        return [Damage(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class _Row:
    stream: str
    seq: int
    path: str
    bytes: int
    sha256: str
    sidecar_sha256: str


class Scrub:
    """`ours`: whether the footage folder is the room's own disk now. `days`: within which a pass is to end."""

    def __init__(self, database: Database, footage: Path, days: int, most_bytes_s: int, clock: Clock,
                 report: Callable[[Event], Awaitable[object]], busy: Callable[[], bool], ours: Callable[[], bool]) -> None:
        self._database, self._footage, self._clock, self._report = database, footage, clock, report
        self._days, self._most_bytes_s, self._busy, self._ours = days, most_bytes_s, busy, ours
        self._total = 0

    async def run(self) -> None:
        """For ever: a batch, and the pause that its bytes cost."""
        while True:
            await self._clock.sleep(await self.step())

    async def step(self) -> float:
        """Look at the next few segments. Returns the seconds to rest after them."""
        if self._busy() or not self._ours():
            return REST_S
        progress = progress_of(self._database)
        if progress is None or not self._total:
            self._total = await asyncio.to_thread(self._count_bytes)
        progress = progress or Progress(1, self._clock.now().utc_us)
        rows = self._next(progress)
        if not rows:
            return await self._end(progress)
        read, pace = 0, self._pace(progress)
        for row in rows:
            fault, found = await asyncio.to_thread(self._look_at, row)
            if fault == "missing" and await asyncio.to_thread(self._disk_is_lost):
                log.error("scrub-waits reason=half of all files are missing, so this is not the whole disk; nothing was reported of them")
                return REST_S * 10
            damaged = await self._tell(row, fault, found)
            read += row.bytes
            progress = replace(progress, stream=row.stream, seq=row.seq, files=progress.files + 1, bytes=progress.bytes + row.bytes,
                               damaged=progress.damaged + damaged)
            if self._busy():
                break
        await self._note(progress)
        return read / pace

    def _pace(self, progress: Progress) -> float:
        """Bytes a second that end the pass in time, within what the disk may be asked for."""
        left_s = (progress.began_utc_us + self._days * DAY_US - self._clock.now().utc_us) / US
        wanted = (self._total - progress.bytes) / left_s if left_s > 0 else self._most_bytes_s
        return min(max(wanted * 1.1, LEAST_BYTES_S), self._most_bytes_s)

    async def _end(self, progress: Progress) -> float:
        now = self._clock.now().utc_us
        if progress.files:
            log.info("scrub-ended pass=%d files=%d bytes=%d damaged=%d", progress.number, progress.files, progress.bytes, progress.damaged)
        await self._note(Progress(progress.number + 1, now, last_began_utc_us=progress.began_utc_us, last_ended_utc_us=now))
        self._total = 0
        return REST_S if progress.files else REST_S * 10

    def _count_bytes(self) -> int:
        with self._database.read() as connection:
            return int(connection.execute("SELECT coalesce(sum(bytes), 0) FROM segment").fetchone()[0])

    def _next(self, progress: Progress) -> list[_Row]:
        with self._database.read() as connection:
            rows = connection.execute("SELECT stream, seq, path, bytes, sha256, sidecar_sha256 FROM segment WHERE (stream, seq) > (?, ?) "
                                      "ORDER BY stream, seq LIMIT ?", (progress.stream, progress.seq, BATCH))
            return [_Row(*row) for row in rows]

    def _look_at(self, row: _Row) -> tuple[str, str | None]:
        """('' or the word for what is wrong, the digest that was found instead)."""
        fault, found = examine(self._footage / row.path, row.bytes, row.sha256, row.sidecar_sha256)
        if fault and not self._still_there(row):
            return "", None             # expired meanwhile
        return fault, found

    def _disk_is_lost(self) -> bool:
        with self._database.read() as connection:
            last = connection.execute("SELECT max(rowid) FROM segment").fetchone()[0] or 0
            asked = [last] + [random.randint(1, last) for _ in range(SAMPLE)] if last else []  # noqa: S311
            paths = {row[0] for rowid in asked for row in connection.execute(
                "SELECT path FROM segment WHERE rowid >= ? ORDER BY rowid LIMIT 1", (rowid,))}
        return len(paths) > 2 and sum(not (self._footage / path).exists() for path in paths) * 2 >= len(paths)

    def _still_there(self, row: _Row) -> bool:
        with self._database.read() as connection:
            return connection.execute("SELECT 1 FROM segment WHERE stream = ? AND seq = ?", (row.stream, row.seq)).fetchone() is not None

    async def _tell(self, row: _Row, fault: str, found: str | None) -> bool:
        """A fact, if it is news."""
        with self._database.read() as connection:
            known = connection.execute("SELECT what FROM damage WHERE stream = ? AND seq = ?", (row.stream, row.seq)).fetchone()
            sessions = tuple(each[0] for each in connection.execute(
                "SELECT session FROM session_segment WHERE stream = ? AND seq = ? ORDER BY session", (row.stream, row.seq)))
        if fault and (known is None or known[0] != fault):
            log.error("segment-damaged stream=%s seq=%d what=%s path=%s", row.stream, row.seq, fault, row.path)
            await self._report(SegmentDamaged(at=self._clock.now(), stream=row.stream, seq=row.seq, path=row.path, what=fault,
                                              sha256=row.sha256, found_sha256=found, sessions=sessions))
        elif known is not None and not fault:
            log.warning("segment-sound-again stream=%s seq=%d path=%s", row.stream, row.seq, row.path)
            await self._report(SegmentSound(at=self._clock.now(), stream=row.stream, seq=row.seq))
        return bool(fault)

    async def _note(self, progress: Progress) -> None:
        values = (progress.number, progress.began_utc_us, progress.stream, progress.seq, progress.files, progress.bytes, progress.damaged,
                  progress.last_began_utc_us, progress.last_ended_utc_us)
        await self._database.write(lambda c: c.execute("INSERT OR REPLACE INTO scrub VALUES (1,?,?,?,?,?,?,?,?,?)", values))


def examine(media: Path, size: int, sha256: str, sidecar_sha256: str) -> tuple[str, str | None]:
    """One segment against its row: ('' or one of WORDS, the digest found where it is another). Reads every byte from the disk."""
    try:
        found, length = hash_uncached(media)
    except FileNotFoundError:
        return "missing", None
    except OSError:
        return "unreadable", None
    if length != size:
        return "size", found
    if found != sha256:
        return "digest", found
    try:
        beside = hashlib.sha256(media.with_suffix(".json").read_bytes()).hexdigest()
    except OSError:
        return "sidecar-missing", None
    return ("sidecar", beside) if beside != sidecar_sha256 else ("", None)


def hash_uncached(path: Path) -> tuple[str, int]:
    """(lower-case hex SHA-256, length) of a file; its pages are dropped before and after, so that the disk is asked and not the memory."""
    digest, length = hashlib.sha256(), 0
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        with suppress(OSError):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while piece := os.read(handle, CHUNK):
            digest.update(piece)
            length += len(piece)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)
    return digest.hexdigest(), length
