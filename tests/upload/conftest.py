"""A courier's surroundings: an outbox in memory, the simulated platform in this process, a clock moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from edge.clock import SimClock, Stamp, SystemClock
from edge.sessions.events import Event
from edge.sim.authority import Authority
from edge.sim.platform import build_platform
from edge.upload.link import Link
from edge.upload.platform import PlatformClient

ROOM = "000000-KD01-R01"


@dataclass(frozen=True, slots=True)
class Item:
    """An item as the outbox gives it, and what the outbox knows of it besides."""

    id: int
    kind: str
    session: str | None
    revision: int | None
    digest: str
    body: bytes
    attempts: int = 0
    state: str = "waiting"
    due: Stamp | None = None
    error: str = ""


@dataclass
class MemoryOutbox:
    """The courier's outbox, in the order of `storage.outbox`: announcements first, then by age. Survives a courier."""

    items: dict[int, Item] = field(default_factory=dict)

    def add(self, kind: str, session: str | None, revision: int | None, digest: str, body: bytes) -> int:
        number = len(self.items) + 1
        self.items[number] = Item(number, kind, session, revision, digest, body)
        return number

    def _waiting(self) -> list[Item]:
        waiting = [item for item in self.items.values() if item.state == "waiting"]
        return sorted(waiting, key=lambda item: (item.kind != "session-open", item.id))

    async def next_due(self, now: Stamp) -> Item | None:
        return next((item for item in self._waiting() if item.due is None or now.us_since(item.due) >= 0), None)

    async def done(self, item_id: int) -> None:
        self.items[item_id] = replace(self.items[item_id], state="done")

    async def put_back(self, item_id: int, due: Stamp, error: str) -> None:
        item = self.items[item_id]
        self.items[item_id] = replace(item, attempts=item.attempts + 1, due=due, error=error)

    def defer(self, item_id: int, due: Stamp) -> None:
        self.items[item_id] = replace(self.items[item_id], due=due)

    async def park(self, item_id: int, error: str) -> None:
        self.items[item_id] = replace(self.items[item_id], state="parked", error=error)

    def states(self) -> list[str]:
        return [item.state for item in self.items.values()]


class Province:
    """The simulated platform behind a switch: `unplugged` breaks the line, `choking_on` names a session it answers with 500."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.unplugged = False
        self.choking_on = ""
        self.hanging_on = ""
        self.requests: list[str] = []
        self.transport = _Line(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.requests.append(f"{scope['method']} {path}")
        if self.hanging_on and self.hanging_on in path:
            await asyncio.Event().wait()
        if self.choking_on and self.choking_on in path:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, send)

    def calls(self, method: str) -> int:
        return sum(each.startswith(method) for each in self.requests)


class _Line(httpx.AsyncBaseTransport):
    def __init__(self, province: Province) -> None:
        self._province = province
        self._whole = httpx.ASGITransport(province)
        self.tried = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.tried += 1
        if self._province.unplugged:
            raise httpx.ConnectError("no route to host", request=request)
        return await self._whole.handle_async_request(request)


@dataclass
class Surroundings:
    clock: SimClock
    authority: Authority
    province: Province
    http: httpx.AsyncClient
    client: PlatformClient
    link: Link
    facts: list[Event]
    outbox: MemoryOutbox

    async def faults(self, mode: str) -> None:
        (await self.http.post("http://127.0.0.1/sim/faults", json={"mode": mode})).raise_for_status()

    async def go(self, seconds: float, step_s: float = 1.0) -> None:
        """Let time go by in steps, everything that becomes ready in between."""
        end = self.clock.now().boot_us + round(seconds * 1_000_000)
        while self.clock.now().boot_us < end:
            await self.clock.pass_time(step_s)
            await self.settle()

    async def settle(self) -> None:
        """Whatever can go on without time passing has gone on. No request of this line waits for anything outside this loop."""
        for _ in range(150):
            await asyncio.sleep(0)

    async def until(self, condition: Callable[[], bool], within_s: float, step_s: float = 1.0) -> None:
        """Let time go by until the condition holds; fails when `within_s` have passed."""
        end = self.clock.now().boot_us + round(within_s * 1_000_000)
        await self.settle()
        while not condition():
            assert self.clock.now().boot_us < end, f"not within {within_s} s"
            await self.go(step_s, step_s)


@pytest.fixture
async def around(tmp_path: Path, authority: Authority) -> AsyncIterator[Surroundings]:
    clock = SimClock(utc_us=SystemClock().now().utc_us)
    province = Province(build_platform(authority, tmp_path / "platform", ROOM, clock))
    facts: list[Event] = []

    async def report(event: Event) -> None:
        facts.append(event)

    async with httpx.AsyncClient(transport=province.transport) as http:
        client = PlatformClient("http://127.0.0.1/edge/v1", ROOM, http, deadline_s=1.0)
        yield Surroundings(clock, authority, province, http, client, Link(report, clock), facts, MemoryOutbox())
