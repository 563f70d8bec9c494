"""What the watcher leaves on the disk: a note beside each segment that it saw and heard, a note of each day's playback probe.

Standard library only: the room's intake reads them, and so does whoever asks later why an alarm was raised. The readers are strict: a
file that is not exactly such a note of this version is refused with the first thing that is wrong. All times are whole microseconds,
picture figures are hundredths. Written once, durably, by watch and probe; a segment without a note was not watched.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = "watch/1"
PROBE_VERSION = "probe/1"
RULES = ("black", "covered", "out-of-focus", "moved", "frozen", "over-exposed",
         "sound-zero", "sound-low", "sound-clipping", "sound-missing")
"""Every alarm that there is. How grave each is, the room says (sessions.preflight)."""
REASONS = ("", "missing", "unreadable", "digest", "undecodable", "frames-missing", "sound-missing", "decoder-crashed")
"""Why a probe failed: the file is gone; the disk does not give it; other bytes than were sealed; a decoder refuses it; it has fewer
frames, or less sound, than its index says; the decoding process itself died."""

_STREAM = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_RULES = re.compile(r"[a-z0-9./-]{1,64}")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_FILE = re.compile(r"|[0-9]{10}-[0-9]{8}T[0-9]{6}Z\.[a-z-]{1,32}\.jpg")
_MAX = (1 << 53) - 1


@dataclass(frozen=True, slots=True)
class PictureFigures:
    """What was measured on one key frame, scaled to 320 x 180 grey (luma as coded: 16 is black, 235 white with most cameras).

    `mean`, `spread`: average and standard deviation; `sharp`: variance of the Laplacian; `bright`: share of pixels at 230 or above, in
    hundredths of a per cent; `changed`: pixels that differ from the most alike of the last few key frames, `stir`: largest difference of a
    pixel from the key frame before (both None: there was none); against the camera's reference picture (None: there is none, or the
    picture shows nothing to compare): `shift_x`, `shift_y` in hundredths of a pixel, `match`: how sure that shift is, `kept`: share of the
    reference's edges that are still there, `met`: share that is found where the shift puts them; these three in hundredths of a per cent.
    """

    media_us: int
    mean_x100: int
    spread_x100: int
    sharp_x100: int
    bright_x100: int
    changed: int | None
    stir: int | None
    shift_x_x100: int | None
    shift_y_x100: int | None
    match_x100: int | None
    kept_x100: int | None
    met_x100: int | None


@dataclass(frozen=True, slots=True)
class Turn:
    """An alarm raised, or cleared, at this moment of the recording. `picture`: name of the evidence beside the segment, "" = none."""

    rule: str
    raised: bool
    utc_us: int
    media_us: int
    picture: str = ""


@dataclass(frozen=True, slots=True)
class WatchNote:
    """What the watcher saw and heard in one sealed segment.

    `sha256`: of the segment's bytes, as its sidecar says. `rules`: version of the rules that judged it. `audio_peak_cdb`: hundredths of
    a dBFS, -12000 = digital zero; `silent_ms`: digital silence in it; `clipped`: those near full scale of `sound_samples`; all four None:
    no sound. `undecoded`: pictures and sound packets that the decoder refused. `in_force`: alarms at its end, rule -> UTC of raising.
    """

    stream: str
    seq: int
    sha256: str
    rules: str
    audio_peak_cdb: int | None
    silent_ms: int | None
    clipped: int | None
    sound_samples: int | None
    undecoded: int
    pictures: tuple[PictureFigures, ...] = ()
    turns: tuple[Turn, ...] = ()
    in_force: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """One JSON object, keys in order, pictures as rows, a newline at the end."""
        facts = dataclasses.asdict(self) | {"version": VERSION, "in_force": dict(self.in_force)}
        facts["pictures"] = [list(dataclasses.astuple(picture)) for picture in self.pictures]
        return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> WatchNote:
        """ValueError naming the first thing that is wrong."""
        facts = _facts(data, VERSION, {f.name for f in dataclasses.fields(cls)})
        return cls(
            stream=_text(facts, "stream", _STREAM), seq=_whole(facts, "seq"), sha256=_text(facts, "sha256", _HEX64),
            rules=_text(facts, "rules", _RULES), audio_peak_cdb=_maybe(facts, "audio_peak_cdb", -_MAX),
            silent_ms=_maybe(facts, "silent_ms"), clipped=_maybe(facts, "clipped"),
            sound_samples=_maybe(facts, "sound_samples"), undecoded=_whole(facts, "undecoded"),
            pictures=tuple(_picture(row) for row in _list(facts, "pictures")), turns=tuple(_turn(each) for each in _list(facts, "turns")),
            in_force=_in_force(facts["in_force"]))


@dataclass(frozen=True, slots=True)
class ProbeWindow:
    """A stretch of footage that was decoded from the disk. `from_us`: after the segment's start; `frames`: of them decoded."""

    seq: int
    from_us: int
    dur_us: int
    frames: int
    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """One stream's playback probe of one UTC day (`YYYY-MM-DD`), made at `utc_us`. `ok`: every window is."""

    stream: str
    date: str
    utc_us: int
    windows: tuple[ProbeWindow, ...]
    ok: bool

    def to_json(self) -> bytes:
        """One JSON object, keys in order, a newline at the end."""
        return json.dumps(dataclasses.asdict(self) | {"version": PROBE_VERSION}, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Probe:
        """ValueError naming the first thing that is wrong."""
        facts = _facts(data, PROBE_VERSION, {f.name for f in dataclasses.fields(cls)})
        probe = cls(stream=_text(facts, "stream", _STREAM), date=_text(facts, "date", _DAY), utc_us=_whole(facts, "utc_us"),
                    windows=tuple(_window(each) for each in _list(facts, "windows")), ok=_flag(facts, "ok"))
        if probe.ok is not all(window.ok for window in probe.windows):
            raise ValueError("ok is not what its windows say")
        return probe


def note_path(segment: Path) -> Path:
    """Where the watcher's note of a segment lies (given its .mp4)."""
    return segment.with_suffix(".watch.json")


def evidence_path(segment: Path, rule: str) -> Path:
    """Where the picture lies on which an alarm was raised."""
    return segment.with_suffix(f".{rule}.jpg")


def probe_path(stream_folder: Path, date: str) -> Path:
    """Where the playback probe of a UTC day lies."""
    return stream_folder / "probes" / f"{date}.json"


def _facts(data: bytes, version: str, names: set[str]) -> dict[str, Any]:
    try:
        facts = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON text") from error
    if not isinstance(facts, dict) or facts.get("version") != version:
        raise ValueError(f"not a {version}")
    return _exactly(facts, names | {"version"})


def _exactly(facts: Any, names: set[str]) -> dict[str, Any]:
    if not isinstance(facts, dict):
        raise ValueError("not a JSON object")
    if wrong := sorted(set(facts) ^ names):
        raise ValueError(f"missing or unknown: {', '.join(wrong)}")
    return facts


def _whole(facts: Mapping[str, Any], name: str, least: int = 0) -> int:
    value = facts[name]
    if type(value) is not int or not least <= value <= _MAX:
        raise ValueError(f"{name} is not a whole number in range")
    return value


def _maybe(facts: Mapping[str, Any], name: str, least: int = 0) -> int | None:
    return None if facts[name] is None else _whole(facts, name, least)


def _flag(facts: Mapping[str, Any], name: str) -> bool:
    value = facts[name]
    if type(value) is not bool:
        raise ValueError(f"{name} is neither true nor false")
    return value


def _text(facts: Mapping[str, Any], name: str, form: re.Pattern[str]) -> str:
    value = facts[name]
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{name} does not have its form")
    return value


def _word(facts: Mapping[str, Any], name: str, words: tuple[str, ...]) -> str:
    value = facts[name]
    if not isinstance(value, str) or value not in words:
        raise ValueError(f"{name} is none of {', '.join(filter(None, words))}")
    return value


def _list(facts: Mapping[str, Any], name: str) -> list[Any]:
    value = facts[name]
    if not isinstance(value, list):
        raise ValueError(f"{name} is not a list")
    return value


def _picture(row: Any) -> PictureFigures:
    fields = dataclasses.fields(PictureFigures)
    if not isinstance(row, list) or len(row) != len(fields):
        raise ValueError(f"a picture is {len(fields)} figures")
    for each, value in zip(fields, row, strict=True):
        if not (type(value) is int and abs(value) <= _MAX) and not (value is None and "None" in str(each.type)):
            raise ValueError(f"a picture's {each.name} is not a whole number")
    return PictureFigures(*row)


def _turn(facts: Any) -> Turn:
    facts = _exactly(facts, {f.name for f in dataclasses.fields(Turn)})
    return Turn(_word(facts, "rule", RULES), _flag(facts, "raised"), _whole(facts, "utc_us"), _whole(facts, "media_us"),
                _text(facts, "picture", _FILE))


def _in_force(facts: Any) -> dict[str, int]:
    if not isinstance(facts, dict) or not set(facts) <= set(RULES):
        raise ValueError("in_force is not a table of rules")
    return {rule: _whole(facts, rule) for rule in facts}


def _window(facts: Any) -> ProbeWindow:
    facts = _exactly(facts, {f.name for f in dataclasses.fields(ProbeWindow)})
    window = ProbeWindow(_whole(facts, "seq"), _whole(facts, "from_us"), _whole(facts, "dur_us"), _whole(facts, "frames"),
                         _flag(facts, "ok"), _word(facts, "reason", REASONS))
    if window.ok is bool(window.reason):
        raise ValueError("a window is either ok or has a reason")
    return window
