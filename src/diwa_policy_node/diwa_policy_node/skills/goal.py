"""What is asked of a runner, by what limits it goes, what it decides, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_policy_node.skills.overlap import SeamLimits
from diwa_policy_node.skills.start_gate import GateLimits
from diwa_runtime.logs.divergence import Divergence
from diwa_runtime.robot import Outcome

HOLD_PERIODS, GIVE_UP_PERIODS = 1.5, 3.0
"""Control periods without an observation that are no silence yet, and those after which a goal may end."""


@dataclass(frozen=True)
class RunLimits:
    """When to hold, when to give up, and what to start from.

    Attributes:
        hold_after_s: hold after so long without a new observation.
        give_up_after_s: end the goal after so long without one.
        first_observation_s: how long the first one may take.
        unanswered_s: end the goal when the robot took no command for so long.
        least_rate: begin no goal while the robot says its state at less than this share of the Spec's rate: a policy
            would run as much slower, on observations of which some are repeated.
        success_frames: so many observations in a row must look like success.
        success_release: the count starts anew only when the probability falls below the bundle's threshold by this
            share of it.
        blocked_s, blocked_share: a hand that went less than this share of what was asked for, over so long, is blocked;
            0 s: nothing is. In 180 demonstrations of the simulated table no press lasts longer than 0.07 s, nor than
            0.2 s by a share of 0.3.
        stuck_after_s, stuck_moved_m: a camera with one picture for so long, while the arm moved so far, is stuck.
        overlapped: plan the next chunk while this one runs.
        shadow: say what would be done, and do nothing.
    """

    hold_after_s: float = 0.1
    give_up_after_s: float = 0.2
    first_observation_s: float = 1.0
    unanswered_s: float = 0.5
    least_rate: float = 0.75
    success_frames: int = 2
    success_release: float = 0.1
    blocked_s: float = 1.5
    blocked_share: float = 0.1
    stuck_after_s: float = 0.5
    stuck_moved_m: float = 0.03
    overlapped: bool = False
    shadow: bool = False
    seams: SeamLimits = field(default_factory=SeamLimits)
    gate: GateLimits = field(default_factory=GateLimits)

    def at(self, rate_hz: float) -> RunLimits:
        """Return the limits of a robot with that control rate: no silence is shorter than some of its periods."""
        return replace(
            self,
            hold_after_s=max(self.hold_after_s, HOLD_PERIODS / rate_hz),
            give_up_after_s=max(self.give_up_after_s, GIVE_UP_PERIODS / rate_hz),
            unanswered_s=max(self.unanswered_s, GIVE_UP_PERIODS / rate_hz),
        )


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
