"""The state folder and the journal's own history: keys, staff, pictures, half-written files; can these facts have followed one another?"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from pathlib import Path

from edge import durable
from edge.clock import US, SystemClock
from edge.config import Config
from edge.credentials import files_of
from edge.evidence.chain import parse, sha256_hex
from edge.evidence.envelope import EnvelopeError, check_chain, payload_of
from edge.evidence.keys import fingerprint, read_certificates
from edge.evidence.rollover import read_rollover
from edge.evidence.signers import CREDENTIAL, FileKey
from edge.fsck.footage import Finding
from edge.keyring import Files
from edge.sessions import events as e
from edge.sessions import machine
from edge.sessions.machine import IllegalStep, RoomState
from edge.storage.look import Look
from edge.storage.rules import add_rollover
from edge.storage.staff import StaffBook

FORGOTTEN_US = 2 * 3600 * US
"""The room removes the pictures of a session that was given up within the hour, while it runs."""


def history(facts: Iterable[e.Recorded], found: list[Finding]) -> RoomState:
    """The room's state by its facts, up to the first that cannot be. What is wrong with them goes into `found`."""
    state, last = RoomState(), 0
    signed: tuple[str | None, str | None] = (None, None)

    def counted() -> Iterator[e.Event]:
        nonlocal last
        for row in facts:
            last = row.seq
            if isinstance(row.event, e.Sealed | e.SessionAmended):
                _chained(row, signed, found)
            yield row.event

    try:
        for after in machine.walk(counted()):
            state, signed = after, (after.last_manifest, after.last_manifest_receipt)
    except (IllegalStep, ValueError) as error:
        found.append(Finding("possible-history", f"at row {last} of the journal or the one behind it: {error}"))
    return state


def _chained(row: e.Recorded, signed: tuple[str | None, str | None], found: list[Finding]) -> None:
    event = row.event
    if isinstance(event, e.Sealed | e.SessionAmended) and (event.prev_manifest, event.prev_receipt) != signed:
        found.append(Finding("manifest-chain", f"row {row.seq}: {event.session} revision {event.revision} does not name the manifest (and "
                                               "receipt) before it"))


def documents(look: Look, state: RoomState, files: Files) -> Iterator[Finding]:
    """The documents' own bytes; and key-rollovers that only their file has kept."""
    held = look.envelopes()
    for digest, kind, session, _, _ in held:
        try:
            good = sha256_hex(payload_of(look.envelope(digest))) == digest
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            good = False
        if not good:
            yield Finding("document-bytes", f"the {kind} of {session or 'the device'} ({digest[:16]}…)")
    stored = {each[0] for each in held}
    for rolled in state.rollovers:
        if rolled.digest not in stored and (body := _rollover_in(files, rolled)) is not None:
            yield Finding("document-stored", f"the key-rollover {rolled.digest[:16]}… lies in its file only",
                          partial(add_rollover, digest=rolled.digest, body=body))


def _rollover_in(files: Files, rolled: e.KeyRolled) -> bytes | None:
    try:
        body = (files.rollovers / f"{rolled.new_cert_sha256}.dsse.json").read_bytes()
        return body if read_rollover(body, files.root.read_bytes()).opened.digest == rolled.digest else None
    except (OSError, ValueError):
        return None


def keys(config: Config, state: RoomState, newest_hmac: str | None) -> Iterator[Finding]:
    """Key, certificate, root, the key that stands for people's numbers. A token or TPM is not asked: `edge key status` does that."""
    files = files_of(config)
    missing = [path for path in (files.key, files.certificate, files.root) if not path.is_file()]
    yield from (Finding("keys", f"{path} is missing") for path in missing)
    if not missing:
        yield from _pair(files, state)
    own, site = config.paths.state / "room-hmac.key", config.in_state(config.evidence.subject_key)
    there = {kind: path.read_bytes() for kind, path in (("site", site), ("room", own)) if path.is_file()}
    yield from (Finding("subject-key", f"the {kind}'s key has {len(key)} bytes, not 32") for kind, key in there.items() if len(key) != 32)
    names = {f"{kind}-{sha256(key).hexdigest()[:16]}" for kind, key in there.items()}
    if newest_hmac is not None and newest_hmac not in names:
        yield Finding("subject-key", f"the newest session used {newest_hmac}, which is not here")


