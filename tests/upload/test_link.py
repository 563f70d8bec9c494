"""One verdict on the line, told once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge.clock import SimClock
from edge.sessions.events import Event, PlatformBack, PlatformLost
from edge.upload.link import Link

if TYPE_CHECKING:
    from tests.upload.conftest import Surroundings


async def test_a_hiccup_is_no_fact_and_a_loss_is_told_once(around: Surroundings) -> None:
    link, clock, facts = around.link, around.clock, around.facts
    states = [link.status.state]
    await link.failed("timeout")
    await clock.pass_time(4)
    await link.failed("timeout")
    states.append(link.status.state)
    await link.answered()
    states.append(link.status.state)
    assert states == ["unknown", "failing", "up"] and facts == []
    await link.failed("timeout")
    for reason in ("refused", "http_503", "refused"):
        await clock.pass_time(5)
        await link.failed(reason)
    assert facts == [PlatformLost(at=facts[0].at, reason="refused")] and link.status.since == facts[0].at
    await clock.pass_time(60)
    await link.answered()
    await link.answered()
    assert facts[1:] == [PlatformBack(at=clock.now())]
    assert link.status.last_answer == clock.now()


async def test_what_was_lost_before_a_restart_is_told_to_be_back() -> None:
    facts: list[Event] = []

    async def report(event: Event) -> None:
        facts.append(event)
    link = Link(report, SimClock(), lost=True)
    await link.failed("refused")
    assert facts == []
    await link.answered()
    assert [type(fact) for fact in facts] == [PlatformBack]


async def test_sleepers_are_woken_when_an_answer_comes_after_a_failure(around: Surroundings) -> None:
    woken: list[bool] = []
    around.link.on_back(woken.append)
    await around.link.answered()
    assert woken == []
    await around.link.failed("timeout")
    await around.link.answered()
    await around.link.failed("timeout")
    await around.clock.pass_time(6)
    await around.link.failed("timeout")
    await around.link.answered()
    assert woken == [False, True]
