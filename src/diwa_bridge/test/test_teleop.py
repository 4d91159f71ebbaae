"""Tele-operation without ROS: what the devices say, what becomes of it, and when nothing does."""

from __future__ import annotations

import os
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diwa_bridge.teleop import devices as teleop_devices
from diwa_bridge.teleop.devices import Gamepad, Keyboard, SpaceMouse, open_device, open_devices
from diwa_bridge.teleop.marks import EpisodeMarks, Mark
from diwa_bridge.teleop.pilot import AXES, Action, DeviceLost, Pilot, Reading, Shaping
from diwa_bridge.teleop.script import Script
from diwa_runtime.errors import ConfigError, DiwaError, InputError
from diwa_runtime.events import FRAMES_AFTER_SUCCESS, EventKind
from diwa_runtime.robot import RobotMode
from diwa_runtime.spec import ActionScale

MS = 1_000_000
S = 1000 * MS


def axis(name: str, level: float = 1.0) -> np.ndarray:
    return np.array([level if each == name else 0.0 for each in AXES])


class Hands:
    """A device that says what the test wants."""

    name, about, fresh_s = "hands", "", 0.2

    def __init__(self) -> None:
        self.axes, self.pressed, self.lost = np.zeros(6), list[Action](), False
        self.heard_ns: int | None = None

    def read(self, _now_ns: int, _stamp_ns: int | None) -> Reading:
        if self.lost:
            raise DeviceLost("the hands are gone")
        pressed, self.pressed = self.pressed, []
        return Reading(self.axes, self.heard_ns, tuple(pressed))

    def close(self) -> None:
        self.lost = True


class Cockpit:
    """A pilot, one pair of hands, and 10 ms from one robot state to the next."""

    def __init__(self, tail_s: float = 0.05) -> None:
        self.hands, self.now_ns = Hands(), S
        self.pilot = Pilot([self.hands], Shaping(ActionScale(0.01, 0.02), dead_zone=0.1, exponent=1.0), tail_s)
        self.gripper = 1.0
        self.state()

    def state(self, axes: np.ndarray | None = None, mode: RobotMode = RobotMode.IDLE) -> Any:
        """One robot state; `axes` are said now, None: the device says nothing new."""
        self.now_ns += 10 * MS
        if axes is not None:
            self.hands.axes, self.hands.heard_ns = axes, self.now_ns
        self.pilot.poll(self.now_ns, None)
        return self.pilot.order(mode, self.gripper, self.now_ns)


# Shaping.


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_whatever_a_gamepad_says_the_axes_stay_within_their_bounds(said: list[bytes]) -> None:
    reading_end, writing_end = os.pipe()
    pad = Gamepad(f"/proc/self/fd/{reading_end}")
    os.write(writing_end, struct.pack("=IhBB", 0, 1, 1, Gamepad.HOLD_TO_MOVE))
    for data in said:
        os.write(writing_end, data)
        assert np.abs(pad.read(1, None).axes).max() <= 1.0
    pad.close()
    os.close(reading_end)
    os.close(writing_end)


@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6).map(np.array), st.floats(0, 0.5), st.floats(1, 4))
def test_shaping_is_odd_bounded_and_still_in_the_middle(axes: np.ndarray, dead_zone: float, exponent: float) -> None:
    shaping = Shaping(ActionScale(0.004, 0.02), dead_zone, exponent)
    motion = shaping.motion(axes)
    np.testing.assert_array_equal(shaping.motion(-axes), -motion)
    assert not motion[np.abs(axes) <= dead_zone].any()
    assert (np.abs(motion) <= np.array([0.004] * 3 + [0.02] * 3)).all()
    assert (motion * axes >= 0).all()


