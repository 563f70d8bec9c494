"""Sound of a card with a clock of its own, kept to the boot clock that times the picture: blocks in, AAC packets out.

Two crystals differ by 100 to 300 ppm, a second in an hour. So each block says when it was taken, a delay-locked loop smooths that,
and the resampler stretches the sound softly by so little that nobody hears it. Silence is put in only where the card lost samples,
exactly as much, and counted. No wall clock is read. No device is known here: camera and microphone hand in the blocks.
Sources: F. Adriaensen, "Using a DLL to filter time" (Linux Audio Conference 2005); the figures at the constants.
"""

from __future__ import annotations

import math
from collections import deque
from fractions import Fraction
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.packet import Packet

from edge.capture.portaudio import Block
from edge.capture.sound import AacEncoder
from edge.capture.streams import Sync, Track
from edge.clock import US

WIDE_HZ, NARROW_HZ = 0.5, 0.02
"""The loop's bandwidth at first and after 25 s: 10 ms of jitter of the arrival become less than 1 ms."""
MOST_PPM = 1000
"""Crystals are within 100 ppm, cheap ones within 300: what is more is jitter of the beginning."""
JUDGED_S = 1.0
LOST_S = 0.25
"""So far behind for JUDGED_S, samples were lost although nobody said so. A sound server's first seconds lag by 0.1 s without loss."""
LOST_SAID_S = 0.005
TRUSTED_S = 0.05
"""A block that is later than this says little of the card: the reader was held up. The loop counts it as so late."""
FILLED_S = 2.0
"""A longer hole is left open: the file's sound ends, and begins anew."""
RATE_WINDOW_S, RATE_LEAST_S = 300.0, 60.0
SAMPLE_BYTES = 2
LOOKAHEAD = 16
"""Samples that swresample holds back (half of its default filter_size)."""


class CardClock:
    """What the card's samples say of time: smooths when blocks came, and tells lost samples from late ones."""

    def __init__(self, rate_hz: int) -> None:
        self._rate = rate_hz
        self._nominal_us = US / rate_hz
        self.drift_ppm = 0
        self.restart()

    def restart(self) -> None:
        """The card was opened anew: the next block sets the time. The drift that was measured stays."""
        self.ended_us = -1.0            # smoothed: when the newest sample was taken; below 0: no block yet
        self.sample_us = self._nominal_us       # what a sample lasts by the boot clock
        self._settle()

    def _settle(self) -> None:
        self._settled_s, self._samples = 0.0, 0
        self._late: deque[tuple[float, float]] = deque()                    # (seconds of sound, microseconds late)
        self._marks: deque[tuple[int, float]] = deque()                     # (samples, boot time), one a second

    def heard(self, block: Block) -> int:
        """Take a block's time. How many samples are missing before it; negative: so many are there twice (a false loss)."""
        count = len(block.data) // SAMPLE_BYTES
        if self.ended_us < 0:
            self.ended_us = float(block.ended_us)
            return 0
        due_us = self.ended_us + count * self.sample_us
        missing_us = self._missing(count / self._rate, block.ended_us - due_us, block.overflowed)
        if missing_us:
            due_us += missing_us
            self._settle()
        self._follow(due_us, block.ended_us - due_us, count)
        return round(missing_us / self._nominal_us)

    def _missing(self, lasts_s: float, late_us: float, overflowed: bool) -> float:
        if overflowed:
            return late_us if late_us > LOST_SAID_S * US else 0.0
        late = self._late
        late.append((lasts_s, late_us))
        while sum(lasts for lasts, _ in late) - late[0][0] >= JUDGED_S:
            late.popleft()
        if sum(lasts for lasts, _ in late) < JUDGED_S:
            return 0.0
        least, most = min(us for _, us in late), max(us for _, us in late)
        if least > LOST_S * US:         # a block may be late for many reasons; never is it early
            return least
        return most if most < -LOST_S * US else 0.0

    def _follow(self, due_us: float, late_us: float, count: int) -> None:
        """The loop itself: a second-order filter, critically damped, that narrows as it settles."""
        lasts_s = count / self._rate
        self._settled_s += lasts_s
        turn = min(0.5, 2 * math.pi * max(NARROW_HZ, WIDE_HZ / max(1.0, self._settled_s)) * lasts_s)
        late_us = max(-TRUSTED_S * US, min(TRUSTED_S * US, late_us))
        self.ended_us = due_us + math.sqrt(2) * turn * late_us
        least, most = self._nominal_us * (1 - MOST_PPM / 1e6), self._nominal_us * (1 + MOST_PPM / 1e6)
        self.sample_us = max(least, min(most, self.sample_us + turn * turn * late_us / count))
        self._samples += count
        if self._settled_s > WIDE_HZ / NARROW_HZ:
            self._measure()

    def _measure(self) -> None:
        """The drift, between two moments a minute or more apart, once the loop has settled."""
        marks = self._marks
        if marks and self._samples - marks[-1][0] < self._rate:
            return
        marks.append((self._samples, self.ended_us))
        while marks[-1][0] - marks[0][0] > RATE_WINDOW_S * self._rate:
            marks.popleft()
        samples, took_us = marks[-1][0] - marks[0][0], marks[-1][1] - marks[0][1]
        if samples >= RATE_LEAST_S * self._rate:
            self.drift_ppm = round((samples * self._nominal_us / took_us - 1) * 1e6)


