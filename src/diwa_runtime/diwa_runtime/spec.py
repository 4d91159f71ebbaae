"""The Spec: what trainer, simulator and robot must agree on, carried by every dataset, checkpoint and bundle.

One JSON states the control rate, the cameras, the proprio and scene layouts, the action scale, the tasks and from
which topics each field comes. `same_spec` says when two of them agree.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.config.bounds import PIXELS
from diwa_runtime.config.values import config_from
from diwa_runtime.errors import ConfigError, InputError, nearest, one_line
from diwa_runtime.kinds import shown
from diwa_runtime.reading import parse_json, read_text, reason_of
from diwa_runtime.stream_spec import DEFAULT_STREAMS, StreamSpec, check_choice, check_name, check_within

SPEC_VERSION = 1
SPEC_LIMIT_BYTES = 1 << 20
RATES_HZ = (0.01, 10_000.0)
"""Of control."""

Mode = Literal["state", "vision", "hybrid"]
MODES: tuple[Mode, ...] = ("state", "vision", "hybrid")
TCP_POSITION = ("tcp_x", "tcp_y", "tcp_z")
"""What every proprio begins with, m: actions move it, and runs are compared by it."""
ROW_FIELDS = ("stamp", "proprio", "scene", "action")
ANGLES = ("roll", "pitch", "yaw")
"""How the names of Euler angles end, rad."""

LEAST_GAP_S, GAP_PERIODS = 0.2, 2.5
"""What rows may bridge: a fifth of a second, and at slow control rates one lost message, jitter allowed for."""

PROPRIO_NAMES = (
    *TCP_POSITION, "tcp_roll", "tcp_pitch", "tcp_yaw", "gripper_width",
    "joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "joint_6", "joint_7", "gripper_command",
)  # fmt: skip
SCENE_NAMES = (
    "slider", "drawer", "button", "switch", "bulb", "led",
    *(f"{block}_{axis}" for block in ("red", "blue", "pink") for axis in ("x", "y", "z", "roll", "pitch", "yaw")),
)  # fmt: skip


def is_angle(name: str) -> bool:
    """Say whether a value of that name is an Euler angle: ``tcp_yaw``."""
    return name.rpartition("_")[2] in ANGLES


def _check_angles(what: str, names: Sequence[str]) -> None:
    """Refuse an angle that is not one of three that make a rotation together: training could not take it."""
    column = 0
    while column < len(names):
        body = names[column].rpartition("_")[0]
        triple = tuple(f"{body}_{angle}" for angle in ANGLES)
        if is_angle(names[column]) and tuple(names[column : column + 3]) != triple:
            raise InputError(
                f"Spec: {what} has {names[column]!r} outside of a triple {', '.join(triple)}; if it is the one angle "
                f"of a hinge, name it otherwise ({body}_angle)"
            )
        column += 3 if is_angle(names[column]) else 1


def _check_unique(what: str, names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"Spec: {what} has {twice!r} twice")


@dataclass(frozen=True)
class ActionScale:
    """What an action of 1 means."""

    translation_m: float = 0.02
    rotation_rad: float = 0.05

    def __post_init__(self) -> None:
        sizes = {"translation_m": self.translation_m, "rotation_rad": self.rotation_rad}
        check_within("action_scale", (1e-9, 1e3), **sizes)


@dataclass(frozen=True)
class CameraSpec:
    """One camera's image as the policy sees it, RGB."""

    name: str
    height: int = 64
    width: int = 64

    def __post_init__(self) -> None:
        check_name("a camera", self.name)
        if self.name in ROW_FIELDS:
            raise InputError(f"Spec: a camera cannot be named {self.name!r}, which every row has beside its images")
        check_within(f"camera {self.name!r}", PIXELS, height=self.height, width=self.width)


@dataclass(frozen=True)
class TaskSpec:
    """A task's predicate: `field` of the scene has changed by more than `change` since the episode's start.

    The sign of `change` is the direction, the inequality is strict (CALVIN's oracle).
    """

    name: str
    field: str
    change: float

    def __post_init__(self) -> None:
        check_name("a task", self.name)
        check_within(f"task {self.name!r}", (1e-9, 1e9), **{"|change|": abs(self.change)})
        if is_angle(self.field):
            raise InputError(
                f"Spec: task {self.name!r} watches {self.field!r}, an angle, which jumps at +-pi; watch another "
                f"value, or, if it never turns that far, name it otherwise ({self.field.rpartition('_')[0]}_angle)"
            )

    def achieved(
        self, scene_start: NDArray[Any], scene_now: NDArray[Any], scene_names: tuple[str, ...]
    ) -> NDArray[np.bool_]:
        """Say for scenes (..., S) whether the task is achieved; bool (...)."""
        index = scene_names.index(self.field)
        moved = np.asarray(scene_now)[..., index] - np.asarray(scene_start)[..., index]
        return moved * math.copysign(1.0, self.change) > abs(self.change)


