"""The recorder's composition root: a Config in, a worker per stream and a watcher kept alive. It knows no sessions, no database, no web.

Kept apart from `app`, so that nothing of the room can keep the recorder from starting. Called by `edge recorder` and `edge watch`.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable, Sequence

from edge import durable, status
from edge.capture.recorder import Recorder
from edge.capture.storage_id import StorageRefused, check_storage, pinned
from edge.capture.streams import StreamSpec
from edge.clock import SystemClock
from edge.config import Config
from edge.programs import NotReady, until_stopped

FEED_S = 5.0


async def run_recorder(config: Config, command: Callable[[StreamSpec], list[str]], watch_command: Sequence[str] | None = None) -> int:
    """Keep one worker per stream alive, and the watcher, until SIGTERM or SIGINT. NotReady if the footage folder is not ours.

    `command`: a worker's argv; `watch_command`: the watcher's, None = none.
    """
    durable.make_folder(config.paths.run)
    lock = (config.paths.run / "recorder.lock").open("a")       # held until the process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise NotReady(f"a recorder is running already on {config.paths.run}. It goes on; this second one was not started.") from None
    try:
        check_storage(config.paths.footage, pinned(config.paths.state))
    except StorageRefused as refused:
        raise NotReady(str(refused)) from refused
    recorder = Recorder(config.specs(), config.paths.footage, config.paths.run, command, pinned(config.paths.state),
                        watch_command=watch_command)

    async def feed() -> None:
        while True:
            status.notify("WATCHDOG=1")
            await asyncio.sleep(status.watchdog_interval_s() or FEED_S)

    return await until_stopped((("recorder", recorder.run), ("watchdog", feed)), f"recording {len(config.streams)} streams")


def run_watcher(config: Config, probe_command: Callable[[str], list[str]]) -> int:
    """Watch all streams until stdin closes or SIGTERM. `probe_command`: argv of a stream's playback probe. The exit code."""
    from edge.capture import watch  # loaded here: the recorder itself decodes nothing
    return watch.run_watcher(config.specs(), config.paths.footage, config.paths.run, config.watch.limits(), probe_command,
                             storage_uuid=pinned(config.paths.state))


def play_back(config: Config, stream: str) -> int:
    """Today's playback probe of a stream; says how it went. The exit code."""
    from edge.capture.probe import NOTHING, run_probe
    code = run_probe(config.paths.footage / stream, SystemClock())
    print({0: "played back well", NOTHING: "there is no sealed footage of the last 24 hours"}.get(code, "NOT played back: see above"))
    return code


def renew_reference(config: Config, stream: str) -> int:
    """Put the stream's reference picture aside, so that the watcher makes a new one. The exit code."""
    from edge.capture.picture import renew
    kept = renew(config.paths.footage / stream, SystemClock().now().utc_us)
    print(f"the old one is kept as {kept.name};" if kept else "there was none;",
          "the watcher makes a new reference picture after a minute in which the picture is good")
    return 0
