"""The device's key over the years: staged, rolled, cut off in the middle, replaced; its certificate's last day; a token pulled out while
people are at the door. Real keys, real files, a real database, a clock in the test's hand."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from jsonschema import Draft202012Validator

from edge import archivable, followers, keyring
from edge.capture.control import RecorderControl
from edge.clock import US, iso_utc
from edge.evidence import envelope as dsse
from edge.evidence import keys
from edge.evidence.envelope import EnvelopeError, read_envelope
from edge.evidence.keys import fingerprint, read_certificates
from edge.evidence.manifest import RoomFacts
from edge.evidence.rollover import read_rollover
from edge.evidence.signers import Borrowed, DeviceSigner, make_key, open_key, open_signer
from edge.export import Exports, Order
from edge.keyring import Files
from edge.notary import Notary
from edge.sessions import events as e
from edge.sessions.machine import State
from edge.sim.authority import Authority
from edge.status import ClockReading
from edge.storage.look import Look
from edge.storecheck import contents_of
from tests import killed
from tests.capture.test_disk import TestDisk, why_not
from tests.evidence.holders import Token, Tpm, needs_token, needs_tpm

if TYPE_CHECKING:
    from tests.conftest import Hall

ROOM, DEVICE = "000000-KD01-R01", "KD01-R01-edge"
SESSION, LATER = "S20261126-KD01-R01-01", "S20261126-KD01-R01-02"
SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[1] / "docs/schemas/rollover.json").read_text(encoding="utf-8")))
RECEIPT = Draft202012Validator(json.loads((Path(__file__).parents[1] / "docs/schemas/receipt.json").read_text(encoding="utf-8")))


class Office:
    """A hall whose device key is kept by the keyring. `start` is what the room does when it starts; `roll` is what a person does before."""

    def __init__(self, hall: Hall, authority: Authority, folder: Path) -> None:
        self.hall, self.authority = hall, authority
        self.files = Files(folder / "device.key", folder / "device.pem", folder / "root.pem")
        self.signer: DeviceSigner
        self.facts: RoomFacts
        make_key(self.files.key, "file")
        self.install(self.files.key)

    def issue(self, key: Path, days: int | None = None) -> bytes:
        """The authority's certificate for a key; `days`: until its end, counted from now."""
        chain = self.authority.issue_device(keys.request(Borrowed(open_key(key)), DEVICE))
        return chain if days is None else shortened(self.authority, chain, days)

    def install(self, key: Path, days: int | None = None) -> str:
        now = int(datetime.now(UTC).timestamp()) * US
        return keyring.install(self.files, self.issue(key, days), self.authority.root_pem, now)

    def stage(self, make: Callable[[Path], object] = lambda path: make_key(path, "file")) -> None:
        make(self.files.next_key)
        assert self.install(self.files.next_key) == "staged-key"

    def open(self) -> None:
        keyring.settle(self.files)
        self.signer = open_signer(self.files.key, self.files.certificate)
        leaf = read_certificates(self.signer.chain_pem.encode())[0]
        self.facts = RoomFacts(site="KD01", room_code=ROOM, device_id=DEVICE, cert_sha256=fingerprint(leaf), sw_version="0.1.0",
                               sw_sha256="1" * 64, config_sha256="2" * 64, boot_id="boot-1", hmac_key_id="room-1", require_sync=True)

    async def start(self) -> Notary:
        """As `app` does, in the same order."""
        room = self.hall.restart()
        self.open()
        self.signer, self.facts = keyring.roll(self.files, self.signer, self.facts, room)
        await keyring.account(self.files, self.facts, room)
        await room.report(e.DaemonStarted(at=room.clock.now(), version="0.1.0", sw_sha256="1" * 64, config_sha256="2" * 64,
                                          device_id=DEVICE, cert_sha256=self.facts.cert_sha256))
        return Notary(room, self.signer, self.authority.root_pem, self.facts, RecorderControl(self.hall.folder / "no.sock"), 10)

    def all(self, kind: type[e.Event]) -> list[Any]:
        return [row.event for row in self.hall.journal.all() if isinstance(row.event, kind)]

    def rollover(self) -> Any:
        [path] = self.files.rollovers.glob("*.dsse.json")
        return read_rollover(path.read_bytes(), self.authority.root_pem, self.hall.clock.now().utc_us)


