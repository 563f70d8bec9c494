"""The checkpoint: the device's signed word at a moment, how far its journal is and how many sessions it has opened and closed.

Between two sessions nothing else binds the device: who deletes the last session with all its documents leaves no hole in the numbers. A
checkpoint that the platform has signed for does: the history must show as many sessions as it counts, and the journal must have the very
row that it names. Schema: `docs/schemas/checkpoint.json`. Made by `edge/checkpoints.py`, judged by `history`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edge.clock import Stamp, iso_utc
from edge.evidence.documents import CHECKPOINT_TYPE
from edge.evidence.manifest import RoomFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the room stands at one moment. `head`: number and hash of the journal's last row; `live`: the session that is held;
    `clock`: as in ClockRead; `hw_counter`: what the hardware counter should say, None where there is none."""

    at: Stamp
    head: tuple[int, str]
    opened_total: int
    closed_total: int
    live: str | None
    last_manifest: str | None
    last_receipt: str | None
    free_bytes: int
    total_bytes: int
    write_ok: bool
    clock: dict[str, str | int]
    hw_counter: int | None = None


def checkpoint(room: RoomFacts, now: Standing) -> dict[str, Any]:
    """The document to be signed."""
    prev = {"manifest_sha256": now.last_manifest, "receipt_sha256": now.last_receipt}
    return {
        "type": CHECKPOINT_TYPE, "made_utc": iso_utc(now.at.utc_us), "site": room.site, "room": room.room_code,
        "device": {"id": room.device_id, "cert_sha256": room.cert_sha256, "boot_id": room.boot_id, "sw_version": room.sw_version,
                   "sw_sha256": room.sw_sha256, "config_sha256": room.config_sha256},
        "journal": {"seq": now.head[0], "head_sha256": now.head[1]},
        "counters": {"opened_total": now.opened_total, "closed_total": now.closed_total,
                     **({} if now.hw_counter is None else {"hw_counter": now.hw_counter})},
        **({"session_id": now.live} if now.live else {}),
        "prev": {key: value for key, value in prev.items() if value is not None},
        "disk": {"free_bytes": now.free_bytes, "total_bytes": now.total_bytes, "write_ok": now.write_ok},
        "clock": {**now.clock, "boot_us": now.at.boot_us},
    }
