"""One robot, one episode: observations in, actions out. The evaluator and the policy node both drive this class.

At each step the filter takes the new observation and the action that was accepted since the last one; a new chunk of
actions is drawn when the last one is used up. Nothing here reads a clock: who calls `step`, and how often, decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import HOLD_ACTION, accept_action, done_action
from diwa_runtime.bundle import Bundle, observation_type
from diwa_runtime.errors import BundleError, InputError
from diwa_runtime.spec import Spec

NOISE_LIMIT = 3.0
"""Noise is clipped to +-3 standard deviations, as in training."""

Float = NDArray[np.float32]


def check_observation(observation: Mapping[str, Any], spec: Spec) -> None:
    """See that an unbatched observation has every field of the Spec's mode, whole and finite.

    Raises:
        InputError: names the field that is missing, of another dtype or shape, or not finite.
    """
    for name in spec.observation_fields:
        dtype, shape = observation_type(spec, name)
        if name not in observation:
            raise InputError(
                f"observation lacks {name!r}; mode {spec.mode!r} needs {', '.join(spec.observation_fields)}"
            )
        value = observation[name]
        if not isinstance(value, np.ndarray) or value.dtype != dtype or value.shape != shape:
            found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            raise InputError(f"observation {name!r} is {found}, expected {dtype} {shape}")
        if dtype == "float32" and not np.isfinite(value).all():
            index = int(np.flatnonzero(~np.isfinite(value))[0])
            raise InputError(f"observation {name!r} is not finite: {getattr(spec, name)[index]} is {value[index]}")


@dataclass
class EpisodeState:
    """All that an episode in progress consists of.

    Attributes:
        latent: what the filter believes (Z,).
        generator: where this episode's noise comes from.
        chunk: the accepted actions (Ta, 7) drawn last.
        used: how many of them were given out.
        asked: the action (7,) given out last.
        steps: observations taken since the reset.
    """

    latent: Float
    generator: np.random.Generator
    chunk: Float
    used: int
    asked: Float
    steps: int = 0


class PolicySession:
    """Runs a bundle through one episode at a time.

    Attributes:
        bundle: what is run; may be shared between sessions.
        state: the episode in progress.
    """

    def __init__(self, bundle: Bundle, seed: int = 0) -> None:
        self.bundle = bundle
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Begin an episode: forget the last one; `seed` fixes all the noise of this one."""
        manifest = self.bundle.manifest
        self._probability: float | None = None
        self.state = EpisodeState(
            latent=np.zeros(manifest.latent_size, np.float32),
            generator=np.random.Generator(np.random.PCG64(seed)),
            chunk=np.tile(HOLD_ACTION, (manifest.chunk_length, 1)),
            used=manifest.chunk_length,
            asked=HOLD_ACTION.copy(),
        )

    def step(self, observation: Mapping[str, Any], executed_action: NDArray[Any] | None = None) -> Float:
        """Take one observation; return the action (7,) to send until the next one.

        Args:
            observation: unbatched fields of the Spec's mode; others are ignored.
            executed_action: what the robot accepted since the last observation (7,), which need not be what this
                session asked for. None means "as asked". Not looked at in an episode's first step, which begins
                from `HOLD_ACTION` everywhere: in training, in imagination and here.

        Raises:
            InputError: the observation or the executed action cannot be used; the episode is as it was before.
            BundleError: the graphs gave something that is not finite.
        """
        self.observe(observation, executed_action)
        self.state.asked = self._next_action()
        return self.state.asked.copy()

    def observe(self, observation: Mapping[str, Any], executed_action: NDArray[Any] | None = None) -> None:
        """Take an observation without asking for an action: the last one of an episode, which only the reward needs.

        Arguments and errors are those of `step`.
        """
        check_observation(observation, self.bundle.spec)
        state = self.state
        state.latent = self._believe(observation, self._executed(executed_action), state.latent)
        state.steps, self._probability = state.steps + 1, None

    @property
    def begins_chunk(self) -> bool:
        """Whether the action given out last is the first of its chunk, where seams are."""
        return self.state.used == 1

    @property
    def latent(self) -> Float:
        """What the filter believes now (Z,)."""
        return self.state.latent

    @property
    def steps(self) -> int:
        """Observations taken since the reset."""
        return self.state.steps

    @property
    def success_probability(self) -> float:
        """How sure the reward model is, in [0, 1], that the skill is done; computed when asked for.

        0 before the first observation, when nothing is known.

        Raises:
            BundleError: the reward's graph gave no probability.
        """
        if self.state.steps == 0:
            return 0.0
        if self._probability is None:
            self._probability = self._judge(self.state.latent)
        return self._probability

    def new_probabilities(self) -> Sequence[float]:
        """Return the probability of success by each observation that was judged since this was asked last, in order.

        To be asked once an observation: here that is the newest one's. Errors as `success_probability`.
        """
        return [self.success_probability]

    def _executed(self, executed_action: NDArray[Any] | None) -> Float:
        """Return the action (7,) that the filter is told of."""
        if self.state.steps == 0:
            return HOLD_ACTION
        return self._done(executed_action)

    def _done(self, executed_action: NDArray[Any] | None) -> Float:
        if executed_action is None:
            return self.state.asked
        try:
            return done_action(executed_action)
        except ValueError as error:
            raise InputError(f"executed {error}") from None

    def _believe(self, observation: Mapping[str, Any], executed: Float, latent: Float) -> Float:
        """Return the latent (Z,) after a checked observation; touches nothing of the episode."""
        batch = {name: observation[name][None] for name in self.bundle.spec.observation_fields}
        believed = self.bundle.filter(batch, executed[None], latent[None])[0]
        if not np.isfinite(believed).all():
            raise BundleError(
                f"{self.bundle.source}: the filter's latent is not finite at step {self.state.steps}; stop here"
            )
        return believed

    def _judge(self, latent: Float) -> float:
        """Return the probability of success that a latent (Z,) shows; touches nothing of the episode."""
        probability = float(self.bundle.probability(latent[None])[0])
        if not 0.0 <= probability <= 1.0:
            raise BundleError(f"{self.bundle.source}: the reward gave {probability}, no probability; stop here")
        return probability

    def _next_action(self) -> Float:
        """Return the action (7,) for the observation just taken: the next of the chunk, or the first of a new one."""
        state = self.state
        if state.used == len(state.chunk):
            state.chunk, state.used = self._decide(state.latent, self._draw_noise()), 0
        state.used += 1
        return state.chunk[state.used - 1]

    def _draw_noise(self) -> Float:
        noise = self.state.generator.standard_normal((1, *self.bundle.manifest.noise_shape), dtype=np.float32)
        return np.clip(noise, -NOISE_LIMIT, NOISE_LIMIT)

    def _decide(self, latent: Float, noise: Float) -> Float:
        """Return the chunk (Ta, 7) for a latent (Z,) as a robot accepts it; touches nothing of the episode."""
        chunk = self.bundle.policy(latent[None], noise)[0]
        try:
            return accept_action(chunk)
        except ValueError as error:
            raise BundleError(f"{self.bundle.source}: the policy's {error}; stop here") from None
