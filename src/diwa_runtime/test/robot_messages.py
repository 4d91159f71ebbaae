"""Stand-ins for the robot's messages: what a runner is fed, without ROS."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from diwa_runtime.spec import SCENE_NAMES

SECOND = 1_000_000_000
PERIOD = SECOND // 30


def header(stamp_ns: int) -> SimpleNamespace:
    seconds, nanoseconds = divmod(stamp_ns, SECOND)
    return SimpleNamespace(stamp=SimpleNamespace(sec=seconds, nanosec=nanoseconds))


def robot_state(stamp_ns: int, x: float = 0.0, accepted: Any = (0.0,) * 6, gripper: float = 1.0) -> SimpleNamespace:
    """A state with the TCP at (x, 0, 0)."""
    return SimpleNamespace(
        header=header(stamp_ns),
        tcp_pose=SimpleNamespace(
            position=SimpleNamespace(x=x, y=0.0, z=0.0), orientation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
        ),
        gripper_width=0.04,
        joint_positions=np.zeros(7),
        gripper_command=gripper,
        accepted_translation=SimpleNamespace(x=accepted[0], y=accepted[1], z=accepted[2]),
        accepted_rotation=SimpleNamespace(x=accepted[3], y=accepted[4], z=accepted[5]),
    )


def scene_state(stamp_ns: int, drawer: float = 0.0) -> SimpleNamespace:
    values = [drawer if name == "drawer" else 0.0 for name in SCENE_NAMES]
    return SimpleNamespace(header=header(stamp_ns), names=list(SCENE_NAMES), values=values)
