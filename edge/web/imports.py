"""A list of candidates from a file: shown first (faults by row, who comes, who goes, what changes), taken only when two have signed.

The exception to the platform's signed list (R5), for the chief and a second person, before the doors open. A file is held in memory
for a quarter of an hour, is read by a process of its own (`edge.rosterfile`), and touches neither disk nor log. What is confirmed is
what was shown: the digest covers session, list and the list in force. Callers: the chief's pages, and `local` for `edge roster import`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from edge.clock import US, Stamp
from edge.evidence.chain import canonical
from edge.room import Refusal, Room
from edge.rosterfile.lines import Fault, Line, Reading
from edge.rosterfile.table import MOST_BYTES
from edge.sessions import events as e
from edge.sessions.differences import Change, Differences, compare
from edge.sessions.identity import mask_name, mask_number
from edge.sessions.machine import Session, State
from edge.sessions.roster import Candidate, Roster
from edge.web import acts
from edge.web.access import web_of, who_of
from edge.web.browser import MOST_UPLOAD_BYTES
from edge.web.desk import Web
from edge.web.pages import language_of
from edge.web.proctor import session_of, session_view

log = logging.getLogger(__name__)

READ_S = 30
"""So long may reading a file take; a list of 200 takes less than one second."""
HELD_US = 15 * 60 * US
MOST_HELD = 8
MOST_FAULTS = 100
"""So many faults are listed; the rest is counted."""
UNKNOWN = "UNKNOWN"
"""Category of a person whom neither the file nor the plan gives one: kept as long as the longest (`sessions.policy`)."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a file would do. `roster` None: it has faults, and nothing of it can be used. `bar`: why this list cannot be taken now, if
    it cannot. `digest`: of exactly this list in the place of that one."""

    session: str
    reading: Reading
    at: Stamp
    roster: Roster | None = field(default=None, repr=False)
    differences: Differences | None = field(default=None, repr=False)
    roster_sha256: str = ""
    in_place_of: str = ""
    digest: str = ""
    bar: Refusal | None = None


async def read_file(data: bytes, allow_demo: bool, today: date, most_s: float = READ_S) -> Reading:
    """The file as people or faults, by a process that may take so much memory and time and no more."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "edge.rosterfile", today.isoformat(), *(["demo"] if allow_demo else []), stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL)     # a traceback might show what stands in the file
    try:
        told, _ = await asyncio.wait_for(process.communicate(data), most_s)
        return Reading.from_json(json.loads(told))
    except (TimeoutError, ValueError, KeyError, TypeError):
        log.warning("roster-file-not-read exit=%s bytes=%d", process.returncode, len(data))
        return Reading(faults=(Fault(0, "", "too-much"),))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def preview(room: Room, session_id: str, data: bytes) -> Preview:
    """What this file would change of this session's list. Refusal for an unknown session or one whose doors have opened."""
    session = _before_the_doors(room, session_id)
    now = room.clock.now()
    reading = await read_file(data, room.rules.allow_demo_ids, room.local_date(now.utc_us))
    session = _before_the_doors(room, session_id)
    if reading.faults:
        return Preview(session_id, reading, now)
    in_force = session.roster.roster_sha256 if session.roster else ""
    roster = _roster(room, session, reading)
    sha256 = _sha256(room, roster)
    return Preview(session_id, reading, now, roster, compare(room.rosters.get(session_id), roster), sha256, in_force,
                   hashlib.sha256(canonical([session_id, sha256, in_force])).hexdigest(), _bar(session, sha256))


async def take(room: Room, shown: Preview, by: str, pin: str, second: str, second_pin: str, reason: str) -> None:
    """The list is the session's from now on, if two sign and nothing has changed since it was shown. Else Refusal, nothing written."""
    if shown.roster is None:
        raise Refusal("import-faulty")
    if shown.bar:
        raise shown.bar
    await room.import_roster(e.RosterAccepted(
        at=room.clock.now(), session=shown.session, version=shown.roster.version, count=len(shown.roster.candidates),
        roster_sha256=shown.roster_sha256, source="import", by=by, second=second, reason=reason.strip()), shown.roster,
        shown.in_place_of, pin, second_pin)
    log.info("roster-imported session=%s by=%s second=%s people=%d", shown.session, by, second, len(shown.roster.candidates))


