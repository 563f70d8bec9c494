"""Every fact the journal can hold: one frozen dataclass each, named in the past tense.

A fact has the moment `at` and, if it belongs to a session, its id in `session`. Its other fields are its body: text, whole
numbers, booleans and tuples or dicts of these. No floats (levels are hundredths of a dB), no None in a body (the key is left
out), **no person's number or name**: a candidate is `candidate_id` and `subject` (an HMAC), a member of staff `staff_id`.
(More than 400 lines: one short class for each fact there is.) `encode` and `decode` are the only way between a fact and its
journal row. `docs/reference/events.md` lists them all; a test compares.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from functools import cache
from typing import Any

from edge.clock import Stamp

Json = Any
"""Text, whole number, bool, list or dict of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A fact. `kind` is the class name; that is what the journal stores."""

    at: Stamp
    session: str | None = None

    @property
    def kind(self) -> str:
        return type(self).__name__


# ---- the box ----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonStarted(Event):
    """The room program came up. Digests are lower-case hex SHA-256."""

    version: str
    sw_sha256: str
    config_sha256: str
    device_id: str
    cert_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockStepped(Event):
    """The wall clock jumped against the boot clock by `delta_us` (more than one second either way)."""

    delta_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderLost(Event):
    """The ID-card reader does not answer, or its port is gone. `reason`: one of the words in `idcheck.reader`."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderBack(Event):
    """The ID-card reader answers. `module`: the SAM id as printed by the protocol's own form."""

    module: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLost(Event):
    """A stream has put nothing on the disk for longer than it may. `reason`: the worker's own word."""

    stream: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamBack(Event):
    """A stream puts samples on the disk again."""

    stream: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamImpaired(Event):
    """What a stream records is not fit to be seen or heard. `rule`: sessions.preflight.RED_RULES and AMBER_RULES, or `not-watched`.

    `rules`: version of the watcher's rules (empty for `not-watched`); `since_utc_us`: when the watcher raised it; `evidence`: the
    picture that shows it, below the footage folder.
    """

    stream: str
    rule: str
    rules: str
    since_utc_us: int
    evidence: str | None = None
    evidence_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRestored(Event):
    """An impairment of a stream is over."""

    stream: str
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybackProbed(Event):
    """The day's random stretches of a stream were decoded from the disk (R65). `reason`: of the first that failed."""

    stream: str
    day: str                        # YYYY-MM-DD
    ok: bool
    windows: int
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformLost(Event):
    """The province's platform does not answer. `reason`: refused, timeout, tls, http_503, …"""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformBack(Event):
    """The province's platform answers again."""


# ---- the device's key -------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRolled(Event):
    """Another certificate signs from now on, and the one before it has said so. `digest`: of the key-rollover's payload.

    `from_session_seq`: number of the first session that the new one opens. Certificates by their SHA-256 (DER).
    """

    digest: str
    old_cert_sha256: str
    new_cert_sha256: str
    from_session_seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReplaced(Event):
    """Another certificate signs than at the start before, and nothing that the old key signed says so: it was lost, or had expired."""

    old_cert_sha256: str
    new_cert_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateExpiring(Event):
    """The device's certificate (or one above it) ends on `until_utc_us`, in `days` whole days; negative: it has ended. Told at 90, 30, 14,
    7, 3, 1 and 0 days and once afterwards."""

    cert_sha256: str
    until_utc_us: int
    days: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerLost(Event):
    """The device's key does not sign: what is to be signed waits. `reason`: program-missing, no-answer, key-refused, other-key."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerBack(Event):
    """The device's key signs again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSigned(Event):
    """The device signed how it stands, and the document is on its way. `journal_seq`: the row up to which it speaks."""

    digest: str                     # of its payload
    journal_seq: int


