#!/usr/bin/env python3
"""What it costs to record: our worker against the ffmpeg command line, side by side on the same live cameras.

For each number of cameras: as many of our workers (the real ones: hash, index, fdatasync) and as many ffmpeg (`-c copy -f segment`)
record the same cameras at the same time, while our watcher judges what the workers write (stills, picture health, sound).
Processor time is read from /proc at the beginning and the end of a window of steady state, so start-up does not count, nor do the
cameras. Then every frame's timestamp is read back, and the numbers in the picture of camera 1. Prints a Markdown table; the last
line is one JSON object. By hand: bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import av

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rig import Hall, Unfit, conditions, cpu_s, finish, framecheck, rss_mb
from edge.capture.control import picture_path
from edge.capture.streams import StreamSpec

SETTLE_S = 6.0
"""From the moment all record to the window's beginning: connecting, loading and the first key frame are over."""
FRAME_S = 1 / 25
PICTURE_SEGMENTS = 6        # the newest, of which the pictures are decoded: 5 ms of processor a frame
WORKER_WITHOUT = {
    "naps": "import edge.capture.rtsp as r; r.NAP_S = 0",
    "fdatasync": "import os; os.fdatasync = lambda *_: None",
}
"""The same worker with one thing taken out: an experiment that says where the time goes, not a way to record."""
WATCHER = """
import sys
from pathlib import Path
from edge.capture.alarms import Limits
from edge.capture.streams import StreamSpec
from edge.capture.watch import run_watcher
footage, run, *specs = sys.argv[1:]
streams = [StreamSpec.from_json(each) for each in specs]
sys.exit(run_watcher(streams, Path(footage), Path(run), Limits(), lambda _: [sys.executable, "-c", ""]))
"""
MOTION = """daemon off
setup_mode off
log_level 1
webcontrol_port 0
stream_port 0
netcam_url {url}
netcam_params rtsp_transport=tcp
width 1920
height 1080
framerate 25
emulate_motion on
movie_output on
movie_passthrough on
movie_max_time 60
picture_output off
text_left
text_right
target_dir {folder}
"""


@dataclass(slots=True)
class Window:
    """One number of cameras: processor seconds per process in `seconds`, their memory, what of the frames came back.

    The watcher is one process for all cameras: what the peer has no counterpart of is measured apart.
    """

    cameras: int
    seconds: float
    ours_cpu_s: list[float] = field(default_factory=list)
    peer_cpu_s: list[float] = field(default_factory=list)
    watcher_cpu_s: float = 0.0
    watcher_rss_mb: float = 0.0
    ours_rss_mb: list[float] = field(default_factory=list)
    peer_rss_mb: list[float] = field(default_factory=list)
    frames: int = 0
    lost: int = 0
    doubled: int = 0
    peer_lost: int = 0
    picture_frames: int = 0
    picture_faults: int = 0

    def per_minute(self, cpu: Sequence[float]) -> float:
        """Processor seconds per camera and minute."""
        return statistics.fmean(cpu) * 60 / self.seconds

    @property
    def ratio(self) -> float:
        return sum(self.ours_cpu_s) / max(sum(self.peer_cpu_s), 1e-9)


def steps(files: Sequence[Path]) -> tuple[int, int, int]:
    """(frames, lost, doubled) by the picture's timestamps over all the files, taken as one recording."""
    stamps: list[float] = []
    for path in files:
        with av.open(str(path)) as container:
            video = container.streams.video[0]
            base = float(video.time_base or 0)
            stamps += [packet.dts * base for packet in container.demux(video) if packet.size and packet.dts is not None]
    apart = [(later - earlier) / FRAME_S for earlier, later in pairwise(stamps)]
    return len(stamps), sum(max(0, round(step) - 1) for step in apart), sum(round(step) < 1 for step in apart)


def measure(hall: Hall, cameras: int, seconds: float, segment_s: int, tag: str) -> Window:
    """Record, wait for steady state, read /proc twice, end all, count frames."""
    streams = [f"{tag}-cam{i + 1}" for i in range(cameras)]
    ours, peers = [], []
    for i, stream in enumerate(streams):
        ours.append(hall.worker(stream, i + 1, segment_s))
        (hall.peers / stream).mkdir()
        peers.append(hall.ffmpeg(f"ffmpeg-{stream}", i + 1, "-f", "segment", "-segment_time", str(segment_s), "-segment_format", "mp4",
                                 f"{stream}/%05d.mp4"))
    specs = [StreamSpec(stream, "rtsp", url=hall.url(i + 1)).to_json() for i, stream in enumerate(streams)]
    watcher = hall.start([sys.executable, "-c", WATCHER, hall.footage, hall.run, *specs], f"watcher-{tag}")
    hall.wait(lambda: all(map(hall.recording, streams)) and all(any((hall.peers / s).iterdir()) for s in streams), "all recorded")
    hall.wait(lambda: all(picture_path(hall.run, stream).exists() for stream in streams), "all were seen")
    time.sleep(SETTLE_S)
    window, every = Window(cameras, seconds), [*ours, *peers, watcher]
    began, before = time.monotonic(), [cpu_s(p.pid) for p in every]
    time.sleep(seconds)
    used = [cpu_s(p.pid) - then for p, then in zip(every, before, strict=True)]
    window.seconds = time.monotonic() - began
    window.ours_cpu_s, window.peer_cpu_s, window.watcher_cpu_s = used[:cameras], used[cameras:-1], used[-1]
    window.ours_rss_mb, window.peer_rss_mb = [rss_mb(p.pid) for p in ours], [rss_mb(p.pid) for p in peers]
    window.watcher_rss_mb = rss_mb(watcher.pid)
    finish(every)
    for stream in streams:
        frames, lost, doubled = steps(hall.segments(stream))
        window.frames, window.lost, window.doubled = window.frames + frames, window.lost + lost, window.doubled + doubled
        window.peer_lost += steps(sorted((hall.peers / stream).iterdir()))[1]
    read_pictures(hall.segments(streams[0])[-PICTURE_SEGMENTS:], window, seconds)
    for folder in (hall.footage, hall.peers):
        for stream in streams:
            shutil.rmtree(folder / stream)
    return window


