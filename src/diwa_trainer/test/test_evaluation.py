"""An evaluation counts what happened, feeds back what was accepted, and does not depend on how it is run."""

import dataclasses
import datetime
import json
import pickle
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy_bundle import ToyWeights, write_toy_bundle

from diwa_runtime.actions import HOLD_ACTION
from diwa_runtime.bundle import MANIFEST, Bundle
from diwa_runtime.bundle.manifest import GRAPHS
from diwa_runtime.bundle.session import PolicySession
from diwa_runtime.errors import BundleError, ConfigError, InputError, SpecMismatchError, StorageError
from diwa_runtime.spec import Spec
from diwa_trainer.evaluation.agents import BundleAgent, RandomAgent
from diwa_trainer.evaluation.env_steps import env_steps_taken
from diwa_trainer.evaluation.environments import make_environment
from diwa_trainer.evaluation.episodes import run_episode
from diwa_trainer.evaluation.evaluation import evaluate
from diwa_trainer.evaluation.settings import EvaluateConfig
from diwa_trainer.evaluation.statistics import wilson_interval
from diwa_trainer.evaluation.video import encode_mp4
from diwa_trainer.verbs import evaluate as verb

POINT = "point_environment:Point-v0"
STEPS = 12


@pytest.fixture(autouse=True)
def _point_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def walking_bundle(folder: Path, **changes) -> Path:
    """A bundle that walks towards zero and takes a position below -0.3 for success."""
    random = ToyWeights.random(Spec(), latent_size=2)
    zeros = {name: np.zeros_like(getattr(random, name)) for name in ("carry", "observe", "act", "decide", "judge")}
    zeros["observe"][0, 0] = 1.0  # latent[0] is the position
    zeros["act"][0, 1] = 1.0  # latent[1] is what was accepted
    zeros["decide"][0, 0] = -20.0
    zeros["judge"][0] = -100.0
    weights = ToyWeights(**{**zeros, "judge_bias": -30.0, "noise_scale": 0.01, **changes})
    write_toy_bundle(folder / "bundle", Spec(), weights)
    return folder / "bundle"


def config(folder: Path, **changes) -> EvaluateConfig:
    settings = {
        "output": folder / "run",
        "bundle": None if changes.keys() & {"policy", "bundle"} else walking_bundle(folder),
        "environment": POINT,
        "episodes": 20,
        "max_steps": STEPS,
        "workers": 1,
        "videos": 0,
    }
    return EvaluateConfig(**{**settings, **changes})


def starts(settings: EvaluateConfig) -> np.ndarray:
    environment = make_environment(POINT, {})
    return np.array([environment.reset(seed=seed)[0]["proprio"][0] for seed in settings.seeds])


def test_counts_are_those_of_a_walk_that_can_be_worked_out(tmp_path):
    settings = config(tmp_path)
    evaluation = evaluate(settings)
    distance = np.abs(starts(settings))
    # Half of an action is accepted: 0.05 a step, until less than 0.05 is left.
    reachable = distance - 0.05 * STEPS < 0.05
    successes = [episode.success for episode in evaluation.episodes]
    np.testing.assert_array_equal(successes, reachable)
    assert 0 < sum(successes) < 20
    data = evaluation.to_json()
    assert (data["successes"], data["episodes"]) == (sum(successes), 20)
    assert data["interval95"] == list(wilson_interval(sum(successes), 20))
    lengths = np.array([episode.length for episode in evaluation.episodes])
    assert set(lengths[~reachable]) == {STEPS}
    far = reachable & (distance > 0.1)
    np.testing.assert_array_equal(lengths[far], np.ceil((distance[far] - 0.05) / 0.05))
    assert data["mean_length"] == lengths.mean()
    assert evaluation.episodes[0].seconds == lengths[0] / 30


def test_false_alarms_are_firings_in_failed_episodes(tmp_path):
    settings = config(tmp_path)
    evaluation = evaluate(settings)
    position = starts(settings)
    for episode, start in zip(evaluation.episodes, position, strict=True):
        assert (episode.first_fired is not None) == (start < -0.3)
        assert episode.first_fired in (0, None)
        assert (episode.max_probability > 0.5) == (start < -0.3)
    failed = np.array([not episode.success for episode in evaluation.episodes])
    classifier = evaluation.to_json()["classifier"]
    assert classifier["fired_on_failure"] == (failed & (position < -0.3)).sum() > 0
    assert classifier["fired_on_success"] == (~failed & (position < -0.3)).sum() > 0
    assert classifier["failures"] == failed.sum()


