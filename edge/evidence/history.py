"""A device's whole history: is every session that was ever opened here, once, unchanged, in its place?

Takes documents from a folder (or the room's own store), in any arrangement: session-opens, manifests, receipts, checkpoints, key-rollovers;
`segments/` beside a manifest are checked too. What makes an omission visible: running numbers without a hole, each manifest naming the one
before it, and the platform's signed receipts, which nobody but the platform can make. Without receipts the most that can be said is
"complete up to the last manifest shown"; a session that had no contact at all shows only in the exam schedule (`expected`).
Called by `edge verify` and the check of the store.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from edge.evidence import bundle, checks, documents, envelope, handover
from edge.evidence.chain import parse
from edge.evidence.documents import Documents, Load, Manifest, Opening, Progress, Receipt, Signed
from edge.evidence.fault import Fault
from edge.evidence.handover import Signature
from edge.evidence.manifest import ABSENT
from edge.evidence.report import Findings, Report, Second
from edge.evidence.revocation import NONE, Revocations
from edge.evidence.shown import Folder, Shown

SUFFIX = ".dsse.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the auditor knows besides: `expected` sessions by the exam schedule; numbers from which on the history is shown (`since`);
    sessions that are `open` at this moment and so cannot have a manifest yet."""

    expected: frozenset[str] = frozenset()
    since: int = 1
    open: frozenset[str] = frozenset()


# ---- a folder ---------------------------------------------------------------------------------------------------------

def verify(folder: Path | Shown, root_pem: bytes | None = None, progress: Progress | None = None, *, more: Iterable[Path] = (),
           revocations: Revocations = NONE, told: Told | None = None, second: Second | None = None) -> Report:
    """Check the history in `folder` and, with it, documents got another way (`more`: the platform's receipts). Else as `bundle.verify`.

    `progress(done, total)`: first documents, then bytes of footage. Never raises for what is in the folders.
    """
    here = Folder(folder) if isinstance(folder, Path) else folder
    found = Findings(b"", revocations, second)
    for fault in here.faults:
        found.wrong(fault)
    root = found.trust(root_pem, partial(here.read, bundle.ROOT_NAME, envelope.MAX_BYTES))
    if not root:
        return Report("FAIL", found.first, tuple(found.lines), findings=tuple(found.faults), sessions=0, scope="history")
    shown = dict(walk(here)) | {name: load for each in more for name, load in walk(Folder(each), f"{each.name}/")}
    if not shown:
        found.wrong(f"{folder} holds no signed document (*{SUFFIX}): it is no history, or everything was taken away", "no-session")
    gathered = documents.gather(found, shown.items(), progress)
    judge(found, gathered, told or Told())
    _amendments(found, gathered, shown)
    footage = 0
    for place in sorted({Path(each.name).parent.as_posix() for each in gathered.manifests}):
        one = here.within(place)
        if one.has_folder("segments") or bundle.JOURNAL_NAME in one.names(without=bundle.FOOTAGE):
            footage += 1
            alone = bundle.verify(one, found.root, progress, revocations=revocations, second=second, rollovers=gathered.rollovers)
            for fault in alone.findings:
                if str(fault) not in map(str, found.faults):
                    found.wrong(Fault(fault.word, f"{place}: {fault}"))
    sessions = {each.session for each in gathered.manifests}
    if footage < len(sessions):
        found.note(f"footage: that of {footage} of {len(sessions)} sessions is here; of the others only what was signed was checked")
    return report(found, gathered, root, "history")


def walk(shown: Shown, prefix: str = "") -> Iterator[tuple[str, Load]]:
    """Every file that is named like a signed document; links are not followed, footage is not looked into."""
    for name in shown.names(without=bundle.FOOTAGE):
        hidden = any(part.startswith(".") for part in name.split("/")[:-1])
        if name.endswith(SUFFIX) and not hidden and not shown.is_link(name):
            yield prefix + name, partial(shown.read, name, envelope.MAX_BYTES + 1)


