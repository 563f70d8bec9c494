"""Picture figures on recorded, painted rooms: each fault is told from good pictures and from every other fault, whatever the room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.capture import picture
from edge.capture.alarms import Limits, judge_picture
from edge.capture.boxes import TrackHeader
from edge.capture.pattern import Pattern, layout, text_mask
from edge.capture.streams import StreamSpec
from edge.capture.tail import Part, Segment, Tail
from edge.capture.watchnote import PictureFigures
from edge.clock import SimClock
from tests.capture.footage import Camera, Picture, Room

Paint = Callable[[float], Picture]


def faults(room: Room) -> dict[str, tuple[Paint, set[str]]]:
    """What the camera sees -> rules that it breaks."""
    scale = room.width / 320
    flat = np.full((room.height, room.width), 60, np.uint8) + np.linspace(0, 40, room.width, dtype=np.uint8)[None, :]

    def blurred(t: float, sigma: float) -> Picture:
        return room.noisy(np.asarray(cv2.GaussianBlur(room.still(t), (0, 0), sigma * scale), np.uint8))

    def lit(t: float, gain: float, lift: int = 0) -> Picture:
        return room.noisy(np.asarray(np.clip(room.still(t) * gain + lift, 0, 240), np.uint8))

    return {
        "good": (room.seen, set()), "noisy sensor": (lambda t: room.noisy(room.still(t), 8), set()),
        "people move": (lambda t: room.seen(3 * t + 5), set()), "slightly soft": (lambda t: blurred(t, 0.5), set()),
        "strong light": (lambda t: lit(t, 1.3), set()), "weak light": (lambda t: lit(t, 0.6), set()),
        "dim": (lambda t: lit(t, 0.25, 12), set()),
        "a nudge": (lambda t: room.noisy(room.still(t, round(2 * scale))), set()),
        "black": (lambda t: room.noisy(np.full((room.height, room.width), 18, np.uint8), 2), {"black"}),
        "covered": (lambda t: room.noisy(np.asarray(cv2.GaussianBlur(flat, (0, 0), 9), np.uint8)), {"covered"}),
        "defocused": (lambda t: blurred(t, 2.5), {"out-of-focus"}), "half defocused": (lambda t: blurred(t, 1.5), {"out-of-focus"}),
        "turned a little": (lambda t: room.noisy(room.still(t, round(8 * scale))), {"moved"}),
        "turned": (lambda t: room.noisy(room.still(t, round(20 * scale))), {"moved"}),
        "turned away": (lambda t: room.noisy(room.still(t, round(150 * scale))), {"moved"}),
        "blinded": (lambda t: lit(t, 1.0, 150), {"over-exposed"}),
    }


def key_frames(tail: Tail) -> list[tuple[TrackHeader, int, bytes]]:
    found, track = [], None
    for news in tail.look():
        if isinstance(news, Segment):
            track = news.track("video")
        if isinstance(news, Part) and track is not None:
            found += [(track, s.media_us, news.bytes_of(s)) for s in news.samples.get("video", []) if s.key]
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("size", "codec"), [((640, 360), "libx264"), ((1280, 720), "libx264"), ((640, 360), "libx265")])
def test_every_fault_breaks_its_rule_and_no_other(tmp_path: Path, seed: int, size: tuple[int, int], codec: str) -> None:
    room, clock = Room(*size, seed=seed), SimClock()
    tail, reference = Tail(tmp_path / "cam", clock), picture.Reference(tmp_path / "cam")
    camera = Camera(tmp_path / "cam", clock, size=size, sound=False, codec=codec, fps=2, gop=2)
    wrong = {}
    for name, (paint, rules) in faults(room).items():
        camera.film(1, paint)
        (track, media_us, data), = key_frames(tail)
        grey = picture.grey(picture.decode(track, data))
        if not reference:
            assert reference.keep(grey)
            reference.refresh()
        figures = picture.measure(media_us, grey, (), reference)
        broken = {rule for rule, is_so in judge_picture(figures, reference.detail, Limits()).items() if is_so}
        if broken != rules:
            wrong[name] = broken, figures
    camera.close()
    assert wrong == {}


def test_without_a_reference_what_needs_none_is_told(tmp_path: Path) -> None:
    room, clock = Room(seed=4), SimClock()
    tail, reference = Tail(tmp_path / "cam", clock), picture.Reference(tmp_path / "cam")
    camera = Camera(tmp_path / "cam", clock, sound=False, fps=2, gop=2)
    for name, (paint, rules) in faults(room).items():
        if name in ("half defocused", "dim"):       # these need one: what is soft in this room, and what a dim room looks like
            continue
        camera.film(1, paint)
        (track, media_us, data), = key_frames(tail)
        figures = picture.measure(media_us, picture.grey(picture.decode(track, data)), (), reference)
        assert figures.shift_x_x100 is figures.kept_x100 is None
        assert {rule for rule, is_so in judge_picture(figures, None, Limits()).items() if is_so} == rules - {"moved"}, name
    camera.close()


def test_a_clock_in_the_picture_moves_no_camera(tmp_path: Path) -> None:
    """The test picture's digits make up much of its edges, and all its upright lines look alike: a trap for every shift finder."""
    source, dice = Pattern(StreamSpec("cam", "pattern")), np.random.default_rng(1)
    size, *places = layout(640, 360)

    def grey() -> picture.Grey:
        luma = source._planes[0].copy()
        for top, left in places:
            lit = np.kron(text_mask("".join(map(str, dice.integers(0, 10, 8)))), np.ones((size, size), np.bool_))
            luma[top:top + lit.shape[0], left:left + lit.shape[1]] = np.where(lit, 235, 16)
        return np.asarray(cv2.resize(luma, (320, 180), interpolation=cv2.INTER_AREA), np.uint8)

    found = 0
    for number in range(5):
        reference = picture.Reference(tmp_path / str(number))
        reference.path.parent.mkdir()
        reference.keep(grey())
        reference.refresh()
        for _ in range(60):
            figures = picture.measure(0, grey(), (), reference)
            found += max(abs(figures.shift_x_x100 or 0), abs(figures.shift_y_x100 or 0)) > 600
            assert not any(judge_picture(figures, reference.detail, Limits()).values()), figures
    assert found > 3, "a shift is found, and not believed"


