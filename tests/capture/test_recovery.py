"""Whatever a crash leaves: recovery keeps exactly the whole fragments, deletes nothing, and says so."""

from __future__ import annotations

import resource
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge import durable
from edge.capture import boxes
from edge.capture.recovery import recover, survey
from edge.capture.segments import SET_ASIDE, End, SegmentFile, note_path
from edge.capture.sidecar import Opening, Sidecar, from_json
from edge.capture.storage_id import init_storage
from edge.capture.streams import StreamSpec
from edge.clock import Stamp, boot_id

DAY = Path("2026/11/24")
NAME = "0000000007-20261124T053143Z"
START = Stamp(1_795_498_303_000_000, 900_000_000, boot_id())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, Sidecar]:
    """A segment as a worker wrote it, and its sidecar."""
    folder = tmp_path_factory.mktemp("whole")
    init_storage(folder / "footage")
    spec = StreamSpec("pattern", "pattern", width=160, height=90, segment_s=600)
    worker = subprocess.Popen([sys.executable, "-m", "edge.capture.worker", "--spec", spec.to_json(), "--footage", str(folder / "footage"),
                               "--run", str(folder / "run")], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        worker.wait(timeout=4)
    worker.communicate(timeout=10)
    path, = (folder / "footage" / "pattern").rglob("*.mp4")
    return path.read_bytes(), from_json(path.with_suffix(".json").read_bytes())


def lay(folder: Path, data: bytes, note: bool = True, boot: str = START.boot_id) -> Path:
    """A stream's folder as a crash leaves it; the path of the segment."""
    path = folder / "pattern" / DAY / f"{NAME}.mp4"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    if note:
        start = Stamp(START.utc_us, START.boot_us, boot)
        note_path(path).write_bytes(Opening("pattern", 7, "ab" * 16, start, 1_000_000, "h264+aac", "synced").to_json())
    return path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1), zeros=st.one_of(st.just(0), st.integers(16, 5000)))
def test_any_torn_tail(whole: tuple[bytes, Sidecar], cut: float, zeros: int) -> None:
    data, original = whole
    length = round(cut * len(data))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = lay(folder, data[:length] + bytes(zeros))
        written = len(data[:length].rstrip(b"\0")) if zeros else length      # a zero at the border may belong to either side
        expected = [f for f in original.fragments if f.offset + f.length <= written]
        assert recover(folder / "pattern") == 8
        if not expected:
            assert (folder / "pattern" / SET_ASIDE / path.name).read_bytes() == data[:length] + bytes(zeros)
            assert (folder / "pattern" / SET_ASIDE / note_path(path).name).exists()
            assert survey(folder / "pattern").next_seq == 8
            return
        sidecar = from_json(path.with_suffix(".json").read_bytes())
        assert list(sidecar.fragments) == expected
        assert path.read_bytes() == data[:sidecar.bytes] and sidecar.bytes >= expected[-1].offset + expected[-1].length
        assert sidecar.sha256 == durable.sha256_file(path)
        assert sidecar.recovered and sidecar.end_reason == "worker-crash" and sidecar.run == "ab" * 16
        assert sidecar.start == START and sidecar.end == START.plus(sidecar.dur_us)
        assert sidecar.dur_us == sum(f.dur_us for f in expected)
        assert (sidecar.codec, sidecar.tracks, sidecar.frame_us) == (original.codec, original.tracks, original.frame_us)
        assert not note_path(path).exists()
        assert recover(folder / "pattern") == 8
        assert from_json(path.with_suffix(".json").read_bytes()) == sidecar


def test_whole_file_recovers_to_the_same_index(whole: tuple[bytes, Sidecar], tmp_path: Path) -> None:
    data, original = whole
    path = lay(tmp_path, data)
    assert recover(tmp_path / "pattern") == 8
    sidecar = from_json(path.with_suffix(".json").read_bytes())
    assert (sidecar.sha256, sidecar.fragments, sidecar.frames, sidecar.bytes, sidecar.header_bytes, sidecar.media_start_us) == (
        original.sha256, original.fragments, original.frames, original.bytes, original.header_bytes, original.media_start_us)


def test_without_its_note_the_name_gives_the_time(whole: tuple[bytes, Sidecar], tmp_path: Path) -> None:
    path = lay(tmp_path, whole[0], note=False)
    assert recover(tmp_path / "pattern") == 8
    sidecar = from_json(path.with_suffix(".json").read_bytes())
    assert (sidecar.seq, sidecar.start.utc_us, sidecar.start.boot_us, sidecar.start.boot_id) == (7, START.utc_us, 0, "unknown")
    assert sidecar.clock_state == "unknown" and sidecar.end_reason == "power" and sidecar.recovered


def test_after_a_power_cut_the_reason_is_power(whole: tuple[bytes, Sidecar], tmp_path: Path) -> None:
    path = lay(tmp_path, whole[0], boot="0" * 36)
    assert recover(tmp_path / "pattern") == 8
    assert from_json(path.with_suffix(".json").read_bytes()).end_reason == "power"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1), noise=st.binary(min_size=1, max_size=64))
