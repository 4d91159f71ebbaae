"""Which messages of a stream stand in their place in time: one rule, for live topics and for whole recordings.

Stamps come as the messages do. Each is judged when it comes, by those before it; the one thing that is taken back later
is a message that jumped ahead alone. What cannot be decided by leaving out one message, a clock that went back and goes
on from there, is refused.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from diwa_runtime.errors import InputError

LAST_STAMP = 2**63 - 1
"""Times are int64 ns in every file; a later one, or one before 1970, is no time."""


class Verdict(Enum):
    """What is to be done with a message; the text says of one that is left out what it is."""

    KEPT = "kept"
    REPEATED = "with the stamp of the one before"
    LATE = "that came after a later one"
    ALONE = "whose time stands alone, far from those around it"


class Judgement(NamedTuple):
    """A message's verdict, and the stamp of an earlier one that is shown by it to have stood alone; None: of none."""

    verdict: Verdict
    withdrawn: int | None = None


KEPT, REPEATED, LATE, ALONE = (Judgement(verdict) for verdict in Verdict)


class StampOrder:
    """Judges the stamps of one stream.

    Attributes:
        newest, before: of the messages that were kept, the last two, ns; -1 = none yet.
        sure: up to here nothing will be taken back, ns. `newest`, unless that one jumped and nothing has come since.
    """

    def __init__(self, topic: str, max_gap: int) -> None:
        """Judge `topic`, whose messages follow one another within `max_gap` ns unless something is missing."""
        self._topic, self._max_gap = topic, max_gap
        self.newest = self.before = self.sure = -1
        self._behind: int | None = None
        self._count = 0

    def judge(self, stamp: int) -> Judgement:
        """Judge the next message.

        Raises:
            InputError: the clock went back: two in a row are far behind, the second later than the first.
        """
        self._count += 1
        if not 0 <= stamp <= LAST_STAMP:
            return ALONE
        newest = self.newest
        if stamp > newest:
            self.before, self.newest, self._behind = newest, stamp, None
            self.sure = newest if newest < 0 or stamp - newest > self._max_gap else stamp
            return KEPT
        if self._shows_jump_alone(stamp):
            self.newest = self.sure = self.before
            self._count -= 1
            return Judgement(self.judge(stamp).verdict, withdrawn=newest)
        # One from before a jump that nothing has confirmed is judged by what was before the jump.
        newest = self.before if self.sure < newest and stamp <= self.before else newest
        if stamp == newest:
            return REPEATED
        if newest - stamp > self._max_gap:
            self._note_behind(stamp, newest)
            return ALONE
        self.sure, self._behind = max(self.sure, newest), None
        return LATE

    def _shows_jump_alone(self, stamp: int) -> bool:
        """Say whether a message fits better to what was before the newest one, which jumped, than to that one."""
        if self.sure == self.newest or stamp <= self.before:
            return False
        back = self.newest - stamp
        return back > self._max_gap or (self.before >= 0 and stamp - self.before <= back)

    def _note_behind(self, stamp: int, newest: int) -> None:
        if self._behind is not None and stamp > self._behind:
            raise InputError(
                f"{self._topic}: time goes backwards by {(newest - stamp) / 1e9:.6f} s at message {self._count} (stamp "
                f"{stamp} ns after {newest} ns); record it again with one clock"
            )
        self._behind = stamp
