"""What the robot says of itself, and who else commands it: whether a goal may begin and go on. ROS-free."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from diwa_runtime.robot import Outcome, RobotMode
from diwa_runtime.robot_messages import ROBOT_STATE
from diwa_runtime.rows.streams import NANOSECONDS

UNWILLING = {
    RobotMode.GUIDED: "a person moves the arm by hand",
    RobotMode.STOPPED: "the robot is stopped; call robot/release",
    RobotMode.FAULT: "the robot reports a fault; call robot/recover",
}


def robot_topic_of(topics: Mapping[str, str]) -> str:
    """Return where the robot says its mode, given message types by topic: one of them if it is observed, too."""
    topic, kind = ROBOT_STATE
    return next((name for name, of in topics.items() if of == kind), topic)


class RobotWatch:
    """Takes in the robot's mode, which commands it has taken, and commands that are not ours."""

    def __init__(self, unanswered_s: float) -> None:
        """Wait `unanswered_s` for the robot to take a command, and for a foreign commander to fall silent."""
        self._unanswered_s = unanswered_s
        self._mode: RobotMode | None = None
        self._answered_ns: int | None = None
        self._foreign: tuple[str, int] | None = None

    def hear(self, mode: int, answered_ns: int) -> tuple[Outcome, str] | None:
        """Take the robot's mode and the stamp of the observation that its newest command answers, 0 = none.

        Returns:
            how a goal that runs must end, and why; None: it may go on.
        """
        self._answered_ns = answered_ns
        try:
            self._mode = RobotMode(mode)
        except ValueError:
            self._mode = RobotMode.FAULT
            return Outcome.FAULT, f"the robot is in mode {mode}, which is not known here"
        if self._mode not in UNWILLING:
            return None
        stopped = self._mode is RobotMode.STOPPED
        return (Outcome.STOPPED if stopped else Outcome.FAULT), UNWILLING[self._mode]

    def hear_foreign(self, source: str, now_ns: int) -> str:
        """Take note that somebody else commands the robot; return why that ends a goal."""
        self._foreign = source, now_ns
        return f"{source!r} commands the robot too; only one may"

    def other_commander(self, now_ns: int) -> str | None:
        """Return who else commands the robot, if anybody does lately."""
        recently = self._foreign is not None and now_ns - self._foreign[1] < self._unanswered_s * NANOSECONDS
        return self._foreign[0] if self._foreign is not None and recently else None

    def objection(self, now_ns: int) -> str | None:
        """Say why no goal may begin, or None."""
        if self._mode is None:
            return "the robot has not said yet in which mode it is"
        if self._mode in UNWILLING:
            return UNWILLING[self._mode]
        if (other := self.other_commander(now_ns)) is not None:
            return f"{other!r} commands the robot; wait until it is silent"
        return None

    def has_ignored(self, sent: deque[int], stamp_ns: int) -> bool:
        """Whether the oldest command that the robot has not taken was sent too long ago.

        Args:
            sent: stamps of the observations that commands answered, oldest first; those taken are removed.
            stamp_ns: of the newest observation.
        """
        if self._answered_ns is None:
            return False
        while sent and sent[0] <= self._answered_ns:
            sent.popleft()
        return bool(sent) and stamp_ns - sent[0] > self._unanswered_s * NANOSECONDS
