"""The only place that makes the disk's truth: create, append, replace, rename, remove, each synced before it returns.

A promise given to a person rests on these functions. Nothing else in the daemon renames or unlinks what must survive a
power cut; `tests/test_house.py` looks. An OSError leaves here unchanged: a failed fsync is never tried again on the same
file (PostgreSQL's lesson of 2018: after a failed fsync a later one may succeed though the data are gone).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 1 << 20


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (needed after each create, rename and unlink)."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path, mode: int = 0o700) -> None:
    """Make `folder` and its missing parents, each name synced. No error if it stands already."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        with suppress(FileExistsError):
            each.mkdir(mode=mode)
        sync_folder(each.parent)


def create(path: Path, mode: int = 0o600) -> BinaryIO:
    """A new, empty, unbuffered file whose name is durable. FileExistsError if the name is taken; links are not followed."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        sync_folder(path.parent)
    except OSError:
        os.close(handle)
        with suppress(OSError):
            path.unlink()               # a name that is not sure to stay is no new file
        raise
    return os.fdopen(handle, "wb", buffering=0)


def write_new(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Make a durable new file. FileExistsError if the name is taken."""
    _write_aside(path, data, mode, lambda part: os.link(part, path))


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Make or replace a file: whoever looks, even after a power cut, finds the old bytes or the new ones."""
    _write_aside(path, data, mode, lambda part: part.replace(path))


def _write_aside(path: Path, data: bytes, mode: int, put: Callable[[Path], object]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest):]
            os.fsync(file.fileno())
        put(part)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def rename(old: Path, new: Path) -> None:
    """Rename within one file system; the new name is durable, and the old one durably gone. `new` must not exist."""
    if new.exists() or new.is_symlink():        # a link that leads nowhere is a name too
        raise FileExistsError(new)
    old.rename(new)
    sync_folder(new.parent)
    if old.parent != new.parent:
        sync_folder(old.parent)


def remove(path: Path) -> None:
    """Unlink, durably. No error if it is gone already."""
    path.unlink(missing_ok=True)
    if path.parent.exists():
        sync_folder(path.parent)


def remove_all(folder: Path, paths: Iterable[Path]) -> None:
    """Unlink many names of one folder with one sync. No error for those that are gone already, nor for a folder that is."""
    for path in paths:
        path.unlink(missing_ok=True)
    if folder.exists():
        sync_folder(folder)


def truncate(path: Path, length: int) -> None:
    """Cut a file to its first `length` bytes, durably."""
    with path.open("r+b") as file:
        file.truncate(length)
        os.fsync(file.fileno())


def sha256_file(path: Path) -> str:
    """Lower-case hex SHA-256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
