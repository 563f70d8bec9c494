"""The pages of exceptions: the check by hand, people to verify, seats and corrections, and who may see a picture of the door."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from edge.sessions import events as e
from tests.web.conftest import PEOPLE, PINS, SESSION
from tests.web.test_browser import Visitor, chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.web.conftest import Hall, Served

__all__ = ["chromium"]
FIRST, SECOND = (f"C-{number[-4:]}" for _, number, _ in PEOPLE[:2])
STRANGER = ("样例辛", "000000196603050099")
JPEG = b"\xff\xd8\xff\xe0 whoever stands at the door \xff\xd9"
BASE = f"/s/{SESSION}"


def held_back(hall: Hall, candidate_id: str) -> bool:
    admission = hall.room.state.sessions[SESSION].admitted.get(candidate_id)
    return admission is not None and admission.doubt is not None and admission.doubt.open


async def test_f2_from_the_tail_of_a_number_to_a_doubt(hall: Hall) -> None:
    hall.around.door_picture = JPEG
    await hall.to("checkin")
    async with hall.browser("T002") as proctor:
        asked = await proctor.get(f"{BASE}/manual")
        assert asked.status_code == 200 and "身份证号后6位" in asked.text
        assert "不在名单的证件" not in asked.text, "off the list is the chief's"
        found = await proctor.post(f"{BASE}/manual/find", data={"said": PEOPLE[1][1][-6:]})
        assert found.status_code == 303 and found.headers["location"] == f"{BASE}/manual?candidate={SECOND}"
        page = (await proctor.get(found.headers["location"])).text
        assert "样*乙" in page and "****0022" in page and PEOPLE[1][1] not in page and "样例乙" not in page
        assert (await proctor.get(f"{BASE}/door.jpg")).content == JPEG
        for none in ("", "OK", "E-LATE", "E-NOT-ON-ROSTER"):
            bare = await proctor.post(f"{BASE}/admit", data={"candidate": SECOND, "exception": none})
            assert bare.status_code == 422 and "请选择原因" in bare.text, "R5: nobody by hand without a reason that is one"
        done = await proctor.post(f"{BASE}/admit", data={"candidate": SECOND, "exception": "E-NO-CARD", "request_id": "r1"})
        assert done.status_code == 303 and done.headers["location"] == f"{BASE}/checkin" and held_back(hall, SECOND)
        await proctor.post(f"{BASE}/admit", data={"candidate": SECOND, "exception": "E-NO-CARD", "request_id": "r1"})
        assert sum(isinstance(r.event, e.CandidateAdmitted) for r in hall.room.events(SESSION)) == 1, "pressed twice is once"
        doors = (await proctor.get(f"{BASE}/checkin")).text
        assert "已入场，身份待核" in doors and "· 人工" in doors and "待核实 1" in doors


@pytest.mark.parametrize(("said", "word"), [("999999", "名单中没有这个号码"), ("0022", "名单中没有这个号码"), ("", "名单中没有这个号码")])
async def test_nobody_by_that_number_is_told_in_words(hall: Hall, said: str, word: str) -> None:
    await hall.to("checkin")
    async with hall.browser("T002") as proctor:
        answer = await proctor.post(f"{BASE}/manual/find", data={"said": said})
        assert answer.status_code == 404 and word in answer.text and (not said or said not in answer.text)


async def test_a_picture_of_the_door_is_for_the_sessions_staff_only(hall: Hall) -> None:
    hall.around.door_picture = JPEG
    await hall.to("checkin")
    await hall.room.admit_by_hand(SESSION, SECOND, "T002", "E-NO-CARD")
    fact = next(r.event for r in hall.room.events(SESSION) if isinstance(r.event, e.CandidateAdmitted))
    name = str(fact.photo).rsplit("/", 1)[1]
    async with hall.browser("T003") as proctor, hall.browser("A001") as auditor, hall.client() as nobody:
        shown = await proctor.get(f"{BASE}/photo/{name}")
        assert shown.content == JPEG and shown.headers["cache-control"] == "no-store"
        assert f"/photo/{name}" in (await proctor.get(f"{BASE}/doubts")).text
        for address in (f"{BASE}/photo/{name}", f"{BASE}/door.jpg"):
            assert (await auditor.get(address)).status_code == 403
            assert (await nobody.get(address)).status_code in (303, 401)
        for other in ("../../staff.json", "%2e%2e%2fstaff.json", "0" * 16 + ".jpg", "staff.json"):
            assert (await proctor.get(f"{BASE}/photo/{other}")).status_code in (403, 404)


async def test_two_sign_and_the_chief_settles(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.room.admit_by_hand(SESSION, SECOND, "T002", "E-CARD-UNREADABLE")
    settle = {"candidate": SECOND, "pin": PINS["T001"], "outcome": "cleared"}
    async with hall.browser("T001") as chief, hall.browser("T002") as proctor:
        assert (await proctor.post(f"{BASE}/settle-doubt", data=settle)).status_code == 403
        early = await chief.post(f"{BASE}/settle-doubt", data=settle)
        assert early.status_code == 409 and "两名不同的人先签字" in early.text
        wrong = await proctor.post(f"{BASE}/sign-doubt", data={"candidate": SECOND, "staff_id": "T002", "pin": PINS["T003"]})
        assert wrong.status_code == 403 and held_back(hall, SECOND)
        for staff in ("T002", "T003"):
            signed = await proctor.post(f"{BASE}/sign-doubt", data={"candidate": SECOND, "staff_id": staff, "pin": PINS[staff]})
            assert signed.headers["location"] == f"{BASE}/doubts"
        page = (await chief.get(f"{BASE}/doubts")).text
        assert "样例监考一" in page and "样例监考二" in page and "已签字 2/2" in page and "没有照片：摄像机没有新画面" in page
        assert (await chief.post(f"{BASE}/settle-doubt", data=settle)).status_code == 303
        assert not held_back(hall, SECOND) and "已核实" in (await chief.get(f"{BASE}/doubts")).text


async def test_off_the_list_is_the_chiefs_with_a_second_person(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.card(*STRANGER)
    async with hall.browser("T001") as chief, hall.browser("T002") as proctor:
        page = (await chief.get(f"{BASE}/manual")).text
        seq = re.search(r"stranger=(\d+)", page)
        assert seq and "样*辛" in page and "样例辛" not in page
        form = {"seq": seq[1], "pin": PINS["T001"], "second": "T002", "second_pin": PINS["T002"], "reason": "省厅补报"}
        assert (await proctor.post(f"{BASE}/off-roster", data=form)).status_code == 403
        for changed, status in (({"second": "T001", "second_pin": PINS["T001"]}, 422), ({"second_pin": "9999"}, 403),
                                ({"reason": " "}, 422), ({"seq": "x"}, 404)):
            assert (await chief.post(f"{BASE}/off-roster", data={**form, **changed})).status_code == status
        assert (await chief.post(f"{BASE}/off-roster", data=form)).status_code == 303
        assert f"OFF-{seq[1]}" in hall.room.state.sessions[SESSION].admitted
        people = (await chief.get(f"{BASE}/people")).text
        assert "名单外" in people and "样*辛" in people


async def test_everybody_is_on_the_list_of_people_and_the_groups_add_up(hall: Hall) -> None:
    """U5: the unassigned are always there."""
    await hall.to("checkin")
    await hall.card(PEOPLE[0][0], PEOPLE[0][1])
    async with hall.browser("T002") as proctor:
        page = (await proctor.get(f"{BASE}/people")).text
        assert page.count("查看</a>") == len(PEOPLE) and "▲ 未排座" in page
        assert not any(number in page for _, number, _ in PEOPLE)
        moved = await proctor.post(f"{BASE}/seat", data={"candidate": FIRST, "seat": "24", "reason": "01号机蓝屏"})
        assert moved.headers["location"] == f"{BASE}/people"
        taken = await proctor.post(f"{BASE}/seat", data={"candidate": SECOND, "seat": "24", "reason": "x"})
        assert taken.status_code == 409 and "座位" in taken.text
        person = (await proctor.get(f"{BASE}/person?candidate={FIRST}")).text
        assert "座位 01 → 24" in person and "01号机蓝屏" in person and "撤销入场" not in person, "corrections are the chief's"
        assert "→ 24 号" in (await proctor.get(f"{BASE}/checkin")).text, "the check-in list shows the move"


async def test_leaving_coming_back_and_correcting(hall: Hall) -> None:
    await hall.to("running")
    async with hall.browser("T002") as proctor:
        early = await proctor.post(f"{BASE}/left", data={"candidate": FIRST, "final": "no"})
        assert early.status_code == 409 and "30 分钟内" in early.text
    await hall.sim.pass_time(31 * 60)
    async with hall.browser("T001") as chief, hall.browser("T002") as proctor:
        assert (await proctor.post(f"{BASE}/left", data={"candidate": FIRST, "final": "no"})).status_code == 303
        assert "暂离" in (await proctor.get(f"{BASE}/people")).text
        assert (await proctor.post(f"{BASE}/returned", data={"candidate": FIRST})).status_code == 303
        doubted = await proctor.post(f"{BASE}/doubt", data={"candidate": FIRST, "reason": "与照片不像"})
        assert doubted.headers["location"] == f"{BASE}/doubts"
        form = {"candidate": FIRST, "pin": PINS["T001"], "result": "absent", "reason": "冒名"}
        assert (await proctor.post(f"{BASE}/correct", data=form)).status_code == 403
        assert (await chief.post(f"{BASE}/correct", data=form)).status_code == 303
        assert FIRST not in hall.room.state.sessions[SESSION].admitted
        person = (await chief.get(f"{BASE}/person?candidate={FIRST}")).text
        assert "更正：未到" in person and "冒名" in person and "与照片不像" in person, "what was written stays"
        assert (await chief.get(f"{BASE}/person?candidate=C-none")).status_code == 404


async def test_the_close_page_names_what_is_unresolved_and_the_seal_waits(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.room.admit_by_hand(SESSION, SECOND, "T002", "E-NO-CARD")
    await hall.to("closing")
    seal = {"pin": PINS["T001"], "second": "T002", "second_pin": PINS["T002"], "empty": "yes", "absences": "yes"}
    async with hall.browser("T001") as chief:
        page = (await chief.get(f"{BASE}/close")).text
        assert "先处理存疑" in page and "样*乙" in page
        barred = await chief.post(f"{BASE}/seal", data=seal)
        assert barred.status_code == 409 and "1 人存疑未处理" in barred.text
        handed_on = {"candidate": SECOND, "pin": PINS["T001"], "outcome": "escalated", "reason": "交省厅"}
        await chief.post(f"{BASE}/settle-doubt", data=handed_on)
        assert "已上报的存疑" in (await chief.get(f"{BASE}/close")).text
        assert (await chief.post(f"{BASE}/seal", data=seal)).status_code == 303


async def test_pages_of_a_session_that_is_not_there_yet_lead_on(hall: Hall) -> None:
    await hall.to("preflight")
    async with hall.browser("T001") as chief:
        for page in ("manual", "doubts", "people", f"person?candidate={FIRST}"):
            assert (await chief.get(f"{BASE}/{page}")).headers["location"] == f"{BASE}/preflight"
        await hall.to("closing")
        assert (await chief.get(f"{BASE}/manual")).headers["location"] == f"{BASE}/close"
        assert (await chief.get(f"{BASE}/people")).status_code == 200


def test_f2_with_the_keyboard_alone(chromium: Browser, served: Served) -> None:
    """From the check-in page to a cleared doubt without touching the mouse; each page fits at 200 % and axe finds nothing serious."""
    hall, do = served.hall, served.do
    do(hall.to("checkin"))
    do(hall.card(*STRANGER))
    visitor = Visitor(chromium, served, "T001")
    page, keys = visitor.page, visitor.page.keyboard
    visitor.go(f"{BASE}/checkin")
    keys.press("F2")
    expect(page.locator("#said")).to_be_focused()
    visitor.looks_right()
    page.locator("#said").focus()
    keys.type(PEOPLE[1][1][-6:])
    keys.press("Enter")
    expect(page.locator("#exception")).to_be_focused()
    visitor.looks_right()
    page.locator("#exception").focus()
    keys.press("ArrowDown")
    keys.press("Tab")
    keys.press("Tab")
    keys.press("Enter")
    expect(page.locator("#verdict")).to_contain_text("身份待核")
    assert held_back(hall, SECOND)
    visitor.looks_right()
    do(hall.card(*PEOPLE[0][:2]))
    visitor.go(f"{BASE}/doubts")
    do(hall.room.raise_doubt(SESSION, FIRST, "T003", "与照片不像"))
    expect(page.locator("#open-count")).to_contain_text("2")     # what others do is seen without reloading
    do(hall.room.sign_doubt(SESSION, FIRST, "T003", PINS["T003"]))
    do(hall.room.sign_doubt(SESSION, FIRST, "T002", PINS["T002"]))
    do(hall.room.settle_doubt(SESSION, FIRST, "T001", PINS["T001"], "cleared"))
    for staff in ("T002", "T003"):
        visitor.go(f"{BASE}/doubts")
        page.locator("#staff-1").focus()
        page.locator("#staff-1").select_option(staff)
        keys.press("Tab")
        keys.type(PINS[staff])
        keys.press("Enter")
        expect(page.locator("#doubt-1")).to_contain_text("已签字 1/2" if staff == "T002" else "已签字 2/2")
    visitor.looks_right()
    page.locator("#settle-pin-1").focus()
    keys.type(PINS["T001"])
    keys.press("Enter")                                         # not: escalate, which happens to be the first of the two
    page.wait_for_timeout(300)
    assert held_back(hall, SECOND)
    page.locator("button[value=cleared]").focus()
    keys.press("Enter")
    expect(page.locator("#doubt-1 h2, #doubt-2 h2").filter(has_text="样例乙")).to_contain_text("已核实")
    for address in (f"{BASE}/people", f"{BASE}/person?candidate={FIRST}", f"{BASE}/person?candidate={SECOND}"):
        visitor.go(address)
        visitor.looks_right()
    keys.press("Escape")
    expect(page.locator("#everybody")).to_be_visible()
    visitor.go(f"{BASE}/manual")
    page.locator("#strangers a.button").press("Enter")
    expect(page.locator("#second-pin")).to_be_visible()
    visitor.looks_right()
    page.goto("about:blank")            # an open page would follow the room by itself, at the same moment
    do(hall.to("closing"))
    visitor.go(f"{BASE}/close")
    visitor.looks_right()
    visitor.close()
