"""Which fact may follow which. One table, two rules.

1. A session's fact that the table does not list for the session's state raises `IllegalStep` and changes nothing.
2. What the table allows may still contradict what has happened (a candidate twice, a seat twice, two live sessions): `_contradiction`
   names it, and that too raises `IllegalStep`.

`step` is pure: the room folds its journal with it at start and calls it before each append, so that only possible histories are
written. Live guards (bytes on disk in the last two seconds, PINs, hold times) are not here: they live in the Room's verbs.
`docs/design/states.md` is printed from TABLE (`python -m edge.sessions.machine`); a test compares.
(More than 400 lines: the table, what contradicts it and what follows from each fact are read together.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from edge.clock import Stamp
from edge.sessions import events as e
from edge.sessions import incidents, policy
from edge.sessions.roster import Code


class State(StrEnum):
    """Where a session stands. Uploading, accepted and rejected are states of a manifest revision, not of the session."""

    PLANNED = "planned"
    PREFLIGHT = "preflight"
    CHECKIN = "checkin"
    RUNNING = "running"
    CLOSING = "closing"
    SEALING = "sealing"
    SEALED = "sealed"
    CANCELLED = "cancelled"


LIVE = frozenset({State.CHECKIN, State.RUNNING, State.CLOSING, State.SEALING})
"""From the opened doors until the books are closed: at most one session of the room is here."""

_ANSWERS: dict[type[e.Event], State | None] = {e.OpenSigned: None, e.ReceiptVerified: None, e.ReceiptRefused: None}
_LOOKED_AT: dict[type[e.Event], State | None] = {e.FootageViewed: None, e.ExportBegun: None, e.SessionExported: None}
_BOX: dict[type[e.Event], State | None] = {
    e.ClockStepped: None, e.ClockRead: None, e.StreamImpaired: None, e.StreamRestored: None, e.PlaybackProbed: None,
    e.StreamLost: None, e.StreamBack: None, e.ReaderLost: None, e.ReaderBack: None}
"""Facts of the box that stand among those of the live session, if there is one."""

_ARCHIVED: dict[type[e.Event], State | None] = {e.SessionArchived: None, e.ArchiveMismatch: None}
_KEEPING: dict[type[e.Event], State | None] = {e.HoldPlaced: None, e.HoldReleased: None, e.RetentionLengthened: None,
                                               e.FootageDisposed: None, e.DispositionSigned: None}
_DOUBTS: dict[type[e.Event], State | None] = {e.FaceCompared: None, e.IdentityDoubted: None, e.DoubtSigned: None, e.DoubtSettled: None}
_INCIDENTS: dict[type[e.Event], State | None] = {e.IncidentReported: None, e.IncidentSettled: None}
_ATTENDANCE: dict[type[e.Event], State | None] = {e.SeatAssigned: None, e.AttendanceCorrected: None, **_DOUBTS}

TABLE: Mapping[State, Mapping[type[e.Event], State | None]] = {
    # None: allowed, and the state stays
    State.PLANNED: {
        e.SessionPlanned: None, e.RosterAccepted: None, e.RosterRefused: None,
        e.PreflightBegun: State.PREFLIGHT, e.SessionCancelled: State.CANCELLED,
    },
    State.PREFLIGHT: {
        e.SessionPlanned: None, e.RosterAccepted: None, e.RosterRefused: None,
        e.StaffPresent: None, e.ExitsChecked: None, e.WaiverGranted: None,
        e.CheckinOpened: State.CHECKIN, e.SessionCancelled: State.CANCELLED,
    },
    State.CHECKIN: {
        e.StaffPresent: None, e.CandidateAdmitted: None, e.AdmissionRefused: None, e.SegmentStored: None,
        e.ExamStarted: State.RUNNING, e.ExamEnded: State.CLOSING, **_ATTENDANCE, **_INCIDENTS, **_ANSWERS,
        **_LOOKED_AT, **_BOX,
    },
    State.RUNNING: {
        e.StaffPresent: None, e.CandidateAdmitted: None, e.AdmissionRefused: None, e.SegmentStored: None,
        e.CandidateLeft: None, e.CandidateReturned: None, e.ExamEnded: State.CLOSING, **_ATTENDANCE, **_INCIDENTS, **_ANSWERS,
        **_LOOKED_AT, **_BOX,
    },
    State.CLOSING: {
        e.StaffPresent: None, e.AdmissionRefused: None, e.SegmentStored: None,
        e.SealOrdered: State.SEALING, e.CandidateLeft: None, e.AttendanceCorrected: None, **_DOUBTS, **_INCIDENTS, **_ANSWERS,
        **_LOOKED_AT, **_BOX,
    },
    State.SEALING: {
        e.SegmentStored: None, e.GapDeclared: None, e.HoldPlaced: None, e.Sealed: State.SEALED, **_ANSWERS, **_LOOKED_AT, **_BOX,
    },
    State.SEALED: {
        e.SegmentStored: None, e.GapDeclared: None, e.SessionAmended: None, e.ManifestSigned: None, e.AttendanceCorrected: None,
        **_ANSWERS, **_LOOKED_AT, **_ARCHIVED, **_KEEPING,
    },
    State.CANCELLED: {},
}


class IllegalStep(Exception):
    """This fact cannot follow what has happened. Nothing was written. `word` names the reason for the page."""

    def __init__(self, word: str, detail: str) -> None:
        super().__init__(detail)
        self.word = word


@dataclass(frozen=True, slots=True)
class Doubt:
    """An identity to verify (存疑). `signed`: who compared, in order; `settled`: the chief's word, None while it is open."""

    code: str
    at: Stamp
    signed: tuple[str, ...] = ()
    settled: e.DoubtSettled | None = None

    @property
    def open(self) -> bool:
        return self.settled is None


