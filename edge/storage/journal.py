"""The append-only record of everything that happened: a fact, its rows and its outbox line in one transaction.

`edge/room.py` is the only caller of `append`. The hash that binds each row to the one before is computed by a function this
module is given (`evidence.chain.link`; siblings do not import each other). What goes beside a fact (a candidate's name, a signed
envelope, the platform's plan) is a `Beside`: it is written to its own table, never into the fact's body.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from edge.clock import Stamp
from edge.sessions import events as e
from edge.sessions.roster import Candidate, Elsewhere
from edge.storage.database import Database

GENESIS = "0" * 64
Link = Callable[[int, "str | None", str, int, int, str, dict[str, Any], str], tuple[str, str]]
"""(seq, session, kind, utc_us, boot_us, boot_id, body, prev) -> (canonical body, hash)."""

STEPPED_OVER = "kind NOT IN ('SegmentStored','GapDeclared','FootageViewed','SessionExported','IdleFootageExpired')"
"""As the index event_folded has it, word for word: SQLite uses a partial index only then."""

NOT_FOLDED = ("SegmentStored", "GapDeclared", "FootageViewed", "ExportBegun", "SessionExported", "IdleFootageExpired", "CheckpointSigned",
              "SessionArchived", "ArchiveMismatch", "CheckpointsLetGo")
"""Facts that the room's state does not need at start: most of the journal. Late segments are counted by `load`."""


FOLDED = (f"SELECT * FROM event INDEXED BY event_folded WHERE {STEPPED_OVER} AND kind NOT IN ({','.join('?' * len(NOT_FOLDED))}) "  # noqa: S608
          "UNION ALL SELECT e.* FROM (SELECT session, min(seq) AS seq FROM event INDEXED BY event_folded "
          f"WHERE kind = 'Sealed' AND {STEPPED_OVER} GROUP BY session) s "
          "CROSS JOIN event e INDEXED BY idx_event_session_seq ON e.session = s.session AND e.seq > s.seq AND e.kind = 'SegmentStored' "
          "ORDER BY seq")
"""The question for the facts that make the room's state; its values are NOT_FOLDED."""


class Beside(Protocol):
    """What is written in the same transaction as a fact."""

    def write(self, connection: sqlite3.Connection, seq: int, event: e.Event) -> None: ...


@dataclass(frozen=True, slots=True)
class PlanText:
    """The plan in full (JSON), as it came."""

    plan_id: str
    scheduled_start_us: int
    body: str

    def write(self, connection: sqlite3.Connection, seq: int, event: e.Event) -> None:
        connection.execute("INSERT OR REPLACE INTO plan VALUES (?,?,?,?)",
                           (event.session, self.plan_id, self.scheduled_start_us, self.body))


@dataclass(frozen=True, slots=True)
class People:
    """The session's candidates, each with the HMAC that stands for the number everywhere else; and who is expected in other rooms."""

    rows: Sequence[tuple[Candidate, str]]
    elsewhere: Mapping[str, Elsewhere] = field(default_factory=dict)

    def write(self, connection: sqlite3.Connection, seq: int, event: e.Event) -> None:
        connection.execute("DELETE FROM person WHERE session = ?", (event.session,))
        connection.executemany("INSERT INTO person VALUES (?,?,?,?,?,?,?,?,?,?)", [
            _person(event.session, c, subject) for c, subject in self.rows])
        connection.execute("DELETE FROM elsewhere WHERE session = ?", (event.session,))
        connection.executemany("INSERT INTO elsewhere VALUES (?,?,?,?)", [
            (event.session, number, place.room_code, place.start_utc_us) for number, place in self.elsewhere.items()])


def _person(session: str | None, c: Candidate, subject: str) -> tuple[Any, ...]:
    body: dict[str, Any] = {"id_type": c.id_type, "exam_kind": c.exam_kind, "subject": c.subject, "demo": c.demo, "on_hold": c.on_hold,
                            "employer": c.employer, "employer_uscc": c.employer_uscc}
    if c.theory_passed_on is not None:
        body["theory_passed_on"] = c.theory_passed_on.isoformat()
    return (session, c.candidate_id, subject, c.number, c.name, c.admission_no, c.seat, c.person_category, c.trade, json.dumps(body))