def _before_the_doors(room: Room, session_id: str) -> Session:
    session = room.state.sessions.get(session_id)
    if session is None:
        raise Refusal("unknown-session")
    if session.state not in (State.PLANNED, State.PREFLIGHT):
        raise Refusal("not-now", state=session.state)
    return session


def _bar(session: Session, sha256: str) -> Refusal | None:
    if session.plan.session_kind == "drill":
        return Refusal("drill-has-its-list")
    if session.roster and session.roster.source == "platform":
        return Refusal("signed-roster-stands")
    return Refusal("roster-is-the-same") if session.roster and session.roster.roster_sha256 == sha256 else None


def _roster(room: Room, session: Session, reading: Reading) -> Roster:
    """What the file does not say is the plan's; a person who is on the list in force keeps the candidate_id that is there."""
    try:
        plan = json.loads(room.catalog.plan(session.id) or "{}")
    except ValueError:
        plan = {}
    known = room.rosters[session.id].by_number if session.id in room.rosters else {}
    version = session.roster.version + 1 if session.roster else 1
    return Roster(session.id, session.plan.plan_id, version, tuple(_candidate(room, line, plan, known) for line in reading.lines))


def _candidate(room: Room, line: Line, plan: Mapping[str, Any], known: Mapping[str, Candidate]) -> Candidate:
    def given(key: str) -> str:
        return getattr(line, key) or str(plan.get(key) or UNKNOWN)

    there = known.get(line.number)
    passed = date.fromisoformat(line.theory_passed_on) if line.theory_passed_on else None
    return Candidate(
        candidate_id=there.candidate_id if there else f"I-{room.subject(line.number)[:16]}", name=line.name, id_type=line.id_type,
        number=line.number, admission_no=line.admission_no, seat=line.seat, person_category=given("person_category"),
        trade=line.trade, exam_kind=given("exam_kind"), subject=given("subject"), demo=line.demo, theory_passed_on=passed)


def _sha256(room: Room, roster: Roster) -> str:
    """Over the whole list, numbers and names as their HMACs: of a short list nobody can find the people by trying."""
    return hashlib.sha256(canonical([
        [c.candidate_id, room.subject(c.number), room.subject(c.name), c.id_type, c.admission_no, c.seat or "", c.person_category,
         c.trade or "", c.exam_kind, c.subject, c.theory_passed_on.isoformat() if c.theory_passed_on else ""]
        for c in roster.candidates])).hexdigest()


def as_json(shown: Preview) -> dict[str, Any]:
    """A preview for `edge roster import`, people masked."""
    found = shown.differences or Differences((), (), ())
    return {
        "session": shown.session, "form": shown.reading.form, "people": len(shown.reading.lines), "digest": shown.digest,
        "bar": shown.bar.word if shown.bar else "",
        "faults": [{"row": f.row, "column": f.column, "word": f.word, "facts": dict(f.facts)} for f in shown.reading.faults],
        "unused": list(shown.reading.unused), "passed_over": list(shown.reading.passed_over),
        "added": [_masked(c) for c in found.added], "removed": [_masked(c) for c in found.removed],
        "changed": [{**_masked(c.after), "fields": _told(c)} for c in found.changed]}


def _masked(candidate: Candidate) -> dict[str, str]:
    return {"name": mask_name(candidate.name), "number": mask_number(candidate.number), "seat": candidate.seat or ""}


def _told(change: Change) -> dict[str, list[str]]:
    """Each field that changes, before and after, as a shared screen may show it."""
    def shown(candidate: Candidate, key: str) -> str:
        value = str(getattr(candidate, key) or "–")
        return mask_name(value) if key == "name" else mask_number(value) if key == "admission_no" and value != "–" else value

    return {key: [shown(change.before, key), shown(change.after, key)] for key in change.fields}


# ---- the chief's pages ----------------------------------------------------------------------------------------------------

