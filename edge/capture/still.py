"""The newest recorded picture of a stream, if it is of this moment: for the door (a manual check, a face beside its photo).

What is handed out is the very key frame that was recorded: the watcher cuts it from the file, at most once a second, at most 640
pixels wide (capture/watch.py). Nothing is kept here. Standard library only. Callers: the room and its followers.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edge.capture.control import picture_path, read_watch
from edge.clock import US, Stamp

FRESH_US = 5 * US
"""Older than this, somebody else may stand at the door (candidates pass every 7 s or so)."""
MOST_BYTES = 1 << 20
"""A JPEG of 640 x 360 takes 20 to 90 kB."""


def still(run: Path, stream: str, now: Stamp, since_boot_us: int = 0) -> bytes | None:
    """The stream's newest key frame as a JPEG; None unless the watcher of this boot cut one in the last five seconds.

    `since_boot_us`: and none that was cut before this moment of the boot clock. Two things must be young, what the watcher says (by the
    boot clock) and the file itself (by the wall clock), so that neither a stepped clock nor a picture that could not be replaced passes
    for a fresh one. Never raises for what lies on the disk.
    """
    watch = read_watch(run, stream)
    if watch is None or watch.boot_id != now.boot_id or not 0 <= now.boot_us - watch.picture_boot_us <= FRESH_US:
        return None
    if watch.picture_boot_us < since_boot_us:
        return None
    try:
        handle = os.open(picture_path(run, stream), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or abs(now.utc_us - facts.st_mtime_ns // 1000) > FRESH_US:
            return None
        picture = os.read(handle, MOST_BYTES + 1)
    except OSError:
        return None
    finally:
        os.close(handle)
    return picture if 0 < len(picture) <= MOST_BYTES else None
