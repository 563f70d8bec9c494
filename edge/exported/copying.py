"""Writes an export where it is wanted: one ZIP that goes on where it broke off, or a folder. Never in the way of a recording.

The ZIP grows as `NAME.part` and takes its name when it is whole. What is written is synced every 32 MB, so that a power cut or a pulled
stick costs no more, and so that no heap of unwritten pages stands before the recorder's own syncs. Going on, the part that is there is
read and compared from its beginning; from the first member that is not whole and right it is written anew.
Callers: `export`. Runs in a thread or a program of its own; `gentle` gives it the last place at disk and processor.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import os
import platform
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from edge import durable
from edge.exported.zip64 import CHUNK_BYTES, Archive, Member

SYNC_BYTES = 32 << 20
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
        file.seek(before)
        _pour(archive.read(before), file, syncer, pace, lambda done: progress(before + done, archive.size))
    durable.rename(part, path)
    return before


def _pour(pieces: Iterator[bytes], file: BinaryIO, syncer: ThreadPoolExecutor, pace: Pace, progress: Callable[[int], None]) -> None:
    """All pieces into the file, every 32 MB synced beside the next ones, all synced at the end."""
    done, unsynced, syncing = 0, 0, Future[None]()
    syncing.set_result(None)
    for piece in pieces:
        _write(file, piece)
        done += len(piece)
        unsynced += len(piece)
        if unsynced >= SYNC_BYTES:
            syncing.result()
            syncing, unsynced = syncer.submit(os.fdatasync, file.fileno()), 0
        pace(len(piece))
        progress(done)
    syncing.result()
    os.fsync(file.fileno())


def _write(file: BinaryIO, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest):]


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
    altered, done, total = [], 0, sum(m.size for m in members)
    for member in members:
        target, digest = folder / member.name, hashlib.sha256()
        durable.make_folder(target.parent, 0o755)
        # plain creates, because sticks have no hard links; buffered, because a raw file may take less than it is given
        with durable.create(target, 0o644) as raw, io.BufferedWriter(raw, CHUNK_BYTES) as file:
            for piece in member.pieces():
                file.write(piece)
                digest.update(piece)
                done += len(piece)
                pace(len(piece))
                progress(done, total)
            file.flush()
            os.fsync(file.fileno())
        if digest.hexdigest() != member.sha256:
            altered.append(member.name)
    return altered
