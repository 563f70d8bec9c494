"""The sidecar: what is known of one segment, as JSON beside it. A segment exists when its sidecar is durable.

Standard library only; the room, the auditor's tools and the recovery read it. The reader is strict: a file that is not
exactly a sidecar of this version is refused with the first thing that is wrong. All times are whole microseconds.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

from edge.clock import Stamp

VERSION = "sidecar/1"
OPENING_VERSION = "opening/1"
END_REASONS = ("rotated", "cut", "camera-lost", "camera-frozen", "stopped", "worker-crash", "power", "disk-full",
               "device-lost", "disk-stalled", "format-changed")
CLOCK_STATES = ("synced", "unsynced", "unknown")
UNKNOWN_BOOT = "unknown"
"""boot_id of a recovered segment whose opening note was lost: only its wall time is known, from the file's name."""

_STREAM = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_RUN = re.compile(r"[0-9a-f]{32}")
_BOOT = re.compile(r"[0-9a-z-]{1,64}")
_CODEC = re.compile(r"[a-z0-9+]{1,32}")
_OPTIONAL = {"audio_peak_cdb", "silent_ms"}
_MAX = (1 << 53) - 1


@dataclass(frozen=True, slots=True)
class Fragment:
    """A moof and its mdat: where they lie in the file, the media time they cover, and whether a key frame begins them."""

    offset: int
    length: int
    start_us: int
    dur_us: int
    key: bool


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One segment. `start` to `end` is the room's time axis, `media_start_us` and `dur_us` the file's own.

    `run`: one uninterrupted opening of the source (uuid hex); media time is absolute within it. `frames`: samples of the leading
    track; `frame_us`: their usual step. `dropped`: samples lost or timestamps mended while it was written. `header_bytes`: ftyp
    and moov. `audio_peak_cdb`: hundredths of a dBFS, -12000 = digital zero, None = no sound; `silent_ms`: digital silence in it
    (both are the watcher's by now, and in its own note; sidecars of version 0.1 had them).
    """

    stream: str
    seq: int
    run: str
    start: Stamp
    end: Stamp
    dur_us: int
    frame_us: int
    frames: int
    dropped: int
    bytes: int
    sha256: str
    header_bytes: int
    fragments: tuple[Fragment, ...]
    media_start_us: int
    codec: str
    tracks: Mapping[str, Mapping[str, str | int]]
    clock_state: str
    end_reason: str
    recovered: bool = False
    audio_peak_cdb: int | None = None
    silent_ms: int | None = None


def to_json(sidecar: Sidecar) -> bytes:
    """The sidecar's bytes: one JSON object, keys in order, None left out, a newline at the end."""
    facts: dict[str, Any] = {"version": VERSION, "boot_id": sidecar.start.boot_id}
    for field in dataclasses.fields(sidecar):
        value = getattr(sidecar, field.name)
        if isinstance(value, Stamp):
            value = {"utc_us": value.utc_us, "boot_us": value.boot_us}
        elif field.name == "fragments":
            value = [[f.offset, f.length, f.start_us, f.dur_us, int(f.key)] for f in value]
        if value is not None:
            facts[field.name] = value
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def from_json(data: bytes, *, index: bool = True) -> Sidecar:
    """The sidecar in `data`. ValueError naming the first thing that is wrong.

    Without `index` the fragments are checked all the same and then left out: three times as fast, for whoever reads millions.
    """
    try:
        facts = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON text") from error
    if not isinstance(facts, dict) or facts.get("version") != VERSION:
        raise ValueError(f"not a {VERSION}")
    names = {f.name for f in dataclasses.fields(Sidecar)} | {"version", "boot_id"}
    if wrong := sorted((set(facts) - names) | (names - _OPTIONAL - set(facts))):
        raise ValueError(f"missing or unknown: {', '.join(wrong)}")
    boot_id = _text(facts, "boot_id", _BOOT)
    sidecar = Sidecar(
        stream=_text(facts, "stream", _STREAM), seq=_whole(facts, "seq"), run=_text(facts, "run", _RUN),
        start=_stamp(facts["start"], boot_id), end=_stamp(facts["end"], boot_id),
        dur_us=_whole(facts, "dur_us"), frame_us=_whole(facts, "frame_us"), frames=_whole(facts, "frames"),
        dropped=_whole(facts, "dropped"), bytes=_whole(facts, "bytes"), sha256=_text(facts, "sha256", _HEX64),
        header_bytes=_whole(facts, "header_bytes"), fragments=_fragments(facts, index=index),
        media_start_us=_whole(facts, "media_start_us"), codec=_text(facts, "codec", _CODEC),
        tracks=_tracks(facts["tracks"]), clock_state=_word(facts, "clock_state", CLOCK_STATES),
        end_reason=_word(facts, "end_reason", END_REASONS), recovered=_flag(facts, "recovered"),
        audio_peak_cdb=_whole(facts, "audio_peak_cdb", -_MAX) if "audio_peak_cdb" in facts else None,
        silent_ms=_whole(facts, "silent_ms") if "silent_ms" in facts else None)
    _check_layout(sidecar)
    return sidecar


@dataclass(frozen=True, slots=True)
class Opening:
    """The note that lies beside a segment while it is written: what recovery cannot read from the file itself."""

    stream: str
    seq: int
    run: str
    start: Stamp
    media_start_us: int
    codec: str
    clock_state: str

    def to_json(self) -> bytes:
        facts = dataclasses.asdict(self) | {"version": OPENING_VERSION}
        return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Opening:
        """ValueError if it is not such a note."""
        facts = json.loads(data.decode("utf-8"))
        if not isinstance(facts, dict) or facts.get("version") != OPENING_VERSION or not isinstance(facts.get("start"), dict):
            raise ValueError(f"not a {OPENING_VERSION}")
        start = facts["start"]
        return cls(stream=_text(facts, "stream", _STREAM), seq=_whole(facts, "seq"), run=_text(facts, "run", _RUN),
                   start=Stamp(_whole(start, "utc_us"), _whole(start, "boot_us"), _text(start, "boot_id", _BOOT)),
                   media_start_us=_whole(facts, "media_start_us"), codec=_text(facts, "codec", _CODEC),
                   clock_state=_word(facts, "clock_state", CLOCK_STATES))


def _check_layout(sidecar: Sidecar) -> None:
    if sidecar.end.boot_us < sidecar.start.boot_us or sidecar.end.utc_us < sidecar.start.utc_us:
        raise ValueError("it ends before it begins")


def _whole(facts: Mapping[str, Any], name: str, least: int = 0) -> int:
    value = facts.get(name)
    if type(value) is not int or not least <= value <= _MAX:
        raise ValueError(f"{name} is not a whole number in range")
    return value


def _flag(facts: Mapping[str, Any], name: str) -> bool:
    value = facts.get(name)
    if type(value) is not bool:
        raise ValueError(f"{name} is neither true nor false")
    return value


def _text(facts: Mapping[str, Any], name: str, form: re.Pattern[str]) -> str:
    value = facts.get(name)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{name} does not have its form")
    return value


def _word(facts: Mapping[str, Any], name: str, words: tuple[str, ...]) -> str:
    value = facts.get(name)
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} is none of {', '.join(words)}")
    return value


