"""Tells the platform how the room is: the newest state only, never queued, never behind anything else.

Runs as one task of the room. A failed heartbeat is not made up for; the next one is newer.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from edge.clock import US, Clock, iso_utc
from edge.upload.link import Link
from edge.upload.platform import PlatformClient, PlatformError, PlatformRefused

log = logging.getLogger(__name__)

_IN_SESSION = frozenset({"preflight", "checkin", "running", "closing", "sealing"})
_SKEW_MS = 5000
"""From here on a difference to the platform's clock is worth a warning (exam-platform contract: clock skew > 5 s is reported)."""
_FAILING_S = (5.0, 15.0)
"""While the line fails, so often does a heartbeat feel for it."""


class Heartbeat:
    """`snapshot` gives the room's part of the body (schema Heartbeat without room_code, seq and at); it must not block."""

    def __init__(self, client: PlatformClient, link: Link, snapshot: Callable[[], Mapping[str, Any]], clock: Clock, rng: random.Random,
                 *, idle_s: float = 60.0, session_s: float = 30.0) -> None:
        self._client = client
        self._link = link
        self._snapshot = snapshot
        self._clock = clock
        self._rng = rng
        self._idle_s = idle_s
        self._session_s = session_s
        self._seq = 0
        self._refused = False
        self.skew_ms: int | None = None
        """The platform's clock minus ours at the last answer (half the round trip taken off); None before the first."""

    async def run(self) -> None:
        """For ever. Leaves only with an error of `snapshot`."""
        while True:
            await self._clock.sleep(await self.step())

    async def step(self) -> float:
        """Send one. Returns the seconds until the next."""
        self._seq += 1
        sent = self._clock.now()
        facts = self._snapshot()
        body = {**facts, "room_code": self._client.room_code, "seq": self._seq, "at": iso_utc(sent.utc_us)}
        every_s = self._session_s if facts.get("state") in _IN_SESSION else self._idle_s
        try:
            reply = await self._client.heartbeat(body)
        except PlatformRefused as error:
            await self._link.answered()
            if not self._refused:
                log.warning("heartbeat_refused status=%d code=%s", error.status, error.code or "-")
            self._refused = True
        except PlatformError as error:
            await self._link.failed(error.reason)
            return min(every_s, self._rng.uniform(*_FAILING_S))
        else:
            self._refused = False
            await self._link.answered()
            if reply.server_utc_us is not None:
                back = self._clock.now()
                self._note_skew(reply.server_utc_us - (sent.utc_us + back.us_since(sent) // 2))
            if reply.interval_s is not None:
                every_s = min(max(reply.interval_s, 5), 300)
        return every_s * self._rng.uniform(0.9, 1.1)

    def _note_skew(self, skew_us: int) -> None:
        skew_ms = skew_us * 1000 // US
        was, now = abs(self.skew_ms or 0) > _SKEW_MS, abs(skew_ms) > _SKEW_MS
        self.skew_ms = skew_ms
        if now and not was:
            log.warning("clock_skew_to_platform ms=%d", skew_ms)
        elif was and not now:
            log.info("clock_skew_gone ms=%d", skew_ms)
