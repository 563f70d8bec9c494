"""What the templates need, made from what the Room says: device strip, stream tiles, session facts. Reads only; no sentence is made
up here, words come from the texts. Callers: `pages` and the handlers; may run beside the event loop (all reads are of snapshots).
(More than 400 lines: one short function for each thing that a page shows.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from edge.room import Room
from edge.sessions import events as e
from edge.sessions import preflight
from edge.sessions.identity import mask_name, mask_number
from edge.sessions.machine import LIVE, Session, State
from edge.sessions.roster import Code
from edge.sessions.verdict import DoorVerdict
from edge.storage.catalog import Checkin, Person
from edge.web import attendance
from edge.web.desk import Web

OK, WARN, BAD, DIM = "ok", "warn", "bad", "dim"
WORST_FIRST = (BAD, WARN, OK, DIM)
LOW_SHARE = 10          # the disk is called low below a tenth of it

CLASS_LIGHTS = {Code.OK: OK, Code.LEFT: OK, Code.RETURNED: OK, Code.NOT_ON_ROSTER: WARN}
"""Verdicts of a class that have another light than at an exam: nobody is turned away."""

PAGE_OF = {State.PLANNED: "preflight", State.PREFLIGHT: "preflight", State.CHECKIN: "checkin", State.RUNNING: "run",
           State.CLOSING: "close", State.SEALING: "close", State.SEALED: "done", State.CANCELLED: "done"}
"""The page that shows a session in this state."""

SOUND = {Code.OK: "ok", Code.LEFT: "ok", Code.RETURNED: "ok", Code.DUPLICATE: "warn", Code.WRONG_SESSION: "warn", Code.WRONG_ROOM: "warn",
         Code.TOO_EARLY: "warn", Code.NO_CARD: "warn"}
"""Tone of a verdict; every other is an error (exam-room requirements, U23)."""
AMBER_CODES = frozenset({Code.DUPLICATE, Code.WRONG_SESSION, Code.WRONG_ROOM, Code.TOO_EARLY, Code.NOT_OPEN, Code.NO_CARD})
"""Verdicts that turn nobody away for good: their words begin with ▲."""
MARKS = {Code.RETURNED: OK, Code.LEFT: OK, "left": DIM, "out": DIM, "seat": DIM, "corrected-absent": WARN, "corrected-present": WARN}
"""Lines of the list that are no verdicts: seats, going out and coming back, corrections."""


@dataclass(frozen=True, slots=True)
class Device:
    """One word group of the strip."""

    key: str
    light: str
    text: str


@dataclass(frozen=True, slots=True)
class Alarm:
    """What the watcher has against a stream, since when."""

    rule: str
    light: str
    since_us: int


@dataclass(frozen=True, slots=True)
class Tile:
    """One stream as the wall shows it. `age_ms`: since its newest sample was on disk; `db`: whole dBFS, None: not measured now.

    `light`: the worst of state and alarms; `state_light`: of the state alone. `sound`: it carries sound, measured or not.
    """

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
    state_light: str
    sound: bool
    alarms: tuple[Alarm, ...]


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
    return [tile(web, language, stream) for stream in web.room.instruments.streams]


def tile(web: Web, language: str, stream: str) -> Tile:
    """One stream as the wall shows it."""
    room, picture = web.room, web.room.instruments.streams[stream] != "microphone"
    status, age = room.instruments.stream_status(stream), room.stream_age_ms(stream)
    name, alarms = stream_name(web, language, stream), alarms_of(room, stream)
    if status is None:
        return Tile(stream, name, BAD, "unknown", picture, "", None, 0, 0, 0, 0, None, BAD, False, alarms)
    peak = room.peak_cdb(stream)
    fresh = status.state == "recording" and age is not None and age <= preflight.FRESH_MS
    silent = peak is not None and peak <= preflight.SILENCE_CDB
    light = DIM if status.state == "resting" else BAD if not fresh else WARN if silent else OK
    state = "stale" if status.state == "recording" and not fresh else status.state
    worst = light if light == DIM else min((light, *(alarm.light for alarm in alarms)), key=WORST_FIRST.index)
    return Tile(stream, name, worst, state, picture, status.reason, age, status.kbps, status.width, status.height,
                round(status.fps_x100 / 100), None if peak is None else peak // 100, light, "aac" in status.codec, alarms)


def alarms_of(room: Room, stream: str) -> tuple[Alarm, ...]:
    """The alarms that stand, worst first."""
    found = [Alarm(rule, BAD if rule in preflight.RED_RULES else WARN, fact.since_utc_us)
             for rule, fact in room.state.impaired.get(stream, {}).items()]
    return tuple(sorted(found, key=lambda alarm: (WORST_FIRST.index(alarm.light), alarm.rule == preflight.NOT_WATCHED, alarm.since_us)))


def strip(web: Web, language: str) -> list[Device]:
    """The footer: reader, pictures, sound, storage, clock, platform; last the archive, if it is away. The order never changes: the eye
    knows the place."""
    t, w = partial(web.texts.say, language), partial(web.texts.word, language)
    return [_reader(web.room, t, w), *_streams(tiles(web, language), t, w), _storage(web, t, w),
            _clock(web.room, web.gauges.clock_state(), t), _platform(web.room, t, w), *_signature(web.room, t, w),
            *([Device("archive", WARN, t("strip.archive-lost"))] if web.room.state.archive_lost else [])]


Say = Callable[..., str]


def _reader(room: Room, t: Say, w: Say) -> Device:
    status = room.instruments.reader()
    if status.state == "ok":
        return Device("reader", OK, t("strip.reader"))
    if status.state == "starting":
        return Device("reader", WARN, t("strip.reader-starting"))
    return Device("reader", BAD, t("strip.reader-lost", reason=w("reason", status.last_fault or "unknown")))


def reader_fault(room: Room) -> str:
    """Why no card can be read; empty while the reader answers or is only starting."""
    status = room.instruments.reader()
    return "" if status.state in ("ok", "starting") else status.last_fault or "unknown"


def _streams(wall: Sequence[Tile], t: Say, w: Say) -> list[Device]:
    return [_pictures([tile for tile in wall if tile.picture], t, w), _sound(wall, t, w)]


def _pictures(pictures: Sequence[Tile], t: Say, w: Say) -> Device:
    lost = [tile for tile in pictures if tile.state_light == BAD]
    if lost:
        return Device("pictures", BAD, t("strip.pictures-lost", good=len(pictures) - len(lost), all=len(pictures),
                                         names="、".join(tile.name for tile in lost)))
    if any(tile.state == "resting" for tile in pictures):
        return Device("pictures", DIM, t("strip.pictures-resting"))
    found = [(tile, alarm) for tile in pictures for alarm in tile.alarms if alarm.rule not in preflight.SOUND_RULES]
    if found:
        return _worst("pictures", "strip.pictures-impaired", found, t, w)
    return Device("pictures", OK if pictures else BAD, t("strip.pictures", count=len(pictures)))


def _sound(wall: Sequence[Tile], t: Say, w: Say) -> Device:
    recording = [tile for tile in wall if tile.state == "recording"]
    levels = [tile.db for tile in recording if tile.db is not None]
    if not levels:
        if any(tile.state == "resting" for tile in wall):
            return Device("sound", DIM, t("strip.sound-resting"))
        if any(tile.sound for tile in recording):
            return Device("sound", WARN, t("strip.sound-unmeasured"))
        return Device("sound", BAD, t("strip.sound-missing"))
    if max(levels) * 100 <= preflight.SILENCE_CDB:
        return Device("sound", BAD, t("strip.sound-silent"))
    found = [(tile, alarm) for tile in recording for alarm in tile.alarms if alarm.rule in preflight.SOUND_RULES]
    if found:
        return _worst("sound", "strip.sound-impaired", found, t, w)
    return Device("sound", OK if max(levels) * 100 >= preflight.LOW_CDB else WARN, t("strip.sound", db=max(levels)))


def _worst(key: str, text: str, found: Sequence[tuple[Tile, Alarm]], t: Say, w: Say) -> Device:
    """The worst alarm in words, and how many more there are."""
    tile, alarm = min(found, key=lambda each: (WORST_FIRST.index(each[1].light), each[1].rule == preflight.NOT_WATCHED))
    more = t("strip.more", count=len(found) - 1) if len(found) > 1 else ""
    return Device(key, alarm.light, t(text, name=tile.name, alarm=w("alarm", alarm.rule)) + more)


def _storage(web: Web, t: Say, w: Say) -> Device:
    room, disk = web.room, web.gauges.disk()
    if not disk.write_ok:
        return Device("storage", BAD, t("strip.storage-fault", reason=disk.fault))
    failed = next((p for p in room.state.probed.values() if not p.ok and p.stream in room.instruments.streams), None)
    if failed is not None:
        return Device("storage", BAD, t("strip.playback-failed", reason=w("reason", failed.reason or "unknown")))
    waiting = max((s.buffered_bytes for each in room.instruments.streams if (s := room.instruments.stream_status(each))), default=0)
    if waiting > preflight.WAITING_BYTES:
        return Device("storage", WARN, t("strip.storage-slow", mb=waiting // 10**6))
    if room.state.space_low is not None and room.state.space_low.reason == "timetable":
        return Device("storage", WARN, t("strip.space-low", free=gigabytes(disk.free_bytes)))
    days = disk.free_bytes // max(1, web.gauges.kbps() * 125 * 86_400)
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


def _signature(room: Room, t: Say, w: Say) -> list[Device]:
    """The device's key, only while something is wrong with it: nobody in the room need know otherwise that there is one."""
    lost, certificate, counter = room.state.signer_lost, room.state.certificate, room.state.counter_lost
    if lost is not None:
        return [Device("signature", BAD, t("strip.signer-lost", reason=w("reason", lost.reason)))]
    if counter is not None:
        return [Device("signature", BAD, t("strip.counter-lost", reason=w("reason", counter.reason)))]
    days = None if certificate is None else (certificate.until_utc_us - room.clock.now().utc_us) // (86_400 * 1_000_000)
    if days is None or days > preflight.CERTIFICATE_DAYS:
        return []
    if days < 0:
        return [Device("signature", BAD, t("strip.certificate-expired"))]
    return [Device("signature", WARN, t("strip.certificate-expiring", days=days))]


