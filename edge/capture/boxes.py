"""Reads fragmented MP4 as our muxer writes it: the header's tracks, each fragment's times and samples. Standard library only.

One reading for the segment being written and for the one a crash left, so both get the same index. Layout: ISO/IEC 14496-12
(tkhd 8.3.2, mdhd 8.4.2, hdlr 8.4.3, stsd 8.5.2, trex 8.8.3, tfhd 8.8.7, trun 8.8.8, tfdt 8.8.12).
Bad bytes raise BoxError. Called by muxer, recovery, tail and probe.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from edge.clock import US

NOT_SYNC = 0x10000
"""sample_is_non_sync_sample, ISO/IEC 14496-12 section 8.8.3.1."""
DIGEST = bytes.fromhex("b1f1a3c05d3e4b0c9a75c6e0d2f48e17")
"""Extended type (ISO/IEC 14496-12 section 4.2) of our own box at the end of a moof: SHA-256 of moof and mdat with these 32 bytes zero.
Players pass over it; recovery after a power cut knows by it which fragments the disk kept whole."""
SAMPLE_ENTRIES = {b"avc1": "h264", b"avc3": "h264", b"hvc1": "h265", b"hev1": "h265", b"mp4a": "aac"}


class BoxError(ValueError):
    """Not the MP4 that we write."""


@dataclass(slots=True)
class TrackHeader:
    """A track as the header describes it; `duration`, `flags`, `size` are its samples' defaults; `setup` is what its decoder needs."""

    number: int
    kind: str
    scale: int
    codec: str
    facts: dict[str, str | int] = field(default_factory=dict)
    duration: int = 0
    flags: int = 0
    size: int = 0
    setup: bytes = b""


@dataclass(frozen=True, slots=True)
class Sample:
    """One coded picture or piece of sound: bytes [offset, offset + size) counted from its moof's first byte, its time of presentation."""

    offset: int
    size: int
    media_us: int
    dur_us: int
    key: bool


@dataclass(frozen=True, slots=True)
class FragmentTimes:
    """What a moof says of the leading track: media time, samples in it, whether the first is a key frame."""

    start_us: int
    dur_us: int
    samples: int
    key: bool


def boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(kind, first byte of content, end) of each box between start and end. BoxError if one does not fit."""
    while start < end:
        if start + 8 > end:
            raise BoxError("a box without room for its size")
        size, kind = struct.unpack_from(">I4s", data, start)
        if size < 8 or start + size > end:
            raise BoxError("a box that does not fit")
        yield kind, start + 8, start + size
        start += size


def find(data: bytes, start: int, end: int, *path: bytes) -> Iterator[tuple[int, int]]:
    """Content bounds of every box at `path` below the given bounds."""
    for kind, inside, stop in boxes(data, start, end):
        if kind == path[0]:
            if len(path) == 1:
                yield inside, stop
            else:
                yield from find(data, inside, stop, *path[1:])


def read_header(header: bytes) -> dict[int, TrackHeader]:
    """Track number -> track, from ftyp and moov. BoxError if they are not ours."""
    try:
        tracks = {}
        for inside, stop in find(header, 0, len(header), b"moov", b"trak"):
            track = _read_track(header, inside, stop)
            tracks[track.number] = track
        for trex, _ in find(header, 0, len(header), b"moov", b"mvex", b"trex"):
            number, _, duration, size, flags = struct.unpack_from(">5I", header, trex + 4)
            tracks[number].duration, tracks[number].size, tracks[number].flags = duration, size, flags
    except (struct.error, IndexError, KeyError) as error:
        raise BoxError("a header that cannot be read") from error
    if not tracks:
        raise BoxError("a header without tracks")
    return tracks


def leading(tracks: dict[int, TrackHeader]) -> TrackHeader:
    """The track whose key frames begin segments: the picture, or else the sound."""
    return next((t for t in tracks.values() if t.kind == "video"), next(iter(tracks.values())))


def codec_of(tracks: dict[int, TrackHeader]) -> str:
    """`h264+aac`, `aac`, …: the picture's codec first."""
    return "+".join(t.codec for t in sorted(tracks.values(), key=lambda t: t.kind != "video"))


def _one(data: bytes, inside: int, stop: int, *path: bytes) -> int:
    at = next(find(data, inside, stop, *path), None)
    if at is None:
        raise BoxError(f"no {path[-1].decode('latin-1')}")
    return at[0]


