"""The parameters of `diwa_bridge` and `diwa_cameras`: what each is set to arrives where it is used."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
pytest.importorskip("rclpy")

from diwa_bridge.arm import node as arm_node
from diwa_bridge.arm import settings as arm
from diwa_bridge.arm.limits import FR3, ServoLimits
from diwa_bridge.cameras import settings as cameras
from diwa_bridge.cameras.source import Format
from diwa_bridge.teleop import own_commands
from diwa_runtime.errors import ConfigError
from diwa_runtime.spec import Spec

pytestmark = pytest.mark.ros
SERVO: dict[str, Any] = {
    "approach_s": 0.6, "joint_margin": 0.2, "lead_m": 0.03, "lead_rad": 0.2, "gain": 3.0, "silence_s": 0.25,
}  # fmt: skip
CORNERS = {
    "workspace_low": (0.3, -0.2, 0.1),
    "workspace_high": (0.6, 0.2, 0.5),
    "euler_low": (2.9, -0.3, -1.0),
    "euler_high": (3.4, 0.3, 1.0),
}


def arm_settings(**changes: Any) -> arm.ArmSettings:
    given = {name: parameter.default for name, parameter in arm.PARAMETERS.items()}
    return arm.settings_of(given | {"hostname": "172.16.0.2"} | changes)


@pytest.mark.parametrize(("speed", "braking"), [(0.3, 0.5), (0.7, 0.7)])
def test_what_the_servo_is_set_to_is_its_limits(tmp_path: Path, speed: float, braking: float) -> None:
    spec = tmp_path / "lab.json"
    spec.write_text(json.dumps(Spec(rate_hz=20.0).to_json()))
    corners = {name: list(corner) for name, corner in CORNERS.items()}
    limits = arm_settings(speed=speed, spec=str(spec), **SERVO, **corners).limits_for(FR3)
    low, high, euler_low, euler_high = CORNERS.values()
    box = {"low": low, "high": high, "euler_low": euler_low, "euler_high": euler_high}
    assert limits == ServoLimits(FR3, speed=speed, braking=braking, rate_hz=20.0, **SERVO, **box)


def test_what_the_bridge_is_set_to_is_what_arm_hand_and_gate_are_made_with(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, tuple[Any, ...]] = {}
    for name in ("Arm", "Gripper", "Bridge"):
        monkeypatch.setattr(arm_node, name, lambda *given, name=name: made.setdefault(name, given))
    node = object.__new__(arm_node.BridgeNode)
    node.settings = arm_settings(
        speed=0.2, realtime=True, gripper_hysteresis=0.3, gripper_speed=0.07, gripper_force=33.0,
        commander_silence_s=1.5, frozen_after_s=0.4,
    )  # fmt: skip
    node._scale = node.settings.spec.action_scale
    node._make_bridge()
    assert made["Arm"] == ("172.16.0.2", 0.2, True)
    assert made["Gripper"] == ("172.16.0.2", 0.3, 0.07, 33.0)
    _, _, limits_for, gate, scale, frozen_after_s = made["Bridge"]
    assert (limits_for, gate.silence_ns) == (node.settings.limits_for, 1_500_000_000)
    assert (scale, frozen_after_s) == (node.settings.spec.action_scale, 0.4)
    node.settings = replace(node.settings, gripper=False)
    del made["Gripper"]
    node._make_bridge()
    assert "Gripper" not in made


def camera_settings(**changes: Any) -> cameras.CameraSettings:
    given = {name: parameter.default for name, parameter in cameras.PARAMETERS.items()}
    return cameras.settings_of(given | changes)


BOTH = {"static_source": "opencv:0", "wrist_source": "opencv:1"}


def test_what_each_camera_is_set_to_is_its_own() -> None:
    sizes = {"static_width": 320, "static_height": 240, "static_rate_hz": 15, "wrist_width": 848, "wrist_rate_hz": 60}
    settings = camera_settings(
        **BOTH, **sizes, jpeg_quality=70, pairs_only=True, frozen_after_s=2.0, silent_after_s=0.7
    )
    assert settings.sources == {"static": "opencv:0", "wrist": "opencv:1"}
    assert settings.formats == {"static": Format(320, 240, 15), "wrist": Format(848, 480, 60)}
    assert (settings.jpeg_quality, settings.pairs_only) == (70, True)
    limits = asdict(settings.limits)
    assert (limits["frozen_after_s"], limits["silent_after_s"]) == (2.0, 0.7)


@pytest.mark.parametrize(("set_s", "paired_ns"), [(0.0, 33_333_333), (0.01, 10_000_000)])
def test_a_pair_is_as_near_as_is_set_or_half_a_period_of_the_slower_camera(set_s: float, paired_ns: int) -> None:
    assert camera_settings(**BOTH, static_rate_hz=15, pair_within_s=set_s).pair_within_ns == paired_ns


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "no camera"),
        ({"static_source": "opencv:0", "pairs_only": True}, "pairs_only needs both"),
        ({**BOTH, "pair_within_s": 0.02}, "at most half a frame period, 0.01667 s"),
    ],
)
def test_cameras_that_cannot_be_set_so_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        camera_settings(**changes)


@pytest.mark.parametrize(("rate", "said"), [(0.94, "only 94 % of the commands arrive in time"), (0.96, "")])
def test_an_arm_that_hears_less_than_it_should_is_said_before_it_is_refused(rate: float, said: str) -> None:
    node: Any = object.__new__(arm_node.BridgeNode)
    node.bridge = SimpleNamespace(outside="", success_rate=rate, stalled_s=0.0)
    node._pace, node._stalls, node._reported_stalls = SimpleNamespace(slow=""), 0, 0
    assert "; ".join(filter(None, node._warnings())) == said


def test_who_commands_under_our_name_counts_for_as_long_as_the_robot_waits_for_its_commander() -> None:
    assert arm.PARAMETERS["commander_silence_s"].default == own_commands.SILENT_S
