"""The servo: within every limit for any stream of commands, at rest after silence, and always a way back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_bridge.arm.limits import FR3, PANDA, ArmLimits, ServoLimits, limits_of
from diwa_bridge.arm.servo import ArmState, Servo, ServoStatus
from diwa_runtime.errors import ConfigError, InputError
from diwa_runtime.geometry import euler_to_matrix, matrix_to_euler, rotation_vector
from diwa_runtime.spec import ActionScale

LIMITS = ServoLimits(FR3)
TICK_NS = round(LIMITS.period_s * 1e9)
CENTRE = np.array([0.45, 0.0, 0.35])
DOWN = np.array([math.pi, 0.0, 0.0])
HOME = np.array([0.0, -0.78, 0.0, -2.36, 0.0, 1.57, 0.78])


class Arm:
    """A perfect arm: it moves as it is told. Its joints follow by a fixed Jacobian, which can be as mean as wanted."""

    def __init__(self, limits: ServoLimits = LIMITS, position: np.ndarray = CENTRE, jacobian: np.ndarray | None = None):
        self.servo = Servo(limits, ActionScale())
        self.position, self.rotation, self.joints = position.copy(), euler_to_matrix(DOWN), HOME.copy()
        self.jacobian = np.eye(6, 7) * 10 if jacobian is None else jacobian
        self.now_ns, self.twists = 0, [np.zeros(6)]
        self.positions = [self.position.copy()]
        self.statuses = ServoStatus.FREE
        self.servo.anchor(self.state)

    @property
    def state(self) -> ArmState:
        return ArmState(self.position.copy(), matrix_to_euler(self.rotation), self.joints.copy(), self.jacobian)

    def command(self, motion: np.ndarray) -> np.ndarray:
        accepted = self.servo.command(motion, self.state, self.now_ns)
        self.statuses |= self.servo.status
        return accepted

    def tick(self, count: int = 1) -> None:
        period_s = self.servo.limits.period_s
        for _ in range(count):
            self.now_ns += TICK_NS
            twist = self.servo.tick(self.state, self.now_ns)
            self.statuses |= self.servo.status
            self.position = self.position + period_s * twist[:3]
            angle = float(np.linalg.norm(twist[3:]))
            if angle:
                axis = twist[3:] / angle
                cross = np.cross(np.eye(3), axis)
                turn = np.eye(3) + math.sin(angle * period_s) * cross + (1 - math.cos(angle * period_s)) * cross @ cross
                self.rotation = turn @ self.rotation
            damped = self.jacobian @ self.jacobian.T + 0.02**2 * np.eye(6)
            self.joints = self.joints + period_s * self.jacobian.T @ np.linalg.solve(damped, twist)
            self.twists.append(twist)
            self.positions.append(self.position.copy())

    def go(self, motion: np.ndarray, seconds: float) -> None:
        """Command at 30 Hz while the servo ticks at 50."""
        due = 0.0
        for _ in range(round(seconds / self.servo.limits.period_s)):
            due += 30 * self.servo.limits.period_s
            if due >= 1:
                due -= 1
                self.command(motion)
            self.tick()


UNSOUND = st.sampled_from([math.nan, math.inf, -math.inf, 1e300])
MOTIONS = st.lists(
    st.tuples(*[st.floats(-0.1, 0.1) | UNSOUND] * 3, *[st.floats(-0.5, 0.5) | UNSOUND] * 3, st.integers(0, 12)),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60)
@given(motions=MOTIONS, arm=st.sampled_from([PANDA, FR3]), speed=st.sampled_from([0.05, 0.1, 0.3]))
def test_f06_whatever_is_commanded_every_limit_is_kept_and_it_ends_at_rest(
    motions: list[tuple[float, ...]], arm: ArmLimits, speed: float
) -> None:
    limits = ServoLimits(arm, speed=speed)
    rig = Arm(limits)
    for *motion, pause in motions:
        if not np.isfinite(motion).all():
            with pytest.raises(ValueError, match="finite"):
                rig.command(np.array(motion))
            continue
        accepted = rig.command(np.array(motion))
        assert np.abs(accepted[:3]).max() <= 0.02 + 1e-12
        assert np.abs(accepted[3:]).max() <= 0.05 + 1e-12
        rig.tick(1 + int(pause))
    rig.tick(30)
    twists, positions = np.array(rig.twists), np.array(rig.positions)
    change = np.diff(twists, axis=0) / limits.period_s
    assert np.linalg.norm(twists[:, :3], axis=1).max() <= speed * arm.translation_velocity * (1 + 1e-9)
    assert np.linalg.norm(twists[:, 3:], axis=1).max() <= speed * arm.rotation_velocity * (1 + 1e-9)
    assert np.linalg.norm(change[:, :3], axis=1).max() <= limits.braking * arm.translation_acceleration * (1 + 1e-9)
    assert np.linalg.norm(change[:, 3:], axis=1).max() <= limits.braking * arm.rotation_acceleration * (1 + 1e-9)
    assert (positions >= np.array(limits.low) - 1e-3).all()
    assert (positions <= np.array(limits.high) + 1e-3).all()
    assert not rig.twists[-1].any()


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("sign", [-1, 1])
def test_f03_a_wall_is_met_at_standstill_and_the_way_back_is_free(axis: int, sign: int) -> None:
    rig = Arm()
    motion = np.zeros(6)
    motion[axis] = 0.02 * sign
    rig.go(motion, 6.0)
    wall = (LIMITS.high if sign > 0 else LIMITS.low)[axis]
    assert abs(rig.position[axis] - wall) < 0.01
    assert sign * (rig.position[axis] - wall) <= 1e-3
    assert rig.statuses & ServoStatus.SLOW_FOR_WALL
    assert np.linalg.norm(rig.twists[-1]) < 0.02
    rig.go(-motion, 1.0)
    assert abs(rig.position[axis] - wall) > 0.15


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("room_m", [0.03, 0.005, -0.01], ids=["near", "at it", "beyond"])
def test_f03_what_is_sent_slows_for_a_wall_however_far_the_target_is_ahead(axis: int, sign: int, room_m: float) -> None:
    """The last guard: the arm is measured to be nearer to the wall than its target's own slowing foresaw."""
    limits = replace(LIMITS, gain=10.0)
    wall = (limits.high if sign > 0 else limits.low)[axis]
    at = CENTRE.copy()
    at[axis] = wall - sign * limits.lead_m
    arm = Arm(limits, at)
    for _ in range(30):  # the arm is held where it is, the target goes to the wall
        arm.command(sign * 0.02 * np.eye(6)[axis])
    pushed = replace(arm.state, position=at + sign * (limits.lead_m - room_m) * np.eye(3)[axis])
    for _ in range(50):
        sent = arm.servo.tick(pushed, arm.now_ns)
    assert sign * sent[axis] <= max(room_m, 0.0) / limits.approach_s + 1e-9
    assert room_m < 0 or arm.servo.status & ServoStatus.SLOW_FOR_WALL


