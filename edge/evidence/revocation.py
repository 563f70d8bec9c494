"""Certificates that the authority has taken back: revocation lists (RFC 5280, section 5) that came another way than with the folder.

A signature is believed if the platform had the document before its signer was revoked; without a receipt nothing shows that, and then
a revoked signer proves nothing. Called by `edge verify --crl` through `report.Findings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edge.clock import iso_utc
from edge.evidence.envelope import EnvelopeError, Opened
from edge.evidence.keys import read_certificates

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RevocationError(ValueError):
    """The list cannot be used. The text says why."""


@dataclass(frozen=True, slots=True)
class Revocations:
    """Serial numbers by issuer's name (DER): since when (UTC µs)."""

    since: Mapping[tuple[bytes, int], int] = field(default_factory=dict)

    def judge(self, opened: Opened, proven_utc_us: int | None) -> None:
        """EnvelopeError("revoked") unless each certificate of the signer was in force. `proven_utc_us`: when the platform had it."""
        for certificate in opened.chain:
            since = self.since.get((certificate.issuer.public_bytes(), certificate.serial_number))
            if since is None:
                continue
            if proven_utc_us is None:
                raise EnvelopeError("revoked", f"the signer's certificate was revoked at {iso_utc(since)}, and no receipt shows that the "
                                               "document is older")
            if proven_utc_us >= since:
                raise EnvelopeError("revoked", f"the signer's certificate was revoked at {iso_utc(since)}, before the platform had the "
                                               f"document ({iso_utc(proven_utc_us)})")


NONE = Revocations()
"""Nobody was revoked, as far as was told."""


def read_lists(lists: Iterable[bytes], root_pem: bytes, issuers: Iterable[x509.Certificate] = ()) -> Revocations:
    """Revocation lists (PEM or DER) of the root or of one of `issuers`. RevocationError if one is signed by somebody else."""
    authorities = [*read_certificates(root_pem), *issuers]
    since: dict[tuple[bytes, int], int] = {}
    for data in lists:
        try:
            found = x509.load_pem_x509_crl(data) if b"-----BEGIN" in data else x509.load_der_x509_crl(data)
            signer = next((a for a in authorities if a.subject == found.issuer and _signed_by(found, a)), None)
        except Exception as error:      # as in keys.read_certificates
            raise RevocationError(f"it is no revocation list: {error}") from error
        if signer is None:
            raise RevocationError("it is signed neither by the trusted root nor by an issuer that was named")
        for entry in found:
            moment = (entry.revocation_date_utc - _EPOCH).total_seconds()
            since[(found.issuer.public_bytes(), entry.serial_number)] = round(moment * 1_000_000)
    return Revocations(since)


def _signed_by(found: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    key = authority.public_key()
    return isinstance(key, ec.EllipticCurvePublicKey) and found.is_signature_valid(key)
