"""Measure the table: how fast it runs and how often experts and chance do each task. ``python -m diwa_sim.survey``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.spec import TASKS
from diwa_sim import EPISODE_STEPS
from diwa_sim.environment import Observation, PlayTable
from diwa_sim.play import FreeMotion

Act = Callable[[Observation], NDArray[np.float32]]


@dataclass(frozen=True)
class Outcome:
    """What a policy did in some episodes of one task.

    Attributes:
        successes: episodes with success.
        mean_length: steps of the successful ones, on average; NaN without any.
        steps_per_cpu_second: environment steps, the policy's own time and resets included.
    """

    successes: int
    mean_length: float
    steps_per_cpu_second: float


def survey(env: PlayTable, policy: Callable[[int], Act], episodes: int, limit: int = EPISODE_STEPS) -> Outcome:
    """Run seeds 0 to `episodes` - 1 with the policy that `policy(seed)` returns after each reset."""
    lengths, steps, started = [], 0, time.process_time()
    for seed in range(episodes):
        observation, _ = env.reset(seed=seed)
        act = policy(seed)
        for step in range(1, limit + 1):
            observation, _, terminated, _, _ = env.step(act(observation))
            steps += 1
            if terminated:
                lengths.append(step)
                break
    mean = float(np.mean(lengths)) if lengths else float("nan")
    return Outcome(len(lengths), mean, steps / (time.process_time() - started))


def _expert(env: PlayTable, noise: float) -> Callable[[int], Act]:
    return lambda seed: env.expert(noise, np.random.default_rng([seed, 1])).act


def _chance(seed: int) -> Act:
    motion = FreeMotion(np.random.default_rng([seed, 2]))
    return lambda _: motion.act()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table in Markdown, one line a task."""
    parser = argparse.ArgumentParser(prog="python -m diwa_sim.survey", description=__doc__)
    parser.add_argument("--episodes", type=int, default=100, help="seeds for each cell (default: 100)")
    parser.add_argument("--noise", type=float, default=0.25, help="the noisy expert's level (default: 0.25)")
    options = parser.parse_args(arguments)
    print(f"| task | expert | steps | expert, noise {options.noise} | steps | chance | env-steps per CPU second |")
    print("|---|---|---|---|---|---|---|")
    for task in TASKS:
        env = PlayTable(task=task.name)
        plain, noisy, chance = (
            survey(env, policy, options.episodes)
            for policy in (_expert(env, 0.0), _expert(env, options.noise), _chance)
        )
        print(
            f"| `{task.name}` | {plain.successes} | {plain.mean_length:.0f} | {noisy.successes} | "
            f"{noisy.mean_length:.0f} | {chance.successes} | {plain.steps_per_cpu_second:,.0f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