@dataclass(frozen=True, slots=True)
class Admission:
    """A candidate who was let in. `seat` moves with SeatAssigned; `left`: the mark of who is out now; `fact`: as it was written."""

    candidate_id: str
    subject: str
    at: Stamp
    method: str                                             # id_card, manual, corrected
    seat: str | None
    fact: e.CandidateAdmitted | e.AttendanceCorrected | None = None
    doubt: Doubt | None = None
    left: e.CandidateLeft | None = None
    back: Stamp | None = None                               # when the person last came back in


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that happened, and what became of it (None: it waits for signatures, if it needs any)."""

    fact: e.IncidentReported
    settled: e.IncidentSettled | None = None

    @property
    def open(self) -> bool:
        """Whether two must still sign, or the chief dismiss it, before the session can be sealed."""
        return self.settled is None and incidents.needs_two(self.fact.code)

    @property
    def stands(self) -> bool:
        return self.settled is None or self.settled.outcome != "dismissed"


@dataclass(frozen=True, slots=True)
class Revision:
    """A manifest revision and what the platform said of it."""

    number: int
    digest: str | None = None               # None: ordered, not yet signed
    verdict: str | None = None              # accepted, rejected; None: no verified receipt yet
    receipt_sha256: str | None = None
    reasons: tuple[str, ...] = ()
    receipt_refused: str | None = None      # why the last answer proved nothing


@dataclass(frozen=True, slots=True)
class Session:
    """What the journal says of one session."""

    id: str
    state: State
    plan: e.SessionPlanned
    roster: e.RosterAccepted | None = None
    roster_refused: str | None = None       # why the newest roster could not be trusted
    present: Mapping[str, str] = field(default_factory=dict)        # staff_id -> role
    exits: e.ExitsChecked | None = None
    waivers: tuple[e.WaiverGranted, ...] = ()
    opened: e.CheckinOpened | None = None
    open_digest: str | None = None
    open_receipt: str | None = None
    started: e.ExamStarted | None = None
    ended: e.ExamEnded | None = None
    seal_order: e.SealOrdered | None = None
    sealed: e.Sealed | None = None
    admitted: Mapping[str, Admission] = field(default_factory=dict)  # candidate_id -> admission
    refusals: int = 0
    faces: Mapping[str, e.FaceCompared] = field(default_factory=dict)   # candidate_id -> the newest advice
    turned_away: Mapping[str, str] = field(default_factory=dict)    # candidate_id -> the last code; whoever came in later is not here
    seats: Mapping[str, str] = field(default_factory=dict)           # candidate_id -> the seat given in place of the list's
    corrections: tuple[e.AttendanceCorrected, ...] = ()
    incidents: tuple[Incident, ...] = ()    # by number
    clock_read: Stamp | None = None         # when the clock was last read into the journal since the opening
    late_corrections: int = 0               # made since the last revision's books were closed
    revisions: tuple[Revision, ...] = ()
    late_segments: int = 0                  # stored since the last revision's books were closed
    kept_until: str | None = None           # YYYY-MM-DD: the latest of what sealing, receipts and people said; None before sealing
    holds: Mapping[str, e.HoldPlaced] = field(default_factory=dict)         # hold_id -> hold that stands
    disposed: e.FootageDisposed | None = None
    disposition: str | None = None          # digest of the signed record
    disposition_receipt: str | None = None

    @property
    def live(self) -> bool:
        return self.state in LIVE

    @property
    def chief(self) -> str | None:
        """staff_id of the plan's chief."""
        return next((staff for staff, role in self.plan.staff.items() if role == "chief"), None)

    @property
    def proctors_present(self) -> int:
        return sum(role == "proctor" for role in self.present.values())

    @property
    def open_incidents(self) -> tuple[Incident, ...]:
        """What still wants its signatures."""
        return tuple(each for each in self.incidents if each.open)

    @property
    def open_doubts(self) -> tuple[Admission, ...]:
        """Who was let in and is not yet verified nor handed on."""
        return tuple(a for a in self.admitted.values() if a.doubt is not None and a.doubt.open)

    def covers(self, start: Stamp, end: Stamp) -> bool:
        """Whether a stretch of footage overlaps the session's interval [CheckinOpened, SealOrdered]."""
        if self.opened is None or end.us_since(self.opened.at) <= 0:
            return False
        return self.seal_order is None or self.seal_order.at.us_since(start) > 0


