"""What the policy node's tests stand on: an executor that the test turns, a robot that does as it is told, a client."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionClient
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from ros_rig import DOMAIN, RosRig
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from diwa_msgs.action import RunSkill
from diwa_msgs.msg import EndEffectorDelta, PolicyStatus, RobotState, SceneState
from diwa_policy_node.messages import time_of
from diwa_policy_node.node import PolicyNode
from diwa_ros.qos import LATCHED
from diwa_runtime.bundle import write_bundle
from diwa_runtime.bundle.manifest import FieldStatistics, ImageStatistics
from diwa_runtime.cameras import CameraSources
from diwa_runtime.robot import SPEC_TOPIC, Outcome
from diwa_runtime.rows.images import encode_jpeg
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_runtime.spec import CameraSpec, Spec

if find_spec("toy_bundle") is None:  # outside of pytest, which has the folder on its path
    sys.path.append(str(Path(__file__).resolve().parents[2] / "diwa_runtime" / "test"))
from toy_bundle import ToyWeights, feature_count, toy_graphs, toy_manifest

STATE = Spec()
VISION = Spec(mode="vision", cameras=(CameraSpec("static", 16, 16), CameraSpec("wrist", 16, 16)))
PATIENT = {"hold_after_s": 0.9, "give_up_after_s": 5.0, "unanswered_s": 5.0, "first_observation_s": 30.0}
"""For tests that are not about time: on a busy machine a process may well be stopped for a second."""


def write_skill(
    folder: Path,
    spec: Spec = STATE,
    skill: str = "open_drawer",
    chunk: int = 4,
    camera_sources: CameraSources | None = None,
    **changes: Any,
) -> Path:
    """A bundle that goes to the right and never sees success, unless `changes` of its weights say otherwise."""
    latent = 4
    observe = np.zeros((feature_count(spec), latent), np.float32)
    proprio = next(i for i, name in enumerate(spec.observation_fields) if name == "proprio")
    before = sum(3 for _ in spec.observation_fields[:proprio])
    observe[before + spec.proprio.index("gripper_command"), 0] = 1.0
    decide = np.zeros((latent, 7), np.float32)
    decide[0, 0], decide[0, 6] = 0.5, 1.0
    weights = ToyWeights(
        **{
            "carry": np.zeros((latent, latent), np.float32),
            "observe": observe,
            "act": np.zeros((7, latent), np.float32),
            "decide": decide,
            "judge": np.zeros(latent, np.float32),
            "judge_bias": -10.0,
            "noise_scale": 0.05,
            **changes,
        }
    )
    wide = FieldStatistics.of(np.array([np.full(15, -10.0), np.full(15, 10.0)]))
    seen = {name: ImageStatistics((100.0,) * 768, (100.0,) * 768) for name in ("static", "wrist")}
    manifest = replace(
        toy_manifest(spec, latent, chunk),
        skill=skill,
        max_steps=100_000,
        proprio_starts=wide,
        camera_starts=seen if spec.uses_cameras else {},
        camera_sources=camera_sources or {},
    )
    write_bundle(folder / skill, manifest, toy_graphs(spec, weights, chunk))
    return folder


def node_environment() -> dict[str, str]:
    """Return the environment of a process that hears this one's nodes and finds the workspace's code."""
    return {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN), "PYTHONPATH": os.pathsep.join(sys.path)}


class FakeRobot(Node):
    """Publishes what the test wants at control rate, and obeys the newest command.

    Attributes:
        spoil: changes each state before it is sent; None = send nothing.
        silent: topics that send nothing.
        offset_ns: of the sensor's clock against ours.
        mode: of the robot.
        period_ns: between two stamps.
        picture: what the cameras show; None = something new each time.
        commands: all that were heard.
        moved_m: along x, by what was commanded.
    """

    def __init__(self, spec: Spec = STATE, **options: Any) -> None:
        super().__init__("fake_robot", **options)
        self.spec = spec
        self.spoil: Callable[[RobotState], RobotState | None] = lambda state: state
        self.silent: set[str] = set()
        self.offset_ns, self.mode, self.picture = 0, RobotState.MODE_IDLE, None
        self.obeys = True
        self.period_ns = round(NANOSECONDS / spec.rate_hz)
        self.commands: list[EndEffectorDelta] = []
        self.moved_m = 0.0
        self.states: list[RobotState] = []
        self._newest: EndEffectorDelta | None = None
        self._time_ns = time.time_ns()
        self._answered_ns = 0
        self._random = np.random.default_rng(0)
        self._states = self.create_publisher(RobotState, "robot/state", 10)
        self._scenes = self.create_publisher(SceneState, "scene/state", 10)
        self._images = {
            camera.name: self.create_publisher(CompressedImage, f"camera/{camera.name}/image/compressed", 10)
            for camera in (spec.cameras if spec.uses_cameras else ())
        }
        self._spec = self.create_publisher(String, SPEC_TOPIC, LATCHED)
        self.say_spec(spec)
        self.create_subscription(EndEffectorDelta, "robot/command", self._on_command, 10)
        self.create_timer(1 / spec.rate_hz, self.tick)

    def say_spec(self, spec: Spec) -> None:
        """Say what robot this is."""
        self._spec.publish(String(data=json.dumps(spec.to_json())))

    def _on_command(self, message: EndEffectorDelta) -> None:
        self.commands.append(message)
        if self.obeys:
            self._newest = message

    def tick(self) -> None:
        """One control period."""
        self._time_ns += self.period_ns  # regular, however busy the machine is
        stamp_ns = self._time_ns + self.offset_ns
        state = RobotState(gripper_width=0.04, gripper_command=1.0, mode=self.mode)
        state.header.stamp = time_of(stamp_ns)
        state.tcp_pose.orientation.w = 1.0
        command, self._newest = self._newest, None
        if command is not None:
            self.moved_m += command.translation.x
            state.accepted_translation, state.accepted_rotation = command.translation, command.rotation
            state.gripper_command = 1.0 if command.gripper > 0 else -1.0
            self._answered_ns = command.header.stamp.sec * NANOSECONDS + command.header.stamp.nanosec
        state.tcp_pose.position.x = self.moved_m
        state.answered_stamp = time_of(self._answered_ns)
        for name, publisher in self._images.items():
            if name not in self.silent:
                publisher.publish(self._image(stamp_ns))
        if "scene" not in self.silent:
            scene = SceneState(names=list(self.spec.scene), values=[0.0] * len(self.spec.scene))
            scene.header.stamp = state.header.stamp
            self._scenes.publish(scene)
        spoilt = self.spoil(state)
        if spoilt is not None:
            self.states.append(spoilt)
            self._states.publish(spoilt)

    def _image(self, stamp_ns: int) -> CompressedImage:
        pixels = self._random.integers(0, 256, (16, 16, 3), np.uint8)
        data = encode_jpeg(pixels) if self.picture is None else self.picture
        image = CompressedImage(format="jpeg", data=data)
        image.header.stamp = time_of(stamp_ns)
        return image


class Rig(RosRig):
    """The policy node, a client beside it, and whatever robot the test adds."""

    def __init__(self, skills: Path | None, domain: int = DOMAIN, **parameters: Any) -> None:
        super().__init__(domain=domain)
        self.statuses: list[PolicyStatus] = []
        self.diagnostics: list[Any] = []
        self.peer.create_subscription(PolicyStatus, "policy/status", self.statuses.append, 100)
        self.peer.create_subscription(
            DiagnosticArray, "/diagnostics", lambda array: self.diagnostics.extend(array.status), 100
        )
        self.client = ActionClient(self.peer, RunSkill, "run_skill")
        self.feedback: list[Any] = []
        self.policy: PolicyNode | None = None
        if skills is not None:
            given = {"skills": [str(skills)], "log_folder": "", **parameters}
            self.policy = self.add(PolicyNode(**self.options(**given)))

    def robot(self, spec: Spec = STATE) -> FakeRobot:
        return self.add(FakeRobot(spec, context=self.context))

    def bring_up(self) -> PolicyNode:
        """Configure and activate as soon as the robot is there."""
        policy = self.policy
        assert policy is not None
        self.spin_until(lambda: policy.robot.spec is not None)
        assert policy.trigger_configure() is TransitionCallbackReturn.SUCCESS
        runner = policy.runner
        assert runner is not None
        self.spin_until(lambda: not runner.observations.watch.silent(time.monotonic_ns(), 0.2))
        assert policy.trigger_activate() is TransitionCallbackReturn.SUCCESS
        return policy

    def send(self, skill: str = "open_drawer", **goal: Any) -> Any:
        """Send a goal; return its handle."""
        self.spin_until(self.client.server_is_ready)
        sent = self.client.send_goal_async(
            RunSkill.Goal(skill=skill, **goal), feedback_callback=lambda message: self.feedback.append(message.feedback)
        )
        self.spin_until(sent.done)
        return sent.result()

    def result(self, handle: Any) -> tuple[Outcome, str]:
        """Wait for a goal's end."""
        ended = handle.get_result_async()
        self.spin_until(ended.done)
        result = ended.result().result
        return Outcome(result.outcome), result.reason

    def run(self, skill: str = "open_drawer", **goal: Any) -> tuple[Outcome, str]:
        return self.result(self.send(skill, **goal))

    def close(self) -> None:
        if self.policy is not None:
            self.policy.hold("the test is over")
            self.spin_until(lambda: not self.policy.goals.concluding)
            self.policy.cleanup()
        super().close()
