#!/usr/bin/env python3
"""What kill -9 costs: our worker, ffmpeg to plain MP4 and ffmpeg to Matroska, on the same live cameras, killed at the same moment.

After each kill our recovery runs, as the next worker runs it; the peers' files are taken as they lie. Lost is what the camera had
sent at the moment of the kill and cannot be seen in the file: the number of the frame sent last, less the number in the picture of
the last frame that decodes. Of a file that does not open all of it is lost. Prints a Markdown table; the last line is one JSON
object. By hand: bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rig import Hall, Unfit, conditions, finish, framecheck
from edge.capture.recovery import recover

FRAME_S = 1 / 25
FILM_FRAMES = 1500
SEGMENT_S = 60
LATEST_S = 6.0
"""A kill comes at a random moment up to so long after all record: three groups of pictures."""
PER_FILE = re.compile(
    r": frames (\d+), first \d+, last (\d+), missing (\d+), undecoded (\d+), doubled (\d+), backwards (\d+), unreadable (\d+)")
WAYS = ("ours", "mp4", "mkv")


@dataclass(frozen=True, slots=True)
class Kill:
    """One process killed: seconds lost, whether anything of its file can be seen, and frames missing or damaged in the middle."""

    way: str
    lost_s: float
    playable: bool
    faults: int


@dataclass(frozen=True, slots=True)
class Victims:
    """The three that record one camera, and when they began to."""

    camera: int
    stream: str
    processes: tuple[subprocess.Popen[bytes], ...]
    began_s: float


def take(hall: Hall, cameras: int, number: int, chance: random.Random) -> list[Kill]:
    """One round: a kill of each of the three on every camera, each camera at a moment of its own."""
    victims = [start(hall, camera, f"round{number}-cam{camera}") for camera in range(1, cameras + 1)]
    hall.wait(lambda: all(hall.recording(v.stream) and hall.has_begun(f"{v.stream}.mkv") for v in victims), "all recorded")
    now = time.monotonic()
    sent: dict[str, int] = {}
    ran: dict[str, float] = {}
    for moment, victim in sorted(((now + chance.uniform(0.5, LATEST_S), v) for v in victims), key=lambda each: each[0]):
        time.sleep(max(0.0, moment - time.monotonic()))
        for process in victim.processes:
            process.kill()
        ran[victim.stream] = time.monotonic() - victim.began_s
        sent[victim.stream] = hall.frame_sent(victim.camera)
    finish([process for victim in victims for process in victim.processes])
    kills = []
    for victim in victims:
        recover(hall.footage / victim.stream)
        files = {"ours": hall.segments(victim.stream)} | {way: [hall.peers / f"{victim.stream}.{way}"] for way in WAYS[1:]}
        kills += [judge(way, files[way], sent[victim.stream], ran[victim.stream]) for way in WAYS]
    return kills


def start(hall: Hall, camera: int, stream: str) -> Victims:
    """Ours and the two peers on one camera."""
    began = time.monotonic()
    return Victims(camera, stream, (
        hall.worker(stream, camera, SEGMENT_S), hall.ffmpeg(f"{stream}-mp4", camera, f"{stream}.mp4"),
        hall.ffmpeg(f"{stream}-mkv", camera, f"{stream}.mkv")), began)


def judge(way: str, files: Sequence[Path], sent: int, ran_s: float) -> Kill:
    """What can be seen of the files of one kill, when `sent` was the frame sent last and the process had run for `ran_s`."""
    lines = PER_FILE.findall(framecheck(files, 120)) if files else []
    if not lines or not int(lines[-1][0]):
        return Kill(way, ran_s, False, 0)
    behind = (sent - int(lines[-1][1])) % FILM_FRAMES
    if behind > FILM_FRAMES // 2:           # the file has the frame that was on its way when the camera was asked
        behind = 0
    return Kill(way, behind * FRAME_S, True, sum(int(number) for line in lines for number in line[2:]))


def figures(kills: Sequence[Kill]) -> dict[str, float]:
    """The numbers of one way of recording."""
    lost = [kill.lost_s for kill in kills]
    playable = 100 * sum(kill.playable for kill in kills) / len(kills)
    return {"kills": len(kills), "lost_s_median": round(statistics.median(lost), 3), "lost_s_max": round(max(lost), 3),
            "playable_percent": round(playable, 1), "faults": sum(kill.faults for kill in kills)}


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown for docs/benchmarks.md."""
    names = {"ours": "ours, after recovery", "mp4": "ffmpeg, plain MP4", "mkv": "ffmpeg, Matroska"}
    rows = ["| | kills | playable | lost s, median | lost s, most | frames missing or damaged before the end |",
            "|---|---|---|---|---|---|"]
    for way, f in found.items():
        rows.append(f"| {names[way]} | {f['kills']} | {f['playable_percent']:.0f} % | {f['lost_s_median']:.2f} | {f['lost_s_max']:.2f} | "
                    f"{f['faults']} |")
    return "\n".join(rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/crash.py", description="seconds of footage lost at kill -9")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--runs", type=int, default=20, help="kills of each kind, in rounds of one per camera")
    parser.add_argument("--cameras", type=int, default=2, help="cameras at a time")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments; 0: another each time")
    args = parser.parse_args(argv)
    if not 1 <= args.runs <= 1000 or not 1 <= args.cameras <= 8:
        parser.error("--runs 1 to 1000, --cameras 1 to 8")
    rounds = -(-args.runs // args.cameras)
    seed = args.seed or random.SystemRandom().randrange(1, 1 << 31)
    where = conditions() | {"segment_s": str(SEGMENT_S), "seed": str(seed), "at_a_time": f"{args.cameras} cameras, all three ways on each",
                            "lost": "in frames of 0.04 s, the frame on its way counted as lost; ours from the camera, not from the socket"}
    chance = random.Random(seed)        # noqa: S311 (spreads the kills, guards nothing)
    logging.getLogger("edge").setLevel(logging.ERROR)       # each recovery is a warning, and here it is the purpose
    try:
        with Hall(args.cameras, 120 + rounds * 120) as hall:
            kills = [kill for number in range(rounds) for kill in take(hall, args.cameras, number, chance)]
    except Unfit as unfit:
        print(f"crash: {unfit}", file=sys.stderr)
        return 2
    found = {way: figures([kill for kill in kills if kill.way == way]) for way in WAYS}
    peer = {f"{way}_{name}": value for way in WAYS[1:] for name, value in found[way].items()}
    ours = found["ours"]["lost_s_median"]
    ratio = {f"lost_s_median_{way}": round(ours / max(found[way]["lost_s_median"], FRAME_S), 3) for way in WAYS[1:]}
    if not args.json:
        print(table(found), end="\n\n")
    print(json.dumps({"name": "crash", "conditions": where, "figures": found["ours"], "peer": peer, "ratio": ratio}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