@dataclass(frozen=True, slots=True)
class RoomState:
    """The fold of the whole journal: what is so in this room."""

    sessions: Mapping[str, Session] = field(default_factory=dict)
    live: str | None = None
    opened_total: int = 0
    closed_total: int = 0
    last_manifest: str | None = None
    last_manifest_receipt: str | None = None
    started: e.DaemonStarted | None = None
    first_started: e.DaemonStarted | None = None
    reader_lost: e.ReaderLost | None = None
    reader_module: str | None = None
    streams_lost: Mapping[str, e.StreamLost] = field(default_factory=dict)
    impaired: Mapping[str, Mapping[str, e.StreamImpaired]] = field(default_factory=dict)     # stream -> rule -> since when
    probed: Mapping[str, e.PlaybackProbed] = field(default_factory=dict)                     # stream -> the newest playback probe
    platform_lost: e.PlatformLost | None = None
    clock_steps: tuple[e.ClockStepped, ...] = ()
    archive_lost: e.ArchiveLost | None = None
    witness: e.ReceiptVerified | None = None                # the receipt with the latest time: what the platform last signed as now
    disposal_halted: e.DisposalHalted | None = None
    approved: Mapping[str, str] = field(default_factory=dict)       # session -> who agreed that it goes
    space_low: e.SpaceLow | None = None
    rollovers: tuple[e.KeyRolled, ...] = ()                 # the device's certificates, each named by the one before it
    rollover_receipts: Mapping[str, e.ReceiptVerified] = field(default_factory=dict)         # digest of a key-rollover -> its receipt
    key_replaced: e.KeyReplaced | None = None               # the last change of key that no key-rollover tells of
    certificate: e.CertificateExpiring | None = None        # the last warning about the certificate in force
    signer_lost: e.SignerLost | None = None
    hw_counter: int | None = None                           # what the hardware counter should say; None: no session was opened with one
    counter_lost: e.CounterLost | None = None


def step(state: RoomState, event: e.Event) -> RoomState:
    """The room after `event`. Raises IllegalStep, and then nothing has changed."""
    if event.session is None:
        return _device_fact(state, event)
    session = state.sessions.get(event.session)
    if session is None:
        if not isinstance(event, e.SessionPlanned):
            raise IllegalStep("unknown-session", f"{event.kind} for an unknown session")
        session = Session(event.session, State.PLANNED, event)
    elif type(event) not in TABLE[session.state]:
        raise IllegalStep("not-now", f"{event.kind} cannot happen while the session is {session.state}")
    if contradiction := _contradiction(state, session, event):
        raise IllegalStep(contradiction, f"{event.kind} contradicts what has happened: {contradiction}")
    after = TABLE[session.state].get(type(event)) or session.state
    session = _apply(session, event)
    if session.state is not after:
        session = replace(session, state=after)
    if isinstance(state.sessions, _Folding):
        state.sessions[session.id] = session
    else:
        state = replace(state, sessions={**state.sessions, session.id: session})
    return _room_totals(state, session, event)


