"""`./run` where it refuses: in words, before it has changed anything. (That it prepares a bare Debian is shown by running it in one.)"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of `run` alone, in a folder whose name has a space."""
    made = tmp_path / "exam room"
    made.mkdir()
    shutil.copy(HERE / "run", made)
    return made


def run(folder: Path, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": path} if path else None
    command = [shutil.which("bash") or "bash", str(folder / "run"), *arguments]
    return subprocess.run(
        command, cwd="/", env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )


def test_unknown_purpose(folder: Path) -> None:
    done = run(folder, "--setup-only=everything")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--setup-only takes nothing, =run or =test" in done.stderr
    assert [entry.name for entry in folder.iterdir()] == ["run"]


def test_not_debian(folder: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"  # a system that has the common tools, but neither dpkg-query nor apt-get
    tools.mkdir()
    for name in ("dirname", "readlink", "cat", "grep", "sed"):
        (tools / name).symlink_to(shutil.which(name) or name)
    done = run(folder, path=str(tools))
    assert (done.returncode, done.stdout) == (1, "")
    assert "this is not Debian" in done.stderr
    assert [entry.name for entry in folder.iterdir()] == ["run"]
