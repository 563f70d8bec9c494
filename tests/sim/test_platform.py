"""What is the simulated platform's own: its plans, its memory, its process. The contract has its tests in tests/contracts."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from edge.clock import US, SimClock, parse_utc
from edge.evidence.envelope import RECEIPT, ROSTER, open_envelope
from edge.sessions.roster import parse_roster
from edge.sim.authority import Authority
from edge.sim.people import BY_NAME
from edge.sim.platform import build_platform, serve_platform

if TYPE_CHECKING:
    from tests.conftest import Device, Signed

ROOM = "000000-KD01-R01"
ROSTER_SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[2] / "docs/schemas/roster.json").read_text("utf-8")))


def clock_at(hour: int, minute: int, second: int = 0) -> SimClock:
    """A clock at this local time (UTC+8, from 08:00 on) of the present day, so that certificates made now are valid."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return SimClock(utc_us=int(midnight.timestamp()) * US + ((hour - 8) * 3600 + minute * 60 + second) * US)


class Caller:
    """Asks the platform as a room would, without a room's care."""

    def __init__(self, http: httpx.AsyncClient, clock: SimClock) -> None:
        self.http = http
        self.clock = clock

    async def plans(self, days: int = 1) -> list[dict[str, Any]]:
        today = datetime.fromtimestamp(self.clock.now().utc_us / US, UTC).date()
        query = {"from": str(today - timedelta(days)), "to": str(today + timedelta(days))}
        answer = await self.http.get(f"/rooms/{ROOM}/plans", params=query)
        answer.raise_for_status()
        listed: list[dict[str, Any]] = answer.json()
        return listed

    async def put(self, path: str, signed: Signed) -> httpx.Response:
        answer = await self.http.put(f"/sessions/{path}", content=signed.envelope, headers={"content-type": "application/vnd.dsse+json"})
        answer.raise_for_status()
        return answer

    async def run(self, device: Device, session: str, seq: int) -> None:
        await self.put(f"{session}/open", device.open(session, seq))
        await self.put(f"{session}/manifests/1", device.manifest(session, 1, seq))


@asynccontextmanager
async def platform(authority: Authority, folder: Path, clock: SimClock) -> AsyncIterator[Caller]:
    app = build_platform(authority, folder, ROOM, clock)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1/edge/v1") as http:
        yield Caller(http, clock)


async def test_the_first_batch_starts_now_and_the_plans_are_kept(authority: Authority, tmp_path: Path) -> None:
    clock = clock_at(9, 12, 31)
    async with platform(authority, tmp_path, clock) as caller:
        first = await caller.plans()
        await clock.pass_time(1200)
        assert await caller.plans() == first
    async with platform(authority, tmp_path, clock) as caller:
        assert await caller.plans() == first
    assert [each["scheduled_start"][11:] for each in first] == ["09:13:00+08:00", "13:13:00+08:00"]
    day = datetime.fromtimestamp(parse_utc(first[0]["scheduled_start"]) / US, UTC)
    assert [each["session_id"] for each in first] == [f"S{day:%Y%m%d}-KD01-R01-01", f"S{day:%Y%m%d}-KD01-R01-02"]
    assert {each["retention_policy"] for each in first} == {"RP-SPECIAL-6Y"} and first[0]["duration_min"] == 120
    assert first[0]["trade"] == ["1.2", "2.1", "3.1"] and first[1]["roster_count"] == 2


@pytest.mark.parametrize(("now", "starts"), [
    ((8, 0), ["08:00", "12:00"]), ((21, 10), ["21:10", "23:59"]), ((23, 58), ["23:58", "23:59"])])
async def test_both_batches_are_of_the_same_day(authority: Authority, tmp_path: Path, now: tuple[int, int], starts: list[str]) -> None:
    async with platform(authority, tmp_path, clock_at(*now)) as caller:
        listed = await caller.plans()
    assert [each["scheduled_start"][11:16] for each in listed] == starts
    assert len({each["scheduled_start"][:10] for each in listed}) == 1


