"""The heart: what may happen in the exam room.

One door in: devices and followers say `await room.report(fact)`, people use the verbs below. One rule of flow, `_append`: the fact
is checked against what has happened (`sessions.machine`), written to the journal with its rows, and only then is it so. Effects
(recorder, courier, pages, the notary) are followed, never fired: they wait for `changed()` and compare what is with what should be.
Nothing here stops a recording; there is no such verb.

A verb that may not be carried out raises `Refusal` with a word for the page; nothing was written then.
(More than 400 lines: all that can happen in the room stands in one file, and is read from top to bottom: the rule of flow, what people
do, what the devices bring, questions, guards. What it looks at is `instruments`, the lists are `rosters`, a verdict as it is shown is
`sessions.verdict`.)
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from edge.capture.control import WatchStatus
from edge.capture.sidecar import Sidecar
from edge.clock import US, Clock, Stamp, local_date
from edge.idcheck.reader import CardSeen, CardUnreadable
from edge.instruments import Instruments, readings
from edge.rosters import Rosters
from edge.sessions import door, incidents, machine, space
from edge.sessions import events as e
from edge.sessions.differences import compare
from edge.sessions.identity import mask_name
from edge.sessions.machine import IllegalStep, RoomState, Session, State
from edge.sessions.number import is_valid
from edge.sessions.preflight import FRESH_MS, Preflight, Result, judge
from edge.sessions.roster import OFF_ROSTER, Candidate, Code, Roster, Verdict
from edge.sessions.verdict import DoorVerdict, shown
from edge.storage import rebuild
from edge.storage.catalog import Catalog, Segment
from edge.storage.database import Database
from edge.storage.journal import Beside, Journal, OffRoster, People, PlanText, SeenCard
from edge.storage.outbox import Outbox
from edge.storage.photos import Photos
from edge.storage.snapshot import Snapshot
from edge.storage.staff import StaffBook

log = logging.getLogger(__name__)

HOLD_MS = 1900                  # the button is held 2 s; a timer may be a little early
ON_TIME_US = 5 * 60 * US        # R27: a start further from the plan needs a reason
OVER = frozenset({State.CLOSING, State.SEALING, State.SEALED, State.CANCELLED})     # sessions to which nobody can be sent any more


class Refusal(Exception):
    """A verb was not carried out, and nothing was written. `word`: key of the texts (`refusal.<word>`); `facts` fill it in."""

    def __init__(self, word: str, **facts: str | int) -> None:
        super().__init__(word)
        self.word, self.facts = word, facts


@dataclass(frozen=True, slots=True)
class Rules:
    """The room's own settings that the verbs need."""

    room_code: str
    require_sync: bool
    hmac_key: bytes = field(repr=False)
    wedge: bool = False                 # a reader that types numbers like a keyboard may check in (reader.wedge)
    allow_demo_ids: bool = False            # config room.allow_demo_ids


