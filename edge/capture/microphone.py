"""A microphone as a stream of its own: PortAudio in blocking mode (sounddevice), AAC in segments of its own.

Blocking, because callback streams need writable-executable memory, which the hardened unit forbids. An unplugged card stays
"active" and raises nothing: only the age of the last block tells, so blocks are asked for, never waited for without limit.
Samples that the card lost (an overflow) become exactly as much silence, counted in `repairs`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np

from edge.capture.sound import AacEncoder
from edge.capture.streams import Piece, SourceFault, StreamSpec, Track
from edge.clock import US

BLOCK_S = 0.04
SILENT_CARD_S = 5.0
LOST_S = 0.5
"""The card is behind real time by more than this: samples were lost. A sound server's first seconds lag by 0.1 s without loss."""
LOST_AFTER_OVERFLOW_S = 0.05


class Microphone:
    """The source. `device`: a part of the device's name, its number, or None for the default."""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self._stream: Any = None
        self.repairs = 0

    def open(self) -> tuple[Track, ...]:
        try:
            import sounddevice
        except OSError:
            raise SourceFault("device-lost", "portaudio-missing", patient=True) from None
        self._error = sounddevice.PortAudioError
        device = self._spec.device
        try:
            sounddevice._terminate()            # PortAudio lists the devices once, when it starts: a card plugged in later
            sounddevice._initialize()           # is seen only after starting it again
            self._stream = sounddevice.RawInputStream(
                samplerate=self._spec.rate_hz, channels=1, dtype="int16", latency="high",
                device=int(device) if device is not None and device.isdecimal() else device)
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError):
            self.close()
            raise SourceFault("device-lost", "no-microphone") from None
        self.repairs = 0
        self._aac = AacEncoder(self._spec.rate_hz)
        return (self._aac.track(),)

    def pieces(self) -> Iterator[Piece]:
        rate, block = self._spec.rate_hz, round(self._spec.rate_hz * BLOCK_S)
        count, began_us = 0, None       # type: int, int | None
        while True:
            data, overflow = self._read(block)
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
            if began_us is None:
                began_us = now - block * US // rate
            lost = (now - began_us) * rate // US - count - block
            if lost > rate * (LOST_AFTER_OVERFLOW_S if overflow else LOST_S):
                self.repairs += 1
                count += lost
            frame = av.AudioFrame.from_ndarray(np.frombuffer(data, dtype=np.int16)[None, :], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, count, Fraction(1, rate)
            count += block
            for packet in self._aac.turn(frame):
                yield Piece(0, packet, now - (count - (packet.pts or 0)) * US // rate)

    def _read(self, block: int) -> tuple[bytes, bool]:
        """One block and whether samples were lost before it. SourceFault if none comes."""
        until = time.monotonic() + SILENT_CARD_S
        try:
            while self._stream.read_available < block:
                if time.monotonic() > until:
                    raise SourceFault("device-lost", "silent-card")
                time.sleep(BLOCK_S / 4)
            data, overflow = self._stream.read(block)
        except self._error:
            raise SourceFault("device-lost", "microphone-gone") from None
        return bytes(data), bool(overflow)

    def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close(ignore_errors=True)
