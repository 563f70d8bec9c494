"""A small authority (a root, an issuing CA between, leaves of either role) and one whole session, all of it real: keys, rows, files."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edge.capture.sidecar import Fragment, Sidecar, to_json
from edge.clock import US, Stamp, iso_utc
from edge.evidence import bundle, chain, envelope, keys, manifest
from edge.evidence.envelope import FileSigner
from edge.evidence.manifest import RoomFacts
from edge.evidence.rollover import rollover
from edge.sessions import events as e

START = datetime(2026, 1, 1, tzinfo=UTC)
END = datetime(2036, 1, 1, tzinfo=UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@dataclass
class Issuer:
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    def issue(self, name: x509.Name, public: ec.EllipticCurvePublicKey, extensions: list[tuple[x509.ExtensionType, bool]],
              start: datetime = START, end: datetime = END) -> x509.Certificate:
        builder = (x509.CertificateBuilder().subject_name(name).issuer_name(self.certificate.subject).public_key(public)
                   .serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)
                   .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
                   .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())


def ca_extensions(path_length: int) -> list[tuple[x509.ExtensionType, bool]]:
    usage = x509.KeyUsage(digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
                          key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False)
    return [(x509.BasicConstraints(ca=True, path_length=path_length), True), (usage, True)]


def make_root(text: str) -> Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (x509.CertificateBuilder().subject_name(_name(text)).issuer_name(_name(text)).public_key(key.public_key())
               .serial_number(x509.random_serial_number()).not_valid_before(START).not_valid_after(END)
               .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False))
    for extension, critical in ca_extensions(1):
        builder = builder.add_extension(extension, critical)
    return Issuer(key, builder.sign(key, hashes.SHA256()))


class TestAuthority:
    """`signer(role, name)`: a FileSigner with files under `folder`; `depth` 1 = root and leaf, 2 = an issuing CA between."""

    __test__ = False

    def __init__(self, folder: Path, depth: int = 1) -> None:
        self.folder = folder
        self.root = make_root("Test root of the examination authority")
        self.between: list[x509.Certificate] = []
        self.issuer = self.root
        if depth == 2:
            key = ec.generate_private_key(ec.SECP256R1())
            certificate = self.root.issue(_name("Test issuing CA"), key.public_key(), ca_extensions(0))
            self.issuer = Issuer(key, certificate)
            self.between = [certificate]

    @property
    def root_pem(self) -> bytes:
        return _pem(self.root.certificate)

    def signer(self, role: keys.Role, name: str, start: datetime = START, end: datetime = END,
               extensions: list[tuple[x509.ExtensionType, bool]] | None = None) -> FileSigner:
        key = ec.generate_private_key(ec.SECP256R1())
        stem = f"{role}-{name}-{len(list(self.folder.iterdir()))}"
        key_path, cert_path = self.folder / f"{stem}.key", self.folder / f"{stem}.pem"
        key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        certificate = self.issuer.issue(_name(name), key.public_key(), extensions or keys.leaf_extensions(role, name), start, end)
        cert_path.write_bytes(b"".join(_pem(each) for each in [certificate, *self.between]))
        return FileSigner(key_path, cert_path)


@pytest.fixture
def make_authority(tmp_path: Path) -> Callable[[int], TestAuthority]:
    def make(depth: int = 1) -> TestAuthority:
        folder = tmp_path / f"authority-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return TestAuthority(folder, depth)
    return make


@pytest.fixture
def authority(make_authority: Callable[[int], TestAuthority]) -> TestAuthority:
    return make_authority(1)


# ---- a whole session ---------------------------------------------------------------------------------------------------

OPENED = Stamp(1_795_672_800 * US, 5_000 * US, "11111111-2222-3333-4444-555555555555")     # 2026-11-26T06:00:00Z
SESSION = "S20261126-KD01-R01-02"
ROOM = "000000-KD01-R01"
DEVICE = "KD01-R01-0001"
SUBJECT = "ab" * 32
STREAMS = {"cam-front": "rtsp", "mic": "microphone"}
SEGMENT_US = 60 * US


class Exam:
    """One session with real files, real rows and real signatures.

    `hole`: 10 s missing from cam-front, "declared", "undeclared" or None. `online`: the platform answers. `late`: cam-front's third segment
    turns up after the seal (revision 2), after the key has been rolled `rolls` times. `version`: by which rules its manifests are made;
    those of 2 have incidents, anchors of the clock and a hardware counter. `false_open` changes the session-open before it is
    signed, `false_sidecar` says other than the journal in cam-front's third sidecar. Interval: 240 s from OPENED; segments of 60 s from
    30 s before it to 30 s after it.
    """

    def __init__(self, folder: Path, authority: TestAuthority, hole: str | None = None, online: bool = True, late: bool = False,
                 segments: int = 5, device_until: datetime = END, false_open: Callable[[dict[str, Any]], object] | None = None,
                 false_sidecar: dict[str, Any] | None = None, rolls: int = 0, version: int = 2) -> None:
        self.footage, self.rolls, self.rollovers, self.answers = folder / "footage", rolls, list[bytes](), dict[str, bytes]()
        self.footage.mkdir()
        self.hole, self.online, self.late, self.version = hole, online, late, version
        read = {"state": "unsynced", "source": "kernel", "max_error_us": 16_000_000, "offset_us": 0}
        self.clock: dict[str, Any] = {"clock": read} if version > 1 else {}
        self.authority = authority
        self.segments, self.false_open, self.false_sidecar = segments, false_open, false_sidecar
        self.device = authority.signer("device", DEVICE, end=device_until)
        self.platform = authority.signer("platform", "province")
        certificate = x509.load_pem_x509_certificates(self.device.chain_pem.encode())[0]
        self.room = RoomFacts(
            site="KD01", room_code=ROOM, device_id=DEVICE, cert_sha256=keys.fingerprint(certificate), sw_version="0.1.0",
            sw_sha256="1" * 64, config_sha256="2" * 64, boot_id=OPENED.boot_id, hmac_key_id="room-000000-KD01-R01", require_sync=False)
        self.journal: list[e.Recorded] = []
        self.manifests: dict[int, bytes] = {}
        self.receipts: dict[int, bytes] = {}
        self.open_receipt: bytes | None = None
        self._platform_seq = 0
        self._before()
        self._during()
        self._after()

    @property
    def rows(self) -> list[e.Recorded]:
        return [row for row in self.journal if row.event.session == SESSION]

    def add(self, event: e.Event) -> e.Recorded:
        prev = self.journal[-1].hash if self.journal else chain.GENESIS
        self.journal.append(chain.follow(len(self.journal) + 1, event, prev))
        return self.journal[-1]

    def fact(self, kind: type[e.Event], at_s: int, **fields: Any) -> e.Recorded:
        return self.add(kind(at=OPENED.plus(at_s * US), session=SESSION, **fields))

    def _before(self) -> None:
        self.add(e.DaemonStarted(at=OPENED.plus(-900 * US), version="0.1.0", sw_sha256="1" * 64, config_sha256="2" * 64, device_id=DEVICE,
                                 cert_sha256=self.room.cert_sha256))
        self.fact(e.SessionPlanned, -800, plan_id="P20261126-0007", session_kind="exam_theory", title="特种作业安全技术理论考试(低压电工)",
                  scheduled_start_us=OPENED.utc_us + 60 * US, duration_min=120, min_proctors=2, late_cutoff_min=30, checkin_open_min=30,
                  staff={"T001": "chief", "T002": "proctor", "T003": "proctor"}, retention_policy="RP-SPECIAL-6Y", plan_sha256="3" * 64,
                  source="platform")
        self.fact(e.RosterAccepted, -799, version=3, count=4, roster_sha256="4" * 64, source="platform")
        self.fact(e.PreflightBegun, -300, by="T001")
        for staff, role in (("T001", "chief"), ("T002", "proctor")):
            self.fact(e.StaffPresent, -290, staff_id=staff, role=role)
        self.fact(e.ExitsChecked, -280, by="T002")
        self.fact(e.WaiverGranted, -270, item="clock", reason="样例甲 000000199001010018 说校时服务器停机", by="T001", second="T002")
        self.fact(e.CheckinOpened, 0, by="T001", session_seq=7, streams=STREAMS, readings={"roster": "green", "clock": "amber"},
                  clock_state="unsynced", **self.clock, **({"hw_counter": 19} if self.version > 1 else {}))
        document = manifest.session_open(self.rows, self.room)
        if self.false_open:
            self.false_open(document)
        self.open = envelope.seal(envelope.SESSION_OPEN, document, self.device)
        self.open_digest = chain.sha256_hex(chain.canonical(document))
        self.fact(e.OpenSigned, 1, digest=self.open_digest)
        if self.online:
            self.open_receipt = self.answer("session-open", self.open_digest, 2)
            self.fact(e.ReceiptVerified, 2, answers="session-open", digest=self.open_digest, receipt_sha256=self.digest(self.open_receipt),
                      verdict="accepted", platform_seq=self._platform_seq, received_utc_us=OPENED.utc_us + 2 * US)

    def _during(self) -> None:
        self.fact(e.CandidateAdmitted, 10, candidate_id="C0001", subject=SUBJECT, method="id_card", seat="01")
        self.add(e.ReaderLost(at=OPENED.plus(15 * US), reason="gone"))
        self.fact(e.CandidateAdmitted, 20, candidate_id="C0002", subject="cd" * 32, method="id_card")
        self.fact(e.AdmissionRefused, 25, code="E-NOT-ON-ROSTER", subject="ef" * 32)
        self.fact(e.AdmissionRefused, 26, code="E-CARD-EXPIRED", candidate_id="C0003", subject="0f" * 32)
        self.fact(e.ExamStarted, 60, by="T001", age_ms={"cam-front": 400, "mic": 300})
        if self.version > 1:
            self.fact(e.IncidentReported, 62, number=1, code="V1-03", by="T002", detail="样例甲 交头接耳", candidate_id="C0001",
                      happened_utc_us=OPENED.utc_us + 61 * US)
            self.fact(e.StreamLost, 65, stream="mic", reason="no-answer")
            self.fact(e.StreamBack, 66, stream="mic")
            self.fact(e.IncidentReported, 67, number=2, code="M-03", by="T002", detail="窗外施工", happened_utc_us=OPENED.utc_us + 67 * US)
            self.fact(e.ClockRead, 120, **self.clock)
            self.fact(e.IncidentSettled, 130, number=1, outcome="confirmed", by="T002", second="T001", informed="refused")
        self.fact(e.StreamImpaired, 70, stream="cam-front", rule="covered", rules="1.0", since_utc_us=OPENED.utc_us, evidence="a.jpg",
                  evidence_sha256="5" * 64)
        self.fact(e.PlaybackProbed, 75, stream="mic", day="2026-11-25", ok=False, windows=3, reason="digest")
        self.fact(e.StreamRestored, 80, stream="cam-front", rule="covered")
        for index in range(self.segments):
            for stream in STREAMS:
                if not (self.late and stream == "cam-front" and index == 2):
                    self.segment(stream, index)
        self.fact(e.ExamEnded, 230, by="T001", outcome="completed", reason="提前交卷")
        self.fact(e.SealOrdered, 240, by="T001", second="T002", statement="seal.statement.v1", absent=("C0004",), **self.clock)

    def segment(self, stream: str, index: int) -> e.Recorded:
        start = OPENED.plus(index * SEGMENT_US - 30 * US)
        if self.hole and stream == "cam-front" and index == 3:
            start = start.plus(10 * US)
        end = OPENED.plus((index + 1) * SEGMENT_US - 30 * US)
        lost = self.hole is not None and stream == "cam-front" and index == 2
        data = hashlib.sha256(f"{stream} {index}".encode()).digest() * 100
        path = self.footage / stream / f"{index + 40:010d}-20261126T060000Z.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        sidecar = Sidecar(
            stream=stream, seq=index + 40, run=f"{index:032x}", start=start, end=end, dur_us=end.us_since(start), frame_us=40_000,
            frames=1500, dropped=0, bytes=len(data), sha256=chain.sha256_hex(data), header_bytes=200,
            fragments=(Fragment(200, len(data) - 200, US, end.us_since(start), True),), media_start_us=US, codec="h264+aac",
            tracks={"video": {"codec": "h264"}}, clock_state="unsynced", end_reason="camera-lost" if lost else "rotated", recovered=False,
            audio_peak_cdb=-2310, silent_ms=0)
        false = self.false_sidecar if stream == "cam-front" and index == 2 else None
        described = to_json(dataclasses.replace(sidecar, **(false or {})))
        path.with_suffix(".json").write_bytes(described)
        return self.fact(
            e.SegmentStored, max(61, (index + 1) * 60 - 29), stream=stream, seq=sidecar.seq, path=path.relative_to(self.footage).as_posix(),
            run=sidecar.run, start_utc_us=start.utc_us, end_utc_us=end.utc_us, start_boot_us=start.boot_us, end_boot_us=end.boot_us,
            boot_id=start.boot_id, dur_us=sidecar.dur_us, frame_us=sidecar.frame_us, bytes=sidecar.bytes, sha256=sidecar.sha256,
            sidecar_sha256=chain.sha256_hex(described), codec=sidecar.codec, end_reason=sidecar.end_reason, recovered=False,
            clock_state="unsynced", audio_peak_cdb=-2310, silent_ms=0)

    def _after(self) -> None:
        self._declare(1)
        self.fact(e.Sealed, 250, revision=1, opened_total=7, closed_total=7, keep_until="2033-05-25", retention_policy="RP-SPECIAL-6Y",
                  retention_basis="特种作业档案", open_receipt=self.digest(self.open_receipt) if self.open_receipt else None,
                  prev_manifest="5" * 64, prev_receipt="6" * 64, **self.clock,
                  **({"manifest_version": self.version} if self.version > 1 else {}))
        self.sign(1, 251)
        for _ in range(self.rolls):
            self.roll()
        if self.late:
            self.segment("cam-front", 2)
            self._declare(2)
            first = self.digest(self.manifests[1])
            self.fact(e.SessionAmended, 400, revision=2, reason="recovered", amends=first, prev_manifest=first,
                      open_receipt=self.digest(self.open_receipt) if self.open_receipt else None,
                      prev_receipt=self.digest(self.receipts[1]) if 1 in self.receipts else None)
            self.sign(2, 401)

    def roll(self) -> None:
        old, before = self.device, self.room
        self.device = self.authority.signer("device", DEVICE)
        certificate = x509.load_pem_x509_certificates(self.device.chain_pem.encode())[0]
        self.room = dataclasses.replace(before, cert_sha256=keys.fingerprint(certificate))
        document = rollover(before, self.device.chain_pem, 8, OPENED.plus(300 * US), (len(self.journal), self.journal[-1].hash), None)
        self.rollovers.append(envelope.seal(envelope.KEY_ROLLOVER, document, old))
        digest = chain.sha256_hex(chain.canonical(document))
        if self.online and len(self.rollovers) == 1:
            self.answers[digest] = self.answer("key-rollover", digest, 301)

    def _declare(self, revision: int) -> None:
        stored = [row.event for row in self.rows if isinstance(row.event, e.SegmentStored)]
        gaps = [] if self.hole == "undeclared" else manifest.find_gaps(stored, STREAMS, OPENED, OPENED.plus(240 * US))
        for gap in gaps:
            self.fact(e.GapDeclared, 249, stream=gap.stream, revision=revision, from_utc_us=gap.from_utc_us, to_utc_us=gap.to_utc_us,
                      dur_us=gap.dur_us, reason=gap.reason)

    def sign(self, revision: int, at_s: int) -> None:
        document = manifest.manifest(self.rows, self.room, revision)
        self.manifests[revision] = envelope.seal(envelope.SESSION_MANIFEST, document, self.device)
        digest = chain.sha256_hex(chain.canonical(document))
        self.fact(e.ManifestSigned, at_s, revision=revision, digest=digest)
        if self.online:
            receipt = self.receipts[revision] = self.answer("session-manifest", digest, at_s + 1, revision=revision)
            self.fact(e.ReceiptVerified, at_s + 1, answers="session-manifest", digest=digest, receipt_sha256=self.digest(receipt),
                      verdict="accepted", platform_seq=self._platform_seq, received_utc_us=OPENED.utc_us + (at_s + 1) * US,
                      revision=revision)

    def answer(self, kind: str, digest: str, at_s: int, signer: FileSigner | None = None, **changed: Any) -> bytes:
        self._platform_seq += 1
        receipt = {
            "type": "exam-platform-receipt/v1", "receipt_id": f"Q{self._platform_seq:06d}", "kind": kind, "digest": digest,
            "device": DEVICE, "room_code": ROOM, "session_id": SESSION, "session_seq": 7, "verdict": "accepted", "reasons": [],
            "platform_seq": self._platform_seq, "received_utc": iso_utc(OPENED.utc_us + at_s * US), **changed}
        return envelope.seal(envelope.RECEIPT, receipt, signer or self.platform)

    @staticmethod
    def digest(data: bytes) -> str:
        """Of the payload of an envelope that we made ourselves."""
        return hashlib.sha256(base64.b64decode(json.loads(data)["payload"])).hexdigest()

    @staticmethod
    def payload(data: bytes) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(base64.b64decode(json.loads(data)["payload"]))
        return document

    def export(self, folder: Path) -> Path:
        missing = bundle.write_bundle(folder, bundle.Contents(
            manifests=self.manifests, receipts=self.receipts, session_open=self.open, open_receipt=self.open_receipt,
            root_pem=self.authority.root_pem, rows=self.rows,
            rollovers=bundle.handed_over(self.open, self.manifests, self.rollovers, self.answers)), self.footage)
        assert missing == []
        return folder

    def resign(self, folder: Path, change: Callable[[dict[str, Any]], object], revision: int = 1) -> None:
        """What a thief of the device key would do: change the manifest, sign it anew, and drop the receipt that no longer fits."""
        path = folder / f"manifest-{revision}.dsse.json"
        document = self.payload(path.read_bytes())
        change(document)
        path.write_bytes(envelope.seal(envelope.SESSION_MANIFEST, document, self.device))
        (folder / f"receipt-{revision}.dsse.json").unlink(missing_ok=True)


@pytest.fixture
def make_exam(tmp_path: Path, authority: TestAuthority) -> Callable[..., Exam]:
    def make(**options: Any) -> Exam:
        folder = tmp_path / f"exam-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        return Exam(folder, **{"authority": authority, **options})
    return make
