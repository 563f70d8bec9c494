"""A backup is one moment of a room that goes on; it is whole or it says what is not; and from it a room comes back and works."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge import backup
from edge.backup import BackupRefused
from edge.config import Config, load
from edge.evidence import chain
from edge.reindex import reindex
from edge.sessions import events as e
from edge.sessions.machine import State
from edge.storage import copy, rebuild
from edge.storage.retention import IdleRetention
from tests import killed
from tests.kept import Kept

if TYPE_CHECKING:
    from tests.conftest import Hall

DEMO = Path(__file__).parents[1] / "config" / "demo.toml"


def config_of(hall: Hall) -> Config:
    path = hall.folder / "etc" / "edge.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(DEMO.read_text(encoding="utf-8").replace('"../demo/', '"../'), encoding="utf-8")
    config = load(path)
    assert config.paths.state.resolve() == (hall.folder / "state").resolve()
    return config


def furnish(hall: Hall) -> Config:
    """What else lies in a room's state folder."""
    config, state = config_of(hall), hall.folder / "state"
    for name in ("device.key", "room-hmac.key", "device.pem", "root.pem", "storage.uuid"):
        (state / name).write_text(f"the {name}")
    (state / "photos" / "S1").mkdir(parents=True)
    (state / "photos" / "S1" / "0123456789abcdef.jpg").write_bytes(b"a picture")
    (state / "ballast").write_bytes(b"0" * 1000)
    (state / "elsewhere").symlink_to("/etc/hostname")
    return config


async def test_one_moment_of_a_room_that_goes_on(hall: Hall) -> None:
    config = furnish(hall)
    await hall.to(State.RUNNING)
    going, told = True, []

    async def write() -> None:
        while going:
            await hall.fact(e.ClockStepped, None, delta_us=2_000_000)

    writer = asyncio.create_task(write())
    while hall.journal.head[0] < 50:        # noqa: ASYNC110 (the writer's own progress is what is waited for)
        await asyncio.sleep(0)
    before = hall.journal.head[0]
    made = await asyncio.to_thread(backup.make, config, hall.folder / "b", hall.clock.now(), None, lambda *word: told.append(word))
    while hall.journal.head[0] < made.journal_seq + 10:     # noqa: ASYNC110
        await asyncio.sleep(0)
    going = False
    await writer
    assert before <= made.journal_seq < hall.journal.head[0], "it was written to before, meanwhile and after"
    assert backup.verify(hall.folder / "b") == [] and backup.read(hall.folder / "b") == made
    assert set(made.files) == {"edge.db", "staff.json", "device.pem", "root.pem", "storage.uuid", "photos/S1/0123456789abcdef.jpg"}
    assert made.keys == ("device.key", "room-hmac.key") and told[-1][0] == "database"
    assert not any(b"the device.key" in path.read_bytes() for path in (hall.folder / "b").rglob("*") if path.is_file())
    assert all(path.stat().st_mode & 0o077 == 0 for path in (hall.folder / "b").rglob("*")), "people stand in it"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def other_head(folder: Path) -> None:
    facts = json.loads((folder / "backup.json").read_text())
    facts["journal"]["seq"] += 1
    (folder / "backup.json").write_text(json.dumps(facts))


def forged(folder: Path) -> None:
    """Somebody who knows how: another fact in the journal, and all digests put right."""
    import hashlib
    import sqlite3
    connection = sqlite3.connect(folder / "edge.db")
    connection.execute("DROP TRIGGER event_no_update")
    connection.execute("UPDATE event SET body = replace(body, 'T001', 'T002') WHERE kind = 'PreflightBegun'")
    connection.commit()
    connection.close()
    facts, data = json.loads((folder / "backup.json").read_text()), (folder / "edge.db").read_bytes()
    facts["files"]["edge.db"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "backup.json").write_text(json.dumps(facts))


