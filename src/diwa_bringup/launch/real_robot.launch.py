"""The Franka arm, and what is asked for around it: cameras, policy node, tele-operation."""

from pathlib import Path
from runpy import run_path
from typing import Any


def generate_launch_description() -> Any:
    """Describe it to `ros2 launch`."""
    return run_path(str(Path(__file__).absolute().with_name("stack.py")))["describe"]("real")
