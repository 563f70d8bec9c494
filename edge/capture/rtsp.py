"""An IP camera over RTSP/TCP: its packets as they come, undecoded, with timestamps that MP4 takes.

H.264 and H.265 pass through, AAC too; any other sound becomes AAC here. Opening and reading have time limits (without them a
silent camera hangs FFmpeg for ever). A camera that goes away ends the stream without an error, so the end is a fault here.
Traps met by real cameras: the first key frame comes without timestamps; dts does not rise; timestamps jump when the camera sets
its clock. All are mended and counted in `repairs`, none stops the recording. FFmpeg's error texts hold the address with the
password, so only our own words leave this module.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream

from edge.capture.sound import AacEncoder
from edge.capture.streams import Piece, SourceFault, StreamSpec, Track
from edge.clock import US

OPEN_S, READ_S = 10.0, 5.0
SILENT_S = READ_S * 0.9
"""When a read times out FFmpeg hands out the frame it still held, as if the camera lived, or ends without an error. So a silence of
this length is a frozen camera whatever comes after it."""
VIDEO = {"h264": "h264", "hevc": "h265"}
JUMP_US = 3 * US
"""A step of the camera's clock by more than this against ours is a jump, not an unevenness."""
BACK_US = US


def address(spec: StreamSpec) -> str:
    """The URL with user and password of the credentials file. SourceFault if that file cannot be used. Never log the result."""
    if spec.url is None or urlsplit(spec.url).scheme not in ("rtsp", "rtsps"):
        raise SourceFault("camera-lost", "no-address", patient=True)
    if spec.credentials is None:
        return spec.url
    user, password = _read_credentials(spec.credentials)
    parts = urlsplit(spec.url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{quote(user, safe='')}:{quote(password, safe='')}@{place}"))


def _read_credentials(path: Path) -> tuple[str, str]:
    try:
        user, colon, password = path.read_text(encoding="utf-8").strip().partition(":")
    except (OSError, ValueError):
        raise SourceFault("camera-lost", "credentials-unreadable", patient=True) from None
    if not colon:
        raise SourceFault("camera-lost", "credentials-unreadable", patient=True)
    return user, password


def fault(error: BaseException, opened: bool) -> SourceFault:
    """Our word for what FFmpeg reported; `opened`: the run had begun."""
    if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
        return SourceFault("camera-lost", "password-refused", patient=True)
    if isinstance(error, av.error.HTTPNotFoundError):
        return SourceFault("camera-lost", "not-found")
    if isinstance(error, ConnectionRefusedError):
        return SourceFault("camera-lost", "refused")
    if isinstance(error, (av.error.ExitError, TimeoutError)):
        return SourceFault("camera-frozen", "frozen") if opened else SourceFault("camera-lost", "no-answer")
    if getattr(error, "errno", None) in (errno.EHOSTUNREACH, errno.ENETUNREACH):
        return SourceFault("camera-lost", "unreachable")
    if isinstance(error, av.error.InvalidDataError):
        return SourceFault("camera-lost", "garbled")
    return SourceFault("camera-lost", "connection-lost" if opened else "cannot-connect")


class TrackTimes:
    """Makes one track's timestamps such as MP4 takes: none missing, dts rising, pts not before dts."""

    def __init__(self, reordered_frames: int = 0) -> None:
        self.repairs = 0
        self._reordered = reordered_frames
        self._pts = self._dts = None  # type: int | None

    def place(self, packet: Packet[Any], offset_us: int = 0) -> None:
        """Mend the packet's timestamps and move them by `offset_us`."""
        step = packet.duration or 1
        shift = round(Fraction(offset_us, US) / Fraction(packet.time_base))
        if packet.pts is None:
            self.repairs += 1
            packet.pts = packet.dts if packet.dts is not None else 0 if self._pts is None else self._pts + step
        self._pts = packet.pts
        if packet.dts is None:
            self.repairs += 1
            packet.dts = packet.pts - self._reordered * step if self._dts is None else self._dts + 1 - shift
        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
        if self._dts is not None and packet.dts <= self._dts:
            self.repairs += 1
            packet.dts = self._dts + 1
        packet.pts = max(packet.pts, packet.dts)
        self._dts = packet.dts


class Jumps:
    """A camera that sets its clock makes its timestamps jump. `offset_us` moves all its tracks back to where they were."""

    def __init__(self) -> None:
        self.count = self.offset_us = 0
        self._last: tuple[int, int] | None = None

    def look(self, stamp_us: int, arrived_us: int) -> None:
        """The picture with this timestamp arrived then. A hole in the picture, or a late burst of it, is no jump."""
        if self._last is not None:
            step, waited = stamp_us - self._last[0], arrived_us - self._last[1]
            if step > waited + JUMP_US or step < -BACK_US:
                self.count += 1
                self.offset_us -= step - max(waited, 1)
        self._last = stamp_us, arrived_us


class RtspCamera:
    """The source. LIMIT: a new picture size in mid-stream is not noticed before the camera closes the connection."""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self._container: InputContainer | None = None
        self._lost_sound = 0
        self._jumps = Jumps()
        self._times: dict[int, TrackTimes] = {}

    @property
    def repairs(self) -> int:
        return self._lost_sound + self._jumps.count + sum(t.repairs for t in self._times.values())

    def open(self) -> tuple[Track, ...]:
        url = address(self._spec)
        try:
            container = av.open(url, options={"rtsp_transport": "tcp", "timeout": str(int(READ_S * US)),
                                              "allowed_media_types": "video+audio"}, timeout=(OPEN_S, READ_S))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise fault(error, opened=False) from None
        self._container = container
        self._lost_sound, self._jumps = 0, Jumps()
        video = next((s for s in container.streams.video if s.codec_context is not None and s.codec_context.name in VIDEO), None)
        if video is None:
            raise SourceFault("camera-lost", "no-h264-picture", patient=True)
        sound = next((s for s in container.streams.audio if s.codec_context is not None), None)
        self._video, self._streams = video, [video, *([sound] if sound else [])]
        self._times = {s.index: TrackTimes(video.codec_context.has_b_frames if s is video else 0) for s in self._streams}
        self._aac: AacEncoder | None = None
        self._holder = av.open(os.devnull, "w", format="null")
        tracks = [self._pass_on(video, "video", VIDEO[video.codec_context.name])]
        if sound is not None and sound.codec_context.name == "aac":
            tracks.append(self._pass_on(sound, "audio", "aac"))
        elif sound is not None:
            rate = sound.codec_context.sample_rate
            self._aac = AacEncoder(16000 if rate <= 16000 else 48000, "mono" if sound.codec_context.channels == 1 else "stereo")
            tracks.append(self._aac.track())
        return tuple(tracks)

    def _pass_on(self, stream: Stream, kind: str, codec: str) -> Track:
        template = self._holder.add_stream_from_template(stream)
        context = stream.codec_context
        extradata = bytes(context.extradata) if context.extradata else None
        if kind == "video":
            picture = self._video.codec_context
            return Track("video", codec, template, context.name, extradata, picture.width, picture.height)
        return Track("audio", codec, template, context.name, extradata)

    def pieces(self) -> Iterator[Piece]:
        if self._container is None:
            return
        first: list[tuple[Packet[Any], int]] | None = None       # a first picture without timestamps, and what came since
        seen, heard = False, time.monotonic()
        try:
            for packet in self._container.demux(*self._streams):
                if packet.size == 0:        # the end. Not `dts is None`: that is also the first key frame
                    continue
                now = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
                silent, heard = time.monotonic() - heard > SILENT_S, time.monotonic()
                picture = packet.stream.index == self._video.index
                if picture and not seen:
                    seen = True
                    if packet.pts is None and packet.dts is None:
                        first = [(packet, now)]
                        continue
                if first is None:
                    yield from self._turn(packet, now)
                    if silent:
                        raise SourceFault("camera-frozen", "frozen")
                    continue
                first.append((packet, now))
                if picture:
                    waiting, first = first, None
                    _place_first(waiting[0][0], packet)
                    for each, arrived in waiting:
                        yield from self._turn(each, arrived)
        except (av.error.FFmpegError, OSError) as error:
            raise fault(error, opened=True) from None
        if time.monotonic() - heard > SILENT_S:
            raise SourceFault("camera-frozen", "frozen")
        raise SourceFault("camera-lost", "connection-closed")

    def _turn(self, packet: Packet[Any], arrived: int) -> Iterator[Piece]:
        index = packet.stream.index
        if index == self._video.index:
            stamp = packet.dts if packet.dts is not None else packet.pts
            if stamp is not None:
                self._jumps.look(int(Fraction(stamp) * Fraction(packet.time_base) * US), arrived)
            self._times[index].place(packet, self._jumps.offset_us)
            yield Piece(0, packet, arrived)
        elif self._aac is None:
            self._times[index].place(packet, self._jumps.offset_us)
            yield Piece(1, packet, arrived)
        else:
            try:
                frames: list[Any] = list(packet.decode())
                made = [p for frame in frames for p in self._aac.turn(frame)]
            except (av.error.FFmpegError, ValueError):
                self._lost_sound += 1
                return
            for each in made:
                self._times[index].place(each, self._jumps.offset_us)
                yield Piece(1, each, arrived)

    def close(self) -> None:
        if self._container is not None:
            self._container.close()             # sends TEARDOWN
            self._container = None


def _place_first(first: Packet[Any], second: Packet[Any]) -> None:
    """The first picture lies one step before the second (FFmpeg ticket 5018; Home Assistant does the same)."""
    at = second.dts if second.dts is not None else second.pts
    if at is not None:
        step = second.duration or first.duration or round(Fraction(1, 25) / Fraction(second.time_base))
        first.pts = first.dts = at - step
