"""Store and forward: what is owed arrives, whatever happens on the way, and nothing stands in the way of the rest."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.clock import US, SimClock
from edge.evidence.envelope import RECEIPT, EnvelopeError, open_envelope
from edge.sessions.events import Event, PlatformBack, PlatformLost
from edge.upload.courier import Courier
from edge.upload.heartbeat import Heartbeat
from edge.upload.link import Link, backoff
from tests.upload.conftest import MemoryOutbox

if TYPE_CHECKING:
    from tests.conftest import Device, Signed
    from tests.upload.conftest import Item, Surroundings

DAY = "S20260101-KD01-R01"


class Post:
    """A running courier, and the room's side of a receipt: verifies it as the room does."""

    def __init__(self, around: Surroundings, seed: int = 1, cap_s: float = 900.0, spread_s: float = 0.0) -> None:
        self.around = around
        self.taken: list[tuple[Item, dict[str, Any]]] = []
        self.useless = 0
        self.envelopes: list[bytes] = []
        self.courier = Courier(around.client, around.outbox, around.link, self.on_receipt, around.clock, random.Random(seed), cap_s=cap_s,
                               spread_s=spread_s)

    async def on_receipt(self, item: Item, envelope: bytes) -> bool:
        self.envelopes.append(envelope)
        try:
            payload, _ = open_envelope(envelope, self.around.authority.root_pem, RECEIPT, "platform", self.around.clock.now().utc_us)
        except EnvelopeError:
            payload = {}
        if payload.get("digest") != item.digest:
            self.useless += 1
            return False
        self.taken.append((item, payload))
        return True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Post]:
        task = asyncio.ensure_future(self.courier.run())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def put_open(around: Surroundings, device: Device, number: int) -> int:
    session = f"{DAY}-{number:02d}"
    signed = device.open(session, number, kind="drill")
    return around.outbox.add("session-open", session, None, signed.digest, signed.envelope)


def put_manifest(around: Surroundings, device: Device, number: int, revision: int = 1, **facts: Any) -> Signed:
    session = f"{DAY}-{number:02d}"
    signed = device.manifest(session, revision, number, kind="drill", **facts)
    around.outbox.add("session-manifest", session, revision, signed.digest, signed.envelope)
    return signed


async def test_announcements_go_before_manifests_and_each_gets_its_receipt(around: Surroundings, device: Device) -> None:
    one = put_manifest(around, device, 1)
    put_manifest(around, device, 1, 2, amends=one.digest)
    put_open(around, device, 1)
    async with Post(around).running() as post:
        await around.until(lambda: around.outbox.states() == ["done"] * 3, 1)
    assert [(item.kind, item.revision) for item, _ in post.taken] == [
        ("session-open", None), ("session-manifest", 1), ("session-manifest", 2)]
    assert all(receipt["verdict"] == "accepted" for _, receipt in post.taken)
    assert around.facts == []


async def test_what_is_the_devices_own_goes_its_own_way(around: Surroundings, device: Device) -> None:
    post, said = Post(around), device.rollover(device.signer.chain_pem)
    around.outbox.add("key-rollover", None, None, said.digest, said.envelope)
    stray = around.outbox.add("session-open", None, None, said.digest, said.envelope)
    async with post.running():
        await around.clock.pass_time(5)
    assert [(item.kind, payload["kind"]) for item, payload in post.taken] == [("key-rollover", "key-rollover")]
    assert around.outbox.items[stray].state == "parked" and "unknown kind" in around.outbox.items[stray].error


async def test_three_days_without_a_line_lose_nothing_and_give_nothing_up(around: Surroundings, device: Device) -> None:
    around.province.unplugged = True
    for number in range(1, 4):
        put_open(around, device, number)
        put_manifest(around, device, number)
    async with Post(around).running() as post:
        await around.go(3 * 86_400, step_s=60)
        tried = around.province.transport.tried
        assert 3 * 96 <= tried <= 3 * 400        # a try in 7.5 min in the mean: it neither hammers nor gives up
        assert around.outbox.states() == ["waiting"] * 6
        around.province.unplugged = False
        await around.until(lambda: around.outbox.states() == ["done"] * 6, 901)
    assert [item.kind for item, _ in post.taken] == ["session-open"] * 3 + ["session-manifest"] * 3
    assert [type(fact) for fact in around.facts] == [PlatformLost, PlatformBack]