def test_last_observation_is_judged_too(tmp_path):
    """The reward may fire on the very observation that ends the episode."""
    weights = {"judge": np.array([100, 0], np.float32), "judge_bias": 20.0}  # fires above -0.2
    settings = config(tmp_path, bundle=walking_bundle(tmp_path, **weights), max_steps=1, episodes=200)
    fired = [episode.first_fired for episode in evaluate(settings).episodes]
    one_step_away = (starts(settings) > -0.249) & (starts(settings) < -0.201)
    assert {step for step, close in zip(fired, one_step_away, strict=True) if close} == {1}


@pytest.mark.parametrize("workers", [2, 3])
def test_result_does_not_depend_on_the_number_of_processes(tmp_path, workers):
    one = evaluate(config(tmp_path, episodes=6, videos=1))
    many = evaluate(config(tmp_path, episodes=6, videos=1, workers=workers))
    assert many.to_json() == one.to_json()
    assert many.videos == one.videos


@pytest.mark.parametrize("workers", [1, 2])
def test_steps_are_counted_in_whichever_process_they_are_taken(tmp_path, workers):
    before = env_steps_taken()
    episodes = evaluate(config(tmp_path, episodes=3, workers=workers)).episodes
    assert env_steps_taken() - before == sum(episode.length for episode in episodes)


def test_policy_is_told_what_was_accepted(tmp_path):
    """The filter's second latent is the accepted translation: hold at first, then the environment's half."""
    session, seen = PolicySession(Bundle.load(walking_bundle(tmp_path))), []

    class Watched(BundleAgent):
        def act(self, observation, executed):
            action = super().act(observation, executed)
            seen.append((session.latent[1], action[0]))
            return action

    far = next(seed for seed in range(100) if abs(starts(config(tmp_path, first_seed=seed, episodes=1))[0]) > 0.6)
    run_episode(make_environment(POINT, {}), Watched(session), far, threshold=0.5, rate_hz=30, max_steps=STEPS)
    latents, asked = np.array(seen).T
    assert latents[0] == HOLD_ACTION[0]
    assert np.abs(asked[:3]).min() == 1
    np.testing.assert_array_equal(latents[1:4], asked[:3] / 2)


def test_films_show_every_step_of_the_first_episodes(tmp_path):
    evaluation = evaluate(config(tmp_path, episodes=3, videos=2))
    assert list(evaluation.videos) == [100_000, 100_001]
    (tmp_path / "film.mp4").write_bytes(evaluation.videos[100_000])
    film = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == evaluation.episodes[0].length + 1
    assert film.get(cv2.CAP_PROP_FPS) == 30
    shown, frame = film.read()
    assert shown
    assert frame.shape == (240, 320, 3)
    brightest = frame[120].max(-1).argmax() / 320 * 64
    assert brightest == pytest.approx(32 + 28 * starts(evaluation.config)[0], abs=1.5)


def test_same_frames_give_the_same_film():
    frames = [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(5)]
    assert encode_mp4(frames, 30) == encode_mp4(frames, 30)
    with pytest.raises(ValueError, match="shapes"):
        encode_mp4([*frames, np.zeros((4, 4, 3), np.uint8)], 30)


def test_nothing_is_drawn_without_films(tmp_path):
    blind = {"environment_kwargs": {"draws": False}, "episodes": 2}
    assert len(evaluate(config(tmp_path, **blind)).episodes) == 2
    with pytest.raises(InputError, match=r"no OpenGL here.*--videos 0"):
        evaluate(config(tmp_path, videos=1, **blind))


def test_baselines_stand_still_drift_and_solve(tmp_path):
    settings = config(tmp_path, policy="zero", task="open_drawer")
    still = evaluate(settings)
    np.testing.assert_array_equal([e.success for e in still.episodes], np.abs(starts(settings)) < 0.05)
    assert still.to_json()["classifier"] is None
    solved = evaluate(dataclasses.replace(settings, policy="expert", max_steps=40))
    assert solved.successes == 20
    drifting = dataclasses.replace(settings, policy="random")
    assert evaluate(drifting).to_json() == evaluate(drifting).to_json()
    assert evaluate(drifting).to_json()["episodes_detail"] != still.to_json()["episodes_detail"]