def _pair(files: Files, state: RoomState) -> Iterator[Finding]:
    if stat.S_IMODE(files.key.stat().st_mode) & 0o077:
        yield Finding("keys", f"{files.key} can be read by others (mode {stat.S_IMODE(files.key.stat().st_mode):o}, should be 600)")
    try:
        chain = files.certificate.read_bytes()
        leaf = read_certificates(chain)[0]
        check_chain(chain, files.root.read_bytes(), int(min(datetime.now(UTC), leaf.not_valid_after_utc).timestamp()) * US)
        said = files.key.read_bytes()
        elsewhere = files.key.suffix == CREDENTIAL or said.startswith(b"pkcs11:") or b"TSS2 PRIVATE KEY" in said
        if not elsewhere and FileKey(files.key).public_key() != leaf.public_key():
            yield Finding("keys", f"{files.certificate} is not the certificate of {files.key}")
    except (OSError, ValueError, EnvelopeError) as error:
        yield Finding("keys", f"key, certificate or root cannot be used: {error}")
        return
    started, named = state.started, {each.new_cert_sha256 for each in state.rollovers}
    known = fingerprint(leaf) in named or (files.rollovers / f"{fingerprint(leaf)}.dsse.json").exists()
    if started is not None and started.cert_sha256 != fingerprint(leaf) and not known:
        yield Finding("certificate-known", f"{fingerprint(leaf)[:16]}… is in force, the room last started with {started.cert_sha256[:16]}…")


def newest_hmac(look: Look, state: RoomState) -> str | None:
    """The name of the key that stands for people's numbers in the newest session-open that is stored."""
    opened = [session.open_digest for session in state.sessions.values() if session.open_digest is not None]
    try:
        says = parse(payload_of(look.envelope(opened[-1]))) if opened else {}
        found = says["roster"]["hmac_key_id"] if opened else None
        return found if isinstance(found, str) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def staff(folder: Path) -> Iterator[Finding]:
    try:
        if not StaffBook(folder / "staff.json", SystemClock()).members:
            yield Finding("staff-book", f"{folder / 'staff.json'} is missing, or nobody is in it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield Finding("staff-book", f"{folder / 'staff.json'} cannot be read ({type(error).__name__})")


def pictures(look: Look, state: RoomState, folder: Path) -> Iterator[Finding]:
    """Pictures of manual checks: those that facts name, with their digest; of sessions that were given up none; no others."""
    named: set[str] = set()
    since = SystemClock().now().utc_us - FORGOTTEN_US
    gone = {s.id for s in state.sessions.values() if s.disposed is not None and s.disposed.at.utc_us < since}
    going = {s.id for s in state.sessions.values() if s.disposed is not None}
    for _, session, _, body in look.of_kinds("CandidateAdmitted"):
        photo = json.loads(body).get("photo")
        if photo is None:
            continue
        named.add(photo)
        path = folder / photo
        if session in gone:
            if path.exists():
                yield Finding("forgotten", f"{photo}: {session} was given up")
        elif not path.is_file() and session not in going:
            yield Finding("photo", f"{photo} is missing")
        elif path.is_file() and durable.sha256_file(path) != json.loads(body).get("photo_sha256"):
            yield Finding("photo", f"{photo} is not the picture that was taken")
    for path in sorted((folder / "photos").glob("*/*.jpg")):
        if path.relative_to(folder).as_posix() not in named:
            yield Finding("photo", f"{path.relative_to(folder)} is named by no fact")


def leftovers(state: Path, footage: Path) -> Iterator[Finding]:
    """What a crash left half written: of `durable`, of a restore, of a look at a session."""
    for path in sorted(state.rglob(".*")):
        if path.suffix in (".part", ".restoring") and path.is_file():
            yield Finding("leftover", str(path))
    passing = footage / ".verify"
    if passing.is_dir():
        yield from (Finding("leftover", f"{each} (further links to footage)") for each in sorted(passing.iterdir()))
