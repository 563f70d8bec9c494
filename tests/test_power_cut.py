"""A cut at every sync of opening, segment, closing and sealing: the room that starts afterwards goes on; exactly one manifest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HOUSE = Path(__file__).parents[1]


def cuts(tmp_path: Path, staff: Path, every: int) -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, "-m", "tests.power_cut_room", str(tmp_path), str(staff), str(every)], cwd=HOUSE,
                          capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(found: list[dict[str, Any]], fewest: int) -> None:
    assert "done" in found[-1] and len(found) >= fewest, "the session has fewer syncs than it must have"
    for each in found:
        assert (each["opens"], each["sealed"]) == (1, 1), each
        revisions = list(range(1, each["amended"] + 2))
        assert each["signed"] == revisions, "each revision is signed once"
        assert each["envelopes"] == [["session-manifest", n] for n in revisions] + [["session-open", None]], each
        assert each["digests"], "each signed object is stored once and owed once"
        assert each["chain"] is None and each["began"] >= each.get("promised", 0), "nothing that was promised is lost"
        assert each["segments"], "each segment on the disk is a fact, once"
        assert each["gaps"], "and what is missing is declared"
        assert each["contradictions"] == [], "no table contradicts the journal, neither right after the cut nor at the end"
    assert any(each.get("promised") for each in found)
    assert {each["amended"] for each in found} <= {0, 1}


def test_some_cuts(tmp_path: Path, staff_file: Path) -> None:
    check(cuts(tmp_path, staff_file, 11), 8)


@pytest.mark.slow
def test_a_cut_at_every_sync(tmp_path: Path, staff_file: Path) -> None:
    check(cuts(tmp_path, staff_file, 1), 80)