@pytest.mark.parametrize(("exponent", "share"), [(1.0, 0.5), (2.0, 0.25), (3.0, 0.125)])
def test_half_of_what_is_beyond_the_dead_zone_is_shaped_by_the_exponent(exponent: float, share: float) -> None:
    shaping = Shaping(ActionScale(0.004, 0.02), dead_zone=0.2, exponent=exponent)
    assert shaping.motion(axis("x", 0.6))[0] == pytest.approx(0.004 * share)


def test_shaping_is_full_at_the_end_and_fine_near_the_middle() -> None:
    shaping = Shaping(ActionScale(0.004, 0.02), dead_zone=0.1, exponent=2.0)
    np.testing.assert_allclose(shaping.motion(np.array([1, -1, 0, 1, 0, -1.0])), [0.004, -0.004, 0, 0.02, 0, -0.02])
    assert shaping.motion(axis("x", 0.55))[0] == pytest.approx(0.001), "half of what is beyond, squared"
    assert 0 < shaping.motion(axis("x", 0.101))[0] < 1e-7, "no step at the edge"


# The pilot.


def test_a_wish_is_commanded_then_zeros_for_a_while_then_nothing() -> None:
    cockpit = Cockpit(tail_s=0.03)
    assert cockpit.state(axis("y")).motion.tolist() == [0, 0.01, 0, 0, 0, 0]
    orders = [cockpit.state(np.zeros(6)) for _ in range(6)]
    assert [order is not None for order in orders] == [True] * 3 + [False] * 3
    assert not any(order.motion.any() for order in orders[:3])


def test_input_that_is_not_fresh_is_no_wish() -> None:
    cockpit = Cockpit(tail_s=0.0)
    assert cockpit.state(axis("x")) is not None
    orders = [cockpit.state() for _ in range(30)]
    fresh = [order is not None and bool(order.motion.any()) for order in orders]
    assert fresh == [True] * 20 + [False] * 10, "0.2 s of 10 ms each"


@pytest.mark.parametrize("level", [np.nan, np.inf, -np.inf])
def test_a_device_that_says_what_is_not_finite_is_at_rest_and_is_named(level: float) -> None:
    cockpit = Cockpit(tail_s=0.0)
    cockpit.hands.pressed = [Action.STOP]
    cockpit.hands.axes, cockpit.hands.heard_ns = axis("x", level), cockpit.now_ns
    assert cockpit.pilot.poll(cockpit.now_ns, None) == [Action.STOP], "its buttons count"
    assert not cockpit.pilot.motion.any()
    assert (cockpit.pilot.trouble, cockpit.pilot.refused) == (
        "the hands says what is not finite; its axes do not count",
        1,
    )
    assert cockpit.state(axis("x")) is not None
    assert cockpit.pilot.trouble == ""


def test_a_device_that_vanishes_commands_nothing_at_once() -> None:
    cockpit = Cockpit(tail_s=1.0)
    assert cockpit.state(axis("x")) is not None
    cockpit.hands.lost = True
    assert cockpit.state() is None
    assert cockpit.pilot.lost == "the hands are gone"
    cockpit.hands.lost = False
    assert cockpit.state(axis("x")) is None, "the operator is told; nothing moves by itself when it comes back"


@pytest.mark.parametrize("mode", [RobotMode.STOPPED, RobotMode.FAULT])
def test_nothing_is_commanded_where_the_arm_does_not_follow_nor_after_it_before_hands_rest(mode: RobotMode) -> None:
    cockpit = Cockpit()
    assert cockpit.state(axis("x")) is not None
    assert cockpit.state(axis("x"), mode) is None
    assert cockpit.state(axis("x")) is None
    assert cockpit.pilot.needs_rest
    assert cockpit.state(np.zeros(6)) is None
    assert cockpit.state(axis("x"), RobotMode.MOVING) is not None


