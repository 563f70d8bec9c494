"""The line at the terminal: a real pseudo-terminal, a real recording, a real Ctrl-C."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge import progress
from edge.capture.control import StreamStatus, WatchStatus
from edge.capture.sidecar import from_json
from edge.capture.storage_id import init_storage
from edge.clock import boot_id

STATUS = StreamStatus(
    stream="cam-1", kind="pattern", pid=1, state="recording", reason="", run="", seq=2, since_boot_us=0, last_sample_boot_us=99_600_000,
    last_sample_utc_us=0, boot_id=boot_id(), frames=12345, bytes=0, fps_x100=2498, kbps=4102, width=640, height=360, codec="h264",
    segments=2, updated_boot_us=0, dropped=0, buffered_bytes=2_048_000)
WATCH = WatchStatus("cam-1", boot_id(), 99_000_000, 2, "1", 0, 0, -2340, 0)


def test_the_line_says_what_is_on_the_disk() -> None:
    line = progress.describe(STATUS, WATCH, 100_000_000)
    assert line == ("cam-1 recording  12,345 frames  25.0 fps  4,102 kbit/s  sound -23 dB  on disk up to 0.4 s ago  2 sealed  "
                    "2,048 kB waiting")


@pytest.mark.parametrize("watch", [None, replace(WATCH, updated_boot_us=90_000_000), replace(WATCH, boot_id="x"),
                                   replace(WATCH, audio_peak_cdb=None)])
def test_a_sound_level_that_nobody_vouches_for_is_left_out(watch: WatchStatus | None) -> None:
    assert "dB" not in progress.describe(STATUS, watch, 100_000_000)


def test_why_nothing_is_recorded_stands_in_the_line() -> None:
    line = progress.describe(replace(STATUS, state="lost", reason="no-answer", last_sample_boot_us=0), None, 100_000_000)
    assert line.startswith("cam-1 lost (no-answer)") and "on disk" not in line


class Terminal:
    """A program at a pseudo-terminal of 200 columns, its controlling one, so that Ctrl-C is a keystroke."""

    def __init__(self, folder: Path, *command: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen([sys.executable, "-m", "edge", *command], stdin=slave, stdout=slave, stderr=slave, env=environment,
                                        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.text = ""

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def read_until(self, what: Callable[[], bool], seconds: float = 20.0) -> None:
        until = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < until, self.text
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self._master, 65536).decode()
                except OSError:                 # EIO: the program has gone, or is about to
                    self.process.wait(timeout=10)
                    assert what(), self.text
                    return

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    init_storage(tmp_path / "footage")
    config = tmp_path / "edge.toml"
    config.write_text('[room]\ncode = "000000-DEMO-R01"\nname = "x"\n[paths]\nstate = "state"\nfootage = "footage"\nrun = "run"\n'
                      '[recording]\nsegment_s = 2\n[platform]\nurl = "http://127.0.0.1:1"\n[[streams]]\nid = "cam-1"\nkind = "pattern"\n'
                      'name_zh = "x"\nname_en = "x"\nwidth = 320\nheight = 240\nfps = 10\n')
    started: list[Terminal] = []

    def start(*options: str) -> Terminal:
        started.append(Terminal(tmp_path, "record", "--config", str(config), "--stream", "cam-1", *options))
        return started[-1]

    yield start
    for each in started:
        each.close()


def sealed(footage: Path) -> list[int]:
    return [from_json(path.read_bytes()).frames for path in sorted(footage.glob("cam-1/2*/*/*/*Z.json"))]


def test_a_recording_by_hand_shows_its_line_and_sums_up_at_ctrl_c(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    by_hand = terminal()
    by_hand.read_until(lambda: re.search(r"cam-1 recording +[0-9]+ frames .* [1-9] sealed", by_hand.text) is not None)
    by_hand.type(b"\x03")
    by_hand.read_until(lambda: "MB below" in by_hand.text)
    assert by_hand.process.wait(timeout=10) == 0
    frames = sealed(tmp_path / "footage")
    assert f"{len(frames)} segment{'s' if len(frames) > 1 else ''} sealed, {sum(frames):,} frames" in by_hand.text.replace("\r\n", "\n")
    assert str(tmp_path / "footage" / "cam-1") in by_hand.text
    lines = re.findall(r"\r\x1b\[K(cam-1 recording[^\r\n]*)", by_hand.text)
    assert len(lines) >= 2 and all(len(line) < 200 for line in lines)
    assert re.search(r"\r\x1b\[KINFO [^\r\n]*recording stream=cam-1\r?\n", by_hand.text), "log lines stand by themselves"


def test_quiet_shows_nothing(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    quiet = terminal("--quiet")
    quiet.read_until(lambda: bool(sealed(tmp_path / "footage")))
    quiet.type(b"\x03")
    quiet.read_until(lambda: quiet.process.poll() is not None)
    assert quiet.process.returncode == 0
    assert progress.CLEAR not in quiet.text and "MB below" not in quiet.text


def test_work_that_ends_says_which_part_and_how_far_and_leaves_no_line_behind() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as far, progress.Line(far) as line:
        line.part("database", 1, 1)
        line.part("files", 3_000_000, 3_000_000)
    shown = os.read(master, 65536).decode()
    os.close(master)
    first, second = re.findall(r"\r\x1b\[K([^\r]+)", shown)
    assert first.startswith("database 100 %  1 of 1 ") and second.startswith("files 100 %  3 of 3 MB ")
    assert shown.endswith(progress.CLEAR)


def test_work_that_ends_is_silent_where_nobody_looks() -> None:
    nobody = io.StringIO()
    with progress.Line(nobody) as line:
        line.told(1, 1)
    assert nobody.getvalue() == ""
