"""The archive that is never made: other programs read it, and any part of it is the part of the whole."""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.exported.zip64 import Archive, Member, MemberChanged

AT_US = 1_795_672_801 * 1_000_000       # 2026-11-26T06:00:01Z


def film(folder: Path, name: str, size: int) -> Member:
    data = hashlib.shake_128(name.encode()).digest(size)
    path = folder / name.replace("/", "-")
    path.write_bytes(data)
    return Member(name, size, hashlib.sha256(data).hexdigest(), path=path)


@pytest.fixture
def members(tmp_path: Path) -> list[Member]:
    return [Member.of("manifest-1.dsse.json", b"{}"), Member.of("empty", b""), film(tmp_path, "segments/cam/000001-aa.mp4", 3_000_001),
            film(tmp_path, "segments/cam/000002-bb.mp4", 1 << 20), Member.of("last.json", b"x" * 100)]


def whole(archive: Archive) -> bytes:
    return b"".join(archive.read())


def test_others_read_what_we_say_it_is(tmp_path: Path, members: list[Member]) -> None:
    archive = Archive(members, AT_US)
    data = whole(archive)
    assert len(data) == archive.size and archive.altered == []
    path = tmp_path / "made.zip"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as read:
        assert read.testzip() is None
        assert [(i.filename, i.file_size, i.compress_type) for i in read.infolist()] == [(m.name, m.size, 0) for m in members]
        for info, member in zip(read.infolist(), members, strict=True):
            assert hashlib.sha256(read.read(info)).hexdigest() == member.sha256
            assert info.date_time == (2026, 11, 26, 6, 0, 0) and info.external_attr >> 16 == 0o100644
    done = subprocess.run(["unzip", "-tq", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_same_members_make_the_same_bytes_and_others_do_not(members: list[Member]) -> None:
    first, again = Archive(members, AT_US), Archive(members, AT_US)
    assert whole(first) == whole(again) and first.id == again.id
    assert Archive(members[::-1], AT_US).id != first.id and Archive(members, AT_US + 60_000_000).id != first.id
    assert Archive([replace(members[0], name="other.json"), *members[1:]], AT_US).id != first.id


@settings(max_examples=60)
@given(ends=st.tuples(st.integers(0, 4_060_000), st.integers(0, 4_060_000)))
def test_any_part_is_the_part_of_the_whole(tmp_path_factory: pytest.TempPathFactory, ends: tuple[int, int]) -> None:
    global WHOLE
    if WHOLE is None:
        folder = tmp_path_factory.mktemp("films")
        made = [Member.of("a.json", b"{}"), film(folder, "s/1.mp4", 3_000_001), film(folder, "s/2.mp4", 1 << 20), Member.of("z", b"")]
        WHOLE = made, whole(Archive(made, AT_US))
    made, data = WHOLE
    start, stop = sorted(ends)
    assert b"".join(Archive(made, AT_US).read(start, stop)) == data[start:stop]


WHOLE: tuple[list[Member], bytes] | None = None


def test_past_four_gigabytes_the_offsets_still_hold(tmp_path: Path) -> None:
    """Sparse files: two of 2.5 GB, so that the third begins beyond what 32 bits can say."""
    paths = [tmp_path / f"{n}.mp4" for n in range(2)]
    for path in paths:
        with path.open("wb") as file:
            file.truncate(2_500_000_000)
    zeros = "0" * 64
    members = [*(Member(p.name, 2_500_000_000, zeros, path=p) for p in paths), Member.of("behind.txt", b"here I am")]
    archive = Archive(members, AT_US)
    for index in range(2):                          # known without being read: what is asked here is where things lie
        archive.know(index, 0, zeros)
    tail_at = archive.starts[2]
    assert tail_at > 1 << 32

    class Far(io.RawIOBase):
        """The archive as a file whose far end alone is ever read."""

        at = 0

        def seekable(self) -> bool:
            return True

        def readable(self) -> bool:
            return True

        def seek(self, offset: int, whence: int = 0) -> int:
            self.at = offset + (0, self.at, archive.size)[whence]
            return self.at

        def tell(self) -> int:
            return self.at

        def read(self, size: int = -1) -> bytes:
            data = b"".join(archive.read(self.at, archive.size if size < 0 else self.at + size))
            self.at += len(data)
            return data

    with zipfile.ZipFile(Far()) as read:
        assert [i.file_size for i in read.infolist()] == [2_500_000_000, 2_500_000_000, 9]
        assert read.read("behind.txt") == b"here I am"


def test_what_was_altered_is_named_and_what_changed_its_length_ends_it(members: list[Member]) -> None:
    altered = members[2]
    assert altered.path is not None
    data = bytearray(altered.path.read_bytes())
    data[1_500_000] ^= 1
    altered.path.write_bytes(data)
    archive = Archive(members, AT_US)
    with zipfile.ZipFile(io.BytesIO(whole(archive))) as read:
        assert read.testzip() is None, "the archive is whole: it holds what lies on the disk"
    assert archive.altered == [altered.name]
    altered.path.write_bytes(data[:-1])
    with pytest.raises(MemberChanged, match="3000000 bytes now, not 3000001"):
        whole(Archive(members, AT_US))
    altered.path.unlink()
    with pytest.raises(MemberChanged, match=r"cannot be read any more \(No such file"):
        whole(Archive(members, AT_US))


def test_a_name_twice_or_one_that_not_all_programs_read_is_refused() -> None:
    for names in (("a", "a"), ("样例",)):
        with pytest.raises(ValueError, match="one name, or a name is not plain"):
            Archive([Member.of(name, b"") for name in names], AT_US)
