"""A ZIP is judged as the folder that it was made of, word for word; and what is meant to trap a reader is named, read by nobody."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.evidence import bundle, history, words
from edge.evidence.history import Told
from edge.evidence.report import Report
from edge.evidence.shown import Folder, Zipped
from edge.evidence.zipped import Zip
from edge.exported.zip64 import Archive, Member
from tests.evidence.career import Career, session_id
from tests.evidence.conftest import TestAuthority
from tests.evidence.test_history import CASES

Pack = Callable[[Path, Path], Path]


def as_exported(folder: Path, to: Path) -> Path:
    """As `edge export` makes it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    archive = Archive([Member.of(path.relative_to(folder).as_posix(), path.read_bytes()) for path in files], 1_795_672_800_000_000)
    to.write_bytes(b"".join(archive.read()))
    return to


def by_hand(folder: Path, to: Path) -> Path:
    """As somebody packs the unpacked folder again: deflated, with the folder's own name, and folders as members."""
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
    return to


PACKED = pytest.mark.parametrize("pack", [as_exported, by_hand])


def told(report: Report, place: object) -> Any:
    """All of a report; where it names what was shown, by one name."""
    return {key: [line.replace(str(place), "HERE") for line in value] if key == "lines" else value
            for key, value in report.as_json().items()}


def both(verify: Callable[..., Report], folder: Path, packed: Path) -> Report:
    """The folder's report, after comparing the ZIP's with it."""
    alone = verify(folder)
    with Zip(packed) as archive:
        assert archive.faults == []
        shown = Zipped(archive).itself()
        assert told(verify(shown), shown) == told(alone, folder)
    return alone


# ---- the eleven attacks -------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def careers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Career]:
    """Those that the attacks begin with, made once."""
    place = tmp_path_factory.mktemp("careers")
    (place / "authority").mkdir()
    authority = TestAuthority(place / "authority")
    true = Career(place / "true", authority, 5)
    return {"true": true, "forged": Career(place / "forged", authority, 5, salt="forged", device=true.device, online=False),
            "undeclared": Career(place / "undeclared", authority, 2, undeclared=1)}


@PACKED
@pytest.mark.parametrize("case", [*CASES, "7 made anew", "8 undeclared", "10 never announced"])
def test_the_eleven_attacks_on_a_history(careers: dict[str, Career], tmp_path: Path, case: str, pack: Pack) -> None:
    career = careers[{"7": "forged", "8": "undeclared"}.get(case.split()[0], "true")]
    folder, platform = career.write(tmp_path / "history"), careers["true"].receipts(tmp_path / "platform")
    if case in CASES:
        CASES[case][1](career, folder)
    scheduled = Told(expected=frozenset({session_id(9)} if case.startswith("10") else ()))

    def verify(shown: Any) -> Report:
        return history.verify(shown, career.authority.root_pem, more=[] if case.startswith("8") else [platform], told=scheduled)

    report = both(verify, folder, pack(folder, tmp_path / "all.zip"))
    assert (report.verdict == "FAIL") == (case != "0 honest"), report.lines


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def flip(name: str, place: int) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        path = next(folder.glob(name))
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)
    return spoil


@PACKED
@pytest.mark.parametrize("spoil", [
    lambda folder: None, flip("segments/cam-front/000003-*.mp4", 700), flip("segments/cam-front/000003-*.json", 60),
    lambda folder: next(folder.glob("segments/mic/*.mp4")).unlink(), lambda folder: next(folder.glob("segments/mic/*.json")).unlink(),
    lambda folder: next(folder.glob("segments/mic/*.mp4")).write_bytes(b"short"), flip("manifest-1.dsse.json", 2000),
    remove("manifest-1.dsse.json"), remove("session-open.dsse.json"), remove("journal.jsonl"), flip("journal.jsonl", 90),
    flip("receipt-1.dsse.json", 300), remove("SHA256SUMS"), remove("root.pem"),
    lambda folder: (folder / "segments" / "planted.mp4").write_bytes(b"x"),
    lambda folder: (folder / "segments" / "note.txt").write_bytes(b""),
])
def test_one_session_good_and_spoilt(make_exam: Any, tmp_path: Path, spoil: Callable[[Path], object], pack: Pack) -> None:
    exam = make_exam(hole="declared", late=True, rolls=2)
    folder = exam.export(tmp_path / "bundle")
    spoil(folder)
    both(lambda shown: bundle.verify(shown, exam.authority.root_pem), folder, pack(folder, tmp_path / "one.zip"))
    both(bundle.verify, folder, tmp_path / "one.zip")


def test_a_link_in_a_zip_is_no_file(make_exam: Any, tmp_path: Path) -> None:
    exam = make_exam()
    folder = exam.export(tmp_path / "bundle")
    media = next(folder.glob("segments/mic/*.mp4"))
    media.unlink()
    packed = as_exported(folder, tmp_path / "one.zip")
    with zipfile.ZipFile(packed, "a") as archive:
        link = zipfile.ZipInfo(media.relative_to(folder).as_posix())
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    media.symlink_to("/etc/passwd")
    report = both(lambda shown: bundle.verify(shown, exam.authority.root_pem), folder, packed)
    assert report.first.startswith("not a plain file: segments/mic/")


