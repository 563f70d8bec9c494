"""Frames of the serial SDT/SAM_V protocol, both ways, without any input or output.

    command  AA AA AA 96 69 | Len Len | CMD PARA    | data … | CHK        Len: big-endian, counts everything after itself
    answer   AA AA AA 96 69 | Len Len | SW1 SW2 SW3 | data … | CHK        CHK: XOR of everything from Len on, CHK left out

The preamble may occur in data and nothing is escaped: a frame is read by its length, never searched in. Assumes nothing of the
line: any byte may come at any time. Callers: `reader`, and turned round `sim.card_reader`.
Source: the SAM_V protocol document as published by several vendors, and what published drivers agree on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from operator import xor
from typing import Final

PREAMBLE: Final = bytes.fromhex("AAAAAA9669")
_HEAD: Final = len(PREAMBLE) + 2
SHORTEST_COMMAND: Final = 3
SHORTEST_ANSWER: Final = 4
LONGEST: Final = 0x0A00
"""Cap of Len: the largest real answer has 0x090A (with fingerprints)."""
TEXT_BYTES: Final = 256
PHOTO_BYTES: Final = 1024
ADDRESS_BYTES: Final = 70


class WireError(ValueError):
    """These bytes are no such frame. The text names what is wrong and holds none of the data."""


@dataclass(frozen=True, slots=True)
class Command:
    """What a host asks."""

    cmd: int
    para: int
    data: bytes = b""


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """What the module says: the third status byte (the other two are always 0) and its data. `repr` shows no data."""

    sw3: int
    data: bytes = b""

    def __repr__(self) -> str:
        return f"Answer({self.sw3:02X}, {len(self.data)} bytes)"


RESET: Final = Command(0x10, 0xFF)
STATUS: Final = Command(0x11, 0xFF)
SAM_ID: Final = Command(0x12, 0xFF)
FIND: Final = Command(0x20, 0x01)
SELECT: Final = Command(0x20, 0x02)
READ: Final = Command(0x30, 0x01)
NEW_ADDRESS: Final = Command(0x30, 0x03)
MANAGEMENT: Final = Command(0x30, 0x05)

OK: Final = 0x90
FOUND: Final = 0x9F
NO_SUCH_ITEM: Final = 0x91
NOT_FOUND: Final = 0x80
NOT_SELECTED: Final = 0x81
BAD_CHECKSUM: Final = 0x10
UNSUPPORTED: Final = 0x21
NO_PERMISSION: Final = 0x23
READ_FAILED: Final = 0x41


class Kind(StrEnum):
    """What a driver does about a status."""

    OK = "ok"
    IDLE = "idle"                       # no card, or the card that was read still lies there
    RESEND = "resend"                   # the module did not understand the bytes: line noise
    RESTART = "restart"                 # begin again at find
    REPLACE = "replace"                 # the card must be lifted and laid down again
    UNSUPPORTED = "unsupported"         # never for this command
    RESET = "reset"                     # reset the module first
    FAULT = "fault"                     # the module is broken or not allowed to work


_STATUS: Final[dict[int, tuple[Kind, str]]] = {
    0x90: (Kind.OK, "ok"),
    0x9F: (Kind.OK, "found"),
    0x91: (Kind.OK, "no-such-item"),
    0x80: (Kind.IDLE, "not-found"),
    0x81: (Kind.RESTART, "select-failed"),
    0x10: (Kind.RESEND, "checksum-wrong"),
    0x11: (Kind.RESEND, "length-wrong"),
    0x21: (Kind.UNSUPPORTED, "not-supported"),
    0x23: (Kind.RESTART, "not-authenticated"),
    0x24: (Kind.RESET, "unrecognised-error"),
    0x31: (Kind.REPLACE, "card-refuses-module"),
    0x32: (Kind.REPLACE, "module-refuses-card"),
    0x33: (Kind.REPLACE, "data-not-genuine"),
    0x37: (Kind.REPLACE, "fingerprint-not-genuine"),
    0x3F: (Kind.REPLACE, "data-length-wrong"),
    0x40: (Kind.REPLACE, "unknown-card-type"),
    0x41: (Kind.REPLACE, "read-failed"),
    0x47: (Kind.RESET, "random-number-failed"),
    0x60: (Kind.FAULT, "self-test-failed"),
    0x66: (Kind.FAULT, "not-authorised"),
}

STATUS_WORDS: Final = frozenset(word for _, word in _STATUS.values())


def status(sw3: int) -> tuple[Kind, str]:
    """What a driver does about this status byte, and its word. An unknown one counts as an unrecognised error."""
    return _STATUS.get(sw3, _STATUS[0x24])


def encode(frame: Command | Answer) -> bytes:
    """The bytes of a frame. WireError if its data do not fit under the cap of Len."""
    head = bytes((frame.cmd, frame.para)) if isinstance(frame, Command) else bytes((0, 0, frame.sw3))
    length = len(head) + len(frame.data) + 1
    if length > LONGEST:
        raise WireError(f"a frame of length {length}; the cap is {LONGEST}")
    body = struct.pack(">H", length) + head + frame.data
    return PREAMBLE + body + bytes((reduce(xor, body),))


def decode_command(frame: bytes) -> Command:
    """A whole frame as a command. WireError if it is none."""
    body = _body(frame, SHORTEST_COMMAND)
    return Command(body[0], body[1], body[2:])


def decode_answer(frame: bytes) -> Answer:
    """A whole frame as an answer. WireError if it is none: a vendor's own frame, too, has other first status bytes."""
    body = _body(frame, SHORTEST_ANSWER)
    if body[:2] != b"\0\0":
        raise WireError("not an SDT answer: its first status bytes are not zero")
    return Answer(body[2], body[3:])


