"""The driver on a real pty, a simulated module at its far end: one report a card, and trouble of every kind on the way."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import serial

from edge.clock import US, Clock, SystemClock
from edge.idcheck import reader, wire
from edge.idcheck.port import SerialPort
from edge.idcheck.reader import CardSeen, CardUnreadable, Reader
from edge.idcheck.wire import Answer, Command
from edge.sessions.events import ReaderBack, ReaderLost
from edge.sim import people
from edge.sim.card_module import Module
from edge.sim.card_reader import CardReader

Reported = CardSeen | CardUnreadable | ReaderLost | ReaderBack
MODULE = "05.01-20260101-0000000000-0000000007"
WAIT_S = 12.0


class Watched(Module):
    """A module that counts what it is asked, and to which something may happen at its next answer to one command."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.happens: dict[Command, Callable[[], object]] = {}
        self.refuses: set[str] = set()
        self.spoils: dict[str, list[int]] = {}
        self.more = asyncio.Event()

    def reply(self, command: Command) -> bytes:
        name = f"{command.cmd:02X}{command.para:02X}"
        self.asked[name] += 1
        self.more.set()
        if name in self.refuses:
            return wire.encode(Answer(wire.UNSUPPORTED))
        if statuses := self.spoils.get(name):
            return wire.encode(Answer(statuses.pop()))
        if happening := self.happens.pop(command, None):
            happening()
        return super().reply(command)

    async def asked_more(self, command: str, times: int) -> None:
        """Until it was asked this so many more times."""
        goal = self.asked[command] + times
        async with asyncio.timeout(WAIT_S):
            while self.asked[command] < goal:
                self.more.clear()
                await self.more.wait()


