"""Running skills on a robot: messages in as they come, at most one action out for each observation.

All that the policy node decides is decided here, without ROS and without a clock of its own: whoever calls says when
that is. What goes wrong ends the goal with an outcome and a reason, never with an exception; and since a robot holds
when nothing is commanded, ending means standstill.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from diwa_policy_node.skills.episode import SkillEpisode
from diwa_policy_node.skills.goal import Decision, Ended, Goal, RunLimits
from diwa_policy_node.skills.hand_watch import HandWatch
from diwa_policy_node.skills.observations import Observations, gap_reason
from diwa_policy_node.skills.overlap import OverlappedSession, ThreadPlanner
from diwa_policy_node.skills.robot_watch import RobotWatch
from diwa_policy_node.skills.start_gate import objection
from diwa_policy_node.skills.stream_watch import StuckCameras
from diwa_runtime.bundle import Bundle
from diwa_runtime.bundle.session import PolicySession
from diwa_runtime.errors import DiwaError, nearest
from diwa_runtime.logs.divergence import Divergence, DivergenceSum, divergence_of
from diwa_runtime.robot import Outcome, RunState
from diwa_runtime.rows.row import Row
from diwa_runtime.rows.streams import NANOSECONDS


class _Over(Exception):
    """The goal cannot go on; raised while an observation is worked on."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason


