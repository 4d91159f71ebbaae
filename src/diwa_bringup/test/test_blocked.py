"""A hand that something holds, through the bridge's own servo: what it accepts is what the policy node judges by."""

from __future__ import annotations

import math

import numpy as np
import pytest

from diwa_bridge.arm.limits import FR3, ServoLimits
from diwa_bridge.arm.servo import ArmState, Servo
from diwa_policy_node.skills.goal import RunLimits
from diwa_policy_node.skills.hand_watch import HandWatch
from diwa_runtime.actions import motion_units
from diwa_runtime.rows.row import Row
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_runtime.spec import Spec

SPEC = Spec()
DOWN = np.array([math.pi, 0.0, 0.0])
JOINTS = np.array([0.0, -0.78, 0.0, -2.36, 0.0, 1.57, 0.78])


def blocked_after(speed: float, way: tuple[float, float, float], held_from: float) -> float | None:
    """Ask for full actions for 6 s of an arm that cannot go beyond an x; s from there until it is said, None: never."""
    servo, limits = Servo(ServoLimits(FR3, speed=speed), SPEC.action_scale), RunLimits()
    hand = HandWatch(SPEC, limits.blocked_s, limits.blocked_share)
    position, motion = np.array([0.35, 0.0, 0.4]), np.zeros(6)
    motion[:3] = SPEC.action_scale.translation_m * np.array(way)
    units, now_ns, held_at = motion_units(SPEC.action_scale), 0, None

    def state() -> ArmState:
        return ArmState(position.copy(), DOWN, JOINTS, np.eye(6, 7) * 10)

    servo.rest(state())
    for tick in range(round(6 * SPEC.rate_hz)):
        accepted = servo.command(motion, state(), now_ns)
        for _ in range(2):
            now_ns += round(NANOSECONDS / SPEC.rate_hz / 2)
            goal = position + servo.tick(state(), now_ns)[:3] / SPEC.rate_hz / 2
            if goal[0] < held_from:
                position = goal
            elif held_at is None:
                held_at = tick
        proprio = np.concatenate([position, np.zeros(12)]).astype(np.float32)
        row = Row(now_ns, {"proprio": proprio}, np.append(accepted / units, 1).astype(np.float32))
        if hand.objection(row) is not None:
            return (tick - (held_at or 0)) / SPEC.rate_hz
    return None


@pytest.mark.parametrize("speed", [0.02, 0.05, 0.1, 0.3])
@pytest.mark.parametrize("way", [(1, 0, 0), (1, 0, -0.3), (0.3, 0, 0)])
def test_a_held_arm_is_blocked_at_every_speed_and_a_free_one_at_none(speed, way):
    held = blocked_after(speed, way, held_from=0.36)

    assert held is not None
    assert RunLimits().blocked_s - 0.3 < held < RunLimits().blocked_s + 0.2  # a slow way before counts as standing
    assert blocked_after(speed, way, held_from=10.0) is None
