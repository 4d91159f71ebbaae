"""What each arm may do: one table for each robot, chosen by what the robot says it is. From Franka's documentation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import ConfigError, InputError, nearest

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ArmLimits:
    """What the arm's own controller allows.

    Attributes:
        name: as the robot reports it.
        joint_low, joint_high: (7,) rad.
        joint_velocity: (7,) rad/s.
        joint_acceleration: (7,) rad/s^2.
        translation_velocity: m/s, of the TCP.
        translation_acceleration: m/s^2.
        rotation_velocity: rad/s.
        rotation_acceleration: rad/s^2.
    """

    name: str
    joint_low: tuple[float, ...]
    joint_high: tuple[float, ...]
    joint_velocity: tuple[float, ...]
    joint_acceleration: tuple[float, ...]
    translation_velocity: float
    translation_acceleration: float
    rotation_velocity: float
    rotation_acceleration: float


PANDA = ArmLimits(
    name="panda",
    joint_low=(-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
    joint_high=(2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
    joint_velocity=(2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61),
    joint_acceleration=(15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0),
    translation_velocity=1.7,
    translation_acceleration=13.0,
    rotation_velocity=2.5,
    rotation_acceleration=25.0,
)
FR3 = ArmLimits(
    name="fr3",
    joint_low=(-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159),
    joint_high=(2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159),
    joint_velocity=(2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26),
    joint_acceleration=(10.0,) * 7,
    translation_velocity=3.0,
    translation_acceleration=9.0,
    rotation_velocity=2.5,
    rotation_acceleration=17.0,
)
UPRIGHT_RAD = 1.4
ARMS = {arm.name: arm for arm in (PANDA, FR3)}


def limits_of(name: str) -> ArmLimits:
    """Return the limits of the arm that calls itself so.

    Raises:
        InputError: no such arm is known; names the nearest.
    """
    try:
        return ARMS[name.lower()]
    except KeyError:
        raise InputError(
            f"no limits are known for an arm {name!r}{nearest(name, ARMS)} (there are {', '.join(ARMS)})"
        ) from None


@dataclass(frozen=True)
class ServoLimits:
    """How much of it is used, and where.

    Attributes:
        arm: what the arm allows.
        speed: share of the arm's velocities and accelerations that is used.
        braking: share of its accelerations that is used to slow down; more than `speed`, so that stopping is quick.
        joint_acceleration: share of the joints' accelerations that may be needed for it; the rest is for what the servo
            does not know, such as how the arm's own controller moves the elbow.
        low, high: corners of the workspace (3,), m, base frame.
        euler_low, euler_high: bounds of the commanded Euler angles (3,), rad; roll is counted near +pi.
        approach_s: near a wall the speed towards it is at most the distance over this; so it is met at standstill.
        joint_margin: rad that are kept from each joint's end.
        lead_m, lead_rad: how far the target may be ahead of the measured pose, along each axis.
        gain: 1/s; how quickly the arm goes after its target.
        silence_s: after so long without a command the arm comes to rest where it is.
        rate_hz: of the commands.
        period_s: of the servo.
    """

    arm: ArmLimits
    speed: float = 0.1
    braking: float = 0.5
    joint_acceleration: float = 0.6
    low: tuple[float, float, float] = (0.25, -0.45, 0.02)
    high: tuple[float, float, float] = (0.70, 0.45, 0.70)
    euler_low: tuple[float, float, float] = (2.64, -0.5, -2.0)
    euler_high: tuple[float, float, float] = (3.64, 0.5, 2.0)
    approach_s: float = 0.25
    joint_margin: float = 0.1
    lead_m: float = 0.06
    lead_rad: float = 0.3
    gain: float = 4.0
    silence_s: float = 0.1
    rate_hz: float = 30.0
    period_s: float = 0.02

    def __post_init__(self) -> None:
        if not 0 < self.speed <= self.braking <= 1:
            raise ConfigError(f"speed {self.speed} and braking {self.braking}: must be 0 < speed <= braking <= 1")
        if not all(
            low < high for low, high in zip(self.low + self.euler_low, self.high + self.euler_high, strict=True)
        ):
            raise ConfigError("the workspace's low corner must lie below its high corner in each axis")
        if not -UPRIGHT_RAD < self.euler_low[1] < self.euler_high[1] < UPRIGHT_RAD:
            raise ConfigError(f"pitch must stay within {UPRIGHT_RAD} rad of level, or roll and yaw become one")
        most = self.braking * self.arm.translation_acceleration * self.approach_s
        if self.translation_velocity > most:
            raise ConfigError(
                f"at speed {self.speed} the arm could not brake for a wall: {self.translation_velocity:.2f} m/s, "
                f"{most:.2f} m/s are possible with braking {self.braking} and approach_s {self.approach_s}"
            )

    @property
    def translation_velocity(self) -> float:
        """The fastest the TCP is moved, m/s."""
        return self.speed * self.arm.translation_velocity

    @property
    def rotation_velocity(self) -> float:
        """The fastest it is turned, rad/s."""
        return self.speed * self.arm.rotation_velocity
