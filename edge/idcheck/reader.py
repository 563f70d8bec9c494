"""The driver of the ID-card reader: find, select, read, linger; one report for each card that is laid down.

    IDLE --find: 9F--> FOUND --select: 90--> SELECTED --read: 90--> READ --decoded--> LINGER --probe: gone--> IDLE

A fault of the device is data: it is reported once (`ReaderLost`), `run` goes on trying, and the first answer is reported again
(`ReaderBack`, also at the first contact after a start, so that the journal says which module served). Only what `report` raises
leaves `run`. A reader that is silent at the configured bit rate is looked for at the others; its own rate is never changed.
Fingerprints are never asked for; the photo's bytes are dropped here unless `keep_photo` is set.
Caller: `app`, which hands in `room.report`. Source of the order: published drivers of the same modules. The times are `line`'s.

Words of ReaderLost: `LOST_WORDS`. Words of CardUnreadable: `UNREADABLE_WORDS`.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Final

from edge.clock import US, Clock, Stamp
from edge.idcheck import card, wire
from edge.idcheck.line import LOST_WORDS as LOST_WORDS
from edge.idcheck.line import RESEND_AFTER_S, Fault, Line, NoAnswer
from edge.idcheck.port import Port, PortLost
from edge.idcheck.wire import Answer, Command, Kind
from edge.sessions.events import ReaderBack, ReaderLost
from edge.sessions.identity import Identity

log = logging.getLogger(__name__)

LINGER_S: Final = 0.5
ATTEMPTS: Final = 3
REFUSALS: Final = 3
"""So often in a row the module may refuse a card (32) before that is more than a card laid down badly."""
PROBES: Final[tuple[Command, ...]] = (wire.NEW_ADDRESS, wire.MANAGEMENT)
"""What only a card that is still there can answer. Makers use the one or the other; a module without the first is asked the second."""
BACK_OFF_S: Final = (1.0, 2.0, 4.0, 8.0, 10.0)

CARD_SUSPECT: Final = "card-suspect"
UNREADABLE_WORDS: Final = card.CARD_WORDS | wire.STATUS_WORDS | {"taken-away", "no-answer", CARD_SUSPECT}

_CHINA: Final = timedelta(hours=8)
_REFUSED: Final = wire.status(0x32)[1]


@dataclass(frozen=True, slots=True)
class CardSeen:
    """A card was laid down and read. `read_ms`: from find to the checked identity."""

    at: Stamp
    identity: Identity
    read_ms: int
    photo: bytes | None = field(default=None, repr=False)   # the chip's, still compressed (WLT); only where the reader was told to keep it


@dataclass(frozen=True, slots=True)
class CardUnreadable:
    """A card was laid down and cannot be believed or read. `reason`: one of `UNREADABLE_WORDS`; nothing of the card is kept."""

    at: Stamp
    reason: str


@dataclass(frozen=True, slots=True)
class ReaderStatus:
    """For the status board. `state`: starting, ok, lost; `module`: SAM id; `last_fault`: the newest word of `LOST_WORDS`;
    `rate`: bits per second at which it answers, 0 where the wire has none."""

    state: str
    module: str | None
    last_fault: str | None
    since_boot_us: int
    rate: int | None = None


Report = Callable[[CardSeen | CardUnreadable | ReaderLost | ReaderBack], Awaitable[object]]


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

    def __init__(self, port: Port, report: Report, clock: Clock, poll_s: float = 0.4, allow_demo: bool = False,
                 keep_photo: bool = False) -> None:
        self._rates = port.rates
        self._line = Line(port, clock)
        self._report = report
        self._clock = clock
        self._poll_s = poll_s
        self._allow_demo = allow_demo
        self._keep_photo = keep_photo
        self._photo: bytes | None = None        # of the card that lies there, from reading it to reporting it
        self._told = False
        self._refusals = 0
        self._probes = PROBES
        self._key = secrets.token_bytes(16)
        self._before: bytes | None = None       # which card lay there at the last look: a keyed digest, good for nothing else
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
                    await self._introduce()
                    failures = 0
                    while True:
                        await self._clock.sleep(await self._round())
                except (PortLost, Fault) as fault:
                    await self._line.close()
                    await self._lost(fault.word)
                    # Somebody who puts the plug back stands there waiting: a missing name is looked for each second.
                    await self._clock.sleep(BACK_OFF_S[0 if fault.word == "absent" else min(failures, len(BACK_OFF_S) - 1)])
                    failures += 1
        finally:
            await self._line.close()

    async def _lost(self, word: str) -> None:
        now = self._clock.now()
        if self._state.state != "lost":
            self._state = ReaderStatus("lost", self._state.module, word, now.boot_us, self._state.rate)
            log.warning("reader_lost reason=%s", word)
            await self._report(ReaderLost(at=now, reason=word))
        elif self._state.last_fault != word:
            log.info("reader_still_lost reason=%s", word)
            self._state = replace(self._state, last_fault=word)

    async def _introduce(self) -> None:
        """Status and SAM id, once for each opening of the port, at the first rate that brings an answer."""
        self._told, self._before, self._probes = False, None, PROBES
        likely = self._state.rate or self._rates[0]
        # the board does not wait for the other rates: it hears of the silence at once
        rate, module = await self._line.tune((likely, *(other for other in self._rates if other != likely)), self._lost)
        now = self._clock.now()
        self._state = ReaderStatus("ok", module, self._state.last_fault, now.boot_us, rate)
        if rate != self._rates[0]:
            log.warning("reader_rate configured=%d found=%d", self._rates[0], rate)
        log.info("reader_back module=%s rate=%d", module, rate)
        await self._report(ReaderBack(at=now, module=module))

    async def _round(self) -> float:
        """Look for a card once, and serve it if there is one. Seconds until the next look."""
        try:
            found = await self._find()
        except NoAnswer:
            return RESEND_AFTER_S
        if not found:
            self._before = None
            if self._told and not await self._lies_there():
                self._told = False
            return self._poll_s
        began = self._clock.now()
        try:
            text = await self._text()
        except _Unread as unread:
            await self._unreadable(unread.word)
            return LINGER_S
        await self._serve(text, began)
        return 0

    async def _serve(self, text: bytes, began: Stamp) -> None:
        """Report this card, and wait until it is gone.

        A card that is there again before find has once found nothing was never lifted: the field failed for a moment.
        """
        self._refusals = 0
        this = hashlib.blake2b(text, key=self._key, digest_size=16).digest()
        if this != self._before:
            await self._seen(text, began)
        self._photo = None
        while await self._lies_there():
            await self._clock.sleep(LINGER_S)
        self._told, self._before = False, this

    async def _find(self) -> bool:
        answer = await self._line.ask_again(wire.FIND)
        if wire.status(answer.sw3)[0] is Kind.RESET:
            await self._line.ask_again(wire.RESET)
        return answer.sw3 == wire.FOUND

    async def _text(self) -> bytes:
        """The text of the card that was just found. A failure on the way begins again at find, three times at most."""
        word = "no-answer"
        for attempt in range(ATTEMPTS):
            try:
                if not attempt or await self._find():
                    await self._good(wire.SELECT)
                # Find is silent, too, about a card whose text was sent and lost on the line; that one may be read once more.
                elif not await self._lies_there():
                    raise _Unread("taken-away")
                answer = await self._good(wire.READ)
                text, photo = wire.base_message(answer.data)
                self._photo = photo if self._keep_photo else None
                return text
            except (NoAnswer, wire.WireError):
                word = "no-answer"
            except _Again as again:
                word = again.word
            await self._clock.sleep(RESEND_AFTER_S)
        raise _Unread(word)

    async def _good(self, command: Command) -> Answer:
        """An answer of 90, or what follows from any other."""
        answer = await self._line.ask(command)
        kind, word = wire.status(answer.sw3)
        if answer.sw3 == wire.OK:
            return answer
        if kind is Kind.RESET:
            await self._line.ask_again(wire.RESET)
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
        await self._report(CardSeen(now, identity, read_ms, self._photo))

    async def _unreadable(self, word: str) -> None:
        """Say it once; the card is tried again in silence for as long as it lies there, and may still succeed.

        Refused by the module for the third time in a row, lifted in between or not: that is said again, with a word of its own.
        """
        self._refusals = self._refusals + 1 if word == _REFUSED else 0
        if self._refusals == REFUSALS:
            self._told = False
        if not self._told:
            self._told = True
            word = CARD_SUSPECT if self._refusals >= REFUSALS else word
            log.info("card_unreadable reason=%s", word)
            await self._report(CardUnreadable(self._clock.now(), word))

    async def _lies_there(self) -> bool:
        """A card that was selected still lies on the reader. Find cannot tell: it says 80 for "none" and for "read already"."""
        while self._probes:
            try:
                answer = await self._line.ask(self._probes[0])
            except NoAnswer:
                return True
            if wire.status(answer.sw3)[0] is not Kind.UNSUPPORTED:
                return answer.sw3 in (wire.OK, wire.NO_SUCH_ITEM)
            self._probes = self._probes[1:]
        return False


def _day(now: Stamp) -> date:
    """The day in China, where all of a card's dates belong."""
    return (datetime.fromtimestamp(now.utc_us // US, UTC) + _CHINA).date()
