"""Looking and planning beside the control loop, for eyes and policies that are slower than a control tick.

Where `PolicySession` filters an observation and draws a chunk before it answers, this one answers at once, from the
plan that runs. Observations are filtered and judged beside the loop, each after the one before; chunks are drawn there
too, ahead of time, from the latent of their moment. Every plan knows the tick of the observation that it answers: when
it arrives, the actions whose ticks have passed are dropped, the rest is blended in, and no command changes faster than
the robot may accelerate. Where a plan is late altogether, the arm slows down to standstill.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import GRIPPER, HOLD_ACTION, accept_action
from diwa_runtime.bundle import Bundle
from diwa_runtime.bundle.session import Float, PolicySession, check_observation
from diwa_runtime.errors import BundleError
from diwa_runtime.geometry import towards
from diwa_runtime.spec import Spec

DELAYS_KEPT = 8
BEHIND_S = 0.5
"""So much of what was observed may wait for the filter."""


@dataclass(frozen=True)
class Seen:
    """What one observation led to: the latent (Z,) after it, and how sure the reward is that the skill is done."""

    latent: Float
    probability: float


class Planner(Protocol):
    """Looks at one observation after the other, and works on one plan at a time, beside the control loop."""

    def look(self, look: Callable[[], Seen]) -> Future[Seen]:
        """Look at an observation when those before have been looked at."""

    def submit(self, plan: Callable[[], Float]) -> None:
        """Begin with a plan; whatever was begun before is forgotten."""

    def collect(self) -> Float | None:
        """Return the plan once it is there, else None.

        Raises:
            Exception: what the plan raised.
        """


class ThreadPlanner:
    """Looks and plans in a thread each: a long plan holds up no look. ONNX Runtime lets the control loop run."""

    def __init__(self) -> None:
        self._eyes = ThreadPoolExecutor(1, thread_name_prefix="filter")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="planner")
        self._future: Future[Float] | None = None

    def look(self, look: Callable[[], Seen]) -> Future[Seen]:
        """Look at an observation."""
        return self._eyes.submit(look)

    def submit(self, plan: Callable[[], Float]) -> None:
        """Begin with a plan."""
        self._future = self._pool.submit(plan)

    def collect(self) -> Float | None:
        """Return the plan once it is there."""
        if self._future is None or not self._future.done():
            return None
        future, self._future = self._future, None
        return future.result()

    def close(self) -> None:
        """End the threads once they have done what they are at."""
        self._eyes.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class SeamLimits:
    """How fast commands may change. The defaults are the lower ones of Panda and FR3.

    Attributes:
        acceleration: of the TCP, m/s^2.
        rotation_acceleration: rad/s^2.
        blend_ticks: control ticks over which a new plan takes over.
    """

    acceleration: float = 9.0
    rotation_acceleration: float = 17.0
    blend_ticks: int = 2

    def change_per_tick(self, spec: Spec) -> tuple[float, float]:
        """Return by how much translation and rotation of an action may change from tick to tick, in the Spec's units.

        A command is the way of one tick, so it changes by acceleration x period^2.
        """
        period_2 = 1.0 / spec.rate_hz**2
        scale = spec.action_scale
        return (
            self.acceleration * period_2 / scale.translation_m,
            self.rotation_acceleration * period_2 / scale.rotation_rad,
        )


@dataclass(frozen=True)
class Plan:
    """A chunk and the tick of the observation that it answers; `actions` (Ta, 7)."""

    first_tick: int
    actions: Float

    def at(self, tick: int) -> Float | None:
        """Return the action (7,) of a tick; None where the plan says nothing."""
        index = tick - self.first_tick
        return self.actions[index] if 0 <= index < len(self.actions) else None

    def left(self, tick: int) -> int:
        """How many actions there are from this tick on."""
        return max(0, self.first_tick + len(self.actions) - max(tick, self.first_tick))


STANDSTILL = Plan(first_tick=0, actions=np.zeros((0, 7), np.float32))


class OverlappedSession(PolicySession):
    """Runs a bundle, looking and planning beside the control loop.

    What it believes, and how sure the reward is, are of the newest observation that was looked at: as a rule the last
    but one.

    Attributes:
        planner: where observations are looked at and plans are made.
        late_plans: how many came when all of their actions were late.
    """

    def __init__(self, bundle: Bundle, planner: Planner, seed: int = 0, limits: SeamLimits | None = None) -> None:
        self.planner = planner
        limits = limits or SeamLimits()
        self._translation_change, self._rotation_change = limits.change_per_tick(bundle.spec)
        self._blend_ticks = limits.blend_ticks
        self._most_looks = max(3, round(BEHIND_S * bundle.spec.rate_hz))
        super().__init__(bundle, seed)

    def reset(self, seed: int) -> None:
        """Begin an episode, at standstill."""
        super().reset(seed)
        self.late_plans = 0
        self._looks: deque[Future[Seen]] = deque()
        self._last_look: Future[Seen] | None = None
        self._judged: list[float] = []
        self._running = self._previous = STANDSTILL
        self._arrived_at = 0
        self._begun_at: int | None = None
        self._from: Float = self.state.asked
        self._delays: deque[int] = deque(maxlen=DELAYS_KEPT)

    def observe(self, observation: Mapping[str, Any], executed_action: NDArray[Any] | None = None) -> None:
        """Have an observation looked at, and take in what those before have led to.

        Raises:
            InputError: as `PolicySession.observe`.
            BundleError: the graphs gave something that is not finite, or fall further and further behind.
        """
        check_observation(observation, self.bundle.spec)
        executed, before = self._executed(executed_action), self._last_look
        start = self.state.latent

        def look() -> Seen:
            latent = self._believe(observation, executed, start if before is None else before.result().latent)
            return Seen(latent, self._judge(latent))

        self._last_look = self.planner.look(look)
        self._looks.append(self._last_look)
        self.state.steps += 1
        self._take_in()

    def _take_in(self) -> None:
        while self._looks and self._looks[0].done():
            seen = self._looks.popleft().result()
            self.state.latent, self._probability = seen.latent, seen.probability
            self._judged.append(seen.probability)
        if len(self._looks) > self._most_looks:
            raise BundleError(
                f"{self.bundle.source}: {len(self._looks)} observations wait to be looked at: the filter takes longer "
                "than a control tick on this machine; use a quicker one, or train on smaller pictures"
            )

    @property
    def success_probability(self) -> float:
        """How sure the reward model is, by the newest observation that was looked at; 0 before there is one."""
        return self._probability or 0.0

    def new_probabilities(self) -> Sequence[float]:
        """As `PolicySession.new_probabilities`: those that became known, of which there may be none or several."""
        judged, self._judged = self._judged, []
        return judged

    @property
    def begins_chunk(self) -> bool:
        """Whether the action given out last is the first of a new plan."""
        return self.state.steps - 1 == self._arrived_at and self._running is not STANDSTILL

    @property
    def delay(self) -> int:
        """How many ticks a plan takes, by the slowest of the last few."""
        return max(self._delays, default=1)

    def _executed(self, executed_action: NDArray[Any] | None) -> Float:
        """Note where the arm comes from, in an episode's first step too.

        The change of the next action is limited from there: one that was never sent, or not taken, moved nothing.
        """
        self._from = accept_action(self._done(executed_action))
        return super()._executed(executed_action)

    def _next_action(self) -> Float:
        tick = self.state.steps - 1
        self._collect(tick)
        self._plan(tick)
        return self._limited(self._blended(tick))

    def _collect(self, tick: int) -> None:
        actions = self.planner.collect()
        if actions is None or self._begun_at is None:  # none there, or one of the episode before
            return
        plan, self._begun_at = Plan(self._begun_at, actions), None
        self._delays.append(tick - plan.first_tick)
        if not plan.left(tick):
            self.late_plans += 1
            return
        self._previous, self._running, self._arrived_at = self._running, plan, tick

    def _plan(self, tick: int) -> None:
        """Begin the next plan when the one that runs will be used up by the time that it is there."""
        if self._begun_at is not None or self._running.left(tick) > self.delay + 1:
            return
        assert self._last_look is not None, "nothing is planned before something was observed"
        look, noise, self._begun_at = self._last_look, self._draw_noise(), tick
        self.planner.submit(lambda: self._decide(look.result().latent, noise))

    def _blended(self, tick: int) -> Float:
        """Return what the plans ask for at this tick: the new one more and more, the old one less and less."""
        standstill = HOLD_ACTION.copy()
        standstill[GRIPPER] = self._from[GRIPPER]
        new, old = self._running.at(tick), self._previous.at(tick)
        if new is None:
            return standstill
        share = min(1.0, (tick - self._arrived_at + 1) / (self._blend_ticks + 1))
        blended = (1 - share) * (standstill if old is None else old) + share * new
        blended[GRIPPER] = new[GRIPPER]
        return blended.astype(np.float32)

    def _limited(self, action: Float) -> Float:
        """Return the action no further from the last one than the robot may accelerate."""
        limited = action.copy()
        for part, most in ((slice(0, 3), self._translation_change), (slice(3, 6), self._rotation_change)):
            limited[part] = towards(self._from[part], action[part], most)
        return limited
