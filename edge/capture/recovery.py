"""What a crash left of a stream's folder: cut to its last whole fragment, hashed, given its sidecar. Nothing is deleted but a torn tail.

Runs under the stream's lock, before its worker writes. A tail that reads as zeros was never written (a power cut lengthens a
file before its bytes are there) and counts as missing. A file without one whole fragment goes to `<stream>/set-aside/`, and so does a
copy of one with damage in its middle.
Called by worker; the same code after a kill and after a power cut.
"""

from __future__ import annotations

import logging
import os
import struct
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from edge import durable
from edge.capture import boxes
from edge.capture.segments import SET_ASIDE, Index, is_disk_full, note_path, parse_stem, publish
from edge.capture.sidecar import UNKNOWN_BOOT, Opening, Sidecar, from_json, to_json
from edge.clock import Stamp, boot_id

ZERO_TAIL = 16
"""A fragment of coded picture or sound never ends in so many zero bytes; a shorter run of them may be its own."""
CHUNK = 1 << 20
MOST_US = (1 << 53) - 1
"""The highest number in a sidecar."""
NUMBERS_FROM = "numbers-from"
"""In a stream's folder: the number below which nothing new is numbered, because a disk that is no longer here has those."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Survey:
    """A stream's folder as found: segments without sidecar, in order; remains of a sealed or never written one; the next number."""

    unsealed: tuple[Path, ...]
    remains: tuple[Path, ...]
    next_seq: int


def survey(folder: Path) -> Survey:
    """Walk every day folder and `set-aside` of a stream. LIMIT: about a second per million names."""
    highest, unsealed, remains = _numbers_from(folder) - 1, [], []
    for day in [*day_folders(folder), folder / SET_ASIDE]:
        with suppress(FileNotFoundError):
            names = {entry.name for entry in os.scandir(day)}
            for name in names:
                if name.startswith(".") and name.endswith(".part"):
                    remains.append(day / name)
                found = parse_stem(name.split(".")[0])
                if found is None:
                    continue
                highest = max(highest, found[0])
                if day.name == SET_ASIDE:
                    continue
                segment = name.split(".")[0]
                if name.endswith(".open.json") and (f"{segment}.mp4" not in names or f"{segment}.json" in names):
                    remains.append(day / name)
                if name.endswith(".mp4") and f"{segment}.json" not in names:
                    unsealed.append(day / name)
    return Survey(tuple(sorted(unsealed, key=lambda path: path.name)), tuple(sorted(remains)), highest + 1)


def number_from(folder: Path, seq: int) -> bool:
    """See to it that new segments of a stream are numbered from `seq` on or higher; durable when it returns. False: they are anyhow."""
    if survey(folder).next_seq >= seq:
        return False
    durable.make_folder(folder)
    durable.replace(folder / NUMBERS_FROM, b"%d\n" % seq)
    return True


def _numbers_from(folder: Path) -> int:
    with suppress(OSError, ValueError):
        text = (folder / NUMBERS_FROM).read_text(encoding="ascii").strip()
        return int(text) if text.isdecimal() and len(text) <= 10 else 0        # as many digits as a name has
    return 0


def day_folders(folder: Path) -> Iterator[Path]:
    """`<stream>/<YYYY>/<MM>/<DD>`, in order."""
    yield from sorted(path for path in folder.glob("[0-9][0-9][0-9][0-9]/[0-9][0-9]/[0-9][0-9]") if path.is_dir())


def recover(folder: Path, left: list[Path] | None = None) -> int:
    """Seal what a crash left below a stream's folder; the number for the next new segment.

    What cannot be sealed stops nothing: an unreadable file is set aside, one that found no room is named in `left` for another try.
    """
    found = survey(folder)
    recover_rest(folder, found.unsealed, [] if left is None else left)
    for path in found.remains:              # notes that the sidecar has replaced, half-written sidecars: no footage
        with suppress(OSError):
            durable.remove(path)
    return found.next_seq


def recover_rest(folder: Path, paths: Iterable[Path], left: list[Path]) -> None:
    """Seal these segments, as `recover` does."""
    for path in paths:
        try:
            recover_segment(folder, path)
        except OSError as error:
            log.error("segment not recovered stream=%s name=%s errno=%s", folder.name, path.name, error.errno)
            if is_disk_full(error):
                left.append(path)
                continue
            with suppress(OSError):         # a sector that cannot be read must not keep the stream from recording
                set_aside(folder, path, "unreadable")


def recover_segment(folder: Path, path: Path) -> None:
    """Give one segment its sidecar, or set it aside if nothing in it can be read, or its sidecar would be refused."""
    try:
        found = read_whole(path)
        sidecar = _sidecar(folder.name, path, found)
        from_json(to_json(sidecar))         # before anything is cut
    except ValueError as error:             # BoxError, or what a sidecar cannot say
        set_aside(folder, path, str(error))
        return
    if found.damaged and not keep_aside(folder, path):
        return
    if path.stat().st_size != found.whole:
        durable.truncate(path, found.whole)
    else:
        with path.open("r+b") as file:      # written but perhaps not synced when the worker died
            os.fsync(file.fileno())
    publish(path, replace(sidecar, sha256=durable.sha256_file(path)))
    log.warning("segment recovered stream=%s seq=%d frames=%d reason=%s", sidecar.stream, sidecar.seq, sidecar.frames, sidecar.end_reason)


