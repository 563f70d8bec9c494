"""A table as people: which column is which, and what is wrong in which row. Nothing of a list with a fault is used.

A fault names row and column and never repeats what stands there, but for the last four characters of a number. Column names may be
Chinese or English, in any order; columns that nobody needs are named too, so that nothing is passed over in silence.
Called by `web.imports` through `python -m edge.rosterfile`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

from edge.rosterfile.table import Cell, FileTrouble, Row, Table, tables
from edge.sessions import number
from edge.sessions.identity import mask_name, mask_number
from edge.sessions.policy import BY_CATEGORY
from edge.sessions.roster import MAX_CANDIDATES

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "name": ("姓名", "考生姓名", "学员姓名", "name", "fullname", "candidatename"),
    "number": ("证件号码", "证件号", "身份证号", "身份证号码", "身份证", "公民身份号码", "公民身份证号", "公民身份证号码",
               "考生证件号码", "idno", "idnumber", "idcard", "idcardno", "idcardnumber"),
    "admission_no": ("准考证号", "准考证号码", "准考证", "admissionno", "admissionnumber", "admissionticketno", "ticketno"),
    "seat": ("座位号", "座位", "座号", "机位", "机位号", "机号", "seat", "seatno", "seatnumber"),
    "id_type": ("证件类型", "证件种类", "证件类别", "idtype", "documenttype"),
    "person_category": ("人员类别", "人员类型", "考生类别", "考生类型", "类别", "personcategory", "category"),
    "trade": ("工种", "作业类别", "作业项目", "操作项目", "准操项目", "工种名称", "trade"),
    "exam_kind": ("考试类型", "考试类别", "考试种类", "考试性质", "examkind", "examtype"),
    "subject": ("科目", "考试科目", "考核科目", "subject"),
    "theory_passed_on": ("理论合格日期", "理论通过日期", "理论考试合格日期", "theorypassedon", "theorypassed"),
}
"""Field -> the names that its column may have (blanks, signs, 必填 and upper case do not matter)."""
NEEDED = ("name", "number", "admission_no")
HEADER_WITHIN = 10
"""The names of the columns stand in one of the first ten rows that are not blank: above may be a title."""

NO_TEXT = {"lost": "digits-lost", "formula": "formula", "date": "became-a-date", "fault": "no-text"}
"""Kind of a cell -> what is wrong with it, whatever it holds."""
TWICE = {"number": "number-twice", "admission_no": "admission-twice", "seat": "seat-twice"}
"""What belongs to one person only -> what is wrong if two have it."""
LONGEST = {"name": 60, "admission_no": 32, "trade": 60, "exam_kind": 20, "subject": 20}
_CATEGORIES = {"特种作业人员": "SPECIAL", "特种作业": "SPECIAL", "主要负责人": "PRINCIPAL", "安全生产管理人员": "SAFETY-MGR",
               "安全管理人员": "SAFETY-MGR", "一般从业人员": "GENERAL", "其他从业人员": "GENERAL", "安全培训教师": "TEACHER",
               **{category: category for category in BY_CATEGORY}}
_ID_TYPES = {"居民身份证": "resident_id", "身份证": "resident_id", "二代身份证": "resident_id", "外国人永久居留身份证": "foreign_pr_id",
             "外国人永久居留证": "foreign_pr_id", "港澳台居民居住证": "hmt_residence", "护照": "passport",
             **{each: each for each in ("resident_id", "foreign_pr_id", "hmt_residence", "passport")}}
_NOTHING = frozenset({"", "-", "--", "—", "/", "无", "空"})
"""How people write that there is none (seat, trade)."""
_SEAT = re.compile(r"([0-9A-Z][0-9A-Z-]{0,7})(号机|机位|号|机)?")
_ADMISSION = re.compile(r"[0-9A-Z][0-9A-Z._/-]{0,31}")
_PASSPORT = re.compile(r"[A-Z0-9]{5,20}")
_DAYS = (re.compile(r"([0-9]{4})[-/.年]([0-9]{1,2})[-/.月]([0-9]{1,2})日?"), re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2})"))
_ID_SHAPED = re.compile(r"[0-9]{15,}")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong. `row` 0: with the file as a whole. `column`: a key of COLUMNS, or empty. `facts` fill in the wording."""

    row: int
    column: str
    word: str
    facts: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """One person of the file. None: the file does not say. `repr` is masked."""

    row: int
    name: str
    number: str
    id_type: str
    admission_no: str
    seat: str | None
    person_category: str | None
    trade: str | None
    exam_kind: str | None
    subject: str | None
    theory_passed_on: str | None    # YYYY-MM-DD
    demo: bool

    def __repr__(self) -> str:
        return f"Line({self.row}, {mask_name(self.name)}, {mask_number(self.number)})"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a file says. `lines` are whole only if there are no faults. `passed_over`: rows with nothing in the columns that count."""

    form: str = ""
    lines: tuple[Line, ...] = ()
    faults: tuple[Fault, ...] = ()
    unused: tuple[str, ...] = ()
    passed_over: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Reading:
        """As `to_json` gave it; KeyError or TypeError for anything else."""
        return cls(body["form"], tuple(Line(**each) for each in body["lines"]), tuple(Fault(**each) for each in body["faults"]),
                   tuple(body["unused"]), tuple(body["passed_over"]))


def read(data: bytes, *, allow_demo: bool, today: date) -> Reading:
    """The people of a file, or its faults. Raises nothing for any bytes. `allow_demo`: numbers of region 000000 count too."""
    try:
        table, header, columns = _the_table(tables(data))
        reading = _Reader(table, columns, allow_demo, today).read(table.rows[header + 1:])
        names = table.rows[header][1]
        unused = tuple(_shown(c.text) for i, c in enumerate(names) if c.text and i not in columns.values())
        return Reading(table.form, reading.lines, reading.faults, unused, reading.passed_over)
    except FileTrouble as trouble:
        return Reading(faults=(Fault(0, "", trouble.word, trouble.facts),))


def _shown(text: str) -> str:
    """The name of a column for the page; one that holds a number is none."""
    return "****" if _ID_SHAPED.search(text) else text[:30]


# ---- which column is which ------------------------------------------------------------------------------------------------

_KEY_OF = {name: key for key, names in COLUMNS.items() for name in names}


def _key(cell: Cell) -> str | None:
    plain = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", cell.text).lower())
    return _KEY_OF.get(re.sub(r"(必填项?|选填项?|required|optional)$", "", plain))


def _the_table(found: Sequence[Table]) -> tuple[Table, int, dict[str, int]]:
    """The one table that has a row of column names, that row's place, and key -> column. FileTrouble if there is none, or more than one."""
    headed = [(table, at) for table in found if (at := _header(table)) is not None]
    if len(headed) > 1:
        raise FileTrouble("two-sheets")
    if not headed:
        raise FileTrouble("no-header" if any(table.rows for table in found) else "empty-file")
    table, at = headed[0]
    keys = [_key(cell) for cell in table.rows[at][1]]
    columns: dict[str, int] = {}
    for place, key in enumerate(keys):
        if key in columns:
            raise FileTrouble("column-twice", column=key or "", row=table.rows[at][0])
        if key:
            columns[key] = place
    if missing := [key for key in NEEDED if key not in columns]:
        raise FileTrouble("column-missing", column=missing[0], row=table.rows[at][0])
    return table, at, columns


