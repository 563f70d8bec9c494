"""An exported ZIP read where it is: nothing is unpacked, each member's bytes are read once, and what is meant to trap a reader is named.

The directory is read by the standard library; then every member is looked up in the file itself. Two programs may see different files in
one ZIP (two members of one name, a name that differs between directory and member, bytes that no member owns, members that overlap): what
this module passes, all of them see alike. Form: PKWARE APPNOTE 6.3.10, 4.3.7 (local header), 4.4.4 (flags), 4.4.5 (methods), 4.6.9 (a
second name).
LIMIT: CRC-32 is not compared; what counts is covered by digests and signatures, and those are taken over the bytes that come out.
Standard library only. Called by `shown`.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge.evidence.fault import Fault

DIRECTORY_MAX_BYTES = 64 << 20
"""Half a million files; the directory of a session of twelve hours and six streams has 1 MB."""
MOST_INFLATED = 1032
"""No stored byte of DEFLATE becomes more than so many (RFC 1951: 258 bytes in two bits)."""
MOST_FAULTS = 100
"""After so many traps the list is no longer of use to anybody."""
_LOCAL, _STORED, _DEFLATED, _ENCRYPTED, _DESCRIBED_LATER, _UTF8 = 30, 0, 8, 0x2041, 1 << 3, 1 << 11
_DESCRIPTOR_MOST = 24
_UNKNOWN_SIZE = 0xFFFFFFFF
_CHUNK = 1 << 20
_PART = r"[^/\\:\x00-\x1f]{0,254}[^/\\:\x00-\x1f. ]"      # nor a dot or blank at its end, which Windows drops
_PLAIN_NAME = re.compile(f"{_PART}(/{_PART}){{0,30}}")
_SECOND_NAME = 0x7075
_BROKEN = (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OverflowError, EOFError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Member:
    """Where the bytes of one file lie in a ZIP. `kind`: file, absent (there is none of that name), other (a link, a device)."""

    kind: Literal["file", "absent", "other"]
    handle: int = -1
    at: int = 0
    packed: int = 0
    size: int = 0
    deflated: bool = False

    def pieces(self, buffer: memoryview) -> Iterator[memoryview | bytes]:
        """All bytes, a piece at a time, `buffer` used anew for each. OSError as the disk gives it; ValueError if they cannot be unpacked to
        `size` bytes: at most one piece more than that is ever made."""
        if not self.deflated:
            at, end = self.at, self.at + self.size
            while at < end:
                count = os.preadv(self.handle, [buffer[:min(len(buffer), end - at)]], at)
                if not count:
                    raise OSError(5, "the file has become shorter")
                yield buffer[:count]
                at += count
            return
        yield from self._inflated()

    def _inflated(self) -> Iterator[bytes]:
        inflater, at, end, made = zlib.decompressobj(-zlib.MAX_WBITS), self.at, self.at + self.packed, 0
        rest = b""
        while not inflater.eof:
            if not rest:
                rest = os.pread(self.handle, min(_CHUNK, end - at), at)
                at += len(rest)
            if not rest:
                raise ValueError("it ends in the middle")
            try:
                piece = inflater.decompress(rest, _CHUNK)
            except zlib.error as error:
                raise ValueError(str(error)) from error
            rest = inflater.unconsumed_tail
            made += len(piece)
            if made > self.size:
                raise ValueError(f"it holds more than the {self.size} bytes that it says")
            yield piece
        if made != self.size:
            raise ValueError(f"it holds {made} bytes, not {self.size} as it says")

    def read(self, most: int) -> bytes:
        """All bytes. FileNotFoundError, OSError, ValueError (also for more than `most`)."""
        if self.kind != "file":
            raise FileNotFoundError(2, "No such file")
        if self.size > most:
            raise ValueError(f"{self.size} bytes are too many")
        return b"".join(bytes(piece) for piece in self.pieces(memoryview(bytearray(min(_CHUNK, self.size or 1)))))


class _Bounded:
    """The file as the standard library's reader sees it: it may not take more than a directory's worth at once."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, count: int = -1) -> bytes:
        if count > DIRECTORY_MAX_BYTES:
            raise ValueError(f"its directory would have {count} bytes")
        return bytes(self._file.read(count if count >= 0 else DIRECTORY_MAX_BYTES))     # without a count: the last 64 KB


