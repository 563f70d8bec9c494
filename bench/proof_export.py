"""Writing an export as one ZIP against `cp -r` of the very files, both until the disk has it: how many bytes a second, start-up included.

Ours runs as `edge export` lets the bytes go: a program of its own, every file's SHA-256 and CRC-32 taken on the way, synced every 32 MB.
(What the room does before, laying out and one fact, is not in it: a tenth of a second.) `cp` copies every byte (`--reflink=never`), is
followed by `sync -f`, and has the same last place at processor and disk, or on a busy machine only our good manners would be measured.
Interleaved, with the files in memory and after the kernel was asked to forget them; medians. The processor's seconds are told too: they
say less of what else the machine does. Called by `bench/proof.py`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.rig import HOUSE, Unfit
from edge import durable
from edge.export import Laid, Order, as_json
from edge.exported.zip64 import Archive, Member

AT_US = 1_795_672_801 * 1_000_000
OURS = """
import json, sys
from pathlib import Path
from edge.export import Order, from_json
from edge.exported.copying import gentle, write_zip
from edge.exported.pace import Pacer
gentle()
archive = from_json(Order("S", "local", "zip"), json.loads(Path(sys.argv[1]).read_text())).archive
write_zip(archive, Path(sys.argv[2]), Pacer(lambda: False, lambda: False, 0), lambda done, total: None)
sys.exit(1 if archive.altered else 0)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--export-mb", type=int, default=1536, help="size of the session that is exported (default 1536 MB)")
    parser.add_argument("--export-segment-mb", type=int, default=8, help="size of one segment (default 8 MB)")
    parser.add_argument("--export-rounds", type=int, default=5, help="rounds of each, interleaved (default 5)")


def measure(args: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Bytes a second of both, in memory and from the disk."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    if free < 3 * args.export_mb << 20:
        raise Unfit(f"{args.export_mb} MB twice do not fit: {free >> 20} MB are free. Set TMPDIR or --export-mb")
    say(f"making {args.export_mb} MB of footage")
    source, plan = folder / "footage", folder / "plan.json"
    members = _footage(source, max(1, args.export_mb // args.export_segment_mb), args.export_segment_mb << 20)
    plan.write_text(json.dumps(as_json(Laid(Order("S", "local", "zip"), Archive(members, AT_US), AT_US, (), "0" * 32))), encoding="utf-8")
    size, to = sum(m.size for m in members), folder / "out"
    commands = {"": [sys.executable, "-c", OURS, str(plan), str(to / "s.zip")],
                "_peer": ["nice", "-n", "10", "ionice", "-c", "3", "sh", "-c",
                          f"cp -r --reflink=never {source} {to}/copy && sync -f {to}/copy"]}
    took: dict[str, list[float]] = {state + who: [] for state in ("warm", "cold") for who in commands}
    busy: dict[str, list[float]] = {who: [] for who in commands}
    for number in range(args.export_rounds):
        for state in ("warm", "cold"):
            for who, command in commands.items():
                _remember(members, keep=state == "warm")
                took[state + who].append(_seconds(command, to, busy[who]))
        say(f"round {number + 1}: " + ", ".join(f"{name} {times[-1]:.2f} s" for name, times in took.items()))
    speed = {name: size / statistics.median(times) / 1e6 for name, times in took.items()}
    warm, cold = (statistics.median(p / o for o, p in zip(took[s], took[f"{s}_peer"], strict=True)) for s in ("warm", "cold"))
    per_gb = {who: round(statistics.median(times) * 1e9 / size, 2) for who, times in busy.items()}
    return {"figures": {"export_mb_s": round(speed["warm"], 1), "export_cold_mb_s": round(speed["cold"], 1),
                        "export_cpu_s_per_gb": per_gb[""]},
            "peer": {"cp_mb_s": round(speed["warm_peer"], 1), "cp_cold_mb_s": round(speed["cold_peer"], 1),
                     "cp_cpu_s_per_gb": per_gb["_peer"]},
            "ratio": {"export_vs_cp": round(min(warm, cold), 3), "export_vs_cp_warm": round(warm, 3), "export_vs_cp_cold": round(cold, 3)}}


def _footage(folder: Path, count: int, size: int) -> list[Member]:
    folder.mkdir()
    members = []
    for n in range(count):
        path = folder / f"{n:06d}.mp4"
        path.write_bytes(os.urandom(size))
        members.append(Member(f"segments/cam/{path.name}", size, durable.sha256_file(path), path=path))
    os.sync()
    return members


def _remember(members: Sequence[Member], *, keep: bool) -> None:
    """Have all files in memory, or none."""
    for member in members:
        if member.path is not None:
            with member.path.open("rb") as file:
                while keep and file.read(1 << 20):
                    pass
                if not keep:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _seconds(command: Sequence[str], to: Path, busy: list[float]) -> float:
    to.mkdir()
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(HOUSE)}, check=False)
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    busy.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    shutil.rmtree(to)
    os.sync()
    if done.returncode:
        raise Unfit(f"{command[0]} did not write it: {done.stderr[-300:]}")
    return took
