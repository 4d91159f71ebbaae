"""What goes out of the bridge: the arm's state, and what was executed since the state before."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diwa_bridge.arm.drivers import GripperDriver
from diwa_bridge.arm.franka import Reading
from diwa_runtime.actions import motion_units
from diwa_runtime.robot import RobotMode
from diwa_runtime.spec import ActionScale

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BridgeSnapshot:
    """One `diwa_runtime.robot_messages.RobotSnapshot`, and what goes out with it.

    Attributes:
        stamp_ns: robot's clock, on the epoch of this machine.
        mode: the robot's.
        answered_ns: stamp of the observation that the newest command taken in answers; 0 = none.
    """

    stamp_ns: int
    tcp_position: Array
    tcp_quaternion: Array
    joint_positions: Array
    joint_velocities: Array
    gripper_width: float
    gripper_command: float
    accepted_action: Array
    mode: RobotMode
    answered_ns: int


class Snapshots:
    """Adds up what is executed between two snapshots, and makes them.

    Attributes:
        answered_ns: stamp of the observation that the newest command taken in answers; 0 = none.
    """

    def __init__(self, scale: ActionScale, gripper: GripperDriver | None) -> None:
        """Say what an action of 1 means; without a gripper its width is 0 and its command open."""
        self._units, self._gripper = motion_units(scale), gripper
        self.answered_ns = 0
        self._executed: Array = np.zeros(6)

    def add(self, motion: Array) -> None:
        """Take in what the target or a guiding hand moved by (6,): m and rad."""
        self._executed += motion

    def take(self, reading: Reading, stamp_ns: int, mode: RobotMode, *, lost: bool) -> BridgeSnapshot:
        """Return a snapshot with all that was executed since the last one; of an arm that is lost, at rest."""
        executed, self._executed = self._executed, np.zeros(6)
        open_ = self._gripper.command if self._gripper is not None else 1.0
        return BridgeSnapshot(
            stamp_ns=stamp_ns,
            tcp_position=reading.state.position,
            tcp_quaternion=reading.quaternion,
            joint_positions=reading.state.joints,
            joint_velocities=np.zeros(7) if lost else reading.joint_velocities,
            gripper_width=self._gripper.width if self._gripper is not None else 0.0,
            gripper_command=open_,
            accepted_action=np.array([*(executed / self._units), open_]),
            mode=mode,
            answered_ns=self.answered_ns,
        )
