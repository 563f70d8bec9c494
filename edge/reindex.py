"""The catalog from the disk alone: every sidecar is read, judged as the intake judges it, and made a row (`edge reindex`).

Where the journal names a segment with the digest of this very sidecar, the intake has judged these bytes already: the row is the journal's,
which is three times as fast.

Reading is done by as many processes as there are processors, day by day; the database is written by this one. Which sessions a segment
belongs to is the journal's word. A segment that a session covers and the journal does not name yet is left, with all behind it, to the
room's intake, which makes it a fact at the next start. Nothing on the disk is changed. The recorder may go on; the room must not run.
With an empty journal nobody can say what belonged to a session: then all that was found is kept (`unaccounted`).
"""

from __future__ import annotations

import gc
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

from edge.capture.recovery import day_folders
from edge.capture.sidecar import Sidecar, from_json
from edge.capture.watchnote import WatchNote
from edge.clock import Stamp
from edge.programs import NotReady
from edge.sessions import machine
from edge.sessions.machine import RoomState
from edge.storage import rebuild
from edge.storage.database import Database
from edge.storage.journal import Journal
from edge.storage.rebuild import Rebuild, SegmentRow

NO_JOURNAL = "no-journal"
SUFFIX = "Z.json"
BATCH = 20_000
_PATH, _BYTES, _DIGEST = (rebuild.COLUMNS.index(name) for name in ("path", "bytes", "sidecar_sha256"))


@dataclass(frozen=True, slots=True)
class Found:
    """A day folder's rows in order of their numbers, and what could not be taken: path below the footage folder, why."""

    rows: tuple[SegmentRow, ...]
    refused: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class Reindexed:
    """What a reindex did. `left`: segments that the room itself takes in at its next start; `kept`: of a time that the journal has lost."""

    segments: int = 0
    bytes: int = 0
    streams: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    left: int = 0
    unaccounted: bool = False


def row_of(sidecar: Sidecar, path: str, sidecar_sha256: str) -> SegmentRow:
    """The catalog's row, as `Room.segment` makes it (a test compares): the fields of `catalog.Segment` in their order."""
    start, end = sidecar.start, sidecar.end
    return (sidecar.stream, sidecar.seq, path, sidecar.run, start.utc_us, end.utc_us, start.boot_us, end.boot_us, start.boot_id,
            sidecar.dur_us, sidecar.frame_us, sidecar.bytes, sidecar.sha256, sidecar_sha256, sidecar.codec, sidecar.end_reason,
            sidecar.recovered, sidecar.clock_state, sidecar.audio_peak_cdb, sidecar.silent_ms)


def read_day(footage: str, database: Path | None, stream: str, day: str) -> Found:
    """All sidecars of one day folder (`<stream>/<YYYY>/<MM>/<DD>`). Runs in a process of its own. `database`: whose journal is believed."""
    rows, refused = [], []
    names = set(os.listdir(f"{footage}/{day}"))     # noqa: PTH208 (texts, not paths: there are millions)
    sidecars = sorted(n for n in names if n.endswith(SUFFIX) and n[:10].isascii() and n[:10].isdecimal())
    known = rebuild.judged(database, stream, int(sidecars[0][:10]), int(sidecars[-1][:10])) if sidecars and database else {}
    for name in sidecars:
        try:
            rows.append(_row(footage, f"{day}/{name[:-len('.json')]}", known.get(int(name[:10])), stream, names))
        except (OSError, ValueError) as error:
            refused.append((f"{day}/{name}", str(error) if isinstance(error, ValueError) else f"cannot be read ({type(error).__name__})"))
    return Found(tuple(rows), tuple(refused))


def _row(footage: str, stem: str, known: SegmentRow | None, stream: str, names: set[str]) -> SegmentRow:
    """The row of one segment (`stem`: path below the footage folder, without an ending). OSError or ValueError if it is none."""
    data = _read(f"{footage}/{stem}.json")
    digest, path = hashlib.sha256(data).hexdigest(), f"{stem}.mp4"
    size = os.stat(f"{footage}/{path}").st_size     # noqa: PTH116
    if known is not None and (known[_PATH], known[_BYTES], known[_DIGEST]) == (path, size, digest):
        return known
    sidecar, name = from_json(data, index=False), stem.rpartition("/")[2]
    if (sidecar.stream, sidecar.seq) != (stream, int(name[:10])):
        raise ValueError("it speaks of another segment")
    if size != sidecar.bytes:
        raise ValueError("its .mp4 has another size")
    row = row_of(sidecar, path, digest)
    return _heard(row, sidecar, f"{footage}/{stem}.watch.json") if f"{name}.watch.json" in names else row


