"""The download of a session from the page: ranges of an archive that is never made, who is written down, and names for a signature only."""

from __future__ import annotations

import hashlib
import io
import resource
import sqlite3
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge.export import Laid, Order
from edge.exported.zip64 import Archive, Member
from edge.sessions import events as e
from edge.storage.database import Fatal
from edge.web.app import build_web

if TYPE_CHECKING:
    from tests.web.conftest import Hall

SESSION = "S20261126-KD01-R01-01"
ZIP = f"/archive/{SESSION}/export.zip"
AT_US = 1_795_672_801 * 1_000_000
NEEDED = {"reason": "法院调取", "pin": "2001"}


@pytest.fixture
async def hall(hall: Hall, tmp_path: Path) -> AsyncIterator[Hall]:
    """The hall with a sealed session and real exports, but for what they consist of: two small files and two films."""
    from edge.export import Exports

    class TwoFilms(Exports):
        def _lay(self, order: Order) -> Laid:
            films = []
            for n in range(2):
                data = hashlib.shake_128(str(n).encode()).digest(1_500_001)
                path = tmp_path / f"{n}.mp4"
                if not path.exists():
                    path.write_bytes(data)
                films.append(Member(f"segments/front/{n}.mp4", len(data), hashlib.sha256(data).hexdigest(), path=path))
            people = Member.of("attendance.csv", b"whole" if order.full else b"masked")
            return Laid(order, Archive([Member.of("manifest-1.dsse.json", b"{}"), people, *films], AT_US), AT_US, ())

    await hall.to("sealed")
    hall.room.staff.add("A001", "样例审计", "auditor", "auditor-password", "2001")
    hall.desk = replace(hall.desk, exports=TwoFilms(hall.room, tmp_path, b""))
    hall.app = build_web(hall.room, hall.desk)
    yield hall


def facts(hall: Hall) -> list[tuple[str, str, str]]:
    return [(r.event.kind, r.event.by, getattr(r.event, "people", "")) for r in hall.room.events(SESSION)
            if isinstance(r.event, e.ExportBegun | e.SessionExported)]


async def test_the_whole_is_a_zip_and_both_ends_are_written(hall: Hall) -> None:
    async with hall.browser("A001") as auditor:
        shown = await auditor.get(f"/archive/{SESSION}/export")
        assert shown.status_code == 200 and ZIP in shown.text and facts(hall) == [], "to look at what it would be is no export"
        answer = await auditor.get(ZIP)
    assert answer.status_code == 200 and answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == f'attachment; filename="{SESSION}.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as read:
        assert read.testzip() is None and read.read("attendance.csv") == b"masked"
    assert facts(hall) == [("ExportBegun", "A001", "masked"), ("SessionExported", "A001", "")]
    assert hall.room.catalog.reserved_sessions(0) == frozenset(), "the last byte has left"


async def test_a_download_goes_on_where_it_broke_off(hall: Hall) -> None:
    async with hall.browser("A001") as auditor:
        whole = await auditor.get(ZIP)
        tag, size = whole.headers["etag"], len(whole.content)
        async with auditor.stream("GET", ZIP) as broken:
            assert broken.status_code == 200
        begun = len(facts(hall))
        got = b""
        for start, stop in ((0, 700_000), (700_000, 1_600_000), (1_600_000, size)):
            part = await auditor.get(ZIP, headers={"Range": f"bytes={start}-{stop - 1}", "If-Range": tag})
            assert part.status_code == 206 and part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
            got += part.content
        assert got == whole.content
        written = [kind for kind, _, _ in facts(hall)[begun:]]
        assert written == ["ExportBegun", "SessionExported"], "its parts are one export"
        other = await auditor.get(ZIP, headers={"Range": "bytes=5-9", "If-Range": '"something else"'})
        assert other.status_code == 200 and len(other.content) == size, "what was begun with other bytes begins anew"


