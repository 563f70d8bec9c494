"""Out of the archive on a machine that never saw the room: the session by its id, proven, whatever somebody did to the bucket."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jsonschema import Draft202012Validator

from edge import retrieval
from edge.clock import SimClock
from edge.evidence import bundle
from edge.evidence.envelope import read_envelope
from edge.retrieval import NotExportable
from edge.sim.authority import Authority
from edge.upload import archive_keys as keys
from edge.upload.archive import Archive, ArchiveError, Place
from tests.upload.archive_office import SESSION, Office
from tests.upload.s3_store import Kept, S3Store

if TYPE_CHECKING:
    from tests.conftest import Device, Hall

ROOT = Path(__file__).parents[1]


@pytest.fixture
def books() -> Iterator[S3Store]:
    store = S3Store()
    yield store
    store.close()


@pytest.fixture
async def office(hall: Hall, authority: Authority, device: Device, books: S3Store) -> Office:
    """One session is archived."""
    office = Office(hall, authority, device, books.endpoint)
    await office.sealed()
    await office.archive()
    books.requests.clear()
    return office


@pytest.fixture
def archive(office: Office, books: S3Store) -> Archive:
    """Another machine's way to the bucket."""
    return Archive(Place("evid-6y", books.endpoint, "auditor", "secret"), office.hall.clock, lambda: True)


def test_a_session_is_found_by_its_id_with_one_question(archive: Archive, books: S3Store) -> None:
    found = retrieval.find([archive], SESSION)
    assert [path for method, path in books.requests if method == "GET"] == [books.requests[0][1]]
    facts = retrieval.describe(found)
    assert facts["films"] == {"cam-back": 1, "cam-front": 1, "mic": 1} and "manifest-1.dsse.json" in facts["documents"]
    assert facts["locked_until"].startswith("20") and not facts["deletion_marks"] and not facts["strays"]


def test_what_is_not_there_is_said(archive: Archive) -> None:
    with pytest.raises(NotExportable, match="nothing of session S20261126-KD01-R01-09"):
        retrieval.find([archive], "S20261126-KD01-R01-09")


def test_it_is_fetched_as_it_would_be_exported_and_holds(archive: Archive, office: Office, tmp_path: Path) -> None:
    problems = retrieval.fetch(retrieval.find([archive], SESSION), tmp_path / "out")
    report = bundle.verify(tmp_path / "out", office.authority.root_pem)
    assert problems == [] and report.verdict in ("PASS", "PASS WITH DECLARED GAPS"), report.lines
    assert report.had_receipts and report.segments == 3
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", check=False, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_who_fetches_is_on_record_before_the_first_byte(archive: Archive, office: Office, books: S3Store) -> None:
    """E11."""
    found = retrieval.find([archive], SESSION)
    for by, reason in (("", "x"), ("x", " ")):
        with pytest.raises(NotExportable, match="who and why"):
            retrieval.record_access(found.first(), office.hall.clock, SESSION, by, reason, "get")
    key = retrieval.record_access(found.first(), office.hall.clock, SESSION, "Auditor 17", "appeal", "get")
    (kept,) = books.of("/access/")
    assert kept.key == key and json.loads(kept.data)["reason"] == "appeal"
    assert kept.until and kept.until > datetime.now(UTC) + timedelta(days=9 * 365)
    assert retrieval.describe(retrieval.find([archive], SESSION))["accesses"] == 1


def test_deletion_marks_and_later_versions_hide_nothing(archive: Archive, office: Office, books: S3Store, tmp_path: Path) -> None:
    film = next(k for k in books.kept if k.key.endswith(".mp4"))
    manifest = next(k for k in books.kept if "/manifest-1-" in k.key)
    now = datetime.now(UTC)
    books.kept += [Kept(film.key, "mark", b"", {}, now, marker=True), Kept(film.key, "later", b"other bytes", {}, now),
                   Kept(manifest.key, "forged", b"{}", {}, now), Kept(keys.prefix(SESSION) + "notes.txt", "stray", b"?", {}, now),
                   Kept(f"{keys.prefix(SESSION)}manifest-1-{'44136fa355b3678a'}.dsse.json", "twin", b"{}", {}, now)]
    found = retrieval.find([archive], SESSION)
    problems = retrieval.fetch(found, tmp_path / "out")
    assert problems == ["manifest-1.dsse.json: the archive holds 2 different ones; the first was taken"]
    assert bundle.verify(tmp_path / "out", office.authority.root_pem).verdict != "FAIL"
    said = "\n".join(retrieval.locks(found, retrieval.keep_until_us(tmp_path / "out")))
    assert "deletion mark" in said and "notes.txt: no file of any session" in said and "2 versions" in said
    assert "locked not at all" in said, "what somebody added is under no lock"


