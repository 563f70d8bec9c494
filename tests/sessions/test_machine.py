"""Which fact may follow which: the whole table as the documents print it, each contradiction, and random histories."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edge.clock import Stamp
from edge.sessions import events as e
from edge.sessions import machine
from edge.sessions.machine import IllegalStep, RoomState, Session, State, step

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/design/states.md").read_text(encoding="utf-8")
AT = Stamp(1_795_672_800_000_000, 5_000_000_000, "boot-1")
STAFF = {"T001": "chief", "T002": "proctor", "T003": "proctor"}
DEVICE_KINDS = {e.DaemonStarted, e.ClockStepped, e.ReaderLost, e.ReaderBack, e.StreamLost, e.StreamBack, e.PlatformLost, e.PlatformBack,
                e.IdleFootageExpired, e.StreamImpaired, e.StreamRestored, e.PlaybackProbed, e.ArchiveLost, e.ArchiveBack}
DEVICE_KINDS |= {e.CheckpointSigned, e.KeyRolled, e.KeyReplaced, e.CertificateExpiring, e.SignerLost, e.SignerBack}
DEVICE_KINDS |= {e.SegmentDamaged, e.SegmentSound, e.JournalResumed, e.ClockRead, e.CounterLost, e.CounterBack, e.CheckpointsLetGo}
DEVICE_KINDS |= {e.DisposalHalted, e.DisposalResumed, e.DisposalApproved, e.SpaceLow, e.SpaceBack}
RANK = {state: rank for rank, state in enumerate(State)}

BODIES: dict[type[e.Event], dict[str, Any]] = {
    e.DaemonStarted: {"version": "1", "sw_sha256": "0", "config_sha256": "0", "device_id": "d", "cert_sha256": "0"},
    e.ClockStepped: {"delta_us": 2_000_000}, e.ReaderLost: {"reason": "gone"}, e.ReaderBack: {"module": "05.01"},
    e.StreamLost: {"stream": "cam-front", "reason": "lost"}, e.StreamBack: {"stream": "cam-front"},
    e.StreamImpaired: {"stream": "cam-front", "rule": "covered", "rules": "rules/1", "since_utc_us": AT.utc_us},
    e.StreamRestored: {"stream": "cam-front", "rule": "covered"},
    e.PlaybackProbed: {"stream": "cam-front", "day": "2026-11-26", "ok": False, "windows": 3, "reason": "digest"},
    e.PlatformLost: {"reason": "timeout"}, e.PlatformBack: {},
    e.SessionPlanned: {"plan_id": "P1", "session_kind": "exam_theory", "title": "t", "scheduled_start_us": AT.utc_us, "duration_min": 120,
                       "staff": STAFF, "min_proctors": 2, "late_cutoff_min": 30, "checkin_open_min": 30,
                       "retention_policy": "RP-SPECIAL-6Y", "plan_sha256": "0", "source": "platform"},
    e.RosterAccepted: {"version": 1, "count": 2, "roster_sha256": "0", "source": "platform"}, e.RosterRefused: {"reason": "signature"},
    e.PreflightBegun: {"by": "T001"}, e.StaffPresent: {"staff_id": "T002", "role": "proctor"}, e.ExitsChecked: {"by": "T002"},
    e.WaiverGranted: {"item": "stream:cam-front", "reason": "r", "by": "T001", "second": "T002"},
    e.SessionCancelled: {"by": "T001", "reason": "r"},
    e.CheckinOpened: {"by": "T001", "session_seq": 1, "streams": {"cam-front": "rtsp"}, "readings": {}, "clock_state": "synced"},
    e.OpenSigned: {"digest": "0pen"},
    e.CandidateAdmitted: {"candidate_id": "C2", "subject": "s2", "method": "id_card", "seat": "02"},
    e.SeatAssigned: {"candidate_id": "C1", "seat": "09", "by": "T002", "reason": "r"},
    e.CandidateLeft: {"candidate_id": "C1", "by": "T002", "final": False},
    e.CandidateReturned: {"candidate_id": "C1", "method": "id_card"},
    e.IdentityDoubted: {"candidate_id": "C1", "code": "E-PHOTO-DOUBT", "by": "T002", "reason": "r"},
    e.DoubtSigned: {"candidate_id": "C1", "staff_id": "T002"},
    e.DoubtSettled: {"candidate_id": "C1", "outcome": "escalated", "by": "T001", "reason": "r"},
    e.AttendanceCorrected: {"candidate_id": "C1", "result": "absent", "by": "T001", "reason": "r"},
    e.FaceCompared: {"candidate_id": "C1", "result": "no-match"},
    e.AdmissionRefused: {"code": "E-LATE"}, e.ExamStarted: {"by": "T001", "age_ms": {"cam-front": 200}},
    e.ExamEnded: {"by": "T001", "outcome": "completed"},
    e.SealOrdered: {"by": "T001", "second": "T002", "statement": "s", "absent": ("C2",)},
    e.SegmentStored: {"stream": "cam-front", "seq": 1, "path": "p", "run": "r", "start_utc_us": 1, "end_utc_us": 2, "start_boot_us": 1,
                      "end_boot_us": 2, "boot_id": "boot-1", "dur_us": 1, "frame_us": 1, "bytes": 1, "sha256": "0",
                      "sidecar_sha256": "0", "codec": "h264", "end_reason": "rotated", "recovered": False, "clock_state": "synced"},
    e.GapDeclared: {"stream": "cam-front", "revision": 1, "from_utc_us": 1, "to_utc_us": 2, "dur_us": 1, "reason": "camera-lost"},
    e.Sealed: {"revision": 1, "opened_total": 1, "closed_total": 1, "keep_until": "2033-05-25", "retention_policy": "RP-SPECIAL-6Y",
               "retention_basis": "b"},
    e.SessionAmended: {"revision": 2, "reason": "segment-recovered", "amends": "m1"},
    e.ManifestSigned: {"revision": 1, "digest": "m1"},
    e.ReceiptVerified: {"answers": "session-manifest", "digest": "m1", "receipt_sha256": "r1", "verdict": "accepted", "platform_seq": 1,
                        "received_utc_us": 1, "revision": 1},
    e.ReceiptRefused: {"answers": "session-manifest", "digest": "m1", "reason": "signature"},
    e.FootageViewed: {"by": "A001", "stream": "cam-front"}, e.SessionExported: {"by": "A001", "files": 1, "bytes": 1},
    e.SegmentDamaged: {"stream": "cam-front", "seq": 1, "path": "p", "what": "digest", "sha256": "0"},
    e.SegmentSound: {"stream": "cam-front", "seq": 1}, e.JournalResumed: {"from_utc_us": 1, "to_utc_us": 2, "why": "restored"},
    e.SessionArchived: {"revision": 1, "bucket": "evid-6y", "objects": 9, "bytes": 9, "retain_until_utc_us": 1},
    e.ArchiveMismatch: {"name": "segments/mic/000001-0123456789abcdef.mp4", "reason": "read-back"},
    e.ArchiveLost: {"reason": "unreachable"}, e.ArchiveBack: {},
    e.ExportBegun: {"by": "A001", "form": "zip", "people": "masked", "export_id": "0", "files": 1, "bytes": 1},
    e.IdleFootageExpired: {"stream": "cam-front", "first_seq": 1, "last_seq": 2, "segments": 2, "bytes": 2},
    e.HoldPlaced: {"hold_id": "H1", "by": "A001", "reason": "r"}, e.HoldReleased: {"hold_id": "H1", "by": "A001", "reason": "r"},
    e.RetentionLengthened: {"keep_until": "2040-01-01", "by": "A001", "reason": "r"},
    e.FootageDisposed: {"policy": "RP-SPECIAL-6Y", "keep_until": "2033-05-25", "day": "2033-05-26", "segments": 2, "bytes": 2,
                        "streams": {"cam-front": 2}, "list_sha256": "0", "witness": "r1", "witness_utc_us": 1},
    e.DispositionSigned: {"digest": "d1"},
    e.DisposalHalted: {"reason": "too-much", "sessions": 1, "bytes": 1}, e.DisposalResumed: {},
    e.DisposalApproved: {"by": "A001", "sessions": ("S1",), "bytes": 1},
    e.SpaceLow: {"reason": "timetable", "free_bytes": 1, "needed_bytes": 2, "foreign_bytes": 0}, e.SpaceBack: {"free_bytes": 9},
}

BODIES |= {
    e.CheckpointSigned: {"digest": "d1", "journal_seq": 1},
    e.KeyRolled: {"digest": "d1", "old_cert_sha256": "0", "new_cert_sha256": "1", "from_session_seq": 2},
    e.KeyReplaced: {"old_cert_sha256": "0", "new_cert_sha256": "1"},
    e.CertificateExpiring: {"cert_sha256": "0", "until_utc_us": 1, "days": 30},
    e.SignerLost: {"reason": "no-answer"}, e.SignerBack: {},
}

READ = {"state": "synced", "source": "chrony", "max_error_us": 900}
BODIES |= {
    e.IncidentReported: {"number": 1, "code": "V1-03", "by": "T002", "detail": "d", "happened_utc_us": 1, "candidate_id": "C1"},
    e.IncidentSettled: {"number": 1, "outcome": "confirmed", "by": "T002", "second": "T003", "informed": "refused"},
    e.CheckpointsLetGo: {"documents": 1, "journal_seq": 1, "manifest": "m1"},
    e.ClockRead: {"clock": READ}, e.CounterLost: {"reason": "ahead", "recorded": 1, "read": 2}, e.CounterBack: {"read": 2},
}

KINDS: list[type[e.Event]] = [e.KINDS[name] for name in sorted(e.KINDS)]

WAY: tuple[tuple[type[e.Event], dict[str, Any]], ...] = (
    (e.SessionPlanned, {}), (e.RosterAccepted, {}), (e.PreflightBegun, {}), (e.CheckinOpened, {}),
    (e.CandidateAdmitted, {"candidate_id": "C1", "subject": "s1", "seat": "01"}), (e.ExamStarted, {}), (e.ExamEnded, {}),
    (e.SealOrdered, {}), (e.Sealed, {}),
)


ABOUT_SOMEBODY_IN = {e.FaceCompared, e.IdentityDoubted, e.DoubtSigned, e.DoubtSettled, e.AttendanceCorrected}
FIRST: dict[type[e.Event], tuple[type[e.Event], ...]] = {
    e.CandidateReturned: (e.CandidateLeft,), e.DoubtSigned: (e.IdentityDoubted,), e.DoubtSettled: (e.IdentityDoubted,),
    e.HoldReleased: (e.HoldPlaced,), e.IncidentSettled: (e.IncidentReported,), e.DispositionSigned: (e.FootageDisposed,)}
"""What must have happened before a fact makes sense."""


def fact(kind: type[e.Event], session: str | None = "S1", **changed: Any) -> e.Event:
    return kind(at=AT, session=session, **{**BODIES[kind], **changed})


C1_IN = fact(e.CandidateAdmitted, candidate_id="C1", subject="s1", seat="01")
BY_HAND = {"candidate_id": "C5", "subject": "s5", "seat": "05", "method": "manual", "exception": "E-NO-CARD", "by": "T002"}
OFF = {"candidate_id": "OFF-9", "subject": "s9", "seat": None, "exception": "E-NOT-ON-ROSTER", "by": "T001", "second": "T002",
       "reason": "r"}


def then(state: State, *facts: e.Event) -> RoomState:
    """The room with a session in `state`, and then these facts."""
    room = at_state(state)
    for each in facts:
        room = step(room, each)
    return room


def at_state(state: State, session: str = "S1", start: RoomState | None = None) -> RoomState:
    """The room with a session in `state`, reached by legal facts alone."""
    room = start or RoomState()
    called_off: tuple[tuple[type[e.Event], dict[str, Any]], ...] = ((e.SessionPlanned, {}), (e.SessionCancelled, {}))
    for kind, changed in called_off if state is State.CANCELLED else WAY:
        if kind is e.CheckinOpened:
            changed = {"session_seq": room.opened_total + 1}
        room = step(room, fact(kind, session, **changed))
        if room.sessions[session].state is state and not (state is State.PLANNED and room.sessions[session].roster is None):
            return room
    raise AssertionError(state)


# ---- the table ---------------------------------------------------------------------------------------------------------

def printed_table() -> dict[State, dict[str, State]]:
    """The table as docs/design/states.md has it: what a reader is promised, whatever the code's own TABLE says."""
    table: dict[State, dict[str, State]] = {state: {} for state in State}
    for before, after, kind in re.findall(r"^ {4}([a-z]+) --> ([a-z]+): (\w+)$", PAGE, re.M):
        table[State(before)][kind] = State(after)
    for state, kinds in re.findall(r"^\| ([a-z]+) \| ([A-Z][\w, ]+|\(none\)) \|$", PAGE, re.M):
        table[State(state)] |= {kind: State(state) for kind in kinds.split(", ") if kind != "(none)"}
    return table


