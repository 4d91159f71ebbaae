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


@pytest.fixture
def controller() -> TcpController:
    made = TcpController(ActionScale())
    made.reset(np.array([0.0, -0.1, 0.5]), TCP_HOME_EULER)
    return made


def turned(axis: int, angle: float) -> np.ndarray:
    return TCP_HOME_EULER + angle * np.eye(3)[axis]


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_commanded_yaw_is_ahead_of_the_measured_one_by_0_3_rad_at_most(
    controller: TcpController, sign: int
) -> None:
    for _ in range(60):
        controller.move(sign * np.eye(7)[5], controller.position, TCP_HOME_EULER)
    np.testing.assert_allclose(controller.euler, turned(2, sign * 0.3), atol=1e-12)


@pytest.mark.parametrize(("axis", "most"), [(0, 0.35), (1, 0.35), (2, 1.2)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_no_angle_is_commanded_beyond_its_bounds(controller: TcpController, axis: int, sign: int, most: float) -> None:
    for _ in range(60):
        controller.move(sign * np.eye(7)[3 + axis], controller.position, controller.euler)
    np.testing.assert_allclose(controller.euler, turned(axis, sign * most), atol=1e-12)
    controller.reset(controller.position, turned(axis, sign * 2.0))
    np.testing.assert_allclose(controller.euler, turned(axis, sign * most), atol=1e-12)


def test_the_lead_is_taken_the_short_way_round(controller: TcpController) -> None:
    controller.move(np.zeros(7), controller.position, turned(0, 0.01 - 2 * np.pi))
    np.testing.assert_allclose(controller.euler, TCP_HOME_EULER, atol=1e-12)


@pytest.mark.parametrize("end", [0, 1])
def test_joint_targets_stay_within_their_range_by_a_margin(controller: TcpController, end: int) -> None:
    limits = load_arm().jnt_range[:7]
    controller.joints = limits[:, end].copy()
    controller.move(np.zeros(7), controller.position, TCP_HOME_EULER)
    assert (controller.joints >= limits[:, 0] + 0.02).all()
    assert (controller.joints <= limits[:, 1] - 0.02).all()


def test_joint_targets_go_no_further_than_a_step_at_once(controller: TcpController) -> None:
    before = controller.joints.copy()
    controller.position = controller.position + np.array([0.3, 0.0, 0.0])
    controller.move(np.zeros(7), controller.position, TCP_HOME_EULER)
    assert np.abs(controller.joints - before).max() == pytest.approx(0.15)
