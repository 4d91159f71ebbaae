"""Whether an episode is of a recording that is in the dataset already, whatever its file looks like.

A bag that was packed anew, recovered, cut off, or recorded beside another one has other bytes and the same messages.
An episode is of another bag's recording where, at the stamps that both have, the reference stream's values are the same
too. Simulated bags may share stamps, and no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

LEAST_SHARED = 2
"""Recordings that were cut apart may share the message at the cut."""


@dataclass
class _Bag:
    """The rows of one bag, an episode each: stamps (n,) in order, and proprio (n, p) float32."""

    episodes: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = field(default_factory=list)
    first: int = 0
    last: int = 0


class KnownRows:
    """The rows that a dataset holds so far, by bag."""

    def __init__(self) -> None:
        self._bags: dict[str, _Bag] = {}

    def add(self, bag: str, stamps: NDArray[np.int64], proprio: NDArray[np.float32]) -> None:
        """Add the rows of one episode: stamps (n,) ns and proprio (n, p) float32."""
        known = self._bags.setdefault(bag, _Bag(first=int(stamps[0])))
        known.episodes.append((stamps, proprio))
        known.first, known.last = min(known.first, int(stamps[0])), max(known.last, int(stamps[-1]))

    def same_as(self, bag: str, stamps: Sequence[int] | NDArray[np.int64], values: NDArray[np.float32]) -> str | None:
        """Return which other bag is of the same recording as these messages of a bag, or rows; None: none is.

        Args:
            bag: that they are of.
            stamps: (n,) ns, in order.
            values: (n, k) float32: of proprio, what the reference stream gives, with which it begins.
        """
        times = np.asarray(stamps, np.int64)
        for name, known in self._bags.items():
            if name != bag and len(times) and times[0] <= known.last and known.first <= times[-1]:
                shared, same = np.sum([_shared(times, values, *rows) for rows in known.episodes], axis=0)
                if same >= LEAST_SHARED and 2 * same > shared:
                    return name
        return None


def _shared(
    times: NDArray[np.int64],
    values: NDArray[np.float32],
    known_times: NDArray[np.int64],
    known_values: NDArray[np.float32],
) -> tuple[int, int]:
    """Return how many stamps of an episode are known, and at how many of them its values are too."""
    if times[0] > known_times[-1] or known_times[0] > times[-1]:
        return 0, 0
    at = np.minimum(np.searchsorted(known_times, times), len(known_times) - 1)
    width = min(values.shape[1], known_values.shape[1])
    is_shared = known_times[at] == times
    is_same = is_shared & (known_values[at, :width] == values[:, :width]).all(axis=1)
    return int(is_shared.sum()), int(is_same.sum())
