"""Runs bundles on the robot's topics: a lifecycle node with the `run_skill` action.

Thin: what comes in and goes out is `RobotLink`'s and `GoalServer`'s business, what is decided the ROS-free
`SkillRunner`'s. One single-threaded executor: the runner is one object, and an inference takes a tenth of a control
period; in overlapped mode plans are made in a thread of their own. Nothing is commanded unless the node is active and a
goal runs, and a robot that is not commanded holds: every error, and the end of this process, leaves it at standstill.

rclpy gates lifecycle publishers only, so every other callback asks `_active` itself.
"""

from __future__ import annotations

import gc
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from diwa_msgs.msg import PolicyStatus, ShadowDivergence
from diwa_policy_node import diagnostics, messages
from diwa_policy_node.goal_server import GoalServer
from diwa_policy_node.robot_link import RobotLink
from diwa_policy_node.settings import PolicySettings, declare_settings
from diwa_policy_node.skills.goal import Decision, Goal
from diwa_policy_node.skills.loading import load_skills, verdict_of, warm_up
from diwa_policy_node.skills.runner import SkillRunner
from diwa_ros.peers import full_name
from diwa_ros.process import ros_process, spin_until, spin_until_told, told_to_stop
from diwa_ros.qos import RELIABLE
from diwa_runtime.cli import run_verb
from diwa_runtime.errors import ConfigError, DiwaError, InputError, one_line
from diwa_runtime.robot import SPEC_TOPIC, RunState

NODE = "diwa_policy"
CHECK_S = 0.02
IDLE_STATUS_EVERY = 5
"""Checks between two statuses while no decision is made."""
GOODBYE_S = 0.2
"""How long the process goes on when it is told to stop, so that clients are told how their goals ended."""

SUCCESS, FAILURE, ERROR = (
    TransitionCallbackReturn.SUCCESS,
    TransitionCallbackReturn.FAILURE,
    TransitionCallbackReturn.ERROR,
)


