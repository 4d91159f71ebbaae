"""From raw proprio and scene vectors to what the networks see, and back.

Euler triples (``*_roll, *_pitch, *_yaw``) jump at +-pi, so each becomes the first two columns of its rotation matrix
(6 numbers). Then every feature is standardised with a floor under its deviation and clamped: features
that hardly vary would otherwise become targets of 100 deviations when a block tips over.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from diwa_runtime.errors import ConfigError
from diwa_runtime.spec import ANGLES, is_angle

CLAMP = 4.0


class FeatureRule(NamedTuple):
    """How features of a name are standardised, weighed and coded; the first rule that matches counts."""

    pattern: str
    floor: float
    weight: float
    share: float


# A value that tasks watch or lights show may be at its other end in a handful of rows: its floor is a quarter of its
# travel at least, so that the clamp never cuts that end off and a decoded light can always be on. What tasks watch and
# no rule knows by name is `_watched`.
_RULES = (
    # pattern of the name, floor of the deviation (SI units), weight in the world model's loss, share of its variables
    (r"tcp_[xyz]", 0.02, 8.0, 8.0),
    (r"tcp_rotation_\d", 0.05, 0.1, 0.8),
    (r"joint_\d", 0.05, 0.1, 0.1),
    (r"gripper_command", 0.2, 1.0, 1.0),
    (r"gripper_width", 0.01, 2.0, 2.0),
    (r"slider", 0.08, 8.0, 4.0),
    (r"drawer", 0.055, 8.0, 4.0),
    (r"button", 0.005, 4.0, 2.0),
    (r"switch", 0.025, 4.0, 2.0),
    (r"bulb|led", 0.25, 8.0, 1.0),
    (r".*_rotation_\d", 0.3, 0.003, 0.05),
    (r".*_[xyz]", 0.1, 0.003, 0.05),
    (r".*", 0.05, 0.5, 0.5),
)
FEATURE_RULES = tuple(FeatureRule(*rule) for rule in _RULES)
NOTHING: Mapping[str, float] = MappingProxyType({})


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


def _rule(name: str, watched: Mapping[str, float]) -> FeatureRule:
    rule = next(rule for rule in FEATURE_RULES if re.fullmatch(rule.pattern, name))
    return max(rule, _watched(name, watched[name]), key=lambda rule: rule.weight) if name in watched else rule


def _watched(name: str, change: float) -> FeatureRule:
    """Return the rule of a value that is to change by so much: it weighs what the drawer weighs."""
    return FeatureRule(re.escape(name), change / 2, 8.0, 4.0)


def _rotation_features(roll: Tensor, pitch: Tensor, yaw: Tensor) -> list[Tensor]:
    """First two columns of Rz(yaw) Ry(pitch) Rx(roll), the convention of `diwa_runtime.geometry`."""
    cr, sr, cp, sp, cy, sy = roll.cos(), roll.sin(), pitch.cos(), pitch.sin(), yaw.cos(), yaw.sin()
    first = [cy * cp, sy * cp, -sp]
    second = [cy * sp * sr - sy * cr, sy * sp * sr + cy * cr, cp * sr]
    return first + second


class Features(nn.Module):
    """Standardised features of one raw vector (proprio or scene).

    Attributes:
        names: feature names, F of them.
        weight: (F,) weight of each in the world model's loss.
        shares: each one's share of the world model's discrete variables, which decides how finely it is coded at first.
    """

    mean: Tensor
    std: Tensor
    weight: Tensor

    def __init__(self, raw_names: Sequence[str], watched: Mapping[str, float] = NOTHING) -> None:
        """Make features of a raw vector.

        Args:
            raw_names: of its values.
            watched: by name, how much the values that tasks watch are to change, SI units.
        """
        super().__init__()
        self.raw_names = tuple(raw_names)
        self.names = feature_names(raw_names)
        self._rules = [_rule(name, watched) for name in self.names]
        self.shares = tuple(rule.share for rule in self._rules)
        self.register_buffer("mean", torch.zeros(len(self.names)))
        self.register_buffer("std", torch.ones(len(self.names)))
        self.register_buffer("weight", torch.tensor([rule.weight for rule in self._rules]), persistent=False)

    def __len__(self) -> int:
        return len(self.names)

    @torch.no_grad()
    def fit(self, raw: NDArray[np.float32]) -> None:
        """Set mean and floored deviation from raw rows (N, D)."""
        features = self.raw_features(torch.as_tensor(np.asarray(raw, dtype=np.float32))).double()
        floors = torch.tensor([rule.floor for rule in self._rules])
        self.mean.copy_(features.mean(0))
        self.std.copy_(torch.maximum(features.std(0).float(), floors))

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
