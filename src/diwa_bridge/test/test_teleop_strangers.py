"""Tele-operation and robots that are not what they should be: nothing is commanded, it says why, the stop key lives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from ros_rig import RosRig, rigs  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from diwa_bridge.teleop import devices as devices_module  # noqa: E402
from diwa_bridge.teleop import own_commands  # noqa: E402
from diwa_bridge.teleop import stop_call as stop_module  # noqa: E402
from diwa_bridge.teleop.node import TeleopNode  # noqa: E402
from diwa_bridge.teleop.pilot import Action, Reading  # noqa: E402
from diwa_msgs.msg import EndEffectorDelta, RobotState  # noqa: E402
from diwa_runtime.robot import SPEC_TOPIC  # noqa: E402
from diwa_runtime.spec import Spec  # noqa: E402

pytestmark = pytest.mark.ros
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Hands:
    """A device that the test holds."""

    name, about, fresh_s = "hands", "", 1e9

    def __init__(self) -> None:
        self.axes, self.pressed = np.zeros(6), list[Action]()

    def read(self, now_ns: int, _: int | None) -> Reading:
        pressed, self.pressed = self.pressed, []
        return Reading(self.axes, now_ns, tuple(pressed))

    def close(self) -> None:
        pass


class Rig(RosRig):
    """A robot that the test speaks for, and tele-operation with hands that push."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__("robot")
        self.hands = Hands()
        self.devices = devices_module.DEVICES
        devices_module.DEVICES = {**self.devices, "hands": lambda _: self.hands}  # type: ignore[misc]
        self.namespace = parameters.pop("namespace", "")
        options = self.options(devices=["hands"], tail_s=0.0, **parameters)
        self.teleop = self.add(TeleopNode(namespace=self.namespace, **options))
        self.prefix = f"/{self.namespace}".rstrip("/")
        self.publisher = self.peer.create_publisher(RobotState, f"{self.prefix}/robot/state", 10)
        self.spec = self.peer.create_publisher(String, f"{self.prefix}/{SPEC_TOPIC}", LATCHED)
        self.commands = self.listen(EndEffectorDelta, f"{self.prefix}/robot/command")
        self.diagnostics = self.listen(DiagnosticArray, "/diagnostics")
        self.sent = 0.0
        self.spin_until(lambda: self.teleop.count_publishers("robot/state") and self.publisher.get_subscription_count())
        self.spin_until(lambda: self.teleop.count_subscribers("robot/command") == 2)
        self.state()
        self.hands.axes = np.array([0, 1.0, 0, 0, 0, 0])

    def state(self, count: int = 5, periods: float = 1.0, **changes: Any) -> int:
        """Say some states; return how many commands were sent."""
        before = self.teleop._sent
        for _ in range(count):
            self.sent += periods
            message = RobotState(gripper_command=1.0)
            message.tcp_pose.orientation.w = 1.0
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(round(33_333_333 * self.sent), 10**9)
            for name, value in changes.items():
                setattr(message, name, value)
            self.publisher.publish(message)
            heard = self.teleop._robot.states
            self.spin_until(lambda heard=heard: self.teleop._robot.states > heard)  # type: ignore[misc]
        return self.teleop._sent - before

    def errors(self) -> list[str]:
        return [s.message for array in self.diagnostics for s in array.status if s.level == DiagnosticStatus.ERROR]

    def says(self) -> str:
        """What it says as an error while states come."""
        self.teleop._heard_s = float("inf")  # however slow the machine is
        level, text = self.teleop._status()
        return text if level == DiagnosticStatus.ERROR else ""

    def rests_and_pushes(self) -> int:
        """Let go once and push again; return how many commands were sent."""
        self.hands.axes = np.zeros(6)
        self.state()
        self.hands.axes = np.array([0, 1.0, 0, 0, 0, 0])
        return self.state()

    def close(self) -> None:
        devices_module.DEVICES = self.devices  # type: ignore[misc]
        self.teleop.close()
        super().close()


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    yield from rigs(Rig)


