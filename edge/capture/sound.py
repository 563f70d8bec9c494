"""Sound of any kind in, AAC out, by one encoder that outlives the segments. Used by rtsp (G.711, PCM, …), align, pattern.

`aresample=async=1000` follows the timestamps softly and fills a hole of more than 0.1 s with exactly as much silence, so sound and
picture stay together (recording of 1,200 s at 300 ppm: within 1.3 ms). It begins at the first timestamp (never `first_pts=0`, which
can put seconds of silence in front), and resamples from the first sample on (`flags=res`): switched on at the first correction, the
resampler would leave a hole of 2 ms there.
"""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

import av
from av.codec.context import Flags
from av.filter import Graph
from av.packet import Packet

from edge.capture.streams import Track

FRAME_SAMPLES = 1024
"""AAC-LC's frame (ISO/IEC 14496-3)."""


class AacEncoder:
    """AAC-LC at `rate_hz`, `layout` mono or stereo. Packets are timed in 1/rate_hz, on the zero of the frames given."""

    def __init__(self, rate_hz: int, layout: str = "mono") -> None:
        self._rate, self._layout = rate_hz, layout
        self._holder = av.open(os.devnull, "w", format="null")
        self._stream = self._holder.add_stream("aac", rate=rate_hz, layout=layout)
        self._stream.codec_context.bit_rate = (32000 if rate_hz <= 16000 else 64000) * (2 if layout == "stereo" else 1)
        self._stream.codec_context.time_base = Fraction(1, rate_hz)
        self._stream.codec_context.flags |= Flags.global_header
        self._holder.start_encoding()           # without it the template has no extradata and no segment can be read
        self._graph: Graph | None = None
        self.end = self._count = 0
        """`end`: timestamp of the end of the sound that was encoded, the unfinished frame included; 0: none yet."""

    def restart(self) -> list[Packet[Any]]:
        """The next frame lies far from the last: begin at its timestamp, without silence between. What there was, to a frame's end."""
        self._graph = None
        rest = self._count % FRAME_SAMPLES
        if not rest:
            return []
        silence = av.AudioFrame(format="fltp", layout=self._layout, samples=FRAME_SAMPLES - rest)
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        silence.sample_rate, silence.time_base, silence.pts = self._rate, Fraction(1, self._rate), self.end
        return self._encode(silence)

    def track(self) -> Track:
        return Track("audio", "aac", self._stream, "aac", self._stream.codec_context.extradata)

    def turn(self, frame: av.AudioFrame) -> list[Packet[Any]]:
        """What became ready. av.error.FFmpegError if the frame is of another kind than the first."""
        graph = self._graph = self._graph or self._build(frame)
        graph.push(frame)
        packets: list[Packet[Any]] = []
        while True:
            try:
                piece = graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return packets
            if isinstance(piece, av.AudioFrame):
                packets += self._encode(piece)

    def _encode(self, frame: av.AudioFrame) -> list[Packet[Any]]:
        self.end, self._count = (frame.pts or 0) + frame.samples, self._count + frame.samples
        packets = self._stream.encode(frame)        # cuts it into frames of its own
        for packet in packets:
            packet.time_base = self._stream.codec_context.time_base
        return packets

    def _build(self, frame: av.AudioFrame) -> Graph:
        graph = Graph()
        chain = [
            graph.add_abuffer(sample_rate=frame.sample_rate, format=frame.format.name, layout=frame.layout.name,
                              time_base=Fraction(1, frame.sample_rate)),
            graph.add("aresample", f"{self._rate}:async=1000:flags=res"),
            graph.add("aformat", f"sample_fmts=fltp:sample_rates={self._rate}:channel_layouts={self._layout}"),
            graph.add("abuffersink"),
        ]
        graph.link_nodes(*chain).configure()
        return graph
