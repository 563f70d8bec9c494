"""The page of incidents: recorded by one, signed by two with the candidate told, dismissed by the chief; sealed only when none is open."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from edge.clock import US
from edge.room import Refusal
from edge.sessions import events as e
from tests.web.conftest import PEOPLE, PINS, SESSION
from tests.web.test_browser import Visitor, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.web.conftest import Hall, Served

__all__ = ["chromium"]
FIRST = f"C-{PEOPLE[0][1][-4:]}"
BASE = f"/s/{SESSION}"
BREACH = {"code": "V1-03", "candidate": FIRST, "detail": "与邻座交头接耳"}
BOTH = {"number": "1", "staff_id": "T002", "pin": PINS["T002"], "second": "T003", "second_pin": PINS["T003"], "informed": "refused"}


def recorded(hall: Hall) -> list[e.Event]:
    return [r.event for r in hall.room.events(SESSION) if isinstance(r.event, e.IncidentReported | e.IncidentSettled)]


async def test_a_breach_from_the_record_to_the_seal(hall: Hall) -> None:
    """R36: one signature does not do, a refusal by the candidate is valid; until then nothing is sealed."""
    await hall.to("running")
    async with hall.browser("T002") as proctor, hall.browser("T001") as chief:
        assert f'href="{BASE}/incidents"' in (await proctor.get(f"{BASE}/run")).text
        form = (await proctor.get(f"{BASE}/incidents")).text
        assert "V1-03 交头接耳" in form and "01 · 样*甲" in form and "样例甲" not in form
        done = await proctor.post(f"{BASE}/incident", data={**BREACH, "request_id": "one"})
        assert done.status_code == 303 and done.headers["location"] == f"{BASE}/incidents"
        await proctor.post(f"{BASE}/incident", data={**BREACH, "request_id": "one"})
        assert len(recorded(hall)) == 1, "pressed twice is once"
        assert "▲ 待签字" in (await chief.get(f"{BASE}/incidents")).text
        await hall.to("closing")
        assert "待签字 1 件" in (await chief.get(f"{BASE}/close")).text
        seal = {"pin": PINS["T001"], "second": "T002", "second_pin": PINS["T002"], "empty": "yes", "absences": "yes"}
        refused = await chief.post(f"{BASE}/seal", data=seal)
        assert refused.status_code == 409 and "还有 1 件违纪事件没有签字" in refused.text
        for changed, status in (({"second": "T002", "second_pin": PINS["T002"]}, 422), ({"second_pin": "9999"}, 403),
                                ({"informed": ""}, 422), ({"number": "2"}, 404), ({"number": "x"}, 404), ({"second": "A001"}, 403)):
            assert (await proctor.post(f"{BASE}/confirm-incident", data={**BOTH, **changed})).status_code == status, changed
        assert len(recorded(hall)) == 1
        assert (await proctor.post(f"{BASE}/confirm-incident", data=BOTH)).status_code == 303
        shown = (await chief.get(f"{BASE}/incidents")).text
        assert "已确认" in shown and "签字：样例监考一、样例监考二 · 拒绝签字" in shown
        again = await proctor.post(f"{BASE}/confirm-incident", data=BOTH)
        assert again.status_code == 409 and "已经办结" in again.text
        assert (await chief.post(f"{BASE}/seal", data=seal)).status_code == 303
        assert (await proctor.post(f"{BASE}/incident", data={**BREACH, "request_id": "two"})).status_code == 409, "the books are closed"


async def test_a_mistake_is_the_chiefs_to_dismiss_and_stays(hall: Hall) -> None:
    await hall.to("running")
    async with hall.browser("T002") as proctor, hall.browser("T001") as chief:
        await proctor.post(f"{BASE}/incident", data=BREACH)
        word = {"number": "1", "pin": PINS["T001"], "reason": "看错人"}
        assert (await proctor.post(f"{BASE}/dismiss-incident", data=word)).status_code == 403
        assert (await chief.post(f"{BASE}/dismiss-incident", data={**word, "reason": " "})).status_code == 422
        assert (await chief.post(f"{BASE}/dismiss-incident", data={**word, "pin": "0000"})).status_code == 403
        assert (await chief.post(f"{BASE}/dismiss-incident", data=word)).status_code == 303
        shown = (await proctor.get(f"{BASE}/incidents")).text
        assert "已撤销" in shown and "看错人" in shown and "与邻座交头接耳" in shown, "nothing is taken away"
        assert hall.room.state.sessions[SESSION].open_incidents == ()


@pytest.mark.parametrize(("changed", "status", "words"), [
    ({"code": ""}, 422, "没有选择类别"), ({"code": "V9-01"}, 422, "没有选择类别"), ({"detail": "  "}, 422, ""),
    ({"candidate": "C-9999"}, 404, ""), ({"at": "25:00"}, 422, "不在本场考试之内"), ({"at": "soon"}, 422, "不在本场考试之内"),
    ({"at": "03:00"}, 422, "不在本场考试之内"),
])
async def test_what_cannot_be_is_refused_in_words_and_nothing_is_lost(hall: Hall, changed: dict[str, str], status: int, words: str) -> None:
    await hall.to("running")
    async with hall.browser("T002") as proctor:
        answer = await proctor.post(f"{BASE}/incident", data={**BREACH, **changed}, headers={"HX-Request": "true"})
        assert answer.status_code == status and words in answer.text and recorded(hall) == []


async def test_it_is_said_when_it_happened_not_when_it_was_written(hall: Hall) -> None:
    await hall.to("running")
    begun = hall.clock.now().utc_us
    await hall.sim.pass_time(600)
    async with hall.browser("T002") as proctor:
        await proctor.post(f"{BASE}/incident", data={"code": "T-04", "detail": "断电一分钟", "at": "14:03"})
    [fact] = recorded(hall)
    assert isinstance(fact, e.IncidentReported) and fact.happened_utc_us == begun + 180 * US and fact.candidate_id is None
    with pytest.raises(Refusal, match="incident-time"):
        await hall.room.report_incident(SESSION, "T002", "T-04", "x", happened_utc_us=hall.clock.now().utc_us + 1)
    assert hall.room.state.sessions[SESSION].open_incidents == (), "a technical fault waits for nobody"


async def test_before_the_doors_open_there_is_nothing_to_record(hall: Hall) -> None:
    await hall.to("preflight")
    async with hall.browser("T002") as proctor:
        assert (await proctor.get(f"{BASE}/incidents")).headers["location"] == f"{BASE}/preflight"
        assert (await proctor.post(f"{BASE}/incident", data=BREACH)).status_code in (404, 409)
    assert recorded(hall) == []


async def test_the_dossier_tells_incidents_with_whole_names_and_hides_numbers(hall: Hall) -> None:
    await hall.to("running")
    await hall.room.report_incident(SESSION, "T002", "V2-04", f"用手机 {PEOPLE[0][1]}", FIRST)
    await hall.room.confirm_incident(SESSION, 1, "T002", PINS["T002"], "T001", PINS["T001"], "signed")
    await hall.room.of_the_box(e.StreamLost(at=hall.clock.now(), stream="front", reason="no-answer"))
    await hall.to("sealed")
    async with hall.browser("A001") as auditor:
        text = (await auditor.get(f"/archive/{SESSION}/dossier")).text
        assert "异常事件 V2-04 使用通讯工具 · 1 样例甲" in text and PEOPLE[0][1] not in text
        assert "两人签字确认 · 1" in text and "样例监考一、样例主考 · 已告知考生，考生 已签字" in text
        found = (await auditor.get(f"/archive/{SESSION}")).status_code
        assert found == 200


async def test_the_signed_sheet_bears_the_digest_of_the_announcement(hall: Hall) -> None:
    """A session that is opened offline and wiped leaves this on paper."""
    await hall.to("checkin")
    async with hall.browser("T002") as proctor:
        assert "开场声明" not in (await proctor.get(f"{BASE}/sheet")).text
        await hall.room.report(e.OpenSigned(at=hall.clock.now(), session=SESSION, digest="ab" * 32))
        assert "ab" * 32 in (await proctor.get(f"{BASE}/sheet")).text


def test_by_keyboard_in_a_browser_f4_records_and_two_sign(served: Served, chromium: Browser) -> None:
    served.do(served.hall.to("running"))
    visitor = Visitor(chromium, served, "T001")
    page = visitor.page
    visitor.go(f"{BASE}/run")
    page.keyboard.press("F4")
    page.wait_for_url(f"**{BASE}/incidents")
    page.get_by_label("类别").select_option("V1-03")
    page.get_by_label("涉及考生").select_option(FIRST)
    page.get_by_label("经过").fill("与邻座交头接耳")
    visitor.looks_right()
    page.get_by_role("button", name="记录", exact=True).click()
    expect(page.locator("section.incident")).to_have_count(1)
    visitor.looks_right()
    page.get_by_label("拒绝签字").check()
    page.fill("#first-pin-1", PINS["T001"])
    page.fill("#second-pin-1", "0000")
    page.get_by_role("button", name="两人签字确认").click()
    expect(page.locator("section.incident .said").first).to_contain_text("签名码")
    assert page.get_by_label("拒绝签字").is_checked(), "what was given is still there"
    page.fill("#second-pin-1", PINS["T002"])
    page.get_by_role("button", name="两人签字确认").click()
    expect(page.locator("section.incident h2")).to_contain_text("已确认")
