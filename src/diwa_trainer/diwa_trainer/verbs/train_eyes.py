"""`train_eyes`: a dataset with pictures in, eyes out: what turns a robot's pictures into a world model's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from diwa_runtime.config.bounds import BATCHES, COUNTS, RATES, WORKERS, check_bounds
from diwa_runtime.errors import ConfigError, InputError
from diwa_runtime.files import written_whole
from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.devices.ahead import Ahead
from diwa_trainer.devices.device import CPU, Computing, Metrics, autocast, compiled, settled
from diwa_trainer.devices.ranks import ALONE, Share, joined
from diwa_trainer.runs.gradient_workers import Gradient, GradientWorkers, check_whole_rounds, make_update
from diwa_trainer.runs.result_files import worst_picture
from diwa_trainer.runs.run import SEEDS, Run, TrainState, cosine, intra_op_threads, make_state, write_json
from diwa_trainer.runs.trained import save_eyes, save_seen
from diwa_trainer.world.eyes.augmentation import AugmentationConfig
from diwa_trainer.world.eyes.code_eyes import CodeEyes
from diwa_trainer.world.eyes.eyes import Batch, Eyes, EyesConfig
from diwa_trainer.world.eyes.judged import judge
from diwa_trainer.world.eyes.modes import make_eyes
from diwa_trainer.world.eyes.seen import rows_of, see
from diwa_trainer.world.observations import Recorded


@dataclass(frozen=True)
class TrainEyesConfig(Computing):
    """Learn to see, before the world model: pictures and proprio to numbers.

    Mode `hybrid` learns from the recorded scene to estimate it; mode `vision` needs nothing but pictures and proprio.
    """

    dataset: Path
    output: Path
    eyes: EyesConfig = field(default_factory=EyesConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    updates: int = field(default=3000, metadata={"help": "gradient steps of each network"})
    batch: int = field(default=64, metadata={"help": "rows a gradient step"})
    learning_rate: float = 1e-3
    final_learning_rate: float = field(default=0.02, metadata={"help": "at the end of the cosine, as a fraction"})
    gradient_clip: float = 10.0
    folds: int = field(
        default=1,
        metadata={
            "help": "mode hybrid: with more than 1 the rows that eyes learn from are seen for the later verbs by "
            "networks that never learned from them, each from all folds but one"
        },
    )
    validation: float = field(default=0.1, metadata={"help": "share of the episodes held out"})
    split_seed: int = field(default=0, metadata={"help": "decides which episodes are held out; the same in every verb"})
    seed: int = 0
    threads: int = field(default=1, metadata={"help": "intra-op threads of each process"})
    workers: int = field(
        default=1, metadata={"help": "processes that each compute an update's gradient, at the same weights"}
    )
    log_every: int = 100
    save_every: int = 1000

    def __post_init__(self) -> None:
        check_bounds(self, updates=COUNTS, batch=(2, BATCHES[1]), folds=(1, 16), threads=WORKERS, workers=WORKERS)
        check_bounds(self, validation=(1e-3, 0.9), log_every=COUNTS, save_every=COUNTS, seed=SEEDS, split_seed=SEEDS)
        check_bounds(self, learning_rate=RATES, final_learning_rate=RATES, gradient_clip=(1e-6, 1e9))
        check_whole_rounds(self)

    @property
    def networks(self) -> int:
        """How many networks are trained: one a fold, then the one that is kept."""
        return 1 if self.folds == 1 else self.folds + 1


def run(config: TrainEyesConfig) -> None:
    """Train a network for each fold and one on all; keep the last, and what was seen in every row."""
    with joined(config, "batch", workers=config.workers) as (device, share):
        _train(config, device, share)


def _train(config: TrainEyesConfig, device: torch.device, share: Share) -> None:
    dataset = Dataset.open(config.dataset)
    _check_mode(config, dataset)
    learned, held_out = dataset.split(config.validation, config.split_seed)
    folds = make_folds(learned, config.folds)
    state, networks = _make(config, dataset, device)
    with (
        Run(config.output, config, {"dataset": dataset.fingerprint}, share) as run,
        intra_op_threads(config.threads),
    ):
        if run.is_done:
            return
        run.restore(state)
        for eyes in networks:
            eyes.train()
        recorded, as_settled = Recorded(dataset, device), _settled(config, device, state, share)
        while state.step < config.networks * config.updates:
            number = state.step // config.updates
            eyes, rows = networks[number], _rows_to_learn(config, learned, folds, number)
            make = partial(_make_gradient, as_settled, number)
            draw = partial(_draw, config, recorded, rows, eyes, share)
            loss = share.averaging(eyes, compiled(config, partial(eyes.loss, share=share)))
            with (
                GradientWorkers(config.workers - 1, eyes, make, config.threads) as workers,
                Ahead(draw, state.numpy_rng, recorded.reads_pictures) as batches,
            ):
                while state.step < (number + 1) * config.updates:
                    run.stop_if_interrupted(state)
                    own = partial(_gradient, as_settled, batches.take, loss)
                    for metrics in _updates(config, eyes, number, state, workers, own):
                        if state.step % config.log_every == 0:
                            shown = share.numbers(metrics)
                            run.check_finite("train_eyes", state.step, shown)
                            run.log(state.step, shown, show=_progress(config, number, state.step, shown, run))
                    if state.step % config.save_every == 0:
                        run.save(state)
        if not share.is_first:
            return
        eyes = networks[-1]
        seen = _see_all(dataset, learned, folds, networks)
        if isinstance(eyes, CodeEyes):
            eyes.settle(seen, _follows(dataset))
            seen = eyes.turned(torch.from_numpy(seen).to(device)).numpy(force=True)
        judged = judge(eyes.cpu().eval(), dataset, seen, learned, held_out, config.seed, folds=config.folds > 1)
        run.check_finite("train_eyes", state.step, judged.report["error"])
        for number, image in enumerate(judged.worst):
            with written_whole(run.folder / worst_picture(number)) as temporary:
                Image.fromarray(image).save(temporary, "PNG")
        write_json(run.folder / "eyes.json", judged.report)
        save_seen(run.folder, seen)
        save_eyes(run.folder, eyes, {"dataset": dataset.fingerprint, "split_seed": config.split_seed})
        run.finish(
            {"seconds": run.seconds, "updates": config.updates, "networks": config.networks} | judged.report["error"]
        )


def make_folds(episodes: Sequence[Episode], folds: int) -> list[list[Episode]]:
    """Deal episodes into `folds`, in turn, so that each has play and demonstrations of every task."""
    ordered = sorted(episodes, key=lambda episode: (episode.kind, episode.task or "", episode.start))
    return [ordered[fold::folds] for fold in range(folds)]


def _check_mode(config: TrainEyesConfig, dataset: Dataset) -> None:
    if not dataset.spec.uses_cameras:
        raise InputError(f"{dataset.folder}: mode 'state' has no pictures to see; ingest with --mode hybrid or vision")
    if dataset.spec.mode == "vision" and config.folds > 1:
        raise ConfigError("folds must be 1 in mode 'vision': two networks' codes do not mean the same")


def _make(config: TrainEyesConfig, dataset: Dataset, device: torch.device = CPU) -> tuple[TrainState, list[Eyes]]:
    torch.manual_seed(config.seed)
    networks = [make_eyes(dataset.spec, config.eyes) for _ in range(config.networks)]
    for eyes in networks:
        eyes.fit_features(dataset)
        eyes.to(device)
    optimizers: dict[str, torch.optim.Optimizer] = {
        f"eyes_{number}": torch.optim.Adam(eyes.parameters(), config.learning_rate, fused=True)
        for number, eyes in enumerate(networks)
    }
    modules: dict[str, nn.Module] = {f"eyes_{number}": eyes for number, eyes in enumerate(networks)}
    return make_state(modules, optimizers, config.seed), networks


def _rows_to_learn(
    config: TrainEyesConfig, learned: Sequence[Episode], folds: list[list[Episode]], number: int
) -> NDArray[np.int64]:
    """Rows that network `number` learns from: of all folds but its own, or of all."""
    if number == config.networks - 1:
        return rows_of(learned)
    return rows_of([episode for fold, episodes in enumerate(folds) if fold != number for episode in episodes])


def _updates(
    config: TrainEyesConfig, eyes: Eyes, number: int, state: TrainState, workers: GradientWorkers, own: Gradient
) -> Iterator[Metrics]:
    """Make one update with our own gradient, then one with each worker's; all gradients are at the same weights."""
    optimizer = state.optimizers[f"eyes_{number}"]
    for metrics in workers.gradients_with(own, state.step + 1):
        progress = state.step % config.updates / config.updates
        rate = cosine(config.learning_rate, config.final_learning_rate, progress)
        yield make_update(eyes, optimizer, rate, config.gradient_clip, state, metrics)


