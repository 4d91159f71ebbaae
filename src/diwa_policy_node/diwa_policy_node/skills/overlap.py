"""Planning the next chunk while this one runs, for policies that are slower than a control tick.

Where `PolicySession` draws a chunk between an observation and its action, this one draws it beside the control loop,
ahead of time, from the latent of that moment. Every plan knows the tick of the observation that it answers: when it
arrives, the actions whose ticks have passed are dropped, the rest is blended in, and no command changes faster than the
robot may accelerate. Where a plan is late altogether, the arm slows down to standstill.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import GRIPPER, HOLD_ACTION, accept_action
from diwa_runtime.bundle import Bundle
from diwa_runtime.bundle.session import Float, PolicySession
from diwa_runtime.geometry import towards
from diwa_runtime.spec import Spec

DELAYS_KEPT = 8


class Planner(Protocol):
    """Works on one plan at a time beside the control loop."""

    def submit(self, plan: Callable[[], Float]) -> None:
        """Begin with a plan; whatever was begun before is forgotten."""

    def collect(self) -> Float | None:
        """Return the plan once it is there, else None.

        Raises:
            Exception: what the plan raised.
        """


class ThreadPlanner:
    """Plans in a thread of its own; ONNX Runtime lets the control loop run meanwhile."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="planner")
        self._future: Future[Float] | None = None

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
        """End the thread once it has done what it is at."""
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
    """Runs a bundle, planning ahead.

    Attributes:
        planner: where plans are made.
        late_plans: how many came when all of their actions were late.
    """

    def __init__(self, bundle: Bundle, planner: Planner, seed: int = 0, limits: SeamLimits | None = None) -> None:
        self.planner = planner
        limits = limits or SeamLimits()
        self._translation_change, self._rotation_change = limits.change_per_tick(bundle.spec)
        self._blend_ticks = limits.blend_ticks
        super().__init__(bundle, seed)

    def reset(self, seed: int) -> None:
        """Begin an episode, at standstill."""
        super().reset(seed)
        self.late_plans = 0
        self._running = self._previous = STANDSTILL
        self._arrived_at = 0
        self._begun_at: int | None = None
        self._from: Float = self.state.asked
        self._delays: deque[int] = deque(maxlen=DELAYS_KEPT)

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
        latent, noise, self._begun_at = self.state.latent, self._draw_noise(), tick
        self.planner.submit(lambda: self._decide(latent, noise))

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
