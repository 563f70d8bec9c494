"""The room's own store under the same eyes as an exported session: is the journal whole, is every document and every recording there?

`check` reads everything and writes nothing: the journal's chain from the first row to the last, every signed document, every session made
again from its rows and compared with what was signed, every row of the index against its file. It may run beside a working room (the disk
is shared with the recording: run it with `nice` and `ionice`), and on a copy of a room's folders. Called by `edge verify --store`;
`edge fsck` asks for the journal alone.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

from edge.evidence import bundle, chain, documents, files, history
from edge.evidence.fault import Fault
from edge.evidence.files import Wanted
from edge.evidence.history import Told
from edge.evidence.report import Findings, Report, Second
from edge.evidence.revocation import NONE, Revocations
from edge.sessions import events as e
from edge.sessions import machine
from edge.storage import snapshot
from edge.storage.look import IdleSegment, Look

Progress = Callable[[int, int], None]
ROWS_A_STEP = 2000


def check(database: Path, footage: Path, root_pem: bytes, session: str | None = None, progress: Progress | None = None, *,
          revocations: Revocations = NONE, expected: frozenset[str] = frozenset(), second: Second | None = None) -> Report:
    """Check the whole store, or one session of it. `progress`: first rows of the journal, then bytes of recordings.

    NoStore if there is no database to look at. Otherwise whatever is wrong is a finding; the session's report if one was named.
    """
    look = Look(database)
    found = Findings(b"", revocations, second)
    root = found.trust(root_pem, None)
    if not root:
        return Report("FAIL", found.first, tuple(found.lines), findings=tuple(found.faults), sessions=0, scope="store")
    journal(found, look, progress)
    _snapshot(found, look)
    opened = look.opened()
    if session is not None and session not in opened:
        found.wrong(f"the journal knows no opened session {session}", "no-session")
    sealed = [each for each, signed in opened.items() if signed and session in (None, each)]
    total, done = look.bytes(), 0
    reports = []
    for each in sealed:
        one = _session(found, look, footage, each, partial(_on, progress, done, total), revocations)
        if one is not None:
            reports.append(one)
            done += sum(row[1] for row in look.segments_of(each).values())
    if session is not None:
        return _of_one(found, reports, root, session)
    gathered = documents.gather(found, ((f"{of or 'device'}/{kind}-{revision or digest[:8]}", partial(look.envelope, digest))
                                        for digest, kind, of, revision, _ in look.envelopes() if kind != "disposition"))
    running = frozenset(each for each, signed in opened.items() if not signed)
    history.judge(found, gathered, Told(expected=expected, open=running))
    for each in sorted(running):
        found.note(f"{each} is not sealed yet: it is running, or waits for its last segments")
    _promised(found, look, {each[0] for each in look.envelopes()})
    _idle(found, look, footage, partial(_on, progress, done, total))
    return history.report(found, gathered, root, "store")


def _on(progress: Progress | None, before: int, total: int, done: int, _: int) -> None:
    if progress:
        progress(before + done, max(total, before + done))


def journal(found: Findings, look: Look, progress: Progress | None) -> None:
    """Each row has the hash it says, names the one before it, and is number one more."""
    last, prev, rows = 0, chain.GENESIS, look.last_row()
    for seq, session, kind, utc_us, boot_us, boot_id, body, named, digest in look.rows():
        if seq != last + 1 or named != prev:
            found.wrong(f"the journal's chain is broken at row {seq}: a row before it was taken out or changed", "store-journal")
        if chain.hash_of_stored(seq, session, kind, utc_us, boot_us, boot_id, body, named) != digest:
            found.wrong(f"row {seq} of the journal ({kind}) was changed", "store-journal")
        last, prev = seq, digest
        if progress and seq % ROWS_A_STEP == 0:
            progress(seq, rows)
    found.note(f"journal: {last} rows, head {prev}")


def _snapshot(found: Findings, look: Look) -> None:
    """What the next start would believe is what the journal says."""
    if any(fault.word == "store-journal" for fault in found.faults):
        return                      # nothing can be held against a journal that is not whole
    try:
        wrong = snapshot.contradictions(look.snapshot(), look.facts())
    except (ValueError, KeyError, TypeError, machine.IllegalStep) as error:
        found.wrong(f"the snapshot of the room's state cannot be compared with the journal: {error}", "store-snapshot")
        return
    if wrong:
        found.wrong(f"the snapshot of the room's state says other than the journal of {', '.join(wrong)}", "store-snapshot")


def _session(found: Findings, look: Look, footage: Path, session: str, progress: Progress, revocations: Revocations) -> Report | None:
    """One sealed session where it lies: as `bundle.verify` judges an export; its rows in the index are the journal's."""
    try:
        contents = contents_of(look, found.root, session)
    except (ValueError, KeyError) as error:
        found.wrong(f"{session}: its documents or rows cannot be read: {error}", "missing-document")
        return None
    paths = {row.seq: row.event.path for row in contents.rows if isinstance(row.event, e.SegmentStored)}
    rows = look.segments_of(session)
    if not rows and (term := _over(contents)):
        found.note(f"{session}: its recordings were deleted after their term ({term}); its documents are checked below")
        return None
    for row in contents.rows:
        if isinstance(fact := row.event, e.SegmentStored):
            held = rows.get((fact.stream, fact.seq))
            if held != (fact.path, fact.bytes, fact.sha256, fact.sidecar_sha256):
                says = "lacks" if held is None else "says other than the journal of"
                found.wrong(f"{session}: the index {says} {fact.path}", "store-row")

    def place(entry: Any) -> tuple[Path, Path]:
        media = footage / paths.get(entry["journal_seq"], "no-such-row")
        return media, media.with_suffix(".json")

    with tempfile.TemporaryDirectory(prefix="edge-verify-") as folder:
        bundle.write_documents(Path(folder), contents)
        report = bundle.verify(Path(folder), found.root, progress, revocations=revocations, place=place, second=found.second)
    for fault in report.findings:
        found.wrong(Fault(fault.word, f"{session}: {fault}"))
    return report


