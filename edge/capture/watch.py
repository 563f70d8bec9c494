"""The watcher: one process for the room that sees and hears what was really recorded, and says when it is not worth recording.

It follows each stream's files as they grow, decodes the newest key frame (once a second at most) and all sound, judges both, and writes:
each second the stream's watch status and its newest picture (tmpfs); beside each sealed segment its note and, where an alarm was raised
on a picture, that picture (durable). Once a day it has each stream's footage played back (probe). It reads footage, never writes it: the
recording does not know whether it runs. stdin is its leash, as with the workers. Called by `edge watch`, started by recorder.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import av

from edge import durable
from edge.capture import picture
from edge.capture.alarms import Alarms, Limits, judge_picture
from edge.capture.control import WatchStatus, picture_path, read_watch, write_watch
from edge.capture.hearing import Hearing
from edge.capture.probe import Prober
from edge.capture.storage_id import check_storage
from edge.capture.streams import StreamSpec
from edge.capture.tail import Part, Sealed, Segment, Tail
from edge.capture.watchnote import PictureFigures, Turn, WatchNote, evidence_path, note_path
from edge.capture.worker import LOCKED, Leash, take_lock
from edge.clock import US, Clock, SystemClock

POLL_S = 0.5
PICTURE_EVERY_US = 900_000
"""Key frames that come faster than one a second, with some play for a camera that is not exact, are not looked at."""
HEALTHY_US = 60 * US
"""So long nothing must be wrong before a picture becomes the camera's reference."""
SOUND_LATE_US = 10 * US
SOUND_STALE_US = 3 * US
"""With no sound on the disk for so long there is no level: a meter must not stand still at a good value."""
RESUME_US = 120 * US
"""Alarms that an earlier watcher had in force are taken over if it spoke no longer ago than that."""
LINGER_S = 2.0
"""When it is told to leave the workers are, too: so long it waits for the segments that they seal, to note them."""
NICE = 5
ALIKE = 5
"""Key frames that the newest is compared with to tell whether the picture is frozen."""

log = logging.getLogger(__name__)


