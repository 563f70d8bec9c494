"""Until when a session is kept: the longest wins, three years are the floor."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.sessions.policy import BY_CATEGORY, FLOOR_YEARS, POLICIES, Policy, PolicyError, Table, keep_until, longest, read_policies

days = st.dates(date(2000, 1, 1), date(2090, 12, 31))
names = st.sampled_from([*POLICIES, "RP-UNKNOWN", ""])
categories = st.lists(st.sampled_from([*BY_CATEGORY, "MINER"]), max_size=5)


@pytest.mark.parametrize(("policy", "people", "name", "until"), [
    ("RP-GENERAL-3Y", [], "RP-GENERAL-3Y", date(2029, 11, 26)),
    ("RP-GENERAL-3Y", ["GENERAL", "SPECIAL"], "RP-SPECIAL-6Y", date(2032, 11, 26) + timedelta(days=180)),
    ("RP-SPECIAL-6Y", ["GENERAL"], "RP-SPECIAL-6Y", date(2033, 5, 25)),
    ("RP-CLASS-3Y", ["PRINCIPAL"], "RP-CLASS-3Y", date(2029, 11, 26)),
    ("RP-NEW-10Y", ["GENERAL"], "RP-SPECIAL-6Y", date(2033, 5, 25)),            # unknown: the longest known
    ("RP-GENERAL-3Y", ["MINER"], "RP-SPECIAL-6Y", date(2033, 5, 25)),
])
def test_the_longest_wins(policy: str, people: list[str], name: str, until: date) -> None:
    found, day, basis = longest(policy, people, date(2026, 11, 26))
    assert (found, day, basis) == (name, until, POLICIES[name].basis)


def test_the_29th_of_february_is_kept_a_day_longer_not_shorter() -> None:
    assert keep_until(POLICIES["RP-GENERAL-3Y"], date(2028, 2, 29)) == date(2031, 3, 1)


@given(names, categories, days)
def test_never_less_than_three_years_and_never_less_than_any_who_was_there_needs(policy: str, people: list[str], ended: date) -> None:
    _, until, _ = longest(policy, people, ended)
    assert until >= date(ended.year + FLOOR_YEARS, ended.month, min(ended.day, 28))
    for category in people:
        assert until >= longest(policy, [category], ended)[1]
    assert until >= longest(policy, [], ended)[1]


@given(st.integers(0, 20), st.integers(0, 400), days)
def test_the_floor_holds_for_a_policy_that_asks_for_less(years: int, margin: int, ended: date) -> None:
    until = keep_until(Policy(years, margin, ""), ended)
    assert until >= keep_until(Policy(3, 0, ""), ended)
    assert until > ended + timedelta(days=365 * max(years, 3) + margin - 1)


def test_every_category_has_a_policy_of_the_table() -> None:
    assert set(BY_CATEGORY.values()) <= set(POLICIES)
    assert all(policy.years >= FLOOR_YEARS and policy.basis for policy in POLICIES.values())


# ---- the site's own file ----------------------------------------------------------------------------------------------

GOOD = """[RP-SPECIAL-6Y]
years = 8
margin_days = 180
basis = "省局要求8年"

[RP-MINE]
years = 10
basis = "矿山"
categories = ["MINER", "SPECIAL"]
"""


def read(tmp_path: Path, text: str) -> Table:
    path = tmp_path / "policies.toml"
    path.write_text(text, encoding="utf-8")
    return read_policies(path)


def test_a_site_lengthens_and_adds(tmp_path: Path) -> None:
    table = read(tmp_path, GOOD)
    assert table.longest("RP-SPECIAL-6Y", [], date(2026, 11, 26)) == ("RP-SPECIAL-6Y", date(2035, 5, 25), "省局要求8年")
    assert table.longest("RP-GENERAL-3Y", ["MINER"], date(2026, 11, 26))[:2] == ("RP-MINE", date(2036, 11, 26))
    assert table.longest("RP-GENERAL-3Y", ["GENERAL"], date(2026, 11, 26))[:2] == ("RP-GENERAL-3Y", date(2029, 11, 26))


@pytest.mark.parametrize(("change", "words"), [
    (("years = 8", "years = 2"), "from 3"), (("years = 8", "years = 0"), "from 3"), (("years = 8", "years = -6"), "from 3"),
    (("years = 8", "years = 3"), "may only be lengthened"),
    (("years = 8\nmargin_days = 180", "years = 6\nmargin_days = 179"), "lengthened"),
    (("years = 8\n", ""), "years is None"),
    (("years = 8", "years = 8.5"), "whole number"), (("years = 8", "years = true"), "whole number"),
    (("years = 8", 'years = "8"'), "whole number"), (("years = 8", "year = 8"), "year is unknown"),
    (("years = 8", "years = 800"), "to 30"), (("margin_days = 180", "margin_days = -1"), "margin_days"),
    (('basis = "省局要求8年"', ""), "basis is missing"), (('basis = "省局要求8年"', 'basis = " "'), "basis is missing"),
    (("years = 10\n", "years = 3\n"), "SPECIAL would be kept shorter"), (("[RP-SPECIAL-6Y]", "[RP-SPECIAL-6Y"), "cannot be read"),
    (('["MINER", "SPECIAL"]', '"MINER"'), "list of person categories"), (("[RP-MINE]", "[x]\n[RP-MINE]"), "years is None"),
])
def test_a_typing_mistake_never_shortens_anything(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(PolicyError, match=words):
        read(tmp_path, text)


@given(st.integers(3, 30), st.integers(0, 3660), days, names, categories)
def test_no_file_that_is_taken_keeps_anything_shorter(years: int, margin: int, ended: date, policy: str, people: list[str]) -> None:
    with TemporaryDirectory() as folder:
        try:
            table = read(Path(folder), f'[RP-NEW]\nyears = {years}\nmargin_days = {margin}\nbasis = "b"\n'
                                       'categories = ["SPECIAL", "TEACHER"]\n')
        except PolicyError:
            assert date(2030 + years, 1, 1) + timedelta(days=margin) < date(2036, 7, 1)
            return
    assert table.longest(policy, people, ended)[1] >= longest(policy, people, ended)[1]


def test_a_session_handed_to_the_authority_is_kept_five_years_at_least() -> None:
    assert longest("RP-GENERAL-3Y", ["GENERAL"], date(2026, 11, 26), incident=True)[:2] == ("RP-INCIDENT-5Y", date(2031, 11, 26))
    assert longest("RP-GENERAL-3Y", ["SPECIAL"], date(2026, 11, 26), incident=True)[0] == "RP-SPECIAL-6Y"
