"""Real drivers: a V4L2 camera and an ALSA sound card of Debian's own kernel, recorded, pulled out and put back while the worker runs.

The machine is `tests/rigs/room-vm`: Debian 12 in qemu, emulated, ten times slower than the host; `vivid` is its camera (640x360),
`snd-aloop` its sound card (a second one plays the same microphone plugged in again: it comes back under another number, as on a real
PC). What is recorded there is fetched and judged here.
LIMIT: no USB bus carries them, so what USB itself does (power, bandwidth) is not shown.
"""

from __future__ import annotations

import io
import itertools
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from edge import durable
from edge.capture.control import StreamStatus, read_status, status_path
from edge.capture.recovery import read_whole
from edge.capture.sidecar import Sidecar, from_json
from edge.capture.streams import StreamSpec
from edge.capture.timeline import MOST_PPM
from edge.clock import US

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RIG = ROOT / "tests" / "rigs" / "room-vm"
RIGS_HOME = Path(os.environ.get("EDGE_RIGS") or Path(os.environ.get("TMPDIR") or "/var/tmp") / "edge-rigs")
HOME = Path(os.environ.get("ROOM_HOME") or RIGS_HOME / "room")
WHEELS = "av numpy opencv-python-headless sounddevice"
BUILD = f'tests/rigs/room-vm install && ROOM_PIP="{WHEELS}" tests/rigs/room-vm build   (as root, about three minutes, 1.7 GB)'
SLOW_S = 60.0
"""A worker takes ten seconds there to load its libraries."""

CAMERA = "/dev/v4l/by-path/platform-vivid.0-video-index0"
VIVID, ALOOP = "/sys/bus/platform/drivers/vivid", "/sys/bus/platform/drivers/snd_aloop"
MICROPHONE = ",1)"
"""The loopback card's recording half, `Loopback: PCM (hw:0,1)`, whatever the number of the card."""
FPS = 10
TONE = "/srv/data/tone.wav"
MAKE_TONE = f"""
import wave
import numpy as np
with wave.open({TONE!r}, "wb") as file:
    file.setparams((1, 2, 48000, 0, "NONE", ""))
    for _ in range(300):
        file.writeframes((np.sin(2 * np.pi * 440 * np.arange(48000) / 48000) * 8000).astype("<i2").tobytes())
"""

Found = list[tuple[Path, Sidecar]]