@dataclass(frozen=True, slots=True)
class OffRoster:
    """Somebody who is let in and on no list."""

    candidate: Candidate
    subject: str

    def write(self, connection: sqlite3.Connection, seq: int, event: e.Event) -> None:
        connection.execute("INSERT INTO person VALUES (?,?,?,?,?,?,?,?,?,?)", _person(event.session, self.candidate, self.subject))


@dataclass(frozen=True, slots=True)
class SeenCard:
    """Whose card was refused: kept 30 days for the proctors, then purged."""

    number: str
    name: str

    def write(self, connection: sqlite3.Connection, seq: int, event: e.Event) -> None:
        connection.execute("INSERT INTO seen_card VALUES (?,?,?,?,?)", (seq, event.session, self.number, self.name, event.at.utc_us))


@dataclass(frozen=True, slots=True)
class Envelope:
    """A signed object, stored once. `priority`: also owed to the platform (lower goes first). `answers`: of a receipt, what it answers."""

    kind: str
    digest: str
    body: bytes
    revision: int | None = None
    answers: str | None = None
    priority: int | None = None

    def write(self, connection: sqlite3.Connection, seq: int, event: e.Event) -> None:
        connection.execute("INSERT OR IGNORE INTO envelope VALUES (?,?,?,?,?,?)",
                           (self.digest, self.kind, event.session, self.revision, self.answers, self.body))
        if self.priority is not None:
            connection.execute(
                "INSERT INTO outbox(kind, session, revision, digest, priority, state, attempts, queued_utc_us) "
                "VALUES (?,?,?,?,?,'waiting',0,?)",
                (self.kind, event.session, self.revision, self.digest, self.priority, event.at.utc_us))


@dataclass(frozen=True, slots=True)
class Delivered:
    """The outbox owes this no longer."""

    digest: str

    def write(self, connection: sqlite3.Connection, seq: int, event: e.Event) -> None:
        connection.execute("UPDATE outbox SET state = 'done' WHERE digest = ?", (self.digest,))


@dataclass(frozen=True, slots=True)
class LetGo:
    """Signed objects that are kept no longer, by their digests; their answers and outbox lines go with them."""

    digests: Sequence[str]

    def write(self, connection: sqlite3.Connection, seq: int, event: e.Event) -> None:
        each = [(digest,) for digest in self.digests]
        connection.executemany("DELETE FROM outbox WHERE digest = ?", each)
        connection.executemany("DELETE FROM envelope WHERE kind = 'receipt' AND answers = ? AND session IS NULL", each)
        connection.executemany("DELETE FROM envelope WHERE digest = ?", each)


class Journal:
    """The chain. `append` returns when the fact is on disk."""

    def __init__(self, database: Database, link: Link) -> None:
        self.database, self._link = database, link
        with database.read() as connection:
            row = connection.execute("SELECT seq, hash FROM event ORDER BY seq DESC LIMIT 1").fetchone()
        self.head: tuple[int, str] = (row["seq"], row["hash"]) if row else (0, GENESIS)

    async def append(self, event: e.Event, *beside: Beside) -> e.Recorded:
        """Write one fact, its derived rows and what stands beside it. Nothing is written if anything fails."""
        seq, prev = self.head[0] + 1, self.head[1]
        at = event.at
        body, digest = self._link(seq, event.session, event.kind, at.utc_us, at.boot_us, at.boot_id, e.encode(event), prev)

        def change(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO event VALUES (?,?,?,?,?,?,?,?,?)",
                               (seq, event.session, event.kind, at.utc_us, at.boot_us, at.boot_id, body, prev, digest))
            derive(connection, seq, event)
            for each in beside:
                each.write(connection, seq, event)

        await self.database.write(change)
        self.head = (seq, digest)
        return e.Recorded(seq, event, prev, digest)

    def load(self) -> Iterator[e.Recorded]:
        """The facts that make the room's state, in order. Late segments of sealed sessions are among them."""
        yield from self._rows(FOLDED, NOT_FOLDED)

    def since(self, seq: int) -> Iterator[e.Recorded]:
        """Every fact after row `seq`, in order."""
        yield from self._rows("SELECT * FROM event WHERE seq > ? ORDER BY seq", (seq,))

    def hash_of(self, seq: int) -> str | None:
        """The hash of a row; None if there is no such row."""
        with self.database.read() as connection:
            row = connection.execute("SELECT hash FROM event WHERE seq = ?", (seq,)).fetchone()
        return row["hash"] if row else None

    def of_session(self, session: str) -> list[e.Recorded]:
        """All facts of one session, in order."""
        return list(self._rows("SELECT * FROM event WHERE session = ? ORDER BY seq", (session,)))

    def folded_of(self, session: str, last: int) -> list[e.Recorded]:
        """The facts of one session that make the room's state, up to row `last`, in order."""
        marks = ",".join("?" * len(NOT_FOLDED))
        return list(self._rows(f"SELECT * FROM event WHERE session = ? AND seq <= ? AND kind NOT IN ({marks}) ORDER BY seq",  # noqa: S608
                               (session, last, *NOT_FOLDED)))

    def all(self) -> Iterator[e.Recorded]:
        """The whole journal, in order."""
        yield from self._rows("SELECT * FROM event ORDER BY seq", ())

    def _rows(self, query: str, values: Sequence[Any]) -> Iterator[e.Recorded]:
        with self.database.read() as connection:
            for row in connection.execute(query, values):
                yield recorded(row)


