"""Fetches the room's plans and rosters: every ten minutes, after a loss of the line, and when asked.

Assumes that whoever takes plans and rosters can bear to get the same one twice (after a restart it does). Runs as one task of the room.
A roster is fetched from 24 hours before its session to 12 hours after its planned end; an unchanged one costs a few bytes (ETag).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from typing import Any

from edge.clock import US, Clock, parse_utc
from edge.upload.link import Link, backoff, pause
from edge.upload.platform import PlatformClient, PlatformDown, PlatformError, PlatformRefused

log = logging.getLogger(__name__)

_DAY_US = 86_400 * US
_BEFORE_US = _DAY_US
_AFTER_US = _DAY_US // 2
_DAYS_AHEAD = 14

OnPlans = Callable[[list[dict[str, Any]]], Awaitable[None]]
"""Takes all plans from yesterday to 14 days ahead (shape: schema Plan; defaults filled in). A plan no longer listed is simply missing."""
OnRoster = Callable[[str, bytes], Awaitable[bool]]
"""Takes a plan id and the roster's envelope, unverified. False: it could not be used now; it is brought again at the next round."""


class Timetable:
    """`every_s`: time between two rounds while all is well (±10 %, so that a province's rooms do not ask in step)."""

    def __init__(self, client: PlatformClient, link: Link, on_plans: OnPlans, on_roster: OnRoster, clock: Clock, rng: random.Random,
                 *, every_s: float = 600.0) -> None:
        self._client = client
        self._link = link
        self._on_plans = on_plans
        self._on_roster = on_roster
        self._clock = clock
        self._rng = rng
        self._every_s = every_s
        self._woken = asyncio.Event()
        self._failures = 0
        self._plans: list[dict[str, Any]] = []
        link.on_back(lambda was_lost: self.refresh())

    def refresh(self) -> None:
        """Ask the platform now."""
        self._woken.set()

    async def run(self) -> None:
        """For ever. Leaves only with an error of the callables, which are the room's to judge."""
        while True:
            self._woken.clear()
            wait_s = await self.step()
            if self._failures:          # its own first answer called the line back, before another call failed: no reason to hurry
                self._woken.clear()
            await pause(self._clock, wait_s, self._woken)

    async def step(self) -> float:
        """One round. Returns the seconds until the next."""
        try:
            await self._round()
        except PlatformRefused as error:
            await self._link.answered()
            log.warning("plans_refused status=%d code=%s", error.status, error.code or "-")
        except PlatformError as error:
            await self._link.failed(error.reason)
        else:
            self._failures = 0
            return self._every_s * self._rng.uniform(0.9, 1.1)
        self._failures += 1
        return backoff(self._failures, 1.0, self._every_s, self._rng)

    async def _round(self) -> None:
        now_us = self._clock.now().utc_us
        plans = await self._client.plans(_utc_date(now_us - _DAY_US), _utc_date(now_us + _DAYS_AHEAD * _DAY_US))
        await self._link.answered()
        if plans is not None:
            await self._on_plans(plans)
            self._plans = plans
        fault: PlatformDown | None = None
        for plan in self._plans:
            if _wanted(plan, now_us):
                try:
                    await self._fetch_roster(str(plan["plan_id"]))
                except PlatformDown as error:
                    fault = error       # the other rosters may still come
                    if not error.reached:
                        break
        if fault is not None:
            raise fault

    async def _fetch_roster(self, plan_id: str) -> None:
        try:
            envelope = await self._client.roster(plan_id)
        except PlatformRefused as error:
            log.warning("roster_refused plan=%s status=%d code=%s", plan_id, error.status, error.code or "-")
            return
        if envelope is not None and not await self._on_roster(plan_id, envelope):
            self._client.forget_roster(plan_id)


def _wanted(plan: dict[str, Any], now_us: int) -> bool:
    start_us = parse_utc(plan["scheduled_start"])
    end_us = start_us + int(plan["duration_min"]) * 60 * US
    return plan["state"] != "cancelled" and start_us - _BEFORE_US <= now_us <= end_us + _AFTER_US


def _utc_date(utc_us: int) -> date:
    return datetime.fromtimestamp(utc_us / US, UTC).date()