@pytest.mark.parametrize(("spoil", "word"), [
    (lambda b: (b / "staff.json").unlink(), "staff.json is missing"),
    (lambda b: cut(b / "edge.db"), "edge.db is not what was backed up"),
    (lambda b: (b / "more").write_text("x"), "more is not named"),
    (other_head, "does not end as"),
    (forged, "chain is broken at row 3"),
])
async def test_what_is_wrong_with_a_backup_is_said_and_it_is_not_restored(hall: Hall, spoil: Callable[[Path], object], word: str) -> None:
    config = furnish(hall)
    await hall.to(State.PREFLIGHT)
    backup.make(config, hall.folder / "b", hall.clock.now())
    spoil(hall.folder / "b")
    wrong = backup.verify(hall.folder / "b")
    assert len(wrong) == 1 and word in wrong[0]
    empty = config.model_copy(update={"paths": config.paths.model_copy(update={"state": hall.folder / "new"})})
    with pytest.raises(BackupRefused, match="not whole"):
        backup.restore(empty, hall.folder / "b", hall.clock.now())
    assert not (hall.folder / "new").exists()


async def test_what_must_not_be_is_refused_and_nothing_is_written(hall: Hall) -> None:
    config, b = furnish(hall), hall.folder / "b"
    with pytest.raises(BackupRefused, match="must not lie with"):
        backup.make(config, b, hall.clock.now(), b / "keys")
    assert not b.exists()
    backup.make(config, b, hall.clock.now())
    with pytest.raises(BackupRefused, match="not empty"):
        backup.make(config, b, hall.clock.now())
    with pytest.raises(BackupRefused, match="has a database"):
        backup.restore(config, b, hall.clock.now())
    (b / "backup.json").unlink()
    with pytest.raises(BackupRefused, match="no whole backup"):
        backup.verify(b)
    (b / "backup.json").write_text('{"version": "backup/1", "files": {"../x": {"bytes": 1, "sha256": ""}}}')
    with pytest.raises(BackupRefused, match="outside"):
        backup.read(b)


