"""The second signature, SM2 over SM3: openssl makes the keys, the chain and the signatures, and each way in which one can be wrong has its
own name (E8). The first signature stands whatever the second does."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from edge.evidence import envelope, keys, signers, sm2
from edge.evidence.sm2 import DISTID, Sm2Signer, second_signature

PAYLOAD = {"type": "exam-session-open/v1", "n": 7}
THEN_US = 1_795_680_000_000_000     # 2026-11-26


def openssl(folder: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)


class Sm2Authority:
    """An SM2 root, with `between` an issuing CA, and leaves for requests: all by the openssl program."""

    def __init__(self, folder: Path, between: bool) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "root.key").write_bytes(sm2.make_sm2_key())
        ca = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        openssl(folder, "req", "-x509", "-new", "-sm3", "-key", "root.key", "-sigopt", f"distid:{DISTID}", "-subj", "/CN=SM2 root", "-days",
                "3650", "-out", "root.pem", *ca)
        self.issuer, self.chain = "root", ""
        if between:
            (folder / "issuing.key").write_bytes(sm2.make_sm2_key())
            openssl(folder, "req", "-new", "-sm3", "-key", "issuing.key", "-sigopt", f"distid:{DISTID}", "-subj", "/CN=SM2 issuing", "-out",
                    "issuing.csr", *ca)
            self._sign("issuing")
            self.issuer, self.chain = "issuing", (folder / "issuing.pem").read_text(encoding="ascii")

    def _sign(self, name: str) -> None:
        openssl(self.folder, "x509", "-req", "-sm3", "-in", f"{name}.csr", "-CA", f"{self.issuer_of(name)}.pem", "-CAkey",
                f"{self.issuer_of(name)}.key", "-sigopt", f"distid:{DISTID}", "-vfyopt", f"distid:{DISTID}", "-days", "1000", "-out",
                f"{name}.pem", "-copy_extensions", "copyall")

    def issuer_of(self, name: str) -> str:
        return "root" if name == "issuing" else self.issuer

    @property
    def root_pem(self) -> bytes:
        return (self.folder / "root.pem").read_bytes()

    def signer(self, name: str = "D-1", distid: str = DISTID) -> Sm2Signer:
        key = self.folder / f"{name}.key"
        key.write_bytes(sm2.make_sm2_key())
        (self.folder / f"{name}.csr").write_bytes(sm2.sm2_request(key, name))
        self._sign(name)
        chain = self.folder / f"{name}-chain.pem"
        chain.write_text((self.folder / f"{name}.pem").read_text(encoding="ascii") + self.chain, encoding="ascii")
        return Sm2Signer(key, chain, distid)


@pytest.fixture
def make_sm2(tmp_path: Path) -> Callable[[bool], Sm2Authority]:
    def make(between: bool) -> Sm2Authority:
        return Sm2Authority(tmp_path / f"sm2-{len(list(tmp_path.iterdir()))}", between)
    return make


def sealed(tmp_path: Path, authority: Any, second: Sm2Signer | None) -> bytes:
    key = signers.make_key(tmp_path / f"p256-{len(list(tmp_path.iterdir()))}.key", "file")
    leaf = authority.issuer.issue(authority.root.certificate.subject, key.public_key(), keys.leaf_extensions("device", "D-1"))
    path = tmp_path / f"leaf-{len(list(tmp_path.iterdir()))}.pem"
    path.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    return envelope.seal(envelope.SESSION_OPEN, PAYLOAD, signers.DeviceSigner(key, path, second))


def word(data: bytes, root_pem: bytes, distid: str = DISTID, at_utc_us: int | None = THEN_US) -> str:
    return second_signature(data, envelope.SESSION_OPEN, root_pem, distid, at_utc_us).word


def with_second(data: bytes, **fields: Any) -> bytes:
    outer = json.loads(data)
    outer["signatures"][1] |= fields
    return json.dumps(outer).encode()


def still_opens(data: bytes, authority: Any) -> bool:
    return envelope.read_envelope(data, authority.root_pem, envelope.SESSION_OPEN, "device", None).payload == PAYLOAD


@pytest.mark.parametrize("between", [False, True], ids=["two-levels", "three-levels"])
def test_a_good_one(tmp_path: Path, authority: Any, make_sm2: Callable[[bool], Sm2Authority], between: bool) -> None:
    province = make_sm2(between)
    data = sealed(tmp_path, authority, province.signer())
    assert [each.get("alg") for each in json.loads(data)["signatures"]] == [None, "SM2-SM3"]
    verdict = second_signature(data, envelope.SESSION_OPEN, province.root_pem, DISTID, THEN_US)
    assert verdict.good and "'D-1'" in verdict.text
    assert still_opens(data, authority)
    assert word(data, make_sm2(False).root_pem) == "sm2-chain"
    assert word(data, province.root_pem, at_utc_us=THEN_US + 20 * 365 * 86400 * 1_000_000) == "sm2-chain", "judged at the time asked for"


def test_an_absent_one_is_said(tmp_path: Path, authority: Any, make_sm2: Callable[[bool], Sm2Authority]) -> None:
    data = sealed(tmp_path, authority, None)
    assert len(json.loads(data)["signatures"]) == 1
    assert word(data, make_sm2(False).root_pem) == "sm2-absent"


def test_a_wrong_one_has_a_name_and_takes_nothing_from_the_first(tmp_path: Path, authority: Any,
                                                                 make_sm2: Callable[[bool], Sm2Authority]) -> None:
    province = make_sm2(False)
    root, data = province.root_pem, sealed(tmp_path, authority, province.signer())
    stolen = json.loads(sealed(tmp_path, authority, province.signer("D-2")))["signatures"][1]
    other = base64.b64encode(b"\x30\x06\x02\x01\x01\x02\x01\x01").decode()
    for fields, expected in (({"sig": other}, "sm2-wrong"), ({"cert": stolen["cert"]}, "sm2-wrong"), ({"sig": "no base64"}, "sm2-wrong"),
                             ({"cert": "no certificate"}, "sm2-absent")):
        changed = with_second(data, **fields)
        assert word(changed, root) == expected
        assert still_opens(changed, authority)
    assert word(json.dumps(json.loads(data) | {"payload": base64.b64encode(b"{}").decode()}).encode(), root) == "sm2-wrong"
    assert word(b"{", root) == "sm2-wrong"


def test_what_the_envelope_says_of_algorithm_and_id_decides_nothing(tmp_path: Path, authority: Any,
                                                                    make_sm2: Callable[[bool], Sm2Authority]) -> None:
    province = make_sm2(False)
    root, data = province.root_pem, sealed(tmp_path, authority, province.signer())
    assert word(with_second(data, alg="none", keyid="0" * 64, distid="anything"), root) == "sm2-good"
    assert word(data, root, distid="8765432187654321") == "sm2-other-distid"
    other = sealed(tmp_path, authority, province.signer("D-3", distid="room-id"))
    assert word(other, root) == "sm2-other-distid"
    assert word(other, root, distid="room-id") == "sm2-good", "the certificates are signed under GM/T 0009's own id all the same"


def test_a_certificate_of_another_role(tmp_path: Path, authority: Any, make_sm2: Callable[[bool], Sm2Authority]) -> None:
    province = make_sm2(False)
    data = sealed(tmp_path, authority, province.signer())
    assert word(with_second(data, cert=province.root_pem.decode()), province.root_pem) == "sm2-certificate"


def test_a_second_signature_that_fails_does_not_keep_the_first(tmp_path: Path, authority: Any, make_sm2: Callable[[bool], Sm2Authority],
                                                               caplog: pytest.LogCaptureFixture) -> None:
    province = make_sm2(False)
    signer = province.signer()
    (province.folder / "D-1.key").unlink()
    data = sealed(tmp_path, authority, signer)
    assert still_opens(data, authority) and word(data, province.root_pem) == "sm2-absent"
    assert signer.fault and "sm2_signature_missing" in caplog.text


def test_without_openssl_it_is_unchecked_not_wrong(tmp_path: Path, authority: Any, make_sm2: Callable[[bool], Sm2Authority],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    province = make_sm2(False)
    data = sealed(tmp_path, authority, province.signer())
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert word(data, province.root_pem) == "sm2-unchecked"


def test_a_signer_that_does_not_fit_is_refused_at_once(tmp_path: Path, make_sm2: Callable[[bool], Sm2Authority]) -> None:
    province = make_sm2(False)
    province.signer("D-1")
    province.signer("D-2")
    key, chain = province.folder / "D-1.key", province.folder / "D-1-chain.pem"
    with pytest.raises(ValueError, match="distinguishing id"):
        Sm2Signer(key, chain, "")
    with pytest.raises(ValueError, match="not the certificate of the SM2 key"):
        Sm2Signer(province.folder / "D-2.key", chain, DISTID)
    with pytest.raises(ValueError, match="cannot be used"):
        Sm2Signer(chain, chain, DISTID)


NAMES = st.sampled_from(["payload", "signatures", "cert", "sig", "distid", "alg"])
ANYTHING = st.recursive(st.none() | st.text(max_size=8) | st.integers(),
                        lambda each: st.lists(each, max_size=3) | st.dictionaries(NAMES, each, max_size=4))


@given(st.binary(max_size=200) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_gets_a_verdict(data: bytes) -> None:
    assert second_signature(data, envelope.SESSION_OPEN, b"no root", DISTID).word in ("sm2-wrong", "sm2-absent")


def test_a_whole_folder(tmp_path: Path, authority: Any, make_sm2: Callable[[bool], Sm2Authority]) -> None:
    province, folder = make_sm2(False), tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    data = sealed(tmp_path, authority, province.signer())
    (folder / "session-open.dsse.json").write_bytes(data)
    (folder / "below" / "manifest-1.dsse.json").write_bytes(sealed(tmp_path, authority, None))
    (folder / "receipt-1.dsse.json").write_bytes(envelope.seal(envelope.RECEIPT, PAYLOAD, authority.signer("platform", "province")))
    (folder / "broken.dsse.json").write_bytes(b"{")
    asked: list[str] = []

    def moment(name: str) -> int | None:
        asked.append(name)
        return THEN_US
    found = {name: verdict.word for name, verdict in sm2.judge_folder(folder, province.root_pem, DISTID, moment)}
    assert found == {"session-open.dsse.json": "sm2-good", "below/manifest-1.dsse.json": "sm2-absent", "broken.dsse.json": "sm2-wrong"}
    assert sorted(asked) == sorted(found)
