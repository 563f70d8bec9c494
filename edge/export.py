"""Hand a session out, or look at it where it lies: the stored envelopes, rows and files as one bundle.

`Exports` lays an export out (what it consists of, to the byte), reserves the session against deletion, and has the room write down who
gets it before anything is read; `copying` or the page then lets the bytes go. `export` writes a folder for an auditor and verifies it.
`examine` links the footage into a passing folder beside it (same disk, no second copy) and gives the verdict for the page. Neither
changes anything of the session, neither stops a recording: the work runs in a thread. Callers: `app` (command and page).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edge.capture.control import read_status
from edge.clock import US, parse_utc
from edge.evidence import bundle, files
from edge.exported import page, tables
from edge.exported.copying import OtherFile, Progress, gentle, write_folder, write_zip
from edge.exported.pace import Pacer
from edge.exported.zip64 import Archive, Member, MemberChanged
from edge.room import Room
from edge.sessions import events as e

LEASE_US = 24 * 3600 * US
"""How long a session is reserved for one export, from its last sign of life: a slow stick, an evening's pause between."""
BEHIND_BYTES = 4 << 20
"""So much of one stream waits for the disk: eight seconds at 4 Mbit/s, where one is usual."""
MOST_HELD = 4


class NotExportable(Exception):
    """Nothing was written. Says what is missing and what to do."""


@dataclass(frozen=True, slots=True)
class Order:
    """Who wants what. `form`: zip, folder, download. `full`: names and numbers whole, for an auditor who signs with `pin` and a reason."""

    session: str
    by: str
    form: str
    full: bool = False
    reason: str = ""
    pin: str = field(default="", repr=False)

    def told(self) -> dict[str, Any]:
        """For the room's local socket."""
        return {"by": self.by, "form": self.form, "full": self.full, "reason": self.reason, "pin": self.pin}


@dataclass(frozen=True, slots=True)
class Laid:
    """An export as it will be. `missing`: names of the session's files that are not on the disk."""

    order: Order
    archive: Archive
    at_utc_us: int
    missing: tuple[str, ...]
    ticket: str = ""


class Exports:
    """One room's exports."""

    Impossible: type[Exception] = NotExportable

    def __init__(self, room: Room, footage: Path, root_pem: bytes) -> None:
        self._room, self._footage, self._root_pem = room, footage, root_pem
        self._held: dict[str, Archive] = {}         # by id: what one download has read through, the next need not read again

    async def lay(self, order: Order) -> Laid:
        """What the export consists of; nothing is written or read through yet. NotExportable if the session has no manifest."""
        laid = await asyncio.to_thread(self._lay, order)
        archive = self._held.setdefault(laid.archive.id, laid.archive)
        while len(self._held) > MOST_HELD:
            del self._held[next(iter(self._held))]
        return Laid(order, archive, laid.at_utc_us, laid.missing)

    async def lay_told(self, session: str, by: str, *, full: bool = False, reason: str = "", pin: str = "") -> Laid:
        """The same for the pages."""
        return await self.lay(Order(session, by, "download", full, reason, pin))

    def _lay(self, order: Order) -> Laid:
        contents = _contents(self._room, self._root_pem, order.session)
        people = {p.candidate_id: tables.Listed(p.name, p.number, p.admission_no, p.seat) for p in self._room.catalog.people(order.session)}
        return lay_out(order, contents, people, self._footage)

    async def begin(self, laid: Laid) -> Laid:
        """Reserve the session and write down who gets what (E11). Refusal: nothing may leave. Afterwards `end`, or a day passes."""
        now, order, archive = self._room.clock.now(), laid.order, laid.archive
        ticket = secrets.token_hex(16)
        fact = e.ExportBegun(
            at=now, session=order.session, by=order.by, form=order.form, people="full" if order.full else "masked", export_id=archive.id,
            files=len(archive.members), bytes=archive.size, missing=len(laid.missing) or None, reason=order.reason.strip() or None)
        await self.hold(laid.order.session, ticket)
        try:
            await self._room.export_begun(fact, order.pin)
        except BaseException:
            await self._room.catalog.release(order.session, f"export {ticket}")
            raise
        return Laid(order, archive, laid.at_utc_us, laid.missing, ticket)

    async def begin_told(self, session: str, **order: Any) -> dict[str, Any]:
        """The same for the local socket: an order as it was told, and the answer as `from_json` takes it."""
        return as_json(await self.begin(await self.lay(Order(session, **order))))

    async def hold(self, session: str, ticket: str) -> None:
        """Another day, from now on."""
        await self._room.catalog.reserve(session, self._room.clock.now().utc_us + LEASE_US, f"export {ticket}")

    async def end(self, session: str, by: str, ticket: str, files: int, size: int) -> None:
        """The last byte has left: say so, and let go of the session."""
        await self._room.report(e.SessionExported(at=self._room.clock.now(), session=session, by=by, files=files, bytes=size))
        await self.drop(session, ticket)

    async def drop(self, session: str, ticket: str) -> None:
        """Let go of the session without a word: the export came to nothing."""
        await self._room.catalog.release(session, f"export {ticket}")