def test_the_documents_show_this_table() -> None:
    block = re.search(r"<!-- table: begin -->\n(.*)<!-- table: end -->\n", PAGE, re.S)
    assert block and block[1] == machine.diagram(), "docs/design/states.md: print it anew with `python -m edge.sessions.machine`"


def test_every_kind_and_every_state_is_looked_at() -> None:
    assert set(BODIES) == set(e.KINDS.values())
    assert set(machine.TABLE) == set(State)
    assert sum(map(len, printed_table().values())) == sum(map(len, machine.TABLE.values())) > 50


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("kind", KINDS)
def test_each_pair_of_state_and_fact(state: State, kind: type[e.Event]) -> None:
    room = at_state(state)
    if kind is e.SessionAmended and state is State.SEALED:
        room = step(room, fact(e.ManifestSigned))
    if kind in ABOUT_SOMEBODY_IN and state is State.CHECKIN:
        room = step(room, C1_IN)
    for each in FIRST.get(kind, ()) if kind.__name__ in printed_table()[state] else ():
        room = step(room, fact(each))
    before = replace(room, sessions=dict(room.sessions))
    after = printed_table()[state].get(kind.__name__)
    if after is None:
        with pytest.raises(IllegalStep) as refused:
            step(room, fact(kind))
        assert refused.value.word == "not-now"
        assert room == before
    else:
        reached = step(room, fact(kind))
        assert reached.sessions["S1"].state is after
        assert room == before, "step is pure"


