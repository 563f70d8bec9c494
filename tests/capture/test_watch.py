"""The watcher on a recording that grows: alarms with their patience and evidence, notes, the live picture, and that it harms nothing."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.capture.alarms import JUMP_US, Alarms, Gauge, Limits
from edge.capture.control import picture_path, read_watch
from edge.capture.picture import renew
from edge.capture.sidecar import from_json
from edge.capture.storage_id import init_storage
from edge.capture.streams import StreamSpec
from edge.capture.watch import HEALTHY_US, RESUME_US, Safely, Watched
from edge.capture.watchnote import RULES, WatchNote, evidence_path, note_path
from edge.clock import US, Stamp
from tests.capture.footage import Camera, Picture, Room, Wave, hum, new_camera, silence  # noqa: F401 (a fixture)

Make = Callable[..., Camera]
ROOM = Room()
LIMITS = Limits()


class Watching:
    """A camera and the watcher of its stream, which looks after each frame."""

    def __init__(self, recording: Camera, limits: Limits = LIMITS, spec: StreamSpec | None = None) -> None:
        self.recording, self.clock = recording, recording.clock
        self.run = recording.folder.parent / "run"
        (self.run / "streams").mkdir(parents=True, exist_ok=True)
        self._limits, self._spec = limits, spec or StreamSpec("cam", "pattern")
        self.log: list[tuple[float, frozenset[str]]] = []       # media second -> alarms in force from then on
        self.restart()

    def restart(self) -> None:
        self.watched = Watched(self._spec, self.recording.folder.parent, self.run, self._limits, self.clock)

    def shoot(self, seconds: float, paint: Callable[[float], Picture] = ROOM.seen,
              sound: Callable[[int, int], Wave] = hum) -> frozenset[str]:
        """Alarms in force at the end."""
        for _ in range(round(seconds * self.recording.fps)):
            self.recording.shoot(1 / self.recording.fps, paint, sound)
            self.look()
        return self.alarms

    def look(self) -> None:
        self.watched.look()
        self.watched.tell()
        if not self.log or self.log[-1][1] != self.alarms:
            self.log.append((self.recording.media_us / US, self.alarms))

    @property
    def alarms(self) -> frozenset[str]:
        status = read_watch(self.run, "cam")
        assert status is not None
        return frozenset(status.alarms)

    def note(self, segment: Path) -> WatchNote:
        return WatchNote.from_json(note_path(segment).read_bytes())


@pytest.fixture
def watching(new_camera: Make) -> Watching:  # noqa: F811
    return Watching(new_camera(fps=2, gop=2))


FLAT = np.full((360, 640), 60, np.uint8)
FAULTS: dict[str, Callable[[float], Picture]] = {
    "black": lambda t: np.full((360, 640), 17, np.uint8), "covered": lambda t: ROOM.noisy(FLAT),
    "out-of-focus": lambda t: ROOM.noisy(np.asarray(cv2.GaussianBlur(ROOM.still(t), (0, 0), 5), np.uint8)),
    "moved": lambda t: ROOM.noisy(ROOM.still(t, 40)),
    "over-exposed": lambda t: ROOM.noisy(np.asarray(np.clip(ROOM.still(t) * 1.0 + 150, 0, 240), np.uint8)),
}


def test_a_day_in_a_room_each_fault_is_told_with_evidence_and_ends(new_camera: Make) -> None:  # noqa: F811
    """Black, covered, defocused, moved, over-exposed, one after the other; between them all is well."""
    watching = Watching(new_camera(fps=1, gop=1))
    recording = watching.recording
    recording.open()
    assert watching.shoot(HEALTHY_US / US + 2) == frozenset()
    reference = recording.folder / "reference.png"
    assert reference.exists(), "a minute of good pictures makes the reference"
    made = reference.read_bytes()
    paths = []
    for rule, paint in FAULTS.items():
        recording.seal()
        recording.open()
        assert watching.shoot(LIMITS.picture_raise_s - 2, paint) == frozenset(), f"{rule} too early"
        assert watching.shoot(5, paint) == {rule}
        paths.append(recording.path)
        assert watching.shoot(LIMITS.picture_clear_s + 3) == frozenset(), f"{rule} ends"
    recording.seal()
    watching.look()
    for rule, path in zip(FAULTS, paths, strict=True):
        note = watching.note(path)
        raised, cleared = note.turns
        assert (raised.rule, raised.raised, cleared.rule, cleared.raised) == (rule, True, rule, False)
        assert LIMITS.picture_raise_s <= (raised.media_us - note.pictures[0].media_us) / US <= LIMITS.picture_raise_s + 2
        assert raised.picture == evidence_path(path, rule).name and note.in_force == {}
        evidence = cv2.imdecode(np.frombuffer(evidence_path(path, rule).read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
        assert evidence is not None and evidence.shape == (360, 640)
        assert len(note.pictures) == pytest.approx(17, abs=2), "one figure a second"
    assert reference.read_bytes() == made


def test_r_a5_a_frozen_picture_is_told_within_ten_seconds_and_its_end_too(new_camera: Make) -> None:  # noqa: F811
    """The camera goes on sending frames, sound goes on, the picture is the same."""
    watching = Watching(new_camera(fps=2, gop=4, options={"qp": "28", "crf": "-1"}))      # a key frame every other second
    watching.recording.open()
    assert watching.shoot(8) == frozenset()
    stuck, began = ROOM.seen(99), watching.recording.media_us
    assert watching.shoot(10, lambda t: stuck) == {"frozen"}
    assert (watching.log[-1][0] - began / US) <= 10
    assert watching.shoot(8) == frozenset()


def test_u2_digital_zero_is_told_after_ten_seconds_while_the_picture_goes_on(watching: Watching) -> None:
    watching.recording.open()
    watching.shoot(4)
    began = watching.recording.media_us / US
    watching.shoot(12, sound=silence)
    assert watching.alarms == {"sound-zero"}
    assert watching.log[-1][0] - began == pytest.approx(LIMITS.sound_raise_s, abs=1.1)
    status = read_watch(watching.run, "cam")
    assert status is not None and status.audio_peak_cdb == -12000 and status.silent_ms == pytest.approx(12000, abs=600)
    assert watching.shoot(5) == frozenset()
    watching.recording.seal()
    watching.look()
    note = watching.note(watching.recording.path)
    assert note.silent_ms == pytest.approx(12000, abs=100) and note.audio_peak_cdb is not None and note.audio_peak_cdb > -2100
    assert [(turn.rule, turn.raised, turn.picture) for turn in note.turns] == [("sound-zero", True, ""), ("sound-zero", False, "")]


def noise(dbfs: float) -> Callable[[int, int], Wave]:
    dice = np.random.default_rng(7)
    return lambda start, count: (10 ** (dbfs / 20) * dice.uniform(-1, 1, count)).astype(np.float32)


def test_r12_quiet_is_amber_room_noise_is_well_and_clipping_is_told(watching: Watching) -> None:
    watching.recording.open()
    assert watching.shoot(14, sound=noise(-50)) == frozenset()
    assert watching.shoot(14, sound=noise(-72)) == {"sound-low"}
    assert watching.shoot(6, sound=noise(-50)) == frozenset()
    assert watching.shoot(14, sound=lambda start, count: np.clip(hum(start, count, 6.0), -1, 1)) == {"sound-clipping"}
    assert watching.shoot(6) == frozenset()


def test_r_b2_sound_that_a_camera_had_and_sends_no_more_is_missing(watching: Watching) -> None:
    recording = watching.recording
    recording.open()
    watching.shoot(3)
    recording._sound, sound = None, recording._sound
    began = recording.media_us / US
    assert watching.shoot(12) == {"sound-missing"} and watching.log[-1][0] - began < 12
    watching.clock._now = watching.clock.now().plus(4 * US)
    watching.watched.tell()
    status = read_watch(watching.run, "cam")
    assert status is not None and status.audio_peak_cdb is None, "a meter does not stand still at a good value"
    recording.seal()
    recording.open(with_sound=False)
    assert watching.shoot(3) == {"sound-missing"}, "in a file without a sound track as well"
    recording.seal()
    recording._sound = sound
    recording.open()
    assert watching.shoot(6) == frozenset()


def test_a_camera_without_sound_misses_none_but_a_microphone_that_was_promised_does(new_camera: Make) -> None:  # noqa: F811
    for spec, alarms in ((StreamSpec("cam", "pattern"), frozenset[str]()),
                         (StreamSpec("cam", "usb", device="/dev/video0", sound="mic"), frozenset({"sound-missing"}))):
        recording = new_camera(sound=False, fps=2, gop=2)
        watching = Watching(recording, spec=spec)
        recording.seq = 10 if alarms else 0
        recording.open()
        assert watching.shoot(13) == alarms
        recording.seal()
        watching.look()
        note = watching.note(recording.path)
        assert (note.audio_peak_cdb, note.silent_ms, note.clipped, note.sound_samples) == (None, None, None, None)


def test_a_microphone_alone_is_heard(new_camera: Make) -> None:  # noqa: F811
    watching = Watching(new_camera(picture=False), spec=StreamSpec("cam", "microphone"))
    watching.recording.open()
    assert watching.shoot(3) == frozenset()
    assert watching.shoot(12, sound=silence) == {"sound-zero"}
    watching.recording.seal()
    watching.look()
    note = watching.note(watching.recording.path)
    assert note.pictures == () and note.sound_samples == pytest.approx(15 * 48000, rel=0.02) and note.undecoded == 0


def test_the_live_picture_is_the_newest_recorded_one(watching: Watching) -> None:
    watching.recording.open()
    for level in (60, 120, 180):
        watching.shoot(2, lambda t, level=level: np.full((360, 640), level, np.uint8))  # type: ignore[misc]
        seen = cv2.imdecode(np.frombuffer(picture_path(watching.run, "cam").read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
        assert seen is not None and abs(float(seen.mean()) - (level - 16) * 255 / 219) < 3
    status = read_watch(watching.run, "cam")
    assert status is not None and status.picture_boot_us and status.sound_boot_us and status.seq == 0


def test_faster_key_frames_are_looked_at_once_a_second(new_camera: Make) -> None:  # noqa: F811
    watching = Watching(new_camera(fps=5, gop=1))
    watching.recording.open()
    watching.shoot(5)
    watching.recording.seal()
    watching.look()
    times = [seen.media_us for seen in watching.note(watching.recording.path).pictures]
    assert len(times) == 5 and all(later - earlier >= 900_000 for earlier, later in pairwise(times))


def test_a_new_watcher_takes_over_what_the_old_one_had_raised(watching: Watching) -> None:
    watching.recording.open()
    watching.shoot(10, FAULTS["black"])
    status = read_watch(watching.run, "cam")
    assert status is not None and set(status.alarms) == {"black"}
    watching.restart()
    watching.watched.tell()
    again = read_watch(watching.run, "cam")
    assert again is not None and again.alarms == status.alarms, "not raised anew: the same alarm"
    watching.shoot(2, FAULTS["black"])
    watching.recording.seal()
    watching.recording.open()
    watching.shoot(3, FAULTS["black"])
    again = read_watch(watching.run, "cam")
    assert again is not None and again.alarms == status.alarms
    watching.restart()
    watching.shoot(2, FAULTS["black"])
    assert read_watch(watching.run, "cam") == dataclasses.replace(again, **{
        name: getattr(read_watch(watching.run, "cam"), name) for name in ("updated_boot_us", "picture_boot_us", "sound_boot_us")})
    note = watching.note(sorted(watching.recording.folder.glob("*/*/*/*Z.mp4"))[0])
    assert [(turn.rule, turn.raised, turn.utc_us) for turn in note.turns] == [("black", True, status.alarms["black"])]
    assert note.in_force == status.alarms
    watching.clock._now = watching.clock.now().plus(RESUME_US + 1)
    watching.restart()
    watching.watched.tell()
    assert watching.alarms == frozenset(), "too long ago"


def test_a_renewed_reference_ends_moved_and_the_new_view_is_the_right_one(new_camera: Make) -> None:  # noqa: F811
    watching = Watching(new_camera(fps=1, gop=1))
    recording = watching.recording
    recording.open()
    watching.shoot(HEALTHY_US / US + 2)
    assert watching.shoot(10, FAULTS["moved"]) == {"moved"}
    assert renew(recording.folder, watching.clock.now().utc_us) is not None
    assert watching.shoot(6, FAULTS["moved"]) == frozenset()
    watching.shoot(HEALTHY_US / US + 2, FAULTS["moved"])
    assert (recording.folder / "reference.png").exists()
    assert watching.shoot(10) == {"moved"}, "the old view is the wrong one now"


def test_footage_that_no_decoder_takes_harms_nothing_and_is_counted(watching: Watching) -> None:
    recording = watching.recording
    path = recording.film(4, ROOM.seen)
    sidecar = from_json(path.with_suffix(".json").read_bytes())
    data = bytearray(path.read_bytes())
    for fragment in sidecar.fragments:
        moof = int.from_bytes(data[fragment.offset:fragment.offset + 4], "big")
        begin, end = fragment.offset + moof + 8, fragment.offset + fragment.length
        data[begin:end] = b"\xff" * (end - begin)
    path.write_bytes(data)
    watching.look()
    note = watching.note(path)
    assert note.undecoded > 100 and note.pictures == () and watching.alarms == frozenset()
    watching.recording.open()
    watching.shoot(3)
    assert picture_path(watching.run, "cam").exists(), "the next segment is seen again"


def test_a_note_is_written_once_and_only_of_what_was_read_to_the_end(watching: Watching) -> None:
    recording = watching.recording
    path = recording.film(2, ROOM.seen)
    watching.look()
    note = note_path(path).read_bytes()
    sidecar = path.with_suffix(".json").read_bytes()
    assert watching.note(path).sha256 in sidecar.decode() and watching.note(path).rules == LIMITS.version() == "1"
    watching.restart()
    watching.look()
    assert note_path(path).read_bytes() == note
    torn = recording.film(3, ROOM.seen)
    torn.write_bytes(torn.read_bytes()[:-2000])
    watching.look()
    assert not note_path(torn).exists()


def test_a_note_that_cannot_be_kept_costs_the_note_alone(watching: Watching) -> None:
    recording = watching.recording
    recording.open()
    watching.shoot(9, FAULTS["black"])
    assert watching.alarms == {"black"}
    path = recording.path
    evidence_path(path, "black").unlink()
    note_path(path).mkdir()                 # nothing can be written under this name
    recording.seal()
    watching.look()
    recording.open()
    assert watching.shoot(3, FAULTS["black"]) == {"black"}, "it goes on"


def test_what_the_disk_refuses_is_told_once_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    safely, refuses, tries = Safely(), [errno.EIO, errno.EIO, errno.EIO, errno.ENOSPC, 0, 0, errno.EIO], list[int]()

    def step() -> None:
        tries.append(refuses[len(tries)])
        if tries[-1]:
            raise OSError(tries[-1], "no")

    with caplog.at_level("INFO", "edge.capture.watch"):
        for _ in refuses:
            safely("cam look", step)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING", "INFO", "WARNING"]


# ---- patience -------------------------------------------------------------------------------------------------------------

def at(second: float) -> Stamp:
    return Stamp(round(1_795_680_000 * US + second * US), round(1000 * US + second * US), "boot")


@given(st.lists(st.sampled_from([True, False, None]), max_size=60))
def test_an_alarm_needs_its_time_and_never_flickers(verdicts: list[bool | None]) -> None:
    gauge, turns = Gauge(6, 4), []
    for second, wrong in enumerate(verdicts):
        if gauge.turn(wrong, at(second)):
            turns.append(second)
    assert all(later - earlier >= 4 for earlier, later in pairwise(turns))
    if turns:
        assert True in verdicts[:turns[0] + 1] and turns[0] >= 6 and False not in verdicts[turns[0] - 6:turns[0] + 1]


def test_what_was_wrong_before_a_hole_says_nothing_of_the_hole() -> None:
    gauge = Gauge(6, 4)
    assert not gauge.turn(True, at(0)) and not gauge.turn(True, at(5))
    assert not gauge.turn(True, at(5 + JUMP_US / US + 1)), "another run"
    assert gauge.turn(True, at(5 + JUMP_US / US + 8))


def test_every_rule_has_its_gauge_and_thresholds_show_in_the_version() -> None:
    alarms = Alarms(LIMITS)
    for rule in RULES:
        assert [turn.rule for second in range(12) for turn in alarms.judge({rule: True}, at(second), 0)] == [rule]
    assert set(alarms.in_force) == set(RULES)
    other = Limits(black_mean=20)
    assert other.version().startswith("1-") and other.version() != Limits(black_mean=21).version() and Limits().version() == "1"


# ---- the process ----------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from edge.capture.alarms import Limits
from edge.capture.streams import StreamSpec
from edge.capture.watch import run_watcher
footage, run = map(Path, sys.argv[1:3])
sys.exit(run_watcher([StreamSpec(s, "pattern") for s in sys.argv[3:]], footage, run, Limits(), lambda stream: ["false"]))
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    init_storage(tmp_path)
    (tmp_path / "run" / "streams").mkdir(parents=True)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(tmp_path / "run"), "cam", "other"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        yield child
        child.kill()


def _until(what: Callable[[], object], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["leash", "signal"])
def test_the_process_watches_all_streams_and_leaves_when_its_leash_is_let_go(
        process: subprocess.Popen[bytes], tmp_path: Path, new_camera: Make, how: str) -> None:  # noqa: F811
    run = tmp_path / "run"
    _until(lambda: read_watch(run, "cam") and read_watch(run, "other"))
    recording = new_camera(fps=2, gop=2)
    recording.open()
    recording.shoot(3, ROOM.seen)
    _until(lambda: picture_path(run, "cam").exists())
    assert os.getpriority(os.PRIO_PROCESS, process.pid) >= 5, "recording goes first"
    assert process.stdin is not None
    if how == "leash":
        process.stdin.close()
    else:
        process.send_signal(signal.SIGTERM)
    recording.seal()                # a worker that leaves at the same time seals
    assert process.wait(timeout=10) == 0
    assert note_path(recording.path).exists(), "what was sealed while it left is noted"
