"""The disk's truth: whole or not there, also with `kill -9` in the middle; names that are taken stay as they are."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge import durable

CHILD = """
import sys
from pathlib import Path
from edge import durable
path, number = Path(sys.argv[1]), int(sys.argv[2])
while True:
    durable.replace(path, b"%d\\n" % number + bytes([number % 256]) * (300_000 + number))
    print(number, flush=True)
    number += 1
"""


def test_kill_9_leaves_the_old_bytes_or_the_new_ones(tmp_path: Path) -> None:
    path, last = tmp_path / "staff.json", 0
    for acks in (1, 2, 5, 3, 8, 1, 13):
        with subprocess.Popen([sys.executable, "-c", CHILD, str(path), str(last + 1)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(acks):
                last = int(child.stdout.readline())
            child.kill()                                # somewhere in the next replacement
            for line in child.stdout:
                last = int(line) if line.endswith("\n") else last
        first, rest = path.read_bytes().split(b"\n", 1)
        number = int(first)
        assert number in (last, last + 1), "what was acknowledged is there, or what came after it"
        assert rest == bytes([number % 256]) * (300_000 + number), "and it is whole"
        last = number
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_replacement_takes_the_mode_it_is_given_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "root.pem"
    path.write_bytes(b"old")
    durable.replace(path, b"new", 0o644)
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == 0o644 & ~umask()
    assert names(tmp_path) == ["root.pem"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_replacement_that_fails_leaves_the_old_and_nothing_beside(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    (folder / "inner").write_bytes(b"x")
    with pytest.raises(OSError):
        durable.replace(folder, b"new")                 # a folder stands where the file should
    assert names(tmp_path) == ["taken"] and (folder / "inner").exists()


def test_what_a_killed_run_left_half_written_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / f".key.{os.getpid()}.part").write_bytes(b"half")
    durable.write_new(tmp_path / "key", b"whole")
    assert names(tmp_path) == ["key"] and (tmp_path / "key").read_bytes() == b"whole"


@pytest.mark.parametrize("taken", ["file", "folder", "link", "dangling link"])
@pytest.mark.parametrize("make", [lambda p: durable.write_new(p, b"new"), lambda p: durable.create(p).close()])
def test_a_name_that_is_taken_is_refused_and_not_followed(tmp_path: Path, taken: str, make: Callable[[Path], None]) -> None:
    path, other = tmp_path / "device.key", tmp_path / "other"
    if taken == "file":
        path.write_bytes(b"old")
    elif taken == "folder":
        path.mkdir()
    else:
        if taken == "link":
            other.write_bytes(b"other")
        path.symlink_to(other)
    before = names(tmp_path)
    with pytest.raises(FileExistsError):
        make(path)
    assert names(tmp_path) == before
    assert taken != "file" or path.read_bytes() == b"old"
    assert (other.read_bytes() == b"other") if taken == "link" else not other.exists()


def test_a_new_file_is_the_owners_alone_and_each_byte_is_written_at_once(tmp_path: Path) -> None:
    with durable.create(tmp_path / "segment.mp4") as file:
        file.write(b"one")
        assert (tmp_path / "segment.mp4").read_bytes() == b"one", "unbuffered: a crash of ours loses nothing"
    assert (tmp_path / "segment.mp4").stat().st_mode & 0o777 == 0o600


def test_folders_are_made_with_their_parents_and_may_stand_already(tmp_path: Path) -> None:
    folder = tmp_path / "footage" / "cam" / "2026"
    for _ in range(2):
        durable.make_folder(folder)
    assert folder.is_dir() and (tmp_path / "footage").stat().st_mode & 0o777 == 0o700


def test_a_rename_never_covers_what_is_there(tmp_path: Path) -> None:
    old, new = tmp_path / "a" / "old", tmp_path / "b" / "new"
    for each in (old, new):
        durable.make_folder(each.parent)
        each.write_bytes(each.name.encode())
    with pytest.raises(FileExistsError):
        durable.rename(old, new)
    assert (old.read_bytes(), new.read_bytes()) == (b"old", b"new")
    durable.remove(new)
    durable.rename(old, new)
    assert new.read_bytes() == b"old" and not old.exists()


@pytest.mark.parametrize("taken", ["folder", "link", "dangling link"])
def test_a_rename_covers_no_folder_and_no_link_either(tmp_path: Path, taken: str) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"old")
    if taken == "folder":
        new.mkdir()
    else:
        new.symlink_to(tmp_path / "gone" if taken == "dangling link" else old)
    with pytest.raises(FileExistsError):
        durable.rename(old, new)
    assert old.read_bytes() == b"old" and new.is_symlink() == (taken != "folder")


def test_what_is_gone_may_be_removed_again(tmp_path: Path) -> None:
    path = tmp_path / "cam" / "x"
    durable.remove(path)                                # not even the folder is there
    durable.make_folder(path.parent)
    path.write_bytes(b"x")
    durable.remove(path)
    durable.remove(path)
    assert not path.exists()


def test_a_file_is_cut_to_its_first_bytes(tmp_path: Path) -> None:
    path = tmp_path / "segment.mp4"
    path.write_bytes(b"whole fragment, torn fra")
    durable.truncate(path, 14)
    assert path.read_bytes() == b"whole fragment"
    with pytest.raises(FileNotFoundError):
        durable.truncate(tmp_path / "none", 1)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("size", [0, 1, durable.CHUNK_BYTES - 1, durable.CHUNK_BYTES, 2 * durable.CHUNK_BYTES + 1])
def test_a_digest_is_over_every_byte(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "f").write_bytes(data)
    assert durable.sha256_file(tmp_path / "f") == hashlib.sha256(data).hexdigest()
