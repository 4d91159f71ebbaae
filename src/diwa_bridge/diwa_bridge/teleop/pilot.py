"""From an operator's hands to commands: what a device says, how it is scaled, and when it may move the arm. ROS-free.

A device gives levels on six axes and presses; it never blocks and knows nothing of robots. The `Pilot` turns the levels
into metres and radians, and decides whether anything is commanded at all: only on input that is fresh, only in a mode
in which the arm follows, and after a time in which it did not only once the operator's hands have been at rest. While a
person guides the arm by hand, the gripper alone is commanded, where it is pressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diwa_runtime.actions import motion_units
from diwa_runtime.errors import InputError
from diwa_runtime.robot import RobotMode
from diwa_runtime.rows.streams import NANOSECONDS
from diwa_runtime.spec import ActionScale

Array = NDArray[np.float64]
AXES = ("x", "y", "z", "roll", "pitch", "yaw")
"""Base frame: x away from the robot's base, y to its left, z up; Euler xyz."""
FOLLOWING = (RobotMode.IDLE, RobotMode.MOVING)
"""The modes in which the arm does as it is commanded. Not while a person guides it by hand: two would move it."""


class Action(StrEnum):
    """What a button, a key or a script's `press` asks for."""

    GRIPPER = "gripper"
    START = "start"
    SAVE = "save"
    DISCARD = "discard"
    FAILURE = "failure"
    TASK = "task"
    ACHIEVED = "achieved"
    STOP = "stop"
    QUIT = "quit"


class DeviceLost(InputError):
    """A device that was there and is not any more."""


@dataclass(frozen=True)
class Reading:
    """What a device says.

    Attributes:
        axes: (6,) in [-1, 1], in the order of `AXES`.
        heard_ns: when the device itself last said anything, on the clock of `read`; None = never.
        pressed: since the last reading, in order.
    """

    axes: Array
    heard_ns: int | None
    pressed: tuple[Action, ...] = ()


class TeleopDevice(Protocol):
    """One way to say what is wished.

    Attributes:
        name: for the operator.
        about: how it is used, one line for the operator.
        fresh_s: for so long after it was last heard its axes count.
    """

    name: str
    about: str
    fresh_s: float

    def read(self, now_ns: int, stamp_ns: int | None) -> Reading:
        """Return what it says; never waits.

        Args:
            now_ns: on the steady clock.
            stamp_ns: of the newest observation, on the robot's clock; None = there was none yet.

        Raises:
            DeviceLost: it is gone.
        """

    def close(self) -> None:
        """Give the device back as it was."""


@dataclass(frozen=True)
class Shaping:
    """How far a deflection moves the arm.

    Attributes:
        scale: what full deflection means in one control period.
        dead_zone: share of an axis's range around its middle that means nothing.
        exponent: above 1 gives fine control near the middle.
    """

    scale: ActionScale = field(default_factory=lambda: ActionScale(translation_m=0.005, rotation_rad=0.01))
    dead_zone: float = 0.1
    exponent: float = 2.0

    def motion(self, axes: Array) -> Array:
        """Return the motion of one control period (6,): m, then rad; of more than full deflection, that of full.

        There is no step at the dead zone's edge.
        """
        beyond = np.clip((np.abs(axes) - self.dead_zone) / (1 - self.dead_zone), 0.0, 1.0)
        return np.sign(axes) * beyond**self.exponent * motion_units(self.scale)


@dataclass(frozen=True)
class Order:
    """One command.

    Attributes:
        motion: (6,): m, then rad.
        gripper: > 0 opens.
    """

    motion: Array
    gripper: float


class Pilot:
    """Reads the devices and says what is to be commanded.

    Attributes:
        lost: which device is gone, and what to do; "" = all are there. Nothing is commanded any more.
        motion: (6,) what is wished now.
        trouble: which device said last what cannot be; "" = none does. That counts as hands at rest.
        refused: how many readings could not be.
    """

    def __init__(self, devices: Sequence[TeleopDevice], shaping: Shaping, tail_s: float = 0.3) -> None:
        """Add up what `devices` say; go on with zeros for `tail_s` after the last wish."""
        self._devices, self._shaping, self._tail_ns = tuple(devices), shaping, round(tail_s * NANOSECONDS)
        self.lost = self.trouble = ""
        self.refused = 0
        self.motion: Array = np.zeros(6)
        self._gripper: float | None = None
        self._moved_ns: int | None = None
        self._pressed_ns: int | None = None
        self._rested = False

    @property
    def needs_rest(self) -> bool:
        """Whether the operator must let go once before anything is commanded."""
        return not self._rested

    def poll(self, now_ns: int, stamp_ns: int | None) -> list[Action]:
        """Read all devices; return what was pressed and is not the pilot's own business."""
        axes, pressed = np.zeros(6), list[Action]()
        self.trouble = ""
        for device in self._devices:
            try:
                reading = device.read(now_ns, stamp_ns)
            except DeviceLost as lost:
                self.lost = str(lost)
                continue
            pressed += reading.pressed
            if not np.isfinite(reading.axes).all():
                self.refused += 1
                self.trouble = f"the {device.name} says what is not finite; its axes do not count"
                continue
            if reading.heard_ns is not None and now_ns - reading.heard_ns <= device.fresh_s * NANOSECONDS:
                axes += reading.axes
        self.motion = self._shaping.motion(axes)
        for _ in range(pressed.count(Action.GRIPPER)):
            self._toggle_gripper(now_ns)
        return [action for action in pressed if action is not Action.GRIPPER]

    def order(self, mode: RobotMode, gripper_command: float, now_ns: int) -> Order | None:
        """Return what to command in answer to a robot state, after `poll`; None = nothing.

        Args:
            mode: the robot's.
            gripper_command: what its gripper was last told, by whomever.
            now_ns: as for `poll`.
        """
        if self.lost or mode not in (*FOLLOWING, RobotMode.GUIDED):
            self.halt()
            return None
        motion = self._wished_motion(mode, now_ns)
        wished = any(at is not None and now_ns - at <= self._tail_ns for at in (self._moved_ns, self._pressed_ns))
        if self._gripper is None or not wished:
            # Who moved the gripper meanwhile is not to be contradicted by the next touch of a stick.
            self._gripper = 1.0 if gripper_command > 0 else -1.0
        return None if motion is None or not wished else Order(motion, self._gripper)

    def _wished_motion(self, mode: RobotMode, now_ns: int) -> Array | None:
        """Return (6,), zeros where nothing or only the gripper may move; None: the hands must rest first."""
        if mode is RobotMode.GUIDED:  # whoever holds the arm has no hand left for its fingers, so those are followed
            self._rested, self._moved_ns = False, None
            return np.zeros(6)
        resting = not self.motion.any()
        self._rested = self._rested or resting
        if not self._rested:
            return None
        if not resting:
            self._moved_ns = now_ns
        return self.motion.copy()

    def halt(self) -> None:
        """Command nothing until the operator's hands have been at rest."""
        self._rested, self._moved_ns, self._pressed_ns = False, None, None

    def close(self) -> None:
        """Give all devices back; from now on nothing is read, pressed or commanded."""
        devices, self._devices = self._devices, ()
        self.halt()
        for device in devices:
            device.close()

    def _toggle_gripper(self, now_ns: int) -> None:
        if self._gripper is not None:
            self._gripper, self._pressed_ns = -self._gripper, now_ns