def shortened(authority: Authority, chain: bytes, days: int) -> bytes:
    """The same certificate, but one that ends in `days`: issued by the same root."""
    leaf = x509.load_pem_x509_certificate(chain)
    now = datetime.now(UTC).replace(microsecond=0)
    builder = (x509.CertificateBuilder().subject_name(leaf.subject).issuer_name(leaf.issuer).public_key(leaf.public_key())
               .serial_number(x509.random_serial_number()).not_valid_before(now - timedelta(days=1))
               .not_valid_after(now + timedelta(days=days)))
    for each in leaf.extensions:
        builder = builder.add_extension(each.value, each.critical)
    return builder.sign(authority._root_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def office(make_hall: Callable[[], Hall], authority: Authority, tmp_path: Path) -> Office:
    folder = tmp_path / "keys"
    folder.mkdir()
    return Office(make_hall(), authority, folder)


# ---- staging ---------------------------------------------------------------------------------------------------------------

def test_what_is_issued_finds_its_place(office: Office) -> None:
    assert office.install(office.files.key) == "staged-renewal", "the same key, another certificate"
    assert keyring.withdraw(office.files) and not office.files.next_certificate.exists()
    now = int(datetime.now(UTC).timestamp()) * US
    assert keyring.install(office.files, office.files.certificate.read_bytes(), office.authority.root_pem, now) == "same"
    office.stage()
    assert office.files.certificate.read_bytes() != office.files.next_certificate.read_bytes()
    assert keyring.withdraw(office.files) and not office.files.next_key.exists()
    assert not keyring.withdraw(office.files)


def test_what_does_not_fit_changes_nothing(office: Office, tmp_path: Path) -> None:
    now = int(datetime.now(UTC).timestamp()) * US
    stranger = Authority.create(tmp_path / "stranger")
    request = keys.request(Borrowed(open_key(office.files.key)), DEVICE)
    other_key = make_key(tmp_path / "other.key", "file")
    platform = (tmp_path / "authority" / "platform.pem").read_bytes()
    before = {path: path.read_bytes() for path in office.files.certificate.parent.iterdir()}
    for chain, root, said in (
            (stranger.issue_device(request), office.authority.root_pem, "does not lead to the pinned root"),
            (b"nothing", office.authority.root_pem, "not a readable certificate"),
            (platform, office.authority.root_pem, "platform's certificate"),
            (office.authority.issue_device(keys.request(Borrowed(other_key), DEVICE)), office.authority.root_pem, "no key of this machine"),
            (office.authority.issue_device(keys.request(Borrowed(open_key(office.files.key)), "another-box")), office.authority.root_pem,
             "another device: another-box"),
            (office.issue(office.files.key), b"", "root")):
        with pytest.raises(keyring.Unfit, match=said):
            keyring.install(office.files, chain, root, now)
    with pytest.raises(keyring.Unfit, match="at that time"):
        keyring.install(office.files, office.issue(office.files.key), office.authority.root_pem, now + 20 * 365 * 86400 * US)
    assert {path: path.read_bytes() for path in office.files.certificate.parent.iterdir()} == before
    office.stage()
    with pytest.raises(keyring.Unfit, match="another key waits"):
        office.install(office.files.key)


# ---- the change ------------------------------------------------------------------------------------------------------------

async def test_the_old_key_names_the_new_one_and_the_platform_answers(office: Office) -> None:
    notary = await office.start()
    old = office.facts.cert_sha256
    office.stage()
    notary = await office.start()
    new = office.facts.cert_sha256
    assert new != old and not office.files.next_key.exists() and not office.files.next_certificate.exists()
    found = office.rollover()
    SCHEMA.validate(found.opened.payload)
    assert (found.old_cert_sha256, found.new_cert_sha256, found.from_session_seq, found.opened.name) == (old, new, 1, DEVICE)
    assert [(each.old_cert_sha256, each.new_cert_sha256, each.from_session_seq) for each in office.all(e.KeyRolled)] == [(old, new, 1)]
    assert office.all(e.KeyReplaced) == []
    room = office.hall.room
    item = await office.hall.outbox.next_due(room.clock.now())
    assert item and (item.kind, item.session, item.digest) == ("key-rollover", None, found.opened.digest)
    receipt = {"type": "exam-platform-receipt/v1", "receipt_id": "Q1", "kind": item.kind, "digest": item.digest, "device": DEVICE,
               "room_code": ROOM, "verdict": "accepted", "reasons": [], "platform_seq": 1,
               "received_utc": iso_utc(room.clock.now().utc_us)}
    RECEIPT.validate(receipt)
    assert not RECEIPT.is_valid({**receipt, "session_id": SESSION}) and not RECEIPT.is_valid({**receipt, "kind": "session-open"})
    assert not await notary.receipt(item, dsse.seal(dsse.RECEIPT, {**receipt, "session_id": SESSION}, office.authority.platform))
    assert await notary.receipt(item, dsse.seal(dsse.RECEIPT, receipt, office.authority.platform))
    assert room.state.rollover_receipts[found.opened.digest].verdict == "accepted"
    assert await office.hall.outbox.next_due(room.clock.now()) is None
    assert (office.files.rollovers / f"{old}.pem").exists(), "the retired certificate is kept for whoever verifies"
    await office.start()
    assert len(office.all(e.KeyRolled)) == 1 and office.all(e.KeyReplaced) == [], "told once"


async def test_a_session_is_finished_by_the_key_that_opened_it(office: Office) -> None:
    notary = await office.start()
    office.stage()
    old = office.facts.cert_sha256
    for state, go in office.hall.way(SESSION):
        await go()
        while await notary.step():
            pass
        if state in (State.CHECKIN, State.RUNNING, State.SEALING):
            notary = await office.start()
            assert office.facts.cert_sha256 == old, f"the old key goes on while the session is {state}"
        if state is State.SEALING:
            break
    room = office.hall.room
    opened = room.state.sessions[SESSION].opened
    assert opened
    for stream in ("cam-back", "cam-front", "mic"):
        await office.hall.segment(stream, opened.at.plus(-US), room.clock.now().plus(US))
    while await notary.step():
        pass
    assert room.state.sessions[SESSION].revisions[-1].digest
    await office.start()
    assert office.facts.cert_sha256 != old and office.rollover().from_session_seq == 2
    signed = {item.kind: item.body for item in office.hall.catalog.envelopes(SESSION)}
    for kind, payload_type in (("session-open", dsse.SESSION_OPEN), ("session-manifest", dsse.SESSION_MANIFEST)):
        assert read_envelope(signed[kind], office.authority.root_pem, payload_type, "device", None).cert_sha256 == old
    names = {file.name for file in archivable.documents(office.hall.room, SESSION, office.authority.root_pem)}
    assert "rollover-1.dsse.json" not in names, "nothing of it is signed by the new key"


async def test_what_the_new_key_signs_leaves_with_the_old_ones_word(office: Office) -> None:
    """Archive and export of a session whose later revision another key signed, two rolls on; with the receipts that there are."""
    hall = office.hall
    notary = await office.start()
    for state, go in hall.way(SESSION):
        await go()
        if state is State.SEALING:
            break
    opened = hall.room.state.sessions[SESSION].opened
    assert opened
    for stream in ("cam-back", "cam-front", "mic"):
        await hall.segment(stream, opened.at.plus(30 * US), hall.clock.now().plus(US))
    while await notary.step():
        pass
    for _ in range(2):
        office.stage()
        notary = await office.start()
    item = await hall.outbox.next_due(hall.clock.now())
    assert item and item.kind == "key-rollover"
    assert await notary.receipt(item, dsse.seal(dsse.RECEIPT, {
        "type": "exam-platform-receipt/v1", "receipt_id": "Q1", "kind": item.kind, "digest": item.digest, "device": DEVICE,
        "room_code": ROOM, "verdict": "accepted", "reasons": [], "platform_seq": 1, "received_utc": iso_utc(hall.clock.now().utc_us)},
        office.authority.platform))
    await hall.segment("mic", opened.at, opened.at.plus(30 * US))
    await hall.clock.pass_time(5)
    while await notary.step():
        pass
    [first, second] = hall.room.catalog.rollovers()[0]
    wanted = {"rollover-1.dsse.json": first, "receipt-rollover-1.dsse.json": hall.room.catalog.rollovers()[1][item.digest],
              "rollover-2.dsse.json": second}
    assert read_rollover(first, office.authority.root_pem).opened.digest == item.digest
    documents = {file.name: file.data for file in archivable.documents(hall.room, SESSION, office.authority.root_pem)}
    assert documents | wanted == documents
    contents = contents_of(Look(hall.database.path), office.authority.root_pem, SESSION)
    assert max(contents.manifests) >= 2 and contents.rollovers == wanted
    laid = await Exports(hall.room, hall.folder, office.authority.root_pem).lay(Order(SESSION, "local", "zip"))
    assert {m.name: m.data for m in laid.archive.members} | wanted == {m.name: m.data for m in laid.archive.members}


async def test_a_renewed_certificate_of_the_same_key_is_named_too(office: Office) -> None:
    await office.start()
    key, old = office.files.key.read_bytes(), office.facts.cert_sha256
    office.install(office.files.key)
    await office.start()
    assert office.facts.cert_sha256 != old and office.files.key.read_bytes() == key
    assert office.rollover().old_cert_sha256 == old


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[TestDisk]:
    """A disk that can lose power."""
    if reason := why_not():
        pytest.skip(reason)
    try:
        made = TestDisk(tmp_path / "disk", 24)
    except OSError as error:
        pytest.skip(f"no disk of the test's own: {error}")
    yield made
    made.remove()


async def cut_anywhere(office: Office, disk: TestDisk | None) -> None:
    """Whichever change of the folder is the last before the end, the next start finishes the roll."""
    await office.start()
    facts, old = office.facts, office.facts.cert_sha256
    office.stage()
    new = fingerprint(read_certificates(office.files.next_certificate.read_bytes())[0])
    folder, before, room = office.files.certificate.parent, office.hall.folder / "before", office.hall.room
    shutil.copytree(folder, before)
    for at in itertools.count(1):
        shutil.rmtree(folder)
        shutil.copytree(before, folder)
        if disk:
            await asyncio.to_thread(subprocess.run, ["sync", "-f", str(folder)], check=True)
        cut = killed.dies(killed.roll, office.files, facts, office.hall.folder, office.hall.clock.now().utc_us,
                          of=folder, at=at, disk=disk.mount if disk else None)
        if cut and disk:
            disk.back()
        office.open()                                       # never a key without its certificate
        office.signer, office.facts = keyring.roll(office.files, office.signer, office.facts, room)
        assert office.facts.cert_sha256 == new and office.rollover().old_cert_sha256 == old
        left = {path.name for path in folder.iterdir() if path.suffix != ".part"}
        assert left == {"device.key", "device.pem", "rollovers", "root.pem"}
        if not cut:
            break
    assert at > 15
    await keyring.account(office.files, office.facts, office.hall.room)
    await keyring.account(office.files, office.facts, office.hall.room)
    assert len(office.all(e.KeyRolled)) == 1


async def test_killed_anywhere_in_the_change_the_next_start_finishes_it(office: Office) -> None:
    await cut_anywhere(office, None)


async def test_a_power_cut_anywhere_in_the_change_is_finished_at_the_next_start(
        make_hall: Callable[[], Hall], authority: Authority, disk: TestDisk) -> None:
    (disk.mount / "keys").mkdir()
    await cut_anywhere(Office(make_hall(), authority, disk.mount / "keys"), disk)


async def test_a_key_in_place_of_a_lost_one_is_said(office: Office) -> None:
    await office.start()
    old = office.facts.cert_sha256
    office.files.key.unlink()
    office.files.certificate.unlink()
    make_key(office.files.key, "file")
    assert office.install(office.files.key) == "installed"
    await office.start()
    assert [(each.old_cert_sha256, each.new_cert_sha256) for each in office.all(e.KeyReplaced)] == [(old, office.facts.cert_sha256)]
    await office.start()
    assert len(office.all(e.KeyReplaced)) == 1


async def test_a_certificate_that_has_ended_vouches_for_nobody(office: Office) -> None:
    office.files.certificate.unlink()
    office.install(office.files.key, days=1)
    await office.start()
    old = office.facts.cert_sha256
    office.stage()
    await office.hall.clock.pass_time(3 * 86400)
    await office.start()
    assert office.facts.cert_sha256 != old
    assert list(office.files.rollovers.glob("*.dsse.json")) == [] and office.all(e.KeyRolled) == []
    assert [each.old_cert_sha256 for each in office.all(e.KeyReplaced)] == [old]


async def test_a_staged_file_that_is_no_good_keeps_nobody_from_starting(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    await office.start()
    old = office.facts.cert_sha256
    office.files.next_certificate.write_bytes(b"half a cert")
    await office.start()
    assert office.facts.cert_sha256 == old and "key-roll-refused" in caplog.text


@needs_token
async def test_from_a_file_to_a_token_and_back(office: Office, token: Token) -> None:
    await office.start()
    office.stage(token.make)
    await office.start()
    assert office.signer.place == "pkcs11" and b"PRIVATE" not in office.files.key.read_bytes()
    document = dsse.seal(dsse.SESSION_OPEN, {"type": "exam-session-open/v1"}, office.signer)
    assert read_envelope(document, office.authority.root_pem, dsse.SESSION_OPEN, "device", None).cert_sha256 == office.facts.cert_sha256
    office.stage()
    token.unplug()
    await office.start()
    assert office.signer.place == "pkcs11", "without the old key nothing vouches for the new one: it waits"
    token.plug()
    await office.start()
    assert open_key(office.files.key).place == "file" and len(office.all(e.KeyRolled)) == 2 and office.all(e.KeyReplaced) == []


@needs_tpm
async def test_from_a_file_into_a_tpm(office: Office, tpms: Callable[[], Tpm]) -> None:
    tpms()
    await office.start()
    office.stage(lambda path: make_key(path, "tpm2"))
    await office.start()
    assert office.signer.place == "tpm2" and office.signer.sign(b"document")
    assert office.rollover().new_cert_sha256 == office.facts.cert_sha256


# ---- what proves nothing ---------------------------------------------------------------------------------------------------

async def test_a_rollover_that_proves_nothing(office: Office) -> None:
    await office.start()
    document = dict(rolled(office).opened.payload)
    for change, said in (({"new_cert_sha256": "0" * 64}, "not the one that it names"), ({"from_session_seq": 0}, "form"),
                         ({"new_cert": "nothing"}, "not a readable"),
                         ({"device": {**document["device"], "cert_sha256": "0" * 64}}, "signed by"),
                         ({"type": "exam-session-open/v1"}, "form")):
        with pytest.raises(EnvelopeError, match=said) as caught:
            read_rollover(dsse.seal(dsse.KEY_ROLLOVER, {**document, **change}, office.signer), office.authority.root_pem)
        assert caught.value.word == "payload"
    with pytest.raises(EnvelopeError) as role:
        read_rollover(dsse.seal(dsse.KEY_ROLLOVER, document, office.authority.platform), office.authority.root_pem)
    assert role.value.word == "role"


def rolled(office: Office) -> Any:
    """A good rollover by the key in force, to another certificate of it."""
    from edge.evidence.rollover import rollover
    chain = office.issue(office.files.key).decode()
    document = rollover(office.facts, chain, 1, office.hall.clock.now(), office.hall.room.journal_head, None)
    return read_rollover(dsse.seal(dsse.KEY_ROLLOVER, document, office.signer), office.authority.root_pem)


# ---- the certificate's last day --------------------------------------------------------------------------------------------

async def test_a_certificate_that_ends_is_told_in_time_and_each_step_once(office: Office) -> None:
    await office.start()
    room, until = office.hall.room, office.hall.clock.now().utc_us + 100 * 86400 * US
    told: list[int] = []
    for hour in range(0, 103 * 24, 6):
        await keyring.look(room, until, office.facts.cert_sha256)
        if hour == 80 * 24:                         # nor does a restart tell again
            room = office.hall.restart()
        told = [each.days for each in office.all(e.CertificateExpiring)]
        await office.hall.clock.pass_time(6 * 3600)
    assert told == [90, 30, 14, 7, 3, 1, 0, -1]


async def test_a_clock_that_nobody_disciplines_proves_no_date(office: Office) -> None:
    await office.start()
    office.hall.clock_reading = ClockReading("unsynced", 0)
    await keyring.look(office.hall.room, office.hall.clock.now().utc_us - US, office.facts.cert_sha256)
    assert office.all(e.CertificateExpiring) == []


async def test_the_room_and_the_platform_see_it(office: Office) -> None:
    await office.start()
    hall = office.hall
    await hall.to(State.PREFLIGHT)
    room = hall.room

    def seen() -> tuple[str, str, list[str]]:
        item = next(each for each in room.preflight(SESSION).items if each.key == "signature")
        return item.light, item.word, followers.heartbeat(room).get("flags", [])
    assert seen() == ("green", "signature-ok", [])
    await keyring.look(room, hall.clock.now().utc_us + 20 * 86400 * US, office.facts.cert_sha256)
    assert seen() == ("amber", "certificate-expiring", ["certificate-expiring"])
    await hall.clock.pass_time(21 * 86400)
    assert seen() == ("red", "certificate-expired", ["certificate-expired"])


# ---- a token pulled out ----------------------------------------------------------------------------------------------------

@needs_token
async def test_a_key_that_is_away_is_a_fact_and_what_waits_is_signed_when_it_is_back(office: Office, token: Token) -> None:
    await office.start()
    office.stage(token.make)
    notary = await office.start()
    hall = office.hall
    token.unplug()
    running = asyncio.ensure_future(notary.run())
    for state, go in hall.way(SESSION):
        await go()
        if state is State.CHECKIN:
            break
    await condition(lambda: hall.room.state.signer_lost is not None)
    item = next(each for each in hall.room.preflight(SESSION).items if each.key == "signature")
    assert (item.light, item.word, item.waivable) == ("red", "signer-lost", True)
    assert followers.heartbeat(hall.room)["flags"] == ["signer-lost"]
    await hall.show("样例甲")
    assert len(hall.room.state.sessions[SESSION].admitted) == 1, "people come in meanwhile"
    token.plug()
    await condition(lambda: hall.room.state.sessions[SESSION].open_digest is not None)
    assert hall.room.state.signer_lost is None
    assert len(office.all(e.SignerLost)) == len(office.all(e.SignerBack)) == 1
    running.cancel()


async def condition(so: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until it is so, with a deadline: the token's programs are not ours to be told by."""
    end = asyncio.get_running_loop().time() + seconds
    while not so():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.02)


# ---- what there is ---------------------------------------------------------------------------------------------------------

async def test_the_status_says_what_to_do(office: Office, tmp_path: Path) -> None:
    now = office.hall.clock.now().utc_us
    sign: Callable[[DeviceSigner], object] = lambda signer: signer.sign(b"x")  # noqa: E731
    empty = Files(tmp_path / "none.key", tmp_path / "none.pem", tmp_path / "none-root.pem")
    assert any("edge key init" in each for each in keyring.status(empty, now).todo)
    assert keyring.status(office.files, now, sign).todo == ()
    assert ("signs", "yes") in keyring.status(office.files, now, sign).lines
    make_key(office.files.next_key, "file")
    assert any("--next" in each for each in keyring.status(office.files, now).todo)
    office.install(office.files.next_key)
    assert any("takes over" in each for each in keyring.status(office.files, now).todo)
    await office.start()
    found = keyring.status(office.files, now, sign)
    assert found.todo == () and any(title == "rollover" and "from session number 1" in text for title, text in found.lines)
    far = now + 1080 * 86400 * US
    assert any("ends in" in each for each in keyring.status(office.files, far).todo)
    office.files.key.write_bytes(b"no key")
    assert any("cannot be opened" in each for each in keyring.status(office.files, now).todo)
