"""Keeps one worker per stream alive, whatever else happens. Knows no sessions, no database, no web, no camera.

A worker that ends is started again after 0.5 s, growing to 10 s while it keeps failing. One whose status stands still for a
minute hangs and is killed. stdin is the workers' leash: when the recorder dies, however, they seal their segments and leave, and
the next recorder's workers wait for them at the folder's lock. Serves `recorder.sock`. Called by `edge recorder`.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge.capture.control import SOCKET, StreamStatus, read_status, serve_control, write_status
from edge.capture.storage_id import check_storage
from edge.capture.streams import StreamSpec
from edge.clock import US, Clock, SystemClock, boot_id

FIRST_PAUSE_S, LAST_PAUSE_S = 0.5, 10.0
STABLE_S = 60.0
HUNG_US = 60 * US
"""Longer than a disk may stall without cost (half a minute)."""
SEAL_S = 12.0
"""A worker that was told to leave gets this long before it is killed."""

log = logging.getLogger(__name__)


class Keeper:
    """One stream's worker: running while `wanted`, restarted when it ends."""

    def __init__(self, spec: StreamSpec, command: Sequence[str], run_dir: Path, clock: Clock) -> None:
        self.spec = spec
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
            log.warning("worker ended stream=%s code=%s restart_s=%.1f", self.spec.id, code, pause)
            await self._clock.sleep(pause)
            pause = min(LAST_PAUSE_S, pause * 2)

    async def _one_life(self) -> int | None:
        try:
            self._process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=DEVNULL)
        except OSError as error:
            log.error("worker does not start stream=%s errno=%s", self.spec.id, error.errno)
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
            log.warning("worker slow to leave stream=%s signal=%s", self.spec.id, order.name)
            with suppress(ProcessLookupError):
                process.send_signal(order)
        await process.wait()

    async def _kill_if_hung(self, process: Process) -> None:
        began = self._clock.now().boot_us
        while True:
            await asyncio.sleep(5)
            status = read_status(self._run_dir, self.spec.id)
            told = status.updated_boot_us if status is not None and status.boot_id == boot_id() else 0
            if self._clock.now().boot_us - max(began, told) > HUNG_US:
                log.error("worker hangs stream=%s action=kill", self.spec.id)
                with suppress(ProcessLookupError):
                    process.kill()
                return

    def _rest(self) -> None:
        now = self._clock.now().boot_us
        with suppress(OSError):
            write_status(self._run_dir, StreamStatus(
                stream=self.spec.id, kind=self.spec.kind, pid=0, state="resting", reason="not-wanted", run="", seq=0, since_boot_us=now,
                last_sample_boot_us=0, last_sample_utc_us=0, boot_id=boot_id(), frames=0, bytes=0, fps_x100=0, kbps=0, width=0, height=0,
                codec="", audio_peak_cdb=None, silent_ms=0, segments=0, updated_boot_us=now, dropped=0))


class Recorder:
    """All streams of a room. `command` gives the argv of a stream's worker; `storage_uuid`: the disk that it must be (None: any)."""

    def __init__(self, specs: Sequence[StreamSpec], footage: Path, run_dir: Path, command: Callable[[StreamSpec], list[str]],
                 storage_uuid: str | None = None, clock: Clock | None = None) -> None:
        self._footage, self._run_dir, self._storage_uuid = footage, run_dir, storage_uuid
        self._keepers = [Keeper(spec, command(spec), run_dir, clock or SystemClock()) for spec in specs]
        self._wanted = True

    async def run(self) -> None:
        """Record until cancelled; then every worker has sealed. StorageRefused (before anything starts) if the disk is not the room's."""
        check_storage(self._footage, self._storage_uuid)
        server = await serve_control(self._run_dir / SOCKET, self._answer)
        try:
            async with asyncio.TaskGroup() as group:
                for keeper in self._keepers:
                    group.create_task(keeper.run())
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
                return {"wanted": self._wanted, "streams": {k.spec.id: k.state for k in self._keepers}}
        raise ValueError("the recorder knows cut, wanted (with record true or false) and status")
