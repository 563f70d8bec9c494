"""The room's side: order, once each, bad sidecars passed over; silent streams reported once; the disk's identity; no PyAV in the room."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from edge.capture.control import StreamStatus, WatchStatus, read_status, status_path, watch_path, write_status, write_watch
from edge.capture.intake import SWEEP_EVERY, AlarmWatch, Intake, StreamWatch
from edge.capture.sidecar import Fragment, Sidecar, to_json
from edge.capture.storage_id import NAME, StorageRefused, check_storage, init_storage
from edge.capture.watchnote import Probe, ProbeWindow, WatchNote, note_path, probe_path
from edge.clock import SimClock, Stamp
from edge.sessions.events import Event, PlaybackProbed, StreamBack, StreamImpaired, StreamLost, StreamRestored

DAY = "2026/11/24"


def sidecar(stream: str, seq: int, size: int = 1500) -> Sidecar:
    start = Stamp(1_795_498_303_000_000 + seq * 60_000_000, seq * 60_000_000, "b")
    return Sidecar(
        stream=stream, seq=seq, run="0f" * 16, start=start, end=start.plus(60_000_000), dur_us=60_000_000, frame_us=40_000, frames=1500,
        dropped=0, bytes=size, sha256="ab" * 32, header_bytes=1000, fragments=(Fragment(1000, 500, 1_000_000, 60_000_000, True),),
        media_start_us=1_000_000, codec="h264", tracks={"video": {"codec": "h264"}}, clock_state="synced", end_reason="rotated")


def lay(footage: Path, stream: str, seq: int, day: str = DAY, *, size: int = 1500, data: bytes | None = None) -> Path:
    path = footage / stream / day / f"{seq:010d}-20261124T053143Z.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".mp4").write_bytes(bytes(size))
    path.with_suffix(".open.json").touch()
    path.write_bytes(to_json(sidecar(stream, seq)) if data is None else data)
    return path


class Catalog:
    """What the room would keep."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, int, str, str]] = []
        self.heard: dict[int, tuple[int | None, int | None]] = {}
        self.fail = False

    async def store(self, sidecar: Sidecar, path: str, digest: str) -> None:
        if self.fail:
            raise OSError("disk full")
        self.rows.append((sidecar.stream, sidecar.seq, path, digest))
        self.heard[sidecar.seq] = sidecar.audio_peak_cdb, sidecar.silent_ms

    def last(self, stream: str) -> int:
        return max((seq for s, seq, _, _ in self.rows if s == stream), default=-1)

    def numbers(self, stream: str) -> list[int]:
        return [seq for s, seq, _, _ in self.rows if s == stream]


async def test_in_order_and_once(tmp_path: Path) -> None:
    catalog = Catalog()
    intake = Intake(tmp_path, ["a", "b"], catalog.store, catalog.last, SimClock(), tmp_path)
    assert await intake.look() == 0
    for seq in (2, 0, 1):
        lay(tmp_path, "a", seq)
    path = lay(tmp_path, "b", 5)
    lay(tmp_path, "c", 0)
    assert await intake.look() == 4
    assert catalog.numbers("a") == [0, 1, 2]
    assert catalog.rows[-1] == ("b", 5, f"b/{DAY}/{path.stem}.mp4", hashlib.sha256(path.read_bytes()).hexdigest())
    assert await intake.look() == 0
    lay(tmp_path, "a", 3)
    lay(tmp_path, "a", 4, "2026/11/25")
    assert await intake.look() == 2
    again = Intake(tmp_path, ["a", "b"], catalog.store, catalog.last, SimClock(), tmp_path)     # a restart
    assert await again.look() == 0
    lay(tmp_path, "a", 5, "2026/11/25")
    assert await again.look() == 1
    assert catalog.numbers("a") == [0, 1, 2, 3, 4, 5]


