"""Keeps the hardware counter where the journal says it is: one up for each session that was opened.

The journal speaks first (`CheckinOpened.hw_counter`), then the chip is moved. So at every moment the chip is where the journal says, or one
behind because power failed between the two; then it is moved at the next look. It is further ahead than the journal in one case only: the
disk holds an older state than the chip has seen. That is a fact (`CounterLost`, ahead), and the next opening takes the chip's word, so that
the leap stands in the history. A chip that is behind was cleared or changed: it counts no more until somebody has brought it up again.
A follower of the Room, composed in `app` where a counter is configured.
"""

from __future__ import annotations

import asyncio
import logging

from edge.evidence.counter import CounterFault, HardwareCounter
from edge.room import Room
from edge.sessions import events as e

log = logging.getLogger(__name__)

LOOK_S = 600.0


class Counting:
    """`reading`: what the Room asks before it opens a session."""

    def __init__(self, counter: HardwareCounter) -> None:
        self._counter = counter
        self._read: int | None = None

    def reading(self) -> int | None:
        """What the counter said last; None while it says nothing that a session could be counted by."""
        return self._read

    async def run(self, room: Room) -> None:
        """Look at each opening, and every ten minutes. Never returns."""
        waker, known = room.changed(), -1
        while True:
            waker.clear()
            if known != room.state.opened_total or room.state.counter_lost:
                await self.step(room)
                known = room.state.opened_total
            try:
                await asyncio.wait_for(waker.wait(), LOOK_S)
            except TimeoutError:
                known = -1

    async def step(self, room: Room) -> None:
        """Read it, move it up if it is one behind, and say so if it does not say what the journal says."""
        recorded = room.state.hw_counter
        try:
            read = await asyncio.to_thread(self._counter.read)
            if recorded is not None and read == recorded - 1:
                read = await asyncio.to_thread(self._counter.step)
        except CounterFault as fault:
            log.error("counter-lost word=%s detail=%s", fault.word, fault)
            self._read = None
            await self._lost(room, fault.word, recorded or 0, None)
            return
        if recorded is not None and read != recorded:
            self._read = read if read > recorded else None
            await self._lost(room, "ahead" if read > recorded else "behind", recorded, read)
            return
        self._read = read
        if room.state.counter_lost is not None:
            await room.report(e.CounterBack(at=room.clock.now(), read=read))

    async def _lost(self, room: Room, reason: str, recorded: int, read: int | None) -> None:
        """Once per reason."""
        if room.state.counter_lost is None or room.state.counter_lost.reason != reason:
            log.error("counter-differs reason=%s recorded=%d read=%s", reason, recorded, read)
            await room.report(e.CounterLost(at=room.clock.now(), reason=reason, recorded=recorded, read=read))
