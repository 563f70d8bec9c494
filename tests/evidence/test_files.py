"""Reading a session's files: each once, several at a time, in order, and never what only pretends to be a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from edge.evidence import bundle, files
from edge.evidence.files import Wanted


def wanted(path: Path, data: bytes, **other: Any) -> Wanted:
    return Wanted(**{"path": path, "name": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **other})


def test_good_files_are_good_and_the_bytes_are_those_that_were_hashed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"")
    found = list(files.read_all([wanted(tmp_path / "a", b"x" * 3_000_000, keep=True), wanted(tmp_path / "b", b"")]))
    assert [each.fault for each in found] == [None, None]
    assert (found[0].data, found[1].data) == (b"x" * 3_000_000, None)


@pytest.mark.parametrize(("make", "word", "text"), [
    (lambda path: None, "missing-file", "missing f"),
    (lambda path: path.write_bytes(b"good!"), "altered-file", "altered f: 5 bytes, not 4"),
    (lambda path: path.write_bytes(b"evil"), "altered-file", "altered f: its SHA-256"),
    (lambda path: path.mkdir(), "altered-file", "not a plain file: f"),
    (lambda path: path.symlink_to("/etc/passwd"), "altered-file", "not a plain file: f"),
    (lambda path: path.symlink_to("nowhere"), "altered-file", "not a plain file: f"),
    (lambda path: os.mkfifo(path), "altered-file", "not a plain file: f"),
])
def test_whatever_else_lies_there_is_a_finding(tmp_path: Path, make: Any, word: str, text: str) -> None:
    make(tmp_path / "f")
    [found] = files.read_all([wanted(tmp_path / "f", b"good")])
    assert found.fault is not None and (found.fault.word, found.data) == (word, None) and found.fault.startswith(text)


def test_a_sidecar_as_large_as_a_film_is_not_held_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(files.SIDECAR_MAX_BYTES + 1)
    [found] = files.read_all([wanted(tmp_path / "f", b"", bytes=None, keep=True)])
    assert found.fault is not None and "are no sidecar" in found.fault


def test_outcomes_come_in_order_however_many_there_are(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"good")
    many = [wanted(tmp_path / ("f" if n % 3 else "missing"), b"good") for n in range(500)]
    assert [each.fault is None for each in files.read_all(many)] == [n % 3 > 0 for n in range(500)]


def test_each_file_is_opened_once(make_exam: Any, tmp_path: Path) -> None:
    """What is hashed is what is judged: a name that is given to other bytes afterwards changes nothing."""
    exam = make_exam()
    folder = exam.export(tmp_path / "bundle")
    opened: list[str] = []
    true = os.open

    def counted(path: Any, *arguments: Any, **named: Any) -> int:
        opened.append(str(path))
        return true(path, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", counted)
        assert bundle.verify(folder, exam.authority.root_pem).verdict == "PASS"
    media = [path for path in opened if "/segments/" in path]
    assert len(media) == len(set(media)) == 20
