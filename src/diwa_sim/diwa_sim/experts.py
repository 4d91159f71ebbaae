"""Scripted policies: from where the hand and the table are now to the next action.

They remember no phase: that makes them robust (a slip is just another state) and easy to imitate. An expert sees the
scene and the proprioception, acts in the action space like any policy, and knows the layout of the table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.spec import SCENE_NAMES, ActionScale, TaskSpec
from diwa_sim.controller import TCP_HOME_EULER
from diwa_sim.model import Layout

Array = NDArray[np.float64]

OPEN, CLOSED = 1.0, -1.0
_SLIDER, _DRAWER, _BUTTON, _SWITCH = (SCENE_NAMES.index(name) for name in ("slider", "drawer", "button", "switch"))
_GAIN = 0.5
"""Share of the remaining way commanded each step: the arm lags its command by about a step, so 1 would overshoot."""


@dataclass(frozen=True)
class Goal:
    """Where the hand should go next, world frame (m), with the gripper open or closed and at most this fast."""

    position: Array
    gripper: float
    speed: float = 0.65


class Expert(ABC):
    """One task's scripted policy.

    Attributes:
        at_once: whether a touch is enough: who lets go only then has done the task.
        done: whether the task's predicate holds since the first observation.
    """

    at_once = False

    def __init__(
        self,
        task: TaskSpec,
        layout: Layout,
        noise: float = 0.0,
        rng: np.random.Generator | None = None,
        look: Callable[[], Array] | None = None,
    ) -> None:
        """Make the policy.

        Args:
            task: what to do.
            layout: where the handles are.
            noise: standard deviation of the noise on each of the six motion components.
            rng: the noise's source.
            look: returns the scene (24,) when an observation (of a mode with cameras) has none.

        Raises:
            ValueError: noise without a generator.
        """
        if noise > 0 and rng is None:
            raise ValueError("an expert with noise needs a generator")
        self.task, self.layout = task, layout
        self._noise, self._rng, self._look = noise, rng, look
        self._scale = ActionScale()
        self._start: Array | None = None
        self._forwards = task.change > 0
        self._direction = 1.0 if self._forwards else -1.0
        self.done = False

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action (7,) for an observation with ``proprio`` and, if the expert cannot look, ``scene``."""
        proprio = np.asarray(observation["proprio"], dtype=np.float64)
        looked = self._look() if "scene" not in observation and self._look is not None else observation["scene"]
        scene = np.asarray(looked, dtype=np.float64)
        if self._start is None:
            self._start = scene.copy()
        self.done = self.done or bool(self.task.achieved(self._start, scene, SCENE_NAMES))
        goal = self.goal(proprio[:3], scene)
        action = np.empty(7)
        action[:3] = _bounded(_GAIN * (goal.position - proprio[:3]) / self._scale.translation_m, goal.speed)
        turn = (TCP_HOME_EULER - proprio[3:6] + np.pi) % (2 * np.pi) - np.pi
        action[3:6] = np.minimum(np.maximum(_GAIN * turn / self._scale.rotation_rad, -1.0), 1.0)
        action[6] = goal.gripper
        if self._noise > 0 and self._rng is not None:
            action[:6] = np.clip(action[:6] + self._noise * self._rng.standard_normal(6), -1.0, 1.0)
        return action.astype(np.float32)

    @abstractmethod
    def contact(self, scene: Array) -> Array:
        """Return where the TCP (3,) meets what it will move, in a scene (24,)."""

    @abstractmethod
    def goal(self, tcp: Array, scene: Array) -> Goal:
        """Say where to go from TCP (3,) in a scene (24,)."""

    def progress(self, start: Array, now: Array) -> float:
        """Return the share of the way to success, or to the end of the travel where that comes first; 1 is there."""
        index, travel = SCENE_NAMES.index(self.task.field), self.layout.ranges[self.task.field]
        room = travel - start[index] if self._forwards else start[index]
        moved = self._direction * float(now[index] - start[index])
        return moved / max(1e-6, min(abs(self.task.change), 0.97 * float(room)))


class DrawerExpert(Expert):
    """Open: lower the closed fingers behind the handle and pull. Close: lower them before it and push."""

    _SAFE_HEIGHT_M = 0.53

    def contact(self, scene: Array) -> Array:
        side = 0.031 if self._forwards else -0.040
        return self.layout.drawer_handle + np.array([0.0, side - scene[_DRAWER], -0.005])

    def goal(self, tcp: Array, scene: Array) -> Goal:
        contact = self.contact(scene)
        away = tcp - contact
        before, behind = (0.016, 0.018) if self._forwards else (0.05, 0.03)
        beside = abs(away[0]) < 0.06 and -before < away[1] < behind
        if beside and away[2] < 0.015:
            return Goal(contact + np.array([0.0, -0.08 if self._forwards else 0.08, 0.0]), CLOSED)
        if beside and abs(away[0]) < 0.05 and abs(away[1]) < 0.02:
            return Goal(contact, CLOSED)
        return _approach(tcp, contact, self._SAFE_HEIGHT_M, CLOSED)