class Watched:
    """One stream as the watcher knows it."""

    def __init__(self, spec: StreamSpec, footage: Path, run_dir: Path, limits: Limits, clock: Clock) -> None:
        self._spec, self._run_dir, self._limits, self._clock = spec, run_dir, limits, clock
        self._folder = footage / spec.id
        self._tail, self._hearing, self._alarms = Tail(self._folder, clock), Hearing(), Alarms(limits)
        self._reference = picture.Reference(self._folder)
        self._rules = limits.version()
        self._segment: Segment | None = None
        self._before: deque[picture.Grey] = deque(maxlen=ALIKE)
        self._before_us: int | None = None          # media time of it; None: another run's
        self._looked_us = self._picture_boot_us = self._sound_boot_us = 0
        self._healthy_us: int | None = None         # boot time since which every picture was good
        self._expects_sound = spec.kind == "microphone" or spec.sound is not None
        self._sound_late_us = 0
        self._pictures: list[PictureFigures] = []
        self._turns: list[Turn] = []
        self._refused = 0
        self._resume()

    def _resume(self) -> None:
        told, now = read_watch(self._run_dir, self._spec.id), self._clock.now()
        if told is not None and told.boot_id == now.boot_id and now.boot_us - told.updated_boot_us <= RESUME_US:
            self._alarms.resume(told.alarms)
            self._expects_sound |= "sound-missing" in told.alarms

    @property
    def stream(self) -> str:
        return self._spec.id

    def look(self) -> None:
        """See and hear what is new. OSError if the disk fails."""
        for news in self._tail.look():
            match news:
                case Segment():
                    self._begin(news)
                case Part():
                    self._take(news)
                case Sealed():
                    self._note(news)

    @property
    def reads(self) -> bool:
        """Whether a segment is being read that is not sealed yet."""
        return self._tail.reads

    def tell(self) -> None:
        """Write the watch status. OSError if its folder is gone."""
        now = self._clock.now()
        fresh = self._sound_boot_us and now.boot_us - self._sound_boot_us <= SOUND_STALE_US
        write_watch(self._run_dir, WatchStatus(
            stream=self._spec.id, boot_id=now.boot_id, updated_boot_us=now.boot_us, seq=max(0, self._tail.seq), rules=self._rules,
            picture_boot_us=self._picture_boot_us, sound_boot_us=self._sound_boot_us,
            audio_peak_cdb=self._hearing.second_cdb if fresh else None, silent_ms=self._hearing.silent_ms if fresh else 0,
            alarms=self._alarms.in_force))

    def _begin(self, segment: Segment) -> None:
        if self._segment is None:               # taken over, and found in this segment: it will be found in it again
            self._alarms.forget(segment.start.utc_us)
        same_run = self._segment is not None and self._segment.run == segment.run
        self._segment = segment
        sound = segment.track("audio")
        self._expects_sound |= sound is not None
        self._hearing.begin(sound, same_run=same_run)
        if not same_run:
            self._looked_us, self._before_us = 0, None
        self._pictures, self._turns, self._refused = [], [], 0

    def _take(self, part: Part) -> None:
        segment = self._segment
        if segment is None:
            return
        if "audio" in part.samples:
            self._hear(segment, part)
        if "video" in part.samples:
            self._miss_sound(segment, part)
            for sample in part.samples["video"]:
                if sample.key and sample.media_us - self._looked_us >= PICTURE_EVERY_US:
                    self._looked_us = sample.media_us
                    self._see(segment, sample.media_us, part.bytes_of(sample))

    # ---- sound ----

    def _hear(self, segment: Segment, part: Part) -> None:
        samples = part.samples["audio"]
        if not samples:
            return
        self._hearing.hear([part.bytes_of(sample) for sample in samples])
        level = self._hearing.second_cdb
        if level is None:
            return
        self._sound_boot_us = self._clock.now().boot_us
        silent_us = 1000 * self._hearing.silent_ms
        end_us = samples[-1].media_us + samples[-1].dur_us
        self._judge({"sound-zero": silent_us > 0}, segment, end_us, held_us=silent_us)
        self._judge({"sound-low": silent_us == 0 and level <= 100 * self._limits.sound_low_dbfs,
                     "sound-clipping": self._hearing.clipped_percent >= self._limits.clipped_percent}, segment, end_us)

    def _miss_sound(self, segment: Segment, part: Part) -> None:
        """The picture goes on: does the sound?"""
        shown = part.samples["video"]
        self._sound_late_us = 0 if part.samples.get("audio") else self._sound_late_us + sum(sample.dur_us for sample in shown)
        if shown and self._expects_sound:
            self._judge({"sound-missing": self._sound_late_us > US}, segment, shown[-1].media_us, held_us=self._sound_late_us)

    # ---- picture ----

    def _see(self, segment: Segment, media_us: int, data: bytes) -> None:
        track = segment.track("video")
        try:
            frame = picture.decode(track, data) if track else None
            if frame is None:
                return
            grey, jpeg = picture.grey(frame), picture.still(frame)
            self._reference.refresh()
            figures = picture.measure(media_us, grey, self._before, self._reference)
        except picture.FAULTS as error:
            self._refused += 1
            log.debug("picture refused stream=%s error=%s", self._spec.id, type(error).__name__)
            return
        held_us = 0 if self._before_us is None else media_us - self._before_us
        self._before.append(grey)
        self._before_us = media_us
        self._pictures.append(figures)
        verdicts = judge_picture(figures, self._reference.detail, self._limits)
        frozen = verdicts.pop("frozen")
        if frozen is None and "frozen" in self._alarms.in_force:
            frozen = False              # only the very same picture keeps it so
        self._judge(verdicts, segment, media_us, jpeg)
        self._judge({"frozen": frozen}, segment, media_us, jpeg, held_us=held_us)
        self._keep_reference(segment, media_us, grey, not any((*verdicts.values(), frozen)))
        self._picture_boot_us = self._clock.now().boot_us
        with suppress(OSError):         # tmpfs is full or gone: the status says the same
            self._show(jpeg)

    def _show(self, jpeg: bytes) -> None:
        target = picture_path(self._run_dir, self._spec.id)
        part = target.with_name(f".{target.name}.part")
        part.write_bytes(jpeg)
        part.replace(target)

    def _keep_reference(self, segment: Segment, media_us: int, grey: picture.Grey, good: bool) -> None:
        """A minute of good pictures makes the first reference."""
        at = segment.moment(media_us).boot_us
        if self._reference or not good or (self._healthy_us is not None and at < self._healthy_us):
            self._healthy_us = None
            return
        self._healthy_us = at if self._healthy_us is None else self._healthy_us
        if at - self._healthy_us < HEALTHY_US:
            return
        self._healthy_us = None
        try:
            if self._reference.keep(grey):
                log.info("reference picture made stream=%s", self._spec.id)
        except OSError as error:
            log.warning("reference picture not kept stream=%s errno=%s what=tried again in a minute", self._spec.id, error.errno)

    # ---- what comes of it ----

    def _judge(self, verdicts: dict[str, bool | None], segment: Segment, media_us: int, jpeg: bytes | None = None,
               held_us: int = 0) -> None:
        for turn in self._alarms.judge(verdicts, segment.moment(media_us), media_us, held_us):
            name = self._keep_evidence(segment.path, turn.rule, jpeg) if turn.raised and jpeg else ""
            self._turns.append(Turn(turn.rule, turn.raised, turn.utc_us, turn.media_us, name))
            (log.warning if turn.raised else log.info)("alarm %s stream=%s rule=%s seq=%d", "raised" if turn.raised else "cleared",
                                                       self._spec.id, turn.rule, segment.seq)

    def _keep_evidence(self, segment: Path, rule: str, jpeg: bytes) -> str:
        path = evidence_path(segment, rule)
        try:
            with suppress(FileExistsError):         # raised twice in one segment: the first picture stays
                durable.write_new(path, jpeg)
        except OSError as error:
            log.warning("evidence not kept stream=%s rule=%s errno=%s", self._spec.id, rule, error.errno)
            return ""
        return path.name

    def _note(self, sealed: Sealed) -> None:
        """The segment's note. If the disk does not take it the segment has none; the footage is not touched by that."""
        sound, sidecar = self._hearing.turn(), sealed.sidecar
        refused, self._hearing.refused = self._refused + self._hearing.refused, 0
        note = WatchNote(
            stream=self._spec.id, seq=sidecar.seq, sha256=sidecar.sha256, rules=self._rules,
            audio_peak_cdb=sound.peak_cdb if sound else None, silent_ms=sound.silent_ms if sound else None,
            clipped=sound.clipped if sound else None, sound_samples=sound.samples if sound else None, undecoded=refused,
            pictures=tuple(self._pictures), turns=tuple(self._turns), in_force=self._alarms.in_force)
        self._pictures, self._turns, self._refused = [], [], 0
        if not sealed.whole:
            log.warning("segment not watched to its end stream=%s seq=%d", self._spec.id, sidecar.seq)
            return
        try:
            with suppress(FileExistsError):
                durable.write_new(note_path(sealed.path), note.to_json())
        except OSError as error:
            log.warning("watch note not kept stream=%s seq=%d errno=%s", self._spec.id, sidecar.seq, error.errno)


