"""From plain data to a typed dataclass: every name known, every value of its field's type, or one clear line."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from diwa_runtime.errors import ConfigError, nearest

Config = TypeVar("Config")

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")
NONE_WORDS = ("none", "null", "~")


def config_from(cls: type[Config], data: Mapping[str, Any], source: str) -> Config:
    """Build a `cls` from plain data, such as one part of a larger YAML file; errors name `source`.

    Raises:
        ConfigError: as `load_config`.
    """
    return build(cls, checked(cls, data, source), source=source)


def checked(cls: type, data: Any, source: str, prefix: str = "") -> dict[str, Any]:
    """Return `data` with every leaf converted to its field's type; nested dataclasses stay dicts."""
    if not isinstance(data, Mapping):
        where = f" '{prefix.rstrip('.')}'" if prefix else ""
        raise ConfigError(f"{source}:{where} must be a mapping of settings, not {_shown(data)}")
    fields = fields_of(cls)
    values = {}
    for key, value in data.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            raise ConfigError(f"{source}: unknown setting '{prefix}{key}'{nearest(name, fields)}")
        inner = dataclass_of(fields[name])
        if inner is not None and not (value is None and type(None) in choices_of(fields[name])):
            values[name] = checked(inner, value, source, f"{prefix}{name}.")
        else:
            values[name] = convert(value, fields[name], f"{source}: {prefix}{name}")
    return values


def build(
    cls: type[Config], values: Mapping[str, Any], default: Any = None, prefix: str = "", source: str = ""
) -> Config:
    """Make a `cls` of converted `values`, the rest from `default` or the fields' own defaults.

    Raises:
        ConfigError: a field has neither a value nor a default, or the class refuses its values; names `source`, or,
            without one, the flag.
    """
    annotations = fields_of(cls)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = field.name
        if name not in annotations:
            continue
        fallback = _default_of(field) if default is None else getattr(default, name)
        value = values.get(name, fallback)
        inner = dataclass_of(annotations[name])
        if inner is not None and isinstance(value, Mapping):
            nested_default = None if fallback is dataclasses.MISSING else fallback
            value = build(inner, value, nested_default, f"{prefix}{name}.", source)
        if value is dataclasses.MISSING and source:
            raise ConfigError(f"{source}: '{prefix}{name}' is missing")
        if value is dataclasses.MISSING:
            flag = f"--{prefix}{name}".replace("_", "-")
            raise ConfigError(f"setting '{prefix}{name}' is missing; give {flag} or set it in the --config file")
        arguments[name] = value
    try:
        return cls(**arguments)
    except ConfigError as error:
        if not source or str(error).startswith(source):
            raise
        raise ConfigError(f"{source}: {error}") from None


def _default_of(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def fields_of(cls: type) -> dict[str, Any]:
    """Return the type of each field that the dataclass `cls` can be made with."""
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one type."""
    union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if union else (annotation,)


def dataclass_of(annotation: Any) -> type | None:
    """Return the dataclass that the type is or may be; None where it is none."""
    return next((choice for choice in choices_of(annotation) if dataclasses.is_dataclass(choice)), None)  # type: ignore[return-value]


def is_mapping(annotation: Any) -> bool:
    """Say whether the type is a dict of any kind."""
    return annotation is dict or get_origin(annotation) is dict


def entry_type(annotation: Any) -> Any:
    """Return the type of a mapping's values; of what may be anything, any."""
    return get_args(annotation)[1] if get_args(annotation) else Any


class _WrongTypeError(Exception):
    """A value that is not of the expected type; the message says what was expected."""


def convert(value: Any, annotation: Any, where: str) -> Any:
    """Return `value`, a word of the command line or plain data, as its type has it.

    Raises:
        ConfigError: it is not of that type; names `where`, the value and what was expected.
    """
    try:
        return _converted(value, annotation, where)
    except _WrongTypeError as error:
        raise ConfigError(f"{where}: {_shown(value)} is not {error}") from None


def _shown(value: Any) -> str:
    """Return a value as Python writes it, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _converted(value: Any, annotation: Any, where: str) -> Any:
    choices = choices_of(annotation)
    if len(choices) > 1:
        return _converted_union(value, choices, where)
    origin = get_origin(annotation)
    if annotation is Any:
        return value
    if dataclasses.is_dataclass(annotation):
        return config_from(annotation, value, where)  # type: ignore[arg-type]
    if origin is Literal:
        return _converted_literal(value, get_args(annotation))
    if origin in (tuple, list):
        return _converted_sequence(value, origin, get_args(annotation), where)
    if is_mapping(annotation):
        return _converted_mapping(value, get_args(annotation) or (str, Any), where)
    if annotation not in _SCALARS:
        raise TypeError(f"{where}: settings of type {annotation} are not supported")
    return _SCALARS[annotation](value)


def _converted_union(value: Any, choices: tuple[Any, ...], where: str) -> Any:
    if type(None) in choices and (value is None or (isinstance(value, str) and value.lower() in NONE_WORDS)):
        return None
    expected = []
    # A str takes any word, so it is asked last.
    for choice in sorted((c for c in choices if c is not type(None)), key=lambda c: c is str):
        try:
            return _converted(value, choice, where)
        except _WrongTypeError as error:
            expected.append(str(error))
    raise _WrongTypeError(" or ".join([*expected, *(["none"] if type(None) in choices else [])]))


def _converted_literal(value: Any, options: tuple[Any, ...]) -> Any:
    for option in options:
        if (value == option and type(value) is type(option)) or (isinstance(value, str) and value == str(option)):
            return option
    words = [str(option) for option in options]
    raise _WrongTypeError(f"one of {', '.join(words)}{nearest(str(value), words)}")


def _converted_sequence(value: Any, kind: type, arguments: tuple[Any, ...], where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _WrongTypeError("a list")
    if kind is list or arguments[-1:] == (Ellipsis,):
        types_of = [arguments[0] if arguments else Any] * len(value)
    else:
        types_of = list(arguments)
    if len(types_of) != len(value):
        raise _WrongTypeError(f"a list of {len(types_of)}")
    items = [convert(item, t, f"{where}[{i}]") for i, (item, t) in enumerate(zip(value, types_of, strict=True))]
    return kind(items)


def _converted_mapping(value: Any, arguments: tuple[Any, ...], where: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _WrongTypeError("a mapping")
    key_type, value_type = arguments
    return {
        convert(key, key_type, f"{where}: key"): convert(item, value_type, f"{where}.{key}")
        for key, item in value.items()
    }


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in TRUE_WORDS + FALSE_WORDS:
        return value.lower() in TRUE_WORDS
    raise _WrongTypeError("true or false")


def _to_float(value: Any) -> float:
    # YAML 1.1 reads 1e-4 as a word, so words that are numbers count.
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isnan(number):
            return number
    raise _WrongTypeError("a number")


def _to_int(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    try:
        number = _to_float(value)
    except _WrongTypeError:
        raise _WrongTypeError("a whole number") from None
    if not number.is_integer():
        raise _WrongTypeError("a whole number")
    return int(number)


def _to_str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise _WrongTypeError("a text")


def _to_path(value: Any) -> Path:
    if isinstance(value, str | Path) and str(value) and "\0" not in str(value):
        return Path(value)
    raise _WrongTypeError("a path")


_SCALARS: dict[Any, Any] = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str, Path: _to_path}
