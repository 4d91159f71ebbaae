"""The robot's topics as the policy node hears them, and the commands that it sends.

Thin: a callback converts, asks the ROS-free runner, and hands over what it decided.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import String

from diwa_msgs.msg import EndEffectorDelta, RobotState
from diwa_policy_node import messages
from diwa_policy_node.skills.goal import Decision
from diwa_policy_node.skills.runner import SkillRunner
from diwa_ros.peers import Rivals
from diwa_ros.qos import LATCHED, NEWEST_IMAGE, RELIABLE, SUMS
from diwa_runtime.cameras import device_topic
from diwa_runtime.errors import DiwaError, InputError
from diwa_runtime.interfaces import message_class
from diwa_runtime.robot import SPEC_TOPIC
from diwa_runtime.rows.streams import nanoseconds_of
from diwa_runtime.same_spec import check_same_spec
from diwa_runtime.spec import Spec

SENT_KEPT = 64


class Receipts:
    """When the messages of one topic were received, on the steady clock: now, less the time that each had to wait.

    The middleware notes the receipt on the clock of the day; only a difference of two readings is taken from that.
    """

    def __init__(self) -> None:
        self._last_ns = 0

    def of(self, noted_ns: int, day_ns: int, steady_ns: int) -> int:
        """Return the receipt of a message.

        Args:
            noted_ns: by the middleware on the clock of the day; 0 where it notes nothing.
            day_ns: the clock of the day now.
            steady_ns: the steady clock now.
        """
        waited_ns = max(0, day_ns - noted_ns) if noted_ns else 0
        self._last_ns = max(self._last_ns, steady_ns - waited_ns)
        return self._last_ns


class Losses:
    """How many messages of one publisher were lost, by the count that it gives each of them."""

    def __init__(self) -> None:
        self._last: int | None = None

    def before(self, sequence: int | None) -> int:
        """Return how many were lost just before the one of that number; None: it has none."""
        last, self._last = self._last, sequence
        if last is None or sequence is None or sequence <= last:  # the first, or another publisher's
            return 0
        return sequence - last - 1


class RobotLink:
    """What is heard of the robot, and what it is told.

    Attributes:
        spec: what the robot said last that it is; None = no robot has.
        devices: what the cameras' nodes have said that they are, by camera.
    """

    def __init__(
        self,
        node: LifecycleNode,
        source: str,
        on_wrong_robot: Callable[[Exception], None],
        on_contest: Callable[[], None],
    ) -> None:
        """Listen for the robot's Spec.

        Args:
            node: whose topics.
            source: the name under which the robot is commanded.
            on_wrong_robot: is told why the robot is none for what `listen` was given; also when it becomes one.
            on_contest: is called when a goal has ended because somebody else commands the robot too.
        """
        self._node, self._source, self._on_wrong_robot = node, source, on_wrong_robot
        self._on_contest = on_contest
        self.spec: Spec | None = None
        self.devices: dict[str, str] = {}
        self._runner: SkillRunner | None = None
        self._rivals: Rivals | None = None
        self._on_decision: Callable[[Decision], None] = lambda _: None
        self._afterwards: Callable[[], None] = lambda: None
        self._sent: deque[EndEffectorDelta] = deque(maxlen=SENT_KEPT)
        self._subscriptions: list[Any] = []
        self._commands = node.create_lifecycle_publisher(EndEffectorDelta, "robot/command", RELIABLE)
        self._shadow_commands = node.create_lifecycle_publisher(EndEffectorDelta, "policy/shadow_command", RELIABLE)
        node.create_subscription(String, SPEC_TOPIC, self._on_spec, LATCHED)

    def check(self, ours: Spec) -> None:
        """See that the robot is the one that bundles are for. What a policy observes of it is its own business.

        Raises:
            InputError: no robot has said what it is.
            SpecMismatchError: it is another one.
        """
        if self.spec is None:
            raise InputError(f"no robot has said on {SPEC_TOPIC} what it is; start its bridge or the simulator first")
        check_same_spec(ours, "the bundles", self.spec, SPEC_TOPIC, "robot")

    def look_for_rivals(self) -> str:
        """Say who publish a topic that one robot alone is to publish; "" = nobody: two of them would both be driven."""
        if self._rivals is None:
            return ""
        self._rivals.look()
        return self._rivals.who

    @property
    def rivals(self) -> str:
        """What `look_for_rivals` said last; it is asked five times a second."""
        return "" if self._rivals is None else self._rivals.who

    def listen(
        self, runner: SkillRunner, on_decision: Callable[[Decision], None], afterwards: Callable[[], None]
    ) -> None:
        """Feed a runner from now on.

        Args:
            runner: is told of each message, of the robot's mode and of commands that are not ours.
            on_decision: takes each of its decisions.
            afterwards: is called when it was told something, since that may have ended a goal.
        """
        self._runner, self._on_decision, self._afterwards = runner, on_decision, afterwards
        seen, subscribe = runner.observations, self._node.create_subscription
        alone_on = dict.fromkeys([seen.robot_topic, *seen.topics, SPEC_TOPIC])
        self._rivals = Rivals(self._node, alone_on, lambda: self._on_rivals(runner))
        cameras = {stream.topic for stream in runner.spec.streams if not stream.select}
        for topic, kind in seen.topics.items():
            qos = NEWEST_IMAGE if topic in cameras else SUMS
            self._subscriptions.append(subscribe(message_class(kind), topic, self._listener(topic, runner), qos))
        for camera in (camera.name for camera in runner.spec.cameras if runner.spec.uses_cameras):
            self._subscriptions.append(
                subscribe(String, device_topic(camera), self._listener_to_device(camera), LATCHED)
            )
        if seen.robot_topic not in seen.topics:
            alone = self._listener_to_robot_alone(runner)
            self._subscriptions.append(subscribe(RobotState, seen.robot_topic, alone, RELIABLE))
        self._subscriptions.append(subscribe(EndEffectorDelta, "robot/command", self._on_command, RELIABLE))

    def forget(self) -> None:
        """Undo `listen`."""
        while self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop())
        if self._rivals is not None:
            self._rivals.close()
        self._runner = self._rivals = None

    def command(self, decision: Decision, runner: SkillRunner) -> None:
        """Command the robot; in shadow mode only say what would be commanded."""
        command = messages.command_of(decision, runner.spec.action_scale, self._source)
        if decision.send:
            self._sent.append(command)
            self._commands.publish(command)
        elif runner.limits.shadow:
            self._shadow_commands.publish(command)

    def _on_spec(self, message: String) -> None:
        """Learn what robot it is; one that changed under a running goal ends it."""
        try:
            self.spec = Spec.parse(message.data, SPEC_TOPIC)
            if self._runner is not None:
                self.check(self._runner.spec)
        except DiwaError as error:
            self._on_wrong_robot(error)

    def _listener(self, topic: str, runner: SkillRunner) -> Callable[[Any, dict[str, Any]], None]:
        receipts, losses = Receipts(), Losses()

        def on_message(message: Any, info: dict[str, Any]) -> None:
            if lost := losses.before(info.get("publication_sequence_number")):
                self._on_lost(topic, lost, runner)
            received_ns = receipts.of(info["received_timestamp"], time.time_ns(), time.monotonic_ns())
            if topic == runner.observations.robot_topic:
                self._hear_robot(message, runner)
            decision = runner.on_message(topic, message, received_ns)
            if decision is not None:
                self._on_decision(decision)
            self._afterwards()

        return on_message

    def _listener_to_device(self, camera: str) -> Callable[[String], None]:
        def on_message(message: String) -> None:
            self.devices[camera] = message.data

        return on_message

    def _on_rivals(self, runner: SkillRunner) -> None:
        """End the goal where a second robot has come up on the same topics."""
        if self.rivals:
            runner.fail(self.rivals)
            self._afterwards()

    def _on_lost(self, topic: str, count: int, runner: SkillRunner) -> None:
        """Two senders count each for themselves, which looks like losses."""
        if not self.look_for_rivals():
            runner.on_lost(topic, count)

    def _listener_to_robot_alone(self, runner: SkillRunner) -> Callable[[RobotState], None]:
        """Hear a robot of which the policy observes nothing here."""

        def on_message(message: RobotState) -> None:
            runner.observations.watch.note(runner.observations.robot_topic, time.monotonic_ns())
            self._hear_robot(message, runner)

        return on_message

    def _hear_robot(self, message: RobotState, runner: SkillRunner) -> None:
        runner.on_robot(message.mode, nanoseconds_of(message.answered_stamp))
        self._afterwards()

    def _on_command(self, message: EndEffectorDelta) -> None:
        """Hear what the robot is told; what we did not send, somebody else did."""
        if message.source == self._source and message in self._sent:
            self._sent.remove(message)
            return
        assert self._runner is not None, "commands are heard between listen and forget"
        name = message.source if message.source != self._source else f"a second {message.source}"
        ran = self._runner.running
        self._runner.on_foreign_command(name, time.monotonic_ns())
        if ran and not self._runner.running:
            self._on_contest()
        self._afterwards()
