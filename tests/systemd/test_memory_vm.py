"""The room's unit where its memory runs out (MemoryMax), on Debian's own kernel: the helper that eats it goes, the room stays.

The machine is `tests/rigs/room-vm` (qemu, emulated); systemd-nspawn has no memory limits where the host keeps them for itself.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RIG = ROOT / "tests" / "rigs" / "room-vm"
RIGS_HOME = Path(os.environ.get("EDGE_RIGS") or Path(os.environ.get("TMPDIR") or "/var/tmp") / "edge-rigs")
HOME = Path(os.environ.get("ROOM_HOME") or RIGS_HOME / "room")
BUILD = "tests/rigs/room-vm install && tests/rigs/room-vm build   (as root, about three minutes, 1.7 GB)"

EATER = r"""
#include <stdlib.h>
#include <unistd.h>
int eats(const char *wlt, int bytes, char *out, int *n) {       /* 400 MB are within its own limit; three of it are beyond the unit's */
    volatile char *much = malloc(400u << 20);
    if (!much) return -1;
    for (unsigned at = 0; at < 400u << 20; at += 4096) much[at] = 1;
    sleep(30);
    *n = 38556;
    return 1;
}
"""

ROOM = """
import asyncio, hashlib, pathlib, sys
from edge.idcheck.photo import LibraryDecoder, Undecoded

library = pathlib.Path("/opt/project/libeats.so")
digest = hashlib.sha256(library.read_bytes()).hexdigest()
# emulated, it is ten times slower: three seconds of the processor are over before the memory is
worker = (sys.executable, "-c", "import os, pathlib; from edge.idcheck import photo_worker as w; w._CPU_S = 100; "
          f"os._exit(w.main(pathlib.Path({str(library)!r}), {digest!r}, 'eats'))")

async def one():
    try:
        await LibraryDecoder(worker, 120).decode(b"WL".ljust(1024, b"0"))
        return "decoded"
    except Undecoded as undecoded:
        return undecoded.word

async def main():
    print("words", *sorted(await asyncio.gather(*(one() for _ in range(3)))), flush=True)
    await asyncio.sleep(2)
    print("the room goes on", flush=True)

asyncio.run(main())
"""

Run = Callable[..., str]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs a command as root in the virtual PC; what it printed."""
    compiler = shutil.which("gcc")
    if shutil.which("qemu-system-x86_64") is None or compiler is None or not (HOME / "base.ext4").exists():
        pytest.skip(f"no virtual PC in {HOME}: {BUILD}")
    room, folder = {**os.environ, "ROOM": f"memory{os.getpid()}"}, tmp_path_factory.mktemp("eater")
    (folder / "eats.c").write_text(EATER)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", folder / "libeats.so", folder / "eats.c"], check=True, timeout=60)
    (folder / "main.py").write_text(ROOM)

    def rig(*arguments: str, timeout: float, stdin: bytes = b"") -> str:
        done = subprocess.run([RIG, *arguments], env=room, capture_output=True, timeout=timeout, input=stdin)
        assert done.returncode == 0, (arguments[-1], done.stdout[-500:], done.stderr[-500:])
        return done.stdout.decode()

    rig("boot", "--fresh", timeout=400)
    package = io.BytesIO()
    with tarfile.open(fileobj=package, mode="w") as tar:
        for path in (ROOT / "edge", folder / "libeats.so", folder / "main.py"):
            tar.add(path, path.name, filter=lambda entry: None if "__pycache__" in entry.name else entry)
    rig("exec", "mkdir -p /opt/project; tar -C /opt/project --no-same-owner -m -xf -; chmod -R a+rX /opt/project; useradd -r edge",
        timeout=120, stdin=package.getvalue())
    yield lambda command, stdin="": rig("exec", "--timeout", "200", command, timeout=230, stdin=stdin.encode())
    rig("cut", timeout=60)
    shutil.rmtree(HOME / room["ROOM"], ignore_errors=True)


def test_the_eater_goes_and_the_room_stays(guest: Run) -> None:
    unit = (ROOT / "systemd" / "edge.service").read_text("utf-8")
    assert "MemoryMax=1G" in unit
    for gone in ("Type", "NotifyAccess", "WatchdogSec", "Restart", "RestartSec", "Environment", "ExecStart", "RequiresMountsFor", "After",
                 "Wants", "ConfigurationDirectory", "TimeoutStartSec"):
        unit = re.sub(rf"^{gone}=.*\n", "", unit, flags=re.MULTILINE)
    unit = unit.replace("[Service]\n", "[Service]\nType=oneshot\nWorkingDirectory=/opt/project\nEnvironment=PYTHONPATH=/opt/project\n"
                                       "ExecStart=/usr/bin/python3 -B main.py\n")
    guest("cat > /etc/systemd/system/crowded.service", unit)
    guest("systemctl daemon-reload; timeout 180 systemctl start crowded || true")
    said = guest("journalctl -u crowded -o cat --no-pager")
    words = re.findall(r"^words (.+)$", said, re.MULTILINE)
    assert words and "decoder-crashed" in words[0].split(), said
    assert "the room goes on" in said, said
    assert guest("systemctl show -P Result crowded").strip() == "success"
    assert "oom-kill" in guest("dmesg"), "it was the kernel that ended it"
