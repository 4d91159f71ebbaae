"""The bridge's node over real topics, with a simulator of the arm's network protocol as the robot."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("franky", reason="needs franky-control")
pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from robot_rig import FROZEN_S, START_S, Simulator, any_machine, raised_threads, rest_after_s, simulator  # noqa: E402
from ros_rig import DOMAIN, RosRig  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from diwa_bridge.arm.franka import Arm, Condition  # noqa: E402
from diwa_bridge.arm.limits import FR3  # noqa: E402
from diwa_bridge.arm.node import BridgeNode  # noqa: E402
from diwa_bridge.arm.settings import PARAMETERS, settings_of  # noqa: E402
from diwa_msgs.msg import EndEffectorDelta, RobotState  # noqa: E402
from diwa_runtime.robot import SPEC_TOPIC, RobotMode  # noqa: E402
from diwa_runtime.rows.streams import NANOSECONDS  # noqa: E402
from diwa_runtime.spec import Spec  # noqa: E402

pytestmark = [pytest.mark.ros, pytest.mark.franka]
DRILLS = int(os.environ.get("DIWA_DRILLS", "1"))
COMMANDER = """
import rclpy
from rclpy.node import Node
from diwa_msgs.msg import EndEffectorDelta, RobotState
rclpy.init()
node = Node("commander")
commands, step = node.create_publisher(EndEffectorDelta, "robot/command", 10), 0.004
def answer(state):
    global step
    if abs(state.tcp_pose.position.y) > 0.05:  # to and fro about the middle, however often it is started
        step = -0.004 if state.tcp_pose.position.y > 0 else 0.004
    command = EndEffectorDelta(source="policy", gripper=1.0)
    command.header.stamp = state.header.stamp
    command.translation.y = step
    commands.publish(command)
node.create_subscription(RobotState, "robot/state", answer, 10)
rclpy.spin(node)
"""


@pytest.fixture(scope="module", autouse=True)
def busy() -> Iterator[None]:
    with any_machine():
        yield


class NodeRig(RosRig):
    """The bridge's node and a peer."""

    def __init__(self, hostname: str, **parameters: Any) -> None:
        self.raised_before = raised_threads()  # an arm of another test may still be at its end
        super().__init__()
        parameters = {"hostname": hostname, "frozen_after_s": FROZEN_S, "gripper": False, **parameters}
        self.node = self.add(BridgeNode(**self.options(**parameters)))
        self.states: list[RobotState] = []
        self.peer.create_subscription(RobotState, "robot/state", self._on_state, 100)
        self.commands = self.peer.create_publisher(EndEffectorDelta, "robot/command", 10)
        self.x = 0.0
        self.spin_until(lambda: len(self.states) > 2 and self.commands.get_subscription_count() > 0)

    def _on_state(self, state: RobotState) -> None:
        self.states.append(state)
        if self.x:
            self.command(state)

    def command(self, state: RobotState, **changes: float) -> None:
        command = EndEffectorDelta(source="policy", gripper=1.0)
        command.header.stamp = state.header.stamp
        command.translation.x = changes.get("x", self.x)
        self.commands.publish(command)

    @property
    def mode(self) -> RobotMode:
        return RobotMode(self.states[-1].mode)

    def why(self) -> str:
        return f"({self.node.bridge.mode.name} {self.node.bridge.fault})"

    def states_more(self, count: int) -> None:
        until = len(self.states) + count
        self.spin_until(lambda: len(self.states) >= until)

    def way(self, since: int) -> tuple[np.ndarray, np.ndarray]:
        """Times (N,), s, and positions (N, 3), m, of the states since the one numbered so."""
        states = self.states[since:]
        times = np.array([s.header.stamp.sec + s.header.stamp.nanosec / NANOSECONDS for s in states])
        return times, np.array([[s.tcp_pose.position.x, s.tcp_pose.position.y, s.tcp_pose.position.z] for s in states])

    def close(self) -> None:
        self.node.close()
        super().close()


@pytest.fixture(scope="module")
def robot() -> Iterator[Simulator]:
    with simulator("franky-sim", "127.0.0.31") as running:
        yield running


@pytest.fixture
def rig(robot: Simulator, request: pytest.FixtureRequest) -> Iterator[NodeRig]:
    made = NodeRig(robot.hostname, **getattr(request, "param", {}))
    yield made
    made.close()


def test_it_says_what_robot_it_is_and_does_as_it_is_told_until_stopped(rig: NodeRig) -> None:
    specs: list[String] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    rig.peer.create_subscription(String, SPEC_TOPIC, specs.append, latched)
    rig.spin_until(lambda: specs)
    assert Spec.from_json(json.loads(specs[0].data)) == Spec()
    began = rig.states[-1].tcp_pose.position.x
    rig.x = 0.003
    rig.spin_until(lambda: rig.states[-1].tcp_pose.position.x > began + 0.02)
    later = rclpy.Context()  # what is started after the arm: libfranka's priority must not have spread to it
    rclpy.init(context=later, domain_id=DOMAIN)
    Node("later", context=later).destroy_node()
    rig.spin_until(lambda: len(raised_threads() - rig.raised_before) <= 1)  # the thread that sends, alone
    rclpy.shutdown(context=later)
    rig.spin_until(lambda: rig.mode is RobotMode.MOVING)  # a stall of this process is a rest
    assert rig.states[-1].accepted_translation.x > 0
    assert rig.states[-1].answered_stamp.sec > 0
    rig.call("robot/stop")
    rig.spin_until(lambda: rig.mode is RobotMode.STOPPED)
    rig.states_more(15)
    since = len(rig.states) - 1
    rig.states_more(10)
    _, positions = rig.way(since)
    assert np.ptp(positions, axis=0).max() < 1e-3, "it is commanded all the while"
    assert rig.call("robot/release").success
    at = rig.states[-1].tcp_pose.position.x
    rig.spin_until(lambda: rig.states[-1].tcp_pose.position.x > at + 0.005)
    assert not rig.call("robot/recover").success, "there is no fault"


