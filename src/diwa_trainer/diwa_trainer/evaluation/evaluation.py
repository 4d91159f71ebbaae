"""How often a policy succeeds: many seeded episodes in parallel processes, the same result however many there are."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from diwa_runtime.bundle import Bundle
from diwa_runtime.bundle.session import PolicySession
from diwa_runtime.errors import InputError, one_line
from diwa_runtime.same_spec import check_same_spec
from diwa_runtime.spec import Spec
from diwa_trainer.evaluation.agents import Agent, BundleAgent, ExpertAgent, RandomAgent, ZeroAgent
from diwa_trainer.evaluation.env_steps import count_env_steps
from diwa_trainer.evaluation.environments import Environment, environment_spec, make_environment, take_a_step, takes
from diwa_trainer.evaluation.episodes import EpisodeResult, run_episode
from diwa_trainer.evaluation.settings import EvaluateConfig
from diwa_trainer.evaluation.statistics import wilson_interval
from diwa_trainer.evaluation.video import encode_mp4
from diwa_trainer.runs.result_files import FORMAT_VERSION

_THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")

Progress = Callable[[int, int], None]
"""Told after each episode how many were run and how many of them succeeded."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        task: what the environment was asked to count; None when it was not told.
        bundle: the bundle's sha256 and what it says of itself; None for a baseline.
        videos: MP4 files by seed.
    """

    config: EvaluateConfig
    task: str | None
    bundle: dict[str, Any] | None
    episodes: tuple[EpisodeResult, ...]
    videos: dict[int, bytes]

    @property
    def successes(self) -> int:
        """How many episodes succeeded."""
        return sum(episode.success for episode in self.episodes)

    def to_json(self) -> dict[str, Any]:
        """Return the plain data of `evaluation.json`; nothing in it depends on the clock or the machine."""
        return {
            "format_version": FORMAT_VERSION,
            "policy": self.config.policy,
            **self.config.terms(self.task),
            "successes": self.successes,
            "episodes": len(self.episodes),
            "interval95": list(wilson_interval(self.successes, len(self.episodes))),
            "mean_length": float(np.mean([episode.length for episode in self.episodes])),
            "steps_after_success": self.config.steps_after_success,
            "bundle": self.bundle,
            "classifier": self._classifier() if self.bundle else None,
            "videos": {str(seed): video_name(seed) for seed in self.videos},
            "episodes_detail": [asdict(episode) for episode in self.episodes],
        }

    def _classifier(self) -> dict[str, int]:
        """In how many episodes the policy's own reward fired: on failures these are false alarms."""
        fired = [episode for episode in self.episodes if episode.first_fired is not None]
        right = sum(episode.success for episode in fired)
        return {
            "fired_on_success": right,
            "successes": self.successes,
            "fired_on_failure": len(fired) - right,
            "failures": len(self.episodes) - self.successes,
        }


def video_name(seed: int) -> str:
    """Return where in the run folder an episode's film lies."""
    return f"videos/seed_{seed}.mp4"


def evaluate(config: EvaluateConfig, progress: Progress | None = None) -> Evaluation:
    """Run all episodes and gather the results in the order of the seeds.

    Raises:
        ConfigError: the environment cannot be made, or offers no expert.
        BundleError: the bundle is damaged.
        SpecMismatchError: bundle and environment disagree.
        InputError: the environment is not of contract 1 or fails, or a video cannot be drawn.
    """
    bundle = Bundle.load(config.bundle) if config.bundle else None
    task = task_of(config, bundle)
    episodes, videos, successes = [], {}, 0
    with contextlib.closing(_played(config, task)) as played:
        for episode, video in played:
            episodes.append(episode)
            successes += episode.success
            if video is not None:
                videos[episode.seed] = video
            if progress is not None:
                progress(len(episodes), successes)
    return Evaluation(config, task, _about(bundle) if bundle else None, tuple(episodes), videos)


def try_environment(config: EvaluateConfig, skill: str, spec: Spec, named: str) -> None:
    """Make the environment, hold still in it for a step, and draw a picture if films are asked for.

    Args:
        config: of the evaluation to come.
        skill: that the policy is to have.
        spec: that it will have, of what is `named`.

    Raises:
        ConfigError: the environment cannot be made.
        SpecMismatchError: it is of another Spec.
        InputError: it fails, does not return what it should or declares what is no Spec, or a video cannot be drawn.
    """
    task = config.task or (skill if takes(config.environment, "task") else None)
    environment = _make(config, task, render=config.videos > 0)
    try:
        declared = environment_spec(environment)
        if declared is None:
            print(
                f"warning: {config.environment} declares no Spec (attribute contract): that its rate, its actions and "
                "the order of its scene are the recordings' is not checked",
                flush=True,
            )
        else:
            check_same_spec(spec, named, declared, config.environment, "environment")
        environment.checked = spec
        take_a_step(environment, config.first_seed)
        if config.videos:
            _frame(environment)
    finally:
        environment.close()


def task_of(config: EvaluateConfig, bundle: Bundle | None) -> str | None:
    """Return the task that the environment is asked for; None: it is not told one."""
    return config.task or (bundle.manifest.skill if bundle and takes(config.environment, "task") else None)


