"""Samples in, rolling segments out: anchors runs in time and turns to a new file at key frames.

One object per worker; nothing in it waits. It holds the newest leading sample back until the next one says how long it lasts, so
that files end where the next begins. At a turn the new file waits in memory for its first sound: what sounded before the turn goes to the
old file still, so that both tracks are cut at one moment; and if none comes the new file is declared without (a file with an empty
track plays nowhere), until it sounds again. Called by worker, by one thread at a time.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
"""A new file waits so long, in memory, for its first sound."""
STEP_US = 600 * US
"""No sample follows another by more than this within a file: MP4 bears 2^31 ticks, and FFmpeg ends the process over more."""
CHANGES, CHANGES_US = 6, 60 * US
"""A camera that changes its picture more often than so many times in a minute gets no new file for each change: the parameter sets
are in the stream as well, and thousands of tiny files help nobody."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Turn:
    """A file that is to begin at a key frame: its place in the run and in time, how the one before ends, and the samples that wait."""

    media_us: int
    stamp: Stamp
    reason: str
    waiting: list[Piece]
    sounds: bool = False
    late: bool = False      # sound came, but of the time before the turn


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
        self._turn: _Turn | None = None
        self._timeline: Timeline | None = None
        self._refusals = 0                      # of the disk, when the run began
        self._bases: list[tuple[int, int]] = []
        self._shifts: list[int] = []
        self._zero = Fraction(0)
        self._newest: list[int | None] = []     # dts of each track's newest sample in this file
        self._held: Piece | None = None         # the newest leading sample: how long it lasts is not known yet
        self._behind: list[Piece] | None = None     # sound that comes before a file's first picture is let go: a file begins with a picture
        self._step = 0                          # what the one before lasted, in its track's ticks
        self._cut = self._sound_in_fragment = False
        self._sound_us = self._opened_us = 0    # when sound was last heard, when the present file was opened
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
        self._sound_us = 0

    def retrack(self, tracks: Sequence[Track]) -> None:
        """The camera changed its picture: samples from here on are of these tracks. The next key frame begins a new file."""
        if self._turn is not None:
            self._pass_on(self._turn)           # what waits is of the tracks before
        self._next_tracks = tracks

    def cut(self) -> None:
        """Turn to a new segment at the next key frame."""
        self._cut = self._muxer is not None

    def write(self, piece: Piece) -> None:
        """Record one sample."""
        disk = self._disk
        if self._timeline is not None and disk.refusals != self._refusals:
            self._leave(disk.refused_for)       # the disk has ended the run, with its reason: a new one, when it takes again
        if disk.refusing:
            self.lost += 1
            return
        self._arrived_us = piece.arrived_us
        if piece.track != 0:
            self._sound_us = piece.arrived_us
        elif (last := self._last()) is not None and self._is_far(piece, (piece.packet.dts or 0) - (last.packet.dts or 0)):
            self.end("camera-lost")             # one run bears no such step
        if self._timeline is None:
            if piece.track != 0 or not self._is_key(piece):
                return
            self._begin_run(piece)
        if self._turn is None:
            self._take(piece)
        else:
            self._wait_for_sound(self._turn, piece)

    def end(self, reason: str) -> None:
        """The run is over: write what is held, seal."""
        turn, self._turn = self._turn, None
        if turn is not None and self._muxer is not None and turn.reason != "format-changed":
            self._pass(turn.waiting)            # too late for a file of its own
        elif turn is not None:
            self._pass_on(turn)
        if self._held is not None and self._muxer is not None:
            self._held.packet.duration = self._step or self._held.packet.duration
            self._put_leading(self._held)
        self._leave(reason)

    # ---- inside ----

    def _last(self) -> Piece | None:
        """The newest leading sample that is not on its way yet."""
        waiting = [piece for piece in self._turn.waiting if piece.track == 0] if self._turn is not None else []
        return waiting[-1] if waiting else self._held

    def _wait_for_sound(self, turn: _Turn, piece: Piece) -> None:
        """A file is to begin. Sound from before the turn goes to the old one; the first from behind it, or patience, opens the new one."""
        if piece.track != 0 and self._muxer is not None and self._media_us(piece) < turn.media_us:
            self._take_sound(piece)
            turn.late = True
            return
        turn.waiting.append(piece)
        turn.sounds |= piece.track != 0
        if turn.sounds or piece.arrived_us - turn.waiting[0].arrived_us > SOUND_WAIT_US:
            turn.sounds |= turn.late            # it lags behind the picture by more than is waited for: its first is from before the turn
            self._pass_on(turn)

    def _pass_on(self, turn: _Turn) -> None:
        """End the old file, begin the new one, and give it what waited."""
        self._turn = None
        if self._muxer is not None:
            self._finish(turn.reason, turn.stamp, turn.media_us)
        if self._next_tracks is not None:
            self._tracks, self._next_tracks = self._next_tracks, None
        self._open(turn)
        self._pass(turn.waiting)

    def _pass(self, waiting: Sequence[Piece]) -> None:
        for piece in waiting:
            if piece.track != 0:
                self._take_sound(piece)
            else:
                self._hold(piece)

    def _is_key(self, piece: Piece) -> bool:
        return self._tracks[0].kind == "audio" or bool(piece.packet.is_keyframe)

    def _take(self, piece: Piece) -> None:
        if piece.track != 0:
            self._take_sound(piece)
        elif not self._is_key(piece) or not self._at_key_frame(piece):
            self._hold(piece)

    def _take_sound(self, piece: Piece) -> None:
        if self._behind is not None:
            self._behind.append(piece)
        elif self._muxer is not None and self._muxer.has(piece.track):
            self._put(piece)
        else:
            self.lost += 1                      # the file began without sound; the next key frame begins one with it

    def _hold(self, piece: Piece) -> None:
        """Keep the newest leading sample; the one before lasted until now."""
        self._let_go(piece)
        self.samples += 1
        self._held = piece

    def _let_go(self, piece: Piece) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._step = held.packet.duration = max(1, (piece.packet.dts or 0) - (held.packet.dts or 0))
            self._put_leading(held)

    def _put_leading(self, piece: Piece) -> None:
        self._put(piece)
        behind, self._behind = self._behind, None
        for each in behind or ():
            self._put(each)

    def _at_key_frame(self, piece: Piece) -> bool:
        """Whether a file is to begin here; then the key frame waits for its sound."""
        if self._timeline is None:
            return False
        media_us = self._media_us(piece)
        self._timeline.heard(media_us, piece.arrived_us)
        changed = self._has_changed(piece.arrived_us)
        if self._muxer is not None and not (self._cut or changed or self._timeline.at(media_us).utc_us >= self._boundary_us):
            return False
        self._let_go(piece)
        stamp = self._timeline.turn(media_us) if self._muxer is not None else self._timeline.at(media_us)
        self._turn = _Turn(media_us, stamp, "cut" if self._cut else "format-changed" if changed else "rotated", [piece])
        self._cut = False
        if len(self._tracks) == 1:
            self._pass_on(self._turn)
        return True

    def _has_changed(self, now_us: int) -> bool:
        """Must this key frame begin a file because picture or sound are other than the present file's header says?"""
        deaf = self._muxer is not None and not all(map(self._muxer.has, range(len(self._tracks))))
        sound_back = deaf and self._sound_us > self._opened_us
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
        self._newest = [None] * len(self._tracks)
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

    def _is_far(self, piece: Piece, ticks: int) -> bool:
        numerator, denominator = self._bases[piece.track]
        return not 0 < ticks * numerator * US // denominator + 1 <= STEP_US

    def _put(self, piece: Piece) -> None:
        packet, shift, muxer = piece.packet, self._shift(piece), self._muxer
        pts, dts, newest = packet.pts, packet.dts, self._newest[piece.track]
        if muxer is None or dts is None or pts is None or dts + shift < 0 or (newest is not None and self._is_far(piece, dts - newest)):
            self.lost += 1                      # sound from more than a second before the first picture, or a stamp that is nonsense
            return
        self._newest[piece.track] = dts
        packet.pts, packet.dts = pts + shift, dts + shift
        try:
            muxer.mux(piece.track, packet)
        except MUX_ERRORS as error:             # the muxer refused this one packet: the recording goes on
            self.lost += 1
            log.info("packet refused stream=%s error=%s", self._spec.id, type(error).__name__)
        self._sound_in_fragment |= piece.track != 0 or self._tracks[0].kind == "audio"

    def _open(self, turn: _Turn) -> None:
        tracks = [track if number == 0 or turn.sounds else None for number, track in enumerate(self._tracks)]
        codec = "+".join(track.codec for track in tracks if track)
        self._opening = Opening(self._spec.id, 0, self.run, turn.stamp, turn.media_us, codec, self._clock_state())
        self._muxer = Muxer(tracks, self._on_fragment)
        length, offset = self._spec.segment_s * US, self._spec.offset_s * US
        self._boundary_us = (turn.stamp.utc_us - offset) // length * length + length + offset
        self._opened_us = self._arrived_us
        self._behind = [] if turn.sounds else None
        self._newest[1:] = [None] * (len(self._newest) - 1)     # sound may have been away for longer than a file bears

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
        self._disk.seal(End(end, media_us, reason, dropped))
        self._opening = None

    def _leave(self, reason: str) -> None:
        """Seal, and let the run be over: the next key frame begins a new one. Until then there is none."""
        self._finish(reason, None, None)
        self.run = ""
        self._held = self._timeline = self._turn = self._behind = None
        self._cut = False
