"""The pages of an exam day over a real Room: what they show in each state, what each form does, and every way in which it is refused."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx
import pytest

from edge.clock import US
from edge.idcheck.reader import ReaderStatus
from edge.sessions import events as e
from edge.sessions.machine import State
from edge.status import ClockReading, DiskReading
from edge.storage.journal import Envelope

if TYPE_CHECKING:
    from tests.web.conftest import Hall

SESSION, LATER = "S20261126-KD01-R01-01", "S20261126-KD01-R01-02"
S = f"/s/{SESSION}"
PIN = {"T001": "1001", "T002": "1002", "T003": "1003"}
SIGNED = {"pin": "1001", "second": "T002", "second_pin": "1002", "empty": "yes", "absences": "yes"}
HTMX = {"HX-Request": "true"}
NUMBERS = ("000000199001010018", "000000196603050099")


async def post(client: httpx.AsyncClient, path: str, **fields: str) -> httpx.Response:
    return await client.post(path, data={"x": "y", **fields}, headers=HTMX)


def state(hall: Hall) -> str:
    return hall.room.state.sessions[SESSION].state


# ---- what is shown --------------------------------------------------------------------------------------------------------

async def test_today_is_empty_with_words_and_then_shows_the_next_large(hall: Hall) -> None:
    async with hall.browser("T001") as chief, hall.browser("A001") as auditor:
        empty = await chief.get("/")
        assert "今天没有待进行的场次" in empty.text and "全部已上报" in empty.text
        await hall.plan(LATER, hall.clock.now().utc_us + 3 * 3600 * US)
        await hall.plan()
        await hall.roster()
        await hall.plan("S20261127-KD01-R01-01", hall.clock.now().utc_us + 24 * 3600 * US)
        shown = await chief.get("/")
        assert shown.text.index(SESSION) < shown.text.index(LATER) and "S20261127" not in shown.text
        assert "14:00" in shown.text and "5 人" in shown.text and f'href="{S}"' in shown.text
        assert f'href="{S}"' in (await auditor.get("/")).text


async def test_a_live_session_comes_first_whatever_the_hour(hall: Hall) -> None:
    await hall.plan(LATER, hall.clock.now().utc_us - 3600 * US)
    await hall.to("checkin")
    async with hall.browser("T002") as proctor:
        text = (await proctor.get("/")).text
        assert text.index(SESSION) < text.index(LATER) and "正在进行" in text and "进入入场核验" in text


async def test_what_waits_to_be_reported_is_counted(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.room.report(e.OpenSigned(at=hall.clock.now(), session=SESSION, digest="ab" * 32),
                           Envelope("session-open", "ab" * 32, b"{}", priority=0))
    async with hall.browser("T001") as chief:
        text = (await chief.get("/")).text
        assert "项待上报" in text and "省平台 · 待上报 1" in text
        await hall.room.report(e.PlatformLost(at=hall.clock.now(), reason="timeout"))
        assert "省平台离线（超时）· 1 项待上报" in (await chief.get("/now")).text
        await hall.room.outbox.park(1, "http_422")
        await hall.room.report(e.PlatformBack(at=hall.clock.now()))
        text = (await chief.get("/")).text
        assert "1 项被省平台退回" in text and "http_422" in text


@pytest.mark.parametrize(("reached", "path"), [
    ("planned", "preflight"), ("preflight", "preflight"), ("checkin", "checkin"), ("running", "run"), ("closing", "close"),
    ("sealing", "close"), ("sealed", "done")])
async def test_each_state_has_its_page_and_every_other_page_leads_there(hall: Hall, reached: str, path: str) -> None:
    await hall.to(reached)
    async with hall.browser("T001") as chief, hall.browser("T002") as proctor:
        assert (await chief.get(S)).headers["location"] == f"{S}/{path}"
        for other in {"preflight", "checkin", "run", "close", "done", "waive", "cancel", "abort"}:
            answer = await chief.get(f"{S}/{other}")
            assert answer.status_code == 200 or answer.headers["location"] == f"{S}/{path}", other
            moved = await chief.get(f"{S}/{other}", headers=HTMX)
            assert moved.status_code == 200 or moved.headers["hx-redirect"] == f"{S}/{path}", other
        for person in (chief, proctor):
            shown = await person.get(f"{S}/{path}")
            assert shown.status_code == 200 and len(re.findall(r'class="[^"]*\bprimary\b', shown.text)) <= 1
            assert "HX-Refresh" not in shown.headers
        news = await chief.get(f"{S}/{path}", headers={**HTMX, "X-Shown": "another"})
        assert path == "done" or news.headers["HX-Refresh"] == "true"


async def test_the_preflight_list_is_worst_first_and_each_line_says_what_to_do(hall: Hall) -> None:
    await hall.to("preflight")
    hall.around.lost.add("front")
    hall.around.reader = ReaderStatus("lost", None, "absent", 0)
    hall.around.clock = ClockReading("unsynced", 0)
    hall.around.disk = DiskReading(20 * 10**9, 10**12, True, "")
    async with hall.browser("T001") as chief, hall.browser("Y001") as sysadmin, hall.browser("T002") as proctor:
        text = (await chief.get(f"{S}/preflight")).text
        lights = re.findall(r'<tr><td class="(ok|warn|bad)">', text)
        assert lights == sorted(lights, key=["bad", "warn", "ok"].index) and {"bad", "ok"} <= set(lights)
        assert "不可开考" in text and "没有应答（未插入）" in text and "未同步。请检查对时服务" in text
        assert f"/s/{SESSION}/waive?item=stream%3Afront" in text, "another camera still records"
        for other in (sysadmin, proctor):
            seen = (await other.get(f"{S}/preflight")).text
            assert "/waive?" not in seen and "/open" not in seen
    hall.around.disk = DiskReading(0, 10**12, False, "Read-only file system")
    async with hall.browser("T001") as chief:
        text = (await chief.get(f"{S}/preflight")).text
        assert "写盘测试失败（Read-only file system）" in text and "存储故障" not in text, "the strip looks every five seconds"
        await hall.sim.pass_time(5)
        assert "存储故障（Read-only file system）" in (await chief.get("/now")).text


async def test_the_strip_says_what_is_wrong_in_words(hall: Hall) -> None:
    async with hall.browser("T001") as chief:
        good = (await chief.get("/now")).text
        assert "录像 2 路" in good and "拾音 -32 dBFS" in good and 'class="bad"' not in good
        hall.around.lost |= {"rear", "mic"}
        hall.around.reader = ReaderStatus("lost", None, "silent", 0)
        bad = (await chief.get("/now?tiles=1")).text
        assert "录像 1/2 路，后摄像无录像" in bad and "无拾音" in bad and "身份证阅读器失联（没有应答）" in bad
        assert bad.count('class="bad"') == 5, "three of the strip, two captions"
        assert 'id="cap-rear" class="bad"' in bad and "9.0 秒前" in bad


async def test_the_devices_key_is_on_the_page_only_while_something_is_wrong_with_it(hall: Hall) -> None:
    await hall.to("preflight")
    now, day = hall.clock.now(), 86_400 * US

    async def seen() -> tuple[str, str]:
        async with hall.browser("T001") as chief:
            return (await chief.get("/now")).text, (await chief.get(f"{S}/preflight")).text
    strip, listed = await seen()
    assert "证书" not in strip and "设备密钥正常" in listed
    await hall.room.report(e.CertificateExpiring(at=now, cert_sha256="0" * 64, until_utc_us=now.utc_us + 7 * day + US, days=7))
    strip, listed = await seen()
    assert "设备证书还有 7 天到期" in strip and "请告知管理员" in listed
    await hall.room.report(e.SignerLost(at=now, reason="no-answer"))
    strip, listed = await seen()
    assert "签名密钥不可用（没有应答）：录像照常" in strip and "恢复后补签" in listed
    assert f"/s/{SESSION}/waive?item=signature" in listed, "chief and a second person may go on"
    await hall.room.report(e.SignerBack(at=now))
    await hall.room.report(e.CertificateExpiring(at=now, cert_sha256="0" * 64, until_utc_us=now.utc_us - US, days=-1))
    strip, listed = await seen()
    assert "设备证书已到期" in strip and "平台不会接受" in listed


async def impair(hall: Hall, stream: str, rule: str) -> None:
    now = hall.clock.now()
    await hall.room.of_the_box(e.StreamImpaired(at=now, stream=stream, rule=rule, rules="rules/1", since_utc_us=now.utc_us - 60 * US))


async def test_an_alarm_is_said_in_words_on_tile_strip_and_list(hall: Hall) -> None:
    """Never colour alone; the worst first; who it is, and since when."""
    await hall.to("preflight")
    await impair(hall, "rear", "moved")
    async with hall.browser("T001") as chief:
        amber = (await chief.get("/now?tiles=1")).text
        assert 'id="cap-rear" class="warn"' in amber and "镜头被移动 · 自 13:59" in amber and "录像：后摄像镜头被移动" in amber
        assert "正在录制，但镜头被移动" in (await chief.get(f"{S}/preflight")).text
        await impair(hall, "front", "covered")
        await impair(hall, "mic", "sound-clipping")
        red = (await chief.get("/now?tiles=1")).text
        assert 'id="cap-front" class="bad"' in red and '<span class="alarm bad">镜头被遮挡 · 自 13:59' in red
        assert '<span class="bad">录像：前摄像镜头被遮挡，另有 1 项</span>' in red and "<p>录像：前摄像镜头被遮挡" in red
        assert '<span class="warn">拾音：拾音器声音过大失真</span>' in red
        shown = (await chief.get(f"{S}/preflight")).text
        assert "正在录制，但镜头被遮挡" in shown and "waive?item=stream%3Afront" in shown and "不可开考" in shown
        now = hall.clock.now()
        for stream, rule in (("front", "covered"), ("rear", "moved"), ("mic", "sound-clipping")):
            await hall.room.of_the_box(e.StreamRestored(at=now, stream=stream, rule=rule))
        well = (await chief.get("/now?tiles=1")).text
        assert "alarm" not in well.replace('id="alarm"', "") and "录像 2 路" in well
        english = (await chief.get("/now?tiles=1", headers={"cookie": f"edge={chief.cookies['edge']}; lang=en"})).text
        assert "Video × 2" in english


async def test_what_nobody_watches_is_never_green(hall: Hall) -> None:
    hall.around.watcher = False
    for stream in hall.around.streams:
        await impair(hall, stream, "not-watched")
    async with hall.browser("T001") as chief:
        await hall.to("preflight")
        seen = (await chief.get("/now?tiles=1")).text
        assert "拾音未测量" in seen and "无人监测" in seen and seen.count("音量未知") == 1 and "dBFS" not in seen
        assert 'id="cap-front" class="warn"' in seen and 'id="cap-mic" class="warn"' in seen
        shown = (await chief.get(f"{S}/preflight")).text
        assert "监测程序没有应答：画面好坏未知" in shown and "声音在录制，但没有测量音量" in shown


async def test_a_slow_disk_and_a_failed_probe_are_said_at_the_storage(hall: Hall) -> None:
    await hall.to("preflight")
    hall.around.waiting_bytes = 6_200_000
    async with hall.browser("T001") as chief:
        assert "磁盘变慢，6 MB 等待写入，尚无丢失" in (await chief.get("/now")).text
        assert '<td class="warn">▲ 注意</td><th scope="row">存储</th><td>磁盘变慢，6 MB' in (await chief.get(f"{S}/preflight")).text
        hall.around.waiting_bytes = 0
        now = hall.clock.now()
        await hall.room.report(e.PlaybackProbed(at=now, stream="rear", day="2026-11-25", ok=False, windows=3, reason="digest"))
        assert '<span class="bad">录像回放抽查失败' in (await chief.get("/now")).text
        shown = (await chief.get(f"{S}/preflight")).text
        assert "后摄像的录像回放失败" in shown and "不可开考" in shown
        await hall.room.report(e.PlaybackProbed(at=now, stream="rear", day="2026-11-26", ok=True, windows=3))
        assert "抽查失败" not in (await chief.get("/now")).text and "抽查的录像都能回放" in (await chief.get(f"{S}/preflight")).text


async def test_what_is_yet_to_be_done_is_no_fault(hall: Hall) -> None:
    await hall.to("preflight")
    async with hall.browser("T001") as chief:
        text = (await chief.get(f"{S}/preflight")).text
        assert text.count('<td class="todo">○ 待办</td>') == 2 and "✕ 故障" not in text and "不可开考" in text
        assert "现在 <span data-clock" in text, "the wall clock stands in every header"


async def test_the_days_left_do_not_jump(hall: Hall) -> None:
    async with hall.browser("T001") as chief:
        async def days() -> int:
            found = re.search(r"存储 [\d.,]+ GB，约 ([\d,]+) 天", (await chief.get("/now")).text)
            assert found
            return int(found[1].replace(",", ""))

        async def pass_minutes(minutes: int) -> None:
            for _ in range(minutes * 4):
                await hall.sim.pass_time(15)
                await days()

        hall.around.disk = DiskReading(90_000 * 10**9, 100_000 * 10**9, True, "")
        before = await days()
        await pass_minutes(10)
        hall.around.streams["third"] = "rtsp"                   # half as much again is written from now on
        await hall.sim.pass_time(5)
        assert before * 0.98 < await days() <= before
        await pass_minutes(25)
        assert await days() == pytest.approx(before * 8264 / 12364, rel=0.05)


async def test_names_are_masked_and_numbers_shortened_on_every_page(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.card("样例甲", NUMBERS[0])
    await hall.card("样例辛", NUMBERS[1])
    await hall.unreadable()
    pages = [f"{S}/checkin", "/gate"]
    async with hall.browser("T001") as chief, hall.browser("A001") as auditor:
        for path in pages:
            text = (await chief.get(path)).text
            assert all(secret not in text for secret in (*NUMBERS, "样例甲", "样例辛"))
        text = (await chief.get(f"{S}/checkin")).text
        assert "样*甲" in text and "****0018" in text and "样*辛" in text and "不在名单" in text and "01 号" in text
        await hall.to("closing")
        text = (await chief.get(f"{S}/close")).text
        assert "样*䶮" in text and "阿***例" in text and "样例乙" not in text and "000000198502150022" not in text
        await hall.to("sealed")
        for client, path in ((chief, f"{S}/done"), (auditor, f"/archive/{SESSION}")):
            text = (await client.get(path)).text
            assert all(secret not in text for secret in (*NUMBERS, "样例甲", "样例乙"))


async def test_the_verdicts_at_the_door(hall: Hall) -> None:
    """Words, colour and tone of each; counts add up; a person without a seat is not overlooked (U5)."""
    await hall.plan(LATER, hall.clock.now().utc_us + 3600 * US)
    await hall.roster(LATER, [("样例癸", "000000200808010102", "11")])
    async with hall.browser("T002") as proctor:
        await hall.card("样例甲", NUMBERS[0])
        assert hall.room.last_verdict and hall.room.last_verdict.code == "E-NOT-OPEN"
        await hall.to("checkin")
        seen: dict[str, tuple[str, str, str]] = {}
        for name, number in (("样例甲", NUMBERS[0]), ("样例甲", NUMBERS[0]), ("样例辛", NUMBERS[1]), ("样例癸", "000000200808010102"),
                             ("样例䶮", "000000198810080070")):
            await hall.sim.pass_time(1)
            await hall.card(name, number)
            text = (await proctor.get(f"{S}/checkin")).text
            found = re.search(r'class="verdict (\w+)" data-verdict="([^"]+)" data-sound="(\w+)">\s*<p class="says">([^<]+)', text)
            assert found is not None
            seen[f"{name}{len(seen)}"] = (found[1], found[3], found[4])
            assert (LATER in text) is (name == "样例癸"), "where somebody belongs is said to the person"
        assert seen == {"样例甲0": ("ok", "ok", "✓ 核验通过"), "样例甲1": ("warn", "warn", "▲ 已核验过（14:00）"),
                        "样例辛2": ("bad", "error", "✕ 不在本场名单"), "样例癸3": ("warn", "warn", "▲ 不是本场考生"),
                        "样例䶮4": ("warn", "ok", "✓ 核验通过")}
        numbers = {name: int(n) for name, n in re.findall(r'data-count="([a-z-]+)"[^>]*><dt>[^<]+</dt><dd>(\d+)</dd>', text)}
        assert numbers == {"expected": 5, "admitted": 2, "doubtful": 0, "refused": 0, "missing": 3, "seatless": 1, "turned-away": 2}
        assert numbers["expected"] == sum(numbers[group] for group in ("admitted", "doubtful", "refused", "missing"))
        assert "未排座，请找监考员" in text


async def test_the_gate_shows_one_verdict_for_a_while_and_no_list(hall: Hall) -> None:
    async with hall.client() as anybody:
        assert "现在不在入场时间" in (await anybody.get("/gate")).text
        await hall.to("checkin")
        assert "请刷身份证" in (await anybody.get("/gate")).text
        await hall.card("样例甲", NUMBERS[0])
        await hall.sim.pass_time(3)
        text = (await anybody.get("/gate")).text
        assert "核验通过" in text and "01 号机" in text and "样*甲" in text and "Seat 01" in text and "0018" not in text
        await hall.card("样例辛", NUMBERS[1])
        text = (await anybody.get("/gate")).text
        assert "不在本场名单" in text and "01 号机" not in text and "样*甲" not in text
        await hall.sim.pass_time(9)
        assert "样*辛" not in (await anybody.get("/gate")).text


async def test_english_stands_beside_chinese(hall: Hall) -> None:
    await hall.to("checkin")
    async with hall.browser("T001") as chief:
        answer = await chief.post("/language", data={"to": "en", "back": f"{S}/checkin"})
        assert answer.headers["location"] == f"{S}/checkin"
        text = (await chief.get(f"{S}/checkin")).text
        assert '<html lang="en">' in text and "Start exam · hold 2 s" in text and "Front camera" not in text
        assert "Video × 2" in text
        await chief.post("/language", data={"to": "klingon", "back": "//evil.example"})
        assert '<html lang="en">' in (await chief.get("/")).text


# ---- what is pressed ------------------------------------------------------------------------------------------------------

async def test_a_whole_day_through_the_forms(hall: Hall) -> None:
    await hall.plan()
    await hall.roster()
    async with hall.browser("T001") as chief:
        async def press(word: str, to: str, **fields: str) -> None:
            answer = await post(chief, f"{S}/{word}", **fields)
            assert answer.status_code == 204 and answer.headers["hx-redirect"] == f"{S}/{to}", answer.text

        await press("begin", "preflight")
        for staff_id, pin in PIN.items():
            await press("sign-in", "preflight", staff_id=staff_id, pin=pin)
        await press("exits", "preflight", free="yes")
        assert "就绪" in (await chief.get(f"{S}/preflight")).text
        await press("open", "checkin")
        await hall.card("样例甲", NUMBERS[0])
        await press("start", "run", held_ms="2003")
        await press("end", "close", held_ms="2003", pin=PIN["T001"])
        await press("seal", "close", pin=PIN["T001"], second="T002", second_pin=PIN["T002"], absences="yes", empty="yes")
        assert "正在收齐最后的录像" in (await chief.get(f"{S}/close")).text
        await hall.to("sealed")
        assert "上报中" in (await chief.get(f"{S}/done")).text
        await hall.receipt("rejected")
        text = (await chief.get(f"{S}/done")).text
        assert "被退回" in text and "E-ROSTER" in text and "12.0" in text and "摄像机断开" in text
        await hall.receipt("accepted")
        assert "省平台已接收" in (await chief.get(f"{S}/done")).text
    order = hall.room.state.sessions[SESSION].seal_order
    assert order is not None and order.statement == "seal.statement" and len(order.absent) == 4


async def test_a_form_without_htmx_leads_on_and_a_refusal_is_a_page(hall: Hall) -> None:
    await hall.to("planned")
    async with hall.browser("T001") as chief:
        answer = await chief.post(f"{S}/begin", data={"request_id": "1"})
        assert answer.status_code == 303 and answer.headers["location"] == f"{S}/preflight"
        refused = await chief.post(f"{S}/open", data={"request_id": "2"})
        assert refused.status_code == 409 and "还不能开始入场" in refused.text and "<html" in refused.text and f'href="{S}"' in refused.text


async def test_a_waiver_is_written_with_reason_and_second_person(hall: Hall) -> None:
    await hall.to("preflight")
    hall.around.lost.add("front")
    async with hall.browser("T001") as chief:
        assert "前摄像" in (await chief.get(f"{S}/waive?item=stream:front")).text
        assert "不需要或不能豁免" in (await chief.get(f"{S}/waive?item=reader")).text
        assert "不需要或不能豁免" in (await chief.get(f"{S}/waive?item=<script>")).text
        fields = {"item": "stream:front", "reason": "镜头损坏，后摄像覆盖全场", "second": "T002", "second_pin": PIN["T002"]}
        refused = await post(chief, f"{S}/waive", **{**fields, "second_pin": "0000"})
        assert refused.status_code == 403 and "样例监考一的签名码不正确" in refused.text
        assert (await post(chief, f"{S}/waive", **{**fields, "reason": "  "})).status_code == 422
        assert "不能豁免" in (await post(chief, f"{S}/waive", **{**fields, "item": "reader"})).text
        assert (await post(chief, f"{S}/waive", **fields)).status_code == 204
        assert "已豁免" in (await chief.get(f"{S}/preflight")).text
    assert hall.room.state.sessions[SESSION].waivers[0].reason == fields["reason"]


@pytest.mark.parametrize(("reached", "word", "fields", "status", "says"), [
    ("preflight", "begin", {}, 204, ""),
    ("preflight", "sign-in", {"staff_id": "T002", "pin": "9999"}, 403, "签名码不正确"),
    ("preflight", "sign-in", {"staff_id": "", "pin": ""}, 403, "签名码不正确"),
    ("preflight", "exits", {}, 422, "尚未确认安全通道"),
    ("preflight", "open", {}, 409, "还不能开始入场：人员、安全通道未通过"),
    ("planned", "open", {}, 409, "场次现在是“待考”"),
    ("checkin", "start", {"held_ms": "2000"}, 409, "还没有考生通过核验"),
    ("running", "end", {"held_ms": "2000", "pin": "0000"}, 403, "签名码不正确"),
    ("running", "end", {"held_ms": "100", "pin": "1001"}, 422, "按住时间不足"),
    ("running", "end", {"held_ms": "١٢٣٤", "pin": "1001"}, 422, "按住时间不足"),
    ("running", "end", {"held_ms": "99999999999", "pin": "1001"}, 422, "按住时间不足"),
    ("running", "abort", {"held_ms": "2000", "pin": "1001"}, 422, "请写明原因"),
    ("running", "cancel", {"pin": "1001", "reason": "x"}, 409, "场次现在是“考试中”"),
    ("closing", "seal", {"pin": "1001", "second": "T002", "second_pin": "1002", "absences": "yes"}, 422, "尚未确认考场已清空"),
    ("closing", "seal", {"pin": "1001", "second": "T002", "second_pin": "1002", "empty": "yes"}, 422, "4 名缺考尚未确认"),
    ("closing", "seal", SIGNED | {"second": "T001", "second_pin": "1001"}, 409, "必须是本场的监考员"),
    ("checkin", "seal", SIGNED, 409, "场次现在是“入场核验”"),
    ("preflight", "cancel", {"pin": "1001", "reason": " "}, 422, "请写明原因"),
    ("sealed", "end", {"held_ms": "2000", "pin": "1001"}, 409, "场次现在是“已封存”"),
])
async def test_every_refusal_is_said_in_words_and_changes_nothing(hall: Hall, reached: str, word: str, fields: dict[str, str], status: int,
                                                                   says: str) -> None:
    await hall.to(reached)
    before = hall.room.version
    async with hall.browser("T001") as chief:
        answer = await post(chief, f"{S}/{word}", **fields)
    assert answer.status_code == status and says in answer.text
    assert state(hall) == reached and hall.room.version == before
    if status != 204:
        assert len(re.findall(r"<p>", answer.text)) == 2, "what happened, and what to do"


async def test_start_needs_recording_time_and_a_held_button(hall: Hall) -> None:
    await hall.to("checkin")
    await hall.card("样例甲", NUMBERS[0])
    async with hall.browser("T001") as chief:
        assert (await post(chief, f"{S}/start", held_ms="1500")).status_code == 422
        hall.around.lost.add("rear")
        refused = await post(chief, f"{S}/start", held_ms="2000")
        assert refused.status_code == 409 and "后摄像在最近 2 秒没有录到数据" in refused.text
        hall.around.lost.clear()
        await hall.sim.pass_time(6 * 60)
        late = await post(chief, f"{S}/start", held_ms="2000")
        assert late.status_code == 422 and "请写明原因" in late.text
        assert (await post(chief, f"{S}/start", held_ms="2000", reason="等候考生")).status_code == 204
    started = hall.room.state.sessions[SESSION].started
    assert started is not None and started.reason == "等候考生"


async def test_only_one_session_at_a_time(hall: Hall) -> None:
    await hall.plan(LATER)
    await hall.roster(LATER)
    await hall.room.begin_preflight(LATER, "T001")
    await hall.to("checkin")
    async with hall.browser("T001") as chief:
        refused = await post(chief, f"/s/{LATER}/open")
        assert refused.status_code == 409 and SESSION in refused.text


async def test_calling_off_before_and_after_the_doors(hall: Hall) -> None:
    await hall.to("preflight")
    async with hall.browser("T001") as chief:
        answer = await post(chief, f"{S}/cancel", pin=PIN["T001"], reason="停电通知", held_ms="2000")
        assert answer.headers["hx-redirect"] == f"{S}/done" and "本场已取消" in (await chief.get(f"{S}/done")).text
        await hall.plan(LATER)
        await hall.roster(LATER)
        await hall.to("checkin", LATER)
        answer = await post(chief, f"/s/{LATER}/abort", pin=PIN["T001"], reason="火警疏散", held_ms="2000")
        assert answer.headers["hx-redirect"] == f"/s/{LATER}/close"
        text = (await chief.get(f"/s/{LATER}/close")).text
        assert "已取消" in text and "火警疏散" in text and "录像仍在继续" in text


async def test_a_request_that_comes_twice_does_one_thing(hall: Hall) -> None:
    """The second gets the first one's answer, even when the room has gone on; a refused one may be sent again."""
    await hall.to("checkin")
    await hall.card("样例甲", NUMBERS[0])
    async with hall.browser("T001") as chief, hall.browser("T002") as proctor:
        refused = await post(chief, f"{S}/start", held_ms="5", request_id="a" * 32)
        assert refused.status_code == 422
        first = await post(chief, f"{S}/start", held_ms="2000", request_id="a" * 32)
        await hall.to("closing")
        version = hall.room.version
        again = await post(chief, f"{S}/start", held_ms="2000", request_id="a" * 32)
        assert first.headers["hx-redirect"] == again.headers["hx-redirect"] == f"{S}/run" and hall.room.version == version
        other = await post(chief, f"{S}/start", held_ms="2000", request_id="b" * 32)
        assert other.status_code == 409
        assert (await post(proctor, f"{S}/sign-in", staff_id="T002", pin=PIN["T002"], request_id="a" * 32)).status_code == 204


