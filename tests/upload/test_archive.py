"""One bucket: a file goes in once, whole and locked, or an error says in a word what the store did; nothing local is touched."""

from __future__ import annotations

import hashlib
import io
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.clock import US, SimClock
from edge.upload import archive_keys as keys
from edge.upload.archive import Archive, ArchiveError, Place, Throttle, read_credentials
from tests.upload.s3_store import S3Store

SESSION = "S20261126-KD01-R01-02"
YEAR_US = 365 * 86400 * US


@pytest.fixture
def books() -> Iterator[S3Store]:
    store = S3Store()
    yield store
    store.close()


@pytest.fixture
def archive(books: S3Store, sim_clock: SimClock) -> Archive:
    return make(books, sim_clock)


def make(books: S3Store, clock: SimClock, synced: bool = True, throttle: Throttle | None = None) -> Archive:
    return Archive(Place("evid-3y", books.endpoint, "key", "hush-hush"), clock, lambda: synced, throttle)


def put(archive: Archive, clock: SimClock, data: bytes, key: str = "v1/a") -> object:
    return archive.put(key, io.BytesIO(data), len(data), hashlib.sha256(data).hexdigest(),
                       hashlib.md5(data, usedforsecurity=False).digest(), clock.now().utc_us + 3 * YEAR_US)


def refused(what: Callable[[], object]) -> str:
    with pytest.raises(ArchiveError) as caught:
        what()
    assert "hush" not in str(caught.value)
    return caught.value.word


# ---- in -----------------------------------------------------------------------------------------------------------------

def test_a_file_goes_in_by_one_put_and_is_looked_at(books: S3Store, archive: Archive, sim_clock: SimClock) -> None:
    data = random.Random(1).randbytes(20 << 20)         # far above where boto3's own transfers go multipart
    put(archive, sim_clock, data)
    assert [method for method, _ in books.requests] == ["PUT", "HEAD"]
    assert "versionId=" in books.requests[1][1] and not any("upload" in path.partition("?")[2] for _, path in books.requests)
    (kept,) = books.kept
    assert kept.data == data and kept.until is not None
    assert int(kept.until.timestamp()) * US >= sim_clock.now().utc_us + 3 * YEAR_US


def test_a_lock_that_was_dropped_is_put_on_and_one_that_will_not_stay_is_told(books: S3Store, archive: Archive,
                                                                              sim_clock: SimClock) -> None:
    books.drops_locks = True
    put(archive, sim_clock, b"film")
    assert books.kept[0].until is not None, "A3: locked afterwards"
    books.forgets_retention = True
    assert refused(lambda: put(archive, sim_clock, b"film", "v1/b")) == "not-locked"


def test_a_bucket_without_versions_is_no_archive(books: S3Store, archive: Archive, sim_clock: SimClock) -> None:
    books.versioned = False
    assert refused(lambda: put(archive, sim_clock, b"film")) == "not-worm"


def test_what_the_store_added_to_a_file_is_noticed(books: S3Store, archive: Archive, sim_clock: SimClock) -> None:
    books.keeps_framing = True
    assert refused(lambda: put(archive, sim_clock, b"film")) == "mismatch"


@pytest.mark.parametrize(("answer", "word"), [
    ((403, "AccessDenied"), "denied"), ((403, "SignatureDoesNotMatch"), "denied"), ((403, "RequestTimeTooSkewed"), "clock"),
    ((400, "InvalidRequest"), "refused"), ((404, "NoSuchBucket"), "missing"), ((503, "SlowDown"), "unreachable")])
def test_what_the_store_says_becomes_a_word(books: S3Store, archive: Archive, sim_clock: SimClock, answer: tuple[int, str],
                                            word: str) -> None:
    books.answers = answer
    assert refused(lambda: put(archive, sim_clock, b"film")) == word


def test_a_store_that_is_away_is_unreachable(books: S3Store, sim_clock: SimClock) -> None:
    archive = make(books, sim_clock)
    books.close()
    assert refused(lambda: put(archive, sim_clock, b"film")) == "unreachable"
    books.__post_init__()           # so that the fixture has something to close


def test_no_lock_is_set_by_a_clock_that_nobody_vouches_for_nor_for_ever(books: S3Store, sim_clock: SimClock) -> None:
    unsynced, synced = make(books, sim_clock, synced=False), make(books, sim_clock)
    assert refused(lambda: put(unsynced, sim_clock, b"film")) == "clock"
    assert refused(lambda: synced.put_bytes("v1/a", b"x", sim_clock.now().utc_us + 13 * YEAR_US)) == "too-long"
    assert books.requests == [], "A6: it was not even asked"


