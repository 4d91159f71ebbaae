"""Shadow mode: how far what the policy would have done is from what the operator did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import GRIPPER, motion_of
from diwa_runtime.spec import ActionScale


@dataclass(frozen=True)
class Divergence:
    """The policy's action beside the one that was executed, of one control tick.

    Attributes:
        stamp_ns: of the observation that both answer.
        translation_m: distance between the two translations.
        rotation_rad: distance between the two rotations, as Euler vectors.
        gripper_agrees: whether both open or both close.
    """

    stamp_ns: int
    translation_m: float
    rotation_rad: float
    gripper_agrees: bool


def divergence_of(
    stamp_ns: int, proposed: NDArray[np.floating], executed: NDArray[np.floating], scale: ActionScale
) -> Divergence:
    """Compare two actions (7,) in the Spec's units."""
    apart = motion_of(proposed, scale) - motion_of(executed, scale)
    return Divergence(
        stamp_ns,
        float(np.linalg.norm(apart[:3])),
        float(np.linalg.norm(apart[3:])),
        bool((proposed[GRIPPER] > 0) == (executed[GRIPPER] > 0)),
    )


@dataclass
class DivergenceSum:
    """The mean over an episode, so far.

    Attributes:
        ticks: how many were compared.
        still_m, still_rad: the mean length of what was executed: the divergence of a policy that stands still.
    """

    ticks: int = 0
    translation_m: float = 0.0
    rotation_rad: float = 0.0
    gripper_agreement: float = 0.0
    still_m: float = 0.0
    still_rad: float = 0.0

    def add(self, divergence: Divergence, executed: NDArray[np.floating], scale: ActionScale) -> None:
        """Take one more tick into the means."""
        self.ticks += 1
        motion = motion_of(executed, scale)
        values = {
            "translation_m": divergence.translation_m,
            "rotation_rad": divergence.rotation_rad,
            "gripper_agreement": float(divergence.gripper_agrees),
            "still_m": float(np.linalg.norm(motion[:3])),
            "still_rad": float(np.linalg.norm(motion[3:])),
        }
        for name, value in values.items():
            mean = getattr(self, name)
            setattr(self, name, mean + (value - mean) / self.ticks)
