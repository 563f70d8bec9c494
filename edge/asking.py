"""What a command asks of the room: of the one that runs, at its socket; else of its store, at rest.

Only a running room takes what people sign (lists, holds, consents). Exports and reports are had of either, by the same code.
Called by `commands`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from edge import app, credentials
from edge.config import Config
from edge.export import Exports, HandedOut, NotExportable, Order, from_json, let_go, pacer
from edge.exported.copying import Progress
from edge.idcheck.reader import ReaderStatus
from edge.keeper import Keeper
from edge.programs import NotReady
from edge.room import Refusal
from edge.roomsocket import NOT_THERE, RoomAtTheSocket, live_in
from edge.storage.database import Database
from edge.storage.keeping import Keeping


class Refused(Exception):
    """The running room did not do what a command asked; nothing was changed. `word`: key of the texts, `facts` fill it in."""

    def __init__(self, word: str, facts: dict[str, Any]) -> None:
        super().__init__(word)
        self.word, self.facts = word, facts


@dataclass(frozen=True, slots=True)
class RoomAtRest:
    """A room that does not run, as commands look at it: no key, no socket, nothing on its way. Held for a moment only: it may start."""

    database: Database
    exports: Exports
    keeper: Keeper


@contextmanager
def at_rest(config: Config) -> Iterator[RoomAtRest]:
    """Open the room's store for one question or one fact. NotReady if there is none.

    Makes nothing and settles nothing: key and certificate stay untouched (a staged key is the room's to roll, under its own user).
    """
    path = config.paths.state / "edge.db"
    if not path.is_file():
        raise NotReady(f"there is no database {path}: this room has never run, or this is another room's configuration. Nothing was done.")
    database = Database(path, ballast=False)
    try:
        room = app.heart(config, database, credentials.known_subject_key(config), lambda: ReaderStatus("starting", None, None, 0))
        keeper = Keeper(room, app.means(config, room, Keeping(database, config.paths.footage), None, None))
        yield RoomAtRest(database, Exports(room, config.paths.footage, config.in_state(config.evidence.root).read_bytes()), keeper)
    finally:
        database.close()


async def export_session(config: Config, order: Order, to: Path, progress: Progress) -> HandedOut:
    """`edge export`: the room (running, or else built for it) says what leaves and writes down that it does; the bytes are let go here,
    in a program of its own behind everybody else. NotExportable, Refused, zip64.MemberChanged, OSError; the session is untouched."""
    run, root_pem = config.paths.run, config.in_state(config.evidence.root).read_bytes()
    pace = pacer(run, [s.id for s in config.streams], live_in(run), config.export.live_mb_s)
    channel = httpx.AsyncHTTPTransport(uds=str(run / "room.sock"))
    async with httpx.AsyncClient(transport=channel, base_url="http://room", timeout=httpx.Timeout(10, read=120)) as http:
        try:
            answer = await http.post(f"/sessions/{order.session}/files/export/begin", json=order.told())
            told: dict[str, Any] = answer.json()
        except NOT_THERE:
            with at_rest(config) as room:
                try:
                    laid = await room.exports.begin(await room.exports.lay(order))
                except Refusal as refusal:
                    raise Refused(refusal.word, dict(refusal.facts)) from None
        else:
            if answer.status_code == 409 and told.get("refusal") == "not-exportable":
                raise NotExportable(str(told["facts"]["detail"]))
            if answer.status_code != 200:
                raise Refused(str(told.get("refusal", "bad-request")), told.get("facts", {}))
            laid = from_json(order, told)
        return await let_go(laid, to, root_pem, pace, progress, _WhoeverIsThere(config, RoomAtTheSocket(http, order.by)))


class _WhoeverIsThere:
    """Who is told that an export has ended: hours later, the room may run that did not, or the other way round."""

    def __init__(self, config: Config, running: RoomAtTheSocket) -> None:
        self._config, self._running = config, running

    async def end(self, session: str, by: str, ticket: str, files: int, size: int) -> None:
        try:
            await self._running.end(session, by, ticket, files, size)
        except NOT_THERE:
            with at_rest(self._config) as room:
                await room.exports.end(session, by, ticket, files, size)

    async def drop(self, session: str, ticket: str) -> None:
        try:
            await self._running.drop(session, ticket)
        except NOT_THERE:
            with at_rest(self._config) as room:
                await room.exports.drop(session, ticket)


async def import_roster(config: Config, session: str, file: bytes, **signed: str) -> dict[str, Any]:
    """`edge roster import`: asks the running room what `file` would change (`web.imports.as_json`); with `digest` and signatures it is
    taken. Refused if the room says no; NotReady if none runs: only a running room knows what is in force."""
    return await ask_room(config, "POST", f"/sessions/{session}/files/roster", {"file": base64.b64encode(file).decode(), **signed})


async def retention_report(config: Config, days: int) -> dict[str, Any]:
    """`edge retention report`: of the running room, or by the same code here and now; changes nothing."""
    try:
        return await ask_room(config, "GET", f"/retention?days={days}")
    except NotReady:
        with at_rest(config) as room:
            return await room.keeper.shown(days)


async def ask_room(config: Config, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request to the running room. Refused if it says no; NotReady if none runs: only a running room writes facts."""
    channel = httpx.AsyncHTTPTransport(uds=str(config.paths.run / "room.sock"))
    async with httpx.AsyncClient(transport=channel, base_url="http://room", timeout=httpx.Timeout(10, read=120)) as http:
        try:
            response = await http.request(method, path, json=body)
        except (httpx.ConnectError, FileNotFoundError):
            raise NotReady("no room is running here. Nothing was changed. Start it, then try again.") from None
    answer: dict[str, Any] = response.json()
    if response.status_code != 200:
        raise Refused(str(answer.get("refusal", "bad-request")), answer.get("facts", {}))
    return answer
