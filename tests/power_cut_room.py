"""A room that is led through a session and killed at its N-th sync, again and again; then led on by whoever finds what is left.

Sync points are every fsync and fdatasync (all of them are `edge.durable`'s and the sealing's) and both sides of every commit of the
database. Run as a program by test_power_cut: `python -m tests.power_cut_room FOLDER STAFF_FILE [EVERY]`; prints one JSON line a cut, and
`{"done": N}` when a run ended without one. Each run is a fork: importing once is enough.
LIMIT: a killed process, not a lost page cache: what a disk keeps of unsynced writes is tests/capture/test_disk.py's and the crash rig's.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509

from edge import durable
from edge.capture.control import RecorderControl
from edge.capture.intake import Intake
from edge.capture.segments import day_folder, publish, stem
from edge.capture.sidecar import Fragment
from edge.clock import US, SimClock
from edge.evidence import chain, envelope, keys, manifest
from edge.evidence.manifest import RoomFacts
from edge.fsck.check import PRIORITIES
from edge.notary import Notary
from edge.sessions import events as e
from edge.sessions.machine import Session, State
from edge.sim.authority import Authority
from edge.storage import owed, rules
from edge.storage.database import Database
from edge.storage.look import Look
from edge.storage.migrations import STEPS
from tests.conftest import SESSION, STREAMS, Device, Hall, two_o_clock


class Cut:
    """Ends this very process, as hard as can be, at the N-th sync."""

    def __init__(self, at: int) -> None:
        self._at, self.count = at, 0

    def tick(self) -> None:
        self.count += 1
        if self.count == self._at:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        def before(real: Callable[[Any], None]) -> Callable[[Any], None]:
            def sync(handle: Any) -> None:
                self.tick()
                real(handle)
            return sync

        for name in ("fsync", "fdatasync"):
            setattr(os, name, before(getattr(os, name)))
        real = Database._transact

        def transact(database: Database, change: Callable[[Any], Any]) -> Any:
            def counted(connection: Any) -> Any:
                result = change(connection)
                self.tick()             # all is written, nothing is committed
                return result
            result = real(database, counted)
            self.tick()                 # committed, and nobody was told
            return result

        Database._transact = transact  # type: ignore[method-assign, assignment]


class House:
    """The room as found in `folder`; `acked`: told each time something was promised."""

    def __init__(self, folder: Path, staff: Path, boot: int, acked: Callable[[int], None], cut: Cut | None) -> None:
        self.folder, self.acked = folder, acked
        scratch = folder.with_name(f"{folder.name}-scratch-{boot}")
        self.hall = hall = Hall(scratch, staff, SimClock(utc_us=two_o_clock() + boot * 300 * US, boot=f"boot-{boot}"))
        hall.database.close()
        shutil.rmtree(scratch)
        if cut:
            cut.install()               # what the scratch room synced does not count
        hall.folder = folder
        (folder / "state").mkdir(parents=True, exist_ok=True)
        shutil.copy(staff, folder / "state" / "staff.json")
        hall.database = Database(folder / "state" / "edge.db", ballast=False)
        hall.room = hall._open(hall.database)
        self.began = hall.journal.head[0]       # what the cut left
        device = folder.parent / "device"
        signer = envelope.FileSigner(device / "device.key", device / "device.pem")
        leaf = x509.load_pem_x509_certificates(signer.chain_pem.encode())[0]
        facts = RoomFacts("KD01", "000000-KD01-R01", "KD01-R01-edge", keys.fingerprint(leaf), "0", "1" * 64, "2" * 64, f"boot-{boot}",
                          "room-1", True)
        self.notary = Notary(hall.room, signer, (folder.parent / "authority" / "root.pem").read_bytes(), facts,
                             RecorderControl(folder / "no.sock"), 10)
        self.intake = Intake(folder / "footage", list(STREAMS), hall.room.segment, hall.catalog.last_seq, hall.clock, folder / "run", 0)

    async def lead(self) -> None:
        """Do what comes next until the session is sealed and its manifest signed and stored."""
        while True:
            session = self.hall.room.state.sessions.get(SESSION)
            if session and session.state is State.SEALED and session.revisions[-1].digest:
                await self.intake.look()
                await self.hall.clock.pass_time(5)
                while await self.notary.step():
                    self.acked(self.hall.journal.head[0])
                return
            await self._next(session)
            self.acked(self.hall.journal.head[0])

    async def _next(self, session: Session | None) -> None:
        hall, fact = self.hall, self.hall.fact
        if session is None:
            await hall.room.plan(hall.plan(), "{}")
        elif session.roster is None:
            await hall.accept_roster()
        elif session.state is State.PLANNED:
            await fact(e.PreflightBegun, by="T001")
        elif session.state is State.PREFLIGHT and len(session.present) < 2:
            who, role = (("T001", "chief"), ("T002", "proctor"))[len(session.present)]
            await fact(e.StaffPresent, staff_id=who, role=role)
        elif session.state is State.PREFLIGHT:
            await fact(e.CheckinOpened, by="T001", session_seq=hall.room.state.opened_total + 1, streams=STREAMS, readings={},
                       clock_state="synced")
        elif await self.notary.step():
            return
        elif session.state is State.CHECKIN and not session.admitted:
            first = hall.roster[0]
            await fact(e.CandidateAdmitted, candidate_id=first.candidate_id, subject=hall.room.subject(first.id_no), method="id_card",
                       seat=first.seat)
        elif session.state is State.CHECKIN:
            await self.minute()
            await fact(e.ExamStarted, by="T001", age_ms={})
        elif session.state is State.RUNNING:
            await self.minute()
            await fact(e.ExamEnded, by="T001", outcome="completed")
        elif session.state is State.CLOSING:
            await fact(e.SealOrdered, by="T001", second="T002", statement="seal.statement", absent=())
        else:
            await hall.clock.pass_time(11)

    async def minute(self) -> None:
        """Each stream's next segment, with the recorder's own order on the disk, and what the intake makes of it."""
        await self.hall.clock.pass_time(60)
        end = self.hall.clock.now()
        for stream in sorted(STREAMS):
            folder = self.folder / "footage" / stream
            self.hall._seq[stream] = max((int(path.name[:10]) for path in folder.rglob("*.mp4")), default=0)
            data = os.urandom(500) * 2
            sidecar = self.hall.sidecar(stream, end.plus(-60 * US), end, sha256=hashlib.sha256(data).hexdigest(),
                                        fragments=(Fragment(200, 800, US, 60 * US, True),))
            path = day_folder(folder, sidecar.start.utc_us) / f"{stem(sidecar.seq, sidecar.start.utc_us)}.mp4"
            durable.make_folder(path.parent)
            with durable.create(path) as file:
                file.write(data)
                os.fsync(file.fileno())
            publish(path, sidecar)
            await self.intake.look()
            self.acked(self.hall.journal.head[0])


def judge(house: House) -> dict[str, Any]:
    """What must be so after any cut, as facts for the test to look at."""
    hall = house.hall
    rows = list(hall.journal.all())
    with hall.database.read() as connection:
        kept = [tuple(row) for row in connection.execute("SELECT kind, revision, digest FROM envelope ORDER BY kind, revision")]
        owed = [row[0] for row in connection.execute("SELECT digest FROM outbox")]
    session = hall.room.state.sessions[SESSION]
    stored = [r.event for r in rows if isinstance(r.event, e.SegmentStored)]
    last = len(session.revisions)
    declared = sorted((g.stream, g.from_utc_us, g.to_utc_us) for r in rows
                      if isinstance(g := r.event, e.GapDeclared) and g.revision == last)
    assert session.opened and session.seal_order
    due = manifest.find_gaps(stored, session.opened.streams, session.opened.at, session.seal_order.at)
    on_disk = sorted((path.parts[-5], int(path.name[:10])) for path in (house.folder / "footage").rglob("*Z.json"))
    return {"opens": sum(isinstance(r.event, e.CheckinOpened) for r in rows), "sealed": sum(isinstance(r.event, e.Sealed) for r in rows),
            "amended": last - 1, "envelopes": [(kind, revision) for kind, revision, _ in kept],
            "digests": sorted(digest for _, _, digest in kept) == sorted(owed) and len(set(owed)) == len(owed),
            "signed": [r.event.revision for r in rows if isinstance(r.event, e.ManifestSigned)],
            "chain": chain.verify(rows), "began": house.began,
            "segments": sorted((s.stream, s.seq) for s in stored) == on_disk and len(on_disk) >= 6,
            "gaps": declared == sorted((g.stream, g.from_utc_us, g.to_utc_us) for g in due)}


def run(folder: Path, staff: Path, boot: int, at: int) -> tuple[bool, int, dict[str, Any] | None]:
    """One fork: (was it cut, the last promise it made, its judgement if it came to the end)."""
    mine, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(mine)

            async def go() -> None:
                def acked(seq: int) -> None:
                    os.write(theirs, f"{seq}\n".encode())

                house = House(folder, staff, boot, acked, Cut(at) if at else None)
                await house.lead()
                os.write(theirs, json.dumps(judge(house)).encode() + b"\n")
                house.hall.database.close()

            asyncio.run(go())
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
    os.close(theirs)
    with os.fdopen(mine) as told:
        lines = told.read().splitlines()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status not in (0, -signal.SIGKILL):
        raise SystemExit(f"the room ended by itself with {status}, cut {at}, boot {boot}")
    promised = [int(line) for line in lines if line.isdecimal()]
    found = json.loads(lines[-1]) if status == 0 else None
    return status != 0, max(promised, default=0), found


def contradictions(home: Path) -> list[str]:
    """What of the database contradicts its journal at this moment, before anybody has started again: by the rules of `edge fsck`."""
    if not (home / "state" / "edge.db").is_file() or (look := Look(home / "state" / "edge.db")).version < len(STEPS):
        return []                       # cut while the database was being made
    return [f"{rule.name}: {each}" for rule in (*rules.RULES, *owed.rules(PRIORITIES)) for each in look.found_by(rule.find)]


def main(folder: Path, staff: Path, every: int) -> None:
    device = Device(folder / "device", Authority.create(folder / "authority"))
    assert device.signer.chain_pem
    for n in itertools.count(1, every):
        home = folder / "room"
        was_cut, acked, found = run(home, staff, 0, n)
        against = contradictions(home)
        if was_cut:
            found = run(home, staff, 1, 0)[2]
            assert found is not None
            found["promised"] = acked
            against += contradictions(home)
        found = {**(found or {}), "contradictions": against}
        print(json.dumps({"cut" if was_cut else "done": n, **found}), flush=True)
        shutil.rmtree(home)
        if not was_cut:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 1)
