"""An update of the world model in mode `state`, against its plain twin."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from data import STATE, random_dataset
from measuring import Benchmark, Effort, alternate
from plain_windows import HeldRows
from plain_world_model import PlainTraining

from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.devices.device import numbers
from diwa_trainer.runs.gradient_workers import GradientWorkers
from diwa_trainer.runs.run import TrainState
from diwa_trainer.verbs import train_world_model
from diwa_trainer.verbs.train_world_model import TrainWorldModelConfig
from diwa_trainer.world.rssm import RSSMConfig
from diwa_trainer.world.world_model import WorldModel, WorldModelConfig

DEFAULT = TrainWorldModelConfig(dataset=Path("dataset"), output=Path("world_model"))
LONG = replace(DEFAULT, batch=16, length=50)
SMALL = WorldModelConfig(rssm=RSSMConfig(16, 4, 4, 16), hidden=16)


@dataclass(frozen=True)
class OurTraining:
    """The verb's own update, and what it works on."""

    config: TrainWorldModelConfig
    dataset: Dataset
    episodes: tuple[Episode, ...]
    model: WorldModel
    state: TrainState

    def update(self) -> dict[str, float]:
        """Draw windows, take one gradient step on them, return the parts of their loss."""
        alone = GradientWorkers(0, self.model, partial(train_world_model._make_gradient, self.config))
        (metrics,) = train_world_model._updates(self.config, self.dataset, self.episodes, self.model, self.state, alone)
        return numbers(metrics)


def both_trainings(config: TrainWorldModelConfig, dataset: Dataset) -> tuple[OurTraining, PlainTraining]:
    """Make ours and the plain one, with the same weights and seeds."""
    episodes, _ = dataset.split(config.validation, config.split_seed)
    state, model = train_world_model._make(config, dataset)
    other, other_model = train_world_model._make(config, dataset)
    rows = HeldRows(dataset.arrays, [e.start for e in episodes], [len(e) for e in episodes])
    plain = PlainTraining(config, other_model, other.optimizers["model"], rows, other.numpy_rng, other.generator)
    return OurTraining(config, dataset, episodes, model, state), plain


def world_model_training(config: TrainWorldModelConfig) -> Callable[[Effort], tuple[float, float]]:
    """Milliseconds of an update: windows drawn and read, loss with its KL, gradients, clip, optimizer."""

    def measure(effort: Effort) -> tuple[float, float]:
        small = replace(config, model=SMALL, batch=2, length=4)
        with tempfile.TemporaryDirectory() as folder:
            episodes = 2 if effort.quick else STATE.episodes
            dataset = random_dataset(Path(folder) / "dataset", STATE.spec, episodes, np.random.default_rng(0))
            ours, plain = both_trainings(small if effort.quick else config, dataset)
            our_seconds, their_seconds = alternate(ours.update, plain.update, effort)
        return 1e3 * our_seconds, 1e3 * their_seconds

    return measure


def _what(config: TrainWorldModelConfig) -> str:
    rssm = config.model.rssm
    return (
        f"one update of `train_world_model` in mode `state`, {config.batch} windows of {config.length} rows: drawn and "
        f"read, loss with KL, gradients, clip, Adam; RSSM {rssm.deterministic} + {rssm.variables} x {rssm.classes}, "
        f"hidden {rssm.hidden}"
    )


_PLAIN = (
    "plain PyTorch: the RSSM step by step and left to autograd, the decoder on whole latents, DreamerV2's KL as its "
    "paper has it; same features, heads and optimizer, rows held in memory"
)

BENCHMARKS = (
    Benchmark("world_model_training_state", "ms", None, _what(DEFAULT), _PLAIN, world_model_training(DEFAULT)),
    Benchmark("world_model_training_state_long", "ms", None, _what(LONG), _PLAIN, world_model_training(LONG)),
)