class PolicyNode(LifecycleNode):
    """Serves `run_skill` with the bundles that it was given.

    Attributes:
        settings: its parameters.
        runner: what decides; None before `configure`.
        robot: what is heard of the robot, and what it is told.
        goals: the action.
        on_active: called after each activation.
    """

    def __init__(self, **options: Any) -> None:
        """Declare the parameters and listen for the robot's Spec; `options` are rclpy's."""
        super().__init__(NODE, **options)
        self.settings: PolicySettings = declare_settings(self)
        self.runner: SkillRunner | None = None
        self.robot = RobotLink(self, self.settings.source, self._on_wrong_robot, self._on_contest)
        self.goals = GoalServer(self, self.settings)
        self._refuse_impossible_transitions()
        self.on_active: Callable[[], None] = lambda: None
        self._active = False
        self._refused = ""
        self._checks = 0
        self._check_timer: Any = None
        self._inference_s: deque[float] = deque(maxlen=300)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._status = self.create_publisher(PolicyStatus, "policy/status", RELIABLE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE)
        self._divergence = self.create_lifecycle_publisher(ShadowDivergence, "policy/divergence", RELIABLE)
        self.create_timer(1.0, self.on_diagnostics, clock=self._steady)
        if self.settings.autostart:
            self._autostart = self.create_timer(0.1, self.on_autostart, clock=self._steady)

    def spin(self) -> None:
        """Turn the executor until told to stop or a callback fails; then the goal has ended and the arm holds.

        The one edge at which faults of ours are caught.

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
        self.robot.check(next(iter(skills.values())).spec)
        for name, bundle in skills.items():
            self.get_logger().info(f"{name} from {bundle.source}: {1e3 * warm_up(bundle):.1f} ms an inference")
            trusted, said = verdict_of(bundle)
            if said:
                (self.get_logger().info if trusted else self.get_logger().warning)(said)
        self.runner = SkillRunner(skills, self.settings.limits)
        self.robot.listen(self.runner, self._on_decision, self._conclude_if_ended)
        self._check_timer = self.create_timer(CHECK_S, self.on_check, clock=self._steady)

    def activate(self) -> None:
        """Take goals from now on.

        Raises:
            InputError: a stream is missing, or the robot changed.
        """
        runner = self._needed_runner()
        self.robot.check(runner.spec)
        seen = runner.observations
        if not self.count_publishers(seen.robot_topic):
            raise InputError(
                f"not active: nobody publishes {seen.robot_topic}, so a stop of the robot would not be heard"
            )
        if silent := seen.watch.silent(time.monotonic_ns(), runner.limits.give_up_after_s):
            raise InputError(f"not active: {'; '.join(silent)}; start the robot's bridge or the simulator")
        if others := self.goals.others():
            raise InputError(f"not active: {' and '.join(others)} serves run_skill already; only one policy node may")
        self.goals.serve(runner, self._begin)
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
        self.robot.forget()
        if self._check_timer is not None:
            self.destroy_timer(self._check_timer)
            self._check_timer = None

    def destroy_node(self) -> None:
        """Undo all."""
        self.goals.destroy()
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

    def _refuse_impossible_transitions(self) -> None:
        """Answer a transition that cannot be with no, as a lifecycle node should; rclpy raises what ends the spin."""
        service = self._service_change_state
        change_state = service.callback

        def on_change_state(request: Any, response: Any) -> Any:
            possible = self._state_machine.available_transitions
            wanted, by = request.transition, 1 if request.transition.label else 0
            if (wanted.label or wanted.id) in [transition[by] for transition in possible]:
                return change_state(request, response)
            now = self._state_machine.current_state[1]
            self.get_logger().warning(f"transition {wanted.label or wanted.id} was asked for, which cannot be: {now}")
            response.success = False
            return response

        service.callback = on_change_state

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
            elif self.robot.spec is None:
                self.get_logger().info(f"waiting for a robot on {SPEC_TOPIC}", throttle_duration_sec=5.0)
            elif self.trigger_configure() is not SUCCESS:
                raise InputError("diwa_policy could not be configured; the reason stands above")
        elif silent := self.runner.observations.watch.silent(time.monotonic_ns(), self.runner.limits.give_up_after_s):
            self.get_logger().info(f"waiting for {'; '.join(silent)}", throttle_duration_sec=5.0)
        else:
            self.trigger_activate()

    # What it does.

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

    def _begin(self, goal: Goal) -> str | None:
        """Begin a goal; return why not, or None."""
        if not self._active or self.runner is None:
            return "the node is not active"
        self._conclude_if_ended()  # one that was cancelled since the last check
        try:
            self.robot.check(self.runner.spec)
        except DiwaError as error:
            return str(error)
        if rivals := self.robot.look_for_rivals():
            return rivals
        if others := self.goals.others():
            return f"{' and '.join(others)} serves run_skill too; only one policy node may"
        refusal = self.runner.start(goal, time.monotonic_ns())
        if refusal is None:
            self._warn_of_cameras(self.runner, goal)
        return refusal

    def _warn_of_cameras(self, runner: SkillRunner, goal: Goal) -> None:
        """Say in one line which cameras are not those that a skill was recorded with."""
        for skill in goal.skills:
            recorded = runner.skills[skill].manifest.camera_sources
            if unlike := runner.observations.cameras_unlike(recorded, self.robot.devices):
                self.get_logger().warning(f"{skill}: {'; '.join(unlike)}")

    def _on_contest(self) -> None:
        """Call off the goal of another policy node that took the same one: its client is told by us how it ended."""
        if self.goals.others():
            self.goals.call_others_off()

    def _on_decision(self, decision: Decision) -> None:
        runner = self._needed_runner()
        if self._active:
            self.robot.command(decision, runner)
        self._inference_s.append(decision.inference_s)
        self._status.publish(messages.status_of(decision, self._state_of(decision), decision.skill))
        if decision.divergence is not None:
            self._divergence.publish(messages.divergence_of(decision.divergence, runner.divergence, decision.skill))
        self.goals.tell(decision)

    def _on_wrong_robot(self, error: Exception) -> None:
        self.get_logger().error(one_line(error))
        if self.runner is not None:
            self.runner.fail(str(error))
            self._conclude_if_ended()

    def _state_of(self, decision: Decision) -> RunState:
        if self.settings.limits.shadow:
            return RunState.SHADOW
        return RunState.RUNNING if decision.send else RunState.HOLDING

    def _conclude_if_ended(self) -> None:
        self.goals.conclude_if_ended(self._needed_runner())

    def on_diagnostics(self) -> None:
        """Say once a second what comes in, how fast the policy thinks, and what became of the last goal."""
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        message.status = diagnostics.statuses(
            full_name(self),
            self.runner,
            self._active,
            self.goals.last,
            self._inference_s,
            self.robot.rivals,
            time.monotonic_ns(),
        )
        self._diagnostics.publish(message)

    def _needed_runner(self) -> SkillRunner:
        assert self.runner is not None, "callbacks live between configure and cleanup only"
        return self.runner


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
