"""The devices that an operator can hold. Each opens by `NAME` or `NAME:ARGUMENT`, as a script in their place does."""

from __future__ import annotations

import importlib
import os
import re
import select
import struct
import sys
import termios
import tty
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from diwa_bridge.teleop.pilot import AXES, Action, Array, DeviceLost, Reading, TeleopDevice
from diwa_bridge.teleop.script import Script
from diwa_runtime.errors import ConfigError, InputError, nearest
from diwa_runtime.rows.streams import NANOSECONDS

Direction = tuple[str, int]
"""An axis's name and the sign of the motion along it."""


def _axes(levels: Mapping[Direction, float]) -> Array:
    axes = np.zeros(6)
    for (name, sign), level in levels.items():
        axes[AXES.index(name)] += sign * level
    return np.clip(axes, -1.0, 1.0)


def _arrived(descriptor: int, size: int, name: str) -> bytes:
    """Return what waits to be read, b"" for nothing.

    Raises:
        DeviceLost: nothing will come any more.
    """
    if not select.select([descriptor], [], [], 0)[0]:
        return b""
    try:
        data = os.read(descriptor, size)
    except OSError as error:
        raise DeviceLost(f"the {name} is gone ({error.strerror}); connect it and start again") from None
    if not data:
        raise DeviceLost(f"the {name} is gone (end of input); connect it and start again")
    return data


class Keyboard:
    """Keys on a terminal: a key moves for `fresh_s` after each time that the terminal sends it.

    A terminal says only that a key was pressed, and again while it is held, after the pause that the desktop sets: a
    touch is a nudge, a key held goes on after that pause, a key let go stops.
    """

    name, fresh_s = "keyboard", 0.15
    MOVES: Mapping[str, Direction] = {
        "w": ("x", 1), "s": ("x", -1), "a": ("y", 1), "d": ("y", -1), "r": ("z", 1), "f": ("z", -1),
        "j": ("roll", -1), "l": ("roll", 1), "i": ("pitch", 1), "k": ("pitch", -1), "u": ("yaw", 1), "o": ("yaw", -1),
    }  # fmt: skip
    PRESSES: Mapping[str, Action] = {
        " ": Action.STOP, "g": Action.GRIPPER, "b": Action.START, "v": Action.SAVE, "c": Action.FAILURE,
        "x": Action.DISCARD, "t": Action.TASK, "m": Action.ACHIEVED, "\x04": Action.QUIT,
    }  # fmt: skip
    about = (
        "w/s x, a/d y, r/f z, j/l roll, i/k pitch, u/o yaw; g gripper, SPACE robot/stop; "
        "b begin, v save, c failure, x discard, t next task, m that one achieved in play; Ctrl-D quits"
    )
    _ESCAPES = re.compile(r"\x1b(\[[0-9;]*.|O.|.)?", re.DOTALL)
    """Arrow and function keys and Alt: letters within them are none that somebody pressed."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Take over a terminal; None: the process's.

        Raises:
            InputError: it is none.
        """
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        if not os.isatty(self._descriptor):
            raise InputError("keyboard: the input is not a terminal; start diwa_teleop by hand in one, not by a launch")
        self._before = termios.tcgetattr(self._descriptor)
        # Not raw altogether: Ctrl-C must stay what it is.
        tty.setcbreak(self._descriptor, termios.TCSANOW)
        self._sent_ns: dict[str, int] = {}

    def read(self, now_ns: int, _: int | None) -> Reading:
        """Return the axes of the keys that are held."""
        text = _arrived(self._descriptor, 4096, self.name).decode("latin-1")
        keys = self._ESCAPES.sub("", text)
        self._sent_ns |= {key: now_ns for key in keys if key in self.MOVES}
        held = [key for key, at in self._sent_ns.items() if now_ns - at <= self.fresh_s * NANOSECONDS]
        # Of a key and its opposite the newer one counts: the operator changed direction.
        newest = {self.MOVES[key][0]: key for key in sorted(held, key=self._sent_ns.__getitem__)}
        pressed = tuple(self.PRESSES[key] for key in keys if key in self.PRESSES)
        axes = _axes({self.MOVES[key]: 1.0 for key in newest.values()})
        return Reading(axes, max(self._sent_ns.values(), default=None), pressed)

    def close(self) -> None:
        """Set the terminal as it was."""
        with suppress(termios.error):  # it may be gone
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)