@example(at=0.000147, noise=b"\0")     # in the first box's name
def test_damage_in_the_middle_never_raises_and_never_deletes(whole: tuple[bytes, Sidecar], at: float, noise: bytes) -> None:
    data = bytearray(whole[0])
    place = round(at * (len(data) - len(noise)))
    data[place:place + len(noise)] = noise
    with tempfile.TemporaryDirectory() as name:
        path = lay(Path(name), bytes(data))
        recover(Path(name) / "pattern")
        if path.exists():
            assert bytes(data).startswith(path.read_bytes())
            from_json(path.with_suffix(".json").read_bytes())
        else:
            assert (Path(name) / "pattern" / SET_ASIDE / path.name).read_bytes() == bytes(data)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(1, 7), at=st.floats(0, 1, exclude_max=True), length=st.integers(1, 4096))
def test_r_c2_a_fragment_that_the_disk_did_not_keep(whole: tuple[bytes, Sidecar], which: int, at: float, length: int) -> None:
    """Of the right length but not what was written, as after a power cut: the file ends before it, a copy of all of it is kept."""
    data, original = bytearray(whole[0]), whole[1]
    bad = original.fragments[which]
    place = bad.offset + int(at * bad.length)
    length = min(length, bad.offset + bad.length - place)
    if not any(data[place:place + length]):
        return
    data[place:place + length] = bytes(length)
    with tempfile.TemporaryDirectory() as name:
        path = lay(Path(name), bytes(data))
        recover(Path(name) / "pattern")
        assert path.read_bytes() == data[:bad.offset]
        sidecar = from_json(path.with_suffix(".json").read_bytes())
        assert sidecar.fragments == original.fragments[:which] and sidecar.recovered
        assert (Path(name) / "pattern" / SET_ASIDE / path.name).read_bytes() == data


@pytest.mark.parametrize("which", [0, 3])
@pytest.mark.parametrize(("first", "behind"), [(-56, 0), (-52, -32), (-48, -32), (-33, 600)])
def test_r_c2_a_fragment_whose_digest_is_gone_is_not_old_footage(whole: tuple[bytes, Sidecar], tmp_path: Path, which: int, first: int,
                                                                 behind: int) -> None:
    data, original = bytearray(whole[0]), whole[1]
    bad = original.fragments[which]
    moof_end = bad.offset + int.from_bytes(data[bad.offset:bad.offset + 4])
    data[moof_end + first:moof_end + behind] = bytes(behind - first)
    path = lay(tmp_path, bytes(data))
    recover(tmp_path / "pattern")
    assert (tmp_path / "pattern" / SET_ASIDE / path.name).read_bytes() == data
    assert path.exists() == bool(which)
    if which:
        assert path.read_bytes() == data[:bad.offset]
        assert from_json(path.with_suffix(".json").read_bytes()).fragments == original.fragments[:which]


@pytest.mark.parametrize("box", ["moof", "mdat"])
@pytest.mark.parametrize("noise", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f", b"\0" * 600, b"\xff" * 600])
def test_what_follows_a_box_without_its_length_is_no_torn_tail(whole: tuple[bytes, Sidecar], tmp_path: Path, box: str,
                                                               noise: bytes) -> None:
    data, original = bytearray(whole[0]), whole[1]
    bad = original.fragments[3]
    place = bad.offset + (int.from_bytes(data[bad.offset:bad.offset + 4]) if box == "mdat" else 0)
    data[place:place + len(noise)] = noise
    path = lay(tmp_path, bytes(data))
    recover(tmp_path / "pattern")
    assert path.read_bytes() == data[:bad.offset]
    assert from_json(path.with_suffix(".json").read_bytes()).fragments == original.fragments[:3]
    assert (tmp_path / "pattern" / SET_ASIDE / path.name).read_bytes() == data


def without_digests(data: bytes, original: Sidecar) -> bytearray:
    """The same footage as version 0.1 wrote it."""
    old = bytearray(data[:original.header_bytes])
    for each in original.fragments:
        fragment = data[each.offset:each.offset + each.length]
        length = int.from_bytes(fragment[:4])
        moof = bytearray(fragment[:length - 56])
        struct.pack_into(">I", moof, 0, len(moof))
        for trun, _ in boxes.find(bytes(moof), 0, len(moof), b"moof", b"traf", b"trun"):
            struct.pack_into(">i", moof, trun + 8, struct.unpack_from(">i", moof, trun + 8)[0] - 56)
        old += moof + fragment[length:]
    return old


def test_footage_of_version_0_1_is_taken_for_whole(whole: tuple[bytes, Sidecar], tmp_path: Path) -> None:
    old = without_digests(*whole)
    path = lay(tmp_path, bytes(old))
    recover(tmp_path / "pattern")
    sidecar = from_json(path.with_suffix(".json").read_bytes())
    assert path.read_bytes() == old and sidecar.dur_us == sum(f.dur_us for f in whole[1].fragments)
    assert [f.start_us for f in sidecar.fragments] == [f.start_us for f in whole[1].fragments]
    assert not (tmp_path / "pattern" / SET_ASIDE).exists()


@pytest.mark.parametrize(("which", "time", "kept"), [(3, 0, 3), (3, 1 << 63, 3), (0, 1 << 40, 1), (0, 1 << 63, 0)])
def test_no_times_that_a_sidecar_cannot_bear(whole: tuple[bytes, Sidecar], tmp_path: Path, which: int, time: int, kept: int) -> None:
    """Without digests a damaged time can only be known by itself: earlier than the one before it, or beyond all numbers."""
    old = without_digests(*whole)
    place = -1
    for _ in range(which + 1):
        place = old.index(b"moof", place + 1)
    place = old.index(b"tfdt", place)       # the picture's, which comes first
    assert old[place + 4] == 1
    struct.pack_into(">Q", old, place + 8, time)
    path = lay(tmp_path, bytes(old))
    recover(tmp_path / "pattern")
    assert (tmp_path / "pattern" / SET_ASIDE / path.name).read_bytes() == old
    assert path.exists() == bool(kept)
    if kept:
        assert len(from_json(path.with_suffix(".json").read_bytes()).fragments) == kept


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1), noise=st.binary(min_size=1, max_size=64))
def test_damaged_footage_of_version_0_1_is_taken_in_or_set_aside(whole: tuple[bytes, Sidecar], at: float, noise: bytes) -> None:
    old = without_digests(*whole)
    place = round(at * (len(old) - len(noise)))
    old[place:place + len(noise)] = noise
    with tempfile.TemporaryDirectory() as name:
        path = lay(Path(name), bytes(old))
        recover(Path(name) / "pattern")
        if path.exists():
            assert old.startswith(path.read_bytes())
            from_json(path.with_suffix(".json").read_bytes())
        else:
            assert (Path(name) / "pattern" / SET_ASIDE / path.name).read_bytes() == old


