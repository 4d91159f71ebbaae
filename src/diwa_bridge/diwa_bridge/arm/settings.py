"""The bridge's parameters: declared with description and range, read once, never changed while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.node import Node

from diwa_bridge.arm.limits import FR3, ArmLimits, ServoLimits
from diwa_bridge.arm.servo import COMMAND_LASTS
from diwa_ros.parameters import Parameter, declared
from diwa_runtime.errors import ConfigError
from diwa_runtime.spec import Spec

_LIMITS = ServoLimits(FR3)

PARAMETERS = {
    "hostname": Parameter("", "of the arm's control box, such as 172.16.0.2"),
    "spec": Parameter("", "file of the Spec that the robot is to have; empty = the play table's, with two cameras"),
    "realtime": Parameter(False, "refuse a kernel without PREEMPT_RT"),
    "gripper": Parameter(True, "whether the arm has a Franka hand"),
    "gripper_hysteresis": Parameter(0.1, "how far a gripper command must lie beyond 0 to turn it", 0.0, 1.0),
    "gripper_speed": Parameter(0.05, "m/s of the fingers", 0.001, 0.2),
    "gripper_force": Parameter(20.0, "N with which it holds", 1.0, 70.0),
    "speed": Parameter(_LIMITS.speed, "share of the arm's velocities and accelerations that is used", 0.01, 1.0),
    "workspace_low": Parameter(list(_LIMITS.low), "m, corner of the box that the TCP stays in, base frame", -5.0, 5.0),
    "workspace_high": Parameter(list(_LIMITS.high), "m, the other corner", -5.0, 5.0),
    "euler_low": Parameter(
        list(_LIMITS.euler_low), "rad, lowest commanded roll, pitch, yaw; roll counted near +pi", -10.0, 10.0
    ),
    "euler_high": Parameter(list(_LIMITS.euler_high), "rad, highest", -10.0, 10.0),
    "approach_s": Parameter(_LIMITS.approach_s, "s; near a wall at most the distance over this is driven", 0.05, 5.0),
    "joint_margin": Parameter(_LIMITS.joint_margin, "rad kept from each joint's end", 0.0, 0.5),
    "lead_m": Parameter(_LIMITS.lead_m, "m that the target may be ahead of the arm", 0.001, 0.2),
    "lead_rad": Parameter(_LIMITS.lead_rad, "rad that it may be ahead", 0.01, 1.0),
    "gain": Parameter(_LIMITS.gain, "1/s; how quickly the arm goes after its target", 0.1, 10.0),
    "silence_s": Parameter(_LIMITS.silence_s, "s without a command until the arm comes to rest", 0.03, 0.5),
    "commander_silence_s": Parameter(0.5, "s without a command until another may command", 0.1, 10.0),
    "frozen_after_s": Parameter(0.1, "s without a new state until the arm counts as lost", 0.05, 5.0),
}


@dataclass(frozen=True)
class ArmSettings:
    """What the node was told; the parameters' descriptions say what each is."""

    hostname: str
    spec: Spec
    realtime: bool
    gripper: bool
    gripper_hysteresis: float
    gripper_speed: float
    gripper_force: float
    speed: float
    commander_silence_s: float
    frozen_after_s: float
    servo: dict[str, Any]

    def limits_for(self, arm: ArmLimits) -> ServoLimits:
        """Return the servo's limits on this arm.

        Raises:
            ConfigError: they cannot be.
        """
        braking, rate_hz = max(self.speed, _LIMITS.braking), self.spec.rate_hz
        # Between two commands of a slow rate nobody is silent.
        servo = self.servo | {"silence_s": max(self.servo["silence_s"], COMMAND_LASTS / rate_hz)}
        return ServoLimits(arm, speed=self.speed, braking=braking, rate_hz=rate_hz, **servo)


def declare_settings(node: Node) -> ArmSettings:
    """Declare the node's parameters, and read them.

    Raises:
        ConfigError: one is of the wrong type, out of range, or missing.
    """
    return settings_of(declared(node, PARAMETERS))


def settings_of(values: dict[str, Any]) -> ArmSettings:
    """Turn the parameters' values into settings.

    Raises:
        ConfigError: no hostname, or a corner that is not three numbers.
        InputError: the Spec's file cannot be read.
    """
    if not values["hostname"]:
        raise ConfigError("diwa_bridge: parameter hostname is empty; give it the address of the arm's control box")
    corners = {"workspace_low": "low", "workspace_high": "high", "euler_low": "euler_low", "euler_high": "euler_high"}
    servo: dict[str, Any] = {}
    for name, field in corners.items():
        if len(values[name]) != 3:
            corner = str(list(values[name]))[:80]
            raise ConfigError(f"diwa_bridge: parameter {name} must be three numbers, not {corner}")
        servo[field] = tuple(float(value) for value in values[name])
    servo |= {name: values[name] for name in ("approach_s", "joint_margin", "lead_m", "lead_rad", "gain", "silence_s")}
    own = (
        "hostname", "realtime", "gripper", "gripper_hysteresis", "gripper_speed", "gripper_force", "speed",
        "commander_silence_s", "frozen_after_s",
    )  # fmt: skip
    spec = Spec.load(Path(values["spec"])) if values["spec"] else Spec()
    return ArmSettings(spec=spec, servo=servo, **{name: values[name] for name in own})
