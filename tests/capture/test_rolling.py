"""Many rotations at once: packets made as fast as they can be, recorded in this process, read back as one film."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.context import Flags

from edge.capture.disk import Disk
from edge.capture.recovery import recover
from edge.capture.rolling import Rolling
from edge.capture.sidecar import Sidecar, from_json
from edge.capture.sound import AacEncoder
from edge.capture.streams import Piece, StreamSpec, Track
from edge.clock import US, SimClock

FPS, RATE = 10, 16000


class Film:
    """Sound and picture, `rotations` seconds of them, a key frame each second."""

    def __init__(self, codec: str) -> None:
        self._holder = av.open(os.devnull, "w", format="null")
        options = {"preset": "ultrafast", "tune": "zerolatency"} | ({"x265-params": "log-level=none"} if codec == "libx265" else {})
        self._video: Any = self._holder.add_stream(codec, rate=FPS, options=options)
        context: Any = self._video.codec_context
        context.width, context.height, context.pix_fmt, context.gop_size = 64, 64, "yuv420p", FPS
        context.time_base = Fraction(1, 90000)
        context.flags |= Flags.global_header
        self._holder.start_encoding()
        self._sound = AacEncoder(RATE)
        name = "hevc" if codec == "libx265" else "h264"
        video = Track("video", "h265" if codec == "libx265" else "h264", self._video, name, context.extradata, 64, 64)
        self.tracks = (video, self._sound.track())

    def pieces(self, seconds: int, start_us: int) -> Iterator[Piece]:
        for number in range(seconds * FPS):
            at = start_us + number * US // FPS
            frame = av.VideoFrame.from_ndarray(np.full((96, 64), number % 256, np.uint8), format="yuv420p")
            frame.pts, frame.time_base = number * 90000 // FPS, Fraction(1, 90000)
            for packet in self._video.encode(frame):
                packet.time_base = Fraction(1, 90000)
                yield Piece(0, packet, at)
            block = av.AudioFrame.from_ndarray(np.zeros((1, RATE // FPS), np.int16), format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = RATE, number * RATE // FPS, Fraction(1, RATE)
            for packet in self._sound.turn(block):
                yield Piece(1, packet, at)


def record(film: Film, footage: Path, seconds: int) -> list[tuple[Path, Sidecar]]:
    clock = SimClock()
    disk = Disk(footage / "cam", clock, 32_000_000)
    disk.start()
    rolling = Rolling(StreamSpec("cam", "rtsp", segment_s=1), disk, clock, lambda: "synced")
    rolling.begin(film.tracks, lambda: 0)
    for piece in film.pieces(seconds, clock.now().boot_us):
        rolling.write(piece)
    rolling.end("stopped")
    disk.close()
    assert disk.join(30) and disk.failed is None
    assert disk.run_frames == seconds * FPS and rolling.dropped == 0
    paths = sorted(footage.rglob("*Z.json"), key=lambda path: path.name)
    return [(path.with_suffix(".mp4"), from_json(path.read_bytes())) for path in paths]


def test_two_hundred_rotations_leave_no_gap(tmp_path: Path) -> None:
    """R-A1: consecutive segments of a run share no gap, in picture and in sound."""
    found = record(Film("libx264"), tmp_path, 200)
    assert len(found) == 200
    steps: dict[str, list[int]] = {"video": [], "audio": []}
    last: dict[str, int] = {}
    for (_, a), (_, b) in itertools.pairwise(found):
        assert b.start == a.end and b.seq == a.seq + 1 and a.end_reason == "rotated"
    for path, sidecar in found:
        assert sidecar.frames == FPS and sidecar.dur_us == US
        with av.open(str(path)) as container:
            for packet in container.demux():
                if packet.size and packet.pts is not None:
                    kind, at = packet.stream.type, int(packet.pts * Fraction(packet.time_base) * US)
                    if kind in last:
                        steps[kind].append(at - last[kind])
                    last[kind] = at
    assert len(steps["video"]) == 200 * FPS - 1 and all(abs(s - US // FPS) <= 1 for s in steps["video"])
    assert all(abs(s - 64_000) <= 1 for s in steps["audio"]) and len(steps["audio"]) > 3000


@pytest.mark.parametrize(("codec", "tag", "name"), [("libx264", b"avc1", "h264"), ("libx265", b"hvc1", "h265")])
def test_tags_and_decodes(tmp_path: Path, codec: str, tag: bytes, name: str) -> None:
    found = record(Film(codec), tmp_path, 3)
    for path, sidecar in found:
        assert tag in path.read_bytes()[:sidecar.header_bytes]
        assert sidecar.codec == f"{name}+aac"
        with av.open(str(path)) as container:
            assert len(list(container.decode(video=0))) == sidecar.frames
    assert recover(tmp_path / "cam") == len(found)
