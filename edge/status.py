"""Instruments of the box itself: the disk, the clock, the service manager. No opinion, only readings.

`probe_clock` asks the kernel (adjtimex, read-only, no privilege): chrony and timesyncd both tell the kernel whether the clock is
disciplined. `notify` speaks systemd's protocol (sd_notify(3)) without a library: one datagram.
Callers: `room` for preflight and the board, the programs' main loops for the watchdog.
"""

from __future__ import annotations

import ctypes
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

STA_UNSYNC = 0x0040
TIME_ERROR = 5


class _Timex(ctypes.Structure):
    """struct timex of <sys/timex.h> (64-bit Linux): only `modes`, `offset`, `maxerror` and `status` are read."""

    _fields_: ClassVar[list[tuple[str, type]]] = [
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_byte * 256)]


@dataclass(frozen=True, slots=True)
class ClockReading:
    """`state`: synced, unsynced or unknown; `max_error_us`: the kernel's own bound."""

    state: str
    max_error_us: int


def probe_clock() -> ClockReading:
    """Whether something disciplines the kernel's clock."""
    reading = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.adjtimex(ctypes.byref(reading))
    if result < 0:
        return ClockReading("unknown", 0)
    synced = result != TIME_ERROR and not reading.status & STA_UNSYNC
    return ClockReading("synced" if synced else "unsynced", int(reading.maxerror))


@dataclass(frozen=True, slots=True)
class DiskReading:
    """Bytes an unprivileged user may still write, and whether a write was just tried and kept. `fault`: why not, in a word."""

    free_bytes: int
    total_bytes: int
    write_ok: bool
    fault: str


def probe_disk(folder: Path, *, try_write: bool = True) -> DiskReading:
    """Read a file system and, if asked, write and sync four kilobytes on it."""
    try:
        facts = os.statvfs(folder)
    except OSError as error:
        return DiskReading(0, 0, False, os.strerror(error.errno or 0))
    free, total = facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
    if try_write:
        probe = folder / f".write-test.{os.getpid()}"
        try:
            handle = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(handle, b"\0" * 4096)
                os.fdatasync(handle)
            finally:
                os.close(handle)
                probe.unlink(missing_ok=True)
        except OSError as error:
            return DiskReading(free, total, False, os.strerror(error.errno or 0))
    return DiskReading(free, total, True, "")


def notify(text: str) -> bool:
    """Tell systemd (`READY=1`, `WATCHDOG=1`, `STATUS=…`). False where no service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(text.encode(), address)
        except OSError:
            return False
    return True


def watchdog_interval_s() -> float | None:
    """Half of systemd's WatchdogSec for this process, or None if it keeps no watch."""
    text, pid = os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID")
    if not text or (pid and int(pid) != os.getpid()):
        return None
    return int(text) / 2_000_000
