#!/usr/bin/env python3
"""What proving and keeping cost, against what the system itself would take: one group of figures in each `bench/proof_<group>.py`.

A group is a module with two functions, found by its file's name, so that a new one touches no other:

    add_arguments(parser)               its own options, each beginning with --<group>-
    measure(args, folder, say) -> dict  {"figures": {...}, "peer": {...}, "ratio": {...}}, numbers by name; works below `folder` (empty,
                                        on a disk, removed afterwards), tells what goes on by `say(text)`; Unfit if it cannot be measured

Prints a Markdown table; the last line is one JSON object. By hand: bench/README.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.rig import Unfit, conditions

GROUPS = tuple(sorted(path.stem.removeprefix("proof_") for path in Path(__file__).parent.glob("proof_*.py")))
GOALS = {
    # name: (goal, whether more is better)
    "ratio.verify_vs_sha256sum": (0.9, True), "ratio.export_vs_cp": (0.8, True), "figures.lookup_ms_p99_3m": (10.0, False),
    "figures.lookup_ms_p99_10m": (20.0, False), "figures.retention_pass_s_10m": (1.0, False), "figures.start_s_3y": (3.0, False),
    "figures.reindex_per_s": (20_000.0, True),
}


def main() -> int:
    """Run the groups. 0: measured; 2: none could be measured here, with the reasons."""
    modules = {name: importlib.import_module(f"bench.proof_{name}") for name in GROUPS}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--only", action="append", choices=GROUPS, help="this group alone; may be given more than once")
    for module in modules.values():
        module.add_arguments(parser)
    args = parser.parse_args()

    def say(text: str) -> None:
        if not args.json:
            print(text, file=sys.stderr, flush=True)

    where = {name: value for name, value in conditions().items() if name not in ("ffmpeg", "source")}
    found: dict[str, dict[str, float]] = {"figures": {}, "peer": {}, "ratio": {}}
    unfit = {}
    for name in args.only or GROUPS:
        folder = Path(tempfile.mkdtemp(prefix=f"edge-proof-{name}-", dir=os.environ.get("TMPDIR") or "/var/tmp"))   # noqa: S108
        try:
            say(f"{name} …")
            for part, numbers in modules[name].measure(args, folder, say).items():
                found[part] |= numbers
        except Unfit as reason:
            unfit[name] = str(reason)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    if not args.json:
        print("\n".join(table(found)))
        print("".join(f"\nnot measured here: {name} ({reason})" for name, reason in unfit.items()))
    result: dict[str, Any] = {"name": "proof", "conditions": where, **found}
    print(json.dumps(result | ({"unfit": unfit} if unfit else {})))
    return 0 if any(found.values()) else 2


def table(found: dict[str, dict[str, float]]) -> list[str]:
    """One row a figure, with its goal if it has one."""
    rows = ["| | measured | goal | |", "|---|---|---|---|"]
    for part, numbers in found.items():
        for name, value in numbers.items():
            goal, more = GOALS.get(f"{part}.{name}", (None, True))
            met = "" if goal is None else "met" if (value >= goal if more else value <= goal) else "missed"
            rows.append(f"| {part}.{name} | {value:,.3g} | {'' if goal is None else ('≥ ' if more else '≤ ') + f'{goal:g}'} | {met} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
