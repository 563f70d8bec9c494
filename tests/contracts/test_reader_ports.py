"""The seam between the driver and a wire: one set of promises, kept by the tty (on a real pty) and by both shapes of USB reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge.clock import US, SystemClock
from edge.idcheck import card, wire
from edge.idcheck.port import Port, PortLost, SerialPort
from edge.idcheck.reader import CardSeen, CardUnreadable, Reader
from edge.idcheck.usb import UsbPort
from edge.idcheck.wire import Answer
from edge.sessions.events import ReaderBack, ReaderLost
from edge.sim import people
from edge.sim.card_module import Module
from edge.sim.card_reader import CardReader
from tests.rigs.usb_reader import ONE_PAIR, SPLIT, UsbBus

WAIT_S = 12.0


@dataclass
class Wire:
    """A module behind one kind of wire; `port` makes another near end of it."""

    module: Module
    port: Callable[[], Port]
    plug: Callable[[], object]
    pull: Callable[[], object]


@pytest.fixture(params=["serial", "usb-one-pair", "usb-split"])
async def wired(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Wire]:
    if request.param == "serial":
        device = CardReader(tmp_path / "card-reader", people.cards())
        device.plug()
        yield Wire(device.module, lambda: SerialPort(tmp_path / "card-reader"), device.plug, device.unplug)
        device.unplug()
    else:
        ends = ONE_PAIR if request.param == "usb-one-pair" else SPLIT
        bus, module = UsbBus(), Module()
        bus.plug(module, ends)
        yield Wire(module, lambda: UsbPort("0400:c35a", bus), lambda: bus.plug(module, ends), bus.pull)
        bus.pull()


async def answer(port: Port, command: wire.Command) -> Answer:
    await port.write(wire.encode(command))
    frames, heard = wire.Deframer(), list[bytes]()
    async with asyncio.timeout(WAIT_S):
        while not heard:
            heard = frames.feed(await port.read(0.5))
    return wire.decode_answer(heard[0])


async def lost(doing: object) -> str:
    with pytest.raises(PortLost) as error:
        await asyncio.wait_for(doing, WAIT_S)  # type: ignore[arg-type]
    return error.value.word


async def test_short_and_long_answers_arrive_whole(wired: Wire) -> None:
    port = wired.port()
    await port.open()
    assert await answer(port, wire.STATUS) == Answer(0x90)
    assert wire.sam_id((await answer(port, wire.SAM_ID)).data).startswith("05.01-")
    wired.module.lay(card.encode_text(people.BY_NAME["样例甲"].identity()), "新址".encode("utf-16-le").ljust(70, b" "))
    assert (await answer(port, wire.FIND)).sw3 == 0x9F
    assert (await answer(port, wire.SELECT)).sw3 == 0x90
    text, photo = wire.base_message((await answer(port, wire.READ)).data)
    assert card.encode_text(people.BY_NAME["样例甲"].identity()) == text and len(photo) == 1024
    assert len((await answer(port, wire.NEW_ADDRESS)).data) == 70
    assert wire.management_number((await answer(port, wire.MANAGEMENT)).data).startswith("01020304-")
    await port.close()


async def test_nothing_comes_within_the_deadline(wired: Wire) -> None:
    port = wired.port()
    await port.open()
    began = SystemClock().now()
    assert await port.read(0.2) == b""
    assert 0.15 * US < SystemClock().now().us_since(began) < 3 * US
    await port.close()


async def test_flush_throws_away_what_came_late(wired: Wire) -> None:
    port = wired.port()
    await port.open()
    for _ in range(2):
        await port.write(wire.encode(wire.SAM_ID))
        assert await port.read(WAIT_S)                  # so it has arrived, and most of it was not read
        await port.flush()
        assert await answer(port, wire.STATUS) == Answer(0x90)
    await port.close()


async def test_one_program_at_a_time(wired: Wire) -> None:
    first, second = wired.port(), wired.port()
    await first.open()
    assert await lost(second.open()) == "busy"
    assert await answer(first, wire.STATUS) == Answer(0x90), "the first one does not notice"
    await first.close()
    await second.open()
    assert await answer(second, wire.STATUS) == Answer(0x90)
    await second.close()


async def test_a_plug_that_is_pulled(wired: Wire) -> None:
    port = wired.port()
    await port.open()
    reading = asyncio.create_task(port.read(5))
    await asyncio.sleep(0)
    wired.pull()
    assert await lost(reading) == "gone"
    assert await lost(port.write(wire.encode(wire.STATUS))) == "gone"
    assert await lost(wired.port().open()) == "absent"
    wired.plug()
    await port.open()
    assert await answer(port, wire.STATUS) == Answer(0x90)
    await port.close()


async def test_not_open(wired: Wire) -> None:
    port = wired.port()
    for doing in (port.flush(), port.write(b"x"), port.read(0.1)):
        assert await lost(doing) == "gone"
    await port.close()
    await port.close()


async def test_a_cancelled_read_does_not_keep_the_port(wired: Wire) -> None:
    port = wired.port()
    await port.open()
    reading = asyncio.create_task(port.read(0.3))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait_for(port.close(), 3)
    other = wired.port()
    await other.open()
    await other.close()


async def test_the_driver_on_it(wired: Wire) -> None:
    """Cards, a lost answer, half an answer, and the plug: the same reports whatever the wire."""
    reports: asyncio.Queue[CardSeen | CardUnreadable | ReaderLost | ReaderBack] = asyncio.Queue()

    async def report() -> object:
        return await asyncio.wait_for(reports.get(), WAIT_S)

    driver = Reader(wired.port(), reports.put, SystemClock(), 0.05, allow_demo=True)
    running = asyncio.create_task(driver.run())
    assert isinstance(await report(), ReaderBack)
    wired.module.trouble("half", 0, "3001", 1)
    for name in ("样例甲", "样例䶮"):
        wired.module.lay(card.encode_text(people.BY_NAME[name].identity()))
        seen = await report()
        assert isinstance(seen, CardSeen) and seen.identity.name == name
    wired.module.lift()
    wired.pull()
    lost = await report()
    assert isinstance(lost, ReaderLost) and lost.reason == "gone" and driver.state.state == "lost"
    wired.plug()
    assert isinstance(await report(), ReaderBack)
    wired.module.trouble("silent", 0, "2001", 1)
    wired.module.lay(card.encode_text(people.BY_NAME["样例乙"].identity()))
    seen = await report()
    assert isinstance(seen, CardSeen) and seen.identity.name == "样例乙"
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
