"""The photo on a card's chip (1,024 bytes of WLT) to a picture: by nothing, or by a library that the operator brought.

No open decoder is published, so there is none in this repository and by default the photo is dropped. Where the reader's maker gave a
library, its path and SHA-256 stand in the configuration. It is a stranger's closed code, so it never runs in the room's process:
`photo_worker` loads it in a process of its own for each photo, without network, files or time to waste, and what comes out is believed
only if its length and form are right. That it crashes, hangs or lies is data (`Undecoded`), never a fault of the room. Standard library
only. Caller: `edge/faces.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

WLT_BYTES: Final = 1024
WIDTH, HEIGHT = 102, 126
RAW_BYTES: Final = WIDTH * HEIGHT * 3               # 38556: blue, green, red, row by row from the top
_ROW: Final = (WIDTH * 3 + 3) // 4 * 4              # a BMP's rows are padded to four bytes: 308
BMP_BYTES: Final = 54 + HEIGHT * _ROW               # 38862
DECODE_S: Final = 2.0
"""Libraries take some 10 ms; one that takes two seconds hangs."""

EXITS: Final = {10: "no-cage", 11: "not-that-file", 12: "not-loadable", 13: "no-function", 14: "decoder-refused", 15: "wrong-size"}
"""How `photo_worker` ends, and the word for it; 0: a picture. Any other end is `decoder-crashed`."""
UNDECODED_WORDS: Final = frozenset(EXITS.values()) | {"not-a-photo", "decoder-crashed", "decoder-timeout"}


class Undecoded(Exception):
    """There is no picture. `word`: one of `UNDECODED_WORDS`."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class PhotoDecoder(Protocol):
    """Whatever makes a picture of a chip's photo."""

    async def decode(self, wlt: bytes) -> bytes:
        """The photo as a BMP of 102 x 126 pixels, 24 bits. Undecoded if there is none."""


def worker(library: Path, sha256: str, function: str) -> tuple[str, ...]:
    """The argv that runs an operator's library."""
    return (sys.executable, "-m", "edge.idcheck.photo_worker", str(library), sha256, function)


class LibraryDecoder:
    """An operator's library, run anew for each photo: what it spoils is gone with its process."""

    def __init__(self, command: Sequence[str], decode_s: float = DECODE_S) -> None:
        self._command, self._decode_s = tuple(command), decode_s

    async def decode(self, wlt: bytes) -> bytes:
        """See PhotoDecoder."""
        if len(wlt) != WLT_BYTES or not wlt.startswith(b"WL"):
            raise Undecoded("not-a-photo")
        keep = {name: value for name in ("PATH", "PYTHONPATH", "PYTHONSAFEPATH") if (value := os.environ.get(name)) is not None}
        try:
            process = await asyncio.create_subprocess_exec(*self._command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=keep,
                                                           start_new_session=True)
        except OSError as error:
            raise Undecoded("decoder-crashed") from error
        try:
            async with asyncio.timeout(self._decode_s):
                output, _ = await process.communicate(wlt)
        except TimeoutError as error:
            raise Undecoded("decoder-timeout") from error
        finally:
            await _end(process)
        if process.returncode != 0:
            raise Undecoded(EXITS.get(process.returncode or 0, "decoder-crashed"))
        return _bmp(output)


async def _end(process: Process) -> None:
    """Whatever the library started goes with it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _bmp(output: bytes) -> bytes:
    """The output as a BMP, whichever of its two lengths it has."""
    head = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", BMP_BYTES, 0, 0, 54, 40, WIDTH, -HEIGHT, 1, 24, 0, HEIGHT * _ROW, 2835, 2835, 0, 0)
    if len(output) == RAW_BYTES:        # LIMIT: taken to run from the top; no such library was seen at work
        rows = (output[at:at + WIDTH * 3].ljust(_ROW, b"\0") for at in range(0, RAW_BYTES, WIDTH * 3))
        return head + b"".join(rows)
    if len(output) != BMP_BYTES:
        raise Undecoded("wrong-size")
    magic, _, _, _, data_at, _, width, height, _, depth, packed = struct.unpack("<2sIHHIIiiHHI", output[:34])
    if (magic, data_at, width, abs(height), depth, packed) != (b"BM", 54, WIDTH, HEIGHT, 24, 0):
        raise Undecoded("wrong-size")
    return output
