"""One check of everything, and what becomes of its findings.

Without `--repair` nothing is written. Beside a running room two looks are taken, and only what both of them found is told: what is on its
way in one look has arrived by the next. With `--repair` the room must rest, and its socket is held so that none starts meanwhile; a finding
is mended as it is found (what lies behind relies on it), unless the journal itself is not whole: then nothing follows from it for sure.
Called by `edge fsck`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edge import checkpoints, durable, keeper, keyring, notary, storecheck
from edge.capture.storage_id import StorageRefused, check_storage, pinned
from edge.config import Config
from edge.credentials import files_of
from edge.evidence.report import Findings
from edge.fsck import state as state_folder
from edge.fsck.footage import Finding, Footage, Progress
from edge.fsck.invariants import INVARIANTS
from edge.reindex import must_rest
from edge.sessions.machine import RoomState
from edge.storage import owed, rules
from edge.storage.database import Database
from edge.storage.look import Look
from edge.storage.migrations import STEPS
from edge.storage.rules import Mend

PRIORITIES = {"session-open": notary.OPEN_FIRST, "session-manifest": notary.MANIFEST_NEXT, keyring.KIND: keyring.FIRST,
              keeper.KIND: keeper.PRIORITY, "device-checkpoint": checkpoints.PRIORITY}
NO_MEND = "the journal is not whole: nothing was mended, because nothing follows from it for sure"


@dataclass(frozen=True, slots=True)
class Told:
    """A finding as it is told: what contradicts which invariant; `mended`: it was put right; `mendable`: `--repair` would."""

    name: str
    what: str
    mended: bool = False
    mendable: bool = False

    def as_json(self) -> dict[str, Any]:
        return {"invariant": self.name, "what": self.what, "mended": self.mended, "mendable": self.mendable}


@dataclass(slots=True)
class Outcome:
    """`findings` in the order of the invariants; `looked`: sidecars; `rows`: of the journal; `running`: beside a running room."""

    findings: list[Told] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    looked: int = 0
    rows: int = 0
    running: bool = False

    @property
    def left(self) -> list[Told]:
        return [each for each in self.findings if not each.mended]

    def as_json(self) -> dict[str, Any]:
        """For programs. Keys are only ever added."""
        return {"ok": not self.left, "findings": [each.as_json() for each in self.findings], "notes": self.notes, "facts": self.rows,
                "sidecars": self.looked, "room_running": self.running}


def is_running(run: Path) -> bool:
    """Whether a room answers at its socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe, suppress(OSError):
        probe.connect(str(run / "room.sock"))
        return True
    return False


@contextmanager
def no_room(run: Path) -> Iterator[None]:
    """No room runs, and none starts meanwhile: whoever asks finds its socket taken. NotReady if one runs."""
    must_rest(run)
    durable.make_folder(run)
    path = run / "room.sock"
    durable.remove(path)                # what a dead room left
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as held:
        held.bind(str(path))
        path.chmod(0o600)
        held.listen(16)
        try:
            yield
        finally:
            durable.remove(path)


def check(config: Config, *, repair: bool = False, deep: bool = False, progress: Progress = lambda what, done, total: None) -> Outcome:
    """Check everything. NoStore if there is no database; NotReady if a room runs and `repair` was asked for; nothing was changed then."""
    if repair:
        with no_room(config.paths.run):
            return _Look(config, deep, progress, Mender(config)).take()
    outcome = _Look(config, deep, progress, None).take()
    if is_running(config.paths.run):
        outcome.running = True
        if outcome.findings:
            again = {(each.name, each.what) for each in _Look(config, deep, progress, None).take().findings}
            outcome.findings = [each for each in outcome.findings if (each.name, each.what) in again]
    return outcome


class Mender:
    """The database, opened for writing when the first thing is to be mended."""

    def __init__(self, config: Config) -> None:
        self._path, self._database = config.paths.state / "edge.db", None

    _database: Database | None

    def mend(self, change: Mend) -> None:
        if self._database is None:
            self._database = Database(self._path, ballast=False)
        self._database.write_now(change)

    def close(self) -> None:
        if self._database is not None:
            self._database.close()


