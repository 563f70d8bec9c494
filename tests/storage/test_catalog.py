"""Questions about what is on disk: real rows in, the same rows out, in their order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from edge.clock import SimClock
from edge.evidence import chain
from edge.sessions import events as e
from edge.sessions.roster import Candidate
from edge.sim.people import PEOPLE
from edge.storage.catalog import Catalog, Segment
from edge.storage.database import Database
from edge.storage.journal import Envelope, Journal, People, PlanText

SEGMENT = Segment(stream="cam", seq=1, path="cam/2026/11/26/0000000001-20261126T060000Z.mp4", run="0" * 32, start_utc_us=10, end_utc_us=20,
                  start_boot_us=1, end_boot_us=11, boot_id="b", dur_us=10, frame_us=1, bytes=100, sha256="a" * 64, sidecar_sha256="b" * 64,
                  codec="h264+aac", end_reason="rotated", recovered=True, clock_state="synced", audio_peak_cdb=None, silent_ms=None)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "edge.db", ballast=False)
    yield database
    database.close()


@pytest.fixture
def catalog(database: Database) -> Catalog:
    return Catalog(database)


def stored(clock: SimClock, segment: Segment, session: str) -> e.SegmentStored:
    return e.SegmentStored(at=clock.now(), session=session, **asdict(segment))


async def test_a_segment_is_one_row_however_often_the_folder_is_read(catalog: Catalog) -> None:
    assert catalog.last_seq("cam") == -1 and catalog.segment("cam", 1) is None
    assert await catalog.add_segment(SEGMENT) is True
    assert await catalog.add_segment(replace(SEGMENT, bytes=999)) is False
    assert catalog.segment("cam", 1) == SEGMENT, "the first reading stands"
    assert type(SEGMENT.recovered) is bool and catalog.segment("cam", 1).recovered is True  # type: ignore[union-attr]
    await catalog.add_segment(replace(SEGMENT, seq=7))
    await catalog.add_segment(replace(SEGMENT, seq=3, audio_peak_cdb=-2310, silent_ms=0))
    assert (catalog.last_seq("cam"), catalog.last_seq("mic")) == (7, -1)
    assert catalog.segment("cam", 3) == replace(SEGMENT, seq=3, audio_peak_cdb=-2310, silent_ms=0)


async def test_a_sessions_segments_come_by_stream_and_time(database: Database, catalog: Catalog, sim_clock: SimClock) -> None:
    journal = Journal(database, chain.link)
    mine = [replace(SEGMENT, stream=stream, seq=seq) for stream in ("mic", "cam") for seq in (2, 1)]
    for segment in [*mine, replace(SEGMENT, seq=3)]:
        await catalog.add_segment(segment)
    for segment in mine:
        await journal.append(stored(sim_clock, segment, "S1"))
    await journal.append(stored(sim_clock, mine[0], "S2"))              # at a border a segment belongs to two
    assert [(s.stream, s.seq) for s in catalog.segments("S1")] == [("cam", 1), ("cam", 2), ("mic", 1), ("mic", 2)]
    assert [s.seq for s in catalog.segments("S1", "mic")] == [1, 2] and catalog.segments("S1", "door") == []
    assert [(s.stream, s.seq) for s in catalog.segments("S2")] == [("mic", 2)]
    assert catalog.in_session("S1", "cam", 1) and not catalog.in_session("S1", "cam", 3) and not catalog.in_session("S3", "cam", 1)
    assert sorted(catalog.segments("S1"), key=lambda s: (s.stream, s.seq)) == sorted(mine, key=lambda s: (s.stream, s.seq))


async def test_people_come_in_the_order_of_their_seats(database: Database, catalog: Catalog, sim_clock: SimClock) -> None:
    rows = [(Candidate(p.candidate_id, p.name, "resident_id", p.id_no, "A", p.seat, p.category, p.trade, p.exam_kind, p.subject),
             hashlib.sha256(p.id_no.encode()).hexdigest()) for p in reversed(PEOPLE)]
    accepted = e.RosterAccepted(at=sim_clock.now(), session="S1", version=1, count=len(rows), roster_sha256="0", source="platform")
    await Journal(database, chain.link).append(accepted, People(rows))
    people = catalog.people("S1")
    assert [p.seat for p in people] == ["01", "02", "03", "04", "05", "06", "08", "09", "10", "11", "12", "14", "15", None]
    assert people[0].number == "000000199001010018" and people[-1].name == "样例䶮"
    assert catalog.people("S2") == []


async def test_check_ins_come_newest_first_and_not_more_than_asked(database: Database, catalog: Catalog, sim_clock: SimClock) -> None:
    journal = Journal(database, chain.link)
    for number in range(5):
        await journal.append(e.AdmissionRefused(at=sim_clock.now(), session="S1", code=f"E-{number}"))
    await journal.append(e.AdmissionRefused(at=sim_clock.now(), session="S2", code="E-OTHER"))
    assert [c.code for c in catalog.checkins("S1", most=3)] == ["E-4", "E-3", "E-2"]
    assert {(c.name, c.number, c.seat) for c in catalog.checkins("S1")} == {(None, None, None)}, "nobody's name was read"


async def test_plans_and_envelopes(database: Database, catalog: Catalog, sim_clock: SimClock) -> None:
    journal = Journal(database, chain.link)
    lost = e.PlatformLost(at=sim_clock.now(), session="S1", reason="x")
    for body in ('{"n":1}', '{"n":2}'):
        await journal.append(lost, PlanText("P1", 1, body))
    assert catalog.plan("S1") == '{"n":2}' and catalog.plan("S2") is None
    for revision in (2, 1):
        await journal.append(lost, Envelope("session-manifest", str(revision) * 64, b"m", revision=revision))
    await journal.append(lost, Envelope("receipt", "9" * 64, b"r", revision=1, answers="1" * 64))
    assert [(x.kind, x.revision, x.answers) for x in catalog.envelopes("S1")] == [
        ("receipt", 1, "1" * 64), ("session-manifest", 1, None), ("session-manifest", 2, None)]
    assert catalog.envelopes("S2") == []
