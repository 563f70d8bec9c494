"""What a session consists of: the session-open, the manifest and its gaps, each a pure function of the session's facts.

Takes the rows of ONE session in the journal's order (rows of other sessions and of the box are no part of them) and the room's own facts.
The same rows give the same bytes, here and at the auditor's (`bundle` builds the manifest again from the exported journal and compares).
Revision 1 is made of the rows up to Sealed, revision r of those up to SessionAmended(revision=r), its gaps are the GapDeclared of that
revision; ManifestSigned and receipts that came before are counted as rows and otherwise passed over. The schemas are
`docs/schemas/manifest.json` and `session-open.json`. By which rules a session's manifests are made stands in its journal
(`Sealed.manifest_version`): one that was sealed before version 2 is made again, byte for byte, as it was.
Free text (a reason) stands here as its SHA-256 only, and whatever looks like an 18-character ID number is withheld: no person's number or
name leaves the room in a manifest. Called by the room and by `bundle`.
(More than 400 lines: every part of the one document, in the order of its schema.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from edge.clock import Stamp, iso_utc
from edge.evidence import incidents
from edge.evidence.chain import GENESIS, canonical, sha256_hex
from edge.sessions import events as e

VERSION = 2
"""Of what is sealed now. Version 1 has no incidents (its list is empty) and no anchors of the clock."""
MANIFEST_TYPES = {1: "exam-session-manifest/v1", 2: "exam-session-manifest/v2"}
OPEN_TYPE = "exam-session-open/v1"
ABSENT = "absent-offline"
"""`open_receipt_sha256` where the platform had not answered when the books were closed."""

TOLERANCE_US = 100_000
"""A hole up to this, or two frames if that is more, is none: rotation and clock reading are not exact to the frame."""
TOLERANCE_MAX_US = 1_000_000
"""However slow a stream calls itself, a missing second is a gap."""

_NUMBER = re.compile(r"(?<![0-9])[0-9]{17}[0-9Xx](?![0-9])")
_HEX = re.compile(r"[0-9a-f]{32,}")
_WITHHELD = "withheld"
_PLAIN_ENDS = ("rotated", "cut", "format-changed")

Fact = TypeVar("Fact", bound=e.Event)


class ManifestError(ValueError):
    """The rows are not those of a session that can be opened or sealed. The text names the fact that is missing."""


@dataclass(frozen=True, slots=True)
class RoomFacts:
    """What the room knows of itself. Digests: lower-case hex SHA-256; `cert_sha256`: of the device's certificate in DER."""

    site: str
    room_code: str
    device_id: str
    cert_sha256: str
    sw_version: str
    sw_sha256: str
    config_sha256: str
    boot_id: str
    hmac_key_id: str
    require_sync: bool              # config clock.require_sync


@dataclass(frozen=True, slots=True)
class Gap:
    """What a stream lacks of the interval. `dur_us` by the boot clock within one boot, by UTC across boots (0 if UTC went backwards)."""

    stream: str
    from_utc_us: int
    to_utc_us: int
    dur_us: int
    reason: str


# ---- gaps -------------------------------------------------------------------------------------------------------------

def find_gaps(segments: Iterable[e.SegmentStored], streams: Iterable[str], start: Stamp, end: Stamp) -> list[Gap]:
    """The gaps of each of `streams` in [start, end], by stream, then time.

    A hole is a gap when it is longer than max(2 frames, 100 ms), and always when the machine was restarted in it: the wall clock may
    lie about how long that took, but it took time. `reason`: the end_reason of the segment before; "not-recording" at the head;
    "not-stored" where the segment before ended as it should and the next never came.
    LIMIT: how long a restart took is known by the wall clock only; if that went backwards the gap is declared with dur_us 0.
    """
    by_stream: dict[str, list[e.SegmentStored]] = {each: [] for each in streams}
    for segment in segments:
        if segment.stream in by_stream:
            by_stream[segment.stream].append(segment)
    found: list[Gap] = []
    for stream in sorted(by_stream):
        found += _stream_gaps(stream, sorted(by_stream[stream], key=lambda s: (s.seq, s.start_boot_us)), start, end)
    return found


