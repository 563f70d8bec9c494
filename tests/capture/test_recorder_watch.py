"""The recorder keeps the watcher alive beside the workers, in whatever order they die, and the recording never depends on it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from edge.capture.control import SOCKET, RecorderControl
from edge.capture.recorder import Recorder, WatcherKeeper
from edge.capture.storage_id import init_storage
from edge.capture.streams import StreamSpec
from edge.clock import SystemClock

CHILD = """
import pathlib, sys, os
lives = pathlib.Path(sys.argv[1])
with lives.open("a") as file:
    file.write(f"{os.getpid()}\\n")
sys.stdin.buffer.read()
lives.with_suffix(".left").write_text(str(len(list(lives.parent.glob("*.left")))))
"""


def command(lives: Path) -> list[str]:
    return [sys.executable, "-c", CHILD, str(lives)]


def pids(lives: Path) -> list[int]:
    return [int(line) for line in lives.read_text().split()] if lives.exists() else []


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not what():  # noqa: ASYNC110 (files of other processes)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def recorder(folder: Path, watch_command: list[str] | None) -> AsyncIterator[RecorderControl]:
    footage, run = folder / "footage", folder / "run"
    init_storage(footage)
    run.mkdir()
    task = asyncio.create_task(Recorder([StreamSpec("cam", "pattern")], footage, run, lambda spec: command(folder / "worker"),
                                        watch_command=watch_command).run())
    await until((run / SOCKET).exists)
    try:
        yield RecorderControl(run / SOCKET)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_watcher_that_dies_is_started_again_and_the_worker_does_not_notice(tmp_path: Path) -> None:
    watcher, worker = tmp_path / "watcher", tmp_path / "worker"
    async with recorder(tmp_path, command(watcher)) as control:
        await until(lambda: pids(watcher) and pids(worker))
        assert await control.ask({"do": "status"}) == {"ok": True, "wanted": True, "streams": {"cam": "running"}, "watcher": "running"}
        os.kill(pids(watcher)[0], signal.SIGKILL)
        await until(lambda: len(pids(watcher)) == 2)
        assert len(pids(worker)) == 1


async def test_while_the_workers_rest_the_watcher_goes_on_and_it_leaves_after_them(tmp_path: Path) -> None:
    """So that it can note what they seal on leaving."""
    watcher, worker = tmp_path / "watcher", tmp_path / "worker"
    async with recorder(tmp_path, command(watcher)) as control:
        await until(lambda: pids(watcher) and pids(worker))
        assert await control.wanted(False)
        await until(worker.with_suffix(".left").exists)
        status = await control.ask({"do": "status"})
        assert status is not None and status["streams"] == {"cam": "resting"} and status["watcher"] == "running"
        worker.with_suffix(".left").unlink()
        assert await control.wanted(True)
        await until(lambda: len(pids(worker)) == 2)
    assert [worker.with_suffix(".left").read_text(), watcher.with_suffix(".left").read_text()] == ["0", "1"]
    assert len(pids(watcher)) == 1


async def test_a_watcher_that_cannot_be_started_costs_no_recording(tmp_path: Path) -> None:
    async with recorder(tmp_path, [str(tmp_path / "no such program")]) as control:
        await until(lambda: pids(tmp_path / "worker"))
        status = await control.ask({"do": "status"})
        assert status is not None and status["streams"] == {"cam": "running"} and status["watcher"] == "restarting"


class Impatient(WatcherKeeper):
    hung_us = 500_000


async def test_a_watcher_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    """It gives no sign of life: no watch status is written at all."""
    lives = tmp_path / "watcher"
    keeper = Impatient([StreamSpec("cam", "pattern")], command(lives), tmp_path, SystemClock())
    task = asyncio.create_task(keeper.run())
    await until(lambda: len(pids(lives)) >= 2)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
