"""`train_world_model`: dataset in, world model out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diwa_runtime.config.bounds import BATCHES, COUNTS, RATES, WEIGHTS, WORKERS, check_bounds, check_together
from diwa_runtime.errors import InputError
from diwa_runtime.files import written_whole
from diwa_runtime.same_spec import check_same_spec
from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.dataset.following import dataset_contact_rows
from diwa_trainer.devices.device import CPU, Computing, Metrics, autocast, compiled, numbers, settled
from diwa_trainer.devices.ranks import ALONE, Share, joined
from diwa_trainer.evaluation.video import encode_mp4
from diwa_trainer.runs.gradient_workers import Gradient, GradientWorkers, check_whole_rounds, make_update
from diwa_trainer.runs.result_files import OPEN_LOOP_FILM
from diwa_trainer.runs.run import SEEDS, Run, TrainState, cosine, intra_op_threads, make_state, tell, write_json
from diwa_trainer.runs.trained import load_eyes, load_seen, save_seen, save_world_model
from diwa_trainer.world.data_summary import summarise_dataset, told_of_scene
from diwa_trainer.world.eyes.eyes import Eyes
from diwa_trainer.world.eyes.film import open_loop_film
from diwa_trainer.world.eyes.seen import see
from diwa_trainer.world.observations import Observation, action_at, observation_at
from diwa_trainer.world.open_loop import CONTEXT, HORIZON, measurable, open_loop_report
from diwa_trainer.world.world_model import WorldModel, WorldModelConfig

Loss = Callable[..., tuple[Tensor, Metrics]]


@dataclass(frozen=True)
class TrainWorldModelConfig(Computing):
    """Learn the world model from every recorded step, play and demonstrations alike."""

    dataset: Path
    output: Path
    model: WorldModelConfig = field(default_factory=WorldModelConfig)
    eyes: Path | None = field(default=None, metadata={"help": "run folder of train_eyes; for modes with cameras alone"})
    updates: int = field(default=6000, metadata={"help": "gradient steps"})
    batch: int = field(default=32, metadata={"help": "windows a gradient step"})
    length: int = field(default=24, metadata={"help": "rows a window; the filter is reset at its first"})
    learning_rate: float = 1e-3
    final_learning_rate: float = field(default=0.02, metadata={"help": "at the end of the cosine, as a fraction"})
    gradient_clip: float = 10.0
    validation: float = field(default=0.1, metadata={"help": "share of the episodes held out"})
    split_seed: int = field(default=0, metadata={"help": "decides which episodes are held out; the same in every verb"})
    seed: int = 0
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW's"})
    threads: int = field(default=1, metadata={"help": "intra-op threads of each process"})
    workers: int = field(
        default=1,
        metadata={
            "help": "processes that each compute an update's gradient, at the same weights; two on two idle cores "
            "take about two thirds of the time"
        },
    )
    log_every: int = 50
    save_every: int = 500

    def __post_init__(self) -> None:
        check_bounds(self, updates=COUNTS, batch=BATCHES, length=(2, 4096), threads=WORKERS, workers=WORKERS)
        check_bounds(self, validation=(1e-3, 0.9), log_every=COUNTS, save_every=COUNTS)
        check_bounds(self, learning_rate=RATES, final_learning_rate=RATES, gradient_clip=(1e-6, 1e9))
        check_bounds(self, weight_decay=WEIGHTS)
        check_bounds(self, seed=SEEDS, split_seed=SEEDS)
        check_together(self, 1 << 17, "rows an update", "batch", "length")
        check_whole_rounds(self)

    @property
    def joint(self) -> bool:
        """Whether the model codes pictures itself, without eyes in front."""
        return self.model.joint.depth > 0


def run(config: TrainWorldModelConfig) -> None:
    """Train until `updates`, keep checkpoints, then measure open-loop prediction on held-out play."""
    with joined(config, "batch", workers=config.workers) as (device, share):
        _train(config, device, share)


def _train(config: TrainWorldModelConfig, device: torch.device, share: Share) -> None:
    dataset, eyes, inputs = _open(config)
    train, held_out = dataset.split(config.validation, config.split_seed)
    _check_lengths(config, dataset, train, held_out)
    state, model = _make(config, dataset, eyes, device)
    model.fit_hand_step(dataset, train)
    with Run(config.output, config, inputs, share) as run, intra_op_threads(config.threads):
        if run.is_done:
            return
        run.restore(state)
        if share.is_first:
            write_json(run.folder / "data.json", summarise_dataset(dataset, model))
            if model.scene is not None:
                tell(run.folder, f"scene: {told_of_scene(dataset)}")
        config = settled(config, device)
        loss = share.averaging(model, compiled(config, model.loss))
        own = partial(_own_gradient, config, Recordings.of(dataset, train), state, loss, share)
        with GradientWorkers(config.workers - 1, model, partial(_make_gradient, config), config.threads) as workers:
            while state.step < config.updates:
                run.stop_if_interrupted(state)
                for metrics in _updates(config, model, state, workers, own):
                    if state.step % config.log_every == 0:
                        shown = share.numbers(metrics)
                        run.check_finite("train_world_model", state.step, shown)
                        if share.is_first:
                            shown |= _validation(config, dataset, held_out, model)
                            run.log(state.step, shown, show=_progress(config, state.step, shown, run))
                if state.step % config.save_every == 0:
                    run.save(state)
        if not share.is_first:
            return
        final = _validation(config, dataset, held_out, model)
        run.check_finite("train_world_model", state.step, final)
        if model.pictures is not None:  # from here on its own encoder is frozen, as eyes are
            dataset = dataset.with_seen(see(model.encoder, dataset, np.arange(len(dataset))))
        report = open_loop_report(model, dataset, held_out, seed=config.seed)
        write_json(run.folder / "open_loop.json", report)
        if frames := open_loop_film(model, dataset, held_out, seed=config.seed):
            film = encode_mp4(frames, dataset.spec.rate_hz, frames[0].shape[1])
            with written_whole(run.folder / OPEN_LOOP_FILM) as temporary:
                temporary.write_bytes(film)
        about = {"dataset": dataset.fingerprint, "updates": config.updates, "split_seed": config.split_seed}
        if model.sight is not None:  # the later verbs take what was seen from here
            save_seen(run.folder, dataset.arrays["seen"])
        save_world_model(run.folder, model, about)
        run.finish({"seconds": run.seconds, "updates": config.updates, **final})


def _open(config: TrainWorldModelConfig) -> tuple[Dataset, Eyes | None, dict[str, str]]:
    """Open the dataset, with what the eyes saw in it if there are any, and say by fingerprints what the inputs are."""
    dataset = Dataset.open(config.dataset)
    inputs = {"dataset": dataset.fingerprint}
    if config.eyes is None:
        return dataset, None, inputs
    eyes, file = load_eyes(config.eyes)
    check_same_spec(dataset.spec, str(config.dataset), eyes.spec, str(config.eyes), "training")
    if file.about["dataset"] != dataset.fingerprint:
        raise InputError(
            f"{config.eyes}: these eyes learned from another dataset than {config.dataset}; train them on it"
        )
    return dataset.with_seen(load_seen(config.eyes, dataset, eyes)), eyes, {**inputs, "eyes": file.sha256}


def _check_lengths(
    config: TrainWorldModelConfig, dataset: Dataset, train: Sequence[Episode], held_out: Sequence[Episode]
) -> None:
    """Refuse before the training what would be found too short only during it or after."""
    both = all(any(len(episode) >= config.length for episode in episodes) for episodes in (train, held_out))
    if not (both and measurable(held_out)):
        needed = max(config.length, CONTEXT + HORIZON)
        long, kept = (sum(len(one) >= needed for one in episodes) for episodes in (dataset.episodes, held_out))
        raise InputError(
            f"{dataset.folder}: needs at least two episodes of {needed} rows, one to train on and one held out to "
            f"measure by; of its {len(dataset.episodes)} {long} {'is' if long == 1 else 'are'} as long, {kept} of them "
            "held out; record more episodes, or mark on episode/event where they begin and end"
        )


def _make(
    config: TrainWorldModelConfig, dataset: Dataset, eyes: Eyes | None = None, device: torch.device = CPU
) -> tuple[TrainState, WorldModel]:
    torch.manual_seed(config.seed)
    model = WorldModel(dataset.spec, config.model, eyes)
    model.fit_features(dataset)
    model.to(device)  # made on the CPU, so that a seed begins with the same weights anywhere
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, config.learning_rate, weight_decay=config.weight_decay, fused=True)
    return make_state({"model": model}, {"model": optimizer}, config.seed), model


def _updates(
    config: TrainWorldModelConfig, model: WorldModel, state: TrainState, workers: GradientWorkers, own: Gradient
) -> Iterator[Metrics]:
    """Make one update with our own gradient, then one with each worker's; all gradients are at the same weights."""
    for metrics in workers.gradients_with(own, state.step + 1):
        yield _update(config, model, state, metrics)


