"""What a new list of candidates changes of the one in force: who is added, who is taken off, whose facts are others.

People are told apart by their number, as at the door. Pure. Callers: the Room (when a signed list takes the place of an imported
one) and the preview of an import.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge.sessions.roster import Candidate, Roster

FIELDS = ("name", "admission_no", "seat", "person_category", "trade", "theory_passed_on")
"""What is compared: everything of a person that a page or the door uses."""


@dataclass(frozen=True, slots=True)
class Change:
    """One person whose facts are others; `fields`: which of FIELDS."""

    before: Candidate
    after: Candidate
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Differences:
    """In the order of the lists: `added` and `changed` as in the new one, `removed` as in the old one."""

    added: tuple[Candidate, ...]
    removed: tuple[Candidate, ...]
    changed: tuple[Change, ...]

    @property
    def any(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def compare(before: Roster | None, after: Roster) -> Differences:
    """From `before` (None: there was no list) to `after`."""
    old, new = before.by_number if before else {}, after.by_number
    changed = []
    for number, candidate in new.items():
        if number in old and (fields := tuple(f for f in FIELDS if getattr(old[number], f) != getattr(candidate, f))):
            changed.append(Change(old[number], candidate, fields))
    return Differences(tuple(c for n, c in new.items() if n not in old), tuple(c for n, c in old.items() if n not in new), tuple(changed))
