"""The whole way on a simulated arm that speaks Franka's network protocol, with nothing of ours in the robot's place.

Scripted tele-operation into a bag, the bag through `ingest`, and then a bundle that drives the arm through the policy
node, goal after goal. The table's things are not there, so a still scene stands in for what a state-mode bundle wants:
the arm does move, the drawer does not. A bundle that sees gets no scene, but two cameras that play videos, made of what
its recordings began with; all streams then go by time of receipt, for the simulated arm's clock is slower than theirs.
Ends with 1 if a goal ended in any other way than success or its time.

usage: scripts/robot-twin BUNDLE [MINUTES]
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cv2
import numpy as np
import yaml
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from diwa_msgs.action import RunSkill
from diwa_msgs.msg import RobotState, SceneState
from diwa_policy_node.client import SkillClient
from diwa_ros.messages import filled
from diwa_ros.process import ros_process, spin_until
from diwa_runtime.bundle import Bundle
from diwa_runtime.bundle.manifest import ImageStatistics, Manifest
from diwa_runtime.robot import Outcome, RobotMode
from diwa_runtime.robot_messages import scene_state
from diwa_runtime.rows.streams import nanoseconds_of, streams_of
from diwa_runtime.spec import Spec

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "src" / "diwa_bridge" / "test"))
from robot_rig import simulator  # noqa: E402

HOSTNAME, DOMAIN = "127.0.0.51", "88"
OUT = ROOT / "runs" / "robot_twin"
READY_S = 60.0
SPARE_S = 180.0
"""So much longer than the goals the videos are."""
EXPECTED = {Outcome.SUCCESS, Outcome.TIMEOUT}
VIDEO_SIZE, RATE_HZ = (160, 120), 30
HANDS = [
    {"at_s": 1.0, "press": ["start"]},
    {"at_s": 1.5, "x": 0.6, "y": 0.4},
    {"at_s": 3.5, "z": -0.8, "yaw": 0.5},
    {"at_s": 5.5, "x": -0.6, "y": -0.4, "press": ["gripper"]},
    {"at_s": 7.5, "press": ["save"]},
    {"at_s": 8.5, "press": ["start"]},
    {"at_s": 9.0, "z": 0.8, "yaw": -0.5, "press": ["gripper"]},
    {"at_s": 11.0, "y": 0.6},
    {"at_s": 13.0, "press": ["save"]},
    {"at_s": 14.0, "press": ["quit"]},
]


class StillScene(Node):
    """Says of each robot state that nothing on the table has moved, where that is wanted, and counts the modes."""

    def __init__(self, is_wanted: bool) -> None:
        """Listen to the robot."""
        super().__init__("still_scene")
        self._scene = self.create_publisher(SceneState, "scene/state", 10) if is_wanted else None
        self.create_subscription(RobotState, "robot/state", self._on_state, 10)
        self.modes: Counter[str] = Counter()

    def _on_state(self, state: RobotState) -> None:
        self.modes[RobotMode(state.mode).name] += 1
        if self._scene is not None:
            self._scene.publish(filled(SceneState(), scene_state(np.zeros(24), nanoseconds_of(state.header.stamp))))


def make_video(path: Path, shown: ImageStatistics, seconds: float, still_after_s: float = np.inf) -> Path:
    """Write what a camera showed at the recordings' starts, in the mean, with noise; after some seconds without any."""
    random, codec = np.random.default_rng(0), cv2.VideoWriter.fourcc(*"MJPG")
    mean = cv2.resize(np.reshape(shown.mean, (16, 16, 3)).astype(np.float32), VIDEO_SIZE)[..., ::-1]
    video = cv2.VideoWriter(str(path), codec, RATE_HZ, VIDEO_SIZE)
    for number in range(round(seconds * RATE_HZ)):
        noise = random.normal(0, 3, mean.shape) if number < still_after_s * RATE_HZ else 0
        video.write(np.clip(mean + noise, 0, 255).astype(np.uint8))
    video.release()
    return path


