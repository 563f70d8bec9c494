"""One stream, one process: source -> segments, until told to stop. Three threads: the feed's reads the camera and fills fragments, the
disk's writes them, the main one keeps watch. Nothing is decoded here (sound that is no AAC apart); what was recorded is judged by
`watch`, in a process of its own.

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
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import IO

import av

from edge import durable
from edge.capture.control import StreamStatus, read_watch, status_path, write_status
from edge.capture.disk import Disk
from edge.capture.feed import Feed
from edge.capture.rolling import Rolling
from edge.capture.storage_id import StorageRefused, check_storage
from edge.capture.streams import Piece, Source, SourceFault, StreamSpec, Track
from edge.clock import US, Clock, SystemClock, boot_id

DONE, STORAGE_REFUSED, LOCKED, STUCK, DISK_FAILED = 0, 3, 4, 5, 6
"""Left as told; no footage folder; another worker holds the stream; the source hangs and only a new process helps; disk error."""
LOCK_S = 10.0
LOOK_S, TELL_S = 0.5, 1.0
FROZEN_US = 5 * US
STUCK_US = 4 * US
CURE_AGAIN_US = 600 * US
"""A new connection costs two seconds of sound, and a room may stand so still that its picture only looks frozen."""
FEED_TAIL_S, FEED_END_S = 0.5, 6.0
"""For what was read already; and for the TEARDOWN behind a read that waits its five seconds."""
LATE_US = 5 * US
KEY_US = 30 * US
"""A run begins at a key frame. Cameras with "smart" coding send one in ten or twenty seconds, and not each of them one for a newcomer."""
OPEN_US = 30 * US
"""A camera that answers nothing is given up after 10 s; a driver that has not let go by now never will."""
WINDOW = 5
"""Seconds over which frames per second and kbit/s are taken."""

log = logging.getLogger(__name__)


def build_source(spec: StreamSpec) -> Source:
    """The source of a stream. Loads only the library that it needs."""
    if spec.kind == "rtsp":
        from edge.capture.rtsp import RtspCamera
        return RtspCamera(spec)
    if spec.kind == "usb":
        from edge.capture.camera import UsbCamera
        return UsbCamera(spec)
    if spec.kind == "microphone":
        from edge.capture.microphone import Microphone
        return Microphone(spec)
    from edge.capture.pattern import Pattern
    return Pattern(spec)


class Leash:
    """stdin and the signals: `stopped` is what they said last; `on_cut` is called for each order to cut."""

    def __init__(self, on_cut: Callable[[], None] = lambda: None) -> None:
        self.stopped = threading.Event()
        self._on_cut = on_cut

    def hold(self, stdin: int) -> None:
        """Listen. Must be called by the main thread."""
        told: queue.SimpleQueue[int] = queue.SimpleQueue()      # which alone may be touched while the main thread is anywhere
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGABRT):
            signal.signal(number, lambda number, _: told.put(number))
        threading.Thread(target=self._obey, args=(told,), name="signals", daemon=True).start()
        threading.Thread(target=self._listen, args=(stdin,), name="leash", daemon=True).start()

    def _obey(self, told: queue.SimpleQueue[int]) -> None:
        told.get()
        self.stopped.set()

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
                self._on_cut()


class Worker:
    """Between the feed's thread, which records what comes, and the main thread, which keeps watch and the status file."""

    def __init__(self, spec: StreamSpec, run_dir: Path, source: Source, rolling: Rolling, disk: Disk, clock: Clock) -> None:
        self._spec, self._run_dir, self._source, self._rolling, self._disk, self._clock = spec, run_dir, source, rolling, disk, clock
        self._turn = threading.Lock()       # one of the two threads at a time
        self._tracks: tuple[Track, ...] = ()
        self._opening = 0                   # the one whose samples are recorded; 0: none
        self._state, self._reason, self._since_us = "starting", "", clock.now().boot_us
        self._heard_us = self._abandoned_us = self._told_us = self._opened_utc_us = self._opened_boot_us = 0
        self._asked_us = 0                  # since when the source is being opened
        self._cured_us = -CURE_AGAIN_US     # when a frozen picture was last given a new connection
        self._news = True                   # the state is another than the status file says
        self._history: deque[tuple[int, int, int]] = deque(maxlen=WINDOW + 1)   # boot time, samples, bytes

    # ---- the feed's thread ----

    def connecting(self) -> None:
        self._asked_us = self._clock.now().boot_us
        if self._state == "starting":
            self._set("connecting", "")

    def opened(self, opening: int, tracks: tuple[Track, ...]) -> None:
        with self._turn:
            self._opening, self._tracks, self._abandoned_us = opening, tracks, 0
            now = self._clock.now()
            self._heard_us, self._opened_utc_us, self._opened_boot_us, self._asked_us = now.boot_us, now.utc_us, now.boot_us, 0
            self._rolling.begin(tracks, lambda: self._source.repairs)

    def take(self, opening: int, item: Piece | tuple[Track, ...]) -> bool:
        with self._turn:
            if opening != self._opening:
                return False                # given up, for it stood still
            if isinstance(item, tuple):
                self._tracks = item
                self._rolling.retrack(item)
                return True
            if item.track == 0:
                self._heard_us = item.arrived_us
            self._rolling.write(item)
            return True

    def ended(self, opening: int, fault: SourceFault) -> None:
        with self._turn:
            self._abandoned_us = self._asked_us = 0
            if self._opening == opening:
                self._end(fault.end_reason)
            if fault.reason != "stopped":
                self._set("lost", fault.reason)

    # ---- the main thread ----

    def watch(self, leash: Leash, feed: Feed) -> int:
        """Until the leash says stop, or something makes it useless to go on. The exit code. OSError: the disk failed."""
        while not leash.stopped.wait(LOOK_S):
            if self._disk.failed is not None:
                raise self._disk.failed
            if not feed.alive:
                log.error("the reading thread ended stream=%s what=the worker leaves, another begins", self._spec.id)
                return STUCK
            now = self._clock.now().boot_us
            told = self._news or now - self._told_us > (TELL_S - LOOK_S / 2) * US
            with self._turn:
                self._judge(now)
                if told:
                    self._cure_frozen(now)
                if self._stands_still(now):
                    return STUCK
            if told or self._news:
                self.tell()
        return DONE

    def finish(self) -> None:
        """Record what was read, hand all to the disk and say so."""
        try:
            with self._turn:
                self._end("stopped")
        except Exception:                           # a defect must not cost what is in memory already
            log.exception("the last fragment is lost stream=%s", self._spec.id)
        self._set("lost", "stopped")
        self._disk.close()
        while not self._disk.join(TELL_S):          # as long as the disk takes: what waits in memory is footage
            self.tell()
        self.tell()
        if self._disk.failed is not None:
            raise self._disk.failed

    def cut(self) -> None:
        """Turn to a new segment at the next key frame."""
        with self._turn:
            self._rolling.cut()

    def refuse(self, reason: str) -> None:
        """Say in the status why nothing is recorded."""
        self._set("refused", reason)
        self.tell()

    def _judge(self, now: int) -> None:
        """Recording is what reaches the disk, not what comes from the camera."""
        disk = self._disk
        if disk.refusing:
            self._set("lost", disk.refusing)
        elif self._opening:
            began = bool(self._rolling.run) and disk.run == self._rolling.run and disk.run_frames > 0
            late = now - disk.newest_boot_us > LATE_US if began else now - self._opened_boot_us > KEY_US
            if late and not disk.waiting_bytes and now - self._heard_us < US:
                log.error("samples come and none is recorded stream=%s", self._spec.id)
                self._give_up(now)
            if not began or not self._opening:
                return
            if self._state != "recording":
                log.info("recording stream=%s", self._spec.id)
            self._set("recording", "disk-slow" if late else "")

    def _end(self, end_reason: str) -> None:
        self._opening = 0
        self._rolling.end(end_reason)

    def _cure_frozen(self, now: int) -> None:
        """A camera that goes on sending the very same picture, as the watcher sees it, gets a new connection: once, not again and again."""
        if self._spec.kind != "rtsp" or not self._opening or now - self._cured_us < CURE_AGAIN_US:
            return
        seen = read_watch(self._run_dir, self._spec.id)
        if seen is not None and seen.boot_id == boot_id() and seen.alarms.get("frozen", 0) > self._opened_utc_us:
            self._cured_us = now
            self._give_up(now)

    def _give_up(self, now: int) -> None:
        self._end("camera-frozen" if self._spec.kind == "rtsp" else "device-lost")
        self._set("lost", "frozen")
        self._abandoned_us = now

    def _stands_still(self, now: int) -> bool:
        """A source whose leading track brings nothing is given up; True if it does not even let go."""
        if self._opening and now - self._heard_us > FROZEN_US:
            self._give_up(now)
        return bool(self._abandoned_us and now - self._abandoned_us > STUCK_US) or bool(self._asked_us and now - self._asked_us > OPEN_US)

    def _set(self, state: str, reason: str) -> None:
        if (state, reason) != (self._state, self._reason):
            if state == "lost" and reason != "stopped":
                log.warning("stream lost stream=%s reason=%s", self._spec.id, reason)
            self._state, self._reason, self._since_us, self._news = state, reason, self._clock.now().boot_us, True

    def tell(self) -> None:
        """Renew the status file."""
        now = self._clock.now().boot_us
        self._news, self._told_us = False, now
        disk, frames = self._disk, self._disk.run_frames
        if self._history and (frames < self._history[-1][1] or disk.run_bytes < self._history[-1][2]):
            self._history.clear()       # another run
        self._history.append((now, frames, disk.run_bytes))
        then = self._history[0]
        took = max(1, now - then[0])
        leading, sync = self._tracks[0] if self._tracks else None, self._source.sync
        status = StreamStatus(
            stream=self._spec.id, kind=self._spec.kind, pid=os.getpid(), state=self._state, reason=self._reason, run=disk.run,
            seq=max(0, disk.seq - 1), since_boot_us=self._since_us, last_sample_boot_us=disk.newest_boot_us,
            last_sample_utc_us=disk.newest_utc_us, boot_id=boot_id(), frames=frames, bytes=disk.run_bytes,
            fps_x100=(frames - then[1]) * 100 * US // took, kbps=(disk.run_bytes - then[2]) * 8000 // took,
            width=leading.width if leading else 0, height=leading.height if leading else 0,
            codec="+".join(t.codec for t in self._tracks), segments=disk.segments, updated_boot_us=now, dropped=self._rolling.dropped,
            last_sound_boot_us=disk.newest_sound_boot_us, buffered_bytes=disk.waiting_bytes,
            av_drift_ppm=sync.drift_ppm if sync else None, av_offset_ms=sync.offset_ms if sync else None,
            audio_overruns=sync.overruns if sync else None)
        with suppress(OSError):         # the status is news; the recording does not stop for it
            write_status(self._run_dir, status)


