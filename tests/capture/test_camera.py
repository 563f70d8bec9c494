"""A camera at this PC: every picture once, at the time it was taken; and a camera that goes away, changes or stands still.

There is no V4L2 on this machine: OpenCV and PyAV read real files here through the same classes, and devices that are none are
refused; a real V4L2 device (`vivid`) is recorded, unplugged and replugged in the room-vm rig.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import av
import cv2
import numpy as np
import pytest

from edge.capture import camera
from edge.capture.camera import CvGrabber, EncodedEye, PassedEye, Picture, UsbCamera, begins_picture, formats, frame_of, taken_us
from edge.capture.encoder import TICKS, H264Encoder
from edge.capture.microphone import Ear
from edge.capture.pattern import Pattern, layout, read_digits
from edge.capture.portaudio import Block
from edge.capture.streams import Piece, SourceFault, StreamSpec
from edge.clock import US

SPEC = StreamSpec("usb", "usb", device="/dev/v4l/by-id/usb-none", width=320, height=180, fps=25)
FRAMES = 60


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FRAMES numbered pictures, as MP4 (for OpenCV) and, beside it, as a bare H.264 stream (for PyAV)."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    pattern, encoder = Pattern(SPEC), H264Encoder(320, 180, 25)
    with av.open(str(path), "w") as file:
        stream = file.add_stream_from_template(encoder.track().template)
        for number in range(FRAMES):
            for packet in encoder.turn(pattern._picture(number)):
                packet.stream = stream
                file.mux_one(packet)
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-i", path, "-c", "copy", "-f", "h264", path.with_suffix(".h264")], check=True,
                   timeout=30)
    return path


def cv_eye(path: Path) -> Callable[[StreamSpec], EncodedEye]:
    """OpenCV's own way into a file, behind the class that reads cameras."""
    return lambda spec: EncodedEye(CvGrabber(cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), str(path)), spec.fps)


def run(source: UsbCamera) -> tuple[list[Piece], SourceFault]:
    """A whole run, and what ended it."""
    pieces: list[Piece] = []
    source.open()
    try:
        with pytest.raises(SourceFault) as fault:
            pieces.extend(source.pieces())
    finally:
        source.close()
    return pieces, fault.value


def numbers(pieces: list[Piece], extradata: bytes | None) -> list[int]:
    """The numbers in the pictures of track 0."""
    decoder = av.CodecContext.create("h264", "r")
    decoder.extradata = extradata
    frames = [frame for piece in pieces if piece.track == 0 for frame in decoder.decode(piece.packet)] + list(decoder.decode(None))
    size, _, number_at = layout(320, 180)
    return [int(read_digits(frame.to_ndarray(format="gray8").astype(np.uint8), number_at, size)) for frame in frames]


@pytest.mark.parametrize("way", ["encoded here", "the camera's own H.264"])
def test_every_picture_comes_once_and_in_order(clip: Path, way: str) -> None:
    eye = cv_eye(clip) if way == "encoded here" else lambda _: PassedEye(av.open(str(clip.with_suffix(".h264"))))
    source = UsbCamera(SPEC, eye)
    track, = source.open()
    assert (track.kind, track.codec, track.width, track.height) == ("video", "h264", 320, 180)
    source.close()
    pieces, fault = run(source)
    assert numbers(pieces, track.extradata) == list(range(FRAMES))
    assert pieces[0].packet.is_keyframe
    assert np.diff([piece.packet.dts or 0 for piece in pieces]).min() > 0
    assert fault.end_reason == "device-lost"
    assert source.sync is None


def test_key_frames_of_the_cameras_own_stream_are_found(clip: Path) -> None:
    source = UsbCamera(SPEC, lambda _: PassedEye(av.open(str(clip.with_suffix(".h264")))))
    pieces, _ = run(source)
    assert [n for n, piece in enumerate(pieces) if piece.packet.is_keyframe] == [0, 25, 50]
    assert not begins_picture(b"") and not begins_picture(b"\0\0\1")


def test_a_run_can_be_opened_again(clip: Path) -> None:
    """The device is let go of, so the same object finds it again when it is back."""
    source = UsbCamera(SPEC, cv_eye(clip))
    for _ in range(2):
        pieces, _ = run(source)
        assert len(pieces) == FRAMES


