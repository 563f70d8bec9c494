"""The sentences: both catalogues alike, every key that is used exists, every key that exists is used, nothing hard-coded in a template."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import edge.keeper
import edge.room
import edge.sessions.machine
import edge.web
from edge import faces
from edge.capture import watchnote
from edge.capture.control import STATES
from edge.capture.sidecar import END_REASONS
from edge.idcheck import face, photo
from edge.idcheck.reader import LOST_WORDS, UNREADABLE_WORDS
from edge.rosterfile import lines, table
from edge.sessions import incidents, preflight
from edge.sessions.door import BY_HAND, CHIEF_MAY
from edge.sessions.machine import State
from edge.sessions.roster import Code
from edge.storage import scrub
from edge.storage.staff import ROLES
from edge.web import dossier
from edge.web.acts import STATUS
from edge.web.attendance import Group
from edge.web.pages import CLASS_WORDS
from edge.web.proctor import TODO
from edge.web.texts import LANGUAGES, Texts
from edge.web.views import BAD, MARKS, OK, WARN

WEB = Path(str(edge.web.__file__)).parent
TEMPLATES = sorted((WEB / "templates").glob("*.html"))
MODULES = sorted(path for path in WEB.glob("*.py") if path.name != "local.py")      # the local socket speaks JSON to programs
TEXTS = Texts.load()
ROOM_SOURCES = (Path(str(edge.room.__file__)), Path(str(edge.keeper.__file__)), Path(str(edge.sessions.machine.__file__)), *MODULES)


def literals(path: Path, names: set[str], position: int = 0) -> set[str]:
    """The text constants that are given at `position` to calls of these names (or of attributes so named)."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and len(node.args) > position:
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in names and not isinstance(node.args[position], ast.JoinedStr):       # a key that is put together is in WORDS
                found |= {c.value for c in ast.walk(node.args[position]) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
    return found


def refusal_words() -> set[str]:
    """Every word that the Room, the state machine or a page can refuse with."""
    words = {"too-soon"}
    for path in ROOM_SOURCES:
        words |= literals(path, {"Refusal", "IllegalStep"})
    tree = ast.parse(Path(str(edge.sessions.machine.__file__)).read_text(encoding="utf-8"))
    judges = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
              and node.name in ("_contradiction", "_seat_conflict", "_unvouched", "_attendance_conflict", "_doubt_conflict",
                                "_keeping_conflict", "_incident_conflict")]
    words |= {each.value for judge in judges for node in ast.walk(judge) if isinstance(node, ast.Return) and node.value is not None
              for each in ast.walk(node.value) if isinstance(each, ast.Constant) and isinstance(each.value, str)
              and re.fullmatch(r"[a-z]+(-[a-z]+)+", each.value)}
    assert {"wrong-pin", "seat-taken", "no-session", "not-recording"} <= words, "this test no longer sees the words"
    return words


def import_faults() -> set[str]:
    """What can be wrong with a list of candidates that comes as a file."""
    words = {"type-disagrees", "too-much", *lines.NO_TEXT.values(), *lines.TWICE.values()}
    for path in (Path(str(lines.__file__)), Path(str(table.__file__))):
        words |= literals(path, {"FileTrouble", "_Wrong"})
    lines_of = Path(str(lines.__file__))
    return words | literals(lines_of, {"_one_of"}, 2)