def recorded(row: sqlite3.Row) -> e.Recorded:
    """A row of the event table as a fact."""
    at = Stamp(row["utc_us"], row["boot_us"], row["boot_id"])
    return e.Recorded(row["seq"], e.decode(row["kind"], at, row["session"], json.loads(row["body"])), row["prev"], row["hash"])


def derive(connection: sqlite3.Connection, seq: int, event: e.Event) -> None:
    """Rows that follow from the fact alone."""
    match event:
        case e.CandidateAdmitted():
            connection.execute("INSERT INTO checkin VALUES (?,?,?,?,?,?)",
                               (seq, event.session, event.at.utc_us, "OK", event.candidate_id, event.seat))
        case e.AdmissionRefused():
            connection.execute("INSERT INTO checkin VALUES (?,?,?,?,?,?)",
                               (seq, event.session, event.at.utc_us, event.code, event.candidate_id, None))
        case e.SeatAssigned() | e.CandidateLeft() | e.CandidateReturned() | e.AttendanceCorrected():
            code, seat = _line(event)
            connection.execute("INSERT INTO checkin VALUES (?,?,?,?,?,?)",
                               (seq, event.session, event.at.utc_us, code, event.candidate_id, seat))
        case e.SegmentStored():
            connection.execute("UPDATE segment SET in_session = 1 WHERE stream = ? AND seq = ?", (event.stream, event.seq))
            connection.execute("INSERT INTO session_segment VALUES (?,?,?,?,?)",
                               (event.session, event.stream, event.start_utc_us, event.seq, seq))
            connection.execute("INSERT INTO footage_total VALUES (?,1,?) ON CONFLICT(session) DO UPDATE SET "
                               "segments = segments + 1, bytes = bytes + excluded.bytes", (event.session, event.bytes))
        case e.SegmentDamaged():
            connection.execute("INSERT OR REPLACE INTO damage VALUES (?,?,?,?,?)",
                               (event.stream, event.seq, event.what, event.at.utc_us, seq))
        case e.SegmentSound():
            connection.execute("DELETE FROM damage WHERE stream = ? AND seq = ?", (event.stream, event.seq))
        case e.JournalResumed():
            connection.execute("UPDATE unaccounted SET told = 1 WHERE from_utc_us = ? AND to_utc_us = ?",
                               (event.from_utc_us, event.to_utc_us))
        case _:
            pass


def _line(event: e.SeatAssigned | e.CandidateLeft | e.CandidateReturned | e.AttendanceCorrected) -> tuple[str, str | None]:
    """(code, seat) of a candidate's further lines in the check-in list."""
    match event:
        case e.SeatAssigned():
            return "seat", event.seat
        case e.CandidateLeft():
            return ("left" if event.final else "out"), None
        case e.CandidateReturned():
            return "RETURNED", None
        case e.AttendanceCorrected():
            return f"corrected-{event.result}", event.seat
