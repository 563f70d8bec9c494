"""The running room as a command sees it at its local socket: told that an export has ended, asked whether a session is live.

Caller: `app`, for `edge export`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx

NOT_THERE = (httpx.ConnectError, FileNotFoundError)
"""Nobody listens at the socket: no room runs."""
ANSWER_S = 2.0
LIVE_LOOK_S = 3.0
"""How often a running export asks whether a session is live."""


class RoomAtTheSocket:
    """The running room, as far as a finished export tells it something."""

    def __init__(self, http: httpx.AsyncClient, by: str) -> None:
        self._http, self._by = http, by

    async def end(self, session: str, by: str, ticket: str, files: int, size: int) -> None:
        await self._tell(session, by=by, ticket=ticket, files=files, bytes=size)

    async def drop(self, session: str, ticket: str) -> None:
        await self._tell(session, by=self._by, ticket=ticket)

    async def _tell(self, session: str, **told: str | int) -> None:
        (await self._http.post(f"/sessions/{session}/files/export/end", json=told)).raise_for_status()


def live_in(run: Path) -> Callable[[], bool]:
    """Whether the room says that a session is live, asked every few seconds. No room: none is; a room that does not answer: as it was."""
    path = run / "room.sock"
    known: tuple[float, bool] = (float("-inf"), False)

    def ask() -> bool:
        if not path.exists():
            return False
        try:
            with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://room", timeout=ANSWER_S) as http:
                return bool(http.get("/state").json()["live"])
        except NOT_THERE:
            return False
        except (httpx.HTTPError, ValueError):
            return known[1]

    def live() -> bool:
        nonlocal known
        if time.monotonic() - known[0] > LIVE_LOOK_S:
            said = ask()
            known = time.monotonic(), said      # from the answer on: a room that does not answer is not asked again at once
        return known[1]

    return live
