"""Attendance in a manifest: every way in says itself which it was, who answers for it, and what came of a doubt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema

from edge.clock import US, Stamp
from edge.evidence import chain, manifest
from edge.sessions import events as e

SESSION = "S20261126-KD01-R01-02"
AT = Stamp(1_795_672_800 * US, 9 * US, "boot")
ROOM = manifest.RoomFacts("KD01", "000000-KD01-R01", "D-1", "5" * 64, "0", "6" * 64, "7" * 64, "boot", "site-1", True)
SCHEMA = json.loads((Path(__file__).parents[2] / "docs/schemas/manifest.json").read_text(encoding="utf-8"))


def rows_of(door: Sequence[e.Event], absent: tuple[str, ...] = (), after: Sequence[e.Event] = ()) -> list[e.Recorded]:
    """A session in which `door` happened between opening and end, and `after` after the seal (revision 2)."""
    events = [
        e.SessionPlanned(at=AT, session=SESSION, plan_id="P1", session_kind="exam_theory", title="t", scheduled_start_us=AT.utc_us,
                         duration_min=1, staff={"T001": "chief"}, min_proctors=1, late_cutoff_min=1, checkin_open_min=1,
                         retention_policy="RP-GENERAL-3Y", plan_sha256="1" * 64, source="platform"),
        e.RosterAccepted(at=AT, session=SESSION, version=1, count=1, roster_sha256="2" * 64, source="platform"),
        e.CheckinOpened(at=AT, session=SESSION, by="T001", session_seq=1, streams={}, readings={}, clock_state="synced"),
        e.OpenSigned(at=AT, session=SESSION, digest="3" * 64), *door,
        e.ExamEnded(at=AT, session=SESSION, by="T001", outcome="completed"),
        e.SealOrdered(at=AT, session=SESSION, by="T001", second="T002", statement="s", absent=absent),
        e.Sealed(at=AT, session=SESSION, revision=1, opened_total=1, closed_total=1, keep_until="2030-01-01", retention_policy="p",
                 retention_basis="b", manifest_version=2)]
    if after:
        events += [e.ManifestSigned(at=AT, session=SESSION, revision=1, digest="8" * 64), *after,
                   e.SessionAmended(at=AT, session=SESSION, revision=2, reason="attendance-corrected", amends="8" * 64)]
    rows: list[e.Recorded] = []
    for event in events:
        rows.append(chain.follow(len(rows) + 1, event, rows[-1].hash if rows else chain.GENESIS))
    return rows


def document(rows: list[e.Recorded], revision: int = 1) -> dict[str, Any]:
    made = manifest.manifest(rows, ROOM, revision)
    jsonschema.validate(made, SCHEMA)
    assert chain.canonical(made)
    return made


def attendance(rows: list[e.Recorded], revision: int = 1) -> dict[str, dict[str, Any]]:
    """candidate_id -> its entry, without the moments."""
    return {a["candidate_id"]: {k: v for k, v in a.items() if k not in ("candidate_id", "at", "journal_seq")}
            for a in document(rows, revision)["attendance"]}


def admitted(candidate: str, method: str = "id_card", **more: Any) -> e.Event:
    return e.CandidateAdmitted(at=AT, session=SESSION, candidate_id=candidate, subject="4" * 64, method=method, **{"seat": "01", **more})


def about(kind: type[e.Event], candidate: str, **more: Any) -> e.Event:
    return kind(at=AT, session=SESSION, **{"candidate_id": candidate, **more})


def hashed(text: str) -> str:
    return chain.sha256_hex(text.encode())


def test_an_ordinary_card_says_no_more_than_before() -> None:
    assert attendance(rows_of([admitted("C1")])) == {"C1": {"result": "admitted", "subject": "4" * 64, "seat": "01", "method": "id_card"}}


def test_r9_each_method_is_visible_in_attendance_and_identity_checks() -> None:
    made = document(rows_of([
        admitted("C1"), admitted("C2", "manual", exception="E-NO-CARD", by="T002", photo="photos/x.jpg", photo_sha256="9" * 64, seat="02"),
        admitted("C3", "id_card", exception="E-LATE", by="T001", reason="堵车", seat="03"),
        admitted("OFF-7", "id_card", exception="E-NOT-ON-ROSTER", by="T001", second="T002", reason="补报", seat=None),
        about(e.AttendanceCorrected, "C5", result="present", by="T001", reason="阅读器故障", subject="5" * 64, seat="05")]))
    found = {a["candidate_id"]: a for a in made["attendance"]}
    assert {c: a["method"] for c, a in found.items()} == {"C1": "id_card", "C2": "manual", "C3": "id_card", "OFF-7": "id_card",
                                                          "C5": "corrected"}
    assert (found["C2"]["exception"], found["C2"]["by"], found["C2"]["photo_sha256"]) == ("E-NO-CARD", "T002", "9" * 64)
    assert found["C2"]["doubt"] == {"code": "E-NO-CARD", "signed": [], "outcome": "open"}
    assert (found["C3"]["exception"], found["C3"]["reason_sha256"]) == ("E-LATE", hashed("堵车")) and "doubt" not in found["C3"]
    assert (found["OFF-7"]["by"], found["OFF-7"]["second"]) == ("T001", "T002")
    assert found["C5"]["corrected"]["result"] == "present" and found["C5"]["doubt"]["outcome"] == "open"
    assert [(c["candidate_id"], c["method"], c.get("code")) for c in made["identity_checks"]] == [
        ("C1", "id_card", None), ("C2", "manual", "E-NO-CARD"), ("C3", "id_card", "E-LATE"), ("OFF-7", "id_card", "E-NOT-ON-ROSTER")]
    text = json.dumps(made, ensure_ascii=False)
    assert "photos/" not in text and "堵车" not in text and "补报" not in text, "no picture's place, no free text"


def test_a_doubt_tells_who_compared_and_how_it_ended() -> None:
    found = attendance(rows_of([
        admitted("C2", "manual", exception="E-NO-CARD", by="T002", no_photo="no-camera"), about(e.DoubtSigned, "C2", staff_id="T002"),
        about(e.DoubtSigned, "C2", staff_id="T003"), about(e.DoubtSettled, "C2", outcome="cleared", by="T001"),
        admitted("C1", seat="09"), about(e.IdentityDoubted, "C1", code="E-PHOTO-DOUBT", by="T003", reason="不像"),
        about(e.DoubtSettled, "C1", outcome="escalated", by="T001", reason="交省厅")]))
    assert found["C2"]["no_photo"] == "no-camera"
    assert found["C2"]["doubt"] == {"code": "E-NO-CARD", "signed": ["T002", "T003"], "outcome": "cleared", "by": "T001"}
    assert found["C1"]["doubt"] == {"code": "E-PHOTO-DOUBT", "signed": [], "outcome": "escalated", "by": "T001",
                                    "reason_sha256": hashed("交省厅")}


def test_seat_and_leaving_are_as_they_stood_at_the_end() -> None:
    made = document(rows_of([
        admitted("C1"), about(e.SeatAssigned, "C1", seat="21", by="T002", reason="蓝屏", before="01"),
        about(e.CandidateLeft, "C1", by="T002", final=False), about(e.CandidateReturned, "C1", method="id_card"),
        admitted("C2", seat=None), about(e.CandidateLeft, "C2", by="T002", final=True),
        about(e.SeatAssigned, "C3", seat="22", by="T002", reason="换机")], absent=("C3",)))
    one, two, three = made["attendance"]
    assert (one["seat"], "left" in one) == ("21", False)
    assert two["left"]["final"] is True and set(two["left"]) == {"final", "at", "journal_seq"}
    assert three["result"] == "absent"


def test_a_corrected_admission_is_absent_and_says_so() -> None:
    taken_back = about(e.AttendanceCorrected, "C1", result="absent", by="T001", reason="刷错卡")
    for absent in ((), ("C1",)):
        found = attendance(rows_of([admitted("C1"), taken_back], absent))
        assert found["C1"]["result"] == "absent" and "method" not in found["C1"]
        assert (found["C1"]["corrected"]["by"], found["C1"]["corrected"]["reason_sha256"]) == ("T001", hashed("刷错卡"))
    again = attendance(rows_of([admitted("C1"), taken_back, admitted("C1", seat="02")]))
    assert (again["C1"]["result"], again["C1"]["seat"], again["C1"]["corrected"]["result"]) == ("admitted", "02", "absent")


def test_4_5_5_a_correction_after_the_seal_is_in_the_next_revision_and_leaves_the_first_as_it_was() -> None:
    before = rows_of([admitted("C1"), admitted("C2", seat="02")])
    rows = rows_of([admitted("C1"), admitted("C2", seat="02")], after=[
        about(e.AttendanceCorrected, "C1", result="absent", by="T001", reason="冒名")])
    assert document(rows, 1) == document(before, 1)
    assert attendance(rows, 2)["C1"]["result"] == "absent" and attendance(rows, 2)["C2"] == attendance(rows, 1)["C2"]
    assert document(rows, 2)["amend_reason_sha256"] == hashed("attendance-corrected")
