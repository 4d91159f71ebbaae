"""Gradients of several processes: those of one at the same weights, the same again after a crash, or an error."""

import dataclasses
import multiprocessing
import os

import numpy as np
import pytest
import torch
from torch import nn
from toy import checkpoint_of, tiny_configs

from diwa_runtime.errors import DiwaError
from diwa_trainer.dataset import Dataset
from diwa_trainer.runs.gradient_workers import GradientWorkers
from diwa_trainer.verbs import train_world_model
from diwa_trainer.world.observations import action_at, observation_at


@pytest.fixture
def config(toy_data, tmp_path):
    """Of one thread, as in the workers: sums of several differ in their last digits, and draws hang on those."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield dataclasses.replace(tiny_configs(toy_data, tmp_path)["train_world_model"], workers=2, learning_rate=0.01)
    torch.set_num_threads(threads)


def checkpoint(config, step):
    """What the checkpoint after `step` of six updates holds that is not of the clock."""
    kept = checkpoint_of("train_world_model", dataclasses.replace(config, updates=6), step)
    return {"weights": kept["weights"], "numpy_rng": kept["numpy_rng"], "metrics_bytes": kept["metrics_bytes"]}


def plain_gradient(config, dataset, episodes, model, numpy_rng, generator):
    rows = dataset.windows(numpy_rng, config.batch, config.length, episodes, fields=())["row"]
    loss, _ = model.loss(observation_at(dataset, rows), action_at(dataset, rows), generator)
    return torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True)


def test_two_processes_make_the_updates_of_one_at_the_same_weights(config, toy_data):
    weights = checkpoint(config, 4)["weights"]

    config = dataclasses.replace(config, updates=6)
    dataset = Dataset.open(toy_data)
    episodes, _ = dataset.split(config.validation, config.split_seed)
    state, model = train_world_model._make(config, dataset)
    for first in (1, 3):
        rng = np.random.default_rng((config.seed, first + 1))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        both = [
            plain_gradient(config, dataset, episodes, model, state.numpy_rng, state.generator),
            plain_gradient(config, dataset, episodes, model, rng, generator),
        ]
        for gradients in both:
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.grad = gradient.contiguous()  # what the fused optimizer takes for granted
            train_world_model._update(config, model, state, {})
    for name, parameter in model.named_parameters():
        assert torch.equal(weights[f"model/{name}"], parameter), name


def test_with_two_processes_a_resumed_run_is_the_same_run(config, tmp_path):
    straight = checkpoint(dataclasses.replace(config, output=tmp_path / "straight"), 4)
    checkpoint(dataclasses.replace(config, output=tmp_path / "resumed"), 2)
    again = checkpoint(dataclasses.replace(config, output=tmp_path / "resumed"), 4)

    assert again["numpy_rng"] == straight["numpy_rng"]
    assert again["metrics_bytes"] == straight["metrics_bytes"]
    for name, weight in straight["weights"].items():
        assert torch.equal(again["weights"][name], weight), name


def test_rows_in_which_the_hand_does_not_follow_count_more(config, tmp_path, monkeypatch):
    def learned(name, contact_weight, contact):
        monkeypatch.setattr(train_world_model, "dataset_contact_rows", lambda data, _: np.full(len(data), contact))
        model = dataclasses.replace(config.model, contact_weight=contact_weight)
        given = dataclasses.replace(config, workers=1, model=model, output=tmp_path / name)
        weights = checkpoint(given, 4)["weights"]
        return torch.cat([weight.flatten() for weight in weights.values() if weight.is_floating_point()])

    assert torch.equal(learned("none", 1.0, contact=False), learned("none_heavy", 9.0, contact=False))
    assert not torch.equal(learned("all", 1.0, contact=True), learned("all_heavy", 9.0, contact=True))


def make_dying():
    def gradient(_model, update):
        if update == 2:
            os._exit(3)
        return {"loss": 0.5}

    return gradient


def until_it_dies():
    with GradientWorkers(1, nn.Linear(2, 1), make_dying) as workers:
        workers.begin(1)
        assert [metrics["loss"] for metrics in workers.gradients()] == [0.5]
        workers.begin(2)
        list(workers.gradients())


def test_a_worker_that_dies_is_an_error_and_none_is_left():
    with pytest.raises(DiwaError, match="a worker process died"):
        until_it_dies()
    assert not multiprocessing.active_children()