# ---- before the doors open --------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlanned(Event):
    """A plan for this room is known. `staff` maps staff_id to role (chief, proctor, …). A changed plan is a new fact."""

    plan_id: str
    session_kind: str               # exam_theory, exam_practical, exam_teacher, training_class, drill
    title: str
    scheduled_start_us: int
    duration_min: int
    staff: dict[str, str]
    min_proctors: int
    late_cutoff_min: int
    checkin_open_min: int
    retention_policy: str
    plan_sha256: str
    source: str                     # platform, drill
    earliest_leave_min: int | None = None   # None: the usual rule (sessions.door); facts of before this field was known lack it


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterAccepted(Event):
    """A list is the session's from now on: its signature verified, or it was imported from a file, or made on the spot for a drill.

    An imported list has `by` (the chief), `second` and `reason`. One that takes the place of an imported one says how many people it
    adds, takes off, and has other facts of.
    """

    version: int
    count: int
    roster_sha256: str              # of the signed payload; of another list: over candidates whose names and numbers are HMACs
    source: str                     # platform, drill, import
    by: str | None = None
    second: str | None = None
    reason: str | None = None
    added: int | None = None
    removed: int | None = None
    changed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterRefused(Event):
    """A roster came that could not be trusted; the one before stays."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreflightBegun(Event):
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StaffPresent(Event):
    """A member of staff signed in to this session with the PIN. `role` is from the session's plan."""

    staff_id: str
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitsChecked(Event):
    """Somebody walked to the exits and found them free (R19): a camera cannot prove it."""

    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaiverGranted(Event):
    """A preflight item was waived by the chief and a second person, with a reason."""

    item: str
    reason: str
    by: str
    second: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionCancelled(Event):
    """Called off before check-in opened. From check-in on, cancelling goes through closing."""

    by: str
    reason: str


