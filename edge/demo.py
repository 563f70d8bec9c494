"""`edge demo`: an exam room on a desk. config/demo.toml beside a simulated reader and a simulated platform, on real wires.

Only the demo makes an authority; its keys stay in the simulated platform's folder, the room holds root.pem alone. Everything lies in
one folder; deleting it (while nothing runs) begins anew. A second copy is told where the first one is.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import IO

from edge import durable
from edge.capture.storage_id import init_storage
from edge.clock import SystemClock
from edge.config import Config, load
from edge.evidence.keys import device_request, init_device_key
from edge.programs import Keeper, Program, edge
from edge.sim.authority import Authority
from edge.storage.staff import StaffBook

log = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parent.parent / "config" / "demo.toml"
SOCKET_PATH_MAX = 90
"""A Unix socket's path may have 107 bytes; the longest name we put behind the run folder has 16."""

LOGINS: tuple[tuple[str, str, str, str, str], ...] = (
    # staff_id, name, account role, password, PIN: invented, and shown on the demo's log-in page only
    ("T001", "样例主考", "staff", "demo-chief", "1001"),
    ("T002", "样例监考一", "staff", "demo-proctor1", "1002"),
    ("T003", "样例监考二", "staff", "demo-proctor2", "1003"),
    ("A001", "样例审计", "auditor", "demo-auditor", "2001"),
    ("S001", "样例系统管理", "sysadmin", "demo-sysadmin", "3001"),
)
ROLE_WORDS = {"T001": "主考官 chief", "T002": "监考员 proctor", "T003": "监考员 proctor", "A001": "审计员 auditor",
              "S001": "系统管理员 sysadmin"}


class AlreadyRunning(Exception):
    """Another copy of this demo runs; the text says where."""


def default_folder() -> Path:
    """The project's own `demo/`, or one in the user's data folder where the project cannot be written to."""
    project = TEMPLATE.parent.parent
    if os.access(project, os.W_OK):
        return project / "demo"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "examroom-edge" / "demo"


def config_path(folder: Path) -> Path:
    return folder / "demo.toml"


def prepare(folder: Path, web_port: int | None = None, platform_port: int | None = None, template: Path = TEMPLATE) -> Config:
    """Make what is missing in `folder`: configuration, footage folder, authority, device key and certificate, staff. Safe to repeat."""
    durable.make_folder(folder)
    web, platform = _port(web_port, 8000), _port(platform_port, 8900)
    text = template.read_text(encoding="utf-8")
    text = text.replace('"../demo/run', f'"{_run_folder(folder)}').replace('"../demo/', '"')
    text = text.replace("port = 8000", f"port = {web}").replace(":8900/", f":{platform}/")
    durable.replace(config_path(folder), text.encode())
    config = load(config_path(folder))
    state = config.paths.state
    durable.make_folder(state)
    durable.make_folder(config.paths.run)
    init_storage(config.paths.footage)
    keys = folder / "platform" / "authority"
    authority = Authority.load(keys) if (keys / "root.pem").exists() else Authority.create(keys)
    durable.replace(state / "root.pem", authority.root_pem, 0o644)
    if not (state / "device.pem").exists():
        device = f"{config.room.code}-E1"
        request = device_request(state / "device.key", device) if (state / "device.key").exists() else init_device_key(state, device)
        durable.replace(state / "device.pem", authority.issue_device(request), 0o644)
    book = StaffBook(state / "staff.json", SystemClock())
    for staff_id, name, role, password, pin in LOGINS:
        if staff_id not in book.members:
            book.add(staff_id, name, role, password, pin)
    durable.replace(state / "demo-logins.json", json.dumps(LOGINS, ensure_ascii=False).encode())
    return config


def _run_folder(folder: Path) -> str:
    """`run` below the demo's folder, or a short one elsewhere where Unix sockets would not fit."""
    if len(str(folder / "run")) <= SOCKET_PATH_MAX:
        return "run"
    digest = hashlib.sha256(str(folder).encode()).hexdigest()[:12]
    return str(Path(tempfile.gettempdir()) / f"edge-demo-{os.getuid()}-{digest}")


def _port(wanted: int | None, usual: int) -> int:
    """The usual port, or any free one if somebody has it."""
    if wanted is not None:
        return wanted or _free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", usual))
        except OSError:
            return _free_port()
    return usual


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def claim(folder: Path) -> IO[str]:
    """Hold the demo's lock for as long as the file is open. AlreadyRunning with the address of whoever holds it."""
    durable.make_folder(folder)
    lock = (folder / "demo.lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        address = lock.read().strip() or "(it is still starting)"
        lock.close()
        raise AlreadyRunning(f"the demo room in {folder} is running already: {address}") from None
    return lock


def programs(folder: Path, config: Config) -> tuple[Program, ...]:
    """What a demo consists of, in the order of its start."""
    file, run = str(config_path(folder)), config.paths.run
    port = config.platform.url.rsplit(":", 1)[1].split("/", 1)[0]
    return (
        Program("platform", edge("sim", "platform", "--dir", str(folder / "platform"), "--port", port, "--room", config.room.code)),
        Program("card-reader", edge("sim", "card-reader", "--link", str(config.reader.port),
                                    "--control", str(run / "sim-card-reader.sock"))),
        Program("recorder", edge("recorder", "--config", file)),
        Program("room", edge("room", "--config", file, "--demo-logins", str(config.paths.state / "demo-logins.json"))),
    )


def demo(folder: Path, web_port: int | None = None, platform_port: int | None = None, template: Path = TEMPLATE) -> int:
    """Run the demo until Ctrl-C."""
    try:
        lock = claim(folder)
    except AlreadyRunning as running:
        print(running, file=sys.stderr)
        return 1
    with lock:
        config = prepare(folder, web_port, platform_port, template)
        address = f"http://{config.web.host}:{config.web.port}/"
        lock.truncate(0)
        lock.write(address + "\n")
        lock.flush()
        os.environ["TZ"] = "Asia/Shanghai"      # the test picture's clock shows what the page's clock shows
        code = asyncio.run(Keeper(programs(folder, config)).run(lambda: print(_greeting(address, folder), flush=True)))
        lock.truncate(0)
    print("demo stopped; everything recorded stays in", folder)
    return code


def _greeting(address: str, folder: Path) -> str:
    rows = "\n".join(f"  {staff_id}  {password:<14} PIN {pin}   {name} {ROLE_WORDS[staff_id]}"
                     for staff_id, name, _, password, pin in LOGINS)
    return (f"考场演示 / exam room demo: {address}   (Ctrl-C 结束 / ends it)\n\n"
            f"log-ins (staff id, password, PIN to sign):\n{rows}\n\n"
            "lay a card on the simulated reader, in another terminal:\n  ./run sim tap 样例甲\n"
            f"entrance display: {address}gate\n"
            f"rehearse a whole session:\n  ./run drill --seconds 20\nfiles: {folder}\n")
