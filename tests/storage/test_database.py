"""One writer, many readers, real files: pragmas that were taken, transactions that are whole, faults that say what to do."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.storage import database as module
from edge.storage.database import BALLAST_BYTES, Database, Fatal, keep_ballast

Open = Callable[[], Database]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "edge.db"


@pytest.fixture
def open_database(path: Path) -> Iterator[Open]:
    opened: list[Database] = []

    def make() -> Database:
        opened.append(Database(path, ballast=False))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


def seen_cards(database: Database) -> int:
    with database.read() as connection:
        return int(connection.execute("SELECT count(*) FROM seen_card").fetchone()[0])


def add_card(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO seen_card(session) VALUES ('S1')")


def test_the_promises_of_durability_are_read_back(open_database: Open) -> None:
    database = open_database()

    def ask(connection: sqlite3.Connection) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "wal_autocheckpoint", "journal_size_limit",
                 "trusted_schema", "cell_size_check")
        return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}

    assert database.write_now(ask) == {
        "journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000, "wal_autocheckpoint": 1000,
        "journal_size_limit": 67108864, "trusted_schema": 0, "cell_size_check": 1}


def test_a_pragma_that_sqlite_does_not_take_ends_the_start() -> None:
    connection = sqlite3.connect(":memory:")        # a database in memory cannot have a write-ahead log
    with pytest.raises(Fatal, match=r"journal_mode.*power cut"):
        module._set_pragmas(connection)
    connection.close()


def test_files_are_the_owners_alone(open_database: Open, path: Path) -> None:
    open_database()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


async def test_what_raises_rolls_everything_back(open_database: Open) -> None:
    database = open_database()

    def half(connection: sqlite3.Connection) -> None:
        add_card(connection)
        raise LookupError("in the middle")

    for _ in range(2):
        with pytest.raises(LookupError):
            await database.write(half)

    def mistaken(connection: sqlite3.Connection) -> None:
        add_card(connection)
        connection.execute("SELECT * FROM nowhere")

    with pytest.raises(sqlite3.OperationalError):
        await database.write(mistaken)
    assert seen_cards(database) == 0
    await database.write(add_card)
    assert seen_cards(database) == 1, "the next transaction is not the worse for it"


async def test_readers_only_read_and_see_whole_transactions(open_database: Open) -> None:
    database = open_database()
    with database.read() as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("INSERT INTO seen_card(session) VALUES ('S1')")

    def look_aside(connection: sqlite3.Connection) -> int:
        add_card(connection)
        return seen_cards(database)

    assert await database.write(look_aside) == 0, "a reader does not see what is not committed"
    assert seen_cards(database) == 1


async def test_writes_take_their_turn(open_database: Open) -> None:
    database = open_database()
    await asyncio.gather(*(database.write(add_card) for _ in range(50)))
    await database.answers()
    assert seen_cards(database) == 50


async def test_two_programs_wait_for_each_other(open_database: Open) -> None:
    one, other = open_database(), open_database()
    await asyncio.gather(*(each.write(add_card) for _ in range(20) for each in (one, other)))
    assert seen_cards(one) == 40


async def test_a_full_disk_is_fatal_in_plain_words_and_loses_nothing(open_database: Open) -> None:
    database = open_database()
    await database.write(add_card)
    pages = database.write_now(lambda c: int(c.execute("PRAGMA page_count").fetchone()[0]))
    database.write_now(lambda c: c.execute(f"PRAGMA max_page_count={pages + 2}").fetchone())    # SQLite's own "disk is full"
    with pytest.raises(Fatal, match=r"Nothing acknowledged is lost.*Free space"):
        await database.write(lambda c: c.execute("INSERT INTO seen_card(session) VALUES (?)", ("x" * 100_000,)))
    assert seen_cards(database) == 1
    database.write_now(lambda c: c.execute("PRAGMA max_page_count=1000000").fetchone())
    await database.write(add_card)
    assert seen_cards(database) == 2


def damage(path: Path) -> None:
    """Overwrite every page but the first: what a dying disk leaves."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xaa" * (size - 4096))


def test_a_damaged_file_is_not_opened_and_not_touched(path: Path) -> None:
    database = Database(path, ballast=False)
    database.write_now(lambda c: c.executemany("INSERT INTO seen_card(session) VALUES (?)", [("x" * 500,)] * 200))
    database.close()
    damage(path)
    before = path.read_bytes()
    with pytest.raises(Fatal, match=r"damaged.*recordings are safe.*restore"):
        Database(path, ballast=False)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"this is no database " * 300, b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 4080])
def test_what_is_no_database_is_refused_in_plain_words(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(Fatal, match=r"recordings are safe"):
        Database(path, ballast=False)
    assert path.read_bytes() == content


async def test_damage_that_shows_while_writing_is_fatal(path: Path) -> None:
    database = Database(path, ballast=False)
    database.write_now(lambda c: c.executemany("INSERT INTO seen_card(session) VALUES (?)", [("x" * 1000,)] * 4000))
    database.close()
    database = Database(path, ballast=False)
    damage(path)
    with pytest.raises(Fatal, match="Nothing acknowledged"):
        await database.write(lambda c: c.execute("UPDATE seen_card SET session = 'y'"))
    database.close()


def test_the_ballast_is_real_and_larger_than_the_log_can_grow(tmp_path: Path) -> None:
    assert int(str(module._PRAGMAS["journal_size_limit"])) < BALLAST_BYTES
    keep_ballast(tmp_path / "ballast")
    facts = (tmp_path / "ballast").stat()
    assert facts.st_size == BALLAST_BYTES
    assert facts.st_blocks * 512 >= BALLAST_BYTES, "a hole in a file gives no room back"
    keep_ballast(tmp_path / "ballast")
    assert (tmp_path / "ballast").stat().st_ino == facts.st_ino