def test_the_very_same_picture_is_frozen_noise_alone_is_not(tmp_path: Path) -> None:
    room, clock = Room(), SimClock()
    tail = Tail(tmp_path / "cam", clock)
    camera = Camera(tmp_path / "cam", clock, sound=False, fps=2, gop=2, options={"qp": "28", "crf": "-1"})
    stuck, still = room.seen(0), room.still(0)
    verdicts = []
    for paint in (room.seen, lambda t: stuck, lambda t: room.noisy(still, 1)):
        camera.film(4, paint)
        before: list[picture.Grey] = []
        seen = []
        for track, media_us, data in key_frames(tail):
            grey = picture.grey(picture.decode(track, data))
            figures = picture.measure(media_us, grey, before, picture.Reference(tmp_path))
            seen.append(judge_picture(figures, None, Limits())["frozen"])
            before.append(grey)
        verdicts.append(seen)
    camera.close()
    assert verdicts == [[None, False, False, False], [None, True, True, True], [None, None, None, None]]


@pytest.mark.parametrize(("width", "height", "shown"), [
    (1280, 720, (640, 360)), (320, 180, (320, 180)), (640, 480, (640, 480)), (50, 38, (48, 36))])
def test_the_still_is_a_jpeg_at_most_640_wide(tmp_path: Path, width: int, height: int, shown: tuple[int, int]) -> None:
    camera = Camera(tmp_path / "cam", SimClock(), size=(width, height), sound=False, fps=2, gop=2)
    camera.film(1, lambda t: np.full((height, width), 120, np.uint8))
    (track, _, data), = key_frames(Tail(camera.folder, camera.clock))
    jpeg = picture.still(picture.decode(track, data))
    camera.close()
    read = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert read is not None and (read.shape[1], read.shape[0]) == shown
    assert jpeg[:3] == b"\xff\xd8\xff" and abs(float(read.mean()) - (120 - 16) * 255 / 219) < 3, "grey stays grey"


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\0\x05\x65abcd", b"\xff" * 5000])
def test_what_is_no_picture_is_refused(tmp_path: Path, data: bytes) -> None:
    camera = Camera(tmp_path / "cam", SimClock(), size=(160, 96), sound=False, fps=2, gop=2)
    camera.film(1, Room(160, 96).seen)
    (track, _, _), = key_frames(Tail(camera.folder, camera.clock))
    camera.close()
    with pytest.raises(picture.NoPicture):
        picture.decode(track, data)


def test_a_reference_is_made_once_and_put_aside_on_renewal(tmp_path: Path) -> None:
    reference, grey = picture.Reference(tmp_path), np.asarray(Room(320, 180).seen(0), np.uint8)
    assert not reference and picture.renew(tmp_path, 0) is None
    assert reference.keep(grey) and not reference.keep(255 - grey)
    reference.refresh()
    assert reference and reference.compare(grey)[3:] == (10000, 10000)
    assert reference.compare(np.full_like(grey, 90)) == (None,) * 5
    kept = picture.renew(tmp_path, 1_795_680_000_000_000)
    assert kept is not None and kept.name == "reference-until-20261126T080000Z.png" and kept.exists()
    reference.refresh()
    assert not reference
    reference.path.write_bytes(b"not a picture")
    reference.refresh()
    assert not reference and not reference.keep(grey), "what a person put there is left alone"


def test_figures_of_a_plain_picture() -> None:
    plain = np.full((180, 320), 200, np.uint8)
    half = plain.copy()
    half[:90] = 240
    none = picture.Reference(Path("/nowhere"))
    assert picture.measure(7, plain, (), none) == PictureFigures(7, 20000, 0, 0, 0, *[None] * 7)
    figures = picture.measure(8, half, [plain], none)
    assert (figures.mean_x100, figures.spread_x100, figures.bright_x100, figures.changed, figures.stir) == (22000, 2000, 5000, 90 * 320, 40)
