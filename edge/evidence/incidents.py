"""Which facts of a session count as incidents, and how they stand in its manifest: one entry each, in the order of the journal.

An incident is what whoever judges the session later must know of without leafing through the journal: what staff recorded as such, who came
in by an exception or in doubt, what was waived or put right by hand, an exam that did not end by itself, and what the room's devices failed
at. A pure function of the rows, as all of the manifest. Words of people stand here as their SHA-256 only. Since version 2 of the manifest;
schema `docs/schemas/manifest.json`. Called by `manifest`; the dossier and the export tell the same facts in words of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge.clock import iso_utc
from edge.evidence.chain import sha256_hex
from edge.sessions import events as e


def of(rows: Sequence[e.Recorded], revision: int) -> list[dict[str, Any]]:
    """The incidents in `rows` (one session's, up to the closing of the books of `revision`)."""
    settled = {row.event.number: (row.seq, row.event) for row in rows if isinstance(row.event, e.IncidentSettled)}
    found = []
    for row in rows:
        fact = row.event
        told = _reported(fact, settled.get(fact.number)) if isinstance(fact, e.IncidentReported) else _noted(fact, revision)
        if told is not None:
            entry = {key: value for key, value in told.items() if value is not None}
            found.append({"journal_seq": row.seq, "at": iso_utc(entry.pop("at_us", fact.at.utc_us)), **entry})
    return found


def _reported(fact: e.IncidentReported, settled: tuple[int, e.IncidentSettled] | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"code": fact.code, "incident_no": fact.number, "by": fact.by, "candidate_id": fact.candidate_id,
                             "detail_sha256": hashed(fact.detail), "at_us": fact.happened_utc_us, "outcome": "open"}
    if settled is not None:
        seq, word = settled
        entry |= {"outcome": word.outcome, "signed_by": [each for each in (word.by, word.second) if each], "informed": word.informed,
                  "reason_sha256": hashed(word.reason), "settled_seq": seq}
    return entry


def _noted(fact: e.Event, revision: int) -> Mapping[str, Any] | None:
    """What nobody had to record as an incident for it to be one; None for what is a matter of course."""
    match fact:
        case e.RosterAccepted(source="import"):
            return _by_two(fact, "roster-imported")
        case e.WaiverGranted():
            return {**_by_two(fact, "waiver"), "of": fact.item}
        case e.CandidateAdmitted() if fact.exception is not None:
            return {**_by_two(fact, fact.exception), "candidate_id": fact.candidate_id}
        case e.IdentityDoubted():
            return {"code": fact.code, "by": fact.by, "candidate_id": fact.candidate_id, "detail_sha256": hashed(fact.reason)}
        case e.DoubtSettled(outcome="escalated"):
            return {"code": "doubt-escalated", "by": fact.by, "candidate_id": fact.candidate_id, "detail_sha256": hashed(fact.reason)}
        case e.SeatAssigned() if fact.before is not None:
            return {"code": "seat-changed", "by": fact.by, "candidate_id": fact.candidate_id, "detail_sha256": hashed(fact.reason)}
        case e.AttendanceCorrected():
            return {"code": "attendance-corrected", "by": fact.by, "candidate_id": fact.candidate_id, "detail_sha256": hashed(fact.reason)}
        case e.ExamStarted() if fact.reason is not None:
            return {"code": "started-off-plan", "by": fact.by, "detail_sha256": hashed(fact.reason)}
        case e.ExamEnded() if fact.outcome != "completed":
            return {"code": f"exam-{fact.outcome}", "by": fact.by, "detail_sha256": hashed(fact.reason)}
        case _:
            return _device(fact, revision)


def _device(fact: e.Event, revision: int) -> Mapping[str, Any] | None:
    """What the room's devices failed at. Of the gaps those that this revision declares: each declares its full set."""
    match fact:
        case e.StreamLost():
            return {"code": "stream-lost", "of": fact.stream}
        case e.StreamImpaired():
            return {"code": f"stream-{fact.rule}", "of": fact.stream}
        case e.ReaderLost():
            return {"code": "reader-lost"}
        case e.ClockStepped():
            return {"code": "clock-stepped"}
        case e.GapDeclared() if fact.revision == revision:
            return {"code": "gap", "of": fact.stream, "at_us": fact.from_utc_us}
        case _:
            return None


def _by_two(fact: e.RosterAccepted | e.WaiverGranted | e.CandidateAdmitted, code: str) -> dict[str, Any]:
    return {"code": code, "by": fact.by, "second": fact.second, "detail_sha256": hashed(fact.reason)}


def hashed(text: str | None) -> str | None:
    """SHA-256 of what somebody wrote; None for nothing."""
    return sha256_hex(text.encode()) if text else None
