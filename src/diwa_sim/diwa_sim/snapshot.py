"""One instant of the simulated robot and table: what observations and ROS messages are both made from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Snapshot:
    """What a robot with sensors would report at one instant. Arrays are the snapshot's own: nothing writes them later.

    Attributes:
        stamp_s: simulated time since the reset.
        tcp_position: (3,) m, world frame.
        tcp_quaternion: (4,) as (x, y, z, w).
        tcp_euler: (3,) rad, `diwa_runtime.geometry.quaternion_to_euler` of the quaternion.
        joint_positions: (7,) rad.
        joint_velocities: (7,) rad/s.
        gripper_width: distance between the fingers, m.
        gripper_command: last command, +1 open or -1 closed.
        scene: (24,) in the order of `diwa_runtime.spec.SCENE_NAMES`.
        accepted_action: (7,) executed between the previous snapshot and this one; the hold action at a reset.
        images: camera name to RGB uint8 (H, W, 3); empty without cameras.
    """

    stamp_s: float
    tcp_position: Array
    tcp_quaternion: Array
    tcp_euler: Array
    joint_positions: Array
    joint_velocities: Array
    gripper_width: float
    gripper_command: float
    scene: Array
    accepted_action: NDArray[np.float32]
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    def proprio(self) -> NDArray[np.float32]:
        """Return the proprioception (15,) in the order of `diwa_runtime.spec.PROPRIO_NAMES`."""
        values = np.empty(15, dtype=np.float32)
        values[0:3] = self.tcp_position
        values[3:6] = self.tcp_euler
        values[6] = self.gripper_width
        values[7:14] = self.joint_positions
        values[14] = self.gripper_command
        return values

    def observation(self, fields: tuple[str, ...]) -> dict[str, NDArray[np.generic]]:
        """Return the observation's `fields` (``proprio``, ``scene`` or camera names) as fresh arrays."""
        made: dict[str, NDArray[np.generic]] = {}
        for name in fields:
            if name == "proprio":
                made[name] = self.proprio()
            elif name == "scene":
                made[name] = self.scene.astype(np.float32)
            else:
                made[name] = self.images[name].copy()
        return made