def _body(frame: bytes, shortest: int) -> bytes:
    """Everything between Len and CHK of one frame that fills `frame` exactly."""
    if len(frame) < _HEAD or not frame.startswith(PREAMBLE):
        raise WireError("no preamble")
    length = int.from_bytes(frame[5:7], "big")
    if not shortest <= length <= LONGEST or len(frame) != _HEAD + length:
        raise WireError(f"length {length} in a frame of {len(frame)} bytes")
    if reduce(xor, frame[5:]):
        raise WireError("checksum")
    return frame[_HEAD:-1]


def base_message(data: bytes) -> tuple[bytes, bytes]:
    """Text (256 bytes) and photo (1024 bytes, still compressed) in the data of an answer to READ. WireError if it is none.

    An answer with fingerprints has a third inner length and does not fit: it is never asked for, so it is refused.
    """
    if len(data) < 4:
        raise WireError("no base message: too short")
    text, photo = struct.unpack(">HH", data[:4])
    if (text, photo) != (TEXT_BYTES, PHOTO_BYTES) or len(data) != 4 + text + photo:
        raise WireError(f"no base message: text {text}, photo {photo}, {len(data)} bytes of data")
    return data[4:4 + text], data[4 + text:]


def encode_base_message(text: bytes, photo: bytes) -> bytes:
    """The data of an answer to READ. WireError if the parts do not have their lengths."""
    if len(text) != TEXT_BYTES or len(photo) != PHOTO_BYTES:
        raise WireError(f"a base message has {TEXT_BYTES} and {PHOTO_BYTES} bytes, not {len(text)} and {len(photo)}")
    return struct.pack(">HH", TEXT_BYTES, PHOTO_BYTES) + text + photo


def sam_id(data: bytes) -> str:
    """The module's id as vendors print it, `05.01-20130601-0001234567-0987654321`. WireError if it is not 16 bytes."""
    if len(data) != 16:
        raise WireError(f"a SAM id of {len(data)} bytes")
    return "{:02d}.{:02d}-{:08d}-{:010d}-{:010d}".format(*struct.unpack("<HHIII", data))


def new_address(data: bytes) -> str | None:
    """The newest address in the data of an answer to NEW_ADDRESS: one to four fields of 70 bytes, the last that is not blank.

    None if all are blank. WireError if it is not whole fields; there is no inner length.
    """
    if not data or len(data) % ADDRESS_BYTES or len(data) > 4 * ADDRESS_BYTES:
        raise WireError(f"appended addresses of {len(data)} bytes")
    fields = [data[at:at + ADDRESS_BYTES].decode("utf-16-le", "replace").rstrip(" \0") for at in range(0, len(data), ADDRESS_BYTES)]
    return next(filter(None, reversed(fields)), None)


def management_number(data: bytes) -> str:
    """The card's management number in the data of an answer to MANAGEMENT, in hex: `IIN-SN-DN`, or `SN-DN` from modules that leave
    the first part out. WireError if it is neither 28 nor 24 bytes."""
    if len(data) not in (24, 28):
        raise WireError(f"a management number of {len(data)} bytes")
    parts = (data[:-24], data[-24:-16], data[-16:])
    return "-".join(part.hex().upper() for part in parts if part)


class Deframer:
    """Finds frames in whatever arrives. The same frames come out however the bytes were cut.

    Holds at most one unfinished frame (2566 bytes). `dropped` counts bytes that belonged to no frame, preambles of false
    starts included. A frame that comes out has a right checksum; whether it is an answer is `decode_answer`'s question.
    """

    def __init__(self, shortest: int = SHORTEST_ANSWER) -> None:
        self._shortest = shortest
        self._buffer = bytearray()
        self.dropped = 0

    @property
    def pending(self) -> bool:
        """A frame has begun and is not whole."""
        return self._buffer.startswith(PREAMBLE)

    @property
    def held(self) -> int:
        """Bytes kept for later."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; give the whole frames, preamble and checksum included."""
        self._buffer += data
        frames = []
        while self._to_preamble() and len(self._buffer) >= _HEAD:
            length = int.from_bytes(self._buffer[5:7], "big")
            if not self._shortest <= length <= LONGEST:
                self._drop(len(PREAMBLE))
            elif len(self._buffer) < _HEAD + length:
                break
            elif reduce(xor, self._buffer[5:_HEAD + length]):
                self._drop(len(PREAMBLE))
            else:
                frames.append(bytes(self._buffer[:_HEAD + length]))
                del self._buffer[:_HEAD + length]
        return frames

    def missed_deadline(self) -> list[bytes]:
        """The frame that has begun will not come: drop its preamble and look at what is left."""
        if self.pending:
            self._drop(len(PREAMBLE))
        return self.feed(b"")

    def clear(self) -> None:
        """Forget what is held."""
        self._drop(len(self._buffer))

    def _to_preamble(self) -> bool:
        """Drop what stands before the first preamble; without one, keep only a tail that could be its start."""
        at = self._buffer.find(PREAMBLE)
        if at < 0:
            tail = next(n for n in range(len(PREAMBLE) - 1, -1, -1) if self._buffer.endswith(PREAMBLE[:n]))
            at = len(self._buffer) - tail
            self._drop(at)
            return False
        self._drop(at)
        return True

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self.dropped += count
