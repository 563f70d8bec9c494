"""Canonical JSON and the hash chain."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.clock import Stamp
from edge.evidence import chain
from edge.evidence.chain import NotCanonical, canonical, parse
from edge.sessions import events as e

whole = st.integers(-chain.INT_MAX, chain.INT_MAX)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = st.recursive(st.booleans() | whole | text, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
                      max_leaves=20)


def test_keys_are_ordered_as_rfc_8785_section_3_2_3_shows() -> None:
    ordered = ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert list(parse(canonical({key: 1 for key in sorted(ordered, reverse=True)}))) == ordered


def test_text_is_escaped_as_rfc_8785_section_3_2_2_shows() -> None:
    assert canonical("\u20ac$\u000f\nA'\x42\x22\x5c\\\"/") == b'"\xe2\x82\xac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'


@given(values)
def test_what_is_written_reads_back_the_same(value: Any) -> None:
    data = canonical(value)
    assert parse(data) == value
    assert canonical(parse(data)) == data


@pytest.mark.parametrize("bad", [
    1.0, math.nan, math.inf, None, 2**53, -(2**53), {"a": 0.5}, {"a": None}, [[None]], {1: "x"}, b"bytes", "\ud800", {"\ud800": 1},
    (1,), {1, 2},
])
def test_what_readers_could_take_two_ways_is_refused(bad: Any) -> None:
    with pytest.raises(NotCanonical):
        canonical(bad)


@pytest.mark.parametrize("bad", [
    b'{"a":1,"a":2}', b"1.5", b"1e3", b"NaN", b"Infinity", b"null", b"[null]", b"9007199254740992", b"\xff", b"", b"{", b"[" * 100_000,
])
def test_the_reader_refuses_what_the_writer_would_not_write(bad: bytes) -> None:
    with pytest.raises(NotCanonical):
        parse(bad)


def some_rows(count: int) -> list[e.Recorded]:
    rows: list[e.Recorded] = []
    for index in range(count):
        session = "S20261126-KD01-R01-02" if index % 3 else None
        at = Stamp(1_795_672_800_000_000 + index, 10 + index, "boot")
        event = e.ReaderLost(at=at, session=session, reason=f"gone {index}")
        rows.append(chain.follow(index + 1, event, rows[-1].hash if rows else chain.GENESIS))
    return rows


def test_link_gives_the_body_and_the_hash_of_every_column() -> None:
    columns: list[Any] = [1, "S", "ReaderLost", 2, 3, "boot", {"reason": "gone"}, chain.GENESIS]
    body, digest = chain.link(*columns)
    assert body == '{"reason":"gone"}'
    assert digest == chain.sha256_hex(
        b'{"body":{"reason":"gone"},"boot_id":"boot","boot_us":3,"kind":"ReaderLost","prev":"' + b"0" * 64
        + b'","seq":1,"session":"S","utc_us":2}')
    for position, other in enumerate([2, None, "ReaderBack", 3, 4, "boot2", {"reason": "there"}, "1" * 64]):
        changed = [*columns]
        changed[position] = other
        assert chain.link(*changed)[1] != digest


def test_an_honest_chain_holds_whole_and_in_part() -> None:
    rows = some_rows(9)
    assert chain.verify(rows) is None
    assert chain.verify([]) is None
    assert chain.verify([row for row in rows if row.event.session], whole=False) is None
    assert chain.verify(rows[3:], whole=False) is None
    assert chain.verify(rows[3:]) == 4


@pytest.mark.parametrize(("change", "bad"), [
    (lambda rows: rows.pop(4), 6),
    (lambda rows: rows.insert(4, rows[2]), 3),
    (lambda rows: rows.__setitem__(4, dataclasses.replace(rows[4], event=e.ReaderLost(at=rows[4].event.at, reason="other"))), 5),
    (lambda rows: rows.__setitem__(4, chain.follow(5, e.ReaderBack(at=rows[4].event.at, module="m"), rows[4].prev)), 6),
    (lambda rows: rows.__setitem__(0, dataclasses.replace(rows[0], hash="0" * 64)), 1),
    (lambda rows: rows.__setitem__(0, chain.follow(1, rows[0].event, "1" * 64)), 1),
    (lambda rows: rows.reverse(), 9),
])
def test_the_first_row_that_was_touched_is_named(change: Callable[[list[e.Recorded]], object], bad: int) -> None:
    rows = some_rows(9)
    change(rows)
    assert chain.verify(rows) == bad


def test_a_row_survives_its_line() -> None:
    for row in some_rows(4):
        assert chain.from_line(chain.to_line(row)) == row


@pytest.mark.parametrize("spoil", [
    lambda line: line + b" ", lambda line: b" " + line, lambda line: line.replace(b'"seq":2', b'"seq":"2"'), lambda line: line[:-1],
    lambda line: line.replace(b'"seq":2', b'"seq":true'), lambda line: line.replace(b"ReaderLost", b"ReaderLent"),
    lambda line: line.replace(b'"reason"', b'"season"'), lambda line: b"[]", lambda line: b"7", lambda line: b"",
    lambda line: line.replace(b'"prev"', b'"more":1,"prev"'), lambda line: line.replace(b'"utc_us":', b'"utc_us":"x",'),
])
def test_anything_but_a_row_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(NotCanonical):
        chain.from_line(spoil(chain.to_line(some_rows(2)[1])))
