"""Stretches of recorded rows that serve as episodes of a task, with labels of success.

Demonstrations are episodes as they are. Play has none: any stretch that starts where the task could have started is
one, and whether it succeeds is read off the scene (or, without one, off the marks). Most such stretches fail, often
nearly: they are the hard negatives that demonstrations cannot give (`trial.md`, trap 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import InputError
from diwa_runtime.spec import TaskSpec
from diwa_trainer.dataset import Dataset, Episode

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Segment:
    """Rows [start, end) taken as an episode of its own; `success` (T,) says for each row whether the task is done."""

    start: int
    end: int
    success: NDArray[np.bool_]

    def __len__(self) -> int:
        return self.end - self.start


def demonstrations(dataset: Dataset, task: str, needed: int) -> tuple[Episode, ...]:
    """Return the task's successful demonstrations, in order.

    Raises:
        InputError: there are fewer than `needed`.
    """
    found = dataset.episodes_of(kind="demonstration", task=task, outcome="success")
    if len(found) < needed:
        raise InputError(
            f"{dataset.folder}: has {len(found)} successful demonstrations of {task}, needs {needed}; record more, or "
            "mark them with SUCCESS on episode/event"
        )
    return found


def demonstration_segments(dataset: Dataset, task: str, episodes: Sequence[Episode]) -> list[Segment]:
    """Label the rows of demonstrations."""
    return [Segment(e.start, e.end, _label(dataset, dataset.spec.task(task), e.start, e.end, e)) for e in episodes]


def play_segments(
    dataset: Dataset,
    task: str,
    like: Sequence[Episode],
    episodes: Sequence[Episode],
    count: int,
    length: int,
    rng: np.random.Generator,
) -> list[Segment]:
    """Draw stretches of `episodes` that start with the task's part of the scene as the episodes of `like` start.

    About half of them are chosen to succeed if that many do, so that both labels are met.
    """
    spec = dataset.spec.task(task)
    candidates, episode_of = _play_rows(episodes, minimum=8)
    if "scene" in dataset.arrays:
        column = dataset.scene[:, dataset.spec.scene.index(spec.field)]
        first = column[[episode.start for episode in like]]
        span = abs(spec.change) * 0.1
        fits = (column[candidates] >= first.min() - span) & (column[candidates] <= first.max() + span)
        candidates, episode_of = candidates[fits], episode_of[fits]
    drawn = rng.permutation(len(candidates))[: 8 * count]
    segments = []
    for i in drawn:
        episode = episodes[episode_of[i]]
        start = int(candidates[i])
        end = min(start + length, episode.end)
        segments.append(Segment(start, end, _label(dataset, spec, start, end, episode)))
    succeeded = [segment for segment in segments if segment.success.any()][: count // 2]
    failed = [segment for segment in segments if not segment.success.any()][: count - len(succeeded)]
    return succeeded + failed


def start_rows(
    dataset: Dataset, like: Sequence[Episode], episodes: Sequence[Episode], count: int, rng: np.random.Generator
) -> Rows:
    """Draw rows of `episodes` of play that look like the first frames of `like`: where imagined episodes may start.

    A row's distance is how far its worst feature lies outside of the range that the first frames span, in units of that
    range. The features are proprio and, where recorded, the scene without its free blocks. Of the nearest rows, `count`
    are drawn, spread over the recordings.
    """
    candidates, _ = _play_rows(episodes, minimum=8)
    first = [episode.start for episode in like]
    names = list(dataset.spec.proprio)
    values = dataset.proprio
    if "scene" in dataset.arrays:
        fixed = [i for i, name in enumerate(dataset.spec.scene) if "_" not in name]
        names += [dataset.spec.scene[i] for i in fixed]
        values = np.concatenate([values, dataset.scene[:, fixed]], -1)
    angles = np.array([name.endswith(("_roll", "_pitch", "_yaw")) for name in names])
    values = np.where(angles, np.cos(values), values)
    low, high = values[first].min(0), values[first].max(0)
    reach = np.maximum(high - low, 0.02)
    outside = np.maximum(np.maximum(low - values[candidates], values[candidates] - high), 0) / reach
    distance = outside.max(-1)
    near = candidates[np.argsort(distance, kind="stable")[: 8 * count]]
    return np.sort(rng.choice(near, size=min(count, len(near)), replace=False))


def _play_rows(episodes: Sequence[Episode], minimum: int) -> tuple[Rows, Rows]:
    """Rows of play that have at least `minimum` rows after them, and the index of the episode of each."""
    rows, owners = [], []
    for index, episode in enumerate(episodes):
        if episode.kind == "play" and len(episode) > minimum:
            rows.append(np.arange(episode.start, episode.end - minimum))
            owners.append(np.full(len(rows[-1]), index))
    if not rows:
        empty = np.zeros(0, np.int64)
        return empty, empty
    return np.concatenate(rows), np.concatenate(owners)


def _label(dataset: Dataset, task: TaskSpec, start: int, end: int, episode: Episode) -> NDArray[np.bool_]:
    if "scene" in dataset.arrays:
        scene = dataset.scene
        return task.achieved(scene[start], scene[start:end], dataset.spec.scene)
    marks = [row for row, name in episode.marks if name == task.name and row >= start]
    return np.arange(start, end) >= (min(marks) if marks else end)