def keep_aside(folder: Path, path: Path) -> bool:
    """Before a damaged file is cut, a copy of all of it: what lies behind the damage may be of use to somebody. False: no room for it."""
    log.warning("damaged segment kept aside stream=%s name=%s", folder.name, path.name)
    durable.make_folder(folder / SET_ASIDE)
    try:
        with suppress(FileExistsError):     # a crash after the copy and before the cut
            durable.write_new(folder / SET_ASIDE / path.name, path.read_bytes())
    except OSError as error:
        if not is_disk_full(error):
            raise
        set_aside(folder, path, "damaged, and no room for a copy")
        return False
    return True


def set_aside(folder: Path, path: Path, why: str) -> None:
    """Move an unreadable segment and its note out of the way, durably."""
    log.warning("segment set aside stream=%s name=%s reason=%s", folder.name, path.name, why)
    durable.make_folder(folder / SET_ASIDE)
    for each in (path, note_path(path)):
        if each.exists():
            durable.rename(each, folder / SET_ASIDE / each.name)


@dataclass(frozen=True, slots=True)
class Whole:
    """What can be read of a file: `whole` bytes with their index and tracks. `damaged`: a fragment behind them is not what was written."""

    whole: int
    header_bytes: int
    index: Index
    tracks: dict[int, boxes.TrackHeader]
    damaged: bool = False


def read_whole(path: Path) -> Whole:
    """Read a segment up to its last whole fragment, by its digest. BoxError if there is none, or what lies before it is not ours."""
    index, header, whole, moof, damaged, digests = Index(), b"", 0, b"", False, False
    tracks: dict[int, boxes.TrackHeader] = {}
    with path.open("rb") as file:
        size = _written(file.fileno(), path.stat().st_size)
        at = 0
        while at + 8 <= size:
            file.seek(at)
            head = file.read(8)
            length, kind = struct.unpack(">I4s", head)
            if length < 8 or at + length > size:
                damaged = bool(index.fragments) and not _is_torn(length, kind, b"mdat" if moof else b"moof", file.read(size - at - 8))
                break
            body = head + file.read(length - 8)
            try:
                if kind == b"moof" and not moof:
                    moof = body
                elif kind in (b"ftyp", b"moov") and not moof and not index.fragments:
                    header += body
                    tracks = boxes.read_header(header) if kind == b"moov" else {}
                elif kind == b"mdat" and moof and tracks:
                    if not boxes.is_whole(moof, body) or (digests and not boxes.has_digest(moof)):
                        raise boxes.BoxError("a fragment that the disk did not keep")
                    index.add(_in_time(boxes.read_fragment(moof, tracks), index), whole, at + length)
                    moof, digests = b"", boxes.has_digest(moof)
                else:
                    raise boxes.BoxError("a box that is out of place")
            except boxes.BoxError:
                if not index.fragments:
                    raise
                damaged = True
                break
            at += length
            if not moof:
                whole = at
    if not index.fragments:
        raise boxes.BoxError("no whole fragment")
    return Whole(whole, len(header), index, tracks, damaged)


def _is_torn(length: int, kind: bytes, due: bytes, rest: bytes) -> bool:
    """Whether a box that does not end within the file was the last to be written, not one with a wrong length and more behind it.

    LIMIT: the last box of a file cannot be told from a torn one if it lost only its length.
    """
    return length >= 8 and kind == due and b"moof" not in rest


def _in_time(times: boxes.FragmentTimes | None, index: Index) -> boxes.FragmentTimes | None:
    """The times, if they come after those in the index and a sidecar can say them: without digests only this shows a damaged one."""
    if times and not (index.fragments[-1].start_us if index.fragments else 0) <= times.start_us <= MOST_US - times.dur_us:
        raise boxes.BoxError("a fragment out of its time")
    return times


def _written(handle: int, size: int) -> int:
    """The size without a tail of zeros."""
    end = size
    while end > 0:
        start = max(0, end - CHUNK)
        kept = os.pread(handle, end - start, start).rstrip(b"\0")
        end = start + len(kept)
        if kept:
            break
    return end if size - end >= ZERO_TAIL else size


def _sidecar(stream: str, path: Path, found: Whole) -> Sidecar:
    """All but its digest, which is taken of the file as it will stay."""
    index = found.index
    first, dur_us = index.fragments[0].start_us, index.media_end_us - index.fragments[0].start_us
    opening = _opening(stream, path, found)
    start = opening.start
    return Sidecar(
        stream=opening.stream, seq=opening.seq, run=opening.run, start=start, end=start.plus(dur_us), dur_us=dur_us,
        frame_us=index.step_us, frames=index.samples, dropped=0, bytes=found.whole, sha256="0" * 64,
        header_bytes=found.header_bytes, fragments=tuple(index.fragments), media_start_us=first,
        codec=boxes.codec_of(found.tracks), tracks={t.kind: t.facts for t in found.tracks.values()}, clock_state=opening.clock_state,
        end_reason="worker-crash" if start.boot_id == boot_id() else "power", recovered=True)


def _opening(stream: str, path: Path, found: Whole) -> Opening:
    """The note made when the segment was opened; without it what the file's name says."""
    seq, utc_us = parse_stem(path.stem) or (0, 0)
    with suppress(OSError, ValueError):
        opening = Opening.from_json(note_path(path).read_bytes())
        if (opening.stream, opening.seq) == (stream, seq):
            return opening
    return Opening(stream, seq, uuid.uuid4().hex, Stamp(utc_us, 0, UNKNOWN_BOOT), found.index.fragments[0].start_us,
                   boxes.codec_of(found.tracks), "unknown")
