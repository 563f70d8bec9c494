"""A folded state as JSON and back, by the types of its fields: whatever the machine adds to a session is written without a word here.

A dataclass is the list of its fields, a fact is its journal row without the chain, tuples are lists. Not for the journal (that is
`events.encode`) and not for anybody else: the reader knows what it wrote. TypeError for a type that has no form here.
Called by `snapshot`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from functools import cache
from typing import Any

from edge.clock import Stamp
from edge.sessions import events as e

Form = tuple[Callable[[Any], Any], Callable[[Any], Any]]
"""(value -> what JSON can hold, and back)."""


def plain(value: Any, without: Collection[str] = ()) -> list[Any]:
    """A dataclass as a list: its fields in their order, but those `without`."""
    return [put(getattr(value, name)) for name, (put, _) in _fields(value.__class__).items() if name not in without]


def taken(cls: Any, values: list[Any], **others: Any) -> Any:
    """The dataclass `cls` from what `plain` made; `others`: the fields that were left out. ValueError if it is another number of fields."""
    forms = [(name, take) for name, (_, take) in _fields(cls).items() if name not in others]
    return cls(**{name: take(value) for (name, take), value in zip(forms, values, strict=True)}, **others)


@cache
def _fields(cls: Any) -> dict[str, Form]:
    hints = typing.get_type_hints(cls)
    return {field.name: _form(hints[field.name]) for field in dataclasses.fields(cls)}


def _form(hint: Any) -> Form:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, types.UnionType):
        return _or_none([each for each in inner if each is not type(None)])
    if origin is tuple and inner[1:] == (...,):
        put, take = _form(inner[0])
        return lambda value: [put(each) for each in value], lambda value: tuple(take(each) for each in value)
    if origin is not None and issubclass(origin, Mapping) and inner[0] is str:
        put, take = _form(inner[1])
        return _mapped(put), _mapped(take)
    if hint in (str, int, bool):
        return _same, _same
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return str, hint
    if isinstance(hint, type) and issubclass(hint, e.Event):
        return _fact, _as_fact
    if dataclasses.is_dataclass(hint):
        return plain, lambda value: taken(hint, value)
    raise TypeError(f"no form for {hint}")


def _mapped(inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: {key: inner(each) for key, each in value.items()}


def _same(value: Any) -> Any:
    return value


def _or_none(others: list[Any]) -> Form:
    """One type, or several kinds of facts; or None."""
    forms = {_form(each) for each in others}
    if len(forms) != 1:
        raise TypeError(f"no form for {others}")
    put, take = forms.pop()
    return (lambda value: None if value is None else put(value)), lambda value: None if value is None else take(value)


def _fact(event: e.Event) -> list[Any]:
    at = event.at
    return [event.kind, at.utc_us, at.boot_us, at.boot_id, event.session, e.encode(event)]


def _as_fact(row: list[Any]) -> e.Event:
    kind, utc_us, boot_us, boot_id, session, body = row
    return e.decode(kind, Stamp(utc_us, boot_us, boot_id), session, body)
