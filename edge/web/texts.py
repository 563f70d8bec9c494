"""Every sentence of the pages, in both languages: `locales/<language>.json`, one flat object of key and text each.

A text may hold `{name}` for a fact. A key that is missing is a defect and raises; a *word* that comes from a device, the platform
or a colleague's table (`word()`) falls back to a sentence that shows it. Tests hold the two catalogues to the same keys and facts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from string import Formatter

LANGUAGES = ("zh-CN", "en")
_FOLDER = Path(__file__).parent / "locales"


class Texts:
    """The catalogues."""

    def __init__(self, catalogues: Mapping[str, Mapping[str, str]]) -> None:
        self._catalogues = catalogues

    @classmethod
    def load(cls, folder: Path = _FOLDER) -> Texts:
        return cls({language: json.loads((folder / f"{language}.json").read_text(encoding="utf-8")) for language in LANGUAGES})

    def keys(self, language: str) -> frozenset[str]:
        return frozenset(self._catalogues[language])

    def facts_of(self, language: str, key: str) -> frozenset[str]:
        """The names of the facts that a text asks for."""
        return frozenset(name for _, name, _, _ in Formatter().parse(self._catalogues[language][key]) if name)

    def say(self, language: str, key: str, **facts: object) -> str:
        """The text of `key`. KeyError if there is none."""
        return self._catalogues[language][key].format_map(facts)

    def word(self, language: str, family: str, word: str, **facts: object) -> str:
        """The text of `family.word`, or the family's sentence for a word that nobody translated."""
        text = self._catalogues[language].get(f"{family}.{word}")
        if text is None:
            return self.say(language, "word.unknown", word=word)
        return text.format_map(_Facts(facts))


class _Facts(dict[str, object]):
    """Facts that came with a word; one that did not come is left blank: a refusal must be shown in any case."""

    def __missing__(self, key: str) -> str:
        return ""
