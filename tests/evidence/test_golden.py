"""Golden vectors: bytes that must come out the same in ten years and in anybody's implementation (checklist E1, E4).

`tests/vectors/evidence-vectors.json` holds canonical forms, what has none, a pre-authentication encoding with its signature, and the bytes
of a whole manifest. Each is held against our code and, where one is there, against somebody else's: `openssl`, `securesystemslib`, `jq`.
The key in the file is a test's and signs nothing else. Made anew only on purpose: `python -m tests.evidence.golden`, and say why.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._key import Key, SSlibKey

from edge.evidence import chain, envelope, manifest
from edge.evidence.chain import NotCanonical
from tests.evidence import golden

VECTORS: dict[str, Any] = json.loads(golden.FILE.read_text(encoding="utf-8"))
SIGNED = VECTORS["signed"]
SIGNATURE = base64.b64decode(SIGNED["signature_der_base64"])
PUBLIC = SIGNED["public_key_pem"].encode()


@pytest.mark.parametrize("case", VECTORS["canonical"], ids=lambda case: case["what"])
def test_the_canonical_form(case: dict[str, Any]) -> None:
    value, wanted = json.loads(case["given"]), case["canonical"].encode()
    assert chain.canonical(value) == wanted == rfc8785.dumps(value)
    assert chain.sha256_hex(wanted) == case["sha256"]
    assert chain.parse(wanted) == value and chain.canonical(chain.parse(wanted)) == wanted


@pytest.mark.parametrize("case", VECTORS["refused"], ids=lambda case: case["what"])
def test_what_has_no_canonical_form(case: dict[str, Any]) -> None:
    with pytest.raises(NotCanonical):
        chain.canonical(chain.parse(base64.b64decode(case["base64"])))


def test_jq_reads_the_same_canonical_form() -> None:
    """What VERIFY.md rests on: `jq -cS` writes canonical JSON for what a journal holds (text, whole numbers, objects by ASCII keys)."""
    for case in VECTORS["canonical"]:
        if case["jq"]:
            done = subprocess.run(["jq", "-cS", "."], input=case["given"], capture_output=True, text=True, check=True)
            assert done.stdout == case["canonical"] + "\n", case["what"]


def test_the_pre_authentication_encoding() -> None:
    body = SIGNED["payload"].encode()
    assert envelope.pre_authentication(SIGNED["payload_type"], body).hex() == SIGNED["pae_hex"]
    assert Envelope(body, SIGNED["payload_type"], {}).pae().hex() == SIGNED["pae_hex"]
    # protocol.md of DSSE has this one itself
    assert envelope.pre_authentication("http://example.com/HelloWorld", b"hello world") == \
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_the_signature_by_our_own_library() -> None:
    key = serialization.load_pem_public_key(PUBLIC)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(SIGNATURE, bytes.fromhex(SIGNED["pae_hex"]), ec.ECDSA(hashes.SHA256()))


def test_the_signature_by_openssl(tmp_path: Path) -> None:
    (tmp_path / "pub.pem").write_bytes(PUBLIC)
    (tmp_path / "sig").write_bytes(SIGNATURE)

    def verify(pae: bytes) -> int:
        (tmp_path / "pae").write_bytes(pae)
        command = ["openssl", "dgst", "-sha256", "-verify", "pub.pem", "-signature", "sig", "pae"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode

    pae = bytes.fromhex(SIGNED["pae_hex"])
    assert (verify(pae), verify(pae + b" ")) == (0, 1)


def test_the_whole_envelope_by_securesystemslib() -> None:
    """An implementation that is not ours reads the envelope and verifies it; a changed payload does not pass."""
    outer = json.loads(SIGNED["envelope"])
    key: Key = SSlibKey(outer["signatures"][0]["keyid"], "ecdsa", "ecdsa-sha2-nistp256", {"public": SIGNED["public_key_pem"]})
    found = Envelope.from_dict({**outer, "signatures": [{k: s[k] for k in ("keyid", "sig")} for s in outer["signatures"]]})
    assert found.payload == SIGNED["payload"].encode()
    found.verify([key], 1)
    with pytest.raises(VerificationError):
        Envelope(found.payload + b" ", found.payload_type, found.signatures).verify([key], 1)


def test_our_envelope_has_the_very_form() -> None:
    """All but the signature itself (ECDSA takes a new random number each time)."""
    signer = golden.signer(SIGNED["private_key_pem"], SIGNED["certificate_pem"])
    made = json.loads(envelope.seal(SIGNED["payload_type"], json.loads(SIGNED["payload"]), signer))
    wanted = json.loads(SIGNED["envelope"])
    made["signatures"][0]["sig"] = wanted["signatures"][0]["sig"]
    assert made == wanted
    opened = envelope.read_envelope(SIGNED["envelope"].encode(), SIGNED["root_pem"].encode(), SIGNED["payload_type"], "device", None)
    assert (opened.digest, opened.name) == (SIGNED["payload_sha256"], golden.DEVICE)


@pytest.mark.parametrize(("session", "revision"), [("session", 1), ("session_v2", 2)])
@pytest.mark.parametrize("part", ["manifest", "session_open"])
def test_the_documents_of_a_session_are_byte_for_byte_what_they_were(part: str, session: str, revision: int) -> None:
    """A pure function of the rows: if this fails, manifests that are out there would no longer be made again from their journals."""
    rows = [chain.from_line(line.encode()) for line in VECTORS[session]["journal"]]
    assert chain.verify(rows, whole=False) is None
    made = manifest.manifest(rows, golden.ROOM_FACTS, revision) if part == "manifest" else manifest.session_open(rows, golden.ROOM_FACTS)
    wanted = VECTORS[session][part]
    assert json.loads(chain.canonical(made)) == json.loads(wanted["canonical"]), "which part changed"
    assert chain.canonical(made).decode() == wanted["canonical"] and chain.sha256_hex(chain.canonical(made)) == wanted["sha256"]
