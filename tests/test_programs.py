"""How our programs run: what ends one, and what starts it anew. Each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

TASKS = """
import asyncio, sys
from edge.programs import until_stopped
async def for_ever():
    print("up", flush=True)
    await asyncio.Event().wait()
async def ends(): pass
async def fails(): raise OSError("the disk is gone")
async def begin(): print("begun", flush=True)
tasks = {"forever": for_ever, "ends": ends, "fails": fails}
sys.exit(asyncio.run(until_stopped([("begin", begin), ("other", for_ever), (sys.argv[1], tasks[sys.argv[1]])], "here")))
"""
NAMED = "import os, signal, sys; name, folder = sys.argv[1:]; "
KEEPER = """
import asyncio, sys
from edge.programs import Keeper, Program
def child(name, text): return Program(name, (sys.executable, "-c", text, name, sys.argv[1]))
NAMES = "import os, signal, sys; name, folder = sys.argv[1:]; "
NOTE = "open(f'{folder}/{name}-{os.getpid()}', 'w').close(); "
STAY = NAMES + "signal.signal(15, lambda *_: (open(f'{folder}/order', 'a').write(name + ' '), sys.exit(0))); " + NOTE + "signal.pause()"
REFUSE = NAMES + NOTE + "sys.exit(3)"
programs = [child("first", STAY), child("second", STAY)] + ([child("refuses", REFUSE)] if len(sys.argv) > 2 else [])
sys.exit(asyncio.run(Keeper(programs, quiet=True).run(lambda: print("ready", flush=True))))
"""


@contextmanager
def started(text: str, argument: object) -> Iterator[subprocess.Popen[str]]:
    """A program of ours; killed at the end whatever the test found, so that a failure never waits for it."""
    with subprocess.Popen([sys.executable, "-c", text, str(argument)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(look: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < end, "what was waited for did not happen"
        time.sleep(0.02)        # a pause between two looks


def test_a_task_that_returns_ends_the_program_with_a_fault() -> None:
    done = subprocess.run([sys.executable, "-c", TASKS, "ends"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "TaskEnded: ends" in done.stderr
    assert done.stdout.startswith("begun")


def test_a_task_that_raises_ends_the_program_with_its_own_fault() -> None:
    done = subprocess.run([sys.executable, "-c", TASKS, "fails"], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "the disk is gone" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_no_fault(number: signal.Signals) -> None:
    with started(TASKS, "forever") as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(3)] == ["begun\n", "up\n", "up\n"]
        process.send_signal(number)
        assert process.wait(20) == 0


def test_who_dies_is_started_anew_and_the_stop_is_in_reverse(tmp_path: Path) -> None:
    with started(KEEPER, tmp_path) as process:
        wait_for(lambda: len(list(tmp_path.glob("*-*"))) == 2)
        first = next(tmp_path.glob("first-*"))
        os.kill(int(first.name.split("-")[1]), signal.SIGKILL)
        wait_for(lambda: len(list(tmp_path.glob("first-*"))) == 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert (tmp_path / "order").read_text() == "second first "


def test_who_does_not_heed_the_stop_is_killed_and_who_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    deaf = NAMED + ("signal.signal(15, signal.SIG_IGN); os.close(1); os.close(2); open(f'{folder}/deaf-{os.getpid()}', 'w').close(); "
                    "signal.pause()")
    text = "from edge import programs as module\nmodule.STOP_S = 0.2\n" + KEEPER[:KEEPER.index("programs = [")] + (
        f"programs = [child('deaf', {deaf!r}), Program('late', (sys.argv[1] + '/late', sys.argv[1]))]\n") + (
        KEEPER[KEEPER.index("sys.exit(asyncio"):])
    try:
        with started(text, tmp_path) as process:
            wait_for(lambda: list(tmp_path.glob("deaf-*")))
            (tmp_path / "late.part").write_text('#!/bin/sh\n: >"$1/came"\nexec sleep 60\n')
            (tmp_path / "late.part").chmod(0o755)
            (tmp_path / "late.part").rename(tmp_path / "late")
            wait_for(lambda: (tmp_path / "came").exists())
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        for pid in deaf_ones(tmp_path):
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
    finally:
        for pid in deaf_ones(tmp_path):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def deaf_ones(folder: Path) -> list[int]:
    return [int(each.name.split("-")[1]) for each in folder.glob("deaf-*")]


def test_who_refuses_in_words_ends_all(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KEEPER, str(tmp_path), "refuse"], capture_output=True, timeout=60)
    assert done.returncode == 3
    assert len(list(tmp_path.glob("refuses-*"))) == 1


def test_who_keeps_them_is_killed_and_they_are_told_to_stop(tmp_path: Path) -> None:
    with started(KEEPER, tmp_path) as process:
        wait_for(lambda: len(list(tmp_path.glob("*-*"))) == 2)
        process.kill()
    wait_for(lambda: (tmp_path / "order").exists() and sorted((tmp_path / "order").read_text().split()) == ["first", "second"])


def test_what_cannot_begin_starts_nothing_else() -> None:
    text = TASKS.replace('print("begun", flush=True)', 'raise OSError("no key")')
    done = subprocess.run([sys.executable, "-c", text, "forever"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, "") and "no key" in done.stderr