def _header(table: Table) -> int | None:
    """The row among the first that names most columns, two at least."""
    known = [len({_key(cell) for cell in cells} - {None}) for _, cells in table.rows[:HEADER_WITHIN]]
    best = max(known, default=0)
    return known.index(best) if best >= 2 else None


# ---- what stands in it ----------------------------------------------------------------------------------------------------

class _Wrong(Exception):
    """A cell's fault."""

    def __init__(self, word: str, **facts: str | int) -> None:
        super().__init__(word)
        self.word, self.facts = word, facts


class _Reader:
    """Reads rows one after the other and remembers what was seen."""

    def __init__(self, table: Table, columns: Mapping[str, int], allow_demo: bool, today: date) -> None:
        self._table, self._columns, self._allow_demo, self._today = table, columns, allow_demo, today
        self._faults: list[Fault] = []
        self._seen: dict[tuple[str, str], int] = {}
        self._row = 0

    def read(self, rows: Sequence[Row]) -> Reading:
        lines: list[Line] = []
        passed_over: list[int] = []
        people = 0
        for self._row, cells in rows:
            if not any(self._cell(cells, key).text for key in self._columns) and not self._merged_here():
                passed_over.append(self._row)
                continue
            people += 1
            before = len(self._faults)
            line = self._line(cells)
            if line is not None and len(self._faults) == before:
                lines.append(line)
        if people > MAX_CANDIDATES:
            raise FileTrouble("too-many-rows", most=MAX_CANDIDATES)
        if not people:
            raise FileTrouble("nobody")
        return Reading("", tuple(lines), tuple(self._faults), (), tuple(passed_over))

    def _cell(self, cells: Sequence[Cell], key: str) -> Cell:
        place = self._columns.get(key)
        return cells[place] if place is not None and place < len(cells) else Cell("")

    def _merged_here(self) -> bool:
        return any(self._table.is_merged(self._row, place) for place in self._columns.values())

    def _line(self, cells: Sequence[Cell]) -> Line | None:
        """Every column is looked at, so that a person mends all faults of a row at once."""
        said: dict[str, Any] = {}
        for key, take in self._takers().items():
            if key not in self._columns:
                continue
            try:
                said[key] = self._once(key, take(self._plain(cells, key)))
            except _Wrong as wrong:
                self._faults.append(Fault(self._row, key, wrong.word, wrong.facts))
        if not said.keys() >= set(NEEDED):
            return None
        passport = said.get("id_type") == "passport"
        try:
            kind = "passport" if passport else self._kind(said["number"])
            if said.get("id_type") not in (None, kind):
                self._faults.append(Fault(self._row, "id_type", "type-disagrees"))
            if passport and not _PASSPORT.fullmatch(said["number"]):
                raise _Wrong("number-shape", tail=_tail(said["number"]), length=len(said["number"]))
        except _Wrong as wrong:
            self._faults.append(Fault(self._row, "number", wrong.word, wrong.facts))
            return None
        rest: dict[str, Any] = {key: said.get(key) for key in COLUMNS if key not in (*NEEDED, "id_type")}
        return Line(row=self._row, **{key: said[key] for key in NEEDED}, id_type=kind, demo=number.is_demo(said["number"]), **rest)

    def _takers(self) -> Mapping[str, Callable[[str], str | None]]:
        return {"name": _name, "number": _number, "admission_no": _admission, "seat": _seat, "id_type": _id_type,
                "person_category": _category, "trade": _words("trade"), "exam_kind": _words("exam_kind"), "subject": _words("subject"),
                "theory_passed_on": self._past_day}

    def _plain(self, cells: Sequence[Cell], key: str) -> str:
        """The text of a cell whose kind does not speak against it."""
        if self._table.is_merged(self._row, self._columns[key]):
            raise _Wrong("merged")
        cell = self._cell(cells, key)
        if cell.kind in NO_TEXT and not (key == "theory_passed_on" and cell.kind == "date"):
            raise _Wrong(NO_TEXT[cell.kind])
        text = "".join(c for c in cell.text if unicodedata.category(c) != "Cf").strip()     # marks that come along with a paste
        if any(unicodedata.category(c) == "Cc" for c in text):
            raise _Wrong("control-character")
        if key in NEEDED and not text:
            raise _Wrong("empty")
        return text

    def _past_day(self, text: str) -> str | None:
        plain = _close(text)
        if plain in _NOTHING:
            return None
        found = _DAYS[0].fullmatch(plain) or _DAYS[1].fullmatch(plain)
        try:
            day = date(*map(int, found.groups())) if found else None
        except ValueError:
            day = None
        if day is None or day > self._today:
            raise _Wrong("day")
        return day.isoformat()

    def _once(self, key: str, value: str | None) -> str | None:
        """Number, admission number and seat belong to one person only."""
        if value is not None and key in TWICE:
            first = self._seen.setdefault((key, value), self._row)
            if first != self._row:
                raise _Wrong(TWICE[key], first=first)
        return value

    def _kind(self, text: str) -> str:
        """Which document has this number; _Wrong with what is wrong about it."""
        tail = _tail(text)
        if number.is_valid(text, allow_demo=self._allow_demo, today=self._today):
            return "foreign_pr_id" if number.is_foreign(text) else "hmt_residence" if text[:2] in number.HMT_REGIONS else "resident_id"
        if re.fullmatch(r"[0-9]{15}", text):
            raise _Wrong("number-first-generation", tail=tail)
        if not re.fullmatch(r"[0-9]{17}[0-9X]|[A-Z]{3}[0-9]{12}", text):
            raise _Wrong("number-shape", tail=tail, length=len(text))
        if (number.is_foreign(text) and len(text) == 15) or not number.check_resident(text):
            raise _Wrong("number-check", tail=tail)
        born = number.birth(text)
        if born is None or born > self._today:
            raise _Wrong("number-birth", tail=tail)
        raise _Wrong("number-demo" if number.is_demo(text) else "number-region", tail=tail)


