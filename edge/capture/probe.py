"""The daily playback probe: three stretches of ten seconds of each stream's last day, read from the disk and decoded to the last sample.

That footage can be played is shown only by playing it. A probe runs in a process of its own, at low priority, one stream at a time: what
makes a decoder crash must not end the watching. Its result is a note of the day in the stream's folder (watchnote.Probe), made once.
Called by watch (the daily ones) and by `edge watch --probe` (which is what the daily ones start, and runs by hand).
"""

from __future__ import annotations

import io
import logging
import os
import random
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import av

from edge import durable
from edge.capture import boxes
from edge.capture.segments import day_folder, parse_stem
from edge.capture.sidecar import Fragment, from_json
from edge.capture.watchnote import Probe, ProbeWindow, probe_path
from edge.clock import US, Clock

WINDOWS = 3
WINDOW_US = 10 * US
DAY_US = 86_400 * US
FIRST_LOOK_US = 120 * US
"""After the watcher's start: a room that has just started has better things to do."""
LOOK_EVERY_US = 60 * US
AGAIN_US = 3600 * US
"""When there was nothing to play back, or the probe could not be started."""
LONGEST_US = 600 * US
NICE = 10
NOTHING = 4
"""Exit code of a probe that found no sealed footage of the last day."""

log = logging.getLogger(__name__)


def date_of(utc_us: int) -> str:
    """The UTC day of a moment, `YYYY-MM-DD`."""
    return f"{datetime.fromtimestamp(utc_us // US, UTC):%Y-%m-%d}"


def probe(folder: Path, date: str, utc_us: int, seed: str) -> Probe | None:
    """Play back what is drawn by `seed` from the stream folder's sealed segments of the 24 h before `utc_us`. None: there are none.

    `date`: the day that the probe is for. Nothing is written.
    """
    segments = _segments(folder, utc_us)
    if not segments:
        return None
    dice = random.Random(seed)      # noqa: S311 (a sample, not a secret; the seed makes it repeatable)
    windows = tuple(window for path in sorted(dice.choices(segments, k=WINDOWS)) if (window := play(path, dice)) is not None)
    if not windows:
        return None
    return Probe(folder.name, date, utc_us, windows, all(window.ok for window in windows))


def _segments(folder: Path, utc_us: int) -> list[Path]:
    """Segments with a sidecar that began in the last 24 h, by their names."""
    found = []
    for day in {day_folder(folder, utc_us), day_folder(folder, utc_us - DAY_US)}:
        with suppress(FileNotFoundError):
            for path in day.iterdir():
                named = parse_stem(path.stem) if path.suffix == ".json" else None
                if named and utc_us - DAY_US <= named[1] <= utc_us:
                    found.append(path.with_suffix(".mp4"))
    return sorted(found)


def play(path: Path, dice: random.Random) -> ProbeWindow | None:
    """Play one window of a sealed segment, at a key frame that `dice` choose. Whatever is wrong with it is in the answer.

    None: the segment was deleted as a whole meanwhile, as idle footage is after its time.
    """
    seq = int(path.name[:10])
    try:
        sidecar = from_json(path.with_suffix(".json").read_bytes())
        window = choose(sidecar.fragments, dice)
        begin, dur_us = window[0].start_us - sidecar.media_start_us, sum(f.dur_us for f in window)
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)       # from the disk, not from memory
            header = file.read(sidecar.header_bytes)
            file.seek(window[0].offset)
            data = file.read(sum(f.length for f in window))
        digest = durable.sha256_file(path)
    except FileNotFoundError:
        return None if not path.with_suffix(".json").exists() else ProbeWindow(seq, 0, 0, 0, False, "missing")
    except (OSError, ValueError):
        return ProbeWindow(seq, 0, 0, 0, False, "unreadable")
    frames, reason = _decode(header, data, window)
    reason = "digest" if digest != sidecar.sha256 else reason
    return ProbeWindow(seq, max(0, begin), dur_us, frames, not reason, reason)


def choose(fragments: Sequence[Fragment], dice: random.Random) -> Sequence[Fragment]:
    """Fragments that begin with a key frame and last WINDOW_US, or all to the end where fewer are left."""
    end_us = fragments[-1].start_us + fragments[-1].dur_us
    starts = [n for n, f in enumerate(fragments) if f.key] or [0]
    first = dice.choice([n for n in starts if end_us - fragments[n].start_us >= WINDOW_US] or starts[:1])
    last = next((n for n in range(first, len(fragments))
                 if fragments[n].start_us + fragments[n].dur_us - fragments[first].start_us >= WINDOW_US), len(fragments) - 1)
    return fragments[first:last + 1]


def _decode(header: bytes, data: bytes, window: Sequence[Fragment]) -> tuple[int, str]:
    """(leading track's frames decoded, reason it is not well or "")."""
    try:
        promised = _promised(header, data, window)
        decoded = _count(header + data)
    except boxes.BoxError:
        return 0, "unreadable"
    except (av.error.FFmpegError, ValueError, RuntimeError):
        return 0, "undecodable"
    lead = "video" if "video" in promised else "audio"
    frames = decoded.get(lead, 0)
    if "video" in promised and decoded.get("video", 0) != promised["video"]:
        return frames, "frames-missing"
    if "audio" in promised and decoded.get("audio", 0) < promised["audio"] - 1:       # a decoder may keep its first packet to itself
        return frames, "sound-missing"
    return frames, ""


