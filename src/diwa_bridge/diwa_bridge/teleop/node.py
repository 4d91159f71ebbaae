"""`diwa_teleop`: an operator's hands on `robot/command`, and marks on `episode/event`.

Thin: a robot state is answered with what the ROS-free `Pilot` orders, if anything; presses become marks or a stop. One
single-threaded executor: a reading takes microseconds. A process that ends, for whatever reason, commands nothing, and
the bridge brings an arm that nobody commands to rest.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.node import Node
from std_msgs.msg import String

from diwa_bridge.teleop.devices import open_devices
from diwa_bridge.teleop.marks import EpisodeMarks, Mark, Told
from diwa_bridge.teleop.own_commands import OwnCommands
from diwa_bridge.teleop.pilot import Action, Order, Pilot, Shaping
from diwa_bridge.teleop.robot import HeardRobot
from diwa_bridge.teleop.stop_call import StopCall
from diwa_msgs.msg import EndEffectorDelta, EpisodeEvent, RobotState
from diwa_ros.diagnostics import Pace, diagnostic
from diwa_ros.messages import filled
from diwa_ros.parameters import Parameter, declared
from diwa_ros.peers import Rivals, full_name
from diwa_ros.process import ros_process, spin_until_told
from diwa_ros.qos import LATCHED, LATCHED_MARKS, NEWEST, RELIABLE
from diwa_runtime import events
from diwa_runtime.cli import run_verb
from diwa_runtime.command_gate import unusable_source
from diwa_runtime.errors import ConfigError, DiwaError, InputError, one_line
from diwa_runtime.robot import SPEC_TOPIC, RobotMode
from diwa_runtime.robot_messages import ROBOT_STATE, end_effector_delta, episode_event
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_runtime.spec import ActionScale, Spec

NODE = "diwa_teleop"
POLL_S = 0.02
"""Presses are heard without a robot state too: a stop must not wait for one."""
SILENT_S = 0.5
"""Without a robot state for so long the operator is told."""
GOODBYE_S = 3.0
"""How long a subscriber may take to confirm the last mark."""
LONGEST_LINE = 300
SAID_AGAIN_S = 1.0
"""No sooner is the next trouble said, however often it comes and goes."""
_SCALE, _SHAPING = ActionScale(), Shaping()

PARAMETERS = {
    "devices": Parameter(["keyboard"], "keyboard, gamepad[:PATH], spacemouse[:MODEL], script:FILE; several add up"),
    "tasks": Parameter([""], "what is demonstrated, empty = play; a key takes the next"),
    "source": Parameter("teleop", "the name under which the robot is commanded"),
    "translation_m": Parameter(
        _SHAPING.scale.translation_m, "m a robot state at full deflection", 0.0, _SCALE.translation_m
    ),
    "rotation_rad": Parameter(
        _SHAPING.scale.rotation_rad, "rad a robot state at full deflection", 0.0, _SCALE.rotation_rad
    ),
    "dead_zone": Parameter(_SHAPING.dead_zone, "share of an axis around its middle that means nothing", 0.0, 0.9),
    "exponent": Parameter(_SHAPING.exponent, "above 1: fine control near the middle", 1.0, 5.0),
    "tail_s": Parameter(0.3, "s of zeros after the last wish, so that the arm arrives", 0.0, 2.0),
}


class TeleopNode(Node):
    """Answers each `robot/state` with what the operator wishes, if anything.

    Attributes:
        pilot: what moves the arm.
        marks: which episode runs.
        finished: the operator quit, a device is gone, or `refused`.
        refused: why `tasks` cannot be demonstrated on this robot; "" = they can, as far as it has said.
    """

    def __init__(self, **options: Any) -> None:
        """Open the devices and listen to the robot; `options` are rclpy's.

        Raises:
            ConfigError: a parameter cannot be.
            InputError: a device cannot be used.
        """
        super().__init__(NODE, **options)
        values = declared(self, PARAMETERS)
        if not values["source"].strip():
            raise ConfigError(f"{NODE}: source must not be empty; the robot tells its commanders apart by it")
        if why := unusable_source(values["source"]):
            raise ConfigError(f"{NODE}: parameter source {why}")
        self._source: str = values["source"]
        self._own = OwnCommands(self._source)
        scale = ActionScale(values["translation_m"], values["rotation_rad"])
        shaping = Shaping(scale, values["dead_zone"], values["exponent"])
        if not values["devices"]:
            raise ConfigError(f"{NODE}: parameter devices names none; give it keyboard, for example")
        devices = open_devices(values["devices"])
        self.pilot = Pilot(devices, shaping, values["tail_s"])
        self._tasks = [task for task in values["tasks"] if task]
        self.marks = EpisodeMarks(values["tasks"])
        self.finished, self.refused = False, ""
        self._robot = HeardRobot(Spec().rate_hz)
        self._pace: Pace | None = None
        self._another_spec = ""
        self._said, self._said_s = "", -math.inf
        self._heard_s = -math.inf
        self._order: Order | None = None
        self._sent = 0
        self._line = ""
        self._make_entities()
        for device in devices:
            self.get_logger().info(f"{device.name}: {device.about}")

    def close(self) -> None:
        """Discard the episode that runs, aloud, and give the devices back."""
        self.pilot.close()
        self._clear_line()
        told = self.marks.close()
        if told.marks:
            self._tell(told)
            self._events.wait_for_all_acked(Duration(seconds=GOODBYE_S))

    def on_state(self, message: RobotState) -> None:
        """Command what is wished now, if anything."""
        self._heard_s = time.monotonic()
        is_usable = self._robot.hear(message)
        if self._robot.is_due:
            self._publish(self.marks.state())
        self.on_poll()
        self._order = None
        if not is_usable or self._objection():
            self.pilot.halt()
            return
        self._order = self.pilot.order(self._robot.mode, self._robot.gripper_command, time.monotonic_ns())
        if self._order is not None and self._robot.is_due:
            self._sent += 1
            command = self._command_of(self._order)
            self._own.sent(command)
            self._commands.publish(command)

    def on_command(self, message: EndEffectorDelta) -> None:
        """Hear what the robot is told: who else says our name is not to be mixed up with us."""
        self._own.heard(message, time.monotonic())

    def on_spec(self, message: String) -> None:
        """Refuse a task that the robot's Spec does not have: what is demonstrated under its name is never learned.

        A robot that had them and has them no more, or says what no Spec is, is not commanded until it is itself again.
        """
        self._another_spec = ""
        try:
            spec = Spec.parse(message.data, SPEC_TOPIC)
            for task in self._tasks:
                spec.task(task)
        except DiwaError as error:
            line = one_line(error)[:LONGEST_LINE]
            if self._tasks and self._pace is None:
                self.refused, self.finished = f"tasks: {line}", True
            elif self._tasks:
                self._another_spec = f"another robot all of a sudden: {line}"
            else:
                self.get_logger().warning(line, throttle_duration_sec=1.0)  # play needs no task
            return
        self._robot.rate_hz = spec.rate_hz
        self._pace = Pace(ROBOT_STATE[0], spec.rate_hz, self.get_logger())

    def on_poll(self) -> None:
        """Hear what was pressed."""
        for action in self.pilot.poll(time.monotonic_ns(), self._robot.stamp_ns):
            self._do(action)
        self._stop.look(time.monotonic())
        self.finished = self.finished or bool(self.pilot.lost)
        self._say_trouble()
        self._show()

    def on_diagnostics(self) -> None:
        """Say once a second what the operator does."""
        robot, pace = self._robot, self._pace
        if pace is not None and robot.stamp_ns is not None:
            pace.look(robot.states, robot.stamp_ns / NANOSECONDS)  # on the robot's clock: a simulator's may run slowly
        level, text = self._status()
        values = {"commands": self._sent, "episode": self._episode(), "next_task": self.marks.next_task or "play"}
        values |= {"rate_hz": pace.rate_hz if pace is not None else 0.0, "refused_states": robot.refused}
        values |= {"refused_readings": self.pilot.refused}
        status = diagnostic(full_name(self), "operator", level, text, values | self.marks.ended)
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _make_entities(self) -> None:
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._commands = self.create_publisher(EndEffectorDelta, "robot/command", RELIABLE)
        self._events = self.create_publisher(EpisodeEvent, events.TOPIC, LATCHED_MARKS)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)
        self._stop = StopCall(self)
        self._rivals = Rivals(self, (ROBOT_STATE[0],))
        # Of a burst of states only the newest is answered: to answer all would be to move several times at once.
        self.create_subscription(RobotState, ROBOT_STATE[0], self.on_state, NEWEST)
        self.create_subscription(EndEffectorDelta, "robot/command", self.on_command, RELIABLE)
        self.create_subscription(String, SPEC_TOPIC, self.on_spec, LATCHED)
        self.create_timer(POLL_S, self.on_poll, clock=steady)
        self.create_timer(1.0, self.on_diagnostics, clock=steady)

    def _do(self, action: Action) -> None:
        self._clear_line()
        if action is Action.QUIT:
            self.finished = True
        elif action is Action.STOP:
            self.pilot.halt()
            self._stop.begin(time.monotonic())
        elif self._robot.stamp_ns is None:
            self.get_logger().warning(f"{action}: no robot/state has come yet that a mark could belong to")
        else:
            self._tell(self.marks.press(action))

    def _tell(self, told: Told) -> None:
        """Publish what came of a press, and tell the operator."""
        self._publish(told.marks)
        if told.refused:
            self.get_logger().warning(told.text)
        else:
            self.get_logger().info(told.text)

    def _publish(self, marks: Sequence[Mark]) -> None:
        """Say marks of the newest robot state."""
        for mark in marks:
            assert self._robot.stamp_ns is not None, "nothing is marked before the first"
            fields = episode_event(mark.kind, self._robot.stamp_ns, mark.task)
            self._events.publish(filled(EpisodeEvent(), fields))

    def _command_of(self, order: Order) -> EndEffectorDelta:
        assert self._robot.stamp_ns is not None, "it answers a state"
        fields = end_effector_delta(order.motion, order.gripper, self._robot.stamp_ns, self._source)
        return filled(EndEffectorDelta(), fields)

    def _objection(self) -> str:
        """Say why nothing may be commanded, whatever the operator wishes; "" = it may."""
        if why := self._rivals.who or self._own.doubled(time.monotonic()) or self._another_spec:
            return f"{why}; nothing is commanded"
        return "robot/stop is not answered yet" if self._stop.is_pending else ""

    def _say_trouble(self) -> None:
        """Say once in the log what is wrong with the robot or with its other commanders."""
        trouble = self._own.doubled(time.monotonic()) or self._another_spec or self._robot.trouble or self.pilot.trouble
        now_s = time.monotonic()
        if trouble == self._said or (trouble and now_s - self._said_s < SAID_AGAIN_S):
            return
        self._said = trouble
        if trouble:
            self._said_s = now_s
            self._clear_line()
            self.get_logger().error(trouble)

    def _status(self) -> tuple[bytes, str]:
        if why := self.pilot.lost or self.refused:
            return DiagnosticStatus.ERROR, why
        if why := self._objection():
            return DiagnosticStatus.ERROR, why
        if time.monotonic() - self._heard_s > SILENT_S:
            return DiagnosticStatus.WARN, "no robot/state"
        if why := self._robot.trouble or self.pilot.trouble:
            return DiagnosticStatus.ERROR, why
        mode = self._robot.mode
        if mode in (RobotMode.STOPPED, RobotMode.FAULT):
            return DiagnosticStatus.WARN, f"the robot is in {mode.name}"
        if mode is RobotMode.GUIDED:
            return DiagnosticStatus.OK, "the robot is guided by hand"
        if self._pace is not None and self._pace.slow:
            return DiagnosticStatus.WARN, self._pace.slow
        if self.pilot.needs_rest:
            return DiagnosticStatus.OK, "let go once to begin"
        return DiagnosticStatus.OK, "moving" if self._order is not None else "at rest"

    def _episode(self) -> str:
        return "none" if self.marks.running is None else self.marks.running or "play"

    def _show(self) -> None:
        """Keep one line of the terminal up to date."""
        ended = ", ".join(f"{count} {how}" for how, count in self.marks.ended.items() if count)
        line = f"{self._status()[1]} | episode: {self._episode()} | {ended or 'none ended'}"
        if line != self._line and sys.stderr.isatty():
            self._clear_line()
            self._line = line
            print(line, end="", file=sys.stderr, flush=True)

    def _clear_line(self) -> None:
        """Make way for what is logged or shown next."""
        if self._line:
            self._line = ""
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def run(argv: Sequence[str]) -> None:
    """Run the node until the operator quits, a device is gone, or the process is told to stop.

    Raises:
        ConfigError: a parameter cannot be.
        InputError: a device cannot be used, or is gone; a task is none of the robot's Spec.
    """
    with ros_process([sys.argv[0], *argv]):
        node = TeleopNode()
        try:
            spin_until_told(node, lambda: node.finished)
        finally:
            node.close()
            node.destroy_node()
        if why := node.pilot.lost or node.refused:
            raise InputError(why)


def main() -> None:
    """Run the node with the process's arguments."""
    sys.exit(run_verb(run))
