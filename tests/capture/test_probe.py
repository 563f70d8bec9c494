"""R65, the daily playback probe: footage is really decoded from the disk, and each kind of damage shows under its name."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge.capture.probe import AGAIN_US, FIRST_LOOK_US, NOTHING, WINDOW_US, Prober, choose, date_of, play, probe, run_probe
from edge.capture.sidecar import Fragment, from_json
from edge.capture.watchnote import Probe, probe_path
from edge.clock import US, SimClock
from tests.capture.footage import Camera, Room, new_camera  # noqa: F401 (a fixture)

Make = Callable[..., Camera]
SIZE = (160, 96)
ROOM = Room(*SIZE)


@pytest.fixture
def day(new_camera: Make) -> Camera:  # noqa: F811
    """Four segments of fifteen seconds."""
    recording = new_camera(size=SIZE)
    for _ in range(4):
        recording.film(15, ROOM.seen)
    return recording


def segments(recording: Camera) -> list[Path]:
    return sorted(recording.folder.glob("*/*/*/*.mp4"))


def probed(recording: Camera, seed: str = "1") -> Probe:
    now = recording.clock.now().utc_us
    found = probe(recording.folder, date_of(now), now, seed)
    assert found is not None
    return found


def test_r65_three_windows_of_ten_seconds_are_decoded_frame_by_frame(day: Camera) -> None:
    found = probed(day)
    assert found.ok and len(found.windows) == 3 and (found.stream, found.date) == ("cam", "2026-11-26")
    for window in found.windows:
        assert window.dur_us == pytest.approx(WINDOW_US, abs=US) and window.frames == window.dur_us * 5 // US
        assert 0 <= window.from_us <= 5 * US and window.from_us % US == 0, "at a key frame"
    assert probed(day) == found, "the seed makes it repeatable"
    assert len({probed(day, str(seed)).windows for seed in range(6)}) > 3, "and another seed draws others"


B_FRAMES = {"tune": "film", "bf": "2", "preset": "veryfast"}
OPEN_265 = {"tune": "psnr", "x265-params": "log-level=none:open-gop=1:bframes=2:b-adapt=0"}


@pytest.mark.parametrize("how", [
    {"picture": False}, {"sound": False}, {"codec": "libx265"}, {"options": B_FRAMES},
    {"options": B_FRAMES | {"x264-params": "open-gop=1:b-adapt=0"}}, {"codec": "libx265", "options": OPEN_265}], ids=str)
def test_r65_every_kind_of_stream_can_be_played(new_camera: Make, how: dict[str, object]) -> None:  # noqa: F811
    recording = new_camera(size=SIZE, **how)
    recording.film(12, ROOM.seen)
    found = probed(recording)
    assert found.ok, found
    assert all(window.frames > 40 for window in found.windows)


def damage(path: Path, kind: str) -> None:
    sidecar = from_json(path.with_suffix(".json").read_bytes())
    if kind == "missing":
        path.unlink()
    elif kind == "unreadable":
        path.with_suffix(".json").write_text("{}")
    elif kind == "digest":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif kind == "frames-missing":          # an index, and a digest, of a file that a bug wrote: frames are named that are not there
        _forge(path)
    elif kind == "undecodable":
        data = bytearray(path.read_bytes())
        for fragment in sidecar.fragments[2:]:
            moof = int.from_bytes(data[fragment.offset:fragment.offset + 4], "big")
            for at in range(fragment.offset + moof + 200, fragment.offset + fragment.length - 8, 50):
                data[at] ^= 0xFF
        path.write_bytes(data)
        _sign(path)


def _sign(path: Path) -> None:
    """Make the sidecar say that these bytes are right: only decoding can show that they are not."""
    facts = json.loads(path.with_suffix(".json").read_bytes())
    facts["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(facts))


def _forge(path: Path) -> None:
    """Make of later pictures some that lean on what is not there (H.265, RASL_R): a decoder passes over them without a word."""
    data = bytearray(path.read_bytes())
    sidecar = from_json(path.with_suffix(".json").read_bytes())
    for fragment in sidecar.fragments:
        moof = int.from_bytes(data[fragment.offset:fragment.offset + 4], "big")
        at = fragment.offset + moof + 8
        while at + 5 < fragment.offset + fragment.length:
            length = int.from_bytes(data[at:at + 4], "big")
            if not 0 < length <= fragment.offset + fragment.length - at - 4:
                break
            if data[at + 4] >> 1 == 1:      # TRAIL_R (ITU-T H.265, table 7-1)
                data[at + 4] = 9 << 1
            at += 4 + length
    path.write_bytes(data)
    _sign(path)


@pytest.mark.parametrize("kind", ["missing", "unreadable", "digest", "undecodable", "frames-missing"])
def test_r65_damage_is_red_under_its_name(new_camera: Make, kind: str) -> None:  # noqa: F811
    recording = new_camera(size=SIZE, **{"sound": False, "codec": "libx265"} if kind == "frames-missing" else {})
    damage(recording.film(12, ROOM.seen), kind)
    found = probed(recording)
    assert not found.ok
    reasons = {window.reason for window in found.windows}
    assert reasons == {kind}


def test_nothing_to_play_is_no_failure(new_camera: Make, tmp_path: Path) -> None:  # noqa: F811
    clock = SimClock()
    assert probe(tmp_path / "cam", "2026-11-26", clock.now().utc_us, "1") is None
    assert run_probe(tmp_path / "cam", clock) == NOTHING and not (tmp_path / "cam").exists()
    recording = new_camera(size=SIZE, clock=clock)
    recording.film(2, ROOM.seen)
    recording.open()
    recording.shoot(2, ROOM.seen)               # not sealed: not played
    assert probed(recording).windows[0].seq == 0
    clock.step_wall(25 * 3600 * US)
    assert probe(recording.folder, "2026-11-27", clock.now().utc_us, "1") is None, "yesterday's are no longer probed"


def test_a_segment_deleted_in_time_is_no_loss(day: Camera) -> None:
    path = segments(day)[0]
    path.unlink()
    path.with_suffix(".json").unlink()
    assert play(path, random.Random(1)) is None


@pytest.mark.parametrize(("keys", "lengths"), [
    ([1], [1]), ([1, 0, 0], [4, 4, 4]), ([1, 0] * 30, [1] * 60), ([0, 0], [30, 30]), ([1] * 3, [20] * 3)])
def test_windows_begin_with_a_key_frame_and_last_ten_seconds_where_there_are_ten(keys: list[int], lengths: list[int]) -> None:
    fragments, at = [], 0
    for n, (key, length) in enumerate(zip(keys, lengths, strict=True)):
        fragments.append(Fragment(100 + n, 1, at * US, length * US, key == 1))
        at += length
    for seed in range(20):
        window = choose(fragments, random.Random(seed))
        lasts = sum(fragment.dur_us for fragment in window)
        assert window[0].key or not any(keys)
        assert lasts >= min(WINDOW_US, at * US) or window[-1] is fragments[-1]
        assert lasts - window[-1].dur_us < WINDOW_US, "no longer than it must be"


def test_the_days_note_is_kept_once(day: Camera) -> None:
    assert run_probe(day.folder, day.clock) == 0
    path = probe_path(day.folder, date_of(day.clock.now().utc_us))
    note = path.read_bytes()
    assert Probe.from_json(note).ok
    for segment in segments(day):
        segment.write_bytes(b"")
    assert run_probe(day.folder, day.clock) == 1
    assert path.read_bytes() == note, "what was found first stays"


# ---- once a day -----------------------------------------------------------------------------------------------------------

class Days:
    """A prober whose probes are a program of the test's."""

    def __init__(self, folder: Path, program: str) -> None:
        self.footage, self.clock = folder, SimClock()
        self.prober = Prober(["cam", "other"], folder, lambda stream: [sys.executable, "-c", program, str(self.note(stream))], self.clock)
        for stream in ("cam", "other"):
            (folder / stream).mkdir()

    def note(self, stream: str) -> Path:
        return probe_path(self.footage / stream, date_of(self.clock.now().utc_us))

    def let_pass(self, us: int) -> None:
        self.clock._now = self.clock.now().plus(us)
        until = time.monotonic() + 20
        while True:
            self.prober.look()
            if self.prober._running is None and self.prober._next_us > self.clock.now().boot_us:
                return
            assert time.monotonic() < until
            time.sleep(0.01)


