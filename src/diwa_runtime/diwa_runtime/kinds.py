"""What the values of plain data from files may be, as a table of keys and kinds, so that no reader has to ask again.

A key is written by dots, with `*` for every item of a list or a mapping: ``episodes.*.rows``; what ends with `?` need
not be there. What is null has no keys; a kind says whether null may stand there itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diwa_runtime.stream_spec import is_name

MOST = 1e100
"""Beyond this no figure is drawn: sums and squares of what is smaller are numbers still."""


@dataclass(frozen=True)
class Kind:
    """What a value is expected to be, in words, and whether one is."""

    words: str
    fits: Callable[[Any], bool]

    def or_null(self) -> Kind:
        """Return the kind that also takes null."""
        return Kind(f"{self.words} or null", lambda value: value is None or self.fits(value))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MOST and math.isfinite(value)


def number(least: float, most: float) -> Kind:
    """Return the kind of a number within bounds."""
    return Kind(f"a number from {least:g} to {most:g}", lambda value: _is_number(value) and least <= value <= most)


def whole(least: int, most: int) -> Kind:
    """Return the kind of a whole number within bounds."""
    return Kind(f"a whole number from {least} to {most}", lambda value: type(value) is int and least <= value <= most)


def list_of(kind: Kind, least: int = 0, most: int = 10**7) -> Kind:
    """Return the kind of a list of so many."""
    size = f"{least}" if least == most else f"at least {least}" if least else "any number"
    return Kind(
        f"a list of {size} of {kind.words}",
        lambda value: isinstance(value, list) and least <= len(value) <= most and all(map(kind.fits, value)),
    )


def pair_of(first: Kind, second: Kind) -> Kind:
    """Return the kind of a list of these two."""
    return Kind(
        f"a list of {first.words} and {second.words}",
        lambda value: isinstance(value, list) and len(value) == 2 and first.fits(value[0]) and second.fits(value[1]),
    )


def one_of(*words: str | None) -> Kind:
    """Return the kind of one of a few words."""
    said = ", ".join("null" if word is None else word for word in words)
    return Kind(f"one of {said}", lambda value: isinstance(value, str | None) and value in words)


NUMBER = Kind("a number", _is_number)
SHARE = number(0, 1)
POSITIVE = Kind("a number above 0", lambda value: _is_number(value) and value > 0)
NOT_NEGATIVE = Kind("a number from 0", lambda value: _is_number(value) and value >= 0)
WHOLE = whole(-(1 << 63), (1 << 63) - 1)
COUNT = Kind("a whole number from 0", whole(0, 1 << 53).fits)
TEXT = Kind("a text", lambda value: isinstance(value, str))
NAME = Kind("a name", lambda value: isinstance(value, str) and is_name(value))
HASH = Kind("a sha256", lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None)
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
LIST = Kind("a list", lambda value: isinstance(value, list))
MAPPING = Kind("a mapping", lambda value: isinstance(value, dict))


def fault_in(data: Any, table: Mapping[str, Kind]) -> str | None:
    """Return what is wrong with data that must have the keys of a table: ``lacks 'rows'``; None: nothing."""
    for key, kind in table.items():
        for found in _values(data, key.split(".")):
            name = key.replace("?", "")
            if found is _MISSING:
                return f"lacks {name!r}"
            if not kind.fits(found):
                return f"{name!r} is {shown(found)}, expected {kind.words}"
    return None


def shown(value: Any) -> str:
    """Return a value as Python writes it, shortened."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_MISSING = object()


def _values(data: Any, keys: list[str]) -> Iterator[Any]:
    """Yield all values at a key, and `_MISSING` where there is none."""
    if not keys:
        yield data
        return
    first, *rest = keys
    if data is None:
        return
    if first == "*":
        if isinstance(data, dict | list):
            for item in data.values() if isinstance(data, dict) else data:
                yield from _values(item, rest)
        else:
            yield _MISSING
    elif isinstance(data, dict) and (name := first.removesuffix("?")) in data:
        yield from _values(data[name], rest)
    elif not (isinstance(data, dict) and first.endswith("?")):
        yield _MISSING
