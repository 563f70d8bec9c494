"""The simulated reader's console: its words, a person at a real terminal, and the same words from outside."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge.clock import SystemClock
from edge.idcheck import wire
from edge.idcheck.line import Line, NoAnswer
from edge.idcheck.port import SerialPort
from edge.idcheck.wire import Answer
from edge.sim.card_console import SimError, order, said
from edge.sim.card_module import Module
from edge.sim.card_reader import CardReader, run_fault
from edge.sim.people import cards

WAIT_S = 15.0


@pytest.mark.parametrize(("line", "request_"), [
    ("lift", {"do": "lift"}), (" unplug \n", {"do": "unplug"}), ("plug", {"do": "plug"}), ("look", {"do": "look"}),
    ("lay 阿依·样例", {"do": "lay", "name": "阿依·样例"}), ("swap 样例乙", {"do": "lay", "name": "样例乙"}),
    ("tap 样例甲", {"do": "tap", "name": "样例甲"}),
    ("rate 9600", {"do": "rate", "rate": 9600}), ("well", {"do": "trouble", "kind": "silent", "times": 0}),
    ("noise", {"do": "trouble", "kind": "noise", "times": 1}), ("half 3", {"do": "trouble", "kind": "half", "times": 3}),
    ("checksum on read 2", {"do": "trouble", "kind": "garbled", "command": "3001", "times": 2}),
    ("timeout on find", {"do": "trouble", "kind": "silent", "command": "2001", "times": 1}),
    ("status 41", {"do": "trouble", "kind": "status", "sw3": "41", "times": 1}),
    ("status 9f on select 4", {"do": "trouble", "kind": "status", "sw3": "9F", "command": "2002", "times": 4})])
def test_words_and_what_they_mean(line: str, request_: dict[str, Any]) -> None:
    assert order(line) == request_


@pytest.mark.parametrize("line", ["", "dance", "lay", "lift 3", "noise x", "noise 1 2", "noise -1", "status", "status xx", "status 141",
                                  "status 41 on", "status 41 on sofa", "half on read on", "rate fast", "look at"])
def test_words_that_mean_nothing_get_a_hint(line: str) -> None:
    with pytest.raises(SimError, match=r"There is|COMMAND is one of"):
        order(line)


def test_answers_for_people() -> None:
    assert said({"ok": True}) == "done"
    assert said({"ok": True, "read": True}) == "read: true"
    assert said({"ok": False, "why": "the reader is unplugged"}) == "the reader is unplugged"


@dataclass
class Terminal:
    """A person's terminal with the simulated reader as its program."""

    far: int
    shown: str = ""

    def type(self, line: str) -> None:
        os.write(self.far, line.encode() + b"\n")

    def until(self, text: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self.shown}"
            self.shown += os.read(self.far, 4096).decode(errors="replace")
        self.shown = self.shown.split(text, 1)[1]


@pytest.fixture
def seat(tmp_path: Path) -> Iterator[Callable[[], tuple[Terminal, subprocess.Popen[bytes]]]]:
    """Starts `edge sim card-reader` at a terminal of its own."""
    started: list[tuple[subprocess.Popen[bytes], int]] = []

    def start() -> tuple[Terminal, subprocess.Popen[bytes]]:
        far, near = os.openpty()
        # the terminal must be the process's own, or Ctrl-C would reach nobody
        process = subprocess.Popen(["setsid", "--ctty", sys.executable, "-m", "edge", "sim", "card-reader", "--link",
                                    str(tmp_path / "reader"), "--control", str(tmp_path / "control")], stdin=near, stdout=near, stderr=near)
        os.close(near)
        started.append((process, far))
        return Terminal(far), process

    yield start
    for process, far in started:
        os.close(far)
        process.kill()
        process.wait(WAIT_S)


async def test_a_person_at_the_terminal(seat: Callable[[], tuple[Terminal, subprocess.Popen[bytes]]], tmp_path: Path) -> None:
    terminal, process = seat()
    terminal.until("reader> ")
    line = Line(SerialPort(tmp_path / "reader"), SystemClock())
    await line.open()
    terminal.type("lay 样例甲")
    terminal.until("done")
    assert (await line.ask(wire.FIND)).sw3 == wire.FOUND
    terminal.type("status 41 on select")
    terminal.until("done")
    assert await line.ask(wire.SELECT) == Answer(0x41)
    terminal.type("half")
    terminal.until("done")
    with pytest.raises(NoAnswer):
        await line.ask(wire.SAM_ID)
    terminal.type("noise 1")
    terminal.until("done")
    assert (await line.ask(wire.STATUS)) == Answer(0x90) and line.dropped > 0, "found in the noise"
    terminal.type("dance")
    terminal.until("not understood")
    assert await asyncio.to_thread(run_fault, "unplug", tmp_path / "control") == 0
    terminal.type("look")
    terminal.until('plugged: false, occupied: true')
    await line.close()
    terminal.type("quit")
    assert await asyncio.to_thread(process.wait, WAIT_S) == 0
    assert not (tmp_path / "reader").is_symlink() and not (tmp_path / "control").exists()


@pytest.mark.parametrize("end", ["\x04", "\x03", "SIGTERM"])
async def test_the_ways_to_leave(seat: Callable[[], tuple[Terminal, subprocess.Popen[bytes]]], tmp_path: Path, end: str) -> None:
    terminal, process = seat()
    terminal.until("reader> ")
    if end == "SIGTERM":
        process.send_signal(signal.SIGTERM)
    else:
        os.write(terminal.far, end.encode())
    assert await asyncio.to_thread(process.wait, WAIT_S) == 0
    assert not (tmp_path / "reader").is_symlink()


async def test_from_outside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(run_fault, "lift", tmp_path / "none") == 2
    assert "start one with" in capsys.readouterr().out
    assert await asyncio.to_thread(run_fault, "dance", tmp_path / "none") == 2
    assert "not understood" in capsys.readouterr().out


async def test_another_bit_rate_is_silence(tmp_path: Path) -> None:
    device = CardReader(tmp_path / "reader", cards())
    device.plug()
    device.set_rate(9_600)
    line = Line(SerialPort(tmp_path / "reader"), SystemClock())
    await line.open()
    with pytest.raises(NoAnswer):
        await line.ask(wire.STATUS, 0.2)
    await line.open(9_600)
    assert await line.ask(wire.STATUS) == Answer(0x90)
    with pytest.raises(SimError, match="115200"):
        device.set_rate(1_200)
    await line.close()
    device.unplug()


def test_a_module_spoils_only_so_many_answers() -> None:
    async def spoil() -> None:
        module = Module()
        whole = module.hear(wire.encode(wire.SAM_ID))
        module.trouble("half", 0, "", 1)
        assert module.hear(wire.encode(wire.SAM_ID)) == whole[:len(whole) // 2]
        module.trouble("noise", 0, "", 1)
        noisy = module.hear(wire.encode(wire.SAM_ID))
        assert whole in noisy and len(noisy) == len(whole) + 80
        assert module.hear(wire.encode(wire.SAM_ID)) == whole
    asyncio.run(spoil())