@pytest.mark.parametrize("state", list(State))
def test_facts_of_the_box_are_legal_always_and_move_no_session(state: State) -> None:
    room = at_state(state)
    for kind in DEVICE_KINDS:
        after = step(room, fact(kind, None))
        assert after.sessions == room.sessions and after.live == room.live, "U9: a late device error moves nothing"
        room = after


@pytest.mark.parametrize("state", [State.CHECKIN, State.RUNNING, State.CLOSING, State.SEALING])
def test_the_watchers_facts_stand_among_a_live_sessions_and_mean_the_same(state: State) -> None:
    room = at_state(state)
    for kind in (e.StreamImpaired, e.PlaybackProbed, e.StreamRestored):
        after = step(room, fact(kind))
        assert after.sessions == room.sessions
        boxed = step(room, fact(kind, None))
        assert {s: set(rules) for s, rules in after.impaired.items()} == {s: set(rules) for s, rules in boxed.impaired.items()}
        assert set(after.probed) == set(boxed.probed)
        room = after


def test_what_the_box_says_is_kept_as_long_as_it_holds() -> None:
    room = RoomState()
    kinds: list[type[e.Event]] = [e.ReaderLost, e.StreamLost, e.PlatformLost, e.DaemonStarted]
    for kind in kinds:
        room = step(room, fact(kind, None))
    assert room.reader_lost and room.platform_lost and set(room.streams_lost) == {"cam-front"} and room.started
    kinds = [e.ReaderBack, e.StreamBack, e.PlatformBack]
    for kind in kinds:
        room = step(room, fact(kind, None))
    room = step(room, fact(e.StreamImpaired, None))
    room = step(room, replace(fact(e.StreamImpaired, None), rule="moved"))     # type: ignore[call-arg]
    assert set(room.impaired["cam-front"]) == {"covered", "moved"}
    room = step(room, fact(e.StreamRestored, None))
    assert set(room.impaired["cam-front"]) == {"moved"}
    room = step(step(room, replace(fact(e.StreamRestored, None), rule="moved")), fact(e.PlaybackProbed, None))   # type: ignore[call-arg]
    assert not room.impaired and not room.probed["cam-front"].ok
    room = step(room, replace(fact(e.PlaybackProbed, None), ok=True))          # type: ignore[call-arg]
    assert room.probed["cam-front"].ok
    assert (room.reader_lost, room.platform_lost, dict(room.streams_lost), room.reader_module) == (None, None, {}, "05.01")


