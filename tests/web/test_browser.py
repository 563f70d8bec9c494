"""The pages in a real Chromium over real HTTP: nothing in the console, no breach of the policy, no sideways scroll at the smallest desk
or at 200 % zoom, axe finds nothing serious, the held button, the double click, the outage, and footage with a hole played by hls.js.

A figure of speech for the sizes: `desk` 1366 x 768, `zoom` the same desk at 200 %.
"""

from __future__ import annotations

import base64
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright

from edge.capture.pattern import ROWS, layout, read_digits
from edge.capture.sidecar import from_json, to_json
from edge.capture.storage_id import init_storage
from edge.capture.streams import StreamSpec
from edge.clock import US, Stamp
from edge.idcheck.reader import ReaderStatus
from edge.sessions import events as e

if TYPE_CHECKING:
    from tests.web.conftest import MakeFilm, Served

SESSION = "S20261126-KD01-R01-01"
LATER = "S20261126-KD01-R01-02"
PASSWORDS = {"T001": "chief-password", "A001": "auditor-password", "Y001": "sysadmin-password"}
DESK: ViewportSize = {"width": 1366, "height": 768}
ZOOM: ViewportSize = {"width": 683, "height": 384}
SCHEMES: tuple[Literal["dark", "light"], ...] = ("dark", "light")
AXE = Path(__file__).parent / "vendor" / "axe.min.js"
expect.set_options(timeout=15_000)      # a deadline, not a measure: a machine with much to do is late
CARDS = [("样例甲", "000000199001010018"), ("样例辛", "000000196603050099"), ("样例䶮", "000000198810080070")]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=[
            "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"])
        yield browser
        browser.close()


class Visitor:
    """A browser with what it complained of: console errors, page errors, breaches of the content policy."""

    def __init__(self, chromium: Browser, served: Served, staff_id: str | None, **options: Any) -> None:
        self.served = served
        self.context: BrowserContext = chromium.new_context(viewport=DESK, bypass_csp=False, **options)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda m: self.complaints.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(f"page: {error}"))
        self.page.goto(served.url + "/login")
        if staff_id is not None:
            self.page.fill("#staff_id", staff_id)
            self.page.fill("#password", PASSWORDS[staff_id])
            self.page.click("main .primary")
            expect(self.page.locator("#strip")).to_be_visible()

    def go(self, path: str) -> None:
        self.page.goto(self.served.url + path)

    def looks_right(self) -> None:
        """Fits without sideways scroll at both sizes; axe finds nothing serious in either theme."""
        self.page.wait_for_load_state("load")
        for size in (ZOOM, DESK):
            self.page.set_viewport_size(size)
            wide = self.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
            assert wide[0] <= wide[1], f"{self.page.url} scrolls sideways at {size}: {wide}"
        small = self.page.evaluate("""[...document.querySelectorAll('button, a.button, nav a, select, input')]
            .filter((e) => !['hidden', 'checkbox', 'radio', 'range'].includes(e.type))
            .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 43.5).map((e) => e.outerHTML.slice(0, 120))""")
        assert not small, small
        for scheme in SCHEMES:
            self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            found = self.axe()
            assert not found, f"{self.page.url} {scheme}: {found}"

    def axe(self) -> list[str]:
        """What axe-core calls serious or critical. Run through the debugger, not the page: the policy lets no foreign script in."""
        session = self.context.new_cdp_session(self.page)
        session.send("Runtime.evaluate", {"expression": AXE.read_text(encoding="utf-8")})
        answer = session.send("Runtime.evaluate", {"awaitPromise": True, "returnByValue": True, "expression": """
            axe.run(document, {resultTypes: ['violations']}).then((r) => r.violations
              .filter((v) => ['serious', 'critical'].includes(v.impact))
              .map((v) => v.id + ': ' + v.nodes.map((n) => n.html.slice(0, 160) + ' ' + n.failureSummary.slice(0, 200)).join(' | ')))"""})
        session.detach()
        return list(answer["result"]["value"])

    def close(self) -> None:
        self.context.close()
        overtaken = [n for n, each in enumerate(self.complaints) if "htmx:sendAbort" in each]       # a search, by the next letter
        for n in reversed(overtaken):
            del self.complaints[max(n - 1, 0):n + 1]
        assert not self.complaints, self.complaints


