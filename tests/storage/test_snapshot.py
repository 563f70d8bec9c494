"""The snapshot is a cache: whatever is done to it, the room's state is what the journal says; and it is noticed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge import followers
from edge.clock import Stamp
from edge.evidence import chain
from edge.sessions import events as e
from edge.sessions import machine
from edge.sessions.machine import RoomState, Session, State
from edge.storage import written
from edge.storage.database import Database
from edge.storage.journal import Journal
from edge.storage.snapshot import CANDIDATES, Snapshot

if TYPE_CHECKING:
    from tests.conftest import Hall

EDGE = Path(__file__).parents[2] / "edge"
SESSION, LATER = "S20261126-KD01-R01-01", "S20261126-KD01-R01-02"
KEY = b"k" * 32         # of every hall


def folded(hall: Hall) -> RoomState:
    """What the whole journal says."""
    return machine.fold(row.event for row in hall.journal.all())


def same(state: RoomState, other: RoomState) -> bool:
    return state == other and list(state.sessions) == list(other.sessions)


def spoil(hall: Hall, statement: str, *values: Any) -> None:
    with closing(sqlite3.connect(hall.database.path)) as connection, connection:
        connection.execute(statement, values)


def rows(hall: Hall) -> list[tuple[int, str, str]]:
    with hall.database.read() as connection:
        return [tuple(row) for row in connection.execute("SELECT id, session, body FROM snapshot ORDER BY id")]


def passed_over(log: pytest.LogCaptureFixture) -> list[str]:
    """The reasons that the log has given since it was last asked."""
    found = [record.getMessage().partition("reason=")[2] for record in log.records if record.name == "edge.storage.snapshot"]
    log.clear()
    return found


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "edge.storage.snapshot")
    return caplog


def told(hall: Hall) -> Iterator[Awaitable[object]]:
    """Two sessions and the box itself, fact by fact: most kinds that leave something behind. Each is to be awaited before the next."""
    fact, people, now = hall.fact, hall.roster, hall.clock.now
    yield fact(e.DaemonStarted, None, version="0", sw_sha256="0", config_sha256="0", device_id="d", cert_sha256="c")
    yield fact(e.ReaderLost, None, reason="gone")
    yield fact(e.StreamLost, None, stream="mic", reason="gone")
    yield fact(e.StreamImpaired, None, stream="cam-front", rule="dark", rules="rules/1", since_utc_us=1, evidence="p", evidence_sha256="0")
    yield fact(e.PlatformLost, None, reason="refused")
    yield fact(e.KeyRolled, None, digest="r", old_cert_sha256="b", new_cert_sha256="c", from_session_seq=1)
    yield fact(e.ReceiptVerified, None, answers="key-rollover", digest="r", receipt_sha256="rr", verdict="accepted", platform_seq=1,
               received_utc_us=now().utc_us, reasons=("a", "b"))
    for state, go in hall.way():
        yield go()
        if state is State.CHECKIN:
            break
    yield fact(e.AdmissionRefused, code="E-LATE", candidate_id=people[3].candidate_id, subject="3")
    yield fact(e.CandidateAdmitted, candidate_id=people[0].candidate_id, subject="0", method="id_card", seat=people[0].seat)
    yield fact(e.CandidateAdmitted, candidate_id=people[1].candidate_id, subject="1", method="manual", seat=None, exception="E-NO-CARD",
               by="T001", second="T002", reason="card forgotten")
    yield fact(e.SeatAssigned, candidate_id=people[1].candidate_id, seat="39", by="T001", reason="none")
    yield fact(e.SeatAssigned, candidate_id=people[2].candidate_id, seat="38", by="T001", reason="wants to see")
    yield fact(e.DoubtSigned, candidate_id=people[1].candidate_id, staff_id="T002")
    yield fact(e.FaceCompared, candidate_id=people[1].candidate_id, result="review", score_x1000=500)
    yield fact(e.ClockStepped, delta_us=2_000_000)
    yield fact(e.ExamStarted, by="T001", age_ms={"mic": 1})
    yield fact(e.CandidateLeft, candidate_id=people[1].candidate_id, by="T001", final=False)
    yield hall.segment("mic", now(), now().plus(60_000_000))
    yield hall.room.plan(hall.plan(LATER), "{}")
    yield fact(e.ExamEnded, by="T001", outcome="completed")
    yield fact(e.SealOrdered, by="T001", second="T002", statement="s", absent=("a", "b"))
    yield fact(e.OpenSigned, digest="0")
    yield fact(e.Sealed, revision=1, opened_total=1, closed_total=1, keep_until="2033-05-25", retention_policy="RP-SPECIAL-6Y",
               retention_basis="b")
    yield fact(e.ManifestSigned, revision=1, digest="m")
    yield fact(e.ReceiptVerified, answers="session-manifest", digest="m", receipt_sha256="mm", verdict="rejected", platform_seq=2,
               received_utc_us=now().utc_us, revision=1, reasons=("x",))
    yield fact(e.HoldPlaced, hold_id="H-1", by="A001", reason="complaint")
    yield hall.segment("mic", now().plus(-70_000_000), now().plus(1))                    # late
    yield fact(e.AttendanceCorrected, candidate_id=people[1].candidate_id, result="absent", by="T001", reason="was not here")
    yield fact(e.DisposalApproved, None, by="A001", sessions=(SESSION,), bytes=1)
    yield fact(e.SpaceLow, None, reason="days", free_bytes=1, needed_bytes=2, foreign_bytes=0)


async def much(hall: Hall) -> None:
    for each in told(hall):
        await each


async def test_after_each_fact_a_start_finds_what_the_journal_says(hall: Hall, log: pytest.LogCaptureFixture) -> None:
    """Kept now and then, and read back after every fact: each time the fold of the whole journal, in its order."""
    for count, each in enumerate(told(hall)):
        await each
        if count % 3 == 0:           # else what follows is a tail of one or two
            await hall.room.remember()
        again = Snapshot(hall.journal, KEY)
        assert same(again.recall(), folded(hall)), hall.journal.head
        assert again.seq == hall.journal.head[0] - hall.room.unremembered
    assert passed_over(log) == [], "it is believed each time"
    last = hall.restart().state
    session = last.sessions[SESSION]
    assert session.late_segments == 1 and session.corrections and session.seats and session.faces and session.holds
    assert last.impaired and last.rollovers and last.approved and last.witness and last.live is None


@settings(max_examples=150)
@given(st.builds(Session, **dict.fromkeys(CANDIDATES, st.just({}))) | st.builds(RoomState, sessions=st.just({})))
def test_whatever_a_session_holds_comes_back_as_it_was(value: Session | RoomState) -> None:
    """Of every field there is: one that somebody adds is found by its type."""
    others: dict[str, Any] = {each: {} for each in CANDIDATES} if isinstance(value, Session) else {"sessions": {}}
    text = json.dumps(written.plain(value, others.keys()))
    assert written.taken(type(value), json.loads(text), **others) == value


@dataclass
class Level:
    db: float


def test_a_type_without_a_form_is_refused() -> None:
    with pytest.raises(TypeError, match="no form"):
        written.plain(Level(1.5))
    with pytest.raises(ValueError, match="argument"):
        written.taken(Stamp, [1, 2])


async def test_what_came_in_is_not_kept_but_folded_when_asked(hall: Hall) -> None:
    """A correction after the snapshot is not yet in what the snapshot's session says of its candidates."""
    await much(hall)
    await hall.room.remember()
    assert all(hall.roster[0].candidate_id not in body and '"39"' not in body for _, _, body in rows(hall))
    first = hall.roster[0].candidate_id
    before = hall.restart().state.sessions[SESSION]
    await hall.fact(e.AttendanceCorrected, candidate_id=first, result="absent", by="T001", reason="was not here")
    await hall.fact(e.AttendanceCorrected, candidate_id=hall.roster[4].candidate_id, result="present", by="T001", reason="was", subject="4")
    assert list(before.admitted) == [first], "what was so is still what was so"
    room = hall.restart()
    assert room.unremembered == 2 and list(room.state.sessions[SESSION].admitted) == [hall.roster[4].candidate_id]
    assert same(room.state, folded(hall))
    with pytest.raises(machine.IllegalStep):
        await hall.fact(e.AttendanceCorrected, candidate_id=first, result="absent", by="T001", reason="again")


