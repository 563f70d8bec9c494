"""`edge roster import`: a session's list of candidates from a file, when the platform's own does not come."""

from __future__ import annotations

import argparse
import asyncio
import getpass
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.commands.configuration import CONFIG, load
from edge.commands.verb import Refused, english, group, in_words, must_be_session, verb

if TYPE_CHECKING:
    from edge.commands.verb import Verbs


def add(verbs: Verbs) -> None:
    """import."""
    roster = group(verbs, "roster", "a session's list of candidates from a file: import")
    v = verb(roster, "import", _import, "show what a CSV or XLSX would change; take it when two have signed", config=CONFIG)
    v.add_argument("file", type=Path)
    v.add_argument("--session", required=True, help="the session's id")
    v.add_argument("--dry-run", action="store_true", help="only show what would change")
    v.add_argument("--expect", metavar="DIGEST", help="take it only if what would change has this digest (of a dry run)")
    v.add_argument("--by", metavar="STAFF_ID", help="the chief, who signs")
    v.add_argument("--second", metavar="STAFF_ID", help="the second person who signs")
    v.add_argument("--reason", help="why the platform's own list is not used")
    v.add_argument("--secrets-from", type=Path, help="file with two lines, the chief's PIN and the second person's, instead of asking")


def _import(args: argparse.Namespace) -> int:
    """Two requests: what would change, and (with the signatures) take exactly that."""
    from edge import asking
    from edge.rosterfile.table import MOST_BYTES
    must_be_session(args.session)
    with args.file.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise Refused(f"{args.file} is larger than {MOST_BYTES >> 20} MB; keep only the sheet with the list. Nothing was changed.")
    config = load(args)
    try:
        shown = asyncio.run(asking.import_roster(config, args.session, data))
        print("\n".join(_preview(shown)))
        if args.dry_run or shown["faults"] or shown["bar"]:
            return 1 if shown["faults"] or shown["bar"] not in ("", "roster-is-the-same") else 0
        if args.expect and shown["digest"] != args.expect:
            raise Refused("what would change is no longer what you expect. Nothing was changed; look at it again with --dry-run")
        asyncio.run(asking.import_roster(config, args.session, data, digest=shown["digest"], **_signatures(args)))
    except asking.Refused as refused:
        raise Refused(in_words(refused)) from None
    print(f"imported: {shown['people']} people are the list of {args.session} now")
    return 0


def _signatures(args: argparse.Namespace) -> dict[str, str]:
    if not (args.by and args.second and args.reason):
        raise Refused("--by, --second and --reason are needed to import. Nothing was changed; --dry-run needs none of them")
    if args.secrets_from:
        pins = args.secrets_from.read_text(encoding="utf-8").splitlines()
        if len(pins) < 2:
            raise Refused(f"{args.secrets_from} must hold two lines: the chief's PIN, the second person's. Nothing was changed")
    else:
        pins = [getpass.getpass(f"PIN of {args.by}: "), getpass.getpass(f"PIN of {args.second}: ")]
    return {"by": args.by, "pin": pins[0], "second": args.second, "second_pin": pins[1], "reason": args.reason}


def _preview(shown: dict[str, Any]) -> Iterator[str]:
    """What an import would change, people masked as on the pages."""
    texts = english()

    def column(key: str) -> str:
        return texts.word("en", "import-column", key)

    for fault in shown["faults"]:
        facts = {key: column(str(value)) if key == "column" else value for key, value in fault["facts"].items()}
        where = f"row {fault['row']}, {column(fault['column'])}: " if fault["row"] else ""
        yield where + texts.word("en", "import-fault", fault["word"], **facts)
    if shown["faults"]:
        yield f"faults in the file: {len(shown['faults'])}. Nothing was changed; mend it and try again"
        return
    for sign, people in (("+", shown["added"]), ("-", shown["removed"]), ("~", shown["changed"])):
        for person in people:
            fields = ", ".join(f"{column(key)} {before} -> {after}" for key, (before, after) in person.get("fields", {}).items())
            yield f"{sign} {person['seat'] or '–':<4} {person['name']} {person['number']}" + (f"  {fields}" if fields else "")
    if shown["unused"]:
        yield texts.say("en", "import.unused", names=", ".join(shown["unused"]))
    if shown["passed_over"]:
        yield texts.say("en", "import.passed-over", rows=", ".join(map(str, shown["passed_over"])))
    yield (f"{shown['people']} people in the file: {len(shown['added'])} added, {len(shown['removed'])} taken off, "
           f"{len(shown['changed'])} changed; digest {shown['digest']}")
    if shown["bar"]:
        yield f"{texts.word('en', 'refusal', shown['bar'])} {texts.word('en', 'refusal-next', shown['bar'])}"
