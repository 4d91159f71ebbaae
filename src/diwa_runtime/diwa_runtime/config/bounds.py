"""What a number of the settings may be: within bounds, and a number at all.

Every number has two bounds: one that is absurd would end in a traceback, in a hang, or in a machine without memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from diwa_runtime.errors import ConfigError

COUNTS = (1, 10**9)
"""Of updates, rows, steps: what is only counted, and held one at a time."""
BATCHES = (1, 1 << 16)
"""Of what is held in memory at the same time: rows of a batch, imagined episodes, draws."""
WORKERS = (1, 256)
"""Of threads and processes."""
WIDTHS = (1, 4096)
"""Of a network's layers."""
RATES = (0.0, 100.0)
"""Of learning rates, and of shares of them."""
WEIGHTS = (0.0, 1e6)
"""Of terms of a loss."""
PIXELS = (1, 2048)
"""Of an image's sides."""


def check_bounds(config: Any, **bounds: tuple[float, float | None]) -> None:
    """Refuse a number outside of its bounds: ``check_bounds(self, batch=(1, 4096), validation=(0, 0.9))``.

    Of a setting that is a list each number is looked at. A setting that is None has no bounds.

    Raises:
        ConfigError: names the setting, its value and the bound; what is no number is outside of all bounds.
    """
    for name, (least, most) in bounds.items():
        for value in _numbers(config, name):
            if value != value:
                raise ConfigError(f"{name} is {value}, must be at least {_said(least)} and a number")
            if value < least:
                raise ConfigError(f"{name} is {_said(value)}, must be at least {_said(least)}")
            if value > (math.inf if most is None else most):
                raise ConfigError(f"{name} is {_said(value)}, must be at most {_said(most)}")


def check_between(config: Any, **bounds: tuple[float, float]) -> None:
    """Refuse a number that does not lie strictly between its bounds: ``check_between(self, threshold=(0, 1))``.

    A setting that is None has no bounds.

    Raises:
        ConfigError: names the setting, its value and the bounds.
    """
    for name, (low, high) in bounds.items():
        for value in _numbers(config, name):
            if not low < value < high:
                raise ConfigError(f"{name} is {_said(value)}, must be above {low} and below {high}")


def check_together(config: Any, most: int, what: str, *names: str) -> None:
    """Refuse numbers that are well by themselves and too many together: ``batch`` windows of ``length`` rows.

    Raises:
        ConfigError: names the settings, `what` they make, and how many there may be.
    """
    count = math.prod(getattr(config, name) for name in names)
    if count > most:
        raise ConfigError(
            f"{' x '.join(names)} are {count:,} {what}, must be at most {most:,}: they are held in memory"
        )


def _numbers(config: Any, name: str) -> Sequence[float]:
    """Return the numbers that a setting has: none where it is None."""
    value = getattr(config, name)
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


def _said(number: float | None) -> str:
    text = str(number)
    return text if len(text) <= 24 else f"{text[:21]}..."
