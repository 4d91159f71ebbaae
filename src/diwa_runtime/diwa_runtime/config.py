"""Settings of a verb: a frozen dataclass, then a preset, then YAML files, then flags, each over the one before.

A setting that nobody declared is refused with the nearest name, and a value of the wrong type with what was expected:
validated once, here, so that no code below has to ask again.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from diwa_runtime.config_help import help_text
from diwa_runtime.errors import ConfigError, nearest

Config = TypeVar("Config")
Presets = Mapping[str, Mapping[str, Any]]

TRUE_WORDS = ("true", "yes", "on", "1")
FALSE_WORDS = ("false", "no", "off", "0")
NONE_WORDS = ("none", "null", "~")


def load_config(cls: type[Config], argv: Sequence[str], presets: Presets | None = None) -> Config:
    """Build a `cls` from its defaults, ``--preset NAME``, every ``--config FILE`` and the other flags of `argv`.

    Flags are spelled as the fields are, with ``-`` or ``_``, and reach nested dataclasses by dots:
    ``--learning-rate 1e-4 --ppo.clip 0.01 --hidden 256 256 --no-video``. A file may name a preset by its key
    ``preset``; the flag wins. ``--help`` prints every setting and ends the process.

    Raises:
        ConfigError: an unknown setting (gives the nearest), a value of the wrong type, a missing one, or a file that
            cannot be read.
    """
    presets = presets or {}
    arguments = _parse(cls, list(argv))
    if arguments.help:
        print(help_text(cls, presets))
        raise SystemExit(0)
    files = [(dict(_read_yaml(path)), str(path)) for path in arguments.files]
    preset = arguments.preset
    for data, source in files:
        if presets and "preset" in data:
            named = _convert(data.pop("preset"), str, f"{source}: preset")
            preset = preset or named
    layers = [_preset_layer(cls, preset, presets)] if preset else []
    layers += [_checked(cls, data, source) for data, source in files]
    layers += arguments.layers
    return _build(cls, _merged(layers))


def config_from(cls: type[Config], data: Mapping[str, Any], source: str) -> Config:
    """Build a `cls` from plain data, such as one part of a larger YAML file; errors name `source`.

    Raises:
        ConfigError: as `load_config`.
    """
    return _build(cls, _checked(cls, data, source))


def to_plain(config: Any) -> Any:
    """Turn a config into plain dicts, lists, numbers and strings."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def to_yaml(config: Any) -> str:
    """Return the resolved config as YAML; `load_config` with that file alone gives an equal config."""
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True)


# --- flags ------------------------------------------------------------------------------------------------------


@dataclass
class _Arguments:
    files: list[Path] = dataclasses.field(default_factory=list)
    preset: str | None = None
    help: bool = False
    layers: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def _parse(cls: type, argv: list[str]) -> _Arguments:
    arguments = _Arguments()
    position = 0
    while position < len(argv):
        flag, equals, inline = argv[position].partition("=")
        end = next((i for i in range(position + 1, len(argv)) if _is_flag(argv[i])), len(argv))
        values = [inline] if equals else argv[position + 1 : end]
        position = position + 1 if equals else end
        if flag in ("--help", "-h"):
            arguments.help = True
        elif not flag.startswith("--"):
            raise ConfigError(f"{flag!r} belongs to no flag; settings are given as --name value (see --help)")
        elif flag == "--config":
            arguments.files += [Path(value) for value in _at_least_one(flag, values)]
        elif flag == "--preset":
            arguments.preset = _exactly_one(flag, values)
        else:
            arguments.layers.append(_flag_layer(cls, flag, values))
    return arguments


def _is_flag(word: str) -> bool:
    return word.startswith("--") or word == "-h"


def _flag_layer(cls: type, flag: str, values: list[str]) -> dict[str, Any]:
    path = flag.removeprefix("--").replace("-", "_")
    leaves = dict(_leaves(cls))
    if path not in leaves and path.startswith("no_") and leaves.get(path.removeprefix("no_")) is bool and not values:
        return _nested(path.removeprefix("no_"), False)
    if path not in leaves:
        known = ["--config", "--preset", "--help", *(f"--{name.replace('_', '-')}" for name in leaves)]
        raise ConfigError(f"unknown flag {flag}{nearest(flag.replace('_', '-'), known)} (--help lists all)")
    if leaves[path] is bool and not values:
        return _nested(path, True)
    raw: Any = values if _takes_many(leaves[path]) else _exactly_one(flag, values)
    if isinstance(raw, list) and len(raw) == 1:
        raw = _split(raw[0])
    return _nested(path, _convert(raw, leaves[path], flag))


def _split(word: str) -> Any:
    """Split ``256,256`` and ``[256, 256]`` into words; leave ``none`` to the conversion."""
    if word.lower() in NONE_WORDS:
        return word
    return [part.strip() for part in word.strip("[]()").split(",") if part.strip()]


