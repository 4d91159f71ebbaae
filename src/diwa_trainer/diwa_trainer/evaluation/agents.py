"""Who acts in an evaluation: the bundle, or what it should be better than.

All of them are reset by seed, see what the robot accepted, and say how sure they are of success where they can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import ACTION_SIZE, HOLD_ACTION
from diwa_runtime.bundle.session import PolicySession
from diwa_runtime.errors import ConfigError

AgentName = Literal["bundle", "expert", "random", "zero"]
Observation = Mapping[str, NDArray[Any]]
Action = NDArray[np.float32]


class Agent(Protocol):
    """Acts through one episode at a time."""

    def reset(self, seed: int) -> None:
        """Begin an episode, whose first observation comes next; `seed` fixes every random choice of it."""

    def act(self, observation: Observation, executed: Action | None) -> Action:
        """Return the action (7,) for an observation; `executed` is what was accepted since the last one."""
        ...

    def watch(self, observation: Observation, executed: Action | None) -> None:
        """Take the episode's last observation, for which no action is needed."""

    @property
    def success_probability(self) -> float | None:
        """How sure the agent's own reward is that the task is done; None where it has none."""


class BundleAgent:
    """A deployed bundle, run exactly as on the robot."""

    def __init__(self, session: PolicySession) -> None:
        self._session = session

    def reset(self, seed: int) -> None:
        """Begin an episode; `seed` fixes the noise of every chunk."""
        self._session.reset(seed)

    def act(self, observation: Observation, executed: Action | None) -> Action:
        """Filter, and act."""
        return self._session.step(observation, executed)

    def watch(self, observation: Observation, executed: Action | None) -> None:
        """Filter only."""
        self._session.observe(observation, executed)

    @property
    def success_probability(self) -> float | None:
        """The bundle's reward graph on the current latent."""
        return self._session.success_probability


class _Baseline:
    """What the agents without a bundle have in common."""

    success_probability: float | None = None

    def watch(self, observation: Observation, executed: Action | None) -> None:
        """Nothing to learn from it."""


class ZeroAgent(_Baseline):
    """Stands still: what the task does by itself."""

    def reset(self, seed: int) -> None:
        """Nothing is random."""

    def act(self, observation: Observation, executed: Action | None) -> Action:  # noqa: ARG002
        """Hold."""
        return HOLD_ACTION.copy()


class RandomAgent(_Baseline):
    """Smooth random motion: the chance rate. Each component is a first-order autoregressive process of unit variance.

    Smooth, because independent noise at 30 Hz only trembles on the spot and flatters every learned policy.
    """

    def __init__(self, memory: float = 0.95) -> None:
        """Keep `memory` of the motion from step to step; 0.95 at 30 Hz is a sweep of about half a second."""
        self._memory = memory
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin another motion."""
        self._generator = np.random.default_rng(seed)
        self._motion = self._generator.standard_normal(ACTION_SIZE)

    def act(self, observation: Observation, executed: Action | None) -> Action:  # noqa: ARG002
        """Drift on."""
        fresh = self._generator.standard_normal(ACTION_SIZE)
        self._motion = self._memory * self._motion + np.sqrt(1 - self._memory**2) * fresh
        return np.clip(self._motion, -1, 1).astype(np.float32)


class ExpertAgent(_Baseline):
    """The scripted policy that the environment offers: `env.unwrapped.expert()` with a method `act(observation)`."""

    def __init__(self, environment: Any) -> None:
        """Take the environment.

        Raises:
            ConfigError: it offers no expert.
        """
        self._environment = environment.unwrapped
        if not hasattr(self._environment, "expert"):
            raise ConfigError(f"{type(self._environment).__name__} offers no expert; choose another policy")

    def reset(self, seed: int) -> None:  # noqa: ARG002
        """Ask for a fresh expert; it plays without noise."""
        self._expert = self._environment.expert()

    def act(self, observation: Observation, executed: Action | None) -> Action:  # noqa: ARG002
        """Let the script decide."""
        return np.asarray(self._expert.act(observation), dtype=np.float32)
