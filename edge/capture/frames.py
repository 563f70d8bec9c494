"""One picture of each of some segments, for a dossier: a program of its own, because the room loads no decoder.

`python -m edge.capture.frames FILE…` writes, for each file in turn, four bytes of length (big-endian) and that many of JPEG: the first
picture, at most 640 pixels wide. Length 0: none can be shown. Files are only read. Caller: `edge/web/dossier.py`.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import av

from edge.capture.picture import NoPicture, still

MEMORY_BYTES = 1 << 30


def first_picture(path: Path) -> bytes:
    """The first picture of a segment as a JPEG; empty if there is none that can be decoded."""
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                return still(frame)
    except (av.error.FFmpegError, OSError, ValueError, IndexError, NoPicture):
        pass
    return b""


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")      # where memory runs out, this helper goes first
    os.nice(10)
    av.logging.set_level(None)
    for name in sys.argv[1:] if argv is None else argv:
        jpeg = first_picture(Path(name))
        sys.stdout.buffer.write(struct.pack(">I", len(jpeg)) + jpeg)
    return 0


if __name__ == "__main__":
    sys.exit(main())
