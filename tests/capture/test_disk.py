"""A disk that stands still, fills up, fails, or loses power: what the recorder promises then, on a real ext4 that does just that.

The disk is `tests/rigs/crashfs.py`: ext4 on a loop device, frozen by the kernel (FIFREEZE blocks every writer until it is thawed) or
shut down without its journal (EXT4_IOC_SHUTDOWN loses what no sync pushed out). Both want root; without it the tests are skipped.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import pytest

from edge import durable
from edge.capture.disk import Disk
from edge.capture.recovery import read_whole
from edge.capture.rolling import Rolling
from edge.capture.segments import SET_ASIDE, SYNC_S
from edge.capture.sidecar import Sidecar, from_json
from edge.capture.storage_id import init_storage
from edge.capture.streams import StreamSpec
from edge.clock import US, SimClock
from tests.capture.test_rolling import Film

FRAGMENT_US = 600_000
"""A fragment of half a second, and the frame that ends it. One is in memory, one more may have come before the sync was due."""
DISK_FAILED = 6

Found = list[tuple[Path, Sidecar]]


def boot_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def rig() -> ModuleType:
    found = importlib.util.spec_from_file_location("crashfs", Path(__file__).parents[1] / "rigs" / "crashfs.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def why_not() -> str:
    """Why such a disk cannot be had here; empty if it can."""
    if os.geteuid() != 0:
        return "mounting a disk of the test's own needs root"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices here (a container without them): run it on a whole machine or in room-vm"
    if shutil.which("mkfs.ext4") is None:
        return "no mkfs.ext4: apt-get install e2fsprogs"
    return ""


class TestDisk:
    """The disk that the bench records to."""

    __test__ = False

    def __init__(self, folder: Path, mb: int, real_mb: int = 0) -> None:
        self._rig, self.folder, self._frozen = rig(), folder, False
        self.mount: Path = self._rig.make(folder, mb, real_mb)

    def freeze(self) -> None:
        self._rig.freeze(self.folder)
        self._frozen = True

    def thaw(self) -> None:
        if self._frozen:
            self._rig.thaw(self.folder)
        self._frozen = False

    def cut(self) -> None:
        self._rig.cut(self.folder)

    def mend(self) -> None:
        self._rig.mend(self.folder)

    def back(self) -> None:
        self._rig.back(self.folder)

    def remove(self) -> None:
        self._rig.rm(self.folder)


@contextmanager
def mounted(bench: Any, folder: Path, mb: int, real_mb: int = 0) -> Iterator[TestDisk]:
    """The disk under the footage folder. It is thawed and unused before it goes."""
    if reason := why_not():
        pytest.skip(reason)
    try:
        disk = TestDisk(folder, mb, real_mb)
    except OSError as error:
        pytest.skip(f"no disk of the test's own: {error}")
    bench.footage = disk.mount / "footage"
    init_storage(bench.footage)
    try:
        yield disk
    finally:
        disk.thaw()
        bench.close()
        disk.remove()


@pytest.fixture
def disk(bench: Any, tmp_path: Path) -> Iterator[TestDisk]:
    """An ext4 of 96 MB."""
    with mounted(bench, tmp_path / "disk", 96) as disk:
        yield disk


@pytest.fixture
def failing_disk(bench: Any, tmp_path: Path) -> Iterator[TestDisk]:
    """An ext4 that says it has 64 MB and fails after about 5."""
    with mounted(bench, tmp_path / "disk", 64, 6) as disk:
        yield disk


def check(found: Found) -> None:
    """Sidecars and files agree, every file plays, each number is a segment or was set aside, the segments of a run meet."""
    aside = {int(path.name[:10]) for path in found[0][0].parents[3].glob(f"{SET_ASIDE}/*.mp4")}
    assert sorted(aside | {s.seq for _, s in found}) == list(range(len(aside) + len(found)))
    for path, sidecar in found:
        assert path.stat().st_size == sidecar.bytes
        assert durable.sha256_file(path) == sidecar.sha256
        assert read_whole(path).whole == sidecar.bytes
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == sidecar.frames
    for (_, a), (_, b) in itertools.pairwise(found):
        assert b.start == a.end if a.run == b.run else b.start.boot_us >= a.end.boot_us - 200_000


def stall(disk: TestDisk, bench: Any, wait_until: Callable[..., Any], seconds: float) -> None:
    """The disk stands still for so long, by what waits for it."""
    disk.freeze()
    until = boot_us() + round(seconds * US)
    wait_until(lambda: boot_us() > until, seconds + 5)
    disk.thaw()


def ride_out(seconds: float, small_mb: int, bench: Any, disk: TestDisk, camera: Any, wait_until: Callable[..., Any],
             framecheck: Callable[[list[Path]], tuple[int, str]]) -> None:
    """One camera, two workers: the buffer of one holds the stall, that of the other does not."""
    patient = bench.record(StreamSpec("patient", "rtsp", url=camera.url, segment_s=5))
    hasty = bench.record(StreamSpec("hasty", "rtsp", url=camera.url, segment_s=5, buffer_mb=small_mb))
    wait_until(lambda: bench.status("hasty").frames > 25)
    frozen_us = boot_us()
    stall(disk, bench, wait_until, seconds)
    most = bench.status("patient").buffered_bytes
    stalled = bench.status("hasty")
    run = stalled.run
    wait_until(lambda: bench.status("hasty").run != run and bench.status("hasty").frames > 50)
    back_us = boot_us()
    wait_until(lambda: bench.status("patient").buffered_bytes < 1_000_000)
    assert bench.status("patient").state == "recording"
    assert bench.finish(patient) == bench.finish(hasty) == 0

    assert most > 200_000 * (seconds - 2)           # it did wait in memory (4 Mbit/s)
    found = bench.segments("patient")
    check(found)
    assert len({s.run for _, s in found}) == 1 and all(s.dropped == 0 for _, s in found)
    status, text = framecheck([path for path, _ in found])
    assert status == 0, text

    assert stalled.state == "lost" and stalled.reason == "disk-stalled"
    found = bench.segments("hasty")
    check(found)
    assert len({s.run for _, s in found}) == 2
    gap = next(i for i, (_, s) in enumerate(found) if s.end_reason == "disk-stalled")
    before, after = found[gap][1], found[gap + 1][1]
    assert before.run != after.run
    missing_us = after.start.boot_us - before.end.boot_us
    assert 0 < missing_us < back_us - frozen_us
    _, text = framecheck([path for path, _ in found])       # nothing is lost but the gap, which is as long as by the camera's numbers
    assert "doubled 0, backwards 0, unreadable 0" in text
    assert sum(int(n) for n in re.findall(r"mp4: .* missing (\d+)", text)) == 0
    missing = int(text.splitlines()[-1].split("missing ")[1].split(",")[0])
    assert abs(missing * 40_000 - missing_us) <= 150_000, text


def test_r_a2_stalled_disk_costs_nothing_or_a_declared_gap(bench: Any, disk: TestDisk, camera: Any, wait_until: Callable[..., Any],
                                                           framecheck: Callable[[list[Path]], tuple[int, str]]) -> None:
    ride_out(6, 1, bench, disk, camera, wait_until, framecheck)


@pytest.mark.slow
def test_r_a2_disk_stalls_for_30_s(bench: Any, disk: TestDisk, camera: Any, wait_until: Callable[..., Any],
                                   framecheck: Callable[[list[Path]], tuple[int, str]]) -> None:
    ride_out(30, 4, bench, disk, camera, wait_until, framecheck)


def pattern(**more: Any) -> StreamSpec:
    return StreamSpec("pattern", "pattern", width=320, height=180, fps=25, **{"segment_s": 2, **more})


def fill(path: Path) -> str:
    """Write until the disk says no; what it said."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 512):               # the second: to the last block
            with pytest.raises(OSError) as said:
                while True:
                    file.write(os.urandom(size))
                    os.fsync(file.fileno())
    return os.strerror(said.value.errno or 0)


