"""The card's text: every vector's values, all four layouts there and back, and what is refused with which word."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.idcheck import card, wire
from edge.idcheck.card import CardError
from edge.sessions import number
from edge.sessions.identity import Document, Identity

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "id-card-vectors.json").read_text("utf-8"))
CARDS: list[dict[str, Any]] = [v for v in VECTORS["vectors"] if "layout" in v]
DOCUMENTS = {"resident": Document.RESIDENT, "foreign_2017_I": Document.FOREIGN_2017, "foreign_2023_Y": Document.FOREIGN_2023,
             "hmt_J": Document.HMT}
# A busy machine is not a defect.
TIMELESS = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
TODAY = date(2026, 11, 26)
PUA = {int(pua, 16): chr(int(code, 16)) for pua, code in VECTORS["gbk_pua_to_unicode"]["map"].items()}

RESIDENT = Identity(Document.RESIDENT, "000000199001010018", "样例甲", "1", date(1990, 1, 1), date(2020, 1, 1), date(2040, 1, 1),
                    nation="01", address="样例省样例市样例路1号", issuer="样例公安局")
HMT = Identity(Document.HMT, "810000199001010019", "样例甲", "1", date(1990, 1, 1), date(2020, 1, 1), date(2025, 1, 1),
               address="样例省样例市", issuer="样例公安局")
FOREIGN_2017 = Identity(Document.FOREIGN_2017, "CAN110081080310", "证件样本", "2", date(1981, 8, 3), date(2017, 6, 1), date(2027, 5, 31),
                        issuer="1500", nationality="CAN", english_name="ZHENGJIAN, YANGBEN")
FOREIGN_2023 = Identity(Document.FOREIGN_2023, "911124198108030024", "证件样本", "2", date(1981, 8, 3), date(2023, 12, 1), None,
                        nationality="CAN", english_name="ZHENGJIAN, YANGBEN OF THE LONG NAMES, TWO", former_number="CAN110081080310")


def decode(text: bytes, allow_demo: bool = True) -> Identity:
    return card.decode(text, today=TODAY, allow_demo=allow_demo)


def text_of(vector: dict[str, Any]) -> bytes:
    at = 16 if "fp_length" in vector else 14
    return bytes.fromhex(vector["hex"])[at:at + 256]


def refused(text: bytes, allow_demo: bool = True) -> str:
    with pytest.raises(CardError) as error:
        decode(text, allow_demo)
    assert error.value.word in card.CARD_WORDS
    return error.value.word


@pytest.mark.parametrize("vector", CARDS, ids=lambda v: v["name"])
def test_vector(vector: dict[str, Any]) -> None:
    said, identity = vector["decoded"], decode(text_of(vector), allow_demo=False)
    name = said.get("name", said.get("cn_name")).translate(PUA)
    assert identity.document is DOCUMENTS[vector["layout"]]
    assert (identity.name, identity.sex) == (name, said["sex"])
    assert identity.number == said.get("id", said.get("number"))
    assert f"{identity.birth:%Y%m%d}" == said["birth"]
    assert f"{identity.valid_from:%Y%m%d}" == said["start"]
    assert (f"{identity.valid_to:%Y%m%d}" if identity.valid_to else "长期") == said["end"]
    assert (identity.nation, identity.address) == (said.get("nation"), said.get("address"))
    assert identity.issuer == said.get("issuer", said.get("authority"))
    assert identity.nationality == said.get("nationality", said.get("country"))
    assert identity.english_name == said.get("en_name")
    assert identity.former_number == ("CAN110081080310" if said.get("assoc") else None)


@pytest.mark.parametrize("vector", [v for v in CARDS if "pua" not in v["name"]], ids=lambda v: v["name"])
def test_vector_the_other_way(vector: dict[str, Any]) -> None:
    assert card.encode_text(decode(text_of(vector))) == text_of(vector)


def test_private_use_map_is_the_vectors() -> None:
    assert dict(card.PRIVATE_USE) == PUA


@pytest.mark.parametrize("layout", VECTORS["layouts"])
def test_layout_table_is_the_vectors(layout: str) -> None:
    theirs = sorted((row["offset"], row["bytes"]) for row in VECTORS["layouts"][layout])
    assert sorted(card.LAYOUTS[DOCUMENTS[layout]].values()) == theirs
    end = 0
    for at, size in theirs:
        assert at == end, "no byte between two fields"
        end = at + size
    assert end == 256


@pytest.mark.parametrize("identity", [RESIDENT, replace(RESIDENT, valid_to=None), HMT, FOREIGN_2017, FOREIGN_2023,
                                      replace(FOREIGN_2023, former_number=None, english_name="SHORT"),
                                      replace(FOREIGN_2017, name="ZHENGJIAN, YANGBEN")], ids=lambda i: i.document.value)
def test_there_and_back(identity: Identity) -> None:
    assert decode(card.encode_text(identity)) == identity


def test_demo_number_only_where_allowed() -> None:
    assert decode(card.encode_text(RESIDENT)).number == RESIDENT.number
    assert refused(card.encode_text(RESIDENT), allow_demo=False) == "demo"


def put(identity: Identity, field: str, value: str) -> bytes:
    """The card's text with one field overwritten, blank to its end."""
    at, size = card.LAYOUTS[identity.document][field]
    text = bytearray(card.encode_text(identity))
    text[at:at + size] = value.ljust(size // 2).encode("utf-16-le")[:size]
    return bytes(text)


WRONG: list[tuple[Identity, str, str, str]] = [
    (RESIDENT, "name", "", "name"), (RESIDENT, "name", " 样例甲", "padding"), (RESIDENT, "name", "样\0例", "padding"),
    (RESIDENT, "sex", "3", "sex"), (RESIDENT, "sex", "", "sex"), (RESIDENT, "sex", "2", "sex-disagrees"),
    (RESIDENT, "nation", "", "nation"), (RESIDENT, "nation", "1", "nation"), (RESIDENT, "nation", "０１", "nation"),
    (RESIDENT, "birth", "19900102", "birth-disagrees"), (RESIDENT, "birth", "19901301", "birth"), (RESIDENT, "birth", "1990010", "birth"),
    (RESIDENT, "birth", "1990 101", "birth"), (RESIDENT, "number", "000000199001010017", "number"),
    (RESIDENT, "number", "00000019900101001", "number"), (RESIDENT, "number", "911124198108030024", "number"),
    (RESIDENT, "valid_from", "20200230", "validity"), (RESIDENT, "valid_from", "长期", "validity"),
    (RESIDENT, "valid_to", "20191231", "validity"), (RESIDENT, "valid_to", "永久", "validity"), (RESIDENT, "valid_to", "", "validity"),
    (RESIDENT, "reserved", "x", "reserved"),
    (HMT, "number", "11010519491231002X", "number"), (HMT, "reserved", "1", "reserved"), (HMT, "reserved_3", "1", "reserved"),
    (FOREIGN_2017, "number", "911124198108030024", "number"), (FOREIGN_2017, "number", "CAN110081080311", "number"),
    (FOREIGN_2017, "nationality", "CA", "nationality"), (FOREIGN_2017, "authority", "15", "code"), (FOREIGN_2017, "version", "", "code"),
    (FOREIGN_2017, "birth", "19810804", "birth-disagrees"),
    (FOREIGN_2023, "number", "11010519491231002X", "number"), (FOREIGN_2023, "association", "01", "association"),
    (FOREIGN_2023, "nationality", "124", "nationality"), (FOREIGN_2023, "renewals", "x", "code"),
    (FOREIGN_2023, "english_name", "TOO SHORT FOR A SECOND PART", "padding"),
]


@pytest.mark.parametrize(("identity", "field", "value", "word"), WRONG)
def test_refused_with_a_word(identity: Identity, field: str, value: str, word: str) -> None:
    assert refused(put(identity, field, value)) == word


@pytest.mark.parametrize("letter", ["X", "i", "\0", "Ｊ", "1"])
def test_unknown_layout(letter: str) -> None:
    text = bytearray(card.encode_text(RESIDENT))
    text[248:250] = letter.encode("utf-16-le")
    assert refused(bytes(text)) == "unknown-layout"


@pytest.mark.parametrize("size", [0, 255, 257, 1280])
def test_wrong_size(size: int) -> None:
    assert refused(b" \0" * (size // 2) + b"x" * (size % 2)) == "text-length"


def test_born_in_the_future() -> None:
    young = replace(RESIDENT, number="000000200808010102", sex="2", birth=date(2008, 8, 1))
    assert decode(card.encode_text(young)).birth == date(2008, 8, 1)
    with pytest.raises(CardError, match="number"):
        card.decode(card.encode_text(young), today=date(2008, 7, 31), allow_demo=True)


def test_an_unstated_sex_disagrees_with_nothing() -> None:
    assert decode(put(RESIDENT, "sex", "9")).sex == "9"


@pytest.mark.parametrize(("stored", "read"), [
    ("阿依\u00b7样例", "阿依·样例"), ("样\ue863", "样䶮"), ("样\ue000", "样\ue000"), ("样\U00020087", "样𠂇"),
    ("样\u202e例", "样\ufffd例"), ("样\n例", "样\ufffd例")])
def test_names(stored: str, read: str) -> None:
    assert decode(put(RESIDENT, "name", stored)).name == read


def test_a_surrogate_pair_cut_at_the_end_of_the_field_does_not_fail_the_card() -> None:
    text = bytearray(card.encode_text(replace(RESIDENT, name="样" * 15)))
    text[28:30] = b"\x40\xd8"
    assert decode(bytes(text)).name == "样" * 14 + "\ufffd"


def test_zeros_as_padding_are_padding() -> None:
    at, size = card.LAYOUTS[Document.RESIDENT]["name"]
    text = bytearray(card.encode_text(RESIDENT))
    text[at:at + size] = "样例甲".ljust(size // 2, "\0").encode("utf-16-le")
    assert decode(bytes(text)).name == "样例甲"


def test_what_does_not_fit_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="name"):
        card.encode_text(replace(RESIDENT, name="样" * 16))


def test_no_part_of_the_card_is_in_the_error() -> None:
    with pytest.raises(CardError) as error:
        decode(put(RESIDENT, "number", "000000199001010017"))
    assert "0000" not in str(error.value) and "样" not in str(error.value)


# ---- any text at all --------------------------------------------------------------------------------------------------

def identity_or_word(text: bytes) -> None:
    try:
        identity = decode(text)
    except CardError as error:
        assert error.word in card.CARD_WORDS
    else:
        assert number.is_valid(identity.number, allow_demo=True)
        assert identity.name


@TIMELESS
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    identity_or_word(data)


@TIMELESS
@given(st.sampled_from([RESIDENT, HMT, FOREIGN_2017, FOREIGN_2023]),
       st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255)), max_size=4))
