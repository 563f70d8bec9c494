"""Log-ins of the pages: a random token for the browser, its SHA-256 here, so that a stolen database opens no door.

A log-in ends 12 hours after it began, or after 30 minutes without a request (OWASP ASVS 5.0, 7.3); an open live stream counts as
activity, so that a running display is never locked. It survives a restart of the room. Times are the wall clock's, because they
must hold across boots: a clock set back makes a log-in no older than it was, one set forward ends it, and the person logs in again.
Caller: `web.access`, `web.live`.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3

from edge.clock import US, Clock
from edge.storage.database import Database

WHOLE_US = 12 * 3600 * US
IDLE_US = 30 * 60 * US
TOUCH_US = 60 * US
"""A use is noted at most once a minute: pages ask every second, and each note is a synced write."""
TOKEN_BYTES = 32


class Logins:
    """Who is logged in, by the hash of the browser's token."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database, self._clock = database, clock

    async def create(self, staff_id: str) -> str:
        """A new log-in; its token (256 random bits, URL-safe text) is told once and never stored. Ended log-ins are forgotten here."""
        token, now = secrets.token_urlsafe(TOKEN_BYTES), self._clock.now().utc_us

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM login WHERE since_utc_us < ? OR last_utc_us < ?", (now - WHOLE_US, now - IDLE_US))
            connection.execute("INSERT INTO login VALUES (?,?,?,?)", (_digest(token), staff_id, now, now))

        await self._database.write(change)
        return token

    async def find(self, token: str) -> str | None:
        """Whose log-in this is; None if there is none or it has ended. Counts as activity."""
        now, digest = self._clock.now().utc_us, _digest(token)
        with self._database.read() as connection:
            row = connection.execute("SELECT staff_id, since_utc_us, last_utc_us FROM login WHERE token_sha256 = ?", (digest,)).fetchone()
        if row is None:
            return None
        if now - row["since_utc_us"] > WHOLE_US or now - row["last_utc_us"] > IDLE_US:
            await self.drop(token)
            return None
        if abs(now - row["last_utc_us"]) > TOUCH_US:
            await self._database.write(
                lambda connection: connection.execute("UPDATE login SET last_utc_us = ? WHERE token_sha256 = ?", (now, digest)))
        return str(row["staff_id"])

    async def drop(self, token: str) -> None:
        """End a log-in. No error if it has ended."""
        digest = _digest(token)
        await self._database.write(lambda connection: connection.execute("DELETE FROM login WHERE token_sha256 = ?", (digest,)))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
