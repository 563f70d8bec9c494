"""The seam to the province: the same tests run against the simulated platform in this process and behind a real socket.

Each answer is held against docs/platform-api.yaml. A province's own test platform could be put in the place of the simulated one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import yaml
from jsonschema import Draft202012Validator

from edge.clock import SystemClock
from edge.evidence.disposition import DISPOSITION
from edge.evidence.envelope import RECEIPT, ROSTER, EnvelopeError, open_envelope
from edge.sessions.roster import parse_roster
from edge.sim.authority import Authority
from edge.sim.platform import build_platform, serve_platform
from edge.upload.platform import PlatformClient, PlatformDenied, PlatformDown, PlatformRefused

if TYPE_CHECKING:
    from tests.conftest import Device

ROOM = "000000-KD01-R01"
DOCS = Path(__file__).parents[2] / "docs"
CONTRACT: dict[str, Any] = yaml.safe_load((DOCS / "platform-api.yaml").read_text("utf-8"))
NOW = SystemClock().now


class Checked(httpx.AsyncBaseTransport):
    """Holds every answer that passes through against the contract."""

    def __init__(self, under: httpx.AsyncBaseTransport) -> None:
        self._under = under
        self.strict = True

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._under.handle_async_request(request)
        body = await response.aread()
        path = request.url.path.removeprefix("/edge/v1")
        if self.strict and not path.startswith("/sim") and response.status_code not in (403, 503):
            _check(request.method, path, response, body)
        return httpx.Response(response.status_code, headers=response.headers, stream=httpx.ByteStream(body))

    async def aclose(self) -> None:
        await self._under.aclose()


def _check(method: str, path: str, response: httpx.Response, body: bytes) -> None:
    template, operation = _operation(method, path)
    described = operation["responses"].get(str(response.status_code))
    assert described is not None, f"{template} answered {response.status_code}, which the contract does not know"
    if "$ref" in described:
        described = CONTRACT["components"]["responses"][described["$ref"].rpartition("/")[2]]
    assert ("etag" in response.headers) >= ("ETag" in described.get("headers", {}))
    if "content" in described:
        media_type = response.headers["content-type"].partition(";")[0]
        _validator(described["content"][media_type]["schema"]).validate(json.loads(body))


class Line:
    """A client of the platform, and the console beside the contract."""

    def __init__(self, transport: httpx.AsyncBaseTransport, base: str) -> None:
        self.checked = Checked(transport)
        self.http = httpx.AsyncClient(transport=self.checked, trust_env=False)
        self.base = base
        self.client = PlatformClient(f"{base}/edge/v1", ROOM, self.http, deadline_s=1.0)

    async def faults(self, mode: str, **more: Any) -> None:
        (await self.http.post(f"{self.base}/sim/faults", json={"mode": mode, **more})).raise_for_status()

    async def held(self) -> dict[str, Any]:
        answer: dict[str, Any] = (await self.http.get(f"{self.base}/sim/held")).json()
        return answer


def _operation(method: str, path: str) -> tuple[str, dict[str, Any]]:
    for template, operations in CONTRACT["paths"].items():
        if re.fullmatch(re.sub(r"\{[A-Za-z]+\}", "[^/]+", template), path) and method.lower() in operations:
            return template, operations[method.lower()]
    raise AssertionError(f"{method} {path} is not in the contract")


def _validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({"components": CONTRACT["components"], **schema})


def _payload_schema(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((DOCS / "schemas" / f"{name}.json").read_text("utf-8")))


@asynccontextmanager
async def _in_process(folder: Path) -> AsyncIterator[Line]:
    authority = Authority.load(folder / "authority")
    app = build_platform(authority, folder, ROOM, SystemClock())
    line = Line(httpx.ASGITransport(app), "http://127.0.0.1")
    async with line.http:
        yield line


@asynccontextmanager
async def _over_loopback(folder: Path) -> AsyncIterator[Line]:
    up: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    serving = asyncio.ensure_future(serve_platform(folder, 0, ROOM, ready=up.set_result))
    await asyncio.wait((serving, up), return_when=asyncio.FIRST_COMPLETED)
    try:
        line = Line(httpx.AsyncHTTPTransport(), f"http://127.0.0.1:{up.result()}")
        async with line.http:
            yield line
    finally:
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving


@pytest.fixture(params=[_in_process, _over_loopback], ids=["in-process", "loopback"])
async def line(request: pytest.FixtureRequest, tmp_path: Path, authority: Authority) -> AsyncIterator[Line]:
    async with request.param(tmp_path) as line:
        yield line


async def first_plan(line: Line) -> dict[str, Any]:
    today = datetime.now(UTC).date()
    plans = await line.client.plans(today - timedelta(days=1), today + timedelta(days=14))
    assert plans
    return plans[0]


def receipt(envelope: bytes | None, authority: Authority) -> dict[str, Any]:
    """The verified receipt, held against its schema."""
    assert envelope is not None
    payload, _ = open_envelope(envelope, authority.root_pem, RECEIPT, "platform", NOW().utc_us)
    _payload_schema("receipt").validate(payload)
    return payload


async def test_a_whole_session(line: Line, device: Device, authority: Authority) -> None:
    plan = await first_plan(line)
    assert plan["room_code"] == ROOM and plan["session_id"].endswith("-KD01-R01-01")
    assert [each["role"] for each in plan["staff"]] == ["chief", "proctor", "proctor"]
    session = plan["session_id"]

    envelope = await line.client.roster(plan["plan_id"])
    assert envelope is not None
    payload, _ = open_envelope(envelope, authority.root_pem, ROSTER, "platform", NOW().utc_us)
    _payload_schema("roster").validate(payload)
    roster = parse_roster(payload)
    assert roster.session_id == session and len(roster.candidates) == plan["roster_count"]
    assert "000000196603050099" not in roster.by_number and "00000019870606015X" in roster.by_number

    opened = device.open(session)
    _payload_schema("session-open").validate(json.loads(base64.b64decode(json.loads(opened.envelope)["payload"])))
    first = receipt(await line.client.put_open(session, opened.envelope, opened.digest), authority)
    assert (first["verdict"], first["digest"], first["device"], first["kind"]) == ("accepted", opened.digest, device.id, "session-open")
    assert "prev_receipt" not in first and first["platform_seq"] == 1

    manifest = device.manifest(session)
    second = receipt(await line.client.put_manifest(session, 1, manifest.envelope, manifest.digest), authority)
    assert (second["verdict"], second["digest"], second["revision"], second["session_seq"]) == ("accepted", manifest.digest, 1, 1)
    assert second["platform_seq"] == 2 and len(second["prev_receipt"]) == 64
    reply = await line.client.heartbeat(heartbeat())
    assert reply.interval_s == 60 and reply.server_utc_us is not None and abs(reply.server_utc_us - NOW().utc_us) < 5_000_000


def heartbeat(**facts: Any) -> dict[str, Any]:
    return {"room_code": ROOM, "seq": 1, "at": "2026-11-26T06:00:00.000Z", "controller": {"version": "0", "uptime_s": 1, "boot_id": "b"},
            "state": "idle", "clock": {"synced": True, "offset_ms": -2}, "id_reader": "ok", "storage": {"free_bytes": 1, "write_ok": True},
            "sources": [{"id": "front", "kind": "av", "health": "ok", "fps_x100": 2500, "audio_peak_cdb": -1800}],
            "terminals": {"registered": 1, "online": 0, "seats": [{"seat_no": "01", "state": "offline"}]},
            "queue": {"manifests": 0, "parked": 0}, **facts}


def test_the_contract_and_the_gates_agree_on_a_heartbeat() -> None:
    validator = _validator({"$ref": "#/components/schemas/Heartbeat"})
    validator.validate(heartbeat())
    for wrong in (heartbeat(seq=1.5), heartbeat(state="sealed"), heartbeat(session_id=None), heartbeat(name="x"), heartbeat(at="now")):
        assert not validator.is_valid(wrong)


@pytest.mark.parametrize("facts", [{"seq": 1.5}, {"state": "sealed"}, {"name": "x"}, {"at": "now"}, {"room_code": "000000-KD01-R02"}])
async def test_an_unfit_heartbeat_is_refused(line: Line, facts: dict[str, Any]) -> None:
    with pytest.raises(PlatformRefused) as refused:
        await line.client.heartbeat(heartbeat(**facts))
    assert refused.value.status == 422 and refused.value.code in ("schema", "wrong-room")
    assert (await line.held())["heartbeats"] == 0


async def test_unchanged_plans_and_rosters_cost_nothing(line: Line) -> None:
    plan = await first_plan(line)
    today = datetime.now(UTC).date()
    assert await line.client.plans(today - timedelta(days=1), today + timedelta(days=14)) is None
    assert await line.client.roster(plan["plan_id"]) is not None
    assert await line.client.roster(plan["plan_id"]) is None
    line.client.forget_roster(plan["plan_id"])
    assert await line.client.roster(plan["plan_id"]) is not None


async def test_the_same_bytes_get_the_same_receipt_and_other_bytes_nothing(line: Line, device: Device) -> None:
    session = (await first_plan(line))["session_id"]
    opened, other = device.open(session), device.open(session, site="KD02")
    given = await line.client.put_open(session, opened.envelope, opened.digest)
    assert await line.client.put_open(session, opened.envelope, opened.digest) == given
    with pytest.raises(PlatformRefused) as refused:
        await line.client.put_open(session, other.envelope, other.digest)
    assert (refused.value.status, refused.value.code) == (409, "other-digest")
    manifest, other = device.manifest(session), device.manifest(session, outcome="completed")
    given_too = await line.client.put_manifest(session, 1, manifest.envelope, manifest.digest)
    assert await line.client.put_manifest(session, 1, manifest.envelope, manifest.digest) == given_too
    with pytest.raises(PlatformRefused) as refused:
        await line.client.put_manifest(session, 1, other.envelope, other.digest)
    assert (refused.value.status, refused.value.code) == (409, "other-digest")
    assert [row["digest"] for row in (await line.held())["documents"]] == [manifest.digest, opened.digest]


async def test_revisions_come_in_order_and_amend_each_other(line: Line, device: Device, authority: Authority) -> None:
    session = (await first_plan(line))["session_id"]
    one = device.manifest(session)
    two, stray = device.manifest(session, 2, amends=one.digest), device.manifest(session, 2, amends="0" * 64)
    with pytest.raises(PlatformDown) as early:      # to be tried again: the first may still be on its way
        await line.client.put_manifest(session, 2, two.envelope, two.digest)
    assert early.value.reason == "http_425"
    await line.client.put_manifest(session, 1, one.envelope, one.digest)
    with pytest.raises(PlatformRefused, match="amends"):
        await line.client.put_manifest(session, 2, stray.envelope, stray.digest)
    assert receipt(await line.client.put_manifest(session, 2, two.envelope, two.digest), authority)["revision"] == 2


async def test_a_disposition_is_filed_once_and_only_of_what_was_handed_in(line: Line, device: Device, authority: Authority) -> None:
    session, zeros = (await first_plan(line))["session_id"], "0" * 64
    record = {
        "type": "exam-disposition/v1", "site": "KD01", "room": ROOM, "session": {"id": session}, "session_seq": 1, "ground": "expired",
        "disposed_utc": "2033-05-26T02:00:00.000Z", "manifests": [zeros], "receipts": [zeros], "people": "forgotten",
        "device": {"id": device.id, "cert_sha256": zeros, "boot_id": "b", "sw_version": "0", "sw_sha256": zeros, "config_sha256": zeros},
        "retention": {"policy": "RP-SPECIAL-6Y", "keep_until": "2033-05-25", "holds_released": 0},
        "time": {"day": "2033-05-26", "witness_receipt": zeros, "witness_utc": "2033-05-26T01:00:00.000Z"},
        "footage": {"segments": 2, "bytes": 2, "streams": {"cam-front": 2}, "list_sha256": zeros},
        "journal": {"seq": 9, "head_sha256": zeros}}
    signed, other = device.sealed(DISPOSITION, record), device.sealed(DISPOSITION, {**record, "site": "KD02"})
    with pytest.raises(PlatformDown) as early:
        await line.client.put_disposition(session, signed.envelope, signed.digest)
    assert early.value.reason == "http_425"
    await line.client.put_manifest(session, 1, device.manifest(session).envelope, device.manifest(session).digest)
    given = await line.client.put_disposition(session, signed.envelope, signed.digest)
    payload = receipt(given, authority)
    assert (payload["kind"], payload["digest"], payload["verdict"]) == ("session-disposition", signed.digest, "accepted")
    assert await line.client.put_disposition(session, signed.envelope, signed.digest) == given
    with pytest.raises(PlatformRefused) as refused:
        await line.client.put_disposition(session, other.envelope, other.digest)
    assert (refused.value.status, refused.value.code) == (409, "other-digest")
    assert {row["kind"] for row in (await line.held())["documents"]} == {"session-manifest", "session-disposition"}


async def test_a_drill_needs_no_plan_and_an_exam_does(line: Line, device: Device, authority: Authority) -> None:
    session = "S20200101-KD01-R01-77"
    exam, drill = device.open(session), device.open(session, kind="drill")
    with pytest.raises(PlatformRefused) as refused:
        await line.client.put_open(session, exam.envelope, exam.digest)
    assert (refused.value.status, refused.value.code) == (404, "unknown-session")
    assert receipt(await line.client.put_open(session, drill.envelope, drill.digest), authority)["session_id"] == session


async def test_what_proves_nothing_is_refused_and_not_kept(line: Line, device: Device, authority: Authority, tmp_path: Path,
                                                            another_device: Callable[[str], Device]) -> None:
    session = (await first_plan(line))["session_id"]
    good = device.open(session)
    changed = json.loads(good.envelope)
    changed["payload"] = base64.b64encode(base64.b64decode(changed["payload"]).replace(b"KD01", b"KD09", 1)).decode()
    stranger = type(device)(tmp_path / "strange", Authority.create(tmp_path / "strangers"))
    platform_signed = json.loads(good.envelope)
    cases = {
        "envelope-json": b"not an envelope",
        "envelope-signature": json.dumps(changed).encode(),
        "envelope-chain": stranger.open(session).envelope,
        "envelope-type": device.manifest(session).envelope,
        "wrong-room": device.open(session, room="000000-KD01-R02").envelope,
        "wrong-session": device.open(session[:-1] + "2").envelope,
        "schema": device.open(session, session_seq="one").envelope,
        "wrong-device": device.open(session, device={"id": "another"}).envelope,
        "envelope-role": json.dumps({**platform_signed, "signatures": [{"sig": platform_signed["signatures"][0]["sig"],
                                     "cert": authority.platform.chain_pem}]}).encode(),
    }
    for code, envelope in cases.items():
        with pytest.raises(PlatformRefused) as refused:
            await line.client.put_open(session, envelope, good.digest)
        assert (refused.value.status, refused.value.code) == (422, code)
    with pytest.raises(PlatformRefused, match="wrong-revision"):
        await line.client.put_manifest(session, 1, device.manifest(session, 2).envelope, good.digest)
    assert (await line.held())["documents"] == []
    await line.client.put_open(session, good.envelope, good.digest)
    again = another_device("KD01-R01-edge").open("S20200101-KD01-R01-01", kind="drill")
    with pytest.raises(PlatformRefused, match="session-seq"):       # a device that counts anew
        await line.client.put_open("S20200101-KD01-R01-01", again.envelope, again.digest)


async def test_pending_then_decided(line: Line, device: Device, authority: Authority) -> None:
    session = (await first_plan(line))["session_id"]
    manifest = device.manifest(session)
    await line.faults("pending")
    assert await line.client.put_manifest(session, 1, manifest.envelope, manifest.digest) is None
    assert await line.client.receipt(session, 1) is None
    await line.faults("reject")
    decided = await line.client.receipt(session, 1)
    payload = receipt(decided, authority)
    assert payload["verdict"] == "rejected" and payload["reasons"][0]["code"]
    await line.faults("ok")
    assert await line.client.put_manifest(session, 1, manifest.envelope, manifest.digest) == decided      # what was given stays


async def test_answers_that_prove_nothing(line: Line, device: Device, authority: Authority) -> None:
    session = (await first_plan(line))["session_id"]
    opened = device.open(session)
    await line.faults("wrong-digest")
    wrong = receipt(await line.client.put_open(session, opened.envelope, opened.digest), authority)
    assert wrong["digest"] != opened.digest
    await line.faults("forged-signature")
    with pytest.raises(EnvelopeError) as forged:
        receipt(await line.client.put_open(session, opened.envelope, opened.digest), authority)
    assert forged.value.word == "chain"
    await line.faults("ok")
    true = receipt(await line.client.put_open(session, opened.envelope, opened.digest), authority)
    assert (true["digest"], true["platform_seq"]) == (opened.digest, 1)


@pytest.mark.parametrize(("mode", "error", "reason"), [
    ("down", PlatformDown, "http_503"), ("denied", PlatformDenied, "http_403"), ("slow", PlatformDown, "timeout")])
async def test_trouble_of_the_whole_platform(line: Line, mode: str, error: type[Exception], reason: str) -> None:
    await line.faults(mode)
    with pytest.raises(error) as trouble:
        await first_plan(line)
    assert getattr(trouble.value, "reason", None) == reason
    await line.faults("ok")
    assert await first_plan(line)


async def test_garbage_is_no_answer(line: Line, device: Device) -> None:
    session = (await first_plan(line))["session_id"]
    opened = device.open(session)
    line.checked.strict = False     # these answers fit no contract
    await line.faults("garbage")
    for call in (lambda: line.client.put_open(session, opened.envelope, opened.digest), lambda: first_plan(line),
                 lambda: line.client.roster("P1"), lambda: line.client.heartbeat(heartbeat())):
        with pytest.raises((PlatformDown, PlatformRefused)):
            await call()
    await line.faults("ok")
    assert await line.client.put_open(session, opened.envelope, opened.digest)


async def test_the_old_keys_word_for_the_new_one(line: Line, device: Device, authority: Authority,
                                                 another_device: Callable[[str], Device]) -> None:
    after = another_device(device.id)                   # the same name, another key
    said = device.rollover(after.signer.chain_pem, 3)
    _payload_schema("rollover").validate(json.loads(base64.b64decode(json.loads(said.envelope)["payload"])))
    given = await line.client.put_rollover(said.envelope, said.digest)
    answer = receipt(given, authority)
    assert (answer["kind"], answer["digest"], answer["device"], "session_id" in answer) == ("key-rollover", said.digest, device.id, False)
    assert await line.client.put_rollover(said.envelope, said.digest) == given
    stranger = another_device("another-box")
    for envelope, digest, code in ((said.envelope, "0" * 64, "other-digest"),
                                   (stranger.rollover(after.signer.chain_pem).envelope, said.digest, "envelope-payload"),
                                   (device.rollover(after.signer.chain_pem, room="000000-KD01-R02").envelope, said.digest, "wrong-room"),
                                   (device.open("S20200101-KD01-R01-77").envelope, said.digest, "envelope-type")):
        with pytest.raises(PlatformRefused) as refused:
            await line.client.put_rollover(envelope, digest)
        assert (refused.value.status, refused.value.code) == (422, code)
    session = (await first_plan(line))["session_id"]
    opened = after.open(session)
    assert receipt(await line.client.put_open(session, opened.envelope, opened.digest), authority)["prev_receipt"], "one row of receipts"


async def test_requests_beside_the_contract(line: Line, device: Device) -> None:
    base = f"{line.base}/edge/v1"
    session = (await first_plan(line))["session_id"]
    for path, status in (("/plans/P20200101-0001/roster", 404), (f"/rooms/{ROOM}/plans?from=2026-01-01&to=2026-12-31", 400),
                         (f"/rooms/{ROOM}/plans?from=yesterday&to=2026-12-31", 400), (f"/sessions/{session}/manifests/1/receipt", 404)):
        answer = await line.http.get(base + path)
        assert answer.status_code == status and answer.headers["content-type"] == "application/problem+json"
    assert (await line.http.get(f"{base}/rooms/000000-KD01-R02/plans?from=2026-01-01&to=2026-01-02")).status_code == 403
    wrong_type = await line.http.put(f"{base}/sessions/{session}/open", content=device.open(session).envelope)
    assert wrong_type.status_code == 400 and wrong_type.json()["code"] == "media-type"
    large = await line.http.put(f"{base}/sessions/{session}/open", content=bytes(2 << 20),
                                headers={"content-type": "application/vnd.dsse+json"})
    assert large.status_code == 413


async def test_every_operation_of_the_contract_is_there(line: Line) -> None:
    for template, operations in CONTRACT["paths"].items():
        path = template.format(roomCode=ROOM, planId="P1", sessionId="S20260101-KD01-R01-01", revision=1, digest="0" * 64)
        for method in operations:
            answer = await line.http.request(method, f"{line.base}/edge/v1{path}")
            assert answer.headers["content-type"] == "application/problem+json" and answer.json()["code"] not in ("", None), template


def test_the_contract_names_every_path_of_the_simulated_platform(authority: Authority, tmp_path: Path) -> None:
    app = build_platform(authority, tmp_path, ROOM, SystemClock())
    paths = {path.removeprefix("/edge/v1") for path in app.openapi()["paths"] if path.startswith("/edge/v1")}
    assert paths == set(CONTRACT["paths"])
