"""Where a field of a row comes from: topic, type, what is selected, by which clock, in what units."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.errors import InputError, nearest

Timeline = Literal["sensor", "receipt"]
TIMELINES: tuple[Timeline, ...] = ("sensor", "receipt")
Alignment = Literal["nearest", "hold", "integrate"]
ALIGNMENTS: tuple[Alignment, ...] = ("nearest", "hold", "integrate")
Scale = Literal["SI", "mm", "deg", "normalised"]
SCALES: tuple[Scale, ...] = ("SI", "mm", "deg", "normalised")
UNITS: Mapping[str, float] = {"SI": 1.0, "mm": 1e-3, "deg": math.pi / 180, "normalised": 1.0}
Applies = Literal["before", "after"]
APPLIES: tuple[Applies, ...] = ("before", "after")
LATER: Mapping[str, Any] = {"scale": "SI", "applies": "before", "closed_open": None}
"""Settings that streams were given later, and what they are where a file lacks them. Where they are that, no file has
them, so that what a Spec says, by which datasets and runs are known, is what it said before."""


def is_name(text: str) -> bool:
    """Say whether a text can be part of a topic's, a folder's and a file's name."""
    return re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", text) is not None


def check_name(what: str, name: str) -> None:
    """Refuse what cannot name `what`."""
    if not is_name(name):
        raise InputError(f"Spec: {name!r} cannot name {what}; use letters, digits, '_', '-' and '.' only")


def check_choice(what: str, word: str, known: Sequence[str]) -> None:
    """Refuse a word that is none of those known."""
    if word not in known:
        raise InputError(f"Spec: {what} is {word!r}, must be one of {', '.join(known)}{nearest(str(word), known)}")


def check_within(what: str, bounds: tuple[float, float], **values: float) -> None:
    """Refuse values of `what` that are not positive, or beyond bounds."""
    for name, value in values.items():
        if not value > 0:
            raise InputError(f"Spec: {name} of {what} must be positive, not {value!s:.24}")
        if not bounds[0] <= value <= bounds[1]:
            raise InputError(f"Spec: {name} of {what} must be from {bounds[0]:g} to {bounds[1]:g}, not {value!s:.24}")