def _draw(
    config: TrainEyesConfig,
    recorded: Recorded,
    rows: NDArray[np.int64],
    eyes: Eyes,
    share: Share,
    rng: np.random.Generator,
) -> Batch:
    """Draw rows, and read this process's share of them."""
    drawn = np.sort(rng.choice(rows, config.batch))  # in order, as they lie on the disk
    return eyes.draw(recorded, drawn, rng, config.augmentation, share)


def _gradient(
    config: TrainEyesConfig,
    take: Callable[[], Batch],
    loss_of: Callable[[Batch], Tensor],
    eyes: nn.Module,
    _update: int = 0,
) -> Metrics:
    """Add the gradient of the next batch to the parameters."""
    batch = take()
    with autocast(config, cast(Eyes, eyes).device):
        loss = loss_of(batch)
    loss.backward()
    return {"loss": loss.detach()}


def _make_gradient(config: TrainEyesConfig, number: int) -> Gradient:
    """What a worker computes. What it draws depends on the update alone, so that a resumed run is the same run."""
    recorded = Recorded(Dataset.open(config.dataset))
    learned, _ = recorded.dataset.split(config.validation, config.split_seed)
    rows = _rows_to_learn(config, learned, make_folds(learned, config.folds), number)

    def gradient(model: nn.Module, update: int) -> Metrics:
        eyes, rng = cast(Eyes, model), np.random.default_rng((config.seed, update))
        return _gradient(config, partial(_draw, config, recorded, rows, eyes, ALONE, rng), eyes.loss, eyes)

    return gradient


