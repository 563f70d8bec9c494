"""Hand a session out, or look at it where it lies: the stored envelopes, rows and files as one bundle, checked at once.

`export` writes a folder for an auditor and journals that it did; `examine` links the footage into a passing folder beside it (same
disk, no second copy) and gives the verdict for the page. Neither changes anything of the session, neither stops a recording: the
work runs in a thread. Callers: `app` (command and page).
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from pathlib import Path

from edge.evidence import bundle
from edge.room import Room
from edge.sessions import events as e


class NotExportable(Exception):
    """Nothing was written. Says what is missing and what to do."""


async def export(room: Room, footage: Path, root_pem: bytes, session: str, to: Path, by: str) -> bundle.Report:
    """Write `session` into the new or empty folder `to`, verify what was written, journal it.

    NotExportable if it has no manifest (nothing was written then), or if files are missing and yet the verdict did not say so.
    """
    contents = _contents(room, root_pem, session)
    try:
        missing = await asyncio.to_thread(bundle.write_bundle, to, contents, footage)
    except FileExistsError:
        raise
    except OSError as error:
        raise NotExportable(f"{to} cannot be written ({error.strerror}). The session itself is untouched.") from error
    report = await asyncio.to_thread(bundle.verify, to, root_pem)
    files = [path for path in to.rglob("*") if path.is_file()]
    await room.report(e.SessionExported(at=room.clock.now(), session=session, by=by, files=len(files),
                                        bytes=sum(path.stat().st_size for path in files)))
    if missing and report.verdict != "FAIL":
        raise NotExportable(f"{len(missing)} files are missing from the disk, the first is {missing[0]}")
    return report


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
    return bundle.Contents(
        manifests={number: k.body for number, k in manifests.items()},
        receipts={number: answers[k.digest] for number, k in manifests.items() if k.digest in answers},
        session_open=opened.body, open_receipt=answers.get(opened.digest), root_pem=root_pem,
        rows=_up_to_last_manifest(room.events(session)))


def _up_to_last_manifest(rows: list[e.Recorded]) -> list[e.Recorded]:
    last = max(r.seq for r in rows if isinstance(r.event, e.ManifestSigned))
    return [r for r in rows if r.seq <= last]