class _Folding(dict[str, Session]):
    """The sessions while a journal is folded: changed in place, because nobody else has seen them yet (years hold thousands)."""


def fold(facts: Iterable[e.Event], since: RoomState | None = None) -> RoomState:
    """The room after all of `facts`: `step` upon `step` from the empty room or `since`. IllegalStep names the first that cannot be."""
    state = since or RoomState()
    for after in walk(facts, since):
        state = after
    return replace(state, sessions=dict(state.sessions))


def walk(facts: Iterable[e.Event], since: RoomState | None = None) -> Iterator[RoomState]:
    """The room after each of `facts`, as `fold`. All of them share one dict of sessions, which grows."""
    state = replace(since or RoomState(), sessions=_Folding(since.sessions if since else {}))
    for fact in facts:
        state = step(state, fact)
        yield state


def _contradiction(state: RoomState, session: Session, event: e.Event) -> str | None:
    match event:
        case e.PreflightBegun() if state.live is not None:
            return "another-session-is-live"
        case e.RosterAccepted(source="import"):
            return _import_conflict(session, event)
        case e.CheckinOpened():
            if state.live is not None:
                return "another-session-is-live"
            if session.roster is None:
                return "no-roster"
            if event.session_seq != state.opened_total + 1:
                return "wrong-session-seq"
            if event.hw_counter is not None and event.hw_counter <= (state.hw_counter or 0):
                return "wrong-hw-counter"
        case e.StaffPresent() if session.plan.staff.get(event.staff_id) != event.role:
            return "not-planned-for-this-session"
        case e.CandidateAdmitted():
            if event.candidate_id in session.admitted or any(a.subject == event.subject for a in session.admitted.values()):
                return "already-in"
            return _seat_conflict(session, event.candidate_id, event.seat) or _unvouched(session, event)
        case (e.SeatAssigned() | e.CandidateLeft() | e.CandidateReturned() | e.IdentityDoubted() | e.DoubtSigned() | e.DoubtSettled()
              | e.AttendanceCorrected()):
            return _attendance_conflict(session, event)
        case e.FaceCompared() if event.candidate_id not in session.admitted:
            return "not-in"
        case e.IncidentReported() | e.IncidentSettled():
            return _incident_conflict(session, event)
        case e.HoldPlaced() | e.HoldReleased() | e.RetentionLengthened() | e.FootageDisposed() | e.DispositionSigned():
            return _keeping_conflict(session, event)
        case e.Sealed() if event.revision != 1:
            return "wrong-revision"
        case e.SessionAmended() if event.revision != len(session.revisions) + 1 or session.revisions[-1].digest is None:
            return "wrong-revision"
        case e.ManifestSigned() if not session.revisions or session.revisions[-1] != Revision(event.revision):
            return "wrong-revision"
    return None


def _seat_conflict(session: Session, candidate_id: str, seat: str | None) -> str | None:
    """Never two on one seat: neither two who are in, nor two to whom it was given."""
    others = [a.seat for a in session.admitted.values() if a.candidate_id != candidate_id]
    others += [given for each, given in session.seats.items() if each != candidate_id and each not in session.admitted]
    return "seat-taken" if seat is not None and seat in others else None


def _keeping_conflict(session: Session, event: e.Event) -> str | None:
    """Nothing unexpired and nothing on hold is ever given up; a date only moves away."""
    match event:
        case e.DispositionSigned():
            return "not-disposed" if session.disposed is None or session.disposition is not None else None
        case _ if session.disposed is not None:
            return "disposed-already"
        case e.HoldPlaced() if event.hold_id in session.holds:
            return "held-already"
        case e.HoldReleased() if event.hold_id not in session.holds:
            return "no-such-hold"
        case e.RetentionLengthened() if not policy.is_date(event.keep_until) or event.keep_until <= (session.kept_until or ""):
            return "not-later"
        case e.FootageDisposed() if session.holds:
            return "on-hold"
        case e.FootageDisposed() if session.kept_until is None or not policy.is_date(event.day) or event.day <= session.kept_until:
            return "kept-longer"
    return None


