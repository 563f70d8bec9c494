"""The folded state, so that a start need not fold years of facts. A cache and never a truth: without it a start takes longer, no more.

A row for each session and one for the room itself, written in one transaction with the journal's number and hash up to which it was
folded. `recall` believes it only if it is whole and ours (an HMAC over all rows), was made by the very code that folds now, and the
journal has that hash at that row; then it folds what came since. Everything else is passed over, told in the log, and folded anew.
What a session's facts say of single candidates is most of the state and hardly ever asked for once the doors are shut: it is not kept,
but folded from that session's own facts when somebody asks. So there is no second copy that could say otherwise.
LIMIT: who can read the room's subject key can forge a snapshot as well as a journal; `edge verify --store` folds and compares.
Called by `room`; `contradictions` by the check of the store.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

from edge import clock
from edge.sessions import events, machine, policy, roster
from edge.sessions.machine import RoomState, Session
from edge.storage import written
from edge.storage.journal import Journal

CANDIDATES = frozenset({"admitted", "faces", "turned_away", "seats"})
"""Fields of a session that are folded when somebody asks."""

Digests = Iterable[tuple[str, bytes]]
log = logging.getLogger(__name__)


class PassedOver(Exception):
    """The snapshot is not believed. Says why in one word: none, other-program, altered, other-history, unreadable."""


@cache
def program() -> str:
    """SHA-256 over the code that decides what a snapshot says: another fold, other facts, another form, and it is made anew."""
    digest = hashlib.sha256()
    for each in (machine.__file__, events.__file__, policy.__file__, roster.__file__, clock.__file__, written.__file__, __file__):
        digest.update(Path(each).read_bytes())
    return digest.hexdigest()


class Snapshot:
    """`recall` once, at start; `keep` now and then, and at the end."""

    def __init__(self, journal: Journal, key: bytes) -> None:
        """`key`: the room's subject key; what is made of it here stands for no person (another prefix)."""
        self._journal, self._key = journal, key
        self._rows: dict[str, tuple[Session, bytes]] = {}       # session -> as it is kept, and its row's digest
        self.seq = 0                                            # up to this row of the journal it speaks; 0: there is none

    def recall(self) -> RoomState:
        """The room's state by the journal: from the snapshot and what came since, or from the first fact on. IllegalStep as of `fold`."""
        try:
            state = self._read()
            return machine.fold((each.event for each in self._journal.since(self.seq)), state)
        except PassedOver as why:
            level = {"none": logging.DEBUG, "other-program": logging.INFO}.get(str(why), logging.WARNING)      # a first start has none
            log.log(level, "snapshot passed over reason=%s", why)
        except (ValueError, TypeError, KeyError, AttributeError, machine.IllegalStep):
            log.warning("snapshot passed over reason=unreadable", exc_info=True)
        self._rows, self.seq = {}, 0
        return machine.fold(each.event for each in self._journal.load())

    def _read(self) -> RoomState:
        with self._journal.database.read() as connection:
            rows = connection.execute("SELECT session, body FROM snapshot ORDER BY id").fetchall()
        if not rows or rows[0]["session"] != "":
            raise PassedOver("none")
        mac, _, room = rows[0]["body"].partition(" ")
        digests = [(row["session"], _digest(row["body"])) for row in rows[1:]]
        if not hmac.compare_digest(mac, self._mac(room, digests)):
            raise PassedOver("altered")
        said = json.loads(room)
        if said["program"] != program():
            raise PassedOver("other-program")
        if self._journal.hash_of(said["seq"]) != said["hash"]:
            raise PassedOver("other-history")
        seq = said["seq"]
        state: RoomState = written.taken(RoomState, said["room"], sessions={})
        sessions = {}
        for row, (_, digest) in zip(rows[1:], digests, strict=True):
            later = _Candidates(self._journal, row["session"], seq)
            session = written.taken(Session, json.loads(row["body"]), **{name: _Later(later, name) for name in CANDIDATES})
            sessions[session.id] = session
            self._rows[session.id] = session, digest
        self.seq = seq
        return replace(state, sessions=sessions)

    async def keep(self, state: RoomState, head: tuple[int, str]) -> None:
        """Write down what has changed since; `head`: number and hash of the row up to which `state` was folded. Fatal if the disk fails."""
        if head[0] == self.seq:
            return
        changed = await asyncio.to_thread(self._changed, state)
        rows = self._rows | {each.id: (each, _digest(body)) for each, body in changed}
        room = _text({"program": program(), "seq": head[0], "hash": head[1], "room": written.plain(state, {"sessions"})})
        mac, anew = self._mac(room, ((each, rows[each][1]) for each in state.sessions)), not self._rows

        def change(connection: sqlite3.Connection) -> None:
            if anew:
                connection.execute("DELETE FROM snapshot")
            connection.execute("INSERT OR REPLACE INTO snapshot VALUES (0, '', ?)", (f"{mac} {room}",))
            connection.executemany("INSERT INTO snapshot(session, body) VALUES (?,?) "       # an old session keeps its place
                                   "ON CONFLICT(session) DO UPDATE SET body = excluded.body", ((each.id, body) for each, body in changed))

        await self._journal.database.write(change)
        self._rows, self.seq = rows, head[0]

    def _changed(self, state: RoomState) -> list[tuple[Session, str]]:
        return [(each, _text(written.plain(each, CANDIDATES))) for each in state.sessions.values()
                if each.id not in self._rows or self._rows[each.id][0] is not each]

    def _mac(self, room: str, digests: Digests) -> str:
        lines = chain((room.encode(),), (f"\n{session}\t{digest.hex()}".encode() for session, digest in digests))
        return hmac.new(self._key, b"edge snapshot\n" + b"".join(lines), hashlib.sha256).hexdigest()


