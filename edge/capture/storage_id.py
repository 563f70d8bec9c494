"""The footage folder's identity: a small file that says "this is the disk the room records to".

Without it a recorder started before its disk is mounted fills the system disk, and an empty mount point looks like an empty
archive. Made once by `edge storage init`; read by recorder, worker and room. Standard library only.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from edge import durable
from edge.clock import SystemClock, iso_utc

NAME = "storage.json"


class StorageRefused(Exception):
    """Nothing is recorded to this folder and nothing in it is touched; the text says what happened and what to do."""


def init_storage(footage: Path) -> str:
    """Give the folder an identity and return its uuid (hex). A folder that has one keeps it. OSError if it cannot be written."""
    durable.make_folder(footage)
    try:
        return check_storage(footage, None)
    except StorageRefused:
        if (footage / NAME).exists():
            raise
    identity = uuid.uuid4().hex
    facts = {"made_utc": iso_utc(SystemClock().now().utc_us), "uuid": identity}
    durable.write_new(footage / NAME, json.dumps(facts, sort_keys=True).encode() + b"\n")
    return identity


def check_storage(footage: Path, expected: str | None) -> str:
    """The folder's uuid. StorageRefused if it has none, or another than `expected` (None: any will do)."""
    try:
        facts = json.loads((footage / NAME).read_text(encoding="utf-8"))
        found = uuid.UUID(hex=facts["uuid"]).hex
    except FileNotFoundError:
        raise StorageRefused(
            f"{footage} is not a footage folder: {NAME} is missing. Nothing was written and nothing was deleted. "
            "Is the disk mounted? If it is new, run: edge storage init") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageRefused(
            f"{footage / NAME} cannot be read ({type(error).__name__}). Nothing was written and nothing was deleted. "
            "Check the disk; if it is sound, put the file back from the room's papers or a copy") from error
    if expected is not None and found != uuid.UUID(hex=expected).hex:
        raise StorageRefused(
            f"{footage} is another disk: it says {found}, the room expects {expected}. Nothing was written and nothing was deleted. "
            "Mount the room's own disk, or, if the disk was exchanged on purpose, set the new identity in the configuration")
    return found


def pinned(state: Path) -> str | None:
    """The uuid of the room's own data disk, as `edge storage init` noted it in the state folder; None: any disk with one will do."""
    try:
        return (state / "storage.uuid").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
