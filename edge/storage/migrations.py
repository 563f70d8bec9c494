"""The schema, as numbered steps that are only ever added to. Each runs once, inside one transaction; `user_version` counts them.

Read this file to know what the database holds. A database newer than this code is refused. sqlite-utils creates plain tables;
what it has no words for (triggers, partial indexes) is SQL. Steps are as long as the tables they make.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite_utils


class NewerSchema(Exception):
    """The database was written by a newer version of this program."""


def step_1(db: sqlite_utils.Database) -> None:
    """The first schema, whole: as many lines as there are tables and columns."""
    # The journal: every fact, chained. `hash` covers all other columns (evidence.chain). Never updated, never deleted from.
    db.table("event").create({"seq": int, "session": str, "kind": str, "utc_us": int, "boot_us": int, "boot_id": str, "body": str,
                        "prev": str, "hash": str}, pk="seq", not_null={"kind", "utc_us", "boot_us", "boot_id", "body", "prev", "hash"})
    db.table("event").create_index(["session", "seq"])
    for change in ("UPDATE", "DELETE"):
        db.execute(f"CREATE TRIGGER event_no_{change.lower()} BEFORE {change} ON event "
                   "BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END")
    # REPLACE deletes without asking the trigger above, unless recursive triggers are on: a row may only come after the last.
    db.execute("CREATE TRIGGER event_no_insert_before BEFORE INSERT ON event WHEN NEW.seq <= (SELECT coalesce(max(seq), 0) FROM event) "
               "BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END")
    # What a session's plan says in full (names of staff included), as the platform sent it.
    db.table("plan").create({"session": str, "plan_id": str, "scheduled_start_us": int, "body": str}, pk="session")
    # The purgeable person table: the only place, with seen_card, that holds names and numbers of candidates.
    db.table("person").create({"session": str, "candidate_id": str, "subject": str, "number": str, "name": str, "admission_no": str,
                         "seat": str, "person_category": str, "trade": str, "body": str}, pk=("session", "candidate_id"))
    db.table("person").create_index(["subject"])
    # Cards that were refused or matched nobody; purged after 30 days (personal information kept no longer than needed).
    db.table("seen_card").create({"seq": int, "session": str, "number": str, "name": str, "utc_us": int}, pk="seq")
    # Who came in, for the page's list; derived from the journal.
    db.table("checkin").create({"seq": int, "session": str, "utc_us": int, "code": str, "candidate_id": str, "seat": str}, pk="seq")
    db.table("checkin").create_index(["session", "seq"])
    # Every segment on disk, in a session or not. Files first, rows after: a row implies the file, with this size and digest.
    db.table("segment").create({"stream": str, "seq": int, "path": str, "run": str, "start_utc_us": int, "end_utc_us": int,
                          "start_boot_us": int, "end_boot_us": int, "boot_id": str, "dur_us": int, "frame_us": int, "bytes": int,
                          "sha256": str, "sidecar_sha256": str, "codec": str, "end_reason": str, "recovered": int,
                          "clock_state": str, "audio_peak_cdb": int, "silent_ms": int, "in_session": int}, pk=("stream", "seq"))
    db.execute("CREATE INDEX segment_idle ON segment(start_utc_us) WHERE in_session = 0")
    # Which sessions a segment belongs to (at a border it may be two).
    db.table("session_segment").create({"session": str, "stream": str, "start_utc_us": int, "seq": int, "event_seq": int},
                                 pk=("session", "stream", "seq"))
    db.table("session_segment").create_index(["session", "stream", "start_utc_us"])
    # Files about to be removed: row here, then unlink, then forget.
    db.table("garbage").create({"path": str, "utc_us": int}, pk="path")
    # Every signed object, by the SHA-256 of its payload; written once, sent as stored.
    db.table("envelope").create({"digest": str, "kind": str, "session": str, "revision": int, "answers": str, "body": bytes}, pk="digest")
    db.table("envelope").create_index(["session", "kind", "revision"])
    # What is still owed to the platform. No attempt limit; a parked item waits for a person.
    db.table("outbox").create({"id": int, "kind": str, "session": str, "revision": int, "digest": str, "priority": int, "state": str,
                         "attempts": int, "queued_utc_us": int, "last_error": str}, pk="id")
    db.table("outbox").create_index(["digest"], unique=True)
    # Log-ins of the pages, by the SHA-256 of their token.
    db.table("login").create({"token_sha256": str, "staff_id": str, "since_utc_us": int, "last_utc_us": int}, pk="token_sha256")


def step_2(db: sqlite_utils.Database) -> None:
    """Where else people are expected today, so that the door can send them there (part of the signed roster; purged with it)."""
    db.table("elsewhere").create({"session": str, "number": str, "room_code": str, "start_utc_us": int}, pk=("session", "number"))


def step_archive(db: sqlite_utils.Database) -> None:
    """What of which session lies in the archive (storage.archived): an index that the archive could rebuild."""
    db.table("archived").create({"session": str, "bucket": str, "envelopes": int, "objects": int, "bytes": int, "retain_until_utc_us": int,
                                 "whole_utc_us": int, "read_utc_us": int, "read_after": str, "held": int}, pk="session")
    # two rows a segment, millions of them: the key follows from session and name, the digest stands in the manifest
    db.execute("CREATE TABLE archived_object(session TEXT NOT NULL, name TEXT NOT NULL, version_id TEXT NOT NULL, bytes INTEGER NOT NULL, "
               "PRIMARY KEY(session, name)) WITHOUT ROWID")


def step_upkeep(db: sqlite_utils.Database) -> None:
    """What keeping the store in order remembers: lost stretches of the journal, how far the scrub is, what it found."""
    # Stretches of time of which this journal knows nothing (a lost or restored database). Footage of them is never idle: it is kept.
    db.table("unaccounted").create({"id": int, "from_utc_us": int, "to_utc_us": int, "why": str, "told": int}, pk="id",
                                   not_null={"from_utc_us", "to_utc_us", "why", "told"})
    # Where the scrub goes on after a restart; one row.
    db.table("scrub").create({"id": int, "pass": int, "began_utc_us": int, "stream": str, "seq": int, "files": int, "bytes": int,
                              "damaged": int, "last_began_utc_us": int, "last_ended_utc_us": int}, pk="id")
    # Segments whose bytes are not what their sidecar says; derived from SegmentDamaged and SegmentSound.
    db.table("damage").create({"stream": str, "seq": int, "what": str, "utc_us": int, "event_seq": int}, pk=("stream", "seq"))
    # Which sessions a segment belongs to, asked from the segment's side.
    db.execute("CREATE INDEX session_segment_by_number ON session_segment(stream, seq)")
    # A start reads the facts that make the room's state and steps over the millions of segments between them.
    db.execute("CREATE INDEX event_folded ON event(seq) WHERE kind NOT IN ('SegmentStored','GapDeclared','FootageViewed',"
               "'SessionExported','IdleFootageExpired')")


def step_export(db: sqlite_utils.Database) -> None:
    """Sessions whose files somebody is reading out: nothing of them may be deleted before `until_utc_us` (storage.reserved)."""
    db.table("reserved").create({"session": str, "until_utc_us": int, "why": str}, pk=("session", "why"), not_null={"until_utc_us"})


def step_keeping(db: sqlite_utils.Database) -> None:
    """How much footage each session holds, so that nobody counts millions of rows to know what is due; rows go with the session's."""
    db.table("footage_total").create({"session": str, "segments": int, "bytes": int}, pk="session", not_null={"segments", "bytes"})
    db.execute("INSERT INTO footage_total SELECT x.session, count(*), sum(s.bytes) FROM session_segment x "
               "JOIN segment s ON s.stream = x.stream AND s.seq = x.seq GROUP BY x.session")


def step_start(db: sqlite_utils.Database) -> None:
    """The folded state (storage.snapshot), a cache of the journal: a row for each session, row 0 for the room. May be emptied any time."""
    db.execute("CREATE TABLE snapshot(id INTEGER PRIMARY KEY, session TEXT NOT NULL UNIQUE, body TEXT NOT NULL)")


STEPS: tuple[Callable[[sqlite_utils.Database], None], ...] = (step_1, step_2, step_archive, step_upkeep, step_export, step_keeping,
                                                                step_start)


def apply(connection: sqlite3.Connection) -> None:
    """Bring the database up to this code's schema. NewerSchema if it is ahead of it."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(STEPS):
        raise NewerSchema(f"the database has schema {version}, this program knows {len(STEPS)}. Nothing was changed. "
                          "Install the newer program again.")
    if version == len(STEPS):
        return
    import sqlite_utils  # only where there is something to do: it takes 160 ms and loads NumPy where that is installed

    for number, step in enumerate(STEPS[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            step(sqlite_utils.Database(connection))
            connection.execute(f"PRAGMA user_version={number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
