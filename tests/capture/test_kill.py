"""kill -9 of a worker and of the recorder, a full disk, a second worker: what is lost is counted, what was on the disk stays."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge import durable
from edge.capture.control import SOCKET, RecorderControl
from edge.capture.recorder import Recorder
from edge.capture.storage_id import NAME, StorageRefused
from edge.capture.streams import StreamSpec
from edge.clock import US

LOST_US = 600_000
"""A fragment (0.3 s, ended by the frame after it), one frame held for its length and one in the muxer, and the test's own delay."""


def boot_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def spec(name: str = "pattern", **more: Any) -> StreamSpec:
    return StreamSpec(name, "pattern", width=320, height=180, fps=25, **more)


RECORDER = """
import asyncio, sys
from pathlib import Path
from edge.capture.recorder import Recorder
from edge.capture.streams import StreamSpec
footage, run, *specs = sys.argv[1:]
def command(spec):
    return [sys.executable, "-m", "edge.capture.worker", "--spec", spec.to_json(), "--footage", footage, "--run", run]
asyncio.run(Recorder([StreamSpec.from_json(s) for s in specs], Path(footage), Path(run), command).run())
"""


def recorder_command(bench: Any, *specs: StreamSpec) -> list[str]:
    return [sys.executable, "-c", RECORDER, str(bench.footage), str(bench.run), *[s.to_json() for s in specs]]


def pid_of(bench: Any, stream: str, other_than: int = 0) -> int:
    status = bench.status(stream)
    return status.pid if status and status.state == "recording" and status.pid != other_than else 0


def test_killed_worker_loses_half_a_second_and_is_replaced(bench: Any, wait_until: Callable[..., Any]) -> None:
    recorder = bench.start(recorder_command(bench, spec()))
    pid = wait_until(lambda: pid_of(bench, "pattern"))
    wait_until(lambda: bench.status("pattern").frames > 30)
    os.kill(pid, signal.SIGKILL)
    killed = boot_us()
    wait_until(lambda: pid_of(bench, "pattern", other_than=pid))
    recorder.terminate()
    recorder.wait(timeout=15)
    first, second, *_ = bench.wait_segments("pattern", 2)
    assert first[1].recovered and first[1].end_reason == "worker-crash" and not second[1].recovered
    assert second[1].seq == first[1].seq + 1 and second[1].run != first[1].run
    assert first[1].start.boot_id == second[1].start.boot_id
    assert killed - first[1].end.boot_us <= LOST_US
    assert second[1].start.boot_us - killed <= 3 * US
    assert durable.sha256_file(first[0]) == first[1].sha256
    assert not list(bench.footage.rglob("*.open.json"))


def test_killed_recorder_costs_no_footage(bench: Any, wait_until: Callable[..., Any]) -> None:
    recorder = bench.start(recorder_command(bench, spec()))
    pid = wait_until(lambda: pid_of(bench, "pattern"))
    recorder.kill()
    killed = boot_us()
    again = bench.start(recorder_command(bench, spec()))
    wait_until(lambda: pid_of(bench, "pattern", other_than=pid))
    again.terminate()
    again.wait(timeout=15)
    (_, first), (_, second), *_ = bench.wait_segments("pattern", 2)
    assert first.end_reason == "stopped" and not first.recovered        # the old worker saw its stdin close and sealed
    assert killed - first.end.boot_us <= 100_000
    assert second.seq == first.seq + 1 and second.start.boot_us - killed <= 4 * US


def test_second_worker_waits_for_the_lock(bench: Any, wait_until: Callable[..., Any]) -> None:
    first = bench.record(spec())
    second = bench.start(bench.worker_command(spec()))
    assert bench.finish(first) == 0
    wait_until(lambda: pid_of(bench, "pattern", other_than=first.pid))
    assert bench.finish(second) == 0
    assert [s.seq for _, s in bench.segments("pattern")] == [0, 1]


def test_terminated_worker_seals(bench: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGABRT, signal.SIGINT):
        process = bench.record(spec())
        process.send_signal(number)
        assert process.wait(timeout=10) == 0
    assert [s.end_reason for _, s in bench.segments("pattern")] == ["stopped"] * 3


