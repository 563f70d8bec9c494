"""The 256 bytes of text on a card's chip: to an `Identity`, and back for the simulated reader.

Four layouts, told apart by the character at byte 248. Strict: every length, blank, digit, date and check character, and that
birth and sex agree with the number. What does not fit is refused with a word (`CARD_WORDS`) and nothing of it is kept or shown.
A name never fails a card on its own: unknown private-use characters stay, broken ones become U+FFFD. Callers: `reader`,
`sim.card_reader`. Sources: GA/T 490 by way of vendors' documents (resident); vendors' documents of the 2017 and 2023 cards for
foreigners and of the residence permit for people from Hong Kong, Macao and Taiwan. LIMIT: the 2023 layout rests on two vendors'
demonstrations and a page of rules; no such card was read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from datetime import date
from typing import Final

from edge.idcheck.wire import TEXT_BYTES
from edge.sessions import number as numbers
from edge.sessions.identity import Document, Identity

LONG_TERM: Final = "长期"
CARD_WORDS: Final = frozenset({
    "text-length", "unknown-layout", "padding", "reserved", "name", "sex", "nation", "birth", "number", "demo", "birth-disagrees",
    "sex-disagrees", "validity", "nationality", "association", "code"})

TYPE_AT: Final = 248
_PAD: Final = " \0"
# GBK's private-use characters that Unicode has assigned since, U+E815 to U+E864 in order (GB 18030-2005 and -2022).
PRIVATE_USE: Final[Mapping[int, str]] = dict(zip(range(0xE815, 0xE865), (
    "⺁𠂇𠂉𠃌⺄㑳㑇⺈⺋龴㖞㘚㘎⺌⺗㥮㤘龵㧏㧟㩳㧐龶龷㭎㱮㳠⺧𡗗龸⺪䁖䅟⺮䌷⺳⺶⺷𢦏䎱"
    "䎬⺻䏝䓖䙡䙌龹䜣䜩䝼䞍⻊䥇䥺䥽䦂䦃䦅䦆䦟䦛䦷䦶龺𤇾䲣䲟䲠䲡䱷䲢䴓䴔䴕䴖䴗䴘䴙䶮龻"), strict=True))

Layout = Mapping[str, tuple[int, int]]
"""Field name to offset and length in bytes. Fields that begin with `reserved` are blank."""

LAYOUTS: Final[Mapping[Document, Layout]] = {
    Document.RESIDENT: {
        "name": (0, 30), "sex": (30, 2), "nation": (32, 4), "birth": (36, 16), "address": (52, 70), "number": (122, 36),
        "issuer": (158, 30), "valid_from": (188, 16), "valid_to": (204, 16), "reserved": (220, 36)},
    Document.FOREIGN_2017: {
        "english_name": (0, 120), "sex": (120, 2), "number": (122, 30), "nationality": (152, 6), "name": (158, 30),
        "valid_from": (188, 16), "valid_to": (204, 16), "birth": (220, 16), "version": (236, 4), "authority": (240, 8),
        "type": (248, 2), "reserved": (250, 6)},
    Document.FOREIGN_2023: {
        "name": (0, 30), "sex": (30, 2), "renewals": (32, 4), "birth": (36, 16), "english_name": (52, 70), "number": (122, 36),
        "reserved": (158, 30), "valid_from": (188, 16), "valid_to": (204, 16), "english_name_2": (220, 22),
        "nationality": (242, 6), "type": (248, 2), "association": (250, 6)},
    Document.HMT: {
        "name": (0, 30), "sex": (30, 2), "reserved": (32, 4), "birth": (36, 16), "address": (52, 70), "number": (122, 36),
        "issuer": (158, 30), "valid_from": (188, 16), "valid_to": (204, 16), "pass_number": (220, 18), "issue_count": (238, 4),
        "reserved_2": (242, 6), "type": (248, 2), "reserved_3": (250, 6)},
}
_TYPES: Final = {" ": Document.RESIDENT, "I": Document.FOREIGN_2017, "Y": Document.FOREIGN_2023, "J": Document.HMT}


class CardError(ValueError):
    """A card's text that cannot be believed. `word` is one of `CARD_WORDS`; no part of the card is in it."""

    def __init__(self, word: str) -> None:
        super().__init__(f"the card's text is not believable: {word}")
        self.word = word


def decode(text: bytes, *, today: date, allow_demo: bool = False) -> Identity:
    """Who a card's 256 bytes say it belongs to. CardError with its word if anything does not fit.

    `today` (of the calendar in China) only serves to refuse births in the future; whether the card has expired is not asked here.
    """
    if len(text) != TEXT_BYTES:
        raise CardError("text-length")
    document = _TYPES.get(text[TYPE_AT:TYPE_AT + 2].decode("utf-16-le", "replace"))
    if document is None:
        raise CardError("unknown-layout")
    fields = {name: text[at:at + size].decode("utf-16-le", "replace") for name, (at, size) in LAYOUTS[document].items()}
    if any(blank.strip(_PAD) for name, blank in fields.items() if name.startswith("reserved")):
        raise CardError("reserved")
    fields["english_name"] = _joined(fields.get("english_name", ""), fields.pop("english_name_2", ""))
    fields = {name: _unpad(value) for name, value in fields.items()}
    return _identity(document, fields, today, allow_demo)


