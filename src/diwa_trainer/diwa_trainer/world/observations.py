"""Recorded rows as what the world model takes: observations and actions, as tensors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diwa_trainer.dataset import Dataset
from diwa_trainer.world.world_model import Observation


def observation_at(dataset: Dataset, rows: NDArray[np.int64]) -> Observation:
    """Return the observation fields of rows (...) as tensors, (..., D) and images (..., H, W, 3)."""
    return {name: _at(dataset, name, rows) for name in dataset.spec.observation_fields}


def action_at(dataset: Dataset, rows: NDArray[np.int64]) -> Tensor:
    """Return what was accepted after rows (...) as a tensor (..., 7)."""
    return _at(dataset, "action", rows)


def _at(dataset: Dataset, name: str, rows: NDArray[np.int64]) -> Tensor:
    """Copy rows (...) of a field into memory of torch's: (..., *row shape).

    What numpy allocates for windows of images goes back to the system with every batch, and getting it anew costs three
    times what the copying does.
    """
    array = dataset.arrays[name]
    taken = torch.empty((*rows.shape, *array.shape[1:]), dtype=torch.from_numpy(np.empty(0, array.dtype)).dtype)
    dataset.take(name, rows, out=taken.numpy())
    return taken
