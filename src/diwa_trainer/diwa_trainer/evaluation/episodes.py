"""One seeded episode of a policy in an environment, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diwa_trainer.evaluation.agents import Agent
from diwa_trainer.evaluation.environments import Environment

Film = Callable[[], None]


@dataclass(frozen=True)
class EpisodeResult:
    """What came of one episode.

    Attributes:
        seed: of the start state and of the policy's noise.
        success: whether the environment says that its task was achieved.
        length: steps taken.
        seconds: of robot time, `length` at the Spec's rate.
        max_probability: the highest success probability of the policy's own reward; None where it has none.
        first_fired: after how many steps that probability first passed the threshold; None if it never did. More than
            `length` where it was only then that the policy saw its success.
        watched: steps taken after the success to see that; they count in nothing else.
    """

    seed: int
    success: bool
    length: int
    seconds: float
    max_probability: float | None
    first_fired: int | None
    watched: int = 0


def run_episode(
    environment: Environment,
    agent: Agent,
    seed: int,
    *,
    threshold: float,
    rate_hz: float,
    max_steps: int,
    steps_after_success: int = 0,
    film: Film | None = None,
) -> EpisodeResult:
    """Run one episode until success, `max_steps`, or the environment's end.

    The policy is fed the action that the environment says it accepted (`info["action"]`), where it says so. `film` is
    called after the reset and after every step.

    A policy sees its success some steps late, and on the robot it goes on until it does. So, where its own reward has
    not fired by then, it goes on here for at most `steps_after_success`, as long as the environment does not end.

    Raises:
        InputError: the environment fails.
    """
    observation, info = environment.reset(seed=seed)
    agent.reset(seed)
    probabilities: list[float | None] = []
    executed: NDArray[np.float32] | None = None
    length, watched, success, ended, fired = 0, 0, False, False, False
    while True:
        if film is not None and not watched:
            film()
        is_last = ended or (watched >= steps_after_success if success else length >= max_steps)
        action = None if is_last else agent.act(observation, executed)
        if action is None:
            agent.watch(observation, executed)
        probabilities.append(agent.success_probability)
        fired = fired or (probabilities[-1] or 0.0) > threshold
        if action is None or (success and fired):
            break
        observation, _, terminated, truncated, info = environment.step(action)
        executed = np.asarray(info.get("action", action), np.float32)
        ended = terminated or truncated
        watched, length = (watched + 1, length) if success else (watched, length + 1)
        success = success or info["success"]
    known = [probability for probability in probabilities if probability is not None]
    return EpisodeResult(
        seed=seed,
        success=success,
        length=length,
        seconds=length / rate_hz,
        max_probability=max(known, default=None),
        first_fired=next((step for step, probability in enumerate(known) if probability > threshold), None),
        watched=watched,
    )