def report(found: Findings, gathered: Documents, root: str, scope: Any) -> Report:
    """The report on what was judged: sums over the newest revision of each session."""
    newest: dict[str, Manifest] = {}
    for each in sorted(gathered.manifests, key=lambda m: m.revision):
        newest[each.session] = each
    gaps, answers = sum(each.gaps for each in newest.values()), gathered.answers()
    answered = bool(newest) and all(each.digest in answers for each in newest.values())
    last = max(newest.values(), key=lambda m: m.seq, default=None)
    if answered:
        found.note("checked with the platform's receipts: every session shown is as the platform holds it")
    elif gathered.receipts:
        found.note(f"checked with some of the platform's receipts: {sum(m.digest in answers for m in newest.values())} of {len(newest)} "
                   "sessions are as the platform holds them. Ask the platform for the others")
    else:
        found.note("checked with device data only: complete at most up to the last manifest shown. Ask the platform for its receipts.")
    return Report(found.verdict(gaps), found.first, tuple(found.lines), answered, root, last.session if last else "",
                  last.revision if last else 0, last.digest if last else "", sum(each.segments for each in newest.values()), gaps,
                  tuple(found.faults), len(newest), scope)


def _amendments(found: Findings, gathered: Documents, shown: Mapping[str, Load]) -> None:
    """Later revisions only add: the whole documents are compared, those of one session at a time."""
    by_session: dict[str, list[Manifest]] = defaultdict(list)
    for each in gathered.manifests:
        by_session[each.session].append(each)
    for session, mine in sorted(by_session.items()):
        mine.sort(key=lambda m: m.revision)
        if [each.revision for each in mine] != list(range(1, len(mine) + 1)):
            found.wrong(f"{session}: revisions are missing: there are {', '.join(str(each.revision) for each in mine)}", "revision")
        if len(mine) > 1:
            whole = [parse(envelope.payload_of(shown[each.name]())) for each in mine]
            for fault in checks.revisions(whole, [each.digest for each in mine]):
                found.wrong(Fault(fault.word, f"{session}: {fault}"))


# ---- all documents together -------------------------------------------------------------------------------------------

def judge(found: Findings, gathered: Documents, told: Told) -> None:
    """What only shows when all documents are laid beside each other. Each finding names the session, its number or the file."""
    devices = sorted({each.device for each in gathered.signed})
    for device in devices:
        _one_device(found, gathered, device, told)
    _against_receipts(found, gathered, told)
    _receipts_themselves(found, gathered)
    _places(found, gathered)
    for session in sorted(told.expected - {m.session for m in gathered.manifests} - {o.session for o in gathered.opens}):
        found.wrong(f"by the exam schedule there was {session}; nothing of it is here", "schedule")
    if len(devices) > 1:
        found.note(f"documents of {len(devices)} devices: {', '.join(devices)}")


def _one_device(found: Findings, gathered: Documents, device: str, told: Told) -> None:
    manifests = sorted((m for m in gathered.manifests if m.device == device), key=lambda m: (m.closed_seq, m.revision))
    opens = [each for each in gathered.opens if each.device == device]
    closed = {each.session for each in manifests}
    _numbers(found, device, manifests, opens, told.since)
    for each in sorted(opens, key=lambda o: o.seq):
        if each.session not in closed and each.session not in told.open:
            found.wrong(f"opened, no manifest: {each.session} (number {each.seq}) was opened at {each.made_utc}, and nothing shows how it "
                        "ended", "opened-no-manifest")
    _chain(found, gathered, manifests, told.since)
    _opens(found, gathered, manifests, opens)
    _checkpoints(found, gathered, device, manifests, opens, told)
    _hardware(found, gathered, device, manifests, opens)
    _keys(found, gathered, device)


