"""The two units: systemd itself accepts them, scores them tight, and neither can pull the other down.

Everything happens on copies below a temporary root; nothing is installed and no manager is asked.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[2]
UNITS = HERE / "systemd"
NAMES = ("edge-recorder.service", "edge.service")
PROGRAM = "/opt/examroom-edge/.venv/bin/python3"
EXPOSURE_MOST = "15"  # of 100; the scale of --threshold. 1.5 on the scale that systemd prints


def settings(name: str) -> dict[str, list[str]]:
    """The unit's keys and values; a key that stands twice has two values."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text(encoding="utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            found.setdefault(key, []).append(value)
    return found


def words(name: str, *keys: str) -> set[str]:
    return {word for key in keys for value in settings(name).get(key, []) for word in value.split()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root folder with Debian's own units, ours, and something executable where the program will stand."""
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    installed = tmp_path / "etc/systemd/system"
    installed.mkdir(parents=True)
    for name in NAMES:
        shutil.copy(UNITS / name, installed)
    program = tmp_path / PROGRAM.lstrip("/")
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    manual = tmp_path / "opt/examroom-edge/systemd/README.md"
    manual.parent.mkdir(parents=True)
    shutil.copy(UNITS / "README.md", manual)
    return tmp_path


def verify(root: Path, *names: str) -> subprocess.CompletedProcess[str]:
    paths = [f"/etc/systemd/system/{name}" for name in names]
    return subprocess.run(
        ["systemd-analyze", "verify", f"--root={root}", "--man=no", *paths], capture_output=True, text=True, timeout=60, check=False
    )


def complaints(root: Path, done: subprocess.CompletedProcess[str]) -> list[str]:
    """What systemd said about our units; Debian's own may name what is not below this root."""
    return [line for line in done.stderr.splitlines() if "edge" in line.replace(str(root), "")]


def test_systemd_accepts_both(root: Path) -> None:
    done = verify(root, *NAMES)
    assert complaints(root, done) == []
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("WatchdogSec=30s", "WatchdogSek=30s", "WatchdogSek"),
        ("KillMode=control-group", "KillMode=group", "kill mode"),
        (f"ExecStart={PROGRAM}", "ExecStart=/opt/nowhere/python3", "not executable"),
    ],
)
def test_systemd_would_notice(root: Path, right: str, wrong: str, said: str) -> None:
    unit = root / "etc/systemd/system/edge.service"
    text = unit.read_text(encoding="utf-8")
    assert right in text
    unit.write_text(text.replace(right, wrong), encoding="utf-8")
    assert any(said in line for line in complaints(root, verify(root, *NAMES)))


@pytest.mark.parametrize("name", NAMES)
def test_exposure(name: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MOST}", str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_exposure_would_notice(tmp_path: Path) -> None:
    text = (UNITS / "edge.service").read_text(encoding="utf-8")
    loose = tmp_path / "edge.service"
    loose.write_text("\n".join(line for line in text.splitlines() if not line.startswith("SystemCallFilter=")), encoding="utf-8")
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MOST}", str(loose)]
    assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 1


def test_neither_pulls_the_other_down() -> None:
    for name, other in (NAMES, NAMES[::-1]):
        hard = words(name, "Requires", "Requisite", "BindsTo", "PartOf", "Conflicts", "PropagatesStopTo", "StopPropagatedFrom", "Upholds")
        assert other not in hard
    assert "edge-recorder.service" in words("edge.service", "Wants")
    assert "edge-recorder.service" in words("edge.service", "After")
    assert "edge.service" not in words("edge-recorder.service", "Wants", "After")


@pytest.mark.parametrize("name", NAMES)
def test_what_the_design_rests_on(name: str) -> None:
    unit = settings(name)
    expected = {
        "Type": "notify", "NotifyAccess": "main", "WatchdogSec": "30s", "Restart": "always", "RestartSec": "2s",
        "StartLimitIntervalSec": "0",
        "KillMode": "control-group",  # mixed kills the workers before they seal
        "RuntimeDirectory": "edge", "RuntimeDirectoryPreserve": "yes",  # shared: must outlive either unit
        "User": "edge", "Group": "edge", "UMask": "0077",
        "PrivateTmp": "yes",  # PyAV's gnutls reads its configuration beneath /tmp
        "RequiresMountsFor": "/srv/data",
    }  # fmt: skip
    assert {key: unit.get(key) for key in expected} == {key: [value] for key, value in expected.items()}
    assert "ProcSubset" not in unit  # would hide the boot id


def test_a_helper_that_runs_out_of_memory_is_not_the_rooms_end() -> None:
    assert settings("edge.service")["OOMPolicy"] == ["continue"]  # tried in test_memory_vm.py


def test_each_sees_only_its_devices() -> None:
    recorder, room = (set(settings(name)["DeviceAllow"]) for name in NAMES)
    assert recorder == {"char-video4linux rw", "char-alsa rw"}
    assert room == {"char-ttyUSB rw", "char-ttyACM rw", "char-ttyS rw"}


@pytest.mark.parametrize("name", NAMES)
def test_the_verb_exists(name: str) -> None:
    (line,) = settings(name)["ExecStart"]
    program, *arguments = line.split()
    assert program == PROGRAM
    assert arguments[:2] == ["-m", "edge"]
    assert arguments[3:] == ["--config", "/etc/edge/edge.toml"]
    done = subprocess.run([sys.executable, *arguments[:3], "--help"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--config" in done.stdout


# ---- the device's key elsewhere than in a file ------------------------------------------------------------------------------

DROP_INS = sorted((UNITS / "drop-ins").glob("key-*.conf"))


@pytest.mark.parametrize("drop_in", DROP_INS, ids=lambda path: path.stem)
def test_a_key_elsewhere_leaves_the_unit_tight(root: Path, drop_in: Path) -> None:
    folder = root / "etc/systemd/system/edge.service.d"
    folder.mkdir()
    shutil.copy(drop_in, folder)
    done = verify(root, "edge.service")
    assert complaints(root, done) == [] and done.returncode == 0, done.stderr
    whole = root / "whole" / "edge.service"
    whole.parent.mkdir()
    whole.write_text((UNITS / "edge.service").read_text(encoding="utf-8") + drop_in.read_text(encoding="utf-8"), encoding="utf-8")
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", f"--threshold={EXPOSURE_MOST}", str(whole)]
    scored = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert scored.returncode == 0, scored.stdout[-2000:]


def test_systemd_would_notice_a_wrong_drop_in(root: Path) -> None:
    folder = root / "etc/systemd/system/edge.service.d"
    folder.mkdir()
    text = (UNITS / "drop-ins" / "key-credential.conf").read_text(encoding="utf-8")
    (folder / "wrong.conf").write_text(text.replace("LoadCredentialEncrypted", "LoadCredentialEncripted"), encoding="utf-8")
    assert any("LoadCredentialEncripted" in line for line in complaints(root, verify(root, "edge.service")))


def test_there_is_a_drop_in_for_each_place() -> None:
    assert [path.stem for path in DROP_INS] == ["key-credential", "key-token", "key-tpm2"]
