"""The list of each session: in memory while the session is to come or under way, in the database alone when it is over.

Years hold thousands of lists, so one of a session that is over is read when somebody asks for it, and is not kept: whom the database
has forgotten is then nowhere in memory either. Only the Room puts lists in, under its turn; anybody may read, from any thread. Called by
`room` and whoever looks at it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date

from edge.sessions.machine import Session, State
from edge.sessions.roster import Candidate, Roster
from edge.storage.catalog import Catalog

DONE = frozenset({State.SEALED, State.CANCELLED})


class Rosters:
    """Lists by the session's id. `sessions`: all of the room as they stand."""

    def __init__(self, sessions: Callable[[], Mapping[str, Session]], catalog: Catalog) -> None:
        self._sessions, self._catalog = sessions, catalog
        self._kept = {each.id: self._stored(each) for each in sessions().values() if each.roster and each.state not in DONE}

    def __contains__(self, session_id: object) -> bool:
        return isinstance(session_id, str) and (session := self._sessions().get(session_id)) is not None and session.roster is not None

    def __getitem__(self, session_id: str) -> Roster:
        """KeyError if the session has no list (yet)."""
        found = self.get(session_id)
        if found is None:
            raise KeyError(session_id)
        return found

    def __setitem__(self, session_id: str, roster: Roster) -> None:
        self._kept[session_id] = roster

    def get(self, session_id: str) -> Roster | None:
        """The list, or None if the session has none (yet)."""
        kept = self._kept.get(session_id)
        if kept is not None:
            return kept
        session = self._sessions().get(session_id)
        return self._stored(session) if session is not None and session.roster else None

    def kept(self) -> dict[str, Roster]:
        """Those in memory: of the sessions that are not over."""
        return dict(self._kept)

    def let_go(self, session_id: str) -> None:
        """Keep this list in memory no longer. It can still be read, as far as the database knows it."""
        self._kept.pop(session_id, None)

    def settle(self, session_id: str | None) -> None:
        """A fact of this session is on disk: if the session is over now, its list is let go."""
        session = self._sessions().get(session_id or "")
        if session is not None and session.state in DONE:
            self.let_go(session.id)

    def _stored(self, session: Session) -> Roster:
        version = session.roster.version if session.roster else 0
        return Roster(session.id, session.plan.plan_id, version, tuple(
            Candidate(p.candidate_id, p.name, "", p.number, p.admission_no, p.seat, p.person_category, p.trade, "", p.exam_subject,
                      theory_passed_on=date.fromisoformat(p.theory_passed_on) if p.theory_passed_on else None, on_hold=p.on_hold)
            for p in self._catalog.people(session.id)), self._catalog.elsewhere(session.id))