def _numbers(found: Findings, device: str, manifests: list[Manifest], opens: list[Opening], since: int) -> None:
    """Sessions are numbered from 1 without a hole, each number one session, each session one number."""
    by_number: dict[int, set[str]] = defaultdict(set)
    both: list[Manifest | Opening] = [*manifests, *opens]
    for each in both:
        by_number[each.seq].add(each.session)
    for number, sessions in sorted(by_number.items()):
        if len(sessions) > 1:
            found.wrong(f"number {number} of {device} is borne by several sessions: {', '.join(sorted(sessions))}", "seq-gap")
    missing = sorted(set(range(since, max(by_number, default=0))) - {each.seq for each in manifests})
    for first, last in _runs(missing):
        found.wrong(f"session seq gap: number {first}{f' to {last}' if last != first else ''} of {device} has no manifest here",
                    "seq-gap")
    seen: dict[tuple[str, int], Manifest] = {}
    for manifest in manifests:
        other = seen.setdefault((manifest.session, manifest.revision), manifest)
        if other.digest != manifest.digest:
            found.wrong(f"two different manifests of {manifest.session} revision {manifest.revision}: {other.name} and {manifest.name}",
                        "conflict")
        if manifest.opened_total != manifest.seq or manifest.closed_total != manifest.seq:
            found.wrong(f"{manifest.name}: it is number {manifest.seq} and counts {manifest.opened_total} opened, {manifest.closed_total} "
                        "closed", "counters")


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """[3, 4, 5, 9] -> (3, 5), (9, 9)."""
    first = last = None
    for each in numbers:
        if last is not None and first is not None and each != last + 1:
            yield first, last
            first = None
        first, last = first if first is not None else each, each
    if first is not None and last is not None:
        yield first, last


def _chain(found: Findings, gathered: Documents, manifests: list[Manifest], since: int) -> None:
    """Each manifest names the one that was signed before it, and the receipt of that if it was there."""
    for before, each in pairwise([None, *manifests]):
        if each is None:
            continue
        wanted = before.digest if before else None
        if before is None and each.prev is not None and (since > 1 or each.seq > 1):
            continue                    # the numbers say that something is missing before it, or the auditor knows
        if each.prev != wanted:
            shown = f"{before.session} revision {before.revision}" if before else "none"
            found.wrong(f"chain broken: {each.session} revision {each.revision} does not name the manifest shown before it ({shown})",
                        "chain-broken")
        if each.prev_receipt is not None and gathered.receipts and each.prev_receipt not in gathered.receipts:
            found.wrong(f"{each.session} revision {each.revision} names a receipt of the manifest before it that is not shown",
                        "receipt-missing")


def _opens(found: Findings, gathered: Documents, manifests: list[Manifest], opens: list[Opening]) -> None:
    """Each manifest names the session-open that is shown, and its receipt."""
    shown = {each.digest: each for each in opens}
    for each in manifests:
        opening = shown.get(each.open)
        if opening is None:
            found.wrong(f"{each.session} revision {each.revision}: the session-open that it names is not shown", "open")
        elif (opening.session, opening.seq, opening.room) != (each.session, each.seq, each.room):
            found.wrong(f"{each.session} revision {each.revision} names the session-open of another session ({opening.session})", "open")
        elif each.version > 1 and opening.read != each.read:
            found.wrong(f"{each.session} revision {each.revision}: the clock's reading at the opening is not the one that was announced",
                        "clock")
        if each.open_receipt != ABSENT and gathered.receipts and each.open_receipt not in gathered.receipts:
            found.wrong(f"{each.session} revision {each.revision}: the receipt of the session-open that it names is not shown", "open")


def _checkpoints(found: Findings, gathered: Documents, device: str, manifests: list[Manifest], opens: list[Opening], told: Told) -> None:
    """By each checkpoint so many sessions had been opened and closed: as many are shown."""
    known = {each.digest for each in manifests}
    heads: dict[int, str] = {}
    for each in sorted((c for c in gathered.checkpoints if c.device == device), key=lambda c: c.journal_seq):
        if heads.setdefault(each.journal_seq, each.journal_head) != each.journal_head:
            found.wrong(f"{each.name}: another checkpoint has another journal at row {each.journal_seq}", "checkpoint")
        opened = len({o.session for o in opens if o.journal_seq <= each.journal_seq}) + told.since - 1
        closed = len({m.session for m in manifests if m.revision == 1 and m.closed_seq <= each.journal_seq}) + told.since - 1
        if (opened, closed) != (each.opened_total, each.closed_total):
            found.wrong(f"the checkpoint of {each.made_utc} counts {each.opened_total} sessions opened and {each.closed_total} closed; "
                        f"shown are {opened} and {closed}", "checkpoint")
        if each.last_manifest is not None and told.since == 1 and each.last_manifest not in known:
            found.wrong(f"the checkpoint of {each.made_utc} names a manifest that is not shown", "checkpoint")


