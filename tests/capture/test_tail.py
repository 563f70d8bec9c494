"""The tail reads a growing file: each whole fragment once, nothing half, and nothing that happens to a file makes it raise."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import av
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.capture import boxes
from edge.capture.recovery import recover
from edge.capture.segments import note_path as opening_path
from edge.capture.sidecar import Opening, Sidecar, from_json
from edge.capture.tail import BACKLOG, QUIET_LOOKS, Part, Sealed, Segment, Tail
from edge.capture.watchnote import note_path
from edge.clock import US, SimClock
from tests.capture.footage import Camera, Room, new_camera  # noqa: F401 (a fixture)

SMALL = (160, 96)
ROOM = Room(*SMALL)


Make = Callable[..., Camera]


@pytest.fixture
def small(new_camera: Make) -> Make:  # noqa: F811
    return functools.partial(new_camera, size=SMALL)


def parts(news: list[Segment | Part | Sealed]) -> list[Part]:
    return [each for each in news if isinstance(each, Part)]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Sidecar]:
    folder = tmp_path_factory.mktemp("sealed")
    recording = Camera(folder / "cam", SimClock(), size=SMALL, fps=10, gop=10)
    path = recording.film(3, ROOM.seen)
    recording.close()
    return path, from_json(path.with_suffix(".json").read_bytes())


def test_a_growing_file_gives_each_fragment_once_and_then_the_word_that_it_is_sealed(small: Make) -> None:
    recording = small(fps=10, gop=10)
    tail, news = Tail(recording.folder, recording.clock), []
    assert list(tail.look()) == []
    recording.open()
    for _ in range(30):
        recording.shoot(0.1, ROOM.seen)
        news.append(list(tail.look()))
    seen = [each for look in news for each in look]
    assert isinstance(seen[0], Segment) and seen[0].seq == tail.seq == 0 and tail.reads
    assert sum(map(bool, news)) >= 6, "fragments come one by one, not at the end"
    sidecar = recording.seal()
    seen += list(tail.look())
    assert isinstance(seen[-1], Sealed) and seen[-1].sidecar == sidecar and seen[-1].whole and not tail.reads
    assert len(parts(seen)) == len(sidecar.fragments)
    frames = [sample for part in parts(seen) for sample in part.samples.get("video", [])]
    assert len(frames) == sidecar.frames == 30
    assert [frame.key for frame in frames] == [n % 10 == 0 for n in range(30)]
    assert [frame.media_us for frame in frames] == [1_000_000 + n * 100_000 for n in range(30)]
    assert seen[0].moment(frames[0].media_us) == sidecar.start
    assert list(tail.look()) == []


def test_the_samples_are_those_that_another_reader_finds(sealed: tuple[Path, Sidecar], tmp_path: Path) -> None:
    """The container is opened by FFmpeg and by us: same bytes, same times, same keys."""
    path, _ = sealed
    with av.open(str(path)) as container:
        theirs: dict[str, list[tuple[int, bool, bytes]]] = {"video": [], "audio": []}
        for packet in container.demux():
            if packet.size and packet.pts is not None and packet.time_base is not None:
                at = packet.pts * packet.time_base.numerator * US // packet.time_base.denominator
                theirs[packet.stream.type].append((at, packet.is_keyframe, bytes(packet)))
        setups = {stream.type: stream.codec_context.extradata for stream in container.streams}
    folder = tmp_path / "cam" / path.parent.relative_to(path.parents[3])
    folder.mkdir(parents=True)
    for each in (path, path.with_suffix(".json")):
        shutil.copy(each, folder)
    news = list(Tail(tmp_path / "cam", SimClock()).look())
    begun = news[0]
    assert isinstance(begun, Segment)
    for kind in ("video", "audio"):
        ours = [(s.media_us, s.key, part.bytes_of(s)) for part in parts(news) for s in part.samples.get(kind, [])]
        assert ours == theirs[kind] and len(ours) > 20
        track = begun.track(kind)
        assert track is not None and track.setup == setups[kind]


def test_pictures_out_of_order_get_their_time_of_showing(small: Make) -> None:
    recording = small(sound=False, fps=10, gop=10, options={"tune": "film", "bf": "2", "preset": "veryfast"})
    recording.open()
    recording.shoot(3, ROOM.seen)
    for packet in recording._video.encode(None):
        recording._put(0, packet)
    recording.seal()
    times = [s.media_us for part in parts(list(Tail(recording.folder, recording.clock).look())) for s in part.samples["video"]]
    assert sorted(times) != times, "there are B-frames"
    assert {later - earlier for earlier, later in pairwise(sorted(times))} == {100_000}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cut_anywhere_it_yields_exactly_the_whole_fragments(sealed: tuple[Path, Sidecar], tmp_path: Path, data: st.DataObject) -> None:
    """R-C1, R-C2: torn or with a tail of zeros or noise; then the rest of the file comes, and the rest is read."""
    path, sidecar = sealed
    whole = path.read_bytes()
    length = data.draw(st.integers(0, len(whole)))
    tail_bytes = data.draw(st.sampled_from([b"", b"\0" * 7, b"\0" * 4096]) | st.binary(max_size=40))
    folder = tmp_path / "cam"
    shutil.rmtree(folder, ignore_errors=True)
    copy = folder / path.relative_to(path.parents[3])
    copy.parent.mkdir(parents=True)
    copy.write_bytes(whole[:length] + tail_bytes)
    opening_path(copy).write_bytes(_opening(sidecar))
    tail = Tail(folder, SimClock())
    news = list(tail.look())
    complete = sum(fragment.offset + fragment.length <= length for fragment in sidecar.fragments)
    if not tail_bytes or length in (0, len(whole)):
        assert len(parts(news)) == complete
    assert len(parts(news)) >= complete and all(len(part.data) for part in parts(news))
    copy.write_bytes(whole)
    shutil.copy(path.with_suffix(".json"), copy.with_suffix(".json"))
    news += list(tail.look())
    assert isinstance(news[-1], Sealed)
    if not tail_bytes:
        assert news[-1].whole and len(parts(news)) == len(sidecar.fragments)


def _opening(sidecar: Sidecar) -> bytes:
    return Opening(sidecar.stream, sidecar.seq, sidecar.run, sidecar.start, sidecar.media_start_us, sidecar.codec, "synced").to_json()


@settings(max_examples=60, deadline=None)
@given(where=st.floats(0, 1), change=st.binary(min_size=1, max_size=8))
def test_damaged_boxes_are_refused_or_read_but_never_raise_anything_else(sealed: tuple[Path, Sidecar], where: float, change: bytes) -> None:
    path, sidecar = sealed
    data = path.read_bytes()
    header, first = data[:sidecar.header_bytes], sidecar.fragments[0]
    moof = data[first.offset:first.offset + int.from_bytes(data[first.offset:first.offset + 4], "big")]
    tracks = boxes.read_header(header)
    at = int(where * (len(moof) - 1))
    damaged = moof[:at] + change + moof[at + len(change):]
    with suppress(boxes.BoxError):
        boxes.read_samples(damaged, tracks)
    at = int(where * (len(header) - 1))
    with suppress(boxes.BoxError):
        boxes.read_header(header[:at] + change + header[at + len(change):])


def test_rotation_and_another_run_with_another_format_are_followed(small: Make) -> None:
    first = small()
    tail = Tail(first.folder, first.clock)
    first.film(1, ROOM.seen)
    first.open()
    first.shoot(1, ROOM.seen)
    news = list(tail.look())
    assert [type(each).__name__ for each in news if not isinstance(each, Part)] == ["Segment", "Sealed", "Segment"]
    first.seal("camera-lost")
    second = small(first.folder, first.clock, size=(320, 180), codec="libx265")
    second.seq, second.run = 2, "cd" * 16
    second.film(1, Room(320, 180).seen)
    news = list(tail.look())
    begun = [each for each in news if isinstance(each, Segment)]
    assert [(each.seq, each.run[:2]) for each in begun] == [(2, "cd")]
    track = begun[0].track("video")
    assert track is not None and (track.codec, track.facts["width"]) == ("h265", 320) and track.setup
    assert [each.sidecar.seq for each in news if isinstance(each, Sealed)] == [1, 2]


def test_it_begins_with_the_newest_and_passes_over_what_is_noted(small: Make) -> None:
    recording = small(sound=False)
    paths = [recording.film(1, ROOM.seen) for _ in range(BACKLOG + 3)]
    note_path(paths[-2]).write_text("noted")
    read = [each.seq for each in Tail(recording.folder, recording.clock).look() if isinstance(each, Segment)]
    assert read == [2, 3, 5], f"the newest {BACKLOG} of those that nobody watched"


def test_over_midnight_and_back_again_it_finds_the_next_segment(small: Make) -> None:
    """A clock set back makes the worker write into an older day's folder."""
    recording = small(sound=False)
    tail = Tail(recording.folder, recording.clock)
    for step_days in (0, 1, -2):
        recording.clock.step_wall(step_days * 86400 * US)
        recording._first = recording.clock.now().plus(-(recording.media_us - 1_000_000))
        recording.film(1, ROOM.seen)
        assert [each.seq for each in tail.look() if isinstance(each, Segment)] == [recording.seq - 1], f"after {step_days} days"
    assert len(list(recording.folder.glob("*/*/*"))) == 3


