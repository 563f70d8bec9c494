"""The live channel: a snapshot on connecting and on each change, a heartbeat, an end with the log-in. And over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, cast

import httpx

from edge.sessions import events as e
from edge.web import news
from edge.web.desk import Web

if TYPE_CHECKING:
    from tests.web.conftest import Hall, Served

SESSION = "S20261126-KD01-R01-01"


async def take(events: AsyncGenerator[bytes, None]) -> tuple[str, dict[str, int], str]:
    """(event, data, id) of the next event."""
    while True:
        text = (await asyncio.wait_for(anext(events), 5)).decode()
        facts = dict(line.split(": ", 1) for line in text.strip().split("\n"))
        if "event" in facts:
            return facts["event"], json.loads(facts["data"]), facts.get("id", "")


async def test_snapshot_on_connect_and_on_each_change_and_a_beat_between(hall: Hall) -> None:
    events = news.stream(live_web(hall), None)
    name, data, number = await take(events)
    assert (name, number) == ("snapshot", str(hall.room.version)) and data["now_ms"] == hall.clock.now().utc_us // 1000
    assert (await take(events))[0] == "beat"
    await hall.plan()
    await hall.plan("S20261126-KD01-R01-02")
    name, data, number = await take(events)
    assert name == "snapshot" and data["version"] == hall.room.version == int(number), "one for what came together"
    await events.aclose()
    assert not hall.room._wakers, "nobody waits for a browser that has gone"


async def test_a_late_browser_gets_what_is(hall: Hall) -> None:
    """After an outage the snapshot alone says that something is new: nothing is replayed, nothing is missed."""
    await hall.to("checkin")
    events = news.stream(live_web(hall), None)
    assert (await take(events))[1]["version"] == hall.room.version
    await events.aclose()


async def test_an_open_stream_keeps_its_log_in_and_ends_with_it(hall: Hall) -> None:
    token = await hall.desk.logins.create("T001")
    events = news.stream(live_web(hall), token, look_s=0)
    for _ in range(4):
        await hall.sim.pass_time(14 * 60)
        await hall.room.report(e.PlatformBack(at=hall.clock.now()))
        assert (await take(events))[0] == "snapshot"
    await hall.desk.logins.drop(token)
    await hall.room.report(e.PlatformBack(at=hall.clock.now()))
    while (name := (await take(events))[0]) != "bye":
        assert name == "snapshot"
    assert [each async for each in events] == []


def live_web(hall: Hall) -> Web:
    return cast(Web, hall.app.state.web)


def test_over_a_socket(served: Served) -> None:
    """uvicorn, chunked: the bytes arrive as they are said; a closed browser frees its place; nobody is told anything without a log-in."""
    with httpx.Client(base_url=served.url, headers={"Origin": served.url}, timeout=10) as client:
        assert client.get("/news/room").status_code == 401
        client.post("/login", data={"staff_id": "T001", "password": "chief-password"})
        for path in ("/news/room", "/gate/live"):
            with client.stream("GET", path) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream") and answer.headers["cache-control"] == "no-store"
                lines = answer.iter_lines()
                assert next(line for line in lines if line.startswith("event")) == "event: snapshot"
                hall = served.hall
                served.do(hall.room.report(e.ReaderLost(at=hall.clock.now(), reason="absent")))
                version = hall.room.version
                assert next(line for line in lines if line.startswith("id")) == f"id: {version}"
