"""`edge storage`, `edge reindex`, `edge fsck`, `edge backup`: the data disk's identity, the catalog from the disk alone, does everything in
the store agree, the state kept elsewhere."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge.commands.configuration import CONFIG, load, pinned
from edge.commands.verb import group, verb

if TYPE_CHECKING:
    from edge.commands.verb import Verbs
    from edge.config import Config


def add(verbs: Verbs) -> None:
    """storage init; reindex; fsck; backup: make, verify, restore."""
    storage = group(verbs, "storage", "the footage folder: init")
    verb(storage, "init", _storage_init, "give the mounted data disk its identity, and pin it", config=CONFIG)
    v = verb(verbs, "reindex", _reindex, "rebuild the catalog of footage from the disk alone; the room must not run, the recorder may",
             config=CONFIG, described=True)
    v.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    v = verb(verbs, "fsck", _fsck, "check the invariants of journal, index, documents and files; --repair mends only what is provable",
             config=CONFIG, described=True)
    v.add_argument("--repair", action="store_true", help="mend what the journal proves; the room must not run. Deletes nothing")
    v.add_argument("--deep", action="store_true", help="also read every film through and compare its SHA-256")
    v.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    backups = group(verbs, "backup", "the room's state without keys and footage: make, verify, restore")
    v = verb(backups, "make", _backup_make, "copy the state of the room, running or not, into a new folder", config=CONFIG, described=True)
    v.add_argument("--to", type=Path, required=True, help="a new or empty folder")
    v.add_argument("--keys-to", type=Path, help="a new or empty folder on another medium for the keys; without it they are left out")
    v = verb(backups, "verify", _backup_verify,
             "is a backup whole: every file, the database, the journal's chain; needs nothing but the folder")
    v.add_argument("folder", type=Path)
    v = verb(backups, "restore", _backup_restore, "fill an empty state folder from a backup, rebuild the catalog; overwrites nothing",
             config=CONFIG, described=True)
    v.add_argument("folder", type=Path)
    v.add_argument("--keys-from", type=Path, help="the folder with the keys of that backup")


def _storage_init(args: argparse.Namespace) -> int:
    from edge import durable
    from edge.capture.storage_id import init_storage
    config = load(args)
    onward = _number_onward(config)         # before the identity: from then on a recorder may begin there
    identity = init_storage(config.paths.footage)
    durable.make_folder(config.paths.state)
    durable.replace(config.paths.state / "storage.uuid", identity.encode() + b"\n")
    print(f"{config.paths.footage} is storage {identity}; this room records there and nowhere else")
    if onward:
        print("numbering goes on from the disk before: " + ", ".join(f"{stream} from {seq}" for stream, seq in onward.items()))
    return 0


def _number_onward(config: Config) -> dict[str, int]:
    """On a disk that lacks what the room has known, each stream numbers on behind that: a number that the room knows it would pass over."""
    from edge.capture.recovery import number_from
    from edge.storage.look import Look, NoStore
    try:
        known = Look(config.paths.state / "edge.db").numbers()
    except NoStore:
        if (config.paths.state / "edge.db").exists():
            raise
        return {}
    return {stream: seq + 1 for stream, seq in known.items() if number_from(config.paths.footage / stream, seq + 1)}


def _reindex(args: argparse.Namespace) -> int:
    from edge.clock import SystemClock
    from edge.reindex import must_rest
    config = load(args)
    must_rest(config.paths.run)
    return _rebuild(config, SystemClock().now().utc_us, args.json)


def _rebuild(config: Config, now_utc_us: int, as_json: bool = False) -> int:
    from edge.capture.storage_id import check_storage
    from edge.evidence.chain import link
    from edge.progress import Line
    from edge.reindex import reindex
    from edge.storage.database import Database
    from edge.storage.journal import Journal
    check_storage(config.paths.footage, pinned(config))
    database = Database(config.paths.state / "edge.db")
    try:
        with Line(sys.stderr) as line:
            done = reindex(config.paths.footage, database, Journal(database, link), now_utc_us, line.told)
    finally:
        database.close()
    if as_json:
        print(json.dumps({"segments": done.segments, "bytes": done.bytes, "streams": done.streams, "left": done.left,
                          "unaccounted": done.unaccounted, "refused": [{"path": path, "why": why} for path, why in done.refused]}))
        return 1 if done.refused else 0
    print(f"{done.segments} segments of {len(done.streams)} streams are in the catalog, {done.bytes / 1e9:.1f} GB"
          + (f"; the room itself takes in the {done.left} newest at its next start" if done.left else ""))
    if done.unaccounted:
        print("the journal does not know all of the time of this footage; what is of that time is kept until somebody decides")
    for path, why in done.refused:
        print(f"not taken in: {path}: {why}")
    return 1 if done.refused else 0


def _fsck(args: argparse.Namespace) -> int:
    from edge.fsck.check import check, lines
    from edge.progress import Line
    with Line(sys.stderr) as line:
        outcome = check(load(args), repair=args.repair, deep=args.deep, progress=line.part)
    print(json.dumps(outcome.as_json(), ensure_ascii=False) if args.json else "\n".join(lines(outcome)))
    return 1 if outcome.left else 0


def _backup_make(args: argparse.Namespace) -> int:
    from edge import backup
    from edge.clock import SystemClock
    from edge.progress import Line
    with Line(sys.stderr) as line:
        made = backup.make(load(args), args.to, SystemClock().now(), args.keys_to, line.part)
    print(f"{len(made.files)} files, journal up to row {made.journal_seq}, written to {args.to}")
    print(f"look at it now: edge backup verify {args.to}")
    print("names and numbers of people are in it: keep it where only those may read it who may read the room's disk")
    if made.keys:
        print(f"keys: {', '.join(made.keys)}: " + (f"in {args.keys_to}" if args.keys_to else "not in it (--keys-to)"))
    return 0


def _backup_verify(args: argparse.Namespace) -> int:
    from edge import backup
    from edge.progress import Line
    with Line(sys.stderr) as line:
        wrong = backup.verify(args.folder, line.part)
    print("\n".join(wrong) if wrong else "whole: every file, the database, and the journal's chain to its head")
    return 1 if wrong else 0


def _backup_restore(args: argparse.Namespace) -> int:
    from edge import backup
    from edge.clock import SystemClock
    from edge.progress import Line
    from edge.reindex import must_rest
    config, now = load(args), SystemClock().now()
    must_rest(config.paths.run)
    with Line(sys.stderr) as line:
        made = backup.restore(config, args.folder, now, args.keys_from, line.part)
    print(f"restored as of {made.made_utc}, journal row {made.journal_seq}. Footage since then is kept, whatever its age.")
    if missing := backup.missing_keys(config, made):
        print(f"the room cannot start without its keys: {', '.join(missing)}; put them into {config.paths.state}, or make new ones")
    print("tell the province before the next session: what was sent to it since that moment is not in this journal")
    return _rebuild(config, now.utc_us)