class SkillRunner:
    """Runs one goal at a time.

    Attributes:
        skills: the bundles by skill.
        observations: what it is told, as rows; says what to feed and which streams live.
        steps: control ticks of the goal that runs, or ran last.
        late: those of its decisions that came too late to be sent.
        divergence: shadow mode's means of it.
    """

    def __init__(
        self,
        skills: Mapping[str, Bundle],
        limits: RunLimits | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        day_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Run `skills`, all of one Spec.

        Args:
            skills: by name.
            limits: None = the default ones.
            clock_ns: the clock of every `now_ns` and `received_ns`; it is steady.
            day_ns: the clock of the day, by which streams without stamps go, as in a bag.
        """
        self.skills, self._clock_ns = dict(skills), clock_ns
        self.spec = next(iter(self.skills.values())).spec
        self.limits = (limits or RunLimits()).at(self.spec.rate_hz)
        self._planner = ThreadPlanner() if self.limits.overlapped else None
        cameras = StuckCameras(self.limits.stuck_after_s, self.limits.stuck_moved_m)
        self.observations = Observations(self.spec, cameras, clock_ns, day_ns)
        self._robot = RobotWatch(self.limits.unanswered_s)
        self.divergence = DivergenceSum()
        self.late = self.steps = 0
        self._episode: SkillEpisode | None = None
        self._ended: Ended | None = None
        self._failed = False
        self._active_ns: int | None = None

    # What is asked of it.

    def start(self, goal: Goal, now_ns: int) -> str | None:
        """Begin a goal; return why not, or None."""
        reason = self._refusal(goal, now_ns)
        if reason is None:
            self._ended, self._failed = None, False
            self.steps, self.late, self.divergence = 0, 0, DivergenceSum()
            self.observations.begin_goal()
            self._begin(goal, 0, now_ns)
        return reason

    def cancel(self, reason: str = "cancelled") -> None:
        """End the goal that runs, if any."""
        self._end(Outcome.CANCELLED, reason)

    def fail(self, reason: str) -> None:
        """End the goal that runs, if any, for a fault that was found elsewhere."""
        self._end(Outcome.FAULT, reason)

    def close(self) -> None:
        """End what runs, and the planner's thread."""
        self.cancel("the policy is shut down")
        if self._planner is not None:
            self._planner.close()

    def take_ended(self) -> Ended | None:
        """Return how the last goal ended, once."""
        ended, self._ended = self._ended, None
        return ended

    # What it is told.

    def on_message(self, topic: str, message: Any, received_ns: int) -> Decision | None:
        """Take a message; return what the observation that it completes leads to.

        Args:
            topic: one of those that are observed.
            message: with the fields of the ROS message as attributes.
            received_ns: when it was received, which may be before now if it had to wait for its turn.
        """
        self.observations.note(topic, message, received_ns)
        self._note_activity(self._clock_ns())
        if self._episode is None or received_ns < self._episode.begun_ns:
            return None
        try:
            rows = self.observations.feed(topic, message, received_ns)
            return self._on_rows(self._episode, rows, received_ns) if rows else None
        except _Over as over:
            self._end(over.outcome, over.reason)
        except DiwaError as error:
            self._end(Outcome.FAULT, str(error))
        return None

    def on_lost(self, topic: str, count: int) -> None:
        """Hear that messages of a topic were sent and did not arrive here.

        Of a camera's pictures the newest is all that is wanted. What the robot accepted is added up from state to
        state: with one of them missing, what the policy is told of its own motion is wrong.
        """
        if self._episode is not None and self._episode.observed_ns is not None and self.observations.is_summed(topic):
            self._end(
                Outcome.FAULT,
                f"{count} messages of {topic} were lost on their way, so what the arm did is not known; is this "
                "machine too slow for the robot's rate?",
            )

    def on_robot(self, mode: int, answered_ns: int) -> None:
        """Take the robot's mode and the stamp of the observation that its newest command answers, 0 = none."""
        if (ending := self._robot.hear(mode, answered_ns)) is not None and not self.limits.shadow:
            self._end(*ending)

    def on_foreign_command(self, source: str, now_ns: int) -> None:
        """Hear that somebody else commands the robot."""
        reason = self._robot.hear_foreign(source, now_ns)
        if not self.limits.shadow:
            self._end(Outcome.FAULT, reason)

    def check(self, now_ns: int) -> None:
        """Look at the time; to be called often, also and above all when no message comes."""
        self._note_activity(now_ns)
        if self._episode is not None and (why := self._silence(self._episode, now_ns)):
            self._end(Outcome.FAULT, why)

    # What it shows.

    def state(self, now_ns: int) -> RunState:
        """What the runner is doing."""
        if self._episode is None:
            return RunState.FAULT if self._failed else RunState.IDLE
        if self._episode.silence_s(now_ns) > self.limits.hold_after_s:
            return RunState.HOLDING
        return RunState.SHADOW if self.limits.shadow else RunState.RUNNING

    def other_commander(self, now_ns: int) -> str | None:
        """Return who else commands the robot, if anybody does."""
        return self._robot.other_commander(now_ns)

    @property
    def running(self) -> str:
        """The skill that runs; "" = none."""
        return "" if self._episode is None else self._episode.skill

    # How it goes about it.

    def _refusal(self, goal: Goal, now_ns: int) -> str | None:
        if self._episode is not None:
            return f"{self._episode.skill!r} runs; cancel it first"
        if not goal.skills:
            return "no skill is named"
        for name in goal.skills:
            if name not in self.skills:
                return f"no skill {name!r}{nearest(name, self.skills)} (there are {', '.join(sorted(self.skills))})"
        if not np.isfinite(goal.timeout_s) or goal.timeout_s < 0:
            return f"the timeout must be 0 or a number of seconds, not {goal.timeout_s}"
        if goal.seed < 0:
            return f"the seed must not be negative, not {goal.seed}"
        if silent := self.observations.watch.silent(now_ns, self.limits.give_up_after_s):
            return f"streams are missing: {'; '.join(silent)}"
        if self.limits.shadow:
            return None
        if slow := self.observations.too_slow(self.limits.least_rate):
            return f"{slow}; a policy would run as much slower; mend the robot's rate, or set least_rate"
        return self._robot.objection(now_ns)

    def _begin(self, goal: Goal, index: int, now_ns: int) -> None:
        bundle = self.skills[goal.skills[index]]
        session = (
            PolicySession(bundle, goal.seed)
            if self._planner is None
            else OverlappedSession(bundle, self._planner, goal.seed, self.limits.seams)
        )
        self.observations.begin_skill()
        hand = HandWatch(self.spec, self.limits.blocked_s, self.limits.blocked_share)
        self._episode = SkillEpisode(goal, index, session, now_ns, hand)

    def _end(self, outcome: Outcome, reason: str) -> None:
        episode, self._episode = self._episode, None
        if episode is None:
            return
        self._failed = outcome is Outcome.FAULT
        self._ended = Ended(outcome, reason, self.steps, episode.skill, episode.probability)

    def _note_activity(self, now_ns: int) -> None:
        """Notice a process that was frozen: what it would do now answers a world that is gone."""
        last, self._active_ns = self._active_ns, now_ns
        if last is not None and now_ns - last > self.limits.give_up_after_s * NANOSECONDS:
            self._end(Outcome.FAULT, f"the policy's process stood still for {(now_ns - last) / NANOSECONDS:.2f} s")

    def _silence(self, episode: SkillEpisode, now_ns: int) -> str | None:
        """Say for how long nothing was heard, if for too long."""
        seen = self.observations
        if seen.robot_topic not in seen.topics and not self.limits.shadow:
            age_s = seen.watch.age_s(seen.robot_topic, now_ns)
            if age_s > self.limits.give_up_after_s:
                return f"{seen.robot_topic} silent for {age_s:.2f} s: a stop would not be heard"
        first, silence_s = episode.observed_ns is None, episode.silence_s(now_ns)
        if silence_s <= (self.limits.first_observation_s if first else self.limits.give_up_after_s):
            return None
        return f"no observation for {silence_s:.2f} s: {seen.why_none(now_ns, self.limits.hold_after_s)}"

    def _on_rows(self, episode: SkillEpisode, rows: list[Row], received_ns: int) -> Decision | None:
        if episode.observed_ns is None:
            self._look_at_the_start(episode, rows[0])
        elif why := gap_reason(
            rows, episode.last.stamp_ns if episode.last else 0, episode.observed_ns, self.spec.max_gap_s
        ):
            raise _Over(Outcome.FAULT, why)
        for row in rows[:-1]:  # the arm held meanwhile: time passed for the policy, but nothing is to be sent
            episode.session.step(row.values, row.executed)
            episode.hand.objection(row)
            self.steps += 1
        newest = rows[-1]
        if self.observations.is_faulty(newest.stamp):
            return None  # part of it is not sound: neither looked at nor answered
        episode.observed_ns = newest.received
        return self._on_row(episode, newest, newest.received, received_ns)

    def _look_at_the_start(self, episode: SkillEpisode, row: Row) -> None:
        episode.first_stamp = row.stamp
        reason = objection(episode.session.bundle.manifest, row.values, self.limits.gate)
        if reason is not None:
            raise _Over(Outcome.FAULT if episode.index else Outcome.REFUSED, reason)

    def _on_row(self, episode: SkillEpisode, row: Row, observed_ns: int, received_ns: int) -> Decision | None:
        """Decide on the newest observation, which was received, as a whole, at `observed_ns`."""
        if self._robot.has_ignored(episode.sent, row.stamp):
            raise _Over(
                Outcome.FAULT,
                f"the robot took no command for {self.limits.unanswered_s:g} s; is robot/command connected, and does "
                "somebody else command?",
            )
        session, started_ns, before = episode.session, self._clock_ns(), episode.session.latent
        self.observations.arm_is_at(row)
        over = episode.is_over(row.stamp)
        if over:
            session.observe(row.values, row.executed)
        else:
            action = session.step(row.values, row.executed)
        self.steps += 1
        if episode.has_succeeded(self.limits.success_frames, self.limits.success_release):
            self._on_success(episode, received_ns)
            return None
        if (blocked := episode.hand.objection(row)) is not None and not self.limits.shadow:
            raise _Over(Outcome.BLOCKED, blocked)
        if over:
            raise _Over(Outcome.TIMEOUT, f"{episode.skill!r} was not achieved within {episode.timeout_s:.1f} s")
        ended_ns = self._clock_ns()
        age_s = (ended_ns - observed_ns) / NANOSECONDS
        in_time = age_s <= self.limits.hold_after_s
        self.late += not in_time
        decision = Decision(
            stamp_ns=row.stamp,
            skill=episode.skill,
            step=self.steps,
            action=action,
            send=in_time and not self.limits.shadow,
            begins_chunk=session.begins_chunk,
            probability=session.success_probability,
            observation_age_s=age_s,
            inference_s=(ended_ns - started_ns) / NANOSECONDS,
            executed=row.executed,
            latent_norm=float(np.linalg.norm(session.latent)),
            latent_change=float(np.linalg.norm(session.latent - before)),
            position=row.values["proprio"][:3],
            divergence=self._diverged(episode, row),
        )
        if decision.send:
            episode.sent.append(row.stamp)
        episode.last = decision
        return decision

    def _on_success(self, episode: SkillEpisode, received_ns: int) -> None:
        if episode.is_goals_last:
            names = ", ".join(episode.goal.skills)
            self._end(Outcome.SUCCESS, f"{names} achieved, by the bundle's own reward")
        else:
            self._begin(episode.goal, episode.index + 1, received_ns)

    def _diverged(self, episode: SkillEpisode, row: Row) -> Divergence | None:
        last, longest_ns = episode.last, 1.5 * NANOSECONDS / self.spec.rate_hz
        if not self.limits.shadow or last is None or row.stamp - last.stamp_ns > longest_ns:
            return None
        apart = divergence_of(last.stamp_ns, last.action, row.executed, self.spec.action_scale)
        self.divergence.add(apart, row.executed, self.spec.action_scale)
        return apart
