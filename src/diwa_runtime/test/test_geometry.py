from __future__ import annotations

import math

import numpy as np
import pytest

from diwa_runtime.geometry import rotation_vector


@pytest.mark.parametrize("angle", [0.0, 1e-12, 0.3, 3.0, math.pi])
def test_rotation_vectors_are_the_rotations(angle: float) -> None:
    axis = np.array([0.6, 0.0, 0.8])
    cross = np.cross(np.eye(3), axis)
    matrix = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    found = rotation_vector(matrix)
    ends = (axis, -axis) if angle == math.pi else (axis,)  # half a turn is the same both ways round
    assert min(np.abs(found - angle * end).max() for end in ends) < 1e-7