def _stream_gaps(stream: str, segments: list[e.SegmentStored], start: Stamp, end: Stamp) -> Iterator[Gap]:
    reached, before = start, None
    for segment in segments:
        first, last = _ends(segment)
        after_all = first.boot_id == end.boot_id and first.us_since(end) >= 0
        covered = last.boot_id == reached.boot_id and last.us_since(reached) <= 0
        if after_all or covered:
            continue
        yield from _hole(stream, reached, first, before, segment)
        reached, before = last, segment
    if end.us_since(reached) > 0 or end.boot_id != reached.boot_id:
        yield from _hole(stream, reached, end, before, None)


def _hole(stream: str, since: Stamp, until: Stamp, before: e.SegmentStored | None, after: e.SegmentStored | None) -> Iterator[Gap]:
    frame_us = max((s.frame_us for s in (before, after) if s), default=0)
    length, restarted = until.us_since(since), until.boot_id != since.boot_id
    if length <= min(max(2 * frame_us, TOLERANCE_US), TOLERANCE_MAX_US) and not restarted:
        return
    if before is None:
        reason = "not-recording"
    elif before.end_reason in _PLAIN_ENDS:
        reason = "power" if restarted else "not-stored"
    else:
        reason = before.end_reason
    yield Gap(stream, since.utc_us, until.utc_us, max(length, 0), reason)


def _ends(segment: e.SegmentStored) -> tuple[Stamp, Stamp]:
    return (Stamp(segment.start_utc_us, segment.start_boot_us, segment.boot_id),
            Stamp(segment.end_utc_us, segment.end_boot_us, segment.boot_id))


# ---- session-open -----------------------------------------------------------------------------------------------------

def session_open(rows: Sequence[e.Recorded], room: RoomFacts, prev_manifest: str | None = None,
                 prev_receipt: str | None = None) -> dict[str, Any]:
    """The session-open of a session whose check-in has opened. `prev_manifest`, `prev_receipt`: digests of the device's last manifest
    and its receipt, if there are any. ManifestError if plan, roster or CheckinOpened is not among `rows`."""
    opened = _first(rows, e.CheckinOpened)
    upto = [row for row in rows if row.seq <= opened.seq]
    fact = _fact(opened, e.CheckinOpened)
    document: dict[str, Any] = {
        "type": OPEN_TYPE,
        "session": _planned(_fact(_last(upto, e.SessionPlanned), e.SessionPlanned)),
        **_place(room),
        "session_seq": fact.session_seq,
        **_present(hw_counter=fact.hw_counter),
        "opened_utc": iso_utc(fact.at.utc_us),
        "journal": {"seq": opened.seq, "head_sha256": opened.hash},
        "streams": [{"id": each, "kind": fact.streams[each]} for each in sorted(fact.streams)],
        "roster": _roster(upto, room),
        "clock": {"require_sync": room.require_sync, "at_open": fact.clock_state,
                  **({"anchor": _anchor("open", opened.seq, fact.at, fact.clock)} if fact.clock is not None else {})},
        "preflight": {item: str(light) for item, light in sorted(fact.readings.items())},
        "prev": _present(manifest_sha256=prev_manifest, receipt_sha256=prev_receipt),
    }
    return {key: _without_numbers(value) for key, value in document.items()}


# ---- manifest ---------------------------------------------------------------------------------------------------------

