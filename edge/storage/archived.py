"""What of which session lies in the archive under a verified lock: an index, which the archive itself could rebuild.

A row of `archived_object` is written after the store's own word that the object is there and locked. A session is *whole* when every
file and document it has today is there; a later receipt or revision makes it owing again. `may_leave` is what retention asks before
footage may leave this machine early. Callers: `archivist`, retention, `app`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from edge.clock import US
from edge.storage.database import Database


@dataclass(frozen=True, slots=True)
class Archived:
    """A session in the archive. `envelopes`: how many signed documents it had when it was whole (0: it is not yet); times UTC µs.

    `read_after`: the key's tail up to which the archive's copy was read back and compared in the reading under way; `read_utc_us`: when a
    whole reading was last finished, None: never.
    """

    session: str
    bucket: str
    envelopes: int
    objects: int
    bytes: int
    retain_until_utc_us: int
    whole_utc_us: int | None
    read_utc_us: int | None
    read_after: str
    held: bool


class ArchiveLedger:
    """`local_keep_days`: how long footage stays here at least, archived or not."""

    def __init__(self, database: Database, local_keep_days: int) -> None:
        self._database, self._local_us = database, local_keep_days * 86400 * US

    def owing(self) -> list[tuple[str, int]]:
        """(session, envelopes) of every session with a manifest whose documents are not all in the archive, oldest first."""
        with self._database.read() as connection:
            return [(row[0], row[1]) for row in connection.execute(
                "SELECT e.session, count(*) FROM envelope e GROUP BY e.session HAVING sum(e.kind = 'session-manifest') > 0 "
                "AND count(*) > coalesce((SELECT a.envelopes FROM archived a WHERE a.session = e.session), 0) ORDER BY min(e.rowid)")]

    def of(self, session: str) -> Archived | None:
        with self._database.read() as connection:
            row = connection.execute("SELECT * FROM archived WHERE session = ?", (session,)).fetchone()
        return Archived(**{**dict(row), "held": bool(row["held"])}) if row else None

    def all(self) -> list[Archived]:
        """Every session that is whole."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT * FROM archived WHERE envelopes > 0 ORDER BY whole_utc_us")
            return [Archived(**{**dict(row), "held": bool(row["held"])}) for row in rows]

    def to_read_back(self, now_utc_us: int, before_utc_us: int) -> Iterator[Archived]:
        """The whole, still locked sessions that were not read back since `before_utc_us`, those longest not read first."""
        with self._database.read() as connection:
            for row in connection.execute(
                    "SELECT * FROM archived WHERE envelopes > 0 AND retain_until_utc_us > ? AND coalesce(read_utc_us, 0) < ? "
                    "ORDER BY coalesce(read_utc_us, 0), whole_utc_us", (now_utc_us, before_utc_us)):
                yield Archived(**{**dict(row), "held": bool(row["held"])})

    def objects(self, session: str) -> dict[str, tuple[str, int]]:
        """tail of the key -> (version id, bytes) of what the store holds of a session, in order."""
        with self._database.read() as connection:
            return {row[0]: (row[1], row[2]) for row in connection.execute(
                "SELECT name, version_id, bytes FROM archived_object WHERE session = ? ORDER BY name", (session,))}

    async def begin(self, session: str, bucket: str, retain_until_utc_us: int) -> None:
        """The session's bucket is chosen, once. Its first lock's date stands until every object has a later one (`lengthened`)."""
        await self._database.write(lambda c: c.execute(
            "INSERT OR IGNORE INTO archived VALUES (?,?,0,0,0,?,NULL,NULL,'',0)", (session, bucket, retain_until_utc_us)))

    async def add(self, session: str, name: str, version_id: str, size: int) -> None:
        await self._database.write(lambda c: c.execute("INSERT OR REPLACE INTO archived_object VALUES (?,?,?,?)",
                                                       (session, name, version_id, size)))

    async def forget(self, session: str, name: str) -> None:
        """The store's copy is not what was sent: it is owed again."""
        def change(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM archived_object WHERE session = ? AND name = ?", (session, name))
            connection.execute("UPDATE archived SET envelopes = 0, read_utc_us = NULL, read_after = '' WHERE session = ?", (session,))
        await self._database.write(change)

    async def whole(self, session: str, envelopes: int, utc_us: int) -> None:
        await self._database.write(lambda c: c.execute(
            "UPDATE archived SET envelopes = ?, whole_utc_us = ?, read_utc_us = NULL, "
            "read_after = '', objects = (SELECT count(*) FROM archived_object o WHERE o.session = archived.session), "
            "bytes = (SELECT coalesce(sum(bytes), 0) FROM archived_object o WHERE o.session = archived.session) WHERE session = ?",
            (envelopes, utc_us, session)))

    async def lengthened(self, session: str, retain_until_utc_us: int) -> None:
        """Every object of the session is locked until then."""
        await self._database.write(lambda c: c.execute(
            "UPDATE archived SET retain_until_utc_us = max(retain_until_utc_us, ?) WHERE session = ?", (retain_until_utc_us, session)))

    async def held(self, session: str, on: bool) -> None:
        await self._database.write(lambda c: c.execute("UPDATE archived SET held = ? WHERE session = ?", (on, session)))

    async def read_up_to(self, session: str, name: str) -> None:
        await self._database.write(lambda c: c.execute("UPDATE archived SET read_after = ? WHERE session = ?", (name, session)))

    async def read_whole(self, session: str, utc_us: int) -> None:
        await self._database.write(lambda c: c.execute("UPDATE archived SET read_after = '', read_utc_us = ? WHERE session = ?",
                                                       (utc_us, session)))

    def may_leave(self, session: str, now_utc_us: int) -> bool:
        """Whether this machine may give up its own copy of the footage before its time: every file and document of the newest revision is
        in the archive, its lock and (by reading it back) its bytes were verified, the platform has accepted that revision, and it has been
        here as long as it must. Ask only while the clock is trusted; holds and exports are the asker's to know.
        """
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT a.whole_utc_us, a.retain_until_utc_us FROM archived a WHERE a.session = :s AND a.read_utc_us IS NOT NULL "
                "AND a.envelopes = (SELECT count(*) FROM envelope WHERE session = :s) "
                "AND (SELECT count(*) FROM archived_object WHERE session = :s AND name LIKE '%/%') "
                "  = 2 * (SELECT count(*) FROM session_segment WHERE session = :s) "
                "AND EXISTS (SELECT 1 FROM event e WHERE e.session = :s AND e.kind = 'ReceiptVerified' "
                "  AND json_extract(e.body, '$.verdict') = 'accepted' AND json_extract(e.body, '$.digest') = "
                "  (SELECT digest FROM envelope WHERE session = :s AND kind = 'session-manifest' ORDER BY revision DESC LIMIT 1)) "
                "AND NOT EXISTS (SELECT 1 FROM outbox WHERE session = :s AND state != 'done')", {"s": session}).fetchone()
            sealed = connection.execute("SELECT min(utc_us) FROM event WHERE session = ? AND kind = 'Sealed'", (session,)).fetchone()[0]
        return row is not None and row[1] > now_utc_us and sealed is not None and now_utc_us - sealed >= self._local_us