def test_a_line_that_breaks_in_mid_body_ends_in_one_whole_object(books: S3Store, archive: Archive, sim_clock: SimClock) -> None:
    """U9: cut at any byte, tried again, no second object, and less than twice the bytes sent."""
    rng, files = random.Random(9), 30
    for number in range(files):
        data = rng.randbytes(300_000)
        books.cut_after = [rng.randrange(len(data))] if number % 2 else []
        sha256, until = hashlib.sha256(data).hexdigest(), sim_clock.now().utc_us + YEAR_US
        while archive.adopt(f"v1/{number:02d}", sha256, len(data), until) is None:
            try:
                put(archive, sim_clock, data, f"v1/{number:02d}")
            except ArchiveError as error:
                assert error.word == "unreachable"
        (kept,) = books.of(f"v1/{number:02d}")
        assert kept.data == data
    assert len(books.kept) == files and books.body_bytes < 2 * files * 300_000


def test_what_is_there_already_is_not_sent_again(books: S3Store, archive: Archive, sim_clock: SimClock) -> None:
    put(archive, sim_clock, b"film")
    sha256, until = hashlib.sha256(b"film").hexdigest(), sim_clock.now().utc_us + 6 * YEAR_US
    adopted = archive.adopt("v1/a", sha256, 4, until)
    assert adopted is not None and adopted.retain_until_utc_us >= until, "A5: kept longer than it was locked"
    assert archive.adopt("v1/a", "0" * 64, 4, until) is None and archive.adopt("v1/none", sha256, 4, until) is None
    assert len(books.kept) == 1


# ---- pace ---------------------------------------------------------------------------------------------------------------

def test_bytes_are_paced_and_rest_breaks_off(books: S3Store, sim_clock: SimClock) -> None:
    rate = [1600]                                       # kbit/s = 200 kB/s
    archive = make(books, sim_clock, throttle=Throttle(lambda: rate[0]))
    began = time.monotonic()
    put(archive, sim_clock, bytes(300_000))
    assert time.monotonic() - began >= 0.45, "300 kB at 200 kB/s, less a second saved"

    class Cap:                                          # the exam begins when some of the body has gone
        def __init__(self) -> None:
            self.asked = 0

        def __call__(self) -> int:
            self.asked += 1
            return 0 if self.asked > 20 else 1_000_000

    archive = make(books, sim_clock, throttle=Throttle(Cap()))
    assert refused(lambda: put(archive, sim_clock, bytes(8 << 20), "v1/b")) == "resting"
    assert [k.key for k in books.kept] == ["v1/a"]


# ---- is it WORM ---------------------------------------------------------------------------------------------------------

def test_the_self_test_believes_only_a_store_that_refuses(books: S3Store, archive: Archive) -> None:
    stored = archive.self_test("v1/probe/1")
    assert archive.default_lock() == 1096
    assert archive.may_delete(stored) is None, "its minute is not over"
    books.lenient = True
    assert refused(lambda: archive.self_test("v1/probe/2")) == "not-worm"


def test_an_unreachable_store_is_not_taken_for_a_refusing_one(books: S3Store, archive: Archive) -> None:
    books.answers = (503, "SlowDown")
    assert refused(lambda: archive.self_test("v1/probe/1")) == "unreachable"


# ---- keys and credentials -----------------------------------------------------------------------------------------------

@given(st.sampled_from(["segments/cam-front/000001-0123456789abcdef.mp4", "manifest-1.dsse.json", "receipt-open.dsse.json", "root.pem",
                        "journal-12.jsonl", "session-open.dsse.json"]), st.binary(min_size=32, max_size=32))
def test_a_key_names_its_file_and_its_content(name: str, sha256: bytes) -> None:
    digest = sha256.hex()
    tail = keys.tail(name, digest)
    expected = "0123456789abcdef" if name.startswith("segments/") else digest[:16]
    assert keys.name_of(tail) == (name, expected)
    assert keys.prefix(SESSION) == f"v1/KD01/R01/{SESSION}/"


@given(st.text(max_size=60))
def test_nothing_else_is_a_key(text: str) -> None:
    found = keys.name_of(text)
    assert found is None or (".." not in found[0] and not found[0].startswith("/") and text.isascii())


@pytest.mark.parametrize("name", ["../etc/passwd", "segments/../../x.mp4", "a/b.json", "", "segments/cam/1.mp4"])
def test_a_name_that_no_bundle_has_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="exported session"):
        keys.tail(name, "0" * 64)


def test_credentials_are_two_lines(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("access\nhush-hush\n")
    assert read_credentials(path) == ("access", "hush-hush")
    assert "hush-hush" not in repr(Place("b", None, "access", "hush-hush"))
    path.write_text("one-alone")
    assert refused(lambda: read_credentials(path)) == "credentials"
    assert refused(lambda: read_credentials(tmp_path / "none")) == "credentials"