def contradictions(rows: Sequence[tuple[str, str]], facts: Iterable[events.Recorded]) -> list[str]:
    """What of a snapshot (`rows`: session and body, in order) is not what the journal says (`facts`: all of it, in order): ids of sessions,
    and "room". Without the key: who could forge it is found out here. ValueError, KeyError, TypeError if it is none."""
    said: dict[str, Any] = json.loads(rows[0][1].partition(" ")[2]) if rows else {"program": ""}
    if said["program"] != program():
        return []                                           # none, or another program's: no start will believe it
    state = machine.fold(each.event for each in takewhile(lambda each: each.seq <= said["seq"], facts))
    by_journal = {each.id: _read_back(written.plain(each, CANDIDATES)) for each in state.sessions.values()}
    kept = {session: json.loads(body) for session, body in rows[1:]}
    wrong = [each for each in by_journal.keys() | kept.keys() if by_journal.get(each) != kept.get(each)]
    return sorted(wrong) + ["room"] * (said["room"] != _read_back(written.plain(state, {"sessions"})))


def _read_back(value: Any) -> Any:
    """As it would come from the disk: in which order a mapping was filled is no fact."""
    return json.loads(_text(value))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _digest(body: str) -> bytes:
    return hashlib.sha256(body.encode()).digest()


class _Candidates:
    """One session as its own facts make it, up to the row to which the snapshot speaks; folded at the first question."""

    def __init__(self, journal: Journal, session: str, seq: int) -> None:
        self._journal, self._id, self._seq = journal, session, seq
        self._folded: Session | None = None

    def folded(self) -> Session:
        if self._folded is None:
            facts = [each.event for each in self._journal.folded_of(self._id, self._seq)]
            number = next((fact.session_seq for fact in facts if isinstance(fact, events.CheckinOpened)), 1)
            self._folded = machine.fold(facts, RoomState(opened_total=number - 1)).sessions[self._id]
        return self._folded


class _Later(Mapping[str, Any]):
    """One of a session's mappings, there when it is looked into."""

    __slots__ = ("_name", "_of")

    def __init__(self, of: _Candidates, name: str) -> None:
        self._of, self._name = of, name

    def _whole(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = getattr(self._of.folded(), self._name)
        return found

    def __getitem__(self, key: str) -> Any:
        return self._whole()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole())

    def __len__(self) -> int:
        return len(self._whole())

    def __repr__(self) -> str:
        return f"<{self._name}, folded when asked for>"
