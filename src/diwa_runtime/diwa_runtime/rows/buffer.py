"""The messages of one stream, as the assembler asks for them."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORGET_AFTER = 256


@dataclass
class Buffer:
    """The messages of one stream in order of time; those no longer needed are forgotten."""

    stamps: list[int] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    received: list[int] = field(default_factory=list)

    def append(self, stamp: int, value: Any, received: int) -> None:
        self.stamps.append(stamp)
        self.values.append(value)
        self.received.append(received)

    def take_back(self, stamp: int) -> None:
        """Remove the last message, if it is the one of this stamp."""
        if self.stamps and self.stamps[-1] == stamp:
            del self.stamps[-1], self.values[-1], self.received[-1]

    def nearest(self, stamp: int, max_age: float) -> int | None:
        """Return which is nearest to `stamp`, the earlier of two as near; None where none is within `max_age` ns."""
        after = bisect_right(self.stamps, stamp)
        candidates = [index for index in (after - 1, after) if 0 <= index < len(self.stamps)]
        index = min(candidates, key=lambda i: abs(self.stamps[i] - stamp), default=None)
        return None if index is None or abs(self.stamps[index] - stamp) > max_age else index

    def held(self, stamp: int, max_age: float) -> int | None:
        """Return which is the last at or before `stamp`; None where it is older than `max_age` ns."""
        index = bisect_right(self.stamps, stamp) - 1
        return None if index < 0 or stamp - self.stamps[index] > max_age else index

    def first_until(self, stamp: int) -> int | None:
        """Return the first if it is at or before `stamp`; None where there is none."""
        return 0 if self.stamps and self.stamps[0] <= stamp else None

    def received_for(self, index: int, stamp: int) -> int:
        """Return when it came, or would have come with `stamp`: one that is older by its stamp came as much earlier."""
        return self.received[index] + max(0, stamp - self.stamps[index])

    def last_until(self, stamp: int) -> Any:
        """Return the last value at or before `stamp`, however old, or else the first; there must be one."""
        return self.values[max(0, bisect_right(self.stamps, stamp) - 1)]

    def sum_between(self, after: int, until: int) -> NDArray[np.float64]:
        """Return the sum of the values with `after` < stamp <= `until`."""
        start, end = bisect_right(self.stamps, after), bisect_right(self.stamps, until)
        return sum(self.values[start:end], start=np.zeros_like(self.values[0]))

    def interval(self) -> float:
        """Return the mean time between two messages, ns; 0 where there are not two."""
        return (self.stamps[-1] - self.stamps[0]) / max(1, len(self.stamps) - 1) if self.stamps else 0.0

    def forget_before(self, stamp: int) -> None:
        """Drop what no row at or after `stamp` can ask for."""
        index = bisect_right(self.stamps, stamp) - 1
        if index > FORGET_AFTER:
            del self.stamps[:index], self.values[:index], self.received[:index]
