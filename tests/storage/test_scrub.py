"""Each byte is read again in time; a flipped one is found and named, once; a lost disk is no lost file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge import followers
from edge.clock import US
from edge.sessions import events as e
from edge.sessions.machine import State
from edge.storage import scrub
from edge.storage.scrub import Damage, Scrub, damages, progress_of
from tests.kept import Kept

if TYPE_CHECKING:
    from tests.conftest import Hall

SESSION = "S20261126-KD01-R01-01"


def scrub_of(kept: Kept, days: int = 30, most: int = 40 << 20, busy: Callable[[], bool] = lambda: False, ours: bool = True) -> Scrub:
    hall = kept.hall

    async def report(fact: e.Event) -> None:
        await hall.room.report(fact)

    return Scrub(hall.database, kept.footage, days, most, hall.clock, report, busy, lambda: ours)


async def a_pass(each: Scrub, kept: Kept) -> None:
    before = progress_of(kept.hall.database)
    while (now := progress_of(kept.hall.database)) is None or now.number == (before.number if before else 1):
        await each.step()


async def recorded(hall: Hall, minutes: int = 5) -> tuple[Kept, list[Path]]:
    kept = Kept(hall)
    await hall.to(State.CHECKIN)
    paths = []
    for _ in range(minutes):
        await hall.clock.pass_time(60)
        paths += [kept.segment("cam-front"), kept.segment("mic")]
    await kept.take_in()
    return kept, paths


def facts(hall: Hall) -> list[e.Event]:
    return [r.event for r in hall.journal.all() if isinstance(r.event, e.SegmentDamaged | e.SegmentSound)]


def flip(path: Path, at: int = 1000) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


async def test_a_flipped_byte_is_found_and_named_once(hall: Hall) -> None:
    kept, paths = await recorded(hall)
    each = scrub_of(kept)
    await a_pass(each, kept)
    assert facts(hall) == [] and damages(hall.database) == []
    flip(paths[2])
    await a_pass(each, kept)
    await a_pass(each, kept)
    found, = facts(hall)
    assert isinstance(found, e.SegmentDamaged)
    assert (found.stream, found.seq, found.what, found.sessions) == ("cam-front", 2, "digest", (SESSION,))
    assert found.path == str(paths[2].relative_to(kept.footage)) and found.found_sha256 not in (None, found.sha256)
    assert damages(hall.database) == damages(hall.database, SESSION) == [Damage("cam-front", 2, "digest", found.at.utc_us)]
    assert damages(hall.database, "another") == []
    hall.restart()
    assert len(damages(hall.database)) == 1
    flip(paths[2])
    await a_pass(scrub_of(kept), kept)
    assert [type(f) for f in facts(hall)] == [e.SegmentDamaged, e.SegmentSound] and damages(hall.database) == []


def gone(path: Path) -> None:
    path.unlink()


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(("spoil", "word"), [
    (gone, "missing"), (longer, "size"), (flip, "digest"), (folder, "unreadable"),
    (lambda path: path.with_suffix(".json").unlink(), "sidecar-missing"), (lambda path: flip(path.with_suffix(".json"), 20), "sidecar"),
    (lambda path: (path.rename(path.with_suffix(".x")), path.symlink_to(path.with_suffix(".x"))), "unreadable"),
])
async def test_whatever_is_wrong_has_its_word(hall: Hall, spoil: Callable[[Path], object], word: str) -> None:
    kept, paths = await recorded(hall)
    spoil(paths[5])
    await a_pass(scrub_of(kept), kept)
    assert [(d.stream, d.seq, d.what) for d in damages(hall.database)] == [("mic", 3, word)] and word in scrub.WORDS


async def test_a_restart_goes_on_where_it_was(hall: Hall) -> None:
    kept, paths = await recorded(hall, 40)
    began = hall.clock.now().utc_us
    for n in range(3):
        await scrub_of(kept).step()         # a new one each time: all it knows is in the database
        hall.restart()
        progress = progress_of(hall.database)
        assert progress is not None and (progress.number, progress.files) == (1, min(32 * (n + 1), 80))
        flip(paths[0])                      # what was looked at is left behind: it does not begin anew
    late = kept.segment("mic")
    await kept.take_in()
    flip(late)
    await scrub_of(kept).step()
    assert [(d.stream, d.seq) for d in damages(hall.database)] == [("mic", 41)], "what comes while a pass runs belongs to it"
    await scrub_of(kept).step()
    ended = progress_of(hall.database)
    assert ended is not None and (ended.number, ended.files, ended.last_began_utc_us) == (2, 0, began)


async def test_it_takes_its_time_and_ends_in_time(hall: Hall) -> None:
    kept, _ = await recorded(hall)
    total = 1_000_000_000_000
    kept.spoil(f"UPDATE segment SET bytes = {total // 10}")  # noqa: S608
    # as a store of 1 TB: what is read is what the rows say
    rest = await scrub_of(kept, days=1).step()
    assert 0.8 * 86400 < rest < 86400, "the first batch is the whole store: it may take the day, and not more"
    assert await scrub_of(kept, days=0, most=1_000_000).step() == 30, "a pass that ended rests"
    kept.spoil("DELETE FROM scrub")
    assert await scrub_of(kept, days=0, most=1_000_000).step() == pytest.approx(total / 1_000_000), "never faster than it may"


async def test_it_rests_while_a_session_is_held_or_the_disk_is_not_ours(hall: Hall) -> None:
    kept, paths = await recorded(hall)
    gone(paths[0])
    assert await scrub_of(kept, busy=lambda: True).step() == scrub.REST_S
    assert await scrub_of(kept, ours=False).step() == scrub.REST_S
    assert progress_of(hall.database) is None and facts(hall) == []


async def test_a_lost_disk_is_no_lost_files(hall: Hall) -> None:
    kept, _ = await recorded(hall, 15)
    shutil.move(kept.footage, kept.footage.with_name("away"))
    kept.footage.mkdir()
    each = scrub_of(kept)
    for _ in range(60):
        await each.step()
    assert facts(hall) == []
    kept.footage.rmdir()
    shutil.move(kept.footage.with_name("away"), kept.footage)
    await a_pass(each, kept)
    await a_pass(each, kept)
    assert damages(hall.database) == []


async def test_what_expires_under_its_hands_is_not_damaged(hall: Hall) -> None:
    kept, paths = await recorded(hall)
    asked = 0

    def meanwhile() -> bool:
        """Whether it is to rest: asked before a batch and after each file. The second file expires when the first one was read."""
        nonlocal asked
        asked += 1
        if asked == 2:
            kept.spoil("DELETE FROM segment WHERE stream = 'cam-front' AND seq = 2")
            gone(paths[2])
        return False

    await scrub_of(kept, busy=meanwhile).step()
    assert asked > 2 and facts(hall) == [] and damages(hall.database) == []


async def test_it_never_goes_on_for_ever_in_the_past(hall: Hall) -> None:
    """A pass that is late runs as fast as it may, and no faster."""
    kept, _ = await recorded(hall)
    await scrub_of(kept).step()
    hall.clock.step_wall(400 * 86400 * US)
    kept.segment("mic")
    await kept.take_in()
    assert await scrub_of(kept, most=2048).step() == pytest.approx(1.0)


async def test_the_heartbeat_says_so(hall: Hall) -> None:
    kept, paths = await recorded(hall)
    await a_pass(scrub_of(kept), kept)
    assert "flags" not in followers.heartbeat(hall.room)
    flip(paths[3])
    await a_pass(scrub_of(kept), kept)
    assert followers.heartbeat(hall.room)["flags"] == ["footage-damaged"]
