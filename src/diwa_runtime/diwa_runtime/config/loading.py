"""Settings of a verb: a frozen dataclass, then a preset, then YAML files, then flags, each over the one before.

A setting that nobody declared is refused with the nearest name, and a value of the wrong type with what was expected:
validated once, here, so that no code below has to ask again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from diwa_runtime.config.help import help_text
from diwa_runtime.config.values import (
    NONE_WORDS,
    Config,
    build,
    checked,
    choices_of,
    config_from,
    convert,
    dataclass_of,
    entry_type,
    fields_of,
    is_mapping,
)
from diwa_runtime.config.yaml_file import parse_yaml, read_yaml
from diwa_runtime.errors import ConfigError, nearest, one_line
from diwa_runtime.reading import reason_of

__all__ = ["config_from", "load_config", "to_plain", "to_yaml"]

Presets = Mapping[str, Mapping[str, Any]]


def load_config(
    cls: type[Config],
    argv: Sequence[str],
    presets: Presets | None = None,
    over: Mapping[str, Any] | None = None,
    over_source: str = "settings",
) -> Config:
    """Build a `cls` from its defaults, ``--preset NAME``, every ``--config FILE`` and the other flags of `argv`.

    Flags are spelled as the fields are, with ``-`` or ``_``, and reach nested dataclasses by dots:
    ``--learning-rate 1e-4 --ppo.clip 0.01 --hidden 256 256 --no-video``. So do they reach the entries of a mapping,
    ``--environment-kwargs.start far``, where a value of any type is read as YAML. A file may name a preset by its key
    ``preset``; the flag wins. ``--help`` prints every setting and ends the process.

    Args:
        cls: the settings' dataclass.
        argv: the flags.
        presets: plain data by name.
        over: plain data over all of these, by dotted name: ``{"ppo.clip": 0.01}``.
        over_source: of `over`, as an error is to name it.

    Raises:
        ConfigError: an unknown setting (gives the nearest), a value of the wrong type, a missing one, or a file that
            cannot be read.
    """
    presets = presets or {}
    arguments = _parse(cls, list(argv))
    if arguments.help:
        print(help_text(cls, presets))
        raise SystemExit(0)
    files = [(dict(_read_settings(path)), str(path)) for path in arguments.files]
    preset = arguments.preset
    for data, source in files:
        if presets and "preset" in data:
            named = convert(data.pop("preset"), str, f"{source}: preset")
            preset = preset or named
    layers = [_preset_layer(cls, preset, presets)] if preset else []
    layers += [checked(cls, data, source) for data, source in files]
    layers += arguments.layers
    layers += [checked(cls, _nested(name, value), over_source) for name, value in (over or {}).items()]
    return build(cls, _merged(layers))


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
    annotation = leaves[path] if path in leaves else _entry_of(path, leaves)
    if annotation is None:
        known = ["--config", "--preset", "--help", *(f"--{name.replace('_', '-')}" for name in leaves)]
        raise ConfigError(f"unknown flag {flag}{nearest(flag.replace('_', '-'), known)} (--help lists all)")
    if annotation is bool and not values:
        return _nested(path, True)
    if is_mapping(annotation):
        raise ConfigError(f"{flag}: is set entry by entry, as in {flag}.NAME VALUE")
    if annotation is Any:
        return _nested(path, _any_value(flag, _exactly_one(flag, values)))
    raw: Any = values if _takes_many(annotation) else _exactly_one(flag, values)
    if isinstance(raw, list) and len(raw) == 1 and not _holds_paths(annotation):
        raw = _split(raw[0])
    return _nested(path, convert(raw, annotation, flag))


def _entry_of(path: str, leaves: Mapping[str, Any]) -> Any:
    """Return the type of the entry of a mapping, at any depth, that a dotted path names; None: it names none."""
    setting = next((name for name in leaves if path.startswith(f"{name}.") and is_mapping(leaves[name])), None)
    names = path.removeprefix(f"{setting}.").split(".")
    if setting is None or "" in names:
        return None
    annotation = leaves[setting]
    for _ in names:
        if annotation is not Any and not is_mapping(annotation):
            return None
        annotation = entry_type(annotation)
    return annotation


def _any_value(flag: str, word: str) -> Any:
    """Read what may be of any type as a file would."""
    try:
        return parse_yaml(word)
    except ValueError as error:
        raise ConfigError(f"{flag}: not YAML ({one_line(error)})") from None


def _split(word: str) -> Any:
    """Split ``256,256`` and ``[256, 256]`` into words; leave ``none`` to the conversion."""
    if word.lower() in NONE_WORDS:
        return word
    return [part.strip() for part in word.strip("[]()").split(",") if part.strip()]


def _takes_many(annotation: Any) -> bool:
    return any(get_origin(choice) in (tuple, list) or choice in (tuple, list) for choice in choices_of(annotation))


def _holds_paths(annotation: Any) -> bool:
    """Whether it is a list of paths, whose names may have any brackets and commas."""
    return any(Path in get_args(choice) for choice in choices_of(annotation))


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
    for name, annotation in fields_of(cls).items():
        inner = dataclass_of(annotation)
        if inner is None:
            yield prefix + name, annotation
        else:
            yield from _leaves(inner, f"{prefix}{name}.")


# --- layers -----------------------------------------------------------------------------------------------------


def _read_settings(path: Path) -> Mapping[str, Any]:
    try:
        data = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({reason_of(error)})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not YAML ({one_line(error)})") from None
    if data is not None and not isinstance(data, dict):
        raise ConfigError(f"{path}: must be a mapping of settings, not {type(data).__name__}")
    return data or {}


def _preset_layer(cls: type, name: str, presets: Presets) -> dict[str, Any]:
    if name not in presets:
        has = f"there are {', '.join(presets)}" if presets else "this verb has none"
        raise ConfigError(f"no preset {name!r}{nearest(name, presets)} ({has})")
    return checked(cls, presets[name], f"preset {name}")


def _merged(layers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in layer.items():
            both = isinstance(value, dict) and isinstance(merged.get(name), dict)
            merged[name] = _merged([merged[name], value]) if both else value
    return merged
