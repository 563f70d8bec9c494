"""How a page, a fragment or a redirect is made: templates, language, forms, where to go next.

Templates are Jinja2 with autoescape; they hold no sentence, `t(key)` and `w(family, word)` bring them in the reader's language.
Callers: every handler of `web`.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import cast

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from edge.clock import LOCAL, US
from edge.web import views
from edge.web.desk import Web
from edge.web.texts import LANGUAGES

_TEMPLATES = Path(__file__).parent / "templates"
MOST_FIELDS = 40
CLASS_WORDS = frozenset({"OK", "E-DUPLICATE", "E-NOT-ON-ROSTER", "LEFT", "RETURNED"})
"""Verdicts that are said otherwise in a class, where nobody is examined."""


@cache
def _environment() -> Environment:
    made = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                       lstrip_blocks=True)
    made.filters.update(hhmm=partial(local_time, form="%H:%M"), hhmmss=partial(local_time, form="%H:%M:%S"),
                        day=partial(local_time, form="%Y-%m-%d"), moment=partial(local_time, form="%Y-%m-%d %H:%M:%S"),
                        size=views.size, ms=lambda us: us // 1000)
    made.globals.update(request_id=lambda: secrets.token_hex(16), family=family)
    return made


def family(name: str, code: str, is_class: bool) -> str:
    """The family of texts that says a verdict: `code`, or `class-code` where a class says it in its own words."""
    return f"class-{name}" if is_class and code in CLASS_WORDS else name


def local_time(utc_us: int, form: str) -> str:
    """A moment as the wall clock of the room shows it."""
    return datetime.fromtimestamp(utc_us / US, LOCAL).strftime(form)


def language_of(request: Request, wanted: str = "") -> str:
    """The language asked for now, or chosen before (cookie), or the room's."""
    asked = (wanted, request.cookies.get("lang", ""), cast(Web, request.app.state.web).desk.default_language)
    return next((language for language in asked if language in LANGUAGES), LANGUAGES[0])


def page(request: Request, template: str, status: int = 200, **view: object) -> HTMLResponse:
    """An answer that is the filled template."""
    return HTMLResponse(rendered(request, template, **view), status)


def rendered(request: Request, template: str, **view: object) -> str:
    """The template, filled. `view` is the page's own; what every page needs is added here."""
    web, language = cast(Web, request.app.state.web), language_of(request)
    who = getattr(request.state, "who", None)
    path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return _environment().get_template(template).render({
        "t": partial(web.texts.say, language), "w": partial(web.texts.word, language), "language": language,
        "other_language": next(each for each in LANGUAGES if each != language), "who": who, "desk": web.desk, "path": path,
        "now_us": web.room.clock.now().utc_us, "strip": views.strip(web, language) if who else [], **view})


def is_htmx(request: Request) -> bool:
    return request.headers.get("HX-Request") == "true"


def go(request: Request, path: str) -> Response:
    """Send the browser to `path`: the whole page, whether a form or htmx asked."""
    return Response(status_code=204, headers={"HX-Redirect": path}) if is_htmx(request) else RedirectResponse(path, 303)


async def form_of(request: Request) -> Mapping[str, str]:
    """The fields of a posted form; a file is no field. The first of a repeated field counts."""
    async with request.form(max_files=0, max_fields=MOST_FIELDS, max_part_size=16 << 10) as form:
        fields: dict[str, str] = {}
        for name, value in form.multi_items():
            if isinstance(value, str):
                fields.setdefault(name, value)
        return fields
