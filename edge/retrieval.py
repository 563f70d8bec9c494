"""A session out of the archive, on any machine that sees the bucket: find it by its id, fetch it as an exported folder, verify, expire it.

Needs no room, no database and no configuration: what a session consists of is read from its own signed manifest, and what lies in the
bucket is believed only by its digests. All versions of a key are looked at, so a deletion mark or a later version hides nothing. Whoever
fetches leaves a record in the archive before the first byte (E11); whoever expires leaves a signed one before the first deletion (A7).
Blocking. Called by the `edge archive` verbs.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge import durable
from edge.clock import US, Clock, iso_utc
from edge.evidence import bundle, chain, checks
from edge.evidence.envelope import Signer, seal
from edge.upload import archive_keys as keys
from edge.upload.archive import Archive, ArchiveError, Version

DISPOSITION = "application/vnd.examroom.exam-archive-disposition.v1+json"
AUDIT_KEEP_US = 10 * 365 * 86400 * US
"""How long records of access and disposal are locked: as the journal itself is kept, ten years."""
MARK = ".from-archive"
"""The file that says which session a folder is being filled with, so that a broken fetch goes on in it."""
Progress = Callable[[int, int], None]


class NotExportable(Exception):
    """The session cannot be had. Says what is there, what is safe and what to do."""


@dataclass(slots=True)
class Found:
    """What lies in the buckets of a session. `files`: tail of the key -> its versions, oldest first, each with the bucket it is in."""

    session: str
    files: dict[str, list[tuple[Archive, Version]]] = field(default_factory=lambda: defaultdict(list))
    records: list[tuple[Archive, Version]] = field(default_factory=list)        # of access and disposal
    marks: list[tuple[Archive, Version]] = field(default_factory=list)          # deletion marks: somebody tried
    strays: list[tuple[Archive, Version]] = field(default_factory=list)         # no file of any bundle

    @property
    def disposed(self) -> list[str]:
        return [v.key for _, v in self.records if "/disposed/" in v.key]

    def documents(self) -> dict[str, list[str]]:
        """Name in the bundle -> tails of all documents of that name."""
        found: dict[str, list[str]] = defaultdict(list)
        for tail in self.files:
            named = keys.name_of(tail)
            if named is not None and "/" not in tail:
                found[named[0]].append(tail)
        return dict(found)

    def first(self) -> Archive:
        """The bucket that records of access go to: the one that the session lies in."""
        return next(archive for versions in [*self.files.values(), self.records] for archive, _ in versions)

    def films(self) -> dict[str, int]:
        """Stream -> how many films."""
        found: dict[str, int] = defaultdict(int)
        for tail in self.files:
            if tail.endswith(".mp4"):
                found[tail.partition("/")[0]] += 1
        return dict(found)

    def bytes(self) -> int:
        return sum(versions[0][1].bytes for versions in self.files.values())


def find(archives: Sequence[Archive], session: str) -> Found:
    """Everything of a session in these buckets. NotExportable if there is nothing, and why that may be."""
    found = Found(session)
    prefix = keys.prefix(session)
    for archive in archives:
        for version in archive.versions(prefix):
            tail, here = version.key.removeprefix(prefix), (archive, version)
            if tail.startswith(("access/", "disposed/")):
                found.records.append(here)
            elif version.marker:
                found.marks.append(here)
            elif keys.name_of(tail) is None:
                found.strays.append(here)
            else:
                found.files[tail].append(here)
    for versions in found.files.values():
        versions.sort(key=lambda each: each[1].utc_us)
    if not found.files and not found.disposed:
        raise NotExportable(f"there is nothing of session {session} in {', '.join(a.place.bucket for a in archives)}. Look at the id and "
                            "at the other bucket; a session that its room has not archived yet lies on that room's disk only.")
    return found


def describe(found: Found) -> dict[str, Any]:
    """For `edge archive find`: counts, sizes, locks of the documents, and whatever should make somebody look closer."""
    locks = [archive.lock_of(version) for tail, versions in found.files.items() if "/" not in tail for archive, version in versions[:1]]
    return {
        "session": found.session, "buckets": sorted({a.place.bucket for each in found.files.values() for a, _ in each}),
        "documents": sorted(found.documents()), "films": found.films(), "bytes": found.bytes(),
        "locked_until": iso_utc(min(until for until, _ in locks)) if locks else "", "on_hold": any(held for _, held in locks),
        "further_versions": sum(len(each) - 1 for each in found.files.values()), "deletion_marks": len(found.marks),
        "strays": len(found.strays), "accesses": sum("/access/" in v.key for _, v in found.records), "disposed": found.disposed}


# ---- fetch ------------------------------------------------------------------------------------------------------------

def record_access(archive: Archive, clock: Clock, session: str, by: str, reason: str, what: str) -> str:
    """E11: who, why and when, in the archive and under lock, before the first byte. Its key. ArchiveError if it cannot be left."""
    if not by.strip() or not reason.strip():
        raise NotExportable("--by and --reason are needed: whoever fetches a session says who and why. Nothing was fetched.")
    now = clock.now().utc_us
    record = chain.canonical({"type": "exam-archive-access/v1", "session_id": session, "by": by.strip(), "reason": reason.strip(),
                              "what": what, "at": iso_utc(now), "bucket": archive.place.bucket})
    key = f"{keys.prefix(session)}access/{now // US}-{hashlib.sha256(record).hexdigest()[:16]}.json"
    archive.put_bytes(key, record, now + AUDIT_KEEP_US)
    return key


def fetch(found: Found, folder: Path, progress: Progress | None = None) -> list[str]:
    """Write the session into `folder` as `edge export` does; what is there already, whole or begun, is not fetched again.

    Returns what is wrong with the archive's copy, a line each (files that are in no version what they should be, double documents); the
    verdict is `bundle.verify`'s. NotExportable if the folder holds something else, or there is no manifest.
    """
    if not found.files:
        raise NotExportable(f"session {found.session} was lawfully deleted: {', '.join(found.disposed)}")
    _begin(folder, found.session)
    problems, manifest = _documents(found, folder)
    total, done = sum(each["bytes"] for each in manifest["segments"]), 0
    for entry in manifest["segments"]:
        sidecar = str(entry["path"]).removesuffix(".mp4") + ".json"
        for name, sha256 in ((str(entry["path"]), str(entry["sha256"])), (sidecar, str(entry["sidecar_sha256"]))):
            problem = _film(found, folder, name, sha256)
            if problem:
                problems.append(problem)
        done += entry["bytes"]
        if progress:
            progress(done, total)
    _put(folder / bundle.SUMS_NAME, checks.sums(manifest))
    _put(folder / bundle.GUIDE_NAME, bundle.GUIDE.read_bytes())
    return problems


def _begin(folder: Path, session: str) -> None:
    durable.make_folder(folder, 0o755)
    mark = folder / MARK
    if any(folder.iterdir()) and not (mark.is_file() and mark.read_text(encoding="utf-8").strip() == session):
        raise NotExportable(f"{folder} is not empty and was not begun for {session}. Nothing was fetched; name a new folder.")
    _put(mark, session.encode() + b"\n")


def _documents(found: Found, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """Fetch the documents; what is wrong, and the newest manifest as it stands there (judged later)."""
    problems: list[str] = []
    bodies: dict[str, bytes] = {}
    for name, tails in found.documents().items():
        good = [(version.utc_us, data) for tail in tails for version, data in _candidates(found, tail)]
        if not good:
            problems.append(f"{name}: no version of it in the archive is what its name says")
            continue
        bodies[name] = min(good)[1]                 # the first that came: what is added later cannot take its place
        if len({data for _, data in good}) > 1 and name != bundle.ROOT_NAME:
            problems.append(f"{name}: the archive holds {len({data for _, data in good})} different ones; the first was taken")
    journals = sorted((int(name[8:-6]), name) for name in bodies if name.startswith("journal-") and name[8:-6].isdigit())
    manifests = sorted((int(name[9:-10]), name) for name in bodies if name.startswith("manifest-") and name[9:-10].isdigit())
    if not manifests:
        raise NotExportable(f"the archive holds no manifest of {found.session} that is what its name says: " + "; ".join(problems))
    for name, data in bodies.items():
        if not name.startswith("journal-"):
            _put(folder / name, data)
    if journals:
        _put(folder / bundle.JOURNAL_NAME, bodies[journals[-1][1]])
    try:
        manifest = chain.parse(base64.b64decode(chain.parse(bodies[manifests[-1][1]])["payload"]))
        entries = [(each["path"], each["sha256"], each["sidecar_sha256"], each["bytes"] + 0) for each in manifest["segments"]]
    except (ValueError, KeyError, TypeError) as error:
        raise NotExportable(f"{manifests[-1][1]} in the archive cannot be read: {error}") from error
    if any(not isinstance(text, str) for entry in entries for text in entry[:3]):
        raise NotExportable(f"{manifests[-1][1]} in the archive does not have its form")
    return problems, manifest


def _candidates(found: Found, tail: str) -> Iterator[tuple[Version, bytes]]:
    wanted = (keys.name_of(tail) or ("", "?"))[1]
    for archive, version in found.files[tail]:
        try:
            data = b"".join(archive.read(version.key, version.version_id))
        except ArchiveError as error:
            if error.word != "missing":             # listed, and not to be had: the store's administrator can do that
                raise
            continue
        if hashlib.sha256(data).hexdigest().startswith(wanted):
            yield version, data


def _film(found: Found, folder: Path, name: str, sha256: str) -> str:
    """Fetch one film or sidecar; what is wrong with it, or nothing."""
    try:
        tail = keys.tail(name, sha256)
    except ValueError as error:
        return str(error)
    path = folder / name
    if path.is_file() and durable.sha256_file(path) == sha256:
        return ""
    durable.make_folder(path.parent, 0o755)
    for archive, version in found.files.get(tail, ()):
        try:
            if _download(archive, version, path, sha256):
                return ""
        except ArchiveError as error:
            if error.word != "missing":
                raise
    return f"{name}: " + ("no version of it in the archive is what the manifest says" if tail in found.files else "not in the archive")


def _download(archive: Archive, version: Version, path: Path, sha256: str) -> bool:
    """One version into `path`, from where an earlier try broke off. False, and nothing left behind, if it is not what it should be."""
    part = path.with_name(f".{path.name}.{hashlib.sha256(version.version_id.encode()).hexdigest()[:8]}.part")
    digest = hashlib.sha256()
    with part.open("a+b") as file:
        file.seek(0)
        while piece := file.read(1 << 20):
            digest.update(piece)
        start = file.tell()
        if start < version.bytes:
            for piece in archive.read(version.key, version.version_id, start):
                digest.update(piece)
                file.write(piece)
    if digest.hexdigest() != sha256:
        durable.remove(part)
        return False
    if path.exists():
        durable.remove(path)                # what stood there was not it
    durable.rename(part, path)
    return True


def _put(path: Path, data: bytes) -> None:
    if not (path.is_file() and path.read_bytes() == data):
        durable.replace(path, data, 0o644)


# ---- verify -----------------------------------------------------------------------------------------------------------

def locks(found: Found, until_utc_us: int) -> list[str]:
    """What is wrong with the locks of a session that must be kept until then: every version is asked. Empty: nothing."""
    lines = [f"{version.key}: a deletion mark (somebody tried to delete it; nothing is gone)" for _, version in found.marks]
    lines += [f"{version.key}: no file of any session, nothing proves it" for _, version in found.strays]
    for versions in found.files.values():
        if len(versions) > 1:
            lines.append(f"{versions[0][1].key}: {len(versions)} versions; only the one with the manifest's digest counts")
        archive, version = versions[0]
        until, held = archive.lock_of(version)
        if until < until_utc_us and not held:
            said = f"only until {iso_utc(until)}" if until else "not at all"
            lines.append(f"{version.key}: locked {said}, must be until {iso_utc(until_utc_us)}")
    return lines


def keep_until_us(folder: Path) -> int:
    """Until when the newest manifest in a fetched folder says that its session is kept: end of that local day, UTC µs."""
    newest = max(folder.glob("manifest-*.dsse.json"), key=lambda p: int(p.name[9:-10]))
    return keys.lock_until_us(chain.parse(base64.b64decode(chain.parse(newest.read_bytes())["payload"]))["retention"]["keep_until"])


@dataclass(frozen=True, slots=True)
class Verified:
    """The verdict on the bytes (`bundle.verify`), and what is wrong with the archive's keeping of them."""

    report: bundle.Report
    problems: tuple[str, ...]


