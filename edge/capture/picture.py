"""What a key frame shows: figures that tell a good picture from a black, covered, blurred, moved, frozen or over-exposed one.

Each picture is decoded alone (7 ms of one core for 1080p with everything below), scaled to 320 x 180 grey by the area of its pixels and
measured there: small enough that noise and compression do not count, large enough for a chair's edge. The reference is such a grey
picture, kept beside the camera's footage. Called by watch; the figures are judged by alarms.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.packet import Packet
from numpy.typing import NDArray

from edge import durable
from edge.capture.alarms import detail
from edge.capture.boxes import TrackHeader
from edge.capture.watchnote import PictureFigures
from edge.clock import iso_utc

Grey = NDArray[np.uint8]
WIDTH, HEIGHT = 320, 180
STILL_WIDTH, STILL_QUALITY = 640, 80
BRIGHT = 230
"""White is 235 in the range that nearly all cameras use."""
EDGES = 1.5, 3.75
"""Canny's thresholds, in units of the picture's own spread (60 and 150 at 40): outlines of furniture, by day and by dim light alike."""
NEAR = np.ones((5, 5), np.uint8)
"""An edge is still there if one is found within two pixels."""
DECODERS = {"h264": "h264", "h265": "hevc"}
PLANAR = ("yuv420p", "yuvj420p")

cv2.setNumThreads(1)


class NoPicture(Exception):
    """The decoder made no picture of it."""


FAULTS = (NoPicture, av.error.FFmpegError, cv2.error, ValueError, RuntimeError)
"""What the functions here raise on footage that is not what it says."""


def decode(track: TrackHeader, data: bytes) -> av.VideoFrame:
    """The picture of one key frame, by a decoder of its own: nothing of an earlier picture is carried over. NoPicture if there is none."""
    context: Any = av.CodecContext.create(DECODERS[track.codec], "r")
    context.thread_count = 1
    context.extradata = track.setup or None
    try:
        frames = [*context.decode(Packet(data)), *context.decode(None)]
    except (av.error.FFmpegError, ValueError) as error:
        raise NoPicture(type(error).__name__) from error
    if not frames or not isinstance(frames[-1], av.VideoFrame):
        raise NoPicture("nothing came out")
    return frames[-1]


def grey(frame: av.VideoFrame) -> Grey:
    """Its luma as coded, 180 x 320."""
    if frame.format.name not in PLANAR:
        frame = frame.reformat(format="yuv420p")
    return _scaled(_plane(frame, 0), WIDTH, HEIGHT)


def still(frame: av.VideoFrame) -> bytes:
    """A JPEG of it, at most 640 pixels wide (even sides)."""
    width = min(STILL_WIDTH, frame.width) // 4 * 4
    height = max(4, round(frame.height * width / frame.width) // 4 * 4)
    if frame.format.name not in PLANAR:
        frame = frame.reformat(format="yuv420p")
    planes = [_scaled(_plane(frame, n), width // d, height // d) for n, d in ((0, 1), (1, 2), (2, 2))]
    colours = cv2.cvtColor(np.concatenate([p.ravel() for p in planes]).reshape(height * 3 // 2, width), cv2.COLOR_YUV2BGR_I420)
    done, jpeg = cv2.imencode(".jpg", colours, [cv2.IMWRITE_JPEG_QUALITY, STILL_QUALITY])
    if not done:
        raise NoPicture("no JPEG")
    return bytes(jpeg)


def _plane(frame: av.VideoFrame, number: int) -> Grey:
    plane: Any = frame.planes[number]       # PyAV's type does not say that it is a buffer
    rows: Grey = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[:plane.height, :plane.width]
    return rows


def _scaled(plane: Grey, width: int, height: int) -> Grey:
    return np.asarray(cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def sharpness_x100(picture: Grey) -> int:
    """Variance of the Laplacian, after a slight blur that takes away most of the sensor's noise."""
    return round(100 * float(cv2.Laplacian(cv2.GaussianBlur(picture, (3, 3), 0), cv2.CV_16S).var()))