def _tail(text: str) -> str:
    """The last four characters of what may be a number; nothing of what may be a name or a short code."""
    return mask_number(text) if re.fullmatch(r"[0-9A-Z]{8,}", text) else "****"


def _close(text: str) -> str:
    """A number, half-width, in upper case, without the blanks that people put between its parts."""
    return re.sub(r"\s+", "", number.normalise(text))


def _name(text: str) -> str:
    plain = re.sub(r"\s+", " ", text)
    if re.fullmatch(r"[\u3400-\u9fff\U00020000-\U0003ffff\ue000-\uf8ff· ]+", plain):
        plain = plain.replace(" ", "")          # 张 三: blanks that only align
    if len(plain) > LONGEST["name"]:
        raise _Wrong("too-long", most=LONGEST["name"])
    if any(c.isdigit() for c in plain) or not any(c.isalpha() or unicodedata.category(c) == "Co" for c in plain):
        raise _Wrong("no-name")
    return plain


def _number(text: str) -> str:
    return _close(text)


def _admission(text: str) -> str:
    plain = _close(text)
    if not _ADMISSION.fullmatch(plain):
        raise _Wrong("admission-shape", most=LONGEST["admission_no"])
    return plain


def _seat(text: str) -> str | None:
    plain = _close(text)
    if plain in _NOTHING:
        return None
    found = _SEAT.fullmatch(plain)
    if found is None:
        raise _Wrong("seat-shape")
    return found[1]


def _id_type(text: str) -> str | None:
    return _one_of(_ID_TYPES, text, "type-unknown")


def _category(text: str) -> str | None:
    return _one_of(_CATEGORIES, text, "category-unknown")


def _one_of(known: Mapping[str, str], text: str, word: str) -> str | None:
    plain = re.sub(r"\s+", "", text)
    if plain in _NOTHING:
        return None
    found = known.get(plain) or known.get(plain.upper()) or known.get(plain.lower())
    if found is None:
        raise _Wrong(word)
    return found


def _words(key: str) -> Callable[[str], str | None]:
    def take(text: str) -> str | None:
        plain = re.sub(r"\s+", " ", text)
        if len(plain) > LONGEST[key]:
            raise _Wrong("too-long", most=LONGEST[key])
        if _ID_SHAPED.search(plain):
            raise _Wrong("number-here")
        return None if plain in _NOTHING else plain

    return take
