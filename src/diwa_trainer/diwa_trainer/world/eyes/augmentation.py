"""Pictures as another day, another lamp and a camera that was touched would show them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch.nn.functional as F
from torch import Tensor

from diwa_runtime.config.bounds import check_bounds
from diwa_trainer.devices.draws import Source, normal, uniform


@dataclass(frozen=True)
class AugmentationConfig:
    """How far pictures are changed in training; each picture by its own draw."""

    brightness: float = field(default=0.1, metadata={"help": "added to all pixels, deviation; 1 is black to white"})
    contrast: float = field(default=0.1, metadata={"help": "factor about the mean, deviation of its logarithm"})
    colour: float = field(default=0.05, metadata={"help": "added to each colour, deviation"})
    noise: float = field(default=0.02, metadata={"help": "added to each pixel, deviation"})
    shift: float = field(default=0.0, metadata={"help": "pixels at most that a picture is moved, along each axis"})
    blur: float = field(
        default=0.0, metadata={"help": "share at most of a pixel that is the mean of it and its eight neighbours"}
    )

    def __post_init__(self) -> None:
        check_bounds(self, brightness=(0, 1), contrast=(0, 1), colour=(0, 1), noise=(0, 1), shift=(0, 64), blur=(0, 1))


def augment(pictures: Tensor, config: AugmentationConfig, source: Source) -> Tensor:
    """Change pictures (B, 3, H, W) of values about -0.5 to 0.5, each by its own draw; the shape stays."""
    size = (len(pictures), 1, 1, 1)

    def draw(*shape: int) -> Tensor:
        return normal(shape, source, pictures.device)

    if config.shift:
        pictures = _shifted(pictures, config.shift, source)
    if config.blur:
        share = config.blur * uniform(size, source, pictures.device)
        pictures = pictures.lerp(F.avg_pool2d(F.pad(pictures, (1, 1, 1, 1), mode="replicate"), 3, 1), share)
    if config.contrast:
        mean = pictures.mean((1, 2, 3), keepdim=True)
        pictures = (pictures - mean) * (config.contrast * draw(*size)).exp() + mean
    if config.brightness or config.colour:
        pictures = pictures + config.brightness * draw(*size) + config.colour * draw(len(pictures), 3, 1, 1)
    if config.noise:
        pictures = pictures + config.noise * draw(*pictures.shape)
    return pictures


def _shifted(pictures: Tensor, most: float, source: Source) -> Tensor:
    """Move each picture by up to `most` pixels along each axis, its border repeated."""
    height, width = pictures.shape[-2:]
    moves = (2 * uniform((len(pictures), 2), source, pictures.device) - 1) * most
    matrix = pictures.new_zeros(len(pictures), 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1
    matrix[:, 0, 2], matrix[:, 1, 2] = 2 * moves[:, 0] / width, 2 * moves[:, 1] / height
    grid = F.affine_grid(matrix, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
