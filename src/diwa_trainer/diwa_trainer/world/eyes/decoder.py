"""Redraws what the first camera saw from numbers: what a code learns by, and for the eye of the reader."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from diwa_runtime.spec import Spec
from diwa_trainer.dataset import Dataset
from diwa_trainer.world.eyes.eyes import EyesConfig, as_pictures
from diwa_trainer.world.features import CLAMP

LEAST_SPREAD = 0.05
"""Of a pixel over the recordings. A pixel counts by its own spread, so that a lamp of ten pixels counts."""
FITTED_ROWS = 2000
"""Recorded rows that the pixels' mean and spread are taken from."""
COARSE = 16
"""Pixels that become one where the picture is smallest."""


class PictureDecoder(nn.Module):
    """Numbers (B, N) -> pictures of one camera.

    Attributes:
        camera: the Spec's first, which should be a fixed one.
        mean, spread: of its pixels (3, H, W).
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, spec: Spec, numbers: int, config: EyesConfig) -> None:
        super().__init__()
        camera = spec.cameras[0]
        small, middle, large = config.channels
        self.camera, self.shape = camera.name, (3, camera.height, camera.width)
        self.coarse = (large, -(-camera.height // COARSE), -(-camera.width // COARSE))
        self.into = nn.Sequential(
            nn.Linear(numbers, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, self.coarse[0] * self.coarse[1] * self.coarse[2]),
            nn.SiLU(),
        )
        self.out = nn.Sequential(
            nn.ConvTranspose2d(large, middle, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(middle, small, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(small, 3, 8, 4, 2),
        )
        self.register_buffer("mean", torch.zeros(self.shape))
        self.register_buffer("spread", torch.ones(self.shape))

    def fit(self, dataset: Dataset) -> None:
        """Set the pixels' mean and spread from recorded rows."""
        rows = np.linspace(0, len(dataset) - 1, min(len(dataset), FITTED_ROWS), dtype=np.int64)
        pictures = as_pictures(torch.from_numpy(dataset.take(self.camera, rows)))
        self.mean.copy_(pictures.mean(0))
        self.spread.copy_(pictures.std(0).clamp(min=LEAST_SPREAD))

    def forward(self, numbers: Tensor) -> Tensor:
        """Draw standardised pictures (B, 3, H, W)."""
        drawn: Tensor = self.out(self.into(numbers).unflatten(1, self.coarse))
        return drawn[:, :, : self.shape[1], : self.shape[2]]

    def loss(self, numbers: Tensor, images: Tensor) -> Tensor:
        """Squared error of the pictures of images (B, H, W, 3), in units of each pixel's spread."""
        target = ((as_pictures(images) - self.mean) / self.spread).clamp(-CLAMP, CLAMP)
        return (self(numbers) - target).square().mean()

    @torch.no_grad()
    def draw(self, numbers: Tensor) -> Tensor:
        """Draw images (B, H, W, 3) uint8."""
        pictures = self(numbers) * self.spread + self.mean
        return ((pictures + 0.5) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
