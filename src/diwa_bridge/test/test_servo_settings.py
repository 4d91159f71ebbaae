"""The servo's settings, one by one: what each is set to is what the arm is held to, whatever the default is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from diwa_bridge.arm.limits import FR3, ServoLimits
from diwa_bridge.arm.servo import ArmState, Servo, ServoStatus
from diwa_runtime.geometry import wrapped
from diwa_runtime.spec import ActionScale

LIMITS = ServoLimits(FR3)
HOME = np.array([0.0, -0.78, 0.0, -2.36, 0.0, 1.57, 0.78])
AT = ArmState(np.array([0.45, 0.0, 0.35]), np.array([math.pi, 0.0, 0.0]), HOME, 10 * np.eye(6, 7))
"""The joints hardly move for what the TCP does."""
MS = 1_000_000


def axis(number: int, size: float = 1.0) -> np.ndarray:
    return size * np.eye(6)[number]


def servo_at(state: ArmState = AT, **changes: object) -> Servo:
    servo = Servo(replace(LIMITS, **changes), ActionScale())  # type: ignore[arg-type]
    servo.anchor(state)
    return servo


def settled(servo: Servo, state: ArmState) -> np.ndarray:
    """Return what is sent once no acceleration limits it any more, right after a command."""
    for _ in range(100):
        sent = servo.tick(state, 0)
    return sent


@pytest.mark.parametrize("silence_s", [0.06, 0.3])
def test_f04_it_is_silent_after_the_silence_that_is_set(silence_s: float) -> None:
    servo = servo_at(silence_s=silence_s)
    servo.command(axis(0, 0.005), AT, 0)
    servo.tick(AT, round(silence_s * 1e9))
    assert not servo.status & ServoStatus.SILENCE
    servo.tick(AT, round(silence_s * 1e9) + 1)
    assert servo.status & ServoStatus.SILENCE


def test_a_command_is_fed_forward_for_one_and_a_half_periods_and_followed_by_the_gain_after_that() -> None:
    servo = servo_at(rate_hz=10.0, gain=2.0, silence_s=0.5)
    servo.command(axis(0, 0.01), AT, 0)
    sent = {at_ms: servo.tick(AT, at_ms * MS)[0] for at_ms in range(0, 400, 10)}
    assert sent[150] == pytest.approx(0.01 * 10 + 2.0 * 0.01)
    assert sent[160] < sent[150]
    assert sent[390] == pytest.approx(2.0 * 0.01)


@pytest.mark.parametrize("number", [0, 5])
def test_no_more_is_accepted_than_the_speed_that_is_set_allows_in_a_period(number: int) -> None:
    servo = servo_at(speed=0.02, rate_hz=10.0)
    fastest = (FR3.translation_velocity if number < 3 else FR3.rotation_velocity) * 0.02
    assert servo.command(axis(number, 1.0), AT, 0)[number] == pytest.approx(fastest / 10)


@pytest.mark.parametrize("number", [1, 5])
def test_what_is_sent_is_no_faster_than_the_speed_that_is_set_however_far_the_target_is_ahead(number: int) -> None:
    servo = servo_at(speed=0.05, gain=10.0, lead_m=0.2, lead_rad=1.0)
    for _ in range(60):
        servo.command(axis(number, 1.0), AT, 0)
    fastest = (FR3.translation_velocity if number < 3 else FR3.rotation_velocity) * 0.05
    assert settled(servo, AT)[number] == pytest.approx(fastest)


@pytest.mark.parametrize(("number", "most"), [(1, 0.013), (5, 0.07)])
def test_the_target_is_ahead_by_the_lead_that_is_set_and_no_more(number: int, most: float) -> None:
    servo = servo_at(lead_m=0.013, lead_rad=0.07)
    accepted = sum(servo.command(axis(number, 1.0), AT, 0) for _ in range(60))
    assert servo.lead(AT)[number] == pytest.approx(most)
    assert accepted[number] > 5 * most, "that the target waits takes nothing off what is accepted"


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("number", [1, 4, 5])
def test_f03_near_a_bound_the_distance_over_the_approach_that_is_set_is_accepted(number: int, sign: int) -> None:
    limits, at = replace(LIMITS, approach_s=0.5), np.concatenate([AT.position, AT.euler])
    low, high = np.array([*limits.low, *limits.euler_low]), np.array([*limits.high, *limits.euler_high])
    at[number] = (high if sign > 0 else low)[number] - sign * 0.02
    state = replace(AT, position=at[:3], euler=at[3:])
    accepted = servo_at(state, approach_s=0.5).command(axis(number, sign * 1.0), state, 0)
    assert sign * accepted[number] == pytest.approx(0.02 / 0.5 / limits.rate_hz)


@pytest.mark.parametrize("motion", [np.zeros(6), axis(1, 0.01)], ids=["stay", "further out"])
def test_f18_beyond_a_wall_nothing_is_accepted_but_what_is_commanded_to_come_back(motion: np.ndarray) -> None:
    outside = replace(AT, position=np.array([0.45, 0.5, 0.35]))
    assert not servo_at(outside).command(motion, outside, 0).any()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("joint", [0, 4])
def test_f03_what_is_sent_slows_for_a_joints_end_however_far_the_target_is_ahead(joint: int, sign: int) -> None:
    """The last guard, and both settings of it: each joint here moves one direction of the TCP."""
    near = replace(AT, jacobian=np.eye(6, 7))
    servo = servo_at(near, approach_s=0.5, joint_margin=0.2, gain=10.0)
    for _ in range(60):
        servo.command(axis(joint, sign * 1.0), near, 0)
    joints = HOME.copy()
    joints[joint] = (FR3.joint_high if sign > 0 else FR3.joint_low)[joint] - sign * (0.2 + 0.05)
    sent = settled(servo, replace(near, joints=joints))
    assert sign * sent[joint] == pytest.approx(0.05 / 0.5, rel=1e-2)


def test_what_the_joints_cannot_follow_is_left_out_of_way_and_turn_alike() -> None:
    far = replace(AT, jacobian=0.2 * np.eye(6, 7))
    motion = axis(0, 0.005) + axis(5, 0.003)
    accepted = servo_at(far).command(motion, far, 0)
    assert 0 < accepted[0] < 0.005
    np.testing.assert_allclose(accepted, accepted[0] / 0.005 * motion, atol=1e-12)


def test_where_joints_need_it_a_slower_arm_is_eased_less() -> None:
    stretched = replace(AT, jacobian=0.05 * np.eye(6, 7))
    eases = []
    for speed in (0.1, 0.2):
        servo = servo_at(stretched, speed=speed)
        servo.tick(stretched, 0)
        eases.append(servo.ease)
    assert eases[0] < 1
    assert eases[0] == pytest.approx(2 * eases[1])


def test_after_a_rest_nothing_of_before_is_followed() -> None:
    servo = servo_at()
    servo.command(axis(0, 0.01), AT, 0)
    assert settled(servo, AT).any()
    servo.rest(AT)
    elsewhere = replace(AT, position=AT.position + 0.01)
    assert not servo.tick(elsewhere, 0).any()
    assert servo.status & ServoStatus.SILENCE


def test_a_rest_says_how_far_the_arm_was_moved_the_short_way_round() -> None:
    servo = servo_at()
    turned = replace(AT, euler=wrapped(AT.euler + np.array([0.02, 0.0, 0.0])))
    np.testing.assert_allclose(servo.rest(turned), axis(3, 0.02), atol=1e-12)


def test_a_stop_that_is_released_at_once_has_stopped_all_the_same() -> None:
    servo = servo_at()
    servo.command(axis(0, 0.01), AT, 0)
    moving = settled(servo, AT)
    servo.stop()
    servo.release()
    assert np.linalg.norm(servo.tick(AT, 0)) < np.linalg.norm(moving)
    assert not settled(servo, AT).any()


def test_after_a_silence_nothing_moves_where_the_robots_clock_goes_back() -> None:
    servo = servo_at()
    servo.command(axis(0, 0.01), AT, 10**9)
    for at_ms in range(1000, 1500, 20):
        servo.tick(AT, at_ms * MS)
    assert not servo.tick(AT, 500 * MS).any()


@pytest.mark.parametrize(
    ("number", "acceleration"), [(1, FR3.translation_acceleration), (5, FR3.rotation_acceleration)]
)
def test_each_tick_changes_what_is_sent_by_the_shares_and_the_period_that_are_set(
    number: int, acceleration: float
) -> None:
    servo = servo_at(speed=0.04, braking=0.07, period_s=0.01)
    servo.command(axis(number, 1.0), AT, 0)
    assert servo.tick(AT, 0)[number] == pytest.approx(0.04 * acceleration * 0.01)
    fastest = settled(servo, AT)[number]
    servo.stop()
    assert servo.tick(AT, 0)[number] == pytest.approx(fastest - 0.07 * acceleration * 0.01)


def test_the_status_says_what_limits_the_last_command_alone() -> None:
    servo = servo_at()
    servo.command(axis(0, 1.0), AT, 0)
    assert servo.status is ServoStatus.TOO_FAST
    servo.command(axis(0, 0.001), AT, 0)
    assert servo.status is ServoStatus.FREE


def test_roll_is_counted_near_half_a_turn_whichever_way_it_is_measured() -> None:
    state = replace(AT, euler=np.array([-math.pi + 0.1, 0.0, 0.0]))
    servo = servo_at(state)
    assert servo.outside(state) == ""
    assert servo.command(axis(3, -0.002), state, 0)[3] == pytest.approx(-0.002)
