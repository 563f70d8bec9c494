"""The documents say what the code does, and the house has the walls that the design draws.

Documents: every configuration key, verb, option, fact, reason word and link. Walls: where foreign libraries may be named, who may
rename and unlink, what a running room and a running recorder load, how long a module may be. (Floors: import-linter, by `./test`.)
A rule that code breaks is mended in the code; an exception stands in a table here with its reason, and one that is not needed fails.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from edge import __main__, config, demo
from edge.capture import sidecar
from edge.idcheck import reader
from edge.sessions import events, machine, preflight, roster
from edge.sim.people import PEOPLE

HOUSE = Path(__file__).resolve().parent.parent
DOCS = HOUSE / "docs"
EDGE = HOUSE / "edge"
SOURCES = {path.relative_to(EDGE).as_posix(): path.read_text(encoding="utf-8") for path in sorted(EDGE.rglob("*.py"))}
TREES = {name: ast.parse(text) for name, text in SOURCES.items()}
PAGES = sorted([*DOCS.rglob("*.md"), *HOUSE.glob("*.md"), HOUSE / "systemd" / "README.md", HOUSE / "hardware" / "README.md"])
MOST_MODULE_LINES, MOST_FUNCTION_LINES = 400, 40


def read(name: str) -> str:
    return (HOUSE / name).read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return path.relative_to(HOUSE).as_posix()


def sections(text: str, level: int) -> dict[str, str]:
    """Text below each heading of `level` whose title is one `code` phrase, up to the next heading of that or a higher level."""
    found: dict[str, str] = {}
    title = None
    for line in text.splitlines():
        heading = re.match(r"(#{1,6}) (.*)", line)
        if heading and len(heading[1]) <= level:
            phrase = re.match(r"`([^`]+)`$", heading[2].strip()) if len(heading[1]) == level else None
            title = phrase[1] if phrase else None
            if title is not None:
                assert title not in found, f"{title} is described twice"
                found[title] = ""
        elif title is not None:
            found[title] += line + "\n"
    return found


def first_cells(text: str) -> list[str]:
    """The `code` phrase that begins each table row."""
    return re.findall(r"^\| `([^`|]+)` \|", text, re.MULTILINE)


# ---- the documents --------------------------------------------------------------------------------------------------------

def test_the_configuration_page_is_the_printed_table() -> None:
    page = read("docs/operators/configuration.md")
    printed = re.search(r"<!-- printed by: edge config -->\n\n(.*?)\n<!-- end -->", page, re.DOTALL)
    assert printed is not None
    assert printed[1].splitlines() == config.table().splitlines(), "paste the output of `./run config` between the two marks"
    keys = first_cells(config.table())
    assert len(keys) == len(set(keys)) > 30


def verbs(parser: argparse.ArgumentParser, path: tuple[str, ...] = ("edge",)) -> Iterator[tuple[str, set[str]]]:
    """Each verb that can be called, with its arguments and options (help left out, and what is hidden from help)."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for group in below:
        for name, each in group.choices.items():
            yield from verbs(each, (*path, name))
    if not below:
        yield " ".join(path), {
            action.option_strings[-1] if action.option_strings else (action.metavar or action.dest.upper())  # type: ignore[misc]
            for action in parser._actions
            if action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)}


def test_every_verb_and_option_is_on_the_commands_page_and_no_other() -> None:
    described = {title: set(first_cells(text)) for title, text in sections(read("docs/operators/commands.md"), 3).items()}
    assert described == dict(verbs(__main__.parser()))


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_read_me_names_only_verbs_that_exist(page: str) -> None:
    known = {verb.removeprefix("edge ") for verb, _ in verbs(__main__.parser())}
    lines = read(page).splitlines()
    phrases = [line.removeprefix("./run ") for line in lines if line.startswith("./run ")]
    rows = [line.split("|")[1] for line in itertools.dropwhile(lambda line: line not in ("## Commands", "## 命令"), lines)
            if line.startswith("| `")]
    phrases += [phrase for row in rows for phrase in re.findall(r"`([^`]+)`", row)]
    named = {" ".join(itertools.takewhile(re.compile(r"[a-z][a-z-]*").fullmatch, phrase.split())) for phrase in phrases} - {""}
    assert len(named) > 8
    assert named - known == set()


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_read_me_has_the_demos_log_ins(page: str) -> None:
    rows = re.findall(r"^\| ([A-Z][0-9]{3}) \| (\S+) \| (\S+) \|", read(page), re.MULTILINE)
    assert rows == [(staff, password, pin) for staff, _, _, password, pin in demo.LOGINS]


