"""Signed documents: DSSE v1.0 envelopes (secure-systems-lab/dsse), ECDSA P-256 with SHA-256, X.509.

The payload is canonical JSON (`chain.canonical`); the signature covers the payload's type and bytes. Trust comes from the certificate's
chain to the pinned root and from its role (`keys.role_of`), never from `keyid` or `alg`, which anybody can change. Bytes are
verified before they are parsed, and only the verified bytes are parsed. An envelope may carry further signatures (SM2, say): those that we
cannot read are passed over.
Called by the room (session-open, manifest), by the platform's stand-in (roster, receipt), and by whoever receives either.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509 import verification

from edge.evidence.chain import NotCanonical, canonical, parse, sha256_hex
from edge.evidence.keys import Role, RoleError, fingerprint, load_key, read_certificates, role_of

ROSTER = "application/vnd.examroom.exam-roster.v1+json"
SESSION_OPEN = "application/vnd.examroom.exam-session-open.v1+json"
SESSION_MANIFEST = "application/vnd.examroom.exam-session-manifest.v1+json"
RECEIPT = "application/vnd.examroom.exam-platform-receipt.v1+json"
DEVICE_CHECKPOINT = "application/vnd.examroom.exam-device-checkpoint.v1+json"
KEY_ROLLOVER = "application/vnd.examroom.exam-key-rollover.v1+json"

MAX_BYTES = 32 << 20
"""An envelope larger than this is refused unread (a manifest of six streams and twelve hours is about 4 MB)."""

_CHAIN_DEPTH = 3
"""Intermediates between leaf and root that are followed."""


class EnvelopeError(ValueError):
    """The envelope proves nothing. `word`: json, type, base64, certificate, role, chain, signature, payload."""

    def __init__(self, word: str, text: str) -> None:
        super().__init__(text)
        self.word = word


class Second(Protocol):
    """Whatever makes a further signature over the same bytes (`sm2`)."""

    @property
    def chain_pem(self) -> str:
        """Its certificate, then its intermediates, PEM."""

    def entry(self, pae: bytes) -> dict[str, Any] | None:
        """One more entry of `signatures`; None if it cannot be made now, because the first never waits for it."""


class Signer(Protocol):
    """Whatever holds a key: a file, a TPM, a token (`signers`). It may have a `second`, which signs beside it."""

    @property
    def chain_pem(self) -> str:
        """The leaf's certificate, then its intermediates, PEM."""

    def sign(self, pae: bytes) -> bytes:
        """ECDSA over SHA-256 of `pae`, DER."""


class FileSigner:
    """A private key in a file (PEM, mode 0600) with its certificate chain. OSError or ValueError in plain words if they do not fit."""

    def __init__(self, key_path: Path, cert_path: Path) -> None:
        self._key = load_key(key_path)
        self._chain_pem = cert_path.read_text(encoding="ascii")
        try:
            leaf = read_certificates(self._chain_pem.encode())[0]
        except ValueError as error:
            raise ValueError(f"{cert_path} holds no certificate: {error}") from error
        if leaf.public_key() != self._key.public_key():
            raise ValueError(f"{cert_path} is not the certificate of the key in {key_path}; nothing can be signed with this pair")

    @property
    def chain_pem(self) -> str:
        return self._chain_pem

    def sign(self, pae: bytes) -> bytes:
        return self._key.sign(pae, ec.ECDSA(hashes.SHA256()))


@dataclass(frozen=True, slots=True)
class Opened:
    """A verified envelope: its document, the document's bytes and digest (the document's id), and who signed it."""

    payload: dict[str, Any]
    body: bytes
    digest: str
    name: str                       # in the SAN: device id or platform name
    cert_sha256: str


