"""Signed documents from anywhere, each verified and cut down to the facts that a device's history is judged by.

A manifest of a long session is a megabyte and a history has thousands, so a document is read, checked by itself and let go; what stays is
a `Manifest`, `Opening`, `Checkpoint`, `Rollover` or `Receipt`. Receipts come first, because the moment at which the platform had a document
is the moment at which its signer's certificate is judged. Called by `history`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.clock import parse_utc
from edge.evidence import anchors, checks, envelope
from edge.evidence.chain import NotCanonical, parse, sha256_hex
from edge.evidence.envelope import Opened
from edge.evidence.fault import Fault
from edge.evidence.report import Findings

CHECKPOINT_TYPE, ROLLOVER_TYPE = "exam-device-checkpoint/v1", "exam-key-rollover/v1"


@dataclass(frozen=True, slots=True)
class Signed:
    """What is known of every document of a device. `name`: where it lies; `key`: SHA-256 of the signer's public key (DER, SPKI)."""

    name: str
    digest: str
    device: str
    key: str
    cert_sha256: str
    room: str
    made_utc: str


@dataclass(frozen=True, slots=True)
class Manifest(Signed):
    """`closed_seq`: the journal's row that closed the books; `prev`, `prev_receipt`: the manifest before it and its receipt, if named."""

    session: str
    revision: int
    seq: int
    closed_seq: int
    prev: str | None
    prev_receipt: str | None
    open: str
    open_receipt: str
    opened_total: int
    closed_total: int
    segments: int
    gaps: int
    keep_until: str
    hw_counter: int | None = None
    read: str | None = None         # the clock's reading at the opening, as `anchors.opening` has it
    version: int = 1


@dataclass(frozen=True, slots=True)
class Opening(Signed):
    """`hw_counter`: what the counter in the machine's security chip said after this opening; None where there is none."""

    session: str
    seq: int
    journal_seq: int
    prev: str | None
    hw_counter: int | None = None
    read: str | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint(Signed):
    """The device's own word at a moment between sessions: its journal's last row, how many sessions were opened and closed by then."""

    journal_seq: int
    journal_head: str
    opened_total: int
    closed_total: int
    last_manifest: str | None
    hw_counter: int | None = None


@dataclass(frozen=True, slots=True)
class Rollover(Signed):
    """The old key's word that another certificate signs from session number `from_seq` on."""

    new_cert_sha256: str
    from_seq: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """The platform's answer. `answers`: the digest of what it answers; `digest`: its own."""

    name: str
    digest: str
    answers: str
    kind: str
    device: str
    room: str
    session: str | None
    revision: int | None
    verdict: str
    number: int
    prev: str | None
    received_utc: str


@dataclass(slots=True)
class Documents:
    """All documents of a history by their kind, and whatever lay there twice (`twice`: digest, first name, other name)."""

    manifests: list[Manifest] = field(default_factory=list)
    opens: list[Opening] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    rollovers: list[Rollover] = field(default_factory=list)
    receipts: dict[str, Receipt] = field(default_factory=dict)
    twice: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def signed(self) -> list[Signed]:
        return [*self.manifests, *self.opens, *self.checkpoints, *self.rollovers]

    def answers(self) -> dict[str, Receipt]:
        """By the digest of what is answered; where there are several, the first that accepts, else the first."""
        best: dict[str, Receipt] = {}
        for each in sorted(self.receipts.values(), key=lambda r: (r.verdict != "accepted", r.number)):
            best.setdefault(each.answers, each)
        return best


Load = Callable[[], bytes]
Progress = Callable[[int, int], None]
MomentOf: Mapping[str, str] = {
    envelope.SESSION_MANIFEST: "made_utc", envelope.SESSION_OPEN: "opened_utc", envelope.DEVICE_CHECKPOINT: "made_utc",
    envelope.KEY_ROLLOVER: "made_utc"}
"""Of a device's document, the field with the moment that the device says."""

_UTC, _HEX64 = checks.UTC, checks.HEX64
_DEVICE: checks.Shape = {"id": str, "cert_sha256": _HEX64}
SHAPES: Mapping[str, dict[str, checks.Shape]] = {
    envelope.SESSION_OPEN: {"type": str, "room": str, "device": _DEVICE, "opened_utc": _UTC, "session_seq": int, "session": {"id": str},
                            "clock": {}, "journal": {"seq": int, "head_sha256": _HEX64}, "prev": {}},
    envelope.DEVICE_CHECKPOINT: {"type": str, "room": str, "device": _DEVICE, "made_utc": _UTC, "prev": {},
                                 "journal": {"seq": int, "head_sha256": _HEX64},
                                 "counters": {"opened_total": int, "closed_total": int}},
    envelope.KEY_ROLLOVER: {"type": str, "room": str, "device": _DEVICE, "made_utc": _UTC, "new_cert_sha256": _HEX64,
                            "from_session_seq": int},
    envelope.RECEIPT: {"type": str, "kind": str, "digest": _HEX64, "device": str, "room_code": str, "verdict": str, "platform_seq": int,
                       "received_utc": _UTC},
}
_TYPES = {envelope.SESSION_OPEN: "exam-session-open/v1", envelope.DEVICE_CHECKPOINT: CHECKPOINT_TYPE,
          envelope.KEY_ROLLOVER: ROLLOVER_TYPE, envelope.RECEIPT: "exam-platform-receipt/v1"}


