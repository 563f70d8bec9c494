"""The room's side of the footage folder: new sidecars become calls, silent streams, alarms and playback probes become facts.

At start it reads the folder; on a change it reads the folder: one path. Polled, because a missed change notice would be a lost
segment. Loads neither PyAV nor OpenCV nor NumPy. `on_segment` must bear to see a segment twice (after a crash between its
commit and the next look at `last_seq`). A segment waits a moment for the watcher's note, which says how loud it is.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from edge.capture.control import StreamStatus, WatchStatus, read_status, read_watch
from edge.capture.sidecar import Sidecar, from_json
from edge.capture.watchnote import Probe, WatchNote, note_path
from edge.clock import US, Clock, Stamp
from edge.sessions.events import Event, PlaybackProbed, StreamBack, StreamImpaired, StreamLost, StreamRestored
from edge.sessions.preflight import NOT_WATCHED

POLL_S = 0.5
HOT_DAYS = 3
"""Day folders looked into at each poll: those that changed last. A clock that was set back may write into an older one …"""
SWEEP_EVERY = 60
"""… so every so many polls all are looked into."""

NOTE_WAIT_S = 3.0
"""The watcher is done with a segment about a second after its sidecar lies there."""
EVIDENCE_OLD = timedelta(minutes=11)
"""No segment is longer: a picture beside an older one belongs to an earlier alarm."""
SPOKEN_US = 5 * US
"""A watcher that rewrites its status each second and has not for so long is none."""

log = logging.getLogger(__name__)


def believed(status: WatchStatus | None, now: Stamp) -> WatchStatus | None:
    """The watcher's word, if it is of this boot and not old."""
    if status is None or status.boot_id != now.boot_id or now.boot_us - status.updated_boot_us > SPOKEN_US:
        return None
    return status


OnSegment = Callable[[Sidecar, str, str], Awaitable[None]]


class Intake:
    """`refused`: what could not be taken in, path below the footage folder -> why. It is told once and never stops the rest."""

    def __init__(self, footage: Path, streams: Sequence[str], on_segment: OnSegment, last_seq: Callable[[str], int], clock: Clock,
                 run_dir: Path, note_wait_s: float = NOTE_WAIT_S) -> None:
        """`on_segment(sidecar, path of the .mp4 below the footage folder, SHA-256 of the sidecar's bytes)`; `last_seq`: -1 = none yet.

        `note_wait_s`: how long a segment waits for its note while the watcher (its status is in `run_dir`) watches the stream.
        """
        self._footage, self._streams, self._on_segment, self._last_seq, self._clock = footage, streams, on_segment, last_seq, clock
        self._run_dir, self._note_wait_us = run_dir, round(note_wait_s * US)
        self._seen: dict[Path, int] = {}        # sidecar that waits for its note -> boot time at which it was first seen
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
        if sweep:               # years are ten million names: the pages do not wait for them
            read, new = await asyncio.to_thread(self._names, stream, sweep, reached)
        else:
            read, new = self._names(stream, sweep, reached)
        now = self._clock.now()
        for path in new:
            self._seen.setdefault(path, now.boot_us)
        count, held = 0, False
        for path in sorted(new, key=lambda path: path.name):
            sidecar_and_digest = self._read(stream, path)
            if sidecar_and_digest is not None:
                sidecar, digest = sidecar_and_digest
                if held := self._waits(sidecar, path, now):
                    break                       # what comes behind it waits too: a stream's segments keep their order
                await self._on_segment(self._heard(sidecar, path), str(path.with_suffix(".mp4").relative_to(self._footage)), digest)
                count += 1
            self._seen.pop(path, None)
            self._reached[stream] = int(path.name[:10])
        for day, changed in read.items():
            if self._read_at.get(day) == changed and not held:
                self._settled[day] = changed
            self._read_at[day] = changed
        return count

    def _names(self, stream: str, sweep: bool, reached: int) -> tuple[dict[Path, int], list[Path]]:
        """Day folders to look into, each with its time, and the sidecars in them that are newer than number `reached`."""
        read, new = {}, []
        for day, changed in self._changed_days(self._footage / stream, sweep):
            read[day] = changed
            new += [day / name for name in _sidecars(day, reached)]
        return read, new

    def _waits(self, sidecar: Sidecar, path: Path, now: Stamp) -> bool:
        """Whether a note may still come. Nobody waits for one of a segment that a crash left, or while nobody watches."""
        known = sidecar.audio_peak_cdb is not None or note_path(path).exists()
        if sidecar.recovered or known or now.boot_us - self._seen[path] >= self._note_wait_us:
            return False
        return believed(read_watch(self._run_dir, sidecar.stream), now) is not None

    def _heard(self, sidecar: Sidecar, path: Path) -> Sidecar:
        """The sidecar with what the note says of its sound; as it is if there is no note."""
        try:
            note = WatchNote.from_json(note_path(path).read_bytes())
            if (note.stream, note.seq, note.sha256) != (sidecar.stream, sidecar.seq, sidecar.sha256):
                raise ValueError("it speaks of another segment")
        except FileNotFoundError:
            return sidecar
        except (OSError, ValueError) as error:
            log.warning("watch note passed over stream=%s seq=%d reason=%s", sidecar.stream, sidecar.seq, error)
            return sidecar
        return dataclasses.replace(sidecar, audio_peak_cdb=note.audio_peak_cdb, silent_ms=note.silent_ms)

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


