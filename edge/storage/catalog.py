"""Questions about what is on disk and who was there: segments, people, plans, envelopes. Read-only, but for adding a segment's row.

Callers: `room`, `notary`, `web`, `app`. A segment row implies the file (design §5: files first, rows after).
"""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass
from typing import Any

from edge.sessions.events import Event
from edge.sessions.roster import Elsewhere
from edge.storage.database import Database
from edge.storage.scrub import Damage, Progress, damages, progress_of


@dataclass(frozen=True, slots=True)
class Segment:
    """One row of the segment table; times in microseconds (UTC and boot), digests lower-case hex."""

    stream: str
    seq: int
    path: str
    run: str
    start_utc_us: int
    end_utc_us: int
    start_boot_us: int
    end_boot_us: int
    boot_id: str
    dur_us: int
    frame_us: int
    bytes: int
    sha256: str
    sidecar_sha256: str
    codec: str
    end_reason: str
    recovered: bool
    clock_state: str
    audio_peak_cdb: int | None
    silent_ms: int | None

    def write(self, connection: sqlite3.Connection, seq: int, event: Event) -> None:
        """Beside its SegmentStored, in the same transaction: the row is never there without the session's fact."""
        _insert(connection, self, in_session=True)


def _insert(connection: sqlite3.Connection, segment: Segment, *, in_session: bool) -> bool:
    if not in_session:      # of a time that the journal has lost: nobody can say that it is idle, so it is kept like a session's
        in_session = connection.execute("SELECT 1 FROM unaccounted WHERE from_utc_us < ? AND to_utc_us > ?",
                                        (segment.end_utc_us, segment.start_utc_us)).fetchone() is not None
    values = (*astuple(segment), in_session)
    marks = ",".join("?" * len(values))
    return connection.execute(f"INSERT OR IGNORE INTO segment VALUES ({marks})", values).rowcount == 1  # noqa: S608


_COLUMNS = ", ".join(Segment.__dataclass_fields__)
_RECOVERED = list(Segment.__dataclass_fields__).index("recovered")


def _segment(row: tuple[Any, ...]) -> Segment:
    values = list(row)
    values[_RECOVERED] = bool(values[_RECOVERED])
    return Segment(*values)


@dataclass(frozen=True, slots=True)
class Person:
    """A candidate as the roster has him. `number` and `name` are personal: mask them on a shared screen."""

    session: str
    candidate_id: str
    subject: str
    number: str
    name: str
    admission_no: str
    seat: str | None
    person_category: str
    trade: str | None
    exam_subject: str = ""              # what is examined
    theory_passed_on: str | None = None  # YYYY-MM-DD
    on_hold: bool = False
    employer: str = ""


@dataclass(frozen=True, slots=True)
class Checkin:
    """One verdict at the door, for the list on the page. `name` None: unknown or purged."""

    seq: int
    utc_us: int
    code: str
    candidate_id: str | None
    seat: str | None
    name: str | None
    number: str | None
    method: str | None = None       # how an admission knew the person: id_card, id_wedge, manual


@dataclass(frozen=True, slots=True)
class StoredEnvelope:
    digest: str
    kind: str
    session: str
    revision: int | None
    answers: str | None
    body: bytes


def rollovers_in(connection: sqlite3.Connection) -> tuple[list[bytes], dict[str, bytes]]:
    """The device's key-rollovers in the order of the journal, and the platform's receipts for them by the digest that they answer."""
    rows = connection.execute("SELECT digest, body FROM envelope WHERE session IS NULL AND kind = 'key-rollover' ORDER BY rowid").fetchall()
    answers = {digest: connection.execute("SELECT body FROM envelope WHERE session IS NULL AND kind = 'receipt' AND answers = ?",
                                          (digest,)).fetchone() for digest, _ in rows}
    return [bytes(row[1]) for row in rows], {digest: bytes(row[0]) for digest, row in answers.items() if row is not None}


