"""Until when a session must be kept. Data, longest wins; lengthening is always allowed, shortening never.

Basis: exam-place rules ask 3 years of every recording; files of special-operation sessions live as long as the certificate,
6 years, and a margin of 180 days because the room does not know the day of issue.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

FLOOR_YEARS = 3


@dataclass(frozen=True, slots=True)
class Policy:
    """`years` (+ `margin_days`) counted from the end of the exam."""

    years: int
    margin_days: int
    basis: str


POLICIES: dict[str, Policy] = {
    "RP-GENERAL-3Y": Policy(3, 0, "考试录像保存期不少于3年"),
    "RP-CLASS-3Y": Policy(3, 0, "培训全过程记录保存期不少于3年"),
    "RP-MGMT-3Y": Policy(3, 0, "考试录像保存期不少于3年"),
    "RP-SPECIAL-6Y": Policy(6, 180, "特种作业档案不少于证件有效期(6年)，另加180日发证余量"),
}
BY_CATEGORY = {"SPECIAL": "RP-SPECIAL-6Y", "PRINCIPAL": "RP-MGMT-3Y", "SAFETY-MGR": "RP-MGMT-3Y", "GENERAL": "RP-GENERAL-3Y",
               "TEACHER": "RP-GENERAL-3Y"}


def longest(policy: str, categories: list[str], ended: date) -> tuple[str, date, str]:
    """(policy name, keep until, basis) for a session under its plan's `policy` with candidates of these categories.

    An unknown policy or category counts as the longest known one: keeping too long is a cost, too short is a loss.
    """
    longest_name = max(POLICIES, key=lambda name: keep_until(POLICIES[name], ended))
    names = [policy if policy in POLICIES else longest_name]
    names += [BY_CATEGORY.get(category, longest_name) for category in categories]
    name = max(names, key=lambda each: keep_until(POLICIES[each], ended))
    return name, keep_until(POLICIES[name], ended), POLICIES[name].basis


def keep_until(policy: Policy, ended: date) -> date:
    """The last day on which nothing may be deleted. 29 February becomes 1 March."""
    year = ended.year + max(policy.years, FLOOR_YEARS)
    try:
        day = ended.replace(year=year)
    except ValueError:
        day = date(year, 3, 1)
    return day + timedelta(days=policy.margin_days)
