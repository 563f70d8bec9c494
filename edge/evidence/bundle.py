"""An exported session: what lies where in the folder, how it is written, and whether it proves what it says.

    manifest-<revision>.dsse.json     every revision, signed by the device      receipt-<revision>.dsse.json   the platform's answer, if any
    session-open.dsse.json            signed by the device                      receipt-open.dsse.json         the platform's answer, if any
    rollover-<n>.dsse.json            where keys changed: the old one's word    receipt-rollover-<n>.dsse.json the platform's answer, if any
    segments/<stream>/<n>-<sha>.mp4   and the sidecar beside it (.json)         journal.jsonl                  the session's facts, chained
    root.pem  VERIFY.md  SHA256SUMS   for whoever checks with openssl, jq and sha256sum

`verify` needs nothing but the folder and, better, a root certificate that came another way. It never raises for what the folder holds: a
folder is good, good with declared gaps, or it fails with the first thing that is wrong. Called by `edge export`, `edge verify` and the
auditor's page.
"""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from edge import durable
from edge.clock import parse_utc
from edge.evidence import anchors, checks, documents, envelope, files, handover
from edge.evidence.chain import parse, sha256_hex, to_line
from edge.evidence.documents import Rollover
from edge.evidence.envelope import Opened
from edge.evidence.fault import Fault
from edge.evidence.files import Place, Progress
from edge.evidence.handover import Signature
from edge.evidence.keys import Role
from edge.evidence.manifest import ABSENT
from edge.evidence.report import Findings, Second
from edge.evidence.report import Report as Report  # what `verify` gives: callers know it from here
from edge.evidence.revocation import NONE, Revocations
from edge.evidence.shown import Folder, Shown
from edge.sessions.events import Recorded, SegmentStored

OPEN_NAME, OPEN_RECEIPT_NAME = "session-open.dsse.json", "receipt-open.dsse.json"
ROOT_NAME, JOURNAL_NAME, SUMS_NAME, GUIDE_NAME = "root.pem", "journal.jsonl", "SHA256SUMS", "VERIFY.md"
GUIDE = Path(__file__).with_name(GUIDE_NAME)
_ROLLOVER_NAME = re.compile(r"(receipt-)?rollover-[1-9][0-9]{0,5}\.dsse\.json")
FOOTAGE = frozenset({"segments"})
_MANIFEST_NAME = re.compile(r"manifest-([1-9][0-9]{0,5})\.dsse\.json")
_SKEW_US = 300_000_000
"""A device's clock this far ahead of the platform's is worth a line."""


def manifest_name(revision: int) -> str:
    return f"manifest-{revision}.dsse.json"


def receipt_name(revision: int) -> str:
    return f"receipt-{revision}.dsse.json"


def handed_over(session_open: bytes, manifests: Mapping[int, bytes], rollovers: Sequence[bytes],
                answers: Mapping[str, bytes]) -> dict[str, bytes]:
    """Of a device's key-rollovers (in the order of the journal) those that lead to the keys that signed these documents, by the names
    that they have in a bundle, each with its receipt if it is among `answers` (digest of what is answered -> envelope)."""
    found: dict[str, bytes] = {}
    for number, each in enumerate(handover.leading_to([session_open, *manifests.values()], rollovers), 1):
        found[f"rollover-{number}.dsse.json"] = each
        if (answer := answers.get(sha256_hex(envelope.payload_of(each)))) is not None:
            found[f"receipt-rollover-{number}.dsse.json"] = answer
    return found


# ---- write ------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What an export is made of: envelopes as they were stored or received (manifests and receipts by revision; key-rollovers and their
    receipts by name, `handed_over`), and the session's rows."""

    manifests: Mapping[int, bytes]
    receipts: Mapping[int, bytes]
    session_open: bytes
    open_receipt: bytes | None
    root_pem: bytes
    rows: Sequence[Recorded]
    rollovers: Mapping[str, bytes] = field(default_factory=dict)


