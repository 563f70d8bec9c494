"""Small followers of the room: each compares what is with what should be, at each change and now and then. Composed in `app`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from edge import __version__, status
from edge.capture.control import RecorderControl
from edge.clock import US, Stamp, boot_id
from edge.room import Room
from edge.sessions import events as e
from edge.sessions.preflight import RED_RULES
from edge.storage.database import Database
from edge.upload.courier import Courier

log = logging.getLogger(__name__)

STEP_US = US
"""A jump of the wall clock against the boot clock from here on is a fact."""
REMEMBER_EVERY = 1000
"""So many facts a start may have to fold: a morning's segments of four streams, 0.1 s."""
FEED_S = 5.0
"""How often the watchdog is fed where systemd has set no time of its own."""

async def outbox(room: Room, courier: Courier[Any]) -> None:
    """Whatever changes may have put something into the outbox."""
    waker = room.changed()
    while True:
        await waker.wait()
        waker.clear()
        courier.nudge()


async def remember(room: Room) -> None:
    """What has become of the facts is written down now and then, so that also the start after a power cut is a short one."""
    waker = room.changed()
    while True:
        waker.clear()
        if room.unremembered >= REMEMBER_EVERY:
            await room.remember()
        await waker.wait()


async def wanted(room: Room, recorder: RecorderControl, idle_keep_h: int) -> None:
    """With idle_keep_h = 0 the recorder rests outside [preflight, sealed]; otherwise no word is said, and no word means record."""
    waker = room.changed()
    while True:
        waker.clear()
        if idle_keep_h == 0:
            await recorder.wanted(any(s.live or s.state == "preflight" for s in room.state.sessions.values()))
        with suppress(TimeoutError):
            await asyncio.wait_for(waker.wait(), 5)


READ_US = 600 * US
"""How often the clock of a session is read into its journal (evidence design: a point every ten minutes)."""


async def clock(room: Room) -> None:
    """A step of the wall clock is a fact of its own, also one in several small parts, and one while this program was not there.

    Slewing moves both clocks alike, so what has parted since they were last seen together is what was stepped."""
    seen = _last_seen(room)
    while True:
        now = room.clock.now()
        if now.boot_id != seen.boot_id:
            seen = now
        delta = (now.utc_us - seen.utc_us) - (now.boot_us - seen.boot_us)
        if abs(delta) >= STEP_US:
            log.warning("clock-stepped delta_us=%d", delta)
            await room.clock_stepped(now, delta)
            seen = now
        await _read_clock(room, now)
        await room.clock.sleep(1)


def _last_seen(room: Room) -> Stamp:
    """Both clocks as the live session's last fact has them; without one, as they are."""
    facts = room.events(room.state.live) if room.state.live else []
    return facts[-1].event.at if facts else room.clock.now()


async def _read_clock(room: Room, now: Stamp) -> None:
    """Every ten minutes of a session, by its own journal: a restart reads neither too often nor too late."""
    session = room.state.sessions.get(room.state.live or "")
    if session is None or session.opened is None:
        return
    last = session.clock_read or session.opened.at
    if last.boot_id != now.boot_id or now.us_since(last) >= READ_US:
        await room.of_the_box(e.ClockRead(at=now, clock=room.instruments.clock().as_fact()))


async def watchdog(database: Database) -> None:
    """Fed while this loop and the write thread answer: a camera's fault is the recorder's to mend, never a reason to restart the room."""
    while True:
        await database.answers()
        status.notify("WATCHDOG=1")
        await asyncio.sleep(status.watchdog_interval_s() or FEED_S)


def _source(room: Room, stream: str, kind: str) -> dict[str, Any]:
    """A stream's health: ok; warn: recorded, but the watcher has something against it, or is silent; fault: not recorded, or worthless."""
    age, peak, rules = room.stream_age_ms(stream), room.peak_cdb(stream), room.state.impaired.get(stream, {})
    lost = age is None or age >= 5000 or RED_RULES & set(rules)
    return {"id": stream, "kind": "audio" if kind == "microphone" else "video", "health": "fault" if lost else "warn" if rules else "ok",
            **({} if age is None else {"last_frame_age_ms": age}), **({} if peak is None else {"audio_peak_cdb": peak})}


def _flags(room: Room) -> list[str]:
    """What the platform should know beside the states: of the device's key and the archive, until it is put right."""
    certificate = room.state.certificate
    over = certificate is not None and certificate.until_utc_us <= room.clock.now().utc_us
    lost = room.state.archive_lost
    return [*([f"archive-{lost.reason}"] if lost else []),
            *(flag for flag, so in (("signer-lost", room.state.signer_lost), ("certificate-expired", over),
                                  ("certificate-expiring", certificate is not None and not over),
                                  ("footage-damaged", bool(room.catalog.damages()))) if so)]


def heartbeat(room: Room, storage: Callable[[], Mapping[str, Any]] = dict) -> dict[str, Any]:
    """The room's part of a heartbeat (docs/platform-api.yaml, Heartbeat). `storage`: what the keeper adds about the disk."""
    live = room.state.sessions.get(room.state.live or "")
    disk, time, backlog = room.instruments.disk(), room.instruments.clock(), room.outbox.backlog()
    reader = room.instruments.reader().state
    facts: dict[str, Any] = {
        "controller": {"version": __version__, "boot_id": boot_id()}, "state": str(live.state) if live else "idle",
        "sources": [_source(room, stream, kind) for stream, kind in room.instruments.streams.items()],
        "storage": {"free_bytes": disk.free_bytes, "write_ok": disk.write_ok, **storage()}, "terminals": {},
        "id_reader": "ok" if reader == "ok" else "fault", "clock": {"source": time.source, "synced": time.state == "synced"},
        "queue": {"manifests": backlog.waiting}}
    if flags := _flags(room):
        facts["flags"] = flags
    if live:
        facts["session_id"] = live.id
        expected = sum(not candidate.off_roster for candidate in room.rosters[live.id].candidates)
        facts["counts"] = {"expected": expected, "admitted": len(live.admitted), "refused": live.refusals}
    return facts
