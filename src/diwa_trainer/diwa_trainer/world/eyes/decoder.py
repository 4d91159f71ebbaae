"""Redraws what cameras saw from numbers: by the first camera a code is learned, and all are for the reader's eye."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diwa_runtime.spec import CameraSpec, Spec
from diwa_trainer.dataset import Dataset
from diwa_trainer.devices.ranks import ALONE, Share
from diwa_trainer.world.eyes.eyes import EyesConfig, as_images, as_pictures
from diwa_trainer.world.features import CLAMP
from diwa_trainer.world.observations import Recorded

LEAST_SPREAD = 0.05
"""Of a pixel over the recordings. A pixel counts by its own spread, so that a lamp of ten pixels counts."""
FITTED_ROWS = 2000
"""Recorded rows that the pixels' mean and spread are taken from."""
COARSE = 16
"""Pixels that become one where the picture is smallest."""
SHOWN = "_shown"
"""Behind the name of a camera whose pictures are redrawn for the reader's eye alone."""
EVERY = 4
"""One row in so many is redrawn for the reader's eye alone: it costs little beside what eyes learn by."""


class PictureDecoder(nn.Module):
    """Numbers (B, N) -> pictures of one camera.

    Attributes:
        camera: its name.
        mean, spread: of its pixels (3, H, W).
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, camera: CameraSpec, numbers: int, config: EyesConfig) -> None:
        super().__init__()
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
        rows = dataset.evenly(FITTED_ROWS)
        pictures = as_pictures(torch.from_numpy(dataset.take(self.camera, rows)))
        self.mean.copy_(pictures.mean(0))
        self.spread.copy_(pictures.std(0).clamp(min=LEAST_SPREAD))

    def forward(self, numbers: Tensor) -> Tensor:
        """Draw standardised pictures (B, 3, H, W)."""
        drawn: Tensor = self.out(self.into(numbers).unflatten(1, self.coarse))
        return drawn[:, :, : self.shape[1], : self.shape[2]].float()

    def loss(self, numbers: Tensor, images: Tensor) -> Tensor:
        """Squared error of the pictures of images (B, H, W, 3), in units of each pixel's spread."""
        return self.errors(numbers, images).mean()

    def loss_of_every(self, step: int, numbers: Tensor, images: Tensor, share: Share = ALONE) -> Tensor:
        """Loss of every `step`-th row of a whole batch, from this process's numbers (B, N).

        Of those rows alone are images (b, H, W, 3). Processes may have more or fewer of them: each divides by the mean.
        """
        rows = -(-len(numbers) * share.count // step) / share.count
        return self.errors(numbers[share.every(step)], images).sum() / rows

    def errors(self, numbers: Tensor, images: Tensor) -> Tensor:
        """As `loss`, of each picture (B,)."""
        target = ((as_pictures(images) - self.mean) / self.spread).clamp(-CLAMP, CLAMP)
        return (self(numbers) - target).square().mean((1, 2, 3))

    @torch.no_grad()
    def draw(self, numbers: Tensor) -> Tensor:
        """Draw images (B, H, W, 3) uint8."""
        return as_images(self(numbers) * self.spread + self.mean)


class OtherCameras(nn.ModuleDict):
    """A decoder for each camera but the first, by name, for the eye of the reader alone."""

    def __init__(self, spec: Spec, numbers: int, config: EyesConfig) -> None:
        super().__init__({camera.name: PictureDecoder(camera, numbers, config) for camera in spec.cameras[1:]})

    def fit(self, dataset: Dataset) -> None:
        """As a decoder's, of each."""
        for _, decoder in self.decoders():
            decoder.fit(dataset)

    def images(self, recorded: Recorded, rows: NDArray[np.int64], share: Share) -> dict[str, Tensor]:
        """Read what the loss is of: images (b, H, W, 3) of some of this process's rows (B,)."""
        return {f"{name}{SHOWN}": recorded.at(name, rows[share.every(EVERY)]) for name in self}

    def loss(self, numbers: Tensor, batch: dict[str, Tensor], share: Share) -> Tensor:
        """Sum of the decoders' losses on some rows of a batch, drawn from numbers (B, N), which it teaches nothing."""
        said = numbers.detach()
        losses = [one.loss_of_every(EVERY, said, batch[f"{name}{SHOWN}"], share) for name, one in self.decoders()]
        return torch.stack(losses).sum() if losses else numbers.new_zeros(())

    def draw(self, numbers: Tensor) -> dict[str, Tensor]:
        """Draw images (B, H, W, 3) uint8, by camera."""
        return {name: decoder.draw(numbers) for name, decoder in self.decoders()}

    def decoders(self) -> Iterator[tuple[str, PictureDecoder]]:
        """Each camera's name and decoder."""
        return ((name, cast(PictureDecoder, decoder)) for name, decoder in self.items())
