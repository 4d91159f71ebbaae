"""The texts of DiWA's own message definitions, for reading and writing bags where ROS is not installed.

The files of `diwa_msgs` are the one source: no copy is kept. They are found beside this package in the source tree,
else where colcon installed them (AMENT_PREFIX_PATH).
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from diwa_runtime.errors import InputError

PACKAGE = "diwa_msgs"


def message_definitions() -> dict[str, str]:
    """Return the text of each message by its full name: ``{"diwa_msgs/msg/RobotState": "# One snapshot..."}``.

    Raises:
        InputError: diwa_msgs is neither in the source tree nor in a sourced workspace.
    """
    for folder in message_folders():
        texts = {f"{PACKAGE}/msg/{p.stem}": p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.msg"))}
        if texts:
            return texts
    raise InputError(
        f"the message definitions of {PACKAGE} are not to be found; run from the source tree or source "
        "install/setup.bash first"
    )


def message_class(kind: str) -> Any:
    """Return the class of a ROS message type such as ``diwa_msgs/msg/RobotState``; for processes that have ROS.

    Raises:
        InputError: there is none of that name here.
    """
    package, _, name = kind.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError, TypeError, ValueError):
        raise InputError(f"{kind}: no message type of that name here; source the workspace that has it") from None


def message_folders() -> list[Path]:
    """Return the folders in which the definitions may be, the most trusted first."""
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    source = Path(__file__).resolve().parents[2] / PACKAGE / "msg"
    return [source, *(prefix / "share" / PACKAGE / "msg" for prefix in prefixes)]
