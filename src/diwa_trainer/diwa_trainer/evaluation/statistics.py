"""Is a policy better, or was it luck: intervals of a success rate and a paired test of two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def wilson_interval(successes: int, episodes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the interval of a success rate, in [0, 1], by Wilson's score (1927), which holds up near 0 and 1.

    Raises:
        ValueError: no episodes, more successes than episodes, or a confidence outside (0, 1).
    """
    if not 0 <= successes <= episodes or episodes == 0:
        raise ValueError(f"{successes} successes in {episodes} episodes")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, spread = successes / episodes, z * z / episodes
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(rate * (1 - rate) * spread + spread * spread / 4) / (1 + spread)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return (0.0 if successes == 0 else low), (1.0 if successes == episodes else high)


def mcnemar(before: Sequence[bool] | NDArray[np.bool_], after: Sequence[bool] | NDArray[np.bool_]) -> float:
    """Return the exact two-sided p that two policies, run from the same starts, are equally good (McNemar 1947).

    Only the episodes that one won and the other lost count: under the hypothesis each is a fair coin.

    Args:
        before: successes (N,) of the one policy.
        after: successes (N,) of the other from the same N starts, in the same order.

    Raises:
        ValueError: different lengths.
    """
    gained, lost = discordant(before, after)
    total, fewer = gained + lost, min(gained, lost)
    ways = tail = 1  # of none of `total`, then of one, ...; each from the one before, for large numbers are slow
    for k in range(fewer):
        ways = ways * (total - k) // (k + 1)
        tail += ways
    return min(1.0, 2 * tail / 2**total)


def discordant(
    before: Sequence[bool] | NDArray[np.bool_], after: Sequence[bool] | NDArray[np.bool_]
) -> tuple[int, int]:
    """Return how many starts `after` won that `before` lost, and the other way round.

    Raises:
        ValueError: different lengths.
    """
    before, after = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    if before.shape != after.shape or before.ndim != 1:
        raise ValueError(f"paired results have shapes {before.shape} and {after.shape}")
    return int((after & ~before).sum()), int((before & ~after).sum())
