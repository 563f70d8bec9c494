"""Footage that no session ever covered is removed after some hours; refused cards are forgotten after 30 days. Nothing else is deleted.

Row to garbage row, unlink, forget: each step can be repeated after a crash. The age is measured by this run's boot clock where the
segment is of this boot; a segment of an earlier boot is judged by the wall clock only while that is trusted, and never if its time
lies in the future. A pass removes at most `MOST` segments; an IdleFootageExpired fact says what went.
LIMIT: sessions themselves are never deleted yet, whatever their policy says; retention of sessions is not built.
"""

from __future__ import annotations

import logging
import sqlite3
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

from edge import durable
from edge.clock import US, Clock, Stamp
from edge.sessions.events import IdleFootageExpired
from edge.sessions.preflight import PICTURE_RULES, SOUND_RULES
from edge.storage.database import Database

log = logging.getLogger(__name__)

MOST = 2000
EVERY_S = 300
SEEN_CARD_DAYS = 30

BESIDE = (".watch.json", *(f".{rule}.jpg" for rule in sorted(PICTURE_RULES | SOUND_RULES)))
"""What may lie beside a segment and its sidecar: the watcher's note, the pictures on which it raised alarms."""

Row = tuple[str, int, str, int]


class IdleRetention:
    """One pass each five minutes. `trusted`: whether the wall clock may be believed now."""

    def __init__(self, database: Database, footage: Path, keep_h: int, clock: Clock, trusted: Callable[[], bool],
                 report: Callable[[IdleFootageExpired], Awaitable[object]]) -> None:
        self._database, self._footage, self._keep_us = database, footage, keep_h * 3600 * US
        self._clock, self._trusted, self._report = clock, trusted, report

    async def run(self) -> None:
        await self._unlink_garbage()            # what a crash left half done
        while True:
            await self._clock.sleep(EVERY_S)
            await self.step()

    async def step(self) -> int:
        """One pass. Returns how many segments were removed."""
        rows = self._due()
        if rows:
            now = self._clock.now().utc_us
            await self._database.write(lambda c: _to_garbage(c, rows, now))
            await self._unlink_garbage()
            await self._tell(rows)
        if self._trusted():
            before = self._clock.now().utc_us - SEEN_CARD_DAYS * 86400 * US
            await self._database.write(lambda c: c.execute("DELETE FROM seen_card WHERE utc_us < ?", (before,)))
        return len(rows)

    def _due(self) -> list[Row]:
        now, trusted = self._clock.now(), self._trusted()
        with self._database.read() as connection:
            found = connection.execute("SELECT stream, seq, path, bytes, end_utc_us, end_boot_us, boot_id FROM segment "
                                       "WHERE in_session = 0 ORDER BY start_utc_us LIMIT ?", (MOST,)).fetchall()
        due = []
        for row in found:
            same_boot = row["boot_id"] == now.boot_id
            age = now.us_since(Stamp(row["end_utc_us"], row["end_boot_us"], row["boot_id"]))
            if (same_boot or trusted) and age > self._keep_us:
                due.append((row["stream"], row["seq"], row["path"], row["bytes"]))
        return due

    async def _unlink_garbage(self) -> None:
        with self._database.read() as connection:
            paths = [row["path"] for row in connection.execute("SELECT path FROM garbage")]
        for path in paths:
            media = self._footage / path
            for suffix in BESIDE:
                if (each := media.with_suffix(suffix)).exists():
                    durable.remove(each)
            durable.remove(media)
            durable.remove(media.with_suffix(".json"))
        if paths:
            await self._database.write(lambda c: c.executemany("DELETE FROM garbage WHERE path = ?", [(p,) for p in paths]))

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
