"""Plans and rosters come, come again only when they changed, and come back after trouble."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from edge.clock import US, parse_utc
from edge.sessions.events import PlatformBack, PlatformLost
from edge.upload.timetable import Timetable

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from tests.upload.conftest import Surroundings


class Room:
    """Takes what the timetable brings."""

    def __init__(self, around: Surroundings) -> None:
        self.plans: list[list[dict[str, Any]]] = []
        self.rosters: list[str] = []
        self.usable = True
        self.timetable = Timetable(around.client, around.link, self.on_plans, self.on_roster, around.clock, random.Random(1))

    async def on_plans(self, plans: list[dict[str, Any]]) -> None:
        self.plans.append(plans)

    async def on_roster(self, plan_id: str, envelope: bytes) -> bool:
        assert json.loads(envelope)["payloadType"] == "application/vnd.examroom.exam-roster.v1+json"
        self.rosters.append(plan_id)
        return self.usable


async def test_what_did_not_change_is_not_brought_again(around: Surroundings) -> None:
    room = Room(around)
    wait_s = await room.timetable.step()
    assert 540 <= wait_s <= 660
    assert len(room.plans) == 1 and [plan["plan_id"][-4:] for plan in room.plans[0]] == ["0001", "0002"]
    assert [plan_id[-4:] for plan_id in room.rosters] == ["0001", "0002"]
    assert room.plans[0][0]["rules"]["min_proctors"] == 2 and room.plans[0][0]["state"] == "published"
    await room.timetable.step()
    assert len(room.plans) == 1 and len(room.rosters) == 2


async def test_a_roster_that_could_not_be_used_is_brought_again(around: Surroundings) -> None:
    room = Room(around)
    room.usable = False
    await room.timetable.step()
    room.usable = True
    await room.timetable.step()
    await room.timetable.step()
    assert len(room.rosters) == 4 and len(room.plans) == 1


async def test_rosters_are_fetched_in_their_time_only(around: Surroundings) -> None:
    """From a day before the session to twelve hours after its planned end."""
    room = Room(around)
    await room.timetable.step()
    later = room.plans[0][1]
    hours_to_end = (parse_utc(later["scheduled_start"]) + 120 * 60 * US - around.clock.now().utc_us) // US / 3600
    await around.clock.pass_time((hours_to_end + 11.9) * 3600)
    around.province.requests.clear()
    await room.timetable.step()
    asked = [each for each in around.province.requests if "roster" in each]
    assert any(later["plan_id"] in each for each in asked)
    await around.clock.pass_time(0.2 * 3600)
    around.province.requests.clear()
    await room.timetable.step()
    assert not any(later["plan_id"] in each for each in around.province.requests)


async def test_trouble_and_its_end(around: Surroundings) -> None:
    room = Room(around)
    around.province.unplugged = True
    task = asyncio.ensure_future(room.timetable.run())
    await around.go(3600, step_s=10)
    assert room.plans == [] and [type(fact) for fact in around.facts] == [PlatformLost]
    around.province.unplugged = False
    await around.link.answered()        # a heartbeat, say
    await around.until(lambda: len(room.rosters) == 2, 0.1)
    assert [type(fact) for fact in around.facts] == [PlatformLost, PlatformBack]
    await around.go(60)
    before = around.province.transport.tried
    room.timetable.refresh()
    await around.settle()
    assert around.province.transport.tried > before
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_one_roster_in_trouble_does_not_hide_the_others(around: Surroundings) -> None:
    room = Room(around)
    around.province.choking_on = "-0001/roster"
    assert await room.timetable.step() < 10
    assert [plan_id[-4:] for plan_id in room.rosters] == ["0002"]
    around.province.choking_on = ""
    await room.timetable.step()
    assert [plan_id[-4:] for plan_id in room.rosters] == ["0002", "0001"]


async def test_a_roster_that_always_fails_is_not_asked_for_without_rest(around: Surroundings) -> None:
    """The list of plans answers each time, so the line is up and down in every round: the pauses grow all the same."""
    room = Room(around)
    around.province.choking_on = "-0001/roster"
    task = asyncio.ensure_future(room.timetable.run())
    await around.go(600, step_s=1)
    asked = sum("/plans?" in each or each.endswith("/plans") for each in around.province.requests)
    assert 3 <= asked <= 40, asked
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_plan_that_does_not_fit_does_not_hide_the_others(around: Surroundings) -> None:
    room = Room(around)
    await room.timetable.step()
    good = room.plans[0][0]
    app = around.province.app
    odd: list[Any] = [
        {**good, "duration_min": "120"}, {**good, "scheduled_start": "2026-11-26T14:00:00"}, {**good, "room_code": "000000-KD01-R02"},
        {**good, "session_id": "../../etc"}, {key: value for key, value in good.items() if key != "staff"}, "plan", None,
        {**good, "plan_id": "P-new", "added_later": [1]},
    ]

    async def different(scope: Scope, receive: Receive, send: Send) -> None:
        if not scope["path"].endswith("/plans"):
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(odd).encode()})
    around.province.app = different
    await room.timetable.step()
    assert [plan["plan_id"] for plan in room.plans[-1]] == ["P-new"] and "added_later" not in room.plans[-1][0]
