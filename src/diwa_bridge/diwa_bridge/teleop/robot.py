"""What tele-operation hears of the robot: each state is checked at the door, and one that cannot be is not answered."""

from __future__ import annotations

import math
from typing import Any

from diwa_ros.messages import stamp_ns_of
from diwa_runtime.robot import RobotMode
from diwa_runtime.rows.streams import LARGEST, NANOSECONDS


class HeardRobot:
    """The newest robot state that can be used.

    Attributes:
        stamp_ns: its stamp; None = none has come.
        mode: the robot's; FAULT for one that is not known here.
        gripper_command: what its gripper was last told, by whomever.
        trouble: what is wrong with the newest state; "" = nothing.
        refused: how many could not be used at all.
        states: how many came, those too.
        rate_hz: of control, by the Spec.
        is_due: whether a control period is over with the newest state; of a faster robot's states that is not each.
    """

    def __init__(self, rate_hz: float) -> None:
        """Begin without a state; `rate_hz` until the robot has said what it is."""
        self.rate_hz, self.is_due, self._due_ns = rate_hz, False, 0
        self.stamp_ns: int | None = None
        self.mode, self.gripper_command = RobotMode.FAULT, 1.0
        self.trouble = ""
        self.refused = self.states = 0

    def hear(self, message: Any) -> bool:
        """Take a `RobotState`; return whether it can be used, be it as that of a robot in FAULT."""
        self.states += 1
        stamp_ns, pose = stamp_ns_of(message), message.tcp_pose
        turned = pose.orientation
        if stamp_ns is None:
            return self._refused("a stamp that cannot be")
        # No joints: a robot that does not know a velocity may say NaN.
        if not _sound(pose.position.x, pose.position.y, pose.position.z, turned.x, turned.y, turned.z, turned.w):
            return self._refused("a pose that is not finite")
        if not _sound(message.gripper_command):
            return self._refused("a gripper_command that is not finite")
        self._see_whether_due(stamp_ns)
        self.stamp_ns, self.gripper_command = stamp_ns, message.gripper_command
        try:
            self.mode, self.trouble = RobotMode(message.mode), ""
        except ValueError:
            self.mode = RobotMode.FAULT
            self.trouble = f"robot/state: mode {message.mode} is not known here; taken for a fault"
        return True

    def _see_whether_due(self, stamp_ns: int) -> None:
        """A command is the motion of a control period: to answer each state of a faster robot is to move faster."""
        period_ns = round(NANOSECONDS / self.rate_hz)
        went_back = self.stamp_ns is None or stamp_ns < self.stamp_ns
        self.is_due = went_back or stamp_ns >= self._due_ns - period_ns // 4
        if self.is_due:
            next_ns = self._due_ns + period_ns
            self._due_ns = stamp_ns + period_ns if went_back or stamp_ns >= next_ns else next_ns

    def _refused(self, what: str) -> bool:
        self.refused, self.is_due = self.refused + 1, False
        self.trouble = f"robot/state: {what}; nothing is commanded"
        return False


def _sound(*values: float) -> bool:
    return all(math.isfinite(value) and abs(value) < LARGEST for value in values)
