"""For how many imagined steps a world model still knows something: one number, and what it is limited by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike

CLEARLY = 0.8
"""An error is clearly smaller than another if it is at most this share of it."""
NEIGHBOURS = 2
"""Errors are averaged with those of so many steps before and after: a few dozen windows make an uneven curve."""
LASTING = 5
"""Steps on end that it takes to begin, and to end: luck in a few windows does neither."""
LEAST_WINDOWS = 10
"""With fewer windows in which a quantity moved nothing is said of it."""


def usable_steps(model: ArrayLike, *baselines: ArrayLike) -> int:
    """Return the step up to which a model is clearly better than the best of several baselines; 0: it never is.

    From where it is so for `LASTING` steps on end until it is not for as many. The first steps do not count against a
    model: while next to nothing has moved yet, the last frame cannot be beaten.

    Args:
        model: its error at steps 1 to H, at least `LASTING`, mean over the windows in which the quantity moved.
        baselines: those of repeating the last frame, of going on at its speed, and of always saying the mean. Without
            the mean whoever hedges wins: where only windows count in which something moved, it cannot be where it was.
    """
    baseline = np.min([_smoothed(errors) for errors in baselines], 0)
    ahead = (_smoothed(model) <= CLEARLY * baseline) & (baseline > 0)
    begins = np.flatnonzero(sliding_window_view(ahead, LASTING).all(1))
    if not len(begins):
        return 0
    ends = np.flatnonzero(sliding_window_view(~ahead, LASTING).all(1))
    end = next((end for end in ends if end > begins[0]), len(ahead))
    return int(np.flatnonzero(ahead[:end])[-1]) + 1


def usable_of_all(steps: Mapping[str, int | None], most: int) -> tuple[int, str | None] | None:
    """Return the fewest usable steps of any quantity, and of which; that is None where all have `most`.

    None where none is known.
    """
    known = {name: count for name, count in steps.items() if count is not None}
    if not known:
        return None
    name = min(known, key=known.__getitem__)
    return known[name], name if known[name] < most else None


def _smoothed(errors: ArrayLike) -> np.ndarray:
    values = np.asarray(errors, np.float64)
    window = np.ones(2 * NEIGHBOURS + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones_like(values), window, "same")
