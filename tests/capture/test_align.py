"""Two crystals, one timeline: what a microphone heard stands beside what the camera saw, for hours, whatever the card does.

The card is simulated to the sample: its own rate, jitter of arrival, losses. All times are simulated, so an hour takes seconds.
Marks (a click each few seconds) are put in at known moments of the room's time and looked for in the decoded AAC.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.packet import Packet

from edge.capture import align, camera, encoder, microphone, sound
from edge.capture.align import AlignedSound, CardClock
from edge.capture.camera import EncodedEye, Picture, UsbCamera
from edge.capture.portaudio import Block
from edge.capture.streams import Piece, SourceFault, StreamSpec
from edge.clock import US

RATE = 16000
BEGAN_US = 987_654_321_000      # eleven days after boot: timestamps as large as they get
CLICK_S = 0.004
NOISE = 400                      # peak of the room's noise, so that zeros in the output can only be silence that was put in


@dataclass
class SimCard:
    """A microphone of the room: sound at room time t is sample (t - began) * rate * (1 + ppm) of the card.

    `clicks_s`: moments of room time. `losses`: (at room second, seconds): what the card loses, saying so or not.
    """

    ppm: float
    seconds: float
    clicks_s: npt.NDArray[np.float64]
    losses: tuple[tuple[float, float], ...] = ()
    says: bool = True
    block_s: float = 0.1
    jitter_s: float = 0.004
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(20261124))

    def blocks(self) -> Iterator[Block]:
        rate = RATE * (1 + self.ppm * 1e-6)
        count, at = round(RATE * self.block_s), 0
        noise = self.rng.integers(1, NOISE, 1 << 16, dtype=np.int16) * self.rng.choice(np.array([-1, 1], dtype=np.int16), 1 << 16)
        lost = [(round(when * rate), round(length * rate)) for when, length in self.losses]
        click = (8000 * np.sin(2 * np.pi * 2000 * np.arange(round(CLICK_S * RATE)) / RATE)).astype(np.int16)
        starts = np.round(self.clicks_s * rate).astype(int)
        opened = True
        while at < self.seconds * rate:
            overflowed = False
            if lost and at >= lost[0][0]:
                at += lost.pop(0)[1]
                overflowed = self.says
            samples = np.resize(np.roll(noise, -int(at) % 977), count)
            for start in starts[np.searchsorted(starts, at - len(click)):np.searchsorted(starts, at + count)]:
                begin, end = max(start, at), min(start + len(click), at + count)
                if begin < end:
                    samples[begin - at:end - at] = click[begin - start:end - start]
            at += count
            late = self.rng.uniform(0, self.jitter_s)
            yield Block(samples.tobytes(), BEGAN_US + round((at / rate + late) * US), overflowed, opened)
            opened = False


class Decoded:
    """AAC packets as a player hears them: samples by boot time, holes kept."""

    def __init__(self, extradata: bytes | None) -> None:
        self._context = av.CodecContext.create("aac", "r")
        self._context.extradata = extradata
        self.pieces: list[tuple[int, npt.NDArray[np.float32]]] = []     # (pts in samples, samples)

    def take(self, packets: list[Packet[Any]]) -> None:
        for packet in packets:
            for frame in self._context.decode(packet):  # type: ignore[attr-defined]
                self.pieces.append((packet.pts or 0, frame.to_ndarray()[0]))

    def clicks_s(self) -> npt.NDArray[np.float64]:
        """Where the clicks begin, in seconds after BEGAN_US."""
        found: list[float] = []
        for pts, samples in self.pieces:
            loud = np.flatnonzero(np.abs(samples) > 0.08)
            if loud.size:
                at = (pts + int(loud[0])) / RATE - BEGAN_US / US
                if not found or at - found[-1] > 0.1:
                    found.append(at)
        return np.array(found)

    def silences(self, longer_s: float) -> list[tuple[float, float]]:
        """(when, how long) nothing at all stands in the output, in seconds after BEGAN_US; the microphone's noise never is nothing."""
        found: list[tuple[float, float]] = []
        run, began, last = 0, 0, 0
        for pts, samples in self.pieces:
            quiet = np.abs(samples) < 2e-5
            if quiet.all():
                began, run = (began, run) if run else (pts, 0)
                run += len(samples)
                continue
            edges = np.flatnonzero(np.diff(np.concatenate(([0], quiet.astype(np.int8), [0]))))
            for start, end in edges.reshape(-1, 2):
                begins, length = (began, run + end) if start == 0 and run else (pts + start, end - start)
                if end < len(samples) and length > longer_s * RATE:
                    found.append((begins / RATE - BEGAN_US / US, length / RATE))
            if quiet[-1]:
                began, run = pts + int(edges[-2]), int(edges[-1] - edges[-2])
            else:
                if run and not quiet[0] and run > longer_s * RATE:
                    found.append((began / RATE - BEGAN_US / US, run / RATE))
                run = 0
            last = pts
        assert last
        return found


def hear(card: SimCard) -> tuple[AlignedSound, Decoded, list[int]]:
    """The whole of it: (the aligner, what a player hears, steps between packets)."""
    aligned = AlignedSound(RATE)
    decoded = Decoded(aligned.track().extradata)
    stamps: list[int] = []
    for block in card.blocks():
        packets = aligned.take(block)
        stamps += [packet.pts or 0 for packet in packets]
        decoded.take(packets)
    return aligned, decoded, np.diff(stamps).tolist()


def check_drift(ppm: float, seconds: float, period_s: float) -> None:
    clicks = np.arange(2.0, seconds - 2, period_s)
    aligned, decoded, steps = hear(SimCard(ppm, seconds, clicks))
    found = decoded.clicks_s()
    assert len(found) == len(clicks)
    assert np.abs(found - clicks).max() <= 0.020, "sound keeps to the room's time"
    assert set(steps) == {1024}, "and is one unbroken track"
    assert [s for s in decoded.silences(0.005) if s[0] > 1] == []
    assert aligned.sync.overruns == 0
    assert abs(aligned.sync.offset_ms) <= 20
    assert aligned.sync.drift_ppm == pytest.approx(ppm, abs=20)


@pytest.mark.parametrize("ppm", [300, -300])
def test_r_s1_sound_that_drifts_stays_with_the_picture(ppm: int) -> None:
    """R-S1, shortened to eight minutes, in which the error would have grown to 144 ms."""
    check_drift(ppm, 480, 5)


@pytest.mark.slow
@pytest.mark.parametrize("ppm", [300, -300])
def test_r_s1_for_an_hour(ppm: int) -> None:
    """R-S1: 1.08 s of error without alignment."""
    check_drift(ppm, 3600, 5)
