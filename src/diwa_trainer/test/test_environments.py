"""Environments are anybody's code: what they do wrong is one line that names episode, step and what it should be."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from point_environment import Point

from diwa_runtime.errors import InputError
from diwa_trainer.evaluation.environments import Environment, make_environment, take_a_step

OLD_API = "returned 4 values, must be (observation, reward, terminated, truncated, info)"


class Odd(Point):
    """A point that returns what it is told to."""

    def __init__(self, **odd: Any) -> None:
        super().__init__()
        self._odd = odd

    def reset(self, **how: Any) -> Any:
        return self._odd.get("reset", super().reset(**how))

    def step(self, action: Any) -> Any:
        if "raises" in self._odd:
            raise self._odd["raises"]
        observation, reward, terminated, truncated, info = super().step(action)
        info |= {name: self._odd[name] for name in ("success", "action") if name in self._odd}
        returned = (
            self._odd.get("observation", observation),
            reward,
            self._odd.get("terminated", terminated),
            truncated,
        )
        return self._odd.get("step", (*returned, self._odd.get("info", info)))


gymnasium.register("Odd-v0", entry_point=Odd)


def odd(**how: Any) -> Environment:
    made = make_environment("Odd-v0", how)
    made.checked = Point().contract
    return made


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"reset": {}}, "reset of the episode with seed 3: it returned a dict, must be (observation, info)"),
        ({"reset": ({}, {}, 0)}, "it returned 3 values, must be (observation, info)"),
        ({"reset": (None, {})}, "its observation is a NoneType, must be a dict"),
        ({"reset": ({}, None)}, "its info is a NoneType, must be a dict"),
        ({"reset": ({}, {})}, "reset of the episode with seed 3: observation lacks 'proprio'"),
        ({"step": ({}, 0.0, False, {})}, f"step 1 of the episode with seed 3: it {OLD_API}"),
        ({"step": None}, "it returned a NoneType"),
        ({"observation": {"proprio": np.zeros(3)}}, "observation 'proprio' is float64 (3,)"),
        ({"info": {}}, "its info has no 'success'"),
        ({"info": []}, "its info is a list"),
        ({"success": "False"}, "info['success'] is 'False', must be True or False"),
        ({"success": 0.3}, "info['success'] is 0.3"),
        ({"success": float("nan")}, "info['success'] is nan"),
        ({"success": None}, "info['success'] is None"),
        ({"success": np.array([False, False])}, "info['success'] is"),
        ({"terminated": np.array([False, True])}, "terminated is"),
        ({"action": np.zeros(6)}, "must be the 7 finite numbers"),
        ({"action": "x"}, "info['action'] is 'x'"),
        ({"action": np.full(7, np.nan)}, "must be the 7 finite numbers"),
        ({"action": np.full(7, 500.0)}, "of which 1 is full scale"),
        (
            {"raises": SystemExit(0)},
            "step 1 of the episode with seed 3 failed with SystemExit (0; test_environments.py",
        ),
    ],
)
def test_what_an_environment_returns_wrongly_is_found_by_one_step(how, said):
    with pytest.raises(InputError) as refused:
        take_a_step(odd(**how), 3)

    assert str(refused.value).startswith("Odd-v0: ")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("success", [True, 1, np.bool_(True), np.float32(1.0), np.array([True]), torch.tensor(True)])
def test_success_is_a_truth_however_it_is_written(success):
    environment = odd(success=success, action=[0.0] * 7)
    environment.reset(seed=3)
    *_, info = environment.step(np.zeros(7))

    assert info["success"] is True
    assert info["action"].dtype == np.float32


def test_an_error_is_told_by_the_line_of_its_own_code_not_of_a_library_s():
    class Singular(Odd):
        def step(self, action: Any) -> Any:
            np.linalg.inv(np.zeros((2, 2)))  # this line
            return super().step(action)

    environment = Environment(Singular(), "singular")
    environment.reset(seed=3)
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "# this line" in text)

    with pytest.raises(InputError, match=rf"Singular matrix; test_environments.py, line {line}\)$"):
        environment.step(np.zeros(7))


def test_an_environment_that_cannot_be_closed_says_so_and_no_more(capsys):
    class Stuck(Odd):
        def close(self) -> None:
            raise OSError("device busy")

    Environment(Stuck(), "stuck").close()

    assert "warning: stuck: close failed with OSError (device busy; test_environments.py" in capsys.readouterr().out
    assert sys.exc_info() == (None, None, None)
