"""What the robot's topics say in numbers; a test holds each to the message's constants."""

from __future__ import annotations

from enum import IntEnum


class RobotMode(IntEnum):
    """`RobotState.MODE_*`."""

    IDLE = 0
    MOVING = 1
    GUIDED = 2
    STOPPED = 3
    FAULT = 4


class RunState(IntEnum):
    """`PolicyStatus.STATE_*`."""

    IDLE = 0
    RUNNING = 1
    HOLDING = 2
    SHADOW = 3
    FAULT = 4


class Outcome(IntEnum):
    """`RunSkill.Result`'s outcomes."""

    SUCCESS = 1
    TIMEOUT = 2
    CANCELLED = 3
    REFUSED = 4
    STOPPED = 5
    FAULT = 6
    BLOCKED = 7


SPEC_TOPIC = "robot/spec"
"""std_msgs/String, latched: the Spec of whoever publishes the robot's topics, as JSON."""
