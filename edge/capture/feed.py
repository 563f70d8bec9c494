"""The reading half of a worker: a thread that opens the source, hands on what comes, and opens it again after a fault.

Nothing that it hands on is waited for, so a disk that stands still does not hold up the camera. Pauses after a fault grow from 1 to
10 s, with jitter, and shrink only after a run of a minute; a refused password waits 30 s and then ever longer, to 5 minutes, because
cameras lock out who insists. The source is closed (TEARDOWN) before it is opened again: never two connections. Called by worker.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import traceback
from pathlib import Path
from typing import Protocol

from edge.capture.streams import Piece, Source, SourceFault, Track

FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 10.0
FIRST_PATIENT_S, LAST_PATIENT_S = 30.0, 300.0
STABLE_S = 60.0

log = logging.getLogger(__name__)


class Taker(Protocol):
    """Who gets what the source gives. All calls come from the feed's thread."""

    def connecting(self) -> None:
        """The source is about to be opened."""

    def opened(self, opening: int, tracks: tuple[Track, ...]) -> None:
        """The source is open; samples with this number follow."""

    def take(self, opening: int, item: Piece | tuple[Track, ...]) -> bool:
        """A sample, or the tracks of those that follow. False: leave this opening."""

    def ended(self, opening: int, fault: SourceFault) -> None:
        """The source failed, in or before this opening; it is being opened again."""


class Pauses:
    """How long to wait after a fault. Each ladder doubles; a run of a minute begins it anew, a shorter one never does."""

    def __init__(self) -> None:
        self._next_s, self._patient_s = FIRST_PAUSE_S, FIRST_PATIENT_S

    def after(self, fault: SourceFault, ran_s: float) -> float:
        """Seconds, with a quarter of jitter either way, so that a room's streams do not come back as one."""
        if ran_s >= STABLE_S:
            self._next_s, self._patient_s = FIRST_PAUSE_S, FIRST_PATIENT_S
        if fault.patient:
            wait_s, self._patient_s = self._patient_s, min(LAST_PATIENT_S, self._patient_s * 2)
        else:
            wait_s, self._next_s = self._next_s, min(LAST_PAUSE_S, self._next_s * 2)
        return wait_s * random.uniform(0.75, 1.25)      # noqa: S311 (spreads the load, guards nothing)


class Feed:
    """Reads `source` into `taker` until stopped."""

    def __init__(self, source: Source, taker: Taker) -> None:
        self._source, self._taker = source, taker
        self._stop = threading.Event()
        self._opening = 0
        self.started = False
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self.started = True
        self._thread.start()

    def stop(self) -> None:
        """Leave after the next sample, for good."""
        self._stop.set()

    @property
    def alive(self) -> bool:
        """Whether the thread runs. It ends only when told, or by a defect."""
        return self._thread.is_alive()

    def join(self, seconds: float) -> bool:
        """Whether the thread is gone. One that hangs in a driver is not."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        pauses = Pauses()
        while not self._stop.is_set():
            self._taker.connecting()
            self._opening += 1
            fault, ran_s = self._one_opening()
            self._taker.ended(self._opening, fault)
            self._stop.wait(pauses.after(fault, ran_s))

    def _one_opening(self) -> tuple[SourceFault, float]:
        """Open, read to the end, close; why it ended, and how many seconds it gave samples."""
        began = time.monotonic()
        try:
            tracks = self._source.open()
            self._taker.opened(self._opening, tracks)
            began = time.monotonic()
            for item in self._source.pieces():
                if not self._taker.take(self._opening, item):
                    return SourceFault("camera-frozen", "frozen"), time.monotonic() - began
                if self._stop.is_set():
                    return SourceFault("stopped", "stopped"), 0
        except SourceFault as fault:
            return fault, time.monotonic() - began
        except Exception as error:          # a defect must not end the attempts; its text may hold an address with a password
            where = traceback.extract_tb(error.__traceback__)[-1]
            log.error("source failed error=%s at=%s:%s", type(error).__name__, Path(where.filename).name, where.lineno)
            return SourceFault("camera-lost", "source-failed"), time.monotonic() - began
        finally:
            self._source.close()
        return SourceFault("camera-lost", "connection-closed"), time.monotonic() - began