@pytest.mark.parametrize("rig", [{"speed": 0.2}], indirect=True, ids=["speed"])
def test_f01_f19_what_is_refused_is_said_and_how_fast_the_arm_may_be(rig: NodeRig) -> None:
    heard: list[Any] = []
    rig.peer.create_subscription(DiagnosticArray, "/diagnostics", lambda m: heard.extend(m.status), 10)
    rig.command(rig.states[-1], x=float("nan"))
    rig.spin_until(lambda: any("not finite" in status.message for status in heard))
    assert rig.mode is RobotMode.IDLE
    arm = next(status for status in heard if status.name == "diwa_bridge: arm")
    values = {pair.key: pair.value for pair in arm.values}
    assert values["arm"] == "fr3"
    assert (values["speed"], float(values["fastest_m_s"])) == ("0.2", pytest.approx(0.234, abs=0.001))
    assert float(values["success_rate"]) > 0.9
    rig.x = 0.002
    rig.spin_until(lambda: rig.mode is RobotMode.MOVING)
    second = rig.peer.create_publisher(EndEffectorDelta, "robot/command", 10)
    rig.spin_until(lambda: second.get_subscription_count() > 0)
    second.publish(EndEffectorDelta(source="teleop", gripper=1.0))
    rig.spin_until(lambda: any("'teleop' may not command while 'policy' does" in status.message for status in heard))


def test_told_to_stop_it_brings_the_arm_to_rest_and_says_goodbye() -> None:
    with simulator("franka-sim", "127.0.0.34") as running:
        rig = NodeRig(running.hostname)
        rig.x = 0.003
        rig.spin_until(lambda: rig.mode is RobotMode.MOVING)
        rig.states_more(10)
        rig.close()  # what SIGTERM leads to
        arm = Arm(running.hostname, 0.1)
        arm.connect()
        state = arm.read()
        arm.close()
        assert state.condition is Condition.READY, state.errors
        assert not state.errors


def test_f21_a_frozen_policy_leaves_the_arm_at_rest() -> None:
    with simulator("franka-sim", "127.0.0.33") as running:
        rig = NodeRig(running.hostname)
        try:
            drill_frozen_policies(rig)
        finally:
            rig.close()


def drill_frozen_policies(rig: NodeRig) -> None:
    for _ in range(DRILLS):
        policy = subprocess.Popen([sys.executable, "-c", COMMANDER], env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)})
        try:
            rig.spin_until(lambda: rig.mode is RobotMode.MOVING)
            rig.states_more(40)
            rig.spin_until(lambda: abs(rig.states[-1].tcp_pose.position.y) < 0.02)  # in full swing
            policy.send_signal(signal.SIGSTOP)
            since = len(rig.states) - 1
            rig.spin_until(lambda: rig.mode is RobotMode.IDLE)
            rig.states_more(20)
        finally:
            policy.kill()
            policy.wait()
        times, positions = rig.way(since)
        assert np.ptp(positions, axis=0).max() > 0.003, "it did move when the policy was frozen"
        assert rest_after_s(times, positions) < 0.3
        rig.states_more(20)  # so that the next one may command


def test_recovery_through_the_service_while_states_go_on() -> None:
    with simulator("franka-sim", "127.0.0.32") as running:
        rig = NodeRig(running.hostname)
        try:
            running.kill()
            rig.spin_until(lambda: rig.mode is RobotMode.FAULT)
            running.start()
            before = len(rig.states)
            answer = rig.call("robot/recover")
            answer = answer if answer.success else rig.call("robot/recover")  # it listens a moment later than it says
            assert answer.success, answer.message
            assert "still" in answer.message
            assert len(rig.states) > before + 3
            rig.spin_until(lambda: rig.mode is RobotMode.IDLE)
        finally:
            rig.close()


def test_nobody_there_is_one_line_and_exit_code_2() -> None:
    words = ["--ros-args", "-p", "hostname:=127.0.0.39"]
    code = "from diwa_bridge.arm.node import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)},
        capture_output=True,
        text=True,
        timeout=START_S,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "127.0.0.39: " in ended.stderr
    assert "FCI" in ended.stderr


@pytest.mark.parametrize(("rate_hz", "silence_s"), [(30.0, 0.1), (5.0, 0.3)])
def test_between_two_commands_of_a_slow_rate_nobody_is_silent(tmp_path: Path, rate_hz: float, silence_s: float) -> None:
    spec = tmp_path / "lab.json"
    spec.write_text(json.dumps(Spec(rate_hz=rate_hz).to_json()))
    given = {name: parameter.default for name, parameter in PARAMETERS.items()}
    settings = settings_of(given | {"hostname": "172.16.0.2", "spec": str(spec)})
    assert settings.limits_for(FR3).silence_s == pytest.approx(silence_s)
