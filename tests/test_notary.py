"""What the room signs and whom it believes: real keys, a real database, the recorder's real socket, a clock in the test's hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from jsonschema import Draft202012Validator

from edge.capture.control import RecorderControl, serve_control
from edge.clock import US, Stamp, iso_utc
from edge.evidence import chain, keys
from edge.evidence.envelope import RECEIPT, ROSTER, SESSION_MANIFEST, SESSION_OPEN, Opened, Signer, read_envelope, seal
from edge.evidence.manifest import RoomFacts
from edge.notary import Notary
from edge.room import Room
from edge.sessions import events as e
from edge.sessions.machine import State
from edge.sim.authority import Authority
from edge.sim.people import BY_NAME, PEOPLE
from edge.storage.outbox import OutboxItem

if TYPE_CHECKING:
    from tests.conftest import Device, Hall

ROOT = Path(__file__).parents[1]
ROOM = "000000-KD01-R01"
SESSION, LATER, OTHER = "S20261126-KD01-R01-01", "S20261126-KD01-R01-02", "S20261126-KD01-R01-03"
STREAMS = ("cam-back", "cam-front", "mic")
WAIT_S = 10


def schema(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((ROOT / f"docs/schemas/{name}.json").read_text(encoding="utf-8")))


class Recorder:
    """The recorder's end of its socket: what it was asked."""

    def __init__(self, path: Path) -> None:
        self.path, self.asked = path, list[dict[str, Any]]()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(request)
        return {"streams": 3}


class Office:
    """A hall with its notary. `advance` leads a session on; `settle` lets the notary do all that is due now."""

    def __init__(self, hall: Hall, authority: Authority, device: Device, recorder: Path) -> None:
        self.hall, self.authority, self.device, self.recorder = hall, authority, device, recorder
        leaf = x509.load_pem_x509_certificates(device.signer.chain_pem.encode())[0]
        self.facts = RoomFacts(site="KD01", room_code=ROOM, device_id=device.id, cert_sha256=keys.fingerprint(leaf), sw_version="0.1.0",
                               sw_sha256="1" * 64, config_sha256="2" * 64, boot_id="boot-1", hmac_key_id="room-1", require_sync=True)
        self.ways: dict[str, Iterator[tuple[State | None, Callable[[], Awaitable[object]]]]] = {}
        self.notary = self.restart()

    def restart(self) -> Notary:
        """Room and notary die and start anew over the same file."""
        room = self.hall.restart()
        self.notary = Notary(room, self.device.signer, self.authority.root_pem, self.facts, RecorderControl(self.recorder), WAIT_S)
        return self.notary

    async def advance(self, state: State, session: str = SESSION) -> None:
        way = self.ways.setdefault(session, self.hall.way(session))
        for reached, go in way:
            await go()
            if reached is state:
                return
        raise AssertionError(state)

    async def settle(self) -> int:
        steps = 0
        while await self.notary.step():
            steps += 1
            assert steps < 100, "the notary does not come to rest"
        return steps

    async def record(self, session: str = SESSION, streams: tuple[str, ...] = STREAMS, until: Stamp | None = None) -> None:
        """One segment of each stream, from before the doors opened until `until` (now, and a little more)."""
        opened = self.hall.room.state.sessions[session].opened
        assert opened
        for stream in streams:
            await self.hall.segment(stream, opened.at.plus(-US), until or self.hall.clock.now().plus(US))

    async def sealed(self, session: str = SESSION) -> None:
        """The session's books are closed and revision 1 is signed, without a gap."""
        await self.advance(State.CHECKIN, session)
        await self.settle()
        await self.advance(State.SEALING, session)
        await self.record(session)
        await self.settle()

    def all(self, kind: type[e.Event], session: str = SESSION) -> list[Any]:
        return [r.event for r in self.hall.room.events(session) if isinstance(r.event, kind)]

    def signed(self, kind: str, session: str = SESSION) -> list[Opened]:
        """What the room has signed of a kind, verified as the platform would."""
        payload_type = {"session-open": SESSION_OPEN, "session-manifest": SESSION_MANIFEST}[kind]
        return [read_envelope(each.body, self.authority.root_pem, payload_type, "device", None)
                for each in self.hall.catalog.envelopes(session) if each.kind == kind]

    async def item(self) -> OutboxItem:
        item = await self.hall.outbox.next_due(self.hall.clock.now())
        assert item
        return item

    def receipt(self, item: OutboxItem, signer: Signer | None = None, payload_type: str = RECEIPT, drop: tuple[str, ...] = (),
                **changed: Any) -> bytes:
        payload: dict[str, Any] = {
            "type": "exam-platform-receipt/v1", "receipt_id": "Q1", "kind": item.kind, "digest": item.digest, "device": self.device.id,
            "room_code": ROOM, "session_id": item.session, "verdict": "accepted", "reasons": [], "platform_seq": 1,
            "received_utc": iso_utc(self.hall.clock.now().utc_us), **({"revision": item.revision} if item.revision else {}), **changed}
        return seal(payload_type, {k: v for k, v in payload.items() if k not in drop}, signer or self.authority.platform)

    async def accept(self, **changed: Any) -> None:
        item = await self.item()
        assert await self.notary.receipt(item, self.receipt(item, **changed))


