"""Eyes of mode `hybrid`: they estimate the scene.

They learn from pictures with the recorded scene, which nothing needs after training. What they say of a picture is in
the world model's own standardised features, so that an estimate stands where the recorded scene stands in mode `state`.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diwa_runtime.spec import Spec
from diwa_trainer.dataset import Dataset
from diwa_trainer.devices.ranks import ALONE, Share
from diwa_trainer.world.eyes.augmentation import AugmentationConfig
from diwa_trainer.world.eyes.decoder import OtherCameras, PictureDecoder
from diwa_trainer.world.eyes.eyes import Batch, Eyes, EyesConfig
from diwa_trainer.world.features import CLAMP, Features
from diwa_trainer.world.observations import Recorded
from diwa_trainer.world.rules import has_two_levels

LEAST_WEIGHT = 0.05
"""Of a feature in the loss, as a share of the weightiest: free blocks count little for a policy, but are seen."""
REDRAWN_EVERY = 2
"""One row in so many is redrawn as the first camera saw it: for the eye of the reader alone."""


class SceneEyes(Eyes):
    """Pictures and proprioception -> standardised scene features (F).

    Attributes:
        scene: the features; the world model's behind these eyes are the same.
        two_valued: (F,) bool, features of two levels, as lights have; classified, not estimated.
        values: (2, F) standardised, the lower and the upper value of those.
    """

    two_valued: Tensor
    values: Tensor
    others: OtherCameras

    def __init__(self, spec: Spec, config: EyesConfig) -> None:
        scene = Features(spec.scene, spec.watched)
        super().__init__(spec, config, len(scene))
        self.scene = scene
        self.weight = scene.weight
        self.decoder = PictureDecoder(spec.cameras[0], len(scene) + len(self.proprio), config)
        self.others = OtherCameras(spec, len(scene) + len(self.proprio), config)
        self.register_buffer("two_valued", torch.zeros(len(scene), dtype=torch.bool))
        self.register_buffer("values", torch.zeros(2, len(scene)))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features."""
        return self.scene.names

    @property
    def shares(self) -> tuple[float, ...]:
        """As of the recorded scene."""
        return self.scene.shares

    def fit_features(self, dataset: Dataset) -> None:
        """Set the standardisation, and which features have two levels."""
        self.proprio.fit(dataset.proprio)
        self.scene.fit(dataset.scene)
        self.decoder.fit(dataset)
        self.others.fit(dataset)
        seen = self.scene(torch.from_numpy(dataset.scene))
        self.values.copy_(torch.stack([seen.amin(0), seen.amax(0)]))
        self.two_valued.copy_(torch.tensor([has_two_levels(values) for values in seen.unbind(-1)]))

    def say(self, raw: Tensor) -> Tensor:
        """Turn features and logits (B, F) into standardised features (B, F)."""
        low, high = self.values
        return torch.where(self.two_valued, low + (high - low) * raw.sigmoid(), raw.clamp(-CLAMP, CLAMP))

    def draw(
        self,
        recorded: Recorded,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        augmentation: AugmentationConfig,
        share: Share = ALONE,
    ) -> Batch:
        """Read pictures, proprio and scene of rows (B,); `image` is to be redrawn."""
        mine = rows[share.rows]
        observation = recorded.pictures_at(mine)
        seen = self.augmented(observation, augmentation, rng, share, len(rows))
        image = observation[self.decoder.camera][share.every(REDRAWN_EVERY)]
        shown = self.others.images(recorded, mine, share)
        return {**seen, **shown, "scene": recorded.at("scene", mine), "image": image}

    def loss(self, batch: Batch, share: Share = ALONE) -> Tensor:
        """Smooth L1 of standardised features, cross-entropy of what has two values.

        Weighed as in the world model, but no feature less than `LEAST_WEIGHT` of the weightiest. The decoders, by which
        nothing is seen, learn beside: to redraw pictures from the recorded scene and proprio.
        """
        target = self.scene(batch["scene"])
        raw = self.raw(batch, batch["proprio"])
        upper = (target > self.values.mean(0)).float()
        each = torch.where(
            self.two_valued,
            F.binary_cross_entropy_with_logits(raw, upper, reduction="none"),
            F.smooth_l1_loss(raw, target, reduction="none", beta=0.1),
        )
        weight = (self.scene.weight / self.scene.weight.max()).clamp(min=LEAST_WEIGHT)
        told = torch.cat([target, self.proprio(batch["proprio"])], -1)
        redrawing = self.decoder.loss_of_every(REDRAWN_EVERY, told, batch["image"], share)
        redrawing = redrawing + self.others.loss(told, batch, share)
        return (each * weight).sum(-1).mean() + redrawing

    def pictures(self, seen: Tensor, proprio: Tensor) -> dict[str, Tensor]:
        """Draw cameras' images (N, H, W, 3) uint8 from standardised scene features (N, S) and proprio (N, F)."""
        numbers = self.redrawn_from(seen, proprio)
        return {self.decoder.camera: self.decoder.draw(numbers), **self.others.draw(numbers)}

    def redrawn_from(self, seen: Tensor, proprio: Tensor) -> Tensor:
        """The scene's features, and proprio."""
        return torch.cat([seen, proprio], -1)
