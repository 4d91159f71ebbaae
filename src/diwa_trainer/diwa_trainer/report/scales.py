"""Axes of charts: what is labelled how, where a value lies, which ticks there are, and how a number is written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis.

    Attributes:
        label: with its unit.
        low: smallest value shown; None leaves it to the data.
        high: largest value shown; None leaves it to the data.
        log: logarithmic, where all data are positive.
        percent: values are shares, shown as percent.
    """

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    percent: bool = False


@dataclass(frozen=True)
class Scale:
    """An axis fitted to its data: where a value lies between 0 and 1, and which ticks there are."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def shows(self, value: float) -> bool:
        """Whether the value lies within the axis."""
        return math.isfinite(value) and self.low <= value <= self.high

    def place(self, value: float) -> float:
        """Return the position of a value, 0 at `low` and 1 at `high`; values outside are moved to the edge."""
        if self.log:
            span = math.log(self.high / self.low)
            share = math.log(max(value, self.low) / self.low) / span
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share))

    def value(self, share: float) -> float:
        """Return the value at a position: what `place` undoes."""
        if self.log:
            return self.low * (self.high / self.low) ** share
        return self.low + (self.high - self.low) * share


_FINEST = 1e-14
"""Shares and values below are the noise of sums."""


def fit_scale(axis: Axis, values: Sequence[float]) -> Scale:
    """Choose limits and ticks so that all finite values fit."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    log = axis.log and min(finite) > 0 and math.isfinite(max(finite) / min(finite))
    low = min(finite) if axis.low is None else axis.low
    high = max(finite) if axis.high is None else axis.high
    if log:
        return _log_scale(low, high)
    if high - low <= _FINEST * max(abs(low), abs(high), _FINEST):
        half = (abs(low) if abs(low) > _FINEST else 1) / 2
        low, high = low - half, low + half
    step = _nice_step((high - low) / 4)
    first = math.floor(low / step + 1e-9) if axis.low is None else math.ceil(low / step - 1e-9)
    last = math.ceil(high / step - 1e-9) if axis.high is None else math.floor(high / step + 1e-9)
    ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
    return Scale(min(low, ticks[0]), max(high, ticks[-1]), False, ticks)


def _log_scale(low: float, high: float) -> Scale:
    """Ticks at powers of ten, with 2 and 5 between them where the range is short."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    every = max(1, (last - first) // 5)
    inside = [10.0**power * factor for power in range(first, last + 1, every) for factor in factors]
    # Half a tick of air instead of a whole decade of it.
    bottom = max([tick for tick in inside if tick <= low * 1.0001], default=low)
    top = min([tick for tick in inside if tick >= high * 0.9999], default=high)
    if top <= bottom:
        bottom, top = bottom / 2, bottom * 2
    # A value a hair beyond a tick is shown too.
    return Scale(min(bottom, low), max(top, high), True, tuple(tick for tick in inside if bottom <= tick <= top))


def _nice_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(nice for nice in (1, 2, 2.5, 5, 10) if rough <= nice * power * 1.0001)


def number(value: float, percent: bool = False) -> str:
    """Write a number as short as it can be read: ``1.2k``, ``0.05``, ``3e-6``, ``40 %``."""
    if percent:
        return f"{100 * value:.3g} %"
    if value == 0:
        return "0"
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / {'G': 1e9, 'M': 1e6, 'k': 1e3}[suffix]:.3g}{suffix}"
    if abs(value) < 1e-3:
        mantissa, power = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(power)}"
    return f"{value:.4g}"


def percent(value: float | None) -> str:
    """Write a share as whole percent, ``40 %``; where there is none, a dash."""
    return "–" if value is None else f"{100 * value:.0f} %"
