"""What the model expects to see, beside what was seen: a film for the eye of the reader.

Eyes come with a decoder: it redraws the first camera's pictures from what the model imagines, and the arm's pose.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.world.open_loop import predict
from diwa_trainer.world.world_model import WorldModel

CONTEXT, STEPS, WINDOWS = 2, 80, 4
"""Frames that the model sees, steps that it imagines after them from actions alone, and windows shown."""
LARGER, GAP = 3, 4
"""How much larger than recorded pictures are shown, and the pixels between two windows."""


@torch.no_grad()
def open_loop_film(
    model: WorldModel, dataset: Dataset, episodes: Sequence[Episode], seed: int
) -> list[NDArray[np.uint8]]:
    """Return frames (H, W, 3): for each of four windows what was seen, and right of it what the model expects.

    Empty where the model has no eyes or no episode is long enough.
    """
    eyes, length = model.eyes, CONTEXT + STEPS
    long = [episode for episode in episodes if len(episode) >= length]
    if eyes is None or not long:
        return []
    rows = dataset.windows(np.random.default_rng(seed), WINDOWS, length, long, fields=())["row"]
    expected = predict(model, dataset, rows, CONTEXT, seed)
    proprio = len(model.proprio)
    drawn = eyes.pictures(expected[..., proprio:].flatten(0, 1), expected[..., :proprio].flatten(0, 1))
    shown = drawn.unflatten(0, (WINDOWS, length)).numpy(force=True)
    pairs = np.concatenate([dataset.take(dataset.spec.cameras[0].name, rows), shown], 3)
    pairs = np.pad(pairs, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    grid = np.concatenate([np.concatenate(pairs[:2], 2), np.concatenate(pairs[2:], 2)], 1)
    return list(grid.repeat(LARGER, 1).repeat(LARGER, 2))
