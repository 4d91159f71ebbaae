"""The Franka arm and its hand as a ROS node: the same topics and services as the simulator's node.

Thin: a callback converts and calls the ROS-free `Bridge`. One single-threaded executor; a timer polls the arm and does
what is due by the robot's clock. Connecting anew and recovering run in a thread of the bridge's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from diwa_bridge.arm.bridge import Bridge
from diwa_bridge.arm.franka import Arm
from diwa_bridge.arm.gripper import Gripper
from diwa_bridge.arm.recovery import WARNED_BELOW
from diwa_bridge.arm.servo import ServoStatus
from diwa_bridge.arm.settings import declare_settings
from diwa_bridge.arm.snapshots import BridgeSnapshot
from diwa_msgs.msg import EndEffectorDelta, RobotState
from diwa_ros.diagnostics import Pace, diagnostic
from diwa_ros.messages import answered, command_of, filled
from diwa_ros.peers import Rivals, full_name
from diwa_ros.process import ros_process, spin_until_told
from diwa_ros.qos import LATCHED, RELIABLE, SUMS
from diwa_runtime import robot_messages as messages
from diwa_runtime.cli import run_verb
from diwa_runtime.command_gate import CommandGate
from diwa_runtime.robot import SPEC_TOPIC

NODE = "diwa_bridge"
POLL_S = 0.004
RECOVERY_S = 90.0
"""After so long `robot/recover` is answered although it goes on: a caller must not wait for what may never end."""


class BridgeNode(Node):
    """Publishes the arm's state at the Spec's control rate and obeys `robot/command`."""

    def __init__(self, **options: Any) -> None:
        """Declare the parameters, connect, and make all topics and services; `options` are rclpy's.

        Raises:
            DiwaError: a parameter cannot be, or the arm cannot be used.
        """
        super().__init__(NODE, **options)
        self.settings = declare_settings(self)
        self.spec = self.settings.spec
        self._scale = self.spec.action_scale
        self.bridge = self._make_bridge()
        self.bridge.start()
        if self.bridge.outside:
            self.get_logger().warning(f"{self.bridge.outside}; only the ways back are open")
        self._fault = ""
        self._stalls = self._reported_stalls = 0
        self._states = 0
        self._pace = Pace(messages.ROBOT_STATE[0], self.spec.rate_hz, self.get_logger(), time.monotonic())
        self._robot_state = self.create_publisher(RobotState, messages.ROBOT_STATE[0], SUMS)
        self._joint_states = self.create_publisher(JointState, messages.JOINT_STATES[0], RELIABLE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)
        self._spec = self.create_publisher(String, SPEC_TOPIC, LATCHED)
        self._spec.publish(String(data=json.dumps(self.spec.to_json())))
        self.create_subscription(EndEffectorDelta, "robot/command", self.on_command, RELIABLE)
        self.create_service(Trigger, "robot/stop", self.on_stop)
        self.create_service(Trigger, "robot/release", self.on_release)
        # In a group of its own: while it waits, the others of a group do not run.
        group = MutuallyExclusiveCallbackGroup()
        self.create_service(Trigger, "robot/recover", self.on_recover, callback_group=group)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(POLL_S, self.on_poll, clock=steady)
        self.create_timer(1.0, self.on_diagnostics, clock=steady)
        self._rivals = Rivals(self, (messages.ROBOT_STATE[0], SPEC_TOPIC), self.on_rivals)
        self._recovering: Future | None = None
        self._recovering_since = 0.0

    def close(self) -> None:
        """Bring the arm to rest and let go of it."""
        self.bridge.close()

    def on_poll(self) -> None:
        """Do what is due, and publish what came of it."""
        snapshot = self.bridge.poll(time.monotonic_ns())
        if self.bridge.fault != self._fault:
            self._fault = self.bridge.fault
            if self._fault:
                self.get_logger().error(f"{self._fault}; the arm holds")
        if self.bridge.stalls != self._stalls:
            self._stalls = self.bridge.stalls
            why = f"nothing was done for {self.bridge.stalled_s:.2f} s; what was commanded before is forgotten"
            self.get_logger().warning(why, throttle_duration_sec=1.0)
        if snapshot is not None:
            self._publish(snapshot)
        late = time.monotonic() - self._recovering_since > RECOVERY_S
        if self._recovering is not None and (late or not self.bridge.recovering):
            self._recovering.set_result(None)
            self._recovering = None

    def on_rivals(self) -> None:
        """Take no commands while another robot says that it is this one: they would move both."""
        self.bridge.shut_for(self._rivals.who)

    def on_command(self, message: EndEffectorDelta, info: dict[str, Any]) -> None:
        """Hand a command to the gate; say so when it is refused."""
        command = command_of(message, info.get("publication_sequence_number"))
        noted_ns = info.get("received_timestamp") or 0
        waited_ns = max(0, time.time_ns() - noted_ns) if noted_ns else 0
        reason = self.bridge.offer(command, time.monotonic_ns(), waited_ns)
        if reason is not None:
            self.get_logger().error(f"robot/command refused: {reason}", throttle_duration_sec=1.0)

    def on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Latch a stop."""
        self.bridge.stop()
        return answered(response, True, "stopped until robot/release is called")

    def on_release(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Let go of a stop."""
        released = self.bridge.release()
        return answered(response, released, "released" if released else "nothing was stopped")

    async def on_recover(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Recover from a fault; the answer comes when that is done, and states go on meanwhile."""
        if self.bridge.recovering:
            since_s = time.monotonic() - self._recovering_since
            return answered(response, False, f"it is being recovered from, for {since_s:.0f} s by now")
        if self.bridge.recover() is None:
            return answered(response, False, "there is no fault")
        done = self._recovering = Future(executor=self.executor)
        self._recovering_since = time.monotonic()
        await done
        if self.bridge.recovering:
            why = f"it has not ended within {RECOVERY_S:.0f} s and goes on; if it stays so, start the bridge anew"
            return answered(response, False, why)
        recovered = not self.bridge.fault
        return answered(response, recovered, "recovered; the arm is still" if recovered else self.bridge.fault)

    def on_diagnostics(self) -> None:
        """Say what the arm does, what limits it, who commands, and how well commands arrive."""
        # In a fault the last state is repeated, by this machine's clock.
        self._pace.look(self._states, time.monotonic(), judged=not self.bridge.fault)
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [self._arm_status(), self._command_status()]
        self.bridge.gate.refused.clear()
        self._reported_stalls = self._stalls
        self._diagnostics.publish(message)

    def _make_bridge(self) -> Bridge:
        settings = self.settings
        hand = (settings.gripper_hysteresis, settings.gripper_speed, settings.gripper_force)
        return Bridge(
            Arm(settings.hostname, settings.speed, settings.realtime),
            Gripper(settings.hostname, *hand) if settings.gripper else None,
            settings.limits_for,
            CommandGate(round(settings.commander_silence_s * 1e9)),
            self._scale,
            settings.frozen_after_s,
        )

    def _publish(self, snapshot: BridgeSnapshot) -> None:
        self._states += 1
        joints = messages.joint_states(snapshot, snapshot.stamp_ns)
        self._joint_states.publish(filled(JointState(), joints))
        state = messages.robot_state(snapshot, snapshot.stamp_ns, self._scale, snapshot.mode, snapshot.answered_ns)
        self._robot_state.publish(filled(RobotState(), state))

    def _arm_status(self) -> DiagnosticStatus:
        bridge = self.bridge
        assert bridge.servo is not None, "made by start"
        limits = bridge.servo.limits
        limited = [flag.name.lower() for flag in ServoStatus if flag & bridge.servo.status and flag.name]
        values = {"mode": bridge.mode.name.lower(), "rate_hz": self._pace.rate_hz, "limited_by": ", ".join(limited)}
        values |= {"success_rate": bridge.success_rate, "arm": limits.arm.name}
        values |= {"speed": limits.speed, "fastest_m_s": limits.translation_velocity}
        values |= {"stalls": bridge.stalls}
        level, text = DiagnosticStatus.OK, bridge.mode.name.lower()
        if warnings := "; ".join(filter(None, self._warnings())):
            level, text = DiagnosticStatus.WARN, warnings
        if bridge.fault:
            level, text = DiagnosticStatus.ERROR, bridge.fault
        return diagnostic(full_name(self), "arm", level, text, values)

    def _warnings(self) -> Iterator[str]:
        """Give what is worse than it should be, "" for what is not."""
        bridge = self.bridge
        yield bridge.outside
        if bridge.success_rate < WARNED_BELOW:
            yield f"only {100 * bridge.success_rate:.0f} % of the commands arrive in time"
        yield self._pace.slow
        if self._stalls != self._reported_stalls:
            yield f"nothing was done for {bridge.stalled_s:.2f} s"

    def _command_status(self) -> DiagnosticStatus:
        gate = self.bridge.gate
        level = DiagnosticStatus.WARN if gate.refused else DiagnosticStatus.OK
        text = "; ".join(gate.refused) or ("commanded" if gate.commander is not None else "nobody commands")
        if gate.shut:
            level, text = DiagnosticStatus.ERROR, gate.shut
        values = {"commander": gate.commander or "", **gate.refused}
        return diagnostic(full_name(self), "command", level, text, values)


def run(argv: Sequence[str]) -> None:
    """Run the node until it is told to stop.

    Raises:
        DiwaError: a parameter cannot be, or the arm cannot be used.
    """
    with ros_process([sys.argv[0], *argv]):
        node = BridgeNode()
        try:
            spin_until_told(node)
        finally:
            node.close()
            node.destroy_node()


def main() -> None:
    """Run the node with the process's arguments."""
    sys.exit(run_verb(run))
