"""What is still owed to the platform: read and re-dated by the courier, filled and cleared inside the journal's transactions.

Order: priority, then age. There is no attempt limit and no overwrite; a parked item (the platform refused it for good) stays,
is shown, and waits for a person.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from edge.clock import Stamp
from edge.storage.database import Database


@dataclass(frozen=True, slots=True)
class OutboxItem:
    """One signed object to deliver. `body` is the envelope as stored; `session`: None for what is the device's own."""

    id: int
    kind: str
    session: str | None
    revision: int | None
    digest: str
    body: bytes
    attempts: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much is owed: counts, the oldest item's time (UTC µs), the last error."""

    waiting: int
    parked: int
    oldest_utc_us: int | None
    last_error: str | None


class Outbox:
    """When an item is due again is kept in memory, by the boot clock: a restart makes all due, and no clock step delays any."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._due: dict[int, Stamp] = {}

    async def next_due(self, now: Stamp) -> OutboxItem | None:
        """The most urgent item whose time has come."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT o.id, o.kind, o.session, o.revision, o.digest, o.attempts FROM outbox o "
                # a document that was lost (`edge fsck` names it) keeps nothing else from leaving
                "WHERE o.state = 'waiting' AND EXISTS (SELECT 1 FROM envelope e WHERE e.digest = o.digest) "
                "ORDER BY o.priority, o.id").fetchall()
            for row in rows:
                due = self._due.get(row["id"])
                if due is None or now.us_since(due) >= 0:
                    body = connection.execute("SELECT body FROM envelope WHERE digest = ?", (row["digest"],)).fetchone()["body"]
                    return OutboxItem(**dict(row), body=body)
        return None

    async def done(self, item_id: int) -> None:
        """Delivered and answered."""
        self._due.pop(item_id, None)
        await self._database.write(lambda c: _set(c, item_id, "state = 'done'"))

    async def put_back(self, item_id: int, due: Stamp, error: str) -> None:
        """Not delivered; not before `due` again."""
        self._due[item_id] = due
        await self._database.write(lambda c: _set(c, item_id, "attempts = attempts + 1, last_error = ?", error))

    def defer(self, item_id: int, due: Stamp) -> None:
        """Not before `due`: no attempt was made."""
        self._due[item_id] = due

    async def park(self, item_id: int, error: str) -> None:
        """The platform refused it for good: kept, shown, not sent again by itself."""
        await self._database.write(lambda c: _set(c, item_id, "state = 'parked', attempts = attempts + 1, last_error = ?", error))

    def state_of(self, digest: str) -> str | None:
        """waiting, done or parked; None if it was never owed."""
        with self._database.read() as connection:
            row = connection.execute("SELECT state FROM outbox WHERE digest = ?", (digest,)).fetchone()
        return str(row["state"]) if row else None

    def owes(self, kind: str, state: str) -> bool:
        """Whether anything of this kind is in this state."""
        with self._database.read() as connection:
            return connection.execute("SELECT 1 FROM outbox WHERE kind = ? AND state = ? LIMIT 1", (kind, state)).fetchone() is not None

    def delivered_before(self, kind: str, digest: str, most: int) -> list[tuple[str, bytes]]:
        """(digest, body) of at most `most` items of `kind` that were delivered and queued before the item `digest`, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT o.digest, v.body FROM outbox o JOIN envelope v ON v.digest = o.digest WHERE o.kind = ? AND o.state = 'done' "
                "AND o.id < (SELECT id FROM outbox WHERE digest = ?) ORDER BY o.id LIMIT ?", (kind, digest, most)).fetchall()
        return [(str(row["digest"]), bytes(row["body"])) for row in rows]

    def backlog(self) -> Backlog:
        with self._database.read() as connection:
            row = connection.execute(
                "SELECT coalesce(sum(state = 'waiting'), 0), coalesce(sum(state = 'parked'), 0), "
                "min(CASE WHEN state = 'waiting' THEN queued_utc_us END), "
                "(SELECT last_error FROM outbox WHERE state != 'done' AND last_error IS NOT NULL ORDER BY id LIMIT 1) FROM outbox "
                "WHERE state != 'done'").fetchone()
        return Backlog(*row)


def _set(connection: sqlite3.Connection, item_id: int, change: str, *values: object) -> None:
    connection.execute(f"UPDATE outbox SET {change} WHERE id = ?", (*values, item_id))  # noqa: S608 (change is a constant of this file)
