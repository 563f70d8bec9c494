"""A file's bytes as rows of cells, each cell with what the file says it is; nothing is guessed about its meaning.

Whatever is wrong with the file as a whole is a `FileTrouble` with a word; no other exception leaves. A spreadsheet may unpack to
many times its size, may say that it has a row 10^9, and keeps an 18-digit number as 1.30503E+17: sizes are looked at before anything
is unpacked, rows must come in order, and a number that lost digits is marked `lost`. Called by `lines`.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from edge.sessions.roster import MAX_CANDIDATES

MOST_BYTES = 2 << 20
"""Of the file. A list of 200 with a dozen columns has 40 kB."""
MOST_UNPACKED = 8 << 20
"""Of all parts of a spreadsheet together; a list of 200 has 200 kB, in an office's coloured form perhaps ten times that."""
MOST_PARTS = 500
MOST_COLUMNS = 64
"""What stands further right is not looked at; a needed column that is not found before is a fault."""
MOST_ROWS = 400
"""Rows with anything in them: 200 people, a title, notes. More are refused, never cut off."""
MOST_TEXT = 500
"""Characters of one cell; a longer one is cut here and is then too long for any field."""
LOST_FROM = 10**15
"""Spreadsheets hold 15 digits of a number; what is larger has lost some (IEEE 754 double, and Excel's own limit)."""

_SHORTENED = re.compile(r"[+-]?[0-9](\.[0-9]+)?[eE]\+?[0-9]{1,3}")
_AS_TEXT = re.compile(r'="([^"=]*)"')
_ZEROS = re.compile(r"0{1,32}")


class FileTrouble(Exception):
    """The file cannot be used at all. `word`: a key of the texts (`import-fault.<word>`)."""

    def __init__(self, word: str, **facts: str | int) -> None:
        super().__init__(word)
        self.word, self.facts = word, facts


@dataclass(frozen=True, slots=True)
class Cell:
    """`kind`: text, number, date (`text` is YYYY-MM-DD), lost (digits are gone), formula, fault (#N/A, yes/no, a fraction)."""

    text: str
    kind: str = "text"

    def __repr__(self) -> str:
        return f"Cell({self.kind})"         # what stands in it is somebody's


Row = tuple[int, tuple[Cell, ...]]
"""Its number as the file's own program shows it (a CSV's first line is 1), and its cells from the first column on."""


@dataclass(frozen=True, slots=True)
class Table:
    """`form`: csv-utf-8, csv-gb18030, xlsx. `rows`: those with anything in them.

    `merged`: (first row, first column, last row, last column); rows as in `Row`, columns from 0.
    """

    form: str
    rows: tuple[Row, ...]
    merged: tuple[tuple[int, int, int, int], ...] = ()

    def is_merged(self, row: int, column: int) -> bool:
        return any(top <= row <= bottom and left <= column <= right for top, left, bottom, right in self.merged)


def tables(data: bytes) -> list[Table]:
    """The table of a CSV, or one for each visible sheet with anything in it. FileTrouble in every other case."""
    if len(data) > MOST_BYTES:
        raise FileTrouble("too-large", mb=MOST_BYTES >> 20)
    if data.startswith(b"PK"):
        return _workbook(data)
    if data.startswith(b"\xd0\xcf\x11\xe0"):        # OLE2: XLS of before 2007, or an XLSX under a password
        raise FileTrouble("old-or-locked")
    return [_csv(data)]


# ---- CSV ------------------------------------------------------------------------------------------------------------------

def _csv(data: bytes) -> Table:
    form, text = _decoded(data)
    if "\0" in text:
        raise FileTrouble("no-table")
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",\t;", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    line = 1
    try:
        for values in reader:
            _add(rows, line, [_from_text(value) for value in values[:MOST_COLUMNS]])
            line = reader.line_num + 1
    except csv.Error:
        raise FileTrouble("csv-broken", row=line) from None
    return Table(form, tuple(rows))


def _decoded(data: bytes) -> tuple[str, str]:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FileTrouble("encoding")               # UTF-16: Excel's "Unicode text"
    for form, encoding in (("csv-utf-8", "utf-8-sig"), ("csv-gb18030", "gb18030")):
        try:
            return form, data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise FileTrouble("encoding")