async def test_only_what_changed_is_written_again(hall: Hall) -> None:
    await much(hall)
    await hall.room.remember()
    before = {each: body for _, each, body in rows(hall)}
    assert list(before) == ["", SESSION, LATER]
    hall.restart()
    spoil(hall, "UPDATE snapshot SET body = 'untouched' WHERE session = ?", SESSION)
    await hall.fact(e.RosterRefused, LATER, reason="late")
    await hall.room.remember()
    after = {each: body for _, each, body in rows(hall)}
    assert after[SESSION] == "untouched" and after[LATER] != before[LATER] and after[""] != before[""]
    spoil(hall, "UPDATE snapshot SET body = 'nor this' WHERE session = ?", LATER)
    await hall.fact(e.ReaderBack, None, module="m")
    await hall.room.remember()
    assert [body for _, _, body in rows(hall)][1:] == ["untouched", "nor this"]


async def test_the_candidates_of_a_later_session_are_its_own(hall: Hall) -> None:
    """The second session that was opened, folded alone."""
    await much(hall)
    await hall.to(State.RUNNING, LATER)
    await hall.room.remember()
    room = hall.restart()
    assert room.unremembered == 0 and list(room.state.sessions[LATER].admitted) == [hall.roster[0].candidate_id]
    assert same(room.state, folded(hall))


