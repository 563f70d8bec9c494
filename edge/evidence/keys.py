"""Keys and the profile of certificates: who may sign as a room's device, who as the platform.

Profile of a leaf: P-256, one SAN URI `urn:exam:<role>:<name>`, critical extended key usage with our private OID of that role, no CA. Both
are asked for, so that a device's key can never sign a receipt, nor a web server's certificate of the same root a manifest (a purpose of
its own each, RFC 5280 section 4.2.1.12). 1.3.6.1.4.1.99999 stands for the authority's own arc until it assigns one.
Called by `edge key`, by `envelope`, and by whoever issues certificates.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge import durable

Role = Literal["device", "platform"]

DEVICE_EKU = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1.1")
"""Signs session-open, manifest, checkpoint, key-rollover."""

PLATFORM_EKU = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1.2")
"""Signs roster and receipt."""

EKU: dict[Role, x509.ObjectIdentifier] = {"device": DEVICE_EKU, "platform": PLATFORM_EKU}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_URN = re.compile(rf"urn:exam:(device|platform):({_NAME.pattern})")


class RoleError(ValueError):
    """The certificate is not that of a device or a platform in our sense. The text says why."""


def san_uri(role: Role, name: str) -> str:
    """`urn:exam:<role>:<name>`. ValueError if the name is more than letters, digits, dot, dash and underscore, 64 at most."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"a {role}'s name is 1 to 64 letters, digits, '.', '_', '-', beginning with a letter or digit; got {name!r}")
    return f"urn:exam:{role}:{name}"


def leaf_extensions(role: Role, name: str) -> list[tuple[x509.ExtensionType, bool]]:
    """The extensions of a leaf and whether each is critical; the issuer adds its key identifiers."""
    return [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_signing_only(), True),
        (x509.ExtendedKeyUsage([EKU[role]]), True),
        (x509.SubjectAlternativeName([x509.UniformResourceIdentifier(san_uri(role, name))]), False),
    ]


def role_of(certificate: x509.Certificate) -> tuple[Role, str]:
    """What a leaf may sign as, and its name. RoleError if SAN and key usage do not say the same single role, or the key is not P-256."""
    try:
        key = certificate.public_key()
    except Exception as error:      # as in read_certificates
        raise RoleError(f"it cannot be read: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RoleError("its key is not P-256")
    return _role_and_name(certificate)


def leaf_names(role: Role, certificate: x509.Certificate) -> str:
    """The name of a leaf that may sign as `role`, whatever its key's kind. RoleError if it may not."""
    found, name = _role_and_name(certificate)
    if found != role:
        raise RoleError(f"it is a {found}'s")
    return name


def _role_and_name(certificate: x509.Certificate) -> tuple[Role, str]:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        signs = certificate.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound as error:
        raise RoleError("it lacks a subject alternative name, a key usage or an extended key usage") from error
    except Exception as error:      # as in read_certificates
        raise RoleError(f"it cannot be read: {error}") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    found = _URN.fullmatch(uris[0]) if len(uris) == 1 else None
    if found is None:
        raise RoleError("its subject alternative name is not one urn:exam:device:… or urn:exam:platform:…")
    role: Role = "device" if found[1] == "device" else "platform"
    if list(usage.value) != [EKU[role]] or not usage.critical or not signs:
        raise RoleError(f"it is named a {role} but may not sign as one (extended key usage)")
    return role, found[2]


def init_device_key(state: Path, device_id: str) -> bytes:
    """Make `state/device.key` (P-256, PKCS#8 PEM, mode 0600) and return the certificate request (PEM) for it.

    FileExistsError if there is a key already: what it signed could no longer be continued. ValueError if the id cannot stand in a
    certificate.
    """
    san_uri("device", device_id)
    path = state / "device.key"
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    durable.make_folder(state)
    try:
        durable.write_new(path, pem, 0o600)
    except FileExistsError as error:
        raise FileExistsError(
            f"{path} exists: this room has a key already, and nothing was changed. "
            "For a new certificate of the same key, make a new request only."
        ) from error
    return device_request(path, device_id)


def device_request(key_path: Path, device_id: str) -> bytes:
    """A certificate request (PKCS#10, PEM) for the key in `key_path`. OSError if it is missing, ValueError if it is no P-256 key."""
    return request(load_key(key_path), device_id)


def request(key: ec.EllipticCurvePrivateKey, device_id: str) -> bytes:
    """A certificate request (PKCS#10, PEM), signed by `key` wherever it is (`signers.Borrowed`). ValueError for an impossible id."""
    names = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device_id)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(names)
    for extension, critical in leaf_extensions("device", device_id):
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The P-256 private key of a PEM file. OSError if it cannot be read, ValueError if it is anything else."""
    return parse_key(path.read_bytes(), str(path))


def parse_key(pem: bytes, where: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 private key of a PEM text that was at `where`. ValueError if it is anything else."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where} holds no private key that can be read without a password") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError(f"{where} holds a key that is not P-256")
    return key


def read_certificates(pem: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM text, at least one. ValueError if it holds none, or one that cannot be read."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except Exception as error:      # the library has a dozen families of errors for a certificate made by an enemy
        raise ValueError(f"not a readable certificate: {error}") from error


def fingerprint(certificate: x509.Certificate) -> str:
    """Lower-case hex SHA-256 of the certificate in DER: `cert_sha256` of a manifest, and what an authority publishes of its root."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def _signing_only() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )
