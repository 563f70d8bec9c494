"""A list of candidates as a file: any bytes give people or faults, never an exception; nothing of a faulty list is used."""

from __future__ import annotations

import errno
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.rosterfile.lines import COLUMNS, Fault, Reading, read
from edge.rosterfile.table import MOST_BYTES, MOST_UNPACKED
from edge.sessions import number
from edge.sim.people import PEOPLE

TODAY = date(2026, 11, 26)
HEAD = ("姓名", "证件号码", "准考证号", "座位号", "人员类别", "工种", "考试类型", "科目")
GOOD = ("样例甲", "000000199001010018", "2026000217", "01")
ROSTER = [(p.name, p.id_no, f"A{p.id_no[14:17]}", p.seat or "", p.category, p.trade or "", p.exam_kind, p.subject) for p in PEOPLE]


def look(data: bytes, allow_demo: bool = True) -> Reading:
    return read(data, allow_demo=allow_demo, today=TODAY)


def csv_of(rows: Sequence[Sequence[str]], encoding: str = "utf-8", sign: str = ",") -> bytes:
    return "\r\n".join(sign.join(row) for row in rows).encode(encoding)


def xlsx_of(rows: Sequence[Sequence[Any]], **more: Any) -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in rows:
        sheet.append(list(row))
    for merged in more.get("merge", ()):
        sheet.merge_cells(merged)
    for cell, pattern in more.get("formats", {}).items():
        sheet[cell].number_format = pattern
    for title, content in more.get("sheets", {}).items():
        other = book.create_sheet(title)
        for row in content:
            other.append(list(row))
    for title in more.get("hidden", ()):
        book[title].sheet_state = "hidden"
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def words(reading: Reading) -> list[tuple[int, str, str]]:
    return [(fault.row, fault.column, fault.word) for fault in reading.faults]


def whole(reading: Reading) -> list[tuple[str, ...]]:
    assert reading.faults == ()
    return [(one.name, one.number, one.admission_no, one.seat or "", one.person_category or "", one.trade or "", one.exam_kind or "",
             one.subject or "") for one in reading.lines]


