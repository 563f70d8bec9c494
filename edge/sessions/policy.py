"""Until when a session must be kept. Data, longest wins; lengthening is always allowed, shortening never.

Basis: exam-place rules ask 3 years of every recording; files of special-operation sessions live as long as the certificate,
6 years, and a margin of 180 days because the room does not know the day of issue; what was handed to the authority as doubtful is kept
5 years at least, as integrity files are. A site may add policies and lengthen these in a file (`read_policies`), never shorten them.
Called by the notary (at sealing), the keeper (what is due) and `config` (the file).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

FLOOR_YEARS = 3
MOST_YEARS = 30
"""A policy beyond this is a typing mistake (the platform may still lengthen a single session, and a hold has no end)."""


class PolicyError(ValueError):
    """The policy file cannot be used. Says which policy, what is wrong, what would be right. Everything is kept meanwhile."""


@dataclass(frozen=True, slots=True)
class Policy:
    """`years` (+ `margin_days`) counted from the end of the exam."""

    years: int
    margin_days: int
    basis: str


INCIDENT = "RP-INCIDENT-5Y"
POLICIES: dict[str, Policy] = {
    "RP-GENERAL-3Y": Policy(3, 0, "考试录像保存期不少于3年"),
    "RP-CLASS-3Y": Policy(3, 0, "培训全过程记录保存期不少于3年"),
    "RP-MGMT-3Y": Policy(3, 0, "考试录像保存期不少于3年"),
    "RP-SPECIAL-6Y": Policy(6, 180, "特种作业档案不少于证件有效期(6年)，另加180日发证余量"),
    INCIDENT: Policy(5, 0, "存疑移交场次按诚信档案保存不少于5年"),
}
BY_CATEGORY = {"SPECIAL": "RP-SPECIAL-6Y", "PRINCIPAL": "RP-MGMT-3Y", "SAFETY-MGR": "RP-MGMT-3Y", "GENERAL": "RP-GENERAL-3Y",
               "TEACHER": "RP-GENERAL-3Y"}


@dataclass(frozen=True, slots=True)
class Table:
    """The policies that are in force here."""

    policies: Mapping[str, Policy] = field(default_factory=lambda: POLICIES)
    by_category: Mapping[str, str] = field(default_factory=lambda: BY_CATEGORY)

    def longest(self, policy: str, categories: Sequence[str], ended: date, *, incident: bool = False) -> tuple[str, date, str]:
        """(policy name, keep until, basis) for a session under its plan's `policy` with candidates of these categories.

        `incident`: an identity was handed to the authority as doubtful. An unknown policy or category counts as the longest known one:
        keeping too long is a cost, too short is a loss.
        """
        longest_name = max(self.policies, key=lambda name: keep_until(self.policies[name], ended))
        names = [policy if policy in self.policies else longest_name]
        names += [self.by_category.get(category, longest_name) for category in categories]
        names += [INCIDENT] if incident else []
        name = max(names, key=lambda each: keep_until(self.policies[each], ended))
        return name, keep_until(self.policies[name], ended), self.policies[name].basis


BUILT_IN = Table()


def longest(policy: str, categories: Sequence[str], ended: date, *, incident: bool = False) -> tuple[str, date, str]:
    """As `Table.longest`, by the policies that come with the program."""
    return BUILT_IN.longest(policy, categories, ended, incident=incident)


def keep_until(policy: Policy, ended: date) -> date:
    """The last day on which nothing may be deleted. 29 February becomes 1 March."""
    year = ended.year + max(policy.years, FLOOR_YEARS)
    try:
        day = ended.replace(year=year)
    except ValueError:
        day = date(year, 3, 1)
    return day + timedelta(days=policy.margin_days)


def later(one: str | None, other: str | None) -> str | None:
    """The later of two dates (YYYY-MM-DD). What is no date counts as none: it can lengthen nothing, and shorten nothing."""
    days = [text for text in (one, other) if text is not None and is_date(text)]
    return max(days, default=None)


def is_date(text: str) -> bool:
    """Whether it is a date of the form YYYY-MM-DD; texts of this form are in the order of their days."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


# ---- the site's own file ----------------------------------------------------------------------------------------------

def read_policies(path: Path) -> Table:
    """The built-in table with what a site's file adds and lengthens (TOML: one table per policy).

        [RP-SPECIAL-6Y]
        years = 8                       # never below what comes with the program, nor below 3
        margin_days = 180               # optional, 0
        basis = "省局要求8年"            # what the duty rests on; goes into manifests
        categories = ["SPECIAL"]        # optional: whose sessions it governs

    PolicyError in plain words if anything in it is wrong: a typing mistake must never delete anything.
    """
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"the policy file {path} cannot be read: {error}") from error
    policies, by_category = dict(POLICIES), dict(BY_CATEGORY)
    for name, row in rows.items():
        policies[name] = _policy(f"{path}: [{name}]", name, row)
        for category in row.get("categories", []):
            by_category[category] = name
    for category, name in BY_CATEGORY.items():
        old, new = POLICIES[name], policies[by_category[category]]
        if _shorter(new, old):
            raise PolicyError(f"{path}: category {category} would be kept shorter than {name} asks. Nothing was changed.")
    return Table(policies, by_category)


def _shorter(new: Policy, old: Policy) -> bool:
    """Whether a policy is shorter than another on any day (leap years: 366 days)."""
    probes = (date(2024, 2, 29), date(2025, 3, 1), date(2026, 12, 31))
    return any(keep_until(new, day) < keep_until(old, day) for day in probes)


def _policy(where: str, name: str, row: Any) -> Policy:
    if not isinstance(row, dict):
        raise PolicyError(f"{where} is not a table with years and basis. Nothing was changed.")
    unknown = set(row) - {"years", "margin_days", "basis", "categories"}
    if unknown:
        raise PolicyError(f"{where}: {', '.join(sorted(unknown))} is unknown; there are years, margin_days, basis, categories.")
    years, margin, basis, categories = row.get("years"), row.get("margin_days", 0), row.get("basis"), row.get("categories", [])
    if type(years) is not int or not FLOOR_YEARS <= years <= MOST_YEARS:
        raise PolicyError(f"{where}: years is {years!r}; it must be a whole number from {FLOOR_YEARS} (the least the rules allow for any "
                          f"record) to {MOST_YEARS}.")
    if type(margin) is not int or not 0 <= margin <= 3660:
        raise PolicyError(f"{where}: margin_days is {margin!r}; it must be a whole number of days from 0 to 3660.")
    if not isinstance(basis, str) or not basis.strip():
        raise PolicyError(f"{where}: basis is missing: on what rule does it rest? It goes into every manifest.")
    if not isinstance(categories, list) or not all(isinstance(each, str) and each for each in categories):
        raise PolicyError(f"{where}: categories must be a list of person categories.")
    policy = Policy(years, margin, basis.strip())
    if name in POLICIES and _shorter(policy, POLICIES[name]):
        raise PolicyError(f"{where} is shorter than what comes with the program ({POLICIES[name].years} years and "
                          f"{POLICIES[name].margin_days} days). A policy may only be lengthened.")
    return policy
