"""Where the device's key lives, and how it signs there: a file, a systemd credential, a TPM 2.0, a PKCS#11 token.

What lies at `evidence.key` says which, so that nothing else need be set and a new key of any kind takes the old one's place by its file:

    -----BEGIN PRIVATE KEY-----         the key itself (PKCS#8)                              FileKey
    -----BEGIN TSS2 PRIVATE KEY-----    a key that only this TPM can use                     TpmKey      openssl with its tpm2 provider
    pkcs11:token=…;id=…                 where it is on a token (URI, RFC 7512)               TokenKey    pkcs11-tool of OpenSC
    a file that ends in .cred           encrypted for this machine by systemd-creds          CredentialKey

A foreign key is used through a program of its own: a driver that hangs or crashes then costs a signature that is tried again, not the
room. Each signature is checked before it is given out. `SignerFault` says what is wrong now; the same key may sign again in a minute.
Source: evidence design, keys; sizes of answers and the digest route measured with OpenSSL 3.0, tpm2-openssl 1.1, OpenSC 0.23, SoftHSM 2.6.
Called by `envelope.seal` through the room, and by `edge key`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol
from urllib.parse import quote, unquote, unquote_to_bytes

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from edge import durable
from edge.evidence.envelope import Second
from edge.evidence.keys import load_key, parse_key, read_certificates

Place = Literal["file", "credential", "tpm2", "pkcs11"]

SIGN_S = 20.0
"""A TPM takes 0.02 to 0.5 s, a token up to 2 s; what takes longer hangs."""
MAKE_S = 120.0
"""A token may take a minute to find a key."""
CREDENTIAL, NEXT = ".cred", "next-"
_URI_BYTES = 4096
_ECDSA_SHA256 = ec.ECDSA(utils.Prehashed(hashes.SHA256()))


class SignerFault(OSError):
    """The key cannot sign now; nothing is lost, what is to be signed waits. `word`: program-missing, no-answer, key-refused, other-key."""

    def __init__(self, word: str, text: str) -> None:
        super().__init__(text)
        self.word = word


class Key(Protocol):
    """A P-256 key, wherever it is."""

    place: Place

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Its public half. SignerFault if whoever holds it does not answer."""

    def sign_digest(self, digest: bytes) -> bytes:
        """ECDSA (DER) over 32 bytes of SHA-256. SignerFault, as above."""


class FileKey:
    """The key itself, in memory. OSError or ValueError in plain words if the file holds none."""

    place: Place = "file"

    def __init__(self, path: Path) -> None:
        self._key = load_key(path)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._key.public_key()

    def sign_digest(self, digest: bytes) -> bytes:
        return self._key.sign(digest, _ECDSA_SHA256)


class CredentialKey(FileKey):
    """A key that systemd decrypted for this unit (`LoadCredentialEncrypted=NAME:FILE`, systemd.exec(5)), NAME being the file's own without
    .cred; outside of a unit root may have it decrypted. What is in memory is the key itself."""

    place: Place = "credential"

    def __init__(self, path: Path) -> None:
        name = _credential_name(path)
        given = None if path.name.startswith(NEXT) else os.environ.get("CREDENTIALS_DIRECTORY")
        if given and (Path(given) / name).is_file():
            super().__init__(Path(given) / name)
            return
        if not path.is_file():
            raise FileNotFoundError(2, "no such credential", str(path))
        try:
            self._key = parse_key(_run(("systemd-creds", "decrypt", f"--name={name}", str(path), "-"), b""), str(path))
        except SignerFault as fault:
            raise ValueError(f"the credential {path} cannot be decrypted: {fault}. In the room's unit it needs "
                             f"LoadCredentialEncrypted={name}:{path}; outside of it, root") from fault


class TpmKey:
    """A key that only this machine's TPM can use: the file is worthless elsewhere. Which TPM: the environment's TPM2OPENSSL_TCTI, else the
    system's own."""

    place: Place = "tpm2"
    _PROVIDERS = ("-provider", "tpm2", "-provider", "default")

    def __init__(self, path: Path, answer_s: float = SIGN_S) -> None:
        self._path, self._answer_s = path, answer_s

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return _p256(serialization.load_pem_public_key(_run(("openssl", "pkey", *self._PROVIDERS, "-in", str(self._path), "-pubout"), b"")))

    def sign_digest(self, digest: bytes) -> bytes:
        return _run(("openssl", "pkeyutl", *self._PROVIDERS, "-inkey", str(self._path), "-sign", "-pkeyopt", "digest:sha256"), digest,
                    self._answer_s)


