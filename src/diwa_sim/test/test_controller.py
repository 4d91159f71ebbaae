from __future__ import annotations

import mujoco
import numpy as np
import pytest

from diwa_runtime.geometry import euler_to_matrix, quaternion_to_matrix
from diwa_runtime.spec import ActionScale
from diwa_sim.controller import LEAD_LIMIT_M, NEAREST_M, TCP_HOME_EULER, TcpController, reachable
from diwa_sim.environment import PlayTable
from diwa_sim.model import load_arm

PANDA_BASE = np.array([-0.30, -0.46])


@pytest.fixture(scope="module")
def env() -> PlayTable:
    return PlayTable(task=None)


def solved_pose(joints: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """TCP position (3,) and rotation (3, 3) at joint angles (7,)."""
    model = load_arm()
    data = mujoco.MjData(model)
    data.qpos[:7] = joints
    mujoco.mj_kinematics(model, data)
    return data.site("tcp").xpos.copy(), data.site("tcp").xmat.reshape(3, 3).copy()


def test_the_arm_is_a_panda() -> None:
    """Franka's Denavit-Hartenberg table, multiplied out here, puts the flange where the model does."""
    rng = np.random.default_rng(0)
    model = load_arm()
    data = mujoco.MjData(model)
    a = [0, 0, 0, 0.0825, -0.0825, 0, 0.088]
    d = [0.333, 0, 0.316, 0, 0.384, 0, 0]
    alpha = [0, -np.pi / 2, np.pi / 2, np.pi / 2, -np.pi / 2, np.pi / 2, np.pi / 2]
    for joints in rng.uniform(model.jnt_range[:7, 0], model.jnt_range[:7, 1], (20, 7)):
        frame = np.eye(4)
        for i in range(7):
            ct, st, ca, sa = np.cos(joints[i]), np.sin(joints[i]), np.cos(alpha[i]), np.sin(alpha[i])
            frame = frame @ np.array(
                [
                    [ct, -st, 0, a[i]],
                    [st * ca, ct * ca, -sa, -d[i] * sa],
                    [st * sa, ct * sa, ca, d[i] * ca],
                    [0, 0, 0, 1],
                ]
            )
        flange = frame @ np.array([0, 0, 0.107, 1])
        data.qpos[:7] = joints
        mujoco.mj_kinematics(model, data)
        base = data.body("panda").xpos
        np.testing.assert_allclose(data.body("hand").xpos - base, flange[:3], atol=1e-6)


def test_inverse_kinematics_reach_start_poses_to_a_millimetre() -> None:
    controller = TcpController(ActionScale())
    rng = np.random.default_rng(0)
    for _ in range(30):
        position = np.array([0.02, -0.17, 0.60]) + rng.uniform(-1, 1, 3) * [0.22, 0.11, 0.12]
        euler = TCP_HOME_EULER + rng.uniform(-1, 1, 3) * [0.15, 0.15, 0.5]
        reached, rotation = solved_pose(controller.reset(position, euler))
        np.testing.assert_allclose(reached, reachable(position), atol=1e-3)
        np.testing.assert_allclose(rotation, euler_to_matrix(euler), atol=5e-3)


def test_the_tcp_follows_its_command_in_free_space(env: PlayTable) -> None:
    """Moving at full speed it lags by less than two centimetres, and standing still it arrives to 2 mm."""
    env.reset(seed=0)
    controller = env._controller
    lags = []
    for k in range(90):
        motion = np.sin(k / 8 + np.arange(3)) * (0.7, 0.6, 0.3) + (0, 0, 0.3 if k < 8 else 0)
        env.step(np.array([*motion, 0, 0, 0, 1]))
        lags.append(np.linalg.norm(env.snapshot().tcp_position - controller.position))
    assert max(lags) < 0.02
    for _ in range(15):
        env.step(np.array([0, 0, 0, 0, 0, 0, 1.0]))
    np.testing.assert_allclose(env.snapshot().tcp_position, controller.position, atol=2e-3)
    np.testing.assert_allclose(
        quaternion_to_matrix(env.snapshot().tcp_quaternion), euler_to_matrix(controller.euler), atol=0.02
    )


def test_an_action_moves_the_commanded_pose_by_its_scale(env: PlayTable) -> None:
    env.reset(seed=0)
    position, euler = env._controller.position.copy(), env._controller.euler.copy()
    env.step(np.array([0.5, -0.5, 0.25, 0.2, 0.4, -0.6, 1]))
    np.testing.assert_allclose(env._controller.position - position, [0.01, -0.01, 0.005], atol=1e-9)
    np.testing.assert_allclose(env._controller.euler - euler, [0.01, 0.02, -0.03], atol=1e-9)


def test_pushing_the_table_does_not_wind_up() -> None:
    """After two seconds of pushing down, a few steps up lift the hand off."""
    env = PlayTable(task=None, start=0.0)
    env.reset(seed=0)
    for _ in range(60):
        env.step(np.array([0, 0, -1, 0, 0, 0, -1.0]))
    pressed = env.snapshot().tcp_position
    assert pressed[2] == pytest.approx(0.473, abs=0.01), "the fingertips are on the table top"
    assert pressed[2] - env._controller.position[2] <= LEAD_LIMIT_M + 0.02
    for _ in range(6):
        env.step(np.array([0, 0, 1, 0, 0, 0, -1.0]))
    assert env.snapshot().tcp_position[2] > pressed[2] + 0.02


@pytest.mark.parametrize("position", [[-0.3, -0.46, 0.5], [-0.2, -0.40, 0.5], [5.0, 5.0, 0.8], [0.3, 0.0, -1.0]])
def test_commands_stay_where_the_arm_can_go(position: list[float]) -> None:
    inside = reachable(np.array(position))
    assert np.hypot(*(inside[:2] - PANDA_BASE)) >= NEAREST_M - 1e-9
    reached, _ = solved_pose(TcpController(ActionScale()).reset(inside, TCP_HOME_EULER))
    np.testing.assert_allclose(reached, inside, atol=2e-3)
