"""Until when a session is kept: the longest wins, three years are the floor."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.sessions.policy import BY_CATEGORY, FLOOR_YEARS, POLICIES, Policy, keep_until, longest

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
