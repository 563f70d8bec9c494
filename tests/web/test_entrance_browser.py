"""The entrance in a real Chromium: readers that type, keyboard only, the display while the news fail, tones, sheets on A4."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page, Request, Route, ViewportSize, expect, sync_playwright

from edge.clock import US
from tests.web.conftest import PEOPLE, STRANGER
from tests.web.test_browser import CARDS, DESK, SESSION, Visitor, until
from tests.web.test_entrance import plan_class

if TYPE_CHECKING:
    from tests.web.conftest import Served

HALL: ViewportSize = {"width": 1920, "height": 1080}
NUMBER = CARDS[0][1]
NOTE = """(words) => {
  const since = {};
  window.seen = {};
  const look = () => {
    const text = document.querySelector("#gate").textContent + " " + document.querySelector("#previous:not([hidden])")?.textContent;
    for (const word of words) {
      if (text.includes(word)) { since[word] ??= performance.now(); window.seen[word] = null; }
      else if (word in since) window.seen[word] ??= performance.now() - since[word];
    }
  };
  new MutationObserver(look).observe(document.body, {childList: true, subtree: true, characterData: true, attributes: true});
}"""
"""For how long each of the words was on the display, in milliseconds; null: it still is."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=[
            "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"])
        yield browser
        browser.close()


def posts(page: Page) -> list[str]:
    """The paths of what the page posts from now on."""
    seen: list[str] = []

    def note(request: Request) -> None:
        if request.method == "POST":
            seen.append(request.url.split("/s/")[-1].partition("/")[2])

    page.on("request", note)
    return seen


def typed_by(page: Page, text: str, gap_ms: float) -> None:
    """Real keys through the browser's own input, then Enter; so many milliseconds apart by their stamps, however slow this machine is."""
    session, at = page.context.new_cdp_session(page), time.time()
    for n, char in enumerate([*text, "Enter"]):
        key = {"key": char, "text": "\r" if char == "Enter" else char, "timestamp": at + n * gap_ms / 1000,
               "windowsVirtualKeyCode": 13 if char == "Enter" else ord(char.upper())}
        session.send("Input.dispatchKeyEvent", {"type": "keyDown", **key})
        session.send("Input.dispatchKeyEvent", {"type": "keyUp", **{k: v for k, v in key.items() if k != "text"}})
    session.detach()


def burst(page: Page, text: str) -> None:
    """As a keyboard reader types."""
    typed_by(page, text, 10)


def test_a_reader_that_types_is_heard_everywhere_on_the_page_and_leaves_no_trace_in_a_field(chromium: Browser, served: Served) -> None:
    hall, do = served.hall, served.do
    hall.room.rules = replace(hall.room.rules, wedge=True, allow_demo_ids=True)
    do(hall.to("checkin"))
    chief = Visitor(chromium, served, "T001")
    page = chief.page
    chief.go(f"/s/{SESSION}/checkin")
    page.mouse.click(5, 400)                                        # nothing has the focus
    seen = posts(page)
    burst(page, NUMBER)
    expect(page.locator(".verdict.ok")).to_contain_text("01 号机")
    assert hall.room.state.sessions[SESSION].admitted["C-0018"].method == "id_wedge"
    expect(page.locator("#found")).to_be_empty()
    page.locator("#find").focus()                                   # the proctor was about to search
    page.keyboard.type("阿依")
    expect(page.locator("#found")).to_contain_text("阿依·样例")
    seen.clear()
    burst(page, "000000198502150022")
    expect(page.locator(".verdict.ok")).to_contain_text("02 号机")
    assert page.input_value("#find") == "阿依", "the field holds what it held"
    assert page.evaluate("document.activeElement.id") == "find"
    hall.room.rules = replace(hall.room.rules, wedge=False)         # a room whose reader reads chips
    seen.clear()
    burst(page, "000000199206300035")
    expect(page.locator("#found")).to_contain_text("没有读芯片")
    expect(page.locator("#found")).to_contain_text("样例丙")
    assert "C-0035" not in hall.room.state.sessions[SESSION].admitted
    assert NUMBER not in page.content()
    chief.close()


