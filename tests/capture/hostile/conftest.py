"""The hostile camera for the tests of the recording, and what they read from its ledger and from the recorded files."""

from __future__ import annotations

import hashlib
import http.client
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pytest

from edge.capture.sidecar import Sidecar
from edge.capture.streams import StreamSpec

HOSTILE = Path(__file__).parents[2] / "rigs" / "hostile_camera.py"


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the camera knows of its clients. See hostile_camera.py for the rows."""

    connections: int
    most: int
    total: int
    describes: list[int]
    sessions: list[dict[str, Any]]

    def pictures(self, session: int = -1) -> list[str]:
        """Digests of the whole pictures sent in a session, in order."""
        return [row[0] for row in self.sessions[session]["pictures"] if row[5]]

    def sounds(self, session: int = -1) -> list[str]:
        """Digests of the sound packets sent in a session, in order."""
        return [row[0] for row in self.sessions[session]["sounds"]]

    def last_sent_us(self, session: int = -1) -> int:
        """Boot time of the last picture sent in a session."""
        return int(self.sessions[session]["pictures"][-1][4])


class HostileCamera:
    """One camera of the rig: its settings, its faults, its ledger."""

    def __init__(self, name: str, port: int, control: int, settings: dict[str, Any]) -> None:
        self.name, self.url, self._control = name, f"rtsp://127.0.0.1:{port}/{name}", control
        self.set(**settings)

    def set(self, **settings: Any) -> None:
        """Change what the rig's class Settings names."""
        self._ask("POST", self.name, settings)

    def fault(self, kind: str, value: Any = None, after: int = 0) -> None:
        """Do `kind` when `after` more pictures are sent."""
        self._ask("POST", f"{self.name}/fault", {"kind": kind, "value": value, "after": after})

    def ledger(self) -> Ledger:
        facts = self._ask("GET", self.name, {})
        facts.pop("faults")
        return Ledger(**facts)

    def _ask(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._control, timeout=60)
        try:
            connection.request(method, f"/{path}", json.dumps(body))
            answer = connection.getresponse()
            facts: dict[str, Any] = json.loads(answer.read())
        finally:
            connection.close()
        assert answer.status == 200, facts
        return facts


