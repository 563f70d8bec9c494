"""A room of conftest's with real footage under it: files with bytes, sidecars as the worker writes them, taken in by the real intake."""

from __future__ import annotations

import dataclasses
import hashlib
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.capture.intake import Intake
from edge.capture.segments import day_folder, stem
from edge.capture.sidecar import Fragment, Sidecar, from_json, to_json
from edge.clock import US
from edge.storage.rebuild import SegmentRow

if TYPE_CHECKING:
    from tests.conftest import Hall


class Kept:
    """The hall's footage folder. `segment` writes one as a worker would; `take_in` is the intake's look."""

    def __init__(self, hall: Hall) -> None:
        self.hall, self.footage = hall, hall.folder / "footage"
        self.footage.mkdir()
        self._count = 0

    def segment(self, stream: str, *, s: int = 60, note: bytes | None = None, **changed: Any) -> Path:
        """A minute that ends now. Returns the .mp4."""
        end = self.hall.clock.now()
        self._count += 1
        data = hashlib.sha256(f"{self.footage} {self._count}".encode()).digest() * 64
        sidecar = self.hall.sidecar(stream, end.plus(-s * US), end, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(),
                                    header_bytes=48,
                                    fragments=(Fragment(48, 1000, 0, 30 * US, True), Fragment(1048, 1000, 30 * US, 30 * US, False)),
                                    **{"audio_peak_cdb": None, "silent_ms": None} | changed)
        return self.put(sidecar, data, note)

    def put(self, sidecar: Sidecar, data: bytes, note: bytes | None = None) -> Path:
        folder = day_folder(self.footage / sidecar.stream, sidecar.start.utc_us)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{stem(sidecar.seq, sidecar.start.utc_us)}.mp4"
        path.write_bytes(data)
        if note is not None:
            path.with_suffix(".watch.json").write_bytes(note)
        path.with_suffix(".json").write_bytes(to_json(sidecar))
        return path

    def sidecar(self, path: Path) -> Sidecar:
        return from_json(path.with_suffix(".json").read_bytes())

    async def take_in(self) -> int:
        intake = Intake(self.footage, ["cam-front", "cam-back", "mic"], self.hall.room.segment, self.hall.catalog.last_seq, self.hall.clock,
                        self.hall.folder / "run", note_wait_s=0)
        return await intake.look()

    def table(self, name: str) -> list[SegmentRow]:
        """All of a table, in order."""
        with self.hall.database.read() as connection:
            return sorted(tuple(row) for row in connection.execute(f"SELECT * FROM {name}"))  # noqa: S608

    def schema(self) -> set[tuple[str, str]]:
        with self.hall.database.read() as connection:
            rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL")
            return {(row[0], row[1].replace('"', "")) for row in rows}

    def spoil(self, statement: str) -> None:
        """Somebody's hand in the database."""
        with sqlite3.connect(self.hall.database.path) as connection:
            connection.execute(statement)
        connection.close()

    def edit(self, path: Path, **changed: Any) -> None:
        """Another sidecar in place of the one there."""
        path.with_suffix(".json").write_bytes(to_json(dataclasses.replace(self.sidecar(path), **changed)))