def read_pictures(files: Sequence[Path], window: Window, seconds: float) -> None:
    """By the numbers in the picture: frames seen, and those that are missing, damaged, doubled or out of order."""
    told = framecheck(files, 120 + 5 * seconds)
    total = re.search(r"total: frames (\d+), missing (\d+), undecoded (\d+), doubled (\d+), backwards (\d+), unreadable (\d+)", told)
    if total is None:
        raise Unfit(f"the pictures could not be read back: {told.strip()[-300:]}")
    window.picture_frames, *faults = map(int, total.groups())
    window.picture_faults = sum(faults)


def profile(hall: Hall, seconds: float, segment_s: int) -> dict[str, tuple[float, float]]:
    """Workers with something taken out, all on camera 1 in one window: processor seconds per minute, RSS in MB. "": the whole worker."""
    names = ["", *WORKER_WITHOUT]
    streams = [f"part{i}" for i in range(len(names))]
    workers = []
    for stream, name in zip(streams, names, strict=True):
        start = f"import sys; {WORKER_WITHOUT.get(name, 'pass')}; from edge.capture.worker import main; sys.exit(main())"
        workers.append(hall.worker(stream, 1, segment_s, ("-c", start)))
    hall.wait(lambda: all(map(hall.recording, streams)), "every variant recorded")
    time.sleep(SETTLE_S)
    began, before = time.monotonic(), [cpu_s(w.pid) for w in workers]
    time.sleep(seconds)
    used = [cpu_s(w.pid) - then for w, then in zip(workers, before, strict=True)]
    took, memory = time.monotonic() - began, [rss_mb(w.pid) for w in workers]
    finish(workers)
    return {name: (cpu * 60 / took, rss) for name, cpu, rss in zip(names, used, memory, strict=True)}


def motion(hall: Hall, seconds: float) -> tuple[float, int] | None:
    """motion on camera 1, pass-through: (processor seconds per camera-minute, frames recorded). None if it is not installed."""
    if shutil.which("motion") is None:
        return None
    folder = hall.peers / "motion"
    folder.mkdir()
    settings = hall.folder / "motion.conf"
    settings.write_text(MOTION.format(url=hall.url(1), folder=folder), encoding="utf-8")
    process = hall.start(["motion", "-n", "-c", settings], "motion")
    hall.wait(lambda: any(folder.iterdir()), "motion recorded")
    time.sleep(SETTLE_S)
    pid = _deepest(process)
    began, before = time.monotonic(), cpu_s(pid)
    time.sleep(seconds)
    used, took = cpu_s(pid) - before, time.monotonic() - began
    finish([process])
    try:
        frames = steps(sorted(folder.iterdir()))[0]
    except av.error.FFmpegError:
        frames = 0
    return used * 60 / took, frames


