"""The instruments of the box: the disk, the clock, the service manager's socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge import status

SYNCED = "C0A80101,192.168.1.1,3,1795516201.565515892,0.000250000,-0.0001,0.0002,1.5,0.0,0.1,0.004000000,0.001000000,64.2,Normal"
"""What `chronyc -n -c tracking` prints; the form was taken from chrony 4.3."""


@pytest.fixture
def chronyc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program of that name first on the path; its shell lines are given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(lines: str) -> None:
        program = folder / "chronyc"
        program.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
        program.chmod(0o755)

    return put


@pytest.fixture
def no_chronyc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def told_by(probe: status.ClockProbe, source: str) -> status.ClockReading:
    """The first reading from that source; the probe waits for no one for long, so a busy machine's first may come from elsewhere."""
    until = time.monotonic() + 10
    while (reading := probe()).source != source:
        assert time.monotonic() < until, f"{source} never answered"
        time.sleep(0.02)
    return reading


@pytest.mark.usefixtures("no_chronyc")
def test_the_kernel_says_whether_its_clock_is_disciplined(tmp_path: Path) -> None:
    reading = status.ClockProbe(tmp_path / "no-timesyncd")()
    assert reading.state in ("synced", "unsynced")
    assert reading.max_error_us >= 0
    assert reading.source == "kernel"


def test_r_d3_chrony_is_asked_and_its_bound_is_taken(tmp_path: Path, chronyc: Callable[[str], None]) -> None:
    calls = tmp_path / "calls"
    chronyc(f'printf "%s\\n" "$*" >>{calls}; echo {SYNCED}')
    probe = status.ClockProbe(tmp_path)
    assert told_by(probe, "chrony") == status.ClockReading("synced", 3250, "chrony", -250)
    assert {probe() for _ in range(50)} == {status.ClockReading("synced", 3250, "chrony", -250)}
    assert calls.read_text().splitlines() == ["-n -c tracking"], "once for all of them"


@pytest.mark.parametrize("fields", [
    SYNCED.replace("Normal", "Not synchronised"),
    SYNCED.replace("C0A80101,192.168.1.1", "7F7F0101,"),        # follows nobody but itself
])
def test_r_d3_a_chrony_that_follows_nobody_is_unsynced(tmp_path: Path, chronyc: Callable[[str], None], fields: str) -> None:
    chronyc(f"echo '{fields}'")
    assert told_by(status.ClockProbe(tmp_path / "none"), "chrony").state == "unsynced"


@pytest.mark.parametrize("lines", [
    "echo '506 Cannot talk to daemon'; exit 1",
    f"echo {SYNCED}; exit 1",
    "echo garbage",
    f"echo {SYNCED.replace('0.001000000', 'nan')}",
    f"echo {SYNCED.replace('0.001000000', '-5')}",
    "head -c 3000000 /dev/zero",
    "kill -9 $$",
])
def test_a_broken_chronyc_leaves_the_word_to_the_kernel(tmp_path: Path, chronyc: Callable[[str], None], lines: str) -> None:
    done = tmp_path / "done"
    chronyc(f"trap 'touch {done}' EXIT; {lines}" if "kill" not in lines else f"touch {done}; {lines}")
    probe = status.ClockProbe(tmp_path / "none")
    first = probe()
    until = time.monotonic() + 10
    while not done.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    assert {first.source} | {probe().source for _ in range(20)} == {"kernel"}


def test_a_hanging_chronyc_holds_nobody_up_and_is_ended_with_its_children(tmp_path: Path, chronyc: Callable[[str], None]) -> None:
    pids = tmp_path / "pids"
    chronyc(f"sleep 600 & echo $$ $! >{pids}; wait")
    probe = status.ClockProbe(tmp_path / "none")
    assert {probe().source for _ in range(20)} == {"kernel"}
    until = time.monotonic() + 10
    while not pids.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    assert all(is_running(int(pid)) for pid in pids.read_text().split()), "one short wait, not one a call, and none until its end"
    while any(is_running(int(pid)) for pid in pids.read_text().split()):
        assert time.monotonic() < until, "it was never ended"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.usefixtures("no_chronyc")
def test_timesyncd_is_known_by_its_folder_and_believed_only_after_its_first_sync(tmp_path: Path) -> None:
    folder = tmp_path / "timesync"
    folder.mkdir()
    probe = status.ClockProbe(folder)
    assert (probe().source, probe().state) == ("timesyncd", "unsynced")
    (folder / "synchronized").touch()
    kernel = status.ClockProbe(tmp_path / "none")()
    assert probe() == status.ClockReading(kernel.state, probe().max_error_us, "timesyncd"), "as far as the kernel agrees"


def test_a_disk_that_can_be_written_says_so_and_nothing_stays_behind(tmp_path: Path) -> None:
    reading = status.probe_disk(tmp_path)
    assert reading.write_ok and reading.fault == ""
    assert 0 < reading.free_bytes <= reading.total_bytes
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone_is_a_fault_in_words(tmp_path: Path) -> None:
    reading = status.probe_disk(tmp_path / "gone")
    assert (reading.write_ok, reading.free_bytes) == (False, 0)
    assert reading.fault == os.strerror(2)


def test_what_cannot_be_written_is_a_fault_in_words() -> None:
    reading = status.probe_disk(Path("/proc"))
    assert not reading.write_ok and reading.fault


def test_systemd_hears_us_and_without_it_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not status.notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        assert status.notify("READY=1\nSTATUS=here")
        assert manager.recv(200) == b"READY=1\nSTATUS=here"
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    assert not status.notify("WATCHDOG=1")


def test_a_manager_without_a_file_hears_us_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")                                # the kernel gives a free abstract name
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + manager.getsockname()[1:].decode())
        assert status.notify("WATCHDOG=1")
        assert manager.recv(200) == b"WATCHDOG=1"


def test_the_watchdog_is_fed_at_half_its_time_and_only_by_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert status.watchdog_interval_s() is None
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    assert status.watchdog_interval_s() == 15
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert status.watchdog_interval_s() == 15
    monkeypatch.setenv("WATCHDOG_PID", "1")
    assert status.watchdog_interval_s() is None
