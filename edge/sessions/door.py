"""The table of verdicts at the door: every answer there is, in the order in which a proctor would ask (exam-room rules R2, R4, U3–U6).

Pure: who is asked about, and how things stand (`Doorway`), in; a `Verdict` out. The first row of `ROWS` that applies is the answer, for
a card and for a manual check (F2) alike. The Room turns it into a fact; wording, sounds and lights of each code are the pages' (`web`).
Callers: `room`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from edge.clock import US, Stamp
from edge.sessions.identity import Identity
from edge.sessions.machine import Session, State
from edge.sessions.roster import Candidate, Code, Elsewhere, Roster, Verdict

EARLIEST_LEAVE_MIN = 30
"""Nobody leaves in the first half hour, unless the plan says otherwise (provincial exam-room rules)."""
THEORY_MONTHS = 12
"""A theory pass opens the practical exam for so long (national exam rules of 2013, article 10)."""
NUMBER_TAIL, ADMISSION_TAIL = 6, 5
"""What a person without a card must at least say: the last six of the ID number, or the last five of the admission number (准考证号)."""
SIGN_OUT_US, AGAIN_US = 5 * 60 * US, 60 * US
"""In a class the card signs in, then out, then in again. So soon after signing in, and after any later mark, it is the same showing."""

BY_HAND = frozenset({Code.NO_CARD, Code.CARD_UNREADABLE, Code.CARD_EXPIRED})
"""Why somebody is checked by hand (F2): no card, a dead one, one that is out of date."""
CHIEF_MAY = frozenset({Code.LATE, Code.THEORY_EXPIRED})
"""Verdicts that the chief may set aside, with a reason. A hold is lifted by whoever set it: the platform."""


@dataclass(frozen=True, slots=True)
class Doorway:
    """How things stand at the door. `session`: whose doors are open (None: no session's); `others`: the room's other sessions of today,
    by start, each with its list. `late`: the cut-off has passed."""

    session: Session | None
    roster: Roster | None
    others: Mapping[str, Roster]
    coming: Mapping[str, Roster]        # of `others`: whose doors have not opened yet
    today: date
    late: bool = False
    at: Stamp | None = None             # this moment


class Asked(NamedTuple):
    """Somebody at the door. `card` None: checked by hand; then the list's own number was said."""

    card: Identity | None
    numbers: tuple[str, ...]
    candidate: Candidate | None
    door: Doorway

    @property
    def is_class(self) -> bool:
        return self.door.session is not None and self.door.session.plan.session_kind == "training_class"

    @property
    def admitted(self) -> bool:
        return self.door.session is not None and self.candidate is not None and self.candidate.candidate_id in self.door.session.admitted

    @property
    def out(self) -> bool:
        """Went out during the exam, not for good, and is back."""
        session = self.door.session
        if session is None or self.candidate is None or session.state is not State.RUNNING:
            return False
        admission = session.admitted.get(self.candidate.candidate_id)
        return admission is not None and admission.left is not None and not admission.left.final

    @property
    def gone(self) -> bool:
        """Of an exam: has left for good."""
        session = self.door.session
        admission = session.admitted.get(self.candidate.candidate_id) if session and self.candidate else None
        return not self.is_class and admission is not None and admission.left is not None and admission.left.final

    @property
    def just_marked(self) -> bool:
        """In a class: signed in, out or back a moment ago, so that this card says nothing new."""
        session, at = self.door.session, self.door.at
        admission = session.admitted.get(self.candidate.candidate_id) if session and self.candidate else None
        if admission is None or at is None or not self.is_class:
            return False
        if admission.left is not None:
            return at.us_since(admission.left.at) < AGAIN_US
        return at.us_since(admission.back or admission.at) < (AGAIN_US if admission.back else SIGN_OUT_US)

    @property
    def signs_out(self) -> bool:
        """In a class that has begun: who is in shows the card again."""
        session = self.door.session
        admission = session.admitted.get(self.candidate.candidate_id) if session and self.candidate else None
        return (self.is_class and session is not None and session.state in (State.RUNNING, State.CLOSING) and admission is not None
                and admission.left is None and not self.just_marked)


Row = tuple[Code, Callable[[Asked], bool]]
ROWS: tuple[Row, ...] = (
    # the doors
    (Code.TOO_EARLY, lambda a: a.door.session is None and _listed(a, a.door.coming) is not None),
    (Code.LEFT, lambda a: a.signs_out),             # out of a class also after its end
    (Code.NOT_OPEN, lambda a: a.door.session is None or a.door.session.state not in (State.CHECKIN, State.RUNNING)),
    # the list
    (Code.WRONG_SESSION, lambda a: not a.is_class and a.candidate is None and _listed(a, a.door.others) is not None),
    (Code.WRONG_ROOM, lambda a: a.candidate is None and _elsewhere(a) is not None),
    (Code.NOT_ON_ROSTER, lambda a: a.candidate is None),
    # the person
    (Code.DUPLICATE, lambda a: a.just_marked),
    (Code.RETURNED, lambda a: a.out),
    (Code.GONE, lambda a: a.gone),
    (Code.DUPLICATE, lambda a: a.admitted),
    (Code.HOLD, lambda a: a.candidate is not None and a.candidate.on_hold),
    # the papers; a class (签到) asks for neither
    (Code.CARD_EXPIRED, lambda a: not a.is_class and a.card is not None and a.card.expired(a.door.today)),
    (Code.THEORY_EXPIRED, lambda a: not a.is_class and _theory_expired(a)),
    (Code.LATE, lambda a: not a.is_class and a.door.late),
    (Code.OK, lambda a: True),
)


def judge_card(card: Identity, door: Doorway) -> Verdict:
    """The verdict on a card that was read. A list made before the card was renewed holds its old number: both are looked for."""
    numbers = tuple(n for n in (card.number, card.former_number) if n)
    known = door.roster.by_number if door.roster else {}
    return _first(Asked(card, numbers, next((known[n] for n in numbers if n in known), None), door))


def judge_number(number: str, door: Doorway) -> Verdict:
    """The verdict on a number that a keyboard reader typed: nobody read the chip, so nothing is known of the card's own dates."""
    return _first(Asked(None, (number,), door.roster.by_number.get(number) if door.roster else None, door))


def judge_by_hand(candidate: Candidate, door: Doorway) -> Verdict:
    """The verdict on a candidate who was looked up on the list."""
    return _first(Asked(None, (candidate.number,), candidate, door))


def judge_unreadable(reason: str) -> Code:
    """The verdict on a card that gave no identity. `reason`: one of `idcheck`'s words."""
    return {"demo": Code.DEMO, "number": Code.BAD_NUMBER}.get(reason, Code.CARD_UNREADABLE)


def _first(asked: Asked) -> Verdict:
    code = next(code for code, applies in ROWS if applies(asked))
    if code is Code.WRONG_ROOM:
        place = _elsewhere(asked)
        return Verdict(code, other_room=place.room_code if place else None, other_start_us=place.start_utc_us if place else None)
    where = {Code.TOO_EARLY: asked.door.coming, Code.WRONG_SESSION: asked.door.others}.get(code)
    return Verdict(code, asked.candidate, _listed(asked, where) if where is not None else None)


def _listed(asked: Asked, lists: Mapping[str, Roster]) -> str | None:
    return next((session for session, roster in lists.items() if any(n in roster.by_number for n in asked.numbers)), None)


def _elsewhere(asked: Asked) -> Elsewhere | None:
    known = asked.door.roster.elsewhere if asked.door.roster else {}
    return next((known[n] for n in asked.numbers if n in known), None)


# ---- theory before practice (R4) --------------------------------------------------------------------------------------

def needs_theory(candidate: Candidate, session_kind: str) -> bool:
    """Whether this is a practical exam: by the session's kind, or by what the list says is examined (实操, K1 to K4)."""
    subject = candidate.subject.upper()
    return session_kind == "exam_practical" or subject.startswith(("实操", "PRACTICAL", "K1", "K2", "K3", "K4"))


def _theory_expired(asked: Asked) -> bool:
    """LIMIT: a list that does not say when the theory was passed is believed: it is the platform's to know."""
    candidate, session = asked.candidate, asked.door.session
    if candidate is None or session is None or candidate.theory_passed_on is None:
        return False
    return needs_theory(candidate, session.plan.session_kind) and asked.door.today > valid_through(candidate.theory_passed_on)


def valid_through(passed_on: date) -> date:
    """The last day on which a theory pass of that day counts: a year later to the day; 29 February becomes 1 March."""
    years, month = divmod(passed_on.month - 1 + THEORY_MONTHS, 12)
    try:
        return passed_on.replace(year=passed_on.year + years, month=month + 1)
    except ValueError:
        return date(passed_on.year + years, month + 2, 1)


# ---- who is on the list, and where --------------------------------------------------------------------------------------

def look_up(roster: Roster, said: str) -> tuple[Candidate, ...]:
    """The candidates whose ID number or admission number ends with what was said; nobody for less than the tails above."""
    tail = said.strip().upper()
    if not tail.isascii() or not tail.isalnum():
        return ()
    return tuple(c for c in roster.candidates if (len(tail) >= NUMBER_TAIL and c.number.endswith(tail))
                 or (len(tail) >= ADMISSION_TAIL and c.admission_no.upper().endswith(tail)))


def seat_of(session: Session, candidate: Candidate) -> str | None:
    """The seat a candidate has, or will have: given here, else the list's; None if there is none, or if somebody else sits there."""
    admission = session.admitted.get(candidate.candidate_id)
    if admission is not None:
        return admission.seat
    seat = session.seats.get(candidate.candidate_id, candidate.seat)
    return None if any(a.seat == seat for a in session.admitted.values()) else seat


def is_seat(text: str) -> bool:
    """Whether a seat can be called so: one to eight letters, digits and dashes, in their plain form (no full-width digits)."""
    return 1 <= len(text) <= 8 and all(c.isalnum() or c == "-" for c in text) and unicodedata.normalize("NFKC", text) == text


def same_seat(one: str | None, other: str | None) -> bool:
    """Whether two ways to write it are one seat: 7, 07 and 7号, a3 and A3."""
    plain = [each.upper().rstrip("号机位").lstrip("0") for each in (one, other) if each is not None]
    return len(plain) == 2 and plain[0] == plain[1]


def owner_of(session: Session, roster: Roster, seat: str, *, late: bool, besides: str = "") -> Candidate | None:
    """Whose seat it is, other than the candidate `besides`: who sits there or, until the cut-off, who is expected there."""
    return next((c for c in roster.candidates
                 if c.candidate_id != besides and same_seat(seat_of(session, c), seat)
                 and (c.candidate_id in session.admitted or not late)), None)


def earliest_leave_min(session: Session) -> int:
    """Minutes after the start before which nobody leaves."""
    told = session.plan.earliest_leave_min
    return EARLIEST_LEAVE_MIN if told is None else told


def may_leave(session: Session, now: Stamp) -> bool:
    """Whether the earliest moment to leave has come."""
    return session.started is not None and now.us_since(session.started.at) >= earliest_leave_min(session) * 60 * US
