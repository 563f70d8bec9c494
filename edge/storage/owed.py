"""Signed documents and what is owed to the platform, against the facts that promise them: rules as in `rules`.

Each signing and each receipt is a fact that names its document by digest; the document's other columns, and its line in the outbox, follow
from that fact. So a lost line is made again and sent again (the digest is the key: sending twice brings the same receipt), and a document
that is lost is only told. Called by `edge/fsck.py`.
"""
# ruff: noqa: S608 (the questions are put together from constants of this file)

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from functools import partial

from edge.storage.rules import Rule

SIGNED = {"OpenSigned": "session-open", "ManifestSigned": "session-manifest", "CheckpointSigned": "device-checkpoint",
          "KeyRolled": "key-rollover", "DispositionSigned": "session-disposition"}
"""A fact that a document was signed -> the document's kind."""

_KIND = "CASE kind " + " ".join(f"WHEN '{fact}' THEN '{kind}'" for fact, kind in SIGNED.items()) + " END"
_KINDS = ", ".join(f"'{fact}'" for fact in SIGNED)
_SIGNED = (f"SELECT json_extract(body, '$.digest') AS digest, {_KIND} AS kind, session, json_extract(body, '$.revision') AS revision, "
           f"NULL AS answers, min(seq) AS seq, utc_us FROM event WHERE kind IN ({_KINDS}) GROUP BY json_extract(body, '$.digest')")
_ANSWERED = "SELECT json_extract(body, '$.digest') FROM event WHERE kind = 'ReceiptVerified'"
PROMISED = (f"SELECT * FROM ({_SIGNED}) UNION ALL SELECT json_extract(body, '$.receipt_sha256'), 'receipt', session, "
            "json_extract(body, '$.revision'), json_extract(body, '$.digest'), min(seq), utc_us FROM event WHERE kind = 'ReceiptVerified' "
            "GROUP BY json_extract(body, '$.receipt_sha256')")
"""digest, kind, session, revision, answers, seq, utc_us of every document that the journal says is stored."""
_OTHER = "e.kind IS NOT p.kind OR e.session IS NOT p.session OR e.revision IS NOT p.revision OR e.answers IS NOT p.answers"


def _whose(session: str | None) -> str:
    return session or "the device"


