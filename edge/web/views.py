"""What the templates need, made from what the Room says: device strip, stream tiles, session facts. Reads only; no sentence is made
up here, words come from the texts. Callers: `pages` and the handlers; may run beside the event loop (all reads are of snapshots).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from edge.capture.control import StreamStatus
from edge.room import DEFAULT_KBPS, DoorVerdict, Room
from edge.sessions import events as e
from edge.sessions import preflight
from edge.sessions.identity import mask_name, mask_number
from edge.sessions.machine import LIVE, Session, State
from edge.sessions.roster import Code
from edge.status import DiskReading
from edge.storage.catalog import Checkin, Person
from edge.web.desk import Web

OK, WARN, BAD, DIM = "ok", "warn", "bad", "dim"
LOW_SHARE = 10          # the disk is called low below a tenth of it

PAGE_OF = {State.PLANNED: "preflight", State.PREFLIGHT: "preflight", State.CHECKIN: "checkin", State.RUNNING: "run",
           State.CLOSING: "close", State.SEALING: "close", State.SEALED: "done", State.CANCELLED: "done"}
"""The page that shows a session in this state."""

SOUND = {Code.OK: "ok", Code.DUPLICATE: "warn", Code.WRONG_SESSION: "warn"}
"""Tone of a verdict; every other is an error (exam-room requirements, U23)."""


@dataclass(frozen=True, slots=True)
class Device:
    """One word group of the strip."""

    key: str
    light: str
    text: str


@dataclass(frozen=True, slots=True)
class Tile:
    """One stream as the wall shows it. `age_ms`: since its newest sample was on disk; `db`: whole dBFS."""

    stream: str
    name: str
    light: str
    state: str
    picture: bool
    reason: str
    age_ms: int | None
    kbps: int
    width: int
    height: int
    fps: int
    db: int | None


def gigabytes(count: int) -> str:
    """Bytes in GB (10^9), one decimal below a hundred."""
    return f"{count / 1e9:.1f}" if count < 100e9 else f"{count / 1e9:,.0f}"


def size(count: int) -> str:
    """Bytes with their unit: MB (10^6) below one GB (10^9)."""
    return f"{gigabytes(count)} GB" if count >= 10**9 else f"{count / 1e6:.1f} MB"


def stream_name(web: Web, language: str, stream: str) -> str:
    return web.desk.stream_names.get(stream, {}).get(language) or stream


def tiles(web: Web, language: str) -> list[Tile]:
    """Every configured stream, in the order of the configuration."""
    return [_tile(web, language, stream, kind, web.room.instruments.stream_status(stream))
            for stream, kind in web.room.instruments.streams.items()]


def _tile(web: Web, language: str, stream: str, kind: str, status: StreamStatus | None) -> Tile:
    age, name = web.room.stream_age_ms(stream), stream_name(web, language, stream)
    if status is None:
        return Tile(stream, name, BAD, "unknown", kind != "microphone", "", None, 0, 0, 0, 0, None)
    fresh = status.state == "recording" and age is not None and age <= preflight.FRESH_MS
    silent = status.audio_peak_cdb is not None and status.audio_peak_cdb <= preflight.SILENCE_CDB
    light = DIM if status.state == "resting" else BAD if not fresh else WARN if silent else OK
    state = "stale" if status.state == "recording" and not fresh else status.state
    return Tile(stream, name, light, state, kind != "microphone", status.reason, age, status.kbps, status.width, status.height,
                round(status.fps_x100 / 100), None if status.audio_peak_cdb is None else status.audio_peak_cdb // 100)


def strip(web: Web, language: str) -> list[Device]:
    """The footer: reader, pictures, sound, storage, clock, platform. The order never changes: the eye knows the place."""
    t, w = partial(web.texts.say, language), partial(web.texts.word, language)
    return [_reader(web.room, t, w), *_streams(tiles(web, language), t), _storage(web.room, web.gauges.disk(), t),
            _clock(web.room, web.gauges.clock_state(), t), _platform(web.room, t, w)]


Say = Callable[..., str]


def _reader(room: Room, t: Say, w: Say) -> Device:
    status = room.instruments.reader()
    if status.state == "ok":
        return Device("reader", OK, t("strip.reader"))
    if status.state == "starting":
        return Device("reader", WARN, t("strip.reader-starting"))
    return Device("reader", BAD, t("strip.reader-lost", reason=w("reason", status.last_fault or "unknown")))


def _streams(wall: Sequence[Tile], t: Say) -> list[Device]:
    pictures = [tile for tile in wall if tile.picture]
    lost = [tile for tile in pictures if tile.light == BAD]
    if lost:
        seen = Device("pictures", BAD, t("strip.pictures-lost", good=len(pictures) - len(lost), all=len(pictures),
                                         names="、".join(tile.name for tile in lost)))
    elif any(tile.state == "resting" for tile in pictures):
        seen = Device("pictures", DIM, t("strip.pictures-resting"))
    else:
        seen = Device("pictures", OK if pictures else BAD, t("strip.pictures", count=len(pictures)))
    levels = [tile.db for tile in wall if tile.db is not None and tile.state == "recording"]
    if not levels:
        resting = any(tile.state == "resting" for tile in wall)
        heard = Device("sound", DIM if resting else BAD, t("strip.sound-resting" if resting else "strip.sound-missing"))
    elif max(levels) * 100 <= preflight.SILENCE_CDB:
        heard = Device("sound", BAD, t("strip.sound-silent"))
    else:
        heard = Device("sound", OK if max(levels) * 100 >= preflight.LOW_CDB else WARN, t("strip.sound", db=max(levels)))
    return [seen, heard]


def _storage(room: Room, disk: DiskReading, t: Say) -> Device:
    if not disk.write_ok:
        return Device("storage", BAD, t("strip.storage-fault", reason=disk.fault))
    rates = [room.instruments.stream_status(stream) for stream in room.instruments.streams]
    kbps = sum(s.kbps if s and s.kbps else DEFAULT_KBPS for s in rates)
    days = disk.free_bytes // max(1, kbps * 125 * 86_400)
    light = WARN if disk.free_bytes * LOW_SHARE < disk.total_bytes else OK
    return Device("storage", light, t("strip.storage", free=gigabytes(disk.free_bytes), days=f"{days:,}"))


def _clock(room: Room, state: str, t: Say) -> Device:
    if state == "synced":
        return Device("clock", OK, t("strip.clock"))
    return Device("clock", BAD if room.rules.require_sync else WARN, t("strip.clock-unsynced"))


def _platform(room: Room, t: Say, w: Say) -> Device:
    backlog, lost = room.outbox.backlog(), room.state.platform_lost
    if lost is not None:
        key = "strip.platform-offline" if backlog.waiting else "strip.platform-offline-empty"
        return Device("platform", WARN, t(key, count=backlog.waiting, reason=w("reason", lost.reason)))
    if backlog.parked:
        return Device("platform", WARN, t("strip.platform-parked", count=backlog.parked))
    return Device("platform", OK, t("strip.platform-waiting" if backlog.waiting else "strip.platform", count=backlog.waiting))


# ---- sessions -------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class Counts:
    """Who is expected and who came: admitted + missing = expected, always (U5)."""

    expected: int
    admitted: int
    missing: int
    refusals: int
    seatless: int


def counts(room: Room, session: Session) -> Counts:
    roster = room.rosters.get(session.id)
    candidates = roster.candidates if roster else ()
    admitted = sum(c.candidate_id in session.admitted for c in candidates)
    return Counts(len(candidates), admitted, len(candidates) - admitted, session.refusals, sum(c.seat is None for c in candidates))


@dataclass(frozen=True, slots=True)
class Card:
    """A session among today's."""

    id: str
    title: str
    kind: str
    state: State
    start_us: int
    end_us: int
    expected: int
    chief: str
    live: bool


