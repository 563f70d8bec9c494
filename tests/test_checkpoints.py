"""Checkpoints from the room to the platform and back: when one is made, what it says, and what of it an auditor can rely on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from cryptography import x509
from jsonschema import Draft202012Validator

from edge import storecheck
from edge.capture.control import RecorderControl
from edge.checkpoints import EVERY_US, QUIET_US, Checkpoints
from edge.clock import US, SystemClock
from edge.evidence import envelope, history, keys
from edge.evidence.manifest import RoomFacts
from edge.evidence.signers import SignerFault
from edge.notary import Notary
from edge.sessions import events as e
from edge.sim.authority import Authority
from edge.sim.platform import build_platform
from edge.upload.platform import PlatformClient, PlatformRefused
from tests.test_notary import Office

if TYPE_CHECKING:
    from tests.conftest import Device, Hall

ROOM = "000000-KD01-R01"
SCHEMA = Draft202012Validator(json.loads((Path(__file__).parents[1] / "docs/schemas/checkpoint.json").read_text(encoding="utf-8")))
RECEIPT = Draft202012Validator(json.loads((Path(__file__).parents[1] / "docs/schemas/receipt.json").read_text(encoding="utf-8")))


class Post:
    """A room with its checkpoints, and a platform that answers when it is asked to."""

    def __init__(self, hall: Hall, authority: Authority, device: Device, folder: Path) -> None:
        self.hall, self.device, self.authority, self.folder = hall, device, authority, folder
        leaf = x509.load_pem_x509_certificates(device.signer.chain_pem.encode())[0]
        self.facts = RoomFacts(site="KD01", room_code=ROOM, device_id=device.id, cert_sha256=keys.fingerprint(leaf), sw_version="0.1.0",
                               sw_sha256="1" * 64, config_sha256="2" * 64, boot_id="boot-1", hmac_key_id="room-1", require_sync=True)
        self.checkpoints = Checkpoints(hall.room, device.signer, self.facts)
        self.notary = self.new_notary()
        app = build_platform(authority, folder / "platform", ROOM, SystemClock())
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), trust_env=False)
        self.client = PlatformClient("http://127.0.0.1/edge/v1", ROOM, self.http)

    def new_notary(self) -> Notary:
        """One over the hall's room as it is now."""
        return Notary(self.hall.room, self.device.signer, self.authority.root_pem, self.facts, RecorderControl(self.folder / "no.sock"), 10)

    async def made(self) -> list[dict[str, Any]]:
        """Every checkpoint that is stored, verified."""
        with self.hall.database.read() as connection:
            rows = connection.execute("SELECT body FROM envelope WHERE kind = 'device-checkpoint' ORDER BY rowid").fetchall()
        root = self.authority.root_pem
        return [envelope.read_envelope(row["body"], root, envelope.DEVICE_CHECKPOINT, "device", None).payload for row in rows]

    async def deliver(self) -> None:
        """What the courier does with the newest one."""
        item = await self.hall.outbox.next_due(self.hall.clock.now())
        assert item is not None and (item.kind, item.session) == ("device-checkpoint", None)
        assert await self.notary.receipt(item, await self.client.put_checkpoint(item.body, item.digest))

    async def something_happens(self) -> None:
        await self.hall.fact(e.ReaderLost, None, reason="gone")

    async def wait(self, us: int) -> bool:
        await self.hall.clock.pass_time(us / US)
        return await self.checkpoints.step()


@pytest.fixture
async def post(hall: Hall, authority: Authority, device: Device, tmp_path: Path) -> Any:
    post = Post(hall, authority, device, tmp_path)
    await post.something_happens()
    yield post
    await post.http.aclose()


