"""An update of the world model, of numbers or of pictures too, against its plain twin."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from data import IMAGES, STATE, random_dataset
from measuring import Benchmark, Effort, alternate, median_seconds
from plain_windows import HeldRows
from plain_world_model import PlainTraining

from diwa_trainer.dataset import Dataset
from diwa_trainer.devices.device import numbers
from diwa_trainer.devices.ranks import ALONE
from diwa_trainer.runs.gradient_workers import GradientWorkers
from diwa_trainer.runs.run import TrainState
from diwa_trainer.verbs import train_eyes, train_world_model
from diwa_trainer.verbs.train_eyes import TrainEyesConfig
from diwa_trainer.verbs.train_world_model import Recordings, TrainWorldModelConfig
from diwa_trainer.world.eyes.eyes import Eyes, EyesConfig
from diwa_trainer.world.eyes.seen import rows_of, see
from diwa_trainer.world.joint import JointConfig
from diwa_trainer.world.observations import Recorded
from diwa_trainer.world.rssm import RSSMConfig
from diwa_trainer.world.world_model import WorldModel, WorldModelConfig

DEFAULT = TrainWorldModelConfig(dataset=Path("dataset"), output=Path("world_model"))
LONG = replace(DEFAULT, batch=16, length=50)
SMALL = WorldModelConfig(rssm=RSSMConfig(16, 4, 4, 16), hidden=16)
JOINT = replace(
    LONG, model=WorldModelConfig(RSSMConfig(1024, 32, 32, 1000), JointConfig(depth=16, embedding=512, shortcut=False))
)
SMALL_JOINT = replace(SMALL, joint=JointConfig(depth=2, embedding=16))
SMALL_EYES = EyesConfig(channels=(4, 8, 8), camera_code=16, hidden=16)
EYES = TrainEyesConfig(dataset=Path("dataset"), output=Path("eyes"))


@dataclass(frozen=True)
class OurTraining:
    """The verb's own update, and what it works on."""

    config: TrainWorldModelConfig
    recordings: Recordings
    model: WorldModel
    state: TrainState

    def update(self) -> dict[str, float]:
        """Draw windows, take one gradient step on them, return the parts of their loss."""
        alone = GradientWorkers(0, self.model, partial(train_world_model._make_gradient, self.config))
        loss, share = self.model.loss, ALONE
        own = partial(train_world_model._own_gradient, self.config, self.recordings, self.state, loss, share)
        (metrics,) = train_world_model._updates(self.config, self.model, self.state, alone, own)
        return numbers(metrics)


def our_training(config: TrainWorldModelConfig, dataset: Dataset, eyes: Eyes | None = None) -> OurTraining:
    """Make ours, ready for its first update."""
    episodes, _ = dataset.split(config.validation, config.split_seed)
    state, model = train_world_model._make(config, dataset, eyes)
    return OurTraining(config, Recordings.of(dataset, episodes), model, state)


def both_trainings(config: TrainWorldModelConfig, dataset: Dataset) -> tuple[OurTraining, PlainTraining]:
    """Make ours and the plain one, with the same weights and seeds."""
    ours = our_training(config, dataset)
    state, model = train_world_model._make(config, dataset)
    arrays = {name: np.array(array) for name, array in dataset.arrays.items()}
    rows = HeldRows(arrays, [e.start for e in ours.recordings.episodes], [len(e) for e in ours.recordings.episodes])
    plain = PlainTraining(config, model, state.optimizers["model"], rows, state.numpy_rng, state.generator)
    return ours, plain


def world_model_training(config: TrainWorldModelConfig) -> Callable[[Effort], tuple[float, float]]:
    """Milliseconds of an update: windows drawn and read, loss with its KL, gradients, clip, optimizer."""

    def measure(effort: Effort) -> tuple[float, float]:
        of = IMAGES if config.model.joint.depth else STATE
        small = replace(config, model=SMALL_JOINT if config.model.joint.depth else SMALL, batch=2, length=4)
        with tempfile.TemporaryDirectory() as folder:
            episodes = 2 if effort.quick else of.episodes
            dataset = random_dataset(Path(folder) / "dataset", of.spec, episodes, np.random.default_rng(0))
            ours, plain = both_trainings(small if effort.quick else config, dataset)
            our_seconds, their_seconds = alternate(ours.update, plain.update, effort)
        return 1e3 * our_seconds, 1e3 * their_seconds

    return measure


def eyes_in_front(effort: Effort) -> tuple[float, float]:
    """Rows a second that train a world model with eyes in front, their training included, and one that codes pictures.

    Both by the defaults' numbers of updates: eyes learn from a twentieth of the rows that the world model learns from.
    """
    eyes_config = replace(EYES, eyes=SMALL_EYES, batch=4) if effort.quick else EYES
    behind, joint = DEFAULT, JOINT
    if effort.quick:
        behind, joint = (replace(c, model=m, batch=2, length=4) for c, m in ((DEFAULT, SMALL), (JOINT, SMALL_JOINT)))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        episodes = 2 if effort.quick else IMAGES.episodes
        dataset = random_dataset(Path(folder) / "dataset", IMAGES.spec, episodes, rng)
        rows = rows_of(dataset.episodes)
        _, (eyes,) = train_eyes._make(eyes_config, dataset)
        seen = dataset.with_seen(see(copy.deepcopy(eyes).eval(), dataset, rows))
        ours = our_training(behind, seen, copy.deepcopy(eyes))
        theirs = our_training(joint, dataset)
        optimizer = torch.optim.Adam(eyes.parameters(), fused=True)

        draw = partial(train_eyes._draw, eyes_config, Recorded(dataset), rows, eyes, ALONE, rng)

        def look() -> None:
            optimizer.zero_grad(set_to_none=True)
            train_eyes._gradient(eyes_config, draw, eyes.loss, eyes)
            optimizer.step()

        looking = median_seconds(look, effort)
        alone, joined = alternate(ours.update, theirs.update, effort)
    in_front = behind.updates * behind.batch * behind.length / (eyes_config.updates * looking + behind.updates * alone)
    return in_front, joint.batch * joint.length / joined


def _what(config: TrainWorldModelConfig) -> str:
    rssm, joint = config.model.rssm, config.model.joint
    mode = "`state`" if not joint.depth else f"`vision` with its own encoders and decoders of depth {joint.depth}"
    return (
        f"one update of `train_world_model` in mode {mode}, {config.batch} windows of {config.length} rows: drawn and "
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
    Benchmark("world_model_training", "ms", 1.3, _what(JOINT), _PLAIN, world_model_training(JOINT)),
    Benchmark(
        "eyes_in_front",
        "steps/s",
        10.0,
        "rows that a world model learns from, by the defaults' numbers of updates, the training of its eyes included",
        "a world model that codes pictures itself, as in `world_model_training`",
        eyes_in_front,
    ),
)
