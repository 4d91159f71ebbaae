"""Recorded rows as latents, made in one way everywhere: filter reset at the first row, previous action = hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diwa_trainer.dataset import Dataset
from diwa_trainer.world.observations import action_at, observation_at
from diwa_trainer.world.world_model import WorldModel


@torch.no_grad()
def encode(
    model: WorldModel,
    dataset: Dataset,
    starts: Sequence[int],
    ends: Sequence[int],
    generator: torch.Generator | None,
    *,
    mode: bool = False,
    batch: int = 128,
) -> list[Tensor]:
    """Filter stretches [start, end) from a reset; return one tensor of latents (T, Z) for each, where the model is.

    Latents hold sampled states, or with `mode` the likeliest, as the deployed filter has them.
    """
    starts_, ends_ = np.asarray(starts, np.int64), np.asarray(ends, np.int64)
    out: list[Tensor] = []
    for i in range(0, len(starts_), batch):
        first, last = starts_[i : i + batch], ends_[i : i + batch]
        longest = int((last - first).max())
        rows = np.minimum(first[:, None] + np.arange(longest), last[:, None] - 1)
        observation, actions = observation_at(dataset, rows, model.device), action_at(dataset, rows, model.device)
        latents = model.observe(observation, actions, generator, mode=mode).latents
        out += [latents[j, :length] for j, length in enumerate((last - first).tolist())]
    return out


def encode_starts(
    model: WorldModel,
    dataset: Dataset,
    rows: NDArray[np.int64],
    generator: torch.Generator | None,
    *,
    mode: bool = False,
) -> Tensor:
    """Return the first-frame latents (N, Z) of rows taken as episodes' first."""
    latents = encode(model, dataset, rows.tolist(), (rows + 1).tolist(), generator, mode=mode)
    return torch.cat(latents)
