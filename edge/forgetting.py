"""What is known of people and no longer needed is forgotten: names, numbers, pictures. Facts stay; they hold no person.

Door pictures go with their session (names and numbers went with the fact that gave it up). Refused cards, lists of sessions that never
took place, and enrolment photos of people whom nobody expects go after 30 days (PIPL article 19: no longer than needed), by a clock
that can be believed only. A follower of the room, once an hour; what it does follows from the state, so it can be repeated. Composed in
`app`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from edge import durable
from edge.clock import US
from edge.room import Room
from edge.storage.keeping import Keeping

log = logging.getLogger(__name__)

DAYS = 30
EVERY_S = 3600
FIRST_S = 120


class Forgetter:
    """`enrolment`: folder of enrolment photos, `<candidate_id>.jpg`; `trusted`: whether the wall clock may be believed now."""

    def __init__(self, room: Room, keeping: Keeping, enrolment: Path, trusted: Callable[[], bool]) -> None:
        self._room, self._keeping, self._enrolment, self._trusted = room, keeping, enrolment, trusted

    async def run(self) -> None:
        """For ever. A disk that fails is told and tried again."""
        await self._room.clock.sleep(FIRST_S)
        while True:
            try:
                await self.step()
            except OSError as error:
                log.error("forgetting-interrupted errno=%s", error.errno)
            await self._room.clock.sleep(EVERY_S)

    async def step(self) -> None:
        """One pass."""
        sessions, photos = self._room.state.sessions, self._room.photos
        if photos is not None:
            for each in await asyncio.to_thread(photos.sessions):
                if each in sessions and sessions[each].disposed is not None:
                    await asyncio.to_thread(photos.forget, each)
        if not self._trusted():
            return
        before = self._room.clock.now().utc_us - DAYS * 86400 * US
        never = [s.id for s in sessions.values() if s.opened is None and s.plan.scheduled_start_us < before]
        await self._keeping.forget_people(never, [s.id for s in sessions.values() if s.holds], before)
        for each in never:
            self._room.rosters.let_go(each)
        await asyncio.to_thread(self._forget_enrolments, before // US)

    def _forget_enrolments(self, before_s: int) -> None:
        """Photos that lie there for 30 days and belong to nobody who is still expected (the others go when their session is over)."""
        awaited = {c.candidate_id for roster in self._room.rosters.kept().values() for c in roster.candidates}
        old = [path for path in self._enrolment.glob("*.jpg") if path.stem not in awaited and path.lstat().st_mtime < before_s] \
            if self._enrolment.is_dir() else []
        if old:
            durable.remove_all(self._enrolment, old)
            log.info("enrolment-photos-forgotten count=%d", len(old))