class Gamepad:
    """A gamepad of the Xbox layout through Linux's joystick device; its left shoulder button must be held to move.

    The kernel reports changes only. A stick that is held still is silent as a radio out of reach is; so after
    `fresh_s` without any change the wish ends, and a small movement of a stick renews it.
    """

    name, fresh_s = "gamepad", 2.0
    EVENT = struct.Struct("=IhBB")
    """Of linux/joystick.h: time ms, value, type, number."""
    BUTTON, AXIS, INITIAL = 0x01, 0x02, 0x80
    FULL = 32767
    HOLD_TO_MOVE = 4
    # No triggers: until they are first touched some drivers report them as half pressed.
    STICKS: Mapping[int, Direction] = {
        0: ("y", -1), 1: ("x", -1), 3: ("yaw", -1), 4: ("z", -1), 6: ("roll", 1), 7: ("pitch", -1),
    }  # fmt: skip
    PRESSES: Mapping[int, Action] = {
        0: Action.GRIPPER, 1: Action.STOP, 2: Action.FAILURE, 3: Action.SAVE, 5: Action.TASK, 6: Action.DISCARD,
        7: Action.START,
    }  # fmt: skip
    about = (
        "hold LB to move: left stick x, y; right stick z, yaw; cross roll, pitch; A gripper, B robot/stop; "
        "start begins, Y saves, X failure, back discards, RB next task"
    )

    def __init__(self, path: str = "") -> None:
        """Open the device; "": the first one.

        Raises:
            InputError: there is none, or it may not be read.
        """
        path = path or "/dev/input/js0"
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise InputError(
                f"gamepad: {path} cannot be opened ({error.strerror}); see ls /dev/input/js*, and that you are in the "
                "group 'input'"
            ) from None
        self._levels: dict[Direction, float] = {}
        self._heard_ns: int | None = None
        self._enabled, self._rest = False, b""

    def read(self, now_ns: int, _: int | None) -> Reading:
        """Return the sticks' levels, zeros unless the button is held."""
        data = _arrived(self._descriptor, 64 * self.EVENT.size, self.name)
        if data:
            self._heard_ns = now_ns
        data = self._rest + data
        whole = len(data) - len(data) % self.EVENT.size
        self._rest = data[whole:]
        pressed = [action for event in self.EVENT.iter_unpack(data[:whole]) if (action := self._take(*event))]
        axes = _axes(self._levels) if self._enabled else np.zeros(6)
        return Reading(axes, self._heard_ns, tuple(pressed))

    def close(self) -> None:
        """Close the device."""
        os.close(self._descriptor)

    def _take(self, _: int, value: int, kind: int, number: int) -> Action | None:
        if kind & ~self.INITIAL == self.AXIS and number in self.STICKS:
            self._levels[self.STICKS[number]] = max(-1.0, value / self.FULL)
        elif kind & ~self.INITIAL == self.BUTTON and number == self.HOLD_TO_MOVE:
            self._enabled = bool(value)
        elif kind == self.BUTTON and value:  # not what was held already when the device was opened
            return self.PRESSES.get(number)
        return None


class SpaceMouse:
    """A 3Dconnexion mouse through pyspacemouse; while its cap is off the middle it reports many times a second."""

    name, fresh_s = "SpaceMouse", 0.3
    PRESSES = (Action.GRIPPER, Action.STOP)
    about = "push and turn the cap; first button gripper, second robot/stop; add keyboard to devices to mark episodes"
    MOST_REPORTS = 64
    """Taken at once, so that a reading ends whatever the mouse does."""

    def __init__(self, mouse: Any, lost: type[Exception]) -> None:
        """Read an open `mouse` of pyspacemouse in its ROS axes, which raises `lost` once it is unplugged."""
        self._mouse, self._lost = mouse, lost
        self._heard_ns: int | None = None
        self._reported_s = -1.0
        self._held: tuple[int, ...] = ()

    @classmethod
    def find(cls, model: str = "") -> SpaceMouse:
        """Open the mouse of a model; "": the first one.

        Raises:
            InputError: the package or its library is not installed, or there is no mouse.
        """
        try:
            library = importlib.import_module("pyspacemouse")
            lost = importlib.import_module("easyhid").HIDException
        except (ImportError, OSError, AttributeError) as error:
            raise InputError(
                f"spacemouse: pyspacemouse cannot be used ({error}); pip install pyspacemouse and "
                "apt install libhidapi-hidraw0"
            ) from None
        try:
            return cls(library.open(device=model or None, axis_convention="ros"), lost)
        except (RuntimeError, ValueError, OSError, AttributeError, lost) as error:
            raise InputError(
                f"spacemouse: {error} Is it plugged in, libhidapi-hidraw0 installed, and may you read /dev/hidraw*?"
            ) from None

    def read(self, now_ns: int, _: int | None) -> Reading:
        """Return the cap's deflection."""
        pressed: list[Action] = []
        for _report in range(self.MOST_REPORTS):
            try:
                state = self._mouse.read()
            except (self._lost, OSError, ValueError) as error:
                raise DeviceLost(f"the {self.name} is gone ({error}); connect it and start again") from None
            if state.t == self._reported_s:
                break
            self._reported_s, self._heard_ns = state.t, now_ns
            pressed += self._newly_pressed(tuple(state.buttons))
        axes = np.array([getattr(state, name) for name in AXES], np.float64)
        return Reading(np.clip(axes, -1.0, 1.0), self._heard_ns, tuple(pressed))

    def close(self) -> None:
        """Close the mouse."""
        self._mouse.close()

    def _newly_pressed(self, held: tuple[int, ...]) -> list[Action]:
        before, self._held = self._held or (0,) * len(held), held
        return [action for action, was, now in zip(self.PRESSES, before, held, strict=False) if now and not was]


DEVICES: Mapping[str, Callable[[str], TeleopDevice]] = {
    "keyboard": lambda _: Keyboard(),
    "gamepad": Gamepad,
    "spacemouse": SpaceMouse.find,
    "script": Script.load,
}


def open_device(text: str) -> TeleopDevice:
    """Open `NAME` or `NAME:ARGUMENT`.

    Raises:
        ConfigError: no such kind of device.
        InputError: it is not there, or cannot be used.
    """
    name, _, argument = text.partition(":")
    if name not in DEVICES:
        raise ConfigError(f"no device {name!r}{nearest(name, DEVICES)} (there are {', '.join(DEVICES)})")
    return DEVICES[name](argument)


def open_devices(texts: Sequence[str]) -> list[TeleopDevice]:
    """Open all, or none.

    Raises:
        ConfigError, InputError: as `open_device`.
    """
    opened: list[TeleopDevice] = []
    try:
        for text in texts:
            opened.append(open_device(text))
    except BaseException:
        for device in opened:
            device.close()
        raise
    return opened
