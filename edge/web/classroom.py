"""What a training class has that an exam has not: somebody who is on no list may join it (签到, R8).

The card was read and refused, and is noted; one member of the class's staff adds the person with a reason, which signs in too. Signing
in, out and late marks are the door's and `attendance`'s. Callers: `web.app`, the check-in and running pages of a class.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response

from edge.web.acts import Fields, act
from edge.web.desk import Web


async def join(web: Web, session_id: str, by: str, form: Fields) -> None:
    text = form.get("seq", "")
    seq = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else -1
    await web.room.join_class(session_id, seq, by, form.get("reason", ""))


async def show_joined(request: Request, session_id: str) -> Response:
    return await act(request, session_id, join)


def add_routes(app: FastAPI) -> None:
    app.post("/s/{session_id}/join")(show_joined)
