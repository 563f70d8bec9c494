"""`edge fsck`: a whole store is clean; each invariant broken is named, mended where the journal proves it, else left; nothing is lost."""
# ruff: noqa: S608 (the statements are put together from constants of this file)

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge import storecheck
from edge.clock import SimClock
from edge.fsck import invariants
from edge.fsck.check import NO_MEND, Outcome, check, lines
from edge.fsck.invariants import INVARIANTS
from edge.programs import NotReady
from edge.sim.authority import Authority
from edge.storage import owed, rules
from tests.conftest import Hall, two_o_clock
from tests.fsck.store import ANSWERED, GONE, WAITING, Builder, Store

HOUSE = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, staff_file: Path) -> Path:
    place = tmp_path_factory.mktemp("store")
    hall = Hall(place / "room", staff_file, SimClock(utc_us=two_o_clock()))
    asyncio.run(Builder(hall, Authority.create(place / "authority")).build())
    return hall.folder


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Store:
    return Store(template, tmp_path / "room")


def look(store: Store, **more: Any) -> Outcome:
    outcome = check(store.config, **more)
    assert all(each.name in INVARIANTS for each in outcome.findings)
    return outcome


def named(outcome: Outcome) -> set[str]:
    return {each.name for each in outcome.findings}


def test_a_whole_store_is_clean_and_nothing_is_written(store: Store) -> None:
    before, tables, told = store.files(), store.tables(), list[tuple[str, int, int]]()
    outcome = look(store, deep=True, progress=lambda *word: told.append(word))
    assert outcome.findings == [] and outcome.looked == 9, list(lines(outcome))
    assert list(lines(outcome))[-1].startswith("clean: every invariant holds")
    assert store.files() == before and store.tables() == tables
    assert {what for what, _, _ in told} >= {"database", "tables", "cam-front: sidecars"}
    assert look(store, repair=True).findings == [] and store.files() == before and store.tables() == tables


def test_what_fsck_calls_clean_the_auditors_check_passes(store: Store) -> None:
    root = (store.state / "root.pem").read_bytes()
    for session in (ANSWERED, WAITING):
        report = storecheck.check(store.state / "edge.db", store.footage, root, session)
        assert report.verdict != "FAIL" and any("hands over to" in line for line in report.lines), report.lines


# ---- what can be mended -------------------------------------------------------------------------------------------------

MENDED: dict[str, tuple[str, ...]] = {
    "database-form": ("DROP TRIGGER event_no_update", "DROP INDEX segment_idle"),
    "row-as-told": (f"UPDATE segment SET sha256 = 'x', path = 'elsewhere', recovered = 1 WHERE (stream, seq) IN (SELECT stream, seq FROM "
                    f"session_segment WHERE session = '{WAITING}')",),
    "row-as-told idle": ("UPDATE segment SET bytes = 7, run = 'x' WHERE stream = 'cam-front' AND seq = 2",),
    "session-link": (f"DELETE FROM session_segment WHERE session = '{ANSWERED}' AND stream = 'mic'",
                     "INSERT INTO session_segment VALUES ('S-none', 'cam-front', 1, 1, 1)"),
    "lost-time": ("DELETE FROM unaccounted",),
    "kept-not-idle": ("UPDATE segment SET in_session = 0 WHERE stream = 'cam-back'",),
    "kept-not-garbage": ("INSERT INTO garbage SELECT path, 1 FROM segment WHERE stream = 'mic'",),
    "footage-total": ("UPDATE footage_total SET bytes = 1", f"DELETE FROM footage_total WHERE session = '{WAITING}'"),
    "damage-list": ("DELETE FROM damage", "INSERT INTO damage VALUES ('mic', 2, 'digest', 1, 1)"),
    "check-in": ("DELETE FROM checkin WHERE code = 'OK'", "UPDATE checkin SET code = 'OK'"),
    "document-label": ("UPDATE envelope SET answers = NULL, revision = 9 WHERE kind = 'receipt'",
                       "UPDATE envelope SET session = 'S-none' WHERE kind = 'session-open'"),
    "document-stored": ("DELETE FROM envelope WHERE kind = 'key-rollover'",),
    "outbox": (f"DELETE FROM outbox WHERE session = '{WAITING}'", f"UPDATE outbox SET state = 'waiting' WHERE session = '{ANSWERED}'",
               "UPDATE outbox SET kind = 'other' WHERE kind = 'device-checkpoint'"),
    "file-row": ("DELETE FROM segment WHERE stream = 'cam-front' AND seq <> 6",),
}
CONSEQUENCES = {"kept-not-garbage": {"garbage-or-row"}, "outbox": set[str](), "row-as-told": {"row-file"}}
"""What the same hand breaks besides; all of it is put right by the same mending."""


