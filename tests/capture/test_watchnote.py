"""The watcher's notes: what is written is read back, and nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.capture.watchnote import RULES, PictureFigures, Probe, ProbeWindow, Turn, WatchNote, evidence_path, note_path, probe_path

number = st.integers(0, (1 << 53) - 1)
maybe = st.none() | number
figures = st.builds(PictureFigures, number, number, number, number, number, maybe, maybe, st.none() | st.integers(-10**6, 10**6),
                    maybe, maybe, maybe, maybe)
turns = st.builds(Turn, st.sampled_from(RULES), st.booleans(), number, number,
                  st.sampled_from(["0000000042-20261124T053143Z.black.jpg", ""]))
notes = st.builds(WatchNote, st.just("cam-front"), number, st.just("ab" * 32), st.just("1"), st.none() | st.integers(-12000, 900), maybe,
                  maybe, maybe, number, st.lists(figures, max_size=3).map(tuple), st.lists(turns, max_size=3).map(tuple),
                  st.dictionaries(st.sampled_from(RULES), number, max_size=3))
anything = st.recursive(st.none() | st.booleans() | number | st.text(max_size=5),
                        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))


@given(notes)
def test_a_note_is_read_back_as_it_was_written(note: WatchNote) -> None:
    assert WatchNote.from_json(note.to_json()) == note


@given(st.binary(max_size=200) | anything.map(lambda value: json.dumps(value).encode()))
def test_whatever_else_is_refused_in_words(data: bytes) -> None:
    for kind in (WatchNote, Probe):
        with pytest.raises(ValueError, match=r"\w"):
            kind.from_json(data)


NOTE = WatchNote("cam", 7, "ab" * 32, "1", -2000, 0, 0, 48000, 0, (PictureFigures(1, 2, 3, 4, 5, *[None] * 7),),
                 (Turn("black", True, 5, 6, "0000000042-20261124T053143Z.black.jpg"),), {"black": 5})
PROBE = Probe("cam", "2026-11-24", 5, (ProbeWindow(1, 0, 10_000_000, 250, True),
                                       ProbeWindow(2, 0, 10_000_000, 3, False, "frames-missing")), False)


@pytest.mark.parametrize(("name", "value"), [
    ("stream", "../x"), ("seq", -1), ("seq", True), ("sha256", "ab"), ("rules", ""), ("silent_ms", 1.5), ("undecoded", None),
    ("pictures", {}), ("pictures", [[1, 2]]), ("pictures", [[None] * 12]), ("turns", [{"rule": "black"}]), ("in_force", {"blue": 1}),
    ("in_force", {"black": "1"}), ("version", "watch/2"), ("surprise", 1),
])
def test_a_note_with_one_thing_wrong_is_refused(name: str, value: object) -> None:
    facts = json.loads(NOTE.to_json()) | {name: value}
    with pytest.raises(ValueError, match=r"\w"):
        WatchNote.from_json(json.dumps(facts).encode())
    assert WatchNote.from_json(NOTE.to_json()) == NOTE


@pytest.mark.parametrize(("name", "value"), [
    ("ok", True), ("date", "24.11.2026"), ("windows", None), ("windows", [{"seq": 1}]), ("utc_us", "now"),
    ("windows", [{"seq": 1, "from_us": 0, "dur_us": 1, "frames": 1, "ok": False, "reason": ""}]),
    ("windows", [{"seq": 1, "from_us": 0, "dur_us": 1, "frames": 1, "ok": False, "reason": "who knows"}]),
])
def test_a_probe_with_one_thing_wrong_is_refused(name: str, value: object) -> None:
    facts = json.loads(PROBE.to_json()) | {name: value}
    with pytest.raises(ValueError, match=r"\w"):
        Probe.from_json(json.dumps(facts).encode())
    assert Probe.from_json(PROBE.to_json()) == PROBE


def test_each_lies_beside_what_it_speaks_of() -> None:
    segment = Path("cam/2026/11/24/0000000042-20261124T053143Z.mp4")
    assert note_path(segment).name == "0000000042-20261124T053143Z.watch.json"
    assert evidence_path(segment, "black").name == "0000000042-20261124T053143Z.black.jpg"
    assert probe_path(Path("cam"), "2026-11-24") == Path("cam/probes/2026-11-24.json")
