"""The play table as a ROS node: the topics and services of the robot's bridge, so that nothing behind it can tell.

Thin: a callback converts, calls the ROS-free `LiveTable` or `CommandGate`, converts back and publishes. One
single-threaded executor: the table is one object, and a tick with two cameras takes a tenth of its period.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CompressedImage, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from diwa_msgs.msg import EndEffectorDelta, EpisodeEvent, RobotState, SceneState
from diwa_ros.diagnostics import Pace, diagnostic
from diwa_ros.messages import answered, command_of, filled
from diwa_ros.parameters import Parameter, declared
from diwa_ros.peers import Rivals, full_name
from diwa_ros.process import ros_process, spin_until_told
from diwa_ros.qos import LATCHED, LATCHED_MARKS, RELIABLE, SUMS
from diwa_runtime import events
from diwa_runtime import robot_messages as messages
from diwa_runtime.cameras import device_topic
from diwa_runtime.cli import run_verb
from diwa_runtime.command_gate import CommandGate
from diwa_runtime.events import EventKind
from diwa_runtime.robot import SPEC_TOPIC, RobotMode
from diwa_runtime.robot_messages import header
from diwa_sim.environment import PlayTable
from diwa_sim.live_table import LiveTable, Tick
from diwa_sim.rendering import device

NODE = "diwa_sim"
GOODBYE_S = 3.0
"""How long a subscriber may take to confirm the last mark."""


@dataclass(frozen=True)
class TableSettings:
    """The node's parameters; none changes while it runs.

    Attributes:
        task: what counts as success; "" = play.
        seed: of the first episode; each reset takes the next.
        start: spread of the start states: narrow, medium, wide or far.
        cameras: whether to render and publish both cameras.
        scene: whether to publish `scene/state`, as only a robot with a tracker has it.
        image_size: height and width of the images, pixels.
        rate_factor: simulated seconds in a second.
        publish_clock: whether the simulated time is published on /clock.
        commander_silence_s: after so long without a command another source may command.
    """

    task: str
    seed: int
    start: str
    cameras: bool
    scene: bool
    image_size: int
    rate_factor: float
    publish_clock: bool
    commander_silence_s: float


PARAMETERS = {
    "task": Parameter("open_drawer", "what counts as success; empty = play"),
    "seed": Parameter(0, "seed of the first episode; each reset takes the next", 0, 2**31 - 1),
    "start": Parameter("wide", "spread of the start states: narrow, medium, wide or far"),
    "cameras": Parameter(False, "whether to render and publish both cameras"),
    "scene": Parameter(True, "whether to publish scene/state; false = as an arm without a tracker"),
    "image_size": Parameter(64, "height and width of the images, pixels", 16, 1024),
    "rate_factor": Parameter(1.0, "simulated seconds in a second", 0.1, 100.0),
    "commander_silence_s": Parameter(0.5, "s without a command until another may", 0.1, 10.0),
}


class SimulatorNode(Node):
    """Publishes the table's state at its control rate and obeys `robot/command`."""

    def __init__(self, **options: Any) -> None:
        """Declare the parameters and make all topics and services; `options` are rclpy's. `start` sets it going."""
        super().__init__(NODE, **options)
        self.settings = declare_settings(self)
        self._env = PlayTable(
            task=self.settings.task or None,
            mode="vision" if self.settings.cameras else "state",
            image_size=self.settings.image_size,
            start=self.settings.start,
        )
        self._scale = self._env.contract.action_scale
        self._gate = CommandGate(round(self.settings.commander_silence_s * 1e9))
        self._table = LiveTable(self._env, self._gate, origin_ns=self.get_clock().now().nanoseconds)
        self._seed = self.settings.seed
        self._episode_open = False
        self._ticks = 0
        wanted_hz = self._env.contract.rate_hz * self.settings.rate_factor
        self._pace = Pace("the simulation", wanted_hz, self.get_logger(), time.monotonic())
        self._make_publishers()
        self._make_services()
        images = (messages.image_topic(camera)[0] for camera in self._images)
        scene = (messages.SCENE_STATE[0],) if self._scene_state is not None else ()
        self._rivals = Rivals(self, (messages.ROBOT_STATE[0], SPEC_TOPIC, *scene, *images), self.on_rivals)
        self._other_clocks = Rivals(self, ("/clock",) if self.settings.publish_clock else ())
        self._spec.publish(String(data=json.dumps(self._env.contract.to_json())))
        self.create_subscription(EndEffectorDelta, "robot/command", self.on_command, RELIABLE)

    @property
    def table(self) -> PlayTable:
        """What is simulated, to be looked at by whoever stands beside it in this process, and moved by nobody there."""
        return self._env

    def start(self) -> None:
        """Begin the first episode and tick from now on."""
        self._publish_start(self._table.reset(self._seed))
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / self._pace.wanted_hz, self.on_tick, clock=steady)
        self.create_timer(1.0, self.on_diagnostics, clock=steady)

    def close(self) -> None:
        """End the episode that runs, or discard it in a fault, and free the renderer."""
        if self._episode_open:
            self._episode_open = False
            # What a fault repeats is no play: an END would make an episode of it.
            faulty = self._table.mode is RobotMode.FAULT
            self._publish_event(EventKind.DISCARD if faulty else EventKind.END)
            self._events.wait_for_all_acked(Duration(seconds=GOODBYE_S))
        self._env.close()

    def on_tick(self) -> None:
        """Execute the newest command, or hold, for one period, and publish what came of it."""
        was_faulty = self._table.mode is RobotMode.FAULT
        tick = self._table.tick()
        if tick.mode is RobotMode.FAULT and not was_faulty:
            self.get_logger().error(f"{self._table.fault}; the arm holds until robot/recover")
        self._publish(tick)
        for task in tick.achieved:
            self._publish_event(EventKind.SUCCESS, task)

    def on_command(self, message: EndEffectorDelta, info: dict[str, Any]) -> None:
        """Hand a command to the gate; say so when it is refused."""
        reason = self._gate.offer(command_of(message, info.get("publication_sequence_number")), time.monotonic_ns())
        if reason is not None:
            self.get_logger().error(f"robot/command refused: {reason}", throttle_duration_sec=1.0)

    def on_rivals(self) -> None:
        """Take no commands while another robot says that it is this one: they would move both."""
        self._table.shut_for(self._rivals.who)

    def on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Latch a stop."""
        self._table.stop()
        return answered(response, True, "stopped until robot/release is called")

    def on_release(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Let go of a stop."""
        released = self._table.release()
        return answered(response, released, "released" if released else "nothing was stopped")

    def on_recover(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """End a fault with a fresh episode."""
        if self._table.mode is not RobotMode.FAULT:
            return answered(response, False, "there is no fault")
        self._publish_event(EventKind.DISCARD)
        self._seed += 1
        first = self._table.recover(self._seed)
        assert first is not None, "a fault must be recoverable"
        self._publish_start(first)
        return answered(response, True, f"recovered; a new episode with seed {self._seed} began")

    def on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """End the episode and begin the next."""
        if self._table.mode is RobotMode.FAULT:
            return answered(response, False, f"{self._table.fault}; call robot/recover")
        self._publish_event(EventKind.END)
        self._seed += 1
        self._publish_start(self._table.reset(self._seed))
        return answered(response, True, f"a new episode with seed {self._seed} began")

    def on_diagnostics(self) -> None:
        """Say how fast the table runs, who commands and what was refused."""
        self._pace.look(self._ticks, time.monotonic())
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = [self._clock_status(), self._command_status()]
        self._gate.refused.clear()
        self._diagnostics.publish(message)

    def _make_publishers(self) -> None:
        self._robot_state = self.create_publisher(RobotState, messages.ROBOT_STATE[0], SUMS)
        self._joint_states = self.create_publisher(JointState, messages.JOINT_STATES[0], RELIABLE)
        scene = self.settings.scene
        self._scene_state = self.create_publisher(SceneState, messages.SCENE_STATE[0], RELIABLE) if scene else None
        self._events = self.create_publisher(EpisodeEvent, events.TOPIC, LATCHED_MARKS)
        self._spec = self.create_publisher(String, SPEC_TOPIC, LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)
        self._images = {
            camera.name: self.create_publisher(CompressedImage, messages.image_topic(camera.name)[0], RELIABLE)
            for camera in (self._env.contract.cameras if self.settings.cameras else ())
        }
        self._devices = [self.create_publisher(String, device_topic(camera), LATCHED) for camera in self._images]
        for publisher in self._devices:
            publisher.publish(String(data=device()))
        clock = self.settings.publish_clock
        self._clock_publisher = self.create_publisher(ClockMessage, "/clock", RELIABLE) if clock else None

    def _make_services(self) -> None:
        self.create_service(Trigger, "robot/stop", self.on_stop)
        self.create_service(Trigger, "robot/release", self.on_release)
        self.create_service(Trigger, "robot/recover", self.on_recover)
        self.create_service(Trigger, "sim/reset", self.on_reset)

    def _publish_start(self, first: Tick) -> None:
        # Before it is said: whoever hears of the start may tell this process to stop at once, and must hear of the end.
        self._episode_open = True
        self._publish_event(EventKind.START)
        self._publish(first)

    def _publish_event(self, kind: EventKind, task: str | None = None) -> None:
        fields = messages.episode_event(kind, self._table.now_ns, task or self.settings.task, self._seed)
        self._events.publish(filled(EpisodeEvent(), fields))

    def _publish(self, tick: Tick) -> None:
        snapshot, stamp_ns = tick.snapshot, tick.stamp_ns
        self._ticks += 1
        if self._clock_publisher is not None:
            self._clock_publisher.publish(filled(ClockMessage(), {"clock": header(stamp_ns)["stamp"]}))
        for camera, publisher in self._images.items():
            fields = messages.compressed_image(snapshot.images[camera], stamp_ns, camera)
            publisher.publish(filled(CompressedImage(), fields))
        self._joint_states.publish(filled(JointState(), messages.joint_states(snapshot, stamp_ns)))
        if self._scene_state is not None:
            self._scene_state.publish(filled(SceneState(), messages.scene_state(snapshot.scene, stamp_ns)))
        state = messages.robot_state(snapshot, stamp_ns, self._scale, tick.mode, tick.answered_ns)
        self._robot_state.publish(filled(RobotState(), state))

    def _clock_status(self) -> DiagnosticStatus:
        level, text = DiagnosticStatus.OK, "on time"
        if self._pace.slow:
            level, text = DiagnosticStatus.WARN, self._pace.slow
        if self._other_clocks.who:
            level, text = DiagnosticStatus.ERROR, self._other_clocks.who
        values = {"rate_hz": self._pace.rate_hz, "wanted_hz": self._pace.wanted_hz}
        return diagnostic(full_name(self), "clock", level, text, values)

    def _command_status(self) -> DiagnosticStatus:
        mode, refused = self._table.mode, self._gate.refused
        level, text = DiagnosticStatus.OK, mode.name.lower()
        if refused:
            level, text = DiagnosticStatus.WARN, "; ".join(refused)
        if errors := "; ".join(filter(None, (self._table.fault, self._rivals.who))):
            level, text = DiagnosticStatus.ERROR, errors
        values = {"mode": mode.name.lower(), "commander": self._gate.commander or "", "refused": sum(refused.values())}
        return diagnostic(full_name(self), "command", level, text, values)


def declare_settings(node: Node) -> TableSettings:
    """Declare the node's parameters, and read them.

    Raises:
        ConfigError: one is of the wrong type or out of range.
    """
    values = declared(node, PARAMETERS)
    clock = "whether the simulated time is published on /clock; by default when rate_factor is not 1"
    return TableSettings(**values, **declared(node, {"publish_clock": Parameter(values["rate_factor"] != 1.0, clock)}))


def run(argv: Sequence[str]) -> None:
    """Run the node until it is told to stop.

    Raises:
        ConfigError: a parameter is of the wrong type or out of range.
        InputError: no such task.
    """
    with ros_process([sys.argv[0], *argv]):
        node = SimulatorNode()
        try:
            node.start()
            spin_until_told(node)
        finally:
            node.close()
            node.destroy_node()


def main() -> None:
    """Run the node with the process's arguments."""
    sys.exit(run_verb(run))
