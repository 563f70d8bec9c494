"""What a segment is on the disk: its names, its index, and the append-only file while it grows. Standard library only.

A segment is a fragmented MP4 that is hashed and indexed while it is written, then sealed by its sidecar. It is written in whole parts
(the header, then fragments), never rewritten, so the SHA-256 taken on the way is final. Order on the disk: file created (O_EXCL,
folder synced) and the opening note beside it; at the end file fsynced, sidecar made, note removed. Only then does the segment exist.
Called by disk (writes) and recovery (names, index, publishing).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from edge import durable
from edge.capture import boxes
from edge.capture.sidecar import Fragment, Opening, Sidecar, to_json
from edge.clock import US, Stamp, parse_utc

SYNC_S = 1.0
"""At most this long, and the rest of a fragment, is lost at a power cut."""
SET_ASIDE = "set-aside"

_NAME = re.compile(r"(\d{10})-(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z")


def stem(seq: int, utc_us: int) -> str:
    """`0000000042-20261124T053143Z`: the number orders, the time (UTC, whole seconds) is for people."""
    return f"{seq:010d}-{datetime.fromtimestamp(utc_us // US, UTC):%Y%m%dT%H%M%SZ}"


def parse_stem(name: str) -> tuple[int, int] | None:
    """(seq, utc_us) of a segment's name without suffix; None if it is no such name."""
    found = _NAME.fullmatch(name)
    if not found:
        return None
    try:
        return int(found[1]), parse_utc("{}-{}-{}T{}:{}:{}+00:00".format(*found.groups()[1:]))
    except ValueError:
        return None


def day_folder(stream_folder: Path, utc_us: int) -> Path:
    """`<stream>/<YYYY>/<MM>/<DD>` of a moment's UTC date."""
    moment = datetime.fromtimestamp(utc_us // US, UTC)
    return stream_folder / f"{moment:%Y}" / f"{moment:%m}" / f"{moment:%d}"


def note_path(path: Path) -> Path:
    """Where the opening note of a segment lies."""
    return path.with_suffix(".open.json")


def is_disk_full(error: BaseException) -> bool:
    """No space or quota: waiting helps. Any other disk error means that the file cannot be trusted further."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)


class Index:
    """The fragments of one file, in order, and the samples of the leading track in them."""

    def __init__(self) -> None:
        self.fragments: list[Fragment] = []
        self.samples = 0
        self._steps: list[int] = []

    def add(self, times: boxes.FragmentTimes | None, offset: int, end: int) -> None:
        """A whole fragment lies at [offset, end). None: it holds sound alone, as happens at a file's end."""
        if times is None:
            times = boxes.FragmentTimes(self.media_end_us, 0, 0, False)
        elif times.samples:
            self._steps.append(times.dur_us // times.samples)
        self.samples += times.samples
        self.fragments.append(Fragment(offset, end - offset, times.start_us, times.dur_us, times.key))

    @property
    def media_end_us(self) -> int:
        return self.fragments[-1].start_us + self.fragments[-1].dur_us if self.fragments else 0

    @property
    def step_us(self) -> int:
        """The usual step between samples: the median fragment's mean, so that one hole does not move it."""
        return statistics.median_low(self._steps) if self._steps else 0


@dataclass(frozen=True, slots=True)
class End:
    """How a segment ends. `stamp` and `media_us`: where the next one begins; None: at the end of what is on the disk."""

    stamp: Stamp | None
    media_us: int | None
    reason: str
    dropped: int


class SegmentFile:
    """A segment's file while it grows. OSError from any call is the disk's; after one only `seal` may follow, or nothing."""

    def __init__(self, stream_folder: Path, opening: Opening, header: bytes, tracks: dict[int, boxes.TrackHeader]) -> None:
        """Makes the file and its note, and writes the header. After an OSError nothing is left that recovery would have to mend."""
        start = opening.start
        self.path, self.opening = day_folder(stream_folder, start.utc_us) / f"{stem(opening.seq, start.utc_us)}.mp4", opening
        self.index, self.tracks, self._header_bytes = Index(), tracks, len(header)
        self._hash = hashlib.sha256()
        durable.make_folder(self.path.parent)
        self._file = durable.create(self.path)
        try:
            durable.write_new(note_path(self.path), opening.to_json())
            self.bytes = 0
            self._append(header)
        except OSError:
            self._file.close()
            with suppress(OSError):
                durable.remove(note_path(self.path))
                durable.remove(self.path)
            raise
        self._synced = time.monotonic()

    def write(self, fragment: bytes, times: boxes.FragmentTimes | None) -> None:
        """Append one whole fragment. What a failed write left of it is cut off by `seal`."""
        offset = self.bytes
        self._append(fragment)
        self.index.add(times, offset, self.bytes)
        if time.monotonic() - self._synced >= SYNC_S:
            self._sync(os.fdatasync)

    def _append(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest):]
        self._hash.update(data)                 # only what is whole on the disk counts
        self.bytes += len(data)

    def _sync(self, call: Callable[[int], None]) -> None:
        """Whatever the disk says when a sync fails, the file is not to be trusted: never "full", which would be waited for."""
        try:
            call(self._file.fileno())
        except OSError as error:
            raise OSError(errno.EIO, "the disk did not take what was written") from error
        self._synced = time.monotonic()

    def seal(self, end: End) -> Sidecar | None:
        """Cut a torn tail, sync, close. What its sidecar is to say; None if not one fragment was written (the file is removed)."""
        try:
            if os.fstat(self._file.fileno()).st_size != self.bytes:
                self._file.truncate(self.bytes)
            self._sync(os.fsync)
        finally:
            self._file.close()
        if not self.index.fragments:
            durable.remove(self.path)
            durable.remove(note_path(self.path))
            return None
        opening, first = self.opening, self.index.fragments[0].start_us
        on_disk = self.index.media_end_us - first
        return Sidecar(
            stream=opening.stream, seq=opening.seq, run=opening.run, start=opening.start,
            end=opening.start.plus(on_disk) if end.stamp is None else end.stamp,
            dur_us=on_disk if end.media_us is None else end.media_us - first,
            frame_us=self.index.step_us, frames=self.index.samples, dropped=end.dropped, bytes=self.bytes, sha256=self._hash.hexdigest(),
            header_bytes=self._header_bytes, fragments=tuple(self.index.fragments), media_start_us=first,
            codec=boxes.codec_of(self.tracks), tracks={t.kind: t.facts for t in self.tracks.values()},
            clock_state=opening.clock_state, end_reason=end.reason)


def numbered(opening: Opening, seq: int) -> Opening:
    """The opening with the number that its file gets."""
    return replace(opening, seq=seq)


def publish(path: Path, sidecar: Sidecar) -> None:
    """Make the sidecar durable and remove the opening note: from now on the segment exists. OSError if the disk refuses."""
    with suppress(FileExistsError):
        durable.write_new(path.with_suffix(".json"), to_json(sidecar))
    durable.remove(note_path(path))
