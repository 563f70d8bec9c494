"""A job that dies on its way, again and again, each time a little later; what its disk holds then is for the test to judge.

Each run is a process of its own and its end is a real one: SIGKILL right before the N-th change of a folder (seen by the interpreter's
audit hook: create, open for writing, link, rename, remove, make a folder), SIGXFSZ from the kernel at the first byte beyond a file size
(which reaches what SQLite writes), or a power cut of the disk in that very moment (tests/rigs/crashfs.py: what no sync pushed out is lost).
The jobs are functions of this module: the fork server imports it once.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing import get_context
from os.path import normpath
from pathlib import Path
from typing import Any

from edge import backup, keyring
from edge.clock import SimClock, Stamp
from edge.config import load
from edge.evidence.chain import link
from edge.evidence.manifest import RoomFacts
from edge.evidence.signers import open_signer
from edge.reindex import reindex
from edge.storage.database import Database
from edge.storage.journal import Journal
from edge.storage.keeping import Keeping
from tests.conftest import Hall

_context = get_context("forkserver")
_context.set_forkserver_preload(["tests.killed"])

CHANGES = {"os.rename": 2, "os.link": 2, "os.symlink": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.truncate": 1}
"""Audit events that change a folder, and how many of their first arguments are paths (docs.python.org, audit events table)."""


def dies(job: Callable[..., object], *arguments: Any, of: Path | None = None, at: int = 0, beyond: int = 0,
         disk: Path | None = None) -> bool:
    """Run `job(*arguments)` and kill it right before change number `at` (from 1) below the folder `of`, or when a file grows beyond so
    many bytes. `disk`: where a crashfs is mounted, which loses power in the same moment. False if the job came to its end first."""
    process = _context.Process(target=_run, args=(job, arguments, of, at, beyond, disk))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL, -signal.SIGXFSZ), f"{job.__name__} ended by itself with {process.exitcode}"
    return process.exitcode != 0


def _run(job: Callable[..., object], arguments: tuple[Any, ...], of: Path | None, at: int, beyond: int, disk: Path | None) -> None:
    if beyond:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (beyond, beyond))
    if of is not None:
        sys.addaudithook(_Killer(os.fspath(of), at, disk))
    job(*arguments)


class _Killer:
    def __init__(self, folder: str, at: int, disk: Path | None) -> None:
        self._folder, self._left = normpath(folder), at
        self._handle = os.open(disk, os.O_RDONLY) if disk is not None else None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            paths = arguments[:1] if isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else ()
        else:
            paths = arguments[:CHANGES.get(event, 0)]
        if not any(isinstance(path, str | os.PathLike) and normpath(path).startswith(self._folder) for path in paths):
            return
        self._left -= 1
        if self._left == 0:
            if self._handle is not None:
                _cut_power(self._handle)
            os.kill(os.getpid(), signal.SIGKILL)


def _cut_power(handle: int) -> None:
    from fcntl import ioctl
    ioctl(handle, 0x8004587D, (2).to_bytes(4, sys.byteorder))      # EXT4_IOC_SHUTDOWN, NOLOGFLUSH: as crashfs.py's cut


# ---- the jobs -------------------------------------------------------------------------------------------------------------

def restore(config: Path, folder: Path, now: Stamp, keys: Path) -> None:
    """As `edge backup restore`."""
    backup.restore(load(config), folder, now, keys)


class _Found(Hall):
    """A hall as a room finds it that starts."""

    def __init__(self, folder: Path, utc_us: int) -> None:
        self.folder, self.clock, self.link = folder, SimClock(utc_us=utc_us), link
        self.room = self._open(Database(folder / "state" / "edge.db", ballast=False))


def roll(files: keyring.Files, facts: RoomFacts, hall: Path, utc_us: int) -> None:
    """As a room does that starts: key and certificate that wait take over."""
    room = _Found(hall, utc_us).room
    keyring.settle(files)
    keyring.roll(files, open_signer(files.key, files.certificate), facts, room)


def rebuild(database: Path, footage: Path, now_utc_us: int) -> None:
    """As `edge reindex`."""
    opened = Database(database, ballast=False)
    reindex(footage, opened, Journal(opened, link), now_utc_us, processes=1)


def sweep(database: Path, footage: Path) -> None:
    """The keeper's second phase: files go, then their rows."""
    asyncio.run(Keeping(Database(database, ballast=False), footage).sweep())
