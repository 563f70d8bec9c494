"""`edge demo`, `edge run` and `edge drill` as a newcomer types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import demo
from tests.journeys.house import House, until


class Started:
    """A demo started by its command, with what it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, folder.with_suffix(".said")
        with self.said.open("wb") as out:
            command = [sys.executable, "-m", "edge", "demo", "--dir", str(folder), "--port", "0", "--platform-port", "0"]
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)

    def text(self) -> str:
        return self.said.read_text(encoding="utf-8", errors="replace")


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    made = Started(tmp_path / "demo")
    yield made
    if made.process.poll() is None:
        made.process.send_signal(signal.SIGINT)
        made.process.wait(40)


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in tasks] + [grandchild for each in tasks for grandchild in children(int(each))]


def test_demo_says_where_it_is_and_ends_cleanly(started: Started) -> None:
    until(lambda: "Ctrl-C" in started.text(), 30, "the greeting")
    for staff_id, _, _, password, pin in demo.LOGINS:
        assert staff_id in started.text()
        assert password in started.text()
        assert pin in started.text()
    address = next(word for word in started.text().split() if word.startswith("http://"))
    second = subprocess.run([sys.executable, "-m", "edge", "demo", "--dir", str(started.folder)], capture_output=True, text=True,
                            timeout=30)
    assert second.returncode == 1
    assert address in second.stderr
    until(lambda: len(children(started.process.pid)) >= 6, 30, "four programs and two workers")
    recorder = subprocess.run([sys.executable, "-m", "edge", "recorder", "--config", str(demo.config_path(started.folder))],
                              capture_output=True, text=True, timeout=30)
    assert recorder.returncode == 3     # a second recorder would take the first one's control socket away
    assert "running already" in recorder.stderr
    assert (started.folder / "run/recorder.sock").exists()
    family = children(started.process.pid)
    os.kill(started.process.pid, signal.SIGINT)
    assert started.process.wait(40) == 0
    until(lambda: not [pid for pid in family if Path(f"/proc/{pid}").exists()], 10, "nobody is left behind")
    assert "demo stopped" in started.text()


def test_drill_on_the_running_demo(started: Started) -> None:
    until(lambda: "ready serving" in started.text(), 30, "the room serves")
    done = subprocess.run([sys.executable, "-m", "edge", "drill", "--seconds", "3", "--json", "--dir", str(started.folder)],
                          capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["ok"], report["receipt"], report["verify"], report["waivers"]) == (True, "accepted", "PASS", [])
    assert report["checkins"] == 10                                         # eleven cards, one of them expired
    assert set(report["streams"]) == {"cam-front", "cam-back"}
    for stream in report["streams"].values():
        assert stream["frames"] >= 3 * 15
        assert stream["gaps"] == 0
    assert set(report["steps"]) >= {"preflight", "open", "checkin", "start_exam", "exam", "end_exam", "seal", "accept", "verify"}
    # beside the running room, which goes on writing its journal
    store = subprocess.run([sys.executable, "-m", "edge", "verify", "--store", "--config", str(started.folder / "demo.toml"), "--json"],
                           capture_output=True, text=True, timeout=120)
    found = json.loads(store.stdout)
    assert (store.returncode, found["verdict"], found["scope"], found["sessions"]) == (0, "PASS", "store", 1), found["lines"]


def test_drill_refuses_while_a_session_is_live(house: House) -> None:
    house.start()
    until(house.up)
    session = house.first_session()
    house.ready(session)
    house.do(session, "open_checkin", by="T001")
    done = subprocess.run([sys.executable, "-m", "edge", "drill", "--seconds", "1", "--json", "--dir", str(house.folder)],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "another-session-is-live" in json.loads(done.stdout.splitlines()[-1])["error"]
    assert house.session(session)["state"] == "checkin"


def test_edge_run_starts_both_programs(house: House) -> None:
    house.start("platform", "card-reader")
    with (house.folder / "run.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "edge", "run", "--config", str(demo.config_path(house.folder))],
                                   stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        until(house.up)
        until(lambda: all(age is not None and age < 3000 for age in house.call("GET", "/state")["streams"].values()), 30, "both record")
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(40) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
