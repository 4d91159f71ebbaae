"""The Spec: what trainer, simulator and robot must agree on, carried by every dataset, checkpoint and bundle.

One JSON states the control rate, the cameras, the proprio and scene layouts, the action scale, the tasks and from
which topics each field comes. Two Specs that disagree are refused with the differing field named.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import InputError, SpecMismatchError, nearest

SPEC_VERSION = 1

Mode = Literal["state", "vision", "hybrid"]
MODES: tuple[Mode, ...] = ("state", "vision", "hybrid")

PROPRIO_NAMES = (
    "tcp_x", "tcp_y", "tcp_z", "tcp_roll", "tcp_pitch", "tcp_yaw", "gripper_width",
    "joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "joint_6", "joint_7", "gripper_command",
)  # fmt: skip
SCENE_NAMES = (
    "slider", "drawer", "button", "switch", "bulb", "led",
    *(f"{block}_{axis}" for block in ("red", "blue", "pink") for axis in ("x", "y", "z", "roll", "pitch", "yaw")),
)  # fmt: skip


@dataclass(frozen=True)
class ActionScale:
    """What an action of 1 means."""

    translation_m: float = 0.02
    rotation_rad: float = 0.05


@dataclass(frozen=True)
class CameraSpec:
    """One camera's image as the policy sees it, RGB."""

    name: str
    height: int = 64
    width: int = 64


@dataclass(frozen=True)
class TaskSpec:
    """A task's predicate: `field` of the scene has changed by more than `change` since the episode's start.

    The sign of `change` is the direction, the inequality is strict (CALVIN's oracle).
    """

    name: str
    field: str
    change: float

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
class StreamSpec:
    """Where (a part of) one field of a row comes from.

    Several streams may feed one field; their values are concatenated in the order given.

    Attributes:
        field: ``proprio``, ``scene``, ``action`` or a camera's name.
        topic: topic name, relative to the robot's namespace.
        type: ROS message type, ``package/msg/Name``.
        select: dotted paths into the message; arrays are flattened; ``path|euler`` turns a quaternion message
            into Euler xyz, ``path|values:names`` orders a value array by a parallel name array as the Spec's layout
            names them. Empty for images.
        timeline: order by the sensor's ``header.stamp`` or by the time of receipt.
        align: ``nearest`` message to the tick, ``hold`` the last one at or before it, or ``integrate`` (sum) all that
            came after this row's message up to and including the next row's.
        max_age_s: a row whose message is further away than this is not made.
    """

    field: str
    topic: str
    type: str
    select: tuple[str, ...] = ()
    timeline: Literal["sensor", "receipt"] = "sensor"
    align: Literal["nearest", "hold", "integrate"] = "nearest"
    max_age_s: float = 0.1


ROBOT_STATE = "diwa_msgs/msg/RobotState"
DEFAULT_STREAMS = (
    StreamSpec(
        "proprio",
        "robot/state",
        ROBOT_STATE,
        ("tcp_pose.position", "tcp_pose.orientation|euler", "gripper_width", "joint_positions", "gripper_command"),
    ),
    StreamSpec("scene", "scene/state", "diwa_msgs/msg/SceneState", ("values|values:names",)),
    StreamSpec("action", "robot/state", ROBOT_STATE, ("accepted_translation", "accepted_rotation"), align="integrate"),
    StreamSpec("action", "robot/state", ROBOT_STATE, ("gripper_command",), align="hold"),
    StreamSpec("static", "camera/static/image/compressed", "sensor_msgs/msg/CompressedImage"),
    StreamSpec("wrist", "camera/wrist/image/compressed", "sensor_msgs/msg/CompressedImage"),
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
        if self.mode not in MODES:
            raise InputError(
                f"Spec: mode {self.mode!r} is not one of {', '.join(MODES)}{nearest(str(self.mode), MODES)}"
            )
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise InputError(f"Spec: rate_hz must be a positive number, not {self.rate_hz}")
        for task in self.tasks:
            if task.field not in self.scene:
                raise InputError(f"Spec: task {task.name!r} watches {task.field!r}, which the scene does not have")

    @property
    def uses_cameras(self) -> bool:
        """Whether the policy needs images."""
        return self.mode != "state"

    @property
    def observation_fields(self) -> tuple[str, ...]:
        """The fields that an observation of this mode consists of, in order."""
        cameras = tuple(camera.name for camera in self.cameras) if self.uses_cameras else ()
        return (*cameras, "proprio", *(("scene",) if self.mode == "state" else ()))

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
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def from_json(cls, data: Any, source: str = "Spec") -> Spec:
        """Build a Spec from plain data.

        Raises:
            InputError: unknown or missing fields, wrong types, another version; names `source` and the field.
        """
        try:
            version = data["version"]
        except (TypeError, KeyError):
            raise InputError(f"{source}: not a Spec (it has no 'version')") from None
        if version != SPEC_VERSION:
            raise InputError(f"{source}: Spec version {version}, this DiWA reads {SPEC_VERSION}; make it anew")
        known = {f.name for f in dataclasses.fields(cls)}
        for name in data:
            if name not in known:
                raise InputError(f"{source}: unknown Spec field {name!r}{nearest(name, known)}")
        try:
            return cls(
                **{
                    **data,
                    "cameras": tuple(CameraSpec(**camera) for camera in data["cameras"]),
                    "proprio": tuple(data["proprio"]),
                    "scene": tuple(data["scene"]),
                    "action_scale": ActionScale(**data["action_scale"]),
                    "tasks": tuple(TaskSpec(**task) for task in data["tasks"]),
                    "streams": tuple(
                        StreamSpec(**{**stream, "select": tuple(stream.get("select", ()))})
                        for stream in data["streams"]
                    ),
                }
            )
        except (TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{source}: not a Spec ({error})") from None

    @classmethod
    def load(cls, path: Path) -> Spec:
        """Read a Spec from a JSON file.

        Raises:
            InputError: not there, not JSON, or not a Spec.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error})") from None
        return cls.from_json(data, str(path))


def check_same_spec(ours: Spec, ours_name: str, theirs: Spec, theirs_name: str) -> None:
    """Refuse two Specs that disagree.

    Raises:
        SpecMismatchError: names the first field that differs and both values.
    """
    difference = _first_difference(ours.to_json(), theirs.to_json(), "")
    if difference is not None:
        path, a, b = difference
        raise SpecMismatchError(
            f"the Specs of {ours_name} and {theirs_name} disagree in '{path}': {_short(a)} against {_short(b)}; "
            "make both from the same robot and settings"
        )


def _first_difference(a: Any, b: Any, path: str) -> tuple[str, Any, Any] | None:
    if isinstance(a, dict) and isinstance(b, dict):
        items = [(f"{path}.{key}".lstrip("."), a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b])]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        items = [(f"{path}[{i}]", x, y) for i, (x, y) in enumerate(zip(a, b, strict=True))]
    else:
        return None if a == b else (path, a, b)
    return next((found for p, x, y in items if (found := _first_difference(x, y, p))), None)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
