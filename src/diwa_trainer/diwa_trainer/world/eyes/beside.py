"""Pictures as they were recorded beside the same as they are drawn, for the eye of the reader."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LARGER, GAP, CAPTION = 2, 4, 18
"""How much larger than recorded pictures are shown; recorded pixels between two of them; shown pixels of a caption."""
WHITE, INK = 255, (35, 35, 35)


def beside(recorded: Mapping[str, NDArray[np.uint8]], drawn: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Lay cameras' images (..., H, W, 3) below one another, each left as recorded and right as drawn; a white rim."""
    pairs = [np.concatenate([recorded[name], images], -2) for name, images in drawn.items()]
    width = max(pair.shape[-2] for pair in pairs) + GAP
    leading = ((0, 0),) * (pairs[0].ndim - 3)
    padded = [
        np.pad(pair, (*leading, (0, GAP), (0, width - pair.shape[-2]), (0, 0)), constant_values=WHITE) for pair in pairs
    ]
    return np.concatenate(padded, -3)


def captioned(image: NDArray[np.uint8], right: str, images: int = 1) -> NDArray[np.uint8]:
    """Enlarge what `beside` made, so many side by side (H, W, 3), and write above what its halves are."""
    large = image.repeat(LARGER, 0).repeat(LARGER, 1)
    canvas = Image.fromarray(np.pad(large, ((CAPTION, 0), (0, 0), (0, 0)), constant_values=WHITE))
    draw, font, width = ImageDraw.Draw(canvas), ImageFont.load_default(size=12), canvas.width // images
    for left in range(0, canvas.width, width):
        draw.text((left + 2, 1), "recorded", INK, font)
        draw.text((left + (width - LARGER * GAP) // 2 + 2, 1), right, INK, font)
    return np.asarray(canvas)
