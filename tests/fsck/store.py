"""A room's whole store as real code makes it: idle minutes, a session that was given up, one that the province has answered, one that
waits; a picture of a manual check, a damage that the scrub found, a checkpoint, a key that was rolled. Made once, copied for each test."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge import keyring
from edge.capture.control import RecorderControl
from edge.capture.storage_id import init_storage
from edge.checkpoints import Checkpoints
from edge.clock import US, iso_utc
from edge.config import Config, load
from edge.evidence import envelope as dsse
from edge.evidence import keys
from edge.evidence.chain import canonical
from edge.evidence.disposition import DISPOSITION, disposition
from edge.evidence.keys import fingerprint, read_certificates
from edge.evidence.manifest import RoomFacts
from edge.evidence.signers import Borrowed, make_key, open_key, open_signer
from edge.keyring import Files
from edge.notary import Notary
from edge.sessions import events as e
from edge.sessions.machine import State
from edge.sim.authority import Authority
from edge.storage import rebuild
from edge.storage.journal import Envelope
from edge.storage.keeping import Keeping, ToGarbage
from tests.kept import Kept

if TYPE_CHECKING:
    from tests.conftest import Hall

DEMO = Path(__file__).parents[2] / "config" / "demo.toml"
GONE, ANSWERED, WAITING = (f"S20261126-KD01-R01-{number:02d}" for number in (1, 2, 3))
ROOM, DEVICE = "000000-KD01-R01", "KD01-R01-edge"


class Builder:
    """Fills the folder of a hall."""

    def __init__(self, hall: Hall, authority: Authority) -> None:
        self.hall, self.authority, self.kept = hall, authority, Kept(hall)
        state = hall.folder / "state"
        self.files = Files(state / "device.key", state / "device.pem", state / "root.pem")
        self._receipts = 0
        make_key(self.files.key, "file")
        self._install(self.files.key)
        (state / "room-hmac.key").write_bytes(b"k" * 32)
        (state / "storage.uuid").write_text(init_storage(hall.folder / "footage"))
        path = hall.folder / "etc" / "edge.toml"
        path.parent.mkdir()
        path.write_text(DEMO.read_text(encoding="utf-8").replace('"../demo/', '"../'), encoding="utf-8")

    def _install(self, key: Path) -> None:
        chain = self.authority.issue_device(keys.request(Borrowed(open_key(key)), DEVICE))
        leaf = read_certificates(chain)[0]
        keyring.install(self.files, chain, self.authority.root_pem, int(leaf.not_valid_before_utc.timestamp() + 3600) * US)

    async def start(self) -> None:
        """As `app` does."""
        room = self.hall.restart()
        self.signer = open_signer(self.files.key, self.files.certificate)
        leaf = read_certificates(self.signer.chain_pem.encode())[0]
        facts = RoomFacts(site="KD01", room_code=ROOM, device_id=DEVICE, cert_sha256=fingerprint(leaf), sw_version="0.1.0",
                          sw_sha256="1" * 64, config_sha256="2" * 64, boot_id="boot-1",
                          hmac_key_id=f"room-{hashlib.sha256(b'k' * 32).hexdigest()[:16]}", require_sync=True)
        self.signer, self.facts = keyring.roll(self.files, self.signer, facts, room)
        await keyring.account(self.files, self.facts, room)
        await room.report(e.DaemonStarted(at=room.clock.now(), version="0.1.0", sw_sha256="1" * 64, config_sha256="2" * 64,
                                          device_id=DEVICE, cert_sha256=self.facts.cert_sha256))
        self.notary = Notary(room, self.signer, self.authority.root_pem, self.facts, RecorderControl(self.hall.folder / "no.sock"), 10)

    async def roll(self) -> None:
        make_key(self.files.next_key, "file")
        self._install(self.files.next_key)
        await self.start()

    async def session(self, session: str) -> None:
        """Footage of three streams, a manual check with its picture, sealed and signed."""
        hall = self.hall
        for state, go in hall.way(session):
            await go()
            if state is State.RUNNING:
                second = hall.roster[1]
                photo, sha256 = hall.room.photos.keep(session, session.encode())  # type: ignore[union-attr]
                await hall.fact(e.CandidateAdmitted, session, candidate_id=second.candidate_id, subject=hall.room.subject(second.id_no),
                                method="manual", exception="E-CARD-UNREADABLE", by="T001", photo=photo, photo_sha256=sha256)
                await hall.fact(e.AdmissionRefused, session, code="E-CARD-EXPIRED", candidate_id=hall.roster[2].candidate_id)
            if state is State.CLOSING:
                await hall.clock.pass_time(2)
                for stream in ("cam-front", "cam-back", "mic"):
                    self.kept.segment(stream, s=70)
                await self.kept.take_in()
            if state is State.SEALING:
                break
        await hall.clock.pass_time(20)
        while await self.notary.step():
            pass
        assert hall.room.state.sessions[session].state is State.SEALED

    async def answer(self) -> None:
        """The province answers the most urgent item."""
        item = await self.hall.outbox.next_due(self.hall.clock.now())
        assert item is not None
        self._receipts += 1
        more: dict[str, Any] = {"session_id": item.session, "revision": item.revision}
        receipt = dsse.seal(dsse.RECEIPT, {
            "type": "exam-platform-receipt/v1", "receipt_id": f"Q{self._receipts}", "kind": item.kind, "digest": item.digest,
            "device": DEVICE, "room_code": ROOM, "verdict": "accepted", "reasons": [], "platform_seq": self._receipts,
            "received_utc": iso_utc(self.hall.clock.now().utc_us), **{k: v for k, v in more.items() if v is not None}},
            self.authority.platform)
        assert await self.notary.receipt(item, receipt)
        await self.hall.outbox.done(item.id)

    async def give_up(self, session: str) -> None:
        """As the keeper does, at a day that lies far ahead."""
        hall, at = self.hall, self.hall.clock.now()
        keeping = Keeping(hall.database, self.kept.footage)
        leaving, sealed = keeping.leaving(session), hall.room.state.sessions[session].sealed
        assert sealed
        await hall.room.report(e.FootageDisposed(
            at=at, session=session, policy=sealed.retention_policy, keep_until=sealed.keep_until, day="2050-01-01",
            segments=leaving.total.segments, bytes=leaving.total.bytes, streams=leaving.streams, list_sha256=leaving.list_sha256,
            witness="0" * 64, witness_utc_us=at.utc_us), ToGarbage())
        document = disposition(hall.room.events(session), self.facts)
        digest = hashlib.sha256(canonical(document)).hexdigest()
        await hall.room.report(e.DispositionSigned(at=at, session=session, digest=digest),
                               Envelope("session-disposition", digest, dsse.seal(DISPOSITION, document, self.signer), priority=30))
        await keeping.sweep()
        hall.room.photos.forget(session)  # type: ignore[union-attr]

    async def build(self) -> None:
        await self.start()
        for _ in range(3):
            await self.hall.clock.pass_time(60)
            self.kept.segment("cam-front")
        await self.kept.take_in()
        await self.session(GONE)
        await self.roll()
        await self.session(ANSWERED)
        while (item := await self.hall.outbox.next_due(self.hall.clock.now())) and item.kind != "device-checkpoint":
            await self.answer()
        await self.give_up(GONE)
        assert await Checkpoints(self.hall.room, self.signer, self.facts).step()
        await self.answer()
        await self.hall.fact(e.SegmentDamaged, None, stream="cam-back", seq=2, path="x", what="digest", sha256="0" * 64)
        await self.hall.fact(e.SegmentDamaged, None, stream="mic", seq=2, path="x", what="digest", sha256="0" * 64)
        await self.hall.fact(e.SegmentSound, None, stream="mic", seq=2)
        rebuild.add_unaccounted(self.hall.database, 5, 9, "restored")
        await self.hall.room.resumed(self.hall.database)
        await self.session(WAITING)
        self.hall.database.close()


class Store:
    """A copy of that store. `spoil` is somebody's hand in the database."""

    def __init__(self, template: Path, folder: Path) -> None:
        shutil.copytree(template, folder)
        self.folder, self.config = folder, self.configured(folder)
        self.footage, self.state = folder / "footage", folder / "state"

    @staticmethod
    def configured(folder: Path) -> Config:
        return load(folder / "etc" / "edge.toml")

    def spoil(self, *changes: str) -> None:
        with closing(sqlite3.connect(self.state / "edge.db", isolation_level=None)) as connection:
            for change in changes:
                assert connection.execute(change).rowcount != 0, change

    def spoil_facts(self, *changes: str) -> None:
        """The journal itself: with its guards taken away and put back."""
        with closing(sqlite3.connect(self.state / "edge.db", isolation_level=None)) as connection:
            guards = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for name, _ in guards:
                connection.execute(f"DROP TRIGGER {name}")
            for change in changes:
                assert connection.execute(change).rowcount != 0, change
            for _, sql in guards:
                connection.execute(sql)

    def ask(self, question: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.state / "edge.db", isolation_level=None)) as connection:
            return connection.execute(question).fetchall()

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        """All that the database holds."""
        names = [row[0] for row in self.ask("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")]
        return {name: sorted(self.ask(f"SELECT * FROM {name}"), key=repr) for name in names}  # noqa: S608

    def files(self) -> dict[str, bytes]:
        """Every file but the database's own."""
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in sorted(self.folder.rglob("*"))
                if path.is_file() and not path.name.startswith("edge.db")}

    def film(self, stream: str, seq: int) -> Path:
        return next((self.footage / stream).rglob(f"{seq:010d}-*.mp4"))


async def build(hall: Hall, authority: Authority) -> Path:
    await Builder(hall, authority).build()
    return hall.folder


