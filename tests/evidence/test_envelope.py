"""Envelopes: what verifies, and every way in which one must not."""

from __future__ import annotations

import base64
import json
import stat
import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer._key import SSlibKey

from edge.clock import US
from edge.evidence import envelope, keys
from edge.evidence.envelope import EnvelopeError

NOW = 1_795_672_800 * US
PAYLOAD = {"type": "exam-session-open/v1", "名": "样例", "n": 7}


def opened_as(data: bytes, root: bytes, role: keys.Role = "device", kind: str = envelope.SESSION_OPEN,
              at: int | None = NOW) -> envelope.Opened:
    return envelope.read_envelope(data, root, kind, role, at)


def word_of(data: bytes, root: bytes, role: keys.Role = "device", kind: str = envelope.SESSION_OPEN, at: int | None = NOW) -> str:
    with pytest.raises(EnvelopeError) as caught:
        envelope.read_envelope(data, root, kind, role, at)
    return caught.value.word


@pytest.mark.parametrize("depth", [1, 2])
def test_a_sealed_document_opens(make_authority: Callable[[int], Any], depth: int) -> None:
    authority = make_authority(depth)
    data = envelope.seal(envelope.SESSION_OPEN, PAYLOAD, authority.signer("device", "D-1"))
    opened = opened_as(data, authority.root_pem)
    assert opened.payload == PAYLOAD and opened.name == "D-1"
    assert opened.body == '{"n":7,"type":"exam-session-open/v1","名":"样例"}'.encode()
    assert envelope.open_envelope(data, authority.root_pem, envelope.SESSION_OPEN, "device", NOW) == (opened.payload, opened.body)


def test_the_signed_bytes_are_those_of_the_dsse_protocol() -> None:
    signed = envelope.pre_authentication("http://example.com/HelloWorld", b"hello world")      # the protocol's own example
    assert signed == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_an_independent_implementation_agrees(authority: Any) -> None:
    data = envelope.seal(envelope.SESSION_OPEN, PAYLOAD, authority.signer("device", "D-1"))
    outer = json.loads(data)
    leaf = x509.load_pem_x509_certificate(outer["signatures"][0]["cert"].encode())
    key = SSlibKey.from_crypto(leaf.public_key(), keyid=outer["signatures"][0]["keyid"])
    theirs = Envelope.from_dict(outer)
    assert theirs.pae() == envelope.pre_authentication(envelope.SESSION_OPEN, theirs.payload)
    assert theirs.verify([key], 1)
    theirs.payload += b" "
    with pytest.raises(Exception, match="threshold"):
        theirs.verify([key], 1)


def changed(data: bytes, **fields: Any) -> bytes:
    return json.dumps(json.loads(data) | fields).encode()


def with_signature(data: bytes, **fields: Any) -> bytes:
    outer = json.loads(data)
    outer["signatures"][0] |= fields
    return json.dumps(outer).encode()


def test_a_changed_document_or_signature_does_not_open(authority: Any) -> None:
    data, root = envelope.seal(envelope.SESSION_OPEN, PAYLOAD, authority.signer("device", "D-1")), authority.root_pem
    other = envelope.seal(envelope.SESSION_OPEN, {**PAYLOAD, "n": 8}, authority.signer("device", "D-2"))
    assert word_of(changed(data, payload=json.loads(other)["payload"]), root) == "signature"
    assert word_of(with_signature(data, sig=json.loads(other)["signatures"][0]["sig"]), root) == "signature"
    assert word_of(with_signature(data, cert=json.loads(other)["signatures"][0]["cert"]), root) == "signature"
    assert word_of(changed(data, payloadType=envelope.RECEIPT), root, kind=envelope.RECEIPT) == "signature"
    assert word_of(data, root, kind=envelope.RECEIPT) == "type"
    assert word_of(changed(data, signatures=[]), root) == "signature"


def test_keyid_and_alg_decide_nothing(authority: Any) -> None:
    device, platform = authority.signer("device", "D-1"), authority.signer("platform", "province")
    data = envelope.seal(envelope.SESSION_OPEN, PAYLOAD, device)
    keyid = json.loads(envelope.seal(envelope.RECEIPT, PAYLOAD, platform))["signatures"][0]["keyid"]
    assert opened_as(with_signature(data, keyid=keyid, alg="none"), authority.root_pem).name == "D-1"
    assert word_of(with_signature(data, keyid=keyid), authority.root_pem, role="platform") == "role"


def test_a_further_signature_that_we_cannot_read_is_passed_over(authority: Any) -> None:
    data = envelope.seal(envelope.SESSION_OPEN, PAYLOAD, authority.signer("device", "D-1"))
    ours = json.loads(data)["signatures"][0]
    sm2 = {"keyid": "x", "alg": "SM2-SM3", "distid": "1234567812345678", "sig": "AAAA", "cert": "no certificate that we know"}
    assert opened_as(changed(data, signatures=[sm2, ours]), authority.root_pem).name == "D-1"
    assert word_of(changed(data, signatures=[sm2]), authority.root_pem) == "certificate"


