"""The room's helpers started as the room starts them, for test_inside: runs as ExecStart of a copy of edge.service, in the room's place.

`far_cages.py LIBRARY`; a JSON line for each thing tried. The face engine where its packages are installed, else its word for that.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from edge.idcheck import face
from edge.idcheck.face import FaceProgram, NotCompared
from edge.idcheck.photo import LibraryDecoder, Undecoded, worker
from edge.web.imports import read_file
from tests.idcheck.drawn_faces import draw, jpeg

WLT = bytes.fromhex("574c66007e0032000000") + bytes(range(256)) * 3 + bytes(246)
FUNCTIONS = ("_Unpack", "as_bmp", "refuses", "crashes", "eats_memory", "hangs", "leaves_a_child", "nosy", "meddles")
LIMITS = ("Max cpu time", "Max file size", "Max core file size", "Max address space")


def say(what: str, **facts: Any) -> None:
    print(json.dumps({"what": what, **facts}), flush=True)


def about(pid: int) -> dict[str, Any]:
    """What the kernel says of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    limits = {line[:26].strip(): line[26:].split()[0] for line in Path(f"/proc/{pid}/limits").read_text().splitlines()}
    return {"no_new_privs": int(status["NoNewPrivs"]), "filters": int(status["Seccomp_filters"]), "capabilities": int(status["CapBnd"], 16),
            "oom": int(Path(f"/proc/{pid}/oom_score_adj").read_text()), "nice": os.getpriority(os.PRIO_PROCESS, pid),
            "limits": [limits[name] for name in LIMITS]}


async def decoded(library: Path, function: str) -> str | list[int]:
    """The first six bytes of the picture, or the word for there being none."""
    try:
        digest = hashlib.sha256(library.read_bytes()).hexdigest()
        return list((await LibraryDecoder(worker(library, digest, function), 5).decode(WLT))[54:60])
    except Undecoded as undecoded:
        return undecoded.word


async def held(what: str, command: Sequence[str], until: str) -> None:
    """A helper that waits for its input or hangs, looked at from outside as soon as it has given up what it gives up."""
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL)
    if process.stdin is not None and until == "cage":
        process.stdin.write(WLT)
        process.stdin.close()
    mine = about(os.getpid())
    for _ in range(500):
        seen = about(process.pid)
        if seen["limits"][1] == "0" and (until != "cage" or seen["filters"] == mine["filters"] + 2):
            break
        await asyncio.sleep(0.01)
    say(what, **seen)
    process.kill()
    await process.wait()


async def compared(program: FaceProgram, live: bytes, photo: bytes) -> int | str:
    try:
        return (await program.compare(live, photo)).score_x1000
    except NotCompared as none:
        return none.word


async def main(library: Path) -> None:
    say("room", **about(os.getpid()))
    for function in FUNCTIONS:
        say("decoder", function=function, came=await decoded(library, function))
    say("decoder", function="executable stack", came=await decoded(library.with_name("libstack.so"), "_Unpack"))
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    await held("photo worker", worker(library, digest, "hangs"), "cage")
    await held("roster child", (sys.executable, "-m", "edge.rosterfile", "2026-11-26"), "limits")
    file = "姓名,证件号码,准考证号,座位号,人员类别\n样例甲,000000199001010018,A001,01,特种作业人员".encode("gb18030")
    reading = await read_file(file, True, date(2026, 11, 26))
    say("roster file", form=reading.form, people=len(reading.lines), faults=[fault.word for fault in reading.faults])
    program, one, other = FaceProgram(face.worker("dlib"), answer_s=60, start_s=120), jpeg(draw(0)), jpeg(draw(1))
    scores = [await compared(program, live, one) for live in (one, other, b"no picture")]
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    say("faces", scores=scores, **(about(int(children[0])) if children else {}))
    await program.rest()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
