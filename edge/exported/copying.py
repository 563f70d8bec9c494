"""Writes an export where it is wanted: one ZIP that goes on where it broke off, or a folder. Never in the way of a recording.

The ZIP grows as `NAME.part` and takes its name when it is whole. Two threads write, a member each, because hashing takes longer than
writing: a piece is read once, and digest, CRC-32 and copy are of those bytes while the processor has them at hand. What is written is
synced every 32 MB, so that a power cut or a pulled stick costs little more, and so that no heap of unwritten pages stands before the
recorder's own syncs. Going on, the part that is there is read and compared from its beginning; from the first member that is not whole
and right it is written anew: of what the threads had ahead, four members at most are written twice.
Callers: `export`. Runs in a thread or a program of its own; `gentle` gives it the last place at disk and processor.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import platform
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from edge import durable
from edge.exported.zip64 import CHUNK_BYTES, Archive, Member

SYNC_BYTES = 32 << 20
WRITERS = 2
AHEAD = 4                               # members: two films, and the two sidecars between them
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}        # the kernel's number of ioprio_set(2)
_IDLE = 3 << 13                                     # IOPRIO_CLASS_IDLE: the disk is ours when nobody else wants it

Pace = Callable[[int], None]
"""Told how many bytes were read; returns when more may be read."""
Progress = Callable[[int, int], None]
"""(bytes done, bytes in all)."""


class OtherFile(Exception):
    """What lies under the name is no part of this export. It was not touched."""


def gentle() -> None:
    """Put the calling thread behind everybody else: nice 10, idle at the disk. Where the unit forbids it, `Pace` alone keeps the peace."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, 1, 0, _IDLE)


def write_zip(archive: Archive, path: Path, pace: Pace, progress: Progress) -> int:
    """Write `archive` to `path`, going on with `path`.part if there is one. Returns how many bytes were there already.

    FileExistsError if `path` exists; OtherFile if the part is of something else; MemberChanged; OSError as the disk gives it (the part
    stays, and the same call goes on with it); ENOSPC before anything more is written where it cannot fit.
    """
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists already; nothing was written")
    part = path.with_name(path.name + ".part")
    before = _usable(archive, part, pace, progress) if part.exists() else 0
    if before:
        durable.truncate(part, before)
    else:
        durable.remove(part)
        durable.create(part, 0o644).close()
    room = os.statvfs(part)
    if room.f_bavail * room.f_frsize < archive.size - before:
        raise OSError(errno.ENOSPC, f"{archive.size - before:,} bytes are still to be written, {room.f_bavail * room.f_frsize:,} are free")
    with part.open("r+b", buffering=0) as file, ThreadPoolExecutor(1, thread_name_prefix="export-sync") as syncer:
        handle = file.fileno()
        writers = _Writers(pace, lambda done: progress(before + done, archive.size), lambda: syncer.submit(os.fdatasync, handle))
        writers.each(range(archive.starts.index(before), len(archive.members)), lambda index: _put(archive, index, handle, writers.wrote))
        writers.wrote(_write_at(handle, archive.directory(), archive.starts[-1]))
        os.fsync(handle)
    durable.rename(part, path)
    return before


class _Writers:
    """Two threads, a member each, and what they have written together: told to the pace and the progress, one at a time.

    `sync`: begins to sync what is written, for every 32 MB of it; the next begins when it is over.
    """

    def __init__(self, pace: Pace, progress: Callable[[int], None], sync: Callable[[], Future[None]] | None = None) -> None:
        self._pace, self._progress, self._sync = pace, progress, sync
        self._turn = threading.Lock()
        self._fault: BaseException | None = None
        self._done, self._unsynced, self._syncing = 0, 0, Future[None]()
        self._syncing.set_result(None)

    def each(self, indices: Iterable[int], put: Callable[[int], None]) -> None:
        """Have every member put, in this order and at most AHEAD before the first that is not done. After a fault none is begun, and those
        that are begun may end: of what is written, as much as possible is whole."""
        def one(index: int) -> None:
            try:
                if self._fault is not None:
                    raise self._fault
                put(index)
            except BaseException as fault:
                self._fault = self._fault or fault
                raise

        with ThreadPoolExecutor(WRITERS, thread_name_prefix="export-write") as pool:
            waiting = deque[Future[None]]()
            try:
                for index in indices:
                    waiting.append(pool.submit(one, index))
                    if len(waiting) == AHEAD:
                        waiting.popleft().result()
                while waiting:
                    waiting.popleft().result()
            except BaseException as fault:
                self._fault = self._fault or fault
                raise
        self._syncing.result()

    def wrote(self, count: int) -> None:
        """`count` bytes more; returns when more may be read. OSError as an earlier sync gave it."""
        with self._turn:
            self._done += count
            self._unsynced += count
            if self._sync and self._unsynced >= SYNC_BYTES:
                self._syncing.result()
                self._syncing, self._unsynced = self._sync(), 0
            self._pace(count)
            self._progress(self._done)


