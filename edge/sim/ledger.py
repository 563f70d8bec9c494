"""What the simulated platform holds: announcements, manifests and the receipts it gave, in files that outlive it.

    <folder>/sessions/<session>/open.dsse.json, manifest-<rev>.dsse.json, disposition.dsse.json, receipt-open.dsse.json, …
    <folder>/device/<kind>-<digest>.dsse.json, receipt-<digest>.dsse.json       what belongs to no session

A document is stored before its receipt is made; a receipt is made once and given again for the same bytes. Called by `sim.platform` only.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge import durable
from edge.clock import Clock, iso_utc
from edge.evidence.envelope import RECEIPT, Signer, seal

DISPOSITION = 0
"""Stands for the disposition record where a manifest has its revision (which counts from 1)."""


@dataclass(frozen=True, slots=True)
class Document:
    """A verified document of a room. `revision`: of a manifest; None: an announcement; 0: the disposition record.

    `device`: in the certificate that signed it."""

    session: str
    revision: int | None
    room_code: str
    device: str
    session_seq: int
    digest: str
    envelope: bytes

    @property
    def kind(self) -> str:
        return _kind(self.revision)


class Ledger:
    """The files, and what was read from them at the start."""

    def __init__(self, folder: Path, room_code: str, signer: Signer, clock: Clock) -> None:
        self._folder = folder / "sessions"
        self._signer = signer
        self._clock = clock
        self._room_code = room_code
        durable.make_folder(self._folder)
        self._seqs: dict[tuple[str, int], str] = {}         # (device, session_seq) -> session
        self._receipts: list[tuple[int, str]] = []          # (platform_seq, digest of the receipt)
        for path in self._folder.glob("*/*.dsse.json"):
            payload, digest = _payload(path.read_bytes())
            if payload["type"] == "exam-platform-receipt/v1":
                self._receipts.append((payload["platform_seq"], digest))
            else:
                self._seqs[(payload["device"]["id"], session_seq(payload))] = payload["session"]["id"]
        self._device = folder / "device"
        for path in self._device.glob("receipt-*.dsse.json"):
            payload, digest = _payload(path.read_bytes())
            self._receipts.append((payload["platform_seq"], digest))
        self._receipts.sort()

    def held(self, session: str, revision: int | None) -> str | None:
        """The digest of what is held under this key; None if nothing is."""
        path = self._path(session, _name(revision))
        return _payload(path.read_bytes())[1] if path.exists() else None

    def session_of(self, device: str, seq: int) -> str | None:
        """Which session a device has counted as its `seq`-th."""
        return self._seqs.get((device, seq))

    def store(self, document: Document) -> None:
        """Keep it. FileExistsError if something is held under its key."""
        durable.make_folder(self._folder / document.session)
        durable.write_new(self._path(document.session, _name(document.revision)), document.envelope)
        self._seqs[(document.device, document.session_seq)] = document.session

    def receipt(self, session: str, revision: int | None) -> bytes | None:
        """The receipt given for what is held under this key; None if none was given yet."""
        path = self._path(session, _receipt_name(revision))
        return path.read_bytes() if path.exists() else None

    def give_receipt(self, document: Document, reasons: list[dict[str, str]]) -> bytes:
        """Make, keep and return the receipt: accepted, or rejected for `reasons`. The one that was given stays."""
        given = self.receipt(document.session, document.revision)
        if given is not None:
            return given
        envelope = seal(RECEIPT, self.payload(document, reasons), self._signer)
        durable.write_new(self._path(document.session, _receipt_name(document.revision)), envelope)
        payload, digest = _payload(envelope)
        self._receipts.append((payload["platform_seq"], digest))
        return envelope

    def give_device_receipt(self, kind: str, digest: str, device: str, envelope: bytes) -> tuple[bytes, bool]:
        """Keep a verified document that belongs to no session; its receipt, and whether the document is new."""
        path = self._device / f"receipt-{digest}.dsse.json"
        if path.exists():
            return path.read_bytes(), False
        durable.make_folder(self._device)
        durable.replace(self._device / f"{kind}-{digest}.dsse.json", envelope)
        last_seq, last_digest = self._receipts[-1] if self._receipts else (0, "")
        receipt = seal(RECEIPT, {
            "type": "exam-platform-receipt/v1", "receipt_id": f"R-{self._room_code}-{last_seq + 1:08d}", "kind": kind, "digest": digest,
            "device": device, "room_code": self._room_code, "verdict": "accepted", "reasons": [], "platform_seq": last_seq + 1,
            "received_utc": iso_utc(self._clock.now().utc_us), **({"prev_receipt": last_digest} if last_digest else {})}, self._signer)
        durable.write_new(path, receipt)
        self._receipts.append((last_seq + 1, _payload(receipt)[1]))
        return receipt, True

    def payload(self, document: Document, reasons: list[dict[str, str]]) -> dict[str, Any]:
        """What a receipt for this document says (docs/schemas/receipt.json)."""
        last_seq, last_digest = self._receipts[-1] if self._receipts else (0, "")
        payload: dict[str, Any] = {
            "type": "exam-platform-receipt/v1", "receipt_id": f"R-{self._room_code}-{last_seq + 1:08d}", "kind": document.kind,
            "digest": document.digest, "device": document.device, "room_code": document.room_code, "session_id": document.session,
            "session_seq": document.session_seq, "verdict": "rejected" if reasons else "accepted", "reasons": reasons,
            "platform_seq": last_seq + 1, "received_utc": iso_utc(self._clock.now().utc_us),
        }
        if document.revision:
            payload["revision"] = document.revision
        if last_digest:
            payload["prev_receipt"] = last_digest
        return payload

    def document(self, session: str, revision: int | None) -> Document | None:
        """What is held under this key, as it was when it came."""
        path = self._path(session, _name(revision))
        if not path.exists():
            return None
        envelope = path.read_bytes()
        payload, digest = _payload(envelope)
        return document_of(payload, digest, payload["device"]["id"], revision, envelope)

    def summary(self) -> list[dict[str, Any]]:
        """Session, kind, revision, digest and verdict of all that is held: for people and tests."""
        rows = []
        for path in sorted(self._folder.glob("*/*.dsse.json")):
            if path.name.startswith("receipt"):
                continue
            revision = None if path.name.startswith("open") else DISPOSITION if path.name.startswith("disposition") \
                else int(path.name.removeprefix("manifest-").partition(".")[0])
            receipt = self.receipt(path.parent.name, revision)
            rows.append({"session": path.parent.name, "kind": _kind(revision), "revision": revision or None,
                         "digest": _payload(path.read_bytes())[1],
                         "verdict": _payload(receipt)[0]["verdict"] if receipt else "pending"})
        return rows

    def _path(self, session: str, name: str) -> Path:
        return self._folder / session / f"{name}.dsse.json"


def document_of(payload: dict[str, Any], digest: str, device: str, revision: int | None, envelope: bytes) -> Document:
    """A document whose payload fits the contract, under the name `device` of the certificate that signed it."""
    return Document(payload["session"]["id"], revision, payload["room"], device, session_seq(payload), digest, envelope)


def session_seq(payload: dict[str, Any]) -> int:
    """The device's running number of the session: at the top of an announcement, among a manifest's counters."""
    return int(payload["session_seq"] if "session_seq" in payload else payload["counters"]["session_seq"])


def _kind(revision: int | None) -> str:
    return "session-open" if revision is None else "session-disposition" if revision == DISPOSITION else "session-manifest"


def _name(revision: int | None) -> str:
    return "open" if revision is None else "disposition" if revision == DISPOSITION else f"manifest-{revision}"


def _receipt_name(revision: int | None) -> str:
    return "receipt-open" if revision is None else "receipt-disposition" if revision == DISPOSITION else f"receipt-{revision}"


def _payload(envelope: bytes) -> tuple[dict[str, Any], str]:
    """The payload of an envelope that was verified before it was stored, and its digest."""
    body = base64.b64decode(json.loads(envelope)["payload"])
    document: dict[str, Any] = json.loads(body)
    return document, hashlib.sha256(body).hexdigest()
