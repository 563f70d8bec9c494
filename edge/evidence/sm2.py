"""A second signature beside the first and over the same bytes, SM2 over SM3 (GB/T 32918, GM/T 0009): for who must use national algorithms.

It never replaces the first: `envelope` passes it over, and what is wrong with it has a name of its own here. Everything is done by the
`openssl` program (3.0 or newer), because the cryptography library knows no SM2 and the pure-Python ones do not keep the key secret
(gmssl 3.2.2 draws its nonces from a predictable generator). The signer's distinguishing id must be named: openssl has no default, and a
signature under another id does not verify. Chains of three are checked link by link: openssl 3 loses the id on the way (openssl issue
23471). Called by the room (`Sm2Signer`) and by whoever verifies (`second_signature`).
"""

from __future__ import annotations

import base64
import logging
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from edge.evidence.chain import NotCanonical, parse
from edge.evidence.envelope import RECEIPT, ROSTER, pre_authentication
from edge.evidence.keys import RoleError, fingerprint, leaf_names, read_certificates

log = logging.getLogger(__name__)

DISTID = "1234567812345678"
"""GM/T 0009's own: what a signer has who was given no other, and what certificates are signed under. Never assumed of a document."""
SM2_OID = bytes.fromhex("06082a811ccf5501822d")
"""1.2.156.10197.1.301 (sm2p256v1) in DER: the mark of an SM2 key in a certificate."""
ALG = "SM2-SM3"
_S = 20.0
_LINKS = 4


class Sm2Fault(Exception):
    """openssl did not do it. The text says why."""


class Sm2Signer:
    """An SM2 key (PEM file) with its certificate chain. OSError or ValueError in plain words if they do not fit; openssl is asked once."""

    def __init__(self, key: Path, certificate: Path, distid: str) -> None:
        if not distid:
            raise ValueError("an SM2 signature needs its distinguishing id (evidence.sm2_distid); without one nobody could verify it")
        self._key, self._distid = key, distid
        self._chain_pem = certificate.read_text(encoding="ascii")
        leaf = read_certificates(self._chain_pem.encode())[0]
        if not is_sm2(leaf):
            raise ValueError(f"{certificate} is not the certificate of an SM2 key")
        self._keyid = fingerprint(leaf)
        self.fault = ""
        """Why the last signature could not be made; empty if it could."""
        try:
            if _public_of_key(key) != _public_of(leaf):
                raise ValueError(f"{certificate} is not the certificate of the SM2 key in {key}")
        except Sm2Fault as fault:
            raise ValueError(f"the SM2 key {key} cannot be used: {fault}") from fault

    @property
    def chain_pem(self) -> str:
        return self._chain_pem

    def entry(self, pae: bytes) -> dict[str, Any] | None:
        """As `envelope.Second`: 15 ms."""
        try:
            signature = _openssl("pkeyutl", "-sign", "-rawin", "-digest", "sm3", "-inkey", str(self._key), "-pkeyopt",
                                 f"distid:{self._distid}", files={"-in": pae})
        except Sm2Fault as fault:
            if not self.fault:
                log.error("sm2_signature_missing detail=%s", fault)
            self.fault = str(fault)
            return None
        self.fault = ""
        return {"keyid": self._keyid, "alg": ALG, "distid": self._distid, "sig": base64.b64encode(signature).decode(),
                "cert": self._chain_pem}


def make_sm2_key() -> bytes:
    """A new SM2 key, PEM. Sm2Fault if openssl cannot."""
    return _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:SM2")