class Reference:
    """How the camera looked when all was well: the file `reference.png` in the stream's folder, read again when it changes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "reference.png"
        self._read_ns = 0
        self._window = cv2.createHanningWindow((WIDTH, HEIGHT), cv2.CV_32F)
        self._flat: NDArray[np.float32] | None = None
        self._edges: Grey | None = None
        self.detail: float | None = None        # sharpness for its contrast, as alarms.detail

    def __bool__(self) -> bool:
        return self._flat is not None

    def refresh(self) -> None:
        """Read the file if it is new. A file that is no such picture counts as none, and is left alone."""
        try:
            changed = self.path.stat().st_mtime_ns
        except OSError:
            self._flat, self._edges, self.detail, self._read_ns = None, None, None, 0
            return
        if changed != self._read_ns:
            self._read_ns = changed
            found = cv2.imread(str(self.path), cv2.IMREAD_GRAYSCALE)
            self._take(np.asarray(found, np.uint8) if found is not None and found.shape == (HEIGHT, WIDTH) else None)

    def keep(self, picture: Grey) -> bool:
        """Make it the reference, durably. False if there is one (whatever it is). OSError: the disk's."""
        done, png = cv2.imencode(".png", picture)
        try:
            if done:
                durable.write_new(self.path, bytes(png))
        except FileExistsError:
            return False
        return bool(done)

    def _take(self, picture: Grey | None) -> None:
        self._flat = None if picture is None else np.asarray(picture, np.float32)
        self._edges = None if picture is None else _edges(picture)
        self.detail = None if picture is None else detail(sharpness_x100(picture), round(100 * float(picture.std())))

    def compare(self, picture: Grey) -> tuple[int | None, int | None, int | None, int | None, int | None]:
        """(shift x, shift y, match, kept, met) as in PictureFigures; all None without a reference, or if the picture shows nothing."""
        if self._flat is None or self._edges is None or not float(picture.std()):
            return None, None, None, None, None
        (x, y), match = cv2.phaseCorrelate(self._flat, np.asarray(picture, np.float32), self._window)
        near = np.asarray(cv2.dilate(_edges(picture), NEAR), np.uint8)
        return round(100 * x), round(100 * y), round(10000 * match), _found(self._edges, near), _met(self._edges, near, round(x), round(y))


def renew(folder: Path, utc_us: int) -> Path | None:
    """Put a stream's reference aside under a name with the time; the watcher makes a new one. None: there was none."""
    path = folder / "reference.png"
    if not path.exists():
        return None
    kept = path.with_name(f"reference-until-{iso_utc(utc_us)[:19].translate(str.maketrans('', '', '-:'))}Z.png")
    durable.rename(path, kept)
    return kept


def _edges(picture: Grey) -> Grey:
    low, high = (each * max(8.0, float(picture.std())) for each in EDGES)       # below 8 there is only noise to find
    return np.asarray(cv2.Canny(cv2.GaussianBlur(picture, (3, 3), 0), low, high), np.uint8)


def _found(edges: Grey, near: Grey) -> int:
    """Share of the edges that lie in `near`, in hundredths of a per cent; none at all are all there."""
    marks = cv2.countNonZero(edges)
    return round(10000 * cv2.countNonZero(cv2.bitwise_and(edges, near)) / marks) if marks else 10000


def _met(edges: Grey, near: Grey, x: int, y: int) -> int:
    """The same for edges shifted by so many pixels, where both pictures show the place; 0 if they share less than half."""
    if abs(x) > WIDTH // 2 or abs(y) > HEIGHT // 2:
        return 0
    there = edges[max(0, -y):HEIGHT - max(0, y), max(0, -x):WIDTH - max(0, x)]
    return _found(there, near[max(0, y):HEIGHT + min(0, y), max(0, x):WIDTH + min(0, x)])


def measure(media_us: int, picture: Grey, before: Sequence[Grey], reference: Reference) -> PictureFigures:
    """The figures of one picture, `before` being the key frames before it, newest last."""
    mean, spread = cv2.meanStdDev(picture)
    bright = cv2.countNonZero(cv2.inRange(picture, BRIGHT, 255))
    changed = min((int(cv2.countNonZero(cv2.absdiff(picture, each))) for each in before), default=None)
    stir = int(cv2.absdiff(picture, before[-1]).max()) if before else None
    return PictureFigures(media_us, round(100 * float(mean.item())), round(100 * float(spread.item())), sharpness_x100(picture),
                          round(10000 * bright / picture.size), changed, stir, *reference.compare(picture))