class TokenKey:
    """A key on a PKCS#11 token, named by a URI in the file: token (its label), id, and as query `module-path` (the maker's library) and
    `pin-source` (a file with the PIN). ValueError in plain words if one is missing.

    By its id, never by `object`: pkcs11-tool signs with the token's first key when it is given a label only. A PIN that was refused is not
    tried again until the file holds another: tokens lock themselves after a few wrong ones."""

    place: Place = "pkcs11"

    def __init__(self, path: Path) -> None:
        attributes = parse_uri(path.read_text(encoding="ascii", errors="replace").strip())
        lacking = {"token", "id", "module-path", "pin-source"} - attributes.keys()
        if lacking:
            raise ValueError(f"the pkcs11: address in {path} lacks {', '.join(sorted(lacking))}")
        self._token, self._id = attributes["token"], attributes["id"]
        self._module, self._pin = attributes["module-path"], Path(attributes["pin-source"].removeprefix("file:"))
        self._refused: Mapping[str, str] | None = None

    def public_key(self) -> ec.EllipticCurvePublicKey:
        der = _run(self._tool("--read-object", "--type", "pubkey", "--id", self._id, "--output-file", "/dev/stdout"), b"")
        return _p256(serialization.load_der_public_key(der))

    def sign_digest(self, digest: bytes) -> bytes:
        # the bare mechanism, which every token has: SoftHSM and many others cannot hash
        command = self._tool("--login", "--pin", "env:EDGE_TOKEN_PIN", "--sign", "--mechanism", "ECDSA", "--signature-format", "openssl",
                             "--id", self._id)
        pin = _pin(self._pin)
        if pin == self._refused:
            raise SignerFault("key-refused", f"the token refused the PIN in {self._pin}; it is not tried again, so that the token does not "
                              "lock itself. Put the right one there")
        try:
            return _run(command, digest, environment=pin)
        except SignerFault as fault:
            self._refused = pin if "CKR_PIN" in str(fault) else None
            raise

    def _tool(self, *words: str) -> tuple[str, ...]:
        return ("pkcs11-tool", "--module", self._module, "--token-label", self._token, *words)


class DeviceSigner:
    """A key and its certificate chain: what `envelope.seal` asks for. The pair is checked with each signature, not here: a token that is
    pulled out must not keep the room from starting."""

    def __init__(self, key: Key, cert_path: Path, second: Second | None = None) -> None:
        self._key, self.second = key, second
        self._chain_pem = cert_path.read_text(encoding="ascii")
        try:
            public = read_certificates(self._chain_pem.encode())[0].public_key()
        except ValueError as error:
            raise ValueError(f"{cert_path} holds no certificate: {error}") from error
        self._public = _p256(public)
        if isinstance(key, FileKey) and key.public_key() != public:
            raise ValueError(f"{cert_path} is not the certificate of the device's key; nothing can be signed with this pair")

    @property
    def place(self) -> Place:
        return self._key.place

    @property
    def chain_pem(self) -> str:
        return self._chain_pem

    def sign(self, pae: bytes) -> bytes:
        """As `envelope.Signer`. Blocks as long as the key takes, SIGN_S at most. SignerFault if it does not sign, or another key does."""
        digest = hashlib.sha256(pae).digest()
        signature = self._key.sign_digest(digest)
        try:
            self._public.verify(signature, digest, _ECDSA_SHA256)
        except InvalidSignature:
            raise SignerFault("other-key", "the key that answers is not the one of the device's certificate; nothing was signed. "
                              "Is another token plugged in, or was the TPM cleared?") from None
        return signature


def open_key(path: Path) -> Key:
    """The key at `path`, by what lies there. OSError if nothing does, ValueError in plain words if it is no key of the four kinds."""
    if path.name.endswith(CREDENTIAL):
        return CredentialKey(path)
    with path.open("rb") as file:
        head = file.read(_URI_BYTES)
    if head.startswith(b"pkcs11:"):
        return TokenKey(path)
    if b"-----BEGIN TSS2 PRIVATE KEY-----" in head:
        return TpmKey(path)
    return FileKey(path)


def open_signer(key_path: Path, cert_path: Path, second: Second | None = None) -> DeviceSigner:
    """Key and certificate of the device, wherever the key is. OSError, ValueError in plain words."""
    return DeviceSigner(open_key(key_path), cert_path, second)


