"""The schema's steps: each opens a database that the step before left behind, and a newer one is refused untouched.

`data/schema-N.sql` is a database as step N's program left it, with rows in every table. A new step adds a new file; none is changed.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from edge.evidence import chain
from edge.sessions import events as e
from edge.storage import migrations
from edge.storage.catalog import Catalog
from edge.storage.database import Database
from edge.storage.journal import Journal

DATA = Path(__file__).parent / "data"
STEPS = range(1, len(migrations.STEPS) + 1)


def schema(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    return {(name, sql) for name, sql in connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")}


def load(number: int, path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript((DATA / f"schema-{number}.sql").read_text(encoding="utf-8"))
    connection.close()


def test_each_step_has_its_stored_database() -> None:
    assert sorted(p.name for p in DATA.glob("*.sql")) == [f"schema-{number}.sql" for number in STEPS]


@pytest.mark.parametrize("number", STEPS)
async def test_a_stored_database_opens_and_goes_on(tmp_path: Path, number: int) -> None:
    path = tmp_path / "edge.db"
    load(number, path)
    stored = sqlite3.connect(path)
    tables = [name for name, in stored.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    counts = {name: stored.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}  # noqa: S608
    assert all(counts.values()), f"a table without rows proves nothing: {counts}"
    stored.close()

    database, fresh = Database(path, ballast=False), Database(tmp_path / "fresh.db", ballast=False)
    with database.read() as old, fresh.read() as new:
        assert schema(old) == schema(new)
        assert old.execute("PRAGMA user_version").fetchone()[0] == len(migrations.STEPS)
        assert {name: old.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables} == counts  # noqa: S608
    journal = Journal(database, chain.link)
    assert chain.verify(journal.all()) is None
    last = journal.head[0]
    await journal.append(e.PlatformBack(at=next(iter(journal.all())).event.at))
    assert journal.head[0] == last + 1 and chain.verify(journal.all()) is None
    assert Catalog(database).people("S20261126-KD01-R01-01") and Catalog(database).segments("S20261126-KD01-R01-01")
    database.close()
    fresh.close()


def test_a_fresh_database_is_at_the_last_step(tmp_path: Path) -> None:
    database = Database(tmp_path / "edge.db", ballast=False)
    assert database.write_now(lambda c: c.execute("PRAGMA user_version").fetchone()[0]) == len(migrations.STEPS)
    database.close()


def test_applying_twice_changes_nothing(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "edge.db", isolation_level=None)
    migrations.apply(connection)
    first = schema(connection)
    migrations.apply(connection)
    assert schema(connection) == first
    connection.close()


def test_a_database_of_a_newer_program_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "edge.db"
    load(1, path)
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version={len(migrations.STEPS) + 1}")
    before = schema(newer)
    newer.close()
    with pytest.raises(migrations.NewerSchema, match=r"Nothing was changed.*newer program"):
        Database(path, ballast=False)
    after = sqlite3.connect(path)
    assert schema(after) == before and after.execute("PRAGMA user_version").fetchone()[0] == len(migrations.STEPS) + 1
    after.close()


def test_a_step_that_fails_leaves_the_step_before(tmp_path: Path) -> None:
    """A table of the first step is in the way: the step is undone as a whole, and the next start tries again."""
    connection = sqlite3.connect(tmp_path / "edge.db", isolation_level=None)
    connection.execute("CREATE TABLE login(x)")         # made last in step 1
    with pytest.raises(sqlite3.OperationalError):
        migrations.apply(connection)
    assert [name for name, _ in schema(connection)] == ["login"]
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 0
    connection.execute("DROP TABLE login")
    migrations.apply(connection)
    assert ("event" in {name for name, _ in schema(connection)}) and not connection.in_transaction
    connection.close()
