"""What a new list changes of the old one: every person stands in exactly one place, and going back undoes it."""

from __future__ import annotations

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from edge.sessions.differences import FIELDS, compare
from edge.sessions.roster import Candidate, Roster

PEOPLE = st.builds(Candidate, candidate_id=st.sampled_from(["C1", "C2"]), name=st.sampled_from(["甲", "乙"]),
                   id_type=st.just("resident_id"), number=st.sampled_from([f"N{n}" for n in range(6)]),
                   admission_no=st.sampled_from(["A1", "A2"]),
                   seat=st.sampled_from([None, "01", "02"]), person_category=st.sampled_from(["GENERAL", "SPECIAL"]),
                   trade=st.sampled_from([None, "1.2"]), exam_kind=st.just("INITIAL"), subject=st.just("THEORY"),
                   theory_passed_on=st.sampled_from([None, date(2026, 1, 2)]))
ROSTERS = st.lists(PEOPLE, max_size=6, unique_by=lambda c: c.number).map(lambda people: Roster("S1", "P1", 1, tuple(people)))


@given(ROSTERS, ROSTERS)
def test_everybody_stands_in_exactly_one_place(before: Roster, after: Roster) -> None:
    found = compare(before, after)
    same = [c.number for c in after.candidates if c.number in before.by_number
            and all(getattr(c, f) == getattr(before.by_number[c.number], f) for f in FIELDS)]
    assert sorted([c.number for c in found.added] + [c.after.number for c in found.changed] + same) == sorted(after.by_number)
    assert sorted([c.number for c in found.removed] + [c.before.number for c in found.changed] + same) == sorted(before.by_number)
    assert found.any is (len(same) < max(len(before.candidates), len(after.candidates)))
    for change in found.changed:
        assert change.fields and all(getattr(change.before, f) != getattr(change.after, f) for f in change.fields)
    back = compare(after, before)
    assert (set(back.added), set(back.removed), len(back.changed)) == (set(found.removed), set(found.added), len(found.changed))


@given(ROSTERS)
def test_beside_itself_and_beside_nothing(roster: Roster) -> None:
    assert not compare(roster, roster).any
    assert compare(None, roster).added == roster.candidates and not compare(None, roster).removed
