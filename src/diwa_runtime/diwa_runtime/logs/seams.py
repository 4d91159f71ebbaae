"""What the arm feels where one chunk of actions ends and the next begins, measured from what was commanded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import motion_of
from diwa_runtime.spec import Spec


@dataclass(frozen=True)
class Steps:
    """The largest change of the commanded TCP from tick to tick.

    Attributes:
        position_m: way of one tick.
        velocity_m_s: change of velocity between two ticks.
        jerk_m_s3: third derivative, by differences.
    """

    position_m: float
    velocity_m_s: float
    jerk_m_s3: float


@dataclass(frozen=True)
class Seams:
    """Hand-overs beside the ticks within chunks."""

    count: int
    at_seams: Steps
    within: Steps

    def to_json(self) -> dict[str, object]:
        """Return plain data."""
        return asdict(self)


def joined_seams(parts: Iterable[Seams]) -> Seams:
    """Return the largest of several stretches' figures, and how many hand-overs they had."""
    count, still = 0, Steps(0.0, 0.0, 0.0)
    at_seams = within = still
    for part in parts:
        count += part.count
        at_seams, within = _larger(at_seams, part.at_seams), _larger(within, part.within)
    return Seams(count, at_seams, within)


def _larger(one: Steps, other: Steps) -> Steps:
    return Steps(*(max(pair) for pair in zip(astuple(one), astuple(other), strict=True)))


def measure_seams(actions: NDArray[np.floating], begins: NDArray[np.bool_], spec: Spec) -> Seams:
    """Measure commanded actions (N, 7) of consecutive ticks; `begins` (N,) says where a chunk begins.

    The first tick of all is no seam: nothing was handed over.
    """
    motion = np.array([motion_of(action, spec.action_scale)[:3] for action in actions]).reshape(-1, 3)
    before = np.concatenate([np.zeros((2, 3)), motion])
    position = np.linalg.norm(motion, axis=1)
    velocity = np.linalg.norm(before[2:] - before[1:-1], axis=1) * spec.rate_hz
    jerk = np.linalg.norm(before[2:] - 2 * before[1:-1] + before[:-2], axis=1) * spec.rate_hz**3
    seam = np.asarray(begins, bool).copy()
    seam[:1] = False

    def largest(chosen: NDArray[np.bool_]) -> Steps:
        return Steps(*(float(values[chosen].max(initial=0.0)) for values in (position, velocity, jerk)))

    return Seams(int(seam.sum()), largest(seam), largest(~seam))
