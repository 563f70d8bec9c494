"""A ZIP archive that is never made: any byte of it can be given at once, because every offset follows from names and sizes alone.

Members are stored, not deflated (video does not shrink), each with a ZIP64 data descriptor behind it, so that nothing is read twice
for its CRC-32. The bytes depend on the members and `at_utc_us` only. Form: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.9
(descriptor), 4.3.12 (directory), 4.3.14 to 4.3.16 (ends), 4.5.3 (ZIP64). Our own few lines, because the libraries that stream ZIPs (and
the standard library) write from the front only: a download that goes on in the middle, or a stick pulled out at 40 GB, would start anew.
Each member's SHA-256 is compared as it is read through: `altered` names what is not what the manifest says.
Callers: `copying` and `web.download`. One reader at a time; a thread may read, the event loop must not.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path

CHUNK_BYTES = 1 << 20
MOST_WAITING = 8                        # pieces for the digest: two threads that wait for each other at each piece are slow
_VERSION = 45                           # 4.4.3.2: ZIP64
_MADE_BY_UNIX = (3 << 8) | _VERSION
_DESCRIBED_LATER = 1 << 3               # 4.4.4
_PLAIN_FILE = 0o100644 << 16
_FULL = 0xFFFFFFFF
_LOCAL_ZIP64 = struct.pack("<HHQQ", 1, 16, 0, 0)
_DESCRIPTOR_BYTES, _LOCAL_BYTES, _CENTRAL_BYTES, _ENDS_BYTES = 24, 30 + 20, 46 + 28, 56 + 20 + 22


class MemberChanged(Exception):
    """A file is not as long any more as when the export was laid out, or is gone: the archive cannot be finished. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an export. `name`: ASCII, relative, with slashes. `data`, or `path` of a file of exactly `size` bytes."""

    name: str
    size: int
    sha256: str                         # as it should be: the manifest's, for footage
    data: bytes | None = field(default=None, repr=False)
    path: Path | None = None

    @classmethod
    def of(cls, name: str, data: bytes) -> Member:
        return cls(name, len(data), hashlib.sha256(data).hexdigest(), data)

    def pieces(self, start: int = 0) -> Iterator[bytes]:
        """The bytes from `start` on, a megabyte at a time. MemberChanged if they are not `size` bytes in all."""
        if self.path is None:
            yield (self.data or b"")[start:]
            return
        with opened(self.path, self.name, self.size) as handle:
            at = start
            while at < self.size:
                piece = os.pread(handle, min(CHUNK_BYTES, self.size - at), at)
                if not piece:
                    raise MemberChanged(f"{self.name} has become shorter while it was read")
                yield piece
                at += len(piece)

    def views(self) -> Iterator[memoryview]:
        """All bytes, each piece good until the next one only: one piece of memory for them all."""
        if self.path is None:
            yield memoryview(self.data or b"")
            return
        with opened(self.path, self.name, self.size) as handle:
            at, whole = 0, memoryview(bytearray(min(CHUNK_BYTES, self.size)))
            while at < self.size:
                count = os.preadv(handle, [whole[:self.size - at]], at)
                if not count:
                    raise MemberChanged(f"{self.name} has become shorter while it was read")
                yield whole[:count]
                at += count


@contextmanager
def opened(path: Path, name: str, size: int) -> Iterator[int]:
    """A descriptor of a plain file of `size` bytes. What was read leaves the page cache: the recorder's newest files stay in it."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise MemberChanged(f"{name} cannot be read any more ({error.strerror})") from error
    try:
        if os.fstat(handle).st_size != size:
            raise MemberChanged(f"{name} has {os.fstat(handle).st_size} bytes now, not {size}")
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        yield handle
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


