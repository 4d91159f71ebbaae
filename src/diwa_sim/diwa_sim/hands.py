"""`hands`: somebody who plays or demonstrates at the simulated table over its topics alone, to be recorded.

The table's node runs in the same process, at real time or faster, and the hands look at the table itself, as a person
would who stands beside it. What they do goes over `robot/command`, and what they achieve is marked on `episode/event`;
so a recording needs no `scene/state`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from diwa_msgs.msg import EndEffectorDelta, EpisodeEvent, RobotState
from diwa_ros.messages import filled
from diwa_ros.process import ros_process, told_to_stop
from diwa_ros.qos import LATCHED_MARKS, RELIABLE, SUMS
from diwa_runtime import robot_messages as messages
from diwa_runtime.actions import GRIPPER, motion_units
from diwa_runtime.cli import run_verb
from diwa_runtime.config import check_bounds, load_config
from diwa_runtime.errors import InputError
from diwa_runtime.events import TOPIC, EventKind
from diwa_runtime.rows.streams import nanoseconds_of
from diwa_runtime.spec import SCENE_NAMES, Spec, TaskSpec
from diwa_sim.collection import FIRST_SEED
from diwa_sim.demonstrations import DEMONSTRATION_NOISE, demonstration
from diwa_sim.experts import Expert
from diwa_sim.model import Layout
from diwa_sim.node import SimulatorNode
from diwa_sim.play import PLAY_STEPS, Player
from diwa_sim.snapshot import Snapshot

WAIT_S = 30.0
TRIES = 5
"""Tries that may fail for each that is to succeed."""


@dataclass(frozen=True)
class HandsConfig:
    """Play or demonstrate at a simulated table over its topics, as soon as somebody records them."""

    task: str = field(default="", metadata={"help": "what to demonstrate; none: play"})
    episodes: int = field(default=20, metadata={"help": "play episodes, or demonstrations that succeed"})
    steps: int = field(default=PLAY_STEPS, metadata={"help": "length of a play episode, control ticks"})
    noise: float = field(default=DEMONSTRATION_NOISE, metadata={"help": "noise on a demonstration's actions"})
    seed: int = field(default=FIRST_SEED, metadata={"help": "of the first episode; each takes the next"})
    start: str = field(default="far", metadata={"help": "spread of the starts: narrow, medium, wide or far"})
    image_size: int = field(default=64, metadata={"help": "height and width of the cameras' images, pixels"})
    scene: bool = field(default=False, metadata={"help": "whether scene/state is published too"})
    rate_factor: float = field(default=1.0, metadata={"help": "simulated seconds in a second"})

    def __post_init__(self) -> None:
        if self.task:
            Spec().task(self.task)
        check_bounds(self, episodes=(1, 10**6), steps=(1, 10**6), noise=(0.0, 10.0), seed=(0, 2**31 - 1 - 10**6))


class Hands(Node):
    """A table that is moved over its topics alone: what players and experts take for one (`play.PlayedTable`)."""

    def __init__(self, simulator: SimulatorNode, executor: Executor, **options: Any) -> None:
        """Stand beside a simulator that was not started yet; both nodes are turned by `executor` while they wait."""
        super().__init__("hands", **options)
        self._simulator, self._executor = simulator, executor
        self._units = motion_units(self.contract.action_scale)
        self._stamp_ns = self._started_ns = 0
        self._commands = self.create_publisher(EndEffectorDelta, "robot/command", RELIABLE)
        self._reset = self.create_client(Trigger, "sim/reset")
        self.create_subscription(RobotState, messages.ROBOT_STATE[0], self._on_state, SUMS)
        self.create_subscription(EpisodeEvent, TOPIC, self._on_event, LATCHED_MARKS)

    @property
    def contract(self) -> Spec:
        """The table's Spec."""
        return self._simulator.table.contract

    @property
    def layout(self) -> Layout:
        """Where the handles are."""
        return self._simulator.table.layout

    @property
    def task(self) -> TaskSpec | None:
        """What counts as success; None = play."""
        return self._simulator.table.task

    def reset(self, *, seed: int | None = None) -> None:  # noqa: ARG002 (the simulator counts its own)
        """Begin the simulator's next episode."""
        before = self._started_ns
        if before:
            self._reset.call_async(Trigger.Request())
        else:
            self._simulator.start()
        self.wait(lambda: self._started_ns > before and self._stamp_ns >= self._started_ns)
        self._scene_start = self.snapshot().scene

    def step(self, action: NDArray[np.floating]) -> tuple[dict[str, Any]]:
        """Command an action (7,) and wait for the next state; return what `PlayTable.step` returns last."""
        before = self._stamp_ns
        motion = np.asarray(action, np.float64)
        fields = messages.end_effector_delta(motion[:6] * self._units, float(motion[GRIPPER]), before, "hands")
        self._commands.publish(filled(EndEffectorDelta(), fields))
        self.wait(lambda: self._stamp_ns > before)
        task, scene = self.task, self.snapshot().scene
        return ({"success": task is not None and bool(task.achieved(self._scene_start, scene, SCENE_NAMES))},)

    def snapshot(self) -> Snapshot:
        """Return the table as it is."""
        return self._simulator.table.snapshot()

    def expert(self, noise: float = 0.0, rng: np.random.Generator | None = None, task: str | None = None) -> Expert:
        """As `PlayTable.expert`."""
        return self._simulator.table.expert(noise, rng, task)

    def wait_for_recorder(self) -> None:
        """Wait until somebody beside us hears states, marks and images.

        Raises:
            InputError: nobody does.
        """
        needed = {messages.ROBOT_STATE[0]: 2, TOPIC: 2, "robot/command": 2}
        cameras = self.contract.cameras if self.contract.uses_cameras else ()
        needed |= {messages.image_topic(camera.name)[0]: 1 for camera in cameras}
        self.wait(lambda: all(self.count_subscribers(topic) >= count for topic, count in needed.items()))

    def wait(self, reached: Callable[[], bool]) -> None:
        """Turn the executor until something is so.

        Raises:
            InputError: it does not come to be.
            KeyboardInterrupt: the process was told to stop.
        """
        end = time.monotonic() + WAIT_S
        while not reached():
            if told_to_stop():
                raise KeyboardInterrupt
            if time.monotonic() > end:
                raise InputError(f"the simulator, or who records it, did not answer for {WAIT_S:g} s")
            self._executor.spin_once(timeout_sec=0.1)

    def _on_event(self, event: EpisodeEvent) -> None:
        if event.kind == EventKind.START:
            self._started_ns = nanoseconds_of(event.header.stamp)

    def _on_state(self, state: RobotState) -> None:
        self._stamp_ns = nanoseconds_of(state.header.stamp)


