# ruff: noqa: S608 (the questions are put together from constants of this file)
"""What must be so in the database: each rule finds what contradicts the journal, and mends it where the journal says how.

The journal (event) is the truth; every other table either follows from it, or holds what a fact names by its digest. `find` only reads and
gives one text for each contradiction; `mend` runs in a transaction of the room's own write connection, while no room runs, and changes
derived rows alone: never a fact, a person, a document's bytes or a file. A rule without `mend` is told and left to people.
The rules' names are those of docs/design/invariants.md (a test compares). Called by `edge/fsck.py`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from edge.storage import migrations
from edge.storage.catalog import Segment
from edge.storage.journal import derive, recorded
from edge.storage.rebuild import CHECKIN_KINDS, LINKS, mend_checkins, mend_links

Find = Callable[[sqlite3.Connection], Iterator[str]]
Mend = Callable[[sqlite3.Connection], object]


@dataclass(frozen=True, slots=True)
class Rule:
    """One invariant of the database."""

    name: str
    find: Find
    mend: Mend | None = None


# ---- the file and its form ----------------------------------------------------------------------------------------------

def _damage_of_the_file(connection: sqlite3.Connection) -> Iterator[str]:
    yield from (row[0] for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok")
    yield from (f"{row[0]} row {row[1]} names a row of {row[2]} that is not there"
                for row in connection.execute("PRAGMA foreign_key_check"))


def _form(connection: sqlite3.Connection) -> dict[tuple[str, str], str]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'")
    return {(row[0], row[1]): re.sub(r"[\s\"\[\]]+", " ", row[2]).strip() for row in rows}


def _wanted() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrations.apply(connection)
    return connection


def _wrong_form(connection: sqlite3.Connection) -> Iterator[str]:
    if connection.execute("PRAGMA user_version").fetchone()[0] < len(migrations.STEPS):
        return                          # an older program wrote it: the room brings it up to date when it starts
    with closing(_wanted()) as model:
        wanted, found = _form(model), _form(connection)
    for (kind, name), sql in wanted.items():
        if (kind, name) not in found:
            yield f"the {kind} {name} is missing"
        elif kind != "table" and found[kind, name] != sql:
            yield f"the {kind} {name} is another one"


def _mend_form(connection: sqlite3.Connection) -> None:
    """Indexes and triggers hold no data: those that are missing are made again."""
    with closing(_wanted()) as model:
        found = _form(connection)
        for kind, name, sql in model.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"):
            if kind in ("index", "trigger") and (kind, name) not in found:
                connection.execute(sql)


# ---- segments -----------------------------------------------------------------------------------------------------------

_FACTS = ("SELECT e.seq AS event_seq, e.session AS session, e.body AS body, json_extract(e.body, '$.stream') AS stream, "
          "json_extract(e.body, '$.seq') AS seq FROM event e WHERE e.kind = 'SegmentStored' "
          "AND e.session NOT IN (SELECT session FROM event WHERE kind = 'FootageDisposed')")
_SAID = tuple(name for name in Segment.__dataclass_fields__ if name not in ("stream", "seq", "audio_peak_cdb", "silent_ms"))
"""What row and fact both say (how loud it was, they may have learnt at different times)."""
_SAYS_OTHER = " OR ".join(f"s.{name} IS NOT json_extract(f.body, '$.{name}')" for name in _SAID)


def _rows_that_say_other(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute(f"SELECT f.stream, f.seq, f.session FROM ({_FACTS}) f "
                                  f"JOIN segment s ON s.stream = f.stream AND s.seq = f.seq WHERE {_SAYS_OTHER}"):
        yield f"the index says other of {row[0]} number {row[1]} than the journal of {row[2]}"


def _mend_rows(connection: sqlite3.Connection) -> None:
    wrong = connection.execute(f"SELECT f.body, f.stream, f.seq FROM ({_FACTS}) f "
                               f"JOIN segment s ON s.stream = f.stream AND s.seq = f.seq WHERE {_SAYS_OTHER}").fetchall()
    sets = ", ".join(f"{name} = json_extract(?1, '$.{name}')" for name in _SAID)
    connection.executemany(f"UPDATE segment SET {sets} WHERE stream = ?2 AND seq = ?3", wrong)


def _links(connection: sqlite3.Connection) -> Iterator[str]:
    held = "SELECT session, stream, start_utc_us, seq, event_seq FROM session_segment"
    for row in connection.execute(f"{LINKS} EXCEPT {held}"):
        yield f"{row[0]} lacks {row[1]} number {row[3]}, which the journal gives it"
    for row in connection.execute(f"{held} EXCEPT {LINKS}"):
        yield f"{row[0]} is given {row[1]} number {row[3]}, of which the journal says nothing"


_COUNTS_AS_IDLE = (f"SELECT s.stream, s.seq FROM ({_FACTS}) f "
                   "JOIN segment s ON s.stream = f.stream AND s.seq = f.seq WHERE s.in_session = 0 "
                   "UNION SELECT s.stream, s.seq FROM segment s JOIN unaccounted u ON s.start_utc_us < u.to_utc_us "
                   "AND s.end_utc_us > u.from_utc_us WHERE s.in_session = 0")


def _idle(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute(_COUNTS_AS_IDLE):
        yield f"{row[0]} number {row[1]} is to be kept and counts as idle: it would be removed"


def _kept_for_nothing(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute("SELECT s.path FROM segment s WHERE s.in_session <> 0 AND (s.stream, s.seq) NOT IN "
                                  f"(SELECT stream, seq FROM ({_FACTS})) AND NOT EXISTS (SELECT 1 FROM unaccounted u "
                                  "WHERE s.start_utc_us < u.to_utc_us AND s.end_utc_us > u.from_utc_us)"):
        yield f"{row[0]} counts as kept, and neither a session nor a lost time asks for it"


def _mend_idle(connection: sqlite3.Connection) -> None:
    connection.executemany("UPDATE segment SET in_session = 1 WHERE stream = ? AND seq = ?", connection.execute(_COUNTS_AS_IDLE).fetchall())


_TOTALS = f"SELECT session, count(*), sum(json_extract(body, '$.bytes')) FROM ({_FACTS}) GROUP BY session"


def _totals(connection: sqlite3.Connection) -> Iterator[str]:
    sessions = connection.execute(f"SELECT session FROM ({_TOTALS} EXCEPT SELECT * FROM footage_total) UNION "
                                  f"SELECT session FROM (SELECT * FROM footage_total EXCEPT {_TOTALS})")
    yield from (f"how much footage {row[0]} has is reckoned wrongly" for row in sessions)


def _mend_totals(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM footage_total")
    connection.execute(f"INSERT INTO footage_total {_TOTALS}")


_DAMAGED = ("SELECT json_extract(body, '$.stream'), json_extract(body, '$.seq'), json_extract(body, '$.what'), utc_us, seq FROM event "
            "WHERE kind = 'SegmentDamaged' AND seq IN (SELECT max(seq) FROM event WHERE kind IN ('SegmentDamaged', 'SegmentSound') "
            "GROUP BY json_extract(body, '$.stream'), json_extract(body, '$.seq'))")


def _damages(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute(f"{_DAMAGED} EXCEPT SELECT * FROM damage"):
        yield f"{row[0]} number {row[1]} is damaged by the journal, and the list of damages does not say so"
    for row in connection.execute(f"SELECT * FROM damage EXCEPT {_DAMAGED}"):
        yield f"{row[0]} number {row[1]} stands among the damages, and not by the journal"


def _mend_damages(connection: sqlite3.Connection) -> None:
    connection.execute("DELETE FROM damage")
    connection.execute(f"INSERT INTO damage {_DAMAGED}")


_RESUMED = ("SELECT json_extract(body, '$.from_utc_us') AS a, json_extract(body, '$.to_utc_us') AS b, json_extract(body, '$.why') AS why "
            "FROM event WHERE kind = 'JournalResumed'")


def _lost_time(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute(f"SELECT a, b FROM ({_RESUMED}) r WHERE NOT EXISTS (SELECT 1 FROM unaccounted u "
                                  "WHERE u.from_utc_us = a AND u.to_utc_us = b AND u.told = 1)"):
        yield f"the journal does not know the time from {row[0]} to {row[1]} (UTC µs), and footage of it is not held back"
    for row in connection.execute("SELECT from_utc_us, to_utc_us FROM unaccounted u WHERE told = 1 AND NOT EXISTS "
                                  f"(SELECT 1 FROM ({_RESUMED}) WHERE a = u.from_utc_us AND b = u.to_utc_us)"):
        yield f"the time from {row[0]} to {row[1]} (UTC µs) is held back as told, and no fact tells of it"


def _mend_lost_time(connection: sqlite3.Connection) -> None:
    """Held back again; what no fact tells of is told by the room at its next start. Nothing is let go."""
    connection.execute(f"UPDATE unaccounted SET told = EXISTS (SELECT 1 FROM ({_RESUMED}) WHERE a = from_utc_us AND b = to_utc_us)")
    connection.execute(f"INSERT INTO unaccounted(from_utc_us, to_utc_us, why, told) SELECT a, b, why, 1 FROM ({_RESUMED}) "
                       "WHERE NOT EXISTS (SELECT 1 FROM unaccounted WHERE from_utc_us = a AND to_utc_us = b)")


_KEPT_GARBAGE = f"SELECT g.path FROM garbage g JOIN ({_FACTS}) f ON json_extract(f.body, '$.path') = g.path"


def _garbage(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute(_KEPT_GARBAGE):
        yield f"{row[0]} is to be kept by the journal and stands among what is to be removed"


def _mend_garbage(connection: sqlite3.Connection) -> None:
    connection.execute(f"DELETE FROM garbage WHERE path IN ({_KEPT_GARBAGE})")


def _garbage_with_a_row(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute("SELECT g.path FROM garbage g JOIN segment s ON s.path = g.path "
                                  f"WHERE g.path NOT IN ({_KEPT_GARBAGE})"):
        yield f"{row[0]} stands in the index and among what is to be removed"


# ---- rows from elsewhere: what a sidecar says, the file that the old key signed ------------------------------------------

COLUMNS = tuple(Segment.__dataclass_fields__)


def add_row(connection: sqlite3.Connection, row: tuple[Any, ...]) -> None:
    """A segment's row (the fields of `Segment`) where there is none; kept where the journal or a lost time asks for it."""
    at = dict(zip(COLUMNS, row, strict=True))
    kept = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM session_segment WHERE stream = :stream AND seq = :seq) OR EXISTS (SELECT 1 FROM unaccounted "
        "WHERE from_utc_us < :end_utc_us AND to_utc_us > :start_utc_us)", at).fetchone()[0]
    connection.execute(f"INSERT OR IGNORE INTO segment VALUES ({','.join('?' * (len(row) + 1))})", (*row, kept))


