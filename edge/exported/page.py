"""`index.html` of an export: plays the footage offline from the folder it lies in (`file://`), all cameras on one clock, gaps named.

One file without any address in it: script, style and facts are inside. It proves nothing by itself, and says so: VERIFY.md does.
Caller: `export`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.clock import parse_utc
from edge.exported.tables import ATTENDANCE, INCIDENTS, Row

NAME = "index.html"
_TEMPLATE = Path(__file__).with_name(NAME)
_PLACE = "/*FACTS*/null"


def index(document: Mapping[str, Any], attendance: Sequence[Row], incidents: Sequence[Row], missing: Sequence[str], people: str) -> bytes:
    """The page of a session. `document`: the newest manifest; `missing`: paths of files that are not in the export."""
    gone = set(missing)
    facts = {
        "session": document["session"], "room": document["room"], "revision": document["revision"], "outcome": document["outcome"],
        "from_ms": _ms(document["interval"]["start"]["utc"]), "to_ms": _ms(document["interval"]["end"]["utc"]),
        "streams": [_stream(document, each, gone) for each in document["streams"]],
        "attendance": [ATTENDANCE, *attendance], "incidents": [INCIDENTS, *incidents], "people": people, "missing": len(gone),
        "retention": document["retention"]}
    text = json.dumps(facts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    safe = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")    # nothing in it can end the script
    return _TEMPLATE.read_text(encoding="utf-8").replace(_PLACE, safe, 1).encode()


def _stream(document: Mapping[str, Any], stream: Mapping[str, Any], gone: set[str]) -> dict[str, Any]:
    return {
        "id": stream["id"], "kind": stream["kind"], "codecs": stream["codecs"],
        "segments": sorted([_ms(s["start_utc"]), _ms(s["end_utc"]), s["path"]] for s in document["segments"]
                           if s["stream"] == stream["id"] and s["path"] not in gone),
        "gaps": [[_ms(g["from_utc"]), _ms(g["to_utc"]), g["reason"]] for g in document["gaps"] if g["stream"] == stream["id"]]}


def _ms(utc: str) -> int:
    return parse_utc(utc) // 1000


def playlist(document: Mapping[str, Any], stream: str) -> bytes:
    """A list of a stream's files for players such as VLC (M3U, with lengths)."""
    mine = [s for s in document["segments"] if s["stream"] == stream]
    lines = ["#EXTM3U"]
    for segment in sorted(mine, key=lambda s: str(s["start_utc"])):
        lines += [f"#EXTINF:{round(segment['dur_us'] / 1_000_000)},{segment['start_utc']}", segment["path"]]
    return ("\n".join(lines) + "\n").encode()