def _put(archive: Archive, index: int, handle: int, wrote: Callable[[int], None]) -> None:
    """One member where it belongs in the ZIP: its bytes are read once."""
    digest, crc, at = hashlib.sha256(), 0, archive.data_at(index)
    wrote(_write_at(handle, archive.header(index), archive.starts[index]))
    for piece in archive.members[index].views():
        digest.update(piece)
        crc = zlib.crc32(piece, crc)
        at += _write_at(handle, piece, at)
        wrote(len(piece))
    archive.know(index, crc, digest.hexdigest())
    wrote(_write_at(handle, archive.descriptor(index), at))


def _write_at(handle: int, data: bytes | memoryview, at: int) -> int:
    """All of `data` from byte `at` on; returns how many bytes that is."""
    rest = memoryview(data)
    while rest:
        count = os.pwrite(handle, rest, at)
        rest, at = rest[count:], at + count
    return len(data)


def _usable(archive: Archive, part: Path, pace: Pace, progress: Progress) -> int:
    """How many of the part's first bytes are whole members of this archive. OtherFile if not even the first one is."""
    length = part.stat().st_size
    with part.open("rb", buffering=CHUNK_BYTES) as file:
        for index, start in enumerate(archive.starts[:-1]):
            if start + len(archive.header(index)) > length or not _is_whole(archive, index, file, pace):
                if index == 0 and length >= archive.starts[1]:
                    raise OtherFile(f"{part} is no part of this export: another session's, or one from before something came to it. "
                                    "It was not touched. Remove it or name another file.")
                return start
            progress(archive.starts[index + 1], archive.size)
    return archive.starts[-1]


def _is_whole(archive: Archive, index: int, file: BinaryIO, pace: Pace) -> bool:
    """Is the member that comes next in the file all there and right? What is learnt of it is kept for the directory."""
    member, digest, crc, left = archive.members[index], hashlib.sha256(), 0, archive.members[index].size
    if file.read(len(archive.header(index))) != archive.header(index):
        return False
    while left:
        piece = file.read(min(CHUNK_BYTES, left))
        if not piece:
            return False
        crc = zlib.crc32(piece, crc)
        digest.update(piece)
        left -= len(piece)
        pace(len(piece))
    if digest.hexdigest() != member.sha256:
        return False
    archive.know(index, crc, member.sha256)
    return file.read(len(archive.descriptor(index))) == archive.descriptor(index)


def write_folder(members: Sequence[Member], folder: Path, pace: Pace, progress: Progress) -> list[str]:
    """Write every member below `folder` (new or empty). Returns the names whose bytes are not what they should be.

    FileExistsError if the folder holds anything; MemberChanged; OSError as the disk gives it: what is there by then is incomplete.
    """
    durable.make_folder(folder, 0o755)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; nothing was written. Name a new folder.")
    altered, total = set[int](), sum(m.size for m in members)
    writers = _Writers(pace, lambda done: progress(done, total))

    def put(index: int) -> None:
        member, digest = members[index], hashlib.sha256()
        target = folder / member.name
        durable.make_folder(target.parent, 0o755)
        with durable.create(target, 0o644) as file:        # plain creates, because sticks have no hard links
            at = 0
            for piece in member.views():
                digest.update(piece)
                at += _write_at(file.fileno(), piece, at)
                writers.wrote(len(piece))
            os.fsync(file.fileno())
        if digest.hexdigest() != member.sha256:
            altered.add(index)

    writers.each(range(len(members)), put)
    return [members[index].name for index in sorted(altered)]
