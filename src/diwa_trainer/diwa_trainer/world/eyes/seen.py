"""Recorded rows as eyes see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.world.observations import pictures_at

BLOCK = 256
"""Rows that are looked at at a time."""


def rows_of(episodes: Sequence[Episode]) -> NDArray[np.int64]:
    """Return the rows of episodes, in order."""
    return np.sort(np.concatenate([np.zeros(0, np.int64), *(np.arange(e.start, e.end) for e in episodes)]))


@torch.no_grad()
def see(sight: nn.Module, dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return what eyes, or a world model's own encoder, make of pictures and proprio in rows (N,): numbers (N, S)."""
    blocks = (rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK))
    device = next(sight.parameters()).device
    return np.concatenate([sight(pictures_at(dataset, block, device)).numpy(force=True) for block in blocks])
