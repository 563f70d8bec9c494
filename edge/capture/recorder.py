"""Keeps one worker per stream alive, and the one watcher, whatever else happens. Knows no sessions, no database, no web, no camera.

A program that ends is started again after 0.5 s, growing to 10 s while it keeps failing. A worker whose status stands still for six
seconds hangs and is killed; so is the watcher after a minute, which the recording never notices. stdin is their leash: when the
recorder dies, however, workers seal their segments and leave, and the next recorder's workers wait for them at the folder's lock.
Serves `recorder.sock`. Called by `edge recorder`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from abc import ABC, abstractmethod
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge.capture.control import SOCKET, StreamStatus, read_status, read_watch, serve_control, write_status
from edge.capture.storage_id import check_storage
from edge.capture.streams import StreamSpec
from edge.clock import US, Clock, SystemClock, boot_id

FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 10.0
STABLE_S = 60.0
HUNG_US = 6 * US
"""The status comes from a thread that waits for neither camera nor disk: if it stands still for so long, its process hangs."""
SEAL_S = 80.0
"""A worker that was told to leave gets this long before it is killed: what waits in its memory for a slow disk is footage."""

WATCHER_HUNG_US = 60 * US
"""The watcher waits for the disk, which may stand still for half a minute; nothing is lost while it does."""

log = logging.getLogger(__name__)


class Keeper(ABC):
    """One program on its leash: running while `wanted`, restarted when it ends. `name` stands in the log."""

    hung_us = HUNG_US

    def __init__(self, name: str, command: Sequence[str], run_dir: Path, clock: Clock) -> None:
        self.name = name
        self._command, self._run_dir, self._clock = list(command), run_dir, clock
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._process: Process | None = None

    @property
    def state(self) -> str:
        if self._process is not None:
            return "running"
        return "restarting" if self._wanted.is_set() else "resting"

    def want(self, record: bool) -> None:
        """Record, or let the worker seal and rest."""
        if record:
            self._wanted.set()
        else:
            self._wanted.clear()
            self._let_go()

    def cut(self) -> bool:
        """Send the order; False if no worker runs."""
        stdin = self._process.stdin if self._process else None
        if stdin is None or stdin.is_closing():
            return False
        stdin.write(b"cut\n")
        return True

    async def run(self) -> None:
        """For ever; on cancellation the worker seals and leaves first."""
        pause = FIRST_PAUSE_S
        while True:
            if not self._wanted.is_set():
                self._rest()
                await self._wanted.wait()
            began = self._clock.now().boot_us
            code = await self._one_life()
            if not self._wanted.is_set():
                continue
            if self._clock.now().boot_us - began >= STABLE_S * US:
                pause = FIRST_PAUSE_S
            log.warning("program ended name=%s code=%s restart_s=%.1f", self.name, code, pause)
            await self._clock.sleep(pause)
            pause = min(LAST_PAUSE_S, pause * 2)

    async def _one_life(self) -> int | None:
        try:
            self._process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=DEVNULL)
        except OSError as error:
            log.error("program does not start name=%s errno=%s", self.name, error.errno)
            return None
        process = self._process
        if not self._wanted.is_set():
            self._let_go()              # told to rest while it was being started
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._kill_if_hung(process))
                code = await process.wait()
                watch.cancel()
            return code
        finally:
            if process.returncode is None:
                await asyncio.shield(self._see_out(process))
            self._process = None

    def _let_go(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    async def _see_out(self, process: Process) -> None:
        """Let the worker seal; kill it only if it cannot."""
        self._let_go()
        for order in (signal.SIGTERM, signal.SIGKILL):
            with suppress(TimeoutError):
                async with asyncio.timeout(SEAL_S / 2):
                    await process.wait()
                return
            log.warning("program slow to leave name=%s signal=%s", self.name, order.name)
            with suppress(ProcessLookupError):
                process.send_signal(order)
        await process.wait()

    async def _kill_if_hung(self, process: Process) -> None:
        began = self._clock.now().boot_us
        while True:
            await asyncio.sleep(1)
            told = self._told_us()
            if self._clock.now().boot_us - max(began, told) > self.hung_us:
                log.error("program hangs name=%s action=kill", self.name)
                with suppress(ProcessLookupError):
                    process.kill()
                return

    @abstractmethod
    def _told_us(self) -> int:
        """Boot time at which it last gave a sign of life; 0: not in this boot."""

    @abstractmethod
    def _rest(self) -> None:
        """It is not wanted now, and does not run: say so where one looks."""


class WorkerKeeper(Keeper):
    """One stream's worker."""

    def __init__(self, spec: StreamSpec, command: Sequence[str], run_dir: Path, clock: Clock) -> None:
        super().__init__(spec.id, command, run_dir, clock)
        self.spec = spec

    def _told_us(self) -> int:
        status = read_status(self._run_dir, self.spec.id)
        return status.updated_boot_us if status is not None and status.boot_id == boot_id() else 0

    def _rest(self) -> None:
        now = self._clock.now().boot_us
        with suppress(OSError):
            write_status(self._run_dir, StreamStatus(
                stream=self.spec.id, kind=self.spec.kind, pid=0, state="resting", reason="not-wanted", run="", seq=0, since_boot_us=now,
                last_sample_boot_us=0, last_sample_utc_us=0, boot_id=boot_id(), frames=0, bytes=0, fps_x100=0, kbps=0, width=0, height=0,
                codec="", segments=0, updated_boot_us=now, dropped=0))


