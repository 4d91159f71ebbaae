"""From raw proprio and scene vectors to what the networks see, and back.

Euler triples (``*_roll, *_pitch, *_yaw``) jump at +-pi, so each becomes the first two columns of its rotation matrix
(6 numbers). Then every feature is standardised with a floor under its deviation and clamped: features
that hardly vary would otherwise become targets of 100 deviations when a block tips over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diwa_runtime.errors import ConfigError
from diwa_runtime.spec import ANGLES, is_angle
from diwa_trainer.world.rules import bodies_of, rule_of

CLAMP = 4.0


def feature_names(names: Sequence[str]) -> tuple[str, ...]:
    """Name the features of a raw vector: each Euler triple gives six ``*_rotation_i``, all else stays.

    Raises:
        ConfigError: an angle that stands outside of a triple.
    """
    out: list[str] = []
    for name, _, is_rotation in _columns(names):
        out += [f"{name}_rotation_{i}" for i in range(6)] if is_rotation else [name]
    return tuple(out)


def _columns(names: Sequence[str]) -> Iterator[tuple[str, int, bool]]:
    """Yield each value's name, its column, and whether it is an Euler triple, which takes three."""
    column = 0
    while column < len(names):
        body, is_rotation = names[column].rpartition("_")[0], is_angle(names[column])
        triple = tuple(f"{body}_{angle}" for angle in ANGLES)
        if is_rotation and tuple(names[column : column + 3]) != triple:
            raise ConfigError(f"the Spec has {names[column]!r} outside of a triple {', '.join(triple)}")
        yield (body if is_rotation else names[column]), column, is_rotation
        column += 3 if is_rotation else 1


def _rotation_features(roll: Tensor, pitch: Tensor, yaw: Tensor) -> list[Tensor]:
    """First two columns of Rz(yaw) Ry(pitch) Rx(roll), the convention of `diwa_runtime.geometry`."""
    cr, sr, cp, sp, cy, sy = roll.cos(), roll.sin(), pitch.cos(), pitch.sin(), yaw.cos(), yaw.sin()
    first = [cy * cp, sy * cp, -sp]
    second = [cy * sp * sr - sy * cr, sy * sp * sr + cy * cr, cp * sr]
    return first + second


class Features(nn.Module):
    """Standardised features of one raw vector (proprio or scene).

    How they are standardised, weighed and coded is found by `fit` from recorded rows (`rules`), and travels with the
    weights.

    Attributes:
        names: feature names, F of them.
        weight: (F,) weight of each in the world model's loss.
        share: (F,) of the world model's discrete variables, which decides how finely each is coded at first.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    share: Tensor

    def __init__(self, raw_names: Sequence[str], watched: Mapping[str, float] | None = None) -> None:
        """Make features of a raw vector.

        Args:
            raw_names: of its values.
            watched: None for proprio; of a scene by name, how much the values that tasks watch are to change.
        """
        super().__init__()
        self.raw_names = tuple(raw_names)
        self.names = feature_names(raw_names)
        self._watched = None if watched is None else dict(watched)
        self.register_buffer("mean", torch.zeros(len(self.names)))
        self.register_buffer("std", torch.ones(len(self.names)))
        self.register_buffer("weight", torch.ones(len(self.names)))
        self.register_buffer("share", torch.ones(len(self.names), dtype=torch.float64))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def shares(self) -> tuple[float, ...]:
        """`share` as plain numbers."""
        return tuple(self.share.tolist())

    @torch.no_grad()
    def fit(self, raw: NDArray[np.float32]) -> None:
        """Set mean, floored deviation, weight and share from raw rows (N, D)."""
        features = self.raw_features(torch.as_tensor(np.asarray(raw, dtype=np.float32))).double()
        bodies = bodies_of(self.raw_names)
        rules = [rule_of(name, features[:, i], self._watched, bodies) for i, name in enumerate(self.names)]
        floor, weight, share = torch.tensor(rules, dtype=torch.float64).unbind(-1)
        self.mean.copy_(features.mean(0))
        self.std.copy_(torch.maximum(features.std(0).float(), floor.float()))
        self.weight.copy_(weight)
        self.share.copy_(share)

    def scale_as(self, other: Features) -> None:
        """Standardise as others of the same names do."""
        self.mean.copy_(other.mean)
        self.std.copy_(other.std)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # Files that are older than rules from data have neither; what was fitted stays, which only training uses.
        for name in ("weight", "share"):
            state_dict.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def raw_features(self, raw: Tensor) -> Tensor:
        """Turn raw vectors (..., D) into features (..., F) in SI units."""
        columns: list[Tensor] = []
        for _, i, is_rotation in _columns(self.raw_names):
            columns += _rotation_features(*raw[..., i : i + 3].unbind(-1)) if is_rotation else [raw[..., i]]
        return torch.stack(columns, dim=-1)

    def forward(self, raw: Tensor) -> Tensor:
        """Standardise and clamp raw vectors (..., D) into (..., F)."""
        return ((self.raw_features(raw) - self.mean) / self.std).clamp(-CLAMP, CLAMP)

    def physical(self, features: Tensor, name: str) -> Tensor:
        """Return one named feature of standardised features (..., F) in SI units (...)."""
        index = self.names.index(name)
        return features[..., index] * self.std[index] + self.mean[index]
