"""What a stream is, and what a worker pulls from: `StreamSpec`, `Track`, `Piece` and the `Source` protocol.

Standard library only at run time: the configuration and the room read `StreamSpec` without loading PyAV.
Called by config, recorder, worker and every source.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from av.packet import Packet
    from av.stream import Stream

StreamKind = Literal["rtsp", "usb", "microphone", "pattern"]
KINDS: tuple[StreamKind, ...] = ("rtsp", "usb", "microphone", "pattern")


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One camera or microphone as configured.

    `segment_s` seconds a segment, cut at wall-clock multiples of it plus `offset_s` (staggers the streams' closing work).
    `buffer_mb`: what may wait in memory for a disk that stands still, in units of 10^6 bytes. `credentials` names a file with one line
    `user:password`; `transport` is how a network camera sends (tcp or udp). `device`: a USB camera's path, a microphone's (part of
    the) name. `sound`: name of the microphone that is recorded with a USB camera; `driver`: what reads a microphone (sounddevice or
    pyaudio). `width`, `height`, `fps` shape USB cameras and the pattern; `rate_hz` is a microphone's sampling rate (16000 or 48000).
    """

    id: str
    kind: StreamKind
    name_zh: str = ""
    name_en: str = ""
    url: str | None = None
    credentials: Path | None = None
    transport: Literal["tcp", "udp"] = "tcp"
    device: str | None = None
    sound: str | None = None
    driver: Literal["sounddevice", "pyaudio"] = "sounddevice"
    segment_s: int = 60
    offset_s: int = 0
    buffer_mb: int = 32
    width: int = 640
    height: int = 360
    fps: int = 15
    rate_hz: int = 48000

    def to_json(self) -> str:
        """One line of JSON that `from_json` turns back."""
        facts = {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items() if v is not None}
        return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> StreamSpec:
        """ValueError, in plain words, if it is not the JSON of a stream."""
        facts: Any = json.loads(text)
        if not isinstance(facts, dict):
            raise ValueError("a stream is described by a JSON object")
        if unknown := sorted(set(facts) - {f.name for f in dataclasses.fields(cls)}):
            raise ValueError(f"a stream has no such setting: {', '.join(map(str, unknown))}")
        if facts.get("kind") not in KINDS or not isinstance(facts.get("id"), str):
            raise ValueError(f"a stream needs an id and one of the kinds {', '.join(KINDS)}")
        if "credentials" in facts:
            facts["credentials"] = Path(facts["credentials"])
        return cls(**facts)


@dataclass(frozen=True, slots=True)
class Track:
    """One track of a run. `template` is an output stream of a container that writes nowhere: it outlives the source.

    `decoder` names the codec that decodes the pieces (for key-frame pictures and sound levels), `extradata` is its set-up.
    """

    kind: Literal["video", "audio"]
    codec: str
    template: Stream
    decoder: str
    extradata: bytes | None
    width: int = 0
    height: int = 0


@dataclass(slots=True)
class Piece:
    """One encoded sample of track number `track`, with pts and dts set, dts rising within its track.

    All tracks of a run share one zero. `arrived_us`: boot time at which the worker had it, without the device's known delay.
    """

    track: int
    packet: Packet[Any]
    arrived_us: int


@dataclass(frozen=True, slots=True)
class Sync:
    """How well a device's sound keeps to the picture's clock, where two devices are recorded as one stream.

    `drift_ppm`: how much faster the sound card runs, measured over a minute or more; `offset_ms`: where its sound lies against
    the picture now; `overruns`: how often the card lost samples (each became as much silence).
    """

    drift_ppm: int
    offset_ms: int
    overruns: int


class SourceFault(Exception):
    """The device or the network failed: data, not a defect.

    `end_reason` goes into the sidecar of the segment that it ended; `reason` is one word for people and the status file;
    `patient` asks for long pauses (a camera that refuses the password locks out whoever insists).
    """

    def __init__(self, end_reason: str, reason: str, *, patient: bool = False) -> None:
        super().__init__(reason)
        self.end_reason, self.reason, self.patient = end_reason, reason, patient


class Source(Protocol):
    """What a worker pulls from. All three calls may block and are made by one and the same thread."""

    def open(self) -> tuple[Track, ...]:
        """Begin a run. Track 0 leads: segments begin at its key frames. SourceFault if the device cannot be had."""

    def pieces(self) -> Iterator[Piece | tuple[Track, ...]]:
        """Samples as they come. Ends, or raises SourceFault, when the device is gone.

        Tracks among them: from here on the samples are of these (the camera changed its picture); a key frame of track 0 follows.
        """

    def close(self) -> None:
        """End the run; no error if none is open."""

    @property
    def repairs(self) -> int:
        """Timestamps mended and samples lost since `open`."""

    @property
    def sync(self) -> Sync | None:
        """How sound keeps to picture; None where one device sends both, or there is but one."""
