"""Play: skills with all their slips and near misses, and free motion, strung together without a reset in between.

Nobody labels play and nothing is left out: the world model needs what went wrong as much as what went right, and a
reward needs hands that are where success looks like without its having happened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import ACTION_SIZE
from diwa_runtime.spec import Spec, TaskSpec
from diwa_sim.snapshot import Snapshot

PLAY_STEPS = 320
FREE = "free"
"""The name of a segment that follows no skill."""


class Skill(Protocol):
    """What players need of an expert: `experts.Expert`, or that of another simulator."""

    at_once: bool
    """Whether a touch is enough: who lets go only then has done the task."""
    done: bool
    """Whether the task's predicate holds since the first observation."""

    def act(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """Return the action (7,) for an observation with ``proprio`` and ``scene``."""

    def contact(self, scene: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where the TCP (3,) meets what it will move, in a scene (S,)."""

    def progress(self, start: NDArray[np.float64], now: NDArray[np.float64]) -> float:
        """Return the share of the way to success, or to the end of the travel where that comes first; 1 is there."""


class Reach(Protocol):
    """What players need of a table's layout."""

    @property
    def ranges(self) -> Mapping[str, float]:
        """How far the scene's joints go; what has no entry is 0 or 1."""


class PlayedTable(Protocol):
    """What players and demonstrators need of a table: `environment.PlayTable`, or one that is moved over topics."""

    @property
    def contract(self) -> Spec:
        """Its Spec."""

    @property
    def layout(self) -> Reach:
        """How far its joints go."""

    def reset(self, *, seed: int | None = None) -> Any:
        """Begin an episode."""

    def step(self, action: NDArray[np.floating]) -> tuple[Any, ...]:
        """Execute an action (7,) for a control tick; last comes a dict, with `success` of the table's own task."""

    def snapshot(self) -> Snapshot:
        """Return the current instant."""

    def expert(self, noise: float = 0.0, rng: np.random.Generator | None = None, task: str | None = None) -> Skill:
        """Return a scripted policy."""


@dataclass(frozen=True)
class PlaySettings:
    """What play is made of.

    Attributes:
        noise: the levels of action noise; each skill segment draws one.
        free: share of the segments that are free motion.
        near_miss: share of the skill segments that let go on purpose before the task is done.
        misjudged: share of the skill segments that misjudge where the hand is, by a constant error.
        misjudged_m: levels of that error, each such segment draws one: standard deviation in x and in y; in z half.
        segment_steps: a skill that takes longer is given up.
        linger_steps: how long a skill goes on after its task is done, at most.
        free_steps: shortest and longest free segment.
        without: values of the scene that no skill moves; the hand may still bump into what they are of.
    """

    noise: tuple[float, ...] = (0.1, 0.3, 0.6)
    free: float = 0.25
    near_miss: float = 0.25
    misjudged: float = 0.5
    misjudged_m: tuple[float, ...] = (0.02, 0.05, 0.08)
    segment_steps: int = 60
    linger_steps: int = 12
    free_steps: tuple[int, int] = (20, 60)
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlayStep:
    """One step of play.

    Attributes:
        snapshot: the robot and the table after the step.
        segment: the skill that is tried, by its task's name, or `FREE`.
        achieved: tasks whose predicate came true in this step, counted from the segment's start.
    """

    snapshot: Snapshot
    segment: str
    achieved: tuple[str, ...] = ()


class FreeMotion:
    """Smooth random motion: a velocity that wanders (Ornstein-Uhlenbeck), a gripper that toggles now and then."""

    _MEMORY = 0.92
    _SPREAD = np.array([0.6, 0.6, 0.6, 0.25, 0.25, 0.4])
    _TOGGLE = 0.02

    def __init__(self, rng: np.random.Generator, gripper: float = 1.0) -> None:
        self._rng = rng
        self._motion = self._SPREAD * rng.standard_normal(6)
        self._gripper = gripper

    def act(self) -> NDArray[np.float32]:
        """Return the next action (7,)."""
        drive = np.sqrt(1 - self._MEMORY**2) * self._SPREAD * self._rng.standard_normal(6)
        self._motion = self._MEMORY * self._motion + drive
        if self._rng.random() < self._TOGGLE:
            self._gripper = -self._gripper
        action = np.empty(ACTION_SIZE, dtype=np.float32)
        action[:6] = np.clip(self._motion, -1.0, 1.0)
        action[6] = self._gripper
        return action


@dataclass
class _NearMiss:
    """Lets go of a skill on purpose: once so much of the way is done, or the hand is so near what it should move."""

    progress: float
    distance_m: float

    def reached(self, expert: Skill, start: Snapshot, now: Snapshot) -> bool:
        near = float(np.linalg.norm(now.tcp_position - expert.contact(now.scene))) < self.distance_m
        return near or expert.progress(start.scene, now.scene) > self.progress


@dataclass
class Player:
    """Plays at a table, segment by segment."""

    env: PlayedTable
    rng: np.random.Generator
    settings: PlaySettings = field(default_factory=PlaySettings)

    def episode(self, seed: int, steps: int = PLAY_STEPS) -> Iterator[PlayStep]:
        """Reset the table with `seed`; yield its start and then `steps` steps."""
        self.env.reset(seed=seed)
        left = steps
        yield PlayStep(self.env.snapshot(), FREE)
        while left > 0:
            segment = self._free() if self.rng.random() < self.settings.free else self._skill()
            for step in segment:
                yield step
                left -= 1
                if left == 0:
                    return

    def _free(self) -> Iterator[PlayStep]:
        motion = FreeMotion(self.rng, self.env.snapshot().gripper_command)
        watch = _Watch(self.env)
        low, high = self.settings.free_steps
        for _ in range(int(self.rng.integers(low, high + 1))):
            self.env.step(motion.act())
            yield PlayStep(self.env.snapshot(), FREE, watch.newly_achieved())

    def _skill(self) -> Iterator[PlayStep]:
        task = self._draw_task()
        if task is None:
            yield from self._free()
            return
        noise = float(self.rng.choice(self.settings.noise))
        expert = self.env.expert(noise, self.rng, task=task.name)
        near_miss = self._draw_near_miss(expert) if self.rng.random() < self.settings.near_miss else None
        watch = _Watch(self.env)
        start = self.env.snapshot()
        linger = int(self.rng.integers(self.settings.linger_steps + 1))
        error = self._draw_error()
        for _ in range(self.settings.segment_steps):
            now = self.env.snapshot()
            proprio = now.proprio()
            proprio[:3] += error
            self.env.step(expert.act({"proprio": proprio, "scene": now.scene}))
            yield PlayStep(self.env.snapshot(), task.name, watch.newly_achieved())
            if near_miss is not None and near_miss.reached(expert, start, self.env.snapshot()):
                break
            if expert.done or expert.progress(start.scene, self.env.snapshot().scene) >= 1.0:
                linger -= 1
            if linger < 0:
                break
        if near_miss is not None:
            yield from self._retreat(task.name, watch)

    def _retreat(self, segment: str, watch: _Watch) -> Iterator[PlayStep]:
        """Let go and rise."""
        action = np.array([0, 0, 0.8, 0, 0, 0, 1], dtype=np.float32)
        for _ in range(int(self.rng.integers(3, 9))):
            self.env.step(action)
            yield PlayStep(self.env.snapshot(), segment, watch.newly_achieved())

    def _draw_task(self) -> TaskSpec | None:
        """Any task that has something left to move, if too little for success: such tries are part of play.

        None where there is none, as where a drawer that is shut is all that play moves.

        What to touch is drawn first: a light has one task at a time that can be done, a drawer often two.
        """
        scene, spec = self.env.snapshot().scene, self.env.contract
        able: dict[str, list[TaskSpec]] = {}
        for task in spec.tasks:
            value = float(scene[spec.scene.index(task.field)])
            if task.field not in self.settings.without and _room(task, value, self.env.layout.ranges) > 0.2:
                able.setdefault(task.field, []).append(task)
        if not able:
            return None
        tasks = list(able.values())[int(self.rng.integers(len(able)))]
        return tasks[int(self.rng.integers(len(tasks)))]

    def _draw_error(self) -> NDArray[np.float64]:
        """How far off (3,) m the hand is taken to be: presses beside the button teach where the button ends."""
        if self.rng.random() >= self.settings.misjudged:
            return np.zeros(3)
        level = float(self.rng.choice(self.settings.misjudged_m))
        return level * np.array([1.0, 1.0, 0.5]) * self.rng.standard_normal(3)

    def _draw_near_miss(self, expert: Skill) -> _NearMiss:
        approach_only = self.rng.random() < 0.35 or expert.at_once
        return _NearMiss(
            progress=float(self.rng.uniform(0.15, 0.95)),
            distance_m=float(self.rng.uniform(0.02, 0.06)) if approach_only else 0.0,
        )


class _Watch:
    """Says which tasks have been achieved since a segment's start, each once."""

    def __init__(self, env: PlayedTable) -> None:
        self._env = env
        self._start = env.snapshot().scene
        self._seen: set[str] = set()

    def newly_achieved(self) -> tuple[str, ...]:
        now = self._env.snapshot().scene
        fresh = tuple(
            task.name
            for task in self._env.contract.tasks
            if task.name not in self._seen and task.achieved(self._start, now, self._env.contract.scene)
        )
        self._seen.update(fresh)
        return fresh


def _room(task: TaskSpec, value: float, ranges: Mapping[str, float]) -> float:
    """How far the task's field can still move its way from a value, as a share of what success takes."""
    room = ranges.get(task.field, 1.0) - value if task.change > 0 else value
    return room / abs(task.change)
