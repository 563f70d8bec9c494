"""The tty of the ID-card reader: bytes out, bytes in, each with a deadline. The only module that knows pyserial.

Blocking calls run in one thread that owns the port from `open` to `close`; a call that is cancelled ends in its thread within
its own deadline, and `close` waits its turn behind it, so no file descriptor is closed under a running read.
A port that goes away (a pulled plug: EIO, or "ready but nothing to read") is a `PortLost` with a word, whatever pyserial made of it.
Callers: `reader`; `app` builds it.
"""

from __future__ import annotations

import asyncio
import errno
import select
import termios
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, TypeVar

import serial

T = TypeVar("T")

WRITE_S: Final = 1.0

PORT_WORDS: Final = frozenset({"absent", "denied", "busy", "gone"})
_OPEN_WORDS: Final = {errno.ENOENT: "absent", errno.ENODEV: "absent", errno.ENXIO: "absent", errno.EACCES: "denied",
                      errno.EPERM: "denied", errno.EBUSY: "busy", errno.EAGAIN: "busy"}


class PortLost(Exception):
    """The port cannot be used now. `word`: absent (no such device), denied (no permission), busy (another program has it), gone."""

    def __init__(self, word: str, detail: str = "") -> None:
        super().__init__(f"{word}: {detail}" if detail else word)
        self.word = word


class Port(Protocol):
    """A byte line to a reader. Every call may raise PortLost; after that only `close` and `open` make sense."""

    async def open(self) -> None:
        """Take the device for this program alone."""

    async def close(self) -> None:
        """Give it back. Never fails, and may be called at any time."""

    async def flush(self) -> None:
        """Throw away what has arrived and was not read."""

    async def write(self, data: bytes) -> None:
        """Send all of `data`; PortLost if the line does not take it within a second."""

    async def read(self, timeout_s: float) -> bytes:
        """What has arrived, as soon as it is one byte or more; b"" if nothing came within `timeout_s`."""


class SerialPort:
    """A tty by its path (on site the name that udev gives the socket). 8 data bits, no parity, 1 stop bit, no flow control."""

    def __init__(self, path: Path, baud: int = 115_200) -> None:
        self._path = path
        self._baud = baud
        self._serial: serial.Serial | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def open(self) -> None:
        await self.close()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="idcard-port")
        await self._run(self._open)

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            closing = asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown(wait=False)
            await asyncio.shield(closing)

    async def flush(self) -> None:
        await self._run(lambda: self._opened().reset_input_buffer())

    async def write(self, data: bytes) -> None:
        await self._run(lambda: self._write(data))

    async def read(self, timeout_s: float) -> bytes:
        return await self._run(lambda: self._read(timeout_s))

    async def _run(self, call: Callable[[], T]) -> T:
        if self._thread is None:
            raise PortLost("gone", "not open")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        # termios.error is no OSError; a SerialException is one.
        except (OSError, termios.error) as error:
            raise PortLost("gone", type(error).__name__) from error

    def _open(self) -> None:
        try:
            self._serial = serial.Serial(str(self._path), self._baud, timeout=0, write_timeout=WRITE_S, exclusive=True)
        except (OSError, termios.error) as error:
            word = _OPEN_WORDS.get(error.errno or 0, "gone") if isinstance(error, OSError) else "gone"
            raise PortLost(word, str(self._path)) from error

    def _opened(self) -> serial.Serial:
        if self._serial is None:
            raise PortLost("gone", "not open")
        return self._serial

    def _close(self) -> None:
        line, self._serial = self._serial, None
        if line is not None:
            with suppress(OSError, termios.error):
                line.close()

    def _write(self, data: bytes) -> None:
        self._opened().write(data)

    def _read(self, timeout_s: float) -> bytes:
        line = self._opened()
        # pyserial's own time-out would be set anew through tcsetattr at each change.
        ready, _, _ = select.select([line.fileno()], [], [], timeout_s)
        return line.read(max(1, line.in_waiting)) if ready else b""