@pytest.mark.slow
def test_r_a2_full_disk_is_a_declared_gap(bench: Any, disk: TestDisk, wait_until: Callable[..., Any]) -> None:
    """ENOSPC from a real file system, delayed allocation and all; then there is room again."""
    process = bench.record(pattern(segment_s=3600))
    wait_until(lambda: bench.status("pattern").frames > 30)
    assert fill(disk.mount / "filler") == "No space left on device"
    wait_until(lambda: bench.status("pattern").reason == "disk-full")
    run = bench.status("pattern").run
    assert process.poll() is None
    (disk.mount / "filler").unlink()
    wait_until(lambda: bench.status("pattern").run != run and bench.status("pattern").frames > 30)
    assert bench.finish(process) == 0
    found = bench.segments("pattern")
    check(found)
    full = next(i for i, (_, s) in enumerate(found) if s.end_reason == "disk-full")
    assert found[full + 1][1].run != found[full][1].run
    assert not any(s.recovered for _, s in found)
    assert not list(bench.footage.rglob("*.open.json"))


def test_r_a2_disk_fills_exactly_between_two_files(disk: TestDisk, wait_until: Callable[..., Any]) -> None:
    """The file before ended as it should, the next cannot begin: the reason of the hole stands in the sidecar before it."""
    clock, film = SimClock(), Film("libx264")
    tray = Disk(disk.mount / "cam", clock, 32_000_000)
    tray.start()
    rolling = Rolling(StreamSpec("cam", "rtsp", segment_s=1), tray, clock, lambda: "synced")
    rolling.begin(film.tracks, lambda: 0)
    filler = disk.mount / "filler"
    began, filled = clock.now().boot_us, False
    for piece in film.pieces(8, began):
        rolling.write(piece)
        seconds = (piece.arrived_us - began) / US
        if seconds >= 2.2 and not filled:           # the third file has begun, and nothing of it is whole yet
            wait_until(lambda: not tray.waiting_bytes)
            assert sorted(p.name[:10] for p in disk.mount.rglob("*.mp4")) == ["0000000000", "0000000001"]
            assert fill(filler) == "No space left on device"
            filled = True
        if filler.exists() and seconds >= 4:
            wait_until(lambda: tray.refusing == "disk-full" and not tray.waiting_bytes)
            filler.unlink()
            wait_until(lambda: not tray.refusing)
    rolling.end("stopped")
    tray.close()
    assert tray.join(30) and tray.failed is None
    found = [from_json(path.read_bytes()) for path in sorted(disk.mount.rglob("*Z.json"))]
    assert [(s.seq, s.end_reason) for s in found][:2] == [(0, "rotated"), (1, "disk-full")]
    assert found[2].run != found[1].run and found[2].start.boot_us > found[1].end.boot_us + US
    assert not list(disk.mount.rglob("*.open.json"))


