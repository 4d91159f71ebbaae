"""How many steps this process has taken in any environment, and worker processes on its behalf.

Whoever makes an environment here counts in it (`environments.make_environment`). Fine-tuning reads the count before and
after, so that "no environment step" is something that was counted. It knows no Gymnasium, so that who only reads the
count does not load one.
"""

from __future__ import annotations

_taken = 0


def count_env_steps(steps: int = 1) -> None:
    """Note that so many steps were taken."""
    global _taken
    _taken += steps


def env_steps_taken() -> int:
    """Return how many steps were taken since the process began."""
    return _taken
