"""The device's key over the years: what is in force, what waits to follow it, and the change from one to the other.

    device.key          in force: what lies there says where the key is (`evidence.signers`)
    device.pem          its certificate chain                   root.pem            the pinned authority
    next-device.key     the key that is to follow, if any       next-device.pem     the certificate that is to follow, if any
    rollovers/          key-rollovers, each signed by the key that it retires, and the retired certificates

`edge key` only makes and stages. The change itself is the room's, when it starts and no session is under way: the old key signs the
key-rollover, which is a durable file before anything else moves; then the new files take the old ones' places; then the journal and the
outbox are told. A power cut anywhere between is finished at the next start by the same code. Also here: the watch over the certificate's
last day. Composed in `app`; `edge key` calls the rest.
"""

from __future__ import annotations

import base64
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edge import durable
from edge.clock import US, iso_utc
from edge.evidence import envelope as dsse
from edge.evidence.chain import NotCanonical, canonical, parse, sha256_hex
from edge.evidence.envelope import EnvelopeError
from edge.evidence.keys import RoleError, fingerprint, read_certificates, role_of
from edge.evidence.manifest import RoomFacts
from edge.evidence.rollover import read_rollover, rollover
from edge.evidence.signers import DeviceSigner, SignerFault, next_name, open_key, open_signer
from edge.room import Room
from edge.sessions import events as e
from edge.storage.journal import Envelope

log = logging.getLogger(__name__)

NONE = ".none"
"""In place of a rollover: the change has begun, and the old certificate had ended, so that nothing it signs would be believed."""
KIND, FIRST = "key-rollover", 5         # goes before everything that the new key signs
DAY_US = 86_400 * US
WARN_DAYS = (90, 30, 14, 7, 3, 1, 0)
"""An authority may take a month for a certificate: the first word comes a quarter before."""
LOOK_S = 3600.0


class Unfit(ValueError):
    """A certificate that cannot be put in place. The text says why; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where key, certificate chain and root lie (`evidence.*` of the configuration, resolved)."""

    key: Path
    certificate: Path
    root: Path

    @property
    def next_key(self) -> Path:
        return next_name(self.key)

    @property
    def next_certificate(self) -> Path:
        return next_name(self.certificate)

    @property
    def rollovers(self) -> Path:
        return self.certificate.parent / "rollovers"

    def rollover_to(self, new_chain: bytes) -> Path:
        """The file of the key-rollover that names this chain's leaf."""
        return self.rollovers / f"{fingerprint(read_certificates(new_chain)[0])}.dsse.json"

    def begun(self, new_chain: bytes) -> bool:
        """Whether the change to this chain has begun and must be finished."""
        path = self.rollover_to(new_chain)
        return path.exists() or path.with_suffix(NONE).exists()


def device_of(files: Files) -> str | None:
    """The device's id in the certificate in force; None if there is none, or none that can be read."""
    try:
        return role_of(read_certificates(files.certificate.read_bytes())[0])[1]
    except (OSError, ValueError):
        return None


# ---- staging --------------------------------------------------------------------------------------------------------------

def install(files: Files, chain_pem: bytes, root_pem: bytes, at_utc_us: int) -> str:
    """Put an issued chain in place: `installed` (the first one), `staged-renewal` (same key), `staged-key` (the next key's) or `same`.

    Staged, it takes the place of the one in force when the room starts next. Unfit in plain words, and then nothing was changed. OSError
    as the disk or the key's holder gives it.
    """
    try:
        role, name = dsse.check_chain(chain_pem, root_pem, at_utc_us)
        leaf = read_certificates(chain_pem)[0]
    except EnvelopeError as error:
        raise Unfit(f"the certificate cannot be used: {error}") from error
    if role != "device":
        raise Unfit("it is a platform's certificate, not a device's")
    current = files.certificate.read_bytes() if files.certificate.exists() else None
    if current is not None and role_of(read_certificates(current)[0])[1] != name:
        raise Unfit(f"it names another device: {name}")
    if current is not None and read_certificates(current)[0] == leaf:
        durable.replace(files.root, root_pem, 0o644)
        return "same"
    word = _whose(files, chain_pem, current is None)
    if word == "staged-renewal" and files.next_key.exists():
        raise Unfit("it renews the key in force, while another key waits to follow it; withdraw that one first (edge key roll --withdraw)")
    if current is None and word == "staged-key":
        raise Unfit("it belongs to the key that is to follow, and the first key has no certificate yet; withdraw the second one first")
    durable.replace(files.root, root_pem, 0o644)
    durable.replace(files.certificate if word == "installed" else files.next_certificate, chain_pem, 0o644)
    return word


