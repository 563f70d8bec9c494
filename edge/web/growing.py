"""A stream's newest files as they lie on the disk, the one that is being written among them, for whoever watches live.

A growing file is read on from where the last look ended, up to its last whole fragment; what was sealed is described by its sidecar.
Only headers and moofs are read, never the media. Assumes that a worker appends whole parts and that the opening note lies beside the
file until the sidecar does. Standard library only (the room never loads PyAV). One thread at a time. Caller: `window`.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from edge.capture import boxes
from edge.capture.sidecar import Fragment, Opening, from_json
from edge.clock import Stamp

MOST_FILES = 40             # of a stream, however short its segments are
UNSURE_NS = 2 * 10**9
"""A folder that changed so lately may change again within the same tick of the file system: it is read anew."""
MOST_PART_BYTES = 1 << 20
"""A moof or a header that is longer is not ours."""


@dataclass(frozen=True, slots=True)
class Reel:
    """One file as far as it can be played: where its media time begins, its header, its whole fragments. `sealed`: no more will come."""

    seq: int
    run: str
    path: Path
    start: Stamp
    media_start_us: int
    header_sha256: str
    header_bytes: int
    fragments: tuple[Fragment, ...]
    sealed: bool


class GrowingFile:
    """A file that a worker appends to. `look` reads on; `fragments` are those that are whole by then."""

    def __init__(self, path: Path) -> None:
        self.path, self.fragments = path, list[Fragment]()
        self.header = b""
        self._tracks: dict[int, boxes.TrackHeader] = {}
        self._at = 0

    def look(self) -> None:
        """Read what has come since the last look. OSError, BoxError: it cannot be read, or is not what we write."""
        handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(handle).st_size
            while (end := self._part(handle, self._at, size)) is not None:
                self._at = end
        except (struct.error, IndexError) as error:
            raise boxes.BoxError("a box that cannot be read") from error
        finally:
            os.close(handle)

    def _part(self, handle: int, at: int, size: int) -> int | None:
        """Read one whole part: the header's next box, or a moof with its mdat. Where it ends; None if it is not whole yet."""
        length, kind = _box(handle, at, size)
        if not length:
            return None
        if kind in (b"ftyp", b"moov") and length <= MOST_PART_BYTES:
            self.header += os.pread(handle, length, at)
            if kind == b"moov":
                self._tracks = boxes.read_header(self.header)
            return at + length
        if kind != b"moof" or not self._tracks or length > MOST_PART_BYTES:
            raise boxes.BoxError("a box that no worker writes")
        media, kind = _box(handle, at + length, size)
        if not media:
            return None
        if kind != b"mdat":
            raise boxes.BoxError("a fragment without media")
        times = boxes.read_fragment(os.pread(handle, length, at), self._tracks)
        if times is None:                       # sound alone, at the end of a file: it lasts as long as the picture before it
            last = self.fragments[-1] if self.fragments else None
            times = boxes.FragmentTimes(last.start_us + last.dur_us if last else 0, 0, 0, False)
        self.fragments.append(Fragment(at, length + media, times.start_us, times.dur_us, times.key))
        return at + length + media


def _box(handle: int, at: int, size: int) -> tuple[int, bytes]:
    """(length, kind) of the box at `at`; length 0 if it is not whole yet."""
    head = os.pread(handle, 8, at) if at + 8 <= size else b""
    if len(head) < 8:
        return 0, b""
    length, kind = struct.unpack(">I4s", head)
    if length < 8 or at + length > size:        # less than 8: zeros, where a file was lengthened before its bytes were there
        return 0, b""
    return length, kind


class NewestReels:
    """The newest files of one stream."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._listed: dict[Path, tuple[int, frozenset[str]]] = {}       # day folder -> its mtime when listed, its names
        self._sealed: dict[int, Reel] = {}
        self._growing: dict[int, tuple[Opening, GrowingFile]] = {}

    def look(self, boot_id: str, at_least_us: int) -> list[Reel]:
        """The newest files of this boot in order, as many as it takes to cover `at_least_us`; those that cannot be read are left out."""
        names = {name: day for day in self._days() for name in self._names(day)}
        media = sorted((name for name in names if name.endswith("Z.mp4") and name[:10].isdecimal()), reverse=True)
        found: list[Reel] = []
        covered = 0
        for name in islice(media, MOST_FILES):
            with suppress(OSError, ValueError):                         # BoxError is a ValueError
                reel = self._reel(names[name] / name, names)
                if reel is None:
                    continue
                if reel.start.boot_id != boot_id:
                    break
                found.append(reel)
                covered += sum(fragment.dur_us for fragment in reel.fragments)
                if covered >= at_least_us:
                    break
        kept = {reel.seq for reel in found}
        self._sealed = {seq: reel for seq, reel in self._sealed.items() if seq in kept}
        self._growing = {seq: both for seq, both in self._growing.items() if seq in kept and seq not in self._sealed}
        return found[::-1]

    def path_of(self, seq: int) -> Path | None:
        """Where a file lies that the last look found."""
        if seq in self._sealed:
            return self._sealed[seq].path
        return self._growing[seq][1].path if seq in self._growing else None

    def _days(self) -> list[Path]:
        """The newest day folders by name; today's and yesterday's by the wall clock (set back, it leads into an older one)."""
        month = self._folder
        for _ in range(2):
            month = max(_numbered(month), default=month)
        now = datetime.now(UTC)
        by_clock = [self._folder / f"{day:%Y/%m/%d}" for day in (now, now - timedelta(days=1))]
        return [day for day in dict.fromkeys([*sorted(_numbered(month))[-2:], *by_clock]) if day.is_dir()]

    def _names(self, day: Path) -> frozenset[str]:
        changed = day.stat().st_mtime_ns
        listed = self._listed.get(day)
        if listed is None or listed[0] != changed or time.time_ns() - changed < UNSURE_NS:
            listed = self._listed[day] = (changed, frozenset(path.name for path in day.iterdir()))
        return listed[1]

    def _reel(self, path: Path, names: dict[str, Path]) -> Reel | None:
        seq, stem = int(path.name[:10]), path.stem
        if seq in self._sealed:
            return self._sealed[seq]
        if f"{stem}.json" in names:
            reel = self._sealed[seq] = _sealed(path, seq)
            return reel
        if seq not in self._growing or self._growing[seq][1].path != path:      # a file of which nothing came gives its number on
            opening = Opening.from_json(path.with_suffix(".open.json").read_bytes())
            self._growing[seq] = opening, GrowingFile(path)
        opening, file = self._growing[seq]
        with suppress(boxes.BoxError):          # what is whole before it stays
            file.look()
        if not file.fragments:
            return None
        return Reel(seq, opening.run, path, opening.start, opening.media_start_us, hashlib.sha256(file.header).hexdigest(),
                    len(file.header), tuple(file.fragments), sealed=False)


def _numbered(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError):
        return [path for path in folder.iterdir() if path.name.isdecimal()]
    return []


def _sealed(path: Path, seq: int) -> Reel:
    sidecar = from_json(path.with_suffix(".json").read_bytes())
    with path.open("rb") as file:
        header = file.read(sidecar.header_bytes)
    if path.stat().st_size != sidecar.bytes or sidecar.seq != seq:
        raise ValueError("the file does not fit its sidecar")
    return Reel(seq, sidecar.run, path, sidecar.start, sidecar.media_start_us, hashlib.sha256(header).hexdigest(), sidecar.header_bytes,
                sidecar.fragments, sealed=True)
