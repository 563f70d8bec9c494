"""The driver against bytes written down from the protocol document, without our codec: what driver and simulator both misread shows here.

The far end is a pty that knows a list of questions and answers in hex, and fails on any other byte. Sources of the frames: the SAM_V
protocol document's tables of commands and answers (preamble AA AA AA 96 69, big-endian length that counts everything after itself,
exclusive or as checksum), the published layout of the 256 bytes of text.
"""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest

from edge.clock import SystemClock
from edge.idcheck import wire
from edge.idcheck.line import Fault, Line
from edge.idcheck.port import SerialPort
from edge.idcheck.reader import CardSeen, CardUnreadable, Reader
from edge.sessions.events import ReaderBack, ReaderLost

WAIT_S = 12.0

STATUS, STATUS_OK = "AAAAAA9669 0003 11FF ED", "AAAAAA9669 0004 000090 94"
SAM_ID = "AAAAAA9669 0003 12FF EE"
# u16 5, u16 1, u32 20130601, u32 1234567, u32 987654321, all little-endian
SAM_ID_OK = "AAAAAA9669 0014 000090 0500 0100 292B3301 87D61200 B168DE3A CE"
RESET = "AAAAAA9669 0003 10FF EC"
FIND, FOUND, NONE = "AAAAAA9669 0003 2001 22", "AAAAAA9669 0008 00009F 00000000 97", "AAAAAA9669 0004 000080 84"
FOUND_IIN = "AAAAAA9669 0008 00009F 08A5C3D1 28"
SELECT, SELECTED = "AAAAAA9669 0003 2002 21", "AAAAAA9669 000C 000090 0000000000000000 9C"
SELECTED_SN = "AAAAAA9669 000C 000090 0102030405060708 94"
SELECT_FAILED = "AAAAAA9669 0004 000081 85"
READ = "AAAAAA9669 0003 3001 32"
ADDRESS, NO_ADDRESS, GONE = "AAAAAA9669 0003 3003 30", "AAAAAA9669 0004 000091 95", "AAAAAA9669 0004 000041 45"
NUMBER = "AAAAAA9669 0003 3005 36"
NUMBER_28 = ("AAAAAA9669 0020 000090 01020304 05060708090A0B0C 0D0E0F101112131415161718191A1B1C AC")
NOT_SUPPORTED = "AAAAAA9669 0004 000021 25"
CHECKSUM_WRONG = "AAAAAA9669 0004 000010 14"
NOT_AUTHORISED = "AAAAAA9669 0004 000066 62"

# The person: region 110105, born 31 December 1949, the number that GB 11643 itself prints as its example.
TEXT = "".join(text.ljust(units, " ") for text, units in (
    ("样例甲", 15), ("2", 1), ("01", 2), ("19491231", 8), ("样例省样例市样例路1号", 35), ("11010519491231002X", 18), ("样例市公安局", 15),
    ("20150820", 8), ("长期", 8), ("", 18))).encode("utf-16-le")


def frame(content: bytes) -> str:
    """A long frame by the document's rule, as hex."""
    counted = (len(content) + 1).to_bytes(2, "big") + content
    check = 0
    for byte in counted:
        check ^= byte
    return (bytes((0xAA, 0xAA, 0xAA, 0x96, 0x69)) + counted + bytes((check,))).hex()


CARD = frame(bytes.fromhex("000090 0100 0400") + TEXT + bytes(range(256)) * 4)


