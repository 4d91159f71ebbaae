"""The page that ``--help`` prints: every setting with its default and what its author wrote beside it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

from diwa_runtime.config.values import entry_type, is_mapping

WIDTH = 100
INDENT = " " * 6
ATTRIBUTES = "Attributes:"


def help_text(cls: type, presets: Mapping[str, Any]) -> str:
    """Return the page for the config dataclass `cls`: what it is for, then one entry a setting."""
    about = inspect.cleandoc(cls.__doc__ or "").partition(ATTRIBUTES)[0].strip()
    # A dataclass without a docstring is given its signature.
    lines = [about, ""] if about and not about.startswith(f"{cls.__name__}(") else []
    lines += ["  --config FILE ...", f"{INDENT}settings from YAML files; a later file wins, flags win over files"]
    if presets:
        lines += ["  --preset NAME", f"{INDENT}a named set of settings: {', '.join(presets)}"]
    for flag, default, description in _entries(cls, None, ""):
        lines.append(f"  {flag}  (default {default})" if default is not None else f"  {flag}  (must be given)")
        lines += textwrap.wrap(description, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
    return "\n".join(lines)


def _entries(cls: type, default: Any, prefix: str) -> Iterator[tuple[str, str | None, str]]:
    hints, comments = get_type_hints(cls), field_comments(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        value = _default(field) if default is None else getattr(default, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield from _entries(type(value), value, f"{prefix}{field.name}.")
            continue
        description = field.metadata.get("help") or comments.get(field.name, "")
        flag = f"--{prefix}{field.name}".replace("_", "-")
        kind = hints[field.name]
        while is_mapping(kind):  # whose entries are set one by one
            flag, kind = f"{flag}.NAME", entry_type(kind)
        yield f"{flag} {_type_name(kind)}", None if value is ... else str(value), description


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else ...


def _type_name(annotation: Any) -> str:
    name = annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else ""
    return name or str(annotation).replace("typing.", "").replace("pathlib.", "")


def field_comments(cls: type) -> dict[str, str]:
    """Return what is said of each field: a comment behind or above it, a text below it, or under ``Attributes:``."""
    comments: dict[str, str] = {}
    for owner in reversed(cls.__mro__):
        if dataclasses.is_dataclass(owner):
            comments |= _attributes_of(owner) | _comments_of(owner)
    return comments


def _attributes_of(cls: type) -> dict[str, str]:
    """Read ``name: text`` under ``Attributes:``; deeper lines go on with the text."""
    found: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(cls.__doc__ or "").partition(ATTRIBUTES)[2].splitlines():
        indent = len(line) - len(line.lstrip())
        if indent == 4:
            name, _, text = line.strip().partition(":")
            found[name] = text.strip()
        elif indent > 4 and name:
            found[name] += f" {line.strip()}"
        elif line:
            break
    return found


def _comments_of(cls: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except (OSError, TypeError):
        return {}
    at_line = _comments_by_line(source)
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    found = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = _text_below(after) or _comment_behind(node, at_line) or _comment_above(node, at_line)
            if text:
                found[node.target.id] = " ".join(text.split())
    return found


def _comments_by_line(source: str) -> dict[int, tuple[bool, str]]:
    """Return for each line with a comment whether it stands alone there, and its text."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token for token in tokens if token.type == tokenize.COMMENT]
    return {t.start[0]: (not t.line[: t.start[1]].strip(), t.string.lstrip("#").strip()) for t in comments}


def _text_below(node: ast.stmt | None) -> str:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return str(node.value.value) if is_text else ""  # type: ignore[union-attr]


def _comment_behind(node: ast.AnnAssign, at_line: dict[int, tuple[bool, str]]) -> str:
    alone, text = at_line.get(node.end_lineno or node.lineno, (True, ""))
    return "" if alone else text


def _comment_above(node: ast.AnnAssign, at_line: dict[int, tuple[bool, str]]) -> str:
    lines: list[str] = []
    line = node.lineno - 1
    while at_line.get(line, (False, ""))[0]:
        lines.insert(0, at_line[line][1])
        line -= 1
    return " ".join(lines)
