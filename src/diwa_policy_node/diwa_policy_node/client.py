"""`run_skill`: ask the policy node for a skill and wait for the outcome, for machines without `ros2 action`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient
from rclpy.node import Node

from diwa_msgs.action import RunSkill
from diwa_msgs.msg import PolicyStatus
from diwa_ros.process import ros_process, spin_until
from diwa_ros.qos import RELIABLE
from diwa_runtime.cli import run_verb
from diwa_runtime.config import check_bounds, load_config
from diwa_runtime.errors import DiwaError, InputError
from diwa_runtime.robot import Outcome

DURATIONS_S = (0.0, 86_400.0)
ANSWER_S = 5.0
"""How long the node may take to answer a request."""
QUIET_S = 2.0
"""Without feedback for so long the node is asked for the result again, each time: one that was started anew says that
it does not know the goal."""
LOST_S = 5.0
"""Without feedback and without `policy/status` for so long the node is gone. The middleware's own list would tell so
only after 20 s, and not at all where the node has been started anew."""


class NotAchievedError(DiwaError):
    """The goal ended otherwise than in success."""


@dataclass(frozen=True)
class RunSkillConfig:
    """Run a skill on the robot and wait until it ends; Ctrl-C cancels it."""

    skill: tuple[str, ...] = field(metadata={"help": "the skill, or several, one after the other"})
    timeout: float = field(default=0.0, metadata={"help": "limit of each skill, s; 0 = the bundle's own"})
    seed: int = field(default=0, metadata={"help": "of the policy's noise; 0 = drawn"})
    wait: float = field(default=10.0, metadata={"help": "s to wait for the policy node"})

    def __post_init__(self) -> None:
        check_bounds(self, timeout=DURATIONS_S, seed=(0, 2**63 - 1), wait=DURATIONS_S)


class SkillClient(Node):
    """Asks for skills.

    Attributes:
        feedback: the newest, of the goal that runs.
    """

    def __init__(self, **options: Any) -> None:
        """Make a client; `options` are rclpy's."""
        super().__init__("run_skill", **options)
        self._action = ActionClient(self, RunSkill, "run_skill")
        self.feedback: RunSkill.Feedback | None = None
        self._heard_s = self._fed_s = 0.0
        self.create_subscription(PolicyStatus, "policy/status", self._on_status, RELIABLE)

    def ready(self) -> bool:
        """Whether a policy node serves skills."""
        return self._action.server_is_ready()

    def wait(self, seconds: float) -> None:
        """Wait for a policy node.

        Raises:
            InputError: none came.
        """
        if not spin_until(self, self.ready, seconds):
            raise InputError(f"no policy node serves run_skill within {seconds:g} s; start it, configured and active")

    def run(self, goal: RunSkill.Goal) -> RunSkill.Result:
        """Run a goal to its end; whatever ends this call before, calls the goal off and waits until the arm holds.

        Raises:
            InputError: the node does not answer, or is gone.
        """
        asked = self._action.send_goal_async(goal, feedback_callback=self._on_feedback)
        try:
            spin_until(self, asked.done, ANSWER_S)
            handle = asked.result() if asked.done() else None
            if handle is None or not handle.accepted:
                raise InputError("the policy node did not take the goal; is it alive?")
            answer = self._answer(handle)
        except BaseException:
            self._call_off(asked)
            raise
        if answer.status == GoalStatus.STATUS_UNKNOWN:
            raise InputError("the policy node does not know the goal any more; was it started anew?")
        return answer.result

    def _answer(self, handle: Any) -> Any:
        """Wait for a goal's result, for as long as its node lives.

        Raises:
            InputError: the node is gone.
        """
        self._heard_s = self._fed_s = time.monotonic()
        asked = [handle.get_result_async()]
        while not spin_until(self, lambda: any(one.done() for one in asked), 0.5):
            now = time.monotonic()
            if now - self._heard_s > LOST_S or not self.ready():
                raise InputError("the policy node is gone; a robot that is not commanded holds")
            if now - self._fed_s > QUIET_S:
                self._fed_s = now
                asked.append(handle.get_result_async())
        return next(one for one in asked if one.done()).result()

    def _call_off(self, asked: Any) -> None:
        """Cancel a goal, also one that is accepted only now."""
        spin_until(self, asked.done, ANSWER_S, interruptible=False)
        handle = asked.result() if asked.done() else None
        if handle is None or not handle.accepted:
            return
        for answer in (handle.cancel_goal_async(), handle.get_result_async()):
            spin_until(self, answer.done, ANSWER_S, interruptible=False)

    def _on_feedback(self, message: Any) -> None:
        self.feedback = message.feedback
        self._heard_s = self._fed_s = time.monotonic()

    def _on_status(self, _: PolicyStatus) -> None:
        self._heard_s = time.monotonic()


def goal_of(config: RunSkillConfig) -> RunSkill.Goal:
    """Return the message."""
    first, *rest = config.skill
    return RunSkill.Goal(skill=first, next=rest, timeout=config.timeout, seed=config.seed)


def run(argv: Sequence[str]) -> None:
    """Run a skill and print how it ended.

    Raises:
        NotAchievedError: in another way than success.
        InputError: no policy node.
    """
    words = list(argv)
    named = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    config = load_config(RunSkillConfig, [*(["--skill", *words[:named]] if named else []), *words[named:]])
    with ros_process(args=[]):
        client = SkillClient()
        client.wait(config.wait)
        result = client.run(goal_of(config))
        client.destroy_node()
    outcome = Outcome(result.outcome)
    line = f"{outcome.name} after {result.steps} steps: {result.reason}"
    if outcome is not Outcome.SUCCESS:
        raise NotAchievedError(line)
    print(line)


def main() -> None:
    """Run `run_skill` with the process's arguments."""
    sys.exit(run_verb(run))