def sm2_request(key: Path, device_id: str) -> bytes:
    """A certificate request (PKCS#10, PEM) for an SM2 key, with the name a device's certificate has. Sm2Fault if openssl cannot."""
    return _openssl("req", "-new", "-sm3", "-key", str(key), "-sigopt", f"distid:{DISTID}", "-subj", f"/CN={device_id}", "-addext",
                    f"subjectAltName=URI:urn:exam:device:{device_id}", "-addext", "keyUsage=critical,digitalSignature", "-addext",
                    "extendedKeyUsage=critical,1.3.6.1.4.1.99999.1.1")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of an envelope's SM2 signature. `word`: sm2-absent, sm2-good, sm2-wrong, sm2-other-distid, sm2-certificate,
    sm2-chain, sm2-unchecked; `text`: the same for people."""

    word: str
    text: str

    @property
    def good(self) -> bool:
        return self.word == "sm2-good"


def judge_folder(folder: Path, root_pem: bytes, distid: str, moment: Callable[[str], int | None] = lambda name: None) -> list[
        tuple[str, Verdict]]:
    """The SM2 verdict of each device's document below `folder` (`*.dsse.json`, receipts and rosters left out), by its path there.

    `moment`: when the platform had the document of that path (UTC µs), by its verified receipt; None where there is none."""
    found = []
    for path in sorted(each for each in folder.rglob("*.dsse.json") if each.is_file() and not each.is_symlink()):
        name, data = path.relative_to(folder).as_posix(), path.read_bytes()
        try:
            kind = str(parse(data)["payloadType"])
        except (NotCanonical, KeyError, TypeError):
            kind = ""
        if kind not in (RECEIPT, ROSTER):
            found.append((name, second_signature(data, kind, root_pem, distid, moment(name))))
    return found


def second_signature(data: bytes, payload_type: str, root_pem: bytes, distid: str, at_utc_us: int | None = None) -> Verdict:
    """Judge the SM2 signature of an envelope. `root_pem`: the pinned SM2 root; `distid`: the id that the authority has assigned, never the
    one that stands in the envelope; `at_utc_us`: when the certificate must have been valid (None: not asked). Never raises for what is in
    `data`. Which signature it is, is told by the certificate's key and by nothing else."""
    try:
        outer = parse(data)
        body = base64.b64decode(outer["payload"], validate=True)
        signatures = [(each, _certificates(each)) for each in outer["signatures"]]
        found = [(each, chain) for each, chain in signatures if chain and is_sm2(chain[0])]
    except (NotCanonical, KeyError, TypeError, ValueError, AttributeError):
        return Verdict("sm2-wrong", "the envelope cannot be read")
    if not found:
        return Verdict("sm2-absent", "there is no SM2 signature; the first signature stands for itself")
    entry, chain = found[0]
    try:
        leaf_names("device", chain[0])
    except RoleError as error:
        return Verdict("sm2-certificate", f"the SM2 certificate is not a device's: {error}")
    try:
        return _judge(entry, chain, pre_authentication(payload_type, body), root_pem, distid, at_utc_us)
    except Sm2Fault as fault:
        return Verdict("sm2-unchecked", f"the SM2 signature could not be checked here: {fault}")
    except (ValueError, OSError) as error:
        return Verdict("sm2-certificate", f"the SM2 signature or its certificate cannot be read: {error}")


def _judge(entry: dict[str, Any], chain: Sequence[x509.Certificate], pae: bytes, root_pem: bytes, distid: str,
           at_utc_us: int | None) -> Verdict:
    try:
        signature = base64.b64decode(str(entry.get("sig")), validate=True)
    except ValueError:
        return Verdict("sm2-wrong", "the SM2 signature is not proper base64")
    if not _verifies(chain[0], pae, signature, distid):
        own = entry.get("distid")
        if isinstance(own, str) and own and own != distid and "\0" not in own and _verifies(chain[0], pae, signature, own[:128]):
            return Verdict("sm2-other-distid", f"the SM2 signature is made under the id {own[:40]!r}, not {distid!r}")
        return Verdict("sm2-wrong", "the SM2 signature does not fit the document: one of them was changed")
    roots = read_certificates(root_pem)
    links = [*chain[:_LINKS], roots[0]]
    if links[-2] == roots[0]:
        links.pop()
    for lower, upper in pairwise(links):
        if not _issued(lower, upper, at_utc_us):
            return Verdict("sm2-chain", f"the SM2 certificate {_name(lower)} does not come from {_name(upper)}"
                           + ("" if at_utc_us is None else ", or was not valid then"))
    return Verdict("sm2-good", f"the SM2 signature holds, made by {_name(chain[0])} under the id {distid!r}")


