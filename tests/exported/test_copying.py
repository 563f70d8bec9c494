"""Writing an export: broken off and gone on with, refused where something else lies, paced, and never more than asked."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest

from edge.exported.copying import OtherFile, gentle, write_folder, write_zip
from edge.exported.pace import Pacer
from edge.exported.zip64 import Archive, Member, MemberChanged

AT_US = 1_795_672_801 * 1_000_000


def members(folder: Path, films: int = 4, size: int = 2_000_003) -> list[Member]:
    made = [Member.of("manifest-1.dsse.json", b"{}"), Member.of("journal.jsonl", b"{}\n" * 50)]
    for n in range(films):
        data = hashlib.shake_128(str(n).encode()).digest(size)
        path = folder / f"{n}.mp4"
        path.write_bytes(data)
        made.append(Member(f"segments/cam/{n}.mp4", size, hashlib.sha256(data).hexdigest(), path=path))
    return made


def nothing(*_: int) -> None:
    """No pace, no progress."""


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kept(part: Path, whole: bytes, archive: Archive) -> int:
    """Where, in a ZIP that broke off, the first member begins that is not whole: what comes before need not be written again."""
    there = part.read_bytes()
    alike = next((n for n, (one, other) in enumerate(zip(there, whole, strict=False)) if one != other), len(there))
    return max(start for start in archive.starts if start <= alike)


class Pulled(Exception):
    """Somebody pulled the stick out."""


@pytest.mark.parametrize("at", [0, 1, 60, 400_000, 2_000_500, 5_000_000, 8_000_900])
def test_a_broken_off_zip_is_gone_on_with_and_ends_in_the_same_bytes(tmp_path: Path, at: int) -> None:
    made = members(tmp_path)
    write_zip(Archive(made, AT_US), tmp_path / "whole.zip", nothing, nothing)
    whole = (tmp_path / "whole.zip").read_bytes()
    out, part = tmp_path / "out.zip", tmp_path / "out.zip.part"
    part.write_bytes(whole[:at])
    seen: list[int] = []
    archive = Archive(made, AT_US)
    before = write_zip(archive, out, nothing, lambda done, total: seen.append(done))
    assert sha256(out) == sha256(tmp_path / "whole.zip") and not part.exists()
    assert before == max(start for start in archive.starts if start <= at), "whole members are kept, the broken one is written anew"
    assert seen == sorted(seen) and seen[-1] == archive.size


def test_garbage_that_a_power_cut_left_is_written_anew(tmp_path: Path) -> None:
    made = members(tmp_path)
    archive = Archive(made, AT_US)
    write_zip(archive, tmp_path / "whole.zip", nothing, nothing)
    spoilt = bytearray((tmp_path / "whole.zip").read_bytes()[:7_000_000])
    spoilt[5_000_000:5_004_096] = bytes(4096)
    (tmp_path / "out.zip.part").write_bytes(spoilt)
    before = write_zip(Archive(made, AT_US), tmp_path / "out.zip", nothing, nothing)
    assert before == archive.starts[4] < 5_000_000 and sha256(tmp_path / "out.zip") == sha256(tmp_path / "whole.zip")


def test_what_breaks_it_off_leaves_the_part_and_no_zip(tmp_path: Path) -> None:
    made, out, part = members(tmp_path), tmp_path / "out.zip", tmp_path / "out.zip.part"
    archive = Archive(made, AT_US)
    whole = b"".join(archive.read())
    read = 0

    def pull(count: int) -> None:
        nonlocal read
        read += count
        if read > 3_000_000:
            raise Pulled

    with pytest.raises(Pulled):
        write_zip(Archive(made, AT_US), out, pull, nothing)
    assert not out.exists() and 2_000_000 < part.stat().st_size < 6_000_000, "what had not begun by then did not begin"
    before = kept(part, whole, archive)
    assert write_zip(archive, out, nothing, nothing) == before >= archive.starts[2], "the small files come first, and were whole"
    with zipfile.ZipFile(out) as read_back:
        assert read_back.testzip() is None and len(read_back.namelist()) == 6


def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    """kill -9 of a program that writes: the next one reads what is there, and goes on."""
    made, out = members(tmp_path, 8), tmp_path / "out.zip"
    code = ("import sys, time; from pathlib import Path; sys.path.insert(0, '.')\n"
            "from tests.exported.test_copying import *\n"
            f"made = members(Path({str(tmp_path)!r}), 8)\n"
            f"write_zip(Archive(made, AT_US), Path({str(out)!r}), lambda n: time.sleep(0.02), "
            "lambda done, total: print(done, flush=True))\n")
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    while int(child.stdout.readline()) < 6_000_000:
        pass
    child.kill()
    child.wait()
    child.stdout.close()
    assert not out.exists()
    archive = Archive(made, AT_US)
    whole = b"".join(archive.read())
    before = kept(tmp_path / "out.zip.part", whole, archive)
    assert before >= archive.starts[3], "6 MB were written of films of 2 MB, and two at most were under way"
    assert write_zip(archive, out, nothing, nothing) == before and out.read_bytes() == whole


def test_what_is_there_already_is_never_written_over(tmp_path: Path) -> None:
    made, out = members(tmp_path, 1), tmp_path / "out.zip"
    out.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="nothing was written"):
        write_zip(Archive(made, AT_US), out, nothing, nothing)
    assert out.read_bytes() == b"mine"
    (tmp_path / "other.zip.part").write_bytes(b"somebody's work of many hours" * 100)
    with pytest.raises(OtherFile, match="It was not touched"):
        write_zip(Archive(made, AT_US), tmp_path / "other.zip", nothing, nothing)
    assert (tmp_path / "other.zip.part").read_bytes() == b"somebody's work of many hours" * 100
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        write_folder(made, tmp_path / "folder", nothing, nothing)


def test_a_folder_holds_every_member_and_says_what_was_altered(tmp_path: Path) -> None:
    made = members(tmp_path, 2)
    assert made[2].path is not None
    made[2].path.write_bytes(bytes(made[2].size))
    assert write_folder(made, tmp_path / "out", nothing, nothing) == [made[2].name]
    for member in made:
        assert (tmp_path / "out" / member.name).stat().st_size == member.size
    made[3].path.unlink()  # type: ignore[union-attr]
    with pytest.raises(MemberChanged):
        write_folder(made, tmp_path / "again", nothing, nothing)


def test_a_disk_that_takes_no_more_leaves_the_part_and_the_same_call_goes_on(tmp_path: Path) -> None:
    """A program that may write files of 3 MB at most, as on a stick's old file system."""
    made, out = members(tmp_path), tmp_path / "out.zip"
    code = ("import resource, sys; from pathlib import Path; sys.path.insert(0, '.')\n"
            "from tests.exported.test_copying import *\n"
            f"made = members(Path({str(tmp_path)!r}))\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))\n"
            f"write_zip(Archive(made, AT_US), Path({str(out)!r}), nothing, nothing)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "OSError: [Errno 27] File too large" in done.stderr
    assert not out.exists() and (tmp_path / "out.zip.part").stat().st_size == 3_000_000
    assert write_zip(Archive(made, AT_US), out, nothing, nothing) > 2_000_000
    with zipfile.ZipFile(out) as read_back:
        assert read_back.testzip() is None


def test_where_it_cannot_fit_nothing_more_is_written(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    far = tmp_path / "far.mp4"
    with far.open("wb") as file:
        file.truncate(free.f_bavail * free.f_frsize + (1 << 40))            # a file of nothing: no disk holds it
    size = far.stat().st_size
    archive = Archive([*members(tmp_path, 0), Member("far.mp4", size, "0" * 64, path=far)], AT_US)
    with pytest.raises(OSError, match="are still to be written"):
        write_zip(archive, tmp_path / "out.zip", nothing, nothing)
    assert (tmp_path / "out.zip.part").stat().st_size == 0 and not (tmp_path / "out.zip").exists()


def test_gentle_is_of_its_thread_alone(tmp_path: Path) -> None:
    found: list[tuple[int, str]] = []

    def look() -> None:
        shown = subprocess.run(["ionice", "-p", str(threading.get_native_id())], capture_output=True, text=True, check=True)
        found.append((os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), shown.stdout.strip()))

    def start() -> None:
        gentle()
        look()
        of_its_own = threading.Thread(target=look)
        of_its_own.start()
        of_its_own.join()

    before = os.getpriority(os.PRIO_PROCESS, os.getpid())
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert found == [(10, "idle")] * 2, "and of those that it starts"
    assert os.getpriority(os.PRIO_PROCESS, os.getpid()) == before


class Watch:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now, self.slept = 0.0, 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


def test_a_live_session_slows_an_export_and_a_waiting_recorder_stops_it() -> None:
    watch, live, waits = Watch(), [False], [0]

    def behind() -> bool:
        waits[0] -= 1
        return waits[0] >= 0

    pace = Pacer(behind, lambda: live[0], 20_000_000, lambda: watch.now, watch.sleep)
    for _ in range(100):
        pace(1 << 20)
    assert watch.slept == 0, "nobody is examined: as fast as it goes"
    live[0] = True
    watch.now += 1
    for _ in range(200):
        pace(1_000_000)
    assert 9 < watch.slept < 10.5, "200 MB at 20 MB/s"
    live[0], waits[0], before = False, 25, watch.slept
    watch.now += 1
    pace(1)
    assert watch.slept - before == pytest.approx(5), "25 looks at a recorder that waited, each 0.2 s apart"
