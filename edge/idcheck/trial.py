"""One look at a reader by an installer: which rate, which module, and how long each step with a card takes.

Uses the same line, frames and card rules as the driver, but tells everything and repeats nothing on its own account: a step that
fails is shown. Keeps of a card what is masked. Takes the port for itself while it looks. Caller: `doctor_reader`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from edge.clock import US, Clock
from edge.idcheck import card, wire
from edge.idcheck.line import Fault, Line, NoAnswer
from edge.idcheck.port import Port, PortLost
from edge.idcheck.wire import Answer, Command
from edge.sessions.identity import mask_name, mask_number

POLL_S: Final = 0.3
_CHINA: Final = timedelta(hours=8)
STEPS: Final = (("find", wire.FIND), ("select", wire.SELECT), ("read", wire.READ), ("address", wire.NEW_ADDRESS),
                ("number", wire.MANAGEMENT))


@dataclass(frozen=True, slots=True)
class Step:
    """One command: from its first byte out to the last byte in. `word`: a word of `wire.STATUS_WORDS`, or `no-answer`."""

    name: str
    ms: int
    word: str


@dataclass(frozen=True, slots=True)
class Look:
    """What was found. `fault`: a word of `LOST_WORDS`, "" if the reader answers; `rate` 0: the wire has none; `card`: masked, ""
    if none was read; `card_fault`: why a card that was laid down was not read, or is not believed; `noise`: bytes of no frame."""

    port: str
    configured: int
    fault: str = ""
    rate: int = 0
    module: str = ""
    steps: tuple[Step, ...] = ()
    card: str = ""
    card_fault: str = ""
    noise: int = 0

    @property
    def card_seen(self) -> bool:
        return bool(self.card or self.card_fault)


async def look(port: Port, clock: Clock, seconds: float, allow_demo: bool, tell: Callable[[str], None]) -> Look:
    """Open, greet, and read a card that is laid down within `seconds` (0: no card). Faults are in the Look, none is raised."""
    line, found, before = Line(port, clock), Look(port.name, port.rates[0]), 0

    async def unheard(word: str) -> None:
        if len(port.rates) > 1:
            tell(f"{word} at {port.rates[0]}; trying {', '.join(map(str, port.rates[1:]))}")

    try:
        rate, module = await line.tune(port.rates, unheard)
        before = line.dropped               # what comes at a wrong rate is no noise
        hello, _ = await _step(line, clock, "status", wire.STATUS)
        found = replace(found, rate=rate, module=module, steps=(hello,))
        if seconds > 0:
            tell(f"it answers; lay a card on the reader now, and leave it there ({seconds:.0f} s)")
            found = await _card(line, clock, found, clock.now().boot_us + round(seconds * US), allow_demo)
    except (PortLost, Fault) as fault:
        found = replace(found, fault=fault.word)
    finally:
        await line.close()
    return replace(found, noise=line.dropped - before)


async def _card(line: Line, clock: Clock, found: Look, until_us: int, allow_demo: bool) -> Look:
    """Look for a card until there is one that can be read, or the time is over; the last attempt counts."""
    hello = found.steps
    while not found.card and clock.now().boot_us < until_us:
        steps, answers = await _steps(line, clock)
        if steps[0].word == "found":
            found = replace(_judged(found, answers, clock, allow_demo), steps=hello + steps)
            if found.card_fault in card.CARD_WORDS:
                break                   # read without a fault, and not believed: the next reading would say the same
        elif not found.card_seen:
            found = replace(found, steps=hello + steps)
        if not found.card:
            await clock.sleep(POLL_S)
    return found


async def _steps(line: Line, clock: Clock) -> tuple[tuple[Step, ...], dict[str, Answer]]:
    """The commands in their order, up to the first of the first three that fails."""
    steps: list[Step] = []
    answers: dict[str, Answer] = {}
    for name, command in STEPS:
        step, answer = await _step(line, clock, name, command)
        steps.append(step)
        if answer is None or answer.sw3 not in (wire.OK, wire.FOUND, wire.NO_SUCH_ITEM):
            if name in ("find", "select", "read"):
                break
            continue
        answers[name] = answer
    return tuple(steps), answers


async def _step(line: Line, clock: Clock, name: str, command: Command) -> tuple[Step, Answer | None]:
    began, answer = clock.now(), None
    with suppress(NoAnswer):
        answer = await line.ask(command)
    return Step(name, clock.now().us_since(began) // 1000, wire.status(answer.sw3)[1] if answer else "no-answer"), answer


def _judged(found: Look, answers: dict[str, Answer], clock: Clock, allow_demo: bool) -> Look:
    if "read" not in answers:
        return replace(found, card_fault="read-failed")
    today = (datetime.fromtimestamp(clock.now().utc_us // US, UTC) + _CHINA).date()
    try:
        who = card.decode(wire.base_message(answers["read"].data)[0], today=today, allow_demo=allow_demo)
    except wire.WireError:
        return replace(found, card_fault="data-length-wrong")
    except card.CardError as error:
        return replace(found, card_fault=error.word)
    return replace(found, card=f"{who.document.value}, {mask_name(who.name)}, {mask_number(who.number)}", card_fault="")
