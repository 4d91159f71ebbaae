"""The bridge's node over real topics with an arm that has no network: what comes in ends nothing, rivals are named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from dutiful_arm import DutifulArm
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus  # noqa: E402
from rclpy.node import Node  # noqa: E402
from ros_rig import RosRig, rigs  # noqa: E402
from std_msgs.msg import String  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from diwa_bridge.arm import node as node_module  # noqa: E402
from diwa_bridge.arm.bridge import Bridge  # noqa: E402
from diwa_bridge.arm.franka import Condition, Reading  # noqa: E402
from diwa_bridge.arm.limits import ServoLimits  # noqa: E402
from diwa_bridge.arm.node import BridgeNode  # noqa: E402
from diwa_msgs.msg import EndEffectorDelta, RobotState  # noqa: E402
from diwa_runtime.command_gate import CommandGate  # noqa: E402
from diwa_runtime.errors import ConfigError  # noqa: E402
from diwa_runtime.robot import RobotMode  # noqa: E402
from diwa_runtime.spec import ActionScale  # noqa: E402

pytestmark = pytest.mark.ros


class TickingArm(DutifulArm):
    """Lets 4 ms pass each time that it is read, as often as the node reads it."""

    def read(self) -> Reading:
        self.step()
        return super().read()


class DutifulNode(BridgeNode):
    """The node, with such an arm."""

    def _make_bridge(self) -> Bridge:
        self.arm = TickingArm()
        # On a busy machine nobody turns the executor for a while; that is no lost arm.
        gate = CommandGate(round(self.settings.commander_silence_s * 1e9))
        return Bridge(self.arm, None, ServoLimits, gate, ActionScale(), frozen_after_s=1000.0)


class Rig(RosRig):
    """The node, a commander and what is heard."""

    def __init__(self, namespace: str = "") -> None:
        super().__init__()
        self.node = self.add(DutifulNode(namespace=namespace, **self.options(hostname="nowhere")))
        prefix = f"/{namespace}".rstrip("/")
        self.states = self.listen(RobotState, f"{prefix}/robot/state")
        self.diagnostics = self.listen(DiagnosticArray, "/diagnostics")
        self.commands = self.peer.create_publisher(EndEffectorDelta, f"{prefix}/robot/command", 10)
        self.spin_until(lambda: self.states and self.commands.get_subscription_count())

    def command(self, x: float = 0.003, source: str = "policy") -> None:
        message = EndEffectorDelta(source=source, gripper=1.0)
        message.translation.x = x
        self.commands.publish(message)

    def statuses(self, level: bytes) -> list[Any]:
        return [status for array in self.diagnostics for status in array.status if status.level == level]

    def close(self) -> None:
        self.node.close()
        super().close()


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    yield from rigs(Rig)


@pytest.mark.parametrize(("kind", "topic"), [(RobotState, "robot/state"), (String, "robot/spec")])
def test_while_another_robot_is_on_its_topics_it_takes_no_command_and_names_both(
    make_rig: Callable[..., Rig], kind: Any, topic: str
) -> None:
    rig = make_rig()
    other = rig.add(Node("diwa_sim", context=rig.context))
    publisher = other.create_publisher(kind, topic, 10)
    rig.spin_until(lambda: rig.statuses(DiagnosticStatus.ERROR))
    error = rig.statuses(DiagnosticStatus.ERROR)[0]
    assert error.name == "diwa_bridge: command"
    assert f"{topic} is published by /diwa_bridge and /diwa_sim; only one may" in error.message
    rig.command()
    rig.spin_until(lambda: rig.node.bridge.gate.refused)
    assert list(rig.node.bridge.gate.refused) == [rig.node.bridge.gate.shut]
    assert not rig.node.arm.sent
    other.destroy_publisher(publisher)
    rig.spin_until(lambda: not rig.node.bridge.gate.shut)
    rig.command()
    rig.spin_until(lambda: rig.node.arm.sent)


def test_in_a_namespace_its_status_has_its_whole_name(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig("left")
    rig.spin_until(lambda: rig.diagnostics)
    statuses = rig.diagnostics[0].status
    assert [status.name for status in statuses] == ["left/diwa_bridge: arm", "left/diwa_bridge: command"]
    assert {status.hardware_id for status in statuses} == {"left/diwa_bridge"}


def test_states_below_the_specs_rate_are_a_warning_with_the_figure(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    rig.node._pace.wanted_hz = 1e6
    rig.spin_until(lambda: rig.statuses(DiagnosticStatus.WARN))
    warning = rig.statuses(DiagnosticStatus.WARN)[0]
    assert warning.name == "diwa_bridge: arm"
    assert "Hz instead of 1e+06" in warning.message


def test_a_recovery_that_never_ends_is_answered_all_the_same(
    make_rig: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "RECOVERY_S", 0.2)
    rig, ends = make_rig(), threading.Event()
    monkeypatch.setattr(rig.node.arm, "recover", ends.wait)
    rig.node.arm.condition = Condition.REFLEX
    rig.spin_until(lambda: rig.states[-1].mode == RobotMode.FAULT)
    assert "goes on" in rig.call("robot/recover").message
    assert "is being recovered from, for" in rig.call("robot/recover").message
    assert rig.call("robot/stop").success
    ends.set()


@pytest.mark.parametrize(
    ("corner", "said"),
    [
        ([float("nan"), 0.0, 0.0], "nan is not from -5 to 5"),
        ([0.0, float("inf"), 0.0], "inf is not from -5 to 5"),
        ([-300.0, -400.0, 20.0], "-300.0 is not from -5 to 5"),  # millimetres
        ([0.0, 0.0], "must be three numbers"),
    ],
)
def test_a_corner_of_the_workspace_that_cannot_be_is_one_clear_line(corner: list[float], said: str) -> None:
    rig = RosRig()
    try:
        with pytest.raises(ConfigError, match=f"parameter workspace_low .*{said}"):
            rig.add(DutifulNode(**rig.options(hostname="nowhere", workspace_low=corner)))
    finally:
        rig.close()


SOUND = st.lists(st.floats(-0.02, 0.02), min_size=7, max_size=7)
ANY = st.lists(st.one_of(st.floats(), st.floats(-0.02, 0.02)), min_size=7, max_size=7)
COMMANDS = st.fixed_dictionaries(
    {
        "numbers": st.one_of(SOUND, ANY),
        "source": st.one_of(st.sampled_from(["policy", "teleop", ""]), st.text(max_size=80)),
        "sec": st.one_of(st.sampled_from([0, -1, 2**31 - 1]), st.integers(-(2**31), 2**31 - 1)),
        "nanosec": st.one_of(st.sampled_from([0, 10**9 - 1, 2**32 - 1]), st.integers(0, 2**32 - 1)),
        "sequence": st.one_of(st.none(), st.integers(0, 2**64 - 1)),
        "received": st.integers(0, 2**63 - 1),
    }
)
CALLS = st.sampled_from(["on_stop", "on_release", "on_diagnostics", "on_poll", "reflex", "guided", "ready", "lost"])


@pytest.fixture(scope="module")
def node() -> Iterator[DutifulNode]:
    rig = Rig()
    yield rig.node
    rig.close()


BEYOND = {"numbers": [0.001] * 7, "source": "policy", "sequence": 1, "received": 0}
BEYOND |= {"sec": 2**31 - 1, "nanosec": 2**32 - 1}


@settings(max_examples=60)
@given(st.lists(st.one_of(COMMANDS, CALLS), max_size=25))
@example([BEYOND, *["on_poll"] * 8])
def test_whatever_comes_in_no_exception_leaves_a_callback_and_the_arm_keeps_its_limits(
    node: DutifulNode, happened: list[Any]
) -> None:
    for event in [*happened, "on_poll"]:
        if isinstance(event, dict):
            node.on_command(*received(event))
        elif event in ("on_stop", "on_release"):
            assert getattr(node, event)(Trigger.Request(), Trigger.Response()).message
        elif event.startswith("on_"):
            getattr(node, event)()
        else:
            node.arm.condition = {"reflex": Condition.REFLEX, "guided": Condition.GUIDED}.get(event, Condition.READY)
        sent = len(node.arm.sent)
        for _ in range(3):
            node.on_poll()
        for twist in node.arm.sent[sent:]:
            assert np.linalg.norm(twist[:3]) <= node.bridge.servo.limits.translation_velocity + 1e-9
    if node.bridge.fault:
        node.arm.condition = Condition.READY
        node.bridge.recover().result(10)
        node.on_poll()
    node.on_release(Trigger.Request(), Trigger.Response())


def received(fields: dict[str, Any]) -> tuple[EndEffectorDelta, dict[str, Any]]:
    """Return a command and what the middleware says of it."""
    message = EndEffectorDelta(source=fields["source"], gripper=fields["numbers"][6])
    message.header.stamp.sec, message.header.stamp.nanosec = fields["sec"], fields["nanosec"]
    for vector, at in ((message.translation, 0), (message.rotation, 3)):
        vector.x, vector.y, vector.z = fields["numbers"][at : at + 3]
    info = {"publication_sequence_number": fields["sequence"], "received_timestamp": fields["received"]}
    return message, info
