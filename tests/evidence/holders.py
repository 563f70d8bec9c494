"""What may hold a device's key, for real and in software: a PKCS#11 token (SoftHSM2) and a TPM (swtpm). Where they are not installed,
tests that need them are skipped with the command that would help."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from edge.evidence import signers
from edge.evidence.signers import make_key

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
TPM_PROVIDER = next(iter(Path("/usr/lib").glob("*/ossl-modules/tpm2.so")), None)

needs_token = pytest.mark.skipif(not (SOFTHSM.exists() and shutil.which("pkcs11-tool") and shutil.which("softhsm2-util")),
                                 reason="needs SoftHSM2 and OpenSC: apt-get install softhsm2 opensc")
needs_tpm = pytest.mark.skipif(TPM_PROVIDER is None or not shutil.which("swtpm"),
                               reason="needs a software TPM: apt-get install swtpm tpm2-openssl")
needs_counter = pytest.mark.skipif(not (shutil.which("swtpm") and shutil.which("tpm2_nvincrement")),
                                   reason="needs a software TPM and tpm2-tools: apt-get install swtpm tpm2-tools")
needs_credentials = pytest.mark.skipif(not shutil.which("systemd-creds") or os.geteuid() != 0,
                                       reason="needs systemd-creds (systemd 250 or newer) and root, who alone may decrypt")


class Token:
    """A SoftHSM2 token in a folder of its own. `unplug` takes it away, `plug` brings it back."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pin = folder, folder / "pin"
        (folder / "tokens").mkdir(parents=True)
        (folder / "softhsm.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n", encoding="ascii")
        self.pin.write_text("1234\n", encoding="ascii")

    def init(self) -> None:
        subprocess.run(["softhsm2-util", "--init-token", "--free", "--label", "room", "--pin", "1234", "--so-pin", "5678"], check=True,
                       capture_output=True)

    def unplug(self) -> None:
        (self.folder / "tokens").rename(self.folder / "away")
        (self.folder / "tokens").mkdir()

    def plug(self) -> None:
        (self.folder / "tokens").rmdir()
        (self.folder / "away").rename(self.folder / "tokens")

    def make(self, path: Path) -> signers.Key:
        return make_key(path, "pkcs11", module=SOFTHSM, token="room", pin=self.pin)


class Tpm:
    """A software TPM on two ports; its state lies in `folder`. OSError if somebody was quicker to take the ports."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir()
        self.process = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--server", f"type=tcp,port={port},bindaddr=127.0.0.1", "--ctrl",
             f"type=tcp,port={port + 1},bindaddr=127.0.0.1", "--flags", "not-need-init,startup-clear"], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while True:                                 # it takes one connection at a time: asked on the control port
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port + 1)) == 0:
                    return
            if self.process.poll() is not None:
                raise OSError("swtpm ended")
            assert time.monotonic() < deadline, "swtpm did not start"
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


def two_free_ports() -> int:
    """A port that is free, and the one after it too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            if port < 65535 and second.connect_ex(("127.0.0.1", port + 1)) != 0:
                return port


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Token:
    made = Token(tmp_path / "softhsm")
    monkeypatch.setenv("SOFTHSM2_CONF", str(made.folder / "softhsm.conf"))
    made.init()
    return made


@pytest.fixture
def tpms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Tpm]]:
    running: list[Tpm] = []

    def start() -> Tpm:
        for number in range(5):
            port = two_free_ports()
            for name in ("TPM2OPENSSL_TCTI", "TPM2TOOLS_TCTI"):
                monkeypatch.setenv(name, f"swtpm:host=127.0.0.1,port={port}")
            with suppress(OSError):
                running.append(Tpm(tmp_path / f"tpm-{len(running)}-{number}", port))
                return running[-1]
        raise AssertionError("swtpm does not start")

    yield start
    for each in running:
        each.stop()
