"""The store of a room under `edge verify --store`: whole, and spoilt in every part; the command itself on folders, histories and stores."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge import __main__, storecheck
from edge.evidence import chain
from edge.sessions import events as e
from edge.storage.catalog import Catalog, Segment
from edge.storage.database import Database
from edge.storage.journal import Envelope, Journal
from edge.storage.look import Look, NoStore
from edge.storage.snapshot import Snapshot
from tests.evidence.career import Career, digest_of, session_id
from tests.evidence.conftest import TestAuthority

HOUSE = Path(__file__).parents[1]


@pytest.fixture
def career(tmp_path: Path) -> Career:
    (tmp_path / "authority").mkdir()
    return Career(tmp_path / "footage", TestAuthority(tmp_path / "authority"), 3)


@pytest.fixture
async def state(tmp_path: Path, career: Career) -> Path:
    """The career as a room's own database: its rows, the index, the documents; and one recording of no session."""
    database = Database(tmp_path / "state" / "edge.db", ballast=False)
    journal = Journal(database, chain.link)
    open_of = {s.id: Envelope("session-open", digest_of(s.open), s.open) for s in career.sessions}
    receipts = {digest_of(r): r for s in career.sessions for r in (s.open_receipt, *s.receipts.values()) if r}
    manifests = {s.id: s.manifests[1] for s in career.sessions}
    for row in career.rows:
        beside: list[Any] = []
        match row.event:
            case e.OpenSigned(session=str() as session):
                beside = [open_of[session]]
            case e.ManifestSigned(session=str() as session):
                beside = [Envelope("session-manifest", digest_of(manifests[session]), manifests[session], revision=1)]
            case e.SegmentStored() as fact:
                beside = [Segment(**{name: getattr(fact, name) for name in Segment.__dataclass_fields__})]
        recorded = await journal.append(row.event, *beside)
        assert recorded.hash == row.hash
        if isinstance(row.event, e.OpenSigned | e.ManifestSigned):
            [answer] = [r for r in receipts.values() if payload(r)["digest"] == row.event.digest]
            database.write_now(Written(Envelope("receipt", digest_of(answer), answer, revision=payload(answer).get("revision"),
                                                answers=row.event.digest), row.event))
    idle = career.footage / "cam" / "idle.mp4"
    idle.write_bytes(b"idle")
    idle.with_suffix(".json").write_bytes(b"{}")
    await Catalog(database).add_segment(Segment(
        "cam", 900, "cam/idle.mp4", "r", 0, 1, 0, 1, "b", 1, 1, 4, chain.sha256_hex(b"idle"), chain.sha256_hex(b"{}"), "h264", "rotated",
        False, "synced", None, None))
    database.close()
    return tmp_path / "state"


class Written:
    """An envelope put beside no row of its own."""

    def __init__(self, envelope: Envelope, event: e.Event) -> None:
        self._envelope, self._event = envelope, event

    def __call__(self, connection: sqlite3.Connection) -> None:
        self._envelope.write(connection, 0, self._event)


def payload(sealed: bytes) -> Any:
    return json.loads(base64.b64decode(json.loads(sealed)["payload"]))


def check(career: Career, state: Path, session: str | None = None, **more: Any) -> Any:
    return storecheck.check(state / "edge.db", career.footage, career.authority.root_pem, session, **more)


def kinds(report: Any) -> set[str]:
    return {each.word for each in report.findings}


def spoil(state: Path, *changes: str) -> None:
    """As somebody with the file in hands would: triggers off first."""
    with closing(sqlite3.connect(state / "edge.db", isolation_level=None)) as connection:
        for trigger in ("event_no_update", "event_no_delete", "event_no_insert_before"):
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        for change in changes:
            assert connection.execute(change).rowcount > 0, change


