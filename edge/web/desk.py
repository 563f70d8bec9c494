"""What the composition root lays on the pages' desk, and what every part of them shares.

`Desk` is handed in by `app`; `Web` adds the room, the texts and the slow gauges. Callers: `app`, every module of `web`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edge.clock import US
from edge.evidence.report import Report
from edge.exported.zip64 import Archive
from edge.room import Room
from edge.status import DiskReading
from edge.storage.logins import Logins
from edge.web.once import Once
from edge.web.texts import Texts

GAUGE_US = 5 * US
MEAN_US = 300 * US
"""Over so long a stretch the rate of all streams is averaged: what is said of the days left must not jump."""


class LaidOut(Protocol):
    """An export as it will be: `edge.export.Laid` is one. `ticket`: empty until it has begun."""

    @property
    def archive(self) -> Archive: ...

    @property
    def missing(self) -> Sequence[str]: ...

    @property
    def ticket(self) -> str: ...


class PageExports(Protocol):
    """What the pages need of `edge.export.Exports`."""

    async def lay_told(self, session: str, by: str, *, full: bool = False, reason: str = "", pin: str = "") -> LaidOut: ...

    async def begin(self, laid: Any) -> LaidOut: ...

    async def hold(self, session: str, ticket: str) -> None: ...

    async def end(self, session: str, by: str, ticket: str, files: int, size: int) -> None: ...


class KeepingDesk(Protocol):
    """The keeper, as the pages and the local socket see it: plain dicts (`keeper.as_json`)."""

    async def shown(self, days: int) -> dict[str, Any]:
        """The report for the next `days`."""

    async def approve(self, digest: str, by: str, pin: str) -> int:
        """Agree to what is due, as it was shown. Refusal if it may not be."""


DemoLogin = tuple[str, str, str, str, str]
"""(staff_id, name, role, password, PIN) of the demo's invented staff."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The pages' surroundings. `stream_names`: stream id -> language -> name. `verify`: checks one session's evidence."""

    footage: Path
    run: Path
    room_name: str
    room_code: str
    stream_names: Mapping[str, Mapping[str, str]]
    logins: Logins
    verify: Callable[[str], Awaitable[Report]]
    exports: PageExports | None = None                      # None: nothing is handed out by the pages
    pace: Callable[[int], None] = field(default=lambda count: None, repr=False)
    demo_logins: tuple[DemoLogin, ...] = field(default=(), repr=False)
    allowed_hosts: tuple[str, ...] = ("127.0.0.1", "localhost", "::1")
    default_language: str = "zh-CN"
    keeping: KeepingDesk | None = None      # None: nobody keeps (some tests)


class Gauges:
    """Disk and clock for the device strip, looked at every 5 s at most: every open page asks each second, and a look writes to the disk."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._read: tuple[int, DiskReading, str] | None = None
        self._kbps, self._since_us = 0.0, 0

    def _fresh(self) -> tuple[int, DiskReading, str]:
        now, read = self._room.clock.now().boot_us, self._read
        if read is None or now - read[0] >= GAUGE_US:
            self._average(now, read[0] if read else None)
            read = self._read = (now, self._room.instruments.disk(), self._room.instruments.clock().state)
        return read

    def _average(self, now_us: int, before_us: int | None) -> None:
        kbps = self._room.instruments.kbps()
        if before_us is None:
            self._kbps, self._since_us = float(kbps), now_us
            return
        self._kbps += (kbps - self._kbps) * min(1.0, (now_us - before_us) / min(MEAN_US, now_us - self._since_us))

    def kbps(self) -> int:
        """What all streams together write, averaged over the last minutes."""
        self._fresh()
        return round(self._kbps)

    def disk(self) -> DiskReading:
        return self._fresh()[1]

    def clock_state(self) -> str:
        return self._fresh()[2]


@dataclass(frozen=True, slots=True)
class Web:
    """One room's pages: what handlers need."""

    room: Room
    desk: Desk
    texts: Texts
    once: Once
    gauges: Gauges
