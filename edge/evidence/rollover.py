"""The key-rollover: the device's old key says which certificate signs after it, and from which session on.

Without it a new certificate on an old device looks like what it may be: another box in its place, or a thief's key. The document goes the
way of the others (outbox, receipt, archive); schema `docs/schemas/rollover.json`. Called by `edge/keyring.py` (to make it) and by whoever
reads a device's history.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge.clock import Stamp, iso_utc
from edge.evidence.envelope import KEY_ROLLOVER, EnvelopeError, Opened, read_envelope
from edge.evidence.keys import RoleError, fingerprint, leaf_names, read_certificates
from edge.evidence.manifest import RoomFacts

TYPE = "exam-key-rollover/v1"


@dataclass(frozen=True, slots=True)
class Rollover:
    """A verified key-rollover. Documents of sessions up to `from_session_seq` - 1 are the old certificate's, but for later revisions of
    them that were made after `made_utc`; those from it on are the new one's alone. `new_chain_pem`: leaf, then intermediates."""

    opened: Opened
    device: str
    room: str
    made_utc: str
    old_cert_sha256: str
    new_cert_sha256: str
    new_chain_pem: str
    from_session_seq: int


def rollover(facts: RoomFacts, new_chain_pem: str, from_session_seq: int, at: Stamp, head: tuple[int, str],
             prev_manifest: str | None) -> dict[str, Any]:
    """The document to be signed with the old key. `facts`: still those of the old certificate; `head`: the journal's last row and hash."""
    return {
        "type": TYPE, "site": facts.site, "room": facts.room_code, "made_utc": iso_utc(at.utc_us),
        "device": {"id": facts.device_id, "cert_sha256": facts.cert_sha256, "boot_id": facts.boot_id, "sw_version": facts.sw_version,
                   "sw_sha256": facts.sw_sha256, "config_sha256": facts.config_sha256},
        "new_cert_sha256": fingerprint(read_certificates(new_chain_pem.encode())[0]), "new_cert": new_chain_pem,
        "from_session_seq": from_session_seq, "journal": {"seq": head[0], "head_sha256": head[1]},
        "prev": {"manifest_sha256": prev_manifest} if prev_manifest is not None else {},
    }


def read_rollover(envelope: bytes, root_pem: bytes, at_utc_us: int | None = None) -> Rollover:
    """A verified key-rollover. EnvelopeError says what is wrong with it; `at_utc_us` (of its receipt) as in `envelope.read_envelope`.

    Whether the new certificate leads to the root is asked of each document that it signs, not here."""
    opened = read_envelope(envelope, root_pem, KEY_ROLLOVER, "device", at_utc_us)
    says = opened.payload
    try:
        device, new_chain, from_seq = says["device"], says["new_cert"], says["from_session_seq"]
        new = read_certificates(str(new_chain).encode())[0]
        if says["type"] != TYPE or type(from_seq) is not int or from_seq < 1 or not isinstance(new_chain, str):
            raise ValueError("its fields do not have their form")
        if (device["id"], device["cert_sha256"]) != (opened.name, opened.cert_sha256):
            raise ValueError("it is signed by another device or certificate than it names")
        if fingerprint(new) != says["new_cert_sha256"] or leaf_names("device", new) != opened.name:
            raise ValueError("the new certificate is not the one that it names, or another device's")
        return Rollover(opened, opened.name, str(says["room"]), str(says["made_utc"]), opened.cert_sha256, str(says["new_cert_sha256"]),
                        new_chain, from_seq)
    except (KeyError, TypeError, ValueError, RoleError) as error:
        raise EnvelopeError("payload", f"the key-rollover cannot be used: {error}") from error
