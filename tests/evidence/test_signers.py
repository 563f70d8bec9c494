"""The device's key where it may live: a real token (SoftHSM2), a real TPM's software (swtpm), systemd's credentials, a file. Each test
signs, and `openssl` says whether the signature holds; then the token is pulled out, the TPM is another, the PIN is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.evidence import chain, envelope, keys, signers
from edge.evidence.signers import Borrowed, SignerFault, make_key, open_key, open_signer, parse_uri
from tests.evidence.holders import SOFTHSM, Token, Tpm, needs_credentials, needs_token, needs_tpm

PAYLOAD = {"type": "exam-session-open/v1", "n": 7}

def certified(folder: Path, key: signers.Key, authority: Any, name: str = "D-1") -> Path:
    """The authority's certificate for the key's own request."""
    csr = x509.load_pem_x509_csr(keys.request(Borrowed(key), name))
    assert csr.is_signature_valid, "whoever holds the key has signed the request"
    public = csr.public_key()
    leaf = authority.issuer.issue(csr.subject, public, [(each.value, each.critical) for each in csr.extensions])
    path = folder / f"{name}.pem"
    path.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    return path


def proves(tmp_path: Path, signer: envelope.Signer, authority: Any) -> None:
    """What the signer seals opens with us, and openssl calls its signature good; of a changed document it does not."""
    data = envelope.seal(envelope.SESSION_OPEN, PAYLOAD, signer)
    assert envelope.read_envelope(data, authority.root_pem, envelope.SESSION_OPEN, "device", None).payload == PAYLOAD
    pae = envelope.pre_authentication(envelope.SESSION_OPEN, chain.canonical(PAYLOAD))
    leaf = x509.load_pem_x509_certificates(signer.chain_pem.encode())[0]
    files = {"pub.pem": leaf.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
             "pae": pae, "false": pae + b" ", "sig": signer.sign(pae)}
    for name, each in files.items():
        (tmp_path / name).write_bytes(each)

    def said(document: str) -> str:
        return subprocess.run(["openssl", "dgst", "-sha256", "-verify", "pub.pem", "-signature", "sig", document], cwd=tmp_path,
                              capture_output=True, text=True, check=False).stdout.strip()
    assert said("pae") == "Verified OK" and said("false") == "Verification failure"


def test_a_key_in_a_file(tmp_path: Path, authority: Any) -> None:
    key = make_key(tmp_path / "device.key", "file")
    assert key.place == "file" and (tmp_path / "device.key").stat().st_mode & 0o777 == 0o600
    proves(tmp_path, open_signer(tmp_path / "device.key", certified(tmp_path, key, authority)), authority)
    with pytest.raises(FileExistsError):
        make_key(tmp_path / "device.key", "tpm2")
    other = make_key(tmp_path / "other.key", "file")
    with pytest.raises(ValueError, match="not the certificate of the device's key"):
        signers.DeviceSigner(other, tmp_path / "D-1.pem")


@needs_token
def test_a_key_on_a_token_never_leaves_it(tmp_path: Path, authority: Any, token: Token) -> None:
    path = tmp_path / "device.key"
    key = token.make(path)
    assert key.place == "pkcs11" and path.read_text(encoding="ascii").startswith("pkcs11:token=room;id=%")
    assert "1234" not in path.read_text(encoding="ascii"), "the PIN stands in its own file"
    proves(tmp_path, open_signer(path, certified(tmp_path, key, authority)), authority)
    label = parse_uri(path.read_text(encoding="ascii").strip())["object"]
    shown = subprocess.run(["pkcs11-tool", "--module", str(SOFTHSM), "--token-label", "room", "--login", "--pin", "1234", "--list-objects"],
                           capture_output=True, text=True, check=True).stdout
    assert label in shown and "never extractable" in shown


@needs_token
def test_a_token_that_is_pulled_out_is_a_fault_and_no_more(tmp_path: Path, authority: Any, token: Token) -> None:
    path = tmp_path / "device.key"
    signer = open_signer(path, certified(tmp_path, token.make(path), authority))
    token.unplug()
    with pytest.raises(SignerFault) as caught:
        signer.sign(b"document")
    assert caught.value.word == "key-refused" and "room" in str(caught.value)
    assert open_signer(path, tmp_path / "D-1.pem").chain_pem == signer.chain_pem, "the room starts without it"
    token.plug()
    proves(tmp_path, signer, authority)


@needs_token
def test_what_else_a_token_may_say(tmp_path: Path, authority: Any, token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "device.key"
    key = token.make(path)
    certificate = certified(tmp_path, key, authority)
    token.pin.write_text("9999", encoding="ascii")
    with pytest.raises(SignerFault, match="CKR_PIN_INCORRECT") as caught:
        open_signer(path, certificate).sign(b"document")
    assert "9999" not in str(caught.value)
    tries, tools = tmp_path / "tries", tmp_path / "bin"
    tools.mkdir()
    (tools / "pkcs11-tool").write_text(f'#!/bin/sh\necho try >>{tries}\nexec {shutil.which("pkcs11-tool")} "$@"\n', encoding="ascii")
    (tools / "pkcs11-tool").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    signer = open_signer(path, certificate)
    for _ in range(3):
        with pytest.raises(SignerFault):
            signer.sign(b"document")
    assert tries.read_text(encoding="ascii") == "try\n", "a PIN that was refused is not tried until the token locks itself"
    token.pin.write_text("1234", encoding="ascii")
    assert signer.sign(b"document"), "another PIN is tried at once"
    token.pin.unlink()
    with pytest.raises(SignerFault, match="PIN cannot be read"):
        open_signer(path, certificate).sign(b"document")
    token.pin.write_text("1234", encoding="ascii")
    other = tmp_path / "other.key"
    other_key = token.make(other)
    proves(tmp_path, open_signer(other, certified(tmp_path, other_key, authority, "D-2")), authority)
    proves(tmp_path, open_signer(path, certificate), authority)         # each is found by its id, whichever was made first
    with pytest.raises(SignerFault, match="not the one of the device's certificate") as wrong:
        open_signer(other, certificate).sign(b"document")
    assert wrong.value.word == "other-key"


@needs_tpm
def test_a_key_in_a_tpm_is_worth_nothing_elsewhere(tmp_path: Path, authority: Any, tpms: Callable[[], Tpm]) -> None:
    tpm, path = tpms(), tmp_path / "device.key"
    key = make_key(path, "tpm2")
    assert key.place == "tpm2" and b"TSS2 PRIVATE KEY" in path.read_bytes()
    signer = open_signer(path, certified(tmp_path, key, authority))
    proves(tmp_path, signer, authority)
    tpm.stop()
    with pytest.raises(SignerFault) as silent:
        signer.sign(b"document")
    assert silent.value.word == "key-refused"
    tpms()
    with pytest.raises(SignerFault):
        signer.sign(b"document")
    assert isinstance(open_key(path), signers.TpmKey), "it is known by its file, TPM or not"


@needs_credentials
def test_a_key_as_a_credential(tmp_path: Path, authority: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "device-key.cred"
    key = make_key(path, "credential")
    assert b"PRIVATE KEY" not in path.read_bytes()
    certificate = certified(tmp_path, key, authority)
    proves(tmp_path, open_signer(path, certificate), authority)
    # as the unit has it: decrypted by systemd, in a folder of the unit's own
    given = tmp_path / "credentials"
    given.mkdir()
    subprocess.run(["systemd-creds", "decrypt", "--name=device-key", str(path), str(given / "device-key")], check=True, capture_output=True)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    monkeypatch.setenv("PATH", "/nowhere")
    assert open_key(path).public_key() == key.public_key()
    monkeypatch.undo()
    path.rename(tmp_path / "another-name.cred")
    with pytest.raises(ValueError, match="cannot be decrypted"):
        open_key(tmp_path / "another-name.cred")


def test_a_credentials_file_is_known_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.cred"):
        make_key(tmp_path / "device.key", "credential")
    with pytest.raises(ValueError, match=r"ends in \.cred"):
        make_key(tmp_path / "device.cred", "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("program", "word", "said"), [
    ("#!/bin/sh\nexit 3\n", "key-refused", "status 3"),
    ("#!/bin/sh\nexec sleep 30\n", "no-answer", "no answer"),
    ("#!/bin/sh\nprintf '0\\006\\002\\001\\001\\002\\001\\001'\n", "other-key", "not the one"),
    (None, "program-missing", "not installed"),
])
def test_a_driver_that_fails_is_told_apart(tmp_path: Path, authority: Any, monkeypatch: pytest.MonkeyPatch, program: str | None, word: str,
                                           said: str) -> None:
    """The program is the far end of the wire: here a bad one stands in its place."""
    certificate = certified(tmp_path, make_key(tmp_path / "real.key", "file"), authority)
    path, tools = tmp_path / "device.key", tmp_path / "bin"
    path.write_text("-----BEGIN TSS2 PRIVATE KEY-----\nAA==\n-----END TSS2 PRIVATE KEY-----\n", encoding="ascii")
    tools.mkdir()
    if program is not None:
        (tools / "openssl").write_text(program, encoding="ascii")
        (tools / "openssl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}" if program else str(tools))
    with pytest.raises(SignerFault, match=said) as caught:
        signers.DeviceSigner(signers.TpmKey(path, answer_s=0.5), certificate).sign(b"document")
    assert caught.value.word == word


@pytest.mark.parametrize("text", ["", "https://x", "pkcs11", "pkcs11:token", "pkcs11:token=a;token=b", "pkcs11:token=a;id=%01?module-path"])
def test_an_address_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"no pkcs11: address|without a value, or twice"):
        parse_uri(text)


@given(st.dictionaries(st.from_regex(r"[a-z][a-z-]{0,10}", fullmatch=True).filter(lambda name: name != "id"), st.text(max_size=20),
                       min_size=1, max_size=6), st.integers(0, 6))
def test_an_address_reads_back_as_it_was_written(attributes: dict[str, str], split: int) -> None:
    parts = [f"{name}={quote(value, safe='')}" for name, value in attributes.items()]
    text = "pkcs11:" + ";".join(parts[:split]) + ("?" + "&".join(parts[split:]) if parts[split:] else "")
    assert parse_uri(text) == attributes


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_lies_at_the_keys_place_is_a_key_or_is_refused_in_words(tmp_path: Path, data: bytes) -> None:
    for content, place in ((data, "tpm2"), (b"pkcs11:" + data, "pkcs11")):
        (tmp_path / "device.key").write_bytes(content)
        try:
            assert open_key(tmp_path / "device.key").place == place     # what only its holder can judge
        except ValueError as error:
            assert any(word in str(error) for word in ("private key", "P-256", "pkcs11:"))


def test_an_address_that_lacks_something(tmp_path: Path) -> None:
    (tmp_path / "device.key").write_text("pkcs11:token=room;id=%01;object=k?module-path=/usr/lib/x.so\n", encoding="ascii")
    with pytest.raises(ValueError, match="lacks pin-source"):
        open_key(tmp_path / "device.key")
    assert parse_uri("pkcs11:token=%E4%B8%80%20b;id=%01%FF;object=k?pin-source=file:/a%3Fb") == {
        "token": "一 b", "id": "01ff", "object": "k", "pin-source": "file:/a?b"}
