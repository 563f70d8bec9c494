"""The chain on a real disk: append-only, whole or not at all, and nothing acknowledged is lost with `kill -9`."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge.clock import SimClock
from edge.evidence import chain
from edge.sessions import events as e
from edge.sessions.roster import Candidate
from edge.storage.catalog import Catalog
from edge.storage.database import Database
from edge.storage.journal import GENESIS, Delivered, Envelope, Journal, People, PlanText, SeenCard
from edge.storage.outbox import Outbox

SAMPLE = Candidate("C1", "样例甲", "resident_id", "000000199001010018", "A1", "01", "SPECIAL", "1.2", "初训", "理论")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "edge.db", ballast=False)
    yield database
    database.close()


@pytest.fixture
def journal(database: Database) -> Journal:
    return Journal(database, chain.link)


def note(clock: SimClock, reason: str = "gone", session: str | None = None) -> e.Event:
    if session:
        return e.AdmissionRefused(at=clock.now(), session=session, code=reason)
    return e.ReaderLost(at=clock.now(), reason=reason)


def count(database: Database, table: str) -> int:
    with database.read() as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


async def test_rows_are_chained_and_come_back_as_they_were(database: Database, journal: Journal, sim_clock: SimClock) -> None:
    assert journal.head == (0, GENESIS) and GENESIS == chain.GENESIS
    written = [await journal.append(note(sim_clock, f"r{n}", "S1" if n % 2 else None)) for n in range(10)]
    assert [r.seq for r in written] == list(range(1, 11))
    assert [r.prev for r in written] == [GENESIS, *(r.hash for r in written[:-1])]
    assert list(journal.all()) == written and chain.verify(journal.all()) is None
    assert journal.of_session("S1") == [r for r in written if r.event.session == "S1"]
    again = Journal(database, chain.link)
    assert again.head == (10, written[-1].hash), "a restart goes on where the chain ends"
    assert (await again.append(note(sim_clock))).prev == written[-1].hash


@pytest.mark.parametrize("change", [
    "UPDATE event SET kind = 'PlatformBack' WHERE seq = 2", "UPDATE event SET body = body",
    "DELETE FROM event WHERE seq = 3", "DELETE FROM event",
    "INSERT OR REPLACE INTO event SELECT seq, session, 'PlatformBack', utc_us, boot_us, boot_id, body, prev, hash FROM event WHERE seq = 2",
    "REPLACE INTO event SELECT * FROM event WHERE seq = 1",
    "INSERT INTO event SELECT -1, session, kind, utc_us, boot_us, boot_id, body, prev, hash FROM event WHERE seq = 2",
])
async def test_no_statement_changes_the_past(tmp_path: Path, sim_clock: SimClock, change: str) -> None:
    database = Database(tmp_path / "past.db", ballast=False)
    journal = Journal(database, chain.link)
    for n in range(3):
        await journal.append(note(sim_clock, f"r{n}"))
    before = list(journal.all())
    database.close()
    database = Database(tmp_path / "past.db", ballast=False)       # a connection that made the schema has other settings than this one
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        await database.write(lambda c: c.execute(change))
    assert list(Journal(database, chain.link).all()) == before
    database.close()


@dataclass(frozen=True, slots=True)
class Failing:
    """The last thing beside a fact cannot be written."""

    error: Exception

    def write(self, connection: sqlite3.Connection, seq: int, event: e.Event) -> None:
        raise self.error


@pytest.mark.parametrize("error", [ValueError("no"), sqlite3.IntegrityError("no"), OSError("no")])
async def test_a_fact_is_written_whole_or_not_at_all(database: Database, journal: Journal, sim_clock: SimClock, error: Exception) -> None:
    await journal.append(note(sim_clock))
    head = journal.head
    with pytest.raises(type(error)):
        await journal.append(note(sim_clock, "E-LATE", "S1"), PlanText("P1", 1, "{}"), People([(SAMPLE, "ab")]), SeenCard("n", "n"),
                             Envelope("session-open", "0" * 64, b"x", priority=10), Failing(error))
    assert journal.head == head
    tables = ("event", "plan", "person", "seen_card", "envelope", "outbox", "checkin")
    assert {name: count(database, name) for name in tables} == {name: int(name == "event") for name in tables}
    await journal.append(note(sim_clock))
    assert chain.verify(journal.all()) is None


async def test_a_fact_without_a_canonical_form_is_not_written(journal: Journal, sim_clock: SimClock) -> None:
    with pytest.raises(chain.NotCanonical):
        await journal.append(e.ClockStepped(at=sim_clock.now(), delta_us=2**53))
    assert journal.head == (0, GENESIS) and list(journal.all()) == []


async def test_what_stands_beside_a_fact_goes_to_its_own_table(database: Database, journal: Journal, sim_clock: SimClock) -> None:
    catalog = Catalog(database)
    old = Candidate("C0", "样例乙", "resident_id", "000000198502150022", "A0", "02", "SPECIAL", None, "复审", "理论")
    for people in ([(old, "00")], [(SAMPLE, "ab" * 32)]):       # a new list takes the place of the old
        await journal.append(e.RosterAccepted(at=sim_clock.now(), session="S1", version=1, count=1, roster_sha256="0", source="platform"),
                             People(people))
    assert [(p.number, p.name, p.seat, p.subject) for p in catalog.people("S1")] == [(SAMPLE.number, SAMPLE.name, "01", "ab" * 32)]
    refused = await journal.append(note(sim_clock, "E-NOT-ON-ROSTER", "S1"), SeenCard("000000197811200041", "样例丁"))
    await journal.append(e.CandidateAdmitted(at=sim_clock.now(), session="S1", candidate_id="C1", subject="ab" * 32, method="id_card",
                                             seat="01"))
    assert [(c.code, c.name) for c in catalog.checkins("S1")] == [("OK", "样例甲"), ("E-NOT-ON-ROSTER", "样例丁")]
    assert catalog.checkins("S1")[1].seq == refused.seq
    with database.read() as connection:
        bodies = " ".join(str(row["body"]) for row in connection.execute("SELECT body FROM event"))
    assert "样例" not in bodies and "000000" not in bodies.replace("0" * 7, "")


async def test_an_envelope_is_stored_once_and_owed_until_it_is_delivered(database: Database, journal: Journal, sim_clock: SimClock) -> None:
    opened = e.OpenSigned(at=sim_clock.now(), session="S1", digest="a" * 64)
    await journal.append(opened, Envelope("session-open", "a" * 64, b"{}", priority=10))
    with pytest.raises(sqlite3.IntegrityError):
        await journal.append(opened, Envelope("session-open", "a" * 64, b"other", priority=10))
    assert [x.body for x in Catalog(database).envelopes("S1")] == [b"{}"]
    await journal.append(e.ReceiptRefused(at=sim_clock.now(), session="S1", answers="session-open", digest="a" * 64, reason="x"),
                         Delivered("a" * 64))
    assert await Outbox(database).next_due(sim_clock.now()) is None and count(database, "outbox") == 1


def segment(clock: SimClock, seq: int, session: str = "S1") -> e.SegmentStored:
    facts: dict[str, Any] = dict.fromkeys(("start_utc_us", "end_utc_us", "start_boot_us", "end_boot_us", "dur_us", "frame_us", "bytes"), 1)
    return e.SegmentStored(at=clock.now(), session=session, stream="cam", seq=seq, path=f"p{seq}", run="r", boot_id="b", sha256="0",
                           sidecar_sha256="0", codec="h264", end_reason="rotated", recovered=False, clock_state="synced", **facts)


async def test_the_room_starts_from_few_rows_but_from_every_late_segment(journal: Journal, sim_clock: SimClock) -> None:
    sealed = e.Sealed(at=sim_clock.now(), session="S1", revision=1, opened_total=1, closed_total=1, keep_until="2033-05-25",
                      retention_policy="p", retention_basis="b")
    facts: list[e.Event] = [
        segment(sim_clock, 1), segment(sim_clock, 2), note(sim_clock),
        e.FootageViewed(at=sim_clock.now(), session="S1", by="A", stream="cam"), sealed, segment(sim_clock, 3),
        segment(sim_clock, 4, "S2"), segment(sim_clock, 5)]
    written = [await journal.append(each) for each in facts]
    assert list(journal.load()) == [written[2], written[4], written[5], written[7]]


# ---- kill -9 -----------------------------------------------------------------------------------------------------------

CHILD = """
import asyncio, sys
from pathlib import Path
from edge.clock import SystemClock
from edge.evidence import chain
from edge.sessions import events as e
from edge.storage.database import Database
from edge.storage.journal import Journal, SeenCard