def _update(config: TrainWorldModelConfig, model: WorldModel, state: TrainState, metrics: Metrics) -> Metrics:
    rate = cosine(config.learning_rate, config.final_learning_rate, state.step / config.updates)
    return make_update(model, state.optimizers["model"], rate, config.gradient_clip, state, metrics)


@dataclass(frozen=True)
class Recordings:
    """What is learned from: a dataset's episodes, and in which rows (N,) the hand does not follow its action."""

    dataset: Dataset
    episodes: Sequence[Episode]
    contacts: NDArray[np.bool_]

    @classmethod
    def of(cls, dataset: Dataset, episodes: Sequence[Episode]) -> Recordings:
        """Look for contacts in these episodes."""
        return cls(dataset, episodes, dataset_contact_rows(dataset, episodes))


def _own_gradient(
    config: TrainWorldModelConfig,
    recordings: Recordings,
    state: TrainState,
    loss_of: Loss,
    share: Share,
    model: nn.Module,
    _update: int = 0,
) -> Metrics:
    model = cast(WorldModel, model)
    return _gradient(config, recordings, model, loss_of, state.numpy_rng, state.generator, share)


def _gradient(
    config: TrainWorldModelConfig,
    recordings: Recordings,
    model: WorldModel,
    loss_of: Loss,
    numpy_rng: np.random.Generator,
    generator: torch.Generator,
    share: Share = ALONE,
) -> Metrics:
    """Add the gradient of this process's share of freshly drawn windows to the parameters."""
    dataset, episodes = recordings.dataset, recordings.episodes
    rows = dataset.windows(numpy_rng, config.batch, config.length, episodes, fields=())["row"][share.rows]
    contacts = torch.from_numpy(recordings.contacts[rows]).to(model.device)
    with autocast(config, model.device):
        loss, metrics = loss_of(*_at(dataset, rows, model), share.part(generator, config.batch), contacts=contacts)
    loss.backward()
    return metrics


