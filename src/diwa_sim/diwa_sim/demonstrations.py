"""Demonstrations: an expert with action noise, from a seeded start to a few frames after success."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diwa_runtime.events import FRAMES_AFTER_SUCCESS
from diwa_sim import EPISODE_STEPS
from diwa_sim.play import PlayedTable
from diwa_sim.snapshot import Snapshot

DEMONSTRATION_NOISE = 0.25
_NOISE_STREAM = 1


@dataclass(frozen=True)
class Demonstration:
    """One try of an expert.

    Attributes:
        snapshots: the start, then one for each step.
        success_index: index of the first snapshot in which the task is achieved; None if it never is.
    """

    snapshots: tuple[Snapshot, ...]
    success_index: int | None

    @property
    def success(self) -> bool:
        """Whether the task was achieved."""
        return self.success_index is not None


def demonstration(
    env: PlayedTable,
    seed: int,
    noise: float = DEMONSTRATION_NOISE,
    frames_after_success: int = FRAMES_AFTER_SUCCESS,
    limit: int = EPISODE_STEPS,
) -> Demonstration:
    """Let the expert of `env`'s task try once.

    Args:
        env: a table with a task.
        seed: fixes the start and the noise.
        noise: standard deviation of the noise on each motion component.
        frames_after_success: how many steps the expert goes on after success.
        limit: most steps until success.
    """
    env.reset(seed=seed)
    expert = env.expert(noise, np.random.default_rng([seed, _NOISE_STREAM]))
    snapshots = [env.snapshot()]
    success_index: int | None = None
    while len(snapshots) <= limit if success_index is None else len(snapshots) <= success_index + frames_after_success:
        snapshot = snapshots[-1]
        *_, info = env.step(expert.act({"proprio": snapshot.proprio(), "scene": snapshot.scene}))
        snapshots.append(env.snapshot())
        if success_index is None and info["success"]:
            success_index = len(snapshots) - 1
    return Demonstration(tuple(snapshots), success_index)
