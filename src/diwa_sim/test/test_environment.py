from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from diwa_runtime.errors import ConfigError, InputError
from diwa_runtime.geometry import euler_to_matrix, quaternion_to_euler, quaternion_to_matrix
from diwa_runtime.spec import PROPRIO_NAMES, SCENE_NAMES, TASKS, Spec
from diwa_sim.environment import DivergenceError, PlayTable

NAMES = [task.name for task in TASKS]
STILL = np.array([0, 0, 0, 0, 0, 0, 1], dtype=np.float32)
SCENE = {name: index for index, name in enumerate(SCENE_NAMES)}

_tables: dict[str | None, PlayTable] = {}


def table(task: str | None) -> PlayTable:
    """One table per task: compiling it is the slow part, and an environment must not remember anyway."""
    return _tables.setdefault(task, PlayTable(task=task))


def wandering(seed: int, steps: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (steps, 7))


def rollout(env: PlayTable, seed: int, actions: np.ndarray) -> np.ndarray:
    """What an episode's snapshots hold as rows (steps + 1, 7 + 7 + 24), in double precision."""
    env.reset(seed=seed)
    snapshots = [env.snapshot()]
    for action in actions:
        env.step(action)
        snapshots.append(env.snapshot())
    return np.array([np.concatenate([s.joint_positions, s.joint_velocities, s.scene]) for s in snapshots])


def leave_in_contact(env: PlayTable) -> None:
    """Stop an expert half-way: the solver's caches are full then."""
    observation, _ = env.reset(seed=6)
    expert = env.expert()
    for _ in range(28):
        observation, *_ = env.step(expert.act(observation))


@pytest.mark.parametrize("task", NAMES)
def test_the_same_seed_and_actions_give_the_same_numbers(task: str) -> None:
    actions = wandering(1, 40)
    first = rollout(table(task), 5, actions)
    leave_in_contact(table(task))
    np.testing.assert_array_equal(rollout(table(task), 5, actions), first, "within one instance")
    np.testing.assert_array_equal(rollout(PlayTable(task=task), 5, actions), first, "across two instances")
    assert (rollout(table(task), 6, actions) != first).any(), "another seed, another episode"


@pytest.mark.parametrize("task", NAMES)
def test_observations_are_in_their_space_finite_and_own_their_memory(task: str) -> None:
    env = table(task)
    before, _ = env.reset(seed=0)
    for action in wandering(3, 20):
        now, *_ = env.step(action)
        assert env.observation_space.contains(now)
        for field, values in now.items():
            assert np.isfinite(values).all(), field
            assert not any(np.shares_memory(values, other) for other in before.values()), field
        before = now


@pytest.mark.parametrize("task", NAMES)
def test_starts_vary_and_leave_the_task_to_be_done(task: str) -> None:
    env = table(task)
    starts = []
    for seed in range(12):
        observation, info = env.reset(seed=seed)
        assert info["success"] is False
        assert info["tasks"] == ()
        starts.append(np.concatenate([observation["proprio"][:6], observation["scene"][[0, 1, 3, 6, 7]]]))
    assert (np.ptp(starts, axis=0) > 1e-3).all()


@pytest.mark.parametrize("task", NAMES)
def test_doing_nothing_solves_nothing(task: str) -> None:
    env = table(task)
    for seed in range(3):
        env.reset(seed=seed)
        *_, info = [env.step(STILL) for _ in range(60)][-1]
        assert info["tasks"] == ()


def test_no_field_of_play_is_constant() -> None:
    """Over a few episodes every number moves, so none is wired to the wrong joint or to nothing."""
    env = PlayTable(task=None)
    rows = []
    for seed in range(6):
        env.reset(seed=seed)
        observations = [env.step(action)[0] for action in wandering(seed, 30)]
        rows += [np.concatenate([one["proprio"], one["scene"]])[None] for one in observations]
    for task in ("turn_on_led", "turn_on_lightbulb"):
        observation, _ = table(task).reset(seed=0)
        expert = table(task).expert()
        for _ in range(60):
            observation, *_ = table(task).step(expert.act(observation))
            rows.append(np.concatenate([observation["proprio"], observation["scene"]])[None])
    spread = dict(zip((*PROPRIO_NAMES, *SCENE_NAMES), np.ptp(np.concatenate(rows), axis=0), strict=True))
    assert {name for name, width in spread.items() if width == 0} == set()


