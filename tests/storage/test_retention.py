"""Only what no session covers ever goes, only by a clock that can be believed, and a crash half-way is finished."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from edge.clock import US, SimClock, Stamp
from edge.evidence import chain
from edge.sessions import events as e
from edge.storage import retention
from edge.storage.catalog import Catalog, Segment
from edge.storage.database import Database
from edge.storage.journal import Journal
from edge.storage.retention import IdleRetention

H = 3600


class Store:
    """Footage and its rows on a real disk; `trusted` is the wall clock's word."""

    def __init__(self, folder: Path, clock: SimClock, keep_h: int = 24) -> None:
        self.database = Database(folder / "edge.db", ballast=False)
        self.footage, self.clock, self.trusted, self.told = folder / "footage", clock, True, list[e.IdleFootageExpired]()
        self.catalog, self.journal, self.keep_h = Catalog(self.database), Journal(self.database, chain.link), keep_h

    def retention(self) -> IdleRetention:
        return IdleRetention(self.database, self.footage, self.keep_h, self.clock, lambda: self.trusted, self.tell)

    async def tell(self, fact: e.IdleFootageExpired) -> None:
        self.told.append(fact)

    async def record(self, stream: str, seq: int, end: Stamp | None = None, session: str | None = None) -> Path:
        end = end or self.clock.now()
        start = end.plus(-60 * US)
        path = self.footage / stream / f"{seq:010d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
        path.with_suffix(".json").write_bytes(b"{}")
        segment = Segment(stream=stream, seq=seq, path=f"{stream}/{seq:010d}.mp4", run="0" * 32, start_utc_us=start.utc_us,
                          end_utc_us=end.utc_us, start_boot_us=start.boot_us, end_boot_us=end.boot_us, boot_id=end.boot_id, dur_us=60 * US,
                          frame_us=40_000, bytes=100, sha256="a" * 64, sidecar_sha256="b" * 64, codec="h264", end_reason="rotated",
                          recovered=False, clock_state="synced", audio_peak_cdb=None, silent_ms=None)
        await self.catalog.add_segment(segment)
        if session:
            await self.journal.append(e.SegmentStored(at=end, session=session, **asdict(segment)))
        return path

    def rows(self, table: str = "segment") -> int:
        with self.database.read() as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608


@pytest.fixture
def store(tmp_path: Path, sim_clock: SimClock) -> Iterator[Store]:
    store = Store(tmp_path, sim_clock)
    yield store
    store.database.close()


async def test_idle_footage_goes_after_its_hours_and_the_journal_says_so(store: Store) -> None:
    old = [await store.record("cam", seq) for seq in (3, 4)] + [await store.record("mic", 9)]
    newest = await store.record("mic", 10)
    await store.clock.pass_time(24 * H)
    assert await store.retention().step() == 0, "not a microsecond too early"
    young = await store.record("cam", 5)
    await store.clock.pass_time(1)
    assert await store.retention().step() == 3
    assert not any(p.exists() or p.with_suffix(".json").exists() for p in old)
    assert young.exists() and young.with_suffix(".json").exists()
    assert (store.rows(), store.rows("garbage")) == (2, 0)
    assert newest.exists(), "the next number of a stream goes on from its newest file"
    assert [(f.stream, f.first_seq, f.last_seq, f.segments, f.bytes) for f in store.told] == [("cam", 3, 4, 2, 200), ("mic", 9, 9, 1, 100)]


async def test_the_watchers_note_and_pictures_go_with_their_segment(store: Store) -> None:
    old = await store.record("cam", 3)
    await store.clock.pass_time(25 * H)
    young = await store.record("cam", 4)
    beside = [[path.with_suffix(suffix) for suffix in (".watch.json", ".covered.jpg", ".moved.jpg")] for path in (old, young)]
    for path in (*beside[0], *beside[1]):
        path.write_bytes(b"x")
    assert await store.retention().step() == 1
    assert not any(path.exists() for path in beside[0]) and all(path.exists() for path in beside[1])
    again = await store.record("cam", 5)
    again.with_suffix(".watch.json").write_bytes(b"x")
    await store.clock.pass_time(25 * H)
    await store.record("cam", 6)
    rows = store.retention()._due()
    await store.database.write(lambda c: retention._to_garbage(c, rows, 0))
    again.unlink()                                                  # killed between the file and what lies beside it
    await store.retention()._unlink_garbage()
    assert not again.with_suffix(".watch.json").exists() and not again.with_suffix(".json").exists() and store.rows("garbage") == 0


@pytest.mark.parametrize("keep_h", [0, 24])
async def test_a_sessions_segment_never_goes(tmp_path: Path, sim_clock: SimClock, keep_h: int) -> None:
    store = Store(tmp_path, sim_clock, keep_h)
    kept = await store.record("cam", 1, session="S1")
    await store.clock.pass_time(20 * 365 * 24 * H)
    store.clock.reboot("boot-2", 0)
    assert await store.retention().step() == 0
    assert kept.exists() and store.rows() == 1 and store.told == []
    store.database.close()