# ---- the session ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True, kw_only=True)
class CheckinOpened(Event):
    """The doors open; the session's interval begins. `streams`: what was expected to record, id -> kind.

    `readings`: each preflight item and its verdict (green, amber, red) at this moment; `clock_state` as in a sidecar; `clock` as in
    ClockRead; `hw_counter`: what the hardware counter says after this opening, where there is one.
    """

    by: str
    session_seq: int
    streams: dict[str, str]
    readings: dict[str, str]
    clock_state: str
    clock: dict[str, str | int] | None = None
    hw_counter: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSigned(Event):
    """The session-open envelope is stored and on its way. `digest` = SHA-256 of its payload."""

    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateAdmitted(Event):
    """Somebody was let in. `method`: id_card (the chip was read), id_wedge (a reader typed the number) or manual (F2).

    What follows the seat is left out for an ordinary card.

    `exception`: the code that would have kept the person out, `by` who let in all the same, `second` the other who signed, `reason`.
    A manual admission stands in doubt (存疑) until it is settled. `photo`: of the person at the door, below the state folder;
    `no_photo`: why there is none.
    """

    candidate_id: str
    subject: str                    # HMAC-SHA256 of the ID number, hex
    method: str                     # id_card, id_wedge, manual
    seat: str | None = None         # None: no seat yet (U5)
    exception: str | None = None
    by: str | None = None
    second: str | None = None
    reason: str | None = None
    photo: str | None = None
    photo_sha256: str | None = None
    no_photo: str | None = None     # no-camera, no-picture, not-kept


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionRefused(Event):
    """A card was shown and nobody was let in. `code`: sessions.roster.Code; `candidate_id` where the roster knows the person."""

    code: str
    subject: str | None = None
    candidate_id: str | None = None
    method: str | None = None       # id_wedge: the number was typed by a keyboard reader; left out: a card was read (or could not be)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeatAssigned(Event):
    """A candidate has another seat from now on, or a first one (`before` left out); who has not come yet will find it at the door."""

    candidate_id: str
    seat: str
    by: str
    reason: str
    before: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateLeft(Event):
    """A candidate went out during the exam: for good (`final`, the paper handed in), or to come back.

    `method`: id_card or id_wedge where a card signs out of a class (签退); then there is no `by`.
    """

    candidate_id: str
    by: str | None = None
    final: bool
    method: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateReturned(Event):
    """A candidate is back in. `method`: id_card (the card was read again; no `by`) or manual. `reason`: where "for good" was a mistake."""

    candidate_id: str
    method: str
    by: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityDoubted(Event):
    """Somebody doubts that an admitted candidate is the person on the list (存疑)."""

    candidate_id: str
    code: str                       # E-PHOTO-DOUBT
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtSigned(Event):
    """A member of staff compared person, list and photo, and signed with the PIN. Two different ones are needed to clear a doubt."""

    candidate_id: str
    staff_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtSettled(Event):
    """The chief's word on a doubt. `outcome`: cleared (two signatures stand), escalated (handed to the authority, with a reason)."""

    candidate_id: str
    outcome: str
    by: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttendanceCorrected(Event):
    """The chief puts attendance right. `result`: absent (the admission was a mistake), present (was here, and nobody checked in).

    Before sealing it is part of revision 1; afterwards it is the ground of the next revision. `subject` with `present` only.
    """

    candidate_id: str
    result: str
    by: str
    reason: str
    subject: str | None = None
    seat: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceCompared(Event):
    """A picture of the door was laid beside a photo of an admitted candidate: advice to the staff, it lets in and turns away nobody.

    `result`: match, review, no-match, not-compared (`reason` says why; then there is no score). Score and limits in thousandths,
    smaller is more alike: a match up to `threshold_x1000`, for a person to look at up to `review_x1000`.
    """

    candidate_id: str
    result: str
    score_x1000: int | None = None
    model: str | None = None        # engine and weights
    threshold_x1000: int | None = None
    review_x1000: int | None = None
    source: str | None = None       # enrolment, chip
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamStarted(Event):
    """`reason` is given where the start is more than five minutes from the plan (R27). `age_ms`: age of each stream's last sample."""

    by: str
    age_ms: dict[str, int]
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamEnded(Event):
    """The exam is over (or was called off after check-in had opened); the recording goes on. `outcome`: completed, aborted, cancelled."""

    by: str
    outcome: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SealOrdered(Event):
    """Chief and a proctor signed, the room is empty: the session's interval ends at this moment."""

    by: str
    second: str
    statement: str                  # the wording that was signed, as a key of the texts
    absent: tuple[str, ...]         # candidate ids confirmed absent
    clock: dict[str, str | int] | None = None    # as in ClockRead


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentStored(Event):
    """A segment on disk that overlaps the session's interval. Times and digests are its sidecar's."""

    stream: str
    seq: int
    path: str                       # below the footage folder
    run: str
    start_utc_us: int
    end_utc_us: int
    start_boot_us: int
    end_boot_us: int
    boot_id: str
    dur_us: int
    frame_us: int                   # usual step between samples of the leading track
    bytes: int
    sha256: str
    sidecar_sha256: str
    codec: str
    end_reason: str
    recovered: bool
    clock_state: str
    audio_peak_cdb: int | None = None
    silent_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GapDeclared(Event):
    """Part of the session's interval that a stream does not have. One full set of gaps is declared for each `revision`."""

    stream: str
    revision: int
    from_utc_us: int
    to_utc_us: int
    dur_us: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed(Event):
    """The session's books are closed: what came by now is in revision 1. The manifest is a function of the session's events up to here."""

    revision: int
    opened_total: int
    closed_total: int
    keep_until: str                 # YYYY-MM-DD
    retention_policy: str
    retention_basis: str
    open_receipt: str | None = None     # SHA-256 of the receipt's payload; None: absent-offline
    prev_manifest: str | None = None    # the room's manifest before this one
    prev_receipt: str | None = None
    clock: dict[str, str | int] | None = None        # as in ClockRead
    manifest_version: int | None = None # by which rules its manifests are made; None: the first


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAmended(Event):
    """Something came to light after sealing (a recovered segment): the ground of revision 2, 3, …"""

    revision: int
    reason: str
    amends: str                     # manifest id of the revision before
    open_receipt: str | None = None
    prev_manifest: str | None = None
    prev_receipt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestSigned(Event):
    """A manifest revision is signed, stored and on its way. `digest` = its id = SHA-256 of its payload."""

    revision: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptVerified(Event):
    """The platform's answer: signature and digest hold. `answers`: session-open, session-manifest."""

    answers: str
    digest: str                     # of what it answers
    receipt_sha256: str             # of the receipt's payload
    verdict: str                    # accepted, rejected
    platform_seq: int
    received_utc_us: int
    revision: int | None = None
    reasons: tuple[str, ...] = ()
    keep_until: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptRefused(Event):
    """An answer that proves nothing: bad signature, other digest, unknown root. What it should answer stays unanswered."""

    answers: str
    digest: str
    reason: str


