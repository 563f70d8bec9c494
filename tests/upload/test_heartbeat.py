"""The newest state, at its pace, whatever else is wrong."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING, Any

import pytest

from edge.clock import US
from edge.sessions.events import PlatformLost
from edge.upload.heartbeat import Heartbeat

if TYPE_CHECKING:
    from tests.upload.conftest import Surroundings


class State:
    def __init__(self) -> None:
        self.facts: dict[str, Any] = {
            "controller": {"version": "0", "uptime_s": 1, "boot_id": "b"}, "state": "idle", "clock": {"synced": True}, "sources": [],
            "storage": {"free_bytes": 1, "write_ok": True}}

    def __call__(self) -> dict[str, Any]:
        return self.facts


@pytest.fixture
def state() -> State:
    return State()


@pytest.fixture
def heartbeat(around: Surroundings, state: State) -> Heartbeat:
    return Heartbeat(around.client, around.link, state, around.clock, random.Random(1))


async def held(around: Surroundings) -> dict[str, Any]:
    answer: dict[str, Any] = (await around.http.get("http://127.0.0.1/sim/held")).json()
    return answer


async def test_its_pace_follows_the_room(around: Surroundings, state: State, heartbeat: Heartbeat) -> None:
    assert 54 <= await heartbeat.step() <= 66
    state.facts |= {"state": "running", "session_id": "S20260101-KD01-R01-01"}
    assert 27 <= await heartbeat.step() <= 33
    last = (await held(around))["heartbeat"]
    assert (last["seq"], last["state"], last["session_id"]) == (2, "running", "S20260101-KD01-R01-01")


async def test_while_the_line_fails_it_feels_for_it(around: Surroundings, heartbeat: Heartbeat) -> None:
    await around.faults("down")
    for _ in range(10):
        wait_s = await heartbeat.step()
        assert 5 <= wait_s <= 15
        await around.clock.pass_time(wait_s)
    assert [type(fact) for fact in around.facts] == [PlatformLost] and (await held(around))["heartbeats"] == 0
    await around.faults("ok")
    await heartbeat.step()
    assert around.link.status.state == "up" and (await held(around))["heartbeats"] == 1     # what was missed is not made up for


async def test_a_refused_heartbeat_is_said_once_and_is_no_loss_of_the_line(around: Surroundings, state: State, heartbeat: Heartbeat,
                                                                           caplog: pytest.LogCaptureFixture) -> None:
    state.facts["state"] = "dancing"
    for _ in range(3):
        assert await heartbeat.step() >= 54
    assert around.link.status.state == "up"
    assert [record.getMessage() for record in caplog.records if "refused" in record.getMessage()] == [
        "heartbeat_refused status=422 code=schema"]


async def test_skew_to_the_platforms_clock_is_seen(around: Surroundings, heartbeat: Heartbeat, caplog: pytest.LogCaptureFixture) -> None:
    await heartbeat.step()
    assert heartbeat.skew_ms is not None and abs(heartbeat.skew_ms) <= 1
    caplog.set_level(logging.INFO)
    app, real = around.province.app, around.clock.now().utc_us

    async def slow_clock(scope: Any, receive: Any, send: Any) -> None:
        around.clock.step_wall(real - around.clock.now().utc_us)       # the platform's own clock
        await app(scope, receive, send)
    around.province.app = slow_clock
    around.clock.step_wall(8 * US)
    await heartbeat.step()
    assert heartbeat.skew_ms in (-8000, -8001)      # the contract's times are whole milliseconds
    assert any("clock_skew_to_platform ms=-800" in record.getMessage() for record in caplog.records)


async def test_it_runs(around: Surroundings, heartbeat: Heartbeat) -> None:
    task = asyncio.ensure_future(heartbeat.run())
    await around.go(300, step_s=5)
    task.cancel()
    assert 5 <= (await held(around))["heartbeats"] <= 7
