"""`pretrain`: demonstrations and world model in, base diffusion policy out."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diwa_runtime.config.bounds import BATCHES, COUNTS, RATES, WORKERS, check_bounds
from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.devices.device import OnDevice, choose_device
from diwa_trainer.policy.diffusion import DiffusionConfig, DiffusionPolicy
from diwa_trainer.runs.run import SEEDS, Run, TrainState, cosine, intra_op_threads, make_state
from diwa_trainer.runs.trained import PRETRAINED, open_as_seen, save_policy
from diwa_trainer.samples.chunks import demonstration_chunks
from diwa_trainer.samples.stretches import FEWEST_DEMONSTRATIONS, check_marks, demonstrations
from diwa_trainer.world.world_model import WorldModel

VALIDATION_DRAWS = 4


@dataclass(frozen=True)
class PretrainConfig(OnDevice):
    """Clone demonstrations of one task into a diffusion policy over the world model's latents."""

    dataset: Path
    world_model: Path = field(metadata={"help": "run folder of train_world_model"})
    output: Path
    task: str
    demonstrations: int = field(default=50, metadata={"help": "how many to clone; the others validate"})
    policy: DiffusionConfig = field(default_factory=DiffusionConfig)
    updates: int = 4000
    batch: int = 256
    learning_rate: float = 3e-4
    final_learning_rate: float = field(default=0.05, metadata={"help": "at the end of the cosine, as a fraction"})
    weight_decay: float = 1e-6
    ema: float = field(default=0.995, metadata={"help": "decay of the weights' moving average, which is what is kept"})
    encodings: int = field(default=6, metadata={"help": "draws of the posterior a demonstration: augmentation"})
    seed: int = 0
    threads: int = 1
    log_every: int = 100
    save_every: int = 1000

    def __post_init__(self) -> None:
        check_bounds(self, demonstrations=BATCHES, updates=COUNTS, batch=BATCHES, encodings=(1, 256))
        check_bounds(self, ema=(0, 1), threads=WORKERS, log_every=COUNTS, save_every=COUNTS, seed=SEEDS)
        check_bounds(self, learning_rate=RATES, final_learning_rate=RATES, weight_decay=RATES)


def run(config: PretrainConfig) -> None:
    """Train to the end of the schedule; keep the averaged weights."""
    device = choose_device(config)
    dataset, model, model_file = open_as_seen(config.dataset, config.world_model, device)
    cloned, held_out = choose_demonstrations(config, dataset)
    inputs = {"dataset": dataset.fingerprint, "world_model": model_file.sha256}
    with Run(config.output, config, inputs) as run, intra_op_threads(config.threads):
        if run.is_done:
            return
        encoder = torch.Generator().manual_seed(config.seed)
        size = config.policy.chunk
        latents, chunks = demonstration_chunks(model, dataset, cloned, size, config.encodings, encoder)
        validation = demonstration_chunks(model, dataset, held_out, size, 1, encoder) if held_out else None
        state, policy, average = _make(config, model)
        run.restore(state)
        while state.step < config.updates:
            run.stop_if_interrupted(state)
            loss = _update(config, latents, chunks, policy, average, state)
            if state.step % config.log_every == 0:
                metrics = {"loss": float(loss)}
                run.check_finite("pretrain", state.step, metrics)
                metrics |= _validate(average, validation)
                run.log(state.step, metrics, show=_progress(config, state.step, metrics))
            if state.step % config.save_every == 0:
                run.save(state)
        final = _validate(average, validation)
        run.check_finite("pretrain", state.step, final)
        about = {"task": config.task, "latent_size": model.latent_size, "world_model": model_file.sha256}
        save_policy(run.folder, PRETRAINED, average, dataset.spec, about)
        run.finish({"seconds": run.seconds, "demonstrations": len(cloned), "pairs": len(chunks), **final})


def choose_demonstrations(config: PretrainConfig, dataset: Dataset) -> tuple[list[Episode], list[Episode]]:
    """Return the demonstrations to clone and those that validate.

    Raises:
        InputError: there are fewer than the settings ask for, or fewer than 10; or by the scene none succeeds.
    """
    needed = max(config.demonstrations, FEWEST_DEMONSTRATIONS)
    found = demonstrations(dataset, config.task, needed)
    check_marks(dataset, dataset.spec.task(config.task), found)
    order = np.random.default_rng(config.seed).permutation(len(found))
    shuffled = [found[i] for i in order]
    return shuffled[: config.demonstrations], shuffled[config.demonstrations :]


def _make(config: PretrainConfig, model: WorldModel) -> tuple[TrainState, DiffusionPolicy, DiffusionPolicy]:
    torch.manual_seed(config.seed)
    policy = DiffusionPolicy(config.policy, model.latent_size).to(model.device)
    average = copy.deepcopy(policy).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        policy.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    state = make_state({"policy": policy, "average": average}, {"policy": optimizer}, config.seed)
    return state, policy, average


def _update(
    config: PretrainConfig,
    latents: Tensor,
    chunks: Tensor,
    policy: DiffusionPolicy,
    average: DiffusionPolicy,
    state: TrainState,
) -> Tensor:
    optimizer = state.optimizers["policy"]
    for group in optimizer.param_groups:
        group["lr"] = cosine(config.learning_rate, config.final_learning_rate, state.step / config.updates)
    row, encoding = (
        torch.randint(count, (config.batch,), generator=state.generator).to(latents.device)
        for count in latents.shape[:2]
    )
    loss = policy.loss(latents[row, encoding], chunks[row], state.generator)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    state.step += 1
    # Early on the average would be of nearly random weights: let it follow faster then.
    decay = min(config.ema, state.step / (state.step + 10))
    for averaged, current in zip(average.parameters(), policy.parameters(), strict=True):
        averaged.lerp_(current.detach(), 1 - decay)
    return loss.detach()


@torch.no_grad()
def _validate(average: DiffusionPolicy, validation: tuple[Tensor, Tensor] | None) -> dict[str, float]:
    """Loss of the averaged weights on held-out demonstrations, at fixed noise."""
    if validation is None:
        return {}
    generator = torch.Generator().manual_seed(0)
    latents, chunks = validation
    losses = [average.loss(latents[:, 0], chunks, generator) for _ in range(VALIDATION_DRAWS)]
    return {"held_out_loss": float(torch.stack(losses).mean())}


def _progress(config: PretrainConfig, step: int, metrics: dict[str, float]) -> str:
    return f"{config.task} {step}/{config.updates} updates, " + ", ".join(f"{k} {v:.4f}" for k, v in metrics.items())
