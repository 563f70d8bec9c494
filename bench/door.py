#!/usr/bin/env python3
"""How long a person waits at the door for the machine: from the reader's last byte to the verdict on the page, in a room that records.

Real processes: recorder with its workers on live cameras, room, simulated platform that signed a list of 200; a real Chromium in which the
chief has the check-in page open; a simulated reader behind a pty, at the pace of its line. First 25 cards one upon the other (how many
the machine could take in a minute), then one by one. Last, the search over 1,000 rows. Prints a Markdown table; the last line is one JSON
object. By hand: bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Error as BrowserError
from playwright.sync_api import Page, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.laid import BITS_PER_BYTE, LaidReader, now_us, people
from bench.rig import Hall, Unfit, conditions, finish
from edge import demo, durable
from edge.clock import iso_utc
from edge.config import Config
from edge.evidence.envelope import ROSTER, seal
from edge.idcheck import wire
from edge.sessions.identity import Identity
from edge.sim.authority import Authority
from edge.sim.plans import etag_of

LISTED, ROWS, QUEUE = 200, 1000, 25
SEARCHES = 200
GOALS = {"verdict_ms_p95": 150.0, "verdict_ms_p99": 300.0, "search_ms_p95": 100.0}
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
                  "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"]
SEEN_S, READY_S = 10, 60
PINS = {staff_id: pin for staff_id, _, _, _, pin in demo.LOGINS}
PASSWORDS = {staff_id: password for staff_id, _, _, password, _ in demo.LOGINS}
OWN_MS = {"find": 20, "select": 20, "read": 500}
COMMANDS = {"find": wire.FIND, "select": wire.SELECT, "read": wire.READ}

ROOM = """[room]
code = "000000-KD01-R01"
name = "第 1 考场"
allow_demo_ids = true

[paths]
state = "../demo/state"
footage = "../demo/footage"
run = "../demo/run"

[web]
port = 8000

[clock]
require_sync = false

[reader]
port = "../demo/run/card-reader"
baud = {baud}

[platform]
url = "http://127.0.0.1:8900/edge/v1"
plans_s = 5
"""
CAMERA = """
[[streams]]
id = "cam-{number}"
kind = "rtsp"
name_zh = "摄像 {number}"
name_en = "Camera {number}"
url = "{url}"
"""
WATCH = """() => {
  // Each new verdict: when it stood in the document, and when a frame with it, in its colour, had been painted. htmx lets a replaced
  // element keep the class of the one before for a moment; while it does, the verdict does not count as shown.
  window.verdicts = [];
  const live = document.getElementById("verdict-live"), shown = () => live.querySelector("[data-verdict]");
  let last = shown()?.dataset.verdict ?? "", seen = 0;
  new MutationObserver(() => {
    const told = shown();
    if (!told || told.dataset.verdict === last) return;
    if (!seen) seen = performance.now();
    if (told.classList.contains("htmx-added")) return;
    const fact = { key: told.dataset.verdict, seen, light: told.className, text: told.innerText };
    [last, seen] = [fact.key, 0];
    requestAnimationFrame(() => {                 // runs before the frame's style, layout and paint; a task sent from here, after them
      const after = new MessageChannel();
      after.port1.onmessage = () => window.verdicts.push({ ...fact, painted: performance.now() });
      after.port2.postMessage(0);
    });
  }).observe(live, { childList: true, subtree: true, attributes: true });
}"""
NEXT = """([count, most]) => new Promise((done, failed) => {
  const until = performance.now() + most, look = () => {
    if (window.verdicts.length > count) done(window.verdicts[count]);
    else if (performance.now() > until) failed(new Error("no verdict on the page"));
    else setTimeout(look, 10);
  };
  look();
})"""


@dataclass(frozen=True, slots=True)
class Clocks:
    """The browser's clock and ours: `offset_us` + 1000 * performance.now() is our moment, to ± `error_us`."""

    offset_us: int
    error_us: int


