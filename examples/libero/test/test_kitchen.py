"""The kitchens themselves: run with examples/libero/.venv, which has LIBERO; skipped elsewhere."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("libero", reason="needs examples/libero/setup")

from diwa_libero.__main__ import main
from diwa_libero.environment import Kitchen
from diwa_libero.scenes import SCENES, Scene

from diwa_runtime.errors import ConfigError
from diwa_runtime.spec import Spec
from diwa_sim.demonstrations import demonstration
from diwa_trainer.dataset import Dataset
from diwa_trainer.ingest.ingestion import ingest

SEED = 2_000_000


@cache
def kitchen(task: str = "open_top_drawer") -> Kitchen:
    return Kitchen(task)


def acted(env: Kitchen, seed: int, steps: int) -> np.ndarray:
    """Positions (steps, Q) of an expert's episode."""
    env.reset(seed=seed)
    expert, positions = env.expert(0.2, np.random.default_rng(0)), []
    for _ in range(steps):
        now = env.snapshot()
        env.step(expert.act({"proprio": now.proprio(), "scene": now.scene}))
        positions.append(env._data.qpos.copy())
    return np.array(positions)


def test_the_same_seed_gives_the_same_episode_whatever_came_before() -> None:
    fresh = acted(Kitchen("open_top_drawer"), SEED, 60)
    env = kitchen()
    acted(env, SEED + 1, 60)  # ends with the gripper half closed, and the drawer open

    np.testing.assert_array_equal(acted(env, SEED, 60), fresh)
    assert np.abs(acted(env, SEED + 1, 1) - fresh[:1]).max() > 1e-3


def test_a_start_draws_from_no_generator_but_its_own() -> None:
    np.random.seed(7)  # noqa: NPY002 (the global one, which the benchmark uses)
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    kitchen().reset(seed=SEED)

    assert np.random.random() == expected  # noqa: NPY002


def test_the_controller_is_robosuites_but_for_rounding() -> None:
    env = kitchen()
    env.reset(seed=SEED)
    expert, actions, ours = env.expert(0.2, np.random.default_rng(0)), [], []
    for _ in range(80):
        now = env.snapshot()
        env.step(expert.act({"proprio": now.proprio(), "scene": now.scene}))
        actions.append(np.append(env.snapshot().accepted_action[:6], -env.snapshot().gripper_command).astype(float))
        ours.append(env._data.qpos.copy())
    env.reset(seed=SEED)
    env._benchmark.robots[0].controller.new_update = True  # it has not seen how the arm settled
    theirs = []
    for action in actions:
        env._benchmark.step(action)
        theirs.append(env._data.qpos.copy())

    assert env.judged_done(), "the handle was gripped and pulled, so contacts are compared too"
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_the_expert_does_the_task_and_the_spec_says_so_when_the_benchmark_does(scene: Scene) -> None:
    env = kitchen(scene.task)
    for seed in (SEED, SEED + 1):
        env.reset(seed=seed)
        expert, start = env.expert(), env.snapshot().scene
        assert not env.judged_done()
        for _ in range(100):
            now = env.snapshot()
            *_, info = env.step(expert.act({"proprio": now.proprio(), "scene": now.scene}))
            said = env.task.achieved(start, env.snapshot().scene, env.contract.scene)
            assert bool(said) == env.judged_done()
            if info["success"]:
                break
        assert info["success"]


def test_a_demonstration_of_an_unsteady_hand_differs_from_seed_to_seed() -> None:
    first, second = (demonstration(kitchen(), SEED + i, 0.3, limit=200) for i in (0, 1))
    assert first.success
    assert second.success
    assert len(first.snapshots) != len(second.snapshots)


def test_what_cannot_be_drawn_or_made_is_refused() -> None:
    with pytest.raises(ConfigError, match="no pictures"):
        Kitchen("open_top_drawer", render_mode="rgb_array")
    with pytest.raises(ConfigError, match="name a scene"):
        Kitchen()
    with pytest.raises(ConfigError, match="from 0 to 10"):
        Kitchen("open_top_drawer", start=-1.0)


def test_what_is_collected_is_ingested_as_the_scenes_spec_says(tmp_path: Path) -> None:
    settings = ["--scene", "scene1", "--output", str(tmp_path / "bags"), "--play-steps", "60", "--play-episode-steps"]
    command = ["collect", *settings, "30", "--demonstrations", "1", "--noise", "0.1", "--workers", "1"]
    assert main(command) == 0
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "bags").rglob("*")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "bags").rglob("*")} == written

    spec: Spec = SCENES["scene1"].spec()
    ingest([tmp_path / "bags"], tmp_path / "dataset", spec)

    dataset = Dataset.open(tmp_path / "dataset")
    assert dataset.spec == spec
    assert sorted(episode.kind for episode in dataset.episodes) == ["demonstration", "play", "play"]
    (shown,) = dataset.episodes_of(kind="demonstration", task="open_top_drawer", outcome="success")
    judged = dataset.scene[shown.start : shown.end, spec.scene.index("top_drawer_open")]
    assert judged[0] == 0
    assert judged[-1] == 1
