"""An IP camera over RTSP: its packets as they come, undecoded, with timestamps that MP4 takes.

H.264 and H.265 pass through, AAC too; any other sound becomes AAC here. Opening and reading have time limits (without them a
silent camera hangs FFmpeg for ever). A camera that goes away ends the stream without an error, so the end is a fault here. One that
changes its picture in mid-stream shows it in the parameter sets before a key frame: new tracks follow.
Traps met by real cameras: the first key frame comes without timestamps; dts does not rise; timestamps jump when the camera sets
its clock. All are mended and counted in `repairs`, none stops the recording. FFmpeg's error texts hold the address with the
password, so only our own words leave this module.
"""

from __future__ import annotations

import errno
import io
import logging
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
from edge.capture.streams import Piece, SourceFault, StreamSpec, Sync, Track
from edge.clock import US

OPEN_S, READ_S = 10.0, 5.0
SILENT_US = 4_500_000
"""When a read times out FFmpeg hands out the frame it still held, as if the camera lived, or ends without an error. So a silence of
this length is a frozen camera whatever comes after it."""
VIDEO = {"h264": "h264", "hevc": "h265"}
JUMP_US = 3 * US
"""A step of the camera's clock by more than this against ours is a jump, not an unevenness."""
BACK_US = US
NAP_S = 0.1
WAITED_US = 2000
"""A read that had to wait has emptied the socket: then the reader sleeps, and takes what came meanwhile in one go. Waking for each of
360 packets a second costs more than half of the reading (measured: 0.60 CPU seconds a camera-minute without, 0.30 with a nap of 0.1 s).
TCP keeps what comes meanwhile; UDP would lose it, so there are no naps."""
UDP_BUFFER_BYTES = 4 << 20
SETS_BYTES = 4096
"""Parameter sets stand at the beginning of a key frame, and are short."""

