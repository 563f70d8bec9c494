"""An IP camera over RTSP: its packets as they come, undecoded, with timestamps that MP4 takes.

H.264 and H.265 pass through, AAC too; any other sound becomes AAC here. Opening and reading have time limits (without them a
silent camera hangs FFmpeg for ever). A camera that goes away ends the stream without an error, so the end is a fault here. One that
changes its picture in mid-stream shows it in the parameter sets before a key frame: new tracks follow.
Traps met by real cameras: the first key frame comes without timestamps; dts does not rise; timestamps jump when the camera sets
its clock. All are mended and counted in `repairs`, none stops the recording. FFmpeg's error texts hold the address with the
password, so only our own words leave this module.
LIMIT: a camera slower than a picture in two seconds is taken for frozen: the first one comes when the second is there, and silence counts
after five seconds.
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
from edge.capture.stamps import CameraClock, TrackTimes
from edge.capture.streams import Piece, SourceFault, StreamSpec, Sync, Track
from edge.clock import US

OPEN_S, READ_S = 10.0, 5.0
SILENT_US = 4_500_000
"""When a read times out FFmpeg hands out the frame it still held, as if the camera lived, or ends without an error. So a silence of
this length is a frozen camera whatever comes after it."""
VIDEO = {"h264": "h264", "hevc": "h265"}
BURST_US = 2 * US
"""What waited while the camera was asked what it sends is read at once, until a read has to wait; no longer than this is waited for it."""
NAP_S = 0.1
WAITED_US = 2000
"""A read that had to wait has emptied the socket: then the reader sleeps, and takes what came meanwhile in one go. Waking for each of
360 packets a second costs more than half of the reading (measured: 0.60 CPU seconds a camera-minute without, 0.30 with a nap of 0.1 s).
TCP keeps what comes meanwhile; UDP would lose it, so there are no naps."""
UDP_BUFFER_BYTES = 4 << 20
SETS_BYTES = 4096
"""Parameter sets stand at the beginning of a key frame, and are short."""

log = logging.getLogger(__name__)

Burst = list[tuple[Any, int]]
"""Packets and the boot times at which they were had."""


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


class RtspCamera:
    """The source. One connection at a time, closed with TEARDOWN."""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self._container: InputContainer | None = None
        self._lost_sound = 0
        self._clock = CameraClock()
        self._times: dict[int, TrackTimes] = {}
        self._made = TrackTimes(Fraction(1, 1))         # of sound that is encoded here

    @property
    def repairs(self) -> int:
        return self._lost_sound + self._clock.count + self._made.repairs + sum(t.repairs for t in self._times.values())

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
        self._lost_sound, self._clock = 0, CameraClock()
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
        self._made = TrackTimes(Fraction(1, rate))
        return self._aac.track()

    def pieces(self) -> Iterator[Piece | tuple[Track, ...]]:
        if self._container is None:
            return
        burst: Burst | None = []
        began = idle_since = _boot_us()
        packets: Any = self._container.demux(*filter(None, (self._video, self._sound)))
        try:
            for packet in packets:
                if packet.size == 0:        # the end. Not `dts is None`: that is also the first key frame
                    continue
                now = _boot_us()
                waited = now - idle_since
                if burst is None:
                    yield from self._turn(packet, now)
                else:
                    burst.append((packet, now))
                    if self._is_complete(burst) and (waited > WAITED_US or now - began > BURST_US):
                        yield from self._settle(burst)
                        burst = None
                    elif now - began > BURST_US and packet.stream_index != self._video.index:
                        burst.pop()             # sound without a picture: whoever waits must see that the camera lives
                        yield from self._turn(packet, now)
                if waited > SILENT_US:
                    raise SourceFault("camera-frozen", "frozen")
                if waited > WAITED_US and self._naps:
                    time.sleep(NAP_S)
                idle_since = _boot_us()
        except (av.error.FFmpegError, OSError) as error:
            raise fault(error, opened=True) from None
        finally:
            packets.close()                 # PyAV's time limit ends with it; a TEARDOWN behind a read that timed out would run into it
        if _boot_us() - idle_since > SILENT_US:
            raise SourceFault("camera-frozen", "frozen")
        raise SourceFault("camera-lost", "connection-closed")

    def _is_complete(self, burst: Burst) -> bool:
        """Is there a picture, and if it has no time of its own, the next one, which tells it?"""
        pictures = [packet for packet, _ in burst if packet.stream_index == self._video.index]
        return bool(pictures) and (_stamp(pictures[0]) is not None or len(pictures) > 1)

    def _settle(self, burst: Burst) -> Iterator[Piece | tuple[Track, ...]]:
        """A run's first samples, which waited for the connection: each came as late as the one that was waited for least.

        The first picture of RTSP may bear no time: it lies one step before the second (FFmpeg ticket 5018; Home Assistant does the same).
        """
        pictures = [packet for packet, _ in burst if packet.stream_index == self._video.index]
        if _stamp(pictures[0]) is None and (at := _stamp(pictures[1])) is not None:
            step = pictures[1].duration or pictures[0].duration or round(Fraction(1, 25) / self._times[self._video.index].base)
            pictures[0].pts = pictures[0].dts = at - step
        least: dict[int, int] = {}
        for packet, arrived in burst:
            stamp, index = _stamp(packet), packet.stream_index
            if stamp is not None:
                late = arrived - self._times[index].us(stamp)
                least[index] = min(late, least.get(index, late))
        for packet, arrived in burst:
            stamp, index = _stamp(packet), packet.stream_index
            yield from self._turn(packet, arrived if stamp is None else self._times[index].us(stamp) + least[index])

    def _turn(self, packet: Packet[Any], arrived: int) -> Iterator[Piece | tuple[Track, ...]]:
        index, stamp = packet.stream_index, _stamp(packet)
        times = self._times[index]
        offset = 0 if stamp is None else self._clock.offset_us(index, times.us(stamp), arrived)
        if index == self._video.index:
            if packet.is_keyframe and self._sets.changed(packet) and (tracks := self._changed_tracks(packet)):
                yield tracks
            times.place(packet, offset)
            yield Piece(0, packet, arrived)
        elif self._aac is None:
            times.place(packet, offset)
            yield Piece(1, packet, arrived)
        else:
            times.place(packet, offset)         # before it is decoded: the encoder fills a jump with as much silence
            try:
                frames: list[Any] = list(packet.decode())
                made = [p for frame in frames for p in self._aac.turn(frame)]
            except (av.error.FFmpegError, ValueError):
                self._lost_sound += 1
                return
            for each in made:
                self._made.place(each)
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


def _stamp(packet: Packet[Any]) -> int | None:
    return packet.dts if packet.dts is not None else packet.pts


def _boot_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000