def test_a_whole_store_passes_and_nothing_is_written(career: Career, state: Path) -> None:
    before = {path: path.read_bytes() for path in sorted(state.parent.rglob("*")) if path.is_file() and path.suffix != ".db-shm"}
    seen: list[tuple[int, int]] = []
    report = check(career, state, progress=lambda done, total: seen.append((done, total)))
    assert (report.verdict, report.sessions, report.segments, report.had_receipts) == ("PASS WITH DECLARED GAPS", 3, 9, True), report.lines
    assert seen[-1] == (9 * 1600 + 4, 9 * 1600 + 4)
    assert {path: path.read_bytes() for path in before} == before
    assert any(line == f"journal: {len(career.rows)} rows, head {career.rows[-1].hash}" for line in report.lines)


def test_one_session_of_it(career: Career, state: Path) -> None:
    report = check(career, state, session_id(1))
    assert (report.verdict, report.session, report.segments, report.scope) == ("PASS", session_id(1), 3, "store")
    assert kinds(check(career, state, session_id(9))) == {"no-session"}


@pytest.mark.parametrize(("changes", "found"), [
    (["UPDATE event SET body = replace(body, 'rotated', 'stopped') WHERE seq = (SELECT max(seq) FROM event WHERE kind = 'SegmentStored')"],
     {"store-journal", "journal", "store-row"}),
    (["UPDATE event SET utc_us = utc_us + 1 WHERE seq = 2"], {"store-journal", "journal"}),
    (["UPDATE event SET body = '{' WHERE kind = 'OpenSigned' AND session LIKE '%-01'"], {"store-journal", "missing-document"}),
    (["DELETE FROM event WHERE seq = 5"], {"store-journal", "journal", "missing-document"}),
    (["UPDATE event SET hash = printf('%064d', 0) WHERE seq = 9"], {"store-journal", "journal"}),
    (["UPDATE segment SET sha256 = printf('%064d', 0) WHERE seq = 10"], {"store-row"}),
    (["DELETE FROM session_segment WHERE seq = 10"], {"store-row"}),
    (["UPDATE segment SET bytes = 5 WHERE seq = 900"], {"altered-file"}),
    (["DELETE FROM envelope WHERE kind = 'session-manifest' AND session LIKE '%-02'"],
     {"missing-document", "seq-gap", "chain-broken", "opened-no-manifest", "missing-vs-receipt"}),
])
def test_a_store_that_was_tampered_with(career: Career, state: Path, changes: list[str], found: set[str]) -> None:
    spoil(state, *changes)
    report = check(career, state)
    assert report.verdict == "FAIL" and kinds(report) & found and kinds(report) <= found | {"journal", "missing-document"}, report.lines


async def test_a_snapshot_that_says_other_than_the_journal_is_found_whoever_made_it(career: Career, state: Path) -> None:
    """Kept by the room itself, with its own key, from a state that never was: a later date, a session more, another count."""
    database = Database(state / "edge.db", ballast=False)
    journal = Journal(database, chain.link)
    truth = Snapshot(journal, b"k" * 32).recall()
    one = truth.sessions[session_id(2)]
    forged = {
        "": truth, session_id(2): replace(truth, sessions={**truth.sessions, session_id(2): replace(one, kept_until="2027-01-01")}),
        session_id(9): replace(truth, sessions={**truth.sessions, session_id(9): replace(one, id=session_id(9))}),
        "room": replace(truth, closed_total=7)}
    for wrong, said in forged.items():
        database.write_now(lambda c: c.execute("DELETE FROM snapshot"))
        await Snapshot(journal, b"k" * 32).keep(said, journal.head)
        report = check(career, state)
        assert [str(each) for each in report.findings] == [
            f"the snapshot of the room's state says other than the journal of {wrong}"] * bool(wrong), wrong
        assert kinds(report) <= {"store-snapshot"}
    assert one.opened is not None and one.opened.clock is not None and len(one.opened.clock) > 1
    turned = replace(one.opened, clock=dict(reversed(one.opened.clock.items())))
    database.write_now(lambda c: c.execute("DELETE FROM snapshot"))
    await Snapshot(journal, b"k" * 32).keep(replace(truth, sessions={**truth.sessions, one.id: replace(one, opened=turned)}), journal.head)
    assert kinds(check(career, state)) == set(), "in which order a mapping was filled is no fact"
    database.close()
    spoil(state, "UPDATE snapshot SET body = '0 {' WHERE id = 0")
    assert kinds(check(career, state)) == {"store-snapshot"}
    spoil(state, "UPDATE snapshot SET body = '0 {\"program\": \"of another version\"}' WHERE id = 0")
    assert kinds(check(career, state)) == set(), "which is made anew at the next start"


