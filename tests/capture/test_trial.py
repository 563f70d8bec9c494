"""What arrives from a camera is measured by opening it, and never beside a worker that records it."""

from __future__ import annotations

import fcntl
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from av.packet import Packet

from edge.capture import trial
from edge.capture.sidecar import Fragment, Sidecar, to_json
from edge.capture.streams import StreamSpec
from edge.capture.trial import Arrival, look
from edge.clock import Stamp


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port at which somebody could call, and is heard if he does."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        server.setblocking(False)
        yield server


def spec_for(server: socket.socket) -> StreamSpec:
    return StreamSpec("cam-1", "rtsp", url=f"rtsp://127.0.0.1:{server.getsockname()[1]}/cam1")


def was_called(server: socket.socket) -> bool:
    try:
        caller, _ = server.accept()
    except BlockingIOError:
        return False
    caller.close()
    return True


SEGMENT = Sidecar(
    stream="cam-1", seq=4, run="0f" * 16, start=Stamp(1_795_498_303_000_000, 5_000_000, "b"),
    end=Stamp(1_795_498_307_000_000, 9_000_000, "b"), dur_us=4_000_000, frame_us=40_000, frames=100, dropped=0, bytes=501_000,
    sha256="ab" * 32, header_bytes=1000, media_start_us=1_000_000, codec="h264+aac",
    fragments=tuple(Fragment(1000 + n * 125_000, 125_000, 1_000_000 * (n + 1), 1_000_000, n % 2 == 0) for n in range(4)),
    tracks={"video": {"codec": "h264", "width": 1280, "height": 720}, "audio": {"codec": "aac"}}, clock_state="synced",
    end_reason="rotated")


def test_a_stream_that_a_worker_holds_is_not_opened_a_second_time(tmp_path: Path, listener: socket.socket) -> None:
    day = tmp_path / "cam-1" / "2026" / "11" / "24"
    day.mkdir(parents=True)
    with (tmp_path / "cam-1" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert look(spec_for(listener), tmp_path) == Arrival("cam-1", "nothing", "busy")
        (day / "0000000004-20261124T053143Z.json").write_bytes(to_json(SEGMENT))
        (day / "0000000005-20261124T053147Z.json").write_bytes(b"torn")
        (day / "0000000006-20261124T053151Z.open.json").write_bytes(b"{}")
        (day / "0000000004-20261124T053143Z.watch.json").write_bytes(b"{}")
        assert look(spec_for(listener), tmp_path) == Arrival(
            "cam-1", "recorded", utc_us=1_795_498_303_000_000, codec="h264", width=1280, height=720, fps_x100=2500, kbps=1002,
            gop_min_ms=2000, gop_max_ms=2000, sound="aac")
    assert not was_called(listener)


def test_a_stream_that_nobody_holds_is_opened(tmp_path: Path, listener: socket.socket) -> None:
    (tmp_path / "cam-1").mkdir()
    (tmp_path / "cam-1" / ".lock").touch()
    command = [sys.executable, "-m", "edge.capture.trial", "--spec", spec_for(listener).to_json(), "--footage", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    listener.setblocking(True)
    listener.settimeout(20)
    caller, _ = listener.accept()
    with (tmp_path / "cam-1" / ".lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    caller.close()
    output, _ = process.communicate(timeout=20)
    assert json.loads(output)["how"] == "nothing"


def test_a_lock_that_cannot_be_read_is_no_leave_to_open(tmp_path: Path, listener: socket.socket) -> None:
    (tmp_path / "cam-1").mkdir()
    (tmp_path / "cam-1" / ".lock").symlink_to(".lock")          # ELOOP for everybody; EACCES for another user, but never for root
    assert look(spec_for(listener), tmp_path) == Arrival("cam-1", "nothing", "not-allowed")
    assert not was_called(listener)


@pytest.mark.parametrize(("credentials", "fault"), [("no colon", "credentials-unreadable"), (None, "refused")])
def test_what_cannot_be_opened_says_why(tmp_path: Path, credentials: str | None, fault: str) -> None:
    file = tmp_path / "account"
    file.write_text(credentials or "")
    spec = StreamSpec("cam-1", "rtsp", url="rtsp://127.0.0.1:9/cam1", credentials=file if credentials else None)
    assert look(spec, tmp_path) == Arrival("cam-1", "nothing", fault)


def packets(times: list[tuple[int, bool]]) -> Iterator[Packet[Any]]:
    """Packets of 1,000 bytes with these pts (1/90000 s), in the order they are sent."""
    for pts, key in times:
        packet = av.Packet(1000)
        packet.pts, packet.is_keyframe, packet.time_base = pts, key, Fraction(1, 90000)
        yield packet


@pytest.mark.parametrize(("order", "b_frames"), [(lambda n: n, False), (lambda n: (0, 3, 1, 2)[n % 4] + n // 4 * 4, True)])
def test_frames_key_frames_and_b_frames_are_counted_by_the_cameras_own_time(order: Any, b_frames: bool) -> None:
    seen = trial._Seen(1 / 90000, 0.0)
    for packet in packets([(order(n) * 3600, n % 25 == 0) for n in range(100)]):
        seen.take(packet, 5.0)
    arrival = seen.arrival("cam-1", "hevc", 640, 360, "pcm_alaw")
    assert (arrival.codec, arrival.b_frames, arrival.sound) == ("h265", b_frames, "pcm_alaw")
    assert arrival.kbps == pytest.approx(25 * 8, rel=0.03)
    assert arrival.fps_x100 == pytest.approx(2500, rel=0.02)
    if not b_frames:
        assert (arrival.gop_min_ms, arrival.gop_max_ms) == (1000, 1000)


def test_one_frame_is_no_picture() -> None:
    seen = trial._Seen(1 / 90000, 0.0)
    for packet in packets([(0, True)]):
        seen.take(packet, 5.0)
    assert seen.arrival("cam-1", "h264", 640, 360, "") == Arrival("cam-1", "nothing", "frozen")


def test_the_doctor_measures_a_camera_and_says_what_the_password_is_worth(tmp_path: Path, locked_camera: Any) -> None:
    """One look with the right password and one with a wrong one, by the command itself."""
    (tmp_path / "right").write_text("room:a:b/c@d")
    (tmp_path / "wrong").write_text("room:nonsense")
    config = tmp_path / "edge.toml"
    streams = "".join(f'[[streams]]\nid = "{name}"\nkind = "rtsp"\nname_zh = "x"\nname_en = "x"\nurl = "{locked_camera.url}"\n'
                      f'credentials = "{name}"\n' for name in ("right", "wrong"))
    config.write_text('[room]\ncode = "000000-DEMO-R01"\nname = "x"\n[paths]\nstate = "s"\nfootage = "f"\nrun = "r"\n'
                      f'[platform]\nurl = "http://127.0.0.1:1"\n{streams}')
    command = [sys.executable, "-m", "edge", "doctor", "cameras", "--config", str(config), "--address", "127.0.0.1:9", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 1, done.stderr
    right, wrong = json.loads(done.stdout)["streams"]
    assert (right["how"], right["codec"], right["width"], right["set"]) == ("measured", "h264", 1920, [])
    assert 2300 < right["fps_x100"] < 2700 and 1900 < right["gop_max_ms"] < 2100
    assert wrong["fault"] == "password-refused" and "credentials file" in wrong["set"][0]
    assert "a:b/c@d" not in done.stdout + done.stderr and "nonsense" not in done.stdout + done.stderr