async def test_a_day_of_errors_loses_nothing(around: Surroundings, device: Device) -> None:
    await around.faults("down")
    for number in range(1, 4):
        put_open(around, device, number)
    async with Post(around).running():
        await around.go(86_400, step_s=60)
        assert around.outbox.states() == ["waiting"] * 3 and all(item.attempts > 20 for item in around.outbox.items.values())
        assert [(type(fact), getattr(fact, "reason", "")) for fact in around.facts] == [(PlatformLost, "http_503")]
        await around.faults("ok")
        await around.until(lambda: around.outbox.states() == ["done"] * 3, 901, step_s=5)
    assert [type(fact) for fact in around.facts] == [PlatformLost, PlatformBack]


async def test_a_heartbeat_that_is_answered_ends_the_wait(around: Surroundings, device: Device) -> None:
    around.province.unplugged = True
    put_open(around, device, 1)
    heartbeat = Heartbeat(around.client, around.link, snapshot, around.clock, random.Random(2))
    async with Post(around).running():
        await around.go(86_400, step_s=60)
        around.province.unplugged = False
        await heartbeat.step()
        await around.until(lambda: around.outbox.states() == ["done"], 0.1)


def snapshot() -> dict[str, Any]:
    return {"controller": {"version": "0", "uptime_s": 1, "boot_id": "b"}, "state": "idle", "clock": {"synced": True}, "sources": [],
            "storage": {"free_bytes": 1, "write_ok": True}}


async def test_an_item_that_the_platform_chokes_on_does_not_block_the_rest(around: Surroundings, device: Device) -> None:
    around.province.choking_on = f"{DAY}-01"
    for number in range(1, 6):
        put_open(around, device, number)
    async with Post(around).running() as post:
        await around.until(lambda: around.outbox.states() == ["waiting"] + ["done"] * 4, 5)
        await around.go(3600, step_s=10)
        put_open(around, device, 6)
        post.courier.nudge()
        await around.until(lambda: around.outbox.states()[5] == "done", 31)
        around.province.choking_on = ""
        await around.until(lambda: around.outbox.states() == ["done"] * 6, 901, step_s=10)


async def test_an_item_at_which_the_platform_hangs_does_not_block_the_rest(around: Surroundings, device: Device) -> None:
    """The call's own deadline runs in real time: one second of it passes."""
    around.province.hanging_on = f"{DAY}-01"
    put_open(around, device, 1)
    put_open(around, device, 2)
    post = Post(around)
    assert await post.courier.step() == 0.0
    assert around.outbox.items[1].attempts == 1 and "timeout" in around.outbox.items[1].error
    await around.clock.pass_time(await post.courier.step())     # the line rests for a moment
    assert await post.courier.step() == 0.0
    assert around.outbox.states() == ["waiting", "done"]


async def test_heartbeats_do_not_wait_for_documents(around: Surroundings, device: Device) -> None:
    around.province.hanging_on = f"{DAY}-01"
    put_open(around, device, 1)
    heartbeat = Heartbeat(around.client, around.link, snapshot, around.clock, random.Random(2))
    async with Post(around).running():
        await around.settle()
        assert around.province.calls("PUT") == 1
        await heartbeat.step()
    assert around.province.calls("POST") == 1 and around.link.status.state == "up"


@pytest.mark.parametrize("spoil", ["digest", "bytes", "kind", "empty"])
async def test_an_item_damaged_in_our_own_store_is_set_aside_and_the_rest_flows(around: Surroundings, device: Device, spoil: str) -> None:
    signed = device.open(f"{DAY}-01", 1, kind="drill")
    body = {"bytes": b"\x00" * 40 + signed.envelope[40:], "empty": b""}.get(spoil, signed.envelope)
    around.outbox.add("session-close" if spoil == "kind" else "session-open", f"{DAY}-01", None,
                      "0" * 64 if spoil == "digest" else signed.digest, body)
    put_open(around, device, 2)
    async with Post(around).running():
        await around.until(lambda: around.outbox.states() == ["parked", "done"], 1)
    assert "kept" in around.outbox.items[1].error
    assert around.province.calls("PUT") == 1