class LogAside:
    """Log lines go out by a thread of their own: a pipe behind stderr that nobody reads must not stop the recording."""

    def __init__(self) -> None:
        self._root, self._lines = logging.getLogger(), queue.SimpleQueue[object]()
        self._handlers = self._root.handlers
        self._listener = QueueListener(self._lines, *self._handlers)
        self._listener.start()
        self._root.handlers = [QueueHandler(self._lines)]

    def told(self) -> bool:
        """Whether all lines get out within a second; then logging is as it was."""
        until = time.monotonic() + 1
        while not self._lines.empty() and time.monotonic() < until:
            time.sleep(0.02)
        if not self._lines.empty():
            return False
        self._listener.stop()
        self._root.handlers = self._handlers
        return True


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
    logged, clock = LogAside(), clock or SystemClock()
    disk = Disk(footage / spec.id, clock, spec.buffer_mb * 1_000_000)
    rolling, source = Rolling(spec, disk, clock, clock_state), build_source(spec)
    worker = Worker(spec, run_dir, source, rolling, disk, clock)
    feed = Feed(source, worker)
    leash = Leash(worker.cut)
    leash.hold(stdin)
    try:
        check_storage(footage, storage_uuid)
        lock = take_lock(footage / spec.id)
        if lock is None:
            worker.refuse("locked")
            log.error("another worker records this stream stream=%s", spec.id)
            return _leave(LOCKED, feed, logged)
        with lock:
            status_path(run_dir, spec.id).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            disk.start()
            feed.start()
            return _leave(worker.watch(leash, feed), feed, logged, worker)
    except StorageRefused as refusal:
        worker.refuse("storage-refused")
        log.error("%s", refusal)
        return _leave(STORAGE_REFUSED, feed, logged)
    except OSError as error:
        worker.refuse("disk-failed")
        log.error("disk failed stream=%s errno=%s what=the worker ends, the next one recovers its segment", spec.id, error.errno)
        return _leave(DISK_FAILED, feed, logged)


def _leave(code: int, feed: Feed, logged: LogAside, worker: Worker | None = None) -> int:
    """Seal what was recorded, give the camera its TEARDOWN; a thread that hangs in a driver must not hold up the end."""
    feed.stop()
    gone = not feed.started or feed.join(FEED_TAIL_S)
    if worker is not None:
        worker.finish()
    gone = gone or feed.join(FEED_END_S)
    if not logged.told() or not gone:       # at the ordinary end of a program both would be waited for
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
