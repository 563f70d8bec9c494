"""The driver of the ID-card reader: find, select, read, linger; one report for each card that is laid down.

    IDLE --find: 9F--> FOUND --select: 90--> SELECTED --read: 90--> READ --decoded--> LINGER --probe: gone--> IDLE

A fault of the device is data: it is reported once (`ReaderLost`), `run` goes on trying, and the first answer is reported again
(`ReaderBack`, also at the first contact after a start, so that the journal says which module served). Only what `report` raises
leaves `run`. Fingerprints are never asked for; the photo's bytes are dropped here.
Caller: `app`, which hands in `room.report`. Source of orders and times: published drivers of the same modules; the figures are
those that most of them share.

Words of ReaderLost: `LOST_WORDS`. Words of CardUnreadable: `UNREADABLE_WORDS`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final

from edge.clock import US, Clock, Stamp
from edge.idcheck import card, wire
from edge.idcheck.port import PORT_WORDS, Port, PortLost
from edge.idcheck.wire import Answer, Command, Kind
from edge.sessions.events import ReaderBack, ReaderLost
from edge.sessions.identity import Identity

log = logging.getLogger(__name__)

FIRST_BYTE_S: Final = 1.0
READ_FIRST_BYTE_S: Final = 2.5          # the module talks to the card; drivers wait 2 to 3 s; more, and three silences pass 5 s
GAP_S: Final = 0.5
WHOLE_S: Final = 5.0
SLICE_S: Final = 0.1                    # how long a stop may have to wait for the port's thread
RESEND_AFTER_S: Final = 0.05
LINGER_S: Final = 0.5
SILENCES: Final = 3
ATTEMPTS: Final = 3
BACK_OFF_S: Final = (1.0, 2.0, 4.0, 8.0, 10.0)

LOST_WORDS: Final = PORT_WORDS | {"silent", "garbled", "self-test-failed", "not-authorised"}
UNREADABLE_WORDS: Final = card.CARD_WORDS | wire.STATUS_WORDS | {"taken-away", "no-answer"}

_CHINA: Final = timedelta(hours=8)


@dataclass(frozen=True, slots=True)
class CardSeen:
    """A card was laid down and read. `read_ms`: from find to the checked identity."""

    at: Stamp
    identity: Identity
    read_ms: int


@dataclass(frozen=True, slots=True)
class CardUnreadable:
    """A card was laid down and cannot be believed or read. `reason`: one of `UNREADABLE_WORDS`; nothing of the card is kept."""

    at: Stamp
    reason: str


@dataclass(frozen=True, slots=True)
class ReaderStatus:
    """For the status board. `state`: starting, ok, lost; `module`: SAM id; `last_fault`: the newest word of `LOST_WORDS`."""

    state: str
    module: str | None
    last_fault: str | None
    since_boot_us: int


Report = Callable[[CardSeen | CardUnreadable | ReaderLost | ReaderBack], Awaitable[object]]


class _Fault(Exception):
    """The reader is of no use now. `word`: one of `LOST_WORDS`."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class _NoAnswer(Exception):
    """Nothing, or nothing that makes sense, came within the time."""


