"""Timestamps: the room's axis follows a drifting camera gently, and whatever a camera sends becomes what MP4 takes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.packet import Packet
from hypothesis import given
from hypothesis import strategies as st

from edge.capture.rtsp import address, fault
from edge.capture.segments import parse_stem, stem
from edge.capture.stamps import AHEAD_US, BACK_US, CameraClock, TrackTimes
from edge.capture.streams import SourceFault, StreamSpec
from edge.capture.timeline import LEAD_US, Timeline
from edge.clock import US, Stamp

ANCHOR = Stamp(1_795_498_303_000_000, 5_000_000, "b")


def test_media_time_is_anchored_at_the_first_sample() -> None:
    timeline = Timeline(ANCHOR)
    assert timeline.at(LEAD_US) == ANCHOR
    assert timeline.turn(LEAD_US + 60 * US) == ANCHOR.plus(60 * US) == timeline.at(LEAD_US + 60 * US)


@pytest.mark.parametrize("ppm", [-200, 200])
def test_a_day_of_drift_stays_within_100_ms(ppm: int) -> None:
    """R-D4: the camera's clock runs off by 200 ppm; arrival is late by up to 300 ms, never early."""
    timeline = Timeline(ANCHOR)
    end = ANCHOR
    for minute in range(1, 24 * 60 + 1):
        for second in range(minute * 60 - 59, minute * 60 + 1):
            late = (second * 7919) % 300_000
            timeline.heard(LEAD_US + second * (US + ppm), ANCHOR.boot_us + second * US + late)
        before, end = end, timeline.turn(LEAD_US + minute * 60 * (US + ppm))
        assert abs(end.us_since(before) - 60 * (US + ppm)) <= 60 * US * 500 // 1_000_000
        assert abs(end.boot_us - ANCHOR.boot_us - minute * 60 * US) <= 100_000
        assert end.utc_us - ANCHOR.utc_us == end.boot_us - ANCHOR.boot_us


stamps = st.one_of(st.none(), st.integers(-10**6, 10**9))


@given(st.lists(st.tuples(stamps, stamps, st.integers(0, 5000)), min_size=1, max_size=30), st.integers(0, 2))
def test_any_timestamps_become_what_mp4_takes(given_stamps: list[tuple[int | None, int | None, int]], reordered: int) -> None:
    times = TrackTimes(Fraction(1, 90000), reordered)
    last: int | None = None
    for pts, dts, duration in given_stamps:
        packet = Packet(b"x")
        packet.pts, packet.dts, packet.duration, packet.time_base = pts, dts, duration, Fraction(1, 90000)
        times.place(packet)
        assert packet.pts is not None and packet.dts is not None and packet.pts >= packet.dts
        assert last is None or packet.dts > last
        last = packet.dts


def test_good_timestamps_are_left_alone() -> None:
    times = TrackTimes(Fraction(1, 90000))
    for number in range(50):
        packet = Packet(b"x")
        packet.pts = packet.dts = number * 3600
        packet.time_base = Fraction(1, 90000)
        times.place(packet)
        assert (packet.pts, packet.dts) == (number * 3600, number * 3600)
    assert times.repairs == 0


@pytest.mark.parametrize("jump", [3600 * US, -3600 * US, 4 * US, -2 * US, 1000 * US])
@pytest.mark.parametrize("sound_after", [0, 9, 40])
def test_r_a6_a_camera_that_sets_its_clock_goes_on_where_it_was(jump: int, sound_after: int) -> None:
    """Picture and sound learn of the new clock at different moments, and keep their distance to the microsecond."""
    clock = CameraClock()
    ends: dict[int, int] = {}
    for number in range(400):
        for track, step, late in ((0, 40_000, number % 7 * 15_000), (1, 40_000, 5_000)):
            jumped = jump if number >= (200 if track == 0 else 200 + sound_after) else 0
            at = number * step + track * 10_000
            mended = at + jumped + clock.offset_us(track, at + jumped, at + late)
            assert number == 0 or 0 < mended - ends[track] < 150_000
            ends[track] = mended
    assert clock.count == 2
    assert ends[1] - ends[0] == 10_000


def test_a_clock_put_right_again_by_the_next_report_costs_nothing() -> None:
    clock, before = CameraClock(), -40_000
    for number in range(400):
        stamp = number * 40_000 - (2 * US if 200 <= number < 225 else 0)
        mended = stamp + clock.offset_us(0, stamp, number * 40_000)
        assert mended - before == 40_000
        before = mended
    assert clock.count == 2


def test_holes_and_bursts_are_no_jumps() -> None:
    clock = CameraClock()

    def look(stamp_us: int, arrived_us: int) -> int:
        return clock.offset_us(0, stamp_us, arrived_us)

    assert look(0, 0) == 0
    assert look(4 * US, 4 * US) == 0
    assert look(4 * US + 40_000, 13 * US) == 0      # the network stood still …
    assert look(13 * US, 13 * US + 10) == 0         # … and the camera threw away what it could not send meanwhile
    assert look(20 * US, 20 * US) == 0              # a hole in real time
    assert look(20 * US - 80_000, 20 * US) == 0     # pictures in the order of decoding, without decoding times
    assert clock.count == 0


@given(st.lists(st.tuples(st.integers(-10**13, 10**13), st.integers(0, 10**7)), max_size=40))
def test_r_a6_whatever_the_stamps_time_goes_on(given_stamps: list[tuple[int, int]]) -> None:
    """No stamp, however wild, moves a track by more than its samples took to arrive and a second: MP4 bears no more."""
    clock, arrived, last = CameraClock(), 10 * US, 0
    clock.offset_us(0, 0, 0)
    for stamp, waited in given_stamps:
        arrived += waited
        mended = stamp + clock.offset_us(0, stamp, arrived)
        assert -BACK_US <= mended - last <= arrived + AHEAD_US + arrived // 1000
        last = mended


@given(st.integers(0, 10**10 - 1), st.integers(0, 4 * 10**9))
def test_names(seq: int, utc_s: int) -> None:
    assert parse_stem(stem(seq, utc_s * US + 999_999)) == (seq, utc_s * US)


@pytest.mark.parametrize("name", ["", "1-20261124T053143Z", "0000000001-20261324T053143Z", "0000000001-20261124T053143", "0000000001-x"])
def test_other_names_are_none_of_ours(name: str) -> None:
    assert parse_stem(name) is None


def test_credentials_go_into_the_address_quoted(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("room:a:b/c@d\n")
    spec = StreamSpec("cam", "rtsp", url="rtsp://old:user@10.0.0.5:554/Streaming?channel=1", credentials=secret)
    assert address(spec) == "rtsp://room:a%3Ab%2Fc%40d@10.0.0.5:554/Streaming?channel=1"
    secret.write_text("nothing")
    with pytest.raises(SourceFault, match="credentials-unreadable"):
        address(spec)
    with pytest.raises(SourceFault, match="no-address"):
        address(StreamSpec("cam", "rtsp", url="http://10.0.0.5/"))


def test_faults_have_our_words() -> None:
    assert fault(av.error.HTTPUnauthorizedError(401, "x"), opened=False).patient
    assert fault(av.error.HTTPNotFoundError(404, "x"), opened=False).reason == "not-found"
    assert fault(ConnectionRefusedError(111, "x"), opened=False).reason == "refused"
    assert fault(av.error.ExitError(1, "x"), opened=True).end_reason == "camera-frozen"
    assert fault(OSError(113, "x"), opened=False).reason == "unreachable"
    assert fault(OSError(5, "x"), opened=True).end_reason == "camera-lost"
