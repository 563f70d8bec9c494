"""Stamps, the simulated clock, and the one form of time in signed documents."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.clock import US, SimClock, Stamp, SystemClock, iso_utc, parse_utc


@given(st.integers(0, 4_000_000_000 * US))
def test_iso_and_back_to_the_millisecond(utc_us: int) -> None:
    text = iso_utc(utc_us)
    assert text.endswith("Z") and len(text) == 24
    assert parse_utc(text) == utc_us // 1000 * 1000


def test_a_time_without_an_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="offset"):
        parse_utc("2026-11-26T14:00:00")
    assert parse_utc("2026-11-26T14:00:00+08:00") == parse_utc("2026-11-26T06:00:00Z")


def test_durations_follow_the_boot_clock_within_a_boot_and_the_wall_clock_across_boots() -> None:
    clock = SimClock()
    before = clock.now()
    clock.step_wall(-3600 * US)
    assert clock.now().us_since(before) == 0
    clock.reboot("sim-boot-2", 60 * US)
    assert clock.now().us_since(before) == -3540 * US
    assert clock.now().boot_us == 5 * US


def test_the_system_clock_is_this_machines() -> None:
    first, second = SystemClock().now(), SystemClock().now()
    assert first.boot_id == second.boot_id
    assert 0 <= second.boot_us - first.boot_us < 5 * US
    assert first < Stamp(first.utc_us + 1, 0, "")


@pytest.mark.parametrize("text", ["", "now", "2026-13-01T00:00:00Z", "2026-11-26", "26.11.2026 14:00+08:00"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_utc(text)


async def test_who_went_away_does_not_hold_up_those_who_wait() -> None:
    clock = SimClock()
    gone, waits = asyncio.create_task(clock.sleep(5)), asyncio.create_task(clock.sleep(6))
    await asyncio.sleep(0)
    gone.cancel()
    await clock.pass_time(6)
    assert gone.cancelled() and waits.done()


async def test_sleepers_wake_in_order_each_at_its_own_moment() -> None:
    clock, woke = SimClock(), list[tuple[str, int]]()
    began = clock.now()

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woke.append((name, clock.now().us_since(began)))

    tasks = [asyncio.create_task(sleeper(name, seconds)) for name, seconds in (("late", 30), ("early", 10), ("later", 30.5))]
    await asyncio.sleep(0)
    await clock.pass_time(30)
    assert woke == [("early", 10 * US), ("late", 30 * US)]
    await clock.pass_time(1)
    assert woke[-1] == ("later", 30_500_000)
    await asyncio.gather(*tasks)