WORDS: dict[str, set[str]] = {
    "damage": set(scrub.WORDS),
    "state": {str(s) for s in State}, "today.enter": {str(s) for s in State},
    "code": {str(c) for c in Code}, "code-short": {str(c) for c in Code} | {str(mark) for mark in MARKS},
    "doubt-outcome": {"cleared", "escalated"}, "no-photo": {"no-camera", "no-picture", "not-kept"},
    "manual-why": {str(c) for c in BY_HAND | CHIEF_MAY} | {"E-NOT-ON-ROSTER", "E-PHOTO-DOUBT"},
    "manual-not": {"E-DUPLICATE", "E-GONE", "E-HOLD", "E-NOT-OPEN", "RETURNED"},
    "history": {"AdmissionRefused", "AttendanceCorrected-absent", "AttendanceCorrected-present", "CandidateAdmitted", "CandidateLeft",
                "CandidateLeft-final", "CandidateReturned", "DoubtSettled-cleared", "DoubtSettled-escalated", "DoubtSigned",
                "IdentityDoubted", "SeatAssigned"},
    "code-next": {str(c) for c in Code} | {"OK-no-seat", "OK-running"},
    "light": {OK, WARN, BAD, TODO}, "result": {str(r) for r in preflight.Result},
    "role": {*ROLES, "chief", "proctor", "assessor", "patrol"}, "outcome": {"completed", "aborted", "cancelled"},
    "session-kind": {"exam_theory", "exam_practical", "exam_teacher", "training_class", "drill"},
    "stream-state": {*STATES, "stale", "unknown"}, "clock-state": {"synced", "unsynced", "unknown"},
    "revision-state": {"signing", "uploading", "accepted", "rejected"}, "verify.verdict": {"PASS", "PASS WITH DECLARED GAPS", "FAIL"},
    "alarm": {*watchnote.RULES, preflight.NOT_WATCHED},
    "preflight.item": {"roster", "reader", "sound", "storage", "playback", "clock", "platform", "signature", "staff", "exits"},
    "preflight.word": literals(Path(str(preflight.__file__)), {"Item"}, 2),
    "import-column": set(lines.COLUMNS), "import-fault": import_faults(),
    "refusal": refusal_words(), "refusal-next": refusal_words(),
    "reason": {*filter(None, watchnote.REASONS), *LOST_WORDS,
               *UNREADABLE_WORDS, *END_REASONS, "not-recording", "unknown", "timeout", "refused", "unreachable",
               "program-missing", "no-answer", "key-refused", "other-key", "ahead", "behind", "not-there"},
    "class-state": {str(s) for s in State}, "class-code": set(CLASS_WORDS), "class-code-short": set(CLASS_WORDS),
    "class-code-next": {*CLASS_WORDS, "OK-no-seat"}, "group": {str(g) for g in Group}, "class-group": {str(g) for g in Group},
    "method": {"id_card", "id_wedge", "manual", "corrected"},
    "note": {"AttendanceCorrected-absent", "AttendanceCorrected-present", "CandidateAdmitted", "ClockStepped", "DoubtSettled-cleared",
             "DoubtSettled-escalated", "DoubtSigned", "ExamEnded", "ExamStarted", "IdentityDoubted", "ReaderLost", "RosterAccepted",
             "SeatAssigned", "SessionAmended", "SessionCancelled", "StreamImpaired", "StreamLost", "WaiverGranted",
             "IncidentReported", "IncidentSettled-confirmed", "IncidentSettled-dismissed", "StreamBack", "ReaderBack"},
    "incident": set(incidents.CODES), "incident-group": {"V1", "V2", "V3", "T-", "M-"}, "incident-informed": set(incidents.INFORMED),
    "incident-state": {"open", "noted", "confirmed", "dismissed"},
    "seal": {"statement", "statement-aborted"}, "class-seal": {"statement", "statement-aborted"},
    "paper-by": {"class", "employer", "person"}, "plan": set(dossier._PLAN),
    "class-cancel": {"title", "ask", "means", "go"},
    "cancel": {"title", "ask", "means", "go"}, "abort": {"title", "ask", "means", "go"}, "class-abort": {"title", "ask", "means", "go"},
    "keeping-bar": {"hold", "exporting", "unfinished", "no-receipt", "rejected", "newest"}, "keeping-space": {"timetable", "days"},
    "keeping-halted": {"too-much", "files-missing", "storage", "clock"},
    "face": {str(result) for result in face.Result}, "face-short": {str(result) for result in face.Result},
    "face-reason": {*face.NOT_COMPARED_WORDS, *faces.NOT_COMPARED_WORDS, *photo.UNDECODED_WORDS},
    "trouble": {f"{word}{end}" for word in ("forbidden", "not-found", "bad-request", "defect") for end in ("", ".next")} | {"login"},
}


def used_in_templates() -> set[str]:
    """The keys in calls of `t`, also where one of two is chosen; a key that is put together (`family ~ ".go"`) is in WORDS."""
    calls = [call for path in TEMPLATES for call in re.findall(r"\bt\(([^()]*)", path.read_text(encoding="utf-8"))]
    return {key for call in calls for key in re.findall(r'(?:^|else )"([^"]+)"', call) if "~" not in call}


def used_in_modules() -> set[str]:
    """Constants of the modules that are keys: whatever looks like one and stands in a call of say, t, or a choice of a key."""
    known = TEXTS.keys("zh-CN")
    return {node.value for path in MODULES for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in known}


