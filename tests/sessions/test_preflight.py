"""May the doors open: every item's lights, what may be waived, and the whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.capture.watchnote import RULES
from edge.sessions.preflight import (
    FRESH_MS,
    LOW_CDB,
    NOT_WATCHED,
    PICTURE_RULES,
    PROBE_OLD_US,
    RED_RULES,
    SILENCE_CDB,
    SOUND_RULES,
    WAITING_BYTES,
    Item,
    Light,
    ProbeReading,
    Readings,
    Result,
    StreamReading,
    judge,
)

FRONT = StreamReading("cam-front", "rtsp", "recording", "", 300, -3000)
BACK = StreamReading("cam-back", "rtsp", "recording", "", 300, None)
MIC = StreamReading("mic", "microphone", "recording", "", 300, -3000)
GOOD = Readings(roster_source="platform", roster_age_us=0, roster_refused=None, plan_is_today=True, reader="ok", reader_fault="",
                streams=(FRONT, BACK, MIC), free_bytes=2 * 10**12, needed_bytes=10**12, write_ok=True, storage_fault="",
                clock_state="synced", require_sync=True, platform_reason=None, chief_present=True, proctors_present=2, min_proctors=2,
                exits_checked=True)
H = 3600 * 1_000_000
PROBED = tuple(ProbeReading(s.stream, True, H) for s in (FRONT, BACK, MIC))


def item(key: str, **changed: Any) -> Item:
    return next(i for i in judge(replace(GOOD, **changed)).items if i.key == key)


def test_a_good_room_is_ready() -> None:
    found = judge(GOOD)
    assert found.result is Result.READY and found.red == ()
    assert [i.key for i in found.items] == ["roster", "reader", "stream:cam-front", "stream:cam-back", "stream:mic", "sound", "storage",
                                            "playback", "clock", "platform", "signature", "staff", "exits"]
    assert not any(i.waivable for i in found.items), "what is green needs no waiver"


@pytest.mark.parametrize(("key", "changed", "light", "word"), [
    ("roster", {"roster_source": None}, "red", "roster-missing"),
    ("roster", {"roster_source": None, "roster_refused": "signature"}, "red", "roster-refused"),
    ("roster", {"plan_is_today": False}, "red", "roster-not-today"),
    ("signature", {"certificate_until_us": 31 * 24 * H}, "green", "signature-ok"),
    ("signature", {"certificate_until_us": 31 * 24 * H - 1}, "amber", "certificate-expiring"),
    ("signature", {"certificate_until_us": 0}, "amber", "certificate-expiring"),
    ("signature", {"certificate_until_us": 0, "now_utc_us": 1}, "red", "certificate-expired"),
    ("signature", {"signer_lost": "no-answer"}, "red", "signer-lost"),
    ("roster", {"roster_age_us": 12 * H}, "green", "roster-ok"),
    ("roster", {"roster_age_us": 12 * H + 1}, "amber", "roster-old"),
    ("roster", {"roster_source": "drill", "roster_age_us": 99 * H}, "green", "roster-drill"),
    ("reader", {"reader": "lost", "reader_fault": "gone"}, "red", "reader-lost"),
    ("reader", {"reader": "starting"}, "red", "reader-lost"),
    ("storage", {"write_ok": False, "storage_fault": "not mounted"}, "red", "storage-fault"),
    ("storage", {"free_bytes": 13 * 10**11 - 1}, "red", "storage-full"),
    ("storage", {"space_low": True}, "amber", "storage-low"),
    ("storage", {"free_bytes": 13 * 10**11}, "green", "storage-ok"),
    ("clock", {"clock_state": "unsynced"}, "red", "clock-unsynced"),
    ("clock", {"clock_state": "unknown"}, "red", "clock-unsynced"),
    ("clock", {"clock_state": "unsynced", "require_sync": False}, "amber", "clock-unsynced"),
    ("platform", {"platform_reason": "timeout"}, "amber", "platform-offline"),
    ("staff", {"chief_present": False}, "red", "staff-no-chief"),
    ("staff", {"proctors_present": 1}, "red", "staff-missing"),
    ("staff", {"proctors_present": 3}, "green", "staff-ok"),
    ("exits", {"exits_checked": False}, "red", "exits-unchecked"),
    ("sound", {"streams": (FRONT, replace(MIC, peak_cdb=None)), }, "green", "sound-ok"),
    ("sound", {"streams": (BACK,)}, "red", "sound-missing"),
    ("sound", {"streams": (replace(FRONT, state="lost"),)}, "red", "sound-missing"),
    ("sound", {"streams": (replace(FRONT, peak_cdb=SILENCE_CDB),)}, "red", "sound-silent"),
    ("sound", {"streams": (replace(FRONT, peak_cdb=SILENCE_CDB + 1),)}, "amber", "sound-low"),
    ("sound", {"streams": (replace(FRONT, peak_cdb=LOW_CDB),)}, "green", "sound-ok"),
    ("sound", {"streams": (replace(FRONT, peak_cdb=-12000), MIC)}, "green", "sound-ok"),
    ("sound", {"streams": (replace(FRONT, peak_cdb=None, sound=True),)}, "amber", "sound-unmeasured"),
    ("sound", {"streams": (replace(FRONT, peak_cdb=None, sound=True, state="lost"),)}, "red", "sound-missing"),
    ("sound", {"streams": (replace(FRONT, alarms=("sound-zero",)), MIC)}, "amber", "sound-impaired"),
    ("sound", {"streams": (replace(FRONT, alarms=("covered",)), MIC)}, "green", "sound-ok"),
    ("storage", {"streams": (replace(FRONT, waiting_bytes=WAITING_BYTES), MIC)}, "green", "storage-ok"),
    ("storage", {"streams": (FRONT, replace(MIC, waiting_bytes=WAITING_BYTES + 1))}, "amber", "storage-slow"),
    ("storage", {"streams": (replace(FRONT, waiting_bytes=10**8),), "free_bytes": 0}, "red", "storage-full"),
    ("playback", {}, "green", "playback-new"),
    ("playback", {"room_age_us": PROBE_OLD_US + 1}, "amber", "playback-old"),
    ("playback", {"probes": PROBED, "room_age_us": 99 * H}, "green", "playback-ok"),
    ("playback", {"probes": (*PROBED[:2], replace(PROBED[2], ok=False, reason="digest"))}, "red", "playback-failed"),
    ("playback", {"probes": (*PROBED[:2], replace(PROBED[2], age_us=PROBE_OLD_US + 1))}, "amber", "playback-old"),
    ("playback", {"probes": PROBED[:2], "room_age_us": 99 * H}, "amber", "playback-old"),
    ("stream:cam-front", {"streams": (replace(FRONT, alarms=("covered",)), BACK)}, "red", "stream-impaired"),
    ("stream:cam-front", {"streams": (replace(FRONT, alarms=("moved",)), BACK)}, "amber", "stream-impaired"),
    ("stream:cam-front", {"streams": (replace(FRONT, alarms=(NOT_WATCHED,)), BACK)}, "amber", "stream-unwatched"),
    ("stream:cam-front", {"streams": (replace(FRONT, alarms=(NOT_WATCHED, "black")), BACK)}, "red", "stream-impaired"),
    ("stream:cam-front", {"streams": (replace(FRONT, alarms=("black",), age_ms=None), BACK)}, "red", "stream-lost"),
    ("stream:cam-front", {"streams": (replace(FRONT, alarms=("sound-zero",)), BACK)}, "green", "stream-ok"),
    ("stream:cam-front", {"streams": (replace(FRONT, age_ms=FRESH_MS), BACK)}, "green", "stream-ok"),
    ("stream:cam-front", {"streams": (replace(FRONT, age_ms=FRESH_MS + 1), BACK)}, "red", "stream-lost"),
    ("stream:cam-front", {"streams": (replace(FRONT, age_ms=None), BACK)}, "red", "stream-lost"),
    ("stream:cam-front", {"streams": (replace(FRONT, state="connecting"), BACK)}, "red", "stream-lost"),
])
def test_each_light(key: str, changed: dict[str, Any], light: str, word: str) -> None:
    found = item(key, **changed)
    assert (found.light, found.word) == (light, word)


@pytest.mark.parametrize("rule", sorted(PICTURE_RULES | SOUND_RULES))
def test_each_rule_of_the_watcher_has_its_light(rule: str) -> None:
    """R12, U2: a picture that shows nothing and a microphone that is dead are red, what only asks for a look is amber."""
    found = judge(replace(GOOD, streams=(replace(FRONT, alarms=(rule,)), BACK, MIC)))
    red = {"black", "covered", "frozen"}
    assert found.red == (("stream:cam-front",) if rule in red else ()) and found.result is not Result.READY
    assert {"black", "covered", "frozen", "sound-zero", "sound-missing"} == RED_RULES
    assert set(RULES) == PICTURE_RULES | SOUND_RULES, "the watcher's words and the room's are the same"


def test_an_impaired_camera_may_be_waived_while_another_is_good() -> None:
    covered = replace(FRONT, alarms=("covered",))
    one = judge(replace(GOOD, streams=(covered, BACK, MIC)), {"stream:cam-front"})
    assert one.red == () and one.result is Result.WARNINGS
    both = judge(replace(GOOD, streams=(covered, replace(BACK, alarms=("black",)), MIC)), {"stream:cam-front", "stream:cam-back"})
    assert both.red == ("stream:cam-front", "stream:cam-back"), "no camera shows the room"


def test_what_waits_for_a_person_is_no_fault() -> None:
    found = judge(replace(GOOD, exits_checked=False, chief_present=False, reader="lost"))
    assert {i.key for i in found.items if i.todo} == {"exits", "staff"} and set(found.red) == {"exits", "staff", "reader"}


@pytest.mark.parametrize("changed", [
    {"roster_source": None}, {"reader": "lost"}, {"streams": (replace(FRONT, age_ms=None), BACK)}, {"streams": (BACK,)},
    {"write_ok": False}, {"free_bytes": 0}, {"clock_state": "unknown"}, {"chief_present": False}, {"exits_checked": False},
])
def test_any_red_bars_the_doors(changed: dict[str, Any]) -> None:
    assert judge(replace(GOOD, **changed)).result is Result.NOT_READY


@pytest.mark.parametrize("changed", [{"platform_reason": "timeout"}, {"roster_age_us": 13 * H}, {"space_low": True}])
def test_amber_warns_and_opens(changed: dict[str, Any]) -> None:
    assert judge(replace(GOOD, **changed)).result is Result.WARNINGS


def test_one_camera_may_be_waived_while_another_records() -> None:
    lost = replace(GOOD, streams=(replace(FRONT, age_ms=None), BACK, MIC))
    assert judge(lost).red == ("stream:cam-front",)
    waived = judge(lost, {"stream:cam-front"})
    assert waived.red == () and waived.result is Result.WARNINGS
    assert next(i for i in waived.items if i.key == "stream:cam-front").light is Light.RED, "a waiver does not paint it green"


@pytest.mark.parametrize("streams", [
    (replace(FRONT, age_ms=None), MIC),                                         # a microphone is no camera
    (replace(FRONT, age_ms=None), replace(BACK, age_ms=FRESH_MS + 1), MIC),     # the other is not fresh
    (replace(FRONT, age_ms=None), replace(BACK, state="lost"), MIC),
])
def test_the_last_camera_cannot_be_waived(streams: tuple[StreamReading, ...]) -> None:
    found = judge(replace(GOOD, streams=streams), {"stream:cam-front"})
    assert "stream:cam-front" in found.red and found.result is Result.NOT_READY


@given(st.sets(st.sampled_from(["roster", "reader", "sound", "storage", "clock", "platform", "staff", "exits", "stream:mic"])))
def test_nothing_but_a_camera_beside_another_can_be_waived(waived: set[str]) -> None:
    silent = (replace(FRONT, peak_cdb=None), BACK, replace(MIC, age_ms=None, state="lost"))
    bad = replace(GOOD, roster_source=None, reader="lost", streams=silent, free_bytes=0,
                  clock_state="unknown", chief_present=False, exits_checked=False)
    found = judge(bad, waived)
    assert found.result is Result.NOT_READY
    assert {i.key for i in found.items if i.light is Light.RED} == set(found.red)


@given(st.builds(
    Readings, roster_source=st.sampled_from([None, "platform", "drill"]), roster_age_us=st.integers(-H, 100 * H),
    roster_refused=st.sampled_from([None, "signature"]), plan_is_today=st.booleans(), reader=st.sampled_from(["ok", "lost", "starting"]),
    reader_fault=st.just(""), streams=st.lists(st.builds(
        StreamReading, st.sampled_from(["a", "b", "c"]), st.sampled_from(["rtsp", "microphone"]), st.sampled_from(["recording", "lost"]),
        st.just(""), st.none() | st.integers(0, 5000), st.none() | st.integers(-12000, 0), st.booleans(),
        st.sets(st.sampled_from([*RULES, NOT_WATCHED])).map(tuple), st.integers(0, 10**7)),
        max_size=3, unique_by=lambda s: s.stream).map(tuple),
    space_low=st.booleans(),
    free_bytes=st.integers(0, 10**13), needed_bytes=st.integers(0, 10**13), write_ok=st.booleans(), storage_fault=st.just(""),
    clock_state=st.sampled_from(["synced", "unsynced", "unknown"]), require_sync=st.booleans(),
    platform_reason=st.sampled_from([None, "timeout"]), chief_present=st.booleans(), proctors_present=st.integers(0, 4),
    min_proctors=st.integers(0, 3), exits_checked=st.booleans(),
    probes=st.lists(st.builds(ProbeReading, st.sampled_from(["a", "b"]), st.booleans(), st.integers(-H, 99 * H)), max_size=2).map(tuple),
    room_age_us=st.integers(-H, 99 * H)))
def test_the_whole_is_the_worst_of_its_parts(readings: Readings) -> None:
    found = judge(readings)
    lights = [i.light for i in found.items]
    expected = Result.NOT_READY if Light.RED in lights else Result.WARNINGS if Light.AMBER in lights else Result.READY
    assert found.result is expected
    assert (expected is Result.NOT_READY) == bool(found.red)
