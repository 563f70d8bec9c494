"""How our programs run: one program's tasks until it is stopped, and several programs on one machine without systemd.

`until_stopped` runs the tasks of the room or the recorder. They start in order and stop together; a task that raises *or returns*
ends the program with a non-zero code, and whoever keeps it starts it anew: starting normally and starting after a power cut run the
same lines. `Keeper` does the keeping for a desk (`edge run`), a demo and the tests, on site systemd does: a child that ends is
started anew after half a second, growing to five; SIGINT and SIGTERM stop the children in reverse order. They live in sessions of
their own, so that Ctrl-C reaches only the keeper; if the keeper is killed, the kernel tells them to stop.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from edge import status

log = logging.getLogger(__name__)

STOP_S = 20
REFUSED = 3
"""A child that ends with this code said why in plain words; starting it anew would not help."""
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Program:
    name: str
    argv: tuple[str, ...]


def edge(*arguments: str) -> tuple[str, ...]:
    """The argv of one of our own commands in this very Python."""
    return (sys.executable, "-m", "edge", *arguments)


class Keeper:
    """Keeps the programs alive. `run` returns 0 after a stop, REFUSED if one refused to start."""

    def __init__(self, programs: Sequence[Program], *, quiet: bool = False) -> None:
        self._programs, self._quiet = programs, quiet
        self._stop = asyncio.Event()
        self._refused = False

    def stop(self) -> None:
        self._stop.set()

    async def run(self, ready: Callable[[], object] | None = None) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        keeping = [(p, asyncio.Event()) for p in self._programs]
        tasks = [asyncio.create_task(self._keep(p, ending)) for p, ending in keeping]
        if ready:
            ready()
        await self._stop.wait()
        for (_, ending), task in zip(reversed(keeping), reversed(tasks), strict=True):
            ending.set()
            await task
        return REFUSED if self._refused else 0

    async def _keep(self, program: Program, ending: asyncio.Event) -> None:
        pause = 0.5
        while not ending.is_set():
            began = asyncio.get_running_loop().time()
            code = await self._one_life(program, ending)
            if ending.is_set():
                return
            if code == REFUSED:
                self._refused = True
                self._stop.set()
                return
            if asyncio.get_running_loop().time() - began > 10:
                pause = 0.5
            if not self._quiet:
                log.warning("program-ended name=%s code=%s again_in_s=%.1f", program.name, code, pause)
            try:
                await asyncio.wait_for(ending.wait(), pause)
            except TimeoutError:
                pause = min(pause * 2, 5)

    async def _one_life(self, program: Program, ending: asyncio.Event) -> int:
        try:
            process = await asyncio.create_subprocess_exec(*program.argv, stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
                                                           preexec_fn=_die_with_parent)
        except OSError as error:            # no memory, no process left: that passes, and the keeping must not end with it
            log.error("program-did-not-start name=%s reason=%s", program.name, error.strerror)
            return 1
        ended, told = asyncio.create_task(process.wait()), asyncio.create_task(ending.wait())
        await asyncio.wait((ended, told), return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        if not ended.done():
            process.terminate()
            try:
                await asyncio.wait_for(asyncio.shield(ended), STOP_S)
            except TimeoutError:
                log.error("program-did-not-stop name=%s", program.name)
                process.kill()
        return await ended


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


# ---- one program ------------------------------------------------------------------------------------------------------

Task = tuple[str, Callable[[], Coroutine[Any, Any, Any]]]


class NotReady(Exception):
    """The program cannot start. Says what happened, what is safe, and what to do. Exit code 3: trying again will not help."""


class _Stopped(Exception):
    pass


class TaskEnded(Exception):
    """A task that should run for ever returned: the program ends, so that it is started anew as a whole."""


async def until_stopped(tasks: Sequence[Task], ready: str) -> int:
    """Run the tasks until SIGTERM or SIGINT (returns 0) or until one ends (raises). A first task `begin` is done before the others."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    async def stopper() -> None:
        await stop.wait()
        raise _Stopped

    async def for_ever(name: str, task: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        await task()
        raise TaskEnded(name)

    try:
        async with asyncio.TaskGroup() as group:
            first, rest = (tasks[0], tasks[1:]) if tasks[0][0] == "begin" else (None, tasks)
            if first:
                await first[1]()
            for name, task in rest:
                group.create_task(for_ever(name, task), name=name)
            group.create_task(stopper())
            await asyncio.sleep(0)
            status.notify(f"READY=1\nSTATUS={ready}")
            log.info("ready %s", ready)
    except* _Stopped:
        status.notify("STOPPING=1")
        log.info("stopped")
    return 0