async def test_rosters_are_signed_and_hold_who_belongs_there(authority: Authority, tmp_path: Path) -> None:
    clock = clock_at(9, 0)
    async with platform(authority, tmp_path, clock) as caller:
        listed = await caller.plans()
        answers = [await caller.http.get(f"/plans/{plan['plan_id']}/roster") for plan in listed]
    payloads = [open_envelope(answer.content, authority.root_pem, ROSTER, "platform", clock.now().utc_us)[0] for answer in answers]
    for payload, plan, answer in zip(payloads, listed, answers, strict=True):
        ROSTER_SCHEMA.validate(payload)
        assert payload["session_id"] == plan["session_id"] and answer.headers["etag"] == plan["roster_etag"]
        assert len(payload["candidates"]) == plan["roster_count"] and all(each["demo"] for each in payload["candidates"])
    here, later = (parse_roster(payload) for payload in payloads)
    away, held, next_door = (BY_NAME[name].id_no for name in ("样例辛", "样例寅", "样例卯"))
    assert set(here.by_number) == {person.id_no for person in BY_NAME.values()} - {away, held, next_door}
    assert set(later.by_number) == {away, held} and later.by_number[held].on_hold
    assert {number: place.room_code for number, place in here.elsewhere.items()} == {next_door: "000000-KD01-R02"}
    assert here.by_number[BY_NAME["样例甲"].id_no].seat == "01" and here.by_number[BY_NAME["样例䶮"].id_no].seat is None
    assert len({each["admission_no"] for each in payloads[0]["candidates"]}) == len(payloads[0]["candidates"])


async def test_a_demo_never_runs_out_of_sessions(authority: Authority, device: Device, tmp_path: Path) -> None:
    clock = clock_at(9, 0)
    async with platform(authority, tmp_path, clock) as caller:
        first, second = await caller.plans()
        await caller.put(f"{first['session_id']}/open", device.open(first["session_id"], 1))
        await clock.pass_time(150 * 60)
        assert len(await caller.plans()) == 2       # it runs over its time, but it runs
        await caller.put(f"{first['session_id']}/manifests/1", device.manifest(first["session_id"], 1, 1))
        third = (await caller.plans())[2]
        assert third["session_id"].endswith("-03") and third["scheduled_start"][11:16] == "11:30" and third["roster_count"] == 11
        await caller.run(device, third["session_id"], 2)
        await clock.pass_time(2 * 60 * 60)
        assert len(await caller.plans()) == 3       # the second's time has come
        await caller.run(device, second["session_id"], 3)
        fourth = (await caller.plans())[3]
        assert fourth["session_id"].endswith("-04") and fourth["scheduled_start"][11:16] == "13:30"


async def test_a_class_is_published_when_asked_for(authority: Authority, tmp_path: Path) -> None:
    clock = clock_at(9, 0, 20)
    async with platform(authority, tmp_path, clock) as caller:
        await caller.plans()
        asked = (await caller.http.post("http://127.0.0.1/sim/class")).json()
        listed = await caller.plans()
        assert asked["session"] == listed[2]["session_id"] and listed[2]["scheduled_start"][11:16] == "09:01"
        assert (listed[2]["session_type"], listed[2]["retention_policy"]) == ("training_class", "RP-CLASS-3Y")
        assert listed[2]["roster_count"] == 11
        roster = await caller.http.get(f"/plans/{listed[2]['plan_id']}/roster")
    assert open_envelope(roster.content, authority.root_pem, ROSTER, "platform", clock.now().utc_us)[0]["session_id"] == asked["session"]


async def test_a_batch_nobody_ran_lapses(authority: Authority, tmp_path: Path) -> None:
    clock = clock_at(9, 0)
    async with platform(authority, tmp_path, clock) as caller:
        await caller.plans()
        await clock.pass_time(2 * 3600 + 60)
        assert [each["scheduled_start"][11:16] for each in await caller.plans()] == ["09:00", "13:00", "11:01"]


async def test_each_day_has_its_own_plans(authority: Authority, tmp_path: Path) -> None:
    clock = clock_at(9, 0)
    async with platform(authority, tmp_path, clock) as caller:
        yesterday = await caller.plans()
        await clock.pass_time(86_400)
        listed = await caller.plans()
        assert listed[:2] == yesterday and [each["session_id"][-3:] for each in listed[2:]] == ["-01", "-02"]
        assert len({each["session_id"] for each in listed}) == 4
        assert await caller.plans(0) == listed[2:]


