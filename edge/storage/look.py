"""The database of a room, only looked at: nothing is opened for writing, nothing migrated, and a running room is not disturbed.

For the checks of the store (`edge verify --store`, `edge fsck`). Rows come in pages, each read by a short connection of its own, because
a long reader would keep the write-ahead log from being folded back.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from edge.sessions import events as e
from edge.storage import migrations
from edge.storage.catalog import Segment, StoredEnvelope, rollovers_in
from edge.storage.journal import FOLDED, NOT_FOLDED, recorded
from edge.storage.rebuild import LINKS

T = TypeVar("T")
PAGE = 20_000


class NoStore(Exception):
    """There is no database that could be looked at. Says what, and what to do."""


@dataclass(frozen=True, slots=True)
class IdleSegment:
    """A segment that belongs to no session: path below the footage folder, size and digests."""

    path: str
    bytes: int
    sha256: str
    sidecar_sha256: str


class Look:
    """Questions to the database file `path`. NoStore if it is none, or newer than this program. `version`: of its schema; an older
    program's tables may lack what is asked for."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise NoStore(f"there is no database {path}. Nothing was checked. Name the room's configuration with --config.")
        self._path = path
        try:
            self.version = version = int(self._ask("PRAGMA user_version")[0][0])
        except sqlite3.DatabaseError as error:
            raise NoStore(f"the database {path} cannot be read ({error}). Nothing was changed. "
                          "Keep a copy and restore a backup.") from error
        if version > len(migrations.STEPS):
            raise NoStore(f"the database {path} has schema {version}, this program knows {len(migrations.STEPS)}. Use the newer program.")

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            yield connection

    def _ask(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._open() as connection:
            return connection.execute(query, values).fetchall()

    def rows(self) -> Iterator[tuple[int, str | None, str, int, int, str, str, str, str]]:
        """The whole journal as it is stored, in order: seq, session, kind, utc_us, boot_us, boot_id, body, prev, hash."""
        yield from (tuple(row) for row in self._pages())

    def _pages(self) -> Iterator[sqlite3.Row]:
        after = -1
        while page := self._ask("SELECT seq, session, kind, utc_us, boot_us, boot_id, body, prev, hash FROM event WHERE seq > ? "
                                "ORDER BY seq LIMIT ?", after, PAGE):
            yield from page
            after = page[-1][0]

    def facts(self) -> Iterator[e.Recorded]:
        """The whole journal as facts, in order. ValueError at a row that is none."""
        yield from (recorded(row) for row in self._pages())

    def snapshot(self) -> list[tuple[str, str]]:
        """Rows of the folded state, in order: session and body; none in a database of before there was one."""
        if not self._ask("SELECT 1 FROM sqlite_master WHERE name = 'snapshot'"):
            return []
        return [tuple(row) for row in self._ask("SELECT session, body FROM snapshot ORDER BY id")]

    def numbers(self) -> dict[str, int]:
        """Each stream's highest number that the index or a session has ever had of it."""
        return {row[0]: int(row[1]) for row in self._ask(
            "SELECT stream, max(seq) FROM (SELECT stream, seq FROM segment UNION ALL SELECT stream, seq FROM session_segment) "
            "GROUP BY stream")}

    def last_row(self) -> int:
        """The number of the journal's last row; 0 if it has none."""
        return int(self._ask("SELECT coalesce(max(seq), 0) FROM event")[0][0])

    def of_kinds(self, *kinds: str) -> list[tuple[int, str | None, str, str]]:
        """seq, session, kind and body of every row of these kinds, in order."""
        marks = ",".join("?" * len(kinds))
        return [tuple(row) for row in self._ask(f"SELECT seq, session, kind, body FROM event WHERE kind IN ({marks}) ORDER BY seq",  # noqa: S608
                                                *kinds)]

    def of_session(self, session: str) -> list[e.Recorded]:
        """All facts of one session, in order. ValueError if a row is none."""
        return [recorded(row) for row in self._ask("SELECT * FROM event WHERE session = ? ORDER BY seq", session)]

    def opened(self) -> dict[str, bool]:
        """Every session that was ever opened, in the order of the journal, and whether a manifest was signed for it."""
        return {row[0]: bool(row[1]) for row in self._ask(
            "SELECT o.session, EXISTS (SELECT 1 FROM event m WHERE m.session = o.session AND m.kind = 'ManifestSigned') FROM event o "
            "WHERE o.kind = 'CheckinOpened' ORDER BY o.seq")}

    def envelopes(self) -> list[tuple[str, str, str | None, int | None, str | None]]:
        """What signed objects are stored: digest, kind, session, revision, answers."""
        return [tuple(row) for row in self._ask("SELECT digest, kind, session, revision, answers FROM envelope "
                                                "ORDER BY session, kind, revision")]

    def envelope(self, digest: str) -> bytes:
        """FileNotFoundError if it is not stored."""
        found = self._ask("SELECT body FROM envelope WHERE digest = ?", digest)
        if not found:
            raise FileNotFoundError(digest)
        return bytes(found[0][0])

    def of(self, session: str) -> list[StoredEnvelope]:
        """The signed objects of one session."""
        return [StoredEnvelope(**dict(row)) for row in self._ask(
            "SELECT digest, kind, session, revision, answers, body FROM envelope WHERE session = ? ORDER BY kind, revision", session)]

    def rollovers(self) -> tuple[list[bytes], dict[str, bytes]]:
        with self._open() as connection:
            return rollovers_in(connection)

    def segments_of(self, session: str) -> dict[tuple[str, int], tuple[str, int, str, str]]:
        """(stream, seq) -> (path, bytes, sha256, sidecar_sha256) of a session's rows in the index."""
        return {(row[0], row[1]): (row[2], row[3], row[4], row[5]) for row in self._ask(
            "SELECT s.stream, s.seq, s.path, s.bytes, s.sha256, s.sidecar_sha256 FROM session_segment x "
            "JOIN segment s ON s.stream = x.stream AND s.seq = x.seq WHERE x.session = ?", session)}

    def bytes(self) -> int:
        """Of all recordings in the index."""
        return int(self._ask("SELECT coalesce(sum(bytes), 0) FROM segment")[0][0])

    def knows(self, path: str) -> bool:
        """Whether the index still has a recording at `path` (retention may have taken it away since)."""
        return bool(self._ask("SELECT 1 FROM segment WHERE path = ? LIMIT 1", path))

    def idle(self) -> Iterator[IdleSegment]:
        """Segments of no session, by stream and number."""
        stream, seq = "", -1
        while page := self._ask("SELECT stream, seq, path, bytes, sha256, sidecar_sha256 FROM segment WHERE in_session = 0 "
                                "AND (stream, seq) > (?, ?) ORDER BY stream, seq LIMIT ?", stream, seq, PAGE):
            yield from (IdleSegment(*row[2:]) for row in page)
            stream, seq = page[-1][0], page[-1][1]

    # ---- for `edge fsck` ----------------------------------------------------------------------------------------------

    def folded(self) -> Iterator[e.Recorded]:
        """The facts that make the room's state, as `Journal.load` has them. ValueError if a row is none."""
        with self._open() as connection:
            yield from (recorded(row) for row in connection.execute(FOLDED, NOT_FOLDED))

    def found_by(self, find: Callable[[sqlite3.Connection], Iterable[T]]) -> list[T]:
        """What a rule (`rules`, `owed`) finds. ValueError if it cannot be asked: a fact's body is no JSON any more."""
        try:
            with self._open() as connection:
                connection.row_factory = None
                return list(find(connection))
        except sqlite3.DatabaseError as error:
            raise ValueError(str(error)) from error

    def streams(self) -> dict[str, int]:
        """Stream -> its highest number in the index."""
        return {row[0]: row[1] for row in self._ask("SELECT stream, max(seq) FROM segment GROUP BY stream")}

    def numbered(self, stream: str, first: int, last: int) -> dict[int, tuple[Any, ...]]:
        """Of a stream's rows of these numbers: number -> all columns of `catalog.Segment`, in their order."""
        names = ", ".join(Segment.__dataclass_fields__)
        return {row["seq"]: tuple(row) for row in self._ask(
            f"SELECT {names} FROM segment WHERE stream = ? AND seq BETWEEN ? AND ?", stream, first, last)}      # noqa: S608

    def paths(self, stream: str) -> Iterator[tuple[int, str]]:
        """(number, path) of each of a stream's rows, in order."""
        seq = -1
        while page := self._ask("SELECT seq, path FROM segment WHERE stream = ? AND seq > ? ORDER BY seq LIMIT ?", stream, seq, PAGE):
            yield from ((row[0], row[1]) for row in page)
            seq = page[-1][0]

    def told(self, stream: str, seq: int) -> tuple[Any, ...] | None:
        """What the journal says of a session's segment: all columns of `catalog.Segment`, in their order. None: nothing."""
        found = self._ask("SELECT body FROM event WHERE seq = (SELECT event_seq FROM session_segment WHERE stream = ? AND seq = ? LIMIT 1)",
                          stream, seq)
        said = json.loads(found[0][0]) if found else None
        return tuple(said.get(name) for name in Segment.__dataclass_fields__) if said else None

    def sessions_with(self, stream: str, seq: int) -> list[str]:
        """To which sessions a segment belongs, by the index."""
        return [row[0] for row in self._ask("SELECT session FROM session_segment WHERE stream = ? AND seq = ?", stream, seq)]

    def garbage(self) -> frozenset[str]:
        """Paths that are to be removed."""
        return frozenset(row[0] for row in self._ask("SELECT path FROM garbage"))

    def without_row(self) -> list[tuple[str, str, int, str]]:
        """(session, stream, number, path) of every segment that the journal gives to a session that is kept, and that has no row; but not
        of the newest of each stream, which the room takes in when it starts. ValueError as `found_by`."""
        return self.found_by(lambda connection: connection.execute(
            f"SELECT l.session, l.stream, l.seq, json_extract(e.body, '$.path') FROM ({LINKS}) l JOIN event e ON e.seq = l.event_seq "  # noqa: S608
            "WHERE NOT EXISTS (SELECT 1 FROM segment s WHERE s.stream = l.stream AND s.seq = l.seq) "
            "AND l.seq < coalesce((SELECT max(seq) FROM segment s WHERE s.stream = l.stream), 0)"))
