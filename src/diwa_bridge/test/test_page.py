"""The page on the bridge: its tables of parameters and keys are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
pytest.importorskip("rclpy")

from diwa_bridge.arm import settings
from diwa_bridge.cameras import settings as camera_settings
from diwa_bridge.teleop import node as teleop_node
from diwa_bridge.teleop.devices import Gamepad, Keyboard
from diwa_bridge.teleop.pilot import AXES, Action

pytestmark = pytest.mark.ros
PAGE = (Path(__file__).resolve().parents[3] / "docs" / "bridge.md").read_text(encoding="utf-8")
KEYS = {
    Action.GRIPPER: "gripper opens or closes",
    Action.STOP: "`robot/stop`",
    Action.START: "an episode begins",
    Action.SAVE: "it is saved",
    Action.FAILURE: "it has failed",
    Action.DISCARD: "it is discarded",
    Action.TASK: "the next of `tasks`",
    Action.ACHIEVED: "in play: that one was achieved just now",
    Action.QUIT: "quit",
}
SPELLED = {" ": "space", "\x04": "Ctrl-D"}
BUTTONS = ("A", "B", "X", "Y", "LB", "RB", "back", "start")
"""By number, as Linux's xpad driver has them."""


def shown(default: Any) -> str:
    words = ", ".join(default) if isinstance(default, list) and isinstance(default[0], str) else str(default)
    return f"`{words.lower() if isinstance(default, bool) else words}`" if words else ""


@pytest.mark.parametrize("table", [settings.PARAMETERS, teleop_node.PARAMETERS], ids=["diwa_bridge", "diwa_teleop"])
def test_the_page_lists_every_parameter_with_its_default_range_and_meaning(table: dict[str, Any]) -> None:
    for name, parameter in table.items():
        span = "" if parameter.low is None else f"{parameter.low:g} to {parameter.high:g}"
        assert f"| `{name}` | {shown(parameter.default)} | {span} | {parameter.about} |" in PAGE


def test_the_page_names_every_parameter_of_the_cameras() -> None:
    section = PAGE.partition("## Cameras")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`([\w{},]+)`", row)}
    spelled = {name.replace("{static,wrist}", camera) for name in names for camera in camera_settings.CAMERAS}
    parts = "{width,height,rate_hz}"
    spelled = {name.replace(parts, part) for name in spelled for part in parts.strip("{}").split(",")}
    assert spelled >= camera_settings.PARAMETERS.keys()


def test_the_page_names_every_key_and_button() -> None:
    rows = {
        row[0]: row[1:] for line in PAGE.splitlines() if (row := [cell.strip() for cell in line.strip("|").split("|")])
    }
    for key, action in Keyboard.PRESSES.items():
        assert rows[KEYS[action]][0] == SPELLED.get(key, f"`{key}`"), action
    for number, action in Gamepad.PRESSES.items():
        assert rows[KEYS[action]][1] == BUTTONS[number], action
    pairs = re.findall(r"`(\w)`/`(\w)`", "".join(rows[name][0] for name in ("x, y", "z", "roll, pitch, yaw")))
    directions = [(Keyboard.MOVES[forth], Keyboard.MOVES[back]) for forth, back in pairs]
    assert directions == [((axis, 1), (axis, -1)) for axis in AXES], "the positive one first"
