"""An episode run live and recorded, and the same episode written directly as a bag, give the same dataset."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
rclpy = pytest.importorskip("rclpy")
ingest = pytest.importorskip("diwa_trainer.ingest.ingestion").ingest

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from diwa_msgs.msg import EndEffectorDelta  # noqa: E402
from diwa_runtime.command_gate import Command  # noqa: E402
from diwa_runtime.events import EventKind  # noqa: E402
from diwa_runtime.interfaces import message_class  # noqa: E402
from diwa_runtime.rows.live import LiveAssembler  # noqa: E402
from diwa_runtime.rows.streams import NANOSECONDS  # noqa: E402
from diwa_runtime.spec import Spec  # noqa: E402
from diwa_sim.bags import BagWriter  # noqa: E402
from diwa_sim.environment import PlayTable  # noqa: E402
from diwa_sim.live_table import action_of  # noqa: E402
from diwa_sim.node import SimulatorNode  # noqa: E402
from diwa_sim.recorder import Recorder  # noqa: E402

pytestmark = pytest.mark.ros

TASK, SEED = "turn_on_led", 11
STEPS = 60
TIMEOUT_S = 60.0


class Commander(Node):
    """Sees the live topics through the assembler, as a policy does, and commands what the expert says."""

    def __init__(self, spec: Spec, context: Any) -> None:
        super().__init__("commander", context=context)
        self._scale = np.repeat([spec.action_scale.translation_m, spec.action_scale.rotation_rad], 3)
        self._expert = PlayTable(task=TASK).expert(noise=0.3, rng=np.random.default_rng(0))
        self._assembler = LiveAssembler(replace(spec, mode="state"))
        self._publisher = self.create_publisher(EndEffectorDelta, "robot/command", 10)
        self.states: list[Any] = []
        for topic, kind in self._assembler.topics.items():
            self.create_subscription(message_class(kind), topic, self._listener(topic), 100)

    def _listener(self, topic: str) -> Callable[[Any], None]:
        def on_message(message: Any) -> None:
            if topic == "robot/state":
                self.states.append(message)
            for row in self._assembler.feed(topic, message, time.monotonic_ns()):
                self._command(row.stamp, self._expert.act(row.values))

        return on_message

    def _command(self, stamp_ns: int, action: Any) -> None:
        message = EndEffectorDelta(source="expert", gripper=float(action[6]))
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, NANOSECONDS)
        motion = (action[:6].astype(np.float64) * self._scale).tolist()
        message.translation.x, message.translation.y, message.translation.z = motion[:3]
        message.rotation.x, message.rotation.y, message.rotation.z = motion[3:]
        self._publisher.publish(message)


def run_live(bag: Path, spec: Spec) -> list[Any]:
    """Run and record an episode of at least `STEPS` steps; return its robot states."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=1 + os.getpid() % 100)
    settings = {"task": TASK, "seed": SEED, "cameras": spec.uses_cameras, "rate_factor": 2.0}
    overrides = [Parameter(name, value=value) for name, value in settings.items()]
    node = SimulatorNode(context=context, parameter_overrides=overrides)
    commander = Commander(spec, context)
    executor = SingleThreadedExecutor(context=context)
    with BagWriter(bag) as writer:
        recorder = Recorder(writer, context=context)
        nodes = (node, commander, recorder)
        for each in nodes:
            executor.add_node(each)
        spin_until(executor, lambda: "/episode/event" in recorder.counts and node.count_subscribers("robot/state") == 2)
        node.start()
        spin_until(executor, lambda: len(commander.states) > STEPS)
        node.close()
        sent = len(commander.states)
        spin_until(executor, lambda: recorder.counts["/episode/event"] >= 2 and recorder.counts["/robot/state"] >= sent)
    executor.shutdown()
    for each in nodes:
        each.destroy_node()
    rclpy.shutdown(context=context)
    return commander.states


def spin_until(executor: Any, reached: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not reached():
        assert time.monotonic() < end, "what the test waits for did not come"
        executor.spin_once(timeout_sec=0.05)


def accepted(state: Any) -> Command:
    translation, rotation = state.accepted_translation, state.accepted_rotation
    motion = [translation.x, translation.y, translation.z, rotation.x, rotation.y, rotation.z]
    return Command(np.array(motion), state.gripper_command, "expert")


def write_directly(bag: Path, spec: Spec, states: list[Any]) -> None:
    """Replay the accepted actions in a fresh table and write its snapshots with the live stamps."""
    env = PlayTable(task=TASK, mode=spec.mode)
    succeeded = False
    with BagWriter(bag) as writer:
        for index, state in enumerate(states):
            stamp_ns = state.header.stamp.sec * NANOSECONDS + state.header.stamp.nanosec
            if index == 0:
                env.reset(seed=SEED)
                writer.write_event(EventKind.START, stamp_ns, TASK, SEED)
            else:
                *_, info = env.step(action_of(accepted(state), spec.action_scale))
                if info["success"] and not succeeded:
                    writer.write_event(EventKind.SUCCESS, stamp_ns, TASK, SEED)
                    succeeded = True
            writer.write_snapshot(env.snapshot(), stamp_ns)
        writer.write_event(EventKind.END, stamp_ns, TASK, SEED)
    env.close()


@pytest.mark.parametrize("mode", ["state", pytest.param("vision", marks=pytest.mark.gl)])
def test_a_recorded_live_episode_and_a_written_one_give_the_same_dataset(mode: Any, tmp_path: Path) -> None:
    spec = replace(Spec(), mode=mode)
    states = run_live(tmp_path / "live", spec)
    write_directly(tmp_path / "direct", spec, states)
    live = ingest([tmp_path / "live"], tmp_path / "live_dataset", spec)
    direct = ingest([tmp_path / "direct"], tmp_path / "direct_dataset", spec)
    assert len(live) > STEPS
    assert np.abs(live.arrays["action"][:, :6]).max() > 0.1, "the expert's commands must have moved the arm"
    assert live.arrays.keys() == direct.arrays.keys()
    for name, array in live.arrays.items():
        np.testing.assert_array_equal(array, direct.arrays[name], err_msg=name)
    anonymous = [[replace(episode, bag="", sha256="") for episode in dataset.episodes] for dataset in (live, direct)]
    assert anonymous[0] == anonymous[1]
    assert live.episodes[0].task == TASK
