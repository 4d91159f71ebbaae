"""One seeded episode of a policy in a Gymnasium environment of ours, and what came of it.

Torch-free, so that the worker processes of an evaluation start quickly.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from numpy.typing import NDArray

from diwa_runtime.errors import ConfigError, DiwaError, InputError, one_line
from diwa_runtime.kinds import shown
from diwa_runtime.spec import Spec
from diwa_trainer.evaluation.agents import Agent
from diwa_trainer.evaluation.env_steps import count_env_steps

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


class Environment(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose steps are counted (`env_steps`), and whose errors say in which episode they came up."""

    def __init__(self, environment: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(environment)
        self._name, self._steps = name, 0
        self._seed: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begin an episode."""
        self._seed, self._steps = seed, 0
        with self._reported("reset"):
            return super().reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        """Count, then take the step."""
        count_env_steps()
        self._steps += 1
        with self._reported(f"step {self._steps}"):
            return super().step(action)

    @contextlib.contextmanager
    def _reported(self, where: str) -> Iterator[None]:
        try:
            yield
        except DiwaError:
            raise
        except Exception as error:  # an environment is anybody's code, and its errors of any kind
            line = traceback.extract_tb(error.__traceback__)[-1]
            raise InputError(
                f"{self._name}: {where} of the episode with seed {self._seed} failed with {type(error).__name__} "
                f"({_reason(error)}; {Path(line.filename).name}, line {line.lineno})"
            ) from error


def make_environment(
    environment: str, kwargs: Mapping[str, Any], max_steps: int, render: bool = False
) -> gymnasium.Env[Any, Any]:
    """Build the environment `module:EnvId`, which ends episodes at `max_steps` and whose steps are counted.

    Raises:
        ConfigError: no such module or id, or it does not take these arguments.
    """
    mode = {"render_mode": "rgb_array"} if render else {}
    try:
        made = gymnasium.make(environment, max_episode_steps=max_steps, disable_env_checker=True, **{**kwargs, **mode})
    except DiwaError as error:
        raise type(error)(f"environment {environment!r}: {error}") from error
    except Exception as error:  # an environment is anybody's code, and its errors of any kind
        hint = "; --videos 0 asks for no pictures" if render else ""
        said = f"environment {environment!r} cannot be made with {shown(dict(kwargs))} ({_reason(error)}){hint}"
        raise ConfigError(said) from error
    return Environment(made, environment)


def takes(environment: str, argument: str, *, by_name: bool = False) -> bool:
    """Whether the constructor of the environment `module:EnvId` has that argument, or, unless `by_name`, takes any.

    Raises:
        ConfigError: no such module or id.
    """
    module, _, name = environment.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        entry_point = gymnasium.spec(name).entry_point
        make = load_env_creator(entry_point) if isinstance(entry_point, str) else entry_point
        parameters = inspect.signature(make).parameters if make is not None else {}
    except Exception as error:  # likewise: its module is run
        raise ConfigError(f"environment {environment!r} cannot be made ({_reason(error)})") from error
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return argument in parameters or (takes_any and not by_name)


def _reason(error: Exception) -> str:
    return one_line(error)[:200] or type(error).__name__


def environment_spec(environment: gymnasium.Env[Any, Any]) -> Spec | None:
    """Return the Spec that the environment declares as its attribute `contract`, if it does.

    Raises:
        InputError: what it declares is none.
    """
    contract = getattr(environment.unwrapped, "contract", None)
    if not (contract is None or isinstance(contract, Spec)):
        raise InputError(
            f"{type(environment.unwrapped).__name__}: its attribute contract is a {type(contract).__name__}, must be a "
            "diwa_runtime Spec; see Spec.load"
        )
    return contract


def run_episode(
    environment: gymnasium.Env[Any, Any],
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
        InputError: the environment does not report `info["success"]`.
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
        executed = np.asarray(info.get("action", action), dtype=np.float32)
        ended = terminated or truncated
        watched, length = (watched + 1, length) if success else (watched, length + 1)
        success = success or _success(info, environment)
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


def _success(info: Mapping[str, Any], environment: gymnasium.Env[Any, Any]) -> bool:
    if "success" not in info:
        raise InputError(f"{environment.spec and environment.spec.id}: its info has no 'success'; wrap it to add one")
    return bool(info["success"])
