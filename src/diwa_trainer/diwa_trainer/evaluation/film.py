"""One small film of many episodes at once: what policies do from the same starts, side by side."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from diwa_runtime.errors import StorageError

TILE = (160, 120)
"""Width and height of one episode, pixels."""
COLUMNS = 5
CAPTION = 28
"""Height of the line above a policy's episodes, pixels."""
HOLD_S = 1.5
"""For how long the last picture stands before the film begins anew."""
SUCCESS, FAILURE, PAPER, INK = (46, 160, 67), (207, 34, 46), (255, 255, 255), (31, 35, 40)
_BORDER = 4
_QUALITY = 60
"""Of WebP, 0 to 100."""


@dataclass(frozen=True)
class Take:
    """A filmed episode.

    Attributes:
        frames: pictures (H, W, 3), one a step.
        success: whether it ended in success.
    """

    frames: Sequence[NDArray[np.uint8]]
    success: bool


def decode_mp4(film: bytes) -> list[NDArray[np.uint8]]:
    """Return the RGB pictures (H, W, 3) of an MP4.

    Raises:
        StorageError: it cannot be read.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        path.write_bytes(film)
        capture = cv2.VideoCapture(str(path))
        pictures = []
        while True:
            is_there, picture = capture.read()
            if not is_there:
                break
            pictures.append(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False))
        capture.release()
    if not pictures:
        raise StorageError("a video could not be read back; OpenCV found no picture in it")
    return pictures


def side_by_side(policies: Mapping[str, Sequence[Take]], every: int) -> list[Image.Image]:
    """Draw the episodes of each policy below its name, all running at once, each until it ends.

    Args:
        policies: by name, the takes of the same starts in the same order.
        every: keep one picture of so many, and the last.

    Returns:
        The pictures of the film.
    """
    longest = max(len(take.frames) for takes in policies.values() for take in takes)
    steps = [*range(0, longest - 1, every), longest - 1]
    return [_picture(policies, step) for step in steps]


def encode_webp(pictures: Sequence[Image.Image], rate_hz: float) -> bytes:
    """Return an animated WebP that repeats without an end; the last picture stands for `HOLD_S`."""
    period = round(1000 / rate_hz)
    out = io.BytesIO()
    pictures[0].save(
        out, "WEBP", save_all=True, append_images=pictures[1:], loop=0, quality=_QUALITY, method=4,
        duration=[*[period] * (len(pictures) - 1), round(1000 * HOLD_S)],
    )  # fmt: skip
    return out.getvalue()


def _picture(policies: Mapping[str, Sequence[Take]], step: int) -> Image.Image:
    blocks = [_block(name, takes, step) for name, takes in policies.items()]
    whole = Image.new("RGB", (blocks[0].width, sum(block.height for block in blocks)), PAPER)
    top = 0
    for block in blocks:
        whole.paste(block, (0, top))
        top += block.height
    return whole


def _block(name: str, takes: Sequence[Take], step: int) -> Image.Image:
    """One policy's caption and tiles. Who is done has a frame: green for success, red for failure."""
    width, height = TILE
    columns = min(COLUMNS, len(takes))
    rows = -(-len(takes) // columns)
    block = Image.new("RGB", (columns * width, CAPTION + rows * height), PAPER)
    draw = ImageDraw.Draw(block)
    done = [step >= len(take.frames) - 1 for take in takes]
    count = sum(take.success and ended for take, ended in zip(takes, done, strict=True))
    font = ImageFont.load_default(size=18)
    draw.text((6, 3), f"{name}: {count} of {len(takes)}", INK, font)
    for index, (take, ended) in enumerate(zip(takes, done, strict=True)):
        left, top = index % columns * width, CAPTION + index // columns * height
        picture = Image.fromarray(take.frames[min(step, len(take.frames) - 1)])
        block.paste(picture.resize(TILE, Image.Resampling.LANCZOS), (left, top))
        if ended:
            colour = SUCCESS if take.success else FAILURE
            draw.rectangle((left, top, left + width - 1, top + height - 1), outline=colour, width=_BORDER)
    return block