class Held:
    """The newest preview of each session, in memory, until it is taken or a quarter of an hour is over."""

    def __init__(self) -> None:
        self._shown: dict[str, Preview] = {}

    def keep(self, shown: Preview) -> None:
        self._shown.pop(shown.session, None)
        self._shown[shown.session] = shown
        while len(self._shown) > MOST_HELD:
            self._shown.pop(next(iter(self._shown)))

    def find(self, session: str, digest: str, now: Stamp) -> Preview:
        """What was shown under this digest. Refusal if it is gone, or if another file was shown since."""
        shown = self._shown.get(session)
        if shown is None or not 0 <= now.us_since(shown.at) < HELD_US:
            raise Refusal("import-gone")
        if not digest or shown.digest != digest:
            raise Refusal("import-other")
        return shown

    def drop(self, shown: Preview) -> None:
        if self._shown.get(shown.session) is shown:
            del self._shown[shown.session]


def show_import(request: Request, session_id: str) -> Response:
    web = web_of(request)
    session = session_of(web, session_id)
    _before_the_doors(web.room, session_id)
    return session_view(request, "import.html", session, shown=None)


async def show_preview(held: Held, request: Request, session_id: str) -> Response:
    """Read what was sent and show what it would do. Nothing is written."""
    web, language = web_of(request), language_of(request)
    _before_the_doors(web.room, session_id)
    data = await upload_of(request)
    if data is None:
        raise Refusal("no-file")
    shown = await preview(web.room, session_id, data)
    log.info("roster-file-shown session=%s by=%s form=%s people=%d faults=%d", session_id, who_of(request).staff_id,
             shown.reading.form or "-", len(shown.reading.lines), len(shown.reading.faults))
    held.keep(shown)
    asyncio.get_running_loop().call_later(HELD_US / US, held.drop, shown)
    found = shown.differences or Differences((), (), ())
    return session_view(
        request, "import.html", session_of(web, session_id), shown=shown, form=shown.reading.form,
        faults=faults_in_words(web, language, shown.reading.faults[:MOST_FAULTS]),
        more=max(0, len(shown.reading.faults) - MOST_FAULTS), added=[_masked(c) for c in found.added],
        removed=[_masked(c) for c in found.removed], changed=[(_masked(c.after), _told(c)) for c in found.changed],
        same=len(shown.reading.lines) - len(found.added) - len(found.changed),
        bar=web.texts.word(language, "refusal", shown.bar.word) if shown.bar else "",
        bar_next=web.texts.word(language, "refusal-next", shown.bar.word) if shown.bar else "")


def faults_in_words(web: Web, language: str, faults: tuple[Fault, ...]) -> list[tuple[int, str, str]]:
    """Row (0: the file as a whole), column and what is wrong, in the reader's language."""
    told = []
    for fault in faults:
        facts = dict(fault.facts)
        if "column" in facts:
            facts["column"] = web.texts.word(language, "import-column", str(facts["column"]))
        column = web.texts.word(language, "import-column", fault.column) if fault.column else ""
        told.append((fault.row, column, web.texts.word(language, "import-fault", fault.word, **facts)))
    return told


async def upload_of(request: Request) -> bytes | None:
    """The one file of the form, in memory only; None if there is none. The browser rules have bounded the request already."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return None
    parser = MultiPartParser(request.headers, request.stream(), max_files=1, max_fields=4)
    parser.spool_max_size = MOST_UPLOAD_BYTES + 1       # more than can come: a temporary file is never made
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError):
        return None
    try:
        sent = form.get("file")
        return (await sent.read(MOST_BYTES + 1) or None) if isinstance(sent, UploadFile) else None
    finally:
        await form.close()


async def confirm(held: Held, web: Web, session_id: str, by: str, form: Mapping[str, str]) -> None:
    shown = held.find(session_id, form.get("digest", ""), web.room.clock.now())
    await take(web.room, shown, by, form.get("pin", ""), form.get("second", ""), form.get("second_pin", ""), form.get("reason", ""))
    held.drop(shown)


def add_routes(app: FastAPI) -> None:
    held = Held()

    async def shown(request: Request, session_id: str) -> Response:
        return await show_preview(held, request, session_id)

    async def confirmed(request: Request, session_id: str) -> Response:
        return await acts.act(request, session_id, partial(confirm, held))

    app.get("/s/{session_id}/import")(show_import)
    app.post("/s/{session_id}/import")(shown)
    app.post("/s/{session_id}/import/confirm")(confirmed)
