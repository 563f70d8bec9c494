"""Live viewing: the file that is being written, read up to its last whole fragment at any moment; a playlist that only ever grows at
its end; who may look, and that each look is written down."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.capture.boxes import BoxError
from edge.capture.sidecar import Opening, from_json, to_json
from edge.clock import US, Stamp
from edge.sessions import events as e
from edge.web.growing import GrowingFile, NewestReels
from edge.web.window import LEAST_ENTRY_US, Window

if TYPE_CHECKING:
    from tests.web.conftest import Hall, MakeFilm

SESSION = "S20261126-KD01-R01-01"


class Takes:
    """A finished film, to be laid into a stream's folder again as it would have grown."""

    def __init__(self, footage: Path) -> None:
        self.files = sorted(footage.rglob("*Z.mp4"))
        self.sidecars = [from_json(path.with_suffix(".json").read_bytes()) for path in self.files]

    def write(self, footage: Path, n: int, size: int | None, start: Stamp | None = None, run: str | None = None) -> Path:
        """The n-th file with its first `size` bytes and its note; None: all of it, sealed. `start`, `run` instead of its own."""
        sidecar, name = self.sidecars[n], self.files[n].relative_to(self.files[n].parents[4])
        path = footage / name
        path.parent.mkdir(parents=True, exist_ok=True)
        begins = start or sidecar.start
        moved = replace(sidecar, start=begins, end=begins.plus(sidecar.end.us_since(sidecar.start)), run=run or sidecar.run)
        path.write_bytes(self.files[n].read_bytes()[:size])
        if size is None:
            path.with_suffix(".json").write_bytes(to_json(moved))
            path.with_suffix(".open.json").unlink(missing_ok=True)
        else:
            path.with_suffix(".open.json").write_bytes(Opening("front", moved.seq, moved.run, moved.start, moved.media_start_us,
                                                               moved.codec, "synced").to_json())
        return path


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory, make_film: MakeFilm) -> Takes:
    folder = tmp_path_factory.mktemp("film")
    make_film(folder, 20)
    return Takes(folder)


# ---- the growing file -----------------------------------------------------------------------------------------------------

@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.floats(0, 1), min_size=1, max_size=6).map(sorted))
def test_a_growing_file_is_read_up_to_its_last_whole_fragment_at_any_moment(takes: Takes, tmp_path: Path, cuts: list[float]) -> None:
    """However it is cut, and however often it is looked at: what is read is the beginning of what the sidecar will say."""
    data, sidecar, path = takes.files[1].read_bytes(), takes.sidecars[1], tmp_path / "growing.mp4"
    path.write_bytes(b"")
    file = GrowingFile(path)
    for size in [round(cut * len(data)) for cut in cuts] + [len(data)]:
        path.write_bytes(data[:size])
        file.look()
        whole = [f for f in sidecar.fragments if f.offset + f.length <= size]
        assert file.fragments == whole
    assert file.header == data[:sidecar.header_bytes] and len(file.fragments) == len(sidecar.fragments) > 5


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_in_part_and_never_hangs(takes: Takes, tmp_path: Path, data: st.DataObject) -> None:
    body, path = bytearray(takes.files[1].read_bytes()), tmp_path / "damaged.mp4"
    at = data.draw(st.integers(0, len(body) - 1))
    body[at:at + data.draw(st.integers(1, 40))] = data.draw(st.sampled_from([b"\0" * 40, b"\xff" * 40, b"moof" * 10]))
    path.write_bytes(body)
    file = GrowingFile(path)
    with suppress(BoxError):
        file.look()
    assert all(a.offset + a.length == b.offset for a, b in pairwise(file.fragments))


def test_the_newest_files_of_this_boot(takes: Takes, tmp_path: Path) -> None:
    boot = takes.sidecars[0].start.boot_id
    for n in range(3):
        takes.write(tmp_path, n, None)
    growing = takes.write(tmp_path, 3, 4000)
    reels = NewestReels(tmp_path / "front")
    found = reels.look(boot, 60 * US)
    assert [(r.seq, r.sealed) for r in found] == [(0, True), (1, True), (2, True), (3, False)]
    assert next(r.seq for r in reels.look(boot, 6 * US)) >= 2, "no more than is asked for"
    assert reels.path_of(3) == growing and reels.path_of(0) is None
    takes.write(tmp_path, 3, None)
    assert reels.look(boot, 60 * US)[-1].sealed
    assert reels.look("another-boot", 60 * US) == [] and NewestReels(tmp_path / "nothing").look(boot, US) == []
    path = takes.write(tmp_path, 2, None)
    path.with_suffix(".json").unlink()                              # a crash: neither note nor sidecar
    assert [r.seq for r in NewestReels(tmp_path / "front").look(boot, 60 * US)] == [0, 1, 3]