def test_a_thousand_clock_steps_do_not_grow_the_state() -> None:
    room = RoomState()
    for number in range(1000):
        room = step(room, fact(e.ClockStepped, None, delta_us=number))
    assert [s.delta_us for s in room.clock_steps] == list(range(900, 1000))


# ---- contradictions ----------------------------------------------------------------------------------------------------

def second_session_ready(room: RoomState) -> RoomState:
    return step(step(room, fact(e.SessionPlanned, "S2")), fact(e.RosterAccepted, "S2"))


def signed_and_amended() -> RoomState:
    return step(step(at_state(State.SEALED), fact(e.ManifestSigned)), fact(e.SessionAmended))


def in_a_class() -> RoomState:
    room = at_state(State.CHECKIN)
    session = room.sessions["S1"]
    return replace(room, sessions={"S1": replace(session, plan=replace(session.plan, session_kind="training_class"))})


IMPORT = {"source": "import", "by": "T001", "second": "T002", "reason": "the platform is down"}

CONTRADICTIONS: tuple[tuple[str, Callable[[], RoomState], e.Event], ...] = (
    ("another-session-is-live", lambda: second_session_ready(at_state(State.CHECKIN)), fact(e.PreflightBegun, "S2")),
    ("another-session-is-live", lambda: second_session_ready(at_state(State.SEALING)), fact(e.PreflightBegun, "S2")),
    ("another-session-is-live", lambda: at_state(State.CHECKIN, "S2", at_state(State.PREFLIGHT)), fact(e.CheckinOpened, session_seq=2)),
    ("no-roster", lambda: step(step(RoomState(), fact(e.SessionPlanned)), fact(e.PreflightBegun)), fact(e.CheckinOpened)),
    # a list from a file has two names behind it, and never takes the place of a signed one (R5)
    ("signed-roster-stands", lambda: at_state(State.PREFLIGHT), fact(e.RosterAccepted, **IMPORT)),
    ("drill-has-its-list", lambda: step(RoomState(), fact(e.SessionPlanned, session_kind="drill")), fact(e.RosterAccepted, **IMPORT)),
    ("chief-only", lambda: step(RoomState(), fact(e.SessionPlanned)), fact(e.RosterAccepted, **{**IMPORT, "by": "T002", "second": "T001"})),
    ("chief-only", lambda: step(RoomState(), fact(e.SessionPlanned)), fact(e.RosterAccepted, **{**IMPORT, "by": None})),
    ("second-person-and-reason", lambda: step(RoomState(), fact(e.SessionPlanned)), fact(e.RosterAccepted, **{**IMPORT, "second": "T001"})),
    ("second-person-and-reason", lambda: step(RoomState(), fact(e.SessionPlanned)), fact(e.RosterAccepted, **{**IMPORT, "second": None})),
    ("second-person-and-reason", lambda: step(RoomState(), fact(e.SessionPlanned)), fact(e.RosterAccepted, **{**IMPORT, "reason": None})),
    ("wrong-session-seq", lambda: at_state(State.PREFLIGHT), fact(e.CheckinOpened, session_seq=2)),
    ("wrong-session-seq", lambda: at_state(State.PREFLIGHT), fact(e.CheckinOpened, session_seq=0)),
    ("not-planned-for-this-session", lambda: at_state(State.PREFLIGHT), fact(e.StaffPresent, staff_id="T009", role="proctor")),
    ("not-planned-for-this-session", lambda: at_state(State.CHECKIN), fact(e.StaffPresent, staff_id="T002", role="chief")),
    ("already-in", lambda: at_state(State.RUNNING), fact(e.CandidateAdmitted, candidate_id="C1", subject="other")),
    ("already-in", lambda: at_state(State.RUNNING), fact(e.CandidateAdmitted, candidate_id="C9", subject="s1")),
    ("seat-taken", lambda: at_state(State.RUNNING), fact(e.CandidateAdmitted, seat="01")),
    # an exception has names behind it (4.5.7: nobody off the list by one person's word)
    ("exception-needed", lambda: at_state(State.CHECKIN), fact(e.CandidateAdmitted, **{**BY_HAND, "exception": None})),
    ("exception-needed", lambda: at_state(State.CHECKIN), fact(e.CandidateAdmitted, **{**BY_HAND, "by": None})),
    ("not-planned-for-this-session", lambda: at_state(State.CHECKIN), fact(e.CandidateAdmitted, **{**BY_HAND, "by": "A001"})),
    ("not-planned-for-this-session", lambda: at_state(State.CHECKIN), fact(e.CandidateAdmitted, exception="E-LATE")),
    ("chief-only", lambda: at_state(State.CHECKIN), fact(e.CandidateAdmitted, **{**OFF, "by": "T002", "second": "T001"})),
    ("second-person-and-reason", lambda: at_state(State.CHECKIN), fact(e.CandidateAdmitted, **{**OFF, "second": None})),
    ("second-person-and-reason", lambda: at_state(State.CHECKIN), fact(e.CandidateAdmitted, **{**OFF, "second": "T001"})),
    ("second-person-and-reason", lambda: at_state(State.CHECKIN), fact(e.CandidateAdmitted, **{**OFF, "second": "A001"})),
    ("second-person-and-reason", lambda: at_state(State.CHECKIN), fact(e.CandidateAdmitted, **{**OFF, "reason": None})),
    ("reason-needed", in_a_class, fact(e.CandidateAdmitted, **{**OFF, "by": "T002", "second": None, "reason": None})),
    # 4.5.14 two on one seat, by whatever way
    ("seat-taken", lambda: at_state(State.RUNNING), fact(e.SeatAssigned, candidate_id="C7", seat="01")),
    ("seat-taken", lambda: then(State.RUNNING, fact(e.SeatAssigned, candidate_id="C7")), fact(e.SeatAssigned)),
    ("seat-taken", lambda: then(State.RUNNING, fact(e.SeatAssigned, candidate_id="C7")), fact(e.CandidateAdmitted, seat="09")),
    ("seat-taken", lambda: at_state(State.CLOSING),
     fact(e.AttendanceCorrected, candidate_id="C7", result="present", subject="s7", seat="01")),
    # marks and corrections
    ("not-in", lambda: at_state(State.RUNNING), fact(e.CandidateLeft, candidate_id="C7")),
    ("not-in", lambda: at_state(State.RUNNING), fact(e.IdentityDoubted, candidate_id="C7")),
    ("not-in", lambda: at_state(State.CLOSING), fact(e.AttendanceCorrected, candidate_id="C7")),
    ("not-in", lambda: at_state(State.RUNNING), fact(e.FaceCompared, candidate_id="C7")),
    ("already-out", lambda: then(State.RUNNING, fact(e.CandidateLeft)), fact(e.CandidateLeft, final=True)),
    ("not-out", lambda: at_state(State.RUNNING), fact(e.CandidateReturned)),
    ("already-in", lambda: at_state(State.CLOSING), fact(e.AttendanceCorrected, result="present", subject="s1")),
    ("already-in", lambda: at_state(State.CLOSING), fact(e.AttendanceCorrected, candidate_id="C7", result="present", subject="s1")),
    ("chief-only", lambda: at_state(State.CLOSING), fact(e.AttendanceCorrected, by="T002")),
    # doubts
    ("doubted-already", lambda: then(State.RUNNING, fact(e.IdentityDoubted)), fact(e.IdentityDoubted)),
    ("no-doubt", lambda: at_state(State.RUNNING), fact(e.DoubtSigned)),
    ("no-doubt", lambda: then(State.RUNNING, fact(e.IdentityDoubted), fact(e.DoubtSettled)), fact(e.DoubtSettled)),
    ("not-planned-for-this-session", lambda: then(State.RUNNING, fact(e.IdentityDoubted)), fact(e.DoubtSigned, staff_id="A001")),
    ("signed-already", lambda: then(State.RUNNING, fact(e.IdentityDoubted), fact(e.DoubtSigned)), fact(e.DoubtSigned)),
    ("two-must-sign", lambda: then(State.RUNNING, fact(e.IdentityDoubted), fact(e.DoubtSigned)), fact(e.DoubtSettled, outcome="cleared")),
    ("chief-only", lambda: then(State.RUNNING, fact(e.IdentityDoubted)), fact(e.DoubtSettled, by="T002")),
    ("wrong-revision", lambda: at_state(State.SEALING), fact(e.Sealed, revision=2)),
    ("wrong-revision", lambda: at_state(State.SEALED), fact(e.SessionAmended)),             # revision 1 is not signed yet
    ("wrong-revision", lambda: step(at_state(State.SEALED), fact(e.ManifestSigned)), fact(e.SessionAmended, revision=3)),
    ("wrong-revision", lambda: step(at_state(State.SEALED), fact(e.ManifestSigned)), fact(e.ManifestSigned)),
    ("wrong-revision", lambda: at_state(State.SEALED), fact(e.ManifestSigned, revision=2)),
    ("wrong-revision", signed_and_amended, fact(e.ManifestSigned, revision=1)),
    ("unknown-session", RoomState, fact(e.CheckinOpened)),
    ("no-session", RoomState, fact(e.CandidateAdmitted, None)),
    ("no-session", lambda: at_state(State.CHECKIN), fact(e.Sealed, None)),
    # nothing unexpired and nothing on hold goes; a date only moves away; what is gone is gone
    ("on-hold", lambda: then(State.SEALED, fact(e.HoldPlaced)), fact(e.FootageDisposed)),
    ("kept-longer", lambda: at_state(State.SEALED), fact(e.FootageDisposed, day="2033-05-25")),
    ("kept-longer", lambda: at_state(State.SEALED), fact(e.FootageDisposed, day="2033-5-26")),
    ("kept-longer", lambda: then(State.SEALED, fact(e.RetentionLengthened)), fact(e.FootageDisposed)),
    ("kept-longer", lambda: then(State.SEALED, fact(e.ManifestSigned), fact(e.ReceiptVerified, keep_until="2033-05-26")),
     fact(e.FootageDisposed)),
    ("held-already", lambda: then(State.SEALED, fact(e.HoldPlaced)), fact(e.HoldPlaced)),
    ("no-such-hold", lambda: at_state(State.SEALED), fact(e.HoldReleased)),
    ("not-later", lambda: at_state(State.SEALED), fact(e.RetentionLengthened, keep_until="2033-05-25")),
    ("not-later", lambda: at_state(State.SEALED), fact(e.RetentionLengthened, keep_until="for ever")),
    ("not-disposed", lambda: at_state(State.SEALED), fact(e.DispositionSigned)),
    ("not-disposed", lambda: then(State.SEALED, fact(e.FootageDisposed), fact(e.DispositionSigned)), fact(e.DispositionSigned)),
    ("disposed-already", lambda: then(State.SEALED, fact(e.FootageDisposed)), fact(e.FootageDisposed)),
    ("disposed-already", lambda: then(State.SEALED, fact(e.FootageDisposed)), fact(e.HoldPlaced)),
)