@pytest.mark.parametrize("case", MENDED)
def test_what_follows_from_the_journal_is_mended_and_twice_is_once(store: Store, case: str) -> None:
    name, sound, files = case.split()[0], store.tables(), store.files()
    before = store.ask("SELECT max(rowid) FROM event")
    store.spoil(*MENDED[case])
    spoilt = store.tables()
    outcome = look(store)
    assert {name} <= named(outcome) <= {name} | CONSEQUENCES.get(name, set()), list(lines(outcome))
    assert store.tables() == spoilt, "a dry run writes nothing"
    assert any(each.mendable for each in outcome.findings if each.name == name) and "edge fsck --repair" in "\n".join(lines(outcome))
    outcome = look(store, repair=True)
    assert outcome.left == [] and name in named(outcome), list(lines(outcome))
    mended = store.tables()
    differing = {table for table in sound if [row for row in mended[table] if table != "outbox"] != [
        row for row in sound[table] if table != "outbox"]}
    assert differing <= {"unaccounted"} if name == "lost-time" else not differing, "row for row what it was"
    assert [row[1:8:6] for row in mended["outbox"]] == [row[1:8:6] for row in sound["outbox"]] or name == "outbox"
    assert store.files() == files and store.ask("SELECT max(rowid) FROM event") == before
    assert look(store, repair=True).findings == [] and store.tables() == mended, "the second time there is nothing to do"


def test_what_is_owed_again_is_what_was_owed(store: Store) -> None:
    wanted = store.ask("SELECT kind, session, revision, digest, priority, state, queued_utc_us FROM outbox ORDER BY digest")
    store.spoil("DELETE FROM outbox")
    look(store, repair=True)
    assert store.ask("SELECT kind, session, revision, digest, priority, state, queued_utc_us FROM outbox ORDER BY digest") == wanted


def test_a_line_that_counts_as_delivered_without_a_receipt_is_owed_again(store: Store) -> None:
    store.spoil(f"UPDATE outbox SET state = 'done' WHERE session = '{WAITING}'")
    outcome = look(store)
    assert all("no receipt of it was ever verified" in each.what for each in outcome.findings) and len(outcome.findings) == 2
    look(store, repair=True)
    assert store.ask(f"SELECT DISTINCT state FROM outbox WHERE session = '{WAITING}'") == [("waiting",)]


FREE = {"segment.audio_peak_cdb", "segment.silent_ms", "outbox.attempts", "outbox.last_error", "outbox.queued_utc_us", "unaccounted.id",
        "outbox.id", "unaccounted.why"}
"""What no rule can know, or what decides nothing."""
DERIVED = ("segment", "session_segment", "checkin", "footage_total", "damage", "unaccounted", "outbox", "envelope")