def write_row(connection: sqlite3.Connection, row: tuple[Any, ...]) -> None:
    """What the index says of a segment, anew; how loud it was and whether it is kept stay."""
    sets = ", ".join(f"{name} = ?" for name in _SAID)
    connection.execute(f"UPDATE segment SET {sets} WHERE stream = ? AND seq = ?", (*row[2:2 + len(_SAID)], *row[:2]))


def add_rollover(connection: sqlite3.Connection, digest: str, body: bytes) -> None:
    """A key-rollover that the journal names and that is not stored."""
    connection.execute("INSERT OR IGNORE INTO envelope(digest, kind, body) VALUES (?, 'key-rollover', ?)", (digest, body))


# ---- people -------------------------------------------------------------------------------------------------------------

def _checkins_of(connection: sqlite3.Connection) -> set[tuple[Any, ...]]:
    """The check-in list as the journal has it, made beside the database."""
    with closing(_wanted()) as model:
        marks = ",".join("?" * len(CHECKIN_KINDS))
        cursor = connection.cursor()
        cursor.row_factory = sqlite3.Row
        for row in cursor.execute(f"SELECT * FROM event WHERE kind IN ({marks}) ORDER BY seq", CHECKIN_KINDS):
            fact = recorded(row)
            derive(model, fact.seq, fact.event)
        return {tuple(row) for row in model.execute("SELECT * FROM checkin")}