class Archive:
    """`members` in their order as one ZIP. `at_utc_us`: the time that every member is given (its UTC date and time, to 2 s)."""

    def __init__(self, members: Sequence[Member], at_utc_us: int) -> None:
        if len({m.name for m in members}) != len(members) or not all(m.name.isascii() for m in members):
            raise ValueError("two members have one name, or a name is not plain ASCII")
        self.members = tuple(members)
        self._altered = set[int]()
        moment = max(datetime.fromtimestamp(at_utc_us // 1_000_000, UTC), datetime(1980, 1, 1, tzinfo=UTC))
        self._date = (moment.year - 1980) << 9 | moment.month << 5 | moment.day
        self._time = moment.hour << 11 | moment.minute << 5 | moment.second // 2
        self._crcs: dict[int, int] = {}
        lengths = [_LOCAL_BYTES + len(m.name) + m.size + _DESCRIPTOR_BYTES for m in self.members]
        self.starts = tuple(accumulate(lengths, initial=0))     # where each member's local header begins; last: the directory
        self.size = self.starts[-1] + sum(_CENTRAL_BYTES + len(m.name) for m in self.members) + _ENDS_BYTES
        told = "".join(f"{m.sha256} {m.size} {m.name}\n" for m in self.members)
        self.id = hashlib.sha256(f"zip64/1 {self._date} {self._time}\n{told}".encode()).hexdigest()
        """Stands for the bytes: two archives of one id are alike, byte for byte (as long as nothing in them was altered)."""

    @property
    def altered(self) -> list[str]:
        """The names of those read through so far whose bytes are not what they should be."""
        return [self.members[index].name for index in sorted(self._altered)]

    def data_at(self, index: int) -> int:
        """Where a member's own bytes begin."""
        return self.starts[index] + _LOCAL_BYTES + len(self.members[index].name)

    def read(self, start: int = 0, stop: int | None = None) -> Generator[bytes]:
        """The archive's bytes from `start` to before `stop` (None: the end), in pieces of a megabyte at most. MemberChanged."""
        stop = self.size if stop is None else min(stop, self.size)
        at = start
        with ThreadPoolExecutor(1, thread_name_prefix="export-digest") as hasher:
            for index in range(bisect_right(self.starts, start) - 1, len(self.members)):
                for piece in self._member(index, at - self.starts[index], hasher):
                    if at >= stop:
                        return
                    yield piece[:stop - at]
                    at += len(piece)
        if at < stop:
            yield self.directory()[at - self.starts[-1]:stop - self.starts[-1]]

    def _member(self, index: int, skip: int, hasher: ThreadPoolExecutor) -> Iterator[bytes]:
        """Local header, bytes, descriptor; the first `skip` bytes of it all left out."""
        member, header = self.members[index], self.header(index)
        if skip < len(header):
            yield header[skip:]
        from_byte = max(0, skip - len(header))
        if from_byte == 0:
            yield from self._through(index, hasher)
        elif from_byte < member.size:
            yield from member.pieces(from_byte)
        yield self.descriptor(index)[max(0, from_byte - member.size):]

    def _through(self, index: int, hasher: ThreadPoolExecutor) -> Iterator[bytes]:
        """A member's bytes from the first to the last; on the way its CRC-32, and beside it, in the other thread, its SHA-256."""
        member, crc, digest, waiting = self.members[index], 0, hashlib.sha256(), deque[Future[None]]()
        for piece in member.pieces():
            waiting.append(hasher.submit(digest.update, piece))
            crc = zlib.crc32(piece, crc)
            yield piece
            while len(waiting) > MOST_WAITING:
                waiting.popleft().result()
        while waiting:
            waiting.popleft().result()
        self.know(index, crc, digest.hexdigest())

    def know(self, index: int, crc: int, sha256: str) -> None:
        """What reading a member through has shown."""
        self._crcs[index] = crc
        if sha256 != self.members[index].sha256:
            self._altered.add(index)

    def header(self, index: int) -> bytes:
        """A member's local header (4.3.7)."""
        name = self.members[index].name.encode()
        return struct.pack("<4s5H3I2H", b"PK\x03\x04", _VERSION, _DESCRIBED_LATER, 0, self._time, self._date, 0, _FULL, _FULL,
                           len(name), len(_LOCAL_ZIP64)) + name + _LOCAL_ZIP64

    def descriptor(self, index: int) -> bytes:
        """A member's data descriptor (4.3.9.2). Reads the member if its CRC-32 is not known yet."""
        size = self.members[index].size
        return struct.pack("<4sIQQ", b"PK\x07\x08", self._crc(index), size, size)

    def _crc(self, index: int) -> int:
        if index not in self._crcs:
            crc, digest = 0, hashlib.sha256()
            for piece in self.members[index].pieces():
                crc = zlib.crc32(piece, crc)
                digest.update(piece)
            self.know(index, crc, digest.hexdigest())
        return self._crcs[index]

    def directory(self) -> bytes:
        """The central directory and its three ends. Reads what was never read through."""
        entries = b"".join(map(self._entry, range(len(self.members))))
        count, begins, ends = len(self.members), self.starts[-1], self.starts[-1] + len(entries)
        return (entries
                + struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, _MADE_BY_UNIX, _VERSION, 0, 0, count, count, len(entries), begins)
                + struct.pack("<4sIQI", b"PK\x06\x07", 0, ends, 1)
                + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, min(count, 0xFFFF), min(count, 0xFFFF), min(len(entries), _FULL),
                              min(begins, _FULL), 0))

    def _entry(self, index: int) -> bytes:
        member, name = self.members[index], self.members[index].name.encode()
        zip64 = struct.pack("<HHQQQ", 1, 24, member.size, member.size, self.starts[index])
        return struct.pack("<4s6H3I5H2I", b"PK\x01\x02", _MADE_BY_UNIX, _VERSION, _DESCRIBED_LATER, 0, self._time, self._date,
                           self._crc(index), _FULL, _FULL, len(name), len(zip64), 0, 0, 0, _PLAIN_FILE, _FULL) + name + zip64