def test_the_observation_is_the_snapshot_in_the_specs_order() -> None:
    env = table("open_drawer")
    observation, _ = env.reset(seed=0)
    snapshot = env.snapshot()
    np.testing.assert_array_equal(observation["proprio"][:3], np.float32(snapshot.tcp_position))
    np.testing.assert_array_equal(
        observation["proprio"][3:6], np.float32(quaternion_to_euler(snapshot.tcp_quaternion)), "a bag's way"
    )
    assert observation["proprio"][PROPRIO_NAMES.index("gripper_width")] == pytest.approx(0.08)
    np.testing.assert_array_equal(observation["scene"], np.float32(snapshot.scene))
    np.testing.assert_allclose(
        euler_to_matrix(snapshot.tcp_euler), quaternion_to_matrix(snapshot.tcp_quaternion), atol=1e-9
    )


def test_a_snapshot_is_not_written_to_later() -> None:
    env = table("open_drawer")
    env.reset(seed=0)
    taken = env.snapshot()
    arrays = {name: value for name, value in vars(taken).items() if isinstance(value, np.ndarray)}
    kept = {name: value.copy() for name, value in arrays.items()}
    for action in wandering(0, 5):
        env.step(action)
    assert len(kept) == 7
    for name, value in arrays.items():
        np.testing.assert_array_equal(value, kept[name], name)


def test_the_environment_is_made_by_its_id() -> None:
    env = gymnasium.make("diwa_sim:PlayTable-v0", task="turn_on_led", max_episode_steps=3)
    env.reset(seed=0)
    ends = [env.step(STILL)[2:4] for _ in range(3)]
    assert ends == [(False, False), (False, False), (False, True)]
    assert env.unwrapped.contract == Spec()
    env.close()


def test_success_pays_one_and_terminates_and_play_never_ends() -> None:
    env = table("turn_on_led")
    observation, _ = env.reset(seed=0)
    expert = env.expert()
    reward, terminated = 0.0, False
    while not terminated:
        assert reward == 0.0
        observation, reward, terminated, _, info = env.step(expert.act(observation))
    assert reward == 1.0
    assert info["success"] is True
    assert info["tasks"] == ("turn_on_led",)
    play = table(None)
    for seed in range(20):  # until a start has the LED off: then the same motion turns it on
        observation, _ = play.reset(seed=seed)
        if observation["scene"][SCENE["led"]] == 0:
            break
    expert = play.expert(task="turn_on_led")
    for _ in range(60):
        observation, reward, terminated, _, info = play.step(expert.act(observation))
        assert (reward, terminated) == (0.0, False)
    assert "turn_on_led" in info["tasks"]


def test_an_episode_goes_on_after_its_success_where_it_is_told_to() -> None:
    env = PlayTable("turn_on_led", ends_at_success=False)
    observation, info = env.reset(seed=3)
    expert = env.expert()
    achieved = []
    for _ in range(90):
        observation, _, terminated, _, info = env.step(expert.act(observation))
        assert not terminated
        achieved.append(info["success"])
    assert achieved == sorted(achieved), "once achieved, it stays so"
    assert achieved[-3]


def test_the_info_carries_the_accepted_action() -> None:
    env = table("open_drawer")
    env.reset(seed=0)
    *_, info = env.step(np.array([3.0, -0.5, 0, 0, 0, 0, 0.2]))
    np.testing.assert_array_equal(info["action"], np.float32([1, -0.5, 0, 0, 0, 0, 1]))
    np.testing.assert_array_equal(env.snapshot().accepted_action, info["action"])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_action_that_is_not_finite_is_refused_and_nothing_moves(bad: float) -> None:
    env = table("open_drawer")
    env.reset(seed=0)
    before = env.snapshot()
    with pytest.raises(ValueError, match="not finite"):
        env.step(np.array([0, 0, bad, 0, 0, 0, 1]))
    assert env.snapshot() is before


