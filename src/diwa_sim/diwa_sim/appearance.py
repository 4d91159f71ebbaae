"""What changes between a recording and a run: the light in the room, and a camera that was touched."""

from __future__ import annotations

import math

import mujoco
import numpy as np

from diwa_runtime.errors import ConfigError

LIGHT, TURN_DEG = (0.1, 4.0), 10.0
"""Bounds of the factor on the light, and of how far the static camera may be turned to either side."""


def change_light(model: mujoco.MjModel, factor: float) -> None:
    """Make all lamps of the room, and what they scatter, brighter or darker; what glows by itself stays.

    Raises:
        ConfigError: out of bounds.
    """
    if not LIGHT[0] <= factor <= LIGHT[1]:
        raise ConfigError(f"light is {factor}, must be from {LIGHT[0]} to {LIGHT[1]}")
    model.light_diffuse[:] *= factor
    model.light_specular[:] *= factor
    headlight = model.vis.headlight
    headlight.ambient[:] *= factor
    headlight.diffuse[:] *= factor


def turn_camera(model: mujoco.MjModel, camera: str, degrees: float) -> None:
    """Turn a camera about its own vertical axis, to the left.

    Raises:
        ConfigError: out of bounds.
    """
    if not abs(degrees) <= TURN_DEG:
        raise ConfigError(f"{camera}_turned_deg is {degrees}, must be from -{TURN_DEG:g} to {TURN_DEG:g}")
    half = math.radians(degrees) / 2
    place = model.cam_quat[model.camera(camera).id]
    turned = np.empty(4)
    mujoco.mju_mulQuat(turned, place.copy(), np.array([math.cos(half), 0.0, math.sin(half), 0.0]))
    place[:] = turned
