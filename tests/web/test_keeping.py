"""The page of what is kept: what an auditor sees, holds, lengthens and agrees to; who may only look; no person on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge.clock import US
from edge.sessions import events as e
from edge.sessions.machine import Session

if TYPE_CHECKING:
    from tests.web.conftest import Hall

SESSION = "S20261126-KD01-R01-01"


@pytest.fixture
async def sealed(hall: Hall) -> Hall:
    """A sealed and accepted session; the auditor has a PIN."""
    hall.room.staff.add("A001", "样例审计", "auditor", "auditor-password", "2001")
    await hall.to("sealed")
    await hall.receipt()
    return hall


async def test_an_auditor_holds_lengthens_and_releases(sealed: Hall) -> None:
    def session() -> Session:
        return sealed.room.state.sessions[SESSION]

    async with sealed.browser("A001") as client:
        assert "没有正在保全的场次" in (await client.get("/keeping")).text
        page = await client.get(f"/keeping/{SESSION}")
        assert page.status_code == 200 and "2033-05-25" in page.text and 'name="hold_id"' not in page.text
        wrong = await client.post(f"/keeping/{SESSION}/hold", data={"pin": "0000", "reason": "诉讼保全"})
        assert wrong.status_code == 403 and not session().holds
        silent = await client.post(f"/keeping/{SESSION}/hold", data={"pin": "2001", "reason": " "})
        assert silent.status_code == 422 and not session().holds
        twice = {"pin": "2001", "reason": "诉讼保全", "request_id": "a" * 32}
        for _ in range(2):
            assert (await client.post(f"/keeping/{SESSION}/hold", data=twice)).headers["location"] == f"/keeping/{SESSION}"
        [hold] = session().holds.values()
        assert (hold.by, hold.reason) == ("A001", "诉讼保全"), "pressed twice, placed once"
        for path in ("/keeping", f"/keeping/{SESSION}"):
            assert hold.hold_id in (await client.get(path)).text
        assert "保全中" in (await client.get(f"/archive/{SESSION}")).text
        shorter = await client.post(f"/keeping/{SESSION}/lengthen", data={"pin": "2001", "reason": "r", "keep_until": "2030-01-01"})
        assert shorter.status_code == 422 and "只能延长" in shorter.text and session().kept_until == "2033-05-25"
        await client.post(f"/keeping/{SESSION}/lengthen", data={"pin": "2001", "reason": "发证日期", "keep_until": "2034-01-01"})
        assert session().kept_until == "2034-01-01"
        await client.post(f"/keeping/{SESSION}/release", data={"pin": "2001", "reason": "撤销", "hold_id": hold.hold_id})
        assert not session().holds
        gone = await client.post(f"/keeping/{SESSION}/release", data={"pin": "2001", "reason": "撤销", "hold_id": hold.hold_id})
        assert gone.status_code == 404


async def test_consent_is_to_what_was_shown_and_nothing_else(sealed: Hall) -> None:
    sealed.sim.step_wall(7 * 365 * 86400 * US)
    await sealed.room.report(e.ReceiptVerified(
        at=sealed.clock.now(), session=SESSION, answers="session-open", digest="0" * 64, receipt_sha256="e" * 64, verdict="accepted",
        platform_seq=2, received_utc_us=sealed.clock.now().utc_us))
    assert sealed.desk.keeping is not None
    digest = (await sealed.desk.keeping.shown(30))["due"]["digest"]
    async with sealed.browser("A001") as client:
        page = await client.get("/keeping")
        assert "需要您的同意" in page.text and digest in page.text and SESSION in page.text
        stale = await client.post("/keeping/approve", data={"digest": "0" * 64, "pin": "2001"})
        assert stale.status_code == 409 and not sealed.room.state.approved
        assert (await client.post("/keeping/approve", data={"digest": digest, "pin": "2001"})).headers["location"] == "/keeping"
        assert dict(sealed.room.state.approved) == {SESSION: "A001"}
        assert "已同意" in (await client.get("/keeping")).text


async def test_a_system_administrator_looks_and_signs_nothing(sealed: Hall) -> None:
    async with sealed.browser("Y001") as client:
        page = await client.get("/keeping")
        assert page.status_code == 200 and "存储空间" in page.text and f"/keeping/{SESSION}" not in page.text
        assert (await client.get(f"/keeping/{SESSION}")).status_code == 403
        assert (await client.post(f"/keeping/{SESSION}/hold", data={"pin": "2001", "reason": "x"})).status_code == 403


@pytest.mark.parametrize("language", ["zh-CN", "en"])
async def test_every_word_of_the_page_in_both_languages_and_no_person(sealed: Hall, language: str) -> None:
    await sealed.room.report(e.DisposalHalted(at=sealed.clock.now(), reason="files-missing", sessions=1, bytes=1))
    await sealed.room.place_hold(SESSION, "A001", "2001", "r")
    async with sealed.browser("A001") as client:
        await client.post("/language", data={"to": language, "back": "/keeping"})
        for path in ("/keeping", f"/keeping/{SESSION}"):
            text = (await client.get(path)).text
            assert ("keeping." not in text and "keeping-" not in text.replace("/keeping-", "")), "a key without its words"
            with sealed.database.read() as connection:
                people = [(row["name"], row["number"]) for row in connection.execute("SELECT name, number FROM person")]
            assert people and not any(name in text or number in text for name, number in people)