def _read_track(data: bytes, inside: int, stop: int) -> TrackHeader:
    tkhd, mdhd = _one(data, inside, stop, b"tkhd"), _one(data, inside, stop, b"mdia", b"mdhd")
    hdlr = _one(data, inside, stop, b"mdia", b"hdlr")
    entry = _one(data, inside, stop, b"mdia", b"minf", b"stbl", b"stsd") + 8       # version, flags, entry count
    number, = struct.unpack_from(">I", data, tkhd + (20 if data[tkhd] else 12))
    scale, = struct.unpack_from(">I", data, mdhd + (20 if data[mdhd] else 12))
    kind = {b"vide": "video", b"soun": "audio"}.get(data[hdlr + 8:hdlr + 12])
    codec = SAMPLE_ENTRIES.get(data[entry + 4:entry + 8])
    if kind is None or codec is None or not scale:
        raise BoxError("a track of an unknown kind")
    facts: dict[str, str | int] = {"codec": codec}
    if kind == "video":
        facts["width"], facts["height"] = struct.unpack_from(">HH", data, entry + 32)
    else:
        facts["channels"], = struct.unpack_from(">H", data, entry + 24)
        facts["rate_hz"] = struct.unpack_from(">I", data, entry + 32)[0] >> 16
    return TrackHeader(number, kind, scale, codec, facts, setup=_read_setup(data, entry, kind))


def _read_setup(data: bytes, entry: int, kind: str) -> bytes:
    """Content of avcC or hvcC, or the AudioSpecificConfig in esds (ISO/IEC 14496-14 section 5.6); empty if there is none."""
    end = entry + struct.unpack_from(">I", data, entry)[0]
    inside = entry + 8 + (78 if kind == "video" else 28)        # of VisualSampleEntry and AudioSampleEntry, 14496-12 section 12
    for box, start, stop in boxes(data, inside, end):
        if box in (b"avcC", b"hvcC"):
            return data[start:stop]
        if box == b"esds":
            return _read_descriptor(data, start + 4, stop)
    return b""


def _read_descriptor(data: bytes, at: int, end: int) -> bytes:
    """The DecoderSpecificInfo below ES_Descriptor and DecoderConfigDescriptor (ISO/IEC 14496-1 section 7.2.6)."""
    while at < end:
        tag, size, at = data[at], 0, at + 1
        more = True
        while more:
            more, size, at = bool(data[at] & 0x80), size << 7 | data[at] & 0x7F, at + 1
        if tag == 5:
            return data[at:min(end, at + size)]
        at += {3: 3, 4: 13}.get(tag, size)      # both hold others behind their own fields
    return b""


def read_fragment(moof: bytes, tracks: dict[int, TrackHeader]) -> FragmentTimes | None:
    """The leading track's part of a whole moof box; None if the fragment has none (sound alone, at a file's end)."""
    lead = leading(tracks)
    try:
        for inside, stop in find(moof, 0, len(moof), b"moof", b"traf"):
            tfhd = _one(moof, inside, stop, b"tfhd")
            if struct.unpack_from(">I", moof, tfhd + 4)[0] == lead.number:
                return _read_traf(moof, inside, stop, lead)
    except (struct.error, IndexError) as error:
        raise BoxError("a fragment that cannot be read") from error
    return None


