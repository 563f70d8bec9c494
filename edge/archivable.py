"""What of a session belongs into the archive: the documents of its bundle, and each film with its sidecar, with the digests they must have.

A document is in memory (an envelope, the journal's rows up to the newest manifest, the root); a film lies in the footage folder and is
hashed again before it goes: what is not what was recorded never leaves as if it were. Called by `archivist`.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge.evidence import bundle, chain
from edge.room import Room
from edge.sessions import events as e
from edge.storage.catalog import StoredEnvelope
from edge.upload import archive_keys as keys
from edge.upload.archive import Archive, Stored


@dataclass(frozen=True, slots=True)
class File:
    """One file of a session's bundle: its bytes in `data`, or in the file `path`. `tail`: its key below the session's prefix."""

    name: str
    sha256: str
    size: int | None = None
    path: Path | None = None
    data: bytes | None = None

    @property
    def tail(self) -> str:
        return keys.tail(self.name, self.sha256)


class LocalFault(Exception):
    """A local file is not what the journal says. `word`: altered, missing, unreadable."""

    def __init__(self, word: str, name: str) -> None:
        super().__init__(f"{name}: {word}")
        self.word, self.name = word, name


def documents(room: Room, session: str, root_pem: bytes) -> list[File]:
    """Everything of the session's bundle but films. The journal's slice is named by the revision that it proves."""
    kept = room.catalog.envelopes(session)
    rows = room.events(session)
    signed = [(r.seq, r.event.revision) for r in rows if isinstance(r.event, e.ManifestSigned)]
    last, revision = max(signed)
    journal = b"".join(chain.to_line(r) + b"\n" for r in rows if r.seq <= last)
    opening = next(k.body for k in kept if k.kind == "session-open")
    manifests = {k.revision or 0: k.body for k in kept if k.kind == "session-manifest"}
    found = [*((_document_name(k, kept), k.body) for k in kept), (bundle.ROOT_NAME, root_pem), (f"journal-{revision}.jsonl", journal),
             *bundle.handed_over(opening, manifests, *room.catalog.rollovers()).items()]
    return [File(name, hashlib.sha256(data).hexdigest(), len(data), data=data) for name, data in found]


def films(room: Room, session: str, footage: Path) -> list[File]:
    """Each film of the newest manifest and its sidecar, in the manifest's order."""
    newest = max((k for k in room.catalog.envelopes(session) if k.kind == "session-manifest"), key=lambda k: k.revision or 0)
    paths = {r.seq: r.event.path for r in room.events(session) if isinstance(r.event, e.SegmentStored)}
    return list(_films(chain.parse(base64.b64decode(chain.parse(newest.body)["payload"])), paths, footage))


def _films(manifest: dict[str, Any], paths: Mapping[int, str], footage: Path) -> Iterator[File]:
    for entry in manifest["segments"]:
        film = footage / paths[entry["journal_seq"]]
        yield File(entry["path"], entry["sha256"], entry["bytes"], film)
        yield File(entry["path"].removesuffix(".mp4") + ".json", entry["sidecar_sha256"], None, film.with_suffix(".json"))


def _document_name(kept: StoredEnvelope, all_kept: list[StoredEnvelope]) -> str:
    """The bundle's name for a signed document of a session."""
    answered = next((k for k in all_kept if k.digest == kept.answers), None)
    match kept.kind, answered.kind if answered else "":
        case "session-manifest", _:
            return bundle.manifest_name(kept.revision or 0)
        case "session-open", _:
            return bundle.OPEN_NAME
        case "receipt", "session-open":
            return bundle.OPEN_RECEIPT_NAME
        case "receipt", "session-manifest":
            return bundle.receipt_name(kept.revision or 0)
        case kind, _:
            return f"{kind}-{kept.digest[:8]}.dsse.json"


def store(archive: Archive, session: str, file: File, until_utc_us: int, *, adopt: bool) -> Stored:
    """Put one file there, or see that it is there already (`adopt`), under lock. LocalFault if it is not what was recorded; blocking."""
    key = keys.prefix(session) + file.tail
    if file.data is not None:
        there = archive.adopt(key, file.sha256, len(file.data), until_utc_us) if adopt else None
        return there or archive.put_bytes(key, file.data, until_utc_us)
    if file.path is None:
        raise LocalFault("missing", file.name)
    try:
        with file.path.open("rb") as source:
            size, sha256, md5 = os.fstat(source.fileno()).st_size, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
            while piece := source.read(1 << 20):
                sha256.update(piece)
                md5.update(piece)
            if sha256.hexdigest() != file.sha256 or (file.size is not None and size != file.size):
                raise LocalFault("altered", file.name)
            there = archive.adopt(key, file.sha256, size, until_utc_us) if adopt else None
            return there or archive.put(key, source, size, file.sha256, md5.digest(), until_utc_us)
    except FileNotFoundError:
        raise LocalFault("missing", file.name) from None
    except OSError as error:
        raise LocalFault("unreadable", file.name) from error
