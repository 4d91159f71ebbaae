"""From accepted actions to joint targets: the commanded TCP pose and its inverse kinematics.

As in CALVIN an action moves the *commanded* pose, not the measured one: translation is added to the commanded position
(world axes) and rotation to the commanded Euler angles. The angles of `diwa_runtime.geometry` are extrinsic xyz, so yaw
always turns about the world's vertical.
"""

from __future__ import annotations

import math

import mujoco
import numpy as np
from numpy.typing import NDArray

from diwa_runtime.geometry import euler_to_matrix
from diwa_runtime.spec import ActionScale
from diwa_sim.model import FINGER_TRAVEL_M, HOME_JOINTS, load_arm

Array = NDArray[np.float64]

TCP_HOME_EULER: Array = np.array([math.pi, 0.0, math.pi / 2])
"""Hand down, fingers opening along the world's x, rad."""
WORKSPACE_LOW: Array = np.array([-0.38, -0.58, 0.34])
WORKSPACE_HIGH: Array = np.array([0.38, 0.02, 0.80])
TILT_LIMIT_RAD = 0.5
YAW_LIMIT_RAD = 1.2
LEAD_LIMIT_M = 0.06
"""How far the commanded position may be ahead of the measured one, along each axis: pushing a wall doesn't wind up."""
LEAD_LIMIT_RAD = 0.3

_DAMPING = 0.03
_HOMING = 0.02
_STEP_LIMIT_RAD = 0.15
_JOINT_MARGIN_RAD = 0.02


class TcpController:
    """Holds the commanded pose and the joint targets that reach it.

    Attributes:
        position: commanded TCP position (3,) m, world frame.
        euler: commanded Euler angles (3,) rad; roll is kept near +pi, never wrapped to -pi.
        joints: joint targets (7,) rad.
    """

    def __init__(self, scale: ActionScale) -> None:
        self._model = load_arm()
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site("tcp").id
        self._jacobian = np.zeros((6, self._model.nv))
        limits = self._model.jnt_range[:7]
        self._low, self._high = limits[:, 0] + _JOINT_MARGIN_RAD, limits[:, 1] - _JOINT_MARGIN_RAD
        self._scale = np.repeat([scale.translation_m, scale.rotation_rad], 3)
        spread = np.array([TILT_LIMIT_RAD, TILT_LIMIT_RAD, YAW_LIMIT_RAD])
        self._euler_low, self._euler_high = TCP_HOME_EULER - spread, TCP_HOME_EULER + spread
        self.position = np.zeros(3)
        self.euler = TCP_HOME_EULER.copy()
        self.joints = HOME_JOINTS.copy()

    def reset(self, position: Array, euler: Array) -> Array:
        """Command a pose from scratch and return the joint angles (7,) that reach it.

        Always solved from the home posture, so that the same pose gives the same joints.
        """
        self.position = np.clip(position, WORKSPACE_LOW, WORKSPACE_HIGH)
        self.euler = np.clip(euler, self._euler_low, self._euler_high)
        self.joints = HOME_JOINTS.copy()
        self._solve(iterations=60)
        return self.joints

    def move(self, accepted: NDArray[np.floating], measured_position: Array, measured_euler: Array) -> Array:
        """Move the commanded pose by an accepted action (7,); return the joint targets (7,) rad.

        Args:
            accepted: as `diwa_runtime.actions.accept_action` returns it; the gripper is not looked at.
            measured_position: TCP (3,) m; the commanded pose stays within `LEAD_LIMIT_M` of it.
            measured_euler: TCP (3,) rad, any wrap.
        """
        delta = accepted[:6] * self._scale
        position = self.position + delta[:3]
        position = np.clip(position, measured_position - LEAD_LIMIT_M, measured_position + LEAD_LIMIT_M)
        self.position = np.clip(position, WORKSPACE_LOW, WORKSPACE_HIGH)
        euler = self.euler + delta[3:]
        lead = (euler - measured_euler + math.pi) % (2 * math.pi) - math.pi
        euler = euler - lead + np.clip(lead, -LEAD_LIMIT_RAD, LEAD_LIMIT_RAD)
        self.euler = np.clip(euler, self._euler_low, self._euler_high)
        self._solve(iterations=2)
        return self.joints

    def _solve(self, iterations: int) -> None:
        """Damped least squares from the last joint targets; what is left free tends to the home posture."""
        target = euler_to_matrix(self.euler)
        jacobian = self._jacobian
        for _ in range(iterations):
            self._data.qpos[:7] = self.joints
            mujoco.mj_kinematics(self._model, self._data)
            mujoco.mj_comPos(self._model, self._data)
            mujoco.mj_jacSite(self._model, self._data, jacobian[:3], jacobian[3:], self._site)
            error = self._pose_error(target)
            arm = jacobian[:, :7]
            homing = _HOMING * (HOME_JOINTS - self.joints)
            normal = arm @ arm.T
            normal.flat[::7] += _DAMPING * _DAMPING
            step = homing + arm.T @ np.linalg.solve(normal, error - arm @ homing)
            step = np.clip(step, -_STEP_LIMIT_RAD, _STEP_LIMIT_RAD)
            self.joints = np.clip(self.joints + step, self._low, self._high)

    def _pose_error(self, target: Array) -> Array:
        """Twist (6,) from the solved to the commanded pose: position and half the rotation axis times sine."""
        current = self._data.site_xmat[self._site].reshape(3, 3)
        relative = target @ current.T
        error = np.empty(6)
        error[:3] = self.position - self._data.site_xpos[self._site]
        error[3] = relative[2, 1] - relative[1, 2]
        error[4] = relative[0, 2] - relative[2, 0]
        error[5] = relative[1, 0] - relative[0, 1]
        error[3:] *= 0.5
        return error


def finger_target(gripper: float) -> float:
    """Return each finger's target (m) for a gripper command: > 0 opens."""
    return FINGER_TRAVEL_M if gripper > 0 else 0.0
