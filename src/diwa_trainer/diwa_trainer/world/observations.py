"""Recorded rows as what the world model takes: observations and actions, as tensors."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diwa_trainer.dataset import Dataset
from diwa_trainer.devices.device import CPU, fits

Observation = dict[str, Tensor]
"""Observation fields by name: ``proprio`` (..., 15), ``scene`` (..., 24) and ``seen`` (..., S) float32, and cameras'
images (..., H, W, 3) uint8."""


def observation_at(dataset: Dataset, rows: NDArray[np.int64], device: torch.device = CPU) -> Observation:
    """Return what a world model is taught by of rows (...): fields of numbers as tensors (..., D).

    Where nothing has looked at the pictures yet (`Dataset.with_seen`) also those, as tensors (..., H, W, 3) uint8.
    """
    pictures = () if "seen" in dataset.arrays else dataset.images
    return {name: _at(dataset, name, rows, device) for name in (*dataset.numbers, *pictures)}


def pictures_at(dataset: Dataset, rows: NDArray[np.int64], device: torch.device = CPU) -> Observation:
    """Return what a robot observes in rows (...): its cameras' images (..., H, W, 3) uint8 and proprio (..., 15)."""
    return {name: _at(dataset, name, rows, device) for name in (*dataset.images, "proprio")}


class Recorded:
    """A dataset's rows as tensors on a device, where its pictures lie for good, as bytes, if they fit."""

    def __init__(self, dataset: Dataset, device: torch.device = CPU) -> None:
        self.dataset, self.device = dataset, device
        size = sum(images.nbytes for images in dataset.images.values())
        kept = dataset.images if fits(size, device) else {}
        self._kept = {name: torch.from_numpy(np.array(images)).to(device) for name, images in kept.items()}

    @property
    def reads_pictures(self) -> bool:
        """Whether each batch reads pictures from the disk and sends them to the device."""
        return self.device.type != "cpu" and not self._kept

    def at(self, name: str, rows: NDArray[np.int64]) -> Tensor:
        """Return a field at rows (...): (..., *row shape)."""
        if name in self._kept:
            return self._kept[name][torch.from_numpy(rows).to(self.device)]
        return _at(self.dataset, name, rows, self.device)

    def pictures_at(self, rows: NDArray[np.int64]) -> Observation:
        """Return what a robot observes in rows (...), as the function of that name."""
        return {name: self.at(name, rows) for name in (*self.dataset.images, "proprio")}


def action_at(dataset: Dataset, rows: NDArray[np.int64], device: torch.device = CPU) -> Tensor:
    """Return what was accepted after rows (...) as a tensor (..., 7)."""
    return _at(dataset, "action", rows, device)


def _at(dataset: Dataset, name: str, rows: NDArray[np.int64], device: torch.device) -> Tensor:
    """Copy rows (...) of a field into memory of torch's, and to the device: (..., *row shape).

    What numpy allocates for windows of images goes back to the system with every batch, and getting it anew costs three
    times what the copying does. From pinned memory a graphics card fetches them while the CPU goes on.
    """
    array = dataset.arrays[name]
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    taken = torch.empty((*rows.shape, *array.shape[1:]), dtype=dtype, pin_memory=device.type == "cuda")
    dataset.take(name, rows, out=taken.numpy())
    return taken.to(device, non_blocking=True)
