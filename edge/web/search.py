"""Find a person of the list: by name, by the last digits of the ID number, or of the admission number (准考证号).

`find` is a pure function on the list; 1,000 people take a few milliseconds. What is asked for comes in the body of a post, never in an
address, for it is a person's name or number. A proctor scans; who searches by hand is the chief, or a proctor with a second person
who says so by PIN (U24). In a class there is nothing to be gained by another's name, so its staff search as they like.
"""

from __future__ import annotations

import asyncio
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastapi import FastAPI, Request
from fastapi.responses import Response

from edge.room import Refusal
from edge.sessions.machine import LIVE, Session
from edge.sessions.number import normalise
from edge.storage.catalog import Person
from edge.storage.staff import TooSoon
from edge.web.access import CHIEF, web_of, who_of
from edge.web.acts import refused
from edge.web.attendance import Group, Line, is_class, line_of
from edge.web.desk import Web
from edge.web.pages import form_of, page
from edge.web.proctor import session_of

MOST = 12
"""More than so many are no answer: the page asks for more letters."""
FEWEST_DIGITS = 3
"""Two last digits fit every tenth person of a room."""

_DOTS = re.compile(r"[\s·•‧∙⋅・･.．]")     # a minority name is typed with any of these, or none
_DIGITS = re.compile(r"[0-9]+X?")


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gives: the first MOST people, and how many there are."""

    lines: tuple[Line, ...]
    total: int
    asked: bool         # False: nothing was typed, or too few digits


def folded(text: str) -> str:
    """As names and numbers are compared: half-width, upper case, no blanks, no dots."""
    return _DOTS.sub("", unicodedata.normalize("NFKC", text)).upper()


def find(people: Sequence[Person], text: str) -> list[Person]:
    """Who fits, exact and beginning matches first. Digits: the tail of the ID number or of the admission number; else part of the name."""
    wanted = folded(text)
    if _DIGITS.fullmatch(wanted):
        if len(wanted) < FEWEST_DIGITS:
            return []
        return [p for p in people if p.number.endswith(wanted) or folded(p.admission_no).endswith(wanted)]
    if not wanted:
        return []
    fits = [(name, p) for p in people if wanted in (name := folded(p.name)) or folded(p.admission_no).endswith(wanted)]
    return [p for _, p in sorted(fits, key=lambda fit: (fit[0] != wanted, not fit[0].startswith(wanted)))]


def search(web: Web, session: Session, text: str) -> Found:
    """The session's people who fit, with where each stands."""
    fits = find(web.room.catalog.people(session.id), text)
    wanted = folded(text)
    return Found(tuple(line_of(session, person) for person in fits[:MOST]), len(fits),
                 len(wanted) >= (FEWEST_DIGITS if _DIGITS.fullmatch(wanted) else 1))


async def show_found(request: Request, session_id: str) -> Response:
    """The fragment below the search field."""
    web, form = web_of(request), await form_of(request)
    session = session_of(web, session_id)
    if session.state not in LIVE:
        raise Refusal("not-now", state=session.state)
    try:
        await _may(request, web, session, form)
    except TooSoon as wait:
        return refused(request, "too-soon", {"seconds": wait.seconds})
    found = await asyncio.to_thread(search, web, session, form.get("q", ""))
    return page(request, "found.html", session=session, found=found, groups=Group, is_class=is_class(session), typed=False)


async def _may(request: Request, web: Web, session: Session, form: Mapping[str, str]) -> None:
    """Refusal unless the chief asks, or a proctor with a second member of the session's staff, or it is a class."""
    who = who_of(request)
    if CHIEF in who.roles or is_class(session):
        return
    second = form.get("second", "")
    if second == who.staff_id or session.plan.staff.get(second) not in ("chief", "proctor"):
        raise Refusal("second-person-searches")
    if not await asyncio.to_thread(web.room.staff.check_pin, second, form.get("pin", "")):
        raise Refusal("wrong-pin", staff=web.room.staff.name(second))


async def wedge(request: Request, session_id: str) -> Response:
    """What a keyboard reader typed on the check-in page. A check-in where the site's reader is one (`reader.wedge`): the verdict comes by
    the news, like a card's. Elsewhere it only finds the person, for a check by hand."""
    web, form = web_of(request), await form_of(request)
    session, number = session_of(web, session_id), normalise(form.get("number", ""))

    async def once() -> str:
        await web.room.wedge(session_id, number, who_of(request).staff_id)
        return ""

    try:
        await web.once.do(who_of(request).staff_id, f"{request.url.path} {form.get('request_id', '')}", once)
    except Refusal as refusal:
        if refusal.word != "no-wedge":
            raise
        fits = [p for p in await asyncio.to_thread(web.room.catalog.people, session.id) if p.number == number]
        found = Found(tuple(line_of(session, person) for person in fits), len(fits), True)
        return page(request, "found.html", session=session, found=found, groups=Group, is_class=is_class(session), typed=True)
    return Response(status_code=204)


def add_routes(app: FastAPI) -> None:
    app.post("/s/{session_id}/wedge")(wedge)
    app.post("/s/{session_id}/find")(show_found)
