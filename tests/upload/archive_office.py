"""A hall with real footage, a notary and an archivist: what sessions in an archive are made from. For tests of archiving and retrieval."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any

from cryptography import x509

from edge.archivist import Archivist, Rules, kbps_now
from edge.capture.control import RecorderControl
from edge.capture.sidecar import to_json
from edge.clock import US, iso_utc
from edge.evidence import keys as certificates
from edge.evidence.envelope import RECEIPT, seal
from edge.evidence.manifest import RoomFacts
from edge.notary import Notary
from edge.sessions import events as e
from edge.sessions.machine import Session, State
from edge.sim.authority import Authority
from edge.storage.archived import ArchiveLedger
from edge.upload.archive import Archive, ArchiveError, Place, Throttle

if TYPE_CHECKING:
    from tests.conftest import Device, Hall

SESSION, LATER = "S20261126-KD01-R01-01", "S20261126-KD01-R01-02"
STREAMS = ("cam-back", "cam-front", "mic")
RULES = Rules(bucket_3y="evid-3y", bucket_6y="evid-6y", exam_kbps=0, day_kbps=10_000_000, night_kbps=10_000_000, night=(20, 6),
              reread_days=365, late_h=72)
DAY = 86400


class Office:
    """A hall with real footage, its notary, and an archivist before a store. `keep`, `held`: what retention says."""

    def __init__(self, hall: Hall, authority: Authority, device: Device, endpoint: str, access: tuple[str, str] = ("k", "s")) -> None:
        self.hall, self.authority, self.device, self.rules = hall, authority, device, RULES
        self.footage = hall.folder / "footage"
        self.place = (endpoint, *access)
        leaf = x509.load_pem_x509_certificates(device.signer.chain_pem.encode())[0]
        self.facts = RoomFacts(site="KD01", room_code="000000-KD01-R01", device_id=device.id, cert_sha256=certificates.fingerprint(leaf),
                               sw_version="0.1.0", sw_sha256="1" * 64, config_sha256="2" * 64, boot_id="boot-1", hmac_key_id="room-1",
                               require_sync=True)
        self.keep: dict[str, str] = {}
        self.closed = False
        self.on_hold: set[str] = set()
        self.start()

    def start(self) -> None:
        """Room and archivist die and start anew."""
        room = self.hall.restart()
        self.notary = Notary(room, self.device.signer, self.authority.root_pem, self.facts,
                             RecorderControl(self.hall.folder / "nobody.sock"), 10)
        self.ledger = ArchiveLedger(self.hall.database, 90)
        self.throttle = Throttle(lambda: kbps_now(room, self.rules))
        endpoint, key, secret = self.place
        self.stores = {bucket: Archive(Place(bucket, endpoint, key, secret), self.hall.clock,
                                       lambda: self.hall.clock_reading.state == "synced", self.throttle)
                       for bucket in ("evid-3y", "evid-6y")}
        self.archivist = Archivist(room, self.ledger, self.open, self.throttle, self.footage, self.authority.root_pem, self.rules,
                                   random.Random(1), self._keep_until, lambda session: session.id in self.on_hold)

    def open(self) -> dict[str, Archive]:
        """The way to the buckets."""
        if self.closed:
            raise ArchiveError("credentials", "no keys")
        return self.stores

    def _keep_until(self, session: Session) -> str | None:
        return self.keep.get(session.id, session.sealed.keep_until if session.sealed else None)

    async def film(self, stream: str, session: str) -> None:
        """One real segment that covers the session so far."""
        clock, opened = self.hall.clock, self.hall.room.state.sessions[session].opened
        assert opened
        data = hashlib.sha256(f"{session} {stream}".encode()).digest() * 400
        sidecar = self.hall.sidecar(stream, opened.at.plus(-US), clock.now().plus(US), bytes=len(data),
                                    sha256=hashlib.sha256(data).hexdigest())
        path = self.footage / self.hall.path_of(sidecar)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        described = to_json(sidecar)
        path.with_suffix(".json").write_bytes(described)
        await self.hall.room.segment(sidecar, self.hall.path_of(sidecar), hashlib.sha256(described).hexdigest())

    async def sealed(self, session: str = SESSION, accepted: bool = True, **planned: Any) -> None:
        for reached, go in self.hall.way(session, **planned):
            await go()
            await self.settle()
            if reached is State.SEALING:
                break
        for stream in STREAMS:
            await self.film(stream, session)
        await self.settle()
        if accepted:
            await self.accept()

    async def settle(self) -> None:
        while await self.notary.step():
            pass

    async def accept(self) -> None:
        """The platform answers all that is owed to it."""
        while (item := await self.hall.outbox.next_due(self.hall.clock.now())) is not None:
            payload: dict[str, Any] = {
                "type": "exam-platform-receipt/v1", "receipt_id": "Q1", "kind": item.kind, "digest": item.digest, "device": self.device.id,
                "room_code": "000000-KD01-R01", "session_id": item.session, "verdict": "accepted", "reasons": [], "platform_seq": item.id,
                "received_utc": iso_utc(self.hall.clock.now().utc_us), **({"revision": item.revision} if item.revision else {})}
            assert await self.notary.receipt(item, seal(RECEIPT, payload, self.authority.platform))

    async def archive(self, steps: int = 200) -> float:
        """Let the archivist do all that it can do now. Returns how long it then wants to wait."""
        for _ in range(steps):
            wait_s = await self.archivist.step()
            if wait_s > 0:
                return wait_s
        raise AssertionError("the archivist does not come to rest")

    def told(self, kind: type[e.Event]) -> list[Any]:
        return [row.event for row in self.hall.journal.all() if isinstance(row.event, kind)]

    def may_leave(self, session: str = SESSION, days: int = 0) -> bool:
        return self.ledger.may_leave(session, self.hall.clock.now().utc_us + days * DAY * US)