FORMS = {
    "utf-8": lambda rows: csv_of(rows), "utf-8 with a mark": lambda rows: csv_of(rows, "utf-8-sig"),
    "gb18030": lambda rows: csv_of(rows, "gb18030"), "tabs": lambda rows: csv_of(rows, "utf-8", "\t"),
    "semicolons": lambda rows: csv_of(rows, "gb18030", ";"), "xlsx": lambda rows: xlsx_of(rows),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_list_comes_out_of_every_form(form: str) -> None:
    """The sample people: a middle dot, a rare character (䶮), one without a seat, one with an X."""
    reading = look(FORMS[form]([HEAD, *ROSTER]))
    assert whole(reading) == ROSTER
    assert [one.row for one in reading.lines] == list(range(2, 2 + len(ROSTER)))
    assert all(one.demo and one.id_type == "resident_id" for one in reading.lines)


def test_columns_are_found_by_their_names_in_any_order_and_in_both_languages() -> None:
    reading = look(csv_of([("No.", "SEAT NO", "Admission No.", "ID Number", "Name", "备注"), ("1", *reversed(GOOD), "x")]))
    assert whole(reading) == [(*GOOD, "", "", "", "")] and reading.unused == ("No.", "备注")
    reading = look(csv_of([(" 姓 名 ", "*身份证号（必填）", "准考证号:", "机位"), GOOD]))
    assert whole(reading) == [(*GOOD, "", "", "", "")]
    names = [name for each in COLUMNS.values() for name in each]
    assert len(names) == len(set(names))


def test_a_title_above_and_blank_rows_between_are_no_people() -> None:
    rows = [("考生名单",), (), HEAD, ROSTER[0], (), ("", " ", "\u3000"), ROSTER[1]]
    for data in (csv_of(rows), xlsx_of(rows, merge=("A1:H1",))):
        reading = look(data)
        assert whole(reading) == ROSTER[:2] and [one.row for one in reading.lines] == [4, 7]


def test_rows_without_a_person_are_named_not_hidden() -> None:
    reading = look(csv_of([("序号", *HEAD), ("1", *ROSTER[0]), ("2",), ("3",)]))
    assert len(reading.lines) == 1 and reading.passed_over == (3, 4)


@pytest.mark.parametrize("written", ["'000000199001010018", '"=""000000199001010018"""', "\t000000199001010018\t", "０００000199001010018",
                                     "000000 19900101 0018", "\u200b000000199001010018\u202c"])
def test_what_people_do_to_keep_a_number_whole_is_taken_off(written: str) -> None:
    assert whole(look(csv_of([HEAD[:4], (GOOD[0], written, *GOOD[2:])])))[0][1] == GOOD[1]


def test_a_lower_case_x_and_a_spaced_name_and_a_seat_in_words() -> None:
    x = next(p for p in PEOPLE if p.id_no.endswith("X"))
    reading = look(csv_of([HEAD[:4], ("样 例　壬", x.id_no.lower(), "a１", "17号机"), ("Jo  Sample", GOOD[1], "A2", "无")]))
    assert [row[:4] for row in whole(reading)] == [("样例壬", x.id_no, "A1", "17"), ("Jo Sample", GOOD[1], "A2", "")]


NUMBERS = [
    ("000000199001010017", "number-check"), ("0000001990010100", "number-shape"), ("000000900101001", "number-first-generation"),
    (number.from_15("000000901301001"), "number-birth"), (number.from_15("200000900101001"), "number-region"), ("张三", "number-shape"),
    ("1.30503E+17", "digits-lost"), ("=A1", "formula"), ("", "empty"), ("UTO900110010018", "number-check"),
]


@pytest.mark.parametrize(("written", "word"), NUMBERS)
def test_a_wrong_number_is_named_by_row_and_column_and_shown_by_its_tail_at_most(written: str, word: str) -> None:
    reading = look(csv_of([HEAD[:4], GOOD, (GOOD[0], written, "A2", "02")]))
    (fault,) = reading.faults
    assert (fault.row, fault.column, fault.word) == (3, "number", word)
    assert len(reading.lines) == 1
    said = " ".join(str(value) for value in fault.facts.values())
    shown = written[-4:] if len(written) >= 8 and "." not in written else ""
    assert set(said) <= set(f"*{shown} {len(written)}"), said


def test_a_check_digit_by_hand() -> None:
    """Every other last character of a good number is wrong (ISO 7064 MOD 11-2 finds each single error)."""
    for last in "0123456789X":
        reading = look(csv_of([HEAD[:3], ("样例甲", GOOD[1][:-1] + last, "A1")]))
        assert words(reading) == ([] if last == GOOD[1][-1] else [(2, "number", "number-check")])


def test_demo_numbers_count_only_where_they_are_allowed() -> None:
    data = csv_of([HEAD[:4], GOOD])
    assert words(look(data, allow_demo=False)) == [(2, "number", "number-demo")] and look(data).faults == ()


def test_foreign_and_hong_kong_numbers_and_passports_have_their_kinds() -> None:
    """The former foreign number and the passport are invented; check characters are right by `sessions.number` (its own tests prove it)."""
    foreign = number.former_foreign("900000199001010010", "UTO", "123")
    hmt = number.from_15("810000900101001")
    rows = [("Sample One", foreign, "A1", ""), ("样例港", hmt, "A2", ""), ("Sample Two", "X1234567", "A3", "护照")]
    reading = look(csv_of([("姓名", "证件号码", "准考证号", "证件类型"), *rows]))
    kinds = {one.number: one.id_type for one in reading.lines}
    assert kinds == {foreign: "foreign_pr_id", hmt: "hmt_residence", "X1234567": "passport"}
    assert reading.faults == ()
    reading = look(csv_of([("姓名", "证件号码", "准考证号", "证件类型"), (*GOOD[:3], "港澳台居民居住证"), ("样例乙", "X1", "A2", "护照")]))
    assert words(reading) == [(2, "id_type", "type-disagrees"), (3, "number", "number-shape")]


def test_two_with_one_number_seat_or_admission_number() -> None:
    other = ROSTER[1]
    reading = look(csv_of([HEAD[:4], GOOD, (other[0], GOOD[1], "A2", "02"), (other[0], other[1], GOOD[2], GOOD[3])]))
    assert words(reading) == [(3, "number", "number-twice"), (4, "admission_no", "admission-twice"), (4, "seat", "seat-twice")]
    assert all(fault.facts == {"first": 2} for fault in reading.faults)


def test_every_fault_of_a_row_is_told_at_once() -> None:
    row = ("", "1.30503E+17", "准考", "第一排", "厨师", "工" * 61, "初训", GOOD[1])
    assert words(look(csv_of([HEAD, ROSTER[0], row]))) == [
        (3, "name", "empty"), (3, "number", "digits-lost"), (3, "admission_no", "admission-shape"), (3, "seat", "seat-shape"),
        (3, "person_category", "category-unknown"), (3, "trade", "too-long"), (3, "subject", "number-here")]


@pytest.mark.parametrize("written", [GOOD[1], "样例1", "—", "甲\x07", "样" * 61])
def test_a_name_that_is_none(written: str) -> None:
    reading = look(csv_of([HEAD[:4], (written, *GOOD[1:])]))
    assert [fault.column for fault in reading.faults] == ["name"] and written not in str(reading.faults)


@pytest.mark.parametrize(("written", "day"), [("2026-03-05", "2026-03-05"), ("2026/3/5", "2026-03-05"), ("20260305", "2026-03-05"),
                                              ("2026年3月5日", "2026-03-05"), ("", None)])
def test_a_theory_pass_as_people_write_days(written: str, day: str | None) -> None:
    reading = look(csv_of([("姓名", "证件号码", "准考证号", "理论合格日期"), (*GOOD[:3], written)]))
    assert reading.faults == () and reading.lines[0].theory_passed_on == day


@pytest.mark.parametrize("written", ["46082", "2026-13-01", "2027-01-01", "三月", "2026-02-30"])
def test_no_day_and_a_day_to_come(written: str) -> None:
    assert words(look(csv_of([("姓名", "证件号码", "准考证号", "理论合格日期"), (*GOOD[:3], written)]))) == [(2, "theory_passed_on", "day")]


WHOLE = {
    "column-missing": csv_of([("姓名", "准考证号", "座位号"), ("样例甲", "A1", "1")]),
    "column-twice": csv_of([("姓名", "证件号码", "身份证号", "准考证号"), (*GOOD[:2], *GOOD[1:3])]),
    "no-header": csv_of([GOOD]), "empty-file": b"", "nobody": csv_of([HEAD]), "no-table": b"\0\1\2 PNG" * 9,
    "encoding": csv_of([HEAD, ROSTER[0]], "utf-16"), "csv-broken": csv_of([HEAD[:4], ('"样例甲', *GOOD[1:])]),
    "too-large": b"x" * (MOST_BYTES + 1), "old-or-locked": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600,
    "damaged": b"PK\3\4 and then nothing",
    "two-sheets": xlsx_of([HEAD, ROSTER[0]], sheets={"二": [HEAD, ROSTER[1]]}),
}


@pytest.mark.parametrize("word", WHOLE)
def test_a_file_that_cannot_be_used_at_all(word: str) -> None:
    reading = look(WHOLE[word])
    assert [(fault.row, fault.word) for fault in reading.faults] == [(0, word)] and reading.lines == ()


def people(count: int) -> list[tuple[str, str, str]]:
    """So many with numbers of region 000000, born one day after the other."""
    rows = []
    for n in range(count):
        born = f"{50 + n // 300:02d}{n % 12 + 1:02d}{n // 12 % 25 + 1:02d}"
        rows.append((f"样例{'甲乙丙丁戊'[n % 5]}", number.from_15(f"000000{born}{n % 900 + 1:03d}"), f"N{n:05d}"))
    return rows


def test_two_hundred_fit_and_one_more_does_not() -> None:
    for make in (csv_of, xlsx_of):
        assert len(look(make([HEAD[:3], *people(200)])).lines) == 200
        for count in (201, 1000):
            assert words(look(make([HEAD[:3], *people(count)]))) == [(0, "", "too-many-rows")]


# ---- what only a spreadsheet does -----------------------------------------------------------------------------------------

def test_a_number_that_a_spreadsheet_has_rounded_is_refused() -> None:
    """130503199001010011 typed into a cell of numbers is kept as 130503199001010000 and shown as 1.30503E+17."""
    for kept in (130503199001010000, 1.30503199001010011e17):
        reading = look(xlsx_of([HEAD[:4], GOOD, ("样例乙", kept, "A2", "02")]))
        assert words(reading) == [(3, "number", "digits-lost")]


def test_short_numbers_in_cells_of_numbers_are_as_they_are_shown() -> None:
    reading = look(xlsx_of([HEAD[:4], (*GOOD[:2], 2026000217, 7), ("样例乙", ROSTER[1][1], 12.0, 8)], formats={"D2": "00"}))
    assert [row[2:4] for row in whole(reading)] == [("2026000217", "07"), ("12", "8")]


def test_a_formula_a_date_a_fraction_and_a_fault_are_no_text() -> None:
    rows = [HEAD[:4], ("样例甲", GOOD[1], "A1", datetime(2026, 1, 2)), ("=A2", ROSTER[1][1], "A2", 1.5),
            ("样例丙", ROSTER[2][1], "A3", True), ("样例丁", ROSTER[3][1], "#N/A", "=1+1")]
    assert words(look(xlsx_of(rows))) == [
        (2, "seat", "became-a-date"), (3, "name", "formula"), (3, "seat", "no-text"), (4, "seat", "no-text"),
        (5, "admission_no", "no-text"), (5, "seat", "formula")]
    reading = look(xlsx_of([("姓名", "证件号码", "准考证号", "理论合格日期"), (*GOOD[:3], datetime(2026, 3, 5))]))
    assert reading.lines[0].theory_passed_on == "2026-03-05", "only where a date is wanted it is one"


def test_merged_cells_among_the_people_are_refused() -> None:
    """Only the first of them holds the content: the others would be people without a category."""
    rows = [HEAD, *ROSTER[:3]]
    assert words(look(xlsx_of(rows, merge=("E2:E3",)))) == [(2, "person_category", "merged"), (3, "person_category", "merged")]
    elsewhere = look(xlsx_of([(*row, "") for row in rows], merge=("I2:I4",)))
    assert whole(elsewhere) == ROSTER[:3], "in a column that nobody needs they are nothing"


def test_other_sheets_are_passed_over_and_hidden_ones_not_looked_at() -> None:
    notes = {"说明": [("请填写姓名",), ("证件号码为18位",)], "旧": [HEAD, ROSTER[3]]}
    assert whole(look(xlsx_of([HEAD, *ROSTER[:2]], sheets=notes, hidden=("旧",)))) == ROSTER[:2]


def rewritten(data: bytes, change: dict[str, bytes]) -> bytes:
    """The archive with some parts replaced."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, change.get(name) or old.read(name))
    return out.getvalue()


SHEET = "xl/worksheets/sheet1.xml"


def as_excel_writes_it(data: bytes) -> bytes:
    """The same workbook with its texts in a table of their own, as Excel and WPS save it (openpyxl writes them into the cells)."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sheet, kinds, relations = (archive.read(name).decode() for name in (SHEET, "[Content_Types].xml", "xl/_rels/workbook.xml.rels"))
    texts: list[str] = []

    def shared(found: re.Match[str]) -> str:
        texts.append(found[2])
        return f'{found[1]} t="s"><v>{len(texts) - 1}</v></c>'

    sheet = re.sub(r'(<c r="[A-Z]+[0-9]+") t="inlineStr"><is><t>([^<]*)</t></is></c>', shared, sheet)
    table = "".join(f"<si><t>{text}</t></si>" for text in texts)
    main = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    relation = ('<Relationship Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/sharedStrings" '
                'Target="sharedStrings.xml" Id="rId99"/></Relationships>')
    kind = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{main}"/></Types>'
    out = rewritten(data, {
        SHEET: sheet.encode(), "xl/_rels/workbook.xml.rels": relations.replace("</Relationships>", relation).encode(),
        "[Content_Types].xml": kinds.replace("</Types>", kind).encode()})
    with zipfile.ZipFile(whole_file := io.BytesIO(out), "a") as archive:
        archive.writestr("xl/sharedStrings.xml", f'<sst xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main">{table}</sst>')
    return whole_file.getvalue()


def test_texts_in_a_table_of_their_own() -> None:
    data = as_excel_writes_it(xlsx_of([HEAD, *ROSTER]))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert "样例甲" in archive.read("xl/sharedStrings.xml").decode() and "样例甲" not in archive.read(SHEET).decode()
    assert whole(look(data)) == ROSTER


def test_a_file_that_unpacks_to_many_times_its_size_is_not_unpacked() -> None:
    bomb = rewritten(xlsx_of([HEAD, ROSTER[0]]), {SHEET: b" " * (MOST_UNPACKED + 1)})
    assert len(bomb) * 100 < MOST_UNPACKED
    assert words(look(bomb)) == [(0, "", "unpacks-too-large")]


def test_rows_that_lie_about_their_place_are_refused_quickly() -> None:
    sheet = ('<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><dimension ref="A1:XFD1048576"/>'
             "<sheetData>%s</sheetData></worksheet>")

    def row(place: int, *texts: str) -> str:
        cells = "".join(f'<c t="inlineStr"><is><t>{text}</t></is></c>' for text in texts)
        return f'<row r="{place}">{cells}</row>'

    base = xlsx_of([HEAD])
    far = rewritten(base, {SHEET: (sheet % (row(1, *HEAD[:4]) + row(10**12, *GOOD))).encode()})
    assert [one.row for one in look(far).lines] == [10**12]
    back = rewritten(base, {SHEET: (sheet % (row(3, *HEAD[:4]) + row(2, *GOOD))).encode()})
    assert words(look(back)) == [(0, "", "damaged")]


def test_entities_are_not_expanded() -> None:
    laughs = (b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>'
              b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>&b;</sheetData></worksheet>')
    assert words(look(rewritten(xlsx_of([HEAD]), {SHEET: laughs}))) == [(0, "", "damaged")]


# ---- any bytes ------------------------------------------------------------------------------------------------------------

def is_told(reading: Reading) -> None:
    assert reading.faults or reading.lines
    assert Reading.from_json(json.loads(json.dumps(reading.to_json()))) == reading


@given(st.binary(max_size=400))
def test_any_bytes_give_people_or_faults(data: bytes) -> None:
    for start in (b"", b"PK\3\4", b"\xef\xbb\xbf", "姓名,证件号码,准考证号\n".encode()):
        is_told(look(start + data))


CELLS = st.one_of(st.text(max_size=20), st.sampled_from([GOOD[0], GOOD[1], "A1", "=1", "1.3E+17", '"', "特种作业"]))


@given(st.lists(st.lists(CELLS, max_size=6), max_size=8), st.sampled_from(["utf-8", "gb18030"]), st.sampled_from(",\t;"))
def test_any_text_below_the_column_names(rows: list[list[str]], encoding: str, sign: str) -> None:
    text = "\n".join(sign.join(row) for row in [list(HEAD[:6]), *rows])
    is_told(look(text.encode(encoding, "replace")))


SAMPLE = as_excel_writes_it(xlsx_of([HEAD, *ROSTER]))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_spreadsheet_with_any_bytes_broken(breaks: list[tuple[int, int]]) -> None:
    data = bytearray(SAMPLE)
    for place, value in breaks:
        data[place] = value
    is_told(look(bytes(data)))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=6)), min_size=1, max_size=5), st.sampled_from(
    [SHEET, "xl/sharedStrings.xml", "xl/workbook.xml", "xl/styles.xml", "xl/_rels/workbook.xml.rels"]))