def _read(path: str) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        pieces = []
        while piece := os.read(handle, 1 << 16):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(handle)


def _heard(row: SegmentRow, sidecar: Sidecar, path: str) -> SegmentRow:
    """The row with what the watcher's note says of its sound, as the intake takes it."""
    with suppress(OSError, ValueError):
        note = WatchNote.from_json(_read(path))
        if (note.stream, note.seq, note.sha256) == (sidecar.stream, sidecar.seq, sidecar.sha256):
            return (*row[:-2], note.audio_peak_cdb, note.silent_ms)
    return row


def streams_on(footage: Path) -> list[str]:
    """Folders that hold segments: also of cameras that the configuration no longer has."""
    return sorted(path.name for path in footage.iterdir() if path.is_dir() and not path.name.startswith(".") and any(day_folders(path)))


def reindex(footage: Path, database: Database, journal: Journal, now_utc_us: int,
            progress: Callable[[int, int], None] = lambda done, total: None, processes: int | None = None) -> Reindexed:
    """Rebuild the catalog. `progress(days read, days in all)`. Whatever happens on the way, the old catalog stands until the end."""
    result = Reindexed(streams=streams_on(footage))
    if not rebuild.has_facts(database) and not rebuild.unaccounted(database).spans:
        rebuild.add_unaccounted(database, 0, now_utc_us, NO_JOURNAL)
    result.unaccounted = bool(rebuild.unaccounted(database).spans)
    new = Rebuild(database)
    new.begin()
    days = [(stream, str(day.relative_to(footage))) for stream in result.streams for day in day_folders(footage / stream)]
    rows: list[SegmentRow] = []
    for done, found in enumerate(read_all(footage, database.path, days, processes or os.cpu_count() or 1), 1):
        if rows and (len(rows) >= BATCH or (found.rows and found.rows[0][0] != rows[0][0])):
            new.add(rows)
            rows = []
        rows += found.rows
        result.refused += found.refused
        result.segments += len(found.rows)
        result.bytes += sum(row[11] for row in found.rows)
        progress(done, len(days))
    new.add(rows)
    owed = _owed(new, machine.fold(row.event for row in journal.load()))
    result.left = new.finish(owed)
    return result


def read_all(footage: Path, database: Path | None, days: list[tuple[str, str]], processes: int) -> Iterator[Found]:
    """Each day's rows, in order, read ahead by a few days."""
    if processes == 1 or len(days) < 4:
        yield from (read_day(str(footage), database, stream, day) for stream, day in days)
        return
    with ProcessPoolExecutor(processes, get_context("spawn"), gc.disable) as pool:
        waiting: list[Future[Found]] = []
        ahead = iter(days)
        waiting += [pool.submit(read_day, str(footage), database, *day) for day in islice(ahead, 3 * processes)]
        while waiting:
            found = waiting.pop(0).result()
            waiting += [pool.submit(read_day, str(footage), database, *day) for day in islice(ahead, 1)]
            yield found


def _owed(new: Rebuild, state: RoomState) -> dict[str, int]:
    """Each stream's first segment that a session covers and the journal does not name."""
    opened = [s for s in state.sessions.values() if s.opened]
    first: dict[str, int] = {}
    for segment in new.loose() if opened else ():
        if segment.stream in first:
            continue
        start = Stamp(segment.start_utc_us, segment.start_boot_us, segment.boot_id)
        end = Stamp(segment.end_utc_us, segment.end_boot_us, segment.boot_id)
        if any(s.covers(start, end) and s.opened and segment.stream in s.opened.streams for s in opened):
            first[segment.stream] = segment.seq
    return first


def must_rest(run: Path) -> None:
    """NotReady if a room runs here: two writers of one journal there must never be."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe, suppress(OSError):
        probe.connect(str(run / "room.sock"))
        raise NotReady("the room is running. Nothing was changed. Stop it first (systemctl stop edge); the recorder may go on.")
