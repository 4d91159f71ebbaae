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

from diwa_runtime.actions import motion_units
from diwa_runtime.geometry import wrapped
from diwa_runtime.spec import ActionScale
from diwa_sim.model import FINGER_TRAVEL_M, HOME_JOINTS, load_arm

Array = NDArray[np.float64]

TCP_HOME_EULER: Array = np.array([math.pi, 0.0, math.pi / 2])
"""Hand down, fingers opening along the world's x, rad."""
WORKSPACE_LOW: Array = np.array([-0.38, -0.58, 0.34])
WORKSPACE_HIGH: Array = np.array([0.38, 0.02, 0.80])
NEAREST_M = 0.30
"""The hand stays this far from the axis of the arm's base: closer it could not point down."""
TILT_LIMIT_RAD = 0.35
YAW_LIMIT_RAD = 1.2
LEAD_LIMIT_M = 0.06
"""How far the commanded position may be ahead of the measured one, along each axis: pushing a wall doesn't wind up."""
LEAD_LIMIT_RAD = 0.3

_BASE: Array = np.array([-0.30, -0.46])
_WRIST_OFFSET_M = 0.088
_WRIST_REACH_M = 0.69
_SHOULDER_TCP_HEIGHT_M = 0.311
"""Height of the TCP when, hand down, the wrist is as high as the shoulder."""
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
        self._target, self._current = np.zeros(4), np.zeros(4)
        self._error, self._solution = np.zeros(6), np.zeros(6)
        limits = self._model.jnt_range[:7]
        self._low, self._high = limits[:, 0] + _JOINT_MARGIN_RAD, limits[:, 1] - _JOINT_MARGIN_RAD
        self._scale = motion_units(scale)
        spread = np.array([TILT_LIMIT_RAD, TILT_LIMIT_RAD, YAW_LIMIT_RAD])
        self._euler_low, self._euler_high = TCP_HOME_EULER - spread, TCP_HOME_EULER + spread
        self.position = np.zeros(3)
        self.euler = TCP_HOME_EULER.copy()
        self.joints = HOME_JOINTS.copy()

    def reset(self, position: Array, euler: Array) -> Array:
        """Command a pose from scratch and return the joint angles (7,) that reach it.

        Always solved from the home posture, so that the same pose gives the same joints.
        """
        self.position = reachable(position)
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
        position = _clip(self.position + delta[:3], measured_position - LEAD_LIMIT_M, measured_position + LEAD_LIMIT_M)
        self.position = reachable(position)
        euler = self.euler + delta[3:]
        lead = wrapped(euler - measured_euler)
        euler = euler - lead + _clip(lead, -LEAD_LIMIT_RAD, LEAD_LIMIT_RAD)
        self.euler = _clip(euler, self._euler_low, self._euler_high)
        self._solve(iterations=1)
        return self.joints

    def _solve(self, iterations: int) -> None:
        """Damped least squares from the last joint targets; what is left free tends to the home posture."""
        mujoco.mju_euler2Quat(self._target, self.euler, "XYZ")  # capitals: fixed axes
        for _ in range(iterations):
            arm = self._linearise()
            homing = _HOMING * (HOME_JOINTS - self.joints)
            normal = arm @ arm.T
            normal.flat[::7] += _DAMPING * _DAMPING
            mujoco.mju_cholFactor(normal, 0.0)
            mujoco.mju_cholSolve(self._solution, normal, self._error - arm @ homing)
            step = _clip(homing + arm.T @ self._solution, -_STEP_LIMIT_RAD, _STEP_LIMIT_RAD)
            self.joints = _clip(self.joints + step, self._low, self._high)

    def _linearise(self) -> Array:
        """Fill the pose error (6,) of the joint targets (m, rotation vector in rad); return the Jacobian (6, 7)."""
        model, data, jacobian = self._model, self._data, self._jacobian
        data.qpos[:7] = self.joints
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], self._site)
        self._error[:3] = self.position - data.site_xpos[self._site]
        mujoco.mju_mat2Quat(self._current, data.site_xmat[self._site])
        rotation = self._error[3:]
        mujoco.mju_subQuat(rotation, self._target, self._current)
        mujoco.mju_rotVecQuat(rotation, rotation.copy(), self._current)
        return jacobian[:, :7]


def reachable(position: Array) -> Array:
    """Return the nearest position (3,) that the hand, pointing down, can be commanded to.

    That is the workspace's box without the column around the base and without what is further than the arm is long.
    """
    position = _clip(position, WORKSPACE_LOW, WORKSPACE_HIGH)
    x, y = float(position[0] - _BASE[0]), float(position[1] - _BASE[1])
    rise = float(position[2]) - _SHOULDER_TCP_HEIGHT_M
    furthest = _WRIST_OFFSET_M + math.sqrt(_WRIST_REACH_M**2 - rise**2)
    distance = math.hypot(x, y)
    allowed = min(max(distance, NEAREST_M), furthest)
    if allowed != distance:
        direction = np.array([x, y]) / distance if distance > 0 else np.array([0.0, 1.0])
        position[:2] = _BASE + allowed * direction
    return position


def _clip(values: Array, low: Array | float, high: Array | float) -> Array:
    """As `np.clip`, which takes several times as long on vectors this short."""
    return np.minimum(np.maximum(values, low), high)


def finger_target(gripper: float) -> float:
    """Return each finger's target (m) for a gripper command: > 0 opens."""
    return FINGER_TRAVEL_M if gripper > 0 else 0.0