REPORTED, SETTLED = fact(e.IncidentReported), fact(e.IncidentSettled)
CONTRADICTIONS += (
    ("wrong-incident", lambda: at_state(State.RUNNING), fact(e.IncidentReported, number=2)),
    ("wrong-incident", lambda: then(State.RUNNING, REPORTED), REPORTED),
    ("wrong-incident", lambda: at_state(State.RUNNING), fact(e.IncidentReported, code="V9-01")),
    ("not-planned-for-this-session", lambda: at_state(State.RUNNING), fact(e.IncidentReported, by="A001")),
    ("no-such-incident", lambda: at_state(State.RUNNING), SETTLED),
    ("no-such-incident", lambda: then(State.RUNNING, REPORTED), fact(e.IncidentSettled, number=0)),
    ("incident-settled", lambda: then(State.RUNNING, REPORTED, SETTLED), SETTLED),
    ("two-must-sign-incident", lambda: then(State.RUNNING, REPORTED), fact(e.IncidentSettled, second="T002")),
    ("two-must-sign-incident", lambda: then(State.RUNNING, REPORTED), fact(e.IncidentSettled, second=None)),
    ("candidate-not-told", lambda: then(State.RUNNING, REPORTED), fact(e.IncidentSettled, informed=None)),
    ("chief-only", lambda: then(State.RUNNING, REPORTED), fact(e.IncidentSettled, outcome="dismissed", reason="r")),
    ("reason-needed", lambda: then(State.RUNNING, REPORTED), fact(e.IncidentSettled, outcome="dismissed", by="T001")),
    ("wrong-hw-counter", lambda: replace(at_state(State.PREFLIGHT), hw_counter=7), fact(e.CheckinOpened, hw_counter=7)),
)


