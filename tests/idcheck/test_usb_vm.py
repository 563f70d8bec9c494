"""A USB reader on Debian's own kernel, through libusb: enumerated, opened, read, pulled out and put back; and from inside the room's unit.

The machine is `tests/rigs/room-vm` (qemu, emulated: times here say nothing), the reader `tests/rigs/usbip_reader.py` at the far end of the
kernel's virtual host controller. What the installer is told in hardware/README.md (udev rule, drop-in for the unit) is what is installed.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import usb

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RIG = ROOT / "tests" / "rigs" / "room-vm"
RIGS_HOME = Path(os.environ.get("EDGE_RIGS") or Path(os.environ.get("TMPDIR") or "/var/tmp") / "edge-rigs")
HOME = Path(os.environ.get("ROOM_HOME") or RIGS_HOME / "room")
BUILD = "tests/rigs/room-vm install && tests/rigs/room-vm build   (as root, about three minutes, 1.7 GB)"
READER = "cd /opt/project && PYTHONPATH=/opt/project timeout 150 python3 tests/rigs/usbip_reader.py"

Run = Callable[..., str]


@pytest.fixture(scope="module")
def guest() -> Iterator[Run]:
    """Runs a command as root in the virtual PC; what it printed."""
    if shutil.which("qemu-system-x86_64") is None or not (HOME / "base.ext4").exists():
        pytest.skip(f"no virtual PC in {HOME}: {BUILD}")
    room = {**os.environ, "ROOM": f"usb{os.getpid()}"}

    def rig(*arguments: str, timeout: float, stdin: bytes = b"") -> str:
        done = subprocess.run([RIG, *arguments], env=room, capture_output=True, timeout=timeout, input=stdin)
        assert done.returncode == 0, (arguments[-1], done.stdout[-500:], done.stderr[-500:])
        return done.stdout.decode()

    rig("boot", "--fresh", timeout=400)
    package = io.BytesIO()
    with tarfile.open(fileobj=package, mode="w") as tar:
        for path, name in ((ROOT / "edge", "edge"), (Path(usb.__file__).parent, "usb"),
                           (RIG.parent / "usbip_reader.py", "tests/rigs/usbip_reader.py")):
            tar.add(path, name, filter=lambda entry: None if "__pycache__" in entry.name else entry)
    rig("exec", "mkdir -p /opt/project; tar -C /opt/project --no-same-owner -m -xf -; chmod -R a+rX /opt/project; modprobe vhci-hcd",
        timeout=120, stdin=package.getvalue())
    yield lambda command, stdin="": rig("exec", "--timeout", "200", command, timeout=230, stdin=stdin.encode())
    rig("cut", timeout=60)
    shutil.rmtree(HOME / room["ROOM"], ignore_errors=True)


@pytest.mark.parametrize("shape", ["one-pair", "split"])
def test_a_reader_on_the_bus(guest: Run, shape: str) -> None:
    facts: list[dict[str, Any]] = [json.loads(line) for line in guest(f"{READER} scenario {shape} 2>/dev/null").splitlines()]
    assert [fact["what"] for fact in facts] == ["before", "second", "look", "start", "card", "card", "half an answer", "pulled", "put back",
                                                "card", "end"]
    before, second, look, *reports, _ = facts
    assert (before["word"], second["word"]) == ("absent", "busy"), "the kernel's claim keeps a second one out"
    assert (look["fault"], look["card"], look["noise"]) == ("", "resident_id, 样*甲, ****0018", 0)
    assert [word for _, _, word in look["steps"]] == ["ok", "found", "ok", "ok", "no-such-item", "ok"]
    assert [(fact["report"], fact["name"] or fact["word"]) for fact in reports] == [
        ("ReaderBack", ""), ("CardSeen", "样例乙"), ("CardSeen", "样例䶮"), ("CardSeen", "样例甲"),
        ("ReaderLost", "gone"), ("ReaderBack", ""), ("CardSeen", "样例乙")]
    assert reports[4]["ms"] < 5000, "red within five seconds, even here"


def test_from_inside_the_rooms_unit(guest: Run) -> None:
    """edge.service as it is delivered, with one look in place of the room: refused by its own walls, and let in by the drop-in."""
    unit = (ROOT / "systemd" / "edge.service").read_text("utf-8")
    for gone in ("Type", "NotifyAccess", "WatchdogSec", "Restart", "RestartSec", "Environment", "ExecStart", "RequiresMountsFor", "After",
                 "Wants", "ConfigurationDirectory"):
        unit = re.sub(rf"^{gone}=.*\n", "", unit, flags=re.MULTILINE)
    unit = unit.replace("[Service]\n", "[Service]\nType=oneshot\nWorkingDirectory=/opt/project\nEnvironment=PYTHONPATH=/opt/project\n"
                                       "ExecStart=/usr/bin/python3 -B tests/rigs/usbip_reader.py visit\n")
    readme = (ROOT / "hardware" / "README.md").read_text("utf-8")
    drop_in = re.search(r"```\n# /etc/systemd/system/edge\.service\.d/usb-reader\.conf\n(.*?)```", readme, re.DOTALL)
    assert drop_in is not None
    guest("cat > /etc/udev/rules.d/60-idcard.rules; udevadm control --reload; useradd -r edge",
          (ROOT / "hardware" / "60-idcard.rules").read_text("utf-8"))
    guest("systemd-run -q --unit=stand --working-directory=/opt/project -E PYTHONPATH=/opt/project "
          "python3 tests/rigs/usbip_reader.py stand split; until journalctl -u stand -o cat | grep -q stands; do sleep 1; done; "
          "udevadm settle")
    assert " root dialout " in guest("find /dev/bus/usb -group dialout -exec ls -l {} +"), "the rule knows the device"

    def visit() -> dict[str, Any]:
        guest("systemctl daemon-reload; systemctl start visit")
        said = [line for line in guest("journalctl -u visit -o cat --no-pager").splitlines() if line.startswith("{")]
        return dict(json.loads(said[-1]))

    guest("cat > /etc/systemd/system/visit.service", unit)
    assert visit()["fault"] == "no-driver", "libusb finds no netlink socket there"
    guest("mkdir -p /etc/systemd/system/visit.service.d; cat > /etc/systemd/system/visit.service.d/usb-reader.conf", drop_in[1])
    assert visit() == {"what": "look", "fault": "", "card": "resident_id, 样*甲, ****0018"}
