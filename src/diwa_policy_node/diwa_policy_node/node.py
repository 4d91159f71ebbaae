"""Runs bundles on the robot's topics: a lifecycle node with the `run_skill` action.

Thin: a callback converts, asks the ROS-free `SkillRunner`, and publishes what it decided. One single-threaded executor:
the runner is one object, and an inference takes a tenth of a control period; in overlapped mode plans are made in a
thread of their own. Nothing is commanded unless the node is active and a goal runs, and a robot that is not commanded
holds: every error, and the end of this process, leaves it at standstill.

rclpy gates lifecycle publishers only, so every other callback asks `_active` itself.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import String

from diwa_msgs.action import RunSkill
from diwa_msgs.msg import EndEffectorDelta, PolicyStatus, RobotState, ShadowDivergence
from diwa_policy_node import diagnostics, messages
from diwa_policy_node.settings import PolicySettings, declare_settings
from diwa_policy_node.skills.loading import load_skills, warm_up
from diwa_policy_node.skills.run_record import RunRecord
from diwa_policy_node.skills.runner import Decision, Ended, Goal, SkillRunner
from diwa_ros.process import ros_process, spin_until, spin_until_told, told_to_stop
from diwa_ros.qos import LATCHED, NEWEST_IMAGE, RELIABLE
from diwa_runtime.cli import run_verb
from diwa_runtime.errors import ConfigError, DiwaError, InputError, one_line
from diwa_runtime.interfaces import message_class
from diwa_runtime.robot import SPEC_TOPIC, Outcome, RunState
from diwa_runtime.rows.streams import nanoseconds_of
from diwa_runtime.spec import Spec, check_same_spec

CHECK_S = 0.02
IDLE_STATUS_EVERY = 5
"""Checks between two statuses while no decision is made."""
SENT_KEPT = 64
GOODBYE_S = 0.2
"""How long the process goes on when it is told to stop, so that clients are told how their goals ended."""

SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)


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


class PolicyNode(LifecycleNode):
    """Serves `run_skill` with the bundles that it was given.

    Attributes:
        settings: its parameters.
        runner: what decides; None before `configure`.
        concluding: goals that ended and whose results wait for the executor to turn.
        on_active: called after each activation.
    """

    def __init__(self, **options: Any) -> None:
        """Declare the parameters and listen for the robot's Spec; `options` are rclpy's."""
        super().__init__(diagnostics.NODE, **options)
        self.settings: PolicySettings = declare_settings(self)
        self.runner: SkillRunner | None = None
        self._active = False
        self._goal: ServerGoalHandle | None = None
        self._record: RunRecord | None = None
        self._last: Ended | None = None
        self._refused = ""
        self.concluding = 0
        self.on_active: Callable[[], None] = lambda: None
        self._robot_spec: Spec | None = None
        self._sent: deque[EndEffectorDelta] = deque(maxlen=SENT_KEPT)
        self._entities: list[Callable[[], object]] = []
        self._server: ActionServer | None = None
        self._checks = 0
        self._inference_s: deque[float] = deque(maxlen=300)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._status = self.create_publisher(PolicyStatus, "policy/status", RELIABLE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)
        self._commands = self.create_lifecycle_publisher(EndEffectorDelta, "robot/command", RELIABLE)
        self._shadow_commands = self.create_lifecycle_publisher(EndEffectorDelta, "policy/shadow_command", RELIABLE)
        self._divergence = self.create_lifecycle_publisher(ShadowDivergence, "policy/divergence", RELIABLE)
        self.create_subscription(String, SPEC_TOPIC, self.on_spec, LATCHED)
        self.create_timer(1.0, self.on_diagnostics, clock=self._steady)
        if self.settings.autostart:
            self._autostart = self.create_timer(0.1, self.on_autostart, clock=self._steady)

    def spin(self) -> None:
        """Turn the executor until told to stop or a callback fails; then the goal has ended and the arm holds.

        The one edge at which faults of ours are caught: rclpy lets even an impossible transition that somebody asked
        for end the process.

        Raises:
            DiwaError: one that a person must mend before the node can start.
        """
        try:
            spin_until_told(self)
        except DiwaError:
            raise
        except Exception:
            self.get_logger().error(traceback.format_exc())
            if self.runner is not None:
                self.runner.fail("a fault of the policy node's own; its log has the details")
                self._conclude_if_ended()

    # Lifecycle.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load, check and warm up the bundles; refuse them when the robot's Spec is another."""
        return self._transition(self.configure, super().on_configure, state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take goals from now on, if all streams live."""
        return self._transition(self.activate, super().on_activate, state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the goal that runs; the arm holds."""
        return self._transition(lambda: self.hold("the node was deactivated"), super().on_deactivate, state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget the bundles."""
        return self._transition(self.cleanup, super().on_cleanup, state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End what runs and forget the bundles."""
        return self._transition(self.cleanup, super().on_shutdown, state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Leave the robot held after a fault of ours, and start anew."""
        return self._transition(self.cleanup, super().on_error, state)

    def configure(self) -> None:
        """Make the runner and what feeds it.

        Raises:
            DiwaError: no bundles, a damaged one, no robot, or one with another Spec.
        """
        if not self.settings.skills:
            raise ConfigError("diwa_policy: parameter skills names no folder; give it one that `export` wrote")
        skills = load_skills(self.settings.skills, self.settings.threads)
        self._check_robot(next(iter(skills.values())).spec)
        for name, bundle in skills.items():
            self.get_logger().info(f"{name} from {bundle.source}: {1e3 * warm_up(bundle):.1f} ms an inference")
        self.runner = SkillRunner(skills, self.settings.limits)
        self._make_entities(self.runner)

    def activate(self) -> None:
        """Take goals from now on.

        Raises:
            InputError: a stream is missing, or the robot changed.
        """
        runner = self._needed_runner()
        self._check_robot(runner.spec)
        if not self.count_publishers(runner.robot_topic):
            raise InputError(
                f"not active: nobody publishes {runner.robot_topic}, so a stop of the robot would not be heard"
            )
        if silent := runner.watch.silent(time.monotonic_ns(), self.settings.limits.give_up_after_s):
            raise InputError(f"not active: {'; '.join(silent)}; start the robot's bridge or the simulator")
        self._make_server()
        self._active = True
        self.on_active()

    def hold(self, why: str) -> None:
        """End the goal that runs and take no more: the arm holds."""
        self._active = False
        if self.settings.autostart:
            self._autostart.cancel()  # whoever told it to hold does not want it to come up again by itself
        if self.runner is not None:
            self.runner.cancel(why)
            self._conclude_if_ended()
        self.get_logger().info(f"{why}; the arm holds")

    def cleanup(self) -> None:
        """Undo `configure`."""
        self.hold("the node is cleaned up")
        if self.runner is not None:
            self.runner.close()
            self.runner = None
        for destroy in reversed(self._entities):
            destroy()
        self._entities.clear()

    def destroy_node(self) -> None:
        """Undo all."""
        if self._server is not None:
            self._server.destroy()
            self._server = None
        super().destroy_node()

    def _transition(
        self,
        ours: Callable[[], None],
        publishers: Callable[[LifecycleState], TransitionCallbackReturn],
        state: LifecycleState,
    ) -> TransitionCallbackReturn:
        """Run our part of a transition and then the publishers' own. rclpy swallows errors here, so they are said."""
        try:
            ours()
        except DiwaError as error:
            line, before = one_line(error), self._refused
            self._refused = line
            if not self.settings.autostart or line != before:  # autostart tries ten times a second
                self.get_logger().error(line)
            return FAILURE
        except Exception:  # the edge: whatever it was, say it and leave the robot held
            self._active = False
            self.get_logger().fatal(traceback.format_exc())
            return ERROR
        return publishers(state)

    def on_autostart(self) -> None:
        """Bring the node up by itself; a bundle that cannot be used ends the process.

        Raises:
            DiwaError: a bundle, a setting or the robot's Spec does not fit.
        """
        if self._active:
            self._autostart.cancel()
        elif self.runner is None:
            if self._state_machine.current_state[1] != "unconfigured":
                self._autostart.cancel()  # somebody shut the node down
            elif self._robot_spec is None:
                self.get_logger().info(f"waiting for a robot on {SPEC_TOPIC}", throttle_duration_sec=5.0)
            elif self.trigger_configure() is not SUCCESS:
                raise InputError("diwa_policy could not be configured; the reason stands above")
        elif silent := self.runner.watch.silent(time.monotonic_ns(), self.settings.limits.give_up_after_s):
            self.get_logger().info(f"waiting for {'; '.join(silent)}", throttle_duration_sec=5.0)
        else:
            self.trigger_activate()

    def _make_entities(self, runner: SkillRunner) -> None:
        cameras = {stream.topic for stream in runner.spec.streams if not stream.select}
        for topic, kind in runner.topics.items():
            qos = NEWEST_IMAGE if topic in cameras else RELIABLE
            subscription = self.create_subscription(message_class(kind), topic, self._listener(topic), qos)
            self._undo(self.destroy_subscription, subscription)
        if runner.robot_topic not in runner.topics:
            robot = self.create_subscription(RobotState, runner.robot_topic, self._on_robot_alone, RELIABLE)
            self._undo(self.destroy_subscription, robot)
        heard = self.create_subscription(EndEffectorDelta, "robot/command", self.on_command, RELIABLE)
        self._undo(self.destroy_subscription, heard)
        self._undo(self.destroy_timer, self.create_timer(CHECK_S, self.on_check, clock=self._steady))

    def _make_server(self) -> None:
        """Serve `run_skill` from the first activation on: who waits for it, waits for a node that takes goals.

        It stays until the node is destroyed, so that every client learns how its goal ended.
        """
        if self._server is None:
            self._server = ActionServer(
                self,
                RunSkill,
                "run_skill",
                execute_callback=_never_executed,
                handle_accepted_callback=self.on_goal,
                cancel_callback=self.on_cancel,
            )

    def _undo(self, destroy: Callable[[Any], object], entity: Any) -> None:
        self._entities.append(lambda: destroy(entity))

    # What comes in.

    def on_spec(self, message: String) -> None:
        """Learn what robot it is; one that changed under a running goal ends it."""
        try:
            self._robot_spec = Spec.from_json(json.loads(message.data), SPEC_TOPIC)
            if self.runner is not None:
                self._check_robot(self.runner.spec)
        except (DiwaError, ValueError, RecursionError) as error:
            self.get_logger().error(one_line(error))
            if self.runner is not None:
                self.runner.fail(str(error))
                self._conclude_if_ended()

    def _on_robot(self, message: RobotState) -> None:
        self._needed_runner().on_robot(message.mode, nanoseconds_of(message.answered_stamp))
        self._conclude_if_ended()

    def _on_robot_alone(self, message: RobotState) -> None:
        """Hear a robot of which the policy observes nothing here."""
        runner = self._needed_runner()
        runner.watch.note(runner.robot_topic, time.monotonic_ns())
        self._on_robot(message)

    def _listener(self, topic: str) -> Callable[[Any, dict[str, Any]], None]:
        receipts = Receipts()

        def on_message(message: Any, info: dict[str, Any]) -> None:
            runner = self._needed_runner()
            received_ns = receipts.of(info["received_timestamp"], time.time_ns(), time.monotonic_ns())
            if topic == runner.robot_topic:
                self._on_robot(message)
            decision = runner.on_message(topic, message, received_ns)
            if decision is not None:
                self._publish(decision)
            self._conclude_if_ended()

        return on_message

    def on_command(self, message: EndEffectorDelta) -> None:
        """Hear what the robot is told; what we did not send, somebody else did."""
        if message.source == self.settings.source and message in self._sent:
            self._sent.remove(message)
            return
        name = message.source if message.source != self.settings.source else f"a second {message.source}"
        self._needed_runner().on_foreign_command(name, time.monotonic_ns())
        self._conclude_if_ended()

    def on_check(self) -> None:
        """Look at the time, whether or not messages come."""
        runner, now_ns = self._needed_runner(), time.monotonic_ns()
        runner.check(now_ns)
        self._conclude_if_ended()
        self._checks += 1
        if self._checks % IDLE_STATUS_EVERY:
            return
        state = runner.state(now_ns)
        if state not in (RunState.RUNNING, RunState.SHADOW):
            self._status.publish(messages.status_of(None, state, runner.running))

    def on_goal(self, handle: ServerGoalHandle) -> None:
        """Begin a goal, or refuse it with the reason."""
        request = handle.request
        seed = request.seed or time.time_ns() % 2**31
        goal = Goal((request.skill, *request.next), request.timeout, seed)
        reason = self._start(goal)
        if reason is not None:
            self.get_logger().warning(f"goal refused: {reason}")
            self._finish(handle, Ended(Outcome.REFUSED, reason))
            return
        self._goal = handle
        skills = self._needed_runner().skills
        self._record = RunRecord(self.settings.log_folder, goal, skills, self.settings.limits)
        self._say_trouble()
        self.get_logger().info(f"runs {', '.join(goal.skills)}, seed {seed}")

    def _start(self, goal: Goal) -> str | None:
        """Begin a goal; return why not, or None."""
        if not self._active or self.runner is None:
            return "the node is not active"
        self._conclude_if_ended()  # one that was cancelled since the last check
        try:
            self._check_robot(self.runner.spec)
        except DiwaError as error:
            return str(error)
        return self.runner.start(goal, time.monotonic_ns())

    def on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        """Stop at once; the goal is concluded at the next check, when rclpy has noted the cancellation."""
        if self._goal is None or handle.goal_id != self._goal.goal_id:
            return CancelResponse.REJECT
        self._needed_runner().cancel("the client cancelled")
        return CancelResponse.ACCEPT

    # What goes out.

    def _publish(self, decision: Decision) -> None:
        runner = self._needed_runner()
        command = messages.command_of(decision, runner.spec.action_scale, self.settings.source)
        if decision.send and self._active:
            self._sent.append(command)
            self._commands.publish(command)
        elif self.settings.limits.shadow:
            self._shadow_commands.publish(command)
        self._inference_s.append(decision.inference_s)
        self._status.publish(messages.status_of(decision, self._state_of(decision), decision.skill))
        if decision.divergence is not None:
            self._divergence.publish(messages.divergence_of(decision.divergence, runner.divergence, decision.skill))
        if self._goal is not None:
            self._goal.publish_feedback(
                RunSkill.Feedback(skill=decision.skill, step=decision.step, success_probability=decision.probability)
            )
        if self._record is not None:
            self._record.decided(decision)
            self._say_trouble()

    def _state_of(self, decision: Decision) -> RunState:
        if self.settings.limits.shadow:
            return RunState.SHADOW
        return RunState.RUNNING if decision.send else RunState.HOLDING

    def _conclude_if_ended(self) -> None:
        runner = self._needed_runner()
        ended = runner.take_ended()
        if ended is None:
            return
        self._last = ended
        if self._record is not None:
            self._record.ended(ended, runner.late, runner.dropped, runner.divergence)
            self._say_trouble()
            self._record = None
        self._say(ended)
        if self._goal is not None:
            goal, self._goal = self._goal, None
            self._finish(goal, ended)

    def _say(self, ended: Ended) -> None:
        line = f"{ended.outcome.name} after {ended.steps} steps: {ended.reason}; the arm holds"
        if ended.outcome is Outcome.SUCCESS:  # rclpy allows one severity a source line
            self.get_logger().info(line)
        else:
            self.get_logger().warning(line)

    def _finish(self, handle: ServerGoalHandle, ended: Ended) -> None:
        """Give the client its result.

        A goal is "executed" only here, when all is over: a coroutine that waited for the end would keep rclpy's
        executor from ever sleeping.
        """

        def conclude(goal: ServerGoalHandle) -> RunSkill.Result:
            self.concluding -= 1
            if ended.outcome is Outcome.SUCCESS:
                goal.succeed()
            elif goal.is_cancel_requested:
                goal.canceled()
            else:
                goal.abort()
            return RunSkill.Result(outcome=int(ended.outcome), reason=ended.reason, steps=ended.steps)

        self.concluding += 1
        handle.execute(conclude)

    def on_diagnostics(self) -> None:
        """Say once a second what comes in, how fast the policy thinks, and what became of the last goal."""
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = diagnostics.statuses(
            self.runner, self._active, self._last, self._inference_s, time.monotonic_ns()
        )
        self._diagnostics.publish(message)

    def _say_trouble(self) -> None:
        if self._record is not None and self._record.trouble:
            self.get_logger().error(self._record.trouble)
            self._record.trouble = ""

    def _needed_runner(self) -> SkillRunner:
        assert self.runner is not None, "callbacks live between configure and cleanup only"
        return self.runner

    def _check_robot(self, ours: Spec) -> None:
        """See that the robot is the one that the bundles are for. What a policy observes of it is its own business."""
        if self._robot_spec is None:
            raise InputError(f"no robot has said on {SPEC_TOPIC} what it is; start its bridge or the simulator first")
        theirs = Spec.from_json({**self._robot_spec.to_json(), "mode": ours.mode})
        check_same_spec(ours, "the bundles", theirs, SPEC_TOPIC)


def _never_executed(_: ServerGoalHandle) -> RunSkill.Result:
    raise AssertionError("goals are concluded by _finish")


def keep_from_collection() -> None:
    """Let the garbage collection pass over what is there by now: a look at all of it would miss a control tick.

    For a process of the node's own: what becomes garbage of it later is never freed.
    """
    gc.collect()
    gc.freeze()


def run(argv: Sequence[str]) -> None:
    """Run the node until it is told to stop.

    Raises:
        DiwaError: a parameter cannot be, or, with autostart, the bundles cannot be used.
    """
    with ros_process([sys.argv[0], *argv]):
        node = PolicyNode()
        node.on_active = keep_from_collection
        try:
            while rclpy.ok() and not told_to_stop():
                node.spin()
        finally:
            node.hold("the process ends")
            spin_until(node, lambda: False, GOODBYE_S, interruptible=False)
            node.cleanup()
            node.destroy_node()


def main() -> None:
    """Run the node with the process's arguments."""
    sys.exit(run_verb(run))
