"""Who may come in: the list as it was signed. (The verdicts: test_door.)"""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.sessions.identity import mask_name, mask_number
from edge.sessions.roster import MAX_CANDIDATES, MAX_ELSEWHERE, Candidate, Elsewhere, parse_roster
from edge.sim.people import BY_NAME, PEOPLE


def row(name: str = "样例甲", **changed: Any) -> dict[str, Any]:
    person = BY_NAME[name]
    return {"candidate_id": person.candidate_id, "name": person.name, "id_type": "resident_id", "id_no": person.id_no,
            "admission_no": "A1", "person_category": person.category, "exam_kind": person.exam_kind, "subject": person.subject,
            "attempt_no": 1, **({"seat_no": person.seat} if person.seat else {}), **changed}


def payload(*rows: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {"type": "exam-roster/v1", "session_id": "S1", "plan_id": "P1", "version": 3, "issued_utc": "2026-11-26T00:00:00.000Z",
            "room_code": "000000-KD01-R01", "candidates": list(rows), **changed}


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


def test_qualifications_holds_and_other_rooms_are_read() -> None:
    roster = parse_roster(payload(row("样例甲", theory_passed_on="2025-10-01", on_hold=True), row("样例乙"), elsewhere=[
        {"id_no": " 00000019870606015x ", "room_code": "000000-KD01-R02", "scheduled_start": "2026-11-26T15:00:00+08:00"},
        {"id_no": "000000198810080070", "room_code": "000000-KD01-R03"}]))
    held, plain = roster.candidates
    assert (held.theory_passed_on, held.on_hold) == (date(2025, 10, 1), True)
    assert (plain.theory_passed_on, plain.on_hold) == (None, False)
    assert roster.elsewhere == {"00000019870606015X": Elsewhere("000000-KD01-R02", 1_795_676_400_000_000),
                                "000000198810080070": Elsewhere("000000-KD01-R03")}


@pytest.mark.parametrize("changed", [
    {"candidates": [row("样例甲", theory_passed_on="last year")]}, {"candidates": [row("样例甲", theory_passed_on=5)]},
    {"candidates": [row("样例甲", candidate_id="OFF-12")]}, {"elsewhere": {}}, {"elsewhere": ["x"]}, {"elsewhere": [{"id_no": "1"}]},
    {"elsewhere": [{"id_no": "1", "room_code": "R", "scheduled_start": "noon"}]},
    {"elsewhere": [{"id_no": "1", "room_code": "R", "scheduled_start": 5}]},
    {"elsewhere": [{"id_no": str(n), "room_code": "R"} for n in range(MAX_ELSEWHERE + 1)]},
])
def test_what_does_not_fit_is_refused_and_nothing_is_used_of_it(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as error:
        parse_roster(payload(row()) | changed)
    assert "样例" not in str(error.value) and "000000" not in str(error.value)


@given(st.text(min_size=1, max_size=30))
def test_a_masked_name_shows_at_most_its_ends(name: str) -> None:
    shown = mask_name(name)
    assert len(shown) == len(name) and shown[0] == name[0]
    assert all(each == "*" for each in shown[1:-1])
    assert len(name) < 2 or shown[-1] == ("*" if len(name) == 2 else name[-1])


def test_masked_forms() -> None:
    assert (mask_name("样例甲"), mask_name("样例"), mask_number("000000199001010018")) == ("样*甲", "样*", "****0018")
    card = BY_NAME["样例甲"].identity()
    shown = repr(card)
    assert "样例甲" not in shown and "19900101" not in shown and shown == str(card)
