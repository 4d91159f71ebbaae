"""Which streams live: ages and rates by the time of receipt, for a sender's clock proves nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.rows.streams import NANOSECONDS


class StreamWatch:
    """Notes when each topic brought something."""

    def __init__(self, topics: Iterable[str]) -> None:
        self._heard: dict[str, int | None] = dict.fromkeys(topics)
        self._counts = dict.fromkeys(self._heard, 0)
        self._counted_from: int | None = None

    def note(self, topic: str, now_ns: int) -> None:
        """Say that a message of `topic` was received now."""
        self._heard[topic] = now_ns
        self._counts[topic] += 1

    def age_s(self, topic: str, now_ns: int) -> float:
        """How long ago the topic brought something, s; infinite if it never did."""
        heard = self._heard[topic]
        return float("inf") if heard is None else (now_ns - heard) / NANOSECONDS

    def silent(self, now_ns: int, longer_than_s: float) -> list[str]:
        """Say of each topic that is silent for longer than that for how long it is: ``"robot/state for 0.31 s"``."""
        ages = {topic: self.age_s(topic, now_ns) for topic in self._heard}
        return [
            f"{topic} {'has never come' if age == float('inf') else f'silent for {age:.2f} s'}"
            for topic, age in ages.items()
            if age > longer_than_s
        ]

    def rates_hz(self, now_ns: int) -> dict[str, float]:
        """Return each topic's rate since the last call, Hz."""
        since, self._counted_from = self._counted_from, now_ns
        counts, self._counts = self._counts, dict.fromkeys(self._heard, 0)
        if since is None or now_ns <= since:
            return dict.fromkeys(self._heard, float("nan"))
        return {topic: count * NANOSECONDS / (now_ns - since) for topic, count in counts.items()}


class StampRate:
    """How often a sender stamps: its rate by its own clock, which a busy machine here does not change."""

    def __init__(self, kept: int = 30, needed: int = 10) -> None:
        """Judge by the last `kept` intervals, once there are `needed`."""
        self._intervals: deque[int] = deque(maxlen=kept)
        self._needed = needed
        self._last_ns: int | None = None

    def note(self, stamp_ns: int) -> None:
        """Take a stamp; one that repeats the last says nothing, after one that goes back all begins anew."""
        if self._last_ns is not None and stamp_ns < self._last_ns:
            self._intervals.clear()
        elif self._last_ns is not None and stamp_ns > self._last_ns:
            self._intervals.append(stamp_ns - self._last_ns)
        self._last_ns = stamp_ns

    @property
    def rate_hz(self) -> float | None:
        """The rate by the median interval, which single gaps do not move; None: not known yet."""
        if len(self._intervals) < self._needed:
            return None
        return NANOSECONDS / float(np.median(self._intervals))


@dataclass
class _Picture:
    """The newest picture of a camera, when it first came and where the arm was then."""

    data: bytes
    since_ns: int
    position: NDArray[np.floating] | None


class StuckCameras:
    """Finds a camera that sends one and the same picture while the arm moves.

    A real picture differs from the last one in its noise alone; a rendered one does as soon as the arm moves.
    """

    def __init__(self, after_s: float, moved_m: float) -> None:
        """Call a camera stuck after `after_s` of one picture while the TCP moved by `moved_m`."""
        self._after_ns, self._moved_m = round(after_s * NANOSECONDS), moved_m
        self.reset()

    def reset(self) -> None:
        """Forget all pictures, as before an episode."""
        self._pictures: dict[str, _Picture] = {}
        self._position: NDArray[np.floating] | None = None

    def moved_to(self, position: NDArray[np.floating]) -> None:
        """Say where the TCP is (3,), m."""
        self._position = position

    def objection(self, topic: str, message: Any, now_ns: int) -> str | None:
        """Take a picture; say if the camera is stuck."""
        data, last = bytes(message.data), self._pictures.get(topic)
        if last is None or last.data != data or last.position is None or self._position is None:
            self._pictures[topic] = _Picture(data, now_ns, self._position)
            return None
        moved = float(np.linalg.norm(self._position - last.position))
        if now_ns - last.since_ns < self._after_ns or moved < self._moved_m:
            return None
        seconds = (now_ns - last.since_ns) / NANOSECONDS
        return f"{topic} shows one and the same picture for {seconds:.1f} s while the arm moved {100 * moved:.0f} cm"
