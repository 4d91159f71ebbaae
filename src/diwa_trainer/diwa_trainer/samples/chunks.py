"""Demonstrations as (latent, action chunk) pairs: what behaviour cloning learns from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diwa_runtime.errors import InputError
from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.samples.latents import encode
from diwa_trainer.world.world_model import WorldModel


def demonstration_chunks(
    model: WorldModel,
    dataset: Dataset,
    episodes: Sequence[Episode],
    chunk: int,
    samples: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return latents (N, samples, Z) and the chunks (N, Ta, 7) that followed them, where the model is.

    All windows of `chunk` consecutive actions inside a demonstration, none padded past its end. An
    episode's last row has no action of its own, so it ends no window. Each demonstration is encoded `samples` times,
    with other draws of the posterior.

    Raises:
        InputError: every one of them is too short.
    """
    starts, ends = [e.start for e in episodes], [e.end for e in episodes]
    drawn = [encode(model, dataset, starts, ends, generator) for _ in range(samples)]
    latents, chunks = [], []
    for i, episode in enumerate(episodes):
        count = len(episode) - chunk
        if count <= 0:
            continue
        latents.append(torch.stack([encoding[i][:count] for encoding in drawn], 1))
        actions = torch.from_numpy(dataset.action[episode.rows])
        chunks.append(actions.unfold(0, chunk, 1)[:count].transpose(1, 2))
    if not chunks:
        raise InputError(
            f"{dataset.folder}: none of {len(episodes)} demonstrations has more than {chunk} rows; use shorter chunks"
        )
    return torch.cat(latents), torch.cat(chunks).to(model.device)
