"""Whether an episode may start: is the arm where training started, and do the cameras show what they showed then?

A policy that starts from elsewhere fails in silence, so the robot is not moved before this has been looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.bundle.manifest import FieldStatistics, ImageStatistics, Manifest
from diwa_runtime.geometry import wrapped
from diwa_runtime.rows.images import thumbnail
from diwa_runtime.spec import is_angle

LEAST_REACH = 0.02
"""A feature that training hardly varied counts as if it had been varied by so much (m or rad)."""
LEAST_CONTRAST = 8.0
"""Grey levels: a cell of a camera's thumbnail that never changed counts as if it varied by so much."""


@dataclass(frozen=True)
class GateLimits:
    """What is still near enough.

    Attributes:
        proprio: how far outside of the training starts' range a feature may lie, in units of that range.
        camera: mean difference of a camera's picture from the training starts', in units of their spread. In the
            simulator 30 starts gave at most 0.46 (static) and 0.92 (wrist), a static camera turned by 4 of 64 pixels
            at least 1.43; a wrist camera sees too much else to show so little.
        allow_far_start: start wherever the arm is.
        allow_moved_camera: start whatever the cameras show.
    """

    proprio: float = 2.0
    camera: float = 1.1
    allow_far_start: bool = False
    allow_moved_camera: bool = False


def objection(manifest: Manifest, observation: Mapping[str, Any], limits: GateLimits) -> str | None:
    """Say why the skill must not start from this observation, or None; names the figure and the way around it."""
    if not limits.allow_far_start:
        index, distance = furthest(observation["proprio"], manifest.proprio_starts, manifest.spec.proprio)
        if distance > limits.proprio:
            starts, value = manifest.proprio_starts, observation["proprio"][index]
            return (
                f"{manifest.spec.proprio[index]} is {value:.3f}, training started from {starts.minimum[index]:.3f} to "
                f"{starts.maximum[index]:.3f}: {distance:.1f} ranges away, {limits.proprio:g} are allowed; move the "
                "arm, or set allow_far_start"
            )
    if not limits.allow_moved_camera:
        for camera, shown in manifest.camera_starts.items():
            difference = picture_difference(observation[camera], shown)
            if difference > limits.camera:
                return (
                    f"camera {camera!r} shows something else than in training: {difference:.1f} times the spread, "
                    f"{limits.camera:g} are allowed; put it back where it was, or set allow_moved_camera"
                )
    return None


def furthest(values: NDArray[Any], starts: FieldStatistics, names: tuple[str, ...]) -> tuple[int, float]:
    """Return the index of the feature (F,) furthest outside of the training starts' range, and how many ranges.

    0 within. Angles are compared the short way round.
    """
    low, high = np.array(starts.minimum), np.array(starts.maximum)
    middle, reach = (low + high) / 2, np.maximum(high - low, LEAST_REACH)
    away = np.asarray(values, np.float64) - middle
    turns = np.array([is_angle(name) for name in names])
    away[turns] = wrapped(away[turns])
    outside = np.maximum(np.abs(away) - (high - low) / 2, 0.0) / reach
    index = int(np.argmax(outside))
    return index, float(outside[index])


def picture_difference(image: NDArray[np.uint8], starts: ImageStatistics) -> float:
    """Return the mean difference of a picture (H, W, 3) from the training starts', in units of their spread."""
    mean, std = np.array(starts.mean), np.array(starts.std)
    return float(np.mean(np.abs(thumbnail(image).ravel() - mean) / (std + LEAST_CONTRAST)))
