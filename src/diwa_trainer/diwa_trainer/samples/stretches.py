"""Stretches of recorded rows that serve as episodes of a task, with labels of success.

Demonstrations are episodes as they are. Play has none: any stretch that starts where the task could have started is
one, and whether it succeeds is read off the scene (or, without one, off the marks). Most such stretches fail, often
nearly: they are the hard negatives that demonstrations cannot give.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from diwa_runtime.errors import InputError
from diwa_runtime.spec import TaskSpec
from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.world.features import Features
from diwa_trainer.world.rules import body_of, free_bodies

RowNumbers = NDArray[np.int64]

FEWEST_DEMONSTRATIONS = 10
"""A skill is not learned, and a reward not judged, from fewer."""
ROWS_AFTER = 8
"""A stretch of play is at least one row longer: enough for two chunks."""
RIDGE = 0.1
"""Added to the variances that a discriminant is made from: there are as few demonstrations as numbers that are seen."""


@dataclass(frozen=True)
class Stretch:
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
        fewer = ", or ask for fewer (demonstrations of pretrain)" if needed > FEWEST_DEMONSTRATIONS else ""
        raise InputError(
            f"{dataset.folder}: has {len(found)} successful demonstrations of {task}, needs {needed}; record more and "
            f"mark them with SUCCESS on episode/event{fewer}"
        )
    return found


def check_marks(dataset: Dataset, task: TaskSpec, marked: Sequence[Episode]) -> None:
    """Hold demonstrations that are marked as successful against the recorded scene, where there is one.

    Raises:
        InputError: by the scene none of them succeeds: all would be learned as failures.
    """
    if "scene" not in dataset.arrays:
        return
    if not any(_label(dataset, task, e.start, e.end, e).any() for e in marked):
        values = dataset.scene[:, dataset.spec.scene.index(task.field)]
        changes = [values[e.rows] - values[e.start] for e in marked]
        most = float(np.median([change[np.abs(change).argmax()] for change in changes]))
        raise InputError(
            f"{dataset.folder}: of {len(marked)} demonstrations of {task.name} that are marked SUCCESS, none changes "
            f"{task.field} by {task.change:+g} and beyond, as the Spec asks (in the median by {most:+.2g} at most); "
            "put field and change of the task right in the Spec, or record until it is done, and ingest again"
        )


def demonstration_stretches(dataset: Dataset, task: str, episodes: Sequence[Episode]) -> list[Stretch]:
    """Label the rows of demonstrations."""
    return [Stretch(e.start, e.end, _label(dataset, dataset.spec.task(task), e.start, e.end, e)) for e in episodes]


def play_stretches(
    dataset: Dataset,
    task: str,
    like: Sequence[Episode],
    episodes: Sequence[Episode],
    count: int,
    length: int,
    rng: np.random.Generator,
) -> list[Stretch]:
    """Draw stretches of `episodes` that start with the task's part of the scene as the episodes of `like` start.

    About half of them are chosen to succeed if that many do, so that both labels are met.
    """
    spec = dataset.spec.task(task)
    candidates, episode_of = _play_rows(dataset, spec, like, episodes)
    drawn = rng.permutation(len(candidates))[: 8 * count]
    stretches = []
    for i in drawn:
        episode = episodes[episode_of[i]]
        start = int(candidates[i])
        end = min(start + length, episode.end)
        stretches.append(Stretch(start, end, _label(dataset, spec, start, end, episode)))
    succeeded = [stretch for stretch in stretches if stretch.success.any()][: count // 2]
    failed = [stretch for stretch in stretches if not stretch.success.any()][: count - len(succeeded)]
    return succeeded + failed


def start_rows(
    dataset: Dataset,
    task: str,
    like: Sequence[Episode],
    episodes: Sequence[Episode],
    count: int,
    rng: np.random.Generator,
) -> RowNumbers:
    """Draw rows of `episodes` of play that look like the first frames of `like`: where imagined episodes may start.

    The task's part of the scene must be as it was there. A row's distance is how far its worst feature lies outside of
    the range that the first frames span, in units of that range. The features are proprio and, where recorded, the
    scene without free bodies that no task watches. Of the nearest rows, `count` are drawn, spread over the recordings.
    """
    candidates, _ = _play_rows(dataset, dataset.spec.task(task), like, episodes)
    first = [episode.start for episode in like]
    values = Features(dataset.spec.proprio).raw_features(torch.from_numpy(dataset.proprio)).numpy()
    if "scene" in dataset.arrays:
        scene = Features(dataset.spec.scene)
        free = free_bodies(dataset.spec.scene, dataset.spec.watched)
        fixed = [i for i, name in enumerate(scene.names) if body_of(name) not in free]
        values = np.concatenate([values, scene.raw_features(torch.from_numpy(dataset.scene)).numpy()[:, fixed]], -1)
    low, high = values[first].min(0), values[first].max(0)
    reach = np.maximum(high - low, 0.02)
    outside = np.maximum(np.maximum(low - values[candidates], values[candidates] - high), 0) / reach
    distance = outside.max(-1)
    near = candidates[np.argsort(distance, kind="stable")[: 8 * count]]
    return np.sort(rng.choice(near, size=min(count, len(near)), replace=False))


def _play_rows(
    dataset: Dataset, task: TaskSpec, like: Sequence[Episode], episodes: Sequence[Episode]
) -> tuple[RowNumbers, RowNumbers]:
    """Rows of play at which the task could start, and the index of the episode of each.

    They have `ROWS_AFTER` rows after them, and the task's part of the scene, where recorded, lies within the range that
    the first frames of `like` span, give or take a tenth of what the task changes. Where eyes see and no scene is
    recorded, they look more like the first frames of `like` than like the last.
    """
    play = [(index, episode) for index, episode in enumerate(episodes) if episode.kind == "play"]
    spans = [np.arange(episode.start, episode.end - ROWS_AFTER) for _, episode in play]
    owners = [np.full(len(span), index) for (index, _), span in zip(play, spans, strict=True)]
    rows = np.concatenate([np.zeros(0, np.int64), *spans])
    owner = np.concatenate([np.zeros(0, np.int64), *owners])
    if "scene" not in dataset.arrays:
        fits = _seen_undone(dataset, like, rows) if "seen" in dataset.arrays else np.ones(len(rows), bool)
        return rows[fits], owner[fits]
    column = dataset.scene[:, dataset.spec.scene.index(task.field)]
    first = column[[episode.start for episode in like]]
    slack = abs(task.change) * 0.1
    fits = (column[rows] >= first.min() - slack) & (column[rows] <= first.max() + slack)
    return rows[fits], owner[fits]


def _seen_undone(dataset: Dataset, like: Sequence[Episode], rows: RowNumbers) -> NDArray[np.bool_]:
    """Whether what is seen in each row looks as before the task rather than as after it.

    A linear discriminant (Fisher's) between demonstrations' first and last frames: without it play that starts with the
    drawer open already would teach that an open drawer is a failure.
    """
    seen = dataset.arrays["seen"].astype(np.float64)
    before, after = seen[[episode.start for episode in like]], seen[[episode.end - 1 for episode in like]]
    within = np.cov(before.T) + np.cov(after.T) + RIDGE * np.eye(seen.shape[1])
    direction = np.linalg.solve(within, after.mean(0) - before.mean(0))
    return (seen[rows] - (before.mean(0) + after.mean(0)) / 2) @ direction < 0


def _label(dataset: Dataset, task: TaskSpec, start: int, end: int, episode: Episode) -> NDArray[np.bool_]:
    if "scene" in dataset.arrays:
        scene = dataset.scene
        return task.achieved(scene[start], scene[start:end], dataset.spec.scene)
    # What was done is undone where a task of the same field and the other direction was marked.
    undoing = {t.name for t in dataset.spec.tasks if t.field == task.field and t.change * task.change < 0}
    success = np.zeros(end - start, bool)
    for row, name in sorted(episode.marks):
        if row >= start and name in (task.name, *undoing):
            success[row - start :] = name == task.name
    return success