class Hostile:
    """The rig's process: makes cameras."""

    def __init__(self) -> None:
        self._process = subprocess.Popen([sys.executable, HOSTILE], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        ready, port, control = self._process.stdout.readline().split()
        assert ready == b"ready"
        self._port, self._control, self._made = int(port), int(control), 0

    def camera(self, **settings: Any) -> HostileCamera:
        self._made += 1
        return HostileCamera(f"cam{self._made}", self._port, self._control, settings)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def hostile() -> Iterator[Hostile]:
    """One rig for the whole run; each test makes its own cameras on it."""
    hostile = Hostile()
    yield hostile
    hostile.close()


@dataclass(slots=True)
class Recorded:
    """The packets of some files as one: digests as the rig makes them, dts in seconds, and when the last picture and sound end."""

    pictures: list[str]
    picture_s: list[float]
    sounds: list[str]
    sound_s: list[float]
    picture_end_s: float = 0.0
    sound_end_s: float = 0.0


def slices(sample: bytes, codec: str) -> bytes:
    """The coded slices of an MP4 sample, without length fields, parameter sets and SEI."""
    at, kept = 0, []
    while at + 4 <= len(sample):
        size = int.from_bytes(sample[at:at + 4], "big")
        nal = sample[at + 4:at + 4 + size]
        if 1 <= nal[0] & 31 <= 5 if codec == "h264" else nal[0] >> 1 & 63 < 32:
            kept.append(nal.rstrip(b"\0"))      # FFmpeg leaves the first zero of the next start code with H.265
        at += 4 + size
    return b"".join(kept)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@pytest.fixture(scope="session")
def recorded() -> Any:
    """Reads files: `recorded([paths]) -> Recorded`."""

    def read(paths: list[Path]) -> Recorded:
        found = Recorded([], [], [], [])
        for path in paths:
            with av.open(str(path)) as container:
                codec = container.streams.video[0].codec_context.name if container.streams.video else ""
                for packet in container.demux():
                    if not packet.size or packet.dts is None or packet.pts is None or packet.time_base is None:
                        continue
                    at, end = (float(t * packet.time_base) for t in (packet.dts, packet.pts + (packet.duration or 0)))
                    if packet.stream.type == "video":
                        found.pictures.append(digest(slices(bytes(packet), codec)))
                        found.picture_s.append(at)
                        found.picture_end_s = max(found.picture_end_s, end)     # B-frames: not the last to come is the last to be shown
                    else:
                        found.sounds.append(digest(bytes(packet)))
                        found.sound_s.append(at)
                        found.sound_end_s = end
        return found

    return read


RECORDER = """
import asyncio, sys
from pathlib import Path
from edge.capture.recorder import Recorder
from edge.capture.streams import StreamSpec
footage, run, *specs = sys.argv[1:]
def command(spec):
    return [sys.executable, "-m", "edge.capture.worker", "--spec", spec.to_json(), "--footage", footage, "--run", run]
asyncio.run(Recorder([StreamSpec.from_json(s) for s in specs], Path(footage), Path(run), command).run())
"""


class Crew:
    """Workers that record hostile cameras, many at once; a stream is called like its camera."""

    def __init__(self, bench: Any, read: Callable[[list[Path]], Recorded], wait_until: Callable[..., Any]) -> None:
        self.bench, self.read, self.wait = bench, read, wait_until
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *cameras: HostileCamera, segment_s: int = 2, wait: bool = True, **spec: Any) -> None:
        """A worker for each camera; with `wait` they all record when this returns."""
        for camera in cameras:
            stream = StreamSpec(camera.name, "rtsp", url=camera.url, segment_s=segment_s, **spec)
            self._processes[camera.name] = self.bench.start(self.bench.worker_command(stream))
        for camera in cameras if wait else ():
            self.wait(lambda camera=camera: self.bench.state(camera.name) == "recording")

    def recorder(self, *cameras: HostileCamera) -> subprocess.Popen[bytes]:
        """A recorder process that keeps the workers of these cameras."""
        specs = [StreamSpec(camera.name, "rtsp", url=camera.url).to_json() for camera in cameras]
        command = [sys.executable, "-c", RECORDER, str(self.bench.footage), str(self.bench.run), *specs]
        process: subprocess.Popen[bytes] = self.bench.start(command)
        return process

    def sent(self, camera: HostileCamera, pictures: int, session: int = 0, seconds: float = 30) -> None:
        """Wait until the camera has sent so many pictures in one of its sessions."""
        self.wait(lambda: len((camera.ledger().sessions[session:] or [{"pictures": ()}])[0]["pictures"]) >= pictures, seconds)

    def finish(self, *cameras: HostileCamera) -> list[int]:
        """Let go of all leashes, then wait for the ends. The exit codes."""
        for camera in cameras:
            stdin = self._processes[camera.name].stdin
            assert stdin is not None
            stdin.close()
        return [self._processes[camera.name].wait(timeout=15) for camera in cameras]

    def process(self, camera: HostileCamera) -> subprocess.Popen[bytes]:
        return self._processes[camera.name]

    def files(self, camera: HostileCamera) -> list[Path]:
        return [path for path, _ in self.bench.segments(camera.name)]

    def sidecars(self, camera: HostileCamera) -> list[Sidecar]:
        return [sidecar for _, sidecar in self.bench.segments(camera.name)]

    def recorded(self, camera: HostileCamera) -> Recorded:
        """All that lies on the disk of this camera."""
        return self.read(self.files(camera))


@pytest.fixture
def crew(bench: Any, recorded: Any, wait_until: Callable[..., Any]) -> Crew:
    return Crew(bench, recorded, wait_until)


@pytest.fixture(scope="module")
def make_crew(tmp_path_factory: pytest.TempPathFactory, recorded: Any, wait_until: Callable[..., Any]) -> Iterator[Callable[[], Crew]]:
    """Crews that several tests look at."""
    from tests.capture.conftest import Bench  # the fixture of that name lives for one test only

    benches: list[Bench] = []

    def make() -> Crew:
        benches.append(Bench(tmp_path_factory.mktemp("crew")))
        return Crew(benches[-1], recorded, wait_until)

    yield make
    for bench in benches:
        bench.close()


@pytest.fixture(scope="session")
def complaints() -> Callable[[list[Path]], list[str]]:
    """What ffmpeg's decoders say against files; nothing, if they play."""

    def decode(paths: list[Path]) -> list[str]:
        said = []
        for path in paths:
            done = subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-xerror", "-i", path, "-f", "null", "-"], capture_output=True,
                                  text=True, timeout=60)
            said += [f"{path.name}: {line}" for line in done.stderr.splitlines() if "[null @" not in line and "repeated" not in line]
        return said

    return decode