# ---- what belongs to an export ----------------------------------------------------------------------------------------

def lay_out(order: Order, contents: bundle.Contents, people: dict[str, tables.Listed], footage: Path) -> Laid:
    """The members in their order: the newest manifest, the rest of what is small, then segments and sidecars as the manifest has them.

    They depend on what is stored only, so the same session makes the same bytes; each new revision, receipt or purge other ones.
    """
    newest = bundle.newest(contents)
    files = {**bundle.small_files(contents), **dict(_certificates(contents))}
    footage_members, missing = _footage(contents, newest, footage)
    rows = tables.attendance(newest, people, full=order.full), tables.incidents(contents.rows, people, full=order.full)
    files |= {"attendance.csv": tables.as_csv(tables.ATTENDANCE, rows[0]), "incidents.csv": tables.as_csv(tables.INCIDENTS, rows[1]),
              page.NAME: page.index(newest, *rows, missing, "full" if order.full else "masked")}
    files |= {f"{each['id']}.m3u": page.playlist(newest, each["id"]) for each in newest["streams"]}
    if missing:
        files["MISSING.txt"] = ("本导出缺少以下文件，考场电脑上已没有它们。 These files of the session were not on the room's disk:\n"
                                + "".join(f"{name}\n" for name in missing)).encode()
    first = bundle.manifest_name(max(contents.manifests))
    names = [first, *sorted(name for name in files if name != first)]
    at = parse_utc(newest["made_utc"])
    return Laid(order, Archive([*(Member.of(name, files[name]) for name in names), *footage_members], at), at, tuple(missing))


def _certificates(contents: bundle.Contents) -> Iterator[tuple[str, bytes]]:
    """The signers' certificates as files, for whoever looks with openssl alone; they stand in the envelopes too."""
    signed = [("device", contents.session_open), *(("device", each) for _, each in sorted(contents.manifests.items())),
              *(("platform", each) for _, each in sorted(contents.receipts.items()))]
    if contents.open_receipt is not None:
        signed.append(("platform", contents.open_receipt))
    for role, envelope in signed:
        for signature in json.loads(envelope)["signatures"]:
            if "cert" in signature:
                yield f"certificates/{role}-{str(signature['keyid'])[:16]}.pem", str(signature["cert"]).encode()


def _footage(contents: bundle.Contents, newest: dict[str, Any], footage: Path) -> tuple[list[Member], list[str]]:
    """Segments and sidecars with the lengths that they have on the disk, and the names of those that are not there."""
    paths = {row.seq: row.event.path for row in contents.rows if isinstance(row.event, e.SegmentStored)}
    members, missing = [], []
    for entry in newest["segments"]:
        media = footage / paths[entry["journal_seq"]]
        for name, path, sha256 in ((entry["path"], media, entry["sha256"]),
                                   (files.sidecar_path(entry), media.with_suffix(".json"), entry["sidecar_sha256"])):
            try:
                facts = path.lstat()
            except OSError:
                facts = None
            if facts is None or not stat.S_ISREG(facts.st_mode):
                missing.append(name)
            else:
                members.append(Member(name, facts.st_size, sha256, path=path))
    return members, missing


# ---- from one process to another --------------------------------------------------------------------------------------

def as_json(laid: Laid) -> dict[str, Any]:
    """What `edge export` needs to let the bytes go itself: small files whole, footage by its path on this machine."""
    return {"ticket": laid.ticket, "at_utc_us": laid.at_utc_us, "missing": list(laid.missing), "id": laid.archive.id, "members": [
        {"name": m.name, "size": m.size, "sha256": m.sha256,
         **({"path": os.fspath(m.path)} if m.path is not None else {"data": base64.b64encode(m.data or b"").decode()})}
        for m in laid.archive.members]}


def from_json(order: Order, told: dict[str, Any]) -> Laid:
    """The other way."""
    members = [Member(m["name"], m["size"], m["sha256"], base64.b64decode(m["data"]) if "data" in m else None,
                      Path(m["path"]) if "path" in m else None) for m in told["members"]]
    return Laid(order, Archive(members, told["at_utc_us"]), told["at_utc_us"], tuple(told["missing"]), told["ticket"])


