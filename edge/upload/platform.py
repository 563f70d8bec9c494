"""The platform's contract (docs/platform-api.yaml) as a client. The only address of httpx towards the province.

Assumes that the edge opens every connection, over https, with its own client certificate where the province asks for one; plain
http goes to this very machine only (the simulated platform of a demo). Called by `courier`, `timetable` and `heartbeat`.

What can go wrong, and what it asks of the caller:

    PlatformError
    ├─ PlatformDown      no usable answer (no connection, time-out, 5xx, 408, 425, 429, a page of somebody else's): try again later
    ├─ PlatformDenied    it does not know or does not trust us (401, 403, TLS): try again slowly, and tell a person
    └─ PlatformRefused   it read the request and will not have it (409, 412, 422, 400, 413, other 4xx): never send it again unseen

A bad address or certificate file is a ValueError of the constructor, in plain words.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import logging
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx
from pydantic import ValidationError

from edge.clock import parse_utc
from edge.upload.contract import HeartbeatReplyShape, PlanShape, ProblemShape

log = logging.getLogger(__name__)

ENVELOPE_TYPE = "application/vnd.dsse+json"
JSON_TYPE = "application/json"

ENVELOPE_BYTES = 64 << 10
"""Largest receipt envelope and problem that is read."""
PLANS_BYTES = 2 << 20
ROSTER_BYTES = 2 << 20
"""Largest answers that are read: 200 candidates (the contract's most) take about 200 KiB."""
RETRY_AFTER_S = 3600
"""The longest Retry-After that is believed."""
_ETAGS = 512


class PlatformError(Exception):
    """The platform did not do what was asked. `reason` is one word for the log and the journal; `str()` is a sentence for people."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


class PlatformDown(PlatformError):
    """No usable answer. `reached`: False if there was not even a connection. `retry_after_s`: what the platform asked for."""

    def __init__(self, reason: str, *, reached: bool = True, retry_after_s: int | None = None) -> None:
        super().__init__(reason, f"the platform gave no usable answer ({reason}); nothing is lost, it is tried again")
        self.reached = reached
        self.retry_after_s = retry_after_s


class PlatformDenied(PlatformError):
    """The platform does not let this room in. `status` is 401 or 403, or 0 where TLS failed before any answer."""

    def __init__(self, reason: str, status: int = 0, code: str = "", detail: str = "") -> None:
        super().__init__(reason, f"the platform does not accept this room ({reason} {code}); check its certificate and registration")
        self.status, self.code, self.detail = status, code, detail


class PlatformRefused(PlatformError):
    """The platform read the request and refuses it for good. `code` and `detail` come from its problem answer (RFC 9457)."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"http_{status}", f"the platform refused it: {status} {code} {detail}".rstrip())
        self.status, self.code, self.detail = status, code, detail


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """What the platform says to a heartbeat. `server_utc_us`: its clock, for the display of skew only (NTP stays the source)."""

    server_utc_us: int | None
    commands_waiting: bool
    interval_s: int | None


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def media_type(self) -> str:
        return str(self.headers.get("content-type", "")).partition(";")[0].strip().lower()


def open_http(*, ca: Path | None = None, certificate: Path | None = None, key: Path | None = None,
              timeout_s: float = 10.0) -> httpx.AsyncClient:
    """A connection pool for `PlatformClient`: TLS 1.2 or newer; the platform's certificate is always checked.

    `ca`: PEM of the authority that the platform's server certificate must come from; None: those that the system trusts.

    `certificate` and `key`: PEM files of the room's TLS client certificate (a key of its own, never the one that signs evidence).
    `timeout_s`: for each connect, read and write. No proxy and no setting is taken from the environment.
    ValueError in plain words if a file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
        if certificate is not None:
            context.load_cert_chain(certificate, key)
    except OSError as error:        # ssl.SSLError is one
        files = ", ".join(str(path) for path in (ca, certificate, key) if path is not None)
        raise ValueError(f"the TLS files for the platform cannot be used ({files}): {error}. "
                         "Check that they exist, are PEM and belong together.") from error
    return httpx.AsyncClient(verify=context, timeout=timeout_s, trust_env=False, follow_redirects=False,
                             limits=httpx.Limits(max_connections=4), headers={"user-agent": "examroom-edge"})


def check_address(base_url: str) -> str:
    """`base_url` without a closing slash. ValueError in plain words for anything but https, or http to this very machine."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"the platform's address must begin with https:// and name a host, not {parts.scheme or 'nothing'!r}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("the platform's address must hold no user, password, query or fragment: secrets do not belong into addresses")
    if parts.scheme == "http" and not _loopback(parts.hostname):
        raise ValueError(f"plain http to {parts.hostname!r} is refused: rosters hold people's numbers, and anybody on the way could "
                         "read them. Use https://; plain http is for a simulated platform on this machine (127.0.0.1) only.")
    return base_url.rstrip("/")


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class PlatformClient:
    """The calls of the contract for one room. Safe to use from several tasks; holds ETags and nothing else."""

    def __init__(self, base_url: str, room_code: str, http: httpx.AsyncClient, *, deadline_s: float = 30.0) -> None:
        """`base_url` up to and with `/edge/v1`; `deadline_s` bounds one whole call, however slowly its bytes drip."""
        self._base = check_address(base_url)
        self.room_code = room_code
        self._room = f"/rooms/{quote(room_code, safe='')}"
        self._http = http
        self._deadline_s = deadline_s
        self._etags: dict[str, str] = {}

    async def plans(self, first: date, last: date) -> list[dict[str, Any]] | None:
        """The room's plans from `first` to `last` (inclusive), each checked against the contract; None if unchanged since the last answer.

        A plan that does not fit the contract or belongs to another room is logged and left out; it never hides the others.
        """
        query = {"from": first.isoformat(), "to": last.isoformat()}
        path = f"{self._room}/plans"
        answer = await self._call("GET", path, PLANS_BYTES, query=query, etag_of=path)
        if answer.status == 304:
            return None
        rows = _json(answer)
        if not isinstance(rows, list):
            raise PlatformDown("garbled")
        plans = list(self._readable_plans(rows))
        self._keep_etag(path, answer)
        return plans

    def _readable_plans(self, rows: list[Any]) -> Iterator[dict[str, Any]]:
        for row in rows:
            try:
                plan = PlanShape.model_validate(row)
            except ValidationError as error:
                fields = ",".join(sorted({".".join(str(part) for part in each["loc"]) for each in error.errors()}))
                log.warning("plan_unreadable fields=%s", fields)
                continue
            if plan.room_code != self.room_code:
                log.warning("plan_for_another_room plan=%s", plan.plan_id)
                continue
            yield plan.model_dump()

    async def roster(self, plan_id: str) -> bytes | None:
        """The envelope of a plan's roster, unverified; None if unchanged since the last answer (see `forget_roster`)."""
        path = _roster_path(plan_id)
        answer = await self._call("GET", path, ROSTER_BYTES, etag_of=path)
        if answer.status == 304:
            return None
        envelope = _envelope(answer)
        self._keep_etag(path, answer)
        return envelope

    def forget_roster(self, plan_id: str) -> None:
        """The roster could not be used: the next call brings it again, changed or not."""
        self._etags.pop(_roster_path(plan_id), None)

    async def heartbeat(self, body: Mapping[str, Any]) -> HeartbeatReply:
        """Tell the platform how the room is (schema Heartbeat)."""
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        answer = await self._call("POST", f"{self._room}/heartbeats", ENVELOPE_BYTES, body=data, body_type=JSON_TYPE)
        try:
            reply = HeartbeatReplyShape.model_validate(_json(answer))
        except ValidationError:
            raise PlatformDown("garbled") from None
        server = None if reply.server_time is None else parse_utc(reply.server_time)
        return HeartbeatReply(server, reply.commands_waiting, reply.interval_s)

    async def put_open(self, session: str, envelope: bytes, digest: str) -> bytes:
        """Announce a session. Returns the receipt's envelope, unverified. `digest`: SHA-256 of the payload, the idempotency key."""
        answer = await self._put(f"/sessions/{quote(session, safe='')}/open", envelope, f"session-open:{digest}")
        return _envelope(answer)

    async def put_manifest(self, session: str, revision: int, envelope: bytes, digest: str) -> bytes | None:
        """Hand in a manifest revision. Returns the receipt's envelope, unverified; None if it is stored and not yet checked."""
        answer = await self._put(_manifest_path(session, revision), envelope, f"session-manifest:{digest}")
        return None if answer.status == 202 else _envelope(answer)

    async def put_disposition(self, session: str, envelope: bytes, digest: str) -> bytes:
        """Tell that a session's time is over and its footage goes. Returns the receipt's envelope, unverified."""
        answer = await self._put(f"/sessions/{quote(session, safe='')}/disposition", envelope, f"session-disposition:{digest}")
        return _envelope(answer)

    async def put_rollover(self, envelope: bytes, digest: str) -> bytes:
        """Hand in the old key's word that another signs after it. Returns the receipt's envelope, unverified."""
        return _envelope(await self._put(f"{self._room}/rollovers/{digest}", envelope, f"key-rollover:{digest}"))

    async def put_checkpoint(self, envelope: bytes, digest: str) -> bytes:
        """Hand in how the device stands. Returns the receipt's envelope, unverified."""
        return _envelope(await self._put(f"{self._room}/checkpoints/{digest}", envelope, f"device-checkpoint:{digest}"))

    async def receipt(self, session: str, revision: int) -> bytes | None:
        """The receipt of a manifest revision that was answered with 202; None while it is not decided."""
        answer = await self._call("GET", f"{_manifest_path(session, revision)}/receipt", ENVELOPE_BYTES)
        return None if answer.status == 204 else _envelope(answer)

    async def _put(self, path: str, envelope: bytes, key: str) -> _Answer:
        return await self._call("PUT", path, ENVELOPE_BYTES, body=envelope, body_type=ENVELOPE_TYPE, headers={"idempotency-key": key})

    async def _call(self, method: str, path: str, limit: int, *, query: Mapping[str, str] | None = None, body: bytes | None = None,
                    body_type: str = JSON_TYPE, headers: Mapping[str, str] | None = None, etag_of: str | None = None) -> _Answer:
        """One request and its whole answer (200, 201, 202, 204 or 304), or the error that fits."""
        sent = {"accept": f"{JSON_TYPE}, {ENVELOPE_TYPE}", "accept-encoding": "identity", **(headers or {})}
        if body is not None:
            sent["content-type"] = body_type
        if etag_of in self._etags:
            sent["if-none-match"] = self._etags[etag_of]
        try:
            async with asyncio.timeout(self._deadline_s), self._http.stream(
                    method, self._base + path, params=query, content=body, headers=sent, follow_redirects=False) as response:
                answer = _Answer(response.status_code, response.headers, await _bounded(response, limit))
        except (TimeoutError, httpx.HTTPError) as error:
            raise _transport_fault(error) from error
        _raise_for(answer)
        if answer.status == 304 and etag_of not in self._etags:
            raise PlatformDown("garbled")
        return answer

    def _keep_etag(self, path: str, answer: _Answer) -> None:
        etag = str(answer.headers.get("etag", ""))
        self._etags.pop(path, None)
        if etag and len(etag) <= 256:
            self._etags[path] = etag
        while len(self._etags) > _ETAGS:
            self._etags.pop(next(iter(self._etags)))


def _roster_path(plan_id: str) -> str:
    return f"/plans/{quote(plan_id, safe='')}/roster"


def _manifest_path(session: str, revision: int) -> str:
    return f"/sessions/{quote(session, safe='')}/manifests/{revision}"


async def _bounded(response: httpx.Response, limit: int) -> bytes:
    """The body as sent, at most `limit` bytes. Nothing is unpacked: a small answer must not become a large one."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise PlatformDown("oversize")
    return bytes(body)


def _transport_fault(error: Exception) -> PlatformError:
    """Which of ours a fault of the connection is."""
    causes = list(_causes(error))
    if isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return PlatformDown("timeout", reached=False)
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return PlatformDown("timeout")
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return PlatformDenied("tls")
    if isinstance(error, httpx.ConnectError):
        refused = any(isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED for cause in causes)
        return PlatformDown("refused" if refused or "refused" in str(error) else "unreachable", reached=False)
    return PlatformDown("broken")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _raise_for(answer: _Answer) -> None:
    status = answer.status
    if status in (200, 201, 202, 204, 304):
        return
    problem = _problem(answer)
    if status in (401, 403):
        raise PlatformDenied(f"http_{status}", status, problem.code, problem.detail)
    if 400 <= status < 500 and status not in (408, 425, 429):
        raise PlatformRefused(status, problem.code, problem.detail or problem.title)
    raise PlatformDown(f"http_{status}", retry_after_s=_retry_after(answer))


def _retry_after(answer: _Answer) -> int | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3), at most an hour; its date form is left aside: clocks may differ."""
    text = str(answer.headers.get("retry-after", ""))
    return min(int(text), RETRY_AFTER_S) if re.fullmatch(r"[0-9]{1,6}", text) else None


def _problem(answer: _Answer) -> ProblemShape:
    """The problem of an error answer, its words cut to what a log line and a page can bear; empty if there is none."""
    try:
        problem = ProblemShape.model_validate(json.loads(answer.body))
    except ValueError:      # not JSON, not UTF-8, or not a problem
        return ProblemShape()
    code = problem.code if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", problem.code) else ""
    return ProblemShape(code=code, title=_plain(problem.title), detail=_plain(problem.detail))


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:300])


def _json(answer: _Answer) -> Any:
    if answer.status != 200 or answer.media_type != JSON_TYPE:
        raise PlatformDown("garbled")
    try:
        return json.loads(answer.body)
    except ValueError:
        raise PlatformDown("garbled") from None


def _envelope(answer: _Answer) -> bytes:
    """The answer's bytes if they at least look like an envelope. Whether it proves anything is the room's to say."""
    if answer.status not in (200, 201) or answer.media_type != ENVELOPE_TYPE:
        raise PlatformDown("garbled")
    try:
        envelope = json.loads(answer.body)
    except ValueError:
        raise PlatformDown("garbled") from None
    if not isinstance(envelope, dict) or not {"payloadType", "payload", "signatures"} <= envelope.keys():
        raise PlatformDown("garbled")
    return answer.body
