"""Environments: anybody's Gymnasium code, made by name, its steps counted, and held to what we take from it.

Torch-free, so that the worker processes of an evaluation start quickly.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator
from numpy.typing import NDArray

import diwa_runtime
import diwa_trainer
from diwa_runtime.actions import ACTION_SIZE, HOLD_ACTION
from diwa_runtime.bundle.session import check_observation
from diwa_runtime.errors import ConfigError, DiwaError, InputError, one_line
from diwa_runtime.kinds import shown
from diwa_runtime.spec import Spec
from diwa_trainer.evaluation.env_steps import count_env_steps

LARGEST_ACTION = 10.0
"""In the Spec's units, of which 1 is full scale: what lies beyond is of other units."""
_NOT_THEIRS = (
    *(sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")),
    *(str(Path(package.__path__[0])) for package in (diwa_runtime, diwa_trainer)),
)
"""Where code lies that is no environment's."""


class Environment(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose steps are counted (`env_steps`); what goes wrong in it says where.

    Attributes:
        checked: the Spec by which observations are looked at; None: they are not.
    """

    checked: Spec | None = None

    def __init__(self, environment: gymnasium.Env[Any, Any], name: str) -> None:
        super().__init__(environment)
        self._name, self._steps = name, 0
        self._seed: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Raises:
            InputError: it fails, or does not return what it should; names the episode.
        """
        self._seed, self._steps = seed, 0
        with self._reported("reset"):
            observation, info = _parts(self.env.reset(seed=seed, options=options), "(observation, info)")
            self._check(observation, info)
            return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Count, then take the step.

        Raises:
            InputError: it fails, or does not return what it should; names episode and step.
        """
        count_env_steps()
        self._steps += 1
        with self._reported(f"step {self._steps}"):
            returned = self.env.step(action)
            names = "(observation, reward, terminated, truncated, info)"
            observation, reward, terminated, truncated, info = _parts(returned, names)
            self._check(observation, info)
            info = dict(info)
            if "success" not in info:
                raise InputError("its info has no 'success'; wrap it to add one")
            info["success"] = _truth("info['success']", info["success"])
            if "action" in info:
                info["action"] = _action(info["action"])
            return observation, reward, _truth("terminated", terminated), _truth("truncated", truncated), info

    def close(self) -> None:
        """Close it; what fails then is said, and takes nothing from what was found before."""
        try:
            super().close()
        except Exception as error:
            print(f"warning: {self._name}: close failed with {_what(error)}", flush=True)

    def _check(self, observation: Any, info: Any) -> None:
        for what, value in (("observation", observation), ("info", info)):
            if not isinstance(value, Mapping):
                raise InputError(f"its {what} is a {type(value).__name__}, must be a dict")
        if self.checked is not None:
            check_observation(observation, self.checked)

    @contextlib.contextmanager
    def _reported(self, where: str) -> Iterator[None]:
        of = f"{self._name}: {where} of the episode with seed {self._seed}"
        try:
            yield
        except DiwaError as error:
            raise InputError(f"{of}: {error}") from error
        except (Exception, SystemExit) as error:  # an environment is anybody's code, and its errors of any kind
            raise InputError(f"{of} failed with {_what(error)}") from error


def make_environment(environment: str, kwargs: Mapping[str, Any], render: bool = False) -> Environment:
    """Build the environment `module:EnvId`; how long episodes are is for who runs them to say.

    Raises:
        ConfigError: no such module or id, or it does not take these arguments.
    """
    mode = {"render_mode": "rgb_array"} if render else {}
    try:
        made = gymnasium.make(environment, max_episode_steps=-1, disable_env_checker=True, **{**kwargs, **mode})
    except DiwaError as error:
        raise type(error)(f"environment {environment!r}: {error}") from error
    except (Exception, SystemExit) as error:
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
    except (Exception, SystemExit) as error:  # its module is run
        raise ConfigError(f"environment {environment!r} cannot be made ({_reason(error)})") from error
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return argument in parameters or (takes_any and not by_name)


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


def take_a_step(environment: Environment, seed: int) -> None:
    """Begin an episode and hold still for a step, to see that what comes back is what is taken from it.

    Raises:
        InputError: it is not.
    """
    environment.reset(seed=seed)
    environment.step(HOLD_ACTION.copy())


def _parts(returned: Any, names: str) -> tuple[Any, ...]:
    """Return what was returned as a tuple of as many as there are names."""
    expected = names.count(",") + 1
    if not isinstance(returned, tuple | list):
        raise InputError(f"it returned a {type(returned).__name__}, must be {names}")
    if len(returned) != expected:
        raise InputError(f"it returned {len(returned)} values, must be {names}")
    return tuple(returned)


def _truth(what: str, value: Any) -> bool:
    """Return what is true or false, or 1 or 0, be it in an array of one: of a text or a reward it cannot be told."""
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # a tensor that lies elsewhere, for one
        found = np.empty(0)
    if found.size != 1 or found.dtype.kind not in "biuf" or found.item() not in (0, 1):
        raise InputError(f"{what} is {shown(value)}, must be True or False")
    return bool(found.item())


def _action(value: Any) -> NDArray[np.float32]:
    """Return the action that was accepted (7,)."""
    try:
        action = np.asarray(value, np.float32)
    except (TypeError, ValueError):
        action = np.empty(0, np.float32)
    if action.shape != (ACTION_SIZE,) or not np.isfinite(action).all() or np.abs(action).max() > LARGEST_ACTION:
        raise InputError(
            f"info['action'] is {shown(value)}, must be the {ACTION_SIZE} finite numbers that it accepted, of which 1 "
            "is full scale"
        )
    return action


def _what(error: BaseException) -> str:
    """Say what was raised, and by which line of the environment's own code, as far as it can be told."""
    lines = traceback.extract_tb(error.__traceback__)
    theirs = [line for line in lines if not line.filename.startswith(_NOT_THEIRS)]
    line = (theirs or lines)[-1]
    return f"{type(error).__name__} ({_reason(error)}; {Path(line.filename).name}, line {line.lineno})"


def _reason(error: BaseException) -> str:
    return one_line(error)[:200] or type(error).__name__
