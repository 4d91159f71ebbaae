"""Running skills on a robot: messages in as they come, at most one action out for each observation.

All that the policy node decides is decided here, without ROS and without a clock of its own: whoever calls says when
that is. What goes wrong ends the goal with an outcome and a reason, never with an exception; and since a robot holds
when nothing is commanded, ending means standstill.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_policy_node.skills.overlap import OverlappedSession, SeamLimits, ThreadPlanner
from diwa_policy_node.skills.start_gate import GateLimits, objection
from diwa_policy_node.skills.stream_watch import StreamWatch, StuckCameras
from diwa_runtime.bundle import Bundle
from diwa_runtime.bundle.session import PolicySession
from diwa_runtime.errors import DiwaError, nearest
from diwa_runtime.logs.divergence import Divergence, DivergenceSum, divergence_of
from diwa_runtime.robot import Outcome, RobotMode, RunState
from diwa_runtime.robot_messages import ROBOT_STATE
from diwa_runtime.rows.assembler import LiveAssembler, Row
from diwa_runtime.rows.streams import NANOSECONDS

UNWILLING = {
    RobotMode.GUIDED: "a person moves the arm by hand",
    RobotMode.STOPPED: "the robot is stopped; call robot/release",
    RobotMode.FAULT: "the robot reports a fault; call robot/recover",
}


@dataclass(frozen=True)
class RunLimits:
    """When to hold, when to give up, and what to start from.

    Attributes:
        hold_after_s: hold after so long without a new observation.
        give_up_after_s: end the goal after so long without one.
        first_observation_s: how long the first one may take.
        unanswered_s: end the goal when the robot took no command for so long.
        success_frames: so many observations in a row must look like success.
        success_release: the count starts anew only when the probability falls below the bundle's threshold by this
            share of it.
        stuck_after_s, stuck_moved_m: a camera with one picture for so long, while the arm moved so far, is stuck.
        overlapped: plan the next chunk while this one runs.
        shadow: say what would be done, and do nothing.
    """

    hold_after_s: float = 0.1
    give_up_after_s: float = 0.2
    first_observation_s: float = 1.0
    unanswered_s: float = 0.5
    success_frames: int = 2
    success_release: float = 0.1
    stuck_after_s: float = 0.5
    stuck_moved_m: float = 0.03
    overlapped: bool = False
    shadow: bool = False
    seams: SeamLimits = field(default_factory=SeamLimits)
    gate: GateLimits = field(default_factory=GateLimits)


@dataclass(frozen=True)
class Goal:
    """What to run.

    Attributes:
        skills: by name, one after the other; each begins when the one before has succeeded.
        timeout_s: limit of each skill in the observations' time; 0 = the bundle's own.
        seed: of the policy's noise.
    """

    skills: tuple[str, ...]
    timeout_s: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Ended:
    """How a goal ended.

    Attributes:
        reason: one line for a person.
        steps: control ticks that were run, the one that ended it included.
        skill: the one that ran then; "" = none.
        probability: of success, by the last observation; None = there was none.
    """

    outcome: Outcome
    reason: str
    steps: int = 0
    skill: str = ""
    probability: float | None = None


@dataclass(frozen=True)
class Decision:
    """What one observation led to.

    Attributes:
        stamp_ns: of the observation.
        step: control ticks since the goal was accepted, this one included.
        action: (7,) in the Spec's units.
        send: whether the robot is to be commanded: not in shadow mode, and not when inference took too long.
        begins_chunk: whether the action is the first of its chunk.
        probability: of success, before the action.
        observation_age_s: from the observation's receipt (`Row.received`) to the decision.
        inference_s: filter, policy and reward.
        executed: (7,) what was accepted since the observation before.
        latent_norm, latent_change: Euclidean norm of the latent, and of its change.
        position: of the TCP (3,), m.
        divergence: of the decision before from what was executed since.
    """

    stamp_ns: int
    skill: str
    step: int
    action: NDArray[np.float32]
    send: bool
    begins_chunk: bool
    probability: float
    observation_age_s: float
    inference_s: float
    executed: NDArray[np.float32]
    latent_norm: float
    latent_change: float
    position: NDArray[np.float32]
    divergence: Divergence | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as the run log has it."""
        plain = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self).items()
            if name != "divergence"
        }
        apart = self.divergence
        return plain | ({} if apart is None else {"apart_m": apart.translation_m, "apart_rad": apart.rotation_rad})


