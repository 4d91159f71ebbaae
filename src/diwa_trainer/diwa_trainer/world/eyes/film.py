"""What the model expects to see, beside what was seen: a film for the eye of the reader.

Eyes come with a decoder for each camera: from what the model imagines, and the arm's pose, it redraws the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.world.eyes.beside import beside, captioned
from diwa_trainer.world.open_loop import foresee
from diwa_trainer.world.world_model import WorldModel

CONTEXT, STEPS, WINDOWS = 2, 80, 4
"""Frames that the model sees, steps that it imagines after them from actions alone, and windows shown."""


@torch.no_grad()
def open_loop_film(
    model: WorldModel, dataset: Dataset, episodes: Sequence[Episode], seed: int
) -> list[NDArray[np.uint8]]:
    """Return frames (H, W, 3): four windows side by side, each with what was seen, and right of it what is expected.

    Below the first camera's pictures are those of the others. Empty where the model sees no pictures or no episode is
    long enough.
    """
    length = CONTEXT + STEPS
    long = [episode for episode in episodes if len(episode) >= length]
    if model.sight is None or not long:
        return []
    rows = dataset.windows(np.random.default_rng(seed), WINDOWS, length, long, fields=())["row"]
    drawn = model.draw(foresee(model, dataset, rows, CONTEXT, seed).flatten(0, 1))
    windows = beside(
        {name: dataset.take(name, rows) for name in drawn},
        {name: images.unflatten(0, (WINDOWS, length)).numpy(force=True) for name, images in drawn.items()},
    )
    strip = np.concatenate(list(windows), 2)
    said = [*["drawn, seen"] * CONTEXT, *(f"expected, step {step}" for step in range(1, STEPS + 1))]
    return [captioned(frame, right, WINDOWS) for frame, right in zip(strip, said, strict=True)]
