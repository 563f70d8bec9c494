"""The catalog built anew: the segment table from rows that somebody read off the disk, the other derived tables from the journal.

The new segment table grows beside the old one, in pieces, and takes its place in one transaction: whoever looks, even after a power
cut, finds the old catalog or the new one. The journal is only read. Called by `edge reindex` and `edge fsck`, never while a room runs.
LIMIT: the last transaction's log holds what it changes of the derived tables; on an empty catalog of three years that is some 400 MB.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.storage.catalog import Segment
from edge.storage.database import Database
from edge.storage.journal import derive, recorded

SegmentRow = tuple[Any, ...]
"""The fields of a `catalog.Segment`, in its order."""
COLUMNS = tuple(Segment.__dataclass_fields__)
_AT = {name: COLUMNS.index(name) for name in ("stream", "seq", "start_utc_us", "end_utc_us")}
CHECKIN_KINDS = ("CandidateAdmitted", "AdmissionRefused", "SeatAssigned", "CandidateLeft", "CandidateReturned", "AttendanceCorrected")
LINKS = ("SELECT session, json_extract(body, '$.stream') AS stream, json_extract(body, '$.start_utc_us') AS start_utc_us, "
          "json_extract(body, '$.seq') AS seq, seq AS event_seq FROM event WHERE kind = 'SegmentStored' "
          "AND session NOT IN (SELECT session FROM event WHERE kind = 'FootageDisposed')")
"""Which segments belong to which sessions, as the journal has it; of a session that was given up none."""


@dataclass(frozen=True, slots=True)
class Spans:
    """Stretches of UTC time of which the journal knows nothing, in microseconds: (from, to)."""

    spans: tuple[tuple[int, int], ...] = ()

    def touches(self, start_utc_us: int, end_utc_us: int) -> bool:
        return any(start < end_utc_us and end > start_utc_us for start, end in self.spans)


def unaccounted(database: Database) -> Spans:
    with database.read() as connection:
        return Spans(tuple((row[0], row[1]) for row in connection.execute("SELECT from_utc_us, to_utc_us FROM unaccounted ORDER BY id")))


def untold(database: Database) -> list[tuple[int, int, str]]:
    """(from, to, why) of what the journal does not yet say of itself."""
    with database.read() as connection:
        return [tuple(row) for row in connection.execute("SELECT from_utc_us, to_utc_us, why FROM unaccounted WHERE told = 0 ORDER BY id")]


def add_unaccounted(database: Database, start_utc_us: int, end_utc_us: int, why: str) -> None:
    """From now on footage of this stretch is kept, whatever else is known of it. The room makes a fact of it at its next start."""
    database.write_now(lambda c: c.execute("INSERT INTO unaccounted(from_utc_us, to_utc_us, why, told) VALUES (?,?,?,0)",
                                           (start_utc_us, end_utc_us, why)))


def judged(database: Path, stream: str, first: int, last: int) -> dict[int, SegmentRow]:
    """Rows of the segments from number `first` to `last` that the journal names, as the intake judged them; for a process of its own."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        bodies = [json.loads(body) for body, in connection.execute(
            "SELECT e.body FROM session_segment x CROSS JOIN event e ON e.seq = x.event_seq WHERE x.stream = ? AND x.seq BETWEEN ? AND ?",
            (stream, first, last))]
    return {body["seq"]: tuple(body.get(name) for name in COLUMNS) for body in bodies}


