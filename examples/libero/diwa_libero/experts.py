"""Scripted policies for drawers and a knob: from where the hand and the joint are now to the next action.

As those of the play table they remember no phase: a slip is just another state. They see the scene and the
proprioception, act in the action space like any policy, and know the benchmark's furniture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diwa_libero.scenes import Scene
from diwa_runtime.geometry import euler_to_matrix, rotation_vector
from diwa_runtime.spec import PROPRIO_NAMES, TaskSpec

Array = NDArray[np.float64]

OPEN, CLOSED = 1.0, -1.0
_UNSTEADY = np.array([1.0, 1.0, 1.0, 0.4, 0.4, 0.4])
"""The noise on each component of a motion, as a share: an action of 1 turns the hand by 29 degrees."""
_WIDTH = PROPRIO_NAMES.index("gripper_width")
_DOWN: Array = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""How the hand is held at a start: fingers down, opening along the world's y."""


def _about(axis: int, angle: float) -> Array:
    vector = np.zeros(3)
    vector[axis] = angle
    return euler_to_matrix(vector)


@dataclass(frozen=True)
class Goal:
    """Where the hand should go next, world frame (m), turned so, with the gripper open or closed."""

    position: Array
    turned: Array
    gripper: float
    speed: float = 0.7


class Expert(ABC):
    """One task's scripted policy.

    Attributes:
        task: what it does.
        done: whether the task's predicate holds since the first observation.
        at_once: whether the task is done at a touch; never, here.
    """

    at_once = False

    def __init__(self, task: TaskSpec, scene: Scene, noise: float, rng: np.random.Generator | None) -> None:
        """Make the policy.

        Args:
            task: what to do.
            scene: where.
            noise: standard deviation of the noise on each of the six motion components.
            rng: the noise's source.

        Raises:
            ValueError: noise without a generator.
        """
        if noise > 0 and rng is None:
            raise ValueError("an expert with noise needs a generator")
        self.task, self.done = task, False
        self._noise, self._rng = noise, rng
        spec = scene.spec()
        self._names = spec.scene
        self._scale = spec.action_scale
        self._fixture = self._names.index("fixture_forwards")
        self._start: Array | None = None
        joint, self._forwards = scene.moved_by(task)
        self._joint, self._index, self._travel = joint.field, self._names.index(joint.field), joint.travel
        self._needed = scene.enough if task.field == scene.judged else abs(task.change)

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action (7,) for an observation with ``proprio`` and ``scene``."""
        proprio, scene = (np.asarray(observation[name], np.float64) for name in ("proprio", "scene"))
        if self._start is None:
            self._start = scene.copy()
        self.done = self.done or bool(self.task.achieved(self._start, scene, self._names))
        tcp, turned = proprio[:3], euler_to_matrix(proprio[3:6])
        goal = self.goal(tcp, turned, float(proprio[_WIDTH]), scene)
        action = np.empty(7)
        action[:3] = _bounded((goal.position - tcp) / self._scale.translation_m, goal.speed)
        action[3:6] = _bounded(rotation_vector(goal.turned @ turned.T) / self._scale.rotation_rad, goal.speed)
        action[6] = goal.gripper
        if self._noise > 0 and self._rng is not None:
            action[:6] = np.clip(action[:6] + self._noise * _UNSTEADY * self._rng.standard_normal(6), -1.0, 1.0)
        return action.astype(np.float32)

    @abstractmethod
    def contact(self, scene: Array) -> Array:
        """Return where the TCP (3,) meets what it will move, in a scene (S,)."""

    @abstractmethod
    def goal(self, tcp: Array, turned: Array, width: float, scene: Array) -> Goal:
        """Say where to go from TCP (3,) m, orientation (3, 3) and gripper width (m), in a scene (S,)."""

    def progress(self, start: Array, now: Array) -> float:
        """Return the share of the way to success, or to the end of the travel where that comes first; 1 is there."""
        room = self._travel - start[self._index] if self._forwards else start[self._index]
        moved = float(now[self._index] - start[self._index]) * (1.0 if self._forwards else -1.0)
        return moved / max(1e-6, min(self._needed, 0.97 * float(room)))


class DrawerExpert(Expert):
    """Pull: grip the handle from before it, hand level, and go back. Push: the closed fingers against the handle.

    A drawer slides along the world's y; `_out` is the direction in which it opens. The handle is a bar across.
    """

    _BAR = np.array([0.0028, 0.1017])
    """From the cabinet's middle to that of a closed drawer's bar, for a cabinet that opens towards +y."""
    _BAR_HEIGHTS_M = {"top_drawer": 1.0889, "middle_drawer": 1.0154, "bottom_drawer": 0.9461}  # noqa: RUF012
    _AROUND_BAR = (0.012, 0.028)
    """The gripper's width while it holds the bar, which is 16 mm thick."""

    def __init__(self, task: TaskSpec, scene: Scene, noise: float, rng: np.random.Generator | None) -> None:
        super().__init__(task, scene, noise, rng)
        self._out, self._height = scene.out, self._BAR_HEIGHTS_M[self._joint]
        if self._forwards:
            self._turned = _about(0, -self._out * np.pi / 2) @ _DOWN
        else:
            self._turned = _about(0, -self._out * np.pi / 4) @ _about(2, self._out * np.pi / 2) @ _DOWN

    def contact(self, scene: Array) -> Array:
        bar = np.append(scene[self._fixture : self._fixture + 2] + self._out * self._BAR, self._height)
        bar[1] += self._out * (scene[self._index] + (0.0 if self._forwards else 0.02))
        return bar

    def goal(self, tcp: Array, turned: Array, width: float, scene: Array) -> Goal:
        contact = self.contact(scene)
        away = tcp - contact
        before = self._out * away[1]
        tilted = float(np.linalg.norm(rotation_vector(self._turned @ turned.T)))
        near = abs(away[0]) < 0.04 and abs(away[2]) < 0.025 and tilted < 0.4
        if self._forwards:
            return self._pulling(contact, before, near, width, tcp)
        if near and -0.03 < before < 0.10:
            return self._at(contact, -0.10, CLOSED)
        return self._approach(tcp, contact, before, 0.06, CLOSED)

    def _pulling(self, contact: Array, before: float, near: bool, width: float, tcp: Array) -> Goal:
        narrow, wide = self._AROUND_BAR
        if near and narrow < width < wide and abs(before) < 0.035:
            return self._at(contact, 0.10, CLOSED)
        if near and abs(before) < 0.02 and width >= wide:
            return self._at(contact, 0.0, CLOSED)
        if near and before >= 0.02 and width > 0.05:
            return self._at(contact, 0.0, OPEN)
        return self._approach(tcp, contact, before, 0.08, OPEN)

    def _at(self, contact: Array, before: float, gripper: float) -> Goal:
        return Goal(contact + np.array([0.0, self._out * before, 0.0]), self._turned, gripper)

    def _approach(self, tcp: Array, contact: Array, before: float, wanted: float, gripper: float) -> Goal:
        """Go before the handle; from behind it up and over first."""
        if before > wanted - 0.04:
            return self._at(contact, wanted, gripper)
        over = np.array([tcp[0], contact[1] + self._out * (wanted + 0.03), max(tcp[2] + 0.05, 1.2)])
        return Goal(over, self._turned, gripper)