def _whose(files: Files, chain_pem: bytes, first: bool) -> str:
    """Which key of this machine the certificate belongs to, as `install` says it."""
    leaf = read_certificates(chain_pem)[0]
    for key, word in ((files.next_key, "staged-key"), (files.key, "installed" if first else "staged-renewal")):
        if key.exists() and open_key(key).public_key() == leaf.public_key():
            return word
    raise Unfit("it belongs to no key of this machine, neither the one in force nor the one that is to follow it")


def hand_over(files: Files) -> None:
    """What root has just made belongs to whom the folder belongs to: the room must be able to move it, and root made it only because
    systemd-creds asks for root. Nothing to do for anybody else."""
    if os.geteuid() != 0:
        return
    for path in (files.key, files.certificate, files.root, files.next_key, files.next_certificate):
        if path.exists():
            folder = path.parent.stat()
            os.chown(path, folder.st_uid, folder.st_gid)


def withdraw(files: Files) -> bool:
    """Take back what waits to follow; False if nothing does. A roll that has begun (its rollover is signed) is past that: Unfit."""
    if files.next_certificate.exists() and files.begun(files.next_certificate.read_bytes()):
        raise Unfit("the change has begun already; start the room, which finishes it")
    waiting = [path for path in (files.next_certificate, files.next_key) if path.exists()]
    for path in waiting:
        durable.remove(path)
    return bool(waiting)


# ---- the change -----------------------------------------------------------------------------------------------------------

def may_roll(room: Room) -> bool:
    """Nothing that the old key has begun is unfinished: no live session, and everything ordered is signed."""
    state = room.state
    return state.live is None and all(
        session.opened is None or (session.open_digest is not None and all(each.digest for each in session.revisions)
                                   and not session.late_segments and not session.late_corrections)
        for session in state.sessions.values())


def roll(files: Files, signer: DeviceSigner, facts: RoomFacts, room: Room) -> tuple[DeviceSigner, RoomFacts]:
    """Let the staged certificate (and key) take over, if one is staged and now is a good time; else what is in force stays.

    Never keeps the room from starting for a staged file that is no good: it says so in the log and goes on with the old key. ValueError
    or OSError only if, after the change, the new pair cannot be opened.
    """
    if not files.next_certificate.exists():
        return signer, facts
    chain = files.next_certificate.read_bytes()
    now = room.clock.now()
    if not (_readable(chain) and files.begun(chain)):
        if not may_roll(room):
            log.info("key-roll-waits reason=session")
            return signer, facts
        try:
            dsse.check_chain(chain, files.root.read_bytes(), now.utc_us)
            _sign_rollover(files, signer, facts, room, chain)
        except SignerFault as fault:
            log.warning("key-roll-waits reason=%s what=the old key goes on signing", fault.word)
            return signer, facts
        except (EnvelopeError, OSError) as error:
            log.error("key-roll-refused detail=%s what=the old key goes on signing", error)
            return signer, facts
    finish(files)
    new = open_signer(files.key, files.certificate, signer.second)
    leaf = read_certificates(new.chain_pem.encode())[0]
    log.warning("key-rolled cert=%s place=%s", fingerprint(leaf)[:16], new.place)
    return new, replace(facts, cert_sha256=fingerprint(leaf))


def _readable(chain: bytes) -> bool:
    try:
        return bool(read_certificates(chain))
    except ValueError:
        return False