class Scripted:
    """Environment and agent in one: it ends after `ends` steps, and is as sure as it is told of each observation."""

    spec = None

    def __init__(self, ends: int, sure: list[float], success_at: int | None = None) -> None:
        self.ends, self.sure, self.success_at = ends, sure, success_at
        self.step_number, self.filmed, self.seeds, self.heard = 0, 0, [], []

    def reset(self, seed):
        self.seeds.append(seed)
        return {}, {"success": False}

    def act(self, observation, executed):  # noqa: ARG002
        self.heard.append(executed)
        return np.zeros(7, np.float32)

    watch = act

    def film(self):
        self.filmed += 1

    @property
    def success_probability(self):
        return self.sure[len(self.heard) - 1]

    def step(self, action):
        self.step_number += 1
        info = {"success": self.step_number == self.success_at, "action": action + self.step_number}
        return {}, 0.0, self.step_number == self.ends, False, info


@pytest.mark.parametrize(("success_at", "length"), [(None, 3), (2, 2), (3, 3)])
def test_an_episode_ends_at_success_or_where_the_environment_does(success_at, length):
    played = Scripted(3, [0.2, 0.5, 0.9, 0.4], success_at)

    result = run_episode(played, played, 8, threshold=0.5, rate_hz=15.0, max_steps=9)

    assert played.seeds == [8, 8], "of the environment and of the policy"
    assert (result.seed, result.success, result.length) == (8, success_at is not None, length)
    assert result.seconds == length / 15
    assert (result.max_probability, result.first_fired) == (0.9, 2), "a half is not more than a half"
    assert [None if one is None else int(one[0]) for one in played.heard] == [None, 1, 2, 3][: length + 1]


@pytest.mark.parametrize(
    ("sure", "after", "ends", "fired", "watched"),
    [
        ([0, 0, 0, 0, 0.9], 8, 20, 4, 2),  # seen two steps after the success, and no step more is taken
        ([0, 0, 0, 0, 0.9], 2, 20, 4, 2),
        ([0, 0, 0, 0, 0.9], 1, 20, None, 1),
        ([0, 0, 0, 0, 0.9], 0, 20, None, 0),
        ([0, 0, 0.9, 0], 8, 20, 2, 0),  # at once
        ([0, 0.9, 0, 0], 8, 20, 1, 0),  # too early: there is nothing to wait for
        ([0, 0, 0, 0.7, 0.9], 8, 3, 3, 1),  # the environment ends before
        ([0, 0, 0, 0.2, 0.9], 8, 2, None, 0),  # at the success itself
    ],
)
def test_after_its_success_a_policy_is_watched_until_its_own_reward_sees_it(sure, after, ends, fired, watched):
    played = Scripted(ends, [*map(float, sure), *[0.0] * 20], success_at=2)

    result = run_episode(
        played, played, 8, threshold=0.5, rate_hz=15.0, max_steps=9, steps_after_success=after, film=played.film
    )

    assert (result.success, result.length, result.seconds) == (True, 2, 2 / 15), "whatever comes after"
    assert (result.first_fired, result.watched) == (fired, watched)
    assert played.step_number == 2 + watched
    assert [None if one is None else int(one[0]) for one in played.heard] == [None, *range(1, 3 + watched)]
    assert played.filmed == 3


def test_a_failure_is_not_watched_and_ends_at_its_limit():
    played = Scripted(50, [0.0] * 50)

    result = run_episode(played, played, 8, threshold=0.5, rate_hz=15.0, max_steps=9, steps_after_success=8)

    assert (result.success, result.length, result.watched, played.step_number) == (False, 9, 0, 9)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("ends_anyway", [False, True])
