"""Rotations, in the one convention of the whole project.

Euler angles are extrinsic xyz (roll about x, then pitch about y, then yaw about z, all fixed axes), so
``R = Rz(yaw) @ Ry(pitch) @ Rx(roll)``. Quaternions are (x, y, z, w), as in ROS.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Vector = TypeVar("Vector", NDArray[np.float32], NDArray[np.float64])


def euler_to_matrix(euler: Array) -> Array:
    """Turn Euler angles (..., 3) rad into rotation matrices (..., 3, 3)."""
    roll, pitch, yaw = np.moveaxis(np.asarray(euler, dtype=np.float64), -1, 0)
    cr, sr, cp, sp, cy, sy = np.cos(roll), np.sin(roll), np.cos(pitch), np.sin(pitch), np.cos(yaw), np.sin(yaw)
    rows = (
        (cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr),
        (sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr),
        (-sp, cp * sr, cp * cr),
    )
    return _matrix(rows)


def matrix_to_euler(matrix: Array) -> Array:
    """Turn rotation matrices (..., 3, 3) into Euler angles (..., 3) rad; roll is 0 where pitch is +-90 degrees."""
    m = np.asarray(matrix, dtype=np.float64)
    cos_pitch = np.hypot(m[..., 0, 0], m[..., 1, 0])
    regular = cos_pitch > 1e-9
    euler = np.empty(m.shape[:-1])  # filled: several times as fast as `np.stack`
    euler[..., 0] = np.where(regular, np.arctan2(m[..., 2, 1], m[..., 2, 2]), 0.0)
    euler[..., 1] = np.arctan2(-m[..., 2, 0], cos_pitch)
    euler[..., 2] = np.where(regular, np.arctan2(m[..., 1, 0], m[..., 0, 0]), np.arctan2(-m[..., 0, 1], m[..., 1, 1]))
    return euler


def euler_to_quaternion(euler: Array) -> Array:
    """Turn Euler angles (..., 3) rad into quaternions (..., 4) as (x, y, z, w) with w >= 0."""
    half = np.asarray(euler, dtype=np.float64) / 2
    (cr, cp, cy), (sr, sp, sy) = np.moveaxis(np.cos(half), -1, 0), np.moveaxis(np.sin(half), -1, 0)
    quaternion = np.stack(
        [
            sr * cp * cy - cr * sp * sy,
            cr * sp * cy + sr * cp * sy,
            cr * cp * sy - sr * sp * cy,
            cr * cp * cy + sr * sp * sy,
        ],
        axis=-1,
    )
    return np.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def quaternion_to_matrix(quaternion: Array) -> Array:
    """Turn unit quaternions (..., 4) as (x, y, z, w) into rotation matrices (..., 3, 3)."""
    quaternion = np.asarray(quaternion, dtype=np.float64)
    x, y, z, w = (quaternion[..., i] for i in range(4))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)),
        (2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)),
        (2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)),
    )
    return _matrix(rows)


def rotation_vector(matrix: Array) -> Array:
    """Return axis times angle (3,), rad, of a rotation matrix (3, 3)."""
    axis = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]) / 2
    sine, cosine = float(np.linalg.norm(axis)), (float(np.trace(matrix)) - 1) / 2
    if sine > 1e-9:
        return axis * (np.arctan2(sine, cosine) / sine)
    if cosine > 0:
        return axis
    # Half a turn: the axis is the column of (R + 1) / 2 that is longest.
    columns = (matrix + np.eye(3)) / 2
    column = columns[:, int(np.argmax(np.diag(columns)))]
    return np.pi * column / np.linalg.norm(column)


def quaternion_to_euler(quaternion: Array) -> Array:
    """Turn unit quaternions (..., 4) as (x, y, z, w) into Euler angles (..., 3) rad."""
    return matrix_to_euler(quaternion_to_matrix(quaternion))


def wrapped(angles: Array) -> Array:
    """Return angles as the same ones from -pi up to pi, rad."""
    return (angles + np.pi) % (2 * np.pi) - np.pi


def towards(start: Vector, end: Vector, most: float) -> Vector:
    """Return `end` itself, or where one is who goes straight from `start` to it and only `most` far."""
    way = end - start
    distance = float(np.linalg.norm(way))
    return end if distance <= most else start + way * (most / distance)


def _matrix(rows: tuple[tuple[Array, ...], ...]) -> Array:
    """Put entries (...,) together as matrices (..., 3, 3); several times as fast as nested `np.stack`."""
    matrix = np.empty((*rows[0][0].shape, 3, 3))
    for i, row in enumerate(rows):
        for j, entry in enumerate(row):
            matrix[..., i, j] = entry
    return matrix