# ---- afterwards -------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True, kw_only=True)
class FootageViewed(Event):
    """Somebody asked to play a stream of a session; written before the first byte left (E11)."""

    by: str
    stream: str
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportBegun(Event):
    """A session is about to be written out or downloaded; written before the first byte left (E11).

    `form`: zip, folder or download. `people`: masked, or full (names and numbers whole, which an auditor signed for with `reason`).
    `export_id`: stands for the very bytes of a ZIP. `files`, `bytes`: what it will be, `missing`: segments' files that are not there.
    """

    by: str
    form: str
    people: str
    export_id: str
    files: int
    bytes: int
    missing: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionExported(Event):
    """The last byte has left."""

    by: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleFootageExpired(Event):
    """Segments that no session ever covered were removed after `idle_keep_h` hours."""

    stream: str
    first_seq: int
    last_seq: int
    segments: int
    bytes: int


# ---- keeping the store in order ---------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentDamaged(Event):
    """A segment on the disk is not what was sealed. `what`: missing, unreadable, size, digest, sidecar-missing, sidecar."""

    stream: str
    seq: int
    path: str                       # below the footage folder
    what: str
    sha256: str                     # as sealed
    found_sha256: str | None = None
    sessions: tuple[str, ...] = ()  # to which it belongs


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSound(Event):
    """A segment that was damaged is again what was sealed (the disk gives it again, or a copy was put back)."""

    stream: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalResumed(Event):
    """This journal knows nothing of a stretch of time: the state was restored from a backup, or began anew beside older footage.

    Footage of that stretch is kept, whatever its age. `why`: restored, no-journal.
    """

    from_utc_us: int
    to_utc_us: int
    why: str