@pytest.mark.parametrize(("word", "room", "event"), CONTRADICTIONS)
def test_what_contradicts_the_past_is_refused(word: str, room: Callable[[], RoomState], event: e.Event) -> None:
    with pytest.raises(IllegalStep) as refused:
        step(room(), event)
    assert refused.value.word == word


def test_every_word_of_contradiction_is_reached() -> None:
    source = Path(machine.__file__).read_text(encoding="utf-8")
    words = set(re.findall(r'return "([a-z-]+)"', source)) | set(re.findall(r'IllegalStep\("([a-z-]+)"', source))
    assert words == {word for word, _, _ in CONTRADICTIONS} | {"not-now"}


def test_a_date_that_is_no_date_moves_nothing() -> None:
    for odd in ("2033-13-01", "9999", "", "２０４０-01-01", "2040-01-01T00:00"):
        room = then(State.SEALED, fact(e.ManifestSigned), fact(e.ReceiptVerified, keep_until=odd))
        assert room.sessions["S1"].kept_until == "2033-05-25"
    room = then(State.SEALED, fact(e.ManifestSigned), fact(e.ReceiptVerified, keep_until="2030-01-01"))
    assert room.sessions["S1"].kept_until == "2033-05-25", "a platform may lengthen, never shorten"


def test_a_released_hold_frees_only_itself() -> None:
    room = then(State.SEALED, fact(e.HoldPlaced), fact(e.HoldPlaced, hold_id="H2"), fact(e.HoldReleased))
    assert set(room.sessions["S1"].holds) == {"H2"}
    room = step(step(room, fact(e.HoldReleased, hold_id="H2")), fact(e.FootageDisposed))
    assert room.sessions["S1"].disposed is not None


def test_the_latest_signed_moment_is_remembered_whatever_order_receipts_come_in() -> None:
    room = then(State.CHECKIN, fact(e.ReceiptVerified, answers="session-open", received_utc_us=7))
    room = step(room, fact(e.ReceiptVerified, answers="session-open", received_utc_us=5))
    assert room.witness is not None and room.witness.received_utc_us == 7


def test_an_incident_is_open_until_two_sign_or_the_chief_dismisses_it_and_never_goes_away() -> None:
    room = then(State.CLOSING, REPORTED, fact(e.IncidentReported, number=2, code="T-01", candidate_id=None))
    assert [each.fact.number for each in room.sessions["S1"].open_incidents] == [1], "a technical fault needs no two"
    room = step(room, SETTLED)
    assert room.sessions["S1"].open_incidents == () and all(each.stands for each in room.sessions["S1"].incidents)
    room = step(room, fact(e.IncidentSettled, number=2, outcome="dismissed", by="T001", second=None, informed=None, reason="看错"))
    assert [each.stands for each in room.sessions["S1"].incidents] == [True, False] and len(room.sessions["S1"].incidents) == 2


def test_the_hardware_counter_is_what_the_last_opening_said() -> None:
    room = at_state(State.PREFLIGHT)
    room = step(room, fact(e.CheckinOpened, hw_counter=7))
    assert room.hw_counter == 7
    lost = step(room, fact(e.CounterLost, None))
    assert lost.counter_lost is not None and step(lost, fact(e.CounterBack, None)).counter_lost is None