def serve_stop(rig: Rig, node: Node) -> list[str]:
    """Let a node serve robot/stop; return what is called from now on."""
    called: list[str] = []

    def on_stop(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        called.append(node.get_name())
        response.success, response.message = True, "stopped"
        return response

    node.create_service(Trigger, f"{rig.prefix}/robot/stop", on_stop)
    return called


def test_a_mode_that_it_does_not_know_is_a_fault_and_the_stop_key_lives(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    called = serve_stop(rig, rig.peer)
    assert rig.state() > 0
    assert rig.state(mode=9) == 0
    assert rig.says() == "robot/state: mode 9 is not known here; taken for a fault"
    rig.hands.pressed = [Action.STOP]
    rig.spin_until(lambda: called)
    rig.spin_until(lambda: not rig.teleop._stop.is_pending)
    assert rig.state() == 0, "the hands have not rested"
    assert rig.rests_and_pushes() > 0


def test_a_state_that_cannot_be_is_not_answered_nor_marked(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    assert rig.state() > 0
    assert rig.state(gripper_command=float("nan")) == 0
    assert rig.says() == "robot/state: a gripper_command that is not finite; nothing is commanded"
    assert rig.teleop._robot.refused == 5
    assert rig.rests_and_pushes() > 0


def test_two_robots_under_one_name_are_not_commanded_and_are_named(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(namespace="left")
    assert rig.state() > 0
    other = rig.add(Node("zombie", context=rig.context))
    second = other.create_publisher(RobotState, "left/robot/state", 10)
    rig.spin_until(lambda: rig.teleop._rivals.who)
    assert rig.state() == 0
    rig.spin_until(rig.errors)
    assert "robot/state is published by /robot and /zombie; only one may" in rig.errors()[0]
    assert {s.name for a in rig.diagnostics for s in a.status} == {"left/diwa_teleop: operator"}
    other.destroy_publisher(second)
    rig.spin_until(lambda: not rig.teleop._rivals.who)
    assert rig.state() == 0, "the hands have not rested"
    assert rig.rests_and_pushes() > 0


def test_somebody_else_under_its_name_silences_it_and_is_said(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_commands, "SILENT_S", 1e9)
    rig = make_rig(source="hand")
    assert rig.state() > 0
    second = rig.peer.create_publisher(EndEffectorDelta, "robot/command", 10)
    rig.spin_until(lambda: second.get_subscription_count() == 2)
    second.publish(EndEffectorDelta(source="policy", gripper=1.0))
    rig.spin_until(lambda: any(command.source == "policy" for command in rig.commands))
    assert rig.state() > 0, "another name is the robot's business"
    second.publish(EndEffectorDelta(source="hand", gripper=1.0))
    rig.spin_until(rig.teleop._objection)
    assert "somebody else commands as 'hand'" in rig.teleop._objection()
    assert rig.state() == 0
    monkeypatch.setattr(own_commands, "SILENT_S", 0.0)
    assert rig.state() == 0, "the hands have not rested"
    assert rig.rests_and_pushes() > 0


def test_a_robot_that_becomes_another_one_is_not_commanded_until_it_is_itself_again(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(tasks=["open_drawer"])
    ours = String(data=json.dumps(Spec().to_json()))
    rig.spec.publish(ours)
    rig.spin_until(lambda: rig.teleop._pace is not None)
    assert rig.state() > 0
    rig.spec.publish(String(data="{}"))
    rig.spin_until(lambda: rig.teleop._another_spec)
    assert rig.state() == 0
    assert not rig.teleop.finished, "nobody else's message ends it"
    rig.spec.publish(ours)
    rig.spin_until(lambda: not rig.teleop._another_spec)
    assert rig.rests_and_pushes() > 0


def test_robot_stop_is_called_until_somebody_answers(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A robot that was killed looks as if it served for a while; the one that comes up after it must hear the stop."""
    monkeypatch.setattr(stop_module, "AGAIN_S", 0.05)
    rig = make_rig()
    zombie = Node("zombie", context=rig.context)  # turned by nobody, so it never answers
    serve_stop(rig, zombie)
    rig.spin_until(rig.teleop._stop._client.service_is_ready)
    rig.hands.pressed = [Action.STOP]
    rig.spin_until(lambda: rig.teleop._stop._tries > 2)
    monkeypatch.setattr(stop_module, "TRIES", 10**9)
    assert rig.rests_and_pushes() == 0, "not before it is answered"
    called = serve_stop(rig, rig.peer)
    rig.spin_until(lambda: called and not rig.teleop._stop.is_pending)
    assert rig.rests_and_pushes() > 0, "what the robot then does with it is its own business"
    zombie.destroy_node()


def test_a_stop_that_nobody_ever_answers_is_given_up_and_said(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop_module, "AGAIN_S", 0.01)
    rig, said = make_rig(), list[str]()
    logger = rig.teleop.get_logger()
    monkeypatch.setattr(logger, "error", lambda text, **_: said.append(text))
    monkeypatch.setattr(rig.teleop, "get_logger", lambda: logger)
    rig.hands.pressed = [Action.STOP]
    rig.spin_until(lambda: len(said) == 2)
    assert "nobody answers, use the robot's own stop" in said[0]
    assert "given up; the robot is not stopped by this" in said[1]
    assert not rig.teleop._stop.is_pending


def test_a_robot_that_says_more_states_than_the_spec_is_not_driven_faster(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    assert rig.state(10) == 10
    assert rig.state(100, periods=0.1) in (10, 11)


def test_fewer_states_than_the_specs_rate_are_a_warning_with_the_figure(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.spec.publish(String(data=json.dumps(Spec().to_json())))
    rig.spin_until(lambda: rig.teleop._pace is not None)
    for _ in range(4):
        for _ in range(3):
            rig.sent += 1  # every second state is lost on its way
            rig.state(1)
        rig.teleop.on_diagnostics()
    rig.teleop._heard_s = float("inf")
    assert rig.teleop._status() == (DiagnosticStatus.WARN, "robot/state at 15.0 Hz instead of 30")


FLOATS = st.one_of(st.floats(), st.floats(-1, 1))
STATES = st.fixed_dictionaries(
    {
        "mode": st.integers(0, 255),
        "gripper_command": FLOATS,
        "gripper_width": FLOATS,
        "x": FLOATS,
        "w": FLOATS,
        "sec": st.one_of(st.sampled_from([0, -1, 2**31 - 1]), st.integers(-(2**31), 2**31 - 1)),
        "nanosec": st.one_of(st.sampled_from([0, 10**9 - 1, 2**32 - 1]), st.integers(0, 2**32 - 1)),
    }
)
TEXTS = st.one_of(st.text(max_size=40), st.sampled_from(["{", "{}", "[]", "1e999", "[" * 100_000]))
JSON = st.recursive(st.one_of(st.none(), st.booleans(), FLOATS, st.text(max_size=5)), lambda inner: st.lists(inner))
CHANGES = st.dictionaries(st.sampled_from(sorted(Spec().to_json())), JSON, max_size=3)
SOURCES = st.sampled_from(["teleop", "policy", ""])
PRESSES = st.sampled_from([action for action in Action if action is not Action.QUIT])
EVENTS = st.one_of(STATES, TEXTS, CHANGES.map(lambda changes: ("spec", changes)), st.tuples(SOURCES, FLOATS), PRESSES)


@pytest.fixture(scope="module")
def quiet() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


@settings(max_examples=60)
@given(st.lists(EVENTS, max_size=15))
def test_whatever_is_heard_no_exception_leaves_a_callback_and_what_is_commanded_is_sound(
    quiet: Rig, happened: list[Any]
) -> None:
    teleop, sent = quiet.teleop, list[Any]()
    publish, teleop._commands.publish = teleop._commands.publish, sent.append
    for event in happened:
        if isinstance(event, Action):
            quiet.hands.pressed.append(event)
        elif isinstance(event, dict):
            teleop.on_state(state_of(event))
        elif isinstance(event, str):
            teleop.on_spec(String(data=event))
        elif event[0] == "spec":
            teleop.on_spec(String(data=json.dumps({**Spec().to_json(), **event[1]})))
        else:
            teleop.on_command(EndEffectorDelta(source=event[0], gripper=event[1]))
        teleop.on_poll()
        teleop.on_diagnostics()
    teleop._commands.publish = publish
    for command in sent:
        assert command.gripper in (-1.0, 1.0)
        assert command.header.stamp.sec >= 0
        assert abs(command.translation.y) <= 0.02


def state_of(fields: dict[str, Any]) -> RobotState:
    message = RobotState(**{name: fields[name] for name in ("mode", "gripper_command", "gripper_width")})
    message.tcp_pose.position.x, message.tcp_pose.orientation.w = fields["x"], fields["w"]
    message.header.stamp.sec, message.header.stamp.nanosec = fields["sec"], fields["nanosec"]
    return message
