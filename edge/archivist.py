"""Keeps the archive in step with the journal: whatever is sealed and not yet there goes there, is locked, is read back once and each year.

Assumes that only one archivist writes for this room. A follower like the courier: it compares what is in the archive (`storage.archived`)
with what each session has (envelopes, rows, files), so a crash at any moment only makes it look again: an object that is there already,
with the right digest and lock, is adopted. Documents go before films, of all sessions. Films are paced by the hour of the day and rest
while a session runs. Nothing here removes a local file; whether one may go is `ArchiveLedger.may_leave`. Drills are not archived: a lock
cannot be taken back. Composed in `app`, only where an archive is configured; until then boto3 is not loaded.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from edge import archivable
from edge.archivable import File, LocalFault
from edge.clock import LOCAL, US, Stamp
from edge.room import Room
from edge.sessions import events as e
from edge.sessions.machine import IllegalStep, Session
from edge.storage.archived import Archived, ArchiveLedger
from edge.upload import archive_keys as keys
from edge.upload.archive import Archive, ArchiveError, Throttle
from edge.upload.link import backoff

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK_S = 60.0
LOST_AFTER_US = 300 * US
"""A store that does not answer for so long is a fact; a hiccup is none."""
TEST_EVERY_US = 86400 * US
LONG_POLICY_DAYS = 1461
"""Whatever is to be kept for more than four years goes into the bucket whose default lock is six."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The archive's settings (config `archive`). Rates in kbit/s, 0 rests; hours are local, [from, to), over midnight if from > to."""

    bucket_3y: str
    bucket_6y: str
    exam_kbps: int
    day_kbps: int
    night_kbps: int
    night: tuple[int, int]
    reread_days: int
    late_h: int

    def kbps(self, hour: int, live: bool) -> int:
        if live:
            return self.exam_kbps
        since, until = self.night
        dark = since <= hour < until if since <= until else hour >= since or hour < until
        return self.night_kbps if dark else self.day_kbps


