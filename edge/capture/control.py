"""Recorder and room talk here, and only here: the recorder's socket (JSON lines) and each stream's status file.

Requests, one a line: {"do":"cut"} -> {"ok":true,"streams":N}; {"do":"wanted","record":true} -> {"ok":true}; {"do":"status"} ->
{"ok":true,"wanted":true,"streams":{id: "running"|"restarting"|"resting"},"watcher":"running"|"restarting"}.
Anything else -> {"ok":false,"error":"…"}.
The status file lies on a tmpfs, rewritten each second by rename, not synced: it is news, not truth. Standard library only.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOCKET = "recorder.sock"
STREAMS = "streams"
STATES = ("starting", "connecting", "recording", "lost", "resting", "refused")
MAX_LINE = 4096
ANSWER_S = 3.0


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """How a stream is, as its worker last said. `frames` and `bytes`: of the present run, on disk. Peaks in hundredths of a dBFS."""

    stream: str
    kind: str
    pid: int
    state: str
    reason: str
    run: str
    seq: int
    since_boot_us: int              # since when it is in this state
    last_sample_boot_us: int        # when the newest sample was written to the file; 0: none yet
    last_sample_utc_us: int
    boot_id: str
    frames: int
    bytes: int
    fps_x100: int
    kbps: int
    width: int
    height: int
    codec: str
    segments: int                   # sealed by this worker
    updated_boot_us: int
    dropped: int                    # samples lost or timestamps mended since the source was opened
    last_sound_boot_us: int = 0     # when the newest sound was written to the file; 0: none yet, or no sound track
    buffered_bytes: int = 0         # waiting in memory for the disk
    av_drift_ppm: int | None = None     # sound card against picture clock; None: one device sends both
    av_offset_ms: int | None = None
    audio_overruns: int | None = None


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """What the watcher last saw and heard in a stream's recorded file. Peaks in hundredths of a dBFS.

    `alarms`: rule -> when it was raised, UTC microseconds. `picture_boot_us`, `sound_boot_us`: when the newest picture and sound that
    was judged had been read from the file; 0: none yet.
    """

    stream: str
    boot_id: str
    updated_boot_us: int
    seq: int                        # of the segment that is being read
    rules: str                      # version of the rules
    picture_boot_us: int
    sound_boot_us: int
    audio_peak_cdb: int | None      # of the last second; None: no sound
    silent_ms: int                  # how long digital silence has lasted
    alarms: Mapping[str, int] = field(default_factory=dict)


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "int | None": (int, type(None)), "Mapping[str, int]": (dict,)}


def _types(of: type[StreamStatus] | type[WatchStatus]) -> dict[str, tuple[type, ...]]:
    return {f.name: _KINDS[str(f.type)] for f in dataclasses.fields(of)}


def status_path(run: Path, stream: str) -> Path:
    """Where a stream's status lies."""
    return run / STREAMS / f"{stream}.json"


def watch_path(run: Path, stream: str) -> Path:
    """Where lies what the watcher says of a stream."""
    return run / STREAMS / f"{stream}.watch.json"


def picture_path(run: Path, stream: str) -> Path:
    """Where a stream's newest recorded key frame lies, as a JPEG."""
    return run / STREAMS / f"{stream}.jpg"


def write_status(run: Path, status: StreamStatus) -> None:
    """Replace the status file. A reader finds the old or the new one. OSError if the folder is gone or full."""
    _write(status_path(run, status.stream), dataclasses.asdict(status))


def write_watch(run: Path, status: WatchStatus) -> None:
    """Replace the watcher's word on a stream, likewise."""
    _write(watch_path(run, status.stream), dataclasses.asdict(status))


def _write(path: Path, facts: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(facts), encoding="utf-8")
    part.replace(path)


def read_status(run: Path, stream: str) -> StreamStatus | None:
    """The stream's status; None if there is none or it is not one."""
    facts = _read(status_path(run, stream), _types(StreamStatus))
    status = StreamStatus(**facts) if facts else None
    return status if status is not None and status.stream == stream and status.state in STATES else None


def read_watch(run: Path, stream: str) -> WatchStatus | None:
    """What the watcher last said of the stream; None if there is nothing, or it is not that."""
    facts = _read(watch_path(run, stream), _types(WatchStatus))
    if facts is None or facts["stream"] != stream or any(type(v) is not int for v in facts["alarms"].values()):
        return None
    return WatchStatus(**facts)


def _read(path: Path, types: dict[str, tuple[type, ...]]) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(facts, dict) or set(facts) != set(types) or any(type(v) not in types[k] for k, v in facts.items()):
        return None
    return facts


class RecorderControl:
    """The room's end of the recorder's socket. Never raises; False means that the recorder did not answer."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def cut(self) -> bool:
        """Ask every worker to turn to a new segment at its next key frame."""
        return (await self.ask({"do": "cut"})) is not None

    async def wanted(self, record: bool) -> bool:
        """Record, or rest."""
        return (await self.ask({"do": "wanted", "record": record})) is not None

    async def ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """One request and its answer; None if there is none, or it is not ok."""
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = await asyncio.open_unix_connection(str(self._path), limit=MAX_LINE * 16)
                writer.write(json.dumps(request).encode() + b"\n")
                await writer.drain()
                answer = json.loads(await reader.readline())
        except (OSError, ValueError, TimeoutError):
            return None
        finally:
            if writer is not None:
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
        return answer if isinstance(answer, dict) and answer.get("ok") is True else None


async def serve_control(path: Path, answer: Callable[[dict[str, Any]], dict[str, Any]]) -> asyncio.Server:
    """Listen at `path` (0600; one left by a dead recorder is replaced). `answer` gets each request and may raise ValueError."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError):         # ValueError: a line longer than MAX_LINE
            while line := await reader.readline():
                try:
                    request = json.loads(line)
                    if not isinstance(request, dict):
                        raise ValueError("a request is a JSON object")
                    reply = {"ok": True} | answer(request)
                except (ValueError, RecursionError) as error:
                    reply = {"ok": False, "error": str(error)}
                writer.write(json.dumps(reply).encode() + b"\n")
                await writer.drain()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(talk, str(path), limit=MAX_LINE)
    path.chmod(0o600)
    return server
