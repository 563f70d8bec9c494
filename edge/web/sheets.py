"""Paper: the attendance sheet of a session or class (签到表), also as CSV, and its list of the absent (缺考名单), laid out for A4.

The whole name stands on a sheet, because it is signed by people and filed; of a number never more than the last four. The pages say
when they were printed and how the groups add up to the list. Callers: `web.app`.
"""

from __future__ import annotations

import csv
import io
from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import Response

from edge.room import Refusal
from edge.web import attendance
from edge.web.access import web_of
from edge.web.pages import language_of, local_time, page
from edge.web.proctor import facts_of, session_of

_ADMISSION = 4
"""Column of the admission number: a spreadsheet would take its 19 digits for a quantity and lose the last four. Behind a tab it is text."""
ABSENT = (attendance.Group.MISSING, attendance.Group.REFUSED)
"""Who is not there: never came, or came and was turned away."""


def show_sheet(request: Request, session_id: str) -> Response:
    return _sheet(request, session_id, absent=False)


def show_absent(request: Request, session_id: str) -> Response:
    return _sheet(request, session_id, absent=True)


def show_csv(request: Request, session_id: str) -> Response:
    """The attendance sheet as a table for a spreadsheet: UTF-8 with its mark, because Excel takes a file without one for GBK."""
    web, language = web_of(request), language_of(request)
    session = session_of(web, session_id)
    if session.roster is None:
        raise Refusal("no-roster")
    t, w, is_class = partial(web.texts.say, language), partial(web.texts.word, language), attendance.is_class(session)
    table = io.StringIO()
    out = csv.writer(table, lineterminator="\r\n")
    out.writerow([t(f"sheet.{name}") for name in ("order", "seat", "name", "number", "admission", "state", "time", "late", "method")]
                 + [t("sheet.class-left" if is_class else "sheet.left")])
    for n, line in enumerate(attendance.lines(web.room, session), 1):
        at, left = (local_time(us, "%Y-%m-%d %H:%M:%S") if us else "" for us in (line.at_us, line.left_us))
        group, method = w("class-group" if is_class else "group", line.group), w("method", line.method) if line.method else ""
        cells = [_cell(each) for each in (n, line.seat, line.name, line.number, line.admission_no, group.lstrip("✓▲✕ "), at,
                                          line.late_min or "", method, left)]
        cells[_ADMISSION] = f"\t{cells[_ADMISSION]}" if line.admission_no.isdigit() else cells[_ADMISSION]
        out.writerow(cells)
    return Response("\ufeff" + table.getvalue(), media_type="text/csv; charset=utf-8",
                    headers={"Content-Disposition": f'attachment; filename="{session.id}.csv"'})


def _cell(value: object) -> str:
    """A cell that no spreadsheet takes for a formula: a name may begin with anything."""
    text = str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _sheet(request: Request, session_id: str, *, absent: bool) -> Response:
    web = web_of(request)
    session = session_of(web, session_id)
    if session.roster is None:
        raise Refusal("no-roster")
    people = [line for line in attendance.lines(web.room, session) if not absent or line.group in ABSENT]
    return page(request, "sheet.html", **facts_of(web, session), people=people, absent=absent, counts=attendance.counts(web.room, session),
                strangers=[] if absent else attendance.strangers(web.room, session))


def add_routes(app: FastAPI) -> None:
    app.get("/s/{session_id}/sheet")(show_sheet)
    app.get("/s/{session_id}/sheet.csv")(show_csv)
    app.get("/s/{session_id}/absent")(show_absent)