def hold(page: Page, selector: str, ms: int = 2300) -> None:
    box = page.locator(selector).bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.wait_for_timeout(ms)
    page.mouse.up()


def until(page: Page, expression: str, seconds: float = 15) -> None:
    """Wait until an expression is true; by the debugger, because the policy lets no page evaluate text."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {expression}"
        page.wait_for_timeout(50)


def test_every_page_in_a_real_browser(chromium: Browser, served: Served) -> None:
    """A whole day; at each station the page is looked at in both themes and both sizes."""
    hall, do = served.hall, served.do
    stranger = Visitor(chromium, served, None)
    stranger.looks_right()
    chief, auditor, sysadmin = (Visitor(chromium, served, who) for who in ("T001", "A001", "Y001"))
    page = chief.page
    chief.looks_right()
    expect(page.locator("#next")).to_contain_text("今天没有待进行的场次")
    do(hall.plan())
    do(hall.roster())
    do(hall.plan(LATER, hall.clock.now().utc_us + 60 * US))
    expect(page.locator("#next .big")).to_be_visible()           # it came by itself
    chief.looks_right()
    page.click("#enter")
    page.locator("form[action$='/begin'] button").click()
    expect(page.locator("#sign-staff")).to_be_visible()
    hall.around.lost.add("front")
    expect(page.locator("#cap-front")).to_have_class("bad", timeout=4000)
    expect(page.locator("#strip .bad")).to_contain_text("前摄像")
    expect(page.locator("#checklist a[href*='/waive']")).to_be_visible(timeout=7000)     # looked at anew every five seconds
    chief.looks_right()
    chief.go(f"/s/{SESSION}/waive?item=stream:front")
    chief.looks_right()
    chief.go(f"/s/{SESSION}/cancel")
    chief.looks_right()
    hall.around.lost.clear()
    do(hall.to("checkin"))
    chief.go(f"/s/{SESSION}")
    gate = Visitor(chromium, served, None)
    gate.go("/gate")
    gate.looks_right()
    for (name, number), light in zip(CARDS, ("ok", "bad", "warn"), strict=True):
        do(hall.card(name, number))
        for each in (page, gate.page):
            expect(each.locator(f".verdict.{light}")).to_be_visible()
        chief.looks_right()
        gate.looks_right()
    chief.go(f"/s/{SESSION}/abort")
    chief.looks_right()
    do(hall.to("running"))
    chief.go(f"/s/{SESSION}")
    hall.around.reader = ReaderStatus("lost", None, "absent", 0)
    expect(page.locator("#alarm")).to_contain_text("身份证阅读器失联", timeout=4000)
    chief.looks_right()
    do(hall.to("closing"))
    expect(page.locator(".state")).to_have_text("收尾")
    chief.looks_right()
    do(hall.to("sealing"))
    expect(page.locator("main")).to_contain_text("正在收齐最后的录像")
    do(hall.to("sealed"))
    expect(page.locator("#upload")).to_contain_text("上报中")
    do(hall.receipt())
    expect(page.locator("#upload")).to_contain_text("省平台已接收")
    chief.looks_right()
    for path in ("/archive", f"/archive/{SESSION}"):
        auditor.go(path)
        auditor.looks_right()
    auditor.page.locator("form[action$=verify] button").click()
    expect(auditor.page.locator("#verified .result")).to_be_visible()
    auditor.looks_right()
    sysadmin.go("/admin")
    sysadmin.looks_right()
    page.locator("nav button[lang=en]").click()
    expect(page.locator(".state")).to_have_text("Sealed")
    chief.looks_right()
    for visitor in (stranger, chief, auditor, sysadmin, gate):
        visitor.close()


def test_the_held_button_and_the_double_click(chromium: Browser, served: Served) -> None:
    """Letting go early does nothing; two seconds start; keys hold too; an impatient double click after the start changes nothing."""
    hall, do = served.hall, served.do
    do(hall.to("checkin"))
    do(hall.card(*CARDS[0]))
    chief = Visitor(chromium, served, "T001")
    page = chief.page
    chief.go(f"/s/{SESSION}/checkin")
    expect(page.locator(".verdict.ok")).to_be_visible()
    assert page.locator("#reason").is_hidden(), "on time: no reason is asked for"
    button = f"form[action='/s/{SESSION}/start'] .hold"
    page.locator(button).click()                                 # a click is not a hold
    hold(page, button, 900)
    expect(page.locator("#saying")).to_contain_text("请按住 2 秒")
    assert hall.room.state.sessions[SESSION].started is None
    hold(page, button)
    expect(page.locator(".state")).to_have_text("考试中")
    assert hall.room.state.sessions[SESSION].started is not None
    page.mouse.dblclick(1250, 660)
    page.locator("form[action$='/end'] .hold").dblclick()
    assert hall.room.state.sessions[SESSION].state == "running"
    page.fill("#pin", "9999")
    page.locator("form[action$='/end'] .hold").focus()
    page.keyboard.down("Enter")
    page.wait_for_timeout(2400)
    page.keyboard.up("Enter")
    expect(page.locator("form[action$='/end'] .said")).to_contain_text("签名码不正确")
    page.fill("#pin", "1001")
    page.locator("#pin").press("Enter")                          # a refused hold is used up, and Enter in a field is none
    page.wait_for_timeout(500)
    assert hall.room.state.sessions[SESSION].state == "running"
    page.locator("form[action$='/end'] .hold").focus()
    page.keyboard.down("Enter")
    page.wait_for_timeout(2400)
    page.keyboard.up("Enter")
    expect(page.locator(".state")).to_have_text("收尾")
    chief.complaints = [each for each in chief.complaints if "403" not in each]         # the wrong PIN, told as the page tells it
    chief.close()


def test_a_refusal_keeps_what_was_typed(chromium: Browser, served: Served) -> None:
    do, hall = served.do, served.hall
    do(hall.to("closing"))
    chief = Visitor(chromium, served, "T001")
    page = chief.page
    chief.go(f"/s/{SESSION}")
    page.check("input[name=absences]")
    page.check("input[name=empty]")
    page.fill("#pin", "1001")
    page.select_option("#second", "T003")
    page.fill("#second-pin", "9999")
    page.locator("form[action$='/seal'] .primary").click()
    expect(page.locator(".said .refusal")).to_contain_text("样例监考二的签名码不正确")
    do(hall.room.report(e.PlatformLost(at=hall.clock.now(), reason="timeout")))      # a change elsewhere takes nothing away either
    expect(page.locator("#strip")).to_contain_text("省平台离线")
    assert page.input_value("#second-pin") == "9999" and page.is_checked("input[name=empty]") and page.input_value("#second") == "T003"
    chief.looks_right()
    assert len(chief.complaints) == 2 and all("403" in each for each in chief.complaints), "the browser's own lines on a refused post"
    chief.complaints.clear()
    chief.close()


def test_a_late_start_asks_for_the_reason(chromium: Browser, served: Served) -> None:
    hall, do = served.hall, served.do
    do(hall.plan(SESSION, hall.clock.now().utc_us - 10 * 60 * US))
    do(hall.roster())
    do(hall.to("checkin"))
    do(hall.card(*CARDS[0]))
    chief = Visitor(chromium, served, "T001")
    page = chief.page
    chief.go(f"/s/{SESSION}")
    expect(page.locator("#reason")).to_be_visible()
    chief.looks_right()
    button = f"form[action='/s/{SESSION}/start'] .hold"
    page.locator(button).dispatch_event("pointerdown", {"button": 0})
    assert page.evaluate("document.activeElement.id") == "reason", "the form says what is missing before anybody holds in vain"
    page.fill("#reason", "等候考生")
    hold(page, button)
    expect(page.locator(".state")).to_have_text("考试中")
    chief.close()


def test_an_outage_greys_the_page_and_passes(chromium: Browser, served: Served) -> None:
    """The room's program is gone: after five seconds the page says how old it is; back again, it shows what is, by itself."""
    hall = served.hall
    served.do(hall.to("checkin"))
    chief = Visitor(chromium, served, "T001")
    page = chief.page
    chief.go(f"/s/{SESSION}")
    expect(page.locator("#numbers")).to_contain_text("5")
    served.stop()
    expect(page.locator("#stale")).to_contain_text("数据已过期", timeout=12_000)
    assert "stale" in str(page.locator("body").get_attribute("class"))
    served.start(served.port)
    hall = served.hall                                          # a new process over the same journal
    served.do(hall.card(*CARDS[0]))
    expect(page.locator(".verdict.ok")).to_be_visible(timeout=12_000)
    expect(page.locator("#stale")).to_be_hidden()
    chief.complaints.clear()                                     # what the browser says of a server that is away
    chief.close()


