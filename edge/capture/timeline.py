"""Where a run's media time lies on the room's time axis. Called by rolling.

Boot and wall time are read once, at the run's first sample; from then on time is that anchor plus media time, so consecutive
segments meet exactly and a step of the wall clock moves nothing. A device's own clock may run off by 100 ppm, 9 s a day: each
segment's end is moved towards the time of arrival by at most 500 ppm of its length (Moonfire NVR's rule, design/time.md there).
The least lateness heard in a segment is taken: arrival is never early, and late by the network's mood.
"""

from __future__ import annotations

from edge.clock import Stamp

LEAD_US = 1_000_000
"""Media time of a run's first sample: AAC priming or a first sound may lie before it, and MP4 knows no time before 0."""
MOST_PPM = 500


class Timeline:
    """Media microseconds of one run -> Stamp."""

    def __init__(self, anchor: Stamp, media_us: int = LEAD_US) -> None:
        self._base, self._media_us = anchor, media_us
        self._least: int | None = None

    def at(self, media_us: int) -> Stamp:
        """The moment of a media time, by the present segment's base."""
        return self._base.plus(media_us - self._media_us)

    def heard(self, media_us: int, arrived_us: int) -> None:
        """A leading sample of that media time arrived at that boot time."""
        late = arrived_us - self.at(media_us).boot_us
        self._least = late if self._least is None else min(self._least, late)

    def turn(self, media_us: int) -> Stamp:
        """End the present segment here: its end, corrected, which is the next one's start."""
        most = max(0, media_us - self._media_us) * MOST_PPM // 1_000_000
        late = 0 if self._least is None else max(-most, min(most, self._least))
        self._base, self._media_us, self._least = self.at(media_us).plus(late), media_us, None
        return self._base
