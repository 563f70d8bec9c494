"""Numbers of identity documents: are they well formed, and what do they say of their bearer.

Four kinds: the 18-character citizen number (GB 11643-1999, with Hong Kong, Macao and Taiwan permits as regions 81, 82, 83),
its demo twin of the unassigned region 000000, the 18-character foreign permanent resident's number of December 2023 (first
digit 9) and the 15-character one before it. Pure functions on text, strict: normalise first what a person has typed.
Callers: `idcheck.card`, rosters, the proctor's page.
Sources: GB 11643-1999 and ISO 7064 MOD 11-2 (check character); rules of the National Immigration Administration for the 2017
and 2023 cards. The former number's construction rests on one vendor's code and one official specimen.
"""

from __future__ import annotations

import re
from datetime import date
from itertools import cycle

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECK = "10X98765432"
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
_EIGHTEEN = re.compile(r"[0-9]{17}[0-9X]")
_FOREIGN_15 = re.compile(r"[A-Z]{3}[0-9]{12}")

# The first two digits only: a region's code that was abolished stays in its people's numbers for life (GB/T 2260's history).
REGIONS = frozenset({*range(11, 16), *range(21, 24), *range(31, 38), *range(41, 47), *range(50, 55), *range(61, 66), 71, 81, 82, 83})
HMT_REGIONS = frozenset({"81", "82", "83"})
DEMO_REGION = "000000"


def normalise(text: str) -> str:
    """What a person typed or pasted, as a number is written: no blanks around it, half-width, letters in upper case."""
    return text.translate(_FULL_WIDTH).strip().upper()


def check_resident(number: str) -> bool:
    """18 characters, 17 digits, and the ISO 7064 MOD 11-2 check character is right. Looks at nothing else."""
    return _EIGHTEEN.fullmatch(number) is not None and _check_18(number[:17]) == number[17]


def is_demo(number: str) -> bool:
    """An 18-character number of region 000000, which no real person has."""
    return _EIGHTEEN.fullmatch(number) is not None and number.startswith(DEMO_REGION)


def is_valid(number: str, *, allow_demo: bool = False, today: date | None = None) -> bool:
    """A well-formed number of one of the four kinds, judged on the text as given: check character, region, a date that exists.

    With `today`, a birth after it is refused. Demo numbers count only where `allow_demo`.
    """
    if _FOREIGN_15.fullmatch(number):
        return _check_foreign_15(number[:14]) == number[14] and any(_dates_15(number))
    born = birth(number)
    if not check_resident(number) or born is None or (today is not None and born > today):
        return False
    if number[0] == "9":
        return number[14:17] != "000"
    return allow_demo if is_demo(number) else int(number[:2]) in REGIONS


def is_foreign(number: str) -> bool:
    """It has the shape of a foreign permanent resident's number, old (15 characters) or new (18, first digit 9)."""
    return _FOREIGN_15.fullmatch(number) is not None or (_EIGHTEEN.fullmatch(number) is not None and number[0] == "9")


def birth(number: str) -> date | None:
    """The date of birth in an 18-character number; None if it is no such number or the date does not exist."""
    return _date(number[6:14]) if _EIGHTEEN.fullmatch(number) else None


def birth_agrees(number: str, born: date) -> bool:
    """The number says that its bearer was born on that day. A 15-character number has no century, so either one will do."""
    return born in _dates_15(number) if _FOREIGN_15.fullmatch(number) else birth(number) == born


def sex(number: str) -> str | None:
    """GB/T 2261.1 by the 17th digit: `1` male if odd, `2` female if even; None for foreign numbers.

    LIMIT: no source seen says that a foreign number's sequence digit tells the sex, so it is not read as if it did.
    """
    if not _EIGHTEEN.fullmatch(number) or number[0] == "9":
        return None
    return "1" if int(number[16]) % 2 else "2"


def from_15(old: str) -> str:
    """A first-generation citizen number of 15 digits in its 18-character form. ValueError if it is not 15 digits."""
    if not re.fullmatch(r"[0-9]{15}", old):
        raise ValueError("a first-generation number has 15 digits")
    body = f"{old[:6]}19{old[6:]}"
    return body + _check_18(body)


def former_foreign(number: str, country: str, association: str) -> str:
    """The 15-character number that a foreign resident had before December 2023: lists made earlier hold that one.

    `country`: three letters (GB/T 2659); `association`: the three digits that the 2023 card keeps for this purpose.
    ValueError if a part does not have its shape.
    """
    if not (_EIGHTEEN.fullmatch(number) and number[0] == "9" and re.fullmatch(r"[A-Z]{3}", country)
            and re.fullmatch(r"[0-9]{3}", association)):
        raise ValueError("not an 18-character foreign number, three letters and three digits")
    body = country + number[1:3] + association[:2] + number[8:14] + association[2]
    return body + _check_foreign_15(body)


def _check_18(body: str) -> str:
    """The check character of 17 digits (ISO 7064 MOD 11-2)."""
    return _CHECK[sum(int(digit) * weight for digit, weight in zip(body, _WEIGHTS, strict=True)) % 11]


def _check_foreign_15(body: str) -> str:
    """The check digit of 14 characters: weights 7, 3, 1, letters from A = 10 (the way of ICAO 9303)."""
    return str(sum(int(char, 36) * weight for char, weight in zip(body, cycle((7, 3, 1)), strict=False)) % 10)


def _date(text: str) -> date | None:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8]))
    except ValueError:
        return None


def _dates_15(number: str) -> tuple[date | None, date | None]:
    return _date("19" + number[7:13]), _date("20" + number[7:13])
