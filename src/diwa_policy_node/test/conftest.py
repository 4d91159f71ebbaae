"""The rig as a fixture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Any]]:
    """Make rigs that are taken down when the test ends, however it ends."""
    pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
    pytest.importorskip("rclpy")
    from policy_rig import Rig
    from ros_rig import rigs

    yield from rigs(Rig)
