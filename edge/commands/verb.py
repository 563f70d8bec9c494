"""How a verb is declared, and what the verbs say alike: that they cannot, that something is no session's id, what the room refused."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge.asking import Refused as AppRefused
    from edge.web.texts import Texts

    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]


class Refused(Exception):
    """A verb that cannot be done, in plain words."""


def group(verbs: Verbs, name: str, text: str) -> Verbs:
    """A verb that has verbs below it."""
    return verbs.add_parser(name, help=text, description=text).add_subparsers(required=True, metavar="WHAT")


def verb(verbs: Verbs, name: str, run: object, text: str, *, config: str = "", described: bool = False) -> argparse.ArgumentParser:
    """A verb that `run` does; with `config`, what its option --config is. `described`: its own help begins with `text`, too."""
    each = verbs.add_parser(name, help=text, description=text if described else None)
    each.set_defaults(verb=run)
    if config:
        each.add_argument("--config", type=Path, help=config)
    return each


def must_be_session(text: str) -> None:
    """Refused if `text` is no session's id."""
    if not re.fullmatch(r"S[0-9]{8}-[A-Z0-9]{4}-R[0-9]{2}-[0-9]{2}", text):
        raise Refused(f"{text!r} is no session's id; one looks like S20261126-KD01-R01-02. Nothing was written.")


def english() -> Texts:
    """The texts of the pages; the verbs speak English."""
    from edge.web.texts import Texts
    return Texts.load()


def in_words(refused: AppRefused) -> str:
    """What the room would not do, and what to do."""
    texts = english()
    return " ".join(texts.word("en", family, refused.word, **refused.facts) for family in ("refusal", "refusal-next"))
