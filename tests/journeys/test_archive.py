"""A room with an archive: the exam first, then all of it gets there, through a line that breaks and a room that is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge import demo
from edge.upload import archive_keys as keys
from tests.journeys.house import House, until
from tests.journeys.test_trouble import accepted, whole_session
from tests.upload.s3_store import S3Store

CHRONYC = "#!/bin/sh\necho 'C0A80001,time.example,3,1795672800.0,0.000001,0.000002,0.000010,-1.0,0.001,0.02,0.001,0.0005,64.0,Normal'\n"


@pytest.fixture
def books() -> Iterator[S3Store]:
    store = S3Store()
    yield store
    store.close()


@pytest.mark.slow
def test_an_exam_is_archived_when_it_is_over_and_proven_elsewhere(house: House, books: S3Store, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "chronyc").write_text(CHRONYC, encoding="ascii")        # a machine whose clock is disciplined
    (programs / "chronyc").chmod(0o755)
    house.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    (tmp_path / "keys").write_text("room\nsecret\n", encoding="ascii")
    path = demo.config_path(house.folder)
    path.write_text(path.read_text(encoding="utf-8") + f'\n[archive]\nendpoint = "{books.endpoint}"\ncredentials = "{tmp_path / "keys"}"\n'
                    "day_kbps = 200000\nnight_kbps = 200000\n", encoding="utf-8")
    books.cut_after = [2000, 40_000, 7, 90_000]
    house.start()
    until(house.up)
    session = house.first_session()
    whole_session(house, session)
    assert not books.of(session), "nothing is sent while the session is live"
    until(lambda: accepted(house, session), 60, "accepted by the platform")
    until(lambda: len(books.of(session)) > 2, 120, "some of it is there")
    house.kill("room")
    house.start("room")

    def whole() -> bool:
        log = (house.folder / "room.log").read_text(encoding="utf-8", errors="replace")
        return f"session-read-back session={session}" in log

    until(whole, 180, "all of it is there and was read back")
    kept = books.of(keys.prefix(session))
    assert len({k.key for k in kept}) == len(kept), "each file once, in spite of the cuts and the kill"
    assert all(k.until is not None for k in kept)
    house.stop()                                                        # and now without the room
    where = ["--endpoint", books.endpoint, "--credentials", str(tmp_path / "keys"), "--bucket", "evid-6y"]
    root = str(house.folder / "platform/authority/root.pem")
    done = subprocess.run([sys.executable, "-m", "edge", "archive", "verify", session, *where, "--by", "A001", "--reason", "appeal",
                           "--root", root, "--json"], capture_output=True, text=True, timeout=120)
    report = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and report["verdict"] != "FAIL" and report["archive"] == [], (report, done.stderr)
