"""A room's archive: whatever is sealed gets there whole, locked and once; what is wrong is told; nothing local may go before it is safe."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edge.archivist import Rules, beside
from edge.clock import US, iso_utc
from edge.sessions import events as e
from edge.sessions.machine import State
from edge.sim.authority import Authority
from edge.upload import archive_keys as keys
from edge.upload.archive import ArchiveError
from tests.upload.archive_office import DAY, LATER, RULES, SESSION, Office
from tests.upload.s3_store import S3Store

if TYPE_CHECKING:
    from tests.conftest import Device, Hall


@pytest.fixture
def books() -> Iterator[S3Store]:
    store = S3Store()
    yield store
    store.close()


@pytest.fixture
def office(hall: Hall, authority: Authority, device: Device, books: S3Store) -> Office:
    return Office(hall, authority, device, books.endpoint)


# ---- a session gets there -----------------------------------------------------------------------------------------------

async def test_a_sealed_session_is_archived_whole_locked_and_read_back(office: Office, books: S3Store) -> None:
    await office.sealed()
    await office.archive()
    prefix = keys.prefix(SESSION)
    tails = [key.removeprefix(prefix) for key in books.names()]
    assert all(key.startswith(prefix) for key in books.names()) and len(tails) == len({keys.name_of(t) for t in tails})
    names = {name[0] for tail in tails if (name := keys.name_of(tail))}
    assert {"manifest-1.dsse.json", "receipt-1.dsse.json", "session-open.dsse.json", "receipt-open.dsse.json", "journal-1.jsonl",
            "root.pem"} <= names and sum(name.startswith("segments/") for name in names) == 6
    (fact,) = office.told(e.SessionArchived)
    assert (fact.session, fact.revision, fact.bucket, fact.objects) == (SESSION, 1, "evid-6y", len(tails))
    assert fact.bytes == sum(len(k.data) for k in books.kept if k.key.startswith(prefix))
    until = datetime.fromtimestamp(keys.lock_until_us(office.hall.room.state.sessions[SESSION].sealed.keep_until) // US, UTC)  # type: ignore[union-attr]
    assert all(k.until == until for k in books.kept if k.key.startswith(prefix)), "A3: each is locked as long as the session is kept"
    kept = office.ledger.of(SESSION)
    assert kept and kept.read_utc_us is not None, "U10: everything was read back"
    assert not office.may_leave() and not office.may_leave(days=89) and office.may_leave(days=91)


async def test_documents_of_all_sessions_go_before_any_film(office: Office, books: S3Store) -> None:
    await office.sealed()
    await office.sealed(LATER)
    await office.archive()
    puts = [path for method, path in books.requests if method == "PUT" and "/v1/S" not in path and "/probe/" not in path]
    first_film = next(n for n, path in enumerate(puts) if ".mp4" in path)
    assert any(LATER in path for path in puts[:first_film]) and not any("manifest" in path for path in puts[first_film:])


async def test_no_second_upload_after_a_crash_and_a_lost_index(office: Office, books: S3Store) -> None:
    await office.sealed()
    for _ in range(5):                                  # killed in the middle
        await office.archivist.step()
    office.start()
    await office.archive()
    whole = books.names()
    office.hall.database.write_now(lambda c: c.execute("DELETE FROM archived_object"))
    office.hall.database.write_now(lambda c: c.execute("DELETE FROM archived"))
    office.start()
    await office.archive()
    assert books.names() == whole and len([k for k in books.kept if "/probe/" not in k.key]) == len(whole), "one version of each"
    assert office.may_leave(days=91)


async def test_a_later_receipt_makes_it_owing_again(office: Office) -> None:
    await office.sealed(accepted=False)
    await office.archive()
    assert len(office.told(e.SessionArchived)) == 1 and not office.may_leave(days=91), "archived, and nobody has accepted it"
    await office.accept()
    await office.archive()
    assert len(office.told(e.SessionArchived)) == 2 and office.may_leave(days=91)


async def test_a_drill_is_never_locked_away(office: Office, books: S3Store) -> None:
    await office.sealed(session_kind="drill")
    await office.archive()
    assert books.names() == []


# ---- what is wrong is told ------------------------------------------------------------------------------------------------

async def test_an_altered_film_is_never_archived_as_if_it_were_the_one(office: Office, books: S3Store) -> None:
    await office.sealed()
    film = next((office.footage / "cam-front").rglob("*.mp4"))
    film.write_bytes(b"X" + film.read_bytes()[1:])
    next((office.footage / "mic").rglob("*.mp4")).unlink()
    await office.archive()
    assert {(f.reason, f.name.split("/")[1]) for f in office.told(e.ArchiveMismatch)} == {("altered", "cam-front"), ("missing", "mic")}
    assert not office.told(e.SessionArchived) and not office.may_leave(days=91)
    assert {key.rpartition("/")[0].rpartition("/")[2] for key in books.names() if key.endswith(".mp4")} == {"cam-back"}
    await office.archive()
    assert len(office.told(e.ArchiveMismatch)) == 2, "told once"


async def test_a_store_that_gives_other_bytes_back_is_found_out_and_given_them_anew(office: Office, books: S3Store) -> None:
    await office.sealed()
    books.spoils = "cam-front/"
    for _ in range(60):
        await office.archivist.step()
        if office.told(e.ArchiveMismatch):
            break
    assert {f.reason for f in office.told(e.ArchiveMismatch)} == {"read-back"} and not office.may_leave(days=91)
    books.spoils = ""
    await office.archive()
    assert office.may_leave(days=91)
    assert len(books.of("cam-front/000001")) > 2, "a new version of the film or its sidecar; the old one stays locked"


async def test_a_copy_that_vanished_is_found_within_the_year(office: Office, books: S3Store) -> None:
    await office.sealed()
    await office.archive()
    books.loses = ".mp4"                                # the store's own administrator can
    await office.archive()
    assert not office.told(e.ArchiveMismatch)
    office.hall.clock.step_wall(366 * DAY * US)
    for _ in range(60):
        await office.archivist.step()
    assert office.told(e.ArchiveMismatch) and not office.may_leave(days=91)


@pytest.mark.parametrize(("fault", "word"), [
    ({"answers": (403, "AccessDenied")}, "denied"), ({"lenient": True}, "not-worm"), ({"versioned": False}, "not-worm"),
    ({"drops_locks": True, "forgets_retention": True}, "not-locked"), ({"answers": (403, "RequestTimeTooSkewed")}, "clock")])
async def test_a_store_that_cannot_be_relied_on_is_a_fact_and_its_return_too(office: Office, books: S3Store, fault: dict[str, Any],
                                                                             word: str) -> None:
    await office.sealed()
    for name, value in fault.items():
        setattr(books, name, value)
    assert await office.archive() > 0
    assert await office.archive() > 0
    assert [f.reason for f in office.told(e.ArchiveLost)] == [word] and office.hall.room.state.archive_lost
    assert not office.told(e.SessionArchived) and not office.may_leave(days=91)
    office.start()
    await office.archive()
    assert len(office.told(e.ArchiveLost)) == 1, "a restart does not say it again"
    for name, value in S3Store.__dataclass_fields__.items():
        if name in fault:
            setattr(books, name, value.default)
    await office.archive()
    assert len(office.told(e.ArchiveBack)) == 1 and not office.hall.room.state.archive_lost and office.may_leave(days=91)


async def test_a_store_that_is_away_is_told_after_five_minutes_and_caught_up_with(office: Office, books: S3Store) -> None:
    await office.sealed()
    books.answers = (503, "SlowDown")
    await office.archive()
    assert not office.told(e.ArchiveLost), "a hiccup is no fact"
    await office.hall.clock.pass_time(301)
    await office.archive()
    assert [f.reason for f in office.told(e.ArchiveLost)] == ["unreachable"]
    books.answers = None
    await office.archive()
    assert office.told(e.ArchiveBack) and office.told(e.SessionArchived)


async def test_a_file_of_keys_that_is_missing_stops_nothing_but_the_archive(office: Office) -> None:
    await office.sealed()
    office.closed = True
    await office.archive()
    assert [f.reason for f in office.told(e.ArchiveLost)] == ["credentials"]
    office.closed = False
    await office.archive()
    assert office.told(e.ArchiveBack) and office.told(e.SessionArchived)


async def test_no_lock_by_a_clock_that_nobody_vouches_for(office: Office, books: S3Store) -> None:
    await office.sealed()
    office.hall.clock_reading = type(office.hall.clock_reading)("unsynced", 0)
    await office.archive()
    assert [f.reason for f in office.told(e.ArchiveLost)] == ["clock"] and books.requests == []


async def test_the_age_of_the_oldest_waiting_session_is_the_health(office: Office) -> None:
    """U7: whatever the reason, even a schedule that never comes round."""
    await office.sealed()
    office.rules = Rules(**{**{f: getattr(RULES, f) for f in RULES.__dataclass_fields__}, "day_kbps": 0, "night_kbps": 0})
    office.start()
    assert await office.archive() > 0
    assert not office.told(e.ArchiveLost)
    office.hall.clock.step_wall(73 * 3600 * US)
    await office.archive()
    assert [f.reason for f in office.told(e.ArchiveLost)] == ["behind"]
    office.rules = RULES
    office.start()
    await office.archive()
    assert office.told(e.ArchiveBack) and office.told(e.SessionArchived)


# ---- exam first -----------------------------------------------------------------------------------------------------------

async def test_nothing_is_sent_while_a_session_is_live(office: Office, books: S3Store) -> None:
    await office.sealed()
    for reached, go in office.hall.way(LATER):
        await go()
        if reached is State.CHECKIN:
            break
    before = len(books.kept)
    assert await office.archive() > 0
    assert len(books.kept) == before


@pytest.mark.parametrize(("hour", "live", "kbps"), [(12, False, 2), (12, True, 1), (20, False, 3), (5, False, 3), (6, False, 2),
                                                    (23, True, 1)])
def test_the_cap_follows_the_hour_and_the_exam(hour: int, live: bool, kbps: int) -> None:
    rules = Rules(**{**{f: getattr(RULES, f) for f in RULES.__dataclass_fields__}, "exam_kbps": 1, "day_kbps": 2, "night_kbps": 3})
    assert rules.kbps(hour, live) == kbps


# ---- locks follow retention -------------------------------------------------------------------------------------------------

async def test_locks_are_lengthened_and_held_and_never_shortened(office: Office, books: S3Store) -> None:
    await office.sealed()
    await office.archive()
    before = {k.key: k.until for k in books.kept}
    office.keep[SESSION] = "2037-01-01"
    office.on_hold.add(SESSION)
    office.hall.clock.step_wall(DAY * US)
    office.start()
    await office.archive()
    ours = [k for k in books.kept if "/probe/" not in k.key]
    assert all(k.until and k.until > before[k.key] and k.held for k in ours)    # type: ignore[operator]
    assert office.told(e.SessionArchived)[-1].retain_until_utc_us == keys.lock_until_us("2037-01-01")
    del office.keep[SESSION]
    office.on_hold.clear()
    office.start()
    await office.archive()
    assert all(k.until and k.until > before[k.key] and not k.held for k in ours), "the hold is off, the date stays"     # type: ignore[operator]


async def test_a_receipt_that_lengthens_lengthens_what_was_there_before_it_too(office: Office, books: S3Store) -> None:
    await office.sealed(accepted=False)
    office.on_hold.add(SESSION)
    await office.archive()
    office.keep[SESSION] = "2037-01-01"
    await office.accept()                               # documents that come later, under the later date
    office.hall.clock.step_wall(DAY * US)
    office.start()
    await office.archive()
    until = datetime.fromtimestamp(keys.lock_until_us("2037-01-01") // US, UTC)
    assert {k.until for k in books.kept if "/probe/" not in k.key} == {until}
    assert all(k.held for k in books.kept if "/probe/" not in k.key), "what came after the hold is on hold too"
    assert office.told(e.SessionArchived)[-1].retain_until_utc_us == keys.lock_until_us("2037-01-01")


async def test_a_date_that_grows_in_mid_upload_reaches_every_object(office: Office, books: S3Store) -> None:
    await office.sealed()
    for _ in range(4):
        await office.archivist.step()
    assert 0 < len(books.of(SESSION)) < 12
    office.keep[SESSION] = "2037-01-01"
    office.start()
    await office.archive()
    office.start()
    await office.archive()
    until = datetime.fromtimestamp(keys.lock_until_us("2037-01-01") // US, UTC)
    assert {k.until for k in books.kept if "/probe/" not in k.key} == {until}


def test_the_lock_ends_with_the_local_day() -> None:
    assert iso_utc(keys.lock_until_us("2032-02-29")) == "2032-02-29T16:00:00.000Z"


# ---- beside the room --------------------------------------------------------------------------------------------------------

async def test_work_beside_the_loop_hands_over_its_result_or_its_fault() -> None:
    assert await beside(lambda: 7) == 7

    def fail() -> int:
        raise ArchiveError("denied", "no")

    with pytest.raises(ArchiveError):
        await beside(fail)


async def test_it_runs_by_itself_and_stops_when_told(office: Office) -> None:
    await office.sealed()
    task = asyncio.create_task(office.archivist.run())
    async with asyncio.timeout(30):
        while not office.told(e.SessionArchived):
            await office.hall.clock.pass_time(1)
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert office.throttle.resting()


def test_the_room_without_an_archive_loads_nothing_of_it(tmp_path: Path) -> None:
    import subprocess
    import sys
    code = "import sys, edge.app; assert not {'boto3', 'botocore'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
