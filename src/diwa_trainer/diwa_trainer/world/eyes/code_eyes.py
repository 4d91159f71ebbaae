"""Eyes of mode `vision`: a code that is learned from pictures and proprioception alone.

From the code of one moment, and the proprioception of *another* moment nearby, a decoder redraws what the first camera
saw at that other moment. Where the arm is then, it is told; so what the code holds is what stays while the arm moves:
drawer, slider, lamps. Afterwards the code is whitened and turned, so that its slowest parts come first (slow feature
analysis, Wiskott and Sejnowski 2002).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from diwa_runtime.spec import Spec
from diwa_trainer.dataset import Dataset
from diwa_trainer.devices.draws import normal
from diwa_trainer.devices.ranks import ALONE, Share
from diwa_trainer.world.eyes.augmentation import AugmentationConfig
from diwa_trainer.world.eyes.decoder import OtherCameras, PictureDecoder
from diwa_trainer.world.eyes.eyes import Batch, Eyes, EyesConfig
from diwa_trainer.world.eyes.marked import UNKNOWN, marked_states
from diwa_trainer.world.features import CLAMP
from diwa_trainer.world.observations import Recorded

NEARBY = 6
"""Rows at most between the two moments."""
AGREE_S = 1.0
"""Seconds at most between two moments whose codes should agree."""
ALIKE = 0.05
"""Weight of numbers of the code being alike, beside their agreement."""
NOISE = 0.15
"""Deviation of what is added to the code, of unit variance, in training: it bounds what the code can hold."""
AGAIN = "_again"
"""Behind the names of what is seen in another moment of the same second."""
CODE_WEIGHT, CODE_SHARE = 2.0, 1.0
SMALLEST_EIGENVALUE = 1e-4
"""Of the code's covariance, as a share of the largest: what varies less is not blown up by whitening."""


