"""A device's whole life in one folder: several sessions, one journal, real keys, files and receipts; and what an attacker does to it."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509

from edge.capture.sidecar import Fragment, Sidecar, to_json
from edge.clock import US, Stamp, iso_utc
from edge.evidence import bundle, chain, envelope, keys, manifest
from edge.evidence.envelope import Signer
from edge.evidence.manifest import RoomFacts
from edge.sessions import events as e

BOOT = "11111111-2222-3333-4444-555555555555"
START = Stamp(1_795_672_800 * US, 5_000 * US, BOOT)     # 2026-11-26T06:00:00Z
ROOM, DEVICE = "000000-KD01-R01", "KD01-R01-0001"
SEGMENTS, SEGMENT_US, APART_S = 3, 60 * US, 3600


class Authority(Protocol):
    """What of tests/evidence/conftest.TestAuthority is used here."""

    @property
    def root_pem(self) -> bytes: ...
    def signer(self, role: keys.Role, name: str) -> Any: ...


def session_id(number: int) -> str:
    return f"S20261126-KD01-R01-{number:02d}"


@dataclass
class Session:
    """One session's envelopes, as they were stored or received."""

    id: str
    manifests: dict[int, bytes] = field(default_factory=dict)
    receipts: dict[int, bytes] = field(default_factory=dict)
    open: bytes = b""
    open_receipt: bytes | None = None


