"""Who a card says a person is. Made by `idcheck.card`, read by `sessions.roster`; never logged, never in an event body."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from enum import StrEnum

_ID_SHAPED = re.compile(r"(?<![0-9])[0-9]{14}([0-9]{3}[0-9Xx])(?![0-9A-Za-z])")


class Document(StrEnum):
    """The four layouts of the card's 256-byte text (GA/T 490 and its kin)."""

    RESIDENT = "resident_id"
    FOREIGN_2017 = "foreign_pr_2017"
    FOREIGN_2023 = "foreign_pr_2023"
    HMT = "hmt_residence"


@dataclass(frozen=True, slots=True)
class Identity:
    """What was read from a chip. `repr` is masked: last four of the number, first character of the name."""

    document: Document
    number: str                     # 18 characters (15 on a 2017 foreign card), checked
    name: str                       # as stored on the card; private-use characters mapped where the map knows them
    sex: str                        # GB/T 2261.1: 0, 1 male, 2 female, 9
    birth: date
    valid_from: date
    valid_to: date | None           # None: 长期, no end
    nation: str | None = None       # GB/T 3304 code, resident cards only
    address: str | None = None
    issuer: str | None = None
    nationality: str | None = None  # GB/T 2659 letters, foreign cards
    english_name: str | None = None
    former_number: str | None = None  # 'Y' cards: the old 15-character number

    def expired(self, today: date) -> bool:
        """The card's last valid day is before `today`."""
        return self.valid_to is not None and self.valid_to < today

    def __repr__(self) -> str:
        return f"Identity({self.document.value}, {mask_name(self.name)}, {mask_number(self.number)})"

    __str__ = __repr__


def mask_number(number: str) -> str:
    """`****0018`: the last four characters only."""
    return "****" + number[-4:]


def mask_within(text: str) -> str:
    """`text` with all but the last four of anything in it that has the shape of an ID number withheld."""
    return _ID_SHAPED.sub(r"****\1", text)


def mask_name(name: str) -> str:
    """`张*三`, `样*`: first and (from three characters on) last character; the rest one star each."""
    if len(name) <= 2:
        return name[:1] + "*" * (len(name) - 1)
    return name[0] + "*" * (len(name) - 2) + name[-1]
