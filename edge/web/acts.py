"""What people press: each posted form becomes one verb of the Room, once. Nothing is decided here; the Room may refuse.

A refusal comes back as words beside the form, which keeps all that was typed; a success sends the browser to the session's page.
A second form with the same request id does nothing and gets the first one's answer (`once`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from fastapi import FastAPI, Request
from fastapi.responses import Response

from edge.room import Refusal
from edge.storage.staff import TooSoon
from edge.web import views
from edge.web.access import web_of, who_of
from edge.web.desk import Web
from edge.web.pages import form_of, go, is_htmx, language_of, page
from edge.web.proctor import item_name, page_path, session_of

STATUS: Final = {"unknown-session": 404, "chief-only": 403, "not-planned-for-this-session": 403, "wrong-pin": 403, "too-soon": 429,
                 "reason-needed": 422, "hold-two-seconds": 422, "second-person-and-reason": 422, "room-not-empty": 422,
                 "absences-unconfirmed": 422, "exits-unconfirmed": 422, "second-person-searches": 422, "not-a-number": 422,
                 "no-file": 422, "import-faulty": 422, "exception-needed": 422, "pin-needed": 422, "seat-unfit": 422,
                 "incident-code": 422, "incident-time": 422, "no-such-incident": 404, "two-must-sign-incident": 422,
                 "candidate-not-told": 422,
                 "auditor-only": 403, "not-later": 422, "no-such-hold": 404,
                 "nobody-found": 404, "several-found": 422, "unknown-candidate": 404}
"""HTTP status of a refusal; every other is a conflict with how things stand (409)."""

Fields = Mapping[str, str]
Verb = Callable[[Web, str, str, Fields], Awaitable[None]]
"""(web, session id, staff id of who pressed, fields) -> one verb of the Room."""


async def begin(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.begin_preflight(session_id, by)


async def sign_in(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.sign_in(session_id, form.get("staff_id", ""), form.get("pin", ""))


async def exits(web: Web, session_id: str, by: str, form: Fields) -> None:
    if form.get("free") != "yes":
        raise Refusal("exits-unconfirmed")
    await web.room.check_exits(session_id, by)


async def waive(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.waive(session_id, form.get("item", ""), form.get("reason", ""), by, form.get("second", ""), form.get("second_pin", ""))


async def open_doors(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.open_checkin(session_id, by)


async def cancel(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.cancel(session_id, by, form.get("pin", ""), form.get("reason", ""))


async def start(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.start_exam(session_id, by, held_ms(form), form.get("reason", ""))


async def end(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.end_exam(session_id, by, form.get("pin", ""), held_ms(form))


async def abort(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.end_exam(session_id, by, form.get("pin", ""), held_ms(form), "aborted", form.get("reason", ""))


async def seal(web: Web, session_id: str, by: str, form: Fields) -> None:
    await web.room.seal(session_id, by, form.get("pin", ""), form.get("second", ""), form.get("second_pin", ""),
                        room_empty=form.get("empty") == "yes", absences_confirmed=form.get("absences") == "yes")


VERBS: Mapping[str, Verb] = {"begin": begin, "sign-in": sign_in, "exits": exits, "waive": waive, "open": open_doors, "cancel": cancel,
                             "start": start, "end": end, "abort": abort, "seal": seal}


def held_ms(form: Fields) -> int:
    """How long the button was held, as the page measured it; 0 for anything that is no number."""
    text = form.get("held_ms", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 8 else 0


async def act(request: Request, session_id: str, verb: Verb, to_page: str = "") -> Response:
    """Do it once, and say where to go, or why not. `to_page`: the session's page that shows it; empty: the one of the session's state."""
    web, by = web_of(request), who_of(request).staff_id
    form = await form_of(request)

    async def once() -> str:
        session_of(web, session_id)
        await verb(web, session_id, by, form)
        return f"/s/{session_id}/{to_page}" if to_page else page_path(session_of(web, session_id))

    try:
        to = await web.once.do(by, f"{request.url.path} {form['request_id']}" if form.get("request_id") else "", once)
    except Refusal as refusal:
        return refused(request, refusal.word, refusal.facts)
    except TooSoon as wait:
        return refused(request, "too-soon", {"seconds": wait.seconds})
    return go(request, to)


def refused(request: Request, word: str, facts: Mapping[str, str | int]) -> Response:
    """The refusal in words: a fragment for the place beside the form, or a page of its own."""
    web, language = web_of(request), language_of(request)
    said = _in_words(web, language, facts)
    what = web.texts.word(language, "refusal", word, **said)
    after = web.texts.word(language, "refusal-next", word, **said)
    template = "said.html" if is_htmx(request) else "trouble.html"
    back = request.url.path.rpartition("/")[0] if request.url.path.startswith("/s/") and word != "unknown-session" else "/"
    return page(request, template, STATUS.get(word, 409), what=what, next=after, back=back)


def _in_words(web: Web, language: str, facts: Mapping[str, str | int]) -> dict[str, str | int]:
    """The facts of a refusal, keys turned into names."""
    said = dict(facts)
    if "state" in said:
        said["state"] = web.texts.word(language, "state", str(said["state"]))
    if "streams" in said:
        said["streams"] = "、".join(views.stream_name(web, language, each) for each in str(said["streams"]).split(", "))
    if "items" in said:
        said["items"] = "、".join(item_name(web, language, each) for each in str(said["items"]).split(", "))
    if "code" in said:
        said["code"] = web.texts.word(language, "code-short", str(said["code"]))
    if "item" in said:
        said["item"] = item_name(web, language, str(said["item"]))
    return said


def handler(verb: Verb, to_page: str = "") -> Callable[[Request, str], Awaitable[Response]]:
    async def handle(request: Request, session_id: str) -> Response:
        return await act(request, session_id, verb, to_page)

    return handle


def add_routes(app: FastAPI) -> None:
    for word, verb in VERBS.items():
        app.post(f"/s/{{session_id}}/{word}", name=f"act-{word}")(handler(verb))