def test_one_tone_for_each_verdict(chromium: Browser, served: Served) -> None:
    hall, do = served.hall, served.do
    do(hall.to("checkin"))
    chief = Visitor(chromium, served, "T001")
    played: list[str] = []
    chief.page.on("request", lambda request: played.append(request.url.rsplit("/", 1)[1]) if request.url.endswith(".wav") else None)
    chief.go(f"/s/{SESSION}")
    for name, number in CARDS[:2]:
        do(hall.card(name, number))
        expect(chief.page.locator(".verdict .name")).to_have_text(name[0] + "*" + name[-1])
        do(hall.room.report(e.PlatformBack(at=hall.clock.now())))        # a change elsewhere sounds nothing
        chief.page.wait_for_timeout(300)
    assert list(dict.fromkeys(played)) == ["ok.wav", "error.wav"] and len(played) <= 4
    chief.page.locator("[data-test-sound]").click()
    chief.close()


# ---- playing --------------------------------------------------------------------------------------------------------------

async def deliver(served: Served, start: Stamp, skip_us: int, run: int, after: int) -> int:
    """Move a run's stamps to where the session is, and hand its segments to the room as the intake does. The highest number."""
    hall = served.hall
    paths = sorted(path for path in hall.desk.footage.rglob("*Z.json") if int(path.name.split("-")[0]) > after)
    sidecars = [from_json(path.read_bytes()) for path in paths]
    for path, sidecar in zip(paths, sidecars, strict=True):
        shift = sidecar.start.us_since(sidecars[0].start) + skip_us
        moved = replace(sidecar, start=start.plus(shift), end=start.plus(shift + sidecar.end.us_since(sidecar.start)), run=f"{run:032x}")
        path.write_bytes(to_json(moved))
        await hall.room.segment(moved, str(path.with_suffix(".mp4").relative_to(hall.desk.footage)), "0" * 64)
    return sidecars[-1].seq


