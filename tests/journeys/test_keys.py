"""A room whose key is rolled into a token between two sessions, with real processes: `edge key` by hand, the room restarted, the platform's
receipts, and what an auditor can verify of both sessions."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge import demo
from edge.evidence import history
from edge.evidence.rollover import read_rollover
from edge.evidence.shown import Zipped
from edge.evidence.zipped import Zip
from edge.fsck.check import check as fsck
from edge.fsck.check import lines
from edge.sim.authority import Authority
from tests.evidence.holders import SOFTHSM, Token, needs_token
from tests.journeys.house import PINS, House, until
from tests.journeys.test_trouble import accepted, seal, whole_session


def key(house: House, *words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "edge", "key", *words, "--config", str(demo.config_path(house.folder))],
                          capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(house: House, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{house.config.paths.state / 'edge.db'}?mode=ro", uri=True)) as database:
        return database.execute(query).fetchall()


def signer_of(house: House, session: str, kind: str) -> str:
    [(body,)] = rows(house, f"SELECT body FROM envelope WHERE session = '{session}' AND kind = '{kind}'")  # noqa: S608
    document: dict[str, Any] = json.loads(base64.b64decode(json.loads(body)["payload"]))
    return str(document["device"]["cert_sha256"])


@needs_token
@pytest.mark.slow
def test_a_key_is_rolled_into_a_token_between_two_sessions(house: House, token: Token) -> None:
    house.start()
    until(house.up)
    first = house.first_session()
    whole_session(house, first)
    until(lambda: accepted(house, first), 60, "the first session is accepted")

    request = key(house, "roll", "--place", "pkcs11", "--module", str(SOFTHSM), "--token", "room", "--pin-file", str(token.pin))
    authority = Authority.load(house.folder / "platform" / "authority")
    (house.folder / "issued.pem").write_bytes(authority.issue_device(request.encode()))
    key(house, "install", "--certificate", str(house.folder / "issued.pem"))
    house.kill("room")
    house.start("room")
    until(house.up)
    until(lambda: rows(house, "SELECT 1 FROM outbox WHERE kind = 'key-rollover' AND state = 'done'"), 60, "the rollover has its receipt")

    [(body,)] = rows(house, "SELECT body FROM envelope WHERE kind = 'key-rollover'")
    found = read_rollover(body, authority.root_pem)
    sessions: dict[str, str] = house.call("GET", "/state")["sessions"]
    second = min(each for each in sessions if each != first)
    house.ready(second)
    house.do(second, "open_checkin", by="T001")
    house.do(second, "end_exam", by="T001", pin=PINS["T001"], held_ms=2000, outcome="cancelled", reason="演示")
    seal(house, second)
    until(lambda: accepted(house, second), 60, "the second session is accepted")
    for kind in ("session-open", "session-manifest"):
        assert (signer_of(house, first, kind), signer_of(house, second, kind)) == (found.old_cert_sha256, found.new_cert_sha256)
    assert found.from_session_seq == 2
    for session in (first, second):
        assert house.verify(session, house.folder / "copies" / session)["verdict"] != "FAIL"
    assert (house.folder / "copies" / second / "rollover-1.dsse.json").read_bytes() == body
    together = history.verify(house.folder / "copies", authority.root_pem)
    assert "key-changed" not in {each.word for each in together.findings}, "the exports alone are one device's history"
    packed = shutil.make_archive(str(house.folder / "copies"), "zip", house.folder / "copies")
    with Zip(Path(packed)) as archive:
        assert history.verify(Zipped(archive), authority.root_pem).findings == together.findings
    outcome = fsck(house.config)
    assert outcome.findings == [], list(lines(outcome))
    assert "pkcs11" in key(house, "status") and "from session number 2" in key(house, "status")
    assert b"BEGIN" not in (house.config.paths.state / "device.key").read_bytes(), "no private key is left on the disk"
