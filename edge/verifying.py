"""`edge verify`: what is to be checked, against what, and how it is told. The checks themselves are `evidence` and `storecheck`.

A folder with a manifest in it is one exported session, a folder with documents further down is a history. Nothing is written anywhere.
Called by `edge/commands/proof.py`.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from edge.config import Config
from edge.evidence import bundle, history, words
from edge.evidence.history import Told
from edge.evidence.keys import read_certificates
from edge.evidence.report import Report, Second
from edge.evidence.revocation import Revocations, read_lists
from edge.progress import Line

_SESSION_ID = re.compile(r"S[0-9]{8}-[A-Z0-9]{4}-R[0-9]{2}-[0-9]{2}")


class NotVerifiable(Exception):
    """There is nothing to check, or nothing to check it against. Says what, and what to do."""


@dataclass(frozen=True, slots=True)
class Order:
    """The words of the command. `store`: None: a folder; empty: the whole store; else one session of it."""

    folder: Path | None
    root: Path | None
    receipts: tuple[Path, ...]
    schedule: Path | None
    since: int
    crl: tuple[Path, ...]
    store: str | None
    as_json: bool
    sm2_root: Path | None = None
    sm2_distid: str = ""


def run(order: Order, config: Config | None) -> int:
    """Check, print the report, and return 0 unless it failed. NotVerifiable before anything was checked."""
    root = _root(order.root or (config.in_state(config.evidence.root) if config else None))
    revocations = _revocations(order.crl, root, order.folder)
    expected, second = _expected(order.schedule), _second(order)
    with Line(sys.stderr) as line:
        if order.store is not None and config is not None:
            report = _store(order, config, root, Means(revocations, expected, second), line)
        else:
            report = _folder(order, root, Means(revocations, expected, second), line)
    if order.as_json:
        print(json.dumps(report.as_json(), ensure_ascii=False))
    else:
        print("\n".join([*report.lines, "", *words.told(report)]))
    return 0 if report.verdict != "FAIL" else 1


@dataclass(frozen=True, slots=True)
class Means:
    """What the auditor has besides the documents."""

    revocations: Revocations
    expected: frozenset[str]
    second: Second | None


def _folder(order: Order, root: bytes | None, means: Means, line: Line) -> Report:
    folder = order.folder
    if folder is not None and folder.is_file():
        raise NotVerifiable(f"{folder} is a file. Unpack it first (unzip -d NEW-FOLDER {folder.name}), then name the folder. "
                            "Nothing was checked.")
    if folder is None or not folder.is_dir():
        raise NotVerifiable(f"{folder} is not a folder. Nothing was checked.")
    alone = not order.receipts and not means.expected and order.since == 1
    if any(folder.glob("manifest-*.dsse.json")) and alone:
        return bundle.verify(folder, root, line.told, revocations=means.revocations, second=means.second)
    if next(history.walk(folder), None) is None:
        raise NotVerifiable(f"{folder} holds no exported session: there is no manifest in it. Nothing was checked.")
    told = Told(expected=means.expected, since=order.since)
    return history.verify(folder, root, line.told, more=order.receipts, revocations=means.revocations, told=told, second=means.second)


def _store(order: Order, config: Config, root: bytes | None, means: Means, line: Line) -> Report:
    from edge import storecheck
    from edge.storage.look import NoStore
    try:
        return storecheck.check(config.paths.state / "edge.db", config.paths.footage, root or b"", order.store or None, line.told,
                                revocations=means.revocations, expected=means.expected, second=means.second)
    except NoStore as error:
        raise NotVerifiable(str(error)) from error


def _root(path: Path | None) -> bytes | None:
    try:
        data = path.read_bytes() if path else None
        if data is not None:
            read_certificates(data)
        return data
    except ValueError as error:
        raise NotVerifiable(f"{path} holds no certificate (PEM). Nothing was checked.") from error


def _revocations(paths: tuple[Path, ...], root: bytes | None, folder: Path | None) -> Revocations:
    if not paths:
        return Revocations()
    own = folder / bundle.ROOT_NAME if folder else None
    trusted = root if root is not None else own.read_bytes() if own and own.is_file() else b""
    if not trusted:
        raise NotVerifiable("a revocation list needs the authority's root: name it with --root. Nothing was checked.")
    try:
        return read_lists((path.read_bytes() for path in paths), trusted)
    except ValueError as error:
        raise NotVerifiable(f"the revocation list cannot be used: {error}. Nothing was checked.") from error


def _second(order: Order) -> Second | None:
    if order.sm2_root is None:
        return None
    if not order.sm2_distid:
        raise NotVerifiable("--sm2-root needs --sm2-distid: the id that the authority has assigned. Nothing was checked.")
    return Second(order.sm2_root.read_bytes(), order.sm2_distid)


def _expected(path: Path | None) -> frozenset[str]:
    if path is None:
        return frozenset()
    asked = path.read_text(encoding="utf-8-sig").split()
    if wrong := [each for each in asked if not _SESSION_ID.fullmatch(each)]:
        raise NotVerifiable(f"{path} must hold session ids, one a line; {wrong[0][:40]!r} is none. Nothing was checked.")
    return frozenset(asked)