class SliderExpert(Expert):
    """Straddle the handle from above with open fingers, close them and drag."""

    _SAFE_HEIGHT_M = 0.66

    def contact(self, scene: Array) -> Array:
        return self.layout.slider_handle + np.array([-scene[_SLIDER], 0.0, 0.015])

    def goal(self, tcp: Array, scene: Array) -> Goal:
        contact = self.contact(scene)
        away = tcp - contact
        if abs(away[0]) < 0.035 and abs(away[1]) < 0.020 and away[2] < 0.020:
            return Goal(contact + np.array([-0.08 if self._forwards else 0.08, 0.0, 0.0]), CLOSED)
        if abs(away[0]) < 0.018 and abs(away[1]) < 0.015:
            return Goal(contact, OPEN)
        return _approach(tcp, contact, self._SAFE_HEIGHT_M, OPEN)


class SwitchExpert(Expert):
    """Lower the closed fingers beside the lever and push it to its other end."""

    _SAFE_HEIGHT_M = 0.63

    def contact(self, scene: Array) -> Array:
        return self.layout.switch_lever + np.array([0.0, scene[_SWITCH] - 0.045 * self._direction, 0.0])

    def goal(self, tcp: Array, scene: Array) -> Goal:
        contact = self.contact(scene)
        away = tcp - contact
        pushed = away[1] * self._direction
        if abs(away[0]) < 0.012 and -0.05 < pushed < 0.035 and away[2] < 0.020:
            return Goal(contact + np.array([0.0, 0.08 * self._direction, 0.0]), CLOSED)
        if abs(away[0]) < 0.012 and abs(away[1]) < 0.015:
            return Goal(contact, CLOSED)
        return _approach(tcp, contact, self._SAFE_HEIGHT_M, CLOSED)

    def progress(self, start: Array, now: Array) -> float:  # noqa: ARG002 (the bulb follows the lever's half)
        needed = self.layout.ranges["switch"] / 2
        return self._direction * float(now[_SWITCH] - needed) / needed + 1.0


class ButtonExpert(Expert):
    """Press the button from above with closed fingers; let go before a second press."""

    _SAFE_HEIGHT_M = 0.54
    at_once = True

    def contact(self, scene: Array) -> Array:
        return self.layout.button_top - np.array([0.0, 0.0, scene[_BUTTON]])

    def goal(self, tcp: Array, scene: Array) -> Goal:
        away = tcp - self.layout.button_top
        if self.done or scene[_BUTTON] > 0.015:
            return Goal(self.layout.button_top + np.array([0.0, 0.0, 0.06]), CLOSED)
        if abs(away[0]) < 0.022 and abs(away[1]) < 0.022:
            return Goal(self.layout.button_top - np.array([0.0, 0.0, 0.04]), CLOSED, speed=0.45)
        return _approach(tcp, self.layout.button_top, self._SAFE_HEIGHT_M, CLOSED)

    def progress(self, start: Array, now: Array) -> float:  # noqa: ARG002 (a press has no start)
        return float(now[_BUTTON]) / (self.layout.ranges["button"] / 2)


def make_expert(
    task: TaskSpec,
    layout: Layout,
    noise: float = 0.0,
    rng: np.random.Generator | None = None,
    look: Callable[[], Array] | None = None,
) -> Expert:
    """Return the expert of a task, by the part of the table that it moves; arguments as of `Expert`."""
    return _EXPERTS[task.field](task, layout, noise, rng, look)


def _approach(tcp: Array, contact: Array, safe_height: float, gripper: float) -> Goal:
    """Go above the contact point: up first where the way there is far, then across, then down the last part."""
    across = float(np.hypot(*(contact[:2] - tcp[:2])))
    above = np.array([contact[0], contact[1], max(safe_height, contact[2])])
    if across > 0.03 and tcp[2] < safe_height - 0.02:
        return Goal(np.array([tcp[0], tcp[1], safe_height + 0.04]), gripper)
    return Goal(above, gripper)


def _bounded(motion: Array, speed: float) -> Array:
    """Scale a motion (3,) so that its largest component is at most `speed`: the direction stays."""
    largest = float(np.abs(motion).max())
    return motion if largest <= speed else motion * (speed / largest)


_EXPERTS: dict[str, type[Expert]] = {
    "drawer": DrawerExpert,
    "slider": SliderExpert,
    "bulb": SwitchExpert,
    "led": ButtonExpert,
}
