"""Follows a stream's footage as it grows on the disk: whole fragments as soon as they lie there, then the word that a segment is sealed.

It reads what the worker writes, without the worker's knowledge, and only bytes it has not read: a look at a file that has not grown is
one `stat`. Half a fragment, zeros behind a power cut, a file that vanishes: none of it raises, it is read again when it is more.
Folders are listed only when the segment being read has ended. Standard library only. Called by watch, once or twice a second.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge.capture import boxes
from edge.capture.segments import day_folder, parse_stem
from edge.capture.segments import note_path as opening_path
from edge.capture.sidecar import Opening, Sidecar, from_json
from edge.capture.watchnote import note_path
from edge.clock import Clock, Stamp

BACKLOG = 3
"""Segments without a note that are still read, newest first in line: after a pause of the watcher older ones stay unwatched."""
SWEEP_EVERY = 120
"""Listings between two looks at the day folder that changed last, whatever its date: a clock may have been set back."""
QUIET_LOOKS = 20
"""A file that stood still for so many looks: perhaps another one is being written, though this one was never sealed."""
HEADER_BYTES = 1 << 16
"""ftyp and moov of our files take about 1.5 kB."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A file whose reading begins. `start` belongs to `media_start_us`; `tracks` by number, as the file's header says."""

    path: Path
    seq: int
    run: str
    start: Stamp
    media_start_us: int
    tracks: dict[int, boxes.TrackHeader]

    def track(self, kind: str) -> boxes.TrackHeader | None:
        """Its picture (`video`) or sound (`audio`) track."""
        return next((track for track in self.tracks.values() if track.kind == kind), None)

    def moment(self, media_us: int) -> Stamp:
        """When a sample was taken, on the room's time axis."""
        return self.start.plus(media_us - self.media_start_us)


@dataclass(frozen=True, slots=True)
class Part:
    """A whole fragment: its bytes, and its samples by kind of track in the order of decoding."""

    data: bytes
    samples: dict[str, list[boxes.Sample]]

    def bytes_of(self, sample: boxes.Sample) -> bytes:
        """The coded picture or sound."""
        return self.data[sample.offset:sample.offset + sample.size]


@dataclass(frozen=True, slots=True)
class Sealed:
    """The segment that was read is over. `whole`: every fragment of its sidecar was read."""

    path: Path
    sidecar: Sidecar
    whole: bool