def test_a_spreadsheet_with_any_part_broken_inside(breaks: list[tuple[int, bytes]], name: str) -> None:
    with zipfile.ZipFile(io.BytesIO(SAMPLE)) as archive:
        part = bytearray(archive.read(name))
    for place, value in breaks:
        part[place % len(part):place % len(part) + len(value)] = value
    is_told(look(rewritten(SAMPLE, {name: bytes(part)})))


LETTERS = st.characters(min_codepoint=32, exclude_categories=["Cs", "Cc"])
VALUES = st.one_of(st.none(), st.booleans(), st.integers(-10**19, 10**19), st.floats(allow_nan=False, allow_infinity=False),
                   st.dates(date(1900, 3, 1), date(9999, 1, 1)), st.text(LETTERS, max_size=12))


@settings(max_examples=40)
@given(st.lists(st.lists(VALUES, max_size=5), max_size=5))
def test_any_cells_of_a_spreadsheet(rows: list[list[Any]]) -> None:
    is_told(look(xlsx_of([HEAD[:5], *rows])))


# ---- the process of its own -----------------------------------------------------------------------------------------------

def in_its_process(data: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "edge.rosterfile", TODAY.isoformat(), *words], input=data, capture_output=True, timeout=60,
                          check=False)


def test_the_process_says_the_same() -> None:
    for data in (xlsx_of([HEAD, *ROSTER]), csv_of([HEAD, GOOD[:2]]), b"x" * (MOST_BYTES + 100)):
        done = in_its_process(data, "demo")
        assert done.returncode == 0 and done.stderr == b""
        assert Reading.from_json(json.loads(done.stdout)) == look(data)


def test_the_process_loads_no_numpy_and_cannot_write(tmp_path: Path) -> None:
    """It runs as `main` does, then tries what it must not be able to do."""
    code = ("import sys, io\nsys.argv[1:] = ['2026-11-26']\nimport runpy\nrunpy.run_module('edge.rosterfile', run_name='__main__')\n"
            "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "assert sys.modules['openpyxl'] and sys.modules['numpy'] is None\n"
            f"try:\n    with open({str(tmp_path / 'x')!r}, 'wb') as f:\n        f.write(b'x')\n"
            "except OSError as error:\n    print('', error.errno, sep='\\n')\n")
    done = subprocess.run([sys.executable, "-c", code], input=xlsx_of([HEAD, ROSTER[0]]), capture_output=True, timeout=60, check=False)
    assert int(done.stdout.splitlines()[-1]) == errno.EFBIG, (done.stdout, done.stderr)


def test_a_fault_is_equal_to_itself_after_the_pipe() -> None:
    assert Reading.from_json(json.loads(json.dumps(Reading(faults=(Fault(3, "seat", "seat-twice", {"first": 2}),)).to_json()))).faults == (
        Fault(3, "seat", "seat-twice", {"first": 2}),)
