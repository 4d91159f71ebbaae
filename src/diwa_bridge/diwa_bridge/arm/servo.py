"""The servo: relative commands move a target, and a bounded velocity follows it. Pure, without a robot and without ROS.

What is accepted of a command is what speed, walls and joints leave of it; that is what `robot/state` says and what
a policy's filter is told. That the target waits for an arm that something holds takes nothing off it, as in the
simulator: a press has to look like one in recordings, or a world model learns that hands which ask for motion move.

The velocity is valid for some tens of milliseconds only, so whoever sends none has stopped the arm. Near walls and
joint ends everything slows down towards standstill, never clips, and the way back is always free.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from diwa_bridge.arm.limits import ServoLimits
from diwa_runtime.geometry import euler_to_matrix, rotation_vector, towards, wrapped
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_runtime.spec import ActionScale

Array = NDArray[np.float64]
_DAMPING = 0.02
COMMAND_LASTS = 1.5
"""Control periods for which a command's own velocity is fed forward; then only the error is followed."""


class ServoStatus(IntFlag):
    """What limits the arm at the moment; 0 = nothing."""

    FREE = 0
    SLOW_FOR_WALL = 1
    SLOW_FOR_JOINT = 2
    TOO_FAST = 4
    LEADS_TOO_FAR = 8
    SILENCE = 16
    STOPPED = 32


@dataclass(frozen=True)
class ArmState:
    """What was measured.

    Attributes:
        position: of the TCP (3,), m, base frame.
        euler: of the TCP (3,), rad, extrinsic xyz, any wrap.
        joints: (7,) rad.
        jacobian: of the TCP (6, 7), base frame, translation first.
    """

    position: Array
    euler: Array
    joints: Array
    jacobian: Array


