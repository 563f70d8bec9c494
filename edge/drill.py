"""`edge drill`: rehearse a whole session on the running room, the way an installer proves a room.

A client of the room's local socket that calls the same verbs with drill staff; the session's kind is `drill` and says so in its manifest.
It starts a demo room if none runs (and stops it again), and refuses while a session is live. Where the reader is the simulated one,
sample cards are laid on it. Each step is timed; the report's last line is one JSON object with `--json`. Exit code 0 only if every step
worked, the platform accepted the manifest, and the exported copy verifies.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from edge import demo
from edge.config import load
from edge.programs import edge
from edge.sim import card_reader
from edge.sim.people import PEOPLE

T = TypeVar("T")

CHIEF, FIRST, SECOND = "DRILL-CHIEF", "DRILL-P1", "DRILL-P2"
READY_S, ACCEPT_S, SEAL_S = 60, 60, 40


class DrillFailed(Exception):
    """A step did not work; the text says which and why."""


@dataclass(slots=True)
class Report:
    """What the drill found. `steps`: seconds each."""

    ok: bool = False
    session: str = ""
    steps: dict[str, float] = field(default_factory=dict)
    streams: dict[str, dict[str, float]] = field(default_factory=dict)
    checkins: int = 0
    refused: int = 0
    manifest_sha256: str = ""
    receipt: str = ""
    verify: str = ""
    waivers: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str = ""


def drill(config_run: Path | None, seconds: int, as_json: bool, demo_folder: Path) -> int:
    """Run it. `config_run`: the run folder of a configured room; None: the demo room in `demo_folder`."""
    return asyncio.run(_drill(config_run, seconds, as_json, demo_folder))


async def _drill(config_run: Path | None, seconds: int, as_json: bool, demo_folder: Path) -> int:
    report, own = Report(), None
    try:
        run = config_run or await _demo_run(demo_folder)
        if not await _answers(run):
            if config_run is not None:
                raise DrillFailed(f"no room answers on {run / 'room.sock'}. Start it (systemctl start edge edge-recorder), then try again.")
            _say("no room is running: starting the demo room for this drill")
            own = await _start_demo(demo_folder)
            run = await _step(report, "start", _until_up(demo_folder, own))
        await _rehearse(run, seconds, report)
        report.ok = True
    except (DrillFailed, httpx.HTTPError, OSError) as error:
        report.error = str(error) or type(error).__name__
    finally:
        if own is not None:
            with suppress(ProcessLookupError):
                own.terminate()
            await own.wait()
    _print(report, as_json)
    return 0 if report.ok else 1


async def _rehearse(run: Path, seconds: int, report: Report) -> None:
    room = Room(run)
    pins = {staff: f"{secrets.randbelow(10**6):06d}" for staff in (CHIEF, FIRST, SECOND)}
    simulated = (run / "sim-card-reader.sock").exists()
    people = [p for p in PEOPLE if p.in_session] if simulated else []
    try:
        order = {"minutes": max(1, -(-seconds // 60)),
                 "staff": [{"staff_id": staff, "name": staff, "role": "chief" if staff == CHIEF else "proctor", "pin": pin}
                           for staff, pin in pins.items()],
                 "candidates": [{"candidate_id": p.candidate_id, "name": p.name, "number": p.id_no, "seat": p.seat,
                                 "person_category": p.category} for p in people]}
        report.session = (await room.post("/drill", order))["session"]
        await _step(report, "preflight", _preflight(room, report, pins))
        await _step(report, "open", room.do(report.session, "open_checkin", by=CHIEF))
        if simulated:
            await _step(report, "checkin", _check_in(run, [p.name for p in people]))
        await _step(report, "start_exam", _until(lambda: room.do(report.session, "start_exam", by=CHIEF, held_ms=2000), 10))
        await _step(report, "exam", _exam(room, report.session, seconds))
        await _step(report, "end_exam", room.do(report.session, "end_exam", by=CHIEF, pin=pins[CHIEF], held_ms=2000))
        await _step(report, "seal", _seal(room, report.session, pins))
        await _step(report, "accept", _accepted(room, report))
        await _step(report, "verify", _verify(room, report))
    finally:
        await _account(room, report)
        await room.close()


class Room:
    """The local socket as a client."""

    def __init__(self, run: Path) -> None:
        self._http = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(run / "room.sock")), base_url="http://room", timeout=120)

    async def get(self, path: str) -> Any:
        return self._read(await self._http.get(path))

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        return self._read(await self._http.post(path, json=body))

    async def do(self, session: str, verb: str, **arguments: Any) -> None:
        await self.post(f"/sessions/{session}/{verb}", arguments)

    def _read(self, answer: httpx.Response) -> Any:
        body = answer.json()
        if answer.status_code >= 400:
            facts = ", ".join(f"{k}: {v}" for k, v in body.get("facts", {}).items())
            raise DrillFailed(f"the room refused: {body.get('refusal', 'unknown')}" + (f" ({facts})" if facts else ""))
        return body

    async def close(self) -> None:
        await self._http.aclose()


async def _preflight(room: Room, report: Report, pins: dict[str, str]) -> None:
    session = report.session
    await room.do(session, "begin_preflight", by=CHIEF)
    for staff, pin in pins.items():
        await room.do(session, "sign_in", staff_id=staff, pin=pin)
    await room.do(session, "check_exits", by=FIRST)
    until = time.monotonic() + READY_S
    found: dict[str, Any] = {"items": [], "result": "not-ready"}
    while time.monotonic() < until:
        found = await room.get(f"/sessions/{session}/preflight")
        if found["result"] != "not-ready":
            break
        await asyncio.sleep(0.5)
    report.warnings = [f"{i['key']}: {i['word']}" for i in found["items"] if i["light"] == "amber"]
    red = [i for i in found["items"] if i["light"] == "red" and not i["waived"]]
    for item in (i for i in red if i["waivable"]):
        await room.do(session, "waive", item=item["key"], reason="drill", by=CHIEF, second=FIRST, second_pin=pins[FIRST])
        report.waivers.append(item["key"])
    if barred := [f"{i['key']} ({i['word']})" for i in red if not i["waivable"]]:
        raise DrillFailed("preflight is red: " + ", ".join(barred))


async def _check_in(run: Path, names: list[str]) -> None:
    for name in names:
        if not await card_reader.tap(run / "sim-card-reader.sock", name):
            raise DrillFailed("a card was laid on the simulated reader and the room did not read it")


async def _exam(room: Room, session: str, seconds: int) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        _say(f"exam: {round(left)} s left")
        await asyncio.sleep(min(5, left))


async def _seal(room: Room, session: str, pins: dict[str, str]) -> None:
    await room.do(session, "seal", by=CHIEF, pin=pins[CHIEF], second=FIRST, second_pin=pins[FIRST], room_empty=True,
                  absences_confirmed=True)

    async def signed() -> None:
        if not any(r["digest"] for r in (await room.get(f"/sessions/{session}"))["revisions"]):
            raise DrillFailed("the session is sealed, but its manifest is not signed")

    await _until(signed, SEAL_S)


async def _accepted(room: Room, report: Report) -> None:
    async def answered() -> None:
        last = (await room.get(f"/sessions/{report.session}"))["revisions"][-1]
        report.manifest_sha256, report.receipt = last["digest"], last["verdict"] or "none"
        if last["verdict"] != "accepted":
            raise DrillFailed(f"the platform has not accepted the manifest (receipt: {report.receipt}"
                              f"{', refused: ' + last['receipt_refused'] if last['receipt_refused'] else ''})")

    await _until(answered, ACCEPT_S)


async def _verify(room: Room, report: Report) -> None:
    with tempfile.TemporaryDirectory(prefix="edge-drill-") as folder:
        found = await room.post(f"/sessions/{report.session}/files/export", {"to": str(Path(folder) / "export"), "by": CHIEF})
    report.verify = found["verdict"]
    if found["verdict"] == "FAIL":
        raise DrillFailed(f"the exported session does not verify: {found['first']}")


async def _account(room: Room, report: Report) -> None:
    """Numbers for the report, also of a drill that failed half-way."""
    if not report.session:
        return
    try:
        facts = await room.get(f"/sessions/{report.session}")
    except (httpx.HTTPError, DrillFailed):
        return
    report.checkins, report.refused = facts["admitted"], facts["refused"]
    report.streams = {name: {"frames": s["frames"], "gaps": s["gaps"], "bytes": s["bytes"], "seconds": s["ms"] / 1000}
                      for name, s in facts["streams"].items()}


# ---- steps and waiting ------------------------------------------------------------------------------------------------

async def _step(report: Report, name: str, work: Awaitable[T]) -> T:
    _say(f"{name} …")
    began = time.monotonic()
    try:
        return await work
    except (DrillFailed, httpx.HTTPError) as error:
        raise DrillFailed(f"{name}: {error or type(error).__name__}") from error
    finally:
        report.steps[name] = round(time.monotonic() - began, 2)


async def _until(attempt: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Try twice a second until it works or the time is over; then the last failure stands."""
    until = time.monotonic() + seconds
    while True:
        try:
            return await attempt()
        except DrillFailed:
            if time.monotonic() > until:
                raise
            await asyncio.sleep(0.5)