def kbps_now(room: Room, rules: Rules) -> int:
    """The cap of this moment: by whether a session is live, and the local hour. Any thread may ask."""
    return rules.kbps(datetime.fromtimestamp(room.clock.now().utc_us // US, LOCAL).hour, room.state.live is not None)


class Archivist:
    """`stores` opens the buckets: name -> Archive (ArchiveError: told like any fault of the store, and tried again).

    `keep_until`, `held`: what retention says of a session; the archive's locks follow it.
    """

    def __init__(self, room: Room, ledger: ArchiveLedger, stores: Callable[[], Mapping[str, Archive]], throttle: Throttle, footage: Path,
                 root_pem: bytes, rules: Rules, rng: random.Random, keep_until: Callable[[Session], str | None],
                 held: Callable[[Session], bool] = lambda session: False) -> None:
        self._room, self._ledger, self._open, self._throttle = room, ledger, stores, throttle
        self._stores: Mapping[str, Archive] = {}
        self._footage, self._root_pem, self._rules, self._rng = footage, root_pem, rules, rng
        self._keep_until, self._held = keep_until, held
        self._clock = room.clock
        self._documented: dict[str, int] = {}                       # session -> with how many envelopes its documents are there
        self._filming: tuple[str, int, list[File]] | None = None    # the session whose films go now, its envelopes, what is still to go
        self._stuck: dict[str, int] = {}                            # session -> its envelopes: a file is not to be had; until a restart
        self._reading: tuple[str, dict[str, str]] | None = None     # the session that is read back: tail -> SHA-256
        self._anew: set[tuple[str, str]] = set()                    # (session, tail) that read back wrong: never adopted again
        self._failures = 0
        self._failing_since: Stamp | None = None
        self._tested: Stamp | None = None
        self._lengthened: Stamp | None = None
        lost = room.state.archive_lost
        self._told = lost.reason if lost else ""

    # ---- following -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """For ever. Leaves only with an error of our own store, which is the room's to judge."""
        waker = self._room.changed()
        try:
            await self._clock.sleep(self._rng.uniform(0, 30))       # rooms that start together do not call together
            while True:
                waker.clear()
                wait_s = await self.step()
                if wait_s > 0:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(waker.wait() if wait_s >= LOOK_S else asyncio.sleep(wait_s), wait_s)
        finally:
            self._throttle.stop()
            self._room.forget(waker)

    async def step(self) -> float:
        """Do at most one piece of work. Returns the seconds until it is worth looking again; 0: at once."""
        try:
            if not self._stores:
                self._stores = await beside(self._open)
            busy = await self._test() or await self._lengthen() or await self._send() or await self._read_back()
        except ArchiveError as error:
            return await self._failed(error)
        await self._worked()
        await self._look_whether_late()
        return 0.0 if busy else LOOK_S

    async def _failed(self, error: ArchiveError) -> float:
        if error.word == "resting":
            await self._look_whether_late()
            return self._rng.uniform(15, 55)        # U14: a hundred rooms whose exams end together do not call together
        now, self._failures = self._clock.now(), self._failures + 1
        self._failing_since = self._failing_since or now
        if self._failures == 1:
            log.info("archive-failed reason=%s %s", error.word, error)
        if error.word != "unreachable" or now.us_since(self._failing_since) >= LOST_AFTER_US:
            await self._tell(error.word)
        return 1 + backoff(self._failures, 5.0, 900.0, self._rng)

    async def _worked(self) -> None:
        self._failures, self._failing_since = 0, None
        if self._told not in ("", "behind"):
            await self._tell("")

    async def _tell(self, word: str) -> None:
        if word == self._told:
            return
        self._told, at = word, self._clock.now()
        if word:
            log.error("archive-lost reason=%s", word)
        await self._room.report(e.ArchiveLost(at=at, reason=word) if word else e.ArchiveBack(at=at))

    async def _look_whether_late(self) -> None:
        """U7: the health of a queue is the age of its oldest item, whatever the reason."""
        oldest = min((s.sealed.at.utc_us for s, _ in self._owing() if s.sealed), default=None)
        late = oldest is not None and self._clock.now().utc_us - oldest > self._rules.late_h * 3600 * US
        if late and not self._told:
            await self._tell("behind")
        elif not late and self._told == "behind":
            await self._tell("")

    async def _test(self) -> bool:
        """A4: before the first upload, and each day, every bucket is asked whether its lock holds."""
        now = self._clock.now()
        if self._tested is not None and now.us_since(self._tested) < TEST_EVERY_US:
            return False
        for store in self._stores.values():
            await beside(partial(_probe, store, self._room.rules.room_code, now.utc_us))
        self._tested = now
        return True

    # ---- out to the store ----------------------------------------------------------------------------------------------

    def _owing(self) -> list[tuple[Session, int]]:
        sessions, now = self._room.state.sessions, self._clock.now().utc_us
        return [(sessions[each], count) for each, count in self._ledger.owing()
                if each in sessions and sessions[each].plan.session_kind != "drill" and self._until(sessions[each]) > now]

    def _until(self, session: Session) -> int:
        day = self._keep_until(session)
        return keys.lock_until_us(day) if day else 0

    async def _send(self) -> bool:
        owing = self._owing()
        for session, count in owing:            # documents first, of all sessions: kilobytes never wait behind films
            if self._documented.get(session.id) != count:
                there = self._ledger.objects(session.id)
                for file in await asyncio.to_thread(archivable.documents, self._room, session.id, self._root_pem):
                    if file.tail not in there:
                        await self._upload(session, file)
                self._documented[session.id] = count
                return True
        for session, count in owing:
            if self._stuck.get(session.id) != count:
                await self._send_films(session, count)
                return True
        return False

    async def _send_films(self, session: Session, count: int) -> None:
        """One film or sidecar; the last one makes the session whole."""
        if self._filming is None or self._filming[:2] != (session.id, count):
            there = self._ledger.objects(session.id)
            films = await asyncio.to_thread(archivable.films, self._room, session.id, self._footage)
            self._filming = session.id, count, [f for f in reversed(films) if f.tail not in there]
        left = self._filming[2]
        if left:
            await self._upload(session, left[-1])
            left.pop()
            return
        self._filming = None
        there, films = self._ledger.objects(session.id), await asyncio.to_thread(archivable.films, self._room, session.id, self._footage)
        if any(f.tail not in there for f in films):
            self._stuck[session.id] = count
        else:
            await self._whole(session, count)

    async def _upload(self, session: Session, file: File) -> None:
        until = self._until(session)
        await self._ledger.begin(session.id, self._bucket(until), until)
        kept = self._ledger.of(session.id)
        store = self._stores[kept.bucket if kept and kept.bucket in self._stores else self._bucket(until)]
        adopt = (session.id, file.tail) not in self._anew
        try:
            stored = await beside(partial(archivable.store, store, session.id, file, until, adopt=adopt))
        except LocalFault as fault:
            await self._mismatch(session, file.name, fault.word)
            return
        if kept and kept.held:
            await beside(partial(store.hold, stored.key, stored.version_id, True))
        self._anew.discard((session.id, file.tail))
        await self._ledger.add(session.id, file.tail, stored.version_id, stored.bytes)

    def _bucket(self, until_utc_us: int) -> str:
        long = until_utc_us - self._clock.now().utc_us > LONG_POLICY_DAYS * 86400 * US
        return self._rules.bucket_6y if long else self._rules.bucket_3y

    async def _whole(self, session: Session, count: int) -> None:
        await self._ledger.whole(session.id, count, self._clock.now().utc_us)
        self._lengthened = None             # while it went up its date may have grown
        await self._told_archived(session)

    async def _told_archived(self, session: Session) -> None:
        kept = self._ledger.of(session.id)
        if kept is None:
            raise LookupError(f"the archive's index lost {session.id}")
        log.info("session-archived session=%s objects=%d bytes=%d", session.id, kept.objects, kept.bytes)
        await self._report(e.SessionArchived(
            at=self._clock.now(), session=session.id, revision=session.revisions[-1].number, bucket=kept.bucket, objects=kept.objects,
            bytes=kept.bytes, retain_until_utc_us=kept.retain_until_utc_us))

    async def _mismatch(self, session: Session, name: str, reason: str) -> None:
        log.error("archive-mismatch session=%s name=%s reason=%s", session.id, name, reason)
        await self._report(e.ArchiveMismatch(at=self._clock.now(), session=session.id, name=name, reason=reason))

    async def _report(self, event: e.Event) -> None:
        with suppress(IllegalStep):         # the session is being amended at this moment: it will be owing again
            await self._room.report(event)

    # ---- locks follow retention -----------------------------------------------------------------------------------------

    async def _lengthen(self) -> bool:
        """A5: a session that is kept longer than it is locked, or on hold, has its locks changed; a lock is never shortened."""
        now = self._clock.now()
        if self._lengthened is not None and now.us_since(self._lengthened) < LOOK_S * US:
            return False
        for kept in self._ledger.all():
            session, store = self._room.state.sessions.get(kept.session), self._stores.get(kept.bucket)
            if session is None or store is None:
                continue
            until, held = self._until(session), self._held(session)
            if until > kept.retain_until_utc_us or held != kept.held:
                await self._change_locks(session, kept, store, max(until, kept.retain_until_utc_us), held)
                return True
        self._lengthened = now
        return False

    async def _change_locks(self, session: Session, kept: Archived, store: Archive, until: int, held: bool) -> None:
        for tail, (version, size) in self._ledger.objects(session.id).items():
            key = keys.prefix(session.id) + tail
            if until > kept.retain_until_utc_us:
                await beside(partial(store.locked, key, version, size, until))
            if held != kept.held:
                await beside(partial(store.hold, key, version, held))
        await self._ledger.held(session.id, held)
        await self._ledger.lengthened(session.id, until)
        await self._told_archived(session)

    # ---- read back -----------------------------------------------------------------------------------------------------

    async def _read_back(self) -> bool:
        """U10 and A8: every session's copy is read back and compared once it is whole, and again each `reread_days`; one object a call."""
        now = self._clock.now().utc_us
        for kept in self._ledger.to_read_back(now, now - self._rules.reread_days * 86400 * US):
            session, store = self._room.state.sessions.get(kept.session), self._stores.get(kept.bucket)
            if session is not None and store is not None:
                await self._read_next(session, kept, store)
                return True
        return False

    async def _read_next(self, session: Session, kept: Archived, store: Archive) -> None:
        if self._reading is None or self._reading[0] != session.id:
            films = await asyncio.to_thread(archivable.films, self._room, session.id, self._footage)
            self._reading = session.id, {f.tail: f.sha256 for f in films}
        left = ((tail, version) for tail, (version, _) in self._ledger.objects(session.id).items() if tail > kept.read_after)
        tail, version = next(left, ("", ""))
        if not tail:
            self._reading = None
            await self._ledger.read_whole(session.id, self._clock.now().utc_us)
            log.info("session-read-back session=%s objects=%d", session.id, kept.objects)
            return
        named = keys.name_of(tail) or (tail, "")
        if await self._is_good(store, keys.prefix(session.id) + tail, version, self._reading[1].get(tail, named[1])):
            await self._ledger.read_up_to(session.id, tail)
            return
        self._anew.add((session.id, tail))
        self._documented.pop(session.id, None)
        self._reading = None
        await self._mismatch(session, named[0], "read-back")
        await self._ledger.forget(session.id, tail)

    @staticmethod
    async def _is_good(store: Archive, key: str, version: str, sha256: str) -> bool:
        """Whether the store gives back what it was given. `sha256`: whole, or as much of it as stands in the key."""
        try:
            return bool(sha256) and (await beside(partial(store.sha256, key, version))).startswith(sha256)
        except ArchiveError as error:
            if error.word != "missing":
                raise
            return False


def _probe(store: Archive, room_code: str, utc_us: int) -> None:
    store.self_test(f"v1/probe/{room_code}/{utc_us // US}")
    if store.default_lock() == 0:
        log.warning("archive-bucket-has-no-default-lock bucket=%s", store.place.bucket)


async def beside(work: Callable[[], T]) -> T:
    """Run blocking work in a thread of its own, at low priority; one that a dead store holds up never keeps the room from stopping."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        result: T | None = None
        fault: BaseException | None = None
        try:
            result = work()
        except BaseException as error:      # handed to whoever waits
            fault = error
        with suppress(RuntimeError):        # the loop has gone, and with it whoever waited
            loop.call_soon_threadsafe(settle, result, fault)

    threading.Thread(target=run, name="archive", daemon=True).start()
    return await done