async def test_two_files_within_one_tick(tmp_path: Path) -> None:
    """Names that come without a change of the folder's time (it has a coarse clock) are seen at the next look."""
    import os
    catalog = Catalog()
    intake = Intake(tmp_path, ["a"], catalog.store, catalog.last, SimClock(), tmp_path)
    path = lay(tmp_path, "a", 0)
    stamp = path.parent.stat().st_mtime_ns
    assert await intake.look() == 1
    lay(tmp_path, "a", 1)
    os.utime(path.parent, ns=(stamp, stamp))
    assert await intake.look() == 1


async def test_older_day_is_found_after_the_clock_was_set_back(tmp_path: Path) -> None:
    catalog = Catalog()
    intake = Intake(tmp_path, ["a"], catalog.store, catalog.last, SimClock(), tmp_path)
    for day in range(20, 27):
        lay(tmp_path, "a", day, f"2026/11/{day}")
    assert await intake.look() == 7
    lay(tmp_path, "a", 30, "2026/10/01")
    assert sum([await intake.look() for _ in range(SWEEP_EVERY)]) == 1
    lay(tmp_path, "a", 31, "2026/10/01")
    assert await intake.look() == 1


async def test_nobody_waits_for_the_first_look_at_years(tmp_path: Path) -> None:
    """Twenty thousand names that are known already, and one that is not: while they are read, whoever else wants a turn gets it."""
    day = lay(tmp_path, "a", 20_001).parent
    for seq in range(20_000):
        (day / f"{seq:010d}-20261124T053143Z.json").touch()
    catalog = Catalog()
    intake = Intake(tmp_path, ["a"], catalog.store, lambda stream: 20_000, SimClock(), tmp_path, note_wait_s=0)
    looking, turns = asyncio.ensure_future(intake.look()), 0
    while not looking.done():
        await asyncio.sleep(0)
        turns += 1
    assert looking.result() == 1 and [row[1] for row in catalog.rows] == [20_001]
    assert turns > 20, "the pages stood still"


async def test_bad_sidecars_stop_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    catalog = Catalog()
    intake = Intake(tmp_path, ["a"], catalog.store, catalog.last, SimClock(), tmp_path)
    lay(tmp_path, "a", 0, data=b"{")
    lay(tmp_path, "a", 1, size=1499)
    lay(tmp_path, "a", 2).with_suffix(".mp4").unlink()
    lay(tmp_path, "a", 3, data=to_json(sidecar("b", 3)))
    lay(tmp_path, "a", 4)
    assert await intake.look() == 1
    assert await intake.look() == 0
    assert catalog.numbers("a") == [4]
    assert [Path(path).name[9] for path in sorted(intake.refused)] == ["0", "1", "2", "3"]
    assert len([r for r in caplog.records if "sidecar refused" in r.message]) == 4


async def test_failing_catalog_loses_nothing(tmp_path: Path) -> None:
    catalog = Catalog()
    intake = Intake(tmp_path, ["a"], catalog.store, catalog.last, SimClock(), tmp_path)
    lay(tmp_path, "a", 0)
    catalog.fail = True
    with pytest.raises(OSError, match="disk full"):
        await intake.look()
    catalog.fail = False
    assert await intake.look() == 1


def status(stream: str, now: Stamp, **change: Any) -> StreamStatus:
    plain = StreamStatus(
        stream=stream, kind="rtsp", pid=7, state="recording", reason="", run="0f" * 16, seq=3, since_boot_us=now.boot_us,
        last_sample_boot_us=now.boot_us, last_sample_utc_us=now.utc_us, boot_id=now.boot_id, frames=9, bytes=9, fps_x100=2500, kbps=4000,
        width=1920, height=1080, codec="h264", segments=3, updated_boot_us=now.boot_us, dropped=0)
    return dataclasses.replace(plain, **change)