@pytest.mark.parametrize(("asked", "status", "length"), [
    ("bytes=-22", 206, 22), ("bytes=10-", 206, None), ("bytes=0-0", 206, 1), ("bytes=99999999999-", 416, 0), ("bytes=-0", 416, 0),
    ("bytes=5-2", 200, None), ("bytes=0-1,5-6", 200, None), ("lines=1-2", 200, None), ("bytes=-", 200, None)])
async def test_ranges(hall: Hall, asked: str, status: int, length: int | None) -> None:
    async with hall.browser("A001") as auditor:
        answer = await auditor.get(ZIP, headers={"Range": asked})
    assert answer.status_code == status
    if length is not None:
        assert len(answer.content) == length
    if status == 416:
        assert answer.headers["content-range"].startswith("bytes */") and facts(hall) == []


async def test_it_goes_on_after_the_room_was_restarted(hall: Hall) -> None:
    async with hall.browser("A001") as auditor:
        first = await auditor.get(ZIP, headers={"Range": "bytes=0-999999"})
    hall.app = build_web(hall.room, hall.desk)                                   # nothing is known of the download any more
    async with hall.browser("A001") as auditor:
        rest = await auditor.get(ZIP, headers={"Range": "bytes=1000000-", "If-Range": first.headers["etag"]})
    with zipfile.ZipFile(io.BytesIO(first.content + rest.content)) as read:
        assert read.testzip() is None
    assert [kind for kind, _, _ in facts(hall)] == ["ExportBegun", "ExportBegun", "SessionExported"], "somebody got it, as far as is known"


async def test_whole_names_are_for_an_auditor_who_signs(hall: Hall) -> None:
    async with hall.browser("A001") as auditor:
        for wrong in ({"reason": ""}, {"pin": "0000"}):
            refused = await auditor.post(f"/archive/{SESSION}/export", data={**NEEDED, **wrong})
            assert refused.status_code in (403, 422) and facts(hall) == []
        sent = await auditor.post(f"/archive/{SESSION}/export", data=NEEDED)
        assert sent.status_code == 303 and facts(hall) == [("ExportBegun", "A001", "full")], "written before a byte was asked for"
        got = await auditor.get(sent.headers["location"])
        with zipfile.ZipFile(io.BytesIO(got.content)) as read:
            assert read.read("attendance.csv") == b"whole"
        part = await auditor.get(sent.headers["location"], headers={"Range": "bytes=-22"})
        assert part.status_code == 206 and part.content == got.content[-22:]
        unknown = await auditor.get(f"/archive/{SESSION}/export/{'0' * 32}.zip")
        assert unknown.status_code == 404 and "重新签名" in unknown.text
    hall.room.staff.add("A002", "样例审计二", "auditor", "auditor-password-2", "2002")
    async with hall.browser("A002", "auditor-password-2") as another:
        assert (await another.get(sent.headers["location"])).status_code == 404, "another auditor signs for himself"


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process grows or is written to any more."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_nothing_leaves_that_cannot_be_written_down(hall: Hall) -> None:
    async with hall.browser("A001") as auditor:
        await auditor.get(ZIP)
        before = facts(hall)
        with full_disk(), pytest.raises(Fatal, match="Nothing acknowledged is lost"):
            await auditor.get(ZIP)
        with sqlite3.connect(hall.database.path) as other:      # the disk has room again, and takes everything but the fact
            other.execute("CREATE TRIGGER lame BEFORE INSERT ON event WHEN new.kind = 'ExportBegun' "
                          "BEGIN SELECT RAISE(ABORT, 'not this'); END")
        other.close()
        with pytest.raises(sqlite3.IntegrityError, match="not this"):
            await auditor.get(ZIP)
        assert facts(hall) == before


async def test_a_session_without_a_manifest_is_refused_in_words(hall: Hall) -> None:
    later = "S20261126-KD01-R01-02"
    await hall.plan(later)
    async with hall.browser("A001") as auditor:
        answer = await auditor.get(f"/archive/{later}/export.zip")
        assert answer.status_code == 409 and "还没有签名的清单" in answer.text
