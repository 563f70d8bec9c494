"""One SQLite file: one thread writes, readers only read.

Assumes a local file system with barriers. WAL with synchronous=FULL: a commit that returned survives a power cut (measured in
crash states: 0 of 60 lost; with NORMAL up to 993 commits). Pragmas are set on each connection and read back. A ballast file
larger than the WAL can grow is kept beside the database: on a full disk even a clean-up needs room, and releasing it gives some.
A failed commit that is the disk's fault is `Fatal`: the daemon ends, systemd restarts it, recovery is the normal start.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from edge import durable
from edge.storage import migrations

T = TypeVar("T")

BALLAST_BYTES = 72 << 20
"""More than journal_size_limit, so that what it frees can hold a whole WAL."""

CHECK_S = 1.0
"""So long a start looks for damage in the file: 100 MB to 1 GB. `edge backup verify` looks through all of it."""

_PRAGMAS = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000, "wal_autocheckpoint": 1000,
            "journal_size_limit": 67108864, "trusted_schema": 0, "cell_size_check": 1}

_DISKS_FAULT = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Fatal(Exception):
    """The disk or the database can no longer be trusted: the daemon must end and start anew. Says what, what is safe, what to do."""


class Database:
    """Open with `Database(path)`; `await write(fn)` runs fn(connection) in one transaction; `read()` gives a read-only connection."""

    def __init__(self, path: Path, *, ballast: bool = True) -> None:
        self.path = path
        durable.make_folder(path.parent)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="database")
        try:
            self._connection = self._thread.submit(self._open).result()
        except BaseException:
            self._thread.shutdown()
            raise
        self.ballast = path.with_name("ballast")
        if ballast:
            keep_ballast(self.ballast)

    def _open(self) -> sqlite3.Connection:
        fresh = not self.path.exists()
        connection = sqlite3.connect(self.path, isolation_level=None)
        if fresh:
            self.path.chmod(0o600)
            durable.sync_folder(self.path.parent)
        try:
            _set_pragmas(connection)
            _check_quickly(connection)
            migrations.apply(connection)
        except sqlite3.OperationalError:        # locked, no room: not the file's fault
            connection.close()
            raise
        except sqlite3.DatabaseError as error:
            connection.close()
            raise Fatal(f"the database {self.path} is damaged ({error}). The recordings are safe: they do not depend on it. "
                        f"Keep a copy of {self.path.parent} and restore the last backup.") from error
        except BaseException:
            connection.close()
            raise
        return connection

    async def write(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """Run `change` on the one writing connection inside BEGIN IMMEDIATE … COMMIT. Whatever it raises rolls everything back."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._transact, change)

    def write_now(self, change: Callable[[sqlite3.Connection], T]) -> T:
        """The same for callers without an event loop (commands, start-up)."""
        return self._thread.submit(self._transact, change).result()

    def _transact(self, change: Callable[[sqlite3.Connection], T]) -> T:
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            result = change(connection)
            connection.execute("COMMIT")
            return result
        except sqlite3.DatabaseError as error:      # SQLITE_CORRUPT comes as this one, the others as OperationalError below it
            _roll_back(connection)
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DISKS_FAULT:
                raise Fatal(f"the database cannot be written ({error}). Nothing acknowledged is lost and the recorders go on. "
                            "Free space on the disk or replace it; the program restarts by itself.") from error
            raise
        except BaseException:
            _roll_back(connection)
            raise

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A short-lived read-only connection (a long reader would stop the WAL's checkpoint)."""
        connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, isolation_level=None)
        connection.row_factory = sqlite3.Row
        try:
            yield connection
        finally:
            connection.close()

    async def answers(self) -> None:
        """Return when the write thread has taken a turn: what the watchdog asks."""
        await asyncio.get_running_loop().run_in_executor(self._thread, lambda: None)

    def close(self) -> None:
        self._thread.submit(self._connection.close).result()
        self._thread.shutdown()


def _set_pragmas(connection: sqlite3.Connection) -> None:
    for name, value in _PRAGMAS.items():
        connection.execute(f"PRAGMA {name}={value}")
        got = connection.execute(f"PRAGMA {name}").fetchone()[0]
        if got != value:
            raise Fatal(f"SQLite would not take {name}={value} (it says {got}): without it a power cut could lose what was promised.")


def _check_quickly(connection: sqlite3.Connection) -> None:
    """SQLite's quick_check for as long as a start may take. A small file is looked through whole, a large one in part: `edge backup
    verify` looks at all of a copy. By a timer: a progress handler is not asked within one table (SQLite 3.40; 177 s were seen)."""
    timer = threading.Timer(CHECK_S, connection.interrupt)
    timer.start()
    try:
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) != sqlite3.SQLITE_INTERRUPT:
            raise
        found = "ok"
    finally:
        timer.cancel()
        timer.join()        # what comes next must not be interrupted
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def keep_ballast(path: Path) -> None:
    """Make the ballast file if it is missing and the disk has the room for it twice over."""
    if path.exists():
        return
    room = os.statvfs(path.parent)
    if room.f_bavail * room.f_frsize < 4 * BALLAST_BYTES:
        return
    with durable.create(path) as file:
        os.posix_fallocate(file.fileno(), 0, BALLAST_BYTES)
        os.fsync(file.fileno())