async def test_one_that_contradicts_what_came_since_is_given_up(hall: Hall, log: pytest.LogCaptureFixture) -> None:
    """Whole and ours, and all the same not what has happened: no way leads on from there."""
    await much(hall)
    wrong = RoomState(sessions={SESSION: folded(hall).sessions[SESSION]})
    await Snapshot(hall.journal, KEY).keep(wrong, hall.journal.head)
    await hall.fact(e.RosterRefused, LATER, reason="late")
    log.clear()
    room = hall.restart()
    assert passed_over(log) == ["unreadable"] and same(room.state, folded(hall)) and room.unremembered == hall.journal.head[0]
    await room.remember()
    assert len(rows(hall)) == 3 and same(hall.restart().state, folded(hall)) and passed_over(log) == []


@pytest.mark.parametrize("change", [
    "UPDATE snapshot SET body = replace(body, '2033-05-25', '2023-05-25') WHERE session = 'S20261126-KD01-R01-01'",
    "UPDATE snapshot SET body = replace(body, 'H-1', 'H-2')",
    "UPDATE snapshot SET body = '{}' WHERE id = 1",
    "UPDATE snapshot SET body = substr(body, 1, length(body) / 2) WHERE id = 0",
    "UPDATE snapshot SET body = '' WHERE id = 0",
    "UPDATE snapshot SET body = replace(body, '\"opened_total\"', '\"x\"') || ' ' WHERE id = 0",
    "DELETE FROM snapshot WHERE id = 1",
    "UPDATE snapshot SET id = 5 WHERE id = 1",
    "UPDATE snapshot SET session = session || '0' WHERE id = 2",
    "INSERT INTO snapshot SELECT 9, 'S20261126-KD01-R01-09', body FROM snapshot WHERE id = 1",
])
async def test_a_changed_snapshot_is_noticed_and_made_anew(hall: Hall, log: pytest.LogCaptureFixture, change: str) -> None:
    await much(hall)
    await hall.room.remember()
    spoil(hall, change)
    log.clear()
    room = hall.restart()
    assert passed_over(log) == ["altered"] and all(record.levelno == logging.WARNING for record in log.records)
    assert same(room.state, folded(hall)) and room.unremembered == hall.journal.head[0]
    await hall.fact(e.ReaderBack, None, module="m")
    await room.remember()
    room = hall.restart()
    assert passed_over(log) == [] and same(room.state, folded(hall)) and len(rows(hall)) == 3


@pytest.mark.parametrize("change", ["DELETE FROM snapshot", "DELETE FROM snapshot WHERE id = 0"])
async def test_without_it_only_time_is_lost(hall: Hall, log: pytest.LogCaptureFixture, change: str) -> None:
    await much(hall)
    await hall.room.remember()
    spoil(hall, change)
    log.clear()
    assert same(hall.restart().state, folded(hall)) and passed_over(log) == ["none"]


async def test_one_of_another_key_or_another_journal_is_not_believed(make_hall: Callable[[], Hall], log: pytest.LogCaptureFixture) -> None:
    ours, theirs = make_hall(), make_hall()
    await much(ours)
    await theirs.room.plan(theirs.plan(), "{}")
    await theirs.fact(e.RosterRefused, reason="late")
    for hall in (ours, theirs):
        await hall.room.remember()
    assert Snapshot(ours.journal, b"j" * 32).recall() == folded(ours)
    assert passed_over(log)[-1:] == ["altered"], "a snapshot made with another key"
    foreign = rows(theirs)
    spoil(ours, "DELETE FROM snapshot")
    for row in foreign:
        spoil(ours, "INSERT INTO snapshot VALUES (?,?,?)", *row)
    assert same(ours.restart().state, folded(ours)) and passed_over(log) == ["other-history"]
    spoil(theirs, "DELETE FROM snapshot")
    await ours.fact(e.ReaderBack, None, module="m")
    await ours.room.remember()
    for row in rows(ours):
        spoil(theirs, "INSERT INTO snapshot VALUES (?,?,?)", *row)
    assert same(theirs.restart().state, folded(theirs)), "also one that speaks of rows that this journal does not have"
    assert passed_over(log) == ["other-history"]


