"""Cameras that stall, refuse, flap and change, workers that freeze: noticed, brought back, and nobody's camera is hammered."""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.capture.streams import StreamSpec
from edge.clock import US

BACK_US = 10 * US


def boot_us() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def pid_of(bench: Any, stream: str, other_than: int = 0) -> int:
    status = bench.status(stream)
    return status.pid if status and status.state == "recording" and status.pid != other_than else 0


def gone(pid: int) -> bool:
    try:
        return ") Z" in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


class Evening:
    """What became of each camera: when it was told as lost and recorded again (boot time), and its ledger's view. All workers have left."""

    def __init__(self, hostile: Any, crew: Any, secret: Path) -> None:
        self.crew = crew
        self.still = {"stalled": hostile.camera(), "blind": hostile.camera()}
        self.shut = {str(settings): hostile.camera(**settings) for settings in REFUSALS}
        self.busy = {"503": hostile.camera(answer="503"), "hangup": hostile.camera(answer="hangup"), "flapping": hostile.camera()}
        self.locked = {"digest": hostile.camera(auth="digest"), "basic": hostile.camera(auth="basic"), "401": hostile.camera(answer="401")}
        self.cameras = self.still | self.shut | self.busy | self.locked
        self.lost_us: dict[str, int] = {}
        self.back_us: dict[str, int] = {}
        self.reasons: dict[str, str] = {}
        for number in range(1, 9):
            self.busy["flapping"].fault("drop", after=20 * number)
        self.hung, self.stopped_us, self.replaced_us = hostile.camera(), 0, 0
        recorder = crew.recorder(self.hung)
        crew.start(*self.still.values())
        crew.start(*self.shut.values(), *self.busy.values(), wait=False)
        crew.start(*self.locked.values(), wait=False, credentials=secret)
        self.still["stalled"].fault("stall", 3600)
        self.still["blind"].set(pictures=False)
        self.pid = crew.wait(lambda: pid_of(crew.bench, self.hung.name))
        os.kill(self.pid, signal.SIGSTOP)
        self.stopped_us = boot_us()
        began = time.monotonic()
        crew.wait(lambda: self._look() and time.monotonic() - began > WATCHED_S, WATCHED_S + 25)
        self.alive = [crew.process(camera).poll() is None for camera in self.cameras.values()]
        recorder.terminate()
        self.codes = crew.finish(*self.cameras.values())
        recorder.wait(timeout=15)
        crew.bench.wait_segments(self.hung.name, 2)

    def _look(self) -> bool:
        """Note what the status files say; a camera is well again as soon as it was told as lost. True when all that is to come came."""
        for name, camera in (self.still | self.shut).items():
            status = self.crew.bench.status(camera.name)
            if status is None:
                continue
            if name not in self.lost_us and status.state == "lost":
                self.lost_us[name], self.reasons[name] = boot_us(), status.reason
                camera.set(answer="ok", play="ok", pictures=True)
            elif name in self.lost_us and name not in self.back_us and status.state == "recording":
                self.back_us[name] = boot_us()
        if not self.replaced_us and pid_of(self.crew.bench, self.hung.name, other_than=self.pid):
            self.replaced_us = boot_us()
        patient = {str({"answer": "403"})}              # a refusal is asked again after half a minute only
        return bool(self.replaced_us) and set(self.back_us) >= set(self.still | self.shut) - patient


REFUSALS: list[dict[str, Any]] = [{"answer": "silent"}, {"answer": "huge"}, {"answer": "trickle"}, {"answer": "404"}, {"answer": "403"},
                                  {"play": "silent"}, {"play": "454"}]
WATCHED_S = 13.0
"""Room for the pauses 1, 2, 4 s and for a tenth second of time-out."""


