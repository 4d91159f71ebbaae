"""What the bridge needs of an arm and of a gripper: whoever has these methods can be driven."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diwa_bridge.arm.franka import Reading
from diwa_bridge.arm.limits import ArmLimits

Array = NDArray[np.float64]


class ArmDriver(Protocol):
    """What is needed of an arm; `diwa_bridge.arm.franka.Arm` is one."""

    def connect(self) -> None:
        """Connect, or connect anew."""

    def close(self) -> None:
        """Let go."""

    def limits(self) -> ArmLimits:
        """Return what it allows."""

    def read(self) -> Reading:
        """Return the newest state."""

    def send(self, twist: Array, ease: float = 1.0) -> None:
        """Move with a velocity (6,) for a while, coming to it with a share of the accelerations."""

    def settle(self) -> None:
        """Wait until what moves has come to rest."""

    def recover(self) -> None:
        """Clear errors."""

    def measure_communication(self) -> float:
        """Return the share of commands that arrive in time."""


class GripperDriver(Protocol):
    """What is needed of a gripper; `diwa_bridge.arm.gripper.Gripper` is one."""

    width: float
    command: float
    fault: str

    def connect(self) -> None:
        """Connect, or connect anew."""

    def close(self) -> None:
        """Let go."""

    def wish(self, value: float) -> float:
        """Open or close; return the wish that holds."""

    def halt(self) -> None:
        """Let the fingers stand where they are."""
