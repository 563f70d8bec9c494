"""The reading half of a worker: a thread that opens the source, hands on what comes, and opens it again after a fault.

Between it and the writing half stands a queue of bounded length: a disk that stalls for half a minute costs nothing, and when
the queue is full the camera is held up by TCP, never thinned out silently. Pauses after a fault grow from 1 to 10 s, with jitter,
and shrink only after a run of a minute; a refused password waits 30 s, because cameras lock out who insists. Called by worker.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge.capture.streams import Piece, Source, SourceFault, Track

QUEUE_PIECES = 4000
"""About 50 s of a camera with sound; 25 MB at 4 Mbit/s."""
FIRST_PAUSE_S, LAST_PAUSE_S, PATIENT_PAUSE_S = 1.0, 10.0, 30.0
STABLE_S = 60.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """The source is open; pieces of this opening follow."""

    opening: int
    tracks: tuple[Track, ...]
    repairs: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Ended:
    """The source failed, in or before its opening; it is being opened again."""

    opening: int
    end_reason: str
    reason: str


@dataclass(frozen=True, slots=True)
class Connecting:
    """The source is about to be opened."""


Item = tuple[int, Piece] | Opened | Ended | Connecting


class Feed:
    """`items` is the queue; pieces come with the number of their opening."""

    def __init__(self, source: Source) -> None:
        self.items: queue.Queue[Item] = queue.Queue(QUEUE_PIECES)
        self._source = source
        self._stop = threading.Event()
        self._opening = self._abandoned = 0
        self.started = False
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self.started = True
        self._thread.start()

    def abandon(self, opening: int) -> None:
        """Leave this opening after its next piece, for it stands still."""
        self._abandoned = max(self._abandoned, opening)

    def stop(self) -> None:
        """Leave after the next piece, for good."""
        self._stop.set()

    def join(self, seconds: float) -> bool:
        """Whether the thread is gone. One that hangs in a driver is not."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._stop.is_set():
            self._put(Connecting())
            self._opening += 1
            began = time.monotonic()
            fault = self._one_opening()
            self._put(Ended(self._opening, fault.end_reason, fault.reason))
            if time.monotonic() - began >= STABLE_S:
                pause = FIRST_PAUSE_S
            wait = PATIENT_PAUSE_S if fault.patient else pause
            self._stop.wait(wait * random.uniform(0.75, 1.25))          # noqa: S311 (spreads the load, guards nothing)
            pause = min(LAST_PAUSE_S, pause * 2)

    def _one_opening(self) -> SourceFault:
        """Open, read to the end, close; why it ended."""
        try:
            tracks = self._source.open()
            self._put(Opened(self._opening, tracks, lambda: self._source.repairs))
            for piece in self._source.pieces():
                self._put((self._opening, piece))
                if self._stop.is_set():
                    return SourceFault("stopped", "stopped")
                if self._abandoned >= self._opening:
                    return SourceFault("camera-frozen", "frozen")
        except SourceFault as fault:
            return fault
        except Exception as error:          # a defect must not end the attempts; its text may hold an address with a password
            where = traceback.extract_tb(error.__traceback__)[-1]
            log.error("source failed error=%s at=%s:%s", type(error).__name__, Path(where.filename).name, where.lineno)
            return SourceFault("camera-lost", "source-failed")
        finally:
            self._source.close()
        return SourceFault("camera-lost", "connection-closed")

    def _put(self, item: Item) -> None:
        while True:
            try:
                self.items.put(item, timeout=0.5)
                return
            except queue.Full:
                if self._stop.is_set():
                    return
