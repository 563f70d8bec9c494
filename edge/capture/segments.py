"""One segment: an append-only fragmented MP4 that is hashed and indexed while it is written, then sealed by its sidecar.

The muxer writes through a sink without `seek`, so it cannot rewrite and the SHA-256 taken on the way is final. A kill costs the
fragment being filled (0.5 s); a power cut what was written since the last fdatasync (1 s and the rest of a fragment).
Order on the disk: file created (O_EXCL, folder synced) and the opening note beside it; at the end file fsynced, sidecar made,
note removed. Only then does the segment exist. Called by rolling (writes) and recovery (names).
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import statistics
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av

from edge import durable
from edge.capture import boxes
from edge.capture.sidecar import Fragment, Opening, Sidecar, to_json
from edge.capture.streams import Track
from edge.clock import US, Stamp, parse_utc

if TYPE_CHECKING:
    from av.packet import Packet

FMP4 = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof+frag_discont",
    "frag_duration": "500000",          # us; a key frame begins a fragment as well
    "flush_packets": "1",               # each fragment leaves FFmpeg's buffer when it is complete
    "use_editlist": "0",                # these two and frag_discont keep the media time that we give,
    "avoid_negative_ts": "disabled",    # else every file would begin at 0 and sound and picture would shift
    "max_interleave_delta": "1",        # us; the picture does not wait for late or missing sound
}
SYNC_S = 1.0
MUX_ERRORS = (av.error.FFmpegError, OSError, RuntimeError)
"""What PyAV raises when the sink fails: its own errors, the sink's OSError, and PyAVCallbackError (a RuntimeError) at close."""
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


@dataclass(frozen=True, slots=True)
class Sound:
    """What the meter heard during a segment: peak in hundredths of a dBFS and milliseconds of digital silence."""

    peak_cdb: int
    silent_ms: int


class Index:
    """The fragments of one file, in order, and the samples of the leading track in them."""

    def __init__(self) -> None:
        self.fragments: list[Fragment] = []
        self.samples = 0
        self._steps: list[int] = []

    def add(self, moof: bytes, tracks: dict[int, boxes.TrackHeader], offset: int, end: int) -> None:
        """A whole fragment lies at [offset, end). BoxError if its moof cannot be read."""
        times = boxes.read_fragment(moof, tracks)
        if times is None:                   # sound alone, at a file's end
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


class Sink:
    """The muxer's output: unbuffered, append-only, hashed as written. It follows the boxes and indexes each whole fragment."""

    def __init__(self, path: Path) -> None:
        self._file = durable.create(path)
        self.bytes = self.whole = self.header_bytes = 0
        self.index = Index()
        self.fault: OSError | None = None
        self.tracks: dict[int, boxes.TrackHeader] = {}
        self._hash = hashlib.sha256()
        self._whole_hash = self._hash.copy()
        self._synced = time.monotonic()
        self._box = bytearray()             # the small box being written (header or moof), or the first 8 bytes of any
        self._kind, self._left = b"", 0
        self._header, self._moof = b"", b""

    def write(self, data: bytes) -> int:
        """Called by the muxer. OSError as the disk gave it; what was written before stays counted and hashed."""
        if self.fault is not None:
            raise self.fault                # nothing may follow a torn fragment, even if there is room again
        rest = memoryview(data)
        try:
            while rest:
                done = self._file.write(rest)
                if self._follow(rest[:done]) and time.monotonic() - self._synced >= SYNC_S:
                    self._sync(os.fdatasync)
                rest = rest[done:]
        except OSError as error:
            self.fault = error
            raise
        return len(data)

    def _sync(self, call: Callable[[int], None]) -> None:
        """Sync the file. Whatever the disk says when it fails, the file is not to be trusted: never "full", which would be waited for."""
        try:
            call(self._file.fileno())
        except OSError as error:
            raise OSError(errno.EIO, "the disk did not take what was written") from error
        self._synced = time.monotonic()

    def _follow(self, data: memoryview) -> bool:
        """Hash, and follow the top-level boxes; True if a fragment became whole in these bytes."""
        fragment = False
        while data:
            if not self._left:
                passed = min(8 - len(self._box), len(data))
                self._box += data[:passed]
                if len(self._box) == 8:
                    size, self._kind = struct.unpack(">I4s", self._box)
                    self._left = size - 8           # 64-bit sizes do not occur in fragments of 0.5 s
            else:
                passed = min(self._left, len(data))
                self._left -= passed
                if self._kind != b"mdat":
                    self._box += data[:passed]
            self._hash.update(data[:passed])
            data, self.bytes = data[passed:], self.bytes + passed
            if len(self._box) >= 8 and not self._left:
                fragment |= self._box_ended()
                self._box.clear()
        return fragment

    def _box_ended(self) -> bool:
        if self._kind == b"moof":
            self._moof = bytes(self._box)
            return False
        if self._kind in (b"ftyp", b"moov"):
            self._header += bytes(self._box)
            self.header_bytes = len(self._header)
            if self._kind == b"moov":
                self.tracks = boxes.read_header(self._header)
        fragment = self._kind == b"mdat" and bool(self._moof)
        if fragment:
            self.index.add(self._moof, self.tracks, self.whole, self.bytes)
            self._moof = b""
        self.whole, self._whole_hash = self.bytes, self._hash.copy()
        return fragment

    def finish(self) -> str:
        """Cut a torn tail, sync, close. The file's SHA-256 in hex. OSError: the file cannot be promised."""
        try:
            if self.bytes != self.whole:
                self._file.truncate(self.whole)
                self.bytes, self._hash = self.whole, self._whole_hash
            self._sync(os.fsync)
        finally:
            self._file.close()
        return self._hash.hexdigest()