def _hardware(found: Findings, gathered: Documents, device: str, manifests: list[Manifest], opens: list[Opening]) -> None:
    """The counter in the machine's security chip goes up by one with each opening, and never back: a disk that was set back to an older
    state, and lived on from there, shows as a leap. What one session says of it, its announcement and its list say alike."""
    said: dict[int, int] = {}
    both: list[Manifest | Opening] = [*opens, *manifests]
    for each in both:
        if each.hw_counter is not None and said.setdefault(each.seq, each.hw_counter) != each.hw_counter:
            found.wrong(f"{each.name}: the hardware counter of {each.session} is {each.hw_counter} here and {said[each.seq]} elsewhere",
                        "hw-counter")
    for (seq, before), (next_seq, after) in pairwise(sorted(said.items())):
        if after <= before:
            found.wrong(f"the hardware counter goes back: {before} at session number {seq}, {after} at number {next_seq} of {device}",
                        "hw-counter")
        elif after - before > next_seq - seq:
            found.wrong(f"the hardware counter of {device} counts {after - before - (next_seq - seq)} openings between the sessions number "
                        f"{seq} and {next_seq} that no document tells of", "hw-counter")
    for point in sorted((c for c in gathered.checkpoints if c.device == device and c.hw_counter is not None), key=lambda c: c.journal_seq):
        last = max((said[o.seq] for o in opens if o.journal_seq <= point.journal_seq and o.seq in said), default=None)
        if last is not None and last != point.hw_counter:
            found.wrong(f"by the checkpoint of {point.made_utc} the hardware counter stood at {point.hw_counter}; by the sessions shown at "
                        f"{last}", "hw-counter")
    numbers = {each.seq for each in both}
    without = sorted(seq for seq in numbers if said and seq not in said and seq > min(said))
    for first, last in _runs(without):
        found.note(f"of session number {first}{f' to {last}' if last != first else ''} of {device} the hardware counter was not read")


def _keys(found: Findings, gathered: Documents, device: str) -> None:
    """One key signs, until it hands over to another: a key that nobody handed over to is a stranger's."""
    both: list[Manifest | Opening] = [*gathered.manifests, *gathered.opens]
    mine = [each for each in both if each.device == device]
    mine.sort(key=lambda d: d.closed_seq if isinstance(d, Manifest) else d.journal_seq)
    signed = (Signature(d.session, d.seq, d.key, d.cert_sha256, isinstance(d, Manifest) and d.revision > 1) for d in mine)
    for fault in handover.strangers(device, signed, [each for each in gathered.rollovers if each.device == device]):
        found.wrong(fault)


_SESSION_ID = re.compile(r"S[0-9]{8}-[A-Z0-9]{4}-R[0-9]{2}-[0-9]{2}")


def _places(found: Findings, gathered: Documents) -> None:
    """An old document in the place of another session: the folder's name says which one should lie there."""
    both: list[Manifest | Opening] = [*gathered.manifests, *gathered.opens]
    numbered = {each.digest: each for each in both}
    lying = [(each.name, each) for each in numbered.values()]
    lying += [(other, numbered[digest]) for digest, _, other in gathered.twice if digest in numbered]
    for name, each in lying:
        named = [part for part in Path(name).parts if _SESSION_ID.fullmatch(part)]
        if named and named[-1] != each.session:
            found.wrong(f"replay: {name} is a document of {each.session}, in the place of {named[-1]}", "replay")
            found.wrong(f"session seq gap: in the place of {named[-1]} stands number {each.seq}, which is {each.session}", "seq-gap")
            found.wrong(f"chain broken: what lies in the place of {named[-1]} does not follow the session before it", "chain-broken")
    for digest, first, other in gathered.twice:
        if Path(first).parent == Path(other).parent and digest in numbered:
            found.wrong(f"replay: {other} is the same document as {first}; it stands where another should", "replay")
        elif digest not in numbered or Path(first).name != Path(other).name:
            found.note(f"{other} is the same document as {first}")


# ---- against the platform ---------------------------------------------------------------------------------------------

_KINDS: Mapping[type[Signed], str] = {
    Manifest: "session-manifest", Opening: "session-open", documents.Checkpoint: "device-checkpoint", documents.Rollover: "key-rollover"}


