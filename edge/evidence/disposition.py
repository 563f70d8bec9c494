"""The disposition record: what was given up, when, by which rule and by whose clock, signed before the first file goes.

With it a lawful deletion can be told from a loss: the manifest still names every file and digest, and this record says of the same
session that its time was over. A pure function of the session's facts and what the room says of itself; schema
`docs/schemas/disposition.json`. Called by the keeper (to make it) and by whoever reads a device's history (`read_disposition`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge.clock import iso_utc
from edge.evidence.envelope import Opened, read_envelope
from edge.evidence.manifest import RoomFacts
from edge.sessions import events as e

DISPOSITION = "application/vnd.examroom.exam-disposition.v1+json"
TYPE = "exam-disposition/v1"


def disposition(events: Sequence[e.Recorded], facts: RoomFacts) -> dict[str, Any]:
    """The record of a session that was given up, from its facts. ValueError if they do not say that it was."""
    given_up = next((row for row in events if isinstance(row.event, e.FootageDisposed)), None)
    opened = next((row.event for row in events if isinstance(row.event, e.CheckinOpened)), None)
    if given_up is None or opened is None or not isinstance(fact := given_up.event, e.FootageDisposed):
        raise ValueError("the session was not given up")
    signed = [row.event for row in events if isinstance(row.event, e.ManifestSigned)]
    receipts = [row.event.receipt_sha256 for row in events
                if isinstance(row.event, e.ReceiptVerified) and row.event.answers == "session-manifest"]
    holds = [row.event for row in events if isinstance(row.event, e.HoldReleased)]
    record: dict[str, Any] = {
        "type": TYPE, "site": facts.site, "room": facts.room_code, "session_seq": opened.session_seq,
        "session": {"id": fact.session or ""}, "disposed_utc": iso_utc(fact.at.utc_us), "ground": "expired",
        "device": {"id": facts.device_id, "cert_sha256": facts.cert_sha256, "boot_id": fact.at.boot_id, "sw_version": facts.sw_version,
                   "sw_sha256": facts.sw_sha256, "config_sha256": facts.config_sha256},
        "manifests": [each.digest for each in signed], "receipts": receipts,
        "retention": {"policy": fact.policy, "keep_until": fact.keep_until, "holds_released": len(holds)},
        "time": {"day": fact.day, "witness_receipt": fact.witness, "witness_utc": iso_utc(fact.witness_utc_us)},
        "footage": {"segments": fact.segments, "bytes": fact.bytes, "list_sha256": fact.list_sha256,
                    "streams": dict(fact.streams)},
        "people": "forgotten",
        "journal": {"seq": given_up.seq, "head_sha256": given_up.hash},
    }
    if fact.approved_by is not None:
        record["approved_by"] = fact.approved_by
    return record


def read_disposition(envelope: bytes, root_pem: bytes, at_utc_us: int | None) -> Opened:
    """A verified disposition record. EnvelopeError says what is wrong with it; `at_utc_us` as in `envelope.read_envelope`."""
    return read_envelope(envelope, root_pem, DISPOSITION, "device", at_utc_us)