async def test_a_restart_forgets_nothing(authority: Authority, device: Device, tmp_path: Path) -> None:
    clock = clock_at(9, 0)
    async with platform(authority, tmp_path, clock) as caller:
        session = (await caller.plans())[0]["session_id"]
        opened, manifest = device.open(session), device.manifest(session)
        given = (await caller.put(f"{session}/open", opened)).content
        first = (await caller.put(f"{session}/manifests/1", manifest)).content
    async with platform(authority, tmp_path, clock) as caller:
        again = await caller.put(f"{session}/open", opened)
        assert again.status_code == 200 and again.content == given
        other = await caller.http.put(f"/sessions/{session}/manifests/1", content=device.manifest(session, outcome="x").envelope,
                                      headers={"content-type": "application/vnd.dsse+json"})
        assert other.status_code == 409
        second = await caller.put(f"{session}/manifests/2", device.manifest(session, 2, amends=manifest.digest))
    receipts = [open_envelope(each, authority.root_pem, RECEIPT, "platform", clock.now().utc_us) for each in (given, first, second.content)]
    assert [payload["platform_seq"] for payload, _ in receipts] == [1, 2, 3]


async def test_a_document_whose_receipt_was_cut_off_gets_it_when_it_comes_again(authority: Authority, device: Device,
                                                                                tmp_path: Path) -> None:
    clock = clock_at(9, 0)
    async with platform(authority, tmp_path, clock) as caller:
        session = (await caller.plans())[0]["session_id"]
        opened = device.open(session)
        await caller.put(f"{session}/open", opened)
    (tmp_path / "sessions" / session / "receipt-open.dsse.json").unlink()       # as if the power had gone between the two
    async with platform(authority, tmp_path, clock) as caller:
        answer = await caller.put(f"{session}/open", opened)
        assert open_envelope(answer.content, authority.root_pem, RECEIPT, "platform", clock.now().utc_us)[0]["platform_seq"] == 1


async def test_the_console_refuses_what_it_does_not_know(authority: Authority, tmp_path: Path) -> None:
    async with platform(authority, tmp_path, clock_at(9, 0)) as caller:
        for wrong in ({"mode": "sideways"}, {"mode": "slow", "seconds": -1}, {"modus": "down"}):
            assert (await caller.http.post("http://127.0.0.1/sim/faults", json=wrong)).status_code == 400
        assert (await caller.http.get("http://127.0.0.1/sim/faults")).json()["mode"] == "ok"


async def test_its_port_is_loopback_and_a_taken_port_is_said(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await serve_platform(tmp_path, taken.getsockname()[1], ROOM)


async def test_a_process_of_its_own_ends_by_a_signal_and_remembers(tmp_path: Path) -> None:
    program = ("import asyncio, sys; from pathlib import Path; from edge.sim.platform import serve_platform; "
               f"asyncio.run(serve_platform(Path(sys.argv[1]), 0, {ROOM!r}, signals=True, "
               "ready=lambda port: print(port, flush=True)))")
    listed = []
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(tmp_path), stdout=asyncio.subprocess.PIPE,
                                                       stderr=asyncio.subprocess.PIPE)
        assert process.stdout is not None and process.stderr is not None
        port = int(await asyncio.wait_for(process.stdout.readline(), 20))
        async with httpx.AsyncClient(trust_env=False) as http:
            today = datetime.now(UTC).date()
            listed.append((await http.get(f"http://127.0.0.1:{port}/edge/v1/rooms/{ROOM}/plans",
                                          params={"from": str(today - timedelta(1)), "to": str(today + timedelta(1))})).json())
        process.send_signal(number)
        await asyncio.wait_for(process.wait(), 20)
        assert await process.stdout.read() == b""
        assert process.returncode == (-number if number == signal.SIGKILL else 0)
        assert await process.stderr.read() == b""
    assert listed[0] == listed[1] == listed[2] and len(listed[0]) == 2
