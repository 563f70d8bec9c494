"""Facts: every kind goes into the journal's form and comes back the same; what does not fit is refused."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.clock import Stamp
from edge.evidence.chain import INT_MAX, NotCanonical, canonical, parse
from edge.sessions import events as e

AT = Stamp(1_795_672_800_000_000, 5_000_000, "boot-1")
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
whole = st.integers(-INT_MAX, INT_MAX)
stamps = st.builds(Stamp, whole, whole, text)
ATOMS: dict[Any, st.SearchStrategy[Any]] = {str: text, int: whole, bool: st.booleans(), type(None): st.none(), Stamp: stamps}


def values_of(hint: Any) -> st.SearchStrategy[Any]:
    """Whatever a field of this type may hold. KeyError for a type that has no place in a fact (a float, a list, a date)."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return st.one_of([values_of(each) for each in inner])
    if origin is tuple:
        return st.lists(values_of(inner[0]), max_size=3).map(tuple)
    if origin is dict:
        return st.dictionaries(values_of(inner[0]), values_of(inner[1]), max_size=3)
    return ATOMS[hint]


def facts_of(kind: str) -> st.SearchStrategy[e.Event]:
    cls = e.KINDS[kind]
    return st.builds(cls, **{name: values_of(hint) for name, hint in typing.get_type_hints(cls).items()})


def test_every_kind_of_fact_has_a_name_in_the_journal() -> None:
    assert set(e.KINDS) == {cls.__name__ for cls in e.Event.__subclasses__()}
    assert len(e.KINDS) > 30
    for name, cls in e.KINDS.items():
        assert name == cls.__name__
        assert [f.name for f in dataclasses.fields(cls)[:2]] == ["at", "session"], "a fact has its moment and its session"


@pytest.mark.parametrize("kind", sorted(e.KINDS))
@settings(max_examples=40)
@given(data=st.data())
def test_a_fact_comes_back_from_the_journals_form_as_it_was(kind: str, data: st.DataObject) -> None:
    fact = data.draw(facts_of(kind))
    body = e.encode(fact)
    stored = canonical(body)                            # the chain takes it: no float, no None, no number too large
    assert parse(stored) == body
    assert "at" not in body and "session" not in body
    assert e.decode(fact.kind, fact.at, fact.session, json.loads(stored)) == fact


@pytest.mark.parametrize("kind", sorted(e.KINDS))
def test_a_body_with_a_foreign_or_a_missing_key_is_refused(kind: str) -> None:
    required = [f.name for f in dataclasses.fields(e.KINDS[kind]) if f.name not in ("at", "session")
                and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    whole_body: dict[str, Any] = dict.fromkeys(required, "x")
    whole_body |= {name: [] for name in required if name in ("absent",)}
    e.decode(kind, AT, "S", whole_body)                 # the body itself would fit
    for wrong in ({**whole_body, "extra": 1}, {**whole_body, "at": 1}, {**whole_body, "session": "S"},
                  *({k: v for k, v in whole_body.items() if k != name} for name in required)):
        with pytest.raises(ValueError, match=kind):
            e.decode(kind, AT, "S", wrong)


@pytest.mark.parametrize("body", [[], "text", 5, None])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    with pytest.raises(ValueError, match="PlatformBack"):
        e.decode("PlatformBack", AT, None, body)


def test_a_list_field_that_holds_no_list_is_refused() -> None:
    with pytest.raises(ValueError, match="SealOrdered"):
        e.decode("SealOrdered", AT, "S", {"by": "T001", "second": "T002", "statement": "s", "absent": 5})


@pytest.mark.parametrize("kind", ["", "Event", "SessionForgotten", "sessionplanned", "encode"])
def test_an_unknown_kind_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        e.decode(kind, AT, None, {})


def test_a_fact_with_a_float_never_reaches_the_chain() -> None:
    body = e.encode(e.ClockStepped(at=AT, delta_us=0.5))  # type: ignore[arg-type]  # what mypy forbids and life may bring
    with pytest.raises(NotCanonical):
        canonical(body)


def test_what_is_not_known_is_left_out_of_the_body() -> None:
    assert e.encode(e.AdmissionRefused(at=AT, session="S", code="E-LATE")) == {"code": "E-LATE"}
    order = e.SealOrdered(at=AT, session="S", by="T001", second="T002", statement="s", absent=("C1", "C2"))
    assert e.encode(order)["absent"] == ["C1", "C2"]


def test_facts_cannot_be_changed() -> None:
    fact = e.PlatformLost(at=AT, reason="timeout")
    with pytest.raises(dataclasses.FrozenInstanceError):
        fact.reason = "tls"  # type: ignore[misc]
