"""The invented people: numbers that are right, that no real person has, and what each is for."""

from __future__ import annotations

from datetime import date

import pytest

from edge.idcheck import card
from edge.sessions import number
from edge.sim.people import BY_NAME, PEOPLE, SamplePerson, cards

TODAY = date(2026, 11, 26)


@pytest.mark.parametrize("person", PEOPLE, ids=lambda p: p.name)
def test_each_has_a_right_number_of_the_demo_region_and_a_card(person: SamplePerson) -> None:
    assert number.is_demo(person.id_no)
    assert number.is_valid(person.id_no, allow_demo=True, today=TODAY)
    assert not number.is_valid(person.id_no)
    identity = person.identity()
    assert card.decode(card.encode_text(identity), today=TODAY, allow_demo=True) == identity


def test_nobody_twice() -> None:
    for values in ([p.name for p in PEOPLE], [p.id_no for p in PEOPLE], [p.candidate_id for p in PEOPLE],
                   [p.seat for p in PEOPLE if p.seat]):
        assert len(values) == len(set(values))
    assert list(cards()) == list(BY_NAME) == [p.name for p in PEOPLE]


def test_what_they_are_for() -> None:
    assert [p.name for p in PEOPLE if not p.in_session] == ["样例辛", "样例寅", "样例卯"]
    assert [p.name for p in PEOPLE if p.on_hold] == ["样例寅"] and [p.name for p in PEOPLE if p.other_room] == ["样例卯"]
    assert [p.name for p in PEOPLE if p.seat is None] == ["样例䶮"]
    assert [p.name for p in PEOPLE if p.identity().expired(TODAY)] == ["样例丑"]
    assert [(p.name, p.theory_passed_months_ago) for p in PEOPLE if p.theory_passed_months_ago] == [("样例庚", 13)]
    assert BY_NAME["样例壬"].id_no.endswith("X")
    assert "\u00b7" in BY_NAME["阿依·样例"].name