class KnobExpert(Expert):
    """Lower the closed fingers beside one end of the knob's grip and push it around."""

    _SAFE_HEIGHT_M = 1.03
    _PIVOT = np.array([-0.0006, 0.0, 0.935])
    """From the stove's middle to where the fingers push, without the lever: x and y from there, and the height."""
    _LEVER_M = 0.04
    _BESIDE_M = 0.038
    """Half of the grip's thickness and of two closed fingers', and a little air."""
    _AHEAD_RAD = 0.15

    def _directions(self, scene: Array) -> tuple[Array, Array]:
        """Return where the grip's end points and where it is to go, unit vectors (3,)."""
        angle = float(scene[self._index])
        outwards = np.array([-np.cos(angle), -np.sin(angle), 0.0])
        onwards = np.array([np.sin(angle), -np.cos(angle), 0.0])
        return outwards, onwards if self._forwards else -onwards

    def contact(self, scene: Array) -> Array:
        outwards, onwards = self._directions(scene)
        pivot = np.append(scene[self._fixture : self._fixture + 2], 0.0) + self._PIVOT
        return pivot + self._LEVER_M * outwards - self._BESIDE_M * onwards

    def goal(self, tcp: Array, turned: Array, width: float, scene: Array) -> Goal:  # noqa: ARG002 (needs neither)
        contact = self.contact(scene)
        outwards, onwards = self._directions(scene)
        away = tcp - contact
        across, pushed = abs(float(away @ outwards)), float(away @ onwards)
        ahead = self._AHEAD_RAD if self._forwards else -self._AHEAD_RAD
        turned_along = _about(2, float(scene[self._index]) + ahead) @ _DOWN
        if across < 0.025 and -0.03 < pushed < 0.04 and away[2] < 0.015:
            # The fingers turn along, and a little ahead: held as they are they would brake the knob by their friction.
            return Goal(contact + 0.08 * onwards, turned_along, CLOSED)
        if across < 0.015 and abs(pushed) < 0.02:
            return Goal(contact, turned_along, CLOSED)
        above = np.array([contact[0], contact[1], self._SAFE_HEIGHT_M])
        if float(np.hypot(away[0], away[1])) > 0.03 and tcp[2] < self._SAFE_HEIGHT_M - 0.02:
            above[:2] = tcp[:2]
        return Goal(above, turned_along, CLOSED)


def make_expert(task: TaskSpec, scene: Scene, noise: float = 0.0, rng: np.random.Generator | None = None) -> Expert:
    """Return the expert of a task, by what it moves; arguments as of `Expert`."""
    kind = KnobExpert if scene.moved_by(task)[0].field == "knob" else DrawerExpert
    return kind(task, scene, noise, rng)


def _bounded(motion: Array, speed: float) -> Array:
    """Scale a motion (3,) so that its largest component is at most `speed`: the direction stays."""
    largest = float(np.abs(motion).max())
    return motion if largest <= speed else motion * (speed / largest)