def test_steps_after_success_count_for_the_classifier_and_as_steps_alone(tmp_path, ends_anyway, workers):
    """The reward fires below 0.02, and success is within 0.05, so that from above it fires after the success."""
    bundle = walking_bundle(tmp_path, judge=np.array([-1000, 0], np.float32), judge_bias=20.0)
    kwargs = {"ends_at_success": True} if ends_anyway else {}
    settings = config(tmp_path, bundle=bundle, workers=workers, environment_kwargs=kwargs, max_steps=40)
    blind = evaluate(dataclasses.replace(settings, steps_after_success=0))
    before = env_steps_taken()

    watching = evaluate(dataclasses.replace(settings, steps_after_success=5))

    assert env_steps_taken() - before == sum(one.length + one.watched for one in watching.episodes)
    assert (sum(one.watched for one in watching.episodes) > 0) == (not ends_anyway)
    assert watching.successes == 20
    for one, other in zip(watching.episodes, blind.episodes, strict=True):
        assert (one.success, one.length, one.seconds) == (other.success, other.length, other.seconds)
    fired, fired_before = (one.to_json()["classifier"]["fired_on_success"] for one in (watching, blind))
    assert fired_before < 20
    assert fired == (fired_before if ends_anyway else 20)


def test_random_motion_is_of_unit_variance_and_cut_at_full_speed():
    agent = RandomAgent(memory=0.5)
    agent.reset(3)

    motion = np.array([agent.act({}, None) for _ in range(4000)])

    assert np.abs(motion).max() == 1
    assert (np.abs(motion) == 1).mean() == pytest.approx(0.317, abs=0.02)  # of a normal number beyond one


def test_random_motion_is_smooth_and_seeded():
    agent = RandomAgent()

    def motion(seed):
        agent.reset(seed)
        return np.array([agent.act({}, None) for _ in range(2000)])

    first = motion(1)
    np.testing.assert_array_equal(motion(1), first)
    assert not np.array_equal(motion(2), first)
    assert (
        np.abs(np.diff(first[:, 0])).mean()
        < 0.5 * np.abs(np.diff(np.random.default_rng(0).permutation(first[:, 0]))).mean()
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_disagreeing_specs_are_refused_even_from_a_worker(tmp_path, workers):
    with pytest.raises(SpecMismatchError, match="rate_hz"):
        evaluate(config(tmp_path, environment_kwargs={"rate_hz": 20.0}, workers=workers))


def test_worker_that_dies_is_reported(tmp_path):
    with pytest.raises(InputError, match="a worker process died"):
        evaluate(config(tmp_path, environment_kwargs={"dies": True}, workers=2))


@pytest.mark.parametrize(("fails_at", "where"), [(0, "reset"), (2, "step 2")])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_environment_is_one_line_that_says_where_it_came_up(tmp_path, workers, fails_at, where):
    """So that its author finds the line, and can play that episode alone."""
    settings = config(tmp_path, environment_kwargs={"fails_at": fails_at}, first_seed=7, episodes=3, workers=workers)
    said = rf"Point-v0: {where} of the episode with seed 7 failed with ZeroDivisionError \(the solver diverged; "
    with pytest.raises(InputError, match=said + r"point_environment.py, line \d+\)$"):
        evaluate(settings)


def test_an_argument_that_results_cannot_hold_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(
        ConfigError, match=r"environment_kwargs: Object of type date .*; write it as a text or a number"
    ):
        config(tmp_path, environment_kwargs={"day": datetime.date(2024, 1, 1)})


def test_an_environment_that_takes_no_task_is_told_none(tmp_path):
    """Any Gymnasium environment of the contract will do; only a task that was asked for must be taken."""
    settings = config(tmp_path, environment="point_environment:Plain-v0", episodes=3)
    assert evaluate(settings).to_json()["task"] is None
    assert evaluate(config(tmp_path, episodes=3)).to_json()["task"] == Bundle.load(settings.bundle).manifest.skill
    with pytest.raises(ConfigError, match=r"Plain-v0' cannot be made with \{'task': 'open_drawer'\}"):
        evaluate(dataclasses.replace(settings, task="open_drawer"))
    with pytest.raises(ConfigError, match=r"render_mode.*; --videos 0 asks for no pictures"):
        evaluate(dataclasses.replace(settings, videos=1))


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"environment": "point_environment:Line-v0"}, ConfigError, "Line"),
        ({"environment": "no_such_simulator:Table-v0"}, ConfigError, "no_such_simulator"),
        ({"environment": "a:b:Table-v0", "policy": "zero"}, ConfigError, "a:b:Table-v0"),
        ({"environment_kwargs": {"colour": "red"}}, ConfigError, "colour"),
        ({"environment_kwargs": {"reports_success": False}}, InputError, "success"),
        ({"environment": "point_environment:Dumb-v0", "policy": "expert"}, ConfigError, "no expert"),
    ],
)
def test_unusable_environments_are_refused(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        evaluate(config(tmp_path, **changes))


@pytest.mark.parametrize("text", ["1 / 0", "def", "raise KeyError('no licence')", "import nowhere"])
@pytest.mark.parametrize("policy", ["zero", "bundle"])
def test_an_environment_s_module_that_fails_in_any_way_is_one_line(tmp_path, monkeypatch, text, policy):
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    asked = {"policy": policy} if policy == "zero" else {}

    with pytest.raises(ConfigError, match=rf"environment '{name}:X-v0' cannot be made") as refused:
        evaluate(config(tmp_path, environment=f"{name}:X-v0", **asked))

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("executable", [RuntimeError("no ffmpeg exe"), "/nowhere/ffmpeg", "/etc/hostname", "false"])
def test_without_a_working_ffmpeg_a_film_is_one_line(monkeypatch, executable):
    def found():
        if isinstance(executable, str):
            return executable
        raise executable

    monkeypatch.setattr("diwa_trainer.evaluation.video.get_ffmpeg_exe", found)

    with pytest.raises(StorageError, match=r"a video could not be made .*; evaluate with --videos 0"):
        encode_mp4([np.zeros((48, 64, 3), np.uint8)] * 2, 30.0)


@pytest.mark.parametrize(
    "changes",
    [{"episodes": 0}, {"workers": 0}, {"max_steps": 0}, {"videos": -1}, {"policy": "zero", "bundle": Path("b")}],
)
def test_impossible_settings_are_refused(tmp_path, changes):
    with pytest.raises(ConfigError):
        config(tmp_path, **changes)


@pytest.mark.parametrize("name", [MANIFEST, *GRAPHS])
def test_pickle_in_a_bundle_is_refused_and_does_not_run(tmp_path, name):
    """F15."""

    class Canary:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "it_ran",))

    settings = config(tmp_path)
    (settings.bundle / name).write_bytes(pickle.dumps(Canary()))
    with pytest.raises(BundleError, match=name):
        verb.run(settings)
    assert not (tmp_path / "it_ran").exists()