@pytest.fixture
async def recorder(tmp_path: Path) -> AsyncIterator[Recorder]:
    recorder = Recorder(tmp_path / "r.sock")
    server = await serve_control(recorder.path, recorder.answer)
    yield recorder
    server.close()
    await server.wait_closed()


@pytest.fixture
def office(hall: Hall, authority: Authority, device: Device, tmp_path: Path) -> Office:
    """A recorder that is away: everything goes on without it."""
    return Office(hall, authority, device, tmp_path / "nobody.sock")


# ---- going out ---------------------------------------------------------------------------------------------------------

async def test_the_open_is_signed_before_anything_else_and_owed_at_once(office: Office) -> None:
    assert await office.settle() == 0
    await office.advance(State.PREFLIGHT)
    assert await office.settle() == 0, "nothing is signed before the doors open"
    await office.advance(State.CHECKIN)
    assert await office.settle() == 1
    (opened,) = office.signed("session-open")
    schema("session-open").validate(opened.payload)
    assert opened.payload["session"]["id"] == SESSION and opened.name == office.device.id
    item = await office.item()
    assert (item.kind, item.digest, item.revision) == ("session-open", opened.digest, None)
    assert office.hall.room.state.sessions[SESSION].open_digest == opened.digest
    assert await office.settle() == 0
    office.restart()
    assert await office.settle() == 0, "a restart signs it no second time"


async def test_an_open_that_a_crash_prevented_is_signed_at_the_next_start(office: Office) -> None:
    await office.advance(State.RUNNING)
    office.restart()
    assert await office.settle() == 1
    assert len(office.signed("session-open")) == 1


async def test_the_books_are_closed_when_the_last_segments_are_here(office: Office) -> None:
    await office.advance(State.CHECKIN)
    await office.settle()
    await office.advance(State.SEALING)
    await office.record(streams=("cam-front", "mic"))
    assert await office.settle() == 0, "cam-back's is still to come"
    await office.record(streams=("cam-back",))
    assert await office.settle() == 2                   # the books, the signature
    (signed,) = office.signed("session-manifest")
    schema("manifest").validate(signed.payload)
    assert signed.payload["gaps"] == [] and len(signed.payload["segments"]) == 3
    assert office.hall.room.state.sessions[SESSION].state is State.SEALED and office.hall.room.state.live is None
    assert office.all(e.ManifestSigned)[0].digest == signed.digest
    assert chain.verify(office.hall.journal.all()) is None


async def test_a_segment_that_ends_before_the_seal_is_not_the_last(office: Office) -> None:
    await office.advance(State.CHECKIN)
    await office.settle()
    before = office.hall.clock.now().plus(30 * US)
    await office.advance(State.SEALING)
    await office.record(until=before)
    assert await office.settle() == 0


@pytest.mark.parametrize("missing", [("mic",), STREAMS])
async def test_after_ten_seconds_what_is_missing_is_declared(office: Office, missing: tuple[str, ...]) -> None:
    await office.advance(State.CHECKIN)
    await office.settle()
    await office.advance(State.SEALING)
    await office.record(streams=tuple(s for s in STREAMS if s not in missing))
    await office.hall.clock.pass_time(WAIT_S - 0.001)
    assert await office.settle() == 0
    await office.hall.clock.pass_time(0.001)
    assert await office.settle() == 2
    opened, order = office.all(e.CheckinOpened)[0], office.all(e.SealOrdered)[0]
    gaps = office.all(e.GapDeclared)
    assert [(g.stream, g.revision, g.reason) for g in gaps] == [(s, 1, "not-recording") for s in missing]
    assert {(g.from_utc_us, g.to_utc_us, g.dur_us) for g in gaps} == {
        (opened.at.utc_us, order.at.utc_us, order.at.us_since(opened.at))}
    (signed,) = office.signed("session-manifest")
    schema("manifest").validate(signed.payload)
    assert [g["stream"] for g in signed.payload["gaps"]] == list(missing)


