"""Numbers of identity documents: the vectors, the sample people, and what a checksum promises."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.sessions import number

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "id-card-vectors.json").read_text("utf-8"))["id_numbers"]
# A busy machine is not a defect.
TIMELESS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("text", VECTORS["valid18"] + VECTORS["foreign15"])
def test_a_published_specimen_is_valid(text: str) -> None:
    assert number.is_valid(text)
    assert not number.is_demo(text)


@pytest.mark.parametrize("text", VECTORS["invalid18"])
def test_what_is_not_written_as_a_number_is_invalid_as_given(text: str) -> None:
    assert not number.is_valid(text)


@pytest.mark.parametrize(("typed", "meant"), [*VECTORS["normalise_then_valid"].items(),
                                              (" １１０１０５１９４９１２３１００２ｘ\u3000", "11010519491231002X")])
def test_normalising_what_was_typed(typed: str, meant: str) -> None:
    assert not number.is_valid(typed)
    assert number.normalise(typed) == meant
    assert number.is_valid(meant)


@pytest.mark.parametrize(("old", "new"), VECTORS["old15_to_18"].items())
def test_first_generation_number(old: str, new: str) -> None:
    assert number.from_15(old) == new


@pytest.mark.parametrize("old", ["", "13050367040100", "13050367040100A", "１30503670401001"])
def test_first_generation_number_refused(old: str) -> None:
    with pytest.raises(ValueError, match="15 digits"):
        number.from_15(old)


@pytest.mark.parametrize("row", VECTORS["foreign18_to_15"])
def test_former_number_of_a_foreigner(row: dict[str, str]) -> None:
    assert number.former_foreign(row["number"], row["country"], row["assoc"]) == row["old"]


@pytest.mark.parametrize("parts", [("110105194912310020", "CAN", "001"), ("911124198108030024", "CA", "001"),
                                   ("911124198108030024", "CAN", "01"), ("911124198108030024", "can", "001")])
def test_former_number_refused(parts: tuple[str, str, str]) -> None:
    with pytest.raises(ValueError, match="foreign"):
        number.former_foreign(*parts)


def test_demo_numbers_count_only_where_they_may() -> None:
    assert number.is_demo("000000199001010018")
    assert not number.is_valid("000000199001010018")
    assert number.is_valid("000000199001010018", allow_demo=True)
    assert not number.is_valid("000000199001010017", allow_demo=True), "check character"


def _with_check(body: str) -> str:
    return next(body + char for char in "0123456789X" if number.check_resident(body + char))


@pytest.mark.parametrize(("body", "why"), [
    ("16010119900101001", "no region 16"), ("00000119900101001", "region 000001 is not the demo's"),
    ("11010119900230001", "30 February"), ("11010119900001001", "month 0"),
    ("91112419810803000", "sequence 000 is not given to foreigners"),
])
def test_right_check_character_but_no_number(body: str, why: str) -> None:
    assert not number.is_valid(_with_check(body), allow_demo=True), why


def test_foreign_15_needs_a_date_in_some_century() -> None:
    assert number.is_valid("CAN110081080310")
    assert not any(number.is_valid(f"CAN1100811308{seq:02d}{check}") for seq in range(100) for check in range(10))


def test_born_in_the_future() -> None:
    born_2008 = "000000200808010102"
    assert number.is_valid(born_2008, allow_demo=True, today=date(2008, 8, 1))
    assert not number.is_valid(born_2008, allow_demo=True, today=date(2008, 7, 31))


def test_what_a_number_says_of_its_bearer() -> None:
    assert number.birth("11010519491231002X") == date(1949, 12, 31)
    assert (number.sex("11010519491231002X"), number.sex("130503196704010016")) == ("2", "1")
    assert number.sex("911124198108030024") is None and number.sex("CAN110081080310") is None
    assert number.birth("CAN110081080310") is None
    assert number.birth_agrees("CAN110081080310", date(1981, 8, 3))
    assert number.birth_agrees("CAN110081080310", date(2081, 8, 3))
    assert not number.birth_agrees("CAN110081080310", date(1981, 8, 4))
    assert number.is_foreign("CAN110081080310") and number.is_foreign("911124198108030024")
    assert not number.is_foreign("11010519491231002X")


BODIES = st.builds(lambda region, born, seq: f"{region}0101{born:%Y%m%d}{seq:03d}", st.sampled_from(sorted(number.REGIONS)),
                   st.dates(date(1900, 1, 1), date(2030, 1, 1)), st.integers(0, 999))


@TIMELESS
@given(BODIES, st.integers(0, 17), st.sampled_from("0123456789X"))
def test_one_wrong_character_is_always_noticed(body: str, at: int, other: str) -> None:
    right = _with_check(body)
    assert number.is_valid(right)
    wrong = right[:at] + other + right[at + 1:]
    assert wrong == right or not number.check_resident(wrong)


@TIMELESS
@given(BODIES, st.integers(0, 16))
def test_two_neighbours_swapped_are_always_noticed(body: str, at: int) -> None:
    right = _with_check(body)
    wrong = right[:at] + right[at + 1] + right[at] + right[at + 2:]
    assert wrong == right or not number.check_resident(wrong)


@TIMELESS
@given(st.text(max_size=20))
def test_any_text_gets_an_answer(text: str) -> None:
    number.normalise(text)
    assert number.is_valid(text) in (True, False)
    assert number.birth(text) is None or len(text) == 18
    assert number.sex(text) in (None, "1", "2")