def test_what_a_person_types_is_never_taken_for_a_reader(chromium: Browser, served: Served) -> None:
    """The same number by hand, by quick hand, too short a burst, a burst without Enter, and on the entrance display."""
    hall, do = served.hall, served.do
    hall.room.rules = replace(hall.room.rules, wedge=True, allow_demo_ids=True)
    do(hall.to("checkin"))
    chief = Visitor(chromium, served, "T001")
    page = chief.page
    chief.go(f"/s/{SESSION}/checkin")
    seen = posts(page)
    page.keyboard.press("/")
    typed_by(page, NUMBER, 60)                                      # twice as fast as an expert
    assert page.input_value("#find") == NUMBER
    expect(page.locator("#found")).to_contain_text("样例甲")
    page.keyboard.press("Escape")
    typed_by(page, NUMBER, 22)                                      # fifteen characters in 308 ms
    burst(page, "12345678901234")                                   # a short number
    page.keyboard.type(NUMBER)                                      # fast, and no Enter
    page.keyboard.press("Tab")
    page.keyboard.press("/")
    page.evaluate("document.getElementById('find').value = '000000199001010018'")       # pasted
    page.keyboard.press("Enter")
    page.wait_for_timeout(400)
    assert "wedge" not in seen and not hall.room.state.sessions[SESSION].admitted
    gate = Visitor(chromium, served, None)
    gate.go("/gate")
    asked = posts(gate.page)
    burst(gate.page, NUMBER)
    gate.page.wait_for_timeout(400)
    assert asked == [] and gate.page.url.endswith("/gate")
    chief.close()
    gate.close()


def test_check_in_with_the_keyboard_only(chromium: Browser, served: Served) -> None:
    """Log in, open the session, three cards, search, look at one, start the exam: no mouse."""
    hall, do = served.hall, served.do
    do(hall.to("checkin"))
    chief = Visitor(chromium, served, None)
    page = chief.page
    page.locator("#staff_id").focus()
    page.keyboard.type("T001")
    page.keyboard.press("Tab")
    page.keyboard.type("chief-password")
    page.keyboard.press("Enter")
    expect(page.locator("#strip")).to_be_visible()
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement.id") != "enter":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".state")).to_have_text("入场核验")
    for (name, number), light in zip(CARDS, ("ok", "bad", "warn"), strict=True):
        do(hall.card(name, number))
        expect(page.locator(f".verdict.{light}")).to_be_visible()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find"
    page.keyboard.type("样例乙")
    expect(page.locator("#found")).to_contain_text("未到")
    chief.looks_right()
    do(hall.card("样例乙", "000000198502150022"))
    expect(page.locator("#found")).to_contain_text("✓ 已到")        # what was found keeps up with the door
    page.keyboard.press("Escape")
    expect(page.locator("#found")).to_be_empty()
    assert page.input_value("#find") == "" and page.evaluate("document.activeElement.tagName") == "BODY"
    while not page.evaluate("document.activeElement.matches('.hold')"):
        page.keyboard.press("Tab")
    page.keyboard.down("Enter")
    page.wait_for_timeout(2400)
    page.keyboard.up("Enter")
    expect(page.locator(".state")).to_have_text("考试中")
    page.wait_for_load_state("load")
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find"
    page.keyboard.type("/2")
    assert page.input_value("#find") == "/2", "a letter in a field is a letter"
    chief.close()


def refuse_news(route: Route) -> None:
    route.abort()


@pytest.mark.slow
def test_u25_display_and_check_in_work_while_the_news_fail_and_say_so_when_nothing_comes(chromium: Browser, served: Served) -> None:
    hall, do = served.hall, served.do
    do(hall.to("checkin"))
    gate, chief = Visitor(chromium, served, None), Visitor(chromium, served, "T001")
    for visitor, path in ((gate, "/gate"), (chief, f"/s/{SESSION}/checkin")):
        visitor.page.route(re.compile("/(gate/live|news/.*)$"), refuse_news)
        visitor.go(path)
    gate.page.set_viewport_size(HALL)
    gate.page.wait_for_timeout(5500)                                # longer than data may be old
    for visitor in (gate, chief):
        assert "stale" not in str(visitor.page.locator("body").get_attribute("class")), "asked for without the news"
    do(hall.card(*CARDS[0]))
    for visitor in (gate, chief):
        expect(visitor.page.locator(".verdict.ok")).to_be_visible(timeout=6000)
    gate.page.route(re.compile("/gate$"), refuse_news)
    expect(gate.page.locator("#stale")).to_be_visible(timeout=9000)
    expect(gate.page.locator("#gate")).to_be_hidden()               # somebody's seat is not left standing for the next person
    expect(gate.page.locator(".away")).to_be_visible()
    gate.page.unroute_all()
    expect(gate.page.locator("#stale")).to_be_hidden(timeout=9000)
    expect(gate.page.locator("#gate")).to_be_visible()
    for visitor in (gate, chief):
        visitor.complaints.clear()                                  # what the browser says of requests that were cut off
        visitor.close()


