"""Pictures of people at the door, taken at a manual check: `<state>/photos/<session>/<random>.jpg`, mode 0600.

Part of a session's file: they stay as long as the session must be kept, and go with its folder. Their digest stands in the journal,
their bytes in no log, page address or manifest. Callers: `room` (keeps), `web` (shows, to the session's own staff).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

from edge import durable

_PLAIN = re.compile(r"[A-Za-z0-9-]{1,64}")
_NAME = re.compile(r"[0-9a-f]{16}\.jpg")


class Photos:
    """The folder. Blocking: call it beside the event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, session: str, jpeg: bytes) -> tuple[str, str]:
        """Write a picture, durably. Returns its path below the state folder and its SHA-256. OSError if the disk does not take it."""
        if not _PLAIN.fullmatch(session):
            raise ValueError("a session id that is no file name")
        folder = self._folder / session
        durable.make_folder(folder)
        path = folder / f"{secrets.token_hex(8)}.jpg"
        durable.write_new(path, jpeg)
        return f"{self._folder.name}/{session}/{path.name}", hashlib.sha256(jpeg).hexdigest()

    def sessions(self) -> set[str]:
        """Sessions of which there are pictures."""
        return {each.name for each in self._folder.iterdir() if each.is_dir()} if self._folder.is_dir() else set()

    def forget(self, session: str) -> int:
        """Remove a session's pictures; how many there were. The empty folder stays: a name that says nothing of anybody."""
        folder = self._folder / session
        found = [each for each in folder.glob("*.jpg") if _PLAIN.fullmatch(session)] if folder.is_dir() else []
        durable.remove_all(folder, found)
        return len(found)

    def find(self, session: str, name: str) -> bytes | None:
        """A picture's bytes; None for any name that is none of ours."""
        path = self._folder / session / name
        return path.read_bytes() if _PLAIN.fullmatch(session) and _NAME.fullmatch(name) and path.is_file() else None
