"""Where two pieces of plain data differ, and that in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

MOST_TOLD = 3
_LONGEST = 60


class Difference(NamedTuple):
    """Where two values differ: the dotted path, and what each has there; None: nothing."""

    path: str
    ours: Any
    theirs: Any


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[Difference]:
    """Yield where plain data differ, as deep inside as can be said.

    Lists of the same length are compared item by item; items that have the same `name` or `topic` are called by it.
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in dict.fromkeys([*ours, *theirs]):
            yield from differences(ours.get(key), theirs.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{path}[{_called(one, other) or index}]")
    elif ours != theirs:
        yield Difference(path, ours, theirs)


def told(found: Sequence[Difference]) -> str:
    """Return the first `MOST_TOLD` differences as words, and how many more there are."""
    words = [f"'{one.path}' ({_short(one.ours)} against {_short(one.theirs)})" for one in found[:MOST_TOLD]]
    more = len(found) - len(words)
    return ", ".join(words) + (f" and {more} more" if more else "")


def _called(one: Any, other: Any) -> str | None:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return None
    return next((one[key] for key in ("name", "topic") if key in one and one[key] == other.get(key)), None)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