def pre_authentication(payload_type: str, body: bytes) -> bytes:
    """PAE of DSSE's protocol.md: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(body), body)


def seal(payload_type: str, payload: dict[str, Any], signer: Signer) -> bytes:
    """The signed envelope, JSON. NotCanonical if the payload has no canonical form."""
    body = canonical(payload)
    chain = signer.chain_pem
    pae = pre_authentication(payload_type, body)
    first = {"keyid": fingerprint(read_certificates(chain.encode())[0]), "sig": base64.b64encode(signer.sign(pae)).decode(), "cert": chain}
    second: Second | None = getattr(signer, "second", None)
    further = second.entry(pae) if second is not None else None
    return canonical({
        "payloadType": payload_type,
        "payload": base64.b64encode(body).decode(),
        "signatures": [first] if further is None else [first, further],
    })


def read_envelope(data: bytes, root_pem: bytes, payload_type: str, role: Role, at_utc_us: int | None) -> Opened:
    """Verify an envelope and return its document. EnvelopeError says what is wrong with it.

    `at_utc_us`: the moment at which the certificate must have been valid, taken from the receipt where there is one, never the present.
    None judges the chain at the certificate's own first second: for a caller that learns the moment from the verified document and then
    asks again with it.
    """
    body, signatures = _unpack(data, payload_type)
    root = _root(root_pem)
    first: EnvelopeError | None = None
    for entry in signatures:
        try:
            leaf = _verify_signature(entry, payload_type, body, root, role, at_utc_us)
        except EnvelopeError as error:
            first = first or error
            continue
        return Opened(_document(body), body, sha256_hex(body), role_of(leaf)[1], fingerprint(leaf))
    raise first or EnvelopeError("signature", "the envelope carries no signature")


def open_envelope(data: bytes, root_pem: bytes, payload_type: str, role: Role, at_utc_us: int) -> tuple[dict[str, Any], bytes]:
    """The document of a verified envelope and its bytes; otherwise as `read_envelope`."""
    opened = read_envelope(data, root_pem, payload_type, role, at_utc_us)
    return opened.payload, opened.body


def _unpack(data: bytes, payload_type: str) -> tuple[bytes, list[dict[str, Any]]]:
    if len(data) > MAX_BYTES:
        raise EnvelopeError("json", f"the envelope is larger than {MAX_BYTES >> 20} MB")
    try:
        outer = parse(data)
    except NotCanonical as error:
        raise EnvelopeError("json", f"the envelope is {error}") from error
    if not isinstance(outer, dict) or not isinstance(outer.get("payload"), str) or not isinstance(outer.get("signatures"), list):
        raise EnvelopeError("json", "the envelope lacks payload or signatures")
    if outer.get("payloadType") != payload_type:
        raise EnvelopeError("type", f"the envelope holds {str(outer.get('payloadType'))[:80]!r}, not {payload_type!r}")
    return _from_base64(outer["payload"], "payload"), [each for each in outer["signatures"] if isinstance(each, dict)]


def _verify_signature(entry: dict[str, Any], payload_type: str, body: bytes, root: x509.Certificate, role: Role,
                      at_utc_us: int | None) -> x509.Certificate:
    try:
        leaf, *between = read_certificates(str(entry.get("cert", "")).encode())
        is_role, _ = role_of(leaf)
        key = leaf.public_key()
    except RoleError as error:
        raise EnvelopeError("role", f"the signer's certificate cannot sign as a {role}: {error}") from error
    except ValueError as error:
        raise EnvelopeError("certificate", f"the signer's certificate: {error}") from error
    if is_role != role:
        raise EnvelopeError("role", f"signed by a {is_role}, where only a {role} may sign")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise EnvelopeError("certificate", "the signer's key is not an elliptic-curve key")
    try:
        key.verify(_from_base64(entry.get("sig"), "signature"), pre_authentication(payload_type, body), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise EnvelopeError("signature", "the signature does not fit the document: one of them was changed") from error
    _follow_chain(leaf, between, root, at_utc_us)
    return leaf


def check_chain(chain_pem: bytes, root_pem: bytes, at_utc_us: int) -> tuple[Role, str]:
    """Role and name of a chain's leaf (PEM, leaf first) if it leads to the root at that moment; else EnvelopeError says why not."""
    try:
        leaf, *between = read_certificates(chain_pem)
        role_and_name = role_of(leaf)
    except RoleError as error:
        raise EnvelopeError("role", f"the certificate may not sign: {error}") from error
    except ValueError as error:
        raise EnvelopeError("certificate", str(error)) from error
    _follow_chain(leaf, between, _root(root_pem), at_utc_us)
    return role_and_name


def _follow_chain(leaf: x509.Certificate, between: list[x509.Certificate], root: x509.Certificate, at_utc_us: int | None) -> None:
    try:
        at = leaf.not_valid_before_utc + timedelta(seconds=1) if at_utc_us is None else datetime.fromtimestamp(at_utc_us // 1_000_000, UTC)
        # the leaf's own profile is ours (keys.role_of); issuers are held to the library's rules for CAs
        policy = verification.PolicyBuilder().store(verification.Store([root])).time(at).max_chain_depth(_CHAIN_DEPTH).extension_policies(
            ca_policy=verification.ExtensionPolicy.webpki_defaults_ca(), ee_policy=verification.ExtensionPolicy.permit_all())
        policy.build_client_verifier().verify(leaf, between)
    except Exception as error:      # as in keys.read_certificates: whatever an enemy's certificate makes the library say, it is a no
        raise EnvelopeError("chain", f"the signer's certificate does not lead to the pinned root at that time: {error}") from error


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = parse(body)
        same = canonical(document) == body
    except NotCanonical as error:
        raise EnvelopeError("payload", f"the signed document is {error}") from error
    if not same or not isinstance(document, dict):
        raise EnvelopeError("payload", "the signed document is not one canonical JSON object")
    return document


def _root(pem: bytes) -> x509.Certificate:
    try:
        certificates = read_certificates(pem)
    except ValueError as error:
        raise EnvelopeError("certificate", f"the root certificate: {error}") from error
    if len(certificates) != 1:
        raise EnvelopeError("certificate", "the root file must hold exactly one certificate")
    return certificates[0]


def _from_base64(text: object, what: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise EnvelopeError("base64", f"the {what} is not proper base64")
    return data
