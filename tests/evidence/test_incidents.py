"""Incidents, the clock and the hardware counter under attack: what a thief of the device's key gets wrong though all signatures hold.

Each attack is tried on documents alone (no journal to compare with) and must be told by its own word; with the journal beside it the whole
export fails as well.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge.clock import US
from edge.evidence import anchors, bundle, checks, envelope, history, incidents
from edge.evidence.history import Told
from edge.sessions import events as e
from tests.evidence.career import Career, session_id
from tests.evidence.conftest import OPENED, Exam

Document = dict[str, Any]
SINCE = Told(since=7)


@pytest.fixture
def folder(make_exam: Callable[..., Exam], tmp_path: Path) -> tuple[Exam, Path]:
    exam = make_exam(hole="declared")
    return exam, exam.export(tmp_path / "history" / "one")


def alone(exam: Exam, folder: Path) -> set[str]:
    """What is found where only signed documents are shown."""
    (folder / "journal.jsonl").unlink()
    for path in sorted((folder / "segments").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (folder / "segments").rmdir()
    return {each.word for each in history.verify(folder.parent, exam.authority.root_pem, told=SINCE).findings}


# ---- honest -----------------------------------------------------------------------------------------------------------

def test_what_counts_as_an_incident_and_what_is_said_of_it(folder: tuple[Exam, Path]) -> None:
    exam, _ = folder
    found = exam.payload(exam.manifests[1])["incidents"]
    assert [(each["code"], each.get("by"), each.get("candidate_id"), each.get("of")) for each in found] == [
        ("waiver", "T001", None, "clock"), ("V1-03", "T002", "C0001", None), ("stream-lost", None, None, "mic"),
        ("M-03", "T002", None, None), ("stream-covered", None, None, "cam-front"), ("gap", None, None, "cam-front")]
    breach = found[1]
    assert (breach["outcome"], breach["signed_by"], breach["informed"]) == ("confirmed", ["T002", "T001"], "refused")
    assert breach["incident_no"] == 1
    assert breach["at"] == "2026-11-26T06:01:01.000Z", "when it happened, not when it was written down"
    assert found[3]["outcome"] == "open", "what befalls the room needs no two signatures"
    assert "样例甲" not in json.dumps(found, ensure_ascii=False), "words of people as their digest only"


def test_each_kind_of_fact_that_is_an_incident_is_one_and_no_other() -> None:
    """One of every fact there is: which of them stand in the list."""
    at = OPENED
    rows: list[e.Recorded] = []
    facts: list[e.Event] = [
        e.RosterAccepted(at=at, version=1, count=1, roster_sha256="1" * 64, source="import", by="T001", second="T002", reason="断网"),
        e.RosterAccepted(at=at, version=2, count=1, roster_sha256="1" * 64, source="platform"),
        e.CandidateAdmitted(at=at, candidate_id="C1", subject="2" * 64, method="id_card", seat="01"),
        e.CandidateAdmitted(at=at, candidate_id="C2", subject="3" * 64, method="manual", seat="02", exception="E-NO-CARD", by="T002"),
        e.AdmissionRefused(at=at, code="E-LATE", candidate_id="C3"),
        e.SeatAssigned(at=at, candidate_id="C1", seat="03", by="T002", reason="灯坏", before="01"),
        e.SeatAssigned(at=at, candidate_id="C4", seat="05", by="T002", reason="补排"),
        e.IdentityDoubted(at=at, candidate_id="C1", code="E-PHOTO-DOUBT", by="T002", reason="像不像"),
        e.DoubtSettled(at=at, candidate_id="C2", outcome="cleared", by="T001"),
        e.DoubtSettled(at=at, candidate_id="C1", outcome="escalated", by="T001", reason="移交"),
        e.AttendanceCorrected(at=at, candidate_id="C3", result="absent", by="T001", reason="刷错"),
        e.ExamStarted(at=at, by="T001", age_ms={}, reason="迟到七分钟"), e.ExamStarted(at=at, by="T001", age_ms={}),
        e.ExamEnded(at=at, by="T001", outcome="aborted", reason="停电"), e.ExamEnded(at=at, by="T001", outcome="completed"),
        e.StreamLost(at=at, stream="cam", reason="no-answer"), e.ReaderLost(at=at, reason="gone"), e.ClockStepped(at=at, delta_us=-2 * US),
        e.GapDeclared(at=at, stream="cam", revision=1, from_utc_us=at.utc_us, to_utc_us=at.utc_us, dur_us=0, reason="power"),
        e.GapDeclared(at=at, stream="cam", revision=2, from_utc_us=at.utc_us, to_utc_us=at.utc_us, dur_us=0, reason="power"),
        e.StreamBack(at=at, stream="cam"), e.ReaderBack(at=at, module="m"), e.FootageViewed(at=at, by="A001", stream="cam")]
    for fact in facts:
        rows.append(e.Recorded(len(rows) + 1, fact, "", ""))
    assert [each["code"] for each in incidents.of(rows, 2)] == [
        "roster-imported", "E-NO-CARD", "seat-changed", "E-PHOTO-DOUBT", "doubt-escalated", "attendance-corrected", "started-off-plan",
        "exam-aborted", "stream-lost", "reader-lost", "clock-stepped", "gap"]


def test_what_was_signed_before_is_read_and_made_again_as_it_was(make_exam: Callable[..., Exam], tmp_path: Path) -> None:
    exam = make_exam(version=1, late=True)
    report = bundle.verify(exam.export(tmp_path / "old"), exam.authority.root_pem)
    assert (report.verdict, report.revision) == ("PASS", 2)
    document = exam.payload(exam.manifests[2])
    assert document["type"] == "exam-session-manifest/v1" and document["incidents"] == [] and "anchors" not in document["clock"]


def test_an_honest_room_whose_clock_was_stepped_and_which_was_restarted_passes(make_exam: Callable[..., Exam]) -> None:
    document = make_exam().payload(make_exam().manifests[1])
    assert list(anchors.clock(document)) == [] and list(anchors.incidents(document)) == []
    stepped = json.loads(json.dumps(document))
    stepped["clock"]["steps"] = [{"at": "2026-11-26T06:03:00.000Z", "boot_us": OPENED.boot_us + 180 * US, "boot_id": OPENED.boot_id,
                                  "delta_us": 3600 * US, "journal_seq": 3}]
    for each in (stepped["clock"]["anchors"][-1], stepped["clock"]["anchors"][-2], stepped["interval"]["end"]):
        each["utc"] = each["utc"].replace("T06", "T07")
    assert list(anchors.clock(stepped)) == []
    stepped["clock"]["anchors"][-1] |= {"boot_id": "another", "boot_us": 9, "utc": "2026-11-26T09:00:00.000Z"}
    assert list(anchors.clock(stepped)) == [], "another boot has another offset"


# ---- attacks on the clock -----------------------------------------------------------------------------------------------

def anchor(place: int, **changed: Any) -> Callable[[Document], object]:
    return lambda document: document["clock"]["anchors"][place].update(changed)


def another_hour(document: Document) -> None:
    """All of the session an hour later, but for one reading that was overlooked."""
    for part in (*document["interval"].values(), *document["clock"]["anchors"][:1], *document["clock"]["anchors"][2:]):
        part["utc"] = part["utc"].replace("T06", "T07")


def late_segment(document: Document) -> None:
    """One minute of footage is given another hour of the boot clock: its length looks right by either clock alone."""
    entry = document["segments"][1]
    for end in ("start", "end"):
        entry[f"{end}_boot_us"] += 3600 * US


def one_run(document: Document) -> None:
    late_segment(document)
    document["segments"][1]["run"] = document["segments"][0]["run"]


def run_elsewhere(document: Document) -> None:
    """Footage of another day is put in as a run of its own."""
    entry = document["segments"][2]
    for end in ("start", "end"):
        entry[f"{end}_utc"] = entry[f"{end}_utc"].replace("11-26", "11-25")


CLOCK: dict[str, tuple[Callable[[Document], object], str]] = {
    "a reading taken at another time": (anchor(0, utc="2026-11-26T05:59:00.000Z"), "reading at the open was not taken when"),
    "a reading moved": (anchor(1, utc="2026-11-26T06:07:00.000Z"), "the wall clock was moved by +300.000 s, and no step is declared"),
    "a boot clock that goes back": (anchor(1, boot_us=1), "the boot clock goes back"),
    "a boot that had ended": (anchor(1, boot_id="f" * 8), "runs in a boot that had ended before"),
    "the opening's reading cut out": (lambda d: d["clock"]["anchors"].pop(0), "is not the one that was announced"),
    "readings in another order": (lambda d: d["clock"]["anchors"].reverse(), "not in the order in which the journal has them"),
    "all an hour later": (another_hour, "the wall clock was moved by"),
    "a segment of another hour": (late_segment, "-3600.000 s apart from the room's clock at that moment"),
    "two segments of one run, and of two hours": (one_run, "apart from the rest of its run"),
    "a run of another day": (run_elsewhere, "apart from the room's clock at that moment"),
}


@pytest.mark.parametrize("name", CLOCK)
def test_times_that_were_tampered_with(make_exam: Callable[..., Exam], tmp_path: Path, name: str) -> None:
    change, text = CLOCK[name]
    exam = make_exam()
    exam.resign(exam.export(tmp_path / "history" / "one"), change)
    report = history.verify(tmp_path / "history", exam.authority.root_pem, told=SINCE)
    assert any(each.word == "clock" and text in each for each in report.findings), report.lines
    assert bundle.verify(tmp_path / "history" / "one", exam.authority.root_pem).verdict == "FAIL"
    assert "clock" in alone(exam, tmp_path / "history" / "one")


# ---- attacks on incidents -----------------------------------------------------------------------------------------------

def leave_out(code: str) -> Callable[[Document], object]:
    def change(document: Document) -> None:
        document["incidents"] = [each for each in document["incidents"] if each["code"] != code]
    return change


INCIDENTS: dict[str, Callable[[Document], object]] = {
    "a gap that is no incident": leave_out("gap"),
    "a waiver that is no incident": leave_out("waiver"),
    "an impaired camera that is no incident": leave_out("stream-covered"),
    "a breach that was never signed": lambda d: d["incidents"][1].update(outcome="open"),
    "an incident of elsewhere": lambda d: d["incidents"][-1].update(journal_seq=10**6),
    "another order": lambda d: d["incidents"].reverse(),
}


@pytest.mark.parametrize("name", INCIDENTS)
def test_incidents_that_were_tampered_with(folder: tuple[Exam, Path], name: str) -> None:
    exam, place = folder
    exam.resign(place, INCIDENTS[name])
    report = bundle.verify(place, exam.authority.root_pem)
    assert {"incidents", "journal"} <= {each.word for each in report.findings}
    assert "incidents" in alone(exam, place)


@pytest.mark.parametrize("code", ["V1-03", "M-03", "stream-lost"])
def test_an_incident_that_only_the_journal_knows_is_missed_there(folder: tuple[Exam, Path], code: str) -> None:
    exam, place = folder
    exam.resign(place, leave_out(code))
    report = bundle.verify(place, exam.authority.root_pem)
    assert report.first == "revision 1: the manifest's incidents is not what the journal says"


def test_an_old_form_cannot_be_claimed_to_have_nothing_to_say(folder: tuple[Exam, Path]) -> None:
    """Who signs the session anew as version 1, which knows no incidents, is betrayed by the journal: it says by which rules."""
    exam, place = folder

    def downgrade(document: Document) -> None:
        document.update(type="exam-session-manifest/v1", incidents=[])
        del document["clock"]["anchors"], document["session"]["close_reason"]
    exam.resign(place, downgrade)
    report = bundle.verify(place, exam.authority.root_pem)
    assert report.first == "revision 1: the manifest's clock is not what the journal says"
    exam.resign(place, lambda d: d["incidents"].append({"journal_seq": 9, "code": "gap", "at": "2026-11-26T06:00:00.000Z"}))
    assert "a list of version 1 has no incidents" in bundle.verify(place, exam.authority.root_pem).lines[-1] or \
        any("a list of version 1" in line for line in bundle.verify(place, exam.authority.root_pem).lines)


@pytest.mark.parametrize("change", [
    lambda d: d["clock"].pop("anchors"), lambda d: d["session"].pop("close_reason"),
    lambda d: d["clock"].update(anchors={}), lambda d: d["clock"].update(anchors=[1]),
    lambda d: d["clock"]["anchors"][0].update(max_error_us="x"), lambda d: d["counters"].pop("hw_counter"),
    lambda d: d["counters"].update(hw_counter="20"), lambda d: d["counters"].update(hw_counter_kind="none"),
    lambda d: d.update(incidents=[{}]), lambda d: d["incidents"][0].update(at="now"), lambda d: d.update(type="exam-session-manifest/v3"),
])
def test_a_manifest_of_no_form_is_named_and_never_raises(folder: tuple[Exam, Path], change: Callable[[Document], object]) -> None:
    exam, place = folder
    document = exam.payload(exam.manifests[1])
    assert checks.shape(document) == ""
    change(document)
    assert checks.shape(document)
    exam.resign(place, change)
    assert bundle.verify(place, exam.authority.root_pem).verdict == "FAIL"


# ---- attacks on the counter -----------------------------------------------------------------------------------------------

@pytest.fixture
def make_career(tmp_path: Path, authority: Any) -> Callable[..., Career]:
    def make(*arguments: Any, **options: Any) -> Career:
        return Career(tmp_path / f"footage-{len(list(tmp_path.iterdir()))}", authority, *arguments, **options)
    return make


def judged(career: Career, folder: Path) -> tuple[set[str], str]:
    report = history.verify(career.write(folder), career.authority.root_pem)
    return {each.word for each in report.findings}, " ".join(report.lines)


def test_a_disk_that_was_set_back_shows_by_the_counter_alone(make_career: Any, tmp_path: Path) -> None:
    """Session 3 was held, and the whole disk set back to before it: the next session is number 3 again, and nothing that the device
    signed betrays it, but the chip has counted."""
    without = make_career(3, counter=lambda number: None, online=False)
    assert judged(without, tmp_path / "none")[0] == set(), "without the chip it is not seen"
    chip = make_career(3, counter=lambda number: {1: 41, 2: 42, 3: 44}[number], online=False)
    words, lines = judged(chip, tmp_path / "chip")
    assert words == {"hw-counter"} and "counts 1 openings between the sessions number 2 and 3 that no document tells of" in lines


def test_a_counter_never_goes_back_nor_stands_still(make_career: Any, tmp_path: Path) -> None:
    for name, values in {"back": (41, 42, 7), "still": (41, 42, 42)}.items():
        words, lines = judged(make_career(3, counter=lambda number, v=values: v[number - 1]), tmp_path / name)
        assert words == {"hw-counter"} and "the hardware counter goes back" in lines


def test_a_chip_that_could_not_be_read_is_said_and_hides_nothing(make_career: Any, tmp_path: Path) -> None:
    words, lines = judged(make_career(4, counter=lambda number: None if number == 3 else 40 + number), tmp_path / "away")
    assert words == set() and "of session number 3 of KD01-R01-0001 the hardware counter was not read" in lines
    words, _ = judged(make_career(4, counter=lambda number: None if number == 3 else 40 + number + (number > 3)), tmp_path / "leap")
    assert words == {"hw-counter"}, "what it counted meanwhile shows at the next reading"


def test_a_checkpoint_knows_of_an_opening_that_is_not_shown(make_career: Any, tmp_path: Path) -> None:
    career = make_career(2)
    career.checkpoint(counters={"opened_total": 2, "closed_total": 2, "hw_counter": 43})
    assert judged(career, tmp_path / "ahead")[0] == {"hw-counter"}


def test_the_announcement_and_the_list_say_the_same_of_the_counter(make_career: Any, tmp_path: Path) -> None:
    career = make_career(1)
    folder = career.write(tmp_path / "history")
    path = folder / session_id(1) / "manifest-1.dsse.json"
    document = Exam.payload(path.read_bytes())
    document["counters"]["hw_counter"] += 1
    path.write_bytes(envelope.seal(envelope.SESSION_MANIFEST, document, career.device))
    assert "hw-counter" in {each.word for each in history.verify(folder, career.authority.root_pem).findings}