# ---- what the fold says ------------------------------------------------------------------------------------------------

def test_two_candidates_without_a_seat_are_no_contradiction() -> None:
    room = at_state(State.CHECKIN)
    for number in (7, 8):
        room = step(room, fact(e.CandidateAdmitted, candidate_id=f"C{number}", subject=f"s{number}", seat=None))
    assert {a.candidate_id for a in room.sessions["S1"].admitted.values()} == {"C7", "C8"}


def test_the_next_session_may_open_while_the_last_awaits_its_receipt() -> None:
    room = step(at_state(State.SEALED), fact(e.ManifestSigned))
    room = at_state(State.CHECKIN, "S2", room)
    assert (room.live, room.opened_total, room.closed_total) == ("S2", 2, 1)
    room = step(room, fact(e.ReceiptVerified))
    assert room.sessions["S1"].revisions[0].verdict == "accepted"
    assert room.last_manifest_receipt == "r1" and room.live == "S2"


def test_a_receipt_speaks_of_its_own_revision_only() -> None:
    room = step(signed_and_amended(), fact(e.ManifestSigned, revision=2, digest="m2"))
    room = step(room, fact(e.ReceiptVerified, verdict="rejected", reasons=("E-1",)))
    first, second = room.sessions["S1"].revisions
    assert (first.verdict, first.reasons, second.verdict) == ("rejected", ("E-1",), None)
    assert room.last_manifest == "m2" and room.last_manifest_receipt is None, "the last manifest is not answered yet"
    room = step(room, fact(e.ReceiptRefused, digest="m2"))
    assert room.sessions["S1"].revisions[1].receipt_refused == "signature" and room.sessions["S1"].revisions[1].verdict is None
    room = step(room, fact(e.ReceiptVerified, digest="m2", revision=2))
    assert room.sessions["S1"].revisions[1].verdict == "accepted" and room.sessions["S1"].revisions[1].receipt_refused is None


def test_advice_on_a_face_changes_nothing_but_what_was_advised() -> None:
    before = at_state(State.RUNNING).sessions["S1"]
    after = then(State.RUNNING, fact(e.FaceCompared)).sessions["S1"]
    assert after.faces["C1"].result == "no-match"
    assert replace(after, faces={}) == before


def test_late_segments_are_counted_until_a_revision_names_them() -> None:
    room = step(step(at_state(State.SEALED), fact(e.ManifestSigned)), fact(e.SegmentStored))
    assert room.sessions["S1"].late_segments == 1
    assert step(room, fact(e.SessionAmended)).sessions["S1"].late_segments == 0


def test_an_interval_covers_what_overlaps_it() -> None:
    opened, ordered = AT.plus(0), AT.plus(100)
    session = replace(at_state(State.SEALING).sessions["S1"], opened=e.CheckinOpened(at=opened, session="S1", **BODIES[e.CheckinOpened]),
                      seal_order=e.SealOrdered(at=ordered, session="S1", **BODIES[e.SealOrdered]))
    for start, end, inside in ((-20, -10, False), (-20, 0, False), (-20, 1, True), (10, 20, True), (99, 150, True), (100, 150, False)):
        assert session.covers(AT.plus(start), AT.plus(end)) is inside, (start, end)
    assert not replace(session, opened=None).covers(AT, AT.plus(50))
    assert replace(session, seal_order=None).covers(AT.plus(10**12), AT.plus(10**12 + 1)), "without a seal the interval is open"


# ---- random histories --------------------------------------------------------------------------------------------------

PERSONAL = {e.FaceCompared, e.CandidateLeft, e.CandidateReturned, e.IdentityDoubted, e.DoubtSigned, e.DoubtSettled, e.AttendanceCorrected}