def card(room: Room, session: Session) -> Card:
    start = session.plan.scheduled_start_us
    return Card(session.id, session.plan.title, session.plan.session_kind, session.state, start,
                start + session.plan.duration_min * 60_000_000, counts(room, session).expected,
                room.staff.name(session.chief) if session.chief else "", session.state in LIVE)


def todays(room: Room) -> tuple[Card | None, list[Card]]:
    """The session that matters now (live, else the next that is not over), and the day's others in order of time."""
    today = room.local_date(room.clock.now().utc_us)
    cards = sorted((card(room, s) for s in room.state.sessions.values()
                    if s.state in LIVE or room.local_date(s.plan.scheduled_start_us) == today), key=lambda each: each.start_us)
    open_states = (State.PREFLIGHT, State.PLANNED)
    first = next((c for c in cards if c.live), None) or next((c for state in open_states for c in cards if c.state is state), None)
    return first, [c for c in cards if c is not first]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the check-in list; masked for a shared screen (`repr` shows no more than the page does)."""

    seq: int
    utc_us: int
    code: str
    seat: str | None
    name: str
    number: str
    light: str


def entries(room: Room, session: Session, most: int = 60) -> list[Entry]:
    """The newest verdicts at the door, newest first."""
    return [_entry(row) for row in room.catalog.checkins(session.id, most)]


def _entry(row: Checkin) -> Entry:
    light = BAD if row.code != Code.OK else OK if row.seat else WARN
    return Entry(row.seq, row.utc_us, row.code, row.seat, mask_name(row.name) if row.name else "",
                 mask_number(row.number) if row.number else "", light if row.code != Code.DUPLICATE else WARN)


@dataclass(frozen=True, slots=True)
class Absentee:
    """A candidate who is not there, masked."""

    candidate_id: str
    seat: str | None
    name: str
    number: str
    admission_tail: str


def absentees(room: Room, session: Session) -> list[Absentee]:
    people: list[Person] = room.catalog.people(session.id)
    return [Absentee(p.candidate_id, p.seat, mask_name(p.name), mask_number(p.number), p.admission_no[-4:])
            for p in people if p.candidate_id not in session.admitted]


def verdict_of(room: Room, session: Session) -> DoorVerdict | None:
    """The door's last word, if it concerns this session."""
    verdict = room.last_verdict
    return verdict if verdict is not None and verdict.session in (None, session.id) else None


