"""Question and answer over a port: one command, its answer in time, and what it means when none comes.

A module that does not answer is asked again; three silences in a row, or four seconds without any answer, are a `Fault`. Half a
frame, noise and frames that nobody asked for cost no more than their time. Knows nothing of cards. Callers: `reader`, `trial`.
Source of the times: published drivers of the same modules; the figures are those that most of them share, shortened where the
status board's five seconds would pass.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from edge.clock import US, Clock
from edge.idcheck import wire
from edge.idcheck.port import PORT_WORDS, Port
from edge.idcheck.wire import Answer, Command, Kind

FIRST_BYTE_S: Final = 1.0
SLOW_S: Final[Mapping[Command, float]] = {wire.READ: 2.5}
"""Commands at which the module talks to the card for long; drivers wait 2 to 3 s for the first byte."""
SEARCH_S: Final = 0.4
"""First byte of a status while looking for the bit rate. A module answers a status within a tenth of that."""
GAP_S: Final = 0.5
PATIENCE_S: Final = 4.0
"""From the first command that got no answer to the fault. The longest answer takes 1.35 s at the lowest rate."""
SLICE_S: Final = 0.1
"""How long a stop may have to wait for the port's thread."""
RESEND_AFTER_S: Final = 0.05
SILENCES: Final = 3

UNHEARD: Final = frozenset({"silent", "garbled"})
"""Faults that a wrong bit rate causes too."""
LOST_WORDS: Final = PORT_WORDS | UNHEARD | {"self-test-failed", "not-authorised"}


class Fault(Exception):
    """The reader is of no use now. `word`: one of `LOST_WORDS`."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class NoAnswer(Exception):
    """Nothing, or nothing that makes sense, came within the time."""


class Line:
    """A port with a module at its far end. Everything but `close` may raise PortLost, every question Fault."""

    def __init__(self, port: Port, clock: Clock) -> None:
        self._port = port
        self._clock = clock
        self._frames = wire.Deframer()
        self._silences = 0
        self._unanswered_since: float | None = None

    @property
    def dropped(self) -> int:
        """Bytes so far that belonged to no frame: noise."""
        return self._frames.dropped

    async def open(self, rate: int | None = None) -> None:
        """Open the port anew, at one of its rates (None: the configured one)."""
        self._silences, self._unanswered_since = 0, None
        await self._port.open(rate)

    async def close(self) -> None:
        await self._port.close()

    async def tune(self, rates: Sequence[int], unheard: Callable[[str], Awaitable[None]]) -> tuple[int, str]:
        """Open at the first of these rates at which the module answers: the rate, and the module's id as `greet` gives it.

        `unheard` is awaited with the fault of the first rate before the others are tried; that Fault is raised if none helps.
        """
        first: Fault | None = None
        for rate in rates:
            try:
                await self.open(rate)
                return rate, await self.greet(FIRST_BYTE_S if first is None else SEARCH_S)
            except Fault as fault:
                if fault.word not in UNHEARD:
                    raise
                if first is None:
                    first = fault
                    await unheard(fault.word)
        raise first or Fault("silent")

    async def greet(self, first_byte_s: float = FIRST_BYTE_S) -> str:
        """The module's id, or `unknown` if it answers, but not with an id. Fault if it does not answer at this rate."""
        while True:
            try:
                await self.ask(wire.STATUS, first_byte_s)
                answer = await self.ask_again(wire.SAM_ID)
                return wire.sam_id(answer.data)
            except NoAnswer:
                await self._clock.sleep(RESEND_AFTER_S)
            except wire.WireError:
                return "unknown"

    async def ask_again(self, command: Command) -> Answer:
        """Ask, and once more if the line garbled question or answer."""
        try:
            return await self.ask(command)
        except NoAnswer:
            await self._clock.sleep(RESEND_AFTER_S)
            return await self.ask(command)

    async def ask(self, command: Command, first_byte_s: float | None = None) -> Answer:
        """One command and its answer. NoAnswer: nothing came in time, or the module did not understand."""
        began = self._now_s()
        await self._port.flush()
        self._frames.clear()
        await self._port.write(wire.encode(command))
        answer, heard = await self._hear(began, SLOW_S.get(command, FIRST_BYTE_S) if first_byte_s is None else first_byte_s)
        kind, word = (Kind.RESEND, "") if answer is None else wire.status(answer.sw3)
        if kind is Kind.FAULT:
            raise Fault(word)
        if answer is not None and kind is not Kind.RESEND:
            self._silences, self._unanswered_since = 0, None
            return answer
        self._silences += 1
        if self._unanswered_since is None:
            self._unanswered_since = began
        if self._silences >= SILENCES or self._now_s() >= self._unanswered_since + PATIENCE_S:
            raise Fault("garbled" if heard else "silent")
        raise NoAnswer

    async def _hear(self, began: float, first_byte_s: float) -> tuple[Answer | None, bool]:
        """The next answer in time or None, and whether any byte came. Frames that nobody asked for are passed over."""
        last = (began if self._unanswered_since is None else self._unanswered_since) + PATIENCE_S
        until, heard = min(last, began + first_byte_s), False
        while True:
            chunk = await self._port.read(max(0.0, min(SLICE_S, until - self._now_s())))
            frames = self._frames.feed(chunk)
            if chunk:
                until, heard = min(last, self._now_s() + GAP_S), True
            late = self._now_s() >= until
            while late and self._frames.pending:
                frames += self._frames.missed_deadline()
            answer = next(filter(None, map(_answer, frames)), None)
            if answer is not None or late:
                return answer, heard

    def _now_s(self) -> float:
        return self._clock.now().boot_us / US


def _answer(frame: bytes) -> Answer | None:
    """The frame as an answer; None if a vendor's own frame, which nobody asked for."""
    try:
        return wire.decode_answer(frame)
    except wire.WireError:
        return None
