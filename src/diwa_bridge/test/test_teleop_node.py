"""The tele-operation node over real topics, with the simulator's node as its robot."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
rclpy = pytest.importorskip("rclpy")
node_module = pytest.importorskip("diwa_sim.node", reason="needs the simulator as a robot")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from ros_rig import DOMAIN, TIMEOUT_S, RosRig  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from diwa_bridge.teleop.node import NODE, PARAMETERS, TeleopNode  # noqa: E402
from diwa_msgs.msg import EndEffectorDelta, EpisodeEvent, RobotState  # noqa: E402
from diwa_runtime.errors import DiwaError  # noqa: E402
from diwa_runtime.events import FRAMES_AFTER_SUCCESS, EventKind  # noqa: E402
from diwa_runtime.rows.streams import NANOSECONDS, nanoseconds_of  # noqa: E402
from diwa_runtime.spec import Spec  # noqa: E402

pytestmark = pytest.mark.ros

LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
AXIS, BUTTON, HOLD, STICK, GRIPPER, STOP, START = 2, 1, 4, 1, 0, 1, 7
FORWARD = -32767
PROGRAM = "from diwa_bridge.teleop.node import main; main()"


class Rig(RosRig):
    """A simulator as robot, the node under test, and a listener."""

    def __init__(self) -> None:
        super().__init__("listener")
        self.simulator = self.add(node_module.SimulatorNode(**self.options(task="", rate_factor=4.0)))
        self.states = self.listen(RobotState, "robot/state", 1000)
        self.commands = self.listen(EndEffectorDelta, "robot/command", 1000)
        self.events = self.listen(EpisodeEvent, "episode/event", LATCHED)

    def teleop(self, **parameters: Any) -> TeleopNode:
        node: TeleopNode = self.add(TeleopNode(**self.options(**parameters)))
        self.spin_until(lambda: node.count_publishers("robot/state") and node.count_subscribers("robot/command") > 1)
        return node

    def more_states(self, count: int = 15) -> None:
        seen = len(self.states)
        self.spin_until(lambda: len(self.states) >= seen + count)

    def kinds(self) -> list[int]:
        return [event.kind for event in self.events]

    def close(self) -> None:
        self.simulator.close()
        super().close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


class Pad:
    """A gamepad at the other end of a pipe."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.device = f"gamepad:{path}"
        self._descriptor = os.open(path, os.O_RDWR)

    def says(self, kind: int, number: int, value: int) -> None:
        os.write(self._descriptor, struct.pack("=IhBB", 0, value, kind, number))

    def press(self, number: int) -> None:
        self.says(BUTTON, number, 1)
        self.says(BUTTON, number, 0)

    def unplug(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def pad(tmp_path: Path) -> Pad:
    return Pad(tmp_path / "js0")


SCRIPT = """
- {at_s: 0.5, press: [start]}
- {at_s: 0.6, x: 0.5, z: 0.3}
- {at_s: 1.2, press: [gripper]}
- {at_s: 2.0, press: [save]}
- {at_s: 2.3, press: [start]}
- {at_s: 2.4, y: 1.0}
- {at_s: 2.6, press: [discard, task]}
- {at_s: 2.8, press: [start], y: -1.0}
- {at_s: 3.2, press: [save, task]}
- {at_s: 3.4, press: [start]}
- {at_s: 3.8, press: [failure]}
- {at_s: 4.0, press: [start]}
- {at_s: 4.2, press: [quit]}
"""


def test_a_script_on_the_simulator_becomes_the_dataset_that_its_marks_mean(rig: Rig, tmp_path: Path) -> None:
    ingest = pytest.importorskip("diwa_trainer.ingest.ingestion").ingest
    from diwa_sim.bags import BagWriter
    from diwa_sim.recorder import Recorder

    (tmp_path / "script.yaml").write_text(SCRIPT)
    teleop = rig.teleop(devices=[f"script:{tmp_path}/script.yaml"], tasks=["open_drawer", ""], tail_s=0.1)
    with BagWriter(tmp_path / "bag") as writer:
        recorder = Recorder(writer, context=rig.context)
        rig.nodes.append(recorder)
        rig.executor.add_node(recorder)
        rig.spin_until(lambda: {"/episode/event", "/robot/state", "/robot/command"} <= recorder.counts.keys())
        # The recorder's is the third subscription to the states, after the listener's and the node's own.
        rig.spin_until(lambda: rig.simulator.count_subscribers("robot/state") == 3)
        rig.simulator.start()
        rig.spin_until(lambda: teleop.finished)
        teleop.close()
        rig.spin_until(lambda: rig.kinds()[-1:] == [EventKind.DISCARD])
        rig.spin_until(lambda: recorder.counts["/episode/event"] == len(rig.events))
    assert teleop.marks.ended == {"saved": 2, "failed": 1, "discarded": 2, "left": 0}
    dataset = ingest([tmp_path / "bag"], tmp_path / "dataset", Spec())
    kinds = [(episode.kind, episode.task, episode.outcome) for episode in dataset.episodes]
    demonstrated, failed = (("demonstration", "open_drawer", outcome) for outcome in ("success", "failure"))
    assert kinds == [("play", None, None), demonstrated, ("play", None, None), failed], "the first is the simulator's"
    assert any("DISCARD" in dropped.reason.upper() and dropped.count == 2 for dropped in dataset.dropped)
    demonstration = dataset.episodes[1]
    (succeeded,) = demonstration.marks
    # By the states that it heard: on a busy machine it misses some.
    assert demonstration.end - 1 - succeeded[0] >= FRAMES_AFTER_SUCCESS, "rows that show success, after its first"
    actions = dataset.arrays["action"][demonstration.start : demonstration.end]
    wished = teleop.pilot._shaping.motion(np.array([0.5, 0, 0.3, 0, 0, 0])) / 0.02
    moving = actions[actions[:, 0] != 0]
    assert len(moving)
    np.testing.assert_allclose(moving[:, :3], np.tile(wished[:3], (len(moving), 1)), atol=1e-6)
    assert (actions[0, 6], actions[-1, 6]) == (1.0, -1.0), "the gripper closed meanwhile"
    stamps = {nanoseconds_of(state.header.stamp) for state in rig.states}
    answers = [nanoseconds_of(command.header.stamp) for command in rig.commands]
    started = nanoseconds_of(rig.events[1].header.stamp)  # at 0.5 s of the script, or at the next state that came
    wishes = [(at - started) / NANOSECONDS for at, c in zip(answers, rig.commands, strict=True) if c.translation.x]
    assert 0 < min(wishes) <= max(wishes) < 0.7
    assert max(wishes) - min(wishes) < 0.6
    assert set(answers) <= stamps
    assert len(set(answers)) == len(answers), "one command a state at most"
    assert {command.source for command in rig.commands} == {"teleop"}
    assert {nanoseconds_of(event.header.stamp) for event in rig.events[1:]} <= stamps


def test_the_arm_follows_a_gamepad_stops_at_its_button_and_waits_for_rest(rig: Rig, pad: Pad) -> None:
    rig.teleop(devices=[pad.device], tail_s=0.0)
    rig.simulator.start()
    rig.more_states()
    assert not rig.commands
    pad.says(BUTTON, HOLD, 1)
    pad.says(AXIS, STICK, FORWARD)
    rig.spin_until(lambda: rig.states[-1].accepted_translation.x > 0)
    assert rig.commands[0].translation.x == pytest.approx(PARAMETERS["translation_m"].default)
    pad.press(STOP)
    rig.spin_until(lambda: rig.states[-1].mode == RobotState.MODE_STOPPED)
    rig.more_states()
    sent = len(rig.commands)
    rig.more_states()
    assert rig.call("robot/release").success
    rig.spin_until(lambda: rig.states[-1].mode == RobotState.MODE_IDLE)
    pad.says(AXIS, STICK, FORWARD + 1)  # still held, and fresh
    rig.more_states()
    assert len(rig.commands) == sent, "a release alone moves nothing"
    pad.says(AXIS, STICK, 0)
    rig.more_states()
    pad.says(AXIS, STICK, FORWARD)
    rig.spin_until(lambda: len(rig.commands) > sent)


def test_a_gamepad_that_is_unplugged_ends_it_and_discards_the_episode(rig: Rig, pad: Pad) -> None:
    diagnostics = rig.listen(DiagnosticArray, "/diagnostics", 100)
    teleop = rig.teleop(devices=[pad.device], tasks=["open_drawer"])
    rig.simulator.start()
    rig.more_states()
    pad.press(START)
    pad.says(BUTTON, HOLD, 1)
    pad.says(AXIS, STICK, FORWARD)
    rig.spin_until(lambda: rig.states[-1].accepted_translation.x > 0 and EventKind.START in rig.kinds()[1:])
    pad.unplug()
    rig.spin_until(lambda: teleop.finished)
    rig.more_states()
    sent = len(rig.commands)
    statuses = lambda: [s for array in diagnostics for s in array.status if s.hardware_id == NODE]  # noqa: E731
    rig.spin_until(lambda: any(s.level == DiagnosticStatus.ERROR and "gone" in s.message for s in statuses()))
    assert len(rig.commands) == sent
    teleop.close()
    rig.spin_until(lambda: rig.kinds()[1:] == [EventKind.START, EventKind.DISCARD])
    assert rig.events[-1].task == "open_drawer"


def test_what_is_pressed_before_a_robot_is_there_marks_nothing(rig: Rig, pad: Pad) -> None:
    diagnostics = rig.listen(DiagnosticArray, "/diagnostics", 100)
    teleop = rig.teleop(devices=[pad.device])
    pad.press(START)
    pad.press(STOP)
    rig.spin_until(lambda: any("no robot/state" in s.message for array in diagnostics for s in array.status))
    assert teleop.marks.running is None
    assert not rig.events
    rig.simulator.start()
    rig.spin_until(lambda: rig.states and rig.states[-1].mode == RobotState.MODE_STOPPED)


def test_parameters_are_described_and_fixed(rig: Rig, pad: Pad) -> None:
    teleop = rig.teleop(devices=[pad.device])
    for name in PARAMETERS:
        assert teleop.describe_parameter(name).description, name
    assert not teleop.set_parameters([Parameter("dead_zone", value=0.2)])[0].successful


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"devices": ["joystik"]}, "no device 'joystik'"),
        ({"devices": ["script:/nowhere.yaml"]}, "/nowhere.yaml"),
        ({"translation_m": 1.0}, "parameter translation_m"),
        ({"source": ""}, "source must not be empty"),
    ],
)
def test_an_impossible_parameter_is_one_clear_line(rig: Rig, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(DiwaError, match=message) as error:
        rig.teleop(**parameters)
    assert "\n" not in str(error.value)


def start_process(script: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--ros-args", "-p", f"devices:=['script:{script}']", *words],
        env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM], ids=lambda told: told.name)