def _lost(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute(f"SELECT p.digest, p.kind, p.session, p.seq FROM ({PROMISED}) p "
                                  "WHERE NOT EXISTS (SELECT 1 FROM envelope e WHERE e.digest = p.digest)"):
        yield f"the {row[1]} of {_whose(row[2])} that row {row[3]} of the journal names ({row[0][:16]}…) is not stored"


def _labels(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute(f"SELECT p.digest, p.kind, p.session FROM ({PROMISED}) p JOIN envelope e ON e.digest = p.digest "
                                  f"WHERE {_OTHER}"):
        yield f"the {row[1]} of {_whose(row[2])} ({row[0][:16]}…) is stored as something else"


def _mend_labels(connection: sqlite3.Connection) -> None:
    wrong = connection.execute(f"SELECT p.kind, p.session, p.revision, p.answers, p.digest FROM ({PROMISED}) p "
                               f"JOIN envelope e ON e.digest = p.digest WHERE {_OTHER}").fetchall()
    connection.executemany("UPDATE envelope SET kind = ?, session = ?, revision = ?, answers = ? WHERE digest = ?", wrong)


def _strays(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute(f"SELECT digest, kind, session FROM envelope WHERE digest NOT IN (SELECT digest FROM ({PROMISED}))"):
        yield f"a {row[1]} of {_whose(row[2])} ({row[0][:16]}…) is stored, and no fact tells of it"


def _one_manifest(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute("SELECT session, count(DISTINCT json_extract(body, '$.digest')) FROM event WHERE kind = 'OpenSigned' "
                                  "GROUP BY session HAVING count(DISTINCT json_extract(body, '$.digest')) > 1"):
        yield f"{row[0]} was opened by {row[1]} different documents"
    for row in connection.execute("SELECT session, revision, count(*) FROM envelope WHERE kind = 'session-manifest' "
                                  "GROUP BY session, revision HAVING count(*) > 1"):
        yield f"{row[0]} has {row[2]} different manifests of revision {row[1]}"


_LINE = "l.kind IS NOT s.kind OR l.session IS NOT s.session OR l.revision IS NOT s.revision OR l.priority IS NOT "
_WRONG_STATE = (f"(l.state NOT IN ('done', 'parked') AND s.digest IN ({_ANSWERED})) OR (l.state NOT IN ('waiting', 'parked') "
                f"AND s.digest NOT IN ({_ANSWERED}))")


def _place(priorities: Mapping[str, int]) -> str:
    """A document's place in the outbox, as a question."""
    return "CASE s.kind " + " ".join(f"WHEN '{kind}' THEN {int(place)}" for kind, place in priorities.items()) + " END"


def _outbox(connection: sqlite3.Connection, priorities: Mapping[str, int]) -> Iterator[str]:
    for row in connection.execute(f"SELECT kind, session FROM ({_SIGNED}) s WHERE digest NOT IN (SELECT digest FROM outbox)"):
        yield f"the {row[0]} of {_whose(row[1])} is not among what is owed to the platform, nor among what it has"
    for row in connection.execute(f"SELECT s.kind, s.session FROM ({_SIGNED}) s JOIN outbox l ON l.digest = s.digest "
                                  f"WHERE {_LINE} {_place(priorities)}"):
        yield f"the {row[0]} of {_whose(row[1])} is owed to the platform as something else"
    for row in connection.execute(f"SELECT s.kind, s.session, l.state FROM ({_SIGNED}) s JOIN outbox l ON l.digest = s.digest "
                                  f"WHERE {_WRONG_STATE}"):
        yield (f"the {row[0]} of {_whose(row[1])} " + ("counts as delivered, and no receipt of it was ever verified" if row[2] == "done"
                                                       else f"is {row[2]}, though the platform has answered" if row[2] == "waiting"
                                                       else f"is neither waiting nor delivered ({row[2]})"))


def _mend_outbox(connection: sqlite3.Connection, priorities: Mapping[str, int]) -> None:
    """What is missing is owed again; what is said wrongly is said as the journal has it. A parked line stays parked."""
    lost = connection.execute(f"SELECT kind, session, revision, digest, utc_us FROM ({_SIGNED}) "
                              "WHERE digest NOT IN (SELECT digest FROM outbox) ORDER BY seq").fetchall()
    connection.executemany("INSERT INTO outbox(kind, session, revision, digest, priority, state, attempts, queued_utc_us) "
                           "VALUES (?,?,?,?,?,'waiting',0,?)", [(*row[:4], priorities[row[0]], row[4]) for row in lost])
    wrong = connection.execute(f"SELECT s.kind, s.session, s.revision, {_place(priorities)}, s.digest FROM ({_SIGNED}) s "
                               f"JOIN outbox l ON l.digest = s.digest WHERE {_LINE} {_place(priorities)}").fetchall()
    connection.executemany("UPDATE outbox SET kind = ?, session = ?, revision = ?, priority = ? WHERE digest = ?", wrong)
    connection.execute(f"UPDATE outbox SET state = 'done' WHERE state NOT IN ('done', 'parked') AND digest IN ({_ANSWERED})")
    connection.execute("UPDATE outbox SET state = 'waiting' WHERE state NOT IN ('waiting', 'parked') "
                       f"AND digest IN (SELECT digest FROM ({_SIGNED})) AND digest NOT IN ({_ANSWERED})")


def _outbox_strays(connection: sqlite3.Connection) -> Iterator[str]:
    for row in connection.execute(f"SELECT kind, session FROM outbox WHERE digest NOT IN (SELECT digest FROM ({_SIGNED}))"):
        yield f"a {row[0]} of {_whose(row[1])} is owed to the platform, and no fact says that it was signed"


def rules(priorities: Mapping[str, int]) -> tuple[Rule, ...]:
    """`priorities`: of each kind of document, its place in the outbox."""
    return (Rule("document-label", _labels, _mend_labels), Rule("document-stored", _lost), Rule("document-promised", _strays),
            Rule("one-manifest", _one_manifest),
            Rule("outbox", partial(_outbox, priorities=priorities), partial(_mend_outbox, priorities=priorities)),
            Rule("outbox-promised", _outbox_strays))
