"""The half of a worker that alone touches the disk: a thread that takes whole parts of files and writes, hashes, syncs, seals.

The half that reads the camera never waits for it: what it hands over waits in memory, so a disk that stands still for half a minute
costs nothing. When more than `limit` bytes wait, or the disk is full, the thread refuses: the file so far is sealed with that reason,
what comes meanwhile is counted by the caller, and a new run begins when there is room again. So a hole always has its reason in the
sidecar before it. Any other disk error ends the thread (`failed`): the worker leaves and its successor recovers.
The thread's first act is the recovery of what a crash left; the camera is read meanwhile. Called by worker and rolling.
"""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edge.capture import boxes
from edge.capture.recovery import recover, recover_rest
from edge.capture.segments import End, SegmentFile, is_disk_full, numbered, publish
from edge.capture.sidecar import Opening, Sidecar
from edge.clock import Clock

RETRY_S = 2.0
TRIM_S = 60.0
FULL, STALLED = "disk-full", "disk-stalled"
PLAIN_ENDS = ("rotated", "cut", "format-changed")
"""The next file follows at once. The sidecar waits for its first fragment: if the disk does not take that, the gap has its reason here."""

log = logging.getLogger(__name__)

Job = tuple[int, Callable[[], None]]
"""Bytes that wait with it, and what is to be done."""


