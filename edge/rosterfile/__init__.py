"""A list of candidates that came as a file: CSV (UTF-8 with or without a mark, GB 18030) or XLSX.

In go bytes, out comes a `lines.Reading`: whole lines, or what is wrong and where. Pure: no room, no database, no file. `table` turns the
file into cells, `lines` cells into people; `python -m edge.rosterfile` is both in a process of its own, because a spreadsheet from
anywhere is unpacked and parsed here. Caller: `web.imports`.
"""