TASKS = (
    TaskSpec("open_drawer", "drawer", +0.12),
    TaskSpec("close_drawer", "drawer", -0.12),
    TaskSpec("move_slider_left", "slider", +0.15),
    TaskSpec("move_slider_right", "slider", -0.15),
    TaskSpec("turn_on_lightbulb", "bulb", +0.5),
    TaskSpec("turn_off_lightbulb", "bulb", -0.5),
    TaskSpec("turn_on_led", "led", +0.5),
    TaskSpec("turn_off_led", "led", -0.5),
)


@dataclass(frozen=True)
class Spec:
    """The observation and action contract of one robot and its table."""

    mode: Mode = "state"
    rate_hz: float = 30.0
    cameras: tuple[CameraSpec, ...] = (CameraSpec("static"), CameraSpec("wrist"))
    proprio: tuple[str, ...] = PROPRIO_NAMES
    scene: tuple[str, ...] = SCENE_NAMES
    action_scale: ActionScale = field(default_factory=ActionScale)
    tasks: tuple[TaskSpec, ...] = TASKS
    streams: tuple[StreamSpec, ...] = DEFAULT_STREAMS
    version: int = SPEC_VERSION

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        check_within("the Spec", RATES_HZ, rate_hz=self.rate_hz)
        if self.proprio[:3] != TCP_POSITION:
            raise InputError(
                f"Spec: proprio begins with {', '.join(self.proprio[:3])}, must begin with {', '.join(TCP_POSITION)}"
            )
        for what, names in (
            ("cameras", [camera.name for camera in self.cameras]),
            ("proprio", self.proprio),
            ("scene", self.scene),
            ("tasks", [task.name for task in self.tasks]),
        ):
            _check_unique(what, names)
            odd = [name for name in names if not name or not name.isprintable()]
            if odd:
                raise InputError(f"Spec: {what} has the name {odd[0]!r}; use letters, digits and '_'")
        for what, names in (("proprio", self.proprio), ("scene", self.scene)):
            _check_angles(what, names)
        for task in self.tasks:
            if task.field not in self.scene:
                raise InputError(f"Spec: task {task.name!r} watches {task.field!r}, which the scene does not have")

    @property
    def uses_cameras(self) -> bool:
        """Whether the policy needs images."""
        return self.mode != "state"

    @property
    def max_gap_s(self) -> float:
        """The longest time between two messages that rows bridge; beyond it an episode is split and a goal ended."""
        return max(LEAST_GAP_S, GAP_PERIODS / self.rate_hz)

    @property
    def observation_fields(self) -> tuple[str, ...]:
        """The fields that an observation of this mode consists of, in order."""
        cameras = tuple(camera.name for camera in self.cameras) if self.uses_cameras else ()
        return (*cameras, "proprio", *(("scene",) if self.mode == "state" else ()))

    @property
    def watched(self) -> dict[str, float]:
        """The scene's values that tasks watch, and the least change that one of them asks for."""
        names = dict.fromkeys(task.field for task in self.tasks)
        return {name: min(abs(task.change) for task in self.tasks if task.field == name) for name in names}

    def task(self, name: str) -> TaskSpec:
        """Return the task of that name.

        Raises:
            InputError: there is none; names the nearest.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        names = [task.name for task in self.tasks]
        raise InputError(f"no task {name!r} in the Spec{nearest(name, names)} (it has {', '.join(names)})")

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `from_json` turns back into an equal Spec."""
        plain = {**dataclasses.asdict(self), "streams": [stream.to_json() for stream in self.streams]}
        return json.loads(json.dumps(plain))

    @classmethod
    def from_json(cls, data: Any, source: str = "Spec") -> Spec:
        """Build a Spec from plain data; what it leaves out is as in the default one.

        Raises:
            InputError: unknown fields, values of a wrong type or that cannot be, another version; names `source` and
                the field.
        """
        if not isinstance(data, Mapping) or "version" not in data:
            raise InputError(f"{source}: not a Spec (it has no 'version')")
        if data["version"] != SPEC_VERSION:
            found = shown(data["version"])
            raise InputError(f"{source}: Spec version {found}, this DiWA reads {SPEC_VERSION}; make it anew")
        try:
            return config_from(cls, data, source)
        except ConfigError as error:
            raise InputError(str(error)) from None
        except InputError as error:
            raise InputError(f"{source}: {str(error).removeprefix('Spec: ')}") from None

    @classmethod
    def load(cls, path: Path) -> Spec:
        """Read a Spec from a JSON file.

        Raises:
            InputError: not there, not JSON, or not a Spec.
        """
        try:
            text = read_text(path, SPEC_LIMIT_BYTES)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({reason_of(error)})") from None
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, source: str) -> Spec:
        """Read a Spec from JSON, as files have it and as robots say it.

        Raises:
            InputError: too long, not JSON, or not a Spec; names `source`.
        """
        if len(text) > SPEC_LIMIT_BYTES:
            raise InputError(f"{source}: a Spec of {len(text)} characters; at most {SPEC_LIMIT_BYTES} are read")
        try:
            data = parse_json(text)
        except ValueError as error:
            raise InputError(f"{source}: not JSON ({one_line(error)})") from None
        return cls.from_json(data, source)