@dataclass(slots=True)
class Found:
    """Milliseconds from the last byte: to the room's stamp on the checked card, to the verdict in the document, to its painted frame."""

    read: list[float] = field(default_factory=list)
    in_document: list[float] = field(default_factory=list)
    painted: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    search: list[float] = field(default_factory=list)
    queue_s: float = 0.0
    error_us: int = 0
    drift_us: int = 0
    load: str = ""


class Door:
    """A room in its own folder with the doors open: `with` starts the programs, prepares the session, and ends them."""

    def __init__(self, hall: Hall, cameras: int, baud: int, own_ms: dict[str, int]) -> None:
        self._hall, self._folder = hall, hall.folder / "room"
        template = hall.folder / "room.toml"
        cams = "".join(CAMERA.format(number=i, url=hall.url(i)) for i in range(1, cameras + 1))
        template.write_text(ROOM.format(baud=baud) + cams, encoding="utf-8")
        self.config: Config = demo.prepare(self._folder, 0, 0, template)
        self.people = people(ROWS)
        self.session = publish(self._folder / "platform", self.config.room.code, self.people[:LISTED])
        self.reader = LaidReader(self.config.reader.port, baud, {COMMANDS[name]: ms / 1000 for name, ms in own_ms.items()})
        self._local = httpx.Client(transport=httpx.HTTPTransport(uds=str(self.config.paths.run / "room.sock")), base_url="http://room",
                                   timeout=30)
        self._programs: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Door:
        try:
            for program in demo.programs(self._folder, self.config):
                if program.name != "card-reader":
                    self._programs.append(self._hall.start(program.argv, program.name))
            self._hall.wait(self._recording, "every camera is recorded and the list has come")
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._local.close()
        finish(self._programs[::-1])
        self.reader.close()
        if self._folder not in self.config.paths.run.parents:       # a long path: demo.prepare put the sockets elsewhere
            shutil.rmtree(self.config.paths.run, ignore_errors=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.config.web.port}"

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self._local.get("/state").json()
        return found

    def _recording(self) -> bool:
        try:
            state = self.state()
        except httpx.HTTPError:
            return False
        fresh = all(age is not None and age < 3000 for age in state["streams"].values())
        return fresh and self.session in state["sessions"] and state["reader"] == "ok"

    def _do(self, verb: str, **arguments: object) -> None:
        answer = self._local.post(f"/sessions/{self.session}/{verb}", json=arguments)
        if answer.status_code >= 400:
            raise Unfit(f"the room refused {verb}: {answer.text[:300]}")

    def _open(self) -> None:
        """Preflight as in a room; what may be waived is, because a bench's machine has no time server and a small disk."""
        self._do("begin_preflight", by="T001")
        for staff in ("T001", "T002", "T003"):
            self._do("sign_in", staff_id=staff, pin=PINS[staff])
        self._do("check_exits", by="T002")
        until = time.monotonic() + READY_S
        red: list[dict[str, Any]] = [{"key": "", "waivable": False}]
        while not all(item["waivable"] for item in red):
            if time.monotonic() > until:
                raise Unfit(f"preflight stays red: {', '.join(item['key'] for item in red)}")
            time.sleep(0.5)
            items = self._local.get(f"/sessions/{self.session}/preflight").json()["items"]
            red = [item for item in items if item["light"] == "red" and not item["waived"]]
        for item in red:
            self._do("waive", item=item["key"], reason="bench", by="T001", second="T002", second_pin=PINS["T002"])
        self._do("open_checkin", by="T001")


