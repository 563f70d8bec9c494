"""A camera at this PC (USB, V4L2), with or without a microphone beside it, both on the boot clock.

Where the camera gives H.264 itself, PyAV reads it and it passes through undecoded; otherwise OpenCV reads pictures and x264 encodes
them. Timestamps are the kernel's, of the moment each picture was taken, uneven as they are. A camera that goes away, stands still
or changes its size ends the run with a SourceFault; the path by id finds it again when it is back, at whatever /dev/video number.
The picture leads. A microphone (`sound`) is read by a thread of its own and kept to the picture's clock by align; its faults stop
nothing. Called by worker.
LIMIT: a driver that hangs inside a read cannot be called back: the thread hangs with it, and the worker, which hears nothing for
five seconds, leaves for another process.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet

from edge.capture.align import AlignedSound
from edge.capture.encoder import TICKS, H264Encoder
from edge.capture.microphone import Ear, Hearing
from edge.capture.portaudio import boot_us
from edge.capture.streams import Piece, SourceFault, StreamSpec, Sync, Track
from edge.clock import US

SILENT_S = 3
"""Whole seconds that OpenCV waits for a picture (its own default is 10): long enough for a camera that doubles its exposure in the
dark, short enough for the worker's five."""
FRESH_US = US
"""A kernel's stamp older than this, or in the future, is another clock's: then the moment of reading is taken."""
ENUM_FMT = 0xC0405602
"""VIDIOC_ENUM_FMT, and below V4L2_BUF_TYPE_VIDEO_CAPTURE and the layout of struct v4l2_fmtdesc (linux/videodev2.h)."""
FMT_LAYOUT, VIDEO_CAPTURE = "=III32sIIIII", 1

Picture = npt.NDArray[np.uint8]

log = logging.getLogger(__name__)


class Grabber(Protocol):
    """A camera that gives pictures."""

    size: tuple[int, int]
    """Width and height in pixels."""

    def read(self) -> tuple[Picture, int]:
        """The next picture, BGR, (height, width, 3), and the boot microsecond at which it was taken. SourceFault if none comes."""

    def close(self) -> None:
        """Let go of the camera."""


class Eye(Protocol):
    """A camera's H.264, whoever encodes it."""

    @property
    def repairs(self) -> int:
        """Timestamps that did not rise, and were mended."""

    def track(self) -> Track:
        """What it gives."""

    def packets(self) -> list[tuple[Packet[Any], int]]:
        """The next packets, timed in boot time, and the boot microsecond each was taken. Waits. SourceFault if none comes."""

    def close(self) -> None:
        """Let go of the camera."""


def taken_us(stamp_us: float) -> int:
    """Boot time of a kernel's stamp on the monotonic clock; of this moment, if the stamp cannot be one."""
    age = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000 - stamp_us
    return boot_us() - (round(age) if 0 <= age < FRESH_US else 0)


def formats(device: str) -> tuple[str, ...]:
    """The four-letter codes of what the camera can send, e.g. ("MJPG", "YUYV"). SourceFault if it is not there or not for us."""
    try:
        handle = os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        raise SourceFault("device-lost", "camera-denied") from None
    except OSError:
        raise SourceFault("device-lost", "no-camera") from None
    found: list[str] = []
    try:
        while True:
            asked = struct.pack(FMT_LAYOUT, len(found), VIDEO_CAPTURE, 0, b"", 0, 0, 0, 0, 0)
            found.append(fcntl.ioctl(handle, ENUM_FMT, asked)[44:48].decode("ascii", "replace").rstrip())
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise SourceFault("device-lost", "no-camera") from None
        return tuple(found)             # EINVAL: no more of them
    finally:
        os.close(handle)