def test_every_fact_and_each_of_its_fields_is_on_the_events_page_and_no_other() -> None:
    described = {title: first_cells(text) for title, text in sections(read("docs/reference/events.md"), 3).items()}
    assert set(described) == set(events.KINDS)
    own = {kind: [f.name for f in dataclasses.fields(cls) if f.name not in ("at", "session")] for kind, cls in events.KINDS.items()}
    assert described == own


def words_of_preflight() -> set[str]:
    """The third argument of every `Item(…)` in sessions/preflight.py."""
    items = [node for node in ast.walk(TREES["sessions/preflight.py"])
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Item" and len(node.args) > 2]
    return {word for item in items for word in strings_in(item.args[2])}


def words_of_streams() -> set[str]:
    """Why a tile is red: the last argument of every `SourceFault(…)` in capture, and of the worker's own `_set("lost", …)`, `refuse(…)`."""
    said: set[str] = set()
    for name, tree in TREES.items():
        for node in ast.walk(tree) if name.startswith("capture/") else ():
            if isinstance(node, ast.Call) and node.args and not isinstance(node.args[-1], ast.Call):
                function = ast.unparse(node.func).rpartition(".")[2]
                lost = function == "_set" and isinstance(node.args[0], ast.Constant) and node.args[0].value == "lost"
                if function in ("SourceFault", "refuse") or lost:
                    said |= strings_in(node.args[-1])
    return said - {"stopped"}


def strings_in(expression: ast.expr) -> set[str]:
    """The texts that an expression can be: itself, or either side of `a if … else b`."""
    if isinstance(expression, ast.IfExp):
        return strings_in(expression.body) | strings_in(expression.orelse)
    return {expression.value} if isinstance(expression, ast.Constant) and isinstance(expression.value, str) else set()


def words_of_gaps() -> set[str]:
    """Ends of segments that are none of the ordinary ones, and what the manifest's own rule says."""
    rule = next(node for node in ast.walk(TREES["evidence/manifest.py"]) if isinstance(node, ast.FunctionDef) and node.name == "_hole")
    own = {word for node in ast.walk(rule) if isinstance(node, ast.Assign) for word in strings_in(node.value)}
    assert own >= {"not-recording"}
    return set(sidecar.END_REASONS) - {"rotated", "cut", "format-changed"} | own


@pytest.mark.parametrize("page", ["docs/operators/trouble.md", "docs/operators/trouble.zh-CN.md"])
def test_the_trouble_page_explains_every_word_the_page_can_show(page: str) -> None:
    explained = set(re.findall(r"`([^`\n]+)`", read(page)))
    good = {word for word in words_of_preflight() if word.endswith(("-ok", "-drill"))}
    wanted = {
        "preflight": words_of_preflight() - good,
        "door": {str(code) for code in roster.Code},
        "reader": set(reader.LOST_WORDS),
        "stream": words_of_streams(),
        "gap": words_of_gaps(),
        "light": {str(light) for light in preflight.Light} - {"green"},
    }
    assert min(map(len, wanted.values())) > 1
    assert {where: words - explained for where, words in wanted.items() if words - explained} == {}


@pytest.mark.parametrize("language", ["zh-CN", "en"])
def test_every_reason_has_its_words_on_the_pages(language: str) -> None:
    texts = json.loads(read(f"edge/web/locales/{language}.json"))
    reasons = words_of_streams() | words_of_gaps() | reader.LOST_WORDS | reader.UNREADABLE_WORDS
    assert {word for word in reasons if f"reason.{word}" not in texts} == set()


def test_the_glossary_has_every_state_as_the_pages_say_it() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \| `([^`]+)`", read("docs/design/glossary.md"), re.MULTILINE)
    names = {code for _, _, code in rows}
    shown = json.loads(read("edge/web/locales/zh-CN.json"))
    pages = {f"State.{state.name}": shown[f"state.{state}"] for state in machine.State}
    assert {code: chinese for chinese, _, code in rows if code in pages} == pages, "the glossary speaks as the pages do"
    assert all(re.search(r"[\u4e00-\u9fff]", chinese) and re.search(r"[a-z]", english) for chinese, english, _ in rows)
    assert len(names) == len(rows), "one word per thing, one line per word"
    known = set(re.findall(r"[\w.]+", "\n".join(SOURCES.values())))
    assert {name for name in names if name not in known and name.rpartition(".")[2] not in known} == set()


@pytest.mark.parametrize("page", ["exam-day", "trouble"])
def test_the_proctors_pages_have_the_same_parts_in_both_languages(page: str) -> None:
    def shape(name: str) -> list[str]:
        return [line.split(" ")[0] if line.startswith("#") else "|" for line in read(name).splitlines() if line.startswith(("#", "|"))]

    assert shape(f"docs/operators/{page}.md") == shape(f"docs/operators/{page}.zh-CN.md")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """GitHub's anchors of a page's headings."""
    titles = re.findall(r"^#{1,6} (.+?)\s*$", without_code(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = without_code(page.read_text(encoding="utf-8"))
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        where, _, anchor = unquote(target).partition("#")
        file = (page.parent / where).resolve() if where else page
        there = file.exists() and file.is_relative_to(HOUSE)
        if not there or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            dead.append(target)
    assert dead == []


def test_every_document_is_on_the_map() -> None:
    listed = {(DOCS / target.partition("#")[0]).resolve() for target in re.findall(r"\]\(([^)\s]+)\)", read("docs/README.md"))}
    there = {path for path in DOCS.rglob("*") if path.suffix in (".md", ".yaml", ".json") and path != DOCS / "README.md"}
    assert sorted(map(name_of, there - listed)) == []


def test_no_mark_of_unfinished_work_is_left() -> None:
    marked = [name_of(page) for page in PAGES if re.search(r"<!-- LEAD|\bTODO\b|\bFIXME\b", page.read_text(encoding="utf-8"))]
    assert marked == []


def test_no_persons_number_stands_outside_the_sample_data() -> None:
    """The invented people's numbers stand in sim/people.py and in tests; any other 18-character number nowhere."""
    number = re.compile(r"(?<![0-9A-Za-z])[0-9]{17}[0-9Xx](?![0-9A-Za-z])")
    known = {person.id_no for person in PEOPLE}
    assert known and all(number.fullmatch(each) for each in known)
    ours = [path for path in EDGE.rglob("*") if path.suffix in (".py", ".html", ".js", ".json", ".md") and "vendor" not in path.parts]
    plain = [*PAGES, *DOCS.rglob("*.yaml"), *DOCS.rglob("*.json"), *HOUSE.glob("config/*"), *HOUSE.glob("systemd/*"), *ours]
    files = [path for path in plain if path.is_file() and path != EDGE / "sim" / "people.py"]
    text = {name_of(path): path.read_text(encoding="utf-8") for path in files}
    assert {name for name, each in text.items() if number.search(each) or any(no in each for no in known)} == set()


# ---- the walls ------------------------------------------------------------------------------------------------------------

ADDRESS = {
    # each foreign library and the only places that may name it; () = nowhere yet
    "av": ("capture/",), "cv2": ("capture/", "idcheck/face_worker.py"), "numpy": ("capture/", "idcheck/face_worker.py"),
    "dlib": ("idcheck/face_worker.py",), "sounddevice": ("capture/portaudio.py",),
    "pyaudio": ("capture/portaudio.py",), "serial": ("idcheck/port.py",), "usb": ("idcheck/usb.py",),
    "boto3": ("upload/archive.py",), "botocore": ("upload/archive.py",),
    # the province; two clients of the room's own local socket; cameras, by onveef
    "httpx": ("upload/platform.py", "app.py", "asking.py", "drill.py", "roomsocket.py", "capture/onvif.py"),
    "onveef": ("capture/onvif.py",),
    "openpyxl": ("rosterfile/table.py",), "weasyprint": ("web/paper.py",),
    "sqlite3": ("storage/",), "sqlite_utils": ("storage/",), "argon2": ("storage/staff.py",),
    "rfc8785": ("evidence/",), "cryptography": ("evidence/", "sim/authority.py"),
    "fastapi": ("web/", "sim/platform.py"), "starlette": ("web/", "sim/"), "jinja2": ("web/",), "uvicorn": ("app.py", "sim/"),
    "pydantic": ("config.py", "web/", "sim/", "upload/contract.py", "upload/platform.py"),      # the gates
}


def imports(tree: ast.AST) -> Iterator[str]:
    """Top names of all that is imported, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]


def test_the_floors_of_the_design_are_those_that_are_held() -> None:
    layers = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"][0]["layers"]
    floors = re.findall(r"^\| [^|]*\| ((?:`\w+`(?:, )?)+) \|", read("docs/design/README.md"), re.MULTILINE)
    held = [set(re.findall(r"\w+", re.sub(r"\(\w+\)", "", each))) for each in layers]      # (in brackets: not built yet)
    assert [set(re.findall(r"`(\w+)`", row)) for row in floors] == held and len(held) > 8


def test_each_foreign_library_has_its_address() -> None:
    foreign = {(name, library) for name, tree in TREES.items() for library in imports(tree)
               if library in ADDRESS or library not in (sys.stdlib_module_names | {"edge", "__future__"})}
    strays = {f"{name}: {library}" for name, library in foreign if not name.startswith(ADDRESS.get(library, ("nowhere",)) or ("nowhere",))}
    assert strays == set()
    assert "capture/" in ADDRESS["av"] and any("av" in imports(tree) for tree in TREES.values()), "the search finds nothing at all"


def test_nothing_is_called_by_a_name_that_says_nothing() -> None:
    empty = {"utils", "util", "helpers", "helper", "managers", "manager", "services", "service", "common", "misc", "base"}
    assert [name for name in SOURCES if empty & set(Path(name).with_suffix("").parts)] == []


MAY_MOVE_AND_REMOVE = {
    # (file, function): why what it renames or unlinks need not survive a power cut
    ("app.py", "_unix_socket"): "a socket file left by a dead room, on tmpfs",
    ("capture/control.py", "serve_control"): "a socket file left by a dead recorder, on tmpfs",
    ("capture/control.py", "_write"): "the status file on tmpfs: news, not truth",
    ("capture/recorder.py", "run"): "the recorder's own socket file, on tmpfs",
    ("capture/watch.py", "_show"): "the newest key frame on tmpfs: news, not truth",
    ("export.py", "look"): "a passing folder of further links to footage; the footage keeps its own names",
    ("status.py", "probe_disk"): "the four kilobytes that were just written to see whether the disk takes them",
}
"""Everything else goes through edge/durable.py."""


FUNCTIONS = {
    "os": {"rename", "renames", "replace", "unlink", "remove", "rmdir", "removedirs", "truncate"}, "shutil": {"move", "rmtree"},
    "durable": set[str](), "dataclasses": set[str](),
}


def moves_and_removals(tree: ast.AST) -> Iterator[str]:
    """The innermost function around each call that renames or unlinks."""
    def look(node: ast.AST, function: str) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            on, what = node.func.value, node.func.attr
            owner = on.id if isinstance(on, ast.Name) else ""
            if owner in FUNCTIONS:
                hit = what in FUNCTIONS[owner]
            elif what == "replace":     # Path.replace has one argument, str.replace two, datetime.replace keywords
                hit = len(node.args) == 1 and not node.keywords
            else:
                hit = what in ("rename", "unlink", "rmdir")
            if hit:
                yield function
        for child in ast.iter_child_nodes(node):
            yield from look(child, function)

    yield from look(tree, "")


def test_only_durable_renames_and_unlinks_what_must_survive() -> None:
    found = {(name, function) for name, tree in TREES.items() if name != "durable.py" for function in moves_and_removals(tree)}
    assert found == set(MAY_MOVE_AND_REMOVE)
    assert set(moves_and_removals(TREES["durable.py"])) >= {"rename", "remove"}


def has_reason(node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return re.search(r"\b(lines?|long)\b", ast.get_docstring(node) or "", re.IGNORECASE) is not None


def test_a_long_module_or_function_says_why() -> None:
    long_ones = [f"{name}: {len(SOURCES[name].splitlines())} lines" for name, tree in TREES.items()
                 if len(SOURCES[name].splitlines()) > MOST_MODULE_LINES and not has_reason(tree)]
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MOST_FUNCTION_LINES and not has_reason(node):
                    long_ones.append(f"{name}: {node.name}: {length} lines")
    assert long_ones == []


def test_every_module_says_what_it_is_for() -> None:
    assert [name for name, tree in TREES.items() if len(ast.get_docstring(tree) or "") < 40] == []
    heavy = [name for name, tree in TREES.items() if name.endswith("__init__.py") and name != "__init__.py" and len(tree.body) > 1]
    assert heavy == [], "a package's __init__ holds a docstring and nothing else"


# ---- what a program loads -------------------------------------------------------------------------------------------------

def loaded_by(tmp_path: Path, *arguments: str) -> set[str]:
    """All modules of one of our programs, as the interpreter reports them: started for real, in an empty place, where it must refuse."""
    place = tmp_path / "config" / "edge.toml"
    place.parent.mkdir()
    place.write_text((HOUSE / "config" / "demo.toml").read_text(encoding="utf-8"), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(HOUSE), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "edge", *arguments, "--config", str(place)],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path, env=environment)
    assert done.returncode == 3, done.stderr[-2000:]
    assert "edge: " in done.stderr or "ERROR" in done.stderr, "it refuses in words"
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def among(loaded: set[str], *names: str) -> set[str]:
    """Those of `loaded` that are one of `names` or lie inside one."""
    return {each for each in loaded if any(each == name or each.startswith(f"{name}.") for name in names)}


def test_no_verb_pays_for_another(tmp_path: Path) -> None:
    """The door gathers all verbs of all parts, and loads nothing but their words."""
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "edge", "key", "roll", "--help"], capture_output=True, text=True,
                          timeout=60, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(HOUSE), "PYTHONSAFEPATH": "1"})
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert {f"edge.commands.{path.stem}" for path in EDGE.glob("commands/[a-z]*.py")} <= among(loaded, "edge")
    assert among(loaded, "edge") - among(loaded, "edge.commands") == {"edge"}
    assert among(loaded, *ADDRESS) == set()


def test_the_room_never_loads_what_touches_pictures(tmp_path: Path) -> None:
    loaded = loaded_by(tmp_path, "room")
    assert {"edge.app", "edge.room", "sqlite3", "fastapi"} <= loaded
    assert among(loaded, "av", "cv2", "numpy", "sounddevice", "pyaudio", "edge.capture.worker", "edge.capture.segments", "openpyxl",
                 "dlib") == set()


def test_the_recorder_never_loads_the_room(tmp_path: Path) -> None:
    loaded = loaded_by(tmp_path, "recorder")
    assert "edge.capture.recorder" in loaded
    assert among(loaded, "fastapi", "uvicorn", "httpx", "sqlite3", "sqlite_utils", "edge.app", "edge.room", "edge.web", "edge.storage",
                 "edge.evidence", "edge.upload", "edge.idcheck", "edge.sim", "edge.demo") == set()


def test_a_worker_never_loads_the_room(tmp_path: Path) -> None:
    loaded = loaded_by(tmp_path, "record", "--stream", "cam-front")
    assert {"edge.capture.worker", "av"} <= loaded
    assert among(loaded, "fastapi", "uvicorn", "httpx", "sqlite3", "sqlite_utils", "edge.app", "edge.room", "edge.web", "edge.storage",
                 "edge.evidence", "edge.upload", "edge.idcheck", "edge.sim", "edge.demo") == set()