def _deepest(process: subprocess.Popen[bytes]) -> int:
    """motion itself, if what we started is a wrapper around it."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    return int(children[0]) if children else process.pid


def table(windows: Sequence[Window], parts: dict[str, tuple[float, float]], other: tuple[float, int] | None) -> str:
    """Markdown for docs/benchmarks.md."""
    rows = ["| cameras | ours, CPU s / camera-minute | ffmpeg, CPU s / camera-minute | ours / ffmpeg | ours, % of a core / camera | "
            "ours, RSS MB, most | ffmpeg, RSS MB, most | watcher, CPU s / camera-minute | watcher, RSS MB | frames, lost, doubled |",
            "|---|---|---|---|---|---|---|---|---|---|"]
    for w in windows:
        ours, peer = w.per_minute(w.ours_cpu_s), w.per_minute(w.peer_cpu_s)
        rows.append(f"| {w.cameras} | {ours:.2f} | {peer:.2f} | {w.ratio:.2f} | {ours / 0.6:.2f} | {max(w.ours_rss_mb):.0f} | "
                    f"{max(w.peer_rss_mb):.0f} | {w.per_minute([w.watcher_cpu_s]) / w.cameras:.2f} | {w.watcher_rss_mb:.0f} | "
                    f"{w.frames}, {w.lost}, {w.doubled} |")
    if parts:
        rows += ["", "| one camera, our worker without | CPU s / camera-minute | RSS MB |", "|---|---|---|",
                 *(f"| {name or 'anything taken out'} | {cpu:.2f} | {rss:.0f} |" for name, (cpu, rss) in parts.items())]
    if other:
        rows += ["", f"motion, pass-through, 1 camera: {other[0]:.2f} CPU s / camera-minute, {other[1]} frames readable."]
    return "\n".join(rows)


def result(windows: Sequence[Window], parts: dict[str, tuple[float, float]], other: tuple[float, int] | None, skipped: int,
           where: dict[str, str]) -> dict[str, object]:
    """The last line. `core_percent_per_camera`: at four cameras, or at the most that were measured."""
    figures: dict[str, float] = {
        "frames": sum(w.frames for w in windows), "frames_lost": sum(w.lost for w in windows),
        "frames_doubled": sum(w.doubled for w in windows), "picture_frames": sum(w.picture_frames for w in windows),
        "picture_faults": sum(w.picture_faults for w in windows),
        "camera_frames_never_sent": skipped, "rss_mb_per_worker": max(max(w.ours_rss_mb) for w in windows)}
    peer: dict[str, float] = {"rss_mb_per_process": max(max(w.peer_rss_mb) for w in windows),
                              "frames_lost": sum(w.peer_lost for w in windows)}
    ratio = {}
    for w in windows:
        figures[f"cpu_s_per_camera_minute_{w.cameras}"] = w.per_minute(w.ours_cpu_s)
        figures[f"core_percent_per_camera_{w.cameras}"] = w.per_minute(w.ours_cpu_s) / 0.6
        peer[f"cpu_s_per_camera_minute_{w.cameras}"] = w.per_minute(w.peer_cpu_s)
        figures[f"watcher_cpu_s_per_camera_minute_{w.cameras}"] = w.per_minute([w.watcher_cpu_s]) / w.cameras
        figures[f"watcher_rss_mb_{w.cameras}"] = w.watcher_rss_mb
        ratio[f"cpu_{w.cameras}"] = w.ratio
    main_one = next((w for w in windows if w.cameras == 4), windows[-1])
    figures["core_percent_per_camera"] = figures[f"core_percent_per_camera_{main_one.cameras}"]
    for name, (cpu, rss) in parts.items():
        without = f"without_{name.replace(' ', '_') or 'nothing'}"
        figures[f"cpu_s_per_camera_minute_{without}"], figures[f"rss_mb_{without}"] = cpu, rss
    if other:
        peer["motion_cpu_s_per_camera_minute"], peer["motion_frames"] = other
    return {"name": "record", "conditions": where, "figures": rounded(figures), "peer": rounded(peer), "ratio": rounded(ratio)}


def rounded(numbers: dict[str, float]) -> dict[str, float]:
    return {name: round(number, 3) for name, number in numbers.items()}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/record.py", description="CPU, memory and frames of our worker against ffmpeg")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--cameras", default="1,4,8", help="numbers of cameras, one window each")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a window")
    parser.add_argument("--segment", type=int, default=10, help="seconds a segment; the room's own is 60")
    parser.add_argument("--no-profile", action="store_true", help="leave out the window of workers with something taken out")
    args = parser.parse_args(argv)
    try:
        counts = [int(word) for word in args.cameras.split(",")]
    except ValueError:
        counts = []
    possible = bool(counts) and min(counts) >= 1 and max(counts) <= 32 and len(set(counts)) == len(counts)
    if not possible or not 5 <= args.seconds <= 4000 or not 2 <= args.segment <= 60:
        parser.error("--cameras wants different numbers of 1 to 32, as 1,4,8; --seconds 5 to 4000; --segment 2 to 60")
    where = conditions() | {"window_s": f"{args.seconds:g}", "segment_s": f"{args.segment}",
                            "how": "ours and ffmpeg at the same time on the same cameras, steady state, cameras' own CPU not counted"}
    try:
        with Hall(max(counts), int(len(counts) * (args.seconds * 8 + 240) + 2 * args.seconds + 300)) as hall:
            windows = [measure(hall, count, args.seconds, args.segment, f"n{count}") for count in counts]
            parts = {} if args.no_profile else profile(hall, args.seconds, args.segment)
            other = motion(hall, args.seconds)
            skipped = sum(camera["skipped"] for camera in hall.sent().values())
    except Unfit as unfit:
        print(f"record: {unfit}", file=sys.stderr)
        return 2
    where["motion"] = "side by side with nothing, sound not recorded by it" if other else "not installed"
    if not args.json:
        print(table(windows, parts, other), end="\n\n")
    print(json.dumps(result(windows, parts, other, skipped, where)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
