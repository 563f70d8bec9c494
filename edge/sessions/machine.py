"""Which fact may follow which. One table, two rules.

1. A session's fact that the table does not list for the session's state raises `IllegalStep` and changes nothing.
2. What the table allows may still contradict what has happened (a candidate twice, a seat twice, two live sessions): `_contradiction`
   names it, and that too raises `IllegalStep`.

`step` is pure: the room folds its journal with it at start and calls it before each append, so that only possible histories are
written. Live guards (bytes on disk in the last two seconds, PINs, hold times) are not here: they live in the Room's verbs.
`docs/design/states.md` is printed from TABLE (`python -m edge.sessions.machine`); a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from edge.clock import Stamp
from edge.sessions import events as e
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
_LOOKED_AT: dict[type[e.Event], State | None] = {e.FootageViewed: None, e.SessionExported: None}
_BOX: dict[type[e.Event], State | None] = {e.ClockStepped: None, e.StreamImpaired: None, e.StreamRestored: None, e.PlaybackProbed: None}
"""Facts of the box that stand among those of the live session, if there is one."""

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
        e.ExamStarted: State.RUNNING, e.ExamEnded: State.CLOSING, **_ANSWERS, **_LOOKED_AT, **_BOX,
    },
    State.RUNNING: {
        e.StaffPresent: None, e.CandidateAdmitted: None, e.AdmissionRefused: None, e.SegmentStored: None,
        e.ExamEnded: State.CLOSING, **_ANSWERS, **_LOOKED_AT, **_BOX,
    },
    State.CLOSING: {
        e.StaffPresent: None, e.AdmissionRefused: None, e.SegmentStored: None,
        e.SealOrdered: State.SEALING, **_ANSWERS, **_LOOKED_AT, **_BOX,
    },
    State.SEALING: {
        e.SegmentStored: None, e.GapDeclared: None, e.Sealed: State.SEALED, **_ANSWERS, **_LOOKED_AT, **_BOX,
    },
    State.SEALED: {
        e.SegmentStored: None, e.GapDeclared: None, e.SessionAmended: None, e.ManifestSigned: None, **_ANSWERS, **_LOOKED_AT,
    },
    State.CANCELLED: {},
}


class IllegalStep(Exception):
    """This fact cannot follow what has happened. Nothing was written. `word` names the reason for the page."""

    def __init__(self, word: str, detail: str) -> None:
        super().__init__(detail)
        self.word = word


@dataclass(frozen=True, slots=True)
class Admission:
    """A candidate who was let in."""

    candidate_id: str
    subject: str
    at: Stamp
    method: str
    seat: str | None


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
    revisions: tuple[Revision, ...] = ()
    late_segments: int = 0                  # stored since the last revision's books were closed

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
    session = replace(_apply(session, event), state=after)
    state = replace(state, sessions={**state.sessions, session.id: session})
    return _room_totals(state, session, event)


def _contradiction(state: RoomState, session: Session, event: e.Event) -> str | None:
    match event:
        case e.PreflightBegun() if state.live is not None:
            return "another-session-is-live"
        case e.CheckinOpened():
            if state.live is not None:
                return "another-session-is-live"
            if session.roster is None:
                return "no-roster"
            if event.session_seq != state.opened_total + 1:
                return "wrong-session-seq"
        case e.StaffPresent() if session.plan.staff.get(event.staff_id) != event.role:
            return "not-planned-for-this-session"
        case e.CandidateAdmitted():
            if event.candidate_id in session.admitted or any(a.subject == event.subject for a in session.admitted.values()):
                return "already-in"
            if event.seat is not None and any(a.seat == event.seat for a in session.admitted.values()):
                return "seat-taken"
        case e.Sealed() if event.revision != 1:
            return "wrong-revision"
        case e.SessionAmended() if event.revision != len(session.revisions) + 1 or session.revisions[-1].digest is None:
            return "wrong-revision"
        case e.ManifestSigned() if not session.revisions or session.revisions[-1] != Revision(event.revision):
            return "wrong-revision"
    return None


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
            admission = Admission(event.candidate_id, event.subject, event.at, event.method, event.seat)
            return replace(session, admitted={**session.admitted, event.candidate_id: admission})
        case e.AdmissionRefused() if event.code not in (Code.DUPLICATE, Code.NOT_OPEN):      # those turn nobody away
            return replace(session, refusals=session.refusals + 1)
        case e.ExamStarted():
            return replace(session, started=event)
        case e.ExamEnded():
            return replace(session, ended=event)
        case e.SealOrdered():
            return replace(session, seal_order=event)
        case _:
            return _apply_books(session, event)


def _apply_books(session: Session, event: e.Event) -> Session:
    """Facts of signing, sealing and answering."""
    match event:
        case e.OpenSigned():
            return replace(session, open_digest=event.digest)
        case e.SegmentStored() if session.sealed is not None:
            return replace(session, late_segments=session.late_segments + 1)
        case e.Sealed():
            return replace(session, sealed=event, revisions=(Revision(1),), late_segments=0)
        case e.SessionAmended():
            return replace(session, revisions=(*session.revisions, Revision(event.revision)), late_segments=0)
        case e.ManifestSigned():
            return replace(session, revisions=(*session.revisions[:-1], Revision(event.revision, event.digest)))
        case e.ReceiptVerified(answers="session-open"):
            return replace(session, open_receipt=event.receipt_sha256)
        case e.ReceiptVerified():
            return _answer(session, event.digest, verdict=event.verdict, receipt_sha256=event.receipt_sha256,
                           reasons=event.reasons, receipt_refused=None)
        case e.ReceiptRefused():
            return _answer(session, event.digest, receipt_refused=event.reason)
        case _:
            return session


def _answer(session: Session, digest: str, **change: Any) -> Session:
    return replace(session, revisions=tuple(replace(r, **change) if r.digest == digest else r for r in session.revisions))


def _room_totals(state: RoomState, session: Session, event: e.Event) -> RoomState:
    live = session.id if session.live else None if state.live == session.id else state.live
    state = replace(state, live=live)
    match event:
        case e.CheckinOpened():
            return replace(state, opened_total=state.opened_total + 1)
        case e.ClockStepped() | e.StreamImpaired() | e.StreamRestored() | e.PlaybackProbed():
            return _device_fact(state, event)
        case e.Sealed():
            return replace(state, closed_total=state.closed_total + 1)
        case e.ManifestSigned():
            return replace(state, last_manifest=event.digest, last_manifest_receipt=None)
        case e.ReceiptVerified() if event.digest == state.last_manifest:
            return replace(state, last_manifest_receipt=event.receipt_sha256)
        case _:
            return state


def _device_fact(state: RoomState, event: e.Event) -> RoomState:
    """Facts of the box itself are legal always."""
    match event:
        case e.DaemonStarted():
            return replace(state, started=event, first_started=state.first_started or event)
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
        case e.ClockStepped():
            return replace(state, clock_steps=(*state.clock_steps, event)[-100:])
        case e.StreamImpaired() | e.StreamRestored() | e.PlaybackProbed():
            return _watched(state, event)
        case e.AdmissionRefused() | e.IdleFootageExpired():
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
