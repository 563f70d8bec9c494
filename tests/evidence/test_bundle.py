"""`verify` on good folders and under attack: the verdict, and the first thing that is wrong in plain words."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.clock import US, Stamp
from edge.evidence import bundle, chain
from edge.sessions import events as e


@pytest.fixture
def exam(make_exam: Callable[..., Any]) -> Any:
    return make_exam()


@pytest.fixture
def folder(exam: Any, tmp_path: Path) -> Path:
    return Path(exam.export(tmp_path / "bundle"))


def check(exam: Any, folder: Path) -> bundle.Report:
    return bundle.verify(folder, exam.authority.root_pem)


def fails(exam: Any, folder: Path, first: str) -> None:
    report = check(exam, folder)
    assert report.verdict == "FAIL" and report.first.startswith(first), report.lines
    assert f"WRONG: {report.first}" in report.lines


def first_segment(folder: Path) -> Path:
    return min((folder / "segments" / "cam-front").glob("000003-*.mp4"))


# ---- good -------------------------------------------------------------------------------------------------------------

def test_an_honest_session_passes(exam: Any, folder: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = bundle.verify(folder, exam.authority.root_pem, lambda done, total: seen.append((done, total)))
    assert (report.verdict, report.first, report.had_receipts, report.revision) == ("PASS", "", True, 1)
    assert report.manifest_sha256 == exam.digest(exam.manifests[1]) and report.session == "S20261126-KD01-R01-02"
    assert (report.segments, report.gaps) == (10, 0)
    assert any("with platform receipts" in line for line in report.lines)
    assert ("the room's own watcher: cam-front covered from 2026-11-26T06:00:00.000Z – 2026-11-26T06:01:20.000Z" in report.lines)
    assert seen[-1] == (32_000, 32_000) and len(seen) == 10


def test_declared_gaps_are_named(make_exam: Callable[..., Any], tmp_path: Path) -> None:
    exam = make_exam(hole="declared")
    report = check(exam, exam.export(tmp_path / "bundle"))
    assert report.verdict == "PASS WITH DECLARED GAPS" and report.gaps == 1
    assert "declared gap: cam-front 2026-11-26T06:02:30.000Z – 2026-11-26T06:02:40.000Z (10.000 s), camera-lost" in report.lines


def test_without_receipts_it_claims_less(make_exam: Callable[..., Any], tmp_path: Path) -> None:
    exam = make_exam(online=False)
    report = check(exam, exam.export(tmp_path / "bundle"))
    assert report.verdict == "PASS" and not report.had_receipts
    assert any("device data only: complete at most up to the last manifest shown" in line for line in report.lines)


def test_a_later_revision_passes_and_must_be_shown_with_the_first(make_exam: Callable[..., Any], tmp_path: Path) -> None:
    exam = make_exam(late=True)
    folder = exam.export(tmp_path / "bundle")
    assert (check(exam, folder).verdict, check(exam, folder).revision) == ("PASS", 2)
    (folder / "manifest-1.dsse.json").unlink()
    fails(exam, folder, "revisions are missing")


@pytest.mark.parametrize("rolls", [1, 2])
def test_a_later_revision_by_the_key_that_followed(make_exam: Callable[..., Any], tmp_path: Path, rolls: int) -> None:
    """The old keys' word lies in the folder; without it nothing tells the new key from a stranger's."""
    exam = make_exam(late=True, rolls=rolls)
    folder = exam.export(tmp_path / "bundle")
    report = check(exam, folder)
    assert report.verdict == "PASS" and sum("hands over to" in line for line in report.lines) == rolls, report.lines
    (folder / f"rollover-{rolls}.dsse.json").unlink()
    fails(exam, folder, "from S20261126-KD01-R01-02 on KD01-R01-0001 signs with another key")
    (folder / f"rollover-{rolls}.dsse.json").write_bytes(b"{}")
    fails(exam, folder, f"rollover-{rolls}.dsse.json: it cannot be read as a signed document")


def test_without_a_root_of_its_own_it_shows_the_fingerprint_to_compare(exam: Any, folder: Path) -> None:
    report = bundle.verify(folder)
    assert report.verdict == "PASS" and len(report.root_sha256) == 64
    assert any("Compare its SHA-256" in line and report.root_sha256 in line for line in report.lines)


def test_an_export_says_which_footage_is_gone_and_refuses_a_used_folder(exam: Any, tmp_path: Path) -> None:
    next((exam.footage / "mic").glob("*.mp4")).unlink()
    contents = bundle.Contents(manifests=exam.manifests, receipts=exam.receipts, session_open=exam.open, open_receipt=None,
                               root_pem=exam.authority.root_pem, rows=exam.rows)
    [missing] = bundle.write_bundle(tmp_path / "bundle", contents, exam.footage)
    assert missing.startswith("segments/mic/")
    with pytest.raises(FileExistsError, match="nothing was written"):
        bundle.write_bundle(tmp_path / "bundle", contents, exam.footage)
    assert f"WRONG: missing {missing}" in check(exam, tmp_path / "bundle").lines


def test_a_linked_bundle_is_no_second_copy(exam: Any, tmp_path: Path) -> None:
    contents = bundle.Contents(manifests=exam.manifests, receipts=exam.receipts, session_open=exam.open, open_receipt=exam.open_receipt,
                               root_pem=exam.authority.root_pem, rows=exam.rows)
    next((exam.footage / "mic").glob("*.mp4")).unlink()
    [missing] = bundle.write_bundle(tmp_path / "bundle", contents, exam.footage, linked=True)
    assert first_segment(tmp_path / "bundle").stat().st_nlink == 2
    fails(exam, tmp_path / "bundle", f"missing {missing}")


# ---- attacks on files -------------------------------------------------------------------------------------------------

def test_a_changed_byte(exam: Any, folder: Path) -> None:
    path = first_segment(folder)
    data = bytearray(path.read_bytes())
    data[700] ^= 1
    path.write_bytes(data)
    fails(exam, folder, f"altered segments/cam-front/{path.name}")


def test_a_cut_file(exam: Any, folder: Path) -> None:
    path = first_segment(folder)
    path.write_bytes(path.read_bytes()[:-1])
    fails(exam, folder, f"altered segments/cam-front/{path.name}: 3199 bytes, not 3200")


def test_a_deleted_file(exam: Any, folder: Path) -> None:
    path = first_segment(folder)
    path.unlink()
    fails(exam, folder, f"missing segments/cam-front/{path.name}")


def test_a_file_that_is_a_link(exam: Any, folder: Path, tmp_path: Path) -> None:
    path = first_segment(folder)
    shutil.move(path, tmp_path / "elsewhere.mp4")
    path.symlink_to(tmp_path / "elsewhere.mp4")
    fails(exam, folder, f"not a plain file: segments/cam-front/{path.name}")


def test_a_changed_sidecar(exam: Any, folder: Path) -> None:
    path = first_segment(folder).with_suffix(".json")
    path.write_bytes(path.read_bytes().replace(b'"dropped":0', b'"dropped":9'))
    fails(exam, folder, f"altered segments/cam-front/{path.name}")


def test_a_planted_file(exam: Any, folder: Path) -> None:
    (folder / "segments" / "mic" / "Thumbs.db").write_bytes(b"")
    assert check(exam, folder).verdict == "PASS"
    assert "segments/mic/Thumbs.db: not part of the session" in check(exam, folder).lines
    (folder / "segments" / "mic" / "000006-0123456789abcdef.mp4").write_bytes(b"planted")
    fails(exam, folder, "segments/mic/000006-0123456789abcdef.mp4: no manifest names this file")


def test_a_list_of_sums_that_lies(exam: Any, folder: Path) -> None:
    (folder / "SHA256SUMS").write_bytes(b"")
    fails(exam, folder, "SHA256SUMS says other")


@pytest.mark.parametrize("name", ["manifest-1.dsse.json", "session-open.dsse.json", "receipt-open.dsse.json", "journal.jsonl"])
def test_a_document_taken_away(exam: Any, folder: Path, name: str) -> None:
    (folder / name).unlink()
    report = check(exam, folder)
    assert report.verdict == "FAIL" and ("missing" in report.first or "taken away" in report.first or "No such file" in report.first)


# ---- attacks on the manifest ------------------------------------------------------------------------------------------

def test_an_entry_cut_out_without_the_key(exam: Any, folder: Path) -> None:
    path = folder / "manifest-1.dsse.json"
    outer, document = json.loads(path.read_bytes()), exam.payload(path.read_bytes())
    del document["segments"][2]
    path.write_text(json.dumps(outer | {"payload": base64.b64encode(chain.canonical(document)).decode()}))
    fails(exam, folder, "manifest-1.dsse.json: the signature does not fit the document")


@pytest.mark.parametrize(("change", "first"), [
    (lambda d: d["segments"].pop(2), "segment 3 of cam-front is missing"),
    (lambda d: d["segments"].pop(4), "the totals of cam-front"),
    (lambda d: d["segments"][2].update(prev="0" * 64), "the chain of cam-front is broken at segment 3"),
    (lambda d: d["segments"][2].update(path="../../etc/passwd"), "segment 3 of cam-front has a path"),
    (lambda d: d["totals"]["mic"].update(bytes=1), "the totals of mic"),
    (lambda d: d["attendance"].pop(0), "revision 1: the manifest's attendance is not what the journal says"),
    (lambda d: d["attendance"][2].update(result="admitted"), "revision 1: the manifest's attendance is not what the journal says"),
    (lambda d: d["interval"]["end"].update(utc="2026-11-26T06:03:00.000Z"), "the clock's reading at the close was not taken when"),
    (lambda d: d["journal"].update(count=3), "journal.jsonl: the rows up to"),
    (lambda d: d.update(outcome="aborted"), "revision 1: the manifest's outcome"),
    (lambda d: d["open"].update(open_sha256="1" * 64), "session-open.dsse.json: revision 1 names another session-open"),
    (lambda d: d["open"].update(open_receipt_sha256="1" * 64), "receipt-open.dsse.json: revision 1 names another receipt"),
    (lambda d: d["device"].update(id="KD01-R01-0002"), "manifest-1.dsse.json: signed by another device than it names"),
    (lambda d: d.update(room="000000-KD01-R02"), "session-open.dsse.json: it speaks of another room"),
    (lambda d: d["session"].update(id="S20261126-KD01-R01-03"), "session-open.dsse.json: it speaks of another session"),
    (lambda d: d.pop("impairments"), "revision 1: the manifest's impairments is not what the journal says"),
    (lambda d: d.update(impairments=[{}]), "manifest-1.dsse.json: impairments[0].stream does not have its form"),
    (lambda d: d.update(extra=1), "manifest-1.dsse.json: it holds parts that this verifier does not know: extra"),
    (lambda d: d.pop("gaps"), "manifest-1.dsse.json: gaps is not a list"),
    (lambda d: d["segments"][0].update(n="1"), "manifest-1.dsse.json: segments[0].n is not int"),
    (lambda d: d["segments"][0].update(start_utc="2026-99-26T06:00:00.000Z"), "manifest-1.dsse.json: segments[0].start_utc"),
    (lambda d: d.update(revision=2), "manifest-1.dsse.json: it holds another revision"),
    (lambda d: d.update(type="exam-session-open/v1"), "manifest-1.dsse.json: it is a 'exam-session-open/v1'"),
])
def test_a_manifest_made_anew_with_the_stolen_device_key(exam: Any, folder: Path, change: Callable[[Any], object], first: str) -> None:
    exam.resign(folder, change)
    fails(exam, folder, first)


def test_an_undeclared_gap(make_exam: Callable[..., Any], tmp_path: Path) -> None:
    exam = make_exam(hole="declared")
    folder = exam.export(tmp_path / "bundle")

    def hide(document: dict[str, Any]) -> None:
        document["gaps"] = []
        document["totals"]["cam-front"] |= {"gaps": 0, "gap_us": 0}
    exam.resign(folder, hide)
    fails(exam, folder, "UNDECLARED GAP cam-front 2026-11-26T06:02:30.000Z – 2026-11-26T06:02:40.000Z (10.000 s)")


def test_a_room_that_never_declared_its_gap(make_exam: Callable[..., Any], tmp_path: Path) -> None:
    exam = make_exam(hole="undeclared")
    fails(exam, exam.export(tmp_path / "bundle"), "UNDECLARED GAP cam-front")


def test_a_segment_that_holds_less_than_it_says_to_cover(exam: Any, folder: Path) -> None:
    exam.resign(folder, lambda d: d["segments"][2].update(dur_us=7 * US))
    report = check(exam, folder)
    assert any("says to cover 60.000 s but holds 7.000 s" in line for line in report.lines) and report.verdict == "FAIL"


def test_a_later_revision_that_leaves_something_out(make_exam: Callable[..., Any], tmp_path: Path) -> None:
    exam = make_exam(late=True)
    folder = exam.export(tmp_path / "bundle")
    exam.resign(folder, lambda d: d["segments"].pop(0), revision=2)
    fails(exam, folder, "revision 2 left out or changed segment segments/cam-front/000001-")
    exam.resign(folder, lambda d: d.update(amends="1" * 64), revision=2)
    fails(exam, folder, "revision 2 does not amend revision 1")


def test_a_room_whose_opening_was_not_what_its_journal_says(make_exam: Callable[..., Any], tmp_path: Path) -> None:
    exam = make_exam(false_open=lambda document: document["streams"].pop())
    fails(exam, exam.export(tmp_path / "bundle"), "the session-open's streams is not what the journal says")


@pytest.mark.parametrize("said", [
    {"seq": 41}, {"stream": "cam-back"}, {"run": "f" * 32}, {"dur_us": 1}, {"frame_us": 1}, {"bytes": 10_000}, {"sha256": "9" * 64},
    {"codec": "aac"}, {"end_reason": "cut"}, {"recovered": True}, {"clock_state": "synced"}, {"start": Stamp(1, 1, "b")},
    {"end": Stamp(2**50, 2**50, "b")},
])
def test_a_sidecar_that_says_other_than_the_manifest(make_exam: Callable[..., Any], tmp_path: Path, said: dict[str, Any]) -> None:
    exam = make_exam(false_sidecar=said)
    report = check(exam, exam.export(tmp_path / "bundle"))
    assert report.verdict == "FAIL" and "and the manifest disagree about" in report.first


# ---- attacks on receipts ----------------------------------------------------------------------------------------------

def replace_receipt(exam: Any, folder: Path, digest: str | None = None, **changed: Any) -> None:
    data = exam.answer("session-manifest", digest or exam.digest(exam.manifests[1]), 300, **{"revision": 1, **changed})
    (folder / "receipt-1.dsse.json").write_bytes(data)


def test_a_receipt_for_another_digest(exam: Any, folder: Path) -> None:
    replace_receipt(exam, folder, digest="9" * 64)
    fails(exam, folder, "receipt-1.dsse.json: the receipt is for another document")


@pytest.mark.parametrize(("key", "value"), [
    ("device", "KD01-R01-0002"), ("session_id", "S20261126-KD01-R01-03"), ("room_code", "000000-KD01-R02"), ("revision", 2),
])
def test_a_receipt_for_something_else(exam: Any, folder: Path, key: str, value: Any) -> None:
    replace_receipt(exam, folder, **{key: value})
    fails(exam, folder, f"receipt-1.dsse.json: the receipt is for another {key}")


def test_a_receipt_of_another_kind(exam: Any, folder: Path) -> None:
    (folder / "receipt-1.dsse.json").write_bytes(exam.answer("session-open", exam.digest(exam.manifests[1]), 300, revision=1))
    fails(exam, folder, "receipt-1.dsse.json: the receipt is for another kind")


def test_a_receipt_signed_by_the_device(exam: Any, folder: Path) -> None:
    replace_receipt(exam, folder, signer=exam.device)
    fails(exam, folder, "receipt-1.dsse.json: signed by a device, where only a platform may sign")


def test_a_rejected_manifest(exam: Any, folder: Path) -> None:
    replace_receipt(exam, folder, verdict="rejected", reasons=[{"code": "E-ATTENDANCE"}])
    fails(exam, folder, "receipt-1.dsse.json: the platform did not accept it: [{'code': 'E-ATTENDANCE'}]")
    assert not check(exam, folder).had_receipts


def test_another_authority(exam: Any, folder: Path, make_authority: Callable[[int], Any]) -> None:
    report = bundle.verify(folder, make_authority(1).root_pem)
    assert report.verdict == "FAIL" and "does not lead to the pinned root" in report.first


def test_a_certificate_that_has_run_out_since(make_exam: Callable[..., Any], tmp_path: Path) -> None:
    """Valid when the platform had the manifest, expired an hour later: still good (checklist E5). Expired before the receipt: not."""
    short = make_exam(device_until=datetime.fromtimestamp(1_795_672_800 + 3600, UTC))
    folder = short.export(tmp_path / "short")
    assert check(short, folder).verdict == "PASS"
    late = short.answer("session-manifest", short.digest(short.manifests[1]), 7200, revision=1)
    (folder / "receipt-1.dsse.json").write_bytes(late)
    fails(short, folder, "manifest-1.dsse.json: the signer's certificate does not lead to the pinned root at that time")


# ---- attacks on the journal -------------------------------------------------------------------------------------------

def test_an_edited_row(exam: Any, folder: Path) -> None:
    path = folder / "journal.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"E-CARD-EXPIRED"', b'"E-CARD-EXTINCT"'))
    row = next(r.seq for r in exam.rows if isinstance(r.event, e.AdmissionRefused) and r.event.candidate_id)
    fails(exam, folder, f"journal.jsonl: row {row} was changed")


@pytest.mark.parametrize(("kind", "first"), [
    (e.AdmissionRefused, "journal.jsonl: row {} was changed"),      # the row after it is shown and names the true hash
    (e.CandidateAdmitted, "journal.jsonl: the rows up to"),         # the row after it is the box's own and not shown: the manifest binds it
])
def test_an_edited_row_with_its_hash_made_anew(exam: Any, folder: Path, kind: type[e.Event], first: str) -> None:
    path = folder / "journal.jsonl"
    rows = [chain.from_line(line) for line in path.read_bytes().splitlines()]
    place = next(i for i, r in enumerate(rows) if isinstance(r.event, kind))
    true = rows[place].event
    rows[place] = chain.follow(rows[place].seq, e.AdmissionRefused(at=true.at, session=true.session, code="E-LATE"), rows[place].prev)
    path.write_bytes(b"".join(chain.to_line(row) + b"\n" for row in rows))
    fails(exam, folder, first.format(rows[place].seq + 1))


@pytest.mark.parametrize("spoil", [
    lambda lines: lines.pop(5), lambda lines: lines.insert(5, lines[4]), lambda lines: lines.reverse(), lambda lines: lines.clear(),
    lambda lines: lines.append(b""), lambda lines: lines.append(b"{}"), lambda lines: lines.__setitem__(3, lines[3] + b" "),
])
def test_rows_taken_out_doubled_or_moved(exam: Any, folder: Path, spoil: Callable[[list[bytes]], object]) -> None:
    path = folder / "journal.jsonl"
    lines = path.read_bytes().splitlines()
    spoil(lines)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    report = check(exam, folder)
    assert report.verdict == "FAIL" and report.first.startswith("journal.jsonl")


# ---- rubbish ----------------------------------------------------------------------------------------------------------

def test_what_is_no_session_at_all(exam: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "holds no manifest" in check(exam, tmp_path / "empty").first
    assert check(exam, tmp_path / "nothing").verdict == "FAIL"
    assert "no root certificate" in bundle.verify(tmp_path / "empty").first
    assert bundle.verify(tmp_path / "empty", b"rubbish").verdict == "FAIL"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pick=st.integers(0, 10_000), place=st.integers(0, 100_000), flip=st.integers(1, 255))
def test_no_flipped_byte_goes_unseen_and_none_upsets_the_verifier(exam: Any, folder: Path, pick: int, place: int, flip: int) -> None:
    names = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("VERIFY.md", "root.pem"))
    path = names[pick % len(names)]
    honest = path.read_bytes()
    data = bytearray(honest)
    data[place % len(data)] ^= flip
    path.write_bytes(data)
    try:
        report = check(exam, folder)
    finally:
        path.write_bytes(honest)
    if report.verdict != "FAIL":        # keyid, which decides nothing, or a line's end in a PEM
        outer, was = json.loads(bytes(data)), json.loads(honest)
        assert (outer["payload"], outer["payloadType"]) == (was["payload"], was["payloadType"])
        assert outer["signatures"][0]["sig"] == was["signatures"][0]["sig"]
