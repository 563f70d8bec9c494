"""What cameras do to their timestamps, put right: none missing, dts rising, no jump when a camera sets its clock. Pure; called by rtsp.

Everything mended is counted, nothing stops the recording (R-A6). Times are whole microseconds, boot time for arrivals.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from edge.clock import US

if TYPE_CHECKING:
    from av.packet import Packet

AHEAD_US = 300_000
"""Nothing arrives before it was made: a sample that leaps ahead of the one before, and is earlier than any was, both by more than this,
bears a clock that was set forward."""
BACK_US = 400_000
"""… and one set back. Pictures without decoding times step back by a few frames, too."""
SETTLED_US, UNSETTLED_US = 3 * US, 10 * US
"""A connection's first samples may have waited for it by up to the second figure: for so long, less lateness than theirs proves little."""
DRIFT = 2000
"""Least lateness creeps up by 1/2000, 500 ppm: a camera's clock may be slow by that much (Moonfire NVR's bound)."""
TOGETHER_US, ALIKE_US = 30 * US, 600_000
"""Tracks whose clock jumps within this time by about the same are moved by exactly the same: they share one clock."""


class TrackTimes:
    """Makes one track's timestamps such as MP4 takes: none missing, dts rising, pts not before dts."""

    def __init__(self, base: Fraction, reordered_frames: int = 0) -> None:
        """`base`: seconds a tick."""
        self.repairs = 0
        self.base = base
        self._reordered = reordered_frames
        self._pts = self._dts = None  # type: int | None

    def place(self, packet: Packet[Any], offset_us: int = 0) -> None:
        """Mend the packet's timestamps and move them by `offset_us`."""
        pts, dts, last = packet.pts, packet.dts, self._dts
        shift = self.ticks(offset_us) if offset_us else 0
        if pts is None:
            self.repairs += 1
            pts = dts if dts is not None else 0 if self._pts is None else self._pts + (packet.duration or 1)
        self._pts = pts
        if dts is None:
            self.repairs += 1
            dts = pts - self._reordered * (packet.duration or 1) if last is None else last + 1 - shift
        pts, dts = pts + shift, dts + shift
        if last is not None and dts <= last:
            self.repairs += 1
            dts = last + 1
        packet.dts = self._dts = dts
        packet.pts = max(pts, dts)

    def us(self, ticks: int) -> int:
        """Microseconds of so many ticks."""
        return ticks * self.base.numerator * US // self.base.denominator

    def ticks(self, us: int) -> int:
        """So many microseconds in ticks."""
        return us * self.base.denominator // (US * self.base.numerator)


@dataclass(slots=True)
class _Track:
    began_us: int           # when the first sample arrived
    arrived_us: int         # when the newest did
    stamp_us: int           # its time, mended
    least_us: int           # the least lateness: arrival less time
    step_us: int = 0        # the usual step
    offset_us: int = 0


class CameraClock:
    """The clock behind a camera's timestamps. `count`: how often it was set, by any track."""

    def __init__(self) -> None:
        self.count = 0
        self._tracks: dict[int, _Track] = {}
        self._newest: tuple[int, int, int] | None = None    # the last jump: track, by how much it was moved back, when

    def offset_us(self, track: int, stamp_us: int, arrived_us: int) -> int:
        """By how much this sample's time must be moved so that its track goes on where it was.

        A hole in the stream, or a late burst of it, is no jump: there the time from sample to sample and the lateness agree.
        """
        known = self._tracks.get(track)
        if known is None:
            self._tracks[track] = _Track(arrived_us, arrived_us, stamp_us, arrived_us - stamp_us)
            return 0
        mended, waited = stamp_us + known.offset_us, arrived_us - known.arrived_us
        step = mended - known.stamp_us
        bound = AHEAD_US if arrived_us - known.began_us > SETTLED_US else UNSETTLED_US
        early = known.least_us - (arrived_us - mended) > bound and step > known.step_us + AHEAD_US
        if step < -BACK_US or early:
            move = self._like_the_other(track, (waited if waited > US else known.step_us) - step, arrived_us)
            self.count += 1
            known.offset_us += move
            mended += move
        elif 0 < step < US:
            known.step_us = step
        known.least_us = min(known.least_us + max(0, waited) // DRIFT, arrived_us - mended)
        known.arrived_us, known.stamp_us = arrived_us, mended
        return known.offset_us

    def _like_the_other(self, track: int, move: int, arrived_us: int) -> int:
        if self._newest is not None:
            other, moved, when = self._newest
            if other != track and arrived_us - when < TOGETHER_US and abs(moved - move) < ALIKE_US:
                self._newest = None
                return moved
        self._newest = (track, move, arrived_us)
        return move
