"""The benchmark's controller, OSC_POSE at 20 Hz and a gripper, at half of its cost.

Formulas, gains and functions are robosuite's own, and what comes out is the same but for rounding (a test compares).
What is left out is its book-keeping: it looks names up, and asks MuJoCo three times a physics step for one state's
derived quantities.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numba
import numpy as np
from numpy.typing import NDArray
from robosuite.utils.control_utils import (
    nullspace_torques,
    opspace_matrices,
    orientation_error,
    set_goal_orientation,
    set_goal_position,
)

from diwa_runtime.actions import GRIPPER

Array = NDArray[np.float64]


class Control:
    """Turns an action into the arm's torques and the fingers' places, one physics step at a time."""

    def __init__(self, robot: Any, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Take gains, limits and addresses from a robot of robosuite's, which must have been reset.

        Args:
            robot: whose arm is controlled by OSC_POSE with fixed gains.
            model, data: the physics that it lives in.
        """
        self._model, self._data, self._robot = model, data, robot
        self._site = model.site(robot.controller.eef_name).id
        self._arm = slice(robot.controller.qvel_index[0], robot.controller.qvel_index[-1] + 1)
        self._joints = slice(robot.controller.qpos_index[0], robot.controller.qpos_index[-1] + 1)
        arm, fingers = robot._ref_joint_actuator_indexes, robot._ref_joint_gripper_actuator_indexes
        self._low, self._high = model.actuator_ctrlrange[arm].T.copy()
        self._motors, self._fingers = slice(arm[0], arm[-1] + 1), fingers
        low, high = model.actuator_ctrlrange[fingers].T
        self._middle, self._half = 0.5 * (high + low), 0.5 * (high - low)
        self._jacobian = np.zeros((6, model.nv))
        self._mass = np.zeros((model.nv, model.nv))

    def move(self, action: Array, physics_steps: int) -> None:
        """Execute an action (7,) as robosuite takes it, gripper closing at +1, for so many physics steps."""
        model, data, controller, gripper = self._model, self._data, self._robot.controller, self._robot.gripper
        for step in range(physics_steps):
            mujoco.mj_step1(model, data)
            if step == 0:
                self._aim(action)
            data.ctrl[self._fingers] = self._middle + self._half * gripper.format_action(action[GRIPPER:])
            data.ctrl[self._motors] = self._torques(controller)
            mujoco.mj_step2(model, data)

    def _aim(self, action: Array) -> None:
        """Set the goal that the arm is drawn to until the next action: from where the hand is now."""
        controller = self._robot.controller
        delta = controller.scale_action(action[:GRIPPER])
        if not np.allclose(delta[3:], 0.0, rtol=0.0, atol=0.0):
            controller.goal_ori = set_goal_orientation(delta[3:], self._data.site_xmat[self._site].reshape(3, 3).copy())
        controller.goal_pos = set_goal_position(delta[:3], self._data.site_xpos[self._site].copy())

    def _torques(self, controller: Any) -> Array:
        model, data = self._model, self._data
        mujoco.mj_jacSite(model, data, self._jacobian[:3], self._jacobian[3:], self._site)
        mujoco.mj_fullM(model, data, self._mass)
        torques = _operational_space(
            np.ascontiguousarray(self._jacobian[:, self._arm]),
            self._jacobian @ data.qvel,
            np.ascontiguousarray(self._mass[self._arm, self._arm]),
            controller.goal_pos - data.site_xpos[self._site],
            orientation_error(controller.goal_ori, data.site_xmat[self._site].reshape(3, 3)),
            controller.kp,
            controller.kd,
            controller.initial_joint,
            data.qpos[self._joints],
            data.qvel[self._arm],
            data.qfrc_bias[self._arm],
        )
        return np.minimum(np.maximum(torques, self._low), self._high)


@numba.njit(cache=True)
def _operational_space(
    jacobian: Array,
    velocity: Array,
    mass: Array,
    away: Array,
    turned: Array,
    kp: Array,
    kd: Array,
    initial_joints: Array,
    joints: Array,
    joint_velocities: Array,
    bias: Array,
) -> Array:
    """Return the torques (7,) of robosuite's OSC_POSE with position and orientation uncoupled."""
    force = away * kp[:3] + -velocity[:3] * kd[:3]
    torque = turned * kp[3:] + -velocity[3:] * kd[3:]
    positions, rotations = np.ascontiguousarray(jacobian[:3]), np.ascontiguousarray(jacobian[3:])
    _, of_position, of_rotation, nullspace = opspace_matrices(mass, jacobian, positions, rotations)
    wrench = np.concatenate((np.dot(of_position, force), np.dot(of_rotation, torque)))
    torques = np.dot(jacobian.T, wrench) + bias
    return torques + nullspace_torques(mass, nullspace, initial_joints, joints, joint_velocities)