WRITES = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.parent.mkdir(exist_ok=True); p.write_text('x')"


def test_r65_each_stream_is_probed_once_a_day_one_at_a_time(tmp_path: Path) -> None:
    days = Days(tmp_path, WRITES)
    days.let_pass(US)
    assert not days.note("cam").exists(), "a room that has just started has better things to do"
    days.let_pass(FIRST_LOOK_US)
    assert days.note("cam").exists() and days.note("other").exists()
    first = days.note("cam")
    first.write_text("kept")
    days.let_pass(3600 * US)
    assert first.read_text() == "kept"
    days.let_pass(24 * 3600 * US)
    assert days.note("cam") != first and days.note("cam").exists()


def test_a_probe_that_finds_nothing_is_tried_again_in_an_hour(tmp_path: Path) -> None:
    days = Days(tmp_path, "import sys, pathlib; open(sys.argv[1].split('/probes')[0] + '/tries', 'a').write('x'); sys.exit(4)")
    days.let_pass(FIRST_LOOK_US)
    days.let_pass(AGAIN_US // 2)
    assert (tmp_path / "cam" / "tries").read_text() == "x"
    days.let_pass(AGAIN_US)
    assert (tmp_path / "cam" / "tries").read_text() == "xx"


def test_a_decoder_that_crashes_is_a_failed_probe(tmp_path: Path) -> None:
    days = Days(tmp_path, f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})")
    days.let_pass(FIRST_LOOK_US)
    found = Probe.from_json(days.note("cam").read_bytes())
    assert not found.ok and [window.reason for window in found.windows] == ["decoder-crashed"]


def test_a_probe_that_runs_ends_with_the_watcher(tmp_path: Path) -> None:
    days = Days(tmp_path, "import time; time.sleep(600)")
    days.clock._now = days.clock.now().plus(FIRST_LOOK_US)
    days.prober.look()
    assert days.prober._running is not None
    child: subprocess.Popen[bytes] = days.prober._running[1]
    days.prober.look()
    assert child.poll() is None
    days.prober.close()
    assert child.poll() is not None and not days.note("cam").exists()