def test_a_camera_that_stops_and_one_that_is_gone(clip: Path, tmp_path: Path) -> None:
    """OpenCV says the same of both; the path tells them apart."""
    path = tmp_path / "by-id"
    shutil.copy(clip, path)
    assert run(UsbCamera(SPEC, cv_eye(path)))[1].reason == "frozen"
    source = UsbCamera(SPEC, cv_eye(path))
    source.open()
    path.unlink()
    with pytest.raises(SourceFault) as fault:
        list(source.pieces())
    assert (fault.value.end_reason, fault.value.reason) == ("device-lost", "camera-gone")
    source.close()


@pytest.mark.parametrize(("device", "reason"), [("/dev/v4l/by-id/usb-none", "no-camera"), ("/dev/null", "no-picture")])
def test_what_is_no_camera_is_refused(device: str, reason: str) -> None:
    source = UsbCamera(StreamSpec("usb", "usb", device=device))
    with pytest.raises(SourceFault) as fault:
        source.open()
    assert (fault.value.end_reason, fault.value.reason) == ("device-lost", reason)
    source.close()


def test_a_terminal_is_no_camera() -> None:
    """A device that knows other requests."""
    master, slave = os.openpty()
    try:
        assert formats(os.ttyname(slave)) == ()
    finally:
        os.close(master)
        os.close(slave)


# ---- a simulated camera: pictures at any time, in any size --------------------------------------------------------------------

