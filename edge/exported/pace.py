"""How fast an export may read: at full speed while nobody is examined, slowly while a session is live, not at all while a recorder waits.

A worker whose samples pile up in memory is waiting for the disk; whatever else reads there stands aside until it has caught up.
Caller: `export`; runs in the export's own thread, which is why it may sleep.
"""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_S = 0.2
"""How often the recorders are looked at: they can wait a minute (`recording.buffer_mb`)."""


class Pacer:
    """`behind`: some recorder waits for the disk. `live`: a session is going on; then `live_bytes_s` a second at most (0: no limit)."""

    def __init__(self, behind: Callable[[], bool], live: Callable[[], bool], live_bytes_s: int,
                 clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep) -> None:
        self._behind, self._live, self._live_bytes_s = behind, live, live_bytes_s
        self._clock, self._sleep = clock, sleep
        self._looked_at, self._is_live = float("-inf"), False
        self._free_at = clock()             # when what was read so far is paid for

    def __call__(self, count: int) -> None:
        """`count` bytes were read: return when the next may be."""
        now = self._clock()
        if now - self._looked_at >= LOOK_S:
            while self._behind():
                self._sleep(LOOK_S)
            self._is_live, self._looked_at = self._live(), self._clock()
        if not self._is_live or not self._live_bytes_s:
            return
        now = self._clock()
        self._free_at = max(self._free_at, now - LOOK_S) + count / self._live_bytes_s
        if self._free_at > now:
            self._sleep(self._free_at - now)