@pytest.mark.parametrize("table", DERIVED)
def test_no_cell_of_a_derived_table_is_changed_unseen(store: Store, table: str) -> None:
    """Each column of each table, made another; told every time, and gone after a repair or still told."""
    columns = [row[1] for row in store.ask(f"PRAGMA table_info({table})")]
    unseen, whole = [], store.folder / "whole.db"
    store.ask("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(store.state / "edge.db", whole)
    for column in columns:
        for end in ("min", "max") if table == "segment" else ("max",):      # the first is of no session, the last of one
            [(before,)] = store.ask(f"SELECT {column} FROM {table} WHERE rowid = (SELECT {end}(rowid) FROM {table})")
            other = before + 1000 if isinstance(before, int) else b"other" if isinstance(before, bytes) else f"{before or ''}x"
            if column == "in_session":
                other = 1 - before
            with closing(sqlite3.connect(store.state / "edge.db", isolation_level=None)) as connection:
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = (SELECT {end}(rowid) FROM {table})", (other,))
            if not look(store).findings:
                unseen.append(f"{table}.{column}")
            shutil.copy(whole, store.state / "edge.db")
    assert set(unseen) <= FREE, unseen
    assert look(store).findings == []


# ---- what is left -------------------------------------------------------------------------------------------------------

def flip(path: Path, at: int = 30) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def sidecar(store: Store, stream: str, seq: int) -> Path:
    return store.film(stream, seq).with_suffix(".json")


def lose(store: Store) -> None:
    """Row, sidecar and film of one recording of a session."""
    sidecar(store, "cam-back", 2).unlink()
    store.film("cam-back", 2).unlink()
    store.spoil("DELETE FROM segment WHERE stream = 'cam-back' AND seq = 2")


def first(folder: Path, pattern: str) -> Path:
    return min(folder.rglob(pattern))


LEFT: dict[str, tuple[Callable[[Store], object], set[str]]] = {
    "journal changed": (lambda s: s.spoil_facts("UPDATE event SET body = replace(body, 'T001', 'T002') WHERE kind = 'ExamStarted'"),
                        {"journal-chain"}),
    "journal cut": (lambda s: s.spoil_facts("DELETE FROM event WHERE kind = 'PreflightBegun'"),
                    {"journal-chain", "possible-history"}),
    "kept for nothing": (lambda s: s.spoil("UPDATE segment SET in_session = 1 WHERE stream = 'cam-front' AND seq = 1"),
                         {"kept-for-nothing"}),
    "impossible": (lambda s: s.spoil_facts("UPDATE event SET kind = 'PreflightBegun' WHERE kind = 'ExamEnded'"),
                   {"journal-chain", "possible-history"}),
    "manifests in another order": (lambda s: s.spoil_facts(
        f"UPDATE event SET body = json_remove(body, '$.prev_manifest') WHERE kind = 'Sealed' AND session = '{WAITING}'"),
        {"journal-chain", "manifest-chain"}),
    "film gone": (lambda s: s.film("mic", 2).unlink(), {"row-file"}),
    "film cut": (lambda s: s.film("mic", 2).write_bytes(b"short"), {"row-file"}),
    "sidecar gone": (lambda s: sidecar(s, "cam-back", 3).unlink(), {"row-file", "film-sealed"}),
    "sidecar changed": (lambda s: sidecar(s, "cam-back", 3).write_bytes(
        sidecar(s, "cam-back", 3).read_bytes().replace(b'"dropped":0', b'"dropped":1')), {"sidecar-as-sealed"}),
    "sidecar unreadable": (lambda s: sidecar(s, "cam-back", 3).write_bytes(b"{"), {"row-file"}),
    "a sidecar of nothing": (lambda s: (sidecar(s, "cam-front", 1).parent / "0000000000-20260101T000000Z.json").write_bytes(b"{}"),
                             {"sidecar-fit"}),
    "row and files gone": (lambda s: lose(s), {"row-missing"}),
    "idle and garbage": (lambda s: s.spoil("INSERT INTO garbage SELECT path, 1 FROM segment WHERE stream = 'cam-front' AND seq = 1"),
                         {"garbage-or-row"}),
    "a film without sidecar": (lambda s: shutil.copy(s.film("mic", 2), s.film("mic", 2).with_name("0000000009-20261126T070000Z.mp4")),
                               {"film-sealed"}),
    "half written": (lambda s: (s.state / ".staff.json.77.part").write_bytes(b""), {"leftover"}),
    "a look cut short": (lambda s: (s.footage / ".verify" / "x").mkdir(parents=True), {"leftover"}),
    "manifest gone": (lambda s: s.spoil(f"DELETE FROM envelope WHERE kind = 'session-manifest' AND session = '{ANSWERED}'"),
                      {"document-stored"}),
    "receipt gone": (lambda s: s.spoil("DELETE FROM envelope WHERE kind = 'receipt'"), {"document-stored"}),
    "manifest changed": (lambda s: s.spoil("UPDATE envelope SET body = replace(body, 'eyJ', 'eyK') WHERE kind = 'session-manifest'"),
                         {"document-bytes"}),
    "a document put in": (lambda s: s.spoil("INSERT INTO envelope SELECT 'ff', kind, session, revision, answers, body FROM envelope "
                                            f"WHERE kind = 'session-manifest' AND session = '{WAITING}'"),
                          {"document-promised", "document-bytes", "one-manifest"}),
    "owed and never signed": (lambda s: s.spoil("UPDATE outbox SET digest = 'ff' WHERE kind = 'key-rollover'"),
                              {"outbox-promised", "outbox"}),
    "people lost": (lambda s: s.spoil(f"DELETE FROM person WHERE session = '{WAITING}'"), {"people"}),
    "people kept": (lambda s: s.spoil(f"INSERT INTO person SELECT '{GONE}', candidate_id, subject, number, name, admission_no, seat, "
                                      f"person_category, trade, body FROM person WHERE session = '{WAITING}'"), {"forgotten"}),
    "picture gone": (lambda s: first(s.state / "photos" / WAITING, "*.jpg").unlink(), {"photo"}),
    "picture changed": (lambda s: flip(first(s.state / "photos" / WAITING, "*.jpg"), 3), {"photo"}),
    "picture put in": (lambda s: (s.state / "photos" / WAITING / "0123456789abcdef.jpg").write_bytes(b"x"), {"photo"}),
    "archived and unknown": (lambda s: s.spoil("INSERT INTO archived VALUES ('S-none','b',3,7,1,1,1,1,'',0)"), {"archive-index"}),
    "another disk": (lambda s: (s.state / "storage.uuid").write_text("0" * 32), {"storage-identity"}),
    "no disk": (lambda s: (s.footage / "storage.json").unlink(), {"storage-identity"}),
    "key gone": (lambda s: (s.state / "device.key").unlink(), {"keys"}),
    "key readable": (lambda s: (s.state / "device.key").chmod(0o644), {"keys"}),
    "another key": (lambda s: (s.state / "device.key").write_bytes(b"rubbish"), {"keys"}),
    "another certificate": (lambda s: ((s.state / "device.pem").write_bytes(first(s.state / "rollovers", "*.pem").read_bytes())),
                            {"keys", "certificate-known"}),
    "subject key": (lambda s: (s.state / "room-hmac.key").write_bytes(b"x" * 31), {"subject-key"}),
    "no staff": (lambda s: (s.state / "staff.json").unlink(), {"staff-book"}),
    "staff unreadable": (lambda s: (s.state / "staff.json").write_text("{}"), {"staff-book"}),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_nothing_proves_is_named_and_left(store: Store, case: str) -> None:
    change, wanted = LEFT[case]
    change(store)
    files, before = store.files(), store.tables()
    outcome = look(store)
    assert named(outcome) == wanted, list(lines(outcome))
    assert all(INVARIANTS[each.name].do != "-" for each in outcome.findings if not each.mendable)
    again = look(store, repair=True)
    kept = {table: rows for table, rows in store.tables().items() if table != "outbox" or case != "owed and never signed"}
    assert store.files() == files and kept == {table: before[table] for table in kept}, "nothing was touched"
    assert {each.name for each in again.left} == wanted - {"outbox"}
    assert (NO_MEND in again.notes) == bool(wanted & {"journal-chain", "possible-history"})


def test_no_mending_on_a_journal_that_is_not_whole(store: Store) -> None:
    store.spoil_facts("UPDATE event SET utc_us = utc_us + 1 WHERE seq = 2")
    store.spoil(*MENDED["session-link"])
    before = store.tables()
    outcome = look(store, repair=True)
    assert named(outcome) >= {"journal-chain", "session-link"} and len(outcome.left) == len(outcome.findings)
    assert store.tables() == before and not any(each.mendable for each in outcome.findings)


def test_a_body_that_is_no_json_is_named_and_stops_nothing(store: Store) -> None:
    store.spoil_facts("UPDATE event SET body = '{' WHERE kind = 'SegmentStored' AND session LIKE '%-03'")
    outcome = look(store, repair=True)
    assert {"journal-chain", "session-link"} <= named(outcome) and "could not be asked" in str(outcome.findings)


def test_a_damaged_database_file(store: Store) -> None:
    path = store.state / "edge.db"
    store.ask("PRAGMA wal_checkpoint(TRUNCATE)")
    page = int(store.ask("SELECT rootpage FROM sqlite_master WHERE name = 'checkin'")[0][0])
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(os.urandom(4096))
    outcome = look(store, repair=True)
    assert "database-file" in named(outcome) and outcome.left == outcome.findings
    assert any("not looked at" in note for note in outcome.notes)


def test_a_table_that_is_gone(store: Store) -> None:
    store.spoil("DROP TABLE footage_total")
    assert [(each.name, each.what) for each in look(store).findings] == [("database-file", "the table footage_total is missing")]


def test_a_flipped_byte_in_a_film_is_found_where_it_is_asked_for(store: Store) -> None:
    flip(store.film("mic", 2), 700)
    assert look(store).findings == []
    assert named(look(store, deep=True)) == {"film-as-sealed"}


def test_half_a_disk_missing_is_one_word_and_no_list(store: Store) -> None:
    shutil.rmtree(store.footage / "cam-front")
    [found] = [each for each in look(store).findings if each.name == "row-file"]
    assert "the disk is at fault" in found.what


def test_a_late_recording_is_left_to_the_room(store: Store) -> None:
    """A session covers it and the journal does not know: an idle row would be removed some hours later."""
    store.spoil_facts(f"DELETE FROM event WHERE kind = 'SegmentStored' AND session = '{ANSWERED}' AND body LIKE '%\"mic\"%'")
    store.spoil("DELETE FROM segment WHERE stream = 'mic' AND seq = 2",
                f"DELETE FROM session_segment WHERE session = '{ANSWERED}' AND stream = 'mic'")
    assert "late-recording" in named(look(store)) and "file-row" not in named(look(store))


def test_new_recordings_and_garbage_are_no_faults(store: Store) -> None:
    store.spoil("DELETE FROM segment WHERE stream = 'cam-front' AND seq = 1")
    path = str(store.film("cam-front", 1).relative_to(store.footage))
    store.spoil(f"INSERT INTO garbage VALUES ('{path}', 1)")
    last = store.ask("SELECT max(seq) FROM segment WHERE stream = 'cam-front'")[0][0]
    store.spoil(f"DELETE FROM segment WHERE stream = 'cam-front' AND seq = {last}")
    outcome = look(store)
    assert outcome.findings == [], list(lines(outcome))
    assert any("waiting to be removed" in note for note in outcome.notes)
    assert any("wait for the room" in note for note in outcome.notes)


def test_an_older_programs_database_is_left_to_the_room(store: Store) -> None:
    store.ask("PRAGMA user_version = 3")
    outcome = look(store, repair=True)
    assert outcome.findings == [] and any("start the room once" in note for note in outcome.notes)
    assert store.ask("PRAGMA user_version") == [(3,)]


def test_a_session_that_waits_for_its_signature_is_no_fault(store: Store) -> None:
    last = store.ask("SELECT max(seq) FROM event WHERE kind = 'ManifestSigned'")[0][0]
    store.spoil_facts(f"DELETE FROM event WHERE seq >= {last}")
    store.spoil("DELETE FROM envelope WHERE rowid = (SELECT max(rowid) FROM envelope)",
                "DELETE FROM outbox WHERE id = (SELECT max(id) FROM outbox)")
    outcome = look(store)
    assert outcome.findings == [] and f"{WAITING} waits for a signature" in " ".join(outcome.notes), list(lines(outcome))


# ---- beside a running room ----------------------------------------------------------------------------------------------

def test_beside_a_running_room_it_only_looks_and_looks_twice(store: Store) -> None:
    store.spoil(*MENDED["check-in"])
    store.config.paths.run.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as room:
        room.bind(os.path.relpath(store.config.paths.run / "room.sock"))
        room.listen()
        before = store.tables()
        with pytest.raises(NotReady, match="is running"):
            look(store, repair=True)
        outcome = look(store)
        assert outcome.running and named(outcome) == {"check-in"} and store.tables() == before
        passing = store.state / ".staff.json.1.part"
        passing.write_bytes(b"")
        outcome = check(store.config, progress=lambda what, done, total: passing.unlink(missing_ok=True) if what == "tables" else None)
        assert named(outcome) == {"check-in"}, "what is gone by the second look is not told"
        assert any("a room is running" in line for line in lines(outcome))


def test_no_room_starts_while_it_mends(store: Store) -> None:
    from edge.app import _unix_socket
    from edge.fsck.check import no_room
    with no_room(store.config.paths.run), pytest.raises(NotReady, match="running already"):
        _unix_socket(store.config.paths.run / "room.sock")
    _unix_socket(store.config.paths.run / "room.sock").close()


# ---- the command and the page -------------------------------------------------------------------------------------------

def run(store: Store, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge", "fsck", "--config", str(store.folder / "etc" / "edge.toml"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=HOUSE, check=False)


def test_the_command(store: Store) -> None:
    assert (run(store).returncode, run(store, "--json").returncode) == (0, 0)
    store.spoil(*MENDED["session-link"])
    store.film("cam-back", 3).unlink()
    dry = run(store, "--json")
    said = json.loads(dry.stdout)
    assert (dry.returncode, said["ok"], dry.stderr) == (1, False, "")
    assert {each["invariant"]: each["mendable"] for each in said["findings"]} == {"session-link": True, "row-file": False}
    mended = run(store, "--repair")
    assert mended.returncode == 1 and "  mended: " in mended.stdout and "2 mended, 1 left" in mended.stdout, mended.stdout
    shutil.rmtree(store.state)
    gone = run(store)
    assert gone.returncode == 1 and "there is no database" in gone.stderr and "Traceback" not in gone.stderr


def test_the_design_page_has_the_printed_table() -> None:
    page = (HOUSE / "docs" / "design" / "invariants.md").read_text(encoding="utf-8")
    printed = re.search(r"<!-- printed by: python -m edge.fsck.invariants -->\n\n(.*?)\n<!-- end -->", page, re.DOTALL)
    assert printed is not None and printed[1] == invariants.table()


def test_every_invariant_is_broken_by_some_test() -> None:
    broken = {case.split()[0] for case in MENDED} | {name for _, names in LEFT.values() for name in names}
    elsewhere = {"database-file", "film-as-sealed", "late-recording"}
    assert broken | elsewhere == set(INVARIANTS)
    assert {rule.name for rule in (*rules.RULES, *owed.rules({}))} <= set(INVARIANTS)
    assert {rule.name for rule in (*rules.RULES, *owed.rules({})) if rule.mend} <= {name for name, each in INVARIANTS.items() if each.mends}