async def test_too_many_wrong_pins_are_slowed_in_words(hall: Hall) -> None:
    await hall.to("preflight")
    async with hall.browser("T001") as chief:
        for _ in range(5):
            await post(chief, f"{S}/sign-in", staff_id="T002", pin="0000")
        slowed = await post(chief, f"{S}/sign-in", staff_id="T002", pin=PIN["T002"])
        assert slowed.status_code == 429 and "请等待 1 秒" in slowed.text
        assert hall.room.state.sessions[SESSION].state is State.PREFLIGHT


@pytest.mark.parametrize("path", ["/s/nothing", "/s/nothing/preflight", f"/s/{SESSION}%2f..%2f", "/s/..%2f..%2fetc/run", "/nowhere",
                                  "/static/..%2fapp.py", "/static/../app.py", "/static/nothing.js"])
async def test_what_is_not_there_is_said_in_words(hall: Hall, path: str) -> None:
    await hall.to("planned")
    async with hall.browser("A001") as auditor, hall.browser("T001") as chief:
        for client in (auditor, chief):
            answer = await client.get(path)
            assert answer.status_code in (403, 404) and re.search(r"没有|无权", answer.text)


async def test_words_from_outside_are_shown_and_never_run(hall: Hall) -> None:
    evil = "<script>alert(1)</script>"
    await hall.to("preflight")
    async with hall.browser("T001") as chief, hall.browser("A001") as auditor:
        await post(chief, f"{S}/cancel", pin=PIN["T001"], reason=evil, held_ms="2000")
        for client, path in ((auditor, f"/archive?q={evil}"), (auditor, f"/archive/{SESSION}"), (chief, "/login?next=" + evil)):
            assert evil not in (await client.get(path)).text
        refused = await post(chief, f"{S}/sign-in", staff_id=evil, pin="0000")
        assert evil not in refused.text and "&lt;script&gt;" in refused.text


