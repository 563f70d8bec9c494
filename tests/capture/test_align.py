"""Two crystals, one timeline: what a microphone heard stands beside what the camera saw, for hours, whatever the card does.

The card is simulated to the sample: its own rate, jitter of arrival, losses. All times are simulated, so an hour takes seconds.
Marks (a click each few seconds) are put in at known moments of the room's time and looked for in the decoded AAC.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.packet import Packet

from edge.capture import align, camera, encoder, microphone, portaudio, sound
from edge.capture.align import AlignedSound
from edge.capture.camera import EncodedEye, Picture, UsbCamera
from edge.capture.muxer import Muxer
from edge.capture.portaudio import Block
from edge.capture.streams import SourceFault, StreamSpec
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
            for frame in self._context.decode(packet):
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


def check_drift(ppm: float, seconds: float) -> None:
    clicks = np.arange(2.0, seconds - 2, 5)
    aligned, decoded, steps = hear(SimCard(ppm, seconds, clicks))
    found = decoded.clicks_s()
    assert len(found) == len(clicks)
    assert np.abs(found - clicks).max() <= 0.020, "sound keeps to the room's time"
    assert set(steps) == {1024}, "and is one unbroken track"
    assert [s for s in decoded.silences(0.005) if s[0] > 1] == []
    assert aligned.sync.overruns == 0
    assert abs(aligned.sync.offset_ms) <= 5
    assert aligned.sync.drift_ppm == pytest.approx(ppm, abs=20)


@pytest.mark.parametrize("ppm", [300, -300])
def test_r_s1_sound_that_drifts_stays_with_the_picture(ppm: int) -> None:
    """R-S1, shortened to four minutes, in which the error would have grown to 72 ms."""
    check_drift(ppm, 240)


@pytest.mark.slow
@pytest.mark.parametrize("ppm", [300, -300])
def test_r_s1_for_an_hour(ppm: int) -> None:
    """R-S1: 1.08 s of error without alignment."""
    check_drift(ppm, 3600)


@pytest.mark.parametrize("says", [True, False], ids=["the card says so", "nobody says so"])
def test_r_s2_what_the_card_lost_becomes_as_much_silence(says: bool) -> None:
    """R-S2: 0.5 s lost twice, at a card that drifts; sound keeps to the room's time before and after."""
    losses = ((40.0, 0.5), (70.05, 0.5))
    clicks = np.arange(2.5, 118, 5)
    aligned, decoded, steps = hear(SimCard(150, 120, clicks, losses, says))
    errors = decoded.clicks_s() - clicks
    assert len(errors) == len(clicks)
    assert np.abs(errors).max() <= 0.020
    silences = [s for s in decoded.silences(0.05) if s[0] > 1]
    assert [length for _, length in silences] == pytest.approx([0.5, 0.5], abs=0.1), "AAC smears an edge over a frame of 64 ms"
    if says:
        assert [when for when, _ in silences] == pytest.approx([40.0, 70.05], abs=0.15), "just where they were lost"
    assert set(steps) == {1024}
    assert aligned.overruns == aligned.sync.overruns == 2, "and it is declared"


def test_a_sound_that_was_only_late_is_not_lost() -> None:
    """A reader that was held up for 0.8 s (a stopped process) and then finds all of it in the card's buffer."""
    card = SimCard(0, 30, np.arange(2.0, 28, 2))
    aligned = AlignedSound(RATE)
    decoded = Decoded(aligned.track().extradata)
    for number, block in enumerate(card.blocks()):
        held_up_us = max(0, 800_000 - (number - 100) * 100_000) if number >= 100 else 0
        decoded.take(aligned.take(replace(block, ended_us=block.ended_us + held_up_us)))
    assert aligned.overruns == 0
    assert np.abs(decoded.clicks_s() - card.clicks_s).max() <= 0.040
    assert [s for s in decoded.silences(0.005) if s[0] > 1] == []


def test_a_microphone_that_comes_back_goes_on_at_its_place() -> None:
    """Away for 1 s: a silence. Away for 90 s: a hole, not 90 s of silence made in one go. Both are declared."""
    clicks = np.arange(1.5, 199, 1)
    aligned = AlignedSound(RATE)
    decoded = Decoded(aligned.track().extradata)
    stamps = []
    away = False
    for block in SimCard(100, 200, clicks).blocks():
        at = (block.ended_us - BEGAN_US) / US
        if 40 < at < 41 or 60 < at < 150:
            away = True
            continue
        packets = aligned.take(replace(block, opened=block.opened or away))
        away = False
        stamps += [packet.pts or 0 for packet in packets]
        decoded.take(packets)
    heard = clicks[(clicks < 40) | ((clicks > 41) & (clicks < 60)) | (clicks > 150)]
    assert np.abs(decoded.clicks_s() - heard).max() <= 0.020
    steps = np.diff(stamps)
    hole, = steps[steps != 1024]
    assert hole / RATE == pytest.approx(90, abs=0.2)
    assert [length for when, length in decoded.silences(0.2) if when > 1] == pytest.approx([1.0, ], abs=0.2)
    assert aligned.overruns == 2