class Hasty(SystemClock):
    """The machine's clock for a driver that does not wait between two looks. Its deadlines for answers stay."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 100)


async def until(true: Callable[[], bool]) -> None:
    """Wait for a condition; TimeoutError if it does not come about."""
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@dataclass
class Desk:
    """The reader's two ends: `device` is the simulated one, `driver` the real one; `reports` is what came out."""

    device: CardReader
    module: Watched
    link: Path
    reports: asyncio.Queue[Reported] = field(default_factory=asyncio.Queue)
    driver: Reader | None = None
    task: asyncio.Task[None] | None = None

    def start(self, allow_demo: bool = True, baud: int = 115_200, clock: Clock | None = None) -> Reader:
        self.driver = Reader(SerialPort(self.link, baud), self.reports.put, clock or SystemClock(), poll_s=0.05, allow_demo=allow_demo)
        self.task = asyncio.create_task(self.driver.run())
        return self.driver

    async def started(self, allow_demo: bool = True) -> Reader:
        driver = self.start(allow_demo)
        back = await self.next()
        assert isinstance(back, ReaderBack) and back.module == MODULE
        return driver

    async def next(self) -> Reported:
        return await asyncio.wait_for(self.reports.get(), WAIT_S)

    async def seen(self) -> str:
        """The name on the next card; the next report must be a card's."""
        report = await self.next()
        assert isinstance(report, CardSeen), report
        return report.identity.name

    async def word(self) -> str:
        """The word of the next report, which must be bad news."""
        report = await self.next()
        assert isinstance(report, CardUnreadable | ReaderLost), report
        return report.reason

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError):
                await self.task


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A plugged-in simulated reader with all sample cards; the driver is not yet started."""
    device = CardReader(tmp_path / "card-reader", people.cards())
    device.module = module = Watched()
    device.plug()
    desk = Desk(device, module, tmp_path / "card-reader")
    yield desk
    await desk.stop()
    device.unplug()


# ---- cards ------------------------------------------------------------------------------------------------------------

async def test_a_card_that_stays_is_seen_once(desk: Desk) -> None:
    await desk.started()
    desk.device.lay("阿依·样例")
    report = await desk.next()
    assert isinstance(report, CardSeen)
    assert report.identity == people.BY_NAME["阿依·样例"].identity()
    assert 0 <= report.read_ms < 5000
    await desk.module.asked_more("3003", 3)
    assert desk.reports.empty()
    desk.device.lift()
    await desk.module.asked_more("2001", 2)
    desk.device.lay("阿依·样例")
    assert await desk.seen() == "阿依·样例"
    assert desk.module.asked["3001"] == 2, "read once for each time it was laid down"


async def test_several_people_one_after_the_other(desk: Desk) -> None:
    await desk.started()
    names = ["样例甲", "样例䶮", "样例壬", "样例壬", "样例丑"]
    taps = asyncio.gather(*(desk.device.tap(name) for name in names))
    assert [await desk.seen() for _ in names] == names
    assert await taps == [True] * len(names)
    await desk.module.asked_more("2001", 3)
    assert desk.reports.empty()


async def test_a_quick_swap_is_two_cards(desk: Desk) -> None:
    await desk.started()
    desk.device.lay("样例甲")
    assert await desk.seen() == "样例甲"
    desk.device.lay("样例乙")
    assert await desk.seen() == "样例乙"


async def test_a_card_that_lies_there_from_before_the_start_is_seen(desk: Desk) -> None:
    desk.device.lay("样例丙")
    await desk.started()
    assert await desk.seen() == "样例丙"


async def test_a_demo_card_is_refused_once_where_demo_cards_are_not_allowed(desk: Desk) -> None:
    await desk.started(allow_demo=False)
    desk.device.lay("样例甲")
    assert await desk.word() == "demo"
    await desk.module.asked_more("3003", 2)
    assert desk.reports.empty()


async def test_an_unknown_layout_is_refused_and_the_next_card_read(desk: Desk) -> None:
    await desk.started()
    desk.module.lay(b"Z\0" * 128)
    assert await desk.word() == "unknown-layout"
    desk.device.lay("样例甲")
    assert await desk.seen() == "样例甲"


@pytest.mark.parametrize(("command", "sw3", "word"), [
    ("3001", 0x41, "read-failed"), ("2002", 0x40, "unknown-card-type"), ("3001", 0x21, "not-supported"),
    ("3001", 0x24, "unrecognised-error")])
async def test_a_card_that_fails_is_reported_once_and_tried_on(desk: Desk, command: str, sw3: int, word: str) -> None:
    await desk.started()
    desk.module.trouble("status", sw3, command, 2)
    desk.device.lay("样例甲")
    assert await desk.word() == word
    assert await desk.seen() == "样例甲", "the second failure says nothing; the third try succeeds"
    assert desk.module.asked["10FF"] == (2 if word == "unrecognised-error" else 0), "the module is reset where that helps"


@pytest.mark.parametrize(("command", "sw3", "word"), [("2002", 0x81, "select-failed"), ("3001", 0x23, "not-authenticated")])
async def test_select_and_read_begin_again_at_find(desk: Desk, command: str, sw3: int, word: str) -> None:
    await desk.started()
    desk.module.trouble("status", sw3, command, 2)
    desk.device.lay("样例甲")
    assert await desk.seen() == "样例甲"
    desk.device.lift()
    await desk.module.asked_more("2001", 2)
    desk.module.trouble("status", sw3, command, 3)
    desk.device.lay("样例乙")
    assert await desk.word() == word
    assert await desk.seen() == "样例乙"


async def test_a_bad_card_laid_down_anew_is_reported_anew(desk: Desk) -> None:
    await desk.started()
    for _ in range(2):
        desk.module.trouble("status", 0x41, "3001", 1000)
        desk.device.lay("样例甲")
        assert await desk.word() == "read-failed"
        desk.device.lift()
        await desk.module.asked_more("3003", 1)
        await desk.module.asked_more("2001", 1)


@pytest.mark.parametrize("at", [wire.SELECT, wire.READ])
async def test_a_card_taken_away_too_soon(desk: Desk, at: Command) -> None:
    await desk.started()
    desk.module.happens[at] = desk.device.lift
    desk.device.lay("样例甲")
    assert await desk.word() == "taken-away"
    desk.device.lay("样例甲")
    assert await desk.seen() == "样例甲"


async def test_a_card_that_was_never_lifted_is_not_seen_again(desk: Desk) -> None:
    """The field fails for a moment: the probe says gone, the next find says found, and it is the same card."""
    await desk.started()
    desk.device.lay("样例甲")
    assert await desk.seen() == "样例甲"
    reads = desk.module.asked["3001"]
    desk.device.lay("样例甲")
    await until(lambda: desk.module.asked["3001"] > reads)
    await desk.module.asked_more("3003", 2)
    assert desk.reports.empty()
    desk.device.lay("样例乙")
    assert await desk.seen() == "样例乙", "another card in its place is another card"


async def test_a_module_without_either_probe_still_says_each_card_once(desk: Desk) -> None:
    await desk.started()
    for name in ("样例甲", "样例乙"):
        for command in ("3003", "3005"):
            desk.module.refuses.add(command)
        desk.device.lay(name)
        assert await desk.seen() == name
        await desk.module.asked_more("2001", 3)
        assert desk.reports.empty()
        desk.device.lift()
        await desk.module.asked_more("2001", 1)


async def test_refused_by_the_module_three_times_is_more_than_laid_down_badly(desk: Desk) -> None:
    driver = await desk.started()
    desk.module.trouble("status", 0x32, "2002", 1000)
    desk.device.lay("样例甲")
    assert await desk.word() == "module-refuses-card"
    assert await desk.word() == "card-suspect"
    await desk.module.asked_more("2002", 3)
    assert desk.reports.empty(), "each is said once"
    desk.module.trouble("status", 0x32, "2002", 0)
    assert await desk.seen() == "样例甲", "and it is a word for people: the module decides"
    assert driver.state.state == "ok"


@pytest.mark.parametrize("sw3", [0x10, 0x11, 0x21, 0x23, 0x24, 0x31, 0x32, 0x33, 0x37, 0x3F, 0x40, 0x41, 0x47, 0x80, 0x81, 0x91, 0x9F,
                                 0xEE])
async def test_no_status_at_any_step_breaks_the_driver(desk: Desk, sw3: int) -> None:
    """Twice this status at each step; then all is well, and the card is seen."""
    for command in ("2001", "2002", "3001", "3003"):
        desk.module.spoils[command] = [sw3] * 2
    desk.device.lay("样例甲")
    desk.start(clock=Hasty())
    reports = [await desk.next()]
    while not isinstance(reports[-1], CardSeen):
        reports.append(await desk.next())
    assert isinstance(reports[0], ReaderBack)
    assert all(isinstance(each, CardUnreadable) and each.reason in reader.UNREADABLE_WORDS for each in reports[1:-1])


async def test_fingerprints_are_never_asked_for(desk: Desk) -> None:
    await desk.started()
    desk.device.lay("样例甲")
    await desk.seen()
    await desk.module.asked_more("3003", 1)
    assert set(desk.module.asked) == {"11FF", "12FF", "2001", "2002", "3001", "3003"}
    assert desk.module.asked["11FF"] == desk.module.asked["12FF"] == 1


async def test_the_log_knows_nobody(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="edge")
    await desk.started()
    await desk.device.tap("样例甲")
    assert await desk.seen() == "样例甲"
    assert "card_seen" in caplog.text
    assert "样例" not in caplog.text and "000000199001010018" not in caplog.text


# ---- a bad line -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("kind", "command"), [("silent", "2001"), ("silent", "3001"), ("garbled", "12FF"), ("garbled", "2001"),
                                               ("garbled", "2002"), ("garbled", "3001"), ("garbled", "3003")])
async def test_one_lost_answer_costs_nothing(desk: Desk, kind: str, command: str) -> None:
    desk.module.trouble(kind, 0, command, 1)
    await desk.started()
    desk.device.lay("样例甲")
    assert await desk.seen() == "样例甲"
    await desk.module.asked_more("3003", 2)
    assert desk.reports.empty()


@pytest.mark.parametrize("sw3", [0x10, 0x11])
async def test_a_command_that_the_module_did_not_understand_is_sent_again(desk: Desk, sw3: int) -> None:
    await desk.started()
    desk.module.trouble("status", sw3, "2001", 2)
    desk.device.lay("样例甲")
    assert await desk.seen() == "样例甲"


async def test_frames_that_nobody_asked_for_are_passed_over(desk: Desk) -> None:
    await desk.started()
    vendor = bytes.fromhex("AAAAAA9669000DDC00323031365F30335F3138DE")
    plain = desk.module.hear

    def chatty(data: bytes) -> bytes:
        return b"\x00\xff\xaa" + vendor + plain(data)
    desk.module.hear = chatty  # type: ignore[method-assign]
    desk.device.lay("样例甲")
    assert await desk.seen() == "样例甲"


@pytest.mark.parametrize(("kind", "sw3", "word"), [("silent", 0, "silent"), ("garbled", 0, "garbled"), ("status", 0x10, "garbled"),
                                                   ("status", 0x60, "self-test-failed"), ("status", 0x66, "not-authorised")])
async def test_a_reader_that_makes_no_sense_is_lost_and_comes_back(desk: Desk, kind: str, sw3: int, word: str) -> None:
    driver = await desk.started()
    desk.module.trouble(kind, sw3, "", 3)
    began = SystemClock().now()
    assert await desk.word() == word
    assert SystemClock().now().us_since(began) < 5 * US
    assert (driver.state.state, driver.state.last_fault) == ("lost", word)
    desk.module.trouble(kind, sw3, "", 0)
    assert isinstance(await desk.next(), ReaderBack)
    assert (driver.state.state, driver.state.module, driver.state.last_fault) == ("ok", MODULE, word)


async def test_noise_without_end_is_a_lost_reader_within_five_seconds(desk: Desk) -> None:
    """Bytes that come all the time keep no deadline from passing."""
    driver = await desk.started()
    began = SystemClock().now()

    async def babble() -> None:
        noise = random.Random(7)
        while True:
            desk.device.send(noise.randbytes(30))
            await asyncio.sleep(0.05)
    babbling = asyncio.create_task(babble())
    desk.module.hear = lambda data: b""  # type: ignore[method-assign]
    assert await desk.word() == "garbled"
    assert SystemClock().now().us_since(began) < 5 * US
    assert (driver.state.state, driver.state.last_fault) == ("lost", "garbled")
    babbling.cancel()
    await asyncio.gather(babbling, return_exceptions=True)


# ---- the bit rate -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rate", [115_200, *(pytest.param(rate, marks=pytest.mark.slow) for rate in (57_600, 38_400, 19_200, 9_600))])
async def test_the_rate_is_found_and_never_changed(desk: Desk, rate: int) -> None:
    configured = 57_600
    desk.device.set_rate(rate)
    driver = desk.start(baud=configured)
    report = await desk.next()
    if rate != configured:
        assert isinstance(report, ReaderLost) and report.reason == "silent", "the board does not wait for the search"
        report = await desk.next()
    assert isinstance(report, ReaderBack) and driver.state.rate == rate
    desk.device.lay("样例甲")
    assert await desk.seen() == "样例甲"
    assert not [command for command in desk.module.asked if command.startswith(("60", "61"))]
    desk.device.lift()
    desk.device.unplug()
    assert await desk.word() == "gone"
    desk.device.plug()
    assert isinstance(await desk.next(), ReaderBack)
    assert driver.state.rate == rate and driver.state.last_fault != "silent", "the rate that was found is the first one tried the next time"


# ---- the plug ---------------------------------------------------------------------------------------------------------

async def test_pulled_out_and_put_back(desk: Desk) -> None:
    driver = await desk.started()
    for _ in range(2):
        began = SystemClock().now()
        desk.device.unplug()
        assert await desk.word() == "gone"
        assert SystemClock().now().us_since(began) < 5 * US
        assert driver.state.state == "lost"
        await until(lambda: driver.state.last_fault == "absent")
        assert desk.reports.empty(), "lost is said once"
        desk.device.plug()
        assert isinstance(await desk.next(), ReaderBack)
        assert await desk.device.tap("样例甲")
        assert await desk.seen() == "样例甲"
        await desk.module.asked_more("2001", 1)


@pytest.mark.parametrize("at", [wire.FIND, wire.READ, wire.NEW_ADDRESS])
async def test_pulled_out_with_a_card_on_it(desk: Desk, at: Command) -> None:
    await desk.started()
    desk.module.happens[at] = lambda: asyncio.get_running_loop().call_soon(desk.device.unplug)
    desk.device.lay("样例甲")
    reports = [await desk.next()]
    if isinstance(reports[0], CardSeen):
        reports.append(await desk.next())
    assert isinstance(reports[-1], ReaderLost)
    desk.device.plug()
    assert isinstance(await desk.next(), ReaderBack)
    assert await desk.seen() == "样例甲"


async def test_no_reader_at_the_start(desk: Desk) -> None:
    desk.device.unplug()
    driver = desk.start()
    assert driver.state.state == "starting"
    assert await desk.word() == "absent"
    assert driver.state.state == "lost"
    desk.device.plug()
    assert isinstance(await desk.next(), ReaderBack)


async def test_a_port_that_another_program_has(desk: Desk) -> None:
    other = serial.Serial(str(desk.link), exclusive=True)
    desk.start()
    assert await desk.word() == "busy"
    other.close()
    assert isinstance(await desk.next(), ReaderBack)


async def test_stopping_is_quick_and_gives_the_port_back(desk: Desk) -> None:
    await desk.started()
    desk.module.trouble("silent", 0, "", 1)
    await desk.module.asked_more("2001", 1)
    before = SystemClock().now()
    await desk.stop()
    assert SystemClock().now().us_since(before) < US
    serial.Serial(str(desk.link), exclusive=True).close()


async def test_stopping_leaves_no_file_open(desk: Desk) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    for _ in range(3):
        await desk.started()
        await desk.stop()
    assert len(set(Path("/proc/self/fd").iterdir()) - before) <= 1, "one may be the listing itself"


async def test_what_report_raises_ends_the_driver_and_closes_the_port(desk: Desk) -> None:
    async def refuse(report: object) -> None:
        raise RuntimeError("the journal is full")
    driver = Reader(SerialPort(desk.link), refuse, SystemClock())
    with pytest.raises(RuntimeError, match="journal"):
        await asyncio.wait_for(driver.run(), WAIT_S)
    serial.Serial(str(desk.link), exclusive=True).close()


def test_every_word_is_listed_once() -> None:
    assert {"absent", "gone", "silent", "garbled"} <= reader.LOST_WORDS
    assert {"demo", "taken-away", "read-failed", "unknown-layout"} <= reader.UNREADABLE_WORDS
