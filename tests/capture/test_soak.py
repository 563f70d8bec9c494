"""Twenty minutes of two live cameras with sound, one of them failing again and again: nothing is lost of the other, nothing grows.

EDGE_SOAK_S sets another length in seconds (120 is enough to see it run). The cameras are GStreamer's, their frames carry numbers.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pytest

from edge import durable
from edge.capture.recovery import read_whole
from edge.capture.sidecar import Sidecar
from edge.capture.streams import StreamSpec
from edge.clock import US, SystemClock

pytestmark = pytest.mark.slow

RIGS = Path(__file__).parents[1] / "rigs"
LENGTH_S = int(os.environ.get("EDGE_SOAK_S", "1200"))
WARM_S = min(120, LENGTH_S // 3)
"""What a worker loads and caches in its first minutes is not growth."""
LOOK_S = 5
GROWN_BYTES, LIMIT_BYTES = 5_000_000, 60_000_000
FAULTS = ("drop", "freeze", "cut-frame")
FROZEN_S = 8

Found = list[tuple[Path, Sidecar]]


class Cameras:
    """Two cameras on one server."""

    def __init__(self, home: Path, film: Path) -> None:
        self._env = {**os.environ, "RTSP_HOME": str(home)}
        self._port, self._control = free_port(), free_port()
        self._rig("start", "--cams", "2", "--port", str(self._port), "--control", str(self._control), "--file", str(film),
                  "--max-s", str(LENGTH_S + 600))

    def url(self, number: int) -> str:
        return f"rtsp://127.0.0.1:{self._port}/cam{number}"

    def fault(self, number: int, action: str) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._control}/cam{number}/{action}?p=0", timeout=10) as answer:
            assert answer.status == 200

    def skipped(self) -> int:
        """Frames that the server itself came too late for, or let fall on its way to the wire: not the recorder's."""
        told = subprocess.run(["/usr/bin/python3", RIGS / "rtsp-cams", "status"], env=self._env, capture_output=True, text=True, timeout=40)
        return sum(map(int, re.findall(r"(?:skipped|holes)\D+(\d+)", told.stdout)))

    def stop(self) -> None:
        self._rig("stop")

    def _rig(self, *arguments: str) -> None:
        subprocess.run(["/usr/bin/python3", RIGS / "rtsp-cams", *arguments], check=True, env=self._env, stdout=subprocess.DEVNULL,
                       timeout=40)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def cameras(tmp_path: Path, film: Path) -> Iterator[Cameras]:
    home = tmp_path / "cameras"
    home.mkdir()
    cameras = Cameras(home, film)
    yield cameras
    cameras.stop()


@dataclass(frozen=True, slots=True)
class Size:
    """What a process holds."""

    bytes: int
    files: int
    threads: int


def size(pid: int) -> Size:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Size(int(status["VmRSS"].split()[0]) * 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())), int(status["Threads"]))


