"""Attendance and what happened, as tables for people: rows of text, and CSV of them. Names and numbers are masked unless told otherwise.

Made of the signed manifest and the session's rows; names come from the room's list, which is purged in time: then they are left out.
Times are the room's wall clock (China). Caller: `export`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edge.clock import LOCAL, US, parse_utc
from edge.sessions import events as e
from edge.sessions.identity import mask_name, mask_number, mask_within

ATTENDANCE = ("座位 Seat", "姓名 Name", "证件号码 ID number", "准考证号 Admission no.", "结果 Result", "时间 Time", "方式 Method",
              "代码 Code", "存疑 Doubt", "离开 Left")
INCIDENTS = ("时间 Time", "日志序号 Journal", "事件 Fact", "对象 Of", "代码 Code", "经手 By", "说明 Reason")

_TOLD: tuple[type[e.Event], ...] = (
    e.WaiverGranted, e.AdmissionRefused, e.CandidateAdmitted, e.SeatAssigned, e.CandidateLeft, e.CandidateReturned, e.IdentityDoubted,
    e.DoubtSettled, e.AttendanceCorrected, e.ClockStepped, e.StreamImpaired, e.StreamRestored, e.GapDeclared, e.ExamEnded, e.SessionAmended,
    e.IncidentReported, e.IncidentSettled, e.StreamLost, e.StreamBack, e.ReaderLost, e.ReaderBack, e.ExamStarted, e.RosterAccepted)
"""Facts that somebody who judges the session wants to see; an ordinary admission is none of them."""

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Listed:
    """A person as the room's list has him."""

    name: str
    number: str
    admission_no: str
    seat: str | None


def attendance(document: Mapping[str, Any], people: Mapping[str, Listed], *, full: bool) -> list[Row]:
    """One row a person: everybody of the manifest and of the list, by seat. `people`: by candidate id."""
    entries = {entry["candidate_id"]: entry for entry in document["attendance"]}
    rows = []
    for each in entries.keys() | people.keys():
        entry, listed = entries.get(each, {}), people.get(each)
        name, number, admission = _shown(listed, full)
        rows.append((str(entry.get("seat") or (listed.seat if listed else "") or ""), name or each, number, admission,
                     str(entry.get("result", "")), _at(entry.get("at")), str(entry.get("method", "")),
                     str(entry.get("exception", entry.get("code", ""))), str(entry.get("doubt", {}).get("outcome", "")),
                     _at(entry.get("left", {}).get("at"))))
    return sorted(rows, key=lambda row: (not row[0], row))


def _shown(listed: Listed | None, full: bool) -> Row:
    if listed is None:
        return "", "", ""
    if full:
        return listed.name, listed.number, listed.admission_no
    return mask_name(listed.name), mask_number(listed.number), mask_within(listed.admission_no)


def incidents(rows: Sequence[e.Recorded], people: Mapping[str, Listed], *, full: bool) -> list[Row]:
    """What was out of the ordinary, in order. Nobody is named but as `attendance` names him."""
    return list(_incidents(rows, people, full))


def _incidents(rows: Sequence[e.Recorded], people: Mapping[str, Listed], full: bool) -> Iterator[Row]:
    for row in rows:
        fact = row.event
        ordinary = (isinstance(fact, e.CandidateAdmitted) and fact.exception is None and fact.method != "manual") or (
            isinstance(fact, e.ExamEnded) and fact.outcome == "completed" and fact.reason is None) or (
            isinstance(fact, e.ExamStarted) and fact.reason is None) or (isinstance(fact, e.RosterAccepted) and fact.source != "import")
        if not isinstance(fact, _TOLD) or ordinary:
            continue
        body = e.encode(fact)
        who = body.get("candidate_id")
        of = (_shown(people.get(who), full)[0] or who) if who else body.get("stream", body.get("item", ""))
        code = next((str(body[key]) for key in ("code", "exception", "rule", "result", "outcome") if key in body), "")
        by = ", ".join(str(body[key]) for key in ("by", "second") if key in body)
        reason = str(body.get("detail", body.get("reason", "")))
        yield (_local(fact.at.utc_us), str(row.seq), fact.kind, str(of), code, by, _detail(fact, reason if full else _hide(reason, people)))


def _hide(text: str, people: Mapping[str, Listed]) -> str:
    """What somebody wrote, with the numbers in it masked, and the names of those on the list."""
    for listed in people.values():
        if len(listed.name) > 1:
            text = text.replace(listed.name, mask_name(listed.name))
    return mask_within(text)


def _detail(fact: e.Event, reason: str) -> str:
    match fact:
        case e.GapDeclared():
            return f"{_local(fact.from_utc_us)} – {_local(fact.to_utc_us)}, {fact.dur_us / US:.1f} s, {reason}"
        case e.ClockStepped():
            return f"{fact.delta_us / US:+.3f} s"
        case e.IncidentReported():
            return f"{fact.number}: {_local(fact.happened_utc_us)}, {reason}"
        case e.IncidentSettled():
            return f"{fact.number}: {fact.informed or reason}"
        case e.SeatAssigned():
            return f"{fact.before or '–'} → {fact.seat} {reason}"
        case _:
            return reason


def as_csv(head: Row, rows: Sequence[Row]) -> bytes:
    """UTF-8 with its mark, because Excel takes a file without one for GBK; no cell is one that a spreadsheet takes for a formula."""
    table = io.StringIO()
    out = csv.writer(table, lineterminator="\r\n")
    out.writerows([head, *(tuple(f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell for cell in row) for row in rows)])
    return ("\ufeff" + table.getvalue()).encode()


def _at(utc: str | None) -> str:
    return _local(parse_utc(utc)) if utc else ""


def _local(utc_us: int) -> str:
    return datetime.fromtimestamp(utc_us / US, LOCAL).strftime("%Y-%m-%d %H:%M:%S")
