"""The wall clock steps while a real worker records: nothing is overwritten, lost or put in another order; durations are the boot clock's.

The steps are `tests/rigs/wallshift.c`, preloaded: the worker's wall clock jumps, its boot clock does not, as when chrony sets a machine
without a battery right. That a step happened is journaled by the room (`ClockStepped`); here is what it does to the footage.
"""

from __future__ import annotations

import itertools
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import durable
from edge.capture.recovery import read_whole
from edge.capture.segments import parse_stem
from edge.capture.streams import StreamSpec
from edge.capture.timeline import LEAD_US, MOST_PPM, Timeline
from edge.clock import US, Stamp

HOUR_S = 3600
DECADE_S = 10 * 365 * 24 * HOUR_S
STEPS_S = (0, 2 * HOUR_S, -2 * HOUR_S, DECADE_S, -DECADE_S, 0)
"""R-D2. The recorder knows UTC only: daylight saving is no step."""


@pytest.fixture(scope="module")
def wallshift(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no compiler: apt-get install gcc libc6-dev")
    made = tmp_path_factory.mktemp("wallshift") / "wallshift.so"
    source = Path(__file__).parents[1] / "rigs" / "wallshift.c"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True, timeout=60)
    return made


def real_offset_us() -> int:
    """This machine's wall clock minus its boot clock."""
    return (time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) // 1000


def sealed(bench: Any) -> int:
    return len(bench.segments("pattern"))


def test_r_d1_r_d2_stepped_wall_clock_loses_and_overwrites_nothing(bench: Any, wallshift: Path, tmp_path: Path,
                                                                   wait_until: Callable[..., Any]) -> None:
    """Three runs; the clock steps in the middle of each and between them: 2 hours on and back, ten years on and back."""
    shift = tmp_path / "shift"
    environment = ["env", f"WALLSHIFT_FILE={shift}", f"LD_PRELOAD={wallshift}"]
    spec = StreamSpec("pattern", "pattern", width=320, height=180, fps=25, segment_s=1)
    begun_at = []                       # the shift under which each run began
    frames, stepped_at = 0, []
    for before, after in zip(STEPS_S[::2], STEPS_S[1::2], strict=True):
        shift.write_text(str(before))
        begun_at.append(before)
        last = bench.status("pattern")
        process = bench.start([*environment, *bench.worker_command(spec)])
        wait_until(lambda last=last: (s := bench.status("pattern")) and s.state == "recording" and (last is None or s.run != last.run))
        have = sealed(bench)
        wait_until(lambda have=have: sealed(bench) > have)
        durable.replace(shift, str(after).encode())
        stepped_at.append(time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000)
        have = sealed(bench)
        wait_until(lambda have=have: sealed(bench) > have + 1)
        assert bench.finish(process) == 0
        frames += bench.status("pattern").frames

    found = bench.segments("pattern")
    assert [s.seq for _, s in found] == list(range(len(found)))
    assert frames == sum(s.frames for _, s in found)            # no file was written over
    assert [s.start.boot_us for _, s in found] == sorted(s.start.boot_us for _, s in found)     # the number's order is the true order
    runs = [list(group) for _, group in itertools.groupby(found, key=lambda each: each[1].run)]
    assert len(runs) == len(begun_at)
    for run, began_s, stepped_us in zip(runs, begun_at, stepped_at, strict=True):
        assert run[0][1].start.boot_us < stepped_us < run[-1][1].end.boot_us
        for path, sidecar in run:
            assert abs(sidecar.start.utc_us - sidecar.start.boot_us - real_offset_us() - began_s * US) < 100_000    # by its anchor
            assert sidecar.end.utc_us - sidecar.start.utc_us == sidecar.end.boot_us - sidecar.start.boot_us
            assert abs(sidecar.end.boot_us - sidecar.start.boot_us - sidecar.dur_us) <= sidecar.dur_us * MOST_PPM // US + 1
            named = parse_stem(path.stem)
            assert named == (sidecar.seq, sidecar.start.utc_us // US * US)
            assert durable.sha256_file(path) == sidecar.sha256 and read_whole(path).whole == sidecar.bytes
        for (_, a), (_, b) in itertools.pairwise(run):
            assert b.start == a.end
        check_steps([path for path, _ in run])


def check_steps(files: list[Path]) -> None:
    """Media time of a run goes on by 40 ms a picture, over all its files."""
    times: list[float] = []
    for file in files:
        with av.open(str(file)) as container:
            times += [float(p.pts * p.time_base) for p in container.demux(video=0) if p.size and p.pts is not None and p.time_base]
    assert all(abs(b - a - 0.04) < 0.0002 for a, b in itertools.pairwise(times))


@settings(max_examples=40)
@given(ppm=st.integers(-400, 400), lateness=st.lists(st.integers(0, 300_000), min_size=3, max_size=60), seconds=st.integers(2, 60))
def test_r_d4_segments_of_a_drifting_camera_meet_and_follow_the_boot_clock(ppm: int, lateness: list[int], seconds: int) -> None:
    """236 segments in a row (moonfire-nvr issue 350: 16 s of drift in so many): ends meet, the axis stays within 100 ms of the truth.

    The camera's second lasts 1 s less `ppm` of a microsecond; each segment has one sample that came at once, the others came late.
    """
    anchor = Stamp(1_795_498_303_000_000, 5_000_000, "b")
    timeline, end, second = Timeline(anchor), anchor, 0
    for _ in range(236):
        first = second
        for second in range(first + 1, first + seconds + 1):
            late = 0 if second == first + seconds else lateness[second % len(lateness)]
            timeline.heard(LEAD_US + second * (US + ppm), anchor.boot_us + second * US + late)
        media_us = LEAD_US + second * (US + ppm)
        assert timeline.at(LEAD_US + first * (US + ppm)) == end             # begins where the last one ended
        start, end = end, timeline.turn(media_us)
        length = seconds * (US + ppm)
        assert abs(end.us_since(start) - length) <= length * MOST_PPM // US + 1
        assert abs(end.boot_us - anchor.boot_us - second * US) <= 100_000
        assert end.utc_us - anchor.utc_us == end.boot_us - anchor.boot_us