def check_flat(sizes: list[Size], name: str) -> None:
    """The last quarter beside the first one after warming up."""
    warm = sizes[WARM_S // LOOK_S:]
    first, last = warm[:len(warm) // 4], warm[-(len(warm) // 4):]
    grown = statistics.median(s.bytes for s in last) - statistics.median(s.bytes for s in first)
    print(f"{name}: {statistics.median(s.bytes for s in last) / 1e6:.1f} MB, grown {grown / 1e6:+.2f} MB, "
          f"{max(s.files for s in last)} files, {max(s.threads for s in last)} threads")
    assert grown <= GROWN_BYTES and statistics.median(s.bytes for s in last) <= LIMIT_BYTES
    assert statistics.median(s.files for s in last) <= statistics.median(s.files for s in first)
    # a look may fall into the moment in which a sidecar is written
    assert max(s.files for s in last) <= max(s.files for s in warm[:len(warm) * 3 // 4]) + 1
    assert max(s.threads for s in last) <= max(s.threads for s in warm[:len(warm) * 3 // 4])


def check_run(run: Found) -> None:
    """One run: sidecars and files agree, the segments meet on the room's axis and in media time."""
    for path, s in run:
        assert durable.sha256_file(path) == s.sha256 and read_whole(path).whole == s.bytes
    for (_, a), (_, b) in itertools.pairwise(run):
        assert b.seq == a.seq + 1 and b.start == a.end and b.media_start_us == a.media_start_us + a.dur_us


def steps(run: Found, kind: str) -> list[float]:
    """Seconds from one packet of the kind to the next, over a run's files as one."""
    times: list[float] = []
    for path, _ in run:
        with av.open(str(path)) as container:
            times += [float(p.pts * p.time_base) for p in container.demux(container.streams.get({kind: 0})[0])
                      if p.size and p.pts is not None and p.time_base]
    return [b - a for a, b in itertools.pairwise(times)]


def framecheck(run: Found) -> str:
    """The last line of the rig that reads the numbers in the picture."""
    done = subprocess.run([sys.executable, RIGS / "framecheck.py", *[path for path, _ in run]], capture_output=True, text=True,
                          timeout=120 + LENGTH_S)
    return done.stdout.splitlines()[-1]


def test_r_a1_a_good_camera_beside_a_failing_one(bench: Any, cameras: Cameras, wait_until: Callable[..., Any]) -> None:
    """R-A1, R-A5: whatever one camera does, the other's recording is whole; memory, files and threads stay as they were."""
    chance, clock = random.Random(3), SystemClock()
    good = bench.record(StreamSpec("good", "rtsp", url=cameras.url(1), segment_s=10))
    bad = bench.record(StreamSpec("bad", "rtsp", url=cameras.url(2), segment_s=10, offset_s=5))
    sizes: dict[str, list[Size]] = {"good": [], "bad": []}
    began = clock.now().boot_us
    next_fault, thaw_at, faults = began + 20 * US, 0, 0
    for look in range(1, LENGTH_S // LOOK_S + 1):
        wait_until(lambda look=look: clock.now().boot_us >= began + look * LOOK_S * US, LOOK_S + 30)
        for process in (good, bad):
            assert process.poll() is None, bench.log.read_text()[-2000:]
        sizes["good"].append(size(good.pid))
        sizes["bad"].append(size(bad.pid))
        now = clock.now().boot_us
        if thaw_at and now >= thaw_at:
            cameras.fault(2, "thaw")
            thaw_at = 0
        elif now >= next_fault and not thaw_at:
            fault = FAULTS[faults % len(FAULTS)]
            cameras.fault(2, fault)
            thaw_at = now + FROZEN_S * US if fault == "freeze" else 0
            faults, next_fault = faults + 1, now + chance.randrange(25, 45) * US
        assert bench.state("good") == "recording"
    if thaw_at:
        cameras.fault(2, "thaw")
    wait_until(lambda: bench.state("bad") == "recording", 30)
    assert cameras.skipped() == 0, "the cameras' server had too little of the processor: this run says nothing"
    assert bench.finish(good) == bench.finish(bad) == 0

    found = bench.segments("good")
    assert {s.run for _, s in found} == {found[0][1].run} and {s.end_reason for _, s in found[:-1]} == {"rotated"}
    assert sum(s.dropped for _, s in found) == 0
    assert len(found) >= LENGTH_S // 10
    check_run(found)
    assert all(abs(step - 0.04) < 0.0002 for step in steps(found, "video"))
    sound = [step for step in steps(found, "audio") if abs(step - 1024 / 48000) >= 0.0002]
    assert all(abs(step - 1536 / 48000) < 0.0015 for step in sound)         # the film's seam: a minute is 2,812 packets and a half
    assert len(sound) <= LENGTH_S // 60 + 2
    told = framecheck(found)
    print(f"good: {told}")
    assert "missing 0, undecoded 0, doubled 0, backwards 0, unreadable 0" in told

    runs = [list(run) for _, run in itertools.groupby(bench.segments("bad"), key=lambda each: each[1].run)]
    print(f"bad: {faults} faults, {len(runs)} runs, ends {sorted(s.end_reason for run in runs for _, s in run[-1:])}")
    assert len(runs) >= faults
    for run in runs:
        check_run(run)
        told = framecheck(run)
        assert "missing 0" in told and "doubled 0" in told, told
    for name, seen in sizes.items():
        check_flat(seen, name)