async def test_what_joins_a_session_between_look_and_deed_is_spared(store: Store) -> None:
    """The look finds a segment idle; before the deed is written the segment's fact comes: the deed must ask again."""
    path = await store.record("cam", 1)
    await store.clock.pass_time(25 * H)
    await store.record("cam", 2)
    rows = store.retention()._due()
    assert len(rows) == 1
    segment = store.catalog.segment("cam", 1)
    assert segment
    await store.journal.append(e.SegmentStored(at=store.clock.now(), session="S1", **asdict(segment)))
    await store.database.write(lambda c: retention._to_garbage(c, rows, store.clock.now().utc_us))
    assert store.rows("garbage") == 0, "a session's segment was marked for removal"
    assert await store.retention().step() == 0
    assert path.exists() and store.rows() == 2


@pytest.mark.parametrize("jump_s", [4 * 365 * 86400, -4 * 365 * 86400])
async def test_a_jump_of_the_clock_deletes_nothing_young_of_this_boot(store: Store, jump_s: int) -> None:
    path = await store.record("cam", 1)
    await store.record("cam", 2)
    store.clock.step_wall(jump_s * US)
    for trusted in (True, False):
        store.trusted = trusted
        assert await store.retention().step() == 0
    assert path.exists()


async def test_another_boots_footage_waits_for_a_clock_that_can_be_believed(store: Store) -> None:
    path = await store.record("cam", 1)
    await store.record("cam", 2)
    store.clock.reboot("boot-2", 60 * US)
    store.clock.step_wall(4 * 365 * 86400 * US)         # a dead clock battery, or a thief: nothing vouches for this time
    store.trusted = False
    assert await store.retention().step() == 0
    await store.clock.pass_time(23 * H)
    assert await store.retention().step() == 0 and path.exists()
    store.trusted = True                                # now something does
    assert await store.retention().step() == 1 and not path.exists()


async def test_what_is_of_an_earlier_boot_is_as_old_as_this_one_whatever_the_clock_says(store: Store) -> None:
    path = await store.record("cam", 1)
    await store.record("cam", 2)
    store.clock.reboot("boot-2", -4 * 365 * 86400 * US)
    store.trusted = False
    await store.clock.pass_time(24 * H - 10)
    assert await store.retention().step() == 0
    await store.clock.pass_time(10)
    assert await store.retention().step() == 1 and not path.exists()


async def test_nothing_goes_and_nothing_is_forgotten_on_a_disk_that_is_not_the_rooms(store: Store) -> None:
    path = await store.record("cam", 1)
    await store.record("cam", 2)
    await store.clock.pass_time(25 * H)
    own = False
    idle = retention.IdleRetention(store.database, store.footage, 24, store.clock, lambda: True, store.tell, lambda: own)
    assert await idle.step() == 0 and path.exists()
    own = True
    rows = idle._due()
    await store.database.write(lambda c: retention._to_garbage(c, rows, 0))
    own = False                                         # unplugged in the middle
    await idle._unlink_garbage()
    assert store.rows("garbage") == 1, "a file that was not removed was forgotten"
    own = True
    await idle._unlink_garbage()
    assert store.rows("garbage") == 0 and not path.exists()


async def test_footage_from_the_future_is_not_old(store: Store) -> None:
    path = await store.record("cam", 1)
    await store.record("cam", 2)
    store.clock.reboot("boot-2", -4 * 365 * 86400 * US)
    await store.clock.pass_time(100 * H)
    assert await store.retention().step() == 0 and path.exists()


async def test_a_pass_is_bounded(store: Store) -> None:
    assert retention.MOST <= 5000
    end = store.clock.now()
    for seq in range(6):
        await store.record("cam", seq, end.plus(-seq * US))
    await store.clock.pass_time(25 * H)
    assert await store.retention().step() == 5


CHILD = """
import asyncio, sys
from pathlib import Path
from edge.clock import SystemClock
from edge.storage import retention
from edge.storage.database import Database

database = Database(Path(sys.argv[1]), ballast=False)
clock = SystemClock()

async def nothing(fact): pass

idle = retention.IdleRetention(database, Path(sys.argv[2]), 0, clock, lambda: True, nothing)

async def main():
    rows = idle._due()
    await database.write(lambda c: retention._to_garbage(c, rows, clock.now().utc_us))
    print(len(rows), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_crash_between_row_and_unlink_is_finished_at_the_next_start(store: Store) -> None:
    paths = [await store.record("cam", seq, Stamp(1000 * US, 1000 * US, "an-earlier-boot")) for seq in range(3)]
    kept = await store.record("cam", 7, Stamp(1000 * US, 1000 * US, "an-earlier-boot"), session="S1")
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, str(store.database.path), str(store.footage),
                                                 stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None and await child.stdout.readline() == b"3\n"
    child.kill()
    await child.wait()
    assert all(p.exists() for p in paths) and store.rows("garbage") == 3
    paths[0].unlink()                                   # and a crash in the middle of unlinking
    idle = store.retention()
    await idle._unlink_garbage()
    assert not any(p.exists() or p.with_suffix(".json").exists() for p in paths)
    assert store.rows("garbage") == 0 and kept.exists() and kept.with_suffix(".json").exists()