def test_what_does_not_exist_is_named_with_what_was_probably_meant() -> None:
    with pytest.raises(InputError, match="did you mean 'open_drawer'"):
        PlayTable(task="open_draw")
    with pytest.raises(ConfigError, match="did you mean 'medium'"):
        PlayTable(start="medum")
    with pytest.raises(ConfigError, match="from 0 to 2"):
        PlayTable(start=2.5)


def test_a_step_before_the_first_reset_is_refused() -> None:
    with pytest.raises(gymnasium.error.ResetNeeded):
        PlayTable().step(STILL)


def test_narrow_starts_are_closer_together_than_wide_ones_and_far_ones_further_apart() -> None:
    spread = {}
    for start in ("narrow", "wide", "far"):
        env = PlayTable(start=start)
        spread[start] = np.std([env.reset(seed=seed)[0]["proprio"][:3] for seed in range(12)], axis=0)
    assert (spread["narrow"] < 0.5 * spread["wide"]).all()
    assert (spread["wide"] < 0.8 * spread["far"]).all()


def test_the_state_mode_needs_no_opengl() -> None:
    """Run apart, with every OpenGL binding made impossible to import."""
    script = (
        "import sys; sys.modules.update({'glfw': None, 'OpenGL': None});"
        "from diwa_sim.environment import PlayTable;"
        "env = PlayTable(); env.reset(seed=0); print(env.step([0, 0, 0, 0, 0, 0, 1])[0]['scene'].shape)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(24,)", done.stderr


def open_drawer_without(geom: str | None) -> float:
    """How far the expert opens the drawer when nothing can touch the named geom."""
    env = PlayTable(task="open_drawer")
    if geom is not None:
        env._model.geom(geom).conaffinity = 0
    observation, _ = env.reset(seed=2)
    expert, start = env.expert(), env.snapshot().scene[SCENE["drawer"]]
    for _ in range(60):
        observation, *_ = env.step(expert.act(observation))
    return float(env.snapshot().scene[SCENE["drawer"]] - start)


@pytest.mark.parametrize(
    ("vector", "value", "reason"),
    [
        ("qpos", np.nan, "a position is not finite or huge"),
        ("qvel", 1e12, "a velocity is not finite or huge"),
        ("qvel", 1e9, "an acceleration is not finite or huge"),
    ],
)
def test_a_diverged_state_is_said_and_pays_no_success(
    vector: str, value: float, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo logs where it stands
    env = PlayTable(task="open_drawer")
    env.reset(seed=2)
    env.step(STILL)
    sound = env.snapshot()
    getattr(env._data, vector)[0] = value
    with pytest.raises(DivergenceError, match=rf"diverged in step 2 of the episode with seed 2 \(.*{reason}"):
        env.step(STILL)
    assert env.snapshot() is sound
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(STILL)
    np.testing.assert_array_equal(rollout(env, 5, wandering(1, 5)), rollout(table("open_drawer"), 5, wandering(1, 5)))


def test_the_drawer_opens_by_contact_with_its_handle_alone() -> None:
    assert open_drawer_without(None) > 0.12
    assert abs(open_drawer_without("drawer_handle")) < 0.01


def test_each_fresh_press_toggles_the_led_and_holding_the_button_does_not() -> None:
    env = table("turn_on_led")
    observation, _ = env.reset(seed=1)
    press = [1.0] * 12 + [-1.0] * 12
    lit = []
    expert = env.expert()
    while not expert.done:
        observation, *_ = env.step(expert.act(observation))
        expert.act(observation)
    for down in press * 2:
        observation, *_ = env.step(np.array([0, 0, -0.5 * down, 0, 0, 0, -1]))
        lit.append(bool(observation["scene"][SCENE["led"]]))
    toggles = np.flatnonzero(np.diff(lit))
    assert lit[0] is True
    assert len(toggles) == 1, "held down at first: no toggle; released and pressed again: one"
    assert toggles[0] > 24