class _Look:
    """One look at everything."""

    def __init__(self, config: Config, deep: bool, progress: Progress, mender: Mender | None) -> None:
        self._config, self._deep, self._progress, self._mender = config, deep, progress, mender
        self._outcome, self._look = Outcome(), Look(config.paths.state / "edge.db")
        self._sound = True

    def take(self) -> Outcome:
        try:
            state = self._database()
            if state is not None:
                self._footage(state)
                files = files_of(self._config)
                self._take(state_folder.documents(self._look, state, files))
                self._rules(owed.rules(PRIORITIES))
                if any(each.name == "possible-history" for each in self._outcome.findings):
                    self._outcome.notes.append("keys and pictures were not looked at: the journal does not say what should be there")
                else:
                    self._take(state_folder.keys(self._config, state, state_folder.newest_hmac(self._look, state)))
                    self._take(state_folder.pictures(self._look, state, self._config.paths.state))
            self._take(state_folder.staff(self._config.paths.state))
            self._take(state_folder.leftovers(self._config.paths.state, self._config.paths.footage))
        finally:
            if self._mender is not None:
                self._mender.close()
        order = list(INVARIANTS)
        self._outcome.findings.sort(key=lambda each: order.index(each.name))
        if self._mender is not None and not self._sound:
            self._outcome.notes.append(NO_MEND)
        return self._outcome

    def _database(self) -> RoomState | None:
        """The database itself, its journal and what follows from that. None: it cannot be asked."""
        self._progress("database", 0, 1)
        first, *others = rules.RULES
        if self._look.version < len(STEPS):
            self._outcome.notes.append("the database is an older program's; nothing of it was looked at: start the room once, which brings "
                                       "it up to date, then check again")
            return None
        damage = self._found_by(first)
        self._progress("database", 1, 1)
        missing = [each for each in self._found_by(others[0]) if each.startswith("the table")] if not damage else []
        if damage or missing:
            self._outcome.findings += [Told(first.name, each) for each in damage or missing]
            self._outcome.notes.append("the rest of the database was not looked at, nor the footage against it")
            return None
        chain, facts = Findings(b""), list[Finding]()
        storecheck.journal(chain, self._look, partial(self._progress, "journal"))
        self._outcome.rows = self._look.last_row()
        facts += [Finding("journal-chain", str(fault)) for fault in chain.faults]
        state = state_folder.history(self._look.folded(), facts)
        self._sound = not any(each.name in ("journal-chain", "possible-history") for each in facts)
        self._take(facts)
        self._outcome.notes += [f"{each.id} waits for a signature: the room signs when it runs and its key answers"
                                for each in state.sessions.values() if each.opened is not None and (
                                    each.open_digest is None or any(revision.digest is None for revision in each.revisions))]
        self._rules(others)
        return state

    def _found_by(self, rule: rules.Rule) -> list[str]:
        try:
            return self._look.found_by(rule.find)
        except ValueError as error:
            self._sound = False
            return [f"this could not be asked: {error}"]

    def _rules(self, some: Iterable[rules.Rule]) -> None:
        some = tuple(some)
        for done, rule in enumerate(some, 1):
            found = self._found_by(rule)
            left = set(found)
            if found and rule.mend is not None and self._may_mend():
                self._mend(rule.mend)
                left = set(self._found_by(rule))
            self._outcome.findings += [Told(rule.name, each, each not in left, rule.mend is not None and self._sound) for each in found]
            self._progress("tables", done, len(some))

    def _may_mend(self) -> bool:
        return self._mender is not None and self._sound

    def _mend(self, change: Mend) -> None:
        if self._mender is not None:
            self._mender.mend(change)

    def _take(self, findings: Iterable[Finding]) -> None:
        """Each finding, mended where it can be: after all of them, because whoever looks must not see what is being changed."""
        for each in list(findings):
            mended = each.mend is not None and self._may_mend()
            if mended and each.mend is not None:
                self._mend(each.mend)
            self._outcome.findings.append(Told(each.name, each.what, mended, each.mend is not None and self._sound))

    def _footage(self, state: RoomState) -> None:
        paths = self._config.paths
        try:
            check_storage(paths.footage, pinned(paths.state))
        except StorageRefused as refused:
            self._take([Finding("storage-identity", str(refused))])
            return
        footage = Footage(paths.footage, self._look, frozenset(each.id for each in self._config.streams), state, self._deep, self._progress)
        self._take(footage.findings())
        self._outcome.looked, self._outcome.notes = footage.looked, [*self._outcome.notes, *footage.notes]


def lines(outcome: Outcome, most: int = 20) -> Iterator[str]:
    """The report in words: by invariant, what it means and what to do."""
    by_name: dict[str, list[Told]] = {}
    for each in outcome.findings:
        by_name.setdefault(each.name, []).append(each)
    for name, found in by_name.items():
        invariant = INVARIANTS[name]
        yield f"{name}: {invariant.must}"
        yield from (f"  {'mended' if each.mended else 'FOUND'}: {each.what}" for each in found[:most])
        if len(found) > most:
            yield f"  … and {len(found) - most} more of this kind (--json has them all)"
        if not all(each.mended for each in found):
            yield f"  it means: {invariant.means}"
            yield (f"  to do: edge fsck --repair ({invariant.mends})" if any(each.mendable and not each.mended for each in found)
                   else f"  to do: {invariant.do}")
    yield from outcome.notes
    if outcome.running:
        yield "a room is running: only what two looks in a row found is told"
    mended, left = len(outcome.findings) - len(outcome.left), len(outcome.left)
    looked = f"{outcome.rows} facts and {outcome.looked} sidecars were looked at"
    yield (f"clean: every invariant holds; {looked}" if not outcome.findings
           else f"{mended} mended, {left} left; {looked}; nothing was deleted, no file was touched")


