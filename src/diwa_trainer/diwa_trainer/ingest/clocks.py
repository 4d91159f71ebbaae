"""Whether the clocks that stamped a bag's streams agree, by when their messages were received."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.rows.streams import NANOSECONDS
from diwa_trainer.ingest.stream_data import StreamData

LEAST_MESSAGES = 10
REAL_TIME = (0.8, 1.25)
"""Seconds of receipt in a second of the sensor's clock; a bag outside of it was not recorded live, and says nothing."""


def clocks_apart(streams: Sequence[StreamData]) -> Iterator[tuple[str, str, float]]:
    """Yield (topic, the reference's topic, s ahead of it) of each topic whose clock is off by more than `max_age_s`.

    How far a clock is ahead is the median of stamp minus time of receipt, while both topics were recorded. The
    reference is the first stream that goes by a sensor's clock.
    """
    by_topic = {data.stream.topic: data for data in reversed(streams) if data.stream.timeline == "sensor"}
    clocks = {topic: _Clock(data) for topic, data in by_topic.items()}
    reference = next((clocks[data.stream.topic] for data in streams if data.stream.topic in clocks), None)
    if reference is None or not reference.is_live:
        return
    for topic, clock in clocks.items():
        start = max(clock.receipts[0], reference.receipts[0])
        end = min(clock.receipts[-1], reference.receipts[-1])
        ahead, of_reference = clock.ahead(start, end), reference.ahead(start, end)
        if ahead is None or of_reference is None or not clock.is_live:
            continue
        if abs(ahead - of_reference) > by_topic[topic].stream.max_age_s * NANOSECONDS:
            yield topic, reference.topic, (ahead - of_reference) / NANOSECONDS


class _Clock:
    """A topic's stamps and times of receipt, ns, in order of receipt."""

    def __init__(self, data: StreamData) -> None:
        receipts, stamps = data.column("receipt"), data.column("stamp")
        order = np.argsort(receipts, kind="stable")
        self.topic, self.receipts, self._stamps = data.stream.topic, receipts[order], stamps[order]

    @property
    def is_live(self) -> bool:
        """Whether receipt went on as fast as the stamps did."""
        stamps, receipts = (np.quantile(times, (0.1, 0.9)) for times in (self._stamps, self.receipts))
        passed = float(stamps[1] - stamps[0])
        return passed > 0 and REAL_TIME[0] <= float(receipts[1] - receipts[0]) / passed <= REAL_TIME[1]

    def ahead(self, start: int, end: int) -> float | None:
        """Return by how much stamps are ahead of receipt between two times of receipt, ns; None: too few to say."""
        within: NDArray[np.bool_] = (self.receipts >= start) & (self.receipts <= end)
        if within.sum() < LEAST_MESSAGES:
            return None
        return float(np.median(self._stamps[within] - self.receipts[within]))