@pytest.mark.parametrize("interrupted", [False, True])
async def test_the_restore_drill(hall: Hall, interrupted: bool) -> None:
    """A backup in the middle of a session; the state is lost an hour later; the footage is there. The room comes back, goes on with
    its session, and footage of the lost hour outlives every pass of retention."""
    config, kept = furnish(hall), Kept(hall)
    await hall.to(State.RUNNING)
    await hall.clock.pass_time(60)
    kept.segment("cam-front")
    await kept.take_in()
    made = backup.make(config, hall.folder / "b", hall.clock.now(), hall.folder / "keys")
    await hall.clock.pass_time(3600)
    late = [kept.segment("cam-front", s=3000), kept.segment("cam-back")]
    other = kept.segment("old-camera") if hall._seq.setdefault("old-camera", 0) == 0 else None
    await kept.take_in()
    await hall.fact(e.ExamEnded, by="T001", outcome="completed")
    hall.database.close()
    shutil.move(hall.folder / "state", hall.folder / "lost")

    if interrupted:
        for at in itertools.count(1, 3):
            if not killed.dies(killed.restore, hall.folder / "etc" / "edge.toml", hall.folder / "b", hall.clock.now(), hall.folder / "keys",
                               of=hall.folder / "state", at=at):
                break
            assert not (hall.folder / "state" / "edge.db").exists(), "until all is there, no room can start on it"
            backup.restore(config, hall.folder / "b", hall.clock.now(), hall.folder / "keys")
            shutil.rmtree(hall.folder / "state")
        assert at > 20
        shutil.rmtree(hall.folder / "state")
        assert killed.dies(killed.restore, hall.folder / "etc" / "edge.toml", hall.folder / "b", hall.clock.now(), hall.folder / "keys",
                           beyond=(hall.folder / "b" / "edge.db").stat().st_size // 2), "in the middle of the database"
        backup.restore(config, hall.folder / "b", hall.clock.now(), hall.folder / "keys")
    else:
        backup.restore(config, hall.folder / "b", hall.clock.now(), hall.folder / "keys")
    assert backup.missing_keys(config, made) == []
    assert sorted(p.name for p in (hall.folder / "state").iterdir()) == [
        "device.key", "device.pem", "edge.db", "photos", "room-hmac.key", "root.pem", "staff.json", "storage.uuid"]

    from edge.storage.database import Database
    hall.database = Database(hall.folder / "state" / "edge.db", ballast=False)
    hall.room = hall._open(hall.database)
    assert hall.journal.head[:2] == (made.journal_seq, made.journal_hash)
    assert [(s[0] < hall.clock.now().utc_us <= s[1]) for s in rebuild.unaccounted(hall.database).spans] == [True]
    done = reindex(kept.footage, hall.database, hall.journal, hall.clock.now().utc_us, processes=1)
    assert (done.segments, done.left, done.unaccounted) == (4, 2, True)
    session = "S20261126-KD01-R01-01"
    assert hall.room.state.sessions[session].state is State.RUNNING, "the end of the exam is lost: it is ended again"
    await hall.room.resumed(hall.database)
    assert await kept.take_in() == 2
    stored = [r.event.stream for r in hall.room.events(session) if isinstance(r.event, e.SegmentStored)]
    assert stored == ["cam-front", "cam-front", "cam-back"]
    await hall.fact(e.ExamEnded, by="T001", outcome="completed")
    assert chain.verify(hall.journal.all()) is None
    told = [r.event for r in hall.journal.all() if isinstance(r.event, e.JournalResumed)]
    assert [fact.why for fact in told] == ["restored"]
    await hall.room.resumed(hall.database)
    assert hall.journal.head[0] == made.journal_seq + 4, "said once"

    async def report(fact: e.Event) -> None:
        await hall.room.report(fact)

    await hall.clock.pass_time(100 * 3600)
    await IdleRetention(hall.database, kept.footage, 24, hall.clock, lambda: True, report).step()
    assert other is not None and all(path.exists() for path in [*late, other])


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"SQLite format 3\0" + b"nonsense" * 1000)
    with pytest.raises(copy.NotADatabase):
        copy.head_of(path)
    assert copy.integrity(path) != "ok"
    with pytest.raises(copy.NotADatabase):
        list(copy.facts_of(path))


def test_by_the_commands(tmp_path: Path) -> None:
    """Made, looked at, lost and restored by hand, as the operator's page says; each refusal in one line."""
    config = tmp_path / "etc" / "edge.toml"
    config.parent.mkdir()
    config.write_text(DEMO.read_text(encoding="utf-8").replace('"../demo/', '"../'), encoding="utf-8")

    def edge(*words: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-m", "edge", *words], cwd=DEMO.parents[1], capture_output=True, text=True, timeout=60,
                              check=False)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    of, b = ("--config", str(config)), str(tmp_path / "b")
    edge("storage", "init", *of)
    code, said = edge("backup", "make", *of, "--to", b)
    assert code == 1 and "no database" in said
    assert edge("reindex", *of)[0] == 0
    assert edge("backup", "make", *of, "--to", b)[0] == 0
    assert edge("backup", "verify", b) == (0, "whole: every file, the database, and the journal's chain to its head\n")
    (tmp_path / "state").rename(tmp_path / "lost")
    assert edge("backup", "restore", b, *of)[0] == 0
    assert (tmp_path / "state" / "storage.uuid").read_bytes() == (tmp_path / "lost" / "storage.uuid").read_bytes()
    code, said = edge("backup", "restore", b, *of)
    assert code == 1 and "has a database" in said
    (tmp_path / "b" / "storage.uuid").unlink()
    assert edge("backup", "verify", b) == (1, "storage.uuid is missing\n")
