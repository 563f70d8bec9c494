"""Whose names are in memory: of the sessions that are not over. All other lists are the database's, and go when it forgets them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from edge.clock import Stamp
from edge.sessions import events as e
from edge.sessions.machine import State
from edge.storage.keeping import ToGarbage

if TYPE_CHECKING:
    from tests.conftest import Hall

SESSION, LATER, NEVER = "S20261126-KD01-R01-01", "S20261126-KD01-R01-02", "S20261126-KD01-R01-03"


def remembered(hall: Hall) -> set[str]:
    """The names that the lists hold in memory."""
    return {person.name for person in hall.roster if person.name in repr(vars(hall.room.rosters))}


def account(at: Stamp) -> e.FootageDisposed:
    return e.FootageDisposed(at=at, session=SESSION, policy="RP-SPECIAL-6Y", keep_until="2033-05-25", day="2033-05-26", segments=0, bytes=0,
                             streams={}, list_sha256="0" * 64, witness="0" * 64, witness_utc_us=0)


@dataclass
class Slow:
    """Beside a fact: the write thread stands until it may go on."""

    entered: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def write(self, connection: sqlite3.Connection, seq: int, event: e.Event) -> None:
        self.entered.set()
        assert self.go_on.wait(20)


async def test_a_list_is_kept_until_its_session_is_over_and_can_be_read_afterwards(hall: Hall) -> None:
    await hall.to(State.PLANNED, LATER)
    way = hall.way(SESSION)
    for reached, go in way:
        await go()
        if reached in (State.CLOSING, State.SEALING):
            assert hall.room.rosters.kept().keys() == {SESSION, LATER}
        if reached is State.SEALED:
            break
    lists = hall.room.rosters
    assert lists.kept().keys() == {LATER} and SESSION in lists
    assert {c.number for c in lists[SESSION].candidates} == {person.id_no for person in hall.roster}
    assert lists.get(SESSION) == lists[SESSION] and lists.kept().keys() == {LATER}, "asking keeps nothing"
    again = hall.restart().rosters
    assert again.kept().keys() == {LATER} and again[SESSION] == lists[SESSION]


async def test_a_session_without_a_list_has_none(hall: Hall) -> None:
    await hall.room.plan(hall.plan(NEVER), "{}")
    assert NEVER not in hall.room.rosters and hall.room.rosters.get(NEVER) is None and "S-none" not in hall.room.rosters
    with pytest.raises(KeyError):
        hall.room.rosters[NEVER]
    await hall.accept_roster(NEVER)
    assert NEVER in hall.room.rosters


async def test_whether_there_is_a_list_is_known_without_reading_it(hall: Hall) -> None:
    await hall.to(State.SEALED)
    await hall.database.write(lambda connection: connection.execute("DROP TABLE elsewhere"))
    assert SESSION in hall.room.rosters
    with pytest.raises(sqlite3.OperationalError):
        hall.room.rosters[SESSION]


async def test_whom_the_database_has_forgotten_nobody_here_remembers(hall: Hall) -> None:
    """A page reads the list while it is given up, and whoever gave it up goes away: both leave no name behind."""
    await hall.to(State.CLOSING)
    everybody = {person.name for person in hall.roster}
    assert remembered(hall) == everybody
    for _, go in [*hall.way(SESSION)][-3:]:
        await go()
    assert hall.room.state.sessions[SESSION].state is State.SEALED and remembered(hall) == set()
    slow = Slow()
    going = asyncio.create_task(hall.room.dispose(SESSION, account, slow, ToGarbage()))
    try:
        assert await asyncio.to_thread(slow.entered.wait, 20)
        read = await asyncio.to_thread(lambda: hall.room.rosters[SESSION])
        assert {c.name for c in read.candidates} == everybody, "not yet gone"
        going.cancel()
    finally:
        slow.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await going
    assert hall.room.state.sessions[SESSION].disposed is not None
    assert hall.room.rosters[SESSION].candidates == () and remembered(hall) == set()