def test_a_process_that_is_told_to_stop_discards_its_episode_aloud(rig: Rig, tmp_path: Path, told: Any) -> None:
    (tmp_path / "script.yaml").write_text("- {at_s: 0.1, press: [start]}")
    rig.simulator.start()
    process = start_process(tmp_path / "script.yaml")
    try:
        rig.spin_until(lambda: rig.kinds()[1:] == [EventKind.START])
        process.send_signal(told)
        rig.spin_until(lambda: rig.kinds()[1:] == [EventKind.START, EventKind.DISCARD])
        _, said = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "play discarded" in said


def test_a_process_whose_device_is_not_there_says_so_in_one_line() -> None:
    process = start_process(Path("/nowhere.yaml"))
    _, said = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert [line for line in said.splitlines() if line.startswith("error: script: /nowhere.yaml cannot be read")]


def test_a_task_that_the_robot_does_not_know_is_refused_as_soon_as_it_says_what_it_is(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "script.yaml").write_text("- {at_s: 0.1, press: [start]}")
    process = start_process(tmp_path / "script.yaml", "-p", "tasks:=['', 'open_drawr']")
    try:
        rig.simulator.start()
        rig.spin_until(lambda: process.poll() is not None)
        _, said = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 2
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "tasks: no task 'open_drawr' in the Spec; did you mean 'open_drawer'?" in errors[0]


@pytest.mark.parametrize(
    ("data", "refused"), [("{", "tasks: "), ("{}", "tasks: robot/spec: not a Spec")], ids=["damaged", "foreign"]
)
def test_a_robot_that_does_not_say_what_it_is_has_no_tasks(rig: Rig, pad: Pad, data: str, refused: str) -> None:
    demonstrating, playing = rig.teleop(devices=[pad.device], tasks=["open_drawer"]), rig.teleop(devices=[pad.device])
    for node in (demonstrating, playing):
        node.on_spec(String(data=data))
    assert demonstrating.refused.startswith(refused)
    assert demonstrating.finished
    assert not playing.finished, "play needs no task"
