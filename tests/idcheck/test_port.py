"""The tty on a real pty: whole answers, deadlines, and the word for each way of not having a port."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge.clock import US, SystemClock
from edge.idcheck.port import PORT_WORDS, PortLost, SerialPort


@dataclass
class Cable:
    """A pty: `far` is what a reader would hold, `path` the near end's name."""

    far: int
    path: Path

    def pull(self) -> None:
        with suppress(OSError):
            os.close(self.far)


@pytest.fixture
def cable() -> Iterator[Cable]:
    far, near = os.openpty()
    tty.setraw(near)
    cable = Cable(far, Path(os.ttyname(near)))
    os.close(near)
    yield cable
    cable.pull()


async def lost(port: SerialPort, doing: str) -> str:
    calls: dict[str, Callable[[], Coroutine[None, None, object]]] = {
        "open": port.open, "flush": port.flush,
        "write": lambda: port.write(b"x"), "read": lambda: port.read(0.2)}
    with pytest.raises(PortLost) as error:
        await asyncio.wait_for(calls[doing](), 5)
    assert error.value.word in PORT_WORDS
    return error.value.word


async def test_every_byte_value_both_ways(cable: Cable) -> None:
    port = SerialPort(cable.path)
    await port.open()
    every = bytes(range(256))
    await port.write(every)
    assert os.read(cable.far, 1000) == every
    os.write(cable.far, every)
    heard = b""
    while len(heard) < 256:
        heard += await asyncio.wait_for(port.read(1), 5)
    assert heard == every
    await port.close()


async def test_nothing_came_within_the_deadline(cable: Cable) -> None:
    port = SerialPort(cable.path)
    await port.open()
    began = SystemClock().now()
    assert await port.read(0.2) == b""
    assert 0.15 * US < SystemClock().now().us_since(began) < 3 * US
    await port.close()


async def test_flush_throws_away_what_was_not_read(cable: Cable) -> None:
    port = SerialPort(cable.path)
    await port.open()
    os.write(cable.far, b"late answer")
    await port.flush()
    os.write(cable.far, b"new")
    assert await port.read(1) == b"new"
    await port.close()


async def test_a_line_that_takes_nothing_more(cable: Cable) -> None:
    port = SerialPort(cable.path)
    await port.open()
    with pytest.raises(PortLost, match="gone"):
        await asyncio.wait_for(port.write(bytes(1_000_000)), 10)
    await port.close()


@pytest.mark.parametrize("doing", ["flush", "write", "read"])
async def test_pulled_out(cable: Cable, doing: str) -> None:
    port = SerialPort(cable.path)
    await port.open()
    cable.pull()
    assert await lost(port, doing) == "gone"
    await port.close()


async def test_pulled_out_while_waiting_for_an_answer(cable: Cable) -> None:
    port = SerialPort(cable.path)
    await port.open()
    reading = asyncio.create_task(port.read(5))
    await asyncio.sleep(0)
    cable.pull()
    with pytest.raises(PortLost, match="gone"):
        await asyncio.wait_for(reading, 3)
    await port.close()


@pytest.mark.parametrize("doing", ["flush", "write", "read"])
async def test_not_open(cable: Cable, doing: str) -> None:
    port = SerialPort(cable.path)
    assert await lost(port, doing) == "gone"
    await port.close()


async def test_no_such_device_and_no_device_at_all(tmp_path: Path) -> None:
    assert await lost(SerialPort(tmp_path / "none"), "open") == "absent"
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    assert await lost(SerialPort(tmp_path / "dangling"), "open") == "absent"
    (tmp_path / "file").touch()
    assert await lost(SerialPort(tmp_path / "file"), "open") == "gone"


async def test_only_one_program_at_a_time(cable: Cable) -> None:
    first, second = SerialPort(cable.path), SerialPort(cable.path)
    await first.open()
    assert await lost(second, "open") == "busy"
    await first.close()
    await second.open()
    await second.close()


async def test_open_again_and_close_twice(cable: Cable) -> None:
    port = SerialPort(cable.path)
    await port.open()
    await port.open()
    await port.write(b"x")
    await port.close()
    await port.close()


async def test_a_cancelled_read_does_not_keep_the_port(cable: Cable) -> None:
    port = SerialPort(cable.path)
    await port.open()
    reading = asyncio.create_task(port.read(0.3))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait_for(port.close(), 3)
    other = SerialPort(cable.path)
    await other.open()
    await other.close()
