"""Sound figures on recorded AAC: exact zeros stay zeros, room noise does not count as silence, and what is clipped is told from loud."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge.capture.hearing import Hearing, to_cdb
from edge.capture.tail import Part, Segment, Tail
from edge.clock import SimClock
from tests.capture.footage import RATE, Camera, Wave, hum, silence

SMALL = np.full((96, 160), 90, np.uint8)


def noise(dbfs: float) -> Callable[[int, int], Wave]:
    """Room noise with peaks at about `dbfs`."""
    dice = np.random.default_rng(5)
    return lambda start, count: (10 ** (dbfs / 20) * dice.uniform(-1, 1, count)).astype(np.float32)


def overdriven(start: int, count: int) -> Wave:
    return np.clip(hum(start, count, 4.0), -1, 1)


def heard(folder: Path, *sounds: Callable[[int, int], Wave], seconds: float = 3) -> Hearing:
    clock = SimClock()
    camera = Camera(folder / "cam", clock, size=(160, 96), fps=2, gop=2)
    camera.open()
    for sound in sounds:
        camera.shoot(seconds, lambda t: SMALL, sound)
    camera.seal()
    camera.close()
    hearing = Hearing()
    for news in Tail(camera.folder, clock).look():
        if isinstance(news, Segment):
            hearing.begin(news.track("audio"), same_run=False)
        if isinstance(news, Part):
            hearing.hear([news.bytes_of(sample) for sample in news.samples.get("audio", [])])
    return hearing


def test_u2_zeros_stay_zeros_through_aac(tmp_path: Path) -> None:
    hearing = heard(tmp_path, silence)
    assert hearing.second_cdb == -12000
    assert abs(hearing.silent_ms - 3000) <= 64 and hearing.refused == 0
    sound = hearing.turn()
    assert sound is not None and sound.peak_cdb == -12000 and abs(sound.silent_ms - 3000) <= 64 and sound.clipped == 0
    assert hearing.turn() is None, "another segment begins"
    assert hearing.silent_ms > 2900, "a run of silence does not end with a segment"


@pytest.mark.parametrize("dbfs", [-50.0, -60.0, -75.0])
def test_r12_room_noise_is_no_silence(tmp_path: Path, dbfs: float) -> None:
    hearing = heard(tmp_path, noise(dbfs))
    assert hearing.silent_ms == 0 and hearing.second_cdb is not None
    assert 0 <= hearing.second_cdb / 100 - dbfs < 7, "AAC makes noise peak about 6 dB higher, and never lower"


def test_the_level_is_that_of_the_last_second_and_silence_is_counted_to_the_packet(tmp_path: Path) -> None:
    hearing = heard(tmp_path, hum, silence, hum, seconds=2)
    assert hearing.second_cdb is not None and abs(hearing.second_cdb + 2000) < 60 and hearing.silent_ms == 0
    sound = hearing.turn()
    assert sound is not None and abs(sound.silent_ms - 2000) < 70 and abs(sound.peak_cdb + 2000) < 60


def test_an_overdriven_input_is_clipped_a_loud_one_is_not(tmp_path: Path) -> None:
    assert heard(tmp_path / "a", overdriven).clipped_percent > 50
    assert heard(tmp_path / "b", lambda start, count: hum(start, count, 0.7)).clipped_percent < 2
    bang = heard(tmp_path / "c", lambda start, count: np.where(np.arange(start, start + count) % RATE < 100, 1, 0.01).astype(np.float32))
    assert bang.clipped_percent < 0.5


def test_packets_that_are_none_are_counted_and_passed_over(tmp_path: Path) -> None:
    hearing = heard(tmp_path, hum)
    level = hearing.second_cdb
    hearing.hear([b"\xff" * 50, b"", b"\0"])
    assert hearing.refused >= 1 and hearing.second_cdb == level
    silent = Hearing()
    silent.hear([b"abc"])
    assert silent.second_cdb is None and silent.turn() is None and silent.clipped_percent == 0, "no track, no sound"


@pytest.mark.parametrize(("peak", "cdb"), [(0.0, -12000), (1e-7, -12000), (1.0, 0), (0.5, -602), (1 / 32768, -9031)])
def test_peaks_are_told_in_hundredths_of_a_dbfs(peak: float, cdb: int) -> None:
    assert to_cdb(peak) == cdb
    assert cdb == -12000 or math.isclose(10 ** (cdb / 2000), peak, rel_tol=1e-3)
