"""The fault console of the simulated platform: what it does wrong until told otherwise.

    ok              as the contract says
    down            503 to everything
    denied          403 to everything
    slow            answers `seconds` late
    garbage         does what was asked, and answers with bytes that mean nothing
    pending         stores a manifest and does not check it yet: 202, and 204 for its receipt
    reject          receipts say rejected, with a reason
    wrong-digest    answers with a properly signed receipt for another document
    forged-signature answers with the right receipt, signed by a stranger who calls himself the platform

The last two spoil the answer only; what is kept stays right, so that the same document gets its true receipt later.
Middleware of `sim.platform`; the modes about receipts are read there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge.clock import Clock

Mode = Literal["ok", "down", "denied", "slow", "garbage", "pending", "reject", "wrong-digest", "forged-signature"]

_GARBAGE = b"\x00\xff<html>Please log in to the network</html>"


class Faults(BaseModel):
    """The console's setting. `seconds`: of `slow`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mode: Mode = "ok"
    seconds: float = Field(default=60.0, ge=0, le=3600)


class FaultConsole:
    """Holds the setting, and stands before the contract's paths (`under`)."""

    def __init__(self, app: ASGIApp, clock: Clock, under: str, setting: dict[str, Faults]) -> None:
        self._app = app
        self._clock = clock
        self._under = under
        self._setting = setting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        faults = self._setting["now"]
        if scope["type"] != "http" or not scope["path"].startswith(self._under):
            await self._app(scope, receive, send)
        elif faults.mode == "down":
            await _answer(send, 503, problem(503, "down", "the platform is being maintained"))
        elif faults.mode == "denied":
            await _answer(send, 403, problem(403, "unknown-room", "this certificate belongs to no room"))
        else:
            if faults.mode == "slow":
                await self._clock.sleep(faults.seconds)
            await self._app(scope, receive, _Garbled(send) if faults.mode == "garbage" else send)


class _Garbled:
    """Passes an answer's status and headers on and replaces its body; an answer that has none (204, 304) becomes 200."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._sent = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name, value) for name, value in message["headers"] if name.lower() != b"content-length"]
            status = 200 if message["status"] in (204, 304) else message["status"]
            await self._send({**message, "status": status, "headers": [*headers, (b"content-length", str(len(_GARBAGE)).encode())]})
        elif not self._sent:
            self._sent = True
            await self._send({"type": "http.response.body", "body": _GARBAGE, "more_body": False})


def problem(status: int, code: str, detail: str) -> dict[str, Any]:
    """An RFC 9457 problem document. `detail` never repeats what was sent: it may hold people's numbers."""
    return {"type": f"urn:exam:problem:{code}", "title": code.replace("-", " "), "status": status, "code": code, "detail": detail}


async def _answer(send: Send, status: int, document: Mapping[str, Any]) -> None:
    body = json.dumps(document, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