async def test_a_step_of_the_wall_clock_neither_shortens_nor_lengthens_the_wait(office: Office) -> None:
    await office.advance(State.CHECKIN)
    await office.settle()
    await office.advance(State.SEALING)
    for step in (10**6, -2 * 10**6):
        office.hall.clock.step_wall(step * US)
        assert await office.settle() == 0
    await office.hall.clock.pass_time(WAIT_S)
    assert await office.settle() == 2


@pytest.mark.parametrize("off_s", [60, -4 * 365 * 86400])
async def test_a_power_cut_while_the_books_are_being_closed_never_hangs_them(office: Office, off_s: int) -> None:
    await office.advance(State.SEALING)
    office.hall.clock.reboot("boot-2", off_s * US)
    office.restart()
    await office.settle()
    assert office.hall.room.state.sessions[SESSION].state is State.SEALED
    assert len(office.signed("session-manifest")) == 1 and len(office.all(e.GapDeclared)) == len(STREAMS)


def dying_after(facts: int) -> Callable[..., tuple[str, str]]:
    """A chain that takes this many facts more, and then the power goes."""
    left = facts

    def link(*columns: Any) -> tuple[str, str]:
        nonlocal left
        if left == 0:
            raise OSError("the power went")
        left -= 1
        return chain.link(*columns)

    return link


@pytest.mark.parametrize("crash_at", range(6))
async def test_a_crash_anywhere_in_closing_declares_each_gap_once(office: Office, crash_at: int) -> None:
    """Facts to come: three gaps, Sealed, ManifestSigned. Before each of them the power may go; then Room and notary start anew."""
    await office.advance(State.CHECKIN)
    await office.settle()
    await office.advance(State.SEALING)
    await office.hall.clock.pass_time(WAIT_S)
    office.hall.link = dying_after(crash_at)
    if crash_at < 5:
        with pytest.raises(OSError):
            await office.settle()
    else:
        await office.settle()
    office.hall.link = chain.link
    office.restart()
    await office.settle()
    assert [(g.stream, g.revision) for g in office.all(e.GapDeclared)] == [(s, 1) for s in STREAMS]
    assert [len(office.all(kind)) for kind in (e.Sealed, e.ManifestSigned, e.OpenSigned)] == [1, 1, 1]
    (signed,) = office.signed("session-manifest")
    assert len(signed.payload["gaps"]) == 3
    assert chain.verify(office.hall.journal.all()) is None


async def test_a_segment_that_comes_to_light_later_makes_a_further_revision(office: Office) -> None:
    await office.advance(State.CHECKIN)
    await office.settle()
    await office.advance(State.SEALING)
    await office.record(streams=("cam-front", "mic"))
    await office.hall.clock.pass_time(WAIT_S)
    await office.settle()
    (first,) = office.signed("session-manifest")
    assert [g["stream"] for g in first.payload["gaps"]] == ["cam-back"]

    await office.hall.clock.pass_time(3600)
    await office.record(streams=("cam-back",))
    assert await office.settle() == 0, "others may be recovered with it: one revision for all"
    office.restart()                                    # and a restart in between forgets none of it
    await office.hall.clock.pass_time(2)
    assert await office.settle() == 2
    first_again, second = office.signed("session-manifest")
    schema("manifest").validate(second.payload)
    assert first_again == first, "what was signed stands"
    assert (second.payload["revision"], second.payload["amends"], second.payload["gaps"]) == (2, first.digest, [])
    assert second.payload["prev"]["manifest_sha256"] == first.digest
    assert len(second.payload["segments"]) == len(first.payload["segments"]) + 1
    assert office.hall.room.state.sessions[SESSION].late_segments == 0
    office.restart()
    assert await office.settle() == 0


async def test_attendance_put_right_after_the_seal_makes_a_further_revision(office: Office) -> None:
    await office.advance(State.CHECKIN)
    await office.settle()
    await office.advance(State.SEALING)
    await office.record()
    await office.hall.clock.pass_time(WAIT_S)
    await office.settle()
    (first,) = office.signed("session-manifest")
    somebody = next(a["candidate_id"] for a in first.payload["attendance"] if a["result"] == "admitted")
    await office.hall.room.correct_attendance(SESSION, somebody, "T001", "1001", "absent", "冒名，事后查实")
    assert await office.settle() == 0, "others may be corrected with it"
    office.restart()
    await office.hall.clock.pass_time(2)
    assert await office.settle() == 2
    first_again, second = office.signed("session-manifest")
    schema("manifest").validate(second.payload)
    assert first_again == first and (second.payload["revision"], second.payload["amends"]) == (2, first.digest)
    changed = {a["candidate_id"]: a["result"] for a in second.payload["attendance"]}
    assert changed[somebody] == "absent" and second.payload["segments"] == first.payload["segments"]
    office.restart()
    assert await office.settle() == 0