def verify(found: Found, root_pem: bytes | None, work: Path | None, progress: Progress | None = None) -> Verified:
    """Fetch into a passing folder below `work` (default: the system's), judge, remove it. LIMIT: needs room for the whole session there."""
    with tempfile.TemporaryDirectory(prefix="edge-archive-", dir=work) as name:
        folder = Path(name) / found.session
        problems = fetch(found, folder, progress)
        report = bundle.verify(folder, root_pem)
        try:
            until = keep_until_us(folder)
        except (ValueError, KeyError, TypeError) as error:
            return Verified(report, (*problems, f"the manifest does not say how long it is kept: {error}"))
        return Verified(report, (*problems, *locks(found, until)))


# ---- expire -----------------------------------------------------------------------------------------------------------

def expirable(found: Found, clock: Clock) -> list[tuple[Archive, Version]]:
    """Every version of the session, if no lock and no hold is left on any. NotExportable says what still stands."""
    now, everything = clock.now().utc_us, [each for versions in found.files.values() for each in versions] + found.strays
    standing = [(until, held) for archive, version in everything for until, held in [archive.lock_of(version)] if until > now or held]
    if standing:
        holds, latest = sum(held for _, held in standing), max(until for until, _ in standing)
        raise NotExportable(f"{len(standing)} of {len(everything)} objects of {found.session} may not go: locked until {iso_utc(latest)}"
                            f"{f', {holds} on hold' if holds else ''}. Nothing was deleted.")
    return everything + found.marks


def expire(found: Found, clock: Clock, signer: Signer, by: str) -> int:
    """Delete a session whose time is over. A signed record of it is left first, in its first bucket, locked for ten years. How many went.

    Broken off, it goes on when called again; the record that is there then stands.
    """
    going = expirable(found, clock)
    if not going:
        return 0
    if not found.disposed:
        now = clock.now().utc_us
        listed = sorted((v.key, v.version_id, v.bytes) for _, v in going)
        lines = "".join(f"{key}\t{version}\t{size}\n" for key, version, size in listed)
        record = seal(DISPOSITION, {
            "type": "exam-archive-disposition/v1", "session_id": found.session, "disposed_utc": iso_utc(now), "by": by, "ground": "expired",
            "buckets": sorted({a.place.bucket for a, _ in going}), "objects": len(going), "bytes": sum(v.bytes for _, v in going),
            "list_sha256": chain.sha256_hex(lines.encode())}, signer)
        archive = going[0][0]
        archive.put_bytes(f"{keys.prefix(found.session)}disposed/{now // US}-{chain.sha256_hex(record)[:16]}.dsse.json", record,
                          now + AUDIT_KEEP_US)
    for archive, version in going:
        archive.delete(version.key, version.version_id)
    return len(going)
