"""The `run_skill` action: begins goals, tells clients how they go and how they ended, and keeps their records."""

from __future__ import annotations

import time
from collections.abc import Callable

from action_msgs.srv import CancelGoal
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.lifecycle import LifecycleNode

from diwa_msgs.action import RunSkill
from diwa_policy_node.settings import PolicySettings
from diwa_policy_node.skills.goal import Decision, Ended, Goal
from diwa_policy_node.skills.run_record import RunRecord
from diwa_policy_node.skills.runner import SkillRunner
from diwa_ros.peers import publishers_of
from diwa_runtime.robot import Outcome


class GoalServer:
    """Serves `run_skill` for a node.

    Attributes:
        last: how the last goal ended; None = none has.
        concluding: goals that ended and whose results wait for the executor to turn.
    """

    def __init__(self, node: LifecycleNode, settings: PolicySettings) -> None:
        self._node, self._settings = node, settings
        self._begin: Callable[[Goal], str | None] = lambda _: "the node is not active"
        self._runner: SkillRunner | None = None
        self._server: ActionServer | None = None
        self._handle: ServerGoalHandle | None = None
        self._record: RunRecord | None = None
        self.last: Ended | None = None
        self.concluding = 0
        self._own_name = str(node.get_fully_qualified_name())
        self._calling_off = node.create_client(CancelGoal, "run_skill/_action/cancel_goal")

    @property
    def serves(self) -> bool:
        """Whether clients find the action."""
        return self._server is not None

    def others(self) -> list[str]:
        """Return the names of the nodes that serve the action besides this one."""
        names = publishers_of(self._node, "run_skill/_action/status")  # every action server has one
        if self.serves and self._own_name in names:
            names.remove(self._own_name)
        return names

    def call_others_off(self) -> None:
        """Cancel every goal of whoever else serves the action: what they command, nobody asked this node's client."""
        if self._calling_off.service_is_ready():
            self._calling_off.call_async(CancelGoal.Request())  # no goal named, at no time: all of them

    def serve(self, runner: SkillRunner, begin: Callable[[Goal], str | None]) -> None:
        """Serve from the first activation on: who waits for the action, waits for a node that takes goals.

        It stays until the node is destroyed, so that every client learns how its goal ended.

        Args:
            runner: what runs the goals.
            begin: begins one; returns why not, or None.
        """
        self._runner, self._begin = runner, begin
        if self._server is None:
            self._server = ActionServer(
                self._node,
                RunSkill,
                "run_skill",
                execute_callback=_never_executed,
                handle_accepted_callback=self.on_goal,
                cancel_callback=self.on_cancel,
            )

    def destroy(self) -> None:
        """Serve no more."""
        if self._server is not None:
            self._server.destroy()
            self._server = None

    def on_goal(self, handle: ServerGoalHandle) -> None:
        """Begin a goal, or refuse it with the reason."""
        request = handle.request
        seed = request.seed or time.time_ns() % 2**31
        goal = Goal((request.skill, *request.next), request.timeout, seed)
        reason = self._begin(goal)
        if reason is not None:
            self._node.get_logger().warning(f"goal refused: {reason}")
            self._finish(handle, Ended(Outcome.REFUSED, reason))
            return
        assert self._runner is not None, "no goal begins before `serve`"
        self._handle = handle
        self._record = RunRecord(self._settings.log_folder, goal, self._runner.skills, self._runner.limits)
        self._say_trouble()
        self._node.get_logger().info(f"runs {', '.join(goal.skills)}, seed {seed}")

    def on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        """Stop at once; the goal is concluded at the next check, when rclpy has noted the cancellation."""
        if self._handle is None or self._runner is None or handle.goal_id != self._handle.goal_id:
            return CancelResponse.REJECT
        self._runner.cancel("the client cancelled")
        return CancelResponse.ACCEPT

    def tell(self, decision: Decision) -> None:
        """Tell the client and the record of a decision."""
        if self._handle is not None:
            self._handle.publish_feedback(
                RunSkill.Feedback(skill=decision.skill, step=decision.step, success_probability=decision.probability)
            )
        if self._record is not None:
            self._record.decided(decision)
            self._say_trouble()

    def conclude_if_ended(self, runner: SkillRunner) -> None:
        """Look whether the goal has ended; if so, say it, close its record and give the client its result."""
        ended = runner.take_ended()
        if ended is None:
            return
        self.last = ended
        if self._record is not None:
            self._record.ended(ended, runner.late, runner.observations.dropped, runner.divergence)
            self._say_trouble()
            self._record = None
        self._say(ended, runner.other_commander(time.monotonic_ns()))
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._finish(handle, ended)

    def _say(self, ended: Ended, commander: str | None) -> None:
        arm = "the arm holds" if commander is None else f"the arm does what {commander!r} says"
        line = f"{ended.outcome.name} after {ended.steps} steps: {ended.reason}; {arm}"
        if ended.outcome is Outcome.SUCCESS:  # rclpy allows one severity a source line
            self._node.get_logger().info(line)
        else:
            self._node.get_logger().warning(line)

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

    def _say_trouble(self) -> None:
        if self._record is not None and self._record.trouble:
            self._node.get_logger().error(self._record.trouble)
            self._record.trouble = ""


def _never_executed(_: ServerGoalHandle) -> RunSkill.Result:
    raise AssertionError("goals are concluded by _finish")