class _Unread(Exception):
    """This card did not give its text. `word`: one of `UNREADABLE_WORDS`."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class _Again(Exception):
    """Begin again at find. `word`: what to say if that does not help either."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class Reader:
    """Drives one reader for as long as `run` is awaited. Holds no card's data between two placements."""

    def __init__(self, port: Port, report: Report, clock: Clock, poll_s: float = 0.4, allow_demo: bool = False) -> None:
        self._port = port
        self._report = report
        self._clock = clock
        self._poll_s = poll_s
        self._allow_demo = allow_demo
        self._frames = wire.Deframer()
        self._silences = 0
        self._told = False
        self._state = ReaderStatus("starting", None, None, clock.now().boot_us)

    @property
    def state(self) -> ReaderStatus:
        return self._state

    async def run(self) -> None:
        """Serve the reader until cancelled; closes the port on the way out."""
        failures = 0
        try:
            while True:
                try:
                    await self._port.open()
                    await self._introduce()
                    failures = 0
                    while True:
                        await self._clock.sleep(await self._round())
                except (PortLost, _Fault) as fault:
                    await self._port.close()
                    await self._lost(fault.word)
                    # Somebody who puts the plug back stands there waiting: a missing name is looked for each second.
                    await self._clock.sleep(BACK_OFF_S[0 if fault.word == "absent" else min(failures, len(BACK_OFF_S) - 1)])
                    failures += 1
        finally:
            await self._port.close()

    async def _lost(self, word: str) -> None:
        now = self._clock.now()
        if self._state.state != "lost":
            self._state = ReaderStatus("lost", self._state.module, word, now.boot_us)
            log.warning("reader_lost reason=%s", word)
            await self._report(ReaderLost(at=now, reason=word))
        elif self._state.last_fault != word:
            log.info("reader_still_lost reason=%s", word)
            self._state = replace(self._state, last_fault=word)

    async def _introduce(self) -> None:
        """Status and SAM id, once for each opening of the port."""
        self._silences = 0
        self._told = False
        while True:
            try:
                await self._ask_again(wire.STATUS)
                answer = await self._ask_again(wire.SAM_ID)
                break
            except _NoAnswer:
                continue
        try:
            module = wire.sam_id(answer.data)
        except wire.WireError:
            module = "unknown"
        now = self._clock.now()
        self._state = ReaderStatus("ok", module, self._state.last_fault, now.boot_us)
        log.info("reader_back module=%s", module)
        await self._report(ReaderBack(at=now, module=module))

    async def _round(self) -> float:
        """Look for a card once, and serve it if there is one. Seconds until the next look."""
        try:
            found = await self._find()
        except _NoAnswer:
            return RESEND_AFTER_S
        if not found:
            if self._told and not await self._lies_there():
                self._told = False
            return self._poll_s
        began = self._clock.now()
        try:
            text = await self._text()
        except _Unread as unread:
            await self._unreadable(unread.word)
            return LINGER_S
        await self._seen(text, began)
        while await self._lies_there():
            await self._clock.sleep(LINGER_S)
        self._told = False
        return 0

    async def _find(self) -> bool:
        answer = await self._ask_again(wire.FIND)
        if wire.status(answer.sw3)[0] is Kind.RESET:
            await self._ask_again(wire.RESET)
        return answer.sw3 == wire.FOUND

    async def _text(self) -> bytes:
        """The text of the card that was just found. A failure on the way begins again at find, three times at most."""
        word = "no-answer"
        for attempt in range(ATTEMPTS):
            try:
                if not attempt or await self._find():
                    await self._good(wire.SELECT, FIRST_BYTE_S)
                # Find is silent, too, about a card whose text was sent and lost on the line; that one may be read once more.
                elif not await self._lies_there():
                    raise _Unread("taken-away")
                answer = await self._good(wire.READ, READ_FIRST_BYTE_S)
                return wire.base_message(answer.data)[0]
            except (_NoAnswer, wire.WireError):
                word = "no-answer"
            except _Again as again:
                word = again.word
            await self._clock.sleep(RESEND_AFTER_S)
        raise _Unread(word)

    async def _good(self, command: Command, first_byte_s: float) -> Answer:
        """An answer of 90, or what follows from any other."""
        answer = await self._ask(command, first_byte_s)
        kind, word = wire.status(answer.sw3)
        if answer.sw3 == wire.OK:
            return answer
        if kind is Kind.RESET:
            await self._ask_again(wire.RESET)
        if kind in (Kind.REPLACE, Kind.UNSUPPORTED, Kind.RESET):
            raise _Unread(word)
        raise _Again(word if kind is Kind.RESTART else "no-answer")

    async def _seen(self, text: bytes, began: Stamp) -> None:
        now = self._clock.now()
        try:
            identity = card.decode(text, today=_day(now), allow_demo=self._allow_demo)
        except card.CardError as error:
            await self._unreadable(error.word)
            return
        read_ms = now.us_since(began) // 1000
        log.info("card_seen read_ms=%d", read_ms)
        await self._report(CardSeen(now, identity, read_ms))

    async def _unreadable(self, word: str) -> None:
        """Say it once; the card is tried again in silence for as long as it lies there, and may still succeed."""
        if not self._told:
            self._told = True
            log.info("card_unreadable reason=%s", word)
            await self._report(CardUnreadable(self._clock.now(), word))

    async def _lies_there(self) -> bool:
        """A card that was selected still lies on the reader. Find cannot tell: it says 80 for "none" and for "read already"."""
        try:
            answer = await self._ask(wire.NEW_ADDRESS, FIRST_BYTE_S)
        except _NoAnswer:
            return True
        return answer.sw3 in (wire.OK, wire.NO_SUCH_ITEM)

    async def _ask_again(self, command: Command) -> Answer:
        """Ask, and once more if the line garbled question or answer."""
        try:
            return await self._ask(command, FIRST_BYTE_S)
        except _NoAnswer:
            await self._clock.sleep(RESEND_AFTER_S)
            return await self._ask(command, FIRST_BYTE_S)

    async def _ask(self, command: Command, first_byte_s: float) -> Answer:
        """One command and its answer. _NoAnswer: nothing came, or the module did not understand; three in a row are a fault."""
        await self._port.flush()
        self._frames.clear()
        await self._port.write(wire.encode(command))
        answer, heard = await self._hear(first_byte_s)
        kind, word = (Kind.RESEND, "") if answer is None else wire.status(answer.sw3)
        if kind is Kind.FAULT:
            raise _Fault(word)
        if answer is None or kind is Kind.RESEND:
            self._silences += 1
            if self._silences >= SILENCES:
                raise _Fault("garbled" if heard else "silent")
            raise _NoAnswer
        self._silences = 0
        return answer

    async def _hear(self, first_byte_s: float) -> tuple[Answer | None, bool]:
        """The next answer in time or None, and whether any byte came. Frames that nobody asked for are passed over."""
        began = self._now_s()
        until, heard = began + first_byte_s, False
        while True:
            chunk = await self._port.read(max(0.0, min(SLICE_S, until - self._now_s())))
            frames = self._frames.feed(chunk)
            if chunk:
                until, heard = min(began + WHOLE_S, self._now_s() + GAP_S), True
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


def _day(now: Stamp) -> date:
    """The day in China, where all of a card's dates belong."""
    return (datetime.fromtimestamp(now.utc_us // US, UTC) + _CHINA).date()
