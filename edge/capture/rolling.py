"""Samples in, rolling segments out: anchors runs in time and turns to a new file at key frames.

One object per worker; nothing in it waits. It holds the newest leading sample back until the next one says how long it lasts, so
that files end where the next begins. A track that a camera declares and does not send is left out of the next file (a file with an
empty track plays nowhere), and is in again as soon as it sends. Called by worker, by one thread at a time.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from fractions import Fraction

from edge.capture import boxes
from edge.capture.disk import Disk
from edge.capture.muxer import MUX_ERRORS, Muxer
from edge.capture.segments import End
from edge.capture.sidecar import Opening
from edge.capture.streams import Piece, StreamSpec, Track
from edge.capture.timeline import LEAD_US, Timeline
from edge.clock import US, Clock, Stamp

SOUND_WAIT_US = US
"""A run's first file waits so long, in memory, for the first sound, to know whether there is any."""
SOUND_GONE_US = 3 * US
CHANGES, CHANGES_US = 6, 60 * US
"""A camera that changes its picture more often than so many times in a minute gets no new file for each change: the parameter sets
are in the stream as well, and thousands of tiny files help nobody."""

log = logging.getLogger(__name__)


class Rolling:
    """The segments of one stream."""

    def __init__(self, spec: StreamSpec, disk: Disk, clock: Clock, clock_state: Callable[[], str]) -> None:
        self._spec, self._disk, self._clock, self._clock_state = spec, disk, clock, clock_state
        self.run = ""
        self.samples = self.lost = 0            # leading samples of this run; samples that could not be recorded
        self._tracks: Sequence[Track] = ()
        self._next_tracks: Sequence[Track] | None = None
        self._changed: deque[int] = deque(maxlen=CHANGES)
        self._repairs: Callable[[], int] = lambda: 0
        self._muxer: Muxer | None = None
        self._opening: Opening | None = None    # of the file whose first fragment is not whole yet
        self._timeline: Timeline | None = None
        self._refusals = 0                      # of the disk, when the run began
        self._bases: list[tuple[int, int]] = []
        self._shifts: list[int] = []
        self._zero = Fraction(0)
        self._early: list[Piece] | None = None  # a run's first samples, until it is known whether it has sound
        self._held: Piece | None = None         # the newest leading sample: how long it lasts is not known yet
        self._step = 0                          # what the one before lasted, in its track's ticks
        self._cut = self._sound_in_fragment = False
        self._sound_us: int | None = None       # when sound was last heard
        self._arrived_us = self._boundary_us = self._repairs_then = self._lost_then = 0

    @property
    def dropped(self) -> int:
        """Timestamps mended and samples lost since the source was opened."""
        return self._repairs() + self.lost

    # ---- what the worker orders ----

    def begin(self, tracks: Sequence[Track], repairs: Callable[[], int]) -> None:
        """A source was opened: its samples follow. `repairs`: its count of mended timestamps."""
        self._tracks, self._next_tracks, self._repairs, self._repairs_then = tracks, None, repairs, 0
        self.lost = self._lost_then = self._step = 0
        self._sound_us = None

    def retrack(self, tracks: Sequence[Track]) -> None:
        """The camera changed its picture: samples from here on are of these tracks. The next key frame begins a new file."""
        self._next_tracks = tracks

    def cut(self) -> None:
        """Turn to a new segment at the next key frame."""
        self._cut = self._muxer is not None

    def write(self, piece: Piece) -> None:
        """Record one sample."""
        disk = self._disk
        if self._timeline is not None and disk.refusals != self._refusals:
            self._leave(disk.refusing)          # the disk has ended the run, with its reason: a new one, when it takes again
        if disk.refusing:
            self.lost += 1
            return
        self._arrived_us = piece.arrived_us
        if piece.track != 0:
            self._sound_us = piece.arrived_us
        if self._early is not None:
            self._wait_for_sound(piece)
        elif self._timeline is not None:
            self._take(piece)
        elif piece.track == 0 and self._is_key(piece):
            self._begin_run(piece)
            self._early = []
            self._wait_for_sound(piece)

    def end(self, reason: str) -> None:
        """The run is over: write what is held, seal."""
        early, self._early = self._early, None
        for each in early or ():
            self._take(each)
        if self._held is not None and self._muxer is not None:
            self._held.packet.duration = self._step or self._held.packet.duration
            self._put(self._held)
        self._leave(reason)

    # ---- inside ----

    def _wait_for_sound(self, piece: Piece) -> None:
        early = self._early if self._early is not None else []
        early.append(piece)
        if len(self._tracks) == 1 or self._hears(piece.arrived_us) or piece.arrived_us - early[0].arrived_us > SOUND_WAIT_US:
            self._early = None
            for each in early:
                self._take(each)

    def _hears(self, now_us: int) -> bool:
        return self._sound_us is not None and now_us - self._sound_us < SOUND_GONE_US

    def _is_key(self, piece: Piece) -> bool:
        return self._tracks[0].kind == "audio" or bool(piece.packet.is_keyframe)

    def _take(self, piece: Piece) -> None:
        if piece.track != 0:
            if self._muxer is not None and self._muxer.has(piece.track):
                self._put(piece)
            else:
                self.lost += 1                  # the file began without sound; the next key frame begins one with it
            return
        if self._held is not None:
            held, self._held = self._held, None
            self._step = held.packet.duration = max(1, (piece.packet.dts or 0) - (held.packet.dts or 0))
            self._put(held)
        if self._is_key(piece):
            self._at_key_frame(piece)
        self.samples += 1
        self._held = piece

    def _at_key_frame(self, piece: Piece) -> None:
        if self._timeline is None:
            return
        media_us = self._media_us(piece)
        self._timeline.heard(media_us, piece.arrived_us)
        changed = self._has_changed(piece.arrived_us)
        if self._muxer is not None:
            if not (self._cut or changed or self._timeline.at(media_us).utc_us >= self._boundary_us):
                return
            self._finish("cut" if self._cut else "format-changed" if changed else "rotated", self._timeline.turn(media_us), media_us)
        if self._next_tracks is not None:
            self._tracks, self._next_tracks = self._next_tracks, None
        self._open(media_us, piece.arrived_us)

    def _has_changed(self, now_us: int) -> bool:
        """Must this key frame begin a file because picture or sound are other than the present file's header says?"""
        sound_back = self._muxer is not None and self._hears(now_us) and not all(map(self._muxer.has, range(len(self._tracks))))
        if self._next_tracks is None and not sound_back:
            return False
        if len(self._changed) == CHANGES and now_us - self._changed[0] < CHANGES_US:
            return False                                # it shows in the next file that begins of itself
        self._changed.append(now_us)
        return True

    def _begin_run(self, piece: Piece) -> None:
        """Read both clocks once; the first leading sample gets media time LEAD_US, the other tracks keep their distance to it."""
        self.run, self.samples = uuid.uuid4().hex, 0
        now = self._clock.now()
        self._timeline = Timeline(now.plus(piece.arrived_us - now.boot_us))
        self._zero = Fraction(LEAD_US, US) - Fraction(piece.packet.dts or 0) * Fraction(piece.packet.time_base)
        self._bases = [(0, 1)] * len(self._tracks)
        self._shifts = [0] * len(self._tracks)
        self._refusals = self._disk.refusals
        log.info("run began stream=%s run=%s", self._spec.id, self.run)

    def _shift(self, piece: Piece) -> int:
        """Ticks from the source's zero to the run's."""
        if not self._bases[piece.track][0]:
            base = Fraction(piece.packet.time_base)
            self._bases[piece.track] = base.numerator, base.denominator
            self._shifts[piece.track] = round(self._zero / base)
        return self._shifts[piece.track]

    def _media_us(self, piece: Piece) -> int:
        shift, (numerator, denominator) = self._shift(piece), self._bases[piece.track]
        return ((piece.packet.dts or 0) + shift) * numerator * US // denominator

    def _put(self, piece: Piece) -> None:
        packet, shift, muxer = piece.packet, self._shift(piece), self._muxer
        pts, dts = packet.pts, packet.dts
        if muxer is None or dts is None or pts is None or dts + shift < 0:
            self.lost += 1                      # sound from more than a second before the first picture
            return
        packet.pts, packet.dts = pts + shift, dts + shift
        try:
            muxer.mux(piece.track, packet)
        except MUX_ERRORS as error:             # the muxer refused this one packet: the recording goes on
            self.lost += 1
            log.info("packet refused stream=%s error=%s", self._spec.id, type(error).__name__)
        self._sound_in_fragment |= piece.track != 0 or self._tracks[0].kind == "audio"

    def _open(self, media_us: int, now_us: int) -> None:
        if self._timeline is None:
            return
        start = self._timeline.at(media_us)
        with_sound = len(self._tracks) == 1 or self._hears(now_us)
        tracks = [track if number == 0 or with_sound else None for number, track in enumerate(self._tracks)]
        codec = "+".join(track.codec for track in tracks if track)
        self._opening = Opening(self._spec.id, 0, self.run, start, media_us, codec, self._clock_state())
        self._muxer = Muxer(tracks, self._on_fragment)
        length, offset = self._spec.segment_s * US, self._spec.offset_s * US
        self._boundary_us = (start.utc_us - offset) // length * length + length + offset
        self._cut = False

    def _on_fragment(self, fragment: bytes, times: boxes.FragmentTimes | None) -> None:
        opening, self._opening = self._opening, None
        if opening is not None and self._muxer is not None:     # only now, so that no file ever stands without a fragment
            self._disk.open(opening, self._muxer.header, self._muxer.tracks)
        self._disk.write(fragment, times, self._arrived_us, self._sound_in_fragment)
        self._sound_in_fragment = False

    def _finish(self, reason: str, end: Stamp | None, media_us: int | None) -> None:
        """The present file is over: what the muxer still holds goes to the disk, and the order to seal it."""
        if self._muxer is None:
            return
        self._muxer.close()
        self._muxer = None
        dropped = max(0, self._repairs() - self._repairs_then + self.lost - self._lost_then)
        self._repairs_then, self._lost_then = self._repairs(), self.lost
        if self._opening is None:
            self._disk.seal(End(end, media_us, reason, dropped))
        self._opening = None

    def _leave(self, reason: str) -> None:
        """Seal, and let the run be over: the next key frame begins a new one."""
        self._finish(reason, None, None)
        self._held = self._timeline = self._early = None
        self._cut = False
