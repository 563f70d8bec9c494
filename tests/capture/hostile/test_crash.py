"""kill -9, torn tails and what finalising touches, on segments of a camera with B-frames and sound."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge import durable
from edge.capture.recovery import recover
from edge.capture.segments import SET_ASIDE, note_path
from edge.capture.sidecar import Opening, Sidecar, from_json
from edge.clock import Stamp, boot_id

DAY = Path("2026/11/24")
NAME = "0000000003-20261124T053143Z"
PAGE = 4096
LOST_S = 0.6


@pytest.fixture
def real(hostile: Any, crew: Any) -> tuple[bytes, Sidecar]:
    """One sealed segment of some seconds; while it grew, what lay on the disk was never changed (R-C3)."""
    camera = hostile.camera(video="h264-b", sound="pcma")
    crew.start(camera, segment_s=60)
    folder = crew.bench.footage / camera.name
    seen: list[tuple[Path, bytes, int]] = []

    def growing() -> bool:
        path = next(folder.rglob("*Z.mp4"))
        data = path.read_bytes()
        if not seen or len(data) > len(seen[-1][1]):
            seen.append((path, data, path.stat().st_ino))
        return len(seen) > 5
    crew.wait(growing)
    crew.finish(camera)
    path, sidecar = crew.bench.segments(camera.name)[-1]
    final = path.read_bytes()
    same_file = [(data, inode) for seen_path, data, inode in seen if seen_path == path]
    assert len(same_file) > 3
    for data, inode in same_file:
        assert final.startswith(data) and inode == path.stat().st_ino
    return final, sidecar


def lay(folder: Path, data: bytes) -> Path:
    path = folder / "cam" / DAY / f"{NAME}.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    start = Stamp(1_795_498_303_000_000, 900_000_000, boot_id())
    note_path(path).write_bytes(Opening("cam", 3, "cd" * 16, start, 1_000_000, "h264+aac", "synced").to_json())
    return path


def check_recovered(data: bytes, original: Sidecar, intact: int) -> None:
    """After recovery of `data`, of which the first `intact` bytes are the segment's own: exactly the whole fragments, nothing deleted."""
    with tempfile.TemporaryDirectory() as name:
        path = lay(Path(name), data)
        assert recover(Path(name) / "cam") == 4
        expected = [f for f in original.fragments if f.offset + f.length <= intact]
        if not expected:
            assert (Path(name) / "cam" / SET_ASIDE / path.name).read_bytes() == data
            return
        end = expected[-1].offset + expected[-1].length
        sidecar = from_json(path.with_suffix(".json").read_bytes())
        assert list(sidecar.fragments) == expected and sidecar.recovered
        assert path.read_bytes() == data[:end] and sidecar.sha256 == durable.sha256_file(path)
        assert sidecar.frames > 0 and sidecar.end == sidecar.start.plus(sidecar.dur_us)


def test_r_c2_r_c3_torn_tails_of_a_real_segment(real: tuple[bytes, Sidecar]) -> None:
    """Cut off anywhere; zeros from anywhere on; noise, or the head of a next fragment, behind a whole one.

    LIMIT: zeros or noise inside a fragment that has its length are not noticed: fragments have no digests of their own on the disk.
    """
    data, original = real
    written = len(data)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(at=st.integers(0, written), kind=st.sampled_from(["cut", "zeros", "noise", "head"]), seed=st.integers(0, 1 << 30))
    def torn(at: int, kind: str, seed: int) -> None:
        noise = random.Random(seed).randbytes(PAGE)
        end = next((f.offset + f.length for f in original.fragments if f.offset + f.length > at), written)
        if kind == "cut":
            check_recovered(data[:at], original, at)
        elif kind == "zeros":
            intact = len(data[:at].rstrip(b"\0"))            # a zero at the border may belong to either side
            check_recovered(data[:at] + bytes(written - at + 16), original, intact)
        elif kind == "noise":
            check_recovered(data[:end] + b"\xff" + noise, original, end)      # a box of 4 GB that is not there
        else:
            check_recovered(data[:end] + data[original.header_bytes:original.header_bytes + 300], original, end)

    torn()


def sent_before(ledger: Any, killed_us: int) -> list[str]:
    return [row[0] for row in ledger.sessions[-1]["pictures"] if row[5] and row[4] <= killed_us]


@pytest.mark.slow
def test_r_c1_two_hundred_kills(hostile: Any, bench: Any, crew: Any, wait_until: Callable[..., Any],
                                complaints: Callable[[list[Path]], list[str]]) -> None:
    """SIGKILL at 200 random moments: everything plays, and at most 0.6 s of what the camera had sent is missing."""
    rng = random.Random(200)
    lost_s: list[float] = []
    for _ in range(20):
        cameras = [hostile.camera(video=rng.choice(["h264", "h264-b", "h265"]), sound=rng.choice(["aac", "pcma", ""])) for _ in range(10)]
        crew.start(*cameras)
        due = {camera.name: time.monotonic() + rng.uniform(0.5, 4.5) for camera in cameras}
        for camera in sorted(cameras, key=lambda camera: due[camera.name]):
            wait_until(lambda moment=due[camera.name]: time.monotonic() >= moment)
            os.kill(crew.process(camera).pid, signal.SIGKILL)
            killed = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
            crew.process(camera).wait()
            recover(bench.footage / camera.name)
            sent, got = sent_before(camera.ledger(), killed), crew.recorded(camera).pictures
            assert got == sent[:len(got)]
            lost_s.append((len(sent) - len(got)) / 25)
            last = crew.sidecars(camera)[-1]
            assert last.recovered or last.end_reason == "rotated"       # killed before the next file had its first fragment
        assert complaints([path for camera in cameras for path in crew.files(camera)]) == []
        for camera in cameras:
            shutil.rmtree(bench.footage / camera.name)
    assert len(lost_s) == 200
    assert max(lost_s) <= LOST_S, sorted(lost_s)[-5:]