def test_guided_by_hand_only_the_gripper_is_commanded_and_only_when_it_is_pressed() -> None:
    cockpit = Cockpit(tail_s=0.03)
    assert cockpit.state(axis("x")).motion.any()
    assert cockpit.state(axis("x"), RobotMode.GUIDED) is None, "neither the stick nor what it said before counts"
    cockpit.hands.pressed = [Action.GRIPPER]
    orders = [cockpit.state(axis("x"), RobotMode.GUIDED) for _ in range(6)]
    assert [order is not None for order in orders] == [True] * 4 + [False] * 2, "as long as any wish"
    assert not any(order.motion.any() for order in orders[:4])
    assert {order.gripper for order in orders[:4]} == {-1.0}
    cockpit.gripper = -1.0
    assert cockpit.state(np.zeros(6), RobotMode.GUIDED) is None
    cockpit.hands.pressed = [Action.GRIPPER]
    assert cockpit.state(np.zeros(6), RobotMode.GUIDED).gripper == 1.0, "and back, from what the robot says"
    assert cockpit.state(axis("x")) is None, "hands must rest, here as after a stop"
    assert cockpit.state(np.zeros(6)) is not None, "the gripper's wish, still"
    assert cockpit.state(axis("x")).motion.any()


def test_a_gripper_pressed_while_stopped_moves_nothing_when_a_hand_takes_the_arm() -> None:
    cockpit = Cockpit(tail_s=1.0)
    cockpit.hands.pressed = [Action.GRIPPER]
    assert cockpit.state(np.zeros(6), RobotMode.STOPPED) is None
    assert cockpit.state(np.zeros(6), RobotMode.GUIDED) is None


def test_hands_must_rest_before_the_first_command() -> None:
    hands = Hands()
    hands.axes, hands.heard_ns = axis("x"), S
    pilot = Pilot([hands], Shaping())
    pilot.poll(S, None)
    assert pilot.order(RobotMode.IDLE, 1.0, S) is None


def test_the_gripper_keeps_its_wish_and_never_contradicts_who_moved_it_meanwhile() -> None:
    cockpit = Cockpit(tail_s=0.03)
    cockpit.gripper = -1.0
    cockpit.state(np.zeros(6))
    assert cockpit.state(axis("x")).gripper == -1.0, "not opened by the first touch"
    cockpit.hands.pressed = [Action.GRIPPER]
    assert cockpit.state(axis("x")).gripper == 1.0
    assert cockpit.state(axis("x")).gripper == 1.0, "although the robot still says closed"
    for _ in range(5):
        cockpit.state(np.zeros(6))
    cockpit.gripper = -1.0
    cockpit.state(np.zeros(6))
    assert cockpit.state(axis("x")).gripper == -1.0, "a policy closed it"


def test_the_gripper_moves_while_the_arm_rests() -> None:
    cockpit = Cockpit()
    cockpit.hands.pressed = [Action.GRIPPER]
    order = cockpit.state(np.zeros(6))
    assert (order.motion.any(), order.gripper) == (False, -1.0)


def test_devices_add_up_and_presses_come_through() -> None:
    left, right = Hands(), Hands()
    left.axes, right.axes = axis("x", 0.8), axis("x", 0.8) + axis("yaw", -1.0)
    left.heard_ns = right.heard_ns = S
    left.pressed, right.pressed = [Action.START], [Action.GRIPPER, Action.STOP]
    pilot = Pilot([left, right], Shaping(ActionScale(0.01, 0.02), 0.0, 1.0))
    assert pilot.poll(S, None) == [Action.START, Action.STOP]
    np.testing.assert_allclose(pilot.motion, [0.01, 0, 0, 0, 0, -0.02])


def test_a_pilot_that_is_closed_reads_and_commands_nothing() -> None:
    cockpit = Cockpit(tail_s=1.0)
    assert cockpit.state(axis("x")) is not None
    cockpit.pilot.close()
    assert cockpit.state(axis("x")) is None
    assert cockpit.pilot.lost == "", "a device that was closed is not read again"


# The gamepad.