class Guest:
    """The virtual PC. Commands run there as root; whatever is to stay runs as a unit of its systemd."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._env = folder, {**os.environ, "ROOM": f"test{os.getpid()}"}
        self._count = 0
        self._rig("boot", "--fresh", timeout=400)
        self.run("mkdir -p /opt/project")
        package = io.BytesIO()
        with tarfile.open(fileobj=package, mode="w") as tar:
            tar.add(ROOT / "edge", "edge", filter=lambda entry: None if "__pycache__" in entry.name else entry)
        self.run("tar -C /opt/project --no-same-owner -m -xf -", stdin=package.getvalue())
        self.run(f"/opt/venv/bin/python -c 'import {WHEELS.replace('opencv-python-headless', 'cv2').replace(' ', ', ')}'")

    def run(self, command: str, timeout: float = 120, stdin: bytes = b"") -> bytes:
        """What the command printed; the test fails if it fails."""
        return self._rig("exec", "--timeout", str(timeout), command, timeout=timeout + 30, stdin=stdin)

    def _rig(self, *arguments: str, timeout: float, stdin: bytes = b"") -> bytes:
        done = subprocess.run([RIG, *arguments], env=self._env, capture_output=True, timeout=timeout, input=stdin)
        assert done.returncode == 0, (arguments[-1], done.stdout[-500:], done.stderr[-500:])
        return done.stdout

    def unit(self, name: str, command: str) -> None:
        """Start something that goes on."""
        self.run(f"systemctl reset-failed {name} 2>/dev/null; "
                 f"systemd-run -q --unit={name} --working-directory=/opt/project sh -c {quoted(command)}")

    def stop(self, *names: str) -> None:
        self.run(f"systemctl stop {' '.join(names)}; systemctl reset-failed")

    def boot_us(self) -> int:
        return round(float(self.run("cut -d' ' -f1 /proc/uptime")) * US)

    def record(self, spec: StreamSpec) -> Recording:
        self._count += 1
        return Recording(self, spec, self._folder / f"recording{self._count}")

    def end(self) -> None:
        """Nothing of it is wanted any more."""
        self._rig("cut", timeout=60)
        shutil.rmtree(HOME / self._env["ROOM"], ignore_errors=True)


class Recording:
    """A worker in the guest, and what it wrote."""

    def __init__(self, guest: Guest, spec: StreamSpec, folder: Path) -> None:
        self._guest, self._spec, self._folder = guest, spec, folder
        make = "from pathlib import Path; from edge.capture.storage_id import init_storage; init_storage(Path('/srv/data/f'))"
        guest.run(f"rm -rf /srv/data/f /run/edge; mkdir -p /run/edge; cd /opt/project; /opt/venv/bin/python -c {quoted(make)}")
        guest.unit("worker", f"tail -f /dev/null | exec /opt/venv/bin/python -m edge.capture.worker --spec {quoted(spec.to_json())} "
                             "--footage /srv/data/f --run /run/edge 2>/run/edge/log")

    def status(self) -> StreamStatus | None:
        """What the worker last said of itself."""
        local = status_path(self._folder, self._spec.id)
        local.parent.mkdir(parents=True, exist_ok=True)
        local.write_bytes(self._guest.run(f"cat {status_path(Path('/run/edge'), self._spec.id)} || true"))
        return read_status(self._folder, self._spec.id)

    def log(self) -> str:
        return self._guest.run("cat /run/edge/log").decode()

    def finish(self) -> Found:
        """Stop it; the sealed segments, fetched."""
        self._guest.stop("worker")
        packed = self._guest.run(f"tar -C /srv/data/f -cf - {self._spec.id}")
        subprocess.run(["tar", "-C", self._folder, "--no-same-owner", "-xf", "-"], input=packed, check=True, timeout=60)
        paths = sorted((self._folder / self._spec.id).glob("2*/*/*/*Z.json"), key=lambda path: path.name)
        assert not list(self._folder.rglob("*.open.json"))
        return [(path.with_suffix(".mp4"), from_json(path.read_bytes())) for path in paths]


def quoted(text: str) -> str:
    """For the guest's shell."""
    return "'" + text.replace("'", "'\\''") + "'"


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip(f"no qemu: {BUILD}")
    if not (HOME / "base.ext4").exists():
        pytest.skip(f"no virtual PC in {HOME}: {BUILD}")
    guest = Guest(tmp_path_factory.mktemp("guest"))
    yield guest
    guest.end()


@pytest.fixture
def camera(guest: Guest) -> Iterator[None]:
    """The camera, plugged in."""
    guest.run(f"modprobe vivid; test -e {VIVID}/vivid.0 || echo vivid.0 > {VIVID}/bind; udevadm settle; test -e {CAMERA}")
    yield
    guest.stop("worker")


@pytest.fixture
def sound_card(guest: Guest) -> Iterator[None]:
    """One sound card that hears 440 Hz; a second one waits to be plugged in."""
    guest.run(f"modprobe snd-aloop enable=1,1 index=0,1 pcm_substreams=2,2; echo snd_aloop.1 > {ALOOP}/unbind")
    guest.run(f"test -e {TONE} || /opt/venv/bin/python -c {quoted(MAKE_TONE)}")
    play(guest, 0)
    yield
    guest.stop("worker", "tone")
    guest.run("rmmod snd-aloop")