class Segment:
    """A segment being written. OSError from any call is the disk's."""

    def __init__(self, path: Path, opening: Opening, tracks: Sequence[Track]) -> None:
        durable.make_folder(path.parent)
        self.path, self.opening = path, opening
        self._sink = Sink(path)
        try:
            durable.write_new(note_path(path), opening.to_json())
        except OSError:
            self._sink.finish()
            durable.remove(path)
            raise
        self._out = av.open(self._sink, "w", format="mp4", options=FMP4)
        self._streams = []
        for track in tracks:
            stream = self._out.add_stream_from_template(track.template)
            if track.codec == "h265":
                stream.codec_context.codec_tag = "hvc1"     # FFmpeg's own choice, hev1, does not play on Apple's
            self._streams.append(stream)

    @property
    def sink(self) -> Sink:
        return self._sink

    def mux(self, track: int, packet: Packet[Any]) -> None:
        """Give a packet, timed in the run's media time, to the file. Raises one of MUX_ERRORS."""
        packet.stream = self._streams[track]
        self._out.mux(packet)

    def seal(self, end: Stamp | None, end_media_us: int | None, end_reason: str, dropped: int, sound: Sound | None) -> Sidecar | None:
        """Close and sync the file. What its sidecar is to say; None if not one whole fragment was written (the file is removed).

        `end` and `end_media_us`: where the next segment begins; None: at the end of what is on disk.
        """
        with suppress(*MUX_ERRORS):         # a full disk shows here a second time; what is whole is kept all the same
            self._out.close()
        if self._sink.fault is not None and not is_disk_full(self._sink.fault):
            raise self._sink.fault          # after a failed fsync nothing said of this file is sure: recovery reads it again
        digest = self._sink.finish()
        index = self._sink.index
        if not index.fragments:
            durable.remove(self.path)
            durable.remove(note_path(self.path))
            return None
        first = index.fragments[0].start_us
        on_disk = index.media_end_us - first
        dur_us = on_disk if end_media_us is None else end_media_us - first
        start = self.opening.start
        return Sidecar(
            stream=self.opening.stream, seq=self.opening.seq, run=self.opening.run, start=start,
            end=start.plus(on_disk) if end is None else end, dur_us=dur_us,
            frame_us=index.step_us, frames=index.samples, dropped=dropped, bytes=self._sink.bytes, sha256=digest,
            header_bytes=self._sink.header_bytes, fragments=tuple(index.fragments), media_start_us=first,
            codec=boxes.codec_of(self._sink.tracks), tracks={t.kind: t.facts for t in self._sink.tracks.values()},
            clock_state=self.opening.clock_state, end_reason=end_reason,
            audio_peak_cdb=sound.peak_cdb if sound else None, silent_ms=sound.silent_ms if sound else None)


def publish(path: Path, sidecar: Sidecar) -> None:
    """Make the sidecar durable and remove the opening note: from now on the segment exists. OSError if the disk refuses."""
    with suppress(FileExistsError):
        durable.write_new(path.with_suffix(".json"), to_json(sidecar))
    durable.remove(note_path(path))
