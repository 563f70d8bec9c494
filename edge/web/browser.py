"""What every request must satisfy before anything else looks at it, and what every answer carries.

One ASGI layer around the whole app: the Host must be one of ours (DNS rebinding), a request that changes something must come from
our own page (Origin and Sec-Fetch-Site, beside the cookie's SameSite=Strict), its body is small and its length said. Answers get
the security headers of OWASP ASVS 5.0 section 3.4. Assumes HTTP/1.1 from uvicorn on the room's network. Caller: `web.app`.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY_BYTES = 64 << 10
MOST_UPLOAD_BYTES = (2 << 20) + (16 << 10)
"""Of the one form that sends a file (a list of candidates, at most 2 MB) and what stands around it."""
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

# blob: is hls.js's: the video's media source and its worker. Nothing comes from elsewhere, nothing may frame us.
POLICY = ("default-src 'self'; media-src 'self' blob:; worker-src 'self' blob:; object-src 'none'; base-uri 'none'; "
          "frame-ancestors 'none'; form-action 'self'")
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",       # nothing leaks elsewhere; no-referrer would make a browser's own posts say `Origin: null`
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class BrowserRules:
    """Refuses in one plain sentence; passes the rest on."""

    def __init__(self, app: ASGIApp, allowed_hosts: tuple[str, ...]) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refuse(str(scope["method"]), str(scope["path"]), Headers(scope=scope))
        app = PlainTextResponse(refusal[1] + "\n", refusal[0]) if refusal else self._app
        await app(scope, receive, send_with_headers)

    def _refuse(self, method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if _name(host) not in self._hosts:
            return 400, "This address is not one of the room's. Open the room by the address on its label."
        if method in SAFE:
            return None
        if not _is_ours(headers.get("sec-fetch-site"), headers.get("origin"), host):
            return 403, "This request did not come from the room's own page. Nothing was changed. Open the page again and repeat it."
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return 411, "The length of the request is missing. Nothing was changed."
        if int(length) > (MOST_UPLOAD_BYTES if path.startswith("/s/") and path.endswith("/import") else MOST_BODY_BYTES):
            return 413, "The request is too long for anything this page sends. Nothing was changed."
        return None


def _is_ours(site: str | None, origin: str | None, host: str) -> bool:
    """Whether a request comes from our own page. Sec-Fetch-Site decides where the browser sends it (HTTPS and loopback; no script can
    set it); on plain HTTP in the room's network Origin must be ours."""
    if origin not in (None, "null") and urlsplit(origin or "").netloc != host:
        return False
    return site == "same-origin" if site is not None else origin not in (None, "null")


def _name(host: str) -> str:
    """The host's name without its port; an IPv6 address without its brackets."""
    try:
        return (urlsplit("//" + host).hostname or "").lower()
    except ValueError:
        return ""
