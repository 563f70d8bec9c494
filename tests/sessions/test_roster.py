"""Who may come in: the list as it was signed, and the one table of verdicts."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.sessions.identity import Identity, mask_name, mask_number
from edge.sessions.roster import MAX_CANDIDATES, Candidate, Code, Roster, match, parse_roster
from edge.sim.people import BY_NAME, PEOPLE

TODAY = date(2026, 11, 26)


def row(name: str = "样例甲", **changed: Any) -> dict[str, Any]:
    person = BY_NAME[name]
    return {"candidate_id": person.candidate_id, "name": person.name, "id_type": "resident_id", "id_no": person.id_no,
            "admission_no": "A1", "person_category": person.category, "exam_kind": person.exam_kind, "subject": person.subject,
            "attempt_no": 1, **({"seat_no": person.seat} if person.seat else {}), **changed}


def payload(*rows: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {"type": "exam-roster/v1", "session_id": "S1", "plan_id": "P1", "version": 3, "issued_utc": "2026-11-26T00:00:00.000Z",
            "room_code": "000000-KD01-R01", "candidates": list(rows), **changed}


def roster_of(*names: str, session: str = "S1") -> Roster:
    return replace(parse_roster(payload(*(row(name) for name in names))), session_id=session)


def test_a_list_is_read_with_every_sample_person() -> None:
    roster = parse_roster(payload(*(row(p.name) for p in PEOPLE)))
    assert (roster.session_id, roster.plan_id, roster.version, len(roster.candidates)) == ("S1", "P1", 3, len(PEOPLE))
    assert roster.by_number["00000019870606015X"].name == "样例壬"
    assert roster.by_number["000000198810080070"].seat is None, "U5: no seat yet"


def test_a_number_is_compared_in_its_one_form() -> None:
    assert "00000019870606015X" in parse_roster(payload(row("样例壬", id_no=" 00000019870606015x "))).by_number


@pytest.mark.parametrize(("second", "what"), [
    ({"id_no": "000000199001010018"}, "ID number"), ({"candidate_id": "DEMO-001"}, "candidate_id"), ({"seat_no": "01"}, "seat"),
])
def test_nothing_is_used_of_a_list_in_which_two_share_what_is_ones_own(second: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what) as error:
        parse_roster(payload(row("样例甲"), row("样例乙", **second)))
    assert "样例" not in str(error.value) and "000000" not in str(error.value), "an error holds no person's data"


@pytest.mark.parametrize("changed", [{"type": "exam-roster/v2"}, {"type": None}, {"candidates": [row()] * (MAX_CANDIDATES + 1)},
                                     {"candidates": None}, {"candidates": 5}, {"candidates": "text"}, {"candidates": [5]},
                                     {"candidates": ["text"]}, {"candidates": [None]}, {"candidates": {"a": 1}}, {"version": "three"},
                                     {"version": None}, {"version": []}])
def test_what_is_no_list_is_refused_in_words(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        parse_roster(payload(row()) | changed)


@pytest.mark.parametrize("missing", ["type", "session_id", "plan_id", "version", "candidates"])
def test_a_list_without_one_of_its_fields_is_refused(missing: str) -> None:
    with pytest.raises(ValueError):
        parse_roster({key: value for key, value in payload(row()).items() if key != missing})


@pytest.mark.parametrize("missing", ["candidate_id", "name", "id_type", "id_no", "admission_no", "person_category", "exam_kind", "subject"])
def test_a_candidate_without_one_of_the_fields_is_refused_and_the_field_named(missing: str) -> None:
    with pytest.raises(ValueError, match=missing):
        parse_roster(payload({key: value for key, value in row().items() if key != missing}))


json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5),
                           lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
                           max_leaves=8)


@given(st.dictionaries(st.sampled_from(["session_id", "plan_id", "version", "candidates"]), json_values),
       st.dictionaries(st.sampled_from(sorted(row())), json_values))
def test_whatever_was_signed_is_a_list_or_a_value_error(top: dict[str, Any], one: dict[str, Any]) -> None:
    for document in ({**payload(row()), **top}, payload(row("样例乙"), row() | one)):
        try:
            roster = parse_roster(document)
        except ValueError:
            continue
        assert all(isinstance(c, Candidate) and (c.seat is None or isinstance(c.seat, str)) for c in roster.candidates)


# ---- the table of verdicts ---------------------------------------------------------------------------------------------

def card(person: str, /, **changed: Any) -> Identity:
    return replace(BY_NAME[person].identity(), **changed)


OTHERS = {"S2": roster_of("样例辛", session="S2")}
MINE = roster_of("样例甲", "样例乙", "样例丑")


@pytest.mark.parametrize(("identity", "admitted", "code", "elsewhere"), [
    (card("样例甲"), (), Code.OK, None),
    (card("样例甲"), ("DEMO-001",), Code.DUPLICATE, None),
    (card("样例甲"), ("DEMO-002",), Code.OK, None),
    (card("样例丙"), (), Code.NOT_ON_ROSTER, None),
    (card("样例辛"), (), Code.WRONG_SESSION, "S2"),
    (card("样例丑"), (), Code.CARD_EXPIRED, None),                                                  # on the list, card ended in 2020
    (card("样例丑", valid_to=TODAY), (), Code.OK, None),                                            # the last valid day is a valid day
    (card("样例丑", valid_to=None), (), Code.OK, None),                                             # 长期
    (card("样例丑"), ("DEMO-011",), Code.DUPLICATE, None),                                          # a proctor asks that first
    (card("样例甲", number="000000199001010019"), (), Code.NOT_ON_ROSTER, None),                    # the same name is nobody
    (card("样例丙", name="样例甲"), (), Code.NOT_ON_ROSTER, None),
    (card("样例丙", former_number="000000199001010018"), (), Code.OK, None),                        # the list holds the old number
    (card("样例甲", name="改名"), (), Code.OK, None),                                               # the number decides, not the name
])
def test_the_verdict_on_a_card(identity: Identity, admitted: tuple[str, ...], code: Code, elsewhere: str | None) -> None:
    verdict = match(identity, MINE, admitted, OTHERS, TODAY)
    assert (verdict.code, verdict.other_session) == (code, elsewhere)
    assert (verdict.candidate is not None) == (code in (Code.OK, Code.DUPLICATE, Code.CARD_EXPIRED))


@given(st.text("0123456789X", min_size=1, max_size=18))
def test_part_of_a_number_is_nobody(number: str) -> None:
    if number not in MINE.by_number:
        assert match(card("样例甲", number=number), MINE, (), {}, TODAY).code is Code.NOT_ON_ROSTER


@given(st.text(min_size=1, max_size=30))
def test_a_masked_name_shows_at_most_its_ends(name: str) -> None:
    shown = mask_name(name)
    assert len(shown) == len(name) and shown[0] == name[0]
    assert all(each == "*" for each in shown[1:-1])
    assert len(name) < 2 or shown[-1] == ("*" if len(name) == 2 else name[-1])


def test_masked_forms() -> None:
    assert (mask_name("样例甲"), mask_name("样例"), mask_number("000000199001010018")) == ("样*甲", "样*", "****0018")
    shown = repr(card("样例甲"))
    assert "样例甲" not in shown and "19900101" not in shown and shown == str(card("样例甲"))