class SimCamera:
    """A Grabber of simulated time: (boot microsecond, height, width) of each picture, then it is gone."""

    def __init__(self, taken: list[tuple[int, int, int]]) -> None:
        self._taken = iter(taken)
        self.size = (taken[0][2], taken[0][1])
        self.closed = False

    def read(self) -> tuple[Picture, int]:
        for at_us, height, width in self._taken:
            return np.full((height, width, 3), at_us // 40_000 % 200, dtype=np.uint8), at_us
        raise SourceFault("device-lost", "camera-gone")

    def close(self) -> None:
        self.closed = True


class SimEar:
    """Hearing of simulated time: blocks of a tone up to the picture's time, with holes [from, to) in seconds."""

    def __init__(self, grabbed: Callable[[], int], rate_hz: int, holes_s: tuple[tuple[float, float], ...] = ()) -> None:
        self._grabbed, self._rate, self._holes, self._at, self._away = grabbed, rate_hz, holes_s, 0, True

    def blocks(self) -> list[Block]:
        blocks: list[Block] = []
        count = self._rate // 10
        while (self._at + count) / self._rate * US <= self._grabbed():
            began_s = self._at / self._rate
            self._at += count
            if any(start <= began_s < end for start, end in self._holes):
                self._away = True
                continue
            tone = (3000 * np.sin(2 * np.pi * 440 * np.arange(count) / self._rate)).astype(np.int16)
            blocks.append(Block(tone.tobytes(), round(self._at / self._rate * US), opened=self._away))
            self._away = False
        return blocks

    def close(self) -> None:
        pass


def test_r_a4_a_camera_that_promises_25_and_delivers_21_is_recorded_truly() -> None:
    rng = np.random.default_rng(21)
    taken = (np.cumsum(rng.normal(1 / 21, 0.006, 21 * 20).clip(0.01)) * US + 5e9).astype(int).tolist()
    source = UsbCamera(SPEC, lambda spec: EncodedEye(SimCamera([(at, 180, 320) for at in taken]), spec.fps))
    pieces, _ = run(source)
    assert [piece.arrived_us for piece in pieces] == taken, "nothing is lost, doubled or evened"
    assert np.abs(np.array([piece.packet.pts for piece in pieces]) / TICKS * US - taken).max() <= US / TICKS
    keys = [piece.arrived_us for piece in pieces if piece.packet.is_keyframe]
    assert np.abs(np.diff(keys) - US).max() < 0.1 * US
    assert source.repairs == 0


@pytest.mark.parametrize(("height", "width"), [(180, 320), (182, 322), (181, 321)])
def test_colours_and_edges_come_through(height: int, width: int) -> None:
    """Left half red, right half blue, in any size."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[:, :width // 2], picture[:, width // 2:] = (0, 0, 200), (200, 0, 0)
    back = frame_of(picture).to_ndarray(format="bgr24").astype(int)
    assert back.shape == (height, width, 3)
    inside = 8
    assert np.abs(back[:, :width // 2 - inside] - (0, 0, 200)).max() < 6
    assert np.abs(back[:, width // 2 + inside:] - (200, 0, 0)).max() < 6


def test_times_that_do_not_rise_are_mended_and_counted() -> None:
    taken = [1_000_000, 1_040_000, 1_040_000, 1_030_000, 1_080_000]
    source = UsbCamera(SPEC, lambda spec: EncodedEye(SimCamera([(at, 180, 320) for at in taken]), spec.fps))
    source.open()
    stamps = []
    with pytest.raises(SourceFault):
        for piece in source.pieces():
            stamps.append(piece.packet.pts)
            repairs = source.repairs
    assert stamps == [90_000, 93_600, 93_601, 93_602, 97_200]
    assert repairs == 2
    source.close()


def test_a_camera_that_changes_its_size_ends_the_run() -> None:
    device = SimCamera([(1_000_000, 180, 320), (1_040_000, 240, 320)])
    pieces, fault = run(UsbCamera(SPEC, lambda spec: EncodedEye(device, spec.fps)))
    assert len(pieces) == 1
    assert (fault.end_reason, fault.reason) == ("device-lost", "picture-changed")
    assert device.closed


def test_the_kernels_stamp_is_taken_if_it_can_be_one() -> None:
    boot, monotonic = (time.clock_gettime_ns(clock) // 1000 for clock in (time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC))
    ago_us = 60_000
    assert taken_us(monotonic - ago_us) == pytest.approx(boot - ago_us, abs=20_000)
    for other in (0, time.time_ns() // 1000, monotonic - 3_600 * US, monotonic + 2 * US):   # none, wall clock, another clock, the future
        assert taken_us(other) == pytest.approx(boot, abs=50_000)


def with_sound(holes_s: tuple[tuple[float, float], ...], seconds: int) -> tuple[list[Piece], UsbCamera]:
    seen = [0]

    class Watched(SimCamera):
        def read(self) -> tuple[Picture, int]:
            picture, seen[0] = super().read()
            return picture, seen[0]

    spec = StreamSpec("usb", "usb", device="x", sound="mic", width=320, height=180, fps=5, rate_hz=16000)
    taken = [(US + n * 200_000, 180, 320) for n in range(seconds * 5)]
    source = UsbCamera(spec, lambda spec: EncodedEye(Watched(taken), spec.fps), lambda spec: SimEar(lambda: seen[0], 16000, holes_s))
    return run(source)[0], source


def test_a_microphone_that_dies_does_not_stop_the_picture() -> None:
    pieces, source = with_sound(((10, 30),), 40)
    picture = [piece.arrived_us for piece in pieces if piece.track == 0]
    sound = np.array([piece.arrived_us for piece in pieces if piece.track == 1])
    assert len(picture) == 200
    hole, = np.flatnonzero(np.diff(sound) > US)
    assert sound[hole] / US == pytest.approx(10, abs=0.15)
    assert sound[hole + 1] / US == pytest.approx(30, abs=0.15), "it goes on at its place in the same time"
    assert source.repairs == 1
    assert source.sync is not None and source.sync.overruns == 1


def test_a_camera_with_a_microphone_that_is_not_there_gives_its_picture() -> None:
    pieces, source = with_sound(((0, 999),), 4)
    assert [piece.track for piece in pieces] == [0] * 20
    assert source.sync is not None and source.repairs == 0


def test_no_sound_comes_from_before_the_first_picture() -> None:
    pieces, _ = with_sound((), 3)
    assert min(piece.arrived_us for piece in pieces if piece.track == 1) >= US


# ---- a real microphone beside the picture ------------------------------------------------------------------------------------

class PacedCamera:
    """A Grabber of real time, 10 a second."""

    size = (160, 90)

    def read(self) -> tuple[Picture, int]:
        time.sleep(0.1)
        return np.zeros((90, 160, 3), dtype=np.uint8), time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000

    def close(self) -> None:
        pass


def pieces_of(source: UsbCamera, until: Callable[[list[Piece]], Any], seconds: float = 20) -> list[Piece]:
    """From a source in real time, until what came is enough."""
    end, pieces = time.monotonic() + seconds, []
    for piece in source.pieces():
        pieces.append(piece)
        if until(pieces):
            return pieces
        assert time.monotonic() < end, "waited in vain"
    return pieces


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["sounddevice", "pyaudio"])
def test_a_sound_server_that_dies_and_comes_back(sound_card: Path, driver: Literal["sounddevice", "pyaudio"],
                                                  caplog: pytest.LogCaptureFixture) -> None:
    """The picture never waits; the sound is there, is gone, and is there again."""
    rig = Path(__file__).parents[1] / "rigs" / "sound-card"
    caplog.set_level(logging.INFO, "edge.capture.microphone")
    spec = StreamSpec("usb", "usb", device="x", sound="default", fps=10, rate_hz=16000, driver=driver)
    source = UsbCamera(spec, lambda spec: EncodedEye(PacedCamera(), spec.fps), Ear)
    source.open()
    try:
        first = pieces_of(source, lambda pieces: sum(piece.track for piece in pieces) > 8)
        shell = (sound_card / "pid").read_text().strip()
        server = subprocess.run(["pgrep", "-P", shell], capture_output=True, text=True, check=True).stdout.split()[0]
        os.kill(int(server), signal.SIGKILL)
        away = pieces_of(source, lambda _: "sound lost" in caplog.text)
        subprocess.run([rig, "start", sound_card], check=True, capture_output=True, timeout=30)
        back = pieces_of(source, lambda pieces: sum(piece.track for piece in pieces) > 4, 30)
    finally:
        source.close()
    picture = np.array([piece.arrived_us for piece in [*first, *away, *back] if piece.track == 0])
    assert np.diff(picture).max() < 0.5 * US
    sound = np.array([piece.packet.dts for piece in [*first, *away, *back] if piece.track == 1])
    assert np.all(np.diff(sound) > 0)
    assert source.repairs == 1


def test_r_s3_a_wall_clock_that_steps_moves_nothing(sound_card: Path, tmp_path: Path) -> None:
    """R-S3: ±5 s in mid-recording, in the process that records; picture (real time) and sound (a real sound path) go on evenly."""
    rig = Path(__file__).parents[1] / "rigs" / "wallshift.c"
    library, shift = tmp_path / "wallshift.so", tmp_path / "shift"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", library, rig, "-ldl"], check=True, timeout=60)
    shift.write_text("0")
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True, cwd=Path(camera.__file__).parents[2],
                               env={**os.environ, "LD_PRELOAD": str(library), "WALLSHIFT_FILE": str(shift), "PYTHONPATH": "."})
    assert process.stdout is not None
    rows: list[tuple[int, int, float]] = []     # track, boot microseconds, wall seconds in the process
    steps = {40: "5", 70: "-5"}
    try:
        for line in process.stdout:
            track, boot, wall = line.split()
            rows.append((int(track), int(boot), float(wall)))
            heard = sum(row[0] for row in rows)
            if heard in steps:
                shift.write_text(steps.pop(heard))
            if heard > 100:
                break
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    walls = np.array([wall for *_, wall in rows])
    assert np.diff(walls).max() > 4 and np.diff(walls).min() < -4, "the wall clock did step"
    sound = np.array([boot for track, boot, _ in rows if track == 1])
    assert set(np.diff(sound).tolist()) <= {21_333, 21_334}, "one AAC frame after the other"
    assert np.diff([boot for track, boot, _ in rows if track == 0]).max() < 0.5 * US


def _main() -> Iterator[None]:
    """As a program: picture and sound of this machine, a line each."""
    spec = StreamSpec("usb", "usb", device="x", sound="default", fps=10, rate_hz=48000)
    source = UsbCamera(spec, lambda spec: EncodedEye(PacedCamera(), spec.fps))
    source.open()
    for piece in source.pieces():
        print(piece.track, piece.arrived_us, time.time(), flush=True)
        yield


if __name__ == "__main__":
    for _ in _main():
        pass
