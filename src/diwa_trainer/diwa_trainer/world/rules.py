"""How each feature is standardised, weighed and coded: found from the contract, from what tasks watch, and from data.

Of the arm's own numbers the contract has names, and by these they go. A scene has whatever names a robot's table gives
it: what tasks watch counts by how much they ask of it, a free block by being a pose, and all else by how far it has
travelled in the recordings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diwa_runtime.spec import ANGLES


class Rule(NamedTuple):
    """Floor under a feature's deviation (its own units), weight in the world model's loss, share of its variables."""

    floor: float
    weight: float
    share: float


# Contact decides on centimetres, so the hand and what it touches weigh most; joints say again where the hand is.
HAND = {
    r"tcp_[xyz]": Rule(0.02, 8.0, 8.0),
    r"tcp_rotation_\d": Rule(0.05, 0.1, 0.8),
    r".*_rotation_\d": Rule(0.05, 0.1, 0.1),
    r"joint_\d+": Rule(0.05, 0.1, 0.1),
    r"gripper_command": Rule(0.2, 1.0, 1.0),
    r"gripper_width": Rule(0.01, 2.0, 2.0),
}
"""By a pattern of the name, what proprioception of the contract's names follows; the first that matches counts."""
FREE_POSITION, FREE_ROTATION = Rule(0.1, 0.003, 0.05), Rule(0.3, 0.003, 0.05)
WATCHED_POSITION, WATCHED_ROTATION = Rule(0.02, 8.0, 4.0), HAND[r"tcp_rotation_\d"]
"""Of a body of which tasks watch some other coordinate: the hand has to go to where it is."""
STILL = Rule(0.05, 0.5, 0.05)
"""Of a value that has never moved in the recordings, or in hardly a row of them."""
WATCHED_WEIGHT, MOVED_WEIGHT, OTHER_WEIGHT = 8.0, 4.0, 0.5
WATCHED_SHARE, MOVED_SHARE, OTHER_SHARE, LEVELS_SHARE = 4.0, 2.0, 0.5, 1.0
"""Of the variables; two levels need no fine scale."""

COORDINATES = ("x", "y", "z", *ANGLES)
"""How the names of a pose end."""
LEVEL = 0.05
"""How far from its levels a value of two may lie, as a share of the distance between them."""
LEAST_TRAVEL = 0.005
"""What moves by less than 5 mm or 0.3 degrees has not moved: a tracker's noise must not be learned."""
RANGE = (0.001, 0.999)
"""Quantiles between which a value travels: a tracker's odd row far off is none of it."""
RANGE_ROWS = 100_000
"""Rows at most that quantiles are taken from."""


def rule_of(name: str, values: Tensor, watched: Mapping[str, float] | None, bodies: Collection[str]) -> Rule:
    """Return the rule of one feature.

    Args:
        name: the feature's; of one of a rotation's six numbers ``BODY_rotation_i``.
        values: (N,) recorded, in its own units.
        watched: None for proprioception; of a scene by name, how much what tasks watch is to change.
        bodies: what has a pose in the same vector, as `bodies_of` says.
    """
    return _of_proprio(name, values) if watched is None else _of_scene(name, values, watched, bodies)


def _of_proprio(name: str, values: Tensor) -> Rule:
    known = next((rule for pattern, rule in HAND.items() if re.fullmatch(pattern, name)), None)
    if known is not None:
        return known
    levels = has_two_levels(values)
    weight, share = (1.0, LEVELS_SHARE) if levels else (OTHER_WEIGHT, OTHER_SHARE)
    return _by_travel(values, levels, weight, share)


def _of_scene(name: str, values: Tensor, watched: Mapping[str, float], bodies: Collection[str]) -> Rule:
    levels = has_two_levels(values)
    if name in watched:  # it may be at its other end in a handful of rows, which the clamp must not cut off
        floor = max(watched[name] / 2, travel(values, levels) / 4)
        return Rule(floor, WATCHED_WEIGHT, LEVELS_SHARE if levels else WATCHED_SHARE)
    body = body_of(name)
    if body in bodies:
        handled = _is_handled(str(body), watched)
        if re.fullmatch(r".*_rotation_\d", name):
            return WATCHED_ROTATION if handled else FREE_ROTATION
        return WATCHED_POSITION if handled else FREE_POSITION
    return _by_travel(values, levels, MOVED_WEIGHT, LEVELS_SHARE if levels else MOVED_SHARE)


def _by_travel(values: Tensor, levels: bool, weight: float, share: float) -> Rule:
    """The clamp of four deviations leaves two levels whole, and four fifths of a travel to either side at least."""
    far = travel(values, levels)
    return STILL if far < LEAST_TRAVEL else Rule(far / (4 if levels else 5), weight, share)


def has_two_levels(values: Tensor) -> bool:
    """Say whether values (N,) lie at one of two levels in every row, as those of a light, a limit switch, a command do.

    Each row within `LEVEL` of one of the two; a value that has never changed has one.
    """
    low, high = values.amin(), values.amax()
    near = LEVEL * (high - low)
    return bool((high > low) and ((values <= low + near) | (values >= high - near)).all())


def travel(values: Tensor, levels: bool = False) -> float:
    """Return how far values (N,) go: between two levels the whole way, else without the rarest at either end."""
    if levels:
        return float(values.amax() - values.amin())
    some = values[:: max(1, len(values) // RANGE_ROWS)].double()
    low, high = torch.quantile(some, torch.tensor(RANGE, dtype=torch.float64, device=values.device))
    return float(high - low)


def body_of(name: str) -> str | None:
    """Return the body whose coordinate a value or a feature is by its name, ``cup`` of ``cup_x``; None: of none."""
    if re.fullmatch(r".*_rotation_\d", name):
        return name.rpartition("_rotation_")[0]
    body, _, coordinate = name.rpartition("_")
    return body if body and coordinate in COORDINATES else None


def bodies_of(names: Sequence[str]) -> frozenset[str]:
    """Return the bodies that have a pose among a raw vector's names: two of its coordinates at least."""
    counts = Counter(body for name in names if (body := body_of(name)) is not None)
    return frozenset(body for body, count in counts.items() if count > 1)


def free_bodies(names: Sequence[str], watched: Collection[str]) -> frozenset[str]:
    """Return the bodies that have a pose among a scene's names and of which tasks watch nothing."""
    return frozenset(body for body in bodies_of(names) if not _is_handled(body, watched))


def _is_handled(body: str, watched: Collection[str]) -> bool:
    """Say whether tasks watch something of a body: ``block_z``, ``block_in_place`` or ``block`` of ``block``."""
    return any(name == body or name.startswith(f"{body}_") for name in watched)
