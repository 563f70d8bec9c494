"""Carries the outbox to the platform and brings the receipts back: at least once, with no limit of attempts.

Assumes that the outbox is durable and gives the items in order of priority, that an envelope is stored before it is sent, and that
a PUT of the same bytes is answered with the same receipt: so a crash at any moment only makes it send again.
Runs as one task of the room. What it does with a failure follows evidence rules of store and forward:

- no connection: the whole line rests (1 s growing to `cap_s`, full jitter) and the same item is first again;
- an unusable answer (5xx, 429, time-out, garbage): that item waits by its own attempts, the line rests for a moment, the rest flows;
- not let in (401, 403, TLS): slowly again;
- refused (409, 412, 422, 400, 413, other 4xx), or unreadable in our own store: parked with the reason, kept, never in the way;
- an answer that proves nothing (`on_receipt` said False): as an unusable answer.

A whole province seals at the same minute, so what is made then (manifests, disposition records) waits for its first try a random time
within `spread_s`; an announcement never does: it must be held before the first candidate is in.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from edge.clock import US, Clock, Stamp
from edge.upload.link import Link, backoff, pause
from edge.upload.platform import PlatformClient, PlatformDenied, PlatformDown, PlatformRefused

log = logging.getLogger(__name__)

SESSION_OPEN = "session-open"
SESSION_MANIFEST = "session-manifest"
SESSION_DISPOSITION = "session-disposition"
KEY_ROLLOVER = "key-rollover"
DEVICE_CHECKPOINT = "device-checkpoint"

_SPREAD = (SESSION_MANIFEST, SESSION_DISPOSITION)
"""What all rooms make at the same minute."""

_BASE_S = 1.0
_ANSWERED_REST_S = 30.0
"""Longest rest of the line after an answer, however useless: the fault may be one item's, and the rest must flow."""


