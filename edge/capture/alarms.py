"""When a picture or a sound is worth an alarm: the thresholds, and the patience with which they are applied.

An alarm is raised when something was wrong without a break for so long, and cleared when it was right for so long; what cannot be judged
(no picture, no reference) changes nothing. Time is the recording's own, so footage read late is judged as if it were live. Standard
library only: the configuration reads `Limits`. The figures are measured by picture and hearing; called by watch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from edge.capture.watchnote import RULES, PictureFigures, Turn
from edge.clock import US, Stamp

RULES_VERSION = "1"
"""Goes up with every change of a rule or of a figure's definition: a note says by which rules it was judged."""
JUMP_US = 30 * US
"""Between two looks; more than that, or a step back, is another run, and what was wrong before it says nothing of the time between."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The thresholds; their meanings and reasons stand in the configuration's section `watch` (config.WatchSection)."""

    picture_raise_s: float = 6.0
    picture_clear_s: float = 4.0
    black_mean: int = 32
    flat_spread: int = 24
    blur_sharp: int = 6
    blur_percent: int = 20
    bright_percent: int = 60
    moved_px: int = 6
    moved_kept_percent: int = 40
    still_stir: int = 32
    sound_raise_s: float = 10.0
    sound_clear_s: float = 2.0
    sound_low_dbfs: int = -60
    clipped_percent: float = 3.0

    def version(self) -> str:
        """Of the rules as they are applied: `1`, or with changed thresholds `1-` and eight digits that tell which."""
        if self == Limits():
            return RULES_VERSION
        return f"{RULES_VERSION}-{hashlib.sha256(json.dumps(dataclasses.asdict(self)).encode()).hexdigest()[:8]}"


def detail(sharp_x100: int, spread_x100: int) -> float:
    """Sharpness for its contrast (0 if there is none): half the light halves the spread and quarters the sharpness, and this stays."""
    return 100 * sharp_x100 / spread_x100 ** 2 if spread_x100 else 0.0


def judge_picture(seen: PictureFigures, reference_detail: float | None, limits: Limits) -> dict[str, bool | None]:
    """Rule -> wrong, right, or None = cannot be told from this picture. What hides the picture hides its other faults too."""
    mean, spread, sharp = seen.mean_x100 / 100, seen.spread_x100 / 100, seen.sharp_x100 / 100
    flat = spread <= limits.flat_spread
    known = seen.kept_x100 is not None and seen.kept_x100 / 100 >= limits.moved_kept_percent    # dim, but it is the same room
    black = mean <= limits.black_mean and flat
    bright = seen.bright_x100 / 100 >= limits.bright_percent
    covered = flat and sharp <= limits.blur_sharp and not known and not black and not bright
    hidden = black or bright or covered
    blurred = sharp <= limits.blur_sharp if reference_detail is None else (
        detail(seen.sharp_x100, seen.spread_x100) <= reference_detail * limits.blur_percent / 100)
    return {"black": black, "covered": covered, "over-exposed": bright, "out-of-focus": None if hidden else blurred,
            "moved": None if hidden or blurred else _moved(seen, limits), "frozen": None if black else _frozen(seen, limits)}


SURE_X100 = 500
"""A shift counts from a twentieth of the highest match on; what is found below that is chance."""
MET_MORE_X100 = 1000
"""… and only if the edges are rather where it puts them than where they were, by a tenth of all: people, and the digits of a clock, that
move together shift nothing else."""


def _moved(seen: PictureFigures, limits: Limits) -> bool:
    if seen.kept_x100 is None:
        return False            # no reference: this is how it looks now
    shift = max(abs(seen.shift_x_x100 or 0), abs(seen.shift_y_x100 or 0)) / 100
    sure = (seen.match_x100 or 0) >= SURE_X100 and (seen.met_x100 or 0) >= seen.kept_x100 + MET_MORE_X100
    return (sure and shift >= limits.moved_px) or seen.kept_x100 / 100 < limits.moved_kept_percent


def _frozen(seen: PictureFigures, limits: Limits) -> bool | None:
    """The very same picture again is frozen; one in which something stirs is not; a still room cannot be told from its noise alone.

    An encoder that is fed one picture again and again repeats itself only where its quality settles: so the last few are compared.
    """
    if seen.changed is None or seen.stir is None:
        return None
    return True if seen.changed == 0 else False if seen.stir > limits.still_stir else None


class Gauge:
    """One rule's patience. `raised_utc_us`: since when it is in force, None = it is not."""

    def __init__(self, raise_s: float, clear_s: float) -> None:
        self._raise_us, self._clear_us = round(raise_s * US), round(clear_s * US)
        self._since_us: int | None = None       # boot time since which it is otherwise than in force
        self._seen_us = 0
        self.raised_utc_us: int | None = None

    def turn(self, wrong: bool | None, at: Stamp, held_us: int = 0) -> bool:
        """Take in a judgement made `at`; whether the alarm is thereby raised or cleared. `held_us`: how long it has been so already."""
        if not 0 <= at.boot_us - self._seen_us <= JUMP_US:
            self._since_us = None
        self._seen_us = at.boot_us
        in_force = self.raised_utc_us is not None
        if wrong is None:
            return False
        if wrong == in_force:
            self._since_us = None
            return False
        if self._since_us is None:
            self._since_us = at.boot_us - held_us
        if at.boot_us - self._since_us < (self._clear_us if in_force else self._raise_us):
            return False
        self._since_us = None
        self.raised_utc_us = None if in_force else at.utc_us
        return True


class Alarms:
    """One stream's alarms."""

    def __init__(self, limits: Limits) -> None:
        picture, sound = (limits.picture_raise_s, limits.picture_clear_s), (limits.sound_raise_s, limits.sound_clear_s)
        self._gauges = {rule: Gauge(*(sound if rule.startswith("sound-") else picture)) for rule in RULES}

    @property
    def in_force(self) -> dict[str, int]:
        """Rule -> UTC microseconds at which it was raised."""
        return {rule: gauge.raised_utc_us for rule, gauge in self._gauges.items() if gauge.raised_utc_us is not None}

    def resume(self, in_force: Mapping[str, int]) -> None:
        """What an earlier watcher had raised and not cleared stays in force."""
        for rule in set(in_force) & set(self._gauges):
            self._gauges[rule].raised_utc_us = in_force[rule]

    def forget(self, since_utc_us: int) -> None:
        """Alarms raised from then on are not in force: the recording of that time is about to be judged again."""
        for gauge in self._gauges.values():
            if gauge.raised_utc_us is not None and gauge.raised_utc_us >= since_utc_us:
                gauge.raised_utc_us = None

    def judge(self, verdicts: Mapping[str, bool | None], at: Stamp, media_us: int, held_us: int = 0) -> list[Turn]:
        """Alarms that these verdicts, passed on the recording of the moment `at`, raise or clear."""
        return [Turn(rule, self._gauges[rule].raised_utc_us is not None, at.utc_us, media_us)
                for rule, wrong in verdicts.items() if self._gauges[rule].turn(wrong, at, held_us if wrong else 0)]