@pytest.mark.parametrize("crash_at", range(5))
async def test_a_crash_anywhere_in_amending_ends_in_one_second_revision(office: Office, crash_at: int) -> None:
    """Facts to come: two gaps that are left, SessionAmended, ManifestSigned. Before each of them the power may go."""
    await office.advance(State.CHECKIN)
    await office.settle()
    await office.advance(State.SEALING)
    await office.hall.clock.pass_time(WAIT_S)
    await office.settle()
    await office.record(streams=("cam-back",))
    await office.hall.clock.pass_time(2)
    office.hall.link = dying_after(crash_at)
    if crash_at < 4:
        with pytest.raises(OSError):
            await office.settle()
    else:
        await office.settle()
    office.hall.link = chain.link
    office.restart()
    await office.settle()
    assert [(g.stream, g.revision) for g in office.all(e.GapDeclared)] == [
        *((s, 1) for s in STREAMS), ("cam-front", 2), ("mic", 2)]
    assert [len(office.all(kind)) for kind in (e.Sealed, e.SessionAmended, e.ManifestSigned)] == [1, 1, 2]
    first, second = office.signed("session-manifest")
    assert (second.payload["revision"], second.payload["amends"]) == (2, first.digest)
    assert [g["stream"] for g in second.payload["gaps"]] == ["cam-front", "mic"]
    assert chain.verify(office.hall.journal.all()) is None


@pytest.mark.parametrize("crash", [True, False])
async def test_a_gap_that_is_filled_before_the_books_close_is_none(office: Office, crash: bool) -> None:
    """cam-back's last segment comes between GapDeclared and Sealed, by intake or recovery: revision 2 takes the gap back."""
    await office.advance(State.CHECKIN)
    await office.settle()
    await office.advance(State.SEALING)
    await office.record(streams=("mic",))
    await office.hall.clock.pass_time(WAIT_S)
    if crash:
        office.hall.link = dying_after(2)
        with pytest.raises(OSError):
            await office.settle()
        office.hall.link = chain.link
        office.restart()
        await office.record(streams=("cam-back",))
    else:
        declaring = asyncio.create_task(office.settle())
        await until(office.hall.room, lambda: bool(office.all(e.GapDeclared)))
        await office.record(streams=("cam-back",))
        await declaring
    await office.settle()
    await office.hall.clock.pass_time(3600)
    await office.settle()
    last = office.signed("session-manifest")[-1].payload
    if [s["stream"] for s in last["segments"]] != ["cam-back", "mic"]:
        raise RuntimeError("the test itself is amiss: the segment is not in")
    assert [g["stream"] for g in last["gaps"]] == ["cam-front"], "it says that footage is missing which it names itself"


async def test_the_next_session_names_the_one_before_and_its_receipt(office: Office) -> None:
    await office.sealed()
    await office.accept()                               # the open
    await office.accept()                               # the manifest
    (first,) = office.signed("session-manifest")
    await office.sealed(LATER)
    (opened,), (second,) = office.signed("session-open", LATER), office.signed("session-manifest", LATER)
    receipt = office.hall.room.state.sessions[SESSION].revisions[0].receipt_sha256
    for signed in (opened, second):
        assert signed.payload["prev"] == {"manifest_sha256": first.digest, "receipt_sha256": receipt}
    assert second.payload["open"]["open_receipt_sha256"] == "absent-offline"
    assert (second.payload["counters"]["session_seq"], second.payload["counters"]["closed_total"]) == (2, 2)


async def test_what_is_signed_holds_nobodys_name_or_number(office: Office) -> None:
    await office.advance(State.CHECKIN)
    for person in PEOPLE:
        await office.hall.show(person.name)
    office.hall.roster = []                             # all are in
    session = office.hall.room.state.sessions[SESSION]
    await office.hall.fact(e.ExamEnded, by="T001", outcome="aborted", reason="考生身体不适")
    await office.hall.fact(e.SealOrdered, by="T001", second="T002", statement="s", absent=())
    await office.hall.clock.pass_time(WAIT_S)
    await office.settle()
    texts = [each.body.decode() for each in (*office.signed("session-open"), *office.signed("session-manifest"))]
    assert len(texts) == 2 and session.admitted
    for person in PEOPLE:
        assert all(person.id_no not in text and person.name not in text for text in texts)


async def test_cuts_are_sent_where_the_interval_begins_and_ends(hall: Hall, authority: Authority, device: Device,
                                                               recorder: Recorder) -> None:
    office = Office(hall, authority, device, recorder.path)
    await office.advance(State.CHECKIN)
    await office.settle()
    assert recorder.asked == [{"do": "cut"}]
    await office.advance(State.RUNNING)
    await office.settle()
    await office.advance(State.CLOSING)
    await office.settle()
    assert recorder.asked == [{"do": "cut"}], "no cut in the middle"
    await office.advance(State.SEALING)
    await office.settle()
    await office.settle()
    assert recorder.asked == [{"do": "cut"}] * 2


