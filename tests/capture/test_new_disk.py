"""The data disk is exchanged: what is recorded on the new one is taken in, because its numbers go on from those that the room knows."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge.capture.intake import Intake
from edge.capture.recovery import NUMBERS_FROM, number_from, survey
from edge.capture.sidecar import Sidecar
from edge.clock import SystemClock
from edge.reindex import row_of
from edge.storage.catalog import Catalog, Segment
from edge.storage.database import Database
from tests.capture.conftest import Bench
from tests.capture.test_disk import pattern

CONFIG = """[room]
code = "000000-DEMO-R01"
name = "x"
[platform]
url = "http://127.0.0.1:9"
[paths]
state = "state"
footage = "footage"
run = "run"
[[streams]]
id = "pattern"
name_zh = "x"
name_en = "x"
kind = "pattern"
"""


def storage_init(config: Path) -> str:
    done = subprocess.run([sys.executable, "-m", "edge", "storage", "init", "--config", str(config)], capture_output=True, text=True,
                          check=True, timeout=60)
    return done.stdout


async def take_in(bench: Bench, database: Database) -> int:
    """As the room does after its start."""
    catalog = Catalog(database)

    async def keep(sidecar: Sidecar, path: str, digest: str) -> None:
        await catalog.add_segment(Segment(*row_of(sidecar, path, digest)))

    return await Intake(bench.footage, ["pattern"], keep, catalog.last_seq, SystemClock(), bench.run).look()


def test_on_an_exchanged_disk_the_numbers_go_on_and_the_room_takes_its_segments_in(bench: Bench, tmp_path: Path) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(CONFIG)
    shutil.rmtree(bench.footage)
    assert "numbering" not in storage_init(config)              # a first disk, a room without a database
    process = bench.record(pattern(segment_s=1))
    bench.wait_segments("pattern", 3)
    assert bench.finish(process) == 0
    before = [sidecar.seq for _, sidecar in bench.segments("pattern")]
    (tmp_path / "state").mkdir(exist_ok=True)
    database = Database(tmp_path / "state" / "edge.db")
    try:
        assert asyncio.run(take_in(bench, database)) == len(before)
        assert "numbering" not in storage_init(config)          # the very same disk once more: nothing to say, nothing changed
        assert not list(bench.footage.rglob(NUMBERS_FROM))

        shutil.rmtree(bench.footage)                            # the disk has died; a new one is mounted there
        assert f"pattern from {before[-1] + 1}" in storage_init(config)
        process = bench.record(pattern(segment_s=1))
        bench.wait_segments("pattern", 2)
        assert bench.finish(process) == 0
        after = [sidecar.seq for _, sidecar in bench.segments("pattern")]
        assert after[0] == before[-1] + 1
        assert asyncio.run(take_in(bench, database)) == len(after)
    finally:
        database.close()


@pytest.mark.parametrize("text", ["", "-5", "12 13", "9" * 11, "\N{ARABIC-INDIC DIGIT THREE}", "x"])
def test_a_note_that_says_no_number_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / NUMBERS_FROM).write_text(text, encoding="utf-8")
    assert survey(tmp_path).next_seq == 0
    assert number_from(tmp_path, 7)
    assert survey(tmp_path).next_seq == 7
    assert not number_from(tmp_path, 7)
