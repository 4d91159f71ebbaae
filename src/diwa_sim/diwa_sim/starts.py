"""Where an episode starts: how widely arm and table are randomised, so that the task is open and can be done."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import ConfigError, nearest
from diwa_runtime.spec import TaskSpec
from diwa_sim.controller import TCP_HOME_EULER
from diwa_sim.model import BLOCKS, TABLE_HEIGHT_M, Layout

Array = NDArray[np.float64]

PRESETS = {"narrow": 0.3, "medium": 0.6, "wide": 1.0, "far": 2.0}
"""Names of difficulties: the factor on the arm's spread. Blocks are spread over their whole strip from 1 on."""
HARDEST = 2.0

_TCP_CENTRE = np.array([0.02, -0.17, 0.62])
_TCP_SPREAD = np.array([0.22, 0.11, 0.07])
_EULER_SPREAD = np.array([0.15, 0.15, 0.5])
_BLOCK_LOW, _BLOCK_HIGH = np.array([-0.17, -0.165]), np.array([0.19, -0.065])
_BLOCK_CENTRES = np.array([[-0.13, -0.115], [0.01, -0.115], [0.15, -0.115]])
_BLOCK_HALF_HEIGHT = {"red": 0.025, "blue": 0.022, "pink": 0.030}
_BLOCK_DISTANCE_M = 0.08
_MARGIN_M = 0.03


@dataclass(frozen=True)
class Start:
    """A start state.

    Attributes:
        tcp_position, tcp_euler: (3,) m and (3,) rad, what the arm is placed at.
        fixtures: joint positions (m) by name: slider, drawer, switch.
        led: whether the LED is on.
        block_positions: (3, 3) m.
        block_yaws: (3,) rad.
    """

    tcp_position: Array
    tcp_euler: Array
    fixtures: dict[str, float]
    led: bool
    block_positions: Array
    block_yaws: Array


def start_difficulty(start: str | float) -> float:
    """Turn a preset's name or a factor in [0, `HARDEST`] into the factor.

    Raises:
        ConfigError: no such preset, or out of range.
    """
    if isinstance(start, str):
        if start not in PRESETS:
            raise ConfigError(f"start {start!r} is not one of {', '.join(PRESETS)}{nearest(start, PRESETS)}")
        return PRESETS[start]
    if not 0.0 <= start <= HARDEST:
        raise ConfigError(f"start must be one of {', '.join(PRESETS)} or a number from 0 to {HARDEST:g}, not {start}")
    return float(start)


def sample_start(rng: np.random.Generator, difficulty: float, task: TaskSpec | None, layout: Layout) -> Start:
    """Draw a start in which `task` (None: play) is not achieved and can be.

    The same generator state gives the same start. At difficulty 0 arm and blocks are always in the same places; joints
    that no task's direction constrains are still drawn from their whole range.
    """
    tcp_position = _TCP_CENTRE + difficulty * _TCP_SPREAD * rng.uniform(-1, 1, 3)
    tcp_euler = TCP_HOME_EULER + difficulty * _EULER_SPREAD * rng.uniform(-1, 1, 3)
    fixtures = {name: _fixture(rng, name, task, layout) for name in ("slider", "drawer")}
    bulb, led = (_light(rng, name, task) for name in ("bulb", "led"))
    travel = layout.ranges["switch"]
    fixtures["switch"] = float(rng.uniform(0.0, 0.3) * travel)
    if bulb:
        fixtures["switch"] = travel - fixtures["switch"]
    positions, yaws = _blocks(rng, min(difficulty, 1.0))
    return Start(tcp_position, tcp_euler, fixtures, led, positions, yaws)


def _fixture(rng: np.random.Generator, name: str, task: TaskSpec | None, layout: Layout) -> float:
    travel = layout.ranges[name]
    if task is None or task.field != name:
        return float(rng.uniform(0.0, travel))
    room = travel - abs(task.change) - _MARGIN_M
    offset = float(rng.uniform(0.0, room))
    return offset if task.change > 0 else travel - offset


def _light(rng: np.random.Generator, name: str, task: TaskSpec | None) -> bool:
    drawn = bool(rng.random() < 0.5)
    return drawn if task is None or task.field != name else task.change < 0


def _blocks(rng: np.random.Generator, difficulty: float) -> tuple[Array, Array]:
    """Place the blocks apart from each other, clear of lever, button and edge, by rejection."""
    while True:
        free = rng.uniform(_BLOCK_LOW, _BLOCK_HIGH, (3, 2))
        ground = _BLOCK_CENTRES[rng.permutation(3)] * (1 - difficulty) + free * difficulty
        gaps = np.linalg.norm(ground[[0, 0, 1]] - ground[[1, 2, 2]], axis=1)
        if gaps.min() > _BLOCK_DISTANCE_M:
            break
    heights = [TABLE_HEIGHT_M + _BLOCK_HALF_HEIGHT[name] for name in BLOCKS]
    return np.column_stack([ground, heights]), rng.uniform(-np.pi, np.pi, 3) * difficulty