def write_bundle(folder: Path, contents: Contents, footage: Path, progress: Callable[[int, int], None] | None = None,
                 *, linked: bool = False) -> list[str]:
    """Write the session into `folder` (new or empty) and return the paths of segments whose files are not in `footage` any more.

    `progress(done, total)` in bytes of media. FileExistsError if the folder holds anything; OSError as the disk gives it (a full stick):
    what is there by then is incomplete, and `verify` says so. Nothing in `footage` is changed. `linked`: media as hard links, no second
    copy (for a look on the same disk; whoever writes into them writes into the footage).
    """
    durable.make_folder(folder, 0o755)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; nothing was written. Name a new folder.")
    newest: dict[str, Any] = parse(base64.b64decode(parse(contents.manifests[max(contents.manifests)])["payload"]))
    paths = {row.seq: row.event.path for row in contents.rows if isinstance(row.event, SegmentStored)}
    for name, data in _small_files(contents, newest).items():
        _put(folder / name, io.BytesIO(data))
    missing, done, total = [], 0, sum(entry["bytes"] for entry in newest["segments"])
    for entry in newest["segments"]:
        source = footage / paths[entry["journal_seq"]]
        durable.make_folder((folder / entry["path"]).parent, 0o755)
        for suffix in (".mp4", ".json"):
            target = (folder / entry["path"]).with_suffix(suffix)
            try:
                if linked:
                    target.hardlink_to(source.with_suffix(suffix))
                    continue
                with source.with_suffix(suffix).open("rb") as read:
                    _put(target, read)
            except FileNotFoundError:
                missing.append(target.relative_to(folder).as_posix())
        done += entry["bytes"]
        if progress:
            progress(done, total)
    return missing


def write_documents(folder: Path, contents: Contents) -> None:
    """Everything of a bundle but the media, into a folder that is there: for a session whose media lie elsewhere (`verify(place=…)`)."""
    newest: dict[str, Any] = parse(base64.b64decode(parse(contents.manifests[max(contents.manifests)])["payload"]))
    for name, data in _small_files(contents, newest).items():
        _put(folder / name, io.BytesIO(data))


def _small_files(contents: Contents, newest: dict[str, Any]) -> dict[str, bytes]:
    """Everything of a bundle but the media, by name."""
    return {
        **{manifest_name(revision): data for revision, data in contents.manifests.items()},
        **{receipt_name(revision): data for revision, data in contents.receipts.items()}, **contents.rollovers,
        OPEN_NAME: contents.session_open, ROOT_NAME: contents.root_pem, GUIDE_NAME: GUIDE.read_bytes(),
        JOURNAL_NAME: b"".join(to_line(row) + b"\n" for row in contents.rows),
        SUMS_NAME: checks.sums(newest),
        **({OPEN_RECEIPT_NAME: contents.open_receipt} if contents.open_receipt is not None else {}),
    }


def newest(contents: Contents) -> dict[str, Any]:
    """The newest manifest's document."""
    document: dict[str, Any] = parse(base64.b64decode(parse(contents.manifests[max(contents.manifests)])["payload"]))
    return document


def small_files(contents: Contents) -> dict[str, bytes]:
    """Everything of a bundle but the media, by name: for whoever writes it in another way than `write_bundle`."""
    return _small_files(contents, newest(contents))


def _put(path: Path, source: BinaryIO) -> None:
    # plain creates, because sticks have no hard links; buffered, because a raw file may take less than it is given
    with durable.create(path, 0o644) as raw, io.BufferedWriter(raw, durable.CHUNK_BYTES) as file:
        shutil.copyfileobj(source, file, durable.CHUNK_BYTES)
        file.flush()
        os.fsync(file.fileno())


# ---- verify -----------------------------------------------------------------------------------------------------------