class Zip:
    """The ZIP at `path`. `faults`: what is wrong with it as a ZIP; `members` by name. OSError if it cannot be opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members: dict[str, Member] = {}
        self.faults: list[Fault] = []
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        facts = os.fstat(self._handle)
        if stat.S_ISREG(facts.st_mode):
            self._read(facts.st_size)
        else:
            self._damaged("is no plain file")

    def close(self) -> None:
        os.close(self._handle)

    def __enter__(self) -> Zip:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def member(self, name: str) -> Member:
        return self.members.get(name, Member("absent"))

    def _damaged(self, text: str) -> None:
        self.faults.append(Fault("zip-damaged", f"{self.path.name} {text}"))

    def _trap(self, text: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(Fault("zip-trap", f"{self.path.name}: {text}"))

    def _read(self, size: int) -> None:
        try:
            with os.fdopen(os.dup(self._handle), "rb") as file, zipfile.ZipFile(_Bounded(file)) as directory:
                infos, begins = directory.infolist(), directory.start_dir
        except _BROKEN as error:
            begun = os.pread(self._handle, 4, 0) == b"PK\x03\x04"
            self._damaged(f"is cut off or damaged: {error}. Its directory stands at its end" if begun else f"is no ZIP: {error}")
            return
        tail = os.pread(self._handle, min(size - begins, DIRECTORY_MAX_BYTES + (1 << 17)), begins)
        end = tail.find(b"PK\x05\x06")
        if tail.count(b"PK\x05\x06") != 1 or end + 22 + int.from_bytes(tail[end + 20:end + 22], "little") != len(tail):
            self._trap("it has a second directory or something behind the first, and programs differ about which one counts")
        self._extents(infos, begins, size)
        self._names(infos)

    def _extents(self, infos: list[zipfile.ZipInfo], begins: int, size: int) -> None:
        """Every byte before the directory belongs to one member, and to one alone."""
        at, descriptor = 0, False
        for info in sorted(infos, key=lambda each: each.header_offset):
            start = info.header_offset
            if start < at:
                self._trap(f"{_shown(info)} lies over the file before it")
            elif start - at > (_DESCRIPTOR_MOST if descriptor else 0):
                self._trap(f"{start - at} bytes before {_shown(info)} belong to no file of the directory")
            found = self._locate(info, begins)
            at, descriptor = max(at, found), bool(info.flag_bits & _DESCRIBED_LATER)
        if begins - at > (_DESCRIPTOR_MOST if descriptor else 0) and begins <= size:
            self._trap(f"{begins - at} bytes before the directory belong to no file of it")

    def _locate(self, info: zipfile.ZipInfo, begins: int) -> int:
        """Take one member in, or say why not. Returns where it ends."""
        start = info.header_offset
        head = os.pread(self._handle, _LOCAL, start) if 0 <= start < begins else b""
        if len(head) < _LOCAL or head[:4] != b"PK\x03\x04":
            self._damaged(f"is damaged: {_shown(info)} is not where its directory says")
            return start
        _, _, flags, method, _, _, _, packed, _, names, extra = struct.unpack("<4s5H3I2H", head)
        at: int = start + _LOCAL + names + extra
        raw, more = os.pread(self._handle, names, start + _LOCAL), os.pread(self._handle, extra, start + _LOCAL + names)
        if {raw.decode("utf-8" if flags & _UTF8 else "cp437", "replace"), *_second_names(more + info.extra)} != {info.orig_filename}:
            self._trap(f"{_shown(info)} has another name where it lies than in the directory")
        elif (flags | info.flag_bits) & _ENCRYPTED:
            self._trap(f"{_shown(info)} is encrypted")
        elif method != info.compress_type or method not in (_STORED, _DEFLATED):
            self._trap(f"{_shown(info)} is packed in a way that is not read here (method {info.compress_type})")
        elif not flags & _DESCRIBED_LATER and packed not in (info.compress_size, _UNKNOWN_SIZE):
            self._trap(f"{_shown(info)} has another size where it lies than in the directory")
        elif info.file_size > info.compress_size * (1 if method == _STORED else MOST_INFLATED) or (
                method == _STORED and info.file_size != info.compress_size):
            self._trap(f"{_shown(info)} says to hold {info.file_size} bytes, which {info.compress_size} cannot")
        elif at + info.compress_size > begins:
            self._damaged(f"is damaged: {_shown(info)} does not end before the directory")
        else:
            kind: Literal["file", "other"] = "file" if stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG) else "other"
            self.members.setdefault(info.orig_filename, Member(
                kind, self._handle, at, info.compress_size, info.file_size, method == _DEFLATED))
        return min(at + info.compress_size, begins)

    def _names(self, infos: list[zipfile.ZipInfo]) -> None:
        """Each name is a plain path below the folder, there once, also for programs that do not tell capitals from small letters."""
        seen: dict[str, str] = {}
        for name in (info.orig_filename for info in infos):
            plain = name.removesuffix("/")
            if not _PLAIN_NAME.fullmatch(plain):
                self._trap(f"{name[:200]!r} leads out of the folder, or is no name of a file")
            elif (other := seen.get(_alike(plain))) is not None:
                self._trap(f"{name!r} is there twice" if other == name else f"{name!r} and {other!r} become one file where letters' case "
                           "does not count")
                self.members.pop(other, None)
            else:
                seen[_alike(plain)] = name
                if name != plain:
                    self.members.pop(name, None)        # a folder
                continue
            self.members.pop(name, None)
        above = {plain.rsplit("/", depth)[0] for plain in seen for depth in range(1, plain.count("/") + 1)}
        for name in sorted(name for plain, name in seen.items() if plain in above and not name.endswith("/")):
            self._trap(f"{name!r} is a file and a folder")
            self.members.pop(name, None)


def _alike(name: str) -> str:
    """One text for all names that some file system takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


def _second_names(extra: bytes) -> Iterator[str]:
    """Names in extra fields, which some programs unpack to instead."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == _SECOND_NAME:
            yield extra[4 + 5:4 + length].decode("utf-8", "replace")
        extra = extra[4 + length:]


def _shown(info: zipfile.ZipInfo) -> str:
    return repr(info.orig_filename[:200])
