"""Commands beside a room that does not run: they look, they write the facts that are theirs, and they touch neither key nor socket."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvicorn

from edge import asking, keyring
from edge.config import Config, load
from edge.evidence import bundle
from edge.evidence.keys import request
from edge.evidence.signers import Borrowed, make_key, open_key
from edge.export import Exports, Order
from edge.roomsocket import live_in
from edge.sessions import events as e
from edge.web.local import build_local
from tests.upload.archive_office import SESSION, Office

if TYPE_CHECKING:
    from edge.sim.authority import Authority
    from tests.conftest import Device, Hall

HOUSE = Path(__file__).parents[1]
NOBODY = 65534


@pytest.fixture
async def office(hall: Hall, authority: Authority, device: Device, tmp_path: Path) -> Office:
    """A room that holds a sealed session and does nothing more; its archive is nowhere."""
    office = Office(hall, authority, device, "http://127.0.0.1:9")
    await office.sealed()
    for name in ("device.key", "device.pem"):
        shutil.copy(tmp_path / "state" / name, hall.folder / "state" / name)
    (hall.folder / "state" / "root.pem").write_bytes(authority.root_pem)
    (hall.folder / "state" / "room-hmac.key").write_bytes(hall.room.rules.hmac_key)
    return office


def config_in(folder: Path) -> Config:
    path = folder / "etc" / "edge.toml"
    path.parent.mkdir(parents=True)
    path.write_text((HOUSE / "config" / "demo.toml").read_text(encoding="utf-8").replace('"../demo/', '"../'), encoding="utf-8")
    return load(path)


def edge(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edge", *map(str, words), "--config", str(folder / "etc" / "edge.toml")],
                          capture_output=True, text=True, timeout=120, cwd=HOUSE, check=False)


def stage_a_roll_that_has_begun(hall: Hall, authority: Authority) -> keyring.Files:
    """What a power cut leaves in the middle of a roll: the next start of the room finishes it."""
    state = hall.folder / "state"
    files = keyring.Files(state / "device.key", state / "device.pem", state / "root.pem")
    make_key(files.next_key, "file")
    chain = authority.issue_device(request(Borrowed(open_key(files.next_key)), "KD01-R01-edge"))
    files.next_certificate.write_bytes(chain)
    files.rollovers.mkdir()
    files.rollover_to(chain).with_suffix(keyring.NONE).touch()
    assert files.begun(chain)
    return files


def lying_there(folder: Path) -> dict[str, bytes]:
    """Everything below, but for the database and what is beside it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith("edge.db")}


