"""The room's side of the footage folder: new sidecars become calls, silent streams become StreamLost and StreamBack.

At start it reads the folder; on a change it reads the folder: one path. Polled, because a missed change notice would be a lost
segment. Loads neither PyAV nor OpenCV nor NumPy. `on_segment` must bear to see a segment twice (after a crash between its
commit and the next look at `last_seq`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path

from edge.capture.control import StreamStatus, read_status
from edge.capture.sidecar import Sidecar, from_json
from edge.clock import US, Clock
from edge.sessions.events import Event, StreamBack, StreamLost

POLL_S = 0.5
HOT_DAYS = 3
"""Day folders looked into at each poll: those that changed last. A clock that was set back may write into an older one …"""
SWEEP_EVERY = 60
"""… so every so many polls all are looked into."""

log = logging.getLogger(__name__)

OnSegment = Callable[[Sidecar, str, str], Awaitable[None]]


class Intake:
    """`refused`: what could not be taken in, path below the footage folder -> why. It is told once and never stops the rest."""

    def __init__(self, footage: Path, streams: Sequence[str], on_segment: OnSegment, last_seq: Callable[[str], int], clock: Clock) -> None:
        """`on_segment(sidecar, path of the .mp4 below the footage folder, SHA-256 of the sidecar's bytes)`; `last_seq`: -1 = none yet."""
        self._footage, self._streams, self._on_segment, self._last_seq, self._clock = footage, streams, on_segment, last_seq, clock
        self.refused: dict[str, str] = {}
        self._polls = 0
        self._read_at: dict[Path, int] = {}     # day folder -> its mtime (ns) when last read to the end
        self._settled: dict[Path, int] = {}     # … when read twice: two changes within one tick of the file system look like one
        self._reached: dict[str, int] = {}      # stream -> the highest number delivered or refused

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await self.look()
            await self._clock.sleep(POLL_S)

    async def look(self) -> int:
        """One pass over all streams; how many segments were delivered. What `on_segment` raises leaves here; the next look repeats it."""
        sweep = self._polls % SWEEP_EVERY == 0
        self._polls += 1
        return sum([await self._look_at(stream, sweep) for stream in self._streams])

    async def _look_at(self, stream: str, sweep: bool) -> int:
        reached = max(self._last_seq(stream), self._reached.get(stream, -1))
        read: dict[Path, int] = {}
        new: list[Path] = []
        for day, changed in self._changed_days(self._footage / stream, sweep):
            read[day] = changed
            new += [day / name for name in _sidecars(day) if int(name[:10]) > reached]
        count = 0
        for path in sorted(new, key=lambda path: path.name):
            sidecar_and_digest = self._read(stream, path)
            if sidecar_and_digest is not None:
                sidecar, digest = sidecar_and_digest
                await self._on_segment(sidecar, str(path.with_suffix(".mp4").relative_to(self._footage)), digest)
                count += 1
            self._reached[stream] = int(path.name[:10])
        for day, changed in read.items():
            if self._read_at.get(day) == changed:
                self._settled[day] = changed
            self._read_at[day] = changed
        return count

    def _changed_days(self, folder: Path, sweep: bool) -> list[tuple[Path, int]]:
        """Day folders whose names changed since they were read. The time is taken before reading: a change in between shows again."""
        days = []
        for day in folder.glob("[0-9][0-9][0-9][0-9]/[0-9][0-9]/[0-9][0-9]") if sweep else self._hot(folder):
            with suppress(FileNotFoundError, NotADirectoryError):
                days.append((day, day.stat().st_mtime_ns))
        return [(day, changed) for day, changed in days if self._settled.get(day) != changed]

    def _hot(self, folder: Path) -> list[Path]:
        known = sorted((d for d in self._read_at if d.parents[2] == folder), key=lambda d: self._read_at[d], reverse=True)[:HOT_DAYS]
        newest = folder
        for _ in range(3):              # the newest year, month and day by name: today's, also just after midnight
            inner = sorted((p for p in newest.iterdir() if p.name.isdecimal()), reverse=True)[:1] if newest.is_dir() else []
            if not inner:
                return known
            newest = inner[0]
        return [*known, newest] if newest not in known else known

    def _read(self, stream: str, path: Path) -> tuple[Sidecar, str] | None:
        relative = str(path.relative_to(self._footage))
        try:
            data = path.read_bytes()
            sidecar = from_json(data)
            if (sidecar.stream, sidecar.seq) != (stream, int(path.name[:10])):
                raise ValueError("it speaks of another segment")
            if path.with_suffix(".mp4").stat().st_size != sidecar.bytes:
                raise ValueError("its .mp4 has another size")
        except (OSError, ValueError) as error:
            why = str(error) if isinstance(error, ValueError) else f"cannot be read ({type(error).__name__})"
            self.refused[relative] = why
            log.error("sidecar refused path=%s reason=%s", relative, why)
            return None
        return sidecar, hashlib.sha256(data).hexdigest()


def _sidecars(day: Path) -> list[str]:
    with suppress(FileNotFoundError):
        return [n for n in (p.name for p in day.iterdir()) if n.endswith("Z.json") and n[:10].isascii() and n[:10].isdecimal()]
    return []


class StreamWatch:
    """Reads the status files once a second; reports a stream that puts nothing on the disk, and one that does again, once each."""

    def __init__(self, run_dir: Path, streams: Sequence[str], report: Callable[[Event], Awaitable[None]], clock: Clock,
                 lost_after_s: float = 5) -> None:
        self._run_dir, self._streams, self._report, self._clock = run_dir, streams, report, clock
        self._lost_after_us = round(lost_after_s * US)
        self._lost: set[str] = set()
        self._well_us = dict.fromkeys(streams, clock.now().boot_us)      # when each was last known to be well

    @property
    def lost(self) -> frozenset[str]:
        """The streams that are lost now."""
        return frozenset(self._lost)

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await self.look()
            await self._clock.sleep(1)

    async def look(self) -> None:
        """One pass."""
        for stream in self._streams:
            now = self._clock.now()
            status = read_status(self._run_dir, stream)
            if status is not None and status.boot_id != now.boot_id:
                status = None
            if status is not None and status.state == "resting":
                self._well_us[stream] = now.boot_us
                continue
            if status is not None:
                self._well_us[stream] = max(self._well_us[stream], status.last_sample_boot_us)
            if now.boot_us - self._well_us[stream] > self._lost_after_us:
                if stream not in self._lost:
                    self._lost.add(stream)
                    await self._report(StreamLost(at=now, stream=stream, reason=self._why(status, now.boot_us)))
            elif stream in self._lost and status is not None and status.state == "recording":
                self._lost.discard(stream)
                await self._report(StreamBack(at=now, stream=stream))

    def _why(self, status: StreamStatus | None, now_us: int) -> str:
        if status is None:
            return "no-recorder"
        if now_us - status.updated_boot_us > self._lost_after_us:
            return "worker-gone"
        return status.reason or status.state