def _about(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "sha256": bundle.sha256,
        "skill": manifest.skill,
        "success_threshold": manifest.success_threshold,
        "provenance": dict(manifest.provenance),
    }


_Played = tuple[EpisodeResult, bytes | None]


def _played(config: EvaluateConfig, task: str | None) -> Generator[_Played, None, None]:
    """Yield every episode's result and film, in the order of the seeds."""
    jobs = [(seed, index < config.videos) for index, seed in enumerate(config.seeds)]
    workers = min(config.workers, len(jobs))
    if workers == 1:
        with contextlib.closing(_Player(config, task)) as player:
            yield from (player.play(*job) for job in jobs)
        return
    # Spawned, not forked: a forked child inherits locks and OpenGL contexts that it cannot use.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (config, task))
    with _one_thread_each():
        try:
            for played in pool.map(_play, jobs):
                count_env_steps(played[0].length + played[0].watched)  # taken on this process's behalf
                yield played
        except BrokenProcessPool:
            raise InputError(f"{config.environment}: a worker process died; see why with --workers 1") from None
        finally:
            pool.shutdown(cancel_futures=True)


class _Player:
    """A process's own environment and policy."""

    def __init__(self, config: EvaluateConfig, task: str | None) -> None:
        self._config, self._task = config, task
        self._bundle = Bundle.load(config.bundle) if config.bundle else None
        self._environments: dict[bool, tuple[Environment, Agent]] = {}
        self._after = config.steps_after_success if self._bundle else 0  # only a policy's own reward asks for them

    def play(self, seed: int, filmed: bool) -> _Played:
        """Run the episode of that seed; also return its film where one is wanted."""
        environment, agent = self._parts(filmed)
        rate_hz = self._spec(environment).rate_hz
        frames: list[NDArray[np.uint8]] = []
        result = run_episode(
            environment,
            agent,
            seed,
            threshold=self._bundle.manifest.success_threshold if self._bundle else 1.0,
            rate_hz=rate_hz,
            max_steps=self._config.max_steps,
            steps_after_success=self._after,
            film=(lambda: frames.append(_frame(environment))) if filmed else None,
        )
        if len({frame.shape for frame in frames}) > 1:
            raise InputError(f"{self._config.environment}: render() returned images of different sizes; use --videos 0")
        return result, encode_mp4(frames, rate_hz) if filmed else None

    def close(self) -> None:
        """Close the environments."""
        for environment, _ in self._environments.values():
            environment.close()

    def _parts(self, render: bool) -> tuple[Environment, Agent]:
        """Environments that draw are made only for the episodes that are filmed: drawing may need a GPU or Mesa."""
        if render not in self._environments:
            environment = _make(self._config, self._task, self._after, render=render)
            if self._bundle is not None:
                environment.checked = self._bundle.spec
            self._environments[render] = environment, self._make_agent(environment)
        return self._environments[render]

    def _make_agent(self, environment: gymnasium.Env[Any, Any]) -> Agent:
        if self._bundle is not None:
            theirs = self._spec(environment)
            check_same_spec(
                self._bundle.spec, str(self._config.bundle), theirs, self._config.environment, "environment"
            )
            return BundleAgent(PolicySession(self._bundle))
        if self._config.policy == "expert":
            return ExpertAgent(environment)
        return RandomAgent() if self._config.policy == "random" else ZeroAgent()

    def _spec(self, environment: gymnasium.Env[Any, Any]) -> Spec:
        """The environment's Spec, or that of the bundle where the environment declares none."""
        declared = environment_spec(environment)
        return declared or (self._bundle.spec if self._bundle else Spec())


def _make(config: EvaluateConfig, task: str | None, after: int = 0, *, render: bool) -> Environment:
    """Make the environment that plays on for so many steps after success, if it can be told to."""
    kwargs: dict[str, Any] = {"task": task} if task else {}
    if after and takes(config.environment, "ends_at_success", by_name=True):
        kwargs["ends_at_success"] = False
    kwargs |= config.environment_kwargs
    return make_environment(config.environment, kwargs, render)


def _frame(environment: gymnasium.Env[Any, Any]) -> NDArray[np.uint8]:
    try:
        frame = environment.render()
    except Exception as error:  # OpenGL's bindings raise errors of many unrelated types
        reason = one_line(error) or type(error).__name__
        raise InputError(
            f"no video can be drawn here ({reason[:200]}); use --videos 0, or, with MuJoCo, set MUJOCO_GL"
        ) from error
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else f"a {type(frame).__name__}"
        raise InputError(f"render() returned {found}, must be uint8 (height, width, 3); use --videos 0")
    return frame


_player: _Player | None = None
_player_arguments: tuple[EvaluateConfig, str | None] | None = None


def _start_worker(config: EvaluateConfig, task: str | None) -> None:
    """Only note what to do: an error here would break the pool without a word. Ctrl-C is the parent's business."""
    global _player_arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _player_arguments = config, task


def _play(job: tuple[int, bool]) -> _Played:
    global _player
    if _player is None:
        assert _player_arguments is not None
        _player = _Player(*_player_arguments)
    return _player.play(*job)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that are started inside use one thread for linear algebra and software rendering."""
    before = {name: os.environ.get(name) for name in _THREAD_SETTINGS}
    os.environ.update(dict.fromkeys(_THREAD_SETTINGS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
