"""Samples in, rolling segments out: anchors runs in time, turns to a new file at key frames, and rides out a full disk.

One object per worker. It holds the newest leading sample back until the next one says how long it lasts, so that files end
where the next begins. A full disk closes what is whole and is tried again every two seconds; any other disk error is raised,
for the worker to end and its successor to recover. Called by worker, from one thread.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

from edge.capture.segments import MUX_ERRORS, Segment, day_folder, is_disk_full, publish, stem
from edge.capture.sidecar import Opening, Sidecar
from edge.capture.streams import Piece, StreamSpec, Track
from edge.capture.timeline import LEAD_US, Timeline
from edge.capture.watch import SoundMeter
from edge.clock import US, Clock, Stamp

DISK_RETRY_US = 2 * US

log = logging.getLogger(__name__)


class Rolling:
    """The segments of one stream. `seq` is the number that the next new segment gets."""

    def __init__(self, spec: StreamSpec, footage: Path, clock: Clock, clock_state: Callable[[], str], seq: int) -> None:
        self._spec, self._folder, self._clock, self._clock_state = spec, footage / spec.id, clock, clock_state
        self.seq = seq
        self.run = ""
        self.segments = self.samples = self.lost = 0        # sealed; leading samples of this run; pieces that a full disk cost
        self.newest_boot_us = self.newest_utc_us = 0        # when the newest whole fragment was on its way to the disk
        self.meter: SoundMeter | None = None
        self.disk_full = self._told_full = False
        self._tracks: Sequence[Track] = ()
        self._repairs: Callable[[], int] = lambda: 0
        self._segment: Segment | None = None
        self._timeline: Timeline | None = None
        self._shifts: list[int | None] = []
        self._zero = Fraction(0)
        self._held: Piece | None = None         # the newest leading sample: how long it lasts is not known yet
        self._step = 0                          # what the one before lasted, in its track's ticks
        self._cut = False
        self._boundary_us = self._retry_us = self._sealed_bytes = self._sealed_frames = self._repairs_then = self._lost_then = 0
        self._unpublished: tuple[Path, Sidecar] | None = None

    # ---- what the status tells ----

    @property
    def bytes(self) -> int:
        """Bytes of this run on disk."""
        return self._sealed_bytes + (self._segment.sink.whole if self._segment else 0)

    @property
    def frames(self) -> int:
        """Leading samples of this run on disk, in whole fragments."""
        return self._sealed_frames + (self._segment.sink.index.samples if self._segment else 0)

    @property
    def writing(self) -> bool:
        """A segment is open, and something of its run is on the disk."""
        return self._segment is not None and self.frames > 0

    @property
    def dropped(self) -> int:
        """Timestamps mended and samples lost since the source was opened."""
        return self._repairs() + self.lost

    # ---- what the worker orders ----

    def begin(self, tracks: Sequence[Track], repairs: Callable[[], int]) -> None:
        """A source was opened: its samples follow. `repairs`: its count of mended timestamps."""
        self._tracks, self._repairs, self._repairs_then = tracks, repairs, 0
        self.lost = self._lost_then = self._step = 0
        sound = next((t for t in tracks if t.kind == "audio"), None)
        self.meter = SoundMeter(sound) if sound else None

    def cut(self) -> None:
        """Turn to a new segment at the next key frame."""
        self._cut = self._segment is not None

    def write(self, piece: Piece) -> None:
        """Record one sample. OSError: the disk failed in a way that waiting does not mend."""
        if self.disk_full and not self._try_again():
            self.lost += 1
            return
        try:
            self._take(piece)
        except MUX_ERRORS as error:
            fault = self._segment.sink.fault if self._segment else None
            if is_disk_full(error) or (fault is not None and is_disk_full(fault)):
                self._stop_for_space()
            elif isinstance(error, OSError) or fault is not None:
                raise OSError(*(fault or error).args[:2]) from error
            else:                               # the muxer refused this one packet: the recording goes on
                self.lost += 1
                log.info("packet refused stream=%s error=%s", self._spec.id, type(error).__name__)

    def end(self, reason: str) -> None:
        """The run is over: write what is held, seal. OSError as in `write`."""
        if self._segment is None:
            return
        try:
            if self._held is not None:
                self._held.packet.duration = self._step or self._held.packet.duration
                self._put(self._held)
        except MUX_ERRORS:                      # the sink remembers a disk fault, and seal looks at it
            self.lost += 1
        self._leave(reason)

    # ---- inside ----

    def _take(self, piece: Piece) -> None:
        if piece.track != 0:
            if self._segment is not None:
                self._put(piece)
            return
        if self._held is not None:
            held, self._held = self._held, None
            self._step = held.packet.duration = max(1, (piece.packet.dts or 0) - (held.packet.dts or 0))
            self._put(held)
        key = piece.packet.is_keyframe or self._tracks[0].kind == "audio"
        if key:
            self._at_key_frame(piece)
        if self._segment is not None:
            self.samples += 1
            self._held = piece

    def _at_key_frame(self, piece: Piece) -> None:
        if self._timeline is None or self._segment is None:
            self._begin_run(piece)
        if self._timeline is None:
            return
        media_us = self._media_us(piece)
        self._timeline.heard(media_us, piece.arrived_us)
        if self._segment is not None:
            if not self._cut and self._timeline.at(media_us).utc_us < self._boundary_us:
                return
            self._turn(media_us)
        self._open(media_us)

    def _begin_run(self, piece: Piece) -> None:
        """Read both clocks once; the first leading sample gets media time LEAD_US, the other tracks keep their distance to it."""
        self.run, self.samples, self._sealed_bytes, self._sealed_frames = uuid.uuid4().hex, 0, 0, 0
        now = self._clock.now()
        self._timeline = Timeline(now.plus(piece.arrived_us - now.boot_us))
        first = Fraction(piece.packet.dts or 0) * _base(piece)
        self._shifts = [None] * len(self._tracks)
        self._zero = Fraction(LEAD_US, US) - first
        log.info("run began stream=%s run=%s", self._spec.id, self.run)

    def _shift(self, piece: Piece) -> int:
        shift = self._shifts[piece.track]
        if shift is None:
            shift = self._shifts[piece.track] = round(self._zero / _base(piece))
        return shift

    def _media_us(self, piece: Piece) -> int:
        return int(Fraction((piece.packet.dts or 0) + self._shift(piece)) * _base(piece) * US)

    def _put(self, piece: Piece) -> None:
        if self._segment is None:
            return
        packet, shift = piece.packet, self._shift(piece)
        if packet.dts is None or packet.pts is None or packet.dts + shift < 0:
            self.lost += 1                      # sound from more than a second before the first picture
            return
        if self.meter is not None and self._tracks[piece.track].kind == "audio":
            self.meter.hear(packet)
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        before = self._segment.sink.whole
        self._segment.mux(piece.track, packet)
        if self._segment.sink.whole != before and self._segment.sink.index.fragments:
            now = self._clock.now()
            self.newest_boot_us, self.newest_utc_us = now.boot_us, now.utc_us

    def _open(self, media_us: int) -> None:
        if self._timeline is None:
            return
        start = self._timeline.at(media_us)
        path = day_folder(self._folder, start.utc_us) / f"{stem(self.seq, start.utc_us)}.mp4"
        codec = "+".join(t.codec for t in self._tracks)
        opening = Opening(self._spec.id, self.seq, self.run, start, media_us, codec, self._clock_state())
        self._segment = Segment(path, opening, self._tracks)
        self.seq += 1
        self._told_full = False
        length, offset = self._spec.segment_s * US, self._spec.offset_s * US
        self._boundary_us = (start.utc_us - offset) // length * length + length + offset
        self._cut = False

    def _turn(self, media_us: int) -> None:
        if self._timeline is not None:
            end = self._timeline.turn(media_us)
            self._seal("cut" if self._cut else "rotated", end, media_us)

    def _seal(self, reason: str, end: Stamp | None, media_us: int | None) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        dropped, self._repairs_then, self._lost_then = self._dropped_here(), self._repairs(), self.lost
        sidecar = segment.seal(end, media_us, reason, dropped, self.meter.turn() if self.meter else None)
        if sidecar is None:
            self.seq = segment.opening.seq          # nothing came of it: the number is free again
            return
        self._sealed_bytes += sidecar.bytes
        self._sealed_frames += sidecar.frames
        self.segments += 1
        self._publish(segment.path, sidecar)

    def _dropped_here(self) -> int:
        return max(0, self._repairs() - self._repairs_then + self.lost - self._lost_then)

    def _publish(self, path: Path, sidecar: Sidecar) -> None:
        self._unpublished = (path, sidecar)
        publish(path, sidecar)
        self._unpublished = None
        log.info("segment sealed stream=%s seq=%d end=%s frames=%d dropped=%d", sidecar.stream, sidecar.seq, sidecar.end_reason,
                 sidecar.frames, sidecar.dropped)

    def _leave(self, reason: str) -> None:
        """Seal, and let the run be over: the next key frame begins a new one."""
        self._held = self._timeline = None
        self._cut = False
        try:
            self._seal(reason, None, None)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._wait_for_space()

    def _stop_for_space(self) -> None:
        self._leave("disk-full")
        self._wait_for_space()

    def _wait_for_space(self) -> None:
        if not self._told_full:
            self._told_full = True
            log.warning("disk full stream=%s what=recording paused, footage so far is safe; retry_s=2", self._spec.id)
        self.disk_full, self._retry_us = True, self._clock.now().boot_us + DISK_RETRY_US

    def _try_again(self) -> bool:
        """Is there space again? First the sidecar still owed is written."""
        if self._clock.now().boot_us < self._retry_us:
            return False
        try:
            if self._unpublished is not None:
                self._publish(*self._unpublished)
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._wait_for_space()
            return False
        self.disk_full = False
        return True


def _base(piece: Piece) -> Fraction:
    return Fraction(piece.packet.time_base)