class WatcherKeeper(Keeper):
    """The room's watcher. It runs while the workers rest, too: then there is nothing to watch, and it idles."""

    hung_us = WATCHER_HUNG_US

    def __init__(self, specs: Sequence[StreamSpec], command: Sequence[str], run_dir: Path, clock: Clock) -> None:
        super().__init__("watcher", command, run_dir, clock)
        self._streams = [spec.id for spec in specs]

    def _told_us(self) -> int:
        told = [read_watch(self._run_dir, stream) for stream in self._streams]
        return max((each.updated_boot_us for each in told if each is not None and each.boot_id == boot_id()), default=0)

    def _rest(self) -> None:
        """Its last notes stay."""


class Recorder:
    """All streams of a room. `command` gives the argv of a stream's worker; `storage_uuid`: the disk that it must be (None: any).

    `watch_command`: argv of the watcher; None: nobody watches.
    """

    def __init__(self, specs: Sequence[StreamSpec], footage: Path, run_dir: Path, command: Callable[[StreamSpec], list[str]],
                 storage_uuid: str | None = None, clock: Clock | None = None, watch_command: Sequence[str] | None = None) -> None:
        self._footage, self._run_dir, self._storage_uuid = footage, run_dir, storage_uuid
        clock = clock or SystemClock()
        self._keepers = [WorkerKeeper(spec, command(spec), run_dir, clock) for spec in specs]
        self._watcher = WatcherKeeper(specs, watch_command, run_dir, clock) if watch_command else None
        self._wanted = True

    async def run(self) -> None:
        """Record until cancelled; then every worker has sealed. StorageRefused (before anything starts) if the disk is not the room's."""
        check_storage(self._footage, self._storage_uuid)
        server = await serve_control(self._run_dir / SOCKET, self._answer)
        try:
            async with asyncio.TaskGroup() as around:
                watching = around.create_task(self._watcher.run()) if self._watcher else None
                try:
                    async with asyncio.TaskGroup() as group:
                        for keeper in self._keepers:
                            group.create_task(keeper.run())
                finally:
                    if watching is not None:
                        watching.cancel()       # after the workers: it notes what they sealed
        finally:
            server.close()
            (self._run_dir / SOCKET).unlink(missing_ok=True)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"do": "cut"}:
                return {"streams": sum(keeper.cut() for keeper in self._keepers)}
            case {"do": "wanted", "record": bool(record)}:
                self._wanted = record
                for keeper in self._keepers:
                    keeper.want(record)
                return {}
            case {"do": "status"}:
                watcher = {"watcher": self._watcher.state} if self._watcher else {}
                return {"wanted": self._wanted, "streams": {k.spec.id: k.state for k in self._keepers}, **watcher}
        raise ValueError("the recorder knows cut, wanted (with record true or false) and status")
