"""A whole exam room in real processes: platform, reader, recorder and room, each on its own pid, spoken to over its real wires."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edge import demo
from edge.capture.control import read_status
from edge.config import Config

T = TypeVar("T")

PINS = {staff_id: pin for staff_id, _, _, _, pin in demo.LOGINS}
PASSWORDS = {staff_id: password for staff_id, _, _, password, _ in demo.LOGINS}


def until(look: Callable[[], T], seconds: float = 30, what: str = "") -> T:
    """Wait for a condition: the first true answer of `look`, or the failure with what it said last."""
    end = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < end:
        try:
            last = answer = look()
            if answer:
                return answer
        except (http.client.HTTPException, OSError, AssertionError) as error:
            last = error
        time.sleep(0.1)     # a pause between two looks, not a wait for a time
    raise AssertionError(f"not within {seconds} s: {what or look.__name__}; last: {last!r}")


class LocalConnection(http.client.HTTPConnection):
    """HTTP over the room's Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("room", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


@dataclass
class House:
    """The demo's programs, kept by the test itself so that any of them can be killed and started."""

    folder: Path
    config: Config
    environment: dict[str, str] = field(default_factory=dict)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, *names: str) -> None:
        for program in demo.programs(self.folder, self.config):
            if (names and program.name not in names) or (program.name in self.processes and self.processes[program.name].poll() is None):
                continue
            log = (self.folder / f"{program.name}.log").open("ab")
            self.processes[program.name] = subprocess.Popen(program.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                            env={**os.environ, **self.environment}, start_new_session=True)
            log.close()

    def kill(self, name: str) -> None:
        """kill -9, and wait until it is gone."""
        self.processes[name].kill()
        self.processes[name].wait()

    def worker_pid(self, stream: str) -> int:
        status = read_status(self.config.paths.run, stream)
        assert status is not None and status.pid
        return status.pid

    def stop(self) -> None:
        for name in ("room", "recorder", "card-reader", "platform"):
            process = self.processes.get(name)
            if process and process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            if process.poll() is None:
                process.kill()
                process.wait()

    # ---- the local socket, as a client ----

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        line = LocalConnection(self.config.paths.run / "room.sock")
        try:
            line.request(method, path, body=json.dumps(body) if body is not None else None, headers={"content-type": "application/json"})
            answer = line.getresponse()
            found = json.loads(answer.read())
            assert answer.status < 400, found
            return found
        finally:
            line.close()

    def do(self, session: str, verb: str, **arguments: Any) -> None:
        self.call("POST", f"/sessions/{session}/{verb}", arguments)

    def session(self, session: str) -> Any:
        return self.call("GET", f"/sessions/{session}")

    def up(self) -> bool:
        return bool(self.call("GET", "/state"))

    def tap(self, name: str) -> None:
        done = subprocess.run([sys.executable, "-m", "edge", "sim", "tap", name, "--control",
                               str(self.config.paths.run / "sim-card-reader.sock")], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr

    def first_session(self) -> str:
        """Today's first session, once plan and roster have come."""
        def planned() -> str:
            sessions: dict[str, str] = self.call("GET", "/state")["sessions"]
            return min(sessions) if sessions else ""
        return until(planned, 40, "a plan from the platform")

    def ready(self, session: str, also: tuple[str, ...] = ()) -> None:
        """Preflight with two proctors and the exits ticked, until nothing is red."""
        self.do(session, "begin_preflight", by="T001")
        for staff in ("T001", "T002", "T003"):
            self.do(session, "sign_in", staff_id=staff, pin=PINS[staff])
        self.do(session, "check_exits", by="T002")
        until(lambda: self.call("GET", f"/sessions/{session}/preflight")["result"] != "not-ready", 40, "preflight without red")

    def verify(self, session: str, to: Path) -> dict[str, Any]:
        """Export through the room and verify the copy with a program of its own, as an auditor would."""
        self.call("POST", f"/sessions/{session}/files/export", {"to": str(to), "by": "A001"})
        done = subprocess.run([sys.executable, "-m", "edge", "verify", str(to), "--root", str(self.folder / "platform/authority/root.pem"),
                               "--json"], capture_output=True, text=True, timeout=120)
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert (done.returncode == 0) == (report["verdict"] != "FAIL")
        return report