async def test_a_refused_item_is_parked_with_the_platforms_words_and_the_rest_flows(around: Surroundings, device: Device) -> None:
    put_open(around, device, 1)
    other = device.open(f"{DAY}-01", 1, kind="drill", site="KD02")
    around.outbox.add("session-open", f"{DAY}-01", None, other.digest, other.envelope)
    put_manifest(around, device, 1)
    async with Post(around).running():
        await around.until(lambda: around.outbox.states() == ["done", "parked", "done"], 1)
        assert "409" in around.outbox.items[2].error and "other-digest" in around.outbox.items[2].error
        asked = around.province.calls("PUT")
        await around.go(7200, step_s=60)
        assert around.province.calls("PUT") == asked        # never again by itself
    assert around.facts == [] and around.link.status.state == "up"


async def test_a_manifest_under_examination_is_asked_for_until_it_is_decided(around: Surroundings, device: Device) -> None:
    await around.faults("pending")
    put_manifest(around, device, 1)
    async with Post(around).running() as post:
        await around.go(120)
        assert around.province.calls("PUT") == 1 and around.province.calls("GET") > 2 and post.taken == []
        await around.faults("ok")
        await around.until(lambda: around.outbox.states() == ["done"], 901, step_s=5)
    assert post.taken[0][1]["verdict"] == "accepted" and around.province.calls("PUT") == 1


async def test_a_restart_while_a_manifest_is_examined(around: Surroundings, device: Device) -> None:
    await around.faults("pending")
    put_manifest(around, device, 1)
    async with Post(around).running():
        await around.until(lambda: around.outbox.items[1].attempts == 1, 1)
    await around.faults("ok")
    async with Post(around).running() as post:
        await around.until(lambda: around.outbox.states() == ["done"], 10)
    assert post.taken[0][1]["verdict"] == "accepted"


@pytest.mark.parametrize("mode", ["wrong-digest", "forged-signature", "garbage"])
async def test_an_answer_that_proves_nothing_closes_nothing(around: Surroundings, device: Device, mode: str) -> None:
    await around.faults(mode)
    put_open(around, device, 1)
    async with Post(around).running() as post:
        await around.until(lambda: around.outbox.items[1].attempts >= 3, 60)
        assert around.outbox.states() == ["waiting"] and post.taken == [] and (post.useless >= 3) == (mode != "garbage")
        await around.faults("ok")
        await around.until(lambda: around.outbox.states() == ["done"], 901)
    assert len(post.taken) == 1


async def test_a_crash_between_answer_and_journal_brings_the_same_receipt_again(around: Surroundings, device: Device) -> None:
    put_open(around, device, 1)
    post = Post(around)

    async def dies(item: Item, envelope: bytes) -> bool:
        post.envelopes.append(envelope)
        raise SystemError("the power went")
    with pytest.raises(SystemError):
        await Courier(around.client, around.outbox, around.link, dies, around.clock, random.Random(1)).run()
    assert around.outbox.states() == ["waiting"]
    async with post.running():
        await around.until(lambda: around.outbox.states() == ["done"], 1)
    assert len(post.envelopes) == 2 and post.envelopes[0] == post.envelopes[1]


async def test_the_courier_wakes_by_itself_and_at_once_when_nudged(around: Surroundings, device: Device) -> None:
    async with Post(around).running() as post:
        await around.go(60)
        put_open(around, device, 1)
        await around.until(lambda: around.outbox.states() == ["done"], 2)       # nobody told it
        put_open(around, device, 2)
        post.courier.nudge()
        await around.until(lambda: around.outbox.states() == ["done"] * 2, 0.1)


async def test_a_room_that_is_not_let_in_asks_slowly(around: Surroundings, device: Device) -> None:
    await around.faults("denied")
    put_open(around, device, 1)
    async with Post(around).running():
        await around.go(86_400, step_s=60)
        tried = around.province.transport.tried
        assert 90 <= tried <= 200 and around.outbox.states() == ["waiting"]
        assert [(type(fact), getattr(fact, "reason", "")) for fact in around.facts] == [(PlatformLost, "http_403")]
        await around.faults("ok")
        await around.until(lambda: around.outbox.states() == ["done"], 901, step_s=5)


@pytest.mark.parametrize("years", [-3, 3])
async def test_a_wall_clock_set_anew_holds_nothing_up(around: Surroundings, device: Device, years: int) -> None:
    """Waiting goes by the boot clock."""
    around.province.choking_on = DAY
    put_manifest(around, device, 1)
    async with Post(around).running():
        await around.go(60)
        assert around.outbox.states() == ["waiting"]
        around.clock.step_wall(years * 365 * 86_400 * US)
        around.province.choking_on = ""
        before = around.province.calls("PUT")
        await around.until(lambda: around.province.calls("PUT") > before, 130)


