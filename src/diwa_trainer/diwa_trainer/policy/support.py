"""Where the recordings reach: an imagined episode that leaves them ends as a failure.

A world model answers anywhere, also where nothing was ever recorded, and a policy that is optimised in it finds those
places. So the hand, decoded from imagined latents, must stay in cells of space in which recorded hands have been; and
where the scene is decoded, it must have been there with the task's part of the scene standing as it does (a hand that
goes through a handle), and be where hands have been while that part moved as it does (a drawer that opens by itself).

Dimensions: N recorded rows, D numbers of a cell, B episodes, T steps of a chunk, Z latent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diwa_runtime.config.bounds import check_bounds
from diwa_runtime.spec import TCP_POSITION, TaskSpec
from diwa_trainer.dataset import Dataset
from diwa_trainer.world.rules import has_two_levels
from diwa_trainer.world.world_model import WorldModel

Path = Tensor
"""Latents (B, T + 1, Z) of a chunk: the one at which it was drawn, then those after each of its actions."""
Outside = Callable[[Path], Tensor]
"""Says of paths which have left the recordings: bool (B,)."""

SupportKind = Literal["none", "hand", "scene"]
MOVING = 1 / 6
"""Of the task's change, within a chunk: from there on its part of the scene counts as moving."""


@dataclass(frozen=True)
class SupportConfig:
    """What counts as recorded."""

    kind: SupportKind = field(
        default="scene",
        metadata={
            "help": "where recorded hands have been; or there with the task's part of the scene as it is, and moves"
        },
    )
    cell_m: float = field(default=0.02, metadata={"help": "size of a cell"})
    levels: float = field(
        default=1.0, metadata={"help": "of that part of the scene, in one change of the task; two at least"}
    )

    def __post_init__(self) -> None:
        check_bounds(self, cell_m=(1e-4, 10.0), levels=(0.01, 1000.0))


class Cells:
    """The cells of a grid that points have been in; the neighbours along an axis count as visited too."""

    def __init__(self, points: NDArray[np.float32], size: Sequence[float], spread: Sequence[bool]) -> None:
        """Mark the cells of points (N, D).

        Args:
            points: finite.
            size: of a cell along each axis (D,).
            spread: along which axes neighbours count (D,).
        """
        edge = np.asarray(size, np.float64)
        cells = np.floor(points / edge).astype(np.int64)
        lowest = cells.min(0) - 2  # two cells on each side: a neighbour, and an empty one for all that lies beyond
        counts = cells.max(0) - lowest + 3
        strides = np.append(np.cumprod(counts[:0:-1])[::-1], 1)
        own = np.unique((cells - lowest) @ strides)
        beside = [own + sign * stride for stride in strides[np.asarray(spread)] for sign in (-1, 1)]
        self._visited = torch.from_numpy(np.unique(np.concatenate([own, *beside])))
        self._edge, self._lowest, self._last, self._strides = map(torch.from_numpy, (edge, lowest, counts - 1, strides))

    def contain(self, points: Tensor) -> Tensor:
        """Say of points (..., D) which lie in visited cells: bool (...)."""
        edge, lowest, last, strides, visited = (
            part.to(points.device) for part in (self._edge, self._lowest, self._last, self._strides, self._visited)
        )
        index = (points.double() / edge).floor().long() - lowest
        number = (torch.minimum(index.clamp(min=0), last) * strides).sum(-1)
        at = torch.searchsorted(visited, number).clamp(max=len(visited) - 1)
        return visited[at] == number


@dataclass(frozen=True)
class Recorded:
    """What is known of recorded rows: hands (N, 3), and the task's part of the scene: values and changes (N,).

    A change is that over the chunk that ended at the row; NaN where its episode had not begun a chunk before.
    """

    hands: NDArray[np.float32]
    values: NDArray[np.float32] | None
    changes: NDArray[np.float32] | None