def _identity(document: Document, fields: Mapping[str, str], today: date, allow_demo: bool) -> Identity:
    number = _number(document, fields["number"], today, allow_demo)
    born, sex = _date(fields["birth"], "birth"), _match(fields["sex"], r"[0129]", "sex")
    if not numbers.birth_agrees(number, born):
        raise CardError("birth-disagrees")
    # 0 (unknown) and 9 (not stated) say nothing that could disagree.
    if sex in "12" and numbers.sex(number) not in (None, sex):
        raise CardError("sex-disagrees")
    valid_from = _date(fields["valid_from"], "validity")
    valid_to = None if fields["valid_to"] == LONG_TERM else _date(fields["valid_to"], "validity")
    if valid_to is not None and valid_to < valid_from:
        raise CardError("validity")
    name, english = _name(fields["name"]), _name(fields["english_name"]) or None
    if not (name or english):
        raise CardError("name")
    return Identity(
        document, number, name or english or "", sex, born, valid_from, valid_to,
        nation=_match(fields["nation"], r"[0-9]{2}", "nation") if document is Document.RESIDENT else None,
        address=_name(fields["address"]) if "address" in fields else None,
        issuer=_issuer(fields),
        nationality=_match(fields["nationality"], r"[A-Z]{3}", "nationality") if "nationality" in fields else None,
        english_name=english,
        former_number=_former(number, fields) if document is Document.FOREIGN_2023 else None)


def _number(document: Document, number: str, today: date, allow_demo: bool) -> str:
    if numbers.is_demo(number) and not allow_demo and numbers.is_valid(number, allow_demo=True):
        raise CardError("demo")
    fits: Callable[[str], bool] = {
        Document.RESIDENT: lambda n: not numbers.is_foreign(n),
        Document.FOREIGN_2017: lambda n: len(n) == 15,
        Document.FOREIGN_2023: lambda n: len(n) == 18 and numbers.is_foreign(n),
        Document.HMT: lambda n: n[:2] in numbers.HMT_REGIONS}[document]
    if not fits(number) or not numbers.is_valid(number, allow_demo=allow_demo, today=today):
        raise CardError("number")
    return number


def _issuer(fields: Mapping[str, str]) -> str | None:
    """The authority by name; on the 2017 card for foreigners by its four-character code."""
    if "authority" in fields:
        _match(fields["version"], r"[0-9A-Z]{1,2}", "code")
        return _match(fields["authority"], r"[0-9A-Z]{4}", "code")
    return _name(fields["issuer"]) if "issuer" in fields else None


def _former(number: str, fields: Mapping[str, str]) -> str | None:
    """The number before December 2023. None if the card keeps no link to one: its holder never had it."""
    _match(fields["renewals"], r"[0-9]{0,2}", "code")
    link = _match(fields["association"], r"[0-9]{3}|", "association")
    return numbers.former_foreign(number, _match(fields["nationality"], r"[A-Z]{3}", "nationality"), link) if link else None


def _unpad(value: str) -> str:
    """The field without the blanks that fill it up. Blanks in front or zeros in between mean that it is not what it seems."""
    value = value.rstrip(_PAD)
    if value.startswith(" ") or "\0" in value:
        raise CardError("padding")
    return value


def _joined(first: str, rest: str) -> str:
    """A long English name from its two fields: the second one is used only when the first is full."""
    if rest.strip(_PAD) and first[-2:].strip(_PAD) == "":
        raise CardError("padding")
    return first + rest


def _name(value: str) -> str:
    """Free text as stored, except: private-use characters that are assigned now, and characters that steer or break a line."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) in {"Cc", "Cf", "Zl", "Zp"} else char
                   for char in value.translate(PRIVATE_USE))


def _match(value: str, pattern: str, word: str) -> str:
    if re.fullmatch(pattern, value) is None:
        raise CardError(word)
    return value


def _date(value: str, word: str) -> date:
    digits = _match(value, r"[0-9]{8}", word)
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        raise CardError(word) from None


def encode_text(identity: Identity) -> bytes:
    """The 256 bytes that would be read as this identity. ValueError if a part is longer than its field.

    What an Identity does not keep (pass number, renewals, counts) is blank or a plausible constant.
    """
    values = {
        "name": identity.name, "sex": identity.sex, "nation": identity.nation or "", "birth": f"{identity.birth:%Y%m%d}",
        "address": identity.address or "", "number": identity.number, "issuer": identity.issuer or "",
        "valid_from": f"{identity.valid_from:%Y%m%d}",
        "valid_to": f"{identity.valid_to:%Y%m%d}" if identity.valid_to else LONG_TERM,
        "nationality": identity.nationality or "", "english_name": identity.english_name or "",
        "authority": identity.issuer or "", "version": "01", "renewals": "00", "issue_count": "01"}
    if identity.document is Document.FOREIGN_2023:
        english = identity.english_name or ""
        former = identity.former_number
        values |= {"english_name": english[:35], "english_name_2": english[35:],
                   "association": former[5:7] + former[13] if former else ""}
    if identity.name == identity.english_name:
        values["name"] = ""
    values["type"] = next(letter for letter, document in _TYPES.items() if document is identity.document)
    text = bytearray(" ".encode("utf-16-le") * (TEXT_BYTES // 2))
    for name, (at, size) in LAYOUTS[identity.document].items():
        raw = values.get(name, "").encode("utf-16-le")
        if len(raw) > size:
            raise ValueError(f"{name} does not fit into {size} bytes")
        text[at:at + len(raw)] = raw
    return bytes(text)