class Catalog:
    """The queries. Each opens its own short read-only connection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_segment(self, segment: Segment) -> bool:
        """Add a segment's row; False if it was there already (the folder is read again at each start)."""
        return await self._database.write(lambda connection: _insert(connection, segment, in_session=False))

    def last_seq(self, stream: str) -> int:
        """The highest sequence number known of a stream; -1 if none."""
        with self._database.read() as connection:
            return int(connection.execute("SELECT coalesce(max(seq), -1) FROM segment WHERE stream = ?", (stream,)).fetchone()[0])

    def segments(self, session: str, stream: str | None = None) -> list[Segment]:
        """A session's segments in order of stream and time."""
        query = (f"SELECT {', '.join('s.' + c.strip() for c in _COLUMNS.split(','))} FROM session_segment x "  # noqa: S608
                 "JOIN segment s ON s.stream = x.stream AND s.seq = x.seq WHERE x.session = ?")
        values: tuple[str, ...] = (session,)
        if stream is not None:
            query, values = query + " AND x.stream = ?", (session, stream)
        with self._database.read() as connection:
            rows = connection.cursor()
            rows.row_factory = None         # plain tuples: a session has hundreds of segments, and somebody waits for them
            return [_segment(row) for row in rows.execute(query + " ORDER BY x.stream, x.seq", values)]

    def segment(self, stream: str, seq: int) -> Segment | None:
        with self._database.read() as connection:
            row = connection.execute(f"SELECT {_COLUMNS} FROM segment WHERE stream = ? AND seq = ?",  # noqa: S608
                                     (stream, seq)).fetchone()
        return Segment(**{**dict(row), "recovered": bool(row["recovered"])}) if row else None

    def in_session(self, session: str, stream: str, seq: int) -> bool:
        with self._database.read() as connection:
            return connection.execute("SELECT 1 FROM session_segment WHERE session = ? AND stream = ? AND seq = ?",
                                      (session, stream, seq)).fetchone() is not None

    def people(self, session: str) -> list[Person]:
        """The session's roster, seats first in order, those without a seat at the end."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT session, candidate_id, subject, number, name, admission_no, seat, person_category, trade, "
                                      "coalesce(json_extract(body, '$.subject'), '') AS exam_subject, "
                                      "json_extract(body, '$.theory_passed_on') AS theory_passed_on, "
                                      "coalesce(json_extract(body, '$.on_hold'), 0) AS on_hold, "
                                      "coalesce(json_extract(body, '$.employer'), '') AS employer FROM person WHERE session = ? "
                                      "ORDER BY seat IS NULL, seat, candidate_id", (session,))
            return [Person(**{**dict(row), "on_hold": bool(row["on_hold"])}) for row in rows]

    def sessions_of_person(self, subject: str) -> list[tuple[str, str]]:
        """(session, candidate_id) of everybody whose number has this HMAC: one person's sessions (一人一档)."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT session, candidate_id FROM person WHERE subject = ?", (subject,))
            return [(row["session"], row["candidate_id"]) for row in rows]

    def sessions_of_name(self, name: str) -> list[tuple[str, str]]:
        """The same of everybody of this name: perhaps several people."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT session, candidate_id FROM person WHERE name = ?", (name,))
            return [(row["session"], row["candidate_id"]) for row in rows]

    def sessions_of_employer(self, employer: str) -> list[tuple[str, str]]:
        """The same of everybody sent by an enterprise (一企一册), by its whole name or its code."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT session, candidate_id FROM person WHERE json_extract(body, '$.employer') = ?1 "
                                      "OR json_extract(body, '$.employer_uscc') = ?1", (employer,))
            return [(row["session"], row["candidate_id"]) for row in rows]

    def sessions_of_class(self, class_no: str) -> list[str]:
        """The sessions planned for a class or term (一期一档, 一班一档), by its whole number."""
        with self._database.read() as connection:
            return [row["session"] for row in connection.execute(
                "SELECT session FROM plan WHERE json_extract(body, '$.class_no') = ? ORDER BY scheduled_start_us", (class_no,))]

    def checkins(self, session: str, most: int = 200) -> list[Checkin]:
        """The newest verdicts at the door, newest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                "SELECT c.seq, c.utc_us, c.code, c.candidate_id, c.seat, coalesce(p.name, s.name) AS name, "
                "coalesce(p.number, s.number) AS number, json_extract(e.body, '$.method') AS method FROM checkin c "
                "JOIN event e ON e.seq = c.seq "
                "LEFT JOIN person p ON p.session = c.session AND p.candidate_id = c.candidate_id "
                "LEFT JOIN seen_card s ON s.seq = c.seq WHERE c.session = ? ORDER BY c.seq DESC LIMIT ?", (session, most))
            return [Checkin(**dict(row)) for row in rows]

    def elsewhere(self, session: str) -> dict[str, Elsewhere]:
        """Who is expected in other rooms, by number, as the session's roster has it."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT number, room_code, start_utc_us FROM elsewhere WHERE session = ?", (session,))
            return {row["number"]: Elsewhere(row["room_code"], row["start_utc_us"]) for row in rows}

    def stranger(self, session: str, seq: int) -> tuple[str, str] | None:
        """(number, name) of a card that was read and is on no list, by the journal's number of the refusal; None: none such, or purged."""
        with self._database.read() as connection:
            row = connection.execute("SELECT s.number, s.name FROM seen_card s JOIN checkin c ON c.seq = s.seq WHERE s.session = ? "
                                     "AND s.seq = ? AND c.code = 'E-NOT-ON-ROSTER'", (session, seq)).fetchone()
        return (str(row[0]), str(row[1])) if row else None

    def damages(self, session: str | None = None) -> list[Damage]:
        """Segments that are not what was sealed, as the scrub found them: of a session, or all."""
        return damages(self._database, session)

    def scrubbed(self) -> Progress | None:
        """How far the scrub is; None before its first pass."""
        return progress_of(self._database)

    def plan(self, session: str) -> str | None:
        """The plan's full text (JSON) as the platform sent it."""
        with self._database.read() as connection:
            row = connection.execute("SELECT body FROM plan WHERE session = ?", (session,)).fetchone()
        return str(row[0]) if row else None

    def envelopes(self, session: str) -> list[StoredEnvelope]:
        """All signed objects of a session, in order of kind and revision."""
        with self._database.read() as connection:
            rows = connection.execute("SELECT digest, kind, session, revision, answers, body FROM envelope WHERE session = ? "
                                      "ORDER BY kind, revision", (session,))
            return [StoredEnvelope(**dict(row)) for row in rows]

    def rollovers(self) -> tuple[list[bytes], dict[str, bytes]]:
        with self._database.read() as connection:
            return rollovers_in(connection)

    # ---- what is being exported stays ---------------------------------------------------------------------------------

    async def reserve(self, session: str, until_utc_us: int, why: str) -> None:
        """Nothing of `session` may be deleted before `until_utc_us`. The same `why` again moves the end; on disk when it returns."""
        await self._database.write(lambda c: c.execute("INSERT OR REPLACE INTO reserved VALUES (?,?,?)", (session, until_utc_us, why)))

    async def release(self, session: str, why: str) -> None:
        """End one reservation; no error if there is none."""
        await self._database.write(lambda c: c.execute("DELETE FROM reserved WHERE session = ? AND why = ?", (session, why)))

    def reserved_sessions(self, now_utc_us: int) -> frozenset[str]:
        """Sessions that somebody reserved. Whoever deletes asks before each pass; what ended (a crash released nothing) counts no more."""
        with self._database.read() as connection:
            return frozenset(row["session"] for row in connection.execute(
                "SELECT DISTINCT session FROM reserved WHERE until_utc_us > ?", (now_utc_us,)))