async def _answers(run: Path) -> bool:
    room = Room(run)
    try:
        await room.get("/state")
        return True
    except (httpx.HTTPError, OSError):
        return False
    finally:
        await room.close()


async def _demo_run(folder: Path) -> Path:
    path = demo.config_path(folder)
    if not path.exists():
        return folder / "run"
    return load(path).paths.run


async def _start_demo(folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(*edge("demo", "--dir", str(folder)), stdin=asyncio.subprocess.DEVNULL,
                                                stdout=asyncio.subprocess.DEVNULL, start_new_session=True)


async def _until_up(folder: Path, process: asyncio.subprocess.Process) -> Path:
    until = time.monotonic() + READY_S
    while time.monotonic() < until:
        if process.returncode is not None:
            raise DrillFailed(f"the demo room ended while starting (code {process.returncode}); run `edge demo` to see why")
        run = await _demo_run(folder)
        if await _answers(run):
            return run
        await asyncio.sleep(0.3)
    raise DrillFailed(f"the demo room did not answer within {READY_S} s")


def _say(text: str) -> None:
    print(f"drill: {text}", file=sys.stderr, flush=True)


def _print(report: Report, as_json: bool) -> None:
    if report.error:
        _say(f"FAILED: {report.error}")
    if not report.session:
        if as_json:
            print(json.dumps({name: getattr(report, name) for name in Report.__dataclass_fields__}, ensure_ascii=False))
        return
    lines = [f"session  {report.session}", *(f"{name:<11}{seconds:7.2f} s" for name, seconds in report.steps.items())]
    lines += [f"{name:<11}{s['frames']:.0f} frames, {s['seconds']:.1f} s, {s['bytes']:.0f} bytes, {s['gaps']:.0f} gaps"
              for name, s in report.streams.items()]
    lines += [f"check-ins  {report.checkins} admitted, {report.refused} refused", f"manifest   {report.manifest_sha256}",
              f"receipt    {report.receipt}", f"verify     {report.verify}",
              f"waivers    {', '.join(report.waivers) or 'none'}", f"warnings   {', '.join(report.warnings) or 'none'}"]
    print("\n".join(lines))
    if as_json:
        print(json.dumps({name: getattr(report, name) for name in Report.__dataclass_fields__}, ensure_ascii=False))