class Tail:
    """One stream's folder. `look` gives what is new; a segment given up without a word (vanished, no sidecar) is followed by another."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        self._reached = -1              # the highest number that was read or passed over
        self._path: Path | None = None
        self._segment: Segment | None = None
        self._at = self._size = self._still = self._listings = self._parts = 0
        self._listed: dict[Path, int] = {}      # day folder -> its mtime (ns) when it was listed and showed nothing new

    @property
    def seq(self) -> int:
        """Number of the segment that is being read, or was last; -1: none yet."""
        return self._reached

    @property
    def reads(self) -> bool:
        """Whether a segment is being read that is not sealed yet."""
        return self._path is not None

    def look(self) -> Iterator[Segment | Part | Sealed]:
        """What came since the last look. OSError only if the disk fails."""
        while True:
            if self._path is None and not self._take_next():
                return
            sealed = self._sidecar()        # asked first: what is written before it is read below
            with suppress(FileNotFoundError, boxes.BoxError):       # BoxError: no fragment of ours, at least not yet
                yield from self._read()
            if sealed is not None:
                segment, path, self._path = self._segment, self._path, None
                if segment is not None and path is not None:
                    yield Sealed(path, sealed, self._parts == len(sealed.fragments))
            elif not self._given_up():
                return

    def _take_next(self) -> bool:
        new = [path for day in self._days() for path in self._unread(day)]
        new.sort(key=lambda path: path.name)
        if not new:
            return False
        self._path = new[-BACKLOG:][0]
        self._reached = int(self._path.name[:10])
        self._segment = None
        self._at = self._size = self._still = self._parts = 0
        return True

    def _days(self) -> list[Path]:
        """Day folders that may hold a new segment: the newest by name, today's, now and then the one that changed last."""
        newest = self._folder
        for _ in range(3):
            with suppress(OSError):
                newest = max((p for p in newest.iterdir() if p.name.isdecimal()), key=lambda p: p.name, default=newest)
        days = {newest, day_folder(self._folder, self._clock.now().utc_us), *list(self._listed)[-1:]}
        if self._listings % SWEEP_EVERY == 0:
            days |= set(sorted(self._folder.glob("[0-9][0-9][0-9][0-9]/[0-9][0-9]/[0-9][0-9]"), key=_changed)[-1:])
        self._listings += 1
        return [day for day in days if day != self._folder and self._listed.get(day) != _changed(day)]

    def _unread(self, day: Path) -> list[Path]:
        changed = _changed(day)
        try:
            names = {entry.name for entry in os.scandir(day)}
        except OSError:
            return []
        found = [day / name for name in names if name.endswith("Z.mp4") and parse_stem(name[:-4]) and int(name[:10]) > self._reached
                 and note_path(day / name).name not in names]
        if not found and self._clock.now().utc_us * 1000 - changed > 10**9:     # two changes within one tick look like one
            self._listed = {**dict(list(self._listed.items())[-3:]), day: changed}
        return found

    def _given_up(self) -> bool:
        """Whether to look for another segment though this one is not sealed: it is gone, or was left standing."""
        if self._path is None:
            return True
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            self._path, self._reached = None, self._reached - 1     # nothing came of it: the next file has its number
            return True
        self._still = self._still + 1 if size == self._size else 0
        self._size = size
        if self._still >= QUIET_LOOKS and self._still % QUIET_LOOKS == 0:
            self._path = None if any(self._unread(day) for day in self._days()) else self._path
        return self._path is None

    def _sidecar(self) -> Sidecar | None:
        if self._path is None:
            return None
        try:
            return from_json(self._path.with_suffix(".json").read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            self._path = None           # the intake says what is wrong with it
            return None

    # ---- one file ----

    def _read(self) -> Iterator[Segment | Part]:
        path = self._path
        if path is None or path.stat().st_size <= self._at:
            return
        with path.open("rb") as file:
            if self._segment is None:
                self._segment = self._begin(path, os.pread(file.fileno(), HEADER_BYTES, 0))
                if self._segment is None:
                    return
                yield self._segment
            while (part := self._next_part(file.fileno(), self._segment)) is not None:
                yield part

    def _begin(self, path: Path, head: bytes) -> Segment | None:
        """The file's header; None while it is not whole, or nothing says yet when the file begins."""
        at = 0
        while True:
            kind, size = _box(head[at:at + 8])
            if not size or at + size > len(head):
                return None
            at += size
            if kind == b"moov":
                break
        opening = _opening(path)
        if opening is None:
            return None
        self._at = at
        return Segment(path, self._reached, opening.run, opening.start, opening.media_start_us, boxes.read_header(head[:at]))

    def _next_part(self, handle: int, segment: Segment) -> Part | None:
        """The next whole fragment behind what was read; None if there is none yet. BoxError if what lies there is none."""
        size = os.fstat(handle).st_size
        moof, moof_size = _box(os.pread(handle, 8, self._at))
        if not moof_size or self._at + moof_size + 8 > size:
            return None
        mdat, mdat_size = _box(os.pread(handle, 8, self._at + moof_size))
        if (moof, mdat) != (b"moof", b"mdat"):
            raise boxes.BoxError("not a fragment")
        length = moof_size + mdat_size
        if not mdat_size or self._at + length > size:
            return None
        data = os.pread(handle, length, self._at)
        if len(data) != length:
            return None
        tables = boxes.read_samples(data[:moof_size], segment.tracks)
        if any(s.offset < moof_size + 8 or s.offset + s.size > length for table in tables.values() for s in table):
            raise boxes.BoxError("samples outside their fragment")
        self._at += length
        self._parts += 1
        return Part(data, {segment.tracks[number].kind: table for number, table in tables.items()})


def _opening(path: Path) -> Opening | Sidecar | None:
    """When the segment begins: by its sidecar, or by the note beside it while it is written."""
    for beside, read in ((path.with_suffix(".json"), from_json), (opening_path(path), Opening.from_json)):
        with suppress(OSError, ValueError):
            found: Opening | Sidecar = read(beside.read_bytes())
            return found
    return None


def _box(head: bytes) -> tuple[bytes, int]:
    """(kind, size) of a box, size 0 if its head is not there. BoxError if no box begins so."""
    if len(head) < 8:
        return b"", 0
    size, kind = struct.unpack(">I4s", head)
    if size < 8:
        raise boxes.BoxError("no box")
    return kind, size


def _changed(day: Path) -> int:
    with suppress(OSError):
        return day.stat().st_mtime_ns
    return 0