log = logging.getLogger(__name__)


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

    def __init__(self, base: Fraction, reordered_frames: int = 0) -> None:
        """`base`: seconds a tick."""
        self.repairs = 0
        self.base = base
        self._reordered = reordered_frames
        self._pts = self._dts = None  # type: int | None

    def place(self, packet: Packet[Any], offset_us: int = 0) -> None:
        """Mend the packet's timestamps and move them by `offset_us`."""
        pts, dts, last = packet.pts, packet.dts, self._dts
        shift = offset_us * self.base.denominator // (US * self.base.numerator) if offset_us else 0
        if pts is None:
            self.repairs += 1
            pts = dts if dts is not None else 0 if self._pts is None else self._pts + (packet.duration or 1)
        self._pts = pts
        if dts is None:
            self.repairs += 1
            dts = pts - self._reordered * (packet.duration or 1) if last is None else last + 1 - shift
        pts, dts = pts + shift, dts + shift
        if last is not None and dts <= last:
            self.repairs += 1
            dts = last + 1
        packet.dts = self._dts = dts
        packet.pts = max(pts, dts)

    def us(self, ticks: int) -> int:
        """Microseconds of so many ticks."""
        return ticks * self.base.numerator * US // self.base.denominator


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
    """The source. One connection at a time, closed with TEARDOWN."""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self._container: InputContainer | None = None
        self._lost_sound = 0
        self._jumps = Jumps()
        self._times: dict[int, TrackTimes] = {}

    @property
    def repairs(self) -> int:
        return self._lost_sound + self._jumps.count + sum(t.repairs for t in self._times.values())

    @property
    def sync(self) -> Sync | None:
        return None

    def open(self) -> tuple[Track, ...]:
        url = address(self._spec)
        options = {"rtsp_transport": self._spec.transport, "timeout": str(int(READ_S * US)), "allowed_media_types": "video+audio"}
        if self._spec.transport == "udp":
            options |= {"buffer_size": str(UDP_BUFFER_BYTES), "reorder_queue_size": "500"}
        try:
            container = av.open(url, options=options, timeout=(OPEN_S, READ_S))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise fault(error, opened=False) from None
        self._container = container
        self._lost_sound, self._jumps = 0, Jumps()
        video = next((s for s in container.streams.video if s.codec_context is not None and s.codec_context.name in VIDEO), None)
        if video is None:
            raise SourceFault("camera-lost", "no-h264-picture", patient=True)
        sound = next((s for s in container.streams.audio if s.codec_context is not None), None)
        self._video, self._sound = video, sound
        self._times = {s.index: TrackTimes(Fraction(s.time_base or 1), video.codec_context.has_b_frames if s is video else 0)
                       for s in (video, sound) if s is not None}
        self._sets = ParameterSets(video.codec_context.name, video.codec_context.extradata)
        self._aac: AacEncoder | None = None
        self._naps = self._spec.transport == "tcp"
        self._holder = av.open(os.devnull, "w", format="null")
        self._tracks = (self._pass_on(video), *([self._sound_track(sound)] if sound is not None else []))
        return self._tracks

    def _pass_on(self, stream: Stream) -> Track:
        template, context = self._holder.add_stream_from_template(stream), stream.codec_context
        extradata = bytes(context.extradata) if context.extradata else None
        if isinstance(stream, av.VideoStream):
            picture = stream.codec_context
            return Track("video", VIDEO[context.name], template, context.name, extradata, picture.width, picture.height)
        return Track("audio", context.name, template, context.name, extradata)

    def _sound_track(self, sound: av.AudioStream) -> Track:
        """AAC passes; anything else goes through an encoder. The template of AAC without its set-up would make no readable file."""
        if sound.codec_context.name == "aac" and sound.codec_context.extradata:
            return self._pass_on(sound)
        rate = 16000 if (sound.codec_context.sample_rate or 8000) <= 16000 else 48000
        self._aac = AacEncoder(rate, "mono" if sound.codec_context.channels == 1 else "stereo")
        self._times[sound.index].base = Fraction(1, rate)
        return self._aac.track()

    def pieces(self) -> Iterator[Piece | tuple[Track, ...]]:
        if self._container is None:
            return
        video = self._video.index
        first: list[tuple[Packet[Any], int]] | None = None       # a first picture without timestamps, and what came since
        seen, idle_since = False, _boot_us()
        try:
            for packet in self._container.demux(*filter(None, (self._video, self._sound))):
                if packet.size == 0:        # the end. Not `dts is None`: that is also the first key frame
                    continue
                now = _boot_us()
                picture = packet.stream_index == video
                if picture and not seen:
                    seen = True
                    if packet.pts is None and packet.dts is None:
                        first = []
                if first is None:
                    yield from self._turn(packet, now)
                else:
                    first.append((packet, now))
                    if picture and len(first) > 1:
                        waiting, first = first, None
                        _place_first(waiting[0][0], packet, self._times[video].base)
                        for each, arrived in waiting:
                            yield from self._turn(each, arrived)
                if now - idle_since > SILENT_US:
                    raise SourceFault("camera-frozen", "frozen")
                if now - idle_since > WAITED_US and self._naps:
                    time.sleep(NAP_S)
                idle_since = _boot_us()
        except (av.error.FFmpegError, OSError) as error:
            raise fault(error, opened=True) from None
        if _boot_us() - idle_since > SILENT_US:
            raise SourceFault("camera-frozen", "frozen")
        raise SourceFault("camera-lost", "connection-closed")

    def _turn(self, packet: Packet[Any], arrived: int) -> Iterator[Piece | tuple[Track, ...]]:
        times = self._times[packet.stream_index]
        if packet.stream_index == self._video.index:
            if packet.is_keyframe and self._sets.changed(packet) and (tracks := self._changed_tracks(packet)):
                yield tracks
            stamp = packet.dts if packet.dts is not None else packet.pts
            if stamp is not None:
                self._jumps.look(times.us(stamp), arrived)
            times.place(packet, self._jumps.offset_us)
            yield Piece(0, packet, arrived)
        elif self._aac is None:
            times.place(packet, self._jumps.offset_us)
            yield Piece(1, packet, arrived)
        else:
            try:
                frames: list[Any] = list(packet.decode())
                made = [p for frame in frames for p in self._aac.turn(frame)]
            except (av.error.FFmpegError, ValueError):
                self._lost_sound += 1
                return
            for each in made:
                times.place(each, self._jumps.offset_us)
                yield Piece(1, each, arrived)

    def _changed_tracks(self, key_frame: Packet[Any]) -> tuple[Track, ...] | None:
        """The tracks from this key frame on, read from the parameter sets in it; None if they cannot be read: the footage holds them."""
        try:
            with av.open(io.BytesIO(bytes(key_frame)), format=self._video.codec_context.name) as raw:
                self._tracks = (self._pass_on(raw.streams.video[0]), *self._tracks[1:])
        except (av.error.FFmpegError, ValueError, IndexError) as error:
            log.warning("changed picture not understood stream=%s error=%s", self._spec.id, type(error).__name__)
            return None
        log.info("picture changed stream=%s width=%d height=%d", self._spec.id, self._tracks[0].width, self._tracks[0].height)
        return self._tracks

    def close(self) -> None:
        if self._container is not None:
            self._container.close()             # sends TEARDOWN
            self._container = None


class ParameterSets:
    """Notices that a camera changed its picture in mid-stream: the sequence parameter set before a key frame is another one.

    NAL units in Annex B form, as FFmpeg's RTSP gives them (ITU-T H.264 table 7-1: type 7; H.265 table 7-1: type 33).
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        """`codec`: h264 or hevc; `extradata`: what the camera told in its description."""
        self._is_h265 = codec == "hevc"
        self._known = self._find(extradata or b"")

    def changed(self, key_frame: Packet[Any]) -> bool:
        """Whether this key frame brings another set than the last one known. A frame without any changes nothing."""
        found = self._find(bytes(memoryview(key_frame)[:SETS_BYTES]))
        if not found or found == self._known:
            return False
        known, self._known = self._known, found
        return bool(known)

    def _find(self, data: bytes) -> bytes:
        for unit in data.split(b"\0\0\1")[1:]:
            if unit and (unit[0] >> 1 & 0x3F == 33 if self._is_h265 else unit[0] & 0x1F == 7):
                return unit.rstrip(b"\0")
        return b""


def _boot_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def _place_first(first: Packet[Any], second: Packet[Any], base: Fraction) -> None:
    """The first picture lies one step before the second (FFmpeg ticket 5018; Home Assistant does the same)."""
    at = second.dts if second.dts is not None else second.pts
    if at is not None:
        step = second.duration or first.duration or round(Fraction(1, 25) / base)
        first.pts = first.dts = at - step
