"""The keeper: until when sessions are kept, what goes when, and whether the disk will hold what is to come.

A follower of the Room. Nothing goes before its day, by two clocks: the room's own, disciplined, and the last moment that the platform
has *signed* (a receipt). A clock that jumps or lies therefore deletes nothing; a platform that is silent only postpones. Before the
first file of a session goes there are a fact in the journal and a signed disposition record; holds, exports under way, manifests
without an accepting receipt and the room's own doubts (foreign disk, files that are missing, more due than a hundredth of the store)
stop it, each with a word for the page. Full disks change nothing about any of this: what is due goes at once, and then sessions are
refused (`preflight`). Composed in `app`; everything follows from the room's state, so a restart goes on where it was.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from edge.clock import US, Stamp, iso_utc
from edge.evidence import envelope as dsse
from edge.evidence.chain import canonical
from edge.evidence.disposition import DISPOSITION, disposition
from edge.evidence.manifest import RoomFacts
from edge.room import Refusal, Room
from edge.sessions import events as e
from edge.sessions import policy, space
from edge.sessions.machine import IllegalStep, Session, State
from edge.storage.journal import Envelope
from edge.storage.keeping import Keeping, ToGarbage, Total

log = logging.getLogger(__name__)

KIND, PRIORITY = "session-disposition", 30
LOOK_S, PASS_S, PRESSED_S = 60, 3600, 300
"""How often space is looked at, how often what is due goes, and how often when the disk runs full."""
MOST_SEGMENTS = 20_000
"""Segments given up in one pass: about thirty sessions of four cameras; the unlinking of it takes half a minute."""
ASK_ABOVE = 100
"""More than one hundredth of the store within a day waits for a person (a rule born of other recorders' lost archives)."""
MISSING_OF = 20
"""More than one in twenty of the sampled files not there: the disk is not what it was, nothing goes."""
WITNESS_US = 45 * 86400 * US
"""The longest silence of the platform after which the room's own clock is still believed for small things (idle footage, refused cards)."""
PLAN_US = 2 * 86400 * US
"""The timetable of so long ahead must fit on the disk."""


class _BeingRead(Exception):
    """At this moment somebody exports the session."""


@dataclass(frozen=True, slots=True)
class Means:
    """What the keeper works with. `storage_fault`: why the footage folder is not to be touched, '' if it is sound; `reserved`: sessions
    that are being read (an export); `signer`, `facts`: None for one that only reports; `synced`: whether the wall clock is disciplined
    now; `streams`: those that record."""

    keeping: Keeping
    signer: dsse.Signer | None
    facts: RoomFacts | None
    storage_fault: Callable[[], str]
    synced: Callable[[], bool]
    streams: Collection[str]
    reserved: Callable[[], Collection[str]] = frozenset
    policies: policy.Table = policy.BUILT_IN
    hours_per_year: int = 2640


@dataclass(frozen=True, slots=True)
class Line:
    """One session in the report. `bars`: why it would not go on its day; empty: it goes."""

    session: str
    kept_until: str
    policy: str
    basis: str
    total: Total
    expired: bool
    approved: bool
    bars: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What the next days bring. `store`: all sessions' footage; `asks`: more is due than goes unasked; `day`: by both clocks, or None."""

    at: Stamp
    day: str | None
    days: int
    lines: tuple[Line, ...]
    held: tuple[Session, ...]
    store: Total
    sessions: int
    asks: bool
    halted: e.DisposalHalted | None
    last_pass: Stamp | None
    garbage: int
    oldest_kept: str | None
    witness_utc_us: int | None
    space: space.Forecast = field(repr=False)

    @property
    def due(self) -> tuple[Line, ...]:
        """What would go in the next pass."""
        return tuple(line for line in self.lines if line.expired and not line.bars)

    @property
    def unasked(self) -> tuple[Line, ...]:
        """Of that, what nobody has agreed to yet."""
        return tuple(line for line in self.due if not line.approved)


class Keeper:
    """One task of the room. `step` is one pass; `report` shows what passes to come will do."""

    def __init__(self, room: Room, means: Means) -> None:
        self._room, self._means = room, means
        self.last_pass: Stamp | None = None
        self._idle_bytes = 0
        self._forecast: space.Forecast | None = None

    async def run(self) -> None:
        """For ever. A disk that fails in the middle is told and tried again: what is half done is finished by the next pass."""
        due: Stamp | None = None
        while True:
            await self._room.clock.sleep(LOOK_S)
            try:
                await self.look_at_space()
                now, pressed = self._room.clock.now(), self._room.state.space_low is not None
                if due is None or now.us_since(due) >= (PRESSED_S if pressed else PASS_S) * US:
                    due = now
                    await self.step()
            except OSError as error:        # a key that does not answer is one
                log.error("keeping-interrupted error=%s what=nothing is lost, it goes on with the next pass", error)

    def signed(self) -> bool:
        """Whether each session that was given up has its signed record: before that no file of garbage goes, whoever sweeps."""
        return all(s.disposed is None or s.disposition is not None for s in self._room.state.sessions.values())

    # ---- time -------------------------------------------------------------------------------------------------------------

    def trusted(self) -> bool:
        """Whether the wall clock may be believed for small things: disciplined, and not far from what the platform last signed."""
        witness, now = self._room.state.witness, self._room.clock.now()
        return self._means.synced() and (witness is None or abs(now.utc_us - witness.received_utc_us) <= WITNESS_US)

    def day(self) -> str | None:
        """The local day by both clocks: the earlier of the room's and the platform's last signed one. None: nothing vouches for a day."""
        witness = self._room.state.witness
        if witness is None or not self._means.synced():
            return None
        return self._room.local_date(min(self._room.clock.now().utc_us, witness.received_utc_us)).isoformat()

    # ---- what goes --------------------------------------------------------------------------------------------------------

    async def step(self) -> int:
        """One pass. Returns how many sessions were given up."""
        await self._finish()
        report = await self.report(0)
        self.last_pass = self._room.clock.now()
        if halt := await self._halt(report):
            await self._say_halted(halt, report)
            return 0
        if self._room.state.disposal_halted is not None:
            await self._room.report(e.DisposalResumed(at=self._room.clock.now()))
        gone = 0
        segments = 0
        for line in report.due:
            if self._busy() or (gone and segments + line.total.segments > MOST_SEGMENTS):
                break
            if report.asks and not line.approved:
                continue
            segments += line.total.segments
            gone += await self._dispose(line)
            await self._finish()
        return gone

    def _busy(self) -> bool:
        """While a session is live the disk is its own, unless it runs full."""
        return self._room.state.live is not None and self._room.state.space_low is None

    async def _halt(self, report: Report) -> str | None:
        """Why nothing at all goes in this pass; None: what is due may go."""
        own_day = self._room.local_date(self._room.clock.now().utc_us).isoformat()
        witness = self._room.state.witness
        if any(line.kept_until < own_day and not line.bars for line in report.lines) and (
                report.day is None or witness is None or self._room.clock.now().utc_us - witness.received_utc_us > WITNESS_US):
            return "clock"
        if not report.due:
            return None
        if self._means.storage_fault():
            return "storage"
        looked, missing = await asyncio.to_thread(self._means.keeping.missing)
        if missing * MISSING_OF > looked:
            return "files-missing"
        if report.asks and not any(line.approved for line in report.due):
            return "too-much"
        return None

    async def _say_halted(self, reason: str, report: Report) -> None:
        before = self._room.state.disposal_halted
        own_day = self._room.local_date(self._room.clock.now().utc_us).isoformat()
        lines = report.due or [line for line in report.lines if line.kept_until < own_day and not line.bars]
        if before is None or before.reason != reason:
            log.warning("disposal-halted reason=%s sessions=%d what=nothing was removed", reason, len(lines))
            await self._room.report(e.DisposalHalted(at=self._room.clock.now(), reason=reason, sessions=len(lines),
                                                     bytes=sum(line.total.bytes for line in lines)))

    async def _dispose(self, line: Line) -> int:
        """Give one session up: fact and rows in one transaction. 0 if at this very moment something came in between."""
        day, witness, approved = self.day(), self._room.state.witness, self._room.state.approved.get(line.session)
        session = self._room.state.sessions[line.session]
        if day is None or witness is None or session.kept_until is None or session.sealed is None:
            return 0
        kept_until, named = session.kept_until, session.sealed.retention_policy

        def account(at: Stamp) -> e.FootageDisposed:
            if line.session in self._means.reserved():
                raise _BeingRead
            leaving = self._means.keeping.leaving(line.session)
            return e.FootageDisposed(
                at=at, session=line.session, policy=named, keep_until=kept_until, day=day, segments=leaving.total.segments,
                bytes=leaving.total.bytes, streams=leaving.streams, list_sha256=leaving.list_sha256, witness=witness.receipt_sha256,
                witness_utc_us=witness.received_utc_us, approved_by=approved)

        try:
            fact = await self._room.dispose(line.session, account, ToGarbage())
        except (IllegalStep, _BeingRead) as step:   # a hold, a longer term, an export: it stays
            log.info("disposal-not-now session=%s reason=%s", line.session, getattr(step, "word", "exporting"))
            return 0
        log.info("footage-disposed session=%s segments=%d bytes=%d", line.session, fact.segments, fact.bytes)
        return 1

    async def _finish(self) -> None:
        """What follows from the facts, in this order: the signed record, the files."""
        signer, facts = self._means.signer, self._means.facts
        if signer is None or facts is None:
            raise TypeError("this keeper has no key: it only reports")
        for session in [s for s in self._room.state.sessions.values() if s.disposed is not None and s.disposition is None]:
            record = disposition(self._room.events(session.id), facts)
            digest = hashlib.sha256(canonical(record)).hexdigest()
            body = await asyncio.to_thread(dsse.seal, DISPOSITION, record, signer)
            await self._room.report(e.DispositionSigned(at=self._room.clock.now(), session=session.id, digest=digest),
                                    Envelope(KIND, digest, body, priority=PRIORITY))
        while not self._means.storage_fault() and await self._means.keeping.sweep():
            pass

    async def approve(self, digest: str, by: str, pin: str) -> int:
        """An auditor agrees that what is due goes, as it was shown (`due_digest`). Returns how many sessions; Refusal `due-changed` if
        something else is due by now, `nothing-due` if nothing is."""
        report = await self.report(0)
        if not report.due:
            raise Refusal("nothing-due")
        if digest != due_digest(report):
            raise Refusal("due-changed")
        await self._room.approve_disposal([line.session for line in report.due], sum(line.total.bytes for line in report.due), by, pin)
        return len(report.due)

    # ---- what is to come --------------------------------------------------------------------------------------------------

    async def report(self, days: int = 30) -> Report:
        """What goes within `days`, what is held, how much there is. Changes nothing."""
        keeping, state, now = self._means.keeping, self._room.state, self._room.clock.now()
        totals = await asyncio.to_thread(keeping.totals)
        day = self.day()
        horizon = (self._room.local_date(now.utc_us) + timedelta(days=days)).isoformat()
        kept = [s for s in state.sessions.values() if s.kept_until is not None and s.disposed is None]
        expiring = sorted((s for s in kept if (s.kept_until or "") < horizon), key=lambda s: (s.kept_until or "", s.id))
        newest = await asyncio.to_thread(keeping.newest_in, self._means.streams) if expiring else set()
        reserved = set(self._means.reserved()) if expiring else set()
        lines = tuple(self._line(s, totals.get(s.id, Total()), day, newest, reserved) for s in expiring)
        store = _sum(totals.get(s.id, Total()) for s in kept)
        return Report(
            at=now, day=day, days=days, lines=lines, held=tuple(s for s in kept if s.holds), store=store, sessions=len(kept),
            asks=self._asks(lines, store, now), halted=state.disposal_halted, last_pass=self.last_pass,
            garbage=await asyncio.to_thread(keeping.garbage), oldest_kept=self._oldest(kept, totals),
            witness_utc_us=state.witness.received_utc_us if state.witness else None, space=self._reckon(store.bytes))

    async def shown(self, days: int) -> dict[str, Any]:
        """The report as pages and programs take it."""
        return as_json(await self.report(days))

    def _line(self, session: Session, total: Total, day: str | None, newest: Collection[str], reserved: Collection[str]) -> Line:
        sealed = session.sealed
        named, basis = (sealed.retention_policy, sealed.retention_basis) if sealed else ("", "")
        return Line(session.id, session.kept_until or "", named, basis, total,
                    day is not None and (session.kept_until or "") < day, session.id in self._room.state.approved,
                    tuple(_bars(session, newest, reserved)))

    def _asks(self, lines: Sequence[Line], store: Total, now: Stamp) -> bool:
        """Is more due (what went within a day counts) than a hundredth of the store, beyond what somebody agreed to?"""
        went = [s.disposed for s in self._room.state.sessions.values() if s.disposed is not None and s.disposed.approved_by is None
                and abs(now.us_since(s.disposed.at)) < 86400 * US]
        due = [x.total.bytes for x in lines if x.expired and not x.bars and not x.approved]
        before, count = sum(each.bytes for each in went), len(went) + len(due)
        everything, sessions = store.bytes + before, sum(s.sealed is not None for s in self._room.state.sessions.values())
        return bool(due) and ((before + sum(due)) * ASK_ABOVE > everything or count * ASK_ABOVE > max(sessions, 1))

    def _oldest(self, kept: Sequence[Session], totals: dict[str, Total]) -> str | None:
        """The local day of the oldest session of which there is footage: the proof of retention (R14)."""
        days = [self._room.local_date(s.opened.at.utc_us) for s in kept if s.opened is not None and s.id in totals]
        return min(days).isoformat() if days else None

    # ---- space ------------------------------------------------------------------------------------------------------------

    async def look_at_space(self) -> space.Forecast:
        """Compare the disk with the timetable; a change of trouble is a fact."""
        totals = await asyncio.to_thread(self._means.keeping.totals)
        self._idle_bytes = await asyncio.to_thread(self._means.keeping.idle_bytes)
        found = self._forecast = self._reckon(sum(each.bytes for each in totals.values()))
        before, now = self._room.state.space_low, self._room.clock.now()
        if self._means.storage_fault():             # another alarm's matter: of a foreign disk nothing is known
            return found
        if found.trouble is not None and (before is None or before.reason != found.trouble):
            log.warning("space-low reason=%s free_bytes=%d needed_bytes=%d foreign_bytes=%d what=nothing unexpired goes", found.trouble,
                        found.free_bytes, found.needed_bytes, found.foreign_bytes)
            await self._room.report(e.SpaceLow(at=now, reason=found.trouble, free_bytes=found.free_bytes, needed_bytes=found.needed_bytes,
                                               foreign_bytes=found.foreign_bytes))
        elif found.trouble is None and before is not None:
            await self._room.report(e.SpaceBack(at=now, free_bytes=found.free_bytes))
        return found

    def _reckon(self, store_bytes: int) -> space.Forecast:
        room, now = self._room, self._room.clock.now().utc_us
        disk = room.instruments.disk()
        planned = tuple(s.plan.duration_min for s in room.state.sessions.values() if s.state in (State.PLANNED, State.PREFLIGHT)
                        and now - PLAN_US < s.plan.scheduled_start_us < now + PLAN_US)
        longest = max((each.years * 10 + each.margin_days * 10 // space.YEAR_DAYS for each in self._means.policies.policies.values()),
                      default=policy.FLOOR_YEARS * 10)
        return space.forecast(space.Use(
            free_bytes=disk.free_bytes, total_bytes=disk.total_bytes, kbps=room.instruments.kbps(),
            planned_min=planned, hours_per_year=self._means.hours_per_year, need_years_x10=longest, store_bytes=store_bytes,
            idle_bytes=self._idle_bytes))

    def heartbeat(self) -> dict[str, Any]:
        """The keeper's part of a heartbeat's `storage` (docs/platform-api.yaml); nothing before the first look."""
        if self._forecast is None:
            return {}
        oldest = min((s.opened.at.utc_us for s in self._room.state.sessions.values()
                      if s.opened is not None and s.sealed is not None and s.disposed is None), default=None)
        return {"days_left": self._forecast.days_left,
                **({"oldest_kept": self._room.local_date(oldest).isoformat()} if oldest is not None else {})}


def _bars(session: Session, newest: Collection[str], reserved: Collection[str]) -> list[str]:
    """Why a session stays though its day has come."""
    last = session.revisions[-1] if session.revisions else None
    bars = ["hold"] if session.holds else []
    if session.id in reserved:
        bars.append("exporting")
    if last is None or last.digest is None or session.late_segments or session.late_corrections:
        bars.append("unfinished")
    elif last.verdict != "accepted":
        bars.append("no-receipt" if last.verdict is None else "rejected")
    if session.id in newest:
        bars.append("newest")
    return bars


def _sum(totals: Any) -> Total:
    found = list(totals)
    return Total(sum(each.segments for each in found), sum(each.bytes for each in found))


def due_digest(report: Report) -> str:
    """What is due, as one digest: whoever agrees agrees to this and nothing else."""
    return hashlib.sha256("\n".join(sorted(f"{line.session} {line.kept_until}" for line in report.due)).encode()).hexdigest()


def as_json(report: Report) -> dict[str, Any]:
    """The report for `edge retention report --json` and the local socket. Whole numbers, texts, UTC times; no person in it."""
    return {
        "at": iso_utc(report.at.utc_us), "day": report.day, "days": report.days, "asks": report.asks, "garbage": report.garbage,
        "witness": iso_utc(report.witness_utc_us) if report.witness_utc_us is not None else None,
        "last_pass": iso_utc(report.last_pass.utc_us) if report.last_pass else None,
        "late": report.last_pass is not None and report.at.us_since(report.last_pass) > 2 * PASS_S * US, "oldest_kept": report.oldest_kept,
        "halted": report.halted.reason if report.halted else None,
        "store": {"sessions": report.sessions, "segments": report.store.segments, "bytes": report.store.bytes},
        "due": {"sessions": len(report.due), "bytes": sum(line.total.bytes for line in report.due), "digest": due_digest(report)},
        "sessions": [{"session": line.session, "kept_until": line.kept_until, "policy": line.policy, "basis": line.basis,
                      "segments": line.total.segments, "bytes": line.total.bytes, "expired": line.expired, "approved": line.approved,
                      "bars": list(line.bars)} for line in report.lines],
        "holds": [{"session": s.id, "hold_id": hold.hold_id, "by": hold.by, "since": iso_utc(hold.at.utc_us), "reason": hold.reason}
                  for s in report.held for hold in s.holds.values()],
        "space": {"free_bytes": report.space.free_bytes, "needed_bytes": report.space.needed_bytes, "days_left": report.space.days_left,
                  "per_year_bytes": report.space.per_year_bytes, "years_x10": report.space.years_x10,
                  "need_years_x10": report.space.need_years_x10,
                  "foreign_bytes": report.space.foreign_bytes, "trouble": report.space.trouble},
    }