def _promised(header: bytes, data: bytes, window: Sequence[Fragment]) -> dict[str, int]:
    """Kind of track -> samples that the window's fragments name. BoxError if they are not where the index says.

    Pictures shown before the window's key frame, though they lie behind it, lean on pictures before the window: they do not count.
    """
    tracks = boxes.read_header(header)
    promised: dict[str, int] = {}
    first_us: int | None = None
    for at, end in pairwise([f.offset - window[0].offset for f in window] + [len(data)]):
        (kind, inside, stop), *_ = [*boxes.boxes(data, at, end)] or [(b"", 0, 0)]
        if kind != b"moof":
            raise boxes.BoxError("no fragment where the index says")
        for number, samples in boxes.read_samples(data[inside - 8:stop], tracks).items():
            kind_of = tracks[number].kind
            if kind_of == "video":
                first_us = samples[0].media_us if first_us is None and samples else first_us
                samples = [sample for sample in samples if sample.media_us >= (first_us or 0)]
            promised[kind_of] = promised.get(kind_of, 0) + len(samples)
    return promised


def _count(film: bytes) -> dict[str, int]:
    """Kind of track -> frames that came out of the decoders. FFmpegError or ValueError at the first that is damaged."""
    decoded: dict[str, int] = {}
    first: dict[int, int] = {}
    with av.open(io.BytesIO(film), "r") as container:
        for stream in container.streams:
            context: Any = stream.codec_context
            context.options = {"err_detect": "explode"}
            context.thread_count = 1
        for packet in container.demux():
            if packet.size and packet.pts is not None and packet.pts < first.setdefault(packet.stream_index, packet.pts):
                continue                    # leans on pictures before the window
            for frame in packet.decode():
                if getattr(frame, "is_corrupt", False):
                    raise ValueError("a damaged frame")
                kind = "video" if isinstance(frame, av.VideoFrame) else "audio"
                decoded[kind] = decoded.get(kind, 0) + 1
    return decoded


def run_probe(folder: Path, clock: Clock) -> int:
    """Probe a stream's folder for today and keep the result, unless the day has one. The exit code: 0 well, 1 not, NOTHING.

    OSError: the disk does not take the note.
    """
    av.logging.set_level(None)
    with suppress(PermissionError):         # a hardened unit may forbid it
        os.nice(NICE)
    now = clock.now().utc_us
    date = date_of(now)
    found = probe(folder, date, now, f"{folder.name} {now}")
    if found is None:
        log.info("nothing to play back stream=%s", folder.name)
        return NOTHING
    keep(folder, found)
    return 0 if found.ok else 1


def keep(folder: Path, found: Probe) -> None:
    """Write the day's note if there is none yet, and say how it went."""
    durable.make_folder(folder / "probes")
    with suppress(FileExistsError):
        durable.write_new(probe_path(folder, found.date), found.to_json())
    for window in found.windows:
        if not window.ok:
            log.warning("playback probe failed stream=%s seq=%d reason=%s what=the recording goes on; have the disk and this segment "
                        "looked at", found.stream, window.seq, window.reason)
    if found.ok:
        log.info("playback probe ok stream=%s date=%s", found.stream, found.date)


class Prober:
    """Sees to it that each stream is probed once a UTC day: starts one probe at a time and looks after it."""

    def __init__(self, streams: Sequence[str], footage: Path, command: Callable[[str], list[str]], clock: Clock) -> None:
        self._streams, self._footage, self._command, self._clock = tuple(streams), footage, command, clock
        self._not_before = dict.fromkeys(streams, clock.now().boot_us + FIRST_LOOK_US)
        self._next_us = 0
        self._running: tuple[str, subprocess.Popen[bytes], int] | None = None

    def look(self) -> None:
        """Start what is due, see what has ended. Never waits. OSError: a probe cannot be started, or its note not be kept."""
        now = self._clock.now()
        if self._running is not None:
            self._see_after(*self._running)
        elif now.boot_us >= self._next_us:
            self._next_us = now.boot_us + LOOK_EVERY_US
            for stream in self._streams:
                if now.boot_us >= self._not_before[stream] and not probe_path(self._footage / stream, date_of(now.utc_us)).exists():
                    self._not_before[stream] = now.boot_us + AGAIN_US
                    self._running = (stream, subprocess.Popen(self._command(stream), stdin=subprocess.DEVNULL), now.boot_us)
                    return

    def _see_after(self, stream: str, process: subprocess.Popen[bytes], began_us: int) -> None:
        now = self._clock.now()
        if process.poll() is None:
            if now.boot_us - began_us > LONGEST_US:
                process.kill()
            return
        self._running, self._next_us = None, now.boot_us
        if process.returncode < 0:              # a signal: no answer of its own
            keep(self._footage / stream, Probe(stream, date_of(now.utc_us), now.utc_us,
                                               (ProbeWindow(0, 0, 0, 0, False, "decoder-crashed"),), False))

    def close(self) -> None:
        """End a probe that runs; tomorrow, or the next watcher, makes it."""
        if self._running is not None:
            self._running[1].kill()
            self._running[1].wait()
            self._running = None
