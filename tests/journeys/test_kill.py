"""kill -9 in every state from check-in to closing: the session goes on, and what is missing is declared.

One run per target. The room's death costs no frame; any other death costs at most three seconds and one group of pictures each.
"""

from __future__ import annotations

import base64
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from edge.fsck.check import check as fsck
from edge.fsck.check import lines
from tests.journeys.house import PINS, House, until

GOP_S = 1.0         # the pattern's
COST_S = 3.0 + GOP_S


def strike(house: House, target: str) -> None:
    """Kill the target, start it again as systemd would, and wait until it is at work."""
    match target:
        case "room":
            house.kill("room")
            house.start("room")
        case "recorder":
            house.kill("recorder")
            house.start("recorder")
        case "worker":
            pid = house.worker_pid("cam-front")
            os.kill(pid, signal.SIGKILL)
            until(lambda: house.worker_pid("cam-front") != pid, 30, "a new worker")
        case "all":
            pids = [house.worker_pid(s.id) for s in house.config.streams]
            house.kill("room")
            house.kill("recorder")
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            house.start("recorder", "room")
            until(lambda: not set(pids) & {house.worker_pid(s.id) for s in house.config.streams}, 30, "new workers")
    until(house.up, 30, "the room answers")
    until(lambda: all(age is not None and age < 2000 for age in house.call("GET", "/state")["streams"].values()), 30, "all streams record")


@pytest.mark.parametrize("target", ["room", "recorder", "worker", "all"])
def test_the_session_goes_on_whoever_dies(house: House, tmp_path: Path, target: str) -> None:
    house.start()
    until(house.up, 30)
    session = house.first_session()
    house.ready(session)
    house.do(session, "open_checkin", by="T001")
    house.tap("样例甲")
    strike(house, target)                                                   # in check-in
    assert house.session(session)["state"] == "checkin"
    assert house.session(session)["admitted"] == 1
    house.tap("样例乙")
    until(lambda: house.session(session)["admitted"] == 2)
    house.do(session, "start_exam", by="T001", held_ms=2000)
    strike(house, target)                                                   # in the exam
    assert house.session(session)["state"] == "running"
    house.do(session, "end_exam", by="T001", pin=PINS["T001"], held_ms=2000)
    strike(house, target)                                                   # in closing
    assert house.session(session)["state"] == "closing"
    house.do(session, "seal", by="T001", pin=PINS["T001"], second="T002", second_pin=PINS["T002"], room_empty=True,
             absences_confirmed=True)
    until(lambda: house.session(session)["revisions"] and house.session(session)["revisions"][-1]["verdict"] == "accepted", 60,
          "the manifest is accepted")
    assert house.session(session)["admitted"] == 2

    outcome = fsck(house.config)
    assert outcome.findings == [] and outcome.running, list(lines(outcome))
    report = house.verify(session, tmp_path / "export")
    manifest = newest_manifest(tmp_path / "export")
    lost = {stream: sum(g["dur_us"] for g in manifest["gaps"] if g["stream"] == stream) / 1e6 for stream in ("cam-front", "cam-back")}
    if target == "room":
        assert report["verdict"] == "PASS", report
        assert manifest["gaps"] == []
    else:
        assert report["verdict"] == "PASS WITH DECLARED GAPS", report
        deaths = 3
        assert 0 < lost["cam-front"] <= deaths * COST_S, (lost, manifest["gaps"])
        assert lost["cam-back"] <= (0 if target == "worker" else deaths * COST_S)


def newest_manifest(folder: Path) -> Any:
    newest = max(folder.glob("manifest-*.dsse.json"), key=lambda path: int(path.name.split("-")[1].split(".")[0]))
    return json.loads(base64.b64decode(json.loads(newest.read_text())["payload"]))