class Histories(RuleBasedStateMachine):
    """Random facts, legal or not, about three sessions of one room."""

    def __init__(self) -> None:
        super().__init__()
        self.room = RoomState()
        self.refused = self.taken = 0

    def throw(self, event: e.Event) -> None:
        before, ranks = self.room, {sid: RANK[s.state] for sid, s in self.room.sessions.items()}
        kept = replace(before, sessions=dict(before.sessions))
        try:
            self.room = step(before, event)
            self.taken += 1
        except IllegalStep:
            self.refused += 1
        assert before == kept, "step changed what it was given"
        for session_id, rank in ranks.items():
            assert RANK[self.room.sessions[session_id].state] >= rank, "a session went back"
        for session_id, session in before.sessions.items():
            assert (self.room.sessions[session_id].kept_until or "") >= (session.kept_until or ""), "a session is kept shorter"
            if session_id != event.session:
                assert self.room.sessions[session_id] == session, "a fact of one session changed another"

    @rule(kind=st.sampled_from(KINDS), session=st.sampled_from(["S1", "S2", "S3", None]),
          candidate=st.integers(1, 3), subject=st.integers(1, 3), seat=st.sampled_from(["01", "02", None]), number=st.integers(0, 4))
    def any_fact(self, kind: type[e.Event], session: str | None, candidate: int, subject: int, seat: str | None, number: int) -> None:
        changed: dict[str, Any] = {}
        if kind is e.CandidateAdmitted:
            changed = {"candidate_id": f"C{candidate}", "subject": f"s{subject}", "seat": seat}
            if number == 4:
                changed |= {"method": "manual", "exception": "E-NO-CARD", "by": "T002"}
        elif kind is e.AttendanceCorrected and seat:
            changed = {"candidate_id": f"C{candidate}", "result": "present", "subject": f"s{subject}", "seat": seat}
        elif kind is e.SeatAssigned:
            changed = {"candidate_id": f"C{candidate}", "seat": seat or "03"}
        elif kind in PERSONAL:
            changed = {"candidate_id": f"C{candidate}"}
        elif kind is e.CheckinOpened:
            changed = {"session_seq": number}
        elif kind in (e.Sealed, e.SessionAmended, e.ManifestSigned):
            changed = {"revision": number} | ({"digest": f"m{number}"} if kind is e.ManifestSigned else {})
        elif kind in (e.ReceiptVerified, e.ReceiptRefused):
            changed = {"digest": f"m{number}"} | ({"keep_until": f"203{number}-01-01"} if kind is e.ReceiptVerified and seat else {})
        elif kind is e.RetentionLengthened:
            changed = {"keep_until": f"204{number}-01-01"}
        elif kind is e.FootageDisposed:
            changed = {"day": f"204{number}-01-02", "keep_until": f"20{33 if number else 39}-05-25"}
        self.throw(fact(kind, session, **changed))

    @rule(session=st.sampled_from(["S1", "S2", "S3"]), choice=st.integers(0, 5))
    def something_sensible(self, session: str, choice: int) -> None:
        """Random facts alone would seldom come far: go on with what leads on."""
        found = self.room.sessions.get(session)
        if found is None:
            return self.throw(fact(e.SessionPlanned, session))
        if found.roster is None:
            return self.throw(fact(e.RosterAccepted, session))
        onward = [kind for kind, after in machine.TABLE[found.state].items() if after]
        if onward:
            kind = onward[min(choice, len(onward) - 1) if choice == 5 else 0]
            return self.throw(fact(kind, session, **({"session_seq": self.room.opened_total + 1} if kind is e.CheckinOpened else {})))
        if found.revisions and found.revisions[-1].digest is None:
            number = found.revisions[-1].number
            return self.throw(fact(e.ManifestSigned, session, revision=number, digest=f"m{number}"))
        return self.throw(fact(e.SegmentStored if choice % 2 else e.SessionAmended, session, **(
            {} if choice % 2 else {"revision": len(found.revisions) + 1})))

    @invariant()
    def at_most_one_session_is_live(self) -> None:
        live = [s.id for s in self.room.sessions.values() if s.live]
        assert len(live) <= 1
        assert self.room.live == (live[0] if live else None)

    @invariant()
    def nobody_is_in_twice_and_no_seat_is_taken_twice(self) -> None:
        for session in self.room.sessions.values():
            subjects = [a.subject for a in session.admitted.values()]
            seats = [a.seat for a in session.admitted.values() if a.seat]
            assert len(set(subjects)) == len(subjects) and len(set(seats)) == len(seats)
            assert all(key == a.candidate_id for key, a in session.admitted.items())
            given = [seat for each, seat in session.seats.items() if each not in session.admitted]
            assert len(set(given)) == len(given)
            assert not set(session.turned_away) & set(session.admitted), "who is in was not turned away"

    @invariant()
    def a_manual_admission_is_in_doubt_until_two_have_signed_or_it_is_handed_on(self) -> None:
        for session in self.room.sessions.values():
            for admission in session.admitted.values():
                assert admission.method != "manual" or admission.doubt is not None
                settled = admission.doubt.settled if admission.doubt else None
                if admission.doubt and settled and settled.outcome == "cleared":
                    assert len(set(admission.doubt.signed)) >= 2

    @invariant()
    def every_open_ends_in_exactly_one_set_of_books(self) -> None:
        sessions: list[Session] = list(self.room.sessions.values())
        assert self.room.opened_total == sum(s.opened is not None for s in sessions)
        assert self.room.closed_total == sum(s.state is State.SEALED for s in sessions)
        assert self.room.opened_total - self.room.closed_total == (self.room.live is not None)
        assert sorted(s.opened.session_seq for s in sessions if s.opened) == list(range(1, self.room.opened_total + 1))

    @invariant()
    def what_was_given_up_was_over_and_on_no_hold(self) -> None:
        for session in self.room.sessions.values():
            if session.disposed is not None:
                assert session.disposed.day > session.disposed.keep_until and not session.holds

    @invariant()
    def revisions_are_numbered_and_only_the_last_may_be_unsigned(self) -> None:
        for session in self.room.sessions.values():
            assert [r.number for r in session.revisions] == list(range(1, len(session.revisions) + 1))
            assert all(r.digest for r in session.revisions[:-1])
            assert bool(session.revisions) == (session.state is State.SEALED)


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestHistories = Histories.TestCase


def test_what_is_known_of_the_devices_key() -> None:
    room = RoomState()
    for each in (fact(e.DaemonStarted, None), fact(e.CertificateExpiring, None), fact(e.SignerLost, None), fact(e.KeyRolled, None)):
        room = step(room, each)
    assert room.certificate and room.signer_lost and room.rollovers[0].digest == "d1"
    answer = fact(e.ReceiptVerified, None, answers="key-rollover", digest="d1", revision=None)
    room = step(step(room, answer), fact(e.SignerBack, None))
    assert room.rollover_receipts == {"d1": answer} and room.signer_lost is None
    assert step(room, fact(e.DaemonStarted, None)).certificate == room.certificate, "the same certificate is warned of once"
    assert step(room, fact(e.DaemonStarted, None, cert_sha256="1")).certificate is None
    with pytest.raises(IllegalStep):
        step(room, fact(e.ReceiptVerified, None))