class Career:
    """`count` sessions of three segments; number 2 has a declared gap of 10 s. `undeclared`: this number stopped 0.5 s and did not say so.

    `salt` makes other recordings (a history made anew); `online`: the platform answers; `rolls`: from this number on a new key signs,
    handed over by the old one, `times` over with nothing signed in between. `counter`: what the hardware counter says after each
    opening, None: there is none; `version`: of manifests.
    """

    def __init__(self, folder: Path, authority: Authority, count: int = 5, *, online: bool = True, undeclared: int = 0, salt: str = "",
                 device: Signer | None = None, platform: Signer | None = None, rolls: int = 0, times: int = 1,
                 counter: Callable[[int], int | None] = lambda number: number + 40, version: int = 2) -> None:
        self.authority, self.online, self._undeclared, self._salt = authority, online, undeclared, salt
        self.footage = folder
        self.device = device or authority.signer("device", DEVICE)
        self.platform = platform or authority.signer("platform", "province")
        self.rows: list[e.Recorded] = []
        self.sessions: list[Session] = []
        self.checkpoints: list[bytes] = []
        self.counter, self.version = counter, version
        self.checkpoint_receipts: list[bytes] = []
        self.rollovers: list[bytes] = []
        self._number, self._last_receipt = 0, ""
        self._prev: tuple[str | None, str | None] = (None, None)
        for number in range(1, count + 1):
            for _ in range(times if number == rolls else 0):
                self.roll(number)
            self.run(number)

    def run_one_more(self) -> None:
        self.run(len(self.sessions) + 1)

    def facts(self) -> RoomFacts:
        certificate = x509.load_pem_x509_certificates(self.device.chain_pem.encode())[0]
        return RoomFacts(site="KD01", room_code=ROOM, device_id=DEVICE, cert_sha256=keys.fingerprint(certificate), sw_version="0.1.0",
                         sw_sha256="1" * 64, config_sha256="2" * 64, boot_id=BOOT, hmac_key_id="room-1", require_sync=False)

    def _fact(self, kind: type[e.Event], at: Stamp, session: str | None, **fields: Any) -> None:
        prev = self.rows[-1].hash if self.rows else chain.GENESIS
        self.rows.append(chain.follow(len(self.rows) + 1, kind(at=at, session=session, **fields), prev))

    def of(self, session: str) -> list[e.Recorded]:
        return [row for row in self.rows if row.event.session == session]

    def run(self, number: int) -> None:
        """One more session."""
        session, begin = Session(session_id(number)), START.plus(number * APART_S * US)
        self.sessions.append(session)

        def fact(kind: type[e.Event], at_s: float, **fields: Any) -> None:
            self._fact(kind, begin.plus(round(at_s * US)), session.id, **fields)

        clock = {"state": "synced", "source": "chrony", "max_error_us": 900, "offset_us": -12}
        read: dict[str, Any] = {"clock": clock} if self.version > 1 else {}
        fact(e.SessionPlanned, -90, plan_id=f"P{number}", session_kind="exam_theory", title="考试", scheduled_start_us=begin.utc_us,
             duration_min=3, min_proctors=2, late_cutoff_min=30, checkin_open_min=30, staff={"T001": "chief", "T002": "proctor"},
             retention_policy="RP-GENERAL-3Y", plan_sha256="3" * 64, source="platform")
        fact(e.RosterAccepted, -80, version=1, count=0, roster_sha256="4" * 64, source="platform")
        fact(e.PreflightBegun, -70, by="T001")
        fact(e.CheckinOpened, 0, by="T001", session_seq=number, streams={"cam": "rtsp"}, readings={}, clock_state="synced", **read,
             **({"hw_counter": counted} if (counted := self.counter(number)) is not None and self.version > 1 else {}))
        document = manifest.session_open(self.of(session.id), self.facts(), *self._prev)
        session.open = envelope.seal(envelope.SESSION_OPEN, document, self.device)
        fact(e.OpenSigned, 1, digest=digest_of(session.open))
        session.open_receipt = self.answer("session-open", session.open, begin.plus(US), session=session.id, number=number)
        for index in range(SEGMENTS):
            self._segment(session.id, number, index, begin)
        fact(e.ExamEnded, 170, by="T001", outcome="completed")
        fact(e.SealOrdered, 175, by="T001", second="T002", statement="seal.statement.v1", absent=(), **read)
        stored = [row.event for row in self.of(session.id) if isinstance(row.event, e.SegmentStored)]
        for gap in manifest.find_gaps(stored, ["cam"], begin, begin.plus(175 * US)) if number != self._undeclared else []:
            fact(e.GapDeclared, 176, stream=gap.stream, revision=1, from_utc_us=gap.from_utc_us, to_utc_us=gap.to_utc_us,
                 dur_us=gap.dur_us, reason=gap.reason)
        fact(e.Sealed, 178, revision=1, opened_total=number, closed_total=number, keep_until="2033-05-25", retention_policy="RP-GENERAL-3Y",
             retention_basis="档案", open_receipt=digest_of(session.open_receipt) if session.open_receipt else None,
             prev_manifest=self._prev[0], prev_receipt=self._prev[1], **read,
             **({"manifest_version": self.version} if self.version > 1 else {}))
        self._sign(session, number, begin.plus(179 * US), 1)

    def _sign(self, session: Session, number: int, at: Stamp, revision: int) -> None:
        document = manifest.manifest(self.of(session.id), self.facts(), revision)
        sealed = session.manifests[revision] = envelope.seal(envelope.SESSION_MANIFEST, document, self.device)
        self._fact(e.ManifestSigned, at, session.id, revision=revision, digest=digest_of(sealed))
        receipt = self.answer("session-manifest", sealed, at.plus(US), session=session.id, number=number, revision=revision)
        if receipt:
            session.receipts[revision] = receipt
        self._prev = (digest_of(sealed), digest_of(receipt) if receipt else None)

    def _segment(self, session: str, number: int, index: int, begin: Stamp) -> None:
        hole_us = {(2, 1): 10 * US, (self._undeclared, 1): US // 2}.get((number, index), 0)
        start, end = begin.plus(index * SEGMENT_US + hole_us), begin.plus((index + 1) * SEGMENT_US)
        data = hashlib.sha256(f"{self._salt}{number} {index}".encode()).digest() * 50
        path = self.footage / "cam" / f"{number * 10 + index:010d}-x.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        sidecar = Sidecar(
            stream="cam", seq=number * 10 + index, run=f"{number:032x}", start=start, end=end, dur_us=end.us_since(start), frame_us=40_000,
            frames=1500, dropped=0, bytes=len(data), sha256=chain.sha256_hex(data), header_bytes=200,
            fragments=(Fragment(200, len(data) - 200, 0, end.us_since(start), True),), media_start_us=0, codec="h264",
            tracks={"video": {"codec": "h264"}}, clock_state="synced",
            end_reason="camera-lost" if number == 2 and index == 0 else "rotated")
        described = to_json(sidecar)
        path.with_suffix(".json").write_bytes(described)
        self._fact(
            e.SegmentStored, end, session, stream="cam", seq=sidecar.seq, path=path.relative_to(self.footage).as_posix(), run=sidecar.run,
            start_utc_us=start.utc_us, end_utc_us=end.utc_us, start_boot_us=start.boot_us, end_boot_us=end.boot_us, boot_id=BOOT,
            dur_us=sidecar.dur_us, frame_us=40_000, bytes=sidecar.bytes, sha256=sidecar.sha256, sidecar_sha256=chain.sha256_hex(described),
            codec="h264", end_reason=sidecar.end_reason, recovered=False, clock_state="synced")

    def answer(self, kind: str, sealed: bytes, at: Stamp, *, session: str | None = None, number: int | None = None,
               revision: int | None = None) -> bytes | None:
        if not self.online:
            return None
        self._number += 1
        more = {"session_id": session, "session_seq": number, "revision": revision, "prev_receipt": self._last_receipt or None}
        receipt = envelope.seal(envelope.RECEIPT, {
            "type": "exam-platform-receipt/v1", "receipt_id": f"Q{self._number:06d}", "kind": kind, "digest": digest_of(sealed),
            "device": DEVICE, "room_code": ROOM, "verdict": "accepted", "reasons": [], "platform_seq": self._number,
            "received_utc": iso_utc(at.utc_us), **{key: value for key, value in more.items() if value is not None}}, self.platform)
        self._last_receipt = digest_of(receipt)
        return receipt

    def checkpoint(self, **changed: Any) -> None:
        """The device's word at this moment."""
        head = self.rows[-1]
        facts, at = self.facts(), head.event.at.plus(60 * US)
        total = len(self.sessions)
        counted = {"hw_counter": read} if self.version > 1 and (read := self.counter(total)) is not None else {}
        sealed = envelope.seal(envelope.DEVICE_CHECKPOINT, {
            "type": "exam-device-checkpoint/v1", "made_utc": iso_utc(at.utc_us), "site": "KD01", "room": ROOM,
            "device": {"id": DEVICE, "cert_sha256": facts.cert_sha256}, "journal": {"seq": head.seq, "head_sha256": head.hash},
            "counters": {"opened_total": total, "closed_total": total, **counted},
            "prev": {"manifest_sha256": self._prev[0] or ""}, **changed},
            self.device)
        self.checkpoints.append(sealed)
        if receipt := self.answer("device-checkpoint", sealed, at):
            self.checkpoint_receipts.append(receipt)

    def roll(self, number: int) -> None:
        """Another key signs from session `number` on."""
        old, facts = self.device, self.facts()
        self.device = self.authority.signer("device", DEVICE)
        self.rollovers.append(envelope.seal(envelope.KEY_ROLLOVER, {
            "type": "exam-key-rollover/v1", "made_utc": iso_utc(START.plus(number * APART_S * US - 600 * US).utc_us), "room": ROOM,
            "device": {"id": DEVICE, "cert_sha256": facts.cert_sha256}, "new_cert_sha256": self.facts().cert_sha256,
            "from_session_seq": number}, old))

    def contents(self, session: Session) -> bundle.Contents:
        return bundle.Contents(
            manifests=session.manifests, receipts=session.receipts, session_open=session.open, open_receipt=session.open_receipt,
            root_pem=self.authority.root_pem, rows=self.of(session.id),
            rollovers=bundle.handed_over(session.open, session.manifests, self.rollovers, {}))

    def write(self, folder: Path) -> Path:
        """The history as an auditor gets it: an exported folder a session, checkpoints beside them."""
        for session in self.sessions:
            assert bundle.write_bundle(folder / session.id, self.contents(session), self.footage) == []
        for index, (name, data) in enumerate([*(("checkpoint", c) for c in self.checkpoints),
                                              *(("receipt-checkpoint", c) for c in self.checkpoint_receipts)]):
            (folder / f"{name}-{index}.dsse.json").write_bytes(data)
        return folder

    def receipts(self, folder: Path) -> Path:
        """All receipts as the platform itself has them."""
        folder.mkdir()
        every = [r for s in self.sessions for r in (s.open_receipt, *s.receipts.values()) if r] + self.checkpoint_receipts
        for index, data in enumerate(every):
            (folder / f"receipt-{index}.dsse.json").write_bytes(data)
        return folder


def digest_of(sealed: bytes) -> str:
    return hashlib.sha256(base64.b64decode(json.loads(sealed)["payload"])).hexdigest()


def wipe(folder: Path, number: int) -> None:
    """All traces of one session."""
    shutil.rmtree(folder / session_id(number))