def make_key(path: Path, place: Place, *, module: Path | None = None, token: str = "", pin: Path | None = None,
             sealed_to: Literal["host", "tpm2", "host+tpm2"] = "host") -> Key:
    """Make a new P-256 key at `path`, never over another (FileExistsError). Where the place allows it, the key never leaves it.

    `module`, `token`, `pin` (paths and label): pkcs11 only. `sealed_to`: credential only, what systemd-creds encrypts with: `host` keeps
    a stolen backup from being used, `tpm2` a stolen disk too. SignerFault, and then no key is in force; ValueError for what does not fit.
    """
    if path.exists():
        raise FileExistsError(17, "there is a key already; nothing was changed", str(path))
    if (place == "credential") != path.name.endswith(CREDENTIAL):
        raise ValueError(f"a credential's file ends in {CREDENTIAL} and no other does (evidence.key is {path.name}): it is how it is known")
    if place == "pkcs11":
        if module is None or pin is None or not token:
            raise ValueError("a key on a token needs the maker's library, the token's label and the file with the PIN")
        data = _make_on_token(module, token, pin)
    elif place == "tpm2":
        data = _run(("openssl", "genpkey", *TpmKey._PROVIDERS, "-algorithm", "EC", "-pkeyopt", "group:P-256"), b"", MAKE_S)
    else:
        key = ec.generate_private_key(ec.SECP256R1())
        data = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        if place == "credential":
            name = _credential_name(path)
            data = _run(("systemd-creds", "encrypt", f"--with-key={sealed_to}", f"--name={name}", "-", "-"), data, MAKE_S)
    durable.make_folder(path.parent)
    durable.write_new(path, data, 0o600)
    return open_key(path)


def next_name(path: Path) -> Path:
    """Where the key or certificate that is to follow the one at `path` waits for its day, in the same folder."""
    return path.with_name(NEXT + path.name)


def _credential_name(path: Path) -> str:
    """The name that stands inside an encrypted credential. The next key's has its later name already: systemd refuses a renamed one."""
    return path.name.removesuffix(CREDENTIAL).removeprefix(NEXT)


def _make_on_token(module: Path, token: str, pin: Path) -> bytes:
    """A key on the token under an id of its own; returns the URI that names it."""
    ident = secrets.token_bytes(8)
    label = f"edge-{ident[:4].hex()}"
    _run(("pkcs11-tool", "--module", str(module), "--token-label", token, "--login", "--pin", "env:EDGE_TOKEN_PIN", "--keypairgen",
          "--key-type", "EC:prime256v1", "--id", ident.hex(), "--label", label, "--sensitive", "--usage-sign"),
         b"", MAKE_S, _pin(pin))
    id_text = "".join(f"%{byte:02X}" for byte in ident)
    return (f"pkcs11:token={quote(token, safe='')};id={id_text};object={label};type=private?module-path={quote(str(module))}"
            f"&pin-source=file:{quote(str(pin))}\n").encode()


def parse_uri(text: str) -> dict[str, str]:
    """Path and query attributes of a pkcs11: URI (RFC 7512, section 2.3), unquoted; `id` as hex. ValueError if it is none."""
    scheme, colon, rest = text.partition(":")
    if scheme != "pkcs11" or not colon:
        raise ValueError("this is no pkcs11: address")
    path, _, query = rest.partition("?")
    attributes: dict[str, str] = {}
    for each in [*path.split(";"), *query.split("&")]:
        name, equals, value = each.partition("=")
        if each and (not equals or name in attributes):
            raise ValueError(f"the pkcs11: address has an attribute without a value, or twice: {name!r}")
        if each:
            attributes[name] = unquote_to_bytes(value).hex() if name == "id" else unquote(value)
    return attributes


class Borrowed(ec.EllipticCurvePrivateKey):
    """A key for the library's builders (certificate requests) that signs where it is and never shows itself."""

    def __init__(self, key: Key) -> None:
        self._key, self._public = key, key.public_key()

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        return self._key.sign_digest(hashlib.sha256(data).digest())

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        raise NotImplementedError("this key signs, and does nothing else")

    def private_numbers(self) -> NoReturn:
        raise NotImplementedError("this key does not leave its place")

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> NoReturn:
        raise NotImplementedError("this key does not leave its place")

    def __copy__(self) -> Borrowed:
        return self

    def __deepcopy__(self, memo: Any) -> Borrowed:
        return self


def _pin(path: Path) -> dict[str, str]:
    try:
        return {"EDGE_TOKEN_PIN": path.read_text(encoding="utf-8").strip()}
    except OSError as error:
        raise SignerFault("key-refused", f"the token's PIN cannot be read from {path}: {error.strerror}") from error


def _p256(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the key is not P-256")
    return key


def _run(command: Sequence[str], data: bytes, seconds: float = SIGN_S, environment: Mapping[str, str] | None = None) -> bytes:
    """What the program writes. SignerFault if it is not there, does not come to an end, or says no; its last word goes into the text."""
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=seconds, check=False,
                              env={**os.environ, "LC_ALL": "C", **(environment or {})})
    except FileNotFoundError:
        raise SignerFault("program-missing", f"the program {command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise SignerFault("no-answer", f"{command[0]} gave no answer within {seconds:.0f} s") from None
    if done.returncode != 0 or not done.stdout:
        said = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        telling = [line for line in said if "CKR_" in line or "error:" in line.lower() or "fail" in line.lower()] or said
        raise SignerFault("key-refused", f"{command[0]} did not do it: {telling[0][:300] if telling else f'status {done.returncode}'}")
    return done.stdout
