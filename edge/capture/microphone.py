"""A microphone at this PC: as a stream of its own (`Microphone`, a source), or beside a camera's picture (`Ear`).

The device is read by a program of its own (portaudio): a sound driver that hangs can be killed, and one that cannot close an unplugged
card (PortAudio on ALSA) does not keep it. What comes is laid on the boot clock by align. Called by worker and camera.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from edge.capture.align import AlignedSound
from edge.capture.feed import LAST_PAUSE_S, Pauses
from edge.capture.portaudio import FAULT, HEAD, OPENED, OVERFLOWED, SILENT_CARD_S, Block
from edge.capture.streams import Piece, SourceFault, StreamSpec, Sync, Track

OPEN_S = 10.0
"""PortAudio looks through all devices when it starts."""
HUNG_S = SILENT_CARD_S + 0.4
"""The program tells of a silent card itself; one that tells nothing for so long hangs."""
KEPT_BLOCKS = 250
"""Ten seconds of sound wait for a picture; the worker gives up a camera that gives none after five."""

log = logging.getLogger(__name__)


class Listener:
    """The program that reads one microphone: `driver` sounddevice or pyaudio, `name` as Card.open wants it. Runs from now until `close`."""

    def __init__(self, driver: str, rate_hz: int, name: str | None) -> None:
        self._patience_s = OPEN_S
        self._program = subprocess.Popen(
            [sys.executable, "-m", "edge.capture.portaudio", driver, str(rate_hz), *([name] if name else [])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def next(self) -> Block:
        """The next block. SourceFault, within five seconds, when the microphone is not there, gone or silent."""
        until = time.monotonic() + self._patience_s
        ended_us, flags, length = HEAD.unpack(self._read(HEAD.size, until))
        data = self._read(length, until)
        if flags & FAULT:
            raise SourceFault("device-lost", data.decode(), patient=data == b"portaudio-missing")
        self._patience_s = HUNG_S
        return Block(data, ended_us, bool(flags & OVERFLOWED), bool(flags & OPENED))

    def kill(self) -> None:
        """End it, in whatever state it is; `next` fails at once. May be called by any thread."""
        self._program.kill()

    def close(self) -> None:
        """End it and forget it."""
        with self._program:
            self._program.kill()

    def _read(self, count: int, until: float) -> bytes:
        if self._program.stdout is None:
            raise SourceFault("device-lost", "source-failed")
        pipe, got = self._program.stdout.fileno(), b""
        while len(got) < count:
            if not select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
                raise SourceFault("device-lost", "silent-card")
            data = os.read(pipe, count - len(got))
            if not data:
                raise SourceFault("device-lost", "source-failed")
            got += data
        return got


class Microphone:
    """The source: a microphone as a stream of its own. `device` of the spec names it."""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self._listener: Listener | None = None
        self._sound: AlignedSound | None = None
        self._first: Block | None = None

    @property
    def repairs(self) -> int:
        return self._sound.overruns if self._sound else 0

    @property
    def sync(self) -> Sync | None:
        return None

    def open(self) -> tuple[Track, ...]:
        self._listener = Listener(self._spec.driver, self._spec.rate_hz, self._spec.device)
        self._first = self._listener.next()
        self._sound = AlignedSound(self._spec.rate_hz)
        return (self._sound.track(),)

    def pieces(self) -> Iterator[Piece]:
        listener, sound, block = self._listener, self._sound, self._first
        while listener is not None and sound is not None and block is not None:
            for packet in sound.take(block):
                yield Piece(0, packet, sound.boot_us(packet))
            block = listener.next()

    def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()


class Hearing(Protocol):
    """What listens beside a picture."""

    def blocks(self) -> list[Block]:
        """What was heard since the last call; nothing while the microphone is away. Does not wait."""

    def close(self) -> None:
        """Listen no more."""


class Ear:
    """The microphone `spec.sound`, heard from now on. When it fails it is tried again, with pauses; nobody waits for it."""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self._heard: deque[Block] = deque(maxlen=KEPT_BLOCKS)
        self._stop = threading.Event()
        self._listener: Listener | None = None
        self._told = False
        self._thread = threading.Thread(target=self._run, name="ear", daemon=True)
        self._thread.start()

    def blocks(self) -> list[Block]:
        return [self._heard.popleft() for _ in range(len(self._heard))]

    def close(self) -> None:
        self._stop.set()
        listener = self._listener
        if listener is not None:
            listener.kill()             # wakes the thread, which closes it
        self._thread.join()

    def _run(self) -> None:
        pauses = Pauses()
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                self._listen()
            except SourceFault as fault:
                if not self._told and not self._stop.is_set():
                    log.warning("sound lost, the picture goes on stream=%s reason=%s", self._spec.id, fault.reason)
                self._told = True
                self._stop.wait(pauses.after(fault, time.monotonic() - began))
            except Exception as error:  # a defect must not end the attempts
                log.error("sound failed stream=%s error=%s", self._spec.id, type(error).__name__)
                self._stop.wait(LAST_PAUSE_S)

    def _listen(self) -> None:
        listener = self._listener = Listener(self._spec.driver, self._spec.rate_hz, self._spec.sound)
        try:
            while not self._stop.is_set():
                block = listener.next()
                self._heard.append(block)
                if block.opened:
                    log.info("sound begins stream=%s", self._spec.id)
                    self._told = False
        finally:
            listener.close()