def play(guest: Guest, card: int) -> None:
    guest.unit("tone", f"exec aplay -q -D hw:{card},0 --buffer-time=400000 {TONE}")


def pull_card(guest: Guest) -> None:
    """The driver waits for whoever holds the card, so pulling is a unit of its own."""
    guest.stop("tone")
    guest.unit("pull", f"echo snd_aloop.0 > {ALOOP}/unbind")


def plug_card(guest: Guest) -> None:
    guest.run(f"echo snd_aloop.1 > {ALOOP}/bind; udevadm settle")
    play(guest, 1)


def check(found: Found) -> None:
    """Sidecars and files agree, every file plays to its end, numbers have no hole, the segments of a run meet."""
    for path, sidecar in found:
        assert durable.sha256_file(path) == sidecar.sha256 and read_whole(path).whole == sidecar.bytes
        with av.open(str(path)) as container:
            leading = container.streams[0]
            shown = sum(frame.samples if isinstance(frame, av.AudioFrame) else 1 for frame in container.decode(leading))
            assert shown == sidecar.frames * (1024 if leading.type == "audio" else 1)
        on_axis_us = sidecar.end.boot_us - sidecar.start.boot_us
        assert abs(on_axis_us - sidecar.dur_us) <= sidecar.dur_us * MOST_PPM // US + 1
    assert [s.seq for _, s in found] == list(range(len(found)))
    for (_, a), (_, b) in itertools.pairwise(found):
        assert b.start == a.end if a.run == b.run else b.start.boot_us >= a.end.boot_us - 200_000