ANOTHER = """
import logging, sys
from pathlib import Path
from edge.evidence import chain
from edge.storage.database import Database
from edge.storage.journal import Journal
from edge.storage.snapshot import Snapshot
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
database = Database(Path(sys.argv[1]), ballast=False)
print(sorted(Snapshot(Journal(database, chain.link), b"k" * 32).recall().sessions))
database.close()
"""


@pytest.mark.parametrize("changed", ["sessions/machine.py", "sessions/events.py", "storage/written.py", None])
async def test_another_program_folds_anew(hall: Hall, tmp_path: Path, changed: str | None) -> None:
    """A copy of this program with one word more in it, as after an upgrade."""
    await much(hall)
    await hall.room.remember()
    shutil.copytree(EDGE, tmp_path / "other" / "edge", ignore=shutil.ignore_patterns("__pycache__", "web"))
    if changed is not None:
        with (tmp_path / "other" / "edge" / changed).open("a", encoding="utf-8") as file:
            file.write("# another\n")
    done = subprocess.run(  # noqa: ASYNC221 (nothing else runs)
        [sys.executable, "-P", "-c", ANOTHER, str(hall.database.path)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "other")})
    told = ["snapshot passed over reason=other-program"] if changed else []
    assert done.stdout.splitlines() == [*told, str([SESSION, LATER])]


# ---- kill -9 -----------------------------------------------------------------------------------------------------------

CHILD = """
import asyncio, sys
from pathlib import Path
from edge.clock import SystemClock
from edge.evidence import chain
from edge.sessions import events as e
from edge.sessions import machine
from edge.storage.database import Database
from edge.storage.journal import Journal
from edge.storage.snapshot import Snapshot

async def main():
    database, clock = Database(Path(sys.argv[1]), ballast=False), SystemClock()
    journal = Journal(database, chain.link)
    snapshot = Snapshot(journal, b"k" * 32)
    state = snapshot.recall()
    while True:
        for n in range(20):
            fact = e.SessionPlanned(
                at=clock.now(), session=f"S{n}", plan_id="P", session_kind="exam_theory", title="x" * 5000, duration_min=1,
                scheduled_start_us=1, staff={}, min_proctors=1, late_cutoff_min=1, checkin_open_min=1, retention_policy="p",
                plan_sha256="0", source="drill")
            await journal.append(fact)
            state = machine.step(state, fact)
        await snapshot.keep(state, journal.head)
        print(snapshot.seq, flush=True)

asyncio.run(main())
"""


def test_kill_9_leaves_the_snapshot_before_or_the_one_after(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    path, kept = tmp_path / "edge.db", 0
    for round_, lines in enumerate((1, 3, 2, 1, 4, 1, 2, 1)):
        with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for _ in range(lines):
                kept = int(child.stdout.readline())
            os.kill(child.pid, signal.SIGKILL)
            kept = max([kept, *(int(line) for line in child.stdout if line.endswith("\n"))])
        database = Database(path, ballast=False)
        journal = Journal(database, chain.link)
        snapshot = Snapshot(journal, KEY)
        state = snapshot.recall()
        assert passed_over(log) == [], f"round {round_}: what was kept is whole"
        assert same(state, machine.fold(row.event for row in journal.all())) and len(state.sessions) == 20
        assert kept <= snapshot.seq <= journal.head[0] and snapshot.seq - kept in (0, 20)
        database.close()


async def test_one_that_was_cancelled_in_mid_write_is_written_by_the_next(hall: Hall, log: pytest.LogCaptureFixture) -> None:
    await much(hall)
    for turns in range(6):
        await hall.fact(e.ReaderBack, None, module=f"m{turns}")
        writing = asyncio.ensure_future(hall.room.remember())
        for _ in range(turns):
            await asyncio.sleep(0)
        writing.cancel()
        await asyncio.wait({writing})
        if turns % 2:
            await hall.room.remember()
        assert same(Snapshot(hall.journal, KEY).recall(), folded(hall))
    await hall.room.remember()
    log.clear()
    assert same(hall.restart().state, folded(hall)) and passed_over(log) == []


async def test_the_follower_writes_when_enough_has_happened(hall: Hall) -> None:
    following = asyncio.ensure_future(followers.remember(hall.room))
    facts = 0
    while hall.room.unremembered == facts:
        await hall.fact(e.ReaderBack if facts % 2 else e.ReaderLost, None, **({"module": "m"} if facts % 2 else {"reason": "gone"}))
        facts += 1
        assert facts <= followers.REMEMBER_EVERY + 200
    assert facts >= followers.REMEMBER_EVERY
    following.cancel()
    await asyncio.wait({following})
    assert Snapshot(hall.journal, KEY).recall() == folded(hall)