GREY = """() => { const v = document.querySelector('video'); if (v.readyState < 2) return -1;
  const c = document.createElement('canvas'); c.width = c.height = 8; const x = c.getContext('2d');
  x.drawImage(v, 0, 0, 8, 8); return x.getImageData(4, 4, 1, 1).data[0]; }"""


def test_footage_with_a_hole_plays_at_its_true_time(chromium: Browser, served: Served, make_film: MakeFilm) -> None:
    """Ten seconds, twelve of nothing, ten more of another run: the length is 32 s, a seek into the hole moves on and says so."""
    hall, do = served.hall, served.do
    do(hall.to("checkin"))
    start = hall.clock.now()
    make_film(hall.desk.footage, 10)
    last = do(deliver(served, start, 0, 1, -1))
    make_film(hall.desk.footage, 10)
    do(deliver(served, start, 22 * US, 2, last))
    auditor = Visitor(chromium, served, "A001")
    page = auditor.page
    auditor.go(f"/archive/{SESSION}")
    page.locator("a[href$='/play/front']").first.click()
    expect(page.locator("video")).to_be_visible()
    until(page, "document.querySelector('video').readyState >= 2")
    assert page.evaluate("document.querySelector('video').duration") == pytest.approx(32, abs=0.3)
    expect(page.locator(".holes")).to_contain_text("无录像 12.0 秒（摄像机断开）")
    auditor.looks_right()
    at_start = page.evaluate(GREY)
    page.evaluate("""() => { const s = document.getElementById('seek'); s.value = 15000;
        s.dispatchEvent(new Event('input')); s.dispatchEvent(new Event('change')); }""")
    expect(page.locator("#hole")).to_contain_text("此处无录像")
    until(page, "(v => v.currentTime >= 22 && !v.seeking && v.readyState >= 2)(document.querySelector('video'))")
    assert abs(page.evaluate(GREY) - at_start) < 8, "the second run's own first picture"
    page.evaluate("document.querySelector('video').currentTime = 27.5")
    until(page, "(v => !v.seeking && v.readyState >= 2)(document.querySelector('video'))")
    assert page.evaluate(GREY) - at_start > 35, "five seconds into it"
    assert page.evaluate("document.querySelector('video').src").startswith("blob:"), "hls.js plays it, not the browser"
    before = page.evaluate("document.querySelector('video').currentTime")
    page.evaluate("document.querySelector('video').muted = true; document.querySelector('video').play()")
    until(page, f"document.querySelector('video').currentTime > {before} + 1")
    viewed = [row for row in hall.room.events(SESSION) if isinstance(row.event, e.FootageViewed)]
    assert len(viewed) == 1 and isinstance(viewed[0].event, e.FootageViewed) and viewed[0].event.by == "A001"
    auditor.close()


