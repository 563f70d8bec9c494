"""Real workers, real cameras and a real sound path for the tests of the recording: started here, ended here, nothing else is touched."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.capture.control import StreamStatus, read_status
from edge.capture.sidecar import Sidecar, from_json
from edge.capture.storage_id import init_storage
from edge.capture.streams import StreamSpec

RIGS = Path(__file__).parents[1] / "rigs"
CACHE = Path(os.environ.get("EDGE_RIGS") or Path(os.environ.get("TMPDIR") or "/var/tmp") / "edge-rigs") / "rtsp"
SYSTEM_PYTHON = "/usr/bin/python3"      # GObject belongs to the system's own


def _wait_until(what: Callable[[], Any], seconds: float = 15.0) -> Any:
    """The first true answer of `what`; the test fails if none comes in time."""
    until = time.monotonic() + seconds
    while True:
        answer = what()
        if answer:
            return answer
        if time.monotonic() > until:
            pytest.fail(f"waited {seconds} s in vain")
        time.sleep(0.03)


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    return _wait_until


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Bench:
    """A footage folder, a run folder, and workers on them."""

    def __init__(self, folder: Path) -> None:
        self.footage, self.run = folder / "footage", folder / "run"
        self.log = folder / "log"
        init_storage(self.footage)
        self._started: list[subprocess.Popen[bytes]] = []

    def worker_command(self, spec: StreamSpec) -> list[str]:
        return [sys.executable, "-m", "edge.capture.worker", "--spec", spec.to_json(), "--footage", str(self.footage),
                "--run", str(self.run)]

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)
        self._started.append(process)
        return process

    def record(self, spec: StreamSpec) -> subprocess.Popen[bytes]:
        """A worker, once it records."""
        process = self.start(self.worker_command(spec))
        _wait_until(lambda: self.state(spec.id) == "recording")
        return process

    def finish(self, process: subprocess.Popen[bytes]) -> int:
        """Let go of the leash; the exit code."""
        assert process.stdin is not None
        process.stdin.close()
        return process.wait(timeout=15)

    def status(self, stream: str) -> StreamStatus | None:
        return read_status(self.run, stream)

    def state(self, stream: str) -> str:
        status = self.status(stream)
        return status.state if status else ""

    def segments(self, stream: str) -> list[tuple[Path, Sidecar]]:
        """The sealed segments, in order."""
        paths = sorted((self.footage / stream).glob("2*/*/*/*Z.json"), key=lambda path: path.name)
        return [(path.with_suffix(".mp4"), from_json(path.read_bytes())) for path in paths]

    def wait_segments(self, stream: str, count: int, seconds: float = 20.0) -> list[tuple[Path, Sidecar]]:
        _wait_until(lambda: len(self.segments(stream)) >= count, seconds)
        return self.segments(stream)

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait()
            if process.stdin:
                process.stdin.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@pytest.fixture(scope="session")
def film() -> Path:
    """One minute of the numbered film, made once on this machine."""
    path = CACHE / "cam-h264.mkv"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "film.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            subprocess.run([SYSTEM_PYTHON, RIGS / "rtsp-cams", "media", "h264", "--minutes", "1"], check=True, timeout=300,
                           env={**os.environ, "RTSP_HOME": str(CACHE)}, stdout=subprocess.DEVNULL)
    return path


class Camera:
    """One live camera of rtsp-cams, and its faults."""

    def __init__(self, home: Path, film: Path, *options: str) -> None:
        self._env = {**os.environ, "RTSP_HOME": str(home)}
        self._control = _free_port()
        port = _free_port()
        self.url = f"rtsp://127.0.0.1:{port}/cam1"
        self._rig("start", "--cams", "1", "--port", str(port), "--control", str(self._control), "--file", str(film), "--max-s", "300",
                  *options)

    def fault(self, action: str) -> None:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._control}/cam1/{action}?p=0", timeout=10) as answer:
            assert answer.status == 200

    def stop(self) -> None:
        self._rig("stop")

    def _rig(self, *arguments: str) -> None:
        subprocess.run([SYSTEM_PYTHON, RIGS / "rtsp-cams", *arguments], check=True, env=self._env, stdout=subprocess.DEVNULL, timeout=40)


@pytest.fixture
def camera(tmp_path: Path, film: Path) -> Iterator[Camera]:
    home = tmp_path / "camera"
    home.mkdir()
    camera = Camera(home, film)
    yield camera
    camera.stop()


@pytest.fixture
def locked_camera(tmp_path: Path, film: Path) -> Iterator[Camera]:
    """A camera that wants the user `room` and the password `a:b/c@d`."""
    home = tmp_path / "locked"
    home.mkdir()
    camera = Camera(home, film, "--auth", "room:a:b/c@d", "--no-audio")
    yield camera
    camera.stop()


@pytest.fixture
def replayed(tmp_path: Path, film: Path) -> Iterator[str]:
    """The address of a camera with G.711 sound that begins at frame 0 for each client."""
    clip = tmp_path / "clip.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-i", film, "-t", "12", "-c", "copy", clip], check=True, timeout=60)
    port = _free_port()
    server = subprocess.Popen([SYSTEM_PYTHON, RIGS / "rtsp_camera.py", str(port), f"/old={clip}:h264:alaw"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout is not None
    assert server.stdout.readline().strip() == b"ready"
    yield f"rtsp://127.0.0.1:{port}/old"
    server.terminate()
    server.wait(timeout=10)
    server.stdout.close()


@pytest.fixture
def framecheck() -> Callable[[list[Path]], tuple[int, str]]:
    """Status (0: every frame once and in order) and text of the rig that reads the numbers in the picture."""

    def check(files: list[Path]) -> tuple[int, str]:
        done = subprocess.run([sys.executable, RIGS / "framecheck.py", *files], capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    return check


@pytest.fixture
def sound_card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A sound server whose loudspeaker is the default microphone; the folder to name to the rig. Its path must be short."""
    folder = Path(f"/tmp/esc-{os.getpid()}")
    shown = subprocess.run([RIGS / "sound-card", "start", folder], check=True, capture_output=True, text=True, timeout=30).stdout
    for setting in shown.removeprefix("export ").split():
        name, _, value = setting.partition("=")
        monkeypatch.setenv(name, value)
    yield folder
    subprocess.run([RIGS / "sound-card", "stop", folder], check=True, timeout=30)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def tone(sound_card: Path) -> Iterator[None]:
    """440 Hz in the loudspeaker for as long as the test runs."""
    player = subprocess.Popen([RIGS / "sound-card", "tone", sound_card, "440", "60"], start_new_session=True, stderr=subprocess.DEVNULL)
    yield
    os.killpg(player.pid, signal.SIGTERM)
    player.wait(timeout=10)