async def test_no_command_rolls_a_key_binds_a_socket_or_leaves_a_file_of_roots(
        office: Office, authority: Authority, tmp_path: Path) -> None:
    hall = office.hall
    config = config_in(hall.folder)
    stage_a_roll_that_has_begun(hall, authority)
    if os.geteuid() == 0:
        for path in (hall.folder, *hall.folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
    before = lying_there(hall.folder)
    zipped = edge(hall.folder, "export", SESSION, "--to", tmp_path / "s.zip", "--json")
    foldered = edge(hall.folder, "export", SESSION, "--to", tmp_path / "folder")
    reported = edge(hall.folder, "retention", "report", "--days", "3650", "--json")
    verified = edge(hall.folder, "verify", "--store", "--json")
    for done in (zipped, foldered, reported, verified):
        assert "Traceback" not in done.stderr and (done.returncode, done.stderr) == (0, ""), done.args
    assert json.loads(zipped.stdout)["altered"] == [] and zipfile.ZipFile(tmp_path / "s.zip").testzip() is None
    assert "PASS" in foldered.stdout and json.loads(verified.stdout)["verdict"].startswith("PASS")
    assert [each["session"] for each in json.loads(reported.stdout)["sessions"]] == [SESSION]
    assert lying_there(hall.folder) == before, "keys, certificates and rollovers as they lay, and nothing new"
    assert not (config.paths.run / "room.sock").exists()
    if os.geteuid() == 0:
        assert [path for path in (hall.folder, *hall.folder.rglob("*")) if path.stat().st_uid == 0] == []
    hall.restart()
    assert [row.event.kind for row in hall.room.events(SESSION)][-4:] == ["ExportBegun", "SessionExported"] * 2
    assert hall.catalog.reserved_sessions(0) == frozenset()


def test_without_a_database_nothing_is_made(tmp_path: Path, authority: Authority) -> None:
    config = config_in(tmp_path / "room")
    config.paths.state.mkdir()
    (config.paths.state / "root.pem").write_bytes(authority.root_pem)
    for words in (("retention", "report"), ("export", SESSION, "--to", tmp_path / "s.zip")):
        refused = edge(tmp_path / "room", *words)
        assert refused.returncode == 3 and "this room has never run" in refused.stderr and "Nothing was done" in refused.stderr
    assert [path.name for path in config.paths.state.iterdir()] == ["root.pem"] and not (tmp_path / "s.zip").exists()


async def test_a_snapshot_is_believed_at_rest_too_and_one_of_another_key_is_not(
        office: Office, caplog: pytest.LogCaptureFixture) -> None:
    """Without the key a start would fold years, and one forged with an empty key would be believed."""
    caplog.set_level("DEBUG", "edge.storage.snapshot")
    await office.hall.room.remember()
    config, key = config_in(office.hall.folder), office.hall.folder / "state" / "room-hmac.key"
    for ours, said in ((office.hall.room.rules.hmac_key, []), (b"", ["snapshot passed over reason=altered"])):
        key.write_bytes(ours)
        caplog.clear()
        with asking.at_rest(config) as room:
            assert [each["session"] for each in (await room.keeper.shown(3650))["sessions"]] == [SESSION]
        assert caplog.messages == said
    key.unlink()
    refused = edge(office.hall.folder, "retention", "report")
    assert refused.returncode == 3 and "the key that stands for people is missing" in refused.stderr and not key.exists()


async def test_a_room_that_starts_meanwhile_is_told_that_the_export_has_ended(office: Office, tmp_path: Path) -> None:
    hall, config, loop = office.hall, config_in(office.hall.folder), asyncio.get_running_loop()
    config.paths.run.mkdir()
    servers: list[uvicorn.Server] = []
    serving: list[asyncio.Task[None]] = []

    async def start() -> None:
        exports = Exports(hall.restart(), office.footage, office.authority.root_pem)

        async def hand_out(session: str, to: Path, by: str) -> bundle.Report:
            raise NotImplementedError

        server = uvicorn.Server(uvicorn.Config(build_local(hall.room, hand_out, exports, None), uds=str(config.paths.run / "room.sock"),
                                               log_config=None, lifespan="off"))
        serving.append(loop.create_task(server.serve()))
        servers.append(server)
        while not server.started:       # noqa: ASYNC110 (uvicorn says it by this flag alone)
            await asyncio.sleep(0.01)

    def progress(done: int, total: int) -> None:
        if not servers:
            asyncio.run_coroutine_threadsafe(start(), loop).result(30)

    done = await asking.export_session(config, Order(SESSION, "A001", "zip"), tmp_path / "s.zip", progress)
    servers[0].should_exit = True
    await serving[0]
    assert done.altered == () and zipfile.ZipFile(tmp_path / "s.zip").testzip() is None
    assert isinstance(hall.room.events(SESSION)[-1].event, e.SessionExported), "the running room wrote it, and knows it"
    assert hall.journal.head[0] == [row.seq for row in hall.journal.all()][-1]
    assert hall.catalog.reserved_sessions(0) == frozenset()


def test_a_room_that_does_not_answer_is_asked_once_in_a_while(tmp_path: Path) -> None:
    """Its socket is there and nobody serves it: each look of the pace must not wait for it."""
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "run" / "room.sock"))
        listener.listen(100)
        listener.setblocking(False)
        live = live_in(tmp_path / "run")
        assert [live() for _ in range(50)] == [False] * 50
        asked = 0
        with suppress(BlockingIOError):
            while True:
                listener.accept()[0].close()
                asked += 1
    assert asked == 1, "within some seconds one question is enough"


def test_where_no_room_is_none_is_live(tmp_path: Path) -> None:
    live = live_in(tmp_path)
    assert not live() and not live()
