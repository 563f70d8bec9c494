"""Nothing unexpired goes: not by a jumping clock, a full, foreign or half-empty disk, a silent platform; and what is over goes whole.

Real database, journal, files and signatures; the clock and the instruments are in the test's hand.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest

from edge.capture.control import RecorderControl
from edge.clock import LOCAL, US, SystemClock, iso_utc
from edge.evidence.disposition import read_disposition
from edge.evidence.envelope import RECEIPT, Signer, seal
from edge.evidence.keys import request
from edge.evidence.manifest import RoomFacts
from edge.evidence.signers import Borrowed, SignerFault, open_signer
from edge.forgetting import Forgetter
from edge.keeper import Keeper, Means, as_json
from edge.notary import Notary
from edge.room import Refusal
from edge.sessions import events as e
from edge.sessions.machine import State
from edge.sim.authority import Authority
from edge.sim.people import PEOPLE
from edge.status import ClockReading, DiskReading
from edge.storage.keeping import Keeping
from tests import killed
from tests.evidence.holders import Token, needs_token

if TYPE_CHECKING:
    from tests.conftest import Device, Hall

DAY = 86400
ROOT = Path(__file__).resolve().parent.parent
FACTS = RoomFacts(site="KD01", room_code="000000-KD01-R01", device_id="KD01-R01-edge", cert_sha256="c" * 64, sw_version="0",
                  sw_sha256="a" * 64, config_sha256="b" * 64, boot_id="sim-boot-1", hmac_key_id="room-1", require_sync=True)


class House:
    """A hall with footage on the disk and a keeper. `fault`, `reserved`: what the keeper is told of disk and exports."""

    def __init__(self, hall: Hall, device: Device) -> None:
        self.hall, self.device, self.fault, self.reserved = hall, device, "", set[str]()
        self.signer: Signer = device.signer
        self.footage = hall.folder / "footage"
        self._goes_at_the_fact = False
        self.keeper = self.open()

    def pulled_out_at_the_fact(self) -> None:
        """The disk goes when the next session is given up, before its first file."""
        self._goes_at_the_fact = True

    def plugged_in(self) -> None:
        self.footage.with_name("pulled out").rename(self.footage)

    def _storage_fault(self) -> str:
        if self._goes_at_the_fact and self.keeping.garbage():
            self._goes_at_the_fact = False
            self.footage.rename(self.footage.with_name("pulled out"))
        return self.fault or ("" if self.footage.exists() else "not mounted")

    def open(self) -> Keeper:
        self.keeping = Keeping(self.hall.database, self.footage)
        self.keeper = Keeper(self.hall.room, Means(
            self.keeping, self.signer, FACTS, self._storage_fault, lambda: self.hall.clock_reading.state == "synced",
            streams=["cam-front", "cam-back", "mic"], reserved=lambda: self.reserved))
        return self.keeper

    def forgetter(self) -> Forgetter:
        return Forgetter(self.hall.room, self.keeping, self.hall.folder / "state" / "enrolment", self.keeper.trusted)

    async def session(self, number: int, *, receipt: bool = True, segments: int = 3, keep_until: str | None = None) -> str:
        """A sealed session with footage on the disk, its manifest answered now by the platform."""
        hall, clock = self.hall, self.hall.clock
        session = f"S{hall.room.local_date(clock.now().utc_us):%Y%m%d}-KD01-R01-{number:02d}"
        await hall.to(State.CLOSING, session)
        start = clock.now()
        for _ in range(segments):
            await clock.pass_time(60)
            for stream in ("cam-front", "cam-back"):
                await self.record(stream, start, clock.now())
            start = clock.now()
        ways = [go for _, go in hall.way(session)][-3:]
        await ways[0]()
        await ways[1]()
        ended = hall.room.local_date(clock.now().utc_us)
        until = keep_until or ended.replace(year=ended.year + 3).isoformat()
        await hall.fact(e.Sealed, session, revision=1, opened_total=hall.room.state.opened_total,
                        closed_total=hall.room.state.closed_total + 1, keep_until=until, retention_policy="RP-GENERAL-3Y",
                        retention_basis="3年")
        digest = hashlib.sha256(session.encode()).hexdigest()
        await hall.fact(e.ManifestSigned, session, revision=1, digest=digest)
        if receipt:
            await self.receipt(session, digest)
        return session

    async def receipt(self, session: str, digest: str, verdict: str = "accepted", **fields: Any) -> None:
        at = self.hall.clock.now().utc_us
        receipt = hashlib.sha256(f"{session} {at}".encode()).hexdigest()
        await self.hall.fact(e.ReceiptVerified, session, answers="session-manifest", digest=digest, verdict=verdict, platform_seq=1,
                             receipt_sha256=receipt, received_utc_us=at, revision=1, **fields)

    async def record(self, stream: str, start: Any, end: Any) -> Path:
        """A segment as a worker leaves it, taken in."""
        sidecar = self.hall.sidecar(stream, start, end, bytes=100)
        day = datetime.fromtimestamp(start.utc_us / US, LOCAL)
        path = f"{stream}/{day:%Y/%m/%d}/{sidecar.seq:010d}-20261126T060000Z.mp4"
        media = self.footage / path
        media.parent.mkdir(parents=True, exist_ok=True)
        media.write_bytes(b"x" * 100)
        media.with_suffix(".json").write_bytes(b"{}")
        media.with_suffix(".watch.json").write_bytes(b"{}")
        await self.hall.room.segment(sidecar, path, hashlib.sha256(b"{}").hexdigest())
        return media

    async def years(self, years: int, days: int = 1) -> None:
        """The room is switched off and comes up later; the platform is heard at once (an announcement's receipt), footage goes on."""
        today = self.hall.room.local_date(self.hall.clock.now().utc_us)
        then = date(today.year + years, today.month, min(today.day, 28)) + timedelta(days=days + 3)
        self.hall.clock.reboot(f"boot-{then}", (then - today).days * DAY * US)
        for stream in ("cam-front", "cam-back"):
            await self.record(stream, self.hall.clock.now().plus(-60 * US), self.hall.clock.now())

    async def heard(self, session: str) -> None:
        """The platform signs what time it is: any receipt will do."""
        await self.hall.fact(e.ReceiptVerified, session, answers="session-open", digest="0" * 64, verdict="accepted", platform_seq=2,
                             receipt_sha256="e" * 64, received_utc_us=self.hall.clock.now().utc_us)

    def files(self) -> set[str]:
        return {str(path.relative_to(self.footage)) for path in self.footage.rglob("*") if path.is_file()}

    def kinds(self) -> list[str]:
        return [row.event.kind for row in self.hall.journal.all()]

    def count(self, table: str, session: str) -> int:
        with self.hall.database.read() as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table} WHERE session = ?", (session,)).fetchone()[0])  # noqa: S608

    async def approve(self) -> None:
        report = await self.keeper.report(0)
        await self.hall.room.approve_disposal([line.session for line in report.due], 1, "A001", "2001")