# ---- sessions -------------------------------------------------------------------------------------------------------------

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
                start + session.plan.duration_min * 60_000_000, attendance.expected(room, session),
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
    late_min: int = 0
    method: str = ""


def entries(room: Room, session: Session, most: int = 60) -> list[Entry]:
    """The newest verdicts at the door, newest first."""
    return [_class_entry(session, row) if attendance.is_class(session) else _entry(row) for row in room.catalog.checkins(session.id, most)]


def _class_entry(session: Session, row: Checkin) -> Entry:
    """A line of a class: late instead of seatless, and nobody in red for being on no list."""
    late = max(0, (row.utc_us - session.plan.scheduled_start_us) // 60_000_000) if row.code == Code.OK else 0
    light = WARN if late else CLASS_LIGHTS[Code(row.code)] if row.code in CLASS_LIGHTS else _entry(row).light
    return replace(_entry(row), light=light, late_min=late)


def _entry(row: Checkin) -> Entry:
    if row.code in MARKS:
        light = MARKS[row.code]
    elif row.code == Code.OK:
        light = OK if row.seat and row.method != "manual" else WARN
    else:
        light = WARN if row.code in AMBER_CODES else BAD
    return Entry(row.seq, row.utc_us, row.code, row.seat, mask_name(row.name) if row.name else "",
                 mask_number(row.number) if row.number else "", light, method=row.method or "")


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


def shown(room: Room, verdict: DoorVerdict | None) -> dict[str, Any]:
    """How a verdict is shown: light, tone, minutes late (classes only), and a word that stands for the card and tells nothing of it.

    No tone while the exam runs: it would disturb, and enter the evidence (U23).
    """
    session = room.state.sessions.get(verdict.session or "") if verdict else None
    late = attendance.late_min(session, verdict.at) if verdict and session and attendance.is_class(session) else 0
    if verdict is None:
        return {"verdict_light": "", "verdict_sound": "", "verdict_late": 0, "verdict_card": "", "verdict_running": False}
    live = room.state.sessions.get(room.state.live or "")
    quiet = live is not None and live.state is State.RUNNING
    card = hashlib.sha256(verdict.subject.encode()).hexdigest()[:8] if verdict.subject else ""
    return {"verdict_light": light_of(verdict, session, late), "verdict_sound": "" if quiet else SOUND.get(verdict.code, "error"),
            "verdict_late": late, "verdict_card": card, "verdict_running": quiet and not attendance.is_class(session)}


def light_of(verdict: DoorVerdict, session: Session | None, late_min: int) -> str:
    """Green with a seat (in a class: in time); amber without, or for who is in already or in the wrong place; red for any other."""
    if attendance.is_class(session) and verdict.code in CLASS_LIGHTS:
        return WARN if late_min and verdict.code is Code.OK else CLASS_LIGHTS[verdict.code]
    if verdict.code in (Code.RETURNED, Code.LEFT):
        return OK
    if verdict.code is Code.OK:
        return OK if verdict.seat else WARN
    return WARN if verdict.code in AMBER_CODES else BAD


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