def _sidecars(day: Path, reached: int) -> list[str]:
    after = f"{reached:010d}" if reached >= 0 else ""
    with suppress(FileNotFoundError):
        return [n for n in os.listdir(day)     # noqa: PTH208 (texts, not paths: there are millions)
                if n[:10] > after and n.endswith("Z.json") and n[:10].isascii() and n[:10].isdecimal()]
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


class AlarmWatch:
    """Compares what the watcher says with what the journal says, once a second; the difference becomes facts, once each.

    `standing(stream)`: the rules that the stream breaks by the journal; `probed(stream)`: day of its newest playback probe there ("" =
    none). So a restart repeats nothing. A watcher that is silent for `silent_after_s` is itself an impairment (`not-watched`) of each
    stream; what it raised before stands until it speaks again.
    """

    def __init__(self, footage: Path, run_dir: Path, streams: Sequence[str], standing: Callable[[str], Collection[str]],
                 probed: Callable[[str], str], report: Callable[[Event], Awaitable[None]], clock: Clock,
                 silent_after_s: float = 10) -> None:
        self._footage, self._run_dir, self._streams = footage, run_dir, streams
        self._standing, self._probed, self._report, self._clock = standing, probed, report, clock
        self._silent_after_us = round(silent_after_s * US)
        self._spoke_us = dict.fromkeys(streams, clock.now().boot_us)
        self._looked_at: dict[str, int] = {}    # stream -> mtime (ns) of its probes folder when last read

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            await self.look()
            await self._clock.sleep(1)

    async def look(self) -> None:
        """One pass."""
        for stream in self._streams:
            await self._compare(stream)
            await self._look_for_probe(stream)

    async def _compare(self, stream: str) -> None:
        now, standing = self._clock.now(), set(self._standing(stream))
        status = believed(read_watch(self._run_dir, stream), now)
        if status is None:
            if now.boot_us - self._spoke_us[stream] > self._silent_after_us and NOT_WATCHED not in standing:
                log.warning("not-watched stream=%s what=the recording goes on, nobody looks at it", stream)
                await self._report(StreamImpaired(at=now, stream=stream, rule=NOT_WATCHED, rules="", since_utc_us=now.utc_us))
            return
        self._spoke_us[stream] = status.updated_boot_us
        for rule in sorted(standing - set(status.alarms)):
            log.info("restored stream=%s rule=%s", stream, rule)
            await self._report(StreamRestored(at=now, stream=stream, rule=rule))
        for rule in sorted(set(status.alarms) - standing):
            log.warning("impaired stream=%s rule=%s", stream, rule)
            evidence, digest = self._evidence(status, rule)
            await self._report(StreamImpaired(at=now, stream=stream, rule=rule, rules=status.rules, since_utc_us=status.alarms[rule],
                                              evidence=evidence, evidence_sha256=digest))

    def _evidence(self, status: WatchStatus, rule: str) -> tuple[str | None, str | None]:
        """The picture on which the alarm was raised: beside the segment that had begun last by then. (None, None) if there is none."""
        raised = datetime.fromtimestamp(status.alarms[rule] / US, UTC)
        for day in (raised, raised - timedelta(days=1)):
            found = (self._footage / status.stream / f"{day:%Y/%m/%d}").glob(f"*Z.{rule}.jpg")
            names = [path for path in found if f"{raised - EVIDENCE_OLD:%Y%m%dT%H%M%SZ}" <= path.name[11:27] <= f"{raised:%Y%m%dT%H%M%SZ}"]
            with suppress(OSError, ValueError):
                path = max(names)
                return str(path.relative_to(self._footage)), hashlib.sha256(path.read_bytes()).hexdigest()
        return None, None

    async def _look_for_probe(self, stream: str) -> None:
        """The newest day's probe, if the journal does not have it yet. One that cannot be read is told once, and passed over."""
        folder = self._footage / stream / "probes"
        try:
            changed = folder.stat().st_mtime_ns
            if self._looked_at.get(stream) == changed:
                return
            path = max(folder.glob("[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].json"))
            self._looked_at[stream] = changed
            if path.stem <= self._probed(stream):
                return
            probe = Probe.from_json(path.read_bytes())
            if (probe.stream, probe.date) != (stream, path.stem):
                raise ValueError("it speaks of another stream or day")
        except (OSError, ValueError) as error:          # ValueError: also that there is none
            if not isinstance(error, FileNotFoundError):
                log.warning("playback probe passed over stream=%s reason=%s", stream, error)
            return
        reason = next((window.reason for window in probe.windows if not window.ok), None)
        await self._report(PlaybackProbed(at=self._clock.now(), stream=stream, day=probe.date, ok=probe.ok, windows=len(probe.windows),
                                          reason=reason))