# ---- the playlist -----------------------------------------------------------------------------------------------------------

def numbered(text: str) -> dict[int, str]:
    """Number -> the entry's bytes, for every entry of a playlist (`-` for a hole)."""
    first = int(re.findall(r"MEDIA-SEQUENCE:(\d+)", text)[0])
    entries = re.findall(r"#EXTINF:[\d.]+,\n(?:#EXT-X-BYTERANGE:(\S+)\n)?(\S+)", text)
    return {first + n: f"{name}:{where}" if where else "-" for n, (where, name) in enumerate(entries)}


def test_a_playlist_grows_at_its_end_and_slides(takes: Takes, tmp_path: Path) -> None:
    """Twenty seconds of film four times over as one run: each look adds, nothing that was told changes, a minute is kept."""
    now, window = takes.sidecars[0].start, Window(tmp_path / "front")
    assert window.playlist(now, "front") is None
    told: dict[int, str] = {}
    for n, sidecar in enumerate(takes.sidecars):
        for size in [*range(sidecar.header_bytes, sidecar.bytes, 1500), None]:
            takes.write(tmp_path, n, size)
            text = window.playlist(now, "front")
            if text is None:
                continue
            entries = numbered(text)
            assert all(told.get(number, entry) == entry for number, entry in entries.items()), "a number keeps its entry"
            assert told.keys() <= entries.keys(), "within a minute nothing goes"
            told |= entries
            durations = [float(d) for d in re.findall(r"#EXTINF:([\d.]+),", text)]
            assert all(d <= int(re.findall(r"TARGETDURATION:(\d+)", text)[0]) + 0.5 for d in durations)
            assert "ENDLIST" not in text and "PLAYLIST-TYPE" not in text and "DISCONTINUITY\n" not in text
    assert text is not None and text.count("#EXT-X-MAP") == 1 and text.count("#EXT-X-PROGRAM-DATE-TIME") == len(takes.sidecars)
    assert sum(durations) == pytest.approx(20, abs=0.01) and len(told) >= 20
    for seq, sidecar in enumerate(takes.sidecars):
        ranges = [(int(n), int(at)) for n, at in re.findall(rf"BYTERANGE:(\d+)@(\d+)\nfront/{seq}\.mp4", text)]
        assert ranges[0][1] == sidecar.header_bytes and all(a + n == b for (n, a), (_, b) in pairwise(ranges))
        assert ranges[-1][0] + ranges[-1][1] == sidecar.bytes, "every byte once"


def test_the_newest_entry_does_not_wait_for_a_key_frame(takes: Takes, tmp_path: Path) -> None:
    """What is whole on the disk is in the playlist, but for less than one entry's length."""
    sidecar, window = takes.sidecars[1], Window(tmp_path / "front")
    for fragment in sidecar.fragments[2:]:
        takes.write(tmp_path, 1, fragment.offset + fragment.length)
        text = window.playlist(sidecar.start, "front") or ""
        reached = sum(float(d) for d in re.findall(r"#EXTINF:([\d.]+),", text)) * US
        assert fragment.start_us + fragment.dur_us - sidecar.media_start_us - reached < LEAST_ENTRY_US


def test_holes_runs_and_the_end_of_the_window(takes: Takes, tmp_path: Path) -> None:
    start, window = takes.sidecars[0].start, Window(tmp_path / "front")
    takes.write(tmp_path, 0, None, start, "a" * 32)
    first = window.playlist(start, "front") or ""
    takes.write(tmp_path, 1, None, start.plus(12 * US + 345_000), "b" * 32)
    text = window.playlist(start, "front") or ""
    length = takes.sidecars[0].dur_us / US
    assert sum(map(float, re.findall(r"#EXTINF:([\d.]+),", text))) == pytest.approx(12.345 + takes.sidecars[1].dur_us / US, abs=0.01)
    assert text.count("#EXT-X-GAP\n") == int(12.345 - length) and text.count("#EXT-X-DISCONTINUITY\n") == 1 == text.count("#EXT-X-MAP") - 1
    assert text.index("#EXT-X-GAP") < text.index("#EXT-X-DISCONTINUITY\n") < text.index("front/1.mp4")
    assert numbered(first).items() <= numbered(text).items() and "DISCONTINUITY-SEQUENCE:0" in text
    takes.write(tmp_path, 2, None, start.plus(600 * US), "c" * 32)
    late = window.playlist(start, "front") or ""
    assert "front/0.mp4" not in late and "front/1.mp4" not in late and "DISCONTINUITY-SEQUENCE:1" in late
    assert min(numbered(late)) > max(numbered(text)) - 1
    assert 50 <= late.count("#EXT-X-GAP\n") <= 60 and len(numbered(late)) <= 66, "no more of a hole than the window is wide"


