"""One stream, one process: source -> segments, until told to stop.

stdin is the leash and brings orders: a line `cut` turns to a new segment at the next key frame; its end, like SIGTERM, SIGINT
and SIGABRT, means: write what was read, seal the segment, leave. So a worker outlives a killed recorder just long enough. It holds
a lock on its stream's folder; a new one waits for it, recovers what a crash left, then records. It reconnects by itself.
Started by recorder, or by hand: `python -m edge.capture.worker --spec JSON --footage DIR --run DIR`. Exit codes: below.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import av

from edge import durable
from edge.capture.control import StreamStatus, picture_path, status_path, write_status
from edge.capture.feed import Connecting, Ended, Feed, Item, Opened
from edge.capture.recovery import recover
from edge.capture.rolling import Rolling
from edge.capture.storage_id import StorageRefused, check_storage
from edge.capture.streams import Source, StreamSpec, Track
from edge.capture.watch import KeyPictures
from edge.clock import US, Clock, SystemClock, boot_id

DONE, STORAGE_REFUSED, LOCKED, STUCK, DISK_FAILED = 0, 3, 4, 5, 6
"""Left as told; no footage folder; another worker holds the stream; the source hangs and only a new process helps; disk error."""
LOCK_S = 10.0
FROZEN_US = 5 * US
STUCK_US = 8 * US
WINDOW = 5
"""Seconds over which frames per second and kbit/s are taken."""

log = logging.getLogger(__name__)


def build_source(spec: StreamSpec) -> Source:
    """The source of a stream. Loads only the library that it needs."""
    if spec.kind == "rtsp":
        from edge.capture.rtsp import RtspCamera
        return RtspCamera(spec)
    if spec.kind == "microphone":
        from edge.capture.microphone import Microphone
        return Microphone(spec)
    from edge.capture.pattern import Pattern
    return Pattern(spec)


class Leash:
    """stdin and the signals: `stopped` and `cut` are what they said last."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self.cut = threading.Event()

    def hold(self, stdin: int) -> None:
        """Listen. Must be called by the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGABRT):
            signal.signal(number, lambda *_: self.stopped.set())
        threading.Thread(target=self._listen, args=(stdin,), name="leash", daemon=True).start()

    def _listen(self, stdin: int) -> None:
        rest = b""
        while True:
            try:
                data = os.read(stdin, 4096)
            except OSError:
                data = b""
            if not data:
                self.stopped.set()
                return
            *lines, rest = (rest + data).split(b"\n")
            if any(line.strip() == b"cut" for line in lines):
                self.cut.set()


class Worker:
    """The writing half, in the main thread: takes what the feed brings and keeps the status file."""

    def __init__(self, spec: StreamSpec, run_dir: Path, feed: Feed, rolling: Rolling, clock: Clock) -> None:
        self._spec, self._run_dir, self._feed, self._rolling, self._clock = spec, run_dir, feed, rolling, clock
        self._pictures = KeyPictures(picture_path(run_dir, spec.id))
        self._tracks: tuple[Track, ...] = ()
        self._opening = 0               # the one whose pieces are written; 0: none
        self._state, self._reason, self._since_us = "starting", "", clock.now().boot_us
        self._heard_us = self._abandoned_us = 0
        self._told_us = 0
        self._history: deque[tuple[int, int, int]] = deque(maxlen=WINDOW + 1)   # boot time, samples, bytes

    def work(self, leash: Leash) -> int:
        """Until the leash says stop. The exit code. OSError: the disk failed."""
        while not leash.stopped.is_set():
            with suppress(queue.Empty):
                self._take(self._feed.items.get(timeout=0.1))
            if leash.cut.is_set():
                leash.cut.clear()
                self._rolling.cut()
            now = self._clock.now().boot_us
            if self._stands_still(now):
                return STUCK
            if now - self._told_us >= US:
                self._tell(now)
        self._feed.stop()
        with suppress(queue.Empty):
            while True:                 # what was read before the order is written
                self._take(self._feed.items.get_nowait())
        self._rolling.end("stopped")
        self._set("lost", "stopped")
        self._tell(self._clock.now().boot_us)
        return DONE

    def refuse(self, reason: str) -> None:
        """Say in the status why nothing is recorded."""
        self._set("refused", reason)
        self._tell(self._clock.now().boot_us)

    def _take(self, item: Item) -> None:
        match item:
            case Connecting():
                if self._state == "starting":
                    self._set("connecting", "")
            case Opened(opening, tracks, repairs):
                self._opening, self._tracks, self._abandoned_us = opening, tracks, 0
                self._heard_us = self._clock.now().boot_us
                self._rolling.begin(tracks, repairs)
                self._pictures.begin(tracks[0] if tracks[0].kind == "video" else None)
                if self._state != "connecting":
                    self._set("connecting", self._reason)
            case Ended(opening, end_reason, reason):
                self._abandoned_us = 0
                if self._opening == opening:
                    self._end(end_reason)
                if reason != "stopped":
                    self._set("lost", reason)
            case (opening, piece) if opening == self._opening:
                if piece.track == 0:
                    self._heard_us = self._clock.now().boot_us
                    if self._tracks[0].kind == "video" and piece.packet.is_keyframe:
                        self._pictures.offer(piece.packet)
                self._rolling.write(piece)
                self._judge()

    def _judge(self) -> None:
        if self._rolling.disk_full:
            if self._reason != "disk-full":
                self._set("lost", "disk-full")
        elif self._state != "recording" and self._rolling.writing:
            self._set("recording", "")
            log.info("recording stream=%s", self._spec.id)

    def _end(self, end_reason: str) -> None:
        self._opening = 0
        self._rolling.end(end_reason)

    def _stands_still(self, now: int) -> bool:
        """A source whose leading track brings nothing is given up; True if it does not even let go."""
        if self._opening and now - self._heard_us > FROZEN_US and self._feed.items.empty():
            self._feed.abandon(self._opening)
            self._end("device-lost" if self._spec.kind == "microphone" else "camera-frozen")
            self._set("lost", "frozen")
            self._abandoned_us = now
        return bool(self._abandoned_us) and now - self._abandoned_us > STUCK_US

    def _set(self, state: str, reason: str) -> None:
        if (state, reason) != (self._state, self._reason):
            if state == "lost" and reason != "stopped":
                log.warning("stream lost stream=%s reason=%s", self._spec.id, reason)
            self._state, self._reason, self._since_us, self._told_us = state, reason, self._clock.now().boot_us, 0

    def _tell(self, now: int) -> None:
        self._told_us = now
        rolling = self._rolling
        if self._history and (rolling.samples < self._history[-1][1] or rolling.bytes < self._history[-1][2]):
            self._history.clear()       # another run
        self._history.append((now, rolling.samples, rolling.bytes))
        then = self._history[0]
        took = max(1, now - then[0])
        meter, leading = rolling.meter, self._tracks[0] if self._tracks else None
        status = StreamStatus(
            stream=self._spec.id, kind=self._spec.kind, pid=os.getpid(), state=self._state, reason=self._reason, run=rolling.run,
            seq=max(0, rolling.seq - 1), since_boot_us=self._since_us, last_sample_boot_us=rolling.newest_boot_us,
            last_sample_utc_us=rolling.newest_utc_us, boot_id=boot_id(), frames=rolling.frames, bytes=rolling.bytes,
            fps_x100=(rolling.samples - then[1]) * 100 * US // took, kbps=(rolling.bytes - then[2]) * 8000 // took,
            width=leading.width if leading else 0, height=leading.height if leading else 0,
            codec="+".join(t.codec for t in self._tracks), audio_peak_cdb=meter.second_cdb if meter else None,
            silent_ms=meter.silent_ms if meter else 0, segments=rolling.segments, updated_boot_us=now, dropped=rolling.dropped)
        with suppress(OSError):         # the status is news; the recording does not stop for it
            write_status(self._run_dir, status)


def take_lock(folder: Path, seconds: float = LOCK_S) -> IO[bytes] | None:
    """Hold the stream's folder; None if another process still does after `seconds`. Closing the file lets go."""
    durable.make_folder(folder)
    handle = os.fdopen(os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() > until:
                handle.close()
                return None
            time.sleep(0.05)


def run_worker(spec: StreamSpec, footage: Path, run_dir: Path, clock_state: Callable[[], str], clock: Clock | None = None,
               stdin: int = 0, storage_uuid: str | None = None) -> int:
    """Record `spec` below `footage` until the leash is let go. The exit code. Must run in the main thread of its own process.

    `clock_state` says at each segment's beginning whether the wall clock is synced, unsynced or unknown.
    """
    av.logging.set_level(None)
    clock = clock or SystemClock()
    leash = Leash()
    leash.hold(stdin)
    feed = Feed(build_source(spec))
    rolling = Rolling(spec, footage, clock, clock_state, 0)
    worker = Worker(spec, run_dir, feed, rolling, clock)
    try:
        check_storage(footage, storage_uuid)
        lock = take_lock(footage / spec.id)
        if lock is None:
            worker.refuse("locked")
            log.error("another worker records this stream stream=%s", spec.id)
            return LOCKED
        with lock:
            rolling.seq = recover(footage / spec.id)
            status_path(run_dir, spec.id).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            feed.start()
            return _leave(worker.work(leash), feed)
    except StorageRefused as refusal:
        worker.refuse("storage-refused")
        log.error("%s", refusal)
        return STORAGE_REFUSED
    except OSError as error:
        worker.refuse("disk-failed")
        log.error("disk failed stream=%s errno=%s what=the worker ends, the next one recovers its segment", spec.id, error.errno)
        return _leave(DISK_FAILED, feed)


def _leave(code: int, feed: Feed) -> int:
    """Give the camera its TEARDOWN; a thread that hangs in a driver must not hold up the end."""
    feed.stop()
    if feed.started and not feed.join(1.5):
        logging.shutdown()
        os._exit(code)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m edge.capture.worker`: one stream, by hand."""
    parser = argparse.ArgumentParser(prog="edge.capture.worker", description="record one stream until stdin closes")
    parser.add_argument("--spec", required=True, help="the stream as JSON (streams.StreamSpec)")
    parser.add_argument("--footage", required=True, type=Path)
    parser.add_argument("--run", required=True, type=Path)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    try:
        spec = StreamSpec.from_json(args.spec)
    except ValueError as error:
        parser.error(str(error))
    return run_worker(spec, args.footage, args.run, lambda: "unknown")


if __name__ == "__main__":
    sys.exit(main())
