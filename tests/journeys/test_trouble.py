"""What goes wrong in a room, and what must go on all the same: each with real processes and real wires."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from edge import demo
from edge.sim.card_reader import ask
from tests.journeys.house import PINS, House, until
from tests.journeys.test_kill import newest_manifest

ABSENT_CAMERA = """
[[streams]]
id = "cam-absent"
kind = "rtsp"
name_zh = "缺席摄像"
name_en = "Absent camera"
url = "rtsp://127.0.0.1:9/none"
"""


def item(house: House, session: str, key: str) -> dict[str, Any]:
    items: list[dict[str, Any]] = house.call("GET", f"/sessions/{session}/preflight")["items"]
    return next(each for each in items if each["key"] == key)


def sim_fault(house: House, mode: str) -> None:
    address = house.config.platform.url.removesuffix("/edge/v1") + "/sim/faults"
    request = urllib.request.Request(address, json.dumps({"mode": mode}).encode(), {"content-type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def whole_session(house: House, session: str) -> None:
    house.ready(session)
    house.do(session, "open_checkin", by="T001")
    house.tap("样例甲")
    until(lambda: house.session(session)["admitted"] == 1)
    house.do(session, "start_exam", by="T001", held_ms=2000)
    house.do(session, "end_exam", by="T001", pin=PINS["T001"], held_ms=2000)
    seal(house, session)


def seal(house: House, session: str) -> None:
    house.do(session, "seal", by="T001", pin=PINS["T001"], second="T002", second_pin=PINS["T002"], room_empty=True,
             absences_confirmed=True)


def accepted(house: House, session: str, revision: int = 1) -> bool:
    revisions = house.session(session)["revisions"]
    return len(revisions) >= revision and revisions[revision - 1]["verdict"] == "accepted"


def test_platform_away_is_amber_and_delivered_later(house: House) -> None:
    house.start()
    until(house.up)
    session = house.first_session()
    house.kill("platform")
    until(lambda: item(house, session, "platform")["light"] == "amber", 40, "the platform's line is amber")
    whole_session(house, session)
    until(lambda: house.session(session)["revisions"] and house.session(session)["revisions"][0]["digest"], 30, "signed all the same")
    assert house.call("GET", "/state")["backlog"] == 2          # the open and the manifest wait
    house.start("platform")
    until(lambda: accepted(house, session), 60, "delivered when it came back")
    assert house.call("GET", "/state")["backlog"] == 0


@pytest.mark.parametrize("mode", ["wrong-digest", "forged-signature"])
def test_a_receipt_that_proves_nothing_is_not_accepted(house: House, mode: str) -> None:
    house.start()
    until(house.up)
    session = house.first_session()
    sim_fault(house, mode)
    whole_session(house, session)
    until(lambda: house.session(session)["revisions"] and house.session(session)["revisions"][0]["receipt_refused"], 60, "refused")
    assert house.session(session)["revisions"][0]["verdict"] is None
    sim_fault(house, "ok")
    until(lambda: accepted(house, session), 60, "accepted once the answer is true")


def test_reader_pulled_out_and_put_back(house: House) -> None:
    house.start()
    until(house.up)
    session = house.first_session()
    until(lambda: item(house, session, "reader")["light"] == "green")
    control = house.config.paths.run / "sim-card-reader.sock"
    asyncio.run(ask(control, {"do": "unplug"}))
    until(lambda: item(house, session, "reader")["light"] == "red", 5, "red within five seconds")
    asyncio.run(ask(control, {"do": "plug"}))
    until(lambda: item(house, session, "reader")["light"] == "green", 15, "green again without a restart")
    for kind, word in (("silent", "silent"), ("garbled", "garbled"), ("status", "not-authorised")):
        asyncio.run(ask(control, {"do": "trouble", "kind": kind, "sw3": "66", "times": 100_000}))
        until(lambda: item(house, session, "reader")["light"] == "red", 5, "red within five seconds")
        assert item(house, session, "reader")["facts"] == {"reason": word}
        asyncio.run(ask(control, {"do": "trouble", "kind": kind, "times": 0}))
        until(lambda: item(house, session, "reader")["light"] == "green", 15, "green again without a restart")
    whole_session(house, session)


def test_a_camera_that_is_not_there_is_red_and_named(tmp_path: Path) -> None:
    template = tmp_path / "absent.toml"
    template.write_text(demo.TEMPLATE.read_text(encoding="utf-8") + ABSENT_CAMERA, encoding="utf-8")
    house = House(tmp_path / "demo", demo.prepare(tmp_path / "demo", 0, 0, template))
    try:
        house.start()
        until(house.up)
        session = house.first_session()
        until(lambda: item(house, session, "stream:cam-front")["light"] == "green")
        absent = until(lambda: (found := item(house, session, "stream:cam-absent"))["facts"]["reason"] and found, 20, "a reason")
        assert absent["light"] == "red"
        assert absent["waivable"] is False      # the only camera of its kind
    finally:
        house.stop()


def test_recorders_gone_at_sealing_then_a_second_revision(house: House, tmp_path: Path) -> None:
    """Sealed with every recorder dead: the gap is declared after ten seconds; what is recovered later becomes revision 2."""
    house.start()
    until(house.up)
    session = house.first_session()
    house.ready(session)
    house.do(session, "open_checkin", by="T001")
    house.tap("样例甲")
    house.do(session, "start_exam", by="T001", held_ms=2000)
    until(lambda: all(s["segments"] >= 0 for s in house.session(session)["streams"].values()))
    until(lambda: house.session(session)["elapsed_us"] > 5_000_000, 20, "five seconds of exam")
    pids = [house.worker_pid(s.id) for s in house.config.streams]
    house.kill("recorder")
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    house.do(session, "end_exam", by="T001", pin=PINS["T001"], held_ms=2000)
    seal(house, session)
    until(lambda: accepted(house, session), 60, "revision 1 with declared gaps")
    assert all(s["gaps"] >= 1 for s in house.session(session)["streams"].values())
    house.start("recorder")
    until(lambda: accepted(house, session, 2), 60, "revision 2 names the recovered segments")
    report = house.verify(session, tmp_path / "export")
    assert report["verdict"] == "PASS WITH DECLARED GAPS", report
    manifest = newest_manifest(tmp_path / "export")
    assert manifest["revision"] == 2
    assert any(s.get("end_reason") == "worker-crash" or s.get("recovered") for s in manifest["segments"]), manifest["segments"]


def test_a_footage_folder_that_is_not_mounted_is_refused_in_words(house: House) -> None:
    (house.config.paths.footage / "storage.json").unlink()
    done = subprocess.run([sys.executable, "-m", "edge", "recorder", "--config", str(demo.config_path(house.folder))],
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert "storage.json is missing" in done.stderr
    assert "edge storage init" in done.stderr
    house.start("room", "platform", "card-reader")
    until(house.up)
    session = house.first_session()
    assert item(house, session, "storage")["light"] == "red"        # the room is up and says it too


def test_an_unknown_key_refuses_to_start(house: House) -> None:
    path = demo.config_path(house.folder)
    path.write_text(path.read_text(encoding="utf-8") + "\n[recording]\nsegments_s = 60\n", encoding="utf-8")
    for program in ("room", "recorder"):
        done = subprocess.run([sys.executable, "-m", "edge", program, "--config", str(path)], capture_output=True, text=True, timeout=30)
        assert done.returncode == 3
        assert "recording.segments_s: this key is unknown" in done.stderr
