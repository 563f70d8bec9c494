"""A camera for the watcher's tests: real segments by the recorder's own muxer and files, of a room that is painted and hums.

Whole fragments reach the disk as they become ready, so a test can look in between. Nothing here waits for time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.codec.context import Flags
from numpy.typing import NDArray

from edge.capture.muxer import Muxer
from edge.capture.segments import End, SegmentFile, publish
from edge.capture.sidecar import Opening, Sidecar
from edge.capture.sound import AacEncoder
from edge.capture.streams import Track
from edge.clock import US, SimClock

Picture = NDArray[np.uint8]
Wave = NDArray[np.float32]
RATE = 48000
LEAD_US = US
"""A run's media time begins at one second, as the recorder's does."""


class Room:
    """A furnished room with people in it, seen by a camera whose sensor is noisy. Pictures are luma, 16 to 235."""

    def __init__(self, width: int = 640, height: int = 360, seed: int = 1) -> None:
        self.width, self.height = width, height
        self._dice = np.random.default_rng(seed)
        wide = np.full((height * 2, width * 2), 150, np.uint8)
        for _ in range(120):                # walls, tables, cabinets: wider than what is seen, so that the camera can be turned
            x, y = int(self._dice.integers(0, width * 2)), int(self._dice.integers(0, height * 2))
            w, h = int(self._dice.integers(width // 16, width // 3)), int(self._dice.integers(height // 16, height // 3))
            cv2.rectangle(wide, (x, y), (x + w, y + h), int(self._dice.integers(40, 210)), -1 if self._dice.random() < 0.7 else 2)
        self._wide = wide

    def still(self, t: float, turned: int = 0) -> Picture:
        """Without noise; `turned`: pixels that the camera was moved to the right."""
        x, y = self.width // 2 + turned, self.height // 2
        picture: Picture = self._wide[y:y + self.height, x:x + self.width].copy()
        for n in range(4):
            at = int(self.width * (0.2 + 0.2 * n) + 12 * np.sin(t + n)), int(self.height * 0.7)
            cv2.ellipse(picture, at, (self.width // 24, self.height // 8), 0, 0, 360, 70 + 30 * n, -1)
        return picture

    def noisy(self, picture: Picture, sigma: float = 4.0) -> Picture:
        noise: Any = np.empty(picture.shape, np.int16)
        cv2.randn(noise, np.zeros(1), np.full(1, sigma))
        return np.asarray(np.clip(picture.astype(np.int16) + noise, 16, 235), np.uint8)

    def seen(self, t: float) -> Picture:
        """All is well."""
        return self.noisy(self.still(t))


def hum(start: int, count: int, peak: float = 0.1) -> Wave:
    return (peak * np.sin(2 * np.pi * 440 * (start + np.arange(count)) / RATE)).astype(np.float32)


def silence(start: int, count: int) -> Wave:
    return np.zeros(count, np.float32)


class Camera:
    """One stream's recording, in the order of the worker: `open`, `shoot` as often as wanted, `seal`; then `open` again."""

    def __init__(self, folder: Path, clock: SimClock, *, fps: int = 5, gop: int = 5, size: tuple[int, int] = (640, 360),
                 picture: bool = True, sound: bool = True, codec: str = "libx264", options: dict[str, str] | None = None) -> None:
        self.folder, self.clock, self.fps = folder, clock, fps
        self._holder = av.open(os.devnull, "w", format="null")
        self._tracks: list[Track] = []
        self._video: Any = None
        if picture:
            name = {"libx264": "h264", "libx265": "hevc"}[codec]
            extra = {"x265-params": "log-level=none"} if codec == "libx265" else {}
            options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "28"} | extra | (options or {})
            self._video = self._holder.add_stream(codec, rate=fps, options=options)
            context = self._video.codec_context
            context.width, context.height, context.pix_fmt, context.gop_size = *size, "yuv420p", gop
            context.time_base, context.thread_count = Fraction(1, 90000), 1
            context.flags |= Flags.global_header
            self._holder.start_encoding()
            self._tracks.append(Track("video", "h265" if name == "hevc" else "h264", self._video, name, context.extradata, *size))
        self._sound = AacEncoder(RATE) if sound else None
        if self._sound:
            self._tracks.append(self._sound.track())
        self.run, self.seq = "ab" * 16, 0
        self.frames = self._heard = 0
        self._muxer: Muxer | None = None
        self._file: SegmentFile | None = None
        self._opening: Opening | None = None
        self._first = clock.now()

    @property
    def media_us(self) -> int:
        """Of the next frame."""
        return LEAD_US + self.frames * US // self.fps

    @property
    def path(self) -> Path:
        assert self._file is not None
        return self._file.path

    def open(self, *, with_sound: bool = True) -> None:
        """A new segment begins with the next frame (a key frame)."""
        start = self._first.plus(self.media_us - LEAD_US)
        codec = "+".join(track.codec for track in self._tracks if with_sound or track.kind == "video")
        self._opening = Opening(self.folder.name, self.seq, self.run, start, self.media_us, codec, "synced")
        self.seq += 1
        self._leave()
        self._muxer = Muxer([t if with_sound or t.kind == "video" else None for t in self._tracks], self._fragment)

    def _fragment(self, fragment: bytes, times: Any) -> None:
        assert self._muxer is not None and self._opening is not None
        if self._file is None:
            self._file = SegmentFile(self.folder, self._opening, self._muxer.header, self._muxer.tracks)
        self._file.write(fragment, times)

    def shoot(self, seconds: float, paint: Callable[[float], Picture], sound: Callable[[int, int], Wave] = hum) -> None:
        """Record what `paint(t)` shows and `sound(first sample, samples)` gives. The clock goes with it."""
        for _ in range(round(seconds * self.fps)):
            t = self.frames / self.fps
            if self._video is not None:
                luma = paint(t)
                frame = av.VideoFrame.from_ndarray(np.concatenate([luma, np.full((luma.shape[0] // 2, luma.shape[1]), 128, np.uint8)]),
                                                   format="yuv420p")
                frame.pts, frame.time_base = self.media_us * 90000 // US, Fraction(1, 90000)
                for packet in self._video.encode(frame):
                    packet.time_base, packet.duration = Fraction(1, 90000), 90000 // self.fps
                    self._put(0, packet)
            self.frames += 1
            if self._sound is not None:
                self._hear(sound)
            now = self.clock.now()
            self.clock._now = now.plus(self._first.boot_us + self.media_us - LEAD_US - now.boot_us)

    def _hear(self, sound: Callable[[int, int], Wave]) -> None:
        count = RATE // self.fps
        block = av.AudioFrame.from_ndarray(sound(self._heard, count).reshape(1, -1), format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = RATE, LEAD_US * RATE // US + self._heard, Fraction(1, RATE)
        self._heard += count
        assert self._sound is not None
        for packet in self._sound.turn(block):
            self._put(len(self._tracks) - 1, packet)

    def _put(self, track: int, packet: Any) -> None:
        if self._muxer is not None and self._muxer.has(track):
            self._muxer.mux(track, packet)

    def seal(self, reason: str = "rotated") -> Sidecar:
        """The segment is over and its sidecar lies beside it."""
        assert self._muxer is not None
        self._muxer.close()
        assert self._file is not None
        sidecar = self._file.seal(End(None, None, reason, 0))
        assert sidecar is not None
        publish(self._file.path, sidecar)
        self._muxer = None
        return sidecar

    def close(self) -> None:
        """Let go of what was left open, as a killed worker does."""
        self._holder.close()
        self._leave()

    def _leave(self) -> None:
        if self._file is not None:
            self._file._file.close()
        self._file = None

    def film(self, seconds: float, paint: Callable[[float], Picture], sound: Callable[[int, int], Wave] = hum) -> Path:
        """A whole segment."""
        self.open()
        self.shoot(seconds, paint, sound)
        self.seal()
        return self.path


@pytest.fixture
def new_camera(tmp_path: Path) -> Iterator[Callable[..., Camera]]:
    """Makes cameras that record into `tmp_path/cam` (or `folder`), with a clock of their own (or `clock`)."""
    made: list[Camera] = []

    def make(folder: Path | None = None, clock: SimClock | None = None, **how: Any) -> Camera:
        made.append(Camera(folder or tmp_path / "cam", clock or SimClock(), **how))
        return made[-1]

    yield make
    for each in made:
        each.close()