def staff_of(room: Room, session: Session) -> list[dict[str, Any]]:
    """The session's chief and proctors: id, name, role, whether present."""
    order = {"chief": 0, "proctor": 1}
    return sorted(({"id": staff_id, "name": room.staff.name(staff_id), "role": role, "present": staff_id in session.present}
                   for staff_id, role in session.plan.staff.items()), key=lambda each: order.get(each["role"], 2))


def light_of(verdict: DoorVerdict) -> str:
    """Green with a seat; amber without one, or for a person who is in already or in the wrong place; red for any other."""
    if verdict.code is Code.OK:
        return OK if verdict.seat else WARN
    return WARN if verdict.code in SOUND else BAD


# ---- evidence -------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, slots=True)
class RevisionLine:
    """A manifest revision and how far it has come: signing, uploading, accepted, rejected."""

    number: int
    digest: str | None
    state: str
    light: str
    receipt: str | None
    reasons: tuple[str, ...]
    receipt_refused: str | None


def revisions(session: Session) -> list[RevisionLine]:
    lights = {"accepted": OK, "rejected": BAD}
    return [RevisionLine(r.number, r.digest, r.verdict or ("uploading" if r.digest else "signing"), lights.get(r.verdict or "", WARN),
                         r.receipt_sha256, r.reasons, r.receipt_refused) for r in session.revisions]


@dataclass(frozen=True, slots=True)
class GapLine:
    """A stretch that a stream does not have, as declared in the newest revision."""

    stream: str
    name: str
    from_utc_us: int
    to_utc_us: int
    dur_us: int
    reason: str


def gaps(web: Web, language: str, session: Session) -> list[GapLine]:
    """The gaps of the newest revision, longest first."""
    newest = len(session.revisions)
    found = [row.event for row in web.room.events(session.id) if isinstance(row.event, e.GapDeclared) and row.event.revision == newest]
    return sorted((GapLine(g.stream, stream_name(web, language, g.stream), g.from_utc_us, g.to_utc_us, g.dur_us, g.reason) for g in found),
                  key=lambda gap: -gap.dur_us)