async def test_stream_watch_reports_each_change_once(tmp_path: Path) -> None:
    clock, events = SimClock(), list[Event]()

    async def report(event: Event) -> None:
        events.append(event)

    watch = StreamWatch(tmp_path, ["a"], report, clock)
    await clock.pass_time(4)
    await watch.look()
    assert events == []
    await clock.pass_time(2)
    await watch.look()
    await watch.look()
    assert events == [StreamLost(at=clock.now(), stream="a", reason="no-recorder")] and watch.lost == {"a"}
    write_status(tmp_path, status("a", clock.now()))
    await watch.look()
    await watch.look()
    assert events[1:] == [StreamBack(at=clock.now(), stream="a")] and watch.lost == frozenset()
    await clock.pass_time(6)
    write_status(tmp_path, dataclasses.replace(status("a", clock.now()), state="lost", reason="refused", last_sample_boot_us=1))
    await watch.look()
    assert events[2:] == [StreamLost(at=clock.now(), stream="a", reason="refused")]
    write_status(tmp_path, status("a", clock.now(), boot_id="another-boot"))
    await watch.look()
    assert len(events) == 3
    write_status(tmp_path, status("a", clock.now()))
    await watch.look()
    assert len(events) == 4
    write_status(tmp_path, status("a", clock.now(), state="resting", last_sample_boot_us=0))
    await clock.pass_time(60)
    await watch.look()
    assert len(events) == 4


async def test_worker_gone_is_told_from_a_lost_camera(tmp_path: Path) -> None:
    clock, events = SimClock(), list[StreamLost]()

    async def report(event: Event) -> None:
        assert isinstance(event, StreamLost)
        events.append(event)

    watch = StreamWatch(tmp_path, ["a"], report, clock)
    write_status(tmp_path, status("a", clock.now()))
    await clock.pass_time(6)
    await watch.look()
    assert [e.reason for e in events] == ["worker-gone"]


def test_status_round_trip_and_garbage(tmp_path: Path) -> None:
    now = SimClock().now()
    write_status(tmp_path, status("a", now))
    assert read_status(tmp_path, "a") == status("a", now)
    facts = json.loads(status_path(tmp_path, "a").read_text())
    for bad in ("", "[]", "{}", "\0", json.dumps(facts | {"pid": "7"}), json.dumps(facts | {"more": 1}),
                json.dumps(facts | {"state": "fine"}), json.dumps(facts | {"pid": True}), json.dumps(facts | {"pid": None}),
                json.dumps(facts | {"stream": "b"})):
        status_path(tmp_path, "a").write_text(bad)
        assert read_status(tmp_path, "a") is None
    assert read_status(tmp_path, "nobody") is None


def test_storage_identity(tmp_path: Path) -> None:
    footage = tmp_path / "footage"
    with pytest.raises(StorageRefused, match=r"Is the disk mounted\?"):
        check_storage(footage, None)
    identity = init_storage(footage)
    assert init_storage(footage) == identity == check_storage(footage, identity) == check_storage(footage, None)
    with pytest.raises(StorageRefused, match="another disk"):
        check_storage(footage, uuid.uuid4().hex)
    for damage in ("", "{}", "[]", '{"uuid": 5}', '{"uuid": "x"}'):
        (footage / NAME).write_text(damage)
        with pytest.raises(StorageRefused, match="cannot be read"):
            check_storage(footage, identity)
        with pytest.raises(StorageRefused, match="cannot be read"):
            init_storage(footage)
        assert (footage / NAME).read_text() == damage