def test_numbers_go_on_above_after_a_restart(takes: Takes, tmp_path: Path) -> None:
    now = takes.sidecars[0].start
    for n in range(4):
        takes.write(tmp_path, n, None)
    before = numbered(Window(tmp_path / "front").playlist(now, "front") or "")
    after = numbered(Window(tmp_path / "front").playlist(now.plus(20 * US), "front") or "")
    assert min(after) > max(before)


# ---- over HTTP ----------------------------------------------------------------------------------------------------------------

def views_of(hall: Hall) -> list[tuple[str, str, str | None]]:
    return [(r.event.by, r.event.stream, r.event.reason) for r in hall.room.events(SESSION) if isinstance(r.event, e.FootageViewed)]


async def test_live_is_for_those_on_duty_and_each_look_is_written(hall: Hall, takes: Takes, caplog: pytest.LogCaptureFixture) -> None:
    await hall.plan()
    caplog.set_level("INFO")
    takes.write(hall.desk.footage, 0, 4000, hall.clock.now())
    paths = ("/live/front", "/live/front.m3u8", "/live/front/0.mp4")
    async with hall.client() as nobody:
        assert [(await nobody.get(path)).status_code for path in paths] == [303, 401, 401]
    async with hall.browser("A001") as auditor:
        assert [(await auditor.get(path)).status_code for path in paths] == [403] * 3
    async with hall.browser("T002") as proctor, hall.browser("Y001") as sysadmin:
        assert [(await proctor.get(path)).status_code for path in paths] == [200] * 3
        assert "viewed staff=T002 stream=front what=live" in caplog.text, "no session is live: a line in the log"
        await hall.roster()
        await hall.to("checkin")
        assert views_of(hall) == []
        await proctor.get("/live/front.m3u8")
        assert views_of(hall) == [("T002", "front", "live")], "who was looking when the doors opened is written down as well"
        await proctor.get("/live/front/0.mp4", headers={"Range": "bytes=0-9"})
        await proctor.get("/live/front.m3u8")
        assert len(views_of(hall)) == 1
        await sysadmin.get("/live/rear")
        await proctor.get("/live/front")
        assert views_of(hall)[1:] == [("Y001", "rear", "live"), ("T002", "front", "live")]
        await proctor.get("/live/front", headers={"HX-Request": "true"})
        assert len(views_of(hall)) == 3, "an open page that asks for news is no new look"
        page = (await proctor.get("/live/front")).text
        assert f'href="/s/{SESSION}"' in page and 'data-playlist="/live/front.m3u8"' in page and "/now?tiles=front" in page
        tile = (await proctor.get("/now?tiles=front")).text
        assert 'id="cap-front"' in tile and 'id="cap-rear"' not in tile


async def test_bytes_of_the_file_that_grows(hall: Hall, takes: Takes) -> None:
    await hall.plan()
    data = takes.files[0].read_bytes()
    takes.write(hall.desk.footage, 0, 4000, hall.clock.now())
    async with hall.browser("T001") as chief:
        assert (await chief.get("/live/front/0.mp4")).status_code == 404, "no playlist has named it"
        text = (await chief.get("/live/front.m3u8")).text
        ranges = [(int(n), int(at)) for n, at in re.findall(r"BYTERANGE:(\d+)@(\d+)\nfront/0\.mp4", text)]
        takes.write(hall.desk.footage, 0, 5000, hall.clock.now())
        for n, at in ranges:
            answer = await chief.get("/live/front/0.mp4", headers={"Range": f"bytes={at}-{at + n - 1}"})
            assert answer.status_code == 206 and answer.content == data[at:at + n] and answer.headers["cache-control"] == "no-store"
        for path in ("/live/front/1.mp4", "/live/front/-1.mp4", "/live/front/x.mp4", "/live/nothing.m3u8", "/live/nothing/0.mp4",
                     "/live/nothing", "/live/rear.m3u8", "/live/..%2f..%2fstate.m3u8", "/live/front/missing.mp4"):
            answer = await chief.get(path)
            assert answer.status_code == 404 and "没有" in answer.text, path
