"""The pages' factory: `build_web(room, desk)` gives the ASGI app that `app` hands to uvicorn in the room's own loop.

No documentation routes, no debug answers; whatever goes wrong inside is one page that says that the recording goes on. The order of
the layers: browser rules (host, origin, headers), then routing, then the guard of `access`, then a handler.
"""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from edge.room import Refusal, Room
from edge.web import (
    access,
    acts,
    auditor,
    classroom,
    displays,
    dossier,
    download,
    exceptions,
    imports,
    incidents,
    keeping,
    live,
    media,
    news,
    proctor,
    search,
    sheets,
)
from edge.web.browser import HEADERS, BrowserRules
from edge.web.desk import Desk, Gauges, Web
from edge.web.once import Once
from edge.web.pages import is_htmx, language_of, page
from edge.web.texts import Texts

__all__ = ["Desk", "build_web"]

log = logging.getLogger(__name__)

_STATIC = Path(__file__).parent / "static"
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".wav": "audio/wav"}
_BARE = ("/media/", "/still/", "/news/", "/gate/live", "/static/")      # not pages: answered in one plain line …
_BARE_ENDS = (".m3u8", ".mp4")                                          # … and so are these of the live pages


def build_web(room: Room, desk: Desk) -> FastAPI:
    """The app of one room. `desk`: what surrounds the pages."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(access.guard)])
    app.state.web = Web(room, desk, Texts.load(), Once(), Gauges(room))
    app.add_middleware(BrowserRules, allowed_hosts=desk.allowed_hosts)
    app.add_exception_handler(access.NotLoggedIn, _not_logged_in)
    app.add_exception_handler(access.NotAllowed, _not_allowed)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(Exception, _defect)
    served = {file.relative_to(_STATIC).as_posix(): file for file in _STATIC.rglob("*") if file.suffix in _KINDS}

    def static(name: str) -> Response:
        """A file that ships with the pages, by its exact name."""
        if name not in served:
            raise HTTPException(404)
        return FileResponse(served[name], media_type=_KINDS[served[name].suffix], headers={"Cache-Control": "no-cache"})

    app.get("/static/{name:path}")(static)
    for part in (access, proctor, acts, auditor, dossier, displays, media, live, news, search, sheets, classroom, imports, exceptions,
                 incidents, download, keeping):
        part.add_routes(app)
    return app


def _not_logged_in(request: Request, error: Exception) -> Response:
    """A page leads to the log-in and back; anything else is told in one line."""
    if is_htmx(request):
        return Response(status_code=401, headers={"HX-Redirect": "/login"})
    if request.method == "GET" and not _is_bare(request):
        back = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse("/login" if back == "/" else f"/login?{urlencode({'next': access.safe_next(back)})}", 303)
    return _plain(request, "trouble.login", 401)


def _not_allowed(request: Request, error: Exception) -> Response:
    return _trouble(request, "forbidden", 403)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        raise error
    return acts.refused(request, error.word, error.facts)


def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, StarletteHTTPException) else 500
    return _trouble(request, "not-found" if status in (404, 405) else "bad-request", status)


def _defect(request: Request, error: Exception) -> Response:
    """Our own fault. The log has the trace; the page says what is safe."""
    route = getattr(request.scope.get("route"), "path", "?")
    log.error("page-failed method=%s route=%s error=%s", request.method, route, type(error).__name__)
    response = _trouble(request, "defect", 500)
    response.headers.update(HEADERS)            # this answer is made outside the browser rules' layer
    return response


def _trouble(request: Request, word: str, status: int) -> Response:
    texts, language = access.web_of(request).texts, language_of(request)
    what, after = texts.say(language, f"trouble.{word}"), texts.say(language, f"trouble.{word}.next")
    if _is_bare(request):
        return PlainTextResponse(f"{what} {after}\n", status)
    return page(request, "said.html" if is_htmx(request) else "trouble.html", status, what=what, next=after, back="/")


def _is_bare(request: Request) -> bool:
    return request.url.path.startswith(_BARE) or request.url.path.endswith(_BARE_ENDS)


def _plain(request: Request, key: str, status: int) -> Response:
    return PlainTextResponse(access.web_of(request).texts.say(language_of(request), key) + "\n", status)