class Room:
    """The exam room. Give it a journal that holds its past; it folds it and goes on from there."""

    def __init__(self, clock: Clock, journal: Journal, catalog: Catalog, outbox: Outbox, staff: StaffBook,
                 instruments: Instruments, rules: Rules, photos: Photos | None = None) -> None:
        self.clock, self.catalog, self.outbox, self.staff = clock, catalog, outbox, staff
        self.instruments, self.rules, self.photos = instruments, rules, photos
        self._journal = journal
        self._turn = asyncio.Lock()
        self._wakers: set[asyncio.Event] = set()
        self.version = 0                        # grows with every change; a page that has it is up to date
        self.last_verdict: DoorVerdict | None = None
        self._snapshot = Snapshot(journal, rules.hmac_key)
        self.state: RoomState = self._snapshot.recall()
        self.rosters = Rosters(lambda: self.state.sessions, catalog)

    # ---- the one rule of flow -----------------------------------------------------------------------------------------

    async def _append(self, event: e.Event, *beside: Beside) -> e.Recorded:
        """Check, write, then it is so. The caller holds the turn, and keeps it until the write is done even if it is cancelled."""
        after = machine.step(self.state, event)                 # IllegalStep: nothing is written
        writing = asyncio.ensure_future(self._journal.append(event, *beside))   # event, rows, outbox: one transaction
        try:
            return await asyncio.shield(writing)
        finally:
            while not writing.done():                           # a page that went away must not part the state from the disk
                with suppress(asyncio.CancelledError):
                    await asyncio.wait({writing})
            if writing.exception() is None:
                self.state = after                              # only what is on disk is so
                self.rosters.settle(event.session)
                self._touch()

    async def report(self, event: e.Event, *beside: Beside) -> e.Recorded:
        """A fact from a device or a follower. IllegalStep if it cannot follow what has happened."""
        async with self._turn:
            return await self._append(event, *beside)

    async def remember(self) -> None:
        """Write down what has become of the facts, so that the next start need not fold them. A cache: nothing rests on it."""
        async with self._turn:
            state, head = self.state, self._journal.head
        await self._snapshot.keep(state, head)

    @property
    def unremembered(self) -> int:
        """So many facts would be folded at a start."""
        return self._journal.head[0] - self._snapshot.seq

    def changed(self) -> asyncio.Event:
        """An event that is set at each change; the follower clears it, looks, and waits again. Drop it with `forget`."""
        waker = asyncio.Event()
        waker.set()
        self._wakers.add(waker)
        return waker

    def forget(self, waker: asyncio.Event) -> None:
        self._wakers.discard(waker)

    def _touch(self) -> None:
        self.version += 1
        for waker in self._wakers:
            waker.set()

    # ---- the day of a session: plan and list come; people open, start, end and seal --------------------------------------

    async def plan(self, planned: e.SessionPlanned, body: str) -> None:
        """A plan came (again). From the opened doors on a changed plan changes nothing (it is logged)."""
        async with self._turn:
            session = self.state.sessions.get(planned.session or "")
            if session and session.plan.plan_sha256 == planned.plan_sha256:
                return
            if session and session.state not in (State.PLANNED, State.PREFLIGHT):
                log.warning("plan-change-ignored session=%s state=%s", session.id, session.state)
                return
            await self._append(planned, PlanText(planned.plan_id, planned.scheduled_start_us, body))

    async def accept_roster(self, accepted: e.RosterAccepted, roster: Roster) -> None:
        """A roster whose signature was verified. From the opened doors on the list stands as it is."""
        async with self._turn:
            session = self._known(accepted.session)
            if session.state not in (State.PLANNED, State.PREFLIGHT):
                return
            if session.roster and session.roster.roster_sha256 == accepted.roster_sha256:
                return
            await self._take_roster(session, accepted, roster)

    async def _take_roster(self, session: Session, accepted: e.RosterAccepted, roster: Roster) -> None:
        if session.roster and session.roster.source == "import":       # never silently: what it changes of that one goes into the fact
            found = compare(self.rosters[session.id], roster)
            accepted = replace(accepted, added=len(found.added), removed=len(found.removed), changed=len(found.changed))
        try:
            await self._append(accepted, People([(c, self.subject(c.number)) for c in roster.candidates], roster.elsewhere))
        finally:                                                # on disk though the caller was cancelled: then it is so
            if self.state.sessions[session.id].roster is accepted:
                self.rosters[session.id] = roster

    async def import_roster(self, imported: e.RosterAccepted, roster: Roster, in_place_of: str, pin: str, second_pin: str) -> None:
        """A list from a file, signed by the chief (`by`) and a second person, with a reason, because the platform's own is not here (R5).

        `in_place_of`: digest of the list in force that the two were shown the differences from ('' for none). A list whose signature
        was verified is never replaced by one, and a drill has its own.
        """
        by, second = imported.by or "", imported.second or ""
        await self._must_know_pin(by, pin)
        await self._must_know_pin(second, second_pin)
        async with self._turn:
            session = self._known(imported.session)
            self._must_be_chief(session, by)
            self._must_be_staff(session, second)
            in_force = session.roster.roster_sha256 if session.roster else ""
            if in_force == imported.roster_sha256:
                return
            if session.state in (State.PLANNED, State.PREFLIGHT) and in_force != in_place_of:     # later the machine refuses anyway
                raise Refusal("roster-changed-meanwhile")
            try:
                await self._take_roster(session, imported, roster)
            except IllegalStep as step:
                raise Refusal(step.word, state=session.state) from step

    async def begin_preflight(self, session_id: str, by: str) -> None:
        async with self._turn:
            session = self._known(session_id)
            self._must_be_chief(session, by)
            if session.state is State.PREFLIGHT:
                return
            await self._do(e.PreflightBegun(at=self.clock.now(), session=session_id, by=by))

    async def sign_in(self, session_id: str, staff_id: str, pin: str) -> None:
        """A member of the session's staff is here, said with the PIN. The role is the plan's."""
        await self._must_know_pin(staff_id, pin)
        async with self._turn:
            session = self._known(session_id)
            role = session.plan.staff.get(staff_id)
            if role is None:
                raise Refusal("not-planned-for-this-session", staff=self.staff.name(staff_id))
            if staff_id not in session.present:
                await self._do(e.StaffPresent(at=self.clock.now(), session=session_id, staff_id=staff_id, role=role))

    async def check_exits(self, session_id: str, by: str) -> None:
        async with self._turn:
            session = self._known(session_id)
            self._must_be_staff(session, by)
            await self._do(e.ExitsChecked(at=self.clock.now(), session=session_id, by=by))

    async def waive(self, session_id: str, item: str, reason: str, by: str, second: str, second_pin: str) -> None:
        """Chief and a second person take an item upon themselves, with a reason."""
        await self._must_know_pin(second, second_pin)
        async with self._turn:
            session = self._known(session_id)
            self._must_be_chief(session, by)
            self._must_be_staff(session, second)
            found = next((i for i in self.preflight(session_id).items if i.key == item), None)
            if found is None or not found.waivable:
                raise Refusal("not-waivable", item=item)
            if second == by or not reason.strip():
                raise Refusal("second-person-and-reason")
            await self._do(e.WaiverGranted(at=self.clock.now(), session=session_id, item=item, reason=reason.strip(), by=by, second=second))

    async def open_checkin(self, session_id: str, by: str) -> None:
        """Open the doors: nothing red, chief and proctors present. The session's interval begins here."""
        async with self._turn:
            session = self._known(session_id)
            self._must_be_chief(session, by)
            if session.state is State.CHECKIN:
                return
            if session.state is not State.PREFLIGHT:
                raise Refusal("not-now", state=session.state)
            if self.state.live:
                raise Refusal("another-session-is-live", session=self.state.live)
            found = self.preflight(session_id)
            if found.result is Result.NOT_READY:
                raise Refusal("preflight-red", items=", ".join(found.red))
            self.last_verdict = None            # what was said before the doors opened is no longer so
            await self._do(e.CheckinOpened(
                at=self.clock.now(), session=session_id, by=by, session_seq=self.state.opened_total + 1,
                streams=dict(self.instruments.streams), readings={i.key: str(i.light) for i in found.items},
                clock_state=(reading := self.instruments.clock()).state, clock=reading.as_fact(), hw_counter=self._next_count()))

    async def start_exam(self, session_id: str, by: str, held_ms: int, reason: str = "") -> None:
        """Start the exam's clock: held two seconds, somebody admitted, every expected stream just seen on the disk."""
        async with self._turn:
            session = self._known(session_id)
            self._must_be_chief(session, by)
            if session.state is State.RUNNING:
                return
            if session.state is not State.CHECKIN:
                raise Refusal("not-now", state=session.state)
            if held_ms < HOLD_MS:
                raise Refusal("hold-two-seconds")
            if not session.admitted and session.plan.session_kind != "drill":     # a drill with a real reader has no cards
                raise Refusal("nobody-admitted")
            now = self.clock.now()
            if abs(now.utc_us - session.plan.scheduled_start_us) > ON_TIME_US and not reason.strip():
                raise Refusal("reason-needed", minutes=(now.utc_us - session.plan.scheduled_start_us) // (60 * US))
            ages = self._fresh_ages(session)
            self._must_have_room(session)
            await self._do(e.ExamStarted(at=now, session=session_id, by=by, age_ms=ages, reason=reason.strip() or None))

    async def end_exam(self, session_id: str, by: str, pin: str, held_ms: int, outcome: str = "completed", reason: str = "") -> None:
        """End the exam (not the recording). Aborting or cancelling needs a reason; from check-in on both go through closing."""
        await self._must_know_pin(by, pin)
        async with self._turn:
            session = self._known(session_id)
            self._must_be_chief(session, by)
            if session.state is State.CLOSING:
                return
            if session.state not in (State.RUNNING, State.CHECKIN):
                raise Refusal("not-now", state=session.state)
            if held_ms < HOLD_MS:
                raise Refusal("hold-two-seconds")
            if session.state is State.CHECKIN:
                outcome = "cancelled"
            elif outcome not in ("completed", "aborted", "cancelled"):
                outcome = "aborted"         # the manifest has three words; any other is no regular end
            if outcome != "completed" and not reason.strip():
                raise Refusal("reason-needed", minutes=0)
            await self._do(e.ExamEnded(at=self.clock.now(), session=session_id, by=by, outcome=outcome, reason=reason.strip() or None))

    async def seal(self, session_id: str, by: str, pin: str, second: str, second_pin: str, *,
                   room_empty: bool, absences_confirmed: bool) -> None:
        """Chief and one proctor sign; the interval ends at this moment. The notary then closes the books."""
        await self._must_know_pin(by, pin)
        await self._must_know_pin(second, second_pin)
        async with self._turn:
            session = self._known(session_id)
            self._must_be_chief(session, by)
            if session.state in (State.SEALING, State.SEALED):
                return
            if session.state is not State.CLOSING:
                raise Refusal("not-now", state=session.state)
            if session.plan.staff.get(second) != "proctor" or second == by:
                raise Refusal("a-proctor-must-sign")
            if not room_empty:
                raise Refusal("room-not-empty")
            if session.open_doubts:
                raise Refusal("doubts-open", count=len(session.open_doubts))
            if session.open_incidents:
                raise Refusal("incidents-open", count=len(session.open_incidents))
            absent = tuple(c.candidate_id for c in self.rosters[session_id].candidates
                           if c.candidate_id not in session.admitted and not c.off_roster)
            if absent and not absences_confirmed:
                raise Refusal("absences-unconfirmed", count=len(absent))
            regular = session.ended is not None and session.ended.outcome == "completed"
            family = "class-seal" if session.plan.session_kind == "training_class" else "seal"
            await self._do(e.SealOrdered(at=self.clock.now(), session=session_id, by=by, second=second,
                                         statement=f"{family}.statement" if regular else f"{family}.statement-aborted", absent=absent,
                                         clock=self.instruments.clock().as_fact()))

    async def cancel(self, session_id: str, by: str, pin: str, reason: str) -> None:
        """Call a session off before the doors open. Afterwards use `end_exam`."""
        await self._must_know_pin(by, pin)
        async with self._turn:
            session = self._known(session_id)
            self._must_be_chief(session, by)
            if not reason.strip():
                raise Refusal("reason-needed", minutes=0)
            await self._do(e.SessionCancelled(at=self.clock.now(), session=session_id, by=by, reason=reason.strip()))

    # ---- people at the door and in the room: exceptions, seats, doubts (F2) -----------------------------------------------

    def would_say(self, session_id: str, candidate_id: str) -> Code:
        """What the door would say to a candidate who is checked by hand at this moment."""
        session = self._known(session_id)
        return door.judge_by_hand(self._candidate(session_id, candidate_id), self._doorway(session, self.clock.now())).code

    async def admit_by_hand(self, session_id: str, candidate_id: str, by: str, exception: str, reason: str = "", pin: str = "") -> None:
        """F2: no card, a dead one, one out of date. In, photographed, and in doubt (存疑) until two have compared and the chief settled it.

        What would keep out a card keeps out here too; what the chief may set aside needs the chief's PIN and a reason.
        """
        if pin:
            await self._must_know_pin(by, pin)
        jpeg = await asyncio.to_thread(self.instruments.door_still) if self.instruments.door_still else None
        async with self._turn:
            session = self._known(session_id)
            self._must_be_staff(session, by)
            if exception not in door.BY_HAND:
                raise Refusal("exception-needed")
            candidate, now = self._candidate(session_id, candidate_id), self.clock.now()
            code = door.judge_by_hand(candidate, self._doorway(session, now)).code
            if code in door.CHIEF_MAY:
                self._must_be_chief(session, by)
                self._must_say_why(pin, reason)
                exception = code
            elif code is not Code.OK:
                raise Refusal("door-says", code=code)
            await self._admit(session, candidate, "manual", exception=exception, by=by, reason=reason.strip() or None,
                              **await self._keep_photo(session_id, jpeg))

    async def admit_despite(self, session_id: str, candidate_id: str, by: str, pin: str, reason: str) -> None:
        """The chief lets in somebody whose card was read and refused as late or for an old theory pass, with a reason."""
        await self._must_know_pin(by, pin)
        async with self._turn:
            session = self._known(session_id)
            self._must_be_chief(session, by)
            self._must_say_why(pin, reason)
            candidate = self._candidate(session_id, candidate_id)
            code = door.judge_by_hand(candidate, self._doorway(session, self.clock.now())).code
            if code not in door.CHIEF_MAY or session.turned_away.get(candidate_id) not in door.CHIEF_MAY:
                raise Refusal("door-says", code=code if code is not Code.OK else Code.NO_CARD)
            method = self._shown(session_id, lambda row: getattr(row.event, "candidate_id", "") == candidate_id)
            await self._admit(session, candidate, method, exception=code, by=by, reason=reason.strip())

    async def admit_off_roster(self, session_id: str, seq: int, by: str, pin: str, second: str, second_pin: str, reason: str) -> None:
        """Chief and a second person let in somebody who is on no list. `seq`: the journal's row of the card that was read and refused."""
        await self._must_know_pin(by, pin)
        await self._must_know_pin(second, second_pin)
        async with self._turn:
            session = self._known(session_id)
            self._must_be_chief(session, by)
            self._must_be_staff(session, second)
            if second == by or not reason.strip():
                raise Refusal("second-person-and-reason")
            await self._admit_stranger(session, seq, by=by, second=second, reason=reason.strip())

    async def join_class(self, session_id: str, seq: int, by: str, reason: str) -> None:
        """签到: somebody who is on no list joins a class; one of its staff says why. `seq`: as for `admit_off_roster`."""
        async with self._turn:
            session = self._known(session_id)
            self._must_be_staff(session, by)
            if session.plan.session_kind != "training_class":
                raise Refusal("not-a-class")
            if not reason.strip():
                raise Refusal("reason-needed", minutes=0)
            await self._admit_stranger(session, seq, by=by, reason=reason.strip())

    async def _admit_stranger(self, session: Session, seq: int, **who: str) -> None:
        if session.state not in (State.CHECKIN, State.RUNNING):
            raise Refusal("not-now", state=session.state)
        seen = self.catalog.stranger(session.id, seq)
        if seen is None:
            raise Refusal("unknown-candidate")
        number, name = seen
        subject = self.subject(number)
        if any(a.subject == subject for a in session.admitted.values()):
            raise Refusal("door-says", code=Code.DUPLICATE)
        await self._admit(session, Candidate(f"{OFF_ROSTER}{seq}", name, "", number, "", None, "", None, "", ""),
                          self._shown(session.id, lambda row: row.seq == seq), exception=str(Code.NOT_ON_ROSTER), **who)

    def _shown(self, session_id: str, which: Callable[[e.Recorded], bool]) -> str:
        """How the last refusal `which` holds for had learned the number: a chip read, or a number typed by a reader."""
        found = (row.event for row in reversed(self.events(session_id)) if isinstance(row.event, e.AdmissionRefused) and which(row))
        refused = next(found, None)
        return refused.method or "id_card" if isinstance(refused, e.AdmissionRefused) else "id_card"

    async def _admit(self, session: Session, candidate: Candidate, method: str, **exception: str | None) -> None:
        """An admission that is not an ordinary card's; the entrance display shows it like one."""
        subject, now, roster = self.subject(candidate.number), self.clock.now(), self.rosters[session.id]
        fact = e.CandidateAdmitted(at=now, session=session.id, candidate_id=candidate.candidate_id, subject=subject, method=method,
                                   seat=door.seat_of(session, candidate), **exception)
        try:
            await self._do(fact, *((OffRoster(candidate, subject),) if candidate.off_roster else ()))
        finally:
            if candidate.off_roster and candidate.candidate_id in self.state.sessions[session.id].admitted:
                self.rosters[session.id] = replace(roster, candidates=(*roster.candidates, candidate))
        code = Code.NO_CARD if method == "manual" else Code.OK
        verdict = shown(now, Verdict(code, candidate), self.state.sessions[session.id], None, name=candidate.name, number=candidate.number,
                        subject=subject)
        self.last_verdict = replace(verdict, first_at_utc_us=None)
        self._touch()

    async def _keep_photo(self, session_id: str, jpeg: bytes | None) -> dict[str, str | None]:
        """Keep the picture of somebody who is about to be let in; or the word why there is none. Never a reason to keep anybody out."""
        if self.instruments.door_still is None or self.photos is None:
            return {"no_photo": "no-camera"}
        if not jpeg:
            return {"no_photo": "no-picture"}
        try:
            path, sha256 = await asyncio.to_thread(self.photos.keep, session_id, jpeg)
        except OSError as error:
            log.warning("door-photo-not-kept error=%s", error.strerror)
            return {"no_photo": "not-kept"}
        return {"photo": path, "photo_sha256": sha256}

    async def assign_seat(self, session_id: str, candidate_id: str, seat: str, by: str, reason: str = "") -> None:
        """A first seat, or another one (with a reason). Never one on which somebody sits, or is expected until the cut-off."""
        async with self._turn:
            session = self._known(session_id)
            self._must_be_staff(session, by)
            candidate, now, seat = self._candidate(session_id, candidate_id), self.clock.now(), seat.strip()
            if not door.is_seat(seat):
                raise Refusal("seat-unfit")
            before = door.seat_of(session, candidate)
            if before == seat:
                return
            if before and not reason.strip():
                raise Refusal("reason-needed", minutes=0)
            owner = door.owner_of(session, self.rosters[session_id], seat, late=self._too_late(session, now), besides=candidate_id)
            if owner is not None:
                raise Refusal("seat-taken", seat=seat, name=mask_name(owner.name))
            await self._do(e.SeatAssigned(at=now, session=session_id, candidate_id=candidate_id, seat=seat, by=by, reason=reason.strip(),
                                          before=before))

    async def mark_left(self, session_id: str, candidate_id: str, by: str, *, final: bool, reason: str = "") -> None:
        """A candidate goes out: for good (`final`) or to come back. Before the earliest moment only the chief may allow it, with why."""
        async with self._turn:
            session, now = self._known(session_id), self.clock.now()
            self._must_be_staff(session, by)
            self._candidate(session_id, candidate_id)
            allowed = session.plan.staff.get(by) == "chief" and reason.strip()
            if session.state is State.RUNNING and not door.may_leave(session, now) and not allowed:
                raise Refusal("too-early-to-leave", minutes=door.earliest_leave_min(session))
            await self._do(e.CandidateLeft(at=now, session=session_id, candidate_id=candidate_id, by=by, final=final,
                                           reason=reason.strip() or None))

    async def mark_returned(self, session_id: str, candidate_id: str, by: str, reason: str = "") -> None:
        """A candidate is back (without the card: with it, the door marks it). Who had left for good: only the chief, with a reason."""
        async with self._turn:
            session = self._known(session_id)
            self._must_be_staff(session, by)
            self._candidate(session_id, candidate_id)
            admission = session.admitted.get(candidate_id)
            if admission and admission.left and admission.left.final:
                self._must_be_chief(session, by)
                if not reason.strip():
                    raise Refusal("reason-needed", minutes=0)
            await self._do(e.CandidateReturned(at=self.clock.now(), session=session_id, candidate_id=candidate_id, method="manual", by=by,
                                               reason=reason.strip() or None))

    async def raise_doubt(self, session_id: str, candidate_id: str, by: str, reason: str) -> None:
        """A member of staff doubts that somebody who is in is the person on the list."""
        async with self._turn:
            session = self._known(session_id)
            self._must_be_staff(session, by)
            self._candidate(session_id, candidate_id)
            if not reason.strip():
                raise Refusal("reason-needed", minutes=0)
            await self._do(e.IdentityDoubted(at=self.clock.now(), session=session_id, candidate_id=candidate_id,
                                             code=str(Code.PHOTO_DOUBT), by=by, reason=reason.strip()))

    async def sign_doubt(self, session_id: str, candidate_id: str, staff_id: str, pin: str) -> None:
        """A member of staff has compared the person with the list and the photo, and says so with the PIN."""
        await self._must_know_pin(staff_id, pin)
        async with self._turn:
            session = self._known(session_id)
            self._must_be_staff(session, staff_id)
            await self._do(e.DoubtSigned(at=self.clock.now(), session=session_id, candidate_id=candidate_id, staff_id=staff_id))

    async def settle_doubt(self, session_id: str, candidate_id: str, by: str, pin: str, outcome: str, reason: str = "") -> None:
        """The chief clears a doubt that two have signed, or hands it on to the authority with a reason."""
        await self._must_know_pin(by, pin)
        async with self._turn:
            session = self._known(session_id)
            self._must_be_chief(session, by)
            if outcome != "cleared" and not reason.strip():
                raise Refusal("reason-needed", minutes=0)
            await self._do(e.DoubtSettled(at=self.clock.now(), session=session_id, candidate_id=candidate_id,
                                          outcome="cleared" if outcome == "cleared" else "escalated", by=by, reason=reason.strip() or None))

    async def correct_attendance(self, session_id: str, candidate_id: str, by: str, pin: str, result: str, reason: str) -> None:
        """The chief puts a mistake right with a new fact: somebody was not let in after all (absent), or was here and not seen (present).

        Until the seal it is part of revision 1; afterwards the notary makes the next revision of it.
        """
        await self._must_know_pin(by, pin)
        async with self._turn:
            session = self._known(session_id)
            self._must_be_chief(session, by)
            candidate = self._candidate(session_id, candidate_id)
            if not reason.strip():
                raise Refusal("reason-needed", minutes=0)
            present = result == "present"
            if present and session.state in (State.CHECKIN, State.RUNNING):
                raise Refusal("check-by-hand")
            await self._do(e.AttendanceCorrected(
                at=self.clock.now(), session=session_id, candidate_id=candidate_id, result="present" if present else "absent", by=by,
                reason=reason.strip(), subject=self.subject(candidate.number) if present else None,
                seat=door.seat_of(session, candidate) if present else None))

    # ---- incidents ------------------------------------------------------------------------------------------------------

    async def report_incident(self, session_id: str, by: str, code: str, detail: str, candidate_id: str = "",
                              happened_utc_us: int | None = None) -> None:
        """One of the session's staff records what happened (F4). `happened_utc_us`: None for now; else between the opening and now."""
        async with self._turn:
            session, now = self._known(session_id), self.clock.now()
            self._must_be_staff(session, by)
            if code not in incidents.CODES:
                raise Refusal("incident-code")
            if not detail.strip():
                raise Refusal("reason-needed", minutes=0)
            if candidate_id:
                self._candidate(session_id, candidate_id)
            happened = now.utc_us if happened_utc_us is None else happened_utc_us
            if session.opened is not None and not session.opened.at.utc_us - 60 * US <= happened <= now.utc_us:
                raise Refusal("incident-time")
            await self._do(e.IncidentReported(at=now, session=session_id, number=len(session.incidents) + 1, code=code, by=by,
                                              detail=detail.strip()[:500], happened_utc_us=happened, candidate_id=candidate_id or None))

    async def confirm_incident(self, session_id: str, number: int, by: str, pin: str, second: str, second_pin: str,
                               informed: str = "") -> None:
        """Two of the session's staff sign an incident, and say what the candidate did when told, if it is about one."""
        await self._must_know_pin(by, pin)
        await self._must_know_pin(second, second_pin)
        async with self._turn:
            session = self._known(session_id)
            self._must_be_staff(session, by)
            self._must_be_staff(session, second)
            await self._do(e.IncidentSettled(at=self.clock.now(), session=session_id, number=number, outcome="confirmed", by=by,
                                             second=second, informed=informed or None))

    async def dismiss_incident(self, session_id: str, number: int, by: str, pin: str, reason: str) -> None:
        """The chief's word that it was none, with why. It stays in the journal and in the manifest, as dismissed."""
        await self._must_know_pin(by, pin)
        async with self._turn:
            session = self._known(session_id)
            self._must_be_chief(session, by)
            if not reason.strip():
                raise Refusal("reason-needed", minutes=0)
            await self._do(e.IncidentSettled(at=self.clock.now(), session=session_id, number=number, outcome="dismissed", by=by,
                                             reason=reason.strip()[:500]))

    # ---- afterwards: looking, handing out, holds, longer terms, and what is over -------------------------------------------

    async def viewed(self, session_id: str, by: str, stream: str, reason: str = "") -> None:
        """Somebody is about to play footage: on disk before the first byte leaves."""
        async with self._turn:
            self._known(session_id)
            await self._do(e.FootageViewed(at=self.clock.now(), session=session_id, by=by, stream=stream, reason=reason or None))

    async def export_begun(self, fact: e.ExportBegun, pin: str = "") -> None:
        """A session is about to leave the room: on disk before the first byte. Whole names and numbers only for an auditor, who signs
        with the PIN and says why. Refusal `auditor-only`, `reason-needed`, `wrong-pin`, `unknown-session`."""
        if fact.people != "masked":
            member = self.staff.members.get(fact.by)
            if member is None or member.role != "auditor":
                raise Refusal("auditor-only")
            if not (fact.reason or "").strip():
                raise Refusal("reason-needed", minutes=0)
            await self._must_know_pin(fact.by, pin)
        async with self._turn:
            self._known(fact.session)
            await self._do(fact)

    async def place_hold(self, session_id: str, by: str, pin: str, reason: str) -> str:
        """Nothing of this session goes until the hold is released. An auditor's, with PIN and reason. Returns the hold's id."""
        hold_id = f"H-{secrets.token_hex(4)}"
        await self._keep(session_id, by, pin, reason, lambda at, why: e.HoldPlaced(
            at=at, session=session_id, hold_id=hold_id, by=by, reason=why))
        return hold_id

    async def release_hold(self, session_id: str, hold_id: str, by: str, pin: str, reason: str) -> None:
        """One hold is over. The others stand, and so does the date until which the session is kept."""
        await self._keep(session_id, by, pin, reason, lambda at, why: e.HoldReleased(
            at=at, session=session_id, hold_id=hold_id, by=by, reason=why))

    async def lengthen(self, session_id: str, keep_until: str, by: str, pin: str, reason: str) -> None:
        """Keep a session longer, to `keep_until` (YYYY-MM-DD). Refusal `not-later` for an earlier day than it has."""
        await self._keep(session_id, by, pin, reason, lambda at, why: e.RetentionLengthened(
            at=at, session=session_id, keep_until=keep_until, by=by, reason=why))

    async def _keep(self, session_id: str, by: str, pin: str, reason: str, fact: Callable[[Stamp, str], e.Event]) -> None:
        await self._must_be_auditor(by, pin)
        async with self._turn:
            self._known(session_id)
            if not reason.strip():
                raise Refusal("reason-needed", minutes=0)
            await self._do(fact(self.clock.now(), reason.strip()[:500]))

    async def approve_disposal(self, sessions: Sequence[str], size: int, by: str, pin: str) -> None:
        """An auditor has looked at what is due (`size` bytes in all) and agrees that it goes, though it is more than goes unasked."""
        await self._must_be_auditor(by, pin)
        async with self._turn:
            for each in sessions:
                self._known(each)
            await self._append(e.DisposalApproved(at=self.clock.now(), by=by, sessions=tuple(sorted(sessions)), bytes=size))

    async def dispose(self, session_id: str, account: Callable[[Stamp], e.FootageDisposed], *beside: Beside) -> e.FootageDisposed:
        """The session's time is over (the keeper has judged; the machine judges again). Rows and people go with the fact, files after it.

        `account` counts what goes at the moment of writing: nothing can join the session in between."""
        async with self._turn:
            fact = account(self.clock.now())
            await self._append(fact, *beside)
            return fact

    # ---- what the devices bring ---------------------------------------------------------------------------------------

    async def card(self, card: CardSeen | CardUnreadable) -> DoorVerdict:
        """A card at the door: admitted, or refused with a code. The verdict is on disk before anybody sees it."""
        async with self._turn:
            session = self._session_at_the_door()
            if isinstance(card, CardUnreadable):
                code = door.judge_unreadable(card.reason)
                verdict = DoorVerdict(card.at, code, session.id if session else None, reason=card.reason)
                if session:
                    await self._append(e.AdmissionRefused(at=card.at, session=session.id, code=code))
            else:
                verdict = await self._judge(card, session)
            self.last_verdict = verdict
            self._touch()
            return verdict

    async def wedge(self, session_id: str, number: str, by: str) -> DoorVerdict:
        """A keyboard reader typed an ID number (normalised). It proves less than a chip: it counts only where the site says so
        (`reader.wedge`), and the facts say `id_wedge`. Refusal `not-a-number` if it is no well-formed number, `no-wedge` if it may not."""
        if not is_valid(number, allow_demo=self.rules.allow_demo_ids):
            raise Refusal("not-a-number")
        if not self.rules.wedge:
            raise Refusal("no-wedge")
        async with self._turn:
            session, at = self._known(session_id), self.clock.now()
            self._must_be_staff(session, by)
            if session is not self._session_at_the_door():
                raise Refusal("not-now", state=session.state)
            found = door.judge_number(number, self._doorway(session, at))
            self.last_verdict = await self._decide(at, session, found, number, found.candidate.name if found.candidate else "", "id_wedge")
            self._touch()
            return self.last_verdict

    async def _judge(self, card: CardSeen, session: Session | None) -> DoorVerdict:
        who = card.identity
        return await self._decide(card.at, session, door.judge_card(who, self._doorway(session, card.at)), who.number, who.name, "id_card")

    async def _decide(self, at: Stamp, session: Session | None, found: Verdict, number: str, name: str, method: str) -> DoorVerdict:
        """The verdict becomes a fact; what is shown of it comes back."""
        candidate, subject = found.candidate, self.subject(number)
        other = self.state.sessions.get(found.other_session or "")
        verdict = shown(at, found, session, other, name=name, number=number, subject=subject)
        if session is None:
            return verdict
        if found.code is Code.OK and candidate is not None:
            await self._append(e.CandidateAdmitted(at=at, session=session.id, candidate_id=candidate.candidate_id,
                                                   subject=subject, method=method, seat=verdict.seat))
        elif found.code is Code.RETURNED and candidate is not None:
            await self._append(e.CandidateReturned(at=at, session=session.id, candidate_id=candidate.candidate_id, method=method))
        elif found.code is Code.LEFT and candidate is not None:
            await self._append(e.CandidateLeft(at=at, session=session.id, candidate_id=candidate.candidate_id, method=method, final=False))
        else:
            await self._append(e.AdmissionRefused(at=at, session=session.id, code=found.code, subject=subject,
                                                  candidate_id=candidate.candidate_id if candidate else None,
                                                  method=method if method != "id_card" else None), SeenCard(number, name))
        return verdict

    async def segment(self, sidecar: Sidecar, path: str, sidecar_sha256: str) -> None:
        """A segment is whole on disk. Always a row; and a fact of each session whose interval it overlaps. Safe to repeat."""
        start, end = sidecar.start, sidecar.end
        facts: dict[str, Any] = {name: getattr(sidecar, name) for name in (
            "stream", "seq", "run", "dur_us", "frame_us", "bytes", "sha256", "codec", "end_reason", "recovered", "clock_state",
            "audio_peak_cdb", "silent_ms")}
        facts |= {"start_utc_us": start.utc_us, "end_utc_us": end.utc_us, "start_boot_us": start.boot_us, "end_boot_us": end.boot_us,
                  "boot_id": start.boot_id, "path": path, "sidecar_sha256": sidecar_sha256}
        segment = Segment(**facts)
        async with self._turn:
            owed = [s.id for s in self.state.sessions.values()
                    if s.covers(start, end) and s.opened and sidecar.stream in s.opened.streams
                    and not self.catalog.in_session(s.id, sidecar.stream, sidecar.seq)]
            if not owed:
                await self.catalog.add_segment(segment)
            for session_id in owed:     # the row comes with the last fact: until all are written, the intake brings the segment again
                await self._append(e.SegmentStored(at=self.clock.now(), session=session_id, **facts),
                                   *((segment,) if session_id == owed[-1] else ()))

    async def clock_stepped(self, at: Stamp, delta_us: int) -> None:
        """The wall clock jumped: a fact of the live session if there is one, so that its manifest says so."""
        await self.of_the_box(e.ClockStepped(at=at, delta_us=delta_us))

    async def of_the_box(self, event: e.Event) -> None:
        """A fact of the box that stands among those of the live session, if there is one at the moment of writing."""
        async with self._turn:
            await self._append(replace(event, session=self.state.live))

    async def resumed(self, database: Database) -> None:
        """Say of each stretch that this journal has lost that it has: once, at the first start afterwards."""
        for start_utc_us, end_utc_us, why in rebuild.untold(database):
            await self.report(e.JournalResumed(at=self.clock.now(), from_utc_us=start_utc_us, to_utc_us=end_utc_us, why=why))

    # ---- questions ----------------------------------------------------------------------------------------------------

    def events(self, session: str) -> list[e.Recorded]:
        """All facts of a session, in order, as the journal holds them."""
        return self._journal.of_session(session)

    def preflight(self, session_id: str) -> Preflight:
        """The list as it stands at this moment."""
        session = self._known(session_id)
        found = readings(self.instruments, self.state, session, self.clock.now(), require_sync=self.rules.require_sync)
        return judge(found, {w.item for w in session.waivers})

    @property
    def journal_head(self) -> tuple[int, str]:
        """Number and hash of the journal's last row."""
        return self._journal.head

    def stream_age_ms(self, stream: str) -> int | None:
        """Milliseconds since the newest sample of a stream reached the disk; None if there is none of this boot."""
        return self.instruments.age_ms(stream, self.clock.now())

    def watched(self, stream: str) -> WatchStatus | None:
        """What the watcher says of a stream now; None if it has not spoken for five seconds."""
        return self.instruments.watched(stream, self.clock.now())

    def peak_cdb(self, stream: str) -> int | None:
        """Loudest sound of the last second in the recorded file, hundredths of a dBFS; None if none was measured just now."""
        return self.instruments.peak_cdb(stream, self.clock.now())

    def subject(self, number: str) -> str:
        """The HMAC-SHA256 that stands for an ID number in facts and manifests."""
        return hmac.new(self.rules.hmac_key, number.encode(), hashlib.sha256).hexdigest()

    def local_date(self, utc_us: int) -> date:
        """The day in the exam room."""
        return local_date(utc_us)

    def _session_at_the_door(self) -> Session | None:
        session = self.state.sessions.get(self.state.live or "")
        return session if session and session.state in (State.CHECKIN, State.RUNNING, State.CLOSING) else None

    def _doorway(self, session: Session | None, at: Stamp) -> door.Doorway:
        """How things stand at the door at this moment."""
        today, here = self.local_date(at.utc_us), session.id if session else ""
        others = {s.id: self.rosters[s.id] for s in sorted(self.state.sessions.values(), key=lambda s: s.plan.scheduled_start_us)
                  if s.id != here and s.state not in OVER and self.local_date(s.plan.scheduled_start_us) == today and s.id in self.rosters}
        coming = {s: r for s, r in others.items() if self.state.sessions[s].state in (State.PLANNED, State.PREFLIGHT)}
        return door.Doorway(session, self.rosters.get(here), others, coming, today, session is not None and self._too_late(session, at), at)

    def _next_count(self) -> int | None:
        """What the hardware counter will say after one more opening; None where there is none, or it cannot be read now."""
        read = self.instruments.counter() if self.instruments.counter else None
        return None if read is None else max(read, self.state.hw_counter or 0) + 1

    def _too_late(self, session: Session, at: Stamp) -> bool:
        return session.started is not None and at.us_since(session.started.at) > session.plan.late_cutoff_min * 60 * US

    # ---- guards -------------------------------------------------------------------------------------------------------

    async def _do(self, event: e.Event, *beside: Beside) -> None:
        """Append for a person: what the table forbids is a refusal in words."""
        try:
            await self._append(event, *beside)
        except IllegalStep as step:
            raise Refusal(step.word, state=self.state.sessions[event.session or ""].state, session=self.state.live or "") from step

    def _known(self, session_id: str | None) -> Session:
        session = self.state.sessions.get(session_id or "")
        if session is None:
            raise Refusal("unknown-session")
        return session

    def _must_be_chief(self, session: Session, staff_id: str) -> None:
        if session.plan.staff.get(staff_id) != "chief":
            raise Refusal("chief-only")

    def _candidate(self, session_id: str, candidate_id: str) -> Candidate:
        roster = self.rosters.get(session_id)
        found = next((c for c in roster.candidates if c.candidate_id == candidate_id), None) if roster else None
        if found is None:
            raise Refusal("unknown-candidate")
        return found

    @staticmethod
    def _must_say_why(pin: str, reason: str) -> None:
        if not pin:
            raise Refusal("pin-needed")
        if not reason.strip():
            raise Refusal("reason-needed", minutes=0)

    def _must_be_staff(self, session: Session, staff_id: str) -> None:
        if session.plan.staff.get(staff_id) not in ("chief", "proctor"):
            raise Refusal("not-planned-for-this-session", staff=self.staff.name(staff_id))

    async def _must_know_pin(self, staff_id: str, pin: str) -> None:
        """Argon2 takes its time, so it runs beside the loop. TooSoon after many wrong tries."""
        if not await asyncio.to_thread(self.staff.check_pin, staff_id, pin):
            raise Refusal("wrong-pin", staff=self.staff.name(staff_id))

    async def _must_be_auditor(self, by: str, pin: str) -> None:
        member = self.staff.members.get(by)
        if member is None or member.role != "auditor":
            raise Refusal("auditor-only")
        await self._must_know_pin(by, pin)

    def _must_have_room(self, session: Session) -> None:
        """U21: no exam begins on a disk that will not hold it. What is recorded goes on; what is kept stays."""
        disk, needed = self.instruments.disk(), space.with_reserve(space.session_bytes(self.instruments.kbps(), session.plan.duration_min))
        if disk.free_bytes < needed:
            raise Refusal("disk-too-full", free_gb=disk.free_bytes // 10**9, needed_gb=-(-needed // 10**9))

    def _fresh_ages(self, session: Session) -> dict[str, int]:
        """Each expected stream's age; Refusal if one that was not waived has nothing on the disk in the last two seconds."""
        waived = {w.item for w in session.waivers}
        ages = {stream: self.stream_age_ms(stream) for stream in (session.opened.streams if session.opened else {})}
        stale = [s for s, age in ages.items() if (age is None or age > FRESH_MS) and f"stream:{s}" not in waived]
        if stale:
            raise Refusal("not-recording", streams=", ".join(stale))
        return {stream: -1 if age is None else age for stream, age in ages.items()}
