"""An HLS VOD playlist over the very segments, made from their sidecars. Pure; `media` reads the files.

One entry per GOP (sound alone: per second): EXT-X-MAP is a segment's own header, EXT-X-BYTERANGE reaches into the unmodified file.
A hole becomes EXT-X-GAP entries of the same length, so that the player's clock stays true (RFC 8216bis, 4.4.4.7; entries that are
left out would close the hole up). Media time begins anew with each run, hence EXT-X-DISCONTINUITY there. All times here are whole
microseconds since the first segment's start, by boot time within a boot and by UTC across boots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edge.capture.sidecar import Sidecar
from edge.clock import US, Stamp, iso_utc
from edge.storage.catalog import Segment

HOLE_US = 100_000           # a shorter step between two entries is a camera's unevenness, not a hole
LEAST_ENTRY_US = US         # sound is all key frames: no entry shorter than this begins anew within a file


@dataclass(frozen=True, slots=True)
class Whole:
    """A segment that can be played: its sidecar and the SHA-256 of its header bytes."""

    sidecar: Sidecar
    header_sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A run of bytes of one file that begins with a key frame."""

    seq: int
    run: str
    header_sha256: str
    header_bytes: int
    offset: int
    length: int
    start_us: int
    end_us: int
    utc_us: int


def entries_of(whole: Whole, origin: Stamp) -> list[Entry]:
    """The entries of one segment; its first fragment begins one in any case."""
    sidecar = whole.sidecar
    base = sidecar.start.us_since(origin)
    found: list[Entry] = []
    for fragment in sidecar.fragments:
        at = fragment.start_us - sidecar.media_start_us
        start, end = base + at, base + at + fragment.dur_us
        last = found[-1] if found else None
        if last is None or (fragment.key and start - last.start_us >= LEAST_ENTRY_US):
            found.append(Entry(sidecar.seq, sidecar.run, whole.header_sha256, sidecar.header_bytes, fragment.offset, fragment.length,
                               start, end, sidecar.start.utc_us + at))
        else:
            found[-1] = Entry(last.seq, last.run, last.header_sha256, last.header_bytes, last.offset,
                              fragment.offset + fragment.length - last.offset, last.start_us, max(last.end_us, end), last.utc_us)
    return found


def playlist(segments: Sequence[Whole], folder: str) -> str:
    """The VOD playlist of a stream. `segments` in order of time, at least one; `folder`: relative address of the files, no slash behind."""
    origin = segments[0].sidecar.start
    entries = [entry for whole in segments for entry in entries_of(whole, origin)]
    ends = [after.start_us if after.start_us > entry.start_us and after.start_us - entry.end_us < HOLE_US else entry.end_us
            for entry, after in pairwise(entries)] + [entries[-1].end_us]       # up to the next: no error adds up
    longest_s = max(1, math.floor(max(end - entry.start_us for entry, end in zip(entries, ends, strict=True)) / US + 0.5))
    lines = ["#EXTM3U", "#EXT-X-VERSION:8", f"#EXT-X-TARGETDURATION:{longest_s}", "#EXT-X-MEDIA-SEQUENCE:0", "#EXT-X-PLAYLIST-TYPE:VOD",
             "#EXT-X-INDEPENDENT-SEGMENTS"]
    reached, before = 0, None
    for entry, end in zip(entries, ends, strict=True):
        hole = entry.start_us - reached
        if hole >= HOLE_US:
            pieces = math.ceil(hole / US / longest_s)               # none may be longer than the target
            lines += ["#EXT-X-GAP", f"#EXTINF:{hole / US / pieces:.6f},", f"{folder}/missing.mp4"] * pieces
        lines += _opening(entry, before, hole >= HOLE_US, folder)
        lines += [f"#EXTINF:{max(end - entry.start_us, 1) / US:.6f},", f"#EXT-X-BYTERANGE:{entry.length}@{entry.offset}",
                  f"{folder}/{entry.seq}.mp4"]
        reached, before = end, entry
    return "\n".join([*lines, "#EXT-X-ENDLIST"]) + "\n"


def _opening(entry: Entry, before: Entry | None, after_hole: bool, folder: str) -> list[str]:
    """What must be said before an entry: a new time base, a new header, the true time."""
    new_header = before is None or entry.header_sha256 != before.header_sha256
    new_run = before is not None and entry.run != before.run
    lines = ["#EXT-X-DISCONTINUITY"] if before is not None and (new_run or new_header) else []
    if new_header or new_run:
        lines.append(f'#EXT-X-MAP:URI="{folder}/{entry.seq}.mp4",BYTERANGE="{entry.header_bytes}@0"')
    if before is None or new_run or new_header or after_hole:
        lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{iso_utc(entry.utc_us)}")
    return lines


@dataclass(frozen=True, slots=True)
class Missing:
    """A hole in a stream's coverage, in microseconds since the first segment's start. `reason`: how the segment before it ended."""

    from_us: int
    to_us: int
    reason: str


@dataclass(frozen=True, slots=True)
class Cover:
    """From when, and for how long, a stream's segments reach, and where they do not."""

    from_utc_us: int
    dur_us: int
    gaps: tuple[Missing, ...]


def cover_of(segments: Sequence[Segment]) -> Cover | None:
    """What one stream's segments of a session cover; None if there are none."""
    if not segments:
        return None
    origin, reached, gaps, reason = _start(segments[0]), 0, [], ""
    for segment in segments:
        start, end = _start(segment).us_since(origin), _end(segment).us_since(origin)
        if start - reached >= HOLE_US:
            gaps.append(Missing(reached, start, reason))
        reached, reason = max(reached, end), segment.end_reason
    return Cover(origin.utc_us, max(reached, 1), tuple(gaps))


def _start(segment: Segment) -> Stamp:
    return Stamp(segment.start_utc_us, segment.start_boot_us, segment.boot_id)


def _end(segment: Segment) -> Stamp:
    return Stamp(segment.end_utc_us, segment.end_boot_us, segment.boot_id)
