"""One skill while it runs: how far it is, what it has sent, whether it has succeeded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from diwa_policy_node.skills.goal import Decision, Goal
from diwa_policy_node.skills.hand_watch import HandWatch
from diwa_runtime.bundle.session import PolicySession
from diwa_runtime.rows.streams import NANOSECONDS


@dataclass
class SkillEpisode:
    """The skill that runs, of the goal that runs.

    Attributes:
        goal: with this skill at `index`.
        session: its bundle at work.
        begun_ns: when it began.
        observed_ns: when the newest observation was received; None = there was none yet.
        first_stamp: of the first observation, ns.
        sent: stamps of the observations that commands answered and that the robot has not taken yet.
        fired: so many observations in a row have looked like success.
        probability: of success, by the newest observation; None = there was none.
        last: the newest decision.
        hand: tells whether it goes where it is told.
    """

    goal: Goal
    index: int
    session: PolicySession
    begun_ns: int
    hand: HandWatch
    observed_ns: int | None = None
    first_stamp: int = 0
    sent: deque[int] = field(default_factory=deque)
    fired: int = 0
    probability: float | None = None
    last: Decision | None = None

    @property
    def skill(self) -> str:
        """Its name."""
        return self.goal.skills[self.index]

    @property
    def is_goals_last(self) -> bool:
        """Whether the goal is achieved with it."""
        return self.index + 1 == len(self.goal.skills)

    @property
    def timeout_s(self) -> float:
        """How long it may take, in the observations' time."""
        manifest = self.session.bundle.manifest
        return self.goal.timeout_s or manifest.max_steps / manifest.spec.rate_hz

    def is_over(self, stamp_ns: int) -> bool:
        """Whether its time is up at an observation, to the nearest control tick."""
        half_period_ns = round(NANOSECONDS / self.session.bundle.spec.rate_hz / 2)
        return stamp_ns - self.first_stamp + half_period_ns >= self.timeout_s * NANOSECONDS

    def silence_s(self, now_ns: int) -> float:
        """For how long nothing was observed."""
        return (now_ns - (self.begun_ns if self.observed_ns is None else self.observed_ns)) / NANOSECONDS

    def has_succeeded(self, frames: int, release: float) -> bool:
        """Look at what the reward has said since; whether so many in a row were above the bundle's threshold.

        Args:
            frames: how many it takes.
            release: the count starts anew only below the threshold by this share of it.
        """
        threshold = self.session.bundle.manifest.success_threshold
        for probability in self.session.new_probabilities():
            self.probability = probability
            if probability > threshold:
                self.fired += 1
            elif probability < threshold * (1 - release):
                self.fired = 0
            if self.fired >= frames:
                return True
        return False
