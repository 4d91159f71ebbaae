"""What tele-operation hears, without ROS: states that cannot be, unknown modes, somebody else under its name."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_bridge.teleop.own_commands import KEPT, SILENT_S, OwnCommands
from diwa_bridge.teleop.robot import HeardRobot
from diwa_runtime.robot import RobotMode


def state(mode: int = 0, sec: int = 5, nanosec: int = 7, x: float = 0.4, w: float = 1.0, gripper: float = 1.0) -> Any:
    position = SimpleNamespace(x=x, y=0.0, z=0.3)
    pose = SimpleNamespace(position=position, orientation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=w))
    header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec))
    return SimpleNamespace(header=header, tcp_pose=pose, gripper_command=gripper, mode=mode)


def test_a_state_that_can_be_is_taken() -> None:
    robot = HeardRobot(30.0)
    assert robot.stamp_ns is None
    assert robot.hear(state(mode=1, gripper=-1.0))
    assert (robot.stamp_ns, robot.mode, robot.gripper_command) == (5_000_000_007, RobotMode.MOVING, -1.0)
    assert (robot.trouble, robot.refused) == ("", 0)


@pytest.mark.parametrize("mode", [5, 9, 128, 255])
def test_a_mode_that_is_not_known_is_a_fault_until_one_comes_that_is(mode: int) -> None:
    robot = HeardRobot(30.0)
    assert robot.hear(state(mode))
    assert robot.mode is RobotMode.FAULT
    assert f"mode {mode} is not known here" in robot.trouble
    robot.hear(state(0))
    assert (robot.mode, robot.trouble) == (RobotMode.IDLE, "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sec": -1}, "stamp that cannot be"),
        ({"nanosec": 10**9}, "stamp that cannot be"),
        ({"x": math.nan}, "pose that is not finite"),
        ({"x": 1e300}, "pose that is not finite"),
        ({"w": math.inf}, "pose that is not finite"),
        ({"gripper": math.nan}, "gripper_command that is not finite"),
    ],
)
def test_a_state_that_cannot_be_is_not_taken_and_counted(changes: dict[str, Any], said: str) -> None:
    robot = HeardRobot(30.0)
    robot.hear(state(mode=1))
    assert not robot.hear(state(mode=0, **changes))
    assert said in robot.trouble
    assert (robot.refused, robot.states, robot.mode, robot.stamp_ns) == (1, 2, RobotMode.MOVING, 5_000_000_007)
    assert not robot.is_due


@pytest.mark.parametrize(
    ("rate_hz", "robot_hz"), [(30, 30), (30, 59), (30, 100), (30, 250), (30, 1000), (10, 30), (50, 100)]
)
def test_of_a_faster_robot_one_state_a_control_period_is_due(rate_hz: int, robot_hz: int) -> None:
    robot, due = HeardRobot(float(rate_hz)), list[int]()
    for number in range(3 * robot_hz):
        robot.hear(state(sec=number // robot_hz, nanosec=number % robot_hz * (10**9 // robot_hz)))
        if robot.is_due:
            due.append(robot.stamp_ns or 0)
    assert 3 * rate_hz - 2 <= len(due) <= 3 * rate_hz + 1
    assert min(np.diff(due)) > 0.5e9 / rate_hz


def test_jitter_and_a_clock_that_goes_back_or_stands_cost_no_period_and_give_none() -> None:
    robot = HeardRobot(30.0)
    early_late = [0, 25_000_000, 67_000_000, 99_000_000, 134_000_000]
    due = [robot.hear(state(nanosec=at)) and robot.is_due for at in early_late]
    assert all(due)
    robot.hear(state(nanosec=134_000_000))
    assert not robot.is_due, "the robot's clock stands"
    robot.hear(state(sec=1))
    assert robot.is_due, "a robot that was started anew"


def command(source: str = "teleop", number: int = 0) -> Any:
    return SimpleNamespace(source=source, number=number)


def test_somebody_under_our_name_is_told_from_ourselves() -> None:
    own = OwnCommands("teleop")
    own.sent(command())
    own.heard(command(), 1.0)
    own.heard(command("policy"), 1.0)
    assert own.doubled(1.0) == ""
    own.heard(command(), 1.0)
    assert "somebody else commands as 'teleop'" in own.doubled(1.0)
    assert own.doubled(1.0 + SILENT_S + 0.01) == "", "once it is silent"


@given(st.lists(st.sampled_from(["send", "hear"]), max_size=3 * KEPT))
def test_our_own_commands_are_never_taken_for_somebody_elses(happened: list[str]) -> None:
    own, on_the_way = OwnCommands("teleop"), list[Any]()
    for number, event in enumerate(happened):
        if event == "send" and len(on_the_way) < KEPT:
            on_the_way.append(command(number=number))
            own.sent(on_the_way[-1])
        elif on_the_way:
            own.heard(on_the_way.pop(0), 1.0)
    assert own.doubled(1.0) == ""
