"""A roster from a file, by the pages and the local socket: looking writes nothing, taking needs two, only what was shown is taken."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn

from edge.__main__ import main
from edge.evidence import manifest
from edge.evidence.bundle import Report
from edge.evidence.chain import link
from edge.room import Room
from edge.sessions import events as e
from edge.sessions.differences import compare
from edge.sessions.machine import IllegalStep
from edge.sessions.preflight import Light
from edge.storage.journal import Journal
from edge.web.browser import MOST_UPLOAD_BYTES
from edge.web.imports import read_file
from edge.web.local import build_local

if TYPE_CHECKING:
    from tests.web.conftest import Hall

SESSION = "S20261126-KD01-R01-01"
HEAD = "姓名,证件号码,准考证号,座位号,人员类别"
JIA, YI, BING = ("样例甲,000000199001010018,A001,01,特种作业人员", "样例乙,000000198502150022,A002,02,一般从业人员",
                 "样例丙,000000199206300035,A003,03,一般从业人员")
NUMBERS = ("000000199001010018", "000000198502150022", "000000199206300035")
SIGNED = {"pin": "1001", "second": "T002", "second_pin": "1002", "reason": "平台断网，名单由报名系统导出"}


def file_of(*rows: str) -> bytes:
    return "\n".join([HEAD, *rows]).encode()


@pytest.fixture
async def door(hall: Hall) -> Hall:
    """A planned session that has no list yet, in a room that takes demo numbers."""
    hall.room.rules = replace(hall.room.rules, allow_demo_ids=True)
    await hall.plan()
    return hall


async def send(client: httpx.AsyncClient, data: bytes, name: str = "list.csv") -> httpx.Response:
    return await client.post(f"/s/{SESSION}/import", files={"file": (name, data)})


def digest_of(page: httpx.Response) -> str:
    assert page.status_code == 200, page.text
    return page.text.partition('name="digest" value="')[2].partition('"')[0]


async def confirm(client: httpx.AsyncClient, digest: str, **changed: str) -> httpx.Response:
    return await client.post(f"/s/{SESSION}/import/confirm", data={"digest": digest, **SIGNED, **changed})


def facts(hall: Hall) -> list[e.RosterAccepted]:
    return [r.event for r in hall.room.events(SESSION) if isinstance(r.event, e.RosterAccepted)]


async def test_r5_a_list_is_shown_first_and_taken_when_two_have_signed(door: Hall) -> None:
    room = door.room
    async with door.browser("T001") as chief:
        assert f'href="/s/{SESSION}/import"' in (await chief.get(f"/s/{SESSION}/preflight")).text
        shown = await send(chief, file_of(JIA, YI))
        assert "新增 2，移除 0，变更 0" in shown.text and "样*甲" in shown.text and "****0018" in shown.text
        assert not any(number in shown.text for number in NUMBERS) and "样例甲" not in shown.text
        assert facts(door) == [] and SESSION not in room.rosters, "looking writes nothing"
        taken = await confirm(chief, digest_of(shown))
        assert taken.status_code == 303 and taken.headers["location"] == f"/s/{SESSION}/preflight"
        assert "导入的名单，2 人" in (await chief.get(f"/s/{SESSION}/preflight")).text
    (fact,) = facts(door)
    assert (fact.source, fact.count, fact.version, fact.by, fact.second, fact.reason) == ("import", 2, 1, "T001", "T002", SIGNED["reason"])
    assert fact.added is fact.removed is fact.changed is None
    item = next(i for i in room.preflight(SESSION).items if i.key == "roster")
    assert (item.light, item.word) == (Light.AMBER, "roster-import")
    people = {p.name: p for p in room.catalog.people(SESSION)}
    assert people["样例甲"].person_category == "SPECIAL" and people["样例乙"].seat == "02"
    assert people["样例甲"].candidate_id == f"I-{room.subject(NUMBERS[0])[:16]}"
    body = json.dumps(e.encode(fact), ensure_ascii=False)
    assert not any(number in body for number in NUMBERS) and "样例甲" not in body


async def test_r5_an_imported_list_says_so_in_what_is_signed(door: Hall) -> None:
    async with door.browser("T001") as chief:
        await confirm(chief, digest_of(await send(chief, file_of(JIA, YI))))
    await door.to("checkin")
    room = manifest.RoomFacts("KD01", "000000-KD01-R01", "E1", "0" * 64, "0", "0" * 64, "0" * 64, "b", "room-1", True)
    document = manifest.session_open(door.room.events(SESSION), room)
    assert document["roster"]["source"] == "import" and document["roster"]["sha256"] == facts(door)[0].roster_sha256
    assert document["preflight"]["roster"] == "amber"


async def test_a_second_import_shows_who_comes_goes_and_changes(door: Hall) -> None:
    async with door.browser("T001") as chief:
        await confirm(chief, digest_of(await send(chief, file_of(JIA, YI))))
        before = {c.number: c.candidate_id for c in door.room.rosters[SESSION].candidates}
        moved = JIA.replace(",01,", ",07,").replace("样例甲", "样例假")
        shown = await send(chief, file_of(moved, BING))
        assert "新增 1，移除 1，变更 1，不变 0" in shown.text
        assert "座位号 01 → 07" in shown.text and "姓名 样*甲 → 样*假" in shown.text
        await confirm(chief, digest_of(shown))
        again = await send(chief, file_of(moved, BING))
        assert "现有名单与此文件相同" in again.text and "import/confirm" not in again.text
    assert [(f.version, f.added, f.removed, f.changed) for f in facts(door)] == [(1, None, None, None), (2, 1, 1, 1)]
    after = {c.number: c.candidate_id for c in door.room.rosters[SESSION].candidates}
    assert after[NUMBERS[0]] == before[NUMBERS[0]] and set(after) == {NUMBERS[0], NUMBERS[2]}


async def test_faults_are_shown_by_row_and_column_and_nothing_can_be_confirmed(door: Hall) -> None:
    wrong = YI.replace("0022", "0023")
    async with door.browser("T001") as chief:
        shown = await send(chief, file_of(JIA, wrong, BING.replace(",03,", ",01,")))
        assert "2 处有误" in shown.text and "import/confirm" not in shown.text and 'name="digest"' not in shown.text
        assert "<td>3</td><td>证件号码</td><td>校验码不对（****0023）" in shown.text
        assert "<td>4</td><td>座位号</td><td>与第 2 行座位相同" in shown.text
        assert wrong.split(",")[1] not in shown.text
        for digest in ("", "0" * 64):
            assert (await confirm(chief, digest)).status_code == 409
        assert facts(door) == []


@pytest.mark.parametrize(("changed", "status"), [
    ({"second_pin": "9999"}, 403), ({"pin": "9999"}, 403), ({"second": "T001", "second_pin": "1001"}, 422), ({"reason": "  "}, 422),
    ({"second": "A001", "second_pin": "1001"}, 403)])
async def test_one_person_or_no_reason_is_not_enough(door: Hall, changed: dict[str, str], status: int) -> None:
    async with door.browser("T001") as chief:
        digest = digest_of(await send(chief, file_of(JIA)))
        refused = await confirm(chief, digest, **changed)
        assert refused.status_code == status
        assert facts(door) == []
        assert (await confirm(chief, digest)).status_code == 303, "the same preview may be signed rightly"


async def test_only_what_was_shown_last_is_taken(door: Hall) -> None:
    async with door.browser("T001") as chief:
        first = digest_of(await send(chief, file_of(JIA)))
        second = digest_of(await send(chief, file_of(JIA, YI)))
        assert first != second
        assert "不是最近查看的" in (await confirm(chief, first)).text
        await door.sim.pass_time(15 * 60 + 1)
        assert "不再保留" in (await confirm(chief, second)).text
        assert facts(door) == []


async def test_a_list_that_came_meanwhile_is_not_overrun(door: Hall) -> None:
    async with door.browser("T001") as chief:
        shown = digest_of(await send(chief, file_of(JIA)))
        await door.roster()                                     # the platform's own, signed
        refused = await confirm(chief, shown)
        assert refused.status_code == 409 and "已经改变" in refused.text
        assert [f.source for f in facts(door)] == ["platform"]
        look = await send(chief, file_of(JIA))
        assert "移除 4" in look.text and "平台签名的名单" in look.text
        assert "import/confirm" not in look.text, "it may be compared, not taken"
    with pytest.raises(IllegalStep, match="signed-roster-stands"):
        await door.room.report(replace(facts(door)[0], source="import"))


async def test_a_signed_list_outranks_an_imported_one_and_never_silently(door: Hall) -> None:
    async with door.browser("T001") as chief:
        await confirm(chief, digest_of(await send(chief, file_of(JIA.replace(",01,", ",09,"), YI))))
        await door.roster()
        told = (await chief.get(f"/s/{SESSION}/preflight")).text
    fact = facts(door)[-1]
    assert (fact.source, fact.added, fact.removed) == ("platform", 3, 0) and fact.changed == 2
    item = next(i for i in door.room.preflight(SESSION).items if i.key == "roster")
    assert (item.light, item.word, dict(item.facts)) == (Light.AMBER, "roster-replaced", {"added": 3, "removed": 0, "changed": 2})
    assert "已取代导入的名单：新增 3 人，移除 0 人，变更 2 人" in told


@pytest.mark.parametrize("state", ["checkin", "running", "closing"])
async def test_from_the_opened_doors_on_there_is_no_import(hall: Hall, state: str) -> None:
    await hall.to(state)
    before = len(facts(hall))
    async with hall.browser("T001") as chief:
        assert (await chief.get(f"/s/{SESSION}/import")).status_code == 409
        assert (await send(chief, file_of(JIA))).status_code == 409
        assert (await confirm(chief, "0" * 64)).status_code == 409
    assert len(facts(hall)) == before


@pytest.mark.parametrize("person", ["T002", "A001", "Y001"])
async def test_only_the_chief_may_look_or_confirm(door: Hall, person: str) -> None:
    async with door.browser(person) as other:
        assert (await other.get(f"/s/{SESSION}/import")).status_code == 403
        assert (await send(other, file_of(JIA))).status_code == 403
        assert (await confirm(other, "0" * 64)).status_code == 403


async def test_an_upload_is_bounded_and_is_a_form_of_ours(door: Hall) -> None:
    async with door.browser("T001") as chief:
        big = b"x" * (MOST_UPLOAD_BYTES + 1)
        assert (await send(chief, big)).status_code == 413
        other = await chief.post(f"/s/{SESSION}/waive", data={"reason": "x" * (100 << 10)})
        assert other.status_code == 413, "and no other form is larger now"
        assert "超过 2 MB" in (await send(chief, b"x" * ((2 << 20) + 1))).text
        for odd in ({"data": {"file": "no file"}}, {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
                    {"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=y"}}, {"files": {"other": b"x"}},
                    {"files": {"file": ("empty.csv", b"")}}, {"files": [("file", ("a", b"x")), ("file", ("b", b"x"))]}):
            answer = await chief.post(f"/s/{SESSION}/import", **odd)
            assert answer.status_code == 422 and "没有收到文件" in answer.text, odd
        foreign = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
        assert (await chief.post(f"/s/{SESSION}/import", files={"file": ("a.csv", file_of(JIA))}, headers=foreign)).status_code == 403


async def test_what_the_file_does_not_say_is_the_plans(door: Hall) -> None:
    planned = door.room.state.sessions[SESSION].plan
    await door.room.plan(replace(planned, plan_sha256="9" * 64), json.dumps({"person_category": "PRINCIPAL", "exam_kind": "INITIAL"}))
    data = "姓名,证件号码,准考证号\n样例甲,000000199001010018,A001".encode()
    async with door.browser("T001") as chief:
        await confirm(chief, digest_of(await send(chief, data)))
    (candidate,) = door.room.rosters[SESSION].candidates
    assert (candidate.person_category, candidate.exam_kind, candidate.subject, candidate.seat) == ("PRINCIPAL", "INITIAL", "UNKNOWN", None)


async def test_an_imported_candidate_is_let_in_and_after_a_restart_the_list_is_the_same(door: Hall) -> None:
    async with door.browser("T001") as chief:
        await confirm(chief, digest_of(await send(chief, file_of(JIA, YI))))
    await door.to("checkin")
    await door.card("样例甲", NUMBERS[0])
    assert door.room.state.sessions[SESSION].admitted.keys() == {f"I-{door.room.subject(NUMBERS[0])[:16]}"}
    room = door.room
    again = Room(door.clock, Journal(door.database, link), room.catalog, room.outbox, room.staff, room.instruments, room.rules)
    assert not compare(room.rosters[SESSION], again.rosters[SESSION]).any and len(again.rosters[SESSION].candidates) == 2


async def test_a_file_that_takes_too_long_is_given_up(hall: Hall) -> None:
    reading = await read_file(file_of(JIA), True, date(2026, 11, 26), most_s=0)
    assert [fault.word for fault in reading.faults] == ["too-much"] and reading.lines == ()
    assert (await read_file(file_of(JIA), True, date(2026, 11, 26))).faults == ()


async def test_nothing_of_a_file_is_logged_or_left_on_the_disk(door: Hall, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    caplog.set_level(logging.DEBUG)
    odd = "怪异样例"
    async with door.browser("T001") as chief:
        await send(chief, file_of(JIA.replace("样例甲", odd), YI.replace("0022", "0023")) + b"\n" * (1 << 20) + b" " * (900 << 10))
        await send(chief, file_of(JIA.replace("样例甲", odd)))
    assert "roster-file-shown" in caplog.text and odd not in caplog.text and NUMBERS[0] not in caplog.text and "0023" not in caplog.text
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert odd.encode() not in written and NUMBERS[0].encode() not in written


# ---- the command ----------------------------------------------------------------------------------------------------------

NO_EXPORTS: Any = None          # nobody exports here


@asynccontextmanager
async def local_socket(hall: Hall) -> AsyncIterator[Path]:
    """The room's local socket, served for real."""
    async def export(session: str, to: Path, by: str) -> Report:
        raise AssertionError("nobody exports here")

    path = hall.desk.run / "room.sock"
    path.parent.mkdir(parents=True, exist_ok=True)
    server = uvicorn.Server(uvicorn.Config(build_local(hall.room, export, NO_EXPORTS), log_level="error", lifespan="off"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:     # listening before the server is up: nobody has to wait for it
        listener.bind(str(path))
        listener.listen(4)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield path
        finally:
            server.should_exit = True
            await serving


class Command:
    """`edge roster import` with the room's configuration: exit code, and all that it says. It runs beside the room's loop."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        house = Path(__file__).resolve().parents[2]
        text = (house / "config" / "demo.toml").read_text(encoding="utf-8").replace('"../demo/', f'"{folder}/')
        (folder / "edge.toml").write_text(text, encoding="utf-8")
        self._config, self._capsys = str(folder / "edge.toml"), capsys

    async def __call__(self, file: Path, *words: str, session: str = SESSION) -> tuple[int, str]:
        code = await asyncio.to_thread(main, ["roster", "import", str(file), "--session", session, *words, "--config", self._config])
        said = self._capsys.readouterr()
        return code, said.out + said.err


async def test_the_command_shows_then_takes_by_the_running_room(door: Hall, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edge, good, bad, pins = Command(tmp_path, capsys), tmp_path / "good.csv", tmp_path / "bad.csv", tmp_path / "pins"
    good.write_bytes(file_of(JIA, YI))
    bad.write_bytes(file_of(JIA.replace("0018", "0019")))
    pins.write_text("1001\n1002\n", encoding="utf-8")
    signed = ["--by", "T001", "--second", "T002", "--reason", "offline", "--secrets-from", str(pins)]
    code, told = await edge(good, "--dry-run")
    assert code == 3 and "no room is running here. Nothing was changed." in told
    async with local_socket(door):
        code, told = await edge(good, "--dry-run")
        assert code == 0 and "+ 01   样*甲 ****0018" in told and "2 added, 0 taken off, 0 changed; digest " in told, told
        assert facts(door) == [] and NUMBERS[0] not in told
        code, told = await edge(bad, *signed)
        assert code == 1 and "row 2, ID number: The check digit is wrong (****0019)" in told and NUMBERS[0][:-4] not in told
        code, told = await edge(good, *signed, "--expect", "0" * 64)
        assert code == 1 and "no longer what you expect" in told and facts(door) == []
        code, told = await edge(good, "--by", "T001")
        assert code == 1 and "are needed to import" in told and facts(door) == []
        code, told = await edge(good, "--dry-run", session="S20261126-KD01-R01-77")
        assert code == 1 and "There is no such session" in told
        code, told = await edge(good, *signed)
        assert code == 0 and "imported: 2 people are the list" in told, told
    assert [(f.source, f.by, f.second, f.reason) for f in facts(door)] == [("import", "T001", "T002", "offline")]


async def test_the_socket_takes_only_what_it_would_show(door: Hall) -> None:
    async with local_socket(door) as path, httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://room") as http:
        async def ask(data: bytes, **more: str) -> tuple[int, dict[str, Any]]:
            answer = await http.post(f"/sessions/{SESSION}/files/roster", json={"file": base64.b64encode(data).decode(), **more})
            return answer.status_code, answer.json()

        _, shown = await ask(file_of(JIA))
        signed = {"digest": shown["digest"], "by": "T001", **SIGNED}
        status, refused = await ask(file_of(JIA, YI), **signed)
        assert (status, refused["refusal"]) == (409, "import-other") and facts(door) == []
        status, refused = await ask(file_of(JIA), **{**signed, "by": "T003", "pin": "1003"})
        assert (status, refused["refusal"]) == (409, "chief-only") and facts(door) == []
        status, taken = await ask(file_of(JIA), **signed)
        assert status == 200 and taken["taken"] and len(facts(door)) == 1