class CvGrabber:
    """Pictures by OpenCV. `capture`: an opened cv2.VideoCapture."""

    def __init__(self, capture: Any, device: str) -> None:
        import cv2
        self._capture, self._device, self._stamp = capture, device, cv2.CAP_PROP_POS_MSEC
        self.size = round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))

    def read(self) -> tuple[Picture, int]:
        there, picture = self._capture.read()
        if not there:
            raise SourceFault("device-lost", "frozen" if Path(self._device).exists() else "camera-gone")
        return picture, taken_us(self._capture.get(self._stamp) * 1000)

    def close(self) -> None:
        self._capture.release()


def open_grabber(spec: StreamSpec, offered: tuple[str, ...]) -> CvGrabber:
    """The camera by OpenCV, in the size asked for or the nearest that it has. SourceFault if it cannot be had."""
    os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(SILENT_S))       # read by OpenCV when it is first used
    import cv2
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)   # our own words say more
    device = spec.device or ""
    capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
    if not capture.isOpened():
        raise SourceFault("device-lost", "camera-busy")
    if "MJPG" in offered:               # uncompressed, USB 2 carries 720p at 10 a second at most
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    for setting, value in ((cv2.CAP_PROP_FRAME_WIDTH, spec.width), (cv2.CAP_PROP_FRAME_HEIGHT, spec.height), (cv2.CAP_PROP_FPS, spec.fps)):
        capture.set(setting, value)
    return CvGrabber(capture, device)


def frame_of(picture: Picture) -> av.VideoFrame:
    """A BGR picture as the encoder takes it: 4:2:0, ITU-R BT.601, video range. OpenCV's way costs 0.35 ms for 1280x720, FFmpeg's 1.8."""
    import cv2
    if picture.shape[0] % 4 or picture.shape[1] % 2:        # sides that PyAV does not take in one piece; no camera has them
        return av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(picture), format="bgr24")
    planes = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420), dtype=np.uint8)
    return av.VideoFrame.from_numpy_buffer(planes, format="yuv420p")


class EncodedEye:
    """Pictures of a Grabber, encoded here."""

    def __init__(self, grabber: Grabber, fps: int) -> None:
        self._grabber = grabber
        self._shape = (grabber.size[1], grabber.size[0], 3)
        self._encoder = H264Encoder(*grabber.size, fps)
        self._line = Line()

    @property
    def repairs(self) -> int:
        return self._line.repairs

    def track(self) -> Track:
        return self._encoder.track()

    def packets(self) -> list[tuple[Packet[Any], int]]:
        picture, at_us = self._grabber.read()
        if picture.shape != self._shape:
            raise SourceFault("device-lost", "picture-changed")
        frame = frame_of(picture)
        frame.pts = self._line.ticks(at_us)
        return [(packet, at_us) for packet in self._encoder.turn(frame)]

    def close(self) -> None:
        self._grabber.close()


class PassedEye:
    """The camera's own H.264, as it comes. `container`: an opened PyAV input whose first stream is H.264 (Annex B)."""

    def __init__(self, container: InputContainer) -> None:
        self._container, self._stream = container, container.streams.video[0]
        self._incoming = container.demux(self._stream)
        self._holder = av.open(os.devnull, "w", format="null")
        self._template = self._holder.add_stream_from_template(self._stream)
        self._holder.start_encoding()
        self._line = Line()

    @property
    def repairs(self) -> int:
        return self._line.repairs

    def track(self) -> Track:
        context = self._stream.codec_context
        return Track("video", "h264", self._template, "h264", context.extradata, context.width, context.height)

    def packets(self) -> list[tuple[Packet[Any], int]]:
        try:
            packet = next(self._incoming, None)
        except (av.error.FFmpegError, OSError):
            packet = None
        if packet is None or not packet.size:
            raise SourceFault("device-lost", "camera-gone")
        at_us = taken_us(float((packet.pts or 0) * (packet.time_base or 0) * US))
        packet.time_base = Fraction(1, TICKS)
        packet.pts = packet.dts = self._line.ticks(at_us)       # cameras that encode do it without B-frames
        packet.is_keyframe = begins_picture(bytes(packet))      # drivers do not mark them
        return [(packet, at_us)]

    def close(self) -> None:
        self._container.close()