def manifest(rows: Sequence[e.Recorded], room: RoomFacts, revision: int) -> dict[str, Any]:
    """Revision `revision` of the session's manifest. ManifestError if a fact that it needs is not among `rows`.

    One long function on purpose: it reads as the schema's table of contents.
    """
    sealed_row = _first(rows, e.Sealed)
    closing = sealed_row if revision == 1 else _amendment(rows, revision)
    upto = [row for row in rows if row.seq <= closing.seq]
    books = [row for row in upto if row.seq <= sealed_row.seq]
    opened, ordered = _fact(_first(books, e.CheckinOpened), e.CheckinOpened), _fact(_last(books, e.SealOrdered), e.SealOrdered)
    plan = _fact(_last(books, e.SessionPlanned), e.SessionPlanned)
    sealed, last = _fact(sealed_row, e.Sealed), closing.event
    if not isinstance(last, e.Sealed | e.SessionAmended):
        raise ManifestError("the books of this revision were never closed")
    version = sealed.manifest_version or 1
    if version not in MANIFEST_TYPES:
        raise ManifestError(f"the session was sealed by rules of version {version}, which this program does not know")
    segments = _segments(upto)
    gaps = _gaps(upto, revision)
    ended = _fact(_last(books, e.ExamEnded), e.ExamEnded)
    document: dict[str, Any] = {
        "type": MANIFEST_TYPES[version],
        "revision": revision,
        **(_present(amends=last.amends, amend_reason_sha256=_hashed(last.reason)) if isinstance(last, e.SessionAmended) else {}),
        "made_utc": iso_utc(last.at.utc_us),
        "session": {**_planned(plan), **_times(books, opened, ended, ordered, sealed),
                    **({"close_reason": _close_reason(opened, ended, ordered)} if version > 1 else {})},
        **_place(room),
        "counters": {"session_seq": opened.session_seq, "opened_total": sealed.opened_total, "closed_total": sealed.closed_total,
                     **_hw_counter(opened)},
        "prev": _present(manifest_sha256=last.prev_manifest, receipt_sha256=last.prev_receipt),
        "open": {"open_sha256": _fact(_last(books, e.OpenSigned), e.OpenSigned).digest, "open_receipt_sha256": last.open_receipt or ABSENT},
        "journal": _journal(upto),
        "interval": {"start": _moment(opened.at), "end": _moment(ordered.at)},
        "outcome": ended.outcome,
        "roster": _roster(books, room),
        "attendance": _attendance(upto),
        "identity_checks": _identity_checks(books, version),
        "staff": [{"staff_id": fact.staff_id, "role": fact.role, **_when(seq, fact)} for seq, fact in _all(books, e.StaffPresent)],
        "signers": [{"staff_id": by, "role": plan.staff.get(by, "unknown"), "at": iso_utc(ordered.at.utc_us),
                     "statement": ordered.statement} for by in (ordered.by, ordered.second)],
        "preflight": _preflight(books, opened),
        "incidents": incidents.of(upto, revision) if version > 1 else [],
        "streams": _streams(opened, segments),
        "segments": segments,
        "gaps": gaps,
        **_present(impairments=_impairments(upto) or None),
        "clock": _clock(upto, room, opened, segments, version),
        "totals": _totals(opened, segments, gaps),
        "retention": {"policy": sealed.retention_policy, "keep_until": sealed.keep_until, "basis": sealed.retention_basis},
    }
    return {key: _without_numbers(value) for key, value in document.items()}


def _amendment(rows: Sequence[e.Recorded], revision: int) -> e.Recorded:
    for row in rows:
        if isinstance(row.event, e.SessionAmended) and row.event.revision == revision:
            return row
    raise ManifestError(f"the session has no revision {revision}")


def _planned(plan: e.SessionPlanned) -> dict[str, Any]:
    return {"id": plan.session or "", "plan_id": plan.plan_id, "plan_sha256": plan.plan_sha256, "kind": plan.session_kind,
            "scheduled_start": iso_utc(plan.scheduled_start_us), "duration_min": plan.duration_min}


def _place(room: RoomFacts) -> dict[str, Any]:
    return {"site": room.site, "room": room.room_code,
            "device": {"id": room.device_id, "cert_sha256": room.cert_sha256, "boot_id": room.boot_id, "sw_version": room.sw_version,
                       "sw_sha256": room.sw_sha256, "config_sha256": room.config_sha256}}