def _takes_many(annotation: Any) -> bool:
    return any(get_origin(choice) in (tuple, list) or choice in (tuple, list) for choice in _choices(annotation))


def _at_least_one(flag: str, values: list[str]) -> list[str]:
    if not values:
        raise ConfigError(f"{flag}: a value is missing")
    return values


def _exactly_one(flag: str, values: list[str]) -> str:
    if len(_at_least_one(flag, values)) > 1:
        raise ConfigError(f"{flag}: takes one value, not {len(values)} ({' '.join(values)})")
    return values[0]


def _nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def _leaves(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and type of each setting that a flag can reach."""
    for name, annotation in _fields(cls).items():
        inner = _dataclass_of(annotation)
        if inner is None:
            yield prefix + name, annotation
        else:
            yield from _leaves(inner, f"{prefix}{name}.")


# --- layers -----------------------------------------------------------------------------------------------------


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error rather than a surprise."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> Mapping[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if data is not None and not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of settings, not {type(data).__name__}")
    return data or {}


def _preset_layer(cls: type, name: str, presets: Presets) -> dict[str, Any]:
    if name not in presets:
        has = f"there are {', '.join(presets)}" if presets else "this verb has none"
        raise ConfigError(f"no preset {name!r}{nearest(name, presets)} ({has})")
    return _checked(cls, presets[name], f"preset {name}")


def _checked(cls: type, data: Any, source: str, prefix: str = "") -> dict[str, Any]:
    """Return `data` with every leaf converted to its field's type; nested dataclasses stay dicts."""
    if not isinstance(data, Mapping):
        where = f" '{prefix.rstrip('.')}'" if prefix else ""
        raise ConfigError(f"{source}:{where} must be a mapping of settings, not {data!r}")
    fields = _fields(cls)
    checked = {}
    for key, value in data.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            raise ConfigError(f"{source}: unknown setting '{prefix}{key}'{nearest(name, fields)}")
        inner = _dataclass_of(fields[name])
        if inner is not None and not (value is None and type(None) in _choices(fields[name])):
            checked[name] = _checked(inner, value, source, f"{prefix}{name}.")
        else:
            checked[name] = _convert(value, fields[name], f"{source}: {prefix}{name}")
    return checked


def _merged(layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            both = isinstance(value, dict) and isinstance(merged.get(name), dict)
            merged[name] = _merged([merged[name], value]) if both else value
    return merged


def _build(cls: type[Config], values: Mapping[str, Any], default: Any = None, prefix: str = "") -> Config:
    """Make a `cls` of converted `values`, the rest from `default` or the fields' own defaults."""
    types_of = _fields(cls)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = field.name
        inner = _dataclass_of(types_of[name])
        if not field.init:
            continue
        if default is not None:
            arguments[name] = getattr(default, name)
        elif field.default is not dataclasses.MISSING:
            arguments[name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            arguments[name] = field.default_factory()
        if name in values:
            nested = inner is not None and isinstance(values[name], Mapping)
            arguments[name] = (
                _build(inner, values[name], arguments.get(name), f"{prefix}{name}.")  # type: ignore[arg-type]
                if nested
                else values[name]
            )
        if name not in arguments:
            flag = f"--{prefix}{name}".replace("_", "-")
            raise ConfigError(f"setting '{prefix}{name}' is missing; give {flag} or set it in the --config file")
    return cls(**arguments)


# --- types ------------------------------------------------------------------------------------------------------


def _fields(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if f.init}


def _choices(annotation: Any) -> tuple[Any, ...]:
    union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if union else (annotation,)


def _dataclass_of(annotation: Any) -> type | None:
    return next((choice for choice in _choices(annotation) if dataclasses.is_dataclass(choice)), None)  # type: ignore[return-value]


class _WrongTypeError(Exception):
    """A value that is not of the expected type; the message says what was expected."""


def _convert(value: Any, annotation: Any, where: str) -> Any:
    try:
        return _converted(value, annotation, where)
    except _WrongTypeError as error:
        raise ConfigError(f"{where}: {value!r} is not {error}") from None


def _converted(value: Any, annotation: Any, where: str) -> Any:
    choices = _choices(annotation)
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
    if origin is dict or annotation is dict:
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
    items = [_convert(item, t, f"{where}[{i}]") for i, (item, t) in enumerate(zip(value, types_of, strict=True))]
    return kind(items)


def _converted_mapping(value: Any, arguments: tuple[Any, ...], where: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _WrongTypeError("a mapping")
    key_type, value_type = arguments
    return {
        _convert(key, key_type, f"{where}: key"): _convert(item, value_type, f"{where}.{key}")
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
        except ValueError:
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
    if isinstance(value, str | Path) and str(value):
        return Path(value)
    raise _WrongTypeError("a path")


_SCALARS: dict[Any, Any] = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str, Path: _to_path}