async def until(room: Room, condition: Callable[[], bool]) -> None:
    """Look at each change of the room until it is so; TimeoutError after 20 s."""
    waker = room.changed()
    async with asyncio.timeout(20):
        while not condition():
            await waker.wait()
            waker.clear()


async def test_it_runs_by_itself(office: Office) -> None:
    """The loop as `app` runs it: woken by the Room, looking twice a second while books are being closed."""
    room = office.hall.room
    running = asyncio.create_task(office.notary.run())
    await office.advance(State.CHECKIN)
    await until(room, lambda: room.state.sessions[SESSION].open_digest is not None)
    await office.advance(State.SEALING)
    await office.record(streams=("mic",))
    await office.hall.clock.pass_time(WAIT_S)
    await until(room, lambda: bool(room.state.last_manifest))
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])


# ---- receipts ----------------------------------------------------------------------------------------------------------

async def test_accepted_needs_a_signature_and_the_very_digest(office: Office) -> None:
    await office.sealed()
    opening = await office.item()
    assert opening.kind == "session-open"
    assert await office.notary.receipt(opening, office.receipt(opening))
    assert office.hall.room.state.sessions[SESSION].open_receipt
    manifest = await office.item()
    assert (manifest.kind, manifest.revision) == ("session-manifest", 1)
    envelope = office.receipt(manifest, keep_until="2040-01-01", platform_seq=7)
    schema("receipt").validate(read_envelope(envelope, office.authority.root_pem, RECEIPT, "platform", None).payload)
    assert await office.notary.receipt(manifest, envelope)
    (revision,) = office.hall.room.state.sessions[SESSION].revisions
    assert (revision.verdict, revision.reasons) == ("accepted", ())
    fact = office.all(e.ReceiptVerified)[-1]
    assert (fact.platform_seq, fact.keep_until, fact.revision, fact.answers) == (7, "2040-01-01", 1, "session-manifest")
    assert await office.hall.outbox.next_due(office.hall.clock.now()) is None, "nothing is owed any more"
    kept = [x for x in office.hall.catalog.envelopes(SESSION) if x.kind == "receipt" and x.answers == manifest.digest]
    assert [x.body for x in kept] == [envelope], "the receipt is kept as it came"


async def test_a_rejection_is_a_proof_too(office: Office) -> None:
    await office.sealed()
    await office.accept()
    await office.accept(verdict="rejected", reasons=[{"code": "E-GAPS", "detail": "x"}, {"code": "E-2"}])
    (revision,) = office.hall.room.state.sessions[SESSION].revisions
    assert (revision.verdict, revision.reasons) == ("rejected", ("E-GAPS", "E-2"))
    office.restart()
    assert office.hall.room.state.sessions[SESSION].revisions == (revision,), "and so it stays"
    assert await office.hall.outbox.next_due(office.hall.clock.now()) is None


async def test_the_receipt_is_judged_at_its_own_moment_not_now(office: Office) -> None:
    await office.sealed()
    item = await office.item()
    envelope = office.receipt(item)
    office.hall.clock.step_wall(30 * 365 * 86400 * US)          # the certificates are long over; the receipt is not
    assert await office.notary.receipt(item, envelope)


