"""The footage folder against the index: every row has its files, every sidecar its row, and both say the same.

Sidecars are read as `edge reindex` reads them, day by day and by several processes; films are looked at (size), and read through only where
that is asked for. What is found here is told by name; what can be mended carries how.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge.capture.recovery import day_folders, survey
from edge.capture.segments import parse_stem
from edge.clock import Stamp
from edge.reindex import read_all, streams_on
from edge.sessions.machine import RoomState
from edge.storage.catalog import Segment
from edge.storage.look import Look
from edge.storage.rebuild import SegmentRow
from edge.storage.rules import Mend, add_row, write_row
from edge.storage.scrub import examine

COLUMNS = tuple(Segment.__dataclass_fields__)
SAID = len(COLUMNS) - 2
"""All but how loud it was: the intake may have taken the segment in before the watcher had spoken."""
_AT = {name: COLUMNS.index(name) for name in ("stream", "seq", "path", "sidecar_sha256")}
OTHER = "other bytes than were sealed"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """What contradicts the invariant `name`. `mend`: how it is put right, in a transaction of its own; None: it is left to people."""

    name: str
    what: str
    mend: Mend | None = field(default=None, compare=False)


@dataclass(slots=True)
class Footage:
    """One look. `notes`: what is no fault and yet worth a line; `looked`: how many sidecars and rows were looked at."""

    folder: Path
    look: Look
    configured: frozenset[str]
    state: RoomState
    deep: bool
    progress: Progress
    processes: int = 0
    notes: list[str] = field(default_factory=list)
    looked: int = 0
    _garbage: frozenset[str] = frozenset()

    def findings(self) -> Iterator[Finding]:
        self._garbage = self.look.garbage()
        highest = self.look.streams()
        for stream in sorted({*streams_on(self.folder), *highest}):
            seen: set[int] = set()
            yield from self._sidecars(stream, highest.get(stream, -1), seen)
            yield from self._rows(stream, seen)
            yield from self._leavings(stream)
        for session, stream, seq, path in self._told_without_row():
            if not (self.folder / path).with_suffix(".json").exists():
                yield Finding("row-missing", f"{stream} number {seq} of {session} ({path}) has neither a row nor its files")
        if self._garbage:
            self.notes.append(f"{len(self._garbage)} recordings are waiting to be removed; the room does it")

    def _told_without_row(self) -> list[tuple[str, str, int, str]]:
        with suppress(ValueError):          # the journal cannot be asked: that is told already
            return list(self.look.without_row())
        return []

    # ---- from the disk to the index -----------------------------------------------------------------------------------

    def _sidecars(self, stream: str, highest: int, seen: set[int]) -> Iterator[Finding]:
        days = [(stream, str(day.relative_to(self.folder))) for day in day_folders(self.folder / stream)]
        waiting = 0
        for done, found in enumerate(read_all(self.folder, None, days, self.processes or os.cpu_count() or 1), 1):
            rows = {row[_AT["seq"]]: row for row in found.rows}
            held = self.look.numbered(stream, min(rows), max(rows)) if rows else {}
            self.looked += len(rows)
            for seq, row in rows.items():
                seen.add(seq)
                if row[_AT["path"]] in self._garbage:
                    continue
                if seq not in held and seq > highest and stream in self.configured:
                    waiting += 1
                elif seq not in held:
                    yield from self._without_row(row)
                elif held[seq][:SAID] != row[:SAID]:
                    yield from self._differs(row, held[seq])
            for path, why in found.refused:
                seq = int(Path(path).name[:10])
                if seq not in seen and path.removesuffix(".json") + ".mp4" not in self._garbage:
                    yield Finding("row-file" if self.look.numbered(stream, seq, seq) else "sidecar-fit", f"{path}: {why}")
                seen.add(seq)
            self.progress(f"{stream}: sidecars", done, len(days))
        if waiting:
            self.notes.append(f"{waiting} new recordings of {stream} wait for the room, which takes them in when it runs")

    def _without_row(self, row: SegmentRow) -> Iterator[Finding]:
        segment, path = Segment(*row), row[_AT["path"]]
        start = Stamp(segment.start_utc_us, segment.start_boot_us, segment.boot_id)
        end = Stamp(segment.end_utc_us, segment.end_boot_us, segment.boot_id)
        known = set(self.look.sessions_with(segment.stream, segment.seq))
        owed = [s.id for s in self.state.sessions.values() if s.disposed is None and s.id not in known and s.opened
                and segment.stream in s.opened.streams and s.covers(start, end)]
        if owed:
            yield Finding("late-recording", f"{path} belongs to {', '.join(owed)}, and the journal does not know")
            return
        told = self.look.told(segment.stream, segment.seq) or row
        yield Finding("file-row", f"{path} is not in the index", lambda c: add_row(c, told))
        if told[:SAID] != row[:SAID]:
            yield from self._differs(row, told)

    def _differs(self, row: SegmentRow, held: tuple[Any, ...]) -> Iterator[Finding]:
        path = row[_AT["path"]]
        if held[_AT["sidecar_sha256"]] != row[_AT["sidecar_sha256"]]:
            yield Finding("sidecar-as-sealed", f"{Path(path).with_suffix('.json')} is not the one that was taken in")
        elif not self.look.sessions_with(row[_AT["stream"]], row[_AT["seq"]]):     # of a session's the journal speaks: `row-as-told`
            wrong = [name for name, one, other in zip(COLUMNS[:SAID], row, held, strict=False) if one != other]
            yield Finding("row-as-told", f"the index says other of {path} than its sidecar, which is unchanged ({', '.join(wrong)})",
                          lambda c: write_row(c, row))

    # ---- from the index to the disk -----------------------------------------------------------------------------------

    def _rows(self, stream: str, seen: set[int]) -> Iterator[Finding]:
        gone: list[Finding] = []
        rows = 0
        for seq, path in self.look.paths(stream):
            rows += 1
            if seq not in seen:
                film = self.folder / path
                parts = [what for what, at in (("film", film), ("sidecar", film.with_suffix(".json"))) if not at.is_file()]
                gone.append(Finding("row-file", f"{path}: {' and '.join(parts) or 'another film or sidecar'} " +
                                    ("missing" if parts else "lies in its place")))
            elif self.deep:
                yield from self._bytes(stream, seq, path)
            if rows % 1000 == 0:
                self.progress(f"{stream}: rows", rows, rows)
        if len(gone) * 2 >= rows > 2:
            yield Finding("row-file", f"{len(gone)} of {rows} recordings of {stream} are missing: the disk is at fault, not the files")
        else:
            yield from gone

    def _bytes(self, stream: str, seq: int, path: str) -> Iterator[Finding]:
        row = self.look.numbered(stream, seq, seq).get(seq)
        if row is None:
            return
        segment = Segment(*row)
        word, _ = examine(self.folder / path, segment.bytes, segment.sha256, segment.sidecar_sha256)
        if word in ("digest", "unreadable"):
            yield Finding("film-as-sealed", f"{path}: {OTHER if word == 'digest' else 'the disk does not give it'}")

    # ---- what a crash leaves ------------------------------------------------------------------------------------------

    def _leavings(self, stream: str) -> Iterator[Finding]:
        folder = self.folder / stream
        if not folder.is_dir():
            return
        found, busy = survey(folder), _is_held(folder / ".lock")
        unsealed = [path for path in found.unsealed if path.relative_to(self.folder).as_posix() not in self._garbage]
        if busy and unsealed:
            newest = max(unsealed, key=lambda path: parse_stem(path.stem) or (0, 0))
            unsealed.remove(newest)     # it is being written
        for path in unsealed:
            yield Finding("film-sealed", f"{path.relative_to(self.folder)} has no sidecar")
        for path in () if busy else found.remains:
            yield Finding("leftover", str(path.relative_to(self.folder)))
        with suppress(OSError):
            aside = sum(1 for _ in (folder / "set-aside").iterdir())
            self.notes.append(f"{aside} files of {stream} are set aside: what could not be read after a crash")


def _is_held(lock: Path) -> bool:
    """Whether a worker records here now."""
    try:
        handle = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