class Disk:
    """One stream's folder. `open`, `write`, `seal`, `close` return at once; the other names tell what is on the disk by now."""

    def __init__(self, folder: Path, clock: Clock, limit_bytes: int) -> None:
        self._folder, self._clock, self._limit = folder, clock, limit_bytes
        self._jobs: deque[Job] = deque()
        self._news = threading.Condition()
        self._closing = False
        self._file: SegmentFile | None = None
        self._owed: list[tuple[Path, Sidecar]] = []         # sealed files whose sidecars are not written yet
        self._retry_s = self._trimmed_s = 0.0
        self._told = False
        self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
        self.refused_for = ""           # why it last refused
        self._left: list[Path] = []     # what a crash left and a full disk has not let recover yet
        self.refusing = ""              # why nothing is taken at present: FULL, STALLED
        self.refusals = 0               # how often it began to refuse: a run that is older has ended
        self.failed: OSError | None = None
        self.waiting_bytes = 0
        self.seq = 0                    # of the next new segment
        self.run, self.run_bytes, self.run_frames = "", 0, 0     # of the run that is being written: what is on the disk
        self.segments = 0               # sealed
        self.newest_boot_us = self.newest_utc_us = self.newest_sound_boot_us = 0    # when the newest samples on the disk arrived

    def start(self) -> None:
        """Recover, then write what is handed over."""
        self._thread.start()

    # ---- for the thread that reads the camera ----

    def open(self, opening: Opening, header: bytes, tracks: dict[int, boxes.TrackHeader]) -> None:
        """A new segment, whose number is given when its file is made. Parts of it follow."""
        self._hand(len(header), lambda: self._open(opening, header, tracks))

    def write(self, fragment: bytes, times: boxes.FragmentTimes | None, arrived_us: int, sound: bool) -> None:
        """A whole fragment of the open segment. `arrived_us`: boot time of its newest sample; `sound`: sound is in it."""
        if self.waiting_bytes + len(fragment) > self._limit and self._refuse(STALLED):
            log.warning("disk stands still stream=%s waiting_bytes=%d what=recording paused, footage so far is safe", self._folder.name,
                        self.waiting_bytes)
            self._hand(0, self._after_stall)
        if not self.refusing:
            self._hand(len(fragment), lambda: self._write(fragment, times, arrived_us, sound))

    def seal(self, end: End) -> None:
        """The open segment is over."""
        self._hand(0, lambda: self._seal(end))

    def close(self) -> None:
        """Nothing more comes: finish what waits and leave."""
        with self._news:
            self._closing = True
            self._news.notify()

    def join(self, seconds: float | None = None) -> bool:
        """Whether the thread is done. One that hangs in the disk is not."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _hand(self, size: int, job: Callable[[], None]) -> None:
        with self._news:
            self._jobs.append((size, job))
            self.waiting_bytes += size
            self._news.notify()

    def _refuse(self, why: str) -> bool:
        """Begin to refuse; a stall is nothing beside a full disk. Whether this is news."""
        with self._news:
            if self.refusing in (why, FULL):
                return False
            self.refusing, self.refused_for, self.refusals = why, why, self.refusals + 1
            return True

    # ---- the thread ----

    def _run(self) -> None:
        try:
            self.seq = recover(self._folder, self._left)
            while (job := self._next()) is not None:
                job[1]()
                with self._news:
                    self.waiting_bytes -= job[0]
            self._publish()
        except OSError as error:
            self.failed = error
        except Exception as error:                      # a defect: the worker must not go on as if it recorded
            log.exception("disk thread failed stream=%s", self._folder.name)
            self.failed = OSError(0, type(error).__name__)

    def _next(self) -> Job | None:
        """The next job; while the disk is full, every other second a try whether it still is. None: all done."""
        while True:
            with self._news:
                if not self._jobs and not self._closing:
                    self._news.wait(RETRY_S / 4 if self.refusing == FULL else None)
                job = self._jobs.popleft() if self._jobs else None
                done = job is None and self._closing
            if self.refusing == FULL and (done or time.monotonic() >= self._retry_s):
                self._try_again()
            if job is not None or done:
                return job

    def _open(self, opening: Opening, header: bytes, tracks: dict[int, boxes.TrackHeader]) -> None:
        if self.refusing == FULL:
            return
        try:
            self._file = SegmentFile(self._folder, numbered(opening, self.seq), header, tracks)
        except OSError as error:
            self._wait_for_space(error)
            return
        self.seq += 1
        if opening.run != self.run:
            self.run, self.run_bytes, self.run_frames = opening.run, 0, 0
            self._trimmed_s = -TRIM_S       # what the opening of the camera took is free by the run's first fragment
        self.run_bytes += len(header)

    def _write(self, fragment: bytes, times: boxes.FragmentTimes | None, arrived_us: int, sound: bool) -> None:
        if self._file is None:          # of a run that a full disk has ended
            return
        try:
            self._file.write(fragment, times)
        except OSError as error:
            self._wait_for_space(error)
            return
        self._told = False
        self.run_bytes += len(fragment)
        self.run_frames += times.samples if times else 0
        now = self._clock.now()
        if times is not None:
            self.newest_boot_us, self.newest_utc_us = arrived_us, now.utc_us - (now.boot_us - arrived_us)
        if sound:
            self.newest_sound_boot_us = arrived_us
        self._publish()                         # of the file before: this one follows it, so it ended as it says

    def _seal(self, end: End) -> None:
        file, self._file = self._file, None
        sidecar = file.seal(end) if file is not None else None
        if file is not None and sidecar is not None:
            self._owed.append((file.path, sidecar))
        elif file is not None:
            self.seq = file.opening.seq             # nothing came of it: the number is free again
        if end.reason not in PLAIN_ENDS:
            self._blame(end.reason)
            self._publish()

    def _publish(self) -> None:
        """Write the sidecars that are owed."""
        try:
            while self._owed:
                path, sidecar = self._owed[0]
                publish(path, sidecar)
                del self._owed[0]
                self.segments += 1
                log.info("segment sealed stream=%s seq=%d end=%s frames=%d dropped=%d", sidecar.stream, sidecar.seq, sidecar.end_reason,
                         sidecar.frames, sidecar.dropped)
            if time.monotonic() - self._trimmed_s >= TRIM_S:
                self._trimmed_s = time.monotonic()
                _give_back_memory()
        except OSError as error:
            self._wait_for_space(error)

    def _blame(self, why: str) -> None:
        """The last file ended as it should, and nothing follows: its sidecar says why."""
        if why and self._owed and self._owed[-1][1].end_reason in PLAIN_ENDS:
            path, sidecar = self._owed[-1]
            self._owed[-1] = (path, replace(sidecar, end_reason=why))

    def _after_stall(self) -> None:
        """All that fitted is written: the file ends here, and a new run may begin."""
        self._seal(End(None, None, STALLED, 0))
        if self.refusing == STALLED:
            self.refusing = ""
            log.info("disk goes on stream=%s", self._folder.name)

    def _wait_for_space(self, error: OSError) -> None:
        """Seal what is whole and refuse until there is room. Raises what waiting does not mend."""
        if not is_disk_full(error):
            raise error
        if not self._told:
            self._told = True
            log.warning("disk full stream=%s what=recording paused, footage so far is safe; retry_s=%g", self._folder.name, RETRY_S)
        self._refuse(FULL)
        self._retry_s = time.monotonic() + RETRY_S
        if self._file is not None:
            self._seal(End(None, None, FULL, 0))
        else:
            self._blame(FULL)

    def _try_again(self) -> None:
        """Is there space again? First the sidecars still owed are written."""
        self._retry_s = time.monotonic() + RETRY_S
        self.refusing = ""
        self._publish()             # refuses again if there is no room yet
        left, self._left = self._left, []
        if not self.refusing:
            recover_rest(self._folder, left, self._left)


def _give_back_memory() -> None:
    """Let glibc return what freed fragments left behind: once a minute is cheap, and without it a worker grows by 10 MB in an hour."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
