"""The catalog comes back from the disk alone, row for row; and nothing that a session might need becomes idle by it."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge.capture.watchnote import WatchNote
from edge.programs import NotReady
from edge.reindex import Reindexed, must_rest, reindex
from edge.sessions import events as e
from edge.sessions.machine import State
from edge.storage.retention import IdleRetention
from tests import killed
from tests.kept import Kept

if TYPE_CHECKING:
    from tests.conftest import Hall

SESSION = "S20261126-KD01-R01-01"
TABLES = ("segment", "session_segment", "checkin", "event")


def again(kept: Kept, processes: int = 1) -> Reindexed:
    return reindex(kept.footage, kept.hall.database, kept.hall.journal, kept.hall.clock.now().utc_us, processes=processes)


async def an_exam(kept: Kept) -> None:
    """Idle minutes, a session with footage of two streams, some more idle ones."""
    hall = kept.hall
    for _ in range(3):
        await hall.clock.pass_time(60)
        kept.segment("cam-front")
    await kept.take_in()
    await hall.to(State.RUNNING)
    for _ in range(4):
        await hall.clock.pass_time(60)
        path = kept.segment("cam-front")
        mic = kept.segment("mic", codec="aac", recovered=True, end_reason="power")
    heard = kept.sidecar(mic)
    note = WatchNote("mic", heard.seq, heard.sha256, "rules/1", -1234, 5, 0, 48000, 0)
    mic.with_suffix(".watch.json").write_bytes(note.to_json())
    path.with_suffix(".watch.json").write_bytes(note.to_json())     # of another segment: passed over
    await kept.take_in()


@pytest.mark.parametrize("processes", [1, 2])
async def test_the_catalog_comes_back_row_for_row(hall: Hall, processes: int) -> None:
    kept = Kept(hall)
    await an_exam(kept)
    for day in range(4):        # more than a few days, so that two processes have something to share
        await hall.clock.pass_time(86400)
        kept.segment(("cam-front", "cam-back", "mic")[day % 3])
    before, schema = {name: kept.table(name) for name in TABLES}, kept.schema()
    await hall.fact(e.ExamEnded, by="T001", outcome="completed")
    before["event"] = kept.table("event")
    kept.spoil("DELETE FROM segment WHERE seq % 2")
    kept.spoil("UPDATE segment SET bytes = 1, in_session = 0, path = 'elsewhere'")
    kept.spoil("DELETE FROM session_segment WHERE seq = 4")
    kept.spoil("INSERT INTO session_segment VALUES ('S1', 'mic', 1, 1, 1)")
    kept.spoil("DELETE FROM checkin")
    assert kept.table("segment") != before["segment"]
    done = again(kept, processes)
    assert (done.segments, done.refused, done.streams, done.unaccounted) == (15, [], ["cam-back", "cam-front", "mic"], False)
    after = {name: kept.table(name) for name in TABLES}
    assert done.left == 4, "the session runs on: what came since is the intake's to bring"
    assert after == before and kept.schema() == schema
    assert await kept.take_in() == 4
    assert {row[20] for row in kept.table("segment")} == {0, 1}


async def test_what_a_session_is_owed_is_left_to_the_room(hall: Hall) -> None:
    kept = Kept(hall)
    await an_exam(kept)
    await hall.clock.pass_time(60)
    kept.segment("cam-front")                   # nobody has taken it in
    kept.spoil("DELETE FROM segment")
    done = again(kept)
    assert (done.segments, done.left) == (12, 1)
    hall.restart()
    assert await kept.take_in() == 1
    facts = [r.event.seq for r in hall.room.events(SESSION) if isinstance(r.event, e.SegmentStored) and r.event.stream == "cam-front"]
    assert facts == [4, 5, 6, 7, 8], "each once, and the late one too"


async def test_what_the_journal_names_by_its_digest_is_the_journals(hall: Hall) -> None:
    """The intake has judged these bytes: a note that came too late for it changes nothing. Other bytes are judged anew."""
    kept = Kept(hall)
    await hall.to(State.RUNNING)
    paths = []
    for _ in range(2):
        await hall.clock.pass_time(60)
        paths.append(kept.segment("mic", codec="aac"))
    await kept.take_in()
    for path in paths:
        sidecar = kept.sidecar(path)
        path.with_suffix(".watch.json").write_bytes(WatchNote("mic", sidecar.seq, sidecar.sha256, "rules/1", -1234, 5, 0, 1, 0).to_json())
    before = kept.table("segment")
    kept.edit(paths[1], frames=7)
    kept.spoil("DELETE FROM segment")
    await hall.fact(e.ExamEnded, by="T001", outcome="completed")
    assert again(kept).refused == []
    first, second = kept.table("segment")
    assert first == before[0] and first[-3:] == (None, None, 1)
    assert second[-3:] == (-1234, 5, 1) and second[13] != before[1][13], "row 13: the sidecar's digest"
    paths[0].write_bytes(b"short")
    assert [why for _, why in again(kept).refused] == ["its .mp4 has another size"]


async def test_a_sidecar_that_is_none_is_named_and_stops_nothing(hall: Hall) -> None:
    kept = Kept(hall)
    paths = []
    for _ in range(5):
        await hall.clock.pass_time(60)
        paths.append(kept.segment("cam-back"))
    paths[0].with_suffix(".json").write_bytes(b"{")
    paths[1].write_bytes(b"short")
    paths[2].unlink()
    kept.edit(paths[3], seq=77)
    done = again(kept)
    assert [row[1] for row in kept.table("segment")] == [5]
    day = str(paths[0].parent.relative_to(kept.footage))
    assert done.refused == [(f"{day}/{path.stem}.json", why) for path, why in zip(paths, (
        "not JSON text", "its .mp4 has another size", "cannot be read (FileNotFoundError)", "it speaks of another segment"), strict=False)]
    assert paths[0].exists() and paths[3].exists(), "nothing on the disk is touched"


async def test_with_a_lost_journal_all_footage_is_kept(hall: Hall, make_hall: object) -> None:
    """The database is gone: nobody can say any more what belonged to a session, and idle_keep_h must not eat it."""
    kept = Kept(hall)
    await an_exam(kept)
    for path in hall.database.path.parent.glob("edge.db*"):
        path.unlink()
    hall.restart()
    done = again(kept)
    assert done.unaccounted and done.segments == 11 and {row[20] for row in kept.table("segment")} == {1}
    await hall.clock.pass_time(60)
    later, newest = kept.segment("cam-front"), kept.segment("cam-front")     # the newest of a stream always stays
    await kept.take_in()
    await hall.clock.pass_time(48 * 3600)

    async def told(fact: e.Event) -> None:
        await hall.room.report(fact)

    assert await IdleRetention(hall.database, kept.footage, 24, hall.clock, lambda: True, told).step() == 1
    assert not later.exists() and newest.exists() and len(list(kept.footage.rglob("*.mp4"))) == 12
    assert again(kept).unaccounted and len(kept.table("segment")) == 12, "and a second time"


async def test_cut_short_it_changed_nothing(hall: Hall) -> None:
    """Killed while it writes, a few pages later each time."""
    kept = Kept(hall)
    await an_exam(kept)
    before, schema = [kept.table(name) for name in TABLES], kept.schema()
    kept.spoil("PRAGMA wal_checkpoint(TRUNCATE)")
    cuts = 0
    while killed.dies(killed.rebuild, hall.database.path, kept.footage, hall.clock.now().utc_us, beyond=1 + cuts * 6000):
        assert [kept.table(name) for name in TABLES] == before
        kept.spoil("PRAGMA wal_checkpoint(TRUNCATE)")
        cuts += 1
    assert cuts >= 8 and [kept.table(name) for name in TABLES] == before and kept.schema() == schema


def test_beside_a_running_room_it_refuses(tmp_path: Path) -> None:
    must_rest(tmp_path)
    with socket.socket(socket.AF_UNIX) as room:
        room.bind(str(tmp_path / "room.sock"))
        room.listen()
        with pytest.raises(NotReady, match="is running"):
            must_rest(tmp_path)
    must_rest(tmp_path)
