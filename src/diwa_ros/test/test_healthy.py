"""What the images' health checks run: alive is a topic on which a message comes now."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from ros_rig import DOMAIN, RosRig, rigs  # noqa: E402
from std_msgs.msg import String  # noqa: E402

pytestmark = pytest.mark.ros

SCRIPT = Path(__file__).resolve().parents[3] / "docker" / "healthy.py"


@pytest.fixture
def make_rig() -> Iterator[Callable[..., RosRig]]:
    yield from rigs(RosRig)


def healthy(seconds: str) -> subprocess.Popen[Any]:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(DOMAIN)}
    return subprocess.Popen([sys.executable, SCRIPT, "robot/state", seconds], env=environment)


def test_a_topic_that_speaks_is_alive(make_rig: Callable[..., RosRig]) -> None:
    rig = make_rig()
    publisher = rig.peer.create_publisher(String, "robot/state", 10)
    rig.peer.create_timer(0.05, lambda: publisher.publish(String(data="a state")))
    asked = healthy("60")
    rig.spin_until(lambda: asked.poll() is not None)
    assert asked.returncode == 0


def test_a_node_that_says_nothing_is_not(make_rig: Callable[..., RosRig]) -> None:
    make_rig().peer.create_publisher(String, "robot/state", 10)
    assert healthy("1").wait(60) == 1


def test_a_topic_that_nobody_has_is_not() -> None:
    assert healthy("0.2").wait(60) == 1
