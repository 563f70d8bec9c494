"""The room's helpers inside the hardened unit: the roster's child process by the page of the real edge.service, the caged decoders in a
copy of it and in a whole rehearsal.

The machine is `tests/rigs/room-nspawn`, installed by the very commands of systemd/README.md. Platform and reader are the simulated ones,
beside the units. Not here: what the host's kernel keeps for itself (limits of memory and tasks: test_memory_vm).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.idcheck.test_photo import SOURCE

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
RIG = ROOT / "tests" / "rigs" / "room-nspawn"
RIGS_HOME = Path(os.environ.get("EDGE_RIGS") or Path(os.environ.get("TMPDIR") or "/var/tmp") / "edge-rigs")
HOME = Path(os.environ.get("NSPAWN_HOME") or RIGS_HOME / "nspawn")
README = (ROOT / "systemd" / "README.md").read_text("utf-8")
PYTHON = "cd /opt/examroom-edge && PYTHONSAFEPATH=1 PYTHONPATH=/opt/examroom-edge .venv/bin/python -B"

CONFIG = """
[room]
code = "000000-KD01-R01"
name = "1"
allow_demo_ids = true
[paths]
state = "/var/lib/edge"
footage = "/srv/data/footage"
run = "/run/edge"
[clock]
require_sync = false
[reader]
port = "/run/edge/card-reader"
[platform]
url = "http://127.0.0.1:8900/edge/v1"
[checkin]
door_camera = "cam-front"
[face]
enabled = true
[photo]
decoder = "/opt/reader/libunpack.so"
decoder_sha256 = "DIGEST"
[[streams]]
id = "cam-front"
kind = "pattern"
name_zh = "前"
name_en = "Front"
"""

AUTHORITY = """
from pathlib import Path
from edge.clock import SystemClock
from edge.sim.authority import Authority
from edge.sim.plans import Plans, LOCAL
from datetime import datetime
folder = Path("/srv/platform")
authority = Authority.create(folder / "authority")
Path("/root/chain.pem").write_bytes(authority.issue_device(Path("/root/request.pem").read_bytes()))
Path("/root/root.pem").write_bytes(authority.root_pem)
today = datetime.now(LOCAL).date()
plans = Plans(folder, "000000-KD01-R01", authority.platform, SystemClock(), opened=lambda s: False, sealed=lambda s: False)
print(plans.listed(today, today)[0]["session_id"])
for roster in (folder / "rosters").iterdir():
    roster.unlink()     # so the platform's own list cannot arrive
"""

JOURNAL = """
import sqlite3
for row in sqlite3.connect("file:/var/lib/edge/edge.db?mode=ro", uri=True).execute("select * from event"):
    if "FaceCompared" in row:
        print(row[6])
