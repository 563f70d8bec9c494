"""Footage that no session ever covered is removed after some hours. (Sessions: `keeper`; people: `forgetting`.)

Row to garbage row, unlink, forget: each step can be repeated after a crash. The age is measured by this run's boot clock where the
segment is of this boot; a segment of an earlier boot is as old as this boot at least, and older by the wall clock only while that is
trusted, never if its time lies in the future. The newest segment of each stream stays: its number is where the next one goes on.
A pass removes at most `MOST` segments, and nothing while the disk is not the room's own; an IdleFootageExpired fact says what went.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

from edge.clock import US, Clock, Stamp
from edge.sessions.events import IdleFootageExpired
from edge.storage.database import Database
from edge.storage.keeping import Keeping

log = logging.getLogger(__name__)

MOST = 2000
EVERY_S = 300

Row = tuple[str, int, str, int]


class IdleRetention:
    """One pass each five minutes. `trusted`: whether the wall clock may be believed now; `own_disk`: whether the footage folder is
    the room's own (nothing is removed, and nothing forgotten, from another or an unmounted one)."""

    def __init__(self, database: Database, footage: Path, keep_h: int, clock: Clock, trusted: Callable[[], bool],
                 report: Callable[[IdleFootageExpired], Awaitable[object]], own_disk: Callable[[], bool] = lambda: True) -> None:
        self._database, self._keeping, self._keep_us = database, Keeping(database, footage), keep_h * 3600 * US
        self._clock, self._trusted, self._report, self._own_disk = clock, trusted, report, own_disk

    async def run(self) -> None:
        await self._unlink_garbage()            # what a crash left half done
        while True:
            await self._clock.sleep(EVERY_S)
            await self.step()

    async def step(self) -> int:
        """One pass. Returns how many segments were removed."""
        rows = await asyncio.to_thread(self._due) if self._own_disk() else []
        if rows:
            now = self._clock.now().utc_us
            await self._database.write(lambda c: _to_garbage(c, rows, now))
            await self._unlink_garbage()
            await self._tell(rows)
        return len(rows)

    def _due(self) -> list[Row]:
        now, trusted = self._clock.now(), self._trusted()
        with self._database.read() as connection:
            found = connection.execute("SELECT stream, seq, path, bytes, end_utc_us, end_boot_us, boot_id FROM segment "
                                       "WHERE in_session = 0 ORDER BY start_utc_us LIMIT ?", (MOST,)).fetchall()
            newest = {stream: connection.execute("SELECT max(seq) FROM segment WHERE stream = ?", (stream,)).fetchone()[0]
                      for stream in {row["stream"] for row in found}}
        due = []
        for row in found:
            at = Stamp(row["end_utc_us"], row["end_boot_us"], row["boot_id"])
            age = now.us_since(at) if trusted or row["boot_id"] == now.boot_id else now.boot_us
            if age > self._keep_us and row["seq"] != newest[row["stream"]]:
                due.append((row["stream"], row["seq"], row["path"], row["bytes"]))
        return due

    async def _unlink_garbage(self) -> None:
        while self._own_disk() and await self._keeping.sweep():
            pass

    async def _tell(self, rows: list[Row]) -> None:
        by_stream: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_stream[row[0]].append(row)
        for stream, gone in by_stream.items():
            log.info("idle-footage-expired stream=%s segments=%d", stream, len(gone))
            await self._report(IdleFootageExpired(at=self._clock.now(), stream=stream, first_seq=min(r[1] for r in gone),
                                                  last_seq=max(r[1] for r in gone), segments=len(gone), bytes=sum(r[3] for r in gone)))


def _to_garbage(connection: sqlite3.Connection, rows: list[Row], now_utc_us: int) -> None:
    """Asked again here: a segment may have come to belong to a session since it was found idle."""
    connection.executemany("INSERT OR IGNORE INTO garbage SELECT path, ? FROM segment WHERE stream = ? AND seq = ? AND in_session = 0",
                           [(now_utc_us, row[0], row[1]) for row in rows])
    connection.executemany("DELETE FROM segment WHERE stream = ? AND seq = ? AND in_session = 0", [(row[0], row[1]) for row in rows])