class _Folder(Findings):
    """Findings about the documents of one folder."""

    __slots__ = ("names", "shown")

    def __init__(self, shown: Shown, revocations: Revocations, second: Second | None) -> None:
        super().__init__(b"", revocations, second)
        self.shown = shown
        self.names = frozenset(name for name in shown.names(without=FOOTAGE) if "/" not in name)

    def load(self, name: str) -> bytes:
        """FileNotFoundError, OSError, ValueError."""
        return self.shown.read(name, envelope.MAX_BYTES)

    def read(self, name: str, payload_type: str, role: Role, moment: str, at_utc_us: int | None = None) -> Opened | None:
        """The document of the envelope `name`, or None after saying why not. Judged at `at_utc_us`, else at the document's own `moment`."""
        try:
            data = self.load(name)
        except FileNotFoundError:
            self.wrong(f"{name}: the file is missing", "missing-document")
        except (OSError, ValueError) as error:
            self.wrong(f"{name}: {error}", "unreadable-document")
        else:
            return self.open(name, data, payload_type, role, moment, at_utc_us)
        return None


def verify(folder: Path | Shown, root_pem: bytes | None = None, progress: Progress | None = None, *, revocations: Revocations = NONE,
           place: Place | None = None, second: Second | None = None, rollovers: Sequence[Rollover] = ()) -> Report:
    """Check an exported session in full. `root_pem`: the root to trust; without it the folder's own, whose fingerprint must then be
    compared with the published one. `progress(done, total)` in bytes of media read. Never raises for what is in the folder.

    `place`: where the media lie if not in the folder (a session judged in the room's own store); then nothing is said of stray files.
    `rollovers`: verified key-rollovers of the device that lie elsewhere.
    """
    shown = Folder(folder) if isinstance(folder, Path) else folder
    found = _Folder(shown, revocations, second)
    for fault in shown.faults:
        found.wrong(fault)
    if shown.faults and not found.names:        # a ZIP of which nothing can be read
        return Report("FAIL", found.first, tuple(found.lines), findings=tuple(found.faults))
    fingerprint_of_root = found.trust(root_pem, partial(found.load, ROOT_NAME))
    revisions = sorted(int(m[1]) for m in map(_MANIFEST_NAME.fullmatch, found.names) if m)
    if not revisions:
        found.wrong(f"{folder} holds no manifest: it is not an exported session, or its manifest was taken away")
    if not fingerprint_of_root or not revisions:
        return Report("FAIL", found.first, tuple(found.lines), root_sha256=fingerprint_of_root, findings=tuple(found.faults))
    if revisions != list(range(1, revisions[-1] + 1)):
        found.wrong(f"revisions are missing: there are manifests {', '.join(map(str, revisions))}", "revision")
    manifests, answered = _manifests(found, revisions)
    if not manifests or revisions[-1] not in manifests:
        return Report("FAIL", found.first, tuple(found.lines), root_sha256=fingerprint_of_root, findings=tuple(found.faults))
    newest = manifests[revisions[-1]]
    document = newest.payload
    opening = _open(found, list(manifests.values()))
    for problem in _problems(found, manifests, opening, rollovers, place or files.below(shown), progress):
        found.wrong(problem)
    if place is None:
        _strays(found, document)
    _by_its_own_word(found, document)
    _claim(found, answered, revisions[-1])
    gaps = len(document["gaps"])
    return Report(found.verdict(gaps), found.first, tuple(found.lines), answered, fingerprint_of_root, document["session"]["id"],
                  revisions[-1], newest.digest, len(document["segments"]), gaps, tuple(found.faults))


def _problems(found: _Folder, manifests: Mapping[int, Opened], opening: Opened | None, rollovers: Sequence[Rollover], place: Place,
              progress: Progress | None) -> Iterator[Fault]:
    """What is wrong with a session whose documents hold one by one."""
    says = {revision: each.payload for revision, each in manifests.items()}
    newest = says[max(says)]
    yield from checks.revisions(list(says.values()), [each.digest for each in manifests.values()])
    yield from _keys(found, manifests, opening, rollovers)
    yield from checks.entries(newest)
    yield from files.segments(checks.own_paths(newest), place, progress)
    yield from checks.timeline(newest)
    yield from anchors.clock(newest)
    yield from anchors.incidents(newest)
    yield from checks.journal(JOURNAL_NAME, partial(found.shown.read, JOURNAL_NAME, checks.JOURNAL_MAX_BYTES), says,
                              opening.payload if opening else None)


