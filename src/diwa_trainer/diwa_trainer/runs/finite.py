"""What says that a training has diverged: a number that is none. Losses, checkpoints and files of weights ask here."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor


def not_finite(values: Mapping[str, float | Tensor]) -> str | None:
    """Return the name of the first value that is infinite or no number, in any of its elements; None: all are sound."""
    for name, value in values.items():
        if not (value.isfinite().all() if isinstance(value, Tensor) else math.isfinite(value)):
            return name
    return None
