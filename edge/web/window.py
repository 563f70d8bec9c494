"""The live playlist of a stream: about the last minute of it, up to the newest whole fragment of the file that is being written.

Entries last about a second and do not wait for key frames: they are as short as the recorder's fragments allow, so that a viewer is
two to three seconds behind. An entry once numbered keeps its number; after a restart of the room numbers go on above those before
(they count tenths of a second from the epoch, and no entry is shorter than that). Holes become EXT-X-GAP entries, so that the
player's clock stays true; media time begins anew with each run, hence EXT-X-DISCONTINUITY there (RFC 8216bis, 4.4.4). Caller: `live`.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.clock import US, Stamp, iso_utc
from edge.web.growing import NewestReels, Reel

WINDOW_US = 60 * US
LEAST_ENTRY_US = 800_000
"""Two fragments of the recorder's usual 0.4 s."""
HOLE_US = US                # a shorter one is passed over by the player; each file says its true time anew


@dataclass(frozen=True, slots=True)
class Entry:
    """A numbered run of bytes of one file. Times by the boot clock. `opens`: a new time base or header comes with it."""

    number: int
    seq: int
    run: str
    header_sha256: str
    header_bytes: int
    offset: int
    length: int
    start_us: int
    end_us: int
    utc_us: int
    opens: bool
    first: bool                     # of its file
    gap: bool = False


class Window:
    """One stream's live playlist. Called by several threads."""

    def __init__(self, folder: Path) -> None:
        self._reels = NewestReels(folder)
        self._entries: deque[Entry] = deque()
        self._turn = threading.Lock()
        self._next = 0
        self._discontinuities = 0       # that left the window

    def playlist(self, now: Stamp, folder: str) -> str | None:
        """The playlist at this moment; `folder`: relative address of the files, no slash behind. None: nothing recorded since the boot."""
        with self._turn:
            for reel in self._reels.look(now.boot_id, WINDOW_US):
                self._append(reel, now)
            self._slide()
            return _text(list(self._entries), self._discontinuities, folder) if self._entries else None

    def path_of(self, seq: int) -> Path | None:
        """Where a file of the playlist lies."""
        with self._turn:
            return self._reels.path_of(seq)

    def _append(self, reel: Reel, now: Stamp) -> None:
        """What is new in a file, in entries."""
        last = self._entries[-1] if self._entries else None
        for offset, length, start_us, end_us in _grouped(reel):
            if last is not None and (reel.seq, offset) <= (last.seq, last.offset):
                continue
            at = reel.start.boot_us + start_us
            opens = last is not None and (reel.run != last.run or reel.header_sha256 != last.header_sha256)
            if last is not None and at - last.end_us >= HOLE_US:
                self._fill(last, at)
            last = Entry(self._number(now), reel.seq, reel.run, reel.header_sha256, reel.header_bytes, offset, length, at,
                         reel.start.boot_us + end_us, reel.start.utc_us + start_us, opens, offset == reel.header_bytes)
            self._entries.append(last)

    def _fill(self, last: Entry, until_us: int) -> None:
        """Entries of nothing, each about a second long, no more of them than the window is wide."""
        since = max(last.end_us, until_us - WINDOW_US)
        pieces = max(1, (until_us - since) // US)
        for n in range(pieces):
            start, end = (since + (until_us - since) * k // pieces for k in (n, n + 1))
            self._entries.append(Entry(self._number(None), last.seq, last.run, last.header_sha256, last.header_bytes, 0, 0, start, end,
                                       last.utc_us + start - last.start_us, False, False, gap=True))

    def _number(self, now: Stamp | None) -> int:
        if self._next == 0 and now is not None:
            self._next = max(1, now.utc_us // 100_000)
        self._next += 1
        return self._next - 1

    def _slide(self) -> None:
        while self._entries and self._entries[-1].end_us - self._entries[0].end_us > WINDOW_US:
            self._discontinuities += self._entries.popleft().opens


def _grouped(reel: Reel) -> Iterator[tuple[int, int, int, int]]:
    """(offset, length, start, end) of each entry of a file, times after its start; the same at every look, however far it has grown."""
    begun: tuple[int, int, int] | None = None
    for fragment in reel.fragments:
        start = fragment.start_us - reel.media_start_us
        end = start + fragment.dur_us
        offset, begin, _ = begun or (fragment.offset, start, 0)
        begun = offset, begin, end
        if end - begin >= LEAST_ENTRY_US:
            yield offset, fragment.offset + fragment.length - offset, begin, end
            begun = None
    if begun is not None and reel.sealed:
        last = reel.fragments[-1]
        yield begun[0], last.offset + last.length - begun[0], begun[1], begun[2]


def _text(entries: list[Entry], discontinuities: int, folder: str) -> str:
    longest = max(1, math.floor(max(entry.end_us - entry.start_us for entry in entries) / US + 0.5))
    lines = ["#EXTM3U", "#EXT-X-VERSION:8", f"#EXT-X-TARGETDURATION:{longest}", f"#EXT-X-MEDIA-SEQUENCE:{entries[0].number}",
             f"#EXT-X-DISCONTINUITY-SEQUENCE:{discontinuities + entries[0].opens}"]
    header = None                   # told once for all files that begin alike, by the first of them that is still in the window
    for before, entry in zip([None, *entries], entries, strict=False):
        duration = max(entry.end_us - entry.start_us, 1) / US
        if entry.gap:
            lines += ["#EXT-X-GAP", f"#EXTINF:{duration:.6f},", f"{folder}/missing.mp4"]
            continue
        if entry.opens and before is not None:
            lines.append("#EXT-X-DISCONTINUITY")
        if entry.header_sha256 != header or entry.opens:
            header = entry.header_sha256
            lines.append(f'#EXT-X-MAP:URI="{folder}/{entry.seq}.mp4",BYTERANGE="{entry.header_bytes}@0"')
        if before is None or entry.first or entry.opens or before.gap:
            lines.append(f"#EXT-X-PROGRAM-DATE-TIME:{iso_utc(entry.utc_us)}")
        lines += [f"#EXTINF:{duration:.6f},", f"#EXT-X-BYTERANGE:{entry.length}@{entry.offset}", f"{folder}/{entry.seq}.mp4"]
    return "\n".join(lines) + "\n"