class FarEnd:
    """Answers by the list, each question once and in order; then every find with "no card"."""

    def __init__(self, path: Path) -> None:
        self.far, self._near = os.openpty()
        tty.setraw(self._near)
        path.symlink_to(os.ttyname(self._near))
        self.path, self.script = path, list[tuple[str, str]]()
        self._heard, self.wrong = b"", ""
        asyncio.get_running_loop().add_reader(self.far, self._arrived)

    def _arrived(self) -> None:
        self._heard += os.read(self.far, 4096)
        while len(self._heard) >= 10:           # no command that this driver may send is longer
            question, self._heard = self._heard[:10], self._heard[10:]
            if self.script and question == bytes.fromhex(self.script[0][0]):
                os.write(self.far, bytes.fromhex(self.script.pop(0)[1]))
            elif not self.script and question == bytes.fromhex(FIND):
                os.write(self.far, bytes.fromhex(NONE))
            else:
                self.wrong = self.wrong or f"{question.hex()} while {self.script[:1]} was due"

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.far)
        os.close(self.far)
        os.close(self._near)


Reported = CardSeen | CardUnreadable | ReaderBack | ReaderLost
Drive = Callable[[list[tuple[str, str]], int], Awaitable[list[Reported]]]


@pytest.fixture
async def drive(tmp_path: Path) -> AsyncIterator[Drive]:
    """Run the driver against a list; its first so many reports. The whole list must have been used, and nothing else asked."""
    far = FarEnd(tmp_path / "reader")

    async def run(script: list[tuple[str, str]], reports: int) -> list[Reported]:
        far.script = script
        queue: asyncio.Queue[Reported] = asyncio.Queue()
        task = asyncio.create_task(Reader(SerialPort(far.path), queue.put, SystemClock(), poll_s=0.05).run())
        try:
            got = [await asyncio.wait_for(queue.get(), WAIT_S) for _ in range(reports)]
            async with asyncio.timeout(WAIT_S):
                while far.script and not far.wrong:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert not far.wrong
        return got

    yield run
    far.close()


HELLO = [(STATUS, STATUS_OK), (SAM_ID, SAM_ID_OK)]


def test_the_texts_own_length() -> None:
    assert len(TEXT) == 256
    assert len(bytes.fromhex(CARD)) == 1295


async def test_a_card_from_hello_to_gone(drive: Drive) -> None:
    back, seen = await drive([*HELLO, (FIND, NONE), (FIND, FOUND), (SELECT, SELECTED), (READ, CARD), (ADDRESS, NO_ADDRESS), (ADDRESS, GONE),
                              (FIND, NONE)], 2)
    assert isinstance(back, ReaderBack) and back.module == "05.01-20130601-0001234567-0987654321"
    assert isinstance(seen, CardSeen)
    who = seen.identity
    assert (who.document, who.name, who.number, who.sex, who.nation) == ("resident_id", "样例甲", "11010519491231002X", "2", "01")
    assert (who.birth, who.valid_from, who.valid_to) == (date(1949, 12, 31), date(2015, 8, 20), None)
    assert (who.address, who.issuer) == ("样例省样例市样例路1号", "样例市公安局")


async def test_numbers_in_find_and_select_are_not_compared(drive: Drive) -> None:
    _, seen = await drive([*HELLO, (FIND, FOUND_IIN), (SELECT, SELECTED_SN), (READ, CARD), (ADDRESS, GONE)], 2)
    assert isinstance(seen, CardSeen)


async def test_after_a_failed_selection_it_begins_at_find(drive: Drive) -> None:
    _, seen = await drive([*HELLO, (FIND, FOUND), (SELECT, SELECT_FAILED), (FIND, FOUND), (SELECT, SELECTED), (READ, CARD),
                           (ADDRESS, GONE)], 2)
    assert isinstance(seen, CardSeen)


async def test_a_status_that_says_resend_is_sent_once_more(drive: Drive) -> None:
    back, = await drive([*HELLO, (FIND, CHECKSUM_WRONG), (FIND, NONE)], 1)
    assert isinstance(back, ReaderBack)


async def test_half_an_answer_then_the_whole_in_noise(drive: Drive) -> None:
    half, noisy = CARD[:1200], "00FF AAAA AAAA 96 55" + CARD
    _, seen = await drive([*HELLO, (FIND, FOUND), (SELECT, SELECTED), (READ, half), (FIND, FOUND), (SELECT, SELECTED), (READ, noisy),
                           (ADDRESS, GONE)], 2)
    assert isinstance(seen, CardSeen)


