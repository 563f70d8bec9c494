"""Gaps: what is covered and what is declared make up the interval, no more and no less."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge.clock import US, Stamp
from edge.evidence.manifest import TOLERANCE_MAX_US, TOLERANCE_US, Gap, find_gaps
from edge.sessions.events import SegmentStored

START = Stamp(1_795_672_800 * US, 1_000 * US, "boot-1")
END = START.plus(600 * US)


def segment(seq: int, start: Stamp, end: Stamp, end_reason: str = "rotated", frame_us: int = 40_000, stream: str = "cam") -> SegmentStored:
    return SegmentStored(
        at=end, stream=stream, seq=seq, path="", run="", start_utc_us=start.utc_us, end_utc_us=end.utc_us, start_boot_us=start.boot_us,
        end_boot_us=end.boot_us, boot_id=start.boot_id, dur_us=end.us_since(start), frame_us=frame_us, bytes=1, sha256="",
        sidecar_sha256="", codec="h264", end_reason=end_reason, recovered=False, clock_state="synced")


def spans(*pairs: tuple[int, int], end_reason: str = "rotated") -> list[SegmentStored]:
    return [segment(n, START.plus(a * US), START.plus(b * US), end_reason) for n, (a, b) in enumerate(pairs)]


def found(segments: list[SegmentStored], end: Stamp = END) -> list[tuple[int, int, str]]:
    return [((gap.from_utc_us - START.utc_us) // US, (gap.to_utc_us - START.utc_us) // US, gap.reason)
            for gap in find_gaps(segments, ["cam"], START, end)]


def test_a_stream_that_covers_all_has_none() -> None:
    assert found(spans((-30, 30), (30, 400), (399, 640))) == []


def test_a_stream_with_nothing_is_one_gap() -> None:
    assert found([]) == [(0, 600, "not-recording")]
    assert find_gaps([], ["mic", "cam"], START, END) == [
        Gap(each, START.utc_us, END.utc_us, 600 * US, "not-recording") for each in ("cam", "mic")]


def test_head_middle_and_tail() -> None:
    assert found(spans((10, 60), (90, 300), end_reason="camera-lost")) == [
        (0, 10, "not-recording"), (60, 90, "camera-lost"), (300, 600, "camera-lost")]
    assert found(spans((0, 60), (120, 600))) == [(60, 120, "not-stored")]


def test_what_lies_outside_the_interval_neither_covers_nor_lacks() -> None:
    assert found(spans((-90, -30), (700, 760))) == [(0, 600, "not-recording")]
    assert found(spans((-90, -30), (-30, 600), (700, 760))) == []


def test_a_stream_that_was_not_expected_is_not_asked() -> None:
    assert find_gaps([segment(1, START, END, stream="other")], [], START, END) == []


def test_a_hole_of_two_frames_is_none_and_a_slow_stream_cannot_call_a_second_a_frame() -> None:
    for frame_us, tolerance in ((40_000, TOLERANCE_US), (200_000, 400_000), (5 * US, TOLERANCE_MAX_US)):
        for hole, expected in ((tolerance, 0), (tolerance + 1, 1)):
            first = segment(1, START, START.plus(60 * US), frame_us=frame_us)
            second = segment(2, first_end(first).plus(hole), END, frame_us=frame_us)
            assert len(find_gaps([first, second], ["cam"], START, END)) == expected


def first_end(stored: SegmentStored) -> Stamp:
    return Stamp(stored.end_utc_us, stored.end_boot_us, stored.boot_id)


def test_a_wall_clock_set_back_within_one_boot_hides_nothing() -> None:
    first = segment(1, START, START.plus(100 * US), "camera-lost")
    start, end = START.plus(130 * US), END
    stepped = segment(2, Stamp(start.utc_us - 30 * US, start.boot_us, start.boot_id), Stamp(end.utc_us - 30 * US, end.boot_us, end.boot_id))
    gaps = find_gaps([first, stepped], ["cam"], START, END)
    assert [(gap.dur_us, gap.reason) for gap in gaps] == [(30 * US, "camera-lost")]


def test_a_restart_is_a_gap_by_the_wall_clock() -> None:
    later = Stamp(START.utc_us + 150 * US, 5 * US, "boot-2")
    end = later.plus(450 * US)
    segments = [segment(1, START, START.plus(60 * US), "power"), segment(2, later, end)]
    assert find_gaps(segments, ["cam"], START, end) == [Gap("cam", START.utc_us + 60 * US, later.utc_us, 90 * US, "power")]
    assert found([segment(1, START, START.plus(60 * US)), segments[1]], end) == [(60, 150, "power")]


def test_a_restart_is_a_gap_even_if_the_wall_clock_says_that_no_time_passed() -> None:
    """A dead clock battery: the new boot believes to be earlier than the old one."""
    wrong = Stamp(START.utc_us - 900 * US, 5 * US, "boot-2")
    segments = [segment(1, START, START.plus(60 * US), "power"), segment(2, wrong, wrong.plus(60 * US))]
    gaps = find_gaps(segments, ["cam"], START, wrong.plus(60 * US))
    assert [(gap.dur_us, gap.reason) for gap in gaps] == [(0, "power")]
    assert [gap.reason for gap in find_gaps(segments[:1], ["cam"], START, wrong.plus(60 * US))] == ["power"]


pieces = st.lists(st.tuples(st.integers(-100_000, 700_000), st.integers(0, 200_000)), max_size=12)


@given(pieces, st.sampled_from([0, 20_000, 40_000, 66_667, 200_000]))
def test_coverage_and_gaps_make_up_the_interval(lengths: list[tuple[int, int]], frame_us: int) -> None:
    """In milliseconds, one boot; numbered in the order of their beginning, as the recorder does."""
    segments = [segment(n, START.plus(a * 1000), START.plus((a + d) * 1000), frame_us=frame_us) for n, (a, d) in enumerate(sorted(lengths))]
    gaps = find_gaps(segments, ["cam"], START, END)
    tolerance = max(2 * frame_us, TOLERANCE_US) if segments else TOLERANCE_US
    marks = sorted([(g.from_utc_us - START.utc_us, g.to_utc_us - START.utc_us) for g in gaps])
    covered = sorted((max(s.start_utc_us - START.utc_us, 0), min(s.end_utc_us - START.utc_us, 600 * US)) for s in segments)
    covered = [(a, b) for a, b in covered if a < b]
    for (a, b), gap in zip(marks, sorted(gaps, key=lambda g: g.from_utc_us), strict=True):
        assert 0 <= a < b <= 600 * US and gap.dur_us == b - a
        assert all(b <= c or d <= a for c, d in covered), "a gap over something that is covered"
        assert b - a > TOLERANCE_US
    reached = 0
    for a, b in [*sorted(covered + marks), (600 * US, 600 * US)]:
        assert a - reached <= tolerance, "a hole that is neither covered nor declared"
        reached = max(reached, b)


@given(pieces, st.randoms(use_true_random=False))
def test_the_order_of_arrival_does_not_matter(lengths: list[tuple[int, int]], random: object) -> None:
    segments = [segment(n, START.plus(a * 1000), START.plus((a + d) * 1000)) for n, (a, d) in enumerate(sorted(lengths))]
    shuffled = list(segments)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert find_gaps(shuffled, ["cam"], START, END) == find_gaps(segments, ["cam"], START, END)