def test_what_the_joints_cannot_follow_is_not_accepted() -> None:
    rig = Arm(jacobian=np.eye(6, 7) * 0.2)
    accepted, due = np.zeros(6), 0.0
    for _ in range(60):
        due += 30 * LIMITS.period_s
        if due >= 1:
            due -= 1
            accepted += rig.command(np.array([0.02, 0, 0, 0, 0, 0]))
        rig.tick()
    assert rig.statuses & ServoStatus.SLOW_FOR_JOINT
    moved = rig.position[0] - CENTRE[0]
    assert moved > 0.02
    assert abs(accepted[0] - moved) < 0.01


def test_no_joint_needs_more_acceleration_than_its_own_whatever_the_pose() -> None:
    rng = np.random.default_rng(0)
    arm, share = LIMITS.arm, LIMITS.joint_acceleration
    eased = 0
    for _ in range(50):
        jacobian = rng.normal(size=(6, 7)) * 10 ** rng.uniform(-1.5, 0.5)
        rig = Arm(jacobian=jacobian)
        rig.tick()
        ease = rig.servo.ease
        eased += ease < 1
        inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + 0.02**2 * np.eye(6))
        ways = rng.normal(size=(200, 2, 3))
        ways /= np.linalg.norm(ways, axis=2, keepdims=True)
        most = LIMITS.speed * ease * np.array([arm.translation_acceleration, arm.rotation_acceleration])
        needed = np.abs((ways * most[:, None]).reshape(200, 6) @ inverse.T)
        assert (needed <= share * np.array(arm.joint_acceleration) * (1 + 1e-9)).all()
        rig.go(np.array([0.02, 0, 0, 0, 0, 0]), 0.5)
        speeds = np.linalg.norm(np.array(rig.twists)[:, :3], axis=1)
        assert speeds.max() <= ease * LIMITS.translation_velocity * (1 + 1e-9)
        assert np.diff(speeds).max() <= most[0] * LIMITS.period_s * (1 + 1e-9), "speeding up, it is as gentle"
    assert 10 < eased < 50