async def test_retry_after_is_honoured(around: Surroundings, device: Device) -> None:
    put_open(around, device, 1)
    post = Post(around)

    async def busy(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 429, "headers": [(b"retry-after", b"1200")]})
        await send({"type": "http.response.body", "body": b""})
    app, around.province.app = around.province.app, busy
    await post.courier.step()
    around.province.app = app
    due = around.outbox.items[1].due
    assert due is not None and 1200 * US <= due.us_since(around.clock.now()) <= 1201 * US


@given(attempts=st.integers(0, 100_000), seed=st.integers())
def test_backoff_stays_within_its_bounds(attempts: int, seed: int) -> None:
    wait_s = backoff(attempts, 1.0, 900.0, random.Random(seed))
    assert 0.0 <= wait_s <= min(900.0, 2.0 ** min(attempts, 40))


def test_a_hundred_rooms_that_failed_together_do_not_come_back_together() -> None:
    waits = sorted(backoff(8, 1.0, 900.0, random.Random(room)) for room in range(100))
    busiest = max(sum(begin <= wait < begin + 5 for wait in waits) for begin in range(0, 256, 5))
    assert busiest <= 10 and waits[-1] - waits[0] > 200


# ---- a province at the end of an exam (U14) -----------------------------------------------------------------------------

class Door:
    """A platform that answers nothing else but when it was knocked at: one line for each room, times by the simulated clock."""

    def __init__(self, clock: SimClock) -> None:
        self.clock, self.knocked = clock, list[float]()
        self._begun = clock.now().boot_us

    async def _put(self, *arguments: Any) -> bytes:
        self.knocked.append((self.clock.now().boot_us - self._begun) / US)
        return b"a receipt"

    put_open = put_manifest = _put


async def province(count: int, spread_s: float, kind: str = "session-manifest") -> tuple[list[float], list[int]]:
    """`count` rooms finish at the same moment; when each knocked, and how many attempts each made."""
    clock = SimClock()
    door, rooms, tasks = Door(clock), [MemoryOutbox() for _ in range(count)], list[asyncio.Task[None]]()
    body = json.dumps({"payload": base64.b64encode(b"{}").decode()}).encode()

    async def good(item: Any, envelope: bytes) -> bool:
        return True

    async def told(event: Event) -> None:
        """Nobody listens."""

    for number, outbox in enumerate(rooms):
        outbox.add(kind, f"{DAY}-01", 1 if kind == "session-manifest" else None, hashlib.sha256(b"{}").hexdigest(), body)
        courier: Courier[Any] = Courier(door, outbox, Link(told, clock), good, clock, random.Random(number),  # type: ignore[arg-type]
                                        spread_s=spread_s)
        tasks.append(asyncio.ensure_future(courier.run()))
    for _ in range(20):
        await asyncio.sleep(0)
    for _ in range(round(spread_s) + 5):
        await clock.pass_time(1)
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [each.states() for each in rooms] == [["done"]] * count
    return door.knocked, [item.attempts for each in rooms for item in each.items.values()]


async def test_u14_a_hundred_rooms_that_finish_at_once_do_not_call_at_once() -> None:
    """Without the spread all hundred stand at the door in the same second; with it no second of thirty sees more than a dozen."""
    burst, _ = await province(100, 0)
    assert sum(at < 1 for at in burst) == 100, "else this test shows nothing"
    spread, attempts = await province(100, 30)
    in_second = Counter(int(at) for at in spread)
    assert max(in_second.values()) <= 12 and len(in_second) >= 25 and max(spread) <= 32, sorted(in_second.items())
    assert attempts == [0] * 100, "waiting for one's turn is no attempt"


async def test_an_announcement_waits_for_nobody() -> None:
    knocked, _ = await province(20, 30, "session-open")
    assert max(knocked) < 1


async def test_a_manifest_that_waits_its_turn_stands_in_nobodys_way(around: Surroundings, device: Device) -> None:
    put_manifest(around, device, 1)
    async with Post(around, spread_s=30).running() as post:
        await around.go(0.1, 0.1)
        put_open(around, device, 2)
        await around.until(lambda: around.outbox.items[2].state == "done", 2)
        assert around.outbox.items[1].state == "waiting"
        await around.until(lambda: around.outbox.items[1].state == "done", 31)
        assert [item.kind for item, _ in post.taken] == ["session-open", "session-manifest"]