def _unvouched(session: Session, event: e.CandidateAdmitted) -> str | None:
    """An exception has a name behind it; somebody who is not on the list has two, the chief's the first, and a reason."""
    if event.method == "manual" and not (event.exception and event.by):
        return "exception-needed"
    if event.exception and session.plan.staff.get(event.by or "") not in ("chief", "proctor"):
        return "not-planned-for-this-session"
    if event.exception == Code.NOT_ON_ROSTER and session.plan.session_kind == "training_class":     # 签到: a class may be joined
        return "reason-needed" if not event.reason else None
    if event.exception == Code.NOT_ON_ROSTER:
        return _not_by_two(session, event.by, event.second, event.reason)
    return None


def _import_conflict(session: Session, event: e.RosterAccepted) -> str | None:
    """A list from a file (R5) never takes the place of a signed one, and a drill has its own."""
    if session.plan.session_kind == "drill":
        return "drill-has-its-list"
    if session.roster is not None and session.roster.source == "platform":
        return "signed-roster-stands"
    return _not_by_two(session, event.by, event.second, event.reason)


def _not_by_two(session: Session, by: str | None, second: str | None, reason: str | None) -> str | None:
    """What the chief does only with another of the session's staff, and with a reason."""
    if session.plan.staff.get(by or "") != "chief":
        return "chief-only"
    if session.plan.staff.get(second or "") not in ("chief", "proctor") or second == by or not reason:
        return "second-person-and-reason"
    return None


def _attendance_conflict(session: Session, event: e.Event) -> str | None:
    admission = session.admitted.get(getattr(event, "candidate_id", ""))
    match event:
        case e.SeatAssigned():
            return _seat_conflict(session, event.candidate_id, event.seat)
        case e.AttendanceCorrected() if session.plan.staff.get(event.by) != "chief":
            return "chief-only"
        case e.AttendanceCorrected(result="present"):
            if admission or any(a.subject == event.subject for a in session.admitted.values()):
                return "already-in"
            return _seat_conflict(session, event.candidate_id, event.seat)
        case _ if admission is None:
            return "not-in"
        case e.CandidateLeft() if admission.left:
            return "already-out"
        case e.CandidateReturned() if not admission.left:
            return "not-out"
        case e.IdentityDoubted() if admission.doubt and admission.doubt.open:
            return "doubted-already"
        case e.DoubtSigned() | e.DoubtSettled():
            return _doubt_conflict(session, admission.doubt, event)
    return None


def _doubt_conflict(session: Session, doubt: Doubt | None, event: e.DoubtSigned | e.DoubtSettled) -> str | None:
    if doubt is None or not doubt.open:
        return "no-doubt"
    if isinstance(event, e.DoubtSigned):
        if session.plan.staff.get(event.staff_id) not in ("chief", "proctor"):
            return "not-planned-for-this-session"
        return "signed-already" if event.staff_id in doubt.signed else None
    if session.plan.staff.get(event.by) != "chief":
        return "chief-only"
    return "two-must-sign" if event.outcome == "cleared" and len(doubt.signed) < 2 else None


def _incident_conflict(session: Session, event: e.IncidentReported | e.IncidentSettled) -> str | None:
    """Numbers run from 1; two sign and say what the candidate said to it, or the chief dismisses it with a reason: once."""
    if session.plan.staff.get(event.by) not in ("chief", "proctor"):
        return "not-planned-for-this-session"
    if isinstance(event, e.IncidentReported):
        return "wrong-incident" if event.number != len(session.incidents) + 1 or event.code not in incidents.CODES else None
    if not 1 <= event.number <= len(session.incidents):
        return "no-such-incident"
    incident = session.incidents[event.number - 1]
    if incident.settled is not None:
        return "incident-settled"
    if event.outcome == "dismissed":
        return "chief-only" if session.plan.staff.get(event.by) != "chief" else None if event.reason else "reason-needed"
    if session.plan.staff.get(event.second or "") not in ("chief", "proctor") or event.second == event.by:
        return "two-must-sign-incident"
    return "candidate-not-told" if incident.fact.candidate_id and event.informed not in incidents.INFORMED else None


