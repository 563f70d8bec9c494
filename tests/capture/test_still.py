"""The door's picture is of this moment, or there is none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge.capture.control import WatchStatus, picture_path, write_watch
from edge.capture.still import FRESH_US, MOST_BYTES, still
from edge.clock import US, Stamp

NOW = Stamp(1_795_680_000 * US, 500 * US, "this-boot")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    show(tmp_path)
    return tmp_path


def show(run: Path, *, age_us: int = US, boot_id: str = "this-boot", file_age_us: int = US, data: bytes = b"a picture") -> None:
    """As the watcher does: what it says, and the picture."""
    at = NOW.boot_us - age_us
    write_watch(run, WatchStatus("door", boot_id, NOW.boot_us, 1, "rules/1", at, 0, None, 0))
    path = picture_path(run, "door")
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=((NOW.utc_us - file_age_us) * 1000,) * 2)


def test_the_newest_picture(run: Path) -> None:
    assert still(run, "door", NOW) == b"a picture"


def test_five_seconds_and_no_more(run: Path) -> None:
    show(run, age_us=FRESH_US, file_age_us=FRESH_US)
    assert still(run, "door", NOW) == b"a picture"
    for age_us, file_age_us in ((FRESH_US + 1, US), (US, FRESH_US + 1), (-1, US), (US, -FRESH_US - 1)):
        show(run, age_us=age_us, file_age_us=file_age_us)
        assert still(run, "door", NOW) is None, (age_us, file_age_us)


def test_none_of_before_a_moment(run: Path) -> None:
    cut = NOW.boot_us - US
    assert still(run, "door", NOW, cut) == b"a picture"
    assert still(run, "door", NOW, cut + 1) is None


def test_none_of_another_boot_nor_without_a_watcher(run: Path) -> None:
    show(run, boot_id="the-boot-before")
    assert still(run, "door", NOW) is None
    assert still(run, "back", NOW) is None
    picture_path(run, "door").with_name("door.watch.json").write_text("{}")
    assert still(run, "door", NOW) is None


def test_no_file_no_picture(run: Path, tmp_path: Path) -> None:
    path = picture_path(run, "door")
    for data, fit in ((b"", False), (b"x" * MOST_BYTES, True), (b"x" * (MOST_BYTES + 1), False)):
        show(run, data=data)
        assert (still(run, "door", NOW) is not None) is fit
    path.unlink()
    assert still(run, "door", NOW) is None
    (tmp_path / "secret").write_bytes(b"secret")
    path.symlink_to(tmp_path / "secret")
    assert still(run, "door", NOW) is None, "a link is not followed"
    path.unlink()
    path.mkdir()
    assert still(run, "door", NOW) is None