def run_watcher(specs: Sequence[StreamSpec], footage: Path, run_dir: Path, limits: Limits, probe_command: Callable[[str], list[str]],
                storage_uuid: str | None = None, clock: Clock | None = None, stdin: int = 0) -> int:
    """Watch until the leash is let go. The exit code, as the workers'. StorageRefused if the footage folder is not the room's.

    `probe_command`: argv that plays a stream's footage back (`edge watch --probe STREAM`). Must run in its process's main thread.
    """
    av.logging.set_level(None)
    with suppress(PermissionError):         # a hardened unit may forbid it
        os.nice(NICE)                       # recording goes first
    leash = Leash()
    leash.hold(stdin)
    check_storage(footage, storage_uuid)
    clock = clock or SystemClock()
    lock = take_lock(run_dir / "watcher")
    if lock is None:
        log.error("another watcher watches here")
        return LOCKED
    with lock:
        watched = [Watched(spec, footage, run_dir, limits, clock) for spec in specs]
        prober = Prober([spec.id for spec in specs], footage, probe_command, clock)
        log.info("watching streams=%d rules=%s", len(watched), limits.version())
        safely, told_us = Safely(), 0
        while not leash.stopped.wait(POLL_S):
            for each in watched:
                safely(f"{each.stream} look", each.look)
            now = clock.now().boot_us
            if now - told_us >= US - US // 20:
                told_us = now
                for each in watched:
                    safely(f"{each.stream} tell", each.tell)
            safely("probe", prober.look)
        prober.close()
        until = time.monotonic() + LINGER_S
        while any(each.reads for each in watched) and time.monotonic() < until:
            time.sleep(POLL_S / 5)
            for each in watched:
                safely(f"{each.stream} look", each.look)
        for each in watched:
            safely(f"{each.stream} tell", each.tell)
    return 0


class Safely:
    """Takes steps of which none must end the others: what the disk refuses is told once, and tried again with the next look."""

    def __init__(self) -> None:
        self._failing: dict[str, str] = {}

    def __call__(self, name: str, step: Callable[[], None]) -> None:
        """Take a step; a fault is logged if it is another than the last time. One camera's nonsense must not blind the others' watch."""
        try:
            step()
        except Exception as error:
            what = str(getattr(error, "errno", None) or type(error).__name__)
            if self._failing.get(name) != what:
                log.warning("watcher hindered step=%s error=%s what=the recording goes on, this is tried again", name, what,
                            exc_info=None if isinstance(error, OSError) else error)
            self._failing[name] = what
        else:
            if self._failing.pop(name, ""):
                log.info("watcher goes on step=%s", name)
