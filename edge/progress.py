"""The line at a terminal while something takes long: how far work that ends is (`Line`), and what a recording by hand does (`line`).

What `edge record` shows it reads from what the worker tells everybody (and the watcher's word on the sound, where a watcher runs), so it
costs the recording nothing and can show nothing that the disk does not have. Log lines go above it. Called by the verbs that take long.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TextIO

from edge.capture.control import StreamStatus, WatchStatus, read_status, read_watch
from edge.capture.recovery import day_folders
from edge.capture.segments import parse_stem
from edge.capture.sidecar import Sidecar, from_json
from edge.clock import US, SystemClock, boot_id

RENEW_S = 1.0
FRESH_US = 3 * US
"""A watcher renews its word each second; an older one is of somebody who has gone."""
CLEAR = "\r\x1b[K"
SOON_S = 0.2
"""The line of work that ends is renewed so often."""


class Line:
    """One line that says how far it is and how long it will take, until the block is left; silent where nobody looks."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal, self._shown = terminal, terminal.isatty()
        self._began = self._last = time.monotonic()
        self._before, self._what = 0, ""

    def __enter__(self) -> Line:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self._shown:
            self._terminal.write(CLEAR)
            self._terminal.flush()

    def told(self, done: int, total: int, what: str = "") -> None:
        """`done` of `total` bytes (or documents, of which there are few). Going back, or on to another `what`, begins a new estimate."""
        now = time.monotonic()
        if done < self._before or what != self._what:
            self._began = now
        self._before, self._what = done, what
        if not self._shown or not total or (now - self._last < SOON_S and done < total):
            return
        self._last = now
        speed = done / max(now - self._began, 0.001)
        left = (total - done) / speed if speed else 0
        amount = f"{done / 1e6:,.0f} of {total / 1e6:,.0f} MB  {speed / 1e6:,.0f} MB/s" if total > 1_000_000 else f"{done} of {total}"
        named = f"{what} " if what else ""
        self._terminal.write(f"{CLEAR}{named}{done * 100 // total:3d} %  {amount}  {left / 60:.0f} min {left % 60:.0f} s left")
        self._terminal.flush()

    def part(self, what: str, done: int, total: int) -> None:
        """The same of work in several parts, each with its name."""
        self.told(done, total, what)


class _AboveTheLine:
    """Where log lines are written while the line stands there: each takes its place, and it comes back below."""

    def __init__(self, terminal: TextIO) -> None:
        self._terminal = terminal

    def write(self, text: str) -> int:
        return self._terminal.write(CLEAR + text)

    def flush(self) -> None:
        self._terminal.flush()


@contextmanager
def line(stream: str, run: Path, footage: Path, terminal: TextIO) -> Iterator[None]:
    """Show this process's recording of `stream` on `terminal` until the block is left, then sum up."""
    began, done = SystemClock().now().boot_us, threading.Event()
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler) and h.stream is terminal]

    def renew() -> None:
        while not done.wait(RENEW_S):
            status = read_status(run, stream)
            if status is not None and status.pid == os.getpid():
                width = shutil.get_terminal_size().columns - 1
                text = describe(status, read_watch(run, stream), SystemClock().now().boot_us)
                with suppress(OSError):         # the terminal is gone; the recording is not
                    terminal.write(CLEAR + text[:width])
                    terminal.flush()

    for handler in handlers:
        handler.setStream(_AboveTheLine(terminal))
    thread = threading.Thread(target=renew, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        for handler in handlers:
            handler.setStream(terminal)
        with suppress(OSError):
            print(CLEAR + sum_up(stream, footage / stream, sealed_since(footage / stream, began)), file=terminal, flush=True)


def describe(status: StreamStatus, watch: WatchStatus | None, now_us: int) -> str:
    """The line's text. `now_us`: boot time."""
    facts = [f"{status.stream} {status.state}{f' ({status.reason})' if status.reason else ''}", f"{status.frames:,} frames",
             f"{status.fps_x100 / 100:.1f} fps", f"{status.kbps:,} kbit/s"]
    if watch is not None and watch.boot_id == boot_id() and now_us - watch.updated_boot_us < FRESH_US and watch.audio_peak_cdb is not None:
        facts.append(f"sound {watch.audio_peak_cdb / 100:.0f} dB")
    if status.last_sample_boot_us:
        facts.append(f"on disk up to {max(0, now_us - status.last_sample_boot_us) / US:.1f} s ago")
    facts.append(f"{status.segments} sealed")
    facts.append(f"{status.buffered_bytes // 1000:,} kB waiting")
    return "  ".join(facts)


def sealed_since(folder: Path, began_us: int) -> list[Sidecar]:
    """The segments of a stream's folder that began in this boot at `began_us` or later, newest first."""
    found: list[Sidecar] = []
    for day in reversed(list(day_folders(folder))):
        for path in sorted((p for p in day.glob("*.json") if parse_stem(p.stem) is not None), key=lambda p: p.name, reverse=True):
            with suppress(OSError, ValueError):
                sidecar = from_json(path.read_bytes())
                if sidecar.start.boot_id != boot_id() or sidecar.start.boot_us < began_us:
                    return found
                found.append(sidecar)
    return found


def sum_up(stream: str, folder: Path, sealed: list[Sidecar]) -> str:
    """What was written, and where."""
    if not sealed:
        return f"{stream}: nothing was recorded"
    seconds, size = sum(s.dur_us for s in sealed) / US, sum(s.bytes for s in sealed)
    return (f"{stream}: {len(sealed)} segment{'s' if len(sealed) > 1 else ''} sealed, {sum(s.frames for s in sealed):,} frames, "
            f"{seconds:.1f} s, {size / 1e6:.1f} MB below {folder}")
