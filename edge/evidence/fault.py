"""What is wrong, in words: a text for the report, and the word under which it is explained to people.

The text names the file, the session, the moment; the word is one of `words.FINDINGS`, which says in plain Chinese and English what such a
thing means. Made by every check of evidence.
"""

from __future__ import annotations


class Fault(str):
    """A finding's text that knows its word."""

    __slots__ = ("word",)

    def __new__(cls, word: str, text: str) -> Fault:
        made = super().__new__(cls, text)
        made.word = word
        return made

    word: str
