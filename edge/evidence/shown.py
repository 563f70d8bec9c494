"""What an auditor was given, read where it is: a folder, or a ZIP of one. To the checks both look alike.

Names are relative, with slashes. Links are names that no file belongs to: never followed. Standard library only.
Callers: `bundle`, `history`, `checks`; `edge verify` chooses.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from edge.evidence.fault import Fault
from edge.evidence.zipped import Member, Zip


class Shown(Protocol):
    """`faults`: what is wrong with the whole of it, before anything in it is looked at."""

    @property
    def faults(self) -> tuple[Fault, ...]: ...

    def within(self, place: str) -> Shown:
        """What lies in a folder of it (`.`: itself)."""

    def names(self, below: str = "", without: frozenset[str] = frozenset()) -> list[str]:
        """Every file and link below a folder of it, in order; folders themselves are left out, and what lies in those named `without`."""

    def has_folder(self, name: str) -> bool: ...

    def is_link(self, name: str) -> bool: ...

    def read(self, name: str, most: int) -> bytes:
        """FileNotFoundError if it is no plain file; OSError; ValueError if there are more than `most` bytes, or they cannot be unpacked."""

    def file(self, name: str) -> Path | Member:
        """As `files.Wanted` takes it."""


class Folder:
    """A folder on a disk."""

    faults: tuple[Fault, ...] = ()

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def within(self, place: str) -> Folder:
        return Folder(self._path / place)

    def names(self, below: str = "", without: frozenset[str] = frozenset()) -> list[str]:
        found = []
        for place, inner, names in os.walk(self._path / below):
            inner[:] = [each for each in inner if each not in without]
            links = [each for each in inner if os.path.islink(f"{place}/{each}")]     # noqa: PTH114 (texts: there may be many)
            start = os.path.relpath(place, self._path)
            found += [name if start == "." else f"{start}/{name}" for name in [*names, *links]]
        return sorted(found, key=lambda name: name.split("/"))

    def has_folder(self, name: str) -> bool:
        return (self._path / name).is_dir()

    def is_link(self, name: str) -> bool:
        return (self._path / name).is_symlink()

    def read(self, name: str, most: int) -> bytes:
        path = self._path / name
        if path.is_symlink() or not path.is_file():
            raise FileNotFoundError(2, "No such file")
        with path.open("rb") as file:
            data = file.read(most + 1)
        if len(data) > most:
            raise ValueError(f"more than {most} bytes")
        return data

    def file(self, name: str) -> Path | Member:
        return self._path / name


class Zipped:
    """A ZIP, or a folder in it."""

    def __init__(self, archive: Zip, prefix: str = "") -> None:
        self._zip, self._prefix = archive, prefix

    def __str__(self) -> str:
        return f"{self._zip.path}{'/' if self._prefix else ''}{self._prefix.removesuffix('/')}"

    @property
    def faults(self) -> tuple[Fault, ...]:
        return tuple(self._zip.faults)

    def within(self, place: str) -> Zipped:
        return self if place == "." else Zipped(self._zip, f"{self._prefix}{place}/")

    def names(self, below: str = "", without: frozenset[str] = frozenset()) -> list[str]:
        start = f"{self._prefix}{below}{'/' if below else ''}"
        found = [name.removeprefix(self._prefix) for name in self._zip.members if name.startswith(start)]
        return sorted((name for name in found if not without.intersection(name.split("/")[:-1])), key=lambda name: name.split("/"))

    def has_folder(self, name: str) -> bool:
        return any(each.startswith(f"{self._prefix}{name}/") for each in self._zip.members)

    def is_link(self, name: str) -> bool:
        return self._zip.member(self._prefix + name).kind == "other"

    def read(self, name: str, most: int) -> bytes:
        return self._zip.member(self._prefix + name).read(most)

    def file(self, name: str) -> Path | Member:
        return self._zip.member(self._prefix + name)

    def itself(self) -> Zipped:
        """Where everything lies in one folder of the ZIP (somebody packed the unpacked folder), that folder."""
        tops = {name.partition("/")[0] for name in self.names() if not name.startswith("__MACOSX/")}
        return self.within(tops.pop()) if len(tops) == 1 and not any("/" not in name for name in self.names()) else self
