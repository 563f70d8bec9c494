"""The notary: believes nothing unsigned from the province, and signs what the room owes it.

A follower of the Room. Coming in: plans, rosters and receipts are verified here and only then reported as facts. Going out: each
opened session gets a signed session-open; each ordered seal gets its books closed (wait for the last segments, declare what is
missing), a manifest, and a place in the outbox; a segment that comes to light later gets a further revision. Everything it does
follows from the room's state, so a restart at any moment goes on where it was. Composed in `app`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from edge.capture.control import RecorderControl
from edge.clock import US, Stamp, parse_utc
from edge.evidence import envelope as dsse
from edge.evidence import manifest
from edge.evidence.chain import canonical
from edge.evidence.signers import SignerFault
from edge.room import Room
from edge.sessions import events as e
from edge.sessions import incidents, policy
from edge.sessions.machine import IllegalStep, Session, State
from edge.sessions.roster import parse_roster
from edge.storage.journal import Delivered, Envelope
from edge.storage.outbox import OutboxItem

log = logging.getLogger(__name__)

OPEN_FIRST, MANIFEST_NEXT = 10, 20      # an open goes before a manifest: it must be held before the first candidate is in
LOOK_S = 0.5
SIGN_AGAIN_S = 5.0                      # a key that does not sign is tried again so often
LATE_REST_US = 2 * US                   # several segments may be recovered together: one revision for them


class Notary:
    """`facts`: what a signed document says of this room and device. `root_pem`: the one authority that is believed."""

    def __init__(self, room: Room, signer: dsse.Signer, root_pem: bytes, facts: manifest.RoomFacts, recorder: RecorderControl,
                 seal_wait_s: int, policies: policy.Table = policy.BUILT_IN) -> None:
        self._policies = policies
        self._room, self._signer, self._root_pem, self._facts = room, signer, root_pem, facts
        self._recorder, self._seal_wait_us = recorder, seal_wait_s * US
        self._cut: set[tuple[str, State]] = set()
        self._refused: dict[str, str] = {}
        self._compared: set[tuple[str, int]] = set()        # revisions whose gaps were found to be the right ones

    async def run(self) -> None:
        """Look at each change, and twice a second while books are being closed. Never returns."""
        waker = self._room.changed()
        while True:
            waker.clear()
            lost = not await self._steps()
            closing = any(s.state is State.SEALING or s.late_segments for s in self._room.state.sessions.values())
            try:
                await asyncio.wait_for(waker.wait(), SIGN_AGAIN_S if lost else LOOK_S if closing else None)
            except TimeoutError:
                continue

    async def _steps(self) -> bool:
        """All that is due. False if the device's key does not sign now (a fact, once): nothing is lost, and it is tried again."""
        try:
            while await self.step():
                pass
        except SignerFault as fault:
            if self._room.state.signer_lost is None:
                log.error("signer-lost word=%s detail=%s", fault.word, fault)
                await self._room.report(e.SignerLost(at=self._room.clock.now(), reason=fault.word))
            return False
        return True

    async def step(self) -> bool:
        """Do the first thing that is due; False if there is none.

        What is ordered is signed before any further books are closed: each manifest names the one before it, without a fork.
        """
        for session in self._room.state.sessions.values():
            if session.revisions and session.revisions[-1].digest is None:
                await self._sign_manifest(session)
                return True
        for session in self._room.state.sessions.values():
            if session.opened is None:
                continue
            if session.open_digest is None:
                await self._sign_open(session)
                return True
            await self._send_cut(session)
            if session.state is State.SEALING:
                if await self._close_books(session):
                    return True
            elif (session.late_segments or session.late_corrections or self._declared_too_much(session)) and await self._amend(session):
                return True
        return False

    # ---- going out ----------------------------------------------------------------------------------------------------

    async def _send_cut(self, session: Session) -> None:
        """Segments are cut where the session's interval begins and ends, once each. A recorder that is away rotates by itself."""
        mark = (session.id, session.state)
        if session.state in (State.CHECKIN, State.SEALING) and mark not in self._cut:
            self._cut.add(mark)
            if not await self._recorder.cut():
                log.warning("cut-not-heard session=%s", session.id)

    async def _sign_open(self, session: Session) -> None:
        state = self._room.state
        document = manifest.session_open(self._room.events(session.id), self._facts, state.last_manifest, state.last_manifest_receipt)
        digest, body = await self._seal(dsse.SESSION_OPEN, document)
        await self._room.report(e.OpenSigned(at=self._room.clock.now(), session=session.id, digest=digest),
                                Envelope("session-open", digest, body, priority=OPEN_FIRST))

    async def _sign_manifest(self, session: Session) -> None:
        revision = session.revisions[-1].number
        document = manifest.manifest(self._room.events(session.id), self._facts, revision)
        digest, body = await self._seal(dsse.SESSION_MANIFEST, document)
        await self._room.report(e.ManifestSigned(at=self._room.clock.now(), session=session.id, revision=revision, digest=digest),
                                Envelope("session-manifest", digest, body, revision=revision, priority=MANIFEST_NEXT))

    async def _seal(self, kind: str, document: dict[str, Any]) -> tuple[str, bytes]:
        """(digest, envelope). In a thread: a token or TPM takes its time, and meanwhile people are at the door."""
        body = await asyncio.to_thread(dsse.seal, kind, document, self._signer)
        if self._room.state.signer_lost is not None:
            await self._room.report(e.SignerBack(at=self._room.clock.now()))
        return hashlib.sha256(canonical(document)).hexdigest(), body

    async def _close_books(self, session: Session) -> bool:
        """Declare the gaps and close, once the last segments are here or the wait is over."""
        order = session.seal_order
        if order is None or session.opened is None:
            return False
        now = self._room.clock.now()
        segments = self._segments(session)
        here = {s.stream for s in segments if Stamp(s.end_utc_us, s.end_boot_us, s.boot_id).us_since(order.at) >= 0}
        if here < set(session.opened.streams) and 0 <= now.us_since(order.at) < self._seal_wait_us:
            return False
        await self._declare_gaps(session, segments, 1)
        roster = self._room.rosters[session.id]
        ended = self._room.local_date((session.ended or order).at.utc_us)
        doubtful = any(a.doubt and a.doubt.settled and a.doubt.settled.outcome == "escalated" for a in session.admitted.values())
        grave = [each.fact for each in session.incidents if each.stands and incidents.keeps_longer(each.fact.code)]
        await self._hold(session, grave)
        name, until, basis = self._policies.longest(session.plan.retention_policy, [c.person_category for c in roster.candidates], ended,
                                                    incident=doubtful or bool(grave))
        state = self._room.state
        await self._room.report(e.Sealed(
            at=self._room.clock.now(), session=session.id, revision=1, opened_total=state.opened_total,
            closed_total=state.closed_total + 1, keep_until=until.isoformat(), retention_policy=name, retention_basis=basis,
            open_receipt=session.open_receipt, prev_manifest=state.last_manifest, prev_receipt=state.last_manifest_receipt,
            clock=self._room.instruments.clock().as_fact(), manifest_version=manifest.VERSION))
        return True

    async def _hold(self, session: Session, grave: list[e.IncidentReported]) -> None:
        """The gravest breaches keep a session until an auditor releases it, each by a hold of its own."""
        for fact in grave:
            hold_id = f"H-incident-{fact.number}"
            if incidents.keeps_for_good(fact.code) and hold_id not in session.holds:
                await self._room.report(e.HoldPlaced(at=self._room.clock.now(), session=session.id, hold_id=hold_id, by="room",
                                                     reason=f"incident {fact.number}: {fact.code}"))

    async def _amend(self, session: Session) -> bool:
        """Segments came after sealing, or attendance was put right: the next revision says so."""
        last, events = session.revisions[-1], self._room.events(session.id)
        kinds = (e.SegmentStored, e.AttendanceCorrected) if session.late_corrections else e.SegmentStored
        newest = max(r.event.at for r in events if isinstance(r.event, kinds))
        if last.digest is None or 0 <= self._room.clock.now().us_since(newest) < LATE_REST_US:
            return False
        revision = last.number + 1
        await self._declare_gaps(session, self._segments(session), revision)
        state = self._room.state
        await self._room.report(e.SessionAmended(
            at=self._room.clock.now(), session=session.id, revision=revision,
            reason="attendance-corrected" if session.late_corrections else "segment-recovered", amends=last.digest,
            open_receipt=session.open_receipt, prev_manifest=state.last_manifest, prev_receipt=state.last_manifest_receipt))
        return True

    def _declared_too_much(self, session: Session) -> bool:
        """Did a segment come between the declaring of gaps and the closing of the books? Asked once of each revision without an answer."""
        last = session.revisions[-1] if session.revisions else None
        if last is None or last.digest is None or last.receipt_sha256 or session.opened is None or session.seal_order is None:
            return False
        if (session.id, last.number) not in self._compared:
            declared = {(g.stream, g.from_utc_us, g.to_utc_us) for r in self._room.events(session.id)
                        if isinstance(g := r.event, e.GapDeclared) and g.revision == last.number}
            found = manifest.find_gaps(self._segments(session), session.opened.streams, session.opened.at, session.seal_order.at)
            if declared != {(gap.stream, gap.from_utc_us, gap.to_utc_us) for gap in found}:
                return True
            self._compared.add((session.id, last.number))
        return False

    async def _declare_gaps(self, session: Session, segments: list[e.SegmentStored], revision: int) -> None:
        if session.opened is None or session.seal_order is None:
            return
        declared = {(g.stream, g.from_utc_us) for r in self._room.events(session.id)
                    if isinstance(g := r.event, e.GapDeclared) and g.revision == revision}      # a restart in the middle of declaring
        for gap in manifest.find_gaps(segments, session.opened.streams, session.opened.at, session.seal_order.at):
            if (gap.stream, gap.from_utc_us) not in declared:
                await self._room.report(e.GapDeclared(
                    at=self._room.clock.now(), session=session.id, stream=gap.stream, revision=revision, from_utc_us=gap.from_utc_us,
                    to_utc_us=gap.to_utc_us, dur_us=gap.dur_us, reason=gap.reason))

    def _segments(self, session: Session) -> list[e.SegmentStored]:
        return [r.event for r in self._room.events(session.id) if isinstance(r.event, e.SegmentStored)]

    # ---- coming in ----------------------------------------------------------------------------------------------------

    async def plans(self, plans: list[dict[str, Any]]) -> None:
        """The platform's plans for this room (shape checked by the client). One that it cancelled before the doors opened is cancelled."""
        for plan in plans:
            if plan["room_code"] != self._facts.room_code:
                log.warning("plan-for-another-room session=%s", plan["session_id"])
                continue
            planned, body = self._planned(plan)
            session = self._room.state.sessions.get(plan["session_id"])
            if plan.get("state") != "cancelled":
                await self._room.plan(planned, body)
            elif session and session.state in (State.PLANNED, State.PREFLIGHT):
                with suppress(IllegalStep):     # the chief opened the doors at this very moment
                    await self._room.report(e.SessionCancelled(at=self._room.clock.now(), session=session.id, by="platform",
                                                               reason="cancelled by the platform"))

    def _planned(self, plan: Mapping[str, Any]) -> tuple[e.SessionPlanned, str]:
        body = canonical(dict(plan))
        rules = plan["rules"]
        return e.SessionPlanned(
            at=self._room.clock.now(), session=plan["session_id"], plan_id=plan["plan_id"], session_kind=plan["session_type"],
            title=plan["title"], scheduled_start_us=parse_utc(plan["scheduled_start"]), duration_min=plan["duration_min"],
            staff={s["staff_id"]: s["role"] for s in plan["staff"]}, min_proctors=rules["min_proctors"],
            late_cutoff_min=rules["late_cutoff_min"], checkin_open_min=rules["checkin_open_min"],
            earliest_leave_min=rules.get("earliest_leave_min", 30), retention_policy=plan["retention_policy"],
            plan_sha256=hashlib.sha256(body).hexdigest(), source="platform"), body.decode()

    async def roster(self, plan_id: str, envelope: bytes) -> bool:
        """A roster envelope. True if nothing more is wanted of it; False: bring it again (its plan is unknown, or it proves nothing)."""
        session = next((s for s in self._room.state.sessions.values() if s.plan.plan_id == plan_id), None)
        if session is None:
            return False
        if session.state not in (State.PLANNED, State.PREFLIGHT):
            return True
        try:
            opened = dsse.read_envelope(envelope, self._root_pem, dsse.ROSTER, "platform", self._room.clock.now().utc_us)
            roster = parse_roster(opened.payload)
            if roster.session_id != session.id or opened.payload.get("room_code") != self._facts.room_code:
                raise ValueError("it is for another session or room")
            if session.roster and session.roster.source == "platform" and roster.version < session.roster.version:
                raise ValueError("it is older than the list we hold")
        except ValueError as error:
            reason = getattr(error, "word", "content")
            if self._refused.get(plan_id) != reason:
                log.warning("roster-refused session=%s reason=%s", session.id, reason)
                with suppress(IllegalStep):     # the doors opened at this very moment: no list is wanted any more
                    await self._room.report(e.RosterRefused(at=self._room.clock.now(), session=session.id, reason=reason))
            self._refused[plan_id] = reason
            return False
        self._refused.pop(plan_id, None)
        await self._room.accept_roster(e.RosterAccepted(
            at=self._room.clock.now(), session=session.id, version=roster.version, count=len(roster.candidates),
            roster_sha256=opened.digest, source="platform"), roster)
        return True

    async def receipt(self, item: OutboxItem, envelope: bytes) -> bool:
        """The platform's answer to what was sent. True: it proves something, and is in the journal. *Accepted* comes only from here."""
        try:
            opened = dsse.read_envelope(envelope, self._root_pem, dsse.RECEIPT, "platform", None)
            payload = opened.payload
            received = parse_utc(payload["received_utc"])
            dsse.read_envelope(envelope, self._root_pem, dsse.RECEIPT, "platform", received)
            self._must_answer(payload, item)
            fact = e.ReceiptVerified(
                at=self._room.clock.now(), session=item.session, answers=item.kind, digest=item.digest, receipt_sha256=opened.digest,
                verdict=payload["verdict"], platform_seq=payload["platform_seq"], received_utc_us=received, revision=item.revision,
                reasons=tuple(str(r["code"]) for r in payload["reasons"]), keep_until=payload.get("keep_until"))
        except (ValueError, KeyError, TypeError) as error:      # the last two: signed, but not what a receipt is
            await self._refuse_receipt(item, getattr(error, "word", "content"))
            return False
        self._refused.pop(item.digest, None)
        await self._room.report(fact, Envelope("receipt", opened.digest, envelope, revision=item.revision, answers=item.digest),
                                Delivered(item.digest))
        return True

    def _must_answer(self, payload: Mapping[str, Any], item: OutboxItem) -> None:
        told = (payload.get("type"), payload.get("kind"), payload.get("digest"), payload.get("session_id"), payload.get("room_code"),
                payload.get("device"), payload.get("revision") if item.kind == "session-manifest" else None)
        wanted = ("exam-platform-receipt/v1", item.kind, item.digest, item.session, self._facts.room_code, self._facts.device_id,
                  item.revision)
        if told != wanted:
            raise dsse.EnvelopeError("other-digest" if told[2] != wanted[2] else "other-subject",
                                     "the receipt answers something else than what was sent")
        if payload["verdict"] not in ("accepted", "rejected") or type(payload["platform_seq"]) is not int:
            raise dsse.EnvelopeError("content", "the receipt says neither accepted nor rejected")
        if not isinstance(payload["reasons"], list) or not isinstance(payload.get("keep_until", ""), str):
            raise dsse.EnvelopeError("content", "the receipt's reasons or date do not have their form")

    async def _refuse_receipt(self, item: OutboxItem, reason: str) -> None:
        """Once per reason: the courier goes on asking, the journal need not repeat it."""
        if self._refused.get(item.digest) == reason:
            return
        self._refused[item.digest] = reason
        log.error("receipt-refused session=%s kind=%s reason=%s", item.session, item.kind, reason)
        try:
            await self._room.report(e.ReceiptRefused(at=self._room.clock.now(), session=item.session, answers=item.kind,
                                                     digest=item.digest, reason=reason))
        except IllegalStep:
            log.error("receipt-refused-out-of-order session=%s", item.session)