Forge = Callable[[Office, OutboxItem, Path], bytes]
FORGERIES: dict[str, tuple[str, Forge]] = {
    "signed by the device itself": ("role", lambda o, i, p: o.receipt(i, o.device.signer)),
    "signed by a platform of another root": ("chain", lambda o, i, p: o.receipt(i, Authority.create(p / "forger").platform)),
    "of a payload type that is not a receipt's": ("type", lambda o, i, p: o.receipt(i, payload_type=SESSION_MANIFEST)),
    "with a changed signature": ("signature", lambda o, i, p: swap_payload(o.receipt(i, verdict="rejected"), o.receipt(i))),
    "without a signature": ("signature", lambda o, i, p: unsigned(o.receipt(i))),
    "no envelope": ("json", lambda o, i, p: b"<html>502 Bad Gateway</html>"),
    "empty": ("json", lambda o, i, p: b""),
    "for another digest": ("other-digest", lambda o, i, p: o.receipt(i, digest="0" * 64)),
    "for another session": ("other-subject", lambda o, i, p: o.receipt(i, session_id=LATER)),
    "for another room": ("other-subject", lambda o, i, p: o.receipt(i, room_code="000000-KD01-R02")),
    "for another device": ("other-subject", lambda o, i, p: o.receipt(i, device="KD01-R02-edge")),
    "for another kind": ("other-subject", lambda o, i, p: o.receipt(i, kind="session-open")),
    "for another revision": ("other-subject", lambda o, i, p: o.receipt(i, revision=2)),
    "without a revision": ("other-subject", lambda o, i, p: o.receipt(i, drop=("revision",))),
    "of another version": ("other-subject", lambda o, i, p: o.receipt(i, type="exam-platform-receipt/v2")),
    "with a verdict that is none": ("content", lambda o, i, p: o.receipt(i, verdict="fine")),
    "without a verdict": ("content", lambda o, i, p: o.receipt(i, drop=("verdict",))),
    "without a time": ("content", lambda o, i, p: o.receipt(i, drop=("received_utc",))),
    "with a time that is a number": ("content", lambda o, i, p: o.receipt(i, received_utc=5)),
    "with a time without a zone": ("content", lambda o, i, p: o.receipt(i, received_utc="2026-11-26T06:00:00")),
    "from before the platform had its certificate": ("chain", lambda o, i, p: o.receipt(i, received_utc="2001-01-01T00:00:00.000Z")),
    "with reasons that are none": ("content", lambda o, i, p: o.receipt(i, reasons=["x"])),
    "with reasons that are no list": ("content", lambda o, i, p: o.receipt(i, reasons=5)),
    "without reasons": ("content", lambda o, i, p: o.receipt(i, drop=("reasons",))),
    "with a number that is text": ("content", lambda o, i, p: o.receipt(i, platform_seq="1")),
    "with a number that is true": ("content", lambda o, i, p: o.receipt(i, platform_seq=True)),
    "with a date that is a number": ("content", lambda o, i, p: o.receipt(i, keep_until=20400101)),
}


def swap_payload(signed: bytes, other: bytes) -> bytes:
    """The signature of one document over another: what a forger has."""
    one, two = json.loads(signed), json.loads(other)
    return json.dumps({**one, "payload": two["payload"]}).encode()


def unsigned(signed: bytes) -> bytes:
    return json.dumps({**json.loads(signed), "signatures": []}).encode()


@pytest.mark.parametrize("what", FORGERIES)
async def test_what_proves_nothing_is_not_accepted_and_said_once(office: Office, tmp_path: Path, what: str) -> None:
    word, forge = FORGERIES[what]
    await office.sealed()
    await office.accept()
    item = await office.item()
    envelope = forge(office, item, tmp_path)
    for _ in range(3):                                  # the courier goes on asking
        assert await office.notary.receipt(item, envelope) is False
    assert [(f.reason, f.digest) for f in office.all(e.ReceiptRefused)] == [(word, item.digest)]
    (revision,) = office.hall.room.state.sessions[SESSION].revisions
    assert (revision.verdict, revision.receipt_refused) == (None, word)
    assert (await office.item()).digest == item.digest, "it is still owed"
    assert len([x for x in office.hall.catalog.envelopes(SESSION) if x.kind == "receipt"]) == 1, "the forgery is not kept"
    office.restart()
    assert office.hall.room.state.sessions[SESSION].revisions[0].verdict is None
    assert await office.notary.receipt(item, office.receipt(item)), "and the true one is still believed"
    assert office.hall.room.state.sessions[SESSION].revisions[0].verdict == "accepted"


async def test_an_open_is_not_held_by_the_platform_before_it_signed_for_it(office: Office) -> None:
    await office.sealed()
    opening = await office.item()
    for envelope in (unsigned(office.receipt(opening)), office.receipt(opening, office.device.signer)):
        assert not await office.notary.receipt(opening, envelope)
        session = office.hall.room.state.sessions[SESSION]
        assert (session.open_receipt, session.revisions[0].receipt_refused) == (None, None), "nor is it the manifest's fault"
    assert [(f.answers, f.reason) for f in office.all(e.ReceiptRefused)] == [("session-open", "signature"), ("session-open", "role")]
    assert (await office.item()) == opening


async def test_another_reason_is_another_fact(office: Office) -> None:
    await office.sealed()
    item = await office.item()
    for envelope in (b"", office.receipt(item, digest="0" * 64), office.receipt(item, digest="0" * 64), b""):
        await office.notary.receipt(item, envelope)
    assert [f.reason for f in office.all(e.ReceiptRefused)] == ["json", "other-digest", "json"]


# ---- rosters -----------------------------------------------------------------------------------------------------------