@pytest.fixture(scope="module")
def evening(hostile: Any, make_crew: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> Evening:
    secret = tmp_path_factory.mktemp("secret") / "credentials"
    secret.write_text("room:wrong\n")
    return Evening(hostile, make_crew(), secret)


@pytest.mark.parametrize("name", ["stalled", "blind"])
def test_r_a5_stalled_but_open(evening: Evening, name: str) -> None:
    """A camera that stays connected and sends nothing, or sound without its picture: told, and recorded again, within 10 s."""
    camera = evening.cameras[name]
    ledger, sidecars = camera.ledger(), evening.crew.sidecars(camera)
    before = next(s for s in sidecars if s.end_reason == "camera-frozen")
    after = next(s for s in sidecars if s.run != before.run)
    last_sent_us = max(row[4] for row in ledger.sessions[0]["pictures"] if row[4] < evening.lost_us[name] - US)
    assert evening.reasons[name] == "frozen"
    assert evening.lost_us[name] - last_sent_us <= BACK_US
    assert after.start.boot_us - before.end.boot_us <= BACK_US
    assert abs(before.end.boot_us - last_sent_us) < 250_000
    assert [s["how"] for s in ledger.sessions] == ["teardown"] * 2


def test_r_a5_frozen_worker(evening: Evening) -> None:
    """A worker that hangs is replaced within 10 s, and what it had written is kept."""
    assert evening.replaced_us - evening.stopped_us <= BACK_US
    before, after, *_ = evening.crew.sidecars(evening.hung)
    assert before.recovered and after.start.boot_us - before.end.boot_us <= BACK_US
    assert evening.hung.ledger().most <= 2      # nobody can close a stopped process's connection but the kernel, at its kill


def test_no_stream_to_be_had(evening: Evening) -> None:
    """Whatever stands in for an answer: told as lost, the worker stays up, records once the camera is well, leaves when told to."""
    assert set(evening.lost_us) == set(evening.still | evening.shut)
    assert all(evening.alive) and set(evening.codes) == {0}


def test_r_g1_one_connection_at_a_time(evening: Evening) -> None:
    assert {name: camera.ledger().most for name, camera in evening.cameras.items() if camera.ledger().most != 1} == {}


@pytest.mark.parametrize("name", ["503", "hangup", "flapping"])
def test_r_g1_pauses_grow_from_a_floor(evening: Evening, name: str) -> None:
    """A run shorter than a minute does not begin them anew."""
    tries = evening.cameras[name].ledger().describes
    pauses = [(b - a) / US for a, b in itertools.pairwise(tries)]
    assert 3 <= len(tries) <= 6, pauses
    assert all(pause >= 0.7 * min(10, 2 ** number) for number, pause in enumerate(pauses)), pauses


def test_r_g1_pauses_have_jitter(evening: Evening) -> None:
    pauses = [b - a for name in ("503", "hangup") for a, b in itertools.pairwise(evening.cameras[name].ledger().describes)]
    nominal = (1, 2, 4, 8)
    off = [abs(pause / US / min(nominal, key=lambda n: abs(n - pause / US)) - 1) for pause in pauses]
    assert max(off) > 0.03, pauses


@pytest.mark.parametrize("name", ["digest", "basic", "401"])
def test_r_g1_a_refused_password_is_not_repeated(evening: Evening, name: str) -> None:
    """Half a minute until the next try: cameras lock out who insists."""
    assert 1 <= len(evening.cameras[name].ledger().describes) <= 2      # one try: without, then with the password


def test_r_a5_back_without_a_key_frame_is_not_recording(hostile: Any, crew: Any) -> None:
    """A camera that is there again and sends what cannot be begun with: lost until its first key frame is on the disk, and waited for."""
    camera = hostile.camera()
    crew.start(camera)
    camera.set(keys=False)
    camera.fault("drop")
    crew.wait(lambda: crew.bench.state(camera.name) == "lost")
    seen: set[str] = set()
    until = time.monotonic() + 8            # longer than a silence would be borne
    crew.wait(lambda: seen.add(crew.bench.state(camera.name)) or time.monotonic() > until)
    assert seen == {"lost"}
    assert len(camera.ledger().sessions) == 2 and len(camera.ledger().pictures(1)) > 100
    camera.set(keys=True)
    crew.wait(lambda: crew.bench.state(camera.name) == "recording")
    assert crew.finish(camera) == [0]
    sidecars = crew.sidecars(camera)
    assert len(camera.ledger().sessions) == 2 and len({s.run for s in sidecars}) == 2
    assert [s.end_reason for s in sidecars if s.end_reason != "rotated"] == ["camera-lost", "stopped"]


@pytest.mark.slow
def test_no_key_frame_for_half_a_minute_gets_a_new_connection(hostile: Any, crew: Any) -> None:
    camera = hostile.camera(keys=False)
    crew.start(camera, wait=False)
    crew.wait(lambda: len(camera.ledger().sessions) == 2, 45)
    camera.set(keys=True)
    crew.wait(lambda: crew.bench.state(camera.name) == "recording")
    first = camera.ledger().sessions[0]
    assert first["how"] == "teardown" and first["ended"] - first["began"] > 28 * US


@pytest.mark.parametrize("order", ["leash", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_r_g1_teardown_at_the_end(hostile: Any, crew: Any, order: str) -> None:
    tcp, udp = hostile.camera(), hostile.camera(video="h265")
    crew.start(tcp)
    crew.start(udp, transport="udp")
    if order == "leash":
        assert crew.finish(tcp, udp) == [0, 0]
    for camera in (tcp, udp):
        if order == "SIGTERM":
            crew.process(camera).send_signal(signal.SIGTERM)
        assert crew.process(camera).wait(timeout=10) == 0
    for camera in (tcp, udp):
        assert [s["how"] for s in camera.ledger().sessions] == ["teardown"]
        assert camera.ledger().connections == 0


def test_r_g3_a_full_stderr_pipe_stops_nothing(hostile: Any, bench: Any, wait_until: Callable[..., Any]) -> None:
    """Nobody reads the worker's log: it records, turns and seals all the same."""
    camera = hostile.camera()
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writing, bytes(4096))
    command = bench.worker_command(StreamSpec(camera.name, "rtsp", url=camera.url, segment_s=2))
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writing, stderr=writing)
    try:
        bench.wait_segments(camera.name, 2)
        assert bench.finish(process) == 0
    finally:
        process.kill()
        process.communicate()
        os.close(reading)
        os.close(writing)


def test_r_g3_workers_die_with_their_recorder(hostile: Any, bench: Any, crew: Any, wait_until: Callable[..., Any]) -> None:
    """kill -9 of the recorder: within seconds no worker is left, whatever its camera does."""
    cameras = [hostile.camera(), hostile.camera(answer="silent"), hostile.camera(play="silent"), hostile.camera()]
    process = crew.recorder(*cameras)
    wait_until(lambda: bench.state(cameras[0].name) == "recording" == bench.state(cameras[3].name))
    cameras[3].fault("stall", 3600)
    wait_until(lambda: all(bench.status(camera.name) for camera in cameras))
    pids = [bench.status(camera.name).pid for camera in cameras]
    assert not any(map(gone, pids))
    process.kill()
    wait_until(lambda: all(map(gone, pids)), 8)       # a read waits five seconds, and a TEARDOWN behind it
    assert bench.segments(cameras[0].name)[-1][1].end_reason == "stopped"
    assert not list((bench.footage / cameras[0].name).rglob("*.open.json"))
