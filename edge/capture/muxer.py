"""Packets in, whole parts of a fragmented MP4 out: the header, then fragments of a third of a second and at every key frame.

FFmpeg's muxer writes through an object without `seek`, so it cannot rewrite; each part leaves when it is whole. A kill costs the
fragment being filled. Called by rolling.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import av

from edge.capture import boxes
from edge.capture.streams import Track

if TYPE_CHECKING:
    from av.packet import Packet

FMP4 = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof+frag_discont",
    "frag_duration": "300000",          # us; a key frame begins a fragment as well
    "flush_packets": "1",               # each fragment leaves FFmpeg's buffer when it is complete
    "use_editlist": "0",                # these two and frag_discont keep the media time that we give,
    "avoid_negative_ts": "disabled",    # else every file would begin at 0 and sound and picture would shift
    "max_interleave_delta": "1",        # us; the picture does not wait for late or missing sound
}
BUFFER_BYTES = 1 << 18
MUX_ERRORS = (av.error.FFmpegError, OSError, RuntimeError)

Fragment = Callable[[bytes, boxes.FragmentTimes | None], None]


class _Parts:
    """The muxer's output: cuts what comes at the ends of moov and mdat."""

    def __init__(self, on_part: Callable[[bytes], None]) -> None:
        self._on_part = on_part
        self._buffer = bytearray()
        self._end = 0                   # of the last whole box in the buffer

    def forget(self) -> None:
        """No more parts come."""
        self._on_part = lambda _: None

    def write(self, data: bytes) -> int:
        """Called by FFmpeg."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= self._end + 8:
            size, kind = struct.unpack_from(">I4s", buffer, self._end)      # 64-bit sizes do not occur in so small fragments
            if len(buffer) < self._end + size:
                break
            self._end += size
            if kind in (b"moov", b"mdat"):
                with memoryview(buffer) as view:
                    part = bytes(view[:self._end])
                del buffer[:self._end]
                self._end = 0
                self._on_part(part)
        return len(data)


class Muxer:
    """One file's worth of packets. `header` and `tracks` are there from the first packet on; `on_fragment` gets each whole fragment."""

    def __init__(self, tracks: Sequence[Track | None], on_fragment: Fragment) -> None:
        """`tracks`: the run's, None for one that this file goes without."""
        self.header = b""
        self.tracks: dict[int, boxes.TrackHeader] = {}
        self._on_fragment = on_fragment
        self._parts = _Parts(self._part)
        self._out = av.open(self._parts, "w", format="mp4", options=FMP4, buffer_size=BUFFER_BYTES)
        self._streams: list[Any] = []
        for track in tracks:
            stream = self._out.add_stream_from_template(track.template) if track else None
            if stream is not None and track is not None and track.codec == "h265":
                stream.codec_context.codec_tag = "hvc1"     # FFmpeg's own choice, hev1, does not play on Apple's
            self._streams.append(stream)

    def has(self, track: int) -> bool:
        """Whether this file has the run's track of that number."""
        return self._streams[track] is not None

    def mux(self, track: int, packet: Packet[Any]) -> None:
        """Give a packet, timed in the run's media time. Raises one of MUX_ERRORS if the muxer refuses it; the file goes on."""
        packet.stream = self._streams[track]
        self._out.mux_one(packet)

    def close(self) -> None:
        """The rest comes out as the last fragment. Nothing else may follow."""
        with suppress(*MUX_ERRORS):
            self._out.close()
        self._parts.forget()            # whom it calls, which holds it: its buffers would wait for the garbage collector, a segment's each

    def _part(self, part: bytes) -> None:
        if not self.header:
            self.header = part
            self.tracks = boxes.read_header(part)
            return
        moof_end = struct.unpack_from(">I", part)[0]
        self._on_fragment(boxes.with_digest(part), boxes.read_fragment(part[:moof_end], self.tracks))
