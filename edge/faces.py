"""Advice on faces: who was let in is laid beside their photo, after the door has spoken. A follower of the room, composed in `app`.

For each candidate admitted just now it takes one picture of the door camera, cut from the recording after the card was read, and one
photo: `enrolment/<candidate_id>.jpg` below the state folder, else the chip's where a decoder is configured. What comes of it is one fact
(`FaceCompared`): match, review, no match, or not compared and why. **The verdict was given before and stays as it is**; a person looks.
No picture is kept: they pass through memory to `idcheck.face` and are dropped. Enrolment photos are removed once no session awaits their
owner any more. Imported only where `face.enabled` is set.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge import durable
from edge.clock import US, Stamp
from edge.idcheck.face import Compared, Comparer, Limits, NotCompared, Result
from edge.idcheck.photo import PhotoDecoder, Undecoded
from edge.room import Room
from edge.sessions import events as e
from edge.sessions.machine import Admission, IllegalStep, State

log = logging.getLogger(__name__)

ENROLMENT, CHIP = "enrolment", "chip"
LATE_US = 10 * US
"""Whoever was let in longer ago (before a restart) is through the door: the picture would show somebody else."""
PICTURE_S = 3.0
"""A picture is on hand one second after it was taken, two if key frames are rare."""
LOOK_S = 0.2
WAITING = 8
"""So many may wait for the engine; at seven seconds a person and one a pair it is never more than one or two."""
CHIP_US = 60 * US
CHIPS = 4
MOST_BYTES = 2 << 20
"""Of an enrolment photo. Phones make 3 MB; the registration system's are below 100 kB."""
NOT_COMPARED_WORDS = frozenset({"no-photo", "bad-photo-file", "no-picture", "busy"})
"""What this module says; `idcheck.face` and `idcheck.photo` have their own."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")

OPEN_DOORS = frozenset({State.CHECKIN, State.RUNNING})
OVER = frozenset({State.SEALED, State.CANCELLED})


@dataclass(frozen=True, slots=True)
class Means:
    """What the follower works with. `still`: the door camera's newest picture, cut since a moment of the boot clock (µs), or None.

    `decoder` None: chip photos are not used.
    """

    comparer: Comparer
    still: Callable[[Stamp, int], bytes | None]
    enrolment: Path                     # folder
    limits: Limits
    chip_limits: Limits
    decoder: PhotoDecoder | None = None


@dataclass(frozen=True, slots=True)
class _Chip:
    at: Stamp
    wlt: bytes = field(repr=False)


class FaceAdvice:
    """Follows one room. `run` is for ever; `chip` hands in a card's photo as it was read, before the Room is told of the card."""

    def __init__(self, room: Room, means: Means) -> None:
        self._room, self._means = room, means
        self._seen: set[tuple[str, str, int]] = set()       # session, candidate, when: somebody may be let in a second time
        self._chips: dict[str, _Chip] = {}                  # subject -> photo; the newest few, for a minute
        self._waiting = 0
        self._over: set[str] = set()

    def chip(self, subject: str, wlt: bytes, at: Stamp) -> None:
        """A card's photo (WLT), kept in memory until its owner is compared, a minute at most. Dropped where no decoder is configured."""
        if self._means.decoder is None:
            return
        self._chips[subject] = _Chip(at, wlt)
        self._chips = dict(list(self._chips.items())[-CHIPS:])

    async def run(self) -> None:
        """Compare each admitted candidate once. Only what the journal raises leaves here."""
        waker = self._room.changed()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await waker.wait()
                    waker.clear()
                    for session, admission in self._new():
                        group.create_task(self._advise(session, admission))
                    await self._tidy()
        finally:
            self._room.forget(waker)
            await self._means.comparer.rest()

    def _new(self) -> list[tuple[str, Admission]]:
        """Who was let in just now and has not been seen here."""
        session, now = self._room.state.sessions.get(self._room.state.live or ""), self._room.clock.now()
        if session is None or session.state not in OPEN_DOORS:
            return []
        found = []
        for candidate_id, admission in session.admitted.items():
            mark = session.id, candidate_id, admission.at.boot_us
            if mark in self._seen:
                continue
            self._seen.add(mark)
            here = admission.at.boot_id == now.boot_id and 0 <= now.us_since(admission.at) <= LATE_US
            told = session.faces.get(candidate_id)
            if here and (told is None or told.at.us_since(admission.at) < 0):
                found.append((session.id, admission))
        return found

    # ---- one person ---------------------------------------------------------------------------------------------------

    async def _advise(self, session: str, admission: Admission) -> None:
        """Take a picture, compare, write down what came of it. Of somebody without a photo no picture is looked at."""
        who, source, limits = admission.candidate_id, "", self._means.limits
        try:
            photo = await asyncio.to_thread(enrolled_photo, self._means.enrolment, who)
            chip = self._held(admission.subject) if photo is None else None
            if photo is None and chip is None:
                raise NotCompared("no-photo")
            source, limits = (ENROLMENT, limits) if photo is not None else (CHIP, self._means.chip_limits)
            picture = await self._picture(admission.at)
            if picture is None:
                raise NotCompared("no-picture")
            compared = await self._compare(picture, await self._decoded(chip) if photo is None else photo)
        except (NotCompared, Undecoded) as none:
            fact = e.FaceCompared(at=self._room.clock.now(), session=session, candidate_id=who, result=Result.NOT_COMPARED.value,
                                  source=source or None, reason=none.word)
        else:
            fact = e.FaceCompared(at=self._room.clock.now(), session=session, candidate_id=who, source=source,
                                  result=limits.judge(compared.score_x1000).value, score_x1000=compared.score_x1000,
                                  model=compared.model, threshold_x1000=limits.match_x1000, review_x1000=limits.review_x1000)
        finally:
            self._chips.pop(admission.subject, None)
        try:
            await self._room.report(fact)
        except IllegalStep as late:         # taken back, or the exam is sealed meanwhile
            log.info("face-advice-too-late session=%s word=%s", session, late.word)

    async def _picture(self, since: Stamp) -> bytes | None:
        """The first picture of the door cut after the card was read."""
        looks = round(PICTURE_S / LOOK_S)
        for left in range(looks, -1, -1):
            picture = await asyncio.to_thread(self._means.still, self._room.clock.now(), since.boot_us)
            if picture is not None or not left:
                return picture
            await self._room.clock.sleep(LOOK_S)
        return None

    def _held(self, subject: str) -> bytes | None:
        """The photo of the card that was just read."""
        chip = self._chips.get(subject)
        return chip.wlt if chip is not None and self._room.clock.now().us_since(chip.at) <= CHIP_US else None

    async def _decoded(self, wlt: bytes | None) -> bytes:
        if wlt is None or self._means.decoder is None:
            raise NotCompared("no-photo")
        return await self._means.decoder.decode(wlt)

    async def _compare(self, picture: bytes, photo: bytes) -> Compared:
        if self._waiting >= WAITING:
            raise NotCompared("busy")
        self._waiting += 1
        try:
            return await self._means.comparer.compare(picture, photo)
        finally:
            self._waiting -= 1

    # ---- what is kept no longer than needed -----------------------------------------------------------------------------

    async def _tidy(self) -> None:
        """The engine rests while no door is open; the photos of those whom no session awaits any more are removed."""
        sessions, now = self._room.state.sessions, self._room.clock.now()
        self._chips = {subject: chip for subject, chip in self._chips.items() if now.us_since(chip.at) <= CHIP_US}     # of the refused, too
        if not self._waiting and not any(s.state in OPEN_DOORS for s in sessions.values()):
            await self._means.comparer.rest()
            self._chips.clear()
        over = {s.id for s in sessions.values() if s.state in OVER}
        for session in over - self._over:
            self._over.add(session)
            self._seen = {mark for mark in self._seen if mark[0] != session}
            await asyncio.to_thread(self._remove, session, over)

    def _remove(self, session: str, over: set[str]) -> None:
        rosters = self._room.rosters
        awaited = {c.candidate_id for each, roster in rosters.kept().items() if each not in over for c in roster.candidates}
        gone = [c.candidate_id for c in rosters[session].candidates if c.candidate_id not in awaited] if session in rosters else []
        removed = 0
        for candidate_id in gone:
            path = photo_path(self._means.enrolment, candidate_id)
            try:
                if path is not None and path.exists():
                    durable.remove(path)
                    removed += 1
            except OSError as error:
                log.warning("enrolment-photo-not-removed session=%s errno=%s", session, error.errno)
        if removed:
            log.info("enrolment-photos-removed session=%s count=%d", session, removed)


def photo_path(folder: Path, candidate_id: str) -> Path | None:
    """Where a candidate's enrolment photo lies; None for an id that can be no file's name."""
    return folder / f"{candidate_id}.jpg" if _FILE_NAME.fullmatch(candidate_id) else None


def enrolled_photo(folder: Path, candidate_id: str) -> bytes | None:
    """A candidate's enrolment photo (JPEG); None if there is none. NotCompared `bad-photo-file` if it is no plain file of fit size."""
    path = photo_path(folder, candidate_id)
    if path is None:
        return None
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:            # a link, no permission
        raise NotCompared("bad-photo-file") from error
    try:
        data = os.read(handle, MOST_BYTES + 1)
    except OSError as error:            # a folder, a pipe
        raise NotCompared("bad-photo-file") from error
    finally:
        os.close(handle)
    if not data or len(data) > MOST_BYTES:
        raise NotCompared("bad-photo-file")
    return data