@pytest.mark.parametrize("how", ["spoilt", "gone"])
def test_an_altered_or_lost_film_is_named(archive: Archive, office: Office, books: S3Store, tmp_path: Path, how: str) -> None:
    if how == "spoilt":
        books.spoils = "cam-front/000001"
    else:
        books.kept = [k for k in books.kept if not ("cam-front/" in k.key and k.key.endswith(".mp4"))]
    verified = retrieval.verify(retrieval.find([archive], SESSION), office.authority.root_pem, tmp_path)
    assert verified.report.verdict == "FAIL" and "cam-front" in verified.report.first
    assert any("cam-front/000001" in each for each in verified.problems)
    assert list(tmp_path.iterdir()) == [p for p in tmp_path.iterdir() if not p.name.startswith("edge-archive-")], "nothing left behind"


def test_a_lock_that_is_too_short_is_named_though_every_byte_is_right(archive: Archive, office: Office, books: S3Store,
                                                                      tmp_path: Path) -> None:
    next(k for k in books.kept if k.key.endswith(".mp4")).until = datetime.now(UTC) + timedelta(days=3)
    verified = retrieval.verify(retrieval.find([archive], SESSION), office.authority.root_pem, tmp_path)
    assert verified.report.verdict != "FAIL" and len(verified.problems) == 1 and "must be until" in verified.problems[0]


def test_a_broken_fetch_goes_on_where_it_was(archive: Archive, office: Office, books: S3Store, tmp_path: Path) -> None:
    folder, found = tmp_path / "out", retrieval.find([archive], SESSION)
    retrieval.fetch(found, folder)
    film = next(folder.rglob("*.mp4"))
    whole = film.read_bytes()
    film.unlink()
    (version,) = (v for _, v in found.files[keys.tail(film.relative_to(folder).as_posix(), "0" * 64)])
    part = film.with_name(f".{film.name}.{hashlib.sha256(version.version_id.encode()).hexdigest()[:8]}.part")
    part.write_bytes(whole[:5000])
    books.requests.clear()
    assert retrieval.fetch(retrieval.find([archive], SESSION), folder) == [] and film.read_bytes() == whole
    assert sum(".mp4" in path for _, path in books.requests) == 1, "only what was missing"
    with pytest.raises(NotExportable, match="not empty"):
        retrieval.fetch(found, office.footage)


def test_a_line_that_breaks_while_fetching_costs_only_what_was_not_yet_there(archive: Archive, books: S3Store, tmp_path: Path) -> None:
    books.cut_reads = [3000, 1, 5000]
    tries = 0
    while True:
        try:
            assert retrieval.fetch(retrieval.find([archive], SESSION), tmp_path / "out") == []
            break
        except ArchiveError as error:
            assert error.word == "unreachable"
            tries += 1
            assert tries <= 3 and sum(p.stat().st_size for p in (tmp_path / "out").rglob("*.part")) > 0
    assert tries == 3 and not list((tmp_path / "out").rglob("*.part"))
    assert bundle.verify(tmp_path / "out").verdict != "FAIL"


def test_names_in_a_forged_manifest_never_leave_the_folder(archive: Archive, books: S3Store, tmp_path: Path) -> None:
    manifest = next(k for k in books.kept if "/manifest-1-" in k.key)
    outer = json.loads(manifest.data)
    inner = json.loads(base64.b64decode(outer["payload"]))
    inner["segments"][0]["path"] = "../../outside.mp4"
    outer["payload"] = base64.b64encode(json.dumps(inner).encode()).decode()
    data = json.dumps(outer).encode()
    books.kept = [k for k in books.kept if k is not manifest]
    books.kept.append(Kept(f"{keys.prefix(SESSION)}manifest-1-{hashlib.sha256(data).hexdigest()[:16]}.dsse.json", "f", data, {},
                           datetime.now(UTC)))
    problems = retrieval.fetch(retrieval.find([archive], SESSION), tmp_path / "a" / "b")
    assert any("outside.mp4" in each for each in problems) and not list(tmp_path.glob("**/outside*"))


