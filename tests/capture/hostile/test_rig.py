"""The hostile camera itself, seen by ffmpeg: what it says it sent is what a recorder that we did not write gets, bit by bit."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("h264", "aac", "tcp", {}), ("h264-b", "pcma", "udp", {}), ("h265", "aac-16k", "tcp", {"auth": "digest", "rtp_info": False}),
    ("h264-tiny", "opus", "tcp", {"auth": "basic"}), ("h264", "l16", "udp", {"sr_s": 0.5, "inband": False}),
    ("h265-small", "pcmu", "udp", {"sprop": False}),
]


def copy(url: str, transport: str, seconds: float, to: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["ffmpeg", "-v", "error", "-nostdin", "-y", "-rtsp_transport", transport, "-i", url, "-t", str(seconds),
                             "-map", "0", "-c", "copy", to], stderr=subprocess.PIPE)


def contains(sent: list[str], got: list[str]) -> bool:
    """All of `got` was sent, in this order, nothing left out in between."""
    return any(sent[i:i + len(got)] == got for i in range(len(sent)))


def test_ffmpeg_gets_what_the_ledger_says(hostile: Any, recorded: Any, tmp_path: Path) -> None:
    cameras = [hostile.camera(video=video, sound=sound, **more) for video, sound, _, more in CASES]
    files = [tmp_path / f"{n}.{'mov' if case[0] == 'h264-b' else 'mkv'}" for n, case in enumerate(CASES)]   # MOV: no Opus; MKV: wants dts
    runs = [copy(camera.url.replace("//", "//room:right@"), case[2], 3, file)
            for camera, case, file in zip(cameras, CASES, files, strict=True)]
    said = [run.communicate(timeout=30)[1].decode() for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), said
    for camera, case, file in zip(cameras, CASES, files, strict=True):
        got, ledger = recorded([file]), camera.ledger()
        assert len(got.pictures) > 50 and len(got.sounds) > 30, case
        assert contains(ledger.pictures(), got.pictures), case
        if case[1].startswith("aac") or case[1] == "opus":
            assert contains(ledger.sounds(), got.sounds), case
        assert ledger.most == 1 and ledger.connections == 0
        # ffmpeg closes behind its TEARDOWN without reading on: if a picture is on its way just then, the reset overtakes it
        assert [s["how"] for s in ledger.sessions] in (["teardown"], ["reset"])
        assert ledger.sessions[0]["udp"] == (case[2] == "udp")


@pytest.mark.parametrize(("settings", "word"), [({"answer": "404"}, "404"), ({"answer": "401"}, "401"), ({"play": "454"}, "454"),
                                                ({"auth": "digest", "login": "room:other"}, "401")])
def test_refusals(hostile: Any, tmp_path: Path, settings: dict[str, Any], word: str) -> None:
    run = copy(hostile.camera(**settings).url.replace("//", "//room:right@"), "tcp", 1, tmp_path / "none.mkv")
    _, said = run.communicate(timeout=20)
    assert run.returncode != 0 and word in said.decode()
