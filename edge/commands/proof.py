"""`edge export`, `edge verify`: a session leaves the room for an auditor, and what was handed out is checked."""

from __future__ import annotations

import argparse
import asyncio
import errno
import getpass
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from edge.commands.configuration import CONFIG_OR, load
from edge.commands.verb import Refused, in_words, must_be_session, verb

if TYPE_CHECKING:
    from edge.commands.verb import Verbs
    from edge.export import HandedOut


def add(verbs: Verbs) -> None:
    """Both verbs."""
    v = verb(verbs, "export", _export, "write a session for an auditor: footage, manifest, receipts, certificates, VERIFY.md",
             config=CONFIG_OR, described=True)
    v.add_argument("session", help="the session's id")
    v.add_argument("--to", type=Path, required=True, help="a new or empty folder, or a file NAME.zip; a ZIP that broke off is gone on with")
    v.add_argument("--full", action="store_true", help="names and numbers whole instead of masked; an auditor signs for it")
    v.add_argument("--by", metavar="STAFF_ID", help="the auditor who signs (with --full)")
    v.add_argument("--reason", help="why names and numbers leave the room (with --full); goes into the journal")
    v.add_argument("--secrets-from", type=Path, help="file with the auditor's PIN, instead of asking")
    v.add_argument("--json", action="store_true", help="the outcome as one JSON object")
    _verify_options(verb(verbs, "verify", _verify, "check an exported session, a device's whole history or the room's own store: "
                         "PASS, PASS WITH DECLARED GAPS or FAIL; needs no room and no network", config=CONFIG_OR, described=True))


def _export(args: argparse.Namespace) -> int:
    """The running room says what leaves and journals it, because it alone writes the journal; without one, the same code does."""
    from edge import asking
    from edge.export import Order
    from edge.progress import Line
    must_be_session(args.session)
    if args.full and not (args.by and args.reason):
        raise Refused("--full needs --by STAFF_ID of an auditor and --reason. Nothing was written.")
    pin = ""
    if args.full:
        pin = args.secrets_from.read_text(encoding="utf-8").strip() if args.secrets_from else getpass.getpass(f"PIN of {args.by}: ")
    to = args.to.resolve()
    if to.is_file() or (to.is_dir() and any(to.iterdir())):
        raise Refused(f"{to} is there already; nothing was written. Name a new one.")
    order = Order(args.session, args.by or "local", "zip" if to.suffix == ".zip" else "folder", args.full, args.reason or "", pin)
    try:
        with Line(sys.stderr) as line:
            done = asyncio.run(asking.export_session(load(args), order, to, line.told))
    except asking.Refused as refused:
        raise Refused(in_words(refused)) from None
    except FileExistsError as error:
        raise Refused(str(error)) from None
    except OSError as error:
        raise Refused(_why_not_written(error, to)) from error
    return _handed_out(args, done)


def _why_not_written(error: OSError, to: Path) -> str:
    hint = {errno.ENOSPC: "There is not enough room there.",
            errno.EFBIG: "Its file system takes no file so large (FAT: 4 GB): format it exFAT, or export into a folder."}
    again = " The same command goes on where it broke off." if to.suffix == ".zip" else " What is there is incomplete: name a new folder."
    return f"{to} cannot be written ({error.strerror}). {hint.get(error.errno or 0, '')} The session itself is untouched.{again}"


def _handed_out(args: argparse.Namespace, done: HandedOut) -> int:
    wrong = [*(f"MISSING: {name}" for name in done.missing), *(f"ALTERED: {name}" for name in done.altered)]
    report, good = done.report, not done.altered and not done.missing and (done.report is None or done.report.verdict != "FAIL")
    if args.json:
        print(json.dumps({
            "to": str(args.to), "files": done.files, "bytes": done.bytes, "export_id": done.export_id, "went_on_from": done.went_on_from,
            "missing": done.missing, "altered": done.altered, "verdict": report.verdict if report else None}, ensure_ascii=False))
        return 0 if good else 1
    if done.went_on_from:
        print(f"went on after {done.went_on_from:,} bytes that were there and right")
    if report is not None:
        print("\n".join([*report.lines, f"{report.verdict}: {report.first}" if report.first else report.verdict]))
    print("\n".join([*wrong, f"written to {args.to}: {done.files} files, {done.bytes:,} bytes, export id {done.export_id}",
                     "each file's SHA-256 was compared as it was written" + ("" if good else "; NOT ALL IS RIGHT, see above"),
                     "an auditor begins with VERIFY.md; index.html plays the footage"]))
    return 0 if good else 1


def _verify(args: argparse.Namespace) -> int:
    from edge import verifying
    if (args.store is None) == (args.folder is None):
        raise Refused("name a folder to check, or --store for this room's own store. Nothing was checked.")
    config = load(args) if args.store is not None else None
    if args.store:
        must_be_session(args.store)
    try:
        return verifying.run(verifying.Order(args.folder, args.root, tuple(args.receipts), args.schedule, args.since, tuple(args.crl),
                                             args.store, args.json, args.sm2_root, args.sm2_distid), config)
    except verifying.NotVerifiable as error:
        raise Refused(str(error)) from error


def _verify_options(v: argparse.ArgumentParser) -> None:
    v.add_argument("folder", type=Path, nargs="?", help="an exported session, folder or ZIP; or many documents: a device's history")
    v.add_argument("--root", type=Path, help="the authority's root certificate, got another way than with the export")
    v.add_argument("--receipts", type=Path, action="append", default=[], metavar="FOLDER", help="of a history: the platform's own receipts")
    v.add_argument("--schedule", type=Path, help="of a history: a file with the ids of the sessions that the exam schedule has, one a line")
    v.add_argument("--since", type=int, default=1, metavar="N", help="of a history: the first session's number (default 1)")
    v.add_argument("--crl", type=Path, action="append", default=[], help="a revocation list of the authority (PEM or DER)")
    v.add_argument("--sm2-root", type=Path, help="judge second signatures in SM2, too: the authority's SM2 root (PEM); needs openssl 3")
    v.add_argument("--sm2-distid", default="", metavar="ID", help="with --sm2-root: the distinguishing id that the authority has assigned")
    v.add_argument("--store", nargs="?", const="", metavar="SESSION", help="check the room's own store instead, or one session of it")
    v.add_argument("--json", action="store_true", help="the report as one JSON object")
