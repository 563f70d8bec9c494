"""The recorder's composition root: a Config in, a worker per stream kept alive. It knows no sessions, no database, no web.

Kept apart from `app`, so that nothing of the room can keep the recorder from starting. Called by `edge recorder`.
"""

from __future__ import annotations

import asyncio
import fcntl
from collections.abc import Callable

from edge import durable, status
from edge.capture.recorder import Recorder
from edge.capture.storage_id import StorageRefused, check_storage, pinned
from edge.capture.streams import StreamSpec
from edge.config import Config
from edge.programs import NotReady, until_stopped

FEED_S = 5.0


async def run_recorder(config: Config, command: Callable[[StreamSpec], list[str]]) -> int:
    """Keep one worker per stream alive until SIGTERM or SIGINT. `command`: a worker's argv. NotReady if the footage folder is not ours."""
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
    recorder = Recorder(config.specs(), config.paths.footage, config.paths.run, command, pinned(config.paths.state))

    async def feed() -> None:
        while True:
            status.notify("WATCHDOG=1")
            await asyncio.sleep(status.watchdog_interval_s() or FEED_S)

    return await until_stopped((("recorder", recorder.run), ("watchdog", feed)), f"recording {len(config.streams)} streams")
