"""A day of evils: some thirty cameras at once, each with its own fault, recorded by as many workers; then each is looked at.

One run for all, because what takes time is the cameras' time. Every check compares, bit by bit, what the camera sent with what is on
the disk.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.clock import US

FRAME_S = 1 / 25
TAIL = 15
"""Pictures that the camera had sent, and the worker had not read, when it was told to leave."""
ENOUGH = 270
"""Pictures of each camera: 11 s, of which the start of so many workers takes some."""
NOISE_TAIL = 60
"""FFmpeg finds its way out of noise between packets at a line feed that a packet happens to follow."""

JUMPS = {"back": ("jump", -2), "ahead": ("jump", 3600), "same": ("same", 5), "clock-ahead": ("clock", 1000), "clock-back": ("clock", -1000),
         "less": ("jump", 0.5)}
SOUNDS = ("pcma", "pcmu", "l16", "opus", "aac", "aac-16k")
BREAKS = ("half", "close", "torn", "drop", "garbage")
SLOW_SOUND = {"slow-sound": {"sound_ppm": -10_000, "sr_s": 0.0}, "slow-sound-reported": {"sound_ppm": -10_000, "sr_s": 2.0}}


class Day:
    """What was done to each camera, by name; all workers have left."""

    def __init__(self, hostile: Any, crew: Any) -> None:
        self.crew = crew
        self.cameras = {name: hostile.camera(sr_s=1.0) for name in JUMPS}
        self.cameras |= {f"bare-{n}": hostile.camera(rtp_info=False, sr_s=0.0, video=v) for n, v in (("plain", "h264"), ("b", "h264-b"))}
        self.cameras |= {sound: hostile.camera(sound=sound) for sound in SOUNDS}
        self.cameras |= {kind: hostile.camera() for kind in BREAKS}
        self.cameras |= {name: hostile.camera(**settings) for name, settings in SLOW_SOUND.items()}
        self.cameras |= {
            "21-fps": hostile.camera(fps=21, sound=""), "none": hostile.camera(sound=""), "mute": hostile.camera(sounds=False),
            "noise-aac": hostile.camera(garbage_sound=True), "noise-opus": hostile.camera(sound="opus", garbage_sound=True),
            "comes-and-goes": hostile.camera(), "tiny": hostile.camera(video="h264-tiny"), "mid": hostile.camera(mid=True),
        }
        self.whole = {"film": hostile.camera(), "film-h265": hostile.camera(video="h265"), "restless": hostile.camera(sound="")}
        self.udp = {"udp": hostile.camera(video="h264-b", sound="pcma"), "udp-bare": hostile.camera(video="h265", rtp_info=False, sr_s=0.0)}
        crew.start(*self.cameras.values(), wait=False)
        crew.start(*self.whole.values(), segment_s=60, wait=False)
        crew.start(*self.udp.values(), transport="udp", wait=False)
        self.cameras |= self.whole | self.udp
        for camera in self.cameras.values():
            crew.wait(lambda camera=camera: crew.bench.state(camera.name) == "recording" or crew.process(camera).poll() is not None, 40)
        self._order()
        for name, camera in self.cameras.items():
            crew.wait(lambda name=name, camera=camera: crew.process(camera).poll() is not None or self._done(name, camera), 40)
        self.codes = crew.finish(*self.cameras.values())

    def _order(self) -> None:
        """All faults, ten pictures from now."""
        for name, (kind, value) in JUMPS.items():
            self.cameras[name].fault(kind, value, after=10)
        for kind in BREAKS:
            self.cameras[kind].fault(kind, 400 if kind == "garbage" else None, after=10)
        self.cameras["comes-and-goes"].fault("set", {"sounds": False}, after=10)
        self.cameras["comes-and-goes"].fault("set", {"sounds": True}, after=125)
        for name, other, back in (("film", "h264-small", "h264"), ("film-h265", "h265-small", "h265")):
            self.cameras[name].fault("film", other, after=20)
            self.cameras[name].fault("film", back, after=80)
        for number in range(12):
            self.cameras["restless"].fault("film", ("h264-small", "h264")[number % 2], after=10 + 10 * number)

    @staticmethod
    def _done(name: str, camera: Any) -> bool:
        sessions = camera.ledger().sessions
        if name in BREAKS and name not in ("half", "garbage"):
            return len(sessions) > 1 and len(sessions[-1]["pictures"]) > 60
        return sum(len(s["pictures"]) for s in sessions) > ENOUGH + (60 if name == "comes-and-goes" else 0)

    def all_of(self, name: str, tail: int = TAIL) -> Any:
        """What was recorded of a camera: every picture that it sent, once and in order; at the very end some may be missing. One run."""
        camera = self.cameras[name]
        sent, got, sidecars = camera.ledger(), self.crew.recorded(camera), self.crew.sidecars(camera)
        assert got.pictures, f"{name}: nothing was recorded"
        assert len(sent.sessions) == 1 and sent.most == 1, f"{name}: connected again"
        assert got.pictures == sent.pictures()[:len(got.pictures)], name
        assert len(sent.pictures()) - len(got.pictures) <= tail, name
        assert len({s.run for s in sidecars}) == 1, f"{name}: another run"
        for a, b in itertools.pairwise(sidecars):
            assert b.start == a.end and b.seq == a.seq + 1, name
        return got

    def segments(self, name: str) -> list[tuple[Path, Any]]:
        return list(self.crew.bench.segments(self.cameras[name].name))

    def files(self, name: str) -> list[Path]:
        return [path for path, _ in self.segments(name)]


@pytest.fixture(scope="module")
def day(hostile: Any, make_crew: Callable[[], Any]) -> Iterator[Day]:
    yield Day(hostile, make_crew())


def steps(times: list[float]) -> list[float]:
    return [b - a for a, b in itertools.pairwise(times)]


def test_every_worker_outlives_the_day(day: Day) -> None:
    assert {name: code for name, code in zip(day.cameras, day.codes, strict=True) if code} == {}


def test_r_a4_declared_25_delivered_21(day: Day) -> None:
    """The time line of a camera that delivers less than it declares shows no gap."""
    got = day.all_of("21-fps")
    assert all(abs(step - 1 / 21) < 0.001 for step in steps(got.picture_s)[1:])     # the first picture has no timestamp of its own
    assert sum(s.dropped for _, s in day.segments("21-fps")) == 0


def test_r_a4_a_dead_stream_ends_with_its_last_sample(day: Day) -> None:
    last = next(s for _, s in day.segments("drop") if s.end_reason == "camera-lost")
    assert abs(last.end.boot_us - day.cameras["drop"].ledger().last_sent_us(0)) < 250_000
    assert last.frames > 0 and abs(last.dur_us - last.end.us_since(last.start)) < 10_000


@pytest.mark.parametrize("name", [*JUMPS, "bare-plain", "bare-b"])
def test_r_a6_bad_timestamps_stop_nothing(day: Day, name: str) -> None:
    """Timestamps that go back, ahead, stand still, are not there; a reporting clock that is set: every picture is there, in true time,
    sound beside it, and the repair is counted."""
    got, rows = day.all_of(name), day.cameras[name].ledger().sessions[0]["pictures"]
    true_s = (rows[len(got.pictures) - 1][4] - rows[0][4]) / US
    assert abs(got.picture_s[-1] - got.picture_s[0] - true_s) < 0.35
    assert all(0 < step < (0.6 if name == "less" else 0.35) for step in steps(got.picture_s))
    assert all(0 < step < (0.6 if name == "less" else 0.35) for step in steps(got.sound_s))
    assert abs(got.picture_end_s - got.sound_end_s) < 0.35
    if name in ("back", "ahead", "same"):
        assert sum(s.dropped for _, s in day.segments(name)) > 0
    assert sum(s.dropped for _, s in day.segments(name)) < 40


@pytest.mark.parametrize("name", [*SOUNDS, "none", "mute", "noise-aac", "noise-opus"])
def test_r_b1_any_sound_and_none(day: Day, name: str, complaints: Callable[[list[Path]], list[str]]) -> None:
    """Whatever the sound: segments play, with AAC or without sound, and not one picture is missing."""
    got = day.all_of(name)
    if name in ("none", "mute"):
        assert all("audio" not in s.tracks for _, s in day.segments(name)) and not got.sounds
    else:
        assert all(s.tracks["audio"]["codec"] == "aac" for _, s in day.segments(name)[:-1])
    if not name.startswith("noise"):
        assert complaints(day.files(name)[:2] + day.files(name)[-1:]) == []


@pytest.mark.parametrize("name", SOUNDS)
def test_r_b2_sound_is_whole_in_every_segment(day: Day, name: str) -> None:
    """Each declared track has packets, sound steps by 1,024 samples, and ends with the picture."""
    for path, sidecar in day.segments(name):
        got, rate = day.crew.read([path]), int(sidecar.tracks["audio"]["rate_hz"])
        assert got.sounds and all(abs(step - 1024 / rate) < 1.5 / rate for step in steps(got.sound_s))
        if sidecar.end_reason == "rotated":
            assert abs(got.sound_end_s - got.picture_end_s) <= FRAME_S + 1024 / rate + 0.001, got.sound_end_s - got.picture_end_s
    if name.startswith("aac"):
        heard, sent = day.crew.recorded(day.cameras[name]).sounds, day.cameras[name].ledger().sounds()
        assert heard == sent[sent.index(heard[0]):][:len(heard)] and len(sent) - len(heard) <= 3 * TAIL


def test_r_b2_sound_that_goes_and_comes(day: Day, complaints: Callable[[list[Path]], list[str]]) -> None:
    """A microphone that falls out costs no picture, is not declared where it is not, and is recorded again when it is back."""
    day.all_of("comes-and-goes")
    with_sound = [bool(day.crew.read([path]).sounds) for path in day.files("comes-and-goes")]
    assert with_sound[0] and with_sound[-1] and not all(with_sound)
    assert with_sound == ["audio" in s.tracks for _, s in day.segments("comes-and-goes")]
    assert complaints(day.files("comes-and-goes")) == []


@pytest.mark.parametrize("name", SLOW_SOUND)
def test_r_b3_a_sound_clock_one_percent_slow(day: Day, name: str) -> None:
    """It keeps its sound, all of it, at an even step; with sender reports each report puts it where it belongs beside the picture."""
    day.all_of(name)
    for path, _ in day.segments(name):
        got, even = day.crew.read([path]), 0.0003 if name == "slow-sound" else 0.04
        assert got.sounds and all(abs(step - 1024 / 48000) < even for step in steps(got.sound_s))
    heard, sent = day.crew.recorded(day.cameras[name]).sounds, day.cameras[name].ledger().sounds()
    assert heard == sent[sent.index(heard[0]):][:len(heard)]


@pytest.mark.parametrize("name", ["film", "film-h265", "restless"])
def test_r_g2_another_picture(day: Day, name: str, complaints: Callable[[list[Path]], list[str]]) -> None:
    """New parameter sets in mid-stream begin a segment with a new header: all plays, nothing is lost; a restless camera makes few files."""
    got = day.all_of(name)
    assert all(0 < step < 0.2 for step in steps(got.picture_s))
    assert complaints(day.files(name)) == []
    found = [s for _, s in day.segments(name) if s.end_reason in ("format-changed", "stopped")]
    if name == "restless":
        assert 3 <= len(day.segments(name)) <= 8            # six changes a minute make files; a minute's turn one more
        return
    assert [(s.tracks["video"]["width"], s.tracks["video"]["height"]) for s in found] == [(320, 180), (192, 108), (320, 180)]
    assert [s.end_reason for s in found] == ["format-changed", "format-changed", "stopped"]


@pytest.mark.parametrize("kind", BREAKS)
def test_broken_off_and_garbled(day: Day, kind: str, complaints: Callable[[list[Path]], list[str]]) -> None:
    """Half a picture, half a packet, a reset, noise between packets: what came whole before is there, and recording went on."""
    ledger, found = day.cameras[kind].ledger(), day.segments(kind)
    runs = [[path for path, _ in group] for _, group in itertools.groupby(found, key=lambda each: each[1].run)]
    assert ledger.most == 1 and len(runs) == len(ledger.sessions) == (1 if kind in ("half", "garbage") else 2)
    for files, session in zip(runs, ledger.sessions, strict=True):
        got, whole = day.crew.read(files).pictures, [row[0] for row in session["pictures"] if row[5]]
        kept = [picture for picture in got if picture in whole]
        assert kept == sorted(kept, key=whole.index) and len(set(kept)) == len(kept)
        missed = [picture for picture in whole[:whole.index(kept[-1])] if picture not in kept]
        assert len(missed) <= {"half": 2, "garbage": NOISE_TAIL}.get(kind, 0), missed
        assert len(got) - len(kept) <= 1                                                # a torn picture, under a digest of its own
        assert len(whole) - whole.index(kept[-1]) <= (1 if session["how"] == "camera" else TAIL) + 1
    if kind == "drop":
        assert complaints(day.files(kind)) == []


@pytest.mark.parametrize("name", ["udp", "udp-bare"])
def test_udp(day: Day, name: str, complaints: Callable[[list[Path]], list[str]]) -> None:
    day.all_of(name)
    assert day.cameras[name].ledger().sessions[0]["udp"]
    assert complaints(day.files(name)) == []


def test_groups_of_any_length(day: Day, complaints: Callable[[list[Path]], list[str]]) -> None:
    """Every picture a key frame: a file is two seconds long all the same. A camera joined in mid-group: from the key frame on."""
    day.all_of("tiny")
    assert len(day.files("tiny")) <= 2 + ENOUGH * 2 // 50
    got, rows = day.crew.recorded(day.cameras["mid"]).pictures, day.cameras["mid"].ledger().sessions[0]["pictures"]
    first_key = next(number for number, row in enumerate(rows) if row[1])
    assert got == [row[0] for row in rows[first_key:]][:len(got)] and len(rows) - first_key - len(got) <= TAIL
    assert complaints(day.files("tiny") + day.files("mid")) == []
