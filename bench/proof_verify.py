"""`edge verify` of an exported session against `sha256sum` over the very files: how many bytes a second, start-up included.

The session is made here: three streams, segments of 8 MB (one minute at about 1 Mbit/s), signed and answered like any other. Both
programs read every media file and sidecar; ours checks signatures, journal and timeline besides. Interleaved, once with the files in
memory (the processor decides) and once after the kernel was asked to forget them (the disk decides); medians. `zip`: the same session as
one ZIP, against the same `sha256sum`. Called by `bench/proof.py`.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.rig import HOUSE, Unfit
from edge.capture.sidecar import Fragment, Sidecar, to_json
from edge.clock import US, Stamp, SystemClock, iso_utc
from edge.evidence import bundle, chain, envelope, manifest
from edge.evidence.envelope import FileSigner
from edge.evidence.keys import fingerprint, init_device_key, read_certificates
from edge.evidence.manifest import RoomFacts
from edge.exported.zip64 import Archive, Member
from edge.sessions import events as e
from edge.sim.authority import Authority

SESSION, ROOM, DEVICE = "S20261126-KD01-R01-01", "000000-KD01-R01", "KD01-R01-bench"
STREAMS = {"cam-back": "rtsp", "cam-front": "rtsp", "mic": "microphone"}
SEGMENT_US = 60 * US


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--verify-mb", type=int, default=1536, help="size of the session that is verified (default 1536 MB)")
    parser.add_argument("--verify-segment-mb", type=int, default=8, help="size of one segment (default 8 MB)")
    parser.add_argument("--verify-rounds", type=int, default=5, help="rounds of each, interleaved (default 5)")


def measure(args: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Bytes a second of both, in memory and from the disk."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    if free < 4 * args.verify_mb << 20:
        raise Unfit(f"{args.verify_mb} MB three times do not fit: {free >> 20} MB are free. Set TMPDIR or --verify-mb")
    say(f"making a session of {args.verify_mb} MB")
    bench = Session(folder, max(1, args.verify_mb // (len(STREAMS) * args.verify_segment_mb)), args.verify_segment_mb << 20)
    ours = [sys.executable, "-m", "edge", "verify", str(bench.export), "--root", str(bench.root), "--json"]
    theirs = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    zipped = [each.replace(str(bench.export), str(bench.zip)) for each in ours]
    took: dict[str, list[float]] = {name: [] for name in ("warm", "warm_zip", "warm_peer", "cold", "cold_zip", "cold_peer")}
    for number in range(args.verify_rounds):
        for state in ("warm", "cold"):
            for name, command in ((state, ours), (f"{state}_zip", zipped), (f"{state}_peer", theirs)):
                (bench.forget if state == "cold" else bench.remember)()
                took[name].append(_seconds(command, bench.export))
        say(f"round {number + 1}: " + ", ".join(f"{name} {times[-1]:.2f} s" for name, times in took.items()))
    speed = {name: bench.bytes / statistics.median(times) / 1e6 for name, times in took.items()}
    warm, cold, warm_zip, cold_zip = (statistics.median(p / o for o, p in zip(took[s], took[f"{s.removesuffix('_zip')}_peer"], strict=True))
                                      for s in ("warm", "cold", "warm_zip", "cold_zip"))
    return {"figures": {"verify_mb_s": round(speed["warm"], 1), "verify_cold_mb_s": round(speed["cold"], 1),
                        "verify_zip_mb_s": round(speed["warm_zip"], 1), "verify_zip_cold_mb_s": round(speed["cold_zip"], 1)},
            "peer": {"sha256sum_mb_s": round(speed["warm_peer"], 1), "sha256sum_cold_mb_s": round(speed["cold_peer"], 1)},
            "ratio": {"verify_vs_sha256sum": round(min(warm, cold), 3), "verify_vs_sha256sum_warm": round(warm, 3),
                      "verify_vs_sha256sum_cold": round(cold, 3), "verify_zip_vs_sha256sum": round(min(warm_zip, cold_zip), 3)}}


def _seconds(command: Sequence[str], folder: Path) -> float:
    began = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HOUSE)})
    took = time.monotonic() - began
    if done.returncode or (done.stdout and json.loads(done.stdout)["verdict"] != "PASS"):
        raise Unfit(f"{command[0]} did not pass a session that is whole: {(done.stdout + done.stderr)[-300:]}")
    return took


class Session:
    """One sealed session on the disk, exported: `export` the folder, `root` the certificate, `bytes` of media and sidecars."""

    def __init__(self, folder: Path, minutes: int, segment_bytes: int) -> None:
        self.export, self.root, self._footage = folder / "export", folder / "root.pem", folder / "footage"
        authority = Authority.create(folder / "authority")
        self.root.write_bytes(authority.root_pem)
        state = folder / "state"
        (folder / "device.pem").write_bytes(authority.issue_device(init_device_key(state, DEVICE)))
        self._device = FileSigner(state / "device.key", folder / "device.pem")
        leaf = read_certificates(self._device.chain_pem.encode())[0]
        self._room = RoomFacts(site="KD01", room_code=ROOM, device_id=DEVICE, cert_sha256=fingerprint(leaf), sw_version="bench",
                               sw_sha256="1" * 64, config_sha256="2" * 64, boot_id="bench", hmac_key_id="room-bench", require_sync=False)
        self._rows: list[e.Recorded] = []
        self._start = Stamp(SystemClock().now().utc_us // US * US, 1000 * US, "bench")
        self._write(authority, minutes, segment_bytes)
        self.files = sorted(path for path in (self.export / "segments").rglob("*") if path.is_file())
        self.bytes = sum(path.stat().st_size for path in self.files)
        self.zip = folder / "export.zip"
        names = sorted(path for path in self.export.rglob("*") if path.is_file())
        members = (Member(path.relative_to(self.export).as_posix(), path.stat().st_size, "", path=path) for path in names)
        with self.zip.open("wb") as file:
            file.writelines(Archive(list(members), self._start.utc_us).read())

    def remember(self) -> None:
        """Have the kernel hold every file in memory."""
        for path in (*self.files, self.zip):
            with path.open("rb") as file:
                while file.read(1 << 20):
                    pass

    def forget(self) -> None:
        """Ask the kernel to drop every file."""
        for path in (*self.files, self.zip):
            handle = os.open(path, os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)

    def _fact(self, kind: type[e.Event], at_s: float, **fields: Any) -> None:
        at = self._start.plus(round(at_s * US))
        prev = self._rows[-1].hash if self._rows else chain.GENESIS
        self._rows.append(chain.follow(len(self._rows) + 1, kind(at=at, session=SESSION, **fields), prev))

    def _write(self, authority: Authority, minutes: int, segment_bytes: int) -> None:
        """The session's life in facts and files: as long as it has facts."""
        end = minutes * 60
        self._fact(e.SessionPlanned, -60, plan_id="P1", session_kind="exam_theory", title="bench", scheduled_start_us=self._start.utc_us,
                   duration_min=minutes, min_proctors=2, late_cutoff_min=30, checkin_open_min=30, staff={"T001": "chief"},
                   retention_policy="RP-GENERAL-3Y", plan_sha256="3" * 64, source="platform")
        self._fact(e.RosterAccepted, -59, version=1, count=0, roster_sha256="4" * 64, source="platform")
        self._fact(e.PreflightBegun, -50, by="T001")
        self._fact(e.CheckinOpened, 0, by="T001", session_seq=1, streams=STREAMS, readings={}, clock_state="synced")
        opening = manifest.session_open(self._rows, self._room)
        digest = chain.sha256_hex(chain.canonical(opening))
        self._fact(e.OpenSigned, 0.1, digest=digest)
        open_receipt = self._answer(authority, "session-open", digest, 1)
        noise = os.urandom(1 << 20)
        for minute in range(minutes):
            for stream in STREAMS:
                self._segment(stream, minute, segment_bytes, noise)
        self._fact(e.ExamEnded, end - 2, by="T001", outcome="completed")
        self._fact(e.SealOrdered, end - 1, by="T001", second="T002", statement="seal.statement.v1", absent=())
        self._fact(e.Sealed, end, revision=1, opened_total=1, closed_total=1, keep_until="2030-01-01", retention_policy="RP-GENERAL-3Y",
                   retention_basis="bench", open_receipt=_digest(open_receipt))
        document = manifest.manifest(self._rows, self._room, 1)
        digest = chain.sha256_hex(chain.canonical(document))
        receipt = self._answer(authority, "session-manifest", digest, 2, revision=1)
        contents = bundle.Contents(
            manifests={1: envelope.seal(envelope.SESSION_MANIFEST, document, self._device)}, receipts={1: receipt}, rows=self._rows,
            session_open=envelope.seal(envelope.SESSION_OPEN, opening, self._device), open_receipt=open_receipt,
            root_pem=authority.root_pem)
        if bundle.write_bundle(self.export, contents, self._footage, linked=True):
            raise Unfit("the session that was made is not whole")

    def _segment(self, stream: str, minute: int, size: int, noise: bytes) -> None:
        path = self._footage / stream / f"{minute:010d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = (f"{stream} {minute} ".encode() + noise) * (size // len(noise) + 1)
        path.write_bytes(data[:size])
        start = self._start.plus(minute * SEGMENT_US)
        times = {"clock_state": "synced", "end_reason": "rotated", "recovered": False, "dur_us": SEGMENT_US, "frame_us": 40_000}
        same: dict[str, Any] = {"stream": stream, "seq": minute, "run": "0" * 32, "bytes": size, "sha256": chain.sha256_hex(data[:size]),
                                "codec": "h264+aac", **times}
        fragments = tuple(Fragment(200 + n * 1000, 1000, n * US // 2, US // 2, n % 2 == 0) for n in range(120))
        described = to_json(Sidecar(start=start, end=start.plus(SEGMENT_US), frames=1500, dropped=0, header_bytes=200, fragments=fragments,
                                    media_start_us=0, tracks={"video": {"codec": "h264"}}, **same))
        path.with_suffix(".json").write_bytes(described)
        self._fact(e.SegmentStored, (minute + 1) * 60 - 3, path=path.relative_to(self._footage).as_posix(), start_utc_us=start.utc_us,
                   end_utc_us=start.utc_us + SEGMENT_US, start_boot_us=start.boot_us, end_boot_us=start.boot_us + SEGMENT_US,
                   boot_id=start.boot_id, sidecar_sha256=chain.sha256_hex(described), **same)

    def _answer(self, authority: Authority, kind: str, digest: str, number: int, **more: int) -> bytes:
        return envelope.seal(envelope.RECEIPT, {
            "type": "exam-platform-receipt/v1", "receipt_id": f"R{number}", "kind": kind, "digest": digest, "device": DEVICE,
            "room_code": ROOM, "session_id": SESSION, "session_seq": 1, "verdict": "accepted", "reasons": [], "platform_seq": number,
            "received_utc": iso_utc(SystemClock().now().utc_us), **more}, authority.platform)


def _digest(sealed: bytes) -> str:
    return hashlib.sha256(base64.b64decode(json.loads(sealed)["payload"])).hexdigest()