# ---- the archive ------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True, kw_only=True)
class SessionArchived(Event):
    """Every file and document that the session had at this moment lies in the archive, its lock verified. Again after each change."""

    revision: int
    bucket: str
    objects: int
    bytes: int
    retain_until_utc_us: int        # locked (COMPLIANCE) until then


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveMismatch(Event):
    """A file of the session could not be archived, or is not in the archive what it should be. `name`: in the bundle.

    `reason`: altered (the local file is not what was recorded), missing (there is no local file), unreadable, read-back (the archive gives
    other bytes than it was given; it gets them anew).
    """

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveLost(Event):
    """Nothing gets into the archive any more. `reason`: word of upload.archive.ArchiveError, or behind (sessions wait for days)."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveBack(Event):
    """The archive takes what it is given again."""


# ---- keeping ----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True, kw_only=True)
class HoldPlaced(Event):
    """Nothing of the session may be removed until this hold is released, whatever its date. `hold_id`: unique within the session."""

    hold_id: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldReleased(Event):
    """One hold is over; the others and the date stand."""

    hold_id: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionLengthened(Event):
    """The session is kept longer than was decided at sealing. Never shorter."""

    keep_until: str                 # YYYY-MM-DD
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageDisposed(Event):
    """The session's time is over: its footage and its people's names and numbers are given up. Written before the first file goes.

    `day`: the local day by both clocks, the room's and the platform's last signed one (`witness`: that receipt's digest, at
    `witness_utc_us`). `streams`: id -> segments that go; `list_sha256`: over the lines `path TAB sha256 LF` of what goes, in order of path.
    `approved_by`: who agreed, where more was due than goes without asking.
    """

    policy: str
    keep_until: str                 # YYYY-MM-DD
    day: str                        # YYYY-MM-DD
    segments: int
    bytes: int
    streams: dict[str, int]
    list_sha256: str
    witness: str
    witness_utc_us: int
    approved_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DispositionSigned(Event):
    """The disposition record is signed, stored and on its way. `digest` = SHA-256 of its payload."""

    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DisposalHalted(Event):
    """Sessions are due and nothing is removed. `reason`: too-much (more than a hundredth of the store: somebody must agree),
    files-missing (footage that should be there is not), storage (not the room's own disk), clock (nothing vouches for the time).
    """

    reason: str
    sessions: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DisposalResumed(Event):
    """What had halted it is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DisposalApproved(Event):
    """Somebody looked at what is due and agreed that these sessions go, though it is more than goes without asking."""

    by: str
    sessions: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceLow(Event):
    """The disk will not hold what is to come. `reason`: timetable (the planned sessions do not fit), days (full within a month).

    `foreign_bytes`: what others have put on the disk, as far as can be told.
    """

    reason: str
    free_bytes: int
    needed_bytes: int
    foreign_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceBack(Event):
    """There is room again."""

    free_bytes: int


# ---- incidents, the clock, the hardware counter -----------------------------------------------------------------------

@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentReported(Event):
    """A member of staff records that something happened: a breach of the rules, a technical fault, somebody taken ill.

    `number` counts the session's incidents from 1; `code`: sessions.incidents.CODES; `happened_utc_us`: when, by the one who reports it.
    """

    number: int
    code: str
    by: str
    detail: str                     # in the reporter's words
    happened_utc_us: int
    candidate_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentSettled(Event):
    """What became of an incident. `outcome`: confirmed (two members of staff signed), dismissed (the chief's word that it was none).

    `informed`: what the candidate whom it is about said to it: signed, refused (to sign), absent. Given where it is about somebody.
    """

    number: int
    outcome: str
    by: str
    second: str | None = None       # of a confirmed one
    informed: str | None = None
    reason: str | None = None       # of a dismissed one


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockRead(Event):
    """The clock during a session, every ten minutes: one more point at which wall clock and boot clock are tied together."""

    clock: dict[str, str | int]          # state, source, max_error_us, offset_us where the source tells it (clock minus its reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointsLetGo(Event):
    """Checkpoints and their receipts are kept no longer: a manifest that was signed after them is receipted, and says all that they said.

    `journal_seq`: as in CheckpointSigned, of the last of them; all before it are gone as well. `manifest`: the id of that manifest.
    """

    documents: int
    journal_seq: int
    manifest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterLost(Event):
    """The hardware counter does not say what the journal says, or nothing. `reason`: ahead (the disk was set back to an older state),
    behind (the chip was cleared or changed), program-missing, no-answer, not-there."""

    reason: str
    recorded: int                   # what it should be
    read: int | None = None         # what it is, where it answers


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterBack(Event):
    """The hardware counter answers again, and says what the journal says."""

    read: int


KINDS: dict[str, type[Event]] = {cls.__name__: cls for cls in Event.__subclasses__()}
"""Every fact by its name."""


def encode(event: Event) -> dict[str, Json]:
    """The event's body for the journal: its own fields, None left out, tuples as lists."""
    body: dict[str, Json] = {}
    for field in dataclasses.fields(event):
        value = getattr(event, field.name)
        if field.name in ("at", "session") or value is None:
            continue
        body[field.name] = list(value) if isinstance(value, tuple) else value
    return body


def decode(kind: str, at: Stamp, session: str | None, body: dict[str, Json]) -> Event:
    """The event of a journal row. ValueError if the kind is unknown or the body does not fit it."""
    cls = KINDS.get(kind)
    if cls is None:
        raise ValueError(f"the journal holds a fact of an unknown kind: {kind}")
    tuples = _tuple_fields(kind)
    try:
        return cls(at=at, session=session, **{k: tuple(v) if k in tuples else v for k, v in body.items()})
    except (TypeError, AttributeError) as error:
        raise ValueError(f"the body of a {kind} does not fit: {error}") from error


@cache
def _tuple_fields(kind: str) -> frozenset[str]:
    hints = typing.get_type_hints(KINDS[kind])
    return frozenset(name for name, hint in hints.items() if any(typing.get_origin(h) is tuple for h in _alternatives(hint)))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A fact as the journal holds it: its number, itself, the hash of the row before and its own (lower-case hex SHA-256)."""

    seq: int
    event: Event
    prev: str
    hash: str
