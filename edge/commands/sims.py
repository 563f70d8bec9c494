"""`edge sim`: simulated devices at the far end of the real wire, and what one does with them by hand."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from edge.commands.verb import Refused, group, verb

if TYPE_CHECKING:
    from edge.commands.verb import Verbs
    from edge.config import Config


def add(verbs: Verbs) -> None:
    """card-reader, tap, fault, platform, class."""
    sims = group(verbs, "sim", "simulated devices at the far end of the real wire: card-reader, tap, fault, platform, class")
    v = verb(sims, "card-reader", _reader, "a reader behind a pty")
    v.add_argument("--link", type=Path, required=True, help="the symbolic link that names the pty")
    v.add_argument("--control", type=Path, required=True, help="the socket that lays and lifts cards")
    v = verb(sims, "tap", _tap, "lay a card of the sample roster on the simulated reader, and lift it when it was read")
    v.add_argument("name", help="样例甲, 样例乙, …")
    v.add_argument("--control", type=Path, help="the reader's socket (default: the demo's)")
    v = verb(sims, "fault", _fault, "spoil what the simulated reader answers, pull its plug, swap cards: one line of its console")
    v.add_argument("words", nargs="+", metavar="WORD", help="noise, half, checksum, timeout, status 41 on read 3, unplug, lay NAME, …")
    v.add_argument("--control", type=Path, help="the reader's socket (default: the demo's)")
    v = verb(sims, "platform", _platform, "the province's platform on loopback, with an authority of its own")
    v.add_argument("--dir", type=Path, required=True, help="its folder: authority and books")
    v.add_argument("--port", type=int, required=True)
    v.add_argument("--room", required=True, help="the room's code")
    verb(sims, "class", _class, "let the demo's platform publish a training class, to try signing in with cards")


def _reader(args: argparse.Namespace) -> int:
    from edge.sim.card_reader import run_card_reader
    return run_card_reader(args.link, args.control)


def _tap(args: argparse.Namespace) -> int:
    from edge.sim.card_reader import run_tap
    return run_tap(args.name, _control(args))


def _fault(args: argparse.Namespace) -> int:
    from edge.sim.card_reader import run_fault
    return run_fault(" ".join(args.words), _control(args))


def _control(args: argparse.Namespace) -> Path:
    if args.control is not None:
        return Path(args.control)
    return _demo_config(", or name the reader's socket with --control").paths.run / "sim-card-reader.sock"


def _demo_config(otherwise: str = "") -> Config:
    from edge import demo
    from edge.config import load
    path = demo.config_path(demo.default_folder())
    if not path.exists():
        raise Refused(f"no demo room has been started here yet; start it with ./run{otherwise}")
    return load(path)


def _class(args: argparse.Namespace) -> int:
    from edge.sim.platform import ask_for_class
    url = _demo_config().platform.url
    try:
        session = ask_for_class(url)
    except (OSError, ValueError, KeyError) as error:
        raise Refused(f"the simulated platform at {url} published no class ({error}). Is the demo running? Start it with ./run") from error
    print(f"{session} is published; the room shows it within a minute")
    return 0


def _platform(args: argparse.Namespace) -> int:
    from edge.sim.platform import serve_platform
    asyncio.run(serve_platform(args.dir, args.port, args.room, signals=True))
    return 0
