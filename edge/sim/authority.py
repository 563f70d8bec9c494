"""A certificate authority for demos and tests: a root, the platform's signing certificate, and certificates for rooms' devices.

Assumes that nothing of value hangs on it: its keys lie in plain files beside the simulated platform, and only `edge demo` and tests
make one. A room gets `root.pem` and its own chain, nothing else. On site the province's authority does this, offline.
Profile of the leaves: `evidence.keys`. P-256 throughout; root 10 years, leaves 3 years.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge import durable
from edge.evidence.envelope import FileSigner
from edge.evidence.keys import Role, leaf_extensions, load_key, role_of, san_uri

PLATFORM_NAME = "demo-platform"
_ROOT_DAYS = 3653
_LEAF_DAYS = 1095
_EARLIER = timedelta(days=1)
"""Certificates begin a day early, so that a clock a little behind does not void them."""

_DEVICE = "urn:exam:device:"


class Authority:
    """The authority in a folder: root.key, root.pem, platform.key, platform.pem. `root_pem`: what a room pins."""

    def __init__(self, root_key: ec.EllipticCurvePrivateKey, root: x509.Certificate, platform: FileSigner) -> None:
        self._root_key = root_key
        self._root = root
        self.platform = platform
        self.root_pem = root.public_bytes(serialization.Encoding.PEM)

    @classmethod
    def create(cls, folder: Path) -> Authority:
        """Make root and platform certificate. FileExistsError if `folder` holds an authority: its rooms would stop trusting it.

        root.pem is written last: without it the folder holds no authority yet, and a creation that was cut off is done anew.
        """
        if (folder / "root.pem").exists():
            raise FileExistsError(f"{folder} holds an authority already; nothing was changed")
        durable.make_folder(folder)
        root_key, platform_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root = _root_certificate(root_key)
        platform = _leaf(root_key, root, platform_key.public_key(), "platform", PLATFORM_NAME)
        durable.replace(folder / "platform.key", _key_pem(platform_key))
        durable.replace(folder / "platform.pem", platform.public_bytes(serialization.Encoding.PEM))
        durable.replace(folder / "root.key", _key_pem(root_key))
        durable.write_new(folder / "root.pem", root.public_bytes(serialization.Encoding.PEM), 0o644)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """The authority that `create` made. OSError if files are missing, ValueError if they are something else."""
        root = x509.load_pem_x509_certificate((folder / "root.pem").read_bytes())
        return cls(load_key(folder / "root.key"), root, FileSigner(folder / "platform.key", folder / "platform.pem"))

    def issue_device(self, csr_pem: bytes) -> bytes:
        """The certificate chain (PEM: the leaf; the root issues directly) for a device's request.

        ValueError in plain words if the request is unreadable, not signed by its own key, or not a device's.
        """
        try:
            request = x509.load_pem_x509_csr(csr_pem)
            names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, x509.ExtensionNotFound) as error:
            raise ValueError(f"the certificate request cannot be read or names nobody: {error}") from error
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        key = request.public_key()
        if not request.is_signature_valid or not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("the certificate request is not signed by the key that it names")
        if len(uris) != 1 or not uris[0].startswith(_DEVICE):
            raise ValueError(f"the certificate request must name one {_DEVICE}…")
        name = uris[0].removeprefix(_DEVICE)
        san_uri("device", name)         # ValueError if it is no name
        leaf = _leaf(self._root_key, self._root, key, "device", name)
        role_of(leaf)                   # RoleError (a ValueError) if the key is not of the profile
        return leaf.public_bytes(serialization.Encoding.PEM)


def _root_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _named("examroom demo root (no real authority)")
    usage = x509.KeyUsage(digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
                          key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False)
    return (_begin(name, name, key.public_key(), _ROOT_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256()))


def _leaf(root_key: ec.EllipticCurvePrivateKey, root: x509.Certificate, key: ec.EllipticCurvePublicKey, role: Role,
          name: str) -> x509.Certificate:
    builder = _begin(_named(name), root.subject, key, _LEAF_DAYS)
    for extension, critical in leaf_extensions(role, name):
        builder = builder.add_extension(extension, critical)
    return (builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
            .sign(root_key, hashes.SHA256()))


def _begin(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int) -> x509.CertificateBuilder:
    begin = datetime.now(UTC).replace(microsecond=0) - _EARLIER
    return (x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
            .serial_number(x509.random_serial_number()).not_valid_before(begin).not_valid_after(begin + timedelta(days=days)))


def _named(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