class AlignedSound:
    """One microphone's blocks -> AAC on the boot clock, mono, at the card's nominal rate. Packets are timed in 1/rate_hz of boot time."""

    def __init__(self, rate_hz: int) -> None:
        self._rate = rate_hz
        self._clock = CardClock(rate_hz)
        self._aac = AacEncoder(rate_hz)
        self._placed_us: float | None = None        # boot time up to which there is sound
        self._doubled = 0                           # samples still to be left out
        self._lag = LOOKAHEAD                       # samples by which what was encoded ends before what was heard
        self.overruns = 0

    def track(self) -> Track:
        return self._aac.track()

    def boot_us(self, packet: Packet[Any]) -> int:
        """When the beginning of a packet's sound was taken."""
        return (packet.pts or 0) * US // self._rate

    @property
    def sync(self) -> Sync:
        """How the card runs, and where its sound lies. `drift_ppm` is 0 until it has been measured: a minute and a half."""
        return Sync(self._clock.drift_ppm, round((LOOKAHEAD - self._lag) * 1000 / self._rate), self.overruns)

    def take(self, block: Block) -> list[Packet[Any]]:
        """What became ready by this block."""
        clock = self._clock
        if block.opened:
            clock.restart()
        missing, samples = clock.heard(block), np.frombuffer(block.data, dtype=np.int16)
        began_us = clock.ended_us - len(samples) * clock.sample_us
        if block.opened and self._placed_us is not None:
            missing = round((began_us - self._placed_us) * self._rate / US)
        packets: list[Packet[Any]] = []
        if missing or block.overflowed:
            self.overruns += 1
            self._doubled += max(0, -missing)
        if missing > FILLED_S * self._rate:
            packets += self._aac.restart()
        elif missing > 0:
            packets += self._put(np.zeros(missing, dtype=np.int16), began_us - missing * clock.sample_us)
        left_out = min(self._doubled, len(samples))
        self._doubled -= left_out
        if left_out < len(samples):
            packets += self._put(samples[left_out:], began_us + left_out * clock.sample_us)
        self._placed_us = clock.ended_us
        return packets

    def _put(self, samples: npt.NDArray[np.int16], began_us: float) -> list[Packet[Any]]:
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = self._rate, Fraction(1, self._rate)
        frame.pts = round(began_us * self._rate / US)
        packets = self._aac.turn(frame)
        self._lag = frame.pts + len(samples) - self._aac.end
        return packets
