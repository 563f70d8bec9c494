"""The line to the ID-card reader: bytes out, bytes in, each with a deadline. What every line promises, and the tty.

Blocking calls run in one thread that owns the port from `open` to `close`; a call that is cancelled ends in its thread within
its own deadline, and `close` waits its turn behind it, so no file descriptor is closed under a running read.
A port that goes away (a pulled plug: EIO, or "ready but nothing to read") is a `PortLost` with a word, whatever a library made of it.
The only module that knows pyserial; `usb` is the other port. Callers: `line`, `reader`, `trial`; `config` builds the one configured.
"""

from __future__ import annotations

import asyncio
import errno
import select
import termios
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, TypeVar

import serial

T = TypeVar("T")

WRITE_S: Final = 1.0
RATES: Final = (115_200, 57_600, 38_400, 19_200, 9_600)
"""Bits per second that a module can be set to. Source: the SAM_V protocol document, command 60 (which is never sent)."""

PORT_WORDS: Final = frozenset({"absent", "denied", "busy", "gone", "no-driver"})
OPEN_WORDS: Final = {errno.ENOENT: "absent", errno.ENODEV: "absent", errno.ENXIO: "absent", errno.EACCES: "denied",
                     errno.EPERM: "denied", errno.EBUSY: "busy", errno.EAGAIN: "busy"}


class PortLost(Exception):
    """The port cannot be used now. `word`: absent (no such device), denied (no permission), busy (another program has it), gone,
    no-driver (libusb is not installed, or not allowed what it needs)."""

    def __init__(self, word: str, detail: str = "") -> None:
        super().__init__(f"{word}: {detail}" if detail else word)
        self.word = word


class Port(Protocol):
    """A byte line to a reader. Every call may raise PortLost; after that only `close` and `open` make sense."""

    @property
    def name(self) -> str:
        """What to call it in front of an installer."""

    @property
    def rates(self) -> tuple[int, ...]:
        """Bit rates that may be tried, the configured one first; just 0 where the wire has none."""

    async def open(self, rate: int | None = None) -> None:
        """Take the device for this program alone, at one of `rates` (None: the first)."""

    async def close(self) -> None:
        """Give it back. Never fails, and may be called at any time."""

    async def flush(self) -> None:
        """Throw away what has arrived and was not read."""

    async def write(self, data: bytes) -> None:
        """Send all of `data`, one frame; PortLost if the line does not take it within a second."""

    async def read(self, timeout_s: float) -> bytes:
        """What has arrived, as soon as it is one byte or more; b"" if nothing came within `timeout_s`."""


class OwnedPort(ABC):
    """What both ports share: the thread, and what becomes of a library's errors. Below, the blocking calls of one device."""

    rates: tuple[int, ...] = (0,)
    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None

    async def open(self, rate: int | None = None) -> None:
        await self.close()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="idcard-port")
        await self._run(lambda: self._open(self.rates[0] if rate is None else rate))

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            closing = asyncio.get_running_loop().run_in_executor(thread, self._close)
            thread.shutdown(wait=False)
            await asyncio.shield(closing)

    async def flush(self) -> None:
        await self._run(self._flush)

    async def write(self, data: bytes) -> None:
        await self._run(lambda: self._write(data))

    async def read(self, timeout_s: float) -> bytes:
        return await self._run(lambda: self._read(timeout_s))

    async def _run(self, call: Callable[[], T]) -> T:
        if self._thread is None:
            raise PortLost("gone", "not open")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call)
        except self.errors as error:
            raise PortLost("gone", type(error).__name__) from error

    @abstractmethod
    def _open(self, rate: int) -> None:
        """As `Port.open`."""

    @abstractmethod
    def _close(self) -> None:
        """As `Port.close`."""

    @abstractmethod
    def _flush(self) -> None:
        """As `Port.flush`."""

    @abstractmethod
    def _write(self, data: bytes) -> None:
        """As `Port.write`."""

    @abstractmethod
    def _read(self, timeout_s: float) -> bytes:
        """As `Port.read`."""


class SerialPort(OwnedPort):
    """A tty by its path (on site the name that udev gives the socket). 8 data bits, no parity, 1 stop bit, no flow control."""

    errors = (OSError, termios.error)       # termios.error is no OSError; a SerialException is one

    def __init__(self, path: Path, baud: int = 115_200) -> None:
        super().__init__()
        self.rates = (baud, *(rate for rate in RATES if rate != baud))
        self.name = str(path)
        self._serial: serial.Serial | None = None

    def _open(self, rate: int) -> None:
        try:
            self._serial = serial.Serial(self.name, rate, timeout=0, write_timeout=WRITE_S, exclusive=True)
        except (OSError, termios.error) as error:
            word = OPEN_WORDS.get(error.errno or 0, "gone") if isinstance(error, OSError) else "gone"
            raise PortLost(word, self.name) from error

    def _opened(self) -> serial.Serial:
        if self._serial is None:
            raise PortLost("gone", "not open")
        return self._serial

    def _close(self) -> None:
        line, self._serial = self._serial, None
        if line is not None:
            with suppress(OSError, termios.error):
                line.close()

    def _flush(self) -> None:
        self._opened().reset_input_buffer()

    def _write(self, data: bytes) -> None:
        self._opened().write(data)

    def _read(self, timeout_s: float) -> bytes:
        line = self._opened()
        # pyserial's own time-out would be set anew through tcsetattr at each change.
        ready, _, _ = select.select([line.fileno()], [], [], timeout_s)
        return line.read(max(1, line.in_waiting)) if ready else b""