def publish(folder: Path, room: str, listed: Sequence[Identity]) -> str:
    """Today's one plan and its signed list, in the books of the simulated platform before it starts. Returns the session's id."""
    local = datetime.now(UTC).astimezone(timezone(timedelta(hours=8)))
    plan_id, session = f"P{local:%Y%m%d}-0001", f"S{local:%Y%m%d}-{room[7:]}-01"
    envelope = seal(ROSTER, {
        "type": "exam-roster/v1", "plan_id": plan_id, "session_id": session, "version": 1, "issued_utc": iso_utc(time.time_ns() // 1000),
        "room_code": room, "candidates": [{
            "candidate_id": f"BENCH-{i:04d}", "name": person.name, "id_type": "resident_id", "id_no": person.number,
            "admission_no": admission_no(i), "person_category": "GENERAL", "exam_kind": "INITIAL", "subject": "THEORY",
            "attempt_no": 1, "seat_no": f"{i:03d}", "demo": True} for i, person in enumerate(listed, 1)]},
        Authority.load(folder / "authority").platform)
    plan = {
        "plan_id": plan_id, "session_id": session, "session_type": "exam_theory", "room_code": room, "title": "样例考试",
        "person_category": "GENERAL", "trade": [], "exam_kind": "INITIAL", "subject": "THEORY", "training_org": "样例", "class_no": "样例",
        "scheduled_start": (local + timedelta(minutes=25)).isoformat(timespec="seconds"), "duration_min": 120,
        "rules": {"checkin_open_min": 30, "late_cutoff_min": 30, "earliest_leave_min": 30, "min_proctors": 2, "live_monitoring": True},
        "staff": [{"staff_id": who, "name": name, "role": "chief" if who == "T001" else "proctor"}
                  for who, name, role, _, _ in demo.LOGINS if role == "staff"],
        "roster_count": len(listed), "roster_etag": etag_of(envelope), "retention_policy": "RP-GENERAL-3Y", "state": "published"}
    for name in ("plans", "rosters"):
        durable.make_folder(folder / name)
    durable.replace(folder / "rosters" / f"{plan_id}.dsse.json", envelope)
    durable.replace(folder / "plans" / f"{local:%Y-%m-%d}.json", json.dumps([plan], ensure_ascii=False).encode())
    return session


def admission_no(i: int) -> str:
    return f"00000026112401{i:05d}"


# ---- the page ---------------------------------------------------------------------------------------------------------

def compare(page: Page, times: int = 60) -> Clocks:
    """Ask the page for its time, over and over: the quickest answer bounds how far its clock and ours can be apart."""
    best = Clocks(0, 10**9)
    for _ in range(times):
        before = now_us()
        theirs = float(page.evaluate("performance.now()")) * 1000
        after = now_us()
        if (after - before) // 2 < best.error_us:
            best = Clocks(round((before + after) / 2 - theirs), (after - before) // 2)
    return best


def tap(door: Door, page: Page, person: Identity, count: int) -> dict[str, Any]:
    """Lay a card down; the verdict number `count` of this page, once it is painted."""
    door.reader.lay(person)
    told: dict[str, Any] = page.evaluate(NEXT, [count, SEEN_S * 1000])
    return told


def queue(door: Door, page: Page) -> float:
    """The first 25 people, each card laid down in the moment in which the verdict before is read: seconds for all."""
    began = time.monotonic()
    for i in range(QUEUE):
        check(tap(door, page, door.people[i], i), f"{i + 1:03d}")
    took = time.monotonic() - began
    door.reader.lift()
    return took


def check(told: dict[str, Any], seat: str) -> None:
    """Unfit if the page says anything else than the seat to somebody who is listed and has not come yet."""
    if " ok" not in told["light"] or seat not in told["text"]:
        raise Unfit(f"the page should have shown seat {seat}; it said ({told['light']}): {told['text'][:120]!r}")


def one_by_one(door: Door, page: Page, taps: int, clocks: Clocks, found: Found) -> None:
    """Card after card, lifted when the verdict is read; the next comes after a moment. Who has come already comes again at the end."""
    rng, waiting = random.Random(1), [*range(QUEUE, LISTED)]       # noqa: S311 (a bench that can be repeated)
    rng.shuffle(waiting)
    for n in range(taps):
        time.sleep(rng.uniform(0.6, 1.0))       # the hand: lift, lay; longer than the driver's next look, so that it finds nothing once
        who = waiting[n] if n < len(waiting) else rng.randrange(LISTED)
        cards = len(door.reader.last_byte_us)
        told = tap(door, page, door.people[who], QUEUE + n)
        door.reader.lift()
        found.codes["admitted" if n < len(waiting) else "in already"] += 1
        if n < len(waiting):
            check(told, f"{who + 1:03d}")
        elif " ok" in told["light"]:
            raise Unfit(f"somebody who is in already was admitted again: {told['text'][:120]!r}")
        if len(door.reader.last_byte_us) != cards + 1:
            raise Unfit(f"the card was read {len(door.reader.last_byte_us) - cards} times for one verdict")
        last = door.reader.last_byte_us[cards]
        found.read.append((int(told["key"].partition("-")[0]) - last) / 1000)
        found.in_document.append((clocks.offset_us + told["seen"] * 1000 - last) / 1000)
        found.painted.append((clocks.offset_us + told["painted"] * 1000 - last) / 1000)


# ---- the search -------------------------------------------------------------------------------------------------------

def fill(door: Door) -> None:
    """A list has 200 at most; the rest of the 1,000 rows go straight into the room's table of people, beside the session's own."""
    with closing(sqlite3.connect(door.config.paths.state / "edge.db", timeout=20)) as database, database:
        body = database.execute("SELECT body FROM person WHERE session = ? LIMIT 1", (door.session,)).fetchone()[0]
        database.executemany(
            "INSERT INTO person (session, candidate_id, subject, number, name, admission_no, seat, person_category, trade, body) "
            "VALUES (?, ?, ?, ?, ?, ?, NULL, 'GENERAL', NULL, ?)",
            [(door.session, f"BENCH-{i:04d}", f"bench-{i}", person.number, person.name, admission_no(i), body)
             for i, person in enumerate(door.people[LISTED:], LISTED + 1)])


def search(door: Door, cookies: dict[str, str]) -> list[float]:
    """Milliseconds of a post as the page makes it: whole name, part of one, number tail, 准考证号, in turn; each must find its person."""
    rng, took = random.Random(2), []       # noqa: S311 (the same)
    headers = {"Origin": door.address, "Sec-Fetch-Site": "same-origin", "HX-Request": "true"}
    with httpx.Client(base_url=door.address, headers=headers, cookies=cookies, timeout=30) as client:
        for n in range(SEARCHES):
            i = rng.randrange(ROWS)
            person = door.people[i]
            asked = (person.name, person.name[3:], person.number[-5:], admission_no(i + 1))[n % 4]
            began = time.monotonic()
            answer = client.post(f"/s/{door.session}/find", data={"q": asked})
            took.append((time.monotonic() - began) * 1000)
            if answer.status_code != 200 or f"****{person.number[-4:]}" not in answer.text:
                raise Unfit(f"the search did not find who was asked for (status {answer.status_code})")
    return took


# ---- all of it --------------------------------------------------------------------------------------------------------

def measure(door: Door, taps: int) -> Found:
    """Log in, stand at the door, read off."""
    found = Found()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1366, "height": 768}, locale="zh-CN")
            page.goto(f"{door.address}/")
            page.fill("#staff_id", "T001")
            page.fill("#password", PASSWORDS["T001"])
            page.click("main button.primary")
            page.goto(f"{door.address}/s/{door.session}/checkin")
            page.evaluate(WATCH)
            clocks = compare(page)
            found.queue_s = queue(door, page)
            one_by_one(door, page, taps, clocks, found)
            after = compare(page)
            found.error_us, found.drift_us = max(clocks.error_us, after.error_us), after.offset_us - clocks.offset_us
            still = [name for name, age in door.state()["streams"].items() if age is None or age > 5000]
            if still:
                raise Unfit(f"not recorded at the end: {', '.join(still)}")
            found.load = " ".join(f"{load:.1f}" for load in os.getloadavg())
            fill(door)
            found.search = search(door, {str(c["name"]): str(c["value"]) for c in page.context.cookies()})
        finally:
            browser.close()
    return found


