"""Who may log in and sign: argon2 on the disk and nothing else, a growing delay and never a lock-out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.clock import US, SimClock
from edge.storage.staff import FREE_TRIES, MOST_DELAY_S, StaffBook, TooSoon

PASSWORD, PIN = "correct horse battery", "4711"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "staff.json"


@pytest.fixture
def book(path: Path, sim_clock: SimClock) -> StaffBook:
    book = StaffBook(path, sim_clock)
    book.add("T001", "样例主考", "staff", PASSWORD, PIN)
    return book


def test_only_hashes_are_on_the_disk(book: StaffBook, path: Path) -> None:
    raw = path.read_text(encoding="utf-8")
    assert PASSWORD not in raw and PIN not in raw
    member = json.loads(raw)["members"][0]
    assert set(member) == {"staff_id", "name", "role", "password_hash", "pin_hash"}
    assert member["password_hash"].startswith("$argon2id$") and member["pin_hash"].startswith("$argon2id$")
    assert path.stat().st_mode & 0o777 == 0o600
    book.add("T002", "样例监考一", "staff", PASSWORD, PIN)
    hashes = [m[key] for m in json.loads(path.read_text(encoding="utf-8"))["members"] for key in ("password_hash", "pin_hash")]
    assert len(set(hashes)) == 4, "equal secrets do not look equal"


def test_the_right_secret_and_no_other(book: StaffBook) -> None:
    assert book.check_password("T001", PASSWORD) and book.check_pin("T001", PIN)
    assert not book.check_password("T001", PASSWORD.upper()) and not book.check_pin("T001", "")
    assert not book.check_password("T001", PIN), "a PIN is no password"
    assert not book.check_pin("T009", PIN), "nobody of that name"
    assert not book.check_pin("T009", "nobody's secret")


def test_a_member_without_a_secret_is_never_let_in_by_it(book: StaffBook) -> None:
    book.add("D001", "演练", "drill", None, "0000")
    for guess in ("", "nobody's secret", "None"):
        assert not book.check_password("D001", guess)
    assert book.check_pin("D001", "0000")


@pytest.mark.parametrize("guess", ["\ud800", "\0", "😀" * 5000])
def test_whatever_is_typed_is_a_wrong_secret_and_no_fault(book: StaffBook, guess: str) -> None:
    assert book.check_pin("T001", guess) is False


@pytest.mark.parametrize(("role", "password", "pin", "word"), [
    ("boss", PASSWORD, PIN, "role"), ("staff", "short", PIN, "password"), ("staff", PASSWORD, "123", "PIN"),
    ("staff", PASSWORD, "12a4", "PIN"),
])
def test_a_weak_secret_or_an_unknown_role_changes_nothing(book: StaffBook, path: Path, role: str, password: str, pin: str,
                                                          word: str) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match=word) as error:
        book.add("T002", "x", role, password, pin)
    assert path.read_bytes() == before and "12a4" not in str(error.value) and "short'" not in str(error.value)


def test_a_changed_file_is_read_anew_and_a_missing_one_is_nobody(book: StaffBook, path: Path, sim_clock: SimClock) -> None:
    running = StaffBook(path, sim_clock)
    assert set(running.members) == {"T001"} and running.name("T002") == "T002"
    book.add("T002", "样例监考一", "staff", None, PIN)           # as `edge staff add` does, from another process
    assert set(running.members) == {"T001", "T002"} and running.name("T002") == "样例监考一"
    assert book.remove("T001") and not book.remove("T001")
    assert set(running.members) == {"T002"} and not running.check_pin("T001", PIN)
    path.unlink()
    assert running.members == {} and not running.check_pin("T002", PIN)


async def test_wrong_tries_are_delayed_ever_longer_and_never_locked_out(book: StaffBook, sim_clock: SimClock) -> None:
    for _ in range(FREE_TRIES):
        assert not book.check_pin("T001", "0000")
    waits = []
    for _ in range(8):
        with pytest.raises(TooSoon) as wait:
            book.check_pin("T001", PIN)                     # even the right one must wait …
        waits.append(wait.value.seconds)
        await sim_clock.pass_time(wait.value.seconds)
        assert not book.check_pin("T001", "0000")           # … exactly as long as was said
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30] and waits[-1] == MOST_DELAY_S
    await sim_clock.pass_time(MOST_DELAY_S)
    assert book.check_pin("T001", PIN), "never a lock-out: an exam must go on"
    assert not book.check_pin("T001", "0000") and book.check_pin("T001", PIN), "a good one clears the count"


async def test_the_delay_goes_by_the_boot_clock(book: StaffBook, sim_clock: SimClock) -> None:
    for _ in range(FREE_TRIES):
        book.check_pin("T001", "0000")
    sim_clock.step_wall(3600 * US)
    with pytest.raises(TooSoon):
        book.check_pin("T001", PIN)
    sim_clock.step_wall(-7200 * US)
    await sim_clock.pass_time(1)
    assert book.check_pin("T001", PIN)


def test_one_persons_wrong_tries_delay_nobody_else(book: StaffBook) -> None:
    book.add("T002", "样例监考一", "staff", None, PIN)
    for _ in range(FREE_TRIES):
        book.check_pin("T002", "0000")
    assert book.check_pin("T001", PIN)
    with pytest.raises(TooSoon, match="try again in 1 s"):
        book.check_pin("T002", PIN)