def test_a_sidecar_that_would_be_refused_is_not_published(whole: tuple[bytes, Sidecar], tmp_path: Path) -> None:
    """Here the damaged note's time: no sidecar can say when the segment ends."""
    path = lay(tmp_path, whole[0] + b"torn")
    start = Stamp((1 << 53) - 1, START.boot_us, START.boot_id)
    note_path(path).write_bytes(Opening("pattern", 7, "ab" * 16, start, 1_000_000, "h264+aac", "synced").to_json())
    assert recover(tmp_path / "pattern") == 8
    assert not path.exists() and not path.with_suffix(".json").exists()
    assert (tmp_path / "pattern" / SET_ASIDE / path.name).read_bytes() == whole[0] + b"torn"


def test_note_left_behind_by_a_crash_after_the_sidecar(whole: tuple[bytes, Sidecar], tmp_path: Path) -> None:
    path = lay(tmp_path, whole[0])
    recover(tmp_path / "pattern")
    before = path.with_suffix(".json").read_bytes()
    shutil.copy(path.with_suffix(".json"), note_path(path))
    torn = path.with_name(f".{path.stem}.json.77.part")
    torn.touch()
    assert recover(tmp_path / "pattern") == 8
    assert not note_path(path).exists() and not torn.exists() and path.with_suffix(".json").read_bytes() == before


def test_numbers_go_on_over_everything_found(tmp_path: Path) -> None:
    folder = tmp_path / "pattern"
    assert survey(folder) == survey(tmp_path / "nothing") and survey(folder).next_seq == 0
    for name, seq in ((DAY, 3), (Path("2025/01/02"), 41), (Path(SET_ASIDE), 12)):
        (folder / name).mkdir(parents=True)
        (folder / name / f"{seq:010d}-20261124T053143Z.mp4").touch()
    (folder / DAY / "9999999999-nonsense.mp4").touch()
    assert survey(folder).next_seq == 42
    unsealed: Any = survey(folder).unsealed
    assert [path.name[:10] for path in unsealed] == ["0000000003", "0000000041"]


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_nothing_follows_a_torn_fragment(whole: tuple[bytes, Sidecar], tmp_path: Path, part: float) -> None:
    """The disk fills in the middle of a fragment and has room again before the file is closed: the file ends where it was whole."""
    data, original = whole
    header = data[:original.header_bytes]
    opening = Opening("pattern", 7, "ab" * 16, START, original.media_start_us, original.codec, "synced")
    file = SegmentFile(tmp_path / "pattern", opening, header, boxes.read_header(header))
    torn = original.fragments[3]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (torn.offset + round(torn.length * part), before[1]))
        with pytest.raises(OSError, match="File too large"):
            for each in original.fragments:
                fragment = data[each.offset:each.offset + each.length]
                moof = fragment[:int.from_bytes(fragment[:4])]
                file.write(fragment, boxes.read_fragment(moof, file.tracks))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.path.stat().st_size > torn.offset
    sidecar = file.seal(End(None, None, "disk-full", 0))
    assert sidecar is not None and file.path.read_bytes() == data[:torn.offset]
    assert sidecar.sha256 == durable.sha256_file(file.path)
    assert sidecar.fragments == original.fragments[:3] and sidecar.end == START.plus(sidecar.dur_us)