def test_an_sm2_signature_beside_ours_changes_nothing(authority: Any, tmp_path: Path) -> None:
    """A real one: the library cannot read its key, and must not fall over it (checklist E8)."""
    key = str(tmp_path / "sm2.key")
    subprocess.run(["openssl", "genpkey", "-algorithm", "SM2", "-out", key], check=True, capture_output=True)
    made = ["openssl", "req", "-new", "-x509", "-key", key, "-sm3", "-subj", "/CN=sm2",
            "-addext", "subjectAltName=URI:urn:exam:device:D-1", "-out", str(tmp_path / "sm2.pem")]
    subprocess.run(made, check=True, capture_output=True)
    data = envelope.seal(envelope.SESSION_OPEN, PAYLOAD, authority.signer("device", "D-1"))
    ours = json.loads(data)["signatures"][0]
    sm2 = {"keyid": "x", "alg": "SM2-SM3", "distid": "1234567812345678", "sig": ours["sig"], "cert": (tmp_path / "sm2.pem").read_text()}
    assert opened_as(changed(data, signatures=[sm2, ours]), authority.root_pem).name == "D-1"
    assert opened_as(changed(data, signatures=[ours, sm2]), authority.root_pem).name == "D-1"
    assert word_of(changed(data, signatures=[sm2]), authority.root_pem) == "role"


def test_a_device_cannot_sign_as_the_platform_nor_the_other_way(authority: Any) -> None:
    receipt = envelope.seal(envelope.RECEIPT, {"type": "x"}, authority.signer("device", "D-1"))
    assert word_of(receipt, authority.root_pem, role="platform", kind=envelope.RECEIPT) == "role"
    opening = envelope.seal(envelope.SESSION_OPEN, PAYLOAD, authority.signer("platform", "province"))
    assert word_of(opening, authority.root_pem) == "role"


@pytest.mark.parametrize("keep", [
    lambda kind, ext: not isinstance(ext, x509.ExtendedKeyUsage), lambda kind, ext: not isinstance(ext, x509.SubjectAlternativeName),
    lambda kind, ext: not isinstance(ext, x509.KeyUsage),
])
def test_a_certificate_without_its_role_signs_nothing(authority: Any, keep: Callable[[Any, Any], bool]) -> None:
    extensions = [each for each in keys.leaf_extensions("device", "D-1") if keep("device", each[0])]
    data = envelope.seal(envelope.SESSION_OPEN, PAYLOAD, authority.signer("device", "D-1", extensions=extensions))
    assert word_of(data, authority.root_pem) == "role"


def test_name_and_purpose_must_agree(authority: Any) -> None:
    mixed = [*keys.leaf_extensions("device", "D-1")[:3], keys.leaf_extensions("platform", "province")[3]]
    data = envelope.seal(envelope.RECEIPT, PAYLOAD, authority.signer("device", "D-1", extensions=mixed))
    assert word_of(data, authority.root_pem, role="platform", kind=envelope.RECEIPT) == "role"
    both = [(x509.ExtendedKeyUsage([keys.DEVICE_EKU, keys.PLATFORM_EKU]), True)]
    greedy = [each for each in keys.leaf_extensions("platform", "p") if not isinstance(each[0], x509.ExtendedKeyUsage)] + both
    data = envelope.seal(envelope.RECEIPT, PAYLOAD, authority.signer("platform", "p", extensions=greedy))
    assert word_of(data, authority.root_pem, role="platform", kind=envelope.RECEIPT) == "role"


def test_only_the_pinned_root_counts(make_authority: Callable[[int], Any]) -> None:
    ours, theirs = make_authority(2), make_authority(2)
    data = envelope.seal(envelope.SESSION_OPEN, PAYLOAD, theirs.signer("device", "D-1"))
    assert word_of(data, ours.root_pem) == "chain"
    assert word_of(data, b"no root") == "certificate"
    assert word_of(data, ours.root_pem + theirs.root_pem) == "certificate"


def test_a_leaf_cannot_issue(authority: Any) -> None:
    """A device that signs a certificate for a platform of its own making."""
    device = authority.signer("device", "D-1")
    key = ec.generate_private_key(ec.SECP256R1())
    parent = x509.load_pem_x509_certificate(device.chain_pem.encode())
    rogue = type(authority.root)(device._key, parent).issue(parent.subject, key.public_key(), keys.leaf_extensions("platform", "province"))
    chain: str = rogue.public_bytes(Encoding.PEM).decode() + device.chain_pem

    class Rogue:
        @property
        def chain_pem(self) -> str:
            return chain

        def sign(self, pae: bytes) -> bytes:
            return bytes(key.sign(pae, ec.ECDSA(hashes.SHA256())))

    assert word_of(envelope.seal(envelope.RECEIPT, PAYLOAD, Rogue()), authority.root_pem, role="platform", kind=envelope.RECEIPT) == "chain"