# ---- live -----------------------------------------------------------------------------------------------------------------

SPEC = StreamSpec("front", "pattern", segment_s=10, width=640, height=360, fps=15)
DOT, (TOP, LEFT), _ = layout(SPEC.width, SPEC.height)
LUMA = """([top, rows]) => { const v = document.querySelector('video'); if (v.readyState < 2) return '';
  const c = document.createElement('canvas'); c.width = 640; c.height = rows; const x = c.getContext('2d', { willReadFrequently: true });
  x.drawImage(v, 0, top, 640, rows, 0, 0, 640, rows); const d = x.getImageData(0, 0, 640, rows).data; let s = '';
  for (let i = 1; i < d.length; i += 4) s += String.fromCharCode(d[i]); return btoa(s); }"""


@pytest.fixture
def record(recorded_beside: Served) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """A real worker on the test picture, whose clock shows the second in which it was drawn; its leash is its stdin."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        desk = recorded_beside.hall.desk
        init_storage(desk.footage)
        command = [sys.executable, "-m", "edge.capture.worker", "--spec", SPEC.to_json(), "--footage", str(desk.footage),
                   "--run", str(desk.run)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return started[-1]

    yield start
    for process in started:
        process.communicate(timeout=20)


def shown_clock(page: Page) -> str:
    """HH:MM:SS as it stands in the picture that the browser shows; "" while it shows none."""
    luma = base64.b64decode(page.evaluate(LUMA, [TOP, ROWS * DOT]))
    return read_digits(np.frombuffer(luma, np.uint8).reshape(ROWS * DOT, SPEC.width), (0, LEFT), DOT) if luma else ""


def delays(page: Page, count: int, seconds: float) -> Iterator[float]:
    """How far the shown picture is behind, each time its clock turns to the next second: that picture was drawn in that moment."""
    before, deadline = shown_clock(page), time.monotonic() + seconds
    while count and time.monotonic() < deadline:
        clock, now = shown_clock(page), time.time()
        if clock != before and before and clock:
            hours, minutes, second = map(int, clock.split(":"))
            local = time.localtime(now)
            yield (local.tm_hour * 3600 + local.tm_min * 60 + local.tm_sec + now % 1 - hours * 3600 - minutes * 60 - second) % 86_400
            count -= 1
        before = clock
        page.wait_for_timeout(40)


def test_live_is_at_most_four_seconds_behind_and_says_when_it_stands(
        chromium: Browser, recorded_beside: Served, record: Callable[[], subprocess.Popen[bytes]]) -> None:
    """Measured against the clock in the picture, not by what the page says of itself; then the worker dies and comes back."""
    served = recorded_beside
    do, hall = served.do, served.hall
    do(hall.to("checkin"))
    recording = record()
    chief = Visitor(chromium, served, "T001")
    page = chief.page
    chief.go(f"/s/{SESSION}/run")
    do(hall.to("running"))
    expect(page.locator(".state")).to_have_text("考试中")
    deadline = time.monotonic() + 20
    while not any(path.stat().st_size > 10_000 for path in hall.desk.footage.rglob("*.mp4")):
        assert time.monotonic() < deadline, "the worker records nothing"
        page.wait_for_timeout(100)
    page.locator("a.pic").first.focus()
    page.keyboard.press("Enter")                                # reached and opened by keyboard
    expect(page.locator("#delay")).to_contain_text("落后", timeout=20_000)
    behind = sorted(delays(page, 6, 20))
    assert len(behind) == 6 and behind[-2] <= 4, behind         # one may be seen late by a busy machine
    told = float(page.evaluate("document.querySelector('section.live').dataset.behindMs")) / 1000
    assert abs(told - behind[3]) < 1.2, "what the page says is so"
    assert page.locator("#stands").is_hidden()
    recording.communicate(timeout=20)
    expect(page.locator("#stands")).to_contain_text("画面停住了", timeout=12_000)
    chief.looks_right()
    record()
    expect(page.locator("#stands")).to_be_hidden(timeout=20_000)
    page.click("#to-edge")
    again = list(delays(page, 2, 20))
    assert len(again) == 2 and min(again) <= 4, "it goes on by itself, at the newest picture"
    page.locator("main a.button").click()
    expect(page.locator(".state")).to_have_text("考试中")
    viewed = [r.event for r in hall.room.events(SESSION) if isinstance(r.event, e.FootageViewed)]
    assert [(v.by, v.stream, v.reason) for v in viewed] == [("T001", "front", "live")]
    chief.close()


def test_a_list_is_imported_in_the_browser(chromium: Browser, served: Served, tmp_path: Path) -> None:
    """R5: faults in their rows, then what would change, then two signatures; preflight stays amber."""
    hall = served.hall
    hall.room.rules = replace(hall.room.rules, allow_demo_ids=True)
    served.do(hall.plan())
    bad, good = tmp_path / "bad.csv", tmp_path / "good.csv"
    head = "姓名,证件号码,准考证号,座位号"
    good.write_text("\n".join([head, *(f"{name},{number},A{n},0{n}" for n, (name, number) in enumerate(CARDS, 1))]), "gb18030")
    bad.write_text(good.read_text("gb18030").replace("0018,", "0019,").replace(",02", ",01"), "utf-8")
    chief = Visitor(chromium, served, "T001")
    page = chief.page
    chief.go(f"/s/{SESSION}/preflight")
    page.click("#import")
    chief.looks_right()
    page.set_input_files("#file", bad)
    page.click("main form button")
    expect(page.locator("main h1")).to_contain_text("名单未采用：2 处有误")
    chief.looks_right()
    page.set_input_files("#file", good)
    page.click("main form button")
    expect(page.locator("main")).to_contain_text("新增 3，移除 0，变更 0")
    chief.looks_right()
    page.fill("#reason", "平台断网")
    page.fill("#pin", "1001")
    page.select_option("#second", "T002")
    page.fill("#second-pin", "9999")
    page.click("main .primary")
    expect(page.locator(".refusal")).to_be_visible()
    assert page.input_value("#reason") == "平台断网", "what was typed stays"
    page.fill("#second-pin", "1002")
    page.click("main .primary")
    expect(page.locator("#checklist")).to_contain_text("导入的名单，3 人")
    chief.looks_right()
    chief.complaints = [each for each in chief.complaints if "403" not in each]         # the refused signature, told as the page tells it
    chief.close()
