"""Training windows one by one, the twins of `samples.latents` over `Dataset.windows`.

From one compressed .npz file a step, as CALVIN stores them, or from rows held in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Window = dict[str, Tensor]


class PlainWindows(ABC):
    """Draws windows within episodes, uniformly, and copies them one after the other."""

    def __init__(self, starts: Sequence[int], lengths: Sequence[int]) -> None:
        """Take each episode's first row and length."""
        self._episodes = list(zip(starts, lengths, strict=True))
        self._firsts: dict[int, list[int]] = {}

    @abstractmethod
    def window(self, first: int, length: int, fields: Sequence[str]) -> Window:
        """Return a run of rows, each field (T, ...)."""

    def windows(self, rng: np.random.Generator, batch: int, length: int, fields: Sequence[str]) -> Window:
        """Draw windows: each field (B, T, ...), and `row` (B, T)."""
        firsts = self._possible(length)
        chosen = [firsts[i] for i in rng.integers(len(firsts), size=batch)]
        drawn = [self.window(first, length, fields) for first in chosen]
        window = {name: torch.stack([one[name] for one in drawn]) for name in fields}
        return window | {"row": torch.tensor(chosen)[:, None] + torch.arange(length)}

    def _possible(self, length: int) -> list[int]:
        """All rows that a window may begin at; made once."""
        if length not in self._firsts:
            self._firsts[length] = [
                start + offset for start, rows in self._episodes for offset in range(rows - length + 1)
            ]
        return self._firsts[length]


class StepFiles(PlainWindows):
    """A folder with a file for every row."""

    def __init__(self, folder: Path, starts: Sequence[int], lengths: Sequence[int]) -> None:
        """Name the folder, and each episode's first row and length."""
        super().__init__(starts, lengths)
        self.folder = folder

    def path(self, row: int) -> Path:
        """Return where a row lies."""
        return self.folder / f"episode_{row:07d}.npz"

    def write(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write every row of arrays (N, ...) by field name."""
        for row in range(len(next(iter(rows.values())))):
            np.savez_compressed(self.path(row), **{name: array[row] for name, array in rows.items()})

    def window(self, first: int, length: int, fields: Sequence[str]) -> Window:
        """Read a run of rows, each field (T, ...)."""
        steps = []
        for row in range(first, first + length):
            with np.load(self.path(row), allow_pickle=False) as file:
                steps.append({name: file[name] for name in fields})
        return {name: torch.from_numpy(np.stack([step[name] for step in steps])) for name in fields}


class HeldRows(PlainWindows):
    """All rows in memory."""

    def __init__(self, rows: Mapping[str, NDArray[Any]], starts: Sequence[int], lengths: Sequence[int]) -> None:
        """Take arrays (N, ...) by field name, and each episode's first row and length."""
        super().__init__(starts, lengths)
        self.rows = {name: torch.from_numpy(array) for name, array in rows.items()}

    def window(self, first: int, length: int, fields: Sequence[str]) -> Window:
        """Cut a run of rows out, each field (T, ...)."""
        return {name: self.rows[name][first : first + length] for name in fields}