def _against_receipts(found: Findings, gathered: Documents, told: Told) -> None:
    """What the platform has signed for is here, and as it had it."""
    shown = {each.digest: each for each in gathered.signed}
    revisions = {(each.session, each.revision) for each in gathered.manifests}
    opened = {each.session for each in gathered.opens}
    closed = {each.session for each in gathered.manifests}
    newest = {each.session: each.revision for each in sorted(gathered.manifests, key=lambda m: m.revision)}
    overtaken = 0
    for receipt in sorted(gathered.receipts.values(), key=lambda r: r.number):
        document = shown.get(receipt.answers)
        if document is not None:
            _fits(found, receipt, document, newest)
        elif receipt.kind == "session-manifest":
            if (receipt.session, receipt.revision) in revisions:
                found.wrong(f"manifest differs from receipt: {receipt.session} revision {receipt.revision} is not the one that the "
                            f"platform had at {receipt.received_utc}", "differs-from-receipt")
            else:
                found.wrong(f"manifest missing vs receipt: the platform had revision {receipt.revision} of {receipt.session} at "
                            f"{receipt.received_utc}", "missing-vs-receipt")
        elif receipt.kind == "session-disposition":
            found.note(f"the platform has had a disposition record of {receipt.session} since {receipt.received_utc}: its footage and its "
                       "people's data were given up")
        elif receipt.kind == "session-open" and receipt.session in opened:
            found.wrong(f"session-open differs from receipt: that of {receipt.session} is not the one that the platform had at "
                        f"{receipt.received_utc}", "differs-from-receipt")
        elif receipt.kind == "session-open" and receipt.session not in closed | told.open:
            found.wrong(f"opened, no manifest: {receipt.session} was announced to the platform at {receipt.received_utc}, and nothing of "
                        "it is here", "opened-no-manifest")
        elif receipt.kind == "device-checkpoint" and receipt.number < _overtaken(gathered):
            overtaken += 1
        elif receipt.kind != "session-open":
            found.wrong(f"the platform had a {receipt.kind} at {receipt.received_utc} that is not shown", "missing-vs-receipt")


    if overtaken:
        found.note(f"{overtaken} checkpoints are not shown; a manifest that the platform had after them says all that they said")


def _overtaken(gathered: Documents) -> int:
    """The platform's number of the last manifest shown that it accepted: what came before it is bounded by that one."""
    manifests = {each.digest for each in gathered.manifests}
    return max((r.number for r in gathered.receipts.values() if r.answers in manifests and r.verdict == "accepted"), default=0)


def _fits(found: Findings, receipt: Receipt, document: Signed, newest: Mapping[str, int]) -> None:
    """A receipt names what it answers by more than the digest: all of it must fit."""
    wanted: list[tuple[str, Any, Any]] = [("kind", receipt.kind, _KINDS[type(document)]), ("device", receipt.device, document.device),
                                          ("room", receipt.room, document.room)]
    if isinstance(document, Manifest | Opening):
        wanted.append(("session", receipt.session, document.session))
    if isinstance(document, Manifest):
        wanted.append(("revision", receipt.revision, document.revision))
    for what, said, true in wanted:
        if said != true:
            found.wrong(f"{receipt.name}: the receipt is for another {what}: {said!r}, not {true!r}", "receipt")
    if receipt.verdict != "accepted":
        of_newest = not isinstance(document, Manifest) or newest.get(document.session) == document.revision
        fault = Fault("rejected", f"{receipt.name}: the platform did not accept {document.name}")
        (found.wrong if of_newest else found.note)(fault)


def _receipts_themselves(found: Findings, gathered: Documents) -> None:
    """Each receipt names the platform's receipt before it: one that was taken away is missed by the next.

    Up to the last accepted manifest that is shown that is no fault: receipts of checkpoints are not kept for ever, and what sessions there
    were until then is bounded by that manifest, its number and the chain of those before it."""
    ordered, overtaken = sorted(gathered.receipts.values(), key=lambda r: r.number), _overtaken(gathered)
    missed = [each for each in ordered[1:] if each.prev is not None and each.prev not in gathered.receipts]
    if any(each.number <= overtaken for each in missed):
        found.note("some receipts of the platform are not shown (of checkpoints, as a rule); ask the platform for all of them to be sure")
    for receipt in missed:
        if receipt.number > overtaken:
            found.wrong(f"a receipt of the platform is missing: number {receipt.number} ({receipt.received_utc}) names one before it "
                        "that is not shown", "receipt-missing")
