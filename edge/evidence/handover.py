"""One key signs for a device, until it hands over to another: who may sign is followed from one key-rollover to the next.

Several keys may have changed hands with nothing signed between them, so what counts is the chain of rollovers, not the last one alone.
Whoever no chain leads to is a stranger. Called by `history` (over many sessions), by `bundle` (within one, whose later revisions another
key may have signed) and by whoever lays a session's documents out.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.evidence.chain import parse
from edge.evidence.documents import Rollover
from edge.evidence.fault import Fault


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signed one document of a session. `key`, `cert_sha256` as in `documents.Signed`; `amends`: a later revision, which whoever
    holds the key by then may sign."""

    session: str
    seq: int
    key: str
    cert_sha256: str
    amends: bool


def strangers(device: str, signatures: Iterable[Signature], rollovers: Sequence[Rollover]) -> Iterator[Fault]:
    """What is wrong with the keys of one device's documents, in the order in which they were signed."""
    holder: Signature | None = None
    retired = {each.cert_sha256: each.from_seq for each in rollovers if each.new_cert_sha256 != each.cert_sha256}
    for each in signatures:
        if each.seq >= retired.get(each.cert_sha256, each.seq + 1) and not each.amends:
            yield Fault("key-changed", f"{each.session} is signed by a certificate that had handed over to another from number "
                                       f"{retired[each.cert_sha256]} on")
        if holder is not None and each.key != holder.key:
            word = last_word(rollovers, holder.key, each.cert_sha256)
            if word is None:
                yield Fault("key-changed", f"from {each.session} on {device} signs with another key, and no key-rollover by the old key "
                                           "says so")
            elif each.seq < word.from_seq and not each.amends:
                yield Fault("key-changed", f"{each.session} is signed by the new key, which may sign only from number {word.from_seq} on")
        holder = each


def last_word(rollovers: Iterable[Rollover], key: str, cert_sha256: str) -> Rollover | None:
    """The rollover that named this certificate, if a chain of them leads to it from `key`, each signed by the one it was handed to."""
    naming: dict[str, list[Rollover]] = {}
    for each in rollovers:
        naming.setdefault(each.new_cert_sha256, []).append(each)
    for last in naming.get(cert_sha256, ()):
        seen, waiting = {last.digest}, [last]
        while waiting:
            each = waiting.pop()
            if each.key == key:
                return last
            before = [other for other in naming.get(each.cert_sha256, ()) if other.digest not in seen]
            seen |= {other.digest for other in before}
            waiting += before
    return None


def leading_to(documents: Iterable[bytes], rollovers: Sequence[bytes]) -> list[bytes]:
    """Of a device's key-rollovers (envelopes as stored, in the order of the journal) those that lead to the certificates that signed
    `documents`. The same session's are always the same, whatever follows. What cannot be read is passed over: it proves nothing."""
    handed: list[tuple[str, str, bytes]] = []
    for each in rollovers:
        says = _payload(each)
        if (names := (_certificate(says), says.get("new_cert_sha256"))) and all(isinstance(name, str) for name in names):
            handed.append((str(names[0]), str(names[1]), each))
    wanted, before = {_certificate(_payload(each)) for each in documents}, 0
    while len(wanted) != before:
        before = len(wanted)
        wanted |= {old for old, new, _ in handed if new in wanted}
    return [each for _, new, each in handed if new in wanted]


def _certificate(says: Mapping[str, Any]) -> str | None:
    device = says.get("device")
    found = device.get("cert_sha256") if isinstance(device, dict) else None
    return found if isinstance(found, str) else None


def _payload(envelope: bytes) -> Mapping[str, Any]:
    try:
        says = parse(base64.b64decode(parse(envelope)["payload"]))
    except (ValueError, KeyError, TypeError):
        return {}
    return says if isinstance(says, dict) else {}