def by_receipt(bundle: Path) -> Path:
    """Copy a bundle and have all its streams go by the time of receipt; return the copy."""
    copy = OUT / "bundle"
    shutil.copytree(bundle, copy, dirs_exist_ok=True)
    manifest = json.loads((copy / "manifest.json").read_text(encoding="utf-8"))
    for stream in manifest["spec"]["streams"]:
        stream["timeline"] = "receipt"
    (copy / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return copy


def cameras(manifest: Manifest, seconds: float) -> list[str]:
    """Return the words that have the camera node play a video for each camera of a bundle."""
    words: dict[str, object] = {"pairs_only": True}
    for name, shown in manifest.camera_starts.items():
        path = make_video(OUT / f"{name}.avi", shown, seconds)
        sizes = {f"{name}_width": VIDEO_SIZE[0], f"{name}_height": VIDEO_SIZE[1], f"{name}_rate_hz": RATE_HZ}
        words |= {f"{name}_source": f"file:{path}", **sizes}
    return parameters(**words)


@contextmanager
def process(name: str, words: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a node of the built workspace for the block; told to stop as Ctrl-C would."""
    package, _, executable = name.partition("/")
    path = ROOT / "install" / package / "lib" / package / executable
    with (OUT / f"{package}_{executable}.log").open("wb") as log:
        running = subprocess.Popen([str(path), *words], stdout=log, stderr=log)
        try:
            yield running
        finally:
            running.send_signal(signal.SIGTERM)
            try:
                running.wait(20)
            finally:
                running.kill()


def parameters(**values: object) -> list[str]:
    """Return a node's parameters as words; JSON is YAML, whatever a path's name has."""
    words = {name: json.dumps(str(value) if isinstance(value, Path) else value) for name, value in values.items()}
    return ["--ros-args", *(word for name, value in words.items() for word in ("-p", f"{name}:={value}"))]


def teleoperate(scene: StillScene, spec: Spec) -> int:
    """Record scripted hands, and return how many rows `ingest` makes of the bag."""
    script, bag, dataset = OUT / "hands.yaml", OUT / "bag", OUT / "dataset"
    script.write_text(yaml.safe_dump(HANDS), encoding="utf-8")
    hands = parameters(devices=[f"script:{script}"], tasks=["open_drawer"], translation_m=0.004)
    observed = {stream.topic for stream in streams_of(spec, spec.observation_fields)}
    topics = ["--topics", *observed, "robot/command", "episode/event"]
    with process("diwa_sim/record", ["--output", str(bag), *topics]):
        spin_until(scene, lambda: scene.count_subscribers("robot/state") > 1, READY_S)
        with process("diwa_bridge/teleop", hands) as teleop:
            if not spin_until(scene, lambda: teleop.poll() is not None, READY_S):
                raise RuntimeError("the script did not come to its end")
            if teleop.returncode:
                raise RuntimeError(f"tele-operation failed; see {OUT}/diwa_bridge_teleop.log")
    words = ["--bags", str(bag), "--output", str(dataset), "--spec", str(OUT / "spec.json")]
    subprocess.run([sys.executable, "-m", "diwa_trainer", "ingest", *words], check=True)
    episodes = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))["episodes"]
    if [episode["task"] for episode in episodes if episode["task"]] != ["open_drawer"] * 2:
        raise RuntimeError(f"two demonstrations were marked; the dataset has {episodes}")
    return sum(episode["end"] - episode["start"] for episode in episodes)


def drive(bundle: Path, seconds: float) -> Counter[str]:
    """Ask for the bundle's skill again and again; return how the goals ended."""
    skill, ended = Bundle.load(bundle).manifest.skill, Counter[str]()
    words = parameters(
        skills=[str(bundle)],
        autostart=True,
        allow_far_start=True,
        log_folder=OUT / "logs",
        give_up_after_s=1.0,
        least_rate=0.3,
    )
    with process("diwa_policy_node/node", words):
        client = SkillClient()
        client.wait(READY_S)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            result = client.run(RunSkill.Goal(skill=skill))
            outcome = Outcome(result.outcome)
            ended[outcome.name] += 1
            if outcome not in EXPECTED:
                print(f"{outcome.name}: {result.reason}", flush=True)
                break
        client.destroy_node()
    return ended


def main(bundle: Path, minutes: float) -> int:
    """Run all of it; return the exit code."""
    OUT.mkdir(parents=True, exist_ok=True)
    sees = Bundle.load(bundle).spec.uses_cameras
    bundle = by_receipt(bundle) if sees else bundle
    manifest, spec = Bundle.load(bundle).manifest, OUT / "spec.json"
    spec.write_text(json.dumps(manifest.spec.to_json()), encoding="utf-8")
    played = cameras(manifest, 60 * minutes + SPARE_S) if sees else []
    os.environ["ROS_DOMAIN_ID"] = DOMAIN
    with ExitStack() as stack:
        robot = stack.enter_context(simulator("franky-sim", HOSTNAME))
        stack.enter_context(ros_process(args=[]))
        scene = StillScene(is_wanted=not sees)
        stack.enter_context(
            process("diwa_bridge/node", parameters(hostname=robot.hostname, frozen_after_s=1.0, spec=spec))
        )
        if not spin_until(scene, lambda: scene.modes.total() > 0, READY_S):
            raise RuntimeError(f"the bridge does not come up; see {OUT}/diwa_bridge_node.log")
        if sees:
            stack.enter_context(process("diwa_bridge/cameras", played))
        rows = teleoperate(scene, manifest.spec)
        print(f"tele-operation: {rows} rows, two demonstrations", flush=True)
        executor = SingleThreadedExecutor()
        executor.add_node(scene)
        threading.Thread(target=executor.spin, daemon=True).start()
        scene.modes.clear()
        ended = drive(bundle, 60 * minutes)
        executor.shutdown()
        scene.destroy_node()
    print(f"{minutes:g} minutes, {ended.total()} goals: {dict(ended)}; states by mode: {dict(scene.modes)}")
    return 0 if ended.total() and set(ended) <= {outcome.name for outcome in EXPECTED} else 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__.rpartition("usage: ")[2] if __doc__ else 2)
    sys.exit(main(Path(sys.argv[1]).absolute(), float(sys.argv[2]) if len(sys.argv) > 2 else 10.0))