def test_both_catalogues_have_the_same_keys_and_ask_for_the_same_facts() -> None:
    first, *others = LANGUAGES
    for other in others:
        assert TEXTS.keys(first) == TEXTS.keys(other)
        for key in TEXTS.keys(first):
            assert TEXTS.facts_of(first, key) == TEXTS.facts_of(other, key), key
            assert TEXTS.say(other, key, **dict.fromkeys(TEXTS.facts_of(other, key), "x")).strip(), key


def test_chinese_is_complete() -> None:
    """Every zh-CN text is Chinese, but for units and the other language's own name."""
    plain = {"tile.db", "tile.rate", "word.unknown", "nav.other-language"}
    chinese = {language: {key for key in TEXTS.keys(language) if re.search(r"[\u4e00-\u9fff]", TEXTS.say(
        language, key, **dict.fromkeys(TEXTS.facts_of(language, key), "x")))} for language in LANGUAGES}
    assert TEXTS.keys("zh-CN") - chinese["zh-CN"] == plain
    assert chinese["en"] == {"nav.other-language"}


def test_every_key_that_is_used_exists() -> None:
    keys = TEXTS.keys("zh-CN")
    assert len(used_in_templates()) > 100
    assert used_in_templates() <= keys
    for path in MODULES:
        assert literals(path, {"t", "say"}, 0) | literals(path, {"say"}, 1) - set(LANGUAGES) <= keys | {""}, path


@pytest.mark.parametrize("family", WORDS)
def test_every_word_of_a_family_has_its_text(family: str) -> None:
    missing = {word for word in WORDS[family] if f"{family}.{word}" not in TEXTS.keys("zh-CN")}
    assert not missing


def test_no_text_is_left_over() -> None:
    from_words = {f"{family}.{word}" for family, words in WORDS.items() for word in words}
    spare = TEXTS.keys("zh-CN") - used_in_templates() - used_in_modules() - from_words - {"word.unknown", "seal.statement"}
    assert not {key for key in spare if not key.startswith("reason.")}, "a text that nobody asks for"


def test_every_refusal_has_a_status_and_says_what_to_do() -> None:
    assert set(STATUS) <= refusal_words()
    for language in LANGUAGES:
        for word in refusal_words():
            assert TEXTS.word(language, "refusal", word) != word and TEXTS.word(language, "refusal-next", word) != word


def test_a_word_nobody_translated_is_shown_and_a_missing_fact_is_no_fault() -> None:
    assert TEXTS.word("zh-CN", "reason", "http_503") == "http_503"
    assert "场次现在是" in TEXTS.word("zh-CN", "refusal", "not-now")
    with pytest.raises(KeyError):
        TEXTS.say("zh-CN", "no.such.key")


class _Sentences(HTMLParser):
    """Text between tags, and attributes that a person reads or hears."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("alt", "title", "aria-label", "placeholder", "data-none") and value]
        assert not {name for name, _ in attrs} & {"style", "onclick", "onload", "onsubmit"}, "the policy forbids inline styles and handlers"

    def handle_data(self, data: str) -> None:
        self.found.append(data)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_no_sentence_stands_in_a_template(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"[\u3400-\u9fff]", text)
    parser = _Sentences()
    text = re.sub(r"\{% block body_class %\}.*?\{% endblock %\}", "", text)
    parser.feed(re.sub(r"\{%.*?%\}|\{\{.*?\}\}", "", text, flags=re.DOTALL))
    said = {word for part in parser.found for word in re.findall(r"[A-Za-z]{2,}", part)} - {"GB"}
    assert not said, said


def test_the_script_speaks_no_sentence() -> None:
    for name in ("app.js", "player.js"):
        code = re.sub(r"//.*", "", (WEB / "static" / name).read_text(encoding="utf-8"))
        assert not re.search(r"[\u3400-\u9fff]", code)


def test_vendored_files_are_what_the_note_says() -> None:
    folder = WEB / "static" / "vendor"
    noted = dict(re.findall(r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", (folder / "VENDORED.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(noted) == {file.name for file in folder.glob("*.js")}
    for name, digest in noted.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    for licence in re.findall(r"`([^`]+\.LICENSE)`", (folder / "VENDORED.md").read_text(encoding="utf-8")):
        assert (folder / licence).stat().st_size > 300


def test_the_catalogues_are_in_order() -> None:
    for language in LANGUAGES:
        text = (WEB / "locales" / f"{language}.json").read_text(encoding="utf-8")
        keys = [key for key, _ in json.loads(text, object_pairs_hook=list)]
        assert keys == sorted(set(keys))
