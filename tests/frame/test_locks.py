"""The lock files: whole, in step with each other and with pyproject.toml, and naming no package index."""

import re
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2]
LOCKS = ("requirements-build.lock", "requirements.lock", "requirements-dev.lock", "requirements-face.lock")
ENTRY = re.compile(r"^([a-z0-9][a-z0-9._-]*)==(\S+)(?: ; (.+?))? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def pins(name: str) -> dict[tuple[str, str], str]:
    """(package, marker) -> version. One package may stand twice, for two ranges of Python."""
    return {(package, marker): version for package, version, marker, _ in ENTRY.findall(text(name))}


def project(line: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower().replace("_", "-")


@pytest.mark.parametrize("name", LOCKS)
def test_every_entry_is_pinned_and_hashed(name: str) -> None:
    lines = [line for line in text(name).splitlines() if line and not line.startswith((" ", "#"))]
    assert lines
    assert len(lines) == len(ENTRY.findall(text(name))), "a line that is no `name==version` with hashes"


@pytest.mark.parametrize("name", LOCKS)
def test_no_address(name: str) -> None:
    assert "://" not in text(name)
    assert "--index" not in text(name)


def test_in_step_with_each_other() -> None:
    run, dev, build = (pins(name) for name in ("requirements.lock", "requirements-dev.lock", "requirements-build.lock"))
    assert {key: dev.get(key) for key in run} == run
    assert build[("pip", "")] == run[("pip", "")]


def test_in_step_with_the_project() -> None:
    declared = tomllib.loads(text("pyproject.toml"))["project"]
    run, dev = ({package for package, _ in pins(name)} for name in ("requirements.lock", "requirements-dev.lock"))
    assert {project(line) for line in declared["dependencies"]} <= run
    assert {project(line) for line in declared["optional-dependencies"]["dev"]} <= dev - run


def test_the_faces_lock_holds_what_a_room_without_them_never_gets() -> None:
    declared = tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"]["face"]
    face, others = pins("requirements-face.lock"), {package for name in LOCKS[:3] for package, _ in pins(name)}
    assert {project(line) for line in declared} == {package for package, _ in face}
    assert not {package for package, _ in face} & others
    assert all(line in text("requirements-face.lock") for line in declared), "its command names the versions of pyproject.toml"
