"""Time, in one place: a wall clock that may step, a boot clock that may not, and the boot they belong to.

Every fact carries a `Stamp`. Durations and time-outs come from the boot clock; the wall clock is for people and for order
across boots. Integer microseconds: nanoseconds pass 2**53 after 104 days, and JSON numbers must stay below it.
Called by everything. `SimClock` lets a test pass an hour in no time. Source of the idea: Moonfire NVR's clock seam.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

US = 1_000_000
"""Microseconds in a second."""
LOCAL = ZoneInfo("Asia/Shanghai")
"""The time that people in the exam room live by."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, order=True)
class Stamp:
    """A moment: `utc_us` since 1970 (may step), `boot_us` since boot (never steps), `boot_id` of the running kernel."""

    utc_us: int
    boot_us: int
    boot_id: str

    def plus(self, us: int) -> Stamp:
        """The moment `us` microseconds later (or earlier, if negative) in the same boot."""
        return Stamp(self.utc_us + us, self.boot_us + us, self.boot_id)

    def us_since(self, earlier: Stamp) -> int:
        """Microseconds from `earlier` to here: by the boot clock within one boot, by the wall clock across boots."""
        if self.boot_id == earlier.boot_id:
            return self.boot_us - earlier.boot_us
        return self.utc_us - earlier.utc_us


class Clock(Protocol):
    """What the daemon may ask of time."""

    def now(self) -> Stamp:
        """The present moment."""

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of boot time."""


def local_date(utc_us: int) -> date:
    """The day in the exam room."""
    return datetime.fromtimestamp(utc_us / US, LOCAL).date()


@cache
def boot_id() -> str:
    """The kernel's id of this boot (random per boot; /proc/sys/kernel/random/boot_id)."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> Stamp:
        return Stamp(time.time_ns() // 1000, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000, boot_id())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SimClock:
    """A clock that a test moves by hand. `pass_time` wakes sleepers in order; `step_wall` moves the wall clock alone."""

    def __init__(self, utc_us: int = 1_795_680_000 * US, boot_us: int = 1000 * US, boot: str = "sim-boot-1") -> None:
        self._now = Stamp(utc_us, boot_us, boot)
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    def now(self) -> Stamp:
        return self._now

    def step_wall(self, us: int) -> None:
        """The wall clock jumps by `us`; boot time does not."""
        self._now = Stamp(self._now.utc_us + us, self._now.boot_us, self._now.boot_id)

    def reboot(self, boot: str, off_us: int) -> None:
        """The machine was off for `off_us` and is now in boot `boot`, five seconds after its start."""
        self._now = Stamp(self._now.utc_us + off_us, 5 * US, boot)

    async def sleep(self, seconds: float) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now.boot_us + round(seconds * US), next(self._count), done))
        await done

    async def pass_time(self, seconds: float) -> None:
        """Let `seconds` go by: each sleeper due wakes at its own moment, and everything ready runs."""
        until = self._now.boot_us + round(seconds * US)
        while self._sleepers and self._sleepers[0][0] <= until:
            due, _, done = heapq.heappop(self._sleepers)
            self._now = self._now.plus(max(0, due - self._now.boot_us))
            if not done.done():
                done.set_result(None)
            for _ in range(20):
                await asyncio.sleep(0)
        self._now = self._now.plus(until - self._now.boot_us)
        for _ in range(20):
            await asyncio.sleep(0)


def iso_utc(utc_us: int) -> str:
    """`2026-11-26T06:00:00.000Z`: the one form of time in signed documents (RFC 3339, UTC, milliseconds, truncated)."""
    moment = datetime.fromtimestamp(utc_us // US, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{utc_us % US // 1000:03d}Z"


def parse_utc(text: str) -> int:
    """Microseconds since 1970 of an RFC 3339 time with an offset. ValueError if it has none or is not a time."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"a time without an offset from UTC: {text!r}")
    whole = int(moment.replace(microsecond=0).timestamp())
    return whole * US + moment.microsecond
