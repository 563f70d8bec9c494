"""Instruments of the box itself: the disk, the clock, the service manager. No opinion, only readings.

`probe_clock` asks who disciplines the clock: chrony by its own program (chronyc(1), any user may), systemd-timesyncd by the file that
it keeps, and the kernel (adjtimex, read-only, no privilege) where neither answers. `notify` speaks systemd's protocol (sd_notify(3))
without a library: one datagram.
Callers: `room` for preflight and the board, workers at each segment, the programs' main loops for the watchdog.
"""

from __future__ import annotations

import ctypes
import math
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

STA_UNSYNC = 0x0040
TIME_ERROR = 5
CHRONY_S, GRACE_S = 2.0, 0.1
"""How long chronyc may take, and how long a caller waits for it (it answers in 3 ms): callers are event loops and camera readers."""
FRESH_S, STALE_S, SULK_S = 10.0, 30.0, 60.0
"""An answer counts as new, may still be used while the next one is fetched, and the pause after a chronyc that did not answer."""
TIMESYNCD = Path("/run/systemd/timesync")
"""systemd-timesyncd's folder, there while it runs; `synchronized` in it is made at the first sync (systemd-timesyncd.service(8))."""
LOCAL_REFID = "7F7F0101"
"""127.127.1.1: chronyd follows no one but itself (its `local` directive)."""


class _Timex(ctypes.Structure):
    """struct timex of <sys/timex.h> (64-bit Linux): only `modes`, `offset`, `maxerror` and `status` are read."""

    _fields_: ClassVar[list[tuple[str, type]]] = [
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_byte * 256)]


@dataclass(frozen=True, slots=True)
class ClockReading:
    """`state`: synced, unsynced or unknown; `max_error_us`: the source's own bound; `source`: chrony, timesyncd or kernel;
    `offset_us`: the clock minus its reference, as far as the source knows and has not yet corrected it; None where it does not say."""

    state: str
    max_error_us: int
    source: str = "kernel"
    offset_us: int | None = None

    def as_fact(self) -> dict[str, str | int]:
        """As a fact of the journal has it."""
        offset = {} if self.offset_us is None else {"offset_us": self.offset_us}
        return {"state": self.state, "source": self.source, "max_error_us": self.max_error_us, **offset}


class ClockProbe:
    """Whether something disciplines the clock, and what. May be called often and by any thread; never takes much more than GRACE_S."""

    def __init__(self, timesyncd: Path = TIMESYNCD) -> None:
        self._timesyncd = timesyncd
        self._turn = threading.Lock()
        self._asking = False
        self._answer: ClockReading | None = None
        self._answered_at = self._due_at = -math.inf        # monotonic

    def __call__(self) -> ClockReading:
        answer = self._ask_chrony()
        if answer is not None:
            return answer
        kernel = _ask_kernel()
        if not self._timesyncd.is_dir():
            return kernel
        synced = kernel.state == "synced" and (self._timesyncd / "synchronized").exists()
        return ClockReading("synced" if synced else "unsynced", kernel.max_error_us, "timesyncd")

    def _ask_chrony(self) -> ClockReading | None:
        """chrony's word if it is new enough. A chronyc that hangs is waited for by a thread of its own."""
        asked: threading.Event | None = None
        with self._turn:
            if not self._asking and time.monotonic() >= self._due_at:
                program = shutil.which("chronyc")
                if program is None:
                    self._answer, self._due_at = None, time.monotonic() + FRESH_S
                else:
                    asked = threading.Event()
                    thread = threading.Thread(target=self._fetch, args=(program, asked), name="chronyc", daemon=True)
                    try:
                        thread.start()
                        self._asking = True
                    except RuntimeError:            # no thread to be had
                        self._due_at = time.monotonic() + SULK_S
        if asked is not None:
            asked.wait(GRACE_S)                     # by this one caller alone
        with self._turn:
            return self._answer if time.monotonic() - self._answered_at < STALE_S else None

    def _fetch(self, program: str, asked: threading.Event) -> None:
        answer = read_tracking(_run_chronyc(program))
        with self._turn:
            now = time.monotonic()
            self._answer, self._answered_at, self._asking = answer, now, False
            self._due_at = now + (FRESH_S if answer is not None else SULK_S)
        asked.set()


probe_clock = ClockProbe()
"""The one of this process: its callers share what chrony said."""


def _run_chronyc(program: str) -> str:
    """What `chronyc -c tracking` prints; nothing if it fails or takes too long. It and whatever it started are ended then."""
    try:
        process = subprocess.Popen([program, "-n", "-c", "tracking"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL, start_new_session=True)
    except OSError:
        return ""
    with process:
        try:
            output, _ = process.communicate(timeout=CHRONY_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return ""
    return output.decode("ascii", errors="replace") if process.returncode == 0 else ""


def read_tracking(text: str) -> ClockReading | None:
    """The reading in what `chronyc -c tracking` printed; None if it is not that.

    Fields by chronyc(1): 0 reference id, 4 system time (positive: slow of NTP), 10 root delay, 11 root dispersion (seconds), 13 leap
    status. The bound is chronyc(1)'s: |system time| + root dispersion + root delay / 2.
    """
    fields = text.strip().split(",")
    if len(fields) != 14:
        return None
    try:
        offset_s, delay_s, dispersion_s = (float(fields[n]) for n in (4, 10, 11))
    except ValueError:
        return None
    bound_s = abs(offset_s) + dispersion_s + delay_s / 2
    if not math.isfinite(bound_s) or bound_s < 0:
        return None
    synced = fields[13] in ("Normal", "Insert second", "Delete second") and fields[0] != LOCAL_REFID
    return ClockReading("synced" if synced else "unsynced", round(bound_s * 1_000_000), "chrony", -round(offset_s * 1_000_000))


def _ask_kernel() -> ClockReading:
    """chrony (with `rtcsync`) and timesyncd both tell the kernel; its bound grows by 500 ppm until they do again."""
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