class Rebuild:
    """`begin`, then `add` stream by stream, then `finish`. Leaving it in the middle changes nothing that counts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._spans = unaccounted(database)
        self._in_session: dict[str, frozenset[int]] = {}

    def begin(self) -> None:
        """Put the links between sessions and segments right by the journal, and make room for the new table."""
        self._database.write_now(mend_links)
        self._database.write_now(_make_empty)

    def _numbers_in_session(self, stream: str) -> frozenset[int]:
        if stream not in self._in_session:
            with self._database.read() as connection:
                rows = connection.execute("SELECT seq FROM session_segment WHERE stream = ?", (stream,))
                self._in_session = {stream: frozenset(row[0] for row in rows)}     # one stream at a time: memory
        return self._in_session[stream]

    def add(self, rows: Sequence[SegmentRow]) -> None:
        """Rows of one stream in the order of their numbers."""
        if not rows:
            return
        known, spans = self._numbers_in_session(rows[0][_AT["stream"]]), self._spans
        seq, start, end = _AT["seq"], _AT["start_utc_us"], _AT["end_utc_us"]
        values = [(*row, row[seq] in known or spans.touches(row[start], row[end])) for row in rows]
        marks = ",".join("?" * len(values[0]))
        self._database.write_now(lambda c: c.executemany(f"INSERT OR IGNORE INTO segment_new VALUES ({marks})", values))  # noqa: S608

    def loose(self) -> list[Segment]:
        """New rows that the journal does not name: idle footage, and what a session still has to be told of. Few."""
        with self._database.read() as connection:
            names = ", ".join(f"n.{name}" for name in COLUMNS)
            rows = connection.execute(f"SELECT {names} FROM segment_new n WHERE NOT EXISTS (SELECT 1 FROM session_segment x "  # noqa: S608
                                      "WHERE x.stream = n.stream AND x.seq = n.seq) "
                                      "ORDER BY n.stream, n.seq")
            return [Segment(**{**dict(row), "recovered": bool(row["recovered"])}) for row in rows]

    def finish(self, owed_from: dict[str, int]) -> int:
        """Put the new table in place, without each stream's rows from number `owed_from[stream]` on: the room's intake brings those.

        Returns how many were left out.
        """
        def swap(connection: sqlite3.Connection) -> int:
            left = 0
            for stream, seq in owed_from.items():
                left += connection.execute("DELETE FROM segment_new WHERE stream = ? AND seq >= ?", (stream, seq)).rowcount
            connection.execute("DROP TABLE segment")
            connection.execute("ALTER TABLE segment_new RENAME TO segment")
            connection.execute("CREATE INDEX segment_idle ON segment(start_utc_us) WHERE in_session = 0")
            mend_checkins(connection)
            return left

        return self._database.write_now(swap)


def _make_empty(connection: sqlite3.Connection) -> None:
    connection.execute("DROP TABLE IF EXISTS segment_new")
    made = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'segment'").fetchone()[0]
    head, _, columns = made.partition("(")
    if "segment" not in head:
        raise sqlite3.DatabaseError(f"the segment table was made in an unknown way: {head}")
    connection.execute(f"CREATE TABLE segment_new ({columns}")


def mend_links(connection: sqlite3.Connection) -> int:
    """session_segment as the journal has it. Returns how many rows were wrong."""
    gone = connection.execute("DELETE FROM session_segment WHERE (session, stream, start_utc_us, seq, event_seq) "  # noqa: S608
                              f"NOT IN ({LINKS})").rowcount
    return gone + connection.execute(f"INSERT OR IGNORE INTO session_segment {LINKS}").rowcount


def mend_checkins(connection: sqlite3.Connection) -> None:
    """The check-in list as the journal has it."""
    factory, connection.row_factory = connection.row_factory, sqlite3.Row
    try:
        marks = ",".join("?" * len(CHECKIN_KINDS))
        rows = connection.execute(f"SELECT * FROM event WHERE kind IN ({marks}) ORDER BY seq", CHECKIN_KINDS).fetchall()  # noqa: S608
    finally:
        connection.row_factory = factory
    connection.execute("DELETE FROM checkin")
    for row in rows:
        fact = recorded(row)
        derive(connection, fact.seq, fact.event)


def has_facts(database: Database) -> bool:
    """Whether the journal holds anything."""
    with database.read() as connection:
        return connection.execute("SELECT 1 FROM event LIMIT 1").fetchone() is not None