async def test_a_checkpoint_says_how_the_device_stands_and_the_platform_signs_for_it(post: Post) -> None:
    head = post.hall.room.journal_head
    assert await post.checkpoints.step()
    [said] = await post.made()
    SCHEMA.validate(said)
    assert said["journal"] == {"seq": head[0], "head_sha256": head[1]} and said["counters"] == {"opened_total": 0, "closed_total": 0}
    assert said["prev"] == {} and said["device"]["id"] == post.device.id and said["disk"]["write_ok"] is True
    await post.deliver()
    [fact] = [r.event for r in post.hall.journal.all() if isinstance(r.event, e.ReceiptVerified)]
    assert (fact.answers, fact.session, fact.verdict) == ("device-checkpoint", None, "accepted")
    with post.hall.database.read() as connection:
        [stored] = [row["body"] for row in connection.execute("SELECT body FROM envelope WHERE kind = 'receipt'")]
    RECEIPT.validate(envelope.read_envelope(stored, post.authority.root_pem, envelope.RECEIPT, "platform", None).payload)


async def test_one_in_ten_minutes_and_none_for_its_own_sake(post: Post) -> None:
    assert await post.checkpoints.step() and not await post.checkpoints.step()
    await post.something_happens()
    assert not await post.wait(EVERY_US), "one is owed: a second would say no more"
    await post.deliver()
    assert await post.checkpoints.step(), "something has happened"
    await post.deliver()
    assert not await post.wait(EVERY_US), "only its own row and receipt came since"
    assert await post.wait(QUIET_US), "one a day all the same"
    assert len(await post.made()) == 3


async def test_none_while_the_platform_is_away(post: Post) -> None:
    await post.hall.fact(e.PlatformLost, None, reason="timeout")
    assert not await post.wait(EVERY_US)
    await post.hall.fact(e.PlatformBack, None)
    assert await post.checkpoints.step()


async def test_after_a_restart_it_goes_on_and_does_not_heap_up(post: Post) -> None:
    assert await post.checkpoints.step()
    again = Checkpoints(post.hall.restart(), post.device.signer, post.facts)
    assert not await again.step(), "the one of before is still owed"
    post.notary = post.new_notary()
    await post.deliver()
    assert await again.step()


async def test_a_platform_that_will_not_have_them_is_asked_once_a_day(post: Post) -> None:
    assert await post.checkpoints.step()
    item = await post.hall.outbox.next_due(post.hall.clock.now())
    assert item
    await post.hall.outbox.park(item.id, "404")
    await post.something_happens()
    assert not await post.wait(EVERY_US) and await post.wait(QUIET_US)


async def test_a_key_that_is_away_makes_none_and_ends_nothing(post: Post) -> None:
    class Away:
        chain_pem = post.device.signer.chain_pem

        def sign(self, pae: bytes) -> bytes:
            raise SignerFault("no-answer", "the token is out")

    assert not await Checkpoints(post.hall.room, Away(), post.facts).step()
    assert await post.made() == [] and await post.checkpoints.step()


async def test_the_platform_takes_only_what_is_the_rooms_own(post: Post, another_device: Any) -> None:
    await post.checkpoints.step()
    item = await post.hall.outbox.next_due(post.hall.clock.now())
    assert item
    first = await post.client.put_checkpoint(item.body, item.digest)
    assert await post.client.put_checkpoint(item.body, item.digest) == first
    [said] = await post.made()
    for changed, digest, code in (({}, "0" * 64, "other-digest"), ({"room": "000000-KD01-R02"}, None, "wrong-room"),
                                  ({"device": {"id": "another"}}, None, "wrong-device"), ({"counters": {}}, None, "schema")):
        sealed = post.device.sealed(envelope.DEVICE_CHECKPOINT, {**said, **changed})
        with pytest.raises(PlatformRefused) as refused:
            await post.client.put_checkpoint(sealed.envelope, digest or sealed.digest)
        assert (refused.value.status, refused.value.code) == (422, code)


