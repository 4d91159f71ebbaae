"""Eyes of mode `vision`: a code that is learned from pictures and proprioception alone.

From the code of one moment, and the proprioception of *another* moment nearby, a decoder redraws what the first camera
saw at that other moment. Where the arm is then, it is told; so what the code holds is what stays while the arm moves:
drawer, slider, lamps. Afterwards the code is whitened and turned, so that its slowest parts come first (slow feature
analysis, Wiskott and Sejnowski 2002).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diwa_runtime.spec import Spec
from diwa_trainer.dataset import Dataset
from diwa_trainer.eyes.augmentation import AugmentationConfig
from diwa_trainer.eyes.eyes import Eyes, EyesConfig, as_pictures
from diwa_trainer.world.features import CLAMP
from diwa_trainer.world.observations import pictures_at

NEARBY = 6
"""Rows at most between the two moments."""
NOISE = 0.15
"""Deviation of what is added to the code, of unit variance, in training: it bounds what the code can hold."""
LEAST_SPREAD = 0.02
"""Of a pixel over the recordings. A pixel counts by its own spread, so that a lamp of ten pixels counts."""
FITTED_ROWS = 2000
"""Recorded rows that the pixels' mean and spread are taken from."""
CODE_WEIGHT, CODE_SHARE = 2.0, 1.0
SMALLEST_EIGENVALUE = 1e-4
"""Of the code's covariance, as a share of the largest: what varies less is not blown up by whitening."""


class CodeEyes(Eyes):
    """Pictures and proprioception -> a code (S).

    Attributes:
        redrawn: the camera whose pictures are redrawn: the Spec's first, which should be a fixed one.
        mean, spread: of that camera's pixels (3, H, W).
        centre, turn: (S,) and (S, S), what the head's normalised output is whitened and turned by.
    """

    mean: Tensor
    spread: Tensor
    centre: Tensor
    turn: Tensor

    def __init__(self, spec: Spec, config: EyesConfig) -> None:
        super().__init__(spec, config, config.code)
        self.normalise = nn.BatchNorm1d(config.code, affine=False)
        self.redrawn = spec.cameras[0].name
        shape = (3, spec.cameras[0].height, spec.cameras[0].width)
        self.decoder = PictureDecoder(config.code + len(self.proprio), shape, config)
        self.register_buffer("weight", torch.full((config.code,), CODE_WEIGHT), persistent=False)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("spread", torch.ones(shape))
        self.register_buffer("centre", torch.zeros(config.code))
        self.register_buffer("turn", torch.eye(config.code))

    @property
    def names(self) -> tuple[str, ...]:
        """``code_0``, the slowest, and so on."""
        return tuple(f"code_{i}" for i in range(self.config.code))

    @property
    def shares(self) -> tuple[float, ...]:
        """All alike."""
        return (CODE_SHARE,) * self.config.code

    def fit_features(self, dataset: Dataset) -> None:
        """Set the standardisation of proprio and of the redrawn camera's pixels."""
        self.proprio.fit(dataset.proprio)
        rows = np.linspace(0, len(dataset) - 1, min(len(dataset), FITTED_ROWS), dtype=np.int64)
        pictures = as_pictures(torch.from_numpy(dataset.take(self.redrawn, rows)))
        self.mean.copy_(pictures.mean(0))
        self.spread.copy_(pictures.std(0).clamp(min=LEAST_SPREAD))

    def say(self, raw: Tensor) -> Tensor:
        """Normalise, whiten and turn the head's output (B, S)."""
        return self.turned(self.normalise(raw).clamp(-CLAMP, CLAMP))

    def turned(self, normalised: Tensor) -> Tensor:
        """Whiten and turn normalised codes (N, S), once `settle` has found how."""
        return ((normalised - self.centre) @ self.turn).clamp(-CLAMP, CLAMP)

    def loss(
        self,
        dataset: Dataset,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        augmentation: AugmentationConfig,
    ) -> Tensor:
        """Squared error of the redrawn pictures of rows near to rows (B,), in units of each pixel's spread."""
        observation = pictures_at(dataset, rows)
        code = self.normalise(self.raw(self.augmented(observation, augmentation, rng), observation["proprio"]))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        code = code + NOISE * torch.randn(code.shape, generator=generator)
        other = nearby(dataset, rows, rng)
        proprio = torch.from_numpy(dataset.take("proprio", other))
        target = (as_pictures(torch.from_numpy(dataset.take(self.redrawn, other))) - self.mean) / self.spread
        return (self.redraw(code, proprio) - target.clamp(-CLAMP, CLAMP)).square().mean()

    def redraw(self, code: Tensor, proprio: Tensor) -> Tensor:
        """Redraw standardised pictures (B, 3, H, W) from normalised codes (B, S) and proprio (B, P)."""
        drawn: Tensor = self.decoder(torch.cat([code, self.proprio(proprio)], -1))
        return drawn

    @torch.no_grad()
    def pictures(self, seen: Tensor, proprio: Tensor) -> Tensor:
        """Draw images (N, H, W, 3) uint8 from what was, or might be, seen (N, S) and standardised proprio (N, F)."""
        normalised = torch.linalg.solve(self.turn.T, seen.T).T + self.centre
        drawn = self.decoder(torch.cat([normalised, proprio], -1)) * self.spread + self.mean
        return ((drawn + 0.5) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    @torch.no_grad()
    def settle(self, codes: NDArray[np.float32], follows: NDArray[np.bool_]) -> None:
        """Find how to whiten and turn, from recorded rows' normalised codes (N, S): what is seen until then.

        `follows` says which rows follow the one before them.
        """
        x = torch.from_numpy(codes).double()
        mean = x.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(x.T))
        whiten = vectors * values.clamp(min=float(values[-1]) * SMALLEST_EIGENVALUE).rsqrt()
        white = (x - mean) @ whiten
        steps = white[1:][torch.from_numpy(follows[1:])] - white[:-1][torch.from_numpy(follows[1:])]
        _, slowest_first = torch.linalg.eigh(steps.T @ steps / len(steps))
        self.centre.copy_(mean.float())
        self.turn.copy_((whiten @ slowest_first).float())


class PictureDecoder(nn.Module):
    """Numbers (B, N) -> standardised pictures (B, 3, H, W)."""

    def __init__(self, numbers: int, shape: tuple[int, int, int], config: EyesConfig) -> None:
        super().__init__()
        small, middle, large = config.channels
        self.shape = shape
        self.coarse = (large, -(-shape[1] // 16), -(-shape[2] // 16))
        size = self.coarse[0] * self.coarse[1] * self.coarse[2]
        self.into = nn.Sequential(
            nn.Linear(numbers, config.hidden), nn.SiLU(), nn.Linear(config.hidden, size), nn.SiLU()
        )
        self.draw = nn.Sequential(
            nn.ConvTranspose2d(large, middle, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(middle, small, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(small, 3, 8, 4, 2),
        )

    def forward(self, numbers: Tensor) -> Tensor:
        """Draw."""
        drawn: Tensor = self.draw(self.into(numbers).unflatten(1, self.coarse))
        return drawn[:, :, : self.shape[1], : self.shape[2]]


def nearby(dataset: Dataset, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """For each row (B,) draw another of the same episode, at most `NEARBY` rows away."""
    starts = np.array([episode.start for episode in dataset.episodes])
    ends = np.array([episode.end for episode in dataset.episodes])
    episode = np.searchsorted(starts, rows, side="right") - 1
    moved = rows + rng.integers(-NEARBY, NEARBY + 1, len(rows))
    return np.clip(moved, starts[episode], ends[episode] - 1)
