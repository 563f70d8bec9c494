"""Signs how the device stands, every ten minutes while the platform answers: what the platform has signed for cannot be deleted unseen.

One at a time: while one is owed no further is made, because the newer one says more. Nothing is made where nothing has happened since the
last one but itself, apart from one a day; so three quiet years are some thousand documents. A platform that does not know checkpoints (it
refuses one for good) is asked again once a day. A key that does not sign now is the notary's fact to tell; here it is tried again.
Once the platform has accepted a manifest that was signed after them, checkpoints say nothing that it does not: they are let go, with their
receipts, so that years of them do not heap up. What they bounded is bounded by that manifest's receipt from then on.
A follower of the Room, composed in `app`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging

from edge.clock import US, Stamp
from edge.evidence import envelope as dsse
from edge.evidence.chain import canonical, parse
from edge.evidence.checkpoint import Standing, checkpoint
from edge.evidence.manifest import RoomFacts
from edge.evidence.signers import SignerFault
from edge.room import Room
from edge.sessions import events as e
from edge.storage.journal import Envelope, LetGo

log = logging.getLogger(__name__)

EVERY_US, QUIET_US = 600 * US, 86_400 * US
LOOK_S = 30
AT_ONCE = 500
"""Of a heap of old ones so many go in one transaction."""
PRIORITY = 15
"""After announcements (10), before manifests (20): evidence rules of store and forward, priority."""


class Checkpoints:
    """`facts`: what a signed document says of this room and device."""

    def __init__(self, room: Room, signer: dsse.Signer, facts: RoomFacts) -> None:
        self._room, self._signer, self._facts = room, signer, facts
        self._last: Stamp | None = None         # of the newest, in this run of the program
        self._digest, self._row = "", 0         # its digest, the journal's row that tells of it

    async def run(self) -> None:
        """Look twice a minute. Never returns."""
        while True:
            await self._room.clock.sleep(LOOK_S)
            await self.step()
            await self.thin()

    async def step(self) -> bool:
        """Make one if it is due; whether it was."""
        now = self._room.clock.now()
        if not self._due(now):
            return False
        standing = self._standing(now)
        document = checkpoint(self._facts, standing)
        try:
            body = await asyncio.to_thread(dsse.seal, dsse.DEVICE_CHECKPOINT, document, self._signer)
        except SignerFault as fault:
            log.warning("checkpoint-not-signed word=%s", fault.word)
            return False
        digest = hashlib.sha256(canonical(document)).hexdigest()
        told = await self._room.report(e.CheckpointSigned(at=self._room.clock.now(), digest=digest, journal_seq=standing.head[0]),
                                       Envelope("device-checkpoint", digest, body, priority=PRIORITY))
        self._last, self._digest, self._row = now, digest, told.seq
        return True

    async def thin(self) -> int:
        """Let go of what the newest accepted manifest has overtaken; how many."""
        room = self._room
        newest = room.state.last_manifest
        accepted = any(r.digest == newest and r.verdict == "accepted" for s in room.state.sessions.values() for r in s.revisions[-1:])
        overtaken = room.outbox.delivered_before("device-checkpoint", newest, AT_ONCE) if newest and accepted else []
        if not overtaken:
            return 0
        last = parse(dsse.payload_of(overtaken[-1][1]))["journal"]["seq"]
        await room.report(e.CheckpointsLetGo(at=room.clock.now(), documents=len(overtaken), journal_seq=last, manifest=newest or ""),
                          LetGo([digest for digest, _ in overtaken]))
        return len(overtaken)

    def _due(self, now: Stamp) -> bool:
        room = self._room
        if room.state.platform_lost is not None or room.journal_head[0] == 0:
            return False
        if self._last is None:
            return not room.outbox.owes("device-checkpoint", "waiting")
        since = now.us_since(self._last)
        state = room.outbox.state_of(self._digest)
        if state == "waiting" or 0 <= since < EVERY_US:
            return False
        own_rows = 1 if state == "done" else 0          # its receipt
        news = room.journal_head[0] > self._row + own_rows
        return (news and state != "parked") or not 0 <= since < QUIET_US

    def _standing(self, now: Stamp) -> Standing:
        room, disk = self._room, self._room.instruments.disk()
        return Standing(
            at=now, head=room.journal_head, opened_total=room.state.opened_total, closed_total=room.state.closed_total,
            live=room.state.live, last_manifest=room.state.last_manifest, last_receipt=room.state.last_manifest_receipt,
            free_bytes=disk.free_bytes, total_bytes=disk.total_bytes, write_ok=disk.write_ok, clock=room.instruments.clock().as_fact(),
            hw_counter=room.state.hw_counter)
