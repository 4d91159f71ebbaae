"""Whether the hand goes where it is told: something that is in the way shows in nothing else that is observed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import motion_of
from diwa_runtime.rows.row import Row
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_runtime.spec import Spec

LEAST_ASKED_M, LEAST_ASKED = 0.02, 0.1
"""Motion is asked for where it is so far in all, m, and in the mean this share of the largest motion that the robot has
accepted between two rows. An arm at a tenth of its speed accepts a fifth of an action's scale at most."""


@dataclass(frozen=True)
class _Point:
    """Where the TCP was (3,) m, and the sum of what was asked for until then (3,) m."""

    stamp_ns: int
    position: NDArray[np.float64]
    asked: NDArray[np.float64]


class HandWatch:
    """Compares what the robot accepted with how far its hand went, over the newest `blocked_s`.

    Asked for is the sum of the accepted translations, so that a hand told to and fro asks for nothing; how far it went
    is the furthest that it was from where it began, in any direction: one that slides along something is not blocked.
    """

    def __init__(self, spec: Spec, blocked_s: float, blocked_share: float) -> None:
        """Call a hand blocked that went less than a share of what was asked for, over so long; 0 s: never.

        Two rows are the least that can be compared, whatever `blocked_s` says.
        """
        self._scale, self._share = spec.action_scale, blocked_share
        self._after_ns, self._on = round(blocked_s * NANOSECONDS), blocked_s > 0
        self._period_ns = NANOSECONDS / spec.rate_hz
        self._points: deque[_Point] = deque()
        self._largest_m = 0.0

    def objection(self, row: Row) -> str | None:
        """Take a row, with what was accepted since the one before; say if the hand no longer follows."""
        before = self._points[-1].asked if self._points else np.zeros(3)
        asked = motion_of(row.executed, self._scale)[:3] if self._points else before
        now_m = min(float(np.linalg.norm(asked)), self._scale.translation_m) if self._points else 0.0
        self._largest_m = max(self._largest_m, now_m)
        self._points.append(_Point(row.stamp, np.array(row.values["proprio"][:3], np.float64), before + asked))
        after_ns = self._after_ns - self._period_ns / 2  # to the nearest control tick
        while len(self._points) > 2 and row.stamp - self._points[1].stamp_ns >= after_ns:
            self._points.popleft()
        if not self._on or row.stamp - self._points[0].stamp_ns < after_ns:
            return None
        return self._say()

    def _say(self) -> str | None:
        first, last = self._points[0], self._points[-1]
        way, seconds = last.asked - first.asked, (last.stamp_ns - first.stamp_ns) / NANOSECONDS
        asked_m = float(np.linalg.norm(way))
        moved_m = max(float(np.linalg.norm(point.position - first.position)) for point in self._points)
        ticks = (last.stamp_ns - first.stamp_ns) / self._period_ns
        least_m = max(LEAST_ASKED * self._largest_m * ticks, LEAST_ASKED_M)
        if asked_m < least_m or moved_m >= self._share * asked_m:
            return None
        axis = int(np.argmax(np.abs(way)))
        return (
            f"the hand no longer follows: in {seconds:.1f} s it was to go {100 * asked_m:.1f} cm, mostly along "
            f"{'-' if way[axis] < 0 else '+'}{'xyz'[axis]} of its base, and went {100 * moved_m:.1f}; clear its way, "
            "or set blocked_s and blocked_share if it is to push for so long"
        )