def contents_of(look: Look, root_pem: bytes, session: str) -> bundle.Contents:
    """What the store holds of a sealed session. ValueError if a row is no fact; KeyError if a document is missing."""
    kept = look.of(session)
    manifests = {each.revision: each for each in kept if each.kind == "session-manifest" and each.revision is not None}
    answers = {each.answers: each.body for each in kept if each.kind == "receipt"}
    opening = next((each for each in kept if each.kind == "session-open"), None)
    if not manifests or opening is None:
        raise KeyError("the manifest or the session-open is not stored")
    rows = look.of_session(session)
    last = max((row.seq for row in rows if isinstance(row.event, e.ManifestSigned)), default=0)
    bodies = {number: each.body for number, each in manifests.items()}
    return bundle.Contents(
        manifests=bodies, session_open=opening.body, rollovers=bundle.handed_over(opening.body, bodies, *look.rollovers()),
        receipts={number: answers[each.digest] for number, each in manifests.items() if each.digest in answers},
        open_receipt=answers.get(opening.digest), root_pem=root_pem, rows=[row for row in rows if row.seq <= last])


def _over(contents: bundle.Contents) -> str:
    """The day until which a session had to be kept, if that day is past; else empty."""
    terms = [row.event.keep_until for row in contents.rows if isinstance(row.event, e.Sealed)]
    terms += [row.event.keep_until for row in contents.rows if isinstance(row.event, e.ReceiptVerified) and row.event.keep_until]
    latest = max(terms, default="9999-12-31")
    return latest if date.fromisoformat(latest) < datetime.now(UTC).date() else ""


def _promised(found: Findings, look: Look, held: set[str]) -> None:
    """What the journal says was signed or received is stored, but for checkpoints that it says were let go."""
    let_go, gone = _let_go(look), set[str]()
    for seq, session, kind, body in look.of_kinds("OpenSigned", "ManifestSigned", "ReceiptVerified", "CheckpointSigned", "KeyRolled"):
        try:
            says = chain.parse(body.encode())
        except chain.NotCanonical:
            continue                    # changed: said by `journal`
        wanted = says.get("receipt_sha256") if kind == "ReceiptVerified" else says.get("digest")
        if kind == "CheckpointSigned" and says.get("journal_seq", 0) <= let_go:
            gone.add(says["digest"])
        if wanted not in held and says.get("digest") not in gone:
            found.wrong(f"row {seq} ({kind} of {session or 'the device'}) names a document that is not stored", "missing-document")


def _let_go(look: Look) -> int:
    """Up to which row of the journal the checkpoints speak that were let go; 0: none was."""
    found = 0
    for *_, body in look.of_kinds("CheckpointsLetGo"):
        with suppress(chain.NotCanonical):      # changed: said by `_journal`
            found = max(found, chain.parse(body.encode()).get("journal_seq", 0))
    return found


def _idle(found: Findings, look: Look, footage: Path, progress: Progress) -> None:
    """Recordings of no session: the index against the files."""
    done, count, ahead = 0, 0, deque[IdleSegment]()
    outcomes = files.read_all(_wanted(look, footage, ahead))
    for media in outcomes:
        sidecar, each = next(outcomes), ahead.popleft()
        for outcome in (media, sidecar):
            gone = outcome.fault is not None and outcome.fault.word == "missing-file" and not look.knows(each.path)
            if outcome.fault is not None and not gone:
                found.wrong(outcome.fault)
        done, count = done + each.bytes, count + 1
        progress(done, 0)
    found.note(f"recordings of no session: {count} in the index, each looked at")


def _wanted(look: Look, footage: Path, ahead: deque[IdleSegment]) -> Iterator[Wanted]:
    """Both files of each recording; `ahead` gets the rows whose outcomes are still to come."""
    for each in look.idle():
        media = footage / each.path
        ahead.append(each)
        yield Wanted(media, each.path, each.sha256, each.bytes)
        yield Wanted(media.with_suffix(".json"), str(Path(each.path).with_suffix(".json")), each.sidecar_sha256, None)


def _of_one(found: Findings, reports: list[Report], root: str, session: str) -> Report:
    one = reports[0] if reports else None
    if one is None and not found.faults:
        found.wrong(f"{session} is not sealed yet: it has no manifest that could be checked", "no-session")
    found.lines[:0] = one.lines[1:] if one else ()
    gaps = one.gaps if one else 0
    return Report(found.verdict(gaps), found.first, tuple(found.lines), one.had_receipts if one else False, root, session,
                  one.revision if one else 0, one.manifest_sha256 if one else "", one.segments if one else 0, gaps, tuple(found.faults), 1,
                  "store")
