"""What a check found, and how it is told: the report of one folder, one history, one store.

`Findings` collects while the checks run; `Report` is what remains. The verdict is one of three. A finding is a text that names the thing
and a word that `words` explains to people who know neither hashes nor certificates. Used by `bundle`, `history` and the check of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edge.clock import parse_utc
from edge.evidence import envelope
from edge.evidence.envelope import EnvelopeError, Opened
from edge.evidence.fault import Fault
from edge.evidence.keys import Role, fingerprint, read_certificates
from edge.evidence.revocation import NONE, Revocations

Verdict = Literal["PASS", "PASS WITH DECLARED GAPS", "FAIL"]


@dataclass(frozen=True, slots=True)
class Report:
    """The verdict and its grounds. `first`: the first thing that is wrong, empty if nothing is. `lines`: all that was found, in order.

    `findings`: what is wrong, each with its word. `had_receipts`: the newest manifest is answered by the platform. Without that the most
    that can be said is "complete at most up to the last manifest shown". `root_sha256`: fingerprint of the root that was trusted, to be
    compared with the one the authority has published. `sessions`: how many of them were judged; of one, `session` to `gaps` speak.
    """

    verdict: Verdict
    first: str
    lines: tuple[str, ...]
    had_receipts: bool = False
    root_sha256: str = ""
    session: str = ""
    revision: int = 0
    manifest_sha256: str = ""
    segments: int = 0
    gaps: int = 0
    findings: tuple[Fault, ...] = ()
    sessions: int = 1
    scope: Literal["session", "history", "store"] = "session"

    def as_json(self) -> dict[str, Any]:
        """For programs: every field, findings as {word, text}. Keys are only ever added."""
        return {
            "verdict": self.verdict, "first": self.first, "scope": self.scope, "session": self.session, "sessions": self.sessions,
            "revision": self.revision, "manifest_sha256": self.manifest_sha256, "root_sha256": self.root_sha256,
            "had_receipts": self.had_receipts, "segments": self.segments, "gaps": self.gaps,
            "findings": [{"word": each.word, "text": str(each)} for each in self.findings], "lines": list(self.lines)}


@dataclass(frozen=True, slots=True)
class Second:
    """What a second signature in SM2 is judged by: the authority's SM2 root (PEM) and the id that it has assigned to this device."""

    root_pem: bytes
    distid: str


@dataclass(slots=True)
class Findings:
    """Notes and faults in the order in which they are found. `root`: PEM of the root that is trusted; `second`: None: SM2 is not asked."""

    root: bytes
    revocations: Revocations = NONE
    second: Second | None = None
    lines: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    @property
    def first(self) -> str:
        return str(self.faults[0]) if self.faults else ""

    def note(self, text: str) -> None:
        self.lines.append(text)

    def wrong(self, text: str, word: str = "") -> None:
        """`word` is needed unless `text` is a Fault already."""
        fault = Fault(word or (text.word if isinstance(text, Fault) else "other"), text)
        self.faults.append(fault)
        self.lines.append(f"WRONG: {fault}")

    def trust(self, root_pem: bytes | None, own: Callable[[], bytes] | None) -> str:
        """Take `root_pem`, else the certificate that `own` reads; the fingerprint, or empty after saying that there is none."""
        try:
            self.root = own() if root_pem is None and own is not None else root_pem or b""
            sha256 = fingerprint(read_certificates(self.root)[0])
        except (OSError, ValueError) as error:
            self.wrong(f"there is no root certificate that could be trusted: {error}", "root")
            return ""
        if root_pem is None:
            self.note(f"trusted: the root.pem of this very folder. Compare its SHA-256 with the one the authority has published: {sha256}")
        else:
            self.note(f"trusted: the root certificate that was given, SHA-256 {sha256}")
        return sha256

    def open(self, name: str, data: bytes, payload_type: str, role: Role, moment: str, at_utc_us: int | None = None) -> Opened | None:
        """The document of an envelope, or None after saying why not.

        Judged at `at_utc_us` (when the platform had it), else at the document's own `moment`; a revoked signer is believed only before
        the revocation, and of that only a receipt's moment is proof.
        """
        try:
            at = at_utc_us
            if at is None:
                at = parse_utc(str(envelope.read_envelope(data, self.root, payload_type, role, None).payload.get(moment)))
            opened = envelope.read_envelope(data, self.root, payload_type, role, at)
            proven = at if at_utc_us is not None or role == "platform" else None
            self.revocations.judge(opened, proven)
            if self.second is not None and role == "device":
                self._judge_second(name, data, payload_type, at)
            return opened
        except EnvelopeError as error:
            self.wrong(f"{name}: {error}", _WORDS.get(error.word, "signature"))
        except (ValueError, OverflowError) as error:
            self.wrong(f"{name}: {error}", "signature")
        return None

    def _judge_second(self, name: str, data: bytes, payload_type: str, at: int) -> None:
        """The SM2 signature beside the first: absent or not checkable here is a note, anything but good is wrong."""
        from edge.evidence import sm2  # it runs `openssl`, and only where somebody asks
        said = sm2.second_signature(data, payload_type, self.second.root_pem, self.second.distid, at) if self.second else None
        if said is not None and (said.good or said.word in ("sm2-absent", "sm2-unchecked")):
            self.note(f"{name}: {said.word}: {said.text}")
        elif said is not None:
            self.wrong(f"{name}: {said.word}: {said.text}", "sm2")

    def verdict(self, gaps: int) -> Verdict:
        return "FAIL" if self.faults else "PASS WITH DECLARED GAPS" if gaps else "PASS"


_WORDS: Mapping[str, str] = {
    "json": "unreadable-document", "type": "other-document", "base64": "unreadable-document", "certificate": "certificate", "role": "role",
    "chain": "certificate", "signature": "signature", "payload": "unreadable-document", "missing": "missing-document",
    "revoked": "revoked",
}
"""Of an EnvelopeError's word, the word for people."""
