"""F10: what the node decides live is what the offline session decides on the same run's bag, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
pytest.importorskip("rclpy")
ingest = pytest.importorskip("diwa_trainer.ingest.ingestion").ingest

from policy_rig import PATIENT, STATE, Rig, write_skill  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from toy_bundle import ToyWeights  # noqa: E402

from diwa_msgs.msg import EndEffectorDelta  # noqa: E402
from diwa_runtime.actions import motion_of  # noqa: E402
from diwa_runtime.bundle import Bundle  # noqa: E402
from diwa_runtime.bundle.session import PolicySession  # noqa: E402
from diwa_runtime.robot import Outcome  # noqa: E402
from diwa_runtime.rows.streams import nanoseconds_of  # noqa: E402
from diwa_sim.bags import BagWriter  # noqa: E402
from diwa_sim.node import SimulatorNode  # noqa: E402
from diwa_sim.recorder import Recorder  # noqa: E402

pytestmark = pytest.mark.ros

SEED = 5


@pytest.mark.parametrize("rate_factor", [1.0, 3.0], ids=["real time", "faster, under sim time"])
def test_f10_the_same_observations_give_the_same_actions_live_and_from_the_bag(
    make_rig: Callable[..., Rig], tmp_path: Path, rate_factor: float
) -> None:
    random = vars(ToyWeights.random(STATE, 4)) | {"judge_bias": -100.0, "noise_scale": 0.3}
    skills = write_skill(tmp_path / "skills", **random)
    rig = make_rig(skills, allow_far_start=True, use_sim_time=rate_factor != 1.0, **PATIENT)
    commands: list[EndEffectorDelta] = []
    rig.peer.create_subscription(EndEffectorDelta, "robot/command", commands.append, 100)
    overrides = [Parameter("rate_factor", value=rate_factor)]
    simulator = rig.add(SimulatorNode(context=rig.context, parameter_overrides=overrides))
    with BagWriter(tmp_path / "bag") as bag:
        recorder = rig.add(Recorder(bag, context=rig.context))
        rig.spin_until(lambda: "/episode/event" in recorder.counts and "/robot/state" in recorder.counts)
        simulator.start()
        rig.bring_up()
        assert rig.run(timeout=1.5, seed=SEED)[0] is Outcome.TIMEOUT
        simulator.close()
        rig.spin_until(lambda: recorder.counts["/episode/event"] >= 2)
    dataset = ingest([tmp_path / "bag"], tmp_path / "dataset", STATE, report=lambda _: None)

    session = PolicySession(Bundle.load(skills / "open_drawer"), SEED)
    answers = {nanoseconds_of(command.header.stamp): command for command in commands}
    first = int(np.flatnonzero(dataset.arrays["stamp"] == min(answers))[0])
    compared = 0
    for row in range(first, len(dataset)):
        observation = {"proprio": dataset.proprio[row], "scene": dataset.scene[row]}
        action = session.step(observation, dataset.action[row - 1] if row > first else None)
        command = answers.get(int(dataset.arrays["stamp"][row]))
        if command is not None:
            way, turn = command.translation, command.rotation
            sent = [way.x, way.y, way.z, turn.x, turn.y, turn.z, command.gripper]
            np.testing.assert_array_equal([*motion_of(action, STATE.action_scale), action[6]], sent)
            compared += 1
    assert compared == len(answers) > 20
