"""What the benches of the recording stand on: live cameras on loopback, our workers, their peers, and what the kernel says of each.

All of it starts below one new folder, ends by process id, and leaves nothing. Called by record and crash.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType

from edge.capture.control import read_status
from edge.capture.storage_id import init_storage
from edge.capture.streams import StreamSpec

HOUSE = Path(__file__).resolve().parents[1]
RIGS = HOUSE / "tests" / "rigs"
CACHE = Path(os.environ.get("EDGE_RIGS") or Path(os.environ.get("TMPDIR") or "/var/tmp") / "edge-rigs") / "rtsp"   # noqa: S108 (the rigs' own)
SYSTEM_PYTHON = "/usr/bin/python3"      # GObject belongs to the system's own
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
READY_S, END_S = 40.0, 15.0


class Unfit(Exception):
    """The bench cannot be run here, or what it measured would mean nothing; the text says why and what to do."""


class Hall:
    """A folder with cameras, workers and peers in it. `with` ends all of them and removes the folder."""

    def __init__(self, cameras: int, max_s: int) -> None:
        self._cameras, self._max_s = cameras, max_s
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Hall:
        for name in ("ffmpeg", "ffprobe", SYSTEM_PYTHON):
            if shutil.which(name) is None:
                raise Unfit(f"{name} is missing. Run: ./run --setup-only=test")
        signal.signal(signal.SIGTERM, _leave)
        film = make_film()
        self.folder = Path(tempfile.mkdtemp(prefix="edge-bench-", dir=os.environ.get("TMPDIR") or "/var/tmp"))      # noqa: S108
        self.footage, self.run, self.peers = (self.folder / name for name in ("footage", "run", "peers"))
        self._home, self._port, self._control = self.folder / "cameras", _free_port(), _free_port()
        try:
            init_storage(self.footage)
            self.peers.mkdir()
            self._home.mkdir()
            self._rig("start", "--cams", str(self._cameras), "--port", str(self._port), "--control", str(self._control),
                      "--file", str(film), "--max-s", str(self._max_s))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End what runs, by its id, and remove the folder."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdin:
                process.stdin.close()
        self._rig("stop", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- cameras ----

    def url(self, number: int) -> str:
        """The address of camera `number`, counted from 1."""
        return f"rtsp://127.0.0.1:{self._port}/cam{number}"

    def sent(self) -> dict[str, dict[str, int]]:
        """What each camera says of itself: `frame` (number in the film of the one sent last), `skipped`, `most_late_ms`."""
        return _facts(self._rig("status"))

    def frame_sent(self, number: int) -> int:
        """The number in the film of the frame that camera `number` sent last, within some milliseconds."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._control}/cam{number}/?p=0", timeout=10) as answer:
            return _facts(answer.read().decode())[f"cam{number}"]["frame"]

    def _rig(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run([SYSTEM_PYTHON, RIGS / "rtsp-cams", *arguments], env={**os.environ, "RTSP_HOME": str(self._home)},
                              capture_output=True, text=True, timeout=60)
        if check and done.returncode:
            raise Unfit(f"the cameras did not {arguments[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
        return done.stdout

    # ---- recorders ----

    def start(self, command: Sequence[str | Path], label: str) -> subprocess.Popen[bytes]:
        """A program whose words go to `<label>.log`."""
        with (self.folder / f"{label}.log").open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=HOUSE,
                                       env={**os.environ, "PYTHONPATH": str(HOUSE)})
        self._started.append(process)
        return process

    def worker(self, stream: str, camera: int, segment_s: int,
               program: Sequence[str] = ("-m", "edge.capture.worker")) -> subprocess.Popen[bytes]:
        """Our worker on a camera. `program`: another way into the same worker."""
        spec = StreamSpec(stream, "rtsp", url=self.url(camera), segment_s=segment_s)
        return self.start([sys.executable, *program, "--spec", spec.to_json(), "--footage", self.footage, "--run", self.run], stream)

    def ffmpeg(self, name: str, camera: int, *output: str) -> subprocess.Popen[bytes]:
        """The ffmpeg command line on a camera; `output`: its options and file, below `peers`."""
        *options, file = output
        return self.start(["ffmpeg", "-nostdin", "-v", "error", "-rtsp_transport", "tcp", "-i", self.url(camera), "-map", "0", "-c", "copy",
                           *options, self.peers / file], name)

    def has_begun(self, file: str) -> bool:
        """Whether a peer's file below `peers` has something in it."""
        path = self.peers / file
        return path.exists() and path.stat().st_size > 0

    def recording(self, stream: str) -> bool:
        """Whether our worker has something of its run on the disk."""
        status = read_status(self.run, stream)
        return status is not None and status.state == "recording"

    def segments(self, stream: str) -> list[Path]:
        """Our media files of a stream, in order."""
        return sorted((self.footage / stream).glob("2*/*/*/*Z.mp4"), key=lambda path: path.name)

    def wait(self, what: Callable[[], bool], told: str) -> None:
        """Until `what` is so. Unfit, with the last words of the logs, if it does not come."""
        until = time.monotonic() + READY_S
        while not what():
            if time.monotonic() > until:
                words = [log.read_text(errors="replace")[-200:].strip() for log in sorted(self.folder.glob("*.log"))]
                raise Unfit(f"waited {READY_S:.0f} s in vain until {told}. The logs end: {' | '.join(filter(None, words))}")
            time.sleep(0.05)


def finish(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Let each end properly: ours when its leash is let go, the others by SIGINT."""
    for process in processes:
        if process.stdin:
            process.stdin.close()
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + END_S
    for process in processes:
        process.wait(timeout=max(0.1, until - time.monotonic()))


def make_film() -> Path:
    """One minute of the numbered film, made once on a machine (10-20 s)."""
    path = CACHE / "cam-h264.mkv"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "film.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            subprocess.run([SYSTEM_PYTHON, RIGS / "rtsp-cams", "media", "h264", "--minutes", "1"], check=True, timeout=300,
                           env={**os.environ, "RTSP_HOME": str(CACHE)}, stdout=subprocess.DEVNULL)
    return path


def framecheck(files: Sequence[Path], timeout_s: float) -> str:
    """What the rig that reads the numbers in the picture says of these files, taken as one recording."""
    return subprocess.run([sys.executable, RIGS / "framecheck.py", *files], capture_output=True, text=True, timeout=timeout_s).stdout


def cpu_s(pid: int) -> float:
    """Seconds of processor that a process and its ended children used, user and system, to the kernel's tick (10 ms)."""
    words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return sum(map(int, words[11:15])) * TICK_S


def rss_mb(pid: int) -> float:
    """Resident memory, shared libraries included, in MB of 1024 kB."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def conditions() -> dict[str, str]:
    """Machine, versions and load, for a figure without them says nothing."""
    ffmpeg = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True).stdout.split()[2]
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "-C", HOUSE, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return {"machine": f"{os.cpu_count()} x {model}", "load_before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
            "python": platform.python_version(), "ffmpeg": ffmpeg, "commit": commit or "unknown",
            "source": "rtsp-cams: 1920x1080, 25/s, H.264 4 Mbit/s, key frame every 2 s, AAC mono 48 kHz; RTSP over TCP, loopback"}


def _facts(text: str) -> dict[str, dict[str, int]]:
    """The whole numbers in the cameras' report, one camera a line."""
    return {line.partition(" ")[0]: {name: int(value) for name, value in re.findall(r"'(\w+)': (-?\d+)(?=[,}])", line)}
            for line in text.splitlines()}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