@pytest.mark.parametrize(("path", "change", "found"), [
    ("cam/0000000010-x.mp4", lambda p: p.write_bytes(b"x" * 1600), {"altered-file"}),
    ("cam/0000000010-x.mp4", lambda p: p.unlink(), {"missing-file"}),
    ("cam/0000000010-x.json", lambda p: p.unlink(), {"missing-file"}),
    ("cam/idle.mp4", lambda p: p.unlink(), {"missing-file"}),
    ("cam/idle.mp4", lambda p: p.write_bytes(b"evil"), {"altered-file"}),
])
def test_files_that_are_not_what_they_were(career: Career, state: Path, path: str, change: Callable[[Path], object],
                                           found: set[str]) -> None:
    change(career.footage / path)
    assert kinds(check(career, state)) == found


def test_a_running_session_is_no_fault_and_its_last_one_is_missed_by_nobody(career: Career, state: Path) -> None:
    opened = "SELECT seq FROM event WHERE kind = 'OpenSigned' AND session LIKE '%-03'"
    spoil(state, f"DELETE FROM event WHERE session LIKE '%-03' AND seq > ({opened})",  # noqa: S608
          "DELETE FROM envelope WHERE session LIKE '%-03' AND kind = 'session-manifest'",
          "DELETE FROM envelope WHERE session LIKE '%-03' AND kind = 'receipt' AND revision = 1")
    report = check(career, state)
    assert report.verdict == "PASS WITH DECLARED GAPS" and any("is not sealed yet" in line for line in report.lines), report.lines


def test_a_hash_of_stored_text_is_the_chains_own(career: Career, state: Path) -> None:
    for row, true in zip(Look(state / "edge.db").rows(), career.rows, strict=True):
        assert chain.hash_of_stored(*row[:-1]) == true.hash == row[-1]


def test_no_database_or_a_newer_one(tmp_path: Path, state: Path) -> None:
    with pytest.raises(NoStore, match="there is no database"):
        Look(tmp_path / "nothing.db")
    (tmp_path / "rubbish.db").write_bytes(b"rubbish" * 1000)
    with pytest.raises(NoStore, match="cannot be read"):
        Look(tmp_path / "rubbish.db")
    with closing(sqlite3.connect(state / "edge.db")) as connection:
        connection.execute("PRAGMA user_version = 999")
    with pytest.raises(NoStore, match="Use the newer program"):
        Look(state / "edge.db")


# ---- the command ------------------------------------------------------------------------------------------------------

def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge", "verify", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=HOUSE, check=False)


def test_the_command_on_a_history_tells_a_clerk_what_is_wrong(career: Career, tmp_path: Path) -> None:
    root, folder = tmp_path / "root.pem", career.write(tmp_path / "history")
    root.write_bytes(career.authority.root_pem)
    good = run(folder, "--root", root, "--receipts", career.receipts(tmp_path / "platform"), "--json")
    assert good.returncode == 0, good.stderr
    report = json.loads(good.stdout)
    assert (report["verdict"], report["scope"], report["sessions"], report["findings"]) == ("PASS WITH DECLARED GAPS", "history", 3, [])
    shutil.rmtree(folder / session_id(2))
    bad = run(folder, "--root", root)
    assert bad.returncode == 1 and "numbers its sessions without a hole" in bad.stdout and "编号不连续" in bad.stdout
    assert "Traceback" not in bad.stderr
    schedule = tmp_path / "schedule.txt"
    schedule.write_text(f"\ufeff{session_id(1)}\n{session_id(4)}\n")
    assert "by the exam schedule" in run(folder, "--root", root, "--schedule", schedule).stdout