def test_samples_that_are_there_twice_are_left_out() -> None:
    """A sound server that hands out a second of the past: what comes after stands at its place again."""
    clicks = np.arange(2.5, 58, 5)
    aligned = AlignedSound(RATE)
    decoded = Decoded(aligned.track().extradata)
    for number, block in enumerate(SimCard(0, 60, clicks).blocks()):
        if number == 300:
            for _ in range(10):
                decoded.take(aligned.take(Block(bytes(len(block.data)), block.ended_us - 100_000)))
        decoded.take(aligned.take(block))
    found = decoded.clicks_s()
    assert np.abs(found[found < 29] - clicks[clicks < 29]).max() <= 0.020
    assert np.abs(found[found > 40] - clicks[clicks > 40]).max() <= 0.020
    assert aligned.overruns >= 1


def test_r_s3_no_wall_clock_is_read() -> None:
    """R-S3: nothing that makes or times samples at this PC can ask what o'clock it is (behaviour: test_camera)."""
    for module in (align, camera, encoder, microphone, portaudio, sound):
        tree = ast.parse(Path(module.__file__ or "").read_text(encoding="utf-8"))
        called = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert called & {"time.time", "time.time_ns", "time.CLOCK_REALTIME", "time.localtime", "time.gmtime", "datetime.now"} == set()


# ---- R-S4: picture and sound through one source into one file ----------------------------------------------------------------

FPS = 5
FLASH_EVERY = 15                # pictures


class SimRoom:
    """A camera and a microphone in one simulated room: every FLASH_EVERY-th picture is white, and at that moment there is a clap."""

    size = (160, 90)

    def __init__(self, seconds: float, ppm: float) -> None:
        self._rng = np.random.default_rng(4)
        uneven = self._rng.uniform(-0.05, 0.05, round(seconds * FPS))
        self._taken_s = np.arange(len(uneven)) / FPS + 0.1 + uneven
        self.flashes_s = self._taken_s[FLASH_EVERY::FLASH_EVERY]
        self._blocks = SimCard(ppm, seconds, self.flashes_s).blocks()
        self._next: Block | None = next(self._blocks)
        self._number = 0
        noise = self._rng.integers(0, 40, (90, 160, 3), dtype=np.uint8)
        self._dark, self._white = [np.roll(noise, n, axis=1) for n in range(8)], np.full_like(noise, 255)

    def read(self) -> tuple[Picture, int]:
        if self._number == len(self._taken_s):
            raise SourceFault("device-lost", "camera-gone")
        number, self._number = self._number, self._number + 1
        picture = self._white if number and number % FLASH_EVERY == 0 else self._dark[number % 8]
        return picture, BEGAN_US + round(self._taken_s[number] * US)

    def blocks(self) -> list[Block]:
        now_us = BEGAN_US + round(self._taken_s[self._number - 1] * US)
        heard: list[Block] = []
        while self._next is not None and self._next.ended_us <= now_us:
            heard.append(self._next)
            self._next = next(self._blocks, None)
        return heard

    def close(self) -> None:
        pass


def record(source: UsbCamera, path: Path) -> None:
    """A source's run into one file, as the recorder muxes it."""
    with path.open("wb") as file:
        parts: list[bytes] = []
        tracks = source.open()
        muxer = Muxer(tracks, lambda fragment, times: parts.append(fragment))
        headed = False
        with pytest.raises(SourceFault):
            for piece in source.pieces():
                packet = piece.packet
                zero = round(Fraction(BEGAN_US, US) / packet.time_base)
                packet.pts, packet.dts = (packet.pts or 0) - zero, (packet.dts or 0) - zero
                packet.duration = packet.duration or 1
                muxer.mux(piece.track, packet)
                if not headed and muxer.header:
                    file.write(muxer.header)
                    headed = True
                file.writelines(parts)
                parts.clear()
        muxer.close()
        file.writelines(parts)
        source.close()


def flashes_and_claps(path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Seconds of the file at which a white picture is shown and at which a clap begins, decoded as a player does."""
    flashes: list[float] = []
    claps: list[float] = []
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            if frame.to_ndarray()[:90].mean() > 150:
                flashes.append(frame.time or 0)
    with av.open(str(path)) as file:
        for sounds in file.decode(audio=0):
            loud = np.flatnonzero(np.abs(sounds.to_ndarray()[0]) > 0.08)
            if loud.size:
                at = (sounds.time or 0) + int(loud[0]) / RATE
                if not claps or at - claps[-1] > 0.1:
                    claps.append(at)
    return np.array(flashes), np.array(claps)


def check_flash_and_clap(folder: Path, seconds: float, ppm: float) -> None:
    room = SimRoom(seconds, ppm)
    spec = StreamSpec("usb", "usb", device="/dev/v4l/by-id/sim", sound="sim", fps=25, rate_hz=RATE)
    record(UsbCamera(spec, lambda spec: EncodedEye(room, spec.fps), lambda spec: room), folder / "run.mp4")
    flashes, claps = flashes_and_claps(folder / "run.mp4")
    assert len(flashes) == len(claps) >= len(room.flashes_s) - 1
    assert np.abs(flashes - room.flashes_s[:len(flashes)]).max() <= 0.001, "the picture's own times are kept, uneven as they are"
    assert np.abs(flashes - claps).max() <= 0.040


def test_r_s4_flash_and_clap_meet(tmp_path: Path) -> None:
    """R-S4 for two and a half minutes, at a card of +300 ppm (45 ms at the end, without alignment)."""
    check_flash_and_clap(tmp_path, 150, 300)


@pytest.mark.slow
def test_r_s4_flash_and_clap_meet_for_three_hours(tmp_path: Path) -> None:
    """R-S4: 3.24 s of error without alignment."""
    check_flash_and_clap(tmp_path, 3 * 3600, 300)
