"""The recording itself, on real wires: nothing lost or doubled, sound where it belongs, cuts and rotations where they should be."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from edge import durable
from edge.capture.control import WatchStatus, write_watch
from edge.capture.pattern import layout, read_digits
from edge.capture.recovery import read_whole
from edge.capture.sidecar import Sidecar
from edge.capture.streams import StreamSpec
from edge.clock import US, SystemClock

Found = list[tuple[Path, Sidecar]]


def packet_steps(files: list[Path], kind: str) -> list[float]:
    """Seconds from one packet of the kind to the next, over all files as one."""
    times: list[float] = []
    for file in files:
        with av.open(str(file)) as container:
            times += [float(p.pts * p.time_base) for p in container.demux(container.streams.get({kind: 0})[0])
                      if p.size and p.pts is not None and p.time_base]
    return [b - a for a, b in itertools.pairwise(times)]


def pitch(file: Path) -> float:
    """The strongest frequency of a file's sound, Hz."""
    with av.open(str(file)) as container:
        rate = container.streams.audio[0].codec_context.sample_rate
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    middle = sound[len(sound) // 4: -len(sound) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    return float(np.argmax(spectrum) * rate / len(middle))


def check_books(found: Found) -> None:
    """What the sidecars say is what lies on the disk, and the segments of a run meet exactly."""
    for path, sidecar in found:
        assert path.stat().st_size == sidecar.bytes
        assert durable.sha256_file(path) == sidecar.sha256
        whole = read_whole(path)
        assert (whole.whole, whole.header_bytes, tuple(whole.index.fragments)) == (sidecar.bytes, sidecar.header_bytes, sidecar.fragments)
        assert sidecar.fragments[0].key and sidecar.fragments[0].start_us == sidecar.media_start_us
        assert not path.with_suffix(".open.json").exists()
    for (_, a), (_, b) in itertools.pairwise(found):
        assert b.seq == a.seq + 1
        if a.run == b.run:
            assert b.start == a.end
            assert b.media_start_us == a.media_start_us + a.dur_us


def test_pattern_rolls_cuts_and_shows_the_time(bench: Any) -> None:
    spec = StreamSpec("pattern", "pattern", segment_s=3, offset_s=1)
    process = bench.record(spec)
    bench.wait_segments("pattern", 2)
    process.stdin.write(b"cut\n")
    process.stdin.flush()
    bench.wait_segments("pattern", 4)
    assert bench.finish(process) == 0
    found = bench.segments("pattern")
    check_books(found)
    sidecars = [sidecar for _, sidecar in found]
    assert [s.seq for s in sidecars] == list(range(len(found)))
    assert {s.run for s in sidecars} == {sidecars[0].run}
    reasons = [s.end_reason for s in sidecars]
    assert reasons.count("cut") == 1 and reasons[-1] == "stopped" and set(reasons) == {"cut", "rotated", "stopped"}
    for s in sidecars:
        if s.end_reason == "rotated":       # a key frame comes each second: at most one after the boundary
            assert (s.end.utc_us - US) % (3 * US) < 1.1 * US
        assert s.frame_us in (66666, 66667) and s.codec == "h264+aac"
    files = [path for path, _ in found]
    assert all(abs(step - 1 / 15) < 0.0002 for step in packet_steps(files, "video"))
    assert all(abs(step - 0.064) < 0.0002 for step in packet_steps(files, "audio"))
    assert abs(pitch(files[1]) - 440) < 1
    check_digits(files)
    status = bench.status("pattern")
    assert status.segments == len(found) and status.dropped == 0 and status.width == 640
    assert status.frames == sum(s.frames for s in sidecars) and status.bytes == sum(s.bytes for s in sidecars)


def check_digits(files: list[Path]) -> None:
    """The burnt-in number counts every frame, the burnt-in clock goes on by the second."""
    size, clock_at, number_at = layout(640, 360)
    numbers, clocks = [], []
    for file in files:
        with av.open(str(file)) as container:
            for frame in container.decode(video=0):
                luma = frame.to_ndarray()[:360].astype(np.uint8)
                numbers.append(int(read_digits(luma, number_at, size)))
                clocks.append(read_digits(luma, clock_at, size))
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    seconds = [3600 * int(c[:2]) + 60 * int(c[3:5]) + int(c[6:]) for c in clocks]
    assert {(b - a) % 86400 for a, b in itertools.pairwise(seconds)} == {0, 1}
    assert abs((seconds[-1] - seconds[0]) % 86400 - len(numbers) / 15) < 1.2


def test_camera_without_a_lost_frame_then_faults(bench: Any, camera: Any, framecheck: Callable[[list[Path]], tuple[int, str]],
                                                 wait_until: Callable[..., Any]) -> None:
    """Rotations cost nothing; a dropped and a frozen camera cost their own time and end the run with the right word."""
    process = bench.record(StreamSpec("cam", "rtsp", url=camera.url, segment_s=2))
    whole = bench.wait_segments("cam", 4)
    camera.fault("drop")
    wait_until(lambda: bench.state("cam") == "lost", 5)
    wait_until(lambda: bench.state("cam") == "recording", 15)
    camera.fault("freeze")
    wait_until(lambda: bench.status("cam").reason == "frozen", 9)
    camera.fault("thaw")
    wait_until(lambda: bench.state("cam") == "recording", 20)
    assert bench.finish(process) == 0
    found = bench.segments("cam")
    check_books(found)
    files = [path for path, _ in whole]
    status, text = framecheck(files)
    assert status == 0, text
    assert all(abs(step - 0.04) < 0.0002 for step in packet_steps(files, "video"))
    assert all(abs(step - 1024 / 48000) < 0.0002 for step in packet_steps(files, "audio"))
    assert whole[0][1].codec == "h264+aac" and whole[0][1].frame_us == 40000
    assert abs(pitch(files[1]) - 440) < 1
    reasons = [s.end_reason for _, s in found]
    assert [r for r in reasons if r != "rotated"] == ["camera-lost", "camera-frozen", "stopped"]
    assert len({s.run for _, s in found}) == 3
    for (_, a), (_, b) in itertools.pairwise(found):      # the runs lie in order on the room's axis
        assert a.end.boot_us <= b.start.boot_us + 200_000


@pytest.mark.slow
def test_r_a5_a_camera_whose_picture_the_watcher_sees_frozen_gets_one_new_connection(bench: Any, camera: Any,
                                                                                       wait_until: Callable[..., Any]) -> None:
    process = bench.record(StreamSpec("cam", "rtsp", url=camera.url))
    first = bench.status("cam").run

    def alarm() -> None:
        now = SystemClock().now()
        write_watch(bench.run, WatchStatus("cam", now.boot_id, now.boot_us, 0, "1", now.boot_us, now.boot_us, -3000, 0,
                                           {"frozen": now.utc_us}))

    alarm()
    wait_until(lambda: bench.status("cam").run != first and bench.state("cam") == "recording", 15)
    second = bench.status("cam").run
    frames = bench.status("cam").frames
    alarm()                                     # it did not help: the recording is not cut up again
    wait_until(lambda: bench.status("cam").frames > frames + 60)
    assert bench.status("cam").run == second
    assert bench.finish(process) == 0
    assert [s.end_reason for _, s in bench.segments("cam") if s.end_reason != "rotated"] == ["camera-frozen", "stopped"]


def test_first_key_frame_is_kept_and_g711_becomes_aac(bench: Any, replayed: str,
                                                      framecheck: Callable[[list[Path]], tuple[int, str]]) -> None:
    """RTSP's first picture comes without timestamps; MP4 refuses G.711."""
    process = bench.record(StreamSpec("old", "rtsp", url=replayed, segment_s=3))
    bench.wait_segments("old", 2)
    assert bench.finish(process) == 0
    found = bench.segments("old")
    check_books(found)
    status, text = framecheck([path for path, _ in found])
    assert status == 0, text
    assert ", first 0," in text.splitlines()[0]
    assert found[0][1].tracks["audio"] == {"codec": "aac", "channels": 1, "rate_hz": 16000}
    assert abs(pitch(found[-2][0]) - 440) < 2
    assert all(abs(step - 0.064) < 0.0002 for step in packet_steps([path for path, _ in found], "audio"))


def test_password_is_used_and_never_told(bench: Any, locked_camera: Any, tmp_path: Path, wait_until: Callable[..., Any]) -> None:
    secret = tmp_path / "credentials"
    secret.write_text("room:a:b/c@d\n")
    spec = StreamSpec("cam", "rtsp", url=locked_camera.url, credentials=secret)
    process = bench.record(spec)
    assert bench.finish(process) == 0
    secret.write_text("room:wrong-one\n")
    process = bench.start(bench.worker_command(spec))
    wait_until(lambda: bench.status("cam").reason == "password-refused")
    assert bench.finish(process) == 0
    told = bench.log.read_text() + (bench.run / "streams" / "cam.json").read_text()
    assert "a:b" not in told and "a%3Ab" not in told and "wrong-one" not in told


def test_absent_camera_leaves_the_worker_up(bench: Any, wait_until: Callable[..., Any]) -> None:
    process = bench.start(bench.worker_command(StreamSpec("cam", "rtsp", url="rtsp://127.0.0.1:9/none")))
    wait_until(lambda: bench.state("cam") == "lost")
    assert bench.status("cam").reason == "refused"
    assert process.poll() is None
    assert bench.finish(process) == 0
    assert bench.segments("cam") == []


@pytest.mark.usefixtures("tone")
def test_microphone_hears_the_tone(bench: Any, wait_until: Callable[..., Any]) -> None:
    process = bench.record(StreamSpec("mic", "microphone", segment_s=3, rate_hz=16000))
    bench.wait_segments("mic", 2)
    assert bench.finish(process) == 0
    found = bench.segments("mic")
    check_books(found)
    assert found[1][1].codec == "aac" and found[1][1].frame_us == 64000
    files = [path for path, _ in found]
    assert all(abs(step - 0.064) < 0.0002 for step in packet_steps(files, "audio"))
    assert abs(pitch(files[-2]) - 440) < 1


@pytest.mark.usefixtures("sound_card")
def test_silence_is_recorded_and_a_dead_microphone_ends_the_run(bench: Any, sound_card: Path, wait_until: Callable[..., Any]) -> None:
    process = bench.record(StreamSpec("mic", "microphone", segment_s=60, rate_hz=16000))
    wait_until(lambda: bench.status("mic").frames * 1024 >= 16000)
    subprocess.run(["kill", "-STOP", (sound_card / "run" / "pid").read_text().strip()], check=True)
    try:
        wait_until(lambda: bench.state("mic") == "lost", 10)
    finally:
        subprocess.run(["kill", "-CONT", (sound_card / "run" / "pid").read_text().strip()], check=True)
    assert bench.finish(process) in (0, 5)
    (path, sidecar), *_ = bench.segments("mic")
    assert sidecar.end_reason == "device-lost"
    with av.open(str(path)) as container:
        assert all(not frame.to_ndarray().any() for frame in container.decode(audio=0))


def test_sidecar_digest_is_of_the_file(bench: Any) -> None:
    process = bench.record(StreamSpec("pattern", "pattern", width=160, height=90))
    assert bench.finish(process) == 0
    (path, sidecar), = bench.segments("pattern")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sidecar.sha256
    assert json.loads(path.with_suffix(".json").read_bytes())["version"] == "sidecar/1"
