"""Every file of a session against what the manifest says of it, at the speed of the disk.

Each file is opened once and read once: what is hashed is what is judged, whatever happens to the name meanwhile. Several threads
read and hash at a time (hashlib lets go of the interpreter's lock, so two cores hash twice as fast); findings come in the manifest's order.
A link, a device or a pipe in the place of a file is a finding, and is never followed, opened for waiting or read.
Called by `bundle`, `history` and the check of the store.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.clock import iso_utc
from edge.evidence.fault import Fault
from edge.evidence.shown import Shown
from edge.evidence.zipped import Member

READ_BYTES = 1 << 20
SIDECAR_MAX_BYTES = 16 << 20
"""A sidecar of one minute has some kilobytes; what is larger is none."""

Progress = Callable[[int, int], None]
"""(bytes of media done, bytes of media in all)."""
Place = Callable[[Mapping[str, Any]], tuple[Path | Member, Path | Member]]
"""Where the media file of a manifest's entry lies, and its sidecar."""

_THREADS = max(2, min(8, os.cpu_count() or 2))
_buffers = threading.local()


@dataclass(frozen=True, slots=True)
class Wanted:
    """One file as a signed document has it. `bytes`: None where the document does not say its size. `keep`: also give the bytes back."""

    path: Path | Member
    name: str
    sha256: str
    bytes: int | None
    keep: bool = False


@dataclass(frozen=True, slots=True)
class Read:
    """What was found in the place of a `Wanted`: no fault, or the fault; the bytes if they were to be kept and are the right ones."""

    fault: Fault | None
    data: bytes | None = None


def read_all(wanted: Iterable[Wanted]) -> Iterator[Read]:
    """Each file's outcome, in order. At most some dozen are on the way at a time, however many there are."""
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="hash") as pool:
        ahead: deque[Future[Read]] = deque()
        for each in wanted:
            ahead.append(pool.submit(read, each))
            if len(ahead) >= 4 * _THREADS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def read(wanted: Wanted) -> Read:
    """Open, judge, read and hash one file. Never raises for what is there."""
    if isinstance(wanted.path, Member):
        return _read_member(wanted.path, wanted)
    try:
        handle = os.open(wanted.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return Read(Fault("missing-file", f"missing {wanted.name}"))
    except OSError as error:
        if wanted.path.is_symlink() or not wanted.path.is_file():
            return Read(Fault("altered-file", f"not a plain file: {wanted.name}"))
        return Read(Fault("unreadable-file", f"unreadable {wanted.name}: {error.strerror}"))
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            return Read(Fault("altered-file", f"not a plain file: {wanted.name}"))
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return _judge(facts.st_size, _pieces(handle), wanted)
    except OSError as error:
        return Read(Fault("unreadable-file", f"unreadable {wanted.name}: {error.strerror}"))
    finally:
        os.close(handle)


def _read_member(member: Member, wanted: Wanted) -> Read:
    if member.kind != "file":
        return Read(Fault("missing-file", f"missing {wanted.name}") if member.kind == "absent"
                    else Fault("altered-file", f"not a plain file: {wanted.name}"))
    try:
        return _judge(member.size, member.pieces(_buffer()), wanted)
    except OSError as error:
        return Read(Fault("unreadable-file", f"unreadable {wanted.name}: {error.strerror}"))
    except ValueError as error:
        return Read(Fault("altered-file", f"altered {wanted.name}: {error}"))


def _pieces(handle: int) -> Iterator[memoryview]:
    buffer = _buffer()
    while count := os.readv(handle, [buffer]):
        yield buffer[:count]


def _judge(size: int, pieces: Iterable[memoryview | bytes], wanted: Wanted) -> Read:
    if wanted.bytes is not None and size != wanted.bytes:
        return Read(Fault("altered-file", f"altered {wanted.name}: {size} bytes, not {wanted.bytes}"))
    if wanted.keep and size > SIDECAR_MAX_BYTES:
        return Read(Fault("altered-file", f"altered {wanted.name}: {size} bytes are no sidecar"))
    digest, kept = hashlib.sha256(), bytearray()
    for piece in pieces:
        digest.update(piece)
        if wanted.keep:
            kept += piece
    if digest.hexdigest() != wanted.sha256:
        return Read(Fault("altered-file", f"altered {wanted.name}: its SHA-256 is not the one in the manifest"))
    return Read(None, bytes(kept) if wanted.keep else None)


def _buffer() -> memoryview:
    """This thread's own megabyte."""
    found: memoryview | None = getattr(_buffers, "view", None)
    if found is None:
        found = _buffers.view = memoryview(bytearray(READ_BYTES))
    return found


# ---- a session's ------------------------------------------------------------------------------------------------------

def sidecar_path(entry: Mapping[str, Any]) -> str:
    return str(entry["path"]).removesuffix(".mp4") + ".json"


def below(shown: Shown) -> Place:
    """The place of an exported session's files: where the manifest says, in what was shown."""
    return lambda entry: (shown.file(entry["path"]), shown.file(sidecar_path(entry)))


def segments(entries: Sequence[Mapping[str, Any]], place: Place, progress: Progress | None) -> Iterator[Fault]:
    """Each segment and sidecar is there, of its size and digest, and the sidecar says what the manifest says.

    `entries` must bear their own paths (`checks.own_paths`): nothing else keeps a lying manifest from naming files elsewhere.
    """
    done, total = 0, sum(entry["bytes"] for entry in entries)
    outcomes = read_all(_wanted(entries, place))
    for entry in entries:
        media, sidecar = next(outcomes), next(outcomes)
        if media.fault is not None:
            yield media.fault
        if sidecar.fault is not None:
            yield sidecar.fault
        elif sidecar.data is not None:
            yield from sidecar_faults(sidecar.data, entry)
        done += entry["bytes"]
        if progress:
            progress(done, total)


def _wanted(entries: Sequence[Mapping[str, Any]], place: Place) -> Iterator[Wanted]:
    for entry in entries:
        media, sidecar = place(entry)
        yield Wanted(media, entry["path"], entry["sha256"], entry["bytes"])
        yield Wanted(sidecar, sidecar_path(entry), entry["sidecar_sha256"], None, keep=True)


def sidecar_faults(data: bytes, entry: Mapping[str, Any]) -> Iterator[Fault]:
    """Whether the sidecar in `data` says what the manifest's entry says."""
    try:
        said = json.loads(data)
        claims = {key: said[key] for key in ("stream", "seq", "run", "boot_id", "dur_us", "frame_us", "bytes", "sha256", "codec",
                                             "end_reason", "recovered", "clock_state")}
        for end in ("start", "end"):
            claims |= {f"{end}_utc": iso_utc(said[end]["utc_us"]), f"{end}_boot_us": said[end]["boot_us"]}
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        yield Fault("sidecar", f"the sidecar {sidecar_path(entry)} cannot be read: {error!r}")
        return
    for key, value in claims.items():
        if entry[key] != value or type(entry[key]) is not type(value):
            yield Fault("sidecar", f"the sidecar {sidecar_path(entry)} and the manifest disagree about {key}")