def pacer(run: Path, streams: Sequence[str], live: Callable[[], bool], live_mb_s: int) -> Pacer:
    """A pace that heeds what the recorders say of themselves, and whether a session is live."""
    def behind() -> bool:
        return any(s is not None and s.buffered_bytes > BEHIND_BYTES for s in (read_status(run, stream) for stream in streams))

    return Pacer(behind, live, live_mb_s * 1_000_000)


# ---- letting the bytes go ----------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class HandedOut:
    """What was written. `report`: the verdict on a folder; of a ZIP None, its files were compared as they were written."""

    files: int
    bytes: int
    export_id: str
    went_on_from: int
    missing: tuple[str, ...]
    altered: tuple[str, ...]
    report: bundle.Report | None


class Told(Protocol):
    """Who is told that an export has ended: `Exports`, or the running room at its socket."""

    async def end(self, session: str, by: str, ticket: str, files: int, size: int) -> None: ...

    async def drop(self, session: str, ticket: str) -> None: ...


async def let_go(laid: Laid, to: Path, root_pem: bytes, pace: Pacer, progress: Progress, room: Told) -> HandedOut:
    """Write what was laid out, in a thread; then tell the room. FileExistsError, MemberChanged, OtherFile, OSError.

    A ZIP that broke off keeps its session reserved: the same command goes on with it.
    """
    order, archive = laid.order, laid.archive

    def write() -> tuple[int, list[str], bundle.Report | None]:
        gentle()
        if order.form == "zip":
            return write_zip(archive, to, pace, progress), archive.altered, None
        return 0, write_folder(archive.members, to, pace, progress), bundle.verify(to, root_pem)

    try:
        before, altered, report = await asyncio.to_thread(write)
    except (FileExistsError, OtherFile):
        await room.drop(order.session, laid.ticket)
        raise
    size = archive.size if order.form == "zip" else sum(m.size for m in archive.members)
    await room.end(order.session, order.by, laid.ticket, len(archive.members), size)
    return HandedOut(len(archive.members), size, archive.id, before, laid.missing, tuple(altered), report)



async def export(exports: Exports, root_pem: bytes, pace: Pacer, session: str, to: Path, by: str) -> bundle.Report:
    """Write `session` into the new or empty folder `to`, verify what was written, journal it: all in the running room.

    NotExportable if it has no manifest (nothing was written then), or if files are missing and yet the verdict did not say so.
    """
    laid = await exports.begin(await exports.lay(Order(session, by, "folder")))
    try:
        done = await let_go(laid, to, root_pem, pace, lambda done, total: None, exports)
    except FileExistsError:
        raise
    except (OSError, MemberChanged) as error:
        await exports.drop(session, laid.ticket)
        words = getattr(error, "strerror", None) or str(error)
        raise NotExportable(f"{to} cannot be written ({words}). The session itself is untouched.") from error
    if done.report is None:             # a folder always is
        raise TypeError("a folder was not verified")
    if laid.missing and done.report.verdict != "FAIL":
        raise NotExportable(f"{len(laid.missing)} files are missing from the disk, the first is {laid.missing[0]}")
    return done.report


async def examine(room: Room, footage: Path, root_pem: bytes, session: str) -> bundle.Report:
    """The verdict on a session as it lies on this disk."""
    contents = _contents(room, root_pem, session)
    folder = footage / ".verify" / uuid.uuid4().hex

    def look() -> bundle.Report:
        try:
            bundle.write_bundle(folder, contents, footage, linked=True)
            return bundle.verify(folder, root_pem)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return await asyncio.to_thread(look)


def _contents(room: Room, root_pem: bytes, session: str) -> bundle.Contents:
    kept = room.catalog.envelopes(session)
    manifests = {k.revision: k for k in kept if k.kind == "session-manifest" and k.revision is not None}
    opened = next((k for k in kept if k.kind == "session-open"), None)
    if not manifests or opened is None:
        raise NotExportable(f"session {session} has no manifest yet: it is not sealed, or it is unknown here. "
                            "Nothing was written. Seal it first, or look at the id.")
    answers = {k.answers: k.body for k in kept if k.kind == "receipt"}
    bodies = {number: k.body for number, k in manifests.items()}
    return bundle.Contents(
        manifests=bodies, rollovers=bundle.handed_over(opened.body, bodies, *room.catalog.rollovers()),
        receipts={number: answers[k.digest] for number, k in manifests.items() if k.digest in answers},
        session_open=opened.body, open_receipt=answers.get(opened.digest), root_pem=root_pem,
        rows=_up_to_last_manifest(room.events(session)))


def _up_to_last_manifest(rows: list[e.Recorded]) -> list[e.Recorded]:
    last = max(r.seq for r in rows if isinstance(r.event, e.ManifestSigned))
    return [r for r in rows if r.seq <= last]