async def test_control_socket(bench: Any) -> None:
    recorder = Recorder([spec("left"), spec("right")], bench.footage, bench.run, bench.worker_command)
    task = asyncio.create_task(recorder.run())
    control = RecorderControl(bench.run / SOCKET)

    async def until(what: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not what():                       # noqa: ASYNC110
                await asyncio.sleep(0.05)           # the condition lies on the disk: nothing in this process knows when it comes true

    try:
        await until(lambda: all(bench.state(s) == "recording" for s in ("left", "right")))
        assert await control.cut()
        assert await control.ask({"do": "cut"}) == {"ok": True, "streams": 2}
        await until(lambda: any(s.end_reason == "cut" for _, s in bench.segments("left")))
        assert await control.ask({"do": "status"}) == {"ok": True, "wanted": True, "streams": {"left": "running", "right": "running"}}
        assert await control.wanted(False)
        await until(lambda: all(bench.state(s) == "resting" for s in ("left", "right")))
        assert bench.segments("left")[-1][1].end_reason == "stopped"
        assert await control.wanted(True)
        await until(lambda: all(bench.state(s) == "recording" for s in ("left", "right")))
        for nonsense in (b"{}", b"[]", b"cut", b'{"do":"stop"}', b'{"do":"wanted","record":"yes"}', b"\xff"):
            reader, writer = await asyncio.open_unix_connection(str(bench.run / SOCKET))
            writer.write(nonsense + b"\n")
            answer = json.loads(await reader.readline())
            assert answer["ok"] is False and answer["error"]
            writer.close()
            await writer.wait_closed()
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert all(bench.segments(s)[-1][1].end_reason == "stopped" for s in ("left", "right"))
    assert not list(bench.footage.rglob("*.open.json"))
    assert not await control.cut()


async def test_recorder_refuses_a_folder_without_identity(bench: Any) -> None:
    (bench.footage / NAME).unlink()
    before = sorted(bench.footage.rglob("*"))
    with pytest.raises(StorageRefused, match=r"Nothing was written.*edge storage init"):
        await Recorder([spec()], bench.footage, bench.run, bench.worker_command).run()
    assert sorted(bench.footage.rglob("*")) == before
    process = bench.start(bench.worker_command(spec()))
    assert process.wait(timeout=10) == 3
    assert bench.status("pattern").state == "refused"
    assert sorted(bench.footage.rglob("*")) == before


def may_mount() -> bool:
    unshare = shutil.which("unshare")
    return bool(unshare) and subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="needs a mount namespace of one's own (unshare -rm), which this system forbids")
def test_full_disk_is_ridden_out(bench: Any, wait_until: Callable[..., Any]) -> None:
    """A 1-MB disk, filled up and freed again, in a namespace of its own."""
    shutil.rmtree(bench.footage)
    bench.footage.mkdir()
    worker = StreamSpec("pattern", "pattern", width=320, height=180, segment_s=3600)
    make = f"from pathlib import Path; from edge.capture.storage_id import *; init_storage(Path(r'{bench.footage}'))"
    script = f'mount -t tmpfs -o size=1m none "{bench.footage}" && "{sys.executable}" -c "{make}" && exec "$@"'
    process = bench.start(["unshare", "-rm", "sh", "-c", script, "sh", *bench.worker_command(worker)])
    wait_until(lambda: bench.state("pattern") == "recording")
    inside = Path(f"/proc/{bench.status('pattern').pid}/root{bench.footage}")
    held = os.open(inside, os.O_RDONLY)          # keeps the disk when its namespace is gone
    filler = inside / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    wait_until(lambda: bench.status("pattern").reason == "disk-full")
    assert process.poll() is None
    filler.unlink()
    wait_until(lambda: bench.state("pattern") == "recording")
    assert bench.finish(process) == 0
    bench.footage = Path(f"/proc/self/fd/{held}")
    found = bench.segments("pattern")
    full = next(i for i, (_, s) in enumerate(found) if s.end_reason == "disk-full")
    assert not found[full][1].recovered and found[full][1].frames > 0
    assert found[full + 1][1].run != found[full][1].run and found[full + 1][1].seq == found[full][1].seq + 1
    for path, sidecar in found:
        assert durable.sha256_file(path) == sidecar.sha256
    os.close(held)