def test_the_room_side_loads_no_media_library() -> None:
    code = ("import sys, edge.capture.intake, edge.capture.control, edge.capture.sidecar, edge.capture.storage_id, edge.capture.streams, "
            "edge.capture.recorder; print(sorted({'av', 'cv2', 'numpy', 'sounddevice'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- what the watcher says ----------------------------------------------------------------------------------------------

def watch_status(stream: str, now: Stamp, alarms: dict[str, int] | None = None) -> WatchStatus:
    return WatchStatus(stream=stream, boot_id=now.boot_id, updated_boot_us=now.boot_us, seq=3, rules="rules/1", picture_boot_us=now.boot_us,
                       sound_boot_us=now.boot_us, audio_peak_cdb=-3000, silent_ms=0, alarms=alarms or {})


def lay_note(path: Path, seq: int, **changed: Any) -> None:
    note = WatchNote("a", seq, "ab" * 32, "rules/1", -2310, 40, 0, 48000, 0)
    note_path(path).write_bytes(dataclasses.replace(note, **changed).to_json())


async def test_a_segment_waits_for_its_note_and_holds_up_only_its_own_stream(tmp_path: Path) -> None:
    clock, catalog = SimClock(), Catalog()
    intake = Intake(tmp_path, ["a", "b"], catalog.store, catalog.last, clock, tmp_path)
    write_watch(tmp_path, watch_status("a", clock.now()))
    first = lay(tmp_path, "a", 0)
    lay_note(lay(tmp_path, "a", 1), 1)
    lay(tmp_path, "b", 0)
    assert await intake.look() == 1 and catalog.numbers("b") == [0], "nobody watches b"
    await clock.pass_time(1)
    assert await intake.look() == 0 and catalog.numbers("a") == [], "the note of 1 is there, but 0 goes first"
    lay_note(first, 0, audio_peak_cdb=-900, silent_ms=0)
    assert await intake.look() == 2
    assert catalog.numbers("a") == [0, 1] and catalog.heard == {0: (-900, 0), 1: (-2310, 40)}
    assert await intake.look() == 0


async def test_no_segment_waits_longer_than_three_seconds(tmp_path: Path) -> None:
    clock, catalog = SimClock(), Catalog()
    intake = Intake(tmp_path, ["a"], catalog.store, catalog.last, clock, tmp_path)
    for seq in range(3):
        lay(tmp_path, "a", seq)
    for second in range(4):
        write_watch(tmp_path, watch_status("a", clock.now()))
        assert await intake.look() == (3 if second == 3 else 0), "all that came together have waited together"
        await clock.pass_time(1)
    assert catalog.heard[0] == (None, None)


async def test_nobody_waits_for_a_watcher_that_is_gone_nor_for_a_recovered_segment(tmp_path: Path) -> None:
    clock, catalog = SimClock(), Catalog()
    intake = Intake(tmp_path, ["a"], catalog.store, catalog.last, clock, tmp_path)
    write_watch(tmp_path, watch_status("a", clock.now()))
    await clock.pass_time(4)
    lay(tmp_path, "a", 0, data=to_json(dataclasses.replace(sidecar("a", 0), recovered=True, end_reason="power")))
    assert await intake.look() == 1
    lay(tmp_path, "a", 1)
    assert await intake.look() == 0
    await clock.pass_time(1.5)
    assert await intake.look() == 1, "its last word is older than five seconds"


@pytest.mark.parametrize("harm", [b"", b"{}", b"another", b"\xff"])
async def test_a_note_that_is_none_stops_nothing(tmp_path: Path, harm: bytes, caplog: pytest.LogCaptureFixture) -> None:
    catalog = Catalog()
    intake = Intake(tmp_path, ["a"], catalog.store, catalog.last, SimClock(), tmp_path)
    path = lay(tmp_path, "a", 0)
    if harm == b"another":
        lay_note(path, 0, sha256="cd" * 32)
    else:
        note_path(path).write_bytes(harm)
    assert await intake.look() == 1 and catalog.heard == {0: (None, None)}
    assert "watch note passed over" in caplog.text


async def test_what_lies_beside_segments_is_no_sidecar(tmp_path: Path) -> None:
    catalog = Catalog()
    intake = Intake(tmp_path, ["a"], catalog.store, catalog.last, SimClock(), tmp_path)
    path = lay(tmp_path, "a", 0)
    lay_note(path, 0)
    for name in (path.with_suffix(".covered.jpg"), tmp_path / "a" / "reference.png", probe_path(tmp_path / "a", "2026-11-24")):
        name.parent.mkdir(exist_ok=True)
        name.write_bytes(b"x")
    assert await intake.look() == 1 and not intake.refused


class Journal:
    """What the room's fold keeps of the watcher's facts."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.standing: dict[str, set[str]] = {}
        self.day = ""

    async def report(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, StreamImpaired):
            self.standing.setdefault(event.stream, set()).add(event.rule)
        elif isinstance(event, StreamRestored):
            self.standing[event.stream].discard(event.rule)
        elif isinstance(event, PlaybackProbed):
            self.day = event.day

    def watch(self, folder: Path, clock: SimClock) -> AlarmWatch:
        standing = self.standing
        return AlarmWatch(folder, folder, ["a"], lambda stream: standing.get(stream, set()), lambda _: self.day, self.report, clock)


async def test_alarms_become_facts_once_each_also_over_a_restart(tmp_path: Path) -> None:
    clock, journal = SimClock(), Journal()
    watch, raised = journal.watch(tmp_path, clock), clock.now().utc_us + 30 * 1_000_000
    evidence = lay(tmp_path, "a", 3, day="2026/11/26").with_name("0000000003-20261126T080000Z.covered.jpg")
    evidence.write_bytes(b"a picture")
    old = evidence.with_name("0000000001-20261126T073000Z.covered.jpg")
    old.write_bytes(b"of another alarm")
    write_watch(tmp_path, watch_status("a", clock.now(), {"covered": raised, "sound-zero": raised}))
    await watch.look()
    await watch.look()
    assert [(e.rule, e.since_utc_us, e.rules) for e in journal.events if isinstance(e, StreamImpaired)] == [
        ("covered", raised, "rules/1"), ("sound-zero", raised, "rules/1")]
    covered, silent = journal.events
    assert isinstance(covered, StreamImpaired) and covered.evidence == str(evidence.relative_to(tmp_path))
    assert covered.evidence_sha256 == hashlib.sha256(b"a picture").hexdigest()
    assert isinstance(silent, StreamImpaired) and silent.evidence is None
    again = journal.watch(tmp_path, clock)
    await again.look()
    assert len(journal.events) == 2, "a restart repeats nothing"
    write_watch(tmp_path, watch_status("a", clock.now(), {"sound-zero": raised}))
    await again.look()
    assert journal.events[2:] == [StreamRestored(at=clock.now(), stream="a", rule="covered")]


async def test_a_watcher_that_is_silent_is_said_and_its_alarms_stand(tmp_path: Path) -> None:
    clock, journal = SimClock(), Journal()
    watch = journal.watch(tmp_path, clock)
    write_watch(tmp_path, watch_status("a", clock.now(), {"moved": clock.now().utc_us}))
    await watch.look()
    for _ in range(12):
        await clock.pass_time(1)
        await watch.look()
    assert journal.standing == {"a": {"moved", "not-watched"}} and len(journal.events) == 2
    assert clock.now().us_since(journal.events[1].at) <= 2_000_000, "ten seconds after its last word, no sooner"
    watch_path(tmp_path, "a").unlink()
    again = journal.watch(tmp_path, clock)
    await clock.pass_time(60)
    await again.look()
    assert len(journal.events) == 2
    write_watch(tmp_path, watch_status("a", clock.now(), {"moved": clock.now().utc_us}))
    await again.look()
    assert journal.standing == {"a": {"moved"}}


async def test_r65_a_days_probe_becomes_a_fact_once(tmp_path: Path) -> None:
    clock, journal = SimClock(), Journal()
    watch = journal.watch(tmp_path, clock)
    write_watch(tmp_path, watch_status("a", clock.now()))
    await watch.look()

    def lay_probe(day: str, *reasons: str, stream: str = "a") -> None:
        windows = tuple(ProbeWindow(1, 0, 10_000_000, 250, not reason, reason) for reason in reasons)
        path = probe_path(tmp_path / "a", day)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Probe(stream, day, clock.now().utc_us, windows, not any(reasons)).to_json())

    lay_probe("2026-11-24", "", "", "")
    lay_probe("2026-11-25", "", "digest", "missing")
    await watch.look()
    await journal.watch(tmp_path, clock).look()
    assert journal.events == [PlaybackProbed(at=clock.now(), stream="a", day="2026-11-25", ok=False, windows=3, reason="digest")]
    lay_probe("2026-11-26", "", stream="b")
    await watch.look()
    assert len(journal.events) == 1, "it speaks of another stream"
    lay_probe("2026-11-27", "", "", "")
    await watch.look()
    assert journal.events[1:] == [PlaybackProbed(at=clock.now(), stream="a", day="2026-11-27", ok=True, windows=3)]