def _sign_rollover(files: Files, signer: DeviceSigner, facts: RoomFacts, room: Room, chain: bytes) -> None:
    """The old key's word, durable before anything moves. An old certificate that has ended proves nothing any more: then there is none,
    and the journal will say that the key was replaced."""
    now = room.clock.now()
    try:
        dsse.check_chain(signer.chain_pem.encode(), files.root.read_bytes(), now.utc_us)
    except EnvelopeError as error:
        log.error("key-rollover-impossible detail=%s", error)
        durable.make_folder(files.rollovers)
        durable.replace(files.rollover_to(chain).with_suffix(NONE), b"", 0o644)
        return
    document = rollover(facts, chain.decode("ascii"), room.state.opened_total + 1, now, room.journal_head, room.state.last_manifest)
    durable.make_folder(files.rollovers)
    durable.write_new(files.rollover_to(chain), dsse.seal(dsse.KEY_ROLLOVER, document, signer), 0o644)


def finish(files: Files) -> None:
    """The staged files take the others' places; what was half done by a power cut is completed. The retired certificate is kept, its key
    is not: nothing signs with it any more, and what does not exist cannot be stolen."""
    old, new = files.certificate.read_bytes(), files.next_certificate.read_bytes()
    retired = files.rollovers / f"{fingerprint(read_certificates(old)[0])}.pem"
    durable.make_folder(files.rollovers)
    if old != new:
        durable.replace(retired, old, 0o644)
    if files.next_key.exists():
        durable.replace(files.key, files.next_key.read_bytes(), 0o600)
        durable.remove(files.next_key)
    durable.replace(files.certificate, new, 0o644)
    durable.remove(files.next_certificate)


def settle(files: Files) -> None:
    """Before key and certificate are opened: a change that the old key has signed, and that a power cut interrupted, is finished first."""
    if files.next_certificate.exists():
        chain = files.next_certificate.read_bytes()
        if _readable(chain) and files.begun(chain):
            finish(files)


async def account(files: Files, facts: RoomFacts, room: Room) -> None:
    """Tell the journal and the outbox what changed since the last start: before DaemonStarted, which names the certificate in force."""
    known = {each.digest for each in room.state.rollovers}
    for path in sorted(files.rollovers.glob("*.dsse.json")) if files.rollovers.exists() else ():
        data = path.read_bytes()
        try:
            found = read_rollover(data, files.root.read_bytes())
        except EnvelopeError as error:
            log.error("rollover-unreadable file=%s word=%s", path.name, error.word)
            continue
        if found.opened.digest not in known:
            await room.report(e.KeyRolled(
                at=room.clock.now(), digest=found.opened.digest, old_cert_sha256=found.old_cert_sha256,
                new_cert_sha256=found.new_cert_sha256, from_session_seq=found.from_session_seq),
                Envelope(KIND, found.opened.digest, data, priority=FIRST))
    before = room.state.started
    if before is not None and before.cert_sha256 != facts.cert_sha256 and not any(
            (each.old_cert_sha256, each.new_cert_sha256) == (before.cert_sha256, facts.cert_sha256) for each in room.state.rollovers):
        log.error("key-replaced old=%s new=%s what=no rollover tells of it; tell the authority", before.cert_sha256[:16],
                  facts.cert_sha256[:16])
        await room.report(e.KeyReplaced(at=room.clock.now(), old_cert_sha256=before.cert_sha256, new_cert_sha256=facts.cert_sha256))


# ---- the certificate's last day -------------------------------------------------------------------------------------------

def ends(chain_pem: str) -> int:
    """When the first certificate of the chain ends (UTC µs): from then on nothing that the key signs is believed."""
    return min(int(each.not_valid_after_utc.timestamp()) for each in read_certificates(chain_pem.encode())) * US


def days_until(until_utc_us: int, now_utc_us: int) -> int:
    """Whole days that are left; negative once it is over."""
    return (until_utc_us - now_utc_us) // DAY_US


async def watch(room: Room, signer: DeviceSigner, facts: RoomFacts) -> None:
    """Says in time that the certificate ends: a fact at each of WARN_DAYS. A clock that nobody disciplines proves no date."""
    chains = [signer.chain_pem, *([signer.second.chain_pem] if signer.second is not None else [])]
    while True:
        await look(room, min(map(ends, chains)), facts.cert_sha256)
        await room.clock.sleep(LOOK_S)


