"""Which frame of one camera belongs to which of the other: by stamp, each to one at most, and never by guess."""

from __future__ import annotations

from collections import deque

from diwa_bridge.cameras.source import Frame

WAITING = 8
"""Frames of one camera that may wait for the other, which may be so much slower on its way here."""


class Pairing:
    """Pairs two streams of frames.

    Attributes:
        tolerance_ns: how far apart a pair's stamps may be. Within half a frame period no later frame can be nearer.
        pairs: how many were found.
        unpaired: how many frames of each camera found no partner.
        gap_ns: between the stamps of the last pair.
    """

    def __init__(self, tolerance_ns: int) -> None:
        self.tolerance_ns = tolerance_ns
        self.pairs = self.gap_ns = 0
        self.unpaired = [0, 0]
        self._waiting: tuple[deque[Frame], deque[Frame]] = (deque(), deque())

    def add(self, camera: int, frame: Frame) -> tuple[Frame, Frame] | None:
        """Take a frame of camera 0 or 1; return the pair that it completes, in the cameras' order.

        Of the frames that wait the nearest is its partner, if it is near enough. Frames older than a pair's can have no
        partner any more, since stamps only grow.
        """
        mine, others = self._waiting[camera], self._waiting[1 - camera]
        partner = min(others, key=lambda other: abs(other.stamp_ns - frame.stamp_ns), default=None)
        if partner is None or abs(partner.stamp_ns - frame.stamp_ns) > self.tolerance_ns:
            mine.append(frame)
            if len(mine) > WAITING:
                mine.popleft()
                self.unpaired[camera] += 1
            return None
        self.unpaired[camera] += len(mine)
        mine.clear()
        while others.popleft() is not partner:
            self.unpaired[1 - camera] += 1
        self.pairs += 1
        self.gap_ns = abs(partner.stamp_ns - frame.stamp_ns)
        return (frame, partner) if camera == 0 else (partner, frame)
