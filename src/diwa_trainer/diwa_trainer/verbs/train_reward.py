"""`train_reward`: labelled rows and world model in, classifier of success on latents out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diwa_runtime.config.bounds import BATCHES, COUNTS, RATES, WORKERS, check_between, check_bounds, check_together
from diwa_runtime.errors import InputError
from diwa_trainer.dataset import Dataset
from diwa_trainer.devices.device import OnDevice, choose_device
from diwa_trainer.policy.reward import THRESHOLDS, Classifier, ClassifierConfig
from diwa_trainer.runs.run import SEEDS, Run, TrainState, intra_op_threads, make_state, write_json
from diwa_trainer.runs.trained import open_as_seen, save_classifier
from diwa_trainer.samples.latents import encode
from diwa_trainer.samples.stretches import (
    FEWEST_DEMONSTRATIONS,
    Stretch,
    demonstration_stretches,
    demonstrations,
    play_stretches,
)
from diwa_trainer.world.observations import action_at
from diwa_trainer.world.world_model import WorldModel

LITTLE_PLAY = 1 / 3
"""With a smaller share of the stretches of play that are asked for, it is said."""


@dataclass(frozen=True)
class TrainRewardConfig(OnDevice):
    """Learn to tell success from a latent, on demonstrations and on stretches of play."""

    dataset: Path
    world_model: Path = field(metadata={"help": "run folder of train_world_model"})
    output: Path
    task: str
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    threshold: float = field(default=0.97, metadata={"help": "probability above which a latent counts as success"})
    demonstrations: int = field(
        default=50, metadata={"help": "how many train; at least 10 others are held out if there"}
    )
    play: int = field(default=300, metadata={"help": "stretches of play that train (0: demonstrations alone)"})
    play_length: int = field(default=96, metadata={"help": "rows a stretch of play"})
    imagined: bool = field(
        default=False,
        metadata={"help": "add replays of the demonstrations by the model, labelled by what happened in reality"},
    )
    encodings: int = field(default=2, metadata={"help": "draws of the posterior a stretch"})
    updates: int = 800
    batch: int = field(default=192, metadata={"help": "latents an update, half of them successes"})
    learning_rate: float = 3e-4
    validation: float = field(default=0.15, metadata={"help": "share of the play episodes held out"})
    split_seed: int = field(default=0, metadata={"help": "decides which episodes are held out; the same in every verb"})
    seed: int = 0
    threads: int = 1
    log_every: int = 50
    save_every: int = 200

    def __post_init__(self) -> None:
        check_between(self, threshold=(0, 1))
        check_bounds(self, demonstrations=BATCHES, play=(0, 10**6), play_length=(2, 4096), learning_rate=RATES)
        check_bounds(self, encodings=(1, 256), updates=COUNTS, batch=(4, 4096), validation=(0, 0.9))
        check_together(self, 1 << 21, "latents of play", "play", "play_length", "encodings")
        check_bounds(self, threads=WORKERS, log_every=COUNTS, save_every=COUNTS)
        check_bounds(self, seed=SEEDS, split_seed=SEEDS)


def run(config: TrainRewardConfig) -> None:
    """Train the classifier, then count on held-out episodes where it is right and where it fires."""
    device = choose_device(config)
    dataset, model, model_file = open_as_seen(config.dataset, config.world_model, device)
    sets = _stretches(config, dataset)
    inputs = {"dataset": dataset.fingerprint, "world_model": model_file.sha256}
    with Run(config.output, config, inputs) as run, intra_op_threads(config.threads):
        if run.is_done:
            return
        _say_of_play(config, sets["train_play"])
        state, classifier = _make(config, model)
        latents, labels = _training_latents(config, model, dataset, sets)
        both = labels.nonzero(), (~labels).nonzero()
        run.restore(state)
        while state.step < config.updates:
            run.stop_if_interrupted(state)
            loss = _update(config, latents, labels, both, classifier, state)
            if state.step % config.log_every == 0:
                shown = {"loss": float(loss)}
                run.check_finite("train_reward", state.step, shown)
                progress = f"{config.task} {state.step}/{config.updates}, loss {shown['loss']:.3f}"
                run.log(state.step, shown, show=progress)
            if state.step % config.save_every == 0:
                run.save(state)
        report = {
            "task": config.task,
            "threshold": config.threshold,
            "train": {"successes": int(labels.sum()), "others": int((~labels).sum())},
            "held_out": {
                name: _judge(model, dataset, classifier, sets[name], config.threshold)
                for name in ("demonstrations", "play")
                if sets[name]
            },
        }
        write_json(run.folder / "reward.json", report)
        about = {
            "task": config.task,
            "latent_size": model.latent_size,
            "threshold": config.threshold,
            "world_model": model_file.sha256,
        }
        save_classifier(run.folder, classifier, dataset.spec, about)
        run.finish({"seconds": run.seconds, **report})


def _stretches(config: TrainRewardConfig, dataset: Dataset) -> dict[str, list[Stretch]]:
    """Stretches to train on (``train_*``) and to judge by, from other episodes.

    Raises:
        InputError: too few demonstrations, or all that would be trained on is success or is none.
    """
    rng = np.random.default_rng(config.seed)
    found = demonstrations(dataset, config.task, FEWEST_DEMONSTRATIONS)
    shuffled = [found[i] for i in rng.permutation(len(found))]
    trained = min(config.demonstrations, max(len(found) - 10, len(found) // 2))
    train, held_out = dataset.split(config.validation, config.split_seed)
    sets = {
        "train_demonstrations": demonstration_stretches(dataset, config.task, shuffled[:trained]),
        "demonstrations": demonstration_stretches(dataset, config.task, shuffled[trained:]),
    }
    for name, episodes, count in (("train_play", train, config.play), ("play", held_out, config.play // 3)):
        sets[name] = play_stretches(dataset, config.task, found, episodes, count, config.play_length, rng)
    labels = np.concatenate([stretch.success for stretch in sets["train_demonstrations"] + sets["train_play"]])
    if not labels.any() or labels.all():
        which = "no success" if not labels.any() else "nothing but success"
        raise InputError(
            f"{dataset.folder}: the rows for {config.task} show {which}; record both, marked on episode/event"
        )
    return sets


def _say_of_play(config: TrainRewardConfig, stretches: Sequence[Stretch]) -> None:
    """Say how much of play there is to learn failures from, where it is little."""
    if len(stretches) < config.play * LITTLE_PLAY:
        print(
            f"warning: {len(stretches)} of {config.play} stretches of play for {config.task}: hardly any play begins "
            "with the task's part of the scene as the demonstrations do, so the reward knows few failures; record more",
            flush=True,
        )


def _training_latents(
    config: TrainRewardConfig, model: WorldModel, dataset: Dataset, sets: dict[str, list[Stretch]]
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(config.seed)
    stretches = sets["train_demonstrations"] + sets["train_play"]
    latents, labels = [], []
    for _ in range(config.encodings):
        latents += _encode(model, dataset, stretches, generator)
        labels += [stretch.success for stretch in stretches]
    if config.imagined:
        latents += [_replay(model, dataset, stretch, generator) for stretch in sets["train_demonstrations"]]
        labels += [stretch.success for stretch in sets["train_demonstrations"]]
    return torch.cat(latents), torch.from_numpy(np.concatenate(labels)).to(model.device)


def _encode(
    model: WorldModel, dataset: Dataset, stretches: Sequence[Stretch], generator: torch.Generator
) -> list[Tensor]:
    return encode(model, dataset, [s.start for s in stretches], [s.end for s in stretches], generator)


@torch.no_grad()
def _replay(model: WorldModel, dataset: Dataset, stretch: Stretch, generator: torch.Generator) -> Tensor:
    """Imagine a demonstration from its first latent and its actions: (T, Z). Where the model errs, its labels lie."""
    latent = encode(model, dataset, [stretch.start], [stretch.start + 1], generator)[0]
    latents = [latent]
    for action in action_at(dataset, np.arange(stretch.start, stretch.end - 1), model.device):
        latents.append(model.rssm.imagine_step(latents[-1], action[None], generator))
    return torch.cat(latents)


def _make(config: TrainRewardConfig, model: WorldModel) -> tuple[TrainState, Classifier]:
    torch.manual_seed(config.seed)
    classifier = Classifier(config.classifier, model.latent_size).to(model.device)
    optimizer = torch.optim.Adam(classifier.parameters(), config.learning_rate)
    return make_state({"classifier": classifier}, {"classifier": optimizer}, config.seed), classifier


def _update(
    config: TrainRewardConfig,
    latents: Tensor,
    labels: Tensor,
    both: tuple[Tensor, Tensor],
    classifier: Classifier,
    state: TrainState,
) -> Tensor:
    """One step on a batch of which half are successes, whatever their share in the data; `both`: rows of each kind."""
    half = config.batch // 2
    rows = torch.cat([_draw(which, half, state.generator) for which in both])
    loss = classifier.loss(latents[rows], labels[rows].long())
    optimizer = state.optimizers["classifier"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    state.step += 1
    return loss.detach()


def _draw(rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    return rows[torch.randint(len(rows), (count,), generator=generator).to(rows.device), 0]


@torch.no_grad()
def _judge(
    model: WorldModel, dataset: Dataset, classifier: Classifier, stretches: Sequence[Stretch], chosen: float
) -> dict[str, Any]:
    """Frame precision and recall, and in what share of succeeded and of failed episodes it ever fires, by threshold."""
    latents = encode(model, dataset, [s.start for s in stretches], [s.end for s in stretches], None, mode=True)
    probabilities = [classifier(latent).numpy(force=True) for latent in latents]
    succeeded = np.array([stretch.success.any() for stretch in stretches])
    rows = []
    for threshold in sorted({*THRESHOLDS, chosen}):
        fired = [probability > threshold for probability in probabilities]
        said, true = np.concatenate(fired), np.concatenate([stretch.success for stretch in stretches])
        ever = np.array([one.any() for one in fired])
        rows.append(
            {
                "threshold": threshold,
                "precision": _share(true[said]),
                "recall": _share(said[true]),
                "fires_in_succeeded": _share(ever[succeeded]),
                "fires_in_failed": _share(ever[~succeeded]),
            }
        )
    return {"succeeded": int(succeeded.sum()), "failed": int((~succeeded).sum()), "by_threshold": rows}


def _share(flags: np.ndarray) -> float | None:
    return float(flags.mean()) if len(flags) else None
