"""What the room signs and recognises with: the device's key and certificates, the pinned root, and the key that stands for people.

Composed in `app`; commands beside a room that does not run ask for the last of them only.
"""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from edge import __version__, durable, keyring
from edge.clock import boot_id
from edge.config import Config
from edge.evidence.keys import fingerprint, read_certificates, role_of
from edge.evidence.manifest import RoomFacts
from edge.evidence.signers import DeviceSigner, open_signer
from edge.programs import NotReady
from edge.room import Room

if TYPE_CHECKING:
    from edge.evidence.sm2 import Sm2Signer


def files_of(config: Config) -> keyring.Files:
    return keyring.Files(*(config.in_state(getattr(config.evidence, name)) for name in ("key", "certificate", "root")))


def roll(config: Config, signer: DeviceSigner, facts: RoomFacts, room: Room) -> tuple[DeviceSigner, RoomFacts]:
    """The key that signs from now on: the staged one, if there is one and now is a good time."""
    try:
        return keyring.roll(files_of(config), signer, facts, room)
    except (OSError, ValueError) as error:
        raise NotReady(f"the device's key was changed for the next one, which cannot be opened yet: {error}. Nothing is lost: a credential "
                       "is given to the unit anew when it starts again; for all others see `edge key status`.") from error


def read(config: Config) -> tuple[DeviceSigner, bytes, RoomFacts, bytes]:
    """The device's signer, the pinned root, what signed documents say of the room, and the key that stands for people."""
    files = {name: config.in_state(getattr(config.evidence, name)) for name in ("key", "certificate", "root")}
    if all(path.is_file() for path in files.values()):
        keyring.settle(files_of(config))
    for name, path in files.items():
        if not path.is_file():
            raise NotReady(f"the {name} file {path} is missing. Nothing was started and nothing is lost. "
                           "Make the key with `edge key init`, have the request signed by the authority, and put both certificates there.")
    try:
        signer = open_signer(files["key"], files["certificate"], _second(config))
        leaf = read_certificates(signer.chain_pem.encode())[0]
        role, device_id = role_of(leaf)
    except (OSError, ValueError) as error:
        raise NotReady(f"the device's key or certificate cannot be used: {error}. Nothing was started.") from error
    if role != "device":
        raise NotReady(f"{files['certificate']} is a {role}'s certificate, not a device's. Nothing was started.")
    subject_key, key_id = _subject_key(config)
    return signer, files["root"].read_bytes(), RoomFacts(
        site=config.room.site, room_code=config.room.code, device_id=device_id, cert_sha256=fingerprint(leaf), sw_version=__version__,
        sw_sha256=_software_sha256(), config_sha256=config.sha256, boot_id=boot_id(), hmac_key_id=key_id,
        require_sync=config.clock.require_sync), subject_key


def _second(config: Config) -> Sm2Signer | None:
    """The second signature, where the site makes one."""
    key, certificate, distid = config.evidence.sm2_key, config.evidence.sm2_certificate, config.evidence.sm2_distid
    if key is None or certificate is None or distid is None:
        return None
    from edge.evidence.sm2 import Sm2Signer
    return Sm2Signer(config.in_state(key), config.in_state(certificate), distid)


def known_subject_key(config: Config) -> bytes:
    """The key that stands for people, as it is. NotReady if this room has none yet: what it holds cannot be joined to anybody."""
    for path in (config.in_state(config.evidence.subject_key), config.paths.state / "room-hmac.key"):
        if path.is_file():
            return path.read_bytes()
    raise NotReady("the key that stands for people is missing (evidence.subject_key). Nothing was done. "
                   "Put it back from where keys are kept apart; without it the room starts anew with a key of its own.")


def _subject_key(config: Config) -> tuple[bytes, str]:
    """The site's HMAC key, or one of the room's own, made at the first start: then people do not join across rooms, and the id says so."""
    site, own = config.in_state(config.evidence.subject_key), config.paths.state / "room-hmac.key"
    if not site.is_file() and not own.is_file():
        durable.make_folder(config.paths.state)
        durable.write_new(own, secrets.token_bytes(32))
    path, kind = (site, "site") if site.is_file() else (own, "room")
    key = path.read_bytes()
    if len(key) != 32:
        raise NotReady(f"{path} must hold exactly 32 bytes; it has {len(key)}. Nothing was started.")
    return key, f"{kind}-{hashlib.sha256(key).hexdigest()[:16]}"


def _software_sha256() -> str:
    """One digest over this package's files, names and bytes, in order of their names."""
    root, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        digest.update(f"{path.relative_to(root)}\0{durable.sha256_file(path)}\n".encode())
    return digest.hexdigest()
