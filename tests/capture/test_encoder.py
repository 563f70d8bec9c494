"""The one H.264 encoder: key frames by time, uneven frames kept, whatever a camera promised."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet

from edge.capture.encoder import TICKS, H264Encoder
from edge.capture.pattern import Pattern
from edge.capture.streams import StreamSpec


def encode(encoder: H264Encoder, stamps: list[int], size: tuple[int, int] = (320, 180)) -> list[Packet[Any]]:
    packets: list[Packet[Any]] = []
    for pts in stamps:
        frame = av.VideoFrame.from_ndarray(np.full((size[1], size[0], 3), pts // 100 % 200, dtype=np.uint8), format="bgr24")
        frame.pts = pts
        packets += encoder.turn(frame)
    return packets


@pytest.mark.parametrize("delivered", [5, 21, 25, 40])
def test_a_key_frame_begins_each_second_of_time_not_of_frames(delivered: int) -> None:
    """R-A4's other half: a camera that promises 25 and delivers less, or more, still gives files that turn on time."""
    stamps = [n * TICKS // delivered for n in range(delivered * 6)]
    packets = encode(H264Encoder(320, 180, 25), stamps)
    keys = [(packet.pts or 0) / TICKS for packet in packets if packet.is_keyframe]
    assert keys[0] == 0
    assert max(np.diff(keys)) <= 1 + 1 / delivered
    assert sum(np.diff(keys) < 0.6) == 0


def test_every_frame_comes_out_at_once_with_its_own_time() -> None:
    encoder = H264Encoder(320, 180, 25)
    uneven = np.cumsum(np.random.default_rng(3).integers(1, 9000, 100)).tolist()
    for pts in [0, *uneven]:
        packet, = encode(encoder, [pts])
        assert (packet.pts, packet.dts, packet.time_base.denominator) == (pts, pts, TICKS)


def test_times_far_from_zero_are_kept() -> None:
    """Boot time after a year."""
    start = 365 * 86400 * TICKS
    packets = encode(H264Encoder(320, 180, 25), [start + n * 3600 for n in range(60)])
    assert [packet.pts for packet in packets] == [start + n * 3600 for n in range(60)]
    assert sum(packet.is_keyframe for packet in packets) == 3


def test_what_comes_out_decodes_to_what_went_in() -> None:
    encoder = H264Encoder(321, 181, 25)
    track = encoder.track()
    assert (track.width, track.height, track.codec) == (320, 180, "h264")
    decoder = av.CodecContext.create("h264", "r")
    decoder.extradata = track.extradata
    levels = [10, 60, 120, 180, 230]
    seen = []
    for number, level in enumerate(levels):
        frame = av.VideoFrame.from_ndarray(np.full((181, 321, 3), level, dtype=np.uint8), format="bgr24")
        frame.pts = number * 3600
        for packet in encoder.turn(frame):
            seen += [f.to_ndarray(format="bgr24").mean() for f in decoder.decode(packet)]
    seen += [f.to_ndarray(format="bgr24").mean() for f in decoder.decode(None)]
    assert seen == pytest.approx(levels, abs=3)


def test_the_pattern_is_encoded_by_it() -> None:
    pattern = Pattern(StreamSpec("p", "pattern", width=320, height=180, fps=30))
    video, sound = pattern.open()
    assert (video.codec, sound.codec, pattern.sync) == ("h264", "aac", None)
    pieces = pattern.pieces()
    first = [piece for _, piece in zip(range(40), pieces, strict=False) if piece.track == 0]
    assert first[0].packet.is_keyframe
    assert [piece.packet.pts for piece in first] == [n * TICKS // 30 for n in range(len(first))]
    pattern.close()