async def main():
    database, clock = Database(Path(sys.argv[1]), ballast=False), SystemClock()
    journal = Journal(database, chain.link)
    while True:
        row = await journal.append(e.AdmissionRefused(at=clock.now(), session="S1", code="E-LATE"), SeenCard("n", "x" * 2000))
        print(row.seq, row.hash, flush=True)

asyncio.run(main())
"""


def test_kill_9_loses_no_acknowledged_row(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "edge.db", {}
    for acks in (1, 40, 7, 90):
        with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(acks):
                seq, digest = child.stdout.readline().split()
                acknowledged[int(seq)] = digest
            os.kill(child.pid, signal.SIGKILL)
            for line in child.stdout:                   # what it said before it died
                if line.endswith("\n"):
                    seq, digest = line.split()
                    acknowledged[int(seq)] = digest
        database = Database(path, ballast=False)
        journal = Journal(database, chain.link)
        rows = {row.seq: row.hash for row in journal.all()}
        assert chain.verify(journal.all()) is None
        assert acknowledged.items() <= rows.items() and len(rows) - len(acknowledged) in (0, 1, 2, 3, 4)
        assert len(rows) == count(database, "seen_card") == count(database, "checkin"), "a fact and its rows are one"
        database.close()
    assert len(acknowledged) >= 138
