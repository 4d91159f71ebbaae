"""The policy node's parameters: declared with description and range, read once, never changed while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.node import Node

from diwa_policy_node.skills.goal import RunLimits
from diwa_policy_node.skills.overlap import SeamLimits
from diwa_policy_node.skills.start_gate import GateLimits
from diwa_ros.parameters import Parameter, declared
from diwa_runtime.command_gate import unusable_source
from diwa_runtime.errors import ConfigError

_LIMITS, _SEAMS, _GATE = RunLimits(), SeamLimits(), GateLimits()

PARAMETERS = {
    "skills": Parameter([""], "folders: each a bundle, or one that bundles lie in"),
    "source": Parameter("policy", "the name under which the robot is commanded"),
    "log_folder": Parameter("runs/policy", "folder of the runs' logs; empty = none"),
    "autostart": Parameter(False, "configure and activate by itself as soon as the robot is there"),
    "threads": Parameter(1, "threads of one inference", 1, 64),
    "shadow": Parameter(_LIMITS.shadow, "say what would be done on policy/shadow_command, and command nothing"),
    "overlapped": Parameter(_LIMITS.overlapped, "plan the next chunk while this one runs"),
    "hold_after_s": Parameter(_LIMITS.hold_after_s, "s without an observation until the arm holds", 0.02, 1.0),
    "give_up_after_s": Parameter(_LIMITS.give_up_after_s, "s without one until the goal ends", 0.05, 5.0),
    "first_observation_s": Parameter(_LIMITS.first_observation_s, "s that the first one may take", 0.1, 30.0),
    "unanswered_s": Parameter(_LIMITS.unanswered_s, "s without a command taken until the goal ends", 0.1, 5.0),
    "least_rate": Parameter(_LIMITS.least_rate, "share of the Spec's rate that the robot must have", 0.1, 1.0),
    "success_frames": Parameter(_LIMITS.success_frames, "observations in a row that must look like success", 1, 100),
    "success_release": Parameter(
        _LIMITS.success_release,
        "share of the threshold below it at which the count restarts",
        0.0,
        1.0,
    ),
    "blocked_s": Parameter(
        _LIMITS.blocked_s, "s that the hand does not follow until the goal ends; 0 = for ever", 0.0, 60.0
    ),
    "blocked_share": Parameter(
        _LIMITS.blocked_share, "share of what was asked for that a hand goes that follows", 0.0, 1.0
    ),
    "stuck_after_s": Parameter(
        _LIMITS.stuck_after_s, "s of one and the same picture until a camera is stuck", 0.1, 60.0
    ),
    "stuck_moved_m": Parameter(_LIMITS.stuck_moved_m, "m that the arm must have moved meanwhile", 0.0, 1.0),
    "acceleration": Parameter(_SEAMS.acceleration, "m/s^2, overlapped mode's limit", 0.1, 13.0),
    "rotation_acceleration": Parameter(_SEAMS.rotation_acceleration, "rad/s^2, overlapped mode's limit", 0.1, 25.0),
    "blend_ticks": Parameter(_SEAMS.blend_ticks, "control ticks over which a new plan takes over", 0, 30),
    "start_proprio_limit": Parameter(_GATE.proprio, "ranges of the training starts that the arm may be away", 0.0, 1e3),
    "start_camera_limit": Parameter(_GATE.camera, "times the spread that a camera's picture may differ", 0.0, 1e3),
    "allow_far_start": Parameter(_GATE.allow_far_start, "start wherever the arm is"),
    "allow_moved_camera": Parameter(_GATE.allow_moved_camera, "start whatever the cameras show"),
}


@dataclass(frozen=True)
class PolicySettings:
    """What the node was told; the parameters' descriptions say what each is."""

    skills: tuple[Path, ...]
    source: str
    log_folder: Path | None
    autostart: bool
    threads: int
    limits: RunLimits


def declare_settings(node: Node) -> PolicySettings:
    """Declare the node's parameters, and read them.

    Raises:
        ConfigError: one is of the wrong type or out of range, or two do not go together.
    """
    return settings_of(declared(node, PARAMETERS))


def settings_of(values: dict[str, Any]) -> PolicySettings:
    """Turn the parameters' values into settings.

    Raises:
        ConfigError: two do not go together.
    """

    def chosen(*names: str) -> dict[str, Any]:
        return {name: values[name] for name in names}

    if values["give_up_after_s"] < values["hold_after_s"]:
        raise ConfigError("diwa_policy: give_up_after_s must not be less than hold_after_s")
    if why := unusable_source(values["source"]):
        raise ConfigError(f"diwa_policy: parameter source {why}")
    gate = GateLimits(
        proprio=values["start_proprio_limit"],
        camera=values["start_camera_limit"],
        **chosen("allow_far_start", "allow_moved_camera"),
    )
    limits = RunLimits(
        **chosen(
            "hold_after_s", "give_up_after_s", "first_observation_s", "unanswered_s", "least_rate", "success_frames",
            "success_release", "blocked_s", "blocked_share", "stuck_after_s", "stuck_moved_m", "overlapped", "shadow",
        ),
        seams=SeamLimits(**chosen("acceleration", "rotation_acceleration", "blend_ticks")),
        gate=gate,
    )  # fmt: skip
    return PolicySettings(
        skills=tuple(Path(folder) for folder in values["skills"] if folder),
        log_folder=Path(values["log_folder"]) if values["log_folder"] else None,
        limits=limits,
        **chosen("source", "autostart", "threads"),
    )