def _keys(found: _Folder, manifests: Mapping[int, Opened], opening: Opened | None, elsewhere: Sequence[Rollover]) -> Iterator[Fault]:
    """Opening and revisions are signed by one key, or by one to which a chain of key-rollovers leads."""
    shown = [(name, partial(found.load, name)) for name in sorted(found.names) if _ROLLOVER_NAME.fullmatch(name)]
    handed = [*documents.gather(found, shown).rollovers, *elsewhere]
    for each in sorted({each.digest: each for each in handed if each not in elsewhere}.values(), key=lambda each: each.name):
        found.note(f"{each.name}: certificate {each.cert_sha256[:16]} hands over to {each.new_cert_sha256[:16]} from session number "
                   f"{each.from_seq} on")
    signed = [*([(opening, False)] if opening else []), *((each, revision > 1) for revision, each in sorted(manifests.items()))]
    device, session = next(iter(manifests.values())).name, next(iter(manifests.values())).payload["session"]["id"]
    yield from handover.strangers(device, (
        Signature(session, manifests[min(manifests)].payload["counters"]["session_seq"], documents.key_of(each), each.cert_sha256, amends)
        for each, amends in signed), [each for each in handed if each.device == device])


def _by_its_own_word(found: Findings, document: dict[str, Any]) -> None:
    """What the room itself says is missing, and what was recorded but is not fit to be seen or heard: no fault of the evidence."""
    for gap in document["gaps"]:
        found.note(f"declared gap: {gap['stream']} {gap['from_utc']} – {gap['to_utc']} ({checks.seconds(gap['dur_us'])}), {gap['reason']}")
    for each in document.get("impairments", ()):
        until = f" – {each['until_utc']}" if isinstance(each.get("until_utc"), str) else ", to the end"
        found.note(f"the room's own watcher: {each['stream']} {each['rule']} from {each['since_utc']}{until}")
    for text in anchors.notes(document):
        found.note(text)
    for code, count in sorted(Counter(each["code"] for each in document["incidents"]).items()):
        found.note(f"incidents by the room's own word: {count} × {code}")


def _manifests(found: _Folder, revisions: list[int]) -> tuple[dict[int, Opened], bool]:
    """Every revision that holds, and whether the platform has answered the newest one."""
    manifests: dict[int, Opened] = {}
    answered = False
    for revision in revisions:
        receipt, answered = None, False
        if receipt_name(revision) in found.names:
            receipt = found.read(receipt_name(revision), envelope.RECEIPT, "platform", "received_utc")
        at = parse_utc(receipt.payload["received_utc"]) if receipt else None
        opened = found.read(manifest_name(revision), envelope.SESSION_MANIFEST, "device", "made_utc", at)
        if opened is None:
            continue
        misshapen = checks.shape(opened.payload)
        document = opened.payload
        if misshapen or document["revision"] != revision:
            found.wrong(f"{manifest_name(revision)}: {misshapen or 'it holds another revision'}", "other-document")
            continue
        if (document["device"]["id"], document["device"]["cert_sha256"]) != (opened.name, opened.cert_sha256):
            found.wrong(f"{manifest_name(revision)}: signed by another device than it names", "role")
        found.note(f"manifest revision {revision}: signed by device {opened.name}, id {opened.digest}")
        manifests[revision] = opened
        newest = revision == revisions[-1]
        answered = receipt is not None and _answer(found, receipt_name(revision), receipt, opened, "session-manifest", newest)
    return manifests, answered


