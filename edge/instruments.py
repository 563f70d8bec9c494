"""What the Room can look at, and what it reads there: how fresh each stream is on the disk, its sound, what all of them write, and the
readings of the preflight.

Nothing is stored and nothing is decided here: `sessions.preflight` judges, and the Room has the guards. Called by `room`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edge.capture.control import StreamStatus, WatchStatus
from edge.capture.intake import believed
from edge.clock import US, Stamp, local_date
from edge.idcheck.reader import ReaderStatus
from edge.sessions import events as e
from edge.sessions import space
from edge.sessions.machine import RoomState, Session, State
from edge.sessions.preflight import ProbeReading, Readings, StreamReading
from edge.status import ClockReading, DiskReading

DEFAULT_KBPS = 4096             # a good camera's; for the reservation, where a stream has not yet told its rate
SOUND_OLD_US = 5 * US           # a level of older sound is no level


@dataclass(frozen=True, slots=True)
class Instruments:
    """The room's instruments. Each is asked when needed, never stored; `now` is the moment of asking."""

    streams: Mapping[str, str]                                  # id -> kind, as configured
    stream_status: Callable[[str], StreamStatus | None]
    watch: Callable[[str], WatchStatus | None]                  # what the watcher last said of a stream
    reader: Callable[[], ReaderStatus]
    disk: Callable[[], DiskReading]
    clock: Callable[[], ClockReading]
    door_still: Callable[[], bytes | None] | None = None        # newest picture of the door's camera (JPEG); None: there is no such camera
    counter: Callable[[], int | None] | None = None             # what the hardware counter said last, None: it is away; None: there is none

    def age_ms(self, stream: str, now: Stamp) -> int | None:
        """Milliseconds since the newest sample of a stream reached the disk; None if there is none of this boot."""
        status = self.stream_status(stream)
        if status is None or status.boot_id != now.boot_id or not status.last_sample_boot_us:
            return None
        return max(0, (now.boot_us - status.last_sample_boot_us) // 1000)

    def watched(self, stream: str, now: Stamp) -> WatchStatus | None:
        """What the watcher says of a stream now; None if it has not spoken for five seconds."""
        return believed(self.watch(stream), now)

    def peak_cdb(self, stream: str, now: Stamp) -> int | None:
        """Loudest sound of the last second in the recorded file, hundredths of a dBFS; None if none was measured just now."""
        status = self.watched(stream, now)
        if status is None or now.boot_us - status.sound_boot_us > SOUND_OLD_US:
            return None
        return status.audio_peak_cdb

    def kbps(self) -> int:
        """What all streams together write; what has not told its rate counts as a good camera."""
        statuses = [self.stream_status(stream) for stream in self.streams]
        return sum(s.kbps if s and s.kbps else DEFAULT_KBPS for s in statuses)


def readings(instruments: Instruments, state: RoomState, session: Session, now: Stamp, *, require_sync: bool) -> Readings:
    """All that the preflight of `session` is judged by, as it stands at this moment."""
    disk, reader, lost, roster = instruments.disk(), instruments.reader(), state.platform_lost, session.roster
    today = session.state is not State.CANCELLED and local_date(session.plan.scheduled_start_us) == local_date(now.utc_us)
    return Readings(
        roster_source=roster.source if roster else None, roster_count=roster.count if roster else 0, roster_differs=_differs(roster),
        roster_age_us=now.us_since(roster.at) if roster else 0, roster_refused=session.roster_refused, plan_is_today=today,
        reader=reader.state, reader_fault=reader.last_fault or "",
        streams=tuple(_stream(instruments, stream, kind, tuple(state.impaired.get(stream, {})), now)
                      for stream, kind in instruments.streams.items()),
        free_bytes=disk.free_bytes, needed_bytes=space.session_bytes(instruments.kbps(), session.plan.duration_min),
        space_low=state.space_low is not None and state.space_low.reason == "timetable",
        write_ok=disk.write_ok, storage_fault=disk.fault, clock_state=instruments.clock().state,
        require_sync=require_sync, platform_reason=lost.reason if lost else None,
        chief_present="chief" in session.present.values(), proctors_present=session.proctors_present,
        min_proctors=session.plan.min_proctors, exits_checked=session.exits is not None,
        probes=tuple(ProbeReading(p.stream, p.ok, now.us_since(p.at), p.reason or "") for p in state.probed.values()
                     if p.stream in instruments.streams),
        room_age_us=now.us_since(state.first_started.at) if state.first_started else 0,
        signer_lost=state.signer_lost.reason if state.signer_lost else None,
        certificate_until_us=state.certificate.until_utc_us if state.certificate else None, now_utc_us=now.utc_us)


def _stream(instruments: Instruments, stream: str, kind: str, alarms: tuple[str, ...], now: Stamp) -> StreamReading:
    status, age, peak = instruments.stream_status(stream), instruments.age_ms(stream, now), instruments.peak_cdb(stream, now)
    if status is None:
        return StreamReading(stream, kind, "unknown", "", age, peak, alarms=alarms)
    sound = age is not None and now.boot_us - status.last_sound_boot_us <= SOUND_OLD_US
    return StreamReading(stream, kind, status.state, status.reason, age, peak, sound, alarms, status.buffered_bytes)


def _differs(accepted: e.RosterAccepted | None) -> tuple[int, int, int]:
    """What a signed list changed of the imported one before it: added, taken off, other facts."""
    if accepted is None or accepted.source != "platform":
        return 0, 0, 0
    return accepted.added or 0, accepted.removed or 0, accepted.changed or 0
