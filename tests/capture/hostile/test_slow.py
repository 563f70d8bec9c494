"""What takes its time: ladders, drifts, sparse pictures, a soak. Each against a camera that breaks the rules."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.clock import US


@pytest.mark.slow
def test_r_g1_ladder_of_a_refused_password(hostile: Any, crew: Any, tmp_path: Path) -> None:
    """The second try comes after about 30 s, the third after about 60 more; the right password is then taken at once."""
    secret = tmp_path / "credentials"
    secret.write_text("room:wrong\n")
    camera = hostile.camera(auth="digest")
    crew.start(camera, wait=False, credentials=secret)
    crew.wait(lambda: len(camera.ledger().describes) >= 5, 130)
    secret.write_text("room:right\n")
    crew.wait(lambda: crew.bench.state(camera.name) == "recording", 170)
    assert crew.finish(camera) == [0]
    pauses = [(b - a) / US for a, b in itertools.pairwise(camera.ledger().describes) if b - a > US]     # with and without in one try
    assert all(pause >= 0.7 * 30 * 2 ** number for number, pause in enumerate(pauses[:2])), pauses
    assert camera.ledger().most == 1


@pytest.mark.slow
def test_r_g1_a_stale_session_holds_the_only_slot(hostile: Any, crew: Any) -> None:
    """A camera with one place, which keeps it for a session that had no TEARDOWN: it is recorded again when the camera lets go."""
    camera = hostile.camera(slots=1, timeout_s=20)
    crew.start(camera)
    camera.fault("drop", after=30)
    crew.sent(camera, 30, session=1, seconds=60)
    assert crew.finish(camera) == [0]
    assert camera.ledger().most == 1 and len(camera.ledger().describes) <= 8


@pytest.mark.slow
def test_r_a6_a_new_run_at_most_once_a_minute(hostile: Any, crew: Any) -> None:
    """A camera whose clock jumps every three seconds: no picture is lost, and there are few runs."""
    camera = hostile.camera(sr_s=1.0)
    for number in range(40):
        camera.fault("jump", (-2, 5, 3600, -3600)[number % 4], after=75 * (number + 1))
    crew.start(camera, segment_s=10)
    crew.sent(camera, 3100, seconds=200)
    assert crew.finish(camera) == [0]
    got, sent = crew.recorded(camera).pictures, camera.ledger()
    assert len(sent.sessions) == 1 and got == sent.pictures()[:len(got)] and len(sent.pictures()) - len(got) <= 15
    assert len({s.run for s in crew.sidecars(camera)}) <= 3


@pytest.mark.slow
def test_r_b3_ten_minutes_of_another_sound_clock(hostile: Any, crew: Any) -> None:
    """1 % slow, 300 ppm off: the sound stays, all of it, and with the picture: there are sender reports to go by."""
    cameras = {ppm: hostile.camera(sound_ppm=ppm, sr_s=5.0) for ppm in (-10_000, 300, -300)}
    crew.start(*cameras.values(), segment_s=30)
    for camera in cameras.values():
        crew.sent(camera, 15_000, seconds=700)
    assert crew.finish(*cameras.values()) == [0, 0, 0]
    for ppm, camera in cameras.items():
        for path, sidecar in crew.bench.segments(camera.name):
            got = crew.read([path])
            assert got.sounds and abs(len(got.sounds) * 1024 / 48000 / (1 + ppm / 1e6) - sidecar.dur_us / US) < 0.2, (ppm, sidecar.seq)
            assert abs(got.sound_end_s - got.picture_end_s) < 0.2, (ppm, sidecar.seq)


@pytest.mark.slow
def test_a_picture_every_two_seconds(hostile: Any, crew: Any, complaints: Callable[[list[Path]], list[str]]) -> None:
    """A camera that is slow is not one that stands still; one slower than this is (rtsp.py says why)."""
    camera = hostile.camera(fps=0.5, video="h264-tiny", sound="")
    crew.start(camera, wait=False)
    crew.sent(camera, 20, seconds=60)
    assert crew.finish(camera) == [0]
    got, sent = crew.recorded(camera).pictures, camera.ledger()
    assert len(sent.sessions) == 1 and got == sent.pictures()[:len(got)] and len(got) >= 17
    assert complaints(crew.files(camera)) == []


@pytest.mark.slow
def test_a_key_frame_every_ten_seconds(hostile: Any, crew: Any, complaints: Callable[[list[Path]], list[str]]) -> None:
    """Nothing is lost; files wait for the key frame, fragments do not."""
    camera = hostile.camera(video="h264-long")
    crew.start(camera)
    crew.sent(camera, 600, seconds=60)
    assert crew.finish(camera) == [0]
    got, sent = crew.recorded(camera).pictures, camera.ledger()
    assert got == sent.pictures()[:len(got)] and len(sent.pictures()) - len(got) <= 15
    assert all(f.dur_us <= 600_000 for s in crew.sidecars(camera) for f in s.fragments)
    assert complaints(crew.files(camera)) == []


@pytest.mark.slow
def test_twenty_minutes_of_small_evils(hostile: Any, crew: Any, complaints: Callable[[list[Path]], list[str]]) -> None:
    """A soak: four cameras, a fault each half minute that must cost nothing, 20 minutes; every picture once and in order."""
    kinds = (("h264", "aac"), ("h264-b", "pcma"), ("h265", "opus"), ("h264-long", "l16"))
    cameras = [hostile.camera(video=video, sound=sound) for video, sound in kinds]
    for camera in cameras:
        for number in range(40):
            kind, value = (("same", 3), ("clock", 4), ("jump", 0.4), ("clock", -4), ("jump", -0.4))[number % 5]
            camera.fault(kind, value, after=750 * number + 300)
    crew.start(*cameras, segment_s=20)
    for camera in cameras:
        crew.sent(camera, 30_000, seconds=1300)
    assert crew.finish(*cameras) == [0] * 4
    for camera in cameras:
        sent, got = camera.ledger(), crew.recorded(camera)
        assert len(sent.sessions) == 1
        assert got.pictures == sent.pictures()[:len(got.pictures)] and len(sent.pictures()) - len(got.pictures) <= 15
        assert complaints(crew.files(camera)) == []
