"""Backup and restore of the room's state: journal, envelopes, people, staff, pictures; not the footage, and not the keys.

`make` copies a running room's state into a new folder, keys into another one or not at all (who finds a backup must not be able to
sign). `backup.json` is written last: it names every file with its digest, and the journal's head. `verify` needs nothing but the folder.
`restore` fills a state folder that has no database, and remembers from when on the journal knows nothing: footage of that time is
kept, and the room says so in a fact at its next start.
LIMIT: a restored journal is one that stopped earlier. What the platform was sent since is not in it: tell the province before the next
session (docs/operators/backup.md).
Called by `edge backup`.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import __version__, durable
from edge.clock import Stamp, iso_utc
from edge.config import Config
from edge.evidence import chain
from edge.evidence.chain import GENESIS
from edge.sessions import events as e
from edge.storage import copy, rebuild
from edge.storage.database import Database

NAME, VERSION, DATABASE = "backup.json", "backup/1", "edge.db"
Progress = Callable[[str, int, int], None]
"""(what is being done, done, in all)."""
RESTORED = "restored"
NEVER = (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", f"{DATABASE}-journal", "ballast")


class BackupRefused(Exception):
    """It was not done. Says what happened, what is safe and what to do."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What `backup.json` says. `files`: path below the folder -> (bytes, lower-case hex SHA-256). `keys`: names of the keys, not in it."""

    room: str
    made_utc: str
    software: str
    journal_seq: int
    journal_hash: str
    files: dict[str, tuple[int, str]]
    keys: tuple[str, ...]


def is_key(config: Config, path: Path) -> bool:
    """Whether a file of the state folder is a secret that signs or names people."""
    secret = (config.evidence.key, config.evidence.subject_key, config.evidence.sm2_key)
    return path in {config.in_state(each) for each in secret if each is not None} or path.suffix in (".key", ".cred")


def make(config: Config, to: Path, now: Stamp, keys_to: Path | None = None, progress: Progress = lambda what, done, total: None) -> Backup:
    """Copy the state into the new or empty folder `to`. BackupRefused if it is not empty, or the keys would lie with it."""
    state = config.paths.state
    if not (state / DATABASE).is_file():
        raise BackupRefused(f"{state} holds no database: there is nothing to back up. Is this the right configuration?")
    for folder in (to, keys_to):
        if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise BackupRefused(f"{folder} is there already and not empty. Nothing was written. Name a new folder.")
    if keys_to is not None and (keys_to.resolve().is_relative_to(to.resolve()) or to.resolve().is_relative_to(keys_to.resolve())):
        raise BackupRefused("the keys must not lie with the backup. Nothing was written. Name another medium for them.")
    durable.make_folder(to)
    own = sorted(_files(state, to, keys_to))
    keys = [path for path in own if is_key(config, path)]
    copy.copy_database(state / DATABASE, to / DATABASE, lambda done, total: progress("database", done, total))
    for path in own:
        if path not in keys:
            _copy(path, to / path.relative_to(state))
    if keys_to is not None:
        for path in keys:
            _copy(path, keys_to / path.relative_to(state))
    seq, head, _ = copy.head_of(to / DATABASE)
    names = sorted(path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file())
    backup = Backup(config.room.code, iso_utc(now.utc_us), __version__, seq, head or GENESIS,
                    {name: ((to / name).stat().st_size, durable.sha256_file(to / name)) for name in names},
                    tuple(path.relative_to(state).as_posix() for path in keys))
    durable.write_new(to / NAME, _to_json(backup))
    return backup


def _files(state: Path, *outside: Path | None) -> Iterator[Path]:
    """What of the state folder goes into a backup: every plain file but the database, its companions, and half-written ones."""
    others = [folder.resolve() for folder in outside if folder is not None]
    for path in state.rglob("*"):
        if any(path.resolve().is_relative_to(each) for each in others):
            continue
        if path.is_file() and not path.is_symlink() and path.relative_to(state).as_posix() not in NEVER and path.suffix != ".part":
            yield path


def _copy(path: Path, to: Path) -> None:
    durable.make_folder(to.parent)
    with path.open("rb") as source, durable.create(to) as raw, io.BufferedWriter(raw, durable.CHUNK_BYTES) as target:
        shutil.copyfileobj(source, target, durable.CHUNK_BYTES)     # a bare write may write a part only
        target.flush()
        os.fsync(target.fileno())


def _to_json(backup: Backup) -> bytes:
    facts = {"version": VERSION, "room": backup.room, "made_utc": backup.made_utc, "software": backup.software,
             "journal": {"seq": backup.journal_seq, "hash": backup.journal_hash}, "keys_apart": list(backup.keys),
             "files": {name: {"bytes": size, "sha256": sha} for name, (size, sha) in backup.files.items()}}
    return json.dumps(facts, indent=1, sort_keys=True).encode() + b"\n"