def _apply(session: Session, event: e.Event) -> Session:
    match event:
        case e.SessionPlanned():            # whoever is no longer planned, or in another role, has to sign in anew
            return replace(session, plan=event, present={s: r for s, r in session.present.items() if event.staff.get(s) == r})
        case e.RosterAccepted():
            return replace(session, roster=event, roster_refused=None)
        case e.RosterRefused():
            return replace(session, roster_refused=event.reason)
        case e.StaffPresent():
            return replace(session, present={**session.present, event.staff_id: event.role})
        case e.ExitsChecked():
            return replace(session, exits=event)
        case e.WaiverGranted():
            return replace(session, waivers=(*session.waivers, event))
        case e.CheckinOpened():
            return replace(session, opened=event)
        case e.CandidateAdmitted():
            doubt = Doubt(event.exception or "", event.at) if event.method == "manual" else None
            if event.candidate_id in session.turned_away:
                session = replace(session, turned_away={c: code for c, code in session.turned_away.items() if c != event.candidate_id})
            return _seated(session, Admission(event.candidate_id, event.subject, event.at, event.method, event.seat, event, doubt))
        case e.SeatAssigned() | e.CandidateLeft() | e.CandidateReturned() | e.IdentityDoubted() | e.DoubtSigned() | e.DoubtSettled():
            return _apply_attendance(session, event)
        case e.AttendanceCorrected():
            return _corrected(session, event)
        case e.AdmissionRefused() if event.code not in (Code.DUPLICATE, Code.NOT_OPEN):      # those turn nobody away
            known = {event.candidate_id: event.code} if event.candidate_id and event.candidate_id not in session.admitted else {}
            return replace(session, refusals=session.refusals + 1, turned_away={**session.turned_away, **known})
        case e.FaceCompared():
            return replace(session, faces={**session.faces, event.candidate_id: event})
        case e.ClockRead() | e.IncidentReported() | e.IncidentSettled():
            return _noted(session, event)
        case e.ExamStarted():
            return replace(session, started=event)
        case e.ExamEnded():
            return replace(session, ended=event)
        case e.SealOrdered():
            return replace(session, seal_order=event)
        case _:
            return _apply_books(session, event)


def _noted(session: Session, event: e.ClockRead | e.IncidentReported | e.IncidentSettled) -> Session:
    match event:
        case e.ClockRead():
            return replace(session, clock_read=event.at)
        case e.IncidentReported():
            return replace(session, incidents=(*session.incidents, Incident(event)))
        case e.IncidentSettled():
            return replace(session, incidents=tuple(replace(each, settled=event) if each.fact.number == event.number else each
                                                    for each in session.incidents))


def _seated(session: Session, admission: Admission) -> Session:
    return replace(session, admitted={**session.admitted, admission.candidate_id: admission})


def _corrected(session: Session, event: e.AttendanceCorrected) -> Session:
    late = session.late_corrections + (session.sealed is not None)
    session = replace(session, corrections=(*session.corrections, event), late_corrections=late)
    if event.result == "present":       # not seen at the door: to verify, like whoever came in without a card
        return _seated(session, Admission(event.candidate_id, event.subject or "", event.at, "corrected", event.seat, event,
                                          Doubt(Code.NO_CARD, event.at)))
    return replace(session, admitted={each: a for each, a in session.admitted.items() if each != event.candidate_id})


def _apply_attendance(session: Session, event: e.Event) -> Session:
    """Facts about one candidate: the seat, going out and coming back, doubts."""
    admission = session.admitted.get(getattr(event, "candidate_id", ""))
    if isinstance(event, e.SeatAssigned):
        session = replace(session, seats={**session.seats, event.candidate_id: event.seat})
        return _seated(session, replace(admission, seat=event.seat)) if admission else session
    if admission is None:
        return session
    doubt = admission.doubt
    match event:
        case e.CandidateLeft():
            return _seated(session, replace(admission, left=event))
        case e.CandidateReturned():
            return _seated(session, replace(admission, left=None, back=event.at))
        case e.IdentityDoubted():
            return _seated(session, replace(admission, doubt=Doubt(event.code, event.at)))
        case e.DoubtSigned() if doubt:
            return _seated(session, replace(admission, doubt=replace(doubt, signed=(*doubt.signed, event.staff_id))))
        case e.DoubtSettled() if doubt:
            return _seated(session, replace(admission, doubt=replace(doubt, settled=event)))
        case _:
            return session


