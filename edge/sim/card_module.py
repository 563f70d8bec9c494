"""The security module in a simulated ID-card reader: the SDT protocol turned round, without any I/O.

It answers as published real ones do, and can be told to spoil answers. Callers: `card_reader` behind a pty; the tests' USB bus.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

from edge.idcheck import wire
from edge.idcheck.wire import Answer, Command

TROUBLES: Final = ("silent", "half", "garbled", "noise", "status")
SAM_ID: Final = bytes.fromhex("05000100") + b"".join(n.to_bytes(4, "little") for n in (20260101, 0, 7))
MANAGEMENT: Final = bytes(range(1, 29))
# "WL", width 102, height 126, …: the head that every such photo has, and nothing behind it.
PHOTO: Final = bytes.fromhex("574C66007E00320000").ljust(wire.PHOTO_BYTES, b"\0")


class Module:
    """The security module in the reader: which card lies on it, and how far it has got with it."""

    def __init__(self) -> None:
        self._frames = wire.Deframer(wire.SHORTEST_COMMAND)
        self._text: bytes | None = None
        self._address = b""
        self._noise = random.Random(7)
        self._trouble: tuple[str, int, str] = ("", 0, "")
        self._trouble_left = 0
        self.step = "none"                  # none, found, selected, read: how far it is with the card
        self.served = 0
        self.was_read = asyncio.Event()
        self.found_empty = asyncio.Event()

    @property
    def occupied(self) -> bool:
        return self._text is not None

    def power_on(self) -> None:
        """What a module knows right after it got power: nothing."""
        self._frames.clear()
        self.step = "none"

    def lay(self, text: bytes, address: bytes = b"") -> None:
        """A card with this text (and appended addresses) lies on the reader; one that lay there is gone."""
        self._text, self._address, self.step = text, address, "none"
        self.was_read.clear()
        self.found_empty.clear()

    def lift(self) -> None:
        self._text, self.step = None, "none"

    def trouble(self, kind: str, sw3: int, command: str, times: int) -> None:
        """Spoil the next `times` answers to `command` (hex of CMD and PARA; empty: to any)."""
        self._trouble, self._trouble_left = (kind, sw3, command), times

    def hear(self, data: bytes) -> bytes:
        """What the module sends after these bytes have come in."""
        return b"".join(self.reply(wire.decode_command(frame)) for frame in self._frames.feed(data))

    def reply(self, command: Command) -> bytes:
        """The bytes of the answer: right ones, unless there is trouble. A status is the module's own failure, the rest the line's."""
        self.served += 1
        kind, sw3, only = self._trouble
        if not self._trouble_left or (only and only != f"{command.cmd:02X}{command.para:02X}"):
            return wire.encode(self.answer(command))
        self._trouble_left -= 1
        if kind == "status":
            return wire.encode(Answer(sw3))
        answer = wire.encode(self.answer(command))
        match kind:
            case "garbled":
                return answer[:-1] + bytes((answer[-1] ^ 0xFF,))
            case "half":
                return answer[:len(answer) // 2]
            case "noise":
                return self._noise.randbytes(40) + answer + self._noise.randbytes(40)
            case _:
                return b""

    def answer(self, command: Command) -> Answer:
        """The module's answer, as real ones give it. Fingerprints and whatever else the driver must not need: 21."""
        match command:
            case wire.RESET | wire.STATUS:
                if command == wire.RESET:
                    self.step = "none"
                return Answer(wire.OK)
            case wire.SAM_ID:
                return Answer(wire.OK, SAM_ID)
            case wire.FIND:
                if self._text is None:
                    self.found_empty.set()
                if self._text is None or self.step == "read":
                    return Answer(wire.NOT_FOUND)
                self.step = "found"
                return Answer(wire.FOUND, bytes(4))
            case wire.SELECT:
                if self.step != "found":
                    return Answer(wire.NOT_SELECTED)
                self.step = "selected"
                return Answer(wire.OK, bytes(8))
            case wire.READ:
                if self._text is None or self.step not in ("selected", "read"):
                    return Answer(wire.NO_PERMISSION)
                self.step = "read"
                self.was_read.set()
                return Answer(wire.OK, wire.encode_base_message(self._text, PHOTO))
            case wire.NEW_ADDRESS | wire.MANAGEMENT if self.step not in ("selected", "read"):
                return Answer(wire.READ_FAILED)
            case wire.NEW_ADDRESS:
                return Answer(wire.OK, self._address) if self._address else Answer(wire.NO_SUCH_ITEM)
            case wire.MANAGEMENT:
                return Answer(wire.OK, MANAGEMENT)
            case _:
                return Answer(wire.UNSUPPORTED)
