"""The simulator's node over real topics; skipped where ROS or the built workspace is not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from ros_rig import DOMAIN, TIMEOUT_S, RosRig, rigs  # noqa: E402
from sensor_msgs.msg import CompressedImage, JointState  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from diwa_msgs.msg import EndEffectorDelta, EpisodeEvent, RobotState, SceneState  # noqa: E402
from diwa_ros.messages import command_of, filled  # noqa: E402
from diwa_runtime import robot_messages as messages  # noqa: E402
from diwa_runtime.errors import DiwaError  # noqa: E402
from diwa_runtime.events import EventKind  # noqa: E402
from diwa_runtime.robot import RobotMode  # noqa: E402
from diwa_sim.bags import make_message, typestore  # noqa: E402
from diwa_sim.environment import PlayTable  # noqa: E402
from diwa_sim.node import SimulatorNode  # noqa: E402

pytestmark = pytest.mark.ros

STAMP_NS = 1_234_567_890_123_456_789


class Rig(RosRig):
    """A simulator node and a commander beside it."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__("commander")
        self.node = self.add(SimulatorNode(**self.options(**parameters)))
        self.received: dict[str, list[Any]] = {}
        self.commands = self.peer.create_publisher(EndEffectorDelta, "robot/command", 10)

    def listen(self, kind: Any, topic: str, qos: Any = 100) -> list[Any]:
        if topic not in self.received:
            self.received[topic] = super().listen(kind, topic, qos)
        self.spin_until(lambda: self.peer.count_publishers(topic) > 0)
        return self.received[topic]

    def command(self, source: str = "policy", x: float = 0.01) -> None:
        message = EndEffectorDelta(source=source, gripper=-1.0)
        message.translation.x = x
        self.commands.publish(message)

    def close(self) -> None:
        self.node.close()
        super().close()


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    yield from rigs(Rig)


@pytest.mark.parametrize(
    ("kinds", "message", "prefix"), [(RobotMode, RobotState, "MODE_"), (EventKind, EpisodeEvent, "")]
)
def test_numbers_are_the_messages_constants(kinds: Any, message: Any, prefix: str) -> None:
    for kind in kinds:
        assert getattr(message, prefix + kind.name) == int(kind), kind


def test_live_messages_are_the_bags_messages() -> None:
    env = PlayTable()
    env.reset(seed=1)
    env.step(np.array([0.3, -0.2, 0.1, 0.5, 0.4, -0.9, -1.0]))
    snapshot, store = env.snapshot(), typestore()
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for kind, fields in (
        (RobotState, messages.robot_state(snapshot, STAMP_NS, env.contract.action_scale, 3, STAMP_NS - 5)),
        (SceneState, messages.scene_state(snapshot.scene, STAMP_NS)),
        (JointState, messages.joint_states(snapshot, STAMP_NS)),
        (CompressedImage, messages.compressed_image(image, STAMP_NS, "static")),
        (EpisodeEvent, messages.episode_event(EventKind.START, STAMP_NS, "open_drawer", 7)),
    ):
        name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        bag = bytes(store.serialize_cdr(make_message(store, name, fields), name))
        # Through one more reading, for ROS leaves whatever lay there in the gaps between fields and behind the last.
        live = store.deserialize_cdr(serialize_message(filled(kind(), fields))[: len(bag)], name)
        assert bytes(store.serialize_cdr(live, name)) == bag, name


def test_a_command_message_becomes_a_command() -> None:
    message = EndEffectorDelta(source="teleop", gripper=-0.5)
    message.header.stamp.sec, message.header.stamp.nanosec = 2, 3
    message.translation.y, message.rotation.z = 0.01, -0.02
    command = command_of(message, 4)
    np.testing.assert_array_equal(command.motion, [0, 0.01, 0, 0, 0, -0.02])
    assert (command.gripper, command.source, command.answers_ns, command.sequence) == (-0.5, "teleop", 2_000_000_003, 4)