def _check_selection(what: str, path: str) -> None:
    """Refuse what is none of ``PATH``, ``PATH|euler`` and ``PATH|values:names``, PATH ending in ``values``."""
    where, bar, transform = path.partition("|")
    values, colon, names = transform.partition(":")
    by_name = bool(colon) and values == where.rpartition(".")[2] and names.isidentifier()
    if not all(part.isidentifier() for part in where.split(".")) or (bar and transform != "euler" and not by_name):
        raise InputError(f"Spec: {what}: {path!r} is no selection; use PATH, PATH|euler or PATH|values:names")


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
            names them; where a field has more than one part, as it names this part's own place. Empty for images.
        timeline: order by the sensor's ``header.stamp`` or by the time of receipt.
        align: ``nearest`` message to the tick, ``hold`` the last one at or before it, or ``integrate`` (sum) all that
            came after this row's message up to and including the next row's.
        max_age_s: a row whose message is further away than this is not made.
        scale: in what its values are: ``SI``, ``mm``, ``deg``, a factor that makes them SI, or, of actions,
            ``normalised``: in units of the action scale already, 1 at full speed.
        applies: of an action's message, to which motion it belongs: the one ``before`` its stamp, as what a robot says
            that it did, or the one ``after`` it, as a command that is stamped as the observation that it answers.
        closed_open: where a message's last number is the gripper's command, the values that close and open it; each
            value counts as the nearer of the two, and is -1 or 1 in rows. None: as the message has it.
    """

    field: str
    topic: str
    type: str
    select: tuple[str, ...] = ()
    timeline: Timeline = "sensor"
    align: Alignment = "nearest"
    max_age_s: float = 0.1
    scale: float | Scale = "SI"
    applies: Applies = "before"
    closed_open: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        what = f"stream {self.topic!r}"
        check_choice(f"timeline of {what}", self.timeline, TIMELINES)
        check_choice(f"align of {what}", self.align, ALIGNMENTS)
        check_within(what, (1e-6, 1e6), max_age_s=self.max_age_s)
        for path in self.select:
            _check_selection(what, path)
            if ":" in path and self.field == "action":
                raise InputError(f"Spec: {what}: an action has no names to select {path!r} by; name its paths in order")
        check_choice(f"applies of {what}", self.applies, APPLIES)
        if self.applies == "after" and self.field != "action":
            raise InputError(f"Spec: {what}: {self.field!r} applies to no motion, only actions do; leave 'applies' out")
        self._check_scale(what)
        self._check_gripper(what)

    def _check_scale(self, what: str) -> None:
        if isinstance(self.scale, str):
            check_choice(f"scale of {what}", self.scale, SCALES)
        else:
            check_within(what, (1e-9, 1e9), scale=self.scale)
        if self.scale == "SI":
            return
        if self.scale == "normalised" and self.field != "action":
            raise InputError(f"Spec: {what}: only actions can be normalised, {self.field!r} needs a unit or a factor")
        if not self.select:
            raise InputError(f"Spec: {what}: pictures have no scale, leave it out")
        if any(path.endswith("|euler") for path in self.select):
            raise InputError(
                f"Spec: {what}: a quaternion's angles are radians, not {self.scale!r}; give them their own stream"
            )

    def _check_gripper(self, what: str) -> None:
        if self.closed_open is None:
            return
        closed, opened = self.closed_open
        if not (math.isfinite(closed) and math.isfinite(opened) and closed != opened):
            said = f"must be two different numbers, not {closed:g} and {opened:g}"
            raise InputError(f"Spec: closed_open of {what} {said}")
        if self.field not in ("action", "proprio") or self.align == "integrate":
            raise InputError(
                f"Spec: {what}: closed_open is for a gripper's command, of 'action' or 'proprio', which is not summed"
            )

    def own(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a message's values (k,) in SI, a normalised action as it is, a gripper's command as -1 or 1."""
        own = values if self.factor == 1.0 else values * self.factor
        if self.closed_open is None:
            return own
        closed, opened = self.closed_open
        gripper = 1.0 if abs(values[-1] - opened) < abs(values[-1] - closed) else -1.0
        return np.append(own[:-1], gripper)

    @property
    def factor(self) -> float:
        """What values are multiplied by to be SI; normalised ones stay as they are."""
        return UNITS[self.scale] if isinstance(self.scale, str) else self.scale

    def to_json(self) -> dict[str, Any]:
        """Return plain data, without those of the `LATER` settings that are as they were before."""
        plain = dataclasses.asdict(self)
        return {name: value for name, value in plain.items() if name not in LATER or value != LATER[name]}


ROBOT_STATE_TYPE = "diwa_msgs/msg/RobotState"
DEFAULT_STREAMS = (
    StreamSpec(
        "proprio",
        "robot/state",
        ROBOT_STATE_TYPE,
        ("tcp_pose.position", "tcp_pose.orientation|euler", "gripper_width", "joint_positions", "gripper_command"),
    ),
    StreamSpec("scene", "scene/state", "diwa_msgs/msg/SceneState", ("values|values:names",)),
    StreamSpec(
        "action", "robot/state", ROBOT_STATE_TYPE, ("accepted_translation", "accepted_rotation"), align="integrate"
    ),
    StreamSpec("action", "robot/state", ROBOT_STATE_TYPE, ("gripper_command",), align="hold"),
    StreamSpec("static", "camera/static/image/compressed", "sensor_msgs/msg/CompressedImage"),
    StreamSpec("wrist", "camera/wrist/image/compressed", "sensor_msgs/msg/CompressedImage"),
)
