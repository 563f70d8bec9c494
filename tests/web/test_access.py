"""Who may open what: every route of the app against every kind of person, the cookie, the origin of posts, log-in and its end."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from fastapi.routing import APIRoute

from edge.clock import US, SimClock
from edge.sessions import events as e
from edge.storage.database import Database
from edge.storage.logins import Logins
from edge.web.access import PUBLIC, RULES, safe_next
from edge.web.browser import HEADERS, POLICY

if TYPE_CHECKING:
    from tests.web.conftest import Hall

SESSION = "S20261126-KD01-R01-01"
PEOPLE = {"nobody": None, "chief": "T001", "proctor": "T002", "outsider": "T009", "auditor": "A001", "sysadmin": "Y001"}
ROLES: dict[str, set[str]] = {
    "nobody": {"public"}, "chief": {"public", "any", "staff", "chief", "duty"}, "proctor": {"public", "any", "staff", "proctor", "duty"},
    "outsider": {"public", "any", "staff"}, "auditor": {"public", "any", "auditor"}, "sysadmin": {"public", "any", "sysadmin"}}
OUTSIDER_PASSWORD = "outsider-password"
FILL = {"session_id": SESSION, "stream": "front", "seq": "1", "topic": "room", "name": "app.css",
        "ticket": "0" * 32}
STREAMS = ("/news/{topic}", "/gate/live")           # endless answers: asked for in test_live


def routes(hall: Hall) -> list[tuple[str, str]]:
    return [(method, route.path) for route in hall.app.routes if isinstance(route, APIRoute) for method in route.methods or ()]


def test_every_route_has_a_rule_and_every_rule_a_route(hall: Hall) -> None:
    assert all(isinstance(route, APIRoute) for route in hall.app.routes), "a route that the guard does not see"
    assert set(routes(hall)) == set(RULES)
    assert {path for (method, path), roles in RULES.items() if PUBLIC in roles} == {
        "/static/{name:path}", "/login", "/language", "/gate", "/gate/live"}


async def test_a_route_without_a_rule_is_closed_to_everybody(hall: Hall) -> None:
    hall.app.get("/forgotten")(lambda: "open")
    async with hall.client() as nobody, hall.browser("A001") as auditor:
        assert (await nobody.get("/forgotten")).status_code == 303
        assert (await auditor.get("/forgotten")).status_code == 403


@pytest.mark.parametrize("person", PEOPLE)
async def test_every_route_for_every_kind_of_person(hall: Hall, person: str) -> None:
    """What the table says is what happens: refused with 401, 403 or a way to the log-in; else the handler's own answer."""
    await hall.to("checkin")
    hall.room.staff.add("T009", "样例局外", "staff", OUTSIDER_PASSWORD, None)
    staff_id = PEOPLE[person]
    async with hall.browser(staff_id, OUTSIDER_PASSWORD if staff_id == "T009" else "") if staff_id else hall.client() as client:
        for (method, path), allowed in RULES.items():
            if path in STREAMS or path in ("/logout", "/login"):
                continue
            address = re.sub(r"\{(\w+)(:path)?\}", lambda found: FILL[found[1]], path)
            answer = await client.request(method, address, data={"x": "y"} if method == "POST" else None)
            by_guard = "没有权限打开" in answer.text or "请先登录" in answer.text or answer.headers.get("location", "").startswith("/login")
            assert by_guard is not bool(allowed & ROLES[person]), (person, method, path, answer.status_code)
            assert answer.status_code in ((303, 401, 403) if by_guard else (200, 204, 303, 404, 403, 409, 422, 429)), (method, path)


async def test_a_plan_makes_nobody_an_auditor(hall: Hall) -> None:
    """Of the roles in a plan only chief and proctor count here."""
    await hall.plan()
    plan = hall.room.state.sessions[SESSION].plan
    await hall.room.plan(e.SessionPlanned(**{**{f: getattr(plan, f) for f in plan.__dataclass_fields__}, "plan_sha256": "00" * 32,
                                             "staff": {"T003": "auditor", "T001": "chief"}}), "{}")
    async with hall.browser("T003") as client:
        assert (await client.get(f"/archive/{SESSION}")).status_code == 403
        assert (await client.get(f"/media/{SESSION}/front.m3u8")).status_code == 403