def _times(books: list[e.Recorded], opened: e.CheckinOpened, ended: e.ExamEnded, ordered: e.SealOrdered,
           sealed: e.Sealed) -> dict[str, Any]:
    started = next((fact for _, fact in _all(books, e.ExamStarted)), None)
    return _present(
        opened_utc=iso_utc(opened.at.utc_us),
        started_utc=iso_utc(started.at.utc_us) if started else None, start_reason_sha256=_hashed(started.reason) if started else None,
        ended_utc=iso_utc(ended.at.utc_us), end_reason_sha256=_hashed(ended.reason),
        closed_utc=iso_utc(ordered.at.utc_us), sealed_utc=iso_utc(sealed.at.utc_us))


def _roster(rows: list[e.Recorded], room: RoomFacts) -> dict[str, Any]:
    fact = _fact(_last(rows, e.RosterAccepted), e.RosterAccepted)
    return {"version": fact.version, "count": fact.count, "sha256": fact.roster_sha256, "source": fact.source,
            "hmac_key_id": room.hmac_key_id}


def _journal(rows: list[e.Recorded]) -> dict[str, Any]:
    return {"first": rows[0].seq, "last": rows[-1].seq, "count": len(rows), "head_sha256": rows[-1].hash,
            "rows_sha256": sha256_hex("".join(f"{row.seq} {row.hash}\n" for row in rows).encode())}


def _attendance(rows: list[e.Recorded]) -> list[dict[str, Any]]:
    """One entry a candidate: admitted before all; else what the chief confirmed (absent); else refused, with the last code.

    Of who came in by an exception it says which, who answers for it and what came of the doubt; of a correction who made it.
    """
    found: dict[str, dict[str, Any]] = {}
    for seq, refused in _all(rows, e.AdmissionRefused):
        if refused.candidate_id is not None:
            words = _present(code=refused.code, subject=refused.subject)
            found[refused.candidate_id] = {"result": "refused", **words, **_when(seq, refused)}
    for seq, ordered in _all(rows, e.SealOrdered):
        found |= {each: {"result": "absent", "journal_seq": seq} for each in ordered.absent}
    admitted, corrected = _admitted(rows)
    found |= {each: {"result": "absent", "journal_seq": made["journal_seq"]} for each, made in corrected.items()
              if each not in admitted and found.get(each, {}).get("result") != "absent"}
    entries = {each: {**entry, **_present(corrected=corrected.get(each))} for each, entry in (found | admitted).items()}
    return [{"candidate_id": each, **entry} for each, entry in sorted(entries.items())]