def test_u4_a_verdict_stands_for_three_seconds_on_the_display_even_if_the_next_card_comes(chromium: Browser, served: Served) -> None:
    hall, do = served.hall, served.do
    do(hall.to("checkin"))
    gate = Visitor(chromium, served, None)
    gate.page.set_viewport_size(HALL)
    gate.go("/gate")
    do(hall.card(*CARDS[0]))
    expect(gate.page.locator(".verdict.ok .seat")).to_have_text("01 号机")
    do(hall.card("样例乙", "000000198502150022"))
    expect(gate.page.locator(".verdict.ok .seat")).to_have_text("02 号机", timeout=1500)
    expect(gate.page.locator("#previous")).to_have_text("✓ 核验通过 · 样*甲 · 01 号机")
    expect(gate.page.locator("#previous")).to_be_visible()
    seat = gate.page.locator(".verdict.ok .seat").bounding_box()
    small = gate.page.locator(".verdict.ok .next").evaluate("(e) => parseFloat(getComputedStyle(e).fontSize)")
    assert seat is not None and seat["height"] > 200 and small >= 60, "to be read at three metres"
    gate.looks_right()
    gate.page.wait_for_timeout(1200)
    expect(gate.page.locator(".verdict.ok")).to_be_visible()
    expect(gate.page.locator("#previous")).to_be_hidden(timeout=3500)
    expect(gate.page.locator(".verdict.ok .seat")).to_have_text("02 号机")
    assert "0018" not in gate.page.content() and "样例" not in gate.page.content()
    gate.close()


def test_u4_four_cards_in_two_seconds_and_each_is_there_for_three(chromium: Browser, served: Served) -> None:
    """Whoever came sooner is moved, never taken away: the page is looked at with every change."""
    hall, do = served.hall, served.do
    do(hall.to("checkin"))
    gate = Visitor(chromium, served, None)
    gate.page.set_viewport_size(HALL)
    gate.go("/gate")
    gate.page.evaluate(NOTE, ["01 号机", "02 号机", "03 号机", "06 号机"])
    for name, number, _ in PEOPLE[:4]:
        do(hall.card(name, number))
        gate.page.wait_for_timeout(300)
    expect(gate.page.locator("#previous span")).to_have_text([
        f"✓ 核验通过 · {who}" for who in ("样*丙 · 03 号机", "样*乙 · 02 号机", "样*甲 · 01 号机")])
    gate.looks_right()
    expect(gate.page.locator("#previous")).to_be_hidden()
    seen = gate.page.evaluate("window.seen")
    assert all(seen[f"{seat} 号机"] >= 3000 for seat in ("01", "02", "03")) and seen["06 号机"] is None, seen
    gate.close()


def test_u4_a_refusal_among_fast_cards_is_kept_with_its_word(chromium: Browser, served: Served) -> None:
    """Neither name nor seat is needed to be read for three seconds, and a small line never leaves open whether somebody was let in."""
    hall, do = served.hall, served.do
    do(hall.to("checkin"))
    gate = Visitor(chromium, served, None)
    gate.go("/gate")
    gate.page.evaluate(NOTE, ["证件无法读取", "不在本场名单", "已核验过", "02 号机"])
    for step in (hall.unreadable(), hall.card(*STRANGER), hall.card(*CARDS[0]), hall.card(*CARDS[0]), hall.card(*PEOPLE[1][:2])):
        do(step)
        gate.page.wait_for_timeout(300)
    expect(gate.page.locator("#previous span").last).to_have_text("✕ 证件无法读取")
    expect(gate.page.locator("#previous span").nth(2)).to_have_text("✕ 不在本场名单 · 样*辛")
    gate.page.set_viewport_size(DESK)
    card, below = gate.page.locator("#gate .verdict").bounding_box(), gate.page.locator("#previous").bounding_box()
    assert card and below and card["y"] + card["height"] <= below["y"], "beside the large one, never over it"
    assert below["y"] + below["height"] <= DESK["height"], "and on the screen"
    expect(gate.page.locator("#previous")).to_be_hidden()
    seen = gate.page.evaluate("window.seen")
    assert all(seen[word] >= 3000 for word in ("证件无法读取", "不在本场名单", "已核验过")) and seen["02 号机"] is None, seen
    gate.close()


