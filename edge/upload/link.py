"""Whether the platform answers: one verdict from all that is sent to it, and how long to wait after a failure.

Assumes one `Link` per room, shared by courier, timetable and heartbeat: a success of any of them is the platform's sign of life,
and wakes those that rest. Reports PlatformLost and PlatformBack once each.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from edge.clock import US, Clock, Stamp
from edge.sessions.events import Event, PlatformBack, PlatformLost

log = logging.getLogger(__name__)

Report = Callable[[Event], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """For the status board. `failing`: the last call failed, for too short a time to be called lost. `since`: of this state."""

    state: Literal["unknown", "up", "failing", "lost"]
    reason: str
    since: Stamp
    last_answer: Stamp | None


class Link:
    """The line's state. `lost_after_s`: failures for so long, with no success between, make it lost (a hiccup is no fact)."""

    def __init__(self, report: Report, clock: Clock, *, lost: bool = False, lost_after_s: float = 5.0) -> None:
        """`lost`: what the journal last said, so that a restart reports the return of what was lost before it."""
        self._report = report
        self._clock = clock
        self._lost_after_us = round(lost_after_s * US)
        self._back: list[Callable[[bool], None]] = []
        self._turn = asyncio.Lock()
        self._failing_since: Stamp | None = None
        self.status = LinkStatus("lost" if lost else "unknown", "before-restart" if lost else "", clock.now(), None)

    def on_back(self, wake: Callable[[bool], None]) -> None:
        """Call `wake` whenever an answer comes after a failure; its argument says whether the line had been lost."""
        self._back.append(wake)

    async def answered(self) -> None:
        """The platform gave an answer, be it a refusal."""
        async with self._turn:
            before, now = self.status, self._clock.now()
            self._failing_since = None
            since = before.since if before.state == "up" else now
            self.status = LinkStatus("up", "", since, now)
            if before.state == "lost":
                log.info("platform_back after_s=%d", now.us_since(before.since) // US)
                await self._report(PlatformBack(at=now))
        if before.state in ("failing", "lost"):
            for wake in self._back:
                wake(before.state == "lost")

    async def failed(self, reason: str) -> None:
        """A call got no usable answer, or we were not let in."""
        async with self._turn:
            before, now = self.status, self._clock.now()
            if self._failing_since is None:
                self._failing_since = now
            if before.state == "lost":
                return
            if now.us_since(self._failing_since) < self._lost_after_us:
                if before.state != "failing":
                    log.info("platform_failing reason=%s", reason)
                since = before.since if before.state == "failing" else now
                self.status = LinkStatus("failing", reason, since, before.last_answer)
                return
            log.warning("platform_lost reason=%s", reason)
            self.status = LinkStatus("lost", reason, now, before.last_answer)
            await self._report(PlatformLost(at=now, reason=reason))


def backoff(attempts: int, base_s: float, cap_s: float, rng: random.Random) -> float:
    """Seconds to wait after `attempts` failures: full jitter, uniform in [0, min(cap, base * 2**attempts)].

    Source: M. Brooker, "Exponential Backoff And Jitter" (2015). No attempt count ends it; the exponent is bounded for the arithmetic only.
    """
    return rng.uniform(0.0, min(cap_s, base_s * 2.0 ** min(attempts, 40)))


async def pause(clock: Clock, seconds: float, woken: asyncio.Event) -> None:
    """Return after `seconds` of boot time or once `woken` is set, whichever comes first."""
    timer = asyncio.ensure_future(clock.sleep(seconds))
    wake = asyncio.ensure_future(woken.wait())
    try:
        await asyncio.wait((timer, wake), return_when=asyncio.FIRST_COMPLETED)
    finally:
        timer.cancel()
        wake.cancel()