async def test_the_card_number_is_the_second_way_to_see_that_it_lies_there(drive: Drive) -> None:
    """A module that does not know 30 03 says so once; from then on 30 05 is asked."""
    _, seen = await drive([*HELLO, (FIND, FOUND), (SELECT, SELECTED), (READ, CARD), (ADDRESS, NOT_SUPPORTED), (NUMBER, NUMBER_28),
                           (NUMBER, NUMBER_28), (NUMBER, GONE), (FIND, NONE)], 2)
    assert isinstance(seen, CardSeen)


async def test_other_devices_frames_are_no_answers(drive: Drive) -> None:
    """A vendor's firmware frame stands before the answer; some readers send a time-out marker (05 05 05, no frame) in place of one."""
    vendor, marker = "AAAAAA9669 000D DC00 323031365F30335F3138 DE", "AAAAAA9669 0005 050505"
    back, = await drive([(STATUS, vendor + STATUS_OK), (SAM_ID, vendor + SAM_ID_OK), (FIND, marker), (FIND, vendor + NONE)], 1)
    assert isinstance(back, ReaderBack) and back.module.startswith("05.01-")


async def test_a_reset_where_the_module_asks_for_one(drive: Drive) -> None:
    await drive([*HELLO, (FIND, "AAAAAA9669 0004 000047 43"), (RESET, STATUS_OK), (FIND, "AAAAAA9669 0004 000024 20"), (RESET, STATUS_OK),
                 (FIND, NONE)], 1)


async def test_a_module_that_may_not_work(drive: Drive) -> None:
    lost, = await drive([(STATUS, NOT_AUTHORISED)], 1)
    assert isinstance(lost, ReaderLost) and lost.reason == "not-authorised"


async def test_every_status_on_the_wire(tmp_path: Path) -> None:
    """Each byte of the table, as the document prints it, arrives as what the table says. 60 and 66 end the talk."""
    far = FarEnd(tmp_path / "reader")
    line = Line(SerialPort(far.path), SystemClock())
    await line.open()
    answers = {"90": "94", "9F": "9B", "91": "95", "80": "84", "81": "85", "21": "25", "23": "27", "24": "20", "31": "35", "32": "36",
               "33": "37", "37": "33", "3F": "3B", "40": "44", "41": "45", "47": "43"}
    for sw3, check in answers.items():
        far.script = [(STATUS, f"AAAAAA9669 0004 0000{sw3} {check}")]
        assert (await line.ask(wire.STATUS)).sw3 == int(sw3, 16)
    for sw3, check, word in (("60", "64", "self-test-failed"), ("66", "62", "not-authorised")):
        far.script = [(STATUS, f"AAAAAA9669 0004 0000{sw3} {check}")]
        with pytest.raises(Fault, match=word):
            await line.ask(wire.STATUS)
    await line.close()
    assert not far.wrong
    far.close()


@pytest.mark.parametrize(("data", "number"), [
    ("0102030405060708090A0B0C0D0E0F101112131415161718191A1B1C", "01020304-05060708090A0B0C-0D0E0F101112131415161718191A1B1C"),
    ("05060708090A0B0C0D0E0F101112131415161718191A1B1C", "05060708090A0B0C-0D0E0F101112131415161718191A1B1C")])
def test_management_number(data: str, number: str) -> None:
    assert wire.management_number(bytes.fromhex(data)) == number


def test_the_newest_address_is_the_last_that_is_not_blank() -> None:
    def field(text: str) -> bytes:
        return text.ljust(35).encode("utf-16-le")

    assert wire.new_address(field("样例路1号")) == "样例路1号"
    assert wire.new_address(field("样例路1号") + field("样例路2号") + field("") + field("")) == "样例路2号"
    assert wire.new_address(field("") * 4) is None