def test_the_node_obeys_a_command_and_then_holds(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(rate_factor=4.0)
    states = rig.listen(RobotState, "robot/state")
    rig.node.start()
    rig.spin_until(lambda: len(states) > 3)
    rig.command(x=0.01)
    rig.spin_until(lambda: any(state.mode == RobotState.MODE_MOVING for state in states))
    moved = next(i for i, state in enumerate(states) if state.mode == RobotState.MODE_MOVING)
    rig.spin_until(lambda: len(states) > moved + 3)
    assert [state.accepted_translation.x for state in states[moved : moved + 3]] == pytest.approx([0.01, 0, 0])
    assert states[moved + 1].mode == RobotState.MODE_IDLE
    assert states[moved + 1].gripper_command == -1.0


def test_a_second_commander_is_refused_aloud(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(rate_factor=4.0, commander_silence_s=10.0)
    states = rig.listen(RobotState, "robot/state")
    diagnostics = rig.listen(DiagnosticArray, "/diagnostics")
    rig.node.start()
    rig.command("teleop", x=0.01)
    rig.spin_until(lambda: any(state.accepted_translation.x for state in states))
    seen = len(states)
    rig.command("policy", x=-0.02)
    rig.spin_until(lambda: any("'policy' may not command" in s.message for a in diagnostics for s in a.status))
    assert not any(state.accepted_translation.x for state in states[seen:])
    warnings = [s for a in diagnostics for s in a.status if s.level == DiagnosticStatus.WARN]
    assert any(status.name == "diwa_sim: command" for status in warnings)


def test_two_publishers_under_one_name_are_refused_aloud(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(rate_factor=4.0, commander_silence_s=10.0)
    states = rig.listen(RobotState, "robot/state")
    diagnostics = rig.listen(DiagnosticArray, "/diagnostics")
    rig.node.start()
    for _ in range(2):
        rig.command(x=0.01)
    rig.spin_until(lambda: any(state.accepted_translation.x for state in states))
    second = rig.peer.create_publisher(EndEffectorDelta, "robot/command", 10)
    rig.spin_until(lambda: second.get_subscription_count() > 0)
    second.publish(EndEffectorDelta(source="policy", gripper=1.0))
    rig.spin_until(
        lambda: any("two publishers command as 'policy'" in s.message for a in diagnostics for s in a.status)
    )
    assert states[-1].gripper_command == -1.0


@pytest.mark.parametrize("topic", ["robot/state", "robot/spec", "scene/state"])
def test_while_another_robot_is_on_its_topics_it_takes_no_command_and_names_both(
    make_rig: Callable[..., Rig], topic: str
) -> None:
    rig = make_rig(rate_factor=4.0)
    states = rig.listen(RobotState, "robot/state")
    diagnostics = rig.listen(DiagnosticArray, "/diagnostics")
    rig.node.start()
    other = rig.add(Node("zombie", namespace="old", context=rig.context))
    kind = {"robot/state": RobotState, "robot/spec": String, "scene/state": SceneState}[topic]
    second = other.create_publisher(kind, f"/{topic}", 10)
    errors = lambda: [s for a in diagnostics for s in a.status if s.level == DiagnosticStatus.ERROR]  # noqa: E731
    rig.spin_until(errors)
    assert errors()[0].name == "diwa_sim: command"
    assert f"{topic} is published by /diwa_sim and /old/zombie; only one may" in errors()[0].message
    rig.command()
    rig.spin_until(lambda: any({pair.key: pair.value for pair in s.values}["refused"] == "1" for s in errors()))
    assert not any(state.accepted_translation.x for state in states)
    other.destroy_publisher(second)
    rig.spin_until(lambda: not rig.node._gate.shut)
    rig.command()
    rig.spin_until(lambda: states[-1].accepted_translation.x)


def test_two_simulators_in_two_namespaces_command_each_its_own_and_say_whose_status_it_is(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(rate_factor=4.0)
    diagnostics = rig.listen(DiagnosticArray, "/diagnostics")
    left = rig.add(SimulatorNode(namespace="left", **rig.options(rate_factor=4.0)))
    for node in (rig.node, left):
        node.start()
    names = lambda: {(s.name, s.hardware_id) for a in diagnostics for s in a.status}  # noqa: E731
    rig.spin_until(lambda: len(names()) == 4)
    assert {name for name, _ in names()} == {
        "diwa_sim: clock", "diwa_sim: command", "left/diwa_sim: clock", "left/diwa_sim: command"
    }  # fmt: skip
    assert {hardware for _, hardware in names()} == {"diwa_sim", "left/diwa_sim"}
    rig.spin_until(lambda: rig.node._other_clocks.who)
    assert "/clock is published by /diwa_sim and /left/diwa_sim" in rig.node._other_clocks.who
    assert not rig.node._gate.shut, "each has its own topics"
    left.close()


def test_a_command_stamped_beyond_what_a_message_holds_ends_nothing(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(rate_factor=4.0)
    states = rig.listen(RobotState, "robot/state")
    rig.node.start()
    message = EndEffectorDelta(source="policy")
    message.header.stamp.sec, message.header.stamp.nanosec = 2**31 - 1, 2**32 - 1
    rig.commands.publish(message)
    rig.spin_until(lambda: rig.node._gate.refused)
    assert list(rig.node._gate.refused) == ["the command of 'policy' has a stamp that cannot be"]
    seen = len(states)
    rig.spin_until(lambda: len(states) > seen + 5)


def test_a_simulation_slower_than_asked_for_is_said_with_its_figure(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(rate_factor=100.0)  # 3000 states a second no executor of Python's turns
    diagnostics = rig.listen(DiagnosticArray, "/diagnostics")
    rig.node.start()
    warned = lambda: [s for a in diagnostics for s in a.status if s.level == DiagnosticStatus.WARN]  # noqa: E731
    rig.spin_until(warned)
    assert warned()[0].name == "diwa_sim: clock"
    assert re.fullmatch(r"the simulation at \d+\.\d Hz instead of 3000", warned()[0].message)


def test_a_stop_latches_until_it_is_released(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(rate_factor=4.0)
    states = rig.listen(RobotState, "robot/state")
    rig.node.start()
    assert rig.call("robot/stop").success
    seen = len(states)
    rig.command()
    rig.spin_until(lambda: len(states) > seen + 10)
    assert {state.mode for state in states[seen + 1 :]} == {RobotState.MODE_STOPPED}
    assert not any(state.accepted_translation.x for state in states)
    assert rig.call("robot/release").success
    assert not rig.call("robot/release").success
    assert not rig.call("robot/recover").success, "there was no fault to recover from"
    rig.command()
    rig.spin_until(lambda: states[-1].accepted_translation.x != 0)


def test_a_reset_marks_the_end_and_the_start_of_episodes(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(seed=5, task="turn_on_led")
    events = rig.listen(EpisodeEvent, "episode/event")
    states = rig.listen(RobotState, "robot/state")
    rig.node.start()
    assert rig.call("sim/reset").success
    rig.spin_until(lambda: len(events) == 3 and len(states) > 3)
    marks = [(event.kind, event.task, event.seed) for event in events]
    assert marks == [(1, "turn_on_led", 5), (2, "turn_on_led", 5), (1, "turn_on_led", 6)]
    assert events[2].header.stamp in [state.header.stamp for state in states]


@pytest.mark.parametrize("told", ["recover", "close"])
def test_an_episode_with_a_fault_is_discarded(
    make_rig: Callable[..., Rig], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo logs where it stands
    rig = make_rig(rate_factor=4.0)
    events = rig.listen(EpisodeEvent, "episode/event")
    states = rig.listen(RobotState, "robot/state")
    rig.node.start()
    rig.node._env._data.qvel[0] = 1e12
    rig.spin_until(lambda: any(state.mode == RobotState.MODE_FAULT for state in states))
    if told == "recover":
        assert rig.call("robot/recover").success
    else:
        rig.node.close()
    rig.spin_until(lambda: len(events) > 1)
    assert [event.kind for event in events[:2]] == [EventKind.START, EventKind.DISCARD]


def test_parameters_are_described_and_fixed(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    names = list(rig.node.settings.__dataclass_fields__)
    for name in names:
        descriptor = rig.node.describe_parameter(name)
        assert descriptor.description, name
        assert descriptor.read_only, name
    assert not rig.node.set_parameters([Parameter("seed", value=9)])[0].successful


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"rate_factor": 1000.0}, "parameter rate_factor"),
        ({"seed": "one"}, "parameter seed"),
        ({"task": "open_drawr"}, "did you mean 'open_drawer'"),
        ({"start": "wid"}, "wide"),
    ],
)
def test_an_impossible_parameter_is_one_clear_line(
    make_rig: Callable[..., Rig], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(DiwaError, match=message) as error:
        make_rig(**parameters)
    assert "\n" not in str(error.value)


def test_an_episode_that_is_interrupted_as_it_starts_is_ended(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C after START has gone out and before the first state has."""
    rig = make_rig()
    received = rig.listen(EpisodeEvent, "episode/event")

    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rig.node, "_publish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rig.node.start()
    rig.node.close()
    rig.spin_until(lambda: [event.kind for event in received] == [EventKind.START, EventKind.END])


def test_record_keeps_what_a_full_disk_cuts_off_and_says_where(make_rig: Callable[..., Rig], tmp_path: Path) -> None:
    rig = make_rig()
    images = rig.peer.create_publisher(CompressedImage, "camera/static/image/compressed", 10)
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000));"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{full} from diwa_sim.recorder import main; main()", "--output", tmp_path / "live"],
        env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        rig.spin_until(lambda: images.get_subscription_count() > 0)
        for _ in range(4):
            images.publish(CompressedImage(data=bytes(1_100_000)))
        _, said = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    kept = tmp_path / f"live.{process.pid}.partial"
    assert process.returncode == 2
    assert said == (
        f"error: {tmp_path / 'live'}: could not be written (File too large); "
        f"what was recorded is kept up to its last whole chunk: ingest --bags {kept}\n"
    )
    assert (kept / "live" / "live.mcap").stat().st_size > 2_000_000


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM], ids=lambda told: told.name)
def test_the_process_ends_its_episode_when_told_to_stop(make_rig: Callable[..., Rig], told: signal.Signals) -> None:
    rig = make_rig()
    received: list[Any] = []
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    rig.peer.create_subscription(EpisodeEvent, "episode/event", received.append, latched)
    process = subprocess.Popen(
        [sys.executable, "-c", "from diwa_sim.node import main; main()", "--ros-args", "-p", "seed:=42"],
        env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)},
    )
    try:
        rig.spin_until(lambda: [event.kind for event in received] == [EventKind.START])
        process.send_signal(told)
        rig.spin_until(lambda: len(received) == 2)
        assert process.wait(TIMEOUT_S) == 0
    finally:
        process.kill()
    assert [(event.kind, event.seed) for event in received] == [(EventKind.START, 42), (EventKind.END, 42)]
