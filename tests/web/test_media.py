"""Footage over HTTP: the playlist's true time, byte ranges of the very files, who may, and that each look is written down first."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.capture.sidecar import Fragment, Sidecar
from edge.clock import US, Stamp
from edge.sessions import events as e
from edge.web.playlist import Whole, entries_of, playlist

if TYPE_CHECKING:
    from tests.web.conftest import Hall

SESSION = "S20261126-KD01-R01-01"
M = f"/media/{SESSION}"
RUN_A, RUN_B = "a" * 32, "b" * 32


async def footage(hall: Hall) -> Stamp:
    """Two segments of one run, a hole of 12.5 s, and one of another run after a reboot's worth of nothing."""
    await hall.to("checkin")
    start = hall.clock.now()
    await hall.sim.pass_time(60)
    await hall.segment("front", 1, start, 10)
    await hall.segment("front", 2, start.plus(10 * US), 10, end_reason="camera-lost")
    await hall.segment("front", 3, start.plus(32_500_000), 10, RUN_B)
    return start


def durations(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"#EXTINF:([\d.]+),", text)]


async def test_a_playlist_keeps_true_time_over_holes_and_runs(hall: Hall) -> None:
    start = await footage(hall)
    async with hall.browser("A001") as auditor:
        answer = await auditor.get(f"{M}/front.m3u8")
    text = answer.text
    assert answer.headers["content-type"].startswith("application/vnd.apple.mpegurl") and answer.headers["cache-control"] == "no-store"
    assert text.startswith("#EXTM3U\n#EXT-X-VERSION:8\n#EXT-X-TARGETDURATION:1\n") and text.endswith("#EXT-X-ENDLIST\n")
    assert sum(durations(text)) == pytest.approx(42.5, abs=1e-4), "the whole, holes included"
    assert text.count("#EXT-X-GAP\n") == 13 and all(d <= 1.5 for d in durations(text))
    assert text.count("#EXT-X-DISCONTINUITY\n") == 1, "once for the new run"
    head = len(b"ftyp+moov of run " + RUN_A.encode())
    assert re.findall(r'#EXT-X-MAP:URI="([^"]+)",BYTERANGE="(\d+)@0"', text) == [("front/1.mp4", str(head)), ("front/3.mp4", str(head))]
    moments = re.findall(r"#EXT-X-PROGRAM-DATE-TIME:(\S+)", text)
    assert moments == ["2026-11-26T06:00:00.000Z", "2026-11-26T06:00:32.500Z"] and start.utc_us % US == 0
    assert text.index("#EXT-X-GAP") < text.index("#EXT-X-DISCONTINUITY") < text.index("front/3.mp4")


async def test_every_entry_names_bytes_that_are_there(hall: Hall) -> None:
    """Maps and ranges of one file cover it whole, once."""
    await footage(hall)
    async with hall.browser("A001") as auditor:
        text = (await auditor.get(f"{M}/front.m3u8")).text
        for seq in (1, 2, 3):
            whole = (await auditor.get(f"{M}/front/{seq}.mp4")).content
            ranges = [(int(n), int(at)) for n, at in re.findall(rf"#EXT-X-BYTERANGE:(\d+)@(\d+)\nfront/{seq}\.mp4", text)]
            reached = len(b"ftyp+moov of run " + RUN_A.encode())
            for length, at in ranges:
                assert at == reached
                answer = await auditor.get(f"{M}/front/{seq}.mp4", headers={"Range": f"bytes={at}-{at + length - 1}"})
                assert answer.status_code == 206 and answer.content == whole[at:at + length]
                assert answer.headers["content-range"] == f"bytes {at}-{at + length - 1}/{len(whole)}"
                reached += length
            assert reached == len(whole) and len(ranges) == 10


@pytest.mark.parametrize(("asked", "status", "length"), [
    ("bytes=0-0", 206, 1), ("bytes=-5", 206, 5), ("bytes=10-", 206, None), ("bytes=999999999-", 416, None), ("bytes=5-2", 400, None)])
async def test_ranges(hall: Hall, asked: str, status: int, length: int | None) -> None:
    await footage(hall)
    async with hall.browser("A001") as auditor:
        answer = await auditor.get(f"{M}/front/1.mp4", headers={"Range": asked})
        assert answer.status_code == status
        if length:
            assert len(answer.content) == length


