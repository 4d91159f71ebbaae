"""Recorded rows as eyes see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.world.eyes.eyes import Eyes
from diwa_trainer.world.observations import pictures_at

BLOCK = 256
"""Rows that are looked at at a time."""


def rows_of(episodes: Sequence[Episode]) -> NDArray[np.int64]:
    """Return the rows of episodes, in order."""
    return np.sort(np.concatenate([np.zeros(0, np.int64), *(np.arange(e.start, e.end) for e in episodes)]))


@torch.no_grad()
def see(eyes: Eyes, dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return what eyes see in rows (N,): standardised numbers (N, S)."""
    seen = np.empty((len(rows), len(eyes.names)), np.float32)
    for i in range(0, len(rows), BLOCK):
        seen[i : i + BLOCK] = eyes(pictures_at(dataset, rows[i : i + BLOCK])).numpy()
    return seen