class Line:
    """Boot microseconds -> ticks that rise."""

    def __init__(self) -> None:
        self._last, self.repairs = -1, 0

    def ticks(self, at_us: int) -> int:
        """`at_us` in 1/TICKS, or one tick after the last if that is not later: counted in `repairs`."""
        pts = at_us * TICKS // US
        if pts <= self._last:
            pts = self._last + 1
            self.repairs += 1
        self._last = pts
        return pts


def begins_picture(packet: bytes) -> bool:
    """Whether an Annex-B packet holds an IDR slice (NAL type 5, H.264 table 7-1)."""
    at = packet.find(b"\0\0\1")
    while 0 <= at < len(packet) - 3:
        kind = packet[at + 3] & 31
        if kind in (1, 5):              # the first slice tells; what follows is picture data
            return kind == 5
        at = packet.find(b"\0\0\1", at + 3)
    return False


def open_eye(spec: StreamSpec) -> Eye:
    """The camera of `spec.device`, whichever way it gives H.264 more cheaply. SourceFault if it cannot be had."""
    offered = formats(spec.device or "")
    if not offered:
        raise SourceFault("device-lost", "no-picture")          # a node of the same camera that gives only data about its pictures
    if "H264" in offered:
        asked = {"input_format": "h264", "video_size": f"{spec.width}x{spec.height}", "framerate": str(spec.fps)}
        try:
            return PassedEye(av.open(spec.device or "", format="v4l2", options=asked))
        except (av.error.FFmpegError, OSError, IndexError):
            log.info("the camera's own H.264 is not to be had, it is encoded here stream=%s", spec.id)
    grabber = open_grabber(spec, offered)
    if grabber.size != (spec.width, spec.height):
        log.warning("the camera has not the size asked for, recorded as it comes stream=%s asked=%dx%d size=%dx%d", spec.id, spec.width,
                    spec.height, *grabber.size)
    return EncodedEye(grabber, spec.fps)


class UsbCamera:
    """The source. All its timestamps are boot time, so picture and sound need no other zero.

    `eye` opens the camera, `ear` makes what hears the microphone named in `spec.sound`.
    """

    def __init__(self, spec: StreamSpec, eye: Callable[[StreamSpec], Eye] = open_eye, ear: Callable[[StreamSpec], Hearing] = Ear) -> None:
        self._spec, self._open_eye, self._make_ear = spec, eye, ear
        self._eye: Eye | None = None
        self._ear: Hearing | None = None
        self._sound: AlignedSound | None = None

    @property
    def repairs(self) -> int:
        eye, sound = self._eye, self._sound
        return (eye.repairs if eye else 0) + (sound.overruns if sound else 0)

    @property
    def sync(self) -> Sync | None:
        sound = self._sound
        return sound.sync if sound else None

    def open(self) -> tuple[Track, ...]:
        self._sound = AlignedSound(self._spec.rate_hz) if self._spec.sound is not None else None
        eye = self._eye = self._open_eye(self._spec)
        if self._sound is None:
            return (eye.track(),)
        self._ear = self._make_ear(self._spec)
        return eye.track(), self._sound.track()

    def pieces(self) -> Iterator[Piece]:
        eye, ear, sound = self._eye, self._ear, self._sound
        began_us: int | None = None
        while eye is not None:
            for packet, at_us in eye.packets():
                began_us = began_us or at_us
                yield Piece(0, packet, at_us)
            for block in ear.blocks() if ear else ():
                for packet in sound.take(block) if sound else ():
                    at_us = sound.boot_us(packet) if sound else 0
                    if began_us is not None and at_us >= began_us:      # what was said before the first picture has none
                        yield Piece(1, packet, at_us)

    def close(self) -> None:
        eye, self._eye = self._eye, None
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.close()
        if eye is not None:
            eye.close()
