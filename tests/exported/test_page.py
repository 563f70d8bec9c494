"""The page of an export in a real Chromium, as a file, with no network: real footage whose grey tells its second."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page, sync_playwright

from edge.capture.sidecar import from_json
from edge.clock import iso_utc
from edge.exported import page
from tests.web.conftest import film

SECONDS = 14


@pytest.fixture
def footage(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """(an export's folder with three files of a stream, the middle one taken away and declared; of its manifest what the page reads)."""
    film(tmp_path / "footage", SECONDS)
    folder = tmp_path / "export"
    (folder / "segments" / "front").mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    for n, path in enumerate(sorted((tmp_path / "footage" / "front").rglob("*.json")), 1):
        sidecar = from_json(path.read_bytes())
        name = f"segments/front/{n:06d}-x.mp4"
        shutil.copy(path.with_suffix(".mp4"), folder / name)
        entries.append({"stream": "front", "path": name, "start_utc": iso_utc(sidecar.start.utc_us), "end_utc": iso_utc(sidecar.end.utc_us),
                        "dur_us": sidecar.dur_us})
    assert len(entries) >= 3
    gone = entries.pop(1)
    (folder / gone["path"]).unlink()
    gap = {"stream": "front", "from_utc": gone["start_utc"], "to_utc": gone["end_utc"], "reason": "camera-lost"}
    return folder, {
        "session": {"id": "S20261126-KD01-R01-01", "kind": "exam_theory"}, "room": "000000-KD01-R01", "revision": 1, "outcome": "completed",
        "interval": {"start": {"utc": entries[0]["start_utc"]}, "end": {"utc": entries[-1]["end_utc"]}}, "segments": entries, "gaps": [gap],
        "streams": [{"id": "front", "kind": "rtsp", "codecs": ["h264"]}], "retention": {"keep_until": "2033-05-25"}}


@pytest.fixture
def opened(footage: tuple[Path, dict[str, Any]]) -> Iterator[tuple[Page, list[str]]]:
    folder, document = footage
    attendance = [("01", "样*甲", "****0018", "", "admitted", "", "", "", "", "")]
    (folder / "index.html").write_bytes(page.index(document, attendance, [], (), "masked"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=[
            "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"])
        tab = browser.new_context(offline=True).new_page()
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: asked.append(f"said: {message.text}") if message.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: asked.append(f"fault: {error}"))
        tab.goto((folder / "index.html").as_uri())
        yield tab, asked
        browser.close()


def until(tab: Page, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    end = time.monotonic() + 30
    while True:
        screen: dict[str, Any] = tab.evaluate("footage.state()")["screens"][0]
        if good(screen):
            return screen
        assert time.monotonic() < end, tab.evaluate("footage.state()")
        tab.wait_for_timeout(100)


def go(tab: Page, ms: int) -> None:
    tab.evaluate("(ms) => { const s = document.getElementById('seek'); s.step = 1; s.value = ms; s.dispatchEvent(new Event('change')) }",
                 ms)


def second_shown(tab: Page) -> float:
    """The second that the picture's grey stands for."""
    picture = cv2.imdecode(np.frombuffer(tab.locator("video:visible").screenshot(), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert picture is not None
    height, width = picture.shape
    middle = float(np.mean(picture[height // 3:height * 2 // 3, width * 9 // 20:width * 11 // 20]))
    return middle / 255 * 219 / 10


def test_every_moment_shows_its_own_second_and_a_hole_says_so(opened: tuple[Page, list[str]]) -> None:
    tab, asked = opened
    for ms, index in ((2500, 0), (11_500, 1), (4500, 0), (12_500, 1)):
        go(tab, ms)
        until(tab, lambda s, index=index: s["index"] == index and s["ready"] >= 2)      # type: ignore[misc]
        end = time.monotonic() + 20
        while abs(second_shown(tab) - ms // 1000) > 0.6:
            assert time.monotonic() < end, (ms, second_shown(tab))
            tab.wait_for_timeout(100)
    go(tab, 7000)
    shown = until(tab, lambda s: s["index"] == -1)
    assert "Declared gap" in shown["note"] and "camera-lost" in shown["note"]
    assert tab.locator("#attendance td").nth(1).inner_text() == "样*甲"
    assert all(re.match(r"file:///", each) for each in asked), asked


def test_it_plays_over_the_hole_to_the_end(opened: tuple[Page, list[str]]) -> None:
    tab, asked = opened
    tab.select_option("#rate", "4")
    tab.click("#play")
    until(tab, lambda s: s["index"] == 0 and s["time"] > 1)
    until(tab, lambda s: "Declared gap" in s["note"])
    until(tab, lambda s: s["index"] == 1 and s["time"] > 1)
    end = time.monotonic() + 30
    while tab.evaluate("footage.state().playing"):
        assert time.monotonic() < end, "it stops by itself at the end"
        tab.wait_for_timeout(100)
    assert all(re.match(r"file:///", each) for each in asked), asked


def test_a_file_that_the_browser_cannot_play_is_said(footage: tuple[Path, dict[str, Any]], opened: tuple[Page, list[str]]) -> None:
    folder, document = footage
    (folder / document["segments"][0]["path"]).write_bytes(b"no film at all" * 100)
    opened[0].reload()
    shown = until(opened[0], lambda s: bool(s["note"]))
    assert "front.m3u" in shown["note"]
    assert page.playlist(document, "front").decode().splitlines()[::2] == ["#EXTM3U", *(s["path"] for s in document["segments"])]