async def test_footage_is_for_auditors_and_stills_for_those_on_duty(hall: Hall) -> None:
    await footage(hall)
    hall.still("front")
    paths = (f"{M}/front.m3u8", f"{M}/front/1.mp4")
    async with hall.client() as nobody:
        for path in (*paths, "/still/front.jpg"):
            answer = await nobody.get(path)
            assert answer.status_code == 401 and answer.text == "请先登录。\n"
    for staff_id in ("T001", "T002", "Y001"):
        async with hall.browser(staff_id) as client:
            assert [(await client.get(path)).status_code for path in paths] == [403, 403]
            still = await client.get("/still/front.jpg")
            assert still.status_code == 200 and still.headers["cache-control"] == "no-store" and still.content.startswith(b"\xff\xd8")
    async with hall.browser("A001") as auditor:
        assert (await auditor.get("/still/front.jpg")).status_code == 403
    await hall.to("sealed")
    async with hall.browser("T001") as after:
        assert (await after.get("/still/front.jpg")).status_code == 403, "the day is over"


async def test_a_still_that_is_old_is_not_shown(hall: Hall) -> None:
    hall.still("front")
    async with hall.browser("Y001") as sysadmin:
        assert (await sysadmin.get("/still/front.jpg")).status_code == 200
        assert (await sysadmin.get("/still/rear.jpg")).status_code == 204
        hall.around.lost.add("front")
        answer = await sysadmin.get("/still/front.jpg")
        assert answer.status_code == 204 and answer.content == b""
        for name in ("nothing", "..%2f..%2fstate", "%2e%2e"):
            assert (await sysadmin.get(f"/still/{name}.jpg")).status_code == 404


def views_of(hall: Hall) -> list[tuple[str, str]]:
    return [(row.event.by, row.event.stream) for row in hall.room.events(SESSION) if isinstance(row.event, e.FootageViewed)]


async def test_a_look_is_written_before_the_first_byte(hall: Hall) -> None:
    await footage(hall)
    await hall.segment("rear", 1, hall.clock.now().plus(-10 * US), 10)
    async with hall.browser("A001") as auditor:
        await auditor.get(f"{M}/front.m3u8")
        assert views_of(hall) == [("A001", "front")]
        await auditor.get(f"{M}/front/1.mp4", headers={"Range": "bytes=0-9"})
        await auditor.get(f"{M}/front/2.mp4", headers={"Range": "bytes=0-9"})
        assert len(views_of(hall)) == 1, "the playlist's own pieces are the same look"
        await auditor.get(f"{M}/rear/1.mp4", headers={"Range": "bytes=0-9"})
        assert views_of(hall)[1:] == [("A001", "rear")], "bytes without a playlist are a look too"
        await auditor.get(f"{M}/front.m3u8")
        assert len(views_of(hall)) == 3


async def test_no_byte_leaves_if_the_look_cannot_be_written(hall: Hall) -> None:
    await footage(hall)
    async with hall.browser("A001") as auditor:
        hall.database.write_now(lambda c: c.execute("CREATE TRIGGER stop BEFORE INSERT ON event BEGIN SELECT RAISE(ABORT, 'no'); END"))
        for path in (f"{M}/front.m3u8", f"{M}/front/1.mp4"):
            with pytest.raises(sqlite3.IntegrityError):
                await auditor.get(path)


@pytest.mark.parametrize("path", [
    f"{M}/rear.m3u8", f"{M}/nothing.m3u8", f"{M}/..%2f..%2fstate.m3u8", f"{M}/front/99.mp4", f"{M}/front/-1.mp4", f"{M}/front/1e3.mp4",
    f"{M}/front/99999999999999999999.mp4", f"{M}/front/%EF%BC%91.mp4", f"{M}/front/missing.mp4", f"{M}/front/..%2f..%2fstate%2fedge.mp4",
    "/media/nothing/front.m3u8", "/media/nothing/front/1.mp4"])
async def test_nothing_is_said_in_words_and_no_path_is_taken(hall: Hall, path: str) -> None:
    await footage(hall)
    async with hall.browser("A001") as auditor:
        answer = await auditor.get(path)
        assert answer.status_code == 404 and "没有" in answer.text
    assert views_of(hall) == []


async def test_another_sessions_segment_is_not_given(hall: Hall) -> None:
    """A row of the catalog is not enough: the segment must belong to the session that was named."""
    await hall.segment("front", 9, hall.clock.now(), 5)
    await hall.sim.pass_time(60)
    await footage(hall)
    async with hall.browser("A001") as auditor:
        assert (await auditor.get(f"{M}/front/9.mp4")).status_code == 404