async def look(room: Room, until_utc_us: int, cert_sha256: str) -> None:
    """One look at the calendar."""
    days, last = days_until(until_utc_us, room.clock.now().utc_us), room.state.certificate
    told = last.days if last is not None and last.cert_sha256 == cert_sha256 else WARN_DAYS[0] + 1
    if room.instruments.clock().state == "synced" and (step(days) < step(told)):
        log.warning("certificate-expiring days=%d until=%s", days, iso_utc(until_utc_us))
        await room.report(e.CertificateExpiring(at=room.clock.now(), cert_sha256=cert_sha256, until_utc_us=until_utc_us, days=days))


def step(days: int) -> int:
    """The last of WARN_DAYS that `days` has come down to; one more than the first before all of them, -1 after the end."""
    if days < 0:
        return -1
    return min((each for each in WARN_DAYS if days <= each), default=WARN_DAYS[0] + 1)


# ---- what there is --------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class Status:
    """For `edge key status`. `todo`: what somebody should do, in plain words; empty: nothing."""

    lines: tuple[tuple[str, str], ...]
    todo: tuple[str, ...]


def status(files: Files, now_utc_us: int, try_it: Callable[[DeviceSigner], object] | None = None) -> Status:
    """Key, certificate, root and what is staged, as far as can be told without the room. `try_it`: sign something with the key."""
    lines, todo = [("key", str(files.key))], []
    try:
        lines.append(("place", open_key(files.key).place))
    except FileNotFoundError:
        todo.append("there is no key: edge key init")
    except (OSError, ValueError) as error:
        todo.append(f"the key cannot be opened: {error}")
    lines += _certificate_lines("certificate", files.certificate, now_utc_us, todo)
    if files.certificate.exists() and files.key.exists():
        try:
            signer = open_signer(files.key, files.certificate)
            if try_it is not None:
                try_it(signer)
                lines.append(("signs", "yes"))
            dsse.check_chain(signer.chain_pem.encode(), files.root.read_bytes(), now_utc_us)
        except (OSError, ValueError) as error:
            todo.append(f"key, certificate and root do not go together now: {error}")
    if files.root.exists():
        lines.append(("root sha256", fingerprint(read_certificates(files.root.read_bytes())[0])))
    if files.next_key.exists():
        lines.append(("next key", str(files.next_key)))
        if not files.next_certificate.exists():
            todo.append("the next key waits for its certificate: edge key csr --next, then edge key install")
    if files.next_certificate.exists():
        lines += _certificate_lines("next certificate", files.next_certificate, now_utc_us, todo)
        todo.append("the next certificate takes over when the room starts: systemctl restart edge, while no session is under way")
    for path in sorted(files.rollovers.glob("*.dsse.json")) if files.rollovers.exists() else ():
        lines.append(("rollover", _rollover_line(path)))
    return Status(tuple(lines), tuple(todo))


def _certificate_lines(title: str, path: Path, now_utc_us: int, todo: list[str]) -> list[tuple[str, str]]:
    if not path.exists():
        todo.append("there is no certificate: edge key csr, then edge key install")
        return []
    try:
        leaf = read_certificates(path.read_bytes())[0]
        name = role_of(leaf)[1]
    except (ValueError, RoleError) as error:
        todo.append(f"{path} is no device's certificate: {error}")
        return []
    until = ends(path.read_text(encoding="ascii"))
    days = days_until(until, now_utc_us)
    if days <= 30:
        todo.append(f"the {title} " + (f"ends in {days} days" if days >= 0 else "has ended")
                    + ": edge key csr, or edge key roll for another key; then edge key install")
    return [(title, f"{name}, sha256 {fingerprint(leaf)}"), (f"{title} ends", f"{iso_utc(until)} ({days} days)")]


def _rollover_line(path: Path) -> str:
    try:
        body = parse(base64.b64decode(parse(path.read_bytes())["payload"]))
        return (f"{body['made_utc']}: {body['device']['cert_sha256'][:16]}… -> {body['new_cert_sha256'][:16]}…, from session number "
                f"{body['from_session_seq']}, digest {sha256_hex(canonical(body))[:16]}…")
    except (NotCanonical, KeyError, TypeError, ValueError) as error:
        return f"{path.name} cannot be read: {error}"
