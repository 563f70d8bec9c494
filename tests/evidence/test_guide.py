"""VERIFY.md: its very lines, run by bash with openssl, jq and sha256sum alone, on good folders and under attack."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.evidence import bundle, chain

ONE_LINE = re.search(r"Run all lines in this folder: `(.+ \| bash)`", bundle.GUIDE.read_text(encoding="utf-8"))


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    assert ONE_LINE is not None
    command = ["bash", "-o", "pipefail", "-c", ONE_LINE[1]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("depth", "options"), [
    (1, {}), (2, {"hole": "declared"}), (1, {"online": False}), (2, {"late": True}), (1, {"late": True, "rolls": 2}),
])
def test_a_good_folder_passes(make_authority: Callable[[int], Any], make_exam: Callable[..., Any], tmp_path: Path, depth: int,
                              options: dict[str, Any]) -> None:
    exam = make_exam(authority=make_authority(depth), **options)
    done = run(exam.export(tmp_path / "bundle"))
    assert done.returncode == 0 and done.stdout.endswith("\nOK\n"), done.stdout + done.stderr
    assert done.stderr == ""
    assert done.stdout.count("hands over to") == options.get("rolls", 0)
    assert ("declared gap: cam-front" in done.stdout) == ("hole" in options)
    assert "incident: 2026-11-26T06:01:01.000Z V1-03 C0001, confirmed\n" in done.stdout
    assert ("no receipt for revision 1" in done.stdout) == (options.get("online") is False)


def test_an_aborted_session_without_a_segment_passes_too(make_exam: Callable[..., Any], tmp_path: Path) -> None:
    exam = make_exam(segments=0)
    folder = exam.export(tmp_path / "bundle")
    done = run(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert bundle.verify(folder, exam.authority.root_pem).verdict == "PASS WITH DECLARED GAPS"


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def media(folder: Path) -> Path:
    return min((folder / "segments" / "cam-front").glob("*.mp4"))


def cut_entry(exam: Any, folder: Path) -> None:
    path = folder / "manifest-1.dsse.json"
    outer, document = json.loads(path.read_bytes()), exam.payload(path.read_bytes())
    del document["segments"][2]
    path.write_text(json.dumps(outer | {"payload": base64.b64encode(chain.canonical(document)).decode()}))


def edit_row(exam: Any, folder: Path) -> None:
    path = folder / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b"E-CARD-EXPIRED", b"E-CARD-EXTINCT"))


def drop_row(exam: Any, folder: Path) -> None:
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join(lines[:8] + lines[9:]))


def receipt(**changed: Any) -> Callable[[Any, Path], None]:
    def replace(exam: Any, folder: Path) -> None:
        options = {"revision": 1, **changed}
        signer = exam.device if options.pop("by_device", False) else None
        digest = options.pop("digest", exam.digest(exam.manifests[1]))
        (folder / "receipt-1.dsse.json").write_bytes(exam.answer("session-manifest", digest, 300, signer, **options))
    return replace


def platform_signs(exam: Any, folder: Path) -> None:
    exam.device = exam.platform
    exam.resign(folder, lambda document: None)


def swap_root(exam: Any, folder: Path) -> None:
    (folder / "root.pem").write_bytes(exam.stranger.root_pem)


ATTACKS: dict[str, tuple[Callable[[Any, Path], object], str]] = {
    "changed byte": (lambda exam, folder: flip(media(folder), 700), "a file was changed or is missing"),
    "changed sidecar": (lambda exam, folder: flip(media(folder).with_suffix(".json"), 20), "a file was changed or is missing"),
    "deleted file": (lambda exam, folder: media(folder).unlink(), "a file was changed or is missing"),
    "planted file": (lambda exam, folder: (folder / "segments/mic/000009-0.mp4").write_bytes(b""), "the manifest does not name"),
    "entry cut out": (cut_entry, "manifest-1.dsse.json: the signature does not fit"),
    "no manifest": (lambda exam, folder: (folder / "manifest-1.dsse.json").unlink(), "no manifest"),
    "no open": (lambda exam, folder: (folder / "session-open.dsse.json").unlink(), "session-open.dsse.json"),
    "no receipt of the open": (lambda exam, folder: (folder / "receipt-open.dsse.json").unlink(), "the receipt of the session-open"),
    "row edited": (edit_row, "a row of the journal was changed"),
    "row dropped": (drop_row, "the journal is not the one"),
    "no journal": (lambda exam, folder: (folder / "journal.jsonl").unlink(), ""),
    "receipt for another digest": (receipt(digest="9" * 64), "answers another document"),
    "receipt by the device": (receipt(by_device=True), "not signed by a platform"),
    "receipt that rejects": (receipt(verdict="rejected"), "did not accept"),
    "receipt before the certificates": (receipt(received_utc="2025-11-26T06:00:00.000Z"), "does not lead to the root"),
    "another root": (swap_root, "does not lead to the root"),
    "manifest by the platform": (platform_signs, "not signed by a device"),
    "other open named": (lambda exam, folder: exam.resign(folder, lambda d: d["open"].update(open_sha256="1" * 64)),
                         "names another session-open"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_tampered_folder_fails(make_exam: Callable[..., Any], make_authority: Callable[[int], Any], tmp_path: Path, attack: str) -> None:
    exam = make_exam()
    exam.stranger = make_authority(1)
    folder = exam.export(tmp_path / "bundle")
    change, words = ATTACKS[attack]
    change(exam, folder)
    done = run(folder)
    assert done.returncode != 0 and not done.stdout.endswith("OK\n")
    assert words in done.stdout, done.stdout + done.stderr
    assert bundle.verify(folder, exam.authority.root_pem).verdict == "FAIL" or attack == "another root"


def test_the_page_for_auditors_shows_the_same_lines() -> None:
    """docs/auditors/verify.md is the copy that the authority publishes: word for word the commands of the folder."""
    def blocks(path: Path) -> list[str]:
        return re.findall(r"^```sh\n(.*?)^```$", path.read_text(encoding="utf-8"), re.M | re.S)
    page = Path(__file__).parents[2] / "docs" / "auditors" / "verify.md"
    assert len(blocks(bundle.GUIDE)) == 7
    assert blocks(page) == blocks(bundle.GUIDE)