def test_a_certificate_is_judged_at_the_moment_that_is_given(authority: Any) -> None:
    short = authority.signer("device", "D-1", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC))
    data = envelope.seal(envelope.SESSION_OPEN, PAYLOAD, short)
    inside = int(datetime(2026, 1, 2, 12, tzinfo=UTC).timestamp()) * US
    assert opened_as(data, authority.root_pem, at=inside).name == "D-1"
    assert opened_as(data, authority.root_pem, at=None).name == "D-1"
    assert word_of(data, authority.root_pem, at=inside + 86_400 * US) == "chain"
    assert word_of(data, authority.root_pem, at=inside - 86_400 * US) == "chain"


@pytest.mark.parametrize("body", [
    b"[]", b'{"a":1.5}', b'{"a":null}', b'{"a":1,"a":2}', b'{"a": 1}', b'{"b":1,"a":2}', b"\xff", b"not json",
])
def test_a_signed_document_that_is_not_canonical_is_refused(authority: Any, body: bytes) -> None:
    signer = authority.signer("device", "D-1")
    signature = signer.sign(envelope.pre_authentication(envelope.SESSION_OPEN, body))
    data = json.dumps({"payloadType": envelope.SESSION_OPEN, "payload": base64.b64encode(body).decode(),
                       "signatures": [{"sig": base64.b64encode(signature).decode(), "cert": signer.chain_pem}]}).encode()
    assert word_of(data, authority.root_pem) == "payload"


@pytest.mark.parametrize(("data", "word"), [
    (b"", "json"), (b"{}", "json"), (b"[]", "json"), (b'{"payload":1,"payloadType":"x","signatures":[]}', "json"), (b"\xff\xfe", "json"),
    (b'{"payload":"*","payloadType":"%b","signatures":[]}' % envelope.SESSION_OPEN.encode(), "base64"),
    (b'{"payload":"QQ","payloadType":"%b","signatures":[1]}' % envelope.SESSION_OPEN.encode(), "base64"),
    (b'{"payload":"QR==","payloadType":"%b","signatures":[1]}' % envelope.SESSION_OPEN.encode(), "base64"),
    (b" " * (envelope.MAX_BYTES + 1), "json"),
])
def test_rubbish_has_a_name(authority: Any, data: bytes, word: str) -> None:
    assert word_of(data, authority.root_pem) == word


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_a_flipped_byte_never_shows_another_document(authority: Any, place: int, byte: int) -> None:
    data = bytearray(envelope.seal(envelope.SESSION_OPEN, PAYLOAD, authority.signer("device", "D-1")))
    data[place % len(data)] = byte
    with suppress(EnvelopeError):
        assert opened_as(bytes(data), authority.root_pem).payload == PAYLOAD     # keyid, or a blank in the PEM


def test_a_key_is_made_once_and_kept_close(tmp_path: Path) -> None:
    state = tmp_path / "state"
    request = x509.load_pem_x509_csr(keys.init_device_key(state, "KD01-R01-0001"))
    key = load_pem_private_key((state / "device.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1"
    assert stat.S_IMODE((state / "device.key").stat().st_mode) == 0o600 and stat.S_IMODE(state.stat().st_mode) == 0o700
    assert request.is_signature_valid and request.public_key() == key.public_key()
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:exam:device:KD01-R01-0001"]
    before = (state / "device.key").read_bytes()
    with pytest.raises(FileExistsError, match="nothing was changed"):
        keys.init_device_key(state, "KD01-R01-0001")
    assert (state / "device.key").read_bytes() == before
    again = x509.load_pem_x509_csr(keys.device_request(state / "device.key", "KD01-R01-0001"))
    assert again.public_key() == key.public_key()
    shown = subprocess.run(["openssl", "req", "-noout", "-text", "-verify", "-in", "/dev/stdin"], input=keys.device_request(
        state / "device.key", "KD01-R01-0001"), capture_output=True, check=True).stdout.decode()
    assert "1.3.6.1.4.1.99999.1.1" in shown and "URI:urn:exam:device:KD01-R01-0001" in shown


@pytest.mark.parametrize("name", ["", "a b", "样例", "../x", "-x", "x" * 65, "a:b"])
def test_a_name_that_cannot_stand_in_a_certificate_makes_no_key(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        keys.init_device_key(tmp_path / "state", name)
    assert not (tmp_path / "state").exists()


def test_a_pair_that_does_not_fit_is_refused(authority: Any, tmp_path: Path) -> None:
    authority.signer("device", "D-1")
    authority.signer("device", "D-2")
    first, second = sorted(authority.folder.glob("*.key"))
    with pytest.raises(ValueError, match="is not the certificate of the key"):
        envelope.FileSigner(first, second.with_suffix(".pem"))
    with pytest.raises(ValueError, match="no certificate"):
        envelope.FileSigner(first, first)
    with pytest.raises(ValueError, match="no private key"):
        envelope.FileSigner(second.with_suffix(".pem"), second.with_suffix(".pem"))
    with pytest.raises(FileNotFoundError):
        envelope.FileSigner(tmp_path / "none.key", second)
