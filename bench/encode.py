#!/usr/bin/env python3
"""What it costs to encode a USB camera's pictures: our encoder against the ffmpeg command line, interleaved in one run.

Both read the same raw pictures (BGR, as OpenCV hands them out) from a file and encode them with x264: veryfast, zerolatency, crf 25,
one thread, a key frame each second. Each side runs twice a round, short and long; the difference is taken, so that starting up and
loading libraries do not count. Processor time is the kernel's, of the whole child (os.wait4), so ffmpeg's other threads count as well.
Prints a Markdown table; the last line is one JSON object. By hand: bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rig import HOUSE, Unfit, conditions

WIDTH, HEIGHT, FPS = 1280, 720, 25
LOOP = 100
"""Pictures in the file: 276 MB, which the page cache holds; long runs read them again and again."""
SHORT_S = 4
OURS = """
import sys
from pathlib import Path
import cv2, numpy as np
from edge.capture.camera import frame_of
from edge.capture.encoder import TICKS, H264Encoder
cv2.setNumThreads(1)
path, width, height, fps, count = Path(sys.argv[1]), *map(int, sys.argv[2:])
encoder, size = H264Encoder(width, height, fps), width * height * 3
out = 0
with path.open("rb", buffering=0) as file:
    for number in range(count):
        picture = np.empty((height, width, 3), np.uint8)
        if file.readinto(picture.data) < size:
            file.seek(0)
            file.readinto(picture.data)
        frame = frame_of(picture)
        frame.pts = number * TICKS // fps
        out += sum(packet.size for packet in encoder.turn(frame))
print(out)
"""


@dataclass(slots=True)
class Side:
    """Processor seconds per minute of picture, one a round; bytes per second of the last long run."""

    cpu_s: list[float] = field(default_factory=list)
    kbps: float = 0.0


def spent(command: Sequence[str | Path]) -> tuple[float, str]:
    """Run it: (processor seconds of it and its threads, what it printed)."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HOUSE,
                             env={**os.environ, "PYTHONPATH": str(HOUSE)})
    if child.stdout is None or child.stderr is None:
        raise Unfit("no pipe")
    printed, said = child.stdout.read(), child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    child.stdout.close()
    child.stderr.close()
    if child.returncode:
        raise Unfit(f"{command[0]} failed: {said.strip()[-300:]}")
    return used.ru_utime + used.ru_stime, printed


def ours(raw: Path, seconds: int) -> tuple[float, int]:
    """(processor seconds, bytes) of our encoder."""
    used, printed = spent([sys.executable, "-c", OURS, raw, *map(str, (WIDTH, HEIGHT, FPS, seconds * FPS))])
    return used, int(printed)


def peer(raw: Path, seconds: int, to: Path) -> tuple[float, int]:
    """The same by ffmpeg, into a bare H.264 file: no container's cost."""
    used, _ = spent(["ffmpeg", "-v", "error", "-nostdin", "-y", "-stream_loop", "-1", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s",
                     f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", raw, "-frames:v", str(seconds * FPS), "-filter_threads", "1",
                     "-pix_fmt", "yuv420p", "-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-crf", "25", "-threads", "1",
                     "-sc_threshold", "0", "-forced-idr", "1", "-g", str(FPS), "-f", "h264", to])
    return used, to.stat().st_size


def make_pictures(raw: Path) -> None:
    """A moving test picture with a camera's noise: LOOP pictures of BGR."""
    source = f"testsrc2=size={WIDTH}x{HEIGHT}:rate={FPS},noise=alls=6:allf=t:all_seed=3"
    subprocess.run(["ffmpeg", "-v", "error", "-nostdin", "-f", "lavfi", "-i", source, "-frames:v", str(LOOP), "-pix_fmt", "bgr24",
                    "-f", "rawvideo", raw], check=True, timeout=120)


def measure(folder: Path, seconds: int, rounds: int) -> tuple[Side, Side]:
    """(ours, ffmpeg): each round all four runs, one after the other, the order turned round each time."""
    raw, to = folder / "pictures.bgr", folder / "peer.h264"
    make_pictures(raw)
    mine, other = Side(), Side()

    def one(side: Side, long: tuple[float, int], short: tuple[float, int]) -> None:
        side.cpu_s.append((long[0] - short[0]) * 60 / (seconds - SHORT_S))
        side.kbps = (long[1] - short[1]) * 8 / 1000 / (seconds - SHORT_S)

    for number in range(rounds):
        for who in ((mine, other), (other, mine))[number % 2]:
            if who is mine:
                one(who, ours(raw, seconds), ours(raw, SHORT_S))
            else:
                one(who, peer(raw, seconds, to), peer(raw, SHORT_S, to))
    return mine, other


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/encode.py", description="CPU of our encoder against ffmpeg's")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--seconds", type=int, default=24, help="seconds of picture in a long run")
    parser.add_argument("--rounds", type=int, default=5, help="each is four runs")
    args = parser.parse_args(argv)
    if not SHORT_S + 4 <= args.seconds <= 600 or not 1 <= args.rounds <= 100:
        parser.error(f"--seconds {SHORT_S + 4} to 600, --rounds 1 to 100")
    where = conditions() | {
        "source": f"testsrc2 with noise, {WIDTH}x{HEIGHT} BGR from a file, {LOOP} pictures over and over", "seconds": f"{args.seconds}",
        "rounds": f"{args.rounds}", "how": "x264 veryfast zerolatency crf 25, 1 thread; interleaved; start-up taken out; medians"}
    try:
        with tempfile.TemporaryDirectory(prefix="edge-bench-", dir=os.environ.get("TMPDIR") or "/var/tmp") as folder:       # noqa: S108
            mine, other = measure(Path(folder), args.seconds, args.rounds)
    except (Unfit, OSError, subprocess.SubprocessError) as error:
        print(f"encode: {error}", file=sys.stderr)
        return 2
    us, them = statistics.median(mine.cpu_s), statistics.median(other.cpu_s)
    ratio = statistics.median(a / b for a, b in zip(mine.cpu_s, other.cpu_s, strict=True))
    if not args.json:
        print("| | CPU s / camera-minute, median [range] | % of a core | kbit/s |", "|---|---|---|---|", sep="\n")
        for name, side, cpu in (("ours", mine, us), ("ffmpeg", other, them)):
            print(f"| {name} | {cpu:.2f} [{min(side.cpu_s):.2f}-{max(side.cpu_s):.2f}] | {cpu / 0.6:.1f} | {side.kbps:.0f} |")
        print(f"\nours / ffmpeg, median of {args.rounds} rounds: {ratio:.2f}\n")
    print(json.dumps({"name": "encode", "conditions": where,
                      "figures": {"cpu_s_per_camera_minute": round(us, 3), "core_percent_per_camera": round(us / 0.6, 2),
                                  "kbps": round(mine.kbps)},
                      "peer": {"cpu_s_per_camera_minute": round(them, 3), "kbps": round(other.kbps)},
                      "ratio": {"cpu_encode": round(ratio, 3)}}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