def test_u23_one_tone_for_a_card_in_three_seconds_and_none_in_the_exam(chromium: Browser, served: Served) -> None:
    hall, do = served.hall, served.do
    do(hall.to("checkin"))
    chief = Visitor(chromium, served, "T001")
    page = chief.page
    chief.go(f"/s/{SESSION}/checkin")
    page.evaluate("window.tones = []; window.Audio = function (url) { this.play = async () => { window.tones.push(url); }; }")
    do(hall.card(*CARDS[0]))
    expect(page.locator(".verdict.ok")).to_be_visible()
    do(hall.card(*CARDS[0]))                                        # the same card at once: seen, not heard
    expect(page.locator(".verdict.warn")).to_be_visible()
    do(hall.card(*CARDS[1]))                                        # another card has its own tone
    expect(page.locator(".verdict.bad")).to_be_visible()
    until(page, "window.tones.join() === '/static/sounds/ok.wav,/static/sounds/error.wav'")
    page.wait_for_timeout(3100)
    do(hall.card(*CARDS[0]))
    until(page, "window.tones.join() === '/static/sounds/ok.wav,/static/sounds/error.wav,/static/sounds/warn.wav'")
    do(hall.to("running"))
    expect(page.locator(".state")).to_have_text("考试中")
    page.evaluate("window.tones = []; window.Audio = function (url) { this.play = async () => { window.tones.push(url); }; }")
    do(hall.card(*CARDS[2]))
    expect(page.locator("#list")).to_contain_text("样*䶮")
    assert page.evaluate("window.tones.length") == 0
    chief.close()


def test_r8_a_class_signs_in_somebody_joins_and_the_sheet_fits_a4(chromium: Browser, served: Served) -> None:
    hall, do = served.hall, served.do
    do(plan_class(hall, 50, hall.clock.now().utc_us - 3 * 60 * US))
    do(hall.to("checkin"))
    for person in hall.room.rosters[SESSION].candidates[:30]:
        do(hall.card(person.name, person.number))
    chief = Visitor(chromium, served, "T001")
    page = chief.page
    chief.go(f"/s/{SESSION}/checkin")
    expect(page.locator(".state")).to_have_text("签到")
    do(hall.card(*CARDS[1]))
    expect(page.locator(".verdict.warn .says")).to_contain_text("不在本班名单")
    expect(page.locator("#strangers")).to_contain_text("样例辛 ****0099")
    page.locator("#strangers input[name=reason]").fill("补报名")
    do(hall.card("学员40", hall.room.rosters[SESSION].candidates[39].number))
    expect(page.locator("[data-count=admitted] dd")).to_have_text("31")
    assert page.locator("#strangers input[name=reason]").input_value() == "补报名", "the next card takes away nothing that was typed"
    chief.looks_right()
    page.locator("#strangers button").click()
    expect(page.locator("[data-count=added] dd")).to_have_text("1")
    for path, pages in (("sheet", 2), ("absent", 1)):
        chief.go(f"/s/{SESSION}/{path}")
        chief.looks_right()
        page.set_viewport_size(DESK)
        paper = page.pdf(prefer_css_page_size=True)
        boxes = re.findall(rb"/MediaBox \[0 0 ([0-9.]+) ([0-9.]+)\]", paper)
        assert len(boxes) == pages, path
        assert all(abs(float(w) - 595) < 2 and abs(float(h) - 842) < 2 for w, h in boxes), "A4 upright"
    chief.close()
