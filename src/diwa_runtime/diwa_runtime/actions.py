"""The one rule of what happens to an action: in simulation, in imagination, in the bridge.

An action is (..., 7) in the Spec's units: relative TCP translation 3, rotation 3, gripper (> 0 opens).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.spec import ActionScale

ACTION_SIZE = 7
GRIPPER = 6
HOLD_ACTION: NDArray[np.float32] = np.array([0, 0, 0, 0, 0, 0, 1], dtype=np.float32)
"""Stand still, gripper open: the action taken to precede an episode's first observation."""
HOLD_ACTION.setflags(write=False)


def accept_action(action: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the action (..., 7) as any robot of ours accepts it: clipped to [-1, 1], gripper exactly -1 or +1.

    Raises:
        ValueError: wrong size, or not finite. Finiteness comes first: NaN passes any clip.
    """
    accepted = done_action(action)
    return np.clip(accepted, -1.0, 1.0, out=accepted)


def done_action(action: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return what a robot says that it did (..., 7) as rows hold it: gripper exactly -1 or +1, motion as it is.

    It may lie beyond 1: a hand guides an arm faster than commands may, and two commands can fall between two rows.

    Raises:
        ValueError: wrong size, or not finite.
    """
    action = np.asarray(action)
    if action.shape[-1:] != (ACTION_SIZE,):
        raise ValueError(f"action has shape {action.shape}, expected (..., {ACTION_SIZE})")
    if not np.isfinite(action).all():
        raise ValueError(f"action is not finite: {action}")
    done = action.astype(np.float32)
    done[..., GRIPPER] = np.where(action[..., GRIPPER] > 0, 1.0, -1.0)
    return done


def motion_of(action: NDArray[np.floating], scale: ActionScale) -> NDArray[np.float64]:
    """Return what an action (7,) asks for in SI units: translation 3 (m) and rotation 3 (rad), float64 (6,)."""
    return np.asarray(action, np.float64)[:GRIPPER] * motion_units(scale)


def motion_units(scale: ActionScale) -> NDArray[np.float64]:
    """Return what 1 means in an action's motion (6,): metres three times, then radians."""
    return np.repeat([scale.translation_m, scale.rotation_rad], 3)
