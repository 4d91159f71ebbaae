"""What was sent on a topic and did not come, by the gaps in its publishers' own counts. ROS-free."""

from __future__ import annotations

REMEMBERED = 16


class Losses:
    """Counts the messages of one topic that are missing between two that came.

    A message does not say which publisher it is from, so each new count is taken for the next of whichever publisher
    it fits: exact with one publisher, and rather too few than too many with several.

    Attributes:
        count: how many are missing so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._newest: list[int] = []

    def add(self, sequence: int | None, publishers: int) -> int:
        """Take in the count of a message; return how many are missing before it.

        Args:
            sequence: how many its publisher had sent, itself included; None where the middleware does not say.
            publishers: how many the topic has had at a time.
        """
        if sequence is None:
            return 0
        if sequence - 1 in self._newest:
            self._newest[self._newest.index(sequence - 1)] = sequence
            return 0
        before = max((count for count in self._newest if count < sequence), default=None)
        if before is None or len(self._newest) < publishers:  # the first of a publisher
            self._newest = [*self._newest[1 - REMEMBERED :], sequence]
            return 0
        self._newest[self._newest.index(before)] = sequence
        self.count += sequence - before - 1
        return sequence - before - 1
