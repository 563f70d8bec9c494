"""What the bench of the door lays on its reader: invented people, and a module behind a pty that takes the time a real line takes.

The module is the simulated one (`edge.sim.card_module`); this file adds the pace of a serial line, so that the last byte of a card leaves
when it would leave a real reader, and writes down when that was. Called by door.
"""

from __future__ import annotations

import os
import select
import threading
import time
import tty
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

from edge.idcheck import card, wire
from edge.idcheck.wire import Command
from edge.sessions import number
from edge.sessions.identity import Document, Identity
from edge.sim.card_module import Module

BITS_PER_BYTE = 10          # a start bit, eight, a stop bit
PIECE = 16                  # bytes at once: what the FIFO of a serial port holds
STEMS, BRANCHES, COUNTS = "甲乙丙丁戊己庚辛壬癸", "子丑寅卯辰巳午未申酉", "一二三四五六七八九十"


def now_us() -> int:
    """Microseconds since boot: the clock that the room's stamps have too."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def people(count: int) -> list[Identity]:
    """So many invented people (at most 1,000), each with a name and a number of region 000000 of his own, the check character right."""
    made = []
    for i in range(count):
        born = date(1960, 1, 1) + timedelta(days=13 * i)
        number_18 = number.from_15(f"{number.DEMO_REGION}{born:%y%m%d}{i % 997 + 1:03d}")
        name = f"样例{STEMS[i // 100 % 10]}{BRANCHES[i // 10 % 10]}{COUNTS[i % 10]}"
        made.append(Identity(Document.RESIDENT, number_18, name, number.sex(number_18) or "1", born, date(2020, 1, 1), date(2040, 1, 1),
                             nation="01", address="样例省样例市样例路1号", issuer="样例公安局"))
    return made


class LaidReader:
    """A reader at `link` until `close`. `own_s`: seconds that its module takes for a command before it answers; of others none.

    Every byte takes its time on the line at `baud`, those of the command too. `last_byte_us`: when the last byte of each card's text and
    photo was handed to the kernel, in the order of the cards.
    """

    def __init__(self, link: Path, baud: int, own_s: Mapping[Command, float]) -> None:
        self.last_byte_us: list[int] = []
        self._byte_s = BITS_PER_BYTE / baud
        self._own_s = own_s
        self._module, self._lock = Module(), threading.Lock()
        self._far, self._near = os.openpty()
        tty.setraw(self._near)
        link.symlink_to(os.ttyname(self._near))
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="laid-reader", daemon=True)
        self._thread.start()

    def lay(self, person: Identity) -> None:
        """This card lies on the reader from now on, in place of one that lies there."""
        with self._lock:
            self._module.lay(card.encode_text(person))

    def lift(self) -> None:
        with self._lock:
            self._module.lift()

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        os.close(self._near)
        os.close(self._far)

    def _serve(self) -> None:
        frames = wire.Deframer(wire.SHORTEST_COMMAND)
        while not self._ending.is_set():
            if select.select([self._far], [], [], 0.1)[0]:
                for frame in frames.feed(os.read(self._far, 4096)):
                    self._answer(wire.decode_command(frame), time.monotonic() + len(frame) * self._byte_s)

    def _answer(self, command: Command, heard_s: float) -> None:
        """Answer a command whose last byte is there at `heard_s`: each piece leaves when the line would have carried its last byte."""
        begins = heard_s + self._own_s.get(command, 0.0)
        _until(begins)
        with self._lock:
            answer = self._module.reply(command)
        for end in range(PIECE, len(answer) + PIECE, PIECE):
            _until(begins + min(end, len(answer)) * self._byte_s)
            if command == wire.READ and len(answer) > wire.TEXT_BYTES and end >= len(answer):
                self.last_byte_us.append(now_us())      # before the write: what the kernel takes counts as ours
            os.write(self._far, answer[end - PIECE:end])


def _until(moment_s: float) -> None:
    left = moment_s - time.monotonic()
    if left > 0:
        time.sleep(left)
