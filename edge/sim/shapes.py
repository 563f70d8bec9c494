"""What the simulated platform accepts: the parts of a room's documents that it looks at, and the whole heartbeat.

Written from docs/platform-api.yaml and docs/schemas; a contract test holds the two against each other. Called by `sim.platform` only.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Utc = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$")]
Date = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
Count = Annotated[int, Field(ge=0)]
Health = Literal["ok", "warn", "fault", "unknown"]


class _Part(BaseModel):
    """Part of a signed document: what else it holds was checked when it was made, and is for others to read."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Session(_Part):
    id: str
    kind: str


class _Device(_Part):
    id: str


class _Counters(_Part):
    session_seq: int = Field(ge=1)


class OpenFacts(_Part):
    """What the platform looks at in an announcement."""

    type: Literal["exam-session-open/v1"]
    session: _Session
    room: str
    device: _Device
    session_seq: int = Field(ge=1)


class ManifestFacts(_Part):
    """What the platform looks at in a manifest."""

    type: Literal["exam-session-manifest/v1", "exam-session-manifest/v2"]
    revision: int
    amends: str = ""
    session: _Session
    room: str
    device: _Device
    counters: _Counters


class _Totals(_Part):
    opened_total: Count
    closed_total: Count


class CheckpointFacts(_Part):
    """What the platform looks at in a checkpoint."""

    type: Literal["exam-device-checkpoint/v1"]
    room: str
    device: _Device
    counters: _Totals


class _Subject(_Part):
    id: str


class DispositionFacts(_Part):
    """What the platform looks at in a disposition record."""

    type: Literal["exam-disposition/v1"]
    session: _Subject
    room: str
    device: _Device
    session_seq: int = Field(ge=1)


class _Whole(BaseModel):
    """A document that is nobody's but the platform's: an unknown field is a mistake of the sender."""

    model_config = ConfigDict(strict=True, extra="forbid")


class _Controller(_Whole):
    version: str
    boot_id: str
    uptime_s: Count | None = None


class _Clock(_Whole):
    synced: bool
    source: str | None = None
    offset_ms: int | None = None


class _Source(_Whole):
    id: str
    kind: Literal["video", "audio", "av"]
    health: Health
    fps_x100: Count | None = None
    kbps: Count | None = None
    audio_peak_cdb: int | None = None
    last_frame_age_ms: Count | None = None


class _Storage(_Whole):
    free_bytes: Count
    write_ok: bool
    days_left: Count | None = None
    oldest_kept: Date | None = None


class _Terminal(_Whole):
    seat_no: str
    state: Literal["offline", "online", "logged_in", "answering", "submitted", "fault", "spare"]
    last_seen: Utc | None = None


class _Terminals(_Whole):
    registered: Count | None = None
    online: Count | None = None
    fault: Count | None = None
    spare: Count | None = None
    seats: list[_Terminal] | None = None


class _Counts(_Whole):
    expected: Count
    admitted: Count
    refused: Count
    absent: Count | None = None


class _Queue(_Whole):
    manifests: Count
    parked: Count | None = None
    oldest: Utc | None = None


class HeartbeatShape(_Whole):
    """The room's newest state (schema Heartbeat)."""

    room_code: str
    seq: int = Field(ge=1)
    at: Utc
    controller: _Controller
    state: Literal["idle", "preflight", "checkin", "running", "closing", "sealing"]
    session_id: str | None = None
    flags: list[str] | None = None
    clock: _Clock
    id_reader: Health = "unknown"
    sources: list[_Source]
    storage: _Storage
    terminals: _Terminals | None = None
    counts: _Counts | None = None
    queue: _Queue | None = None