@dataclass
class _Episode:
    """The skill that runs, of the goal that runs."""

    goal: Goal
    index: int
    session: PolicySession
    begun_ns: int
    observed_ns: int | None = None
    first_stamp: int = 0
    sent: deque[int] = field(default_factory=deque)
    fired: int = 0
    probability: float | None = None
    last: Decision | None = None

    @property
    def skill(self) -> str:
        return self.goal.skills[self.index]


class _Over(Exception):
    """The goal cannot go on; raised while an observation is worked on."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome, self.reason = outcome, reason


class SkillRunner:
    """Runs one goal at a time.

    Attributes:
        skills: the bundles by skill.
        topics: message type by topic: what to feed.
        robot_topic: where the robot says its mode; not one of `topics` where the Spec reads nothing from there.
        watch: which of them live.
        late: decisions of the goal that runs, or ran last, that came too late to be sent.
        divergence: shadow mode's means of the goal that runs, or ran last.
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
        self.skills, self.limits, self._clock_ns = dict(skills), limits or RunLimits(), clock_ns
        self.spec = next(iter(self.skills.values())).spec
        self._planner = ThreadPlanner() if self.limits.overlapped else None
        self._assembler = LiveAssembler(self.spec)
        self._cameras = {s.topic for s in self.spec.streams if s.field in {c.name for c in self.spec.cameras}}
        self._stuck = StuckCameras(self.limits.stuck_after_s, self.limits.stuck_moved_m)
        self._day_ns, self._day_ahead_ns = day_ns, 0
        self._half_period_ns = round(NANOSECONDS / self.spec.rate_hz / 2)
        self.topics = self._assembler.topics
        topic, kind = ROBOT_STATE
        self.robot_topic = next((name for name, of in self.topics.items() if of == kind), topic)
        self.watch = StreamWatch([*self.topics, self.robot_topic])
        self.divergence = DivergenceSum()
        self.late = self.steps = 0
        self._episode: _Episode | None = None
        self._ended: Ended | None = None
        self._failed = False
        self._mode: RobotMode | None = None
        self._answered_ns: int | None = None
        self._active_ns: int | None = None
        self._dropped_before: Counter[str] = Counter()
        self._foreign: tuple[str, int] | None = None

    # What is asked of it.

    def start(self, goal: Goal, now_ns: int) -> str | None:
        """Begin a goal; return why not, or None."""
        reason = self._refusal(goal, now_ns)
        if reason is None:
            self._ended, self._failed = None, False
            self.steps, self.late, self.divergence = 0, 0, DivergenceSum()
            self._dropped_before.clear()
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
            topic: one of `topics`.
            message: with the fields of the ROS message as attributes.
            received_ns: when it was received, which may be before now if it had to wait for its turn.
        """
        self.watch.note(topic, received_ns)
        self._note_activity(self._clock_ns())
        if self._episode is None or received_ns < self._episode.begun_ns:
            return None
        try:
            if topic in self._cameras and (reason := self._stuck.objection(topic, message, received_ns)):
                raise _Over(Outcome.FAULT, f"{reason}; look at the camera")
            rows = self._assembler.feed(topic, message, received_ns + self._day_ahead_ns, received_ns)
            return self._on_rows(rows, received_ns) if rows else None
        except _Over as over:
            self._end(over.outcome, over.reason)
        except DiwaError as error:
            self._end(Outcome.FAULT, str(error))
        return None

    def on_robot(self, mode: int, answered_ns: int) -> None:
        """Take the robot's mode and the stamp of the observation that its newest command answers, 0 = none."""
        self._answered_ns = answered_ns
        try:
            self._mode = RobotMode(mode)
        except ValueError:
            self._mode = RobotMode.FAULT
            self._end(Outcome.FAULT, f"the robot is in mode {mode}, which is not known here")
            return
        if self._episode is None or self.limits.shadow or self._mode not in UNWILLING:
            return
        self._end(Outcome.STOPPED if self._mode is RobotMode.STOPPED else Outcome.FAULT, UNWILLING[self._mode])

    def on_foreign_command(self, source: str, now_ns: int) -> None:
        """Hear that somebody else commands the robot."""
        self._foreign = source, now_ns
        if not self.limits.shadow:
            self._end(Outcome.FAULT, f"{source!r} commands the robot too; only one may")

    def check(self, now_ns: int) -> None:
        """Look at the time; to be called often, also and above all when no message comes."""
        self._note_activity(now_ns)
        episode = self._episode
        if episode is None:
            return
        if self.robot_topic not in self.topics and not self.limits.shadow:
            age_s = self.watch.age_s(self.robot_topic, now_ns)
            if age_s > self.limits.give_up_after_s:
                self._end(Outcome.FAULT, f"{self.robot_topic} silent for {age_s:.2f} s: a stop would not be heard")
                return
        first = episode.observed_ns is None
        limit_s = self.limits.first_observation_s if first else self.limits.give_up_after_s
        if self._silence_s(episode, now_ns) > limit_s:
            self._end(
                Outcome.FAULT, f"no observation for {self._silence_s(episode, now_ns):.2f} s: {self._why(now_ns)}"
            )

    # What it shows.

    def state(self, now_ns: int) -> RunState:
        """What the runner is doing."""
        episode = self._episode
        if episode is None:
            return RunState.FAULT if self._failed else RunState.IDLE
        if self._silence_s(episode, now_ns) > self.limits.hold_after_s:
            return RunState.HOLDING
        return RunState.SHADOW if self.limits.shadow else RunState.RUNNING

    @property
    def running(self) -> str:
        """The skill that runs; "" = none."""
        return "" if self._episode is None else self._episode.skill

    @property
    def dropped(self) -> dict[str, int]:
        """What the assembler could not use since the goal began, by what it was."""
        return {name: count + self._dropped_before[name] for name, count in self._assembler.counts().items()}

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
        if silent := self.watch.silent(now_ns, self.limits.give_up_after_s):
            return f"streams are missing: {'; '.join(silent)}"
        if self.limits.shadow:
            return None
        if self._mode is None:
            return "the robot has not said yet in which mode it is"
        if self._mode in UNWILLING:
            return UNWILLING[self._mode]
        if self._foreign and now_ns - self._foreign[1] < self.limits.unanswered_s * NANOSECONDS:
            return f"{self._foreign[0]!r} commands the robot; wait until it is silent"
        return None

    def _begin(self, goal: Goal, index: int, now_ns: int) -> None:
        bundle = self.skills[goal.skills[index]]
        session = (
            PolicySession(bundle, goal.seed)
            if self._planner is None
            else OverlappedSession(bundle, self._planner, goal.seed, self.limits.seams)
        )
        self._assembler.reset()
        self._stuck.reset()
        self._day_ahead_ns = self._day_ns() - self._clock_ns()  # once a skill: the clock of the day may be set
        self._episode = _Episode(goal, index, session, begun_ns=now_ns)

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

    def _silence_s(self, episode: _Episode, now_ns: int) -> float:
        since = episode.begun_ns if episode.observed_ns is None else episode.observed_ns
        return (now_ns - since) / NANOSECONDS

    def _why(self, now_ns: int) -> str:
        silent = self.watch.silent(now_ns, self.limits.hold_after_s)
        if silent:
            return "; ".join(silent)
        if self._assembler.faults:
            fault = self._assembler.faults[-1]
            return f"{fault.topic}: {fault.reason}"
        return "the streams come, but their stamps do not fit together; look at the clocks of those who send"

    def _on_rows(self, rows: list[Row], received_ns: int) -> Decision | None:
        episode = self._episode
        assert episode is not None
        newest = rows[-1]
        if any(row.first for row in rows) and episode.observed_ns is not None:
            gap_s = (newest.stamp - (episode.last.stamp_ns if episode.last else 0)) / NANOSECONDS
            silence_s = (newest.received - episode.observed_ns) / NANOSECONDS
            limit_s = self.spec.max_gap_s
            why = (
                f"no whole observation came for {silence_s:.2f} s, longer than {limit_s:g} s cannot be bridged"
                if abs(silence_s - gap_s) < limit_s / 2
                else f"the observations' time jumps by {gap_s:.2f} s; look at the sender's clock"
            )
            raise _Over(Outcome.FAULT, why)
        if episode.observed_ns is None:
            episode.first_stamp = rows[0].stamp
            reason = objection(episode.session.bundle.manifest, rows[0].values, self.limits.gate)
            if reason is not None:
                raise _Over(Outcome.FAULT if episode.index else Outcome.REFUSED, reason)
        for row in rows[:-1]:  # the arm held meanwhile: time passed for the policy, but nothing is to be sent
            episode.session.step(row.values, row.executed)
            self.steps += 1
        if any(fault.stamp == newest.stamp for fault in self._assembler.faults):
            return None  # part of it is not sound: neither looked at nor answered
        episode.observed_ns = newest.received
        return self._on_row(episode, newest, received_ns)

    def _on_row(self, episode: _Episode, row: Row, received_ns: int) -> Decision | None:
        if self._is_unanswered(episode, row):
            raise _Over(
                Outcome.FAULT,
                f"the robot took no command for {self.limits.unanswered_s:g} s; is robot/command connected, and does "
                "somebody else command?",
            )
        session, started_ns, before = episode.session, self._clock_ns(), episode.session.latent
        self._stuck.moved_to(row.values["proprio"][:3])
        timeout_s = episode.goal.timeout_s or session.bundle.manifest.max_steps / self.spec.rate_hz
        over = row.stamp - episode.first_stamp + self._half_period_ns >= timeout_s * NANOSECONDS
        if over:
            session.observe(row.values, row.executed)
        else:
            action = session.step(row.values, row.executed)
        self.steps += 1
        if self._has_succeeded(episode):
            self._on_success(episode, received_ns)
            return None
        if over:
            raise _Over(Outcome.TIMEOUT, f"{episode.skill!r} was not achieved within {timeout_s:.1f} s")
        ended_ns = self._clock_ns()
        assert episode.observed_ns is not None
        age_s = (ended_ns - episode.observed_ns) / NANOSECONDS
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

    def _is_unanswered(self, episode: _Episode, row: Row) -> bool:
        """Whether the oldest command that the robot has not answered was sent too long ago."""
        if self._answered_ns is None:
            return False
        while episode.sent and episode.sent[0] <= self._answered_ns:
            episode.sent.popleft()
        return bool(episode.sent) and row.stamp - episode.sent[0] > self.limits.unanswered_s * NANOSECONDS

    def _has_succeeded(self, episode: _Episode) -> bool:
        threshold = episode.session.bundle.manifest.success_threshold
        episode.probability = probability = episode.session.success_probability
        if probability > threshold:
            episode.fired += 1
        elif probability < threshold * (1 - self.limits.success_release):
            episode.fired = 0
        return episode.fired >= self.limits.success_frames

    def _on_success(self, episode: _Episode, received_ns: int) -> None:
        if episode.index + 1 < len(episode.goal.skills):
            self._dropped_before.update(self._assembler.counts())
            self._begin(episode.goal, episode.index + 1, received_ns)
        else:
            names = ", ".join(episode.goal.skills)
            self._end(Outcome.SUCCESS, f"{names} achieved, by the bundle's own reward")

    def _diverged(self, episode: _Episode, row: Row) -> Divergence | None:
        last = episode.last
        if not self.limits.shadow or last is None or row.stamp - last.stamp_ns > 3 * self._half_period_ns:
            return None
        apart = divergence_of(last.stamp_ns, last.action, row.executed, self.spec.action_scale)
        self.divergence.add(apart, row.executed, self.spec.action_scale)
        return apart