def roster(office: Office, names: tuple[str, ...] = ("样例甲",), version: int = 2, signer: Signer | None = None, **changed: Any) -> bytes:
    rows = [{"candidate_id": p.candidate_id, "name": p.name, "id_type": "resident_id", "id_no": p.id_no, "admission_no": "A1",
             "person_category": p.category, "exam_kind": p.exam_kind, "subject": p.subject, "attempt_no": 1,
             **({"seat_no": p.seat} if p.seat else {})} for p in (BY_NAME[name] for name in names)]
    payload = {"type": "exam-roster/v1", "plan_id": f"P-{SESSION}", "session_id": SESSION, "version": version,
               "issued_utc": iso_utc(office.hall.clock.now().utc_us), "room_code": ROOM, "candidates": rows, **changed}
    return seal(ROSTER, payload, signer or office.authority.platform)


def listed(office: Office) -> list[str]:
    return [c.name for c in office.hall.room.rosters[SESSION].candidates]


async def test_a_signed_roster_takes_the_place_of_the_old(office: Office) -> None:
    await office.hall.room.plan(office.hall.plan(), "{}")
    assert await office.notary.roster(f"P-{SESSION}", roster(office))
    assert listed(office) == ["样例甲"]
    assert await office.notary.roster(f"P-{SESSION}", roster(office, ("样例甲", "样例乙"), 3))
    assert listed(office) == ["样例甲", "样例乙"]
    assert [f.version for f in office.all(e.RosterAccepted)] == [2, 3]
    office.restart()
    assert listed(office) == ["样例甲", "样例乙"]


@pytest.mark.parametrize(("what", "reason"), [
    ("device", "role"), ("forger", "chain"), ("unsigned", "signature"), ("garbage", "json"), ("room", "content"), ("session", "content"),
    ("older", "content"),
    ("not-a-list", "content"), ("double", "content"), ("manifest", "type"),
])
async def test_a_roster_that_cannot_be_trusted_is_refused_and_the_old_one_stays(office: Office, tmp_path: Path, what: str,
                                                                               reason: str) -> None:
    await office.hall.room.plan(office.hall.plan(), "{}")
    assert await office.notary.roster(f"P-{SESSION}", roster(office, version=5))
    made: dict[str, Callable[[], bytes]] = {
        "device": lambda: roster(office, ("样例辛",), 6, office.device.signer),
        "forger": lambda: roster(office, ("样例辛",), 6, Authority.create(tmp_path / "forger").platform),
        "unsigned": lambda: unsigned(roster(office, ("样例辛",), 6)),
        "garbage": lambda: b"\xff\xfe",
        "room": lambda: roster(office, ("样例辛",), 6, room_code="000000-KD01-R02"),
        "session": lambda: roster(office, ("样例辛",), 6, session_id=LATER),
        "older": lambda: roster(office, ("样例辛",), 4),
        "not-a-list": lambda: roster(office, version=6, candidates={"a": 1}),
        "double": lambda: roster(office, ("样例辛", "样例辛"), 6),
        "manifest": lambda: seal(SESSION_MANIFEST, {"type": "exam-roster/v1"}, office.authority.platform),
    }
    bad = made[what]()
    for _ in range(3):
        assert await office.notary.roster(f"P-{SESSION}", bad) is False
    assert [f.reason for f in office.all(e.RosterRefused)] == [reason], "said once"
    assert listed(office) == ["样例甲"] == [p.name for p in office.hall.catalog.people(SESSION)]
    assert await office.notary.roster(f"P-{SESSION}", roster(office, ("样例乙",), 7))
    assert listed(office) == ["样例乙"]


async def test_a_roster_of_an_unknown_plan_is_asked_for_again(office: Office) -> None:
    assert await office.notary.roster("P-unknown", roster(office)) is False
    assert list(office.hall.journal.all()) == []


async def test_from_the_opened_doors_on_no_roster_is_wanted(office: Office) -> None:
    await office.advance(State.CHECKIN)
    head, before = office.hall.journal.head, listed(office)
    assert await office.notary.roster(f"P-{SESSION}", roster(office, ("样例辛",), 99)) is True
    assert await office.notary.roster(f"P-{SESSION}", b"garbage") is True
    assert office.hall.journal.head == head and listed(office) == before


# ---- plans -------------------------------------------------------------------------------------------------------------

def plan(office: Office, **changed: Any) -> dict[str, Any]:
    return {"session_id": SESSION, "room_code": ROOM, "plan_id": "P20261126-0007", "session_type": "exam_theory",
            "title": "特种作业安全技术理论考试(低压电工)", "scheduled_start": "2026-11-26T14:00:00+08:00", "duration_min": 120,
            "rules": {"checkin_open_min": 30, "late_cutoff_min": 30, "min_proctors": 2},
            "staff": [{"staff_id": "T001", "name": "样例主考", "role": "chief"},
                      {"staff_id": "T002", "name": "样例监考一", "role": "proctor"}],
            "retention_policy": "RP-SPECIAL-6Y", **changed}