async def test_the_archive_finds_by_id_and_by_day(hall: Hall) -> None:
    await hall.to("sealed")
    await hall.plan(LATER, hall.clock.now().utc_us + 26 * 3600 * US)
    async with hall.browser("A001") as auditor:
        assert (await auditor.get(f"/archive?q={SESSION}")).headers["location"] == f"/archive/{SESSION}"
        unknown = await auditor.get("/archive?q=S2026")
        assert unknown.status_code == 404 and "没有编号为“S2026”的场次" in unknown.text and SESSION in unknown.text
        one = (await auditor.get("/archive?day=2026-11-26")).text
        assert SESSION in one and LATER not in one
        assert "没有符合条件的场次" in (await auditor.get("/archive?day=2020-01-01")).text
        assert (await auditor.get("/archive?day=yesterday")).status_code == 400


async def test_a_stream_of_which_nothing_is_kept_is_never_called_whole(hall: Hall) -> None:
    await hall.to("sealed")
    async with hall.browser("A001") as auditor:
        text = (await auditor.get(f"/archive/{SESSION}")).text
        assert text.count("✕ 没有录像") == 3 and "✓ 完整" not in text and "摄像机断开" in text


async def test_the_evidence_is_checked_and_said_in_plain_words(hall: Hall) -> None:
    await hall.to("sealed")
    async with hall.browser("A001") as auditor:
        text = (await post(auditor, f"/archive/{SESSION}/verify")).text
        assert 'class="result warn"' in text and "缺口均已申报" in text and "front: 1 declared gap" in text
        hall.reports.append(type(hall.reports[0])("FAIL", "front 7: digest differs", ()))
        whole = await auditor.post(f"/archive/{SESSION}/verify", data={"x": "y"})
        assert "未通过" in whole.text and "digest differs" in whole.text and "<html" in whole.text


async def test_the_administrator_sees_staff_without_secrets(hall: Hall) -> None:
    async with hall.browser("Y001") as sysadmin:
        text = (await sysadmin.get("/admin")).text
        assert "SAM-000" in text and "T001" in text and "argon2" not in text and "chief-password" not in text
