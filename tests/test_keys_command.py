"""`edge key` as a person calls it: the program itself, in a folder of its own, with the demo's configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from edge.evidence.keys import fingerprint
from edge.sim.authority import Authority
from tests.evidence.holders import SOFTHSM, Token, needs_credentials, needs_token

HOUSE = Path(__file__).resolve().parent.parent


class Desk:
    """A room's folder without a room: `key("init")` is `edge key init` there."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.config, self.state = folder / "config" / "edge.toml", folder / "demo" / "state"
        self.config.parent.mkdir()
        self.config.write_text((HOUSE / "config" / "demo.toml").read_text(encoding="utf-8") + more, encoding="utf-8")
        self.authority = Authority.create(folder / "authority")
        self.root = folder / "authority" / "root.pem"

    def key(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "edge", "key", *words, "--config", str(self.config)], capture_output=True, text=True,
                              timeout=120, check=False, stdin=subprocess.DEVNULL,
                              env={**os.environ, "PYTHONPATH": str(HOUSE), "PYTHONSAFEPATH": "1"})

    def issued(self, request: str) -> Path:
        path = self.config.parent / "issued.pem"
        path.write_bytes(self.authority.issue_device(request.encode()))
        return path

    def status(self) -> dict[str, list[str]]:
        answer: dict[str, list[str]] = json.loads(self.key("status", "--json").stdout)
        return answer


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def good(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 1 and said in done.stderr and done.stderr.startswith("edge: ") and "Traceback" not in done.stderr, done.stderr


def test_from_the_first_key_to_the_second(desk: Desk) -> None:
    assert any("edge key init" in each for each in desk.status()["todo"])
    request = good(desk.key("init"))
    name = x509.load_pem_x509_csr(request.encode()).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert name.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:exam:device:000000-KD01-R01-E1"]
    refused(desk.key("init"), "there is a key already, and nothing was changed")
    refused(desk.key("roll"), "has no certificate yet")
    refused(desk.key("install", "--certificate", str(desk.issued(request))), "root is needed")
    assert "restart" in good(desk.key("install", "--certificate", str(desk.issued(request)), "--root", str(desk.root)))
    first = fingerprint(x509.load_pem_x509_certificate((desk.state / "device.pem").read_bytes()))
    shown = desk.key("status")
    assert shown.returncode == 0 and first in shown.stdout and "file" in shown.stdout and "days)" in shown.stdout

    following = good(desk.key("roll"))
    refused(desk.key("roll"), "edge key csr --next")
    again = x509.load_pem_x509_csr(good(desk.key("csr", "--next")).encode())
    assert again.public_key() == x509.load_pem_x509_csr(following.encode()).public_key()
    assert "takes over" in good(desk.key("install", "--certificate", str(desk.issued(following))))
    assert fingerprint(x509.load_pem_x509_certificate((desk.state / "device.pem").read_bytes())) == first, "until the room has rolled"
    assert any("takes over" in each for each in desk.status()["todo"])
    assert "taken back" in good(desk.key("roll", "--withdraw")) and "nothing waits" in good(desk.key("roll", "--withdraw"))
    renewed = good(desk.key("csr"))
    assert "takes over" in good(desk.key("install", "--certificate", str(desk.issued(renewed))))


def test_what_is_wrong_is_said_and_changes_nothing(desk: Desk, tmp_path: Path) -> None:
    refused(desk.key("csr"), "edge key init")
    refused(desk.key("init", "--device", "no name!"), "letters, digits")
    refused(desk.key("init", "--place", "credential"), "ends in .cred")
    refused(desk.key("init", "--place", "pkcs11"), "the maker's library")
    refused(desk.key("init", "--sm2"), "evidence.sm2_key")
    refused(desk.key("csr", "--sm2"), "no second signature")
    assert not desk.state.exists() or list(desk.state.iterdir()) == []
    request = good(desk.key("init"))
    (tmp_path / "strangers").mkdir()
    stranger = Authority.create(tmp_path / "stranger").issue_device(request.encode())
    (tmp_path / "stranger.pem").write_bytes(stranger)
    refused(desk.key("install", "--certificate", str(tmp_path / "stranger.pem"), "--root", str(desk.root)), "does not lead to the pinned")
    refused(desk.key("install", "--certificate", str(tmp_path / "nowhere.pem"), "--root", str(desk.root)), "nowhere.pem")
    assert sorted(path.name for path in desk.state.iterdir()) == ["device.key"]


@needs_token
def test_a_key_on_a_token(desk: Desk, token: Token) -> None:
    request = good(desk.key("init", "--place", "pkcs11", "--module", str(SOFTHSM), "--token", "room", "--pin-file", str(token.pin)))
    good(desk.key("install", "--certificate", str(desk.issued(request)), "--root", str(desk.root)))
    shown = desk.key("status")
    assert shown.returncode == 0 and "pkcs11" in shown.stdout and "signs" in shown.stdout
    token.unplug()
    shown = desk.key("status")
    assert shown.returncode == 1 and "do not go together now" in shown.stdout and "Traceback" not in shown.stderr
    refused(desk.key("csr"), "pkcs11-tool did not do it")
    renewed = desk.authority.issue_device(request.encode())
    (desk.config.parent / "renewed.pem").write_bytes(renewed)
    refused(desk.key("install", "--certificate", str(desk.config.parent / "renewed.pem")), "pkcs11-tool did not do it")


@needs_credentials
def test_a_key_as_a_credential_and_the_one_that_follows(tmp_path: Path) -> None:
    desk = Desk(tmp_path, '\n[evidence]\nkey = "device-key.cred"\n')
    desk.state.mkdir(parents=True)
    os.chown(desk.state, 4711, 4712)                    # the room's user
    request = good(desk.key("init", "--place", "credential"))
    good(desk.key("install", "--certificate", str(desk.issued(request)), "--root", str(desk.root)))
    following = good(desk.key("roll", "--place", "credential"))
    good(desk.key("install", "--certificate", str(desk.issued(following))))
    assert {path.name for path in desk.state.iterdir()} == {"device-key.cred", "device.pem", "next-device-key.cred", "next-device.pem",
                                                            "root.pem"}
    assert {(path.stat().st_uid, path.stat().st_gid) for path in desk.state.iterdir()} == {(4711, 4712)}, "root makes it for the room"
    # its name inside is the one that it will have
    (desk.state / "next-device-key.cred").rename(desk.state / "device-key.cred")
    (desk.state / "next-device.pem").rename(desk.state / "device.pem")
    assert desk.key("status").returncode == 0


def test_the_key_of_a_second_signature(tmp_path: Path) -> None:
    desk = Desk(tmp_path, '\n[evidence]\nsm2_key = "sm2.key"\nsm2_certificate = "sm2.pem"\nsm2_distid = "1234567812345678"\n')
    request = good(desk.key("init", "--sm2"))
    shown = subprocess.run(["openssl", "req", "-verify", "-noout", "-text", "-vfyopt", "distid:1234567812345678"], input=request, text=True,
                           capture_output=True, check=True)
    assert "SM2-with-SM3" in shown.stdout and "URI:urn:exam:device:000000-KD01-R01-E1" in shown.stdout
    assert "BEGIN CERTIFICATE REQUEST" in good(desk.key("csr", "--sm2"))
    refused(desk.key("init", "--sm2"), "an SM2 key already")


@pytest.mark.parametrize("lacks", ["sm2_key", "sm2_certificate", "sm2_distid"])
def test_half_a_second_signature_is_refused(tmp_path: Path, lacks: str) -> None:
    lines = {"sm2_key": '"a.key"', "sm2_certificate": '"a.pem"', "sm2_distid": '"1234567812345678"'}
    more = "".join(f"{key} = {value}\n" for key, value in lines.items() if key != lacks)
    done = Desk(tmp_path, f"\n[evidence]\n{more}").key("status")
    assert done.returncode == 3 and "go together" in done.stderr