def gather(found: Findings, shown: Iterable[tuple[str, Load]], progress: Progress | None = None) -> Documents:
    """Verify every document of `shown` (name, how to read it). What is wrong with one alone is said here; `history` judges the whole."""
    outer = [(name, load, kind, digest) for name, load in shown for kind, digest in _look(found, name, load)]
    documents, seen = Documents(), dict[str, str]()
    done = 0
    for receipts in (True, False):
        answers = documents.answers()
        for name, load, kind, digest in outer:
            if (kind == envelope.RECEIPT) is not receipts:
                continue
            done += 1
            if digest in seen:
                if not receipts:
                    documents.twice.append((digest, seen[digest], name))
            else:
                seen[digest] = name
                _take(found, documents, name, load, kind, answers.get(digest))
            if progress:
                progress(done, len(outer))
    return documents


def _look(found: Findings, name: str, load: Load) -> Iterator[tuple[str, str]]:
    """Type and digest as the envelope has them, unverified: only to know what to verify it as."""
    try:
        outer = parse(load())
        kind, digest = outer["payloadType"], sha256_hex(base64.b64decode(outer["payload"], validate=True))
    except (OSError, NotCanonical, KeyError, TypeError, binascii.Error, ValueError) as error:
        found.wrong(f"{name}: it cannot be read as a signed document: {error}", "unreadable-document")
        return
    if kind in MomentOf or kind == envelope.RECEIPT:
        yield kind, digest
    else:
        found.note(f"{name}: a document of another kind ({str(kind)[:80]}); it is no part of a history")


def _take(found: Findings, documents: Documents, name: str, load: Load, kind: str, receipt: Receipt | None) -> None:
    try:
        data = load()
    except (OSError, ValueError) as error:
        found.wrong(f"{name}: {error}", "unreadable-document")
        return
    if kind == envelope.RECEIPT:
        opened = found.open(name, data, kind, "platform", "received_utc")
    else:
        opened = found.open(name, data, kind, "device", MomentOf[kind], parse_utc(receipt.received_utc) if receipt else None)
    if opened is None:
        return
    problem = checks.shape(opened.payload) if kind == envelope.SESSION_MANIFEST else _misfit(opened.payload, kind)
    if problem:
        found.wrong(f"{name}: {problem}", "other-document")
    elif kind == envelope.RECEIPT:
        documents.receipts[opened.digest] = _receipt(name, opened)
    else:
        _take_signed(found, documents, name, kind, opened)


def _misfit(payload: dict[str, Any], kind: str) -> str:
    if payload.get("type") != _TYPES[kind]:
        return f"it is a {payload.get('type')!r}, not a {_TYPES[kind]}"
    return checks.misfit(payload, SHAPES[kind], "")


def _take_signed(found: Findings, documents: Documents, name: str, kind: str, opened: Opened) -> None:
    says = opened.payload
    if (says["device"]["id"], says["device"]["cert_sha256"]) != (opened.name, opened.cert_sha256):
        found.wrong(f"{name}: signed by another device than it names", "role")
        return
    common = (name, opened.digest, opened.name, key_of(opened), opened.cert_sha256, says["room"], says[MomentOf[kind]])
    prev = says.get("prev", {})
    if kind == envelope.SESSION_MANIFEST:
        for fault in (*checks.entries(says), *checks.timeline(says), *anchors.clock(says), *anchors.incidents(says)):
            found.wrong(Fault(fault.word, f"{says['session']['id']}: {fault}"))
        counters = says["counters"]
        documents.manifests.append(Manifest(
            *common, says["session"]["id"], says["revision"], counters["session_seq"], says["journal"]["last"],
            _text(prev.get("manifest_sha256")), _text(prev.get("receipt_sha256")), says["open"]["open_sha256"],
            says["open"]["open_receipt_sha256"], counters["opened_total"], counters["closed_total"], len(says["segments"]),
            len(says["gaps"]), says["retention"]["keep_until"], _whole(counters.get("hw_counter")), anchors.opening(says),
            checks.version_of(says)))
    elif kind == envelope.SESSION_OPEN:
        documents.opens.append(Opening(*common, says["session"]["id"], says["session_seq"], says["journal"]["seq"],
                                       _text(prev.get("manifest_sha256")), _whole(says.get("hw_counter")), anchors.opening(says)))
    elif kind == envelope.DEVICE_CHECKPOINT:
        documents.checkpoints.append(Checkpoint(
            *common, says["journal"]["seq"], says["journal"]["head_sha256"], says["counters"]["opened_total"],
            says["counters"]["closed_total"], _text(prev.get("manifest_sha256")), _whole(says["counters"].get("hw_counter"))))
    else:
        documents.rollovers.append(Rollover(*common, says["new_cert_sha256"], says["from_session_seq"]))


def key_of(opened: Opened) -> str:
    """SHA-256 of the signer's public key, as in `Signed`."""
    return sha256_hex(opened.chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _receipt(name: str, opened: Opened) -> Receipt:
    says = opened.payload
    return Receipt(name, opened.digest, says["digest"], says["kind"], says["device"], says["room_code"], _text(says.get("session_id")),
                   revision if type(revision := says.get("revision")) is int else None, says["verdict"], says["platform_seq"],
                   _text(says.get("prev_receipt")), says["received_utc"])


def _whole(value: object) -> int | None:
    return value if type(value) is int else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