async def test_what_the_room_and_the_platform_hold_is_a_history_that_passes(post: Post) -> None:
    """The platform's own folder is one: documents and receipts, in whatever arrangement it keeps them."""
    for _ in range(2):
        await post.checkpoints.step()
        await post.deliver()
        await post.hall.clock.pass_time(EVERY_US / US)
        await post.something_happens()
    folder = post.folder / "platform"
    report = history.verify(folder, post.authority.root_pem)
    assert (report.verdict, report.sessions, report.findings) == ("PASS", 0, ()), report.lines
    next(folder.rglob("device-checkpoint-*")).unlink()
    assert [each.word for each in history.verify(folder, post.authority.root_pem).findings] == ["missing-vs-receipt"]


# ---- letting go ---------------------------------------------------------------------------------------------------------

@pytest.fixture
def office(hall: Hall, authority: Authority, device: Device, tmp_path: Path) -> Office:
    return Office(hall, authority, device, tmp_path / "nobody.sock")


async def test_what_an_accepted_manifest_overtook_is_let_go_and_the_store_stays_whole(office: Office, tmp_path: Path) -> None:
    """Ten before the session, one after it: the ten go with the manifest's receipt, not before, and the one stays."""
    hall = office.hall
    checkpoints = Checkpoints(hall.room, office.device.signer, office.facts)

    async def one(number: int) -> None:
        await hall.fact(e.ReaderLost, None, reason="gone")
        await hall.clock.pass_time(EVERY_US / US)
        assert await checkpoints.step()
        item = await office.item()
        assert item.kind == "device-checkpoint"
        assert await office.notary.receipt(item, office.receipt(item, drop=("session_id",), platform_seq=number, receipt_id=f"Q{number}"))

    def stored() -> dict[str, int]:
        with hall.database.read() as connection:
            rows = connection.execute("SELECT CASE WHEN kind = 'receipt' AND session IS NULL THEN 'receipt-of-device' ELSE kind END AS k, "
                                      "count(*) AS n FROM envelope GROUP BY k").fetchall()
            owed = connection.execute("SELECT count(*) AS n FROM outbox WHERE kind = 'device-checkpoint'").fetchone()["n"]
        return {row["k"]: row["n"] for row in rows} | {"outbox": owed}

    for number in range(1, 11):
        await one(number)
    assert await checkpoints.thin() == 0, "nothing has overtaken them"
    await office.sealed()
    await office.accept(platform_seq=11)
    assert await checkpoints.thin() == 0, "the manifest is signed, and the platform has not said a word of it"
    await office.accept(platform_seq=12, verdict="accepted")
    await one(13)
    others = {"receipt": 2, "session-open": 1, "session-manifest": 1}
    assert stored() == {"device-checkpoint": 11, "receipt-of-device": 11, "outbox": 11, **others}
    assert await checkpoints.thin() == 10 and await checkpoints.thin() == 0
    assert stored() == {"device-checkpoint": 1, "receipt-of-device": 1, "outbox": 1, **others}
    [fact] = [r.event for r in hall.journal.all() if isinstance(r.event, e.CheckpointsLetGo)]
    assert (fact.documents, fact.manifest) == (10, hall.room.state.last_manifest)
    hall.restart()
    report = storecheck.check(hall.folder / "state" / "edge.db", tmp_path, office.authority.root_pem)
    assert {each.word for each in report.findings} <= {"missing-file"}, report.lines      # the hall's footage is rows alone


async def test_a_manifest_that_was_refused_overtakes_nothing(office: Office) -> None:
    hall = office.hall
    checkpoints = Checkpoints(hall.room, office.device.signer, office.facts)
    await hall.fact(e.ReaderLost, None, reason="gone")
    assert await checkpoints.step()
    item = await office.item()
    assert await office.notary.receipt(item, office.receipt(item, drop=("session_id",)))
    await office.sealed()
    await office.accept(platform_seq=2)
    await office.accept(platform_seq=3, verdict="rejected", reasons=[{"code": "E-ROSTER"}])
    assert await checkpoints.thin() == 0