def record_episodes(hands: Hands, config: HandsConfig) -> int:
    """Play, or demonstrate until so many tries have succeeded; return how many tries that took.

    Raises:
        InputError: most tries fail.
    """
    tries = succeeded = 0
    while succeeded < config.episodes:
        if tries - succeeded > TRIES * config.episodes:
            raise InputError(
                f"{config.task}: only {succeeded} of {tries} tries succeeded; is the arm commanded by others?"
            )
        seed = config.seed + tries
        tries += 1
        if config.task:
            succeeded += demonstration(hands, seed, config.noise).success
        else:
            for _ in Player(hands, np.random.default_rng(seed)).episode(seed, config.steps):
                pass
            succeeded += 1
    return tries


def run(argv: Sequence[str]) -> None:
    """Run the table and the hands until all episodes are done.

    Raises:
        InputError: nobody records.
    """
    config = load_config(HandsConfig, argv)
    parameters = {
        name: getattr(config, name) for name in ("task", "seed", "start", "image_size", "scene", "rate_factor")
    }
    with ros_process(args=[]):
        overrides = [Parameter(name, value=value) for name, value in {**parameters, "cameras": True}.items()]
        simulator, executor = SimulatorNode(parameter_overrides=overrides), SingleThreadedExecutor()
        hands = Hands(simulator, executor)
        try:
            for node in (simulator, hands):
                executor.add_node(node)
            hands.wait_for_recorder()
            start = time.monotonic()
            tries = record_episodes(hands, config)
            print(f"{config.episodes} of {tries} tries of {config.task or 'play'} in {time.monotonic() - start:.0f} s")
        finally:
            simulator.close()
            executor.shutdown()
            for node in (hands, simulator):
                node.destroy_node()


def main() -> None:
    """Run `hands` with the process's arguments."""
    sys.exit(run_verb(run))
