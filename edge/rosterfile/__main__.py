"""`python -m edge.rosterfile DAY [demo]`: a file on standard input, its `Reading` as JSON on standard output. Always exit code 0.

A process of its own because a spreadsheet from anywhere is unpacked here: it may take so much memory and time and no more, it can
write no file, and the room loads neither openpyxl nor the NumPy that openpyxl would take along. Started by `web.imports`, which
gives it up after a while and says so.
"""

from __future__ import annotations

import json
import resource
import sys
from contextlib import suppress
from datetime import date
from pathlib import Path

MOST_MEMORY = 320 << 20
"""Address space. A list of 200 takes 60 MB, a sheet of 250,000 blank rows 80 MB; one made to be large is ended here."""
MOST_CPU_S = 10


def main() -> None:
    """Read, answer, end. The limits are set by prlimit(2), which the room's unit lets through."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")      # proc(5): where the unit's memory runs out, this goes and not the room
    for what, most in ((resource.RLIMIT_AS, MOST_MEMORY), (resource.RLIMIT_CPU, MOST_CPU_S), (resource.RLIMIT_FSIZE, 0),
                       (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (most, most))
    sys.modules["numpy"] = None     # type: ignore[assignment]  # the documented way to have an import fail; openpyxl goes on without
    from edge.rosterfile.lines import read
    from edge.rosterfile.table import MOST_BYTES
    data = sys.stdin.buffer.read(MOST_BYTES + 1)
    reading = read(data, allow_demo="demo" in sys.argv[2:], today=date.fromisoformat(sys.argv[1]))
    json.dump(reading.to_json(), sys.stdout)


main()
