"""Opens a configured network camera for some seconds and says what really arrives: codec, frames, key frames, sound. For the doctor.

Never a second connection to a stream: the look is taken in a process of its own that holds the stream's lock meanwhile (a worker that
starts just then waits for it). Where a worker holds it, the newest sealed segment is described instead. Nothing is decoded or written.
Called by doctor; the process is `python -m edge.capture.trial --spec JSON --footage DIR`, which prints an Arrival as JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import itertools
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import av
from av.packet import Packet

from edge.capture.recovery import day_folders
from edge.capture.rtsp import OPEN_S, READ_S, UDP_BUFFER_BYTES, address, fault
from edge.capture.segments import parse_stem
from edge.capture.sidecar import Sidecar, from_json
from edge.capture.streams import SourceFault, StreamSpec
from edge.clock import US

LOOK_S, MOST_S = 5.0, 12.0
"""A look takes so long, and up to MOST_S where two key frames have not come by then."""
KEYS = 3
LIMIT_S = OPEN_S + MOST_S + 3 * READ_S


@dataclass(frozen=True, slots=True)
class Arrival:
    """What comes from a stream. `how`: measured (by opening it), recorded (from its newest segment), or nothing, and `fault` says why.

    `fault`: a SourceFault's word; `busy` (a worker has the stream and has sealed nothing yet), `not-allowed` (the footage belongs to
    another user), `stuck` (the look did not end). `codec`, `sound`: FFmpeg's names. `gop_min_ms`, `gop_max_ms`: shortest and longest
    time between key frames; the shortest is None until a second one came. `b_frames`, `first_picture_ms`: known only where measured.
    """

    stream: str
    how: Literal["measured", "recorded", "nothing"]
    fault: str = ""
    utc_us: int = 0
    codec: str = ""
    width: int = 0
    height: int = 0
    fps_x100: int = 0
    kbps: int = 0
    gop_min_ms: int | None = None
    gop_max_ms: int | None = None
    sound: str = ""
    b_frames: bool | None = None
    first_picture_ms: int | None = None


def look(spec: StreamSpec, footage: Path, seconds: float = LOOK_S) -> Arrival:
    """Take the look, in a process of its own. Never raises; takes LIMIT_S at most."""
    command = [sys.executable, "-m", "edge.capture.trial", "--spec", spec.to_json(), "--footage", str(footage), "--seconds", str(seconds)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False)
        return Arrival(**json.loads(done.stdout))
    except (OSError, subprocess.TimeoutExpired, ValueError, TypeError):
        return Arrival(spec.id, "nothing", "stuck")


def look_here(spec: StreamSpec, footage: Path, seconds: float) -> Arrival:
    """The same, in this process, under the stream's lock."""
    try:
        handle = os.open(footage / spec.id / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:           # no worker ever had this stream
        return measure(spec, seconds)
    except OSError:
        return Arrival(spec.id, "nothing", "not-allowed")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return measure(spec, seconds)
    except BlockingIOError:
        newest = newest_sidecar(footage / spec.id)
        return recorded(newest) if newest is not None else Arrival(spec.id, "nothing", "busy")
    finally:
        os.close(handle)


def newest_sidecar(folder: Path) -> Sidecar | None:
    """Of the segment sealed last in a stream's folder."""
    for day in reversed(list(day_folders(folder))):
        names = [p for p in day.glob("*.json") if parse_stem(p.stem) is not None]
        for path in sorted(names, key=lambda p: p.name, reverse=True):
            with suppress(OSError, ValueError):
                return from_json(path.read_bytes())
    return None


def recorded(sidecar: Sidecar) -> Arrival:
    """What a sealed segment tells."""
    keys = [f.start_us for f in sidecar.fragments if f.key]
    end = sidecar.fragments[-1].start_us + sidecar.fragments[-1].dur_us
    shortest, longest = _gops(keys, end)
    picture, sound = sidecar.tracks.get("video", {}), sidecar.tracks.get("audio", {})
    took = max(1, sidecar.dur_us)
    return Arrival(
        sidecar.stream, "recorded", utc_us=sidecar.start.utc_us, codec=str(picture.get("codec", "")), width=int(picture.get("width", 0)),
        height=int(picture.get("height", 0)), fps_x100=sidecar.frames * 100 * US // took, kbps=sidecar.bytes * 8000 // took,
        gop_min_ms=shortest, gop_max_ms=longest, sound=str(sound.get("codec", "")))


def _gops(keys_us: list[int], end_us: int) -> tuple[int | None, int | None]:
    """Shortest and longest time between key frames, in milliseconds; what has passed since the last one counts for the longest."""
    steps = [b - a for a, b in itertools.pairwise(keys_us)]
    if not keys_us:
        return None, None
    return (min(steps) // 1000 if steps else None), max([*steps, end_us - keys_us[-1]]) // 1000


def measure(spec: StreamSpec, seconds: float) -> Arrival:
    """Open the camera and watch its packets go by."""
    av.logging.set_level(None)
    options = {"rtsp_transport": spec.transport, "timeout": str(int(READ_S * US)), "allowed_media_types": "video+audio"}
    if spec.transport == "udp":
        options |= {"buffer_size": str(UDP_BUFFER_BYTES)}
    began = time.monotonic()
    opened = False
    try:
        with av.open(address(spec), options=options, timeout=(OPEN_S, READ_S)) as container:
            opened = True
            video = next(iter(container.streams.video), None)
            sound = next((s for s in container.streams.audio if s.codec_context is not None), None)
            if video is None or video.codec_context is None:
                return Arrival(spec.id, "nothing", "no-h264-picture")
            seen = _Seen(float(video.time_base or 1), began)
            for packet in container.demux(video):
                if packet.size == 0 or seen.take(packet, seconds):
                    break
            picture = video.codec_context
            return seen.arrival(spec.id, picture.name, picture.width, picture.height, sound.codec_context.name if sound else "")
    except SourceFault as error:
        return Arrival(spec.id, "nothing", error.reason)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return Arrival(spec.id, "nothing", fault(error, opened).reason)


class _Seen:
    """What went by, by the camera's own timestamps: what the network delays does not count."""

    def __init__(self, base_s: float, began: float) -> None:
        self._base_s, self._began = base_s, began
        self._first: float | None = None
        self._times: list[float] = []
        self._keys: list[float] = []
        self._bytes = 0
        self._b_frames = False
        self._first_ms: int | None = None

    def take(self, packet: Packet[Any], seconds: float) -> bool:
        """True when enough was seen."""
        now = time.monotonic()
        self._first = now if self._first is None else self._first
        if packet.is_keyframe and self._first_ms is None:
            self._first_ms = round((now - self._began) * 1000)
        if packet.pts is not None:              # RTSP's very first key frame may come without
            at = packet.pts * self._base_s
            self._b_frames |= bool(self._times) and at < max(self._times[-8:])
            self._times.append(at)
            self._bytes += packet.size
            if packet.is_keyframe:
                self._keys.append(at)
        watched = now - self._first
        return watched >= MOST_S or (watched >= seconds and len(self._keys) >= KEYS)

    def arrival(self, stream: str, codec: str, width: int, height: int, sound: str) -> Arrival:
        if len(self._times) < 2:
            return Arrival(stream, "nothing", "frozen")
        first, last = min(self._times), max(self._times)
        took = max(last - first, 0.001)
        shortest, longest = _gops([round(key * US) for key in self._keys], round(last * US))
        return Arrival(
            stream, "measured", utc_us=time.time_ns() // 1000, codec={"hevc": "h265"}.get(codec, codec), width=width, height=height,
            fps_x100=round((len(self._times) - 1) * 100 / took), kbps=round(self._bytes * 8 / took / 1000), gop_min_ms=shortest,
            gop_max_ms=longest, sound=sound, b_frames=self._b_frames, first_picture_ms=self._first_ms)


def main() -> int:
    """One look; prints what arrived."""
    parser = argparse.ArgumentParser(prog="edge.capture.trial", description="say what arrives from one network camera")
    parser.add_argument("--spec", required=True)
    parser.add_argument("--footage", required=True, type=Path)
    parser.add_argument("--seconds", type=float, default=LOOK_S)
    args = parser.parse_args()
    print(json.dumps(dataclasses.asdict(look_here(StreamSpec.from_json(args.spec), args.footage, args.seconds))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