def read(folder: Path) -> Backup:
    """`backup.json` of a folder. BackupRefused if there is none, or none of ours."""
    try:
        facts: dict[str, Any] = json.loads((folder / NAME).read_bytes())
        if facts["version"] != VERSION:
            raise ValueError(f"its version is {facts['version']}")
        files = {str(name): (int(each["bytes"]), str(each["sha256"])) for name, each in facts["files"].items()}
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
            raise ValueError("it names files outside its folder")
        return Backup(str(facts["room"]), str(facts["made_utc"]), str(facts["software"]), int(facts["journal"]["seq"]),
                      str(facts["journal"]["hash"]), files, tuple(map(str, facts["keys_apart"])))
    except FileNotFoundError:
        raise BackupRefused(f"{folder} holds no whole backup: {NAME}, which is written last, is missing. Nothing was changed.") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackupRefused(f"{folder / NAME} cannot be used ({error}). Nothing was changed.") from error


def verify(folder: Path, progress: Progress = lambda what, done, total: None) -> list[str]:
    """Everything that is wrong with a backup, in words; empty if it is whole: files, database, the journal's chain and its head."""
    backup, wrong = read(folder), []
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {NAME}
    wrong += [f"{name} is not named in {NAME}" for name in sorted(there - set(backup.files))]
    for done, (name, (size, sha256)) in enumerate(sorted(backup.files.items()), 1):
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif path.stat().st_size != size or durable.sha256_file(path) != sha256:
            wrong.append(f"{name} is not what was backed up")
        progress("files", done, len(backup.files))
    if DATABASE not in backup.files:
        wrong.append(f"{DATABASE} is not in it")
    return wrong or _journal_faults(folder / DATABASE, backup, progress)


def _journal_faults(path: Path, backup: Backup, progress: Progress) -> list[str]:
    found = copy.integrity(path)
    if found != "ok":
        return [f"the database is damaged: {found}"]

    def counted() -> Iterator[e.Recorded]:
        for row in copy.facts_of(path):
            if row.seq % 1000 == 0 or row.seq == backup.journal_seq:
                progress("journal", row.seq, backup.journal_seq)
            yield row

    try:
        broken = chain.verify(counted())
        seq, head, _ = copy.head_of(path)
    except copy.NotADatabase as error:
        return [f"the journal cannot be read: {error}"]
    if broken is not None:
        return [f"the journal's chain is broken at row {broken}"]
    return [] if (seq, head or GENESIS) == (backup.journal_seq, backup.journal_hash) else [f"the journal does not end as {NAME} says"]


def restore(config: Config, folder: Path, now: Stamp, keys_from: Path | None = None,
            progress: Progress = lambda what, done, total: None) -> Backup:
    """Fill the state folder from a backup that was verified just now. BackupRefused, and then there is no database as before.

    May be repeated after a crash: the database comes last. The caller sees to it that no room runs, and rebuilds the catalog afterwards.
    """
    backup, state = read(folder), config.paths.state
    if (state / DATABASE).exists():
        raise BackupRefused(f"{state} has a database. Nothing was changed. A restore never overwrites one: move the whole folder aside "
                            "first, and keep it.")
    if backup.room != config.room.code:
        raise BackupRefused(f"this is a backup of {backup.room}, and this room is {config.room.code}. Nothing was changed.")
    if wrong := verify(folder, progress):
        raise BackupRefused(f"the backup is not whole: {wrong[0]}" + (f" (and {len(wrong) - 1} more)" if wrong[1:] else "")
                            + ". Nothing was changed. Take another one.")
    pairs = [(folder / name, state / name) for name in backup.files if name != DATABASE]
    if keys_from is not None:
        pairs += [(path, state / path.relative_to(keys_from)) for path in sorted(keys_from.rglob("*")) if path.is_file()]
    for source, target in pairs:
        if target.exists() and durable.sha256_file(target) != durable.sha256_file(source):
            raise BackupRefused(f"{target} is there already and is another one. The database was not restored. Move it aside and restore "
                                "again.")
    for source, target in pairs:
        if not target.exists():
            part = target.with_name(f".{target.name}.restoring")
            durable.remove(part)
            _copy(source, part)
            durable.rename(part, target)
    part = state / f".{DATABASE}.restoring"
    durable.make_folder(state)
    durable.remove(part)
    _copy(folder / DATABASE, part)
    _forget_from(part, now)
    durable.rename(part, state / DATABASE)
    return backup


def _forget_from(part: Path, now: Stamp) -> None:
    """From the last row of the journal until now nothing is known: said before the database has its name."""
    *_, last_utc_us = copy.head_of(part)
    database = Database(part, ballast=False)
    try:
        if last_utc_us < now.utc_us:
            rebuild.add_unaccounted(database, last_utc_us, now.utc_us, RESTORED)
    finally:
        database.close()


def missing_keys(config: Config, backup: Backup) -> list[str]:
    """Keys that the room had and that are not in its state folder now."""
    return [name for name in backup.keys if not (config.paths.state / name).exists()]
