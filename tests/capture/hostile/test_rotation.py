"""R-A1 by the thousand: a film with B-frames and sound through Rolling itself, as fast as the disk takes it."""

from __future__ import annotations

import ctypes
import itertools
import os
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.context import Flags
from av.packet import Packet

from edge.capture.disk import Disk
from edge.capture.rolling import Rolling
from edge.capture.sidecar import Sidecar, from_json
from edge.capture.sound import AacEncoder
from edge.capture.streams import Piece, StreamSpec, Track
from edge.clock import US, SimClock

FPS, RATE, GROUP = 25, 48000, 25
TICKS = 90000 // FPS
LOOP_S = 4


class Film:
    """Four seconds, encoded once and repeated with timestamps that go on: two B-frames between the others, a key frame each second."""

    def __init__(self) -> None:
        self._holder = av.open(os.devnull, "w", format="null")
        self._video: Any = self._holder.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "bf": "2", "sc_threshold": "0"})
        context: Any = self._video.codec_context
        context.width, context.height, context.pix_fmt, context.gop_size = 64, 64, "yuv420p", GROUP
        context.time_base = Fraction(1, 90000)
        context.flags |= Flags.global_header | Flags.closed_gop
        self._holder.start_encoding()
        sound = AacEncoder(RATE)
        self.tracks = (Track("video", "h264", self._video, "h264", context.extradata, 64, 64), sound.track())
        self._pictures = [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in self._encode_pictures()]
        first = self._pictures[0][2]
        assert len(self._pictures) == LOOP_S * FPS and first is not None
        self._lead = -first
        self._sounds = [bytes(p) for p in self._encode_sound(sound)]

    def _encode_pictures(self) -> Iterator[Any]:
        for number in range(LOOP_S * FPS):
            frame = av.VideoFrame.from_ndarray(np.full((96, 64), number * 7 % 256, np.uint8), format="yuv420p")
            frame.pts, frame.time_base = number * TICKS, Fraction(1, 90000)
            yield from self._video.encode(frame)
        yield from self._video.encode(None)

    @staticmethod
    def _encode_sound(sound: AacEncoder) -> Iterator[Any]:
        for number in range(20):
            wave = (8000 * np.sin(np.arange(4800) * 0.0576)).astype(np.int16)
            block = av.AudioFrame.from_ndarray(wave[None, :], format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = RATE, number * 4800, Fraction(1, RATE)
            yield from sound.turn(block)

    def pieces(self, seconds: int, start_us: int) -> Iterator[Piece]:
        """In the order of time, sound and picture interleaved."""
        sounds = itertools.count()
        sound = next(sounds)
        for number in range(seconds * FPS):
            loop, place = divmod(number, len(self._pictures))
            data, pts, dts, key = self._pictures[place]
            while sound * 1024 * FPS <= number * RATE:
                yield Piece(1, self._packet(self._sounds[sound % len(self._sounds)], sound * 1024, sound * 1024, Fraction(1, RATE), 1024),
                            start_us + sound * 1024 * US // RATE)
                sound = next(sounds)
            shift = loop * LOOP_S * 90000 + self._lead
            packet = self._packet(data, pts + shift, dts + shift, Fraction(1, 90000), TICKS)
            packet.is_keyframe = key
            yield Piece(0, packet, start_us + number * US // FPS)

    @staticmethod
    def _packet(data: bytes, pts: int, dts: int, base: Fraction, duration: int) -> Packet[Any]:
        packet: Packet[Any] = Packet(data)
        packet.pts, packet.dts, packet.time_base, packet.duration = pts, dts, base, duration
        return packet


def resident_mb() -> float:
    """What is in use: what an earlier test freed and the allocator kept does not count."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def record(film: Film, footage: Path, seconds: int, at_second: dict[int, float]) -> list[tuple[Path, Sidecar]]:
    """Record, noting this process's resident MB at the seconds asked for."""
    clock = SimClock()
    disk = Disk(footage / "cam", clock, 32_000_000)
    disk.start()
    rolling = Rolling(StreamSpec("cam", "rtsp", segment_s=1), disk, clock, lambda: "synced")
    rolling.begin(film.tracks, lambda: 0)
    for number, piece in enumerate(film.pieces(seconds, clock.now().boot_us)):
        rolling.write(piece)
        if number % 100 == 0:
            while disk.waiting_bytes > 200_000:       # a camera is slower than the disk; this film is not
                time.sleep(0.002)
        if piece.track == 0 and (second := rolling.samples // FPS) in at_second and not at_second[second]:
            at_second[second] = resident_mb()
    rolling.end("stopped")
    disk.close()
    assert disk.join(60) and disk.failed is None
    assert disk.run_frames == seconds * FPS and rolling.lost == 0
    paths = sorted(footage.rglob("*Z.json"), key=lambda path: path.name)
    return [(path.with_suffix(".mp4"), from_json(path.read_bytes())) for path in paths]


def check_boundaries(found: list[tuple[Path, Sidecar]], seconds: int) -> None:
    """Each track goes on from file to file as if there were none; every picture decodes."""
    ends: dict[str, int] = {}
    counts = {"video": 0, "audio": 0}
    decoded = 0
    for path, sidecar in found:
        assert sidecar.frames == FPS and sidecar.end_reason in ("rotated", "stopped")
        with av.open(str(path)) as container:
            for packet in container.demux():
                if packet.size and packet.dts is not None:
                    kind = packet.stream.type
                    assert ends.setdefault(kind, packet.dts) == packet.dts, (sidecar.seq, kind)
                    ends[kind] = packet.dts + (packet.duration or 0)
                    counts[kind] += 1
                    if kind == "video":
                        decoded += len(packet.decode())
                elif packet.stream.type == "video":
                    decoded += len(packet.decode())
    for (_, a), (_, b) in itertools.pairwise(found):
        assert b.start == a.end and b.seq == a.seq + 1 and b.media_start_us == a.media_start_us + a.dur_us
    assert counts["video"] == decoded == seconds * FPS
    assert abs(counts["audio"] * 1024 / RATE - seconds) < 0.1


def test_r_a1_a_thousand_rotations(tmp_path: Path) -> None:
    """Between two files of a run lies nothing: the last picture and sound end where the next begin, 1,000 times."""
    found = record(Film(), tmp_path, 1000, {})
    assert len(found) == 1000
    check_boundaries(found, 1000)


@pytest.mark.slow
def test_memory_is_flat_over_1500_segments(tmp_path: Path) -> None:
    resident = dict.fromkeys((300, 900, 1499), 0.0)
    assert len(record(Film(), tmp_path, 1500, resident)) == 1500
    assert max(resident.values()) - resident[300] <= 5, resident
