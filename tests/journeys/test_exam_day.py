"""One exam day, end to end, on real wires.

Real processes; an RTSP camera that we did not write; a real sound path; the simulated reader behind its pty; the platform over loopback
HTTP; Chromium as chief examiner (who touches no mouse, and lets in one without a card by F2) and as auditor, from log-in to *accepted*
to a playing video whose burnt-in number advances. At the end
openssl alone verifies the manifest's signature and the receipt's. Set EDGE_SHOTS=FOLDER to keep a screenshot of every page.
"""

from __future__ import annotations

import os
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from edge import demo
from tests.capture.conftest import Camera
from tests.journeys.house import PASSWORDS, PINS, House, until

HERE = Path(__file__).parent
CHROMIUM = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"]
FRAME_NUMBER = """() => {                       // 24 squares along the top, lowest bit left: 18 bits of frame number
  const video = document.querySelector('video');
  if (!video || video.readyState < 2 || !video.videoWidth) return -1;
  const canvas = document.createElement('canvas');
  canvas.width = video.videoWidth; canvas.height = video.videoHeight;
  const pen = canvas.getContext('2d');
  pen.drawImage(video, 0, 0);
  let number = 0;
  for (let bit = 0; bit < 18; bit++) if (pen.getImageData(80 * bit + 40, 16, 1, 1).data[0] > 128) number += 2 ** bit;
  return number;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=CHROMIUM)
        yield made
        made.close()


@pytest.fixture
def exam_room(tmp_path: Path, camera: Camera, sound_card: Path, tone: None) -> Iterator[House]:
    template = tmp_path / "exam-day.toml"
    text = (HERE / "exam-day.toml").read_text(encoding="utf-8")
    template.write_text(text.replace("rtsp://camera.invalid/cam1", camera.url), encoding="utf-8")
    house = House(tmp_path / "demo", demo.prepare(tmp_path / "demo", 0, 0, template))
    house.start()
    try:
        yield house
    finally:
        house.stop()


def shot(page: Page, name: str) -> None:
    folder = os.environ.get("EDGE_SHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def log_in(browser: Browser, house: House, staff_id: str, complaints: list[str]) -> Page:
    page = browser.new_context(viewport={"width": 1366, "height": 768}, locale="zh-CN").new_page()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(f"http://127.0.0.1:{house.config.web.port}/")
    write(page, "#staff_id", staff_id)
    write(page, "#password", PASSWORDS[staff_id])
    page.keyboard.press("Enter")
    expect(page.locator("#strip")).to_be_visible()
    return page


def reach(page: Page, selector: str) -> None:
    """Go there with the Tab key, as somebody without a mouse does."""
    expect(page.locator(selector).first).to_be_visible(timeout=10_000)
    for _ in range(150):
        if page.evaluate("wanted => document.activeElement.matches(wanted)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the Tab key does not lead to {selector}")


def press(page: Page, selector: str, key: str = "Enter") -> None:
    reach(page, selector)
    page.keyboard.press(key)


def write(page: Page, selector: str, text: str) -> None:
    reach(page, selector)
    page.keyboard.type(text)


def choose(page: Page, selector: str, value: str) -> None:
    """Arrow down in a list until the value is the chosen one."""
    reach(page, selector)
    page.keyboard.press("Home")
    for _ in range(20):
        if page.input_value(selector) == value:
            return
        page.keyboard.press("ArrowDown")
    raise AssertionError(f"{value} is not in {selector}")


def hold(page: Page, selector: str) -> None:
    """Press and keep pressed for a little over two seconds, as a person does."""
    reach(page, selector)
    page.keyboard.down("Enter")
    page.wait_for_timeout(2300)
    page.keyboard.up("Enter")


def test_an_exam_day_from_log_in_to_a_playing_proof(exam_room: House, browser: Browser, tmp_path: Path) -> None:
    house, complaints = exam_room, list[str]()
    until(house.up, 30)
    session = house.first_session()
    chief = log_in(browser, house, "T001", complaints)
    try:
        prepare(chief, session)
        check_in(chief, house)
        sit_the_exam(chief)
        house.tap("样例乙")                     # after the end: whoever he is, the doors are shut
        until(lambda: "入场" in shown_at_the_gate(house) and "02" not in shown_at_the_gate(house), 10, "the gate says that it is over")
        seal(chief)
    finally:
        shot(chief, "chief-last")
    auditor = log_in(browser, house, "A001", complaints)
    look_back(auditor, session)
    openssl_verifies(house, session, tmp_path)
    nobody_is_named(house, session, tmp_path)
    assert complaints == []


def shown_at_the_gate(house: House) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{house.config.web.port}/gate", timeout=10) as answer:
        text: str = answer.read().decode()
    return re.sub(r"<[^>]*>", " ", text[text.index('id="gate"'):])


def prepare(page: Page, session: str) -> None:
    shot(page, "today")
    press(page, f"a[href*='{session}']")
    press(page, "form[action$='/begin'] button")
    for staff in ("T001", "T002", "T003"):
        choose(page, "#sign-staff", staff)
        write(page, "#sign-pin", PINS[staff])
        press(page, "form[action$='/sign-in'] button")
        expect(page.locator(f"#sign-staff option[value={staff}]")).to_have_count(0)
    press(page, "input[name=free]", "Space")
    press(page, "form[action$='/exits'] button")
    expect(page.locator("#checklist .result")).to_have_class("result warn", timeout=30_000)     # a demo's clock is not disciplined: amber
    shot(page, "preflight")
    press(page, "form[action$='/open'] button")
    expect(page).to_have_url(re.compile("/checkin$"), timeout=10_000)


def check_in(page: Page, house: House) -> None:
    expect(page.locator(".state")).to_contain_text("入场核验")
    for name, words in (("样例甲", ("核验通过", "01")), ("样例乙", ("核验通过", "02")), ("样例䶮", ("核验通过",)),
                        ("样例甲", ("已核验过",)),
                        ("样例辛", ("本场",)), ("样例丑", ("证件",))):
        house.tap(name)
        for word in words:
            expect(page.locator("#verdict-live")).to_contain_text(word, timeout=5_000)
        shot(page, f"checkin-{name}")
    expect(page.locator("#numbers")).to_contain_text("3")
    without_a_card(page)
    hold(page, "form[action$='/start'] button.hold")
    expect(page).to_have_url(re.compile("/run$"), timeout=10_000)


def without_a_card(page: Page) -> None:
    """F2: the tail of the number, in doubt, two compare and sign, the chief clears it."""
    page.keyboard.press("F2")
    write(page, "#said", "200041")
    page.keyboard.press("Enter")
    choose(page, "#exception", "E-NO-CARD")
    shot(page, "manual")
    press(page, "form[action$='/admit'] button.primary")
    expect(page).to_have_url(re.compile("/checkin$"), timeout=10_000)
    expect(page.locator("#verdict")).to_contain_text("身份待核")
    press(page, "a[href$='/doubts']")
    for number, staff in enumerate(("T002", "T003"), 1):
        choose(page, "#staff-1", staff)
        write(page, "#sign-pin-1", PINS[staff])
        press(page, "form[action$='/sign-doubt'] button")
        expect(page.locator(".doubt")).to_contain_text(f"已签字 {number}/2")
    write(page, "#settle-pin-1", PINS["T001"])
    press(page, "button[value=cleared]")
    expect(page.locator(".doubt h2")).to_contain_text("已核实")
    shot(page, "doubts")
    press(page, "a[data-key=Escape]")
    expect(page).to_have_url(re.compile("/checkin$"), timeout=10_000)


def sit_the_exam(page: Page) -> None:
    picture = page.locator("img[data-still*='cam-front']")
    expect(picture).to_be_visible(timeout=10_000)
    first = picture.get_attribute("src")
    until(lambda: picture.get_attribute("src") != first, 10, "the still is renewed")
    page.wait_for_timeout(12_000)           # the exam itself: over a rotation
    shot(page, "run")
    write(page, "#pin", PINS["T001"])
    hold(page, "form[action$='/end'] button.hold")
    expect(page).to_have_url(re.compile("/close$"), timeout=10_000)


def seal(page: Page) -> None:
    press(page, "input[name=absences]", "Space")
    press(page, "input[name=empty]", "Space")
    write(page, "#pin", PINS["T001"])
    choose(page, "#second", "T002")
    write(page, "#second-pin", PINS["T002"])
    shot(page, "close")
    press(page, "form[action$='/seal'] button.primary")
    expect(page.locator("main")).to_contain_text("已接收", timeout=60_000)


def look_back(page: Page, session: str) -> None:
    page.goto(page.url.split("/", 3)[0] + "//" + page.url.split("/", 3)[2] + f"/archive/{session}")
    page.locator("form[action$='/verify'] button").click()
    expect(page.locator("#verified")).to_contain_text("PASS", timeout=60_000)
    shot(page, "dossier")
    page.locator(f"a[href$='/archive/{session}/play/mic']").first.click()
    expect(page.locator("video")).to_be_visible()
    page.goto(page.url.replace("/play/mic", "/play/cam-front"))
    page.evaluate("document.querySelector('video').muted = true; document.querySelector('video').play()")
    first = until(lambda: max(0, page.evaluate(FRAME_NUMBER)), 30, "the first picture")
    later = until(lambda: (n := page.evaluate(FRAME_NUMBER)) > first + 25 and n, 30, "the burnt-in number advances")
    assert later > first
    shot(page, "player")


def openssl_verifies(house: House, session: str, tmp_path: Path) -> None:
    """No code of ours: bash, jq, openssl."""
    export = tmp_path / "export"
    report = house.verify(session, export)
    assert report["verdict"] == "PASS", report
    root = house.folder / "platform/authority/root.pem"
    for name in ("manifest-1.dsse.json", "receipt-1.dsse.json", "session-open.dsse.json", "receipt-open.dsse.json"):
        lines = f"""set -euo pipefail; cd {tmp_path}
            jq -r .payload {export}/{name} | base64 -d >body.json
            T=$(jq -r .payloadType {export}/{name})
            jq -r '.signatures[0].sig' {export}/{name} | base64 -d >sig.der
            jq -r '.signatures[0].cert' {export}/{name} >cert.pem
            {{ printf 'DSSEv1 %d %s %d ' ${{#T}} "$T" $(stat -c %s body.json); cat body.json; }} >pae
            openssl x509 -in cert.pem -pubkey -noout >pub.pem
            openssl verify -purpose any -CAfile {root} -untrusted cert.pem cert.pem
            openssl dgst -sha256 -verify pub.pem -signature sig.der pae"""
        done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, (name, done.stdout, done.stderr)
        assert "Verified OK" in done.stdout


def nobody_is_named(house: House, session: str, tmp_path: Path) -> None:
    """No candidate's number or name in a log, a manifest, or any file of the export (E10)."""
    found: dict[str, Any] = {}
    for path in [*house.folder.glob("*.log"), *(p for p in (tmp_path / "export").rglob("*") if p.is_file() and p.suffix != ".mp4")]:
        data = path.read_bytes()
        for word in ("000000199001010018", "000000198502150022", "样例甲", "样例乙"):
            if word.encode() in data:
                found[path.name] = word
    assert found == {}
