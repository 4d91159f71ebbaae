"""Training windows from one compressed .npz file a step, as CALVIN stores them; the twin of `Dataset.windows`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = dict[str, NDArray[Any]]


class StepFiles:
    """A folder with a file for every row."""

    def __init__(self, folder: Path, starts: Sequence[int], lengths: Sequence[int]) -> None:
        """Name the folder, and each episode's first row and length."""
        self.folder, self.starts, self.lengths = folder, starts, lengths

    def path(self, row: int) -> Path:
        """Return where a row lies."""
        return self.folder / f"episode_{row:07d}.npz"

    def write(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Write every row of arrays (N, ...) by field name."""
        for row in range(len(next(iter(rows.values())))):
            np.savez_compressed(self.path(row), **{name: array[row] for name, array in rows.items()})

    def window(self, first: int, length: int, fields: Sequence[str]) -> Rows:
        """Read a run of rows, each field (T, ...)."""
        steps = []
        for row in range(first, first + length):
            with np.load(self.path(row), allow_pickle=False) as file:
                steps.append({name: file[name] for name in fields})
        return {name: np.stack([step[name] for step in steps]) for name in fields}

    def windows(self, rng: np.random.Generator, batch: int, length: int, fields: Sequence[str]) -> Rows:
        """Draw windows within episodes, uniformly: each field (B, T, ...), and `row` (B, T)."""
        firsts = [
            start + offset
            for start, rows in zip(self.starts, self.lengths, strict=True)
            for offset in range(rows - length + 1)
        ]
        chosen = [firsts[i] for i in rng.integers(len(firsts), size=batch)]
        drawn = [self.window(first, length, fields) for first in chosen]
        window = {name: np.stack([one[name] for one in drawn]) for name in fields}
        return window | {"row": np.array(chosen)[:, None] + np.arange(length)}