def _make_gradient(config: TrainWorldModelConfig) -> Gradient:
    """What a worker computes. What it draws depends on the update alone, so that a resumed run is the same run."""
    dataset, _, _ = _open(config)
    train, _ = dataset.split(config.validation, config.split_seed)
    recordings = Recordings.of(dataset, train)

    def gradient(model: nn.Module, update: int) -> Metrics:
        rng = np.random.default_rng((config.seed, update))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        world = cast(WorldModel, model)
        return _gradient(config, recordings, world, world.loss, rng, generator)

    return gradient


@torch.no_grad()
def _validation(
    config: TrainWorldModelConfig, dataset: Dataset, held_out: Sequence[Episode], model: WorldModel
) -> dict[str, float]:
    rows = dataset.windows(np.random.default_rng(0), 4 * config.batch, config.length, held_out, fields=())["row"]
    generator = torch.Generator().manual_seed(0)
    _, metrics = model.loss(*_at(dataset, rows, model), generator, with_open_loop=True)
    return {f"held_out_{name}": value for name, value in numbers(metrics).items()}


def _at(dataset: Dataset, rows: NDArray[np.int64], model: WorldModel) -> tuple[Observation, Tensor]:
    return observation_at(dataset, rows, model.device), action_at(dataset, rows, model.device)


def _progress(config: TrainWorldModelConfig, step: int, metrics: dict[str, float], run: Run) -> str:
    return (
        f"{step}/{config.updates} updates, loss {metrics['loss']:.3f}, held out {metrics['held_out_loss']:.3f} "
        f"(first frame {metrics['held_out_reconstruction_first']:.2f}), {run.seconds:.0f} s"
    )
