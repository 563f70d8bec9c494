"""What a stream looks and sounds like, measured on what is recorded: the newest key frame as a JPEG, the sound's peak.

Key frames only, once a second, in a thread of its own (FFmpeg releases the GIL): about 2 % of a core for 1080p. The sound is
decoded packet by packet on the way to the disk, so each segment's figures are exactly its own. A decoder's failure never
touches the recording. Called by rolling (sound) and worker (pictures).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import CodecContext
from av.packet import Packet

from edge.capture.segments import Sound
from edge.capture.streams import Track

DIGITAL_ZERO_CDB = -12000
SILENCE_CDB = -9000
"""At or below this a sound is digital silence: less than one step of 16-bit audio (-90.3 dBFS)."""
PICTURE_WIDTH = 640
PICTURE_EVERY_S = 1.0

log = logging.getLogger(__name__)


def _decoder(track: Track) -> Any:
    """A decoder of the track's own kind (PyAV's type of it has `decode`, the common one has not)."""
    context: CodecContext = av.CodecContext.create(track.decoder, "r")
    context.thread_count = 1
    if track.extradata:
        context.extradata = track.extradata
    return context


def to_cdb(peak: float) -> int:
    """Hundredths of a dBFS of a peak where 1.0 is full scale; digital zero is -12000."""
    return DIGITAL_ZERO_CDB if peak <= 1e-6 else round(2000 * math.log10(peak))


class SoundMeter:
    """Follows one sound track. `second_cdb`: peak of the last whole second; `silent_ms`: the present run of digital silence."""

    def __init__(self, track: Track) -> None:
        self._context = _decoder(track)
        self.second_cdb: int | None = None
        self.silent_ms = 0
        self._second_peak = self._segment_peak = 0.0
        self._second_s = self._segment_silent_s = self._silent_s = 0.0
        self._heard = False

    def hear(self, packet: Packet[Any]) -> None:
        """Decode one packet and count it. Packets that cannot be decoded are passed over."""
        try:
            frames = self._context.decode(packet)
        except av.error.FFmpegError:
            return
        for frame in frames:
            if isinstance(frame, av.AudioFrame) and frame.sample_rate:
                samples = frame.to_ndarray()
                peak = float(np.abs(samples).max(initial=0))
                if samples.dtype.kind == "i":
                    peak /= float(1 << (8 * samples.dtype.itemsize - 1))
                self._count(peak, frame.samples / frame.sample_rate)

    def _count(self, peak: float, seconds: float) -> None:
        self._heard = True
        self._segment_peak, self._second_peak = max(self._segment_peak, peak), max(self._second_peak, peak)
        if to_cdb(peak) <= SILENCE_CDB:
            self._silent_s += seconds
            self._segment_silent_s += seconds
        else:
            self._silent_s = 0.0
        self.silent_ms = round(1000 * self._silent_s)
        self._second_s += seconds
        if self._second_s >= 1.0:
            self.second_cdb = to_cdb(self._second_peak)
            self._second_peak, self._second_s = 0.0, self._second_s % 1.0

    def turn(self) -> Sound | None:
        """The segment's figures, None if it had no sound; a new segment begins."""
        sound = Sound(to_cdb(self._segment_peak), round(1000 * self._segment_silent_s)) if self._heard else None
        self._segment_peak = self._segment_silent_s = 0.0
        self._heard = False
        return sound


class KeyPictures:
    """Keeps `target` the newest key frame, at most 640 pixels wide and once a second, by a thread of its own."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._new = threading.Condition()
        self._track: Track | None = None
        self._data: bytes | None = None
        self._offered = 0.0
        threading.Thread(target=self._run, name="key-pictures", daemon=True).start()

    def begin(self, track: Track | None) -> None:
        """A run with this picture track (None: without picture) begins."""
        with self._new:
            self._track, self._data = track, None

    def offer(self, packet: Packet[Any]) -> None:
        """A key frame. Its bytes are copied; a newer one replaces one that was not looked at yet."""
        now = time.monotonic()
        if now - self._offered < PICTURE_EVERY_S * 0.9:
            return
        self._offered = now
        with self._new:
            self._data = bytes(packet)
            self._new.notify()

    def _run(self) -> None:
        decoder: Any = None
        of: Track | None = None
        while True:
            with self._new:
                self._new.wait_for(lambda: self._data is not None and self._track is not None)
                data, track, self._data = self._data, self._track, None
            if data is None or track is None:
                continue
            try:
                if decoder is None or track is not of:
                    decoder, of = _decoder(track), track
                self._show(decoder, data)
            except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
                decoder = None
                log.debug("key picture failed error=%s", type(error).__name__)

    def _show(self, decoder: Any, data: bytes) -> None:
        packet = Packet(data)
        frames = [*decoder.decode(packet), *decoder.decode(None)]
        decoder.flush_buffers()
        for frame in frames[-1:]:
            if isinstance(frame, av.VideoFrame):
                part = self._target.with_name(f".{self._target.name}.part")
                part.write_bytes(to_jpeg(frame))
                part.replace(self._target)


def to_jpeg(frame: av.VideoFrame) -> bytes:
    """JPEG of a picture, scaled to at most 640 pixels wide (even sides)."""
    width = min(PICTURE_WIDTH, frame.width) // 2 * 2
    height = max(2, round(frame.height * width / frame.width) // 2 * 2)
    small = frame.reformat(width=width, height=height, format="yuvj420p")
    encoder = av.CodecContext.create("mjpeg", "w")
    if not isinstance(encoder, av.VideoCodecContext):
        raise RuntimeError("no JPEG encoder")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "yuvj420p", Fraction(1, 1)
    encoder.qmin = encoder.qmax = 6
    small.pts, small.time_base = 0, Fraction(1, 1)
    return b"".join(bytes(packet) for packet in [*encoder.encode(small), *encoder.encode(None)])
