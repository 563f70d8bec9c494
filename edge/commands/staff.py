"""`edge staff`: who may log in and sign, with which password and PIN; no room need run."""

from __future__ import annotations

import argparse
import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from edge.commands.configuration import CONFIG, load
from edge.commands.verb import Refused, group, verb

if TYPE_CHECKING:
    from edge.commands.verb import Verbs


def add(verbs: Verbs) -> None:
    """add, list, remove."""
    staff = group(verbs, "staff", "who may log in and sign: add, list, remove")
    v = verb(staff, "add", _add, "add or replace a member; asks for password and PIN", config=CONFIG)
    v.add_argument("staff_id")
    v.add_argument("--name", required=True)
    v.add_argument("--role", default="staff", help="staff, auditor or sysadmin (default staff)")
    v.add_argument("--secrets-from", type=Path, help="file with two lines, password and PIN, instead of asking")
    verb(staff, "list", _list, "who there is; no secrets", config=CONFIG)
    verb(staff, "remove", _remove, "take a member out", config=CONFIG).add_argument("staff_id")


def _add(args: argparse.Namespace) -> int:
    from edge.clock import SystemClock
    from edge.storage.staff import StaffBook
    book = StaffBook(load(args).paths.state / "staff.json", SystemClock())
    if args.secrets_from:
        lines = args.secrets_from.read_text(encoding="utf-8").splitlines()
        if len(lines) < 2:
            raise Refused(f"{args.secrets_from} must hold two lines: password, PIN")
        password, pin = lines[0], lines[1]
    else:
        password, pin = getpass.getpass("password to log in: "), getpass.getpass("PIN to sign: ")
    try:
        book.add(args.staff_id, args.name, args.role, password, pin)
    except ValueError as error:
        raise Refused(f"{error}. Nothing was changed.") from error
    print(f"{args.staff_id} may log in as {args.role}. The running room knows already.")
    return 0


def _list(args: argparse.Namespace) -> int:
    from edge.clock import SystemClock
    from edge.storage.staff import StaffBook
    for member in StaffBook(load(args).paths.state / "staff.json", SystemClock()).members.values():
        print(f"{member.staff_id:<16}{member.role:<10}{member.name}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    from edge.clock import SystemClock
    from edge.storage.staff import StaffBook
    if not StaffBook(load(args).paths.state / "staff.json", SystemClock()).remove(args.staff_id):
        raise Refused(f"there is no {args.staff_id}. Nothing was changed.")
    print(f"{args.staff_id} can no longer log in; what was signed stays signed.")
    return 0
