"""The instruments of the box: the disk, the clock, the service manager's socket."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edge import status


def test_the_kernel_says_whether_its_clock_is_disciplined() -> None:
    reading = status.probe_clock()
    assert reading.state in ("synced", "unsynced")
    assert reading.max_error_us >= 0


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