def test_verb_writes_the_run_once(tmp_path, capsys):
    settings = config(tmp_path, episodes=3, videos=1)
    verb.run(settings)
    found = json.loads((settings.output / "evaluation.json").read_text())
    assert found == evaluate(settings).to_json()
    assert found["bundle"]["sha256"] == Bundle.load(settings.bundle).sha256
    assert (settings.output / found["videos"]["100000"]).read_bytes()[4:8] == b"ftyp"
    summary = json.loads((settings.output / "summary.json").read_text())
    assert (summary["successes"], summary["episodes"]) == (found["successes"], 3)
    capsys.readouterr()
    before = (settings.output / "evaluation.json").stat().st_mtime_ns
    verb.run(settings)
    assert (settings.output / "evaluation.json").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="episodes"):
        verb.run(dataclasses.replace(settings, episodes=4))


def test_a_result_of_another_version_is_not_taken_for_done(tmp_path):
    settings = config(tmp_path, episodes=1)
    verb.run(settings)
    path = settings.output / "evaluation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 99}))
    with pytest.raises(
        InputError, match=r"evaluation.json: format 99, this DiWA reads 1; delete .*run and make it anew"
    ):
        verb.run(settings)


def test_interrupted_verb_leaves_no_result(tmp_path, monkeypatch):
    settings = config(tmp_path, episodes=3)

    def interrupted(_config, show):
        import signal

        signal.raise_signal(signal.SIGINT)
        show(1, 0)

    monkeypatch.setattr(verb, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt, match="starts the evaluation again"):
        verb.run(settings)
    assert not (settings.output / "evaluation.json").exists()
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    verb.run(settings)
    assert (settings.output / "evaluation.json").exists()


def test_worker_processes_do_not_load_torch():
    program = "import sys, diwa_trainer.evaluation.evaluation; print({'torch', 'rclpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