def _from_text(value: str) -> Cell:
    """A text as typed or exported: the tricks that keep a spreadsheet from touching a number are taken off ('…, ="…", tabs)."""
    text = value.strip()[:MOST_TEXT]
    if quoted := _AS_TEXT.fullmatch(text):
        text = quoted[1].strip()
    text = text.removeprefix("'").strip()
    if _SHORTENED.fullmatch(text):
        return Cell(text, "lost")
    return Cell(text, "formula" if text.startswith(("=", "@")) else "text")


def _add(rows: list[Row], number: int, cells: Sequence[Cell]) -> None:
    """Keep a row unless it is blank."""
    if any(cell.text for cell in cells):
        if len(rows) >= MOST_ROWS:
            raise FileTrouble("too-many-rows", most=MAX_CANDIDATES)
        rows.append((number, tuple(cells)))


# ---- XLSX -----------------------------------------------------------------------------------------------------------------

def _workbook(data: bytes) -> list[Table]:
    """Every visible sheet with something in it. openpyxl meets files from anywhere: whatever it raises means that the file is damaged."""
    _must_be_small(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")         # of styles and extensions that openpyxl drops
            return [table for table in _sheets(data) if table.rows]
    except FileTrouble:
        raise
    except Exception:
        raise FileTrouble("damaged") from None


def _must_be_small(data: bytes) -> None:
    """`zipfile` never unpacks more of a part than the directory says, so the directory's own figures are a bound."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
    except Exception:       # zipfile has many ways to say that this is no archive
        raise FileTrouble("damaged") from None
    if len(parts) > MOST_PARTS or sum(part.file_size for part in parts) > MOST_UNPACKED:
        raise FileTrouble("unpacks-too-large", mb=MOST_UNPACKED >> 20)
    if "xl/workbook.xml" not in {part.filename for part in parts}:
        raise FileTrouble("no-table")


def _sheets(data: bytes) -> Iterator[Table]:
    import openpyxl  # here, because a CSV needs none of it

    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=False, keep_links=False)
    try:
        for sheet in book.worksheets:
            if sheet.sheet_state == "visible":
                yield _sheet(book, sheet)
    finally:
        book.close()


def _sheet(book: Any, sheet: Any) -> Table:
    """By openpyxl's own row parser: `iter_rows` would fill up gaps of a billion rows, and drop without a word what comes out of order."""
    from openpyxl.cell.read_only import ReadOnlyCell
    from openpyxl.worksheet._reader import WorkSheetParser

    rows: list[Row] = []
    before = 0
    with sheet._get_source() as source:
        parser = WorkSheetParser(source, sheet._shared_strings, data_only=False, epoch=book.epoch, date_formats=book._date_formats,
                                 timedelta_formats=book._timedelta_formats)
        for number, found in parser.parse():
            if number <= before:
                raise FileTrouble("damaged")
            before = number
            cells = [Cell("")] * MOST_COLUMNS
            for facts in found:
                if facts["column"] <= MOST_COLUMNS and facts["value"] is not None:
                    cells[facts["column"] - 1] = _from_sheet(ReadOnlyCell(sheet, **facts))
            _add(rows, number, cells)
        merged = parser.merged_cells.mergeCell if parser.merged_cells else ()
    return Table("xlsx", tuple(rows), tuple((m.min_row, m.min_col - 1, m.max_row, m.max_col - 1) for m in merged))


def _from_sheet(cell: Any) -> Cell:
    value, kind = cell.value, cell.data_type
    if kind == "f":
        return Cell("=", "formula")
    if kind == "s":
        return _from_text(str(value))
    if kind == "d":
        return Cell(value.strftime("%Y-%m-%d") if isinstance(value, date) and value.year >= 1900 else "#", "date")
    if kind != "n" or isinstance(value, bool) or not isinstance(value, int | float):
        return Cell("#", "fault")
    if not abs(value) < LOST_FROM:          # NaN and infinity among them
        return Cell("#", "lost")
    if value != int(value):
        return Cell("#", "fault")
    digits = str(int(value))
    pattern = str(cell.number_format)       # 000 shows 7 as 007, and that is what the person sees
    return Cell(digits.zfill(len(pattern)) if _ZEROS.fullmatch(pattern) else digits, "number")