def test_any_damage_to_a_good_card(identity: Identity, damage: list[tuple[int, int]]) -> None:
    text = bytearray(card.encode_text(identity))
    for at, value in damage:
        text[at] = value
    identity_or_word(bytes(text))


def _resident(build: Callable[[str], str]) -> st.SearchStrategy[Identity]:
    def make(born: date, seq: int, name: str, span: tuple[date, date], forever: bool) -> Identity:
        body = build(f"{born:%Y%m%d}{seq:03d}")
        full = next(body + c for c in "0123456789X" if number.check_resident(body + c))
        return replace(RESIDENT, number=full, birth=born, sex=number.sex(full) or "9", name=name, valid_from=min(span),
                       valid_to=None if forever else max(span))
    letters = st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5) | st.sampled_from("·䶮𠂇\ue001")
    days = st.dates(date(1900, 1, 1), date(2099, 12, 31))
    return st.builds(make, st.dates(date(1900, 1, 1), TODAY), st.integers(0, 999), st.text(letters, min_size=1, max_size=7),
                     st.tuples(days, days), st.booleans())


@TIMELESS
@given(_resident(lambda tail: "000000" + tail) | _resident(lambda tail: "110105" + tail))
def test_any_resident_there_and_back(identity: Identity) -> None:
    assert decode(card.encode_text(identity)) == identity
    data = wire.encode_base_message(card.encode_text(identity), bytes(1024))
    assert wire.base_message(wire.decode_answer(wire.encode(wire.Answer(0x90, data))).data)[0] == card.encode_text(identity)