def percentile(values: Sequence[float], percent: int) -> float:
    """Nearest rank: the smallest value that so many percent of all are not above."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def table(found: Found) -> str:
    """Markdown for docs/benchmarks.md."""
    def row(name: str, values: Sequence[float]) -> str:
        return f"| {name} | {' | '.join(f'{value:.0f}' for value in (*(percentile(values, p) for p in (50, 95, 99)), max(values)))} |"

    rows = ["| from the reader's last byte to | p50 ms | p95 ms | p99 ms | most ms |", "|---|---|---|---|---|"]
    rows += [row("the card checked (the room's stamp)", found.read), row("the verdict in the page's document", found.in_document),
             row("**the verdict painted on the page**", found.painted), row(f"search over {ROWS} rows, from post to answer", found.search)]
    return "\n".join([*rows, "", f"{QUEUE} candidates in {found.queue_s:.1f} s of machine time: {QUEUE * 60 / found.queue_s:.1f} a minute. "
                      f"Taps: {', '.join(f'{count} {code}' for code, count in found.codes.items())}."])


def result(found: Found, where: dict[str, str]) -> dict[str, object]:
    figures: dict[str, float] = {"candidates_per_min": QUEUE * 60 / found.queue_s, f"candidates_{QUEUE}_s": found.queue_s,
                                 "taps": len(found.painted), "clock_error_ms": found.error_us / 1000}
    for name, values in (("verdict", found.painted), ("document", found.in_document), ("card", found.read), ("search", found.search)):
        figures |= {f"{name}_ms_p{percent}": percentile(values, percent) for percent in (50, 95, 99)}
    missed = [name for name, goal in GOALS.items() if figures[name] > goal] + (["candidates"] if found.queue_s > 180 else [])
    return {"name": "door", "conditions": where | {"load_after": found.load, "missed": ", ".join(missed) or "none"},
            "figures": {name: round(value, 3) for name, value in figures.items()}, "peer": {}, "ratio": {}}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench/door.py", description="from the reader's last byte to the verdict on the page")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--taps", type=int, default=500, help=f"cards after the first {QUEUE}")
    parser.add_argument("--streams", type=int, default=4, help="cameras that are recorded meanwhile")
    parser.add_argument("--baud", type=int, default=115_200, choices=(115_200, 57_600, 38_400, 19_200, 9_600), help="of the reader's line")
    for name, ms in OWN_MS.items():
        parser.add_argument(f"--{name}-ms", type=int, default=ms, help=f"the module's own time for {name}, beside the line's")
    args = parser.parse_args(argv)
    own = {name: int(getattr(args, f"{name}_ms")) for name in OWN_MS}
    if not 1 <= args.taps <= 1500 or not 1 <= args.streams <= 16 or not all(0 <= ms <= 900 for ms in own.values()):
        parser.error("--taps 1 to 1500, --streams 1 to 16, --find-ms, --select-ms and --read-ms 0 to 900")
    if not Path(CHROMIUM).exists():
        print(f"door: {CHROMIUM} is missing. Run: ./run --setup-only=test", file=sys.stderr)
        return 2
    where = conditions() | {
        "taps": f"{args.taps}", "streams": f"{args.streams} of rtsp-cams", "list": f"{LISTED}; for the search {ROWS} rows",
        "reader": f"{args.baud} baud, {BITS_PER_BYTE} bits a byte; the module's own times are assumed: "
                  + ", ".join(f"{name} {ms} ms" for name, ms in own.items()),
        "clocks": "reader and room: CLOCK_BOOTTIME; the browser's performance.now() laid over it by the quickest of 60 questions"}
    try:
        with Hall(args.streams, args.taps * 6 + 600) as hall, Door(hall, args.streams, args.baud, own) as door:
            found = measure(door, args.taps)
    except (Unfit, BrowserError, OSError, httpx.HTTPError, sqlite3.Error, subprocess.SubprocessError) as error:
        print(f"door: {error}", file=sys.stderr)
        return 2
    where["clocks"] += f" (to ±{found.error_us / 1000:.1f} ms; apart by {found.drift_us / 1000:.1f} ms more at the end)"
    if not args.json:
        print(table(found), end="\n\n")
    print(json.dumps(result(found, where), ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
