"""The demo's authority: what it makes is what evidence accepts, and it is not made twice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge.clock import SystemClock
from edge.evidence.envelope import RECEIPT, ROSTER, EnvelopeError, open_envelope, read_envelope, seal
from edge.evidence.keys import init_device_key
from edge.sim.authority import Authority

if TYPE_CHECKING:
    from tests.conftest import Device


def test_what_its_platform_signs_is_the_platforms(authority: Authority, tmp_path: Path) -> None:
    now = SystemClock().now().utc_us
    loaded = Authority.load(tmp_path / "authority")
    assert loaded.root_pem == authority.root_pem
    envelope = seal(ROSTER, {"type": "exam-roster/v1"}, loaded.platform)
    assert open_envelope(envelope, authority.root_pem, ROSTER, "platform", now)[0] == {"type": "exam-roster/v1"}
    with pytest.raises(EnvelopeError, match="only a device"):
        open_envelope(envelope, authority.root_pem, ROSTER, "device", now)


def test_a_device_cannot_sign_receipts(authority: Authority, device: Device) -> None:
    envelope = device.sealed(RECEIPT, {"verdict": "accepted"}).envelope
    assert read_envelope(envelope, authority.root_pem, RECEIPT, "device", None).name == device.id
    with pytest.raises(EnvelopeError, match="only a platform"):
        open_envelope(envelope, authority.root_pem, RECEIPT, "platform", SystemClock().now().utc_us)


def test_it_is_not_made_twice_and_a_cut_off_creation_is_done_anew(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    root = Authority.create(folder).root_pem
    with pytest.raises(FileExistsError, match="nothing was changed"):
        Authority.create(folder)
    assert Authority.load(folder).root_pem == root
    (folder / "root.pem").unlink()      # written last: as after a power cut in between
    assert Authority.create(folder).root_pem == Authority.load(folder).root_pem != root


def test_its_keys_are_its_own(authority: Authority, tmp_path: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "authority").iterdir()}
    assert modes["root.key"] == modes["platform.key"] == 0o600


def test_requests_that_are_refused(authority: Authority, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())

    def request(uri: str | None, curve_key: ec.EllipticCurvePrivateKey = key) -> bytes:
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        if uri is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        return builder.sign(curve_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    good = init_device_key(tmp_path / "state", "edge-1")
    broken = x509.load_pem_x509_csr(good).public_bytes(serialization.Encoding.DER)
    broken = broken[:-4] + bytes([broken[-4] ^ 1]) + broken[-3:]
    unsigned = x509.load_der_x509_csr(broken).public_bytes(serialization.Encoding.PEM)
    for wrong in (b"", b"-----BEGIN", request(None), request("urn:exam:platform:me"), request("urn:exam:device:"),
                  request("urn:exam:device:a b"), request("urn:exam:device:x", ec.generate_private_key(ec.SECP384R1())), unsigned):
        with pytest.raises(ValueError, match=r"request|name|key"):
            authority.issue_device(wrong)
    assert authority.issue_device(good).startswith(b"-----BEGIN CERTIFICATE-----")