class OutboxItem(Protocol):
    """A signed envelope on its way. `digest`: hex SHA-256 of its payload; `revision`: of a manifest, else None; `session`: None if it is
    the device's own (a key-rollover, a checkpoint)."""

    @property
    def id(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def session(self) -> str | None: ...
    @property
    def revision(self) -> int | None: ...
    @property
    def digest(self) -> str: ...
    @property
    def body(self) -> bytes: ...
    @property
    def attempts(self) -> int: ...


ItemT = TypeVar("ItemT", bound=OutboxItem)
ItemT_co = TypeVar("ItemT_co", bound=OutboxItem, covariant=True)


class OutboxPort(Protocol[ItemT_co]):
    """What the courier asks of the outbox (`storage.outbox`). Every change is durable when the call returns, but for `due`."""

    async def next_due(self, now: Stamp) -> ItemT_co | None:
        """The item to send next among those that are due and not parked, in order of priority; None if there is none."""

    async def done(self, item_id: int) -> None:
        """Its receipt is in the journal. No error if the item is gone already."""

    async def put_back(self, item_id: int, due: Stamp, error: str) -> None:
        """Not before `due` again (by the boot clock; a restart may forget it); one attempt more; `error` for the page."""

    def defer(self, item_id: int, due: Stamp) -> None:
        """Not before `due`; that is no attempt. A restart may forget it."""

    async def park(self, item_id: int, error: str) -> None:
        """Keep it, never give it out by itself again, and show it to people with its `error`."""


class Courier(Generic[ItemT]):
    """One worker, one item at a time. `cap_s`: longest wait between two attempts; `poll_s`: how often it looks without being nudged;
    `spread_s`: within which a manifest's first try is put off, at random."""

    def __init__(self, client: PlatformClient, outbox: OutboxPort[ItemT], link: Link,
                 on_receipt: Callable[[ItemT, bytes], Awaitable[bool]], clock: Clock, rng: random.Random,
                 *, cap_s: float = 900.0, poll_s: float = 1.0,
                 spread_s: float = 0.0) -> None:
        """`on_receipt` takes an item and its receipt's envelope, unverified. True: it proves something and is in the journal;
        False: it proves nothing, and the item is still owed.
        """
        self._client = client
        self._outbox = outbox
        self._link = link
        self._on_receipt = on_receipt
        self._clock = clock
        self._rng = rng
        self._cap_s = cap_s
        self._poll_s = poll_s
        self._spread_s = spread_s
        self._spread: set[int] = set()          # items whose first try was put off already
        self._woken = asyncio.Event()
        self._failures = 0                      # in a row, of the line
        self._rest_until: Stamp | None = None
        self._undecided: set[int] = set()       # answered with 202; after a restart it is simply put again
        link.on_back(self._resume)

    def nudge(self) -> None:
        """Something new is in the outbox: look now. It does not cut a rest of the line short."""
        self._woken.set()

    async def run(self) -> None:
        """For ever. Leaves only with an error of the outbox or of `on_receipt`, which are the room's to judge."""
        while True:
            self._woken.clear()
            wait_s = await self.step()
            if wait_s > 0:
                await pause(self._clock, wait_s, self._woken)

    async def step(self) -> float:
        """Deal with at most one item. Returns the seconds until it is worth looking again; 0: at once."""
        now = self._clock.now()
        if self._rest_until is not None and self._rest_until.us_since(now) > 0:
            return self._rest_until.us_since(now) / US
        self._rest_until = None
        item = await self._outbox.next_due(now)
        if item is None:
            return self._poll_s
        if self._spread_s and item.kind in _SPREAD and item.attempts == 0 and item.id not in self._spread:
            self._spread.add(item.id)
            self._outbox.defer(item.id, now.plus(round(self._rng.uniform(0, self._spread_s) * US)))
            return 0.0
        await self._deliver(item)
        return 0.0

    def _resume(self, was_lost: bool) -> None:
        self._failures = 0
        self._rest_until = None
        self._woken.set()

    async def _deliver(self, item: ItemT) -> None:
        fault = unreadable(item)
        if fault is not None:
            await self._park(item, fault)
            return
        try:
            envelope = await self._send(item)
        except PlatformDown as error:
            await self._down(item, error)
        except PlatformDenied as error:
            await self._denied(item, error)
        except PlatformRefused as error:
            await self._answered()
            if error.status in (404, 410) and item.id in self._undecided:   # asked for a receipt of what it no longer holds: put it again
                self._undecided.discard(item.id)
                await self._retry(item, self._wait(item.attempts), str(error))
            else:
                await self._park(item, str(error))
        else:
            await self._answered()
            await self._take(item, envelope)

    async def _send(self, item: ItemT) -> bytes | None:
        if item.kind == DEVICE_CHECKPOINT:
            return await self._client.put_checkpoint(item.body, item.digest)
        if item.session is None:
            return await self._client.put_rollover(item.body, item.digest)
        if item.kind == SESSION_DISPOSITION:
            return await self._client.put_disposition(item.session, item.body, item.digest)
        if item.revision is None:
            return await self._client.put_open(item.session, item.body, item.digest)
        if item.id in self._undecided:
            return await self._client.receipt(item.session, item.revision)
        return await self._client.put_manifest(item.session, item.revision, item.body, item.digest)

    async def _take(self, item: ItemT, envelope: bytes | None) -> None:
        if envelope is None:
            self._undecided.add(item.id)
            await self._retry(item, self._wait(item.attempts), "stored by the platform and not yet checked")
            return
        self._undecided.discard(item.id)
        self._spread.discard(item.id)
        if await self._on_receipt(item, envelope):
            await self._outbox.done(item.id)
            log.info("delivered kind=%s session=%s revision=%s attempts=%d", item.kind, item.session, item.revision or "-",
                     item.attempts + 1)
        else:
            log.warning("receipt_proves_nothing kind=%s session=%s revision=%s", item.kind, item.session, item.revision or "-")
            await self._retry(item, self._wait(item.attempts), "the platform's answer proves nothing")

    async def _answered(self) -> None:
        self._failures = 0
        await self._link.answered()

    async def _down(self, item: ItemT, error: PlatformDown) -> None:
        await self._link.failed(error.reason)
        rest_s = self._wait(self._failures)
        self._failures += 1
        if error.reached:
            rest_s = min(rest_s, _ANSWERED_REST_S)
            wait_s = rest_s + max(self._wait(item.attempts), float(error.retry_after_s or 0))   # after the rest, another's turn
            await self._retry(item, wait_s, str(error))
        else:
            await self._retry(item, 0.0, str(error))
        self._rest(rest_s)

    async def _denied(self, item: ItemT, error: PlatformDenied) -> None:
        await self._link.failed(error.reason)
        await self._retry(item, 0.0, str(error))
        self._rest(self._rng.uniform(self._cap_s / 2, self._cap_s))

    def _wait(self, attempts: int) -> float:
        return backoff(attempts, _BASE_S, self._cap_s, self._rng)

    def _rest(self, seconds: float) -> None:
        self._rest_until = self._clock.now().plus(round(seconds * US))

    async def _retry(self, item: ItemT, wait_s: float, error: str) -> None:
        await self._outbox.put_back(item.id, self._clock.now().plus(round(wait_s * US)), error)

    async def _park(self, item: ItemT, error: str) -> None:
        self._undecided.discard(item.id)
        log.warning("outbox_item_parked kind=%s session=%s revision=%s", item.kind, item.session, item.revision or "-")
        await self._outbox.park(item.id, error)


def unreadable(item: OutboxItem) -> str | None:
    """What is wrong with an item as our own store gives it, in plain words; None if it can be sent."""
    known = (item.kind in (SESSION_OPEN, SESSION_DISPOSITION) and item.revision is None) \
        or (item.kind == SESSION_MANIFEST and item.revision is not None)
    known = known if item.session is not None else item.kind in (KEY_ROLLOVER, DEVICE_CHECKPOINT)
    if not known:
        return f"an outbox item of an unknown kind ({item.kind}); it is kept"
    try:
        payload = base64.b64decode(json.loads(item.body)["payload"], validate=True)
    except (ValueError, KeyError, TypeError):
        return "the stored envelope cannot be read; it is kept, and was not sent"
    if hashlib.sha256(payload).hexdigest() != item.digest:
        return "the stored envelope is not the one that was signed (its digest differs); it is kept, and was not sent"
    return None
