"""The messages of one stream of a bag, and their order."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.rows.order import StampOrder, Verdict
from diwa_runtime.stream_spec import StreamSpec

MANY_STEPS_BACK = 0.05
"""A share of all messages; a clock that is set goes back more seldom."""

LEAST_TO_COMPARE, FAR = 4, 3
"""Messages that a first or last one is compared with, and how many usual steps away it is far."""

UNSENT = -1
"""In place of the stamp of a message that has none."""


class About(NamedTuple):
    """What is known of a message besides its values: times in ns, and which of its topic's messages it is.

    Attributes:
        stamp: on its stream's timeline.
        sent: by the sensor's clock; UNSENT where it does not say.
        receipt: when it was received.
    """

    stamp: int
    sent: int
    receipt: int
    number: int


@dataclass
class StreamData:
    """One stream of a bag, in order of time.

    Attributes:
        abouts: one for each message.
        values: one each; a frame's value is its number in the bag.
        stamps: one each, ns; once all are there and in order.
    """

    stream: StreamSpec
    abouts: list[About] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)

    def put_in_order(self, max_gap: int) -> list[tuple[int, Verdict]]:
        """Keep the messages that stand in their place in time; return the numbers of the others, and what they are.

        Args:
            max_gap: the longest time between two messages that rows bridge, ns.

        Raises:
            InputError: the clock went back.
        """
        wrong: list[tuple[int, Verdict]] = []
        if not (np.diff(self.column("stamp")) > 0).all():
            self._keep(_judged(self, max_gap, wrong))
        self._keep(_without_wrong_ends(self, max_gap, wrong))
        self.stamps = [about.stamp for about in self.abouts]
        return wrong

    def _keep(self, places: Sequence[int]) -> None:
        """Keep what stands at these places, in their order."""
        if places != range(len(self.abouts)):
            self.abouts = [self.abouts[place] for place in places]
            self.values = [self.values[place] for place in places]

    def column(self, name: str) -> NDArray[np.int64]:
        """Return a field of all abouts (n,)."""
        at = About._fields.index(name)
        return np.fromiter((about[at] for about in self.abouts), np.int64, len(self.abouts))

    def between(self, start: int, end: int) -> tuple[list[int], list[Any]]:
        """Return stamps and values with `start` <= stamp <= `end`."""
        at = slice(bisect_left(self.stamps, start), bisect_right(self.stamps, end))
        return self.stamps[at], self.values[at]


def _judged(data: StreamData, max_gap: int, wrong: list[tuple[int, Verdict]]) -> list[int]:
    """Return the places of the messages that the assembler's rule keeps, in order of time; the others go to `wrong`."""
    order, kept = StampOrder(data.stream.topic, max_gap), list[int]()
    for place in _best_order(data, max_gap):
        verdict, withdrawn = order.judge(data.abouts[place].stamp)
        if withdrawn is not None:
            wrong.append((data.abouts[kept.pop()].number, Verdict.ALONE))
        if verdict is Verdict.KEPT:
            kept.append(place)
        else:
            wrong.append((data.abouts[place].number, verdict))
    return kept


def _without_wrong_ends(data: StreamData, max_gap: int, wrong: list[tuple[int, Verdict]]) -> Sequence[int]:
    """Return the places of all messages, without a first or last one that is far away by its stamp alone.

    By its time of receipt, or where it lies in the file, it belongs beside its neighbours: there is nothing before the
    first and nothing after the last one that could show it to be wrong.
    """
    steps, places = np.diff(data.column("stamp")), range(len(data.abouts))
    if len(places) < LEAST_TO_COMPARE or max(steps[0], steps[-1]) <= max_gap:
        return places
    passed, numbers = np.diff(data.column("receipt")), data.column("number")
    far = max(max_gap, FAR * float(np.median(steps)))
    is_live = np.median(passed) > 0 and 0.5 < np.median(steps) / np.median(passed) < 2
    for end, place, outermost in ((0, 0, numbers.min()), (-1, places[-1], numbers.max())):
        is_near = is_live and passed[end] < steps[end] / 2
        if steps[end] > far and (is_near or numbers[place] != outermost):
            wrong.append((int(numbers[place]), Verdict.ALONE))
            places = places[1:] if end == 0 else places[:-1]
    return places


def _best_order(data: StreamData, max_gap: int) -> list[int]:
    """Return the order in which to take messages: as they lie in the file, or by time of receipt.

    The records of an MCAP file may lie in any order, and its readers sort them by time of receipt. But recorders write
    them in that order: where the sensor's clock goes back less often as they lie, the times of receipt are wrong.
    """
    sent, by_receipt = data.column("sent"), np.argsort(data.column("receipt"), kind="stable")
    back, back_by_receipt = (int((np.diff(times) < 0).sum()) for times in (sent, sent[by_receipt]))
    is_better = back_by_receipt < back or (back_by_receipt == back and data.stream.timeline == "receipt")
    stamps = data.column("stamp")
    if is_better and not _clock_went_back(stamps, stamps[by_receipt], max_gap):
        return by_receipt.tolist()
    return list(range(len(sent)))


def _clock_went_back(as_they_lie: NDArray[np.int64], in_order: NDArray[np.int64], max_gap: int) -> bool:
    """Say whether it was the clock that went back, and not the records that lie in another order.

    Then there are few steps back, and putting all in order does not join what was apart: what comes after the step lies
    between the messages before it, or far from them.
    """
    steps, ordered = np.diff(as_they_lie), np.diff(in_order)
    forward, back = steps[steps > 0], int((steps < 0).sum())
    if back > max(MANY_STEPS_BACK * len(steps), 2) or not len(forward):
        return False
    half = float(np.median(forward)) / 2
    is_crowded = int((ordered < half).sum()) - int((forward < half).sum()) > 2 * back
    is_torn = int((ordered > max_gap).sum()) > int((forward > max_gap).sum())
    return is_crowded or is_torn