def test_a_file_that_vanishes_or_is_set_aside_is_left_for_the_next(small: Make) -> None:
    recording = small(sound=False)
    tail = Tail(recording.folder, recording.clock)
    recording.open()
    recording.shoot(1, ROOM.seen)
    assert parts(list(tail.look()))
    recording.path.unlink()
    assert list(tail.look()) == []
    recording.film(1, ROOM.seen)
    news = list(tail.look())
    assert [each.sidecar.seq for each in news if isinstance(each, Sealed)] == [1]


def test_what_a_crash_left_and_recovery_cut_is_read_to_its_end(small: Make) -> None:
    """R-C2: the worker dies in the middle of a fragment, its successor truncates and seals."""
    recording = small()
    tail = Tail(recording.folder, recording.clock)
    recording.open()
    recording.shoot(2, ROOM.seen)
    with recording.path.open("ab") as file:
        file.write(b"\0\0\x02\0moof and then nothing")
    before = parts(list(tail.look()))
    assert recover(recording.folder) == 1
    news = list(tail.look())
    assert isinstance(news[-1], Sealed) and news[-1].whole and news[-1].sidecar.recovered
    assert len(before) + len(parts(news)) == len(news[-1].sidecar.fragments)


def test_a_file_left_standing_does_not_hold_up_the_next(small: Make) -> None:
    recording = small(sound=False)
    tail = Tail(recording.folder, recording.clock)
    recording.open()
    recording.shoot(1, ROOM.seen)
    list(tail.look())
    left = recording.path
    recording.film(1, ROOM.seen)
    news = [each for _ in range(2 * QUIET_LOOKS) for each in tail.look()]
    assert [each.seq for each in news if isinstance(each, Segment)] == [1] and left.exists()


def test_nothing_new_costs_no_listing(small: Make) -> None:
    """A look at a file that did not grow opens nothing: shown by a folder that may not even be read."""
    recording = small(sound=False)
    tail = Tail(recording.folder, recording.clock)
    recording.open()
    recording.shoot(1, ROOM.seen)
    list(tail.look())
    listings = tail._listings
    for _ in range(QUIET_LOOKS - 1):
        assert list(tail.look()) == []
    assert tail._listings == listings
