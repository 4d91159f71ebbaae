from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from diwa_runtime.spec import SCENE_NAMES, TASKS
from diwa_sim.environment import PlayTable
from diwa_sim.play import FREE, Player, PlaySettings, PlayStep

STEPS = 320
EPISODES = 6


def play(seed: int, steps: int, settings: PlaySettings | None = None) -> list[PlayStep]:
    player = Player(PlayTable(task=None), np.random.default_rng(seed), settings or PlaySettings())
    return list(player.episode(seed, steps))


@pytest.fixture(scope="module")
def episodes() -> list[list[PlayStep]]:
    env = PlayTable(task=None)
    return [list(Player(env, np.random.default_rng(seed)).episode(seed, STEPS)) for seed in range(EPISODES)]


def test_an_episode_is_its_start_and_its_steps_with_even_stamps(episodes: list[list[PlayStep]]) -> None:
    for steps in episodes:
        assert len(steps) == STEPS + 1
        stamps = [step.snapshot.stamp_s for step in steps]
        np.testing.assert_allclose(np.diff(stamps), 1 / 30, atol=1e-9)


def test_play_mixes_skills_and_free_motion(episodes: list[list[PlayStep]]) -> None:
    frames = Counter(step.segment for steps in episodes for step in steps)
    assert set(frames) <= {FREE, *(task.name for task in TASKS)}
    assert len(frames) >= 7
    assert 0.05 < frames[FREE] / frames.total() < 0.6


def test_play_contains_successes_and_near_misses(episodes: list[list[PlayStep]]) -> None:
    steps = [step for episode in episodes for step in episode]
    assert sum(len(step.achieved) for step in steps) >= EPISODES
    segments = tried_segments(episodes)
    failed = [name for name, achieved in segments if name != FREE and name not in achieved]
    assert len(failed) >= EPISODES // 2
    assert len(failed) < len(segments)


def test_what_a_segment_achieves_is_what_its_predicate_says() -> None:
    for step_before, step in pairs(play(1, 200, PlaySettings(free=0.0, near_miss=0.0, noise=(0.1,)))):
        for name in step.achieved:
            field = SCENE_NAMES.index(next(task.field for task in TASKS if task.name == name))
            assert step.snapshot.scene[field] != step_before.snapshot.scene[field], "it comes true as it moves"


def test_a_light_is_tried_as_often_as_a_drawer() -> None:
    """Though one task of a light can be done at a time, and often both of a drawer."""
    env = PlayTable(task=None)
    player = Player(env, np.random.default_rng(0))
    drawn: Counter[str] = Counter()
    for seed in range(20):
        env.reset(seed=seed)
        drawn.update(player._draw_task().field for _ in range(60))
    assert set(drawn) == {"drawer", "slider", "bulb", "led"}
    assert min(drawn.values()) > 0.7 * max(drawn.values())


def test_what_play_is_without_is_not_played_with() -> None:
    """The skills of the others are drawn as often as before, and the drawer moves by accident at most."""
    steps = play(0, 700, PlaySettings(without=("drawer", "bulb")))
    tried = {PlayTable().contract.task(name).field for name, _ in tried_segments([steps]) if name != FREE}
    assert tried == {"slider", "led"}
    usual = play(0, 700)
    assert moved(steps, "drawer") < 0.1 * moved(usual, "drawer")


def test_where_no_skill_can_be_played_the_hand_moves_freely() -> None:
    steps = play(0, 200, PlaySettings(without=("drawer", "bulb", "slider", "led")))
    assert len(steps) == 201
    assert {step.segment for step in steps} == {FREE}


def moved(steps: list[PlayStep], name: str) -> float:
    """How far a value of the scene moves in all."""
    values = [step.snapshot.scene[PlayTable().contract.scene.index(name)] for step in steps]
    return float(np.abs(np.diff(values)).sum())


def test_near_misses_let_go_before_success() -> None:
    """With near misses alone, hardly any skill segment achieves its own task."""
    steps = play(0, 600, PlaySettings(free=0.0, near_miss=1.0, noise=(0.1,)))
    segments = tried_segments([steps])
    assert len(segments) > 8
    assert sum(name in achieved for name, achieved in segments) <= 0.25 * len(segments)


def test_a_misjudged_hand_mostly_misses() -> None:
    clean = {"free": 0.0, "near_miss": 0.0, "noise": (0.1,)}
    right, wrong = (PlaySettings(**clean, misjudged=share, misjudged_m=(0.06,)) for share in (0.0, 1.0))
    assert share_achieved(wrong) < 0.6 * share_achieved(right)


def test_the_same_seed_plays_the_same() -> None:
    first, again = play(4, 60), play(4, 60)
    np.testing.assert_array_equal([s.snapshot.scene for s in first], [s.snapshot.scene for s in again])


def share_achieved(settings: PlaySettings) -> float:
    """How many skill segments achieve their own task."""
    segments = tried_segments([play(0, 1200, settings)])
    return sum(name in achieved for name, achieved in segments) / len(segments)


def pairs(steps: list[PlayStep]) -> list[tuple[PlayStep, PlayStep]]:
    return list(itertools.pairwise(steps))


def tried_segments(episodes: list[list[PlayStep]]) -> list[tuple[str, set[str]]]:
    """Runs of one segment name, and what was achieved in each."""
    segments: list[tuple[str, set[str]]] = []
    for steps in episodes:
        for before, step in pairs(steps):
            if not segments or step.segment != before.segment or before is steps[0]:
                segments.append((step.segment, set()))
            segments[-1][1].update(step.achieved)
    return segments
