"""Holds and reports with the real programs: what `edge hold` and `edge retention` say and do while the room runs, and without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge import demo
from tests.journeys.house import House, until
from tests.journeys.test_trouble import accepted, whole_session


def edge(house: House, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edge", *words, "--config", str(demo.config_path(house.folder))], capture_output=True,
                          text=True, timeout=60)


@pytest.mark.slow
def test_an_auditor_keeps_a_session_from_the_command_line(house: House, tmp_path: Path) -> None:
    house.start()
    until(house.up)
    session = house.first_session()
    whole_session(house, session)
    until(lambda: accepted(house, session), 60)
    pin = tmp_path / "pin"
    pin.write_text("2001\n", encoding="utf-8")
    signed = ("--by", "A001", "--secrets-from", str(pin))

    shown = json.loads(edge(house, "retention", "report", "--days", "3650", "--json").stdout)
    line = next(each for each in shown["sessions"] if each["session"] == session)
    assert line["segments"] > 0 and line["bytes"] > 0 and not line["expired"] and shown["witness"] is not None
    assert shown["store"]["sessions"] == 1 and shown["oldest_kept"] is not None and shown["due"]["sessions"] == 0
    assert shown["space"]["free_bytes"] > 0 and shown["space"]["per_year_bytes"] > 0

    placed = edge(house, "hold", "place", session, "--reason", "诉讼保全", *signed)
    assert placed.returncode == 0 and "on hold" in placed.stdout
    listed = edge(house, "hold", "list").stdout
    assert session in listed and "诉讼保全" in listed
    hold_id = listed.split()[1]
    wrong = edge(house, "retention", "lengthen", session, "--until", "2027-01-01", "--reason", "r", *signed)
    assert wrong.returncode == 1 and "may only become longer" in wrong.stderr and "Nothing was changed" in wrong.stderr
    pin.write_text("9999\n", encoding="utf-8")
    assert edge(house, "hold", "release", session, hold_id, "--reason", "r", *signed).returncode == 1
    pin.write_text("2001\n", encoding="utf-8")
    nothing = edge(house, "retention", "approve", *signed)
    assert nothing.returncode == 1 and "Nothing is due" in nothing.stderr
    house.stop()

    alone = edge(house, "retention", "report", "--days", "3650")
    assert alone.returncode == 0 and session in alone.stdout and "on hold: stays" in alone.stdout and hold_id in alone.stdout
    refused = edge(house, "hold", "release", session, hold_id, "--reason", "r", *signed)
    assert refused.returncode == 3 and "no room is running" in refused.stderr