def test_f18_an_arm_outside_its_workspace_says_so_and_can_only_come_back() -> None:
    rig = Arm(position=np.array([0.45, 0.5, 0.35]))
    assert rig.servo.outside(rig.state) == "TCP 5.0 cm beyond the workspace in y"
    rig.go(np.array([0, 0.02, 0, 0, 0, 0.0]), 1.0)
    assert rig.position[1] <= 0.5 + 1e-9
    rig.go(np.array([0, -0.02, 0, 0, 0, 0.0]), 2.0)
    assert rig.position[1] < 0.45
    assert rig.servo.outside(rig.state) == ""


@pytest.mark.parametrize("joint", range(6))
def test_f03_a_joints_end_is_met_at_standstill_and_the_way_back_is_free(joint: int) -> None:
    """Each joint drives one direction of the TCP, so that pushing that way pushes the joint to its end."""
    limits = replace(LIMITS, low=(-9, -9, -9), high=(9, 9, 9), euler_low=(-9, -1.39, -9), euler_high=(9, 1.39, 9))
    rig = Arm(limits, jacobian=np.eye(6, 7) * 0.3)
    motion = np.zeros(6)
    motion[joint] = 0.02 if joint < 3 else 0.05
    rig.go(motion, 30.0)
    end = FR3.joint_high[joint] - limits.joint_margin
    assert rig.joints[joint] <= end + 1e-3
    assert rig.joints[joint] > end - 0.1
    assert rig.statuses & ServoStatus.SLOW_FOR_JOINT
    rig.go(-motion, 3.0)
    assert rig.joints[joint] < end - 0.2


def test_f04_after_silence_it_is_at_rest_within_0_15_s_and_without_a_jump() -> None:
    rig = Arm()
    rig.go(np.array([0, 0.02, 0, 0, 0, 0.05]), 1.0)
    assert np.linalg.norm(rig.twists[-1][:3]) > 0.2
    moving = len(rig.twists)
    rig.tick(round(0.25 / LIMITS.period_s) + 1)
    assert not rig.twists[-1].any(), "0.1 s of silence and 0.15 s to come to rest"
    speeds = [np.linalg.norm(twist[:3]) for twist in rig.twists[moving:]]
    assert speeds[-8:] == sorted(speeds[-8:], reverse=True)
    where = rig.position.copy()
    rig.tick(50)
    np.testing.assert_array_equal(rig.position, where)
    assert rig.servo.status & ServoStatus.SILENCE


def test_it_goes_where_the_accepted_commands_say() -> None:
    rig = Arm()
    accepted = np.zeros(6)
    for _ in range(20):
        accepted += rig.command(np.array([0.004, -0.002, 0.003, 0.0, 0.01, -0.02]))
        rig.tick(2)
    for _ in range(60):  # the last command is repeated as "stay", until the arm has caught up
        accepted += rig.command(np.zeros(6))
        rig.tick(2)
    np.testing.assert_allclose(rig.position - CENTRE, accepted[:3], atol=1e-4)
    turned = rotation_vector(euler_to_matrix(DOWN + accepted[3:]) @ rig.rotation.T)
    assert np.linalg.norm(turned) < 1e-3