def _settled(config: TrainEyesConfig, device: torch.device, state: TrainState, share: Share) -> TrainEyesConfig:
    """Settle the precision once, for all processes: it is measured, and a run that goes on keeps its own."""
    if "precision" not in state.extra:
        ours = settled(config, device, _largest_product(config)).precision
        state.extra["precision"] = "bfloat16" if share.any(ours == "bfloat16") else ours
    return replace(config, precision=state.extra["precision"])


def _largest_product(config: TrainEyesConfig) -> tuple[int, int, int]:
    """What a batch's second convolution is as a product of matrices, at 64 pixels: as much work as any."""
    first, second, _ = config.eyes.channels
    return min(config.batch, 64) * 8 * 8, first * 16, second


def _see_all(
    dataset: Dataset, learned: Sequence[Episode], folds: list[list[Episode]], networks: Sequence[Eyes]
) -> NDArray[np.float32]:
    """What is seen in every row (N, S): in a fold's by the network that did not learn from it, else by the last."""
    seen = np.zeros((len(dataset), len(networks[-1].names)), np.float32)
    others = set(dataset.episodes) - set(learned)
    of_network = [*folds, others] if len(networks) > 1 else [dataset.episodes]
    for eyes, episodes in zip(networks, of_network, strict=True):
        rows = rows_of(list(episodes))
        seen[rows] = see(eyes.eval(), dataset, rows)
    return seen


def _follows(dataset: Dataset) -> NDArray[np.bool_]:
    """Say of each row whether it follows the one before: all but episodes' first."""
    follows = np.ones(len(dataset), bool)
    follows[[episode.start for episode in dataset.episodes]] = False
    return follows


def _progress(config: TrainEyesConfig, number: int, step: int, metrics: dict[str, float], run: Run) -> str:
    step -= number * config.updates
    which = f"network {number + 1} of {config.networks}, " if config.networks > 1 else ""
    return f"{which}{step}/{config.updates} updates, loss {metrics['loss']:.3f}, {run.seconds:.0f} s"
