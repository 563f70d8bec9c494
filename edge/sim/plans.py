"""The simulated province's exam plans: made when first asked for on a day, and kept.

Batch 01 starts in the minute of the first asking, so that a demo can begin at once; batch 02, where 样例辛 is listed (who therefore
meets "wrong session" in batch 01), four hours later but on the same day. When no session of today is left that could be run now, a
further batch starting now is offered, so that a demo never runs out; a training class when somebody asks for one. Days are the room's
local days (UTC+8).
Called by `sim.platform` only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from edge import durable
from edge.clock import US, Clock, iso_utc, parse_utc
from edge.evidence.envelope import ROSTER, Signer, seal
from edge.sim.people import EMPLOYER, EMPLOYER_USCC, PEOPLE, SamplePerson

Plan = dict[str, Any]

LOCAL = timezone(timedelta(hours=8))
_DURATION_MIN = 120
_OPEN_BEFORE_MIN = 30
_LATER = timedelta(hours=4)
_MOST_BATCHES = 99
_EXAM_KINDS = {"初训": "INITIAL", "复审": "REVIEW"}
_SUBJECTS = {"理论": "THEORY", "实操·K1–K4": "K1"}
_OTHER_ROOM = "R02"
_EXAM = {"session_type": "exam_theory", "title": "特种作业安全技术理论考试(样例)", "retention_policy": "RP-SPECIAL-6Y"}
_CLASS = {"session_type": "training_class", "title": "特种作业安全技术培训(样例)", "retention_policy": "RP-CLASS-3Y"}
_STAFF = [
    {"staff_id": "T001", "name": "样例主考", "role": "chief"},
    {"staff_id": "T002", "name": "样例监考一", "role": "proctor"},
    {"staff_id": "T003", "name": "样例监考二", "role": "proctor"},
]


class Plans:
    """`opened` and `sealed` say of a session id whether the platform holds its announcement, its first manifest."""

    def __init__(self, folder: Path, room_code: str, signer: Signer, clock: Clock, *, opened: Callable[[str], bool],
                 sealed: Callable[[str], bool]) -> None:
        durable.make_folder(folder / "plans")
        durable.make_folder(folder / "rosters")
        self._folder = folder
        self._room_code = room_code
        self._signer = signer
        self._clock = clock
        self._opened = opened
        self._sealed = sealed

    def listed(self, first: date, last: date) -> list[Plan]:
        """The plans of these local days; today's are made or added to where they are wanted."""
        self._offer()
        days = sorted(date.fromisoformat(path.stem) for path in (self._folder / "plans").glob("*.json"))
        return [plan for day in days if first <= day <= last for plan in self._day(day)]

    def publish_class(self) -> Plan | None:
        """One more plan of today: the same people in a training class that starts in the next minute. None if the day is full."""
        today, begin = self._now()
        plans = self._day(today)
        if len(plans) >= _MOST_BATCHES:
            return None
        made = self._plan(today, len(plans) + 1, begin, [p for p in PEOPLE if p.in_session], _CLASS)
        self._keep(today, [*plans, made])
        return made

    def roster(self, plan_id: str) -> bytes | None:
        """The signed roster of a plan; None if there is no such plan."""
        known = {plan["plan_id"] for plan in self._all()}
        return self._roster_path(plan_id).read_bytes() if plan_id in known else None

    def knows(self, session: str) -> bool:
        """Whether any plan is for this session."""
        return any(plan["session_id"] == session for plan in self._all())

    def _all(self) -> Iterable[Plan]:
        for path in sorted((self._folder / "plans").glob("*.json")):
            yield from json.loads(path.read_bytes())

    def _offer(self) -> None:
        today, begin = self._now()
        plans = self._day(today)
        here, elsewhere = [p for p in PEOPLE if p.in_session], [p for p in PEOPLE if not p.in_session and not p.other_room]
        if not plans:
            last_minute = begin.replace(hour=23, minute=59) if begin.date() == today else begin
            later = min(begin + _LATER, last_minute) if begin < last_minute else begin + _LATER
            self._keep(today, [self._plan(today, 1, begin, here), self._plan(today, 2, later, elsewhere)])
        elif len(plans) < _MOST_BATCHES and not any(self._usable(plan) for plan in plans):
            self._keep(today, [*plans, self._plan(today, len(plans) + 1, begin, here)])

    def _now(self) -> tuple[date, datetime]:
        """Today, and the next whole minute."""
        now = datetime.fromtimestamp(self._clock.now().utc_us / US, UTC).astimezone(LOCAL)
        begin = now.replace(second=0, microsecond=0)
        return now.date(), begin + (timedelta(minutes=1) if begin < now else timedelta())

    def _usable(self, plan: Plan) -> bool:
        """It is being run, or could be opened now."""
        if self._sealed(plan["session_id"]):
            return False
        start_us, now_us = parse_utc(plan["scheduled_start"]), self._clock.now().utc_us
        in_time = start_us - _OPEN_BEFORE_MIN * 60 * US <= now_us <= start_us + _DURATION_MIN * 60 * US
        return in_time or self._opened(plan["session_id"])

    def _day(self, day: date) -> list[Plan]:
        path = self._folder / "plans" / f"{day.isoformat()}.json"
        plans: list[Plan] = json.loads(path.read_bytes()) if path.exists() else []
        return plans

    def _keep(self, day: date, plans: list[Plan]) -> None:
        durable.replace(self._folder / "plans" / f"{day.isoformat()}.json", json.dumps(plans, ensure_ascii=False, indent=1).encode())

    def _plan(self, day: date, batch: int, start: datetime, people: list[SamplePerson], kind: Plan = _EXAM) -> Plan:
        plan_id = f"P{day:%Y%m%d}-{batch:04d}"
        session_id = f"S{day:%Y%m%d}-{self._room_code[7:]}-{batch:02d}"
        etag = self._sign_roster(plan_id, session_id, day, people)
        return {
            "plan_id": plan_id, "session_id": session_id, "room_code": self._room_code, **kind, "person_category": "SPECIAL",
            "trade": sorted({code for person in people if person.category == "SPECIAL" and (code := _trade(person))}),
            "exam_kind": "INITIAL", "subject": "THEORY", "training_org": EMPLOYER, "class_no": f"样例{batch:02d}班",
            "scheduled_start": start.isoformat(timespec="seconds"), "duration_min": _DURATION_MIN,
            "rules": {"checkin_open_min": _OPEN_BEFORE_MIN, "late_cutoff_min": 30, "earliest_leave_min": 30, "min_proctors": 2,
                      "live_monitoring": True},
            "staff": _STAFF, "roster_count": len(people), "roster_etag": etag, "state": "published",
        }

    def _sign_roster(self, plan_id: str, session_id: str, day: date, people: list[SamplePerson]) -> str:
        envelope = seal(ROSTER, {
            "type": "exam-roster/v1", "plan_id": plan_id, "session_id": session_id, "version": 1,
            "issued_utc": iso_utc(self._clock.now().utc_us), "room_code": self._room_code,
            "candidates": [self._candidate(day, number, person) for number, person in enumerate(people, 1)],
            "elsewhere": [{"id_no": p.id_no, "room_code": f"{self._room_code[:-3]}{_OTHER_ROOM}"} for p in PEOPLE if p.other_room],
        }, self._signer)
        durable.replace(self._roster_path(plan_id), envelope)
        return etag_of(envelope)

    def _candidate(self, day: date, number: int, person: SamplePerson) -> dict[str, Any]:
        region, site, room = self._room_code.split("-")
        row: dict[str, Any] = {
            "candidate_id": person.candidate_id, "name": person.name, "id_type": "resident_id", "id_no": person.id_no,
            "admission_no": f"{region}{day:%y%m%d}{site[-2:]}{room[-2:]}{number:03d}", "person_category": person.category,
            "exam_kind": _EXAM_KINDS[person.exam_kind], "subject": _SUBJECTS[person.subject], "attempt_no": 1,
            "employer": EMPLOYER, "employer_uscc": EMPLOYER_USCC, "demo": True,
        }
        if person.seat is not None:
            row["seat_no"] = person.seat
        if person.on_hold:
            row["on_hold"] = True
        if (trade := _trade(person)) is not None:
            row["trade"] = trade
        if person.theory_passed_months_ago is not None:
            row["theory_passed_on"] = (day - timedelta(days=31 * person.theory_passed_months_ago)).isoformat()
        return row

    def _roster_path(self, plan_id: str) -> Path:
        return self._folder / "rosters" / f"{plan_id}.dsse.json"


def _trade(person: SamplePerson) -> str | None:
    """The trade's code where it has one (`1.2`), else its name."""
    return None if person.trade is None else person.trade.partition(" ")[0]


def etag_of(data: bytes) -> str:
    """A strong entity tag of these bytes (RFC 9110, 8.8.3)."""
    return f'"{hashlib.sha256(data).hexdigest()[:32]}"'
