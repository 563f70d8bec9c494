"""The clock and the incidents of a session as the running room writes them: what the follower reads and when, a step in small parts or
while the room was away, and the manifest that comes of it, judged by the verifier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge import followers
from edge.clock import US
from edge.evidence import anchors, checks
from edge.sessions import events as e
from edge.sessions.machine import State
from edge.sim.authority import Authority
from tests.test_notary import SESSION, Office, schema

if TYPE_CHECKING:
    from tests.conftest import Device, Hall


@pytest.fixture
def office(hall: Hall, authority: Authority, device: Device, tmp_path: Path) -> Office:
    return Office(hall, authority, device, tmp_path / "nobody.sock")


@asynccontextmanager
async def watched(hall: Hall) -> AsyncIterator[None]:
    """The follower of the clock runs; at the end it has had its say about all that came before."""
    task = asyncio.create_task(followers.clock(hall.room))
    await settled(hall)
    yield
    await settled(hall)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def settled(hall: Hall) -> None:
    await hall.clock.pass_time(1)
    for _ in range(3):                          # the database answers from a thread of its own
        await hall.database.answers()
        await hall.clock.pass_time(1)


def facts(hall: Hall, kind: type[e.Event]) -> list[e.Event]:
    return [r.event for r in hall.room.events(SESSION) if isinstance(r.event, kind)]


def steps(hall: Hall) -> list[int]:
    return [fact.delta_us for fact in facts(hall, e.ClockStepped) if isinstance(fact, e.ClockStepped)]


async def test_the_clock_is_read_every_ten_minutes_of_a_session_also_across_a_restart(office: Office) -> None:
    hall = office.hall
    async with watched(hall):
        await hall.clock.pass_time(3600)
    await office.advance(State.CHECKIN)
    async with watched(hall):
        assert facts(hall, e.ClockRead) == [], "the opening itself was a reading"
        await hall.clock.pass_time(600)
        await settled(hall)
        assert len(facts(hall, e.ClockRead)) == 1
    office.restart()
    async with watched(hall):
        await hall.clock.pass_time(500)
        await settled(hall)
        assert len(facts(hall, e.ClockRead)) == 1, "a restart is no reason to read anew"
        await hall.clock.pass_time(100)
        await settled(hall)
        assert len(facts(hall, e.ClockRead)) == 2
    hall.clock.reboot("boot-2", 60 * US)
    office.restart()
    async with watched(hall):
        pass
    assert len(facts(hall, e.ClockRead)) == 3, "another boot is tied to the wall clock at once"


async def test_a_step_in_small_parts_is_a_step(office: Office) -> None:
    await office.advance(State.CHECKIN)
    async with watched(office.hall):
        for _ in range(4):
            office.hall.clock.step_wall(400_000)
            await settled(office.hall)
    assert steps(office.hall) == [1_200_000], "three parts make more than a second; the fourth waits for its fellows"


async def test_a_step_while_the_room_was_away_is_told_when_it_is_back(office: Office) -> None:
    await office.advance(State.CHECKIN)
    async with watched(office.hall):
        pass
    office.hall.clock.step_wall(-7200 * US)
    office.restart()
    async with watched(office.hall):
        pass
    assert steps(office.hall) == [-7200 * US]


async def test_a_whole_session_makes_a_manifest_whose_clock_and_incidents_hold(office: Office) -> None:
    """From the room's own verbs and followers to the verifier's checks: a step, a lost camera, a breach, a gravest breach."""
    hall = office.hall
    await office.advance(State.CHECKIN)
    await office.settle()
    async with watched(hall):
        await hall.clock.pass_time(601)
        hall.clock.step_wall(90 * US)
        await settled(hall)
        await hall.room.of_the_box(e.StreamLost(at=hall.clock.now(), stream="mic", reason="no-answer"))
        await office.advance(State.RUNNING)
        who = hall.roster[0].candidate_id
        await hall.room.report_incident(SESSION, "T002", "V3-02", "替考嫌疑", who)
        await hall.room.confirm_incident(SESSION, 1, "T001", "1001", "T002", "1002", "refused")
    await office.advance(State.CLOSING)
    await hall.room.seal(SESSION, "T001", "1001", "T002", "1002", room_empty=True, absences_confirmed=True)
    opened = hall.room.state.sessions[SESSION].opened
    assert opened is not None
    await office.record(until=opened.at.plus(hall.clock.now().us_since(opened.at) + US))       # a run keeps the wall time of its beginning
    await office.settle()
    document = office.signed("session-manifest")[0].payload
    schema("manifest").validate(document)
    assert checks.shape(document) == "" and [*anchors.clock(document), *anchors.incidents(document), *checks.timeline(document)] == []
    assert [(each["what"], each["source"]) for each in document["clock"]["anchors"]] == [
        ("checkpoint", "kernel"), ("close", "kernel"), ("seal", "kernel")], "the hall's opening is a bare fact, without a reading"
    assert [step["delta_us"] for step in document["clock"]["steps"]] == [90 * US]
    assert {"V3-02", "clock-stepped", "stream-lost"} <= {each["code"] for each in document["incidents"]}
    hold = hall.room.state.sessions[SESSION].holds["H-incident-1"]
    assert (hold.by, hold.reason) == ("room", "incident 1: V3-02"), "only an auditor lets go of it"
    assert document["retention"]["policy"] == "RP-SPECIAL-6Y", "longer than an integrity file's five years"


async def test_a_serious_breach_keeps_a_session_of_three_years_for_five_and_a_dismissed_one_does_not(office: Office) -> None:
    hall = office.hall
    three_years(office)
    await office.advance(State.RUNNING)
    await hall.room.report_incident(SESSION, "T002", "V2-04", "手机")
    await hall.room.dismiss_incident(SESSION, 1, "T001", "1001", "是计算器")
    assert await kept(office) == "RP-GENERAL-3Y"


async def test_a_serious_breach_that_stands_makes_an_integrity_file(office: Office) -> None:
    hall = office.hall
    three_years(office)
    await office.advance(State.RUNNING)
    await hall.room.report_incident(SESSION, "T002", "V2-04", "手机")
    await hall.room.confirm_incident(SESSION, 1, "T001", "1001", "T002", "1002")
    assert await kept(office) == "RP-INCIDENT-5Y" and hall.room.state.sessions[SESSION].holds == {}


def three_years(office: Office) -> None:
    hall = office.hall
    hall.roster = [p for p in hall.roster if p.category == "GENERAL"][:1]
    office.ways[SESSION] = hall.way(SESSION, retention_policy="RP-GENERAL-3Y")


async def kept(office: Office) -> str:
    await office.advance(State.SEALING)
    await office.record()
    await office.settle()
    sealed = office.hall.room.state.sessions[SESSION].sealed
    assert sealed is not None and sealed.manifest_version == 2
    return sealed.retention_policy
