"""What stays and runs, demo, run, room, recorder, record, watch; and drill, the rehearsal of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from edge.commands.configuration import CONFIG_OR, config_path, load, pinned, site_config
from edge.commands.verb import Refused, verb

if TYPE_CHECKING:
    from edge.capture.streams import StreamSpec
    from edge.commands.verb import Verbs
    from edge.config import Config


def add(verbs: Verbs) -> None:
    """In the order in which `edge --help` shows them."""
    v = verb(verbs, "demo", _demo, "run a demo room: simulated reader, pictures and platform, on real wires", described=True)
    v.add_argument("--dir", type=Path, help="the demo's folder (default: demo/ in the project)")
    v.add_argument("--port", type=int, help="TCP port of the pages (default 8000, or any free one; 0: any)")
    v.add_argument("--platform-port", type=int, help="TCP port of the simulated platform (default 8900, or any free one; 0: any)")
    v.add_argument("--template", type=Path, help="another configuration than config/demo.toml")

    def program(name: str, run: object, text: str) -> argparse.ArgumentParser:
        return verb(verbs, name, run, text, config=CONFIG_OR, described=True)

    program("run", _run, "run recorder and room together (on site two systemd units do this)")
    v = program("room", _room, "run the room: pages, door, journal, platform; everything but the cameras")
    v.add_argument("--demo-logins", type=Path, help=argparse.SUPPRESS)
    program("recorder", _recorder, "run the recorder: one worker per stream, whatever else happens")
    v = program("record", _record, "record one stream until stdin closes or SIGTERM (the recorder's worker; runs by hand too)")
    v.add_argument("--stream", required=True, help="the stream's id")
    v.add_argument("--quiet", action="store_true", help="show no progress at a terminal")
    v = program("watch", _watch, "look at and listen to what is recorded until stdin closes or SIGTERM (the recorder's watcher)")
    v.add_argument("--renew", metavar="STREAM", help="only this: the camera was moved on purpose, make a new reference picture of it")
    v.add_argument("--probe", metavar="STREAM", help="only this: play back samples of the stream's last day, as is done daily")
    v = program("drill", _drill, "rehearse a whole session on the running room (starts the demo room if none runs)")
    v.add_argument("--seconds", type=int, default=20, help="length of the rehearsed exam (default 20)")
    v.add_argument("--json", action="store_true", help="one JSON object as the last line")
    v.add_argument("--dir", type=Path, help="the demo's folder, if the demo room is rehearsed")


def _demo(args: argparse.Namespace) -> int:
    from edge import demo
    return demo.demo(args.dir or demo.default_folder(), args.port, args.platform_port, args.template or demo.TEMPLATE)


def _run(args: argparse.Namespace) -> int:
    from edge.programs import Keeper, Program, edge
    file = str(config_path(args))
    load(args)
    programs = (Program("recorder", edge("recorder", "--config", file)), Program("room", edge("room", "--config", file)))
    return asyncio.run(Keeper(programs).run())


def _room(args: argparse.Namespace) -> int:
    from edge import app
    logins = json.loads(args.demo_logins.read_text(encoding="utf-8")) if args.demo_logins else []
    return asyncio.run(app.run_room(load(args), tuple(tuple(each) for each in logins)))


def _recorder(args: argparse.Namespace) -> int:
    from edge.programs import edge
    from edge.recording import run_recorder
    file = str(config_path(args))
    return asyncio.run(run_recorder(load(args), lambda spec: list(edge("record", "--config", file, "--stream", spec.id)),
                                    edge("watch", "--config", file)))


def _record(args: argparse.Namespace) -> int:
    from edge import progress, status
    from edge.capture.worker import run_worker
    config = load(args)
    spec = _spec(config, args.stream)
    config.paths.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    # by hand means both ends at a terminal: a worker of the recorder's has a pipe for a leash
    by_hand = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty() and not args.quiet
    with progress.line(spec.id, config.paths.run, config.paths.footage, sys.stderr) if by_hand else nullcontext():
        return run_worker(spec, config.paths.footage, config.paths.run, lambda: status.probe_clock().state, storage_uuid=pinned(config))


def _watch(args: argparse.Namespace) -> int:
    from edge import recording
    from edge.programs import edge
    config, file = load(args), str(config_path(args))
    if args.renew:
        return recording.renew_reference(config, _spec(config, args.renew).id)
    if args.probe:
        return recording.play_back(config, _spec(config, args.probe).id)
    return recording.run_watcher(config, lambda stream: list(edge("watch", "--config", file, "--probe", stream)))


def _spec(config: Config, stream: str) -> StreamSpec:
    for spec in config.specs():
        if spec.id == stream:
            return spec
    raise Refused(f"the configuration has no stream {stream!r}; it has {', '.join(s.id for s in config.streams)}")


def _drill(args: argparse.Namespace) -> int:
    from edge import demo
    from edge.drill import drill
    if args.seconds < 1:
        raise Refused("a drill lasts at least one second")
    site = args.config or (None if args.dir else site_config())
    run = load(args).paths.run if site else None
    return drill(run, args.seconds, args.json, args.dir or demo.default_folder())


PROGRAMS = (_room, _recorder, _record, _watch)
"""What runs without a person: a fault that nobody foresaw keeps its traceback in the log, whatever it is."""
