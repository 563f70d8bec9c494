"""The hardware counter on a TPM's own software and tpm2-tools: what it says, that the room keeps it where the journal says, and what a disk
that was set back looks like."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge.counting import Counting
from edge.evidence.counter import CounterFault, HardwareCounter
from edge.sessions import events as e
from edge.sessions.machine import State
from tests.conftest import LATER, PINS, SESSION
from tests.evidence.holders import Tpm, needs_counter, tpms

if TYPE_CHECKING:
    from tests.conftest import Hall

__all__ = ["tpms"]
INDEX = "0x01800020"
MADE = "nt=counter|ownerread|ownerwrite|authread|authwrite|no_da"
THIRD = "S20261126-KD01-R01-03"
pytestmark = needs_counter


def tool(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.fixture
def chip(tpms: Callable[[], Tpm]) -> HardwareCounter:
    """As docs/operators/keys.md has it made."""
    tpms()
    tool("tpm2_nvdefine", "-C", "o", "-s", "8", "-a", MADE, INDEX)
    tool("tpm2_nvincrement", "-C", INDEX, INDEX)
    return HardwareCounter(INDEX)


class Kept:
    """A hall whose sessions are counted."""

    def __init__(self, hall: Hall, chip: HardwareCounter) -> None:
        self.hall, self.chip, self.counting = hall, chip, Counting(chip)
        hall.room.instruments = replace(hall.room.instruments, counter=self.counting.reading)

    async def look(self) -> None:
        await self.counting.step(self.hall.room)

    async def open(self, session: str) -> int | None:
        """A session through its doors by the room's own verb; what its opening says of the counter."""
        room = self.hall.room
        await self.hall.to(State.PREFLIGHT, session)
        for staff_id in ("T001", "T002", "T003"):
            await room.sign_in(session, staff_id, PINS[staff_id])
        await room.check_exits(session, "T002")
        await room.open_checkin(session, "T001")
        opened = room.state.sessions[session].opened
        assert opened is not None
        return opened.hw_counter

    async def over(self, session: str) -> None:
        """The rest of the session, by facts."""
        for kind, fields in ((e.ExamEnded, {"by": "T001", "outcome": "cancelled"}), (e.OpenSigned, {"digest": "0" * 64}),
                             (e.SealOrdered, {"by": "T001", "second": "T002", "statement": "s", "absent": ()}),
                             (e.Sealed, {"revision": 1, "opened_total": 1, "closed_total": 1, "keep_until": "2033-05-25",
                                         "retention_policy": "p", "retention_basis": "b"}),
                             (e.ManifestSigned, {"revision": 1, "digest": "1" * 64})):
            await self.hall.fact(kind, session, **fields)

    def told(self) -> list[str]:
        return [f"{r.event.kind} {getattr(r.event, 'reason', '')}".strip() for r in self.hall.journal.all()
                if isinstance(r.event, e.CounterLost | e.CounterBack)]


def test_it_goes_up_by_one_and_never_says_anything_else(chip: HardwareCounter) -> None:
    first = chip.read()
    assert [chip.step(), chip.step(), chip.read()] == [first + 1, first + 2, first + 2]
    tool("tpm2_nvundefine", "-C", "o", INDEX)
    with pytest.raises(CounterFault) as fault:
        chip.read()
    assert fault.value.word == "not-there"
    tool("tpm2_nvdefine", "-C", "o", "-s", "8", "-a", MADE, INDEX)
    tool("tpm2_nvincrement", "-C", INDEX, INDEX)
    assert chip.read() > first + 2, "one that is made anew begins above all that was ever counted"


def test_a_chip_that_gives_no_number_says_why(chip: HardwareCounter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hangs = tmp_path / "tpm2_nvread"
    hangs.write_text("#!/bin/sh\nexec sleep 60\n")
    hangs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CounterFault) as fault:
        HardwareCounter(INDEX, seconds=0.3).read()
    assert fault.value.word == "no-answer"
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CounterFault) as fault:
        chip.read()
    assert fault.value.word == "program-missing"


async def test_each_opening_moves_it_once_and_the_journal_speaks_first(hall: Hall, chip: HardwareCounter) -> None:
    kept, before = Kept(hall, chip), chip.read()
    await kept.look()
    assert await kept.open(SESSION) == before + 1 and chip.read() == before, "the chip follows"
    await kept.look()
    await kept.look()
    assert chip.read() == before + 1 == hall.room.state.hw_counter and kept.told() == []


async def test_power_between_journal_and_chip_is_made_good_at_the_next_start(hall: Hall, chip: HardwareCounter) -> None:
    kept, before = Kept(hall, chip), chip.read()
    await kept.look()
    await kept.open(SESSION)
    hall.restart()
    again = Kept(hall, chip)
    await again.look()
    assert chip.read() == before + 1 and again.told() == []
    await again.over(SESSION)
    assert await again.open(LATER) == before + 2


async def test_a_disk_that_was_set_back_is_told_and_the_leap_stays(hall: Hall, chip: HardwareCounter, tmp_path: Path) -> None:
    """Session 2 was held, then the disk was set back to before it."""
    kept, before = Kept(hall, chip), chip.read()
    await kept.look()
    await kept.open(SESSION)
    await kept.look()
    await kept.over(SESSION)
    shutil.copytree(hall.folder / "state", tmp_path / "older" / "state")
    assert await kept.open(LATER) == before + 2
    await kept.look()
    hall.folder = tmp_path / "older"
    hall.restart()
    kept = Kept(hall, chip)
    await kept.look()
    await kept.look()
    assert kept.told() == ["CounterLost ahead"], "once"
    assert hall.room.state.counter_lost is not None and hall.room.state.counter_lost.read == before + 2
    assert await kept.open(THIRD) == before + 3, "number 2 again, and three by the chip: the history shows the leap"
    await kept.look()
    assert kept.told() == ["CounterLost ahead", "CounterBack"] and chip.read() == before + 3


async def test_a_cleared_chip_counts_no_more_until_it_was_brought_up(hall: Hall, chip: HardwareCounter) -> None:
    kept = Kept(hall, chip)
    await kept.look()
    recorded = await kept.open(SESSION)
    assert recorded is not None
    await kept.look()
    await kept.over(SESSION)
    hall.room.state = replace(hall.room.state, hw_counter=recorded + 2)         # as a journal whose chip was another
    await kept.look()
    assert kept.told() == ["CounterLost behind"] and kept.counting.reading() is None
    assert await kept.open(LATER) is None, "opened all the same, and it says so"
    tool("tpm2_nvincrement", "-C", INDEX, INDEX)
    await kept.look()
    assert kept.told()[-1] == "CounterBack" and kept.counting.reading() == recorded + 2


async def test_a_chip_that_goes_away_stops_nothing(hall: Hall, chip: HardwareCounter) -> None:
    kept = Kept(hall, chip)
    await kept.look()
    tool("tpm2_nvundefine", "-C", "o", INDEX)
    await kept.look()
    assert kept.told() == ["CounterLost not-there"] and await kept.open(SESSION) is None