class Pad:
    """A gamepad at the other end of a pipe."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDWR)
        self.pad = Gamepad(str(path))

    def says(self, kind: int, number: int, value: int) -> None:
        os.write(self._descriptor, struct.pack("=IhBB", 0, value, kind, number))

    def unplug(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def pad(tmp_path: Path) -> Iterator[Pad]:
    made = Pad(tmp_path / "js0")
    yield made
    made.pad.close()


def test_the_gamepad_moves_only_while_its_button_is_held(pad: Pad) -> None:
    assert pad.pad.read(0, None).heard_ns is None
    pad.says(2, 1, -32767)
    assert not pad.pad.read(1, None).axes.any()
    pad.says(1, 4, 1)
    reading = pad.pad.read(2, None)
    np.testing.assert_array_equal(reading.axes, axis("x"))
    np.testing.assert_array_equal(pad.pad.read(3, None).axes, axis("x"))
    assert pad.pad.read(4, None).heard_ns == 2, "silence makes nothing fresh"
    pad.says(1, 4, 0)
    assert not pad.pad.read(5, None).axes.any()


def test_the_gamepads_axes_and_buttons_are_those_of_the_table(pad: Pad) -> None:
    pad.says(1, 4, 1)
    for number, name, sign in ((0, "y", -1), (1, "x", -1), (3, "yaw", -1), (4, "z", -1), (6, "roll", 1)):
        pad.says(2, number, 32767)
        np.testing.assert_array_equal(pad.pad.read(1, None).axes, axis(name, sign), err_msg=name)
        pad.says(2, number, 0)
    for number in pad.pad.PRESSES:
        pad.says(1, number, 1)
        pad.says(1, number, 0)
    assert pad.pad.read(1, None).pressed == tuple(pad.pad.PRESSES.values()), "each once, when it goes down"


def test_what_the_gamepad_held_when_it_was_opened_is_no_press_but_a_level(pad: Pad) -> None:
    for kind, number, value in ((0x81, 7, 1), (0x81, 4, 1), (0x82, 1, -32768), (0x82, 2, -32767)):
        pad.says(kind, number, value)
    reading = pad.pad.read(1, None)
    assert reading.pressed == ()
    np.testing.assert_array_equal(reading.axes, axis("x"))


def test_half_an_event_waits_for_its_other_half(pad: Pad) -> None:
    event = struct.pack("=IhBB", 0, 1, 1, 7)
    os.write(pad._descriptor, event[:5])
    assert pad.pad.read(1, None).pressed == ()
    os.write(pad._descriptor, event[5:])
    assert pad.pad.read(2, None).pressed == (Action.START,)


def test_a_gamepad_that_is_unplugged_is_lost(pad: Pad) -> None:
    pad.unplug()
    with pytest.raises(DeviceLost, match="gamepad is gone"):
        pad.pad.read(1, None)


def test_a_gamepad_that_the_kernel_gives_no_more_is_lost(tmp_path: Path) -> None:
    """A folder opens as a device does, and refuses to be read as one that is gone does."""
    gamepad = Gamepad(str(tmp_path))
    with pytest.raises(DeviceLost, match="gamepad is gone"):
        gamepad.read(1, None)
    gamepad.close()


# The keyboard.


class Terminal:
    """A keyboard on a terminal whose other end types."""

    def __init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.keyboard = Keyboard(self.slave)

    def types(self, text: str, now_ns: int) -> Reading:
        if text:
            os.write(self.master, text.encode())
        return self.keyboard.read(now_ns, None)

    def close(self) -> None:
        for descriptor in (self.master, self.slave):
            os.close(descriptor)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    yield made
    made.close()


def test_a_key_held_moves_and_a_key_let_go_stops(terminal: Terminal) -> None:
    moving = [bool(terminal.types("w" if at < 10 else "", at * 30 * MS).axes.any()) for at in range(20)]
    assert moving == [True] * 15 + [False] * 5, "0.15 s after the last time it came"


def test_keys_add_up_and_of_opposite_ones_the_newer_counts(terminal: Terminal) -> None:
    np.testing.assert_array_equal(terminal.types("wau", 0).axes, axis("x") + axis("y") + axis("yaw"))
    np.testing.assert_array_equal(terminal.types("s", 10 * MS).axes, axis("x", -1) + axis("y") + axis("yaw"))
    np.testing.assert_array_equal(terminal.types("", 155 * MS).axes, axis("x", -1))
    np.testing.assert_array_equal(terminal.types("w", 156 * MS).axes, axis("x"))
    np.testing.assert_array_equal(terminal.types("s", 157 * MS).axes, axis("x", -1))


def test_every_axis_has_a_key_for_each_direction() -> None:
    assert sorted(Keyboard.MOVES.values()) == sorted((name, sign) for name in AXES for sign in (1, -1))
    assert not set(Keyboard.MOVES) & set(Keyboard.PRESSES)
    assert set(Keyboard.PRESSES.values()) == set(Action)


def test_keys_press_and_arrows_and_alt_do_not(terminal: Terminal) -> None:
    assert terminal.types("b v", 0).pressed == (Action.START, Action.STOP, Action.SAVE)
    reading = terminal.types("\x1b[A\x1b[1;5D\x1bOP\x1bOj\x1bw\x1b[15~", 1)
    assert (reading.pressed, reading.heard_ns) == ((), None)


def test_the_terminal_is_as_it_was_afterwards_and_ctrl_c_meanwhile(terminal: Terminal) -> None:
    during = termios.tcgetattr(terminal.slave)[3]
    assert (during & termios.ICANON, during & termios.ECHO) == (0, 0)
    assert during & termios.ISIG
    terminal.keyboard.close()
    assert termios.tcgetattr(terminal.slave) == terminal.before


def test_a_terminal_that_is_closed_is_lost(terminal: Terminal) -> None:
    os.close(terminal.master)
    with pytest.raises(DeviceLost, match="keyboard is gone"):
        terminal.keyboard.read(0, None)
    terminal.keyboard.close()
    terminal.master = os.open(os.devnull, os.O_RDONLY)


# The SpaceMouse.


class Unplugged(Exception):
    """What a mouse's library raises."""