class Servo:
    """Follows commands within limits.

    Attributes:
        status: what limited the last command or tick.
        twist: what was sent last (6,): m/s, rad/s, base frame.
        ease: share of the velocities and accelerations that the joints allow where the arm is.
    """

    def __init__(self, limits: ServoLimits, scale: ActionScale) -> None:
        self.limits, self._scale = limits, scale
        self._low, self._high = np.array(limits.low), np.array(limits.high)
        self._euler_low, self._euler_high = np.array(limits.euler_low), np.array(limits.euler_high)
        self._joint_low = np.array(limits.arm.joint_low) + limits.joint_margin
        self._joint_high = np.array(limits.arm.joint_high) - limits.joint_margin
        self._joint_velocity = np.array(limits.arm.joint_velocity)
        self._joint_acceleration = limits.joint_acceleration * np.array(limits.arm.joint_acceleration)
        self.status = ServoStatus.FREE
        self.twist: Array = np.zeros(6)
        self.ease = 1.0
        self._feed: Array = np.zeros(6)
        self._commanded_ns: int | None = None
        self._stopped = False
        self._position: Array = np.zeros(3)
        self._euler: Array = np.zeros(3)

    def anchor(self, state: ArmState) -> Array:
        """Let the target be where the arm is; return how far it moved by that (6,), m and rad of the Euler angles."""
        moved = np.concatenate([state.position - self._position, wrapped(state.euler - self._euler)])
        self._position = state.position.copy()
        self._euler = self._unwrapped(state.euler)
        self._feed[:] = 0
        return moved

    def rest(self, state: ArmState) -> Array:
        """Begin anew from where the arm is: something else moved it, so nothing of before is followed up.

        Returns:
            how far the target moved by that (6,), m and rad of the Euler angles.
        """
        self.twist, self._commanded_ns = np.zeros(6), None
        return self.anchor(state)

    def stop(self) -> None:
        """Come to rest, and stay there until `release`."""
        self._stopped = True

    def release(self) -> None:
        """End a stop; the target is wherever the arm is by then."""
        self._stopped, self._commanded_ns = False, None

    def command(self, motion: Array, state: ArmState, now_ns: int) -> Array:
        """Move the target by a command; return what was accepted of it.

        Args:
            motion: translation 3 (m) and rotation 3 (rad, added to the Euler angles).
            state: measured last.
            now_ns: when the command was received.

        Returns:
            (6,) in the same units; zeros while stopped.

        Raises:
            ValueError: not six finite numbers; the target is where it was.
        """
        motion = np.asarray(motion, np.float64)
        if motion.shape != (6,) or not np.isfinite(motion).all():
            raise ValueError(f"a command must be six finite numbers, not {motion}")
        if self._stopped:
            self.status = ServoStatus.STOPPED
            return np.zeros(6)
        inverse = _damped_inverse(state.jacobian)
        self.status, self.ease = ServoStatus.FREE, self._joint_ease(inverse)
        step, turn = self._bounded_step(motion), self._bounded_turn(motion)
        # What the joints cannot follow is not accepted, or the target would run ahead of the arm.
        share = self._joint_share(self._velocity(step, turn), inverse, state.joints)
        step, turn = share * step, share * turn
        position, euler = self._led(self._position + step, self._euler + turn, state)
        self._feed = self._velocity(position - self._position, euler - self._euler)
        self._position, self._euler, self._commanded_ns = position, euler, now_ns
        return np.concatenate([step, turn])

    def tick(self, state: ArmState, now_ns: int) -> Array:
        """Return the velocity (6,) to send now: m/s and rad/s in the base frame."""
        inverse, wanted = _damped_inverse(state.jacobian), np.zeros(6)
        self.ease = self._joint_ease(inverse)
        if self._stopped or self._is_silent(now_ns):
            self.status |= ServoStatus.STOPPED if self._stopped else ServoStatus.SILENCE
            self.anchor(state)
        else:
            wanted = self._towards_target(state, now_ns)
        wanted = self._within_walls(self._within_speed(wanted), state)
        wanted = wanted * self._joint_share(wanted, inverse, state.joints)
        self.twist = self._smoothed(wanted)
        return self.twist

    def outside(self, state: ArmState) -> str:
        """Say where the arm is beyond what it is allowed; "" = nowhere. From there only the ways back are open."""
        position = _beyond(state.position, self._low, self._high)
        euler = _beyond(self._unwrapped(state.euler), self._euler_low, self._euler_high)
        said = [f"TCP {100 * by:.1f} cm beyond the workspace in {axis}" for axis, by in position.items()]
        turns = dict(zip("xyz", ("roll", "pitch", "yaw"), strict=True))
        said += [f"{turns[axis]} {by:.2f} rad beyond its bounds" for axis, by in euler.items()]
        return "; ".join(said)

    def lead(self, state: ArmState) -> Array:
        """Return how far the target is ahead of the arm (6,): m, and a rotation vector in rad."""
        turn = rotation_vector(euler_to_matrix(self._euler) @ euler_to_matrix(state.euler).T)
        return np.concatenate([self._position - state.position, turn])

    def _velocity(self, step: Array, turn: Array) -> Array:
        """Return the twist (6,) that moves the target by a step and a turn of its Euler angles in a control period."""
        rotation = euler_to_matrix(self._euler + turn) @ euler_to_matrix(self._euler).T
        return np.concatenate([step, rotation_vector(rotation)]) * self.limits.rate_hz

    def _is_silent(self, now_ns: int) -> bool:
        return self._commanded_ns is None or now_ns - self._commanded_ns > self.limits.silence_s * NANOSECONDS

    def _bounded_step(self, motion: Array) -> Array:
        """Return how far the target moves: no faster than allowed, and slower and slower towards a wall."""
        limits, period_s = self.limits, 1 / self.limits.rate_hz
        step = np.clip(motion[:3], -self._scale.translation_m, self._scale.translation_m)
        step = self._shortened(step, self.ease * limits.translation_velocity * period_s)
        return self._slowed(step, self._position, self._low, self._high, period_s / limits.approach_s)

    def _bounded_turn(self, motion: Array) -> Array:
        limits, period_s = self.limits, 1 / self.limits.rate_hz
        turn = np.clip(motion[3:], -self._scale.rotation_rad, self._scale.rotation_rad)
        turn = self._shortened(turn, self.ease * limits.rotation_velocity * period_s)
        return self._slowed(turn, self._euler, self._euler_low, self._euler_high, period_s / limits.approach_s)

    def _shortened(self, vector: Array, most: float) -> Array:
        short = towards(np.zeros_like(vector), vector, most)
        if short is not vector:
            self.status |= ServoStatus.TOO_FAST
        return short

    def _slowed(self, step: Array, at: Array, low: Array, high: Array, share: float) -> Array:
        """Let no component go further than that share of its distance to the wall that it goes towards."""
        room = share * np.maximum(np.where(step > 0, high - at, at - low), 0.0)
        slowed = np.clip(step, -room, room)
        if (slowed != step).any():
            self.status |= ServoStatus.SLOW_FOR_WALL
        return slowed

    def _led(self, position: Array, euler: Array, state: ArmState) -> tuple[Array, Array]:
        """Keep the target near the arm: what pushes against something must not wind up."""
        lead, turn = position - state.position, wrapped(euler - state.euler)
        kept, kept_turn = (
            np.clip(value, -most, most) for value, most in ((lead, self.limits.lead_m), (turn, self.limits.lead_rad))
        )
        if (kept != lead).any() or (kept_turn != turn).any():
            self.status |= ServoStatus.LEADS_TOO_FAR
        return state.position + kept, euler - turn + kept_turn

    def _towards_target(self, state: ArmState, now_ns: int) -> Array:
        assert self._commanded_ns is not None
        lasts = now_ns - self._commanded_ns <= COMMAND_LASTS / self.limits.rate_hz * NANOSECONDS
        return (self._feed if lasts else 0.0) + self.limits.gain * self.lead(state)

    def _within_speed(self, twist: Array) -> Array:
        limits = self.limits
        return np.concatenate(
            [
                self._shortened(twist[:3], self.ease * limits.translation_velocity),
                self._shortened(twist[3:], self.ease * limits.rotation_velocity),
            ]
        )

    def _within_walls(self, twist: Array, state: ArmState) -> Array:
        slowed = self._slowed(twist[:3], state.position, self._low, self._high, 1 / self.limits.approach_s)
        return np.concatenate([slowed, twist[3:]])

    def _joint_share(self, twist: Array, inverse: Array, joints: Array) -> float:
        """Return the share of a twist at which no joint goes towards its end faster than its distance allows.

        It is one for all components, so the arm stays on its path; a motion away from the end is not slowed.
        """
        velocity = inverse @ twist
        room = np.maximum(np.where(velocity > 0, self._joint_high - joints, joints - self._joint_low), 0.0)
        most = np.minimum(room / self.limits.approach_s, self.limits.speed * self._joint_velocity)
        moving = np.abs(velocity) > 1e-9
        scale = float(np.min(most[moving] / np.abs(velocity[moving]), initial=1.0))
        if scale < 1.0:
            self.status |= ServoStatus.SLOW_FOR_JOINT
        return scale

    def _joint_ease(self, inverse: Array) -> float:
        """Return the share of the TCP's accelerations, in any direction, at which no joint needs more than its own.

        Velocities are eased with it, so that the way to standstill takes as long everywhere.
        """
        arm = self.limits.arm
        needed = self.limits.speed * (
            arm.translation_acceleration * np.linalg.norm(inverse[:, :3], axis=1)
            + arm.rotation_acceleration * np.linalg.norm(inverse[:, 3:], axis=1)
        )
        return float(min(1.0, np.min(self._joint_acceleration / np.maximum(needed, 1e-9))))

    def _smoothed(self, wanted: Array) -> Array:
        """Return the twist no further from the last one than the arm may accelerate, or brake, in one period."""
        arm, limits = self.limits.arm, self.limits
        smoothed = wanted.copy()
        for part, acceleration in (
            (slice(0, 3), arm.translation_acceleration),
            (slice(3, 6), arm.rotation_acceleration),
        ):
            last = self.twist[part]
            slower = np.linalg.norm(wanted[part]) < np.linalg.norm(last)
            share = limits.braking if slower else self.ease * limits.speed
            smoothed[part] = towards(last, wanted[part], share * acceleration * limits.period_s)
        return smoothed

    def _unwrapped(self, euler: Array) -> Array:
        """Return Euler angles with each one in the turn that the bounds are counted in."""
        middle = (self._euler_low + self._euler_high) / 2
        return middle + wrapped(euler - middle)


def _beyond(at: Array, low: Array, high: Array) -> dict[str, float]:
    """Return by how much each axis, x y z, lies beyond its bounds, where one does."""
    beyond = np.maximum(low - at, at - high)
    return {axis: float(by) for axis, by in zip("xyz", beyond, strict=True) if by > 0}


def _damped_inverse(jacobian: Array) -> Array:
    """Return the inverse (7, 6) of a Jacobian (6, 7), which stays finite where the arm is stretched out."""
    return jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + _DAMPING**2 * np.eye(6))
