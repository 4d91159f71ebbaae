"""What all eyes share: a small convolutional network for each camera, and proprioception beside it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diwa_runtime.config.bounds import WEIGHTS, WIDTHS, check_bounds
from diwa_runtime.errors import ConfigError
from diwa_runtime.spec import CameraSpec, Spec
from diwa_trainer.dataset import Dataset
from diwa_trainer.devices.draws import seeded
from diwa_trainer.devices.ranks import ALONE, Share
from diwa_trainer.world.eyes.augmentation import AugmentationConfig, augment
from diwa_trainer.world.features import Features
from diwa_trainer.world.observations import Observation, Recorded

STEPS = (4, 2, 2)
"""Strides of a camera's convolutions: the first one takes many pixels together, which is what makes it quick."""
SMALLEST_PICTURE = 16
Batch = dict[str, Tensor]
"""What a loss is computed from, by name; cameras' pictures (B, 3, H, W) are augmented."""


@dataclass(frozen=True)
class EyesConfig:
    """Sizes of the eyes."""

    channels: tuple[int, ...] = field(default=(24, 48, 96), metadata={"help": "of a camera's three convolutions"})
    camera_code: int = field(default=128, metadata={"help": "numbers that one camera's picture becomes"})
    hidden: int = 256
    code: int = field(default=16, metadata={"help": "numbers that are seen in mode vision"})
    marks: float = field(default=0.1, metadata={"help": "mode vision: weight of what marks say of the scene; 0: none"})
    agreement: float = field(
        default=0.3,
        metadata={"help": "mode vision: weight of codes of one second agreeing, and their numbers differing; 0: none"},
    )

    def __post_init__(self) -> None:
        check_bounds(
            self, channels=WIDTHS, camera_code=WIDTHS, hidden=WIDTHS, code=(1, 256), marks=WEIGHTS, agreement=WEIGHTS
        )
        if len(self.channels) != len(STEPS):
            raise ConfigError(f"channels must be {len(STEPS)} numbers, not {len(self.channels)}")


class CameraEncoder(nn.Sequential):
    """Pictures (B, 3, H, W) of one camera -> codes (B, C)."""

    def __init__(self, camera: CameraSpec, config: EyesConfig) -> None:
        if min(camera.height, camera.width) < SMALLEST_PICTURE:
            raise ConfigError(
                f"camera {camera.name!r} has pictures of {camera.height} x {camera.width} pixels, eyes need "
                f"{SMALLEST_PICTURE}; ingest with a larger --image-size"
            )
        layers: list[nn.Module] = []
        channels, height, width = 3, camera.height, camera.width
        for out, step in zip(config.channels, STEPS, strict=True):
            layers += [nn.Conv2d(channels, out, 2 * step, step, step // 2), nn.SiLU()]
            channels, height, width = out, height // step, width // step
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels * height * width, config.camera_code), nn.SiLU())


class Eyes(nn.Module, ABC):
    """Pictures and proprioception -> S numbers in standard units.

    Attributes:
        names: of the numbers.
        weight: (S,) of each in the world model's loss.
        shares: each one's share of the world model's discrete variables.
        others: decoders of all cameras but the first, for the eye of the reader alone.
    """

    weight: Tensor
    others: nn.ModuleDict

    def __init__(self, spec: Spec, config: EyesConfig, numbers: int) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.proprio = Features(spec.proprio)
        self.cameras = nn.ModuleDict({camera.name: CameraEncoder(camera, config) for camera in spec.cameras})
        self.head = nn.Sequential(
            nn.Linear(config.camera_code * len(spec.cameras) + len(self.proprio), config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, numbers),
        )

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.proprio.mean.device

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Of the numbers that are seen."""

    @property
    def size(self) -> int:
        """S."""
        return len(self.names)

    @property
    @abstractmethod
    def shares(self) -> tuple[float, ...]:
        """Each one's share of the world model's discrete variables."""

    @abstractmethod
    def fit_features(self, dataset: Dataset) -> None:
        """Set the standardisation from recorded rows."""

    @abstractmethod
    def draw(
        self,
        recorded: Recorded,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        augmentation: AugmentationConfig,
        share: Share = ALONE,
    ) -> Batch:
        """Return what the loss of recorded rows (B,) is computed from: this process's share, and all that is random."""

    @abstractmethod
    def loss(self, batch: Batch, share: Share = ALONE) -> Tensor:
        """Return the loss of a batch; of a share, what the shares' mean is the loss of the whole by."""

    @abstractmethod
    def pictures(self, seen: Tensor, proprio: Tensor) -> dict[str, Tensor]:
        """Draw cameras' images (N, H, W, 3) uint8 from what is seen (N, S) and standardised proprio (N, F).

        The first camera comes first; eyes of older files redraw no other.
        """

    @abstractmethod
    def redrawn_from(self, seen: Tensor, proprio: Tensor) -> Tensor:
        """What decoders are told (N, D) of what is seen (N, S) and standardised proprio (N, F)."""

    @abstractmethod
    def say(self, raw: Tensor) -> Tensor:
        """Turn the head's output (B, N) into what is seen (B, S)."""

    def forward(self, observation: Observation) -> Tensor:
        """Look at pictures (..., H, W, 3) uint8 with proprio (..., P): what is seen (..., S)."""
        leading = observation["proprio"].shape[:-1]
        pictures = {name: as_pictures(observation[name].flatten(0, len(leading) - 1)) for name in self.cameras}
        seen = self.say(self.raw(pictures, observation["proprio"].flatten(0, len(leading) - 1)))
        return seen if len(leading) == 1 else seen.unflatten(0, leading)

    def raw(self, pictures: Mapping[str, Tensor], proprio: Tensor) -> Tensor:
        """Head's output (B, N) for pictures (B, 3, H, W) and proprio (B, P)."""
        codes = [encoder(pictures[name]) for name, encoder in self.cameras.items()]
        out: Tensor = self.head(torch.cat([*codes, self.proprio(proprio)], -1))
        return out.float()

    def augmented(
        self,
        observation: Observation,
        augmentation: AugmentationConfig,
        rng: np.random.Generator,
        share: Share,
        size: int,
    ) -> Batch:
        """Return the observation of a share of `size` rows with its pictures (B, 3, H, W) augmented."""
        source = share.part(seeded(int(rng.integers(2**62)), self.device), size)
        pictures = {name: augment(as_pictures(observation[name]), augmentation, source) for name in self.cameras}
        return {**pictures, "proprio": observation["proprio"]}


def as_pictures(images: Tensor) -> Tensor:
    """Turn images (B, H, W, 3) of bytes into pictures (B, 3, H, W) of -0.5 to 0.5."""
    return images.permute(0, 3, 1, 2).float() / 255 - 0.5


def as_images(pictures: Tensor) -> Tensor:
    """Turn pictures (B, 3, H, W) of -0.5 to 0.5 into images (B, H, W, 3) of bytes."""
    return ((pictures + 0.5) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
