"""YAML of bounded size: no key twice, merge keys as YAML has them, aliases that cannot blow up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from diwa_runtime.errors import one_line
from diwa_runtime.reading import read_text

LIMIT_BYTES = 1 << 20
LIMIT_VALUES = 100_000
"""Keys and values of a file, each alias counted with all that it stands for."""
_MERGE = "tag:yaml.org,2002:merge"
# PyYAML's constructors of numbers, dates and truth values let Python's own errors through.
_UNREADABLE = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error rather than a surprise."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                name = self.construct_object(key, deep=deep)
                if name in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{name!r} is given twice", key.start_mark)
                seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file; None where it is empty.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, not UTF-8 or as `parse_yaml` says.
    """
    return parse_yaml(read_text(path, LIMIT_BYTES))


def parse_yaml(text: str) -> Any:
    """Return what a YAML text says, plain data alone.

    Raises:
        ValueError: not YAML, a key given twice, or more values than any settings have.
    """
    try:
        loader = _StrictLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _count(node, {}, set())
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except _UNREADABLE as error:
        raise ValueError(one_line(error) or type(error).__name__) from None


def _count(node: yaml.Node, counts: dict[int, int], around: set[int]) -> int:
    """Return how many values a node stands for; `counts` has those of the nodes seen, `around` what it lies in.

    Raises:
        ValueError: too many, or it lies in itself.
    """
    key = id(node)
    if key in around:
        raise ValueError("an alias lies within what it names")
    if key not in counts:
        around.add(key)
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        nodes = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
        counts[key] = 1 + sum(_count(one, counts, around) for one in nodes)
        around.remove(key)
    if counts[key] > LIMIT_VALUES:
        raise ValueError(f"more than {LIMIT_VALUES} values, with all that its aliases stand for")
    return counts[key]