def _answer(found: _Folder, name: str, receipt: Opened, answers: Opened, kind: str, newest: bool) -> bool:
    """Whether the receipt answers that document; a rejection of the newest revision is wrong, of an older one a note."""
    says = receipt.payload
    document = answers.payload
    expected = {"kind": kind, "digest": answers.digest, "device": answers.name, "session_id": document["session"]["id"],
                "room_code": document["room"]}
    if kind == "session-manifest":
        expected["revision"] = document["revision"]
    for key, value in expected.items():
        if says.get(key) != value:
            found.wrong(f"{name}: the receipt is for another {'document' if key == 'digest' else key}: {says.get(key)!r}, not {value!r}",
                        "receipt")
            return False
    if says.get("verdict") != "accepted":
        rejected = Fault("rejected", f"{name}: the platform did not accept it: {says.get('reasons')!r}")
        (found.wrong if newest else found.note)(rejected)
        return False
    found.note(f"{name}: accepted by {receipt.name} at {says['received_utc']}, its number {says.get('platform_seq')}")
    made = document.get("made_utc", document.get("opened_utc", ""))
    if parse_utc(made) > parse_utc(says["received_utc"]) + _SKEW_US:
        found.note(f"the device's clock was ahead of the platform's: made {made}, received {says['received_utc']}")
    return True


def _open(found: _Folder, manifests: list[Opened]) -> Opened | None:
    """The session-open, if it and its receipt are those that the manifests name."""
    receipt = None
    if OPEN_RECEIPT_NAME in found.names:
        receipt = found.read(OPEN_RECEIPT_NAME, envelope.RECEIPT, "platform", "received_utc")
    at = parse_utc(receipt.payload["received_utc"]) if receipt else None
    opened = found.read(OPEN_NAME, envelope.SESSION_OPEN, "device", "opened_utc", at)
    problem = None if opened is None else next(checks.same_session(opened.payload, manifests[0].payload), None)
    if problem is not None:
        found.wrong(f"{OPEN_NAME}: {problem}", "other-document")
    if opened is None or problem is not None:
        return None
    for each in manifests:
        named = each.payload["open"]
        if named["open_sha256"] != opened.digest:
            found.wrong(f"{OPEN_NAME}: revision {each.payload['revision']} names another session-open", "open")
        if named["open_receipt_sha256"] == ABSENT:
            continue
        if receipt is None:
            found.wrong(f"{OPEN_RECEIPT_NAME} is missing or does not hold, though revision {each.payload['revision']} names it",
                        "open")
        elif receipt.digest != named["open_receipt_sha256"]:
            found.wrong(f"{OPEN_RECEIPT_NAME}: revision {each.payload['revision']} names another receipt", "open")
    if receipt is not None:
        _answer(found, OPEN_RECEIPT_NAME, receipt, opened, "session-open", True)
    else:
        found.note("the session's opening was never answered by the platform (absent-offline)")
    return opened


def _strays(found: _Folder, document: dict[str, Any]) -> None:
    """Files that no manifest names: footage among them is wrong, anything else is a note."""
    known = {entry["path"] for entry in document["segments"]} | {files.sidecar_path(entry) for entry in document["segments"]}
    for name in found.shown.names("segments"):
        if name in known:
            continue
        if name.endswith((".mp4", ".json")):
            found.wrong(f"{name}: no manifest names this file, nothing proves it", "extra-file")
        else:
            found.note(f"{name}: not part of the session")
    try:
        if found.load(SUMS_NAME) != checks.sums(document):
            found.wrong(f"{SUMS_NAME} says other than the signed manifest", "sums")
    except (OSError, ValueError) as error:
        found.note(f"{SUMS_NAME} cannot be read ({error}); it proves nothing by itself")


def _claim(found: _Folder, answered: bool, revision: int) -> None:
    if answered:
        found.note(f"checked with platform receipts: revision {revision} is what the platform holds")
    else:
        found.note("checked with device data only: complete at most up to the last manifest shown. Ask the platform for its receipts.")
