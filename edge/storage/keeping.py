"""What is kept, how much of it, and how a session's footage and people go once their time is over.

Two phases, each of which can be repeated after a crash: in the transaction of the fact `FootageDisposed` the rows move to `garbage` (and
the session's names and numbers go); then the files of garbage rows are unlinked, and the rows forgotten. A file without its row is never
removed by this module, a row is never removed because its file is missing. Callers: `room` (rows), `keeper`, `forgetting`.
LIMIT: the highest-numbered segment of each stream that still records stays until a later one exists, because workers number on from it.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sqlite3
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from edge import durable
from edge.sessions.events import Event
from edge.sessions.preflight import PICTURE_RULES, SOUND_RULES
from edge.storage.database import Database

BESIDE = (".watch.json", *(f".{rule}.jpg" for rule in sorted(PICTURE_RULES | SOUND_RULES)))
"""What may lie beside a segment and its sidecar: the watcher's note, the pictures on which it raised alarms."""
SAMPLE = 40
"""Segments per stream whose files are looked for before anything goes: a lost disk shows surely, one folder in twenty with 87 %."""
BATCH = 500
"""Files unlinked between two writes of the garbage table."""

_OWN = ("FROM session_segment x JOIN segment s ON s.stream = x.stream AND s.seq = x.seq WHERE x.session = ? AND NOT EXISTS "
        "(SELECT 1 FROM session_segment o WHERE o.stream = x.stream AND o.seq = x.seq AND o.session <> x.session)")
"""A session's segments that no other session shares."""


@dataclass(frozen=True, slots=True)
class Total:
    """How much footage: segments and bytes. A segment at the border of two sessions counts in both."""

    segments: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Leaving:
    """What would go with a session: counted exactly, segments shared with another session left out. `streams`: id -> segments."""

    total: Total
    streams: dict[str, int]
    list_sha256: str


@dataclass(frozen=True, slots=True)
class ToGarbage:
    """Beside FootageDisposed: the session's rows become garbage rows, its people are forgotten."""

    def write(self, connection: sqlite3.Connection, seq: int, event: Event) -> None:
        own = connection.execute(f"SELECT s.path, s.stream, s.seq {_OWN}", (event.session,)).fetchall()
        connection.executemany("INSERT OR IGNORE INTO garbage VALUES (?,?)", [(path, event.at.utc_us) for path, _, _ in own])
        connection.executemany("DELETE FROM segment WHERE stream = ? AND seq = ?", [(stream, number) for _, stream, number in own])
        for table in ("session_segment", "footage_total", "person", "elsewhere", "plan", "seen_card"):
            connection.execute(f"DELETE FROM {table} WHERE session = ?", (event.session,))  # noqa: S608


class Keeping:
    """Questions about the store, and the second phase. Reads open their own connection; may be called beside the event loop."""

    def __init__(self, database: Database, footage: Path) -> None:
        self._database, self._footage = database, footage

    def totals(self) -> dict[str, Total]:
        """Footage of every session that has any: session -> how much."""
        with self._database.read() as connection:
            return {row["session"]: Total(row["segments"], row["bytes"]) for row in connection.execute("SELECT * FROM footage_total")}

    def leaving(self, session: str) -> Leaving:
        """What goes with a session now."""
        streams: dict[str, int] = defaultdict(int)
        lines, size = [], 0
        with self._database.read() as connection:
            for row in connection.execute(f"SELECT s.stream, s.path, s.sha256, s.bytes {_OWN}", (session,)):
                streams[row["stream"]] += 1
                size += row["bytes"]
                lines.append(f"{row['path']}\t{row['sha256']}\n")
        return Leaving(Total(len(lines), size), dict(sorted(streams.items())), hashlib.sha256("".join(sorted(lines)).encode()).hexdigest())

    def idle_bytes(self) -> int:
        """What lies there of no session."""
        with self._database.read() as connection:
            return int(connection.execute("SELECT coalesce(sum(bytes), 0) FROM segment WHERE in_session = 0").fetchone()[0])

    def newest_in(self, streams: Iterable[str]) -> set[str]:
        """Sessions that hold the highest-numbered segment of one of these streams: workers number on from it, so it stays."""
        with self._database.read() as connection:
            newest = [(stream, connection.execute("SELECT max(seq) FROM segment WHERE stream = ?", (stream,)).fetchone()[0])
                      for stream in streams]
            found = [connection.execute("SELECT session FROM session_segment WHERE stream = ? AND seq = ?", each).fetchall()
                     for each in newest]
        return {row["session"] for rows in found for row in rows}

    def missing(self) -> tuple[int, int]:
        """(looked for, not there): a sample of all segments, spread over each stream, its newest among them."""
        looked, missing = 0, 0
        with self._database.read() as connection:
            for (stream,) in connection.execute("SELECT DISTINCT stream FROM segment").fetchall():
                first, last = connection.execute("SELECT min(seq), max(seq) FROM segment WHERE stream = ?", (stream,)).fetchone()
                for near in {last, *(random.randint(first, last) for _ in range(SAMPLE))}:  # noqa: S311 (a sample, not a secret)
                    path, size = connection.execute("SELECT path, bytes FROM segment WHERE stream = ? AND seq <= ? "
                                                    "ORDER BY seq DESC LIMIT 1", (stream, near)).fetchone()
                    looked += 1
                    missing += _size(self._footage / path) != size
        return looked, missing

    def garbage(self) -> int:
        """How many files are still to be removed."""
        with self._database.read() as connection:
            return int(connection.execute("SELECT count(*) FROM garbage").fetchone()[0])

    async def sweep(self, most: int = BATCH) -> int:
        """The second phase for up to `most` garbage rows: unlink, then forget. Returns how many; OSError: the rest waits."""
        with self._database.read() as connection:
            paths = [row["path"] for row in connection.execute("SELECT path FROM garbage ORDER BY path LIMIT ?", (most,))]
        if paths:
            await asyncio.to_thread(unlink_segments, self._footage, paths)
            await self._database.write(lambda c: c.executemany("DELETE FROM garbage WHERE path = ?", [(path,) for path in paths]))
        return len(paths)

    async def forget_people(self, never_opened: Collection[str], spared: Collection[str], before_utc_us: int) -> None:
        """Names and numbers that nothing asks to be kept: lists of sessions that never took place, cards that were refused.

        `spared`: sessions whose refused cards stay (a hold); `before_utc_us`: refused cards read before go.
        """
        def change(connection: sqlite3.Connection) -> None:
            for table in ("person", "elsewhere"):
                connection.executemany(f"DELETE FROM {table} WHERE session = ?", [(each,) for each in never_opened])  # noqa: S608
            marks = ",".join("?" * len(spared))
            connection.execute(f"DELETE FROM seen_card WHERE utc_us < ? AND (session IS NULL OR session NOT IN ({marks}))",  # noqa: S608
                               (before_utc_us, *spared))

        await self._database.write(change)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def unlink_segments(footage: Path, paths: Iterable[str]) -> None:
    """Remove segments with all that lies beside them, folder by folder. The film first: one without sidecar is recovered."""
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        folders[(footage / path).parent].append(footage / path)
    for folder, films in folders.items():
        durable.remove_all(folder, films)
        durable.remove_all(folder, [film.with_suffix(suffix) for film in films for suffix in (*BESIDE, ".json")])