async def test_a_plan_becomes_a_session_with_its_staff_and_rules(office: Office) -> None:
    await office.notary.plans([plan(office)])
    planned = office.hall.room.state.sessions[SESSION].plan
    assert (planned.scheduled_start_us, planned.staff) == (1_795_672_800 * US, {"T001": "chief", "T002": "proctor"})
    assert json.loads(office.hall.catalog.plan(SESSION) or "")["staff"][0]["name"] == "样例主考"
    head = office.hall.journal.head
    await office.notary.plans([plan(office)])
    assert office.hall.journal.head == head, "the same plan is no news"
    await office.notary.plans([plan(office, duration_min=90)])
    assert office.hall.room.state.sessions[SESSION].plan.duration_min == 90


async def test_another_rooms_plan_is_nothing_to_this_one(office: Office) -> None:
    await office.notary.plans([plan(office, room_code="000000-KD01-R02"), plan(office, session_id=LATER)])
    assert set(office.hall.room.state.sessions) == {LATER}


async def test_the_platform_may_call_a_session_off_before_the_doors_open_and_not_after(office: Office) -> None:
    await office.notary.plans([plan(office, state="cancelled")])
    assert office.hall.room.state.sessions == {}, "nothing is planned to be cancelled"
    await office.notary.plans([plan(office), plan(office, state="cancelled")])
    assert office.hall.room.state.sessions[SESSION].state is State.CANCELLED
    await office.notary.plans([plan(office), plan(office, duration_min=1)])
    assert office.hall.room.state.sessions[SESSION].state is State.CANCELLED, "and nothing brings it back"
    await office.advance(State.PREFLIGHT, OTHER)
    await office.notary.plans([plan(office, session_id=OTHER, state="cancelled")] * 2)
    assert [c.by for c in office.all(e.SessionCancelled, OTHER)] == ["platform"]
    await office.advance(State.CHECKIN, LATER)
    await office.notary.plans([plan(office, session_id=LATER, state="cancelled")])
    assert office.hall.room.state.sessions[LATER].state is State.CHECKIN


@pytest.mark.parametrize("word", ["cancelled plan", "bad roster"])
async def test_the_doors_may_open_while_the_platform_still_speaks(office: Office, word: str) -> None:
    """Both wait for the Room's turn; the chief is first. The late word changes nothing and ends nothing."""
    await office.notary.plans([plan(office, staff=[{"staff_id": "T001", "name": "样例主考", "role": "chief"}],
                                    rules={"checkin_open_min": 30, "late_cutoff_min": 30, "min_proctors": 0},
                                    scheduled_start=iso_utc(office.hall.clock.now().utc_us))])
    await office.hall.accept_roster()
    room = office.hall.room
    await room.begin_preflight(SESSION, "T001")
    await office.hall.fact(e.StaffPresent, staff_id="T001", role="chief")
    await office.hall.fact(e.ExitsChecked, by="T001")
    opening = asyncio.create_task(room.open_checkin(SESSION, "T001"))
    await asyncio.sleep(0)                              # it has the turn now, and is writing
    if word == "cancelled plan":
        await office.notary.plans([plan(office, state="cancelled")])
    else:
        await office.notary.roster(room.state.sessions[SESSION].plan.plan_id, b"garbage")
    await opening
    assert room.state.sessions[SESSION].state is State.CHECKIN
    assert room.events(SESSION)[-1].event.kind == "CheckinOpened"


async def test_manifests_follow_each_other_without_a_fork(office: Office) -> None:
    """A revision of one session is ordered while another closes its books: what is ordered first is signed first, and named by the next."""
    await office.sealed(SESSION)
    await office.advance(State.CHECKIN, LATER)
    await office.settle()
    await office.advance(State.SEALING, LATER)
    await office.record(LATER)
    opened = office.hall.room.state.sessions[SESSION].opened
    assert opened
    await office.hall.segment("cam-front", opened.at.plus(US), opened.at.plus(2 * US))        # comes to light late
    while office.hall.room.state.sessions[LATER].state is not State.SEALED:
        assert await office.notary.step()
    await office.hall.clock.pass_time(3)            # only now is the late segment due
    await office.settle()
    signed = sorted(({**each.payload, "id": each.digest} for session in (SESSION, LATER)
                     for each in office.signed("session-manifest", session)), key=lambda d: d["journal"]["last"])
    assert len(signed) == 3
    assert [each["prev"].get("manifest_sha256") for each in signed] == [None, *(each["id"] for each in signed[:-1])]