def pitch(path: Path) -> float:
    """The strongest frequency of a file's sound, Hz."""
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].codec_context.sample_rate
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    middle = sound[len(sound) // 4: -len(sound) // 4]
    return float(np.argmax(np.abs(np.fft.rfft(middle * np.hanning(len(middle))))) * rate / len(middle))


def recording(recorded: Recording, wait_until: Callable[..., Any], segments: int = 0, not_run: str = "") -> StreamStatus:
    """The status once it records, in another run than `not_run`, and has sealed so many segments."""
    def look() -> StreamStatus | None:
        status = recorded.status()
        return status if status and status.state == "recording" and status.run != not_run and status.segments >= segments else None
    answer: StreamStatus = wait_until(look, SLOW_S)
    return answer


def lost(recorded: Recording, wait_until: Callable[..., Any]) -> StreamStatus:
    """The status once the device is gone and its segment sealed."""
    def look() -> StreamStatus | None:
        status = recorded.status()
        return status if status and status.state == "lost" else None
    answer: StreamStatus = wait_until(look, 30.0)
    return answer


def check_pace(found: Found) -> None:
    """FPS pictures a second at best, never more. The emulated PC misses some while it loads a library or its host is busy."""
    whole = [s.frames * US / s.dur_us for _, s in found if s.end_reason == "rotated" and s.dur_us > 4 * US]
    assert 0.9 * FPS <= max(whole) <= 1.1 * FPS, whole


@pytest.mark.usefixtures("camera")
def test_usb_camera_pulled_out_and_put_back(guest: Guest, wait_until: Callable[..., Any]) -> None:
    """Twice: its driver goes away with its node, and a camera that answers ENODEV while the node still stands."""
    recorded = guest.record(StreamSpec("cam", "usb", device=CAMERA, width=640, height=360, fps=FPS, segment_s=5))
    first = recording(recorded, wait_until, segments=2)
    assert (first.width, first.height, first.codec) == (640, 360, "h264")
    pulled = [guest.boot_us()]
    guest.run(f"echo vivid.0 > {VIVID}/unbind")
    assert lost(recorded, wait_until).reason in ("camera-gone", "no-camera")
    guest.run(f"echo vivid.0 > {VIVID}/bind")
    second = recording(recorded, wait_until, segments=first.segments + 3, not_run=first.run)
    pulled.append(guest.boot_us())
    guest.run("v4l2-ctl -d /dev/video0 -c disconnect=1")
    assert lost(recorded, wait_until).reason in ("frozen", "camera-gone", "no-camera", "camera-busy", "no-picture")
    guest.run(f"echo vivid.0 > {VIVID}/unbind; echo vivid.0 > {VIVID}/bind")
    recording(recorded, wait_until, segments=second.segments + 2, not_run=second.run)
    found = recorded.finish()
    check(found)
    check_pace(found)
    assert [s.end_reason for _, s in found if s.end_reason != "rotated"] == ["device-lost", "device-lost", "stopped"]
    assert len({s.run for _, s in found}) == 3
    ends = [s.end.boot_us for _, s in found if s.end_reason == "device-lost"]
    for end_us, pulled_us in zip(ends, pulled, strict=True):       # what it had sent until then is there
        assert -2 * US < end_us - pulled_us < 5 * US


@pytest.mark.usefixtures("sound_card")
def test_microphone_pulled_out_and_put_back(guest: Guest, wait_until: Callable[..., Any]) -> None:
    recorded = guest.record(StreamSpec("mic", "microphone", device=MICROPHONE, segment_s=5))
    first = recording(recorded, wait_until, segments=2)
    pull_card(guest)
    pulled_us = guest.boot_us()
    assert lost(recorded, wait_until).reason in ("frozen", "silent-card", "microphone-gone", "no-microphone")
    plug_card(guest)
    recording(recorded, wait_until, segments=first.segments + 3, not_run=first.run)
    found = recorded.finish()
    check(found)
    reasons = [s.end_reason for _, s in found]
    assert [r for r in reasons if r != "rotated"] == ["device-lost", "stopped"]
    cut = reasons.index("device-lost")
    assert found[cut][1].run != found[cut + 1][1].run
    assert -2 * US < found[cut][1].end.boot_us - pulled_us < 3 * US
    assert all(abs(pitch(found[at][0]) - 440) < 6 for at in (1, cut + 2))      # the resampler still settles
    for _, s in found[1:cut]:
        assert abs(s.frames * 1024 / 48000 - s.dur_us / US) < 0.1


@pytest.mark.usefixtures("camera", "sound_card")
def test_microphone_beside_a_camera_goes_and_comes_back(guest: Guest, wait_until: Callable[..., Any]) -> None:
    """The picture never waits for the sound; segments say whether they have any."""
    recorded = guest.record(StreamSpec("cam", "usb", device=CAMERA, sound=MICROPHONE, width=640, height=360, fps=FPS, segment_s=5))
    first = recording(recorded, wait_until, segments=3)
    assert first.codec == "h264+aac" and first.av_offset_ms is not None and abs(first.av_offset_ms) <= 100
    pull_card(guest)
    pulled_us = guest.boot_us()
    silent = recording(recorded, wait_until, segments=first.segments + 4)
    assert silent.run == first.run and silent.last_sound_boot_us < pulled_us + 2 * US
    plug_card(guest)
    back = wait_until(lambda: (s := recorded.status()) and s.last_sound_boot_us > silent.updated_boot_us and s, SLOW_S)
    recording(recorded, wait_until, segments=back.segments + 3)
    guest.run(f"echo vivid.0 > {VIVID}/unbind")
    lost(recorded, wait_until)
    found = recorded.finish()
    check(found)
    check_pace(found)
    with_sound = [s.codec == "h264+aac" for _, s in found]
    assert [has for has, _ in itertools.groupby(with_sound)] in ([True, False, True], [False, True, False, True])
    assert len({s.run for _, s in found}) == 1 and found[-1][1].end_reason == "device-lost"
    both = [(path, s) for path, s in found[2:] if s.codec == "h264+aac" and s.end_reason == "rotated"]
    assert all(abs(pitch(both[at][0]) - 440) < 6 for at in (0, -1))