class CodeEyes(Eyes):
    """Pictures and proprioception -> a code (S).

    Attributes:
        centre, turn: (S,) and (S, S), what the head's normalised output is whitened and turned by.
    """

    centre: Tensor
    turn: Tensor
    others: OtherCameras

    def __init__(self, spec: Spec, config: EyesConfig) -> None:
        super().__init__(spec, config, config.code)
        self.normalise = nn.BatchNorm1d(config.code, affine=False)
        self.decoder = PictureDecoder(spec.cameras[0], config.code + len(self.proprio), config)
        self.told = nn.Linear(config.code, len(spec.watched)).requires_grad_(config.marks > 0)
        self.others = OtherCameras(spec, config.code + len(self.proprio), config)
        self.register_buffer("weight", torch.full((config.code,), CODE_WEIGHT))
        self.register_buffer("centre", torch.zeros(config.code))
        self.register_buffer("turn", torch.eye(config.code))
        self.agree_rows = max(1, round(AGREE_S * spec.rate_hz))

    @property
    def names(self) -> tuple[str, ...]:
        """``code_0``, the slowest, and so on."""
        return tuple(f"code_{i}" for i in range(self.config.code))

    @property
    def shares(self) -> tuple[float, ...]:
        """By weight: the slower, the larger."""
        return tuple((CODE_SHARE / CODE_WEIGHT * self.weight).tolist())

    def fit_features(self, dataset: Dataset) -> None:
        """Set the standardisation of proprio and of the redrawn cameras' pixels."""
        self.proprio.fit(dataset.proprio)
        self.decoder.fit(dataset)
        self.others.fit(dataset)

    def say(self, raw: Tensor) -> Tensor:
        """Normalise, whiten and turn the head's output (B, S)."""
        return self.turned(self.normalise(raw).clamp(-CLAMP, CLAMP))

    def turned(self, normalised: Tensor) -> Tensor:
        """Whiten and turn normalised codes (N, S), once `settle` has found how."""
        return ((normalised - self.centre) @ self.turn).clamp(-CLAMP, CLAMP)

    def draw(
        self,
        recorded: Recorded,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        augmentation: AugmentationConfig,
        share: Share = ALONE,
    ) -> Batch:
        """Read rows (B,), what is to be redrawn nearby, and for agreement rows of the same second.

        What the code is compared by as a whole is not shared out: `noise` (B, S) and `marked` (B, K).
        """
        dataset, size = recorded.dataset, len(rows)
        batch = self.augmented(recorded.pictures_at(rows[share.rows]), augmentation, rng, share, size)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        batch["noise"] = NOISE * normal((size, self.config.code), generator, self.device)
        batch["marked"] = torch.from_numpy(_marked_states(dataset)[rows]).to(self.device)
        other = nearby(dataset, rows, NEARBY, rng)[share.rows]
        batch |= {"proprio_nearby": recorded.at("proprio", other), "image": recorded.at(self.decoder.camera, other)}
        batch |= self.others.images(recorded, other, share)
        if self.config.agreement:
            same_second = recorded.pictures_at(nearby(dataset, rows, self.agree_rows, rng)[share.rows])
            again = self.augmented(same_second, augmentation, rng, share, size)
            batch |= {f"{name}{AGAIN}": value for name, value in again.items()}
        return batch

    def loss(self, batch: Batch, share: Share = ALONE) -> Tensor:
        """Squared error of the redrawn pictures of rows nearby, with what marks and agreement add.

        Codes are normalised, and agree, over the whole batch; each process redraws the pictures of its own rows. The
        other cameras' decoders, by which no code is learned, learn beside.
        """
        code = self._code(batch, share) + batch["noise"]
        told = torch.cat([code[share.rows], self.proprio(batch["proprio_nearby"])], -1)
        loss = self.decoder.loss(told, batch["image"]) + self.others.loss(told, batch, share)
        if self.config.marks:
            loss = loss + self.config.marks * self._marked_loss(code, batch["marked"])
        if self.config.agreement:
            loss = loss + self.config.agreement * disagreement(code, self._code(batch, share, AGAIN))
        return loss

    def _code(self, batch: Batch, share: Share, which: str = "") -> Tensor:
        """Normalised codes (B, S) of the whole batch."""
        pictures = {name: batch[f"{name}{which}"] for name in self.cameras}
        code: Tensor = self.normalise(share.gather(self.raw(pictures, batch[f"proprio{which}"])))
        return code

    def _marked_loss(self, code: Tensor, states: Tensor) -> Tensor:
        """Cross-entropy of what marks say of the scene (B, K), read by a line through codes (B, S)."""
        known = states != UNKNOWN
        each = F.binary_cross_entropy_with_logits(self.told(code), states.clamp(min=0).float(), reduction="none")
        return (each * known).sum() / known.sum().clamp(min=1)

    def pictures(self, seen: Tensor, proprio: Tensor) -> dict[str, Tensor]:
        """Draw cameras' images (N, H, W, 3) from what was, or might be, seen (N, S) and standardised proprio (N, F)."""
        numbers = self.redrawn_from(seen, proprio)
        return {self.decoder.camera: self.decoder.draw(numbers), **self.others.draw(numbers)}

    def redrawn_from(self, seen: Tensor, proprio: Tensor) -> Tensor:
        """The normalised code, and proprio."""
        return torch.cat([self.normalised(seen), proprio], -1)

    def normalised(self, seen: Tensor) -> Tensor:
        """Undo `turned` (N, S)."""
        code: Tensor = torch.linalg.solve(self.turn.T, seen.T).T + self.centre
        return code

    @torch.no_grad()
    def settle(self, codes: NDArray[np.float32], follows: NDArray[np.bool_]) -> None:
        """Find how to whiten and turn, from recorded rows' normalised codes (N, S): what is seen until then.

        `follows` says which rows follow the one before them. A number weighs the less the more it moves from row to
        row: what is quick is the arm, which proprio tells better, or noise.
        """
        x = torch.from_numpy(codes).to(self.device).double()
        mean = x.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(x.T))
        whiten = vectors * values.clamp(min=float(values[-1]) * SMALLEST_EIGENVALUE).rsqrt()
        white = (x - mean) @ whiten
        later = torch.from_numpy(np.flatnonzero(follows[1:])).to(self.device) + 1
        steps = white[later] - white[later - 1]
        quickness, slowest_first = torch.linalg.eigh(steps.T @ steps / len(steps))
        self.centre.copy_(mean.float())
        self.turn.copy_((whiten @ slowest_first).float())
        self.weight.copy_(CODE_WEIGHT * (quickness[0] / quickness).float())


@cache
def _marked_states(dataset: Dataset) -> NDArray[np.int8]:
    return marked_states(dataset)


def disagreement(code: Tensor, other: Tensor) -> Tensor:
    """Barlow Twins (Zbontar et al. 2021, eq. 1) a number, of normalised codes (B, S) that should mean the same.

    Each number should be the same in both, and no two numbers alike.
    """
    correlation = code.T @ other / len(code)
    same = correlation.diagonal()
    rest = correlation - torch.diag(same)
    return ((1 - same).square().sum() + ALIKE * rest.square().sum()) / len(same)


def nearby(dataset: Dataset, rows: NDArray[np.int64], most: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """For each row (B,) draw another of the same episode, at most `most` rows away."""
    starts = np.array([episode.start for episode in dataset.episodes])
    ends = np.array([episode.end for episode in dataset.episodes])
    episode = np.searchsorted(starts, rows, side="right") - 1
    moved = rows + rng.integers(-most, most + 1, len(rows))
    return np.clip(moved, starts[episode], ends[episode] - 1)