def test_progress_and_the_bytes_that_count_are_the_same(make_exam: Any, tmp_path: Path) -> None:
    exam, seen = make_exam(), list[tuple[int, int]]()
    with Zip(as_exported(exam.export(tmp_path / "bundle"), tmp_path / "one.zip")) as archive:
        assert bundle.verify(Zipped(archive), exam.authority.root_pem, lambda done, total: seen.append((done, total))).verdict == "PASS"
    assert seen[-1] == (32_000, 32_000) and len(seen) == 10


def test_names_are_alike_in_folder_and_zip(make_exam: Any, tmp_path: Path) -> None:
    folder = make_exam().export(tmp_path / "bundle")
    with Zip(as_exported(folder, tmp_path / "one.zip")) as archive:
        one, other = Folder(folder), Zipped(archive)
        for below, without in (("", ()), ("", {"segments"}), ("segments/mic", ()), ("none", ())):
            assert one.names(below, frozenset(without)) == other.names(below, frozenset(without))
        assert len(one.names()) == 28 and one.names("", frozenset({"segments"})) == sorted(p.name for p in folder.iterdir() if p.is_file())


# ---- traps --------------------------------------------------------------------------------------------------------------

def make(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytearray:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.filename, info.compress_type = name, method       # also what the library would put right
            archive.writestr(info, data)
    return bytearray(made.getvalue())


def changed(data: bytearray, at: int, form: str, *values: Any) -> bytearray:
    struct.pack_into(form, data, at, *values)
    return data


def central(data: bytearray) -> int:
    return data.index(b"PK\x01\x02")


def hidden() -> bytearray:
    """A member between two others that the directory does not name."""
    one, two = make(("a", b"aaaa"), ("b", b"bbbb")), make(("a", b"aaaa"), ("hidden", b"evil"), ("b", b"bbbb"))
    offset = two.index(b"PK\x03\x04", two.index(b"hidden"))
    begins, directory = central(two), one[central(one):]
    second = directory.index(b"PK\x01\x02", 4)
    struct.pack_into("<I", directory, second + 42, offset)
    struct.pack_into("<I", directory, len(directory) - 6, begins)
    return two[:begins] + directory


def overlapping() -> bytearray:
    """Two names for one and the same bytes: how a small file becomes petabytes."""
    data = make(("a", b"aaaa"), ("b", b"bbbb"))
    return changed(data, data.index(b"PK\x01\x02", central(data) + 4) + 42, "<I", 0)


def two_directories() -> bytearray:
    one = make(("a", b"good"))
    other = changed(one[central(one):], len(one) - central(one) - 6, "<I", len(one))       # in the comment of the first
    return changed(one, len(one) - 2, "<H", len(other)) + other


def twice(*names: str) -> Callable[[], bytearray]:
    def made() -> bytearray:
        data = make(*((f"{index}" * len(name), b"x") for index, name in enumerate(names)))
        for index, name in enumerate(names):
            data = bytearray(data.replace(f"{index}".encode() * len(name), name.encode()))
        return data
    return made


def second_name() -> bytearray:
    """The name that Info-ZIP unpacks to stands in an extra field."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        info = zipfile.ZipInfo("a")
        info.extra = struct.pack("<HHBI", 0x7075, 5 + 12, 1, zlib.crc32(b"a")) + b"journal.json"
        archive.writestr(info, b"x")
    return bytearray(made.getvalue())


TRAPS: dict[str, tuple[Callable[[], bytearray], str]] = {
    "twice": (twice("a/b", "a/b"), "'a/b' is there twice"),
    "case": (twice("A/b", "a/B"), "become one file where letters' case does not count"),
    "a file and a folder": (twice("aa", "aa/b"), "'aa' is a file and a folder"),
    "out of the folder": (lambda: make(("../../etc/passwd", b"x")), "leads out of the folder"),
    "out in the middle": (lambda: make(("a/../../x", b"x")), "leads out of the folder"),
    "absolute": (lambda: make(("/etc/passwd", b"x")), "leads out of the folder"),
    "of Windows": (lambda: make(("..\\..\\x", b"x")), "leads out of the folder"),
    "a drive": (lambda: make(("C:x", b"x")), "leads out of the folder"),
    "nothing in between": (lambda: make(("a//b", b"x")), "is no name of a file"),
    "a dot at the end": (lambda: make(("root.pem.", b"x")), "is no name of a file"),
    "composed otherwise": (lambda: make(("\u00e9", b"x"), ("e\u0301", b"y")), "become one file"),
    "a second name": (second_name, "has another name where it lies than in the directory"),
    "cut by a zero": (twice("root.pem\0.txt"), "is no name of a file"),
    "encrypted": (lambda: changed(make(("a", b"aaaa")), 6, "<H", 1), "is encrypted"),
    "bzip2": (lambda: make(("a", b"aaaa"), method=zipfile.ZIP_BZIP2), "packed in a way that is not read here (method 12)"),
    "a name of two": (lambda: changed(make(("a", b"aaaa")), 30, "<c", b"b"), "another name where it lies"),
    "a size of two": (lambda: changed(make(("a", b"aaaa")), 18, "<I", 3), "another size where it lies"),
    "absurd, stored": (lambda: changed(d := make(("a", b"aaaa")), central(d) + 24, "<I", 2**32 - 2), "says to hold 4294967294 bytes"),
    "absurd, deflated": (lambda: changed(d := make(("a", b"a" * 50), method=zipfile.ZIP_DEFLATED), central(d) + 24, "<I", 2**31),
                         "says to hold 2147483648 bytes"),
    "one over the other": (overlapping, "lies over the file before it"),
    "hidden": (hidden, "belong to no file of the directory"),
    "before the first": (lambda: bytearray(b"#!/bin/sh\n") + make(("a", b"aaaa")), "10 bytes before 'a' belong to no file"),
    "two directories": (two_directories, "bytes before the directory belong to no file of it"),
    "something behind": (lambda: make(("a", b"aaaa")) + b"x", "something behind the first"),
}


@pytest.mark.parametrize("case", TRAPS)
def test_each_trap_is_named(tmp_path: Path, case: str) -> None:
    (tmp_path / "x.zip").write_bytes(TRAPS[case][0]())
    with Zip(tmp_path / "x.zip") as archive:
        traps = [str(fault) for fault in archive.faults if fault.word == "zip-trap"]
        assert any(TRAPS[case][1] in each for each in traps), archive.faults
        report = bundle.verify(Zipped(archive))
        assert report.verdict == "FAIL" and report.first in traps and set(archive.members) <= {"a", "b", "aa/b"}


def test_a_trap_beside_a_good_session_fails_it_all_the_same(make_exam: Any, tmp_path: Path) -> None:
    exam = make_exam()
    packed = as_exported(exam.export(tmp_path / "bundle"), tmp_path / "one.zip")
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("journal.jsonl", b"another")
    with Zip(packed) as again:
        report = bundle.verify(Zipped(again), exam.authority.root_pem)
    assert [each.word for each in report.findings] == ["zip-trap", "journal"] and "twice" in report.first, "neither of the two is read"


def test_a_stream_that_holds_more_or_less_than_it_says(tmp_path: Path) -> None:
    for said, text in ((60, "holds more than"), (70, "holds 65 bytes, not 70")):
        data = make(("a", b"a" * 65), method=zipfile.ZIP_DEFLATED)
        (tmp_path / "x.zip").write_bytes(changed(data, central(data) + 24, "<I", said))
        with Zip(tmp_path / "x.zip") as archive:
            assert archive.faults == []
            with pytest.raises(ValueError, match=text):
                archive.member("a").read(1000)


@pytest.mark.parametrize("packed", [b"", b"PK", b"PK\x03\x04" + b"\0" * 100, b"PK\x05\x06" + b"\xff" * 18, b"rubbish" * 99])
def test_what_is_no_zip(tmp_path: Path, packed: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(packed)
    with Zip(tmp_path / "x.zip") as archive:
        report = bundle.verify(Zipped(archive))
        assert [each.word for each in report.findings] == ["zip-damaged"] and history.verify(Zipped(archive)).first == report.first


def test_a_directory_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "x.zip").open("wb") as file:
        file.truncate(3 << 30)
        file.seek(0, 2)
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 9, 9, 3 << 30, 0, 0))
    with Zip(tmp_path / "x.zip") as archive:
        assert "its directory would have 3221225472 bytes" in archive.faults[0]


class Whole:
    """One good session, packed; what its folder is told to be."""

    def __init__(self, place: Path) -> None:
        (place / "authority").mkdir()
        career = Career(place / "footage", TestAuthority(place / "authority"), 1)
        folder = career.write(place / "history") / session_id(1)
        self.path, self.root_pem = as_exported(folder, place / "x.zip"), career.authority.root_pem
        self.honest, self.told = self.path.read_bytes(), told(bundle.verify(folder, self.root_pem), folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return Whole(tmp_path_factory.mktemp("whole"))


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), flip_by=st.integers(0, 255), end=st.booleans())
def test_cut_anywhere_or_changed_by_a_byte(whole: Whole, place: int, flip_by: int, end: bool) -> None:
    """Never an exception; a PASS only with the same words as the whole one's (times, CRC-32 and comments prove nothing)."""
    data = bytearray(whole.honest)
    at = len(data) - 1 - place % 2500 if end else place % len(data)         # half of them in the directory
    if flip_by:
        data[at] ^= flip_by
    else:
        del data[at:]
    whole.path.write_bytes(data)
    with Zip(whole.path) as archive:
        report = bundle.verify(Zipped(archive), whole.root_pem)
    assert {each.word for each in report.findings} <= set(words.FINDINGS)
    if not flip_by:
        assert [each.word for each in report.findings] == ["zip-damaged"]
    elif report.verdict != "FAIL":
        assert told(report, whole.path) == whole.told