def is_sm2(certificate: x509.Certificate) -> bool:
    """Whether a certificate's key is an SM2 key."""
    try:
        certificate.public_key()
    except Exception:       # UnsupportedAlgorithm for the curve; whatever else an enemy's certificate makes the library say is no SM2
        return SM2_OID in certificate.tbs_certificate_bytes
    return False


def _certificates(entry: Any) -> list[x509.Certificate]:
    try:
        return read_certificates(str(entry["cert"]).encode())
    except (KeyError, TypeError, ValueError):
        return []


def _name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return repr(names[0].value[:60]) if names else "without a name"


def _verifies(leaf: x509.Certificate, pae: bytes, signature: bytes, distid: str) -> bool:
    """Asks openssl. Its word is in the output; its status is 1 for a bad signature and for a bad file alike."""
    files = {"-in": pae, "-sigfile": signature, "-inkey": _public_of(leaf)}
    said = _openssl("pkeyutl", "-verify", "-rawin", "-digest", "sm3", "-pubin", "-pkeyopt", f"distid:{distid}", files=files,
                    statuses=(0, 1))
    if b"Verified Successfully" in said:
        return True
    if b"Verification Failure" in said:
        return False
    raise Sm2Fault("openssl said neither yes nor no")


def _issued(lower: x509.Certificate, upper: x509.Certificate, at_utc_us: int | None) -> bool:
    # with partial_chain a self-signed root is anchor as it is; one link at a time, because the id is lost beyond the first
    moment = ["-no_check_time"] if at_utc_us is None else ["-attime", str(at_utc_us // 1_000_000)]
    if at_utc_us is not None:
        at = datetime.fromtimestamp(at_utc_us / 1e6, UTC)
        if not upper.not_valid_before_utc <= at <= upper.not_valid_after_utc:
            return False
    files = {"-CAfile": upper.public_bytes(serialization.Encoding.PEM), "": lower.public_bytes(serialization.Encoding.PEM)}
    said = _openssl("verify", "-partial_chain", "-purpose", "any", *moment, "-vfyopt", f"distid:{DISTID}", files=files, statuses=(0, 2))
    return said.rstrip().endswith(b": OK")


def _public_of(certificate: x509.Certificate) -> bytes:
    return _openssl("x509", "-pubkey", "-noout", files={"-in": certificate.public_bytes(serialization.Encoding.PEM)})


def _public_of_key(key: Path) -> bytes:
    return _openssl("pkey", "-in", str(key), "-pubout")


def _openssl(*words: str, files: dict[str, bytes] | None = None, statuses: tuple[int, ...] = (0,)) -> bytes:
    """What openssl writes; `files` are laid into a passing folder and named after their options (the one without an option last)."""
    with tempfile.TemporaryDirectory(prefix="edge-sm2-") as folder:
        command = ["openssl", *words]
        for number, (option, data) in enumerate(sorted((files or {}).items(), reverse=True)):
            path = Path(folder) / str(number)
            path.write_bytes(data)
            command += [option, str(path)] if option else [str(path)]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_S, check=False)
        except FileNotFoundError:
            raise Sm2Fault("the program openssl is not installed") from None
        except subprocess.TimeoutExpired:
            raise Sm2Fault(f"openssl gave no answer within {_S:.0f} s") from None
    if done.returncode not in statuses:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise Sm2Fault(f"openssl {words[0]}: {said[0][:200] if said else f'status {done.returncode}'}")
    return done.stdout + (done.stderr if len(statuses) > 1 else b"")