def _apply_books(session: Session, event: e.Event) -> Session:
    """Facts of signing, sealing and answering."""
    match event:
        case e.OpenSigned():
            return replace(session, open_digest=event.digest)
        case e.SegmentStored() if session.sealed is not None:
            return replace(session, late_segments=session.late_segments + 1)
        case e.Sealed():
            return replace(session, sealed=event, revisions=(Revision(1),), late_segments=0,
                           kept_until=policy.later(session.kept_until, event.keep_until))
        case e.SessionAmended():
            return replace(session, revisions=(*session.revisions, Revision(event.revision)), late_segments=0, late_corrections=0)
        case e.ManifestSigned():
            return replace(session, revisions=(*session.revisions[:-1], Revision(event.revision, event.digest)))
        case e.ReceiptVerified(answers="session-open"):
            return replace(session, open_receipt=event.receipt_sha256)
        case e.ReceiptVerified(answers="session-disposition"):
            return replace(session, disposition_receipt=event.receipt_sha256)
        case e.ReceiptVerified():
            session = replace(session, kept_until=policy.later(session.kept_until, event.keep_until))
            return _answer(session, event.digest, verdict=event.verdict, receipt_sha256=event.receipt_sha256,
                           reasons=event.reasons, receipt_refused=None)
        case e.ReceiptRefused():
            return _answer(session, event.digest, receipt_refused=event.reason)
        case _:
            return _apply_keeping(session, event)


def _apply_keeping(session: Session, event: e.Event) -> Session:
    """Facts of keeping, and of what was kept long enough."""
    match event:
        case e.HoldPlaced():
            return replace(session, holds={**session.holds, event.hold_id: event})
        case e.HoldReleased():
            return replace(session, holds={each: hold for each, hold in session.holds.items() if each != event.hold_id})
        case e.RetentionLengthened():
            return replace(session, kept_until=policy.later(session.kept_until, event.keep_until))
        case e.FootageDisposed():
            return replace(session, disposed=event)
        case e.DispositionSigned():
            return replace(session, disposition=event.digest)
        case _:
            return session


def _answer(session: Session, digest: str, **change: Any) -> Session:
    return replace(session, revisions=tuple(replace(r, **change) if r.digest == digest else r for r in session.revisions))


def _room_totals(state: RoomState, session: Session, event: e.Event) -> RoomState:
    live = session.id if session.live else None if state.live == session.id else state.live
    state = _witnessed(state if live == state.live else replace(state, live=live), event)
    match event:
        case e.CheckinOpened():
            counter = state.hw_counter if event.hw_counter is None else event.hw_counter
            return replace(state, opened_total=state.opened_total + 1, hw_counter=counter)
        case _ if type(event) in _BOX:
            return _device_fact(state, event)
        case e.Sealed():
            return replace(state, closed_total=state.closed_total + 1)
        case e.ManifestSigned():
            return replace(state, last_manifest=event.digest, last_manifest_receipt=None)
        case e.ReceiptVerified() if event.digest == state.last_manifest:
            return replace(state, last_manifest_receipt=event.receipt_sha256)
        case _:
            return state


def _witnessed(state: RoomState, event: e.Event) -> RoomState:
    """The latest moment that the platform has signed, and who was disposed of with whose consent."""
    if isinstance(event, e.ReceiptVerified) and (state.witness is None or event.received_utc_us > state.witness.received_utc_us):
        return replace(state, witness=event)
    if isinstance(event, e.FootageDisposed):
        return replace(state, approved={each: by for each, by in state.approved.items() if each != event.session})
    return state


