"""`edge doctor reader`: what it finds out about a simulated reader on its real wire, what it says to do, and what it never prints."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import serial

from edge import doctor_reader
from edge.clock import SystemClock
from edge.idcheck.line import LOST_WORDS
from edge.idcheck.port import SerialPort
from edge.idcheck.trial import Look, Step, look
from edge.idcheck.usb import UsbPort
from edge.sim.card_module import Module
from edge.sim.card_reader import CardReader
from edge.sim.people import cards
from tests.rigs.usb_reader import SPLIT, UsbBus

MODULE = "05.01-20260101-0000000000-0000000007"
GOOD = Look("/dev/idcard0", 115_200, rate=115_200, module=MODULE, steps=(Step("status", 4, "ok"),), card="resident_id, 样*甲, ****0018")


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[CardReader]:
    device = CardReader(tmp_path / "reader", cards())
    device.plug()
    yield device
    device.unplug()


async def looked(tmp_path: Path, seconds: float = 2, allow_demo: bool = True, baud: int = 115_200) -> tuple[Look, list[str]]:
    told: list[str] = []
    return await look(SerialPort(tmp_path / "reader", baud), SystemClock(), seconds, allow_demo, told.append), told


def advice(found: Look, seconds: float = 15, holder: str = "") -> list[str]:
    return list(doctor_reader._advice(found, seconds, holder))


async def test_each_step_has_its_time(device: CardReader, tmp_path: Path) -> None:
    device.lay("样例䶮")
    found, told = await looked(tmp_path)
    assert (found.fault, found.rate, found.module) == ("", 115_200, MODULE)
    assert [(step.name, step.word) for step in found.steps] == [
        ("status", "ok"), ("find", "found"), ("select", "ok"), ("read", "ok"), ("address", "no-such-item"), ("number", "ok")]
    assert all(0 <= step.ms < 2000 for step in found.steps)
    assert (found.card, found.card_fault, found.noise) == ("resident_id, 样*䶮, ****0070", "", 0)
    assert "lay a card" in told[-1] and advice(found) == []


async def test_a_card_that_comes_late_or_fails_at_first_is_still_read(device: CardReader, tmp_path: Path) -> None:
    device.module.trouble("status", 0x41, "3001", 1)
    looking = asyncio.create_task(looked(tmp_path, 10))
    while device.module.served < 4:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    device.lay("样例甲")
    found, _ = await looking
    assert found.card.endswith("****0018") and advice(found) == []


async def test_no_card(device: CardReader, tmp_path: Path) -> None:
    found, _ = await looked(tmp_path, 0.5)
    assert [(step.name, step.word) for step in found.steps] == [("status", "ok"), ("find", "not-found")]
    assert "no card was seen" in advice(found)[0]
    found, told = await looked(tmp_path, 0)
    assert len(found.steps) == 1 and told == [] and advice(found, 0) == []


async def test_a_card_that_is_refused_says_at_which_step(device: CardReader, tmp_path: Path) -> None:
    device.lay("样例甲")
    device.module.trouble("status", 0x32, "2002", 1000)
    found, _ = await looked(tmp_path, 0.5)
    assert found.card == "" and "select: module-refuses-card" in advice(found)[0]
    device.module.trouble("status", 0x32, "2002", 0)
    found, _ = await looked(tmp_path, 0.5, allow_demo=False)
    assert (found.card, found.card_fault) == ("", "demo") and "real room does not take it" in advice(found)[0]


async def test_the_rate_is_found_and_told(device: CardReader, tmp_path: Path) -> None:
    device.set_rate(57_600)
    found, told = await looked(tmp_path, 0)
    assert (found.rate, found.configured) == (57_600, 115_200)
    assert "silent at 115200; trying 57600" in told[0]
    assert "reader.baud = 57600" in advice(found)[0]


async def test_noise_on_the_line_is_told(device: CardReader, tmp_path: Path) -> None:
    device.module.trouble("noise", 0, "2001", 1)
    device.lay("样例甲")
    found, _ = await looked(tmp_path)
    assert found.noise > 0 and found.card and "noise on the line" in advice(found)[0]


async def test_a_reader_on_usb() -> None:
    bus, module = UsbBus(), Module()
    bus.plug(module, SPLIT)
    found = await look(UsbPort("0400:c35a", bus), SystemClock(), 0, True, print)
    assert (found.fault, found.rate, found.module) == ("", 0, MODULE) and advice(found, 0) == []
    bus.pull()
    assert (await look(UsbPort("0400:c35a", bus), SystemClock(), 0, True, print)).fault == "absent"


@pytest.mark.parametrize("word", sorted(LOST_WORDS))
def test_every_fault_has_its_plain_words(word: str) -> None:
    [text] = advice(replace(GOOD, fault=word))
    assert len(text) > 20 and not text.startswith(word)


def test_the_room_has_it_and_somebody_else_has_it() -> None:
    busy = replace(GOOD, fault="busy", card="")
    assert "right while the room runs" in advice(busy, holder="edge room (process 7)")[0]
    assert "minicom (process 8) has the reader. The room cannot use it either" in advice(busy, holder="minicom (process 8)")[0]


# ---- as an installer runs it ------------------------------------------------------------------------------------------

async def run(*arguments: str, config: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edge", "doctor", "reader", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "EDGE_CONFIG": config})
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_all_good_in_words_and_in_json(device: CardReader, tmp_path: Path) -> None:
    device.lay("样例甲")
    code, out, err = await run("--port", str(tmp_path / "reader"))
    assert code == 0 and "All good." in out and MODULE in out and "read text and photo" in out, err
    device.lay("样例甲")
    code, out, err = await run("--port", str(tmp_path / "reader"), "--json")
    facts: dict[str, Any] = json.loads(out)
    assert code == 0 and facts["ok"] is True and facts["set"] == [] and len(facts["steps"]) == 6
    assert "000000199001010018" not in out + err and "样例甲" not in out + err, "masked"


async def test_somebody_has_it(device: CardReader, tmp_path: Path) -> None:
    with serial.Serial(str(tmp_path / "reader"), exclusive=True):
        code, out, _ = await run("--port", str(tmp_path / "reader"), "--json")
    facts = json.loads(out)
    assert code == 1 and facts["fault"] == "busy" and f"(process {os.getpid()})" in facts["holder"]
    assert "stop that program" in facts["set"][0]


async def test_the_room_has_it(device: CardReader, tmp_path: Path) -> None:
    """Told by the words of its command line, as /proc shows them."""
    hold = "import serial, sys; line = serial.Serial(sys.argv[3], exclusive=True); print('held', flush=True); sys.stdin.read()"
    room = await asyncio.create_subprocess_exec(sys.executable, "-c", hold, "edge", "room", str(tmp_path / "reader"),
                                                stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert room.stdout is not None
    assert await asyncio.wait_for(room.stdout.readline(), 30) == b"held\n"
    code, out, _ = await run("--port", str(tmp_path / "reader"))
    assert code == 1 and f"edge room (process {room.pid}) has the reader. That is right while the room runs" in out
    room.kill()
    await room.communicate()


async def test_the_configured_reader_and_words_that_are_wrong(tmp_path: Path) -> None:
    demo = (Path(__file__).parents[1] / "config" / "demo.toml").read_text("utf-8")
    (tmp_path / "edge.toml").write_text(demo.replace('"../demo/run/card-reader"', '"nowhere"'), "utf-8")
    code, out, _ = await run("--config", str(tmp_path / "edge.toml"))
    assert code == 1 and str(tmp_path / "nowhere") in out and "is the plug in" in out
    code, out, err = await run("--usb", "0400")
    assert (code, out) == (1, "") and "0400:c35a" in err and "Nothing was opened" in err
