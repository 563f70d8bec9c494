"""The manifest and the session-open: their schemas, that they are functions of the facts alone, and what must never stand in them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.clock import US, Stamp
from edge.evidence import chain, checks, manifest
from edge.sessions import events as e

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
OPTIONS: list[dict[str, Any]] = [{}, {"hole": "declared"}, {"online": False}, {"late": True, "hole": "declared"}, {"version": 1}]


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / name).read_text(encoding="utf-8"))


def valid(document: Any, name: str) -> bool:
    return bool(jsonschema.Draft202012Validator(schema(name)).is_valid(document))


@pytest.mark.parametrize("options", OPTIONS)
def test_what_is_signed_is_what_the_schemas_say(make_exam: Callable[..., Any], options: dict[str, Any]) -> None:
    exam = make_exam(**options)
    jsonschema.validate(exam.payload(exam.open), schema("session-open.json"))
    for data in exam.manifests.values():
        jsonschema.validate(exam.payload(data), schema("manifest-v1.json" if exam.version == 1 else "manifest.json"))
        assert not valid(exam.payload(data), "manifest.json" if exam.version == 1 else "manifest-v1.json"), "a version is not the other"
    for data in [*exam.receipts.values(), *([exam.open_receipt] if exam.open_receipt else [])]:
        jsonschema.validate(exam.payload(data), schema("receipt.json"))


@pytest.mark.parametrize("name", ["manifest.json", "manifest-v1.json", "session-open.json", "checkpoint.json", "receipt.json",
                                  "roster.json"])
def test_the_schemas_are_strict(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))
    for where, part in objects(schema(name)):
        assert "additionalProperties" in part, f"{name} {where} lets anything in"
    assert '"null"' not in json.dumps(schema(name)) and '"number"' not in json.dumps(schema(name))


def objects(part: Any, where: str = "$") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(part, dict):
        if part.get("type") == "object":
            yield where, part
        for key, each in part.items():
            yield from objects(each, f"{where}.{key}")
    elif isinstance(part, list):
        for each in part:
            yield from objects(each, where)


def test_the_verifier_knows_exactly_the_schema_s_parts() -> None:
    wanted = schema("manifest.json")
    assert set(checks.MANIFEST_SHAPE) == set(wanted["required"])
    assert set(checks.MANIFEST_SHAPE) | set(checks.OPTIONAL) == set(wanted["properties"])
    assert set(checks.SEGMENT_SHAPE) == set(wanted["properties"]["segments"]["items"]["required"])
    anchor = wanted["properties"]["clock"]["properties"]["anchors"]["items"]
    assert set(checks.ANCHOR_SHAPE) | {"state"} == set(anchor["required"])


def test_a_roster_by_its_schema() -> None:
    roster: dict[str, Any] = {
        "type": "exam-roster/v1", "plan_id": "P20261126-0007", "session_id": "S20261126-KD01-R01-02", "version": 3,
        "issued_utc": "2026-11-26T05:00:00.000Z", "room_code": "000000-KD01-R01", "candidates": [{
            "candidate_id": "C0001", "name": "样例甲", "id_type": "resident_id", "id_no": "000000199001010018",
            "admission_no": "0000002611260101001", "person_category": "SPECIAL", "trade": "1.2", "exam_kind": "INITIAL",
            "subject": "THEORY", "attempt_no": 1, "seat_no": "01", "demo": True}]}
    assert valid(roster, "roster.json")
    assert not valid({**roster, "candidates": [{**roster["candidates"][0], "seat_no": None}]}, "roster.json")
    assert not valid({**roster, "candidates": [{**roster["candidates"][0], "candidate_id": "000000199001010018"}]}, "roster.json")
    assert not valid({**roster, "more": 1}, "roster.json")


def test_the_facts_of_the_session_are_in_it(make_exam: Callable[..., Any]) -> None:
    exam = make_exam(hole="declared")
    document = exam.payload(exam.manifests[1])
    assert document["interval"] == {
        "start": {"utc": "2026-11-26T06:00:00.000Z", "boot_us": 5_000 * US, "boot_id": "11111111-2222-3333-4444-555555555555"},
        "end": {"utc": "2026-11-26T06:04:00.000Z", "boot_us": 5_240 * US, "boot_id": "11111111-2222-3333-4444-555555555555"}}
    assert [(a["candidate_id"], a["result"]) for a in document["attendance"]] == [
        ("C0001", "admitted"), ("C0002", "admitted"), ("C0003", "refused"), ("C0004", "absent")]
    assert [(c["result"], c.get("code")) for c in document["identity_checks"]] == [
        ("pass", None), ("pass", None), ("refused", "E-NOT-ON-ROSTER"), ("refused", "E-CARD-EXPIRED")]
    assert [(s["staff_id"], s["role"]) for s in document["signers"]] == [("T001", "chief"), ("T002", "proctor")]
    assert [(g["stream"], g["from_utc"], g["dur_us"], g["reason"]) for g in document["gaps"]] == [
        ("cam-front", "2026-11-26T06:02:30.000Z", 10 * US, "camera-lost")]
    assert document["totals"]["cam-front"] == {"segments": 5, "bytes": 16_000, "dur_us": 290 * US, "gaps": 1, "gap_us": 10 * US}
    assert document["open"]["open_receipt_sha256"] == exam.digest(exam.open_receipt)
    assert document["journal"]["head_sha256"] == next(row.hash for row in exam.rows if isinstance(row.event, e.Sealed))
    assert document["counters"]["session_seq"] == 7 and document["outcome"] == "completed"
    assert document["preflight"]["waivers"][0]["reason_sha256"] == chain.sha256_hex("样例甲 000000199001010018 说校时服务器停机".encode())


def test_without_the_platform_it_says_so(make_exam: Callable[..., Any]) -> None:
    exam = make_exam(online=False)
    assert exam.payload(exam.manifests[1])["open"]["open_receipt_sha256"] == "absent-offline"


def test_it_does_not_depend_on_what_comes_after(make_exam: Callable[..., Any]) -> None:
    exam = make_exam(late=True, hole="declared")
    upto = [row for row in exam.rows if row.seq <= exam.payload(exam.manifests[1])["journal"]["last"]]
    assert manifest.manifest(upto, exam.room, 1) == manifest.manifest(exam.rows, exam.room, 1) == exam.payload(exam.manifests[1])


def test_a_later_revision_only_adds(make_exam: Callable[..., Any]) -> None:
    exam = make_exam(late=True)
    first, second = (exam.payload(exam.manifests[revision]) for revision in (1, 2))
    assert second["amends"] == exam.digest(exam.manifests[1])
    assert [s for s in second["segments"] if s in first["segments"]] == first["segments"]
    [added] = [s for s in second["segments"] if s not in first["segments"]]
    assert (added["stream"], added["n"], added["seq"]) == ("cam-front", 5, 42)
    assert [g["dur_us"] for g in first["gaps"]] == [60 * US] and second["gaps"] == []


def test_a_stream_nobody_expected_is_listed_and_owes_nothing(make_exam: Callable[..., Any]) -> None:
    exam = make_exam()
    rows = [row for row in exam.rows if row.seq < exam.payload(exam.manifests[1])["journal"]["last"]]
    sealed = next(row.event for row in exam.rows if isinstance(row.event, e.Sealed))
    stored = next(row.event for row in rows if isinstance(row.event, e.SegmentStored))
    extra = e.SegmentStored(at=stored.at, session=stored.session, **{**e.encode(stored), "stream": "cam-spare"})
    for event in (extra, sealed):
        rows.append(chain.follow(rows[-1].seq + 1, event, rows[-1].hash))
    document = manifest.manifest(rows, exam.room, 1)
    assert {s["id"]: s["expected"] for s in document["streams"]} == {"cam-front": True, "cam-spare": False, "mic": True}
    jsonschema.validate(document, schema("manifest.json"))


@pytest.mark.parametrize("kind", [e.SessionPlanned, e.RosterAccepted, e.CheckinOpened, e.OpenSigned, e.ExamEnded, e.SealOrdered, e.Sealed])
def test_a_session_without_its_ground_makes_no_manifest(make_exam: Callable[..., Any], kind: type[e.Event]) -> None:
    exam = make_exam()
    with pytest.raises(manifest.ManifestError, match=kind.__name__):
        manifest.manifest([row for row in exam.rows if not isinstance(row.event, kind)], exam.room, 1)
    with pytest.raises(manifest.ManifestError, match="no revision 2"):
        manifest.manifest(exam.rows, exam.room, 2)


NUMBER = re.compile(r"(?<![0-9])[0-9]{17}[0-9Xx](?![0-9])")
said = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    st.from_regex(r"[a-z ]{0,3}[0-9]{17}[0-9Xx][ ,样]{0,2}", fullmatch=True))


@given(st.lists(said, min_size=14, max_size=14))
def test_no_number_ever_stands_in_a_manifest(words: list[str]) -> None:
    """Whatever staff and platform put into the facts (checklist E10)."""
    take = iter(words).__next__
    at = Stamp(1_795_672_800 * US, 9 * US, "boot")
    session = "S20261126-KD01-R01-02"
    events: list[e.Event] = [
        e.SessionPlanned(at=at, session=session, plan_id=take(), session_kind="drill", title=take(), scheduled_start_us=at.utc_us,
                         duration_min=1, staff={take(): "chief"}, min_proctors=1, late_cutoff_min=1, checkin_open_min=1,
                         retention_policy="RP-GENERAL-3Y", plan_sha256="1" * 64, source="drill"),
        e.RosterAccepted(at=at, session=session, version=1, count=1, roster_sha256="2" * 64, source="drill"),
        e.StaffPresent(at=at, session=session, staff_id=take(), role="chief"),
        e.WaiverGranted(at=at, session=session, item=take(), reason=take(), by=take(), second=take()),
        e.CheckinOpened(at=at, session=session, by="T001", session_seq=1, streams={}, readings={take(): "green"}, clock_state="synced"),
        e.OpenSigned(at=at, session=session, digest="3" * 64),
        e.CandidateAdmitted(at=at, session=session, candidate_id=take(), subject="4" * 64, method="id_card", seat=take()),
        e.AdmissionRefused(at=at, session=session, code="E-LATE", candidate_id=take()),
        e.ExamEnded(at=at, session=session, by="T001", outcome="cancelled", reason=take()),
        e.SealOrdered(at=at, session=session, by="T001", second="T002", statement="s", absent=(take(),)),
        e.Sealed(at=at, session=session, revision=1, opened_total=1, closed_total=1, keep_until="2030-01-01", retention_policy="p",
                 retention_basis="b")]
    rows: list[e.Recorded] = []
    for event in events:
        rows.append(chain.follow(len(rows) + 1, event, rows[-1].hash if rows else chain.GENESIS))
    room = manifest.RoomFacts("KD01", "000000-KD01-R01", "D-1", "5" * 64, "0", "6" * 64, "7" * 64, "boot", "site-1", True)
    for document in (manifest.manifest(rows, room, 1), manifest.session_open(rows, room)):
        for text in texts(document):
            assert re.fullmatch(r"[0-9a-f]{64}", text) or not NUMBER.search(text)
        chain.canonical(document)


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)
    elif not isinstance(value, bool):
        yield str(value)
