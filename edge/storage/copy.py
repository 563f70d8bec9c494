"""A copy of the database taken while the room writes it, and the questions that are asked of a copy where it lies.

SQLite's own backup interface, within one read transaction: what the copy holds is one moment, and writers are not held up
(https://www.sqlite.org/backup.html; a copy of the file alone would be torn). A copy is opened read-only and immutable: asking it
changes nothing in its folder. Called by `edge/backup.py`, `edge/fsck.py`.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from edge import durable
from edge.sessions import events as e
from edge.storage.journal import recorded

PAGES = 2048
"""So many pages between two words of progress: 8 MB."""


class NotADatabase(Exception):
    """The file is no database of ours, or a damaged one. Says what is wrong with it."""


def copy_database(source: Path, target: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
    """Copy the database `source` to the new file `target`, durably. `progress(pages done, pages in all)`. FileExistsError, OSError."""
    with durable.create(target):
        pass
    with closing(sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True, isolation_level=None)) as live, \
            closing(sqlite3.connect(target, isolation_level=None)) as copy:
        try:
            live.execute("BEGIN")
            live.execute("SELECT count(*) FROM sqlite_master").fetchone()     # the moment that is copied
            live.backup(copy, pages=PAGES, progress=lambda _, left, total: progress(total - left, total))
            live.execute("COMMIT")
            copy.execute("PRAGMA journal_mode=delete")      # one file that stands alone; the room sets its own mode again
        except sqlite3.Error as error:
            raise OSError(f"the database could not be copied ({error})") from error
    with target.open("rb") as file:
        os.fsync(file.fileno())
    durable.sync_folder(target.parent)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def head_of(path: Path) -> tuple[int, str, int]:
    """(number, hash, UTC µs) of the last row of a copy's journal; (0, "", 0) for an empty one. NotADatabase."""
    try:
        with closing(_open(path)) as connection:
            row = connection.execute("SELECT seq, hash, utc_us FROM event ORDER BY seq DESC LIMIT 1").fetchone()
    except sqlite3.DatabaseError as error:
        raise NotADatabase(str(error)) from error
    return (row["seq"], row["hash"], row["utc_us"]) if row else (0, "", 0)


def integrity(path: Path) -> str:
    """SQLite's own word on a copy: "ok", or the first thing that it finds wrong."""
    try:
        with closing(_open(path)) as connection:
            return str(connection.execute("PRAGMA integrity_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        return str(error)


def facts_of(path: Path) -> Iterator[e.Recorded]:
    """The whole journal of a copy, in order. NotADatabase, also half-way."""
    try:
        with closing(_open(path)) as connection:
            for row in connection.execute("SELECT * FROM event ORDER BY seq"):
                yield recorded(row)
    except (sqlite3.DatabaseError, ValueError) as error:
        raise NotADatabase(str(error)) from error
