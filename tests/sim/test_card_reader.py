"""The simulated reader as a process: its wire, its control socket, its cable, and what a kill leaves behind."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import serial

from edge.clock import SystemClock
from edge.idcheck import card, wire
from edge.idcheck.port import SerialPort
from edge.idcheck.reader import CardSeen, Reader
from edge.idcheck.wire import Answer, Command
from edge.sessions.events import ReaderBack, ReaderLost
from edge.sim import people
from edge.sim.card_console import SimError
from edge.sim.card_module import Module
from edge.sim.card_reader import ask, run_tap, tap

WAIT_S = 15.0
PROGRAM = ("import sys; from pathlib import Path; from edge.sim.card_reader import run_card_reader; "
           "sys.exit(run_card_reader(Path(sys.argv[1]), Path(sys.argv[2])))")


@dataclass
class Site:
    """Where a simulator has its names, and the processes started there."""

    link: Path
    control: Path
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, str(self.link), str(self.control),
                                                       stdout=asyncio.subprocess.PIPE)
        self.processes.append(process)
        return process

    async def running(self) -> asyncio.subprocess.Process:
        """A started simulator that answers."""
        process = await self.start()
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    assert (await self.look())["plugged"]
                    return process
                except SimError:
                    await asyncio.sleep(0.02)

    async def look(self) -> dict[str, Any]:
        return await ask(self.control, {"do": "look"})


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(tmp_path / "run" / "card-reader", tmp_path / "run" / "sim-card-reader.sock")
    yield site
    for process in site.processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


class Line:
    """The near end of the cable, by hand."""

    def __init__(self, link: Path) -> None:
        self.serial = serial.Serial(str(link), 115_200, timeout=5, exclusive=True)

    def ask(self, command: Command) -> Answer:
        return self.say(wire.encode(command))

    def say(self, raw: bytes) -> Answer:
        self.serial.write(raw)
        head = self.serial.read(7)
        return wire.decode_answer(head + self.serial.read(int.from_bytes(head[5:], "big")))


async def test_the_protocol_over_the_cable(site: Site) -> None:
    await site.running()
    line = Line(site.link)
    assert line.ask(wire.STATUS) == Answer(0x90)
    assert wire.sam_id(line.ask(wire.SAM_ID).data).startswith("05.01-")
    assert line.ask(wire.FIND) == Answer(0x80)
    await ask(site.control, {"do": "lay", "name": "样例甲"})
    assert line.ask(wire.SELECT) == Answer(0x81), "not before find"
    assert line.ask(wire.READ) == Answer(0x23), "not before select"
    assert line.ask(wire.FIND) == Answer(0x9F, bytes(4))
    assert line.ask(wire.SELECT) == Answer(0x90, bytes(8))
    text, _ = wire.base_message(line.ask(wire.READ).data)
    assert text == card.encode_text(people.BY_NAME["样例甲"].identity())
    assert line.ask(wire.FIND) == Answer(0x80), "read already, and still there"
    assert line.ask(wire.NEW_ADDRESS) == Answer(0x91)
    await ask(site.control, {"do": "lift"})
    assert line.ask(wire.NEW_ADDRESS) == Answer(0x41)
    assert line.ask(Command(0x30, 0x10)) == Answer(0x21), "no fingerprints here"
    assert line.say(b"\x00\xaa\xaa" + wire.encode(wire.STATUS)) == Answer(0x90), "noise before a command"
    line.serial.close()


async def test_unplug_takes_line_and_name_away(site: Site) -> None:
    await site.running()
    line = Line(site.link)
    await ask(site.control, {"do": "unplug"})
    with pytest.raises(OSError):
        line.ask(wire.STATUS)
    line.serial.close()
    assert not site.link.is_symlink()
    await ask(site.control, {"do": "unplug"})
    await ask(site.control, {"do": "plug"})
    assert site.link.is_symlink()
    line = Line(site.link)
    assert line.ask(wire.STATUS) == Answer(0x90)
    line.serial.close()


async def test_a_killed_simulator_is_a_lost_reader_and_a_new_one_takes_its_names(site: Site) -> None:
    reports: asyncio.Queue[object] = asyncio.Queue()
    first = await site.running()
    driving = asyncio.create_task(Reader(SerialPort(site.link), reports.put, SystemClock(), 0.05, allow_demo=True).run())
    assert isinstance(await asyncio.wait_for(reports.get(), WAIT_S), ReaderBack)
    first.send_signal(signal.SIGKILL)
    assert isinstance(await asyncio.wait_for(reports.get(), WAIT_S), ReaderLost)
    assert site.link.is_symlink() and site.control.is_socket(), "a killed process cleans nothing up"
    await site.running()
    assert isinstance(await asyncio.wait_for(reports.get(), WAIT_S), ReaderBack)
    assert await tap(site.control, "样例乙")
    seen = await asyncio.wait_for(reports.get(), WAIT_S)
    assert isinstance(seen, CardSeen) and seen.identity.name == "样例乙"
    assert (await site.look())["occupied"] is False
    driving.cancel()
    await asyncio.gather(driving, return_exceptions=True)


async def test_a_signal_ends_it_cleanly(site: Site) -> None:
    process = await site.running()
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), WAIT_S) == 0
    assert not site.link.is_symlink() and not site.control.exists()


async def test_a_second_one_refuses_and_the_first_goes_on(site: Site) -> None:
    await site.running()
    second = await site.start()
    out, _ = await asyncio.wait_for(second.communicate(), WAIT_S)
    assert second.returncode == 2
    assert "answers at" in out.decode()
    assert (await site.look())["plugged"]


@pytest.mark.parametrize("name", ["link", "control"])
async def test_somebody_elses_file_is_not_touched(site: Site, name: str) -> None:
    path: Path = getattr(site, name)
    path.parent.mkdir()
    path.write_text("precious")
    process = await site.start()
    out, _ = await asyncio.wait_for(process.communicate(), WAIT_S)
    assert process.returncode == 2
    assert "not touched" in out.decode()
    assert path.read_text() == "precious"


async def test_orders_that_cannot_be_carried_out(site: Site) -> None:
    await site.running()
    lines, out = await asyncio.open_unix_connection(site.control)

    async def why(raw: bytes) -> str:
        out.write(raw + b"\n")
        answer = json.loads(await asyncio.wait_for(lines.readline(), WAIT_S))
        assert answer["ok"] is False
        return str(answer["why"])

    for raw in (b"", b"{", b"[]", b"null", b"{}", b'{"do": "dance"}', b'{"do": ["tap"]}', b'{"do": "lay"}', b"\xff\xfe",
                b'{"do": "tap", "name": "x", "hold_ms": "long"}', b'{"do": "trouble", "kind": "silent", "times": {}}'):
        assert "not understood" in await why(raw)
    assert "样例甲" in await why('{"do": "lay", "name": "某某"}'.encode()), "says which cards there are"
    assert "silent, half" in await why(b'{"do": "trouble", "kind": "rain"}')
    assert "plugged in already" in await why(b'{"do": "plug"}')
    await ask(site.control, {"do": "lay", "name": "样例甲"})
    assert "lies on the reader" in await why('{"do": "tap", "name": "样例乙"}'.encode())
    await ask(site.control, {"do": "unplug"})
    assert "unplugged" in await why('{"do": "tap", "name": "样例乙"}'.encode())
    out.close()


async def test_the_tap_command(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(run_tap, "样例甲", site.control) == 2
    assert "start one with" in capsys.readouterr().out
    await site.running()
    assert await asyncio.to_thread(run_tap, "样例甲", site.control) == 1
    assert "no driver" in capsys.readouterr().out
    assert (await site.look())["occupied"] is False, "lifted all the same"
    assert await asyncio.to_thread(run_tap, "某某", site.control) == 2


async def test_a_client_that_hangs_up_harms_nobody(site: Site) -> None:
    await site.running()
    for rubbish in (b"", b'{"do": "look"}', b"x" * 200_000):
        _, out = await asyncio.open_unix_connection(site.control)
        out.write(rubbish)
        out.close()
    assert (await site.look())["plugged"]


async def test_control_socket_is_private(site: Site) -> None:
    await site.running()
    assert site.control.stat().st_mode & 0o777 == 0o600


async def test_trouble_spoils_only_what_it_was_ordered_to() -> None:
    module = Module()
    module.trouble("garbled", 0, "2001", 1)
    assert module.hear(wire.encode(wire.STATUS)) == wire.encode(Answer(0x90))
    with pytest.raises(wire.WireError, match="checksum"):
        wire.decode_answer(module.hear(wire.encode(wire.FIND)))
    assert module.hear(wire.encode(wire.FIND)) == wire.encode(Answer(0x80))
    module.trouble("silent", 0, "", 1)
    assert module.hear(wire.encode(wire.STATUS)) == b""
    module.trouble("status", 0x60, "", 1)
    assert module.hear(wire.encode(wire.STATUS)) == wire.encode(Answer(0x60))
    assert module.hear(wire.encode(wire.STATUS) * 2) == wire.encode(Answer(0x90)) * 2
