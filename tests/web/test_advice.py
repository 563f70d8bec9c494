"""Advice on faces on the staff's pages: beside the verdict it never changes, flagged until somebody acts, and on no public display."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING, Any

import pytest

from edge.sessions import events as e
from edge.sessions.roster import Code

if TYPE_CHECKING:
    from tests.web.conftest import Hall

SESSION = "S20261126-KD01-R01-01"
WHO, NUMBER, CANDIDATE = "样例甲", "000000199001010018", "C-0018"
OTHER, OTHERS_NUMBER = "样例乙", "000000198502150022"
SCORED: dict[str, Any] = {"score_x1000": 712, "model": "scripted-1", "threshold_x1000": 450, "review_x1000": 600, "source": "enrolment"}


async def advise(hall: Hall, result: str, candidate: str = CANDIDATE, **facts: Any) -> None:
    await hall.room.report(e.FaceCompared(at=hall.clock.now(), session=SESSION, candidate_id=candidate, result=result, **facts))


async def part(hall: Hall, path: str = f"/s/{SESSION}/checkin", staff: str = "T002", language: str = "") -> str:
    async with hall.browser(staff) as browser:
        if language:
            await browser.post("/language", data={"to": language, "back": "/"})
        answer = await browser.get(path)
        assert answer.status_code == 200
        return answer.text


def words(html: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())


async def test_r60_no_match_is_shown_beside_a_verdict_that_stands_and_is_flagged_for_the_staff(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.card(WHO, NUMBER)
    before = await part(hall)
    assert "data-face" not in before and "核验通过" in before
    await advise(hall, "no-match", **SCORED)
    html = await part(hall)
    verdict = html[html.index('id="verdict"'):html.index('id="numbers"')]
    assert 'class="verdict ok"' in html, "the verdict is as it was"
    assert "核验通过" in verdict and 'data-face="no-match"' in verdict and "人脸比对：不符，请人工核对" in verdict
    assert "差异 0.71，0.45 以内为相符" in words(verdict)
    flagged = html[html.index('id="numbers"'):html.index('id="list"')]
    assert 'data-faces="1"' in flagged and "样*甲 ****0018" in words(flagged) and "仅供参考" in flagged
    assert hall.room.last_verdict is not None and hall.room.last_verdict.code is Code.OK
    assert CANDIDATE in hall.room.state.sessions[SESSION].admitted
    assert NUMBER not in flagged and WHO not in flagged
    async with hall.browser("T002") as browser:         # where a doubt is raised
        assert (await browser.get(re.findall(r'href="([^"]+person[^"]+)"', flagged)[0])).status_code == 200


async def test_it_stays_flagged_when_the_next_person_has_come(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.card(WHO, NUMBER)
    await advise(hall, "review", **SCORED | {"score_x1000": 500})
    await hall.card(OTHER, OTHERS_NUMBER)
    html = await part(hall)
    verdict = html[html.index('id="verdict"'):html.index('id="numbers"')]
    assert "data-face" not in verdict, "nothing is known of the one who stands there now"
    assert 'data-faces="1"' in html and "不确定" in html
    await hall.room.start_exam(SESSION, "T001", 2000)
    assert 'data-faces="1"' in await part(hall, f"/s/{SESSION}/run")


@pytest.mark.parametrize(("result", "says"), [("match", "人脸比对：相符"), ("not-compared", "人脸未比对 · 无报名照片")])
async def test_what_asks_for_nothing_is_only_shown(hall: Hall, result: str, says: str) -> None:
    await hall.to("checkin")
    await hall.card(WHO, NUMBER)
    await advise(hall, result, **({"reason": "no-photo"} if result == "not-compared" else SCORED))
    html = await part(hall)
    assert says in words(html) and "data-faces" not in html


async def test_who_is_in_doubt_already_is_on_the_list_of_doubts(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.card(WHO, NUMBER)
    await advise(hall, "no-match", **SCORED)
    await hall.room.report(e.IdentityDoubted(at=hall.clock.now(), session=SESSION, candidate_id=CANDIDATE, code="E-PHOTO-DOUBT",
                                             by="T002", reason="与照片不符"))
    assert "data-faces" not in await part(hall)


async def test_in_english_too(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.card(WHO, NUMBER)
    await advise(hall, "no-match", **SCORED)
    said = words(await part(hall, language="en"))
    for words_of_it in ("Face: no match – please compare yourself", "distance 0.71, match up to 0.45", "Faces to look at: 1"):
        assert words_of_it in said


async def test_the_entrance_display_says_nothing_of_faces(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.card(WHO, NUMBER)
    await advise(hall, "no-match", **SCORED)
    async with hall.client() as anybody:
        html = (await anybody.get("/gate")).text
    assert "核验通过" in html and "人脸" not in html and "data-face" not in html and "0.71" not in html


async def test_the_page_is_told_when_advice_comes(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.card(WHO, NUMBER)
    waker, version = hall.room.changed(), hall.room.version
    waker.clear()
    await advise(hall, "match", **SCORED)
    assert waker.is_set() and hall.room.version > version, "the news are sent at each change of the version"
