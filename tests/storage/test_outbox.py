"""What is owed to the platform: its order, its patience, and that no clock step delays it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from edge.clock import US, SimClock
from edge.evidence import chain
from edge.sessions import events as e
from edge.storage.database import Database
from edge.storage.journal import Envelope, Journal
from edge.storage.outbox import Backlog, Outbox, OutboxItem

Owe = Callable[..., Awaitable[None]]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "edge.db", ballast=False)
    yield database
    database.close()


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database)


@pytest.fixture
def owe(database: Database, sim_clock: SimClock) -> Owe:
    journal = Journal(database, chain.link)

    async def put(digest: str, kind: str = "session-manifest", revision: int | None = 1, priority: int = 20) -> None:
        fact = e.PlatformLost(at=sim_clock.now(), session="S1", reason="x")
        await journal.append(fact, Envelope(kind, digest, f"body {digest}".encode(), revision=revision, priority=priority))

    return put


async def drain(outbox: Outbox, clock: SimClock) -> list[str]:
    got = []
    while item := await outbox.next_due(clock.now()):
        got.append(item.digest)
        await outbox.done(item.id)
    return got


async def test_the_more_urgent_first_then_the_older(outbox: Outbox, owe: Owe, sim_clock: SimClock) -> None:
    await owe("m1")
    await owe("m2", revision=2)
    await owe("open", "session-open", None, 10)
    first = await outbox.next_due(sim_clock.now())
    assert first == OutboxItem(3, "session-open", "S1", None, "open", b"body open", 0)
    assert await outbox.next_due(sim_clock.now()) == first, "asking takes nothing away"
    assert await drain(outbox, sim_clock) == ["open", "m1", "m2"]
    assert outbox.backlog() == Backlog(0, 0, None, None)


async def test_what_was_put_back_waits_its_time_and_the_next_goes_before_it(outbox: Outbox, owe: Owe, sim_clock: SimClock) -> None:
    await owe("open", "session-open", None, 10)
    await owe("m1")
    item = await outbox.next_due(sim_clock.now())
    assert item
    await outbox.put_back(item.id, sim_clock.now().plus(30 * US), "timeout")
    other = await outbox.next_due(sim_clock.now())
    assert other and other.digest == "m1"
    await sim_clock.pass_time(29.999)
    assert (await outbox.next_due(sim_clock.now())) == other
    await sim_clock.pass_time(0.001)
    again = await outbox.next_due(sim_clock.now())
    assert again and (again.digest, again.attempts) == ("open", 1)
    assert outbox.backlog().last_error == "timeout"


@pytest.mark.parametrize("step_s", [-4 * 365 * 86400, 4 * 365 * 86400])
async def test_a_step_of_the_wall_clock_neither_delays_nor_hurries(outbox: Outbox, owe: Owe, sim_clock: SimClock, step_s: int) -> None:
    await owe("m1")
    await outbox.put_back(1, sim_clock.now().plus(30 * US), "timeout")
    sim_clock.step_wall(step_s * US)
    assert await outbox.next_due(sim_clock.now()) is None
    await sim_clock.pass_time(30)
    assert await outbox.next_due(sim_clock.now()) is not None


async def test_a_restart_makes_all_due_and_keeps_the_count(database: Database, outbox: Outbox, owe: Owe, sim_clock: SimClock) -> None:
    await owe("m1")
    for _ in range(3):
        await outbox.put_back(1, sim_clock.now().plus(900 * US), "http_503")
    again = Outbox(database)
    item = await again.next_due(sim_clock.now())
    assert item and item.attempts == 3


async def test_there_is_no_limit_of_attempts(outbox: Outbox, owe: Owe, sim_clock: SimClock) -> None:
    await owe("m1")
    for attempt in range(200):
        item = await outbox.next_due(sim_clock.now())
        assert item and item.attempts == attempt
        await outbox.put_back(item.id, sim_clock.now().plus(US), "timeout")
        await sim_clock.pass_time(1)
    assert outbox.backlog().waiting == 1


async def test_what_is_parked_stays_and_is_shown_and_holds_up_nothing(outbox: Outbox, owe: Owe, sim_clock: SimClock) -> None:
    await owe("open", "session-open", None, 10)
    queued = sim_clock.now().utc_us
    await sim_clock.pass_time(5)
    await owe("m1")
    await outbox.park(1, "http_422 wrong-room")
    assert await drain(outbox, sim_clock) == ["m1"]
    await sim_clock.pass_time(10**6)
    assert await outbox.next_due(sim_clock.now()) is None
    assert outbox.backlog() == Backlog(0, 1, None, "http_422 wrong-room")
    await owe("m2", revision=2)
    assert outbox.backlog().oldest_utc_us == sim_clock.now().utc_us > queued


async def test_a_document_that_was_lost_keeps_nothing_else_from_leaving(database: Database, outbox: Outbox, owe: Owe,
                                                                        sim_clock: SimClock) -> None:
    await owe("lost", "session-open", None, 10)
    await owe("m1")
    database.write_now(lambda c: c.execute("DELETE FROM envelope WHERE digest = 'lost'"))
    assert await drain(outbox, sim_clock) == ["m1"] and outbox.backlog().waiting == 1


async def test_the_backlog_names_its_oldest(outbox: Outbox, owe: Owe, sim_clock: SimClock) -> None:
    assert outbox.backlog() == Backlog(0, 0, None, None)
    first = sim_clock.now().utc_us
    for number in range(3):
        await owe(f"m{number}", revision=number)
        await sim_clock.pass_time(60)
    assert outbox.backlog() == Backlog(3, 0, first, None)