def test_near_a_wall_less_and_less_of_a_command_is_accepted() -> None:
    rig = Arm(position=np.array([LIMITS.high[0] - 0.02, 0.0, 0.35]))
    accepted = []
    for _ in range(10):
        accepted.append(rig.command(np.array([0.01, 0, 0, 0, 0, 0]))[0])
        rig.tick(2)
    assert accepted[0] == pytest.approx(0.02 / 30 / LIMITS.approach_s)
    assert accepted == sorted(accepted, reverse=True)
    assert sum(accepted) < 0.02


def test_what_pushes_against_something_does_not_wind_up() -> None:
    rig = Arm()
    for _ in range(60):
        rig.command(np.array([0.01, 0, 0, 0, 0, 0]))
        rig.servo.tick(rig.state, rig.now_ns)  # the arm is blocked
        rig.now_ns += round(1e9 / 30)
    assert rig.statuses & ServoStatus.LEADS_TOO_FAR
    assert rig.servo._position[0] - CENTRE[0] <= LIMITS.lead_m + 1e-12
    bounded = LIMITS.translation_velocity / 30
    assert rig.command(np.array([0.01, 0, 0, 0, 0, 0]))[0] == pytest.approx(bounded), "a press is told as one"


@pytest.mark.parametrize(
    "wrong", [np.full(6, np.nan), np.array([0, 0, np.inf, 0, 0, 0]), np.zeros(5), np.zeros((1, 6))]
)
def test_f01_an_unsound_command_is_refused_before_anything_looks_at_it(wrong: np.ndarray) -> None:
    rig = Arm()
    with pytest.raises(ValueError, match="six finite numbers"):
        rig.command(wrong)
    rig.tick(5)
    assert not np.array(rig.twists).any()


def test_a_stop_brakes_latches_and_only_a_release_lets_go() -> None:
    rig = Arm()
    rig.go(np.array([0.02, 0, 0, 0, 0, 0]), 1.0)
    rig.servo.stop()
    assert not rig.command(np.array([0.02, 0, 0, 0, 0, 0])).any()
    rig.tick(10)
    assert not rig.twists[-1].any()
    rig.go(np.array([0.02, 0, 0, 0, 0, 0]), 0.5)
    assert not rig.twists[-1].any()
    assert rig.servo.status & ServoStatus.STOPPED
    rig.servo.release()
    rig.tick(5)
    assert not rig.twists[-1].any(), "a release alone moves nothing"
    rig.go(np.array([-0.02, 0, 0, 0, 0, 0]), 0.5)
    assert rig.twists[-1][0] < -0.1


def test_an_arm_outside_of_its_workspace_may_only_come_back() -> None:
    outside = np.array([LIMITS.high[0] + 0.05, 0.0, 0.35])
    rig = Arm(position=outside)
    rig.go(np.array([0.02, 0, 0, 0, 0, 0]), 1.0)
    assert rig.position[0] <= outside[0] + 1e-9
    rig.go(np.array([-0.02, 0, 0, 0, 0, 0]), 1.0)
    assert rig.position[0] < LIMITS.high[0]


def test_each_arm_has_its_own_limits_and_an_unknown_one_none() -> None:
    assert limits_of("Panda") is PANDA
    assert limits_of("fr3") is FR3
    with pytest.raises(InputError, match="no limits are known for an arm 'fr33'; did you mean 'fr3'"):
        limits_of("fr33")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 0.0}, "speed"),
        ({"speed": 0.6}, "speed"),
        ({"low": (1, 1, 1)}, "low corner"),
        ({"speed": 0.5}, "brake"),
        ({"speed": 0.1, "braking": 0.09}, "speed <= braking"),
        ({"euler_low": (4.0, -0.5, -2.0)}, "low corner"),
        ({"euler_low": (2.64, -1.5, -2.0)}, "pitch"),
        ({"euler_high": (3.64, 1.5, 2.0)}, "pitch"),
    ],
)
def test_limits_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ServoLimits(FR3, **changes)  # type: ignore[arg-type]
