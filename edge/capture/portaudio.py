"""The program that reads one microphone by PortAudio and writes what it hears to its stdout; two drivers behind one Protocol.

Blocking mode, because callbacks need writable-executable memory, which the hardened unit forbids. An unplugged card stays "active"
and raises nothing: only the age of the last block tells, so blocks are asked for, never waited for without limit.
Each block is timed on the boot clock: when it was read, less what still waited in the card's buffer.
A program of its own, because PortAudio may hang in any call when a sound server dies, and cannot close an ALSA card that was pulled
out, which then keeps its number: both end with the process. PyAV and NumPy are not loaded here. Started by microphone.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from edge.capture.streams import SourceFault
from edge.clock import US

BLOCK_S = 0.04
BUFFER_S = 0.3
"""Asked of PortAudio. Less than two blocks overruns on real cards ("high" is 32 ms on some); from 0.08 s on nothing was lost, and 0.3
bears a busy machine; more makes PortAudio hand over late (1.0: by 0.25 s)."""
SILENT_CARD_S = 4.0
HEAD = struct.Struct("=qII")
"""What the program writes before each block: `ended_us`, flags, bytes that follow."""
OVERFLOWED, OPENED, FAULT = 1, 2, 4
"""Flags. FAULT: the bytes are the word why it ends."""


@dataclass(frozen=True, slots=True)
class Block:
    """Sound as a card gave it: int16 samples, mono, in the machine's byte order.

    `ended_us`: boot microsecond at which the newest of them was taken, as well as could be told. `overflowed`: the card said that it
    lost samples before these. `opened`: the first since the card was opened.
    """

    data: bytes
    ended_us: int
    overflowed: bool = False
    opened: bool = False


def boot_us() -> int:
    """Microseconds since the machine started, sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class Card(Protocol):
    """A driver: one microphone, mono, 16 bits. Every call may raise SourceFault. It is let go of by the end of the process."""

    def open(self, name: str | None, rate_hz: int) -> None:
        """Begin to record. `name`: a part of the device's name, its number, or None for the default."""

    def waiting(self) -> int:
        """How many samples can be read at once."""

    def read(self, count: int) -> tuple[bytes, bool]:
        """`count` samples, or none at all, and whether samples were lost before them. Waits if fewer are there."""


def pick(names: Mapping[int, str], wanted: str) -> int:
    """The number of the device meant by `wanted`: a number, a whole name, or a part of one name only. SourceFault otherwise."""
    if wanted.isdecimal() and int(wanted) in names:
        return int(wanted)
    found = [n for n, name in names.items() if name == wanted] or [n for n, name in names.items() if wanted.lower() in name.lower()]
    if not found:
        raise SourceFault("device-lost", "no-microphone")
    if len(found) > 1:
        raise SourceFault("device-lost", "several-microphones")
    return found[0]


class SoundDeviceCard:
    """By sounddevice."""

    _stream: Any
    _error: Any

    def open(self, name: str | None, rate_hz: int) -> None:
        try:
            import sounddevice
        except OSError:
            raise SourceFault("device-lost", "portaudio-missing", patient=True) from None
        self._error = sounddevice.PortAudioError
        try:
            names = {n: str(each["name"]) for n, each in enumerate(sounddevice.query_devices()) if each["max_input_channels"] > 0}
            self._stream = sounddevice.RawInputStream(
                samplerate=rate_hz, channels=1, dtype="int16", latency=BUFFER_S, device=None if name is None else pick(names, name))
            self._stream.start()
        except (sounddevice.PortAudioError, ValueError):
            raise SourceFault("device-lost", "no-microphone") from None

    def waiting(self) -> int:
        try:
            return int(self._stream.read_available)
        except self._error:
            raise SourceFault("device-lost", "microphone-gone") from None

    def read(self, count: int) -> tuple[bytes, bool]:
        try:
            data, overflowed = self._stream.read(count)
        except self._error:
            raise SourceFault("device-lost", "microphone-gone") from None
        return bytes(data), bool(overflowed)


class PyAudioCard:
    """By PyAudio."""

    _stream: Any
    _overflowed: int

    def open(self, name: str | None, rate_hz: int) -> None:
        try:
            import pyaudio
        except ImportError:
            raise SourceFault("device-lost", "portaudio-missing", patient=True) from None
        self._overflowed = pyaudio.paInputOverflowed
        audio = pyaudio.PyAudio()
        listed = (audio.get_device_info_by_index(n) for n in range(audio.get_device_count()))
        names = {int(each["index"]): str(each["name"]) for each in listed if each["maxInputChannels"] > 0}
        try:
            self._stream = audio.open(      # PyAudio always asks for the lowest latency, so the buffer is asked for by its periods
                rate=rate_hz, channels=1, format=pyaudio.paInt16, input=True, frames_per_buffer=round(rate_hz * BUFFER_S / 4),
                input_device_index=None if name is None else pick(names, name))
        except (OSError, ValueError):
            raise SourceFault("device-lost", "no-microphone") from None

    def waiting(self) -> int:
        try:
            waiting = int(self._stream.get_read_available())
        except OSError:
            waiting = -1
        if waiting < 0:                     # PortAudio's error codes are negative
            raise SourceFault("device-lost", "microphone-gone")
        return waiting

    def read(self, count: int) -> tuple[bytes, bool]:
        try:
            return self._stream.read(count), False
        except OSError as error:
            if error.errno == self._overflowed:
                return b"", True            # PyAudio keeps the samples that came with the error; the clock says how many are missing
            raise SourceFault("device-lost", "microphone-gone") from None


DRIVERS: Mapping[str, Callable[[], Card]] = {"sounddevice": SoundDeviceCard, "pyaudio": PyAudioCard}


def next_block(card: Card, rate_hz: int) -> Block:
    """The card's next BLOCK_S. SourceFault if it does not come in SILENT_CARD_S."""
    count, overflowed = round(rate_hz * BLOCK_S), False
    until = time.monotonic() + SILENT_CARD_S
    while True:
        waiting = card.waiting()
        if waiting >= count:
            now = boot_us()
            data, lost = card.read(count)
            overflowed |= lost
            if data:
                return Block(data, now - (waiting - count) * US // rate_hz, overflowed)
        elif time.monotonic() > until:
            raise SourceFault("device-lost", "silent-card")
        else:
            time.sleep(BLOCK_S / 4)


def main(argv: Sequence[str]) -> int:
    """`python -m edge.capture.portaudio DRIVER RATE_HZ [NAME]`: blocks, each behind its HEAD, to stdout until stdin closes."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGABRT):      # systemd tells every process of the unit: the worker decides,
        signal.signal(number, signal.SIG_IGN)                           # so that its last segment ends as stopped, not as device lost
    driver, rate_hz, name = argv[0], int(argv[1]), argv[2] if len(argv) > 2 else None
    threading.Thread(target=_leave_with_stdin, daemon=True).start()
    card, flags = DRIVERS[driver](), OPENED
    try:
        card.open(name, rate_hz)
        while True:
            block = next_block(card, rate_hz)
            flags |= OVERFLOWED if block.overflowed else 0
            sys.stdout.buffer.write(HEAD.pack(block.ended_us, flags, len(block.data)) + block.data)
            sys.stdout.buffer.flush()
            flags = 0
    except SourceFault as fault:
        word = fault.reason.encode()
        sys.stdout.buffer.write(HEAD.pack(0, FAULT, len(word)) + word)
        sys.stdout.buffer.flush()
    os._exit(1)             # closing a dead card can hang, and the kernel closes it as well


def _leave_with_stdin() -> None:
    while os.read(0, 64):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