class Mouse:
    """A mouse as pyspacemouse gives it: one report a reading, one state that changes."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(t=-1.0, **dict.fromkeys(AXES, 0.0), buttons=[0, 0])
        self.reports: list[dict[str, Any]] = []

    def read(self) -> Any:
        if self.reports:
            vars(self.state).update(self.reports.pop(0))
        return self.state

    def close(self) -> None:
        pass


def test_all_reports_of_a_spacemouse_are_taken_and_silence_is_not_fresh() -> None:
    mouse = Mouse()
    device = SpaceMouse(mouse, Unplugged)
    assert device.read(1, None).heard_ns is None
    mouse.reports = [{"t": 0.1, "x": 0.5}, {"t": 0.2, "yaw": -1.2}, {"t": 0.3, "buttons": [1, 0]}]
    mouse.reports += [{"t": 0.1 * number, "buttons": held} for number, held in ((4, [1, 1]), (5, [0, 0]), (6, [1, 0]))]
    reading = device.read(2, None)
    np.testing.assert_array_equal(reading.axes, axis("x", 0.5) + axis("yaw", -1.0))
    assert reading.pressed == (Action.GRIPPER, Action.STOP, Action.GRIPPER)
    silent = device.read(3, None)
    assert (silent.heard_ns, silent.pressed) == (2, ())


def test_a_spacemouse_that_is_unplugged_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    mouse = Mouse()

    def fail() -> None:
        raise Unplugged("-1")

    monkeypatch.setattr(mouse, "read", fail)
    with pytest.raises(DeviceLost, match="SpaceMouse is gone"):
        SpaceMouse(mouse, Unplugged).read(1, None)


# The script.


SCRIPT = """
- {at_s: 0.1, press: [start]}
- {at_s: 0.2, x: 0.5, yaw: -1, press: gripper}
- {at_s: 0.4}
- {at_s: 0.5, press: [save, quit]}
"""
TABLE = "at_s,x,yaw,press\n0.1,,,start\n0.2,0.5,-1,gripper\n0.4,,,\n0.5,,,save quit\n"


@pytest.mark.parametrize(("name", "text"), [("a.yaml", SCRIPT), ("a.csv", TABLE)])
def test_a_script_goes_by_the_robots_clock_from_the_first_observation(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    script = Script.load(str(tmp_path / name))
    assert script.read(5 * S, None).heard_ns is None
    readings = {at: script.read(7, 40 * S + at * 100 * MS) for at in range(6)}
    assert [at for at, reading in readings.items() if reading.axes.any()] == [2, 3]
    np.testing.assert_array_equal(readings[3].axes, axis("x", 0.5) + axis("yaw", -1))
    assert {at: reading.pressed for at, reading in readings.items() if reading.pressed} == {
        1: (Action.START,), 2: (Action.GRIPPER,), 5: (Action.SAVE, Action.QUIT)
    }  # fmt: skip
    assert script.read(7, 41 * S).pressed == (), "each once"


def test_a_script_loses_no_press_to_a_slow_robot(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(SCRIPT)
    script = Script.load(str(tmp_path / "a.yaml"))
    script.read(0, S)
    assert script.read(0, 3 * S).pressed == (Action.START, Action.GRIPPER, Action.SAVE, Action.QUIT)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {at_s: 0.1, xx: 1}", "row 1: unknown column 'xx'; did you mean 'x'"),
        ("- {at_s: 0.1, x: 1.5}", r"x is 1.5, must be a number in \[-1, 1\]"),
        ("- {at_s: 0.1, x: .nan}", "x is nan"),
        ("- {at_s: 0.1, press: [strat]}", "cannot press 'strat'; did you mean 'start'"),
        ("- {at_s: 0.2}\n- {at_s: 0.2}", "grow from row to row"),
        ("- {at_s: 0.0, x: 1}", "above 0"),
        ("- {x: 1}", "with at_s"),
        ("x: 1", "a list of rows"),
        ("- [", "neither YAML nor CSV"),
        ("", "a list of rows"),
        ("- {at_s: 1.0e+300}", r"at_s is 1e\+300, must be a number up to 1e\+06"),
        (f"- {{at_s: 0.1, x: 0x{'f' * 5000}}}", r"x is too large, must be a number in \[-1, 1\]"),
        ("[" * 5000, "neither YAML nor CSV"),
        ("- &a {at_s: 0.1, press: [*a]}", "an alias lies within what it names"),
        ("- {at_s: 0.1, press: [" + "x" * 10_000 + "]}", "row 1: cannot press 'xxx"),
    ],
)
def test_a_script_that_cannot_be_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        open_device(f"script:{tmp_path}/a.yaml")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a list of rows"),
        ("at_s,x\n", "a list of rows"),
        ("at_s,x\n0.1,nan\n", "x is nan"),
        ("at_s,x\n0.1,1e400\n", "x is inf"),
        ("at_s,x\n0.1,0.5,0.5\n", "more cells than the head"),
        ("at_s,x\n0.1," + "9" * 200_000 + "\n", "neither YAML nor CSV"),
        ("at_s,x\n0.1,\0\n", "neither YAML nor CSV"),
        ("a" * 10_000 + "\n0.1\n", "with at_s"),
    ],
    ids=["empty", "a head alone", "nan", "inf", "too many cells", "a huge cell", "a zero byte", "no such head"],
)
def test_a_table_that_cannot_be_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        open_device(f"script:{tmp_path}/a.csv")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400 + len(str(tmp_path))


def test_a_pipe_in_place_of_a_script_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.yaml")
    with pytest.raises(InputError, match=r"a\.yaml cannot be read \(not a regular file"):
        open_device(f"script:{tmp_path}/a.yaml")


# What is not there.


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("script:/nowhere.yaml", InputError, "/nowhere.yaml cannot be read"),
        ("gamepad:/nowhere/js0", InputError, "/nowhere/js0 cannot be opened .* group 'input'"),
        ("joystick", ConfigError, "no device 'joystick'.* gamepad"),
    ],
)
def test_a_device_that_is_not_there_is_one_clear_line(text: str, error: type[DiwaError], message: str) -> None:
    with pytest.raises(error, match=message):
        open_device(text)


def test_a_missing_spacemouse_package_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspacemouse", None)
    with pytest.raises(InputError, match=r"pyspacemouse cannot be used .*; pip install pyspacemouse"):
        open_device("spacemouse")


def test_a_spacemouse_that_is_not_plugged_in_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_none(**_: object) -> None:
        raise RuntimeError("No connected or supported devices found.")

    monkeypatch.setitem(sys.modules, "pyspacemouse", SimpleNamespace(open=open_none))
    monkeypatch.setitem(sys.modules, "easyhid", SimpleNamespace(HIDException=Unplugged))
    with pytest.raises(InputError, match=r"No connected or supported devices found\. Is it plugged in"):
        open_device("spacemouse")


def test_a_keyboard_needs_a_terminal() -> None:
    with open(os.devnull) as nothing, pytest.raises(InputError, match="not a terminal"):
        Keyboard(nothing.fileno())


def test_all_devices_open_or_none_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands()
    opening: dict[str, Callable[[str], Any]] = {**teleop_devices.DEVICES, "hands": lambda _: hands}
    monkeypatch.setattr(teleop_devices, "DEVICES", opening)
    with pytest.raises(InputError):
        open_devices(["hands", "script:/nowhere.yaml"])
    assert hands.lost, "closed again"


# Marks.

MARKING = [Action.START, Action.SAVE, Action.FAILURE, Action.DISCARD, Action.TASK, Action.ACHIEVED]


@given(
    st.lists(st.sampled_from([*MARKING, *range(FRAMES_AFTER_SUCCESS + 2)]), max_size=30),
    st.lists(st.sampled_from(["", "a", "b"]), max_size=3),
)
def test_whatever_is_pressed_the_marks_cut_as_the_operator_was_told(
    presses: list[Action | int], tasks: list[str]
) -> None:
    """Read the marks as `ingest` does, and compare with what the counts say; a number is so many robot states."""
    marks_module = pytest.importorskip("diwa_trainer.ingest.marks")
    marks = EpisodeMarks(tasks)
    published: list[Mark] = []
    for action in presses:
        if isinstance(action, int):
            published += [mark for _ in range(action) for mark in marks.state()]
            continue
        before = (marks.running, dict(marks.ended))
        told = marks.press(action)
        assert told.text
        if told.refused:
            assert (told.marks, before) == ((), (marks.running, marks.ended)), "refused means nothing happened"
        published += told.marks
    closing = marks.close()
    published += closing.marks
    assert marks.running is None
    assert marks.close().marks == (), "closed is closed"
    cuts = marks_module.cut(marks_module.Event(i, int(m.kind), m.task) for i, m in enumerate(published))
    assert not cuts.stray
    assert all(span.end < marks_module.FOREVER for span in cuts.spans), "nothing is left open"
    kept = [span for span in cuts.spans if not span.discarded]
    assert marks.ended["discarded"] == len(cuts.spans) - len(kept)
    assert marks.ended["failed"] == sum(span.outcome == "failure" for span in kept)
    assert marks.ended["saved"] + marks.ended["left"] == sum(span.outcome != "failure" for span in kept)
    successes = sum(m.kind is EventKind.SUCCESS for m in published)
    assert successes == sum(len(span.marks) for span in cuts.spans)
    assert successes - sum(not span.task and len(span.marks) for span in cuts.spans) == sum(
        span.outcome == "success" for span in kept
    )


def saved_demonstration() -> EpisodeMarks:
    """Whose SUCCESS is out."""
    marks = EpisodeMarks(["open_drawer", ""])
    marks.press(Action.START)
    marks.press(Action.TASK)
    saved = marks.press(Action.SAVE)
    assert saved.marks == ((EventKind.SUCCESS, "open_drawer"),), "not of the next task"
    assert "open_drawer saved (1 so far)" in saved.text
    return marks


def test_a_demonstration_goes_on_for_some_states_after_its_success() -> None:
    marks = EpisodeMarks(["open_drawer", ""])
    assert marks.press(Action.SAVE).refused
    assert marks.press(Action.START).marks == ((EventKind.START, "open_drawer"),)
    marks = saved_demonstration()
    after = [marks.state() for _ in range(20)]
    assert [index for index, said in enumerate(after, 1) if said] == [FRAMES_AFTER_SUCCESS]
    assert after[FRAMES_AFTER_SUCCESS - 1] == ((EventKind.END, "open_drawer"),)
    demonstrations = pytest.importorskip("diwa_sim.demonstrations")
    assert demonstrations.FRAMES_AFTER_SUCCESS == FRAMES_AFTER_SUCCESS


def test_what_is_saved_stays_saved_whatever_is_pressed_before_its_end() -> None:
    marks = saved_demonstration()
    marks.state()
    for action in (Action.DISCARD, Action.FAILURE, Action.SAVE):
        assert marks.press(action).refused, action
    assert marks.press(Action.START).marks == ((EventKind.START, ""),), "which ends the one before"
    assert not any(marks.state() for _ in range(20)), "no END that would end the new one"
    assert marks.close().marks == ((EventKind.DISCARD, ""),)
    quitter = saved_demonstration()
    quitter.state()
    assert quitter.close().marks == ((EventKind.END, "open_drawer"),)
    assert quitter.state() == ()


def test_play_is_saved_at_once() -> None:
    marks = EpisodeMarks([""])
    assert marks.press(Action.START).marks == ((EventKind.START, ""),)
    assert marks.press(Action.FAILURE).refused
    assert marks.press(Action.SAVE).marks == ((EventKind.END, ""),), "play succeeds at nothing"


def test_what_play_achieves_is_marked_by_the_chosen_task_and_play_goes_on() -> None:
    marks = EpisodeMarks(["", "open_drawer"])
    assert marks.press(Action.ACHIEVED).refused, "no episode runs"
    marks.press(Action.START)
    assert marks.press(Action.ACHIEVED).refused, "no task is chosen"
    marks.press(Action.TASK)
    assert marks.press(Action.ACHIEVED).marks == ((EventKind.SUCCESS, "open_drawer"),)
    assert marks.press(Action.SAVE).marks == ((EventKind.END, ""),), "it was play"
    marks.press(Action.START)
    told = marks.press(Action.ACHIEVED)
    assert told.refused
    assert "save it instead" in told.text, "a demonstration ends with its success"


def test_failure_discard_and_a_start_over_a_running_episode_say_so() -> None:
    marks = EpisodeMarks(["a"])
    marks.press(Action.START)
    again = marks.press(Action.START)
    assert again.marks == ((EventKind.START, "a"),)
    assert "ends here, its outcome unknown" in again.text
    assert marks.press(Action.FAILURE).marks == ((EventKind.FAILURE, "a"), (EventKind.END, "a"))
    marks.press(Action.START)
    assert marks.press(Action.DISCARD).marks == ((EventKind.DISCARD, "a"),)
    marks.press(Action.START)
    assert marks.close().marks == ((EventKind.DISCARD, "a"),)
    assert marks.ended == {"saved": 0, "failed": 1, "discarded": 2, "left": 1}
