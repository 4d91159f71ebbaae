"""Where networks compute: on the device that there is, with nothing left on the CPU and nothing that waits for it."""

import dataclasses

import numpy as np
import pytest
import torch
from toy import SPEC, TINY_MODEL, TRAINERS, checkpoint_of, tiny_configs

from diwa_runtime.errors import ConfigError
from diwa_trainer.dataset import Dataset
from diwa_trainer.devices.device import choose_device, numbers
from diwa_trainer.world.observations import action_at, observation_at
from diwa_trainer.world.world_model import WorldModel

META = torch.device("meta")
"""A device that computes shapes alone. What meets a tensor of the CPU there, or reads a number, is an error."""
CUDA = torch.cuda.is_available()


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if CUDA else "cpu")


@pytest.fixture
def data(toy_data) -> Dataset:
    return Dataset.open(toy_data)


def test_a_loss_of_the_world_model_leaves_nothing_on_the_cpu_and_waits_for_nothing(data):
    model, rows = WorldModel(SPEC, TINY_MODEL).to(META), np.arange(24).reshape(2, 12)

    loss, metrics = model.loss(
        observation_at(data, rows, META), action_at(data, rows, META), torch.Generator(), with_open_loop=True
    )
    loss.backward()

    assert {value.device for value in (*metrics.values(), *(p.grad for p in model.parameters()))} == {META}


def test_a_seed_gives_the_same_loss_on_any_device_and_in_fewer_bits_nearly_the_same(data, device):
    torch.manual_seed(0)
    model, rows = WorldModel(SPEC, TINY_MODEL), np.arange(48).reshape(4, 12)
    model.fit_features(data)

    def loss(where: torch.device, precision: torch.dtype | None = None) -> float:
        with torch.autocast(where.type, precision, enabled=precision is not None):
            batch = observation_at(data, rows, where), action_at(data, rows, where)
            return numbers(model.to(where).loss(*batch, torch.Generator().manual_seed(0))[1])["loss"]

    here = loss(torch.device("cpu"))
    assert loss(device) == pytest.approx(here, rel=1e-4)
    in_bfloat16 = loss(device, torch.bfloat16)
    assert in_bfloat16 == pytest.approx(here, rel=0.05)
    assert in_bfloat16 != pytest.approx(here, rel=1e-6), "the setting reaches the networks"


VERBS = ("train_world_model",)


@pytest.mark.skipif(CUDA, reason="there is a graphics card")
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_that_learns_refuses_a_graphics_card_that_is_not_there(tmp_path, toy_data, toy_runs, verb):
    config = dataclasses.replace(tiny_configs(toy_data, toy_runs)[verb], output=tmp_path / "run", device="cuda")

    with pytest.raises(ConfigError, match="finds no graphics card") as refused:
        TRAINERS[verb](config)

    assert "\n" not in str(refused.value)
    assert not config.output.exists()


def test_workers_stay_on_the_cpu(toy_data, toy_runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config = tiny_configs(toy_data, toy_runs)["train_world_model"]

    assert choose_device(config).type == "cuda"
    assert choose_device(config, workers=2).type == "cpu"
    assert choose_device(dataclasses.replace(config, device="cpu")).type == "cpu"
    with pytest.raises(ConfigError, match="workers is 2, must be 1 with device 'cuda'"):
        choose_device(dataclasses.replace(config, device="cuda"), workers=2)


@pytest.mark.parametrize("verb", VERBS)
def test_where_a_run_computes_is_no_part_of_what_it_is(tmp_path, toy_data, toy_runs, verb):
    """A run that began on another device keeps its course: it ends with the same metrics as one without a break."""
    config = dataclasses.replace(tiny_configs(toy_data, toy_runs)[verb], device="auto")
    whole, broken = (dataclasses.replace(config, output=tmp_path / name) for name in ("whole", "broken"))
    TRAINERS[verb](whole)

    checkpoint_of(verb, broken, step=2)
    TRAINERS[verb](dataclasses.replace(broken, device="cpu"))

    lines = [(one.output / "metrics.jsonl").read_text().splitlines() for one in (whole, broken)]
    assert lines[0] == lines[1]
