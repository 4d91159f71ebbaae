"""What the model expects to see, beside what was seen: a film for the eye of the reader.

Eyes come with a decoder for each camera: from what the model imagines, and the arm's pose, it redraws the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from diwa_trainer.dataset import Dataset, Episode
from diwa_trainer.world.open_loop import foresee
from diwa_trainer.world.world_model import WorldModel

CONTEXT, STEPS, WINDOWS = 2, 80, 4
"""Frames that the model sees, steps that it imagines after them from actions alone, and windows shown."""
LARGER, GAP, CAPTION = 2, 4, 18
"""How much larger than recorded pictures are shown; recorded pixels between two of them; shown pixels of a caption."""
WHITE, INK = 255, (35, 35, 35)


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
    pairs = [
        np.concatenate([dataset.take(name, rows), images.unflatten(0, (WINDOWS, length)).numpy(force=True)], 3)
        for name, images in drawn.items()
    ]
    width = max(pair.shape[3] for pair in pairs) + GAP
    windows = np.concatenate([_padded(pair, width) for pair in pairs], 2)
    strip = np.concatenate(list(windows), 2).repeat(LARGER, 1).repeat(LARGER, 2)
    return [_captioned(frame, step, LARGER * width) for step, frame in enumerate(strip)]


def _padded(pairs: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """White below pictures (..., H, W, 3), and right of them up to a width."""
    beside = ((0, 0),) * (pairs.ndim - 3)
    return np.pad(pairs, (*beside, (0, GAP), (0, width - pairs.shape[-2]), (0, 0)), constant_values=WHITE)


def _captioned(frame: NDArray[np.uint8], step: int, width: int) -> NDArray[np.uint8]:
    """Write above each window, `width` pixels wide, what its halves are."""
    image = Image.fromarray(np.pad(frame, ((CAPTION, 0), (0, 0), (0, 0)), constant_values=WHITE))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(size=12)
    known = "drawn, seen" if step < CONTEXT else f"expected, step {step - CONTEXT + 1}"
    for left in range(0, image.width, width):
        draw.text((left + 2, 1), "recorded", INK, font)
        draw.text((left + (width - LARGER * GAP) // 2 + 2, 1), known, INK, font)
    return np.asarray(image)
