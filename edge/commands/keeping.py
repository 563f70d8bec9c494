"""`edge retention`, `edge hold`: until when sessions are kept, what is on hold, and an auditor's word on both.

What changes anything is asked of the running room, which alone writes the journal; what only looks reads the store itself.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.commands.configuration import CONFIG, load
from edge.commands.verb import Refused, english, group, in_words, must_be_session, verb

if TYPE_CHECKING:
    from edge.commands.verb import Verbs
    from edge.config import Config


def add(verbs: Verbs) -> None:
    """retention: report, approve, lengthen; hold: place, release, list."""
    retention = group(verbs, "retention", "until when sessions are kept, and whether the disk will do: report, approve, lengthen")
    v = verb(retention, "report", _report, "what goes within some days, what is held, how full the disk will be; changes nothing",
             config=CONFIG)
    v.add_argument("--days", type=int, default=30, help="how far ahead (default 30)")
    v.add_argument("--json", action="store_true", help="the report as one JSON object")

    def signed(verbs: Verbs, name: str, run: object, text: str) -> argparse.ArgumentParser:
        v = verb(verbs, name, run, text, config=CONFIG)
        v.add_argument("--by", metavar="STAFF_ID", required=True, help="the auditor, who signs")
        v.add_argument("--secrets-from", type=Path, help="file with one line, the auditor's PIN, instead of asking")
        return v

    v = signed(retention, "approve", _approve, "agree that all that is due goes, though it is more than goes unasked")
    v.add_argument("--expect", metavar="DIGEST", help="agree only to what a report with this digest showed")
    v = signed(retention, "lengthen", _lengthen, "keep a session longer; never shorter")
    v.add_argument("session", help="the session's id")
    v.add_argument("--until", metavar="DATE", required=True, help="the last day on which it is kept, 2040-12-31")
    v.add_argument("--reason", required=True, help="why; goes into the journal")
    hold = group(verbs, "hold", "nothing of a session goes while a hold stands: place, release, list")
    v = signed(hold, "place", _place, "nothing of this session goes until the hold is released")
    v.add_argument("session", help="the session's id")
    v.add_argument("--reason", required=True, help="why; goes into the journal")
    v = signed(hold, "release", _release, "one hold is over; others and the date stand")
    v.add_argument("session", help="the session's id")
    v.add_argument("hold_id", metavar="HOLD", help="the hold's id, H-…")
    v.add_argument("--reason", required=True, help="why; goes into the journal")
    verb(hold, "list", _held, "what is on hold, since when, by whom and why", config=CONFIG)


def _report(args: argparse.Namespace) -> int:
    from edge import asking
    if args.days < 0:
        raise Refused("--days is a number of days ahead, 0 or more")
    shown = asyncio.run(asking.retention_report(load(args), args.days))
    print(json.dumps(shown, ensure_ascii=False) if args.json else "\n".join(_lines(shown)))
    return 0


def _lines(shown: dict[str, Any]) -> Iterator[str]:
    """The report for people; no person in it."""
    texts, space, store = english(), shown["space"], shown["store"]
    for line in shown["sessions"]:
        why = "; ".join(texts.word("en", "keeping-bar", bar) for bar in line["bars"]) or (
            "goes in the next pass" if line["approved"] or (line["expired"] and not shown["asks"]) else
            "waits for an auditor's consent" if line["expired"] else "goes after its day")
        yield f"{line['session']}  kept until {line['kept_until']}  {line['policy']}  {line['bytes'] / 1e9:.1f} GB  {why}"
    if not shown["sessions"]:
        yield f"no session's time is over within {shown['days']} days"
    for hold in shown["holds"]:
        yield f"on hold: {hold['session']}  {hold['hold_id']}  since {hold['since']}  by {hold['by']}: {hold['reason']}"
    if shown["halted"]:
        yield texts.word("en", "keeping-halted", shown["halted"])
    due = shown["due"]
    yield f"due now: {due['sessions']} sessions, {due['bytes'] / 1e9:.1f} GB; digest {due['digest']}"
    yield f"stored: {store['sessions']} sessions, {store['bytes'] / 1e9:.1f} GB; oldest exam day kept: {shown['oldest_kept'] or 'none'}"
    yield f"terms are judged by {shown['day'] or 'no day: no time that can be believed'}; last pass {shown['last_pass'] or 'not yet'}"
    yield (f"disk: {space['free_bytes'] / 1e9:.0f} GB free, {space['needed_bytes'] / 1e9:.0f} GB needed for two days' plan; full in "
           f"{space['days_left']} days at the pace of exams; holds {space['years_x10'] / 10:.1f} years, {space['need_years_x10'] / 10:.1f} "
           f"are asked; other files {space['foreign_bytes'] / 1e9:.0f} GB")
    if space["trouble"]:
        yield texts.word("en", "keeping-space", space["trouble"])


def _approve(args: argparse.Namespace) -> int:
    from edge import asking
    config = load(args)
    shown = asyncio.run(asking.retention_report(config, 0))
    print("\n".join(_lines(shown)))
    digest = args.expect or shown["due"]["digest"]
    answer = _ask(config, "POST", "/retention/approve", {"digest": digest, "by": args.by, "pin": _pin(args)})
    print(f"agreed: {answer['sessions']} sessions go in the next passes")
    return 0


def _lengthen(args: argparse.Namespace) -> int:
    must_be_session(args.session)
    _ask(load(args), "POST", f"/sessions/{args.session}/lengthen",
         {"keep_until": args.until, "by": args.by, "pin": _pin(args), "reason": args.reason})
    print(f"{args.session} is kept until {args.until}")
    return 0


def _place(args: argparse.Namespace) -> int:
    must_be_session(args.session)
    _ask(load(args), "POST", f"/sessions/{args.session}/place_hold", {"by": args.by, "pin": _pin(args), "reason": args.reason})
    print(f"{args.session} is on hold: nothing of it goes until the hold is released (`edge hold list` shows its id)")
    return 0


def _release(args: argparse.Namespace) -> int:
    must_be_session(args.session)
    _ask(load(args), "POST", f"/sessions/{args.session}/release_hold",
         {"hold_id": args.hold_id, "by": args.by, "pin": _pin(args), "reason": args.reason})
    print(f"{args.hold_id} is released; {args.session} is kept until its date, and while other holds stand")
    return 0


def _held(args: argparse.Namespace) -> int:
    from edge import asking
    for hold in asyncio.run(asking.retention_report(load(args), 0))["holds"]:
        print(f"{hold['session']}  {hold['hold_id']}  {hold['since']}  {hold['by']}  {hold['reason']}")
    return 0


def _ask(config: Config, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A request to the running room; its refusal in words."""
    from edge import asking
    try:
        return asyncio.run(asking.ask_room(config, method, path, body))
    except asking.Refused as refused:
        raise Refused(in_words(refused)) from None


def _pin(args: argparse.Namespace) -> str:
    if args.secrets_from is None:
        return getpass.getpass(f"PIN of {args.by}: ")
    lines: list[str] = args.secrets_from.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise Refused(f"{args.secrets_from} must hold one line, the PIN. Nothing was changed")
    return lines[0]