class SlowHolder:
    """A TPM that answers when it is let: a program of openssl's name that says in one pipe that it was asked, and waits for the other."""

    def __init__(self, folder: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self.asked, self.answer = folder / "asked", folder / "answer"
        os.mkfifo(self.asked)
        os.mkfifo(self.answer)
        key = folder / "device.key"
        key.write_text("-----BEGIN TSS2 PRIVATE KEY-----\nAA==\n-----END TSS2 PRIVATE KEY-----\n", encoding="ascii")
        program = folder / "openssl"
        program.write_text(f"#!/bin/sh\n: >{self.asked}\n: <{self.answer}\n"
                           f"exec {shutil.which('openssl')} pkeyutl -inkey {state / 'device.key'} -sign -pkeyopt digest:sha256\n",
                           encoding="ascii")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        self.signer = open_signer(key, state / "device.pem")


@contextmanager
def refusing(*folders: Path) -> Iterator[None]:
    """Folders in which nothing may be removed: for root, whom no mode stops, the file system's own mark (chattr +i)."""
    def mark(flag: int, mode: int) -> None:
        for folder in folders:
            if os.geteuid() != 0:
                folder.chmod(mode)
                continue
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.ioctl(handle, 0x40086602, struct.pack("l", flag))     # FS_IOC_SETFLAGS
            except OSError as error:
                pytest.skip(f"this file system has no such mark ({error}): try another TMPDIR, or not as root")
            finally:
                os.close(handle)
    mark(0x10, 0o500)                                                       # FS_IMMUTABLE_FL
    try:
        yield
    finally:
        mark(0, 0o700)


@pytest.fixture
def house(hall: Hall, device: Device) -> House:
    return House(hall, device)


async def over(house: House, sessions: int = 2) -> list[str]:
    """Sessions whose three years are over, by both clocks; a young one beside them."""
    old = [await house.session(n + 1) for n in range(sessions)]
    await house.years(3)
    await house.heard(old[0])
    return old


async def test_a_session_goes_whole_when_its_time_is_over_by_both_clocks(house: House) -> None:
    old = await over(house)
    young = await house.session(7)
    before = house.files()
    assert await house.keeper.step() == 0 and house.files() == before, "two of three sessions are more than goes unasked"
    assert house.hall.room.state.disposal_halted is not None and house.hall.room.state.disposal_halted.reason == "too-much"
    await house.approve()
    assert await house.keeper.step() == 2
    kept = {row.path for row in house.hall.catalog.segments(young)}
    assert {name for name in house.files() if name.endswith(".mp4")} >= kept and len(kept) == 6
    assert not any(house.hall.catalog.segments(each) for each in old)
    assert len(house.files()) == len(before) - 2 * 6 * 3, "film, sidecar and note of each of six segments"
    for each in old:
        assert [house.count(table, each) for table in ("person", "plan", "seen_card", "session_segment", "footage_total")] == [0] * 5
        assert house.hall.room.rosters[each].candidates == ()
        assert house.hall.room.events(each), "the facts stay"
    assert house.count("person", young) > 0
    assert house.kinds().count("FootageDisposed") == 2 and house.keeping.garbage() == 0
    assert house.hall.room.state.disposal_halted is None and await house.keeper.step() == 0


async def test_the_disposition_record_is_signed_and_owed_before_the_first_file_goes(house: House, authority: Authority) -> None:
    old = await over(house, 1)
    await house.approve()
    before = house.files()

    with refusing(*{path.parent for path in house.footage.rglob("*.mp4")}), pytest.raises(PermissionError):
        await house.keeper.step()                       # the disk refuses the first file already
    assert house.files() == before
    stored = next(each for each in house.hall.catalog.envelopes(old[0]) if each.kind == "session-disposition")
    record = read_disposition(stored.body, authority.root_pem, None).payload
    jsonschema.validate(record, json.loads((ROOT / "docs/schemas/disposition.json").read_text(encoding="utf-8")))
    session = house.hall.room.state.sessions[old[0]]
    assert session.disposed is not None and session.disposition == stored.digest
    assert record["session"]["id"] == old[0] and record["footage"]["segments"] == 6 and record["footage"]["bytes"] == 600
    assert record["footage"]["streams"] == {"cam-back": 3, "cam-front": 3} and record["approved_by"] == "A001"
    listed = sorted(f"{s.event.path}\t{s.event.sha256}\n" for s in house.hall.room.events(old[0]) if isinstance(s.event, e.SegmentStored))
    assert record["footage"]["list_sha256"] == hashlib.sha256("".join(listed).encode()).hexdigest()
    assert record["manifests"] == [session.revisions[0].digest] and record["time"]["witness_receipt"] == "e" * 64
    item = await house.hall.outbox.next_due(house.hall.clock.now())
    assert item is not None and (item.kind, item.digest) == ("session-disposition", stored.digest)
    assert house.keeper.signed()
    await house.open().step()                           # the next pass finishes what is half done
    assert house.keeping.garbage() == 0 and len(house.files()) == len(before) - 18


@needs_token
async def test_a_key_that_is_away_postpones_the_record_and_with_it_every_file(house: House, authority: Authority, token: Token) -> None:
    key = house.hall.folder / "token.key"
    certificate = key.with_suffix(".pem")
    certificate.write_bytes(authority.issue_device(request(Borrowed(token.make(key)), FACTS.device_id)))
    house.signer = open_signer(key, certificate)
    house.open()
    await over(house, 1)
    await house.approve()
    before = house.files()
    token.unplug()
    with pytest.raises(SignerFault):
        await house.keeper.step()
    assert not house.keeper.signed() and house.files() == before
    token.plug()
    await house.keeper.step()
    assert house.keeper.signed() and len(house.files()) == len(before) - 18


async def test_the_platforms_answer_to_the_record_is_verified_and_clears_the_outbox(house: House, authority: Authority) -> None:
    old = await over(house, 1)
    await house.approve()
    assert await house.keeper.step() == 1
    item = await house.hall.outbox.next_due(house.hall.clock.now())
    assert item is not None
    notary = Notary(house.hall.room, house.device.signer, authority.root_pem, FACTS, RecorderControl(house.hall.folder / "no.sock"), 10)
    payload = {"type": "exam-platform-receipt/v1", "receipt_id": "R-1", "kind": "session-disposition", "digest": item.digest,
               "device": FACTS.device_id, "room_code": FACTS.room_code, "session_id": old[0], "verdict": "accepted", "reasons": [],
               "platform_seq": 9, "received_utc": iso_utc(SystemClock().now().utc_us)}
    forged = seal(RECEIPT, payload | {"digest": "0" * 64}, authority.platform)
    assert not await notary.receipt(item, forged) and house.hall.room.state.sessions[old[0]].disposition_receipt is None
    assert await notary.receipt(item, seal(RECEIPT, payload, authority.platform))
    assert house.hall.room.state.sessions[old[0]].disposition_receipt is not None
    assert await house.hall.outbox.next_due(house.hall.clock.now()) is None


@pytest.mark.parametrize("jump_years", [4, 10, -25])
async def test_a_jump_of_the_clock_deletes_nothing(house: House, jump_years: int) -> None:
    for n in range(3):
        await house.session(n + 1)
    await house.record("cam-front", house.hall.clock.now(), house.hall.clock.now().plus(60 * US))
    before = house.files()
    house.hall.clock.step_wall(jump_years * 365 * DAY * US)     # and whoever lies says that it is synchronised
    assert await house.keeper.step() == 0
    house.hall.clock.reboot("boot-x", 60 * US)                  # … across a restart too
    house.hall.restart()
    assert await house.open().step() == 0 and house.files() == before
    halted = house.hall.room.state.disposal_halted
    assert (halted is not None and halted.reason == "clock") is (jump_years > 0), "a person is told"


async def test_without_a_disciplined_clock_or_without_the_platforms_word_nothing_goes(house: House) -> None:
    old = [await house.session(1)]
    await house.years(4)
    assert await house.keeper.step() == 0 and (house.keeper.day() or "9999") < "2028"
    await house.heard(old[0])
    await house.approve()
    house.hall.clock_reading = ClockReading("unsynced", 1000)
    assert await house.keeper.step() == 0 and house.hall.catalog.segments(old[0])
    house.hall.clock_reading = ClockReading("synced", 1000)
    assert await house.keeper.step() == 1


async def test_the_last_day_itself_is_kept(house: House) -> None:
    today = house.hall.room.local_date(house.hall.clock.now().utc_us).isoformat()
    session = await house.session(1, keep_until=today)
    await house.record("cam-front", house.hall.clock.now(), house.hall.clock.now().plus(60 * US))
    await house.record("cam-back", house.hall.clock.now(), house.hall.clock.now().plus(60 * US))
    assert (await house.keeper.report(0)).due == ()
    await house.hall.clock.pass_time(DAY)
    await house.heard(session)
    assert [line.session for line in (await house.keeper.report(0)).due] == [session]


async def test_holds_longer_terms_exports_and_open_manifests_keep_a_session(house: House) -> None:
    held, longer, read, silent, rejected, free = [await house.session(n + 1, receipt=n != 3) for n in range(6)]
    room = house.hall.room
    hold = await room.place_hold(held, "A001", "2001", "诉讼保全")
    until = room.local_date(house.hall.clock.now().utc_us).year + 9
    await room.lengthen(longer, f"{until}-01-01", "A001", "2001", "发证日期已知")
    await house.receipt(rejected, hashlib.sha256(rejected.encode()).hexdigest(), "rejected")
    house.reserved = {read}
    await house.years(4)
    await house.heard(free)
    report = await house.keeper.report(0)
    assert {line.session: line.bars for line in report.lines} == {
        held: ("hold",), read: ("exporting",), silent: ("no-receipt",), rejected: ("rejected",), free: ()}
    await room.approve_disposal([held, longer, read, silent, rejected, free], 1, "A001", "2001")
    assert await house.keeper.step() == 1, "agreeing to it does not lift a hold"
    assert [each for each in (held, longer, read, silent, rejected, free) if not house.hall.catalog.segments(each)] == [free]
    await room.release_hold(held, hold, "A001", "2001", "撤销")
    house.reserved = set()
    assert await house.keeper.step() == 2 and not house.hall.catalog.segments(held) and house.hall.catalog.segments(longer)


async def test_a_hold_that_comes_at_the_last_moment_wins(house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the middle of a pass: the key's holder takes its time over the first session's record, meanwhile an auditor holds the second."""
    holder = SlowHolder(tmp_path / "holder", tmp_path / "state", monkeypatch)
    house.signer = holder.signer
    house.open()
    old = await over(house)
    await house.approve()
    step = asyncio.create_task(house.keeper.step())
    await asyncio.to_thread(holder.asked.read_bytes)        # returns when it was asked to sign
    await house.hall.room.place_hold(old[1], "A001", "2001", "r")
    holder.answer.write_bytes(b"")
    assert await step == 1
    assert not house.hall.catalog.segments(old[0]) and house.hall.catalog.segments(old[1])


async def test_only_an_auditor_holds_and_only_with_pin_and_reason(house: House) -> None:
    session = await house.session(1)
    room = house.hall.room
    for by, pin, reason, word in [("T001", "1001", "r", "auditor-only"), ("A001", "0000", "r", "wrong-pin"),
                                  ("A001", "2001", " ", "reason-needed")]:
        with pytest.raises(Refusal) as refused:
            await room.place_hold(session, by, pin, reason)
        assert refused.value.word == word
    with pytest.raises(Refusal, match="not-later"):
        await room.lengthen(session, "2027-01-01", "A001", "2001", "r")
    with pytest.raises(Refusal, match="no-such-hold"):
        await room.release_hold(session, "H-none", "A001", "2001", "r")
    assert not room.state.sessions[session].holds


async def test_a_foreign_disk_and_files_that_are_missing_stop_everything(house: House) -> None:
    old = await over(house)
    await house.approve()
    before = house.files()
    house.fault = "another disk"
    assert await house.keeper.step() == 0 and house.hall.room.state.disposal_halted is not None
    assert house.hall.room.state.disposal_halted.reason == "storage" and house.files() == before
    house.fault = ""
    aside = house.footage.rename(house.footage.with_name("elsewhere"))      # an empty mount point that has the right identity
    house.footage.mkdir()
    assert await house.keeper.step() == 0
    assert house.hall.room.state.disposal_halted.reason == "files-missing"
    assert all(house.hall.catalog.segments(each) for each in old), "no row goes because its file is missing"
    house.footage.rmdir()
    aside.rename(house.footage)
    assert await house.keeper.step() == 2
    assert house.kinds().count("DisposalHalted") == 2 and house.kinds()[-1] != "DisposalHalted"


async def test_an_unplugged_disk_in_the_middle_forgets_nothing(house: House) -> None:
    await over(house, 1)
    await house.approve()
    before = len(house.files())
    house.pulled_out_at_the_fact()
    assert await house.keeper.step() == 1
    assert await house.keeper.step() == 0 and house.keeping.garbage() == 6
    house.plugged_in()
    assert len(house.files()) == before
    await house.keeper.step()
    assert house.keeping.garbage() == 0 and len(house.files()) == before - 18


async def test_what_two_sessions_share_stays_until_both_are_over(house: House) -> None:
    first = await house.session(1)
    shared = next(row.event for row in house.hall.room.events(first)
                  if isinstance(row.event, e.SegmentStored) and row.event.stream == "cam-front")
    second = await house.session(2)
    await house.hall.room.report(replace(shared, session=second, at=house.hall.clock.now()))
    await house.hall.room.lengthen(second, "2040-01-01", "A001", "2001", "r")
    digest = hashlib.sha256(f"{second}2".encode()).hexdigest()
    await house.hall.fact(e.SessionAmended, second, revision=2, reason="segment-recovered", amends="0" * 64)
    await house.hall.fact(e.ManifestSigned, second, revision=2, digest=digest)
    await house.receipt(second, digest)
    await house.years(4)
    await house.heard(first)
    await house.approve()
    assert await house.keeper.step() == 1
    assert (house.footage / shared.path).exists() and shared.seq in {s.seq for s in house.hall.catalog.segments(second, "cam-front")}
    gone = next(row.event for row in house.hall.room.events(first) if isinstance(row.event, e.FootageDisposed))
    assert gone.segments == 5 and gone.streams == {"cam-back": 3, "cam-front": 2}


async def test_the_newest_segment_of_a_stream_that_records_stays(house: House) -> None:
    """Workers number on from it; a number must never come twice."""
    old = await over(house, 1)
    with_newest = await house.session(2, keep_until=house.hall.room.local_date(house.hall.clock.now().utc_us).isoformat())
    await house.hall.clock.pass_time(2 * DAY)
    await house.heard(old[0])
    report = await house.keeper.report(0)
    assert {line.session: line.bars for line in report.lines} == {old[0]: (), with_newest: ("newest",)}


async def test_a_live_session_has_the_disk_to_itself_unless_it_runs_full(house: House) -> None:
    await over(house, 1)
    await house.approve()
    await house.hall.to(State.RUNNING, "S20301201-KD01-R01-09")
    assert await house.keeper.step() == 0
    await house.hall.fact(e.SpaceLow, None, reason="timetable", free_bytes=1, needed_bytes=2, foreign_bytes=0)
    assert await house.keeper.step() == 1, "what is over goes first when the disk runs full"


async def test_people_are_forgotten_when_nothing_asks_for_them(house: House) -> None:
    """Refused cards after 30 days, lists of sessions that never took place, door pictures with their session."""
    hall, room = house.hall, house.hall.room
    session = await house.session(1)
    assert room.photos is not None
    path, _ = room.photos.keep(session, b"\xff\xd8 somebody \xff\xd9")
    picture = hall.folder / "state" / path
    await hall.to(State.RUNNING, "S20261127-KD01-R01-02")
    refused = next(p for p in PEOPLE if not p.in_session)
    await hall.show(refused.name)
    for go in [go for state, go in hall.way("S20261127-KD01-R01-02") if state in (State.CLOSING, State.SEALING, State.SEALED)]:
        await go()
    await hall.room.plan(hall.plan("S20261127-KD01-R01-03"), "{}")
    await hall.accept_roster("S20261127-KD01-R01-03")
    cards = house.count("seen_card", "S20261127-KD01-R01-02")
    assert cards == 1
    await house.forgetter().step()
    assert house.count("person", "S20261127-KD01-R01-03") > 0 and house.count("seen_card", "S20261127-KD01-R01-02") == cards
    await hall.clock.pass_time(31 * DAY)
    hall.clock_reading = ClockReading("unsynced", 0)
    await house.forgetter().step()
    assert house.count("person", "S20261127-KD01-R01-03") > 0, "an undisciplined clock forgets nobody"
    assert "S20261127-KD01-R01-03" in room.rosters.kept()
    hall.clock_reading = ClockReading("synced", 0)
    await house.forgetter().step()
    assert house.count("person", "S20261127-KD01-R01-03") == 0 and house.count("seen_card", "S20261127-KD01-R01-02") == 0
    assert room.rosters["S20261127-KD01-R01-03"].candidates == () and "S20261127-KD01-R01-03" not in room.rosters.kept()
    assert house.count("person", session) > 0 and picture.exists()
    await house.years(3)
    await house.heard(session)
    await house.approve()
    assert await house.keeper.step() == 1
    await house.forgetter().step()
    assert not picture.exists()


async def test_enrolment_photos_of_people_whom_nobody_awaits_go_after_thirty_days(house: House) -> None:
    hall = house.hall
    folder = hall.folder / "state" / "enrolment"
    folder.mkdir()
    awaited, stranger, new = (folder / f"{name}.jpg" for name in (hall.roster[0].candidate_id, "C-STRAY", "C-NEW"))
    await hall.to(State.PLANNED, "S20261127-KD01-R01-03")
    now_s = hall.clock.now().utc_us // US
    for path, age_days in ((awaited, 300), (stranger, 31), (new, 29)):
        path.write_bytes(b"x")
        os.utime(path, (now_s, now_s - age_days * DAY))
    await house.forgetter().step()
    assert sorted(path.name for path in folder.iterdir()) == sorted([awaited.name, new.name])


async def test_the_report_says_what_thirty_days_bring_and_names_nobody(house: House) -> None:
    session = await house.session(1)
    await house.years(3, days=-20)
    await house.heard(session)
    report = await house.keeper.report(30)
    assert [(line.session, line.expired, line.total.segments) for line in report.lines] == [(session, False, 6)]
    assert (await house.keeper.report(0)).lines == ()
    shown = json.dumps(as_json(report), ensure_ascii=False)
    assert report.store.bytes == 600 and report.oldest_kept is not None and not report.asks
    assert not any(p.name in shown or p.id_no in shown for p in house.hall.roster)


# ---- space ------------------------------------------------------------------------------------------------------------

async def test_a_timetable_that_does_not_fit_is_told_before_the_first_exam_and_nothing_is_deleted(house: House) -> None:
    hall = house.hall
    session = await house.session(1)
    before = house.files()
    for n in (2, 3):
        await hall.room.plan(hall.plan(f"S20261127-KD01-R01-{n:02d}", scheduled_start_us=hall.clock.now().utc_us + n * 3600 * US), "{}")
    need = 6000 * 125 * 60 * 210 * 2 * 13 // 10         # three streams of 2,000 kbit/s, two sessions of 120 + 90 minutes
    hall.disk = DiskReading(need, 8 * 10**12, True, "")
    hall.disk = replace(hall.disk, free_bytes=need)
    assert (await house.keeper.look_at_space()).timetable_fits
    hall.disk = replace(hall.disk, free_bytes=need - 1)         # somebody copied a film onto the disk
    found = await house.keeper.look_at_space()
    await house.keeper.look_at_space()
    low = hall.room.state.space_low
    assert low is not None and (low.reason, low.free_bytes, low.needed_bytes) == ("timetable", need - 1, need)
    assert low.foreign_bytes == found.foreign_bytes == 8 * 10**12 - need + 1 - 600
    assert house.kinds().count("SpaceLow") <= 2 and await house.keeper.step() == 0 and house.files() == before
    hall.disk = DiskReading(4 * 10**13, 8 * 10**13, True, "")
    await house.keeper.look_at_space()
    assert hall.room.state.space_low is None and house.kinds()[-1] == "SpaceBack"
    assert house.keeper.heartbeat()["oldest_kept"] <= session[1:5] + "-12-31" and house.keeper.heartbeat()["days_left"] > 30


@pytest.mark.parametrize("files", [1, 2, 4, 7, 12, 30])
async def test_a_kill_at_any_file_is_finished_by_the_next_pass(house: House, files: int) -> None:
    await over(house, 1)
    await house.approve()
    house.pulled_out_at_the_fact()
    assert await house.keeper.step() == 1
    house.plugged_in()
    before = len(house.files())
    assert killed.dies(killed.sweep, house.hall.database.path, house.footage, of=house.footage, at=files)
    assert house.keeping.garbage() == 6, "rows are forgotten after the files only"
    assert len(house.files()) >= before - files
    await house.open().step()
    assert house.keeping.garbage() == 0 and len(house.files()) == before - 18