class Support:
    """The recordings' reach for one task."""

    def __init__(self, recorded: Recorded, task: TaskSpec, config: SupportConfig) -> None:
        self.task, cell, axes = task, [config.cell_m] * 3, [True] * 3
        self._hands = Cells(recorded.hands, cell, axes)
        self._standing = self._moving = None
        if recorded.values is not None and recorded.changes is not None:
            known = ~np.isnan(recorded.changes)
            self._low, self._high = float(recorded.values.min()), float(recorded.values.max())
            changes = (self._high - self._low) / abs(task.change)
            on_or_off = has_two_levels(torch.from_numpy(recorded.values))
            self._levels = 2 if on_or_off else max(2, round(config.levels * changes))
            standing = np.column_stack([recorded.hands, self._level(torch.from_numpy(recorded.values)).numpy()])
            moving = np.column_stack([recorded.hands, self._direction(torch.from_numpy(recorded.changes)).numpy()])
            self._standing = Cells(standing, [*cell, 1.0], [*axes, False])
            self._moving = Cells(moving[known], [*cell, 1.0], [*axes, False])

    @property
    def needs_scene(self) -> bool:
        """Whether it looks at the task's part of the scene."""
        return self._standing is not None

    def _level(self, values: Tensor) -> Tensor:
        """Return in which of the equal parts of its recorded range the part stands: 0, 1, ... (...).

        What is decoded beyond an end stands at that end: parts rest at their ends, and a decoded value is never exact.
        """
        span = max(self._high - self._low, 1e-9)
        return ((values - self._low) / span * self._levels).floor().clamp(0, self._levels - 1)

    def _direction(self, changes: Tensor) -> Tensor:
        """Return where the part moves: -1, 0 or 1 (...)."""
        return torch.where(changes.abs() > MOVING * abs(self.task.change), changes.sign(), 0.0)

    def contains(self, hands: Tensor, values: Tensor | None, changes: Tensor | None) -> Tensor:
        """Say which of hands (..., 3), with values and changes (...), the recordings reach: bool (...)."""
        inside = self._hands.contain(hands)
        if self._standing is not None and self._moving is not None:
            assert values is not None
            assert changes is not None
            moving = torch.cat([hands, self._direction(changes)[..., None]], -1)
            inside = inside & self._standing.contain(torch.cat([hands, self._level(values)[..., None]], -1))
            inside = inside & (self._moving.contain(moving) | changes.isnan())
        return inside


def recorded_rows(dataset: Dataset, watched: str | None, chunk: int) -> Recorded:
    """Look up what `Recorded` holds; `watched` is the task's part of the scene, None where none is decoded."""
    hands = dataset.proprio[:, :3]
    if watched is None:
        return Recorded(hands, None, None)
    values = dataset.scene[:, dataset.spec.scene.index(watched)]
    changes = np.full(len(dataset), np.nan, np.float32)
    for episode in dataset.episodes:
        first, end = episode.start, episode.end
        changes[first + chunk : end] = values[first + chunk : end] - values[first : max(end - chunk, first)]
    return Recorded(hands, values, changes)


def learn_support(
    dataset: Dataset, task: TaskSpec, chunk: int, config: SupportConfig, *, decoded: bool = True
) -> Support:
    """Mark where the recordings reach for a task; `decoded` says whether the scene can be read off a latent."""
    watched = task.field if config.kind == "scene" and decoded and "scene" in dataset.arrays else None
    return Support(recorded_rows(dataset, watched, chunk), task, config)


def outside(model: WorldModel, support: Support) -> Outside:
    """Return what says which imagined paths have left the recordings' reach."""

    @torch.no_grad()
    def left(path: Path) -> Tensor:
        decoded = model.decode(path)
        hands = torch.stack([model.proprio.physical(decoded, name) for name in TCP_POSITION], -1)
        values = changes = None
        if support.needs_scene:
            values = model.scene_features.physical(decoded[..., len(model.proprio) :], support.task.field)
            changes = torch.full_like(values, torch.nan)
            changes[:, -1] = values[:, -1] - values[:, 0]
        return ~support.contains(hands, values, changes)[:, 1:].all(-1)

    return left