@pytest.mark.parametrize("harm", ["gone", "sidecar gone", "sidecar garbled", "shorter"])
async def test_a_file_that_cannot_be_played_is_a_hole(hall: Hall, harm: str) -> None:
    start = await footage(hall)
    file = hall.desk.footage / "front/2026/11/26/0000000002-x.mp4"
    if harm == "gone":
        file.unlink()
    elif harm == "shorter":
        file.write_bytes(file.read_bytes()[:50])
    elif harm == "sidecar gone":
        file.with_suffix(".json").unlink()
    else:
        file.with_suffix(".json").write_bytes(b"{}")
    async with hall.browser("A001") as auditor:
        text = (await auditor.get(f"{M}/front.m3u8")).text
        assert "front/2.mp4" not in text and sum(durations(text)) == pytest.approx(42.5, abs=1e-4) and start
        if harm == "gone":
            assert (await auditor.get(f"{M}/front/2.mp4")).status_code == 404


async def test_a_link_out_of_the_footage_is_not_followed(hall: Hall) -> None:
    await footage(hall)
    secret = hall.desk.footage.parent / "state" / "edge.db"
    file = hall.desk.footage / "front/2026/11/26/0000000002-x.mp4"
    file.unlink()
    file.symlink_to(secret)
    async with hall.browser("A001") as auditor:
        assert (await auditor.get(f"{M}/front/2.mp4")).status_code == 404


async def test_the_player_page_shows_the_holes_and_their_reason(hall: Hall) -> None:
    await footage(hall)
    async with hall.browser("A001") as auditor:
        text = (await auditor.get(f"/archive/{SESSION}/play/front")).text
        assert "14:00:20–14:00:32 无录像 12.5 秒（摄像机断开）" in text and 'data-playlist="/media/' in text
        none = await auditor.get(f"/archive/{SESSION}/play/rear")
        assert none.status_code == 409 and "没有这一路的录像" in none.text
        dossier = (await auditor.get(f"/archive/{SESSION}")).text
        assert "✓ 完整" not in dossier and "无缺口" not in dossier, "nothing is called whole before it is sealed"
        assert "缺口在封存时核算" in dossier
        assert f"/archive/{SESSION}/play/front" in dossier and f"/archive/{SESSION}/play/rear" not in dossier


# ---- the playlist as a function -------------------------------------------------------------------------------------------

@st.composite
def films(draw: st.DrawFn) -> list[Whole]:
    """Segments in order of time: runs, holes, boots, GOPs of any length, headers that change."""
    wholes: list[Whole] = []
    at, run, boot = Stamp(1_795_672_800 * US, 10**9, "boot-0"), "0" * 32, 0
    for seq in range(1, draw(st.integers(1, 6)) + 1):
        if seq > 1 and draw(st.booleans()):
            run = f"{seq:032x}"
            hole = draw(st.sampled_from([0, 50_000, 99_999, 100_000, 3_000_000, 700_000_000]))
            at = at.plus(hole)
            if hole > US and draw(st.booleans()):
                boot += 1
                at = Stamp(at.utc_us, 5 * US, f"boot-{boot}")
        fragments, offset, media = [], 100, draw(st.integers(0, 10**9))
        first = media
        for number in range(draw(st.integers(1, 12))):
            dur, length = draw(st.integers(1000, 3_000_000)), draw(st.integers(1, 5000))
            fragments.append(Fragment(offset, length, media, dur, number == 0 or draw(st.booleans())))
            offset, media = offset + length, media + dur
        end = at.plus(media - first)
        sidecar = Sidecar("front", seq, run, at, end, media - first, 40_000, 10, 0, offset, "0" * 64, 100, tuple(fragments), first,
                          "h264", {"video": {}}, "synced", "rotated")
        wholes.append(Whole(sidecar, hashlib.sha256(run[:31].encode()).hexdigest()))
        at = end
    return wholes


@settings(max_examples=150, deadline=None)
@given(films())
def test_any_playlist_keeps_time_and_its_own_rules(film: list[Whole]) -> None:
    text = playlist(film, "front")
    origin, last = film[0].sidecar.start, film[-1].sidecar
    total = last.start.us_since(origin) + last.dur_us
    parts = durations(text)
    assert sum(parts) == pytest.approx(total / US, abs=0.001), "the end of the list is the end of the film"
    target = int(re.findall(r"TARGETDURATION:(\d+)", text)[0])
    assert all(part <= target + 0.5 for part in parts), "RFC 8216, 4.3.3.1"
    assert text.count("#EXTINF") == text.count(".mp4\n")
    runs = [whole.sidecar.run for whole in film]
    assert text.count("#EXT-X-DISCONTINUITY\n") == sum(a != b for a, b in pairwise(runs))
    for whole in film:
        entries = entries_of(whole, origin)
        assert entries[0].offset == 100 and entries[-1].offset + entries[-1].length == whole.sidecar.bytes
        assert all(a.offset + a.length == b.offset for a, b in pairwise(entries))
