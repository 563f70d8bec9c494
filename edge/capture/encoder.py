"""Pictures in, H.264 out, by one encoder that outlives the segments. Used by camera (USB cameras) and pattern.

x264, veryfast and zerolatency on one thread: a quarter of a core for 1280x720 at 25 frames a second. No frame waits for another, so
what a crash costs is not made longer here. A key frame begins each second of media time, whatever number of frames came in it: a
camera that promises 25 and delivers 21 still gives files that turn on time. GOPs are closed (x264's own rule).
"""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

import av
from av.codec.context import Flags
from av.packet import Packet
from av.video.frame import PictureType

from edge.capture.streams import Track

TICKS = 90000
"""Per second of a picture's timestamps (RTP's and MPEG's clock for video)."""
OPTIONS = {"preset": "veryfast", "tune": "zerolatency", "crf": "25", "threads": "1", "sc_threshold": "0", "forced-idr": "1"}
"""forced-idr: a key frame that is asked for is one that a file can begin with."""


class H264Encoder:
    """H.264 of `width` by `height`, made even. Packets are timed in 1/TICKS, on the zero of the frames given."""

    def __init__(self, width: int, height: int, fps: int) -> None:
        self.width, self.height = width // 2 * 2, height // 2 * 2
        self._holder = av.open(os.devnull, "w", format="null")
        self._stream = self._holder.add_stream("libx264", rate=fps, options=OPTIONS)
        context = self._stream.codec_context
        context.width, context.height, context.pix_fmt = self.width, self.height, "yuv420p"
        context.time_base, context.gop_size = Fraction(1, TICKS), 2 * fps   # a bound only: `turn` asks for key frames by time
        context.flags |= Flags.global_header
        self._holder.start_encoding()           # without it the template has no extradata and no segment can be read
        self._near = TICKS // (2 * fps)         # half a frame: the nearest one to the second is the key frame
        self._key_due: int | None = None

    def track(self) -> Track:
        return Track("video", "h264", self._stream, "h264", self._stream.codec_context.extradata, self.width, self.height)

    def turn(self, frame: av.VideoFrame) -> list[Packet[Any]]:
        """What became ready. The frame's `pts` is in 1/TICKS and rises; any pixel format and size is brought to ours."""
        pts = frame.pts or 0
        frame.time_base = Fraction(1, TICKS)
        if self._key_due is None or pts >= self._key_due - self._near:
            frame.pict_type, self._key_due = PictureType.I, pts + TICKS
        packets = self._stream.encode(frame)
        for packet in packets:
            packet.time_base = self._stream.codec_context.time_base
        return packets
