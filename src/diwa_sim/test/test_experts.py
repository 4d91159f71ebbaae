from __future__ import annotations

import numpy as np
import pytest

from diwa_runtime.events import FRAMES_AFTER_SUCCESS
from diwa_runtime.spec import TASKS
from diwa_sim import EPISODE_STEPS
from diwa_sim.demonstrations import demonstration
from diwa_sim.environment import PlayTable
from diwa_sim.play import FreeMotion

NAMES = [task.name for task in TASKS]


@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("noise", [0.0, 0.25])
def test_the_expert_does_its_task(task: str, noise: float) -> None:
    """At least 19 of 20 seeds; the other measurements (100 seeds) are in the README."""
    env = PlayTable(task=task)
    shown = [demonstration(env, seed, noise) for seed in range(20 if noise == 0 else 8)]
    assert sum(one.success for one in shown) >= len(shown) - 1
    assert 15 < np.mean([len(one.snapshots) for one in shown]) < 80


@pytest.mark.parametrize("seed", [1, 55, 64])
def test_the_lever_is_reached_over_the_slider_handle(seed: int) -> None:
    """The hand starts beside the handle, which stands between it and the lever."""
    env = PlayTable(task="turn_off_lightbulb")
    assert demonstration(env, seed, noise=0.0).success


def test_a_demonstration_goes_on_a_little_after_success() -> None:
    env = PlayTable(task="turn_on_led")
    shown = demonstration(env, 0)
    assert shown.success_index is not None
    assert len(shown.snapshots) == shown.success_index + 1 + FRAMES_AFTER_SUCCESS
    scenes = np.array([one.scene for one in shown.snapshots])
    achieved = env.contract.task("turn_on_led").achieved(scenes[0], scenes, env.contract.scene)
    assert np.argmax(achieved) == shown.success_index


def test_a_demonstration_that_fails_stops_at_the_limit_and_says_so() -> None:
    shown = demonstration(PlayTable(task="close_drawer"), 0, limit=10)
    assert not shown.success
    assert len(shown.snapshots) == 11


def test_the_same_seed_gives_the_same_noisy_demonstration() -> None:
    env = PlayTable(task="open_drawer")
    first, again, other = (demonstration(env, seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(
        [one.accepted_action for one in first.snapshots], [one.accepted_action for one in again.snapshots]
    )
    assert first.snapshots[1].accepted_action.tolist() != other.snapshots[1].accepted_action.tolist()


def test_noise_needs_a_generator() -> None:
    env = PlayTable()
    with pytest.raises(ValueError, match="generator"):
        env.expert(noise=0.1)


@pytest.mark.parametrize("task", NAMES)
def test_chance_seldom_does_a_task(task: str) -> None:
    """Smooth random motion in 12 episodes; measured 1 to 7 of 100."""
    env = PlayTable(task=task, max_episode_steps=EPISODE_STEPS)
    successes = 0
    for seed in range(12):
        env.reset(seed=seed)
        motion = FreeMotion(np.random.default_rng(seed))
        ended = False
        while not ended:
            _, _, terminated, truncated, _ = env.step(motion.act())
            ended = terminated or truncated
        successes += terminated
    assert successes <= 4
