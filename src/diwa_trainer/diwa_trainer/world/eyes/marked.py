"""What marks say of the scene where nothing measures it: weak labels for eyes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diwa_trainer.dataset import Dataset

UNKNOWN = -1


def marked_states(dataset: Dataset) -> NDArray[np.int8]:
    """Say at which end each watched value is in each row: (N, K), in the order of `Spec.watched`.

    1 from where a task was marked that raises the value, 0 from where one was marked that lowers it; in a
    demonstration, until its first mark, the end that its task begins at; else `UNKNOWN`.
    """
    tasks = {task.name: task for task in dataset.spec.tasks}
    columns = {name: column for column, name in enumerate(dataset.spec.watched)}
    states = np.full((len(dataset), len(columns)), UNKNOWN, np.int8)
    for episode in dataset.episodes:
        shown = tasks.get(episode.task or "")
        if shown is not None and episode.outcome == "success":
            states[episode.rows, columns[shown.field]] = shown.change < 0
        for row, name in sorted(episode.marks):
            if name in tasks:
                states[row : episode.end, columns[tasks[name].field]] = tasks[name].change > 0
    return states