def _read_traf(data: bytes, inside: int, stop: int, track: TrackHeader) -> FragmentTimes:
    tfhd, tfdt = _one(data, inside, stop, b"tfhd"), _one(data, inside, stop, b"tfdt")
    bits, at = struct.unpack_from(">I", data, tfhd)[0], tfhd + 8
    duration, flags = track.duration, track.flags
    for bit, width in ((0x1, 8), (0x2, 4), (0x8, 4), (0x10, 4), (0x20, 4)):
        if bits & bit:
            if bit == 0x8:
                duration, = struct.unpack_from(">I", data, at)
            elif bit == 0x20:
                flags, = struct.unpack_from(">I", data, at)
            at += width
    start, = struct.unpack_from(">Q" if data[tfdt] else ">I", data, tfdt + 4)
    ticks = samples = 0
    first_flags: int | None = None
    for trun, end in find(data, inside, stop, b"trun"):
        run_ticks, count, run_flags = _read_trun(data, trun, end, duration)
        ticks, samples = ticks + run_ticks, samples + count
        first_flags = run_flags if first_flags is None else first_flags
    key = not (flags if first_flags is None else first_flags) & NOT_SYNC
    start_us, end_us = (t * US // track.scale for t in (start, start + ticks))
    return FragmentTimes(start_us, end_us - start_us, samples, key)


def _read_trun(data: bytes, trun: int, end: int, duration: int) -> tuple[int, int, int | None]:
    """(ticks in it, samples in it, flags of its first sample if it says)."""
    bits, count = struct.unpack_from(">II", data, trun)
    at = trun + 8 + (4 if bits & 0x1 else 0)
    first_flags: int | None = None
    if bits & 0x4:
        first_flags, = struct.unpack_from(">I", data, at)
        at += 4
    width = 4 * sum(bool(bits & bit) for bit in (0x100, 0x200, 0x400, 0x800))
    if at + count * width > end:
        raise BoxError("more samples than there is room for")
    if bits & 0x400 and count and first_flags is None:
        first_flags, = struct.unpack_from(">I", data, at + 4 * bool(bits & 0x100) + 4 * bool(bits & 0x200))
    if not bits & 0x100:
        return duration * count, count, first_flags
    return sum(struct.unpack_from(">I", data, at + i * width)[0] for i in range(count)), count, first_flags


def read_samples(moof: bytes, tracks: dict[int, TrackHeader]) -> dict[int, list[Sample]]:
    """Track number -> its samples in a whole moof box, in the order of decoding."""
    found: dict[int, list[Sample]] = {}
    try:
        for inside, stop in find(moof, 0, len(moof), b"moof", b"traf"):
            number, samples = _read_table(moof, inside, stop, tracks)
            found.setdefault(number, []).extend(samples)
    except (struct.error, IndexError, KeyError) as error:
        raise BoxError("a fragment that cannot be read") from error
    return found


def _read_table(data: bytes, inside: int, stop: int, tracks: dict[int, TrackHeader]) -> tuple[int, list[Sample]]:
    tfhd, tfdt = _one(data, inside, stop, b"tfhd"), _one(data, inside, stop, b"tfdt")
    bits, number = struct.unpack_from(">II", data, tfhd)
    track = tracks[number]
    if bits & 0x1 or not bits & 0x20000:
        raise BoxError("samples that do not lie behind their moof")
    usual = {0x8: track.duration, 0x10: track.size, 0x20: track.flags}
    at = tfhd + 8
    for bit in (0x2, 0x8, 0x10, 0x20):
        if bits & bit:
            usual[bit], = struct.unpack_from(">I", data, at)
            at += 4
    ticks, = struct.unpack_from(">Q" if data[tfdt] else ">I", data, tfdt + 4)
    samples: list[Sample] = []
    for trun, end in find(data, inside, stop, b"trun"):
        ticks = _read_run(data, trun, end, ticks, usual, track.scale, samples)
    return number, samples


def _read_run(data: bytes, trun: int, end: int, ticks: int, usual: dict[int, int], scale: int, into: list[Sample]) -> int:
    """Append the samples of a trun; the time after them, in ticks."""
    version, (bits, count) = data[trun], struct.unpack_from(">II", data, trun)
    if not bits & 0x1:
        raise BoxError("samples without an offset")
    offset, at = struct.unpack_from(">i", data, trun + 8)[0], trun + 12
    first = None
    if bits & 0x4:
        first, = struct.unpack_from(">I", data, at)
        at += 4
    columns = [bit for bit in (0x100, 0x200, 0x400, 0x800) if bits & bit]
    row = struct.Struct(">" + "".join("i" if bit == 0x800 and version else "I" for bit in columns))
    if at + count * row.size > end:
        raise BoxError("more samples than there is room for")
    rows = row.iter_unpack(data[at:at + count * row.size]) if columns else ((),) * count
    for number, values in enumerate(rows):
        said = dict(zip(columns, values, strict=True))
        duration, size = said.get(0x100, usual[0x8]), said.get(0x200, usual[0x10])
        flags = first if first is not None and number == 0 else said.get(0x400, usual[0x20])
        into.append(Sample(offset, size, (ticks + said.get(0x800, 0)) * US // scale, duration * US // scale, not flags & NOT_SYNC))
        ticks, offset = ticks + duration, offset + size
    return int(ticks)


def with_digest(fragment: bytes) -> bytes:
    """A whole fragment (moof, mdat) with its digest in it. The samples lie as much further behind the moof as the box is long."""
    moof_end, box = struct.unpack_from(">I", fragment)[0], struct.pack(">I4s16s32x", 56, b"uuid", DIGEST)
    moof = bytearray(fragment[:moof_end] + box)
    struct.pack_into(">I", moof, 0, len(moof))
    for trun, _ in find(fragment, 0, moof_end, b"moof", b"traf", b"trun"):
        if struct.unpack_from(">I", fragment, trun)[0] & 0x1:
            struct.pack_into(">i", moof, trun + 8, struct.unpack_from(">i", fragment, trun + 8)[0] + len(box))
    mdat = memoryview(fragment)[moof_end:]
    digest = hashlib.sha256(moof)
    digest.update(mdat)
    moof[-32:] = digest.digest()
    return b"".join((moof, mdat))


def has_digest(moof: bytes) -> bool:
    """Whether a fragment bears its digest, as all of a file do, or none (footage of version 0.1)."""
    return moof[-52:-32] == b"uuid" + DIGEST[:16]


def is_whole(moof: bytes, mdat: bytes) -> bool:
    """Whether a fragment is what was written. One without a digest is taken for whole, unless something lies where that would be.

    BoxError if the moof is not made of boxes.
    """
    if not has_digest(moof):
        return all(kind in (b"mfhd", b"traf") for kind, _, _ in boxes(moof, 8, len(moof)))
    digest = hashlib.sha256(moof[:-32] + bytes(32))
    digest.update(mdat)
    return digest.digest() == moof[-32:]