def test_the_command_on_one_session(career: Career, tmp_path: Path) -> None:
    folder = career.write(tmp_path / "history") / session_id(1)
    done = run(folder, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["scope"] == "session", done.stderr


def test_the_command_on_a_zip(career: Career, tmp_path: Path) -> None:
    """As one session, as a history, packed again with a folder around it, cut off, and of something else."""
    folder = career.write(tmp_path / "history")
    packed = {name: tmp_path / f"{name}.zip" for name in ("one", "all", "around", "cut", "other")}
    shutil.make_archive(str(tmp_path / "one"), "zip", folder / session_id(1))
    shutil.make_archive(str(tmp_path / "all"), "zip", folder)
    shutil.make_archive(str(tmp_path / "around"), "zip", folder, session_id(1))
    packed["cut"].write_bytes(packed["one"].read_bytes()[:-500])
    shutil.make_archive(str(tmp_path / "other"), "zip", HOUSE / "systemd")
    root = ("--root", tmp_path / "root.pem")
    root[1].write_bytes(career.authority.root_pem)
    for name, scope in (("one", "session"), ("all", "history"), ("around", "session")):
        done = run(packed[name], *root, "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["scope"] == scope, (name, done.stdout, done.stderr)
        assert run(packed[name], *root).stdout == run(folder if name == "all" else folder / session_id(1), *root).stdout
    cut = run(packed["cut"])
    assert cut.returncode == 1 and "is cut off or damaged" in cut.stdout and "下载或复制没有完成" in cut.stdout and not cut.stderr
    other = run(packed["other"])
    assert other.returncode == 1 and "holds no exported session" in other.stderr


@pytest.mark.parametrize(("words", "said"), [
    ([], "name a folder to check"), (["{rubbish}"], "is a file, and no ZIP"),
    (["nowhere"], "is not a folder"), (["{empty}"], "holds no exported session"),
    (["{empty}", "--root", "{rubbish}"], "holds no certificate"),
    (["{history}", "--schedule", "{rubbish}"], "is none. Nothing was checked"),
    (["{history}", "--crl", "{rubbish}"], "needs the authority's"),
    (["{history}", "--crl", "{rubbish}", "--root", "{root}"], "it is no revocation list"),
    (["{empty}", "--store"], "name a folder to check"),
    (["--store", "nonsense"], "is no session's id"),
])
def test_what_cannot_be_checked_is_refused_in_words(career: Career, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "rubbish").write_bytes(b"rubbish")
    (tmp_path / "root.pem").write_bytes(career.authority.root_pem)
    places = {"root": tmp_path / "root.pem", "empty": tmp_path / "empty", "rubbish": tmp_path / "rubbish",
              "history": career.write(tmp_path / "history")}
    config = ["--config", str(HOUSE / "config" / "demo.toml")] if "--store" in words else []
    done = run(*(each.format(**places) for each in words), *config)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_the_store_by_the_command(career: Career, state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config" / "edge.toml"
    config.parent.mkdir()
    config.write_text((HOUSE / "config" / "demo.toml").read_text(encoding="utf-8"), encoding="utf-8")
    from edge.config import load
    paths = load(config).paths
    shutil.copytree(state, paths.state)
    shutil.copytree(career.footage, paths.footage)
    (tmp_path / "root.pem").write_bytes(career.authority.root_pem)
    assert __main__.main(["verify", "--store", "--config", str(config), "--root", str(tmp_path / "root.pem"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scope"] == "store"