# ---- expiry -----------------------------------------------------------------------------------------------------------------

def test_nothing_goes_while_anything_is_locked_or_held(archive: Archive, office: Office, books: S3Store) -> None:
    found = retrieval.find([archive], SESSION)
    with pytest.raises(NotExportable, match="may not go: locked until"):
        retrieval.expire(found, office.hall.clock, office.device.signer, "Keeper 1")
    for each in books.kept:
        each.until = datetime.now(UTC) - timedelta(days=1)
    books.of("cam-front/")[0].held = True
    with pytest.raises(NotExportable, match="1 on hold"):
        retrieval.expire(found, office.hall.clock, office.device.signer, "Keeper 1")
    assert len(books.of(SESSION)) > 10


def test_what_is_over_goes_with_a_signed_record_that_stays(archive: Archive, office: Office, books: S3Store) -> None:
    """A7, and broken off in the middle."""
    for each in books.kept:
        each.until = datetime.now(UTC) - timedelta(days=1)
    found = retrieval.find([archive], SESSION)
    count = len(retrieval.expirable(found, office.hall.clock))

    class Breaks(Archive):
        left = 4

        def delete(self, key: str, version: str) -> None:
            Breaks.left -= 1
            if Breaks.left < 0:
                raise ArchiveError("unreachable", "the line broke")
            super().delete(key, version)

    breaking = Breaks(archive.place, SimClock(office.hall.clock.now().utc_us), lambda: True)
    with pytest.raises(ArchiveError):
        retrieval.expire(retrieval.find([breaking], SESSION), office.hall.clock, office.device.signer, "Keeper 1")
    assert retrieval.expire(retrieval.find([archive], SESSION), office.hall.clock, office.device.signer, "Keeper 1") == count - 4
    (record,) = books.of(SESSION)
    assert "/disposed/" in record.key and record.until and record.until > datetime.now(UTC) + timedelta(days=9 * 365)
    opened = read_envelope(record.data, office.authority.root_pem, retrieval.DISPOSITION, "device", office.hall.clock.now().utc_us)
    assert opened.payload["objects"] == count and opened.payload["session_id"] == SESSION
    Draft202012Validator(json.loads((ROOT / "docs/schemas/archive-disposition.json").read_text(encoding="utf-8"))).validate(opened.payload)
    with pytest.raises(NotExportable, match="lawfully deleted"):
        retrieval.fetch(retrieval.find([archive], SESSION), office.footage / "new")


# ---- the command --------------------------------------------------------------------------------------------------------------

def test_the_commands_on_a_machine_without_a_room(office: Office, books: S3Store, tmp_path: Path) -> None:
    """Another process, an empty folder, no configuration."""
    (tmp_path / "keys").write_text("auditor\nsecret\n")
    (tmp_path / "root.pem").write_bytes(office.authority.root_pem)
    where = ["--endpoint", books.endpoint, "--credentials", str(tmp_path / "keys"), "--bucket", "evid-6y"]

    def edge(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "edge", "archive", *words, *where], capture_output=True, text=True, check=False,
                              cwd=ROOT)

    found = edge("find", SESSION, "--json")
    assert found.returncode == 0 and json.loads(found.stdout)["session"] == SESSION
    who = ["--by", "Auditor 17", "--reason", "yearly sample", "--root", str(tmp_path / "root.pem")]
    got = edge("get", SESSION, "--to", str(tmp_path / "out"), *who)
    assert got.returncode == 0 and "PASS" in got.stdout and (tmp_path / "out" / "VERIFY.md").is_file(), got.stderr
    verified = edge("verify", SESSION, "--json", *who)
    assert verified.returncode == 0 and json.loads(verified.stdout)["archive"] == []
    assert len(books.of("/access/")) == 2
    locked = edge("expire", SESSION)
    assert locked.returncode == 1 and "may not go" in locked.stderr
    assert edge("find", "S20261126-KD01-R01-09").returncode == 1 and edge("find", "nonsense").returncode == 1
    books.answers = (403, "AccessDenied")
    denied = edge("find", SESSION)
    assert denied.returncode == 1 and "may not do that" in denied.stderr and "Traceback" not in denied.stderr
