"""Makes tests/vectors/evidence-vectors.json. Run on purpose only (`python -m tests.evidence.golden`): what it holds is out in the world."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from edge.evidence import chain, envelope, keys, manifest
from edge.evidence.envelope import FileSigner
from edge.evidence.manifest import RoomFacts
from edge.sessions import events as e
from tests.evidence.career import Career, session_id
from tests.evidence.conftest import Exam, TestAuthority

FILE = Path(__file__).parents[1] / "vectors" / "evidence-vectors.json"
DEVICE = "KD01-R01-0001"
ROOM_FACTS = RoomFacts(site="KD01", room_code="000000-KD01-R01", device_id=DEVICE, cert_sha256="0" * 64, sw_version="0.1.0",
                       sw_sha256="1" * 64, config_sha256="2" * 64, boot_id="11111111-2222-3333-4444-555555555555", hmac_key_id="room-1",
                       require_sync=False)

CANONICAL: dict[str, tuple[str, bool]] = {
    # what: (JSON as given, whether jq -cS agrees)
    "keys in order of their UTF-16 code units": ('{"b":1,"a":2,"\\u00e9":3,"\\ud83d\\ude00":4,"\\ufb33":5}', False),
    "keys of ASCII in order": ('{"utc_us":1,"body":{},"boot_us":2,"Z":3,"a":[3,2,1]}', True),
    "no space anywhere": ('{ "a" : [ 1 , true , false , "x" ] }', True),
    "the least and the greatest whole number": ('[-9007199254740991,9007199254740991,0]', True),
    "Chinese text stands as itself": ('{"名":"特种作业 \\u0041"}', True),
    "control characters and quotes": ('"\\u0000\\u001f\\b\\t\\n\\f\\r\\"\\\\/"', True),
    "delete and line separators stand as themselves": ('"\\u2028\\u2029"', True),
    "empty things": ('{"a":{},"b":[],"c":""}', True),
}
REFUSED: dict[str, bytes] = {
    "a fraction": b"[1.5]", "a whole number written as a fraction": b"[1.0]", "an exponent": b"[1e3]", "NaN": b"[NaN]",
    "infinity": b"[-Infinity]", "null": b'{"a":null}', "2^53": b"[9007199254740992]", "-2^53": b"[-9007199254740992]",
    "a key twice": b'{"a":1,"a":2}', "a key twice, written otherwise": b'{"a":1,"\\u0061":2}', "not UTF-8": b'"\xff"',
    "a lone surrogate is no text": b'{"a":"\\ud800"}', "two values": b"{}{}", "nothing": b"", "a byte order mark": b"\xef\xbb\xbf{}",
}


class _Signer:
    """A key and chain from text."""

    def __init__(self, inner: FileSigner) -> None:
        self.chain_pem, self.sign = inner.chain_pem, inner.sign


def signer(key_pem: str, certificate_pem: str) -> _Signer:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "key").write_text(key_pem)
        (Path(folder) / "pem").write_text(certificate_pem)
        return _Signer(FileSigner(Path(folder) / "key", Path(folder) / "pem"))


def make(folder: Path) -> dict[str, Any]:
    (folder / "authority").mkdir()
    authority = TestAuthority(folder / "authority")
    device = authority.signer("device", DEVICE)
    key = next((folder / "authority").glob("device-*.key")).read_text()
    payload = {"type": "exam-session-open/v1", "room": "000000-KD01-R01", "题": "特种作业", "session_seq": 1, "list": [True, "x", -1]}
    body, kind = chain.canonical(payload), envelope.SESSION_OPEN
    sealed = envelope.seal(kind, payload, device)
    leaf = x509.load_pem_x509_certificates(device.chain_pem.encode())[0]
    public = leaf.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {
        "canonical": [{"what": what, "given": given, "canonical": (form := chain.canonical(json.loads(given))).decode(),
                       "sha256": chain.sha256_hex(form), "jq": jq} for what, (given, jq) in CANONICAL.items()],
        "refused": [{"what": what, "base64": base64.b64encode(data).decode()} for what, data in REFUSED.items()],
        "signed": {
            "payload_type": kind, "payload": body.decode(), "payload_sha256": chain.sha256_hex(body),
            "pae_hex": envelope.pre_authentication(kind, body).hex(), "private_key_pem": key, "public_key_pem": public.decode(),
            "certificate_pem": device.chain_pem, "root_pem": authority.root_pem.decode(), "cert_sha256": keys.fingerprint(leaf),
            "signature_der_base64": json.loads(sealed)["signatures"][0]["sig"], "envelope": sealed.decode()},
        "session": session_of(Career(folder / "footage", authority, 2, version=1).of(session_id(2))), "session_v2": second(folder),
    }


def second(folder: Path) -> dict[str, Any]:
    """A session of version 2, with incidents, readings of the clock and a hardware counter."""
    (folder / "second").mkdir()
    return session_of(Exam(folder / "second", TestAuthority(folder / "second"), hole="declared", late=True).rows, 2)


def session_of(rows: list[e.Recorded], revision: int = 1) -> dict[str, Any]:
    documents = {"manifest": manifest.manifest(rows, ROOM_FACTS, revision), "session_open": manifest.session_open(rows, ROOM_FACTS)}
    return {"journal": [chain.to_line(row).decode() for row in rows],
            **{name: {"canonical": (form := chain.canonical(document)).decode(), "sha256": chain.sha256_hex(form)}
               for name, document in documents.items()}}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        FILE.write_text(json.dumps(make(Path(place)), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