"""

Run = Callable[..., str]


def block(step: int) -> str:
    """The commands of one step of the README."""
    found = re.search(rf"^\*\*{step}\. .+?^```\n(.+?)^```", README, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module", params=["12", "13"])
def room(request: pytest.FixtureRequest) -> Iterator[tuple[Run, str]]:
    """Runs a command as root where the units are installed and run; and the id of a planned session without a list."""
    if os.geteuid() or shutil.which("systemd-nspawn") is None or not (HOME / f"debian-{request.param}" / "built").exists():
        pytest.skip(f"as root: tests/rigs/room-nspawn install && tests/rigs/room-nspawn build {request.param}   (three minutes, 1.1 GB)")
    settings = {**os.environ, "ROOM": f"inside{request.param}-{os.getpid()}"}

    def rig(*arguments: str, stdin: str = "", timeout: float = 300) -> str:
        done = subprocess.run([RIG, *arguments], env=settings, capture_output=True, text=True, timeout=timeout, input=stdin)
        assert done.returncode == 0, (arguments[-1], done.stdout[-1500:], done.stderr[-3000:])
        return done.stdout

    rig("boot", request.param)
    try:
        yield (lambda command, stdin="": rig("exec", command, stdin=stdin)), install(rig)
    finally:
        rig("stop")


def install(rig: Run) -> str:
    def step(commands: str, stdin: str = "") -> str:
        return rig("exec", "set -e; cd /opt/examroom-edge\n" + commands, stdin=stdin)

    compiled = step("mkdir -p /opt/reader; cat >/opt/reader/unpack.c; cd /opt/reader\n"
                    "gcc -shared -fPIC -O1 -w -o libunpack.so unpack.c; gcc -shared -fPIC -O1 -w -z execstack -o libstack.so unpack.c\n"
                    "sha256sum libunpack.so", SOURCE)
    step(block(4))
    step("cat >/etc/edge/edge.toml", CONFIG.replace("DIGEST", compiled.split()[0]))
    as_edge = block(6).splitlines()[0] + "\n"
    assert as_edge.startswith("as() {")
    step(as_edge + "as storage init; as key init >/root/request.pem")
    session = step(f"{PYTHON} -; chown -R edge:edge /srv/platform; chmod 755 /root; chmod 644 /root/*.pem", AUTHORITY).split()[-1]
    step(as_edge + "as key install --certificate /root/chain.pem --root /root/root.pem\n"
         "printf 'chief-password\\n1001\\n' >/root/1; printf 'proctor-password\\n1002\\n' >/root/2; chmod 644 /root/1 /root/2\n"
         "as staff add T001 --name 样例主考 --secrets-from /root/1; as staff add T002 --name 样例监考一 --secrets-from /root/2")
    beside = "systemd-run -q --uid=edge --working-directory=/opt/examroom-edge -p UMask=0077"
    step(f"{beside} --unit=platform .venv/bin/python -m edge sim platform --dir /srv/platform --port 8900 --room 000000-KD01-R01")
    # the line of the modules is left out: the container has the host's kernel
    step("\n".join(line for line in block(7).splitlines() if "modules-load" not in line))
    step(f"{beside} --unit=card-reader .venv/bin/python -m edge sim card-reader --link /run/edge/card-reader "
         "--control /run/edge/sim-card-reader.sock")
    return session


def lines(said: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def test_lists_are_imported_by_the_page_of_the_real_unit(room: tuple[Run, str]) -> None:
    run, session = room
    assert lines(run(f"{PYTHON} tests/systemd/far_page.py {session}")) == [
        {"login": 303, "form": 200},
        {"file": "list.csv", "status": 200, "differences": "新增 2，移除 0，变更 0，不变 0", "taken": 303, "too_much": False},
        {"file": "list.xlsx", "status": 200, "differences": "新增 1，移除 0，变更 0，不变 2", "taken": 303, "too_much": False},
        {"file": "swollen.xlsx", "status": 200, "differences": "", "taken": 0, "too_much": True},
    ]
    log = run("journalctl -u edge -o cat --no-pager")
    assert len(re.findall(r"roster-imported .* people=[23]$", log, re.MULTILINE)) == 2 and "样例" not in log
    assert run("systemctl show -P NRestarts edge").strip() == "0"


def test_the_cages_hold_and_work_inside_the_unit(room: tuple[Run, str]) -> None:
    """edge.service as it is delivered, with `far_cages` in place of the room."""
    run, _ = room
    unit = (ROOT / "systemd" / "edge.service").read_text("utf-8")
    for gone in ("Type", "NotifyAccess", "WatchdogSec", "Restart", "RestartSec", "ExecStart", "Wants", "TimeoutStartSec"):
        unit = re.sub(rf"^{gone}=.*\n", "", unit, flags=re.MULTILINE)
    unit = unit.replace("[Service]\n", "[Service]\nType=oneshot\nTimeoutStartSec=240s\nEnvironment=PYTHONPATH=/opt/examroom-edge\n"
                        "ExecStart=/opt/examroom-edge/.venv/bin/python3 /opt/examroom-edge/tests/systemd/far_cages.py "
                        "/opt/reader/libunpack.so\n")
    run("cat >/etc/systemd/system/cages.service", unit)
    run("systemctl daemon-reload; systemctl start cages || true")
    log = run("journalctl -u cages --no-pager -o cat")
    assert run("systemctl show -P Result cages").strip() == "success", log
    said = lines(log)
    told = {fact["what"]: fact for fact in said}
    inside = told["room"]
    assert (inside["no_new_privs"], inside["capabilities"]) == (1, 0)
    assert inside["filters"] > 10, "the unit's own filters"
    assert {fact["function"]: fact["came"] for fact in said if fact["what"] == "decoder"} == {
        "_Unpack": [0x57, 0x4C, 0x66, 0, 0x7E, 0], "as_bmp": [7] * 6, "refuses": "decoder-refused", "crashes": "decoder-crashed",
        "eats_memory": "decoder-crashed", "hangs": "decoder-timeout", "leaves_a_child": "decoder-timeout", "nosy": [0] * 6,
        "meddles": [0] * 6,
        "executable stack": "not-loadable",     # MemoryDenyWriteExecute: docs/operators/faces.md says so
    }
    photo, child, faces = told["photo worker"], told["roster child"], told["faces"]
    assert (photo["limits"], photo["filters"], photo["oom"]) == (["3", "0", "0", str(512 << 20)], inside["filters"] + 2, 500)
    assert (child["limits"], child["filters"], child["oom"]) == (["10", "0", "0", str(320 << 20)], inside["filters"], 500)
    assert (told["roster file"]["form"], told["roster file"]["people"], told["roster file"]["faults"]) == ("csv-gb18030", 1, [])
    same, other, unreadable = faces["scores"]
    assert same == 0 and 250 < other < 600 and unreadable == "unreadable-live"
    assert (faces["filters"], faces["oom"], faces["nice"]) == (inside["filters"] + 1, 500, inside["nice"] + 5)
    assert not run("find /opt/examroom-edge /opt/reader -newer /etc/systemd/system/cages.service -type f"), "nothing was written there"


def test_a_rehearsal_in_the_real_units_decodes_and_compares(room: tuple[Run, str]) -> None:
    """The README's proof, with cards: the room has each chip's photo decoded and asks the engine, which finds no face in a test picture."""
    run, _ = room
    run("until journalctl -u edge -o cat --no-pager | grep -q reader_back; do sleep 0.2; done")
    said = run(block(6).splitlines()[0] + "\nas drill --seconds 20 --json")
    report = json.loads(said.splitlines()[-1])
    assert (report["ok"], report["verify"], report["checkins"]) == (True, "PASS", 10), report
    facts = lines(run(f"{PYTHON} -", JOURNAL))
    came = {(fact.get("source"), fact["reason"]) for fact in facts}
    assert ("chip", "no-face-live") in came and came <= {("chip", "no-face-live"), ("chip", "busy")}
    assert run("systemctl show -P NRestarts edge").strip() == "0"
