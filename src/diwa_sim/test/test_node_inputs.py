"""Whatever comes in over the simulator's topics and services: no exception leaves a callback, the rules hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("diwa_msgs.msg", reason="needs a built and sourced workspace (make test)")
rclpy = pytest.importorskip("rclpy")

from ros_rig import RosRig  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402

from diwa_msgs.msg import EndEffectorDelta  # noqa: E402
from diwa_runtime.robot import RobotMode  # noqa: E402
from diwa_sim.node import SimulatorNode  # noqa: E402

pytestmark = pytest.mark.ros

SOUND = st.lists(st.floats(-0.02, 0.02), min_size=7, max_size=7)
ANY = st.lists(st.one_of(st.floats(), st.floats(-0.02, 0.02)), min_size=7, max_size=7)
COMMANDS = st.fixed_dictionaries(
    {
        "numbers": st.one_of(SOUND, ANY),
        "source": st.one_of(st.sampled_from(["policy", "teleop", ""]), st.text(max_size=80)),
        "sec": st.one_of(st.sampled_from([0, -1, 2**31 - 1]), st.integers(-(2**31), 2**31 - 1)),
        "nanosec": st.one_of(st.sampled_from([0, 10**9 - 1, 2**32 - 1]), st.integers(0, 2**32 - 1)),
        "sequence": st.one_of(st.none(), st.integers(0, 2**64 - 1)),
    }
)
SERVICES = st.sampled_from(["on_stop", "on_release", "on_recover", "on_reset"])
EVENTS = st.lists(st.one_of(COMMANDS, SERVICES, st.just("on_tick"), st.just("on_diagnostics")), max_size=25)


@pytest.fixture(scope="module")
def node() -> Iterator[SimulatorNode]:
    rig = RosRig()
    made = rig.add(SimulatorNode(**rig.options()))
    made.start()
    yield made
    made.close()
    rig.close()


def command_of(fields: dict[str, Any]) -> EndEffectorDelta:
    message = EndEffectorDelta(source=fields["source"], gripper=fields["numbers"][6])
    message.header.stamp.sec, message.header.stamp.nanosec = fields["sec"], fields["nanosec"]
    for vector, at in ((message.translation, 0), (message.rotation, 3)):
        vector.x, vector.y, vector.z = fields["numbers"][at : at + 3]
    return message


@settings(max_examples=60)
@given(EVENTS)
def test_whatever_comes_in_the_table_ticks_on_within_its_limits(node: SimulatorNode, happened: list[Any]) -> None:
    for event in [*happened, "on_tick"]:
        stopped = node._table.mode is RobotMode.STOPPED
        if isinstance(event, dict):
            node.on_command(command_of(event), {"publication_sequence_number": event["sequence"]})
        elif event in ("on_tick", "on_diagnostics"):
            getattr(node, event)()
        else:
            answer = getattr(node, event)(Trigger.Request(), Trigger.Response())
            assert answer.message
        accepted = node._env.snapshot().accepted_action
        assert abs(accepted).max() <= 1.0
        if stopped and event == "on_tick":
            assert not accepted[:6].any()
