"""The sidecar's JSON: what is written is read back, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.capture.sidecar import CLOCK_STATES, END_REASONS, Fragment, Opening, Sidecar, from_json, to_json
from edge.capture.streams import StreamSpec
from edge.clock import Stamp

SMALL = st.integers(0, 2**40)


@st.composite
def sidecars(draw: st.DrawFn) -> Sidecar:
    header = draw(st.integers(1, 5000))
    at, fragments = header, []
    for length, at_us, dur, key in draw(st.lists(st.tuples(st.integers(1, 10**7), SMALL, SMALL, st.booleans()), min_size=1, max_size=9)):
        fragments.append(Fragment(at, length, at_us, dur, key))
        at += length
    start = Stamp(draw(SMALL), draw(SMALL), draw(st.uuids()).hex)
    sound = draw(st.booleans())
    return Sidecar(
        stream=draw(st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)), seq=draw(st.integers(0, 10**10 - 1)),
        run=draw(st.uuids()).hex, start=start, end=start.plus(draw(SMALL)), dur_us=draw(SMALL), frame_us=draw(SMALL),
        frames=draw(SMALL), dropped=draw(SMALL),
        bytes=at + draw(st.integers(0, 500)), sha256=draw(st.binary(min_size=32, max_size=32)).hex(), header_bytes=header,
        fragments=tuple(fragments), media_start_us=draw(SMALL), codec=draw(st.sampled_from(["h264", "h264+aac", "aac"])),
        tracks={"video": {"codec": "h264", "width": draw(st.integers(16, 4096)), "height": 360}},
        clock_state=draw(st.sampled_from(CLOCK_STATES)), end_reason=draw(st.sampled_from(END_REASONS)), recovered=draw(st.booleans()),
        audio_peak_cdb=draw(st.integers(-12000, 600)) if sound else None, silent_ms=draw(SMALL) if sound else None)


EXAMPLE = Sidecar(
    stream="cam-1", seq=4, run="0f" * 16, start=Stamp(1_795_498_303_000_000, 5_000_000, "b"),
    end=Stamp(1_795_498_304_000_000, 6_000_000, "b"),
    dur_us=1_000_000, frame_us=40_000, frames=25, dropped=0, bytes=1500, sha256="ab" * 32, header_bytes=1000,
    fragments=(Fragment(1000, 300, 1_000_000, 520_000, True), Fragment(1300, 200, 1_520_000, 480_000, False)), media_start_us=1_000_000,
    codec="h264", tracks={"video": {"codec": "h264"}}, clock_state="synced", end_reason="rotated")


@given(sidecars())
def test_round_trip(sidecar: Sidecar) -> None:
    data = to_json(sidecar)
    assert from_json(data) == sidecar
    assert to_json(from_json(data)) == data


@pytest.mark.parametrize("change", [
    {"version": "sidecar/2"}, {"extra": 1}, {"seq": "4"}, {"seq": True}, {"seq": -1}, {"seq": 2**53}, {"frames": 1.0}, {"stream": "../x"},
    {"stream": "Cam"}, {"sha256": "AB" * 32}, {"run": "x"}, {"end_reason": "bored"}, {"clock_state": ""}, {"recovered": 0},
    {"fragments": []}, {"fragments": [[1000, 300, 0, 0, 2]]},
    {"fragments": [[999, 300, 0, 0, 1]]}, {"fragments": [[1000, 501, 0, 0, 1]]},
    {"fragments": [[1000, 0, 0, 0, 1]]}, {"fragments": [[1000, 300, 0, 0]]}, {"fragments": {}}, {"tracks": {}},
    {"tracks": {"video": {"w": 1.5}}},
    {"start": {"utc_us": 1}}, {"start": 5}, {"end": {"utc_us": 1, "boot_us": 1}}, {"boot_id": ""}, {"silent_ms": None}, {"codec": "H.264"},
])
def test_anything_else_is_refused(change: dict[str, Any]) -> None:
    facts = json.loads(to_json(EXAMPLE))
    assert from_json(json.dumps(facts).encode()) == EXAMPLE
    with pytest.raises(ValueError, match=r"\w"):
        from_json(json.dumps(facts | change).encode())


@pytest.mark.parametrize("name", ["boot_id", *(f.name for f in dataclasses.fields(Sidecar)
                                            if f.name not in ("audio_peak_cdb", "silent_ms"))])
def test_every_field_is_needed(name: str) -> None:
    facts = json.loads(to_json(EXAMPLE))
    del facts[name]
    with pytest.raises(ValueError, match=name):
        from_json(json.dumps(facts).encode())


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        from_json(data)


def test_opening_note_round_trip() -> None:
    opening = Opening("cam-1", 4, "0f" * 16, EXAMPLE.start, 1_000_000, "h264+aac", "unsynced")
    assert Opening.from_json(opening.to_json()) == opening
    for bad in (b"{}", b"[]", b"\xff", opening.to_json().replace(b"unsynced", b"perhaps")):
        with pytest.raises(ValueError, match=r"\w"):
            Opening.from_json(bad)


def test_stream_spec_round_trip() -> None:
    spec = StreamSpec("cam-1", "rtsp", "前方", "Front", url="rtsp://127.0.0.1/x", segment_s=30)
    assert StreamSpec.from_json(spec.to_json()) == spec
    for bad in ('{"id":"a"}', '{"id":"a","kind":"tape"}', '{"id":"a","kind":"rtsp","speed":1}', "[]", "{"):
        with pytest.raises(ValueError, match=r"\w"):
            StreamSpec.from_json(bad)