def _key_fact(state: RoomState, event: e.Event) -> RoomState:
    """Facts of the device's key and certificate."""
    match event:
        case e.KeyRolled():
            return replace(state, rollovers=(*state.rollovers, event))
        case e.KeyReplaced():
            return replace(state, key_replaced=event)
        case e.CertificateExpiring():
            return replace(state, certificate=event)
        case e.SignerLost():
            return replace(state, signer_lost=event)
        case _:
            return replace(state, signer_lost=None)


def _device_fact(state: RoomState, event: e.Event) -> RoomState:
    """Facts of the box itself are legal always. As long as there are kinds of them."""
    state = _witnessed(state, event)
    match event:
        case e.DaemonStarted():
            warned = state.certificate if state.certificate and state.certificate.cert_sha256 == event.cert_sha256 else None
            return replace(state, started=event, first_started=state.first_started or event, certificate=warned)
        case e.ReaderLost():
            return replace(state, reader_lost=event)
        case e.ReaderBack():
            return replace(state, reader_lost=None, reader_module=event.module)
        case e.StreamLost():
            return replace(state, streams_lost={**state.streams_lost, event.stream: event})
        case e.StreamBack():
            return replace(state, streams_lost={k: v for k, v in state.streams_lost.items() if k != event.stream})
        case e.PlatformLost():
            return replace(state, platform_lost=event)
        case e.PlatformBack():
            return replace(state, platform_lost=None)
        case e.ArchiveLost() | e.ArchiveBack():
            return replace(state, archive_lost=event if isinstance(event, e.ArchiveLost) else None)
        case e.ClockStepped():
            return replace(state, clock_steps=(*state.clock_steps, event)[-100:])
        case e.StreamImpaired() | e.StreamRestored() | e.PlaybackProbed():
            return _watched(state, event)
        case (e.AdmissionRefused() | e.IdleFootageExpired() | e.CheckpointSigned() | e.ReceiptVerified(answers="device-checkpoint")
              | e.ReceiptRefused(answers="device-checkpoint")):
            return state
        case e.SegmentDamaged() | e.SegmentSound() | e.JournalResumed() | e.ClockRead() | e.CheckpointsLetGo():
            return state
        case e.CounterLost() | e.CounterBack():
            return replace(state, counter_lost=event if isinstance(event, e.CounterLost) else None)
        case e.DisposalHalted() | e.DisposalResumed():
            return replace(state, disposal_halted=event if isinstance(event, e.DisposalHalted) else None)
        case e.DisposalApproved():
            return replace(state, approved={**state.approved, **dict.fromkeys(event.sessions, event.by)})
        case e.SpaceLow() | e.SpaceBack():
            return replace(state, space_low=event if isinstance(event, e.SpaceLow) else None)
        case e.KeyRolled() | e.KeyReplaced() | e.CertificateExpiring() | e.SignerLost() | e.SignerBack():
            return _key_fact(state, event)
        case e.ReceiptVerified(answers="key-rollover"):
            return replace(state, rollover_receipts={**state.rollover_receipts, event.digest: event})
        case e.ReceiptRefused(answers="key-rollover"):
            return state
        case _:
            raise IllegalStep("no-session", f"{event.kind} needs a session")


def _watched(state: RoomState, event: e.StreamImpaired | e.StreamRestored | e.PlaybackProbed) -> RoomState:
    """What the watcher has found in the recorded files."""
    if isinstance(event, e.PlaybackProbed):
        return replace(state, probed={**state.probed, event.stream: event})
    standing = {rule: fact for rule, fact in state.impaired.get(event.stream, {}).items() if rule != event.rule}
    if isinstance(event, e.StreamImpaired):
        standing[event.rule] = event
    others = {stream: facts for stream, facts in state.impaired.items() if stream != event.stream}
    return replace(state, impaired={**others, event.stream: standing} if standing else others)


def diagram() -> str:
    """The table as a Mermaid state diagram and a list, for the documents."""
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> planned: SessionPlanned"]
    for state, row in TABLE.items():
        lines += [f"    {state} --> {after}: {kind.__name__}" for kind, after in row.items() if after]
    lines += ["    sealed --> [*]", "    cancelled --> [*]", "```", "", "| state | facts that leave it where it is |", "|---|---|"]
    for state, row in TABLE.items():
        stays = ", ".join(sorted(kind.__name__ for kind, after in row.items() if after is None))
        lines.append(f"| {state} | {stays or '(none)'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(diagram(), end="")