def _stamp(facts: Any, boot_id: str) -> Stamp:
    if not isinstance(facts, dict) or set(facts) != {"utc_us", "boot_us"}:
        raise ValueError("a stamp is utc_us and boot_us")
    return Stamp(_whole(facts, "utc_us"), _whole(facts, "boot_us"), boot_id)


def _fragments(facts: Mapping[str, Any], *, index: bool) -> tuple[Fragment, ...]:
    """They lie one behind the other from the header's end on and within the file. All checks run in C: there are 120 a minute."""
    rows = facts["fragments"]
    if not isinstance(rows, list):
        raise ValueError("fragments is not a list")
    if not rows:
        raise ValueError("fragments do not fit the file")
    shapes = set(map(type, rows)) == {list} and set(map(len, rows)) == {5}
    numbers = list(chain.from_iterable(rows)) if shapes else []
    if not shapes or set(map(type, numbers)) != {int} or min(numbers) < 0 or max(numbers) > _MAX or max(numbers[4::5]) > 1:
        raise ValueError("a fragment is five whole numbers: offset, length, start_us, dur_us, key")
    lengths = numbers[1::5]
    ends = list(accumulate(lengths, initial=_whole(facts, "header_bytes")))
    if min(lengths) <= 0 or ends[:-1] != numbers[::5]:
        raise ValueError("fragments do not lie one behind the other")
    if ends[-1] > _whole(facts, "bytes"):
        raise ValueError("fragments do not fit the file")
    return tuple(Fragment(row[0], row[1], row[2], row[3], row[4] == 1) for row in rows) if index else ()


def _tracks(facts: Any) -> dict[str, dict[str, str | int]]:
    if not isinstance(facts, dict) or not facts or not set(facts) <= {"video", "audio"}:
        raise ValueError("tracks is not a description of video, audio or both")
    for track in facts.values():
        if not isinstance(track, dict) or any(type(v) not in (str, int) for v in track.values()):
            raise ValueError("a track is described by texts and whole numbers")
    return facts
