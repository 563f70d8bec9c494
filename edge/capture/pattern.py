"""A source like any other, without hardware: colour bars, a clock that moves, a 440-Hz tone. The demo and the tests record it.

Picture: H.264 (x264 veryfast, zerolatency) with a key frame each second; sound: AAC, 16 kHz, mono. The clock is the room's local
wall time HH:MM:SS and, below it, the number of the frame, in digits of a bitmap font drawn by NumPy (`read_digits` reads them
back). Paced by the boot clock; frames that come more than two seconds late (a stopped process) are left out and counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt

from edge.capture.encoder import TICKS, H264Encoder
from edge.capture.sound import AacEncoder
from edge.capture.streams import Piece, StreamSpec, Sync, Track
from edge.clock import US

TONE_HZ = 440
TONE_PEAK = 0.25
"""-12 dBFS."""
SOUND_HZ = 16000
LATE_US = 2 * US

GLYPHS = {      # 5 wide, 7 high; one row per number, its top bit at the left
    "0": (14, 17, 19, 21, 25, 17, 14), "1": (4, 12, 4, 4, 4, 4, 14), "2": (14, 17, 1, 6, 8, 16, 31), "3": (31, 2, 4, 2, 1, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2), "5": (31, 16, 30, 1, 1, 17, 14), "6": (6, 8, 16, 30, 17, 17, 14), "7": (31, 1, 2, 4, 8, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14), "9": (14, 17, 17, 15, 1, 2, 12), ":": (0, 4, 0, 0, 0, 4, 0),
}
CELL = 6            # columns a character takes, one of them empty
ROWS = 7
BARS = ((235, 128, 128), (210, 16, 146), (170, 166, 16), (145, 54, 34), (106, 202, 222), (81, 90, 240), (41, 240, 110))
"""75 % bars as (Y, Cb, Cr), left to right: white, yellow, cyan, green, magenta, red, blue (ITU-R BT.601 values, rounded)."""

Plane = npt.NDArray[np.uint8]


def text_mask(text: str) -> npt.NDArray[np.bool_]:
    """The text as lit dots, ROWS high and CELL wide each."""
    dots = np.zeros((ROWS, CELL * len(text)), dtype=np.bool_)
    for place, sign in enumerate(text):
        for row, bits in enumerate(GLYPHS[sign]):
            for column in range(5):
                dots[row, place * CELL + column] = bits >> (4 - column) & 1
    return dots


def layout(width: int, height: int) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """(dots' size in pixels, (top, left) of the clock, (top, left) of the frame number); eight characters each."""
    size = max(1, min(width // (CELL * 8 + 4), height // (ROWS * 2 + 8)))
    left = (width - CELL * 8 * size) // 2
    return size, (height // 2 - (ROWS + 1) * size, left), (height // 2 + size, left)


def read_digits(luma: Plane, top_left: tuple[int, int], size: int, count: int = 8) -> str:
    """Read `count` characters back from a decoded picture's luma: the nearest glyph each."""
    top, left = top_left
    read = ""
    for place in range(count):
        at = left + place * CELL * size
        box = luma[top:top + ROWS * size, at:at + 5 * size].reshape(ROWS, size, 5, size).mean(axis=(1, 3)) > 128
        read += min(GLYPHS, key=lambda sign: int((text_mask(sign)[:, :5] != box).sum()))
    return read


class Pattern:
    """The source. `open` cannot fail."""

    def __init__(self, spec: StreamSpec) -> None:
        self._width, self._height, self._fps = spec.width // 2 * 2, spec.height // 2 * 2, spec.fps
        self._planes = self._bars()
        self.repairs = 0

    @property
    def sync(self) -> Sync | None:
        return None

    def open(self) -> tuple[Track, ...]:
        self.repairs = 0
        self._video, self._sound = H264Encoder(self._width, self._height, self._fps), AacEncoder(SOUND_HZ)
        return self._video.track(), self._sound.track()

    def pieces(self) -> Iterator[Piece]:
        began, number, sounded = _boot_us(), 0, 0
        while True:
            due = began + number * US // self._fps
            wait = due - _boot_us()
            if wait > 0:
                time.sleep(wait / US)
            elif wait < -LATE_US:
                skipped = -wait * self._fps // US
                self.repairs += skipped
                number += skipped
                continue
            for packet in self._video.turn(self._picture(number)):
                yield Piece(0, packet, due)
            upto = (number + 1) * SOUND_HZ // self._fps
            for packet in self._sound.turn(self._tone(sounded, upto)):
                yield Piece(1, packet, due)
            number, sounded = number + 1, upto

    def close(self) -> None:
        """Nothing to give back."""

    def _bars(self) -> tuple[Plane, Plane, Plane]:
        columns = np.arange(self._width) * len(BARS) // self._width
        bars = np.array(BARS, dtype=np.uint8)
        luma = np.repeat(bars[columns, 0][None, :], self._height, axis=0)
        half = columns[::2]
        return luma, *(np.repeat(bars[half, i][None, :], self._height // 2, axis=0) for i in (1, 2))  # type: ignore[return-value]

    def _picture(self, number: int) -> av.VideoFrame:
        luma, cb, cr = self._planes[0].copy(), *(p.copy() for p in self._planes[1:])
        size, clock_at, number_at = layout(self._width, self._height)
        top, left, right = (clock_at[0] - 2 * size) // 2 * 2, (clock_at[1] - 2 * size) // 2 * 2, clock_at[1] + (CELL * 8 + 1) * size
        bottom = number_at[0] + (ROWS + 2) * size
        luma[max(0, top):bottom, max(0, left):right] = 16
        for plane in (cb, cr):
            plane[max(0, top // 2):bottom // 2, max(0, left // 2):right // 2] = 128
        for text, (y, x) in ((time.strftime("%H:%M:%S"), clock_at), (f"{number % 10**8:08d}", number_at)):
            lit = np.kron(text_mask(text), np.ones((size, size), dtype=np.bool_))
            luma[y:y + lit.shape[0], x:x + lit.shape[1]][lit] = 235
        planes = np.concatenate([luma.ravel(), cb.ravel(), cr.ravel()]).reshape(-1, self._width)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts = number * TICKS // self._fps
        return frame

    @staticmethod
    def _tone(start: int, end: int) -> av.AudioFrame:
        wave = TONE_PEAK * np.sin(2 * np.pi * TONE_HZ * np.arange(start, end) / SOUND_HZ)
        block = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None, :], format="s16", layout="mono")
        block.sample_rate, block.pts, block.time_base = SOUND_HZ, start, Fraction(1, SOUND_HZ)
        return block


def _boot_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
