"""Environment steps during fine-tuning are counted, not claimed."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from toy import ToyTable, tiny_configs

from diwa_trainer.evaluation.env_steps import env_steps_taken
from diwa_trainer.evaluation.environments import make_environment
from diwa_trainer.policy.judging import Judging
from diwa_trainer.runs.run import Run
from diwa_trainer.verbs import finetune


def step(environment) -> None:
    environment.reset(seed=0)
    environment.step(environment.action_space.sample())


def tuned(config) -> int:
    """Fine-tune; return what the summary says."""
    finetune.run(config)
    return json.loads((config.output / "summary.json").read_text())["env_steps"]


@pytest.fixture
def config(tmp_path, toy_data, toy_runs):
    return dataclasses.replace(tiny_configs(toy_data, toy_runs)["finetune"], output=tmp_path / "finetuned")


@pytest.fixture
def cheating(monkeypatch):
    """Let every update of fine-tuning take a step in an environment."""
    environment, update = make_environment("toy:ToyTable-v0", {}), finetune.update

    def update_and_step(*arguments, **named):
        step(environment)
        return update(*arguments, **named)

    monkeypatch.setattr(finetune, "update", update_and_step)


def test_steps_before_and_after_a_fine_tuning_are_not_its_own(config):
    step(make_environment("toy:ToyTable-v0", {}))
    assert tuned(config) == 0


@pytest.mark.usefixtures("cheating")
def test_a_fine_tuning_that_steps_an_environment_says_so(config):
    assert tuned(config) == config.iterations


def crash_after_three(config) -> Path:
    """Fine-tune until the power is cut; return the checkpoint, which is of the second iteration."""

    def crash(_run, state):
        if state.step == 3:
            raise RuntimeError("power cut")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Run, "stop_if_interrupted", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            finetune.run(config)
    return config.output / "checkpoint_2"


@pytest.mark.usefixtures("cheating")
def test_steps_before_a_crash_are_told_after_it(config):
    crash_after_three(config)
    step(make_environment("toy:ToyTable-v0", {}))

    assert tuned(config) == config.iterations  # 2 in the checkpoint, and 2 after it


@pytest.mark.usefixtures("cheating")
def test_a_checkpoint_that_counted_no_steps_goes_on(config):
    path = crash_after_three(config) / "state.pt"
    kept = torch.load(path, weights_only=True)
    del kept["extra"]["env_steps"]
    torch.save(kept, path)

    assert tuned(config) == config.iterations - 2


def test_steps_of_the_preflight_and_of_judging_count(config, monkeypatch):
    environment, judge = make_environment("toy:ToyTable-v0", {}), Judging.of

    def judge_and_step(*arguments):
        step(environment)
        return judge(*arguments)

    monkeypatch.setattr(Judging, "of", judge_and_step)
    assert tuned(config) == 1 + config.iterations // config.judge_every + 1


def test_an_environment_that_is_counted_is_the_one_that_was_asked_for():
    environment = make_environment("toy:ToyTable-v0", {"task": "close_drawer"})
    before = env_steps_taken()
    environment.reset(seed=0)
    *_, info = environment.step(environment.action_space.sample())
    environment.step(environment.action_space.sample())

    assert isinstance(environment.unwrapped, ToyTable)
    assert environment.unwrapped.task.name == "close_drawer"
    assert info.keys() == {"success", "action"}
    assert env_steps_taken() - before == 2