async def test_log_in_says_no_more_than_wrong(hall: Hall) -> None:
    async with hall.client() as client:
        wrong = await client.post("/login", data={"staff_id": "T001", "password": "not it at all"})
        unknown = await client.post("/login", data={"staff_id": "T777", "password": "not it at all"})
        assert wrong.status_code == unknown.status_code == 401
        assert "工号或密码不正确" in wrong.text and 'value="T001"' in wrong.text and "not it at all" not in wrong.text
        assert wrong.text.replace("T001", "T777") == unknown.text


async def test_many_wrong_tries_are_slowed_and_never_locked(hall: Hall) -> None:
    async with hall.client() as client:
        for _ in range(5):
            assert (await client.post("/login", data={"staff_id": "T001", "password": "wrong"})).status_code == 401
        slowed = await client.post("/login", data={"staff_id": "T001", "password": "chief-password"})
        assert slowed.status_code == 429 and "请等待 1 秒" in slowed.text
        await hall.sim.pass_time(2)
        assert (await client.post("/login", data={"staff_id": "T001", "password": "chief-password"})).status_code == 303


async def test_log_in_leads_back_and_only_within_the_room(hall: Hall) -> None:
    async with hall.client() as client:
        asked = await client.get("/archive?q=x")
        assert asked.headers["location"] == "/login?next=%2Farchive%3Fq%3Dx"
        assert 'name="next" value="/archive?q=x"' in (await client.get(asked.headers["location"])).text
        for evil in ("//evil.example/", "https://evil.example/", "/\\evil.example", "/a\nb"):
            assert safe_next(evil) == "/"
            answer = await client.post("/login", data={"staff_id": "A001", "password": "auditor-password", "next": evil})
            assert answer.headers["location"] == "/"


async def test_the_cookie_is_out_of_reach_and_new_at_each_log_in(hall: Hall) -> None:
    async with hall.client() as client:
        first = await client.post("/login", data={"staff_id": "A001", "password": "auditor-password"})
        cookie = first.headers["set-cookie"].lower()
        assert cookie.startswith("edge=") and "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie
        assert "secure" not in cookie
        token = client.cookies["edge"]
        await client.post("/login", data={"staff_id": "A001", "password": "auditor-password"})
        assert client.cookies["edge"] != token
        assert (await client.get("/archive", headers={"cookie": f"edge={token}"})).status_code == 303, "the old one has ended"
    transport = httpx.ASGITransport(hall.app)
    async with httpx.AsyncClient(transport=transport, base_url="https://127.0.0.1", headers={"Origin": "https://127.0.0.1"}) as secure:
        answer = await secure.post("/login", data={"staff_id": "A001", "password": "auditor-password"})
        assert answer.headers["set-cookie"].startswith("__Host-edge=") and "secure" in answer.headers["set-cookie"].lower()
        assert (await secure.get("/archive")).status_code == 200


async def test_log_out_ends_it(hall: Hall) -> None:
    async with hall.browser("A001") as client:
        token = client.cookies["edge"]
        assert (await client.post("/logout", data={"x": "y"})).headers["location"] == "/login"
        assert (await client.get("/", headers={"cookie": f"edge={token}"})).headers["location"].startswith("/login")


async def test_somebody_taken_off_the_staff_is_out_at_once(hall: Hall) -> None:
    async with hall.browser("A001") as client:
        assert (await client.get("/archive")).status_code == 200
        hall.room.staff.remove("A001")
        assert (await client.get("/archive")).status_code == 303