def _checkins(connection: sqlite3.Connection) -> Iterator[str]:
    wanted, found = _checkins_of(connection), {tuple(row) for row in connection.execute("SELECT * FROM checkin")}
    for row in sorted(wanted - found):
        yield f"the check-in list of {row[1]} lacks row {row[0]} of the journal, or says other"
    for number in sorted({row[0] for row in found - wanted} - {row[0] for row in wanted}):
        yield f"the check-in list has a line {number} that is no row of the journal"


def _forgotten(connection: sqlite3.Connection) -> Iterator[str]:
    for table in ("person", "elsewhere", "plan", "seen_card"):
        for row in connection.execute(f"SELECT session, count(*) FROM {table} WHERE session IN "
                                      "(SELECT session FROM event WHERE kind = 'FootageDisposed') GROUP BY session"):
            yield f"{row[0]} was given up, and {row[1]} rows of {table} are still there"


def _people(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute(
            "SELECT e.session, count(*) FROM event e WHERE e.kind = 'CandidateAdmitted' "
            "AND e.session NOT IN (SELECT session FROM event WHERE kind = 'FootageDisposed') AND NOT EXISTS (SELECT 1 FROM person p "
            "WHERE p.session = e.session AND p.candidate_id = json_extract(e.body, '$.candidate_id') "
            "AND p.subject = json_extract(e.body, '$.subject')) GROUP BY e.session"):
        yield f"of {row[1]} people who were admitted to {row[0]} nobody can say any more who they are"


# ---- the archive --------------------------------------------------------------------------------------------------------

def _archived(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute("SELECT session FROM archived WHERE session NOT IN (SELECT session FROM event WHERE kind = 'Sealed')"):
        yield f"{row[0]} counts as archived, and the journal does not know it as sealed"
    for row in connection.execute("SELECT a.session FROM archived a WHERE a.envelopes > 0 AND a.objects <> "
                                  "(SELECT count(*) FROM archived_object o WHERE o.session = a.session)"):
        yield f"{row[0]} is said to be whole in the archive, and the list of its objects has another length"


RULES = (
    Rule("database-file", _damage_of_the_file),
    Rule("database-form", _wrong_form, _mend_form),
    Rule("row-as-told", _rows_that_say_other, _mend_rows),
    Rule("session-link", _links, mend_links),
    Rule("lost-time", _lost_time, _mend_lost_time),
    Rule("kept-not-idle", _idle, _mend_idle),
    Rule("kept-for-nothing", _kept_for_nothing),
    Rule("kept-not-garbage", _garbage, _mend_garbage),
    Rule("garbage-or-row", _garbage_with_a_row),
    Rule("footage-total", _totals, _mend_totals),
    Rule("damage-list", _damages, _mend_damages),
    Rule("check-in", _checkins, mend_checkins),
    Rule("forgotten", _forgotten),
    Rule("people", _people),
    Rule("archive-index", _archived),
)
"""In the order in which they are looked at and mended: what a rule mends, those behind it rely on."""
