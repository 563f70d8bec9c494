"""May the doors open? Readings in, a verdict per item out. Pure: the Room reads the instruments, this file judges.

Green, amber, red; red bars the opening unless it may be waived (chief and a second person, with a reason, into the manifest).
Items and figures: exam-room requirements U13, R1, R12, R19, R24; storage 1.3 times the planned bytes (U21).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from edge.sessions.space import with_reserve

FRESH_MS = 2000
"""A stream counts as recording if its newest sample reached the disk within this time."""
SILENCE_CDB = -9000
"""At or below: digital silence, hundredths of a dBFS (a quiet room's microphone gives -6000 and more)."""
LOW_CDB = -6000
ROSTER_OLD_US = 12 * 3600 * 1_000_000
WAITING_BYTES = 4_000_000
"""More than this waiting in memory for the disk, and the disk is slow: about two seconds of four cameras."""
CERTIFICATE_DAYS = 30
"""So long before its end the device's certificate is worth a warning to the people in the room (an authority takes weeks for a new one)."""
PROBE_OLD_US = 30 * 3600 * 1_000_000
"""A day, and the hours by which one day's probe may come later than the day before's."""

PICTURE_RULES = frozenset({"black", "covered", "frozen", "moved", "out-of-focus", "over-exposed"})
SOUND_RULES = frozenset({"sound-zero", "sound-missing", "sound-low", "sound-clipping"})
RED_RULES = frozenset({"black", "covered", "frozen", "sound-zero", "sound-missing"})
"""What the watcher may find in a recorded stream that makes it no evidence; every other rule is a reason to look, no more."""
NOT_WATCHED = "not-watched"
"""The rule that the room itself adds: nobody looks at what is recorded."""
TODO = frozenset({"exits-unchecked", "staff-missing", "staff-no-chief"})
"""Words of items that bar the opening because they are yet to be done: no fault."""


Facts = Mapping[str, str | int]
"""What fills in an item's wording."""


class Light(StrEnum):
    GREEN = "green"
    AMBER = "amber"
    RED = "red"


class Result(StrEnum):
    """The whole: 就绪, 可带警告开考, 不可开考."""

    READY = "ready"
    WARNINGS = "ready-with-warnings"
    NOT_READY = "not-ready"


@dataclass(frozen=True, slots=True)
class StreamReading:
    """`age_ms`: since the newest sample on disk; None: nothing yet. `peak_cdb`: None if nobody measured sound just now.

    `sound`: sound has just reached the disk. `alarms`: rules that the stream breaks, and `not-watched`. `waiting_bytes`: for the disk.
    """

    stream: str
    kind: str
    state: str
    reason: str
    age_ms: int | None
    peak_cdb: int | None
    sound: bool = False
    alarms: tuple[str, ...] = ()
    waiting_bytes: int = 0

    @property
    def fresh(self) -> bool:
        return self.state == "recording" and self.age_ms is not None and self.age_ms <= FRESH_MS


@dataclass(frozen=True, slots=True)
class ProbeReading:
    """A stream's newest playback probe. `age_us`: since it became known."""

    stream: str
    ok: bool
    age_us: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Readings:
    """What the instruments say at one moment."""

    roster_source: str | None           # None: no roster; else platform, drill or import
    roster_age_us: int
    roster_refused: str | None
    plan_is_today: bool
    reader: str                         # ok, lost, starting
    reader_fault: str
    streams: tuple[StreamReading, ...]
    free_bytes: int
    needed_bytes: int
    write_ok: bool
    storage_fault: str
    clock_state: str                    # synced, unsynced, unknown
    require_sync: bool
    platform_reason: str | None         # None: it answers
    chief_present: bool
    proctors_present: int
    min_proctors: int
    exits_checked: bool
    probes: tuple[ProbeReading, ...] = ()
    space_low: bool = False             # the timetable of the next days does not fit (the keeper's word)
    room_age_us: int = 0                # since the room's first start
    roster_count: int = 0
    signer_lost: str | None = None      # why the device's key does not sign; None: it does
    certificate_until_us: int | None = None     # when the device's certificate ends, once that is near
    now_utc_us: int = 0
    roster_differs: tuple[int, int, int] = (0, 0, 0)    # people whom a signed list added, took off and changed against an imported one


@dataclass(frozen=True, slots=True)
class Item:
    """One line of the list. `word` is a key of the texts (`preflight.word.<word>`), `facts` fill it in."""

    key: str                            # roster, reader, stream:<id>, sound, storage, playback, clock, platform, signature, staff, exits
    light: Light
    word: str
    facts: Facts = field(default_factory=dict)
    waivable: bool = False
    waived: bool = False

    @property
    def todo(self) -> bool:
        """It waits for a person; nothing is wrong."""
        return self.word in TODO


@dataclass(frozen=True, slots=True)
class Preflight:
    items: tuple[Item, ...]

    @property
    def result(self) -> Result:
        if any(i.light is Light.RED and not i.waived for i in self.items):
            return Result.NOT_READY
        return Result.READY if all(i.light is Light.GREEN for i in self.items) else Result.WARNINGS

    @property
    def red(self) -> tuple[str, ...]:
        """Keys of what bars the opening."""
        return tuple(i.key for i in self.items if i.light is Light.RED and not i.waived)


def judge(r: Readings, waived: Collection[str] = ()) -> Preflight:
    """The list, worst first within the order of the table."""
    items = [_roster(r), _reader(r), *_streams(r), _sound(r), _storage(r), _playback(r), _clock(r), _platform(r),
             _signature(r), _staff(r), _exits(r)]
    return Preflight(tuple(Item(i.key, i.light, i.word, i.facts, i.waivable, i.waivable and i.key in waived) for i in items))


def _roster(r: Readings) -> Item:
    if r.roster_source is None:
        return Item("roster", Light.RED, "roster-refused" if r.roster_refused else "roster-missing", {"reason": r.roster_refused or ""})
    if not r.plan_is_today:
        return Item("roster", Light.RED, "roster-not-today")
    if r.roster_source == "drill":
        return Item("roster", Light.GREEN, "roster-drill")
    if r.roster_source == "import":
        return Item("roster", Light.AMBER, "roster-import", {"count": r.roster_count})
    if any(r.roster_differs):
        added, removed, changed = r.roster_differs
        return Item("roster", Light.AMBER, "roster-replaced", {"added": added, "removed": removed, "changed": changed})
    if r.roster_age_us > ROSTER_OLD_US:
        return Item("roster", Light.AMBER, "roster-old", {"hours": r.roster_age_us // 3_600_000_000})
    return Item("roster", Light.GREEN, "roster-ok")


def _reader(r: Readings) -> Item:
    if r.reader == "ok":
        return Item("reader", Light.GREEN, "reader-ok")
    return Item("reader", Light.RED, "reader-lost", {"reason": r.reader_fault or r.reader})


def worst(rules: Collection[str]) -> str | None:
    """The rule that says most about a stream: a red one before an amber one, `not-watched` last; None if there is none."""
    return min(rules, key=lambda rule: (rule not in RED_RULES, rule == NOT_WATCHED, rule), default=None)


def _streams(r: Readings) -> list[Item]:
    items = []
    for s in r.streams:
        others = any(o.kind == s.kind and o.stream != s.stream and o.fresh and not PICTURE_RULES & RED_RULES & set(o.alarms)
                     for o in r.streams)
        rule = worst([a for a in s.alarms if a not in SOUND_RULES])     # sound has an item of its own
        facts: Facts = {"stream": s.stream, "reason": s.reason, "age_ms": -1 if s.age_ms is None else s.age_ms, "rule": rule or ""}
        key = f"stream:{s.stream}"
        if not s.fresh:
            items.append(Item(key, Light.RED, "stream-lost", facts, waivable=others))
        elif rule == NOT_WATCHED:
            items.append(Item(key, Light.AMBER, "stream-unwatched", facts))
        elif rule in RED_RULES:
            items.append(Item(key, Light.RED, "stream-impaired", facts, waivable=others))
        elif rule is not None:
            items.append(Item(key, Light.AMBER, "stream-impaired", facts))
        else:
            items.append(Item(key, Light.GREEN, "stream-ok", facts))
    return items


def _sound(r: Readings) -> Item:
    """At least one stream must carry sound above digital silence (R12). A level that nobody measured is never called good."""
    peaks = [s.peak_cdb for s in r.streams if s.peak_cdb is not None and s.state == "recording"]
    if not peaks:
        unmeasured = any(s.sound and s.state == "recording" for s in r.streams)
        return Item("sound", Light.AMBER, "sound-unmeasured") if unmeasured else Item("sound", Light.RED, "sound-missing")
    best = max(peaks)
    facts: Facts = {"cdb": best, "db": best // 100}
    if best <= SILENCE_CDB:
        return Item("sound", Light.RED, "sound-silent", facts)
    if best < LOW_CDB:
        return Item("sound", Light.AMBER, "sound-low", facts)
    for s in r.streams:
        if s.fresh and (rule := worst(SOUND_RULES & set(s.alarms))):
            return Item("sound", Light.AMBER, "sound-impaired", {**facts, "stream": s.stream, "rule": rule})
    return Item("sound", Light.GREEN, "sound-ok", facts)


def _storage(r: Readings) -> Item:
    facts: Facts = {"free_gb": r.free_bytes // 10**9, "needed_gb": -(-with_reserve(r.needed_bytes) // 10**9), "reason": r.storage_fault}
    if not r.write_ok:
        return Item("storage", Light.RED, "storage-fault", facts)
    if r.free_bytes < with_reserve(r.needed_bytes):
        return Item("storage", Light.RED, "storage-full", facts)
    if r.space_low:
        return Item("storage", Light.AMBER, "storage-low", facts)
    waiting = max((s.waiting_bytes for s in r.streams), default=0)
    if waiting > WAITING_BYTES:
        return Item("storage", Light.AMBER, "storage-slow", {**facts, "waiting_mb": waiting // 10**6})
    return Item("storage", Light.GREEN, "storage-ok", facts)


def _playback(r: Readings) -> Item:
    """What was recorded must be readable (R65): a failed probe is red until a later one succeeds; one that is overdue is amber."""
    for probe in r.probes:
        if not probe.ok:
            return Item("playback", Light.RED, "playback-failed", {"stream": probe.stream, "reason": probe.reason})
    ages = {probe.stream: probe.age_us for probe in r.probes}
    age = max((ages.get(s.stream, r.room_age_us) for s in r.streams), default=0)
    if age > PROBE_OLD_US:
        return Item("playback", Light.AMBER, "playback-old", {"hours": age // 3_600_000_000})
    return Item("playback", Light.GREEN, "playback-ok" if r.probes else "playback-new")


def _clock(r: Readings) -> Item:
    if r.clock_state == "synced":
        return Item("clock", Light.GREEN, "clock-ok")
    return Item("clock", Light.RED if r.require_sync else Light.AMBER, "clock-unsynced", {"state": r.clock_state})


def _platform(r: Readings) -> Item:
    if r.platform_reason is None:
        return Item("platform", Light.GREEN, "platform-ok")
    return Item("platform", Light.AMBER, "platform-offline", {"reason": r.platform_reason})


def _signature(r: Readings) -> Item:
    """An exam can be held and recorded without a signature, but not proved: chief and a second person may go on; it is signed later."""
    days = CERTIFICATE_DAYS + 1 if r.certificate_until_us is None else (r.certificate_until_us - r.now_utc_us) // (86_400 * 1_000_000)
    if r.signer_lost is not None:
        return Item("signature", Light.RED, "signer-lost", {"reason": r.signer_lost}, waivable=True)
    if days < 0:
        return Item("signature", Light.RED, "certificate-expired", waivable=True)
    if days <= CERTIFICATE_DAYS:
        return Item("signature", Light.AMBER, "certificate-expiring", {"days": days})
    return Item("signature", Light.GREEN, "signature-ok")


def _staff(r: Readings) -> Item:
    facts: Facts = {"proctors": r.proctors_present, "needed": r.min_proctors}
    if r.chief_present and r.proctors_present >= r.min_proctors:
        return Item("staff", Light.GREEN, "staff-ok", facts)
    return Item("staff", Light.RED, "staff-missing" if r.chief_present else "staff-no-chief", facts)


def _exits(r: Readings) -> Item:
    return Item("exits", Light.GREEN, "exits-ok") if r.exits_checked else Item("exits", Light.RED, "exits-unchecked")