def _admitted(rows: list[e.Recorded]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Who is in at the end of `rows`, as entries; and the last correction of each candidate who has one."""
    admitted: dict[str, dict[str, Any]] = {}
    corrected: dict[str, dict[str, Any]] = {}
    for row in rows:
        match row.event:
            case e.CandidateAdmitted() as fact:
                admitted.setdefault(fact.candidate_id, {
                    "result": "admitted", **_present(subject=fact.subject, seat=fact.seat, method=fact.method), **_when(row.seq, fact),
                    **_exception(fact), **({"doubt": _doubt(fact.exception or "")} if fact.method == "manual" else {})})
            case e.AttendanceCorrected() as fact:
                corrected[fact.candidate_id] = {"result": fact.result, "by": fact.by, "reason_sha256": _hashed(fact.reason),
                                                **_when(row.seq, fact)}
                admitted.pop(fact.candidate_id, None)
                if fact.result == "present":
                    admitted[fact.candidate_id] = {"result": "admitted", "method": "corrected",
                                                   **_present(subject=fact.subject, seat=fact.seat), **_when(row.seq, fact),
                                                   "doubt": _doubt("E-NO-CARD")}
            case (e.SeatAssigned() | e.CandidateLeft() | e.CandidateReturned() | e.IdentityDoubted() | e.DoubtSigned()
                  | e.DoubtSettled()) as fact if fact.candidate_id in admitted:
                _go_on(admitted[fact.candidate_id], row.seq, fact)
            case _:
                pass
    return admitted, corrected


def _exception(fact: e.CandidateAdmitted) -> dict[str, Any]:
    return _present(exception=fact.exception, by=fact.by, second=fact.second, reason_sha256=_hashed(fact.reason),
                    photo_sha256=fact.photo_sha256, no_photo=fact.no_photo)


def _doubt(code: str) -> dict[str, Any]:
    return {"code": code, "signed": [], "outcome": "open"}


def _go_on(entry: dict[str, Any], seq: int, fact: e.Event) -> None:
    """What happened to an admitted candidate afterwards."""
    match fact:
        case e.SeatAssigned():
            entry["seat"] = fact.seat
        case e.CandidateLeft():
            entry["left"] = {"final": fact.final, **_when(seq, fact)}
        case e.CandidateReturned():
            entry.pop("left", None)
        case e.IdentityDoubted():
            entry["doubt"] = _doubt(fact.code)
        case e.DoubtSigned():
            entry["doubt"]["signed"].append(fact.staff_id)
        case e.DoubtSettled():
            entry["doubt"] |= {"outcome": fact.outcome, "by": fact.by, **_present(reason_sha256=_hashed(fact.reason))}


def _close_reason(opened: e.CheckinOpened, ended: e.ExamEnded, ordered: e.SealOrdered) -> str:
    """`operator`: people broke it off; `recovered`: the machine was restarted between opening and close; else `normal`."""
    if ended.outcome != "completed":
        return "operator"
    return "recovered" if opened.at.boot_id != ordered.at.boot_id else "normal"


def _identity_checks(books: list[e.Recorded], version: int) -> list[dict[str, Any]]:
    """Every verdict at the door; since version 2 with the seat, who let in by hand, and the digest of the picture taken at the door."""
    found: list[dict[str, Any]] = []
    for row in books:
        fact = row.event
        if isinstance(fact, e.CandidateAdmitted):
            more = _present(seat=fact.seat, by=fact.by, evidence_sha256=fact.photo_sha256) if version > 1 else {}
            found.append({"result": "pass", **_present(candidate_id=fact.candidate_id, subject=fact.subject, method=fact.method,
                                                       code=fact.exception),
                          **more, **_when(row.seq, fact)})
        elif isinstance(fact, e.AdmissionRefused):
            found.append({"result": "refused", **_present(code=fact.code, candidate_id=fact.candidate_id, subject=fact.subject),
                          **_when(row.seq, fact)})
    return found


def _preflight(books: list[e.Recorded], opened: e.CheckinOpened) -> dict[str, Any]:
    return {
        "readings": {item: str(light) for item, light in sorted(opened.readings.items())},
        "waivers": [{"item": fact.item, "reason_sha256": _hashed(fact.reason), "by": fact.by, "second": fact.second,
                     **_when(seq, fact)} for seq, fact in _all(books, e.WaiverGranted)],
        "exits_checked": [{"by": fact.by, **_when(seq, fact)} for seq, fact in _all(books, e.ExitsChecked)],
    }


def _streams(opened: e.CheckinOpened, segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = set(opened.streams) | {entry["stream"] for entry in segments}
    return [{"id": each, "kind": opened.streams.get(each, "unknown"), "expected": each in opened.streams,
             "codecs": sorted({entry["codec"] for entry in segments if entry["stream"] == each})} for each in sorted(names)]


def _segments(rows: list[e.Recorded]) -> list[dict[str, Any]]:
    """By stream; within it by the revision that first knew the segment, then in the order of recording: a revision only adds at the end."""
    known: dict[str, list[tuple[int, e.SegmentStored, int]]] = {}
    closed = 0
    for row in rows:
        if isinstance(row.event, e.SegmentStored):
            known.setdefault(row.event.stream, []).append((closed, row.event, row.seq))
        elif isinstance(row.event, e.Sealed | e.SessionAmended):
            closed += 1
    entries: list[dict[str, Any]] = []
    for stream in sorted(known):
        prev = GENESIS
        for n, (_, fact, seq) in enumerate(sorted(known[stream], key=lambda k: (k[0], k[1].seq, k[2])), 1):
            entries.append(_segment(n, fact, seq, prev))
            prev = sha256_hex(canonical(entries[-1]))
    return entries


def segment_path(stream: str, n: int, sha256: str) -> str:
    """Where the file of a segment stands below an exported folder; the sidecar has the same name with .json."""
    return f"segments/{stream}/{n:06d}-{sha256[:16]}.mp4"


def _segment(n: int, fact: e.SegmentStored, seq: int, prev: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "stream": fact.stream, "n": n, "seq": fact.seq, "path": segment_path(fact.stream, n, fact.sha256), "run": fact.run,
        "start_utc": iso_utc(fact.start_utc_us), "end_utc": iso_utc(fact.end_utc_us),
        "start_boot_us": fact.start_boot_us, "end_boot_us": fact.end_boot_us, "boot_id": fact.boot_id,
        "dur_us": fact.dur_us, "frame_us": fact.frame_us, "bytes": fact.bytes, "sha256": fact.sha256, "sidecar_sha256": fact.sidecar_sha256,
        "codec": fact.codec, "end_reason": fact.end_reason, "recovered": fact.recovered, "clock_state": fact.clock_state,
        **_present(audio_peak_cdb=fact.audio_peak_cdb, silent_ms=fact.silent_ms), "journal_seq": seq, "prev": prev,
    }
    return {key: _without_numbers(value) for key, value in entry.items()}


def _gaps(rows: list[e.Recorded], revision: int) -> list[dict[str, Any]]:
    declared = [(fact.stream, fact.from_utc_us, seq, fact) for seq, fact in _all(rows, e.GapDeclared) if fact.revision == revision]
    return [{"stream": stream, "from_utc": iso_utc(fact.from_utc_us), "to_utc": iso_utc(fact.to_utc_us), "dur_us": fact.dur_us,
             "reason": fact.reason, "journal_seq": seq} for stream, _, seq, fact in sorted(declared, key=lambda d: d[:3])]


def _impairments(rows: list[e.Recorded]) -> list[dict[str, Any]]:
    """What the room's own watcher found in the recorded pictures and sound during the session: recorded, but not fit to be seen or heard.

    LIMIT: what began before the doors opened is a fact of the box; of it only the preflight's reading stands in the manifest.
    """
    found: list[dict[str, Any]] = []
    standing: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        match row.event:
            case e.StreamImpaired() as fact:
                entry = {"stream": fact.stream, "rule": fact.rule, "since_utc": iso_utc(fact.since_utc_us), "journal_seq": row.seq,
                         **_present(evidence_sha256=fact.evidence_sha256)}
                standing[fact.stream, fact.rule] = entry
                found.append(entry)
            case e.StreamRestored() as fact if (fact.stream, fact.rule) in standing:
                standing.pop((fact.stream, fact.rule))["until_utc"] = iso_utc(fact.at.utc_us)
            case _:
                pass
    return found


def _hw_counter(opened: e.CheckinOpened) -> dict[str, Any]:
    """What the counter in the machine's security chip says after this opening; "none" where there is no such counter."""
    return {"hw_counter_kind": "none"} if opened.hw_counter is None else {"hw_counter": opened.hw_counter, "hw_counter_kind": "tpm2-nv"}


def _clock(rows: list[e.Recorded], room: RoomFacts, opened: e.CheckinOpened, segments: list[dict[str, Any]],
           version: int) -> dict[str, Any]:
    states: dict[str, int] = {}
    for entry in segments:
        states[entry["clock_state"]] = states.get(entry["clock_state"], 0) + 1
    steps = [{"at": iso_utc(fact.at.utc_us), "boot_us": fact.at.boot_us, "boot_id": fact.at.boot_id, "delta_us": fact.delta_us,
              "journal_seq": seq} for seq, fact in _all(rows, e.ClockStepped)]
    return {"require_sync": room.require_sync, "at_open": opened.clock_state, "states": states, "steps": steps,
            **({"anchors": _anchors(rows)} if version > 1 else {})}


def _anchors(rows: list[e.Recorded]) -> list[dict[str, Any]]:
    """Every point at which wall clock and boot clock were read together, in the order of the journal: opening, every ten minutes, close,
    seal. A room program of before readings were kept leaves them out."""
    found = []
    for row in rows:
        match row.event:
            case e.CheckinOpened(clock=dict() as read) as fact:
                found.append(_anchor("open", row.seq, fact.at, read))
            case e.ClockRead() as fact:
                found.append(_anchor("checkpoint", row.seq, fact.at, fact.clock))
            case e.SealOrdered(clock=dict() as read) as fact:
                found.append(_anchor("close", row.seq, fact.at, read))
            case e.Sealed(clock=dict() as read) as fact:
                found.append(_anchor("seal", row.seq, fact.at, read))
            case _:
                pass
    return found


def _anchor(what: str, seq: int, at: Stamp, read: dict[str, Any]) -> dict[str, Any]:
    return {"what": what, **_moment(at), **_present(**{key: read.get(key) for key in ("state", "source", "max_error_us", "offset_us")}),
            "journal_seq": seq}


def _totals(opened: e.CheckinOpened, segments: list[dict[str, Any]], gaps: list[dict[str, Any]]) -> dict[str, Any]:
    names = set(opened.streams) | {entry["stream"] for entry in [*segments, *gaps]}
    totals: dict[str, Any] = {}
    for stream in sorted(names):
        mine, holes = ([entry for entry in entries if entry["stream"] == stream] for entries in (segments, gaps))
        totals[stream] = {"segments": len(mine), "bytes": sum(s["bytes"] for s in mine), "dur_us": sum(s["dur_us"] for s in mine),
                          "gaps": len(holes), "gap_us": sum(g["dur_us"] for g in holes)}
    return totals


# ---- words ------------------------------------------------------------------------------------------------------------

def _moment(at: Stamp) -> dict[str, Any]:
    return {"utc": iso_utc(at.utc_us), "boot_us": at.boot_us, "boot_id": at.boot_id}


def _when(seq: int, fact: e.Event) -> dict[str, Any]:
    return {"at": iso_utc(fact.at.utc_us), "journal_seq": seq}


def _present(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _hashed(text: str | None) -> str | None:
    return sha256_hex(text.encode()) if text is not None else None


def _all(rows: Sequence[e.Recorded], kind: type[Fact]) -> Iterator[tuple[int, Fact]]:
    return ((row.seq, row.event) for row in rows if isinstance(row.event, kind))


def _first(rows: Sequence[e.Recorded], kind: type[e.Event]) -> e.Recorded:
    for row in rows:
        if isinstance(row.event, kind):
            return row
    raise ManifestError(f"the session has no {kind.__name__}")


def _last(rows: Sequence[e.Recorded], kind: type[e.Event]) -> e.Recorded:
    return _first(rows[::-1], kind) if rows else _first(rows, kind)


def _fact(row: e.Recorded, kind: type[Fact]) -> Fact:
    if not isinstance(row.event, kind):
        raise ManifestError(f"row {row.seq} is no {kind.__name__}")
    return row.event


def _without_numbers(value: Any) -> Any:
    """`value` with everything withheld that looks like an 18-character ID number (digests and run ids apart)."""
    if isinstance(value, dict):
        return {_without_numbers(key): _without_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_numbers(each) for each in value]
    if isinstance(value, str) and not _HEX.fullmatch(value):
        return _NUMBER.sub(_WITHHELD, value)
    return value