@pytest.mark.parametrize(("headers", "passes"), [
    ({"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}, True),
    ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, True),
    ({"Origin": "http://127.0.0.1"}, True),
    ({"Sec-Fetch-Site": "same-origin"}, True),
    ({}, False),
    ({"Origin": "null"}, False),
    ({"Origin": "http://evil.example"}, False),
    ({"Origin": "http://127.0.0.1:81"}, False),
    ({"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}, False),
    ({"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "cross-site"}, False),
    ({"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-site"}, False),
    ({"Sec-Fetch-Site": "none"}, False),
])
async def test_a_post_must_come_from_our_own_page(hall: Hall, headers: dict[str, str], passes: bool) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(hall.app), base_url="http://127.0.0.1", headers=headers) as client:
        answer = await client.post("/login", data={"staff_id": "A001", "password": "auditor-password"})
        assert answer.status_code == (303 if passes else 403)
        assert ("edge" in client.cookies) is passes


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "127.0.0.1@evil.example", "[", "evil.example:80"])
async def test_only_the_rooms_own_names_are_served(hall: Hall, host: str) -> None:
    async with hall.client() as client:
        answer = await client.get("/login", headers={"Host": host})
        assert answer.status_code == 400 and "not one of the room's" in answer.text
        assert (await client.get("/login", headers={"Host": "LOCALHOST:8080"})).status_code == 200
        assert (await client.get("/login", headers={"Host": "[::1]:8080"})).status_code == 200


async def test_a_body_is_small_and_says_its_length(hall: Hall) -> None:
    async with hall.client() as client:
        assert (await client.post("/login", data={"staff_id": "x" * 70_000})).status_code == 413

        async def pieces() -> AsyncIterator[bytes]:
            yield b"staff_id=A001"

        assert (await client.post("/login", content=pieces())).status_code == 411


@pytest.mark.parametrize("path", ["/login", "/static/app.js", "/nowhere", "/gate", "/archive", f"/media/{SESSION}/front.m3u8"])
async def test_every_answer_carries_the_headers(hall: Hall, path: str) -> None:
    async with hall.client() as client:
        answer = await client.get(path)
        for name, value in HEADERS.items():
            assert answer.headers[name] == value
        assert answer.headers["Cache-Control"] == ("no-cache" if path.startswith("/static") else "no-store")
    assert "default-src 'self'" in POLICY and "unsafe" not in POLICY and "frame-ancestors 'none'" in POLICY


async def test_no_documentation_and_no_trace_of_a_defect(hall: Hall) -> None:
    transport = httpx.ASGITransport(hall.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for path in ("/docs", "/redoc", "/openapi.json"):
            assert (await client.get(path)).status_code == 404
    hall.reports.clear()                            # what looks at the evidence breaks
    async with hall.browser("A001") as auditor:
        await hall.to("checkin")
        auditor._transport = transport
        answer = await auditor.post(f"/archive/{SESSION}/verify", data={"x": "y"})
        assert answer.status_code == 500 and "录像不受影响" in answer.text and "IndexError" not in answer.text
        assert answer.headers["Content-Security-Policy"] == POLICY


# ---- the log-ins' own rules -----------------------------------------------------------------------------------------------

async def test_a_log_in_ends_after_half_an_hour_of_rest_and_after_twelve_hours(tmp_path: Path) -> None:
    clock, database = SimClock(), Database(tmp_path / "state" / "edge.db", ballast=False)
    logins = Logins(database, clock)
    idle = await logins.create("T001")
    await clock.pass_time(29 * 60)
    assert await logins.find(idle) == "T001"
    await clock.pass_time(29 * 60)
    assert await logins.find(idle) == "T001", "use keeps it"
    await clock.pass_time(30 * 60 + 1)
    assert await logins.find(idle) is None
    busy = await logins.create("T001")
    for _ in range(12 * 3):
        await clock.pass_time(20 * 60)
        assert await logins.find(busy) == "T001"
    await clock.pass_time(60)
    assert await logins.find(busy) is None
    database.close()


async def test_a_log_in_survives_a_restart_and_is_stored_as_a_digest(tmp_path: Path) -> None:
    clock, database = SimClock(), Database(tmp_path / "state" / "edge.db", ballast=False)
    token = await Logins(database, clock).create("T001")
    other = await Logins(database, clock).create("T001")
    assert token != other and len(token) >= 43
    with database.read() as connection:
        stored = str([tuple(row) for row in connection.execute("SELECT * FROM login")])
    assert token not in stored and "T001" in stored
    database.close()
    clock.reboot("sim-boot-2", 60 * US)
    database = Database(tmp_path / "state" / "edge.db", ballast=False)
    logins = Logins(database, clock)
    assert await logins.find(token) == "T001" and await logins.find("") is None and await logins.find("\udcff") is None
    await logins.drop(token)
    assert await logins.find(token) is None and await logins.find(other) == "T001"
    clock.step_wall(-3600 * US)
    assert await logins.find(other) == "T001", "a clock set back makes nobody older"
    database.close()