def test_disk_that_fails_ends_the_worker_and_spares_what_was_sealed(bench: Any, failing_disk: TestDisk,
                                                                    wait_until: Callable[..., Any]) -> None:
    """EIO: a file whose sync failed is not to be trusted. The worker leaves; on the mended disk its successor recovers the file."""
    process = bench.record(pattern())
    bench.wait_segments("pattern", 2)
    assert fill(failing_disk.mount / "filler") in ("Input/output error", "Read-only file system")
    assert process.wait(timeout=10) == DISK_FAILED
    status = bench.status("pattern")
    assert (status.state, status.reason) == ("refused", "disk-failed")
    sealed = told_sealed(bench)
    failing_disk.mend()
    failing_disk.back()
    (failing_disk.mount / "filler").unlink(missing_ok=True)
    process = bench.record(pattern())
    wait_until(lambda: bench.status("pattern").frames > 30)
    assert bench.finish(process) == 0
    found = bench.segments("pattern")
    check(found)
    assert len(sealed) >= 2 and sealed <= {s.seq for _, s in found if not s.recovered}


def told_sealed(bench: Any) -> set[int]:
    """The numbers of the segments that the worker has called sealed so far."""
    return {int(n) for n in re.findall(r"segment sealed stream=pattern seq=(\d+)", bench.log.read_text())}


def cut_power(times: int, bench: Any, disk: TestDisk, wait_until: Callable[..., Any]) -> list[int]:
    """Record, cut at a random moment, mount again, and again. Microseconds lost each time."""
    chance, losses = random.Random(11), []
    promised: set[int] = set()
    for trial in range(times):
        process = bench.record(pattern())
        after_us = boot_us() + chance.randrange(500_000, 3_500_000)
        wait_until(lambda after_us=after_us: boot_us() >= after_us)
        promised |= told_sealed(bench)
        status, cut_us = bench.status("pattern"), boot_us()
        run = status.run
        disk.cut()
        assert process.wait(timeout=15) == DISK_FAILED
        disk.back()
        process = bench.start(bench.worker_command(pattern()))      # recovers, and writes on
        wait_until(lambda run=run: bench.state("pattern") == "recording" and bench.status("pattern").run != run)
        assert bench.finish(process) == 0
        found = bench.segments("pattern")
        check(found)
        mine = [s for _, s in found if s.run == run]
        losses.append(cut_us - max((s.end.boot_us for s in mine), default=status.since_boot_us - FRAGMENT_US))     # it began just now
        assert losses[-1] <= SYNC_S * US + 2 * FRAGMENT_US, f"trial {trial}"
        assert promised <= {s.seq for _, s in found if not s.recovered}, f"trial {trial}"
    return losses


def test_r_c2_power_cut_loses_no_more_than_a_second_and_two_fragments(bench: Any, disk: TestDisk, wait_until: Callable[..., Any]) -> None:
    """What no fdatasync had pushed out is really gone; what was sealed is whole, and what was synced is recovered."""
    cut_power(1, bench, disk, wait_until)


@pytest.mark.slow
def test_r_c2_twenty_power_cuts(bench: Any, disk: TestDisk, wait_until: Callable[..., Any]) -> None:
    losses = sorted(cut_power(20, bench, disk, wait_until))
    print(f"lost at a power cut: median {losses[10] / US:.2f} s, most {losses[-1] / US:.2f} s")
    assert losses[10] > 0       # a rig that loses nothing proves nothing
