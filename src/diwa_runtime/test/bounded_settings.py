"""For the tests of every package: its config dataclasses, and absurd numbers for each of their numeric settings."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

from diwa_runtime.config import config_from, to_plain
from diwa_runtime.config.values import choices_of, fields_of
from diwa_runtime.errors import ConfigError

ABSURD = (math.inf, -math.inf, math.nan, 1e30, -1e30)
"""No setting can be any of these."""
ODD = (-1, 0, 10**12, 10**400, 0.5)
"""Some settings can."""
GIVEN = {Path: Path("x"), str: "open_drawer", tuple[Path, ...]: (Path("x"),), tuple[str, ...]: ("open_drawer",)}


def config_classes(package: str) -> list[type]:
    """Import all of a package, and return its dataclasses of settings."""
    root = importlib.import_module(package)
    names = [found.name for found in pkgutil.walk_packages(root.__path__, f"{package}.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    classes = [
        one
        for module in modules
        for one in vars(module).values()
        if isinstance(one, type) and dataclasses.is_dataclass(one) and one.__module__ == module.__name__
    ]
    return [one for one in classes if one.__name__.endswith("Config")]


def numbers_of(cls: type) -> Iterator[tuple[str, bool]]:
    """Yield each numeric setting, and whether it is a list of numbers."""
    for name, annotation in fields_of(cls).items():
        for choice in choices_of(annotation):
            if choice in (int, float) or {int, float} & set(get_args(choice)):
                yield name, choice not in (int, float)


def check_every_number_is_bounded(cls: type, **given: Any) -> None:
    """See that absurd numbers are refused, and odd ones refused or taken, as plain data and as a dataclass alike."""
    annotations = fields_of(cls)
    required = {
        field.name: GIVEN[annotations[field.name]]
        for field in dataclasses.fields(cls)  # type: ignore[arg-type]
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    } | given
    cls(**required)
    for name, many in numbers_of(cls):
        for value in (*ABSURD, *ODD):
            setting = {name: (value,) if many else value}
            for make in (
                lambda s=setting: config_from(cls, {**to_plain(required), **to_plain(s)}, "a.yaml"),
                lambda s=setting: cls(**{**required, **s}),
            ):
                said = _refusal(make)
                assert "\n" not in said
                assert name in said or not said, (name, said)
                absurd = any(value is one or value == one for one in ABSURD)
                assert said or not absurd, f"{cls.__name__}.{name} = {value}"


def _refusal(make: Callable[[], object]) -> str:
    """Say why a config cannot be made; "" where it can."""
    try:
        make()
    except ConfigError as error:
        return str(error)
    return ""
